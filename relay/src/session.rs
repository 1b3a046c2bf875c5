//! The session driver: carries frames between the broker and the fleet, and hands each robot's
//! storage work to that robot's own workers.
//!
//! One task owns the fleet. Its inputs are [`Input`]; before it reads the next one it carries out
//! every output of the last. It never waits for storage: workers answer with [`Input::Done`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use brrbrr_proto::id::{Epoch, RelayId, Revision, RobotId, SessionId};
use brrbrr_proto::link::Relay;
use brrbrr_proto::link::relay::{BuildingAnswer, Grants, Output};
use brrbrr_proto::seal::{Keys, NONCE_BYTES};
use brrbrr_proto::topic::{Topic, TopicKind};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use crate::broker::{BrokerHandle, Inbound};
use crate::building;
use crate::catalog::Catalog;
use crate::clock::{self, Clock, sleep_until};
use crate::fleet::Fleet;
use crate::fleet::admission::{Admission, Arrival, Bounds};
use crate::live::{Cause, Live};
use crate::wake::{Urgency, Wakeups};
use contacts::{ALIVE_EVERY, Contacts};
use metrics::LinkMetrics;
use worker::{Done, DownJob, UpJob, Workers};

pub mod contacts;
pub mod load;
pub mod metrics;
pub mod worker;

/// What every robot is granted. The credit is what one relay may have to hold in memory for a robot
/// that drains; see `fleet` for how many may at a time, and what the others have.
pub const GRANTS: Grants = Grants {
    credit: 1024 * 1024,
    live_interval: Duration::from_millis(200),
    beat_interval: Duration::from_secs(10),
};

/// Results that wait for the driver. Workers wait when it is full; the driver never waits for them,
/// so this cannot lock up.
const DONE_QUEUE: usize = 1024;
/// Look-ups of keys at a time, and hellos of unknown robots that wait for one. A look-up is one read
/// from memory most of the time; a robot whose hello does not fit in says it again.
const LOOK_UPS: Bounds = Bounds {
    slots: 32,
    line: 4096,
    guess: Duration::from_millis(1),
};
/// The largest hello. A gateway's is about 150 bytes; the name of its version is the only text in it.
const MAX_HELLO_BYTES: usize = 1024;
/// How often to look for robots that another process has removed from the catalog.
const SWEEP: Duration = Duration::from_secs(10);
/// How long shutting down may wait for workers to finish what they began.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// What the driver works with.
#[derive(Debug)]
pub struct Parts {
    /// This relay process.
    pub relay: RelayId,
    /// Where frames to robots go.
    pub broker: BrokerHandle,
    /// Where frames from robots come from.
    pub frames: mpsc::Receiver<Inbound>,
    /// Robots that were removed from the catalog.
    pub removed: mpsc::Receiver<RobotId>,
    /// Robots with something new in their ledger.
    pub wakeups: Arc<Wakeups>,
    /// Storage.
    pub workers: worker::Stores,
    /// Counters.
    pub metrics: Arc<LinkMetrics>,
}

/// Why the driver ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No frame can come in any more.
    #[error("the message broker ended")]
    BrokerEnded,
}

/// What can happen to the driver.
enum Input {
    Frame(Inbound),
    Done(Done),
    Wake(BTreeMap<RobotId, Urgency>),
    Removed(RobotId),
    Building,
    Timeout,
    Sweep,
    Alive,
    Stop,
}

