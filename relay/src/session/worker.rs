//! Storage work of one robot: one task for its up stream and one for its down stream, so that a
//! robot's work is done in order, robots do not wait for each other, and commands do not wait for a
//! backlog that drains.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use brrbrr_proto::building::Shared;
use brrbrr_proto::down::Command;
use brrbrr_proto::id::{Cursor, Epoch, Revision, RobotId, Seq, SessionId};
use brrbrr_proto::link::COMMANDS_PER_FRAME;
use brrbrr_proto::link::relay::{BuildingAnswer, Ledger, Now, Store, bytes_of};
use brrbrr_proto::live::{PerField, Status};
use brrbrr_proto::up::{Disk, MAX_BATCH_ITEMS, Report};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::metrics::LinkMetrics;
use super::random_u64;
use crate::building;
use crate::catalog::{Catalog, DownStream};
use crate::changes::Changes;
use crate::clock::{self, Clock, sleep_until};
use crate::journal::history::without_leaps;
use crate::journal::{Entry, Journal, Run};
use crate::live::{Live, Spool};
use crate::projection::{Projection, ProjectionError};

/// Jobs that wait for one robot's worker. The link's credit bounds what they hold; a full queue
/// counts as a failed job, which the link repeats.
const JOBS: usize = 64;
/// Items that are stored as one run. The link's credit is the bound for large ones; this one is for
/// small ones, and for how long other robots wait for one transaction.
const RUN_ITEMS: usize = 8 * MAX_BATCH_ITEMS;
/// How long a store that is away is left alone before the worker takes the next job.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(500);

/// How long to wait for the robot's word before the ledger says that a command was sent. Normally the
/// word is there within milliseconds, and one write is saved while the robot's disk works.
const MARK_SENT_AFTER: Duration = Duration::from_millis(500);

/// The stores and what is derived from them.
#[derive(Debug, Clone)]
pub struct Stores {
    /// Robots and the ledger.
    pub catalog: Arc<dyn Catalog>,
    /// Received records.
    pub journal: Arc<dyn Journal>,
    /// Newest statuses.
    pub live: Arc<dyn Live>,
    /// What records mean for the rest of the relay.
    pub projection: Arc<Projection>,
    /// Counters.
    pub metrics: Arc<LinkMetrics>,
}

impl Stores {
    /// These stores, and the projection over them.
    #[must_use]
    pub fn new(
        catalog: &Arc<dyn Catalog>,
        journal: &Arc<dyn Journal>,
        live: &Arc<dyn Live>,
        metrics: &Arc<LinkMetrics>,
        changes: &Arc<Changes>,
    ) -> Self {
        Self {
            catalog: Arc::clone(catalog),
            journal: Arc::clone(journal),
            live: Arc::clone(live),
            projection: Arc::new(Projection::new(
                Arc::clone(catalog),
                Arc::clone(journal),
                Arc::clone(live),
                Arc::clone(metrics),
                Arc::clone(changes),
            )),
            metrics: Arc::clone(metrics),
        }
    }
}

/// Work for a robot's up stream.
#[derive(Debug)]
pub enum UpJob {
    /// Look up where both streams stand.
    Recall {
        /// To be handed back.
        session: SessionId,
        /// The epoch of the up stream.
        epoch: Epoch,
    },
    /// Start a new epoch of the ledger, then as [`UpJob::Recall`].
    RenewLedger {
        /// To be handed back.
        session: SessionId,
        /// The epoch of the up stream.
        epoch: Epoch,
    },
    /// Store records.
    Store(Store),
}

