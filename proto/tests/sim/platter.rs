//! A disk as storage engines see one: an append-only log of checked entries. What was synced stays;
//! of the rest a crash leaves any part, cut at any byte and with sectors missing.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::random::Random;

/// What a disk writes in one piece. Small, so that entries are torn often.
const SECTOR: usize = 16;
const HEADER: usize = 12;

pub struct Platter {
    bytes: Vec<u8>,
    synced: usize,
    /// How many crashes left half an entry behind.
    pub torn: u64,
    /// How many entries crashes have taken.
    pub lost: u64,
}

impl Platter {
    pub const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            synced: 0,
            torn: 0,
            lost: 0,
        }
    }

    pub fn write<E: Serialize>(&mut self, entry: &E) {
        let payload = postcard::to_stdvec(entry).expect("encodes");
        let length = u32::try_from(payload.len()).expect("small");
        self.bytes.extend(length.to_le_bytes());
        self.bytes.extend(sum(&payload).to_le_bytes());
        self.bytes.extend(payload);
    }

    pub const fn sync(&mut self) {
        self.synced = self.bytes.len();
    }

    /// A sync that failed: the engine takes back what it had written.
    pub fn roll_back(&mut self) {
        self.bytes.truncate(self.synced);
    }

    /// What the engine finds after a crash.
    pub fn crash<E: DeserializeOwned>(&mut self, random: &mut Random) -> Vec<E> {
        let before = self.entries::<E>().len();
        let unsynced = (self.bytes.len() - self.synced) as u64;
        let kept = usize::try_from(random.below(unsynced + 1)).expect("small");
        self.bytes.truncate(self.synced + kept);
        if kept > SECTOR && random.one_in(2) {
            // A later sector reached the disk before an earlier one.
            let room = (kept - SECTOR) as u64;
            let at = self.synced + usize::try_from(random.below(room)).expect("small");
            self.bytes[at..at + SECTOR].fill(0);
        }
        let entries = self.entries();
        let whole: usize = self.whole();
        self.torn += u64::from(whole < self.bytes.len());
        self.lost += (before - entries.len()) as u64;
        self.bytes.truncate(whole);
        self.synced = whole;
        entries
    }

    pub fn entries<E: DeserializeOwned>(&self) -> Vec<E> {
        let mut entries = Vec::new();
        let mut rest = self.bytes.as_slice();
        while let Some((payload, after)) = split(rest) {
            entries.push(postcard::from_bytes(payload).expect("decodes"));
            rest = after;
        }
        entries
    }

    fn whole(&self) -> usize {
        let mut rest = self.bytes.as_slice();
        while let Some((_, after)) = split(rest) {
            rest = after;
        }
        self.bytes.len() - rest.len()
    }
}

/// The first entry, where it is whole, and what follows it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let length = u32::from_le_bytes(header[..4].try_into().expect("four"));
    let expected = u64::from_le_bytes(header[4..].try_into().expect("eight"));
    let (payload, rest) = rest.split_at_checked(usize::try_from(length).expect("fits"))?;
    (sum(payload) == expected).then_some((payload, rest))
}

/// FNV-1a. Starts from its offset, so that zeroes are no entry.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
