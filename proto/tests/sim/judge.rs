//! Compares what the robot was told to be kept with what is in the relay's journal.

use brrbrr_proto::id::Seq;
use brrbrr_proto::up::Item;

use crate::disk::TOMBSTONE;

/// A record that the robot has offered.
struct Offer {
    record: Vec<u8>,
    at: Seq,
}

#[derive(Default)]
pub struct Judge {
    /// Every record that was ever offered, by its number.
    offers: Vec<Offer>,
    /// The numbers of those that are written and not yet acknowledged to the robot.
    waiting: Vec<usize>,
    /// The numbers of those that are acknowledged to the robot.
    accepted: Vec<usize>,
    /// How much of the journal was checked, and the number of the last record in it.
    checked: (usize, Option<usize>),
}

impl Judge {
    /// A record that is like no other: it begins with its number.
    pub fn next_record(&self, length: usize) -> Vec<u8> {
        let mut record = (self.offers.len() as u64).to_le_bytes().to_vec();
        record.resize(8 + length, 0);
        record
    }

    pub fn offered(&mut self, record: Vec<u8>, at: Seq) {
        self.waiting.push(self.offers.len());
        self.offers.push(Offer { record, at });
    }

    /// What was offered is durable, and the robot knows.
    pub fn synced(&mut self) {
        self.accepted.append(&mut self.waiting);
    }

    /// What was offered is not taken; a crash may have kept it all the same.
    pub fn refused(&mut self) {
        self.waiting.clear();
    }

    pub const fn journal_went_back(&mut self) {
        self.checked = (0, None);
    }

    pub const fn is_settled(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The journal has no hole, and what is in it was offered, once and in order.
    pub fn check_new(&mut self, journal: &[(Seq, Item)], may_bury: bool) {
        let (checked, mut last) = self.checked;
        let mut due = match checked.checked_sub(1).and_then(|index| journal.get(index)) {
            Some((at, item)) => at.plus(item.covers),
            None => Seq::FIRST,
        };
        for (at, item) in journal.get(checked..).unwrap_or_default() {
            assert_eq!(*at, due, "a hole");
            due = at.plus(item.covers);
            if item.record == TOMBSTONE {
                assert!(may_bury, "a tombstone of nothing");
                continue;
            }
            let number = number(&item.record);
            assert!(
                last.is_none_or(|last| last < number),
                "doubled or reordered"
            );
            let offer = &self.offers[number];
            assert!(offer.record == item.record, "the record differs");
            assert_eq!((offer.at, item.covers), (*at, 1), "in another place");
            last = Some(number);
        }
        self.checked = (journal.len(), last);
    }

    /// Every record that was acknowledged to the robot is in the journal, or a tombstone is in its
    /// place.
    pub fn check_complete(&self, journal: &[(Seq, Item)]) {
        for number in &self.accepted {
            let offer = &self.offers[*number];
            let index = journal.partition_point(|(at, _)| *at <= offer.at);
            let (at, item) = &journal[index.checked_sub(1).expect("before the journal begins")];
            assert!(
                at.plus(item.covers) > offer.at,
                "record {number} is missing"
            );
            assert!(
                item.record == TOMBSTONE || item.record == offer.record,
                "record {number} was replaced by another"
            );
        }
    }
}

/// The number that a record begins with.
fn number(record: &[u8]) -> usize {
    let number = record.first_chunk().expect("a record has a number");
    usize::try_from(u64::from_le_bytes(*number)).expect("small")
}
