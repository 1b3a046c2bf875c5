//! Whatever bytes a client sends, the others are served.

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use super::raw::packet;
use super::{World, connect};

const CASES: u32 = 256;

/// Packets of every type whose bodies make no sense, or nearly do.
fn nonsense() -> impl Strategy<Value = Vec<u8>> {
    let body = prop_oneof![
        vec(any::<u8>(), 0..40),
        (any::<[u8; 2]>(), vec(any::<u8>(), 0..8))
            .prop_map(|(id, tail)| { [&id[..], b"\0\x0fbrrbrr/1/down/1", &tail].concat() }),
        vec(any::<u8>(), 0..8).prop_map(|tail| [b"\0\x10brrbrr/1/hello/1", &tail[..]].concat()),
    ];
    let whole = (any::<u8>(), body).prop_map(|(first, body)| packet(first, &body));
    let piece = prop_oneof![4 => whole, 1 => vec(any::<u8>(), 0..200)];
    vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

/// Sends bytes, after a CONNECT or instead of one, and has another robot served after that.
fn storm(is_connected: bool, cases: u32) {
    let runtime = Runtime::new().unwrap();
    let stage = Mutex::new(runtime.block_on(async {
        let world = World::start().await;
        let bystander = world.robot(2).await;
        (world, bystander)
    }));
    proptest!(ProptestConfig::with_cases(cases), |(bytes in nonsense())| {
        runtime.block_on(async {
            let mut stage = stage.lock().await;
            let (world, bystander) = &mut *stage;
            let mut raw = world.dial().await;
            if is_connected {
                prop_assert_eq!(raw.connect(&connect(1)).await, Some(0));
            }
            raw.send_anyway(&bytes).await;
            raw.stream.shutdown().await.ok();
            raw.hung_up().await;
            bystander.ping().await;
            world.say(2, b"served").await;
            prop_assert_eq!(bystander.frame().await, b"served");
            // What it happened to say rightly is heard, and must not fill the queue.
            while let Ok(heard) = world.inbound.try_recv() {
                prop_assert_eq!(heard.topic.robot(), super::robot(1));
            }
            Ok(())
        })?;
    });
    runtime.block_on(async {
        let (mut world, bystander) = stage.into_inner();
        drop(bystander);
        world.assert_serves(1).await;
        world.assert_serves(2).await;
    });
}

#[test]
fn random_bytes_after_a_connect_never_stop_the_broker() {
    storm(true, CASES);
}

#[test]
fn random_bytes_instead_of_a_connect_never_stop_the_broker() {
    storm(false, CASES);
}
