//! The cloud relay between people and robots.

pub mod broker;
pub mod catalog;
pub mod journal;
pub mod live;
pub mod wake;
