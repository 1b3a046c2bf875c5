//! The relay half of the link, for one robot.
//!
//! A hello makes an offer; the offer becomes the session when the gateway first uses it. So a
//! replayed hello can neither take a session away nor start one.
//!
//! ```text
//! hello -> Recall -> handle_recalled -> welcome (offered) -> first batch or beat -> session
//! batch -> Store  -> handle_stored   -> ack
//! wake  -> Load   -> handle_loaded   -> commands -> beat -> Delivered
//! ```
//! One run of commands is on the way at a time. What stops the robot does not wait for that run: all
//! that is not known to be stored is sent again with it, and the gateway skips what it has.
//!
//! ```text
//! ```

mod building;
mod clock;

use std::collections::VecDeque;
use std::time::Duration;

pub use building::BuildingAnswer;
use building::BuildingState;
pub use clock::BoardClock;
use clock::{Anchor, SessionClock};

use super::{COMMANDS_TIMEOUT, LONGEST_INTERVAL, SHORTEST_BEAT_INTERVAL, SILENT_BEATS};
use crate::down::{Ack, Command, Commands, Down, Rehello, Wait, Welcome};
use crate::id::{Cursor, Epoch, HelloId, RelayId, Revision, Seq, SessionId};
use crate::live::{Dated, PerField, Status};
use crate::time::{Uptime, WallClock};
use crate::up::{Batch, Beat, Gone, Hello, Item, Report, Up};
use crate::version::Versions;

/// How long a gateway that speaks no common version is sent away for.
const INCOMPATIBLE_PAUSE: Duration = Duration::from_secs(600);

/// What a relay grants its robots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grants {
    /// How many bytes of records may be unacknowledged at a time, at most. What a robot may use of it
    /// is said by [`Relay::grant`].
    pub credit: u32,
    /// The shortest time between two live frames.
    pub live_interval: Duration,
    /// The longest time between two beats.
    pub beat_interval: Duration,
}

/// The relay's own clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// A clock that only counts on.
    pub uptime: Uptime,
    /// The calendar.
    pub wall: WallClock,
}

/// Where the robot's ledger stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ledger {
    /// Its incarnation.
    pub epoch: Epoch,
    /// The first position the robot is not known to have stored.
    pub acked: Seq,
    /// The position that the next new command gets.
    pub next: Seq,
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Publish to the robot's `down` topic, sealed under the epoch.
    Send(Epoch, Down),
    /// Look up the robot's cursors and call [`Relay::handle_recalled`].
    Recall {
        /// To be handed back.
        session: SessionId,
        /// The epoch whose up cursor is wanted.
        epoch: Epoch,
    },
    /// The robot has stored more commands than the ledger remembers, as after a restored backup.
    /// Start a new epoch of the ledger and call [`Relay::handle_recalled`].
    RenewLedger {
        /// To be handed back.
        session: SessionId,
        /// The epoch whose up cursor is wanted.
        epoch: Epoch,
    },
    /// Store records in the journal, and call [`Relay::handle_stored`] or
    /// [`Relay::handle_store_failed`]. Stores must be carried out in the order they are put out.
    Store(Store),
    /// Load commands from the ledger and call [`Relay::handle_loaded`].
    Load {
        /// The session they are for.
        session: SessionId,
        /// The position of the first.
        from: Seq,
    },
    /// Note in the ledger that commands were sent.
    Sent {
        /// The incarnation of the ledger that the positions are in.
        epoch: Epoch,
        /// The position of the first.
        from: Seq,
        /// The position after the last.
        to: Seq,
    },
    /// Note in the ledger that the robot has stored everything before the cursor.
    Delivered(Cursor),
    /// The newest status, how old it was when it came in, and how long ago the robot had said each
    /// field. Of a field that its gateway remembers from before a restart nobody knows.
    Status(Status, Duration, PerField<Duration>),
    /// How the robot's spool of this epoch is.
    Report(Epoch, Report),
    /// Say what there is to know of the building, and call [`Relay::handle_building`].
    Building {
        /// To be handed back.
        session: SessionId,
        /// The revision that the robot has: where it is the newest, nothing else is to be said.
        have: Option<Revision>,
        /// The part that it wants; `None` where only the newest revision is wanted.
        part: Option<u32>,
    },
    /// The robot has a session.
    Opened(SessionId),
    /// The robot's session is over or out of use.
    Closed(Closed),
}

