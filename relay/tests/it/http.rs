//! Every row of the HTTP contract, with what the face sees and what the ledger holds.

use std::fmt::Write;

use brrbrr_proto::id::{CommandId, RobotId};
use brrbrr_relay::catalog::NewCommand;
use brrbrr_relay::journal::TripStep;
use brrbrr_relay::live::Phase;

use crate::http_server::{Face, R1, R2, Server, open_settings, robot};

/// Writes down what callers ask, and all that comes of it.
struct Transcript {
    server: Server,
    face: Face,
    robot: RobotId,
    orders: usize,
    text: String,
}

impl Transcript {
    async fn begin(robot_name: &str, number: u32) -> Self {
        let server = Server::start().await;
        let face = Face::of(server.address, robot_name).await;
        Self {
            server,
            face,
            robot: robot(number),
            orders: 0,
            text: String::new(),
        }
    }

    /// A request with the robot's code.
    async fn guest(&mut self, method: &str, path: &str, body: &str) {
        let code = format!("authcode: {}", self.server.code(self.robot).await);
        self.row(method, path, &[&code], body).await;
    }

    /// A request without a code.
    async fn caller(&mut self, method: &str, path: &str, body: &str) {
        self.row(method, path, &[], body).await;
    }

    async fn row(&mut self, method: &str, path: &str, headers: &[&str], body: &str) {
        let before = self.server.code(self.robot).await;
        let with = if headers.is_empty() {
            ""
        } else {
            ", with the code"
        };
        writeln!(self.text, "# {method} {path}{with}").unwrap();
        if !body.is_empty() {
            writeln!(self.text, "> {}", body.replace(&before, "CODE")).unwrap();
        }
        let mut headers = headers.to_vec();
        if !body.is_empty() {
            headers.push("content-type: application/json");
        }
        let path = format!("/api/v1{path}");
        let reply = self.server.ask(method, &path, &headers, body).await;
        let kind = reply.header("content-type");
        writeln!(self.text, "{} {kind}", reply.status).unwrap();
        if !reply.body.is_empty() {
            writeln!(self.text, "{}", reply.body).unwrap();
        }
        let after = self.server.code(self.robot).await;
        for (name, data) in self.face.events().await {
            let data = if data == after { "CODE" } else { &data };
            writeln!(self.text, "face: {name} {data}").unwrap();
        }
        self.write_orders().await;
        if before != after {
            writeln!(self.text, "the code is new").unwrap();
        }
        self.text.push('\n');
    }

    async fn write_orders(&mut self) {
        let catalog = &self.server.services.catalog;
        let newest = catalog.recent_commands(self.robot, 100).await.unwrap();
        let fresh = newest.len() - self.orders;
        for entry in newest.iter().take(fresh).rev() {
            let actor = &entry.command.actor;
            let order = &entry.command.order;
            writeln!(self.text, "order: {order:?}, by {actor}").unwrap();
        }
        self.orders = newest.len();
        if fresh > 0 {
            let live = &self.server.services.live;
            let guidance = live.guidance(self.robot).await.unwrap();
            let (phase, destination) = (guidance.phase, guidance.destination);
            writeln!(self.text, "guidance: {phase:?} {destination:?}").unwrap();
        }
    }

    async fn has_arrived(&mut self) {
        let live = &self.server.services.live;
        let trip = live.guidance(self.robot).await.unwrap().trip.unwrap();
        assert!(
            live.advance(self.robot, trip, Phase::Arrived)
                .await
                .unwrap()
        );
    }
}

#[tokio::test]
async fn places_and_events_are_listed_and_found_as_the_contract_says() {
    let mut t = Transcript::begin(R1, 1).await;
    t.caller("GET", "/places", "").await;
    t.caller("GET", "/places?name=701%ED%98%B8", "").await;
    t.guest("GET", "/places", "").await;
    t.guest("GET", "/places?name=701%ED%98%B8", "").await;
    t.guest("GET", "/places?name=801호", "").await;
    t.guest("GET", "/places?name=없음", "").await;
    t.guest("GET", "/places?name=회의실+A", "").await;
    t.guest("GET", "/places?name=회의실%2BA", "").await;
    t.caller("GET", "/events", "").await;
    t.guest("GET", "/events", "").await;
    t.guest("GET", "/events?name=전시회", "").await;
    t.guest("GET", "/events?name=세미나", "").await;
    t.guest("GET", "/events?name=없음", "").await;
    insta::assert_snapshot!("lists", t.text);
}

