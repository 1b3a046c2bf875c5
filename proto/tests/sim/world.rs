//! A robot's gateway, a relay, their disks and the network between them, under one virtual clock.

use std::ops::AddAssign;
use std::time::Duration;

use brrbrr_proto::down::{Command, Down, Order};
use brrbrr_proto::id::{BootId, CommandId, ConnectionId, Cursor, Epoch, RelayId, Seq, SessionId};
use brrbrr_proto::link::gateway::Output as FromGateway;
use brrbrr_proto::link::relay::{Grants, Now, Output as FromRelay, Store, bytes_of};
use brrbrr_proto::link::{COMMANDS_PER_FRAME, Gateway, Relay};
use brrbrr_proto::live::{Dated, PerField, Status};
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use brrbrr_proto::up::{Gone, Hello, Up};

use crate::disk::{RelayDisk, SpoolDisk};
use crate::judge::Judge;
use crate::net::Pipe;
use crate::random::Random;

const GRANTS: Grants = Grants {
    credit: 400,
    live_interval: Duration::from_secs(1),
    beat_interval: Duration::from_secs(5),
};

/// What went wrong on purpose.
#[derive(Debug, Default, Clone, Copy)]
pub struct Mischief {
    pub lost: u64,
    pub doubled: u64,
    pub gateway_crashes: u64,
    pub relay_crashes: u64,
    pub stores_failed: u64,
    pub writes_refused: u64,
    pub shed: u64,
    pub rotten: u64,
    pub torn: u64,
    pub unsynced_lost: u64,
}

impl AddAssign for Mischief {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.gateway_crashes += other.gateway_crashes;
        self.relay_crashes += other.relay_crashes;
        self.stores_failed += other.stores_failed;
        self.writes_refused += other.writes_refused;
        self.shed += other.shed;
        self.rotten += other.rotten;
        self.torn += other.torn;
        self.unsynced_lost += other.unsynced_lost;
    }
}

#[derive(Debug, Clone)]
enum UpFrame {
    Hello(Hello),
    Up(RelayId, Up),
    Live(RelayId, Dated),
    Gone(Gone),
}

/// Work that a disk has been asked to do and has not finished.
enum GatewayJob {
    Read {
        from: Seq,
        max_items: usize,
        max_bytes: usize,
    },
    Store {
        cursor: Cursor,
        commands: Vec<Command>,
    },
    /// Commands are written and not yet synced.
    SyncCommands(Cursor),
    /// Records are written and not yet synced.
    SyncRecords,
}

enum RelayJob {
    Recall(SessionId, Epoch),
    Store(Store),
    /// A run is written and not yet synced.
    SyncStore(SessionId, usize),
    Load(SessionId, Seq),
}

pub struct World {
    random: Random,
    trace: bool,
    now: Uptime,
    is_healed: bool,
    mischief: Mischief,
    epoch: Epoch,

    gateway: Option<Gateway>,
    booted_at: Uptime,
    boot: BootId,
    connection: Option<ConnectionId>,
    spool: SpoolDisk,
    gateway_jobs: Vec<GatewayJob>,
    /// What the spool may drop, and has not yet.
    held_release: Option<Seq>,

    relay: Option<(RelayId, Relay)>,
    disk: RelayDisk,
    relay_jobs: Vec<RelayJob>,
    last_live: u64,

    up: Pipe<(Epoch, UpFrame)>,
    down: Pipe<(Epoch, Down)>,

    judge: Judge,
    submitted: Vec<CommandId>,
}

impl World {
    pub fn new(seed: u64, trace: bool) -> Self {
        let mut random = Random::new(seed);
        let epoch = Epoch(random.next());
        let ledger = Epoch(random.next());
        let mut world = Self {
            random,
            trace,
            now: Uptime::new(Duration::from_secs(1_000)),
            is_healed: false,
            mischief: Mischief::default(),
            epoch,
            gateway: None,
            booted_at: Uptime::default(),
            boot: BootId(0),
            connection: None,
            spool: SpoolDisk::new(epoch),
            gateway_jobs: Vec::new(),
            held_release: None,
            relay: None,
            disk: RelayDisk::new(ledger),
            relay_jobs: Vec::new(),
            last_live: 0,
            up: Pipe::new(),
            down: Pipe::new(),
            judge: Judge::default(),
            submitted: Vec::new(),
        };
        world.start_gateway();
        world.start_relay();
        world
    }

