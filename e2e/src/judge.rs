//! The judge: compares what producers were acknowledged with what is in the relay's journal.
//!
//! Producers number what they say, from 1 on, and wait for the answer to each before the next. So in
//! the journal every number that was acknowledged stands exactly once, a producer's numbers rise, and
//! the positions of a stream have no holes. A number that was sent and never acknowledged may be
//! there or not, but not twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use brrbrr_proto::up::{Event, Record};
use serde::Deserialize;

/// The kind of the events that are judged.
pub const KIND: &str = "load";

/// How many examples of each fault are kept.
const EXAMPLES: usize = 5;

/// What an event of a producer says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Mark {
    /// Who says it.
    pub producer: String,
    /// How many it has said with this one.
    pub number: u64,
}

/// What one producer was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// Its name.
    pub producer: String,
    /// The numbers.
    pub numbers: BTreeSet<u64>,
    /// How many it has sent, acknowledged or not.
    pub sent: u64,
}

/// Reads a journal row by row, in the order of streams and positions.
#[derive(Debug, Default)]
pub struct Judge {
    seen: BTreeMap<String, Seen>,
    /// The name of the stream that is read, and the position that is due in it.
    stream: String,
    due: u64,
    verdict: Verdict,
}

#[derive(Debug, Default)]
struct Seen {
    numbers: BTreeSet<u64>,
    highest: u64,
}

/// What became of the records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Incarnations of robots' spools.
    pub streams: usize,
    /// Events of producers in the journal.
    pub records: usize,
    /// How many were acknowledged.
    pub acknowledged: usize,
    /// Acknowledged and not there.
    pub lost: Faults,
    /// There more than once.
    pub doubled: Faults,
    /// There after a later one of the same producer.
    pub reordered: Faults,
    /// There and never sent.
    pub invented: Faults,
    /// Positions that nothing stands for, that stand twice, or that the cursor belies.
    pub holes: Faults,
    /// Tombstones and what they say. Nothing is to be shed or lost, so there are to be none.
    pub tombstones: Faults,
}

/// How many faults of a sort, and some of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// How many.
    pub count: usize,
    /// Some of them, for people.
    pub examples: Vec<String>,
}

impl Judge {
    /// A stream begins.
    pub fn begin(&mut self, stream: &str) {
        self.verdict.streams += 1;
        stream.clone_into(&mut self.stream);
        self.due = 1;
    }

    /// The next row of the stream: where it stands, how many positions it covers, and what it says.
    pub fn row(&mut self, seq: u64, covers: u64, record: &Record) {
        if seq != self.due {
            let what = format!("{}: {} is due and {seq} comes", self.stream, self.due);
            self.verdict.holes.add(what);
        }
        self.due = seq + covers;
        match &record.event {
            Event::Custom(custom) if custom.kind == KIND => {
                match serde_json::from_str(&custom.json) {
                    Ok(mark) => self.hear(mark),
                    Err(error) => {
                        let what = format!("{}: position {seq}: {error}", self.stream);
                        self.verdict.invented.add(what);
                    }
                }
            }
            Event::Tombstone(tombstone) => {
                let what = format!("{}: position {seq}: {tombstone:?}", self.stream);
                self.verdict.tombstones.add(what);
            }
            Event::Custom(_)
            | Event::Ordered(_)
            | Event::Progressed(_)
            | Event::Changed(_)
            | Event::Arrived(_)
            | Event::Alarm(_)
            | Event::Command(_)
            | Event::Telemetry(_)
            | Event::Thinned(_) => {}
        }
    }

    /// The stream ends; `due` is what its cursor says comes next.
    pub fn end(&mut self, due: u64) {
        if due != self.due {
            let what = format!("{}: ends before {}, cursor {due}", self.stream, self.due);
            self.verdict.holes.add(what);
        }
    }

    fn hear(&mut self, Mark { producer, number }: Mark) {
        let seen = self.seen.entry(producer.clone()).or_default();
        let what = format!("{producer} {number} in {}", self.stream);
        self.verdict.records += 1;
        if !seen.numbers.insert(number) {
            self.verdict.doubled.add(what);
        } else if number < seen.highest {
            self.verdict.reordered.add(what);
        }
        seen.highest = seen.highest.max(number);
    }

