//! What is known of the boots of boards, and which records were made in which.
//!
//! Everything is kept, but only the newest of it is looked at, since a robot that claims another boot
//! with every record must not slow down the relay. Older records get wider bounds for it.

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

/// The newest segments of a stream that count, and the newest boots of a robot: those of more than a
/// year at ten boots a day. A record of before is taken for one of a boot of which nothing is known,
/// so its time has all the uncertainty that this leaves.
const NEWEST: u32 = 4_096;

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

/// What is known of the boots in a stream, of the newest of them.
pub(super) fn timeline(
    connection: &Connection,
    robot: RobotId,
    stream: &StreamRow,
) -> Result<Timeline> {
    let mut ask = connection.prepare_cached(
        "SELECT * FROM (
             SELECT * FROM segments WHERE stream = ?1 ORDER BY number DESC LIMIT ?2
         ) ORDER BY number",
    )?;
    let mut segments: Vec<Segment> = ask
        .query_map(params![stream.id, NEWEST], segment)?
        .collect::<rusqlite::Result<_>>()?;
    segments.extend(stream.segment);
    let mut ask = connection
        .prepare_cached("SELECT * FROM boots WHERE robot = ?1 ORDER BY latest DESC LIMIT ?2")?;
    let known: BTreeMap<BootId, BootClock> = ask
        .query_map(params![robot.number(), NEWEST], |row| {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use brrbrr_proto::id::{Epoch, Seq};
    use brrbrr_proto::link::relay::BoardClock;
    use brrbrr_proto::live::Status;
    use brrbrr_proto::time::{Stamp, WallClock};
    use brrbrr_proto::up::{Event, Item, Record};
    use jiff::Timestamp;

    use super::*;
    use crate::journal::sqlite::SqliteJournal;
    use crate::journal::{Entry, Journal};

    fn entry(boot: u64) -> Entry {
        let stamp = Stamp {
            boot: BootId(boot),
            uptime: Uptime::default(),
            wall: WallClock(0),
        };
        let event = Event::Telemetry(Status::default());
        let record = Record { stamp, event }.encode().unwrap();
        Entry::read(Item { covers: 1, record })
    }

    #[tokio::test]
    async fn a_robot_that_claims_another_boot_with_every_record_has_a_bounded_timeline() {
        let folder = tempfile::tempdir().unwrap();
        let journal = SqliteJournal::open(&folder.path().join("journal")).unwrap();
        let robot = RobotId::new(1).unwrap();
        let count = u64::from(NEWEST) + 100;
        let run = Run {
            robot,
            epoch: Epoch(1),
            first: Seq::FIRST,
            entries: (0..count).map(|number| entry(number % 2)).collect(),
            received: Timestamp::UNIX_EPOCH,
            clock: BoardClock {
                boot: BootId(1),
                earliest: 0,
                latest: 0,
            },
        };
        journal.store(Arc::new(run)).await.unwrap();
        let timeline = journal.timeline(robot, Epoch(1)).await.unwrap();
        let newest = usize::try_from(NEWEST).unwrap() + 1;
        let segments: Vec<Seq> = timeline.segments().map(|segment| segment.first).collect();
        assert_eq!(segments.len(), newest);
        assert!(segments.is_sorted());
        assert_eq!(segments.last(), Some(&Seq(count)));
    }
}
