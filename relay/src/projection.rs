//! What stored records mean for the rest of the relay: the ledger, the trip log and live state.
//!
//! Everything here is derived from the journal and can be derived again. Each effect is idempotent,
//! and the ledger's `applied` position moves last, so after a crash in the middle the same records
//! are applied once more and change nothing twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use brrbrr_proto::down::Order;
use brrbrr_proto::id::{CommandId, Cursor, Epoch, RobotId, Seq};
use brrbrr_proto::live::Status;
use brrbrr_proto::time::Stamp;
use brrbrr_proto::up::{Alarm, CommandUpdate, Event, Ordered, Progress, Thinned, Tombstone};
use jiff::{SignedDuration, Timestamp};
use thiserror::Error;
use tracing::{info, warn};

use crate::catalog::{Catalog, CatalogError, Change, LedgerEntry, LedgerUpdate, NewCommand};
use crate::changes::Changes;
use crate::guide;
use crate::journal::clock::{BootClock, Repaired, Timeline};
use crate::journal::view::loss_name;
use crate::journal::{Entry, Journal, JournalError, Run, Stored, TripStep};
use crate::live::{Live, LiveError, Phase};
use crate::session::metrics::{LinkMetrics, StepLabel};

/// How far the ledger's position may lag behind the journal while records do not concern it. It
/// saves a disk write for every batch of telemetry, and bounds what is read again after a restart.
const LAZY_RECORDS: u64 = 10_000;
/// How many records are read from the journal at a time when catching up.
const CATCH_UP: usize = 1_000;

/// Why records were not applied. They are in the journal and will be applied later.
#[derive(Debug, Error)]
pub enum ProjectionError {
    /// The catalog refused or is away.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The journal refused or is away.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Live state is away.
    #[error(transparent)]
    Live(#[from] LiveError),
}

/// Applies records. See the module's documentation.
#[derive(Debug)]
pub struct Projection {
    catalog: Arc<dyn Catalog>,
    journal: Arc<dyn Journal>,
    live: Arc<dyn Live>,
    metrics: Arc<LinkMetrics>,
    changes: Arc<Changes>,
    /// What `applied` is in the ledger, as far as this process wrote it. One entry for each robot.
    applied: Mutex<BTreeMap<RobotId, Cursor>>,
    /// Streams of which something in the journal could not be applied.
    behind: Mutex<BTreeSet<(RobotId, Epoch)>>,
}

impl Projection {
    /// Applies to these stores.
    #[must_use]
    pub fn new(
        catalog: Arc<dyn Catalog>,
        journal: Arc<dyn Journal>,
        live: Arc<dyn Live>,
        metrics: Arc<LinkMetrics>,
        changes: Arc<Changes>,
    ) -> Self {
        Self {
            catalog,
            journal,
            live,
            metrics,
            changes,
            applied: Mutex::new(BTreeMap::new()),
            behind: Mutex::new(BTreeSet::new()),
        }
    }

    /// Applies what the journal has and the ledger has not seen.
    ///
    /// # Errors
    /// Where a store is away; nothing is lost by trying again.
    pub async fn catch_up(&self, robot: RobotId, epoch: Epoch) -> Result<(), ProjectionError> {
        let mut from = self.catalog.applied(robot, epoch).await?;
        let mut timeline = None;
        loop {
            let stored = self.journal.records(robot, epoch, from, CATCH_UP).await?;
            let Some(last) = stored.last() else { break };
            let next = last.seq.plus(last.item.covers);
            let timeline = match &timeline {
                Some(timeline) => timeline,
                None => timeline.insert(self.journal.timeline(robot, epoch).await?),
            };
            let mut effects = Effects::default();
            for Stored {
                seq,
                item,
                received,
            } in stored
            {
                let received = Received {
                    robot,
                    seq,
                    at: received,
                    timeline,
                };
                self.apply_entry(&received, &Entry::read(item), &mut effects)
                    .await?;
            }
            self.hear(robot, effects.statuses).await?;
            if let Some(merged) = effects.merged {
                merged.warn(robot);
            }
            self.commit(robot, Cursor { epoch, next }, effects.updates)
                .await?;
            from = next;
        }
        self.note(robot, Cursor { epoch, next: from });
        Ok(())
    }

