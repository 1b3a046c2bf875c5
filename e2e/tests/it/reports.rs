//! What people who run fleets of robots report of systems like this one, each as a test that it does
//! not happen here. The names in the comments are those of public issue trackers.

use std::path::Path;
use std::time::Duration;

use brrbrr_e2e::building::{self, Building, goal, place};
use brrbrr_e2e::gateway::{Adapter, Gateway, Site};
use brrbrr_e2e::http::Request;
use brrbrr_e2e::judge::Judge;
use brrbrr_e2e::metrics::Page;
use brrbrr_e2e::operator::{Operator, history};
use brrbrr_e2e::producer::Producer;
use brrbrr_e2e::proxy::Proxy;
use brrbrr_e2e::relay::Relay;
use brrbrr_e2e::robot::Robot;
use brrbrr_e2e::vhost::Vhost;
use brrbrr_e2e::wait::{SOON, wait_until};
use serde_json::{Value, json};

const FLOOR: i32 = 7;
const PLACES: usize = 60;
/// A trip that a test can look into, and still end soon.
const TRAVEL_TIME: Duration = Duration::from_secs(2);
/// A trip that a test does not see the end of.
const FOR_EVER: Duration = Duration::from_secs(600);
/// Three beats of a robot and a little more: how long a robot that hangs may seem to be there.
const SILENCE: Duration = Duration::from_secs(45);

/// A robot with a way to the relay that can be cut, and an operator.
struct Scene {
    relay: Relay,
    link: Proxy,
    gateway: Gateway,
    robot: Robot,
    operator: Operator,
    _broker: Vhost,
}

impl Scene {
    fn start(folder: &Path, travel_time: Duration, options: &[&str]) -> Self {
        let name = building::robot(FLOOR);
        let relay = Relay::start(folder, &Building::with_places(&[FLOOR], PLACES));
        let link = Proxy::start(relay.mqtt());
        let broker = Vhost::create();
        let url = broker.url().to_owned();
        let robot = Robot::start_with(folder, &name, &url, "json", travel_time, options);
        let site = Site {
            mqtt: Some(link.address()),
            ..Site::default()
        };
        let adapter = Adapter::Amqp { url, wire: "json" };
        let gateway = Gateway::start_at(&site, folder, &relay, &name, &adapter);
        gateway.await_link();
        let operator = Operator::at(&relay, &name);
        Self {
            relay,
            link,
            gateway,
            robot,
            operator,
            _broker: broker,
        }
    }

    /// What the robot was told, in order: `go_to` with the goal, or the kind alone.
    fn told(&self) -> Vec<String> {
        self.robot
            .commands()
            .iter()
            .map(|body| told(body))
            .collect()
    }
}

fn told(body: &str) -> String {
    let body: Value = serde_json::from_str(body).unwrap();
    let command = &body["command"];
    match command["kind"].as_str().unwrap() {
        "go_to" => format!("{},{}", command["x"], command["y"]),
        kind => kind.to_owned(),
    }
}

fn go_to(number: usize) -> Value {
    json!({"kind": "go-to", "place": place(FLOOR, number)})
}

/// flotilla#2335, flotilla#1861: a mission that was completed without a link is shown as failed.
#[test]
fn a_mission_that_completes_while_the_link_is_down_is_shown_as_succeeded() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::start(folder.path(), TRAVEL_TIME, &[]);
    let mission = json!({"kind": "go-to", "place": place(FLOOR, 1), "expiresIn": 1});
    let id = scene.operator.submit(&mission);
    scene.operator.await_state(&id, "running");
    scene.link.hold();
    wait_until("the robot has arrived", SOON, || {
        !scene.robot.arrivals().is_empty()
    });
    let status = scene.operator.await_presence("offline", SOON);
    assert!(status["presence"]["since"].is_string(), "{status}");

    // By now its time to be started has passed as well, and nothing was heard of its end.
    let unknown = scene.operator.command(&id);
    assert_eq!(unknown["state"], "running", "{unknown}");
    assert_eq!(unknown["final"], false, "{unknown}");
    assert!(unknown["unknownSince"].is_string(), "{unknown}");

    scene.link.release();
    let ended = scene.operator.await_end(&id);
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert!(ended.get("unknownSince").is_none(), "{ended}");
    let steps = history(&ended);
    assert_eq!(steps.last().unwrap(), "succeeded", "{steps:?}");
    assert_eq!(steps.iter().filter(|step| *step == "running").count(), 1);
    assert_eq!(scene.told(), [goal(FLOOR, 1)]);
}

