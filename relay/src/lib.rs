//! The cloud relay between people and robots.

pub mod app;
pub mod broker;
pub mod catalog;
pub mod clock;
pub mod fleet;
pub mod journal;
pub mod live;
pub mod sqlite;
pub mod wake;
