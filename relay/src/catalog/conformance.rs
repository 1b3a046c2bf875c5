//! What every implementation of the catalog must do. Times are whole milliseconds, which every
//! store can hold.

use std::collections::BTreeMap;

use brrbrr_proto::down::{GoTo, Order};
use brrbrr_proto::id::{CommandId, Cursor, Epoch, RobotId, Seq};
use brrbrr_proto::live::Pose;
use brrbrr_proto::seal::Secret;
use brrbrr_proto::up::{CommandUpdate, Progress};
use jiff::Timestamp;
use proptest::prelude::*;

use super::*;

/// Runs every case, each in a part of the building of its own, on one empty catalog.
pub(crate) async fn conforms(catalog: &dyn Catalog) {
    places_have_a_name_and_a_floor(catalog).await;
    places_keep_their_aliases(catalog).await;
    happenings_are_at_places(catalog).await;
    names_are_the_same_in_every_unicode_form(catalog).await;
    robots_keep_their_number_and_secret(catalog).await;
    what_is_not_there_is_missing(catalog).await;
    commands_are_numbered_and_kept(catalog).await;
    an_idempotency_key_is_accepted_once(catalog).await;
    what_was_sent_is_marked_once(catalog).await;
    delivery_never_goes_back(catalog).await;
    a_renewed_stream_holds_what_was_not_delivered(catalog).await;
    updates_move_commands_forward_only(catalog).await;
    the_applied_position_never_goes_back(catalog).await;
    a_removed_robot_takes_its_ledger_along(catalog).await;
}

/// Fifty callers at once get positions without holes, and the same key gets one command.
pub(crate) async fn submits_concurrently(catalog: std::sync::Arc<dyn Catalog>) {
    const CALLERS: u64 = 50;
    let robot = enter(&*catalog, "concurrent").await;
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let catalog = std::sync::Arc::clone(&catalog);
        callers.spawn(async move {
            let mut own = command(robot, 1_000 + u128::from(caller));
            own.idempotency_key = Some(format!("own {caller}"));
            let mut shared = command(robot, 2_000 + u128::from(caller));
            shared.idempotency_key = Some("shared".to_owned());
            let own = catalog.submit(own).await.unwrap();
            (own.seq, catalog.submit(shared).await.unwrap().command.id)
        });
    }
    let mut shared = Vec::new();
    let mut seqs = Vec::new();
    while let Some(done) = callers.join_next().await {
        let (seq, id) = done.unwrap();
        seqs.push(seq);
        shared.push(id);
    }
    shared.dedup();
    assert_eq!(shared.len(), 1, "one command for one key");
    let entries = catalog.commands_from(robot, Seq::FIRST, 1_000).await;
    let stored: Vec<u64> = entries.unwrap().iter().map(|entry| entry.seq.0).collect();
    assert_eq!(stored, (1..=CALLERS + 1).collect::<Vec<_>>());
    seqs.sort_unstable();
    seqs.dedup();
    assert_eq!(seqs.len(), 50);
}

/// Writes what [`remembers`] looks for, after the store was closed and opened again.
pub(crate) async fn prepare(catalog: &dyn Catalog) {
    let place = catalog.add_place(place("kept", 1)).await.unwrap();
    catalog
        .add_happening(happening("kept", &place.details))
        .await
        .unwrap();
    let robot = enter(catalog, "kept").await;
    catalog.submit(command(robot, 77)).await.unwrap();
    catalog.submit(command(robot, 78)).await.unwrap();
    catalog
        .mark_sent(robot, Seq(1), Seq(2), at(5))
        .await
        .unwrap();
    let epoch = catalog.down_stream(robot).await.unwrap().epoch;
    let cursor = Cursor {
        epoch,
        next: Seq(2),
    };
    catalog.mark_delivered(robot, cursor).await.unwrap();
    let applied = Cursor {
        epoch: Epoch(4),
        next: Seq(9),
    };
    let updates = vec![(update(77, Progress::Running), at(6))];
    catalog.apply(robot, applied, updates).await.unwrap();
}