/// Runs until `stop` turns true.
///
/// # Errors
/// [`SessionError`] where it cannot go on.
pub async fn run(parts: Parts, mut stop: watch::Receiver<bool>) -> Result<(), SessionError> {
    let Parts {
        relay,
        broker,
        mut frames,
        mut removed,
        wakeups,
        workers,
        metrics,
    } = parts;
    let (done_tx, mut done) = mpsc::channel(DONE_QUEUE);
    let (building_tx, mut building) = watch::channel(None);
    let catalog = Arc::clone(&workers.catalog);
    let looks = tokio::spawn(building::watch(
        catalog,
        Arc::clone(&wakeups),
        building::LOOK_EVERY,
        building_tx,
    ));
    let clock = Clock::start();
    let mut driver = Driver {
        building: building.clone(),
        clock,
        fleet: Fleet::new(relay, GRANTS),
        catalog: Arc::clone(&workers.catalog),
        contacts: Contacts::start(Arc::clone(&workers.live)),
        robots: 0,
        live: Arc::clone(&workers.live),
        workers: Workers::new(clock, workers, done_tx.clone()),
        look_ups: Admission::new(LOOK_UPS),
        looked_up: BTreeMap::new(),
        done: done_tx,
        broker,
        metrics,
    };
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut alive = tokio::time::interval(ALIVE_EVERY);
    alive.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let timeout = driver
            .fleet
            .poll_timeout()
            .map(|at| driver.clock.instant(at));
        let input = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => Input::Stop,
            Some(done) = done.recv() => Input::Done(done),
            robots = wakeups.next() => Input::Wake(robots),
            Some(robot) = removed.recv() => Input::Removed(robot),
            Ok(()) = building.changed() => Input::Building,
            () = sleep_until(timeout) => Input::Timeout,
            _ = sweep.tick() => Input::Sweep,
            _ = alive.tick() => Input::Alive,
            frame = frames.recv() => match frame {
                Some(frame) => Input::Frame(frame),
                None => return Err(SessionError::BrokerEnded),
            },
        };
        if matches!(input, Input::Stop) {
            break;
        }
        driver.handle(input);
        driver.carry_out();
    }
    driver.note_alive();
    looks.abort();
    // What was handed to the stores is finished, but nobody waits for a store that hangs.
    let finish = async { tokio::join!(driver.workers.finish(done), driver.contacts.finish()) };
    let drained = tokio::time::timeout(DRAIN_LIMIT, finish).await;
    if drained.is_err() {
        warn!("stores did not finish in time; robots will send again what was not acknowledged");
    }
    Ok(())
}

struct Driver {
    clock: Clock,
    fleet: Fleet,
    catalog: Arc<dyn Catalog>,
    live: Arc<dyn Live>,
    contacts: Contacts,
    /// How many robots the catalog had when it was last asked.
    robots: usize,
    building: watch::Receiver<building::Known>,
    workers: Workers,
    /// Hellos of robots whose keys are to be looked up.
    look_ups: Admission<Inbound>,
    /// Hellos of robots whose keys are being looked up.
    looked_up: BTreeMap<RobotId, Inbound>,
    done: mpsc::Sender<Done>,
    broker: BrokerHandle,
    metrics: Arc<LinkMetrics>,
}

impl Driver {
    fn handle(&mut self, input: Input) {
        let now = self.clock.now();
        match input {
            Input::Frame(frame) => self.handle_frame(frame),
            Input::Done(done) => self.handle_done(done),
            Input::Wake(robots) => {
                for (robot, urgency) in robots {
                    let wake = match urgency {
                        Urgency::Usual => Relay::handle_wake,
                        Urgency::Urgent => Relay::handle_urgent_wake,
                    };
                    self.fleet.with(robot, now, wake);
                }
            }
            Input::Removed(robot) => self.remove(robot),
            Input::Building => self.fleet.handle_building_changed(now),
            Input::Timeout => self.fleet.handle_timeout(now),
            Input::Sweep => self.sweep(),
            Input::Alive => self.note_alive(),
            Input::Stop => {}
        }
    }

    fn handle_frame(&mut self, frame: Inbound) {
        let (topic, robot) = (frame.topic, frame.topic.robot());
        if topic.kind() == TopicKind::Hello {
            if frame.payload.len() > MAX_HELLO_BYTES {
                self.metrics.frames_refused.inc();
                debug!(%robot, bytes = frame.payload.len(), "hello is too long");
                return;
            }
            // A robot that is known may have been enrolled anew since its keys were read.
            if !self.fleet.knows(robot) || !self.open_hello(&frame) {
                self.admit(frame);
            }
            return;
        }
        let now = self.clock.now();
        if let Err(error) = self.fleet.handle_frame(topic, &frame.payload, now) {
            self.metrics.frames_refused.inc();
            debug!(%robot, %topic, %error, "frame refused");
        }
    }

    /// Looks up the robot's keys, soon or later, then goes on with its hello.
    fn admit(&mut self, hello: Inbound) {
        let robot = hello.topic.robot();
        let now = self.clock.now().uptime;
        match self.look_ups.arrive(robot, hello, 0, now) {
            Arrival::Serve(hello) => self.look_up(hello),
            Arrival::Waits => {}
            // Nothing can be sealed for a robot whose keys are not known, so it hears nothing.
            Arrival::Away(robot, ..) => {
                debug!(%robot, "hello dropped; too many wait for their keys")
            }
        }
    }