/// Records to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// The session they came in.
    pub session: SessionId,
    /// The incarnation of the robot's spool.
    pub epoch: Epoch,
    /// The position of the first item.
    pub first: Seq,
    /// The items, in order.
    pub items: Vec<Item>,
    /// The board's clock, as known so far.
    pub clock: BoardClock,
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The broker says that the robot's connection broke.
    Gone,
    /// The robot said nothing for too long.
    Silent,
    /// The robot opened another session.
    Replaced,
}

/// The relay half of the link, for one robot. See the module's documentation.
#[derive(Debug)]
pub struct Relay {
    id: RelayId,
    grants: Grants,
    /// What the robot may use of its credit now.
    credit: u32,
    greeting: Option<Greeting>,
    offer: Option<Session>,
    session: Option<Session>,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
struct Greeting {
    session: SessionId,
    epoch: Epoch,
    hello: Hello,
    /// The latest that the board can have booted, by [`Anchor`].
    latest_boot: i64,
    anchor: Anchor,
}

#[derive(Debug)]
struct Session {
    id: SessionId,
    hello: HelloId,
    epoch: Epoch,
    /// The position of the robot's next new record, as far as it has said.
    robot_next: Seq,
    /// Everything before is in the journal.
    stored: Seq,
    /// Everything before was handed to the journal.
    received: Seq,
    storing_bytes: usize,
    clock: SessionClock,
    heard_at: Uptime,
    live_count: u64,
    down: DownState,
    building: BuildingState,
}

#[derive(Debug)]
struct DownState {
    epoch: Epoch,
    acked: Seq,
    /// No position from here on was ever given to a command, as far as this session knows.
    limit: Seq,
    flight: Option<Flight>,
    loading: bool,
    /// The ledger may hold more than was loaded.
    more: bool,
    /// There is something in it that does not wait for the flight.
    urgent: bool,
}

#[derive(Debug, Clone, Copy)]
struct Flight {
    end: Seq,
    sent_at: Uptime,
}

impl Relay {
    /// Starts without a session. `id` names the running relay process.
    #[must_use]
    pub const fn new(id: RelayId, grants: Grants) -> Self {
        Self {
            id,
            grants,
            credit: grants.credit,
            greeting: None,
            offer: None,
            session: None,
            outputs: VecDeque::new(),
        }
    }

    /// A gateway asks for a session. `session` is a fresh random number.
    pub fn handle_hello(&mut self, epoch: Epoch, hello: Hello, session: SessionId, now: Now) {
        if Versions::SUPPORTED.common(hello.versions).is_none() {
            let wait = Wait {
                hello: hello.hello,
                pause: INCOMPATIBLE_PAUSE,
            };
            self.outputs
                .push_back(Output::Send(epoch, Down::Wait(wait)));
            return;
        }
        let known = [
            self.greeting.as_ref().map(|greeting| greeting.hello.hello),
            self.offer.as_ref().map(|offer| offer.hello),
            self.session.as_ref().map(|session| session.hello),
        ];
        let is_old = |known: HelloId| {
            known.connection == hello.hello.connection && known.attempt >= hello.hello.attempt
        };
        if known.into_iter().flatten().any(is_old) {
            // Doubled or overtaken on the way. Another offer would put the first one out of use.
            return;
        }
        let anchor = Anchor::of(now);
        self.greeting = Some(Greeting {
            session,
            epoch,
            latest_boot: anchor.boot(now.uptime, hello.uptime),
            anchor,
            hello,
        });
        self.outputs.push_back(Output::Recall { session, epoch });
    }

