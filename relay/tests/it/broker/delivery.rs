//! Frames both ways: all of them, in order, and no more of them in memory than the bounds say.

use std::time::Duration;

use brrbrr_proto::frame::MAX_FRAME_BYTES;
use brrbrr_proto::topic::Topic;
use brrbrr_relay::broker::{End, Limits, PublishError};
use bytes::Bytes;
use rumqttc::{Packet, QoS};

use super::raw::publish;
use super::{RELAY, World, client, eventually, hasty, robot, until, within};

const MANY: u32 = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_frames_reach_the_relay_in_order() {
    let mut world = World::start().await;
    let up = Topic::Up(RELAY, robot(1));
    let (client, mut events) = client(world.address, 1);
    let polling = tokio::spawn(async move { while events.poll().await.is_ok() {} });
    let sending = tokio::spawn(async move {
        for number in 0..MANY {
            let payload = number.to_be_bytes().repeat(40);
            client
                .publish(up.to_string(), QoS::AtLeastOnce, false, payload)
                .await
                .unwrap();
        }
        client
    });
    for number in 0..MANY {
        let heard = world.heard().await;
        assert_eq!(heard.topic, up);
        assert_eq!(heard.payload[..4], number.to_be_bytes());
    }
    // A frame is counted when it has been handed over, which the other side may see first.
    eventually(|| world.handle.counters().frames_in == u64::from(MANY)).await;
    within(sending).await.unwrap();
    polling.abort();
    world.assert_serves(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_frames_reach_a_robot_in_order() {
    let mut world = World::start().await;
    let mut raw = world.robot(1).await;
    let reading = tokio::spawn(async move {
        for number in 0..MANY {
            assert_eq!(raw.frame().await[..4], number.to_be_bytes());
        }
        raw
    });
    for number in 0..MANY {
        world.say(1, &number.to_be_bytes().repeat(40)).await;
    }
    let mut raw = within(reading).await.unwrap();
    raw.ping().await;
    assert_eq!(world.handle.counters().frames_out, u64::from(MANY));
    assert_eq!(world.handle.counters().frames_lost, 0);
    world.assert_serves(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_skipped_when_the_relay_is_slower_than_the_robots() {
    let mut world = World::start().await;
    let frames = 100_u8;
    let mut sending = Vec::new();
    for number in 1..=3 {
        let mut raw = world.robot(number).await;
        let topic = Topic::Up(RELAY, robot(number)).to_string();
        sending.push(tokio::spawn(async move {
            for index in 0..frames {
                let payload = vec![index; 200 * 1024];
                raw.send(&publish(&topic, None, false, &payload)).await;
            }
            raw
        }));
    }
    // 60 MB are on their way, and the relay looks up only when it has been handed all it can hold.
    eventually(|| world.inbound.len() == world.inbound.max_capacity()).await;
    let mut next = [0; 4];
    for _ in 0..3 * u32::from(frames) {
        let heard = world.heard().await;
        let sender = usize::try_from(heard.topic.robot().number()).unwrap();
        assert_eq!(heard.payload, vec![next[sender]; 200 * 1024]);
        next[sender] += 1;
    }
    assert_eq!(next, [0, frames, frames, frames]);
    for sent in sending {
        within(sent).await.unwrap().ping().await;
    }
    world.assert_serves(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_robot_that_stops_reading_is_dropped_and_others_go_on() {
    let limits = Limits {
        longest_silence: Duration::from_secs(60),
        ..hasty()
    };
    let mut world = World::with(limits, None).await;
    let mut reader = world.robot(2).await;
    let _deaf = world.robot(1).await;
    let frame = Bytes::from(vec![0; MAX_FRAME_BYTES]);
    let mut refused = 0;
    eventually(
        || match world.handle.publish(Topic::Down(robot(1)), frame.clone()) {
            Ok(()) => false,
            Err(PublishError::Congested(_)) => {
                refused += 1;
                false
            }
            Err(PublishError::NotConnected(_)) => true,
            Err(error) => panic!("{error}"),
        },
    )
    .await;
    assert!(refused > 0, "the relay was told that there was no room");
    eventually(|| world.handle.counters().ended(End::SlowReader) == 1).await;
    world.say(2, b"go on").await;
    assert_eq!(reader.frame().await, b"go on");
    world.assert_serves(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_robot_that_does_not_read_its_answers_is_read_no_further() {
    let limits = Limits {
        longest_silence: Duration::from_secs(60),
        ..hasty()
    };
    let mut world = World::with(limits, None).await;
    let mut rude = world.robot(1).await;
    let pings = [0xc0, 0].repeat(32 * 1024);
    eventually_closed(&mut rude, &pings).await;
    eventually(|| world.handle.counters().ended(End::SlowReader) == 1).await;
    world.assert_serves(1).await;
}

/// Sends the same again and again until the other side has hung up.
async fn eventually_closed(raw: &mut super::Raw<tokio::net::TcpStream>, bytes: &[u8]) {
    use tokio::io::AsyncWriteExt;
    within(async { while raw.stream.write_all(bytes).await.is_ok() {} }).await;
}

#[tokio::test]
async fn frames_of_the_largest_size_pass_both_ways() {
    let mut world = World::start().await;
    let largest = vec![7; MAX_FRAME_BYTES];
    let mut raw = world.robot(1).await;
    raw.send(&publish("brrbrr/1/hello/1", None, false, &largest))
        .await;
    assert_eq!(world.heard().await.payload, largest);
    world.say(1, &largest).await;
    assert_eq!(raw.frame().await, largest);
    drop(raw);
    world.assert_serves(1).await;
}

#[tokio::test]
async fn what_cannot_be_sent_is_said_at_once() {
    let mut world = World::start().await;
    let down = Topic::Down(robot(1));
    let hello = Topic::Hello(robot(1));
    let publish = |topic, length| world.handle.publish(topic, vec![0; length]);
    assert_eq!(publish(down, 1), Err(PublishError::NotConnected(robot(1))));
    assert_eq!(publish(hello, 1), Err(PublishError::NotDown(hello)));
    let too_long = MAX_FRAME_BYTES + 1;
    assert_eq!(
        publish(down, too_long),
        Err(PublishError::TooLong(too_long))
    );
    world.assert_serves(1).await;
}

#[tokio::test]
async fn frames_of_both_qualities_of_service_are_heard() {
    let mut world = World::start().await;
    let (client, mut events) = client(world.address, 1);
    let topic = Topic::Live(RELAY, robot(1));
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        client
            .publish(topic.to_string(), qos, false, "status")
            .await
            .unwrap();
    }
    until(&mut events, |packet| matches!(packet, Packet::PubAck(_))).await;
    for _ in 0..2 {
        assert_eq!(world.heard().await.topic, topic);
    }
    world.assert_serves(2).await;
}

#[tokio::test]
async fn a_shutdown_hangs_up_on_everybody_and_ends_the_stream() {
    let mut world = World::start().await;
    let mut robot = world.robot(1).await;
    let mut idle = world.dial().await;
    world.stop.take().unwrap().send(()).unwrap();
    assert_eq!(within(world.inbound.recv()).await, None);
    robot.hung_up().await;
    idle.hung_up().await;
    eventually(|| world.handle.connections() == 0).await;
    let refused = tokio::net::TcpStream::connect(world.address).await;
    assert!(refused.is_err(), "the port is free again");
}

#[tokio::test]
async fn the_broker_ends_when_the_relay_no_longer_listens() {
    let world = World::start().await;
    let mut raw = world.robot(1).await;
    let World {
        inbound, handle, ..
    } = world;
    drop(inbound);
    raw.send(&publish("brrbrr/1/hello/1", None, false, b"anybody?"))
        .await;
    raw.hung_up().await;
    eventually(|| handle.connections() == 0).await;
}
