//! From an operator's command to the robot's broker: a go-to, its cancellation, and a stop, beside the
//! least that they could take.

use std::path::Path;
use std::time::{Duration, Instant};

use brrbrr_e2e::http::{Connection, Request};
use brrbrr_e2e::operator::Operator;
use brrbrr_e2e::relay::Relay;
use brrbrr_e2e::vhost::Vhost;
use serde_json::{Value, json};

use crate::broker::{Echo, Robot};
use crate::machine::SyncedFile;
use crate::table::{Samples, Table};

const ROUNDS: usize = 10;
const SAMPLES_A_ROUND: usize = 20;
const PLACES: [&str; 2] = ["701호", "702호"];

/// Measures and adds the rows.
pub fn run(table: &mut Table, folder: &Path, relay: &Relay, vhost: &Vhost, robot: &str) {
    let operator = Operator::at(relay, robot);
    let robot = Robot::start_dawdling(vhost.url());
    let mqtt = std::env::var("BRRBRR_TEST_MQTT_URL").expect("run under scripts/services run");
    let echo = Echo::start(&mqtt);
    let mut disk = SyncedFile::create(folder);
    let mut desk = Desk {
        connection: Connection::open(relay.client().0).unwrap(),
        operator,
        robot,
    };
    let (mut submits, mut cancels, mut stops, mut floors) = (vec![], vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        for sample in 0..SAMPLES_A_ROUND {
            let (submit, id) = desk.go_to(PLACES[sample % 2]);
            let path = format!("/api/v1/commands/{id}");
            let (cancel, _) = desk.send(&Request::new("DELETE", &path), "stop");
            let _ended = desk.operator.await_end(&id);
            let (_, id) = desk.go_to(PLACES[sample % 2]);
            let halt = desk.operator.submission(&json!({"kind": "stop"}));
            let (stop, _) = desk.send(&halt, "stop");
            let _ended = desk.operator.await_end(&id);
            // What wakes up for the first time is not what is measured.
            if round > 0 || sample > 1 {
                submits.push(submit);
                cancels.push(cancel);
                stops.push(stop);
            }
        }
        for _ in 0..SAMPLES_A_ROUND {
            let began = Instant::now();
            echo.turn();
            disk.write();
            disk.write();
            floors.push(began.elapsed());
        }
    }
    let floors = Samples::new(floors);
    for (what, samples) in [
        ("submit to robot", submits),
        ("cancel to robot", cancels),
        ("stop to robot", stops),
    ] {
        let (count, samples) = (samples.len(), Samples::new(samples));
        let [p50, p99] = [50, 99].map(|percent| {
            samples.percentile(percent).as_secs_f64() / floors.percentile(percent).as_secs_f64()
        });
        let ratios = format!("{p50:.2} and {p99:.2} times the floor");
        let what = format!("{what}, {count} times");
        table.row(&what, &samples.summary(), &ratios);
    }
    let what = "  floor: MQTT round trip and two fdatasyncs";
    table.row(what, &floors.summary(), "the same disk, interleaved");
}

struct Desk {
    connection: Connection,
    operator: Operator,
    robot: Robot,
}

impl Desk {
    /// Sends the robot off and waits until it is known to drive.
    fn go_to(&mut self, place: &str) -> (Duration, String) {
        let order = json!({"kind": "go-to", "place": place});
        let (taken, answer) = self.send(&self.operator.submission(&order), ",");
        let id = answer["id"].as_str().unwrap().to_owned();
        self.operator.await_state(&id, "running");
        (taken, id)
    }

    /// How long it takes until the robot hears something that holds `word`.
    fn send(&mut self, request: &Request, word: &str) -> (Duration, Value) {
        let request = request.bytes(true);
        let began = Instant::now();
        let answer = self.connection.exchange(&request).unwrap();
        assert!(answer.status < 300, "{}", answer.text());
        let (heard, told) = self.robot.next();
        assert!(told.contains(word), "not what was asked for: {told:?}");
        (heard - began, answer.json())
    }
}
