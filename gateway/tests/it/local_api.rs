//! The local API of the real daemon, with a simulated robot and no relay at all: commands, the
//! building by name, and who may ask.

mod board;

use std::path::Path;
use std::time::Instant;

use brrbrr_gateway::local;
use serde_json::json;

use self::board::{Board, PATIENCE, To};

const TOKEN: &str = "correct-horse-battery";

#[tokio::test]
async fn a_robot_without_any_relay_is_guided_by_the_name_of_a_place() {
    let board = Board::new("listen = \"127.0.0.1:0\"", 50.0);
    board.keep_building().await;
    let _daemon = board.run().await;
    for to in [board.control(), board.tcp().await] {
        let given = to.post(json!({"kind": "go-to", "place": "카페"})).await;
        assert_eq!(given.status, 201, "{}", given.body);
        let id = given.id();
        let location = given.headers["location"].to_str().unwrap();
        assert_eq!(location, format!("/api/v1/commands/{id}"));
        let order = |name: &str| given.body[name].clone();
        assert_eq!(order("kind"), "go-to");
        assert_eq!((order("place"), order("floor")), (json!("카페"), json!(7)));
        assert_eq!((order("x"), order("y")), (json!(1.5), json!(0.5)));
        assert_eq!((order("actor"), order("robot")), (json!("board"), json!(7)));
        let ended = to.end(&id).await.body;
        assert_eq!(ended["state"], "succeeded", "{ended}");
        let history = ended["history"].as_array().unwrap();
        let states: Vec<_> = history.iter().map(|step| &step["state"]).collect();
        assert_eq!(states, ["received", "running", "succeeded"]);
        assert_eq!(history[0]["at"], ended["submittedAt"]);
        assert_eq!(to.get(&format!("/api/v1/commands/{id}")).await.body, ended);
    }
}

#[tokio::test]
async fn the_same_key_is_the_same_command_and_another_order_under_it_is_refused() {
    let board = Board::new("", 50.0);
    let _daemon = board.run().await;
    let to = board.control();
    let say = |text: &str| json!({"kind": "say", "text": text}).to_string();
    let send = async |key, body: String| {
        let headers = [("host", "x"), ("idempotency-key", key)];
        to.send("POST", "/api/v1/robots/7/commands", &headers, &body)
            .await
    };
    let first = send("k1", say("hello")).await;
    assert_eq!(
        (first.status, &first.body["idempotencyKey"]),
        (201, &json!("k1"))
    );
    let again = send("k1", say("hello")).await;
    assert_eq!((again.status, again.id()), (200, first.id()));
    let other = send("k1", say("good bye")).await;
    assert_eq!(other.code(), (409, "conflict"));
    let long = "k".repeat(129);
    for key in ["", long.as_str(), "\u{e9}"] {
        let refused = send(key, say("hello")).await;
        assert_eq!(refused.code(), (400, "invalid_field"), "{key}");
        assert!(refused.message().starts_with("Idempotency-Key"));
    }
}

#[tokio::test]
async fn a_command_is_cancelled_once_and_one_that_has_ended_stays_as_it_is() {
    let board = Board::new("", 0.01);
    let _daemon = board.run().await;
    let to = board.control();
    let drive = to
        .post(json!({"kind": "go-to", "x": 100, "y": 0}))
        .await
        .id();
    let path = format!("/api/v1/commands/{drive}");
    let waiting = tokio::spawn({
        let (to, drive) = (to.clone(), drive.clone());
        async move { to.end(&drive).await }
    });
    let cancelled = to.send("DELETE", &path, &[], "").await;
    assert!([200, 202].contains(&cancelled.status), "{}", cancelled.body);
    let again = to.send("DELETE", &path, &[], "").await;
    assert!([200, 202].contains(&again.status), "{}", again.body);
    // Whoever waited hears of it.
    assert_eq!(waiting.await.unwrap().body["state"], "cancelled");
    let over = to.send("DELETE", &path, &[], "").await;
    assert_eq!(
        (over.status, &over.body["state"]),
        (200, &json!("cancelled"))
    );
    let list = to.get("/api/v1/commands").await.body;
    let cancels = list["commands"].as_array().unwrap().iter();
    assert_eq!(
        cancels.filter(|row| row["kind"] == "cancel").count(),
        1,
        "{list}"
    );
}

