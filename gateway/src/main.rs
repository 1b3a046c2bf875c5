//! `brrbrr-gateway`: set-up and exit codes.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use brrbrr_gateway::cli::Cli;
use brrbrr_gateway::config::ConfigError;
use brrbrr_gateway::drill::DrillError;
use brrbrr_gateway::identity::IdentityError;
use brrbrr_gateway::local::ControlError;
use brrbrr_gateway::uplink::UplinkError;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// It failed; trying again may help.
const FAILURE: u8 = 1;
/// The command line or the configuration is wrong; trying again will not help.
const USAGE: u8 = 2;
/// No gateway is running.
const NOT_RUNNING: u8 = 3;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => {
            // Help and version go to standard output and are no error.
            let code = if answer.use_stderr() { USAGE } else { 0 };
            return match answer.print() {
                Ok(()) => code.into(),
                Err(_) => FAILURE.into(),
            };
        }
    };
    match set_up_log().and_then(|()| run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where even this cannot be written, the exit code still tells.
            writeln!(std::io::stderr(), "brrbrr-gateway: {error:#}").ok();
            exit_code(&error).into()
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let is_usage =
        error.is::<ConfigError>() || error.is::<IdentityError>() || error.is::<UplinkError>();
    if let Some(DrillError::NoRelay(_) | DrillError::NotNew(_)) = error.downcast_ref() {
        return USAGE;
    }
    match error.downcast_ref::<ControlError>() {
        Some(ControlError::NotRunning(_)) => NOT_RUNNING,
        _ if is_usage => USAGE,
        _ => FAILURE,
    }
}

fn set_up_log() -> anyhow::Result<()> {
    // Not the filter with regular expressions, which takes 150 KB of the board.
    let filter: Targets = match std::env::var("RUST_LOG") {
        Ok(filter) => filter.parse()?,
        Err(_) => Targets::new().with_default(LevelFilter::INFO),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(lines)
        .with(filter)
        .init();
    Ok(())
}

fn run(cli: Cli) -> anyhow::Result<()> {
    // Two threads: one can sync a slow disk's answers while the other goes on with the robot.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM"),
                _ = interrupt.recv() => tracing::info!("SIGINT"),
            }
        };
        cli.run(shutdown).await
    })
}
