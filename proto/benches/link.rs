//! What sealing, encoding and the two halves of the link cost, all in memory.

#![allow(clippy::expect_used, reason = "a benchmark that fails panics")]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "the other outputs are not measured"
)]

use std::time::Duration;

use brrbrr_proto::down::Down;
use brrbrr_proto::frame;
use brrbrr_proto::id::{BootId, ConnectionId, Epoch, RelayId, RobotId, Seq, SessionId};
use brrbrr_proto::link::gateway::{Output as FromGateway, SpoolView};
use brrbrr_proto::link::relay::{Grants, Ledger, Now, Output as FromRelay, bytes_of};
use brrbrr_proto::link::{Gateway, Relay};
use brrbrr_proto::seal::{Keys, Secret};
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use brrbrr_proto::up::{Batch, Item, Up};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};

/// As large as a typical record.
const RECORD_BYTES: usize = 150;
const RECORDS: u64 = 100_000;

fn main() {
    divan::main();
}

/// A batch whose records together have about this many bytes.
fn batch(bytes: usize) -> Up {
    let item = Item {
        covers: 1,
        record: vec![7; RECORD_BYTES.min(bytes)],
    };
    Up::Batch(Batch {
        session: SessionId(1),
        sent: Uptime::default(),
        first: Seq::FIRST,
        items: vec![item; bytes.div_ceil(RECORD_BYTES)],
    })
}

fn keys() -> (Keys, RobotId) {
    let robot = RobotId::new(7).expect("not zero");
    (Keys::new(&Secret::new([1; 32])), robot)
}

#[divan::bench(args = [200, 64 * 1024])]
fn seal(bencher: Bencher<'_, '_>, bytes: usize) {
    let (keys, robot) = keys();
    let message = batch(bytes);
    bencher
        .counter(BytesCount::new(bytes))
        .bench(|| frame::seal(&keys, robot, Epoch(1), &[5; 24], &message).expect("seals"));
}

#[divan::bench(args = [200, 64 * 1024])]
fn open(bencher: Bencher<'_, '_>, bytes: usize) {
    let (keys, robot) = keys();
    let sealed = frame::seal(&keys, robot, Epoch(1), &[5; 24], &batch(bytes)).expect("seals");
    bencher
        .counter(BytesCount::new(bytes))
        .bench(|| frame::open::<Up>(&keys, robot, &sealed).expect("opens"));
}

#[divan::bench(args = [200, 64 * 1024])]
fn encode(bencher: Bencher<'_, '_>, bytes: usize) {
    let message = batch(bytes);
    bencher
        .counter(BytesCount::new(bytes))
        .bench(|| frame::encode(&message).expect("encodes"));
}

#[divan::bench(args = [200, 64 * 1024])]
fn decode(bencher: Bencher<'_, '_>, bytes: usize) {
    let encoded = frame::encode(&batch(bytes)).expect("encodes");
    bencher
        .counter(BytesCount::new(bytes))
        .bench(|| frame::decode::<Up>(&encoded).expect("decodes"));
}

/// Records through both halves, frames neither encoded nor sealed.
#[divan::bench]
fn cores(bencher: Bencher<'_, '_>) {
    bencher
        .counter(ItemsCount::new(RECORDS))
        .bench(|| drain(|up| up, |down| down));
}

/// The same with every frame encoded, sealed, opened and decoded.
#[divan::bench]
fn cores_and_frames(bencher: Bencher<'_, '_>) {
    let (keys, robot) = keys();
    bencher.counter(ItemsCount::new(RECORDS)).bench(|| {
        drain(
            |up| {
                let sealed = frame::seal(&keys, robot, Epoch(1), &[5; 24], &up).expect("seals");
                frame::open(&keys, robot, &sealed).expect("opens").1
            },
            |down| {
                let sealed = frame::seal(&keys, robot, Epoch(1), &[5; 24], &down).expect("seals");
                frame::open(&keys, robot, &sealed).expect("opens").1
            },
        )
    });
}

/// A spool of [`RECORDS`] records goes to a journal that takes everything at once.
fn drain(carry_up: impl Fn(Up) -> Up, carry_down: impl Fn(Down) -> Down) -> Seq {
    let end = Seq::FIRST.plus(RECORDS);
    let view = SpoolView {
        epoch: Epoch(1),
        first: Seq::FIRST,
        next: end,
    };
    let stamp = Stamp {
        boot: BootId(1),
        uptime: Uptime::default(),
        wall: WallClock(0),
    };
    let now = Now {
        uptime: stamp.uptime,
        wall: stamp.wall,
    };
    let grants = Grants {
        credit: 512 * 1024,
        live_interval: Duration::from_millis(200),
        beat_interval: Duration::from_secs(10),
    };
    let mut gateway = Gateway::new(view, None, String::new(), 1);
    let mut relay = Relay::new(RelayId(1), grants);
    let mut stored = Seq::FIRST;
    gateway.handle_connected(ConnectionId(1), stamp);
    while stored < end {
        while let Some(output) = gateway.poll_output() {
            match output {
                FromGateway::Hello(hello) => {
                    relay.handle_hello(Epoch(1), hello, SessionId(1), now);
                }
                FromGateway::Up(_, up) => relay.handle_up(Epoch(1), carry_up(up), now),
                FromGateway::Read {
                    from,
                    max_items,
                    max_bytes,
                } => {
                    let left = usize::try_from(end.since(from)).expect("small");
                    let count = left.min(max_items).min(max_bytes / RECORD_BYTES).max(1);
                    let item = Item {
                        covers: 1,
                        record: vec![7; RECORD_BYTES],
                    };
                    gateway.handle_read(from, vec![item; count], stamp.uptime);
                }
                _ => {}
            }
        }
        while let Some(output) = relay.poll_output() {
            match output {
                FromRelay::Send(_, down) => gateway.handle_down(carry_down(down), stamp),
                FromRelay::Recall { session, .. } => {
                    let ledger = Ledger {
                        epoch: Epoch(2),
                        acked: Seq::FIRST,
                        next: Seq::FIRST,
                    };
                    relay.handle_recalled(session, stored, ledger, now);
                }
                FromRelay::Store(store) => {
                    let bytes = bytes_of(&store.items);
                    stored = store.first.plus(store.items.len() as u64);
                    relay.handle_stored(store.session, stored, bytes);
                }
                _ => {}
            }
        }
    }
    stored
}
