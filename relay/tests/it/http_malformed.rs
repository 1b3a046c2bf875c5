//! Generated requests that nobody should send. After each of them the next good one is served, and
//! the building is what it was.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Runtime;

use crate::http_server::{Server, robot};

/// How many of each kind.
const CASES: u32 = 150;

/// Sends generated requests to one server, and a good one after each.
fn after_each_the_next_is_served(
    request: impl Strategy<Value = Vec<u8>>,
    breaks_off: bool,
    check: impl Fn(&[u8], &[u8]),
) {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(Server::start());
    let services = &server.services;
    let before = runtime.block_on(services.catalog.places()).unwrap();
    let mut runner = TestRunner::new(Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&request, |request| {
        runtime.block_on(async {
            let answer = if breaks_off {
                server.ask_broken(&request).await
            } else {
                server.ask_bytes(&request).await
            };
            check(&request, &answer);
            let next = server.get("/api/v1/places").await;
            assert_eq!(
                next.status,
                200,
                "after {:?}",
                String::from_utf8_lossy(&request)
            );
        });
        Ok(())
    });
    outcome.unwrap();
    let after = runtime.block_on(services.catalog.places()).unwrap();
    assert_eq!(before, after);
    let orders = services.catalog.recent_commands(robot(1), 1);
    assert_eq!(runtime.block_on(orders).unwrap(), []);
    runtime.block_on(server.stop());
}

/// It is an answer of our own, and no fault of ours.
fn is_refused(request: &[u8], answer: &[u8]) {
    let line = String::from_utf8_lossy(answer);
    let line = line.lines().next().unwrap_or_default();
    let request = String::from_utf8_lossy(request);
    assert!(line.starts_with("HTTP/1.1 4"), "{line:?} to {request:?}");
}

fn never_a_fault(request: &[u8], answer: &[u8]) {
    let line = String::from_utf8_lossy(answer);
    let line = line.lines().next().unwrap_or_default();
    let request = String::from_utf8_lossy(request);
    assert!(!line.starts_with("HTTP/1.1 5"), "{line:?} to {request:?}");
}

fn route() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "/places",
        "/places/1",
        "/events",
        "/events/1",
        "/searchs",
        "/robots",
        "/robots/auth",
        "/robots/arrived",
        "/robots/stop",
        "/robots/finished",
    ])
}

fn visible() -> impl Strategy<Value = String> {
    "[!-~]{0,40}"
}

#[test]
fn odd_paths_methods_and_queries_are_answered() {
    let method = prop_oneof![
        Just("GET".to_owned()),
        Just("POST".to_owned()),
        Just("HEAD".to_owned()),
        "[A-Z]{1,8}"
    ];
    let path = prop_oneof![
        visible().prop_map(|text| format!("/{text}")),
        (route(), visible()).prop_map(|(route, text)| format!("/api/v1{route}/{text}")),
        (route(), visible()).prop_map(|(route, text)| format!("/api/v1{route}?{text}")),
        (route(), visible()).prop_map(|(route, text)| format!("/api/v1{route}?name={text}")),
        (route(), "[%0-9a-fA-F+&=\\[\\]]{0,30}")
            .prop_map(|(route, text)| format!("/api/v1{route}?name{text}")),
    ];
    let request = (method, path).prop_map(|(method, path)| {
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").into_bytes()
    });
    after_each_the_next_is_served(request, false, never_a_fault);
}

#[test]
fn odd_headers_are_answered() {
    let value = vec(
        any::<u8>().prop_filter("line", |b| *b != b'\r' && *b != b'\n'),
        0..40,
    );
    let name = prop_oneof![
        Just("authCode".to_owned()),
        Just("Authorization".to_owned()),
        Just("Content-Type".to_owned()),
        Just("Content-Length".to_owned()),
        Just("Transfer-Encoding".to_owned()),
        Just("Origin".to_owned()),
        Just("Expect".to_owned()),
        "[!-~]{1,20}",
    ];
    let request = (route(), vec((name, value), 1..4)).prop_map(|(route, headers)| {
        let mut request = format!("GET /api/v1{route} HTTP/1.1\r\nhost: x\r\n").into_bytes();
        for (name, value) in headers {
            request.extend([name.as_bytes(), b": ", &value, b"\r\n"].concat());
        }
        request.extend(b"connection: close\r\n\r\n");
        request
    });
    after_each_the_next_is_served(request, true, never_a_fault);
}

#[test]
fn bodies_that_are_not_what_a_route_expects_are_refused() {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("1e400".to_owned()),
        Just("-0".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        "\"[a-z]{0,5}\"",
    ];
    let value = leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            inner.prop_map(|item| format!("{{\"name\":{item}}}")),
        ]
    });
    let field = prop::sample::select(vec!["name", "floor", "xaxis", "starttime", "placeName"]);
    let object = vec((field, value.clone()), 0..4).prop_map(|fields| {
        let fields: Vec<_> = fields.iter().map(|(f, v)| format!("\"{f}\":{v}")).collect();
        format!("{{{}}}", fields.join(",")).into_bytes()
    });
    let body = prop_oneof![
        object,
        value.prop_map(String::into_bytes),
        vec(any::<u8>(), 0..60),
        (1_usize..3000).prop_map(|depth| vec![b'['; depth]),
    ];
    let target = prop::sample::select(vec![
        ("POST", "/places"),
        ("PUT", "/places/1"),
        ("POST", "/events"),
        ("POST", "/robots/auth"),
    ]);
    let request = (target, body).prop_map(|((method, route), body)| {
        let length = body.len();
        let head = format!(
            "{method} /api/v1{route} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        [head.into_bytes(), body].concat()
    });
    after_each_the_next_is_served(request, false, is_refused);
}

#[test]
fn bytes_that_are_no_http_are_survived() {
    let good = b"POST /api/v1/places HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}";
    let broken =
        (vec((0..good.len(), any::<u8>()), 1..6), 0..good.len()).prop_map(|(changes, end)| {
            let mut request = good.to_vec();
            for (at, byte) in changes {
                request[at] = byte;
            }
            request.truncate(end);
            request
        });
    let chunked = vec(any::<u8>(), 0..60).prop_map(|body| {
        let head = b"POST /api/v1/places HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
        [&head[..], &body].concat()
    });
    let request = prop_oneof![broken, chunked, vec(any::<u8>(), 0..200)];
    after_each_the_next_is_served(request, true, never_a_fault);
}
