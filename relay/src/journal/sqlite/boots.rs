//! What is known of the boots of boards, and which records were made in which.

use std::collections::BTreeMap;
use std::time::Duration;

use brrbrr_proto::id::{BootId, RobotId};
use brrbrr_proto::time::Uptime;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::write::StreamRow;
use super::{Result, stored_number};
use crate::journal::Run;
use crate::journal::clock::{BootClock, Segment, Timeline};
use crate::sqlite::{parsed, position, stored_position};

/// A segment as its columns hold it.
#[derive(Debug)]
pub(super) struct StoredSegment {
    pub(super) boot: String,
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) latest: i64,
}

impl From<&Segment> for StoredSegment {
    fn from(segment: &Segment) -> Self {
        Self {
            boot: segment.boot.to_string(),
            first: stored_position(segment.first),
            last: stored_uptime(segment.last),
            latest: segment.latest,
        }
    }
}

/// Reads the columns of a segment.
pub(super) fn segment(row: &Row<'_>) -> rusqlite::Result<Segment> {
    Ok(Segment {
        first: position(row, "boot_first")?,
        boot: parsed(row, "boot")?,
        last: uptime(row, "boot_last")?,
        latest: row.get("boot_latest")?,
    })
}

/// Writes a segment that is over.
pub(super) fn close(connection: &Connection, stream: i64, segment: &Segment) -> Result<()> {
    let segment = StoredSegment::from(segment);
    connection
        .prepare_cached(
            "INSERT INTO segments (stream, boot, boot_first, boot_last, boot_latest)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            stream,
            segment.boot,
            segment.first,
            segment.last,
            segment.latest
        ])?;
    Ok(())
}

/// Takes over what a run's session shows of its boot, where that is notably more than is known.
pub(super) fn hear(connection: &Connection, run: &Run) -> Result<()> {
    let boot = run.clock.boot.to_string();
    let robot = run.robot.number();
    let known = connection
        .prepare_cached("SELECT * FROM boots WHERE robot = ?1 AND boot = ?2")?
        .query_row(params![robot, boot], clock)
        .optional()?;
    let heard = BootClock::heard(&run.clock, run.received);
    if let Some(better) = BootClock::narrowed(known, heard) {
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO boots (robot, boot, earliest, latest, uptime)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                robot,
                boot,
                better.earliest,
                better.latest,
                stored_uptime(better.at)
            ])?;
    }
    Ok(())
}

/// What is known of the boots in a stream.
pub(super) fn timeline(
    connection: &Connection,
    robot: RobotId,
    stream: &StreamRow,
) -> Result<Timeline> {
    let mut ask =
        connection.prepare_cached("SELECT * FROM segments WHERE stream = ?1 ORDER BY number")?;
    let mut segments: Vec<Segment> = ask
        .query_map([stream.id], segment)?
        .collect::<rusqlite::Result<_>>()?;
    segments.extend(stream.segment);
    let mut ask = connection.prepare_cached("SELECT * FROM boots WHERE robot = ?1")?;
    let known: BTreeMap<BootId, BootClock> = ask
        .query_map([robot.number()], |row| {
            Ok((parsed(row, "boot")?, clock(row)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(Timeline::new(&segments, known))
}

fn clock(row: &Row<'_>) -> rusqlite::Result<BootClock> {
    Ok(BootClock {
        earliest: row.get("earliest")?,
        latest: row.get("latest")?,
        at: uptime(row, "uptime")?,
    })
}

fn stored_uptime(uptime: Uptime) -> i64 {
    stored_number(u64::try_from(uptime.since_boot().as_micros()).unwrap_or(u64::MAX))
}

fn uptime(row: &Row<'_>, column: &str) -> rusqlite::Result<Uptime> {
    let micros: i64 = row.get(column)?;
    Ok(Uptime::new(Duration::from_micros(micros.unsigned_abs())))
}
