//! `brrbrr-relay records` and `gaps`: a robot's journal as JSON lines, with a running relay beside it
//! or without.

use std::io::{self, BufWriter, ErrorKind, Write};

use anyhow::{Context, bail};
use brrbrr_proto::id::{RobotId, Seq};
use clap::Args;
use jiff::Timestamp;
use serde::Serialize;

use super::robot::find;
use super::{DataArgs, open_catalog};
use crate::config::{self, Lookup};
use crate::data_dir::DataDir;
use crate::journal::Journal;
use crate::journal::history::{History, Range};
use crate::journal::sqlite::SqliteJournal;
use crate::journal::view::RecordView;

/// How many records are read at a time.
const PAGE: usize = 1_000;

#[derive(Debug, Args)]
pub(super) struct RecordsArgs {
    #[command(flatten)]
    robot: RobotArgs,
}

#[derive(Debug, Args)]
pub(super) struct GapsArgs {
    #[command(flatten)]
    robot: RobotArgs,
}

/// Whose journal.
#[derive(Debug, Args)]
struct RobotArgs {
    #[command(flatten)]
    data: DataArgs,
    /// The robot's id, which need not be in the catalog any more
    #[arg(long, value_name = "ID", required_unless_present = "name")]
    robot: Option<RobotId>,
    /// The robot's name
    #[arg(long, value_name = "NAME", conflicts_with = "robot")]
    name: Option<String>,
    /// Print one JSON object a line, as is always done; there for scripts that want to say so
    #[arg(long)]
    jsonl: bool,
}

/// A line that is printed.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    record: RecordView,
    received: Timestamp,
}

pub(super) async fn records(args: RecordsArgs, environment: Lookup<'_>) -> anyhow::Result<()> {
    let (journal, robot) = args.robot.open(environment).await?;
    let mut out = Lines::new();
    for epoch in journal.epochs(robot).await? {
        let timeline = journal.timeline(robot, epoch).await?;
        let mut from = Seq::FIRST;
        loop {
            let page = journal.records(robot, epoch, from, PAGE).await?;
            let Some(last) = page.last() else { break };
            from = last.seq.plus(last.item.covers);
            for stored in page {
                let received = stored.received;
                let record = RecordView::new(epoch, stored, &timeline);
                if !out.print(&Line { record, received })? {
                    return Ok(());
                }
            }
        }
    }
    out.finish()
}

pub(super) async fn gaps(args: GapsArgs, environment: Lookup<'_>) -> anyhow::Result<()> {
    let (journal, robot) = args.robot.open(environment).await?;
    let history = History::of(&journal, robot).await?;
    let mut out = Lines::new();
    let mut after = None;
    loop {
        let page = history.gaps(Range::default(), after, PAGE).await?;
        for gap in &page.items {
            if !out.print(gap)? {
                return Ok(());
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return out.finish(),
        }
    }
}

impl RobotArgs {
    async fn open(self, environment: Lookup<'_>) -> anyhow::Result<(SqliteJournal, RobotId)> {
        let data = config::data_dir(self.data.data, environment)?;
        let journal = open_journal(&data)?;
        let robot = match (self.robot, self.name) {
            (Some(robot), _) => robot,
            (None, Some(name)) => {
                data.expect_catalog()?;
                find(&open_catalog(&data)?, &name).await?.id
            }
            (None, None) => bail!("say which robot with --robot ID or --name NAME"),
        };
        Ok((journal, robot))
    }
}

fn open_journal(data: &DataDir) -> anyhow::Result<SqliteJournal> {
    let path = data.journal();
    if !path.is_file() {
        bail!(
            "there is no journal in {}; give the --data folder that `serve` uses",
            data.path().display()
        );
    }
    Ok(SqliteJournal::open(&path)?)
}

/// Standard output, a JSON document a line.
struct Lines(BufWriter<io::StdoutLock<'static>>);

impl Lines {
    fn new() -> Self {
        Self(BufWriter::new(io::stdout().lock()))
    }

    /// Prints a line. `false` where nobody reads any more, as behind `head`.
    fn print(&mut self, line: &impl Serialize) -> anyhow::Result<bool> {
        let mut json = serde_json::to_vec(line)?;
        json.push(b'\n');
        written(self.0.write_all(&json))
    }

    fn finish(mut self) -> anyhow::Result<()> {
        written(self.0.flush()).map(drop)
    }
}

fn written(outcome: io::Result<()>) -> anyhow::Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("cannot write to standard output"),
    }
}
