//! Pages that SQLite itself wrote, and pages that nobody would write.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rusqlite::{Connection, params};

use super::*;

/// A file that SQLite made by adding and deleting rows of these lengths, and the rows that are left.
fn file(steps: &[(i64, usize, bool)]) -> (Vec<u8>, BTreeMap<u64, usize>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("any.db");
    let database = Connection::open(&path).unwrap();
    database
        .execute_batch(
            "PRAGMA page_size = 1024; PRAGMA auto_vacuum = INCREMENTAL;
             PRAGMA synchronous = OFF; BEGIN;
             CREATE TABLE t (n INTEGER PRIMARY KEY, five INTEGER, text TEXT, bytes BLOB)",
        )
        .unwrap();
    let mut rows = BTreeMap::new();
    for (number, length, keeps) in steps {
        if *keeps {
            let sql = "INSERT OR REPLACE INTO t VALUES (?1, ?2, 'text', ?3)";
            let bytes = vec![7_u8; *length];
            database
                .execute(sql, params![number, -(number % 100), bytes])
                .unwrap();
            rows.insert(number.cast_unsigned(), *length);
        } else {
            database
                .execute("DELETE FROM t WHERE n = ?1", [number])
                .unwrap();
            rows.remove(&number.cast_unsigned());
        }
    }
    database.execute_batch("COMMIT").unwrap();
    drop(database);
    (std::fs::read(path).unwrap(), rows)
}

fn page(file: &[u8], number: PageNumber) -> Option<Vec<u8>> {
    let begin = (number.0 as usize).checked_sub(1)? * PAGE_BYTES;
    Some(file.get(begin..begin + PAGE_BYTES)?.to_vec())
}

fn numbers(file: &[u8]) -> impl Iterator<Item = PageNumber> {
    (1..=u32::try_from(file.len() / PAGE_BYTES).unwrap()).map(PageNumber)
}

/// Row numbers and the lengths of their blobs, from all pages.
fn rows(file: &[u8]) -> BTreeMap<u64, usize> {
    let mut rows = BTreeMap::new();
    for number in numbers(file) {
        let bytes = page(file, number).unwrap();
        for cell in cells(&bytes, number) {
            let Some(content) = cell.content(|number| page(file, number)) else {
                continue;
            };
            if let Some(columns) = columns(&content)
                && let [Value::Null, Value::Integer(five), text, Value::Bytes(bytes)] =
                    columns.as_slice()
                && *text == Value::Bytes(b"text")
                && *five == -(cell.row.cast_signed() % 100)
            {
                rows.insert(cell.row, bytes.len());
            }
        }
    }
    rows
}

fn steps() -> impl Strategy<Value = Vec<(i64, usize, bool)>> {
    let length = prop_oneof![6 => 0..300_usize, 2 => 900..1200_usize, 1 => 4000..70_000_usize];
    let number = prop_oneof![8 => 1..300_i64, 1 => (i64::MAX - 50)..i64::MAX];
    proptest::collection::vec((number, length, prop::bool::weighted(0.7)), 1..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_row_that_sqlite_wrote_is_found_and_its_leaves_are_sound(steps in steps()) {
        let (file, expected) = file(&steps);
        let found = rows(&file);
        // Pages that were freed may hold older rows.
        for (row, length) in &expected {
            prop_assert_eq!(found.get(row).copied(), Some(*length), "row {}", row);
        }
        for number in numbers(&file) {
            let bytes = page(&file, number).unwrap();
            if !cells(&bytes, number).is_empty() {
                prop_assert!(is_sound_leaf(&bytes, number), "{:?}", number);
            }
        }
    }

    #[test]
    fn no_flipped_bit_makes_it_panic(
        steps in steps(), flips in proptest::collection::vec(any::<(u32, u8)>(), 1..40),
    ) {
        let (mut file, _) = file(&steps);
        for (at, bit) in flips {
            let at = at as usize % file.len();
            file[at] ^= 1 << (bit % 8);
        }
        rows(&file);
        for number in numbers(&file) {
            let bytes = page(&file, number).unwrap();
            is_sound_leaf(&bytes, number);
            last_child(&bytes, number);
        }
    }

    #[test]
    fn no_random_page_makes_it_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), PAGE_BYTES), leaf in any::<bool>(),
    ) {
        bytes[0] = if leaf { TABLE_LEAF } else { TABLE_INNER };
        for cell in cells(&bytes, PageNumber(2)) {
            let content = cell.content(|_| Some(bytes.clone()));
            if let Some(content) = content {
                columns(&content);
            }
        }
        is_sound_leaf(&bytes, PageNumber(2));
        last_child(&bytes, PageNumber(2));
        columns(&bytes);
    }
}

#[test]
fn a_leaf_that_lost_a_row_to_its_count_is_not_sound() {
    let steps: Vec<_> = (1..20).map(|number| (number, 30, true)).collect();
    let (file, _) = file(&steps);
    let leaf = numbers(&file)
        .filter(|number| number.0 > 1)
        .find(|number| cells(&page(&file, *number).unwrap(), *number).len() == 19);
    let number = leaf.unwrap();
    let mut bytes = page(&file, number).unwrap();
    assert!(is_sound_leaf(&bytes, number));
    bytes[4] -= 1;
    assert_eq!(cells(&bytes, number).len(), 18);
    assert!(!is_sound_leaf(&bytes, number));
}

#[test]
fn a_circle_of_pages_ends() {
    let cell = Cell {
        row: 1,
        length: 100_000,
        local: &[],
        overflow: Some(PageNumber(2)),
    };
    let mut circle = vec![1; PAGE_BYTES];
    circle[..4].copy_from_slice(&2_u32.to_be_bytes());
    let content = cell.content(|_| Some(circle.clone()));
    assert_eq!(content.map(|content| content.len()), Some(100_000));
}
