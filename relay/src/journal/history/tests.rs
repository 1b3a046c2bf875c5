//! Answers are compared with those of a model that looks at every record.

use std::sync::Arc;
use std::time::Duration;

use brrbrr_proto::id::{BootId, SessionId};
use brrbrr_proto::link::relay::BoardClock;
use brrbrr_proto::live::Status;
use brrbrr_proto::time::{Uptime, WallClock};
use brrbrr_proto::up::{Event, Item, Loss, Report, Thinned, Tombstone};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::journal::Run;
use crate::journal::sqlite::SqliteJournal;

/// When the board booted, in seconds since 1970.
const BOOT: i64 = 1_790_000_000;

/// What stands in a stream. Times are seconds since the boot.
#[derive(Debug, Clone, Copy)]
enum Made {
    Record,
    /// With as many positions as records, or with a leap where nobody knows how many.
    Shed {
        count: u64,
        knows_times: bool,
    },
    Thinned {
        count: u64,
    },
    /// What a newer robot says; it may stand for several.
    Unreadable {
        covers: u64,
    },
}

/// A row as the model sees it.
#[derive(Debug, Clone, Copy)]
struct Row {
    place: (u64, u64),
    covers: u64,
    made: Made,
    span: Option<(u64, u64)>,
}

fn stamp(second: u64) -> Stamp {
    Stamp {
        boot: BootId(1),
        uptime: Uptime::new(Duration::from_secs(second)),
        wall: WallClock(0),
    }
}

fn time(second: u64) -> Timestamp {
    Timestamp::from_second(BOOT + second.cast_signed()).unwrap()
}

fn robot() -> RobotId {
    RobotId::new(1).unwrap()
}

fn item(row: &Row) -> Item {
    let (since, until) = row.span.unwrap_or_default();
    let event = match row.made {
        Made::Record => Event::Telemetry(Status::default()),
        Made::Unreadable { covers } => {
            let record = vec![255; 3];
            return Item { covers, record };
        }
        Made::Shed { count, .. } => Event::Tombstone(Tombstone {
            count,
            loss: Loss::SpoolFull,
            since: row.span.map(|_| stamp(since)),
            until: row.span.map(|_| stamp(until)),
        }),
        Made::Thinned { count } => Event::Thinned(Thinned {
            count,
            since: stamp(since),
            battery: None,
            speed: None,
            last: Status::default(),
        }),
    };
    // A tombstone is made when its records are long gone.
    let made = match row.made {
        Made::Shed { .. } => 990,
        Made::Record | Made::Thinned { .. } | Made::Unreadable { .. } => until,
    };
    let record = Record {
        stamp: stamp(made),
        event,
    };
    Item {
        covers: row.covers,
        record: record.encode().unwrap(),
    }
}

/// The rows of two streams, one after the other.
fn rows(plan: &[(u64, Made)], second_from: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    let (mut now, mut place) = (10, (1, 1));
    for (index, (step, made)) in plan.iter().enumerate() {
        if index == second_from {
            place = (2, 1);
        }
        let since = now + step;
        let (covers, length, knows) = match *made {
            Made::Record => (1, 0, true),
            Made::Unreadable { covers } => (covers, 0, false),
            Made::Shed {
                count: 0,
                knows_times,
            } => (LEAP, 5, knows_times),
            Made::Shed { count, knows_times } => (count, count, knows_times),
            Made::Thinned { count } => (count, count, true),
        };
        now = since + length;
        rows.push(Row {
            place,
            covers,
            made: *made,
            span: knows.then_some((since, now)),
        });
        place.1 += covers;
    }
    rows
}

async fn journal_of(rows: &[Row]) -> (tempfile::TempDir, SqliteJournal) {
    let folder = tempfile::tempdir().unwrap();
    let journal = SqliteJournal::open(&folder.path().join("journal")).unwrap();
    for epoch in [1, 2] {
        let of_epoch = rows.iter().filter(|row| row.place.0 == epoch);
        let run = Run {
            robot: robot(),
            epoch: Epoch(epoch),
            first: Seq::FIRST,
            entries: of_epoch.map(|row| Entry::read(item(row))).collect(),
            received: time(1_000),
            clock: BoardClock {
                boot: BootId(1),
                earliest: BOOT * 1_000_000,
                latest: BOOT * 1_000_000,
            },
        };
        journal.store(Arc::new(run)).await.unwrap();
    }
    (folder, journal)
}

