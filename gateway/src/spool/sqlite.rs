//! The spool's database: SQLite with a write-ahead log, synced at every commit.
//!
//! ```text
//! record(seq INTEGER PRIMARY KEY, class, covers, sum, bytes)  what waits, by row number
//! stream(epoch, shift, released, …, sum)                      one row: the state of both streams
//! identity(epoch, shift, sum)                                 one row: a copy for a salvage
//! command(place, id, motion, ended, key, content, step, sum)  the commands, ended ones up to a number
//! source(place, name)                                         names of messages that were written
//! ```
//! A row number is the position plus `shift`: a new epoch moves the shift and touches no row.
//! Deleting what was released is part of the transaction that records how far it was. Appending
//! touches `record` alone. Every row that is read is compared with its sum.

mod commands;
mod disk;
mod rebuild;
mod room;
mod transaction;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use brrbrr_proto::id::{Cursor, Epoch, Seq};
use brrbrr_proto::live::Status;
use brrbrr_proto::up::Item;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, Row, params};

use self::disk::Places;
use super::format::{Identity, RecordRow, Stream};
use super::{ReadBack, Result, Salvaged, SourceId, SpoolError, SpoolState};

pub(super) use self::disk::{Misplaced, cut_log};
pub(super) use self::rebuild::Rebuild;
pub(super) use self::room::Usage;
pub(super) use self::transaction::Transaction;

/// The format this version writes and reads. No release wrote an older one.
pub(super) const FORMAT: i64 = 3;

/// No version will ever write this: a higher one is rot.
const FORMATS_MAX: i64 = 10_000;

const SCHEMA: &str = "
    CREATE TABLE record (
        seq INTEGER PRIMARY KEY,
        class INTEGER NOT NULL,
        covers INTEGER NOT NULL,
        sum INTEGER NOT NULL,
        bytes BLOB NOT NULL
    );
    CREATE INDEX gap ON record (seq) WHERE class = 3;
    CREATE TABLE stream (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        epoch INTEGER NOT NULL,
        shift INTEGER NOT NULL,
        released INTEGER NOT NULL,
        down_epoch INTEGER,
        down_next INTEGER,
        status BLOB,
        sum INTEGER NOT NULL
    );
    CREATE TABLE identity (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        epoch INTEGER NOT NULL,
        shift INTEGER NOT NULL,
        sum INTEGER NOT NULL
    );
    CREATE TABLE command (
        place INTEGER PRIMARY KEY,
        id BLOB NOT NULL UNIQUE,
        motion INTEGER NOT NULL,
        ended INTEGER NOT NULL,
        key BLOB UNIQUE,
        content BLOB NOT NULL,
        step BLOB NOT NULL,
        sum INTEGER NOT NULL
    );
    CREATE TABLE source (
        place INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE
    );
";

/// How long another process may hold the database before it counts as in use: one that is just
/// ending lets go within this.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Statements kept ready.
const STATEMENTS: usize = 32;

/// A row number in `record`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct RowNumber(u64);

impl RowNumber {
    const fn sql(self) -> i64 {
        self.0.cast_signed()
    }

    const fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }
}

/// Where the streams stand. A copy of what the database holds, so that no call must look it up.
#[derive(Debug, Clone)]
struct Head {
    stream: Stream,
    /// The lowest row present, or `next`.
    first: RowNumber,
    /// The row after all that the lowest row stands for, or `next`.
    first_end: RowNumber,
    /// The row of the next record.
    next: RowNumber,
}

impl Head {
    const fn row(&self, position: Seq) -> RowNumber {
        RowNumber(position.0.saturating_add(self.stream.shift))
    }

    const fn position(&self, row: RowNumber) -> Seq {
        Seq(row.0.saturating_sub(self.stream.shift))
    }

    /// Whether a row ends at or before this one, so that it can be let go of.
    fn holds_before(&self, next: RowNumber) -> bool {
        self.first < self.next && self.first_end <= next
    }
}

/// Why something could not be done, before it is known what it was.
#[derive(Debug)]
enum Fault {
    Sqlite(rusqlite::Error),
    Encode(postcard::Error),
    /// What cannot be what was written.
    Corrupt(String),
}

/// The answer of what works on the tables.
type Outcome<T> = std::result::Result<T, Fault>;

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<postcard::Error> for Fault {
    fn from(error: postcard::Error) -> Self {
        Self::Encode(error)
    }
}

