//! The spool's database: SQLite with a write-ahead log, synced at every commit.
//!
//! ```text
//! record(seq INTEGER PRIMARY KEY, covers, bytes)   what waits, by row number
//! stream(epoch, shift, released, …)                one row: the state of both streams
//! command(place, id, motion, ended, content, step) the commands, ended ones up to a number
//! source(place, name)                              names of messages that were written
//! ```
//! A row number is the position plus `shift`: a new epoch moves the shift and touches no row.
//! Deleting what was released is part of the transaction that records how far it was.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use brrbrr_proto::id::{Cursor, Epoch, Seq};
use brrbrr_proto::live::Status;
use brrbrr_proto::time::WallClock;
use brrbrr_proto::up::Item;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row, params};

use super::format::{self, EncodedCommand, EncodedEntry, EncodedRecord};
use super::{
    Appended, CommandChange, ENDED_COMMANDS_KEPT, ReadBack, Result, SOURCES_KEPT, SourceId,
    SpoolError, SpoolState, StoredCommand, StoredCommands, Written, WrittenAll,
};

/// The format this version writes and the newest it reads.
const FORMAT: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE record (
        seq INTEGER PRIMARY KEY,
        covers INTEGER NOT NULL,
        bytes BLOB NOT NULL
    );
    CREATE TABLE stream (
        only INTEGER PRIMARY KEY CHECK (only = 1),
        epoch INTEGER NOT NULL,
        shift INTEGER NOT NULL,
        released INTEGER NOT NULL,
        down_epoch INTEGER,
        down_next INTEGER,
        status BLOB
    );
    CREATE TABLE command (
        place INTEGER PRIMARY KEY,
        id BLOB NOT NULL UNIQUE,
        motion INTEGER NOT NULL,
        ended INTEGER NOT NULL,
        content BLOB NOT NULL,
        step BLOB NOT NULL
    );
    CREATE TABLE source (
        place INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE
    );
";

/// Before these many pages are in the log they are folded into the database. It bounds the log that
/// is read again after a crash.
const LOG_PAGES: i64 = 1000;

/// The log's file is cut back to this after a burst.
const LOG_BYTES: i64 = 8 * 1024 * 1024;

/// How long another process may hold the database before it counts as in use: one that is just
/// ending lets go within this.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// How many positions one transaction deletes at most, so that a large release does not keep
/// appends waiting.
const RELEASE_STEP: u64 = 4096;

/// Statements kept ready.
const STATEMENTS: usize = 32;

/// A row number in `record`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct RowNumber(u64);

impl RowNumber {
    const fn sql(self) -> i64 {
        self.0.cast_signed()
    }
}

/// Where the up stream stands. A copy of what the database holds, so that no call must look it up.
#[derive(Debug, Clone, Copy)]
struct Head {
    epoch: Epoch,
    /// Row number minus position.
    shift: u64,
    /// The lowest row present, or `next`.
    first: RowNumber,
    /// The row of the next record.
    next: RowNumber,
}

impl Head {
    const fn row(&self, position: Seq) -> RowNumber {
        RowNumber(position.0.saturating_add(self.shift))
    }

    const fn position(&self, row: RowNumber) -> Seq {
        Seq(row.0.saturating_sub(self.shift))
    }
}

/// The open database, owned by the spool's thread.
#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
    path: PathBuf,
    head: Head,
    commits: u64,
}

/// Opens the database, makes it where there is none, and moves it aside where it is damaged.
pub(super) fn open(path: &Path, now: WallClock) -> Result<(Database, SpoolState)> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|reason| file_error("make", folder, reason))?;
    }
    match open_or_make(path) {
        Err(SpoolError::Corrupt { what, .. }) => {
            let aside = move_aside(path, now)?;
            tracing::error!(what, moved_to = %aside.display(), "the spool was damaged, a new one is begun");
            let (database, state) = open_or_make(path)?;
            let moved_aside = Some(aside);
            Ok((
                database,
                SpoolState {
                    moved_aside,
                    ..state
                },
            ))
        }
        other => other,
    }
}