#[tokio::test]
async fn a_wait_that_is_over_shows_the_command_as_it_is() {
    let board = Board::new("", 0.01);
    let _daemon = board.run().await;
    let to = board.control();
    let drive = to
        .post(json!({"kind": "go-to", "x": 100, "y": 0}))
        .await
        .id();
    let path = format!("/api/v1/commands/{drive}/wait?timeout=0");
    let answer = to.get(&path).await;
    assert_eq!((answer.status, &answer.body["final"]), (200, &json!(false)));
}

#[tokio::test]
async fn no_more_than_a_few_callers_wait_and_the_others_are_told_so() {
    let board = Board::new("", 0.01);
    let _daemon = board.run().await;
    let to = board.control();
    let drive = json!({"kind": "go-to", "x": 100, "y": 0});
    let drive = to.post(drive).await.id();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let (to, path) = (
            to.clone(),
            format!("/api/v1/commands/{drive}/wait?timeout=60"),
        );
        waiting.spawn(async move { to.get(&path).await });
    }
    for _ in 0..8 {
        let answer = waiting.join_next().await.unwrap().unwrap();
        assert_eq!(answer.code(), (503, "busy"));
    }
    let path = format!("/api/v1/commands/{drive}");
    to.send("DELETE", &path, &[], "").await;
    while let Some(answer) = waiting.join_next().await {
        assert_eq!(answer.unwrap().body["state"], "cancelled");
    }
}

#[tokio::test]
async fn commands_are_listed_newest_first_in_pages_and_by_state() {
    let board = Board::new("", 0.01);
    let _daemon = board.run().await;
    let to = board.control();
    let mut ids = Vec::new();
    for number in 0..5 {
        let said = to
            .post(json!({"kind": "say", "text": format!("{number}")}))
            .await
            .id();
        to.end(&said).await;
        ids.push(said);
    }
    let drive = to
        .post(json!({"kind": "go-to", "x": 100, "y": 0}))
        .await
        .id();
    ids.push(drive.clone());
    ids.reverse();
    let page = async |query: &str| {
        let body = to
            .get(&format!("/api/v1/robots/7/commands?{query}"))
            .await
            .body;
        let rows = body["commands"].as_array().unwrap().iter();
        let rows: Vec<_> = rows
            .map(|row| row["id"].as_str().unwrap().to_owned())
            .collect();
        (rows, body["next"].as_str().map(str::to_owned))
    };
    assert_eq!(page("").await, (ids.clone(), None));
    let (first, next) = page("limit=4").await;
    assert_eq!(
        (first.as_slice(), next.as_ref()),
        (&ids[..4], Some(&ids[3]))
    );
    let (second, next) = page(&format!("limit=4&after={}", next.unwrap())).await;
    assert_eq!((second.as_slice(), next), (&ids[4..], None));
    assert_eq!(page("state=received,running").await.0, [drive]);
    assert_eq!(page("state=queued,sent").await.0, Vec::<String>::new());
    let ended = page("state=succeeded,failed&limit=2").await;
    assert_eq!(ended, (ids[1..3].to_vec(), Some(ids[2].clone())));
}

#[tokio::test]
async fn long_commands_come_in_small_pages_and_none_is_left_out() {
    let board = Board::new("", 50.0);
    let _daemon = board.run().await;
    let to = board.control();
    let mut given = Vec::new();
    for _ in 0..40 {
        let said = to.post(json!({"kind": "say", "text": "x".repeat(15_000)}));
        given.push(said.await.id());
    }
    given.reverse();
    let (mut listed, mut pages) = (Vec::new(), 0);
    let mut after = String::new();
    loop {
        let query = format!("limit=200&state=received,running,succeeded{after}");
        let page = to.get(&format!("/api/v1/commands?{query}")).await.body;
        assert!(page.to_string().len() < 300_000);
        let rows = page["commands"].as_array().unwrap();
        listed.extend(
            rows.iter()
                .map(|row| row["id"].as_str().unwrap().to_owned()),
        );
        pages += 1;
        let Some(next) = page["next"].as_str() else {
            break;
        };
        after = format!("&after={next}");
    }
    assert_eq!((listed, pages), (given, 3));
}

