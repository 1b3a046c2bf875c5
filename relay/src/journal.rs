//! The journal: the log of every record that robots sent, how far each stream has been received,
//! and the log of trips. One of the relay's three ports.

pub mod clock;
pub mod history;
pub mod sqlite;
pub mod view;

#[cfg(test)]
pub(crate) mod conformance;

use std::sync::Arc;

use async_trait::async_trait;
use brrbrr_proto::id::{CommandId, Epoch, RobotId, Seq};
use brrbrr_proto::link::relay::BoardClock;
use brrbrr_proto::time::Stamp;
use brrbrr_proto::up::{Event, Item, Loss, Record, RecordError};
use jiff::Timestamp;
use serde::Serialize;
use thiserror::Error;

use clock::Timeline;

/// Why the journal did not do what it was asked.
#[derive(Debug, Error)]
pub enum JournalError {
    /// A run of records begins after the position that is due, so storing it would leave a hole.
    #[error("records from {first} on, but {due} is due")]
    Gap {
        /// Where the run begins.
        first: Seq,
        /// What is due.
        due: Seq,
    },
    /// The store cannot be reached or does not answer; the same call may work later.
    #[error("the journal is away: {0}")]
    Away(String),
    /// The store holds something this program did not write.
    #[error("the journal holds something that cannot be read: {0}")]
    Corrupt(String),
}

/// The answer of every method.
pub type Result<T> = std::result::Result<T, JournalError>;

/// A run of records to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Whose.
    pub robot: RobotId,
    /// The incarnation of the robot's spool.
    pub epoch: Epoch,
    /// The position of the first item.
    pub first: Seq,
    /// What came, in order and without holes.
    pub entries: Vec<Entry>,
    /// When the relay received them.
    pub received: Timestamp,
    /// The clock of the board's present boot. Records of an earlier boot have another.
    pub clock: BoardClock,
}

/// An item and what it says, so that it is decoded once on its way.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// As it came. It is kept whether it can be decoded or not.
    pub item: Item,
    /// What it says.
    pub record: std::result::Result<Record, RecordError>,
}

impl Entry {
    /// Decodes an item.
    #[must_use]
    pub fn read(item: Item) -> Self {
        let record = Record::decode(&item.record);
        Self { item, record }
    }

    /// The moments it tells of, in order: one, or the first and the last.
    pub(crate) fn moments(&self) -> impl Iterator<Item = Stamp> {
        let span = self.record.as_ref().map(span).unwrap_or_default();
        let (since, until) = span;
        [since.filter(|_| since != until), until]
            .into_iter()
            .flatten()
    }

    /// What it stands for, where that is more than itself.
    #[must_use]
    pub fn hole(&self) -> Option<Hole> {
        let Ok(record) = &self.record else {
            // Only what stands for others covers several positions. A newer relay reads it.
            return (self.item.covers > 1).then_some(Hole {
                count: 0,
                loss: None,
                kept: false,
            });
        };
        match &record.event {
            Event::Tombstone(tombstone) => Some(Hole {
                // It may come with the rest of its positions only.
                count: tombstone.count.min(self.item.covers),
                loss: Some(tombstone.loss),
                kept: false,
            }),
            Event::Thinned(thinned) => Some(Hole {
                count: thinned.count.clamp(1, self.item.covers.max(1)),
                loss: Some(Loss::Thinned),
                kept: true,
            }),
            Event::Changed(_)
            | Event::Arrived(_)
            | Event::Alarm(_)
            | Event::Command(_)
            | Event::Telemetry(_)
            | Event::Custom(_)
            | Event::Ordered(_)
            | Event::Progressed(_) => None,
        }
    }
}

/// From when to when that was which a record tells of. Of a hole, when the oldest and the newest of
/// its records were made, where known.
pub(crate) const fn span(record: &Record) -> (Option<Stamp>, Option<Stamp>) {
    let stamp = Some(record.stamp);
    match &record.event {
        Event::Tombstone(tombstone) => (tombstone.since, tombstone.until),
        Event::Thinned(thinned) => (Some(thinned.since), stamp),
        Event::Changed(_)
        | Event::Arrived(_)
        | Event::Alarm(_)
        | Event::Command(_)
        | Event::Telemetry(_)
        | Event::Custom(_)
        | Event::Ordered(_)
        | Event::Progressed(_) => (stamp, stamp),
    }
}

