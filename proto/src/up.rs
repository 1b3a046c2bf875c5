//! What a gateway says: hello, batches of durable records, beats, and the last will.
//!
//! Append only: a variant's position is its number on the wire, and a struct's fields never change.
//! `tests/wire` pins the bytes.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::down::Order;
use crate::id::{BootId, CommandId, ConnectionId, Cursor, HelloId, Revision, Seq, SessionId};
use crate::live::{Pose, Status};
use crate::time::{Stamp, Uptime, WallClock};
use crate::version::Versions;
use crate::wire;

/// The largest encoded record. What is larger is refused to its source.
pub const MAX_RECORD_BYTES: usize = 64 * 1024;
/// The most items that a receiver takes in one batch: empty ones are far larger in memory than in a
/// frame.
pub const MAX_BATCH_ITEMS: usize = 1024;

/// Asks any relay for a session (topic kind `hello`). The epoch of the up stream is in the frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Names this attempt; the welcome repeats it.
    pub hello: HelloId,
    /// The boot that `uptime` counts from.
    pub boot: BootId,
    /// When the hello was made, by the board's two clocks.
    pub uptime: Uptime,
    /// See `uptime`.
    pub wall: WallClock,
    /// The position the gateway will give to its next new record.
    pub next: Seq,
    /// How many positions wait in the spool.
    pub backlog: u64,
    /// How far the gateway has stored the down stream; `None` with a fresh spool.
    pub down: Option<Cursor>,
    /// The wire versions it can read.
    pub versions: Versions,
    /// The gateway's own version, for people.
    pub software: String,
}

/// What a gateway says within a session (topic kind `up`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Up {
    /// The next records of the durable stream.
    Batch(Batch),
    /// A sign of life that also acknowledges commands. Every beat is answered by an ack.
    Beat(Beat),
    /// How the spool is. Not answered.
    Report(Report),
    /// Asks for a part of what there is to know of the building.
    Wanted(Wanted),
}

/// A run of durable records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The session it belongs to.
    pub session: SessionId,
    /// When it was sent, for the relay's estimate of the board's clock.
    pub sent: Uptime,
    /// The position of the first item.
    pub first: Seq,
    /// The items, in order and without holes; at most [`MAX_BATCH_ITEMS`].
    #[serde(deserialize_with = "wire::items")]
    pub items: Vec<Item>,
}

impl Batch {
    /// The position after the last item.
    #[must_use]
    pub fn end(&self) -> Seq {
        self.items
            .iter()
            .fold(self.first, |at, item| at.plus(item.covers))
    }
}

/// One record as the link carries it: the link does not look inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// How many positions it stands for: 1, or more for a tombstone. Never zero.
    pub covers: u64,
    /// An encoded [`Record`], at most [`MAX_RECORD_BYTES`].
    #[serde(with = "wire::record")]
    pub record: Vec<u8>,
}

/// A sign of life within a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// The session it belongs to.
    pub session: SessionId,
    /// When it was sent.
    pub sent: Uptime,
    /// How far the gateway has durably stored the down stream.
    pub down: Cursor,
}

/// How the gateway's spool is, as told at the start of a session, when it changes, and now and then
/// with a beat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The session it belongs to.
    pub session: SessionId,
    /// When it was sent.
    pub sent: Uptime,
    /// The position the gateway will give to its next new record.
    pub next: Seq,
    /// When the oldest record that waits was made; `None` where nothing waits or it is not known.
    pub oldest: Option<Stamp>,
    /// How the storage is.
    pub disk: Disk,
    /// Since when it has been so.
    pub since: Uptime,
    /// A sentence for people; empty where there is nothing to add.
    pub detail: String,
}

/// Asks for a part of what there is to know of the building.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The session it belongs to.
    pub session: SessionId,
    /// When it was sent.
    pub sent: Uptime,
    /// What the gateway has; where it is the newest, the answer says only that.
    pub have: Option<Revision>,
    /// Which part of the newest is wanted, from 0 on.
    pub part: u32,
}

/// How a gateway's storage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Disk {
    /// It takes everything.
    Fine,
    /// It takes everything, and makes room by thinning and shedding what matters least.
    Short,
    /// It takes nothing: what the robot says is refused to its source.
    Failing,
}

/// The last will (topic kind `presence`): the connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// The connection that broke.
    pub connection: ConnectionId,
}

/// A durable record: something that happened, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When, by the board's two clocks.
    pub stamp: Stamp,
    /// What.
    pub event: Event,
}

impl Record {
    /// The bytes that spool, link and journal keep.
    ///
    /// # Errors
    /// [`RecordError::TooLong`] for records over [`MAX_RECORD_BYTES`].
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let bytes = postcard::to_stdvec(self)?;
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(RecordError::TooLong(bytes.len()));
        }
        Ok(bytes)
    }

    /// Reads the bytes of [`Record::encode`].
    ///
    /// # Errors
    /// Where they are not exactly one record. Never panics, whatever they are.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(RecordError::TooLong(bytes.len()));
        }
        let (record, rest) = postcard::take_from_bytes(bytes)?;
        if rest.is_empty() {
            Ok(record)
        } else {
            Err(RecordError::Trailing(rest.len()))
        }
    }

    /// How many positions of the stream it stands for.
    #[must_use]
    pub fn covers(&self) -> u64 {
        match &self.event {
            Event::Tombstone(tombstone) => tombstone.count.max(1),
            Event::Thinned(thinned) => thinned.count.max(1),
            Event::Changed(_)
            | Event::Arrived(_)
            | Event::Alarm(_)
            | Event::Command(_)
            | Event::Telemetry(_)
            | Event::Custom(_)
            | Event::Ordered(_)
            | Event::Progressed(_) => 1,
        }
    }
}

