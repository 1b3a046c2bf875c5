//! The world: true time, the network, and what goes wrong on purpose.

use std::ops::AddAssign;
use std::rc::Rc;
use std::time::Duration;

use brrbrr_proto::api::CANCEL_LIFETIME;
use brrbrr_proto::down::{Action, Down, GoTo, Order};
use brrbrr_proto::id::{CommandId, Epoch, RelayId};
use brrbrr_proto::live::{Dated, Pose};
use brrbrr_proto::time::Uptime;
use brrbrr_proto::up::{Gone, Hello, Up};

use super::board::Board;
use super::disk::Disk;
use super::judge::Judge;
use super::ledger::{Ledger, Store};
use super::net::Pipe;
use super::random::Random;
use super::relay::RelaySide;
use super::robot::Robot;

/// How many steps of at most a second the world gets to settle.
const SETTLING: u32 = 3_000;
/// How often something may be due at a time that passes in one piece, which is four hours at most.
const TURNS_MAX: u32 = 100_000;

/// What went wrong on purpose, and what followed.
#[derive(Debug, Default, Clone, Copy)]
pub struct Mischief {
    pub commands: u64,
    pub lost: u64,
    pub doubled: u64,
    pub daemon_crashes: u64,
    pub reboots: u64,
    pub relay_crashes: u64,
    pub refused_writes: u64,
    pub broker_away: u64,
    pub suspended: u64,
    pub robot_restarts: u64,
    pub expired_by_relay: u64,
    pub given: u64,
}

impl AddAssign for Mischief {
    fn add_assign(&mut self, other: Self) {
        self.commands += other.commands;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.daemon_crashes += other.daemon_crashes;
        self.reboots += other.reboots;
        self.relay_crashes += other.relay_crashes;
        self.refused_writes += other.refused_writes;
        self.broker_away += other.broker_away;
        self.suspended += other.suspended;
        self.robot_restarts += other.robot_restarts;
        self.expired_by_relay += other.expired_by_relay;
        self.given += other.given;
    }
}

#[derive(Debug, Clone)]
pub enum UpFrame {
    Hello(Hello),
    Up(RelayId, Up),
    Live(RelayId, Dated),
    Gone(Gone),
}

pub struct World {
    pub random: Random,
    trace: bool,
    /// One in so many of the evil things that could happen does.
    calm: u64,
    pub now: Uptime,
    pub is_healed: bool,
    pub mischief: Mischief,
    pub board: Board,
    pub robot: Robot,
    pub relay: RelaySide,
    up: Pipe<(Epoch, UpFrame)>,
    pub down: Pipe<(Epoch, Down)>,
    pub judge: Judge,
}

impl World {
    pub fn new(store: &Rc<Store>, seed: u64, trace: bool) -> Self {
        let mut random = Random::new(seed);
        let now = Uptime::new(Duration::from_secs(1_000));
        let disk = Disk::new(Epoch(random.next()));
        let mut world = Self {
            trace,
            calm: 1 + random.below(6),
            now,
            is_healed: false,
            mischief: Mischief::default(),
            board: Board::new(disk, &mut random, now),
            robot: Robot::new(&mut random),
            relay: RelaySide::new(Ledger::new(store, seed)),
            up: Pipe::new(),
            down: Pipe::new(),
            judge: Judge::default(),
            random,
        };
        world.start_daemon();
        world.start_relay();
        world
    }

    pub fn mischief(&self) -> Mischief {
        Mischief {
            commands: u64::try_from(self.judge.commands().len()).expect("small"),
            lost: self.up.lost + self.down.lost,
            doubled: self.up.doubled + self.down.doubled,
            ..self.mischief
        }
    }

    /// One random thing happens, and some time passes.
    pub fn act(&mut self) {
        self.come_back();
        match self.random.below(100) {
            0..6 => self.order_something(),
            6..10 => self.give_something(),
            10..13 => self.cancel_something(),
            13..15 => self.expire(),
            15..18 => self.mark_sent(),
            18..21 => self.robot.show(),
            21..23 => self.robot.say_progress(&mut self.random),
            _ if !self.random.one_in(self.calm) => {}
            23..26 => self.crash_daemon(),
            26..28 => self.reboot(),
            28..32 => self.crash_relay(),
            32..38 => self.disconnect(),
            38..40 => self.set_calendar(),
            40..42 => self.board.calendar = self.random.next().cast_signed() >> 16,
            42..45 => self.board.disk_fails = true,
            45..48 => self.reach_robot(false),
            48..50 => self.suspend(),
            50..58 => self.restart_robot(),
            _ => {}
        }
        self.work();
        let pause = match self.random.below(40) {
            0..28 => self.random.pause(60),
            28..36 => self.random.pause(1_500),
            36..39 => self.random.pause(20_000),
            _ if self.random.one_in(12) => self.random.pause(4 * 3_600_000),
            _ => self.random.pause(90_000),
        };
        self.pass(pause);
    }

    /// What is away does not stay away for long.
    fn come_back(&mut self) {
        if self.board.daemon.is_none() && self.random.one_in(4) {
            self.start_daemon();
        }
        if self.relay.process.is_none() && self.random.one_in(4) {
            self.start_relay();
        }
        if self.random.one_in(3) {
            self.connect();
        }
        if self.random.one_in(6) {
            self.reach_robot(true);
        }
        if self.board.is_asleep && self.random.one_in(4) {
            self.board.is_asleep = false;
            self.handle_board_time();
        }
        if self.board.disk_fails && self.random.one_in(10) {
            self.board.disk_fails = false;
        }
    }

