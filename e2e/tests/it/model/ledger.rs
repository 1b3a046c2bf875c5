//! The relay's real ledger in SQLite, in memory where the system has a folder for that. One robot of
//! its own for every world, so that many worlds share one file.

use std::path::Path;
use std::rc::Rc;

use brrbrr_proto::id::{CommandId, Cursor, Epoch, RobotId, Seq};
use brrbrr_proto::link::relay::Ledger as Position;
use brrbrr_proto::seal::Secret;
use brrbrr_relay::catalog::sqlite::SqliteCatalog;
use brrbrr_relay::catalog::{
    Cancellation, Catalog as _, CatalogError, Change, LedgerEntry, LedgerUpdate, NewCommand, Page,
    Submitted, Transition,
};
use jiff::Timestamp;
use tokio::runtime::{Builder, Runtime};

/// The file with the ledgers.
pub struct Store {
    runtime: Runtime,
    catalog: SqliteCatalog,
    _folder: tempfile::TempDir,
}

impl Store {
    pub fn open() -> Rc<Self> {
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() {
            tempfile::tempdir_in(memory)
        } else {
            tempfile::tempdir()
        };
        let folder = folder.expect("a folder");
        let catalog = SqliteCatalog::open(&folder.path().join("catalog")).expect("opens");
        Rc::new(Self {
            runtime: Builder::new_current_thread()
                .enable_time()
                .build()
                .expect("a runtime"),
            catalog,
            _folder: folder,
        })
    }

    fn wait<T>(&self, call: impl Future<Output = Result<T, CatalogError>>) -> T {
        self.runtime.block_on(call).expect("the ledger answers")
    }
}

/// One robot's ledger.
pub struct Ledger {
    store: Rc<Store>,
    pub robot: RobotId,
}

impl Ledger {
    pub fn new(store: &Rc<Store>, seed: u64) -> Self {
        let secret = Secret::new([7; 32]);
        let name = format!("robot of seed {seed}");
        let add = store.catalog.add_robot(&name, 1, None, &secret);
        Self {
            robot: store.wait(add).id,
            store: Rc::clone(store),
        }
    }

    /// `None` where the key belongs to another order, or too many are unfinished.
    pub fn submit(&self, command: NewCommand, offered: bool) -> Option<Submitted> {
        let submit = self.store.catalog.accept(command, offered);
        match self.store.runtime.block_on(submit) {
            Ok(entry) => Some(entry),
            Err(CatalogError::Conflict(_) | CatalogError::Full(_)) => None,
            Err(error) => panic!("{error}"),
        }
    }

    pub fn cancel(&self, id: CommandId, cancel: NewCommand, offered: bool) -> Cancellation {
        self.store
            .wait(self.store.catalog.cancel(id, cancel, offered))
    }

    pub fn expire(&self, now: Timestamp) -> Vec<LedgerEntry> {
        self.store.wait(self.store.catalog.expire(now, 4))
    }

    pub fn offer(&self, from: Seq, limit: usize) -> Vec<LedgerEntry> {
        let offer = self.store.catalog.offer(self.robot, from, limit);
        self.store.wait(offer)
    }

    pub fn mark_sent(&self, epoch: Epoch, from: Seq, to: Seq, at: Timestamp) {
        let mark = self
            .store
            .catalog
            .mark_sent(self.robot, epoch, from, to, at);
        self.store.wait(mark);
    }

    pub fn mark_delivered(&self, cursor: Cursor) {
        let mark = self.store.catalog.mark_delivered(self.robot, cursor);
        self.store.wait(mark);
    }

    pub fn position(&self) -> Position {
        let stream = self.store.wait(self.store.catalog.down_stream(self.robot));
        Position {
            epoch: stream.epoch,
            acked: stream.acked,
            next: stream.next,
        }
    }

    pub fn applied(&self, epoch: Epoch) -> Seq {
        self.store
            .wait(self.store.catalog.applied(self.robot, epoch))
    }

    pub fn apply(
        &self,
        applied: Cursor,
        updates: Vec<(LedgerUpdate, Timestamp)>,
    ) -> Vec<(Change, LedgerEntry)> {
        let apply = self.store.catalog.apply(self.robot, applied, updates);
        self.store.wait(apply)
    }

    pub fn all(&self) -> Vec<(LedgerEntry, Vec<Transition>)> {
        let page = Page {
            limit: usize::MAX,
            ..Page::default()
        };
        let entries = self
            .store
            .wait(self.store.catalog.commands(self.robot, page));
        let with_history = |entry: LedgerEntry| {
            self.store
                .wait(self.store.catalog.command(entry.command.id))
        };
        entries.into_iter().map(with_history).collect()
    }
}

impl Drop for Ledger {
    /// The next world starts with an empty ledger.
    fn drop(&mut self) {
        let remove = self.store.catalog.remove_robot(self.robot);
        // A world that has failed says so itself.
        self.store.runtime.block_on(remove).ok();
    }
}
