//! Events that programs post on the control socket.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use brrbrr_gateway::board_commands;
use brrbrr_gateway::building::BuildingCache;
use brrbrr_gateway::clock::Clock;
use brrbrr_gateway::local::{self, POSTS_MAX, Posted, Services, Waiters};
use brrbrr_gateway::robot::RobotCounters;
use brrbrr_gateway::spool::{Appended, Entry, Limits, SOURCES_KEPT, SourceId, Spool, SpoolError};
use brrbrr_gateway::status::StatusBoard;
use brrbrr_proto::id::{Epoch, RobotId, Seq};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// Far longer than anything takes here; only a failing test waits for so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection that is kept.
struct Connection(SendRequest<Full<Bytes>>);

struct Answer {
    status: StatusCode,
    retry_after: Option<String>,
    body: Value,
}

impl Connection {
    async fn open(data: &Path) -> Self {
        Self::try_open(data).await.unwrap()
    }

    async fn try_open(data: &Path) -> Option<Self> {
        let stream = UnixStream::connect(data.join(local::SOCKET)).await.ok()?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .ok()?;
        tokio::spawn(connection);
        Some(Self(sender))
    }

    async fn post(&mut self, body: impl ToString) -> Answer {
        self.send("POST", "/events", "application/json", body.to_string())
            .await
    }

    async fn send(&mut self, method: &str, path: &str, kind: &str, body: String) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "gateway")
            .header("content-type", kind)
            .body(Full::from(body))
            .unwrap();
        let response = self.0.send_request(request).await.unwrap();
        let status = response.status();
        let retry_after = response.headers().get("retry-after");
        let retry_after = retry_after.map(|value| value.to_str().unwrap().to_owned());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Answer {
            status,
            retry_after,
            body: serde_json::from_slice(&body).unwrap_or_default(),
        }
    }
}

impl Answer {
    fn positions(&self) -> (u64, u64) {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        let number = |name: &str| self.body[name].as_u64().unwrap();
        (number("first"), number("next"))
    }

    fn complaint(&self) -> (u16, &str) {
        let message = self.body["error"]["message"].as_str();
        (self.status.as_u16(), message.unwrap_or_default())
    }
}

/// A gateway as a process, with a simulated robot and a relay that does not answer.
struct Gateway {
    folder: tempfile::TempDir,
    child: Child,
}

