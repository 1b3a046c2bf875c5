//! What stored records mean for the rest of the relay: the ledger, the trip log and live state.
//!
//! Everything here is derived from the journal and can be derived again. Each effect is idempotent,
//! and the ledger's `applied` position moves last, so after a crash in the middle the same records
//! are applied once more and change nothing twice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use brrbrr_proto::id::{CommandId, Cursor, Epoch, RobotId, Seq};
use brrbrr_proto::link::relay::BoardClock;
use brrbrr_proto::up::{CommandUpdate, Event, Item, Progress, Record};
use jiff::Timestamp;
use thiserror::Error;
use tracing::{info, warn};

use crate::catalog::{Catalog, CatalogError, LedgerEntry};
use crate::guide;
use crate::journal::{Journal, JournalError, Run, TripStep};
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
    /// What `applied` is in the ledger, as far as this process wrote it. One entry for each robot.
    applied: Mutex<BTreeMap<RobotId, Cursor>>,
}

impl Projection {
    /// Applies to these stores.
    #[must_use]
    pub fn new(
        catalog: Arc<dyn Catalog>,
        journal: Arc<dyn Journal>,
        live: Arc<dyn Live>,
        metrics: Arc<LinkMetrics>,
    ) -> Self {
        Self {
            catalog,
            journal,
            live,
            metrics,
            applied: Mutex::new(BTreeMap::new()),
        }
    }

    /// Applies what the journal has and the ledger has not seen.
    ///
    /// # Errors
    /// Where a store is away; nothing is lost by trying again.
    pub async fn catch_up(&self, robot: RobotId, epoch: Epoch) -> Result<(), ProjectionError> {
        let mut from = self.catalog.applied(robot, epoch).await?;
        loop {
            let stored = self.journal.records(robot, epoch, from, CATCH_UP).await?;
            let Some(last) = stored.last() else { break };
            let next = last.seq.plus(last.item.covers);
            let mut updates = Vec::new();
            for record in &stored {
                self.apply_item(robot, &record.item, record.received, None, &mut updates)
                    .await?;
            }
            self.commit(robot, Cursor { epoch, next }, updates).await?;
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
        let mut updates = Vec::new();
        let mut next = run.first;
        for item in &run.items {
            self.apply_item(run.robot, item, run.received, Some(run.clock), &mut updates)
                .await?;
            next = next.plus(item.covers);
        }
        let cursor = Cursor {
            epoch: run.epoch,
            next,
        };
        if updates.is_empty() && self.lag(run.robot, cursor) < LAZY_RECORDS {
            return Ok(());
        }
        self.commit(run.robot, cursor, updates).await
    }

    async fn apply_item(
        &self,
        robot: RobotId,
        item: &Item,
        received: Timestamp,
        clock: Option<BoardClock>,
        updates: &mut Vec<(CommandUpdate, Timestamp)>,
    ) -> Result<(), ProjectionError> {
        let record = match Record::decode(&item.record) {
            Ok(record) => record,
            Err(error) => {
                // It stays in the journal as it came, for a newer relay or a person to read.
                self.metrics.undecodable_records.inc();
                warn!(%robot, %error, "record kept but not understood");
                return Ok(());
            }
        };
        let at = corrected(&record, received, clock);
        match record.event {
            Event::Changed(status) | Event::Telemetry(status) => {
                self.live.hear(robot, status, at).await?;
            }
            Event::Arrived(arrived) => {
                if let Some(command) = arrived.command {
                    self.arrive(robot, command, at).await?;
                }
            }
            Event::Command(update) => {
                self.follow(robot, &update).await?;
                updates.push((update, at));
            }
            Event::Tombstone(tombstone) => {
                self.metrics.records_shed.inc_by(tombstone.count);
                warn!(%robot, count = tombstone.count, loss = ?tombstone.loss, "records are missing");
            }
            Event::Thinned(thinned) => self.live.hear(robot, thinned.last, at).await?,
            Event::Alarm(alarm) => {
                info!(%robot, code = alarm.code, severity = ?alarm.severity, "alarm");
            }
            Event::Custom(_) => {}
        }
        Ok(())
    }

    async fn arrive(
        &self,
        robot: RobotId,
        command: CommandId,
        at: Timestamp,
    ) -> Result<(), ProjectionError> {
        if let Some(entry) = self.entry(robot, command).await? {
            self.log_trip(robot, &entry, TripStep::Arrived, at).await?;
        }
        // Only the trip that the robot is on can end; the arrival of an older one is history.
        self.live.advance(robot, command, Phase::Arrived).await?;
        Ok(())
    }

    async fn follow(&self, robot: RobotId, update: &CommandUpdate) -> Result<(), ProjectionError> {
        match update.progress {
            Progress::Received => {
                // Normally logged when it was ordered; not if the relay died just then.
                if let Some(entry) = self.entry(robot, update.command).await? {
                    let at = entry.command.submitted;
                    self.log_trip(robot, &entry, TripStep::Departed, at).await?;
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

    /// The command in the ledger, if it is there and the robot's own.
    async fn entry(
        &self,
        robot: RobotId,
        command: CommandId,
    ) -> Result<Option<LedgerEntry>, ProjectionError> {
        match self.catalog.command(command).await {
            Ok((entry, _)) => Ok(Some(entry).filter(|entry| entry.command.robot == robot)),
            Err(CatalogError::Missing(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn log_trip(
        &self,
        robot: RobotId,
        entry: &LedgerEntry,
        step: TripStep,
        at: Timestamp,
    ) -> Result<(), ProjectionError> {
        let name = self.catalog.robot(robot).await?.name;
        if let Some(line) = guide::trip_entry(&name, entry, step, at) {
            self.journal.log_trip(line).await?;
        }
        Ok(())
    }

    async fn commit(
        &self,
        robot: RobotId,
        cursor: Cursor,
        updates: Vec<(CommandUpdate, Timestamp)>,
    ) -> Result<(), ProjectionError> {
        let changed = self.catalog.apply(robot, cursor, updates).await?;
        self.note(robot, cursor);
        for entry in changed {
            let (command, state) = (entry.command.id, entry.state);
            info!(%robot, %command, ?state, "command");
            let state = state.name();
            self.metrics
                .command_steps
                .get_or_create(&StepLabel { state })
                .inc();
            // Once more, now that the ledger says so: whoever sets the guidance of a trip that ends
            // at once looks into the ledger afterwards, so one of the two sees the other.
            if let Some(phase) = guide::phase_after(&entry) {
                self.live.advance(robot, command, phase).await?;
            }
        }
        Ok(())
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

/// When the record was made, by the relay's calendar as far as it knows the board's clock. Never
/// after it was received.
fn corrected(record: &Record, received: Timestamp, clock: Option<BoardClock>) -> Timestamp {
    let same_boot = clock.filter(|clock| clock.boot == record.stamp.boot);
    let micros = same_boot.and_then(|clock| {
        let uptime = i64::try_from(record.stamp.uptime.since_boot().as_micros()).ok()?;
        uptime.checked_add(clock.estimate())
    });
    let corrected = micros.and_then(|micros| Timestamp::from_microsecond(micros).ok());
    corrected.map_or(received, |at| at.min(received))
}