impl Fault {
    /// What it is to callers, given what was tried.
    fn into_error(self, doing: &'static str, path: &Path) -> SpoolError {
        match self {
            Self::Sqlite(reason) => database_error(doing, path, reason),
            Self::Encode(error) => SpoolError::Encode(error),
            Self::Corrupt(what) => {
                let path = path.to_owned();
                SpoolError::Corrupt { path, what }
            }
        }
    }
}

/// The open database, owned by the spool's thread.
#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
    path: PathBuf,
    head: Head,
    /// The row after the highest that was read for the link, and not released since.
    read_end: RowNumber,
    commits: u64,
    places: Places,
    /// How many frames of the log are good, where a failed transaction may have left more.
    rest: Option<u64>,
    salvaged: Option<Salvaged>,
}

/// Opens a database that is there.
pub(super) fn open_settled(path: &Path) -> Result<(Database, SpoolState)> {
    let fault = |doing| move |reason| database_error(doing, path, reason);
    let connection = Connection::open(path).map_err(fault("open"))?;
    // What turns out to be damaged stays as it is, its log included.
    let leave = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    connection
        .set_db_config(leave, true)
        .map_err(fault("open"))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection
        .busy_timeout(LOCK_PATIENCE)
        .map_err(fault("open"))?;
    for (pragma, value) in [("locking_mode", "EXCLUSIVE"), ("journal_mode", "WAL")] {
        connection
            .pragma_update_and_check(None, pragma, value, |_| Ok(()))
            .map_err(fault("open"))?;
    }
    connection
        .pragma_update(None, "synchronous", "FULL")
        .map_err(fault("open"))?;
    let format: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(fault("open"))?;
    match format {
        FORMAT => {}
        other if !(FORMAT..FORMATS_MAX).contains(&other) => {
            let what = format!("its format is {other}, which no release wrote");
            let path = path.to_owned();
            return Err(SpoolError::Corrupt { path, what });
        }
        found => {
            let (path, known) = (path.to_owned(), FORMAT);
            return Err(SpoolError::Newer { path, found, known });
        }
    }
    let head = read_head(&connection).map_err(|fault| fault.into_error("open", path))?;
    let database = Database {
        connection,
        path: path.to_owned(),
        read_end: head.first,
        head,
        commits: 0,
        places: Places::of(path),
        rest: None,
        salvaged: None,
    };
    let state = read_state(&database.connection, &database.head);
    let state = state.map_err(|fault| fault.into_error("read", path))?;
    database
        .connection
        .set_db_config(leave, false)
        .map_err(fault("open"))?;
    Ok((database, state))
}

fn write_stream(connection: &Connection, stream: &Stream) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO stream
               (only, epoch, shift, released, down_epoch, down_next, status, sum)
               VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    connection.prepare_cached(sql)?.execute(params![
        stream.epoch.0.cast_signed(),
        stream.shift.cast_signed(),
        stream.released.cast_signed(),
        stream.down.map(|down| down.epoch.0.cast_signed()),
        stream.down.map(|down| down.next.0.cast_signed()),
        stream.status,
        stream.sum().cast_signed(),
    ])?;
    Ok(())
}

fn write_identity(connection: &Connection, identity: Identity) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO identity (only, epoch, shift, sum) VALUES (1, ?1, ?2, ?3)";
    let mut statement = connection.prepare_cached(sql)?;
    statement.execute([
        identity.epoch.0.cast_signed(),
        identity.shift.cast_signed(),
        identity.sum().cast_signed(),
    ])?;
    Ok(())
}

fn check_identity(connection: &Connection, expected: Identity) -> Outcome<()> {
    let sql = "SELECT epoch, shift, sum FROM identity";
    let (found, sum) = connection.query_row(sql, [], |row| {
        let epoch = Epoch(unsigned(row, 0)?);
        let shift = unsigned(row, 1)?;
        Ok((Identity { epoch, shift }, unsigned(row, 2)?))
    })?;
    if found == expected && sum == expected.sum() {
        Ok(())
    } else {
        let what = "the row of table identity is not as it was written".to_owned();
        Err(Fault::Corrupt(what))
    }
}

