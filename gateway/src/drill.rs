//! `brrbrr-gateway drill`: runs this program and a relay over a shaped link, kills both at random
//! moments, and compares what was acknowledged to the robots' producers with the relay's journal.
//!
//! A robot's producer makes an event a second of its life, and `--speed` says how much faster than
//! the clock it lives. The link's own times are not compressed.

mod ages;
mod board;
mod judge;
mod kills;
pub mod line;
mod producer;
pub mod profile;
mod program;
pub mod proxy;
pub mod random;
mod relay;
mod report;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use thiserror::Error;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep};

use self::board::Board;
use self::judge::Findings;
use self::kills::{Kills, Victim};
use self::producer::Task;
use self::profile::Profile;
use self::program::Usage;
use self::random::Random;
use self::relay::{Relay, judge_records};
use self::report::{Measured, Report};

/// What is said below `--help`.
pub const AFTER_HELP: &str = "\
Exit codes: 0 nothing was lost, doubled or reordered, and every gap has a reason; 1 something was, or
the drill could not be run to its end; 2 wrong command line.

Example, one minute of an hour in a robot's life over a mobile link, with 12 kills:
  brrbrr-gateway drill --profile 4g --hours 1 --robots 2 --kills 12 --seed 7";

/// The relay's program.
const RELAY: &str = "brrbrr-relay";
/// How often things are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often a line about the progress is written.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// The drill is given up when no record has got any further for so long.
const STALL_LIMIT: Duration = Duration::from_secs(180);
/// The most robots, hours, kills and speed.
const ROBOTS_MAX: u64 = 200;
const HOURS_MAX: f64 = 168.0;
const KILLS_MAX: u64 = 1_000;
const SPEED_MAX: f64 = 100_000.0;

/// What the command line says.
#[derive(Debug, Clone, Args)]
pub struct DrillArgs {
    /// The link between the robots and the relay.
    #[arg(long, value_enum)]
    profile: Profile,
    /// Hours of each robot's life. It makes an event a second.
    #[arg(long, value_name = "H", default_value = "1", value_parser = hours)]
    hours: f64,
    /// How many robots, each with a gateway and a link of its own.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=ROBOTS_MAX))]
    robots: u64,
    /// Repeats the same kills, link and payloads.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// How many times as fast as the clock the robots live; not used with dead-for-a-day.
    #[arg(long, value_name = "X", default_value = "60", value_parser = speed)]
    speed: f64,
    /// How many SIGKILLs, of random gateways and, one in four, of the relay.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=KILLS_MAX))]
    kills: u64,
    /// The relay's program [default: brrbrr-relay beside this program, or in PATH].
    #[arg(long, value_name = "PATH")]
    relay_binary: Option<PathBuf>,
    /// Work in this new folder and leave everything there: data, logs, what was acknowledged.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// Why there is no verdict, or a bad one.
#[derive(Debug, Error)]
pub enum DrillError {
    /// The relay's program is not there.
    #[error("there is no relay at {}, name it with --relay-binary PATH", .0.display())]
    NoRelay(PathBuf),
    /// The folder is not new.
    #[error("{} is there already, --keep needs a new folder", .0.display())]
    NotNew(PathBuf),
    /// Somebody has stopped the drill.
    #[error("the drill was stopped before its end")]
    Stopped,
    /// The verdict.
    #[error("the drill failed: {0}")]
    Failed(String),
}

/// Runs a drill and prints its verdict.
///
/// # Errors
/// [`DrillError::Failed`] where the verdict is bad, or what kept the drill from its end.
pub async fn run(args: DrillArgs, shutdown: impl Future<Output = ()> + Send) -> anyhow::Result<()> {
    let json = args.json;
    let report = tokio::select! {
        // Asked first: a Ctrl-C ends the programs under drill as well, which would look like a fault.
        biased;
        // Everything that the drill has started ends with it.
        () = shutdown => return Err(DrillError::Stopped.into()),
        report = drill(args) => report?,
    };
    let text = match json {
        true => serde_json::to_string_pretty(&report)? + "\n",
        false => report.table(),
    };
    io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write to standard output")?;
    match report.complaint() {
        None => Ok(()),
        Some(complaint) => Err(DrillError::Failed(complaint).into()),
    }
}

async fn drill(args: DrillArgs) -> anyhow::Result<Report> {
    let folder = Folder::make(args.keep.clone())?;
    let mut drill = Drill::start(args, folder).await?;
    let started = Instant::now();
    drill.load().await?;
    let load = started.elapsed();
    drill.drain().await?;
    let took = (load, started.elapsed().saturating_sub(load));
    drill.finish(took).await
}

/// The part of a drill that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Load,
    Drain,
}

