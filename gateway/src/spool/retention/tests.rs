//! Making room on rows in memory: single cases, and any mix of records with any steps.

use std::collections::BTreeMap;

use brrbrr_proto::time::WallClock;
use brrbrr_proto::up::{Alarm, Custom, Severity};
use proptest::prelude::*;

use super::*;

fn stamp(boot: u64, seconds: u64) -> Stamp {
    Stamp {
        boot: BootId(boot),
        uptime: Uptime::new(Duration::from_secs(seconds)),
        wall: WallClock(1_795_205_700_000_000),
    }
}

fn telemetry(seconds: u64, battery: Option<f64>) -> Record {
    Record {
        stamp: stamp(1, seconds),
        event: Event::Telemetry(Status {
            battery,
            ..Status::default()
        }),
    }
}

fn custom(seconds: u64, size: usize) -> Record {
    let (kind, json) = (String::new(), "x".repeat(size));
    Record {
        stamp: stamp(1, seconds),
        event: Event::Custom(Custom { kind, json }),
    }
}

fn alarm(seconds: u64, size: usize) -> Record {
    Record {
        stamp: stamp(1, seconds),
        event: Event::Alarm(Alarm {
            code: "a".to_owned(),
            severity: Severity::Notice,
            text: "x".repeat(size),
        }),
    }
}

/// A spool in memory: rows by number.
#[derive(Debug, Default, Clone)]
struct Rows(BTreeMap<u64, Row>);

impl Rows {
    fn of(records: &[Record]) -> Self {
        let mut rows = Self::default();
        records.iter().for_each(|record| rows.append(record));
        rows
    }

    fn next(&self) -> u64 {
        self.0.values().next_back().map_or(1, Row::end)
    }

    fn append(&mut self, record: &Record) {
        let EncodedRecord {
            class,
            covers,
            bytes,
        } = EncodedRecord::encode(record).unwrap();
        let row = self.next();
        self.put(row, class, covers, bytes);
    }

    fn put(&mut self, row: u64, class: Class, covers: u64, bytes: Vec<u8>) {
        let put = Row {
            row,
            class,
            covers,
            bytes,
        };
        self.0.insert(row, put);
    }

    fn cost(&self) -> u64 {
        self.0.values().map(Row::cost).sum()
    }

    /// One step, as the spool's thread takes it. Says whether there was one.
    fn step(&mut self, plan: &mut Plan, read: u64, limit: usize, goal: u64) -> bool {
        let first = self.0.keys().next().copied().unwrap_or(1);
        let next = self.next();
        let Some(task) = plan.next(Extent { first, read, next }) else {
            return false;
        };
        let before = self.0.range(task.begin..task.from).next_back();
        let own = self.0.range(task.from..task.end).take(limit);
        let rows: Vec<Row> = before
            .into_iter()
            .chain(own)
            .map(|(_, row)| row.clone())
            .collect();
        let worked = work(task.measure, &rows, goal).unwrap();
        assert!(worked.until > task.from, "a step gets on");
        for Change { row, record, .. } in worked.changes {
            let gone: Vec<u64> = self
                .0
                .range(row..row + record.covers)
                .map(|(at, _)| *at)
                .collect();
            gone.iter().for_each(|at| drop(self.0.remove(at)));
            self.put(row, record.class, record.covers, record.bytes);
        }
        plan.worked(&task, worked.until);
        true
    }

    fn events(&self) -> Vec<Event> {
        let decode = |row: &Row| postcard::from_bytes::<Record>(&row.bytes).unwrap().event;
        self.0.values().map(decode).collect()
    }
}

#[test]
fn samples_of_ten_seconds_become_one_with_their_lowest_and_highest() {
    let records: Vec<Record> = [(0, 0.5), (3, 0.2), (9, 0.4), (10, 0.1)]
        .map(|(seconds, battery)| telemetry(seconds, Some(battery)))
        .to_vec();
    let mut rows = Rows::of(&records);
    rows.step(&mut Plan::default(), 0, 100, 1);
    let [Event::Thinned(thinned), Event::Telemetry(_)] = &rows.events()[..] else {
        panic!("{rows:?}");
    };
    assert_eq!((thinned.count, thinned.since), (3, stamp(1, 0)));
    let battery = thinned.battery.unwrap();
    assert_eq!((battery.low, battery.high), (0.2, 0.5));
    assert_eq!((thinned.speed, thinned.last.battery), (None, Some(0.4)));
    let first: Record = postcard::from_bytes(&rows.0[&1].bytes).unwrap();
    assert_eq!((first.stamp, rows.0[&1].covers), (stamp(1, 9), 3));
}

#[test]
fn samples_of_two_boots_or_with_something_in_between_stay_apart() {
    let other_boot = Record {
        stamp: stamp(2, 3),
        ..telemetry(3, None)
    };
    let records = [
        telemetry(1, None),
        other_boot,
        alarm(4, 1),
        telemetry(5, None),
        custom(6, 1),
        telemetry(6, None),
    ];
    let mut rows = Rows::of(&records);
    rows.step(&mut Plan::default(), 0, 100, 1);
    assert_eq!(rows.0.len(), records.len());
}

