//! Repairs the times of records. Pure.
//!
//! A board's calendar may be wrong by years and may jump; the clock that counts from its boot may
//! not. So a record is as well known in time as the moment of its boot is. A session shows that
//! moment within milliseconds ([`BootClock`]). A boot that never had a session is held between its
//! neighbours in the stream ([`Timeline`]): it began after the last record of the boot before, it
//! was over when the next one began, and nothing is received before it was made.
//!
//! Moments are microseconds since 1970 by the relay's calendar.

use std::collections::BTreeMap;
use std::time::Duration;

use brrbrr_proto::id::{BootId, Seq};
use brrbrr_proto::link::relay::BoardClock;
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use jiff::Timestamp;

/// How much a board's clock may run fast or slow against the relay's, in parts of a million. Cheap
/// crystals keep within 50 over the temperatures that people live in.
const DRIFT: u64 = 100;
/// What a boot's bounds must gain to be written down again, and a tenth of their distance as well.
const NOTABLE: Duration = Duration::from_millis(1);
/// No gateway existed before 2026-01-01.
const FIRST_GATEWAY: i64 = 1_767_225_600_000_000;

/// When a board booted, as sessions of that boot have shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootClock {
    /// Surely not before.
    pub earliest: i64,
    /// Surely not after.
    pub latest: i64,
    /// What the board's clock showed when this was so. Further from it the two clocks drift apart.
    pub at: Uptime,
}

impl BootClock {
    /// What a session shows at the time when something was received.
    #[must_use]
    pub fn heard(clock: &BoardClock, received: Timestamp) -> Self {
        let uptime = received.as_microsecond().saturating_sub(clock.estimate());
        // `at` is as uncertain as the boot's moment.
        let slack = drift_over(Duration::from_micros(clock.latest.abs_diff(clock.earliest)));
        Self {
            earliest: clock.earliest.saturating_sub(slack),
            latest: clock.latest.max(clock.earliest).saturating_add(slack),
            at: Uptime::new(Duration::from_micros(u64::try_from(uptime).unwrap_or(0))),
        }
    }

    /// What is known with what was heard now, where that is notably more than what was known
    /// before. The two together hold the boot's moment. Where they contradict each other, the
    /// relay's own calendar has jumped in between, and the newest counts.
    #[must_use]
    pub fn narrowed(known: Option<Self>, heard: Self) -> Option<Self> {
        let Some(known) = known else {
            return Some(heard);
        };
        let known = known.seen_at(heard.at);
        let both = Self {
            earliest: known.earliest.max(heard.earliest),
            latest: known.latest.min(heard.latest),
            at: heard.at,
        };
        if both.earliest > both.latest {
            return Some(heard);
        }
        let gain = known.width().saturating_sub(both.width());
        let is_notable = u128::from(gain) > NOTABLE.as_micros() && gain > known.width() / 10;
        is_notable.then_some(both)
    }

    /// The bounds as they count for what was made at `uptime`.
    fn seen_at(self, uptime: Uptime) -> Self {
        let apart = uptime.since(self.at).max(self.at.since(uptime));
        let drift = drift_over(apart);
        Self {
            earliest: self.earliest.saturating_sub(drift),
            latest: self.latest.saturating_add(drift),
            at: uptime,
        }
    }

    fn width(self) -> u64 {
        self.latest.abs_diff(self.earliest)
    }
}

/// Records of one boot that follow one another in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The position of the first.
    pub first: Seq,
    /// Which boot.
    pub boot: BootId,
    /// The highest that the boot's clock had reached in them.
    pub last: Uptime,
    /// The boot cannot have been after this, since they were received when they were.
    pub latest: i64,
}

impl Segment {
    /// Begins with a record.
    #[must_use]
    pub fn new(first: Seq, stamp: Stamp, received: Timestamp) -> Self {
        Self {
            first,
            boot: stamp.boot,
            last: stamp.uptime,
            latest: latest_boot(stamp, received),
        }
    }

    /// Goes on with another record of the same boot.
    pub fn extend(&mut self, stamp: Stamp, received: Timestamp) {
        self.last = self.last.max(stamp.uptime);
        self.latest = self.latest.min(latest_boot(stamp, received));
    }
}

fn latest_boot(stamp: Stamp, received: Timestamp) -> i64 {
    received
        .as_microsecond()
        .saturating_sub(micros(stamp.uptime))
}

/// How a time was repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// The boot had a session, which shows when it was.
    Session,
    /// The boot had none, and what the board's calendar showed is possible.
    Claim,
    /// The boot had none, and its calendar was wrong: the middle of what is possible.
    Bounds,
}

/// When something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repaired {
    /// What the board's calendar showed.
    pub claimed: WallClock,
    /// When it was by the relay's calendar, as far as is known.
    pub corrected: Timestamp,
    /// How far that may be off.
    pub uncertainty: Duration,
    /// How it is known.
    pub basis: Basis,
}

/// What is known of the boots in one stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Timeline {
    known: BTreeMap<BootId, BootClock>,
    /// In the order of the stream, with what is known or follows for each.
    segments: Vec<(Segment, BootClock)>,
}