/// A running drill. Its fields are dropped in this order: programs end before their folder does.
#[derive(Debug)]
struct Drill {
    producers: JoinSet<anyhow::Result<()>>,
    boards: Vec<Board>,
    relay: Relay,
    args: DrillArgs,
    /// Kills while records are made, and kills while they drain.
    kills: (Kills, Kills),
    killed: (u64, u64),
    events: u64,
    /// The largest backlog since the link has healed.
    largest_backlog: u64,
    /// The last time that a record has got further, and how far all were then.
    moved: (Instant, u64, u64),
    told: Instant,
    started: Instant,
    _folder: Folder,
}

impl Drill {
    async fn start(args: DrillArgs, folder: Folder) -> anyhow::Result<Self> {
        let gateway = std::env::current_exe().context("where is this program")?;
        let binary = args
            .relay_binary
            .clone()
            .unwrap_or_else(|| beside(&gateway));
        let terms = args.profile.terms();
        let relay = Relay::start(&binary, &folder.path).await?;
        let mut boards = Vec::new();
        for number in 1..=args.robots {
            let seed = Random::new(args.seed, number).next();
            let link = (terms, seed);
            boards.push(Board::start(&gateway, &folder.path, &relay, number, link)?);
        }
        let mut random = Random::new(args.seed, 0);
        let kills = usize::try_from(args.kills)?;
        // A robot that was away for long is most at risk while its backlog drains.
        let late = if terms.dead { kills / 2 } else { 0 };
        let kills = (
            Kills::draw(kills - late, boards.len(), &mut random),
            Kills::draw(late, boards.len(), &mut random),
        );
        let seconds = Duration::from_secs_f64(args.hours * 3600.0).as_secs();
        let mut drill = Self {
            producers: JoinSet::new(),
            boards,
            relay,
            args,
            kills,
            killed: (0, 0),
            events: seconds.max(1),
            largest_backlog: 0,
            moved: (Instant::now(), 0, 0),
            told: Instant::now(),
            started: Instant::now(),
            _folder: folder,
        };
        drill.start_producers(terms.dead);
        Ok(drill)
    }

    fn start_producers(&mut self, at_once: bool) {
        let interval = match at_once {
            true => Duration::ZERO,
            false => Duration::from_secs_f64(1.0 / self.args.speed),
        };
        for (robot, board) in (1..).zip(&self.boards) {
            let task = Task {
                robot,
                seed: self.args.seed,
                events: self.events,
                interval,
                data: board.data().to_owned(),
                log: board.data().with_extension("acknowledged"),
            };
            self.producers
                .spawn(producer::run(task, board.progress.clone()));
        }
    }

    /// Until every event is acknowledged to its producer.
    async fn load(&mut self) -> anyhow::Result<()> {
        let all = self.events * self.args.robots;
        while !self.producers.is_empty() || !self.kills.0.is_over() {
            sleep(TICK).await;
            while let Some(ended) = self.producers.try_join_next() {
                ended.context("a producer ended")??;
            }
            self.look(Part::Load, 0).await?;
            let share = number(self.acknowledged()) / number(all);
            while let Some(victim) = self.kills.0.due(share) {
                self.kill(victim).await?;
            }
        }
        Ok(())
    }

    /// Until the relay has acknowledged everything. The link is good from now on.
    async fn drain(&mut self) -> anyhow::Result<()> {
        for board in &mut self.boards {
            board.link.heal();
        }
        loop {
            let mut backlog = Some(0);
            for board in &self.boards {
                let of_board = board.backlog().await;
                backlog = backlog.zip(of_board).map(|(all, one)| all + one);
            }
            // One that has just been killed does not answer yet.
            if let Some(backlog) = backlog {
                self.largest_backlog = self.largest_backlog.max(backlog);
                let left = number(backlog) / number(self.largest_backlog.max(1));
                let due = self.kills.1.due(1.0 - left);
                match due {
                    Some(victim) => self.kill(victim).await?,
                    None if backlog == 0 => return Ok(()),
                    None => {}
                }
            }
            self.look(Part::Drain, backlog.unwrap_or(self.moved.2))
                .await?;
            sleep(TICK).await;
        }
    }

    /// Kills one and starts it again at once.
    async fn kill(&mut self, victim: Victim) -> anyhow::Result<()> {
        match victim {
            Victim::Relay => {
                self.relay.kill().await;
                self.relay.start_again().await?;
                self.killed.1 += 1;
            }
            Victim::Gateway(place) => {
                let board = self.boards.get_mut(place).context("no such board")?;
                board.kill();
                board.start_again()?;
                self.killed.0 += 1;
            }
        }
        Ok(())
    }

