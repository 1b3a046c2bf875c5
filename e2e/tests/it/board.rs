//! A robot's own side: what its board knows of the building, and how it guides people by name while
//! there is no relay.

use brrbrr_e2e::building::{Building, place, robot};
use brrbrr_e2e::gateway::{Adapter, Gateway};
use brrbrr_e2e::http::{Answer, Request};
use brrbrr_e2e::relay::Relay;
use brrbrr_e2e::wait::{SOON, wait_for, wait_until};
use serde_json::{Value, json};

const FLOOR: i32 = 7;
/// A change is told of at once; what takes longer was found by looking.
const SECONDS: std::time::Duration = std::time::Duration::from_secs(10);

fn places_on(gateway: &Gateway) -> u64 {
    let status = gateway.control_status().unwrap_or_default();
    status["building"]["places"].as_u64().unwrap_or_default()
}

fn ask(gateway: &Gateway, request: &Request) -> Answer {
    gateway.control().try_send(request).unwrap()
}

/// Sends the robot to a place by name, on its own board, and waits until it has come there.
fn guide(gateway: &Gateway, name: &str) -> Value {
    let body = json!({"kind": "go-to", "place": name});
    let given = ask(
        gateway,
        &Request::new("POST", "/api/v1/commands").json(&body),
    );
    assert_eq!(given.status, 201, "{given:?}");
    let id = given.json()["id"].as_str().unwrap().to_owned();
    let wait = Request::get(&format!("/api/v1/commands/{id}/wait")).query("timeout", "15");
    let ended = ask(gateway, &wait).json();
    assert_eq!(ended["state"], "succeeded", "{ended}");
    ended
}

#[test]
fn a_change_of_the_building_is_on_the_board_within_seconds_and_outlives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut relay = Relay::start(folder.path(), &Building::with_places(&[FLOOR], 300));
    let adapter = Adapter::Sim { speed: 1_000.0 };
    let mut gateway = Gateway::start(folder.path(), &relay, &robot(FLOOR), &adapter);
    wait_until("the board knows its building", SOON, || {
        places_on(&gateway) == 300
    });
    let of_relay = relay.client().send(&Request::get("/api/v1/places")).ok();
    assert_eq!(
        ask(&gateway, &Request::get("/api/v1/places")).json(),
        of_relay
    );

    let new = json!({"name": "새 회의실", "floor": FLOOR, "xaxis": 3.5, "yaxis": 1.5});
    let added = Request::new("POST", "/api/v1/places").json(&new);
    assert_eq!(relay.client().send(&added).status, 200);
    wait_until("the change is on the board", SECONDS, || {
        places_on(&gateway) == 301
    });
    let status = gateway.control_status().unwrap();
    assert!(status["building"]["problem"].is_null(), "{status}");

    relay.kill();
    gateway.kill();
    gateway.start_again();
    wait_until("the board answers again", SOON, || {
        places_on(&gateway) == 301
    });
    let ended = wait_for("the robot is there", SOON, || {
        Some(guide(&gateway, "새 회의실"))
    });
    assert_eq!((&ended["x"], &ended["y"]), (&json!(3.5), &json!(1.5)));
}

#[test]
fn with_the_relay_gone_the_board_guides_by_name_and_the_ledger_is_complete_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut relay = Relay::start(folder.path(), &Building::with_places(&[FLOOR], 3));
    let adapter = Adapter::Sim { speed: 1_000.0 };
    let gateway = Gateway::start(folder.path(), &relay, &robot(FLOOR), &adapter);
    gateway.await_link();
    wait_until("the board knows its building", SOON, || {
        places_on(&gateway) == 3
    });
    relay.kill();
    let guided: Vec<_> = (0..3)
        .map(|number| guide(&gateway, &place(FLOOR, number)))
        .collect();
    let refused = json!({"kind": "go-to", "place": "nowhere"});
    let refused = Request::new("POST", "/api/v1/commands").json(&refused);
    assert_eq!(ask(&gateway, &refused).status, 404);

    relay.start_again();
    for on_board in &guided {
        let path = format!("/api/v1/commands/{}", on_board["id"].as_str().unwrap());
        let in_ledger = wait_for("the ledger has the command and its end", SOON, || {
            let answer = relay.client().try_send(&Request::get(&path)).ok()?;
            let command = serde_json::from_slice::<Value>(&answer.body).ok()?;
            (command["final"] == true).then_some(command)
        });
        for field in [
            "kind", "place", "x", "y", "floor", "actor", "state", "robot",
        ] {
            assert_eq!(in_ledger[field], on_board[field], "{field}: {in_ledger}");
        }
        // The ledger's own first step is that it was entered, when it was given.
        let (entered, rest) = history(&in_ledger).split_first().unwrap();
        assert_eq!(entered["state"], "queued", "{in_ledger}");
        assert_eq!(states(rest), states(history(on_board)));
        let ours = std::iter::once(&on_board["submittedAt"]);
        let ours = ours.chain(history(on_board).iter().map(|step| &step["at"]));
        for (step, ours) in history(&in_ledger).iter().zip(ours) {
            let apart = moment(&step["at"]).abs_diff(moment(ours));
            assert!(apart < 1_000, "{apart} ms apart: {in_ledger} {on_board}");
        }
    }
}

fn history(command: &Value) -> &[Value] {
    command["history"].as_array().unwrap()
}

fn states(history: &[Value]) -> Vec<&str> {
    let states = history.iter().map(|step| step["state"].as_str().unwrap());
    states.collect()
}

/// Milliseconds of the day.
fn moment(time: &Value) -> u64 {
    let time = time.as_str().unwrap();
    let digits = |from, to| time[from..to].parse::<u64>().unwrap();
    ((digits(11, 13) * 60 + digits(14, 16)) * 60 + digits(17, 19)) * 1000 + digits(20, 23)
}
