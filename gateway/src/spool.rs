//! The spool: durable storage for what the robot says until the relay has it, and for the commands
//! that the relay sent until they have ended.
//!
//! It promises:
//! - A call that writes resolves only after its rows are on the disk (fsync). Rows written by one
//!   call become durable together or not at all.
//! - Positions count from 1 without holes within an epoch, also over restarts and power cuts.
//! - A row is deleted only after [`Spool::release`] named a position beyond it.
//! - What is read back is durable: [`Spool::read`] never shows a row that a power cut could take.
//! - A message that names its source is written once, however often it is delivered, as long as
//!   its name is among the last [`SOURCES_KEPT`].
//!
//! It relies on:
//! - one process at a time using the folder (SQLite's exclusive lock sees to it);
//! - a disk that has what it says it has synced.
//!
//! One thread owns the database. It takes all requests that wait into one transaction, syncs once,
//! and then answers them all (group commit). A lone request is never held back for others.

mod commands;
mod format;
mod health;
mod images;
mod log;
mod opening;
mod pages;
mod repair;
mod retention;
mod salvage;
mod shedding;
mod source;
mod sqlite;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use brrbrr_proto::id::{CommandId, Cursor, Epoch, Seq};
use brrbrr_proto::live::Status;
use brrbrr_proto::time::WallClock;
use brrbrr_proto::up::{Item, MAX_RECORD_BYTES, Progress, Record};
use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

pub use self::commands::{
    CommandChange, HandOver, KeptCommand, Origin, Reached, StoredCommand, Transition,
};
pub use self::health::{Gap, Health};
use self::repair::Repair;
pub use self::source::MAX_PROGRAM_SOURCE_BYTES;
use self::writer::{Request, Ticketed, Writer};

/// How many requests may wait for the spool's thread. More callers than that wait for their turn:
/// the disk is then slower than the robot, and that must be felt at the source.
pub const REQUESTS_MAX: usize = 1024;

/// How many names of message sources are remembered, of the robot's and of those of programs on the
/// board each. A broker delivers again only what it had not
/// yet seen acknowledged, which is less than an adapter's prefetch.
pub const SOURCES_KEPT: u32 = 4096;

/// How many ended commands are remembered, so that a command that is sent again is known.
pub const ENDED_COMMANDS_KEPT: u32 = 1024;

/// The longest name of a message's source, in bytes.
pub const MAX_SOURCE_BYTES: usize = 256;

/// How long an idle spool keeps what was released. A crash within it costs sending those records
/// again, which the relay knows how to take.
pub const RELEASE_DELAY: Duration = Duration::from_secs(2);

/// How often the latest status is written at most, to spare the flash.
pub const STATUS_DELAY: Duration = Duration::from_secs(5);

/// Why the spool did not do what it was asked.
#[derive(Debug, Clone, Error)]
pub enum SpoolError {
    /// A record is larger than the link can carry.
    #[error("record of {0} bytes, the limit is {MAX_RECORD_BYTES}")]
    RecordTooLong(usize),
    /// The name of a message's source is too long to be remembered.
    #[error("message id of {0} bytes, the limit is {MAX_SOURCE_BYTES}")]
    SourceTooLong(usize),
    /// A record or command cannot be encoded.
    #[error("cannot encode for the spool: {0}")]
    Encode(#[from] postcard::Error),
    /// The disk is full.
    #[error("the disk is full, free some space at {}", .0.display())]
    DiskFull(PathBuf),
    /// The disk has less free space than it must keep, and the spool has only its share left.
    #[error(
        "the disk of {} has less than {} MiB free, free some space", .path.display(),
        .floor / (1024 * 1024)
    )]
    BelowFloor {
        /// Which file.
        path: PathBuf,
        /// What the disk must have free, in bytes.
        floor: u64,
    },
    /// The budget has no room for it, and nothing is left that could make way.
    #[error(
        "the spool at {} has no room for {wanted} bytes within its budget of {budget} bytes, \
         raise the budget or send less at once", path.display()
    )]
    Full {
        /// Which file.
        path: PathBuf,
        /// About how much was to be written.
        wanted: u64,
        /// What the spool may take.
        budget: u64,
    },
    /// Another process uses the folder.
    #[error("{} is used by another process, is the gateway running already", .0.display())]
    Locked(PathBuf),
    /// The file was deleted or replaced while it was in use.
    #[error(
        "the spool at {} was deleted or replaced while it was in use and is being restored, \
         try again in a second", .0.display()
    )]
    Misplaced(PathBuf),
    /// The database did not do what it was asked.
    #[error("cannot {doing} the spool at {}: {reason}", path.display())]
    Database {
        /// What was tried.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// What SQLite said.
        reason: Arc<rusqlite::Error>,
    },
    /// The database holds something that this program did not write.
    #[error("the spool at {} holds something that cannot be read: {what}", path.display())]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// What cannot be read.
        what: String,
    },
    /// The database was written by a newer version of this program.
    #[error("the spool at {} has format {found}, this version reads up to {known}", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest format known here.
        known: i64,
    },
    /// The file or folder cannot be used.
    #[error("cannot {doing} {}: {reason}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        reason: Arc<std::io::Error>,
    },
    /// The operating system gave no random number for a new epoch.
    #[error("no random number to be had for a new epoch: {0}")]
    NoRandomness(getrandom::Error),
    /// The spool was closed.
    #[error("the spool is closed")]
    Closed,
}

