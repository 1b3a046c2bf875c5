//! The catalog: places, events, robots and the command ledger. One of the relay's three ports.
//!
//! Every implementation passes the same conformance suite. Methods that change something are
//! transactions: they happen whole and durably, or not at all. Names are kept in Unicode NFC; methods
//! that take names do this by themselves, and whoever compares a name with an answer must do it
//! too (see [`stored_name`]).

pub mod command;
pub mod sqlite;

#[cfg(test)]
pub(crate) mod conformance;

use async_trait::async_trait;
use brrbrr_proto::id::{CommandId, Cursor, Epoch, RobotId, Seq};
use brrbrr_proto::live::Pose;
pub use brrbrr_proto::names::stored_name;
use brrbrr_proto::seal::Secret;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use command::{
    Advance, Cancellation, Change, CommandState, DownStream, LedgerEntry, LedgerUpdate, NewCommand,
    Page, Submitted, Transition,
};

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
    /// The robot has as many unfinished commands as it may have.
    #[error("{0} has too many unfinished commands")]
    Full(RobotId),
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

    /// Enters a command at the end of the robot's down stream. `offered` says that the robot is in
    /// contact, so that its board may have the command from now on. Returns the earlier entry where
    /// the idempotency key is known; [`CatalogError::Conflict`] where that is another order.
    /// [`CatalogError::Full`] where [`NewCommand::room`] is used up. A stop and a newer motion end, in
    /// the same transaction, the robot's motions that were never offered: none of them may start
    /// after the stop or the newer motion has itself run out of time.
    async fn accept(&self, command: NewCommand, offered: bool) -> Result<Submitted>;
    /// As [`Catalog::accept`], for whoever tells nobody of what that ended.
    async fn submit(&self, command: NewCommand, offered: bool) -> Result<LedgerEntry> {
        Ok(self.accept(command, offered).await?.entry)
    }
    /// The robot's command with this idempotency key.
    async fn with_key(&self, robot: RobotId, key: &str) -> Result<Option<LedgerEntry>>;
    /// One command and all its transitions, oldest first.
    async fn command(&self, id: CommandId) -> Result<(LedgerEntry, Vec<Transition>)>;
    /// The robot's commands, newest first. [`CatalogError::Missing`] where `page.after` is none of
    /// them.
    async fn commands(&self, robot: RobotId, page: Page) -> Result<Vec<LedgerEntry>>;
    /// The robot's newest commands, newest first.
    async fn recent_commands(&self, robot: RobotId, limit: usize) -> Result<Vec<LedgerEntry>> {
        let page = Page {
            limit,
            ..Page::default()
        };
        self.commands(robot, page).await
    }
    /// The commands of the robot's down stream from a position on, to be sent: at most `limit`, and as
    /// many as [`COMMANDS_BYTES`](brrbrr_proto::link::COMMANDS_BYTES) allow but at least one.
    /// Those that have not ended are marked as offered, durably before this returns. Changes nothing
    /// where all of them are, which is so when the robot was in contact at submission.
    async fn offer(&self, robot: RobotId, from: Seq, limit: usize) -> Result<Vec<LedgerEntry>>;
    /// Marks commands as sent that were queued, from `from` up to but not including `to`, where those
    /// are positions in the down stream's present epoch.
    async fn mark_sent(
        &self,
        robot: RobotId,
        epoch: Epoch,
        from: Seq,
        to: Seq,
        at: Timestamp,
    ) -> Result<()>;
    /// Cancels a command: at once if it was never offered, and else by entering `cancel` as a
    /// cancellation of it, unless one is under way. `offered` is as at [`Catalog::submit`]. What happens is decided and done in one
    /// transaction.
    async fn cancel(
        &self,
        id: CommandId,
        cancel: NewCommand,
        offered: bool,
    ) -> Result<Cancellation>;
    /// Ends commands that were never offered and whose time has passed, at most `limit`. Returns
    /// them. Commands that were offered are the robot's to end.
    async fn expire(&self, now: Timestamp, limit: usize) -> Result<Vec<LedgerEntry>>;
    /// When this ledger's own newest command was accepted.
    async fn newest_submission(&self) -> Result<Option<Timestamp>>;
    /// When the time of the next command that was never offered passes.
    async fn next_expiry(&self) -> Result<Option<Timestamp>>;

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
    /// Applies what the robot said and notes the new position, in one transaction and in order.
    /// A command that was given on the board is entered once, and without its key where that is
    /// known. An update for an unknown command, for one of another robot, for one that is final
    /// already or that would go backwards changes nothing. Returns what changed, in order.
    async fn apply(
        &self,
        robot: RobotId,
        applied: Cursor,
        updates: Vec<(LedgerUpdate, Timestamp)>,
    ) -> Result<Vec<(Change, LedgerEntry)>>;
}
