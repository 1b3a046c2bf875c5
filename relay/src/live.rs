//! Live state: auth codes, faces, what each robot is doing for whom, whether it is in contact, its
//! newest status, and how its spool is. One of the relay's three ports.
//!
//! Codes, bindings, guidance and contact outlive a restart of the relay, and so does what a robot said
//! of itself before it went out of contact. What robots in contact say again need not: their newest
//! status, and how the spool is.

pub mod guesses;
pub mod heard;
pub mod memory;

#[cfg(test)]
pub(crate) mod conformance;

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use brrbrr_proto::id::{CommandId, Epoch, RobotId};
use brrbrr_proto::live::{PerField, Status};
use brrbrr_proto::up::Report;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use heard::Heard;

/// Why live state did not do what it was asked.
#[derive(Debug, Error)]
pub enum LiveError {
    /// All 9000 codes are in use.
    #[error("every auth code is in use")]
    NoCodeLeft,
    /// The store cannot be reached or does not answer; the same call may work later.
    #[error("the live store is away: {0}")]
    Away(String),
}

/// The answer of every method.
pub type Result<T> = std::result::Result<T, LiveError>;

/// The lowest and the highest auth code.
pub const CODES: std::ops::RangeInclusive<u16> = 1000..=9999;

/// A robot's four-digit session code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AuthCode(pub u16);

impl std::fmt::Display for AuthCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A push socket, as the socket layer names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SocketId(pub String);

/// What a robot is doing for its guest, in the words that existing clients read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Phase {
    /// Waiting for a guest.
    #[default]
    #[serde(rename = "대기")]
    Idle,
    /// On its way.
    #[serde(rename = "이동중")]
    Moving,
    /// Halted.
    #[serde(rename = "정지")]
    Stopped,
    /// There.
    #[serde(rename = "도착")]
    Arrived,
}

/// What a robot is doing for its guest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Guidance {
    /// How far it is.
    pub phase: Phase,
    /// Where it goes or is, by name.
    pub destination: Option<String>,
    /// The command of the trip.
    pub trip: Option<CommandId>,
}

/// Whether a robot is in contact with the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Contact {
    /// It has a session, and its gateway reaches the robot's own software.
    Online,
    /// It has a session, and its gateway does not reach the robot's own software.
    Degraded,
    /// It has no session: nothing reaches it.
    #[default]
    Offline,
}

impl Contact {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Online, Self::Degraded, Self::Offline];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Degraded => "degraded",
            Self::Offline => "offline",
        }
    }

    /// Whether the robot's gateway has a session, so that commands reach its board.
    #[must_use]
    pub const fn is_reached(self) -> bool {
        match self {
            Self::Online | Self::Degraded => true,
            Self::Offline => false,
        }
    }
}

/// Why a robot is not online.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// Its gateway does not reach the robot's own software.
    RobotSideDown,
    /// Its connection broke or was closed.
    ConnectionLost,
    /// It said nothing for too long.
    Silent,
    /// The relay was restarted, and the robot has not come back yet.
    RelayRestarted,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::RobotSideDown,
        Self::ConnectionLost,
        Self::Silent,
        Self::RelayRestarted,
    ];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RobotSideDown => "robot_side_down",
            Self::ConnectionLost => "connection_lost",
            Self::Silent => "silent",
            Self::RelayRestarted => "relay_restarted",
        }
    }
}

/// Whether a robot is in contact, since when, and when it last was. The default is a robot that never
/// was. See [`fleet::presence`](crate::fleet::presence) for the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Presence {
    /// Whether it is.
    pub contact: Contact,
    /// Since when it has been so; `None` for a robot that never was in contact.
    pub since: Option<Timestamp>,
    /// When the robot was last heard, as far as [`Live::keep_alive`] has said.
    pub last_contact: Option<Timestamp>,
    /// Why it is not online, where it was before.
    pub cause: Option<Cause>,
}

/// How a robot's spool was when it last said so, and when that was heard. It outlives the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spool {
    /// The incarnation of the spool.
    pub epoch: Epoch,
    /// What the robot said.
    pub report: Report,
    /// When it was heard, by the relay's clock.
    pub at: Timestamp,
}

