//! Requests of every wrong kind, made from a seed, against the real relay: the process lives, and
//! the next request is served.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use brrbrr_e2e::building::Building;
use brrbrr_e2e::http::{Client, Connection, Request};
use brrbrr_e2e::random::Random;
use brrbrr_e2e::relay::Relay;
use serde_json::Value;

const REQUESTS: usize = 600;
/// How long a peer is listened to that may have nothing to say.
const PATIENCE: Duration = Duration::from_millis(50);
/// Longer than any body the relay takes.
const TOO_LONG: usize = 1_100_000;

const PATHS: [&str; 14] = [
    "/api/v1/places",
    "/api/v1/places/1",
    "/api/v1/events",
    "/api/v1/events/1",
    "/api/v1/searchs",
    "/api/v1/robots",
    "/api/v1/robots/1",
    "/api/v1/robots/auth",
    "/api/v1/robots/arrived",
    "/api/v1/robots/stop",
    "/api/v1/robots/finished",
    "/socket.io/",
    "/healthz",
    "/no/such/route",
];
const METHODS: [&str; 8] = [
    "GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "BREW",
];
const QUERIES: [&str; 12] = [
    "",
    "?",
    "?name",
    "?name=",
    "?name[x]=1",
    "?name=%ff%fe",
    "?name=%",
    "?name=a&name=b",
    "?name=%00",
    "?name=701%ED%98%B8&EIO=9&transport=pigeon",
    "?EIO=4&transport=polling&sid=nobody",
    "?EIO=3&transport=websocket",
];
const CODES: [&str; 9] = [
    "0",
    "-1",
    "99999",
    "10 00",
    "abcd",
    "1e3",
    "１２３４",
    "",
    "18446744073709551616",
];
const BODIES: [&str; 16] = [
    "",
    "{",
    "null",
    "[]",
    "\"\"",
    "{\"name\": 7}",
    "{\"name\": \"a\"}",
    "{\"name\": \"a\", \"floor\": \"7\"}",
    "{\"name\": \"a\", \"floor\": 1e99, \"xaxis\": 1, \"yaxis\": 1}",
    "{\"name\": null, \"floor\": 7, \"xaxis\": 1, \"yaxis\": 1}",
    "{\"inputAuthenticationCode\": {}}",
    "{\"inputAuthenticationCode\": -1}",
    "{\"inputAuthenticationCode\": 1e400}",
    "{\"name\": \"\\ud800\", \"floor\": 7}",
    "42[\"robotName\"",
    "\u{0}\u{1}",
];

#[test]
fn the_relay_outlives_malformed_requests_and_serves_the_next() {
    let mut random = Random::of_drill("malformed", 500);
    let folder = tempfile::tempdir().unwrap();
    let mut relay = Relay::start(folder.path(), &Building::sample());
    let (client, mqtt, process) = (relay.client(), relay.mqtt(), relay.id());
    let places = client.send(&Request::get("/api/v1/places")).ok();
    let mut answered = 0;
    for number in 0..REQUESTS {
        match number % 6 {
            0..=2 => answered += usize::from(wrong_request(&mut random, client)),
            3 => broken_http(&mut random, client.0),
            4 => noise(&mut random, client.0),
            _ => broken_mqtt(&mut random, mqtt),
        }
        let next = client.send(&Request::get("/api/v1/places"));
        assert_eq!(next.ok(), places, "after request {number}");
    }
    // Three in four of those that are HTTP. The others are too long and may be cut off.
    assert!(
        answered > REQUESTS / 4 + REQUESTS / 8,
        "only {answered} answers"
    );
    assert!(relay.is_running());
    assert_eq!(relay.id(), process);
    TcpStream::connect(mqtt).unwrap();
    relay.stop();
}

