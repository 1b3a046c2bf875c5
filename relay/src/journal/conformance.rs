//! What every implementation of the journal must do. Times are whole milliseconds, which every
//! store can hold.

use std::time::Duration;

use brrbrr_proto::id::BootId;
use brrbrr_proto::live::Status;
use brrbrr_proto::time::{Uptime, WallClock};
use brrbrr_proto::up::{Thinned, Tombstone};

use super::clock::Basis;
use super::*;

/// Runs every case, each with a robot of its own, on one empty journal.
pub(crate) async fn conforms(journal: &dyn Journal) {
    a_run_is_stored_and_moves_the_cursor(journal).await;
    a_run_that_comes_again_changes_nothing(journal).await;
    a_hole_is_refused(journal).await;
    tombstones_cover_many_positions(journal).await;
    a_tombstone_that_begins_before_the_cursor_stands_for_the_rest(journal).await;
    impossible_runs_do_no_harm(journal).await;
    holes_are_listed_newest_first_and_added_up(journal).await;
    boots_are_told_apart_and_their_moments_kept(journal).await;
    streams_are_kept_apart(journal).await;
    trips_are_logged_once_and_read_newest_first(journal).await;
}

/// Many robots at once, each storing its own stream, and one that breaks the rule among them.
pub(crate) async fn stores_concurrently(journal: Arc<dyn Journal>) {
    const ROBOTS: u32 = 40;
    const RUNS: u64 = 10;
    let mut robots = tokio::task::JoinSet::new();
    for number in 1..=ROBOTS {
        let journal = Arc::clone(&journal);
        robots.spawn(async move {
            for turn in 0..RUNS {
                let first = 1 + turn * 3;
                let due = journal.store(run(number, 1, first, &[1, 1, 1])).await;
                assert_eq!(due.unwrap(), Seq(first + 3));
                let hole = journal.store(run(number, 1, first + 5, &[1])).await;
                assert!(matches!(hole, Err(JournalError::Gap { .. })), "{hole:?}");
            }
        });
    }
    while let Some(done) = robots.join_next().await {
        done.unwrap();
    }
    for number in 1..=ROBOTS {
        let all: Vec<u64> = (1..=RUNS * 3).collect();
        assert_eq!(positions(&*journal, number, 1, 1).await, all);
    }
}

/// Writes what [`remembers`] looks for, after the store was closed and opened again.
pub(crate) async fn prepare(journal: &dyn Journal) {
    journal.store(run(900, 8, 1, &[1, 5, 1])).await.unwrap();
    let lost = Event::Tombstone(Tombstone {
        count: 2,
        loss: Loss::SpoolCorrupt,
        since: None,
        until: None,
    });
    let lost = vec![entry(2, 1, 1, lost)];
    journal.store(run_of(901, 8, lost)).await.unwrap();
    journal
        .log_trip(trip(900, TripStep::Departed, 0))
        .await
        .unwrap();
}

/// See [`prepare`].
pub(crate) async fn remembers(journal: &dyn Journal) {
    assert_eq!(journal.due(robot(900), Epoch(8)).await.unwrap(), Seq(8));
    assert_eq!(positions(journal, 900, 8, 1).await, [1, 2, 7]);
    assert_eq!(journal.epochs(robot(900)).await.unwrap(), [Epoch(8)]);
    let missing = journal.missing(robot(901), Epoch(8), Seq(1), Seq(9)).await;
    assert_eq!(missing.unwrap().shed, 2);
    let timeline = journal.timeline(robot(901), Epoch(8)).await.unwrap();
    let known = timeline.repair(Seq(1), stamp(1, 1), at(0));
    assert_eq!(known.basis, Basis::Session);
    let departed = journal.departure(CommandId(900)).await.unwrap();
    assert_eq!(departed, Some(trip(900, TripStep::Departed, 0)));
}

