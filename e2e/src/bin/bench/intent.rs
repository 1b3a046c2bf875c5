//! From the guest's wish to the robot's broker, beside the least that it could take.

use std::path::Path;
use std::time::{Duration, Instant};

use brrbrr_e2e::http::{Connection, Request};
use brrbrr_e2e::relay::Relay;
use brrbrr_e2e::vhost::Vhost;
use brrbrr_e2e::wait::{SOON, wait_until};

use crate::broker::{Echo, Hop, Robot};
use crate::machine::SyncedFile;
use crate::table::{Samples, Table};

const ROUNDS: usize = 10;
const SAMPLES_A_ROUND: usize = 40;
const PLACES: [&str; 2] = ["701호", "702호"];

/// Measures and adds the rows.
pub fn run(table: &mut Table, folder: &Path, relay: &Relay, vhost: &Vhost, code: &str) {
    let robot = Robot::start(vhost.url());
    let mqtt = std::env::var("BRRBRR_TEST_MQTT_URL").expect("run under scripts/services run");
    let echo = Echo::start(&mqtt);
    let mut disk = SyncedFile::create(folder);
    let mut connection = Connection::open(relay.client().0).unwrap();
    let empty = Vhost::create();
    let hop = Hop::start(empty.url());
    let (mut wishes, mut floors, mut hops) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for sample in 0..SAMPLES_A_ROUND {
            let wish = wish(&mut connection, &robot, PLACES[sample % 2], code);
            // What wakes up for the first time is not what is measured.
            if round > 0 || sample > 1 {
                wishes.push(wish);
            }
        }
        for _ in 0..SAMPLES_A_ROUND {
            let began = Instant::now();
            echo.turn();
            disk.write();
            disk.write();
            floors.push(began.elapsed());
            hops.push(hop.turn());
        }
    }
    let (count, wishes, floors) = (wishes.len(), Samples::new(wishes), Samples::new(floors));
    let old = "old system: p50 35.5 as shipped, 4.5 with Nagle off, nothing durable";
    table.row(
        &format!("wish to robot, {count} times"),
        &wishes.summary(),
        old,
    );
    table.row(
        "  floor: MQTT round trip and two fdatasyncs",
        &floors.summary(),
        "the same disk, interleaved",
    );
    table.row(
        "  RabbitMQ alone, from publish to the robot",
        &Samples::new(hops).summary(),
        "in the wish, not in the floor",
    );
    for (percent, budget) in [(50, "<= 1.5"), (99, "<= 2.5")] {
        let [own, floor] = [&wishes, &floors].map(|s| s.percentile(percent).as_secs_f64());
        table.row(
            &format!("  p{percent}, times the floor's"),
            &format!("{:.2}", own / floor),
            budget,
        );
    }
}

fn wish(connection: &mut Connection, robot: &Robot, place: &str, code: &str) -> Duration {
    let search = Request::get("/api/v1/searchs")
        .query("name", place)
        .code(code);
    let search = search.bytes(true);
    let began = Instant::now();
    let answer = connection.exchange(&search).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let (heard, goal) = robot.next();
    assert!(goal.contains(','), "not a goal: {goal:?}");
    let arrived = Request::get("/api/v1/robots/arrived")
        .code(code)
        .bytes(true);
    wait_until("the robot has arrived", SOON, || {
        connection.exchange(&arrived).unwrap().ok()["isArrived"] == true
    });
    heard - began
}