#[test]
fn a_tombstone_names_how_many_and_from_when_to_when_and_grows() {
    let mut rows = Rows::of(&[custom(1, 90), custom(2, 90), alarm(3, 0), custom(4, 90)]);
    let mut plan = Plan::default();
    while !matches!(rows.events()[..], [_, _, Event::Tombstone(_)]) {
        assert!(rows.step(&mut plan, 0, 1, u64::MAX));
    }
    let [
        Event::Tombstone(first),
        Event::Alarm(_),
        Event::Tombstone(_),
    ] = &rows.events()[..]
    else {
        panic!("{rows:?}");
    };
    let expected = Tombstone {
        count: 2,
        loss: Loss::SpoolFull,
        since: Some(stamp(1, 1)),
        until: Some(stamp(1, 2)),
    };
    assert_eq!(*first, expected);
    while rows.step(&mut plan, 0, 1, u64::MAX) {}
    let expected = Tombstone {
        count: 4,
        until: Some(stamp(1, 4)),
        ..expected
    };
    assert_eq!(rows.events(), [Event::Tombstone(expected)]);
}

#[test]
fn a_count_that_nobody_knows_stays_unknown_and_other_losses_are_left_alone() {
    let tombstone = |count, loss| Record {
        stamp: stamp(1, 1),
        event: Event::Tombstone(Tombstone {
            count,
            loss,
            since: None,
            until: None,
        }),
    };
    let mut rows = Rows::of(&[
        tombstone(5, Loss::SpoolCorrupt),
        tombstone(0, Loss::SpoolFull),
        alarm(3, 50),
    ]);
    let mut plan = Plan::default();
    while rows.step(&mut plan, 0, 100, u64::MAX) {}
    let [Event::Tombstone(corrupt), Event::Tombstone(full)] = &rows.events()[..] else {
        panic!("{rows:?}");
    };
    assert_eq!((corrupt.count, corrupt.loss), (5, Loss::SpoolCorrupt));
    assert_eq!((full.count, full.loss), (0, Loss::SpoolFull));
    assert_eq!(full.until, Some(stamp(1, 3)));
    assert_eq!(rows.0[&6].covers, 2);
}

#[test]
fn no_more_is_shed_than_is_asked_for() {
    let records: Vec<Record> = (0..100).map(|seconds| custom(seconds, 100)).collect();
    let mut rows = Rows::of(&records);
    let mut plan = Plan::default();
    let before = rows.cost();
    while rows.cost() + 1_000 > before {
        assert!(rows.step(&mut plan, 0, 100, 500));
    }
    let left = rows.0.values().filter(|row| row.class == Class::Custom);
    assert!(left.count() > 85, "{rows:?}");
}

fn any_record() -> impl Strategy<Value = (u8, usize, u64)> {
    let class = prop_oneof![5 => Just(0_u8), 2 => Just(1_u8), 2 => Just(2_u8)];
    (class, 0..200_usize, 0..4_u64)
}

fn class_of(event: &Event) -> u8 {
    match event {
        Event::Telemetry(_) | Event::Thinned(_) => 0,
        Event::Custom(_) | Event::Ordered(_) | Event::Progressed(_) => 1,
        Event::Tombstone(_) => 3,
        Event::Alarm(_) | Event::Changed(_) | Event::Arrived(_) | Event::Command(_) => 2,
    }
}

proptest! {
    #[test]
    fn making_room_keeps_every_position_and_the_order_and_ends(
        kinds in prop::collection::vec(any_record(), 1..80),
        read in 0..40_u64,
        limit in 1..20_usize,
        goal in 1..2_000_u64,
    ) {
        let mut seconds = 0;
        let records: Vec<Record> = kinds.iter().map(|(class, size, pause)| {
            seconds += pause;
            match class {
                0 => telemetry(seconds, (size % 2 == 0).then_some(0.5)),
                1 => custom(seconds, *size),
                _ => alarm(seconds, *size),
            }
        }).collect();
        let total = u64::try_from(records.len()).unwrap();
        let read = 1 + read.min(total);
        let mut rows = Rows::of(&records);
        let (mut plan, begin) = (Plan::default(), rows.cost());
        loop {
            let before = rows.clone();
            if !rows.step(&mut plan, read, limit, goal) {
                break;
            }
            let mut due = 1;
            for row in rows.0.values() {
                prop_assert_eq!(row.row, due);
                due = row.end();
                let record: Record = postcard::from_bytes(&row.bytes).unwrap();
                let count = match &record.event {
                    Event::Tombstone(tombstone) => tombstone.count,
                    Event::Thinned(thinned) => thinned.count,
                    Event::Changed(_)
                    | Event::Arrived(_)
                    | Event::Alarm(_)
                    | Event::Command(_)
                    | Event::Telemetry(_)
                    | Event::Custom(_) | Event::Ordered(_) | Event::Progressed(_) => 1,
                };
                prop_assert_eq!(count, row.covers);
                if row.class != Class::Gap {
                    let at = usize::try_from(row.row - 1).unwrap();
                    prop_assert_eq!(&record, &records[at]);
                }
            }
            prop_assert_eq!(due, total + 1);
            prop_assert!(rows.cost() <= begin + (GAP_OVERHEAD + 4) * total);
            // What matters more goes only when what matters less is gone.
            let waiting = |rows: &Rows, class| {
                rows.0.range(read..).filter(|(_, row)| {
                    let record: Record = postcard::from_bytes(&row.bytes).unwrap();
                    class_of(&record.event) == class
                }).count()
            };
            let under_way = |rows: &Rows| {
                rows.0.range(..read).filter(|(_, row)| row.class != Class::Gap).count()
            };
            for class in 1..3 {
                if waiting(&rows, class) < waiting(&before, class) {
                    prop_assert!((0..class).all(|lower| waiting(&rows, lower) == 0));
                }
            }
            if under_way(&rows) < under_way(&before) {
                prop_assert!((0..2).all(|class| waiting(&rows, class) == 0));
            }
        }
        // A tombstone for what waited, and one for what was under way.
        prop_assert!(rows.0.len() <= 2, "{:?}", rows);
    }
}
