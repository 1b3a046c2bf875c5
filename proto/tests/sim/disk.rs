//! What is stored on either side, over disks that lose and tear what was not synced.

use std::collections::BTreeMap;

use brrbrr_proto::down::Command;
use brrbrr_proto::id::{CommandId, Cursor, Epoch, Seq};
use brrbrr_proto::link::gateway::SpoolView;
use brrbrr_proto::link::relay::Ledger;
use brrbrr_proto::up::Item;
use serde::{Deserialize, Serialize};

use crate::platter::Platter;
use crate::random::Random;

/// How many positions the tombstone at the end of a salvaged spool covers: nobody knows how many were
/// given out behind what could be read.
const LEAP: u64 = 1 << 32;
/// The bytes of a tombstone's record here. Records of the robot are longer.
pub const TOMBSTONE: &[u8] = b"gone";

#[derive(Serialize, Deserialize)]
enum SpoolEntry {
    Append(Vec<u8>),
    Release(Seq),
    /// A tombstone takes the place of all rows that begin in the range.
    Bury(Seq, Seq),
    /// A tombstone of unknown length is put at the end.
    Leap,
    Down(Cursor, Vec<CommandId>),
}

/// The gateway's spool.
pub struct SpoolDisk {
    pub platter: Platter,
    epoch: Epoch,
    state: SpoolState,
    /// The end of what is synced. Nothing from behind it is shown to the link.
    synced_next: Seq,
    synced_down: Option<Cursor>,
}

struct SpoolState {
    next: Seq,
    rows: BTreeMap<Seq, Item>,
    down: Option<Cursor>,
    /// Every command that was ever stored, in the order of storing.
    commands: Vec<CommandId>,
}

impl SpoolState {
    const fn new() -> Self {
        Self {
            next: Seq::FIRST,
            rows: BTreeMap::new(),
            down: None,
            commands: Vec::new(),
        }
    }

    fn apply(&mut self, entry: SpoolEntry) {
        match entry {
            SpoolEntry::Append(record) => {
                self.rows.insert(self.next, Item { covers: 1, record });
                self.next = self.next.plus(1);
            }
            SpoolEntry::Release(next) => {
                self.rows
                    .retain(|first, item| first.plus(item.covers) > next);
            }
            SpoolEntry::Bury(from, to) => {
                let buried: Vec<Seq> = self.rows.range(from..to).map(|(at, _)| *at).collect();
                let Some(first) = buried.first().copied() else {
                    return;
                };
                let covers = buried
                    .iter()
                    .filter_map(|at| self.rows.remove(at))
                    .map(|item| item.covers)
                    .sum();
                let record = TOMBSTONE.to_vec();
                self.rows.insert(first, Item { covers, record });
            }
            SpoolEntry::Leap => {
                let record = TOMBSTONE.to_vec();
                let covers = LEAP;
                self.rows.insert(self.next, Item { covers, record });
                self.next = self.next.plus(covers);
            }
            SpoolEntry::Down(cursor, commands) => {
                for command in commands {
                    if !self.commands.contains(&command) {
                        self.commands.push(command);
                    }
                }
                let is_known = |own: Cursor| own.epoch == cursor.epoch && own.next >= cursor.next;
                if !self.down.is_some_and(is_known) {
                    self.down = Some(cursor);
                }
            }
        }
    }
}

impl SpoolDisk {
    pub fn new(epoch: Epoch) -> Self {
        Self {
            platter: Platter::new(),
            epoch,
            state: SpoolState::new(),
            synced_next: Seq::FIRST,
            synced_down: None,
        }
    }

    pub fn view(&self) -> SpoolView {
        let first = self.state.rows.keys().next().copied();
        SpoolView {
            epoch: self.epoch,
            first: first.unwrap_or(self.state.next).min(self.synced_next),
            next: self.synced_next,
        }
    }

    pub const fn down(&self) -> Option<Cursor> {
        self.synced_down
    }

    pub fn commands(&self) -> &[CommandId] {
        &self.state.commands
    }

    /// Returns the record's position.
    pub fn append(&mut self, record: Vec<u8>) -> Seq {
        let at = self.state.next;
        self.write(SpoolEntry::Append(record));
        at
    }

    pub fn release(&mut self, next: Seq) {
        self.write(SpoolEntry::Release(next));
    }

    pub fn store(&mut self, cursor: Cursor, commands: &[Command]) {
        let commands = commands.iter().map(|command| command.id).collect();
        self.write(SpoolEntry::Down(cursor, commands));
    }

    /// Sheds some rows to make room, whether they are on their way or not. To be synced.
    pub fn shed(&mut self, random: &mut Random) -> bool {
        let Some((from, to)) = self.some_rows(random) else {
            return false;
        };
        self.write(SpoolEntry::Bury(from, to));
        true
    }

    /// Some rows rot, perhaps to the end. What is left keeps its place. To be synced.
    pub fn rot(&mut self, random: &mut Random) -> bool {
        let is_shed = self.shed(random);
        if is_shed && random.one_in(3) {
            self.write(SpoolEntry::Leap);
        }
        is_shed
    }

    fn some_rows(&self, random: &mut Random) -> Option<(Seq, Seq)> {
        let rows: Vec<Seq> = self.state.rows.keys().copied().collect();
        let count = rows.len() as u64;
        if count == 0 {
            return None;
        }
        let first = random.below(count);
        let end = first + 1 + random.below(count - first);
        let at = |index: u64| rows.get(usize::try_from(index).expect("small")).copied();
        Some((at(first)?, at(end).unwrap_or(self.state.next)))
    }

