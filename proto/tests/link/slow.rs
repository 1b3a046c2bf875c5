//! A backlog behind slow and changing links: live frames keep their age, and the link is used.

use std::collections::VecDeque;
use std::time::Duration;

use brrbrr_proto::down::{Ack, Down};
use brrbrr_proto::id::{ConnectionId, Seq, SessionId};
use brrbrr_proto::link::Gateway;
use brrbrr_proto::link::gateway::Output;
use brrbrr_proto::live::{PerField, Status};
use brrbrr_proto::time::{Stamp, Uptime};
use brrbrr_proto::up::{Item, Up};

use crate::pair::{at, drain, hello_in, welcome};

/// Seal, topic, MQTT, TCP and IP around a frame.
const OVERHEAD: u64 = 180;
const RECORD: usize = 90;
const CREDIT: u32 = 1024 * 1024;
/// How long the relay takes to store a batch.
const STORING: Duration = Duration::from_millis(4);

enum Carried {
    Batch { end: Seq, bytes: u64 },
    Live { sampled: Uptime },
    Other,
}

/// One bottleneck: frames go through it one after the other, whoever queues them.
struct Link {
    gateway: Gateway,
    session: SessionId,
    now: Uptime,
    bytes_per_second: u64,
    way: Duration,
    free_at: Uptime,
    arriving: VecDeque<(Uptime, Carried)>,
    acks: VecDeque<(Uptime, Seq)>,
    waiting: u64,
    live_ages: Vec<Duration>,
    delivered: u64,
    carried: u64,
}

impl Link {
    fn open(bytes_per_second: u64, way: Duration, waiting: u64, limit: Option<u32>) -> Self {
        let mut gateway = crate::pair::gateway(waiting, 1);
        if let Some(limit) = limit {
            gateway.limit_rate(limit);
        }
        gateway.handle_connected(ConnectionId(1), at(0));
        let hello = hello_in(&drain(&mut gateway)).expect("greets");
        let mut opening = welcome(hello.hello);
        opening.credit = CREDIT;
        let session = opening.session;
        gateway.handle_down(Down::Welcome(opening), at(0));
        let now = at(0).uptime;
        let mut link = Self {
            gateway,
            session,
            now,
            bytes_per_second,
            way,
            free_at: now,
            arriving: VecDeque::new(),
            acks: VecDeque::new(),
            waiting,
            live_ages: Vec::new(),
            delivered: 0,
            carried: 0,
        };
        link.carry_out();
        link
    }

    /// Runs for so long with a new status every 50 ms.
    fn run(&mut self, span: Duration) {
        let end = self.now.plus(span);
        let mut status_at = self.now;
        while self.now < end {
            let next = [
                self.arriving.front().map(|(at, _)| *at),
                self.acks.front().map(|(at, _)| *at),
                self.gateway.poll_timeout(),
                Some(status_at),
            ];
            let next = next.into_iter().flatten().min().expect("a status is due");
            self.now = self.now.max(next);
            if status_at <= self.now {
                status_at = self.now.plus(Duration::from_millis(50));
                self.gateway
                    .handle_status(Status::default(), PerField::default(), self.now);
            }
            self.arrive();
            while let Some((_, next)) = self.acks.pop_front_if(|(at, _)| *at <= self.now) {
                let ack = Ack {
                    session: self.session,
                    next,
                    credit: CREDIT,
                };
                self.gateway.handle_down(Down::Ack(ack), self.stamp());
            }
            self.gateway.handle_timeout(self.stamp());
            self.carry_out();
        }
    }

