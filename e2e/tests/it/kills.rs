//! Fault drills: programs are killed at random moments of trips, as power cuts would, and every
//! trip is accounted for afterwards. `BRRBRR_SEED` repeats a drill.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use brrbrr_e2e::building::{self, Building, goal, place};
use brrbrr_e2e::face::{Face, USUAL};
use brrbrr_e2e::gateway::{Adapter, Gateway};
use brrbrr_e2e::guest::{Guest, Seen};
use brrbrr_e2e::random::Random;
use brrbrr_e2e::relay::Relay;
use brrbrr_e2e::robot::Robot;
use brrbrr_e2e::stores::{Command, Stores};
use brrbrr_e2e::vhost::Vhost;
use brrbrr_e2e::wait::wait_until;
use serde_json::Value;

const FLOOR: i32 = 7;
const TRIPS: usize = 200;
const KILLS: usize = 20;
const TRAVEL_TIME: Duration = Duration::from_millis(50);
/// About twice what a trip takes, so that kills fall into every part of it and between trips.
const KILL_WITHIN: Duration = Duration::from_millis(200);
/// How long the last trips may take to be known everywhere.
const SETTLE: Duration = Duration::from_secs(60);

#[test]
fn a_relay_killed_twenty_times_loses_and_doubles_nothing_of_two_hundred_trips() {
    let mut random = Random::of_drill("relay drill", 20_261_120);
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::start(folder.path(), "text");
    let Scene {
        relay,
        gateway,
        robot,
        guest,
        stores,
        ..
    } = scene;
    let mut killer = Killer::start(relay, &mut random, |relay| {
        relay.kill();
        relay.start_again();
    });
    for number in 0..TRIPS {
        killer.tell(number);
        let place = place(FLOOR, number);
        guest.ask(&place);
        assert_eq!(guest.await_end(&place), Seen::Arrived, "{place}");
    }
    let _relay = killer.finish();

    let ordered = settled(&stores);
    let goals: Vec<_> = (0..TRIPS).map(|number| goal(FLOOR, number)).collect();
    assert_eq!(robot.commands(), goals, "what the robot was told");
    assert_eq!(robot.arrivals(), goals, "what the robot said");
    let asked: Vec<_> = ordered.iter().filter_map(|trip| trip.place()).collect();
    let places: Vec<_> = (0..TRIPS).map(|number| place(FLOOR, number)).collect();
    assert_eq!(asked, places, "what is in the ledger");
    for trip in &ordered {
        assert_eq!(trip.state, "succeeded", "{trip:?}");
    }
    let ids: Vec<_> = ordered.iter().map(|trip| trip.id.clone()).collect();
    assert_arrivals(&stores, &ids);
    drop(gateway);
}

#[test]
fn a_gateway_killed_twenty_times_runs_no_command_twice_and_loses_no_arrival() {
    let drill = GatewayDrill::run("json");
    let given: Vec<String> = drill
        .robot
        .commands()
        .iter()
        .map(|body| id_of(body))
        .collect();
    drill.assert_orderly(&given, |trip| trip.id.clone());
    assert_arrivals(&drill.stores, &drill.robot.answered());
}

/// Arrivals have no names here. One of a trip whose hand-over was cut may come while the next trip is
/// on, and nobody can tell, so only what the robot was told is compared.
#[test]
fn with_the_text_wire_a_gateway_killed_twenty_times_runs_no_command_twice() {
    let drill = GatewayDrill::run("text");
    let goals: Vec<_> = (0..TRIPS)
        .map(|number| (place(FLOOR, number), goal(FLOOR, number)))
        .collect();
    drill.assert_orderly(&drill.robot.commands(), |trip| {
        let named = goals
            .iter()
            .find(|(place, _)| Some(place.as_str()) == trip.place());
        named.map(|(_, goal)| goal.clone()).unwrap()
    });
    drill.stores.assert_no_holes();
}

/// Trips during which the gateway was killed again and again.
struct GatewayDrill {
    robot: Robot,
    stores: Stores,
    ordered: Vec<Command>,
    _relay: Relay,
    _gateway: Gateway,
    _face: Face,
    _broker: Vhost,
    _folder: tempfile::TempDir,
}

impl GatewayDrill {
    fn run(wire: &'static str) -> Self {
        let mut random = Random::of_drill("gateway drill", 20_261_121);
        let folder = tempfile::tempdir().unwrap();
        let scene = Scene::start(folder.path(), wire);
        let mut killer = Killer::start(scene.gateway, &mut random, |gateway| {
            gateway.kill();
            gateway.start_again();
        });
        for number in 0..TRIPS {
            killer.tell(number);
            let place = place(FLOOR, number);
            scene.guest.ask(&place);
            // A trip whose hand-over was cut may end as interrupted, whether the robot drives or not.
            scene.guest.await_end(&place);
        }
        let gateway = killer.finish();
        Self {
            ordered: settled(&scene.stores),
            robot: scene.robot,
            stores: scene.stores,
            _relay: scene.relay,
            _gateway: gateway,
            _face: scene._face,
            _broker: scene._broker,
            _folder: folder,
        }
    }