impl Timeline {
    /// From the segments of the stream, in order, and the boots of the robot that had sessions.
    #[must_use]
    pub fn new(segments: &[Segment], known: BTreeMap<BootId, BootClock>) -> Self {
        let latest = latest_boots(segments, &known);
        let mut timeline = Vec::with_capacity(segments.len());
        let mut not_before = FIRST_GATEWAY;
        for (segment, latest) in segments.iter().zip(latest) {
            let clock = known.get(&segment.boot).copied();
            // Bounds that contradict each other come from calendars that jumped: then all between
            // them is possible.
            let clock = clock.unwrap_or(BootClock {
                earliest: not_before.min(latest),
                latest: latest.max(not_before),
                at: Uptime::default(),
            });
            let ended = clock.seen_at(segment.last).earliest;
            not_before = ended.saturating_add(micros(segment.last));
            timeline.push((*segment, clock));
        }
        Self {
            known,
            segments: timeline,
        }
    }

    /// Where only one boot counts, and a session of it is going on.
    #[must_use]
    pub fn of_boot(boot: BootId, heard: BootClock) -> Self {
        Self {
            known: BTreeMap::from([(boot, heard)]),
            segments: Vec::new(),
        }
    }

    /// When a record was made that stands at `seq` and was received then, or something that it
    /// tells of.
    #[must_use]
    pub fn repair(&self, seq: Seq, stamp: Stamp, received: Timestamp) -> Repaired {
        let known = self.known.get(&stamp.boot).copied();
        let clock = known
            .unwrap_or_else(|| self.unknown(seq, stamp, received))
            .seen_at(stamp.uptime);
        let uptime = micros(stamp.uptime);
        let earliest = clock.earliest.saturating_add(uptime);
        let latest = clock.latest.saturating_add(uptime);
        let received = received.as_microsecond();
        let (corrected, uncertainty, basis) = if earliest > received {
            // The relay's own calendar was elsewhere when it received this.
            (received, latest.abs_diff(received), basis(known))
        } else {
            let latest = latest.min(received);
            let claimed = stamp.wall.0;
            if known.is_none() && (earliest..=latest).contains(&claimed) {
                let farther = latest.abs_diff(claimed).max(claimed.abs_diff(earliest));
                (claimed, farther, Basis::Claim)
            } else {
                let middle = i64::midpoint(earliest, latest);
                let half = latest.abs_diff(middle).max(middle.abs_diff(earliest));
                (middle, half, basis(known))
            }
        };
        Repaired {
            claimed: stamp.wall,
            corrected: timestamp(corrected),
            uncertainty: Duration::from_micros(uncertainty),
            basis,
        }
    }

    #[cfg(test)]
    pub(super) fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().map(|(segment, _)| segment)
    }

    /// The bounds of a boot that had no session.
    fn unknown(&self, seq: Seq, stamp: Stamp, received: Timestamp) -> BootClock {
        let of_boot = |(segment, _): &&(Segment, BootClock)| segment.boot == stamp.boot;
        let after = self
            .segments
            .partition_point(|(segment, _)| segment.first <= seq);
        let here = self.segments.get(..after).unwrap_or_default();
        // Normally the segment that the position is in; a hole may tell of those around it.
        let found = here.last().filter(of_boot);
        let found = found.or_else(|| self.segments.iter().find(of_boot));
        found.map_or_else(
            || {
                let latest = latest_boot(stamp, received);
                BootClock {
                    earliest: FIRST_GATEWAY.min(latest),
                    latest,
                    at: Uptime::default(),
                }
            },
            |(_, clock)| *clock,
        )
    }
}

/// When the boot of each segment was at the latest: before all later ones, and early enough for what
/// is told of it.
fn latest_boots(segments: &[Segment], known: &BTreeMap<BootId, BootClock>) -> Vec<i64> {
    let mut latest = Vec::with_capacity(segments.len());
    let mut next_boot = i64::MAX;
    for segment in segments.iter().rev() {
        let ran = micros(segment.last);
        let drift = drift_over(segment.last.since_boot());
        let by_next = next_boot.saturating_sub(ran).saturating_add(drift);
        let by_receipt = segment.latest.saturating_add(drift);
        let unknown = by_next.min(by_receipt);
        next_boot = known
            .get(&segment.boot)
            .map_or(unknown, |clock| clock.seen_at(Uptime::default()).latest);
        latest.push(unknown);
    }
    latest.reverse();
    latest
}

const fn basis(known: Option<BootClock>) -> Basis {
    if known.is_some() {
        Basis::Session
    } else {
        Basis::Bounds
    }
}

fn drift_over(time: Duration) -> i64 {
    let micros = time.as_micros().saturating_mul(u128::from(DRIFT));
    i64::try_from(micros.div_ceil(1_000_000)).unwrap_or(i64::MAX)
}

fn micros(uptime: Uptime) -> i64 {
    i64::try_from(uptime.since_boot().as_micros()).unwrap_or(i64::MAX)
}

fn timestamp(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(if micros < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

#[cfg(test)]
mod tests;