    /// Applies a run that the journal has just stored.
    ///
    /// # Errors
    /// Where a store is away; nothing is lost by trying again.
    pub async fn apply(&self, run: &Run) -> Result<(), ProjectionError> {
        let robot = run.robot;
        let stream = (robot, run.epoch);
        if self.is_behind(stream) {
            // An earlier run is in the journal and not applied; this one must not hide it.
            self.catch_up(robot, run.epoch).await?;
            self.set_behind(stream, false);
            return Ok(());
        }
        let applied = self.apply_run(run).await;
        if applied.is_err() {
            self.set_behind(stream, true);
        }
        applied
    }

    async fn apply_run(&self, run: &Run) -> Result<(), ProjectionError> {
        let timeline = self.timeline(run).await?;
        let mut effects = Effects::default();
        let mut next = run.first;
        for entry in &run.entries {
            let received = Received {
                robot: run.robot,
                seq: next,
                at: run.received,
                timeline: &timeline,
            };
            self.apply_entry(&received, entry, &mut effects).await?;
            next = next.plus(entry.item.covers);
        }
        let cursor = Cursor {
            epoch: run.epoch,
            next,
        };
        self.hear(run.robot, effects.statuses).await?;
        if let Some(merged) = effects.merged {
            merged.warn(run.robot);
        }
        if effects.updates.is_empty() && self.lag(run.robot, cursor) < LAZY_RECORDS {
            return Ok(());
        }
        self.commit(run.robot, cursor, effects.updates).await
    }

    /// What is known of the boots that the run tells of. Nearly always that is the present one.
    async fn timeline(&self, run: &Run) -> Result<Timeline, ProjectionError> {
        let boot = run.clock.boot;
        let mut moments = run.entries.iter().flat_map(Entry::moments);
        if moments.all(|moment| moment.boot == boot) {
            let heard = BootClock::heard(&run.clock, run.received);
            return Ok(Timeline::of_boot(boot, heard));
        }
        Ok(self.journal.timeline(run.robot, run.epoch).await?)
    }

    async fn apply_entry(
        &self,
        received: &Received<'_>,
        entry: &Entry,
        effects: &mut Effects,
    ) -> Result<(), ProjectionError> {
        let robot = received.robot;
        let Ok(record) = &entry.record else {
            // It stays in the journal as it came, for a newer relay or a person to read.
            return Ok(());
        };
        let at = || received.time(record.stamp).corrected;
        match &record.event {
            Event::Changed(status) | Event::Telemetry(status) => {
                effects.statuses.push((status.clone().finite(), at()));
            }
            Event::Arrived(arrived) => {
                if let Some(command) = arrived.command {
                    let entry = self.entry(robot, command, effects).await?;
                    self.arrive(robot, command, entry, at()).await?;
                }
            }
            Event::Command(update) => {
                self.follow(robot, update, effects).await?;
                let update = LedgerUpdate::Step(update.clone());
                effects.updates.push((update, at()));
            }
            Event::Ordered(ordered) => effects.order(robot, ordered, at()),
            Event::Progressed(progressed) => {
                let update = LedgerUpdate::Progressed(progressed.clone());
                effects.updates.push((update, at()));
            }
            Event::Tombstone(tombstone) => warn_of_hole(received, tombstone),
            Event::Thinned(thinned) => {
                let merged = Merged::new(received, thinned, record.stamp);
                let before = effects.merged;
                effects.merged = Some(before.map_or(merged, |before| before.join(merged)));
                effects.statuses.push((thinned.last.clone().finite(), at()));
            }
            Event::Alarm(alarm) => {
                let Alarm { code, severity, .. } = alarm;
                info!(%robot, code, ?severity, "alarm");
            }
            Event::Custom(_) => {}
        }
        Ok(())
    }

    /// Takes over what the robot said of itself, oldest first.
    async fn hear(
        &self,
        robot: RobotId,
        statuses: Vec<(Status, Timestamp)>,
    ) -> Result<(), ProjectionError> {
        if !statuses.is_empty() {
            self.live.hear_late(robot, statuses).await?;
        }
        Ok(())
    }

