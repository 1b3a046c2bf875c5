//! The judge: compares what was acknowledged to a robot's producer with what is in the relay's
//! journal. Pure.
//!
//! The producer numbers its records from 1 on and sends the next only when the one before was
//! acknowledged. So numbers must stand in the journal once each and in order. A number that is
//! missing is excused only by a tombstone in its place that says that the spool was full, and for how
//! many records: a drill harms no disk, so there is no other reason for a hole.

use std::collections::BTreeMap;

/// The reason of a tombstone of records that made room for newer ones.
const FULL: &str = "full";
/// The reason of a tombstone of telemetry, which is not the producer's.
const THINNED: &str = "thinned";

/// What a producer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Produced {
    /// Records up to this number were acknowledged to it.
    pub acknowledged: u64,
    /// Records up to this number were sent; they may be there or not.
    pub sent: u64,
}

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The incarnation of the robot's spool.
    pub epoch: String,
    /// Its position.
    pub seq: u64,
    /// How many positions it covers.
    pub covers: u64,
    /// What it is.
    pub entry: Entry,
}

/// What stands in a line of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A record of the producer with its number.
    Produced(u64),
    /// A record that calls itself the producer's and is not as it was sent.
    Altered,
    /// A record of somebody else.
    Other,
    /// Telemetry that was thinned out: how many samples.
    Thinned(u64),
    /// Records that are not there any more: how many, where known, and why.
    Gap(Option<u64>, String),
}

/// What the judge found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings {
    /// Records acknowledged to the producer.
    pub acknowledged: u64,
    /// Records of the producer in the journal, repeats not counted.
    pub arrived: u64,
    /// Records of others.
    pub others: u64,
    /// Acknowledged records that are not in the journal, and no tombstone says why.
    pub lost: u64,
    /// Acknowledged records that are not in the journal, since the spool was full, as a tombstone in
    /// their place says.
    pub excused: u64,
    /// Records that are there again.
    pub doubled: u64,
    /// Records that stand behind a later one.
    pub reordered: u64,
    /// Records that are not as they were sent, or were never sent.
    pub altered: u64,
    /// How many records are gone, by the reason that a tombstone gives.
    pub gaps: BTreeMap<String, u64>,
    /// Tombstones that nothing in a drill is a reason for.
    pub baseless: u64,
    /// Positions of the stream that nothing covers.
    pub holes: u64,
}

impl Findings {
    /// Whether nothing is wrong. What made room in a full spool is not wrong.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.lost == 0
            && self.doubled == 0
            && self.reordered == 0
            && self.altered == 0
            && self.baseless == 0
            && self.holes == 0
    }

    /// Adds those of another robot.
    pub fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.arrived += other.arrived;
        self.others += other.others;
        self.lost += other.lost;
        self.excused += other.excused;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.altered += other.altered;
        self.baseless += other.baseless;
        self.holes += other.holes;
        for (reason, count) in &other.gaps {
            *self.gaps.entry(reason.clone()).or_default() += count;
        }
    }
}

/// Numbers that were passed over, and how many of them tombstones in their place excuse.
#[derive(Debug)]
struct PassedOver {
    from: u64,
    until: u64,
    excused: u64,
}