#[tokio::test]
async fn places_and_events_are_shown_as_the_relay_shows_them() {
    let board = Board::new("", 50.0);
    board.keep_building().await;
    let _daemon = board.run().await;
    let to = board.control();
    let cafe = json!({"id": 1, "name": "카페", "description": null, "floor": 7, "xaxis": 1.5,
        "yaxis": 0.5, "thumburl": null, "mapurl": "http://maps.example/7"});
    let places = to.get("/api/v1/places").await;
    assert_eq!(places.status, 200);
    assert_eq!(places.body[0], cafe);
    let fair = json!({"id": 1, "name": "전시", "description": "every day",
        "starttime": "2020-06-01T04:10:25.000Z", "endtime": "2020-06-01T05:10:25.000Z",
        "placeName": "카페", "placeFloor": 7, "thumburl": null});
    let events = to.get("/api/v1/events").await;
    assert_eq!(events.body[0], fair);
    let mut placed = fair.clone();
    placed["place"] = cafe.clone();
    for (name, expected) in [
        ("%EC%B9%B4%ED%8E%98", json!({"place": [cafe]})),
        ("A+B", json!({"place": [places.body[2]]})),
        ("%EC%A0%84%EC%8B%9C", json!({"event": [placed]})),
        ("%EC%8B%9D%EB%8B%B9", json!({"places": [places.body[1]]})),
        ("%EC%A0%90%EC%8B%AC", json!({"events": [events.body[1]]})),
        (
            "a%20B",
            json!({"place": [places.body[2]], "match": {"kind": "loose", "asked": "a B", "name": "A+B"}}),
        ),
        ("nowhere", json!({})),
    ] {
        let answer = to.get(&format!("/api/v1/searchs?name={name}")).await;
        assert_eq!((answer.status, answer.body), (200, expected), "{name}");
    }
    let robots = to.get("/api/v1/robots").await.body;
    assert_eq!(robots, json!([{"id": 7, "name": "guide-7", "floor": 7}]));
    let status = to.get("/status").await.body;
    let building = &status["building"];
    assert_eq!(
        (&building["places"], &building["events"]),
        (&json!(3), &json!(2))
    );
    assert_eq!(building["since"], "1970-01-01T00:00:00.000Z");
    let started = Instant::now();
    loop {
        let status = to.get("/api/v1/robots/7/status").await.body;
        assert_eq!(status["robot"]["name"], "guide-7");
        if status["presence"]["state"] == "online" && status["status"]["pose"]["stale"] == false {
            assert!(status["status"]["pose"]["at"].is_string(), "{status}");
            let presence = &status["presence"];
            assert_eq!(presence["reason"], json!(null));
            let (since, contact) = (&presence["since"], &presence["lastContact"]);
            assert!(since.as_str().unwrap() <= contact.as_str().unwrap());
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{status}");
    }
}

#[tokio::test]
async fn a_robot_that_is_away_is_shown_so_with_the_command_that_waits_for_it() {
    let board = Board::new("", 50.0);
    board.lose_robot();
    let _daemon = board.run().await;
    let to = board.control();
    let status = to.get("/api/v1/robots/7/status").await.body;
    assert_eq!(status["command"], json!(null));
    let drive = json!({"kind": "go-to", "x": 1, "y": 1});
    let drive = to.post(drive).await.id();
    let started = Instant::now();
    loop {
        let status = to.get("/api/v1/robots/7/status").await.body;
        let presence = &status["presence"];
        assert_eq!(presence["state"], "degraded");
        assert_eq!(presence["reason"], "robot_side_down");
        assert!(presence["since"].is_string(), "{status}");
        assert_eq!(presence["lastContact"], json!(null));
        if status["command"] == drive.as_str() {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{status}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_in_the_relays_words() {
    let board = Board::new("", 50.0);
    board.keep_building().await;
    let _daemon = board.run().await;
    let to = board.control();
    for (body, status, code, told) in [
        (
            json!({"kind": "fly"}),
            400,
            "invalid_field",
            "kind: must be",
        ),
        (
            json!({"kind": "stop", "expiresIn": 0}),
            400,
            "invalid_field",
            "expiresIn",
        ),
        (
            json!({"kind": "go-to", "place": "nowhere"}),
            404,
            "not_found",
            "nowhere",
        ),
        (
            json!({"kind": "go-to", "placeId": 99}),
            404,
            "not_found",
            "place 99",
        ),
        (
            json!({"kind": "go-to", "place": "식당"}),
            409,
            "other_floor",
            "floor 8",
        ),
        (
            json!({"kind": "go-to", "placeId": 2}),
            409,
            "other_floor",
            "floor 8",
        ),
        (
            json!({"kind": "go-to", "x": 1, "y": 1, "floor": 8}),
            409,
            "other_floor",
            "floor 8",
        ),
        (json!([]), 400, "bad_json", "no JSON object"),
        (
            json!({"kind": "say", "text": "x".repeat(20_000)}),
            400,
            "invalid_field",
            "text",
        ),
        (
            json!({"kind": "say", "text": "x".repeat(2_000_000)}),
            413,
            "body_too_large",
            "longer",
        ),
    ] {
        let answer = to.post(body.clone()).await;
        let shown: String = body.to_string().chars().take(60).collect();
        assert_eq!(
            answer.code(),
            (status, code),
            "{shown}: {}",
            answer.message()
        );
        assert!(
            answer.message().contains(told),
            "{shown}: {}",
            answer.message()
        );
    }
    let headers = [("content-type", "text/plain")];
    let body = json!({"kind": "stop"}).to_string();
    let answer = to.send("POST", "/api/v1/commands", &headers, &body).await;
    assert_eq!(answer.code(), (415, "unsupported_media_type"));
}

/// Requests that cannot be answered, and how. `ID` is a command that was never given.
const REFUSED: &str = "
    GET    /api/v1/robots/8/commands        404 not_found
    GET    /api/v1/robots/7/elsewhere       404 no_route
    GET    /api/v1/commands/7               404 no_route
    GET    /api/v1/commands/ID              404 not_found
    DELETE /api/v1/commands/ID              404 not_found
    GET    /api/v1/commands/ID/wait         404 not_found
    GET    /api/v1/commands/ID/wait?timeout=61  400 invalid_field
    GET    /api/v1/commands/ID/wait?timeout=nan 400 invalid_field
    POST   /api/v1/commands/ID/wait         405 method_not_allowed
    PUT    /api/v1/commands/ID              405 method_not_allowed
    PUT    /api/v1/commands                 405 method_not_allowed
    POST   /api/v1/places                   405 method_not_allowed
    POST   /api/v1/robots/7/status          405 method_not_allowed
    GET    /api/v1/commands?limit=0         400 invalid_field
    GET    /api/v1/commands?limit=201       400 invalid_field
    GET    /api/v1/commands?after=7         400 invalid_field
    GET    /api/v1/commands?after=ID        400 invalid_field
    GET    /api/v1/commands?state=flying    400 invalid_field
    GET    /api/v1/searchs                  400 invalid_field
    GET    /api/v1/searchs?name=%ff         400 invalid_field
    GET    /api/v1                          404 no_route
    GET    /api/v1/nothing                  404 no_route
    POST   /api/v1/commands                 400 bad_json
    DELETE /events                          405 method_not_allowed";

#[tokio::test]
async fn what_cannot_be_answered_is_refused_with_the_relays_codes() {
    let board = Board::new("", 50.0);
    board.keep_building().await;
    let _daemon = board.run().await;
    let to = board.control();
    for line in REFUSED.lines().skip(1) {
        let [method, path, status, code] = line
            .split_whitespace()
            .collect::<Vec<_>>()
            .try_into()
            .unwrap();
        let path = path.replace("ID", &"0".repeat(32));
        let answer = to.send(method, &path, &[], "").await;
        let expected = (status.parse().unwrap(), code);
        assert_eq!(answer.code(), expected, "{line}: {}", answer.message());
    }
}

#[tokio::test]
async fn without_a_building_names_are_not_known_and_coordinates_are() {
    let board = Board::new("", 50.0);
    let _daemon = board.run().await;
    let to = board.control();
    for path in ["/api/v1/places", "/api/v1/events", "/api/v1/searchs?name=a"] {
        let answer = to.get(path).await;
        assert_eq!(answer.code(), (503, "no_building"), "{path}");
        assert!(answer.headers.contains_key("retry-after"));
    }
    let by_name = to.post(json!({"kind": "go-to", "place": "카페"})).await;
    assert_eq!(by_name.code(), (503, "no_building"));
    let robots = to.get("/api/v1/robots").await.body;
    assert_eq!(robots, json!([{"id": 7, "name": "guide-7", "floor": 7}]));
    let given = to.post(json!({"kind": "go-to", "x": 1, "y": 1})).await.id();
    assert_eq!(to.end(&given).await.body["state"], "succeeded");
}

#[tokio::test]
async fn a_page_in_a_browser_gets_nowhere_over_tcp() {
    let board = Board::new("listen = \"127.0.0.1:0\"", 50.0);
    let _daemon = board.run().await;
    let to = board.tcp().await;
    let stop = json!({"kind": "stop"}).to_string();
    let post = async |headers: &[(&str, &str)]| {
        let answer = to.send("POST", "/api/v1/commands", headers, &stop).await;
        answer.code().1.to_owned()
    };
    assert_eq!(post(&[("host", "evil.example")]).await, "host_not_allowed");
    assert_eq!(post(&[]).await, "host_not_allowed");
    let host = ("host", "localhost:8080");
    assert_eq!(
        post(&[host, ("origin", "http://evil.example")]).await,
        "origin_not_allowed"
    );
    assert_eq!(
        post(&[host, ("sec-fetch-site", "cross-site")]).await,
        "origin_not_allowed"
    );
    let listed = to.get("/api/v1/commands").await.body;
    assert_eq!(listed, json!({"commands": []}));
    assert_eq!(post(&[host, ("origin", "http://localhost:8080")]).await, "");
    let answer = to
        .send("GET", "/metrics", &[("host", "evil.example")], "")
        .await;
    assert_eq!(answer.code(), (403, "host_not_allowed"));
}

#[tokio::test]
async fn a_token_is_asked_for_on_the_configured_socket_and_not_on_the_control_socket() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
    let socket = folder.path().join("api.sock");
    let config = format!(
        "listen = \"unix:{}\"\nmode = \"0660\"\ntoken_file = {token:?}",
        socket.display()
    );
    let board = Board::new(&config, 50.0);
    let _daemon = board.run().await;
    assert_eq!(mode(&socket), 0o660);
    let to = To::Unix(socket);
    for headers in [&[][..], &[("authorization", "Bearer wrong")]] {
        let answer = to.send("GET", "/api/v1/commands", headers, "").await;
        assert_eq!(answer.code(), (401, "unauthorized"));
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
    }
    let shown = format!("Bearer {TOKEN}");
    let answer = to
        .send("GET", "/api/v1/commands", &[("authorization", &shown)], "")
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(to.get("/healthz").await.status, 200);
    assert_eq!(board.control().get("/api/v1/commands").await.status, 200);
    assert!(!board.log().contains(TOKEN));
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone_and_a_dead_socket_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let listen = local::Listen::Unix {
        path: path.clone(),
        mode: 0o600,
        group: None,
    };
    std::fs::write(&path, "precious").unwrap();
    let refused = local::listen(&listen, None).await.unwrap_err().to_string();
    assert!(refused.contains("api.sock"), "{refused}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_file(&path).unwrap();
    drop(local::listen(&listen, None).await.unwrap());
    let live = local::listen(&listen, None).await.unwrap();
    assert!(
        local::listen(&listen, None).await.is_err(),
        "a live one is respected"
    );
    drop(live);
}
