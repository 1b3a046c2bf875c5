//! Which face has which robot, and what becomes of that when faces and relays come and go.

use std::time::Duration;

use brrbrr_relay::http::Settings;
use brrbrr_relay::live::{Contact, Presence};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::http_server::{Face, PATIENCE, R1, R2, Server, open_settings, robot};

fn named(events: &[(String, String)]) -> Vec<&str> {
    events.iter().map(|(name, _)| name.as_str()).collect()
}

/// Waits until the store says whether the robot has a face.
async fn wait_for_face(server: &Server, number: u32, is_bound: bool) {
    let waiting = async {
        loop {
            let face = server.services.live.face(robot(number)).await.unwrap();
            if face.is_some() == is_bound {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
}

/// With two robots, and this grace time.
async fn start_with_grace(grace: Duration) -> Server {
    let server = Server::start_empty(with_grace(grace)).await;
    for (name, floor) in [(R1, 7), (R2, 8)] {
        let add = format!(r#"{{"name":"{name}","floor":{floor}}}"#);
        server.send("POST", "/api/v1/robots", &add).await;
    }
    server
}

fn with_grace(grace: Duration) -> Settings {
    Settings {
        face_grace: grace,
        ..open_settings()
    }
}

#[tokio::test]
async fn a_face_hears_which_robots_are_free_and_claims_one_by_its_name() {
    let server = Server::start().await;
    // The other one is out of contact: its face may claim it, and no guest can be sent along.
    let online = Presence {
        contact: Contact::Online,
        ..Presence::default()
    };
    let live = &server.services.live;
    live.note_contacts(vec![(robot(1), online)]).await.unwrap();
    let mut face = Face::connect(server.address).await;
    let (name, robots) = face.event().await.unwrap();
    assert_eq!(name, "robots-available");
    insta::assert_snapshot!("robots_available", robots);

    let bound = face.claim(R1).await;
    let code = server.code(robot(1)).await;
    let event = |name: &str, data: &str| (name.to_owned(), data.to_owned());
    assert_eq!(
        bound,
        [event("authCode", &code), event("changePageTo", "welcome")]
    );

    let mut other = Face::connect(server.address).await;
    let (_, robots) = other.event().await.unwrap();
    let robots: Value = serde_json::from_str(&robots).unwrap();
    assert_eq!(robots.as_array().unwrap().len(), 1);
    assert_eq!(robots[0]["name"], R2);
}

#[tokio::test]
async fn a_name_in_decomposed_hangul_is_the_same_name() {
    let server = Server::start().await;
    let mut face = Face::connect(server.address).await;
    let decomposed = "\u{1100}\u{1175}\u{11af}\u{1103}\u{1169}\u{11bc}";
    let events = face.claim(decomposed).await;
    assert_eq!(
        named(&events),
        ["robots-available", "authCode", "changePageTo"]
    );
}

#[tokio::test]
async fn a_claim_that_cannot_be_met_is_answered_with_a_reason() {
    let server = Server::start().await;
    let mut face = Face::connect(server.address).await;
    face.event().await.unwrap();
    for claim in [
        r#"42["robotName","nobody"]"#,
        r#"42["robotName",7]"#,
        r#"42["robotName",{"name":"x"}]"#,
        r#"42["robotName"]"#,
    ] {
        face.say(claim).await;
        let (name, reason) = face.event().await.unwrap();
        assert_eq!(name, "error");
        assert!(!reason.is_empty());
    }
    assert_eq!(server.services.live.face(robot(1)).await.unwrap(), None);
}

#[tokio::test]
async fn a_newer_face_takes_over_and_the_older_one_is_told_and_sent_away() {
    let server = Server::start().await;
    let mut older = Face::of(server.address, R1).await;
    let mut newer = Face::of(server.address, R1).await;
    let (name, reason) = older.event().await.unwrap();
    assert_eq!(name, "error");
    assert!(reason.contains("taken over"), "{reason}");
    assert_eq!(older.event().await, None);
    let code = server.code(robot(1)).await;
    server.get_with("/api/v1/places", &code).await;
    assert_eq!(
        named(&newer.events().await),
        ["changePageTo", "placesOnFloor"]
    );
}

#[tokio::test]
async fn a_face_that_claims_another_robot_frees_the_first() {
    let server = Server::start().await;
    let mut face = Face::of(server.address, R1).await;
    face.claim(R2).await;
    let live = &server.services.live;
    assert_eq!(live.face(robot(1)).await.unwrap(), None);
    assert!(live.face(robot(2)).await.unwrap().is_some());
    let again = face.claim(R2).await;
    assert_eq!(named(&again), ["authCode", "changePageTo"]);
}

#[tokio::test]
async fn a_robot_is_free_again_some_time_after_its_face_has_gone() {
    let server = start_with_grace(Duration::from_millis(50)).await;
    let face = Face::of(server.address, R1).await;
    wait_for_face(&server, 1, true).await;
    drop(face);
    wait_for_face(&server, 1, false).await;
}

#[tokio::test]
async fn a_face_that_comes_back_in_time_keeps_its_robot_and_its_code() {
    let server = start_with_grace(Duration::from_millis(300)).await;
    let code = server.code(robot(1)).await;
    let later = Face::of(server.address, R2).await;
    drop(Face::of(server.address, R1).await);
    let mut face = Face::of(server.address, R1).await;
    // Its time is over after that of the first.
    drop(later);
    wait_for_face(&server, 2, false).await;
    server.get_with("/api/v1/places", &code).await;
    assert_eq!(
        named(&face.events().await),
        ["changePageTo", "placesOnFloor"]
    );
}

#[tokio::test]
async fn faces_keep_their_robots_and_codes_when_the_relay_restarts() {
    let server = Server::start().await;
    let code = server.code(robot(1)).await;
    let mut face = Face::of(server.address, R1).await;
    let server = server.restart(open_settings()).await;
    assert_eq!(face.event().await, None);
    wait_for_face(&server, 1, true).await;

    let mut visitor = Face::connect(server.address).await;
    let (_, free) = visitor.event().await.unwrap();
    assert!(!free.contains(R1), "{free}");
    let mut face = Face::connect(server.address).await;
    let events = face.claim(R1).await;
    assert_eq!(events[1], ("authCode".to_owned(), code));

    let server = server.restart(with_grace(Duration::from_millis(50))).await;
    wait_for_face(&server, 1, false).await;
}

#[tokio::test]
async fn init_gives_new_codes_to_faces_that_stay_connected() {
    let server = Server::start().await;
    let mut face = Face::of(server.address, R1).await;
    let old = server.code(robot(1)).await;
    assert_eq!(server.get("/api/v1/robots/init").await.status, 204);
    let events = face.events().await;
    assert_eq!(named(&events), ["authCode"]);
    // One in nine thousand times it is drawn again.
    let new = &events[0].1;
    assert_eq!(*new, server.code(robot(1)).await);
    if *new != old {
        assert_eq!(server.get_with("/api/v1/places", &old).await.status, 400);
    }
    server.get_with("/api/v1/places", new).await;
    assert_eq!(
        named(&face.events().await),
        ["changePageTo", "placesOnFloor"]
    );
}

#[tokio::test]
async fn the_face_of_a_removed_robot_is_told_and_its_code_is_dead() {
    let server = Server::start().await;
    let mut face = Face::of(server.address, R1).await;
    let code = server.code(robot(1)).await;
    server.send("DELETE", "/api/v1/robots/1", "").await;
    assert_eq!(named(&face.events().await), ["error"]);
    assert_eq!(server.get_with("/api/v1/places", &code).await.status, 400);
}

#[tokio::test]
async fn a_robot_removed_by_another_process_has_no_code() {
    let server = Server::start().await;
    let code = server.code(robot(1)).await;
    let catalog =
        brrbrr_relay::catalog::sqlite::SqliteCatalog::open(&server.data().join("catalog"));
    let catalog: &dyn brrbrr_relay::catalog::Catalog = &catalog.unwrap();
    catalog.remove_robot(robot(1)).await.unwrap();
    assert_eq!(server.get_with("/api/v1/places", &code).await.status, 400);
}

#[tokio::test]
async fn requests_of_one_robot_at_once_tell_its_face_one_after_the_other() {
    let server = Server::start().await;
    let mut face = Face::of(server.address, R1).await;
    let code = server.code(robot(1)).await;
    let requests = (0..12).map(|number| {
        let path = ["/api/v1/places?name=701호", "/api/v1/events?name=전시회"][number % 2];
        server.get_with(path, &code)
    });
    for reply in futures_util::future::join_all(requests).await {
        assert_eq!(reply.status, 200);
    }
    let events = face.events().await;
    for pair in named(&events).chunks(2) {
        let pair: std::collections::BTreeSet<_> = pair.iter().collect();
        assert_eq!(pair.len(), 2, "{events:?}");
    }
    assert_eq!(events.len(), 24);
    let newest = server.services.catalog.recent_commands(robot(1), 1).await;
    let trip = server.services.live.guidance(robot(1)).await.unwrap().trip;
    assert_eq!(trip, Some(newest.unwrap()[0].command.id));
}

#[tokio::test]
async fn a_face_that_does_not_read_is_dropped_from_and_holds_nobody_up() {
    let server = Server::start().await;
    let mut face = Face::of(server.address, R1).await;
    let code = server.code(robot(1)).await;
    let dropped = &server.services.metrics.face_events_dropped;
    for _ in 0..20_000 {
        if dropped.get() > 0 {
            break;
        }
        // Faster than over HTTP, and the same queue.
        let event = brrbrr_relay::push::FaceEvent::destinations(&"x".repeat(10_000));
        brrbrr_relay::push::tell(&server.services, robot(1), &[event]).await;
    }
    assert!(dropped.get() > 0);
    assert_eq!(server.get_with("/api/v1/places", &code).await.status, 200);
    while face.event().await.unwrap().0 == "destinations" && dropped.get() == 0 {}
}

#[tokio::test]
async fn broken_socket_io_traffic_harms_nobody_else() {
    let server = Server::start().await;
    let mut good = Face::of(server.address, R1).await;
    for text in [
        "",
        "4",
        "42",
        "42[",
        "42{}",
        "42[1]",
        "42[\"robotName\"",
        "451-[\"robotName\",{\"_placeholder\":true,\"num\":0}]",
        "459999999999999999999-[]",
        "40/other,",
        "41",
        "44",
        "9",
        "é",
        "42[\"robotName\",\"\\ud800\"]",
    ] {
        let mut face = Face::connect(server.address).await;
        face.say(text).await;
    }
    let mut large = Face::connect(server.address).await;
    large
        .say(&format!("42[\"robotName\",\"{}\"]", "x".repeat(1_000_000)))
        .await;
    for request in [
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /socket.io/?EIO=9&transport=polling HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /socket.io/?EIO=4&transport=polling&sid=xxxx HTTP/1.1\r\nhost: x\r\n\r\n",
        "POST /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n4",
        "DELETE /socket.io/ HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET /socket.io/ HTTP/1.1\r\nhost: x\r\n\r\n",
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        server.ask_broken(request.as_bytes()).await;
    }
    let code = server.code(robot(1)).await;
    server.get_with("/api/v1/places", &code).await;
    assert_eq!(
        named(&good.events().await),
        ["changePageTo", "placesOnFloor"]
    );
}