    /// The answer to [`Output::Recall`] and [`Output::RenewLedger`]: what is due next in the journal,
    /// and where the ledger stands.
    pub fn handle_recalled(&mut self, session: SessionId, up_next: Seq, ledger: Ledger, now: Now) {
        let Some(greeting) = self
            .greeting
            .take_if(|greeting| greeting.session == session)
        else {
            return;
        };
        let robot_next = match greeting.hello.down {
            Some(cursor) if cursor.epoch == ledger.epoch => cursor.next,
            Some(_) | None => Seq::FIRST,
        };
        if robot_next > ledger.next {
            let epoch = greeting.epoch;
            self.greeting = Some(greeting);
            self.outputs
                .push_back(Output::RenewLedger { session, epoch });
            return;
        }
        // What the robot has stored already must not be sent again, nor what it had stored before
        // its spool was lost.
        let acked = ledger.acked.max(robot_next);
        let version = Versions::SUPPORTED.common(greeting.hello.versions);
        let welcome = Welcome {
            hello: greeting.hello.hello,
            session,
            relay: self.id,
            up_next,
            down: Cursor {
                epoch: ledger.epoch,
                next: acked,
            },
            now: now.wall,
            uptime: now.uptime,
            credit: self.credit,
            live_interval: self.grants.live_interval,
            beat_interval: self.grants.beat_interval,
            version: version.unwrap_or(Versions::SUPPORTED.oldest),
        };
        self.offer = Some(Session {
            id: session,
            hello: greeting.hello.hello,
            epoch: greeting.epoch,
            robot_next: greeting.hello.next,
            stored: up_next,
            received: up_next,
            storing_bytes: 0,
            clock: SessionClock::new(
                greeting.anchor,
                greeting.hello.boot,
                greeting.latest_boot,
                now.uptime,
            ),
            heard_at: now.uptime,
            live_count: 0,
            down: DownState {
                epoch: ledger.epoch,
                acked: ledger.acked,
                limit: ledger.next,
                flight: None,
                loading: false,
                more: true,
                urgent: false,
            },
            building: BuildingState::default(),
        });
        self.outputs
            .push_back(Output::Send(greeting.epoch, Down::Welcome(welcome)));
    }

    /// The gateway said something within a session.
    pub fn handle_up(&mut self, epoch: Epoch, message: Up, now: Now) {
        let (id, sent) = match &message {
            Up::Batch(batch) => (batch.session, batch.sent),
            Up::Beat(beat) => (beat.session, beat.sent),
            Up::Report(report) => (report.session, report.sent),
            Up::Wanted(wanted) => (wanted.session, wanted.sent),
        };
        self.promote(id);
        let Some(session) = self.session.as_mut().filter(|s| s.id == id) else {
            let rehello = Down::Rehello(Rehello { session: id });
            self.outputs.push_back(Output::Send(epoch, rehello));
            return;
        };
        if session.epoch != epoch {
            return;
        }
        session.heard_at = now.uptime;
        session.clock.hear(sent, now.uptime);
        match message {
            Up::Batch(batch) => self.handle_batch(batch),
            Up::Beat(beat) => self.handle_beat(beat),
            Up::Report(report) => {
                session.robot_next = session.robot_next.max(report.next);
                self.outputs.push_back(Output::Report(epoch, report));
            }
            Up::Wanted(wanted) => self.handle_wanted(wanted),
        }
    }

    /// The gateway sent its newest status.
    pub fn handle_live(&mut self, Dated { live, ages }: Dated, now: Now) {
        // Live frames overtake the others, so this may be the first that the session is used for.
        self.promote(live.session);
        if let Some(session) = self.session.as_mut().filter(|s| s.id == live.session)
            && live.count > session.live_count
        {
            session.live_count = live.count;
            session.heard_at = now.uptime;
            let age = session.clock.age(live.sampled, now.uptime);
            let status = live.status.finite();
            let said = if ages == PerField::default() {
                // A gateway that knows no ages: as old as the status is all that can be said.
                PerField::of(&status, age)
            } else {
                ages.map(|before| age.saturating_add(before.duration()))
            };
            self.outputs.push_back(Output::Status(status, age, said));
        }
    }

    /// The broker published the last will of a connection.
    pub fn handle_gone(&mut self, gone: Gone) {
        let is_it = |s: &mut Session| s.hello.connection == gone.connection;
        self.offer.take_if(is_it);
        if self.session.take_if(is_it).is_some() {
            self.outputs.push_back(Output::Closed(Closed::Gone));
        }
    }

    /// The journal has everything before `next`, durably.
    pub fn handle_stored(&mut self, id: SessionId, next: Seq, bytes: usize) {
        let Some(session) = self.session.as_mut().filter(|s| s.id == id) else {
            return;
        };
        session.storing_bytes = session.storing_bytes.saturating_sub(bytes);
        session.stored = session.stored.max(next);
        session.received = session.received.max(session.stored);
        self.ack();
    }

