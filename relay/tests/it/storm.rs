//! A relay is killed and comes back to a whole fleet that has been waiting for it.
//!
//! How soon each thing is there is printed and no condition, since it depends on the machine.
//!
//! The robots are 500, or as many as `BRRBRR_STORM` says; each has its own connection, backlog and
//! clock. The relay is the real program on its own files.

pub(crate) mod robot;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use brrbrr_proto::id::{RobotId, Seq};
use brrbrr_proto::seal::Secret;
use brrbrr_relay::catalog::Catalog;
use brrbrr_relay::catalog::sqlite::SqliteCatalog;
use brrbrr_relay::data_dir::DataDir;
use brrbrr_relay::fleet::{DRAIN_SLOTS, HELLOS, STORES};
use brrbrr_relay::journal::Journal;
use brrbrr_relay::journal::sqlite::SqliteJournal;
use futures_util::future::join_all;
use rusqlite::{Connection, OpenFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use robot::{Life, Robot};

/// How often the relay's metrics are read.
const SAMPLE: Duration = Duration::from_millis(50);
/// A storm that is not over by then has hung.
const PATIENCE: Duration = Duration::from_secs(150);
/// So many robots have been out of reach for long: more than may drain at full speed at a time.
const HEAVY: u32 = 40;

/// What each robot records before the relay is killed, and while it is away.
const FIRST_RECORDS: u64 = 2;
const fn backlog(number: u32) -> u64 {
    if number <= HEAVY { 2_000 } else { 10 }
}

/// A relay's process, killed when it is dropped.
struct Relay {
    process: Child,
    http: SocketAddr,
    mqtt: SocketAddr,
}

impl Relay {
    /// Starts it and waits until it listens.
    async fn start(data: &DataDir, http: &str, mqtt: &str) -> Self {
        let folder = data.path().to_str().unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_brrbrr-relay"))
            .env_clear()
            .env("RUST_LOG", "warn,brrbrr_relay::sqlite=info")
            .args(["serve", "--data", folder, "--http", http, "--mqtt", mqtt])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        let (http, mqtt) = loop {
            assert!(Instant::now() < deadline, "the relay does not start");
            tokio::time::sleep(Duration::from_millis(5)).await;
            let Ok(Some(listening)) = data.listening() else {
                continue;
            };
            let http: SocketAddr = listening.http["http://".len()..].parse().unwrap();
            let mqtt: SocketAddr = listening.mqtt["mqtt://".len()..].parse().unwrap();
            if TcpStream::connect(http).await.is_ok() {
                break (http, mqtt);
            }
        };
        Self {
            process,
            http,
            mqtt,
        }
    }

    /// All metrics without labels.
    async fn metrics(&self) -> BTreeMap<String, u64> {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        let request = "GET /metrics HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        assert!(page.starts_with("HTTP/1.1 200"), "{page}");
        let pairs = page.lines().filter_map(|line| line.split_once(' '));
        pairs
            .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
            .collect()
    }

    /// The most memory it ever had, in KiB.
    fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line.unwrap().split_ascii_whitespace().nth(1);
        kib.unwrap().parse().unwrap()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// What was seen of the relay after its restart, by the time since then.
#[derive(Default)]
struct Seen {
    /// When the n-th robot's first status was heard; the n-th session was open; the n-th record stored.
    live: Vec<Duration>,
    all_open: Option<Duration>,
    drained: Option<Duration>,
    most: BTreeMap<&'static str, u64>,
}

impl Seen {
    const WATCHED: [&str; 6] = [
        "brrbrr_hellos_waiting",
        "brrbrr_hellos_sent_away_total",
        "brrbrr_hellos_in_work_peak",
        "brrbrr_drain_slots_in_use",
        "brrbrr_drain_waiting",
        "brrbrr_stores_in_work_peak",
    ];

    /// Takes over what the metrics show and how many positions the journal has, of which so many are
    /// due.
    fn note(
        &mut self,
        metrics: &BTreeMap<String, u64>,
        (stored, due): (u64, u64),
        fleet: u32,
        at: Duration,
    ) {
        let of = |name: &str| metrics.get(name).copied().unwrap_or(0);
        let live = usize::try_from(of("brrbrr_live_robots")).unwrap();
        while self.live.len() < live {
            self.live.push(at);
        }
        if of("brrbrr_sessions") == u64::from(fleet) {
            self.all_open.get_or_insert(at);
        }
        if stored >= due {
            self.drained.get_or_insert(at);
        }
        for name in Self::WATCHED {
            let most = self.most.entry(name).or_default();
            *most = (*most).max(of(name));
        }
    }

    fn is_over(&self, fleet: u32) -> bool {
        let all_live = self.live.len() >= usize::try_from(fleet).unwrap();
        all_live && self.all_open.is_some() && self.drained.is_some()
    }
}

fn allow_many_files() {
    let allowed = getrlimit(Resource::Nofile);
    let current = allowed.maximum;
    setrlimit(Resource::Nofile, Rlimit { current, ..allowed }).unwrap();
}

async fn enrol(data: &DataDir, fleet: u32) -> Vec<(RobotId, Secret)> {
    data.create().unwrap();
    let catalog = SqliteCatalog::open(&data.catalog()).unwrap();
    let enrolled = join_all((0..fleet).map(|number| {
        let catalog = &catalog;
        async move {
            let mut secret = [7; 32];
            secret[..4].copy_from_slice(&number.to_le_bytes());
            let secret = Secret::new(secret);
            let name = format!("storm {number}");
            let robot = catalog.add_robot(&name, 1, None, &secret).await.unwrap();
            (robot.id, secret)
        }
    }));
    enrolled.await
}

/// Looks into the journal of a relay that runs.
fn look(data: &DataDir) -> Connection {
    Connection::open_with_flags(data.journal(), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

/// How many positions of robots' streams are in the journal. The relay's own counters count a run
/// again that came again.
fn stored(journal: &Connection) -> u64 {
    let sum = "SELECT coalesce(sum(due - 1), 0) FROM streams";
    let stored: i64 = journal.query_row(sum, [], |row| row.get(0)).unwrap();
    stored.unsigned_abs()
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

async fn assert_stored_exactly_once(data: &DataDir, robots: &[(RobotId, Secret)]) {
    let journal = SqliteJournal::open(&data.journal()).unwrap();
    for &(id, _) in robots {
        let epoch = robot::epoch(id);
        assert_eq!(journal.epochs(id).await.unwrap(), [epoch]);
        let expected = FIRST_RECORDS + backlog(id.number());
        let limit = usize::try_from(expected).unwrap() + 10;
        let records = journal.records(id, epoch, Seq::FIRST, limit).await.unwrap();
        assert_eq!(records.len(), limit - 10, "robot {id}");
        for (stored, seq) in records.iter().zip(1..) {
            assert_eq!((stored.seq, stored.item.covers), (Seq(seq), 1));
            assert_eq!(stored.item.record, robot::record(id, Seq(seq)));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_comes_back_to_a_killed_relay_with_bounded_work_and_nothing_lost() {
    allow_many_files();
    let fleet = std::env::var("BRRBRR_STORM").map_or(500, |text| text.parse().unwrap());
    let folder = TempDir::new().unwrap();
    let data = DataDir::new(folder.path().join("data"));
    let robots = enrol(&data, fleet).await;

    let relay = Relay::start(&data, "127.0.0.1:0", "127.0.0.1:0").await;
    let (http, mqtt) = (relay.http.to_string(), relay.mqtt.to_string());
    let (life, lives) = watch::channel(Life::Early);
    let mut tasks = JoinSet::new();
    let opened = Arc::default();
    for (id, secret) in &robots {
        let robot = Robot::new(*id, secret, relay.mqtt, lives.clone(), Arc::clone(&opened));
        tasks.spawn(robot.run());
    }
    let began = Instant::now();
    let early = FIRST_RECORDS * u64::from(fleet);
    let journal = look(&data);
    let mut before = Seen::default();
    while !before.is_over(fleet) {
        assert!(began.elapsed() < PATIENCE, "not all robots came at first");
        let metrics = relay.metrics().await;
        before.note(&metrics, (stored(&journal), early), fleet, began.elapsed());
        tokio::time::sleep(SAMPLE).await;
    }
    println!(
        "{fleet} robots had their first sessions in {:.1?}",
        began.elapsed()
    );

    drop((relay, journal));
    opened.lock().unwrap().clear();
    life.send_replace(Life::Late);
    let began = Instant::now();
    let relay = Relay::start(&data, &http, &mqtt).await;
    let listened = began.elapsed();
    let waiting: u64 = robots.iter().map(|(id, _)| backlog(id.number())).sum();
    let due = early + waiting;
    let journal = look(&data);
    let mut seen = Seen::default();
    while !seen.is_over(fleet) {
        assert!(
            began.elapsed() < PATIENCE,
            "the storm is not over: {:?}",
            relay.metrics().await
        );
        let metrics = relay.metrics().await;
        seen.note(&metrics, (stored(&journal), due), fleet, began.elapsed());
        tokio::time::sleep(SAMPLE).await;
    }
    let memory = relay.peak_memory();
    life.send_replace(Life::Over);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    drop((relay, journal));

    let mut opened: Vec<Duration> = opened
        .lock()
        .unwrap()
        .values()
        .map(|at| *at - began)
        .collect();
    opened.sort();
    let (drained, all_open) = (seen.drained.unwrap(), seen.all_open.unwrap());
    println!("listens after {listened:.2?}; {waiting} records wait on {fleet} robots");
    for (what, times) in [("session", &opened), ("live status heard", &seen.live)] {
        let [p50, p99, max] = [50, 99, 100].map(|percent| percentile(times, percent));
        println!("first {what}: p50 {p50:.2?}, p99 {p99:.2?}, max {max:.2?}");
    }
    println!("all sessions open after {all_open:.2?}; drained after {drained:.2?}");
    println!("at most: {:#?}; peak memory {memory} KiB", seen.most);

    assert_stored_exactly_once(&data, &robots).await;
    let bounds = [
        ("brrbrr_hellos_in_work_peak", HELLOS.slots),
        ("brrbrr_hellos_waiting", HELLOS.line),
        ("brrbrr_drain_slots_in_use", DRAIN_SLOTS),
        ("brrbrr_stores_in_work_peak", STORES),
    ];
    for (name, bound) in bounds {
        assert!(seen.most[name] <= u64::try_from(bound).unwrap(), "{name}");
    }
    assert!(
        seen.most["brrbrr_drain_slots_in_use"] > 0,
        "nobody drains at full speed"
    );
}