/// Work for a robot's down stream.
#[derive(Debug)]
pub enum DownJob {
    /// Load commands that are due.
    Load {
        /// To be handed back.
        session: SessionId,
        /// The position of the first.
        from: Seq,
    },
    /// Commands were sent.
    Sent {
        /// The incarnation of the ledger that the positions are in.
        epoch: Epoch,
        /// The position of the first.
        from: Seq,
        /// The position after the last.
        to: Seq,
    },
    /// The robot has not acknowledged them soon, so the ledger shall say that they were sent.
    MarkSent,
    /// Commands are on the robot's board.
    Delivered(Cursor),
    /// The newest status, and how long ago the robot said each field.
    Status(Box<(Status, PerField<Duration>)>),
    /// How the spool of this epoch is.
    Report(Epoch, Report),
    /// The robot asks for its building. See [`brrbrr_proto::link::relay::Output::Building`].
    Building {
        /// To be handed back.
        session: SessionId,
        /// What all robots are told.
        shared: Arc<Shared>,
        /// What the robot has.
        have: Option<Revision>,
        /// What it wants.
        part: Option<u32>,
    },
}

/// What a worker has finished.
#[derive(Debug)]
pub enum Done {
    /// The keys of a robot that said hello; `None` where there are none.
    Admitted(RobotId, Option<brrbrr_proto::seal::Keys>),
    /// The robots that are in the catalog.
    Robots(BTreeSet<RobotId>),
    /// See [`brrbrr_proto::link::Relay::handle_recalled`].
    Recalled(RobotId, SessionId, Seq, Ledger),
    /// Nothing could be recalled.
    RecallFailed(RobotId),
    /// See [`brrbrr_proto::link::Relay::handle_stored`].
    Stored(RobotId, SessionId, Seq, usize),
    /// See [`brrbrr_proto::link::Relay::handle_store_failed`].
    StoreFailed(RobotId, SessionId, usize),
    /// See [`brrbrr_proto::link::Relay::handle_loaded`].
    /// What is left of the commands' time is counted from the moment that is given.
    Loaded(RobotId, SessionId, Seq, Vec<Command>, Now),
    /// See [`brrbrr_proto::link::Relay::handle_load_failed`].
    LoadFailed(RobotId, SessionId),
    /// See [`brrbrr_proto::link::Relay::handle_building`].
    Building(RobotId, SessionId, Option<BuildingAnswer>),
}

/// The workers of all robots.
#[derive(Debug)]
pub struct Workers {
    clock: Clock,
    stores: Stores,
    done: mpsc::Sender<Done>,
    robots: BTreeMap<RobotId, RobotWorkers>,
}

#[derive(Debug)]
struct RobotWorkers {
    up: mpsc::Sender<UpJob>,
    down: mpsc::Sender<DownJob>,
    tasks: [JoinHandle<()>; 2],
}

impl Workers {
    /// Starts without any.
    #[must_use]
    pub const fn new(clock: Clock, stores: Stores, done: mpsc::Sender<Done>) -> Self {
        Self {
            clock,
            stores,
            done,
            robots: BTreeMap::new(),
        }
    }

    /// Hands a job to the robot's up worker.
    ///
    /// # Errors
    /// Gives the job back where too many wait.
    pub fn up(&mut self, robot: RobotId, job: UpJob) -> Result<(), UpJob> {
        let sent = self.of(robot).up.try_send(job);
        sent.map_err(mpsc::error::TrySendError::into_inner)
    }

    /// Hands a job to the robot's down worker.
    ///
    /// # Errors
    /// Gives the job back where too many wait.
    pub fn down(&mut self, robot: RobotId, job: DownJob) -> Result<(), DownJob> {
        let sent = self.of(robot).down.try_send(job);
        sent.map_err(mpsc::error::TrySendError::into_inner)
    }

    /// Lets a robot's up worker end after what it has, and its down worker at once: what that would
    /// still say of the robot is to be forgotten. It has been when this is over.
    pub fn dismiss(&mut self, robot: RobotId) -> impl Future<Output = ()> + use<> {
        let workers = self.robots.remove(&robot);
        let down = workers.map(|workers| {
            let [_, down] = workers.tasks;
            down
        });
        let metrics = Arc::clone(&self.stores.metrics);
        async move {
            if let Some(down) = down {
                down.abort();
                down.await.ok();
            }
            metrics.forget_spool(robot);
        }
    }

