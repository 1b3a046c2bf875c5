//! Commands over HTTP: giving them, seeing them, cancelling them and waiting for their end.

mod around;

use std::fmt::Write;

use brrbrr_proto::down::Order;
use brrbrr_proto::id::{CommandId, Cursor, Epoch, RobotId, Seq};
use brrbrr_proto::up::{CommandUpdate, Progress, Progressed};
use brrbrr_relay::catalog::{LedgerUpdate, NewCommand, command::MAX_UNFINISHED};
use brrbrr_relay::http::Settings;
use brrbrr_relay::live::{Contact, Phase, Presence};
use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http_server::{Face, R1, Reply, Server, open_settings, robot};

const JSON: &str = "content-type: application/json";
const ROBOT: &str = "/api/v1/robots/1/commands";

/// The robot is in contact, or has been out of it since then.
async fn set_contact(server: &Server, number: u32, contact: Contact, at: Timestamp) {
    let presence = Presence {
        contact,
        since: Some(at),
        last_contact: Some(at),
        cause: None,
    };
    let changes = vec![(robot(number), presence)];
    server.services.live.note_contacts(changes).await.unwrap();
}

async fn online(server: &Server) {
    set_contact(server, 1, Contact::Online, Timestamp::now()).await;
}

async fn submit(server: &Server, body: &str) -> Value {
    let reply = server.send("POST", ROBOT, body).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    reply.json()
}

fn path_of(view: &Value) -> String {
    format!("/api/v1/commands/{}", view["id"].as_str().unwrap())
}

fn id_of(view: &Value) -> CommandId {
    view["id"].as_str().unwrap().parse().unwrap()
}

/// The robot says this, as `projection` takes it over.
async fn hear(server: &Server, update: LedgerUpdate) {
    let at: Timestamp = "2026-11-20T10:00:00.5Z".parse().unwrap();
    let cursor = Cursor {
        epoch: Epoch(1),
        next: Seq(2),
    };
    let services = &server.services;
    let changed = services.catalog.apply(robot(1), cursor, vec![(update, at)]);
    for (_, entry) in changed.await.unwrap() {
        services.changes.tell(entry.command.id);
    }
}

fn step(command: CommandId, progress: Progress) -> LedgerUpdate {
    LedgerUpdate::Step(CommandUpdate {
        command,
        progress,
        detail: "as the robot says".to_owned(),
    })
}

