//! The relay: its clocks, what people ask of it, and the driver around the link half.

use std::collections::VecDeque;
use std::time::Duration;

use brrbrr_proto::api::CANCEL_LIFETIME;
use brrbrr_proto::down::{Command, Order};
use brrbrr_proto::id::{CommandId, Epoch, RelayId, Seq, SessionId};
use brrbrr_proto::link::Relay;
use brrbrr_proto::link::relay::{Grants, Ledger as Position, Now, Output};
use brrbrr_proto::time::{Uptime, WallClock};
use brrbrr_relay::catalog::{Cancellation, NewCommand};
use jiff::{SignedDuration, Timestamp};

use super::ledger::Ledger;
use super::workers::{DownJob, Journal, UpJob};
use super::world::{UpFrame, World};

const GRANTS: Grants = Grants {
    credit: 2_000,
    live_interval: Duration::from_secs(1),
    beat_interval: Duration::from_secs(5),
};
/// What the relay's calendar shows at the true time zero while it is right: in the year 2026.
const CALENDAR: i64 = 1_790_000_000_000_000;

pub struct RelaySide {
    pub ledger: Ledger,
    pub process: Option<Process>,
    /// How far the calendar is off, in microseconds.
    pub calendar: i64,
    pub journal: Journal,
}

/// A running relay. All of it is gone when it stops.
pub struct Process {
    id: RelayId,
    half: Relay,
    started: Uptime,
    pub up_jobs: VecDeque<UpJob>,
    pub down_jobs: VecDeque<DownJob>,
    pub answers: VecDeque<Done>,
    pub unmarked: Option<(Epoch, Seq, Seq)>,
    /// What its calendar for commands showed, and when: it never goes slower than time passes.
    calendar: Option<(Timestamp, Uptime)>,
}

pub enum Done {
    Recalled(SessionId, Seq, Position),
    Stored(SessionId, Seq, usize),
    StoreFailed(SessionId, usize),
    /// With the moment at which the times to live were right.
    Loaded(SessionId, Seq, Vec<Command>, Now),
    LoadFailed(SessionId),
}

impl RelaySide {
    pub fn new(ledger: Ledger) -> Self {
        Self {
            ledger,
            process: None,
            calendar: 0,
            journal: Journal::default(),
        }
    }

    /// What the calendar of its machine claims.
    pub fn wall(&self, now: Uptime) -> Timestamp {
        let since = i64::try_from(now.since_boot().as_micros()).expect("small");
        Timestamp::from_microsecond(CALENDAR + since + self.calendar).expect("a date")
    }

    /// The calendar for commands, as in `clock` of the relay.
    pub fn calendar(&mut self, now: Uptime) -> Timestamp {
        let wall = self.wall(now);
        let Some(process) = self.process.as_mut() else {
            return wall;
        };
        let at_least = process.calendar.map(|(last, since)| {
            let passed = SignedDuration::try_from(now.since(since)).expect("short");
            last.saturating_add(passed).expect("a date")
        });
        let now_shown = at_least.map_or(wall, |at_least| at_least.max(wall));
        process.calendar = Some((now_shown, now));
        now_shown
    }

    pub fn next_timer(&self) -> Option<Uptime> {
        let process = self.process.as_ref()?;
        let at = process.half.poll_timeout()?;
        Some(process.started.plus(at.since_boot()))
    }

    pub fn is_idle(&self) -> bool {
        let position = self.ledger.position();
        position.acked == position.next
            && self.process.as_ref().is_some_and(|process| {
                process.up_jobs.is_empty()
                    && process.down_jobs.is_empty()
                    && process.answers.is_empty()
            })
    }
}

impl World {
    pub fn start_relay(&mut self) {
        let id = RelayId(self.random.next());
        self.note(|| "the relay starts".to_owned());
        self.relay.process = Some(Process {
            id,
            half: Relay::new(id, GRANTS),
            started: self.now,
            up_jobs: VecDeque::new(),
            down_jobs: VecDeque::new(),
            answers: VecDeque::new(),
            unmarked: None,
            calendar: None,
        });
        self.judge.relay_started();
    }

