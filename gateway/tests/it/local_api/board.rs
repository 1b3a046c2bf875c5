//! A real daemon with a simulated robot and no relay, and a client of its local API.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use brrbrr_gateway::building::BuildingCache;
use brrbrr_gateway::local;
use brrbrr_proto::building::{Event, Itself, Place, Shared};
use brrbrr_proto::time::WallClock;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};

/// Far longer than anything takes here; only a failing test waits for so long.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Where a request goes.
#[derive(Debug, Clone)]
pub(super) enum To {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

impl Answer {
    pub(super) fn code(&self) -> (u16, &str) {
        let code = self.body["error"]["code"].as_str().unwrap_or_default();
        (self.status, code)
    }

    pub(super) fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_default()
    }

    pub(super) fn id(&self) -> String {
        self.body["id"].as_str().unwrap().to_owned()
    }
}

impl To {
    pub(super) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let answer = match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).await.unwrap();
                exchange(stream, method, path, headers, body).await
            }
            Self::Unix(path_of) => {
                let stream = UnixStream::connect(path_of).await.unwrap();
                exchange(stream, method, path, headers, body).await
            }
        };
        answer.unwrap()
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[("host", "localhost")], "").await
    }

    pub(super) async fn post(&self, body: Value) -> Answer {
        let headers = [("host", "localhost"), ("content-type", "application/json")];
        self.send("POST", "/api/v1/commands", &headers, &body.to_string())
            .await
    }

    /// Waits for the end of a command.
    pub(super) async fn end(&self, id: &str) -> Answer {
        let path = format!("/api/v1/commands/{id}/wait?timeout=30");
        let answer = self.get(&path).await;
        assert_eq!(answer.body["final"], true, "{}", answer.body);
        answer
    }
}

async fn exchange<S>(
    stream: S,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> hyper::Result<Answer>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = Full::new(Bytes::from(body.to_owned()));
    let response = sender.send_request(request.body(body).unwrap()).await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.into_body().collect().await?.to_bytes();
    Ok(Answer {
        status,
        headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    })
}

/// A board as it is found on a robot whose relay is gone.
pub(super) struct Board {
    folder: tempfile::TempDir,
}

impl Board {
    pub(super) fn new(local: &str, speed: f64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "[robot]\nadapter = \"sim\"\n\n[robot.sim]\nspeed = {speed:?}\n\n[local]\n{local}\n"
        );
        std::fs::write(folder.path().join("gateway.toml"), config).unwrap();
        let secret = "ab".repeat(32);
        let enrolment = format!(
            r#"{{"format":1,"robot":7,"name":"guide-7","floor":7,"secret":"{secret}","mqtt":"mqtt://127.0.0.1:1"}}"#
        );
        let file = folder.path().join("robot.enrol");
        std::fs::write(&file, enrolment).unwrap();
        let board = Self { folder };
        let out = Command::new(env!("CARGO_BIN_EXE_brrbrr-gateway"))
            .args(["enroll", "--file"])
            .arg(file)
            .arg("--data")
            .arg(board.data())
            .output()
            .unwrap();
        assert!(out.status.success(), "{out:?}");
        board
    }

    /// The robot's own software is away, and stays so.
    pub(super) fn lose_robot(&self) {
        let config = "[robot]\nadapter = \"amqp\"\n\n[robot.amqp]\nurl = \"amqp://127.0.0.1:1\"\n";
        std::fs::write(self.folder.path().join("gateway.toml"), config).unwrap();
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// What an earlier session with a relay has left.
    pub(super) async fn keep_building(&self) {
        let shared = Shared::new(&places(), &events()).unwrap();
        let robot = Itself {
            name: "guide-7".to_owned(),
            floor: 7,
            home: None,
        };
        let offer = shared.of(&robot).unwrap();
        let parts = (0..offer.parts()).flat_map(|part| offer.part(part).unwrap());
        let (cache, _) = BuildingCache::open(&self.data(), WallClock(0));
        let revision = offer.revision();
        cache
            .take(revision, parts.collect(), WallClock(0))
            .await
            .unwrap();
    }

    pub(super) async fn run(&self) -> Daemon {
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_brrbrr-gateway"))
            .arg("run")
            .arg("--config")
            .arg(self.folder.path().join("gateway.toml"))
            .arg("--data")
            .arg(self.data())
            .env_remove("NOTIFY_SOCKET")
            .env("RUST_LOG", "info")
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        let daemon = Daemon(child);
        let started = Instant::now();
        while UnixStream::connect(self.data().join(local::SOCKET))
            .await
            .is_err()
        {
            assert!(started.elapsed() < PATIENCE, "{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        daemon
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub(super) fn control(&self) -> To {
        To::Unix(self.data().join(local::SOCKET))
    }

    /// The TCP address that the daemon has got.
    pub(super) async fn tcp(&self) -> To {
        let started = Instant::now();
        loop {
            let log = self.log();
            let line = log
                .lines()
                .find(|line| line.contains("the local API listens"));
            let address = line.and_then(|line| line.split_once("address=")?.1.parse().ok());
            if let Some(address) = address {
                return To::Tcp(address);
            }
            assert!(started.elapsed() < PATIENCE, "{log}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(super) struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing is left behind when a test fails.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn place(id: i64, name: &str, floor: i32) -> Place {
    Place {
        id,
        name: name.to_owned(),
        aliases: Vec::new(),
        floor,
        x: 1.5,
        y: 0.5,
        description: None,
        thumburl: None,
        mapurl: Some("http://maps.example/7".to_owned()),
    }
}

fn places() -> Vec<Place> {
    vec![place(1, "카페", 7), place(2, "식당", 8), place(3, "A+B", 7)]
}

fn event(id: i64, name: &str, place: &str, floor: i32) -> Event {
    Event {
        id,
        name: name.to_owned(),
        description: Some("every day".to_owned()),
        starts: WallClock(1_590_984_625_000_000),
        ends: WallClock(1_590_988_225_000_000),
        place: place.to_owned(),
        floor,
        thumburl: None,
    }
}

fn events() -> Vec<Event> {
    vec![event(1, "전시", "카페", 7), event(2, "점심", "식당", 8)]
}
