//! Whether robots are in contact and how old what they said is, over HTTP: a real relay, which is cut
//! off, killed and started again, and a robot that speaks the real link over MQTT.

mod robot;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use brrbrr_proto::id::RobotId;
use brrbrr_proto::live::{Activity, RobotSide, Status};
use brrbrr_proto::seal::Secret;
use brrbrr_relay::catalog::Catalog;
use brrbrr_relay::catalog::sqlite::SqliteCatalog;
use brrbrr_relay::data_dir::DataDir;
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::http_server::{Server, open_settings};
use robot::Robot;

/// Whatever is waited for has come by then, or never comes. Longer than a silent robot is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
const ANY_PORT: &str = "127.0.0.1:0";

/// A relay's process, killed when it is dropped.
struct Relay {
    process: Child,
    http: SocketAddr,
    mqtt: SocketAddr,
}

impl Relay {
    async fn start(data: &DataDir, mqtt: &str) -> Self {
        let folder = data.path().to_str().unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_brrbrr-relay"))
            .env_clear()
            .env("RUST_LOG", "warn")
            .args(["serve", "--data", folder, "--legacy-open"])
            .args(["--http", ANY_PORT, "--mqtt", mqtt])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        let (http, mqtt) = loop {
            assert!(began.elapsed() < PATIENCE, "the relay does not start");
            sleep(Duration::from_millis(10)).await;
            let Ok(Some(listening)) = data.listening() else {
                continue;
            };
            let http: SocketAddr = listening.http["http://".len()..].parse().unwrap();
            let mqtt: SocketAddr = listening.mqtt["mqtt://".len()..].parse().unwrap();
            if TcpStream::connect(http).await.is_ok() {
                break (http, mqtt);
            }
        };
        Self {
            process,
            http,
            mqtt,
        }
    }