    /// Compares with what the producers were acknowledged.
    #[must_use]
    pub fn judge(self, producers: &[Acknowledged]) -> Verdict {
        let Self {
            mut seen,
            mut verdict,
            ..
        } = self;
        for Acknowledged {
            producer,
            numbers,
            sent,
        } in producers
        {
            let own = seen.remove(producer).unwrap_or_default();
            verdict.acknowledged += numbers.len();
            for number in numbers.difference(&own.numbers) {
                verdict.lost.add(format!("{producer} {number}"));
            }
            for number in own.numbers.range(sent + 1..) {
                verdict.invented.add(format!("{producer} {number}"));
            }
        }
        for (producer, own) in seen {
            let what = format!("{} of {producer}, which is no producer", own.numbers.len());
            verdict.invented.add(what);
        }
        verdict
    }
}

impl Verdict {
    /// Whether all is as it should be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let faults = [
            &self.lost,
            &self.doubled,
            &self.reordered,
            &self.invented,
            &self.holes,
            &self.tombstones,
        ];
        faults.into_iter().all(|faults| faults.count == 0)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} acknowledged, {} in {} streams of the journal",
            self.acknowledged, self.records, self.streams
        )?;
        for (name, faults) in [
            ("lost", &self.lost),
            ("doubled", &self.doubled),
            ("reordered", &self.reordered),
            ("invented", &self.invented),
            ("holes", &self.holes),
            ("tombstones", &self.tombstones),
        ] {
            write!(f, ", {} {name}", faults.count)?;
            if faults.count > 0 {
                write!(f, " {:?}", faults.examples)?;
            }
        }
        Ok(())
    }
}

impl Faults {
    fn add(&mut self, what: String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(what);
        }
    }
}

#[cfg(test)]
mod tests {
    use brrbrr_proto::id::BootId;
    use brrbrr_proto::time::{Stamp, Uptime, WallClock};
    use brrbrr_proto::up::{Custom, Loss, Tombstone};

    use super::*;

    const PRODUCERS: [&str; 2] = ["left", "right"];
    const EACH: u64 = 10;

    fn record(event: Event) -> Record {
        let stamp = Stamp {
            boot: BootId(1),
            uptime: Uptime::default(),
            wall: WallClock(0),
        };
        Record { stamp, event }
    }

