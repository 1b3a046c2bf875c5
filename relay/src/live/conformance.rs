//! What every implementation of the live store must do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use brrbrr_proto::id::{CommandId, Epoch, RobotId, Seq, SessionId};
use brrbrr_proto::live::{Activity, PerField, Status};
use brrbrr_proto::time::Uptime;
use brrbrr_proto::up::{Disk, Report};
use jiff::Timestamp;

use super::guesses::{ADDRESS_BURST, ADDRESS_INTERVAL};
use super::*;

/// Runs every case, each with robots of its own, on one empty store.
pub(crate) async fn conforms(live: &dyn Live) {
    every_robot_has_a_code_of_its_own(live).await;
    a_renewed_code_replaces_the_old_one_at_once(live).await;
    a_newer_face_takes_over(live).await;
    guidance_follows_its_own_trip_only(live).await;
    the_newest_status_wins_field_by_field(live).await;
    the_last_word_on_a_spool_counts(live).await;
    contact_is_what_was_said_of_it_last(live).await;
    a_forgotten_robot_leaves_nothing(live).await;
    a_reset_forgets_everything(live).await;
    wrong_guesses_are_limited(live).await;
}

/// Tasks that ask for the same robot's first code at once are given the same one.
pub(crate) async fn draws_concurrently(live: Arc<dyn Live>) {
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..50_u32 {
        let live = Arc::clone(&live);
        callers.spawn(async move {
            let robot = robot(1 + caller % 10);
            (robot, live.code(robot).await.unwrap())
        });
    }
    let mut drawn = BTreeSet::new();
    while let Some(done) = callers.join_next().await {
        drawn.insert(done.unwrap());
    }
    assert_eq!(drawn.len(), 10, "{drawn:?}");
    for (robot, code) in drawn {
        assert_eq!(live.robot_with_code(code).await.unwrap(), Some(robot));
    }
}