    async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.http).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: relay\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        body.to_owned()
    }

    async fn status(&self, robot: RobotId) -> Value {
        let body = self.get(&format!("/api/v1/robots/{robot}/status")).await;
        serde_json::from_str(&body).unwrap()
    }

    /// The robot's status as soon as its contact is this and `also` holds.
    async fn until(&self, robot: RobotId, state: &str, also: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let status = self.status(robot).await;
            if status["presence"]["state"] == state && also(&status) {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "not {state}: {status:#}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The value of a metric with these labels.
    async fn metric(&self, name: &str) -> Option<u64> {
        let page = self.get("/metrics").await;
        let line = page.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse().ok()
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

async fn enrol(data: &DataDir) -> (RobotId, Secret) {
    data.create().unwrap();
    let catalog = SqliteCatalog::open(&data.catalog()).unwrap();
    let secret = Secret::new([7; 32]);
    let robot = catalog.add_robot("길동", 7, None, &secret).await.unwrap();
    (robot.id, secret)
}

fn charged(battery: f64) -> Status {
    Status {
        activity: Some(Activity::Idle),
        battery: Some(battery),
        robot_side: Some(RobotSide::Up),
        ..Status::default()
    }
}

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

fn anything(_: &Value) -> bool {
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_robot_that_is_cut_off_is_offline_with_what_it_said_last_and_stale() {
    let folder = TempDir::new().unwrap();
    let data = DataDir::new(folder.path());
    let (id, secret) = enrol(&data).await;
    let relay = Relay::start(&data, ANY_PORT).await;
    let never = relay.status(id).await;
    let expected = json!({
        "robot": { "id": 1, "name": "길동", "floor": 7 },
        "presence": { "state": "offline", "since": null, "lastContact": null, "reason": null },
        "status": { "activity": null, "pose": null, "floor": null, "battery": null,
            "speed": null, "robotSide": null },
        "guidance": { "status": "대기", "destination": null, "command": null },
        "command": null,
        "spool": null,
    });
    assert_eq!(never, expected);

    let robot = Robot::start(id, &secret, relay.mqtt);
    robot.say(charged(0.33));
    let is_said = |status: &Value| status["status"]["battery"]["value"] == 0.33;
    let online = relay.until(id, "online", is_said).await;
    assert_eq!(online["status"]["battery"]["stale"], false);
    assert!(online["status"]["battery"]["ageSeconds"].as_f64().unwrap() < 60.0);
    assert_eq!(online["status"]["activity"]["value"], "idle");
    assert_eq!(online["status"]["robotSide"]["value"], "up");
    assert_eq!(online["presence"]["reason"], Value::Null);

    let cut_at = Timestamp::now();
    robot.cut();
    let offline = relay.until(id, "offline", anything).await;
    assert_eq!(offline["presence"]["reason"], "connection_lost");
    assert!(time(&offline["presence"]["since"]) >= cut_at);
    assert!(time(&offline["presence"]["lastContact"]) <= time(&offline["presence"]["since"]));
    let battery = &offline["status"]["battery"];
    assert_eq!(
        (&battery["value"], &battery["stale"]),
        (&json!(0.33), &json!(true))
    );
    assert_eq!(battery["at"], online["status"]["battery"]["at"]);
    for field in ["activity", "robotSide"] {
        assert_eq!(offline["status"][field]["stale"], true, "{field}");
    }
    for (contact, count) in [("online", 0), ("offline", 1)] {
        let name = format!("brrbrr_robots{{contact=\"{contact}\"}}");
        assert_eq!(relay.metric(&name).await, Some(count), "{contact}");
    }
    let lost = "brrbrr_contact_changes_total{contact=\"offline\"}";
    assert_eq!(relay.metric(lost).await, Some(1));

    // Another relay on the same data says the same.
    let address = relay.mqtt.to_string();
    relay.kill();
    let relay = Relay::start(&data, &address).await;
    let after = relay.status(id).await;
    assert_eq!(after["presence"], offline["presence"]);
    assert_eq!(after["status"]["battery"]["at"], battery["at"]);
    assert_eq!(after["status"]["battery"]["stale"], true);

    robot.come_back();
    let back = relay.until(id, "online", anything).await;
    assert!(time(&back["presence"]["since"]) > time(&offline["presence"]["since"]));
    // It says nothing new, but the session shows what it knows, no fresher than it is.
    let same = |status: &Value| status["status"]["battery"]["stale"] == false;
    let back = relay.until(id, "online", same).await;
    let said = time(&back["status"]["battery"]["at"]);
    assert!(said < cut_at, "{back:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_blinks_is_no_absence() {
    let folder = TempDir::new().unwrap();
    let data = DataDir::new(folder.path());
    let (id, secret) = enrol(&data).await;
    let relay = Relay::start(&data, ANY_PORT).await;
    let robot = Robot::start(id, &secret, relay.mqtt);
    robot.say(charged(0.33));
    let before = relay.until(id, "online", anything).await;
    for battery in [0.32, 0.31, 0.3] {
        robot.blink();
        robot.say(charged(battery));
        let is_said = |status: &Value| status["status"]["battery"]["value"] == battery;
        let after = relay.until(id, "online", is_said).await;
        assert_eq!(after["presence"]["since"], before["presence"]["since"]);
    }
    let lost = "brrbrr_contact_changes_total{contact=\"offline\"}";
    assert_eq!(relay.metric(lost).await, None, "it never was offline");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_robot_whose_own_side_is_down_is_degraded_until_it_is_up() {
    let folder = TempDir::new().unwrap();
    let data = DataDir::new(folder.path());
    let (id, secret) = enrol(&data).await;
    let relay = Relay::start(&data, ANY_PORT).await;
    let robot = Robot::start(id, &secret, relay.mqtt);
    robot.say(charged(0.33));
    relay.until(id, "online", anything).await;
    let down = Status {
        robot_side: Some(RobotSide::Down),
        ..Status::default()
    };
    robot.say(down);
    let degraded = relay.until(id, "degraded", anything).await;
    assert_eq!(degraded["presence"]["reason"], "robot_side_down");
    assert_eq!(degraded["status"]["battery"]["value"], 0.33);
    robot.cut();
    relay.until(id, "offline", anything).await;
    robot.come_back();
    relay.until(id, "degraded", anything).await;
    robot.say(charged(0.5));
    relay.until(id, "online", anything).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_the_relay_robots_come_back_and_the_others_are_offline_since_then() {
    let folder = TempDir::new().unwrap();
    let data = DataDir::new(folder.path());
    let (id, secret) = enrol(&data).await;
    let relay = Relay::start(&data, ANY_PORT).await;
    let address = relay.mqtt.to_string();
    let robot = Robot::start(id, &secret, relay.mqtt);
    robot.say(charged(0.33));
    let online = relay.until(id, "online", anything).await;
    robot.hold();
    let killed_at = Timestamp::now();
    relay.kill();

    let relay = Relay::start(&data, &address).await;
    let offline = relay.status(id).await;
    let presence = &offline["presence"];
    assert_eq!(presence["state"], "offline");
    assert_eq!(presence["reason"], "relay_restarted");
    let since = time(&presence["since"]);
    assert!(since <= killed_at && since >= time(&online["presence"]["since"]));
    assert_eq!(presence["since"], presence["lastContact"]);

    robot.come_back();
    let is_said = |status: &Value| status["status"]["battery"]["value"] == 0.33;
    let back = relay.until(id, "online", is_said).await;
    assert!(time(&back["presence"]["since"]) >= killed_at);
    assert!(time(&back["status"]["battery"]["at"]) < time(&back["presence"]["since"]));
}

#[tokio::test]
async fn a_robots_status_is_shown_to_admins_and_to_its_own_guest_only() {
    let server = Server::start().await;
    let codes = [1, 2].map(|number| RobotId::new(number).unwrap());
    let codes = [server.code(codes[0]).await, server.code(codes[1]).await];
    let server = server.restart(Default::default()).await;
    let path = "/api/v1/robots/1/status";
    assert_eq!(server.get(path).await.status, 401);
    assert_eq!(server.get_with(path, &codes[0]).await.status, 200);
    assert_eq!(server.get_with(path, &codes[1]).await.status, 401);
    let all = "/api/v1/robots/status";
    assert_eq!(server.get(all).await.status, 401);
    assert_eq!(server.get_with(all, &codes[0]).await.status, 401);
    let server = server.restart(open_settings()).await;
    assert_eq!(server.get("/api/v1/robots/99/status").await.status, 404);
}

#[tokio::test]
async fn all_robots_are_shown_in_pages() {
    let server = Server::start().await;
    let all = server.get("/api/v1/robots/status").await.json();
    let ids = |page: &Value| {
        let robots = page["robots"].as_array().unwrap();
        let id = |robot: &Value| robot["robot"]["id"].as_u64().unwrap();
        robots.iter().map(id).collect::<Vec<_>>()
    };
    assert_eq!(ids(&all), [1, 2]);
    assert_eq!(all["next"], Value::Null);
    let first = server.get("/api/v1/robots/status?limit=1").await.json();
    assert_eq!((ids(&first), &first["next"]), (vec![1], &json!(1)));
    let path = "/api/v1/robots/status?limit=1&after=1";
    let second = server.get(path).await.json();
    assert_eq!((ids(&second), &second["next"]), (vec![2], &Value::Null));
    for wrong in ["limit=0", "limit=1001", "after=x"] {
        let path = format!("/api/v1/robots/status?{wrong}");
        assert_eq!(server.get(&path).await.status, 400, "{wrong}");
    }
}
