//! The two clocks of a robot's board: one that only counts on, and one that people read.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::BootId;

/// Time since the board booted, suspend included (`CLOCK_BOOTTIME`), in whole microseconds.
/// Values of different boots must not be compared.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Uptime(u64);

impl Uptime {
    /// This long after the boot. Saturates after 584 000 years.
    #[must_use]
    pub fn new(since_boot: Duration) -> Self {
        Self(u64::try_from(since_boot.as_micros()).unwrap_or(u64::MAX))
    }

    /// How long after the boot.
    #[must_use]
    pub const fn since_boot(self) -> Duration {
        Duration::from_micros(self.0)
    }

    /// How long after `earlier`; zero if it was not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The moment `later` after this one. Saturates.
    #[must_use]
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(Self::new(later).0))
    }
}

/// What a calendar clock claims: microseconds since 1970-01-01T00:00:00Z. It may be wrong by years
/// and may jump.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct WallClock(pub i64);

/// When something happened, by both clocks of the board it happened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// The boot that `uptime` counts from.
    pub boot: BootId,
    /// The clock that only counts on.
    pub uptime: Uptime,
    /// The clock that people read.
    pub wall: WallClock,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_saturate_at_both_ends() {
        let end = Uptime::new(Duration::MAX);
        assert_eq!(end.plus(Duration::from_secs(1)), end);
        assert_eq!(Uptime::default().plus(Duration::MAX), end);
        assert_eq!(Uptime::default().since(end), Duration::ZERO);
        assert_eq!(end.since(Uptime::default()), end.since_boot());
    }

    #[test]
    fn moments_count_whole_microseconds() {
        let at = Uptime::new(Duration::from_nanos(1_999));
        assert_eq!(at.since_boot(), Duration::from_micros(1));
    }
}