/// See [`prepare`].
pub(crate) async fn remembers(catalog: &dyn Catalog) {
    let places = catalog.places().await.unwrap();
    let place = places
        .iter()
        .find(|place| place.details.name == "kept")
        .unwrap();
    assert_eq!(place.details.aliases, ["방"]);
    let happenings = catalog.happenings().await.unwrap();
    assert!(
        happenings
            .iter()
            .any(|there| there.details == happening("kept", &place.details))
    );
    let robots = catalog.robots().await.unwrap();
    let robot = robots.iter().find(|robot| robot.name == "kept").unwrap().id;
    assert_eq!(catalog.secret(robot).await.unwrap(), secret("kept"));
    let (entry, transitions) = catalog.command(CommandId(77)).await.unwrap();
    assert_eq!(entry.command, command(robot, 77));
    assert_eq!((entry.seq, entry.state), (Seq(1), CommandState::Running));
    let steps: Vec<_> = transitions
        .iter()
        .map(|step| (step.state, step.at))
        .collect();
    let expected = [
        (CommandState::Queued, at(0)),
        (CommandState::Sent, at(5)),
        (CommandState::Running, at(6)),
    ];
    assert_eq!(steps, expected);
    let stream = catalog.down_stream(robot).await.unwrap();
    assert_eq!((stream.acked, stream.next), (Seq(2), Seq(3)));
    assert_eq!(catalog.applied(robot, Epoch(4)).await.unwrap(), Seq(9));
}

async fn places_have_a_name_and_a_floor(catalog: &dyn Catalog) {
    let seventh = catalog.add_place(place("room", 7)).await.unwrap();
    let eighth = catalog.add_place(place("room", 8)).await.unwrap();
    assert!(seventh.id < eighth.id);
    let twice = catalog.add_place(place("room", 7)).await;
    assert!(matches!(twice, Err(CatalogError::Conflict(_))), "{twice:?}");
    let clash = catalog
        .change_place(eighth.id, place("room", 7), Aliases::Kept)
        .await;
    assert!(matches!(clash, Err(CatalogError::Conflict(_))), "{clash:?}");

    let bare = PlaceDetails {
        description: None,
        thumburl: None,
        mapurl: None,
        aliases: Vec::new(),
        ..place("회의실 A+", -1)
    };
    let changed = catalog
        .change_place(eighth.id, bare.clone(), Aliases::Replaced)
        .await
        .unwrap();
    assert_eq!((changed.id, &changed.details), (eighth.id, &bare));
    let places = catalog.places().await.unwrap();
    assert_eq!(places, [seventh.clone(), changed.clone()]);
    for place in [seventh, changed] {
        catalog.remove_place(place.id).await.unwrap();
    }
    assert_eq!(catalog.places().await.unwrap(), []);
}

async fn places_keep_their_aliases(catalog: &dyn Catalog) {
    let called = |aliases: &[&str]| PlaceDetails {
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        ..place("lounge", 1)
    };
    let decomposed = "\u{1112}\u{1172}\u{1100}\u{1166}\u{1109}\u{1175}\u{11af}";
    let lounge = called(&["rest, \"room\"", decomposed]);
    let lounge = catalog.add_place(lounge).await.unwrap();
    let both = called(&["rest, \"room\"", "휴게실"]);
    assert_eq!(lounge.details, both);

    let other = called(&["not heard of"]);
    let kept = catalog.change_place(lounge.id, other, Aliases::Kept).await;
    assert_eq!(kept.unwrap().details, both);
    assert_eq!(catalog.places().await.unwrap()[0].details, both);
    for new in [called(&[decomposed]), called(&[])] {
        let id = lounge.id;
        let changed = catalog
            .change_place(id, new.clone(), Aliases::Replaced)
            .await;
        let places = catalog.places().await.unwrap();
        assert_eq!(places, [changed.unwrap()]);
        assert_eq!(places[0].details.aliases.len(), new.aliases.len());
    }
    catalog.remove_place(lounge.id).await.unwrap();
}

