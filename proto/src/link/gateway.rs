//! The gateway half of the link.
//!
//! ```text
//! Offline --connected--> Greeting --welcome--> Session
//!    ^                    ^  |  ^                 |
//!    +----disconnected----+  |  +--silence, rehello, three ack time-outs
//!                            +--> Offline (the relay has more than the spool ever had) --renewed--> Greeting
//! ```

mod building;
mod pace;
mod session;

use std::collections::VecDeque;
use std::time::Duration;

use super::BATCH_ITEMS;
use crate::backoff::{Backoff, SplitMix};
use crate::down::{Ack, Command, Commands, Down, Rehello, Wait, Welcome};
use crate::id::{ConnectionId, Cursor, Epoch, HelloId, RelayId, Seq, SessionId};
use crate::live::{Age, Dated, Live, PerField, Status};
use crate::time::{Stamp, Uptime};
use crate::up::{Beat, Disk, Event, Hello, Item, Loss, Record, Report, Tombstone, Up};
use crate::version::Versions;
pub use building::BuildingNews;
use building::Fetch;
use pace::Pace;
use session::{ReadState, Session};

/// The first and the longest wait for a welcome.
const HELLO_WAIT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// After this many unanswered hellos the MQTT connection itself is suspected.
const HELLOS_BEFORE_RECONNECT: u32 = 4;
/// The longest pause that a relay can ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// After this many ack time-outs without progress the session is given up.
const ACK_TIMEOUTS_BEFORE_HELLO: u32 = 3;
/// What a live frame and all that is around it weigh, near enough for a rate limit.
const LIVE_BYTES: usize = 256;
/// How long to leave a spool alone that could not be read.
const READ_RETRY: Duration = Duration::from_secs(1);

/// What the spool looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolView {
    /// Its incarnation.
    pub epoch: Epoch,
    /// The lowest position that it holds or will hold: everything before is acknowledged.
    pub first: Seq,
    /// The position that the next new record gets.
    pub next: Seq,
}

/// How the spool's storage is, for the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskState {
    /// How it is.
    pub disk: Disk,
    /// Since when.
    pub since: Uptime,
    /// A sentence for people; empty where there is nothing to add.
    pub detail: String,
    /// When the oldest record that waits was made, where known.
    pub oldest: Option<Stamp>,
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Publish a hello.
    Hello(Hello),
    /// Publish to the relay's `up` topic.
    Up(RelayId, Up),
    /// Publish to the relay's `live` topic, ahead of everything else that waits.
    Live(RelayId, Dated),
    /// Read from the spool and hand the items to [`Gateway::handle_read`].
    Read {
        /// The position of the first item.
        from: Seq,
        /// At most this many items.
        max_items: usize,
        /// At most this many bytes of records, but at least one item.
        max_bytes: usize,
    },
    /// The relay has stored everything before `next`: the spool may drop it.
    Release {
        /// The first position that must be kept.
        next: Seq,
    },
    /// Store commands together with the cursor, in one durable step, and then call
    /// [`Gateway::handle_commands_stored`]. Until then the relay may send them again, and after a
    /// renewed ledger in any case, so commands whose ids are known must be skipped.
    Store {
        /// The down cursor after the commands.
        cursor: Cursor,
        /// The commands, in order.
        commands: Vec<Command>,
        /// When they came in. Times to live count from here; what the way took is taken off already.
        received: Uptime,
    },
    /// The relay has more of this epoch than the spool ever had, as after a restored backup. Number
    /// what waits anew in a fresh epoch and call [`Gateway::handle_renewed`].
    RenewEpoch,
    /// Drop the MQTT connection and make a new one.
    Reconnect,
    /// What came of asking for the building.
    Building(BuildingNews),
    /// A session is open.
    Opened(SessionId, RelayId),
    /// The session is over. What is not acknowledged stays in the spool.
    Closed(Closed),
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The MQTT connection broke.
    Disconnected,
    /// The relay acknowledged nothing for too long.
    NoAck,
    /// The relay said nothing for too long.
    Silent,
    /// The relay does not know the session.
    Unknown,
    /// The spool has begun a new epoch.
    Renewed,
    /// It was open for so long that the two clocks may have come apart.
    Aged,
}

