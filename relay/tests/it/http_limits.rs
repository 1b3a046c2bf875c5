//! Who may do what, how much of it, and what a broken request does: nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use brrbrr_relay::config::CorsOrigins;
use brrbrr_relay::http::Settings;
use brrbrr_relay::live::guesses::ADDRESS_BURST;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http_server::{Face, R1, Server, open_settings, robot};

const JSON: &str = "content-type: application/json";
const WRONG_CODE: &str = "인증번호를 확인해주세요";

#[tokio::test]
async fn a_wrong_code_is_refused_on_every_route_and_changes_nothing() {
    for (method, path, body) in [
        ("GET", "/places", ""),
        (
            "POST",
            "/places",
            r#"{"name":"x","floor":7,"xaxis":1,"yaxis":1}"#,
        ),
        ("DELETE", "/places/2", ""),
        ("GET", "/events?name=전시회", ""),
        ("GET", "/searchs?name=701호", ""),
        ("GET", "/robots", ""),
        ("DELETE", "/robots/1", ""),
        ("GET", "/robots/stop", ""),
        ("GET", "/robots/finished", ""),
        ("GET", "/robots/init", ""),
        ("POST", "/robots/auth", r#"{"inputAuthenticationCode":1}"#),
    ] {
        let server = Server::start().await;
        let path = format!("/api/v1{path}");
        let code = server.code(robot(1)).await;
        for wrong in ["12", "abcd", "99999", "１２３４"] {
            let header = format!("authCode: {wrong}");
            let reply = server.ask(method, &path, &[&header, JSON], body).await;
            let kind = reply.header("content-type");
            assert_eq!(
                (reply.status, reply.body.as_str()),
                (400, WRONG_CODE),
                "{path}"
            );
            assert!(kind.starts_with("text/plain"), "{path}");
        }
        let two = format!("authCode: {code}");
        let reply = server.ask(method, &path, &[&two, &two, JSON], body).await;
        assert_eq!(reply.body, WRONG_CODE);
        let catalog = &server.services.catalog;
        assert_eq!(catalog.places().await.unwrap().len(), 6);
        assert_eq!(catalog.robots().await.unwrap().len(), 2);
        let orders = catalog.recent_commands(robot(1), 1).await.unwrap();
        assert_eq!(orders, []);
        assert_eq!(server.code(robot(1)).await, code);
    }
}

#[tokio::test]
async fn guessing_is_limited_and_then_even_the_right_code_has_to_wait() {
    let server = Server::start().await;
    let code = server.code(robot(1)).await;
    for number in 0..ADDRESS_BURST {
        let reply = if number % 2 == 0 {
            server.get_with("/api/v1/places", "0000").await
        } else {
            let typed = r#"{"inputAuthenticationCode":"0000"}"#;
            server.send("POST", "/api/v1/robots/auth", typed).await
        };
        assert_ne!(reply.status, 429);
    }
    let refused = server.get_with("/api/v1/places", &code).await;
    assert_eq!(
        (refused.status, refused.error().as_str()),
        (429, "too_many_guesses")
    );
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=6).contains(&wait));
    // Whoever shows no code is not concerned.
    assert_eq!(server.get("/api/v1/places").await.status, 200);
    let page = server.get("/metrics").await.body;
    let wrong = format!("brrbrr_wrong_codes_total {ADDRESS_BURST}\n");
    assert!(page.contains(&wrong), "{page}");
}

#[tokio::test]
async fn writes_need_the_admin_token_and_a_wrong_one_is_none() {
    let token = "0123456789abcdef0123456789abcdef";
    let settings = Settings {
        admin_token: Some(admin_token(token)),
        ..Settings::default()
    };
    let server = Server::start_empty(settings).await;
    let place = r#"{"name":"x","floor":7,"xaxis":1,"yaxis":1}"#;
    let long = format!("authorization: Bearer {token}x");
    let basic = format!("authorization: Basic {token}");
    for header in ["accept: */*", "authorization: Bearer wrong", &long, &basic] {
        for (method, path) in [
            ("POST", "/places"),
            ("PUT", "/places/1"),
            ("DELETE", "/places/1"),
            ("POST", "/events"),
            ("DELETE", "/events/1"),
            ("POST", "/robots"),
            ("DELETE", "/robots/1"),
            ("GET", "/robots/init"),
        ] {
            let path = format!("/api/v1{path}");
            let reply = server.ask(method, &path, &[header, JSON], place).await;
            assert_eq!(reply.status, 401, "{method} {path} {header}");
            assert_eq!(reply.error(), "unauthorized");
            assert_eq!(reply.header("www-authenticate"), "Bearer");
        }
    }
    let right = format!("Authorization: bearer {token}");
    let reply = server
        .ask("POST", "/api/v1/places", &[&right, JSON], place)
        .await;
    assert_eq!(reply.status, 200);
    assert!(!format!("{:?}", server.services.settings).contains(token));
}

