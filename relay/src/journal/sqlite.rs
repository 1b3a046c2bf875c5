//! The journal in one SQLite file.
//!
//! Promises what `sqlite` promises: when `store` returns, the run and the cursor are on disk, in one
//! transaction, which runs of other robots that came meanwhile share.

mod boots;
mod write;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use brrbrr_proto::id::{CommandId, Epoch, RobotId, Seq};
use brrbrr_proto::up::Item;
use rusqlite::types::Type;
use rusqlite::{OptionalExtension, Row, params};

use super::clock::Timeline;
use super::{Journal, JournalError, Missing, Result, Run, Stored, TripEntry, TripStep};
use crate::catalog::stored_name;
use crate::sqlite::{
    Access, Fault, OpenError, Schema, StoreThread, open, open_reader, parsed, position,
    stored_limit, stored_position, time, unreadable,
};

const SCHEMA: Schema = Schema {
    name: "journal",
    application_id: 0x6272_6a01,
    migrations: &[include_str!("sqlite/1.sql")],
};

/// The journal in one SQLite file. See the module's documentation.
#[derive(Debug)]
pub struct SqliteJournal {
    // Closed in this order: the writer last, since only it can clear the write-ahead log.
    reader: StoreThread,
    writer: StoreThread,
}

impl SqliteJournal {
    /// Opens the file, creates it where there is none, and brings its layout up to date. Blocks.
    ///
    /// # Errors
    /// Says what is wrong with the file.
    pub fn open(path: &Path) -> std::result::Result<Self, OpenError> {
        let writer = open(path, &SCHEMA)?;
        let reader = open_reader(path)?;
        Ok(Self {
            reader: StoreThread::spawn("journal-reads", path, reader, Access::Read)?,
            writer: StoreThread::spawn("journal-writes", path, writer, Access::Write)?,
        })
    }
}

impl From<Fault> for JournalError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Away(why) => Self::Away(why),
            Fault::Corrupt(why) => Self::Corrupt(why),
        }
    }
}

impl From<rusqlite::Error> for JournalError {
    fn from(error: rusqlite::Error) -> Self {
        Fault::from(&error).into()
    }
}

#[async_trait]
impl Journal for SqliteJournal {
    async fn store(&self, run: Arc<Run>) -> Result<Seq> {
        self.writer
            .call(move |connection| write::store(connection, &run))
            .await
    }

    async fn due(&self, robot: RobotId, epoch: Epoch) -> Result<Seq> {
        self.reader
            .call(move |connection| {
                let stream = write::stream(connection, robot, epoch)?;
                Ok(stream.map_or(Seq::FIRST, |stream| stream.due))
            })
            .await
    }

