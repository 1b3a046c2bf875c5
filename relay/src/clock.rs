//! The relay's clocks. The only place of the relay that reads them for the link and for commands.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use brrbrr_proto::link::relay::Now;
use brrbrr_proto::time::{Uptime, WallClock};
use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use tracing::warn;

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
/// those have passed. It starts at what the machine's clock shows, but never before what the stores
/// know of ([`not_before`]), and then counts as time passes, also while the machine sleeps. It never
/// goes back, so no command gets time back because somebody set the clock; and it catches up with a
/// clock that was set forward by [`CATCH_UP`] at most, so none loses its time by that.
#[must_use]
pub fn calendar() -> Timestamp {
    lock().read(wall(), since_boot())
}

/// Has the calendar go on from this moment at least: it is known to have passed. How long the relay was
/// down is not known where the machine's clock is behind that.
pub fn not_before(known: Timestamp) {
    let wall = wall();
    if wall < known {
        warn!(%wall, %known, "the clock is behind what the stores know of; commands go by the latter");
    }
    lock().raise(known, wall, since_boot());
}

static CALENDAR: Mutex<Calendar> = Mutex::new(Calendar { last: None });
/// One part in so many is what the calendar may be faster than time passes: a second a minute.
const CATCH_UP: u32 = 60;

fn lock() -> MutexGuard<'static, Calendar> {
    // It cannot be left half-changed, so a panic elsewhere does not matter.
    CALENDAR.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wall() -> Timestamp {
    Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::MAX)
}

/// Counts on while the machine sleeps, and nobody can set it.
fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanos)
}

#[derive(Debug)]
struct Calendar {
    /// What was read last, and how long after the machine's start.
    last: Option<(Timestamp, Duration)>,
}

impl Calendar {
    fn read(&mut self, wall: Timestamp, since_boot: Duration) -> Timestamp {
        let now = match self.last {
            None => wall,
            Some((last, since)) => {
                let passed = since_boot.saturating_sub(since);
                let counted = last.saturating_add(passed).unwrap_or(last);
                let behind = Duration::try_from(wall.duration_since(counted)).unwrap_or_default();
                let catching_up = behind.min(passed / CATCH_UP);
                counted.saturating_add(catching_up).unwrap_or(counted)
            }
        };
        self.last = Some((now, since_boot));
        now
    }

    fn raise(&mut self, known: Timestamp, wall: Timestamp, since_boot: Duration) {
        let now = self.read(wall, since_boot).max(known);
        self.last = Some((now, since_boot));
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
    use super::*;

    fn read(calendar: &mut Calendar, wall: i64, since_boot: u64) -> i64 {
        let wall = Timestamp::from_second(wall).unwrap();
        let read = calendar.read(wall, Duration::from_secs(since_boot));
        read.as_second()
    }

    #[test]
    fn the_calendar_of_commands_counts_on_when_the_clock_is_set_back() {
        let mut calendar = Calendar { last: None };
        assert_eq!(read(&mut calendar, 1_000, 0), 1_000);
        assert_eq!(read(&mut calendar, 1_040, 40), 1_040);
        // Set back by 30 s, and nothing gets them back.
        assert_eq!(read(&mut calendar, 1_011, 41), 1_041);
        assert_eq!(read(&mut calendar, 1_021, 51), 1_051);
    }

    #[test]
    fn a_clock_set_forward_is_caught_up_with_by_a_second_a_minute() {
        let mut calendar = Calendar { last: None };
        assert_eq!(read(&mut calendar, 1_000, 0), 1_000);
        // Set forward by an hour.
        assert_eq!(read(&mut calendar, 4_600, 0), 1_000);
        assert_eq!(read(&mut calendar, 4_660, 60), 1_061);
        for second in 61..=660 {
            read(
                &mut calendar,
                4_600 + i64::try_from(second).unwrap(),
                second,
            );
        }
        assert_eq!(read(&mut calendar, 5_260, 660), 1_670);
        // Put right again: it is ahead by what it had caught up with.
        assert_eq!(read(&mut calendar, 1_670, 670), 1_680);
    }

    #[test]
    fn a_clock_that_drifts_is_followed() {
        let mut calendar = Calendar { last: None };
        assert_eq!(read(&mut calendar, 1_000, 0), 1_000);
        assert_eq!(read(&mut calendar, 1_601, 600), 1_601);
    }

    #[test]
    fn the_calendar_starts_no_earlier_than_what_the_stores_know() {
        let known = Timestamp::from_second(7_000).unwrap();
        let wall = |second| Timestamp::from_second(second).unwrap();
        let mut calendar = Calendar { last: None };
        calendar.raise(known, wall(500), Duration::from_secs(3));
        assert_eq!(read(&mut calendar, 510, 13), 7_010);
        let mut calendar = Calendar { last: None };
        calendar.raise(known, wall(7_100), Duration::from_secs(3));
        assert_eq!(read(&mut calendar, 7_101, 4), 7_101);
    }
}