/// The gateway half of the link. See the module's documentation.
#[derive(Debug)]
pub struct Gateway {
    spool: SpoolView,
    down: Option<Cursor>,
    software: String,
    phase: Phase,
    connection: Option<Connection>,
    hello_wait: Backoff,
    random: SplitMix,
    /// The driver is numbering the spool anew; no hello before it is done.
    renewing: bool,
    status: Option<Sample>,
    /// The newest status has not been sent in this session.
    has_news: bool,
    disk: DiskState,
    bytes_per_second: Option<u32>,
    building: Fetch,
    outputs: VecDeque<Output>,
}

/// The newest status: when it was true as a whole, and when the robot said each field.
#[derive(Debug)]
struct Sample {
    sampled: Uptime,
    status: Status,
    said: PerField<Uptime>,
}

#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    attempts: u32,
}

#[derive(Debug)]
enum Phase {
    Offline,
    Greeting {
        hello: HelloId,
        sent_at: Uptime,
        retry_at: Uptime,
        unanswered: u32,
    },
    Session(Box<Session>),
}

impl Gateway {
    /// Starts offline, from what the spool remembers. `seed` is a random number for jitter.
    #[must_use]
    pub fn new(spool: SpoolView, down: Option<Cursor>, software: String, seed: u64) -> Self {
        Self {
            spool,
            down,
            software,
            phase: Phase::Offline,
            connection: None,
            hello_wait: Backoff::new(HELLO_WAIT.0, HELLO_WAIT.1, seed),
            random: SplitMix(!seed),
            renewing: false,
            status: None,
            has_news: false,
            disk: DiskState {
                disk: Disk::Fine,
                since: Uptime::default(),
                detail: String::new(),
                oldest: None,
            },
            bytes_per_second: None,
            building: Fetch::new(seed.rotate_left(32)),
            outputs: VecDeque::new(),
        }
    }

    /// Limits how many bytes a second sessions that begin from now on send. Live frames are never held
    /// back, only counted. A limit of zero counts as one.
    pub const fn limit_rate(&mut self, bytes_per_second: u32) {
        self.bytes_per_second = Some(bytes_per_second);
    }

    /// The MQTT connection is up and subscribed. The connection id is a fresh random number.
    pub fn handle_connected(&mut self, connection: ConnectionId, now: Stamp) {
        self.connection = Some(Connection {
            id: connection,
            attempts: 0,
        });
        self.close(Closed::Disconnected);
        self.greet(0, now);
    }

    /// The MQTT connection broke.
    pub fn handle_disconnected(&mut self) {
        self.connection = None;
        self.close(Closed::Disconnected);
        self.phase = Phase::Offline;
    }

    /// The relay said something.
    pub fn handle_down(&mut self, message: Down, now: Stamp) {
        match message {
            Down::Welcome(welcome) => self.handle_welcome(&welcome, now),
            Down::Ack(ack) => self.handle_ack(ack, now.uptime),
            Down::Commands(commands) => self.handle_commands(commands, now.uptime),
            Down::Wait(wait) => self.handle_wait(wait, now.uptime),
            Down::Rehello(rehello) => self.handle_rehello(rehello, now),
            Down::Building(part) => self.handle_building(part, now.uptime),
            Down::NoBuilding(no) => self.handle_no_building(no, now.uptime),
        }
    }

    /// The spool has committed records up to but not including `next`.
    pub fn handle_appended(&mut self, next: Seq, now: Uptime) {
        self.spool.next = self.spool.next.max(next);
        self.pump(now);
    }

    /// The answer to [`Output::Read`]: items from the position that was asked for. None at all
    /// means that the spool could not be read just now.
    pub fn handle_read(&mut self, from: Seq, items: Vec<Item>, now: Uptime) {
        let Phase::Session(session) = &mut self.phase else {
            return;
        };
        if session.read != ReadState::Waiting(from) {
            return;
        }
        if items.is_empty() {
            let retry_at = now.plus(READ_RETRY);
            session.read = ReadState::Failed { retry_at };
            return;
        }
        session.read = ReadState::Idle;
        let up = session.send(items, now);
        self.outputs.push_back(up);
        self.pump(now);
    }

