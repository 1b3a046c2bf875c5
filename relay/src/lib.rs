//! The cloud relay between people and robots.

pub mod app;
pub mod broker;
pub mod building;
pub mod catalog;
pub mod changes;
pub mod cli;
pub mod clock;
pub mod config;
pub mod data_dir;
pub mod endings;
pub mod fleet;
pub mod guide;
pub mod http;
pub mod journal;
pub mod live;
pub mod metrics;
pub mod projection;
pub mod push;
pub mod seed;
pub mod session;
pub mod sqlite;
pub mod wake;