    pub fn mischief(&self) -> Mischief {
        Mischief {
            lost: self.up.lost + self.down.lost,
            doubled: self.up.doubled + self.down.doubled,
            torn: self.spool.platter.torn + self.disk.platter.torn,
            unsynced_lost: self.spool.platter.lost + self.disk.platter.lost,
            ..self.mischief
        }
    }

    /// One random thing happens, then everything that follows from it at once.
    pub fn act(&mut self) {
        self.come_back();
        match self.random.below(100) {
            0..25 => self.append(),
            25..32 => self.submit(),
            32..34 => self.crash_gateway(),
            34..36 => self.crash_relay(),
            36..39 => self.disconnect(),
            39..43 => self.show_status(),
            43..63 => self.work_gateway(),
            63..65 => self.shed(),
            65 => self.rot(),
            66..95 => self.work_relay(),
            _ => self.fail_store(),
        }
        let pause = match self.random.below(10) {
            0..6 => self.random.below(200),
            6..9 => self.random.below(3_000),
            _ => self.random.below(40_000),
        };
        self.pass(Duration::from_millis(pause));
    }

    /// What is down does not stay down for long.
    fn come_back(&mut self) {
        if self.gateway.is_none() && self.random.one_in(4) {
            self.start_gateway();
        }
        if self.relay.is_none() && self.random.one_in(4) {
            self.start_relay();
        }
        if self.random.one_in(3) {
            self.connect();
        }
    }

    /// From now on nothing goes wrong, and everything has time to settle.
    pub fn heal(&mut self) {
        self.is_healed = true;
        if let Some(next) = self.held_release.take() {
            self.spool.release(next);
        }
        if self.gateway.is_none() {
            self.start_gateway();
        }
        if self.relay.is_none() {
            self.start_relay();
        }
        for _ in 0..20_000 {
            if self.connection.is_none() {
                self.connect();
            }
            self.work_gateway();
            self.work_relay();
            self.pass(Duration::from_millis(50));
            if self.is_settled() {
                return;
            }
        }
    }

    fn is_settled(&self) -> bool {
        self.spool.is_empty()
            && self.judge.is_settled()
            && self.disk.ledger().acked == self.disk.ledger().next
            && self.gateway_jobs.is_empty()
            && self.relay_jobs.is_empty()
    }

    /// What holds at every moment.
    pub fn check_journal(&mut self) {
        let may_bury = self.mischief.shed + self.mischief.rotten > 0;
        self.judge.check_new(self.disk.journal(), may_bury);
        assert!(
            self.submitted.starts_with(self.spool.commands()),
            "commands differ"
        );
        assert!(
            self.spool.view().first <= self.disk.synced_due() || self.spool.is_empty(),
            "freed before stored"
        );
    }

    /// What holds in the end.
    pub fn check_complete(&mut self) {
        self.check_journal();
        self.judge.check_complete(self.disk.journal());
        assert_eq!(self.spool.commands(), self.submitted, "commands missing");
        assert!(self.is_settled(), "not settled");
    }

    fn append(&mut self) {
        if self.gateway.is_none() {
            return;
        }
        for _ in 0..=self.random.below(6) {
            let length = usize::try_from(self.random.below(120)).expect("small");
            let record = self.judge.next_record(length);
            let at = self.spool.append(record.clone());
            self.judge.offered(record, at);
        }
        let is_sync = |job: &GatewayJob| matches!(job, GatewayJob::SyncRecords);
        if !self.gateway_jobs.iter().any(is_sync) {
            self.gateway_jobs.push(GatewayJob::SyncRecords);
        }
    }

    fn shed(&mut self) {
        if self.gateway.is_some() && self.spool.shed(&mut self.random) {
            self.note("records shed");
            self.mischief.shed += 1;
            self.sync_spool();
        }
    }

    fn rot(&mut self) {
        if self.spool.rot(&mut self.random) {
            self.note("records rotten");
            self.mischief.rotten += 1;
            self.sync_spool();
        }
    }

