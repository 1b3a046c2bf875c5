//! `brrbrr-relay`: set-up and exit codes.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use brrbrr_relay::cli::Cli;
use brrbrr_relay::config::ConfigError;
use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// It failed.
const FAILURE: u8 = 1;
/// The command line or the configuration is wrong; trying again will not help.
const USAGE: u8 = 2;

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
            let text = format!("brrbrr-relay: {error:#}");
            drop(writeln!(std::io::stderr(), "{}", text.trim_end()));
            let is_usage = error.downcast_ref::<ConfigError>().is_some();
            ExitCode::from(if is_usage { USAGE } else { FAILURE })
        }
    }
}

fn set_up_log() -> anyhow::Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) => EnvFilter::try_new(&filter).map_err(|_| ConfigError::Value {
            name: "RUST_LOG".to_owned(),
            value: filter,
            expected: "a log filter such as debug or info,brrbrr_relay=trace",
        })?,
        // The router opens a span at error level for every frame, which costs time and says nothing.
        Err(_) => EnvFilter::new("info,rumqttd=off"),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}

/// Each robot takes a file descriptor, and shells hand out about a thousand though far more are allowed.
fn allow_many_files() {
    let allowed = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: allowed.maximum,
        ..allowed
    };
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    allow_many_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // Taken over before anything is opened, so that a signal never finds a file half-written.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("SIGTERM"),
                _ = interrupt.recv() => tracing::info!("SIGINT"),
            }
        };
        let environment = |name: &str| std::env::var_os(name);
        cli.run(&environment, shutdown).await
    })
}
