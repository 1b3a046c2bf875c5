//! Faces with unchanged socket.io-client 2.3.0 and 4.x, over polling and over websocket: what each
//! route sends to them, and what a restart of the relay does to them.

use brrbrr_e2e::building::Building;
use brrbrr_e2e::face::{Face, Kind};
use brrbrr_e2e::gateway::{Adapter, Gateway};
use brrbrr_e2e::http::{Answer, Client, Request};
use brrbrr_e2e::relay::Relay;
use brrbrr_e2e::wait::{SOON, wait_until};
use serde_json::{Value, json};

const ROBOT: &str = "guide-7";
const OTHER_ROBOT: &str = "guide-8";
const WRONG_CODE: &str = "인증번호를 확인해주세요";

/// So fast that no trip takes long.
const METRES_A_SECOND: f64 = 5_000.0;

const HERE: &str = "701호";
const ELSEWHERE: &str = "801호";
const NOWHERE: &str = "없는 곳";
const EVENT_HERE: &str = "졸업 작품 전시회";
const EVENT_ELSEWHERE: &str = "로봇 시연";

const SENT_AWAY: [&str; 2] = ["destinations", "changePageTo:guide"];
const SHOWN: [&str; 2] = ["destinations", "changePageTo:destination"];
const AT_GOAL: [&str; 2] = ["changePageTo:destination", "changoPageTo:destination"];

#[test]
fn a_2_client_over_websocket_sees_the_events_of_every_route() {
    sees_the_events_of_every_route("2", "websocket");
}

#[test]
fn a_2_client_over_polling_sees_the_events_of_every_route() {
    sees_the_events_of_every_route("2", "polling");
}

#[test]
fn a_4_client_over_websocket_sees_the_events_of_every_route() {
    sees_the_events_of_every_route("4", "websocket");
}

#[test]
fn a_4_client_over_polling_sees_the_events_of_every_route() {
    sees_the_events_of_every_route("4", "polling");
}

#[test]
fn clients_that_upgrade_are_bound_and_pushed_to() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(folder.path(), &Building::sample());
    for (client, robot) in [("2", ROBOT), ("4", OTHER_ROBOT)] {
        let kind = Kind {
            client,
            transport: "default",
        };
        let (mut face, code) = Face::bind(folder.path(), relay.client(), kind, robot);
        let list = Request::get("/api/v1/places").code(&code);
        for _ in 0..10 {
            assert_eq!(relay.client().send(&list).status, 200);
            expect(&mut face, &["changePageTo:listOnFloor", "placesOnFloor"]);
        }
    }
}

#[test]
fn a_newer_face_takes_the_robot_over_with_the_same_code() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(folder.path(), &Building::sample());
    let kind = brrbrr_e2e::face::USUAL;
    let (mut older, code) = Face::bind(folder.path(), relay.client(), kind, ROBOT);
    let (mut newer, same) = Face::bind(folder.path(), relay.client(), kind, ROBOT);
    assert_eq!(same, code);
    // The older one is told in some way, and hears nothing of what follows.
    let told = older.take();
    assert_ne!(told.name, "authCode", "{told:?}");
    let list = Request::get("/api/v1/places").code(&code);
    assert_eq!(relay.client().send(&list).status, 200);
    expect(&mut newer, &["changePageTo:listOnFloor", "placesOnFloor"]);
    let heard = older.all();
    assert!(heard.iter().all(|event| event.name != "placesOnFloor"));
}

#[test]
fn a_face_that_names_an_unknown_robot_gets_an_error_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(folder.path(), &Building::sample());
    let kind = brrbrr_e2e::face::USUAL;
    let mut face = Face::start(folder.path(), relay.client(), kind, Some("nobody"));
    let error = face.skip_to("error");
    let reason = error.args.first().map(Value::to_string);
    assert!(reason.is_some_and(|reason| reason.len() > 4), "{error:?}");
}

fn sees_the_events_of_every_route(client: &'static str, transport: &'static str) {
    let folder = tempfile::tempdir().unwrap();
    let mut relay = Relay::start(folder.path(), &Building::sample());
    let speed = METRES_A_SECOND;
    let gateway = Gateway::start(folder.path(), &relay, ROBOT, &Adapter::Sim { speed });
    gateway.await_link();
    let kind = Kind { client, transport };
    let (face, code) = Face::bind(folder.path(), relay.client(), kind, ROBOT);
    let names: Vec<_> = face.all().iter().map(|event| event.name.clone()).collect();
    let bound = ["#connect", "robots-available", "authCode", "changePageTo"];
    assert_eq!(names, bound, "on binding");

    let mut wall = Wall {
        relay: relay.client(),
        code,
        face,
    };
    wall.places();
    wall.events();
    wall.searches();
    wall.robots();
    wall.without_or_with_a_wrong_code();
    wall.records();
    let fresh = wall.finish();
    let log = relay.stores().trip_log();
    let last = log
        .last()
        .map(|trip| (trip.destination.as_str(), trip.step.as_str()));
    assert_eq!(last, Some(("702호", "종료")));

    relay.kill();
    relay.start_again();
    let code = wall.face.await_bound();
    assert_eq!(code, fresh, "the code after a restart");
    wall.code = code;
    wall.await_session();
    wall.places();
    wall.start_afresh();
    let disturbed = wall.face.take_within(std::time::Duration::ZERO);
    assert_eq!(disturbed, None, "more events than the routes have");
}