    fn said(producer: &str, number: u64) -> Record {
        let json = format!(r#"{{"producer": "{producer}", "number": {number}}}"#);
        let kind = KIND.to_owned();
        record(Event::Custom(Custom { kind, json }))
    }

    /// Two producers that took turns: positions 1 to 20.
    fn rows() -> Vec<(u64, u64, Record)> {
        let said = (1..=EACH).flat_map(|number| PRODUCERS.map(|name| said(name, number)));
        (1..).zip(said).map(|(seq, said)| (seq, 1, said)).collect()
    }

    fn acknowledged() -> Vec<Acknowledged> {
        let all = PRODUCERS.map(|producer| Acknowledged {
            producer: producer.to_owned(),
            numbers: (1..=EACH).collect(),
            sent: EACH,
        });
        all.into()
    }

    fn judged(rows: &[(u64, u64, Record)], due: u64) -> Verdict {
        let mut judge = Judge::default();
        judge.begin("robot 1");
        for (seq, covers, record) in rows {
            judge.row(*seq, *covers, record);
        }
        judge.end(due);
        judge.judge(&acknowledged())
    }

    fn renumbered(rows: Vec<(u64, u64, Record)>) -> Vec<(u64, u64, Record)> {
        let all = (1..).zip(rows);
        all.map(|(seq, (_, covers, said))| (seq, covers, said))
            .collect()
    }

    #[test]
    fn a_journal_that_has_everything_once_and_in_order_is_clean() {
        let verdict = judged(&rows(), 21);
        assert!(verdict.is_clean(), "{verdict}");
        assert_eq!((verdict.records, verdict.acknowledged), (20, 20));
    }

    #[test]
    fn a_row_that_is_missing_is_a_loss_and_a_hole() {
        let mut rows = rows();
        rows.remove(7);
        let verdict = judged(&rows, 21);
        assert_eq!(verdict.lost.examples, ["right 4"]);
        assert_eq!(verdict.holes.count, 1, "{verdict}");
    }

    #[test]
    fn a_loss_is_seen_without_a_hole_and_at_the_end_too() {
        for missing in [0, 7, 19] {
            let mut rows = rows();
            rows.remove(missing);
            let verdict = judged(&renumbered(rows), 20);
            assert_eq!((verdict.lost.count, verdict.holes.count), (1, 0));
            assert!(!verdict.is_clean());
        }
    }

    #[test]
    fn a_record_that_stands_twice_is_doubled_and_not_reordered() {
        let mut rows = rows();
        rows.push((21, 1, said("left", 3)));
        let verdict = judged(&rows, 22);
        assert_eq!(verdict.doubled.examples, ["left 3 in robot 1"]);
        assert_eq!((verdict.reordered.count, verdict.lost.count), (0, 0));
        assert!(!verdict.is_clean());
    }

    #[test]
    fn records_of_one_producer_that_changed_places_are_reordered() {
        let mut rows = rows();
        rows.swap(4, 6);
        let verdict = judged(&renumbered(rows), 21);
        assert_eq!(verdict.reordered.examples, ["left 3 in robot 1"]);
        assert_eq!((verdict.doubled.count, verdict.lost.count), (0, 0));
        assert!(!verdict.is_clean());
    }

    #[test]
    fn records_of_two_producers_may_change_places() {
        let mut rows = rows();
        rows.swap(4, 5);
        let verdict = judged(&renumbered(rows), 21);
        assert!(verdict.is_clean(), "{verdict}");
    }

    #[test]
    fn order_and_doubles_are_judged_across_the_epochs_of_a_robot() {
        let rows = rows();
        let judged = |second: &[Record]| {
            let mut judge = Judge::default();
            judge.begin("robot 1, first epoch");
            for (seq, covers, record) in &rows[..18] {
                judge.row(*seq, *covers, record);
            }
            judge.end(19);
            judge.begin("robot 1, second epoch");
            for (seq, record) in (1..).zip(second) {
                judge.row(seq, 1, record);
            }
            judge.end(u64::try_from(second.len()).unwrap() + 1);
            judge.judge(&acknowledged())
        };
        let verdict = judged(&[said("left", 10), said("right", 10)]);
        assert!(verdict.is_clean(), "{verdict}");
        assert_eq!(verdict.streams, 2);
        let verdict = judged(&[said("left", 9), said("left", 10), said("right", 10)]);
        assert_eq!(verdict.doubled.count, 1, "{verdict}");
    }

    #[test]
    fn a_cursor_that_is_not_where_the_rows_end_is_a_hole() {
        for due in [20, 22] {
            let verdict = judged(&rows(), due);
            assert_eq!(verdict.holes.count, 1, "{verdict}");
        }
    }

    #[test]
    fn a_position_that_stands_twice_is_a_hole() {
        let mut rows = rows();
        let (seq, covers, _) = rows[6];
        rows.insert(7, (seq, covers, said("elsewhere", 1)));
        assert!(judged(&rows, 21).holes.count > 0);
    }

    #[test]
    fn a_tombstone_leaves_no_hole_but_is_a_fault_and_what_it_stands_for_is_lost() {
        let mut rows = rows();
        rows.drain(4..8);
        let tombstone = Tombstone {
            count: 4,
            loss: Loss::SpoolFull,
            since: None,
            until: None,
        };
        rows.insert(4, (5, 4, record(Event::Tombstone(tombstone))));
        let verdict = judged(&rows, 21);
        let counts = [&verdict.holes, &verdict.lost, &verdict.tombstones].map(|own| own.count);
        assert_eq!(counts, [0, 4, 1]);
        assert!(!verdict.is_clean());
    }

    #[test]
    fn a_tombstone_of_nobody_knows_how_many_is_a_fault_where_nothing_is_lost() {
        let mut rows = rows();
        let tombstone = Tombstone {
            count: 0,
            loss: Loss::SpoolCorrupt,
            since: None,
            until: None,
        };
        rows.push((21, 1, record(Event::Tombstone(tombstone))));
        let verdict = judged(&rows, 22);
        assert_eq!(verdict.lost.count, 0);
        assert!(!verdict.is_clean());
    }

    #[test]
    fn what_nobody_sent_is_invented() {
        let mut rows = rows();
        rows.push((21, 1, said("left", 11)));
        rows.push((22, 1, said("nobody", 1)));
        assert_eq!(judged(&rows, 23).invented.count, 2);
    }

    #[test]
    fn what_was_sent_and_never_acknowledged_may_be_there_or_not() {
        for is_there in [false, true] {
            let mut judge = Judge::default();
            judge.begin("robot 1");
            if is_there {
                judge.row(1, 1, &said("left", 1));
            }
            judge.end(1 + u64::from(is_there));
            let verdict = judge.judge(&[Acknowledged {
                producer: "left".to_owned(),
                numbers: BTreeSet::new(),
                sent: 1,
            }]);
            assert!(verdict.is_clean(), "{verdict}");
        }
    }
}
