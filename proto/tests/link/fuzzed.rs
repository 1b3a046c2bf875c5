//! The fuzz targets' functions over random bytes and over random sequences of real messages, so
//! that every test run covers them: no panic, no busy loop, no hole, no unbounded memory.

use proptest::collection::vec;
use proptest::prelude::*;

#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

use brrbrr_proto::frame::{self, Message};

use crate::message;

fn encoded(message: &impl Message) -> Vec<u8> {
    frame::encode(message).expect("encodes")
}

/// A step of the gateway's driver that is no message, and an argument for it.
fn small_step(below: u8) -> impl Strategy<Value = Vec<u8>> {
    // Times move up to minutes, so that timers fire in order too.
    (0..below, 0_u8..30, 0_u8..24).prop_map(|(kind, value, shift)| vec![kind, value, shift])
}

fn gateway_step() -> impl Strategy<Value = Vec<u8>> {
    let said = (8_u8..12, message::down());
    let said = said.prop_map(|(choice, down)| [vec![9, choice], encoded(&down)].concat());
    prop_oneof![1 => Just(vec![0, 1, 1]), 4 => small_step(9), 4 => said]
}

fn relay_step() -> impl Strategy<Value = Vec<u8>> {
    let hello = message::hello().prop_map(|hello| [vec![0], encoded(&hello)].concat());
    let up = (any::<u8>(), message::up());
    let up = up.prop_map(|(choice, up)| [vec![11, choice], encoded(&up)].concat());
    let live = message::live().prop_map(|live| [vec![7], encoded(&live)].concat());
    let gone = message::gone().prop_map(|gone| [vec![6], encoded(&gone)].concat());
    let recalled = Just(vec![1, 1, 0]);
    prop_oneof![2 => hello, 2 => recalled, 4 => up, 1 => live, 1 => gone, 4 => small_step(11)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_a_decoder_panic(data in vec(any::<u8>(), 0..400)) {
        fuzz::open_frame(&data);
        fuzz::decode_record(&data);
    }

    #[test]
    fn no_bytes_upset_either_half_of_the_link(data in vec(any::<u8>(), 0..800)) {
        fuzz::link_gateway_down(&data);
        fuzz::link_relay_up(&data);
    }

    #[test]
    fn no_sequence_of_messages_upsets_the_gateway(steps in vec(gateway_step(), 0..80)) {
        fuzz::link_gateway_down(&[vec![5, 1, 1], steps.concat()].concat());
    }

    #[test]
    fn no_sequence_of_messages_upsets_the_relay(steps in vec(relay_step(), 0..80)) {
        fuzz::link_relay_up(&[vec![5], steps.concat()].concat());
    }

    #[test]
    fn damaged_messages_do_not_make_a_decoder_panic(
        message in prop_oneof![
            message::down().prop_map(|down| encoded(&down)),
            message::up().prop_map(|up| encoded(&up)),
            message::hello().prop_map(|hello| encoded(&hello)),
            message::record().prop_map(|record| record.encode().expect("encodes")),
        ],
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut data = message;
        for (at, byte) in damage {
            *at.get_mut(&mut data) = byte;
        }
        fuzz::open_frame(&data);
        fuzz::decode_record(&data);
    }
}