async fn happenings_are_at_places(catalog: &dyn Catalog) {
    let room = catalog.add_place(place("hall", 1)).await.unwrap();
    let elsewhere = catalog
        .add_happening(happening("lost", &place("hall", 2)))
        .await;
    let Err(CatalogError::UnknownPlace { name, floor }) = elsewhere else {
        panic!("{elsewhere:?}");
    };
    assert_eq!((name.as_str(), floor), ("hall", 2));

    let open_day = happening("open day", &room.details);
    let entered = catalog.add_happening(open_day.clone()).await.unwrap();
    assert_eq!(entered.details, open_day);
    let twice = catalog.add_happening(open_day).await;
    assert!(matches!(twice, Err(CatalogError::Conflict(_))), "{twice:?}");

    let occupied = catalog.remove_place(room.id).await;
    assert!(
        matches!(occupied, Err(CatalogError::Conflict(_))),
        "{occupied:?}"
    );
    catalog
        .change_place(room.id, place("foyer", 3), Aliases::Kept)
        .await
        .unwrap();
    let moved = &catalog.happenings().await.unwrap()[0];
    assert_eq!(
        (moved.details.place_name.as_str(), moved.details.place_floor),
        ("foyer", 3)
    );

    catalog.remove_happening(entered.id).await.unwrap();
    assert_eq!(catalog.happenings().await.unwrap(), []);
    catalog.remove_place(room.id).await.unwrap();
}

async fn names_are_the_same_in_every_unicode_form(catalog: &dyn Catalog) {
    let composed = "가";
    let decomposed = "\u{1100}\u{1161}";
    let room = catalog.add_place(place(decomposed, 1)).await.unwrap();
    assert_eq!(room.details.name, composed);
    let twice = catalog.add_place(place(composed, 1)).await;
    assert!(matches!(twice, Err(CatalogError::Conflict(_))), "{twice:?}");
    let there = catalog
        .add_happening(happening(decomposed, &place(decomposed, 1)))
        .await
        .unwrap();
    assert_eq!(
        (
            there.details.name.as_str(),
            there.details.place_name.as_str()
        ),
        (composed, composed)
    );
    catalog.remove_happening(there.id).await.unwrap();
    catalog.remove_place(room.id).await.unwrap();
    let robot = catalog
        .add_robot(decomposed, 1, None, &secret(""))
        .await
        .unwrap();
    assert_eq!(robot.name, composed);
    catalog.remove_robot(robot.id).await.unwrap();
}

async fn robots_keep_their_number_and_secret(catalog: &dyn Catalog) {
    let home = Pose {
        x: 1.5,
        y: -2.25,
        theta: Some(0.5),
    };
    let first = catalog
        .add_robot("first", 7, Some(home), &secret("first"))
        .await
        .unwrap();
    let second = catalog
        .add_robot("second", -1, None, &secret("second"))
        .await
        .unwrap();
    assert_eq!(catalog.robot(first.id).await.unwrap(), first);
    assert_eq!((first.home, second.home), (Some(home), None));
    assert_eq!(catalog.secret(second.id).await.unwrap(), secret("second"));
    let twice = catalog.add_robot("first", 8, None, &secret("")).await;
    assert!(matches!(twice, Err(CatalogError::Conflict(_))), "{twice:?}");

    catalog.remove_robot(second.id).await.unwrap();
    let third = catalog
        .add_robot("second", -1, None, &secret("third"))
        .await
        .unwrap();
    assert!(third.id > second.id, "a number is never used twice");
    assert_eq!(
        catalog.robots().await.unwrap(),
        [first.clone(), third.clone()]
    );
    let streams = [first.id, third.id].map(|id| catalog.down_stream(id));
    let [one, other] = streams;
    assert_ne!(one.await.unwrap().epoch, other.await.unwrap().epoch);
    catalog.remove_robot(first.id).await.unwrap();
    catalog.remove_robot(third.id).await.unwrap();
}