/// With what is different each time left out.
fn scrubbed(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match name.as_str() {
                    "submittedAt" | "expiresAt" | "at" => *value = json!("TIME"),
                    "id" | "command" | "next" => *value = json!("ID"),
                    _ => scrubbed(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(scrubbed),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn write(text: &mut String, asked: &str, reply: &Reply) {
    let mut body = reply.json();
    scrubbed(&mut body);
    let status = reply.status;
    writeln!(text, "# {asked}\n{status}\n{body:#}\n").unwrap();
}

#[tokio::test]
async fn every_kind_is_taken_and_shown_with_its_history() {
    let server = Server::start().await;
    online(&server).await;
    let mut text = String::new();
    for body in [
        r#"{"kind":"go-to","place":"회의실 A"}"#,
        r#"{"kind":"go-to","placeId":1,"expiresIn":2.5}"#,
        r#"{"kind":"go-to","x":1.5,"y":-2,"theta":0.25,"floor":7}"#,
        r#"{"kind":"stop"}"#,
        r#"{"kind":"pause"}"#,
        r#"{"kind":"resume"}"#,
        r#"{"kind":"dock"}"#,
        r#"{"kind":"say","text":"안녕하세요"}"#,
        r#"{"kind":"custom","name":"lid","arguments":{"open":[true,null]}}"#,
    ] {
        let reply = server.send("POST", ROBOT, body).await;
        write(&mut text, body, &reply);
        assert_eq!(reply.header("location"), path_of(&reply.json()));
    }
    let list = server.get(&format!("{ROBOT}?limit=2")).await.json();
    let newest = path_of(&list["commands"][0]);
    let custom = id_of(&list["commands"][0]);
    hear(&server, step(custom, Progress::Received)).await;
    hear(&server, step(custom, Progress::Running)).await;
    let progressed = LedgerUpdate::Progressed(Progressed {
        command: custom,
        percent: 40,
        text: "half open".to_owned(),
    });
    hear(&server, progressed).await;
    write(&mut text, "GET of the newest", &server.get(&newest).await);
    let cancelled = server.send("DELETE", &newest, "").await;
    write(&mut text, "DELETE of the newest", &cancelled);
    hear(&server, step(custom, Progress::Cancelled)).await;
    write(&mut text, "GET of the newest", &server.get(&newest).await);
    let list = server.get(&format!("{ROBOT}?limit=1")).await;
    write(&mut text, "GET of the list", &list);
    insta::assert_snapshot!("commands", text);
}

#[tokio::test]
async fn what_is_wrong_is_said_by_name_and_nothing_is_ordered() {
    let server = Server::start().await;
    let mut text = String::new();
    let long = format!(r#"{{"kind":"say","text":"{}"}}"#, "x".repeat(17_000));
    for body in [
        "{",
        "[]",
        "{}",
        r#"{"kind":"fly"}"#,
        r#"{"kind":"go-to"}"#,
        r#"{"kind":"go-to","place":"701호","x":1,"y":2}"#,
        r#"{"kind":"go-to","place":"없는 곳"}"#,
        r#"{"kind":"go-to","place":"801호"}"#,
        r#"{"kind":"go-to","placeId":99}"#,
        r#"{"kind":"go-to","placeId":5}"#,
        r#"{"kind":"go-to","x":1,"y":2,"floor":8}"#,
        r#"{"kind":"say"}"#,
        r#"{"kind":"stop","expiresIn":0}"#,
        r#"{"kind":"stop","expiresin":5}"#,
        &long,
    ] {
        let asked = if body.len() > 100 {
            "a long text"
        } else {
            body
        };
        write(&mut text, asked, &server.send("POST", ROBOT, body).await);
    }
    let stop = r#"{"kind":"stop"}"#;
    let long = format!("idempotency-key: {}", "k".repeat(129));
    for key in ["idempotency-key: ", "idempotency-key: 열쇠", &long] {
        let reply = server.ask("POST", ROBOT, &[JSON, key], stop).await;
        assert_eq!(
            (reply.status, reply.error().as_str()),
            (400, "invalid_field")
        );
    }
    let two = [JSON, "idempotency-key: a", "idempotency-key: a"];
    let reply = server.ask("POST", ROBOT, &two, stop).await;
    write(&mut text, "two keys", &reply);
    let reply = server
        .ask("POST", ROBOT, &["content-type: text/plain"], stop)
        .await;
    assert_eq!(reply.status, 415);
    let nobody = "/api/v1/robots/9/commands";
    write(
        &mut text,
        "a robot that is not",
        &server.send("POST", nobody, stop).await,
    );
    let unknown = format!("/api/v1/commands/{}", CommandId(5));
    for (method, path) in [
        ("GET", nobody),
        ("GET", &*format!("{ROBOT}?limit=0")),
        ("GET", &format!("{ROBOT}?state=done")),
        ("GET", &format!("{ROBOT}?after=5")),
        ("GET", &format!("{ROBOT}?after={}", CommandId(5))),
        ("GET", &unknown),
        ("DELETE", &unknown),
        ("GET", &format!("{unknown}/wait")),
        ("GET", "/api/v1/commands/5"),
        ("PUT", &unknown),
        ("POST", &format!("{unknown}/wait")),
    ] {
        let asked = format!("{method} {path}");
        write(&mut text, &asked, &server.ask(method, path, &[], "").await);
    }
    insta::assert_snapshot!("command_errors", text);
    let orders = server.services.catalog.recent_commands(robot(1), 1).await;
    assert_eq!(orders.unwrap(), []);

    let path = path_of(&submit(&server, stop).await);
    for timeout in ["-1", "61", "soon", "NaN", "inf"] {
        let reply = server.get(&format!("{path}/wait?timeout={timeout}")).await;
        assert_eq!(
            (reply.status, reply.error().as_str()),
            (400, "invalid_field")
        );
    }
}

#[tokio::test]
async fn the_same_key_again_is_the_same_command_and_with_another_order_a_conflict() {
    let server = Server::start().await;
    let say = r#"{"kind":"say","text":"once"}"#;
    let keyed = [JSON, "Idempotency-Key: a key"];
    let first = server.ask("POST", ROBOT, &keyed, say).await;
    let again = server.ask("POST", ROBOT, &keyed, say).await;
    assert_eq!((first.status, again.status), (201, 200));
    assert_eq!(first.json()["id"], again.json()["id"]);
    assert_eq!(again.json()["idempotencyKey"], "a key");
    assert_eq!(first.header("location"), again.header("location"));
    let other = r#"{"kind":"say","text":"twice"}"#;
    let refused = server.ask("POST", ROBOT, &keyed, other).await;
    assert_eq!(
        (refused.status, refused.error().as_str()),
        (409, "conflict")
    );
    let second = "/api/v1/robots/2/commands";
    let elsewhere = server.ask("POST", second, &keyed, other).await;
    assert_eq!(elsewhere.status, 201);
    let page = server.get(ROBOT).await.json();
    assert_eq!(page["commands"].as_array().unwrap().len(), 1);
    assert_eq!(page.get("next"), None);

    // Nothing moves twice either: the key of a trip that is over leaves the guest where it is.
    let go = r#"{"kind":"go-to","place":"701호"}"#;
    let keyed = [JSON, "Idempotency-Key: a trip"];
    let trip = server.ask("POST", ROBOT, &keyed, go).await.json();
    let live = &server.services.live;
    live.advance(robot(1), id_of(&trip), Phase::Arrived)
        .await
        .unwrap();
    assert_eq!(server.ask("POST", ROBOT, &keyed, go).await.status, 200);
    assert_eq!(live.guidance(robot(1)).await.unwrap().phase, Phase::Arrived);
}

#[tokio::test]
async fn the_list_has_pages_and_is_narrowed_by_state() {
    let server = Server::start().await;
    online(&server).await;
    let mut given = Vec::new();
    for text in ["1", "2", "3", "4", "5"] {
        let body = json!({"kind": "say", "text": text}).to_string();
        given.push(submit(&server, &body).await);
    }
    hear(&server, step(id_of(&given[1]), Progress::Failed)).await;
    hear(&server, step(id_of(&given[3]), Progress::Running)).await;
    let texts = |page: &Value| {
        let commands = page["commands"].as_array().unwrap().iter();
        let texts = commands.map(|command| command["text"].as_str().unwrap());
        texts.collect::<String>()
    };
    let mut pages = Vec::new();
    let mut path = format!("{ROBOT}?limit=2");
    loop {
        let page = server.get(&path).await.json();
        pages.push(texts(&page));
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("{ROBOT}?limit=2&after={next}");
    }
    assert_eq!(pages, ["54", "32", "1"]);
    for (states, expected) in [("failed", "2"), ("running,failed", "42"), ("sent", "")] {
        let page = server.get(&format!("{ROBOT}?state={states}")).await.json();
        assert_eq!(texts(&page), expected);
    }
}

#[tokio::test]
async fn only_admins_and_the_guest_of_the_robot_may() {
    let token = "0123456789abcdef0123456789abcdef";
    let settings = Settings {
        admin_token: Some(crate::http_limits::admin_token(token)),
        ..Settings::default()
    };
    let server = Server::start().await.restart(settings).await;
    let admin = format!("authorization: Bearer {token}");
    let guest = format!("authcode: {}", server.code(robot(1)).await);
    let other = format!("authcode: {}", server.code(robot(2)).await);
    let say = r#"{"kind":"say","text":"x"}"#;
    let mut made = Vec::new();
    for (header, actor) in [(&guest, "guest"), (&admin, "admin")] {
        let reply = server.ask("POST", ROBOT, &[header, JSON], say).await;
        assert_eq!((reply.status, &reply.json()["actor"]), (201, &json!(actor)));
        made.push(path_of(&reply.json()));
    }
    let both = [admin.as_str(), &other, JSON];
    let reply = server.ask("POST", ROBOT, &both, say).await;
    assert_eq!(reply.json()["actor"], "admin");

    let path = &made[1];
    let wait = format!("{path}/wait?timeout=0");
    for (method, path, body, done) in [
        ("POST", ROBOT, say, 201),
        ("GET", ROBOT, "", 200),
        ("GET", path, "", 200),
        ("GET", &wait, "", 200),
        ("DELETE", path, "", 200),
    ] {
        for (header, status, error) in [
            ("accept: */*", 401, "unauthorized"),
            ("authorization: Bearer wrong", 401, "unauthorized"),
            (&other, 403, "other_robot"),
        ] {
            let reply = server.ask(method, path, &[header, JSON], body).await;
            assert_eq!(
                (reply.status, reply.error().as_str()),
                (status, error),
                "{method} {path}"
            );
        }
        let wrong = server
            .ask(method, path, &["authcode: 12", &admin, JSON], body)
            .await;
        assert_eq!(
            (wrong.status, wrong.body.as_str()),
            (400, "인증번호를 확인해주세요")
        );
        for header in [&guest, &admin] {
            let reply = server.ask(method, path, &[header, JSON], body).await;
            assert_eq!(reply.status, done, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_go_to_and_a_stop_are_shown_to_the_guest_and_on_the_face() {
    let server = Server::start().await;
    let code = server.code(robot(1)).await;
    let mut face = Face::of(server.address, R1).await;
    let arrived = async |expected: bool| {
        let reply = server.get_with("/api/v1/robots/arrived", &code).await;
        assert_eq!(reply.json()["isArrived"], expected);
    };
    let trip = submit(&server, r#"{"kind":"go-to","place":"701호"}"#).await;
    let events = face.events().await;
    assert_eq!(events[0].0, "destinations");
    assert!(events[0].1.contains("701호"), "{events:?}");
    assert_eq!(events[1], ("changePageTo".to_owned(), "guide".to_owned()));
    let live = &server.services.live;
    let shown = live.guidance(robot(1)).await.unwrap();
    assert_eq!(
        (shown.phase, shown.trip),
        (Phase::Moving, Some(id_of(&trip)))
    );
    assert_eq!(shown.destination.as_deref(), Some("701호"));
    arrived(false).await;
    live.advance(robot(1), id_of(&trip), Phase::Arrived)
        .await
        .unwrap();
    arrived(true).await;
    face.events().await;
    submit(&server, r#"{"kind":"stop"}"#).await;
    assert_eq!(live.guidance(robot(1)).await.unwrap().phase, Phase::Stopped);
    let pages: Vec<_> = face
        .events()
        .await
        .into_iter()
        .map(|event| event.0)
        .collect();
    assert_eq!(pages, ["changePageTo", "placesOnFloor", "eventsOpened"]);

    submit(&server, r#"{"kind":"go-to","x":3.5,"y":4}"#).await;
    let shown = live.guidance(robot(1)).await.unwrap();
    assert_eq!((shown.phase, shown.destination), (Phase::Moving, None));
    let trips = server.services.journal.trips(Some(R1), 9).await.unwrap();
    let trips: Vec<_> = trips.iter().map(|line| line.destination.as_str()).collect();
    assert_eq!(trips, ["3.5,4", "701호"]);
}

#[tokio::test]
async fn a_command_that_was_never_sent_is_cancelled_at_once_and_its_trip_ends() {
    let server = Server::start().await;
    let trip = submit(&server, r#"{"kind":"go-to","place":"701호"}"#).await;
    let path = path_of(&trip);
    for _ in 0..2 {
        let reply = server.send("DELETE", &path, "").await;
        let view = reply.json();
        assert_eq!((reply.status, &view["state"]), (200, &json!("cancelled")));
        assert_eq!(
            (&view["final"], view.get("cancelling")),
            (&json!(true), None)
        );
    }
    let live = &server.services.live;
    assert_eq!(live.guidance(robot(1)).await.unwrap().phase, Phase::Stopped);
    let catalog = &server.services.catalog;
    assert_eq!(catalog.recent_commands(robot(1), 9).await.unwrap().len(), 1);
    let due = catalog.offer(robot(1), Seq::FIRST, 9).await.unwrap();
    assert!(due[0].is_withdrawn());
}

#[tokio::test]
async fn a_command_that_may_be_on_the_board_is_cancelled_by_one_order_to_it() {
    let server = Server::start().await;
    online(&server).await;
    let command = submit(&server, r#"{"kind":"dock"}"#).await;
    let path = path_of(&command);
    for _ in 0..2 {
        let reply = server.send("DELETE", &path, "").await;
        assert_eq!(
            (reply.status, &reply.json()["cancelling"]),
            (202, &json!(true))
        );
    }
    let catalog = &server.services.catalog;
    let recent = catalog.recent_commands(robot(1), 9).await.unwrap();
    assert_eq!(recent.len(), 2);
    assert_eq!(recent[0].command.order, Order::Cancel(id_of(&command)));
    let cancellation = format!("/api/v1/commands/{}", recent[0].command.id);
    let refused = server.send("DELETE", &cancellation, "").await;
    assert_eq!(
        (refused.status, refused.error().as_str()),
        (409, "not_cancellable")
    );
    // It was done first: that is its one end, whatever becomes of the cancellation.
    hear(&server, step(id_of(&command), Progress::Succeeded)).await;
    let reply = server.send("DELETE", &path, "").await;
    assert_eq!(
        (reply.status, &reply.json()["state"]),
        (200, &json!("succeeded"))
    );
    assert_eq!(reply.json().get("cancelling"), None);
}

#[tokio::test]
async fn a_command_of_a_robot_that_never_comes_expires_and_its_trip_ends() {
    let server = Server::start().await;
    let go = r#"{"kind":"go-to","place":"701호","expiresIn":0.05}"#;
    let trip = submit(&server, go).await;
    let reply = server.get(&format!("{}/wait", path_of(&trip))).await;
    let view = reply.json();
    assert_eq!((reply.status, &view["state"]), (200, &json!("expired")));
    let states: Vec<_> = view["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| &step["state"])
        .collect();
    assert_eq!(states, [&json!("queued"), &json!("expired")]);
    let live = &server.services.live;
    // The end is told after it is in the ledger.
    while live.guidance(robot(1)).await.unwrap().phase != Phase::Stopped {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_wait_ends_with_the_command_or_with_its_time() {
    let settings = Settings {
        // Shorter than the waits: they are not requests that hang.
        request_limit: std::time::Duration::from_millis(500),
        ..open_settings()
    };
    let server = Server::start().await.restart(settings).await;
    online(&server).await;
    let command = submit(&server, r#"{"kind":"dock"}"#).await;
    let path = path_of(&command);
    let reply = server.get(&format!("{path}/wait?timeout=0.7")).await;
    assert_eq!((reply.status, &reply.json()["final"]), (200, &json!(false)));
    let wait = format!("{path}/wait?timeout=20");
    let (one, same, ()) = tokio::join!(server.get(&wait), server.get(&wait), async {
        while server.services.metrics.waiters.get() < 2 {
            tokio::task::yield_now().await;
        }
        hear(&server, step(id_of(&command), Progress::Running)).await;
        hear(&server, step(id_of(&command), Progress::Failed)).await;
    });
    assert_eq!(one.body, same.body);
    let view = one.json();
    assert_eq!((one.status, &view["state"]), (200, &json!("failed")));
    assert_eq!(view["detail"], "as the robot says");
    let failed = &view["history"][2];
    assert_eq!(failed["at"], "2026-11-20T10:00:00.500Z");
    // Whoever comes later need not wait.
    assert_eq!(server.get(&wait).await.json(), view);
    assert_eq!(server.services.metrics.waiters.get(), 0);
}

#[tokio::test]
async fn a_change_by_another_relay_is_found_too() {
    let server = Server::start().await;
    online(&server).await;
    let command = submit(&server, r#"{"kind":"dock"}"#).await;
    let wait = format!("{}/wait?timeout=60", path_of(&command));
    let (reply, ()) = tokio::join!(server.get(&wait), async {
        while server.services.metrics.waiters.get() < 1 {
            tokio::task::yield_now().await;
        }
        let file = rusqlite::Connection::open(server.file("catalog")).unwrap();
        let end = "UPDATE commands SET state = 'failed'";
        assert_eq!(file.execute(end, []).unwrap(), 1);
    });
    assert_eq!(reply.json()["state"], "failed");
}

#[tokio::test]
async fn whoever_waits_is_answered_when_the_relay_ends() {
    let server = Server::start().await;
    online(&server).await;
    let command = submit(&server, r#"{"kind":"dock"}"#).await;
    let mut waiting = TcpStream::connect(server.address).await.unwrap();
    let path = path_of(&command);
    let request = format!("GET {path}/wait?timeout=60 HTTP/1.1\r\nhost: x\r\n\r\n");
    waiting.write_all(request.as_bytes()).await.unwrap();
    while server.services.metrics.waiters.get() < 1 {
        tokio::task::yield_now().await;
    }
    server.stop().await;
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains(r#""final":false"#), "{answer}");
}

#[tokio::test]
async fn a_caller_that_hangs_up_waits_no_more() {
    let server = Server::start().await;
    online(&server).await;
    let command = submit(&server, r#"{"kind":"dock"}"#).await;
    let mut waiting = TcpStream::connect(server.address).await.unwrap();
    let path = path_of(&command);
    let request = format!("GET {path}/wait?timeout=60 HTTP/1.1\r\nhost: x\r\n\r\n");
    waiting.write_all(request.as_bytes()).await.unwrap();
    let waiters = &server.services.metrics.waiters;
    while waiters.get() < 1 {
        tokio::task::yield_now().await;
    }
    drop(waiting);
    while waiters.get() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_command_whose_robot_is_out_of_contact_keeps_its_state_and_is_unknown_since_then() {
    let server = Server::start().await;
    online(&server).await;
    let sent = submit(&server, r#"{"kind":"dock"}"#).await;
    hear(&server, step(id_of(&sent), Progress::Running)).await;
    let gone = Timestamp::now().checked_add(5.minutes()).unwrap();
    set_contact(&server, 1, Contact::Offline, gone).await;
    let kept = submit(&server, r#"{"kind":"say","text":"later"}"#).await;
    let view = server.get(&path_of(&sent)).await.json();
    assert_eq!(
        (&view["state"], &view["final"]),
        (&json!("running"), &json!(false))
    );
    assert_eq!(view["unknownSince"], format!("{gone:.3}"));
    assert_eq!(
        server.get(&path_of(&kept)).await.json().get("unknownSince"),
        None
    );
    set_contact(&server, 1, Contact::Degraded, gone).await;
    assert_eq!(
        server.get(&path_of(&sent)).await.json().get("unknownSince"),
        None
    );
}

#[tokio::test]
async fn a_robot_has_a_bounded_number_of_unfinished_commands_and_can_still_be_stopped() {
    let server = Server::start().await;
    let catalog = &server.services.catalog;
    for number in 1..=MAX_UNFINISHED {
        let command = order(robot(1), u128::try_from(number).unwrap());
        catalog.submit(command, true).await.unwrap();
    }
    let say = r#"{"kind":"say","text":"x"}"#;
    let full = server.send("POST", ROBOT, say).await;
    assert_eq!(
        (full.status, full.error().as_str()),
        (429, "too_many_commands")
    );
    assert!(full.header("retry-after").parse::<u64>().unwrap() > 0);
    submit(&server, r#"{"kind":"stop"}"#).await;
    let cancel = format!("/api/v1/commands/{}", CommandId(1));
    assert_eq!(server.send("DELETE", &cancel, "").await.status, 202);
    hear(&server, step(CommandId(1), Progress::Cancelled)).await;
    hear(&server, step(CommandId(2), Progress::Cancelled)).await;
    hear(&server, step(CommandId(3), Progress::Cancelled)).await;
    submit(&server, say).await;
}

fn order(robot: RobotId, id: u128) -> NewCommand {
    NewCommand {
        id: CommandId(id),
        robot,
        order: Order::Pause,
        deadline: Timestamp::now().checked_add(1.hour()).unwrap(),
        actor: "voice".to_owned(),
        idempotency_key: None,
        submitted: Timestamp::now(),
    }
}

#[tokio::test]
async fn a_trip_that_the_relay_ended_just_before_a_crash_is_shown_as_ended() {
    let server = Server::start().await;
    let trip = submit(&server, r#"{"kind":"go-to","place":"701호"}"#).await;
    // Something else may have been ordered since.
    submit(&server, r#"{"kind":"say","text":"x"}"#).await;
    let services = &server.services;
    let cancel = order(robot(1), 7);
    services
        .catalog
        .cancel(id_of(&trip), cancel, false)
        .await
        .unwrap();
    assert_eq!(
        services.live.guidance(robot(1)).await.unwrap().phase,
        Phase::Moving
    );
    let server = server.restart(open_settings()).await;
    assert_eq!(server.get("/healthz").await.status, 200);
    let shown = server.services.live.guidance(robot(1)).await.unwrap();
    assert_eq!(shown.phase, Phase::Stopped);
}
