//! The catalog: places, events, robots and the command ledger. One of the relay's three ports.
//!
//! Every implementation passes the same conformance suite. Methods that change something are
//! transactions: they happen whole and durably, or not at all. Names are kept in Unicode NFC; methods
//! that take names do this by themselves, and whoever compares a name with an answer must do it
//! too (see [`stored_name`]).

pub mod sqlite;

#[cfg(test)]
pub(crate) mod conformance;

use async_trait::async_trait;
use brrbrr_proto::down::Order;
use brrbrr_proto::id::{CommandId, Cursor, Epoch, RobotId, Seq};
use brrbrr_proto::live::Pose;
pub use brrbrr_proto::names::stored_name;
use brrbrr_proto::seal::Secret;
use brrbrr_proto::up::{CommandUpdate, Progress};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why the catalog did not do what it was asked.
#[derive(Debug, Error)]
pub enum CatalogError {
    /// Something else already has that name.
    #[error("there is already {0}")]
    Conflict(String),
    /// Nothing has that id.
    #[error("there is no {0}")]
    Missing(String),
    /// An event names a place that is not in the catalog.
    #[error("there is no place {name:?} on floor {floor}")]
    UnknownPlace {
        /// The name that was given.
        name: String,
        /// The floor that was given.
        floor: i32,
    },
    /// The store cannot be reached or does not answer; the same call may work later.
    #[error("the catalog is away: {0}")]
    Away(String),
    /// The store holds something this program did not write.
    #[error("the catalog holds something that cannot be read: {0}")]
    Corrupt(String),
}

/// The answer of every method.
pub type Result<T> = std::result::Result<T, CatalogError>;

/// A place of the building. Unique by `(name, floor)`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Place {
    /// Its number.
    pub id: i64,
    /// What it is.
    #[serde(flatten)]
    pub details: PlaceDetails,
}

/// What a place is, apart from its number. The field names are those of the HTTP contract.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlaceDetails {
    /// What people call it.
    pub name: String,
    /// A sentence about it.
    pub description: Option<String>,
    /// Its floor; basements are negative.
    pub floor: i32,
    /// Metres along x on the floor's SLAM map.
    pub xaxis: f64,
    /// Metres along y on the floor's SLAM map.
    pub yaxis: f64,
    /// A small picture.
    pub thumburl: Option<String>,
    /// A map.
    pub mapurl: Option<String>,
    /// What else people call it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

/// What becomes of a place's aliases when the place is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aliases {
    /// They stay, whatever the new details say: whoever changes the place does not know of them.
    Kept,
    /// The new details say what they are.
    Replaced,
}

/// A happening in the building. Unique by `name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// Its number.
    pub id: i64,
    /// What it is.
    pub details: HappeningDetails,
}

/// What a happening is, apart from its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HappeningDetails {
    /// What people call it.
    pub name: String,
    /// A sentence about it.
    pub description: Option<String>,
    /// When it begins.
    pub starttime: Timestamp,
    /// When it ends.
    pub endtime: Timestamp,
    /// The place it is at, with `place_floor`.
    pub place_name: String,
    /// See `place_name`.
    pub place_floor: i32,
    /// A small picture.
    pub thumburl: Option<String>,
}

/// A robot, without its secret. Unique by `name`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Robot {
    /// Its number.
    pub id: RobotId,
    /// What people call it.
    pub name: String,
    /// The floor it serves.
    pub floor: i32,
    /// Where it goes when a session is finished, if anywhere. Not part of the HTTP contract.
    #[serde(skip)]
    pub home: Option<Pose>,
}

/// Where a command stands, as people and the API see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommandState {
    /// In the ledger, not yet on the robot's board.
    Queued,
    /// Sent, and not yet known to be stored there.
    Sent,
    /// Stored on the robot's board.
    Received,
    /// Handed to the robot.
    Running,
    /// Done as asked.
    Succeeded,
    /// Tried and not done.
    Failed,
    /// Withdrawn.
    Cancelled,
    /// Not started, because its time had passed.
    Expired,
    /// Replaced by a newer motion.
    Superseded,
    /// Broken off by a restart on the robot; nobody knows how far it got.
    Interrupted,
}

impl CommandState {
    /// Whether a command in this state may come into `next`: states only move forward, and nothing
    /// follows a final one.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        self.rank() < next.rank()
    }

    const fn rank(self) -> u8 {
        match self {
            Self::Queued => 0,
            Self::Sent => 1,
            Self::Received => 2,
            Self::Running => 3,
            Self::Succeeded
            | Self::Failed
            | Self::Cancelled
            | Self::Expired
            | Self::Superseded
            | Self::Interrupted => 4,
        }
    }

    /// Its name in the API and in the stores.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Received => "received",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Superseded => "superseded",
            Self::Interrupted => "interrupted",
        }
    }
}

impl From<Progress> for CommandState {
    fn from(progress: Progress) -> Self {
        match progress {
            Progress::Received => Self::Received,
            Progress::Running => Self::Running,
            Progress::Succeeded => Self::Succeeded,
            Progress::Failed => Self::Failed,
            Progress::Cancelled => Self::Cancelled,
            Progress::Expired => Self::Expired,
            Progress::Superseded => Self::Superseded,
            Progress::Interrupted => Self::Interrupted,
        }
    }
}

/// A text is not the name of a command's state.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("not a command's state: {0:?}")]
pub struct NotAState(String);

impl std::str::FromStr for CommandState {
    type Err = NotAState;

