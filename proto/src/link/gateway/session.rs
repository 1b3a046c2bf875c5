//! What the gateway half knows within one session: what is in flight, what was granted, and when
//! which timer is due.

use std::collections::VecDeque;
use std::time::Duration;

use super::Output;
use super::pace::Pace;
use crate::backoff::SplitMix;
use crate::down::Welcome;
use crate::id::{RelayId, Seq, SessionId};
use crate::link::{
    BATCH_BYTES, LONGEST_INTERVAL, SHORTEST_BEAT_INTERVAL, SHORTEST_LIVE_INTERVAL, SILENT_BEATS,
};
use crate::time::{Stamp, Uptime};
use crate::up::{Batch, Item, Up};

/// The shortest and the longest wait for an ack. In between, four times the smoothed ack delay.
const ACK_WAIT: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(60));
/// The least share of the beat interval after which a gateway beats. The rest is random, so that
/// robots that were welcomed together drift apart, and do not find a lost relay silent together.
const LEAST_BEAT_SHARE: f64 = 0.75;

/// How long a session lasts at least, and how far the ends of many are spread. Within it the two sides'
/// clocks come apart by a second at the very most, and delays are measured that well.
const LIFE: Duration = Duration::from_secs(2 * 3600);
const LIFE_SPREAD: Duration = Duration::from_secs(3600);
/// How much of a command's delay may go unnoticed because the welcome was late as well.
const HIDDEN_DELAY: Duration = Duration::from_secs(1);
/// What seal, topic, MQTT, TCP and IP add to a batch, near enough.
pub(super) const FRAME_BYTES: usize = 200;

/// A session, from its welcome to its end.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) relay: RelayId,
    /// Everything before is acknowledged.
    pub(super) acked: Seq,
    /// The next position to read and send.
    pub(super) sent: Seq,
    /// The highest `sent` of the session. After going back, an ack may still come from beyond it.
    pub(super) highest: Seq,
    /// When it turned out that the relay forgot what the spool has dropped. A tombstone stands for
    /// it, sent while `sent` is before the spool's first.
    pub(super) forgot: Option<Stamp>,
    pub(super) in_flight: VecDeque<Flight>,
    pub(super) in_flight_bytes: usize,
    pub(super) credit: usize,
    pub(super) pace: Pace,
    /// When the byte-rate limit lets the next batch go.
    pub(super) held_until: Option<Uptime>,
    pub(super) read: ReadState,
    pub(super) ack_wait: AckWait,
    /// Microseconds from the relay's clock to the board's, by the fastest frame so far.
    pub(super) fastest: i128,
    renew_at: Uptime,
    pub(super) beat_interval: Duration,
    pub(super) beat_at: Uptime,
    pub(super) random: SplitMix,
    pub(super) heard_at: Uptime,
    pub(super) live_interval: Duration,
    pub(super) live_at: Uptime,
    pub(super) live_count: u64,
}

impl Session {
    pub(super) fn new(
        welcome: &Welcome,
        pace: Pace,
        seed: u64,
        greeted_at: Uptime,
        now: Uptime,
    ) -> Self {
        // The welcome was sent after the hello, so its own delay can hide no more than this.
        let longest = micros_between(welcome.uptime, greeted_at.plus(HIDDEN_DELAY));
        let mut random = SplitMix(seed);
        Self {
            renew_at: now.plus(LIFE + LIFE_SPREAD.mul_f64(random.fraction())),
            id: welcome.session,
            relay: welcome.relay,
            acked: welcome.up_next,
            sent: welcome.up_next,
            highest: welcome.up_next,
            forgot: None,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            credit: usize::try_from(welcome.credit).unwrap_or(usize::MAX),
            pace,
            held_until: None,
            read: ReadState::Idle,
            ack_wait: AckWait::default(),
            fastest: micros_between(welcome.uptime, now).min(longest),
            beat_interval: welcome
                .beat_interval
                .clamp(SHORTEST_BEAT_INTERVAL, LONGEST_INTERVAL),
            beat_at: now,
            random,
            heard_at: now,
            live_interval: welcome
                .live_interval
                .clamp(SHORTEST_LIVE_INTERVAL, LONGEST_INTERVAL),
            live_at: now,
            live_count: 0,
        }
    }

    pub(super) fn send(&mut self, items: Vec<Item>, now: Uptime) -> Output {
        let bytes = items.iter().map(|item| item.record.len()).sum();
        let batch = Batch {
            session: self.id,
            sent: now,
            first: self.sent,
            items,
        };
        self.sent = batch.end();
        self.highest = self.highest.max(self.sent);
        self.in_flight_bytes += bytes;
        self.pace.spend(bytes + FRAME_BYTES, now);
        self.in_flight.push_back(Flight {
            end: self.sent,
            bytes,
            sent_at: now,
        });
        // A batch is answered by an ack, so it is a sign of life both ways.
        self.plan_beat(now);
        Output::Up(self.relay, Up::Batch(batch))
    }