/// Uses up every code there is.
pub(crate) async fn runs_out_of_codes(live: Arc<dyn Live>) {
    let all = u32::try_from(CODES.count()).unwrap();
    let mut callers = tokio::task::JoinSet::new();
    for share in 0..100 {
        let live = Arc::clone(&live);
        callers.spawn(async move {
            for number in (1..=all).filter(|number| number % 100 == share) {
                live.code(robot(number)).await.unwrap();
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
    let mut used = BTreeSet::new();
    for number in 1..=all {
        used.insert(live.code(robot(number)).await.unwrap().0);
    }
    assert!(used.into_iter().eq(CODES));
    let none = live.code(robot(all + 1)).await;
    assert!(matches!(none, Err(LiveError::NoCodeLeft)), "{none:?}");
    let none = live.renew_code(robot(1)).await;
    assert!(matches!(none, Err(LiveError::NoCodeLeft)), "{none:?}");
    live.forget(robot(2)).await.unwrap();
    live.renew_code(robot(1)).await.unwrap();
}

/// Writes what [`remembers`] looks for, after the store was closed and opened again.
pub(crate) async fn prepare(live: &dyn Live) -> AuthCode {
    live.code(robot(900)).await.unwrap();
    let code = live.renew_code(robot(900)).await.unwrap();
    live.bind(robot(900), &socket("old")).await.unwrap();
    live.bind(robot(900), &socket("kept")).await.unwrap();
    live.set_guidance(robot(900), trip_to("701호", 1))
        .await
        .unwrap();
    live.advance(robot(900), CommandId(1), Phase::Arrived)
        .await
        .unwrap();
    live.code(robot(901)).await.unwrap();
    live.bind(robot(901), &socket("gone")).await.unwrap();
    live.unbind(robot(901), &socket("gone")).await.unwrap();
    let lost = Presence {
        contact: Contact::Offline,
        since: Some(at(3)),
        last_contact: Some(at(2)),
        cause: Some(Cause::Silent),
    };
    live.hear(robot(902), charged(), PerField::of(&charged(), at(2)))
        .await
        .unwrap();
    live.note_contacts(vec![
        (robot(900), online(1)),
        (robot(901), degraded(1)),
        (robot(902), lost),
    ])
    .await
    .unwrap();
    live.hear(robot(900), charged(), PerField::default())
        .await
        .unwrap();
    for moment in [5, 10] {
        live.keep_alive(at(moment), vec![(robot(900), at(moment))])
            .await
            .unwrap();
    }
    // Came after the last sign of life.
    let late = vec![(robot(903), online(11))];
    live.note_contacts(late).await.unwrap();
    code
}

/// See [`prepare`].
pub(crate) async fn remembers(live: &dyn Live, code: AuthCode) {
    assert_eq!(live.code(robot(900)).await.unwrap(), code);
    assert_eq!(live.robot_with_code(code).await.unwrap(), Some(robot(900)));
    assert_eq!(live.faces().await.unwrap(), [(robot(900), socket("kept"))]);
    let arrived = Guidance {
        phase: Phase::Arrived,
        ..trip_to("701호", 1)
    };
    assert_eq!(live.guidance(robot(900)).await.unwrap(), arrived);
    assert_eq!(
        live.guidance(robot(901)).await.unwrap(),
        Guidance::default()
    );
    let cut_off = |moment| Presence {
        contact: Contact::Offline,
        since: Some(at(moment)),
        last_contact: Some(at(moment)),
        cause: Some(Cause::RelayRestarted),
    };
    let lost = Presence {
        contact: Contact::Offline,
        since: Some(at(3)),
        last_contact: Some(at(2)),
        cause: Some(Cause::Silent),
    };
    let expected = [
        (robot(900), cut_off(10)),
        (robot(901), cut_off(10)),
        (robot(902), lost),
        (robot(903), cut_off(11)),
    ];
    assert_eq!(live.presences().await.unwrap(), expected);
    for (number, moment) in [(900, None), (902, Some(2))] {
        let said = PerField {
            battery: moment.map(at),
            ..PerField::default()
        };
        let heard = Heard {
            status: charged(),
            said,
        };
        assert_eq!(live.heard(robot(number)).await.unwrap(), Some(heard));
    }
}

fn charged() -> Status {
    Status {
        battery: Some(0.33),
        ..Status::default()
    }
}

async fn every_robot_has_a_code_of_its_own(live: &dyn Live) {
    let mut codes = BTreeSet::new();
    for number in 1..=50 {
        let code = live.code(robot(number)).await.unwrap();
        assert!(CODES.contains(&code.0));
        assert!(codes.insert(code));
        assert_eq!(live.code(robot(number)).await.unwrap(), code, "it stays");
        assert_eq!(
            live.robot_with_code(code).await.unwrap(),
            Some(robot(number))
        );
    }
    assert_eq!(live.robot_with_code(AuthCode(0)).await.unwrap(), None);
    assert_eq!(
        live.robot_with_code(AuthCode(u16::MAX)).await.unwrap(),
        None
    );
    live.reset().await.unwrap();
}

async fn a_renewed_code_replaces_the_old_one_at_once(live: &dyn Live) {
    let mut old = live.code(robot(1)).await.unwrap();
    for _ in 0..20 {
        let new = live.renew_code(robot(1)).await.unwrap();
        assert_ne!(new, old);
        assert_eq!(live.robot_with_code(old).await.unwrap(), None);
        assert_eq!(live.robot_with_code(new).await.unwrap(), Some(robot(1)));
        assert_eq!(live.code(robot(1)).await.unwrap(), new);
        old = new;
    }
    let first = live.renew_code(robot(2)).await.unwrap();
    assert_eq!(
        live.code(robot(2)).await.unwrap(),
        first,
        "without one before"
    );
    live.reset().await.unwrap();
}

async fn a_newer_face_takes_over(live: &dyn Live) {
    let (old, new) = (socket("old"), socket("new"));
    assert_eq!(live.face(robot(1)).await.unwrap(), None);
    assert_eq!(live.bind(robot(1), &old).await.unwrap(), None);
    assert_eq!(
        live.bind(robot(1), &old).await.unwrap(),
        None,
        "the same again"
    );
    assert_eq!(live.bind(robot(1), &new).await.unwrap(), Some(old.clone()));
    assert!(
        !live.unbind(robot(1), &old).await.unwrap(),
        "it has lost it"
    );
    assert_eq!(live.face(robot(1)).await.unwrap(), Some(new.clone()));
    live.bind(robot(2), &old).await.unwrap();
    let faces = live.faces().await.unwrap();
    assert_eq!(faces, [(robot(1), new.clone()), (robot(2), old)]);
    assert!(live.unbind(robot(1), &new).await.unwrap());
    assert!(!live.unbind(robot(1), &new).await.unwrap());
    assert_eq!(live.face(robot(1)).await.unwrap(), None);
    live.reset().await.unwrap();
}

async fn guidance_follows_its_own_trip_only(live: &dyn Live) {
    assert_eq!(live.guidance(robot(1)).await.unwrap(), Guidance::default());
    assert!(
        !live
            .advance(robot(1), CommandId(1), Phase::Arrived)
            .await
            .unwrap()
    );
    live.set_guidance(robot(1), trip_to("701호", 1))
        .await
        .unwrap();
    assert!(
        live.advance(robot(1), CommandId(1), Phase::Stopped)
            .await
            .unwrap()
    );
    live.set_guidance(robot(1), trip_to("702호", 2))
        .await
        .unwrap();
    assert!(
        !live
            .advance(robot(1), CommandId(1), Phase::Arrived)
            .await
            .unwrap()
    );
    assert_eq!(live.guidance(robot(1)).await.unwrap(), trip_to("702호", 2));
    assert!(
        live.advance(robot(1), CommandId(2), Phase::Arrived)
            .await
            .unwrap()
    );
    let arrived = Guidance {
        phase: Phase::Arrived,
        ..trip_to("702호", 2)
    };
    assert_eq!(live.guidance(robot(1)).await.unwrap(), arrived);
    // A stop that comes after the arrival leaves it; one on the way, or without a trip, shows.
    live.stop_trip(robot(1)).await.unwrap();
    assert_eq!(live.guidance(robot(1)).await.unwrap(), arrived);
    live.set_guidance(robot(1), trip_to("703호", 3))
        .await
        .unwrap();
    for (robot, before) in [
        (robot(1), trip_to("703호", 3)),
        (robot(2), Guidance::default()),
    ] {
        live.stop_trip(robot).await.unwrap();
        let stopped = Guidance {
            phase: Phase::Stopped,
            ..before
        };
        assert_eq!(live.guidance(robot).await.unwrap(), stopped);
    }
    live.reset().await.unwrap();
}

async fn the_newest_status_wins_field_by_field(live: &dyn Live) {
    assert_eq!(live.heard(robot(1)).await.unwrap(), None);
    let first = Status {
        battery: Some(0.5),
        floor: Some(7),
        ..Status::default()
    };
    let second = Status {
        battery: Some(0.4),
        activity: Some(Activity::Moving),
        ..Status::default()
    };
    for (status, moment) in [(first, 1), (second, 2)] {
        let said = PerField::of(&status, at(moment));
        live.hear(robot(1), status, said).await.unwrap();
    }
    // What an outage held up is older than what is known, and fills in only what is not.
    let late = Status {
        battery: Some(0.9),
        speed: Some(0.7),
        ..Status::default()
    };
    let newer = Status {
        floor: Some(8),
        battery: Some(0.4),
        ..Status::default()
    };
    live.hear_late(robot(1), vec![(late, at(0)), (newer, at(3))])
        .await
        .unwrap();
    let all = Status {
        battery: Some(0.4),
        speed: Some(0.7),
        floor: Some(8),
        activity: Some(Activity::Moving),
        ..Status::default()
    };
    let said = PerField {
        battery: Some(at(2)),
        speed: Some(at(0)),
        floor: Some(at(3)),
        activity: Some(at(2)),
        ..PerField::default()
    };
    let heard = Heard { status: all, said };
    assert_eq!(live.heard(robot(1)).await.unwrap(), Some(heard));
    live.reset().await.unwrap();
}

async fn the_last_word_on_a_spool_counts(live: &dyn Live) {
    assert_eq!(live.spool(robot(1)).await.unwrap(), None);
    for moment in [1, 3, 2] {
        live.hear_spool(robot(1), spool(moment)).await.unwrap();
    }
    assert_eq!(live.spool(robot(1)).await.unwrap(), Some(spool(2)));
    assert_eq!(live.spool(robot(2)).await.unwrap(), None);
    live.reset().await.unwrap();
    assert_eq!(live.spool(robot(1)).await.unwrap(), None);
}

async fn contact_is_what_was_said_of_it_last(live: &dyn Live) {
    assert_eq!(
        live.presence(robot(1)).await.unwrap(),
        Presence::default(),
        "it never was in contact"
    );
    let changes = vec![(robot(1), online(1)), (robot(2), degraded(2))];
    live.note_contacts(changes).await.unwrap();
    live.note_contacts(vec![(robot(1), degraded(3))])
        .await
        .unwrap();
    assert_eq!(live.presence(robot(1)).await.unwrap(), degraded(3));
    // An older word on when it was heard, and one of a robot that nobody knows, change nothing.
    let heard = vec![(robot(1), at(2)), (robot(2), at(9)), (robot(3), at(9))];
    live.keep_alive(at(9), heard).await.unwrap();
    let heard = Presence {
        last_contact: Some(at(9)),
        ..degraded(2)
    };
    let expected = [(robot(1), degraded(3)), (robot(2), heard)];
    assert_eq!(live.presences().await.unwrap(), expected);
    live.reset().await.unwrap();
    assert_eq!(
        live.presences().await.unwrap(),
        expected,
        "a reset does not cut anybody off"
    );
    for number in [1, 2] {
        live.forget(robot(number)).await.unwrap();
    }
    assert_eq!(live.presences().await.unwrap(), []);
}

async fn a_forgotten_robot_leaves_nothing(live: &dyn Live) {
    let mut codes = Vec::new();
    for number in [1, 2] {
        codes.push(live.code(robot(number)).await.unwrap());
        live.bind(robot(number), &socket("s")).await.unwrap();
        live.set_guidance(robot(number), trip_to("701호", 1))
            .await
            .unwrap();
        live.hear(robot(number), Status::default(), PerField::default())
            .await
            .unwrap();
        live.hear_spool(robot(number), spool(1)).await.unwrap();
    }
    live.forget(robot(1)).await.unwrap();
    assert_eq!(live.robot_with_code(codes[0]).await.unwrap(), None);
    assert_eq!(live.face(robot(1)).await.unwrap(), None);
    assert_eq!(live.guidance(robot(1)).await.unwrap(), Guidance::default());
    assert_eq!(live.heard(robot(1)).await.unwrap(), None);
    assert_eq!(live.spool(robot(1)).await.unwrap(), None);
    assert_eq!(live.spool(robot(2)).await.unwrap(), Some(spool(1)));
    assert_eq!(
        live.code(robot(2)).await.unwrap(),
        codes[1],
        "the other one keeps its own"
    );
    assert_eq!(live.faces().await.unwrap().len(), 1);
    live.reset().await.unwrap();
}

async fn a_reset_forgets_everything(live: &dyn Live) {
    let code = live.code(robot(1)).await.unwrap();
    live.bind(robot(1), &socket("s")).await.unwrap();
    live.set_guidance(robot(1), trip_to("701호", 1))
        .await
        .unwrap();
    live.hear(robot(1), Status::default(), PerField::default())
        .await
        .unwrap();
    live.reset().await.unwrap();
    assert_eq!(live.robot_with_code(code).await.unwrap(), None);
    assert_eq!(live.faces().await.unwrap(), []);
    assert_eq!(live.guidance(robot(1)).await.unwrap(), Guidance::default());
    assert_eq!(live.heard(robot(1)).await.unwrap(), None);
}

async fn wrong_guesses_are_limited(live: &dyn Live) {
    let guesser = "192.0.2.1".parse().unwrap();
    for _ in 0..ADDRESS_BURST {
        assert_eq!(live.may_guess(guesser).await.unwrap(), Guess::Allowed);
        live.count_wrong_guess(guesser).await.unwrap();
    }
    let Guess::Refused(wait) = live.may_guess(guesser).await.unwrap() else {
        panic!("an address guesses without end");
    };
    assert!(wait > Duration::ZERO && wait <= ADDRESS_INTERVAL);
    let other = "192.0.2.2".parse().unwrap();
    assert_eq!(live.may_guess(other).await.unwrap(), Guess::Allowed);
}

fn online(moment: i64) -> Presence {
    Presence {
        contact: Contact::Online,
        since: Some(at(moment)),
        last_contact: Some(at(moment)),
        cause: None,
    }
}

fn degraded(moment: i64) -> Presence {
    Presence {
        contact: Contact::Degraded,
        cause: Some(Cause::RobotSideDown),
        ..online(moment)
    }
}

fn robot(number: u32) -> RobotId {
    RobotId::new(number).unwrap()
}

fn socket(name: &str) -> SocketId {
    SocketId(name.to_owned())
}

fn trip_to(destination: &str, trip: u128) -> Guidance {
    Guidance {
        phase: Phase::Moving,
        destination: Some(destination.to_owned()),
        trip: Some(CommandId(trip)),
    }
}

fn spool(moment: u64) -> Spool {
    Spool {
        epoch: Epoch(1),
        report: Report {
            session: SessionId(1),
            sent: Uptime::new(Duration::from_secs(moment)),
            next: Seq(moment),
            oldest: None,
            disk: Disk::Short,
            since: Uptime::default(),
            detail: String::new(),
        },
        at: at(moment.cast_signed()),
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).unwrap()
}