fn open_or_make(path: &Path) -> Result<(Database, SpoolState)> {
    let fault = |doing| move |reason| database_error(doing, path, reason);
    let connection = Connection::open(path).map_err(fault("open"))?;
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
        .and_then(|()| connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES))
        .and_then(|()| connection.pragma_update(None, "journal_size_limit", LOG_BYTES))
        .map_err(fault("open"))?;
    let format: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(fault("open"))?;
    match format {
        0 => make(&connection, path)?,
        1..=FORMAT => {}
        found => {
            let (path, known) = (path.to_owned(), FORMAT);
            return Err(SpoolError::Newer { path, found, known });
        }
    }
    let head = read_head(&connection).map_err(fault("open"))?;
    let database = Database {
        connection,
        path: path.to_owned(),
        head,
        commits: 0,
    };
    let state = database.state()?;
    Ok((database, state))
}

/// Makes the tables and draws the epoch. Done in one transaction, so a crash leaves nothing half.
fn make(connection: &Connection, path: &Path) -> Result<()> {
    let epoch = Epoch(getrandom::u64().map_err(SpoolError::NoRandomness)?);
    let made = connection
        .execute_batch("BEGIN IMMEDIATE")
        .and_then(|()| connection.execute_batch(SCHEMA))
        .and_then(|()| {
            let sql = "INSERT INTO stream (only, epoch, shift, released) VALUES (1, ?1, 0, 1)";
            connection.execute(sql, [epoch.0.cast_signed()])
        })
        .and_then(|_| connection.pragma_update(None, "user_version", FORMAT))
        .and_then(|()| connection.execute_batch("COMMIT"));
    made.map_err(|reason| database_error("make", path, reason))?;
    // The name of the new file must survive a power cut as well as its content.
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|reason| file_error("sync", folder, reason))
}

fn read_head(connection: &Connection) -> rusqlite::Result<Head> {
    let sql = "SELECT epoch, shift, released FROM stream";
    let (epoch, shift, released) = connection.query_row(sql, [], |row| {
        let number = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
        Ok((Epoch(number(0)?), number(1)?, number(2)?))
    })?;
    // Both ends of the primary key: no row between them is looked at.
    let first = first_row(connection)?;
    let sql = "SELECT seq + covers FROM record ORDER BY seq DESC LIMIT 1";
    let after_last = connection
        .query_row(sql, [], |row| row.get(0).map(i64::cast_unsigned))
        .optional()?;
    let next = RowNumber(after_last.unwrap_or(released).max(released));
    Ok(Head {
        epoch,
        shift,
        first: first.unwrap_or(next),
        next,
    })
}

fn first_row(connection: &Connection) -> rusqlite::Result<Option<RowNumber>> {
    connection
        .prepare_cached("SELECT min(seq) FROM record")?
        .query_row([], |row| row.get::<_, Option<i64>>(0))
        .map(|seq| seq.map(|seq| RowNumber(seq.cast_unsigned())))
}

impl Database {
    /// Runs `work` in a transaction and syncs it. After an error nothing of it has happened.
    pub(super) fn transaction<T>(
        &mut self,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        self.connection
            .execute_batch("BEGIN IMMEDIATE")
            .map_err(|reason| self.error("write to", reason))?;
        let mut transaction = Transaction {
            connection: &self.connection,
            path: &self.path,
            head: self.head,
        };
        let done = work(&mut transaction);
        let head = transaction.head;
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
                // SQLite rolls back by itself after some errors, and then this one is refused.
                if !self.connection.is_autocommit()
                    && let Err(reason) = self.connection.execute_batch("ROLLBACK")
                {
                    tracing::error!(%reason, "the spool could not roll back");
                }
                Err(error)
            }
        }
    }

    pub(super) const fn commits(&self) -> u64 {
        self.commits
    }

    /// Whether rows before `next` are still present.
    pub(super) fn holds_before(&self, next: Seq) -> bool {
        self.head.first < self.head.row(next).min(self.head.next)
    }

    pub(super) fn read(&self, from: Seq, max_items: usize, max_bytes: usize) -> Result<ReadBack> {
        self.read_rows(self.head.row(from), max_items, max_bytes)
            .map_err(|reason| self.error("read", reason))
    }

    fn read_rows(
        &self,
        from: RowNumber,
        max_items: usize,
        max_bytes: usize,
    ) -> rusqlite::Result<ReadBack> {
        let sql = "SELECT seq, covers, bytes FROM record WHERE seq >= ?1 ORDER BY seq LIMIT ?2";
        let limit = i64::try_from(max_items.max(1)).unwrap_or(i64::MAX);
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![from.sql(), limit])?;
        let mut items = Vec::new();
        let (mut first, mut due, mut bytes) = (self.head.next, self.head.next, 0);
        while let Some(row) = rows.next()? {
            let at = RowNumber(row.get::<_, i64>(0)?.cast_unsigned());
            let covers = row.get::<_, i64>(1)?.cast_unsigned();
            let record: Vec<u8> = row.get(2)?;
            if items.is_empty() {
                (first, due) = (at, at);
            }
            bytes += record.len();
            if at != due || (bytes > max_bytes && !items.is_empty()) {
                break;
            }
            due = RowNumber(at.0.saturating_add(covers));
            items.push(Item { covers, record });
        }
        Ok(ReadBack {
            epoch: self.head.epoch,
            first: self.head.position(first),
            items,
        })
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

    fn state(&self) -> Result<SpoolState> {
        read_state(&self.connection, &self.path, &self.head)
    }

    fn error(&self, doing: &'static str, reason: rusqlite::Error) -> SpoolError {
        database_error(doing, &self.path, reason)
    }
}

