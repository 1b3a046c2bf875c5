//! What stops rumqttd's own server, and more of the kind.

use brrbrr_proto::frame::MAX_FRAME_BYTES;
use brrbrr_relay::broker::{End, Limits, Refusal};
use tokio::net::TcpStream;

use super::raw::{header, packet, publish};
use super::{Connect, KNOWN, NEVER_ANSWERED, Raw, UNAVAILABLE, World, connect, eventually, hasty};

#[tokio::test]
async fn an_idle_connection_blocks_nobody_and_is_closed_in_time() {
    let mut world = World::start().await;
    let _idle = world.dial().await;
    world.assert_serves(1).await;

    let mut world = World::with(hasty(), None).await;
    let mut idle = world.dial().await;
    idle.hung_up().await;
    assert_eq!(world.handle.counters().refused(Refusal::Silent), 1);
    world.assert_serves(1).await;
}

#[tokio::test]
async fn odd_client_ids_are_refused_again_and_again() {
    let mut world = World::start().await;
    for client_id in [
        "",
        "+",
        "$",
        "#",
        "/",
        "a+b$c#d/e",
        "brrbrr-1+",
        "brrbrr-01",
    ] {
        for clean in [true, false] {
            let odd = Connect {
                client_id: client_id.to_owned(),
                clean,
                ..connect(1)
            };
            for _ in 0..2 {
                let mut raw = world.dial().await;
                assert_eq!(raw.connect(&odd).await, Some(2), "{client_id:?}");
                raw.hung_up().await;
            }
        }
    }
    world.assert_serves(1).await;
}

#[tokio::test]
async fn too_many_connections_are_refused_until_others_leave() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let mut world = World::with(limits, None).await;
    let first = world.robot(1).await;
    let mut second = world.robot(2).await;
    for retry in 1..=20 {
        let mut third = world.dial().await;
        third.send_anyway(&connect(3).bytes()).await;
        third.hung_up().await;
        let refused = world.handle.counters().refused(Refusal::TotalLimit);
        assert_eq!(refused, retry);
    }
    second.ping().await;
    drop(first);
    eventually(|| world.handle.connections() == 1).await;
    // The place is free a moment after the robot has left.
    loop {
        let mut third = world.dial().await;
        third.send_anyway(&connect(3).bytes()).await;
        if third.read().await.is_some() {
            break;
        }
    }
    eventually(|| world.handle.connections() == 1).await;
    drop(second);
    eventually(|| world.handle.connections() == 0).await;
    world.assert_serves(4).await;
}

#[tokio::test]
async fn a_shared_subscriber_that_leaves_with_an_unacknowledged_message_harms_nobody() {
    let mut world = World::start().await;
    let persistent = Connect {
        clean: false,
        ..connect(1)
    };
    for _ in 0..2 {
        let mut raw = world.dial().await;
        assert_eq!(raw.connect(&persistent).await, Some(0));
        let filters = ["$share/group/brrbrr/1/down/1", "brrbrr/1/down/1"];
        assert_eq!(raw.subscribe(&filters).await, [0x80, 0]);
        world.say(1, b"not acknowledged").await;
        assert_eq!(raw.frame().await, b"not acknowledged");
        drop(raw);
    }
    world.assert_serves(1).await;
}

#[tokio::test]
async fn a_flood_of_connections_that_close_at_once_harms_nobody() {
    let mut world = World::start().await;
    for round in 0..2 {
        let dials = (0..200).map(|_| TcpStream::connect(world.address));
        let streams = futures_util::future::try_join_all(dials).await.unwrap();
        drop(streams);
        let all = 200 * (round + 1);
        eventually(|| world.handle.counters().refused(Refusal::Silent) >= all).await;
    }
    world.assert_serves(1).await;
}

#[tokio::test]
async fn whatever_is_not_a_connect_is_hung_up_on() {
    let mut world = World::start().await;
    let first_packets: [Vec<u8>; 12] = [
        b"GET / HTTP/1.1\r\nHost: robots\r\n\r\n".to_vec(),
        vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
        vec![0; 64],
        vec![0xff; 64],
        vec![0x10, 0],
        vec![0x10, 0xff, 0xff, 0xff, 0xff],
        vec![0x11, 2, 0, 4],
        packet(0x10, b"\0\x04MQTT"),
        packet(0x10, b"\0\x06MQIsdp\x03\x02\0\x1e\0\0"),
        publish("brrbrr/1/hello/1", None, false, b"x"),
        vec![0xc0, 0],
        header(0x10, 100_000),
    ];
    let count = u64::try_from(first_packets.len()).unwrap();
    for bytes in first_packets {
        let mut raw = world.dial().await;
        raw.send(&bytes).await;
        assert_eq!(raw.read().await, None, "{bytes:02x?}");
    }
    assert_eq!(world.handle.counters().refused(Refusal::Protocol), count);
    world.assert_serves(1).await;
}

