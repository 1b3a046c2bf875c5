//! A gateway that says anything, and stores that answer in any order.

use std::collections::VecDeque;
use std::time::Duration;

use brrbrr_proto::down::{Command, Order};
use brrbrr_proto::frame::MAX_FRAME_BYTES;
use brrbrr_proto::id::{CommandId, Cursor, Epoch, RelayId, Revision, Seq, SessionId};
use brrbrr_proto::link::Relay;
use brrbrr_proto::link::relay::{BuildingAnswer, Grants, Ledger, Now, Output, Store, bytes_of};
use brrbrr_proto::live::Dated;
use brrbrr_proto::time::{Uptime, WallClock};
use brrbrr_proto::up::{Gone, Hello, Up};

use super::input::Input;

/// See the gateway's driver.
const END_OF_TIMERS: Duration = Duration::from_secs(1 << 40);
const OUTPUTS_PER_STEP: usize = 16;
const GRANTS: Grants = Grants {
    credit: 256,
    live_interval: Duration::from_millis(200),
    beat_interval: Duration::from_secs(10),
};

struct Driver {
    relay: Relay,
    now: Now,
    sessions: u64,
    recall: Option<SessionId>,
    load: Option<(SessionId, Seq)>,
    building: Option<SessionId>,
    stores: VecDeque<Store>,
    session: Option<SessionId>,
    /// Where the current session's next store must begin; none where it may begin again.
    due: Option<Seq>,
    ledger: Ledger,
}

/// Arbitrary messages, answers and times into the relay half.
pub fn link_relay_up(data: &[u8]) {
    let mut input = Input(data);
    let mut driver = Driver {
        relay: Relay::new(RelayId(1), GRANTS),
        now: Now {
            uptime: Uptime::default(),
            wall: WallClock(0),
        },
        sessions: 0,
        recall: None,
        load: None,
        building: None,
        stores: VecDeque::new(),
        session: None,
        due: None,
        ledger: Ledger {
            epoch: Epoch(2),
            acked: Seq::FIRST,
            next: Seq(1 + u64::from(input.byte() % 8)),
        },
    };
    while !input.is_empty() {
        driver.step(&mut input);
        driver.carry_out();
        driver.check_timers();
    }
}

impl Driver {
    fn step(&mut self, input: &mut Input) {
        let now = self.now;
        match input.byte() % 16 {
            0 => self.hello(input),
            1 => {
                if let Some(session) = self.recall.take() {
                    let up_next = Seq(input.number());
                    self.relay
                        .handle_recalled(session, up_next, self.ledger, now);
                }
            }
            2 => {
                if let Some(store) = self.stores.pop_front() {
                    let end = store
                        .items
                        .iter()
                        .fold(store.first, |at, i| at.plus(i.covers));
                    let bytes = bytes_of(&store.items);
                    self.relay.handle_stored(store.session, end, bytes);
                }
            }
            3 => {
                if let Some(store) = self.stores.pop_front() {
                    let bytes = bytes_of(&store.items);
                    self.relay.handle_store_failed(store.session, bytes);
                    self.due = None;
                }
            }
            4 => self.relay.handle_wake(),
            5 => self.loaded(input.byte()),
            6 => {
                if let Some(gone) = input.message::<Gone>() {
                    self.relay.handle_gone(gone);
                }
            }
            7 => {
                if let Some(mut dated) = input.message::<Dated>() {
                    let live = &mut dated.live;
                    live.session = self.session.unwrap_or(live.session);
                    self.relay.handle_live(dated, now);
                }
            }
            8 => {
                let pause = Duration::from_micros(input.number());
                self.now.uptime = self.now.uptime.plus(pause);
            }
            9 => self.now.wall = WallClock(i64::from_le_bytes(input.number().to_le_bytes())),
            10 => self.relay.handle_timeout(now),
            11 => self.relay.handle_building_changed(),
            12 => {
                if let Some(session) = self.building.take() {
                    let newest = BuildingAnswer::Newest(Revision(u128::from(input.byte() % 4)));
                    let answer = Some(newest).filter(|_| !input.byte().is_multiple_of(4));
                    self.relay.handle_building(session, answer);
                }
            }
            _ => self.up(input),
        }
    }

