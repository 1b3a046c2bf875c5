//! Requests a second and processor time a request, over connections that are kept.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use brrbrr_e2e::http::{Connection, Request};
use brrbrr_e2e::relay::Relay;
use serde_json::json;

use crate::machine::processor_time;
use crate::table::{Table, median};

const ROUNDS: usize = 3;
const CONNECTIONS: [usize; 2] = [1, 16];
const EACH_RUNS: Duration = Duration::from_secs(2);

/// Measures and adds the rows.
pub fn run(table: &mut Table, relay: &Relay, code: &str) {
    let places = Request::get("/api/v1/places").code(code).bytes(true);
    let body = json!({"inputAuthenticationCode": code});
    let auth = Request::new("POST", "/api/v1/robots/auth").json(&body);
    let auth = auth.bytes(true);
    let routes = [
        (
            "GET /places with a code",
            places,
            ">= 10 x the old system's, which did 1700 /s",
        ),
        (
            "POST /robots/auth",
            auth,
            ">= 10 x the old system's, which did 2900 /s",
        ),
    ];
    let mut results = vec![[const { Vec::new() }; 2]; routes.len() * CONNECTIONS.len()];
    for _ in 0..ROUNDS {
        for (index, (_, request, _)) in routes.iter().enumerate() {
            for (column, connections) in CONNECTIONS.into_iter().enumerate() {
                let (rate, cost) = measure(relay, request, connections);
                let [rates, costs] = &mut results[index * CONNECTIONS.len() + column];
                rates.push(rate);
                costs.push(cost);
            }
        }
    }
    let mut results = results.into_iter();
    for (route, _, old) in &routes {
        for connections in CONNECTIONS {
            let [rate, cost] = results.next().unwrap().map(median);
            table.row(
                &format!("{route}, connections: {connections}"),
                &format!("{rate:.0} /s, {cost:.0} us CPU"),
                if connections == 16 { old } else { "" },
            );
        }
    }
}

/// Requests a second, and microseconds of the relay's processor time for each.
fn measure(relay: &Relay, request: &[u8], connections: usize) -> (f64, f64) {
    let address = relay.client().0;
    let before = processor_time(relay.id());
    let began = Instant::now();
    let deadline = began + EACH_RUNS;
    let count: u32 = std::thread::scope(|scope| {
        let one = || scope.spawn(|| ask_until(deadline, address, request));
        let threads: Vec<_> = (0..connections).map(|_| one()).collect();
        let counts = threads.into_iter().map(|thread| thread.join().unwrap());
        counts.sum()
    });
    let elapsed = began.elapsed().as_secs_f64();
    let used = (processor_time(relay.id()) - before).as_secs_f64();
    (f64::from(count) / elapsed, used * 1e6 / f64::from(count))
}

fn ask_until(deadline: Instant, address: SocketAddr, request: &[u8]) -> u32 {
    let mut connection = Connection::open(address).unwrap();
    let mut count = 0;
    while Instant::now() < deadline {
        let answer = connection.exchange(request).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        count += 1;
    }
    count
}