    pub fn sync(&mut self) {
        self.platter.sync();
        self.synced_next = self.state.next;
        self.synced_down = self.state.down;
    }

    /// The disk is full, or failing.
    pub fn roll_back(&mut self) {
        self.platter.roll_back();
        self.rebuild(self.platter.entries());
    }

    pub fn crash(&mut self, random: &mut Random) {
        let entries = self.platter.crash(random);
        self.rebuild(entries);
    }

    pub fn read(&self, from: Seq, max_items: usize, max_bytes: usize) -> Vec<Item> {
        let rows = &self.state.rows;
        let begin = rows.range(..=from).next_back().map(|(at, _)| *at);
        let mut bytes = 0;
        rows.range(begin.unwrap_or(from)..self.synced_next)
            .filter_map(|(at, item)| rest(*at, item, from))
            .take(max_items)
            .take_while(|item| {
                let is_first = bytes == 0;
                bytes += item.record.len();
                is_first || bytes <= max_bytes
            })
            .collect()
    }

    pub fn is_empty(&self) -> bool {
        self.state.rows.is_empty()
    }

    fn write(&mut self, entry: SpoolEntry) {
        self.platter.write(&entry);
        self.state.apply(entry);
    }

    fn rebuild(&mut self, entries: Vec<SpoolEntry>) {
        self.state = SpoolState::new();
        for entry in entries {
            self.state.apply(entry);
        }
        self.sync();
    }
}

/// What of a row lies at or behind a position.
fn rest(at: Seq, item: &Item, from: Seq) -> Option<Item> {
    let end = at.plus(item.covers);
    let begin = at.max(from);
    (end > begin).then(|| Item {
        covers: end.since(begin),
        record: item.record.clone(),
    })
}

#[derive(Serialize, Deserialize)]
enum RelayEntry {
    Store(Epoch, Seq, Vec<Item>),
    Submit(Command),
    Delivered(Cursor),
}

/// The relay's journal and ledger for the robot.
pub struct RelayDisk {
    pub platter: Platter,
    state: RelayState,
    /// What was due when the journal was last synced.
    synced_due: Seq,
}

struct RelayState {
    journal: Vec<(Seq, Item)>,
    due: Seq,
    ledger: Ledger,
    commands: Vec<Command>,
}

impl RelayState {
    const fn new(epoch: Epoch) -> Self {
        Self {
            journal: Vec::new(),
            due: Seq::FIRST,
            ledger: Ledger {
                epoch,
                acked: Seq::FIRST,
                next: Seq::FIRST,
            },
            commands: Vec::new(),
        }
    }

    fn apply(&mut self, entry: RelayEntry) {
        match entry {
            RelayEntry::Store(_, first, items) => {
                let mut at = first;
                for item in items {
                    if let Some(rest) = rest(at, &item, self.due) {
                        let begin = at.max(self.due);
                        self.due = begin.plus(rest.covers);
                        self.journal.push((begin, rest));
                    }
                    at = at.plus(item.covers);
                }
            }
            RelayEntry::Submit(command) => {
                self.commands.push(command);
                self.ledger.next = self.ledger.next.plus(1);
            }
            RelayEntry::Delivered(cursor) => {
                assert_eq!(cursor.epoch, self.ledger.epoch);
                assert!(
                    cursor.next <= self.ledger.next,
                    "more delivered than there is"
                );
                self.ledger.acked = self.ledger.acked.max(cursor.next);
            }
        }
    }
}

impl RelayDisk {
    pub const fn new(epoch: Epoch) -> Self {
        Self {
            platter: Platter::new(),
            state: RelayState::new(epoch),
            synced_due: Seq::FIRST,
        }
    }

    pub const fn synced_due(&self) -> Seq {
        self.synced_due
    }

    pub const fn ledger(&self) -> Ledger {
        self.state.ledger
    }

    /// As the port promises: skips what is known, refuses a hole. Not synced yet.
    pub fn store(&mut self, epoch: Epoch, first: Seq, items: &[Item]) -> bool {
        let has_hole = first > self.state.due;
        if !has_hole {
            self.write(RelayEntry::Store(epoch, first, items.to_vec()));
        }
        !has_hole
    }

    pub fn submit(&mut self, command: Command) {
        self.write(RelayEntry::Submit(command));
        self.sync();
    }

    /// Not synced: the robot says it again.
    pub fn delivered(&mut self, cursor: Cursor) {
        self.write(RelayEntry::Delivered(cursor));
    }

    pub fn load(&self, from: Seq, limit: usize) -> Vec<Command> {
        let skip = usize::try_from(from.since(Seq::FIRST)).expect("small");
        let commands = self.state.commands.iter().skip(skip).take(limit);
        commands.cloned().collect()
    }

    pub fn sync(&mut self) {
        self.platter.sync();
        self.synced_due = self.state.due;
    }

    pub fn crash(&mut self, random: &mut Random) {
        let entries = self.platter.crash(random);
        self.rebuild(entries);
    }

    pub fn journal(&self) -> &[(Seq, Item)] {
        &self.state.journal
    }

    fn write(&mut self, entry: RelayEntry) {
        self.platter.write(&entry);
        self.state.apply(entry);
    }

    fn rebuild(&mut self, entries: Vec<RelayEntry>) {
        self.state = RelayState::new(self.state.ledger.epoch);
        for entry in entries {
            self.state.apply(entry);
        }
        self.sync();
    }
}
