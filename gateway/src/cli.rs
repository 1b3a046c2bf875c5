//! The command line: what each subcommand does, its output and its exit code.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::app;
use crate::building::BuildingStatus;
use crate::config::{Config, Overrides};
use crate::drill::{self, DrillArgs};
use crate::identity::Identity;
use crate::local;
use crate::status::{GapStatus, Snapshot};

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong command line or configuration, 3 no gateway is running.

A gateway is set up in three steps:
  brrbrr-gateway enroll --file guide-7.enrol --data /var/lib/brrbrr-gateway
  brrbrr-gateway check-config --config /etc/brrbrr/gateway.toml
  brrbrr-gateway run --config /etc/brrbrr/gateway.toml";

/// The daemon on a robot's board: keeps what the robot says until the relay has it, and carries out
/// what the relay asks.
#[derive(Debug, Parser)]
#[command(term_width = 100, name = "brrbrr-gateway", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon until SIGTERM or SIGINT.
    Run {
        #[command(flatten)]
        overrides: Overrides,
    },
    /// Read the configuration and the enrolment, say what is wrong with them, and do nothing.
    CheckConfig {
        #[command(flatten)]
        overrides: Overrides,
    },
    /// Ask the running daemon how things stand.
    Status {
        #[command(flatten)]
        overrides: Overrides,
        /// Print JSON, as `GET /status` on the control socket does.
        #[arg(long)]
        json: bool,
    },
    /// Take a one-time enrolment file into the data folder, and remove the file.
    Enroll {
        /// What `brrbrr-relay robot add` wrote.
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
        /// The folder that holds everything of this gateway.
        #[arg(long, value_name = "DIR", env = "BRRBRR_GATEWAY_DATA")]
        data: PathBuf,
        /// Give up the enrolment that the folder holds already.
        #[arg(long)]
        replace: bool,
    },
    /// Try this program out with a relay, a bad link and kills, and judge that nothing was lost.
    #[command(after_help = drill::AFTER_HELP)]
    Drill(DrillArgs),
}

impl Cli {
    /// Carries the command out.
    ///
    /// # Errors
    /// Says what failed; `main` turns the kind of error into the exit code.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> anyhow::Result<()> {
        match self.command {
            Command::Run { overrides } => app::run(Config::load(&overrides)?, shutdown).await,
            Command::CheckConfig { overrides } => {
                let config = Config::load(&overrides)?;
                let identity = Identity::load(&config.data)?;
                let broker = config.broker(&identity.enrolment)?;
                let tls = if broker.tls { "TLS" } else { "no TLS" };
                print(&format!(
                    "ok: robot {} ({:?}), {} adapter, relay's broker {}:{} ({tls}), data in {}{}\n",
                    identity.robot,
                    identity.enrolment.name,
                    config.robot.adapter_name(),
                    broker.host,
                    broker.port,
                    config.data.display(),
                    config.local.describe(),
                ))
            }
            Command::Status { overrides, json } => {
                let data = Config::data_only(&overrides)?;
                let snapshot = local::ask(&data).await?;
                if json {
                    let text = serde_json::to_string_pretty(&snapshot)?;
                    return print(&format!("{text}\n"));
                }
                print(&describe(&snapshot))
            }
            Command::Drill(args) => drill::run(args, shutdown).await,
            Command::Enroll {
                file,
                data,
                replace,
            } => {
                let identity = Identity::enroll(&file, &data, replace)?;
                print(&format!(
                    "enrolled as robot {} ({:?}); {} is used up and removed\n",
                    identity.robot,
                    identity.enrolment.name,
                    file.display()
                ))
            }
        }
    }
}

fn describe(snapshot: &Snapshot) -> String {
    let Snapshot {
        version,
        robot,
        name,
        link,
        spool,
        running,
        unfinished_commands,
        adapter,
        building,
        status,
        ..
    } = snapshot;
    let reason = link.reason.as_deref().unwrap_or_default();
    let with = link.relay.as_deref().unwrap_or_default();
    let mut lines = vec![
        format!("robot      {robot} ({name:?}), gateway {version}"),
        match link.state.as_str() {
            "session" => format!("link       session with relay {with}"),
            "connected" => "link       connected, no relay has answered yet".to_owned(),
            _ => format!("link       not connected: {reason}"),
        },
        format!(
            "spool      {} records wait for the relay, {} acknowledged (epoch {})",
            spool.backlog,
            spool.acked.saturating_sub(1),
            spool.epoch
        ),
    ];
    let megabytes = |bytes: u64| bytes.div_ceil(1024 * 1024);
    lines.push(format!(
        "disk       {} for {} s, {} of {} MB used{}{}",
        spool.disk,
        spool.seconds,
        megabytes(spool.bytes),
        megabytes(spool.budget),
        if spool.detail.is_empty() { "" } else { ": " },
        spool.detail
    ));
    if spool.thinned + spool.shed + spool.refused > 0 {
        lines.push(format!(
            "shed       {} samples thinned out, {} records shed, {} writes refused since the start",
            spool.thinned, spool.shed, spool.refused
        ));
    }
    lines.extend(spool.gaps.iter().map(describe_gap));
    if let Some(error) = &spool.error {
        lines.push(format!(
            "spool      failed {} times, last: {error}",
            spool.errors
        ));
    }
    lines.push(match running {
        Some(id) => format!("commands   {id} is running, {unfinished_commands} not ended"),
        None => format!("commands   none is running, {unfinished_commands} not ended"),
    });
    lines.push(describe_building(building));
    let activity = status
        .activity
        .map_or("unknown".to_owned(), |a| format!("{a:?}"));
    let side = status
        .robot_side
        .map_or("unknown".to_owned(), |s| format!("{s:?}"));
    lines.push(format!(
        "robot side {side}, activity {activity}, {} messages from it, {} orders to it",
        adapter.messages, adapter.orders
    ));
    if let Some(pose) = status.pose {
        lines.push(format!("pose       {:.2} m, {:.2} m", pose.x, pose.y));
    }
    if let Some(battery) = status.battery {
        lines.push(format!("battery    {:.0} %", battery * 100.0));
    }
    lines.join("\n") + "\n"
}

fn describe_gap(gap: &GapStatus) -> String {
    let count = match gap.count {
        0 => "an unknown number of records".to_owned(),
        count => format!("{count} records"),
    };
    let last = gap.first.saturating_add(gap.covers).saturating_sub(1);
    let span = gap
        .since
        .zip(gap.until)
        .map_or_else(String::new, |(since, until)| {
            let seconds = until.saturating_sub(since) / 1_000_000;
            format!(", a stretch of {seconds} s")
        });
    format!(
        "gap        {count}, {} to {last}: {}{span}",
        gap.first, gap.reason
    )
}

fn describe_building(building: &BuildingStatus) -> String {
    let mut line = match (&building.revision, &building.since) {
        (Some(revision), Some(since)) => format!(
            "building   {} places, {} events, revision {revision} of {since}",
            building.places, building.events
        ),
        _ => "building   not known yet, no relay has sent it".to_owned(),
    };
    if let Some(seconds) = building.confirmed {
        line += &format!(", the newest {seconds} s ago");
    }
    if let Some(problem) = &building.problem {
        line += &format!(": {problem}");
    }
    line
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write to standard output")
}
