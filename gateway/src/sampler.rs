//! Telemetry: samples of the robot's status that are kept, not only shown. Pure.
//!
//! A sample is taken when the status differs from the last one, at most once an interval, and some
//! are written together, to spare the flash. A status is nobody's durable message, so samples that
//! wait here are lost with the process; what is written is kept like every other record.

use std::time::Duration;

use brrbrr_proto::live::Status;
use brrbrr_proto::time::{Stamp, Uptime};
use brrbrr_proto::up::{Event, Record};

/// How long the oldest sample waits to be written. It is also what a power cut can take.
pub const HOLD: Duration = Duration::from_secs(10);
/// How many samples wait for a disk that takes nothing. Older ones make way.
const HELD_MAX: usize = 64;

/// Takes samples. See the module's documentation.
#[derive(Debug)]
pub struct Sampler {
    interval: Duration,
    /// The last sample, and when it was taken.
    last: Option<(Uptime, Status)>,
    /// The newest status, while it is not in a sample.
    unsampled: Option<Status>,
    held: Vec<Record>,
    write_at: Option<Uptime>,
}

impl Sampler {
    /// Takes samples this far apart at least.
    #[must_use]
    pub const fn new(interval: Duration) -> Self {
        Self {
            interval,
            last: None,
            unsampled: None,
            held: Vec::new(),
            write_at: None,
        }
    }

    /// The robot's newest status.
    pub fn handle_status(&mut self, status: &Status, now: Stamp) {
        let is_news = self.last.as_ref().is_none_or(|(_, last)| last != status);
        self.unsampled = is_news.then(|| status.clone());
        self.sample(now);
    }

    /// The moment that [`Sampler::poll_timeout`] named has come, or any other. Returns samples that
    /// are to be written now, in order.
    pub fn handle_timeout(&mut self, now: Stamp) -> Vec<Record> {
        self.sample(now);
        match self.write_at {
            Some(at) if at <= now.uptime => self.take(),
            Some(_) | None => Vec::new(),
        }
    }

    /// All samples that wait, in order.
    pub fn take(&mut self) -> Vec<Record> {
        self.write_at = None;
        std::mem::take(&mut self.held)
    }

    /// The disk took none of these; they are tried again later.
    pub fn handle_refused(&mut self, mut samples: Vec<Record>, now: Uptime) {
        samples.append(&mut self.held);
        let surplus = samples.len().saturating_sub(HELD_MAX);
        samples.drain(..surplus);
        self.held = samples;
        self.write_at = Some(now.plus(HOLD));
    }

    /// When to call [`Sampler::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Uptime> {
        let sample_at = self.unsampled.as_ref().and(self.last.as_ref());
        let sample_at = sample_at.map(|(at, _)| at.plus(self.interval));
        [sample_at, self.write_at].into_iter().flatten().min()
    }

    fn sample(&mut self, now: Stamp) {
        let is_due = |(at, _): &(Uptime, Status)| at.plus(self.interval) <= now.uptime;
        if !self.last.as_ref().is_none_or(is_due) {
            return;
        }
        let Some(status) = self.unsampled.take() else {
            return;
        };
        self.last = Some((now.uptime, status.clone()));
        self.held.push(Record {
            stamp: now,
            event: Event::Telemetry(status),
        });
        if self.held.len() > HELD_MAX {
            self.held.remove(0);
        }
        self.write_at.get_or_insert(now.uptime.plus(HOLD));
    }
}

#[cfg(test)]
mod tests {
    use brrbrr_proto::id::BootId;
    use brrbrr_proto::time::WallClock;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Stamp {
        Stamp {
            boot: BootId(1),
            uptime: Uptime::new(Duration::from_millis(millis)),
            wall: WallClock(0),
        }
    }

    fn charge(battery: f64) -> Status {
        Status {
            battery: Some(battery),
            ..Status::default()
        }
    }

    fn taken(records: &[Record]) -> Vec<(u128, Option<f64>)> {
        let sample = |record: &Record| {
            let Event::Telemetry(status) = &record.event else {
                unreachable!("{record:?}");
            };
            let millis = record.stamp.uptime.since_boot().as_millis();
            (millis, status.battery)
        };
        records.iter().map(sample).collect()
    }

    #[test]
    fn samples_are_an_interval_apart_and_the_last_status_is_among_them() {
        let mut sampler = Sampler::new(SECOND);
        sampler.handle_status(&charge(0.9), at(0));
        sampler.handle_status(&charge(0.8), at(300));
        sampler.handle_status(&charge(0.7), at(600));
        assert_eq!(sampler.poll_timeout(), Some(at(1_000).uptime));
        assert_eq!(sampler.handle_timeout(at(1_000)), []);
        assert_eq!(sampler.poll_timeout(), Some(at(10_000).uptime));
        let samples = sampler.handle_timeout(at(10_000));
        assert_eq!(taken(&samples), [(0, Some(0.9)), (1_000, Some(0.7))]);
        assert_eq!(sampler.poll_timeout(), None);
    }

    #[test]
    fn a_status_that_stays_as_it_is_makes_no_samples() {
        let mut sampler = Sampler::new(SECOND);
        for millis in (0..60_000).step_by(500) {
            sampler.handle_status(&charge(0.5), at(millis));
        }
        assert_eq!(taken(&sampler.take()), [(0, Some(0.5))]);
        // Nor does one that only went away and came back in between.
        sampler.handle_status(&charge(0.4), at(60_000));
        sampler.handle_status(&charge(0.5), at(60_100));
        sampler.handle_status(&charge(0.4), at(60_200));
        assert_eq!(taken(&sampler.take()), [(60_000, Some(0.4))]);
    }

    #[test]
    fn refused_samples_come_again_before_newer_ones_up_to_a_number() {
        let mut sampler = Sampler::new(SECOND);
        sampler.handle_status(&charge(0.9), at(0));
        let refused = sampler.handle_timeout(at(10_000));
        sampler.handle_status(&charge(0.8), at(10_001));
        sampler.handle_refused(refused, at(10_002).uptime);
        assert_eq!(sampler.handle_timeout(at(20_001)), []);
        let again = sampler.handle_timeout(at(20_002));
        assert_eq!(taken(&again), [(0, Some(0.9)), (10_001, Some(0.8))]);
        for second in 0..200_u32 {
            let now = at(30_000 + 1_000 * u64::from(second));
            sampler.handle_status(&charge(f64::from(second)), now);
        }
        let left = taken(&sampler.take());
        assert_eq!(left.len(), HELD_MAX);
        assert_eq!(left.last(), Some(&(229_000, Some(199.0))));
    }
}
