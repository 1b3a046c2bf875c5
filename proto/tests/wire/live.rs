//! Frames of the live lane with the ages of their fields, and those of gateways that know no ages.

use std::time::Duration;

use brrbrr_proto::frame;
use brrbrr_proto::id::SessionId;
use brrbrr_proto::live::{Age, Dated, Live, PerField, Status};
use brrbrr_proto::time::Uptime;

use crate::v1::pin;

fn live() -> Live {
    Live {
        session: SessionId(0x22),
        count: 128,
        sampled: Uptime::new(Duration::from_secs(1)),
        status: Status {
            floor: Some(7),
            battery: Some(0.5),
            ..Status::default()
        },
    }
}

fn dated() -> Dated {
    Dated {
        live: live(),
        ages: PerField {
            floor: Some(Age::new(Duration::from_secs(30))),
            battery: Some(Age::new(Duration::from_millis(250))),
            ..PerField::default()
        },
    }
}

#[test]
fn live_frames_with_ages_are_pinned() {
    pin(
        &dated(),
        "228001c0843d0000010e01000000000000e03f0000000001ac0201030000",
    );
    let every = PerField {
        activity: Some(Age::new(Duration::ZERO)),
        pose: Some(Age::new(Duration::from_millis(100))),
        floor: Some(Age::new(Duration::from_millis(200))),
        battery: Some(Age::new(Duration::from_millis(300))),
        speed: Some(Age::new(Duration::from_millis(400))),
        robot_side: Some(Age::new(Duration::MAX)),
    };
    let every = Dated {
        ages: every,
        ..dated()
    };
    pin(
        &every,
        "228001c0843d0000010e01000000000000e03f00000100010101020103010401ffffffff0f",
    );
}

#[test]
fn a_frame_that_ends_after_the_message_has_no_ages() {
    let plain = frame::encode(&live()).expect("encodes");
    let read: Dated = frame::decode(&plain).expect("reads");
    let undated = Dated {
        live: live(),
        ages: PerField::default(),
    };
    assert_eq!(read, undated);
}

#[test]
fn nothing_but_whole_ages_may_follow_the_message() {
    let plain = frame::encode(&dated()).expect("encodes");
    let ends = frame::encode(&live()).expect("encodes").len();
    for cut in 0..plain.len() {
        let read = frame::decode::<Dated>(&plain[..cut]);
        assert_eq!(read.is_ok(), cut == ends, "cut at {cut}: {read:?}");
    }
    let mut longer = plain;
    longer.push(0);
    assert!(frame::decode::<Dated>(&longer).is_err());
}
