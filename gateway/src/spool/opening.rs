//! Opens a spool's database, whatever state its files are in.
//!
//! Before SQLite gets the files they are looked at as bytes, because SQLite would silently take a
//! broken log for the end of it (see [`log`](super::log)), and a last page that lost rows for a
//! shorter table. A new database is made beside and renamed, so that one which is there is never
//! empty but by damage.
//!
//! A lock on a file of its own holds for as long as the spool is open, also while the database is
//! closed to be mended: SQLite's own locks would be gone then, and they are lost when this process
//! reads the file by other means.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use brrbrr_proto::id::{Epoch, Seq};
use brrbrr_proto::time::WallClock;
use rusqlite::Connection;

use super::format::Stream;
use super::images::{Images, is_there, log_path, suffixed};
use super::sqlite::{Database, FORMAT, Rebuild, cut_log, database_error, file_error, open_settled};
use super::{Result, Salvaged, SpoolError, SpoolState, salvage};

/// How often and how long apart the lock is tried: another process that is just ending lets go
/// within this.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The right to use the files of a spool. It ends with the process at the latest.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    place: PathBuf,
}

impl Lock {
    pub(super) fn take(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|reason| file_error("make", folder, reason))?;
        }
        let place = suffixed(path, ".lock");
        let mut options = File::options();
        let file = options
            .create(true)
            .truncate(false)
            .write(true)
            .open(&place);
        let file = file.map_err(|reason| file_error("open", &place, reason))?;
        for _ in 0..LOCK_TRIES {
            match file.try_lock() {
                Ok(()) => return Ok(Self { file, place }),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
                Err(TryLockError::Error(reason)) => return Err(file_error("lock", &place, reason)),
            }
        }
        Err(SpoolError::Locked(path.to_owned()))
    }

    /// Whether its name still points to it, so that others find it taken.
    pub(super) fn is_in_place(&self) -> bool {
        let held = self.file.metadata();
        let named = fs::metadata(&self.place);
        held.is_ok_and(|held| {
            named.is_ok_and(|named| (held.dev(), held.ino()) == (named.dev(), named.ino()))
        })
    }
}

/// Opens the database. Makes it where there is none, and saves what can be read of it where it is
/// damaged.
pub(super) fn open(path: &Path, now: WallClock) -> Result<(Database, SpoolState)> {
    let resumed = salvage::resume(path, now)?;
    let what = match settle(path) {
        Ok(cut) => match open_settled(path) {
            Err(SpoolError::Corrupt { what, .. }) => what,
            Err(error) => return Err(error),
            Ok(opened) => {
                // SQLite ignores these frames, but behind shorter commits that come later they
                // would look like acknowledged ones.
                if let Some(bytes) = cut {
                    cut_log(path, bytes)?;
                }
                return Ok(with_salvaged(opened, resumed));
            }
        },
        Err(SpoolError::Corrupt { what, .. }) => what,
        Err(error) => return Err(error),
    };
    let salvaged = salvage::salvage(path, what, None, now)?;
    open_settled(path).map(|opened| with_salvaged(opened, Some(salvaged)))
}

/// Saves what can be read of a database that turned out to be damaged while it was open, and opens
/// what comes out. Nobody may have it open any more.
pub(super) fn open_damaged(
    path: &Path,
    what: String,
    next: u64,
    now: WallClock,
) -> Result<(Database, SpoolState)> {
    let salvaged = salvage::salvage(path, what, Some(next), now)?;
    open_settled(path).map(|opened| with_salvaged(opened, Some(salvaged)))
}

fn with_salvaged(
    (mut database, state): (Database, SpoolState),
    salvaged: Option<Salvaged>,
) -> (Database, SpoolState) {
    database.set_salvaged(salvaged.clone());
    let state = SpoolState { salvaged, ..state };
    (database, state)
}

/// Sees to it that there is a database whose log SQLite can read to its end. Returns how long the
/// log is to be cut where it has frames that SQLite will not use.
fn settle(path: &Path) -> Result<Option<u64>> {
    let corrupt = |what: &str| SpoolError::Corrupt {
        path: path.to_owned(),
        what: what.to_owned(),
    };
    let log = log_path(path);
    if !is_there(path)? {
        return if is_there(&log)? {
            Err(corrupt("there is a log without a database"))
        } else {
            make(path).map(|()| None)
        };
    }
    let images = Images::open(path).map_err(|reason| file_error("read", path, reason))?;
    if !images.has_sound_header() {
        return Err(corrupt("it does not begin as a database does"));
    }
    if images.log().is_damaged {
        return Err(corrupt("its log is broken before acknowledged commits"));
    }
    let newer = images
        .format()
        .is_some_and(|format| i64::from(format) > FORMAT);
    if !newer && !images.has_sound_end("record") {
        return Err(corrupt(
            "the last page of table record is not as it was written",
        ));
    }
    Ok(images.log().cut)
}

/// Makes the tables and draws the epoch, beside, so that a crash leaves nothing half.
fn make(path: &Path) -> Result<()> {
    let epoch = Epoch(getrandom::u64().map_err(SpoolError::NoRandomness)?);
    let stream = Stream {
        epoch,
        shift: 0,
        released: Seq::FIRST.0,
        down: None,
        status: None,
    };
    let new = suffixed(path, ".new");
    Rebuild::begin(&new, &stream)?.finish()?;
    fs::rename(&new, path).map_err(|reason| file_error("make", path, reason))?;
    sync_folder(path)
}

/// Makes the names of files beside `path` durable.
pub(super) fn sync_folder(path: &Path) -> Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|reason| file_error("sync", folder, reason))
}

/// The calendar date and time in UTC, in the form `20261120T201500Z`.
pub(super) fn date(path: &Path, now: WallClock) -> Result<String> {
    let seconds = now.0.div_euclid(1_000_000);
    let sql = "SELECT coalesce(strftime('%Y%m%dT%H%M%SZ', ?1, 'unixepoch'), 'unknown')";
    Connection::open_in_memory()
        .and_then(|connection| connection.query_row(sql, [seconds], |row| row.get(0)))
        .map_err(|reason| database_error("date", path, reason))
}
