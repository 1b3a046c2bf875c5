//! The relay's clocks. The only place of the relay that reads them for the link and for commands.

use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use brrbrr_proto::link::relay::Now;
use brrbrr_proto::time::{Uptime, WallClock};
use jiff::{SignedDuration, Timestamp};

/// Counts from the moment it was made.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// Starts counting.
    #[must_use]
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
        }
    }

    /// What the clocks show.
    #[must_use]
    pub fn now(self) -> Now {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let micros = since_1970.map_or(0, |since| since.as_micros());
        Now {
            uptime: Uptime::new(self.started.elapsed()),
            wall: WallClock(i64::try_from(micros).unwrap_or(i64::MAX)),
        }
    }

    /// The moment of the runtime's clock at which this clock shows `uptime`.
    #[must_use]
    pub fn instant(self, uptime: Uptime) -> tokio::time::Instant {
        (self.started + uptime.since_boot()).into()
    }
}

/// The calendar as far as commands are concerned: their submission, their deadlines, and whether
/// those have passed. While the process runs it is never slower than time passes, so that no command
/// gets time back because somebody set the clock. Until it is true again it may be ahead.
#[must_use]
pub fn calendar() -> Timestamp {
    static CALENDAR: Mutex<Calendar> = Mutex::new(Calendar { last: None });
    // It cannot be left half-changed, so a panic elsewhere does not matter.
    let mut calendar = CALENDAR.lock().unwrap_or_else(PoisonError::into_inner);
    let wall = Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::MAX);
    calendar.read(wall, Instant::now())
}

#[derive(Debug)]
struct Calendar {
    last: Option<(Timestamp, Instant)>,
}

impl Calendar {
    fn read(&mut self, wall: Timestamp, uptime: Instant) -> Timestamp {
        let at_least = self.last.and_then(|(last, since)| {
            let passed = SignedDuration::try_from(uptime.saturating_duration_since(since));
            last.checked_add(passed.ok()?).ok()
        });
        let now = at_least.map_or(wall, |at_least| at_least.max(wall));
        self.last = Some((now, uptime));
        now
    }
}

/// Sleeps until then, or for ever where there is no such moment.
pub async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_calendar_of_commands_follows_a_clock_set_forward_and_none_set_back() {
        let mut calendar = Calendar { last: None };
        let start = Instant::now();
        let mut read = |wall, uptime| {
            let wall = Timestamp::from_second(wall).unwrap();
            let read = calendar.read(wall, start + Duration::from_secs(uptime));
            read.as_second()
        };
        assert_eq!(read(1_000, 0), 1_000);
        assert_eq!(read(1_040, 40), 1_040);
        // Set back by 30 s, and nothing gets them back.
        assert_eq!(read(1_011, 41), 1_041);
        assert_eq!(read(1_021, 51), 1_051);
        // A machine that slept: its uptime stood still, and its calendar did not.
        assert_eq!(read(2_000, 52), 2_000);
    }
}