async fn what_is_not_there_is_missing(catalog: &dyn Catalog) {
    let nobody = RobotId::new(u32::MAX).unwrap();
    let cursor = Cursor {
        epoch: Epoch(1),
        next: Seq(1),
    };
    let answers = [
        catalog
            .change_place(i64::MAX, place("x", 1), Aliases::Kept)
            .await
            .err(),
        catalog
            .change_place(i64::MAX, place("x", 1), Aliases::Replaced)
            .await
            .err(),
        catalog.remove_place(i64::MAX).await.err(),
        catalog.remove_happening(-1).await.err(),
        catalog.robot(nobody).await.err(),
        catalog.remove_robot(nobody).await.err(),
        catalog.secret(nobody).await.err(),
        catalog.submit(command(nobody, 1)).await.err(),
        catalog.command(CommandId(u128::MAX)).await.err(),
        catalog.commands_from(nobody, Seq(1), 1).await.err(),
        catalog.recent_commands(nobody, 1).await.err(),
        catalog.mark_sent(nobody, Seq(1), Seq(2), at(1)).await.err(),
        catalog.down_stream(nobody).await.err(),
        catalog.mark_delivered(nobody, cursor).await.err(),
        catalog.renew_down_stream(nobody, Epoch(1)).await.err(),
        catalog.applied(nobody, Epoch(1)).await.err(),
        catalog.apply(nobody, cursor, Vec::new()).await.err(),
    ];
    for (number, error) in answers.into_iter().enumerate() {
        assert!(
            matches!(error, Some(CatalogError::Missing(_))),
            "{number}: {error:?}"
        );
    }
}

async fn commands_are_numbered_and_kept(catalog: &dyn Catalog) {
    let robot = enter(catalog, "numbered").await;
    let other = enter(catalog, "other").await;
    let orders = [
        Order::GoTo(GoTo {
            pose: Pose {
                x: 34.6,
                y: 445.6,
                theta: None,
            },
            floor: Some(7),
            place: "701호".to_owned(),
        }),
        Order::Stop,
        Order::Say("안녕".to_owned()),
        Order::Cancel(CommandId(1)),
    ];
    for (number, order) in orders.into_iter().enumerate() {
        let id = 100 + u128::try_from(number).unwrap();
        let new = NewCommand {
            order,
            ..command(robot, id)
        };
        let entry = catalog.submit(new.clone()).await.unwrap();
        assert_eq!(entry.command, new);
        assert_eq!(entry.seq, Seq::FIRST.plus(u64::try_from(number).unwrap()));
        assert_eq!(
            (entry.state, entry.detail.as_str()),
            (CommandState::Queued, "")
        );
        let (stored, steps) = catalog.command(new.id).await.unwrap();
        assert_eq!(stored, entry);
        let queued = Transition {
            state: CommandState::Queued,
            at: new.submitted,
            detail: String::new(),
        };
        assert_eq!(steps, [queued]);
    }
    assert_eq!(
        catalog.submit(command(other, 200)).await.unwrap().seq,
        Seq::FIRST
    );
    let again = catalog.submit(command(robot, 100)).await;
    assert!(matches!(again, Err(CatalogError::Conflict(_))), "{again:?}");

    assert_eq!(seqs(catalog.commands_from(robot, Seq(2), 2).await), [2, 3]);
    assert!(seqs(catalog.commands_from(robot, Seq(5), 2).await).is_empty());
    assert_eq!(seqs(catalog.recent_commands(robot, 3).await), [4, 3, 2]);
    let stream = catalog.down_stream(robot).await.unwrap();
    assert_eq!((stream.acked, stream.next), (Seq(1), Seq(5)));
    leave(catalog, &[robot, other]).await;
}

async fn an_idempotency_key_is_accepted_once(catalog: &dyn Catalog) {
    let robot = enter(catalog, "once").await;
    let other = enter(catalog, "once too").await;
    let keyed = |robot, id| NewCommand {
        idempotency_key: Some("key".to_owned()),
        ..command(robot, id)
    };
    let first = catalog.submit(keyed(robot, 1)).await.unwrap();
    let moved = vec![(update(1, Progress::Succeeded), at(3))];
    let cursor = Cursor {
        epoch: Epoch(1),
        next: Seq(2),
    };
    catalog.apply(robot, cursor, moved).await.unwrap();
    let again = catalog.submit(keyed(robot, 2)).await.unwrap();
    assert_eq!(again.command, first.command);
    assert_eq!(again.state, CommandState::Succeeded, "as it stands now");
    assert_eq!(
        catalog.submit(keyed(other, 3)).await.unwrap().command.id,
        CommandId(3)
    );
    assert_eq!(catalog.down_stream(robot).await.unwrap().next, Seq(2));
    leave(catalog, &[robot, other]).await;
}