    fn from_str(name: &str) -> std::result::Result<Self, NotAState> {
        let all = [
            Self::Queued,
            Self::Sent,
            Self::Received,
            Self::Running,
            Self::Succeeded,
            Self::Failed,
            Self::Cancelled,
            Self::Expired,
            Self::Superseded,
            Self::Interrupted,
        ];
        let found = all.into_iter().find(|state| state.name() == name);
        found.ok_or_else(|| NotAState(name.to_owned()))
    }
}

impl CommandState {
    /// Whether nothing can follow.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Sent | Self::Received | Self::Running => false,
            Self::Succeeded
            | Self::Failed
            | Self::Cancelled
            | Self::Expired
            | Self::Superseded
            | Self::Interrupted => true,
        }
    }
}

/// A command to be entered into the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct NewCommand {
    /// Drawn at random by the caller.
    pub id: CommandId,
    /// Who is to do it.
    pub robot: RobotId,
    /// What to do.
    pub order: Order,
    /// After this it must not be started any more.
    pub deadline: Timestamp,
    /// Who asked, for the log: `voice`, `face`, `admin`, …
    pub actor: String,
    /// The caller's own key: the same key of the same robot again returns the same command.
    pub idempotency_key: Option<String>,
    /// When it was accepted.
    pub submitted: Timestamp,
}

/// A command in the ledger.
#[derive(Debug, Clone, PartialEq)]
pub struct LedgerEntry {
    /// What was asked.
    pub command: NewCommand,
    /// Its position in the robot's down stream.
    pub seq: Seq,
    /// Where it stands.
    pub state: CommandState,
    /// A sentence about the state; may be empty.
    pub detail: String,
}

/// One step in the life of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// The state it came into.
    pub state: CommandState,
    /// When, by the relay's clock (a robot's claim is corrected before it comes here).
    pub at: Timestamp,
    /// A sentence about it; may be empty.
    pub detail: String,
}

/// Where a robot's down stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DownStream {
    /// The incarnation of the robot's ledger.
    pub epoch: Epoch,
    /// The first position the robot is not known to have stored.
    pub acked: Seq,
    /// The position that the next new command gets.
    pub next: Seq,
}

/// The port. See the module's documentation.
#[async_trait]
pub trait Catalog: Send + Sync + std::fmt::Debug {
    /// Every place, by id.
    async fn places(&self) -> Result<Vec<Place>>;
    /// Enters a place.
    async fn add_place(&self, details: PlaceDetails) -> Result<Place>;
    /// Replaces what a place is; events at it follow a new name or floor.
    async fn change_place(&self, id: i64, details: PlaceDetails, aliases: Aliases)
    -> Result<Place>;
    /// Removes a place. [`CatalogError::Conflict`] while an event is at it.
    async fn remove_place(&self, id: i64) -> Result<()>;

    /// Every happening, by id.
    async fn happenings(&self) -> Result<Vec<Happening>>;
    /// Enters a happening.
    async fn add_happening(&self, details: HappeningDetails) -> Result<Happening>;
    /// Removes a happening.
    async fn remove_happening(&self, id: i64) -> Result<()>;

    /// Every robot, by id.
    async fn robots(&self) -> Result<Vec<Robot>>;
    /// One robot.
    async fn robot(&self, id: RobotId) -> Result<Robot>;
    /// Enters a robot with its secret.
    async fn add_robot(
        &self,
        name: &str,
        floor: i32,
        home: Option<Pose>,
        secret: &Secret,
    ) -> Result<Robot>;
    /// Removes a robot and its ledger.
    async fn remove_robot(&self, id: RobotId) -> Result<()>;
    /// What the robot and the relay share.
    async fn secret(&self, id: RobotId) -> Result<Secret>;

    /// Enters a command at the end of the robot's down stream. Returns the earlier entry where the
    /// idempotency key is known.
    async fn submit(&self, command: NewCommand) -> Result<LedgerEntry>;
    /// One command and all its transitions, oldest first.
    async fn command(&self, id: CommandId) -> Result<(LedgerEntry, Vec<Transition>)>;
    /// The robot's commands from a position on, at most `limit`.
    async fn commands_from(
        &self,
        robot: RobotId,
        from: Seq,
        limit: usize,
    ) -> Result<Vec<LedgerEntry>>;
    /// The robot's newest commands, newest first.
    async fn recent_commands(&self, robot: RobotId, limit: usize) -> Result<Vec<LedgerEntry>>;
    /// Marks commands as sent that were queued, from `from` up to but not including `to`.
    async fn mark_sent(&self, robot: RobotId, from: Seq, to: Seq, at: Timestamp) -> Result<()>;

    /// Where the robot's down stream stands.
    async fn down_stream(&self, robot: RobotId) -> Result<DownStream>;
    /// Notes that the robot has stored everything before `next`, in the epoch of the cursor only.
    /// Never goes back.
    async fn mark_delivered(&self, robot: RobotId, cursor: Cursor) -> Result<()>;
    /// Starts a new epoch, in which the commands that were not delivered are numbered from 1 on.
    /// For the case that the robot has seen more than this ledger remembers.
    async fn renew_down_stream(&self, robot: RobotId, epoch: Epoch) -> Result<DownStream>;

    /// How far the robot's up stream has been applied to the ledger, in the given epoch.
    async fn applied(&self, robot: RobotId, epoch: Epoch) -> Result<Seq>;
    /// Applies command updates of the robot and notes the new position, in one transaction.
    /// An update for an unknown command, for one of another robot, for one that is final already or
    /// that would go backwards changes nothing. Returns the entries that changed, in order.
    async fn apply(
        &self,
        robot: RobotId,
        applied: Cursor,
        updates: Vec<(CommandUpdate, Timestamp)>,
    ) -> Result<Vec<LedgerEntry>>;
}
