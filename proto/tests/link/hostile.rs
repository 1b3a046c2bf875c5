//! Messages with a valid seal that no honest side sends.

use std::time::Duration;

use brrbrr_proto::down::{Ack, Down, Wait, Welcome};
use brrbrr_proto::id::{BootId, ConnectionId, Cursor, Epoch, HelloId, RelayId, Seq, SessionId};
use brrbrr_proto::link::gateway::Output;
use brrbrr_proto::link::relay::{Grants, Output as FromRelay};
use brrbrr_proto::link::{Gateway, LONGEST_INTERVAL, Relay, SHORTEST_BEAT_INTERVAL, SILENT_BEATS};
use brrbrr_proto::live::{PerField, Status};
use brrbrr_proto::time::{Uptime, WallClock};
use brrbrr_proto::up::{Batch, Beat, Hello, Item, Up};
use brrbrr_proto::version::Versions;

use crate::pair::{GRANTS, Pair, at, commands, drain, drain_relay, hello_in, welcome};

/// A gateway that was welcomed in this way, with what it then did.
fn welcomed(waiting: u64, change: impl FnOnce(&mut Welcome)) -> (Gateway, Vec<Output>) {
    let mut gateway = crate::pair::gateway(waiting, 1);
    gateway.handle_connected(ConnectionId(1), at(0));
    let hello = hello_in(&drain(&mut gateway)).expect("greets");
    let mut message = welcome(hello.hello);
    change(&mut message);
    gateway.handle_down(Down::Welcome(message), at(0));
    let outputs = drain(&mut gateway);
    (gateway, outputs)
}

fn beats(outputs: &[Output]) -> usize {
    let is_beat = |output: &&Output| matches!(output, Output::Up(_, Up::Beat(_)));
    outputs.iter().filter(is_beat).count()
}

#[test]
fn a_beat_interval_of_zero_neither_floods_nor_ends_the_session_at_once() {
    let (mut gateway, _) = welcomed(0, |welcome| welcome.beat_interval = Duration::ZERO);
    let shortest = SHORTEST_BEAT_INTERVAL.as_millis();
    let mut count = 0;
    for millis in 0..u64::try_from(shortest).expect("small") * u64::from(SILENT_BEATS) {
        gateway.handle_timeout(at(millis));
        let outputs = drain(&mut gateway);
        assert!(hello_in(&outputs).is_none(), "silent after {millis} ms");
        count += beats(&outputs);
    }
    assert!((2..=4).contains(&count), "{count} beats");
}

#[test]
fn a_live_interval_of_zero_does_not_flood() {
    let (mut gateway, _) = welcomed(0, |welcome| welcome.live_interval = Duration::ZERO);
    for _ in 0..1000 {
        gateway.handle_status(Status::default(), PerField::default(), at(5).uptime);
        gateway.handle_timeout(at(5));
    }
    let is_live = |output: &&Output| matches!(output, Output::Live(..));
    assert_eq!(drain(&mut gateway).iter().filter(is_live).count(), 1);
    assert!(gateway.poll_timeout() > Some(at(5).uptime));
}

#[test]
fn endless_intervals_are_cut_to_the_longest() {
    let (gateway, _) = welcomed(0, |welcome| {
        welcome.beat_interval = Duration::MAX;
        welcome.live_interval = Duration::MAX;
    });
    let timeout = gateway.poll_timeout().expect("beats");
    assert!(timeout <= at(0).uptime.plus(LONGEST_INTERVAL));
}

#[test]
fn endless_or_empty_intervals_in_a_relays_own_configuration_do_no_harm() {
    for beat_interval in [Duration::ZERO, Duration::MAX] {
        let grants = Grants {
            beat_interval,
            ..GRANTS
        };
        let mut relay = Relay::new(RelayId(1), grants);
        let now = Pair::new().relay_now();
        relay.handle_hello(Epoch(1), hello(), SessionId(1), now);
        let ledger = Pair::new().stores.ledger;
        relay.handle_recalled(SessionId(1), Seq::FIRST, ledger, now);
        assert!(relay.poll_timeout() > Some(now.uptime));
        relay.handle_timeout(now);
    }
}

#[test]
fn a_pause_of_zero_or_of_ages_is_brought_to_reason() {
    for (pause, longest) in [(Duration::ZERO, 3), (Duration::MAX, 601)] {
        let mut gateway = crate::pair::gateway(0, 1);
        gateway.handle_connected(ConnectionId(1), at(0));
        let hello = hello_in(&drain(&mut gateway)).expect("greets").hello;
        gateway.handle_down(Down::Wait(Wait { hello, pause }), at(0));
        let timeout = gateway.poll_timeout().expect("waits");
        let wait = timeout.since(at(0).uptime);
        assert!(wait >= Duration::from_secs(1), "{wait:?}");
        assert!(wait <= Duration::from_secs(longest), "{wait:?}");
    }
}

