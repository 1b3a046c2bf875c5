//! What a BrrBrr gateway and a BrrBrr relay say to each other, and the rules by which they say it.
//!
//! Everything here is pure: no I/O, no runtime, no clock, no randomness of its own. Drivers in the
//! two programs pass time, random numbers and storage results in, and carry the outputs out.

pub mod api;
pub mod backoff;
pub mod building;
pub mod down;
pub mod enrolment;
pub mod frame;
pub mod id;
pub mod link;
pub mod live;
pub mod names;
pub mod seal;
pub mod time;
pub mod topic;
pub mod up;
pub mod version;
mod wire;