    /// All that is written becomes durable, and then the robot and the link hear of it.
    fn sync_spool(&mut self) {
        self.spool.sync();
        self.gateway_jobs
            .retain(|job| !matches!(job, GatewayJob::SyncRecords));
        self.judge.synced();
        let (next, now) = (self.spool.view().next, self.stamp().uptime);
        self.with_gateway(|gateway| gateway.handle_appended(next, now));
    }

    fn submit(&mut self) {
        let id = CommandId(u128::from(self.random.next()));
        self.submitted.push(id);
        let time_to_live = Duration::from_secs(60);
        self.disk.submit(Command {
            id,
            time_to_live,
            order: Order::Stop,
        });
        self.with_relay(|relay, _| relay.handle_wake());
    }

    fn show_status(&mut self) {
        let now = self.stamp().uptime;
        let status = Status {
            battery: Some(0.5),
            ..Status::default()
        };
        self.with_gateway(|gateway| gateway.handle_status(status, PerField::default(), now));
    }

    fn crash_gateway(&mut self) {
        if self.gateway.take().is_some() {
            self.note("gateway crashes");
            self.mischief.gateway_crashes += 1;
            self.cut();
            self.gateway_jobs.clear();
            self.held_release = None;
            self.judge.refused();
            self.spool.crash(&mut self.random);
            if self.random.one_in(3) {
                // The board lost power, so its clock starts again.
                self.booted_at = self.now;
                self.boot = BootId(self.random.next());
            }
        }
    }

    fn start_gateway(&mut self) {
        let seed = self.random.next();
        let (view, down) = (self.spool.view(), self.spool.down());
        let core = Gateway::new(view, down, "sim".to_owned(), seed);
        self.gateway = Some(core);
    }

    fn crash_relay(&mut self) {
        if self.relay.take().is_some() {
            self.note("relay crashes");
            self.mischief.relay_crashes += 1;
            // What was on its way to the disk may have reached it, only nobody was told.
            for job in std::mem::take(&mut self.relay_jobs) {
                if let RelayJob::Store(store) = job
                    && self.random.one_in(2)
                {
                    self.disk.store(store.epoch, store.first, &store.items);
                }
            }
            self.disk.crash(&mut self.random);
            self.judge.journal_went_back();
            if self.random.one_in(2) {
                self.disconnect();
            }
        }
    }

    fn start_relay(&mut self) {
        let id = RelayId(self.random.next());
        self.relay = Some((id, Relay::new(id, GRANTS)));
        self.last_live = 0;
    }

    fn connect(&mut self) {
        if self.connection.is_none() && self.gateway.is_some() {
            self.note("connected");
            let id = ConnectionId(self.random.next());
            let now = self.stamp();
            self.connection = Some(id);
            self.with_gateway(|gateway| gateway.handle_connected(id, now));
        }
    }

    fn disconnect(&mut self) {
        self.note("disconnected");
        self.cut();
        self.with_gateway(Gateway::handle_disconnected);
    }

    fn cut(&mut self) {
        self.up.cut(&mut self.random);
        self.down.cut(&mut self.random);
        if let Some(connection) = self.connection.take() {
            let gone = UpFrame::Gone(Gone { connection });
            self.up.send(
                (self.epoch, gone),
                self.now,
                self.is_healed,
                &mut self.random,
            );
        }
    }

    /// A disk refuses what was written to it since the last sync.
    fn fail_store(&mut self) {
        if self.random.one_in(3) {
            self.refuse_writes();
            return;
        }
        let stores = |job: &RelayJob| matches!(job, RelayJob::Store(_));
        if let Some(index) = self.relay_jobs.iter().position(stores)
            && let RelayJob::Store(store) = self.relay_jobs.remove(index)
        {
            self.mischief.stores_failed += 1;
            let bytes = bytes_of(&store.items);
            self.with_relay(|relay, _| relay.handle_store_failed(store.session, bytes));
        }
    }

    /// The gateway's disk is full for a moment: the robot hears that nothing was taken.
    fn refuse_writes(&mut self) {
        let is_sync = |job: &GatewayJob| matches!(job, GatewayJob::SyncRecords);
        if self.gateway_jobs.iter().any(is_sync) {
            self.note("writes refused");
            self.mischief.writes_refused += 1;
            // One commit holds them all.
            let syncs = |job: &GatewayJob| {
                matches!(job, GatewayJob::SyncRecords | GatewayJob::SyncCommands(_))
            };
            self.gateway_jobs.retain(|job| !syncs(job));
            self.judge.refused();
            self.spool.roll_back();
        }
    }

