//! What one robot may do to another, to itself and to the relay: nothing that is not its own.

use brrbrr_proto::topic::Topic;
use brrbrr_relay::broker::{End, PublishError};

use super::raw::{publish, unsubscribe};
use super::{Connect, World, connect, eventually, robot};

const DISCONNECT: [u8; 2] = [0xe0, 0];

#[tokio::test]
async fn a_publish_that_is_not_the_robots_own_is_not_acknowledged_and_ends_its_connection() {
    let mut world = World::start().await;
    let mut other = world.robot(2).await;
    let topics = [
        "brrbrr/1/hello/2",
        "brrbrr/1/up/00000000000000ab/2",
        "brrbrr/1/live/00000000000000ab/2",
        "brrbrr/1/presence/2",
        "brrbrr/1/down/1",
        "brrbrr/1/down/2",
        "$SYS/x",
        "",
    ];
    for topic in topics {
        let mut raw = world.robot(1).await;
        raw.send(&publish(topic, Some(1), false, b"forged")).await;
        assert_eq!(raw.read().await, None, "{topic:?}");
    }
    let denied = u64::try_from(topics.len()).unwrap();
    eventually(|| world.handle.counters().ended(End::Denied) == denied).await;
    assert_eq!(world.handle.counters().denied_publishes, denied);
    assert!(world.inbound.is_empty());
    other.ping().await;
    world.assert_serves(1).await;
}

#[tokio::test]
async fn a_subscription_is_granted_for_the_robots_down_topic_and_nothing_else() {
    let mut world = World::start().await;
    let mut raw = world.dial().await;
    raw.connect(&connect(1)).await;
    for filter in [
        "#",
        "brrbrr/1/down/+",
        "brrbrr/1/down/2",
        "brrbrr/1/hello/1",
        "$share/g/#",
        "",
    ] {
        assert_eq!(raw.subscribe(&[filter]).await, [0x80], "{filter:?}");
    }
    assert_eq!(
        world.handle.publish(Topic::Down(robot(1)), "too early"),
        Err(PublishError::NotConnected(robot(1)))
    );
    let mixed = ["brrbrr/1/down/2", "brrbrr/1/down/1", "#", "brrbrr/1/down/1"];
    assert_eq!(raw.subscribe(&mixed).await, [0x80, 0, 0x80, 0]);
    let _other = world.robot(2).await;
    world.say(2, b"for robot 2").await;
    world.say(1, b"for robot 1").await;
    assert_eq!(raw.frame().await, b"for robot 1");
    assert_eq!(world.handle.counters().denied_subscriptions, 8);
    drop(raw);
    eventually(|| world.handle.connections() == 1).await;
    world.assert_serves(1).await;
}

#[tokio::test]
async fn a_robot_can_leave_its_topic_and_come_back() {
    let mut world = World::start().await;
    let mut raw = world.robot(1).await;
    for id in 1..=3 {
        for filter in ["brrbrr/1/down/2", "never/subscribed", "brrbrr/1/down/1"] {
            raw.send(&unsubscribe(id, filter)).await;
            let id = id.to_be_bytes().to_vec();
            assert_eq!(raw.read().await, Some((0xb0, id)));
        }
        assert_eq!(
            world.handle.publish(Topic::Down(robot(1)), "unheard"),
            Err(PublishError::NotConnected(robot(1)))
        );
        raw.listen(1).await;
        raw.listen(1).await;
        world.say(1, b"once").await;
        assert_eq!(raw.frame().await, b"once");
        raw.ping().await;
    }
    drop(raw);
    world.assert_serves(1).await;
}

#[tokio::test]
async fn a_publish_to_a_relay_that_is_gone_is_acknowledged_and_thrown_away() {
    let mut world = World::start().await;
    let mut raw = world.robot(1).await;
    let gone = "brrbrr/1/up/00000000000000ac/1";
    raw.send(&publish(gone, Some(5), false, b"late")).await;
    assert_eq!(raw.read().await, Some((0x40, vec![0, 5])));
    raw.send(&publish("brrbrr/1/hello/1", Some(6), false, b"hello"))
        .await;
    assert_eq!(world.heard().await.topic, Topic::Hello(robot(1)));
    assert_eq!(world.handle.counters().stray_publishes, 1);
    world.assert_serves(2).await;
}

