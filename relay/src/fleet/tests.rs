//! What a whole fleet may ask of the relay at a time, with frames as robots send them.

use std::time::Duration;

use brrbrr_proto::down::Welcome;
use brrbrr_proto::id::{BootId, ConnectionId, HelloId};
use brrbrr_proto::live::{Age, Dated, Live, PerField, RobotSide, Status};
use brrbrr_proto::seal::{NONCE_BYTES, Secret};
use brrbrr_proto::time::WallClock;
use brrbrr_proto::up::{Batch, Disk, Gone, Item, Report, Up};
use brrbrr_proto::version::Versions;

use super::*;

const RELAY: RelayId = RelayId(9);
const EPOCH: Epoch = Epoch(5);
const GRANTS: Grants = Grants {
    credit: 1024 * 1024,
    live_interval: Duration::from_millis(200),
    beat_interval: Duration::from_secs(10),
};
const LEDGER: Ledger = Ledger {
    epoch: Epoch(3),
    acked: Seq::FIRST,
    next: Seq::FIRST,
};

fn robot(number: u32) -> RobotId {
    RobotId::new(number).unwrap()
}

fn keys() -> Keys {
    Keys::new(&Secret::new([1; 32]))
}

fn now(millis: u64) -> Now {
    Now {
        uptime: Uptime::new(Duration::from_millis(millis)),
        wall: WallClock(1_700_000_000_000_000),
    }
}

fn hello_id(robot: RobotId) -> HelloId {
    HelloId {
        connection: ConnectionId(robot.number().into()),
        attempt: 1,
    }
}

/// A robot that has so many records waiting says hello.
fn hello(fleet: &mut Fleet, robot: RobotId, waiting: u64, now: Now) {
    let hello = Hello {
        hello: hello_id(robot),
        boot: BootId(1),
        uptime: now.uptime,
        wall: now.wall,
        next: Seq::FIRST.plus(waiting),
        backlog: waiting,
        down: None,
        versions: Versions::SUPPORTED,
        software: String::new(),
    };
    let frame = frame::seal(&keys(), robot, EPOCH, &[0; NONCE_BYTES], &hello).unwrap();
    fleet.admit(robot, keys());
    let session = SessionId(robot.number().into());
    fleet.handle_hello(robot, &frame, session, now).unwrap();
}

fn outputs(fleet: &mut Fleet) -> Vec<(RobotId, Output)> {
    std::iter::from_fn(|| fleet.poll_output()).collect()
}

fn recalls(outputs: &[(RobotId, Output)]) -> Vec<(RobotId, SessionId)> {
    let mut recalls = Vec::new();
    for (robot, output) in outputs {
        if let Output::Recall { session, .. } = output {
            recalls.push((*robot, *session));
        }
    }
    recalls
}

fn welcomes(outputs: &[(RobotId, Output)]) -> Vec<(RobotId, &Welcome)> {
    let mut welcomes = Vec::new();
    for (robot, output) in outputs {
        if let Output::Send(_, Down::Welcome(welcome)) = output {
            welcomes.push((*robot, welcome));
        }
    }
    welcomes
}

/// The last credit that the robot was told.
fn credit(outputs: &[(RobotId, Output)], whose: RobotId) -> Option<u32> {
    let mut credit = None;
    for (_, output) in outputs.iter().filter(|(robot, _)| *robot == whose) {
        if let Output::Send(_, Down::Welcome(welcome)) = output {
            credit = Some(welcome.credit);
        } else if let Output::Send(_, Down::Ack(ack)) = output {
            credit = Some(ack.credit);
        }
    }
    credit
}

/// Opens a session for a robot that has so many records waiting, and says what came of it.
fn open(fleet: &mut Fleet, robot: RobotId, waiting: u64, now: Now) -> Vec<(RobotId, Output)> {
    hello(fleet, robot, waiting, now);
    let session = SessionId(robot.number().into());
    fleet.handle_recalled(robot, session, Seq::FIRST, LEDGER, now);
    report(fleet, robot, waiting, now);
    outputs(fleet)
}