async fn a_run_is_stored_and_moves_the_cursor(journal: &dyn Journal) {
    assert_eq!(journal.due(robot(1), Epoch(1)).await.unwrap(), Seq::FIRST);
    assert_eq!(journal.epochs(robot(1)).await.unwrap(), []);
    let stored = run(1, 1, 1, &[1, 1]);
    assert_eq!(journal.store(Arc::clone(&stored)).await.unwrap(), Seq(3));
    assert_eq!(journal.store(run(1, 1, 3, &[1, 1])).await.unwrap(), Seq(5));
    assert_eq!(journal.due(robot(1), Epoch(1)).await.unwrap(), Seq(5));

    let records = journal
        .records(robot(1), Epoch(1), Seq(1), 2)
        .await
        .unwrap();
    let expected: Vec<_> = (1..)
        .zip(&stored.entries)
        .map(|(seq, entry)| Stored {
            seq: Seq(seq),
            item: entry.item.clone(),
            received: stored.received,
        })
        .collect();
    assert_eq!(records, expected);
    assert_eq!(positions(journal, 1, 1, 3).await, [3, 4]);
    assert_eq!(positions(journal, 1, 1, 5).await, [0; 0]);
    assert_eq!(journal.store(run(1, 1, 5, &[])).await.unwrap(), Seq(5));
}

async fn a_run_that_comes_again_changes_nothing(journal: &dyn Journal) {
    journal.store(run(2, 1, 1, &[1, 1, 1])).await.unwrap();
    let before = journal
        .records(robot(2), Epoch(1), Seq(1), 10)
        .await
        .unwrap();
    let mut again = run(2, 1, 1, &[1, 1]);
    let entries = &mut Arc::get_mut(&mut again).unwrap().entries;
    entries[0].item.record = b"other".to_vec();
    assert_eq!(journal.store(again).await.unwrap(), Seq(4));
    assert_eq!(
        journal
            .records(robot(2), Epoch(1), Seq(1), 10)
            .await
            .unwrap(),
        before
    );

    assert_eq!(
        journal.store(run(2, 1, 2, &[1, 1, 1])).await.unwrap(),
        Seq(5)
    );
    assert_eq!(positions(journal, 2, 1, 1).await, [1, 2, 3, 4]);
}

async fn a_hole_is_refused(journal: &dyn Journal) {
    for due in [1, 2] {
        let hole = journal.store(run(3, 1, due + 1, &[1])).await;
        let Err(JournalError::Gap { first, due: told }) = hole else {
            panic!("{hole:?}");
        };
        assert_eq!((first, told), (Seq(due + 1), Seq(due)));
        assert_eq!(journal.due(robot(3), Epoch(1)).await.unwrap(), Seq(due));
        journal.store(run(3, 1, due, &[1])).await.unwrap();
    }
}

async fn tombstones_cover_many_positions(journal: &dyn Journal) {
    assert_eq!(
        journal.store(run(4, 1, 1, &[1, 10, 1])).await.unwrap(),
        Seq(13)
    );
    assert_eq!(positions(journal, 4, 1, 1).await, [1, 2, 12]);
    assert_eq!(positions(journal, 4, 1, 2).await, [2, 12]);
    assert_eq!(
        positions(journal, 4, 1, 11).await,
        [2, 12],
        "whose range holds it"
    );
    assert_eq!(positions(journal, 4, 1, 12).await, [12]);
    assert_eq!(positions(journal, 4, 1, 13).await, [0; 0]);
}

async fn a_tombstone_that_begins_before_the_cursor_stands_for_the_rest(journal: &dyn Journal) {
    journal.store(run(5, 1, 1, &[1, 1, 1])).await.unwrap();
    assert_eq!(journal.store(run(5, 1, 2, &[9, 1])).await.unwrap(), Seq(12));
    let records = journal
        .records(robot(5), Epoch(1), Seq(4), 10)
        .await
        .unwrap();
    let covered: Vec<_> = records
        .iter()
        .map(|stored| (stored.seq.0, stored.item.covers))
        .collect();
    assert_eq!(covered, [(4, 7), (11, 1)]);
}

async fn impossible_runs_do_no_harm(journal: &dyn Journal) {
    assert_eq!(
        journal.store(run(6, 1, 1, &[0, 1, 0])).await.unwrap(),
        Seq(2)
    );
    assert_eq!(positions(journal, 6, 1, 1).await, [1]);
    let due = journal
        .store(run(6, 1, 2, &[u64::MAX, 1, u64::MAX]))
        .await
        .unwrap();
    assert_eq!(journal.due(robot(6), Epoch(1)).await.unwrap(), due);
    assert_eq!(journal.store(run(6, 2, 1, &[1])).await.unwrap(), Seq(2));
    let far = journal.store(run(6, 2, u64::MAX, &[1])).await;
    assert!(matches!(far, Err(JournalError::Gap { .. })), "{far:?}");
    assert_eq!(
        journal.store(run(6, 2, 0, &[1, 1, 1])).await.unwrap(),
        Seq(3)
    );
}