fn read_stream(connection: &Connection) -> Outcome<Stream> {
    let sql = "SELECT epoch, shift, released, down_epoch, down_next, status, sum FROM stream";
    let (stream, sum) = connection.query_row(sql, [], |row| {
        let down = row.get::<_, Option<i64>>(3)?.zip(row.get(4)?);
        let stream = Stream {
            epoch: Epoch(unsigned(row, 0)?),
            shift: unsigned(row, 1)?,
            released: unsigned(row, 2)?,
            down: down.map(|(epoch, next): (i64, i64)| Cursor {
                epoch: Epoch(epoch.cast_unsigned()),
                next: Seq(next.cast_unsigned()),
            }),
            status: row.get(5)?,
        };
        Ok((stream, unsigned(row, 6)?))
    })?;
    if stream.sum() == sum {
        Ok(stream)
    } else {
        Err(Fault::Corrupt(
            "the row of table stream is not as it was written".to_owned(),
        ))
    }
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

fn read_head(connection: &Connection) -> Outcome<Head> {
    let stream = read_stream(connection)?;
    check_identity(connection, stream.identity())?;
    // Both ends of the primary key: no row between them is looked at.
    let first = first_row(connection)?;
    let sql = "SELECT seq, class, covers, sum, bytes FROM record ORDER BY seq DESC LIMIT 1";
    let after_last = only_row(connection, sql, |row| RowNumber(row.end()))?;
    let released = RowNumber(stream.released);
    let next = after_last.unwrap_or(released).max(released);
    let (first, first_end) = first.unwrap_or((next, next));
    if first != released {
        let what = format!("row {} of table record is missing", released.0);
        return Err(Fault::Corrupt(what));
    }
    Ok(Head {
        stream,
        first,
        first_end,
        next,
    })
}

/// The lowest row, and the row after all that it stands for.
fn first_row(connection: &Connection) -> Outcome<Option<(RowNumber, RowNumber)>> {
    let sql = "SELECT seq, class, covers, sum, bytes FROM record ORDER BY seq LIMIT 1";
    only_row(connection, sql, |row| {
        (RowNumber(row.row), RowNumber(row.end()))
    })
}

/// The row of `record` that a query finds, if there is one, compared with its sum.
fn only_row<T>(
    connection: &Connection,
    sql: &str,
    take: impl FnOnce(RecordRow<'_>) -> T,
) -> Outcome<Option<T>> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    Ok(Some(take(record_row(row)?)))
}

/// The row that a query with the columns of `record` has come to, compared with its sum.
fn record_row<'a>(row: &'a Row<'_>) -> Outcome<RecordRow<'a>> {
    let bytes = row.get_ref(4)?.as_blob();
    let record = RecordRow {
        row: unsigned(row, 0)?,
        class: unsigned(row, 1)?,
        covers: unsigned(row, 2)?,
        sum: unsigned(row, 3)?,
        bytes: bytes.map_err(|_| Fault::Corrupt("a record that is no blob".to_owned()))?,
    };
    if record.is_intact() {
        Ok(record)
    } else {
        let what = format!(
            "row {} of table record is not as it was written",
            record.row
        );
        Err(Fault::Corrupt(what))
    }
}

impl Database {
    /// Runs `work` in a transaction and syncs it. After an error nothing of it has happened.
    pub(super) fn transaction<T>(
        &mut self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        self.cut_rest()?;
        self.connection
            .execute_batch("BEGIN IMMEDIATE")
            .map_err(|reason| self.error("write to", reason))?;
        let mut transaction = Transaction::new(&self.connection, &self.path, self.head.clone());
        let done = work(&mut transaction);
        let head = transaction.into_head();
        let committed = done.and_then(|value| {
            let commit = self.connection.execute_batch("COMMIT");
            commit.map_err(|reason| self.error("write to", reason))?;
            Ok(value)
        });
        match committed {
            Ok(value) => {
                self.head = head;
                self.commits += 1;
                Ok(value)
            }
            Err(error) => {
                self.failed();
                Err(error)
            }
        }
    }

    /// The incarnation of the up stream.
    pub(super) const fn epoch(&self) -> Epoch {
        self.head.stream.epoch
    }

    /// After a renewal of the epoch nothing is on its way to the relay.
    pub(super) const fn forget_reads(&mut self) {
        self.read_end = self.head.first;
    }

    pub(super) const fn commits(&self) -> u64 {
        self.commits
    }

    /// Whether rows that end before `next` are still present.
    pub(super) fn holds_before(&self, next: Seq) -> bool {
        self.head.holds_before(self.head.row(next))
    }

    pub(super) fn read(
        &mut self,
        from: Seq,
        max_items: usize,
        max_bytes: usize,
    ) -> Result<ReadBack> {
        let read = self.read_rows(self.head.row(from), max_items, max_bytes);
        let (back, end) = read.map_err(|fault| fault.into_error("read", &self.path))?;
        self.read_end = self.read_end.max(end);
        Ok(back)
    }

    fn read_rows(
        &self,
        from: RowNumber,
        max_items: usize,
        max_bytes: usize,
    ) -> Outcome<(ReadBack, RowNumber)> {
        // A row may begin before `from` and stand for it as well.
        let sql = "SELECT seq, class, covers, sum, bytes FROM record
                   WHERE seq >= (SELECT coalesce(max(seq), 0) FROM record WHERE seq <= ?1)
                   ORDER BY seq";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([from.sql()])?;
        let from = from.max(self.head.first);
        let (mut due, mut bytes) = (from, 0);
        let mut items: Vec<Item> = Vec::new();
        while due < self.head.next && items.len() < max_items.max(1) {
            let row = match self.row_at(rows.next()?, due, items.is_empty()) {
                Ok(row) => row,
                // What is intact before the damage is worth having.
                Err(Fault::Corrupt(_)) if !items.is_empty() => break,
                Err(fault) => return Err(fault),
            };
            bytes += row.bytes.len();
            if bytes > max_bytes && !items.is_empty() {
                break;
            }
            items.push(Item {
                covers: row.end() - due.0,
                record: row.bytes.to_vec(),
            });
            due = RowNumber(row.end());
        }
        let is_empty = items.is_empty();
        let back = ReadBack {
            epoch: self.head.stream.epoch,
            first: self
                .head
                .position(if is_empty { self.head.next } else { from }),
            items,
        };
        let end = if is_empty { self.head.first } else { due };
        Ok((back, end))
    }

    /// The row that stands for `due`: it begins there, or before it where `inside` allows that.
    fn row_at<'a>(
        &self,
        row: Option<&'a Row<'_>>,
        due: RowNumber,
        inside: bool,
    ) -> Outcome<RecordRow<'a>> {
        let found = row.map(record_row).transpose()?;
        found
            .filter(|row| row.end() > due.0)
            .filter(|row| row.row == due.0 || (inside && row.row < due.0))
            .ok_or_else(|| Fault::Corrupt(format!("row {} of table record is missing", due.0)))
    }

    pub(super) fn knows(&self, source: &SourceId) -> Result<bool> {
        self.connection
            .prepare_cached("SELECT 1 FROM source WHERE name = ?1")
            .and_then(|mut statement| statement.exists([&source.0]))
            .map_err(|reason| self.error("read", reason))
    }

    /// Folds the log into the database and cuts it to nothing.
    pub(super) fn checkpoint(&self) -> Result<()> {
        self.connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(|reason| self.error("tidy up", reason))
    }

    fn error(&self, doing: &'static str, reason: rusqlite::Error) -> SpoolError {
        database_error(doing, &self.path, reason)
    }
}

