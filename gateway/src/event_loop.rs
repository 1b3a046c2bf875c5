//! The event loop: the one task that owns the link, the commands and the status of the robot.
//!
//! It takes one input at a time and carries out everything that follows from it before it takes the
//! next: first what the commands want, then what the link wants. It never waits for the disk, the
//! network or the robot; their answers are inputs too. Inputs are taken in this order: answers,
//! because they free what waits; frames from the relay; timers; commands and posts of programs on the
//! board, which are few at a time; messages of the robot.
//!
//! Answers come from [`FuturesUnordered`], which polls new futures in the order in which they were
//! pushed. So records reach the spool in the order in which they were made.

mod building;
mod commanding;
mod giving;
mod health;
mod hearing;
mod posting;
mod sampling;
mod telling;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use brrbrr_proto::id::{CommandId, Cursor, Epoch, Revision, Seq};
use brrbrr_proto::link::Gateway;
use brrbrr_proto::link::gateway::{Output as LinkOutput, SpoolView};
use brrbrr_proto::live::{PerField, RobotSide, Status};
use brrbrr_proto::time::Uptime;
use brrbrr_proto::up::{Event, Record};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use crate::board_commands::{Request, Requests};
use crate::building::{BuildingCache, CacheError};
use crate::clock::Clock;
use crate::clock::alarm::Alarm;
use crate::command::{Commands, Ticket};
use crate::local::Posted;
use crate::notify::Notifier;
use crate::robot::{Accept, HandOverError, RobotHandle, RobotInput};
use crate::sampler::Sampler;
use crate::spool::{
    self, Appended, Gap, GivenCommand, Health, KeptCommand, ReadBack, SourceId, Spool, SpoolState,
    StoredCommand, StoredCommands, Written,
};
use crate::status::{LinkState, StatusBoard};
use crate::uplink::{Frame, News, Uplink};
use giving::{Asking, Giving, Late};
use health::Known;
use telling::Told;

/// Robot messages that may wait for the spool. Beyond it the loop takes no more from the adapter,
/// which takes no more from the robot's broker.
const WRITES_MAX: usize = 256;
/// How long shutting down may wait for the disk and the robot's broker.
const DRAIN_LIMIT: Duration = Duration::from_secs(8);
/// How long to wait before an epoch that could not be renewed is renewed again.
const RENEW_AGAIN: Duration = Duration::from_secs(2);

/// What the event loop works with.
#[derive(Debug)]
pub struct Parts {
    /// The board's clocks.
    pub clock: Clock,
    /// The spool.
    pub spool: Spool,
    /// What it knew when it was opened.
    pub state: SpoolState,
    /// The robot's side.
    pub robot: RobotHandle,
    /// The relay's side.
    pub uplink: Uplink,
    /// Where people and programs look how things stand.
    pub board: StatusBoard,
    /// What programs on the board post.
    pub posts: mpsc::Receiver<Posted>,
    /// The commands that programs on the board give.
    pub requests: Requests,
    /// For how long nothing may be heard of a running motion.
    pub motion_limit: Duration,
    /// What is known of the building.
    pub building: BuildingCache,
    /// The service manager.
    pub notifier: Notifier,
    /// What takes samples of the status, where telemetry is wanted.
    pub sampler: Option<Sampler>,
    /// How many bytes a second may go to the relay at most.
    pub bytes_per_second: Option<u32>,
    /// A random number for jitter.
    pub seed: u64,
    /// Stops the robot's adapter.
    pub stop_robot: watch::Sender<bool>,
    /// Stops the uplink.
    pub stop_uplink: watch::Sender<bool>,
}

/// Why the event loop ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum EventLoopError {
    /// The robot's adapter ended.
    #[error("the robot's adapter ended")]
    RobotEnded,
    /// The uplink ended.
    #[error("the uplink ended")]
    UplinkEnded,
    /// The system's timer failed.
    #[error("the system's timer failed: {0}")]
    Timer(io::Error),
    /// The spool did not close cleanly. Whatever was acknowledged is durable all the same.
    #[error("the spool did not close cleanly: {0}")]
    Spool(#[from] spool::SpoolError),
}

/// What can happen.
enum Input {
    Done(Done),
    News(News),
    Posted(Posted),
    Requested(Request),
    Robot(RobotInput),
    Timeout,
    Health,
    Tick,
}

