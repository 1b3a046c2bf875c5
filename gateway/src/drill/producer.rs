//! A robot's producer: posts numbered events on its gateway's control socket, keeps a log of what
//! was acknowledged to it, and posts again whatever was not answered.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::judge::Produced;
use super::random::Random;
use crate::local::SOCKET;

/// The kind of a drill's events.
pub const KIND: &str = "drill";
/// How many events go in one post when several are due.
const TOGETHER: u64 = 50;
/// How long to wait before an event is posted again.
const AGAIN: Duration = Duration::from_millis(50);
/// How long an answer may take before the connection is given up.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What a producer is to do.
#[derive(Debug, Clone)]
pub struct Task {
    /// Which robot, from 1 on.
    pub robot: u64,
    /// The drill's seed.
    pub seed: u64,
    /// How many events.
    pub events: u64,
    /// How long after the one before each is due; nothing: as fast as they go.
    pub interval: Duration,
    /// The gateway's data folder.
    pub data: PathBuf,
    /// Where the log of what was acknowledged goes.
    pub log: PathBuf,
}

/// How far a producer is, for others to see.
#[derive(Debug, Default)]
pub struct Progress {
    acknowledged: AtomicU64,
    sent: AtomicU64,
}

impl Progress {
    /// What it knows now.
    #[must_use]
    pub fn produced(&self) -> Produced {
        let acknowledged = self.acknowledged.load(Ordering::Acquire);
        let sent = self.sent.load(Ordering::Acquire);
        Produced { acknowledged, sent }
    }
}

/// What an event says, so that the judge can tell whether it arrived as it was sent.
#[must_use]
pub fn payload(seed: u64, robot: u64, number: u64) -> Value {
    let mut random = Random::new(seed, robot << 32 ^ number);
    let text = format!("{:016x}{:016x}", random.next(), random.next());
    json!({"robot": robot, "number": number, "text": text})
}

/// Posts all events, however often the gateway goes away meanwhile.
///
/// # Errors
/// Where an event is refused for good or the log cannot be written.
pub async fn run(task: Task, progress: Arc<Progress>) -> anyhow::Result<()> {
    let mut log =
        File::create(&task.log).with_context(|| format!("cannot write {}", task.log.display()))?;
    let start = Instant::now();
    let mut connection = None;
    let mut first = 1;
    while first <= task.events {
        let due = start
            + task
                .interval
                .saturating_mul(u32::try_from(first).unwrap_or(u32::MAX));
        sleep_until(due).await;
        let until = task.due(start.elapsed()).clamp(first, first + TOGETHER - 1);
        let body = task.body(first, until).to_string();
        progress.sent.store(until, Ordering::Release);
        // The same events with the same names, until somebody says that they are kept.
        while !post(&mut connection, &task.data, &body).await? {
            sleep(AGAIN).await;
        }
        for number in first..=until {
            let payload = payload(task.seed, task.robot, number);
            writeln!(log, "{payload}").with_context(|| format!("{}", task.log.display()))?;
        }
        progress.acknowledged.store(until, Ordering::Release);
        first = until + 1;
    }
    Ok(())
}

impl Task {
    /// How many events are due after this time.
    fn due(&self, elapsed: Duration) -> u64 {
        let due = elapsed.as_nanos().checked_div(self.interval.as_nanos());
        let due = due.and_then(|due| u64::try_from(due).ok());
        due.unwrap_or(u64::MAX).min(self.events)
    }

    fn body(&self, first: u64, until: u64) -> Value {
        let events = (first..=until).map(|number| {
            json!({
                "kind": KIND,
                "id": format!("{KIND}-{number}"),
                "data": payload(self.seed, self.robot, number),
            })
        });
        Value::Array(events.collect())
    }
}

type Connection = SendRequest<Full<Bytes>>;

/// Says whether the events are kept. `false`: nobody knows, or not now.
async fn post(
    connection: &mut Option<Connection>,
    data: &Path,
    body: &str,
) -> anyhow::Result<bool> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => match connect(data).await {
            Some(open) => open,
            None => return Ok(false),
        },
    };
    let request = Request::post("/events")
        .header(HOST, "gateway")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::from(body.to_owned()))?;
    let exchange = async {
        let response = open.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        Ok::<_, hyper::Error>((status, body))
    };
    let Ok(Ok((status, answer))) = timeout(ANSWER_LIMIT, exchange).await else {
        return Ok(false);
    };
    *connection = Some(open);
    match status {
        StatusCode::OK => Ok(true),
        StatusCode::SERVICE_UNAVAILABLE => Ok(false),
        other => {
            let answer = String::from_utf8_lossy(&answer);
            anyhow::bail!("the gateway answered an event with {other}: {answer}")
        }
    }
}

async fn connect(data: &Path) -> Option<Connection> {
    let stream = UnixStream::connect(data.join(SOCKET)).await.ok()?;
    let io = TokioIo::new(stream);
    let (open, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
    // It ends with the connection, which ends when `open` is dropped.
    tokio::spawn(connection);
    Some(open)
}
