//! What the link does when storage goes back in time, frames come again, the other side means harm,
//! or nobody answers. Loss, delay and crashes are the simulation's part, in `tests/sim`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a failing scenario panics"
)]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a scenario looks for one kind of output"
)]

mod building;
mod clock;
mod fuzzed;
mod grants;
mod hostile;
mod loads;
#[path = "../wire/message.rs"]
mod message;
mod pair;
mod replay;
mod restore;
mod slow;
mod spread;
mod timers;
