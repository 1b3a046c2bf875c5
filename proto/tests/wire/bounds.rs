//! Limits: what is allowed fits, what is not is refused, and a claimed length takes no memory.

use std::time::Duration;

use brrbrr_proto::down::{Action, Command, Commands, Down, MAX_COMMAND_BYTES, MAX_COMMANDS, Order};
use brrbrr_proto::frame::{self, FrameError, MAX_FRAME_BYTES};
use brrbrr_proto::id::{BootId, CommandId, Epoch, RobotId, Seq, SessionId};
use brrbrr_proto::link::{BATCH_BYTES, BATCH_ITEMS, COMMANDS_BYTES, COMMANDS_PER_FRAME};
use brrbrr_proto::seal::{Keys, Secret};
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use brrbrr_proto::up::{
    Batch, Custom, Event, Item, MAX_BATCH_ITEMS, MAX_RECORD_BYTES, Record, RecordError, Up,
};

use crate::ALLOCATOR;

fn seal(message: &impl frame::Message) -> Result<Vec<u8>, FrameError> {
    let keys = Keys::new(&Secret::new([3; 32]));
    let robot = RobotId::new(9).expect("not zero");
    frame::seal(&keys, robot, Epoch(4), &[7; 24], message)
}

fn batch(items: Vec<Item>) -> Up {
    Up::Batch(Batch {
        session: SessionId(u64::MAX),
        sent: Uptime::new(Duration::MAX),
        first: Seq(u64::MAX),
        items,
    })
}

#[test]
fn the_largest_batches_fit_a_frame() {
    let item = |bytes| Item {
        covers: u64::MAX,
        record: vec![0xff; bytes],
    };
    let many = vec![item(BATCH_BYTES / BATCH_ITEMS); BATCH_ITEMS];
    assert!(seal(&batch(many)).is_ok());
    let full = vec![item(MAX_RECORD_BYTES), item(BATCH_BYTES - MAX_RECORD_BYTES)];
    assert!(seal(&batch(full)).is_ok());
}

#[test]
fn the_largest_commands_fit_a_frame() {
    let many = (COMMANDS_BYTES / COMMANDS_PER_FRAME, COMMANDS_PER_FRAME);
    let large = (MAX_COMMAND_BYTES, COMMANDS_BYTES / MAX_COMMAND_BYTES);
    for (bytes, count) in [many, large] {
        let command = Command {
            id: CommandId(u128::MAX),
            time_to_live: Duration::MAX,
            order: Order::Custom(Action {
                name: String::new(),
                json: "x".repeat(bytes),
            }),
        };
        let commands = Down::Commands(Commands {
            session: SessionId(u64::MAX),
            sent: Uptime::new(Duration::MAX),
            first: Seq(u64::MAX),
            commands: vec![command; count],
        });
        assert!(seal(&commands).is_ok());
    }
}

#[test]
fn a_message_that_does_not_fit_a_frame_is_refused_on_both_sides() {
    let item = Item {
        covers: 1,
        record: vec![0; MAX_FRAME_BYTES],
    };
    let sealed = seal(&batch(vec![item]));
    assert!(matches!(sealed, Err(FrameError::TooLong(_))), "{sealed:?}");

    let keys = Keys::new(&Secret::new([3; 32]));
    let robot = RobotId::new(9).expect("not zero");
    for (length, expected) in [
        (
            MAX_FRAME_BYTES + 1,
            FrameError::TooLong(MAX_FRAME_BYTES + 1),
        ),
        (0, FrameError::TooShort(0)),
        (32, FrameError::TooShort(32)),
    ] {
        let opened = frame::open::<Up>(&keys, robot, &vec![1; length]);
        assert_eq!(opened, Err(expected));
    }
}

#[test]
fn frames_of_other_versions_are_refused_by_name() {
    let keys = Keys::new(&Secret::new([3; 32]));
    let robot = RobotId::new(9).expect("not zero");
    for version in [0, 2, 255] {
        let opened = frame::open::<Up>(&keys, robot, &[version; 80]);
        assert_eq!(opened, Err(FrameError::Version(version)));
    }
}

fn record(bytes: usize) -> Record {
    Record {
        stamp: Stamp {
            boot: BootId(0),
            uptime: Uptime::default(),
            wall: WallClock(0),
        },
        event: Event::Custom(Custom {
            kind: String::new(),
            json: "x".repeat(bytes),
        }),
    }
}

