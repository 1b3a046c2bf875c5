//! Frames that come again. The seal does not stop a broker from playing back what it has seen, so
//! the halves must not mind.

use std::time::Duration;

use brrbrr_proto::down::{Ack, Down};
use brrbrr_proto::id::{CommandId, ConnectionId, Epoch, Seq, SessionId};
use brrbrr_proto::link::gateway::Output;
use brrbrr_proto::link::relay::Output as FromRelay;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::pair::{Pair, UpFrame, at, drain, drain_relay, hello_in, welcome};

/// A conversation with every kind of frame, over two connections.
fn talk() -> Pair {
    let mut pair = Pair::connected();
    for (battery, text) in [(0.9, "a"), (0.8, "b")] {
        pair.append(text);
        pair.show(battery);
        pair.pass(Duration::from_secs(1));
    }
    pair.submit(1);
    pair.submit(2);
    pair.disconnect();
    pair.append("c");
    pair.submit(3);
    pair.connect();
    pair.append("d");
    pair.show(0.7);
    pair.pass(Duration::from_secs(15));
    pair
}

/// What must not change.
fn state(pair: &Pair) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        pair.journal(Epoch(1)),
        pair.spool.ran.clone(),
        (pair.stores.ledger, pair.spool.view, pair.spool.down),
        (pair.session, pair.statuses.len(), pair.closed.len()),
        (pair.renewed_epochs, pair.renewed_ledgers, pair.reconnects),
    )
}

fn goes_on(pair: &mut Pair) {
    let session = pair.session;
    pair.append("new");
    pair.submit(99);
    assert_eq!(pair.journal(Epoch(1)), ["a", "b", "c", "d", "new"]);
    assert_eq!(pair.spool.ran, [1, 2, 3, 99].map(CommandId));
    assert_eq!(pair.session, session, "the session was lost");
}

#[test]
fn the_recorded_conversation_has_every_kind_of_frame() {
    let pair = talk();
    let up = |find: fn(&UpFrame) -> bool| pair.sent_up.iter().any(|(_, frame)| find(frame));
    assert!(up(|frame| matches!(frame, UpFrame::Hello(_))));
    assert!(up(|frame| matches!(frame, UpFrame::Live(_))));
    assert!(up(|frame| matches!(frame, UpFrame::Gone(_))));
    assert!(up(|frame| matches!(frame, UpFrame::Up(_))));
    let down = |find: fn(&Down) -> bool| pair.sent_down.iter().any(|(_, frame)| find(frame));
    assert!(down(|frame| matches!(frame, Down::Welcome(_))));
    assert!(down(|frame| matches!(frame, Down::Ack(_))));
    assert!(down(|frame| matches!(frame, Down::Commands(_))));
}

#[test]
fn a_whole_conversation_played_back_to_both_sides_changes_nothing() {
    let mut pair = talk();
    let before = state(&pair);
    let (up, down) = (pair.sent_up.clone(), pair.sent_down.clone());
    for (epoch, frame) in up {
        pair.deliver_up(epoch, frame);
        pair.settle();
    }
    for (_, frame) in down {
        pair.hear(frame);
    }
    assert_eq!(state(&pair), before);
    goes_on(&mut pair);
}

#[test]
fn a_conversation_played_back_to_a_relay_that_has_just_started_stores_nothing() {
    let mut pair = talk();
    let up = pair.sent_up.clone();
    pair.is_cut = true;
    pair.restart_relay();
    let before = (pair.journal(Epoch(1)), pair.stores.ledger);
    for (epoch, frame) in up {
        pair.deliver_up(epoch, frame);
        pair.settle();
    }
    assert_eq!((pair.journal(Epoch(1)), pair.stores.ledger), before);
    assert!(!pair.relay.is_open());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn random_parts_of_a_conversation_played_back_change_nothing(
        parts in prop::collection::vec((any::<bool>(), any::<Index>(), 0_u64..300), 1..60),
    ) {
        let mut pair = talk();
        let before = state(&pair);
        let (up, down) = (pair.sent_up.clone(), pair.sent_down.clone());
        for (is_up, which, pause) in parts {
            if is_up {
                let (epoch, frame) = which.get(&up).clone();
                pair.deliver_up(epoch, frame);
                pair.settle();
            } else {
                pair.hear(which.get(&down).1.clone());
            }
            pair.pass(Duration::from_millis(pause));
        }
        prop_assert_eq!(state(&pair), before);
        goes_on(&mut pair);
    }
}

#[test]
fn a_doubled_hello_does_not_replace_the_offer_that_it_made() {
    let mut pair = Pair::new();
    pair.is_cut = true;
    pair.connect();
    let (epoch, hello) = pair.sent_up[0].clone();
    pair.deliver_up(epoch, hello.clone());
    let recalls = drain_relay(&mut pair.relay);
    assert!(matches!(recalls[..], [FromRelay::Recall { .. }]));
    pair.deliver_up(epoch, hello);
    assert_eq!(drain_relay(&mut pair.relay), []);
}

#[test]
fn a_late_ack_does_not_bring_back_an_old_credit() {
    let mut gateway = crate::pair::gateway(10, 1);
    gateway.handle_connected(ConnectionId(1), at(0));
    let hello = hello_in(&drain(&mut gateway)).expect("greets");
    gateway.handle_down(Down::Welcome(welcome(hello.hello)), at(1));
    let from = read_from(&drain(&mut gateway)).expect("reads");
    let item = brrbrr_proto::up::Item {
        covers: 1,
        record: vec![0; 10],
    };
    gateway.handle_read(from, vec![item.clone(); 2], at(2).uptime);
    let ack = |next, credit| {
        Down::Ack(Ack {
            session: SessionId(5),
            next: Seq(next),
            credit,
        })
    };
    gateway.handle_down(ack(3, 0), at(3));
    gateway.handle_down(ack(1, 1_000), at(4));
    let from = read_from(&drain(&mut gateway)).expect("has asked before");
    gateway.handle_read(from, vec![item], at(5).uptime);
    assert_eq!(read_from(&drain(&mut gateway)), None);
}

fn read_from(outputs: &[Output]) -> Option<Seq> {
    outputs.iter().find_map(|output| match output {
        Output::Read { from, .. } => Some(*from),
        _ => None,
    })
}
