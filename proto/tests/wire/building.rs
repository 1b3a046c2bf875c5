//! The bytes of what version 1 says of a robot's building. Never edited, only added to: boards keep
//! the content, and every relay has to give the same revision for it.

use brrbrr_proto::building::{Building, Event, Itself, MAX_PART_BYTES, Place, Shared};
use brrbrr_proto::down::{Down, NoBuilding, Part};
use brrbrr_proto::frame;
use brrbrr_proto::id::{Revision, SessionId};
use brrbrr_proto::live::Pose;
use brrbrr_proto::time::WallClock;
use brrbrr_proto::up::{Up, Wanted};

use crate::v1::{hex, pin, uptime};

#[test]
fn questions_for_the_building_are_pinned() {
    let of = |have, part| {
        Up::Wanted(Wanted {
            session: SessionId(0x22),
            sent: uptime(),
            have,
            part,
        })
    };
    pin(&of(None, 0), "0322c0843d0000");
    pin(&of(Some(Revision(0x7f)), 300), "0322c0843d017fac02");
}

#[test]
fn answers_about_the_building_are_pinned() {
    let of = |part, parts, bytes: &[u8]| {
        Down::Building(Part {
            session: SessionId(0x22),
            revision: Revision(0x7f),
            part,
            parts,
            bytes: bytes.to_vec(),
        })
    };
    pin(&of(0, 0, &[]), "05227f000000");
    pin(&of(1, 3, &[7, 0xff]), "05227f01030207ff");
    let no = NoBuilding {
        session: SessionId(0x22),
        reason: "big".to_owned(),
    };
    pin(&Down::NoBuilding(no), "062203626967");
}

#[test]
fn the_content_and_its_revision_are_pinned() {
    let building = Building {
        places: vec![Place {
            id: 1,
            name: "카페".to_owned(),
            aliases: vec!["cafe".to_owned()],
            floor: -1,
            x: 1.5,
            y: -2.0,
            description: Some("d".to_owned()),
            thumburl: None,
            mapurl: Some("m".to_owned()),
        }],
        events: vec![Event {
            id: 2,
            name: "fair".to_owned(),
            description: None,
            starts: WallClock(1_000),
            ends: WallClock(2_000),
            place: "카페".to_owned(),
            floor: -1,
            thumburl: Some("t".to_owned()),
        }],
        robot: Itself {
            name: "guide-7".to_owned(),
            floor: 7,
            home: Some(Pose {
                x: 0.0,
                y: 1.0,
                theta: None,
            }),
        },
    };
    let shared = Shared::new(&building.places, &building.events).expect("fits");
    let offer = shared.of(&building.robot).expect("fits");
    let parts: Vec<_> = (0..offer.parts())
        .map(|part| offer.part(part).expect("there"))
        .collect();
    let pinned = [
        "010206ecb9b4ed8e9801046361666501000000000000f83f00000000000000c00101640001016d\
         0104046661697200d00fa01f06ecb9b4ed8e9801010174",
        "0767756964652d370e010000000000000000000000000000f03f00",
    ];
    let shown: Vec<_> = parts.iter().map(|part| hex(part)).collect();
    assert_eq!(shown, pinned);
    let revision = "dd09d04426a851effca7d8e0048349a8";
    assert_eq!(offer.revision().to_string(), revision);
    let content = parts.concat();
    assert_eq!(Building::decode(offer.revision(), &content), Ok(building));
}

#[test]
fn a_part_may_be_as_large_as_its_limit_and_no_larger() {
    let of = |length| {
        Down::Building(Part {
            session: SessionId(u64::MAX),
            revision: Revision(u128::MAX),
            part: u32::MAX,
            parts: u32::MAX,
            bytes: vec![0; length],
        })
    };
    let largest = frame::encode(&of(MAX_PART_BYTES)).expect("encodes");
    assert!(frame::decode::<Down>(&largest).is_ok());
    let more = frame::encode(&of(MAX_PART_BYTES + 1)).expect("encodes");
    assert!(frame::decode::<Down>(&more).is_err());
}