fn read_state(connection: &Connection, path: &Path, head: &Head) -> Result<SpoolState> {
    let fault = |reason| database_error("read", path, reason);
    let sql = "SELECT down_epoch, down_next, status FROM stream";
    let (down, status) = connection
        .query_row(sql, [], |row| Ok((down_cursor(row)?, row.get(2)?)))
        .map_err(fault)?;
    let status: Option<Vec<u8>> = status;
    // A status of long ago is not worth a failure.
    let status = status.and_then(|bytes| postcard::from_bytes::<Status>(&bytes).ok());
    let unfinished = "SELECT content, step FROM command WHERE ended = 0 ORDER BY place";
    let newest = "SELECT content, step FROM command WHERE motion = 1 ORDER BY place DESC LIMIT 1";
    Ok(SpoolState {
        epoch: head.epoch,
        first: head.position(head.first),
        next: head.position(head.next),
        down,
        status: status.unwrap_or_default(),
        commands: read_commands(connection, path, unfinished)?,
        last_motion: read_commands(connection, path, newest)?.pop(),
        moved_aside: None,
    })
}

fn down_cursor(row: &Row<'_>) -> rusqlite::Result<Option<Cursor>> {
    let epoch: Option<i64> = row.get(0)?;
    let next: Option<i64> = row.get(1)?;
    Ok(epoch.zip(next).map(|(epoch, next)| Cursor {
        epoch: Epoch(epoch.cast_unsigned()),
        next: Seq(next.cast_unsigned()),
    }))
}

fn read_commands(connection: &Connection, path: &Path, sql: &str) -> Result<Vec<StoredCommand>> {
    let rows: Vec<(Vec<u8>, Vec<u8>)> = connection
        .prepare(sql)
        .and_then(|mut statement| {
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        })
        .map_err(|reason| database_error("read", path, reason))?;
    rows.iter()
        .map(|(content, step)| format::decode_command(content, step))
        .collect::<std::result::Result<_, _>>()
        .map_err(|reason| SpoolError::Corrupt {
            path: path.to_owned(),
            what: format!("a command: {reason}"),
        })
}

/// A transaction that is under way. Its head becomes the database's when it is on the disk.
#[derive(Debug)]
pub(super) struct Transaction<'a> {
    connection: &'a Connection,
    path: &'a Path,
    head: Head,
}

