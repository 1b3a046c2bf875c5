//! The cloud relay between people and robots.

pub mod catalog;
pub mod journal;
pub mod live;
pub mod sqlite;
pub mod wake;
