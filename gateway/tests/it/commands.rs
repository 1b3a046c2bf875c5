//! Commands through the event loop, a real spool and a simulated robot, given on the board and by a
//! relay that this file plays.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use brrbrr_gateway::board_commands::{self, BoardCommands, Given, Refusal, Wish};
use brrbrr_gateway::building::BuildingCache;
use brrbrr_gateway::clock::Clock;
use brrbrr_gateway::event_loop::{self, EventLoopError, Parts};
use brrbrr_gateway::notify::Notifier;
use brrbrr_gateway::robot::sim::SimConfig;
use brrbrr_gateway::robot::{self, RobotConfig};
use brrbrr_gateway::spool::{KeptCommand, Limits, Origin, Spool};
use brrbrr_gateway::status::StatusBoard;
use brrbrr_gateway::uplink::{Frame, News, Uplink};
use brrbrr_proto::down::{Action, Command, Commands, Down, GoTo, Order, Welcome};
use brrbrr_proto::id::{CommandId, ConnectionId, Cursor, Epoch, RelayId, RobotId, Seq, SessionId};
use brrbrr_proto::live::Pose;
use brrbrr_proto::time::{Uptime, WallClock};
use brrbrr_proto::up::{Event, Progress, Record};
use brrbrr_proto::version::CURRENT;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::failing_disk::Mount;

/// Far longer than anything takes here; only a failing test waits for so long.
const PATIENCE: Duration = Duration::from_secs(60);
const SESSION: SessionId = SessionId(3);

fn go_to(x: f64) -> Order {
    let pose = Pose {
        x,
        y: 0.0,
        theta: None,
    };
    Order::GoTo(GoTo {
        pose,
        floor: None,
        place: String::new(),
    })
}

fn wish(order: Order) -> Wish {
    Wish {
        order,
        lifetime: Duration::from_secs(60),
        key: None,
        actor: "face".to_owned(),
    }
}

/// A gateway without its sockets.
struct Gateway {
    clock: Clock,
    commands: BoardCommands,
    spool: Spool,
    board: StatusBoard,
    epoch: Epoch,
    news: mpsc::Sender<News>,
    frames: mpsc::Receiver<Frame>,
    relay_uptime: Uptime,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), EventLoopError>>,
}

impl Gateway {
    /// A robot of this speed, in metres per second.
    async fn start(path: &Path, speed: f64) -> Self {
        let clock = Clock::of_this_boot().unwrap();
        let limits = Limits {
            max_bytes: 16 << 20,
            min_free_bytes: 0,
        };
        let (building, problem) = BuildingCache::open(path.parent().unwrap(), clock.wall());
        assert!(problem.is_none(), "{problem:?}");
        let path = path.to_owned();
        let opening = move || Spool::open(&path, limits, clock.wall()).unwrap();
        let (spool, state) = tokio::task::spawn_blocking(opening).await.unwrap();
        let epoch = state.epoch;
        let (stop_robot, robot_stopped) = watch::channel(false);
        let pose = Pose {
            x: 0.0,
            y: 0.0,
            theta: None,
        };
        let sim = SimConfig {
            start: pose,
            floor: 7,
            speed,
            battery: 1.0,
            drain: 0.0,
            tolerance: 0.1,
            status_interval: Duration::from_millis(20),
            seed: 1,
        };
        let robot = robot::spawn(RobotConfig::Sim(sim), 1, robot_stopped);
        let board = StatusBoard::new(
            RobotId::new(7).unwrap(),
            "guide-7",
            (epoch, state.first, state.next),
            Arc::clone(&robot.counters),
        );
        let (uplink, news, frames) = uplink(epoch);
        let (commands, requests) = board_commands::channel(spool.clone());
        let (_posting, posts) = mpsc::channel(1);
        let (stop, stopped) = watch::channel(false);
        let parts = Parts {
            clock,
            spool: spool.clone(),
            state,
            robot,
            uplink,
            board: board.clone(),
            building,
            posts,
            requests,
            motion_limit: Duration::from_secs(1800),
            notifier: Notifier::from_environment(),
            sampler: None,
            bytes_per_second: None,
            seed: 1,
            stop_robot,
            stop_uplink: watch::channel(false).0,
        };
        let task = tokio::spawn(event_loop::run(parts, stopped));
        Self {
            clock,
            commands,
            spool,
            board,
            epoch,
            news,
            frames,
            relay_uptime: Uptime::new(Duration::from_secs(1_000)),
            stop,
            task,
        }
    }

