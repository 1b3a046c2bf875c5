//! What every implementation of the journal must do. Times are whole milliseconds, which every
//! store can hold.

use std::sync::Arc;

use brrbrr_proto::id::{BootId, CommandId, Epoch, RobotId, Seq};
use brrbrr_proto::up::Item;
use jiff::Timestamp;

use super::*;

/// Runs every case, each with a robot of its own, on one empty journal.
pub(crate) async fn conforms(journal: &dyn Journal) {
    a_run_is_stored_and_moves_the_cursor(journal).await;
    a_run_that_comes_again_changes_nothing(journal).await;
    a_hole_is_refused(journal).await;
    tombstones_cover_many_positions(journal).await;
    a_tombstone_that_begins_before_the_cursor_stands_for_the_rest(journal).await;
    impossible_runs_do_no_harm(journal).await;
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
    let departed = journal.departure(CommandId(900)).await.unwrap();
    assert_eq!(departed, Some(trip(900, TripStep::Departed, 0)));
}

async fn a_run_is_stored_and_moves_the_cursor(journal: &dyn Journal) {
    assert_eq!(journal.due(robot(1), Epoch(1)).await.unwrap(), Seq::FIRST);
    assert_eq!(journal.epochs(robot(1)).await.unwrap(), []);
    let stored = run(1, 1, 1, &[1, 1]);
    assert_eq!(journal.store(stored.clone()).await.unwrap(), Seq(3));
    assert_eq!(journal.store(run(1, 1, 3, &[1, 1])).await.unwrap(), Seq(5));
    assert_eq!(journal.due(robot(1), Epoch(1)).await.unwrap(), Seq(5));

    let records = journal
        .records(robot(1), Epoch(1), Seq(1), 2)
        .await
        .unwrap();
    let expected: Vec<_> = (1..)
        .zip(&stored.items)
        .map(|(seq, item)| Stored {
            seq: Seq(seq),
            item: item.clone(),
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
    again.items[0].record = b"other".to_vec();
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

fn run(number: u32, epoch: u64, first: u64, covers: &[u64]) -> Run {
    let item = |covers: &u64| Item {
        covers: *covers,
        record: vec![1, 2, 255],
    };
    Run {
        robot: robot(number),
        epoch: Epoch(epoch),
        first: Seq(first),
        items: covers.iter().map(item).collect(),
        received: at(7),
        clock: BoardClock {
            boot: BootId(1),
            earliest: -5,
            latest: -5,
        },
    }
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