    /// The gateway's disk finishes its oldest job.
    fn work_gateway(&mut self) {
        if self.gateway_jobs.is_empty() {
            return;
        }
        let now = self.stamp().uptime;
        match self.gateway_jobs.remove(0) {
            GatewayJob::Read {
                from,
                max_items,
                max_bytes,
            } => {
                let is_broken = !self.is_healed && self.random.one_in(20);
                let items = if is_broken {
                    Vec::new()
                } else {
                    self.spool.read(from, max_items.min(4), max_bytes)
                };
                self.with_gateway(|gateway| gateway.handle_read(from, items, now));
            }
            GatewayJob::Store { cursor, commands } => {
                self.spool.store(cursor, &commands);
                self.gateway_jobs
                    .insert(0, GatewayJob::SyncCommands(cursor));
            }
            GatewayJob::SyncCommands(cursor) => {
                self.sync_spool();
                self.with_gateway(|gateway| gateway.handle_commands_stored(cursor, now));
            }
            GatewayJob::SyncRecords => self.sync_spool(),
        }
    }

    /// The relay's stores finish their oldest job.
    fn work_relay(&mut self) {
        if self.relay_jobs.is_empty() {
            return;
        }
        match self.relay_jobs.remove(0) {
            RelayJob::Recall(session, epoch) => {
                assert_eq!(epoch, self.epoch);
                let (due, ledger) = (self.disk.synced_due(), self.disk.ledger());
                self.with_relay(|relay, now| relay.handle_recalled(session, due, ledger, now));
            }
            RelayJob::Store(store) => {
                let is_written = self.disk.store(store.epoch, store.first, &store.items);
                let bytes = bytes_of(&store.items);
                if is_written {
                    let sync = RelayJob::SyncStore(store.session, bytes);
                    self.relay_jobs.insert(0, sync);
                } else {
                    self.with_relay(|relay, _| relay.handle_store_failed(store.session, bytes));
                }
            }
            RelayJob::SyncStore(session, bytes) => {
                self.disk.sync();
                let due = self.disk.synced_due();
                self.with_relay(|relay, _| relay.handle_stored(session, due, bytes));
            }
            RelayJob::Load(session, from) => {
                let commands = self.disk.load(from, COMMANDS_PER_FRAME);
                self.with_relay(|relay, now| relay.handle_loaded(session, from, commands, now));
            }
        }
    }

    /// Time goes on; frames arrive and timers fire when they are due.
    fn pass(&mut self, pause: Duration) {
        let end = self.now.plus(pause);
        loop {
            let gateway = self.gateway.as_ref().and_then(Gateway::poll_timeout);
            let relay = self
                .relay
                .as_ref()
                .and_then(|(_, relay)| relay.poll_timeout());
            let timers = [
                gateway.map(|at| self.booted_at.plus(at.since_boot())),
                relay,
                self.up.next_at(),
                self.down.next_at(),
            ];
            let Some(next) = timers.into_iter().flatten().min().filter(|at| *at <= end) else {
                break;
            };
            // A timer that stays due for ever would be a busy loop in a real program.
            self.now = self.now.max(next);
            while let Some((epoch, frame)) = self.up.take_due(self.now) {
                self.deliver_up(epoch, frame);
            }
            while let Some((epoch, frame)) = self.down.take_due(self.now) {
                let now = self.stamp();
                if epoch == self.epoch && self.connection.is_some() {
                    self.with_gateway(|gateway| gateway.handle_down(frame, now));
                }
            }
            let now = self.stamp();
            self.with_gateway(|gateway| gateway.handle_timeout(now));
            self.with_relay(Relay::handle_timeout);
        }
        self.now = end;
    }

    fn deliver_up(&mut self, epoch: Epoch, frame: UpFrame) {
        let Some((id, _)) = &self.relay else { return };
        let id = *id;
        let session = SessionId(self.random.next());
        self.with_relay(|relay, now| match frame {
            UpFrame::Hello(hello) => relay.handle_hello(epoch, hello, session, now),
            UpFrame::Up(to, up) if to == id => relay.handle_up(epoch, up, now),
            UpFrame::Live(to, live) if to == id => relay.handle_live(live, now),
            UpFrame::Gone(gone) => relay.handle_gone(gone),
            UpFrame::Up(..) | UpFrame::Live(..) => {}
        });
    }

