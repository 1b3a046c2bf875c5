//! A relay that says anything, and a driver that answers in any order.

use std::time::Duration;

use brrbrr_proto::down::Down;
use brrbrr_proto::id::{BootId, ConnectionId, Cursor, Epoch, HelloId, Seq, SessionId};
use brrbrr_proto::link::Gateway;
use brrbrr_proto::link::gateway::{Output, SpoolView};
use brrbrr_proto::live::{PerField, Status};
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use brrbrr_proto::up::Item;

use super::input::Input;

/// Timers are checked up to here; beyond, moments saturate.
const END_OF_TIMERS: Duration = Duration::from_secs(1 << 40);
/// One step never puts out more than this.
const OUTPUTS_PER_STEP: usize = 16;

struct Driver {
    gateway: Gateway,
    now: Uptime,
    next: Seq,
    hello: Option<HelloId>,
    session: Option<SessionId>,
    read: Option<Seq>,
    stored: Option<Cursor>,
    renews: bool,
}

/// Arbitrary messages, answers and times into the gateway half.
pub fn link_gateway_down(data: &[u8]) {
    let mut input = Input(data);
    let view = SpoolView {
        epoch: Epoch(1),
        first: Seq::FIRST,
        next: Seq(1 + u64::from(input.byte() % 8)),
    };
    let mut driver = Driver {
        gateway: Gateway::new(view, None, String::new(), input.number()),
        now: Uptime::default(),
        next: view.next,
        hello: None,
        session: None,
        read: None,
        stored: None,
        renews: false,
    };
    while !input.is_empty() {
        driver.step(&mut input);
        driver.carry_out();
        driver.check_timers();
    }
}

impl Driver {
    fn step(&mut self, input: &mut Input) {
        let now = self.stamp();
        let gateway = &mut self.gateway;
        match input.byte() % 12 {
            0 => gateway.handle_connected(ConnectionId(input.number()), now),
            1 => {
                gateway.handle_disconnected();
                self.hello = None;
            }
            2 => {
                self.next = self.next.plus(u64::from(input.byte()));
                gateway.handle_appended(self.next, self.now);
            }
            3 => self.answer_read(input.byte()),
            4 => {
                if let Some(cursor) = self.stored.take() {
                    gateway.handle_commands_stored(cursor, self.now);
                }
            }
            5 => self.renew(),
            6 => gateway.handle_status(Status::default(), PerField::default(), self.now),
            7 => self.now = self.now.plus(Duration::from_micros(input.number())),
            8 => gateway.handle_timeout(now),
            _ => {
                let is_patched = !input.byte().is_multiple_of(4);
                if let Some(mut message) = input.message::<Down>() {
                    if is_patched {
                        self.patch(&mut message);
                    }
                    self.gateway.handle_down(message, now);
                }
            }
        }
    }

    /// Makes a message one of the current session, or else few would get far.
    fn patch(&self, message: &mut Down) {
        let hello = self.hello;
        let session = self.session;
        match message {
            Down::Welcome(welcome) => welcome.hello = hello.unwrap_or(welcome.hello),
            Down::Wait(wait) => wait.hello = hello.unwrap_or(wait.hello),
            Down::Ack(ack) => ack.session = session.unwrap_or(ack.session),
            Down::Commands(commands) => {
                commands.session = session.unwrap_or(commands.session);
            }
            Down::Rehello(rehello) => rehello.session = session.unwrap_or(rehello.session),
            Down::Building(part) => part.session = session.unwrap_or(part.session),
            Down::NoBuilding(no) => no.session = session.unwrap_or(no.session),
        }
    }

    fn answer_read(&mut self, count: u8) {
        let Some(from) = self.read.take() else { return };
        let left = self.next.since(from).min(u64::from(count % 4));
        let item = Item {
            covers: 1,
            record: vec![0; usize::from(count)],
        };
        let items = (0..left).map(|_| item.clone()).collect();
        self.gateway.handle_read(from, items, self.now);
    }

    fn renew(&mut self) {
        if std::mem::take(&mut self.renews) {
            self.next = Seq(3);
            let view = SpoolView {
                epoch: Epoch(2),
                first: Seq::FIRST,
                next: self.next,
            };
            self.gateway.handle_renewed(view, self.stamp());
        }
    }

    fn carry_out(&mut self) {
        let mut count = 0;
        while let Some(output) = self.gateway.poll_output() {
            count += 1;
            match output {
                Output::Hello(hello) => {
                    assert!(!self.renews, "greets while the spool is renewed");
                    self.hello = Some(hello.hello);
                }
                Output::Read { from, .. } => self.read = Some(from),
                Output::Release { next } => assert!(next <= self.next, "frees what is not there"),
                Output::Store { cursor, .. } => {
                    assert!(cursor.next.0 <= Seq::LAST.0 + u64::from(u16::MAX));
                    self.stored = Some(cursor);
                }
                Output::RenewEpoch => {
                    assert!(!self.renews, "renews twice");
                    self.renews = true;
                }
                Output::Opened(session, _) => self.session = Some(session),
                Output::Closed(_) => self.session = None,
                Output::Up(..) | Output::Live(..) | Output::Building(_) | Output::Reconnect => {}
            }
        }
        assert!(count <= OUTPUTS_PER_STEP, "{count} outputs from one step");
    }

    fn check_timers(&mut self) {
        if self.now.since_boot() >= END_OF_TIMERS {
            return;
        }
        if self.gateway.poll_timeout().is_some_and(|at| at <= self.now) {
            self.gateway.handle_timeout(self.stamp());
            self.carry_out();
            let timeout = self.gateway.poll_timeout();
            assert!(
                timeout.is_none_or(|at| at > self.now),
                "a timer stays due at {:?}",
                self.now
            );
        }
    }

    fn stamp(&self) -> Stamp {
        Stamp {
            boot: BootId(1),
            uptime: self.now,
            wall: WallClock(0),
        }
    }
}