#[test]
fn a_record_may_be_as_large_as_its_limit_and_no_larger() {
    let probe = record(MAX_RECORD_BYTES - 100).encode().expect("fits");
    let around = probe.len() - (MAX_RECORD_BYTES - 100);
    let largest = record(MAX_RECORD_BYTES - around).encode().expect("fits");
    assert_eq!(largest.len(), MAX_RECORD_BYTES);
    assert!(Record::decode(&largest).is_ok());
    let too_long = Err(RecordError::TooLong(MAX_RECORD_BYTES + 1));
    assert_eq!(record(MAX_RECORD_BYTES - around + 1).encode(), too_long);
    let bytes = [largest, vec![0]].concat();
    assert_eq!(
        Record::decode(&bytes),
        Err(RecordError::TooLong(bytes.len()))
    );
}

#[test]
fn bytes_after_a_record_are_refused() {
    let mut bytes = record(3).encode().expect("fits");
    bytes.push(0);
    assert_eq!(Record::decode(&bytes), Err(RecordError::Trailing(1)));
}

/// A length of 2^62 as the wire writes it.
const HUGE: [u8; 9] = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40];
/// More than decoding such a message may ever take, and what other tests take meanwhile.
const LIMIT_BYTES: usize = 2 * 1024 * 1024;

fn taken_by(decode: impl FnOnce()) -> usize {
    let before = ALLOCATOR.current_usage();
    ALLOCATOR.reset_peak_usage();
    decode();
    ALLOCATOR.peak_usage().saturating_sub(before)
}

#[test]
fn a_claimed_length_takes_no_memory() {
    let batch_of = [&[0, 1, 1, 1], &HUGE[..]].concat();
    let item_of = [&[0, 1, 1, 1, 1, 1], &HUGE[..]].concat();
    let commands_of = [&[2, 1, 1, 1], &HUGE[..]].concat();
    let taken = taken_by(|| {
        for bytes in [batch_of, item_of] {
            assert!(frame::decode::<Up>(&bytes).is_err());
        }
        assert!(frame::decode::<Down>(&commands_of).is_err());
    });
    assert!(taken < LIMIT_BYTES, "{taken} bytes");
}

#[test]
fn a_frame_full_of_empty_items_takes_little_memory_and_is_refused() {
    let mut items = vec![0, 1, 1, 1, 0xff, 0xff, 0x07];
    items.resize(7 + 2 * 0x1_ffff, 0);
    let mut commands = vec![2, 1, 1, 1, 0xff, 0xff, 0x07];
    // An id, two numbers of a duration and the order to stop.
    commands.extend([0, 0, 0, 1].repeat(0x1_ffff));
    let taken = taken_by(|| {
        assert!(frame::decode::<Up>(&items).is_err());
        assert!(frame::decode::<Down>(&commands).is_err());
    });
    assert!(taken < LIMIT_BYTES, "{taken} bytes");
}

#[test]
fn as_many_items_and_commands_as_are_allowed_are_read_and_one_more_is_not() {
    let item = Item {
        covers: 1,
        record: Vec::new(),
    };
    let read = |count| {
        let bytes = frame::encode(&batch(vec![item.clone(); count])).expect("encodes");
        frame::decode::<Up>(&bytes).is_ok()
    };
    assert!(read(MAX_BATCH_ITEMS) && !read(MAX_BATCH_ITEMS + 1));
    let read = |count| {
        let command = Command {
            id: CommandId(1),
            time_to_live: Duration::ZERO,
            order: Order::Stop,
        };
        let commands = Down::Commands(Commands {
            session: SessionId(1),
            sent: Uptime::default(),
            first: Seq(1),
            commands: vec![command; count],
        });
        let bytes = frame::encode(&commands).expect("encodes");
        frame::decode::<Down>(&bytes).is_ok()
    };
    assert!(read(MAX_COMMANDS) && !read(MAX_COMMANDS + 1));
    const { assert!(COMMANDS_PER_FRAME <= MAX_COMMANDS) };
}

#[test]
fn an_item_larger_than_the_largest_record_is_refused() {
    for (length, is_allowed) in [(MAX_RECORD_BYTES, true), (MAX_RECORD_BYTES + 1, false)] {
        let item = Item {
            covers: 1,
            record: vec![0; length],
        };
        let bytes = frame::encode(&batch(vec![item])).expect("encodes");
        assert_eq!(frame::decode::<Up>(&bytes).is_ok(), is_allowed);
    }
}