impl SpoolError {
    /// Whether it is a matter of the room that there is, and not of a disk that does not work.
    const fn is_for_want_of_room(&self) -> bool {
        matches!(self, Self::BelowFloor { .. } | Self::Full { .. })
    }

    /// What is damaged, where that is the reason.
    fn damage(&self) -> Option<&str> {
        if let Self::Corrupt { what, .. } = self {
            Some(what)
        } else {
            None
        }
    }

    /// Whether the same thing would be refused for ever.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        matches!(
            self,
            Self::RecordTooLong(_) | Self::SourceTooLong(_) | Self::Encode(_)
        )
    }
}

/// How much of the disk the spool may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most that it takes on the disk, in bytes, its log included. When it is nearly full, what
    /// matters least makes way: see [`Health`]. Less than [`Limits::SMALLEST_BUDGET`] counts as
    /// that.
    pub max_bytes: u64,
    /// The file does not grow while the disk has less than this free, in bytes, and is shrunk by
    /// what is lacking, down to one part in [`Limits::SHARE`] of the budget. Zero for no floor.
    pub min_free_bytes: u64,
}

impl Default for Limits {
    /// 256 MiB, which is more than a day of records each tenth of a second, and a floor of 64 MiB.
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            max_bytes: 256 * MIB,
            min_free_bytes: 64 * MIB,
        }
    }
}

/// The answer of every method.
pub type Result<T> = std::result::Result<T, SpoolError>;

/// The name that a message's sender gave it, unique among the messages of one source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub String);

/// What is written in one piece: all of it or nothing.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// The message it comes from. If that message was written before, nothing is written now.
    pub source: Option<SourceId>,
    /// Steps of stored commands.
    pub changes: Vec<CommandChange>,
    /// Records to append.
    pub records: Vec<Record>,
}

/// Where records were put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The epoch that the positions count in.
    pub epoch: Epoch,
    /// The position of the first of them.
    pub first: Seq,
    /// The position that the next record of anybody will get at the earliest.
    pub next: Seq,
}

/// What became of an [`Entry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Where its records were put.
    pub appended: Appended,
    /// Its source was written before, so nothing was written now.
    pub duplicate: bool,
}

/// What became of commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCommands {
    /// Those that were not known before, in order. Only they may be acted on.
    pub fresh: Vec<CommandId>,
    /// Where the records of the fresh ones were put.
    pub appended: Appended,
}

/// What became of a command that was given on the board.
#[derive(Debug, Clone, PartialEq)]
pub struct GivenCommand {
    /// The command, or the one that is known by its key.
    pub command: KeptCommand,
    /// Whether it was not known before. Only then may it be acted on.
    pub is_new: bool,
    /// Where its records were put.
    pub appended: Appended,
}

/// Rows read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadBack {
    /// The epoch that `first` counts in.
    pub epoch: Epoch,
    /// The position of the first item. Without items: where the next one will be.
    pub first: Seq,
    /// Encoded records, in order and without holes.
    pub items: Vec<Item>,
}