    fn look_up(&mut self, hello: Inbound) {
        let robot = hello.topic.robot();
        self.looked_up.insert(robot, hello);
        let (catalog, done) = (Arc::clone(&self.catalog), self.done.clone());
        tokio::spawn(async move {
            let keys = match catalog.secret(robot).await {
                Ok(secret) => Some(Keys::new(&secret)),
                Err(error) => {
                    warn!(%robot, %error, "no keys for a robot that said hello");
                    None
                }
            };
            // The driver only stops listening when the relay stops.
            done.send(Done::Admitted(robot, keys)).await.ok();
        });
    }

    fn handle_admitted(&mut self, robot: RobotId, keys: Option<Keys>) {
        let hello = self.looked_up.remove(&robot);
        if let (Some(keys), Some(hello)) = (keys, hello) {
            let is_new = !self.fleet.knows(robot);
            self.fleet.admit(robot, keys);
            if !self.open_hello(&hello) {
                self.metrics.frames_refused.inc();
                // Once for each robot; whoever can write to its topic could fill the log.
                if is_new {
                    warn!(%robot, "hello refused; was the robot enrolled here?");
                }
            }
        }
        let now = self.clock.now().uptime;
        self.look_ups.end(robot, now);
        while let Some((_, hello)) = self.look_ups.poll_next(now) {
            self.look_up(hello);
        }
    }

    fn remove(&mut self, robot: RobotId) {
        info!(%robot, "robot removed");
        self.fleet.dismiss(robot, self.clock.now());
        self.look_ups.forget(robot);
        self.looked_up.remove(&robot);
        self.contacts.forget(robot);
        let ended = self.workers.dismiss(robot);
        self.broker.disconnect(robot);
        let live = Arc::clone(&self.live);
        tokio::spawn(async move {
            ended.await;
            if let Err(error) = live.forget(robot).await {
                warn!(%robot, %error, "the removed robot's code and face are kept");
            }
        });
    }

    fn note_alive(&self) {
        let now = self.clock.now();
        if let Ok(wall) = Timestamp::from_microsecond(now.wall.0) {
            // The next start must not begin before the calendar of this one ended.
            let at = wall.max(clock::calendar());
            self.contacts.note_alive(at, self.fleet.heard(now));
        }
    }

    /// Asks which robots there are; `brrbrr-relay robot remove` is another process.
    fn sweep(&self) {
        let (catalog, done) = (Arc::clone(&self.catalog), self.done.clone());
        tokio::spawn(async move {
            if let Ok(robots) = catalog.robots().await {
                let robots = robots.iter().map(|robot| robot.id).collect();
                done.send(Done::Robots(robots)).await.ok();
            }
        });
    }

    fn handle_done(&mut self, done: Done) {
        let now = self.clock.now();
        match done {
            Done::Admitted(robot, keys) => self.handle_admitted(robot, keys),
            Done::Robots(robots) => {
                self.robots = robots.len();
                for robot in self.fleet.not_among(&robots) {
                    self.remove(robot);
                }
            }
            Done::Recalled(robot, session, up_next, ledger) => {
                self.fleet
                    .handle_recalled(robot, session, up_next, ledger, now);
            }
            Done::RecallFailed(robot) => self.fleet.handle_recall_failed(robot, now),
            Done::Stored(robot, session, next, bytes) => {
                self.fleet.handle_stored(robot, session, next, bytes, now);
            }
            Done::StoreFailed(robot, session, bytes) => {
                self.fleet.handle_store_failed(robot, session, bytes, now);
            }
            Done::Loaded(robot, session, from, commands, sent) => {
                self.fleet.with(robot, now, |link| {
                    link.handle_loaded(session, from, commands, sent);
                });
            }
            Done::LoadFailed(robot, session) => self
                .fleet
                .with(robot, now, |link| link.handle_load_failed(session, now)),
            Done::Building(robot, session, answer) => {
                self.answer_building(robot, session, answer);
            }
        }
    }

    /// Whether the hello could be opened with the keys that are known.
    fn open_hello(&mut self, hello: &Inbound) -> bool {
        let robot = hello.topic.robot();
        let Some(session) = random_u64().map(SessionId) else {
            // Dropped like a lost frame; new keys would not help.
            return true;
        };
        let now = self.clock.now();
        let opened = self.fleet.handle_hello(robot, &hello.payload, session, now);
        if let Err(error) = &opened {
            debug!(%robot, %error, "hello refused");
        }
        opened.is_ok()
    }