    /// Some of the work that waits somewhere is done.
    fn work(&mut self) {
        for _ in 0..self.random.below(16) {
            match self.random.below(8) {
                0 | 1 if self.board.is_awake() => drop(self.work_disk()),
                2 => drop(self.answer_daemon()),
                3 if self.board.is_awake() => drop(self.work_robot()),
                4 => self.hear_robot(),
                5 => drop(self.work_up()),
                6 => drop(self.work_down()),
                7 => drop(self.answer_relay()),
                _ => self.record_again(),
            }
        }
    }

    /// From now on nothing goes wrong, and everything has time to settle.
    pub fn heal(&mut self) {
        self.note(|| "HEALED".to_owned());
        self.is_healed = true;
        self.board.disk_fails = false;
        self.board.is_asleep = false;
        for step in 0..SETTLING {
            if self.board.daemon.is_none() {
                self.start_daemon();
            }
            if self.relay.process.is_none() {
                self.start_relay();
            }
            self.connect();
            self.reach_robot(true);
            self.record_again();
            self.work_all();
            if step % 10 == 0 {
                self.expire();
                self.robot.show();
            }
            let is_quiet = self.judge.has_ended() && !self.robot.is_driving();
            if is_quiet && self.board.disk.is_sent() && self.relay.is_idle() {
                return;
            }
            self.pass(Duration::from_millis(200));
        }
    }

    fn work_all(&mut self) {
        let mut goes_on = true;
        while goes_on {
            goes_on = self.work_disk() | self.answer_daemon() | self.work_robot();
            goes_on |= self.work_up() | self.work_down() | self.answer_relay();
            goes_on |= self.robot.waiting() > 0;
            self.hear_robot();
        }
        self.hear_robot();
    }

    /// What holds in the end.
    pub fn check_end(&self) {
        self.judge.check_end(&self.board.disk);
        self.judge.check_ledger(&self.relay.ledger.all());
    }

    fn order_something(&mut self) {
        let (order, lifetime) = (self.some_order(), self.some_lifetime());
        let key = self.some_key();
        self.order(order, lifetime, key);
    }

    fn give_something(&mut self) {
        if self.random.one_in(4) {
            let target = self.some_command();
            return self.give(Order::Cancel(target), CANCEL_LIFETIME, None);
        }
        let (order, lifetime) = (self.some_order(), self.some_lifetime());
        let key = self.some_key();
        self.give(order, lifetime, key);
    }

    fn cancel_something(&mut self) {
        let target = self.some_command();
        self.cancel(target);
    }

    /// One that was accepted, if there is one; rarely one that nobody knows.
    fn some_command(&mut self) -> CommandId {
        let commands = self.judge.commands();
        let known = self.random.choose(&commands).copied();
        let unknown = self.random.one_in(20).then_some(CommandId(7));
        unknown.or(known).unwrap_or(CommandId(7))
    }

    fn some_order(&mut self) -> Order {
        match self.random.below(10) {
            0..5 => Order::GoTo(GoTo {
                pose: Pose {
                    x: 1.0,
                    y: 2.0,
                    theta: None,
                },
                floor: None,
                place: ["cafe", "gate"][usize::from(self.random.one_in(2))].to_owned(),
            }),
            5 => Order::Dock,
            6 | 7 => Order::Stop,
            8 => Order::Say("hello".to_owned()),
            _ if self.random.one_in(2) => Order::Pause,
            _ => Order::Custom(Action {
                name: "dance".to_owned(),
                json: "{}".to_owned(),
            }),
        }
    }

    fn some_lifetime(&mut self) -> Duration {
        let longest = if self.random.one_in(3) { 3_000 } else { 90_000 };
        Duration::from_millis(1) + self.random.pause(longest)
    }

    fn some_key(&mut self) -> Option<String> {
        let number = self.random.below(24);
        (number < 8).then(|| format!("key {number}"))
    }

    fn suspend(&mut self) {
        if self.board.is_awake() {
            self.note(|| "the board is suspended".to_owned());
            self.mischief.suspended += 1;
            self.board.is_asleep = true;
        }
    }

    fn restart_robot(&mut self) {
        self.note(|| "the robot is restarted".to_owned());
        self.mischief.robot_restarts += u64::from(self.robot.is_driving());
        self.robot.restart(&mut self.random);
    }

    /// Time goes on; frames arrive and timers fire when they are due.
    fn pass(&mut self, pause: Duration) {
        let end = self.now.plus(pause);
        let mut turns = 0;
        loop {
            let is_awake = self.board.is_awake();
            let timers = [
                self.board.next_timer(),
                self.relay.next_timer(),
                self.robot.next_at(),
                self.up.next_at(),
                self.down.next_at().filter(|_| is_awake),
            ];
            let next = timers.into_iter().flatten().min();
            let Some(next) = next.filter(|at| *at <= end) else {
                break;
            };
            turns += 1;
            assert!(turns < TURNS_MAX, "a timer stays due for ever");
            self.now = self.now.max(next);
            self.robot.handle_time(self.now, &mut self.random);
            while let Some((epoch, frame)) = self.up.take_due(self.now) {
                self.hear_board(epoch, frame);
            }
            while self.board.is_awake()
                && let Some((epoch, frame)) = self.down.take_due(self.now)
            {
                if epoch == self.board.disk.epoch && self.board.connection.is_some() {
                    self.hear_relay(frame);
                }
            }
            if self.board.is_awake() {
                self.handle_board_time();
            }
            self.handle_relay_time();
        }
        self.now = end;
    }

    pub fn send_up(&mut self, frame: UpFrame) {
        let frame = (self.board.disk.epoch, frame);
        self.up
            .send(frame, self.now, self.is_healed, &mut self.random);
    }

    pub fn cut_pipes(&mut self) {
        self.up.cut(&mut self.random);
        self.down.cut(&mut self.random);
    }

    pub fn note(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:?} {}", self.now.since_boot(), what());
        }
    }
}
