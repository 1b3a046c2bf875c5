//! The board: its clocks, the life of its daemon, its disk, and the way to the robot. What disk and
//! robot answer is an input of the daemon, which may be late.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use brrbrr_gateway::command::{Commands, Reach, Ticket};
use brrbrr_gateway::robot::HandOverError;
use brrbrr_gateway::spool::{Entry, StoredCommand};
use brrbrr_proto::down::{Down, Order};
use brrbrr_proto::id::{BootId, CommandId, ConnectionId, Cursor, Seq};
use brrbrr_proto::link::Gateway;
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use brrbrr_proto::up::{Gone, Item, Record};

use super::disk::Disk;
use super::random::Random;
use super::robot::Said;
use super::world::{UpFrame, World};

/// How far a board's clock runs ahead of true time at most, in millionths: as far as the link allows.
const DRIFT_MAX: u64 = 100;
/// For how long a running motion may be silent. A robot that was told to pause and has forgotten its
/// motion is silent for ever.
const MOTION_LIMIT: Duration = Duration::from_secs(120);

pub struct Board {
    pub disk: Disk,
    /// The disk takes nothing.
    pub disk_fails: bool,
    pub daemon: Option<Daemon>,
    pub boot: BootId,
    pub connection: Option<ConnectionId>,
    /// Suspended: nothing runs, and its clock goes on.
    pub is_asleep: bool,
    /// What its calendar claims, beside true time.
    pub calendar: i64,
    booted_at: Uptime,
    drift: i64,
}

impl Board {
    pub fn new(disk: Disk, random: &mut Random, now: Uptime) -> Self {
        let mut board = Self {
            disk,
            disk_fails: false,
            daemon: None,
            boot: BootId(0),
            connection: None,
            is_asleep: false,
            calendar: 0,
            booted_at: now,
            drift: 0,
        };
        board.boot_anew(random, now);
        board
    }

    pub fn boot_anew(&mut self, random: &mut Random, now: Uptime) {
        self.booted_at = now;
        self.boot = BootId(random.next());
        let drift = random.below(2 * DRIFT_MAX + 1).cast_signed();
        self.drift = drift - DRIFT_MAX.cast_signed();
        self.is_asleep = false;
    }

    pub fn stamp(&self, now: Uptime) -> Stamp {
        let since = micros(now) - micros(self.booted_at);
        Stamp {
            boot: self.boot,
            uptime: uptime(since + since * self.drift / 1_000_000),
            wall: WallClock(micros(now) + self.calendar),
        }
    }

    /// The true time at which its clock has come to `at`.
    fn true_time(&self, at: Uptime) -> Uptime {
        let since = micros(at) * 1_000_000 / (1_000_000 + self.drift);
        uptime(micros(self.booted_at) + since + 2)
    }

    pub fn next_timer(&self) -> Option<Uptime> {
        let daemon = self.daemon.as_ref().filter(|_| !self.is_asleep)?;
        let timers = [daemon.link.poll_timeout(), daemon.commands.poll_timeout()];
        let at = timers.into_iter().flatten().min()?;
        Some(self.true_time(at))
    }

    pub fn is_awake(&self) -> bool {
        self.daemon.is_some() && !self.is_asleep
    }
}

fn micros(at: Uptime) -> i64 {
    i64::try_from(at.since_boot().as_micros()).expect("small")
}

fn uptime(micros: i64) -> Uptime {
    Uptime::new(Duration::from_micros(micros.max(0).unsigned_abs()))
}

/// The daemon on the board. All of it is gone when it stops.
pub struct Daemon {
    pub link: Gateway,
    pub commands: Commands,
    /// What the disk was asked, in order.
    pub jobs: VecDeque<Job>,
    /// What disk and robot have answered.
    pub answers: VecDeque<Done>,
    /// Orders that wait for the robot's broker.
    pub orders: VecDeque<Handed>,
    pub accepts: BTreeMap<Ticket, u64>,
    /// Commands of programs that went out although they could not be stored.
    pub unrecorded: Vec<(StoredCommand, Vec<Record>)>,
    pub looking_up: bool,
    /// Whether the robot's broker is reached, and after how many messages all that it kept is heard.
    pub is_at_robot: bool,
    pub marker: Option<usize>,
}