    async fn arrive(
        &self,
        robot: RobotId,
        command: CommandId,
        entry: Option<NewCommand>,
        at: Timestamp,
    ) -> Result<(), ProjectionError> {
        if let Some(entry) = entry {
            self.log_trip(robot, &entry, TripStep::Arrived, at).await?;
        }
        // Only the trip that the robot is on can end; the arrival of an older one is history.
        self.live.advance(robot, command, Phase::Arrived).await?;
        Ok(())
    }

    async fn follow(
        &self,
        robot: RobotId,
        update: &CommandUpdate,
        effects: &Effects,
    ) -> Result<(), ProjectionError> {
        match update.progress {
            Progress::Received => {
                // Normally logged when it was ordered; not if the relay died just then, or if it was
                // ordered on the board.
                if let Some(command) = self.entry(robot, update.command, effects).await? {
                    let at = command.submitted;
                    self.log_trip(robot, &command, TripStep::Departed, at)
                        .await?;
                }
            }
            Progress::Running | Progress::Succeeded => {}
            Progress::Failed
            | Progress::Cancelled
            | Progress::Expired
            | Progress::Superseded
            | Progress::Interrupted => {
                self.live
                    .advance(robot, update.command, Phase::Stopped)
                    .await?;
            }
        }
        Ok(())
    }

    /// The command in the ledger, or on its way there, if it is the robot's own.
    async fn entry(
        &self,
        robot: RobotId,
        command: CommandId,
        effects: &Effects,
    ) -> Result<Option<NewCommand>, ProjectionError> {
        match self.catalog.command(command).await {
            Ok((entry, _)) => Ok(Some(entry.command).filter(|command| command.robot == robot)),
            Err(CatalogError::Missing(_)) => Ok(effects.ordered.get(&command).cloned()),
            Err(error) => Err(error.into()),
        }
    }

    async fn log_trip(
        &self,
        robot: RobotId,
        command: &NewCommand,
        step: TripStep,
        at: Timestamp,
    ) -> Result<(), ProjectionError> {
        let name = self.catalog.robot(robot).await?.name;
        if let Some(line) = guide::trip_entry(&name, command, step, at) {
            self.journal.log_trip(line).await?;
        }
        Ok(())
    }

    async fn commit(
        &self,
        robot: RobotId,
        cursor: Cursor,
        updates: Vec<(LedgerUpdate, Timestamp)>,
    ) -> Result<(), ProjectionError> {
        let changed = self.catalog.apply(robot, cursor, updates).await?;
        self.note(robot, cursor);
        for (change, entry) in changed {
            let (command, state) = (entry.command.id, entry.state);
            match change {
                Change::Progress => {}
                Change::Entered => {
                    info!(%robot, %command, "command given on the board");
                    self.show(&entry).await?;
                }
                Change::Step => {
                    info!(%robot, %command, ?state, "command");
                    let state = state.name();
                    self.metrics
                        .command_steps
                        .get_or_create(&StepLabel { state })
                        .inc();
                }
            }
            // Once more, now that the ledger says so: whoever sets the guidance of a trip that ends
            // at once looks into the ledger afterwards, so one of the two sees the other.
            if let Some(phase) = guide::phase_after(&entry) {
                self.live.advance(robot, command, phase).await?;
            }
            self.changes.tell(command);
        }
        Ok(())
    }

    /// Shows a trip that was ordered on the board, if nothing newer has moved or stopped the robot.
    /// Where something did just now, that is shown: its own showing may have come first.
    async fn show(&self, entry: &LedgerEntry) -> Result<(), ProjectionError> {
        let robot = entry.command.robot;
        let mut shown = None;
        // The second look finds what was ordered during the first.
        for _ in 0..2 {
            let recent = self.catalog.recent_commands(robot, guide::RECENT).await?;
            let newest = guide::newest_drive(&recent);
            let Some(newest) = newest.filter(|newest| shown != Some(newest.command.id)) else {
                return Ok(());
            };
            let is_own = newest.command.id == entry.command.id;
            if shown.is_none() && !is_own {
                return Ok(());
            }
            let Some(guidance) = guide::guidance_of(newest) else {
                return Ok(());
            };
            self.live.set_guidance(robot, guidance).await?;
            shown = Some(newest.command.id);
        }
        Ok(())
    }