fn read_state(connection: &Connection, head: &Head) -> Outcome<SpoolState> {
    // A status of long ago is not worth a failure.
    let status = head.stream.status.as_deref();
    let status = status.and_then(|bytes| postcard::from_bytes::<Status>(bytes).ok());
    Ok(SpoolState {
        epoch: head.stream.epoch,
        first: head.position(head.first),
        next: head.position(head.next),
        down: head.stream.down,
        status: status.unwrap_or_default(),
        commands: commands::unfinished(connection)?,
        last_motion: commands::last_motion(connection)?,
        salvaged: None,
    })
}

pub(super) fn database_error(
    doing: &'static str,
    path: &Path,
    reason: rusqlite::Error,
) -> SpoolError {
    let path = path.to_owned();
    match reason.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => SpoolError::DiskFull(path),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => SpoolError::Locked(path),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => SpoolError::Corrupt {
            path,
            what: reason.to_string(),
        },
        _ if is_foreign(&reason) || is_short(&reason) => SpoolError::Corrupt {
            path,
            what: reason.to_string(),
        },
        _ => SpoolError::Database {
            doing,
            path,
            reason: Arc::new(reason),
        },
    }
}

/// Whether the file ends before a page that it should have: somebody cut it.
fn is_short(reason: &rusqlite::Error) -> bool {
    let code = reason.sqlite_error().map(|error| error.extended_code);
    code == Some(rusqlite::ffi::SQLITE_IOERR_SHORT_READ)
}

/// Whether a query found other tables or types than this program makes.
fn is_foreign(reason: &rusqlite::Error) -> bool {
    matches!(
        reason,
        rusqlite::Error::QueryReturnedNoRows
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::SqlInputError { .. }
    ) || reason.sqlite_error_code() == Some(ErrorCode::Unknown)
}

pub(super) fn file_error(doing: &'static str, path: &Path, reason: std::io::Error) -> SpoolError {
    SpoolError::File {
        doing,
        path: path.to_owned(),
        reason: Arc::new(reason),
    }
}