#[tokio::test]
async fn a_search_looks_on_the_floor_first_and_for_places_first() {
    let mut t = Transcript::begin(R1, 1).await;
    t.guest("GET", "/searchs?name=로비", "").await;
    t.guest("GET", "/searchs?name=전시회", "").await;
    t.guest("GET", "/searchs?name=801호", "").await;
    t.guest("GET", "/searchs?name=세미나", "").await;
    t.guest("GET", "/searchs?name=없음", "").await;
    t.guest("GET", "/searchs", "").await;
    t.guest("GET", "/searchs?name=", "").await;
    t.caller("GET", "/searchs?name=로비", "").await;
    insta::assert_snapshot!("searches", t.text);
}

#[tokio::test]
async fn a_guests_session_goes_from_its_code_to_the_next_one() {
    let mut t = Transcript::begin(R2, 2).await;
    t.caller("GET", "/robots", "").await;
    let code = t.server.code(robot(2)).await;
    let typed = format!(r#"{{"inputAuthenticationCode":{code}}}"#);
    t.caller("POST", "/robots/auth", &typed).await;
    let typed = format!(r#"{{"inputAuthenticationCode":"{code}"}}"#);
    t.caller("POST", "/robots/auth", &typed).await;
    let wrong = r#"{"inputAuthenticationCode":"12"}"#;
    t.caller("POST", "/robots/auth", wrong).await;
    t.guest("GET", "/robots/arrived", "").await;
    t.guest("GET", "/places?name=801호", "").await;
    t.guest("GET", "/robots/arrived", "").await;
    t.has_arrived().await;
    t.guest("GET", "/robots/arrived", "").await;
    t.guest("GET", "/robots/stop", "").await;
    t.guest("GET", "/robots/finished", "").await;
    insta::assert_snapshot!("session", t.text);

    let old = t.server.get_with("/api/v1/robots/arrived", &code).await;
    assert_eq!(
        (old.status, old.body.as_str()),
        (400, "인증번호를 확인해주세요")
    );
    let trips = t.server.services.journal.trips(Some(R2), 10).await.unwrap();
    let steps: Vec<_> = trips.iter().rev().map(|line| line.status).collect();
    assert_eq!(steps, [TripStep::Departed, TripStep::Ended]);
    assert!(trips.iter().all(|line| line.destination == "801호"));
}

#[tokio::test]
async fn a_trip_ordered_just_before_a_crash_is_shown_and_one_that_was_ended_is_not() {
    let server = Server::start().await;
    let code = server.code(robot(1)).await;
    server.get_with("/api/v1/searchs?name=701호", &code).await;
    let services = &server.services;
    let first = services.live.guidance(robot(1)).await.unwrap();
    let trip = first.trip.unwrap();
    services
        .live
        .advance(robot(1), trip, Phase::Arrived)
        .await
        .unwrap();
    let arrived = r#"{"isArrived":true}"#;
    assert_eq!(
        server.get_with("/api/v1/robots/arrived", &code).await.body,
        arrived
    );

    // What a crash leaves: the order in the ledger, the guidance of the trip before.
    let (entry, _) = services.catalog.command(trip).await.unwrap();
    let second = NewCommand {
        id: CommandId(2),
        ..entry.command
    };
    services.catalog.submit(second, true).await.unwrap();
    let server = server.restart(open_settings()).await;
    let not_yet = r#"{"isArrived":false}"#;
    let reply = server.get_with("/api/v1/robots/arrived", &code).await;
    assert_eq!(reply.body, not_yet);
    let shown = server.services.live.guidance(robot(1)).await.unwrap();
    assert_eq!(shown.trip, Some(CommandId(2)));

    server.get_with("/api/v1/robots/finished", &code).await;
    let server = server.restart(open_settings()).await;
    assert_eq!(server.get("/healthz").await.status, 200);
    let shown = server.services.live.guidance(robot(1)).await.unwrap();
    assert_eq!((shown.phase, shown.trip), (Phase::Idle, None));
}

#[tokio::test]
async fn admins_change_places_events_and_robots() {
    let mut t = Transcript::begin(R1, 1).await;
    let place = r#"{"name":"휴게실","floor":"7","xaxis":1,"yaxis":-2.5}"#;
    t.caller("POST", "/places", place).await;
    t.caller("POST", "/places", place).await;
    let place = r#"{"name":"휴게실","floor":-1,"xaxis":1,"yaxis":2,"description":"d","thumburl":"t","mapurl":"m","id":99}"#;
    t.caller("PUT", "/places/7", place).await;
    t.caller("PUT", "/places/99", place).await;
    let event = r#"{"name":"잔치","starttime":"2026-01-01T09:00:00+09:00","endtime":"2026-01-01T01:00:00.5Z","placeName":"휴게실","placeFloor":-1}"#;
    t.caller("POST", "/events", event).await;
    t.caller("POST", "/events", event).await;
    t.caller("DELETE", "/places/7", "").await;
    t.caller("DELETE", "/events/4", "").await;
    t.caller("DELETE", "/events/4", "").await;
    t.caller("DELETE", "/places/7", "").await;
    t.caller("DELETE", "/places/7", "").await;
    let event = event.replace("휴게실", "없음");
    t.caller("POST", "/events", &event).await;
    t.caller("POST", "/robots", r#"{"name":"셋째","floor":9}"#)
        .await;
    t.caller("POST", "/robots", r#"{"name":"셋째","floor":9}"#)
        .await;
    t.caller("DELETE", "/robots/3", "").await;
    t.caller("DELETE", "/robots/3", "").await;
    insta::assert_snapshot!("admin", t.text);
    assert_eq!(t.server.removed.recv().await, Some(robot(3)));
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_in_json_and_by_the_fields_name() {
    let mut t = Transcript::begin(R1, 1).await;
    for body in [
        "",
        "{",
        "[]",
        "{}",
        r#"{"name":1}"#,
        r#"{"name":" "}"#,
        r#"{"name":"a"}"#,
        r#"{"name":"a","floor":1.5}"#,
        r#"{"name":"a","floor":99999999999}"#,
        r#"{"name":"a","floor":1}"#,
        r#"{"name":"a","floor":1,"xaxis":"1"}"#,
        r#"{"name":"a","floor":1,"xaxis":1,"yaxis":1e999}"#,
        r#"{"name":"a","floor":1,"xaxis":1,"yaxis":1,"thumburl":{}}"#,
    ] {
        t.caller("POST", "/places", body).await;
    }
    let times = r#""placeName":"701호","placeFloor":7}"#;
    for head in [
        r#"{"name":"a","starttime":"yesterday","endtime":"2026-01-01T00:00:00Z","#,
        r#"{"name":"a","starttime":"2026-01-01T00:00:00","endtime":"2026-01-01T00:00:00Z","#,
        r#"{"name":"a","starttime":"2026-01-02T00:00:00Z","endtime":"2026-01-01T00:00:00Z","#,
        r#"{"name":"a","starttime":"2026-01-02T00:00:00Z","#,
    ] {
        t.caller("POST", "/events", &format!("{head}{times}")).await;
    }
    t.caller("POST", "/robots", r#"{"name":"a"}"#).await;
    t.caller(
        "POST",
        "/robots/auth",
        r#"{"inputAuthenticationCode":null}"#,
    )
    .await;
    t.caller("POST", "/robots/auth", r#"{"inputAuthenticationCode":[1]}"#)
        .await;
    t.guest("GET", "/places?name[x]=1", "").await;
    t.guest("GET", "/searchs?name=%ff", "").await;
    t.guest("GET", "/events?name=a&name=b", "").await;
    t.caller("GET", "/robots/stop", "").await;
    t.caller("GET", "/robots/arrived", "").await;
    t.caller("GET", "/robots/finished", "").await;
    t.caller("DELETE", "/places/seven", "").await;
    t.caller("DELETE", "/robots/0", "").await;
    t.caller("GET", "/nowhere", "").await;
    t.caller("PATCH", "/places", "").await;
    insta::assert_snapshot!("errors", t.text);
}
