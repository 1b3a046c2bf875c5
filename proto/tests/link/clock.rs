//! What the relay learns of a board's clock, and what a late welcome may hide.

use std::time::Duration;

use brrbrr_proto::down::Down;
use brrbrr_proto::id::{BootId, ConnectionId, Cursor, Epoch, RelayId, Seq, SessionId};
use brrbrr_proto::link::Relay;
use brrbrr_proto::link::gateway::Output as FromGateway;
use brrbrr_proto::link::relay::{BoardClock, Ledger, Now, Output};
use brrbrr_proto::live::{Age, Dated, Live, PerField, Pose, Status};
use brrbrr_proto::time::{Uptime, WallClock};
use brrbrr_proto::up::{Batch, Beat, Item, Up};
use proptest::prelude::*;

use crate::pair::{GRANTS, Pair, at, commands, drain, drain_relay, hello_in, welcome};

/// The board booted at this moment of the relay's calendar, in microseconds.
const BOOT: i64 = 1_790_000_000_000_000;
/// The relay's own clock shows this at that moment.
const RELAY_UPTIME: u64 = 5_000_000_000;

fn board(micros: u64) -> Uptime {
    Uptime::new(Duration::from_micros(micros))
}

/// The relay's clocks when the board's clock shows so many microseconds.
fn relay_at(board: u64) -> Now {
    Now {
        uptime: Uptime::new(Duration::from_micros(RELAY_UPTIME + board)),
        wall: WallClock(BOOT + i64::try_from(board).expect("fits")),
    }
}

fn greeted(hello_way: u64) -> (Relay, u64) {
    let mut relay = Relay::new(RelayId(6), GRANTS);
    let mut gateway = crate::pair::gateway(5, 1);
    let mut stamp = at(0);
    stamp.uptime = board(1_000_000);
    gateway.handle_connected(ConnectionId(1), stamp);
    let hello = hello_in(&drain(&mut gateway)).expect("greets");
    let came_in = 1_000_000 + hello_way;
    let session = SessionId(5);
    relay.handle_hello(Epoch(1), hello, session, relay_at(came_in));
    let ledger = Ledger {
        epoch: Epoch(2),
        acked: Seq::FIRST,
        next: Seq::FIRST,
    };
    relay.handle_recalled(session, Seq::FIRST, ledger, relay_at(came_in));
    drain_relay(&mut relay);
    (relay, came_in)
}

fn beat(sent: u64) -> Up {
    Up::Beat(Beat {
        session: SessionId(5),
        sent: board(sent),
        down: Cursor {
            epoch: Epoch(2),
            next: Seq::FIRST,
        },
    })
}

fn clock_of(relay: &mut Relay, sent: u64, way: u64) -> BoardClock {
    let batch = Batch {
        session: SessionId(5),
        sent: board(sent),
        first: Seq::FIRST,
        items: vec![Item {
            covers: 1,
            record: vec![1],
        }],
    };
    relay.handle_up(Epoch(1), Up::Batch(batch), relay_at(sent + way));
    let stored = |output| match output {
        Output::Store(store) => Some(store.clock),
        _ => None,
    };
    drain_relay(relay)
        .into_iter()
        .find_map(stored)
        .expect("stores")
}

proptest! {
    #[test]
    fn the_boot_lies_between_its_bounds_however_slow_the_ways(
        hello in 0_u64..5_000_000,
        welcome in 0_u64..5_000_000,
        beats in proptest::collection::vec((0_u64..10_000_000, 0_u64..5_000_000), 1..6),
    ) {
        let (mut relay, welcomed) = greeted(hello);
        let mut now = welcomed + welcome;
        let mut shortest = hello;
        for (pause, way) in beats {
            now += pause;
            shortest = shortest.min(way);
            relay.handle_up(Epoch(1), beat(now), relay_at(now + way));
        }
        let clock = clock_of(&mut relay, now, shortest);
        prop_assert!(clock.earliest <= BOOT && BOOT <= clock.latest, "{clock:?}");
        prop_assert_eq!(clock.boot, BootId(1));
        let off = clock.estimate().abs_diff(BOOT);
        prop_assert!(off <= clock.uncertainty(), "{} of {}", off, clock.uncertainty());
        prop_assert!(clock.latest.abs_diff(BOOT) <= shortest);
    }
}