impl Transaction<'_> {
    pub(super) fn write(&mut self, entry: &EncodedEntry) -> Result<Written> {
        let written = self.write_entry(entry);
        written.map_err(|reason| database_error("write to", self.path, reason))
    }

    pub(super) fn write_all(&mut self, entries: &[EncodedEntry]) -> Result<WrittenAll> {
        let first = self.head.position(self.head.next);
        for entry in entries {
            self.write(entry)?;
        }
        let next = self.head.position(self.head.next);
        Ok(WrittenAll {
            epoch: self.head.epoch,
            appended: Appended { first, next },
        })
    }

    fn write_entry(&mut self, entry: &EncodedEntry) -> rusqlite::Result<Written> {
        // A step of commands is taken all the same: whoever decided on it has looked the source up,
        // and what is in memory must not part from what is here.
        if let Some(source) = &entry.source
            && !self.remember(source)?
            && entry.changes.is_empty()
        {
            let appended = self.append(&[])?;
            let duplicate = true;
            return Ok(Written {
                appended,
                duplicate,
            });
        }
        for change in &entry.changes {
            self.change_command(*change)?;
        }
        let appended = self.append(&entry.records)?;
        let duplicate = false;
        Ok(Written {
            appended,
            duplicate,
        })
    }

    fn append(&mut self, records: &[EncodedRecord]) -> rusqlite::Result<Appended> {
        let first = self.head.next;
        let sql = "INSERT INTO record (seq, covers, bytes) VALUES (?1, ?2, ?3)";
        let mut statement = self.connection.prepare_cached(sql)?;
        for record in records {
            let covers = record.covers.cast_signed();
            statement.execute(params![self.head.next.sql(), covers, record.bytes])?;
            self.head.next = RowNumber(self.head.next.0.saturating_add(record.covers));
        }
        Ok(Appended {
            first: self.head.position(first),
            next: self.head.position(self.head.next),
        })
    }

    /// Says whether the source is new.
    fn remember(&self, source: &SourceId) -> rusqlite::Result<bool> {
        let sql = "INSERT INTO source (name) VALUES (?1) ON CONFLICT DO NOTHING";
        let new = self.connection.prepare_cached(sql)?.execute([&source.0])? == 1;
        if new {
            let last = self.connection.last_insert_rowid();
            let sql = "DELETE FROM source WHERE place <= ?1";
            let mut statement = self.connection.prepare_cached(sql)?;
            statement.execute([last - i64::from(SOURCES_KEPT)])?;
        }
        Ok(new)
    }

    fn change_command(&self, change: CommandChange) -> rusqlite::Result<()> {
        let CommandChange {
            id,
            progress,
            hand_over,
        } = change;
        let step = format::encode_step(progress, hand_over)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        let sql = "UPDATE command SET ended = ?2, step = ?3 WHERE id = ?1";
        let id = id.0.to_be_bytes();
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.execute(params![id, progress.is_final(), step])?;
        Ok(())
    }

    pub(super) fn store_commands(
        &mut self,
        cursor: Cursor,
        commands: &[EncodedCommand],
    ) -> Result<StoredCommands> {
        let stored = self.store_fresh_commands(cursor, commands);
        stored.map_err(|reason| database_error("write to", self.path, reason))
    }

    fn store_fresh_commands(
        &mut self,
        cursor: Cursor,
        commands: &[EncodedCommand],
    ) -> rusqlite::Result<StoredCommands> {
        let mut appended = self.append(&[])?;
        let mut fresh = Vec::new();
        for command in commands {
            if self.insert_command(command)? {
                fresh.push(command.id);
                appended.next = self.append(std::slice::from_ref(&command.record))?.next;
            }
        }
        let sql = "UPDATE stream SET down_epoch = ?1, down_next = ?2";
        let (epoch, next) = (cursor.epoch.0.cast_signed(), cursor.next.0.cast_signed());
        self.connection
            .prepare_cached(sql)?
            .execute([epoch, next])?;
        Ok(StoredCommands { fresh, appended })
    }

    /// Says whether the command is new.
    fn insert_command(&self, command: &EncodedCommand) -> rusqlite::Result<bool> {
        let sql = "INSERT INTO command (id, motion, ended, content, step)
                   VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (id) DO NOTHING";
        let inserted = self.connection.prepare_cached(sql)?.execute(params![
            command.id.0.to_be_bytes(),
            command.motion,
            command.ended,
            command.content,
            command.step
        ])?;
        if inserted == 0 {
            return Ok(false);
        }
        let last = self.connection.last_insert_rowid();
        let sql = "DELETE FROM command WHERE place <= ?1 AND ended = 1";
        self.connection
            .prepare_cached(sql)?
            .execute([last - i64::from(ENDED_COMMANDS_KEPT)])?;
        Ok(true)
    }

    /// Deletes what lies wholly before `next`, one step of it.
    pub(super) fn release(&mut self, next: Seq) -> Result<()> {
        let released = self.release_step(self.head.row(next));
        released.map_err(|reason| database_error("write to", self.path, reason))
    }

    /// Deletes all that lies wholly before `next`, however much it is.
    pub(super) fn release_all(&mut self, next: Seq) -> Result<()> {
        while self.head.first < self.head.row(next).min(self.head.next) {
            let before = self.head.first;
            self.release(next)?;
            if self.head.first == before {
                break;
            }
        }
        Ok(())
    }

    fn release_step(&mut self, next: RowNumber) -> rusqlite::Result<()> {
        // A tombstone may cover more than a step; it must be reachable nevertheless.
        let step = RowNumber(self.head.first.0.saturating_add(RELEASE_STEP));
        let until = next.min(self.head.next);
        if until <= self.head.first {
            return Ok(());
        }
        let sql = "DELETE FROM record WHERE seq < ?1 AND seq + covers <= ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.execute([until.min(step).sql(), until.sql()])?;
        self.head.first = first_row(self.connection)?.unwrap_or(self.head.next);
        let sql = "UPDATE stream SET released = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.execute([self.head.first.sql()])?;
        Ok(())
    }

    pub(super) fn store_status(&self, status: &Status) -> Result<()> {
        let bytes = postcard::to_stdvec(status)?;
        self.connection
            .prepare_cached("UPDATE stream SET status = ?1")
            .and_then(|mut statement| statement.execute([bytes]))
            .map_err(|reason| database_error("write to", self.path, reason))?;
        Ok(())
    }

    pub(super) fn renew_epoch(&mut self, epoch: Epoch) -> Result<SpoolState> {
        self.head.epoch = epoch;
        self.head.shift = self.head.first.0.saturating_sub(Seq::FIRST.0);
        let (epoch, shift) = (epoch.0.cast_signed(), self.head.shift.cast_signed());
        self.connection
            .prepare_cached("UPDATE stream SET epoch = ?1, shift = ?2")
            .and_then(|mut statement| statement.execute([epoch, shift]))
            .map_err(|reason| database_error("write to", self.path, reason))?;
        read_state(self.connection, self.path, &self.head)
    }
}