async fn what_was_sent_is_marked_once(catalog: &dyn Catalog) {
    let robot = enter(catalog, "sent").await;
    submit(catalog, robot, 1..=4).await;
    let received = vec![(update(2, Progress::Received), at(2))];
    let cursor = Cursor {
        epoch: Epoch(1),
        next: Seq(2),
    };
    catalog.apply(robot, cursor, received).await.unwrap();
    for moment in [5, 6] {
        catalog
            .mark_sent(robot, Seq(1), Seq(4), at(moment))
            .await
            .unwrap();
    }
    let states: Vec<_> = entries(catalog, robot).await.values().copied().collect();
    use CommandState::{Queued, Received, Sent};
    assert_eq!(states, [Sent, Received, Sent, Queued]);
    let (_, steps) = catalog.command(CommandId(1)).await.unwrap();
    let steps: Vec<_> = steps.iter().map(|step| (step.state, step.at)).collect();
    assert_eq!(steps, [(Queued, at(0)), (Sent, at(5))]);
    leave(catalog, &[robot]).await;
}

async fn delivery_never_goes_back(catalog: &dyn Catalog) {
    let robot = enter(catalog, "delivered").await;
    submit(catalog, robot, 1..=4).await;
    let epoch = catalog.down_stream(robot).await.unwrap().epoch;
    let stranger = Epoch(epoch.0.wrapping_add(1));
    for (epoch, next, acked) in [
        (epoch, 3, 3),
        (epoch, 2, 3),
        (stranger, 5, 3),
        // The robot claims more than was ever sent: its word means another ledger.
        (epoch, 6, 3),
        (epoch, 5, 5),
    ] {
        let cursor = Cursor {
            epoch,
            next: Seq(next),
        };
        catalog.mark_delivered(robot, cursor).await.unwrap();
        assert_eq!(
            catalog.down_stream(robot).await.unwrap().acked,
            Seq(acked),
            "{cursor:?}"
        );
    }
    leave(catalog, &[robot]).await;
}

async fn a_renewed_stream_holds_what_was_not_delivered(catalog: &dyn Catalog) {
    let robot = enter(catalog, "renewed").await;
    submit(catalog, robot, 1..=5).await;
    catalog
        .mark_sent(robot, Seq(1), Seq(4), at(5))
        .await
        .unwrap();
    let old = catalog.down_stream(robot).await.unwrap();
    let cursor = Cursor {
        epoch: old.epoch,
        next: Seq(3),
    };
    catalog.mark_delivered(robot, cursor).await.unwrap();
    // The robot has reported on the fourth, so it has it, although it never said so.
    let reported = vec![(update(4, Progress::Running), at(6))];
    let up = Cursor {
        epoch: Epoch(1),
        next: Seq(2),
    };
    catalog.apply(robot, up, reported).await.unwrap();

    let epoch = Epoch(old.epoch.0.wrapping_add(1));
    let expected = DownStream {
        epoch,
        acked: Seq(1),
        next: Seq(3),
    };
    // Asked twice, as after an answer that was lost.
    for _ in 0..2 {
        assert_eq!(
            catalog.renew_down_stream(robot, epoch).await.unwrap(),
            expected
        );
    }
    assert_eq!(catalog.down_stream(robot).await.unwrap(), expected);
    let waiting = catalog.commands_from(robot, Seq(1), 10).await.unwrap();
    let waiting: Vec<_> = waiting
        .iter()
        .map(|entry| (entry.command.id.0, entry.seq.0))
        .collect();
    assert_eq!(waiting, [(3, 1), (5, 2)]);
    assert_eq!(catalog.submit(command(robot, 6)).await.unwrap().seq, Seq(3));
    assert_eq!(
        catalog.recent_commands(robot, 10).await.unwrap().len(),
        6,
        "nothing is forgotten"
    );
    leave(catalog, &[robot]).await;
}

