//! Commands as the ledger keeps them.

use std::time::Duration;

use brrbrr_proto::down::{Command, GoTo, Order};
use brrbrr_proto::id::{CommandId, Epoch, RobotId, Seq};
use brrbrr_proto::up::{CommandUpdate, Progress, Progressed};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Commands of a robot that may be unfinished at a time. A robot does one thing after the other, and
/// people do not wait for more; what is beyond is a program that has gone wrong.
pub const MAX_UNFINISHED: usize = 256;
/// How many stops there may be beyond, so that no such program keeps anybody from stopping a robot.
pub const MAX_STOPS_BEYOND: usize = 64;
/// How many ways home there may be beyond the stops, so that nobody keeps a session from ending.
pub const MAX_WAYS_HOME_BEYOND: usize = 8;
/// The actor of a robot's way home, which is nobody's trip.
pub const HOME: &str = "home";

/// What is said of a command that the relay ended because its time had passed.
pub const NEVER_SENT: &str = "the robot was out of contact until its time had passed";
/// What is said of a command that the relay withdrew.
pub const WITHDRAWN: &str = "withdrawn before it was sent to the robot";

/// What is said of a motion that a stop ended before it was sent.
pub const STOPPED: &str = "stopped before it was sent to the robot";
/// What is said of a motion that a newer one ended before it was sent.
pub const REPLACED: &str = "replaced by a newer motion before it was sent to the robot";

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
    /// All that something can follow.
    pub const UNFINISHED: [Self; 4] = [Self::Queued, Self::Sent, Self::Received, Self::Running];

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
    /// Its position in the robot's down stream; `None` for one that was given on the board.
    pub seq: Option<Seq>,
    /// Where it stands.
    pub state: CommandState,
    /// A sentence about the state; may be empty.
    pub detail: String,
    /// Whether the robot's board may have it. From then on only the board knows how it ends.
    pub offered: bool,
    /// How far it has got, as the robot last said.
    pub progress: Option<Advance>,
    /// Whether a cancellation of it is under way.
    pub cancelling: bool,
    /// Whether it is a motion that must not be started any more, because something later in the
    /// robot's stream stops, replaces or cancels it and the board does not get that with it. Known of
    /// what [`Catalog::offer`](super::Catalog::offer) returns.
    pub outdone: bool,
}

impl LedgerEntry {
    /// Whether this relay ended it, and no board has seen it or ever will.
    #[must_use]
    pub const fn is_withdrawn(&self) -> bool {
        self.state.is_final() && !self.offered
    }

    /// The command as the robot gets it. One that this relay ended keeps its position only.
    #[must_use]
    pub fn to_send(self, now: Timestamp) -> Command {
        Command {
            id: self.command.id,
            time_to_live: self.time_to_live(now),
            order: if self.is_withdrawn() {
                Order::Withdrawn
            } else {
                self.command.order
            },
        }
    }

    /// How long it may still be started. Never longer than when it was ordered, and not at all if the
    /// relay's calendar has gone back behind that: then nobody knows how old it is.
    fn time_to_live(&self, now: Timestamp) -> Duration {
        let command = &self.command;
        if self.state.is_final() || self.outdone || now < command.submitted {
            return Duration::ZERO;
        }
        Duration::try_from(command.deadline.duration_since(now)).unwrap_or_default()
    }
}

/// How far a command has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// From 0 to 100.
    pub percent: u8,
    /// A sentence for people; may be empty.
    pub text: String,
    /// When the robot said so, by the relay's clock.
    pub at: Timestamp,
}

/// What a robot says that concerns its ledger.
#[derive(Debug, Clone, PartialEq)]
pub enum LedgerUpdate {
    /// A command was given on the board.
    Ordered(NewCommand),
    /// A command took a step.
    Step(CommandUpdate),
    /// A command has got further.
    Progressed(Progressed),
}

/// What changed in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A command was entered.
    Entered,
    /// It came into another state.
    Step,
    /// It has got further within its state.
    Progress,
}

/// What came of a command that was entered.
#[derive(Debug, Clone, PartialEq)]
pub struct Submitted {
    /// The command, or the earlier one with its key.
    pub entry: LedgerEntry,
    /// Motions that it ended before any board had seen them, oldest first.
    pub ended: Vec<LedgerEntry>,
}

/// What came of the wish to cancel a command.
#[derive(Debug, Clone, PartialEq)]
pub enum Cancellation {
    /// No board had seen it, so it is cancelled now.
    Ended(LedgerEntry),
    /// It had ended already.
    Over(LedgerEntry),
    /// The robot is to be told: the command, and the cancellation that was entered.
    Entered(LedgerEntry, CommandId),
    /// A cancellation is under way since earlier.
    UnderWay(LedgerEntry),
}

/// A page of a robot's commands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Only what was entered before this command.
    pub after: Option<CommandId>,
    /// Only what is in one of these states; empty: in any.
    pub states: Vec<CommandState>,
    /// At most so many.
    pub limit: usize,
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

impl NewCommand {
    /// How it ends the robot's motions that were never offered, and what is said of them; `None`
    /// where it lets them be.
    #[must_use]
    pub const fn ends_waiting(&self) -> Option<(CommandState, &'static str)> {
        match &self.order {
            Order::Stop => Some((CommandState::Cancelled, STOPPED)),
            Order::GoTo(_) | Order::Dock => Some((CommandState::Superseded, REPLACED)),
            Order::Pause
            | Order::Resume
            | Order::Say(_)
            | Order::Custom(_)
            | Order::Cancel(_)
            | Order::Withdrawn => None,
        }
    }

    /// How many commands of the robot may be unfinished beside it; `None`: any number. Cancellations
    /// are bounded by what there is to cancel.
    #[must_use]
    pub fn room(&self) -> Option<usize> {
        let stops = MAX_UNFINISHED + MAX_STOPS_BEYOND;
        match &self.order {
            Order::Cancel(_) => None,
            Order::Stop => Some(stops),
            Order::GoTo(_) if self.actor == HOME => Some(stops + MAX_WAYS_HOME_BEYOND),
            Order::GoTo(_)
            | Order::Pause
            | Order::Resume
            | Order::Dock
            | Order::Say(_)
            | Order::Custom(_)
            | Order::Withdrawn => Some(MAX_UNFINISHED),
        }
    }
}

/// Whether a caller who said both under one key asked for the same twice. A place is the same place
/// though it was moved on the map in between.
#[must_use]
pub fn is_same_wish(one: &Order, other: &Order) -> bool {
    let named = |order: &Order| match order {
        Order::GoTo(GoTo { place, floor, .. }) if !place.is_empty() => {
            Some((place.clone(), *floor))
        }
        Order::GoTo(_)
        | Order::Stop
        | Order::Pause
        | Order::Resume
        | Order::Dock
        | Order::Say(_)
        | Order::Custom(_)
        | Order::Cancel(_)
        | Order::Withdrawn => None,
    };
    match (named(one), named(other)) {
        (Some(one), Some(other)) => one == other,
        (None, None) => one == other,
        (Some(_), None) | (None, Some(_)) => false,
    }
}
