//! Storage that goes back in time, because somebody restored a backup.

use std::time::Duration;

use brrbrr_proto::down::{Ack, Down};
use brrbrr_proto::id::{CommandId, ConnectionId, Cursor, Epoch, Seq, SessionId};
use brrbrr_proto::link::Gateway;
use brrbrr_proto::link::gateway::{Output, SpoolView};
use brrbrr_proto::up::{Event, Loss, Record, Up};

use crate::pair::{Pair, at, commands, drain, hello_in, welcome};

fn append(pair: &mut Pair, texts: &[&str]) {
    for text in texts {
        pair.append(text);
    }
}

#[test]
fn a_restored_spool_sends_all_that_waits_in_a_new_epoch() {
    let mut pair = Pair::connected();
    append(&mut pair, &["a", "b"]);
    pair.disconnect();
    append(&mut pair, &["c", "d"]);
    let backup = pair.spool.clone();
    append(&mut pair, &["e", "f", "g"]);
    pair.connect();
    assert_eq!(pair.journal(Epoch(1)), ["a", "b", "c", "d", "e", "f", "g"]);

    pair.disconnect();
    pair.spool = backup;
    append(&mut pair, &["h"]);
    pair.restart_gateway();
    assert_eq!(pair.renewed_epochs, 1);
    let renewed = pair.spool.view.epoch;
    assert_ne!(renewed, Epoch(1));
    assert_eq!(pair.journal(renewed), ["c", "d", "h"]);
    assert!(pair.spool.rows.is_empty());
    append(&mut pair, &["i"]);
    assert_eq!(pair.journal(renewed), ["c", "d", "h", "i"]);
}

#[test]
fn a_spool_is_renewed_once_however_often_the_connection_breaks_meanwhile() {
    let mut gateway = crate::pair::gateway(0, 1);
    gateway.handle_connected(ConnectionId(1), at(0));
    let hello = hello_in(&drain(&mut gateway)).expect("greets");
    let mut ahead = welcome(hello.hello);
    ahead.up_next = Seq(9);
    gateway.handle_down(Down::Welcome(ahead), at(10));
    assert_eq!(drain(&mut gateway), [Output::RenewEpoch]);

    gateway.handle_disconnected();
    gateway.handle_connected(ConnectionId(2), at(20));
    gateway.handle_timeout(at(100_000));
    assert_eq!(drain(&mut gateway), []);

    let renewed = SpoolView {
        epoch: Epoch(8),
        first: Seq::FIRST,
        next: Seq(3),
    };
    gateway.handle_renewed(renewed, at(100_010));
    let hello = hello_in(&drain(&mut gateway)).expect("greets anew");
    assert_eq!((hello.next, hello.backlog), (Seq(3), 2));
}

#[test]
fn a_spool_that_is_renewed_without_a_connection_greets_on_the_next() {
    let mut gateway = crate::pair::gateway(0, 1);
    gateway.handle_connected(ConnectionId(1), at(0));
    let mut ahead = welcome(hello_in(&drain(&mut gateway)).expect("greets").hello);
    ahead.up_next = Seq(9);
    gateway.handle_down(Down::Welcome(ahead), at(10));
    gateway.handle_disconnected();
    let renewed = SpoolView {
        epoch: Epoch(8),
        first: Seq::FIRST,
        next: Seq(1),
    };
    gateway.handle_renewed(renewed, at(20));
    drain(&mut gateway);
    assert_eq!(gateway.poll_timeout(), None);
    gateway.handle_connected(ConnectionId(2), at(30));
    assert!(hello_in(&drain(&mut gateway)).is_some());
}

#[test]
fn what_a_restored_journal_forgot_is_a_tombstone_in_its_place() {
    let mut pair = Pair::connected();
    append(&mut pair, &["a", "b"]);
    let backup = pair.stores.clone();
    append(&mut pair, &["c", "d", "e"]);
    pair.disconnect();
    append(&mut pair, &["f", "g"]);
    pair.stores = backup;
    pair.restart_relay();
    assert_eq!(pair.journal(Epoch(1)), ["a", "b", "-3", "f", "g"]);
    let (position, item) = &pair.stores.journal[&Epoch(1)][2];
    assert_eq!((*position, item.covers), (Seq(3), 3));
    let record = Record::decode(&item.record).expect("a record");
    let Event::Tombstone(tombstone) = record.event else {
        panic!("no tombstone: {record:?}");
    };
    assert_eq!((tombstone.count, tombstone.loss), (3, Loss::RelayForgot));
}

#[test]
fn the_tombstone_survives_restarts_of_either_side_before_it_is_stored() {
    for restarts_gateway in [true, false] {
        let mut pair = Pair::connected();
        let backup = pair.stores.clone();
        append(&mut pair, &["a", "b", "c"]);
        pair.stores = backup;
        pair.is_cut = true;
        pair.restart_relay();
        append(&mut pair, &["d"]);
        pair.pass(Duration::from_secs(30));
        pair.is_cut = false;
        if restarts_gateway {
            pair.restart_gateway();
        } else {
            pair.restart_relay();
        }
        assert_eq!(pair.journal(Epoch(1)), ["-3", "d"]);
        pair.restart_gateway();
        pair.restart_relay();
        append(&mut pair, &["e"]);
        assert_eq!(pair.journal(Epoch(1)), ["-3", "d", "e"]);
    }
}

