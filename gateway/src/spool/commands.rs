//! Commands as the spool keeps them.

use brrbrr_proto::down::Command;
use brrbrr_proto::id::{BootId, CommandId};
use brrbrr_proto::time::{Stamp, Uptime};
use brrbrr_proto::up::Progress;
use serde::{Deserialize, Serialize};

/// How far a command was handed to the robot. Append only: it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HandOver {
    /// The robot has surely not seen it.
    NotYet,
    /// It may have reached the robot; nobody has said so yet.
    Offered,
    /// The robot's broker has it.
    Confirmed,
    /// The robot has arrived, and that is recorded.
    Arrived,
}

/// Where a command comes from. Append only: it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// The relay sent it.
    Relay,
    /// A program on the board gave it.
    Board {
        /// Who asked, for people.
        actor: String,
        /// The caller's own key: no two commands that are kept have the same.
        key: Option<String>,
    },
}

/// A command as the gateway keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredCommand {
    /// The command.
    pub command: Command,
    /// Where it comes from.
    pub origin: Origin,
    /// When it was received, in `boot`.
    pub received: Uptime,
    /// The boot that `received` and `deadline` count from.
    pub boot: BootId,
    /// When it must not be started any more.
    pub deadline: Uptime,
    /// Where it stands.
    pub progress: Progress,
    /// How far it was handed to the robot.
    pub hand_over: HandOver,
}

impl StoredCommand {
    /// A command that the relay has just sent and that may be started for its time to live.
    #[must_use]
    pub fn received(command: Command, boot: BootId, now: Uptime) -> Self {
        Self {
            deadline: now.plus(command.time_to_live),
            command,
            origin: Origin::Relay,
            received: now,
            boot,
            progress: Progress::Received,
            hand_over: HandOver::NotYet,
        }
    }

    /// The key that its giver gave it.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        match &self.origin {
            Origin::Relay => None,
            Origin::Board { key, .. } => key.as_deref(),
        }
    }
}

/// A step of a stored command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandChange {
    /// Which command.
    pub id: CommandId,
    /// Where it stands now.
    pub progress: Progress,
    /// How far it is handed over now.
    pub hand_over: HandOver,
}

/// A state that a command came into. Its fields are stored: they never change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// Which.
    pub state: Progress,
    /// When.
    pub at: Stamp,
    /// A sentence about it; may be empty.
    pub detail: String,
}

/// How far a running command has got. Its fields are stored: they never change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// From 0 to 100.
    pub percent: u8,
    /// A sentence for people; may be empty.
    pub text: String,
    /// When the robot said so.
    pub at: Stamp,
}

/// A command and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptCommand {
    /// The command and where it stands.
    pub stored: StoredCommand,
    /// Every state it came into, oldest first. The first is when it was received; where it is
    /// missing, a damaged spool had to be made anew.
    pub history: Vec<Transition>,
    /// How far it has got, where the robot said so.
    pub reached: Option<Reached>,
    /// A cancellation of it is under way.
    pub cancelling: bool,
}

impl KeptCommand {
    /// Its id.
    #[must_use]
    pub const fn id(&self) -> CommandId {
        self.stored.command.id
    }

    /// When it was given.
    #[must_use]
    pub fn given_at(&self) -> Option<Stamp> {
        self.history.first().map(|first| first.at)
    }

    /// What was said about its state; may be empty.
    #[must_use]
    pub fn detail(&self) -> &str {
        self.history.last().map_or("", |last| &last.detail)
    }
}
