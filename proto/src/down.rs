//! What a relay says to a gateway (topic kind `down`): welcomes, acknowledgements and commands.
//!
//! Append only: a variant's position is its number on the wire, and a struct's fields never change.
//! `tests/wire` pins the bytes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{CommandId, Cursor, HelloId, RelayId, Revision, Seq, SessionId};
use crate::live::Pose;
use crate::time::{Uptime, WallClock};
use crate::wire;

/// The largest encoded command. The relay refuses what is larger before it is in the ledger.
pub const MAX_COMMAND_BYTES: usize = 16 * 1024;
/// The most commands that a gateway takes in one frame.
pub const MAX_COMMANDS: usize = 64;

/// What a relay says to a gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Down {
    /// Opens a session.
    Welcome(Welcome),
    /// Everything before a position is stored.
    Ack(Ack),
    /// Commands to store and carry out.
    Commands(Commands),
    /// No session now; ask again after a time.
    Wait(Wait),
    /// The session is not known; say hello again.
    Rehello(Rehello),
    /// A part of what there is to know of the building, or which revision is the newest.
    Building(Part),
    /// The building cannot be sent.
    NoBuilding(NoBuilding),
}

/// Opens a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The hello it answers.
    pub hello: HelloId,
    /// The session that data must carry.
    pub session: SessionId,
    /// Where data must go.
    pub relay: RelayId,
    /// The first position of the up stream that the relay does not have.
    pub up_next: Seq,
    /// Where the down stream goes on.
    pub down: Cursor,
    /// The relay's calendar.
    pub now: WallClock,
    /// The relay's clock that only counts on; see [`Commands::sent`].
    pub uptime: Uptime,
    /// How many bytes of records may be unacknowledged at a time.
    pub credit: u32,
    /// The shortest time between two live frames.
    pub live_interval: Duration,
    /// The longest time between two beats.
    pub beat_interval: Duration,
    /// The wire version to use from now on.
    pub version: u8,
}

/// Everything before `next` is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The session it belongs to.
    pub session: SessionId,
    /// The first position that the relay has not stored.
    pub next: Seq,
    /// How many bytes of records may be unacknowledged from now on.
    pub credit: u32,
}

/// A run of the robot's commands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Commands {
    /// The session it belongs to.
    pub session: SessionId,
    /// When the frame was sent, by the relay's clock that only counts on. A frame that is late, measured
    /// by the fastest one of its session, has used up that much of its commands' time.
    pub sent: Uptime,
    /// The position of the first command in the down stream.
    pub first: Seq,
    /// The commands, in order and without holes; at most [`MAX_COMMANDS`].
    #[serde(deserialize_with = "wire::commands")]
    pub commands: Vec<Command>,
}

/// Asks a gateway to come back later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// The hello it answers.
    pub hello: HelloId,
    /// How long to wait at least.
    pub pause: Duration,
}

/// The relay does not know the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rehello {
    /// The session it does not know.
    pub session: SessionId,
}

/// A part of what there is to know of the building. `building` says what it is a part of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The session it belongs to.
    pub session: SessionId,
    /// What the parts are together.
    pub revision: Revision,
    /// Which part, from 0 on.
    pub part: u32,
    /// How many there are. Zero: this only says which revision is the newest.
    pub parts: u32,
    /// The part; at most [`MAX_PART_BYTES`](crate::building::MAX_PART_BYTES).
    #[serde(with = "wire::part")]
    pub bytes: Vec<u8>,
}

/// The building cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoBuilding {
    /// The session it belongs to.
    pub session: SessionId,
    /// A sentence for people.
    pub reason: String,
}

/// Something a robot is asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// Its identity in the ledger.
    pub id: CommandId,
    /// How long it may still be started, counted from the moment the frame is sent. Zero: it must
    /// not be started any more, only reported.
    pub time_to_live: Duration,
    /// What to do.
    pub order: Order,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// Drive to a pose.
    GoTo(GoTo),
    /// Halt and give up the goal.
    Stop,
    /// Halt and keep the goal.
    Pause,
    /// Drive on to the kept goal.
    Resume,
    /// Drive to the charger.
    Dock,
    /// Speak a text.
    Say(String),
    /// Something only the integrator's own software understands.
    Custom(Action),
    /// Withdraw another command.
    Cancel(CommandId),
    /// The relay ended the command before it was ever sent. It has a position in the stream and is
    /// not entered on the board.
    Withdrawn,
}

impl Order {
    /// Whether it makes the robot drive; one such order runs at a time.
    #[must_use]
    pub const fn is_motion(&self) -> bool {
        match self {
            Self::GoTo(_) | Self::Dock => true,
            Self::Stop
            | Self::Pause
            | Self::Resume
            | Self::Say(_)
            | Self::Custom(_)
            | Self::Cancel(_)
            | Self::Withdrawn => false,
        }
    }

    /// Whether a robot that stands may drive because of it: a motion, or going on with one.
    #[must_use]
    pub const fn sets_in_motion(&self) -> bool {
        self.is_motion() || matches!(self, Self::Resume)
    }
}

/// Drive to a pose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GoTo {
    /// Where to.
    pub pose: Pose,
    /// On which floor the pose lies, where known.
    pub floor: Option<i32>,
    /// What people call it; empty where it has no name.
    pub place: String,
}

/// Something only the integrator's own software understands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// The integrator's name for it.
    pub name: String,
    /// A JSON document.
    pub json: String,
}
