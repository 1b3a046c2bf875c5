//! Writes a database from rows that are at hand already, beside the one that it will replace.
//!
//! Nobody relies on it before [`Rebuild::finish`] has synced it, so it needs no log: a half-made
//! one is thrown away and made again.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use super::super::format::{CommandRow, RecordRow, Stream};
use super::super::pages::PAGE_BYTES;
use super::super::{Result, SpoolError};
use super::{FORMAT, SCHEMA, database_error, file_error, write_identity, write_stream};

/// How many rows one transaction writes, so that what SQLite holds in memory stays small.
const ROWS_PER_STEP: u32 = 1024;

/// A database in the making.
#[derive(Debug)]
pub(in super::super) struct Rebuild {
    connection: Connection,
    path: PathBuf,
    rows: u32,
}

impl Rebuild {
    /// Begins a database with the state of its streams. A half-made one there is thrown away.
    pub(in super::super) fn begin(path: &Path, stream: &Stream) -> Result<Self> {
        match fs::remove_file(path) {
            Err(reason) if reason.kind() != io::ErrorKind::NotFound => {
                return Err(file_error("make anew", path, reason));
            }
            Ok(()) | Err(_) => {}
        }
        let made = Connection::open(path).and_then(|connection| {
            connection.execute_batch(&format!("PRAGMA page_size = {PAGE_BYTES}"))?;
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
            connection.pragma_update_and_check(None, "journal_mode", "OFF", |_| Ok(()))?;
            connection.pragma_update(None, "synchronous", "OFF")?;
            connection.execute_batch("BEGIN IMMEDIATE")?;
            connection.execute_batch(SCHEMA)?;
            connection.pragma_update(None, "user_version", FORMAT)?;
            write_stream(&connection, stream)?;
            write_identity(&connection, stream.identity())?;
            Ok(connection)
        });
        Ok(Self {
            connection: made.map_err(|reason| database_error("make", path, reason))?,
            path: path.to_owned(),
            rows: 0,
        })
    }

    pub(in super::super) fn record(&mut self, row: &RecordRow<'_>) -> Result<()> {
        let sql = "INSERT INTO record (seq, class, covers, sum, bytes) VALUES (?1, ?2, ?3, ?4, ?5)";
        self.step(|connection| {
            connection.prepare_cached(sql)?.execute(params![
                row.row.cast_signed(),
                row.class.cast_signed(),
                row.covers.cast_signed(),
                row.sum.cast_signed(),
                row.bytes
            ])
        })
    }

    pub(in super::super) fn command(&mut self, row: &CommandRow<'_>) -> Result<()> {
        let sql =
            "INSERT OR IGNORE INTO command (place, id, motion, ended, key, content, step, sum)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        self.step(|connection| {
            connection.prepare_cached(sql)?.execute(params![
                row.place.cast_signed(),
                row.id,
                row.motion.cast_signed(),
                row.ended.cast_signed(),
                row.key,
                row.content,
                row.step,
                row.sum.cast_signed()
            ])
        })
    }

    pub(in super::super) fn source(&mut self, place: u64, name: &str) -> Result<()> {
        let sql = "INSERT OR IGNORE INTO source (place, name) VALUES (?1, ?2)";
        self.step(|connection| {
            let mut statement = connection.prepare_cached(sql)?;
            statement.execute(params![place.cast_signed(), name])
        })
    }

    /// Ends the database and syncs it. Its name is not durable yet.
    pub(in super::super) fn finish(self) -> Result<()> {
        let Self {
            connection, path, ..
        } = self;
        let ended = connection.execute_batch("COMMIT");
        ended.map_err(|reason| database_error("make", &path, reason))?;
        connection
            .close()
            .map_err(|(_, reason)| database_error("make", &path, reason))?;
        let synced = File::open(&path).and_then(|file| file.sync_all());
        synced.map_err(|reason| file_error("sync", &path, reason))
    }

    fn step(&mut self, write: impl FnOnce(&Connection) -> rusqlite::Result<usize>) -> Result<()> {
        let fault = |reason| -> SpoolError { database_error("make", &self.path, reason) };
        write(&self.connection).map_err(fault)?;
        self.rows += 1;
        if self.rows.is_multiple_of(ROWS_PER_STEP) {
            let between = self.connection.execute_batch("COMMIT; BEGIN IMMEDIATE");
            between.map_err(fault)?;
        }
        Ok(())
    }
}