pub enum Job {
    Read(Seq, usize),
    StoreCommands(Cursor, Vec<StoredCommand>, Vec<(StoredCommand, Record)>),
    Persist(Ticket, Entry),
    Append(Record),
    Release(Seq),
    Give(StoredCommand, Vec<Record>),
    Known(Said),
}

#[derive(Debug)]
pub enum Done {
    Read(Seq, Vec<Item>),
    /// With the fresh ones, or refused.
    CommandsStored(Cursor, Vec<StoredCommand>, Option<(Vec<CommandId>, Seq)>),
    Persisted(Ticket, Option<Seq>),
    Appended(Seq),
    /// With the known one, if there is one, or refused.
    Given(
        Box<StoredCommand>,
        Vec<Record>,
        Option<(Option<CommandId>, Seq)>,
    ),
    Known(Said, bool),
    Executed(CommandId, Result<(), HandOverError>),
}

pub struct Handed {
    pub id: CommandId,
    pub order: Order,
    pub deadline: Uptime,
}

impl World {
    pub fn start_daemon(&mut self) {
        let (board, seed) = (&self.board, self.random.next());
        let (view, down) = (board.disk.view(), board.disk.down());
        let (unfinished, last) = (board.disk.unfinished(), board.disk.last_motion());
        let now = board.stamp(self.now).uptime;
        self.note(|| "the daemon starts".to_owned());
        let mut commands = Commands::new(board.boot, unfinished, last, now);
        commands.limit_motions(MOTION_LIMIT);
        self.board.daemon = Some(Daemon {
            link: Gateway::new(view, down, "model".to_owned(), seed),
            commands,
            jobs: VecDeque::new(),
            answers: VecDeque::new(),
            orders: VecDeque::new(),
            accepts: BTreeMap::new(),
            unrecorded: Vec::new(),
            looking_up: false,
            is_at_robot: false,
            marker: None,
        });
        self.with_daemon(|_, _| {});
    }

    /// The daemon is killed. Of what it had asked for, some is still done.
    pub fn crash_daemon(&mut self) {
        if self.board.daemon.is_none() {
            return;
        }
        self.note(|| "the daemon is killed".to_owned());
        self.mischief.daemon_crashes += 1;
        self.cut();
        while self.random.one_in(2) && self.work_disk() {}
        while self.random.one_in(2) && self.work_robot() {}
        self.board.daemon = None;
        self.robot.put_back();
        self.judge.daemon_crashed(&self.board.disk);
    }

    pub fn reboot(&mut self) {
        self.crash_daemon();
        self.note(|| "the board is rebooted".to_owned());
        self.mischief.reboots += 1;
        self.board.boot_anew(&mut self.random, self.now);
    }

    pub fn connect(&mut self) {
        if self.board.connection.is_none() && self.board.is_awake() {
            let id = ConnectionId(self.random.next());
            self.board.connection = Some(id);
            self.with_daemon(|daemon, now| daemon.link.handle_connected(id, now));
        }
    }

    pub fn disconnect(&mut self) {
        self.cut();
        self.with_daemon(|daemon, _| daemon.link.handle_disconnected());
    }

    fn cut(&mut self) {
        self.cut_pipes();
        if let Some(connection) = self.board.connection.take() {
            self.send_up(UpFrame::Gone(Gone { connection }));
        }
    }

    pub fn hear_relay(&mut self, down: Down) {
        self.with_daemon(|daemon, now| daemon.link.handle_down(down, now));
    }

    pub fn handle_board_time(&mut self) {
        self.with_daemon(|daemon, now| {
            daemon.link.handle_timeout(now);
            daemon.commands.handle_timeout(now.uptime);
        });
    }

