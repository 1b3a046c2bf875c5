//! The relay's clocks. The only place of the relay that reads them for the link.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use brrbrr_proto::link::relay::Now;
use brrbrr_proto::time::{Uptime, WallClock};

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

/// Sleeps until then, or for ever where there is no such moment.
pub async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
