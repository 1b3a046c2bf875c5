//! What happens when nobody answers, and at which moments.

use std::time::Duration;

use brrbrr_proto::down::{Ack, Down, Wait};
use brrbrr_proto::id::{ConnectionId, Seq, SessionId};
use brrbrr_proto::link::Gateway;
use brrbrr_proto::link::gateway::{Closed, Output};
use brrbrr_proto::live::{Age, PerField, Status};
use brrbrr_proto::time::{Stamp, Uptime};
use brrbrr_proto::up::{Item, Up};

use crate::pair::{GRANTS, Pair, at, drain, hello_in, welcome};

/// Goes to the next timer and fires it.
fn fire(gateway: &mut Gateway) -> (Stamp, Vec<Output>) {
    let due = gateway.poll_timeout().expect("a timer");
    let now = Stamp {
        uptime: due,
        ..at(0)
    };
    gateway.handle_timeout(now);
    assert!(gateway.poll_timeout() > Some(due), "stays due");
    (now, drain(gateway))
}

fn in_session(waiting: u64) -> Gateway {
    let mut gateway = crate::pair::gateway(waiting, 1);
    gateway.handle_connected(ConnectionId(1), at(0));
    let hello = hello_in(&drain(&mut gateway)).expect("greets");
    gateway.handle_down(Down::Welcome(welcome(hello.hello)), at(0));
    gateway
}

fn answer_reads(gateway: &mut Gateway, now: Uptime) -> Vec<Output> {
    let mut outputs = drain(gateway);
    let reads: Vec<Seq> = outputs.iter().filter_map(read_from).collect();
    for from in reads {
        let item = Item {
            covers: 1,
            record: vec![0; 10],
        };
        gateway.handle_read(from, vec![item], now);
        outputs.extend(drain(gateway));
    }
    outputs
}

fn read_from(output: &Output) -> Option<Seq> {
    match output {
        Output::Read { from, .. } => Some(*from),
        _ => None,
    }
}

#[test]
fn silence_ends_the_session_and_leads_to_a_new_hello() {
    let mut gateway = in_session(0);
    drain(&mut gateway);
    loop {
        let (now, outputs) = fire(&mut gateway);
        if outputs.contains(&Output::Closed(Closed::Silent)) {
            assert_eq!(now.uptime.since(at(0).uptime), GRANTS.beat_interval * 3);
            assert!(hello_in(&outputs).is_some());
            return;
        }
    }
}

#[test]
fn a_session_with_answered_beats_lasts() {
    let mut pair = Pair::connected();
    let session = pair.session;
    pair.pass(Duration::from_secs(3600));
    assert_eq!(pair.session, session);
    let beats = pair.sent_up.len() - pair.reports.len();
    assert!((360..=480).contains(&beats), "{beats} beats in an hour");
}

#[test]
fn three_ack_time_outs_without_progress_lead_to_a_new_hello() {
    let mut gateway = in_session(1);
    answer_reads(&mut gateway, at(0).uptime);
    let mut sent = 1;
    for millis in (100..).step_by(100) {
        // The relay is alive, but its journal is not.
        let ack = Ack {
            session: SessionId(5),
            next: Seq::FIRST,
            credit: 1000,
        };
        gateway.handle_down(Down::Ack(ack), at(millis));
        gateway.handle_timeout(at(millis));
        let outputs = answer_reads(&mut gateway, at(millis).uptime);
        let is_batch = |output: &&Output| matches!(output, Output::Up(_, Up::Batch(_)));
        sent += outputs.iter().filter(is_batch).count();
        if outputs.contains(&Output::Closed(Closed::NoAck)) {
            assert!(hello_in(&outputs).is_some());
            assert_eq!(sent, 3);
            // 3, 6 and 12 s, each to the next step of this test.
            assert!((21_000..22_000).contains(&millis), "{millis}");
            return;
        }
    }
}

#[test]
fn every_fourth_unanswered_hello_asks_for_a_reconnect() {
    let mut gateway = crate::pair::gateway(0, 1);
    gateway.handle_connected(ConnectionId(1), at(0));
    let mut hellos = vec![hello_in(&drain(&mut gateway)).expect("greets").hello];
    let mut reconnects = Vec::new();
    for _ in 0..8 {
        let (_, outputs) = fire(&mut gateway);
        hellos.extend(hello_in(&outputs).map(|hello| hello.hello));
        if outputs.contains(&Output::Reconnect) {
            reconnects.push(hellos.len());
        }
    }
    assert_eq!(reconnects, [5, 9]);
    hellos.dedup();
    assert_eq!(hellos.len(), 9, "an attempt was used twice");
}

#[test]
fn a_robot_that_is_sent_away_again_and_again_keeps_its_connection() {
    let mut gateway = crate::pair::gateway(0, 1);
    gateway.handle_connected(ConnectionId(1), at(0));
    let mut hello = hello_in(&drain(&mut gateway)).expect("greets").hello;
    let mut now = at(0);
    for _ in 0..12 {
        let pause = Duration::from_secs(5);
        gateway.handle_down(Down::Wait(Wait { hello, pause }), now);
        let (later, outputs) = fire(&mut gateway);
        assert_eq!(later.uptime.since(now.uptime), pause);
        assert!(!outputs.contains(&Output::Reconnect), "{outputs:?}");
        hello = hello_in(&outputs).expect("greets again").hello;
        now = later;
    }
}

