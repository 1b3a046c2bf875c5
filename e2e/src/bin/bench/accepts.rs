//! How many records a gateway makes durable in a second, beside plain loops of synced SQLite inserts.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use brrbrr_e2e::control::Control;
use brrbrr_e2e::gateway::Gateway;
use brrbrr_e2e::http::Request;
use brrbrr_e2e::vhost::Vhost;
use brrbrr_e2e::wait::wait_until;
use brrbrr_gateway::spool::{Limits, Spool};
use brrbrr_proto::id::BootId;
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use brrbrr_proto::up::{Custom, Event, Record};
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use crate::broker::{on_a_runtime, publish_all};
use crate::machine::SyncedFile;
use crate::table::{Table, median};

const ROUNDS: usize = 3;
const MESSAGES: u32 = 10_000;
const PRODUCERS: [usize; 3] = [1, 8, 64];
const FLOOR_BATCHES: [u32; 2] = [1, 100];
const EACH_RUNS: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(120);
/// Events in an array, where programs post arrays.
const POSTED: u32 = 100;

/// The robot publishes, the gateway stores and acknowledges.
pub fn through_the_gateway(table: &mut Table, gateway: &Gateway, vhost: &Vhost) {
    let bodies: Vec<Vec<u8>> = (0..MESSAGES).map(body).collect();
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let target = next(gateway) + u64::from(MESSAGES);
        let began = Instant::now();
        publish_all(vhost.url(), &bodies);
        wait_until("every message is stored", LIMIT, || next(gateway) >= target);
        rates.push(f64::from(MESSAGES) / began.elapsed().as_secs_f64());
    }
    table.row(
        "records through RabbitMQ, AMQP to spool",
        &format!("{:.0} /s", median(rates)),
        "RabbitMQ and its acknowledgements included",
    );
}

fn body(number: u32) -> Vec<u8> {
    let text = "x".repeat(100);
    let body = format!(r#"{{"event": {{"kind": "bench", "number": {number}, "text": "{text}"}}}}"#);
    body.into_bytes()
}

fn next(gateway: &Gateway) -> u64 {
    let status = gateway.control_status().expect("the gateway's status");
    status["spool"]["next"].as_u64().unwrap()
}

/// Programs post events to a gateway, each waiting for the answer to one before it posts the next.
pub fn through_the_socket(table: &mut Table, gateway: &Gateway) {
    let mut results = PRODUCERS.map(|_| [const { Vec::new() }; 2]);
    for _ in 0..ROUNDS {
        for (row, producers) in PRODUCERS.into_iter().enumerate() {
            for (column, each) in [1, POSTED].into_iter().enumerate() {
                results[row][column].push(post_all(&gateway.control(), producers, each));
            }
        }
    }
    for (producers, rates) in PRODUCERS.into_iter().zip(results) {
        let [one, many] = rates.map(median);
        table.row(
            &format!("durable accepts over the control socket, {producers} programs"),
            &format!("{one:.0} /s, in arrays of {POSTED} {many:.0} /s"),
            "",
        );
    }
}

/// Events a second.
fn post_all(control: &Control, producers: usize, each: u32) -> f64 {
    let began = Instant::now();
    let stored = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..producers {
            scope.spawn(|| {
                let request = post(each).bytes(true);
                let mut connection = control.open().unwrap();
                while began.elapsed() < EACH_RUNS {
                    let answer = connection.exchange(&request).unwrap();
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    stored.fetch_add(each, Ordering::Relaxed);
                }
            });
        }
    });
    f64::from(stored.into_inner()) / began.elapsed().as_secs_f64()
}

/// So many events of about 150 bytes in one request.
pub fn post(events: u32) -> Request {
    let event =
        |number| json!({"kind": "bench", "data": {"number": number, "text": "x".repeat(100)}});
    let events: Vec<Value> = (0..events).map(event).collect();
    Request::new("POST", "/events").json(&json!(events))
}