/// Records that are not there, and what is in their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hole {
    /// How many; zero where nobody can know. Positions are no measure of it.
    pub count: u64,
    /// Why; `None` where what says so cannot be read.
    pub loss: Option<Loss>,
    /// Whether one record is left of them, as of samples that were thinned.
    pub kept: bool,
}

impl Hole {
    /// Why, in one word.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.loss.map_or("unreadable", view::loss_name)
    }
}

/// What is missing between two positions of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Missing {
    /// How many records were shed or lost, of those whose number is known.
    pub shed: u64,
    /// How many positions tombstones cover.
    pub shed_positions: u64,
    /// How many holes do not tell of how many records they are.
    pub unknown: u64,
    /// How many samples were thinned.
    pub thinned: u64,
    /// How many positions they had.
    pub thinned_positions: u64,
    /// How many records are left of them.
    pub kept: u64,
}

/// A record in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its position in the robot's stream.
    pub seq: Seq,
    /// The item as it came; `brrbrr_proto::up::Record` in postcard.
    pub item: Item,
    /// When the relay received it.
    pub received: Timestamp,
}

/// A step of a trip, in the words that existing readers of the log know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum TripStep {
    /// Set off.
    #[serde(rename = "출발")]
    Departed,
    /// Arrived.
    #[serde(rename = "도착")]
    Arrived,
    /// The guest is done.
    #[serde(rename = "종료")]
    Ended,
}

/// One line of the trip log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TripEntry {
    /// The command of the trip. One entry for each command and step is kept.
    #[serde(serialize_with = "as_text")]
    pub command: CommandId,
    /// Which robot, by its name at that time.
    pub robot_name: String,
    /// Where to, by name.
    pub destination: String,
    /// Which step.
    pub status: TripStep,
    /// When the trip was ordered.
    pub ordered_at: Timestamp,
    /// When the step happened.
    pub at: Timestamp,
}

fn as_text<S: serde::Serializer>(id: &CommandId, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.collect_str(id)
}

/// The port. See the module's documentation.
#[async_trait]
pub trait Journal: Send + Sync + std::fmt::Debug {
    /// Stores a run, what follows from it (holes, boots), and the new cursor in one durable step, and
    /// returns the position that is due next. Items from before the cursor are skipped: storing a run again changes nothing.
    async fn store(&self, run: Arc<Run>) -> Result<Seq>;
    /// The position that is due next in an epoch; the first where nothing was stored.
    async fn due(&self, robot: RobotId, epoch: Epoch) -> Result<Seq>;
    /// The robot's records from a position on, in order, at most `limit`.
    async fn records(
        &self,
        robot: RobotId,
        epoch: Epoch,
        from: Seq,
        limit: usize,
    ) -> Result<Vec<Stored>>;
    /// The records from one position up to another, not included, that stand for others which are
    /// not there: tombstones, and thinned samples. The newest first, at most `limit`.
    async fn holes(
        &self,
        robot: RobotId,
        epoch: Epoch,
        from: Seq,
        to: Seq,
        limit: usize,
    ) -> Result<Vec<Stored>>;
    /// What all the records of [`holes`](Self::holes) stand for.
    async fn missing(&self, robot: RobotId, epoch: Epoch, from: Seq, to: Seq) -> Result<Missing>;
    /// What is known of the boots in a stream.
    async fn timeline(&self, robot: RobotId, epoch: Epoch) -> Result<Timeline>;
    /// The epochs in which something of the robot was stored, oldest first.
    async fn epochs(&self, robot: RobotId) -> Result<Vec<Epoch>>;

    /// Writes a step of a trip. The same command and step again changes nothing.
    async fn log_trip(&self, entry: TripEntry) -> Result<()>;
    /// The trip log, newest first, at most `limit`, of one robot's name or of all.
    async fn trips(&self, robot_name: Option<&str>, limit: usize) -> Result<Vec<TripEntry>>;
    /// The departure of a trip, where it is in the log.
    async fn departure(&self, command: CommandId) -> Result<Option<TripEntry>>;
}
