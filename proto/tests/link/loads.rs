//! Commands that cannot be loaded just now.

use std::time::Duration;

use brrbrr_proto::down::Down;
use brrbrr_proto::id::{BootId, ConnectionId, Cursor, Epoch, HelloId, RelayId, Seq, SessionId};
use brrbrr_proto::link::relay::{Ledger, Now, Output};
use brrbrr_proto::link::{COMMANDS_TIMEOUT, Relay};
use brrbrr_proto::time::{Uptime, WallClock};
use brrbrr_proto::up::{Beat, Hello, Up};
use brrbrr_proto::version::Versions;

use crate::pair::{GRANTS, command, drain_relay};

pub const SESSION: SessionId = SessionId(9);
pub const UP: Epoch = Epoch(1);
const DOWN: Epoch = Epoch(2);

pub fn now(after: Duration) -> Now {
    Now {
        uptime: Uptime::new(after),
        wall: WallClock(0),
    }
}

fn beat(next: Seq) -> Up {
    let down = Cursor { epoch: DOWN, next };
    Up::Beat(Beat {
        session: SESSION,
        sent: Uptime::default(),
        down,
    })
}

/// A relay in a session, which has asked for the first of five commands.
pub fn loading() -> Relay {
    let hello = Hello {
        hello: HelloId {
            connection: ConnectionId(1),
            attempt: 1,
        },
        boot: BootId(1),
        uptime: Uptime::default(),
        wall: WallClock(0),
        next: Seq::FIRST,
        backlog: 0,
        down: None,
        versions: Versions::SUPPORTED,
        software: String::new(),
    };
    let ledger = Ledger {
        epoch: DOWN,
        acked: Seq::FIRST,
        next: Seq(6),
    };
    let mut relay = Relay::new(RelayId(1), GRANTS);
    relay.handle_hello(UP, hello, SESSION, now(Duration::ZERO));
    relay.handle_recalled(SESSION, Seq::FIRST, ledger, now(Duration::ZERO));
    relay.handle_up(UP, beat(Seq::FIRST), now(Duration::ZERO));
    assert!(loads(&mut relay, Seq::FIRST));
    relay
}

fn loads(relay: &mut Relay, from: Seq) -> bool {
    let session = SESSION;
    drain_relay(relay).contains(&Output::Load { session, from })
}

#[test]
fn what_is_urgent_goes_out_with_all_that_is_not_acknowledged() {
    let mut relay = loading();
    let at = now(Duration::ZERO);
    relay.handle_loaded(SESSION, Seq::FIRST, vec![command(1)], at);
    drain_relay(&mut relay);
    relay.handle_wake();
    assert!(!loads(&mut relay, Seq::FIRST), "the flight comes first");
    relay.handle_urgent_wake();
    assert!(loads(&mut relay, Seq::FIRST));
    // Another stop while the ledger is read is not forgotten.
    relay.handle_urgent_wake();
    assert!(!loads(&mut relay, Seq::FIRST), "one at a time");
    let run = vec![command(1), command(2)];
    relay.handle_loaded(SESSION, Seq::FIRST, run.clone(), at);
    let outputs = drain_relay(&mut relay);
    let is_sent = |output: &Output| matches!(output, Output::Send(_, Down::Commands(sent)) if sent.commands == run);
    assert!(outputs.iter().any(is_sent), "{outputs:?}");
    let load = Output::Load {
        session: SESSION,
        from: Seq::FIRST,
    };
    assert!(outputs.contains(&load), "{outputs:?}");
    relay.handle_loaded(SESSION, Seq::FIRST, run, at);
    assert!(!loads(&mut relay, Seq::FIRST), "and then it waits");
}

#[test]
fn a_load_that_failed_is_tried_again() {
    let mut relay = loading();
    relay.handle_load_failed(SESSION, now(Duration::ZERO));
    assert!(!loads(&mut relay, Seq::FIRST));
    relay.handle_timeout(now(COMMANDS_TIMEOUT));
    assert!(loads(&mut relay, Seq::FIRST));
}

#[test]
fn a_load_that_failed_is_tried_again_although_an_older_frame_is_acknowledged() {
    let mut relay = loading();
    let commands = vec![command(1), command(2)];
    relay.handle_loaded(SESSION, Seq::FIRST, commands, now(Duration::ZERO));
    // It counts as lost and is loaded again, which fails; and then it turns out to have arrived.
    relay.handle_timeout(now(COMMANDS_TIMEOUT));
    assert!(loads(&mut relay, Seq::FIRST));
    relay.handle_load_failed(SESSION, now(COMMANDS_TIMEOUT));
    relay.handle_up(UP, beat(Seq(3)), now(COMMANDS_TIMEOUT));
    assert!(loads(&mut relay, Seq(3)), "the other three are forgotten");
}
