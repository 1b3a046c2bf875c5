//! What the relay does with real sockets and real stores.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests are tests

mod broker;
mod cli;
mod cli_journal;
mod faces;
mod http;
mod http_commands;
mod http_history;
mod http_limits;
mod http_malformed;
mod http_search;
mod http_server;
mod http_status;
mod storm;