#[test]
fn a_tombstone_that_is_lost_on_the_way_is_sent_again() {
    let mut pair = Pair::connected();
    let backup = pair.stores.clone();
    append(&mut pair, &["a", "b", "c"]);
    pair.stores = backup;
    pair.loses_batches = true;
    pair.restart_relay();
    assert!(pair.journal(Epoch(1)).is_empty());
    pair.loses_batches = false;
    pair.pass(Duration::from_secs(20));
    assert_eq!(pair.journal(Epoch(1)), ["-3"]);
    append(&mut pair, &["d"]);
    assert_eq!(pair.journal(Epoch(1)), ["-3", "d"]);
}

#[test]
fn a_tombstone_covers_exactly_what_is_still_missing() {
    let view = SpoolView {
        epoch: Epoch(1),
        first: Seq(11),
        next: Seq(13),
    };
    let mut gateway = Gateway::new(view, None, "alone".to_owned(), 1);
    gateway.handle_connected(ConnectionId(1), at(0));
    let hello = hello_in(&drain(&mut gateway)).expect("greets");
    gateway.handle_down(Down::Welcome(welcome(hello.hello)), at(10));
    assert_eq!(tombstones(&drain(&mut gateway)), [(Seq(1), 10)]);
    // Another relay stored a part, by whatever way.
    let ack = Ack {
        session: SessionId(5),
        next: Seq(5),
        credit: 1000,
    };
    gateway.handle_down(Down::Ack(ack), at(20));
    let due = gateway.poll_timeout().expect("waits");
    assert!(due > at(20).uptime);
    for step in 1..=8 {
        gateway.handle_timeout(at(20 + step * 1000));
    }
    assert_eq!(tombstones(&drain(&mut gateway)), [(Seq(5), 6)]);
}

fn tombstones(outputs: &[Output]) -> Vec<(Seq, u64)> {
    let batches = outputs.iter().filter_map(|output| match output {
        Output::Up(_, Up::Batch(batch)) => Some((batch.first, batch.items[0].covers)),
        _ => None,
    });
    batches.collect()
}

#[test]
fn a_restored_ledger_delivers_new_commands_and_runs_no_old_one_twice() {
    let mut pair = Pair::connected();
    pair.submit(1);
    let backup = pair.stores.clone();
    pair.submit(2);
    pair.submit(3);
    assert_eq!(pair.spool.ran, [1, 2, 3].map(CommandId));

    pair.stores = backup;
    pair.restart_relay();
    assert_eq!(pair.renewed_ledgers, 1);
    pair.submit(4);
    pair.submit(5);
    assert_eq!(pair.spool.ran, [1, 2, 3, 4, 5].map(CommandId));
    assert_eq!(pair.stores.ledger.acked, pair.stores.ledger.next);
}

#[test]
fn a_restored_ledger_sends_what_it_believes_to_wait_and_the_robot_knows_it() {
    let mut pair = Pair::connected();
    pair.disconnect();
    pair.submit(1);
    pair.submit(2);
    let backup = pair.stores.clone();
    pair.submit(3);
    pair.connect();
    assert_eq!(pair.spool.ran, [1, 2, 3].map(CommandId));
    pair.stores = backup;
    pair.restart_relay();
    pair.submit(4);
    assert_eq!(pair.renewed_ledgers, 1);
    assert_eq!(pair.spool.ran, [1, 2, 3, 4].map(CommandId));
    assert_eq!(pair.stores.ledger.acked, pair.stores.ledger.next);
}

#[test]
fn a_fresh_spool_is_not_sent_what_its_predecessor_had() {
    let mut pair = Pair::connected();
    pair.submit(1);
    let fresh = Pair::new().spool;
    pair.spool = fresh;
    pair.restart_gateway();
    pair.submit(2);
    assert_eq!(pair.spool.ran, [CommandId(2)]);
}

#[test]
fn a_store_that_ends_after_the_ledger_was_renewed_does_not_hide_new_commands() {
    let mut gateway = crate::pair::gateway(0, 1);
    gateway.handle_connected(ConnectionId(1), at(0));
    let hello = hello_in(&drain(&mut gateway)).expect("greets");
    gateway.handle_down(Down::Welcome(welcome(hello.hello)), at(10));
    gateway.handle_down(commands(1, at(0).uptime, &[1, 2, 3]), at(20));
    let old = stores(&drain(&mut gateway));
    assert_eq!(old.len(), 1);

    gateway.handle_connected(ConnectionId(2), at(30));
    let hello = hello_in(&drain(&mut gateway)).expect("greets");
    let mut renewed = welcome(hello.hello);
    renewed.down.epoch = Epoch(99);
    gateway.handle_down(Down::Welcome(renewed), at(40));
    gateway.handle_commands_stored(old[0], at(50).uptime);
    gateway.handle_down(commands(1, at(0).uptime, &[4]), at(60));
    let cursor = Cursor {
        epoch: Epoch(99),
        next: Seq(2),
    };
    assert_eq!(stores(&drain(&mut gateway)), [cursor]);
}

fn stores(outputs: &[Output]) -> Vec<Cursor> {
    let cursors = outputs.iter().filter_map(|output| match output {
        Output::Store { cursor, .. } => Some(*cursor),
        _ => None,
    });
    cursors.collect()
}
