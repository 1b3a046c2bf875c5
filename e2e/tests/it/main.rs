//! The whole system: real programs, a real `RabbitMQ`, and peers that were written from the
//! contract alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod demo;
mod drill;
mod faces;
mod kills;
mod malformed;
mod two_robots;
mod under_load;
