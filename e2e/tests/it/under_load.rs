//! Random kills under load: gateways, the relay with the broker inside it, and the way to that broker
//! are ended again and again while producers speak. Then everything that any producer was acknowledged
//! stands in the relay's journal once and in order.
//!
//! The relay's MQTT broker is a part of the relay's process, so SIGKILL of the relay is SIGKILL of the
//! broker. What a broker of its own would add to that, its death while the relay lives, is played by a
//! proxy between gateways and broker that cuts all connections and refuses new ones for a while.
//!
//! `BRRBRR_KILLS` sets how many kills; from [`LONG`] on the robots' own `RabbitMQ` is among the victims
//! (not otherwise, because tests share it), so run that alone. `BRRBRR_SEED` repeats a drill.

use std::path::Path;
use std::time::{Duration, Instant};

use brrbrr_e2e::building::{self, Building};
use brrbrr_e2e::gateway::{Adapter, Gateway, Site};
use brrbrr_e2e::judge::{Acknowledged, Judge, Verdict};
use brrbrr_e2e::producer::Producer;
use brrbrr_e2e::proxy::Proxy;
use brrbrr_e2e::random::Random;
use brrbrr_e2e::relay::{Relay, run};
use brrbrr_e2e::vhost::Vhost;
use brrbrr_e2e::wait::wait_until;

const FLOORS: [i32; 3] = [7, 8, 9];
const KILLS: usize = 60;
/// So many kills are a long drill.
const LONG: usize = 500;
/// In a long drill one kill in so many is the robots' broker's: it takes seconds to start.
const RABBITMQ_SHARE: usize = 40;
/// The longest time between what shows that the system works again and the next kill.
const KILL_WITHIN: Duration = Duration::from_millis(400);
/// How long a victim is away, at most.
const AWAY_WITHIN: Duration = Duration::from_millis(200);
/// How long producers rest between two things they say.
const REST: Duration = Duration::from_millis(2);
/// How long it may take until records come through again after a kill: a gateway's waits between
/// attempts grow while its attempts fail.
const WORKS_AGAIN: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(120);
/// How often the journal is read as a whole while something is missing.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy)]
enum Victim {
    Gateway(usize),
    Relay,
    Way,
    RabbitMq,
}

#[test]
fn random_kills_of_gateways_broker_and_relay_under_load_lose_double_and_reorder_nothing() {
    let kills = std::env::var("BRRBRR_KILLS");
    let kills = kills.map_or(KILLS, |text| {
        text.parse().expect("BRRBRR_KILLS is a number")
    });
    let mut random = Random::of_drill("kills under load", 20_261_122);
    let folder = tempfile::tempdir().unwrap();
    let mut scene = Scene::start(folder.path());
    let producers = scene.producers(folder.path());
    let began = Instant::now();
    let mut counts = [0; 4];
    for number in 0..kills {
        scene.await_progress();
        std::thread::sleep(below(&mut random, KILL_WITHIN));
        let is_long = kills >= LONG;
        let victim = draw(&mut random, is_long && number % RABBITMQ_SHARE == 0);
        counts[match victim {
            Victim::Gateway(_) => 0,
            Victim::Relay => 1,
            Victim::Way => 2,
            Victim::RabbitMq => 3,
        }] += 1;
        scene.strike(victim, below(&mut random, AWAY_WITHIN));
    }
    let took = began.elapsed();
    let acknowledged: Vec<_> = producers.into_iter().map(Producer::finish).collect();
    let verdict = scene.verdict(&acknowledged);
    let [gateways, relays, ways, brokers] = counts;
    eprintln!(
        "{kills} kills in {:.0} s: gateways {gateways}, relay {relays}, way to the broker {ways}, \
         RabbitMQ {brokers}: {verdict}",
        took.as_secs_f64()
    );
    for own in &acknowledged {
        assert!(own.numbers.len() > kills, "{} hardly spoke", own.producer);
    }
    assert_eq!(verdict.streams, FLOORS.len(), "a spool was begun anew");
    assert!(verdict.is_clean(), "{verdict}");
}