    /// The answer to [`Output::Store`]: everything before the cursor is durable.
    pub fn handle_commands_stored(&mut self, cursor: Cursor, now: Uptime) {
        // Another epoch: the ledger was renewed meanwhile, and its positions say nothing about this one.
        if let Some(own) = self.down.as_mut().filter(|own| own.epoch == cursor.epoch) {
            own.next = own.next.max(cursor.next);
        }
        self.beat(now);
    }

    /// The spool has begun a new epoch: the answer to [`Output::RenewEpoch`], or because its storage had
    /// to be made anew.
    pub fn handle_renewed(&mut self, spool: SpoolView, now: Stamp) {
        self.spool = spool;
        self.renewing = false;
        self.close(Closed::Renewed);
        self.greet(0, now);
    }

    /// The robot's status as a whole, and when the robot said each field. Older statuses that were not
    /// sent yet are replaced. The newest is sent in every session.
    pub fn handle_status(&mut self, status: Status, said: PerField<Uptime>, now: Uptime) {
        self.status = Some(Sample {
            sampled: now,
            status,
            said,
        });
        self.has_news = true;
        self.send_live(now);
    }

    /// How the spool's storage is. The relay is told at once where it has changed, and with a beat
    /// otherwise.
    pub fn handle_disk(&mut self, state: DiskState, now: Uptime) {
        let has_changed = (state.disk, &state.detail) != (self.disk.disk, &self.disk.detail);
        self.disk = state;
        if has_changed {
            self.report(now);
        }
    }

    /// The moment that [`Gateway::poll_timeout`] named has come, or any other.
    pub fn handle_timeout(&mut self, now: Stamp) {
        match &mut self.phase {
            Phase::Offline => {}
            Phase::Greeting {
                retry_at,
                unanswered,
                ..
            } => {
                if *retry_at <= now.uptime {
                    let unanswered = *unanswered + 1;
                    if unanswered.is_multiple_of(HELLOS_BEFORE_RECONNECT) {
                        self.outputs.push_back(Output::Reconnect);
                    }
                    self.greet(unanswered, now);
                }
            }
            Phase::Session(_) => self.handle_session_timeout(now),
        }
    }

