//! How many records a gateway makes durable in a second.

use std::path::Path;
use std::time::{Duration, Instant};

use brrbrr_e2e::gateway::Gateway;
use brrbrr_e2e::vhost::Vhost;
use brrbrr_e2e::wait::wait_until;
use brrbrr_gateway::spool::{Limits, Spool};
use brrbrr_proto::id::BootId;
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use brrbrr_proto::up::{Custom, Event, Record};

use crate::broker::{on_a_runtime, publish_all};
use crate::table::{Table, median};

const ROUNDS: usize = 3;
const MESSAGES: u32 = 10_000;
const PRODUCERS: usize = 64;
const EACH_RUNS: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(120);

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
    let status = gateway.status().expect("the gateway's status");
    status["spool"]["next"].as_u64().unwrap()
}

/// Producers write to a spool of their own, each waiting for its record to be durable.
pub fn through_the_spool(table: &mut Table, folder: &Path) {
    let mut rates = Vec::new();
    for round in 0..ROUNDS {
        let path = folder.join(format!("spool-{round}.sqlite"));
        let (spool, _) = Spool::open(&path, Limits::default(), WallClock(0)).unwrap();
        let stored: u32 = on_a_runtime(async {
            let deadline = Instant::now() + EACH_RUNS;
            let producers = (0..PRODUCERS).map(|_| produce(&spool, deadline));
            let counts = futures_util::future::join_all(producers).await;
            spool.close().await.unwrap();
            counts.iter().sum()
        });
        rates.push(f64::from(stored) / EACH_RUNS.as_secs_f64());
    }
    table.row(
        &format!("durable accepts, {PRODUCERS} producers on the spool"),
        &format!("{:.0} /s", median(rates)),
        ">= 100000 on a quiet disk; mqtt.js with a level store 13000, not synced",
    );
}

async fn produce(spool: &Spool, deadline: Instant) -> u32 {
    let mut stored = 0;
    while Instant::now() < deadline {
        spool.append(vec![record(stored)]).await.unwrap();
        stored += 1;
    }
    stored
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
