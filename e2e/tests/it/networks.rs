//! Bad networks: a gateway in a network namespace of its own, and between it and the relay a wire that
//! loses, delays and swallows packets. Whatever it does, everything that was accepted arrives, once
//! and in order.
//!
//! Where this machine allows no namespaces, the tests say so and end; `scripts/test` says so too.

use std::time::{Duration, Instant};

use brrbrr_e2e::building::{self, Building};
use brrbrr_e2e::gateway::{Adapter, Gateway, Site};
use brrbrr_e2e::judge::Judge;
use brrbrr_e2e::producer::Producer;
use brrbrr_e2e::relay::Relay;
use brrbrr_e2e::wait::wait_until;
use brrbrr_e2e::wire::{Condition, Packets, Wire};

const FLOOR: i32 = 7;
/// How long the robot's program rests between posts of some events each.
const REST: Duration = Duration::from_millis(40);
/// How long everything is well at first.
const CLEAR: Duration = Duration::from_secs(1);
/// How long it may take until everything has arrived.
const COMPLETE: Duration = Duration::from_secs(240);
/// Behind this no packet of TCP with data in it fits, while connections can be made.
const SMALL_PACKETS: u32 = 200;

#[test]
fn a_partition_loses_nothing() {
    Drill::new("a partition", &[(Condition::Partition, 20)]).run();
}

#[test]
fn a_way_that_is_lost_in_one_direction_and_then_in_the_other_loses_nothing() {
    let way = [(Condition::FarMute, 10), (Condition::NearMute, 10)];
    Drill::new("one-way loss", &way).run();
}

#[test]
fn a_link_that_flaps_every_second_loses_nothing() {
    let each = Duration::from_secs(1);
    Drill::new("flapping", &[(Condition::Flap(each), 20)]).run();
}

#[test]
fn a_black_hole_for_long_packets_loses_nothing() {
    let hole = [(Condition::Mtu(SMALL_PACKETS), 20)];
    Drill::new("an MTU black hole", &hole).run();
}

#[test]
fn with_every_fifth_packet_lost_everything_arrives() {
    let drill = Drill::new("20 % loss", &[(Condition::Loss(20), 8)]);
    drill.without_an_end().run();
}

#[test]
fn with_two_seconds_of_latency_everything_arrives() {
    let each = Duration::from_secs(2);
    let drill = Drill::new("2 s latency", &[(Condition::Delay(each), 5)]);
    let ended = drill.without_an_end().run();
    let slowest = ended.is_none_or(|took| took >= each);
    assert!(slowest, "the last records cannot have come sooner");
}

/// What happens to the network, and for how many seconds each.
struct Drill {
    name: &'static str,
    conditions: Vec<(Condition, u64)>,
    heals: bool,
}

impl Drill {
    fn new(name: &'static str, conditions: &[(Condition, u64)]) -> Self {
        Self {
            name,
            conditions: conditions.to_vec(),
            heals: true,
        }
    }

    /// The last condition stays until everything has arrived.
    fn without_an_end(self) -> Self {
        Self {
            heals: false,
            ..self
        }
    }

    /// Returns how long it took from the last acknowledgement to a producer, or from the end of the
    /// conditions, until everything had arrived; nothing where there is no wire.
    fn run(self) -> Option<Duration> {
        let name = self.name;
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let mut wire = match Wire::lay(folder) {
            Ok(wire) => wire,
            Err(why) => {
                eprintln!("SKIPPED: {name}: no network namespaces here: {why}");
                return None;
            }
        };
        let building = Building::with_places(&[FLOOR], 1);
        let relay = Relay::start_on(wire.near(), folder, &building);
        let site = Site {
            mqtt: Some(relay.mqtt()),
            namespace: Some(wire.namespace().to_owned()),
            boot: None,
        };
        let (robot, adapter) = (building::robot(FLOOR), Adapter::Sim { speed: 1.0 });
        let gateway = Gateway::start_at(&site, folder, &relay, &robot, &adapter);
        gateway.await_link();

        let producer = Producer::over_socket(folder, "program", gateway.control(), REST);
        let earlier = self.disturb(&mut wire, &gateway);
        let acknowledged = [producer.finish()];
        let began = Instant::now();
        wait_until("everything has arrived", COMPLETE, || {
            let status = gateway.control_status();
            status.is_some_and(|status| status["spool"]["backlog"] == 0)
        });
        let took = began.elapsed();
        let packets = wire.set(Condition::Clear);
        let mut judge = Judge::default();
        relay.stores().show(&mut judge);
        let verdict = judge.judge(&acknowledged);
        let sessions = &gateway.control_status().unwrap()["link"]["sessions"];
        let lost = packets.lost - earlier.lost;
        eprintln!(
            "{name}: complete after {:.1} s, {sessions} sessions, {} packets carried, {lost} lost: \
             {verdict}",
            took.as_secs_f64(),
            packets.carried - earlier.carried,
        );
        assert!(verdict.is_clean(), "{verdict}");
        assert!(verdict.acknowledged > 100, "{verdict}");
        assert_eq!(verdict.streams, 1, "the spool was begun anew: {verdict}");
        Some(took)
    }

    /// Lets everything happen, and heals the wire if it is to be healed. Returns what the wire had
    /// carried when it was well.
    fn disturb(&self, wire: &mut Wire, gateway: &Gateway) -> Packets {
        // The length of a fault, not a wait for something.
        std::thread::sleep(CLEAR);
        let well = wire.set(Condition::Clear);
        for (condition, seconds) in &self.conditions {
            wire.set(*condition);
            std::thread::sleep(Duration::from_secs(*seconds));
        }
        if self.heals {
            let status = gateway.control_status().unwrap();
            let waiting = status["spool"]["backlog"].as_u64().unwrap();
            let packets = wire.set(Condition::Clear);
            assert!(
                packets.lost > well.lost && waiting > 0,
                "nothing was wrong: {status}"
            );
        }
        well
    }
}