/// What the disk or the robot has answered.
enum Done {
    Read(Seq, spool::Result<ReadBack>),
    CommandsStored(Cursor, Vec<StoredCommand>, spool::Result<StoredCommands>),
    Persisted(Ticket, spool::Result<Written>),
    Appended(Option<SourceId>, Accept, spool::Result<Written>),
    Known(RobotInput, spool::Result<bool>),
    Renewed(Box<spool::Result<SpoolState>>),
    Released(spool::Result<()>),
    Kept(spool::Result<()>),
    Told(Told, Accept, spool::Result<Appended>),
    Posted(
        oneshot::Sender<spool::Result<Appended>>,
        spool::Result<Appended>,
    ),
    TellAgain,
    Gaps(spool::Result<Vec<Gap>>),
    Looked(Box<spool::Result<SpoolState>>),
    Sampled(Vec<Record>, spool::Result<Appended>),
    Executed(CommandId, Result<(), HandOverError>),
    BuildingKept(Revision, Result<(), CacheError>),
    Given(Box<Giving>, Box<spool::Result<GivenCommand>>),
    Asked(Box<Asking>, Box<spool::Result<Option<KeptCommand>>>),
}

/// Runs until `stop` turns true, then stops taking, finishes what it began and closes the spool.
///
/// # Errors
/// [`EventLoopError`] where it cannot go on.
pub async fn run(parts: Parts, mut stop: watch::Receiver<bool>) -> Result<(), EventLoopError> {
    let alarm = Alarm::new().map_err(EventLoopError::Timer)?;
    let mut this = EventLoop::new(parts);
    this.start();
    let mut tick = tokio::time::interval(this.notifier.interval());
    loop {
        let timer = this.next_timer();
        let input = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            Some(done) = this.pending.next() => Input::Done(done),
            news = this.uplink.news.recv() => match news {
                Some(news) => Input::News(news),
                None => return Err(EventLoopError::UplinkEnded),
            },
            Ok(()) = this.health.changed() => Input::Health,
            rang = alarm.until(timer) => {
                rang.map_err(EventLoopError::Timer)?;
                Input::Timeout
            }
            _ = tick.tick() => Input::Tick,
            Some(request) = this.requests.0.recv(), if this.takes_requests() => {
                Input::Requested(request)
            }
            Some(posted) = this.posts.recv(), if this.takes_posts() => Input::Posted(posted),
            input = this.robot.inputs.recv(), if this.takes_robot_input() => match input {
                Some(input) => Input::Robot(input),
                None => return Err(EventLoopError::RobotEnded),
            },
        };
        this.handle(input);
        this.carry_out();
    }
    this.shut_down().await
}

struct EventLoop {
    clock: Clock,
    spool: Spool,
    health: watch::Receiver<Health>,
    known: Known,
    epoch: Epoch,
    link: Gateway,
    commands: Commands,
    status: Status,
    /// When the robot said each field. What it said before a restart has no time.
    said: PerField<Uptime>,
    robot: RobotHandle,
    uplink: Uplink,
    board: StatusBoard,
    posts: mpsc::Receiver<Posted>,
    /// Posts whose records are on their way to the disk.
    posting: usize,
    requests: Requests,
    /// Requests that are not answered yet.
    requested: usize,
    /// Commands whose cancellation is on its way to the disk.
    withdrawing: BTreeSet<CommandId>,
    /// Commands of programs on the board that were passed on before they could be stored.
    late: Vec<Late>,
    is_stopping: bool,
    building: BuildingCache,
    notifier: Notifier,
    pending: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Robot messages whose records are on their way to the disk.
    writing: usize,
    /// What of the status is durable in the spool's records.
    told: Told,
    sampler: Option<Sampler>,
    /// Samples are on their way to the disk; the next ones wait, so that they stay in order.
    sampling: bool,
    /// The newest status is on its way to the disk, and whether there is a newer one.
    keeping: bool,
    keep_again: bool,
    /// A robot message was refused, and what the robot said after it must come again behind it.
    is_refusing: bool,
    /// A robot message is being looked up, and what the robot says next must wait its turn.
    looking_up: bool,
    /// Robot messages that are accepted when the step they caused is durable.
    accepts: BTreeMap<Ticket, Accept>,
    stop_robot: watch::Sender<bool>,
    stop_uplink: watch::Sender<bool>,
}

