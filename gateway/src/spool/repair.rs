//! Gets the spool going again after its disk failed, without a restart.
//!
//! It promises:
//! - While the disk fails, what is to be written is refused with the reason, and what can be read is
//!   read. About once a second it is tried whether the disk is well again.
//! - Damage that is found by a read or a write is treated as at a start: see
//!   [`salvage`](super::salvage). A page that the disk will not give back at [`UNREADABLE_AFTER`]
//!   looks counts as damage, whatever is written in between.
//! - A database whose file was deleted or replaced is written anew from what is still open, with its
//!   epoch and its positions. What has taken its place is moved aside.
//! - A transaction that was refused is not there later on: what it left in the log is cut off before
//!   anything else is written.
//!
//! What it relies on after a sync that failed: the kernel may have thrown the pages away and called
//! them clean, so another sync proves nothing. SQLite does not ask for one. A commit whose sync
//! failed is rolled back, and the next one writes its frames in the same place and syncs them. A
//! checkpoint whose sync failed is not counted: the log stays as it is, was synced before, and is
//! written to the database once more. So nothing rests on pages that a failed sync covered.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use brrbrr_proto::time::WallClock;

use super::images::{is_there, log_path, suffixed};
use super::opening::{self, Lock, sync_folder};
use super::salvage::{self, free_name};
use super::sqlite::{Database, Misplaced, file_error};
use super::{Limits, Result, SpoolError, SpoolState};

/// How often what failed is tried again, and the places of the files are looked at.
pub(super) const PACE: Duration = Duration::from_secs(1);

/// After how many looks at which something could not be read it counts as damaged.
const UNREADABLE_AFTER: u32 = 5;

/// After how many looks in a row without that it counts as readable again. Whoever could not read
/// tries again once a second, which may miss a look.
const READABLE_AFTER: u32 = 3;

/// How much is written to see whether the disk takes anything.
const PROBE_BYTES: usize = 64 * 1024;

/// What goes with the files of a spool for as long as it is open.
#[derive(Debug)]
pub(super) struct Repair {
    path: PathBuf,
    limits: Limits,
    lock: Lock,
    /// The calendar goes on from here by the other clock: it only gives names to files.
    opened: (WallClock, Instant),
    looked: Instant,
    /// Whether that look found the disk failing.
    has_failed: bool,
    unread: Unread,
}

/// What could not be read. It is kept apart from what could not be written: a write that succeeds
/// says nothing about the page that is missing.
#[derive(Debug, Default)]
struct Unread {
    /// Why, until everything counts as readable again.
    error: Option<SpoolError>,
    /// Whether that was since the last look.
    is_new: bool,
    /// At how many looks it was so.
    looks: u32,
    /// At how many it was not, since.
    quiet: u32,
}

impl Unread {
    fn look(&mut self) {
        if std::mem::take(&mut self.is_new) {
            self.looks += 1;
            self.quiet = 0;
        } else {
            self.quiet += 1;
            if self.quiet >= READABLE_AFTER {
                *self = Self::default();
            }
        }
    }
}

/// Why the database has to be closed and opened again.
#[derive(Debug)]
pub(super) enum Reopening {
    /// It is damaged: what was found, and the row of its next record.
    Damaged(String, u64),
    /// Its file has lost its name; a copy is ready.
    Copied,
    /// It does not work any more although the disk does.
    Stuck,
}

/// What a look at the disk found.
#[derive(Debug)]
pub(super) enum Look {
    /// Nothing has changed.
    Same,
    /// What failed works again.
    Recovered,
    /// It does not work.
    Failing(SpoolError),
    /// It will work only after this.
    Reopen(Reopening),
}

