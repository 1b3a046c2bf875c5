//! The daemon on a robot's board: it speaks to the robot's own broker, keeps what must not be lost
//! in a spool on disk, and carries out commands safely.

pub mod clock;
pub mod command;
pub mod robot;
pub mod spool;
