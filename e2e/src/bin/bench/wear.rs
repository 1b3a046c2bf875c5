//! What a gateway writes to the board's flash for its records, by the kernel's count, and the memory
//! that it and the relay have meanwhile.

use std::path::Path;
use std::time::Duration;

use brrbrr_e2e::building::Building;
use brrbrr_e2e::gateway::{Adapter, Gateway};
use brrbrr_e2e::relay::Relay;
use brrbrr_e2e::wait::{SOON, wait_until};
use brrbrr_gateway::spool::RELEASE_DELAY;

use crate::accepts::{post, through_the_socket};
use crate::machine::{Memory, written};
use crate::table::Table;

const ROBOT: &str = "guide-7";
/// What a record holds, for the amplification.
const RECORD_BYTES: f64 = 150.0;
/// How long to wait, after everything was released, for what is written late.
const AFTER: Duration = Duration::from_secs(1);
const BURST: u32 = 100;

/// How records come: how many at a time, how often, and how long to rest in between.
const WAYS: [(&str, u32, u32, Duration); 3] = [
    ("one at a time, without a rest", 1, 1_000, Duration::ZERO),
    ("ten a second", 1, 200, Duration::from_millis(100)),
    (
        "bursts of 100, one a second",
        BURST,
        10,
        Duration::from_secs(1),
    ),
];

/// Measures and adds the rows.
pub fn run(table: &mut Table, folder: &Path) {
    let folder = folder.join("wear");
    std::fs::create_dir(&folder).unwrap();
    let relay = Relay::start(&folder, &Building::sample());
    let gateway = Gateway::start(&folder, &relay, ROBOT, &Adapter::Sim { speed: 1.0 });
    gateway.await_link();
    let processes = [("gateway", gateway.id()), ("relay", relay.id())];
    let idle = processes.map(|(_, process)| Memory::of(process));
    settle(&gateway);
    for (way, each, times, rest) in WAYS {
        let before = written(gateway.id());
        for _ in 0..times {
            let answer = gateway.control().try_send(&post(each));
            assert_eq!(answer.unwrap().status, 200);
            // The pace that is measured.
            std::thread::sleep(rest);
        }
        settle(&gateway);
        let bytes = u32::try_from(written(gateway.id()) - before).unwrap();
        let thousand = f64::from(bytes) * 1_000.0 / f64::from(each * times);
        table.row(
            &format!("written to flash for 1000 records, {way}"),
            &format!("{:.2} MB", thousand / 1e6),
            &format!("{:.0} times their bytes", thousand / RECORD_BYTES / 1_000.0),
        );
    }
    through_the_socket(table, &gateway);
    for ((name, process), idle) in processes.into_iter().zip(idle) {
        let now = Memory::of(process);
        table.row(
            &format!("{name}, resident idle, under load, highest"),
            &format!("{idle}, {now}, {}", now.peak()),
            if name == "gateway" { "<= 10 MB" } else { "" },
        );
    }
}

/// Waits until the relay has everything and the spool has let go of it.
fn settle(gateway: &Gateway) {
    wait_until("the relay has everything", SOON, || {
        let status = gateway.control_status();
        status.is_some_and(|status| status["spool"]["backlog"] == 0)
    });
    std::thread::sleep(RELEASE_DELAY + AFTER);
}