/// Why bytes are not a record, or a record does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Longer than [`MAX_RECORD_BYTES`].
    #[error("record of {0} bytes, the limit is {MAX_RECORD_BYTES}")]
    TooLong(usize),
    /// More than one record.
    #[error("{0} bytes follow the record")]
    Trailing(usize),
    /// Not a record.
    #[error("not a record: {0}")]
    Malformed(#[from] postcard::Error),
}

/// What happened on a robot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// The robot's activity or its reachability changed.
    Changed(Status),
    /// The robot reached its goal.
    Arrived(Arrived),
    /// Something a person should look at.
    Alarm(Alarm),
    /// A command took a step.
    Command(CommandUpdate),
    /// A sample of the status that is kept, not only shown.
    Telemetry(Status),
    /// A message of an integrator's own.
    Custom(Custom),
    /// Records that are not there any more.
    Tombstone(Tombstone),
    /// Telemetry that was thinned out to make room: what is left of several samples.
    Thinned(Thinned),
    /// A command that was given on the board. Its first step follows.
    Ordered(Ordered),
    /// How far a running command has got.
    Progressed(Progressed),
}

/// The robot reached its goal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Arrived {
    /// The command that sent it there, where one did.
    pub command: Option<CommandId>,
    /// Where it says it is.
    pub pose: Option<Pose>,
}

/// How bad an alarm is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// Worth knowing.
    Notice,
    /// Needs attention soon.
    Warning,
    /// Needs attention now.
    Critical,
}

/// Something a person should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// A short stable name, such as `battery_low`.
    pub code: String,
    /// How bad it is.
    pub severity: Severity,
    /// A sentence for people.
    pub text: String,
}

/// Where a command stands on the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Progress {
    /// Stored on the gateway.
    Received,
    /// Handed to the robot.
    Running,
    /// Done as asked.
    Succeeded,
    /// Tried and not done; the detail says why.
    Failed,
    /// Withdrawn before it was done.
    Cancelled,
    /// Not started, because its time had passed.
    Expired,
    /// Replaced by a newer motion.
    Superseded,
    /// The gateway cannot know how it ended, because the board or the daemon went away in the middle.
    Interrupted,
}

impl Progress {
    /// Whether nothing can follow.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Received | Self::Running => false,
            Self::Succeeded
            | Self::Failed
            | Self::Cancelled
            | Self::Expired
            | Self::Superseded
            | Self::Interrupted => true,
        }
    }
}

/// A command took a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandUpdate {
    /// Which command.
    pub command: CommandId,
    /// The step.
    pub progress: Progress,
    /// A sentence for people; empty where there is nothing to add.
    pub detail: String,
}

/// A command that was given on the board, for the relay's ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ordered {
    /// Its identity, drawn on the board.
    pub command: CommandId,
    /// The caller's own key, where it gave one.
    pub key: Option<String>,
    /// Who asked.
    pub actor: String,
    /// How long it may be started, counted from the record's stamp.
    pub time_to_live: Duration,
    /// What to do.
    pub order: Order,
}

/// How far a running command has got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progressed {
    /// Which command.
    pub command: CommandId,
    /// From 0 to 100.
    pub percent: u8,
    /// A sentence for people; empty where there is nothing to add.
    pub text: String,
}

/// A message of an integrator's own, carried as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Custom {
    /// The integrator's name for it.
    pub kind: String,
    /// A JSON document.
    pub json: String,
}

/// Why records are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Loss {
    /// The spool was over its budget.
    SpoolFull,
    /// The spool could not be read.
    SpoolCorrupt,
    /// The relay's storage went back to a time before it acknowledged them.
    RelayForgot,
    /// Telemetry was thinned out to make room.
    Thinned,
}

/// Stands in the place of records that are not there any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    /// How many records; zero where nobody can know.
    pub count: u64,
    /// Why.
    pub loss: Loss,
    /// When the oldest was made, where known.
    pub since: Option<Stamp>,
    /// When the newest was made, where known.
    pub until: Option<Stamp>,
}

/// What is left of several samples of telemetry. Like a tombstone, it covers their positions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Thinned {
    /// How many samples.
    pub count: u64,
    /// When the first was made. The record's own stamp is that of the last.
    pub since: Stamp,
    /// The lowest and the highest charge, from 0 to 1.
    pub battery: Option<Span>,
    /// The lowest and the highest speed, in metres per second.
    pub speed: Option<Span>,
    /// The last sample.
    pub last: Status,
}

/// The lowest and the highest of several values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}