    /// The relay is killed. Some of what its workers were at is done, only nobody hears of it.
    pub fn crash_relay(&mut self) {
        if self.relay.process.is_none() {
            return;
        }
        self.note(|| "the relay is killed".to_owned());
        self.mischief.relay_crashes += 1;
        while self.random.one_in(2) && self.work_up() {}
        while self.random.one_in(2) && self.work_down() {}
        self.relay.process = None;
        if self.random.one_in(2) {
            self.disconnect();
        }
    }

    /// The calendar is set: by years, or by so little that nobody notices.
    pub fn set_calendar(&mut self) {
        const YEAR: i64 = 365 * 24 * 3_600_000_000;
        let years = self.random.below(21).cast_signed() - 10;
        let little = self.random.below(60_000_000).cast_signed() - 30_000_000;
        self.relay.calendar = match self.random.below(4) {
            0 => 0,
            1 => little,
            _ => years * YEAR + little,
        };
        let calendar = self.relay.calendar / 1_000_000;
        self.note(|| format!("the relay's calendar is off by {calendar} s"));
    }

    /// Somebody orders something over the relay's REST interface.
    pub fn order(&mut self, order: Order, lifetime: Duration, key: Option<String>) {
        if self.relay.process.is_none() {
            return;
        }
        let command = self.new_command(order, lifetime, key);
        let offered = self.is_in_contact();
        let id = command.id;
        let Some(done) = self.relay.ledger.submit(command, offered) else {
            return;
        };
        let entry = done.entry;
        if entry.command.id == id {
            self.judge
                .accepted(id, &entry.command.order, lifetime, self.now);
        }
        self.note(|| format!("ordered, offered {offered}: {entry:?}"));
        self.judge.ledger_says(&entry);
        for ended in &done.ended {
            self.judge.ledger_says(ended);
        }
        let is_stop = entry.command.order == Order::Stop;
        self.with_relay(|half, _| match is_stop {
            true => half.handle_urgent_wake(),
            false => half.handle_wake(),
        });
    }

    /// Somebody cancels a command over the relay's REST interface.
    pub fn cancel(&mut self, id: CommandId) {
        if self.relay.process.is_none() || !self.judge.is_in_ledger(id) {
            return;
        }
        let cancel = self.new_command(Order::Cancel(id), CANCEL_LIFETIME, None);
        let (cancel_id, order) = (cancel.id, cancel.order.clone());
        let offered = self.is_in_contact();
        let done = self.relay.ledger.cancel(id, cancel, offered);
        self.note(|| format!("cancelled: {done:?}"));
        match done {
            Cancellation::Ended(entry) => self.judge.ledger_says(&entry),
            Cancellation::Over(entry) => assert!(entry.state.is_final(), "not over"),
            Cancellation::Entered(entry, entered) => {
                assert_eq!(entered, cancel_id);
                self.judge
                    .accepted(cancel_id, &order, CANCEL_LIFETIME, self.now);
                self.judge.ledger_says(&entry);
                self.judge.cancelled(id, cancel_id);
                self.with_relay(|half, _| half.handle_urgent_wake());
            }
            Cancellation::UnderWay(entry) => assert!(entry.cancelling, "not under way"),
        }
    }

    fn new_command(&mut self, order: Order, lifetime: Duration, key: Option<String>) -> NewCommand {
        let submitted = self.relay.calendar(self.now);
        let lifetime = SignedDuration::try_from(lifetime).expect("short");
        NewCommand {
            id: CommandId(self.random.id()),
            robot: self.relay.ledger.robot,
            order,
            deadline: submitted.saturating_add(lifetime).expect("a date"),
            actor: "admin".to_owned(),
            idempotency_key: key,
            submitted,
        }
    }

    /// What the relay believes; it may be wrong either way.
    fn is_in_contact(&mut self) -> bool {
        let process = self.relay.process.as_ref();
        let is_open = process.is_some_and(|process| process.half.is_open());
        is_open != (!self.is_healed && self.random.one_in(6))
    }

