//! Names of messages, by which a repeat is known. Names that programs on the board give are kept
//! apart from those of the robot's messages: a busy program must not have the spool forget what the
//! robot's broker may still deliver again.

use std::ops::Range;

use super::{MAX_SOURCE_BYTES, SourceId};

/// Goes before the names that programs give. A name that comes over AMQP is a short string, which
/// holds no zero byte (AMQP 0-9-1, 4.2.5.3), so the two cannot be confused.
const PROGRAM: &str = "\0local:";
/// Where the places of programs' names begin. Each kind has places for centuries.
const PROGRAM_PLACES: i64 = 1 << 62;

/// The longest name that a program can give, in bytes.
pub const MAX_PROGRAM_SOURCE_BYTES: usize = MAX_SOURCE_BYTES - PROGRAM.len();

impl SourceId {
    /// The name that a program on the board gave.
    #[must_use]
    pub fn of_program(name: &str) -> Self {
        Self(format!("{PROGRAM}{name}"))
    }

    /// The places of names of this kind, in the order in which they were written.
    pub(super) fn places(&self) -> Range<i64> {
        match self.0.starts_with(PROGRAM) {
            true => PROGRAM_PLACES..i64::MAX,
            false => 0..PROGRAM_PLACES,
        }
    }
}