/// Whether one more guess of a code is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guess {
    /// Go on.
    Allowed,
    /// Too many wrong codes of late; ask again after this long.
    Refused(Duration),
}

/// The port. See the module's documentation.
#[async_trait]
pub trait Live: Send + Sync + std::fmt::Debug {
    /// The robot's code. Draws one from the operating system where it has none.
    async fn code(&self, robot: RobotId) -> Result<AuthCode>;
    /// Gives the robot a new code, different from the old one, which is dead at once.
    async fn renew_code(&self, robot: RobotId) -> Result<AuthCode>;
    /// The robot that has the code.
    async fn robot_with_code(&self, code: AuthCode) -> Result<Option<RobotId>>;

    /// Whether an address may guess a code now. To be asked before every look at a code.
    async fn may_guess(&self, from: IpAddr) -> Result<Guess>;
    /// Counts a wrong guess, against the address and against the relay as a whole.
    async fn count_wrong_guess(&self, from: IpAddr) -> Result<()>;

    /// Binds a face to a robot. Returns the socket that had it before, if another.
    async fn bind(&self, robot: RobotId, socket: &SocketId) -> Result<Option<SocketId>>;
    /// Frees the robot if that socket still has it. Returns whether it had.
    async fn unbind(&self, robot: RobotId, socket: &SocketId) -> Result<bool>;
    /// The socket that is bound to the robot.
    async fn face(&self, robot: RobotId) -> Result<Option<SocketId>>;
    /// Every binding.
    async fn faces(&self) -> Result<Vec<(RobotId, SocketId)>>;

    /// What the robot is doing for its guest.
    async fn guidance(&self, robot: RobotId) -> Result<Guidance>;
    /// Sets what the robot is doing.
    async fn set_guidance(&self, robot: RobotId, guidance: Guidance) -> Result<()>;
    /// Moves a trip to another phase, if `trip` is still the robot's trip. Returns whether it was.
    async fn advance(&self, robot: RobotId, trip: CommandId, phase: Phase) -> Result<bool>;

    /// Shows that the robot was stopped. A trip that has ended stays as it ended.
    async fn stop_trip(&self, robot: RobotId) -> Result<()>;

    /// Takes over what the live lane shows, and when the robot said it. See [`Heard::show`].
    async fn hear(&self, robot: RobotId, status: Status, said: PerField<Timestamp>) -> Result<()>;
    /// Takes over what records tell, oldest first, and when they were made. See [`Heard::remember`].
    async fn hear_late(&self, robot: RobotId, told: Vec<(Status, Timestamp)>) -> Result<()>;
    /// The newest status.
    async fn heard(&self, robot: RobotId) -> Result<Option<Heard>>;

    /// Takes over what the robot says of its spool. Its last word counts.
    async fn hear_spool(&self, robot: RobotId, spool: Spool) -> Result<()>;
    /// How the robot's spool was when it last said so.
    async fn spool(&self, robot: RobotId) -> Result<Option<Spool>>;

    /// Whether the robot is in contact.
    async fn presence(&self, robot: RobotId) -> Result<Presence>;
    /// The same of every robot that ever was in contact.
    async fn presences(&self) -> Result<Vec<(RobotId, Presence)>>;
    /// Robots have come into contact, have lost it, or their own side has come or gone. Shown at once
    /// and durable when this is over, all of it in one step.
    async fn note_contacts(&self, changes: Vec<(RobotId, Presence)>) -> Result<()>;
    /// The relay is alive at this moment, and robots were last heard at these. Only the first is
    /// durable: after a restart, whoever was in contact has been out of it since then.
    async fn keep_alive(&self, at: Timestamp, heard: Vec<(RobotId, Timestamp)>) -> Result<()>;
    /// When a relay was last known to be alive.
    async fn alive(&self) -> Result<Option<Timestamp>>;

    /// Forgets everything about a robot.
    async fn forget(&self, robot: RobotId) -> Result<()>;
    /// Forgets everything about every robot but whether it is in contact: codes, bindings, guidance,
    /// statuses, spools.
    async fn reset(&self) -> Result<()>;
}
