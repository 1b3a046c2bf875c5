//! Storing a run: its records, the holes among them, the boots they were made in, and the cursor.

use brrbrr_proto::id::{Epoch, RobotId, Seq};
use rusqlite::{Connection, OptionalExtension, params};

use super::boots::{self, StoredSegment};
use super::{Result, stored_number};
use crate::journal::clock::Segment;
use crate::journal::{Entry, JournalError, Run};
use crate::sqlite::{position, stored_position};

/// The last position that SQLite can count. No real stream comes there, but a robot may claim so.
const LAST: Seq = Seq(i64::MAX.unsigned_abs());

/// What a stream's row holds.
#[derive(Debug)]
pub(super) struct StreamRow {
    pub(super) id: i64,
    pub(super) due: Seq,
    pub(super) segment: Option<Segment>,
}

pub(super) fn stream(
    connection: &Connection,
    robot: RobotId,
    epoch: Epoch,
) -> Result<Option<StreamRow>> {
    let found = connection
        .prepare_cached("SELECT * FROM streams WHERE robot = ?1 AND epoch = ?2")?
        .query_row(params![robot.number(), epoch.to_string()], |row| {
            let boot: Option<String> = row.get("boot")?;
            Ok(StreamRow {
                id: row.get("id")?,
                due: position(row, "due")?,
                segment: boot.map(|_| boots::segment(row)).transpose()?,
            })
        })
        .optional()?;
    Ok(found)
}

pub(super) fn store(connection: &Connection, run: &Run) -> Result<Seq> {
    let known = stream(connection, run.robot, run.epoch)?;
    let due = known.as_ref().map_or(Seq::FIRST, |stream| stream.due);
    if run.first > due {
        return Err(JournalError::Gap {
            first: run.first,
            due,
        });
    }
    let fresh = fresh_entries(run, due);
    let Some(end) = fresh.last().map(|(at, covers, _)| at.plus(*covers)) else {
        return Ok(due);
    };
    let stream = if let Some(known) = known {
        known
    } else {
        connection
            .prepare_cached("INSERT INTO streams (robot, epoch, due) VALUES (?1, ?2, 1)")?
            .execute(params![run.robot.number(), run.epoch.to_string()])?;
        StreamRow {
            id: connection.last_insert_rowid(),
            due,
            segment: None,
        }
    };
    let segment = insert(connection, run, &stream, &fresh)?;
    let segment = segment.as_ref().map(StoredSegment::from);
    connection
        .prepare_cached(
            "UPDATE streams SET due = ?2, boot = ?3, boot_first = ?4, boot_last = ?5,
             boot_latest = ?6 WHERE id = ?1",
        )?
        .execute(params![
            stream.id,
            stored_position(end),
            segment.as_ref().map(|segment| &segment.boot),
            segment.as_ref().map(|segment| segment.first),
            segment.as_ref().map(|segment| segment.last),
            segment.as_ref().map(|segment| segment.latest),
        ])?;
    boots::hear(connection, run)?;
    Ok(end)
}

/// Inserts what is new, and returns the segment that the last record belongs to.
fn insert(
    connection: &Connection,
    run: &Run,
    stream: &StreamRow,
    fresh: &[(Seq, u64, &Entry)],
) -> Result<Option<Segment>> {
    let received = run.received.as_microsecond();
    let mut segment = stream.segment;
    let mut record = connection.prepare_cached(
        "INSERT INTO records (stream, seq, covers, received, record)
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for (at, covers, entry) in fresh {
        let (seq, covers) = (stored_position(*at), stored_number(*covers));
        record.execute(params![
            stream.id,
            seq,
            covers,
            received,
            entry.item.record.as_slice()
        ])?;
        if let Some(hole) = entry.hole() {
            connection
                .prepare_cached(
                    "INSERT INTO gaps (stream, seq, covers, count, kept)
                     VALUES (?1, ?2, ?3, min(?4, ?3), ?5)",
                )?
                .execute(params![
                    stream.id,
                    seq,
                    covers,
                    stored_number(hole.count),
                    hole.kept
                ])?;
        }
        for moment in entry.moments() {
            match &mut segment {
                Some(segment) if segment.boot == moment.boot => {
                    segment.extend(moment, run.received);
                }
                present => {
                    if let Some(ended) = present.replace(Segment::new(*at, moment, run.received)) {
                        boots::close(connection, stream.id, &ended)?;
                    }
                }
            }
        }
    }
    Ok(segment)
}

/// The entries that stand for positions from `due` on: where each begins, how many it covers, and
/// what it is. A tombstone that begins before `due`, because its records were shed after a part of
/// them had arrived, stands for the rest.
fn fresh_entries(run: &Run, due: Seq) -> Vec<(Seq, u64, &Entry)> {
    let mut fresh = Vec::with_capacity(run.entries.len());
    let mut at = run.first;
    for entry in &run.entries {
        let end = at.plus(entry.item.covers).min(LAST);
        let begin = at.max(due);
        if end > begin {
            fresh.push((begin, end.since(begin), entry));
        }
        at = end;
    }
    fresh
}