impl Gateway {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("gateway.toml");
        std::fs::write(&config, "[robot]\nadapter = \"sim\"\n").unwrap();
        let secret = "ab".repeat(32);
        let enrolment = format!(
            r#"{{"format":1,"robot":7,"name":"guide-7","floor":7,"secret":"{secret}","mqtt":"mqtt://127.0.0.1:1"}}"#
        );
        let file = folder.path().join("robot.enrol");
        std::fs::write(&file, enrolment).unwrap();
        let enrolled = program()
            .args([Path::new("enroll"), Path::new("--file"), &file])
            .args([Path::new("--data"), &folder.path().join("data")])
            .status()
            .unwrap();
        assert!(enrolled.success());
        let child = spawn(folder.path());
        let gateway = Self { folder, child };
        gateway.await_socket().await;
        gateway
    }

    async fn kill_and_start_again(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.folder.path());
        self.await_socket().await;
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    async fn await_socket(&self) {
        let started = Instant::now();
        while Connection::try_open(&self.data()).await.is_none() {
            assert!(started.elapsed() < PATIENCE, "the gateway does not listen");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brrbrr-gateway"));
    command
        .env_remove("NOTIFY_SOCKET")
        .env("RUST_LOG", "warn")
        .stdin(Stdio::null());
    command
}

fn spawn(folder: &Path) -> Child {
    program()
        .args([
            Path::new("run"),
            Path::new("--config"),
            &folder.join("gateway.toml"),
        ])
        .args([Path::new("--data"), &folder.join("data")])
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn posted_events_outlive_a_kill_and_their_repeats_change_nothing() {
    let mut gateway = Gateway::start().await;
    let mut connection = Connection::open(&gateway.data()).await;
    let door = json!({"kind": "door", "data": {"open": true}, "id": "door-1"});
    let lift = json!({"kind": "lift", "data": 7, "id": "lift-1"});
    let bell = json!({"kind": "bell", "data": null});
    let answer = connection.post(&door).await;
    let epoch = answer.body["epoch"].clone();
    let (first, next) = answer.positions();
    assert_eq!(next, first + 1);
    // The one that is known already is left out, the others stand next to each other.
    let (first, next) = connection.post(json!([lift, door, bell])).await.positions();
    assert_eq!(next, first + 2);

    gateway.kill_and_start_again().await;
    let mut connection = Connection::open(&gateway.data()).await;
    for again in [json!(door), json!([lift, door])] {
        let answer = connection.post(&again).await;
        let (first, after) = answer.positions();
        assert_eq!(
            (first, answer.body["epoch"].clone()),
            (after, epoch.clone())
        );
        assert!(after >= next, "{after} is before {next}");
    }
    // Without an id it is another one.
    let (first, next) = connection.post(&bell).await.positions();
    assert_eq!(next, first + 1);
}

#[tokio::test]
async fn posts_of_one_connection_keep_their_order() {
    let gateway = Gateway::start().await;
    let mut connection = Connection::open(&gateway.data()).await;
    let mut last = 0;
    for number in 0..500 {
        let event = json!({"kind": "count", "data": number});
        let (first, next) = connection.post(event).await.positions();
        assert!(first >= last && next == first + 1);
        last = next;
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_post_is_named() {
    let gateway = Gateway::start().await;
    let data = gateway.data();
    let long = "x".repeat(70_000);
    let many = vec![json!({"kind": "k", "data": 0}); 1001];
    let deep = "[".repeat(200) + &"]".repeat(200);
    for (body, status, told) in [
        ("{\"kind\": \"k\"}".to_owned(), 400, "missing field `data`"),
        (
            "{\"kind\": 1, \"data\": 0}".to_owned(),
            400,
            "line 1 column",
        ),
        (
            json!({"kind": "k", "data": 0, "colour": 1}).to_string(),
            400,
            "`colour`",
        ),
        (json!({"kind": "", "data": 0}).to_string(), 400, "\"kind\""),
        (
            json!([{"kind": "k", "data": 0}, {"kind": "k", "data": 0, "id": ""}]).to_string(),
            400,
            "event 2: \"id\"",
        ),
        (
            json!({"kind": "k", "data": 0, "id": long}).to_string(),
            400,
            "\"id\" has 70000 bytes",
        ),
        ("[]".to_owned(), 400, "empty"),
        ("nonsense".to_owned(), 400, "not an event"),
        (
            format!("{{\"kind\": \"k\", \"data\": {deep}}}"),
            400,
            "\"data\"",
        ),
        (
            "{\"kind\": \"k\", \"data\": \"\\ud800\"}".to_owned(),
            400,
            "\"data\"",
        ),
        (
            json!({"kind": "k", "data": long}).to_string(),
            413,
            "the limit is 65536",
        ),
        (json!(many).to_string(), 413, "1001 events"),
        (" ".repeat(1024 * 1024 + 1), 413, "send fewer"),
    ] {
        let answer = Connection::open(&data).await.post(&body).await;
        let (said, message) = answer.complaint();
        let shown: String = body.chars().take(60).collect();
        assert_eq!(said, status, "{shown}: {message}");
        assert!(message.contains(told), "{shown}: {message}");
    }
    let mut connection = Connection::open(&data).await;
    let event = json!({"kind": "k", "data": 0}).to_string();
    for (method, path, kind, status) in [
        ("POST", "/events", "text/plain", 415),
        ("GET", "/events", "application/json", 405),
        ("POST", "/status", "application/json", 405),
        ("POST", "/event", "application/json", 404),
        ("POST", "/events", "Application/JSON; charset=utf-8", 200),
    ] {
        let answer = connection.send(method, path, kind, event.clone()).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path} {kind}");
    }
}

#[tokio::test]
async fn names_of_programs_do_not_push_out_the_names_of_the_robot_s_messages() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::of_this_boot().unwrap();
    let (spool, _) = Spool::open(
        &folder.path().join("spool.db"),
        Limits::default(),
        clock.wall(),
    )
    .unwrap();
    let of_robot = SourceId("message-1".to_owned());
    let entry = |source| Entry {
        source: Some(source),
        ..Entry::default()
    };
    spool.write(entry(of_robot.clone())).await.unwrap();
    let kept = u64::from(SOURCES_KEPT);
    let of_program = |number: u64| SourceId::of_program(&format!("event-{number}"));
    let entries = (0..=kept).map(|number| entry(of_program(number)));
    spool.write_all(entries.collect()).await.unwrap();
    assert!(spool.knows(of_robot.clone()).await.unwrap());
    // The oldest of their own is forgotten.
    assert!(!spool.knows(of_program(0)).await.unwrap());
    assert!(spool.knows(of_program(1)).await.unwrap());
    // And the other way round.
    let entries = (2..=kept + 1).map(|number| entry(SourceId(format!("message-{number}"))));
    spool.write_all(entries.collect()).await.unwrap();
    assert!(!spool.knows(of_robot).await.unwrap());
    assert!(spool.knows(of_program(kept)).await.unwrap());
    spool.close().await.unwrap();
}

/// A control socket whose posts the test takes in place of the event loop.
async fn socket() -> (tempfile::TempDir, mpsc::Receiver<Posted>) {
    let folder = tempfile::tempdir().unwrap();
    let listener = local::bind(folder.path()).await.unwrap();
    let robot = RobotId::new(7).unwrap();
    let stands = (Epoch(1), Seq::FIRST, Seq::FIRST);
    let board = StatusBoard::new(robot, "guide-7", stands, Arc::new(RobotCounters::default()));
    let (posting, posts) = mpsc::channel(POSTS_MAX);
    let clock = Clock::of_this_boot().unwrap();
    let path = folder.path().join("spool.db");
    let (spool, _) = Spool::open(&path, Limits::default(), clock.wall()).unwrap();
    let services = Services {
        robot,
        enrolled: ("guide-7".to_owned(), 7),
        board,
        posts: posting,
        commands: board_commands::channel(spool).0,
        building: BuildingCache::open(folder.path(), clock.wall()).0,
        clock,
        waiters: Waiters::default(),
    };
    tokio::spawn(local::serve(listener, None, services));
    (folder, posts)
}

#[tokio::test]
async fn a_program_is_told_why_the_spool_refuses_and_when_to_try_again() {
    let (folder, mut posts) = socket().await;
    let mut connection = Connection::open(folder.path()).await;
    tokio::spawn(async move {
        let full = SpoolError::DiskFull("/data/spool.db".into());
        posts.recv().await.unwrap().reply.send(Err(full)).unwrap();
        let appended = Appended {
            epoch: Epoch(9),
            first: Seq(3),
            next: Seq(4),
        };
        let posted = posts.recv().await.unwrap();
        posted.reply.send(Ok(appended)).unwrap();
        // And then the gateway stops.
        drop(posts.recv().await.unwrap());
    });
    let event = json!({"kind": "k", "data": {"a": 1.50}, "id": "one"});
    let refused = connection.post(&event).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.complaint().1.contains("the disk is full"));
    assert!(refused.retry_after.is_some());
    let taken = connection.post(&event).await;
    assert_eq!(taken.positions(), (3, 4));
    let stopping = connection.post(&event).await;
    assert_eq!(stopping.complaint(), (503, "the gateway is stopping"));
}

#[tokio::test]
async fn data_is_carried_as_it_was_written_and_the_answer_waits_for_the_spool() {
    let (folder, mut posts) = socket().await;
    let mut connection = Connection::open(folder.path()).await;
    let body = r#"{"id":"n","data":{"big": 123456789012345678901234567890, "b":1.50},"kind":"k"}"#;
    let answer = tokio::spawn(async move { connection.post(body).await.positions() });
    let posted = posts.recv().await.unwrap();
    let (source, custom) = &posted.events[0];
    assert_eq!(custom.kind, "k");
    assert_eq!(
        custom.json,
        r#"{"big": 123456789012345678901234567890, "b":1.50}"#
    );
    // No name that comes over AMQP holds a zero byte.
    assert!(source.as_ref().unwrap().0.starts_with('\0'));
    assert!(!answer.is_finished());
    let (first, next) = (Seq(1), Seq(2));
    let epoch = Epoch(1);
    let appended = Appended { epoch, first, next };
    posted.reply.send(Ok(appended)).unwrap();
    assert_eq!(answer.await.unwrap(), (1, 2));
}

#[tokio::test]
async fn one_connection_too_many_is_turned_away_and_a_freed_place_is_used_again() {
    let (folder, _posts) = socket().await;
    let mut kept = Vec::new();
    for _ in 0..POSTS_MAX {
        let mut connection = Connection::open(folder.path()).await;
        let answer = connection
            .send("GET", "/healthz", "text/plain", String::new())
            .await;
        assert_eq!(answer.status, StatusCode::OK);
        kept.push(connection);
    }
    let mut turned_away = Connection::open(folder.path()).await;
    let request = Request::get("/healthz").body(Full::default()).unwrap();
    // It is told so, unless it was still asking when the connection ended.
    if let Ok(answer) = turned_away.0.send_request(request).await {
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    kept.pop();
    let started = Instant::now();
    loop {
        let mut connection = Connection::open(folder.path()).await;
        let request = Request::get("/healthz").body(Full::default()).unwrap();
        let answer = connection.0.send_request(request).await;
        if answer.is_ok_and(|answer| answer.status() == StatusCode::OK) {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "no place became free");
    }
}
