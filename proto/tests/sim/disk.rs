//! What is durable on either side: all that is left after a crash.

use std::collections::BTreeMap;

use brrbrr_proto::down::Command;
use brrbrr_proto::id::{CommandId, Cursor, Epoch, Seq};
use brrbrr_proto::link::gateway::SpoolView;
use brrbrr_proto::link::relay::Ledger;
use brrbrr_proto::up::Item;

/// The gateway's spool.
pub struct SpoolDisk {
    pub view: SpoolView,
    rows: BTreeMap<Seq, Item>,
    pub down: Option<Cursor>,
    /// Every command that was ever stored, in the order of storing.
    pub commands: Vec<CommandId>,
}

impl SpoolDisk {
    pub fn new(epoch: Epoch) -> Self {
        Self {
            view: SpoolView {
                epoch,
                first: Seq::FIRST,
                next: Seq::FIRST,
            },
            rows: BTreeMap::new(),
            down: None,
            commands: Vec::new(),
        }
    }

    pub fn append(&mut self, record: Vec<u8>) {
        self.rows.insert(self.view.next, Item { covers: 1, record });
        self.view.next = self.view.next.plus(1);
    }

    pub fn read(&self, from: Seq, max_items: usize, max_bytes: usize) -> Vec<Item> {
        let mut bytes = 0;
        self.rows
            .range(from..)
            .map(|(_, item)| item.clone())
            .take(max_items)
            .take_while(|item| {
                let is_first = bytes == 0;
                bytes += item.record.len();
                is_first || bytes <= max_bytes
            })
            .collect()
    }

    pub fn release(&mut self, next: Seq) {
        self.rows = self.rows.split_off(&next);
        self.view.first = self.view.first.max(next);
    }

    pub fn store(&mut self, cursor: Cursor, commands: &[Command]) {
        let is_known = |own: Cursor| own.epoch == cursor.epoch && own.next >= cursor.next;
        for command in commands {
            if !self.commands.contains(&command.id) {
                self.commands.push(command.id);
            }
        }
        if !self.down.is_some_and(is_known) {
            self.down = Some(cursor);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// The relay's journal and ledger for the robot.
pub struct RelayDisk {
    journal: BTreeMap<Epoch, Vec<Item>>,
    pub ledger: Ledger,
    commands: Vec<Command>,
}

impl RelayDisk {
    pub fn new(epoch: Epoch) -> Self {
        Self {
            journal: BTreeMap::new(),
            ledger: Ledger {
                epoch,
                acked: Seq::FIRST,
                next: Seq::FIRST,
            },
            commands: Vec::new(),
        }
    }

    pub fn due(&self, epoch: Epoch) -> Seq {
        let items = self.journal.get(&epoch).into_iter().flatten();
        items.fold(Seq::FIRST, |at, item| at.plus(item.covers))
    }

    /// As the port promises: skips what is known, refuses a hole.
    pub fn store(&mut self, epoch: Epoch, first: Seq, items: &[Item]) -> Option<Seq> {
        let mut due = self.due(epoch);
        if first > due {
            return None;
        }
        let mut at = first;
        for item in items {
            if at == due {
                self.journal.entry(epoch).or_default().push(item.clone());
                due = due.plus(item.covers);
            }
            at = at.plus(item.covers);
        }
        Some(due)
    }

    pub fn submit(&mut self, command: Command) {
        self.commands.push(command);
        self.ledger.next = self.ledger.next.plus(1);
    }

    pub fn load(&self, from: Seq, limit: usize) -> Vec<Command> {
        let skip = usize::try_from(from.since(Seq::FIRST)).expect("small");
        self.commands
            .iter()
            .skip(skip)
            .take(limit)
            .cloned()
            .collect()
    }

    pub fn delivered(&mut self, cursor: Cursor) {
        assert_eq!(cursor.epoch, self.ledger.epoch);
        assert!(
            cursor.next <= self.ledger.next,
            "more delivered than there is"
        );
        self.ledger.acked = self.ledger.acked.max(cursor.next);
    }

    pub fn records(&self, epoch: Epoch) -> impl Iterator<Item = &[u8]> {
        let items = self.journal.get(&epoch).into_iter().flatten();
        items.map(|item| item.record.as_slice())
    }
}