    /// The journal did not store a run. Nothing is acknowledged; the gateway sends it again.
    pub fn handle_store_failed(&mut self, id: SessionId, bytes: usize) {
        if let Some(session) = self.session.as_mut().filter(|s| s.id == id) {
            session.storing_bytes = session.storing_bytes.saturating_sub(bytes);
            session.received = session.stored;
        }
    }

    /// The ledger has something new for the robot.
    pub fn handle_wake(&mut self) {
        if let Some(session) = &mut self.session {
            session.down.more = true;
        }
        self.pump();
    }

    /// The ledger has something new for the robot that must not wait until it has stored what is on the
    /// way: it may not be able to, and takes note of a stop all the same.
    pub fn handle_urgent_wake(&mut self) {
        if let Some(session) = &mut self.session {
            session.down.urgent = true;
        }
        self.handle_wake();
    }

    /// The answer to [`Output::Load`] where the ledger could not be read just now.
    pub fn handle_load_failed(&mut self, id: SessionId, now: Now) {
        if let Some(session) = self.session.as_mut().filter(|s| s.id == id) {
            session.down.loading = false;
            session.down.more = true;
            // A flight of nothing: loading is tried again when it would count as lost.
            session.down.flight = Some(Flight {
                end: session.down.acked,
                sent_at: now.uptime,
            });
        }
    }

    /// The answer to [`Output::Load`]: commands in order from `from` on, with the time each still has
    /// to live. None where there are none.
    pub fn handle_loaded(&mut self, id: SessionId, from: Seq, commands: Vec<Command>, now: Now) {
        let Some(session) = self.session.as_mut().filter(|s| s.id == id) else {
            return;
        };
        session.down.loading = false;
        if from != session.down.acked {
            // The robot acknowledged more in the meantime, so this run is out of date.
            session.down.more = true;
            self.pump();
            return;
        }
        if commands.is_empty() {
            self.pump();
            return;
        }
        let end = from.plus(u64::try_from(commands.len()).unwrap_or(u64::MAX));
        session.down.limit = session.down.limit.max(end);
        session.down.flight = Some(Flight {
            end,
            sent_at: now.uptime,
        });
        session.down.more = true;
        let down = Down::Commands(Commands {
            session: id,
            sent: now.uptime,
            first: from,
            commands,
        });
        let epoch = session.epoch;
        let ledger = session.down.epoch;
        self.outputs.push_back(Output::Send(epoch, down));
        self.outputs.push_back(Output::Sent {
            epoch: ledger,
            from,
            to: end,
        });
        self.pump();
    }

    /// From now on the robot may have this many bytes of records unacknowledged. Never more than
    /// [`Grants::credit`].
    pub fn grant(&mut self, credit: u32) {
        let credit = credit.min(self.grants.credit);
        if self.credit != credit {
            self.credit = credit;
            self.ack();
        }
    }

    /// How many positions wait on the robot, as far as it has said. Zero without a session.
    #[must_use]
    pub fn backlog(&self) -> u64 {
        let session = self.session.as_ref();
        session.map_or(0, |session| session.robot_next.since(session.received))
    }

    /// The moment that [`Relay::poll_timeout`] named has come, or any other.
    pub fn handle_timeout(&mut self, now: Now) {
        let silent_after = self.silent_after();
        let is_silent = |s: &mut Session| s.heard_at.plus(silent_after) <= now.uptime;
        self.offer.take_if(is_silent);
        if self.session.take_if(is_silent).is_some() {
            self.outputs.push_back(Output::Closed(Closed::Silent));
        }
        if let Some(session) = &mut self.session {
            let is_lost = |f: &mut Flight| f.sent_at.plus(COMMANDS_TIMEOUT) <= now.uptime;
            if session.down.flight.take_if(is_lost).is_some() {
                session.down.more = true;
                self.pump();
            }
        }
    }

    /// What the driver is to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Relay::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Uptime> {
        let silent_after = self.silent_after();
        let silent = [&self.offer, &self.session]
            .into_iter()
            .flatten()
            .map(|session| session.heard_at.plus(silent_after));
        let flight = self.session.as_ref().and_then(|s| s.down.flight);
        silent
            .chain(flight.map(|f| f.sent_at.plus(COMMANDS_TIMEOUT)))
            .min()
    }