/// Judges one robot. The rows are in the journal's order.
#[must_use]
pub fn judge(produced: Produced, rows: impl IntoIterator<Item = Row>) -> Findings {
    let mut findings = Findings {
        acknowledged: produced.acknowledged,
        ..Findings::default()
    };
    let mut seen = vec![false; usize::try_from(produced.sent).unwrap_or(usize::MAX - 1) + 1];
    let mut passed_over = Vec::new();
    let (mut newest, mut excused) = (0, 0_u64);
    let mut stream = Stream::default();
    for row in rows {
        findings.holes += stream.holes_before(&row);
        match row.entry {
            Entry::Produced(number) => {
                let place = usize::try_from(number).ok().filter(|number| *number > 0);
                let Some(seen) = place.and_then(|place| seen.get_mut(place)) else {
                    findings.altered += 1;
                    continue;
                };
                if std::mem::replace(seen, true) {
                    findings.doubled += 1;
                } else if number < newest {
                    findings.arrived += 1;
                    findings.reordered += 1;
                } else {
                    findings.arrived += 1;
                    passed_over.push(PassedOver {
                        from: newest + 1,
                        until: number,
                        excused: std::mem::take(&mut excused),
                    });
                    newest = number;
                }
            }
            Entry::Altered => findings.altered += 1,
            Entry::Other => findings.others += 1,
            // Only telemetry is thinned, so it excuses nothing.
            Entry::Thinned(count) => {
                *findings.gaps.entry(THINNED.to_owned()).or_default() += count;
            }
            Entry::Gap(count, reason) => {
                match count.filter(|count| *count > 0) {
                    Some(count) if reason == FULL => excused = excused.saturating_add(count),
                    Some(_) if reason == THINNED => {}
                    Some(_) | None => findings.baseless += 1,
                }
                *findings.gaps.entry(reason).or_default() += count.unwrap_or(row.covers);
            }
        }
    }
    passed_over.push(PassedOver {
        from: newest + 1,
        until: produced.sent + 1,
        excused,
    });
    for part in passed_over {
        let until = part.until.min(produced.acknowledged + 1);
        let is_missing = |number: &u64| {
            let place = usize::try_from(*number).unwrap_or(usize::MAX);
            seen.get(place) == Some(&false)
        };
        let missing = (part.from..until).filter(is_missing).count();
        let missing = u64::try_from(missing).unwrap_or(u64::MAX);
        findings.excused += missing.min(part.excused);
        findings.lost += missing.saturating_sub(part.excused);
    }
    findings
}

/// Where the stream stands.
#[derive(Debug, Default)]
struct Stream {
    epoch: String,
    due: u64,
}