pub fn admin_token(token: &str) -> brrbrr_relay::config::AdminToken {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, token).unwrap();
    brrbrr_relay::config::AdminToken::read(&file).unwrap()
}

#[tokio::test]
async fn bodies_are_bounded_and_must_be_json() {
    let server = Server::start().await;
    let large = format!("{{\"name\":\"{}\"}}", "a".repeat(1024 * 1024));
    let reply = server.send("POST", "/api/v1/places", &large).await;
    assert_eq!(
        (reply.status, reply.error().as_str()),
        (413, "body_too_large")
    );

    let chunk = format!("10000\r\n{}\r\n", "a".repeat(0x10000)).repeat(17);
    let chunked = format!(
        "POST /api/v1/places HTTP/1.1\r\nhost: x\r\n{JSON}\r\ntransfer-encoding: chunked\r\n\r\n{chunk}0\r\n\r\n"
    );
    let answer = server.ask_broken(chunked.as_bytes()).await;
    assert!(answer.starts_with(b"HTTP/1.1 413 "));

    let place = r#"{"name":"x","floor":7,"xaxis":1,"yaxis":1}"#;
    for kind in [
        "content-type: text/plain",
        "accept: */*",
        "content-type: \u{e9}",
    ] {
        let reply = server.ask("POST", "/api/v1/places", &[kind], place).await;
        assert_eq!(
            (reply.status, reply.error().as_str()),
            (415, "unsupported_media_type")
        );
    }
    let kind = "Content-Type: Application/JSON; charset=utf-8";
    let reply = server.ask("POST", "/api/v1/places", &[kind], place).await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let settings = Settings {
        request_limit: Duration::from_millis(200),
        ..open_settings()
    };
    let server = Server::start_empty(settings).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head =
        format!("POST /api/v1/places HTTP/1.1\r\nhost: x\r\n{JSON}\r\ncontent-length: 9\r\n\r\n{{");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn every_page_may_call_and_send_the_codes_header() {
    let server = Server::start().await;
    let preflight = [
        "origin: https://portal.example",
        "access-control-request-method: PUT",
        "access-control-request-headers: authcode,content-type",
    ];
    let reply = server
        .ask("OPTIONS", "/api/v1/places/1", &preflight, "")
        .await;
    assert_eq!(reply.status, 200);
    let origin = "access-control-allow-origin";
    assert_eq!(reply.header(origin), "https://portal.example");
    let methods: BTreeSet<_> = reply
        .header("access-control-allow-methods")
        .split(',')
        .map(str::to_owned)
        .collect();
    let expected = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    assert_eq!(methods, expected.map(str::to_owned).into());
    let headers = reply.header("access-control-allow-headers").to_lowercase();
    for header in [
        "origin",
        "accept",
        "content-type",
        "authorization",
        "x-requested-with",
        "authcode",
        "idempotency-key",
    ] {
        assert!(headers.split(',').any(|h| h == header), "{header}");
    }
    let reply = server
        .ask("GET", "/api/v1/nowhere", &preflight[..1], "")
        .await;
    assert_eq!(reply.header(origin), "https://portal.example");
    assert_eq!(reply.header("access-control-allow-credentials"), "");
    let poll = "/socket.io/?EIO=3&transport=polling";
    let reply = server.ask("GET", poll, &preflight[..1], "").await;
    assert_eq!(reply.header("access-control-allow-credentials"), "true");
}

#[tokio::test]
async fn only_pages_of_the_given_origins_may_call_where_some_are_given() {
    let settings = Settings {
        cors_origins: CorsOrigins::Only(vec!["https://a.example".to_owned()]),
        ..open_settings()
    };
    let server = Server::start_empty(settings).await;
    let poll = "/socket.io/?EIO=4&transport=polling";
    let (ours, others) = ("origin: https://a.example", "origin: https://b.example");
    let origin = "access-control-allow-origin";
    let reply = server.ask("GET", "/api/v1/places", &[ours], "").await;
    assert_eq!(reply.header(origin), "https://a.example");
    let reply = server.ask("GET", "/api/v1/places", &[others], "").await;
    assert_eq!(reply.header(origin), "");
    assert_eq!(server.ask("GET", poll, &[ours], "").await.status, 200);
    let refused = server.ask("GET", poll, &[others], "").await;
    assert_eq!(
        (refused.status, refused.error().as_str()),
        (403, "origin_not_allowed")
    );
}

#[tokio::test]
async fn health_is_shown_and_counted() {
    let server = Server::start().await;
    let face = Face::of(server.address, R1).await;
    insta::assert_snapshot!("healthz", server.get("/healthz").await.body);
    insta::assert_snapshot!("readyz", server.get("/readyz").await.body);
    server.get("/api/v1/places").await;
    server.get("/api/v1/anything").await;
    let head = server.ask("HEAD", "/healthz", &[], "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let page = server.get("/metrics").await;
    assert!(
        page.header("content-type")
            .starts_with("application/openmetrics-text")
    );
    for line in [
        r#"brrbrr_http_requests_total{route="GET /places",status="200"} 1"#,
        r#"brrbrr_http_requests_total{route="none",status="404"} 1"#,
        "brrbrr_faces 1",
        "brrbrr_sessions 0",
        "brrbrr_mqtt_connections 0",
        r#"brrbrr_mqtt_refused_total{reason="#,
        "brrbrr_http_request_duration_seconds_count",
    ] {
        assert!(page.body.contains(line), "{line} is not in\n{}", page.body);
    }
    drop(face);
}

#[tokio::test]
async fn what_is_under_way_is_finished_when_the_relay_ends() {
    let server = Server::start().await;
    let code = server.code(robot(1)).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    let mut polling = TcpStream::connect(server.address).await.unwrap();
    let request = format!(
        "GET /api/v1/places?name=701%ED%98%B8 HTTP/1.1\r\nhost: x\r\nauthCode: {code}\r\n\r\n"
    );
    let mut busy = TcpStream::connect(server.address).await.unwrap();
    busy.write_all(request.as_bytes()).await.unwrap();
    let poll = b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: x\r\n\r\n";
    polling.write_all(poll).await.unwrap();
    polling.read_u8().await.unwrap();
    let catalog = std::sync::Arc::clone(&server.services.catalog);
    while catalog
        .recent_commands(robot(1), 1)
        .await
        .unwrap()
        .is_empty()
    {
        tokio::task::yield_now().await;
    }
    server.stop().await;
    let mut answer = Vec::new();
    busy.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_catalog_that_cannot_be_written_answers_503_orders_nothing_and_serves_again() {
    let server = Server::start().await;
    let code = server.code(robot(1)).await;
    let holder = rusqlite::Connection::open(server.file("catalog")).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();

    let place = r#"{"name":"새 방","floor":7,"xaxis":1,"yaxis":1}"#;
    let (added, asked, read) = tokio::join!(
        server.send("POST", "/api/v1/places", place),
        server.get_with("/api/v1/searchs?name=701호", &code),
        server.get_with("/api/v1/places", &code),
    );
    for reply in [added, asked] {
        assert_eq!((reply.status, reply.error().as_str()), (503, "store_away"));
        assert!(reply.header("retry-after").parse::<u64>().unwrap() > 0);
    }
    assert_eq!(read.status, 200, "what is cached is still read");

    holder.execute_batch("ROLLBACK").unwrap();
    let catalog = &server.services.catalog;
    assert_eq!(catalog.recent_commands(robot(1), 1).await.unwrap(), []);
    let added = server.send("POST", "/api/v1/places", place).await;
    assert_eq!(added.status, 200);
}