    async fn end(self) {
        self.stop.send(true).unwrap();
        self.task.await.unwrap().unwrap();
    }

    /// A relay welcomes the robot, whose calendar says this.
    async fn welcome(&mut self, now: WallClock, down_next: u64) {
        self.news
            .send(News::Connected(ConnectionId(1)))
            .await
            .unwrap();
        let hello = loop {
            let frame = tokio::time::timeout(PATIENCE, self.frames.recv()).await;
            if let Frame::Hello(_, hello) = frame.unwrap().unwrap() {
                break hello;
            }
        };
        let welcome = Welcome {
            hello: hello.hello,
            session: SESSION,
            relay: RelayId(4),
            up_next: Seq(hello.next.0 - hello.backlog),
            down: Cursor {
                epoch: Epoch(9),
                next: Seq(down_next),
            },
            now,
            uptime: self.relay_uptime,
            credit: 1 << 20,
            live_interval: Duration::from_secs(1),
            beat_interval: Duration::from_secs(20),
            version: CURRENT,
        };
        self.say(Down::Welcome(welcome)).await;
    }

    async fn say(&self, down: Down) {
        self.news.send(News::Down(self.epoch, down)).await.unwrap();
    }

    /// The relay sends a command.
    async fn send(&self, at: u64, id: u128, order: Order, time_to_live: Duration) {
        let command = Command {
            id: CommandId(id),
            time_to_live,
            order,
        };
        self.say(Down::Commands(Commands {
            session: SESSION,
            sent: self.relay_uptime,
            first: Seq(at),
            commands: vec![command],
        }))
        .await;
    }

    async fn give(&self, wish: Wish) -> KeptCommand {
        self.commands.submit(wish).await.unwrap().command
    }

    async fn until(&self, id: CommandId, state: Progress) -> KeptCommand {
        let reached = async {
            loop {
                let found = self.commands.find(id).await.unwrap();
                if let Some(found) = found.filter(|found| found.stored.progress == state) {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, reached).await {
            Ok(found) => found,
            Err(_) => panic!("not {state:?}: {:?}", self.commands.find(id).await),
        }
    }

    /// Waits until the adapter was told so many orders.
    async fn until_told(&self, orders: u64) {
        let told = async {
            while self.told() < orders {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, told).await.unwrap();
        assert_eq!(self.told(), orders);
    }

    fn told(&self) -> u64 {
        self.board.snapshot().adapter.orders
    }

    async fn events(&self) -> Vec<Event> {
        let back = self.spool.read(Seq(1), 10_000, 1 << 24).await.unwrap();
        let records = back.items.iter();
        records
            .map(|item| Record::decode(&item.record).unwrap().event)
            .collect()
    }

    /// The steps of a command, as the relay will hear of them.
    async fn steps(&self, id: CommandId) -> Vec<String> {
        let mut steps = Vec::new();
        for event in self.events().await {
            if let Event::Ordered(ordered) = event {
                steps.extend((ordered.command == id).then(|| "Ordered".to_owned()));
            } else if let Event::Command(update) = event {
                let step = format!("{:?}", update.progress);
                steps.extend((update.command == id).then_some(step));
            }
        }
        steps
    }
}

/// An uplink whose other end is the test.
fn uplink(epoch: Epoch) -> (Uplink, mpsc::Sender<News>, mpsc::Receiver<Frame>) {
    let (frames, sent) = mpsc::channel(1024);
    let (news, heard) = mpsc::channel(64);
    let uplink = Uplink {
        frames,
        live: mpsc::channel(1).0,
        reconnect: watch::channel(0).0,
        epoch: watch::channel(epoch).0,
        news: heard,
        task: tokio::spawn(async {}),
    };
    (uplink, news, sent)
}

fn spool_in(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("spool.db")
}

#[tokio::test]
async fn a_command_that_is_given_on_the_board_is_in_the_ledger_from_its_order_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&spool_in(&folder), 20.0).await;
    let Given { command, is_new } = gateway.commands.submit(wish(go_to(4.0))).await.unwrap();
    assert!(is_new);
    assert_eq!(command.stored.progress, Progress::Received);
    let id = command.id();
    let ended = gateway.until(id, Progress::Succeeded).await;
    let states: Vec<Progress> = ended.history.iter().map(|step| step.state).collect();
    assert_eq!(
        states,
        [Progress::Received, Progress::Running, Progress::Succeeded]
    );
    assert!(ended.history.is_sorted_by_key(|step| step.at.uptime));
    assert_eq!(ended.given_at(), Some(command.history[0].at));
    assert_eq!(ended.reached.as_ref().unwrap().percent, 100);
    let actor = "face".to_owned();
    assert_eq!(ended.stored.origin, Origin::Board { actor, key: None });
    let steps = gateway.steps(id).await;
    assert_eq!(steps, ["Ordered", "Received", "Running", "Succeeded"]);
    gateway.end().await;

    // It is known after a restart, and the newest comes first.
    let gateway = Gateway::start(&spool_in(&folder), 20.0).await;
    let second = gateway.give(wish(Order::Say("hello".to_owned()))).await;
    gateway.until(second.id(), Progress::Succeeded).await;
    let ids = |found: Vec<KeptCommand>| found.iter().map(KeptCommand::id).collect::<Vec<_>>();
    let all = gateway.commands.list(10, None, None).await.unwrap();
    assert_eq!(ids(all), [second.id(), id]);
    let older = gateway.commands.list(10, Some(second.id()), None).await;
    assert_eq!(ids(older.unwrap()), [id]);
    let running = Some(Progress::Running);
    let running = gateway.commands.list(10, None, running).await.unwrap();
    assert!(running.is_empty());
    gateway.end().await;
}

#[tokio::test]
async fn the_same_key_is_the_same_command_and_another_order_with_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&spool_in(&folder), 1_000.0).await;
    let keyed = |order| Wish {
        key: Some("k-1".to_owned()),
        ..wish(order)
    };
    let first = gateway.commands.submit(keyed(go_to(1.0))).await.unwrap();
    gateway.until(first.command.id(), Progress::Succeeded).await;
    let again = gateway.commands.submit(keyed(go_to(1.0))).await.unwrap();
    assert_eq!(
        (again.is_new, again.command.id()),
        (false, first.command.id())
    );
    let other = gateway.commands.submit(keyed(go_to(2.0))).await;
    assert!(matches!(other, Err(Refusal::KeyTaken(id)) if id == first.command.id()));
    gateway.until_told(1).await;
    gateway.end().await;
}