/// The rows of a stretch in one stream, and the row after them.
fn within(rows: &[Row], epoch: u64, (from, to): (u64, u64)) -> (Vec<Row>, Option<Row>) {
    let stream: Vec<Row> = rows
        .iter()
        .filter(|row| row.place.0 == epoch)
        .copied()
        .collect();
    let first_since = |moment| {
        let key = |index: usize| stream[index..].iter().find_map(|row| row.span);
        let is_since = |index| key(index).is_none_or(|(_, until)| until >= moment);
        (0..stream.len())
            .find(|index| is_since(*index))
            .unwrap_or(stream.len())
    };
    let (first, end) = (first_since(from), first_since(to));
    (
        stream[first..end.max(first)].to_vec(),
        stream.get(end.max(first)).copied(),
    )
}

fn touches(row: &Row, (from, to): (u64, u64)) -> bool {
    row.span
        .is_none_or(|(since, until)| since < to && until >= from)
}

fn is_shed(row: &Row) -> bool {
    match row.made {
        Made::Shed { .. } => true,
        Made::Unreadable { covers } => covers > 1,
        Made::Record | Made::Thinned { .. } => false,
    }
}

fn plans() -> impl Strategy<Value = Vec<(u64, Made)>> {
    let made = prop_oneof![
        6 => Just(Made::Record),
        2 => (0..4_u64, any::<bool>())
            .prop_map(|(count, knows_times)| Made::Shed { count, knows_times }),
        1 => (1..4_u64).prop_map(|count| Made::Thinned { count }),
        1 => (1..3_u64).prop_map(|covers| Made::Unreadable { covers }),
    ];
    vec((1..10_u64, made), 0..40)
}

fn query(from: u64, to: u64) -> Range {
    Range {
        from: Some(time(from)),
        to: Some(time(to)),
    }
}

async fn check(plan: Vec<(u64, Made)>, second_from: usize, stretch: (u64, u64), limit: usize) {
    let rows = rows(&plan, second_from);
    let (_folder, journal) = journal_of(&rows).await;
    let history = History::of(&journal, robot()).await.unwrap();
    let range = query(stretch.0, stretch.1);
    let mut expected = Completeness::default();
    let (mut records, mut gaps) = (Vec::new(), Vec::new());
    let (mut has_unknown, mut has_holes) = (false, false);
    for epoch in [1, 2] {
        let (inside, after) = within(&rows, epoch, stretch);
        records.extend(inside.iter().map(|row| row.place));
        let at_end = after.filter(|row| touches(row, stretch));
        let holes = inside.iter().copied().chain(at_end);
        for row in holes.clone().filter(is_shed) {
            let count = match row.made {
                Made::Shed { count, .. } => count,
                Made::Record | Made::Thinned { .. } | Made::Unreadable { .. } => 0,
            };
            expected.shed += count;
            expected.expected += count;
            has_unknown |= count == 0;
        }
        let received = inside.iter().filter(|row| !is_shed(row)).count() as u64;
        expected.received += received;
        expected.expected += received;
        for (index, row) in holes.clone().enumerate() {
            if let Made::Thinned { count } = row.made {
                expected.thinned += count;
                // One of them was received, where that is inside.
                expected.expected += count - u64::from(index < inside.len());
            }
        }
        let is_hole = |row: &Row| is_shed(row) || matches!(row.made, Made::Thinned { .. });
        has_holes |= holes.clone().any(|row| is_hole(&row));
        let listed = holes.filter(|row| is_hole(row) && touches(row, stretch));
        gaps.extend(listed.map(|row| row.place));
    }
    gaps.reverse();

    let answer = history.completeness(range, None).await.unwrap();
    let sums = |answer: &Completeness| {
        let Completeness {
            received,
            shed,
            thinned,
            expected,
            ..
        } = *answer;
        (received, shed, thinned, expected)
    };
    assert_eq!(sums(&answer), sums(&expected));
    assert!(answer.expected_is_lower_bound || !has_unknown);
    let all_there = !has_holes && answer.waiting == Some(0);
    assert_eq!(answer.complete, all_there, "{answer:?}");

    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let page = history.gaps(range, after, limit).await.unwrap();
        assert!(page.items.len() <= limit);
        let place = |gap: &GapView| (gap.epoch.parse::<Epoch>().unwrap().0, gap.first);
        listed.extend(page.items.iter().map(place));
        after = page.next.map(|next| next.to_string().parse().unwrap());
        if after.is_none() {
            break;
        }
    }
    assert_eq!(listed, gaps);

    let mut listed = Vec::new();
    loop {
        let page = history.records(range, after, None, limit).await.unwrap();
        assert!(page.items.len() <= limit);
        let place = |view: &RecordView| (view.epoch.parse::<Epoch>().unwrap().0, view.seq);
        listed.extend(page.items.iter().map(|(view, _)| place(view)));
        after = page.next.map(|next| next.to_string().parse().unwrap());
        if after.is_none() {
            break;
        }
    }
    assert_eq!(listed, records);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn answers_are_those_of_a_model_that_looks_at_every_record(
        plan in plans(),
        second_from in 0..40_usize,
        from in 0..300_u64,
        length in 0..300_u64,
        limit in 1..5_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(check(plan, second_from, (from, from + length), limit));
    }
}