#[tokio::test]
async fn a_will_for_another_robot_is_refused() {
    let mut world = World::start().await;
    for will in [
        connect(1).with_will("brrbrr/1/presence/2", b"dead"),
        connect(1).with_will("brrbrr/1/hello/1", b"dead"),
        connect(1).with_will("brrbrr/1/presence/1", &[0; 1500]),
    ] {
        let mut raw = world.dial().await;
        assert_eq!(raw.connect(&will).await, Some(5));
        raw.hung_up().await;
    }
    assert!(world.inbound.is_empty());
    world.assert_serves(1).await;
}

#[tokio::test]
async fn a_will_is_heard_when_the_connection_breaks_and_not_after_a_goodbye() {
    let mut world = World::start().await;
    let will = |text: &str| connect(1).with_will("brrbrr/1/presence/1", text.as_bytes());

    let mut raw = world.dial().await;
    raw.connect(&will("discarded")).await;
    raw.send(&DISCONNECT).await;
    raw.hung_up().await;
    eventually(|| world.handle.counters().ended(End::Goodbye) == 1).await;

    let mut raw = world.dial().await;
    raw.connect(&will("heard")).await;
    drop(raw);
    let heard = world.heard().await;
    assert_eq!(heard.topic, Topic::Presence(robot(1)));
    assert_eq!(heard.payload, "heard");

    let mut raw = world.dial().await;
    raw.connect(&will("removed")).await;
    world.handle.disconnect(robot(1));
    raw.hung_up().await;
    assert_eq!(world.heard().await.payload, "removed");
    eventually(|| world.handle.counters().ended(End::Removed) == 1).await;
    world.assert_serves(1).await;
}

#[tokio::test]
async fn a_second_connection_takes_over_after_the_will_of_the_first() {
    let mut world = World::start().await;
    let will = |text: &str| connect(1).with_will("brrbrr/1/presence/1", text.as_bytes());
    let mut first = world.dial().await;
    first.connect(&will("first")).await;
    first.listen(1).await;
    for takeover in 0..20 {
        let name = format!("after {takeover}");
        let mut second = world.dial().await;
        assert_eq!(second.connect(&will(&name)).await, Some(0));
        second
            .send(&publish("brrbrr/1/hello/1", None, false, name.as_bytes()))
            .await;
        let gone = world.heard().await;
        assert_eq!(gone.topic, Topic::Presence(robot(1)));
        assert_eq!(world.heard().await.payload, name);
        first.hung_up().await;
        second.listen(1).await;
        world.say(1, name.as_bytes()).await;
        assert_eq!(second.frame().await, name.as_bytes());
        assert_eq!(world.handle.connections(), 1);
        first = second;
    }
    eventually(|| world.handle.counters().ended(End::TakenOver) == 20).await;
    drop(first);
    world.assert_serves(1).await;
}

#[tokio::test]
async fn a_retained_publish_or_will_leaves_nothing_behind() {
    let mut world = World::start().await;
    let persistent = Connect {
        clean: false,
        ..connect(1).with_will("brrbrr/1/presence/1", b"retained will")
    };
    for _ in 0..2 {
        let mut raw = world.dial().await;
        assert_eq!(raw.connect(&persistent).await, Some(0));
        raw.send(&publish("brrbrr/1/hello/1", Some(1), true, b"retained"))
            .await;
        assert_eq!(raw.read().await, Some((0x40, vec![0, 1])));
        raw.listen(1).await;
        raw.ping().await;
        drop(raw);
        for payload in ["retained", "retained will"] {
            assert_eq!(world.heard().await.payload, payload);
        }
    }
    eventually(|| world.handle.connections() == 0).await;
    let mut raw = world.robot(1).await;
    raw.ping().await;
    assert!(world.inbound.is_empty());
    drop(raw);
    world.assert_serves(1).await;
}
