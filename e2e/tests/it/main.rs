//! The whole system: real programs, a real `RabbitMQ`, and peers that were written from the
//! contract alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and drills say what they saw"
)]

mod board;
mod demo;
mod drill;
mod faces;
mod kills;
mod malformed;
mod model;
mod networks;
mod obedience;
mod reports;
mod two_robots;
mod under_load;
