//! Logs that SQLite itself wrote, whole and torn and rotten.

use std::path::Path;

use proptest::prelude::*;
use rusqlite::Connection;

use super::*;

/// The log of a database with this many commits, each of a few frames, while it is open.
fn log(commits: u32) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("any.db");
    let database = Connection::open(&path).unwrap();
    database.pragma_update(None, "page_size", 1024).unwrap();
    for (pragma, value) in [("locking_mode", "EXCLUSIVE"), ("journal_mode", "WAL")] {
        database
            .pragma_update_and_check(None, pragma, value, |_| Ok(()))
            .unwrap();
    }
    database
        .execute_batch("CREATE TABLE t (bytes BLOB)")
        .unwrap();
    for _ in 1..commits {
        let sql = "INSERT INTO t VALUES (randomblob(9000))";
        database.execute(sql, []).unwrap();
    }
    std::fs::read(Path::new(&format!("{}-wal", path.display()))).unwrap()
}

fn read(bytes: &[u8]) -> Log {
    Log::read(&mut &*bytes).unwrap()
}

/// Where each commit ends, in frames.
fn commits(log: &Log) -> Vec<usize> {
    let frames = log.frames.iter().enumerate();
    frames
        .filter(|(_, frame)| frame.commits)
        .map(|(at, _)| at + 1)
        .collect()
}

fn at(frame: usize) -> usize {
    HEADER_BYTES + frame * FRAME_BYTES
}

#[test]
fn a_whole_log_is_read_to_its_end() {
    let bytes = log(5);
    let log = read(&bytes);
    assert_eq!(commits(&log).len(), 5);
    assert_eq!(log.frames.len(), (bytes.len() - HEADER_BYTES) / FRAME_BYTES);
    assert!(!log.is_damaged);
    assert_eq!(log.cut, None);
    assert_eq!(read(&[]), Log::default());
}

#[test]
fn a_torn_last_transaction_is_cut_and_no_damage() {
    let bytes = log(5);
    let ends = commits(&read(&bytes));
    for frame in ends[3]..ends[4] {
        let mut torn = bytes.clone();
        torn[at(frame) + 100] ^= 1;
        let log = read(&torn);
        assert!(!log.is_damaged);
        assert_eq!(log.cut, Some(at(ends[3]) as u64));
        assert_eq!(log.frames.len(), ends[3]);
    }
    let short = read(&bytes[..at(ends[3]) + 500]);
    assert_eq!((short.is_damaged, short.frames.len()), (false, ends[3]));
}

#[test]
fn a_frame_that_rotted_before_acknowledged_commits_is_damage_and_takes_only_itself_away() {
    let bytes = log(5);
    let whole = read(&bytes);
    let ends = commits(&whole);
    // In the head of a frame, where it names its page, and in its page.
    for (frame, offset) in [(0, 30), (ends[0], 20), (ends[1], 100), (ends[3] - 1, 1000)] {
        let mut rotten = bytes.clone();
        rotten[at(frame) + offset] ^= 4;
        let log = read(&rotten);
        assert!(log.is_damaged, "frame {frame}");
        assert_eq!(log.frames.len(), whole.frames.len(), "frame {frame}");
    }
}

#[test]
fn a_header_that_rotted_is_damage() {
    let bytes = log(5);
    for offset in [0, 9, 17, 25] {
        let mut rotten = bytes.clone();
        rotten[offset] ^= 4;
        let log = read(&rotten);
        assert!(log.is_damaged, "byte {offset}");
        assert_eq!(commits(&log).len(), 5, "byte {offset}");
    }
    // One that was never written is none: nothing was synced behind it.
    assert!(!read(&[0; 4 * FRAME_BYTES]).is_damaged);
}

#[test]
fn frames_of_an_earlier_generation_are_not_part_of_the_log() {
    let (old, mut new) = (log(9), log(2));
    let end = new.len();
    new.extend_from_slice(&old[end..]);
    let log = read(&new);
    assert_eq!(commits(&log).len(), 2);
    assert!(!log.is_damaged);
    assert_eq!(log.cut, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_changed_it_is_read(
        flips in proptest::collection::vec(any::<(u32, u8)>(), 0..20), end in any::<u32>(),
    ) {
        let mut bytes = log(4);
        bytes.truncate(end as usize % (bytes.len() + 1));
        for (at, bit) in flips {
            if !bytes.is_empty() {
                let at = at as usize % bytes.len();
                bytes[at] ^= 1 << (bit % 8);
            }
        }
        let log = read(&bytes);
        prop_assert!(log.frames.len() <= bytes.len() / FRAME_BYTES);
        prop_assert!(log.cut.is_none_or(|cut| cut <= bytes.len() as u64));
    }
}