impl EventLoop {
    fn new(parts: Parts) -> Self {
        let Parts {
            clock,
            spool,
            state,
            robot,
            uplink,
            board,
            posts,
            requests,
            motion_limit,
            building,
            notifier,
            sampler,
            bytes_per_second,
            seed,
            stop_robot,
            stop_uplink,
        } = parts;
        let software = env!("CARGO_PKG_VERSION").to_owned();
        let last_motion = state.last_motion.as_ref();
        let now = clock.uptime();
        let mut link = Gateway::new(view(&state), state.down, software, seed);
        if let Some(limit) = bytes_per_second {
            link.limit_rate(limit);
        }
        let mut commands = Commands::new(clock.boot(), state.commands, last_motion, now);
        commands.limit_motions(motion_limit);
        if let Some(kept) = building.kept() {
            link.know_building(kept.revision);
        }
        Self {
            link,
            commands,
            epoch: state.epoch,
            told: Told::of(&state.status),
            sampler,
            sampling: false,
            keeping: false,
            keep_again: false,
            status: state.status,
            said: PerField::default(),
            known: Known::at_start(now),
            clock,
            health: spool.health(),
            spool,
            robot,
            uplink,
            board,
            posts,
            posting: 0,
            requests,
            requested: 0,
            withdrawing: BTreeSet::new(),
            late: Vec::new(),
            is_stopping: false,
            building,
            notifier,
            pending: FuturesUnordered::new(),
            writing: 0,
            looking_up: false,
            is_refusing: false,
            accepts: BTreeMap::new(),
            stop_robot,
            stop_uplink,
        }
    }

    fn start(&mut self) {
        // What the robot's side was before the restart is not known to be so now.
        let now = self.clock.uptime();
        self.status.robot_side = Some(RobotSide::Down);
        self.said.robot_side = Some(now);
        self.link.handle_status(self.status.clone(), self.said, now);
        self.show_status(now);
        self.handle_health(self.clock.stamp());
        self.look_for_gaps();
        self.carry_out();
        self.notifier.ready();
    }

    const fn takes_robot_input(&self) -> bool {
        self.writing < WRITES_MAX && !self.looking_up
    }