async fn updates_move_commands_forward_only(catalog: &dyn Catalog) {
    let robot = enter(catalog, "updated").await;
    let other = enter(catalog, "not updated").await;
    submit(catalog, robot, 1..=2).await;
    submit(catalog, other, 3..=3).await;
    let updates = [
        (1, Progress::Received),
        (1, Progress::Running),
        (9_999, Progress::Running),
        (3, Progress::Running),
        (1, Progress::Received),
        (2, Progress::Succeeded),
        (2, Progress::Failed),
        (1, Progress::Failed),
    ];
    let timed = updates.iter().zip(1..).map(|((id, progress), moment)| {
        let update = CommandUpdate {
            detail: format!("{moment}"),
            ..update(*id, *progress)
        };
        (update, at(moment))
    });
    let timed: Vec<_> = timed.collect();
    let cursor = Cursor {
        epoch: Epoch(1),
        next: Seq(9),
    };
    let changed = catalog.apply(robot, cursor, timed.clone()).await.unwrap();
    let seen: Vec<_> = changed
        .iter()
        .map(|entry| (entry.command.id.0, entry.state, entry.detail.as_str()))
        .collect();
    use CommandState::{Failed, Queued, Received, Running, Succeeded};
    let expected = [
        (1, Received, "1"),
        (1, Running, "2"),
        (2, Succeeded, "6"),
        (1, Failed, "8"),
    ];
    assert_eq!(seen, expected);
    let (entry, steps) = catalog.command(CommandId(1)).await.unwrap();
    assert_eq!((entry.state, entry.detail.as_str()), (Failed, "8"));
    let states: Vec<_> = steps.iter().map(|step| step.state).collect();
    assert_eq!(states, [Queued, Received, Running, Failed]);
    assert_eq!(
        steps[3],
        Transition {
            state: Failed,
            at: at(8),
            detail: "8".to_owned()
        }
    );
    assert_eq!(catalog.command(CommandId(3)).await.unwrap().0.state, Queued);

    assert_eq!(
        catalog.apply(robot, cursor, timed).await.unwrap(),
        [],
        "once only"
    );
    leave(catalog, &[robot, other]).await;
}

async fn the_applied_position_never_goes_back(catalog: &dyn Catalog) {
    let robot = enter(catalog, "applied").await;
    for (epoch, next, expected) in [(1, 5, 5), (1, 3, 5), (2, 2, 2), (1, 6, 6)] {
        let cursor = Cursor {
            epoch: Epoch(epoch),
            next: Seq(next),
        };
        catalog.apply(robot, cursor, Vec::new()).await.unwrap();
        assert_eq!(
            catalog.applied(robot, Epoch(epoch)).await.unwrap(),
            Seq(expected)
        );
    }
    assert_eq!(catalog.applied(robot, Epoch(3)).await.unwrap(), Seq::FIRST);
    leave(catalog, &[robot]).await;
}

async fn a_removed_robot_takes_its_ledger_along(catalog: &dyn Catalog) {
    let robot = enter(catalog, "removed").await;
    submit(catalog, robot, 1..=2).await;
    leave(catalog, &[robot]).await;
    let gone = catalog.command(CommandId(1)).await;
    assert!(matches!(gone, Err(CatalogError::Missing(_))), "{gone:?}");
    let again = enter(catalog, "removed").await;
    assert_eq!(
        catalog.submit(command(again, 1)).await.unwrap().seq,
        Seq::FIRST
    );
    leave(catalog, &[again]).await;
}

/// What may be done to one robot's ledger, for the comparison with [`Model`].
#[derive(Debug, Clone)]
pub(crate) enum Action {
    Submit { key: Option<u8> },
    MarkSent { from: u64, to: u64 },
    Deliver { next: u64, in_epoch: bool },
    Renew,
    Apply { updates: Vec<(u8, Progress)> },
}

pub(crate) fn actions() -> impl Strategy<Value = Vec<Action>> {
    let progress = prop::sample::select(vec![
        Progress::Received,
        Progress::Running,
        Progress::Succeeded,
        Progress::Failed,
        Progress::Cancelled,
        Progress::Expired,
        Progress::Superseded,
        Progress::Interrupted,
    ]);
    let action = prop_oneof![
        4 => prop::option::of(0..3_u8).prop_map(|key| Action::Submit { key }),
        2 => (0..8_u64, 0..8_u64).prop_map(|(from, to)| Action::MarkSent { from, to }),
        2 => (0..8_u64, prop::bool::weighted(0.8))
            .prop_map(|(next, in_epoch)| Action::Deliver { next, in_epoch }),
        1 => Just(Action::Renew),
        4 => prop::collection::vec((0..10_u8, progress), 0..4)
            .prop_map(|updates| Action::Apply { updates }),
    ];
    prop::collection::vec(action, 0..30)
}

