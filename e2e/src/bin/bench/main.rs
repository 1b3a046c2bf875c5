//! The benchmark: what a wish, a report and a request cost, beside what the machine itself takes for
//! the same disk writes and network turns in the same run. It prints numbers and passes no judgement
//! on a busy machine. Run it under `scripts/services run`, from a release build.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot measure ends with a message"
)]

mod accepts;
mod broker;
mod intent;
mod machine;
mod rest;
mod table;

use brrbrr_e2e::building::Building;
use brrbrr_e2e::face::{Face, USUAL};
use brrbrr_e2e::gateway::{Adapter, Gateway};
use brrbrr_e2e::relay::Relay;
use brrbrr_e2e::vhost::Vhost;

use table::Table;

const ROBOT: &str = "guide-7";

fn main() {
    let mut table = Table::default();
    if cfg!(debug_assertions) {
        table.note("this is a debug build: the numbers mean nothing");
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();

    // Threads and processes inherit it, so it is set before the first of each kind.
    let has_two_cores = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
    if has_two_cores {
        machine::pin_to(machine::SERVER_CORE);
    } else {
        table.note("one core only: server and load share it");
    }
    let relay = Relay::start(folder, &Building::sample());
    let vhost = Vhost::create();
    let url = vhost.url().to_owned();
    let gateway = Gateway::start(folder, &relay, ROBOT, &Adapter::Amqp { url, wire: "text" });
    gateway.await_link();
    if has_two_cores {
        machine::pin_to(machine::LOAD_CORE);
    }
    // The face only tells the code. With it gone nothing is pushed.
    let (face, code) = Face::bind(folder, relay.client(), USUAL, ROBOT);
    drop(face);

    intent::run(&mut table, folder, &relay, &vhost, &code);
    accepts::through_the_gateway(&mut table, &gateway, &vhost);
    accepts::through_the_spool(&mut table, folder);
    rest::run(&mut table, &relay, &code);
    table.row("relay, resident", &machine::resident(relay.id()), "");
    table.row(
        "gateway, resident",
        &machine::resident(gateway.id()),
        "<= 10 MB",
    );
    table.print();
}