    fn is_behind(&self, stream: (RobotId, Epoch)) -> bool {
        let behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        behind.contains(&stream)
    }

    fn set_behind(&self, stream: (RobotId, Epoch), is_behind: bool) {
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        if is_behind {
            behind.insert(stream);
        } else {
            behind.remove(&stream);
        }
    }

    fn note(&self, robot: RobotId, cursor: Cursor) {
        self.applied
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(robot, cursor);
    }

    fn lag(&self, robot: RobotId, cursor: Cursor) -> u64 {
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        let same_epoch = applied.get(&robot).filter(|own| own.epoch == cursor.epoch);
        cursor
            .next
            .since(same_epoch.map_or(Seq::FIRST, |own| own.next))
    }
}

/// Where a record stands and when it came.
struct Received<'a> {
    robot: RobotId,
    seq: Seq,
    at: Timestamp,
    timeline: &'a Timeline,
}

impl Received<'_> {
    fn time(&self, stamp: Stamp) -> Repaired {
        self.timeline.repair(self.seq, stamp, self.at)
    }
}

/// What is to be done for several records at once.
#[derive(Debug, Default)]
struct Effects {
    updates: Vec<(LedgerUpdate, Timestamp)>,
    /// Commands that were given on the board, which are among the updates.
    ordered: BTreeMap<CommandId, NewCommand>,
    statuses: Vec<(Status, Timestamp)>,
    merged: Option<Merged>,
}

impl Effects {
    fn order(&mut self, robot: RobotId, ordered: &Ordered, at: Timestamp) {
        if ordered.order == Order::Withdrawn {
            // No board gives such an order.
            return;
        }
        let lifetime = SignedDuration::try_from(ordered.time_to_live);
        let deadline = at.saturating_add(lifetime.unwrap_or(SignedDuration::MAX));
        let command = NewCommand {
            id: ordered.command,
            robot,
            order: ordered.order.clone(),
            deadline: deadline.unwrap_or(Timestamp::MAX),
            actor: ordered.actor.clone(),
            idempotency_key: ordered.key.clone(),
            submitted: at,
        };
        self.ordered.insert(ordered.command, command.clone());
        self.updates.push((LedgerUpdate::Ordered(command), at));
    }
}

fn warn_of_hole(received: &Received<'_>, tombstone: &Tombstone) {
    let robot = received.robot;
    let moment = |stamp: Option<Stamp>| match stamp {
        Some(stamp) => received.time(stamp).corrected.to_string(),
        None => "unknown".to_owned(),
    };
    let count = match tombstone.count {
        0 => "unknown".to_owned(),
        count => count.to_string(),
    };
    let reason = loss_name(tombstone.loss);
    let (since, until) = (moment(tombstone.since), moment(tombstone.until));
    warn!(%robot, count, reason, since, until, "records are missing");
}

/// Samples that were thinned, of one run. They come by the thousand, so they are told of together.
#[derive(Debug, Clone, Copy)]
struct Merged {
    samples: u64,
    left: u64,
    since: Timestamp,
    until: Timestamp,
}

impl Merged {
    fn new(received: &Received<'_>, thinned: &Thinned, last: Stamp) -> Self {
        Self {
            samples: thinned.count,
            left: 1,
            since: received.time(thinned.since).corrected,
            until: received.time(last).corrected,
        }
    }

    fn join(self, later: Self) -> Self {
        Self {
            samples: self.samples.saturating_add(later.samples),
            left: self.left.saturating_add(later.left),
            since: self.since.min(later.since),
            until: self.until.max(later.until),
        }
    }

    fn warn(self, robot: RobotId) {
        let Self {
            samples: count,
            left,
            since,
            until,
        } = self;
        warn!(%robot, count, left, reason = "thinned", %since, %until, "samples were merged");
    }
}