/// Producers write to a spool of their own, each waiting for its record to be durable.
pub fn through_the_spool(table: &mut Table, folder: &Path) {
    let mut floors = FLOOR_BATCHES.map(|_| Vec::new());
    let mut results = PRODUCERS.map(|_| [const { Vec::new() }; 2]);
    let mut syncs = Vec::new();
    for round in 0..ROUNDS {
        syncs.push(synced_writes(folder));
        for (rates, batch) in floors.iter_mut().zip(FLOOR_BATCHES) {
            let path = folder.join(format!("floor-{round}-{batch}.sqlite"));
            rates.push(floor(&path, batch));
        }
        for ([rates, commits], producers) in results.iter_mut().zip(PRODUCERS) {
            let path = folder.join(format!("spool-{round}-{producers}.sqlite"));
            let (rate, synced) = accepts(&path, producers);
            rates.push(rate);
            commits.push(synced);
        }
    }
    let floors = floors.map(median);
    table.row(
        "floor: 4 KiB written and synced",
        &format!("{:.0} /s", median(syncs)),
        "the same disk, interleaved",
    );
    for (batch, rate) in FLOOR_BATCHES.into_iter().zip(floors) {
        table.row(
            &format!("floor: SQLite inserts, {batch} a transaction"),
            &format!("{rate:.0} /s"),
            "one thread, each transaction synced",
        );
    }
    for (producers, result) in PRODUCERS.into_iter().zip(results) {
        let [rate, commits] = result.map(median);
        let [one, many] = floors.map(|floor| rate / floor);
        table.row(
            &format!("durable accepts, {producers} producers on the spool"),
            &format!("{rate:.0} /s, {commits:.0} syncs/s"),
            &match producers {
                64 => format!(
                    ">= 100000 on a quiet disk; {one:.1} and {many:.2} times the floors; mqtt.js with \
                     a level store 13000, not synced"
                ),
                _ => format!("{one:.1} and {many:.2} times the floors"),
            },
        );
    }
}

/// Records a second, and syncs a second.
fn accepts(path: &Path, producers: usize) -> (f64, f64) {
    let (spool, _) = Spool::open(path, Limits::default(), WallClock(0)).unwrap();
    let (stored, commits): (u32, u64) = on_a_runtime(async {
        let deadline = Instant::now() + EACH_RUNS;
        let producers = (0..producers).map(|_| produce(&spool, deadline));
        let counts = futures_util::future::join_all(producers).await;
        let commits = spool.commits().await.unwrap();
        spool.close().await.unwrap();
        (counts.iter().sum(), commits)
    });
    let commits = u32::try_from(commits).unwrap();
    let a_second = |count| f64::from(count) / EACH_RUNS.as_secs_f64();
    (a_second(stored), a_second(commits))
}

async fn produce(spool: &Spool, deadline: Instant) -> u32 {
    let mut stored = 0;
    while Instant::now() < deadline {
        spool.append(vec![record(stored)]).await.unwrap();
        stored += 1;
    }
    stored
}

/// A plain loop on one thread. Rows a second.
fn floor(path: &Path, batch: u32) -> f64 {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode = wal; PRAGMA synchronous = full;
             CREATE TABLE record (seq INTEGER PRIMARY KEY, covers INTEGER NOT NULL,
                 bytes BLOB NOT NULL)",
        )
        .unwrap();
    let began = Instant::now();
    let mut stored = 0;
    while began.elapsed() < EACH_RUNS {
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        for number in stored..stored + batch {
            let bytes = record(number).encode().unwrap();
            let sql = "INSERT INTO record (seq, covers, bytes) VALUES (?1, 1, ?2)";
            let mut insert = connection.prepare_cached(sql).unwrap();
            insert.execute(params![number, bytes]).unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
        stored += batch;
    }
    f64::from(stored) / began.elapsed().as_secs_f64()
}

fn synced_writes(folder: &Path) -> f64 {
    let mut file = SyncedFile::create(folder);
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < EACH_RUNS {
        file.write();
        count += 1;
    }
    f64::from(count) / began.elapsed().as_secs_f64()
}

/// About 150 bytes.
pub fn record(number: u32) -> Record {
    Record {
        stamp: Stamp {
            boot: BootId(1),
            uptime: Uptime::default(),
            wall: WallClock(0),
        },
        event: Event::Custom(Custom {
            kind: "bench".to_owned(),
            json: format!(r#"{{"number": {number}, "text": "{}"}}"#, "x".repeat(100)),
        }),
    }
}