    /// Lets all workers end and waits until they have. `done` is drained meanwhile.
    pub async fn finish(self, mut done: mpsc::Receiver<Done>) {
        let mut tasks = Vec::new();
        for (_, robot) in self.robots {
            tasks.extend(robot.tasks);
        }
        drop(self.done);
        let drain = async { while done.recv().await.is_some() {} };
        let ends = async {
            for task in tasks {
                if let Err(panic) = task.await {
                    error!(%panic, "a worker ended badly");
                }
            }
        };
        // A look-up of keys may still hold the channel open, so the workers' end is what counts.
        tokio::select! {
            () = ends => {}
            () = async { drain.await; std::future::pending::<()>().await } => {}
        }
    }

    fn of(&mut self, robot: RobotId) -> &RobotWorkers {
        let (clock, stores, done) = (self.clock, &self.stores, &self.done);
        let is_dead =
            |workers: &mut RobotWorkers| workers.tasks.iter().any(JoinHandle::is_finished);
        if self.robots.get_mut(&robot).is_some_and(is_dead) {
            // Only a panic ends a worker early; a new one starts from what is stored.
            error!(%robot, "a worker of the robot had died");
            self.robots.remove(&robot);
        }
        self.robots.entry(robot).or_insert_with(|| {
            let (up, up_jobs) = mpsc::channel(JOBS);
            let (down, down_jobs) = mpsc::channel(JOBS);
            let worker = Worker {
                robot,
                clock,
                stores: stores.clone(),
                done: done.clone(),
            };
            let tasks = [
                tokio::spawn(worker.clone().run_up(up_jobs)),
                tokio::spawn(worker.run_down(down_jobs)),
            ];
            RobotWorkers { up, down, tasks }
        })
    }
}

/// Adds the job to the run if it is the next run of the same session, and else gives it back.
fn join(run: &mut Store, job: UpJob) -> Option<UpJob> {
    let more = match job {
        UpJob::Store(more) => more,
        UpJob::Recall { .. } | UpJob::RenewLedger { .. } => return Some(job),
    };
    let covers = run.items.iter().map(|item| item.covers);
    let end = covers.fold(run.first, Seq::plus);
    let is_next = more.session == run.session && more.epoch == run.epoch && more.first == end;
    if !is_next {
        return Some(UpJob::Store(more));
    }
    run.items.extend(more.items);
    run.clock = more.clock;
    None
}

/// Commands that were sent, and when the ledger is to say so.
#[derive(Debug, Clone, Copy)]
struct SentRun {
    epoch: Epoch,
    from: Seq,
    to: Seq,
    at: Timestamp,
    mark_at: Instant,
}

#[derive(Debug, Clone)]
struct Worker {
    robot: RobotId,
    clock: Clock,
    stores: Stores,
    done: mpsc::Sender<Done>,
}

impl Worker {
    async fn run_up(self, mut jobs: mpsc::Receiver<UpJob>) {
        let mut waiting = None;
        let mut counted = None;
        loop {
            let job = match waiting.take() {
                Some(job) => Some(job),
                None => jobs.recv().await,
            };
            let Some(job) = job else { return };
            match job {
                UpJob::Recall { session, epoch } => {
                    let answer = self.recall(session, epoch).await;
                    self.report(answer).await;
                }
                UpJob::RenewLedger { session, epoch } => {
                    let answer = if self.renew_ledger().await {
                        self.recall(session, epoch).await
                    } else {
                        Done::RecallFailed(self.robot)
                    };
                    self.report(answer).await;
                }
                UpJob::Store(mut store) => {
                    // While one run was synced others came in; they share the next sync.
                    while waiting.is_none()
                        && store.items.len() < RUN_ITEMS
                        && let Ok(job) = jobs.try_recv()
                    {
                        waiting = join(&mut store, job);
                    }
                    self.store(store, &mut counted).await;
                }
            }
        }
    }

