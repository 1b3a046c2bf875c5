//! Keeps the spool within its budget, and off the last free room of the disk.
//!
//! What the spool takes is told by SQLite's counters of pages and by the log's file. Above a mark
//! near the budget, room is made between the groups of writes, a bounded step at a time, until it
//! is below another mark. A group that would not fit waits until there is room for it. So what the
//! spool holds keeps to its budget, and a spool that is filled slowly never makes anybody wait. Free
//! pages of the file are not counted, and what was damaged and moved aside is not either. A log that
//! cannot be folded is a failure of the disk: nothing is shed for it, because that would only add to
//! it.
//!
//! While the disk has less than the floor of free space the file does not grow: it is shrunk by what
//! the disk is short of, but never below a share of the budget, because it may be another program
//! that fills the disk. After that, what does not fit is refused.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use brrbrr_proto::id::Seq;
use brrbrr_proto::up::{Disk, MAX_RECORD_BYTES};

use super::format::Class;
use super::pages::PAGE_BYTES;
use super::retention::{self, Measure, Plan};
use super::sqlite::{Database, Usage};
use super::{Limits, Result, SpoolError};

/// How many rows one step looks at.
const STEP_ROWS: usize = 1000;

/// How many steps are taken between two groups at most: what a caller may have to wait for.
const STEPS: usize = 16;

/// How much room is given back to the disk in one step.
const GIVE_BACK_STEP: u64 = 1024 * 1024;

/// How often the disk is asked for its free space at most.
const LOOK: Duration = Duration::from_secs(1);

/// How often an idle spool asks for it.
const IDLE_LOOK: Duration = Duration::from_secs(5);

/// How long the spool counts as short after room was made for the last time.
pub(super) const SHORT_FOR: Duration = Duration::from_secs(10);

/// How long no room is made after that has failed.
const REST: Duration = Duration::from_secs(1);

/// A page of the log, with its header.
const FRAME: u64 = PAGE + 24;
const PAGE: u64 = PAGE_BYTES as u64;

impl Limits {
    /// A smaller budget counts as this much. It holds a few hundred records.
    pub const SMALLEST_BUDGET: u64 = 1024 * 1024;

    /// While the disk is short of free space the spool is not shrunk below this part of its budget.
    pub const SHARE: u64 = 16;

    /// The budget that counts.
    #[must_use]
    pub fn budget(&self) -> u64 {
        self.max_bytes.max(Self::SMALLEST_BUDGET)
    }

    /// Before these many pages are in the log they are folded into the database. It bounds the log
    /// that is read again after a crash.
    pub(super) fn log_pages(&self) -> u64 {
        (self.budget() / 16 / PAGE).min(4000)
    }

    /// The log's file is cut back to this after a burst, and counts for as much.
    pub(super) fn log_bytes(&self) -> u64 {
        self.log_pages() * 2 * FRAME
    }

    /// How many bytes of writes are taken into one transaction, at least one request.
    pub(super) fn group_bytes(&self) -> u64 {
        let record = u64::try_from(MAX_RECORD_BYTES).unwrap_or(u64::MAX);
        (self.budget() / 64).clamp(record, 1024 * 1024)
    }

    /// Above this, room is made between groups.
    fn high(&self) -> u64 {
        self.budget() / 32 * 30
    }

    /// Room is made until it is below this.
    fn low(&self) -> u64 {
        self.budget() / 32 * 29
    }

    /// A group has to fit in this. The rest is for what replaces records and takes a little more.
    fn full(&self) -> u64 {
        self.budget() / 32 * 31
    }

    fn share(&self) -> u64 {
        self.budget() / Self::SHARE
    }

    /// The file may always have this size, and keeps as much free for what passes through.
    fn reserve(&self) -> u64 {
        self.group_bytes() * 2
    }
}

/// Whether something fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    /// About this much must go first.
    Room(u64),
    /// The disk is short, and the spool has only its share left.
    Refusal,
}

/// What is known of the disk's free space.
#[derive(Debug, Default)]
struct Floor {
    looked: Option<Instant>,
    free: u64,
    /// What the spool took at that time.
    taken: u64,
    is_short: bool,
}