    fn carry_out(&mut self) {
        while let Some((robot, output)) = self.fleet.poll_output() {
            match output {
                Output::Send(epoch, down) => self.send(robot, epoch, &down),
                Output::Recall { session, epoch } => {
                    self.up_job(robot, UpJob::Recall { session, epoch });
                }
                Output::RenewLedger { session, epoch } => {
                    warn!(%robot, "the robot has seen more commands than the ledger remembers");
                    self.up_job(robot, UpJob::RenewLedger { session, epoch });
                }
                Output::Store(store) => self.up_job(robot, UpJob::Store(store)),
                Output::Load { session, from } => {
                    self.down_job(robot, DownJob::Load { session, from });
                }
                Output::Sent { epoch, from, to } => {
                    self.down_job(robot, DownJob::Sent { epoch, from, to });
                }
                Output::Delivered(cursor) => self.down_job(robot, DownJob::Delivered(cursor)),
                Output::Status(status, age, said) => {
                    self.metrics.hear_live(age);
                    self.down_job(robot, DownJob::Status(Box::new((status, said))));
                }
                Output::Report(epoch, report) => {
                    self.down_job(robot, DownJob::Report(epoch, report));
                }
                Output::Building {
                    session,
                    have,
                    part,
                } => self.ask_building(robot, session, have, part),
                Output::Opened(session) => {
                    info!(%robot, %session, "session opened");
                }
                Output::Closed(reason) => {
                    info!(%robot, ?reason, "session closed");
                }
            }
        }
        while let Some((robot, presence)) = self.fleet.poll_contact() {
            let contact = presence.contact.name();
            let cause = presence.cause.map(Cause::name);
            info!(%robot, contact, cause, "contact");
            self.metrics.count_contact(presence.contact);
            self.contacts.note(robot, presence);
        }
        let load = self.fleet.load();
        self.metrics.load.note(&load);
        self.metrics.note_contacts(&load, self.robots);
    }

    fn send(&self, robot: RobotId, epoch: Epoch, down: &brrbrr_proto::down::Down) {
        let mut nonce = [0; NONCE_BYTES];
        if getrandom::fill(&mut nonce).is_err() {
            return;
        }
        match self.fleet.seal(robot, epoch, &nonce, down) {
            // A frame that is lost here is sent again by the link's own timers.
            Ok(Some(frame)) => {
                if let Err(error) = self.broker.publish(Topic::Down(robot), frame) {
                    debug!(%robot, %error, "frame to the robot dropped");
                }
            }
            Ok(None) => {}
            Err(error) => warn!(%robot, %error, "message to the robot does not fit into a frame"),
        }
    }

    fn up_job(&mut self, robot: RobotId, job: UpJob) {
        let Err(refused) = self.workers.up(robot, job) else {
            return;
        };
        let now = self.clock.now();
        match refused {
            UpJob::Store(store) => {
                let bytes = brrbrr_proto::link::relay::bytes_of(&store.items);
                self.fleet
                    .handle_store_failed(robot, store.session, bytes, now);
            }
            UpJob::Recall { .. } | UpJob::RenewLedger { .. } => {
                self.fleet.handle_recall_failed(robot, now);
            }
        }
    }

    fn down_job(&mut self, robot: RobotId, job: DownJob) {
        let Err(refused) = self.workers.down(robot, job) else {
            return;
        };
        let now = self.clock.now();
        match refused {
            DownJob::Load { session, .. } => self
                .fleet
                .with(robot, now, |link| link.handle_load_failed(session, now)),
            DownJob::Building { session, .. } => self.answer_building(robot, session, None),
            // Said again by the robot, or by the next of its kind.
            DownJob::Sent { .. }
            | DownJob::MarkSent
            | DownJob::Delivered(_)
            | DownJob::Status(_)
            | DownJob::Report(..) => {}
        }
    }

    fn ask_building(
        &mut self,
        robot: RobotId,
        session: SessionId,
        have: Option<Revision>,
        part: Option<u32>,
    ) {
        let known = self.building.borrow().clone();
        match known {
            Some(Ok(shared)) => {
                let job = DownJob::Building {
                    session,
                    shared,
                    have,
                    part,
                };
                self.down_job(robot, job);
            }
            Some(Err(reason)) => {
                let refused = BuildingAnswer::Refused(reason);
                self.answer_building(robot, session, Some(refused));
            }
            None => self.answer_building(robot, session, None),
        }
    }

    fn answer_building(
        &mut self,
        robot: RobotId,
        session: SessionId,
        answer: Option<BuildingAnswer>,
    ) {
        let now = self.clock.now();
        self.fleet
            .with(robot, now, |link| link.handle_building(session, answer));
    }
}

/// A number from the operating system; `None` where it has none to give, which drops one frame.
pub(crate) fn random_u64() -> Option<u64> {
    getrandom::u64()
        .inspect_err(|error| warn!(%error, "the operating system gives no random numbers"))
        .ok()
}