    /// What the driver is to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Gateway::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Uptime> {
        match &self.phase {
            Phase::Offline => None,
            Phase::Greeting { retry_at, .. } => Some(*retry_at),
            Phase::Session(session) => {
                let live = self.has_news.then_some(session.live_at);
                [
                    session.ack_deadline(),
                    session.read.retry_at(),
                    live,
                    session.held_until,
                    session.renew_at(),
                ]
                .into_iter()
                .flatten()
                .chain([session.beat_at, session.silent_at(), self.building.due_at()])
                .min()
            }
        }
    }

    fn handle_session_timeout(&mut self, now: Stamp) {
        let Phase::Session(session) = &mut self.phase else {
            return;
        };
        if session.silent_at() <= now.uptime {
            self.close(Closed::Silent);
            self.greet(0, now);
            return;
        }
        if session.renew_at().is_some_and(|at| at <= now.uptime) {
            self.close(Closed::Aged);
            self.greet(0, now);
            return;
        }
        if session.ack_deadline().is_some_and(|at| at <= now.uptime) {
            if session.ack_wait.timeouts + 1 >= ACK_TIMEOUTS_BEFORE_HELLO {
                self.close(Closed::NoAck);
                self.greet(0, now);
                return;
            }
            session.go_back(now.uptime);
        }
        if session.read.retry_at().is_some_and(|at| at <= now.uptime) {
            session.read = ReadState::Idle;
        }
        if session.beat_at <= now.uptime {
            self.beat(now.uptime);
            self.report(now.uptime);
        }
        self.send_live(now.uptime);
        self.pump(now.uptime);
        self.ask_building(now.uptime);
    }

    fn handle_welcome(&mut self, welcome: &Welcome, now: Stamp) {
        let Phase::Greeting { hello, sent_at, .. } = &self.phase else {
            return;
        };
        let greeted_at = *sent_at;
        let is_possible = welcome.up_next <= Seq::LAST && welcome.down.next <= Seq::LAST;
        if *hello != welcome.hello || !is_possible {
            return;
        }
        if welcome.up_next > self.spool.next {
            self.phase = Phase::Offline;
            self.renewing = true;
            self.outputs.push_back(Output::RenewEpoch);
            return;
        }
        self.down = Some(match self.down {
            Some(own) if own.epoch == welcome.down.epoch => Cursor {
                next: own.next.max(welcome.down.next),
                ..own
            },
            Some(_) | None => welcome.down,
        });
        self.hello_wait.reset();
        self.outputs
            .push_back(Output::Opened(welcome.session, welcome.relay));
        let pace = Pace::new(self.bytes_per_second, now.uptime);
        let seed = self.random.next();
        let mut session = Session::new(welcome, pace, seed, greeted_at, now.uptime);
        if self.spool.first <= welcome.up_next {
            self.release(welcome.up_next);
        } else {
            // The relay's storage went back in time. What it lost is gone from the spool as well, so
            // say so in sequence, where a reader of the journal will find it.
            session.forgot = Some(now);
        }
        self.phase = Phase::Session(Box::new(session));
        // The relay may be another one, or know nothing any more. What was true last is true now, as
        // far as the gateway knows; how old that is the ages say.
        if let Some(sample) = &mut self.status {
            sample.sampled = now.uptime;
            self.has_news = true;
        }
        self.building.handle_opened(now.uptime);
        self.beat(now.uptime);
        self.send_live(now.uptime);
        self.report(now.uptime);
        self.pump(now.uptime);
    }

    fn handle_ack(&mut self, ack: Ack, now: Uptime) {
        let Phase::Session(session) = &mut self.phase else {
            return;
        };
        if session.id != ack.session {
            return;
        }
        session.heard_at = now;
        if ack.next >= session.acked {
            // An older ack that comes late must not bring back an older grant.
            session.credit = usize::try_from(ack.credit).unwrap_or(usize::MAX);
        }
        if ack.next > session.acked && ack.next <= session.highest {
            session.land(ack.next, now);
            self.release(ack.next);
        }
        self.pump(now);
    }

    fn handle_commands(&mut self, commands: Commands, now: Uptime) {
        let Phase::Session(session) = &mut self.phase else {
            return;
        };
        let Some(down) = self.down else { return };
        if session.id != commands.session {
            return;
        }
        session.heard_at = now;
        let delay = session.delay(commands.sent, now);
        let known = usize::try_from(down.next.since(commands.first)).unwrap_or(usize::MAX);
        let mut new: Vec<Command> = commands.commands.into_iter().skip(known).collect();
        for command in &mut new {
            command.time_to_live = command.time_to_live.saturating_sub(delay);
        }
        if commands.first > down.next || new.is_empty() {
            // A hole or old news: tell the relay where to go on.
            self.beat(now);
            return;
        }
        let count = u64::try_from(new.len()).unwrap_or(u64::MAX);
        self.outputs.push_back(Output::Store {
            cursor: Cursor {
                epoch: down.epoch,
                next: down.next.plus(count),
            },
            commands: new,
            received: now,
        });
    }

    fn handle_wait(&mut self, wait: Wait, now: Uptime) {
        if let Phase::Greeting {
            hello,
            retry_at,
            unanswered,
            ..
        } = &mut self.phase
            && *hello == wait.hello
        {
            // An answer all the same: the connection is good.
            *unanswered = 0;
            // The relay spreads robots out over time, so its word replaces our own backoff.
            *retry_at = now.plus(wait.pause.clamp(HELLO_WAIT.0, LONGEST_PAUSE));
        }
    }

    fn handle_rehello(&mut self, rehello: Rehello, now: Stamp) {
        if let Phase::Session(session) = &self.phase
            && session.id == rehello.session
        {
            self.close(Closed::Unknown);
            self.greet(0, now);
        }
    }

    fn greet(&mut self, unanswered: u32, now: Stamp) {
        let Some(connection) = self.connection.as_mut().filter(|_| !self.renewing) else {
            self.phase = Phase::Offline;
            return;
        };
        connection.attempts += 1;
        let hello = HelloId {
            connection: connection.id,
            attempt: connection.attempts,
        };
        self.phase = Phase::Greeting {
            hello,
            sent_at: now.uptime,
            retry_at: now.uptime.plus(self.hello_wait.next_wait()),
            unanswered,
        };
        self.outputs.push_back(Output::Hello(Hello {
            hello,
            boot: now.boot,
            uptime: now.uptime,
            wall: now.wall,
            next: self.spool.next,
            backlog: self.spool.next.since(self.spool.first),
            down: self.down,
            versions: Versions::SUPPORTED,
            software: self.software.clone(),
        }));
    }

    fn close(&mut self, reason: Closed) {
        if matches!(self.phase, Phase::Session(_)) {
            self.phase = Phase::Offline;
            self.outputs.push_back(Output::Closed(reason));
        }
    }

    fn release(&mut self, next: Seq) {
        if next > self.spool.first {
            self.spool.first = next;
            self.outputs.push_back(Output::Release { next });
        }
    }

    fn beat(&mut self, now: Uptime) {
        if let (Phase::Session(session), Some(down)) = (&mut self.phase, self.down) {
            session.plan_beat(now);
            let beat = Beat {
                session: session.id,
                sent: now,
                down,
            };
            self.outputs
                .push_back(Output::Up(session.relay, Up::Beat(beat)));
        }
    }

    fn report(&mut self, now: Uptime) {
        if let Phase::Session(session) = &self.phase {
            let report = Report {
                session: session.id,
                sent: now,
                next: self.spool.next,
                oldest: self.disk.oldest,
                disk: self.disk.disk,
                since: self.disk.since,
                detail: self.disk.detail.clone(),
            };
            self.outputs
                .push_back(Output::Up(session.relay, Up::Report(report)));
        }
    }

    fn send_live(&mut self, now: Uptime) {
        let Phase::Session(session) = &mut self.phase else {
            return;
        };
        if session.live_at > now {
            return;
        }
        if let Some(sample) = self.status.as_ref().filter(|_| self.has_news) {
            self.has_news = false;
            session.live_at = now.plus(session.live_interval);
            session.live_count += 1;
            session.pace.spend(LIVE_BYTES, now);
            let live = Live {
                session: session.id,
                count: session.live_count,
                sampled: sample.sampled,
                status: sample.status.clone(),
            };
            let ages = sample.said.map(|said| Age::new(sample.sampled.since(said)));
            self.outputs
                .push_back(Output::Live(session.relay, Dated { live, ages }));
        }
    }

    /// Asks for the next records while the window has room.
    fn pump(&mut self, now: Uptime) {
        let Phase::Session(session) = &mut self.phase else {
            return;
        };
        let missing = self.spool.first.since(session.sent);
        if missing > 0
            && let Some(lost) = session.forgot.and_then(|at| tombstone(missing, at))
        {
            // Made anew each time, so that it covers exactly what is missing now.
            let up = session.send(vec![lost], now);
            self.outputs.push_back(up);
        }
        session.held_until = None;
        if session.read == ReadState::Idle
            && session.sent < self.spool.next
            && let Some(max_bytes) = session.room()
        {
            session.held_until = session.pace.held_until(now);
            if session.held_until.is_some() {
                return;
            }
            session.read = ReadState::Waiting(session.sent);
            self.outputs.push_back(Output::Read {
                from: session.sent,
                max_items: BATCH_ITEMS,
                max_bytes,
            });
        }
    }
}

fn tombstone(count: u64, now: Stamp) -> Option<Item> {
    let tombstone = Tombstone {
        count,
        loss: Loss::RelayForgot,
        since: None,
        until: None,
    };
    let record = Record {
        stamp: now,
        event: Event::Tombstone(tombstone),
    };
    let covers = record.covers();
    // A tombstone is far below the record limit, so encoding cannot fail.
    record.encode().ok().map(|record| Item { covers, record })
}