#[test]
fn setting_the_relays_calendar_does_not_disturb_a_session() {
    let (mut relay, _) = greeted(1_000);
    relay.handle_up(Epoch(1), beat(2_000_000), relay_at(2_001_000));
    let jumped = Now {
        wall: WallClock(0),
        ..relay_at(3_001_000)
    };
    relay.handle_up(Epoch(1), beat(3_000_000), jumped);
    let clock = clock_of(&mut relay, 4_000_000, 1_000);
    assert_eq!(clock.latest, BOOT + 1_000);
    assert!(clock.earliest <= BOOT, "{clock:?}");
}

#[test]
fn the_age_of_a_live_frame_is_what_its_way_took() {
    let (mut relay, welcomed) = greeted(1_000);
    relay.handle_up(Epoch(1), beat(welcomed + 1_000), relay_at(welcomed + 2_000));
    drain_relay(&mut relay);
    let live = Live {
        session: SessionId(5),
        count: 1,
        sampled: board(5_000_000),
        // Numbers that are none are not passed on.
        status: Status {
            floor: Some(7),
            pose: Some(Pose {
                x: f64::NAN,
                y: 1.0,
                theta: None,
            }),
            battery: Some(f64::INFINITY),
            ..Status::default()
        },
    };
    relay.handle_live(undated(live), relay_at(5_700_000));
    let (status, age, said) = drain_relay(&mut relay)
        .into_iter()
        .find_map(|output| match output {
            Output::Status(status, age, said) => Some((status, age, said)),
            _ => None,
        })
        .expect("shows");
    let known = Status {
        floor: Some(7),
        ..Status::default()
    };
    assert_eq!(status, known);
    let as_old = PerField {
        floor: Some(age),
        ..PerField::default()
    };
    assert_eq!(said, as_old, "all that can be said of a board without ages");
    let off = age.abs_diff(Duration::from_millis(700));
    assert!(off <= Duration::from_millis(2), "{age:?}");
}

#[test]
fn a_field_is_older_than_its_frame_by_what_the_board_says() {
    let (mut relay, welcomed) = greeted(1_000);
    relay.handle_up(Epoch(1), beat(welcomed + 1_000), relay_at(welcomed + 2_000));
    drain_relay(&mut relay);
    let dated = Dated {
        live: Live {
            session: SessionId(5),
            count: 1,
            sampled: board(5_000_000),
            status: Status {
                battery: Some(0.33),
                floor: Some(7),
                ..Status::default()
            },
        },
        ages: PerField {
            battery: Some(Age::new(Duration::from_secs(60))),
            ..PerField::default()
        },
    };
    relay.handle_live(dated, relay_at(5_700_000));
    let said = drain_relay(&mut relay)
        .into_iter()
        .find_map(|output| match output {
            Output::Status(_, age, said) => Some((age, said)),
            _ => None,
        });
    let (age, said) = said.expect("shows");
    let expected = PerField {
        battery: Some(age + Duration::from_secs(60)),
        ..PerField::default()
    };
    assert_eq!(said, expected, "the board does not know of the floor");
}