/// The robot uses its session: it reports that so many records wait.
fn report(fleet: &mut Fleet, robot: RobotId, waiting: u64, now: Now) {
    let report = Up::Report(Report {
        session: SessionId(robot.number().into()),
        sent: now.uptime,
        next: Seq::FIRST.plus(waiting),
        oldest: None,
        disk: Disk::Fine,
        since: now.uptime,
        detail: String::new(),
    });
    let frame = frame::seal(&keys(), robot, EPOCH, &[0; NONCE_BYTES], &report).unwrap();
    let topic = Topic::Up(RELAY, robot);
    fleet.handle_frame(topic, &frame, now).unwrap();
}

/// The robot sends one record in a session.
fn batch(fleet: &mut Fleet, robot: RobotId, session: SessionId, now: Now) {
    let batch = Up::Batch(Batch {
        session,
        sent: now.uptime,
        first: Seq::FIRST,
        items: vec![Item {
            covers: 1,
            record: vec![1],
        }],
    });
    let frame = frame::seal(&keys(), robot, EPOCH, &[0; NONCE_BYTES], &batch).unwrap();
    let topic = Topic::Up(RELAY, robot);
    fleet.handle_frame(topic, &frame, now).unwrap();
}

fn stores(outputs: &[(RobotId, Output)], whose: RobotId) -> Vec<SessionId> {
    let mut stores = Vec::new();
    for (robot, output) in outputs {
        if let Output::Store(store) = output
            && *robot == whose
        {
            stores.push(store.session);
        }
    }
    stores
}

fn gone(fleet: &mut Fleet, robot: RobotId, now: Now) {
    let connection = hello_id(robot).connection;
    let frame = frame::seal(
        &keys(),
        robot,
        EPOCH,
        &[0; NONCE_BYTES],
        &Gone { connection },
    );
    let topic = Topic::Presence(robot);
    fleet.handle_frame(topic, &frame.unwrap(), now).unwrap();
}

#[test]
fn of_two_thousand_hellos_at_once_few_are_in_work_and_the_rest_wait_or_come_back_spread_out() {
    let mut fleet = Fleet::new(RELAY, GRANTS);
    for number in 1..=2_000 {
        hello(&mut fleet, robot(number), 0, now(0));
    }
    let first = outputs(&mut fleet);
    let mut in_work = recalls(&first);
    assert_eq!(in_work.len(), HELLOS.slots);
    assert_eq!(fleet.load().hellos_waiting, HELLOS.line);
    let mut pauses = BTreeSet::new();
    for (robot, output) in &first {
        if let Output::Send(epoch, Down::Wait(wait)) = output {
            assert_eq!((*epoch, wait.hello), (EPOCH, hello_id(*robot)));
            pauses.insert(wait.pause);
        }
    }
    let away = 2_000 - HELLOS.slots - HELLOS.line;
    assert_eq!(pauses.len(), away, "no two of them come back together");
    assert_eq!(fleet.load().hellos_sent_away, u64::try_from(away).unwrap());

    let mut welcomed = 0;
    while let Some((robot, session)) = in_work.pop() {
        fleet.handle_recalled(robot, session, Seq::FIRST, LEDGER, now(1));
        let outputs = outputs(&mut fleet);
        welcomed += welcomes(&outputs).len();
        in_work.extend(recalls(&outputs));
        assert!(in_work.len() <= HELLOS.slots);
    }
    assert_eq!(welcomed, HELLOS.slots + HELLOS.line);
}

