//! How much room the spool's database takes, and how rows make way in it.

use brrbrr_proto::time::Stamp;
use brrbrr_proto::up::{Event, Record};
use rusqlite::{Connection, params};

use super::super::format::{Class, RecordRow};
use super::super::images::log_path;
use super::super::retention::{Change, Extent, Row, Task};
use super::super::{Gap, Limits, Result, SpoolState};
use super::{Database, Fault, Outcome, RowNumber, Transaction, first_row, read_state, record_row};

/// What the database takes on the disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Usage {
    /// Pages that hold something.
    pub(in super::super) used: u64,
    /// Pages of the file that are free.
    pub(in super::super) free: u64,
    /// The log beside it.
    pub(in super::super) log: u64,
}

impl Database {
    /// Sets how long the log grows before it is folded into the database.
    pub(in super::super) fn bound_log(&self, limits: Limits) -> Result<()> {
        let (pages, bytes) = (limits.log_pages(), limits.log_bytes());
        let set = |name, value: u64| {
            let connection = &self.connection;
            connection.pragma_update(None, name, value.cast_signed())
        };
        set("wal_autocheckpoint", pages)
            .and_then(|()| set("journal_size_limit", bytes))
            .map_err(|reason| self.error("open", reason))
    }

    /// Looks at counters only, however large the database is.
    pub(in super::super) fn usage(&self) -> Result<Usage> {
        let usage = self.page_counts();
        usage.map_err(|fault| fault.into_error("measure", &self.path))
    }

    fn page_counts(&self) -> Outcome<Usage> {
        let pages = pragma(&self.connection, "PRAGMA page_count")?;
        let free = pragma(&self.connection, "PRAGMA freelist_count")?;
        let size = pragma(&self.connection, "PRAGMA page_size")?;
        let log = std::fs::metadata(log_path(&self.path)).map_or(0, |log| log.len());
        Ok(Usage {
            used: pages.saturating_sub(free).saturating_mul(size),
            free: free.saturating_mul(size),
            log,
        })
    }

    pub(in super::super) const fn extent(&self) -> Extent {
        Extent {
            first: self.head.first.0,
            read: self.read_end.0,
            next: self.head.next.0,
        }
    }

    /// The rows of a task, the one before them included where there is one that may be touched. At
    /// least one of its own, then as many as fit.
    pub(in super::super) fn rows_of(
        &self,
        task: &Task,
        max_rows: usize,
        max_bytes: usize,
    ) -> Result<Vec<Row>> {
        let rows = self.read_rows_of(task, max_rows, max_bytes);
        rows.map_err(|fault| fault.into_error("read", &self.path))
    }

    fn read_rows_of(&self, task: &Task, max_rows: usize, max_bytes: usize) -> Outcome<Vec<Row>> {
        let sql = "SELECT seq, class, covers, sum, bytes FROM record
                   WHERE seq >= (SELECT coalesce(max(seq), 0) FROM record WHERE seq < ?1)
                     AND seq >= ?2 AND seq < ?3
                   ORDER BY seq";
        let mut statement = self.connection.prepare_cached(sql)?;
        let bounds = [task.from, task.begin, task.end].map(u64::cast_signed);
        let mut found = statement.query(bounds)?;
        let (mut rows, mut bytes): (Vec<Row>, usize) = (Vec::new(), 0);
        while let Some(row) = found.next()? {
            let row = record_row(row)?;
            bytes += row.bytes.len();
            let is_enough = rows.len() >= max_rows || bytes > max_bytes;
            if is_enough && rows.last().is_some_and(|last| last.end() > task.from) {
                break;
            }
            rows.push(own(&row)?);
        }
        Ok(rows)
    }

    /// When the oldest record that waits was made.
    pub(in super::super) fn oldest(&self) -> Result<Option<Stamp>> {
        let sql = "SELECT seq, class, covers, sum, bytes FROM record ORDER BY seq LIMIT 1";
        let stamp = super::only_row(&self.connection, sql, |row| {
            postcard::take_from_bytes::<Stamp>(row.bytes).map(|(stamp, _)| stamp)
        });
        let stamp = stamp.map_err(|fault| fault.into_error("read", &self.path))?;
        Ok(stamp.and_then(std::result::Result::ok))
    }

    pub(in super::super) fn state(&self) -> Result<SpoolState> {
        let state = read_state(&self.connection, &self.head);
        let state = state.map_err(|fault| fault.into_error("read", &self.path))?;
        Ok(SpoolState {
            salvaged: self.salvaged.clone(),
            ..state
        })
    }