    async fn records(
        &self,
        robot: RobotId,
        epoch: Epoch,
        from: Seq,
        limit: usize,
    ) -> Result<Vec<Stored>> {
        self.reader
            .call(move |connection| {
                let Some(stream) = write::stream(connection, robot, epoch)? else {
                    return Ok(Vec::new());
                };
                // The row before `from` may be a tombstone that covers it.
                let mut ask = connection.prepare_cached(
                    "SELECT seq, covers, received, record FROM records
                     WHERE stream = ?1 AND seq >= coalesce(
                         (SELECT max(seq) FROM records WHERE stream = ?1 AND seq <= ?2), ?2)
                     AND seq + covers > ?2
                     ORDER BY seq LIMIT ?3",
                )?;
                let rows = ask.query_map(
                    params![stream.id, stored_position(from), stored_limit(limit)],
                    stored,
                )?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    async fn holes(
        &self,
        robot: RobotId,
        epoch: Epoch,
        from: Seq,
        to: Seq,
        limit: usize,
    ) -> Result<Vec<Stored>> {
        self.reader
            .call(move |connection| {
                let Some(stream) = write::stream(connection, robot, epoch)? else {
                    return Ok(Vec::new());
                };
                let mut ask = connection.prepare_cached(
                    "SELECT records.seq, records.covers, received, record
                     FROM gaps JOIN records USING (stream, seq)
                     WHERE stream = ?1 AND gaps.seq >= ?2 AND gaps.seq < ?3
                     ORDER BY gaps.seq DESC LIMIT ?4",
                )?;
                let (from, to) = (stored_position(from), stored_position(to));
                let rows =
                    ask.query_map(params![stream.id, from, to, stored_limit(limit)], stored)?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    async fn missing(&self, robot: RobotId, epoch: Epoch, from: Seq, to: Seq) -> Result<Missing> {
        self.reader
            .call(move |connection| {
                let Some(stream) = write::stream(connection, robot, epoch)? else {
                    return Ok(Missing::default());
                };
                let mut ask = connection.prepare_cached(
                    "SELECT kept, sum(covers) AS covers, sum(count) AS count,
                     count(*) AS rows, sum(count = 0) AS unknown
                     FROM gaps WHERE stream = ?1 AND seq >= ?2 AND seq < ?3 GROUP BY kept",
                )?;
                let (from, to) = (stored_position(from), stored_position(to));
                let mut rows = ask.query(params![stream.id, from, to])?;
                let mut missing = Missing::default();
                while let Some(row) = rows.next()? {
                    add_missing(&mut missing, row)?;
                }
                Ok(missing)
            })
            .await
    }

    async fn timeline(&self, robot: RobotId, epoch: Epoch) -> Result<Timeline> {
        self.reader
            .call(
                move |connection| match write::stream(connection, robot, epoch)? {
                    Some(stream) => boots::timeline(connection, robot, &stream),
                    None => Ok(Timeline::default()),
                },
            )
            .await
    }

    async fn epochs(&self, robot: RobotId) -> Result<Vec<Epoch>> {
        self.reader
            .call(move |connection| {
                let mut ask = connection
                    .prepare_cached("SELECT epoch FROM streams WHERE robot = ?1 ORDER BY id")?;
                let rows = ask.query_map([robot.number()], |row| parsed(row, "epoch"))?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    async fn log_trip(&self, entry: TripEntry) -> Result<()> {
        self.writer
            .call(move |connection| {
                connection
                    .prepare_cached(
                        "INSERT INTO trips
                         (command, step, robot_name, destination, ordered_at, at)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
                    )?
                    .execute(params![
                        entry.command.to_string(),
                        step_name(entry.status),
                        stored_name(&entry.robot_name),
                        entry.destination,
                        entry.ordered_at.as_microsecond(),
                        entry.at.as_microsecond()
                    ])?;
                Ok(())
            })
            .await
    }

    async fn trips(&self, robot_name: Option<&str>, limit: usize) -> Result<Vec<TripEntry>> {
        let robot_name = robot_name.map(stored_name);
        self.reader
            .call(move |connection| {
                let limit = stored_limit(limit);
                let trips = if let Some(name) = robot_name {
                    connection
                        .prepare_cached(
                            "SELECT * FROM trips WHERE robot_name = ?1
                             ORDER BY number DESC LIMIT ?2",
                        )?
                        .query_map(params![name, limit], trip)?
                        .collect::<rusqlite::Result<_>>()?
                } else {
                    connection
                        .prepare_cached("SELECT * FROM trips ORDER BY number DESC LIMIT ?1")?
                        .query_map([limit], trip)?
                        .collect::<rusqlite::Result<_>>()?
                };
                Ok(trips)
            })
            .await
    }

    async fn departure(&self, command: CommandId) -> Result<Option<TripEntry>> {
        self.reader
            .call(move |connection| {
                let departed = step_name(TripStep::Departed);
                let found = connection
                    .prepare_cached("SELECT * FROM trips WHERE command = ?1 AND step = ?2")?
                    .query_row(params![command.to_string(), departed], trip)
                    .optional()?;
                Ok(found)
            })
            .await
    }
}

fn stored(row: &Row<'_>) -> rusqlite::Result<Stored> {
    Ok(Stored {
        seq: position(row, "seq")?,
        item: Item {
            covers: position(row, "covers")?.0,
            record: row.get("record")?,
        },
        received: time(row, "received")?,
    })
}

/// Takes over the sums of tombstones or those of thinned samples. A robot's claims may be past what
/// can be counted, but not their sum: the rows of a stream do not overlap.
fn add_missing(missing: &mut Missing, row: &Row<'_>) -> rusqlite::Result<()> {
    let number = |column| row.get::<_, i64>(column).map(i64::unsigned_abs);
    if row.get("kept")? {
        missing.thinned = number("count")?;
        missing.thinned_positions = number("covers")?;
        missing.kept = number("rows")?;
    } else {
        missing.shed = number("count")?;
        missing.shed_positions = number("covers")?;
        missing.unknown = number("unknown")?;
    }
    Ok(())
}

/// A number as SQLite can hold it. Saturates, which no real robot can reach.
fn stored_number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

const fn step_name(step: TripStep) -> &'static str {
    match step {
        TripStep::Departed => "출발",
        TripStep::Arrived => "도착",
        TripStep::Ended => "종료",
    }
}

/// A text is not the name of a trip's step.
#[derive(Debug, thiserror::Error)]
#[error("not a step of a trip: {0:?}")]
struct NotAStep(String);

fn trip(row: &Row<'_>) -> rusqlite::Result<TripEntry> {
    let step: String = row.get("step")?;
    let steps = [TripStep::Departed, TripStep::Arrived, TripStep::Ended];
    let status = steps.into_iter().find(|known| step_name(*known) == step);
    let column = row.as_ref().column_index("step")?;
    Ok(TripEntry {
        command: parsed(row, "command")?,
        robot_name: row.get("robot_name")?,
        destination: row.get("destination")?,
        status: status.ok_or_else(|| unreadable(column, Type::Text, NotAStep(step)))?,
        ordered_at: time(row, "ordered_at")?,
        at: time(row, "at")?,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::journal::conformance;

    fn fresh() -> (tempfile::TempDir, SqliteJournal) {
        let folder = tempfile::tempdir().unwrap();
        let journal = SqliteJournal::open(&folder.path().join("journal")).unwrap();
        (folder, journal)
    }

    #[tokio::test]
    async fn it_does_what_every_journal_does() {
        let (_folder, journal) = fresh();
        conformance::conforms(&journal).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn robots_that_store_together_do_not_disturb_each_other() {
        let (_folder, journal) = fresh();
        conformance::stores_concurrently(Arc::new(journal)).await;
    }

    #[tokio::test]
    async fn everything_is_there_after_it_was_opened_again() {
        let (folder, journal) = fresh();
        conformance::prepare(&journal).await;
        drop(journal);
        let journal = SqliteJournal::open(&folder.path().join("journal")).unwrap();
        conformance::remembers(&journal).await;
    }
}
