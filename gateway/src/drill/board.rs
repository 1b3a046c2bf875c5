//! A robot's board in a drill: a gateway with a data folder of its own, its link and its producer.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, ensure};

use super::producer::Progress;
use super::profile::Terms;
use super::program::{Program, run};
use super::proxy::Link;
use super::relay::Relay;
use crate::local;

/// What the gateway is told: a simulated robot, whose status is the live lane's load.
const CONFIG: &str = "[robot]\nadapter = \"sim\"\n";

/// A board under drill.
#[derive(Debug)]
pub struct Board {
    gateway: PathBuf,
    name: String,
    config: PathBuf,
    data: PathBuf,
    program: Program,
    /// The link to the relay.
    pub link: Link,
    /// How far the producer is.
    pub progress: Arc<Progress>,
}

impl Board {
    /// Adds a robot to the relay, enrols its gateway and starts it.
    ///
    /// # Errors
    /// Where one of these fails.
    pub fn start(
        gateway: &Path,
        folder: &Path,
        relay: &Relay,
        number: u64,
        (terms, seed): (Terms, u64),
    ) -> anyhow::Result<Self> {
        let name = format!("robot-{number}");
        let link = Link::open(terms, relay.mqtt(), seed).context("cannot open a link")?;
        let (data, enrolment) = (folder.join(&name), folder.join(format!("{name}.enrol")));
        relay.add_robot(&name, link.address(), &enrolment)?;
        let mut enroll = Command::new(gateway);
        enroll
            .args([Path::new("enroll"), Path::new("--file"), &enrolment])
            .args([Path::new("--data"), &data]);
        run(&mut enroll)?;
        let config = folder.join(format!("{name}.toml"));
        std::fs::write(&config, CONFIG)
            .with_context(|| format!("cannot write {}", config.display()))?;
        let mut board = Self {
            gateway: gateway.to_owned(),
            program: Program::new(folder.join(format!("{name}.log"))),
            name,
            config,
            data,
            link,
            progress: Arc::default(),
        };
        board.start_again()?;
        Ok(board)
    }

    /// Starts the gateway after [`Board::kill`]. Its producer waits until it listens.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.gateway);
        command
            .args([Path::new("run"), Path::new("--config"), &self.config])
            .args([Path::new("--data"), &self.data])
            .env_remove("NOTIFY_SOCKET")
            .env_remove("BRRBRR_GATEWAY_RELAY");
        self.program.start(&mut command)
    }

    /// Ends the gateway with SIGKILL.
    pub fn kill(&mut self) {
        self.program.kill();
    }

    /// Looks at what the kernel counts.
    pub fn look(&mut self) {
        self.program.look();
    }

    /// Makes sure that the gateway has not ended by itself.
    ///
    /// # Errors
    /// Says what it said last.
    pub fn expect_running(&mut self) -> anyhow::Result<()> {
        let ended = self.program.ended()?;
        ensure!(
            ended.is_none(),
            "the gateway of {} ended by itself ({ended:?}): {}",
            self.name,
            self.program.log_tail()
        );
        Ok(())
    }

    /// How many records wait for the relay; `None` where the gateway gives no answer.
    pub async fn backlog(&self) -> Option<u64> {
        let snapshot = local::ask(&self.data).await.ok()?;
        Some(snapshot.spool.backlog)
    }

    /// The robot's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The gateway's data folder.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The gateway.
    #[must_use]
    pub const fn program(&self) -> &Program {
        &self.program
    }
}