#[test]
fn an_enormous_credit_still_reads_one_small_batch_at_a_time() {
    let (_, outputs) = welcomed(1_000_000, |welcome| welcome.credit = u32::MAX);
    let reads = outputs.iter().filter_map(|output| match output {
        Output::Read {
            max_items,
            max_bytes,
            ..
        } => Some((*max_items, *max_bytes)),
        _ => None,
    });
    let reads: Vec<_> = reads.collect();
    let [(items, bytes)] = reads.as_slice() else {
        panic!("{reads:?}");
    };
    assert!(*items <= brrbrr_proto::link::BATCH_ITEMS, "{items}");
    assert!(*bytes <= brrbrr_proto::link::BATCH_BYTES, "{bytes}");
}

#[test]
fn no_credit_reads_nothing() {
    let (_, outputs) = welcomed(5, |welcome| welcome.credit = 0);
    let is_read = |output: &Output| matches!(output, Output::Read { .. });
    assert!(!outputs.iter().any(is_read));
}

#[test]
fn a_welcome_to_an_impossible_position_is_not_one() {
    for (up, down) in [(u64::MAX, 1), (1 << 63, 1), (1, u64::MAX), (1, 1 << 63)] {
        let (gateway, outputs) = welcomed(0, |welcome| {
            welcome.up_next = Seq(up);
            welcome.down.next = Seq(down);
        });
        assert_eq!(outputs, []);
        assert!(gateway.poll_timeout().is_some(), "it says hello again");
    }
}

#[test]
fn an_ack_of_what_was_never_sent_frees_nothing() {
    for next in [2, 100, u64::MAX] {
        let (mut gateway, _) = welcomed(5, |_| {});
        let ack = Ack {
            session: SessionId(5),
            next: Seq(next),
            credit: 1000,
        };
        gateway.handle_down(Down::Ack(ack), at(1));
        let is_release = |output: &Output| matches!(output, Output::Release { .. });
        assert!(!drain(&mut gateway).iter().any(is_release), "{next}");
    }
}

#[test]
fn commands_behind_a_hole_are_not_stored_and_the_cursor_is_told() {
    for first in [2, 50, u64::MAX] {
        let (mut gateway, _) = welcomed(0, |_| {});
        gateway.handle_down(commands(first, Uptime::default(), &[1, 2]), at(1));
        let outputs = drain(&mut gateway);
        assert_eq!((outputs.len(), beats(&outputs)), (1, 1), "{outputs:?}");
    }
}

#[test]
fn a_late_frame_has_used_up_its_commands_time() {
    let (mut gateway, _) = welcomed(0, |welcome| welcome.uptime = at(0).uptime);
    gateway.handle_down(commands(1, at(0).uptime, &[1]), at(45_000));
    assert_eq!(times_to_live(&drain(&mut gateway)), [15]);
    gateway.handle_down(commands(1, at(0).uptime, &[1]), at(90_000));
    assert_eq!(times_to_live(&drain(&mut gateway)), [0]);
    gateway.handle_down(commands(1, at(90_000).uptime, &[1]), at(90_000));
    assert_eq!(times_to_live(&drain(&mut gateway)), [60]);
}

#[test]
fn a_relay_whose_clock_started_at_another_time_is_not_late() {
    for relay_clock in [0, 1_000_000_000_000] {
        let sent = Uptime::new(Duration::from_millis(relay_clock));
        let (mut gateway, _) = welcomed(0, |welcome| welcome.uptime = sent);
        let sent = sent.plus(Duration::from_secs(5));
        gateway.handle_down(commands(1, sent, &[1]), at(5_000));
        assert_eq!(times_to_live(&drain(&mut gateway)), [60]);
    }
}

#[test]
fn a_send_time_at_the_end_of_time_makes_commands_late_and_never_early() {
    let (mut gateway, _) = welcomed(0, |_| {});
    let end = Uptime::new(Duration::MAX);
    gateway.handle_down(commands(1, end, &[1]), at(1));
    assert_eq!(times_to_live(&drain(&mut gateway)), [60]);
    gateway.handle_down(commands(1, Uptime::default(), &[1]), at(2));
    assert_eq!(times_to_live(&drain(&mut gateway)), [0]);
}

fn times_to_live(outputs: &[Output]) -> Vec<u64> {
    let stores = outputs.iter().filter_map(|output| match output {
        Output::Store { commands, .. } => Some(commands),
        _ => None,
    });
    stores
        .flatten()
        .map(|command| command.time_to_live.as_secs())
        .collect()
}