/// A ledger as one would write it down without thinking of storage.
#[derive(Debug, Default)]
struct Model {
    /// Every command by id: its epoch and position, its state, its key.
    commands: BTreeMap<u128, (u64, u64, CommandState, Option<u8>)>,
    epoch: u64,
    acked: u64,
    next: u64,
}

/// Does the actions to a robot's ledger and to the model and compares them after each.
pub(crate) async fn agrees_with_the_model(catalog: &dyn Catalog, actions: Vec<Action>) {
    let robot = enter(catalog, "modelled").await;
    let epoch = catalog.down_stream(robot).await.unwrap().epoch.0;
    let mut model = Model {
        epoch,
        acked: 1,
        next: 1,
        ..Model::default()
    };
    for (number, action) in (0..).zip(actions) {
        step(catalog, robot, &mut model, number, action).await;
        let stream = catalog.down_stream(robot).await.unwrap();
        assert_eq!(
            (stream.epoch.0, stream.acked.0, stream.next.0),
            (model.epoch, model.acked, model.next)
        );
        let recent = catalog.recent_commands(robot, 100).await.unwrap();
        let stored = recent
            .iter()
            .map(|entry| (entry.command.id.0, (entry.seq.0, entry.state)));
        let known = model
            .commands
            .iter()
            .map(|(id, (_, seq, state, _))| (*id, (*seq, *state)));
        assert_eq!(stored.collect::<BTreeMap<_, _>>(), known.collect());
        let current = catalog.commands_from(robot, Seq::FIRST, 100).await;
        let due = model
            .commands
            .values()
            .filter(|known| known.0 == model.epoch);
        let mut due: Vec<_> = due.map(|known| known.1).collect();
        due.sort_unstable();
        assert_eq!(seqs(current), due);
    }
    leave(catalog, &[robot]).await;
}

async fn step(
    catalog: &dyn Catalog,
    robot: RobotId,
    model: &mut Model,
    number: u64,
    action: Action,
) {
    match action {
        Action::Submit { key } => submit_both(catalog, robot, model, number, key).await,
        Action::MarkSent { from, to } => {
            catalog
                .mark_sent(robot, Seq(from), Seq(to), at(1))
                .await
                .unwrap();
            for (epoch, seq, state, _) in model.commands.values_mut() {
                if *epoch == model.epoch
                    && (from..to).contains(seq)
                    && *state == CommandState::Queued
                {
                    *state = CommandState::Sent;
                }
            }
        }
        Action::Deliver { next, in_epoch } => {
            let epoch = Epoch(if in_epoch { model.epoch } else { !model.epoch });
            catalog
                .mark_delivered(
                    robot,
                    Cursor {
                        epoch,
                        next: Seq(next),
                    },
                )
                .await
                .unwrap();
            if in_epoch && next > model.acked && next <= model.next {
                model.acked = next;
            }
        }
        Action::Renew => {
            let fresh = model.epoch.wrapping_add(1);
            catalog
                .renew_down_stream(robot, Epoch(fresh))
                .await
                .unwrap();
            let mut waiting: Vec<_> = model
                .commands
                .values_mut()
                .filter(|known| known.0 == model.epoch && known.1 >= model.acked)
                .filter(|known| matches!(known.2, CommandState::Queued | CommandState::Sent))
                .collect();
            waiting.sort_by_key(|known| known.1);
            model.next = 1;
            for known in waiting {
                (known.0, known.1) = (fresh, model.next);
                model.next += 1;
            }
            (model.epoch, model.acked) = (fresh, 1);
        }
        Action::Apply { updates } => apply_both(catalog, robot, model, number, updates).await,
    }
}

async fn submit_both(
    catalog: &dyn Catalog,
    robot: RobotId,
    model: &mut Model,
    number: u64,
    key: Option<u8>,
) {
    let id = u128::from(number);
    let new = NewCommand {
        idempotency_key: key.map(|key| key.to_string()),
        ..command(robot, id)
    };
    let entry = catalog.submit(new).await.unwrap();
    let known = model
        .commands
        .iter()
        .find(|(_, known)| key.is_some() && known.3 == key);
    if let Some((earlier, _)) = known {
        assert_eq!(entry.command.id.0, *earlier);
    } else {
        let queued = (model.epoch, model.next, CommandState::Queued, key);
        model.commands.insert(id, queued);
        model.next += 1;
    }
}

