//! Versions of the wire format. One byte leads every frame; enums only ever grow at their end.

use serde::{Deserialize, Serialize};

/// The version this build writes.
pub const CURRENT: u8 = 1;

/// The versions a program can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The oldest.
    pub oldest: u8,
    /// The newest.
    pub newest: u8,
}

impl Versions {
    /// What this build can read.
    pub const SUPPORTED: Self = Self {
        oldest: 1,
        newest: CURRENT,
    };

    /// The newest version that both can read, if there is one.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u8> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_programs_speak_the_newest_version_both_know() {
        let of = |oldest, newest| Versions { oldest, newest };
        assert_eq!(of(1, 3).common(of(2, 5)), Some(3));
        assert_eq!(of(1, 1).common(of(1, 1)), Some(1));
        assert_eq!(of(1, 2).common(of(3, 4)), None);
    }
}
