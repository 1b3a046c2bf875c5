//! What a relay learns of a board's clock from the frames of a session.

use std::time::Duration;

use super::Now;
use crate::id::BootId;
use crate::time::Uptime;

/// Two clocks come apart by a microsecond in so many at most: 100 in a million, more than any board's.
const MICROS_PER_DRIFT: u128 = 10_000;

/// What to add to the uptime of a board's boot to get the relay's calendar: microseconds since 1970
/// at the moment of the boot, between two bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoardClock {
    /// Which boot.
    pub boot: BootId,
    /// Surely not less: the board had heard from the relay when it sent a frame.
    pub earliest: i64,
    /// Surely not more: a frame cannot come in before it was sent.
    pub latest: i64,
}

impl BoardClock {
    /// The middle of the bounds.
    #[must_use]
    pub const fn estimate(&self) -> i64 {
        i64::midpoint(self.earliest, self.latest)
    }

    /// How far the estimate may be off, in microseconds.
    #[must_use]
    pub const fn uncertainty(&self) -> u64 {
        self.latest.abs_diff(self.earliest).div_ceil(2)
    }
}

/// The relay's calendar when its clock that only counts on was at zero, in microseconds since 1970.
/// Setting the calendar later does not disturb a session's estimates.
#[derive(Debug, Clone, Copy)]
pub(super) struct Anchor(i64);

impl Anchor {
    pub(super) fn of(now: Now) -> Self {
        Self(now.wall.0.saturating_sub(micros(now.uptime)))
    }

    /// When a board booted whose clock shows `board` now, in microseconds since 1970.
    pub(super) fn boot(self, now: Uptime, board: Uptime) -> i64 {
        let now = self.0.saturating_add(micros(now));
        now.saturating_sub(micros(board))
    }
}

/// A board's clock, as a session knows it.
#[derive(Debug)]
pub(super) struct SessionClock {
    anchor: Anchor,
    welcomed_at: Uptime,
    board: BoardClock,
    heard_at: Uptime,
}

impl SessionClock {
    /// From a hello, by which the board booted at `latest` at the latest. The welcome is sent now.
    pub(super) const fn new(anchor: Anchor, boot: BootId, latest: i64, now: Uptime) -> Self {
        Self {
            anchor,
            welcomed_at: now,
            board: BoardClock {
                boot,
                // Replaced by the first frame of the session, which shows that the welcome was heard.
                earliest: i64::MIN,
                latest,
            },
            heard_at: now,
        }
    }

    pub(super) const fn board(&self) -> BoardClock {
        self.board
    }

    /// A frame that was sent at `sent`, by the board's clock, came in at `now`.
    pub(super) fn hear(&mut self, sent: Uptime, now: Uptime) {
        // So far the two clocks may have come apart since. Short pauses are left to add up.
        let elapsed = now.since(self.heard_at).as_micros() / MICROS_PER_DRIFT;
        let drift = i64::try_from(elapsed).unwrap_or(i64::MAX);
        let board = &mut self.board;
        if drift > 0 {
            self.heard_at = now;
            board.latest = board.latest.saturating_add(drift);
            board.earliest = board.earliest.saturating_sub(drift);
        }
        board.latest = board.latest.min(self.anchor.boot(now, sent));
        let earliest = self.anchor.boot(self.welcomed_at, sent);
        // A board that lies about its clock gets an empty range at its latest.
        board.earliest = board.earliest.max(earliest).min(board.latest);
    }

    /// How long ago the board's clock showed `sampled`.
    pub(super) fn age(&self, sampled: Uptime, now: Uptime) -> Duration {
        // Before the first frame that says when it was sent, only the latest is known.
        let booted = if self.board.earliest == i64::MIN {
            self.board.latest
        } else {
            self.board.estimate()
        };
        let age = self.anchor.boot(now, sampled).saturating_sub(booted);
        Duration::from_micros(u64::try_from(age).unwrap_or(0))
    }
}

fn micros(uptime: Uptime) -> i64 {
    i64::try_from(uptime.since_boot().as_micros()).unwrap_or(i64::MAX)
}
