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
mod drain;
mod intent;
mod machine;
mod orders;
mod rest;
mod table;
mod wear;

use std::path::Path;

use brrbrr_e2e::building::Building;
use brrbrr_e2e::face::{Face, USUAL};
use brrbrr_e2e::gateway::{Adapter, Gateway};
use brrbrr_e2e::relay::Relay;
use brrbrr_e2e::vhost::Vhost;

use machine::Memory;
use table::Table;

const ROBOT: &str = "guide-7";

/// What can be measured by itself.
const PARTS: [&str; 5] = ["wishes", "orders", "accepts", "wear", "drain"];

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = wanted.iter().find(|part| !PARTS.contains(&part.as_str())) {
        panic!("no part {unknown:?}; there are {PARTS:?}, and without any all are measured");
    }
    let is_wanted = |part: &str| wanted.is_empty() || wanted.iter().any(|own| own == part);
    let mut table = Table::default();
    if cfg!(debug_assertions) {
        table.note("this is a debug build: the numbers mean nothing");
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    if is_wanted("wishes") {
        wishes(&mut table, folder);
    }
    if is_wanted("orders") {
        let own = folder.join("orders");
        std::fs::create_dir(&own).unwrap();
        orders(&mut table, &own);
    }
    if is_wanted("accepts") {
        accepts::through_the_spool(&mut table, folder);
    }
    if is_wanted("wear") {
        wear::run(&mut table, folder);
    }
    if is_wanted("drain") {
        drain::run(&mut table, folder);
    }
    table.print();
}

/// One robot with its relay and gateway on the server's core, and this program on the other.
struct Bench {
    relay: Relay,
    gateway: Gateway,
    vhost: Vhost,
    is_pinned: bool,
}

impl Bench {
    fn start(table: &mut Table, folder: &Path) -> Self {
        // Threads and processes inherit it, so it is set before the first of each kind.
        let is_pinned = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
        if is_pinned {
            machine::pin_to(machine::SERVER_CORE);
        } else {
            table.note("one core only: server and load share it");
        }
        let relay = Relay::start(folder, &Building::sample());
        let vhost = Vhost::create();
        let url = vhost.url().to_owned();
        let gateway = Gateway::start(folder, &relay, ROBOT, &Adapter::Amqp { url, wire: "text" });
        gateway.await_link();
        if is_pinned {
            machine::pin_to(machine::LOAD_CORE);
        }
        Self {
            relay,
            gateway,
            vhost,
            is_pinned,
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if self.is_pinned {
            machine::unpin();
        }
    }
}

/// What an operator's commands take.
fn orders(table: &mut Table, folder: &Path) {
    let bench = Bench::start(table, folder);
    orders::run(table, folder, &bench.relay, &bench.vhost, ROBOT);
}

/// One robot at its ordinary work.
fn wishes(table: &mut Table, folder: &Path) {
    let bench = Bench::start(table, folder);
    let Bench {
        relay,
        gateway,
        vhost,
        ..
    } = &bench;
    // The face only tells the code. With it gone nothing is pushed.
    let (face, code) = Face::bind(folder, relay.client(), USUAL, ROBOT);
    drop(face);

    intent::run(table, folder, relay, vhost, &code);
    accepts::through_the_gateway(table, gateway, vhost);
    rest::run(table, relay, &code);
    let [relay, gateway] = [relay.id(), gateway.id()].map(|id| Memory::of(id).to_string());
    table.row("relay, resident", &relay, "");
    table.row("gateway, resident", &gateway, "<= 10 MB");
}