async fn holes_are_listed_newest_first_and_added_up(journal: &dyn Journal) {
    let tombstone = |count| {
        Event::Tombstone(Tombstone {
            count,
            loss: Loss::SpoolFull,
            since: None,
            until: None,
        })
    };
    let thinned = Event::Thinned(Thinned {
        count: 10,
        since: stamp(1, 0),
        battery: None,
        speed: None,
        last: Status::default(),
    });
    let sample = Event::Telemetry(Status::default());
    // The last but one is what is left of a tombstone of which a part had arrived, and the last
    // covers far more positions than anybody knows of records.
    let events = [
        (1, sample.clone()),
        (7, tombstone(7)),
        (1, sample),
        (10, thinned),
        (3, tombstone(8)),
        (1 << 32, tombstone(0)),
    ];
    let entries = events.map(|(covers, event)| entry(covers, 1, 1, event));
    let end = journal.store(run_of(11, 1, entries.into())).await.unwrap();
    assert_eq!(end, Seq(23 + (1 << 32)));

    let holes = async |from, to, limit| {
        let (from, to) = (Seq(from), Seq(to));
        let holes = journal.holes(robot(11), Epoch(1), from, to, limit).await;
        let holes = holes.unwrap().into_iter();
        holes.map(|stored| stored.seq.0).collect::<Vec<_>>()
    };
    assert_eq!(holes(1, u64::MAX, 10).await, [23, 20, 10, 2]);
    assert_eq!(holes(1, u64::MAX, 2).await, [23, 20]);
    assert_eq!(holes(2, 20, 10).await, [10, 2]);
    assert_eq!(holes(3, 10, 10).await, [0; 0]);
    let missing = async |from, to| {
        let missing = journal.missing(robot(11), Epoch(1), Seq(from), Seq(to));
        missing.await.unwrap()
    };
    let all = Missing {
        shed: 10,
        shed_positions: 10 + (1 << 32),
        unknown: 1,
        thinned: 10,
        thinned_positions: 10,
        kept: 1,
    };
    assert_eq!(missing(1, u64::MAX).await, all);
    assert_eq!(missing(1, 2).await, Missing::default());
    let first = Missing {
        shed: 7,
        shed_positions: 7,
        ..Missing::default()
    };
    assert_eq!(missing(1, 10).await, first);
    let nothing = journal.missing(robot(11), Epoch(2), Seq(1), Seq(9)).await;
    assert_eq!(nothing.unwrap(), Missing::default());
}

async fn boots_are_told_apart_and_their_moments_kept(journal: &dyn Journal) {
    let sample = || Event::Telemetry(Status::default());
    let entries = [(1, 10), (1, 20), (2, 5), (3, 7)];
    let entries = entries.map(|(boot, second)| entry(1, boot, second, sample()));
    let mut run = run_of(12, 1, entries.into());
    let session = |boot, width| BoardClock {
        boot: BootId(boot),
        earliest: at(0).as_microsecond(),
        latest: at(0).as_microsecond() + width,
    };
    Arc::get_mut(&mut run).unwrap().clock = session(3, 1_000_000);
    journal.store(Arc::clone(&run)).await.unwrap();
    let basis = async |boot, seq| {
        let timeline = journal.timeline(robot(12), Epoch(1)).await.unwrap();
        timeline.repair(Seq(seq), stamp(boot, 5), at(60_000)).basis
    };
    // The boots that had no session are held between others; the calendar showed 1970 in them.
    let before = [basis(1, 1).await, basis(2, 3).await, basis(3, 4).await];
    assert_eq!(before, [Basis::Bounds, Basis::Bounds, Basis::Session]);

    let uncertainty = async || {
        let timeline = journal.timeline(robot(12), Epoch(1)).await.unwrap();
        let repaired = timeline.repair(Seq(4), stamp(3, 7), at(60_000));
        repaired.uncertainty.as_millis()
    };
    let wide = uncertainty().await;
    assert!((500..510).contains(&wide), "{wide}");
    let mut next = run_of(12, 1, vec![entry(1, 3, 8, sample())]);
    let narrow = Arc::get_mut(&mut next).unwrap();
    (narrow.first, narrow.clock) = (Seq(5), session(3, 200_000));
    journal.store(next).await.unwrap();
    let narrow = uncertainty().await;
    assert!((100..110).contains(&narrow), "{narrow}");
    // The clock of a run that is known already is known already, too.
    journal.store(run).await.unwrap();
    assert_eq!(uncertainty().await, narrow);
}

