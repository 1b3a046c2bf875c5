//! How fast a backlog gets from a gateway's spool into the relay's journal, acknowledged, and how old
//! the live status is meanwhile.

use std::path::Path;
use std::time::{Duration, Instant};

use brrbrr_e2e::building::Building;
use brrbrr_e2e::gateway::{Adapter, Gateway};
use brrbrr_e2e::metrics::{Histogram, Page};
use brrbrr_e2e::relay::Relay;
use brrbrr_e2e::vhost::Vhost;
use brrbrr_e2e::wait::wait_until;
use brrbrr_gateway::spool::{Limits, Spool};
use brrbrr_proto::time::WallClock;
use brrbrr_proto::up::Record;
use rusqlite::Connection;

use crate::accepts::record;
use crate::broker::{MovingRobot, on_a_runtime};
use crate::machine::{self, Memory, processor_time};
use crate::table::{Table, median};

const ROUNDS: usize = 3;
const BACKLOG: u32 = 500_000;
/// How many records are put into the spool at a time.
const FILL: u32 = 5_000;
/// About what one batch of the link holds.
const FLOOR_BATCH: usize = 600;
const LIMIT: Duration = Duration::from_secs(300);
const ROBOT: &str = "guide-7";
/// The relay's histogram of how old a live status is when it comes in.
const LIVE_AGE: &str = "brrbrr_live_age_seconds";

/// Measures and adds the rows.
pub fn run(table: &mut Table, folder: &Path) {
    let folder = folder.join("drain");
    std::fs::create_dir(&folder).unwrap();
    let relay = Relay::start(&folder, &Building::sample());
    let vhost = Vhost::create();
    let url = vhost.url().to_owned();
    let adapter = Adapter::Amqp { url, wire: "json" };
    let mut gateway = Gateway::start(&folder, &relay, ROBOT, &adapter);
    gateway.await_link();
    let _robot = MovingRobot::start(vhost.url());
    let idle = [gateway.id(), relay.id()].map(Memory::of);
    let (mut rates, mut floors, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    let mut ages = Histogram::default();
    let mut highest = idle;
    for round in 0..ROUNDS {
        gateway.stop();
        fill(&gateway.spool());
        let drained = drain(&relay, &mut gateway);
        rates.push(drained.rate);
        ages = ages.plus(&drained.ages);
        highest = drained.memory;
        let floor = floor(&folder.join(format!("floor-{round}.sqlite")));
        shares.push(drained.rate / floor);
        floors.push(floor);
        table.note(&format!(
            "drain {round}: {:.0} /s, floor {floor:.0} /s, CPU for 1000 records: gateway {:.1} ms, relay {:.1} ms",
            drained.rate, drained.cost[0], drained.cost[1]
        ));
    }
    table.row(
        &format!("drain of {BACKLOG} records, acknowledged"),
        &format!("{:.0} /s", median(rates)),
        ">= 150000 /s",
    );
    table.row(
        &format!("  floor: SQLite alone, {FLOOR_BATCH} rows a transaction"),
        &format!("{:.0} /s", median(floors)),
        "one thread, the same rows, synced",
    );
    table.row(
        "  share of the floor",
        &format!("{:.2}", median(shares)),
        "",
    );
    table.row(
        "  live status age meanwhile",
        &ages.summary(),
        "p99 < 1000 ms",
    );
    for (name, idle, highest) in [
        ("gateway", idle[0], highest[0]),
        ("relay", idle[1], highest[1]),
    ] {
        table.row(
            &format!("  {name}, resident idle, after draining, highest"),
            &format!("{idle}, {}, {}", highest, highest.peak()),
            if name == "gateway" { "<= 10 MB" } else { "" },
        );
    }
}

/// Puts a backlog into the spool of a gateway that does not run.
fn fill(path: &Path) {
    on_a_runtime(async {
        let (spool, _) = Spool::open(path, Limits::default(), WallClock(0)).unwrap();
        for first in (0..BACKLOG).step_by(usize::try_from(FILL).unwrap()) {
            let records: Vec<Record> = (first..first + FILL).map(record).collect();
            spool.append(records).await.unwrap();
        }
        spool.close().await.unwrap();
    });
}

struct Drained {
    rate: f64,
    ages: Histogram,
    /// Milliseconds of processor time for 1 000 records: the gateway's and the relay's.
    cost: [f64; 2],
    memory: [Memory; 2],
}

/// From the start of the gateway until the relay has acknowledged everything.
fn drain(relay: &Relay, gateway: &mut Gateway) -> Drained {
    let target = relay.stores().received() + u64::from(BACKLOG);
    let ages = || Page::read(relay.client()).histogram(LIVE_AGE);
    let earlier = ages();
    let used = processor_time(relay.id());
    let began = Instant::now();
    gateway.start_again();
    wait_until("the backlog is in the journal", LIMIT, || {
        relay.stores().received() >= target
    });
    wait_until("the backlog is acknowledged", LIMIT, || {
        let status = gateway.control_status();
        status.is_some_and(|status| status["spool"]["backlog"] == 0)
    });
    let elapsed = began.elapsed().as_secs_f64();
    let costs = [
        processor_time(gateway.id()),
        processor_time(relay.id()) - used,
    ];
    Drained {
        rate: f64::from(BACKLOG) / elapsed,
        ages: ages().minus(&earlier),
        cost: costs.map(|cost| cost.as_secs_f64() * 1e6 / f64::from(BACKLOG)),
        memory: [gateway.id(), relay.id()].map(machine::Memory::of),
    }
}

/// The same rows in a plain loop on one thread, each transaction synced. Rows a second.
fn floor(path: &Path) -> f64 {
    let mut connection = Connection::open(path).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode = wal; PRAGMA synchronous = full;
             CREATE TABLE records (stream INTEGER NOT NULL, seq INTEGER NOT NULL,
                 covers INTEGER NOT NULL, received INTEGER NOT NULL,
                 record BLOB NOT NULL, PRIMARY KEY (stream, seq)) STRICT, WITHOUT ROWID",
        )
        .unwrap();
    let rows: Vec<Vec<u8>> = (0..BACKLOG)
        .map(|number| record(number).encode().unwrap())
        .collect();
    let began = Instant::now();
    let mut seq = 0_i64;
    for batch in rows.chunks(FLOOR_BATCH) {
        let transaction = connection.transaction().unwrap();
        {
            let sql = "INSERT INTO records VALUES (1, ?1, 1, 0, ?2)";
            let mut insert = transaction.prepare_cached(sql).unwrap();
            for row in batch {
                seq += 1;
                insert.execute(rusqlite::params![seq, row]).unwrap();
            }
        }
        transaction.commit().unwrap();
    }
    f64::from(BACKLOG) / began.elapsed().as_secs_f64()
}
