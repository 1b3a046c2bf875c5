//! Five thousand robots at once: what they do is spread over time, the same way for the same seeds.

use std::collections::BTreeMap;

use brrbrr_proto::down::{Ack, Down};
use brrbrr_proto::id::{ConnectionId, Seq, SessionId};
use brrbrr_proto::link::Gateway;
use brrbrr_proto::time::Stamp;

use crate::pair::{GRANTS, at, drain, hello_in, welcome};

const ROBOTS: u64 = 5_000;
/// The width of a slot of the histograms.
const SLOT_MILLIS: u128 = 100;

fn slot(now: Stamp) -> u128 {
    now.uptime.since(at(0).uptime).as_millis() / SLOT_MILLIS
}

fn fire(gateway: &mut Gateway) -> Stamp {
    let now = Stamp {
        uptime: gateway.poll_timeout().expect("a timer"),
        ..at(0)
    };
    gateway.handle_timeout(now);
    now
}

/// How many hellos at most fall into one slot, from each robot's hello number `from` on.
fn busiest(histogram: &BTreeMap<u128, u64>) -> u64 {
    histogram.values().copied().max().unwrap_or(0)
}

#[test]
fn robots_that_greet_a_relay_that_is_not_there_yet_do_not_come_back_together() {
    let mut histogram = BTreeMap::new();
    for seed in 0..ROBOTS {
        let mut gateway = crate::pair::gateway(0, seed);
        gateway.handle_connected(ConnectionId(seed), at(0));
        for _ in 0..6 {
            *histogram.entry(slot(fire(&mut gateway))).or_insert(0) += 1;
        }
    }
    // The second hello falls into the second second, so a tenth of it sees a tenth of the robots.
    assert!(busiest(&histogram) < ROBOTS / 8, "{histogram:?}");
    let late: Vec<u64> = histogram.range(150..).map(|(_, count)| *count).collect();
    assert!(late.iter().all(|count| *count < ROBOTS / 30), "{late:?}");
}

#[test]
fn robots_that_were_welcomed_together_do_not_greet_the_next_relay_together() {
    let mut histogram = BTreeMap::new();
    for seed in 0..ROBOTS {
        let mut gateway = crate::pair::gateway(0, seed);
        gateway.handle_connected(ConnectionId(seed), at(0));
        let hello = hello_in(&drain(&mut gateway)).expect("greets");
        gateway.handle_down(Down::Welcome(welcome(hello.hello)), at(0));
        drain(&mut gateway);
        // The relay answers for five minutes and is gone then.
        let end = at(300_000).uptime;
        let greets_at = loop {
            let now = fire(&mut gateway);
            if hello_in(&drain(&mut gateway)).is_some() {
                break now;
            }
            if now.uptime < end {
                let ack = Ack {
                    session: SessionId(5),
                    next: Seq::FIRST,
                    credit: GRANTS.credit,
                };
                gateway.handle_down(Down::Ack(ack), now);
            }
        };
        *histogram.entry(slot(greets_at)).or_insert(0) += 1;
    }
    let slots_per_beat = GRANTS.beat_interval.as_millis() / SLOT_MILLIS;
    let used = histogram.len() as u128;
    assert!(
        used > slots_per_beat * 3 / 4,
        "only {used} slots: {histogram:?}"
    );
    assert!(busiest(&histogram) < ROBOTS / 30, "{histogram:?}");
}

#[test]
fn the_same_seed_waits_the_same() {
    let times = || {
        let mut gateway = crate::pair::gateway(0, 42);
        gateway.handle_connected(ConnectionId(1), at(0));
        [(); 10].map(|()| fire(&mut gateway).uptime)
    };
    assert_eq!(times(), times());
}