/// A face, and the calls whose events it is sent. Each call is compared with the events that come
/// next, so one too many is found by the call after it.
struct Wall {
    relay: Client,
    code: String,
    face: Face,
}

impl Wall {
    fn places(&mut self) {
        let all = self.call(
            &["changePageTo:listOnFloor", "placesOnFloor"],
            "/places",
            None,
        );
        let floors: Vec<_> = all
            .as_array()
            .unwrap()
            .iter()
            .map(|place| &place["floor"])
            .collect();
        assert!(!floors.is_empty() && floors.iter().all(|floor| **floor == 7));

        let found = self.call(&SENT_AWAY, "/places", Some(HERE));
        assert_eq!(found[0]["name"], HERE);
        self.await_arrival();

        let found = self.call(&SHOWN, "/places", Some(ELSEWHERE));
        assert_eq!(found[0]["floor"], 8);
        assert_eq!(self.call(&SHOWN, "/places", Some(NOWHERE)), json!([]));
    }

    fn events(&mut self) {
        let all = self.call(
            &["changePageTo:listOnFloor", "eventsOpened"],
            "/events",
            None,
        );
        let all = all.as_array().unwrap();
        assert!(
            all.iter()
                .all(|event| event["place"]["name"] == event["placeName"])
        );
        assert_eq!(all.len(), 4);

        let away = ["changePageTo:guide", "destinations"];
        let found = self.call(&away, "/events", Some(EVENT_HERE));
        assert_eq!(found[0]["place"]["name"], HERE);
        self.await_arrival();

        let shown = ["changePageTo:destination", "destinations"];
        let found = self.call(&shown, "/events", Some(EVENT_ELSEWHERE));
        assert_eq!(found[0]["name"], EVENT_ELSEWHERE);
        assert_eq!(self.call(&shown, "/events", Some(NOWHERE)), json!([]));
    }

    fn searches(&mut self) {
        let found = self.call(&SENT_AWAY, "/searchs", Some(HERE));
        assert_eq!(found["place"][0]["name"], HERE);
        self.await_arrival();
        let found = self.call(&SENT_AWAY, "/searchs", Some(EVENT_HERE));
        assert_eq!(found["event"][0]["place"]["name"], HERE);
        self.await_arrival();
        let found = self.call(&SHOWN, "/searchs", Some(ELSEWHERE));
        assert_eq!(found["places"][0]["name"], ELSEWHERE);
        let found = self.call(&SHOWN, "/searchs", Some(EVENT_ELSEWHERE));
        assert_eq!(found["events"][0]["name"], EVENT_ELSEWHERE);
        assert_eq!(self.call(&SHOWN, "/searchs", Some(NOWHERE)), json!({}));
        let answer = self.send(Request::get("/api/v1/searchs").code(&self.code));
        assert_eq!(answer.status, 400);
        assert_eq!(answer.json(), json!({"message": "There is no query param"}));
    }

    fn robots(&mut self) {
        let number: u16 = self.code.parse().unwrap();
        for right in [json!(number), json!(self.code)] {
            let answer = self.authenticate(&right);
            assert_eq!(answer, json!({"isAuthenticated": true, "floor": 7}));
            expect(&mut self.face, &["changePageTo:service"]);
        }
        // One that no robot has, most of the time; with two robots the chance is small enough to
        // look for another.
        let wrong = if number == 9999 { 1000 } else { number + 1 };
        let answer = self.authenticate(&json!(wrong));
        assert_eq!(answer, json!({"isAuthenticated": false}));

        self.call(&SENT_AWAY, "/searchs", Some("702호"));
        let stop = Request::get("/api/v1/robots/stop").code(&self.code);
        assert_eq!(self.send(stop).status, 204);
        let halted = ["changePageTo:listOnFloor", "placesOnFloor", "eventsOpened"];
        expect(&mut self.face, &halted);
        let robots = self.send(Request::get("/api/v1/robots")).ok();
        assert_eq!(robots.as_array().unwrap().len(), 2);
    }

