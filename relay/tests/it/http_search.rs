//! Names that are spoken, misheard or typed otherwise, over HTTP: what is found, what the robot is
//! ordered, and how the answer says that it was not the exact name.

use serde_json::{Value, json};

use crate::http_server::{R1, Reply, Server, robot};

const HEADER: &str = "x-brrbrr-match";

/// Enters a place and returns its record.
async fn enter(server: &Server, place: Value) -> Value {
    let reply = server
        .send("POST", "/api/v1/places", &place.to_string())
        .await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

fn place(name: &str, floor: i32) -> Value {
    json!({"name": name, "floor": floor, "xaxis": 7.5, "yaxis": 1})
}

fn percent_encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Asks as robot 1's guest.
async fn ask(server: &Server, route: &str, name: &str) -> Reply {
    let code = server.code(robot(1)).await;
    let path = format!("/api/v1/{route}?name={}", percent_encoded(name));
    server.get_with(&path, &code).await
}

/// What the header of a list says.
fn noted(reply: &Reply) -> Value {
    let mut bytes = Vec::new();
    let mut text = reply.header(HEADER).bytes();
    while let Some(byte) = text.next() {
        if byte == b'%' {
            let digits = [text.next().unwrap(), text.next().unwrap()];
            let digits = std::str::from_utf8(&digits).unwrap().to_owned();
            bytes.push(u8::from_str_radix(&digits, 16).unwrap());
        } else {
            bytes.push(byte);
        }
    }
    serde_json::from_slice(&bytes).unwrap_or(Value::Null)
}

/// Where the robot was ordered last, and how many orders it has had.
async fn orders(server: &Server) -> (usize, String) {
    let catalog = &server.services.catalog;
    let newest = catalog.recent_commands(robot(1), 100).await.unwrap();
    let order = newest
        .first()
        .map(|entry| format!("{:?}", entry.command.order));
    (newest.len(), order.unwrap_or_default())
}

#[tokio::test]
async fn a_misheard_name_is_found_and_the_answer_says_how() {
    let server = Server::start().await;
    let entered = enter(&server, place("싸피 7반", 7)).await;
    for (number, (asked, kind)) in [
        ("사피 7반", "sound"),
        ("서피 7 반", "sound"),
        ("써피7반", "sound"),
        ("싸피7반", "loose"),
    ]
    .into_iter()
    .enumerate()
    {
        let reply = ask(&server, "searchs", asked).await;
        let how = json!({"kind": kind, "asked": asked, "name": "싸피 7반"});
        let expected = json!({"place": [entered], "match": how});
        assert_eq!((reply.status, reply.json()), (200, expected));
        assert_eq!(reply.header(HEADER), "");
        let (count, order) = orders(&server).await;
        assert_eq!(count, number + 1);
        assert!(order.contains("싸피 7반"), "{order}");
    }
    let exact = ask(&server, "searchs", "싸피 7반").await;
    assert_eq!(exact.json(), json!({ "place": [entered] }));
    assert!(exact.body.starts_with(r#"{"place":[{"id":"#) && !exact.body.contains("match"));
}

#[tokio::test]
async fn another_number_or_identifier_is_never_found() {
    let server = Server::start().await;
    for name in ["싸피 7반", "A동", "B1"] {
        enter(&server, place(name, 7)).await;
    }
    for route in ["searchs", "places", "events"] {
        for asked in ["702호", "칠백이호", "싸피 8반", "B동", "B2", "로비 2"] {
            let reply = ask(&server, route, asked).await;
            let nothing = if route == "searchs" { "{}" } else { "[]" };
            assert_eq!(
                (reply.status, reply.body.as_str()),
                (200, nothing),
                "{asked}"
            );
            assert_eq!(reply.header(HEADER), "");
        }
    }
    assert_eq!(orders(&server).await.0, 0);
    assert_eq!(
        ask(&server, "places", "칠백일호").await.json()[0]["name"],
        "701호"
    );
}

#[tokio::test]
async fn lists_say_in_a_header_how_a_name_was_found() {
    let server = Server::start().await;
    let exact = ask(&server, "places", "701호").await;
    assert_eq!(exact.header(HEADER), "");
    let loose = ask(&server, "places", "7０1 호").await;
    assert_eq!(loose.body, exact.body);
    let how = json!({"kind": "loose", "asked": "7０1 호", "name": "701호"});
    assert_eq!(noted(&loose), how);
    assert!(orders(&server).await.1.contains("701호"));

    let elsewhere = ask(&server, "places", "팔백일호").await;
    assert_eq!(elsewhere.json()[0]["name"], "801호");
    let how = json!({"kind": "sound", "asked": "팔백일호", "name": "801호"});
    assert_eq!(noted(&elsewhere), how);

    let exact = ask(&server, "events", "전시회").await;
    assert_eq!(exact.header(HEADER), "");
    let misheard = ask(&server, "events", "전씨회").await;
    assert_eq!(misheard.body, exact.body);
    let how = json!({"kind": "sound", "asked": "전씨회", "name": "전시회"});
    assert_eq!(noted(&misheard), how);
    // Two trips to 701호 by its name, two by its event.
    assert_eq!(orders(&server).await.0, 4);
}

#[tokio::test]
async fn web_pages_may_read_the_header() {
    let server = Server::start().await;
    let code = format!("authCode: {}", server.code(robot(1)).await);
    let headers = [code.as_str(), "origin: http://face.example"];
    let path = format!("/api/v1/places?name={}", percent_encoded("701 호"));
    let reply = server.ask("GET", &path, &headers, "").await;
    let exposed = reply.header("access-control-expose-headers");
    assert!(exposed.contains(HEADER), "{exposed}");
}

#[tokio::test]
async fn an_exact_name_on_another_floor_comes_before_a_sound_alike_here() {
    let server = Server::start().await;
    enter(&server, place("싸피 7반", 7)).await;
    let upstairs = enter(&server, place("사피 7반", 8)).await;
    let reply = ask(&server, "searchs", "사피 7반").await;
    assert_eq!(reply.json(), json!({ "places": [upstairs] }));
    // About equally far from both.
    assert_eq!(ask(&server, "searchs", "자피 7반").await.body, "{}");
    assert_eq!(ask(&server, "searchs", "서피 7반").await.body, "{}");
    assert_eq!(orders(&server).await.0, 0);
}

#[tokio::test]
async fn a_place_is_found_by_its_aliases_and_events_keep_to_the_place() {
    let server = Server::start().await;
    let mut lift = place("승강기", 7);
    lift["aliases"] = json!([
        "엘리베이터",
        "Lift",
        "\u{1105}\u{1175}\u{1111}\u{1173}\u{1110}\u{1173}"
    ]);
    let lift = enter(&server, lift).await;
    assert_eq!(lift["aliases"], json!(["엘리베이터", "Lift", "리프트"]));
    for (asked, kind) in [
        ("엘리베이터", "alias"),
        ("lift", "alias"),
        ("리프트", "alias"),
        ("엘레베이터", "sound"),
    ] {
        let answer = ask(&server, "searchs", asked).await.json();
        assert_eq!(answer["place"], json!([lift]));
        assert_eq!(
            answer["match"],
            json!({"kind": kind, "asked": asked, "name": "승강기"})
        );
    }
    let (count, order) = orders(&server).await;
    assert!(count == 4 && order.contains("승강기"), "{order}");
    let catalog = &server.services.catalog;
    let guidance = server.services.live.guidance(robot(1)).await.unwrap();
    assert_eq!(guidance.destination.as_deref(), Some("승강기"));
    assert_eq!(catalog.robots().await.unwrap()[0].name, R1);
}

#[tokio::test]
async fn aliases_are_kept_by_whoever_does_not_know_them() {
    let server = Server::start().await;
    let mut lift = place("승강기", 7);
    lift["aliases"] = json!(["Lift"]);
    let entered = enter(&server, lift.clone()).await;
    let path = format!("/api/v1/places/{}", entered["id"]);
    let put = async |body: &Value| server.send("PUT", &path, &body.to_string()).await;

    let without = put(&place("승강기 앞", 8)).await.json();
    assert_eq!(
        (&without["aliases"], &without["floor"]),
        (&json!(["Lift"]), &json!(8))
    );
    lift["aliases"] = Value::Null;
    assert_eq!(put(&lift).await.json()["aliases"], json!(["Lift"]));
    lift["aliases"] = json!(["리프트", "리프트", "L"]);
    assert_eq!(put(&lift).await.json()["aliases"], json!(["리프트", "L"]));
    lift["aliases"] = json!([]);
    let cleared = put(&lift).await;
    assert_eq!(cleared.json().get("aliases"), None);
    assert_eq!(ask(&server, "searchs", "L").await.body, "{}");
    let server = server.restart(crate::http_server::open_settings()).await;
    let places = server.get("/api/v1/places").await;
    assert!(places.body.contains("승강기") && !places.body.contains("aliases"));
}

#[tokio::test]
async fn what_is_wrong_with_aliases_is_said_by_the_fields_name() {
    let server = Server::start().await;
    let before = server.get("/api/v1/places").await.body;
    for (aliases, message) in [
        (json!("Lift"), "aliases: must be a list of texts"),
        (json!({"a": "b"}), "aliases: must be a list of texts"),
        (json!(["a", 1]), "aliases: must hold texts only"),
        (json!(["a", null]), "aliases: must hold texts only"),
        (json!(["a", " "]), "aliases: must not hold an empty name"),
        (json!(["a\0"]), "aliases: must not hold a NUL"),
        (
            json!(["a".repeat(256)]),
            "aliases: holds a name of more than 255 characters",
        ),
        (
            json!((0..33).map(|n| n.to_string()).collect::<Vec<_>>()),
            "aliases: must not hold more than 32 names",
        ),
    ] {
        let mut wrong = place("승강기", 7);
        wrong["aliases"] = aliases;
        for (method, path) in [("POST", "/api/v1/places"), ("PUT", "/api/v1/places/1")] {
            let reply = server.send(method, path, &wrong.to_string()).await;
            assert_eq!(
                (reply.status, reply.error().as_str()),
                (400, "invalid_field")
            );
            assert_eq!(reply.json()["error"]["message"], message);
        }
    }
    assert_eq!(server.get("/api/v1/places").await.body, before);
}

#[tokio::test]
async fn names_are_kept_in_nfc_whoever_writes_them() {
    let server = Server::start().await;
    let decomposed = "\u{110f}\u{1161}\u{1111}\u{1166}";
    assert_eq!(enter(&server, place(decomposed, 7)).await["name"], "카페");
    let event = json!({
        "name": decomposed, "starttime": "2026-01-01T00:00:00Z", "endtime": "2026-01-02T00:00:00Z",
        "placeName": decomposed, "placeFloor": 7,
    });
    let event = server
        .send("POST", "/api/v1/events", &event.to_string())
        .await
        .json();
    assert_eq!(
        (&event["name"], &event["placeName"]),
        (&json!("카페"), &json!("카페"))
    );
    let named = json!({"name": decomposed, "floor": 7}).to_string();
    assert_eq!(
        server.send("POST", "/api/v1/robots", &named).await.json()["name"],
        "카페"
    );
    for route in ["places", "events"] {
        let reply = ask(&server, route, decomposed).await;
        assert_eq!(reply.json()[0]["name"], "카페");
        assert_eq!(reply.header(HEADER), "", "it is the exact name");
    }
    let answer = ask(&server, "searchs", decomposed).await.json();
    assert_eq!(
        (&answer["place"][0]["name"], answer.get("match")),
        (&json!("카페"), None)
    );
}
