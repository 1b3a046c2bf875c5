//! The gateway's tests against real files, processes and servers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod amqp;
mod commands;
mod daemon;
mod damage;
mod drill;
mod failing_disk;
mod local;
mod local_api;
mod power_cut;
mod sim;
mod spool;
mod spool_retention;