/// HTTP as it should be, with wrong contents: answered, and never with a fault of the relay's own.
/// Returns whether the answer could be read.
fn wrong_request(random: &mut Random, client: Client) -> bool {
    let method = random.pick(&METHODS);
    let path = format!("{}{}", random.pick(&PATHS), random.pick(&QUERIES));
    let mut request = Request::new(method, &path);
    if random.below(2) == 0 {
        request = request.header("authCode", random.pick(&CODES));
    }
    if random.below(2) == 0 {
        let kinds = [
            "application/json",
            "text/plain",
            "application/x-www-form-urlencoded",
            "💥",
        ];
        request = request.header("Content-Type", random.pick(&kinds));
    }
    request = match random.below(8) {
        0 => request.body(random.bytes(300)),
        1 => request.body(b"[".repeat(20_000)),
        2 => request.body(b" ".repeat(TOO_LONG)),
        _ => request.body(random.pick(&BODIES)),
    };
    let answer = match client.try_send(&request) {
        Ok(answer) => answer,
        // It may hang up on a body that it has refused already; HEAD has a length and no body.
        Err(_) => return false,
    };
    let is_fault = answer.status >= 500 && answer.status != 501 && answer.status != 503;
    assert!(!is_fault, "{} {request:?}", answer.text());
    let is_ours = path.starts_with("/api/v1") && answer.status >= 400;
    if is_ours && method != "HEAD" && answer.text() != "인증번호를 확인해주세요" {
        let error: Value = answer.json();
        let is_plain = error["message"].is_string();
        let is_said = is_plain || error["error"]["message"].is_string();
        assert!(is_said, "{} {error} to {request:?}", answer.status);
    }
    true
}

/// Almost HTTP.
fn broken_http(random: &mut Random, address: SocketAddr) {
    let good = Request::get("/api/v1/places").header("authCode", "1234");
    let mut bytes = good.bytes(true);
    match random.below(8) {
        0 => bytes.truncate(random.index(bytes.len())),
        1 => bytes = bytes.repeat(50),
        2 => bytes = b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n".to_vec(),
        3 => bytes =
            b"POST /api/v1/places HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
                .to_vec(),
        4 => {
            bytes = [
                b"GET /",
                "x".repeat(200_000).as_bytes(),
                b" HTTP/1.1\r\n\r\n",
            ]
            .concat()
        }
        5 => {
            bytes = b"GET / HTTP/1.1\r\n"
                .iter()
                .copied()
                .chain(b"a: b\r\n".repeat(5_000))
                .collect()
        }
        6 => {
            bytes = b"POST /api/v1/robots/auth HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\n\r\n{"
                .to_vec();
        }
        _ => {
            for _ in 0..4 {
                let at = random.index(bytes.len());
                bytes[at] = random.bytes(1)[0];
            }
        }
    }
    throw(address, &bytes);
}

fn noise(random: &mut Random, address: SocketAddr) {
    let length = random.index(5_000);
    throw(address, &random.bytes(length));
}

/// Almost MQTT.
fn broken_mqtt(random: &mut Random, address: SocketAddr) {
    let connect = b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04a+/#";
    let bytes = match random.below(6) {
        0 => random.bytes(64),
        1 => vec![0x10, 0xff, 0xff, 0xff, 0x7f],
        2 => vec![0x10, 0xff, 0xff, 0xff, 0xff, 0xff],
        3 => connect[..random.index(connect.len())].to_vec(),
        4 => [connect.as_slice(), &random.bytes(200)].concat(),
        _ => b"\x30\x05\x00\x03a/bx".to_vec(),
    };
    throw(address, &bytes);
}

/// Sends bytes, listens for a moment and hangs up, now and then without a goodbye. What comes back,
/// if anything, is the relay's own affair.
fn throw(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    // It may have hung up in the middle.
    stream.write_all(bytes).ok();
    if bytes.len().is_multiple_of(2) {
        stream.shutdown(Shutdown::Write).ok();
    }
    let mut answer = Vec::new();
    // Silence until the patience ends is an answer, too.
    stream.read_to_end(&mut answer).ok();
}

#[test]
fn connections_that_say_nothing_do_not_keep_others_out() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(folder.path(), &Building::sample());
    let idle: Vec<_> = [relay.client().0, relay.mqtt()]
        .into_iter()
        .flat_map(|address| (0..100).map(move |_| TcpStream::connect(address).unwrap()))
        .collect();
    let mut connection = Connection::open(relay.client().0).unwrap();
    let request = Request::get("/api/v1/places").bytes(true);
    for _ in 0..10 {
        assert_eq!(connection.exchange(&request).unwrap().status, 200);
    }
    drop(idle);
}