#[test]
fn a_store_that_is_away_does_not_use_up_the_slots() {
    let mut fleet = Fleet::new(RELAY, GRANTS);
    for number in 1..=100 {
        hello(&mut fleet, robot(number), 0, now(0));
    }
    let mut failed = 0;
    loop {
        let in_work = recalls(&outputs(&mut fleet));
        if in_work.is_empty() {
            break;
        }
        for (robot, _) in in_work {
            failed += 1;
            fleet.handle_recall_failed(robot, now(1));
        }
    }
    assert_eq!((failed, fleet.load().hellos_waiting), (100, 0));
    hello(&mut fleet, robot(101), 0, now(2));
    assert_eq!(recalls(&outputs(&mut fleet)).len(), 1);
}

#[test]
fn what_waits_of_a_session_that_is_over_is_dropped_when_the_next_one_opens() {
    let mut fleet = Fleet::new(RELAY, GRANTS);
    let last = u32::try_from(STORES).unwrap() + 1;
    for number in 1..=last {
        open(&mut fleet, robot(number), 1, now(0));
        let session = SessionId(number.into());
        batch(&mut fleet, robot(number), session, now(1));
    }
    let (last, newer) = (robot(last), SessionId(1_000_000));
    assert_eq!(stores(&outputs(&mut fleet), last), []);
    // Nobody is told that anything is stored, so the robot says hello again.
    let again = Hello {
        hello: HelloId {
            connection: ConnectionId(1_000_000),
            attempt: 1,
        },
        boot: BootId(1),
        uptime: now(2).uptime,
        wall: now(2).wall,
        next: Seq(2),
        backlog: 1,
        down: None,
        versions: Versions::SUPPORTED,
        software: String::new(),
    };
    let frame = frame::seal(&keys(), last, EPOCH, &[0; NONCE_BYTES], &again).unwrap();
    fleet.handle_hello(last, &frame, newer, now(2)).unwrap();
    fleet.handle_recalled(last, newer, Seq::FIRST, LEDGER, now(3));
    batch(&mut fleet, last, newer, now(4));
    fleet.handle_stored(robot(1), SessionId(1), Seq(2), 1, now(5));
    assert_eq!(stores(&outputs(&mut fleet), last), [newer]);
}

#[test]
fn sessions_begin_with_the_base_credit_and_those_with_a_backlog_get_the_full_one_in_turns() {
    let mut fleet = Fleet::new(RELAY, GRANTS);
    let small = open(&mut fleet, robot(1000), DRAIN_FROM - 1, now(0));
    assert_eq!(credit(&small, robot(1000)), Some(BASE_CREDIT));
    let slots = u32::try_from(DRAIN_SLOTS).unwrap();
    for number in 1..=slots {
        let opened = open(&mut fleet, robot(number), 100_000, now(0));
        let [(_, welcome)] = welcomes(&opened)[..] else {
            panic!("one welcome");
        };
        assert_eq!(welcome.credit, BASE_CREDIT);
        assert_eq!(credit(&opened, robot(number)), Some(GRANTS.credit));
    }
    let last = robot(slots + 1);
    let opened = open(&mut fleet, last, 100_000, now(1));
    assert_eq!(credit(&opened, last), Some(BASE_CREDIT));
    let load = fleet.load();
    assert_eq!((load.drain_slots, load.drain_waiting), (DRAIN_SLOTS, 1));

    gone(&mut fleet, robot(1), now(2));
    assert_eq!(
        credit(&outputs(&mut fleet), last),
        Some(GRANTS.credit),
        "the slot of a robot that left"
    );
    fleet.dismiss(robot(2), now(3));
    for number in 3..=slots + 1 {
        gone(&mut fleet, robot(number), now(4));
    }
    let load = fleet.load();
    assert_eq!((load.drain_slots, load.drain_waiting), (0, 0));
    assert_eq!(load.sessions, 1);
}