/// What was done since the spool was last not short.
#[derive(Debug)]
struct Short {
    /// When room was made for the last time.
    at: Instant,
    /// Why.
    reason: String,
    /// The worst that was done for it.
    worst: Option<Measure>,
}

/// Makes room. Owned by the spool's thread.
#[derive(Debug)]
pub(super) struct Room {
    limits: Limits,
    path: PathBuf,
    plan: Plan,
    floor: Floor,
    is_making: bool,
    /// The last step did something, so there may be more to do.
    is_busy: bool,
    rest_until: Option<Instant>,
    short: Option<Short>,
    /// Samples that were merged into others.
    pub(super) thinned: u64,
    /// Records that are gone.
    pub(super) shed: u64,
}

impl Room {
    pub(super) fn new(limits: Limits, path: &Path) -> Self {
        Self {
            limits,
            path: path.to_owned(),
            plan: Plan::default(),
            floor: Floor::default(),
            is_making: false,
            is_busy: false,
            rest_until: None,
            short: None,
            thinned: 0,
            shed: 0,
        }
    }

    pub(super) const fn limits(&self) -> Limits {
        self.limits
    }

    /// Makes room for a group of writes, and refuses it where there can be none. `released` is what
    /// may go without a loss.
    pub(super) fn admit(
        &mut self,
        database: &mut Database,
        released: Option<Seq>,
        wanted: u64,
        now: Instant,
    ) -> Result<()> {
        loop {
            let usage = self.folded(database)?;
            self.look(usage, now);
            match self.need(usage, wanted, self.limits.full()) {
                Need::Nothing => return Ok(()),
                Need::Refusal => return Err(self.below_floor()),
                Need::Room(goal) => {
                    self.is_making = true;
                    if !self.step(database, released, (usage, goal), now)? {
                        return Err(self.full(wanted));
                    }
                }
            }
        }
    }

    fn below_floor(&self) -> SpoolError {
        SpoolError::BelowFloor {
            path: self.path.clone(),
            floor: self.limits.min_free_bytes,
        }
    }

    /// What an entry that will never fit is answered.
    pub(super) fn full(&self, wanted: u64) -> SpoolError {
        SpoolError::Full {
            path: self.path.clone(),
            wanted,
            budget: self.limits.budget(),
        }
    }

    /// Whether one entry of this size can fit at all.
    pub(super) fn can_hold(&self, wanted: u64) -> bool {
        wanted <= self.limits.budget() / 4
    }

    /// Whether the disk has room again, as far as is known.
    pub(super) const fn has_room(&self) -> bool {
        !self.floor.is_short
    }

    /// Makes room between groups, one step of it.
    pub(super) fn tend(
        &mut self,
        database: &mut Database,
        released: Option<Seq>,
        now: Instant,
    ) -> Result<()> {
        if self.rest_until.is_some_and(|until| now < until) {
            return Ok(());
        }
        self.rest_until = None;
        let tended = self.tend_step(database, released, now);
        self.is_busy = tended.clone().unwrap_or(false);
        if let Err(error) = &tended {
            self.rest_until = Some(now + REST);
            if matches!(error, SpoolError::DiskFull(_)) {
                // The log may hold the room that is lacking; where it does not, that was told.
                database.checkpoint().ok();
            }
        }
        tended.map(|_| ())
    }

    fn tend_step(
        &mut self,
        database: &mut Database,
        released: Option<Seq>,
        now: Instant,
    ) -> Result<bool> {
        let usage = self.folded(database)?;
        self.look(usage, now);
        let mark = if self.is_making {
            self.limits.low()
        } else {
            self.limits.high()
        };
        match self.need(usage, 0, mark) {
            Need::Room(goal) => {
                self.is_making = true;
                // What is new is always there to be shed, so one step a turn would never get to what
                // is older and under way.
                let mut is_done = false;
                for _ in 0..STEPS {
                    is_done = !self.step(database, released, (usage, goal), now)?;
                    let freed = database.usage()?.free.saturating_sub(usage.free);
                    if is_done || freed >= goal {
                        break;
                    }
                }
                if is_done && self.floor.is_short {
                    return self.give_back(database, usage, now);
                }
                Ok(!is_done)
            }
            Need::Nothing | Need::Refusal => {
                self.is_making = false;
                self.give_back(database, usage, now)
            }
        }
    }

