//! What operators ask about a robot's history, over HTTP.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use brrbrr_proto::id::{BootId, CommandId, Epoch, Seq, SessionId};
use brrbrr_proto::link::relay::BoardClock;
use brrbrr_proto::live::{Activity, Pose, RobotSide, Status};
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use brrbrr_proto::up::{
    Alarm, Arrived, CommandUpdate, Custom, Disk, Event, Item, Loss, Progress, Record, Report,
    Severity, Span, Thinned, Tombstone,
};
use brrbrr_relay::http::Settings;
use brrbrr_relay::journal::{Entry, Run};
use brrbrr_relay::live::Spool;
use jiff::Timestamp;

use crate::http_server::{Server, open_settings, robot};

/// When the board booted, in seconds since 1970.
const BOOT: i64 = 1_790_000_000;

/// A moment of the boot that had a session. The calendar was set after 20 s.
fn stamp(second: u64) -> Stamp {
    let wall = if second < 20 { 0 } else { BOOT * 1_000_000 };
    Stamp {
        boot: BootId(2),
        uptime: Uptime::new(Duration::from_secs(second)),
        wall: WallClock(wall + second.cast_signed() * 1_000_000),
    }
}

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(BOOT + second).unwrap()
}

fn status() -> Status {
    Status {
        activity: Some(Activity::Moving),
        pose: Some(Pose {
            x: 1.5,
            y: -2.0,
            theta: None,
        }),
        floor: Some(7),
        battery: Some(0.5),
        speed: Some(0.25),
        robot_side: Some(RobotSide::Up),
    }
}

fn shed(count: u64, loss: Loss, span: Option<(u64, u64)>) -> Event {
    Event::Tombstone(Tombstone {
        count,
        loss,
        since: span.map(|(since, _)| stamp(since)),
        until: span.map(|(_, until)| stamp(until)),
    })
}

