//! The relay of a drill: started on a data folder of its own, killed, started again, and asked what
//! it has.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::DrillError;
use super::ages::Ages;
use super::judge::{Entry, Findings, Produced, Row, judge};
use super::producer::{self, payload};
use super::program::{Program, run};
use crate::local;

/// How long the relay may take to serve after its start.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How often it is looked at meanwhile.
const STEP: Duration = Duration::from_millis(20);
/// How long an answer over HTTP may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// A relay under drill.
#[derive(Debug)]
pub struct Relay {
    binary: PathBuf,
    data: PathBuf,
    program: Program,
    http: Option<SocketAddr>,
    mqtt: watch::Sender<SocketAddr>,
    ages: Ages,
}

/// Where a relay says it listens, in `relay.json`.
#[derive(Debug, Deserialize)]
struct Note {
    http: String,
    mqtt: String,
}

/// A line of `brrbrr-relay records`.
#[derive(Debug, Deserialize)]
struct Line {
    epoch: String,
    seq: u64,
    covers: u64,
    kind: String,
    event: Value,
}

impl Relay {
    /// Starts a relay with an empty data folder in `folder`.
    ///
    /// # Errors
    /// [`DrillError::NoRelay`] where there is no such program; else why it does not serve.
    pub async fn start(binary: &Path, folder: &Path) -> anyhow::Result<Self> {
        let data = folder.join("relay");
        let mut migrate = Command::new(binary);
        migrate.arg("migrate").arg("--data").arg(&data);
        run(&mut migrate).map_err(|error| match error.downcast_ref::<io::Error>() {
            Some(reason) if reason.kind() == io::ErrorKind::NotFound => {
                DrillError::NoRelay(binary.to_owned()).into()
            }
            Some(_) | None => error,
        })?;
        let mut relay = Self {
            binary: binary.to_owned(),
            data,
            program: Program::new(folder.join("relay.log")),
            http: None,
            // Replaced before anybody looks at it.
            mqtt: watch::channel(SocketAddr::from(([127, 0, 0, 1], 0))).0,
            ages: Ages::default(),
        };
        relay.start_again().await?;
        Ok(relay)
    }