#[tokio::test]
async fn a_stretch_whose_samples_were_merged_away_is_not_complete() {
    // Sixty samples of a minute are one now, which stands at the minute's end.
    let plan = [
        (1, Made::Record),
        (1, Made::Thinned { count: 60 }),
        (1, Made::Record),
    ];
    let (_folder, journal) = journal_of(&rows(&plan, 10)).await;
    let history = History::of(&journal, robot()).await.unwrap();
    let half = history.completeness(query(12, 42), None).await.unwrap();
    let sums = (half.received, half.thinned, half.expected, half.waiting);
    assert_eq!(sums, (0, 60, 60, Some(0)));
    assert!(!half.complete && half.thinned_is_upper_bound);
    let other_half = history.completeness(query(42, 73), None).await.unwrap();
    let sums = (other_half.received, other_half.thinned, other_half.expected);
    assert_eq!(sums, (1, 60, 60));
    assert!(!other_half.complete && other_half.thinned_is_upper_bound);
}

#[tokio::test]
async fn records_behind_many_that_know_no_time_are_found() {
    let strange = [(1, Made::Unreadable { covers: 1 }); 300];
    let plan = [&[(1, Made::Record)][..], &strange, &[(1, Made::Record)]].concat();
    let (_folder, journal) = journal_of(&rows(&plan, 1_000)).await;
    let history = History::of(&journal, robot()).await.unwrap();
    let found = history.records(query(12, 900), None, Some("telemetry"), 5);
    assert_eq!(found.await.unwrap().items.len(), 1);
    let (_folder, journal) = journal_of(&rows(&plan[..301], 1_000)).await;
    let history = History::of(&journal, robot()).await.unwrap();
    let answer = history.completeness(Range::default(), None).await.unwrap();
    assert_eq!(answer.as_of, Some(time(11)));
}

#[tokio::test]
async fn what_a_salvage_leapt_over_is_not_counted_as_records() {
    let (_folder, journal) = ten_records().await;
    let history = History::of(&journal, robot()).await.unwrap();
    let leapt = spool(11 + LEAP + 3, None, 100);
    let answer = history.completeness(query(0, 100), Some(&leapt));
    let answer = answer.await.unwrap();
    assert_eq!((answer.waiting, answer.expected), (Some(3), 13));
    assert!(answer.expected_is_lower_bound && answer.waiting_is_upper_bound);
    assert!(!answer.complete);
}

