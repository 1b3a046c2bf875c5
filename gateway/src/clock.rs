//! The board's clocks. This is the one place that reads them.

pub mod alarm;

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use brrbrr_proto::id::BootId;
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use rustix::time::{ClockId, clock_gettime};
use thiserror::Error;

/// Where the kernel names the current boot; see `random(4)`.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Why there is no clock.
#[derive(Debug, Error)]
pub enum ClockError {
    /// The kernel's name of this boot cannot be read.
    #[error("cannot read {BOOT_ID}, is /proc mounted")]
    Unreadable(#[source] std::io::Error),
    /// The kernel's name of this boot is not a UUID.
    #[error("{BOOT_ID} holds no UUID: {0:?}")]
    NotUuid(String),
}

/// Reads the board's clocks. It knows which boot they count from.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    boot: BootId,
}

impl Clock {
    /// The clocks of this boot.
    ///
    /// # Errors
    /// Where the kernel does not say which boot this is.
    pub fn of_this_boot() -> Result<Self, ClockError> {
        let text = fs::read_to_string(BOOT_ID).map_err(ClockError::Unreadable)?;
        let boot = boot_id(&text).ok_or(ClockError::NotUuid(text))?;
        Ok(Self { boot })
    }

    /// Which boot this is.
    #[must_use]
    pub const fn boot(&self) -> BootId {
        self.boot
    }

    /// Time since the boot, suspend included.
    #[must_use]
    pub fn uptime(&self) -> Uptime {
        uptime()
    }

    /// What the calendar clock claims.
    #[must_use]
    pub fn wall(&self) -> WallClock {
        let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => WallClock(micros(after)),
            Err(before) => WallClock(-micros(before.duration())),
        }
    }

    /// Now, by both clocks.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        Stamp {
            boot: self.boot,
            uptime: self.uptime(),
            wall: self.wall(),
        }
    }
}

/// Time since the boot, suspend included. For whoever needs not know which boot this is.
#[must_use]
pub fn uptime() -> Uptime {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    Uptime::new(Duration::new(seconds, nanos))
}

/// The first half of a UUID.
fn boot_id(uuid: &str) -> Option<BootId> {
    let digits: String = uuid.chars().filter(|c| *c != '-').take(16).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_is_named_by_the_first_half_of_the_kernels_uuid() {
        let id = boot_id("0123abcd-4567-89ab-cdef-0123456789ab\n");
        assert_eq!(id, Some(BootId(0x0123_abcd_4567_89ab)));
        assert_eq!(boot_id("nonsense"), None);
    }

    #[test]
    fn the_uptime_never_goes_back() {
        let clock = Clock::of_this_boot().unwrap();
        let earlier = clock.uptime();
        assert!(clock.uptime() >= earlier);
        assert_eq!(clock.boot(), Clock::of_this_boot().unwrap().boot());
    }
}