#[test]
fn unanswered_hellos_come_more_and_more_seldom_up_to_a_minute() {
    let mut gateway = crate::pair::gateway(0, 1);
    gateway.handle_connected(ConnectionId(1), at(0));
    let mut last = at(0).uptime;
    let waits: Vec<Duration> = std::iter::repeat_with(|| {
        let (now, _) = fire(&mut gateway);
        let wait = now.uptime.since(last);
        last = now.uptime;
        wait
    })
    .take(12)
    .collect();
    assert!(waits[0] >= Duration::from_secs(1) && waits[0] <= Duration::from_secs(2));
    for wait in &waits[6..] {
        assert!(*wait >= Duration::from_secs(30) && *wait <= Duration::from_secs(60));
    }
}

#[test]
fn a_spool_that_cannot_be_read_is_asked_again_and_not_at_once() {
    let mut gateway = in_session(5);
    let from = drain(&mut gateway)
        .iter()
        .find_map(read_from)
        .expect("reads");
    gateway.handle_read(from, Vec::new(), at(0).uptime);
    assert_eq!(drain(&mut gateway), []);
    let (now, outputs) = fire(&mut gateway);
    assert!(now.uptime.since(at(0).uptime) >= Duration::from_millis(500));
    assert_eq!(outputs.iter().find_map(read_from), Some(from));
}

#[test]
fn live_frames_keep_their_interval_and_show_the_newest_status() {
    let mut gateway = in_session(0);
    drain(&mut gateway);
    let mut seen = Vec::new();
    for millis in 0..1_000 {
        let status = Status {
            floor: i32::try_from(millis).ok(),
            ..Status::default()
        };
        gateway.handle_status(status, PerField::default(), at(millis).uptime);
        gateway.handle_timeout(at(millis));
        for output in drain(&mut gateway) {
            if let Output::Live(_, dated) = output {
                let live = dated.live;
                assert_eq!(live.sampled, at(millis).uptime, "not the newest");
                seen.push((millis, live.count, live.status.floor));
            }
        }
    }
    let expected = [(0, 1), (200, 2), (400, 3), (600, 4), (800, 5)];
    let expected = expected.map(|(millis, count)| (millis, count, i32::try_from(millis).ok()));
    assert_eq!(seen, expected);
}

#[test]
fn a_status_from_before_the_session_is_the_first_thing_shown_in_it() {
    let mut gateway = crate::pair::gateway(3, 1);
    gateway.handle_status(Status::default(), PerField::default(), at(0).uptime);
    gateway.handle_connected(ConnectionId(1), at(0));
    let hello = hello_in(&drain(&mut gateway)).expect("greets");
    gateway.handle_down(Down::Welcome(welcome(hello.hello)), at(9));
    let outputs = drain(&mut gateway);
    let live = outputs.iter().position(|o| matches!(o, Output::Live(..)));
    let read = outputs
        .iter()
        .position(|o| matches!(o, Output::Read { .. }));
    assert!(live.is_some() && live < read, "{outputs:?}");
}

#[test]
fn every_session_is_shown_the_newest_status_and_how_old_its_fields_are() {
    let mut gateway = crate::pair::gateway(3, 1);
    let status = Status {
        battery: Some(0.33),
        floor: Some(7),
        ..Status::default()
    };
    let said = PerField {
        battery: Some(at(1_000).uptime),
        floor: Some(at(2_500).uptime),
        ..PerField::default()
    };
    gateway.handle_status(status.clone(), said, at(2_500).uptime);
    for (attempt, moment) in [(1, 10_000), (2, 70_000)] {
        gateway.handle_connected(ConnectionId(attempt), at(moment));
        let hello = hello_in(&drain(&mut gateway)).expect("greets");
        gateway.handle_down(Down::Welcome(welcome(hello.hello)), at(moment));
        let mut shown = drain(&mut gateway).into_iter().filter_map(|o| match o {
            Output::Live(_, dated) => Some(dated),
            _ => None,
        });
        let dated = shown
            .next()
            .expect("nothing has changed, but the relay has");
        assert_eq!(shown.next(), None);
        assert_eq!(dated.live.sampled, at(moment).uptime);
        assert_eq!(dated.live.status, status);
        let age = |since| Some(Age::new(Duration::from_millis(moment - since)));
        let ages = PerField {
            battery: age(1_000),
            floor: age(2_500),
            ..PerField::default()
        };
        assert_eq!(dated.ages, ages);
        gateway.handle_timeout(at(moment + 5_000));
        let more = drain(&mut gateway);
        let is_live = |o: &&Output| matches!(o, Output::Live(..));
        assert_eq!(more.iter().find(is_live), None, "it is shown once");
    }
}

#[test]
fn a_relay_that_hears_nothing_lets_the_session_go() {
    let mut pair = Pair::connected();
    pair.is_cut = true;
    pair.pass(GRANTS.beat_interval * 3);
    assert!(!pair.relay.is_open());
    pair.is_cut = false;
    pair.pass(Duration::from_secs(120));
    assert!(pair.relay.is_open());
}
