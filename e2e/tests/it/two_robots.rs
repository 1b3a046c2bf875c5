//! Two robots, each with a broker and a gateway of its own, behind one relay.

use std::path::Path;
use std::time::Duration;

use brrbrr_e2e::building::{self, Building, goal, place};
use brrbrr_e2e::face::{Face, USUAL};
use brrbrr_e2e::gateway::{Adapter, Gateway};
use brrbrr_e2e::guest::{Guest, Seen};
use brrbrr_e2e::http::Request;
use brrbrr_e2e::relay::Relay;
use brrbrr_e2e::robot::Robot;
use brrbrr_e2e::vhost::Vhost;
use brrbrr_e2e::wait::{SOON, wait_until};

const FLOORS: [i32; 2] = [7, 8];
const TRIPS: usize = 50;
const TRAVEL_TIME: Duration = Duration::from_millis(50);

/// What a face is sent for one trip whose arrival is asked for.
const TRIP_ON_FACE: [&str; 4] = [
    "destinations",
    "changePageTo:guide",
    "changePageTo:destination",
    "changoPageTo:destination",
];

struct Floor {
    floor: i32,
    guest: Guest,
    code: String,
    face: Face,
    robot: Robot,
    _gateway: Gateway,
    _broker: Vhost,
}

impl Floor {
    fn start(folder: &Path, relay: &Relay, floor: i32) -> Self {
        let name = building::robot(floor);
        let broker = Vhost::create();
        let robot = Robot::start(folder, &name, &broker, "text", TRAVEL_TIME);
        let url = broker.url().to_owned();
        let gateway = Gateway::start(folder, relay, &name, &Adapter::Amqp { url, wire: "text" });
        gateway.await_link();
        let (face, code) = Face::bind(folder, relay.client(), USUAL, &name);
        Self {
            floor,
            guest: Guest::new(relay, &name, &code),
            code,
            face,
            robot,
            _gateway: gateway,
            _broker: broker,
        }
    }

    fn make_trip(&mut self, number: usize) {
        let place = place(self.floor, number);
        self.guest.ask(&place);
        assert_eq!(self.guest.await_end(&place), Seen::Arrived);
        for expected in TRIP_ON_FACE {
            assert_eq!(self.face.take().short(), expected, "on the way to {place}");
        }
    }

    fn has_arrived(&self, relay: &Relay) -> bool {
        let ask = Request::get("/api/v1/robots/arrived").code(&self.code);
        relay.client().send(&ask).ok()["isArrived"] == true
    }
}

#[test]
fn only_the_robot_that_was_asked_moves_and_only_it_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(folder.path(), &Building::with_places(&FLOORS, 3));
    let [mut seven, mut eight] = FLOORS.map(|floor| Floor::start(folder.path(), &relay, floor));

    seven.make_trip(0);
    assert!(!eight.has_arrived(&relay), "the other one's arrival");
    // What was on its way to the wrong robot would be there before this.
    eight.make_trip(1);
    seven.make_trip(2);

    assert_eq!(seven.robot.commands(), [goal(7, 0), goal(7, 2)]);
    assert_eq!(eight.robot.commands(), [goal(8, 1)]);
    let log = relay.stores().trip_log();
    let steps: Vec<_> = log
        .iter()
        .map(|trip| {
            (
                trip.robot.as_str(),
                trip.destination.clone(),
                trip.step.as_str(),
            )
        })
        .collect();
    assert_eq!(
        steps,
        [
            ("guide-7", place(7, 0), "출발"),
            ("guide-7", place(7, 0), "도착"),
            ("guide-8", place(8, 1), "출발"),
            ("guide-8", place(8, 1), "도착"),
            ("guide-7", place(7, 2), "출발"),
            ("guide-7", place(7, 2), "도착"),
        ]
    );
}

#[test]
fn fifty_trips_in_a_row_of_two_robots_at_once_are_neither_lost_nor_doubled() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(folder.path(), &Building::with_places(&FLOORS, TRIPS));
    let mut floors = FLOORS.map(|floor| Floor::start(folder.path(), &relay, floor));

    std::thread::scope(|scope| {
        for floor in &mut floors {
            scope.spawn(|| (0..TRIPS).for_each(|number| floor.make_trip(number)));
        }
    });

    let stores = relay.stores();
    wait_until("every command is final in the ledger", SOON, || {
        stores.commands().iter().all(|command| command.is_final())
    });
    let (log, arrivals) = (stores.trip_log(), stores.arrivals());
    assert_eq!(arrivals.len(), 2 * TRIPS);
    for Floor {
        floor, robot, face, ..
    } in &floors
    {
        let goals: Vec<_> = (0..TRIPS).map(|number| goal(*floor, number)).collect();
        assert_eq!(robot.commands(), goals, "what the robot was told");
        assert_eq!(robot.arrivals(), goals, "what the robot said");

        let name = building::robot(*floor);
        let ordered = stores.trips_ordered(&name);
        let places: Vec<_> = (0..TRIPS).map(|number| place(*floor, number)).collect();
        let asked: Vec<_> = ordered.iter().filter_map(|trip| trip.place()).collect();
        assert_eq!(asked, places, "what is in the ledger");
        for trip in &ordered {
            assert_eq!(trip.state, "succeeded", "{trip:?}");
            assert_eq!(trip.endings(), 1, "{trip:?}");
            let recorded = arrivals.iter().filter(|id| id.as_deref() == Some(&trip.id));
            assert_eq!(recorded.count(), 1, "arrivals of {trip:?}");
        }
        for step in ["출발", "도착"] {
            let logged = log
                .iter()
                .filter(|trip| trip.robot == name && trip.step == step);
            let logged: Vec<_> = logged.map(|trip| trip.destination.clone()).collect();
            assert_eq!(logged, places, "{step} in the log");
        }
        // Nothing came besides what make_trip has compared: connecting and binding are four.
        assert_eq!(face.all().len(), 4 + TRIPS * TRIP_ON_FACE.len());
    }
}