    fn next_timer(&self) -> Option<Uptime> {
        let timers = [
            self.link.poll_timeout(),
            self.commands.poll_timeout(),
            self.next_sampling(),
        ];
        timers.into_iter().flatten().min()
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Done(done) => self.handle_done(done),
            Input::News(news) => self.handle_news(news),
            Input::Posted(posted) => self.handle_posted(posted),
            Input::Requested(request) => self.handle_request(request),
            Input::Robot(input) => self.handle_robot(input),
            Input::Timeout => {
                let now = self.clock.stamp();
                self.link.handle_timeout(now);
                self.commands.handle_timeout(now.uptime);
                self.handle_sampling(now);
            }
            Input::Health => self.handle_health(self.clock.stamp()),
            Input::Tick => self.notifier.alive(),
        }
    }

    fn handle_news(&mut self, news: News) {
        let now = self.clock.stamp();
        match news {
            News::Connected(connection) => {
                self.board.set_link(LinkState::Connected);
                self.link.handle_connected(connection, now);
            }
            News::Disconnected(reason) => {
                self.board.set_link(LinkState::Disconnected(reason));
                self.link.handle_disconnected();
            }
            News::Down(epoch, down) => {
                if epoch == self.epoch {
                    self.link.handle_down(down, now);
                }
            }
        }
    }

    fn handle_done(&mut self, done: Done) {
        let now = self.clock.stamp();
        match done {
            Done::Read(from, read) => {
                let items = match read {
                    Ok(read) if read.epoch == self.epoch && read.first == from => read.items,
                    Ok(_) => Vec::new(),
                    Err(error) => {
                        error!(%error, "the spool cannot be read");
                        self.board.set_spool_error(&error);
                        Vec::new()
                    }
                };
                self.link.handle_read(from, items, now.uptime);
            }
            Done::CommandsStored(cursor, commands, stored) => {
                self.handle_commands_stored(cursor, commands, stored, now.uptime);
            }
            Done::Persisted(ticket, written) => self.handle_persisted(ticket, written, now.uptime),
            Done::Appended(source, accept, written) => {
                self.handle_appended(source, accept, written, now.uptime);
            }
            Done::Known(input, known) => {
                self.looking_up = false;
                match known {
                    Ok(true) => input.accept.accept(),
                    Ok(false) => self.hear(input),
                    Err(error) => {
                        // It comes again, and what was said after it behind it.
                        if input.accept.is_awaited() {
                            self.is_refusing = true;
                            self.commands.handle_unheard(now.uptime);
                        }
                        self.refused(&error);
                    }
                }
            }
            Done::Renewed(state) => self.handle_renewed(*state),
            Done::Released(outcome) => {
                if let Err(error) = outcome {
                    self.refused(&error);
                }
            }
            Done::Kept(outcome) => self.handle_kept(outcome),
            Done::Told(told, accept, written) => {
                self.handle_told(told, accept, written, now.uptime)
            }
            Done::Posted(reply, written) => self.handle_posted_written(reply, written, now.uptime),
            Done::TellAgain => self.handle_tell_again(),
            Done::Gaps(gaps) => self.handle_gaps(gaps),
            Done::Looked(state) => self.handle_looked(*state, now),
            Done::Sampled(samples, written) => {
                self.handle_sampled(samples, written, now.uptime);
            }
            Done::Given(giving, given) => self.handle_given(*giving, *given, now.uptime),
            Done::Asked(asking, command) => self.handle_asked(*asking, *command),
            Done::Executed(id, result) => {
                self.commands.handle_executed(id, result, now.uptime);
            }
            Done::BuildingKept(revision, outcome) => self.handle_building_kept(revision, outcome),
        }
    }

    fn handle_renewed(&mut self, state: spool::Result<SpoolState>) {
        match state {
            Ok(state) => self.begin_epoch(&state, self.clock.stamp()),
            Err(error) => {
                self.refused(&error);
                self.renew_epoch(RENEW_AGAIN);
            }
        }
    }

    fn refused(&self, error: &spool::SpoolError) {
        error!(%error, "the spool did not take it");
        self.board.set_spool_error(error);
    }

    /// Carries out what the cores want, until they want no more.
    fn carry_out(&mut self) {
        loop {
            if let Some(output) = self.commands.poll_output() {
                self.carry_out_command(output);
            } else if let Some(output) = self.link.poll_output() {
                self.carry_out_link(output);
            } else {
                break;
            }
        }
        self.board
            .set_commands(self.commands.running(), self.commands.ids());
    }

    fn carry_out_link(&mut self, output: LinkOutput) {
        let (spool, epoch) = (self.spool.clone(), self.epoch);
        match output {
            // A frame that finds no room is lost, and the link's timers send it again.
            LinkOutput::Hello(hello) => {
                self.uplink.frames.try_send(Frame::Hello(epoch, hello)).ok();
            }
            LinkOutput::Up(relay, up) => {
                self.uplink
                    .frames
                    .try_send(Frame::Up(epoch, relay, up))
                    .ok();
            }
            LinkOutput::Live(relay, live) => {
                self.uplink.live.try_send((epoch, relay, live)).ok();
            }
            LinkOutput::Read {
                from,
                max_items,
                max_bytes,
            } => {
                self.push(
                    async move { Done::Read(from, spool.read(from, max_items, max_bytes).await) },
                )
            }
            LinkOutput::Release { next } => {
                self.board.set_acked(next);
                self.push(async move { Done::Released(spool.release(epoch, next).await) });
            }
            LinkOutput::Store {
                cursor,
                commands,
                received,
            } => self.store_commands(cursor, commands, received),
            LinkOutput::RenewEpoch => self.renew_epoch(Duration::ZERO),
            LinkOutput::Reconnect => self.uplink.reconnect.send_modify(|count| *count += 1),
            LinkOutput::Building(news) => self.handle_building(news),
            LinkOutput::Opened(session, relay) => {
                info!(%session, %relay, "session opened");
                self.notifier.status("in session with a relay");
                self.board.set_link(LinkState::Session(session, relay));
            }
            LinkOutput::Closed(reason) => {
                info!(?reason, "session closed");
                self.notifier
                    .status("no session; everything is kept until there is one");
                self.board.set_link(LinkState::Connected);
            }
        }
    }

    fn renew_epoch(&mut self, pause: Duration) {
        let spool = self.spool.clone();
        self.push(async move {
            tokio::time::sleep(pause).await;
            Done::Renewed(Box::new(match getrandom::u64() {
                Ok(random) => spool.renew_epoch(Epoch(random)).await,
                Err(error) => Err(spool::SpoolError::NoRandomness(error)),
            }))
        });
    }

    fn record(&self, event: Event) -> Record {
        Record {
            stamp: self.clock.stamp(),
            event,
        }
    }

    fn push(&self, work: impl Future<Output = Done> + Send + 'static) {
        self.pending.push(Box::pin(work));
    }

    /// Stops taking messages, lets the disk finish, says goodbye to the broker, closes the spool.
    async fn shut_down(mut self) -> Result<(), EventLoopError> {
        self.notifier.stopping();
        self.is_stopping = true;
        self.posts.close();
        self.requests.0.close();
        self.stop_robot.send_replace(true);
        self.write_samples();
        let drained = tokio::time::timeout(DRAIN_LIMIT, async {
            while let Some(done) = self.pending.next().await {
                self.handle_done(done);
                self.carry_out();
                self.notifier.alive();
            }
        });
        if drained.await.is_err() {
            warn!("the disk or the robot's broker did not answer in time");
        }
        self.stop_uplink.send_replace(true);
        for (name, task) in [("uplink", self.uplink.task), ("robot", self.robot.task)] {
            if tokio::time::timeout(DRAIN_LIMIT, task).await.is_err() {
                warn!(name, "task did not end in time");
            }
        }
        self.spool.close().await?;
        Ok(())
    }
}

const fn view(state: &SpoolState) -> SpoolView {
    SpoolView {
        epoch: state.epoch,
        first: state.first,
        next: state.next,
    }
}