    /// Commands that were never offered are ended when their time has passed.
    pub fn expire(&mut self) {
        if self.relay.process.is_none() {
            return;
        }
        let now = self.relay.calendar(self.now);
        for entry in self.relay.ledger.expire(now) {
            self.note(|| format!("expired by the relay: {:?}", entry.command.id));
            self.mischief.expired_by_relay += 1;
            self.judge.ledger_says(&entry);
        }
    }

    /// The ledger is to say that commands were sent.
    pub fn mark_sent(&mut self) {
        let at = self.relay.wall(self.now);
        let process = self.relay.process.as_mut();
        if let Some((epoch, from, to)) = process.and_then(|process| process.unmarked.take()) {
            self.relay.ledger.mark_sent(epoch, from, to, at);
        }
    }

    /// The driver hears the next answer. Says whether there was one.
    pub fn answer_relay(&mut self) -> bool {
        let process = self.relay.process.as_mut();
        let Some(done) = process.and_then(|process| process.answers.pop_front()) else {
            return false;
        };
        self.with_relay(|half, now| match done {
            Done::Recalled(session, up_next, position) => {
                half.handle_recalled(session, up_next, position, now);
            }
            Done::Stored(session, next, bytes) => half.handle_stored(session, next, bytes),
            Done::StoreFailed(session, bytes) => half.handle_store_failed(session, bytes),
            Done::Loaded(session, from, commands, at) => {
                half.handle_loaded(session, from, commands, at);
            }
            Done::LoadFailed(session) => half.handle_load_failed(session, now),
        });
        true
    }

    pub fn handle_relay_time(&mut self) {
        self.with_relay(Relay::handle_timeout);
    }

    pub fn hear_board(&mut self, epoch: Epoch, frame: UpFrame) {
        let Some(process) = &self.relay.process else {
            return;
        };
        let id = process.id;
        let session = SessionId(self.random.next());
        self.with_relay(|half, now| match frame {
            UpFrame::Hello(hello) => half.handle_hello(epoch, hello, session, now),
            UpFrame::Up(to, up) if to == id => half.handle_up(epoch, up, now),
            UpFrame::Live(to, live) if to == id => half.handle_live(live, now),
            UpFrame::Gone(gone) => half.handle_gone(gone),
            UpFrame::Up(..) | UpFrame::Live(..) => {}
        });
    }

    pub fn relay_now(&self) -> Now {
        let process = self.relay.process.as_ref();
        let started = process.map_or(self.now, |process| process.started);
        Now {
            uptime: Uptime::new(self.now.since(started)),
            wall: WallClock(self.relay.wall(self.now).as_microsecond()),
        }
    }

    fn with_relay(&mut self, act: impl FnOnce(&mut Relay, Now)) {
        let now = self.relay_now();
        let Some(process) = self.relay.process.as_mut() else {
            return;
        };
        act(&mut process.half, now);
        while let Some(output) = self
            .relay
            .process
            .as_mut()
            .and_then(|process| process.half.poll_output())
        {
            self.note(|| format!("relay: {output:?}"));
            self.carry_out_relay(output);
        }
    }

    fn carry_out_relay(&mut self, output: Output) {
        let Some(process) = self.relay.process.as_mut() else {
            return;
        };
        match output {
            Output::Send(epoch, down) => {
                let (now, is_healed) = (self.now, self.is_healed);
                self.down
                    .send((epoch, down), now, is_healed, &mut self.random);
            }
            Output::Recall { session, .. } => process.up_jobs.push_back(UpJob::Recall(session)),
            Output::RenewLedger { .. } => panic!("nothing was restored here"),
            Output::Store(store) => process.up_jobs.push_back(UpJob::Store(store)),
            Output::Load { session, from } => {
                process.down_jobs.push_back(DownJob::Load(session, from));
            }
            Output::Sent { epoch, from, to } => {
                process.down_jobs.push_back(DownJob::Sent(epoch, from, to));
            }
            Output::Delivered(cursor) => {
                process.down_jobs.push_back(DownJob::Delivered(cursor));
            }
            Output::Status(..)
            | Output::Report(..)
            | Output::Opened(_)
            | Output::Closed(_)
            | Output::Building { .. } => {}
        }
    }
}
