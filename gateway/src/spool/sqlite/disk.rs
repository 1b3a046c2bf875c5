//! What the open database knows about the files below it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use rusqlite::config::DbConfig;

use super::super::images::log_path;
use super::super::log::Log;
use super::super::{Result, Salvaged, SpoolError};
use super::{Database, file_error, write_stream};

/// The files that were opened, whatever their names point to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Places {
    database: Option<Place>,
    log: Option<Place>,
}

/// A device and a file on it.
type Place = (u64, u64);

impl Places {
    pub(super) fn of(path: &Path) -> Self {
        Self {
            database: place(path),
            log: place(&log_path(path)),
        }
    }
}

fn place(path: &Path) -> Option<Place> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Which of the files that are open were deleted or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Misplaced {
    /// The database; its log may be as well.
    Database,
    /// Only the log.
    Log,
}

impl Database {
    /// The row of the next record.
    pub(in super::super) const fn next_row(&self) -> u64 {
        self.head.next.0
    }

    /// Remembers what was saved of the database that was here before, for whoever asks.
    pub(in super::super) fn set_salvaged(&mut self, salvaged: Option<Salvaged>) {
        self.salvaged = salvaged;
    }

    /// Whether the names still point to the files that are open.
    pub(in super::super) fn misplaced(&self) -> Option<Misplaced> {
        let now = Places::of(&self.path);
        if now.database != self.places.database {
            Some(Misplaced::Database)
        } else if now.log != self.places.log {
            Some(Misplaced::Log)
        } else {
            None
        }
    }

    /// Writes all that is in the database into a new file, however little of the old one still has
    /// a name, and syncs it.
    pub(in super::super) fn copy_to(&self, new: &Path) -> Result<()> {
        match fs::remove_file(new) {
            Err(reason) if reason.kind() != ErrorKind::NotFound => {
                return Err(file_error("make anew", new, reason));
            }
            Ok(()) | Err(_) => {}
        }
        let name = new.to_string_lossy();
        self.connection
            .execute("VACUUM INTO ?1", [name.as_ref()])
            .map_err(|reason| SpoolError::Database {
                doing: "copy",
                path: new.to_owned(),
                reason: Arc::new(reason),
            })?;
        let synced = File::open(new).and_then(|file| file.sync_all());
        synced.map_err(|reason| file_error("sync", new, reason))
    }

    /// Writes and syncs without changing anything.
    pub(in super::super) fn touch(&mut self) -> Result<()> {
        self.cut_rest()?;
        let written = self
            .connection
            .execute_batch("BEGIN IMMEDIATE")
            .and_then(|()| write_stream(&self.connection, &self.head.stream))
            .and_then(|()| self.connection.execute_batch("COMMIT"));
        written.map_err(|reason| {
            self.failed();
            self.error("write to", reason)
        })
    }

    /// Has the files left as they are when the database is closed: its log is not folded into it.
    pub(in super::super) fn leave_files(&self) {
        let config = DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
        if let Err(reason) = self.connection.set_db_config(config, true) {
            tracing::warn!(%reason, "the damaged spool's log will be folded into it");
        }
    }

    /// After a failed transaction: takes it back and notes how much of the log is good.
    pub(super) fn failed(&mut self) {
        // SQLite rolls back by itself after some errors, and then this one is refused.
        if !self.connection.is_autocommit()
            && let Err(reason) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%reason, "the spool could not roll back");
        }
        self.rest = self.log_frames();
    }

    /// Cuts off what a failed transaction left in the log. Behind shorter commits that come later it
    /// would look like one that was acknowledged.
    pub(in super::super) fn cut_rest(&mut self) -> Result<()> {
        if let Some(frames) = self.rest {
            cut_log(&self.path, Log::bytes(frames))?;
            self.rest = None;
        }
        Ok(())
    }

    /// How many frames of the log are in use. SQLite knows without looking at the disk.
    fn log_frames(&self) -> Option<u64> {
        let sql = "PRAGMA wal_checkpoint(NOOP)";
        let frames: i64 = self
            .connection
            .query_row(sql, [], |row| row.get(1))
            .inspect_err(|reason| tracing::error!(%reason, "the spool does not know its log"))
            .ok()?;
        u64::try_from(frames).ok()
    }
}

/// Makes a log shorter, and syncs that.
pub(in super::super) fn cut_log(path: &Path, bytes: u64) -> Result<()> {
    let log = log_path(path);
    let cut = File::options().write(true).open(&log).and_then(|file| {
        if file.metadata()?.len() > bytes {
            file.set_len(bytes)?;
            file.sync_all()?;
        }
        Ok(())
    });
    match cut {
        Err(reason) if reason.kind() != ErrorKind::NotFound => Err(file_error("cut", &log, reason)),
        Ok(()) | Err(_) => Ok(()),
    }
}