    fn with_gateway(&mut self, act: impl FnOnce(&mut Gateway)) {
        let Some(gateway) = &mut self.gateway else {
            return;
        };
        act(gateway);
        let mut outputs = Vec::new();
        while let Some(output) = gateway.poll_output() {
            outputs.push(output);
        }
        for output in outputs {
            self.carry_out_gateway(output);
        }
    }

    fn carry_out_gateway(&mut self, output: FromGateway) {
        if self.trace {
            println!("{:?} gateway: {output:?}", self.now.since_boot());
        }
        match output {
            FromGateway::Hello(hello) => self.publish(UpFrame::Hello(hello)),
            FromGateway::Up(relay, up) => self.publish(UpFrame::Up(relay, up)),
            FromGateway::Live(relay, live) => self.publish(UpFrame::Live(relay, live)),
            FromGateway::Read {
                from,
                max_items,
                max_bytes,
            } => {
                self.gateway_jobs.push(GatewayJob::Read {
                    from,
                    max_items,
                    max_bytes,
                });
            }
            FromGateway::Release { next } => {
                assert!(
                    next <= self.disk.synced_due(),
                    "released before it was stored"
                );
                // Releasing is lazy: a crash may come first.
                if self.is_healed || !self.random.one_in(4) {
                    self.spool.release(next);
                    self.held_release = None;
                } else {
                    self.held_release = Some(next);
                }
            }
            FromGateway::Store {
                cursor, commands, ..
            } => {
                self.gateway_jobs
                    .push(GatewayJob::Store { cursor, commands });
            }
            FromGateway::RenewEpoch => panic!("nothing was restored here"),
            FromGateway::Reconnect => {
                self.disconnect();
                self.connect();
            }
            FromGateway::Building(_) | FromGateway::Opened(..) | FromGateway::Closed(_) => {}
        }
    }

    fn with_relay(&mut self, act: impl FnOnce(&mut Relay, Now)) {
        let now = Now {
            uptime: self.now,
            wall: WallClock(0),
        };
        let Some((_, relay)) = &mut self.relay else {
            return;
        };
        act(relay, now);
        let mut outputs = Vec::new();
        while let Some(output) = relay.poll_output() {
            outputs.push(output);
        }
        for output in outputs {
            self.carry_out_relay(output);
        }
    }

    fn carry_out_relay(&mut self, output: FromRelay) {
        if self.trace {
            println!("{:?} relay: {output:?}", self.now.since_boot());
        }
        match output {
            FromRelay::Send(epoch, down) => {
                self.down
                    .send((epoch, down), self.now, self.is_healed, &mut self.random);
            }
            FromRelay::Recall { session, epoch } => {
                self.relay_jobs.push(RelayJob::Recall(session, epoch));
            }
            FromRelay::RenewLedger { .. } => panic!("nothing was restored here"),
            FromRelay::Store(store) => self.relay_jobs.push(RelayJob::Store(store)),
            FromRelay::Load { session, from } => {
                self.relay_jobs.push(RelayJob::Load(session, from))
            }
            FromRelay::Sent { to, .. } => assert!(to <= self.disk.ledger().next),
            FromRelay::Delivered(cursor) => {
                let stored = self.spool.down().map_or(Seq::FIRST, |down| down.next);
                assert!(cursor.next <= stored, "delivered before it was stored");
                self.disk.delivered(cursor);
            }
            // No building here: the questions are asked again and again.
            FromRelay::Building { .. }
            | FromRelay::Status(..)
            | FromRelay::Report(..)
            | FromRelay::Opened(_)
            | FromRelay::Closed(_) => {}
        }
    }

    fn publish(&mut self, frame: UpFrame) {
        if self.connection.is_some() {
            self.up.send(
                (self.epoch, frame),
                self.now,
                self.is_healed,
                &mut self.random,
            );
        }
    }

    fn stamp(&self) -> Stamp {
        Stamp {
            boot: self.boot,
            uptime: Uptime::new(self.now.since(self.booted_at)),
            wall: WallClock(0),
        }
    }

    fn note(&self, what: &str) {
        if self.trace {
            println!("{:?} {what}", self.now.since_boot());
        }
    }
}