fn spool(next: u64, oldest: Option<u64>, at: u64) -> Spool {
    let report = Report {
        session: SessionId(1),
        sent: Uptime::new(Duration::from_secs(at)),
        next: Seq(next),
        oldest: oldest.map(stamp),
        disk: Disk::Fine,
        since: Uptime::default(),
        detail: String::new(),
    };
    Spool {
        epoch: Epoch(1),
        report,
        at: time(at),
    }
}

/// Ten records, made 11 to 20 seconds after the boot.
async fn ten_records() -> (tempfile::TempDir, SqliteJournal) {
    journal_of(&rows(&[(1, Made::Record); 10], 10)).await
}

#[tokio::test]
async fn what_waits_on_the_robot_is_told_from_what_is_complete() {
    let (_folder, journal) = ten_records().await;
    let history = History::of(&journal, robot()).await.unwrap();
    let ask = async |from, to, spool: Option<Spool>| {
        let answer = history.completeness(query(from, to), spool.as_ref());
        answer.await.unwrap()
    };
    // Up to a record that is here, nothing can wait.
    let past = ask(0, 15, None).await;
    assert_eq!(
        (past.received, past.waiting, past.complete),
        (4, Some(0), true)
    );
    // Later than that, nobody knows without the robot's word.
    let silent = ask(0, 100, None).await;
    assert_eq!(
        (silent.received, silent.waiting, silent.complete),
        (10, None, false)
    );
    assert!(silent.expected_is_lower_bound && silent.unknown.len() == 1);

    let waits = || Some(spool(14, Some(30), 100));
    let all = ask(0, 100, waits()).await;
    assert_eq!(
        (all.expected, all.waiting, all.complete),
        (13, Some(3), false)
    );
    assert!(all.waiting_is_upper_bound, "some may be from just now");
    let before_them = ask(0, 30, waits()).await;
    assert_eq!((before_them.waiting, before_them.complete), (Some(0), true));
    let cut = ask(40, 50, waits()).await;
    assert_eq!((cut.received, cut.waiting), (0, Some(3)));
    assert!(cut.waiting_is_upper_bound);
    let last_word = waits();
    let whole = history.completeness(Range::default(), last_word.as_ref());
    let whole = whole.await.unwrap();
    assert_eq!((whole.expected, whole.waiting), (13, Some(3)));
    assert!(!whole.waiting_is_upper_bound && !whole.expected_is_lower_bound);

    // Nothing waits, but what came after the robot's last word is not known.
    let idle = || Some(spool(11, None, 100));
    assert!(ask(0, 100, idle()).await.complete);
    let later = ask(0, 101, idle()).await;
    assert!(!later.complete && later.expected_is_lower_bound);
    assert!(
        history
            .completeness(Range::default(), idle().as_ref())
            .await
            .unwrap()
            .complete
    );
}

#[tokio::test]
async fn a_robot_that_has_sent_nothing_has_an_empty_history() {
    let (_folder, journal) = journal_of(&[]).await;
    let history = History::of(&journal, robot()).await.unwrap();
    let range = Range::default();
    assert_eq!(history.gaps(range, None, 5).await.unwrap().items, []);
    assert_eq!(
        history.records(range, None, None, 5).await.unwrap().items,
        []
    );
    let nothing = history.completeness(range, None).await.unwrap();
    assert_eq!(
        (nothing.expected, nothing.waiting, nothing.complete),
        (0, None, false)
    );
    let fresh = spool(1, None, 10);
    let fresh = history.completeness(range, Some(&fresh));
    assert!(fresh.await.unwrap().complete);
}

#[test]
fn places_are_read_as_they_are_written() {
    let place = Place {
        epoch: Epoch(0xab),
        seq: Seq(7),
    };
    assert_eq!(place.to_string().parse(), Ok(place));
    for text in [
        "",
        "7",
        "ab.7",
        "00000000000000ab.",
        "00000000000000ab.-1",
        "00000000000000ab.9999999999999999999",
    ] {
        assert_eq!(text.parse::<Place>(), Err(NotAPlace), "{text:?}");
    }
}