#[tokio::test]
async fn another_version_of_mqtt_is_told_so() {
    let mut world = World::start().await;
    for level in [3, 5] {
        let other = Connect {
            level,
            ..connect(1)
        };
        assert_eq!(world.dial().await.connect(&other).await, Some(1));
    }
    world.assert_serves(1).await;
}

#[tokio::test]
async fn half_a_packet_is_not_waited_for_for_ever() {
    let mut world = World::with(hasty(), None).await;
    let bytes = connect(1).bytes();
    let mut raw = world.dial().await;
    raw.send(&bytes[..bytes.len() / 2]).await;
    raw.hung_up().await;
    assert_eq!(world.handle.counters().refused(Refusal::Silent), 1);

    let mut raw = world.robot(1).await;
    raw.send(&header(0x30, 1000)).await;
    raw.send(b"\0\x10brrbrr/1/hello/1 and then noth").await;
    raw.hung_up().await;
    eventually(|| world.handle.counters().ended(End::Silent) == 1).await;
    world.assert_serves(1).await;
}

#[tokio::test]
async fn the_keep_alive_that_a_robot_asks_for_is_held_to_it() {
    let mut world = World::start().await;
    let hurried = Connect {
        keep_alive: 1,
        ..connect(1)
    };
    let mut raw = world.dial().await;
    assert_eq!(raw.connect(&hurried).await, Some(0));
    raw.hung_up().await;
    eventually(|| world.handle.counters().ended(End::Silent) == 1).await;
    world.assert_serves(1).await;
}

#[tokio::test]
async fn a_packet_that_is_too_large_is_refused_before_it_is_read() {
    let mut world = World::start().await;
    let mut raw = world.robot(1).await;
    raw.send(&header(0x30, MAX_FRAME_BYTES + 1000)).await;
    raw.hung_up().await;
    eventually(|| world.handle.counters().ended(End::Protocol) == 1).await;

    let mut raw = world.robot(1).await;
    let payload = vec![0; MAX_FRAME_BYTES + 1];
    raw.send_anyway(&publish("brrbrr/1/hello/1", None, false, &payload))
        .await;
    raw.hung_up().await;
    eventually(|| world.handle.counters().ended(End::Denied) == 1).await;
    world.assert_serves(1).await;
}

#[tokio::test]
async fn who_is_not_known_is_told_so_and_who_cannot_be_asked_about_too() {
    let mut world = World::start().await;
    let liar = Connect {
        password: "guessed".to_owned(),
        ..connect(1)
    };
    let impostor = Connect {
        username: "2".to_owned(),
        password: super::password(2),
        ..connect(1)
    };
    for (asked, code) in [
        (liar, 4),
        (connect(KNOWN + 100), 4),
        (connect(UNAVAILABLE), 3),
        (impostor, 2),
    ] {
        let mut raw = world.dial().await;
        assert_eq!(raw.connect(&asked).await, Some(code));
        raw.hung_up().await;
    }
    assert_eq!(world.handle.connections(), 0);
    world.assert_serves(1).await;
}

#[tokio::test]
async fn a_password_check_that_never_ends_holds_up_its_client_only() {
    let mut world = World::with(hasty(), None).await;
    let mut stuck = world.dial().await;
    stuck.send(&connect(NEVER_ANSWERED).bytes()).await;
    world.assert_serves(1).await;
    stuck.hung_up().await;
    assert_eq!(world.handle.counters().refused(Refusal::Silent), 1);
}

#[tokio::test]
async fn what_a_connected_client_may_not_say_ends_its_connection() {
    let mut world = World::start().await;
    let qos_2 = packet(0x34, b"\0\x10brrbrr/1/hello/1\0\x01x");
    let not_for_clients = [
        connect(1).bytes(),
        qos_2,
        vec![0x20, 2, 0, 0],
        vec![0x40, 2, 0, 1],
        vec![0x50, 2, 0, 1],
        vec![0x62, 2, 0, 1],
        vec![0x70, 2, 0, 1],
        vec![0x80, 2, 0, 1],
        vec![0x82, 2, 0, 1],
        vec![0x82, 0],
        vec![0x90, 3, 0, 1, 0],
        vec![0xa2, 1, 0],
        vec![0xa2, 2, 0, 1],
        vec![0xb0, 2, 0, 1],
        vec![0xd0, 0],
        vec![0xf0, 0],
        vec![0x32, 5, 0, 1, b'x', 0, 0],
    ];
    let count = u64::try_from(not_for_clients.len()).unwrap();
    for bytes in not_for_clients {
        let mut raw = world.robot(1).await;
        raw.send(&bytes).await;
        assert_eq!(raw.read().await, None, "{bytes:02x?}");
    }
    eventually(|| world.handle.counters().ended(End::Protocol) == count).await;
    let _last: Raw<TcpStream> = world.robot(2).await;
    world.assert_serves(1).await;
}