fn hello() -> Hello {
    Hello {
        hello: HelloId {
            connection: ConnectionId(1),
            attempt: 1,
        },
        boot: BootId(1),
        uptime: Uptime::default(),
        wall: WallClock(0),
        next: Seq::FIRST,
        backlog: 0,
        down: None,
        versions: Versions::SUPPORTED,
        software: String::new(),
    }
}

/// A relay with an open session 9 of epoch 1.
fn open_relay() -> Relay {
    let mut relay = Relay::new(RelayId(1), GRANTS);
    let now = Pair::new().relay_now();
    relay.handle_hello(Epoch(1), hello(), SessionId(9), now);
    let ledger = Pair::new().stores.ledger;
    relay.handle_recalled(SessionId(9), Seq::FIRST, ledger, now);
    relay.handle_up(Epoch(1), beat(1), now);
    assert!(relay.is_open());
    drain_relay(&mut relay);
    relay
}

fn beat(next: u64) -> Up {
    Up::Beat(Beat {
        session: SessionId(9),
        sent: Uptime::default(),
        down: Cursor {
            epoch: Pair::new().stores.ledger.epoch,
            next: Seq(next),
        },
    })
}

fn batch(first: u64, covers: &[u64]) -> Up {
    let item = |&covers| Item {
        covers,
        record: vec![1],
    };
    Up::Batch(Batch {
        session: SessionId(9),
        sent: Uptime::default(),
        first: Seq(first),
        items: covers.iter().map(item).collect(),
    })
}

#[test]
fn batches_that_no_stream_can_hold_are_answered_with_what_is_due() {
    let hostile = [
        batch(1, &[0]),
        batch(1, &[1, 0, 1]),
        batch(1, &[u64::MAX]),
        batch(1, &[1, u64::MAX]),
        batch(1, &[1 << 63]),
        batch(1, &[1 << 62, 1 << 62]),
        batch(u64::MAX, &[1]),
        batch(u64::MAX, &[u64::MAX]),
        batch(2, &[1]),
        batch(0, &[1]),
        batch(0, &[]),
        batch(1, &[]),
    ];
    for message in hostile {
        let mut relay = open_relay();
        relay.handle_up(Epoch(1), message.clone(), Pair::new().relay_now());
        let outputs = drain_relay(&mut relay);
        let ack = Down::Ack(Ack {
            session: SessionId(9),
            next: Seq::FIRST,
            credit: GRANTS.credit,
        });
        assert_eq!(outputs, [FromRelay::Send(Epoch(1), ack)], "{message:?}");
    }
}

#[test]
fn a_beat_with_a_cursor_from_the_future_delivers_nothing() {
    for next in [2, 100, u64::MAX] {
        let mut relay = open_relay();
        relay.handle_up(Epoch(1), beat(next), Pair::new().relay_now());
        let outputs = drain_relay(&mut relay);
        let is_delivered = |output: &FromRelay| matches!(output, FromRelay::Delivered(_));
        assert!(!outputs.iter().any(is_delivered), "{outputs:?}");
    }
}

#[test]
fn a_relay_takes_no_more_than_its_credit_and_one_batch() {
    let mut relay = open_relay();
    let mut stored = 0;
    for position in 1..200 {
        let item = Item {
            covers: 1,
            record: vec![0; 60_000],
        };
        let message = Up::Batch(Batch {
            session: SessionId(9),
            sent: Uptime::default(),
            first: Seq(position),
            items: vec![item],
        });
        relay.handle_up(Epoch(1), message, Pair::new().relay_now());
        let is_store = |output: &&FromRelay| matches!(output, FromRelay::Store(_));
        stored += drain_relay(&mut relay).iter().filter(is_store).count();
    }
    assert_eq!(stored, 2, "64 KiB of credit, and one more");
}

#[test]
fn clocks_at_the_ends_of_time_overflow_nothing() {
    let end = Uptime::new(Duration::MAX);
    let mut relay = open_relay();
    for (uptime, wall) in [
        (end, i64::MAX),
        (end, i64::MIN),
        (Uptime::default(), i64::MIN),
    ] {
        let now = brrbrr_proto::link::relay::Now {
            uptime,
            wall: WallClock(wall),
        };
        let mut message = batch(1, &[1]);
        if let Up::Batch(batch) = &mut message {
            batch.sent = end;
        }
        relay.handle_up(Epoch(1), message, now);
        relay.handle_timeout(now);
        assert!(
            relay
                .poll_timeout()
                .is_none_or(|at| at >= Uptime::default())
        );
    }
}