/// One record of every kind.
fn events() -> Vec<(Stamp, Event)> {
    let offline = Stamp {
        boot: BootId(1),
        uptime: Uptime::new(Duration::from_secs(5)),
        wall: WallClock(5_000_000),
    };
    let claimed = Stamp {
        wall: WallClock((BOOT - 300) * 1_000_000),
        ..offline
    };
    let update = CommandUpdate {
        command: CommandId(0xc),
        progress: Progress::Succeeded,
        detail: "there".to_owned(),
    };
    let alarm = Alarm {
        code: "battery_low".to_owned(),
        severity: Severity::Warning,
        text: "14 %".to_owned(),
    };
    let thinned = Thinned {
        count: 10,
        since: stamp(40),
        battery: Some(Span {
            low: 0.4,
            high: 0.5,
        }),
        speed: None,
        last: status(),
    };
    let custom = |json: &str| {
        Event::Custom(Custom {
            kind: "lift".to_owned(),
            json: json.to_owned(),
        })
    };
    vec![
        (offline, Event::Changed(status())),
        (claimed, custom(r#"{"floor":3}"#)),
        (stamp(10), Event::Telemetry(Status::default())),
        (
            stamp(25),
            Event::Arrived(Arrived {
                command: Some(CommandId(0xc)),
                pose: status().pose,
            }),
        ),
        (stamp(25), Event::Command(update)),
        (stamp(90), shed(3, Loss::SpoolFull, Some((30, 35)))),
        (stamp(50), Event::Thinned(thinned)),
        (stamp(60), Event::Alarm(alarm)),
        (stamp(90), shed(0, Loss::SpoolCorrupt, None)),
        (stamp(70), custom("no JSON")),
    ]
}

async fn fill(server: &Server) {
    let item = |(stamp, event)| {
        let record = Record { stamp, event };
        let covers = match record.covers() {
            // As a spool that was salvaged.
            1 if matches!(&record.event, Event::Tombstone(_)) => 1 << 32,
            covers => covers,
        };
        let record = record.encode().unwrap();
        Item { covers, record }
    };
    let run = Run {
        robot: robot(1),
        epoch: Epoch(0xe),
        first: Seq::FIRST,
        entries: events().into_iter().map(item).map(Entry::read).collect(),
        received: time(100),
        clock: BoardClock {
            boot: BootId(2),
            earliest: BOOT * 1_000_000 - 250_000,
            latest: BOOT * 1_000_000 + 250_000,
        },
    };
    let journal = &server.services.journal;
    journal.store(Arc::new(run)).await.unwrap();
}

/// Two records wait on the robot.
async fn report(server: &Server) {
    let due = server.services.journal.due(robot(1), Epoch(0xe));
    let report = Report {
        session: SessionId(1),
        sent: stamp(120).uptime,
        next: due.await.unwrap().plus(2),
        oldest: Some(stamp(110)),
        disk: Disk::Short,
        since: stamp(90).uptime,
        detail: "32 MiB of 32 MiB".to_owned(),
    };
    let spool = Spool {
        epoch: Epoch(0xe),
        report,
        at: time(120),
    };
    let live = &server.services.live;
    live.hear_spool(robot(1), spool).await.unwrap();
}

#[tokio::test]
async fn operators_read_records_gaps_and_completeness() {
    let server = Server::start().await;
    fill(&server).await;
    let mut text = String::new();
    let mut ask = async |path: &str| {
        let reply = server.get(&format!("/api/v1/robots/1/{path}")).await;
        let body = serde_json::to_string_pretty(&reply.json()).unwrap();
        writeln!(text, "# GET {path}\n{} {body}\n", reply.status).unwrap();
    };
    ask("completeness").await;
    report(&server).await;
    ask("records").await;
    ask("records?kind=custom&limit=1").await;
    ask("records?kind=custom&limit=1&after=000000000000000e.2").await;
    ask("records?from=2026-09-21T14:14:19Z&to=2026-09-21T23:14:22%2B09:00").await;
    ask("gaps").await;
    ask("gaps?limit=1").await;
    ask("gaps?from=2026-09-21T14:13:55Z&to=2026-09-21T14:14:00Z").await;
    ask("completeness").await;
    ask("completeness?to=2026-09-21T14:13:50Z").await;
    ask("completeness?from=2026-09-21T14:14:16Z&to=2026-09-21T14:15:15Z").await;
    ask("completeness?from=2026-09-21T14:14:30Z&to=2026-09-21T15:00:00Z").await;
    insta::assert_snapshot!("history", text);
}

#[tokio::test]
async fn only_operators_may_ask_and_what_is_wrong_with_a_question_is_named() {
    let server = Server::start_empty(Settings::default()).await;
    for path in ["gaps", "completeness", "records"] {
        let path = format!("/api/v1/robots/1/{path}");
        assert_eq!(server.get(&path).await.status, 401, "{path}");
    }
    let server = server.restart(open_settings()).await;
    assert_eq!(
        server.get("/api/v1/robots/1/gaps").await.error(),
        "not_found"
    );
    let server = Server::start().await;
    for (question, field) in [
        ("gaps?from=yesterday", "from"),
        ("completeness?to=2026-09-21T14:13:50", "to"),
        (
            "completeness?from=2026-09-21T14:13:50Z&to=2026-09-21T14:13:49Z",
            "to",
        ),
        ("records?limit=0", "limit"),
        ("records?limit=1001", "limit"),
        ("gaps?limit=many", "limit"),
        ("gaps?after=7", "after"),
        ("records?kind=chatter", "kind"),
        ("records?kind=custom&kind=alarm", "kind"),
        ("records?from[]=1", "from"),
    ] {
        let reply = server.get(&format!("/api/v1/robots/1/{question}")).await;
        assert_eq!(
            (reply.status, reply.error().as_str()),
            (400, "invalid_field")
        );
        let message = reply.json()["error"]["message"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(message.starts_with(&format!("{field}: ")), "{message}");
    }
    assert_eq!(
        server.get("/api/v1/robots/0/gaps").await.error(),
        "no_route"
    );
    let posted = server.send("POST", "/api/v1/robots/1/gaps", "{}").await;
    assert_eq!(posted.error(), "method_not_allowed");
}
