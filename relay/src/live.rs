//! Live state: auth codes, faces, what each robot is doing for whom, its newest status, and how its
//! spool is. One of the relay's three ports.
//!
//! Codes, bindings and guidance outlive a restart of the relay. What robots say again need not: the
//! newest status, and how the spool is.

pub mod guesses;
pub mod memory;

#[cfg(test)]
pub(crate) mod conformance;

use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use brrbrr_proto::id::{CommandId, Epoch, RobotId};
use brrbrr_proto::live::Status;
use brrbrr_proto::up::Report;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

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

/// The newest status of a robot and when the relay heard it.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// What the robot said.
    pub status: Status,
    /// When it was heard, by the relay's clock.
    pub at: Timestamp,
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

    /// Takes over what the status knows. One that is older than what was heard last only fills in
    /// what is not known.
    async fn hear(&self, robot: RobotId, status: Status, at: Timestamp) -> Result<()>;
    /// The newest status.
    async fn heard(&self, robot: RobotId) -> Result<Option<Heard>>;

    /// Takes over what the robot says of its spool. Its last word counts.
    async fn hear_spool(&self, robot: RobotId, spool: Spool) -> Result<()>;
    /// How the robot's spool was when it last said so.
    async fn spool(&self, robot: RobotId) -> Result<Option<Spool>>;

    /// Forgets everything about a robot.
    async fn forget(&self, robot: RobotId) -> Result<()>;
    /// Forgets everything about every robot: codes, bindings, guidance, statuses,
    /// spools.
    async fn reset(&self) -> Result<()>;
}