/// flotilla#2102: a robot is shown as available, with a third of its charge, though its gateway is
/// offline.
#[test]
fn a_robot_whose_gateway_is_offline_is_not_shown_as_available() {
    let folder = tempfile::tempdir().unwrap();
    let mut scene = Scene::start(folder.path(), TRAVEL_TIME, &[]);
    // It says its charge when it drives.
    let id = scene.operator.submit(&go_to(1));
    assert_eq!(scene.operator.await_end(&id)["state"], "succeeded");
    let status = scene.operator.await_presence("online", SOON);
    let charge = status["status"]["battery"]["value"].clone();
    assert!(
        charge.as_f64().is_some_and(|charge| charge > 0.9),
        "{status}"
    );
    assert_eq!(status["status"]["battery"]["stale"], false, "{status}");

    scene.gateway.kill();
    assert_stale(&scene.operator.await_presence("offline", SOON), &charge);
    scene.gateway.start_again();
    let status = scene.operator.await_presence("online", SOON);
    assert!(status["presence"]["reason"].is_null(), "{status}");

    // One that hangs keeps its connection, and nobody publishes its last will.
    scene.gateway.freeze();
    let status = scene.operator.await_presence("offline", SILENCE);
    assert_eq!(status["status"]["battery"]["stale"], true, "{status}");
    scene.gateway.thaw();
    scene.operator.await_presence("online", 2 * SOON);
}

#[track_caller]
fn assert_stale(status: &Value, charge: &Value) {
    let battery = &status["status"]["battery"];
    assert_eq!(battery["value"], *charge, "{status}");
    assert_eq!(battery["stale"], true, "{status}");
    let age = battery["ageSeconds"].as_f64();
    assert!(age.is_some_and(|age| age > 0.0), "{status}");
    assert!(status["presence"]["since"].is_string(), "{status}");
    assert!(status["presence"]["lastContact"].is_string(), "{status}");
}

/// flotilla#1359: after a restart of the broker all robots stay offline.
#[test]
fn every_robot_is_back_soon_after_its_brokers_were_restarted() {
    let folder = tempfile::tempdir().unwrap();
    let floors = [1, 2, 3, 4, 5];
    let mut relay = Relay::start(folder.path(), &Building::with_places(&floors, 2));
    let adapter = Adapter::Sim { speed: 100.0 };
    let gateways = floors.map(|floor| {
        let name = building::robot(floor);
        Gateway::start(folder.path(), &relay, &name, &adapter)
    });
    let operators = floors.map(|floor| Operator::at(&relay, &building::robot(floor)));
    for operator in &operators {
        operator.await_presence("online", SOON);
    }
    // The relay's broker is a part of the relay.
    for end in [Relay::kill, Relay::stop] {
        end(&mut relay);
        relay.start_again();
        for (operator, floor) in operators.iter().zip(floors) {
            operator.await_presence("online", SOON);
            let id = operator.submit(&json!({"kind": "go-to", "place": place(floor, 1)}));
            assert_eq!(operator.await_end(&id)["state"], "succeeded");
        }
    }
    drop(gateways);
}

/// flotilla#1359 on the robot's own side: its broker goes away and comes back.
#[test]
fn a_robot_without_its_own_broker_is_degraded_and_not_offline() {
    let folder = tempfile::tempdir().unwrap();
    let name = building::robot(FLOOR);
    let relay = Relay::start(folder.path(), &Building::with_places(&[FLOOR], 2));
    let broker = Vhost::create();
    let way = Proxy::start(broker.address());
    let url = broker.url_by_way_of(way.address());
    let robot = Robot::start(folder.path(), &name, &broker, "json", TRAVEL_TIME);
    let adapter = Adapter::Amqp { url, wire: "json" };
    let gateway = Gateway::start(folder.path(), &relay, &name, &adapter);
    gateway.await_link();
    let operator = Operator::at(&relay, &name);
    operator.await_presence("online", SOON);

    way.hold();
    let status = operator.await_presence("degraded", SOON);
    assert!(status["presence"]["since"].is_string(), "{status}");
    let id = operator.submit(&json!({"kind": "go-to", "place": place(FLOOR, 1), "expiresIn": 60}));
    operator.await_state(&id, "received");
    way.release();
    operator.await_presence("online", 2 * SOON);
    assert_eq!(operator.await_end(&id)["state"], "succeeded");
    assert_eq!(robot.commands().len(), 1);
}