#[test]
fn a_late_welcome_hides_no_more_than_a_second_of_a_commands_delay() {
    for (welcome_way, command_way, at_least) in
        [(0, 5_000, 5), (5_000, 5_000, 4), (20_000, 20_000, 19)]
    {
        let mut gateway = crate::pair::gateway(0, 1);
        gateway.handle_connected(ConnectionId(1), at(0));
        let hello = hello_in(&drain(&mut gateway)).expect("greets");
        // The relay answered at once, and its clock shows zero then.
        gateway.handle_down(Down::Welcome(welcome(hello.hello)), at(welcome_way));
        drain(&mut gateway);
        let sent = Uptime::new(Duration::from_secs(30));
        let now = at(30_000 + command_way);
        gateway.handle_down(commands(1, sent, &[1]), now);
        let stored = drain(&mut gateway)
            .into_iter()
            .find_map(|output| match output {
                FromGateway::Store { commands, .. } => Some(commands),
                _ => None,
            });
        let left = stored.expect("stores")[0].time_to_live;
        assert!(left <= Duration::from_secs(60 - at_least), "{left:?}");
    }
}

#[test]
fn a_status_that_overtakes_the_first_beat_opens_the_session_and_is_not_taken_for_old() {
    let (mut relay, welcomed) = greeted(30_000);
    let live = Live {
        session: SessionId(5),
        count: 1,
        sampled: board(welcomed),
        status: Status::default(),
    };
    relay.handle_live(undated(live), relay_at(welcomed + 100_000));
    let outputs = drain_relay(&mut relay);
    assert!(outputs.contains(&Output::Opened(SessionId(5))));
    let age = outputs.into_iter().find_map(|output| match output {
        Output::Status(_, age, _) => Some(age),
        _ => None,
    });
    let not_surely_older = Duration::from_millis(100 - 30);
    assert_eq!(age, Some(not_surely_older));
}

/// The board's clock runs off by so many in a million.
fn bounds_after_hours_of(drift: i64) -> (BoardClock, i64) {
    let (mut relay, welcomed) = greeted(1_000);
    let mut sent = welcomed;
    let real = |sent: u64| {
        let sent = i64::try_from(sent).expect("fits");
        sent + sent / 1_000_000 * drift
    };
    let now = |sent: u64| relay_at(u64::try_from(real(sent)).expect("after the boot") + 1_000);
    relay.handle_up(Epoch(1), beat(sent + 1_000), now(sent + 1_000));
    // As long as a session lasts at most.
    for _ in 0..3 * 360 {
        sent += 10_000_000;
        relay.handle_up(Epoch(1), beat(sent), now(sent));
        drain_relay(&mut relay);
    }
    let batch = Batch {
        session: SessionId(5),
        sent: board(sent),
        first: Seq::FIRST,
        items: vec![Item {
            covers: 1,
            record: vec![1],
        }],
    };
    relay.handle_up(Epoch(1), Up::Batch(batch), now(sent));
    let store = drain_relay(&mut relay)
        .into_iter()
        .find_map(|output| match output {
            Output::Store(store) => Some(store.clock),
            _ => None,
        });
    // What to add to the board's clock now to get the calendar.
    let truth = BOOT + real(sent) - i64::try_from(sent).expect("fits");
    (store.expect("stores"), truth)
}

#[test]
fn a_clock_that_runs_fast_or_slow_stays_between_the_bounds_of_a_session() {
    for drift in [-50, 0, 50] {
        let (clock, truth) = bounds_after_hours_of(drift);
        let off = clock.estimate().abs_diff(truth);
        assert!(
            off <= clock.uncertainty() + 2_000,
            "{drift}: off by {off} us of {}",
            clock.uncertainty()
        );
        assert!(off < 1_000_000, "{drift}: off by {off} us");
    }
}

#[test]
fn a_session_is_renewed_after_hours_and_loses_nothing() {
    let mut pair = Pair::connected();
    let session = pair.session;
    for number in 0..40 {
        pair.append(&format!("record {number}"));
        pair.pass(Duration::from_secs(300));
    }
    assert_ne!(pair.session, session);
    assert_eq!(pair.journal(pair.spool.view.epoch).len(), 40);
}

/// As gateways sent it that knew no ages.
fn undated(live: Live) -> Dated {
    Dated {
        live,
        ages: PerField::default(),
    }
}