impl Stream {
    /// How many positions are missing before the row. A position that is there twice counts, too.
    fn holes_before(&mut self, row: &Row) -> u64 {
        if row.epoch != self.epoch {
            self.epoch.clone_from(&row.epoch);
            self.due = 1;
        }
        let holes = row.seq.abs_diff(self.due);
        self.due = row.seq.saturating_add(row.covers);
        holes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: Produced = Produced {
        acknowledged: 5,
        sent: 5,
    };

    /// Rows in one epoch, one after the other.
    fn rows(entries: impl IntoIterator<Item = Entry>) -> Vec<Row> {
        let mut due = 1;
        let row = |entry| {
            let covers = match &entry {
                Entry::Gap(count, _) => count.unwrap_or(1),
                Entry::Thinned(count) => *count,
                Entry::Produced(_) | Entry::Altered | Entry::Other => 1,
            };
            let seq = due;
            due += covers;
            Row {
                epoch: "a".to_owned(),
                seq,
                covers,
                entry,
            }
        };
        entries.into_iter().map(row).collect()
    }

    fn numbers(numbers: &[u64]) -> Vec<Row> {
        rows(numbers.iter().map(|number| Entry::Produced(*number)))
    }

    #[test]
    fn all_of_them_once_and_in_order_is_clean() {
        let found = judge(ALL, numbers(&[1, 2, 3, 4, 5]));
        assert!(found.is_clean(), "{found:?}");
        assert_eq!((found.acknowledged, found.arrived), (5, 5));
    }

    #[test]
    fn a_record_that_is_missing_is_lost_wherever_it_was() {
        for missing in [&[2, 3, 4, 5][..], &[1, 2, 4, 5], &[1, 2, 3, 4]] {
            let found = judge(ALL, numbers(missing));
            assert_eq!((found.lost, found.is_clean()), (1, false), "{missing:?}");
        }
        assert_eq!(judge(ALL, []).lost, 5);
    }

    #[test]
    fn a_record_that_is_there_again_is_doubled_and_not_reordered() {
        for doubled in [&[1, 2, 2, 3, 4, 5][..], &[1, 2, 3, 4, 5, 1]] {
            let found = judge(ALL, numbers(doubled));
            let counted = (found.doubled, found.reordered, found.lost, found.arrived);
            assert_eq!(counted, (1, 0, 0, 5), "{doubled:?}");
            assert!(!found.is_clean());
        }
    }

    #[test]
    fn a_record_behind_a_later_one_is_reordered_and_not_lost() {
        let found = judge(ALL, numbers(&[1, 3, 2, 4, 5]));
        assert_eq!((found.reordered, found.lost), (1, 0));
        assert!(!found.is_clean());
    }

    #[test]
    fn what_was_not_acknowledged_may_be_there_once() {
        let produced = Produced {
            acknowledged: 3,
            sent: 5,
        };
        assert!(judge(produced, numbers(&[1, 2, 3])).is_clean());
        assert!(judge(produced, numbers(&[1, 2, 3, 4, 5])).is_clean());
        assert_eq!(judge(produced, numbers(&[1, 2, 3, 4, 4])).doubled, 1);
    }

    #[test]
    fn what_was_never_sent_or_is_not_as_it_was_sent_is_altered() {
        for strange in [Entry::Produced(6), Entry::Produced(0), Entry::Altered] {
            let good = (1..=5).map(Entry::Produced);
            let found = judge(ALL, rows(good.chain([strange])));
            assert_eq!((found.altered, found.is_clean()), (1, false));
        }
    }

    #[test]
    fn a_tombstone_excuses_what_is_missing_in_its_place_and_no_more() {
        let gap = |count| Entry::Gap(count, FULL.to_owned());
        let around = |count| {
            let entries = [
                Entry::Produced(1),
                gap(count),
                Entry::Produced(4),
                Entry::Produced(5),
            ];
            judge(ALL, rows(entries))
        };
        let found = around(Some(2));
        assert!(found.is_clean(), "{found:?}");
        assert_eq!((found.excused, found.gaps[FULL]), (2, 2));
        assert_eq!(around(Some(1)).lost, 1);
        // Neither does thinned telemetry, nor one somewhere else.
        let entries = [Entry::Produced(3), Entry::Thinned(2), Entry::Produced(5)];
        assert_eq!(judge(ALL, rows(entries)).lost, 3);
        let entries = [1, 4, 5].map(Entry::Produced).into_iter();
        assert_eq!(judge(ALL, rows(entries.chain([gap(Some(2))]))).lost, 2);
    }

    #[test]
    fn a_tombstone_of_another_reason_or_without_a_number_excuses_nothing_and_is_wrong() {
        let strange = [
            Entry::Gap(Some(2), "corrupt".to_owned()),
            Entry::Gap(Some(2), "forgotten".to_owned()),
            Entry::Gap(None, FULL.to_owned()),
        ];
        for gap in strange {
            let around = [1, 4, 5].map(Entry::Produced);
            let [first, last @ ..] = around;
            let missing = [first, gap.clone()].into_iter().chain(last);
            let found = judge(ALL, rows(missing));
            assert_eq!((found.lost, found.excused, found.baseless), (2, 0, 1));
            // Nor may it be there where nothing is missing.
            let all = (1..=5).map(Entry::Produced);
            let found = judge(ALL, rows(all.chain([gap])));
            assert_eq!((found.lost, found.is_clean()), (0, false));
        }
    }

    #[test]
    fn a_position_that_nothing_covers_is_a_hole() {
        let mut missing_position = numbers(&[1, 2, 3, 4, 5]);
        missing_position[4].seq = 6;
        assert_eq!(judge(ALL, missing_position).holes, 1);
        let mut late_start = numbers(&[1, 2, 3, 4, 5]);
        for row in &mut late_start {
            row.seq += 2;
        }
        assert_eq!(judge(ALL, late_start).holes, 2);
        // A new epoch begins at 1 again.
        let mut renewed = numbers(&[1, 2, 3, 4, 5]);
        for (row, seq) in renewed[3..].iter_mut().zip(1..) {
            (row.epoch, row.seq) = ("b".to_owned(), seq);
        }
        assert!(judge(ALL, renewed).is_clean());
    }

    proptest! {
        #[test]
        fn counts_agree_with_a_naive_look_at_the_numbers(
            list in prop::collection::vec(1_u64..=8, 0..12),
            acknowledged in 0_u64..=8,
        ) {
            let found = judge(Produced { acknowledged, sent: 8 }, numbers(&list));
            let lost = (1..=acknowledged).filter(|number| !list.contains(number)).count();
            let mut distinct = list.clone();
            distinct.sort_unstable();
            distinct.dedup();
            let doubled = list.len() - distinct.len();
            prop_assert_eq!(found.lost, u64::try_from(lost).unwrap());
            prop_assert_eq!(found.doubled, u64::try_from(doubled).unwrap());
            prop_assert_eq!(found.arrived, u64::try_from(distinct.len()).unwrap());
            let in_order = list.windows(2).all(|pair| pair[0] <= pair[1]);
            if doubled == 0 {
                prop_assert_eq!(found.reordered == 0, in_order);
            }
        }
    }
}