/// flotilla#1943, flotilla#1477: after a restart of the robot's software a mission stays ongoing.
#[test]
fn a_mission_does_not_stay_ongoing_when_the_robots_software_is_restarted() {
    let folder = tempfile::tempdir().unwrap();
    let mut scene = Scene::start(folder.path(), FOR_EVER, &["--announce"]);
    let id = scene.operator.submit(&go_to(1));
    scene.operator.await_state(&id, "running");
    scene.robot.kill();
    scene.robot.start_again();
    let ended = scene.operator.await_end(&id);
    assert_eq!(ended["state"], "interrupted", "{ended}");
    assert!(!ended["detail"].as_str().unwrap().is_empty(), "{ended}");
    // It is not told again, and the next one goes.
    let next = scene.operator.submit(&go_to(2));
    scene.operator.await_state(&next, "running");
    assert_eq!(scene.told(), [goal(FLOOR, 1), goal(FLOOR, 2)]);
}

/// The same, where it is the gateway or the whole board that is restarted.
#[test]
fn a_mission_does_not_stay_ongoing_when_the_gateway_or_the_board_is_restarted() {
    let folder = tempfile::tempdir().unwrap();
    let mut scene = Scene::start(folder.path(), TRAVEL_TIME, &[]);
    // The robot drives on while its gateway is restarted, and the mission ends as it does.
    let first = scene.operator.submit(&go_to(1));
    scene.operator.await_state(&first, "running");
    scene.gateway.kill();
    scene.gateway.start_again();
    assert_eq!(scene.operator.await_end(&first)["state"], "succeeded");

    // After a power cut nobody knows how far it got, and nothing drives by itself.
    let second = scene.operator.submit(&go_to(2));
    scene.operator.await_state(&second, "running");
    scene.gateway.kill();
    scene.gateway.reboot();
    let ended = scene.operator.await_end(&second);
    assert_eq!(ended["state"], "interrupted", "{ended}");
    assert_eq!(scene.told(), [goal(FLOOR, 1), goal(FLOOR, 2)]);
}

/// flotilla#1387: a mission that is over at once leaves the robot busy for ever.
#[test]
fn a_very_short_mission_does_not_leave_the_robot_busy() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::start(folder.path(), Duration::ZERO, &[]);
    for number in 0..PLACES {
        let id = scene.operator.submit(&go_to(number));
        let ended = scene.operator.await_end(&id);
        assert_eq!(ended["state"], "succeeded", "{ended}");
        let status = scene.operator.status();
        assert!(status["command"].is_null(), "busy: {status}");
        let board = scene.gateway.control_status().unwrap();
        assert!(board["running"].is_null(), "busy: {board}");
    }
    let goals: Vec<_> = (0..PLACES).map(|number| goal(FLOOR, number)).collect();
    assert_eq!(scene.told(), goals);
}

/// flotilla#2514: a back end that was down is flooded when it returns, and loses information.
#[test]
fn a_backend_that_was_down_is_not_flooded_when_it_returns_and_loses_nothing() {
    const BACKLOG: u64 = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let floors = [1, 2, 3];
    let mut relay = Relay::start(folder.path(), &Building::with_places(&floors, 2));
    let adapter = Adapter::Sim { speed: 1.0 };
    let gateways = floors.map(|floor| {
        let gateway = Gateway::start(folder.path(), &relay, &building::robot(floor), &adapter);
        gateway.await_link();
        gateway
    });
    relay.kill();
    let producers: Vec<_> = floors
        .iter()
        .zip(&gateways)
        .map(|(floor, gateway)| {
            let name = format!("program-{floor}");
            Producer::over_socket(folder.path(), &name, gateway.control(), Duration::ZERO)
        })
        .collect();
    for gateway in &gateways {
        wait_until("a backlog has grown", 3 * SOON, || {
            let status = gateway.control_status();
            status.is_some_and(|s| s["spool"]["backlog"].as_u64() >= Some(BACKLOG))
        });
    }
    let said: Vec<_> = producers.into_iter().map(Producer::finish).collect();

    relay.start_again();
    let client = relay.client();
    let list = Request::get("/api/v1/places");
    wait_until("every backlog is with the relay", 3 * SOON, || {
        // It serves others all the while.
        assert_eq!(client.send(&list).status, 200);
        gateways.iter().all(|gateway| {
            let status = gateway.control_status();
            status.is_some_and(|s| s["spool"]["backlog"] == 0)
        })
    });
    let metrics = Page::read(client);
    let at_once = metrics.sum("brrbrr_stores_in_work_peak").unwrap();
    assert!(at_once <= 3.0, "{at_once} runs of records at a time");
    let mut judge = Judge::default();
    relay.stores().show(&mut judge);
    let verdict = judge.judge(&said);
    assert!(verdict.is_clean(), "{verdict}");
}