    /// The daemon's connection to the robot's broker is made or breaks.
    pub fn reach_robot(&mut self, is_there: bool) {
        let waiting = self.robot.waiting();
        let Some(daemon) = self.board.daemon.as_mut() else {
            return;
        };
        if daemon.is_at_robot == is_there || daemon.looking_up {
            return;
        }
        daemon.is_at_robot = is_there;
        daemon.marker = is_there.then_some(waiting);
        self.note(|| format!("the robot's broker is there: {is_there}"));
        if !is_there {
            self.mischief.broker_away += 1;
            self.robot.put_back();
        }
        self.with_daemon(|daemon, now| {
            let reach = if is_there {
                Reach::Draining
            } else {
                Reach::Away
            };
            daemon.commands.handle_reach(reach, now.uptime);
        });
    }

    /// The disk carries out what it was asked first, or refuses it. Says whether there was anything.
    pub fn work_disk(&mut self) -> bool {
        let fails = self.board.disk_fails;
        let Some(daemon) = self.board.daemon.as_mut() else {
            return false;
        };
        let Some(job) = daemon.jobs.pop_front() else {
            return false;
        };
        let disk = &mut self.board.disk;
        let done = match job {
            Job::Read(from, max_items) => Done::Read(from, disk.read(from, max_items.min(4))),
            Job::Known(said) => {
                let source = self.robot.source(&said);
                let is_known = source.is_some_and(|source| disk.knows(&source));
                Done::Known(said, is_known)
            }
            Job::Release(next) => {
                disk.release(next);
                return true;
            }
            Job::StoreCommands(cursor, commands, rows) => {
                let stored = (!fails).then(|| {
                    let records = rows.clone();
                    let fresh = disk.store_commands(cursor, rows);
                    for (row, record) in records {
                        if fresh.contains(&row.command.id) {
                            self.judge.stored(&row, self.now);
                            self.judge.told(&record);
                        }
                    }
                    (fresh, disk.view().next)
                });
                Done::CommandsStored(cursor, commands, stored)
            }
            Job::Persist(ticket, entry) => {
                if !fails && !disk.write(&entry) {
                    entry
                        .records
                        .iter()
                        .for_each(|record| self.judge.told(record));
                }
                Done::Persisted(ticket, (!fails).then(|| disk.view().next))
            }
            Job::Append(record) => {
                if fails {
                    return true;
                }
                disk.write(&Entry {
                    records: vec![record],
                    ..Entry::default()
                });
                Done::Appended(disk.view().next)
            }
            Job::Give(row, records) => {
                let given = (!fails).then(|| {
                    let known = disk.give(row.clone(), &records);
                    if known.is_none() {
                        self.judge.stored(&row, self.now);
                        records.iter().for_each(|record| self.judge.told(record));
                    }
                    (known, disk.view().next)
                });
                Done::Given(Box::new(row), records, given)
            }
        };
        self.mischief.refused_writes += u64::from(fails);
        daemon.answers.push_back(done);
        self.judge.rows_changed(&self.board.disk);
        true
    }

    /// The robot's broker takes the first order, or does not. Says whether there was one.
    pub fn work_robot(&mut self) -> bool {
        let now = self.board.stamp(self.now).uptime;
        let Some(daemon) = self.board.daemon.as_mut() else {
            return false;
        };
        let Some(handed) = daemon.orders.pop_front() else {
            return false;
        };
        let luck = if self.is_healed {
            99
        } else {
            self.random.below(24)
        };
        let why = "the broker".to_owned();
        let (is_taken, result) = match luck {
            _ if !daemon.is_at_robot || handed.deadline <= now => {
                (false, Err(HandOverError::Away(why)))
            }
            0 | 1 => (false, Err(HandOverError::Away(why))),
            2 => (false, Err(HandOverError::Unknown(why))),
            3 => (true, Err(HandOverError::Unknown(why))),
            4 => (false, Err(HandOverError::Refused(why))),
            _ => (true, Ok(())),
        };
        self.note(|| format!("order {:?} taken {is_taken}: {result:?}", handed.id));
        let daemon = self.board.daemon.as_mut().expect("it runs");
        daemon.answers.push_back(Done::Executed(handed.id, result));
        if is_taken {
            let (id, order) = (handed.id, handed.order);
            self.mischief.given += 1;
            self.judge.given(id, &order, self.board.boot, self.now);
            self.robot.obey(id, &order, self.now, &mut self.random);
        }
        true
    }
}