#[tokio::test]
async fn a_command_is_withdrawn_once_however_often_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&spool_in(&folder), 0.1).await;
    let id = gateway.give(wish(go_to(100.0))).await.id();
    gateway.until(id, Progress::Running).await;
    let cancel = || gateway.commands.cancel(id, "face".to_owned());
    let (one, other) = tokio::join!(cancel(), cancel());
    for kept in [one.unwrap(), other.unwrap()] {
        assert!(kept.cancelling || kept.stored.progress == Progress::Cancelled);
    }
    let ended = gateway.until(id, Progress::Cancelled).await;
    assert!(!ended.cancelling);
    let late = cancel().await.unwrap();
    assert_eq!(late.stored.progress, Progress::Cancelled);
    gateway.until_told(2).await;
    let unknown = CommandId(77);
    let refused = gateway.commands.cancel(unknown, "face".to_owned()).await;
    assert!(matches!(refused, Err(Refusal::Unknown(of)) if of == unknown));
    gateway.end().await;
}

#[tokio::test]
async fn of_two_motions_the_one_that_comes_later_wins_whoever_gives_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(&spool_in(&folder), 0.1).await;
    gateway.welcome(WallClock(0), 1).await;
    let minute = Duration::from_secs(60);
    gateway.send(1, 11, go_to(100.0), minute).await;
    gateway.until(CommandId(11), Progress::Running).await;
    let own = gateway.give(wish(go_to(50.0))).await.id();
    gateway.until(own, Progress::Running).await;
    gateway.until(CommandId(11), Progress::Superseded).await;
    gateway.send(2, 12, go_to(70.0), minute).await;
    gateway.until(CommandId(12), Progress::Running).await;
    gateway.until(own, Progress::Superseded).await;
    // And what one gave, the other may withdraw.
    let actor = "face".to_owned();
    gateway.commands.cancel(CommandId(12), actor).await.unwrap();
    gateway.until(CommandId(12), Progress::Cancelled).await;
    gateway.until_told(4).await;
    gateway.end().await;
}