    /// Starts it after [`Relay::kill`], on ports that the system chooses, and waits until it serves.
    ///
    /// # Errors
    /// Where it does not.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        let note = self.data.join("relay.json");
        // That of the life before must not be taken for this one's.
        std::fs::remove_file(&note).ok();
        let mut serve = Command::new(&self.binary);
        serve
            .args(["serve", "--http", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"])
            .arg("--data")
            .arg(&self.data)
            .env_remove("NOTIFY_SOCKET");
        self.program.start(&mut serve)?;
        let limit = Instant::now() + START_LIMIT;
        loop {
            self.expect_running()?;
            if let Some((http, mqtt)) = read_note(&note) {
                self.http = Some(http);
                if self.get("/readyz").await.is_some() {
                    self.mqtt.send_replace(mqtt);
                    return Ok(());
                }
            }
            ensure!(
                Instant::now() < limit,
                "the relay does not serve: {}",
                self.program.log_tail()
            );
            sleep(STEP).await;
        }
    }

    /// Ends it with SIGKILL.
    pub async fn kill(&mut self) {
        self.look().await;
        self.program.kill();
        self.ages.end_life();
        self.http = None;
    }

    /// Looks at what ends with the process: the kernel's counts and its metrics.
    pub async fn look(&mut self) {
        self.program.look();
        if let Some(metrics) = self.get("/metrics").await {
            self.ages.take(&metrics);
        }
    }

    /// Where its MQTT broker listens, now and later.
    #[must_use]
    pub fn mqtt(&self) -> watch::Receiver<SocketAddr> {
        self.mqtt.subscribe()
    }

    /// How old live statuses were.
    #[must_use]
    pub const fn ages(&self) -> &Ages {
        &self.ages
    }

    /// The program.
    #[must_use]
    pub const fn program(&self) -> &Program {
        &self.program
    }

    /// Makes sure that it has not ended by itself.
    ///
    /// # Errors
    /// Says what it said last.
    pub fn expect_running(&mut self) -> anyhow::Result<()> {
        let ended = self.program.ended()?;
        ensure!(
            ended.is_none(),
            "the relay ended by itself ({ended:?}): {}",
            self.program.log_tail()
        );
        Ok(())
    }

    /// Adds a robot that reaches the relay at this address, and writes its enrolment file.
    ///
    /// # Errors
    /// Where the relay's command fails.
    pub fn add_robot(&self, name: &str, link: SocketAddr, file: &Path) -> anyhow::Result<()> {
        let mut add = Command::new(&self.binary);
        add.args(["robot", "add", name, "--floor", "1", "--mqtt-url"])
            .arg(format!("mqtt://{link}"))
            .args([Path::new("--data"), &self.data, Path::new("--out"), file]);
        run(&mut add).map(drop)
    }

    /// A command that prints the journal of a robot.
    #[must_use]
    pub fn records(&self, name: &str) -> Command {
        let mut records = Command::new(&self.binary);
        records
            .args(["records", "--jsonl", "--name", name])
            .arg("--data")
            .arg(&self.data);
        records
    }

    async fn get(&self, path: &str) -> Option<String> {
        let address = self.http?;
        let asked = timeout(ANSWER_LIMIT, async {
            let stream = TcpStream::connect(address).await.ok()?;
            local::get(stream, path).await.ok()
        });
        let body = asked.await.ok()??;
        Some(String::from_utf8_lossy(&body).into_owned())
    }
}

fn read_note(path: &Path) -> Option<(SocketAddr, SocketAddr)> {
    let note: Note = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let http = note.http.strip_prefix("http://")?.parse().ok()?;
    let mqtt = note.mqtt.strip_prefix("mqtt://")?.parse().ok()?;
    Some((http, mqtt))
}

/// Judges a robot by what the command that [`Relay::records`] makes prints. Blocks until it ends.
///
/// # Errors
/// Where the journal cannot be read.
pub fn judge_records(
    mut records: Command,
    (seed, robot): (u64, u64),
    produced: Produced,
) -> anyhow::Result<Findings> {
    let mut child = records
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the relay's command")?;
    let output = child
        .stdout
        .take()
        .context("the relay's command says nothing")?;
    let mut failed = None;
    let lines = BufReader::new(output).lines().map_while(|line| {
        let row = line
            .map_err(anyhow::Error::from)
            .and_then(|line| row(&line, seed, robot).with_context(|| line.clone()));
        row.map_err(|error| failed = Some(error)).ok()
    });
    let findings = judge(produced, lines);
    let ended = child.wait()?;
    if let Some(error) = failed {
        return Err(error.context("the relay's journal cannot be read"));
    }
    ensure!(
        ended.success(),
        "the relay's journal cannot be read: {ended}"
    );
    Ok(findings)
}

fn row(line: &str, seed: u64, robot: u64) -> anyhow::Result<Row> {
    let Line {
        epoch,
        seq,
        covers,
        kind,
        event,
    } = serde_json::from_str(line)?;
    let count = event["count"].as_u64();
    let entry = match kind.as_str() {
        "custom" if event["kind"] == producer::KIND => {
            let data = &event["data"];
            let number = data["number"].as_u64();
            match number.filter(|number| *data == payload(seed, robot, *number)) {
                Some(number) => Entry::Produced(number),
                None => Entry::Altered,
            }
        }
        "tombstone" => {
            let reason = event["reason"].as_str().unwrap_or("none given");
            Entry::Gap(count, reason.to_owned())
        }
        "thinned" => Entry::Thinned(count.unwrap_or(covers)),
        _ => Entry::Other,
    };
    Ok(Row {
        epoch,
        seq,
        covers,
        entry,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(kind: &str, event: Value) -> Entry {
        let line = json!({"epoch": "a", "seq": 1, "covers": 2, "kind": kind, "event": event});
        row(&line.to_string(), 7, 1).unwrap().entry
    }

    #[test]
    fn a_record_counts_as_the_producer_s_only_as_it_was_sent() {
        let sent = payload(7, 1, 3);
        let custom = |data: &Value| entry("custom", json!({"kind": "drill", "data": data}));
        assert_eq!(custom(&sent), Entry::Produced(3));
        assert_eq!(custom(&payload(7, 2, 3)), Entry::Altered);
        let mut altered = sent;
        altered["text"] = json!("something else");
        assert_eq!(custom(&altered), Entry::Altered);
        let other = entry("custom", json!({"kind": "door", "data": {}}));
        assert_eq!(other, Entry::Other);
    }

    #[test]
    fn tombstones_give_their_count_and_reason() {
        let gap = |count: Value| entry("tombstone", json!({"count": count, "reason": "full"}));
        assert_eq!(gap(json!(9)), Entry::Gap(Some(9), "full".to_owned()));
        assert_eq!(gap(Value::Null), Entry::Gap(None, "full".to_owned()));
        let thinned = entry("thinned", json!({"count": 4}));
        assert_eq!(thinned, Entry::Thinned(4));
    }
}