impl Repair {
    /// Opens a spool's database, whatever state its files are in, and keeps others from it.
    pub(super) fn open(
        path: &Path,
        limits: Limits,
        now: WallClock,
    ) -> Result<(Self, Database, SpoolState)> {
        let lock = Lock::take(path)?;
        let (database, state) = opening::open(path, now)?;
        let opened = Instant::now();
        let repair = Self {
            path: path.to_owned(),
            limits,
            lock,
            opened: (now, opened),
            looked: opened,
            has_failed: false,
            unread: Unread::default(),
        };
        Ok((repair, database, state))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// When to look next.
    pub(super) fn due(&self) -> Instant {
        self.looked + PACE
    }

    /// Looks with this group and does not wait its turn, unless the last look was in vain: a copy
    /// of all that there is must not be tried with each group.
    pub(super) fn look_at_once(&mut self, now: Instant) {
        if !self.has_failed {
            self.looked = now.checked_sub(PACE).unwrap_or(now);
        }
    }

    /// Gives a database that is about to be closed its name back.
    pub(super) fn give_back(&self, database: &Database) -> Result<()> {
        if let Some(misplaced) = database.misplaced() {
            let restored = self.restore(database, misplaced)?;
            if matches!(restored, Look::Reopen(Reopening::Copied)) {
                self.put_in_place(self.calendar())?;
            }
        }
        Ok(())
    }

    /// Something could not be read.
    pub(super) fn could_not_read(&mut self, error: SpoolError) {
        self.unread.error = Some(error);
        self.unread.is_new = true;
    }

    /// Why something could not be read lately.
    pub(super) const fn unread(&self) -> Option<&SpoolError> {
        self.unread.error.as_ref()
    }

    /// Looks whether the files are in their places and whether what failed works again.
    pub(super) fn look(
        &mut self,
        database: &mut Database,
        failing: Option<&SpoolError>,
        now: Instant,
    ) -> Look {
        self.looked = now;
        self.has_failed = false;
        self.unread.look();
        let unread = self.unread.error.as_ref();
        let unreadable = unread.filter(|_| self.unread.looks >= UNREADABLE_AFTER);
        let looked = match (database.misplaced(), unreadable) {
            (Some(misplaced), _) => self.restore(database, misplaced),
            (None, Some(error)) => {
                let what = error.to_string();
                return Look::Reopen(Reopening::Damaged(what, database.next_row()));
            }
            (None, None) => match failing {
                Some(error) if !error.is_for_want_of_room() => self.try_out(database, error),
                Some(_) | None => return Look::Same,
            },
        };
        self.has_failed = looked.is_err();
        looked.unwrap_or_else(|error| {
            if let SpoolError::Corrupt { what, .. } = error {
                return Look::Reopen(Reopening::Damaged(what, database.next_row()));
            }
            Look::Failing(error)
        })
    }

    /// Tries a file of its own first: where the disk takes nothing at all the database stays open,
    /// so that it can still be read.
    fn try_out(&self, database: &mut Database, failing: &SpoolError) -> Result<Look> {
        if matches!(failing, SpoolError::DiskFull(_)) {
            // The log may hold the room that is lacking.
            database.cut_rest()?;
            database.checkpoint()?;
        }
        let probe = suffixed(&self.path, ".probe");
        let tried = File::create(&probe).and_then(|mut file| {
            file.write_all(&[0; PROBE_BYTES])?;
            file.sync_all()
        });
        let removed = match fs::remove_file(&probe) {
            Err(reason) if reason.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        tried
            .and(removed)
            .map_err(|reason| file_error("write", &probe, reason))?;
        if database.usage()?.log > self.limits.log_bytes() {
            // Commits may go on to work where the log cannot be folded.
            database.cut_rest()?;
            database.checkpoint()?;
        }
        match database.touch() {
            Ok(()) => Ok(Look::Recovered),
            Err(error @ (SpoolError::Corrupt { .. } | SpoolError::DiskFull(_))) => Err(error),
            Err(error) => {
                tracing::warn!(%error, "the disk works and the spool does not: opening it again");
                Ok(Look::Reopen(Reopening::Stuck))
            }
        }
    }

    /// Gets ready to give a database its name back.
    fn restore(&self, database: &Database, misplaced: Misplaced) -> Result<Look> {
        tracing::error!(path = %self.path.display(), "the spool's file was deleted or replaced");
        let reopening = match misplaced {
            Misplaced::Database => {
                database.copy_to(&suffixed(&self.path, ".new"))?;
                Reopening::Copied
            }
            // The database alone has everything once its log is folded into it.
            Misplaced::Log => {
                database.checkpoint()?;
                Reopening::Stuck
            }
        };
        // SQLite leaves the log of a database that has moved, and removes that of another one.
        let log = log_path(&self.path);
        if is_there(&log)? {
            let to = log_path(&free_name(&self.path, self.calendar())?);
            fs::rename(&log, &to).map_err(|reason| file_error("move aside", &log, reason))?;
        }
        Ok(Look::Reopen(reopening))
    }

    /// Opens the database again, once it is closed.
    pub(super) fn reopen(&mut self, reopening: &Reopening) -> Result<(Database, SpoolState)> {
        if !self.lock.is_in_place() {
            self.lock = Lock::take(&self.path)?;
        }
        let now = self.calendar();
        // What a salvage has begun is at the place of the copy, and is not whole.
        let is_salvaging = salvage::is_under_way(&self.path)?;
        let (database, state) = match reopening {
            Reopening::Damaged(what, next) if !is_salvaging => {
                opening::open_damaged(&self.path, what.clone(), *next, now)
            }
            Reopening::Copied if !is_salvaging => {
                self.put_in_place(now)?;
                opening::open(&self.path, now)
            }
            Reopening::Damaged(..) | Reopening::Copied | Reopening::Stuck => {
                opening::open(&self.path, now)
            }
        }?;
        database.bound_log(self.limits)?;
        self.unread = Unread::default();
        Ok((database, state))
    }

    /// Gives the copy its name. What has the name now gets another one first, and keeps both until
    /// the copy takes one over, so that there is a database at every moment.
    fn put_in_place(&self, now: WallClock) -> Result<()> {
        let new = suffixed(&self.path, ".new");
        if !is_there(&new)? {
            return Ok(());
        }
        let fault = |reason| file_error("replace", &self.path, reason);
        if is_there(&self.path)? {
            let aside = free_name(&self.path, now)?;
            fs::hard_link(&self.path, &aside).map_err(fault)?;
        }
        fs::rename(&new, &self.path).map_err(fault)?;
        sync_folder(&self.path)
    }

    fn calendar(&self) -> WallClock {
        let (wall, then) = self.opened;
        let since = i64::try_from(then.elapsed().as_micros()).unwrap_or(i64::MAX);
        WallClock(wall.0.saturating_add(since))
    }
}