    async fn run_down(self, mut jobs: mpsc::Receiver<DownJob>) {
        let (robot, catalog) = (self.robot, &self.stores.catalog);
        let mut unmarked: Option<SentRun> = None;
        loop {
            let mark_at = unmarked.map(|run| run.mark_at);
            let job = tokio::select! {
                biased;
                job = jobs.recv() => job,
                () = sleep_until(mark_at) => Some(DownJob::MarkSent),
            };
            let Some(job) = job else { return };
            let outcome = match job {
                DownJob::Load { session, from } => {
                    self.load(session, from).await;
                    Ok(())
                }
                DownJob::Sent { epoch, from, to } => {
                    let known = unmarked.filter(|run| run.epoch == epoch);
                    unmarked = Some(SentRun {
                        epoch,
                        from: known.map_or(from, |run| run.from.min(from)),
                        to,
                        at: Timestamp::now(),
                        mark_at: Instant::now() + MARK_SENT_AFTER,
                    });
                    Ok(())
                }
                DownJob::MarkSent => match unmarked.take() {
                    Some(run) => {
                        let SentRun {
                            epoch, from, to, ..
                        } = run;
                        catalog.mark_sent(robot, epoch, from, to, run.at).await
                    }
                    None => Ok(()),
                },
                DownJob::Delivered(cursor) => {
                    unmarked = unmarked.filter(|run| run.to > cursor.next);
                    catalog.mark_delivered(robot, cursor).await
                }
                DownJob::Status(shown) => {
                    let (status, ages) = *shown;
                    let now = Timestamp::now();
                    // Past the start of the calendar nobody knows when it was.
                    let said = ages.map(|age| now.checked_sub(age).unwrap_or(Timestamp::MIN));
                    let heard = self.stores.live.hear(robot, status, said).await;
                    if let Err(error) = heard {
                        warn!(%robot, %error, "status not kept");
                    }
                    Ok(())
                }
                DownJob::Report(epoch, report) => {
                    self.hear_spool(epoch, report).await;
                    Ok(())
                }
                DownJob::Building {
                    session,
                    shared,
                    have,
                    part,
                } => {
                    let itself = catalog.robot(robot).await;
                    let answer = itself.map(|itself| building::answer(&shared, itself, have, part));
                    let answer = answer
                        .inspect_err(|error| warn!(%robot, %error, "the building is not sent"));
                    self.report(Done::Building(robot, session, answer.ok()))
                        .await;
                    Ok(())
                }
            };
            if let Err(error) = outcome {
                // The ledger lags behind the robot; its next beat or hello says it again.
                warn!(%robot, %error, "ledger not updated");
            }
        }
    }

    /// The robot hears nothing where a store is away, and says hello again.
    async fn recall(&self, session: SessionId, epoch: Epoch) -> Done {
        let (robot, stores) = (self.robot, &self.stores);
        if let Err(error) = stores.projection.catch_up(robot, epoch).await {
            warn!(%robot, %error, "no welcome: what was received could not be applied");
            return Done::RecallFailed(robot);
        }
        let up_next = match stores.journal.due(robot, epoch).await {
            Ok(due) => due,
            Err(error) => {
                warn!(%robot, %error, "no welcome: the journal does not answer");
                return Done::RecallFailed(robot);
            }
        };
        match stores.catalog.down_stream(robot).await {
            Ok(DownStream { epoch, acked, next }) => {
                let ledger = Ledger { epoch, acked, next };
                Done::Recalled(robot, session, up_next, ledger)
            }
            Err(error) => {
                warn!(%robot, %error, "no welcome: the catalog does not answer");
                Done::RecallFailed(robot)
            }
        }
    }

    async fn renew_ledger(&self) -> bool {
        let Some(epoch) = random_u64().map(Epoch) else {
            return false;
        };
        let renewed = self.stores.catalog.renew_down_stream(self.robot, epoch);
        if let Err(error) = renewed.await {
            warn!(robot = %self.robot, %error, "no new epoch for the ledger");
            return false;
        }
        true
    }