    /// What the spool takes, with a log that is not longer than it is reckoned with. SQLite folds it
    /// by itself and does not say where it could not.
    fn folded(&self, database: &mut Database) -> Result<Usage> {
        let usage = database.usage()?;
        if usage.log <= self.limits.log_bytes() {
            return Ok(usage);
        }
        database.cut_rest()?;
        database.checkpoint()?;
        database.usage()
    }

    /// When there is something to do, if nothing else happens.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        if self.rest_until.is_some() {
            return self.rest_until;
        }
        let step = self.is_busy.then_some(now);
        let pause = if self.floor.is_short { LOOK } else { IDLE_LOOK };
        let look = self.floor.looked.map(|looked| looked + pause);
        let calm = self.short.as_ref().filter(|_| !self.is_over());
        let calm = calm.map(|short| short.at + SHORT_FOR);
        [step, look, calm].into_iter().flatten().min()
    }

    /// How the storage is, as far as room goes, with a sentence for people.
    pub(super) fn disk(&mut self, now: Instant) -> (Disk, String) {
        let is_over = self.is_over();
        self.short
            .take_if(|short| !is_over && now >= short.at + SHORT_FOR);
        let Some(short) = &self.short else {
            return if is_over {
                (Disk::Short, self.reason())
            } else {
                (Disk::Fine, String::new())
            };
        };
        let doing = match short.worst {
            None => return (Disk::Short, short.reason.clone()),
            Some(Measure::Thin(_)) => "telemetry is thinned",
            Some(Measure::Shed(Class::Telemetry | Class::Gap)) => "the oldest telemetry goes",
            Some(Measure::Shed(Class::Custom)) => "the oldest custom events go",
            Some(Measure::Shed(Class::Essential)) => {
                "the oldest changes, alarms and command updates go"
            }
        };
        (Disk::Short, format!("{}: {doing}", short.reason))
    }

    /// Room was made.
    fn note(&mut self, measure: Option<Measure>, now: Instant) {
        let before = self.short.as_ref().and_then(|short| short.worst);
        self.short = Some(Short {
            at: now,
            reason: self.reason(),
            worst: before.into_iter().chain(measure).max_by_key(severity),
        });
    }

    const fn is_over(&self) -> bool {
        self.floor.is_short || self.is_making
    }

    fn reason(&self) -> String {
        const MIB: u64 = 1024 * 1024;
        if self.floor.is_short {
            let floor = self.limits.min_free_bytes / MIB;
            format!("the disk has less than {floor} MiB free")
        } else {
            let budget = self.limits.budget() / MIB;
            format!("the spool has filled its budget of {budget} MiB")
        }
    }

    /// Asks the disk how much is free, now and then.
    fn look(&mut self, usage: Usage, now: Instant) {
        if self.limits.min_free_bytes == 0 {
            return;
        }
        let taken = usage.used + usage.free + usage.log;
        if self.floor.looked.is_none_or(|at| now >= at + LOOK) {
            self.floor.looked = Some(now);
            // A disk that does not say is taken for a large one.
            self.floor.free = free_space(&self.path).unwrap_or(u64::MAX);
            self.floor.taken = taken;
        }
        let floor = self.limits.min_free_bytes;
        let free = self.free(taken);
        if free < floor {
            self.floor.is_short = true;
        } else if free >= floor.saturating_add(self.margin()) {
            self.floor.is_short = false;
        }
    }

    /// The disk must have this much more than the floor before it counts as having room again.
    const fn margin(&self) -> u64 {
        self.limits.min_free_bytes / 16
    }

    /// The free space by now, as far as the spool's own doing goes.
    const fn free(&self, taken: u64) -> u64 {
        self.floor
            .free
            .saturating_add(self.floor.taken)
            .saturating_sub(taken)
    }

    /// Nothing is on its way to the relay any more, so what the measures have worked on is not what
    /// they reach now.
    pub(super) fn forget_work(&mut self) {
        self.plan = Plan::default();
    }

    /// The disk is full before the floor was noticed: looks again at once.
    pub(super) const fn look_again(&mut self) {
        self.floor.looked = None;
    }

    /// How much the free space is below what is wanted.
    fn shortage(&self, usage: Usage) -> u64 {
        let wanted = self.limits.min_free_bytes.saturating_add(self.margin());
        wanted.saturating_sub(self.free(usage.used + usage.free + usage.log))
    }

    /// Whether `wanted` more bytes fit, with nothing wanted: whether the marks are kept.
    fn need(&self, usage: Usage, wanted: u64, mark: u64) -> Need {
        let limits = &self.limits;
        // What is written goes through the log.
        let passing = limits.log_pages() * FRAME + wanted + wanted / 2;
        let log = limits.log_bytes().max(passing);
        let over = (usage.used + log + wanted).saturating_sub(mark);
        let lacking = if !self.floor.is_short {
            0
        } else if wanted > 0 {
            let grows_little = usage.used + usage.free + wanted <= limits.reserve();
            let lacking = wanted.saturating_sub(usage.free);
            if grows_little { 0 } else { lacking }
        } else {
            let free = self.shortage(usage) + limits.reserve();
            free.saturating_sub(usage.free)
        };
        let spare = usage.used.saturating_sub(limits.share());
        // More than what passes through may add to the share, so that it rests there.
        let has_spare = spare > limits.reserve() * 2;
        if lacking > 0 && wanted > 0 && !has_spare {
            return Need::Refusal;
        }
        let lacking = if has_spare { lacking.min(spare) } else { 0 };
        match over.max(lacking) {
            0 => Need::Nothing,
            goal => Need::Room(goal),
        }
    }

    /// Says whether there was anything left to do.
    fn step(
        &mut self,
        database: &mut Database,
        released: Option<Seq>,
        (usage, goal): (Usage, u64),
        now: Instant,
    ) -> Result<bool> {
        if let Some(next) = released.filter(|next| database.holds_before(*next)) {
            database.transaction(|transaction| transaction.release(next))?;
            return Ok(true);
        }
        let Some(task) = self.plan.next(database.extent()) else {
            return Ok(false);
        };
        let max_bytes = usize::try_from(self.limits.group_bytes()).unwrap_or(usize::MAX);
        let rows = database.rows_of(&task, STEP_ROWS, max_bytes)?;
        let mut worked = retention::work(task.measure, &rows, goal)
            .map_err(|undecodable| self.undecodable(&undecodable))?;
        let is_full = usage.used + self.limits.log_bytes() > self.limits.full();
        if is_full {
            // A record that is no larger than its tombstone goes together with its neighbours.
            worked.changes.retain(|change| change.gains);
        }
        if !worked.changes.is_empty() {
            database.transaction(|transaction| transaction.replace(&worked.changes))?;
            self.note(Some(task.measure), now);
        }
        for change in &worked.changes {
            self.thinned = self.thinned.saturating_add(change.thinned);
            self.shed = self.shed.saturating_add(change.shed);
        }
        let is_stuck = worked.until <= task.from;
        let until = if is_stuck { task.end } else { worked.until };
        self.plan.worked(&task, until);
        Ok(true)
    }

    fn undecodable(&self, row: &retention::Undecodable) -> SpoolError {
        SpoolError::Corrupt {
            path: self.path.clone(),
            what: format!("row {} of table record: {}", row.row, row.reason),
        }
    }

    /// Gives free pages back while the disk is short. Says whether there is more to give.
    fn give_back(&mut self, database: &mut Database, usage: Usage, now: Instant) -> Result<bool> {
        if !self.floor.is_short {
            return Ok(false);
        }
        let spare = usage.free.saturating_sub(self.limits.reserve());
        let bytes = spare.min(self.shortage(usage));
        if bytes < FRAME {
            return Ok(false);
        }
        database.give_back(bytes.min(GIVE_BACK_STEP))?;
        self.note(None, now);
        Ok(true)
    }
}

/// The worse, the higher.
const fn severity(measure: &Measure) -> u64 {
    match measure {
        Measure::Thin(_) => 0,
        Measure::Shed(class) => 1 + class.number(),
    }
}

/// What the disk has for programs like this one.
fn free_space(path: &Path) -> Option<u64> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let disk = rustix::fs::statvfs(folder.unwrap_or_else(|| Path::new("."))).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}
