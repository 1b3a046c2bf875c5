//! What every implementation of the catalog must do. Times are whole milliseconds, which every
//! store can hold.

use std::collections::BTreeMap;

use brrbrr_proto::down::{GoTo, Order};
use brrbrr_proto::id::{CommandId, Cursor, Epoch, RobotId, Seq};
use brrbrr_proto::live::Pose;
use brrbrr_proto::seal::Secret;
use brrbrr_proto::up::{CommandUpdate, Progress, Progressed};
use jiff::Timestamp;
use proptest::prelude::*;

use super::command::{MAX_STOPS_BEYOND, MAX_UNFINISHED};
use super::*;

mod ledger;
mod model;
mod stream;

pub(crate) use ledger::submits_concurrently;
pub(crate) use model::{actions, agrees_with_the_model};

/// Runs every case, each in a part of the building of its own, on one empty catalog.
pub(crate) async fn conforms(catalog: &dyn Catalog) {
    places_have_a_name_and_a_floor(catalog).await;
    places_keep_their_aliases(catalog).await;
    happenings_are_at_places(catalog).await;
    names_are_the_same_in_every_unicode_form(catalog).await;
    robots_keep_their_number_and_secret(catalog).await;
    what_is_not_there_is_missing(catalog).await;
    ledger::conforms(catalog).await;
}

/// Writes what [`remembers`] looks for, after the store was closed and opened again.
pub(crate) async fn prepare(catalog: &dyn Catalog) {
    let place = catalog.add_place(place("kept", 1)).await.unwrap();
    catalog
        .add_happening(happening("kept", &place.details))
        .await
        .unwrap();
    let robot = enter(catalog, "kept").await;
    catalog.submit(command(robot, 77), true).await.unwrap();
    catalog.submit(command(robot, 78), false).await.unwrap();
    let epoch = catalog.down_stream(robot).await.unwrap().epoch;
    catalog
        .mark_sent(robot, epoch, Seq(1), Seq(2), at(5))
        .await
        .unwrap();
    let cursor = Cursor {
        epoch,
        next: Seq(2),
    };
    catalog.mark_delivered(robot, cursor).await.unwrap();
    let applied = Cursor {
        epoch: Epoch(4),
        next: Seq(9),
    };
    let updates = vec![
        (update(77, Progress::Running), at(6)),
        (progressed(77, 40), at(7)),
        (ordered(command(robot, 79)), at(8)),
    ];
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
    assert_eq!(
        (entry.seq, entry.state),
        (Some(Seq(1)), CommandState::Running)
    );
    let progress = Advance {
        percent: 40,
        text: "40".to_owned(),
        at: at(7),
    };
    assert_eq!((entry.offered, entry.progress), (true, Some(progress)));
    let (entry, _) = catalog.command(CommandId(78)).await.unwrap();
    assert!(!entry.offered, "{entry:?}");
    let (entry, _) = catalog.command(CommandId(79)).await.unwrap();
    assert_eq!((entry.seq, entry.offered), (None, true));
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
        catalog.submit(command(nobody, 1), true).await.err(),
        catalog.command(CommandId(u128::MAX)).await.err(),
        catalog.commands(nobody, page(None, &[], 1)).await.err(),
        catalog.offer(nobody, Seq(1), 1).await.err(),
        catalog
            .cancel(CommandId(u128::MAX), command(nobody, 1), true)
            .await
            .err(),
        catalog.recent_commands(nobody, 1).await.err(),
        catalog
            .mark_sent(nobody, Epoch(1), Seq(1), Seq(2), at(1))
            .await
            .err(),
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

fn update(id: u128, progress: Progress) -> LedgerUpdate {
    LedgerUpdate::Step(CommandUpdate {
        command: CommandId(id),
        progress,
        detail: String::new(),
    })
}

fn progressed(id: u128, percent: u8) -> LedgerUpdate {
    LedgerUpdate::Progressed(Progressed {
        command: CommandId(id),
        percent,
        text: percent.to_string(),
    })
}

fn ordered(command: NewCommand) -> LedgerUpdate {
    LedgerUpdate::Ordered(command)
}

fn page(after: Option<u128>, states: &[CommandState], limit: usize) -> Page {
    Page {
        after: after.map(CommandId),
        states: states.to_vec(),
        limit,
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
        catalog.submit(command(robot, id), true).await.unwrap();
    }
}

async fn apply(
    catalog: &dyn Catalog,
    robot: RobotId,
    updates: Vec<(LedgerUpdate, Timestamp)>,
) -> Vec<(Change, LedgerEntry)> {
    let cursor = Cursor {
        epoch: Epoch(1),
        next: Seq(2),
    };
    catalog.apply(robot, cursor, updates).await.unwrap()
}

async fn states(catalog: &dyn Catalog, robot: RobotId) -> BTreeMap<u128, CommandState> {
    let entries = catalog.recent_commands(robot, 1_000).await.unwrap();
    let states = entries
        .iter()
        .map(|entry| (entry.command.id.0, entry.state));
    states.collect()
}

fn ids(entries: &[LedgerEntry]) -> Vec<u128> {
    entries.iter().map(|entry| entry.command.id.0).collect()
}

fn seqs(entries: &[LedgerEntry]) -> Vec<u64> {
    let seqs = entries.iter().map(|entry| entry.seq.unwrap().0);
    seqs.collect()
}