    /// Whether the robot has a session here.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.session.is_some()
    }

    /// When the robot was last heard in its session here.
    #[must_use]
    pub fn heard_at(&self) -> Option<Uptime> {
        self.session.as_ref().map(|session| session.heard_at)
    }

    fn silent_after(&self) -> Duration {
        // Gateways do not obey other intervals, so waiting for those would close good sessions.
        let beats = self
            .grants
            .beat_interval
            .clamp(SHORTEST_BEAT_INTERVAL, LONGEST_INTERVAL);
        beats * SILENT_BEATS
    }

    fn promote(&mut self, id: SessionId) {
        if let Some(offer) = self.offer.take_if(|offer| offer.id == id) {
            if self.session.replace(offer).is_some() {
                self.outputs.push_back(Output::Closed(Closed::Replaced));
            }
            self.outputs.push_back(Output::Opened(id));
            self.pump();
        }
    }

    fn handle_batch(&mut self, batch: Batch) {
        let credit = usize::try_from(self.grants.credit).unwrap_or(usize::MAX);
        let Some(session) = &mut self.session else {
            return;
        };
        let (first, items) = skip_known(batch, session.received);
        // The gateway may have one batch more than its credit in flight, never two.
        let has_room = session.storing_bytes <= credit;
        if items.is_empty() || first != session.received || !has_room {
            // Known already, after a hole, or malformed: say what is due.
            self.ack();
            return;
        }
        session.storing_bytes += bytes_of(&items);
        session.received = items.iter().fold(first, |at, item| at.plus(item.covers));
        session.robot_next = session.robot_next.max(session.received);
        let store = Store {
            session: session.id,
            epoch: session.epoch,
            first,
            items,
            clock: session.clock.board(),
        };
        self.outputs.push_back(Output::Store(store));
    }

    fn handle_beat(&mut self, beat: Beat) {
        let Some(session) = &mut self.session else {
            return;
        };
        let down = &mut session.down;
        let is_news = beat.down.epoch == down.epoch && beat.down.next > down.acked;
        if is_news && beat.down.next <= down.limit {
            down.acked = beat.down.next;
            self.outputs.push_back(Output::Delivered(beat.down));
            down.flight.take_if(|flight| flight.end <= beat.down.next);
        }
        self.ack();
        self.pump();
    }

    fn ack(&mut self) {
        if let Some(session) = &self.session {
            let ack = Ack {
                session: session.id,
                next: session.stored,
                credit: self.credit,
            };
            self.outputs
                .push_back(Output::Send(session.epoch, Down::Ack(ack)));
        }
    }

    /// Asks for commands where there may be some and none are on the way, or one is urgent.
    fn pump(&mut self) {
        if let Some(session) = &mut self.session {
            let down = &mut session.down;
            let may_go = down.urgent || down.flight.is_none();
            if down.more && !down.loading && may_go {
                down.more = false;
                down.urgent = false;
                down.loading = true;
                self.outputs.push_back(Output::Load {
                    session: session.id,
                    from: down.acked,
                });
            }
        }
    }
}

/// How many bytes of records the items hold.
#[must_use]
pub fn bytes_of(items: &[Item]) -> usize {
    items.iter().map(|item| item.record.len()).sum()
}

/// Leaves out what ends at or before `received`. Of an item that begins before, as a tombstone may
/// when a part of what it stands for had arrived, the rest is left. Nothing is left of a malformed
/// batch.
fn skip_known(batch: Batch, received: Seq) -> (Seq, Vec<Item>) {
    let mut first = batch.first;
    let end = batch.items.iter().try_fold(first.0, |at, item| {
        at.checked_add(item.covers).filter(|_| item.covers > 0)
    });
    if end.is_none_or(|end| end > Seq::LAST.0) {
        return (first, Vec::new());
    }
    let mut items = batch.items;
    let mut known = 0;
    for item in &mut items {
        let end = first.plus(item.covers);
        if end > received {
            if first < received {
                item.covers = end.since(received);
                first = received;
            }
            break;
        }
        first = end;
        known += 1;
    }
    items.drain(..known);
    (first, items)
}
