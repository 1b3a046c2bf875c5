//! The journal: the log of every record that robots sent, how far each stream has been received,
//! and the log of trips. One of the relay's three ports.

pub mod sqlite;
pub mod view;

#[cfg(test)]
pub(crate) mod conformance;

use async_trait::async_trait;
use brrbrr_proto::id::{CommandId, Epoch, RobotId, Seq};
use brrbrr_proto::link::relay::BoardClock;
use brrbrr_proto::up::Item;
use jiff::Timestamp;
use serde::Serialize;
use thiserror::Error;

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Whose.
    pub robot: RobotId,
    /// The incarnation of the robot's spool.
    pub epoch: Epoch,
    /// The position of the first item.
    pub first: Seq,
    /// The items, in order and without holes.
    pub items: Vec<Item>,
    /// When the relay received them.
    pub received: Timestamp,
    /// The clock of the board's present boot. Records of an earlier boot have another.
    pub clock: BoardClock,
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
    /// Stores a run and the new cursor in one durable step, and returns the position that is due
    /// next. Items from before the cursor are skipped: storing a run again changes nothing.
    async fn store(&self, run: Run) -> Result<Seq>;
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
    /// The epochs in which something of the robot was stored, oldest first.
    async fn epochs(&self, robot: RobotId) -> Result<Vec<Epoch>>;

    /// Writes a step of a trip. The same command and step again changes nothing.
    async fn log_trip(&self, entry: TripEntry) -> Result<()>;
    /// The trip log, newest first, at most `limit`, of one robot's name or of all.
    async fn trips(&self, robot_name: Option<&str>, limit: usize) -> Result<Vec<TripEntry>>;
    /// The departure of a trip, where it is in the log.
    async fn departure(&self, command: CommandId) -> Result<Option<TripEntry>>;
}