/// What the spool knew when it was opened, or after its epoch was renewed.
#[derive(Debug, Clone, PartialEq)]
pub struct SpoolState {
    /// The incarnation of the stream.
    pub epoch: Epoch,
    /// The lowest position present, or `next`.
    pub first: Seq,
    /// The position of the next record.
    pub next: Seq,
    /// How far the down stream is stored.
    pub down: Option<Cursor>,
    /// The latest status.
    pub status: Status,
    /// The commands that have not ended, in the order of their arrival.
    pub commands: Vec<StoredCommand>,
    /// The newest motion, ended or not.
    pub last_motion: Option<StoredCommand>,
    /// What was saved of a damaged database since the spool was last opened, where it was damaged.
    pub salvaged: Option<Salvaged>,
}

/// What could be saved of a damaged database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvaged {
    /// Where the damaged files are now: this name, and the same with `-wal` behind it.
    pub moved_to: PathBuf,
    /// How many records were saved.
    pub records: u64,
    /// How many tombstones stand for what could not be.
    pub holes: u64,
    /// Whether the epoch went on. If not, the relay may get twice what it had not acknowledged.
    pub same_epoch: bool,
}

/// A handle on the spool. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Spool {
    requests: SyncSender<Ticketed>,
    turns: Arc<Semaphore>,
    health: watch::Receiver<Health>,
}

impl Spool {
    /// Opens the database at `path`, or makes it. One that is damaged is moved aside, to a name
    /// with the date of `now`, and a new one is begun. Takes the same time whatever waits in it.
    /// Blocks for some disk accesses.
    ///
    /// # Errors
    /// Where the folder cannot be written or another process uses the database.
    pub fn open(path: &Path, limits: Limits, now: WallClock) -> Result<(Self, SpoolState)> {
        let (repair, database, state) = Repair::open(path, limits, now)?;
        let (writer, health) = Writer::new(database, limits, repair)?;
        let (requests, waiting) = sync_channel(REQUESTS_MAX);
        std::thread::Builder::new()
            .name("spool".to_owned())
            .spawn(move || writer.run(&waiting))
            .map_err(|reason| SpoolError::File {
                doing: "start the thread of",
                path: path.to_owned(),
                reason: Arc::new(reason),
            })?;
        let turns = Arc::new(Semaphore::new(REQUESTS_MAX));
        let spool = Self {
            requests,
            turns,
            health,
        };
        Ok((spool, state))
    }

