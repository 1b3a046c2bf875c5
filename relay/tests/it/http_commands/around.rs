//! Commands when what is around them has changed: the building, the contact, the room in the ledger.

use brrbrr_relay::catalog::command::{MAX_STOPS_BEYOND, MAX_WAYS_HOME_BEYOND};
use brrbrr_relay::catalog::{Aliases, PlaceDetails};

use super::*;

#[tokio::test]
async fn a_key_is_known_although_its_place_is_gone() {
    let server = Server::start().await;
    let go_to = r#"{"kind":"go-to","place":"701호"}"#;
    let keyed = [JSON, "Idempotency-Key: a key"];
    let first = server.ask("POST", ROBOT, &keyed, go_to).await;
    let catalog = &server.services.catalog;
    for place in catalog.places().await.unwrap() {
        let elsewhere = PlaceDetails {
            floor: place.details.floor + 20,
            ..place.details
        };
        let changed = catalog.change_place(place.id, elsewhere, Aliases::Kept);
        changed.await.unwrap();
    }
    let again = server.ask("POST", ROBOT, &keyed, go_to).await;
    assert_eq!((first.status, again.status), (201, 200), "{again:?}");
    assert_eq!(first.json()["id"], again.json()["id"]);
    let fresh = [JSON, "Idempotency-Key: another"];
    let refused = server.ask("POST", ROBOT, &fresh, go_to).await;
    assert_eq!(
        (refused.status, refused.error().as_str()),
        (409, "other_floor")
    );
}

#[tokio::test]
async fn a_stop_ends_the_trip_that_waits_for_a_robot_out_of_contact() {
    let server = Server::start().await;
    let trip = submit(
        &server,
        r#"{"kind":"go-to","place":"701호","expiresIn":3600}"#,
    )
    .await;
    let waiter = format!("{}/wait", path_of(&trip));
    let stop = async { submit(&server, r#"{"kind":"stop"}"#).await };
    let (ended, _) = tokio::join!(server.get(&waiter), stop);
    let ended = ended.json();
    assert_eq!(
        (&ended["state"], &ended["detail"]),
        (
            &json!("cancelled"),
            &json!("stopped before it was sent to the robot")
        )
    );
    let guidance = server.services.live.guidance(robot(1)).await.unwrap();
    assert_eq!(guidance.phase, Phase::Stopped);
}

#[tokio::test]
async fn a_status_names_what_runs_however_much_was_asked_since() {
    let server = Server::start().await;
    online(&server).await;
    let dock = submit(&server, r#"{"kind":"dock"}"#).await;
    hear(&server, step(id_of(&dock), Progress::Running)).await;
    for _ in 0..40 {
        let say = submit(&server, r#"{"kind":"say","text":"x"}"#).await;
        hear(&server, step(id_of(&say), Progress::Succeeded)).await;
    }
    let status = server.get("/api/v1/robots/1/status").await.json();
    assert_eq!(status["command"], dock["id"]);
}

#[tokio::test]
async fn a_full_ledger_keeps_no_session_from_ending() {
    let server = Server::start().await;
    let (catalog, second) = (&server.services.catalog, robot(2));
    set_contact(&server, 2, Contact::Online, Timestamp::now()).await;
    let count = u128::try_from(MAX_UNFINISHED).unwrap();
    for id in 1..=count {
        catalog.submit(order(second, id), true).await.unwrap();
    }
    // The way home has room of its own, until that is full too.
    for id in 1..=MAX_STOPS_BEYOND + MAX_WAYS_HOME_BEYOND + 1 {
        let code = server.code(second).await;
        let ended = server.get_with("/api/v1/robots/finished", &code).await;
        assert_eq!(ended.status, 200, "{id}: {ended:?}");
        assert_ne!(server.code(second).await, code);
    }
    let recent = catalog.recent_commands(second, 1_000).await.unwrap();
    let ways_home = MAX_STOPS_BEYOND + MAX_WAYS_HOME_BEYOND;
    let unfinished = recent.iter().filter(|entry| !entry.state.is_final());
    assert_eq!(unfinished.count(), MAX_UNFINISHED + ways_home);
}