    /// How much longer than the fastest frame a frame was on its way.
    pub(super) fn delay(&mut self, sent: Uptime, now: Uptime) -> Duration {
        let taken = micros_between(sent, now);
        self.fastest = self.fastest.min(taken);
        Duration::from_micros(u64::try_from(taken - self.fastest).unwrap_or(u64::MAX))
    }

    pub(super) fn plan_beat(&mut self, now: Uptime) {
        let share = LEAST_BEAT_SHARE + (1.0 - LEAST_BEAT_SHARE) * self.random.fraction();
        self.beat_at = now.plus(self.beat_interval.mul_f64(share));
    }

    /// How many bytes the next batch may have; `None` while it has to wait. A small room is not used
    /// before more of it is free: small frames would be mostly frame.
    pub(super) fn room(&self) -> Option<usize> {
        let credit = self.credit.saturating_sub(self.in_flight_bytes);
        let window = self.pace.window();
        let batch = self.pace.batch().min(BATCH_BYTES);
        let is_alone = self.in_flight.is_empty();
        let has_room = window.saturating_sub(self.on_the_way()) >= batch;
        let has_credit = credit >= batch.min(self.credit / 2);
        (credit > 0 && (is_alone || (has_room && has_credit))).then_some(batch.min(credit))
    }

    fn on_the_way(&self) -> usize {
        self.in_flight_bytes + self.in_flight.len() * FRAME_BYTES
    }

    /// Takes everything before `next` out of flight.
    pub(super) fn land(&mut self, next: Seq, now: Uptime) {
        self.acked = next;
        self.ack_wait.progress(now);
        if self.sent < next {
            // Acknowledged after all, so there is no need to send it again.
            self.sent = next;
            self.read = ReadState::Idle;
        }
        while let Some(flight) = self.in_flight.pop_front_if(|flight| flight.end <= next) {
            let in_flight = self.on_the_way() + flight.bytes + FRAME_BYTES;
            self.in_flight_bytes -= flight.bytes;
            self.ack_wait.measure(now.since(flight.sent_at));
            let bytes = flight.bytes + FRAME_BYTES;
            self.pace.measure(flight.sent_at, bytes, in_flight, now);
        }
    }

    /// Sends everything again that is not acknowledged.
    pub(super) fn go_back(&mut self, now: Uptime) {
        self.ack_wait.timeouts += 1;
        self.pace.restart(now);
        self.sent = self.acked;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.read = ReadState::Idle;
    }

    /// When the oldest batch in flight counts as lost.
    pub(super) fn ack_deadline(&self) -> Option<Uptime> {
        let oldest = self.in_flight.front()?.sent_at;
        Some(
            oldest
                .max(self.ack_wait.progress_at)
                .plus(self.ack_wait.length()),
        )
    }

    /// When it is time for a new session; never while something is on its way.
    pub(super) fn renew_at(&self) -> Option<Uptime> {
        self.in_flight.is_empty().then_some(self.renew_at)
    }

    pub(super) fn silent_at(&self) -> Uptime {
        self.heard_at.plus(self.beat_interval * SILENT_BEATS)
    }
}

#[derive(Debug)]
pub(super) struct Flight {
    pub(super) end: Seq,
    pub(super) bytes: usize,
    pub(super) sent_at: Uptime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadState {
    Idle,
    Waiting(Seq),
    Failed { retry_at: Uptime },
}

impl ReadState {
    pub(super) const fn retry_at(self) -> Option<Uptime> {
        match self {
            Self::Failed { retry_at } => Some(retry_at),
            Self::Idle | Self::Waiting(_) => None,
        }
    }
}

/// How long to wait for an ack: the smoothed delay as in RFC 6298, doubled on every time-out.
#[derive(Debug, Default)]
pub(super) struct AckWait {
    smoothed: Option<Duration>,
    pub(super) timeouts: u32,
    progress_at: Uptime,
}

impl AckWait {
    pub(super) fn length(&self) -> Duration {
        let base = self.smoothed.unwrap_or_default() * 4;
        (base.max(ACK_WAIT.0) * 2_u32.pow(self.timeouts.min(8))).min(ACK_WAIT.1)
    }

    pub(super) fn measure(&mut self, delay: Duration) {
        let smoothed = self.smoothed.map_or(delay, |old| old * 7 / 8 + delay / 8);
        self.smoothed = Some(smoothed);
    }

    pub(super) const fn progress(&mut self, now: Uptime) {
        self.timeouts = 0;
        self.progress_at = now;
    }
}

/// From one clock's reading to another's, which may have started before or after it.
fn micros_between(sent: Uptime, now: Uptime) -> i128 {
    let micros = |at: Uptime| at.since_boot().as_micros().cast_signed();
    micros(now) - micros(sent)
}