    fn hello(&mut self, input: &mut Input) {
        if let Some(hello) = input.message::<Hello>() {
            self.sessions += 1;
            let session = SessionId(self.sessions);
            self.relay.handle_hello(Epoch(1), hello, session, self.now);
        }
    }

    fn up(&mut self, input: &mut Input) {
        let choice = input.byte();
        if let Some(mut message) = input.message::<Up>() {
            // Of the newest session, or else few would get far.
            let newest = SessionId(self.sessions);
            if !choice.is_multiple_of(4) {
                match &mut message {
                    Up::Batch(batch) => {
                        batch.session = newest;
                        batch.first = self.due.unwrap_or(batch.first);
                    }
                    Up::Beat(beat) => {
                        beat.session = newest;
                        beat.down.epoch = self.ledger.epoch;
                    }
                    Up::Report(report) => report.session = newest,
                    Up::Wanted(wanted) => wanted.session = newest,
                }
            }
            let epoch = Epoch(u64::from(!choice.is_multiple_of(16)));
            self.relay.handle_up(epoch, message, self.now);
        }
    }

    fn loaded(&mut self, count: u8) {
        let Some((session, from)) = self.load.take() else {
            return;
        };
        let left = self.ledger.next.since(from).min(u64::from(count % 8));
        let command = Command {
            id: CommandId(1),
            time_to_live: Duration::from_secs(1),
            order: Order::Stop,
        };
        let commands = (0..left).map(|_| command.clone()).collect();
        let now = self.now;
        self.relay.handle_loaded(session, from, commands, now);
    }

    fn carry_out(&mut self) {
        let mut count = 0;
        while let Some(output) = self.relay.poll_output() {
            count += 1;
            match output {
                Output::Recall { session, .. } => self.recall = Some(session),
                Output::RenewLedger { session, .. } => {
                    self.ledger.epoch = Epoch(self.ledger.epoch.0 + 1);
                    self.recall = Some(session);
                }
                Output::Store(store) => self.accept(store),
                Output::Load { session, from } => self.load = Some((session, from)),
                Output::Delivered(Cursor { next, .. }) => {
                    assert!(next <= self.ledger.next, "delivered what was never there");
                    self.ledger.acked = self.ledger.acked.max(next);
                }
                Output::Opened(session) => {
                    self.session = Some(session);
                    self.due = None;
                }
                Output::Closed(_) => self.session = None,
                Output::Building { session, .. } => {
                    let before = self.building.replace(session);
                    assert_ne!(before, Some(session), "two questions at a time");
                }
                Output::Send(..)
                | Output::Sent { .. }
                | Output::Status(..)
                | Output::Report(..) => {}
            }
        }
        assert!(count <= OUTPUTS_PER_STEP, "{count} outputs from one step");
    }

    fn accept(&mut self, store: Store) {
        assert!(!store.items.is_empty());
        assert!(self.due.is_none_or(|due| due == store.first), "a hole");
        let end = store.items.iter().try_fold(store.first.0, |at, item| {
            assert!(item.covers > 0);
            at.checked_add(item.covers)
        });
        let end = end.expect("no stream is that long");
        assert!(end <= Seq::LAST.0);
        self.due = Some(Seq(end));
        self.stores.push_back(store);
        let held = self
            .stores
            .iter()
            .filter(|s| Some(s.session) == self.session);
        let bytes: usize = held.map(|store| bytes_of(&store.items)).sum();
        assert!(bytes <= 256 + MAX_FRAME_BYTES, "{bytes} bytes wait");
    }

    fn check_timers(&mut self) {
        if self.now.uptime.since_boot() >= END_OF_TIMERS {
            return;
        }
        let is_due =
            |relay: &Relay, now: Now| relay.poll_timeout().is_some_and(|at| at <= now.uptime);
        if is_due(&self.relay, self.now) {
            self.relay.handle_timeout(self.now);
            self.carry_out();
            assert!(!is_due(&self.relay, self.now), "a timer stays due");
        }
    }
}