async fn streams_are_kept_apart(journal: &dyn Journal) {
    journal
        .store(run(7, 0xffff_ffff_ffff_ffff, 1, &[1, 1]))
        .await
        .unwrap();
    journal.store(run(7, 3, 1, &[1])).await.unwrap();
    journal.store(run(8, 3, 1, &[1, 1, 1])).await.unwrap();
    assert_eq!(journal.due(robot(7), Epoch(3)).await.unwrap(), Seq(2));
    assert_eq!(journal.due(robot(8), Epoch(3)).await.unwrap(), Seq(4));
    let epochs = journal.epochs(robot(7)).await.unwrap();
    assert_eq!(epochs, [Epoch(u64::MAX), Epoch(3)]);
}

async fn trips_are_logged_once_and_read_newest_first(journal: &dyn Journal) {
    let steps = [
        trip(10, TripStep::Departed, 0),
        trip(10, TripStep::Arrived, 1),
        trip(11, TripStep::Departed, 2),
        trip(10, TripStep::Ended, 3),
    ];
    for entry in &steps {
        journal.log_trip(entry.clone()).await.unwrap();
        let again = TripEntry {
            destination: "elsewhere".to_owned(),
            ..entry.clone()
        };
        journal.log_trip(again).await.unwrap();
    }
    let newest_first: Vec<_> = steps.iter().rev().cloned().collect();
    assert_eq!(journal.trips(None, 100).await.unwrap(), newest_first);
    assert_eq!(journal.trips(None, 1).await.unwrap(), newest_first[..1]);
    let of_one = journal.trips(Some("robot 11"), 100).await.unwrap();
    assert_eq!(of_one, [steps[2].clone()]);
    assert_eq!(journal.trips(Some("nobody"), 100).await.unwrap(), []);
    let departed = journal.departure(CommandId(10)).await.unwrap();
    assert_eq!(departed.as_ref(), Some(&steps[0]));
    assert_eq!(journal.departure(CommandId(12)).await.unwrap(), None);
}

fn robot(number: u32) -> RobotId {
    RobotId::new(number).unwrap()
}

fn stamp(boot: u64, second: u64) -> Stamp {
    Stamp {
        boot: BootId(boot),
        uptime: Uptime::new(Duration::from_secs(second)),
        wall: WallClock(0),
    }
}

fn entry(covers: u64, boot: u64, second: u64, event: Event) -> Entry {
    let record = Record {
        stamp: stamp(boot, second),
        event,
    };
    let record = record.encode().unwrap();
    Entry::read(Item { covers, record })
}

fn run_of(number: u32, epoch: u64, entries: Vec<Entry>) -> Arc<Run> {
    let mut run = run(number, epoch, 1, &[]);
    Arc::get_mut(&mut run).unwrap().entries = entries;
    run
}

fn run(number: u32, epoch: u64, first: u64, covers: &[u64]) -> Arc<Run> {
    let item = |covers: &u64| Item {
        covers: *covers,
        record: vec![1, 2, 255],
    };
    let entries = covers.iter().map(|covers| Entry::read(item(covers)));
    Arc::new(Run {
        robot: robot(number),
        epoch: Epoch(epoch),
        first: Seq(first),
        entries: entries.collect(),
        received: at(7),
        clock: BoardClock {
            boot: BootId(1),
            earliest: -5,
            latest: -5,
        },
    })
}

fn trip(number: u32, status: TripStep, moment: i64) -> TripEntry {
    TripEntry {
        command: CommandId(number.into()),
        robot_name: format!("robot {number}"),
        destination: "701호".to_owned(),
        status,
        ordered_at: at(0),
        at: at(moment),
    }
}

fn at(milliseconds: i64) -> Timestamp {
    Timestamp::from_millisecond(1_790_000_000_000 + milliseconds).unwrap()
}

async fn positions(journal: &dyn Journal, number: u32, epoch: u64, from: u64) -> Vec<u64> {
    let records = journal
        .records(robot(number), Epoch(epoch), Seq(from), 1_000)
        .await;
    records.unwrap().iter().map(|stored| stored.seq.0).collect()
}