    /// Appends records and returns when they are durable.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn append(&self, records: Vec<Record>) -> Result<Appended> {
        let entry = Entry {
            records,
            ..Entry::default()
        };
        Ok(self.write(entry).await?.appended)
    }

    /// Appends the records of one message, unless it was written before.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn append_from_source(
        &self,
        source: Option<SourceId>,
        records: Vec<Record>,
    ) -> Result<Written> {
        let entry = Entry {
            source,
            changes: Vec::new(),
            records,
        };
        self.write(entry).await
    }

    /// Takes steps of commands and appends their records, in one piece.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn update_commands(
        &self,
        changes: Vec<CommandChange>,
        records: Vec<Record>,
    ) -> Result<Written> {
        let entry = Entry {
            source: None,
            changes,
            records,
        };
        self.write(entry).await
    }

    /// Writes an entry in one piece and returns when it is durable.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn write(&self, entry: Entry) -> Result<Written> {
        let entry = format::EncodedEntry::encode(entry)?;
        self.ask(|reply| Request::Write { entry, reply }).await
    }

    /// Writes several entries in one piece, leaving out those whose source was written before, and
    /// returns when they are durable. Their records follow one another without anything in between.
    ///
    /// # Errors
    /// Nothing was written.
    pub async fn write_all(&self, entries: Vec<Entry>) -> Result<Appended> {
        let entries = entries.into_iter().map(format::EncodedEntry::encode);
        let entries = entries.collect::<Result<_>>()?;
        self.ask(|reply| Request::WriteAll { entries, reply }).await
    }

    /// Stores commands, each with the record that says so, and how far the down stream is stored
    /// with them. Commands that are known already are left as they are.
    ///
    /// # Errors
    /// Nothing was stored.
    pub async fn store_commands(
        &self,
        cursor: Cursor,
        commands: Vec<(StoredCommand, Record)>,
    ) -> Result<StoredCommands> {
        let commands = commands
            .iter()
            .map(|(command, record)| {
                format::EncodedCommand::encode(command, std::slice::from_ref(record))
            })
            .collect::<Result<_>>()?;
        self.ask(|reply| Request::StoreCommands {
            cursor,
            commands,
            reply,
        })
        .await
    }

    /// Stores a command that was given on the board, with the records that say so, unless its id or
    /// its key is known.
    ///
    /// # Errors
    /// Nothing was stored.
    pub async fn give_command(
        &self,
        command: &StoredCommand,
        records: &[Record],
    ) -> Result<GivenCommand> {
        let command = format::EncodedCommand::encode(command, records)?;
        self.ask(|reply| Request::GiveCommand { command, reply })
            .await
    }

    /// Up to `limit` commands, newest first: those that came before `after`, where one is named, and
    /// in this state, where one is given.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn commands(
        &self,
        limit: usize,
        after: Option<CommandId>,
        state: Option<Progress>,
    ) -> Result<Vec<KeptCommand>> {
        self.ask(|reply| Request::Commands {
            limit,
            after,
            state,
            reply,
        })
        .await
    }

    /// One command, if it is known.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn command(&self, id: CommandId) -> Result<Option<KeptCommand>> {
        self.ask(|reply| Request::Command { id, reply }).await
    }

    /// Reads rows from position `from` on. At least one if there is one, then as many as fit.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn read(&self, from: Seq, max_items: usize, max_bytes: usize) -> Result<ReadBack> {
        self.ask(|reply| Request::Read {
            from,
            max_items,
            max_bytes,
            reply,
        })
        .await
    }

    /// Whether a message of this source was written. Ask before acting on it, and pass the source
    /// on to [`Spool::write`].
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn knows(&self, source: SourceId) -> Result<bool> {
        self.ask(|reply| Request::Knows { source, reply }).await
    }

    /// Lets go of everything before `next`, unless another `epoch` has begun. It is deleted with one of the next commits, or on its
    /// own after [`RELEASE_DELAY`] where nothing else is written.
    ///
    /// # Errors
    /// Where the spool is closed.
    pub async fn release(&self, epoch: Epoch, next: Seq) -> Result<()> {
        self.tell(Request::Release { epoch, next }).await
    }

    /// Keeps the latest status for the next start. It is written every
    /// [`STATUS_DELAY`] at most, and when the spool is closed.
    ///
    /// # Errors
    /// Where the spool is closed.
    pub async fn set_status(&self, status: Status) -> Result<()> {
        self.tell(Request::Status(status)).await
    }

    /// Begins a new epoch: what waits is numbered from 1 again.
    ///
    /// # Errors
    /// The old epoch goes on.
    pub async fn renew_epoch(&self, epoch: Epoch) -> Result<SpoolState> {
        self.ask(|reply| Request::RenewEpoch { epoch, reply }).await
    }

    /// Writes what is still held back, tidies the file up and ends the thread. Every later call on
    /// any handle fails.
    ///
    /// # Errors
    /// Where the last write failed; whatever was acknowledged before is durable all the same.
    pub async fn close(&self) -> Result<()> {
        self.ask(|reply| Request::Close { reply }).await
    }

    /// How the spool is. The receiver sees every change of the state, and numbers about once a
    /// second.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// Up to `limit` rows that stand for records that are gone or merged, newest first.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn gaps(&self, limit: usize) -> Result<Vec<Gap>> {
        self.ask(|reply| Request::Gaps { limit, reply }).await
    }

    /// Where the spool stands now. Ask for it when an answer or [`Health`] has an epoch that is not
    /// known.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn state(&self) -> Result<SpoolState> {
        self.ask(|reply| Request::State { reply }).await
    }

    /// How many transactions were committed since the spool was opened.
    ///
    /// # Errors
    /// Where the spool is closed.
    pub async fn commits(&self) -> Result<u64> {
        self.ask(|reply| Request::Commits { reply }).await
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T>>) -> Request,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.tell(request(reply)).await?;
        answer.await.map_err(|_| SpoolError::Closed)?
    }

    async fn tell(&self, request: Request) -> Result<()> {
        let turns = Arc::clone(&self.turns);
        let turn: OwnedSemaphorePermit = turns
            .acquire_owned()
            .await
            .map_err(|_| SpoolError::Closed)?;
        // There are as many turns as places in the queue, so it is never full here.
        self.requests
            .try_send(Ticketed {
                request,
                _turn: turn,
            })
            .map_err(|_| SpoolError::Closed)
    }
}
