//! The daemon on a robot's board: it speaks to the robot's own broker, keeps what must not be lost
//! in a spool on disk, and carries out commands safely.

pub mod app;
pub mod board_commands;
pub mod building;
mod calendar;
pub mod cli;
pub mod clock;
pub mod command;
pub mod config;
pub mod drill;
pub mod event_loop;
pub mod identity;
pub mod local;
pub mod notify;
pub mod robot;
pub mod sampler;
pub mod spool;
pub mod status;
pub mod uplink;