#[tokio::test]
async fn a_stop_halts_the_robot_once_and_ends_on_both_sides_although_the_disk_was_full() {
    let Some(mount) = Mount::memory("4m") else {
        println!("skipped: no file system can be mounted here");
        return;
    };
    let mut gateway = Gateway::start(&mount.spool(), 0.1).await;
    gateway.welcome(WallClock(0), 1).await;
    let minute = Duration::from_secs(60);
    gateway.send(1, 11, go_to(100.0), minute).await;
    gateway.until(CommandId(11), Progress::Running).await;
    let ballast = mount.folder.path().join("ballast");
    // Whatever fits is written, and the rest fails.
    std::fs::write(&ballast, vec![1; 4 << 20]).unwrap_err();
    while gateway.commands.submit(wish(go_to(1.0))).await.is_ok() {}
    let told = gateway.told();

    gateway.send(2, 12, Order::Stop, minute).await;
    gateway.until_told(told + 1).await;
    // The relay has no word of it, so it sends it again.
    gateway.send(2, 12, Order::Stop, minute).await;
    let again = gateway.commands.submit(wish(Order::Stop)).await;
    let Err(Refusal::NotRecorded { id, .. }) = again else {
        panic!("not passed on: {again:?}");
    };
    gateway.until_told(told + 2).await;
    assert_eq!(gateway.commands.find(id).await.unwrap(), None);

    std::fs::remove_file(ballast).unwrap();
    // The one of the board is stored by itself, the other one when it comes again.
    gateway.until(id, Progress::Succeeded).await;
    gateway.send(2, 12, Order::Stop, minute).await;
    gateway.until(CommandId(12), Progress::Succeeded).await;
    gateway.until_told(told + 2).await;
    let steps = gateway.steps(id).await;
    assert_eq!(steps, ["Ordered", "Received", "Succeeded"]);
    let steps = gateway.steps(CommandId(12)).await;
    assert_eq!(steps, ["Received", "Succeeded"]);
    let open = gateway.board.snapshot();
    assert_eq!((open.running, open.unfinished_commands), (None, 0));
    let running = Some(Progress::Running);
    let running = gateway.commands.list(10, None, running).await.unwrap();
    assert!(running.is_empty(), "{running:?}");
    gateway.end().await;
}

#[tokio::test]
async fn a_restart_of_the_robots_software_ends_its_motion() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Gateway::start(&spool_in(&folder), 0.1).await;
    let id = gateway.give(wish(go_to(100.0))).await.id();
    gateway.until(id, Progress::Running).await;
    let restart = Action {
        name: robot::sim::model::RESTART.to_owned(),
        json: "null".to_owned(),
    };
    gateway.give(wish(Order::Custom(restart))).await;
    let ended = gateway.until(id, Progress::Interrupted).await;
    assert_eq!(ended.detail(), "the robot's software was started anew");
    gateway.end().await;
}

#[tokio::test]
async fn a_calendar_of_the_relay_that_jumps_changes_no_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::start(&spool_in(&folder), 1_000.0).await;
    let year = 365 * 24 * 3_600 * 1_000_000;
    let now = gateway.clock.wall().0;
    let minute = Duration::from_secs(60);
    for (at, jump) in [(1, 0), (2, 100 * year), (3, -50 * year)] {
        // The other clock of the relay begins anew when the relay does.
        gateway.relay_uptime = Uptime::new(Duration::from_secs(90_000 / at));
        gateway.welcome(WallClock(now + jump), at).await;
        let id = 10 + u128::from(at);
        gateway.send(at, id, go_to(1.0), minute).await;
        let kept = gateway.until(CommandId(id), Progress::Succeeded).await;
        let left = kept.stored.deadline.since(kept.stored.received);
        assert!(left <= minute && left > minute / 2, "{left:?}");
    }
    gateway.send(4, 14, go_to(1.0), Duration::ZERO).await;
    gateway.until(CommandId(14), Progress::Expired).await;
    gateway.until_told(3).await;
    gateway.end().await;
}

#[tokio::test]
async fn a_command_of_the_board_outlives_damage_with_its_key_and_its_history() {
    let folder = tempfile::tempdir().unwrap();
    let path = spool_in(&folder);
    let keyed = || Wish {
        key: Some("k-1".to_owned()),
        ..wish(go_to(1.0))
    };
    let gateway = Gateway::start(&path, 1_000.0).await;
    let id = gateway.give(keyed()).await.id();
    let before = gateway.until(id, Progress::Succeeded).await;
    gateway.end().await;
    let mut bytes = std::fs::read(&path).unwrap();
    // The header and the schema are gone, the rows are not.
    bytes[..4096].fill(0);
    std::fs::write(&path, bytes).unwrap();
    let gateway = Gateway::start(&path, 1_000.0).await;
    let after = gateway.commands.find(id).await.unwrap();
    assert_eq!(after, Some(before));
    let again = gateway.commands.submit(keyed()).await.unwrap();
    assert_eq!((again.is_new, again.command.id()), (false, id));
    gateway.end().await;
}