fn draw(random: &mut Random, rabbitmq: bool) -> Victim {
    match random.below(10) {
        _ if rabbitmq => Victim::RabbitMq,
        0..=4 => Victim::Gateway(random.index(FLOORS.len())),
        5..=7 => Victim::Relay,
        _ => Victim::Way,
    }
}

fn below(random: &mut Random, limit: Duration) -> Duration {
    let micros = u64::try_from(limit.as_micros()).unwrap();
    Duration::from_micros(random.below(micros))
}

/// Three robots behind one relay: two with a broker of their own, one that is simulated.
struct Scene {
    relay: Relay,
    proxy: Proxy,
    gateways: Vec<Gateway>,
    brokers: Vec<Vhost>,
}

impl Scene {
    fn start(folder: &Path) -> Self {
        let relay = Relay::start(folder, &Building::with_places(&FLOORS, 1));
        let proxy = Proxy::start(relay.mqtt());
        let site = Site {
            mqtt: Some(proxy.address()),
            ..Site::default()
        };
        let brokers = vec![Vhost::create(), Vhost::create()];
        let amqp = brokers.iter().map(|broker| Adapter::Amqp {
            url: broker.url().to_owned(),
            wire: "json",
        });
        let adapters: Vec<Adapter> = amqp.chain([Adapter::Sim { speed: 1.0 }]).collect();
        let gateways: Vec<Gateway> = FLOORS
            .iter()
            .zip(&adapters)
            .map(|(floor, adapter)| {
                Gateway::start_at(&site, folder, &relay, &building::robot(*floor), adapter)
            })
            .collect();
        gateways.iter().for_each(Gateway::await_link);
        Self {
            relay,
            proxy,
            gateways,
            brokers,
        }
    }

    /// A robot on each broker, and a program on each board.
    fn producers(&self, folder: &Path) -> Vec<Producer> {
        let named = |kind: &str, index: usize| format!("{kind}-{}", FLOORS[index]);
        let robots = self.brokers.iter().enumerate().map(|(index, broker)| {
            Producer::over_amqp(folder, &named("robot", index), broker.url(), REST)
        });
        let programs = self.gateways.iter().enumerate().map(|(index, gateway)| {
            Producer::over_socket(folder, &named("program", index), gateway.control(), REST)
        });
        robots.chain(programs).collect()
    }

    /// Waits until something has come through since this was called.
    fn await_progress(&self) {
        let stores = self.relay.stores();
        let before = stores.received();
        wait_until("records come through again", WORKS_AGAIN, || {
            stores.received() > before
        });
    }

    fn strike(&mut self, victim: Victim, away: Duration) {
        match victim {
            Victim::Gateway(index) => {
                let gateway = &mut self.gateways[index];
                gateway.kill();
                std::thread::sleep(away);
                gateway.start_again();
            }
            Victim::Relay => {
                self.relay.kill();
                std::thread::sleep(away);
                self.relay.start_again();
            }
            Victim::Way => self.proxy.cut(away),
            Victim::RabbitMq => {
                rabbitmq("kill");
                rabbitmq("start");
            }
        }
    }

    /// Waits until everything has had its time to come through, and judges.
    fn verdict(&self, acknowledged: &[Acknowledged]) -> Verdict {
        let judged = || {
            let mut judge = Judge::default();
            self.relay.stores().show(&mut judge);
            judge.judge(acknowledged)
        };
        let deadline = Instant::now() + SETTLE;
        // What is lost shows in the verdict, with its names.
        while judged().lost.count > 0 && Instant::now() < deadline {
            std::thread::sleep(LOOK_AGAIN);
        }
        for gateway in &self.gateways {
            wait_until("the relay has acknowledged everything", SETTLE, || {
                let status = gateway.control_status();
                status.is_some_and(|status| {
                    status["spool"]["backlog"] == 0 && status["link"]["state"] == "session"
                })
            });
        }
        judged()
    }
}

fn rabbitmq(verb: &str) {
    let control = std::env::var("BRRBRR_TEST_RABBITMQ_CTL");
    let control = control.expect("run under scripts/services run");
    run(std::process::Command::new(control).arg(verb));
}