    /// The rows that stand for lost or merged records, newest first.
    pub(in super::super) fn gaps(&self, limit: usize) -> Result<Vec<Gap>> {
        let gaps = self.read_gaps(limit);
        gaps.map_err(|fault| fault.into_error("read", &self.path))
    }

    fn read_gaps(&self, limit: usize) -> Outcome<Vec<Gap>> {
        let sql = "SELECT seq, class, covers, sum, bytes FROM record INDEXED BY gap
                   WHERE class = 3 ORDER BY seq DESC LIMIT ?1";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([limit])?;
        let mut gaps = Vec::new();
        while let Some(row) = rows.next()? {
            let row = record_row(row)?;
            let record: Record = decode(&row)?;
            let first = self.head.position(RowNumber(row.row));
            gaps.extend(gap(first, row.covers, record));
        }
        Ok(gaps)
    }

    /// Gives free pages back to the disk, at most this many bytes of them. The log goes first, so
    /// that there is room for what is written to it.
    pub(in super::super) fn give_back(&mut self, bytes: u64) -> Result<()> {
        self.cut_rest()?;
        self.checkpoint()?;
        if let Err(fault) = self.vacuum(bytes) {
            self.failed();
            return Err(fault.into_error("tidy up", &self.path));
        }
        self.checkpoint()
    }

    fn vacuum(&self, bytes: u64) -> Outcome<()> {
        let size = pragma(&self.connection, "PRAGMA page_size")?;
        let pages = bytes / size.max(1);
        let sql = format!("PRAGMA incremental_vacuum({pages})");
        let mut statement = self.connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        // Each step gives one page back.
        while rows.next()?.is_some() {}
        Ok(())
    }
}

impl Transaction<'_> {
    /// Puts rows in the place of others.
    pub(in super::super) fn replace(&mut self, changes: &[Change]) -> Result<()> {
        let replaced = self.replace_rows(changes);
        replaced.map_err(|fault| fault.into_error("write to", self.path))
    }

    fn replace_rows(&mut self, changes: &[Change]) -> Outcome<()> {
        let remove = "DELETE FROM record WHERE seq >= ?1 AND seq < ?2";
        let insert = "INSERT INTO record (seq, class, covers, sum, bytes)
                      VALUES (?1, ?2, ?3, ?4, ?5)";
        let mut remove = self.connection.prepare_cached(remove)?;
        let mut insert = self.connection.prepare_cached(insert)?;
        for change in changes {
            let row = RecordRow::sealed(change.row, &change.record);
            remove.execute([row.row.cast_signed(), row.end().cast_signed()])?;
            insert.execute(params![
                row.row.cast_signed(),
                row.class.cast_signed(),
                row.covers.cast_signed(),
                row.sum.cast_signed(),
                row.bytes
            ])?;
        }
        if let Some((first, end)) = first_row(self.connection)? {
            (self.head.first, self.head.first_end) = (first, end);
        }
        Ok(())
    }
}

fn pragma(connection: &Connection, sql: &str) -> Outcome<u64> {
    let value = connection.prepare_cached(sql)?;
    let mut value = value;
    Ok(value.query_row([], |row| row.get(0).map(i64::cast_unsigned))?)
}

fn own(row: &RecordRow<'_>) -> Outcome<Row> {
    let class = Class::from_number(row.class);
    Ok(Row {
        row: row.row,
        class: class.ok_or_else(|| Fault::Corrupt(format!("the class of row {}", row.row)))?,
        covers: row.covers,
        bytes: row.bytes.to_vec(),
    })
}

fn decode(row: &RecordRow<'_>) -> Outcome<Record> {
    postcard::from_bytes(row.bytes)
        .map_err(|reason| Fault::Corrupt(format!("row {} of table record: {reason}", row.row)))
}

fn gap(first: brrbrr_proto::id::Seq, covers: u64, record: Record) -> Option<Gap> {
    match record.event {
        Event::Tombstone(lost) => Some(Gap {
            first,
            covers,
            count: lost.count,
            reason: lost.loss,
            since: lost.since,
            until: lost.until,
        }),
        Event::Thinned(thinned) => Some(Gap {
            first,
            covers,
            count: thinned.count,
            reason: brrbrr_proto::up::Loss::Thinned,
            since: Some(thinned.since),
            until: Some(record.stamp),
        }),
        Event::Changed(_)
        | Event::Arrived(_)
        | Event::Alarm(_)
        | Event::Command(_)
        | Event::Telemetry(_)
        | Event::Custom(_)
        | Event::Ordered(_)
        | Event::Progressed(_) => None,
    }
}
