//! How much of the backlog may be on its way: as much as the link carries without a queue in front of
//! the live lane, and no more a second than the robot's owner allows.
//!
//! The window follows the delay of acknowledgements, in the manner of LEDBAT (RFC 6817): what exceeds
//! the lowest delay seen is time spent in queues, wherever they are, and the window is steered so that
//! this stays near [`QUEUE_TARGET`]. Now and then it closes for a moment, or else the queue that it
//! keeps would in the end count as the way itself.

use std::time::Duration;

use crate::time::Uptime;

/// How long what is on its way may wait in queues, or half of the way itself where that is longer:
/// TCP moves in steps of its round trip. A live frame waits behind it.
const QUEUE_TARGET: Duration = Duration::from_millis(250);
/// The smallest window. Half a second of a link of 16 kbit/s.
const SMALLEST: usize = 1024;
/// The window of a new session, once it knows the link's delay: half a second of 64 kbit/s.
const FIRST: usize = 4096;
/// The window changes by at most this share of what was acknowledged.
const GAIN: f64 = 0.25;
/// How often the lowest delay is looked for again.
const PROBE_EVERY: Duration = Duration::from_secs(30);
/// What a byte-rate limit lets through at once after a silence: this long of its rate.
const BURST: Duration = Duration::from_secs(1);

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Pace {
    window: usize,
    /// The window still doubles with every round trip.
    is_starting: bool,
    lowest: Option<Duration>,
    probe_at: Uptime,
    /// The window that is to come when the lowest delay is known, and since when that is looked for.
    closed: Option<(usize, Uptime)>,
    rate: Option<Rate>,
}

impl Pace {
    pub(super) fn new(bytes_per_second: Option<u32>, now: Uptime) -> Self {
        Self {
            window: SMALLEST,
            is_starting: true,
            lowest: None,
            probe_at: now.plus(PROBE_EVERY),
            closed: Some((FIRST, now)),
            rate: bytes_per_second.map(|limit| Rate::new(limit, now)),
        }
    }

    /// How many bytes may be on their way.
    pub(super) const fn window(&self) -> usize {
        self.window
    }

    /// How large a batch may be, so that several are on their way and acknowledgements come often.
    pub(super) fn batch(&self) -> usize {
        (self.window / 4).max(SMALLEST / 2)
    }

    /// Bytes were handed to the network.
    pub(super) fn spend(&mut self, bytes: usize, now: Uptime) {
        if let Some(rate) = &mut self.rate {
            rate.spend(bytes, now);
        }
    }

    /// When the byte-rate limit allows the next batch; `None` where it does now.
    pub(super) fn held_until(&self, now: Uptime) -> Option<Uptime> {
        self.rate.as_ref().and_then(|rate| rate.held_until(now))
    }

    /// A batch was acknowledged. `in_flight` is what was on its way with it.
    pub(super) fn measure(&mut self, sent_at: Uptime, bytes: usize, in_flight: usize, now: Uptime) {
        let delay = now.since(sent_at);
        if let Some((window, since)) = self.closed {
            if sent_at < since {
                return;
            }
            // Nothing but a batch or two of the smallest was on its way: it has hardly waited.
            self.closed = None;
            self.window = window;
            self.lowest = Some(delay);
            return;
        }
        let lowest = self.lowest.map_or(delay, |lowest| lowest.min(delay));
        self.lowest = Some(lowest);
        self.steer(delay - lowest, lowest, bytes, in_flight);
        if self.probe_at <= now {
            self.probe_at = now.plus(PROBE_EVERY);
            self.closed = Some((self.window, now));
            self.window = SMALLEST;
        }
    }

    /// Something was lost, or the relay stopped answering: begin anew.
    pub(super) const fn restart(&mut self, now: Uptime) {
        self.window = SMALLEST;
        self.is_starting = true;
        self.closed = Some((FIRST, now));
    }

    fn steer(&mut self, queued: Duration, lowest: Duration, bytes: usize, in_flight: usize) {
        let target = QUEUE_TARGET.max(lowest / 2);
        if self.is_starting {
            // TCP's own window doubles in the same steps, and may be one of them behind.
            if queued <= (target / 2).max(lowest + lowest / 4) {
                self.grow(bytes, in_flight);
                return;
            }
            self.is_starting = false;
        }
        let off_target = 1.0 - queued.as_secs_f64() / target.as_secs_f64();
        let share = GAIN * off_target.clamp(-1.0, 1.0);
        let change = scaled(bytes, share.abs());
        if share >= 0.0 {
            self.grow(change, in_flight);
        } else {
            self.window = self.window.saturating_sub(change).max(SMALLEST);
        }
    }

    /// Only a window that was used tells whether a larger one would do.
    const fn grow(&mut self, bytes: usize, in_flight: usize) {
        if in_flight.saturating_mul(2) >= self.window {
            self.window = self.window.saturating_add(bytes);
        }
    }
}

/// A limit of bytes a second, as a bucket that fills with time. A batch may overdraw it.
#[derive(Debug)]
struct Rate {
    limit: u32,
    /// When the bucket is, or was, empty.
    empty_at: Uptime,
}

impl Rate {
    const fn new(limit: u32, now: Uptime) -> Self {
        Self {
            limit,
            empty_at: now,
        }
    }

    fn spend(&mut self, bytes: usize, now: Uptime) {
        let full_since = Uptime::new(now.since_boot().saturating_sub(BURST));
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let takes = Duration::from_secs(1).mul_f64(f64::from(bytes) / f64::from(self.limit.max(1)));
        self.empty_at = self.empty_at.max(full_since).plus(takes);
    }

    fn held_until(&self, now: Uptime) -> Option<Uptime> {
        (self.empty_at > now).then_some(self.empty_at)
    }
}

fn scaled(bytes: usize, share: f64) -> usize {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    let scaled = Duration::from_secs(u64::from(bytes)).mul_f64(share);
    usize::try_from(scaled.as_secs()).unwrap_or(usize::MAX)
}