    fn without_or_with_a_wrong_code(&mut self) {
        for path in [
            "/places",
            "/events",
            "/searchs",
            "/robots/arrived",
            "/robots/stop",
            "/robots/finished",
        ] {
            let request = Request::get(&format!("/api/v1{path}")).query("name", HERE);
            let answer = self.send(request.clone().code("12ab"));
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (400, WRONG_CODE),
                "{path}"
            );
            let answer = self.send(request);
            if ["/places", "/events"].contains(&path) {
                assert!(answer.ok().as_array().unwrap().len() > 1, "{path}");
            } else {
                assert_eq!(answer.status, 400, "{path}");
                assert!(answer.json()["error"]["message"].is_string(), "{path}");
            }
        }
    }

    fn records(&self) {
        let place = json!({"name": "704호", "floor": 7, "xaxis": 1.5, "yaxis": -2.0});
        let made = self.post("/places", &place).ok();
        let id = made["id"].as_i64().unwrap();
        let moved = json!({"name": "704호", "floor": 7, "xaxis": 2.5, "yaxis": -2.0});
        let put = Request::new("PUT", &format!("/api/v1/places/{id}")).json(&moved);
        assert_eq!(self.send(put).ok()["xaxis"], 2.5);
        assert_eq!(self.post("/places", &place).status, 409);

        let event = json!({
            "name": "자유 관람", "placeName": "704호", "placeFloor": 7,
            "starttime": "2020-06-01T04:10:25.000Z", "endtime": "2020-06-01T05:10:25.000Z",
        });
        let made = self.post("/events", &event).ok();
        assert_eq!(made["starttime"], "2020-06-01T04:10:25.000Z");
        let nowhere = json!({
            "name": "어딘가", "placeName": NOWHERE, "placeFloor": 7,
            "starttime": "2020-06-01T04:10:25.000Z", "endtime": "2020-06-01T05:10:25.000Z",
        });
        assert_eq!(self.post("/events", &nowhere).status, 400);
        for path in [format!("/events/{}", made["id"]), format!("/places/{id}")] {
            assert_eq!(self.delete(&path).status, 204, "{path}");
            assert_eq!(self.delete(&path).status, 404, "{path} again");
        }
        let robot = self
            .post("/robots", &json!({"name": "guide-9", "floor": 9}))
            .ok();
        let path = format!("/robots/{}", robot["id"]);
        assert_eq!(self.delete(&path).status, 204);
    }

    /// Returns the new code.
    fn finish(&mut self) -> String {
        let finished = Request::get("/api/v1/robots/finished");
        let answer = self.send(finished.clone().code(&self.code));
        assert_eq!(answer.ok(), json!({"isAuthenticated": false}));
        assert_eq!(self.face.take().short(), "changePageTo:welcome");
        let fresh = self.face.take();
        assert_eq!(fresh.name, "authCode");
        assert_ne!(fresh.text(), self.code);
        let late = self.send(finished.code(&self.code));
        assert_eq!((late.status, late.text().as_str()), (400, WRONG_CODE));
        fresh.text().to_owned()
    }

    /// Every code is new, so the face has to be told its own.
    fn start_afresh(&mut self) {
        let answer = self.send(Request::get("/api/v1/robots/init"));
        assert_eq!(answer.status, 204);
        self.code = self.face.skip_to("authCode").text().to_owned();
        let arrived = Request::get("/api/v1/robots/arrived").code(&self.code);
        assert_eq!(self.send(arrived).ok(), json!({"isArrived": false}));
    }

    /// Calls a route that answers 200 with the code, and compares the events. Lists that come with
    /// them hold what the answer holds.
    fn call(&mut self, events: &[&str], path: &str, name: Option<&str>) -> Value {
        let mut request = Request::get(&format!("/api/v1{path}")).code(&self.code);
        if let Some(name) = name {
            request = request.query("name", name);
        }
        let answer = self.send(request).ok();
        for expected in events {
            let event = self.face.take();
            assert_eq!(event.short(), *expected, "for {path} {name:?}");
            if event.args.len() == 1 && !expected.contains(':') {
                let list = event.document();
                assert!(list.is_array() || list.is_object(), "{event:?}");
                if path != "/searchs" {
                    assert_eq!(list, answer, "in {expected} for {path} {name:?}");
                }
            }
        }
        answer
    }

    fn await_arrival(&mut self) {
        let arrived = Request::get("/api/v1/robots/arrived").code(&self.code);
        wait_until("the robot has arrived", SOON, || {
            self.relay.send(&arrived).ok()["isArrived"] == true
        });
        expect(&mut self.face, &AT_GOAL);
    }

    /// After a restart the relay is ready before the robot is back, and a trip needs the robot.
    fn await_session(&self) {
        wait_until("the robot is back", SOON, || {
            let metrics = self.relay.send(&Request::get("/metrics")).text();
            let mut lines = metrics.lines();
            lines.any(|line| line.contains("sessions") && line.ends_with(" 1"))
        });
    }

    fn authenticate(&self, code: &Value) -> Value {
        let body = json!({"inputAuthenticationCode": code});
        self.post("/robots/auth", &body).ok()
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Request::new("POST", &format!("/api/v1{path}")).json(body))
    }

    fn delete(&self, path: &str) -> Answer {
        self.send(Request::new("DELETE", &format!("/api/v1{path}")))
    }

    fn send(&self, request: Request) -> Answer {
        self.relay.send(&request)
    }
}

fn expect(face: &mut Face, events: &[&str]) {
    for expected in events {
        assert_eq!(face.take().short(), *expected);
    }
}