/// rmf_ros2#528: a task that was not acknowledged can neither be cancelled nor dispatched past.
#[test]
fn an_unacknowledged_command_can_be_cancelled_and_dispatched_past() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::start(folder.path(), TRAVEL_TIME, &[]);
    // Its connection stays open, so the command is sent, and nobody answers.
    scene.gateway.freeze();
    let stuck = scene.operator.submit(&go_to(1));
    scene.operator.await_state(&stuck, "sent");
    assert_eq!(scene.operator.cancel(&stuck), 202);
    assert_eq!(scene.operator.cancel(&stuck), 202, "once more");
    let cancelling = scene.operator.command(&stuck);
    assert_eq!(cancelling["cancelling"], true, "{cancelling}");
    scene.gateway.thaw();
    let ended = scene.operator.await_end(&stuck);
    assert_eq!(ended["state"], "cancelled", "{ended}");
    let commands = scene.operator.commands();
    let cancels = commands.iter().filter(|c| c["kind"] == "cancel").count();
    assert_eq!(cancels, 1, "{commands:?}");

    // The next one does not wait for one that nobody answers.
    scene.gateway.freeze();
    let stuck = scene.operator.submit(&go_to(2));
    scene.operator.await_state(&stuck, "sent");
    let next = scene.operator.submit(&go_to(3));
    scene.gateway.thaw();
    assert_eq!(scene.operator.await_end(&next)["state"], "succeeded");
    let ended = scene.operator.await_end(&stuck);
    assert_eq!(ended["state"], "superseded", "{ended}");
    assert_eq!(scene.robot.arrivals(), [goal(FLOOR, 3)]);
}

/// The same, where the robot is not in contact at all.
#[test]
fn a_command_that_was_never_sent_is_cancelled_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut scene = Scene::start(folder.path(), TRAVEL_TIME, &[]);
    scene.gateway.kill();
    scene.operator.await_presence("offline", SOON);
    let stuck = scene.operator.submit(&go_to(1));
    assert_eq!(scene.operator.cancel(&stuck), 200);
    assert_eq!(scene.operator.command(&stuck)["state"], "cancelled");
    // One that nobody withdraws ends by itself.
    let late = json!({"kind": "go-to", "place": place(FLOOR, 2), "expiresIn": 0.5});
    let late = scene.operator.submit(&late);
    assert_eq!(scene.operator.await_end(&late)["state"], "expired");
    let next = scene.operator.submit(&go_to(3));
    scene.gateway.start_again();
    assert_eq!(scene.operator.await_end(&next)["state"], "succeeded");
    assert_eq!(scene.told(), [goal(FLOOR, 3)]);
    let board = scene.operator.on_board(scene.gateway.control());
    assert_eq!(board.commands().len(), 1, "the others were never there");
}

/// free_fleet#221: a goal that was cancelled is sent again and again.
#[test]
fn a_cancelled_goal_is_not_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut scene = Scene::start(folder.path(), TRAVEL_TIME * 2, &["--heedless"]);
    let id = scene.operator.submit(&go_to(1));
    scene.operator.await_state(&id, "running");
    scene.operator.cancel(&id);
    let ended = scene.operator.await_end(&id);
    assert_eq!(ended["state"], "cancelled", "{ended}");
    scene.operator.cancel(&id);
    scene.link.hold();
    scene.gateway.kill();
    scene.gateway.start_again();
    scene.relay.kill();
    scene.relay.start_again();
    scene.link.release();
    scene.operator.await_presence("online", 2 * SOON);
    // It does not heed the cancellation and arrives: that is noted, and ends nothing a second time.
    wait_until("the robot has arrived", SOON, || {
        !scene.robot.arrivals().is_empty()
    });
    let last = scene.operator.submit(&go_to(2));
    assert_eq!(scene.operator.await_end(&last)["state"], "succeeded");
    let ended = scene.operator.command(&id);
    assert_eq!(ended["state"], "cancelled", "{ended}");
    let told = [goal(FLOOR, 1), "stop".to_owned(), goal(FLOOR, 2)];
    assert_eq!(scene.told(), told);
}