async fn apply_both(
    catalog: &dyn Catalog,
    robot: RobotId,
    model: &mut Model,
    number: u64,
    updates: Vec<(u8, Progress)>,
) {
    let mut expected = Vec::new();
    for (id, progress) in &updates {
        let Some(known) = model.commands.get_mut(&u128::from(*id)) else {
            continue;
        };
        let becomes = CommandState::from(*progress);
        if follows(known.2, becomes) {
            known.2 = becomes;
            expected.push((u128::from(*id), becomes));
        }
    }
    let timed = updates
        .iter()
        .map(|(id, progress)| (update((*id).into(), *progress), at(2)));
    let cursor = Cursor {
        epoch: Epoch(1),
        next: Seq(number),
    };
    let changed = catalog.apply(robot, cursor, timed.collect()).await.unwrap();
    let changed: Vec<_> = changed
        .iter()
        .map(|entry| (entry.command.id.0, entry.state))
        .collect();
    assert_eq!(changed, expected);
}

/// The transitions that are allowed, written out.
fn follows(from: CommandState, to: CommandState) -> bool {
    use CommandState::{
        Cancelled, Expired, Failed, Interrupted, Queued, Received, Running, Sent, Succeeded,
        Superseded,
    };
    match from {
        Queued => to != Queued,
        Sent => !matches!(to, Queued | Sent),
        Received => !matches!(to, Queued | Sent | Received),
        Running => !matches!(to, Queued | Sent | Received | Running),
        Succeeded | Failed | Cancelled | Expired | Superseded | Interrupted => false,
    }
}

fn at(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(1_790_000_000_000 + milliseconds).unwrap()
}

fn place(name: &str, floor: i32) -> PlaceDetails {
    PlaceDetails {
        name: name.to_owned(),
        description: Some("a place".to_owned()),
        floor,
        xaxis: 34.6,
        yaxis: -445.6,
        thumburl: Some("http://t.example/1".to_owned()),
        mapurl: Some("http://m.example/1".to_owned()),
        aliases: vec!["방".to_owned()],
    }
}

fn happening(name: &str, place: &PlaceDetails) -> HappeningDetails {
    HappeningDetails {
        name: name.to_owned(),
        description: None,
        starttime: at(0),
        endtime: at(1),
        place_name: place.name.clone(),
        place_floor: place.floor,
        thumburl: None,
    }
}

fn secret(name: &str) -> Secret {
    let mut bytes = [7; 32];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Secret::new(bytes)
}

fn command(robot: RobotId, id: u128) -> NewCommand {
    NewCommand {
        id: CommandId(id),
        robot,
        order: Order::Stop,
        deadline: at(60_000),
        actor: "voice".to_owned(),
        idempotency_key: None,
        submitted: at(0),
    }
}

fn update(id: u128, progress: Progress) -> CommandUpdate {
    CommandUpdate {
        command: CommandId(id),
        progress,
        detail: String::new(),
    }
}

async fn enter(catalog: &dyn Catalog, name: &str) -> RobotId {
    let robot = catalog.add_robot(name, 7, None, &secret(name)).await;
    robot.unwrap().id
}

async fn leave(catalog: &dyn Catalog, robots: &[RobotId]) {
    for robot in robots {
        catalog.remove_robot(*robot).await.unwrap();
    }
}

async fn submit(catalog: &dyn Catalog, robot: RobotId, ids: std::ops::RangeInclusive<u128>) {
    for id in ids {
        catalog.submit(command(robot, id)).await.unwrap();
    }
}

async fn entries(catalog: &dyn Catalog, robot: RobotId) -> BTreeMap<u64, CommandState> {
    let entries = catalog.commands_from(robot, Seq::FIRST, 100).await.unwrap();
    entries
        .iter()
        .map(|entry| (entry.seq.0, entry.state))
        .collect()
}

fn seqs(entries: Result<Vec<LedgerEntry>>) -> Vec<u64> {
    entries.unwrap().iter().map(|entry| entry.seq.0).collect()
}