    /// Looks at the programs, and whether anything still moves.
    async fn look(&mut self, part: Part, backlog: u64) -> anyhow::Result<()> {
        for board in &mut self.boards {
            board.look();
            board.expect_running()?;
        }
        self.relay.expect_running()?;
        self.relay.look().await;
        let acknowledged = self.acknowledged();
        let now = Instant::now();
        if (acknowledged, backlog) != (self.moved.1, self.moved.2) {
            self.moved = (now, acknowledged, backlog);
        }
        ensure!(
            now.duration_since(self.moved.0) < STALL_LIMIT,
            "nothing has moved for {} s: {acknowledged} records were acknowledged, {backlog} wait",
            STALL_LIMIT.as_secs()
        );
        if now.duration_since(self.told) >= TELL_EVERY {
            self.told = now;
            self.tell(part, backlog);
        }
        Ok(())
    }

    fn tell(&self, part: Part, backlog: u64) {
        let seconds = self.started.elapsed().as_secs();
        let (acknowledged, all) = (self.acknowledged(), self.events * self.args.robots);
        let (gateways, relays) = self.killed;
        let what = match part {
            Part::Load => format!("{acknowledged} of {all} records made"),
            Part::Drain => format!("all records made, {backlog} wait for the relay"),
        };
        // Where nobody reads it, the verdict still comes.
        writeln!(
            io::stderr(),
            "drill: {seconds} s, {what}, killed {gateways} gateways and {relays} relays"
        )
        .ok();
    }

    fn acknowledged(&self) -> u64 {
        let of_board = |board: &Board| board.progress.produced().acknowledged;
        self.boards.iter().map(of_board).sum()
    }

    /// Ends the gateways, reads the journal and judges.
    async fn finish(mut self, took: (Duration, Duration)) -> anyhow::Result<Report> {
        for board in &mut self.boards {
            board.kill();
        }
        self.relay.look().await;
        let mut findings = Findings::default();
        for (robot, board) in (1..).zip(&self.boards) {
            let (records, produced) = (self.relay.records(board.name()), board.progress.produced());
            let seed = self.args.seed;
            let judged =
                spawn_blocking(move || judge_records(records, (seed, robot), produced)).await;
            findings.add(&judged.context("judging failed")??);
        }
        let (mut air, mut gateways) = ((0, 0), Usage::default());
        for board in &self.boards {
            let (up, down) = board.link.carried();
            air = (air.0 + up, air.1 + down);
            let Usage { written, peak } = board.program().usage();
            gateways.written += written;
            gateways.peak = gateways.peak.max(peak);
        }
        let measured = Measured {
            profile: self.args.profile.name(),
            robots: self.boards.len(),
            hours: self.args.hours,
            seed: self.args.seed,
            took,
            kills: self.killed,
            air,
            gateways,
            relay: self.relay.program().usage(),
        };
        Ok(Report::new(measured, findings, self.relay.ages()))
    }
}

/// Where everything of a drill is; removed in the end unless it is to be kept.
#[derive(Debug)]
struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn make(kept: Option<PathBuf>) -> anyhow::Result<Self> {
        let keep = kept.is_some();
        let path = match kept {
            Some(path) => path,
            None => std::env::temp_dir().join(format!("brrbrr-drill-{:016x}", getrandom::u64()?)),
        };
        // There will be secrets in it. It must be new, so that nothing else is removed with it.
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(DrillError::NotNew(path).into());
            }
            made => made.with_context(|| format!("cannot make {}", path.display()))?,
        }
        Ok(Self { path, keep })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            fs::remove_dir_all(&self.path).ok();
        }
    }
}

/// The relay's program beside this one, or else by its name alone, for PATH.
fn beside(gateway: &Path) -> PathBuf {
    let sibling = gateway.with_file_name(RELAY);
    match sibling.is_file() {
        true => sibling,
        false => PathBuf::from(RELAY),
    }
}

fn hours(text: &str) -> Result<f64, String> {
    positive(text, HOURS_MAX)
}

fn speed(text: &str) -> Result<f64, String> {
    positive(text, SPEED_MAX)
}

fn positive(text: &str, most: f64) -> Result<f64, String> {
    let value = text
        .parse()
        .ok()
        .filter(|value| *value > 0.0 && *value <= most);
    value.ok_or_else(|| format!("a number above 0 and up to {most} is needed"))
}

/// A count as a number to calculate with.
fn number(count: u64) -> f64 {
    let half = |bits: u64| f64::from(u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(0));
    half(count >> 32) * (f64::from(u32::MAX) + 1.0) + half(count)
}