#[test]
fn while_hellos_wait_few_robots_drain_at_full_speed() {
    let mut fleet = Fleet::new(RELAY, GRANTS);
    let slots = u32::try_from(HELLOS.slots).unwrap();
    for number in 1..=slots + 30 {
        hello(&mut fleet, robot(number), 0, now(0));
    }
    for number in 1..=20 {
        let session = SessionId(number.into());
        fleet.handle_recalled(robot(number), session, Seq::FIRST, LEDGER, now(1));
        report(&mut fleet, robot(number), 100_000, now(2));
    }
    assert_eq!(fleet.load().hellos_waiting, 10);
    assert_eq!(fleet.load().drain_slots, DRAIN_SLOTS_IN_A_STORM);
    for number in 21..=30 {
        fleet.handle_recall_failed(robot(number), now(3));
    }
    assert_eq!(fleet.load().hellos_waiting, 0);
    assert_eq!(fleet.load().drain_slots, 20);
}

fn contacts(fleet: &mut Fleet) -> Vec<(Contact, Option<Timestamp>)> {
    let told = std::iter::from_fn(|| fleet.poll_contact());
    told.map(|(_, presence)| (presence.contact, presence.since))
        .collect()
}

fn show(fleet: &mut Fleet, robot: RobotId, count: u64, side: RobotSide, now: Now) {
    let live = Dated {
        live: Live {
            session: SessionId(robot.number().into()),
            count,
            sampled: now.uptime,
            status: Status {
                robot_side: Some(side),
                ..Status::default()
            },
        },
        ages: PerField {
            robot_side: Some(Age::new(Duration::from_secs(2))),
            ..PerField::default()
        },
    };
    let frame = frame::seal(&keys(), robot, EPOCH, &[0; NONCE_BYTES], &live).unwrap();
    let topic = Topic::Live(RELAY, robot);
    fleet.handle_frame(topic, &frame, now).unwrap();
}

#[test]
fn the_fleet_tells_of_contacts_and_counts_them() {
    let counts = |fleet: &Fleet| (fleet.load().online, fleet.load().degraded);
    // The calendar stands still at this moment, whatever the other clock says.
    let start = Timestamp::from_second(1_700_000_000).unwrap();
    let ago = |seconds| Some(start - Duration::from_secs(seconds));
    let mut fleet = Fleet::new(RELAY, GRANTS);
    open(&mut fleet, robot(1), 0, now(1_000));
    open(&mut fleet, robot(2), 0, now(1_000));
    let online = (Contact::Online, ago(0));
    assert_eq!(contacts(&mut fleet), [online, online]);
    assert_eq!(counts(&fleet), (2, 0));
    assert_eq!(
        fleet.heard(now(4_000)),
        [
            (robot(1), start - Duration::from_secs(3)),
            (robot(2), start - Duration::from_secs(3))
        ]
    );

    show(&mut fleet, robot(1), 1, RobotSide::Up, now(5_000));
    show(&mut fleet, robot(1), 2, RobotSide::Down, now(9_000));
    // When it was said is known to the boards' clocks only within what the session has seen.
    let told = contacts(&mut fleet);
    assert!(
        matches!(told[..], [(Contact::Degraded, Some(since))] if since <= ago(2).unwrap()),
        "{told:?}"
    );
    assert_eq!(counts(&fleet), (1, 1));

    gone(&mut fleet, robot(1), now(10_000));
    assert_eq!(contacts(&mut fleet), []);
    assert_eq!(counts(&fleet), (1, 1), "it may be straight back");
    let heard: Vec<RobotId> = fleet
        .heard(now(10_000))
        .into_iter()
        .map(|(robot, _)| robot)
        .collect();
    assert_eq!(heard, [robot(2)]);
    let due = fleet.poll_timeout().unwrap();
    let grace = presence::RETURN_GRACE;
    assert_eq!(due, now(10_000).uptime.plus(grace));
    fleet.handle_timeout(Now {
        uptime: due,
        ..now(0)
    });
    assert_eq!(
        contacts(&mut fleet),
        [(Contact::Offline, ago(grace.as_secs()))]
    );
    assert_eq!(counts(&fleet), (1, 0));

    fleet.dismiss(robot(2), now(20_000));
    assert_eq!(counts(&fleet), (0, 0));
}