    fn arrive(&mut self) {
        while let Some((_, carried)) = self.arriving.pop_front_if(|(at, _)| *at <= self.now) {
            match carried {
                Carried::Batch { end, bytes } => {
                    self.delivered += bytes;
                    self.acks
                        .push_back((self.now.plus(STORING).plus(self.way), end));
                }
                Carried::Live { sampled } => self.live_ages.push(self.now.since(sampled)),
                Carried::Other => {}
            }
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.gateway.poll_output() {
            match output {
                Output::Up(_, Up::Batch(batch)) => {
                    let bytes: usize = batch.items.iter().map(|item| item.record.len()).sum();
                    let bytes = u64::try_from(bytes).expect("fits");
                    let framing = 3 * u64::try_from(batch.items.len()).expect("fits");
                    let end = batch.end();
                    self.send(bytes + framing, Carried::Batch { end, bytes });
                }
                Output::Up(..) => self.send(40, Carried::Other),
                Output::Live(_, live) => {
                    let sampled = live.live.sampled;
                    self.send(80, Carried::Live { sampled });
                }
                Output::Read {
                    from,
                    max_items,
                    max_bytes,
                } => {
                    let left = usize::try_from(self.waiting + 1 - from.0).expect("fits");
                    let count = (max_bytes / RECORD).clamp(1, max_items).min(left);
                    let item = Item {
                        covers: 1,
                        record: vec![0; RECORD],
                    };
                    self.gateway.handle_read(from, vec![item; count], self.now);
                }
                _ => {}
            }
        }
    }

    fn send(&mut self, bytes: u64, carried: Carried) {
        let bytes = bytes + OVERHEAD;
        self.carried += bytes;
        let takes = Duration::from_micros(bytes * 1_000_000 / self.bytes_per_second);
        self.free_at = self.free_at.max(self.now).plus(takes);
        self.arriving
            .push_back((self.free_at.plus(self.way), carried));
    }

    fn stamp(&self) -> Stamp {
        Stamp {
            uptime: self.now,
            ..at(0)
        }
    }

    fn age(&self, percent: usize) -> Duration {
        let mut ages = self.live_ages.clone();
        ages.sort();
        ages[(ages.len() - 1) * percent / 100]
    }

    /// How much of what the link can carry in so long the bytes are.
    fn percent(&self, bytes: u64, seconds: u64) -> u64 {
        bytes * 100 / (self.bytes_per_second * seconds)
    }
}

const MILLI: Duration = Duration::from_millis(1);

#[test]
fn a_day_s_backlog_behind_64_kbit_s_leaves_live_frames_young_and_the_link_full() {
    let mut link = Link::open(8_000, 60 * MILLI, 86_400, None);
    link.run(Duration::from_secs(1_200));
    let (median, p99, max) = (link.age(50), link.age(99), link.age(100));
    let used = link.percent(link.carried, 1_200);
    let durable = link.percent(link.delivered, 1_200);
    println!(
        "live p50 {median:?} p99 {p99:?} max {max:?}; link used {used} %, records {durable} %"
    );
    assert!(p99 < 700 * MILLI, "{p99:?}");
    assert!(max < 1_500 * MILLI, "{max:?}");
    assert!(used > 85, "{used}");
}

#[test]
fn a_fast_link_is_filled_within_a_second() {
    let mut link = Link::open(50_000_000, MILLI, 10_000_000, None);
    link.run(Duration::from_secs(1));
    let first = link.delivered;
    link.run(Duration::from_secs(1));
    let rate = link.delivered - first;
    println!("{rate} bytes in the second second");
    assert!(rate > 40_000_000, "{rate}");
}

#[test]
fn a_link_that_becomes_slow_and_long_is_followed_both_ways() {
    let mut link = Link::open(2_000_000, 10 * MILLI, 10_000_000, None);
    link.run(Duration::from_secs(20));
    link.bytes_per_second = 20_000;
    link.way = 300 * MILLI;
    link.run(Duration::from_secs(60));
    link.live_ages.clear();
    let before = link.carried;
    link.run(Duration::from_secs(300));
    let p99 = link.age(99);
    let used = link.percent(link.carried - before, 300);
    println!("slow: live p99 {p99:?}, link used {used} %");
    assert!(p99 < 1_000 * MILLI, "{p99:?}");
    assert!(used > 80, "{used}");
    link.bytes_per_second = 2_000_000;
    link.way = 10 * MILLI;
    link.run(Duration::from_secs(60));
    let before = link.carried;
    link.run(Duration::from_secs(20));
    let used = link.percent(link.carried - before, 20);
    println!("fast again: link used {used} %");
    assert!(used > 80, "{used}");
}

#[test]
fn a_byte_rate_limit_is_kept_and_used_while_live_frames_pass() {
    let mut link = Link::open(10_000_000, 5 * MILLI, 1_000_000, Some(10_000));
    link.run(Duration::from_secs(100));
    let p99 = link.age(99);
    println!(
        "{} bytes of records in 100 s, live p99 {p99:?}",
        link.delivered
    );
    // Live frames are counted in, five a second.
    assert!(link.delivered <= 10_000 * 101, "{}", link.delivered);
    assert!(link.delivered >= 7_500 * 100, "{}", link.delivered);
    assert!(p99 < 300 * MILLI, "{p99:?}");
}