    async fn store(&self, store: Store, counted: &mut Option<Cursor>) {
        let (robot, session) = (self.robot, store.session);
        let bytes = bytes_of(&store.items);
        let run = Run {
            robot,
            epoch: store.epoch,
            first: store.first,
            entries: store.items.into_iter().map(Entry::read).collect(),
            received: Timestamp::now(),
            clock: store.clock,
        };
        let outcome = self.store_and_apply(Arc::new(run), counted).await;
        match outcome {
            Ok(next) => {
                self.report(Done::Stored(robot, session, next, bytes)).await;
            }
            Err(error) => {
                self.stores.metrics.store_failures.inc();
                warn!(%robot, %error, "records not acknowledged");
                // The store is away for every job, so do not run through the queue at full speed.
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                self.report(Done::StoreFailed(robot, session, bytes)).await;
            }
        }
    }

    /// Stores first, then applies: what is derived can always be derived again from the journal.
    async fn store_and_apply(
        &self,
        run: Arc<Run>,
        counted: &mut Option<Cursor>,
    ) -> Result<Seq, ProjectionError> {
        let next = self.stores.journal.store(Arc::clone(&run)).await?;
        let known = counted.filter(|counted| counted.epoch == run.epoch);
        self.count(&run, known.map_or(Seq::FIRST, |counted| counted.next));
        let epoch = run.epoch;
        *counted = Some(Cursor { epoch, next });
        self.stores.projection.apply(&run).await?;
        Ok(next)
    }

    /// Counts what is stored of a run and reaches past `known`. A run that could not be applied comes
    /// again and is not counted again.
    fn count(&self, run: &Run, known: Seq) {
        let (robot, metrics) = (self.robot, &self.stores.metrics);
        let mut next = run.first;
        let mut undecodable = None;
        for entry in &run.entries {
            next = next.plus(entry.item.covers);
            if next <= known {
                continue;
            }
            metrics.records.inc();
            if let Some(hole) = entry.hole() {
                metrics.count_hole(&hole);
            }
            if let Err(error) = &entry.record {
                // It stays in the journal as it came, for a newer relay or a person to read.
                metrics.undecodable_records.inc();
                let (count, first) = undecodable.unwrap_or((0_u64, error));
                undecodable = Some((count.saturating_add(1), first));
            }
        }
        // They come by the thousand from a newer gateway, so they are told of together.
        if let Some((count, error)) = undecodable {
            warn!(%robot, count, %error, "records kept but not understood");
        }
    }

    async fn hear_spool(&self, epoch: Epoch, report: Report) {
        let (robot, stores) = (self.robot, &self.stores);
        if let Ok(due) = stores.journal.due(robot, epoch).await {
            let waiting = without_leaps(report.next.since(due));
            stores.metrics.hear_spool(robot, report.disk, waiting);
        }
        let before = stores.live.spool(robot).await.ok().flatten();
        let before = before.map_or(Disk::Fine, |spool| spool.report.disk);
        let detail = &report.detail;
        match report.disk {
            Disk::Fine | Disk::Short | Disk::Failing if report.disk == before => {}
            Disk::Fine => info!(%robot, "the robot's disk is fine again"),
            disk @ (Disk::Short | Disk::Failing) => {
                warn!(%robot, ?disk, detail, "the robot's disk is not well");
            }
        }
        let at = Timestamp::now();
        let spool = Spool { epoch, report, at };
        if let Err(error) = stores.live.hear_spool(robot, spool).await {
            warn!(%robot, %error, "the state of the spool not kept");
        }
    }

    async fn load(&self, session: SessionId, from: Seq) {
        let (robot, catalog) = (self.robot, &self.stores.catalog);
        let answer = match catalog.offer(robot, from, COMMANDS_PER_FRAME).await {
            Ok(entries) => {
                // Before the calendar is read: whatever passes until the frame is sent counts as a
                // delay on the way, and so against the commands' time.
                let sent = self.clock.now();
                let now = clock::calendar();
                let commands = entries.into_iter().map(|entry| entry.to_send(now));
                Done::Loaded(robot, session, from, commands.collect(), sent)
            }
            Err(error) => {
                warn!(%robot, %error, "commands not loaded");
                Done::LoadFailed(robot, session)
            }
        };
        self.report(answer).await;
    }

    async fn report(&self, done: Done) {
        // The driver only stops listening when the relay stops.
        self.done.send(done).await.ok();
    }
}

#[cfg(test)]
mod tests;
