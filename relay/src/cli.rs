//! The command line of `brrbrr-relay`.

mod journal;
mod robot;

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::app;
use crate::catalog::sqlite::SqliteCatalog;
use crate::config::{self, Flags, Lookup};
use crate::data_dir::DataDir;
use crate::journal::sqlite::SqliteJournal;
use crate::live::memory::MemoryLive;
use crate::seed::Seed;

/// The relay between people and robots.
///
/// It takes what people ask for over HTTP, keeps it, and sends it to the robots' gateways over MQTT;
/// what the robots report comes back the same way. Everything is kept in one data folder.
#[derive(Debug, Parser)]
#[command(
    term_width = 100,
    name = "brrbrr-relay",
    version,
    after_help = "\
Examples:
  brrbrr-relay seed --data ./data --file building.json
  brrbrr-relay robot add guide-7 --floor 7 --data ./data --out guide-7.json
  brrbrr-relay serve --data ./data --http 127.0.0.1:8080 --mqtt 0.0.0.0:1883

Exit codes: 0 all is well, 1 it failed, 2 the command line or the configuration is wrong.
RUST_LOG sets what is logged to standard error, for example RUST_LOG=debug."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay until SIGTERM or SIGINT
    #[command(after_help = "\
Flags are over the environment, and the environment is over the file. Also read:
  BRRBRR_ADMIN_TOKEN_FILE  a file with the token that changes to places, events and robots need;
                           without one, nobody can make them over HTTP (key: admin_token_file)
  SOCKET_CLIENT_HOST       origins of web pages that may call the relay, with commas between them;
                           any by default (key: cors_origins)

Examples:
  brrbrr-relay serve --data ./data
  brrbrr-relay serve --config /etc/brrbrr/relay.toml --http 0.0.0.0:8080
  brrbrr-relay serve --data ./data --mqtt 0.0.0.0:8883 \\
      --mqtt-tls-cert chain.pem --mqtt-tls-key key.pem --mqtt-public-url mqtts://relay.example:8883")]
    Serve(Flags),
    /// Add, list, remove and enrol robots; works while the relay runs
    #[command(subcommand)]
    Robot(robot::Command),
    /// Enter the places, events and robots of a JSON file, all of them or none
    #[command(after_help = "\
What is there by the same name is updated, so the same file can be entered again. Robots get a
secret here, but no enrolment file: make one with `robot enrol`.

Example:
  brrbrr-relay seed --data ./data --file building.json")]
    Seed(SeedArgs),
    /// Print everything a robot has reported, as JSON lines, oldest first; works while the relay runs
    #[command(after_help = "\
Each line has the record's position (epoch, seq, and how many positions it covers), its kind, what
happened, when, and when the relay received it.

Example:
  brrbrr-relay records --data ./data --name guide-7 | tail -n 5")]
    Records(journal::RecordsArgs),
    /// Print what is missing in what a robot has reported, as JSON lines, newest first
    #[command(after_help = "\
Each line says which positions a hole covers, how many records are missing, why, and when they were
made. Samples that were merged to make room are listed too, with the reason \"thinned\".

Example:
  brrbrr-relay gaps --data ./data --name guide-7")]
    Gaps(journal::GapsArgs),
    /// Create the files of the data folder or bring their layout up to date
    #[command(after_help = "\
`serve` does the same as it starts. Run it by itself to see that an update will go well; nothing is
changed in a file that is damaged or that a newer relay has written.

Example:
  brrbrr-relay migrate --data ./data")]
    Migrate(DataArgs),
}

/// Where the relay's data is.
#[derive(Debug, Args)]
struct DataArgs {
    /// The relay's data folder [env: BRRBRR_DATA]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct SeedArgs {
    #[command(flatten)]
    data: DataArgs,
    /// The JSON file
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

impl Cli {
    /// Carries out the command.
    ///
    /// # Errors
    /// [`config::ConfigError`] where the configuration is wrong; everything else is a failure.
    pub async fn run(
        self,
        environment: Lookup<'_>,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> anyhow::Result<()> {
        match self.command {
            Command::Serve(flags) => serve(flags, environment, shutdown).await,
            Command::Robot(command) => command.run(environment).await,
            Command::Seed(args) => seed(args, environment).await,
            Command::Records(args) => journal::records(args, environment).await,
            Command::Gaps(args) => journal::gaps(args, environment).await,
            Command::Migrate(args) => migrate(args, environment),
        }
    }
}

async fn serve(
    flags: Flags,
    environment: Lookup<'_>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let config = config::load(flags, environment)?;
    if config.legacy_open && !config.http.ip().is_loopback() {
        tracing::warn!(
            http = %config.http,
            "legacy_open is set and HTTP is open to other machines: anybody there can change the catalog"
        );
    }
    app::run(config, shutdown).await
}

async fn seed(args: SeedArgs, environment: Lookup<'_>) -> anyhow::Result<()> {
    let data = config::data_dir(args.data.data, environment)?;
    let file = args.file.display();
    let json =
        std::fs::read_to_string(&args.file).with_context(|| format!("cannot read {file}"))?;
    let seed = Seed::read(&json).with_context(|| file.to_string())?;
    data.create()?;
    let catalog = open_catalog(&data)?;
    let done = catalog
        .seed(seed)
        .await
        .with_context(|| format!("{file}: nothing was entered"))?;
    say(&format!(
        "places: {}\nevents: {}\nrobots: {}\n",
        done.places, done.happenings, done.robots
    ))
}

fn migrate(args: DataArgs, environment: Lookup<'_>) -> anyhow::Result<()> {
    let data = config::data_dir(args.data, environment)?;
    data.create()?;
    drop(open_catalog(&data)?);
    drop(SqliteJournal::open(&data.journal())?);
    drop(MemoryLive::open(&data.live())?);
    say(&format!("{} is up to date\n", data.path().display()))
}

fn open_catalog(data: &DataDir) -> anyhow::Result<SqliteCatalog> {
    Ok(SqliteCatalog::open(&data.catalog())?)
}

/// Writes to standard output.
fn say(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("cannot write to standard output")
}

/// Writes a remark to standard error, where it is in nobody's way.
fn remark(text: &str) -> anyhow::Result<()> {
    writeln!(io::stderr(), "{text}").context("cannot write to standard error")
}
