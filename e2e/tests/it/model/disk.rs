//! What the board's spool holds: the naive form of what `brrbrr_gateway::spool` promises. Each call is
//! a transaction that is durable when it returns.

use std::collections::{BTreeMap, BTreeSet};

use brrbrr_gateway::spool::{CommandChange, Entry, SourceId, StoredCommand};
use brrbrr_proto::id::{CommandId, Cursor, Epoch, Seq};
use brrbrr_proto::link::gateway::SpoolView;
use brrbrr_proto::up::{Item, Record};

pub struct Disk {
    pub epoch: Epoch,
    next: Seq,
    records: BTreeMap<Seq, Item>,
    down: Option<Cursor>,
    /// In the order of their arrival.
    rows: Vec<StoredCommand>,
    sources: BTreeSet<SourceId>,
}

impl Disk {
    pub const fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            next: Seq::FIRST,
            records: BTreeMap::new(),
            down: None,
            rows: Vec::new(),
            sources: BTreeSet::new(),
        }
    }

    pub fn view(&self) -> SpoolView {
        let first = self.records.keys().next().copied();
        SpoolView {
            epoch: self.epoch,
            first: first.unwrap_or(self.next),
            next: self.next,
        }
    }

    pub const fn down(&self) -> Option<Cursor> {
        self.down
    }

    pub fn unfinished(&self) -> Vec<StoredCommand> {
        let rows = self.rows.iter();
        rows.filter(|row| !row.progress.is_final())
            .cloned()
            .collect()
    }

    pub fn last_motion(&self) -> Option<&StoredCommand> {
        let mut rows = self.rows.iter().rev();
        rows.find(|row| row.command.order.is_motion())
    }

    pub fn row(&self, id: CommandId) -> Option<&StoredCommand> {
        self.rows.iter().find(|row| row.command.id == id)
    }

    pub fn rows(&self) -> &[StoredCommand] {
        &self.rows
    }

    pub fn knows(&self, source: &SourceId) -> bool {
        self.sources.contains(source)
    }

    pub fn is_sent(&self) -> bool {
        self.records.is_empty()
    }

    /// Says which of the commands were not known.
    pub fn store_commands(
        &mut self,
        cursor: Cursor,
        rows: Vec<(StoredCommand, Record)>,
    ) -> Vec<CommandId> {
        let mut fresh = Vec::new();
        for (row, record) in rows {
            if self.row(row.command.id).is_none() {
                fresh.push(row.command.id);
                self.rows.push(row);
                self.append(&record);
            }
        }
        let is_known = |own: Cursor| own.epoch == cursor.epoch && own.next >= cursor.next;
        if !self.down.is_some_and(is_known) {
            self.down = Some(cursor);
        }
        fresh
    }

    /// Says which command it is now, if its key or its id was known.
    pub fn give(&mut self, row: StoredCommand, records: &[Record]) -> Option<CommandId> {
        let key = row.key();
        let is_same = |known: &&StoredCommand| {
            known.command.id == row.command.id || (key.is_some() && known.key() == key)
        };
        if let Some(known) = self.rows.iter().find(is_same) {
            return Some(known.command.id);
        }
        self.rows.push(row);
        for record in records {
            self.append(record);
        }
        None
    }

    /// Says whether it was written before.
    pub fn write(&mut self, entry: &Entry) -> bool {
        let is_new = entry
            .source
            .as_ref()
            .is_none_or(|source| self.sources.insert(source.clone()));
        if !is_new && entry.changes.is_empty() {
            return true;
        }
        for CommandChange {
            id,
            progress,
            hand_over,
        } in &entry.changes
        {
            let mut rows = self.rows.iter_mut();
            if let Some(row) = rows.find(|row| row.command.id == *id) {
                row.progress = *progress;
                row.hand_over = *hand_over;
            }
        }
        for record in &entry.records {
            self.append(record);
        }
        false
    }

    fn append(&mut self, record: &Record) {
        let item = Item {
            covers: record.covers(),
            record: record.encode().expect("encodes"),
        };
        let at = self.next;
        self.next = at.plus(item.covers);
        self.records.insert(at, item);
    }

    pub fn read(&self, from: Seq, max_items: usize) -> Vec<Item> {
        let items = self.records.range(from..).map(|(_, item)| item);
        items.take(max_items).cloned().collect()
    }

    pub fn release(&mut self, next: Seq) {
        self.records.retain(|at, _| *at >= next);
    }
}