    /// The robot was told each command once at the most, and each that succeeded. `told` is what the
    /// robot is told of a trip.
    fn assert_orderly(&self, given: &[String], told: impl Fn(&Command) -> String) {
        let distinct: BTreeSet<_> = given.iter().collect();
        assert_eq!(distinct.len(), given.len(), "a command ran twice");
        let told: Vec<_> = self.ordered.iter().map(|trip| (trip, told(trip))).collect();
        for body in given {
            let is_known = told.iter().any(|(_, told)| told == body);
            assert!(is_known, "{body} is not in the ledger");
        }
        for (trip, told) in &told {
            let is_fine = ["succeeded", "interrupted"].contains(&trip.state.as_str());
            assert!(is_fine, "{trip:?}");
            let was_given = distinct.contains(told);
            assert!(
                was_given || trip.state != "succeeded",
                "never given: {trip:?}"
            );
        }
    }
}

/// One robot with everything around it.
struct Scene {
    relay: Relay,
    gateway: Gateway,
    robot: Robot,
    guest: Guest,
    stores: Stores,
    _face: Face,
    _broker: Vhost,
}

impl Scene {
    fn start(folder: &Path, wire: &'static str) -> Self {
        let name = building::robot(FLOOR);
        let relay = Relay::start(folder, &Building::with_places(&[FLOOR], TRIPS));
        let broker = Vhost::create();
        let robot = Robot::start(folder, &name, &broker, wire, TRAVEL_TIME);
        let url = broker.url().to_owned();
        let gateway = Gateway::start(folder, &relay, &name, &Adapter::Amqp { url, wire });
        gateway.await_link();
        let (face, code) = Face::bind(folder, relay.client(), USUAL, &name);
        Self {
            guest: Guest::new(&relay, &name, &code),
            stores: relay.stores(),
            relay,
            gateway,
            robot,
            _face: face,
            _broker: broker,
        }
    }
}

/// Kills and restarts something at moments that were drawn before the drill began.
struct Killer<T> {
    /// A trip number and how long after its start to strike, the next one last.
    plan: Vec<(usize, Duration)>,
    strikes: SyncSender<Duration>,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Killer<T> {
    fn start(mut victim: T, random: &mut Random, strike: impl Fn(&mut T) + Send + 'static) -> Self {
        let mut trips = BTreeSet::new();
        while trips.len() < KILLS {
            trips.insert(random.index(TRIPS));
        }
        let within = u64::try_from(KILL_WITHIN.as_micros()).unwrap();
        let mut delay = || Duration::from_micros(random.below(within));
        let mut plan: Vec<_> = trips.into_iter().map(|trip| (trip, delay())).collect();
        plan.reverse();
        let (strikes, planned) = sync_channel::<Duration>(KILLS);
        let thread = std::thread::spawn(move || {
            for delay in planned {
                // The moment of a fault, not a wait for something.
                std::thread::sleep(delay);
                strike(&mut victim);
            }
            victim
        });
        Self {
            plan,
            strikes,
            thread,
        }
    }

    /// A trip begins.
    fn tell(&mut self, trip: usize) {
        if let Some((_, delay)) = self.plan.pop_if(|(planned, _)| *planned == trip) {
            self.strikes.send(delay).unwrap();
        }
    }

    /// Every strike has been made.
    fn finish(self) -> T {
        assert!(self.plan.is_empty(), "strikes are left: {:?}", self.plan);
        drop(self.strikes);
        self.thread.join().unwrap()
    }
}

/// The trips in the ledger, when all have ended. Each has ended once.
fn settled(stores: &Stores) -> Vec<Command> {
    let ordered = || stores.trips_ordered(&building::robot(FLOOR));
    wait_until("every trip has ended in the ledger", SETTLE, || {
        ordered().iter().all(Command::is_final)
    });
    let ordered = ordered();
    assert_eq!(ordered.len(), TRIPS, "trips in the ledger");
    for trip in &ordered {
        assert_eq!(trip.endings(), 1, "{trip:?}");
    }
    ordered
}

/// Each of these commands has one arrival in the journal and in the trip log, and no other has.
fn assert_arrivals(stores: &Stores, commands: &[String]) {
    let expected: BTreeSet<_> = commands.iter().cloned().map(Some).collect();
    assert_eq!(expected.len(), commands.len(), "an arrival was said twice");
    wait_until("every arrival is in the journal", SETTLE, || {
        stores.arrivals().len() >= commands.len()
    });
    stores.assert_no_holes();
    let arrivals = stores.arrivals();
    assert_eq!(arrivals.len(), commands.len(), "arrivals in the journal");
    assert_eq!(BTreeSet::from_iter(arrivals), expected);
    wait_until("every arrival is in the trip log", SETTLE, || {
        let log = stores.trip_log();
        let arrived = log.iter().filter(|trip| trip.step == "도착");
        arrived
            .map(|trip| Some(trip.command.clone()))
            .collect::<BTreeSet<_>>()
            == expected
    });
}

/// The id in a command as a robot gets it in JSON.
fn id_of(body: &str) -> String {
    let command: Value = serde_json::from_str(body).unwrap();
    command["command"]["id"].as_str().unwrap().to_owned()
}