/// Gives the files of a damaged database names with a date, so that nothing is lost for good.
fn move_aside(path: &Path, now: WallClock) -> Result<PathBuf> {
    let date = date(now).map_err(|reason| database_error("date", path, reason))?;
    let suffixed = |base: &Path, suffix: &str| {
        let mut name = base.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let mut aside = suffixed(path, &format!(".damaged-{date}"));
    while aside.exists() {
        aside = suffixed(&aside, "-again");
    }
    // The database goes first: SQLite throws away a log without one, but would take a database
    // without its log for an older one and give positions out twice.
    for part in ["", "-wal", "-shm"] {
        let from = suffixed(path, part);
        if from.exists() {
            let to = suffixed(&aside, part);
            fs::rename(&from, to).map_err(|reason| file_error("move aside", &from, reason))?;
        }
    }
    Ok(aside)
}

/// The calendar date and time in UTC, in the form `20261120T201500Z`.
fn date(now: WallClock) -> rusqlite::Result<String> {
    let seconds = now.0.div_euclid(1_000_000);
    Connection::open_in_memory()?.query_row(
        "SELECT coalesce(strftime('%Y%m%dT%H%M%SZ', ?1, 'unixepoch'), 'unknown')",
        [seconds],
        |row| row.get(0),
    )
}

fn database_error(doing: &'static str, path: &Path, reason: rusqlite::Error) -> SpoolError {
    let path = path.to_owned();
    match reason.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => SpoolError::DiskFull(path),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => SpoolError::Locked(path),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => SpoolError::Corrupt {
            path,
            what: reason.to_string(),
        },
        _ if is_foreign(&reason) => SpoolError::Corrupt {
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

/// Whether a query found other tables or types than this program makes.
fn is_foreign(reason: &rusqlite::Error) -> bool {
    matches!(
        reason,
        rusqlite::Error::QueryReturnedNoRows
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::SqlInputError { .. }
    ) || reason.sqlite_error_code() == Some(ErrorCode::Unknown)
}

fn file_error(doing: &'static str, path: &Path, reason: std::io::Error) -> SpoolError {
    SpoolError::File {
        doing,
        path: path.to_owned(),
        reason: Arc::new(reason),
    }
}
