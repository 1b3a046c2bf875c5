//! The bytes of wire version 1. Never edited, only added to: what is pinned here is in spools,
//! journals and other people's programs.

use std::time::Duration;

use brrbrr_proto::down::{
    Ack, Action, Command, Commands, Down, GoTo, Order, Rehello, Wait, Welcome,
};
use brrbrr_proto::enrolment::Enrolment;
use brrbrr_proto::frame::{self, Message};
use brrbrr_proto::id::{
    BootId, CommandId, ConnectionId, Cursor, Epoch, HelloId, RelayId, RobotId, Seq, SessionId,
};
use brrbrr_proto::live::{Activity, Live, Pose, RobotSide, Status};
use brrbrr_proto::seal::{Keys, Place, Secret};
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use brrbrr_proto::topic::{self, Topic, TopicKind};
use brrbrr_proto::up::{
    Alarm, Arrived, Batch, Beat, CommandUpdate, Custom, Event, Gone, Hello, Item, Loss, Progress,
    Record, Severity, Tombstone, Up,
};
use brrbrr_proto::version::{self, Versions};

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    let pairs = digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]);
    pairs
        .map(|byte| u8::try_from(byte).expect("two digits"))
        .collect()
}

#[track_caller]
pub fn pin<M: Message + PartialEq + std::fmt::Debug>(message: &M, pinned: &str) {
    let encoded = frame::encode(message).expect("encodes");
    assert_eq!(hex(&encoded), pinned);
    let decoded: M = frame::decode(&bytes(pinned)).expect("decodes");
    assert_eq!(&decoded, message);
}

#[track_caller]
pub fn pin_event(event: Event, pinned: &str) {
    let record = Record {
        stamp: stamp(),
        event,
    };
    assert_eq!(hex(&record.encode().expect("encodes")), pinned);
    assert_eq!(Record::decode(&bytes(pinned)), Ok(record));
}

pub fn uptime() -> Uptime {
    Uptime::new(Duration::from_micros(1_000_000))
}

fn wall() -> WallClock {
    WallClock(1_790_000_000_000_000)
}

pub fn stamp() -> Stamp {
    Stamp {
        boot: BootId(0x0102_0304_0506_0708),
        uptime: uptime(),
        wall: wall(),
    }
}

fn hello_id() -> HelloId {
    HelloId {
        connection: ConnectionId(0x11),
        attempt: 300,
    }
}

fn cursor() -> Cursor {
    Cursor {
        epoch: Epoch(0xffff_ffff_ffff_ffff),
        next: Seq(9),
    }
}

fn pose() -> Pose {
    Pose {
        x: 34.6,
        y: -445.6,
        theta: Some(1.5),
    }
}

fn hello() -> Hello {
    Hello {
        hello: hello_id(),
        boot: BootId(2),
        uptime: uptime(),
        wall: wall(),
        next: Seq(1000),
        backlog: 20,
        down: Some(cursor()),
        versions: Versions {
            oldest: 1,
            newest: 1,
        },
        software: "0.1.0".to_owned(),
    }
}

#[test]
fn hello_is_pinned() {
    pin(
        &hello(),
        "\
         11ac0202c0843d8080afa2dbffad06e8071401ffffffffffffffffff01090101\
         05302e312e30",
    );
    let fresh = Hello {
        down: None,
        software: String::new(),
        ..hello()
    };
    pin(&fresh, "11ac0202c0843d8080afa2dbffad06e8071400010100");
}

#[test]
fn batches_are_pinned() {
    let item = |covers, record: &[u8]| Item {
        covers,
        record: record.to_vec(),
    };
    let batch = Batch {
        session: SessionId(0x22),
        sent: uptime(),
        first: Seq(7),
        items: vec![item(1, b"one"), item(300, b""), item(1, &[0xff; 130])],
    };
    pin(
        &Up::Batch(batch),
        "\
         0022c0843d070301036f6e65ac0200018201ffffffffffffffffffffffffffff\
         ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
         ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
         ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
         ffffffffffffffffffffffffffffffffffffffff",
    );
}

#[test]
fn beats_are_pinned() {
    let beat = Beat {
        session: SessionId(0x22),
        sent: uptime(),
        down: cursor(),
    };
    pin(&Up::Beat(beat), "0122c0843dffffffffffffffffff0109");
}

#[test]
fn the_last_will_is_pinned() {
    let gone = Gone {
        connection: ConnectionId(0x11),
    };
    pin(&gone, "11");
}

#[test]
fn live_frames_are_pinned() {
    let live = Live {
        session: SessionId(0x22),
        count: 128,
        sampled: uptime(),
        status: status(Some(Activity::Moving), Some(RobotSide::Up)),
    };
    pin(
        &live,
        "\
         228001c0843d010101cdcccccccc4c41409a99999999d97bc001000000000000\
         f83f010101000000000000e03f01000000000000d03f0100",
    );
    let empty = Live {
        status: Status::default(),
        ..live
    };
    pin(&empty, "228001c0843d000000000000");
}

fn status(activity: Option<Activity>, robot_side: Option<RobotSide>) -> Status {
    Status {
        activity,
        pose: Some(pose()),
        floor: Some(-1),
        battery: Some(0.5),
        speed: Some(0.25),
        robot_side,
    }
}

#[test]
fn welcomes_are_pinned() {
    let welcome = Welcome {
        hello: hello_id(),
        session: SessionId(0x22),
        relay: RelayId(0x33),
        up_next: Seq(1000),
        down: cursor(),
        now: wall(),
        uptime: uptime(),
        credit: 65_536,
        live_interval: Duration::from_millis(200),
        beat_interval: Duration::from_secs(10),
        version: 1,
    };
    pin(
        &Down::Welcome(welcome),
        "\
         0011ac022233e807ffffffffffffffffff01098080afa2dbffad06c0843d8080\
         04008084af5f0a0001",
    );
}

#[test]
fn acks_are_pinned() {
    let ack = Ack {
        session: SessionId(0x22),
        next: Seq(1001),
        credit: 65_536,
    };
    pin(&Down::Ack(ack), "0122e907808004");
}

#[test]
fn waits_and_rehellos_are_pinned() {
    let wait = Wait {
        hello: hello_id(),
        pause: Duration::new(600, 5),
    };
    pin(&Down::Wait(wait), "0311ac02d80405");
    let rehello = Rehello {
        session: SessionId(0x22),
    };
    pin(&Down::Rehello(rehello), "0422");
}

#[track_caller]
fn pin_order(order: Order, pinned: &str) {
    let command = Command {
        id: CommandId(0x0f),
        time_to_live: Duration::from_secs(60),
        order,
    };
    let commands = Commands {
        session: SessionId(0x22),
        sent: uptime(),
        first: Seq(3),
        commands: vec![command],
    };
    pin(&Down::Commands(commands), pinned);
}

#[test]
fn orders_are_pinned() {
    let go_to = GoTo {
        pose: pose(),
        floor: Some(7),
        place: "701호".to_owned(),
    };
    pin_order(
        Order::GoTo(go_to),
        "\
         0222c0843d03010f3c0000cdcccccccc4c41409a99999999d97bc00100000000\
         0000f83f010e06373031ed98b8",
    );
    let bare = GoTo {
        pose: Pose {
            x: 0.0,
            y: 0.0,
            theta: None,
        },
        floor: None,
        place: String::new(),
    };
    pin_order(
        Order::GoTo(bare),
        "0222c0843d03010f3c000000000000000000000000000000000000000000",
    );
    pin_order(Order::Stop, "0222c0843d03010f3c0001");
    pin_order(Order::Pause, "0222c0843d03010f3c0002");
    pin_order(Order::Resume, "0222c0843d03010f3c0003");
    pin_order(Order::Dock, "0222c0843d03010f3c0004");
    pin_order(Order::Say("hi".to_owned()), "0222c0843d03010f3c0005026869");
    let action = Action {
        name: "wave".to_owned(),
        json: "{}".to_owned(),
    };
    pin_order(
        Order::Custom(action),
        "0222c0843d03010f3c00060477617665027b7d",
    );
    pin_order(
        Order::Cancel(CommandId(u128::MAX)),
        "0222c0843d03010f3c0007ffffffffffffffffffffffffffffffffffff03",
    );
}

#[test]
fn a_run_of_commands_is_pinned() {
    let command = |id| Command {
        id: CommandId(id),
        time_to_live: Duration::ZERO,
        order: Order::Stop,
    };
    let commands = Commands {
        session: SessionId(0x22),
        sent: uptime(),
        first: Seq(3),
        commands: vec![command(1), command(2)],
    };
    pin(&Down::Commands(commands), "0222c0843d03020100000102000001");
}

#[test]
fn changes_and_telemetry_are_pinned() {
    pin_event(
        Event::Changed(Status::default()),
        "888e98a8c0e0808101c0843d8080afa2dbffad0600000000000000",
    );
    let full = status(Some(Activity::Idle), Some(RobotSide::Down));
    pin_event(
        Event::Changed(full.clone()),
        "\
         888e98a8c0e0808101c0843d8080afa2dbffad0600010001cdcccccccc4c4140\
         9a99999999d97bc001000000000000f83f010101000000000000e03f01000000\
         000000d03f0101",
    );
    pin_event(
        Event::Telemetry(full),
        "\
         888e98a8c0e0808101c0843d8080afa2dbffad0604010001cdcccccccc4c4140\
         9a99999999d97bc001000000000000f83f010101000000000000e03f01000000\
         000000d03f0101",
    );
}

#[test]
fn every_activity_and_robot_side_is_pinned() {
    let of = |activity| {
        Event::Changed(Status {
            activity: Some(activity),
            ..Status::default()
        })
    };
    pin_event(
        of(Activity::Idle),
        "888e98a8c0e0808101c0843d8080afa2dbffad060001000000000000",
    );
    pin_event(
        of(Activity::Moving),
        "888e98a8c0e0808101c0843d8080afa2dbffad060001010000000000",
    );
    pin_event(
        of(Activity::Stopped),
        "888e98a8c0e0808101c0843d8080afa2dbffad060001020000000000",
    );
    pin_event(
        of(Activity::Arrived),
        "888e98a8c0e0808101c0843d8080afa2dbffad060001030000000000",
    );
    pin_event(
        of(Activity::Docking),
        "888e98a8c0e0808101c0843d8080afa2dbffad060001040000000000",
    );
    pin_event(
        of(Activity::Faulted),
        "888e98a8c0e0808101c0843d8080afa2dbffad060001050000000000",
    );
    let of = |side| {
        Event::Changed(Status {
            robot_side: Some(side),
            ..Status::default()
        })
    };
    pin_event(
        of(RobotSide::Up),
        "888e98a8c0e0808101c0843d8080afa2dbffad060000000000000100",
    );
    pin_event(
        of(RobotSide::Down),
        "888e98a8c0e0808101c0843d8080afa2dbffad060000000000000101",
    );
}

#[test]
fn arrivals_are_pinned() {
    let of = |command, pose| Event::Arrived(Arrived { command, pose });
    pin_event(
        of(None, None),
        "888e98a8c0e0808101c0843d8080afa2dbffad06010000",
    );
    pin_event(
        of(Some(CommandId(0x0f)), Some(pose())),
        "\
         888e98a8c0e0808101c0843d8080afa2dbffad0601010f01cdcccccccc4c4140\
         9a99999999d97bc001000000000000f83f",
    );
}

#[test]
fn alarms_of_every_severity_are_pinned() {
    let of = |severity| {
        Event::Alarm(Alarm {
            code: "battery_low".to_owned(),
            severity,
            text: "5 %".to_owned(),
        })
    };
    pin_event(
        of(Severity::Notice),
        "\
         888e98a8c0e0808101c0843d8080afa2dbffad06020b626174746572795f6c6f\
         770003352025",
    );
    pin_event(
        of(Severity::Warning),
        "\
         888e98a8c0e0808101c0843d8080afa2dbffad06020b626174746572795f6c6f\
         770103352025",
    );
    pin_event(
        of(Severity::Critical),
        "\
         888e98a8c0e0808101c0843d8080afa2dbffad06020b626174746572795f6c6f\
         770203352025",
    );
}

#[test]
fn command_updates_of_every_progress_are_pinned() {
    let of = |progress| {
        Event::Command(CommandUpdate {
            command: CommandId(0x0f),
            progress,
            detail: "d".to_owned(),
        })
    };
    pin_event(
        of(Progress::Received),
        "888e98a8c0e0808101c0843d8080afa2dbffad06030f000164",
    );
    pin_event(
        of(Progress::Running),
        "888e98a8c0e0808101c0843d8080afa2dbffad06030f010164",
    );
    pin_event(
        of(Progress::Succeeded),
        "888e98a8c0e0808101c0843d8080afa2dbffad06030f020164",
    );
    pin_event(
        of(Progress::Failed),
        "888e98a8c0e0808101c0843d8080afa2dbffad06030f030164",
    );
    pin_event(
        of(Progress::Cancelled),
        "888e98a8c0e0808101c0843d8080afa2dbffad06030f040164",
    );
    pin_event(
        of(Progress::Expired),
        "888e98a8c0e0808101c0843d8080afa2dbffad06030f050164",
    );
    pin_event(
        of(Progress::Superseded),
        "888e98a8c0e0808101c0843d8080afa2dbffad06030f060164",
    );
    pin_event(
        of(Progress::Interrupted),
        "888e98a8c0e0808101c0843d8080afa2dbffad06030f070164",
    );
}

#[test]
fn custom_events_are_pinned() {
    let custom = Custom {
        kind: "door".to_owned(),
        json: "{\"open\":true}".to_owned(),
    };
    pin_event(
        Event::Custom(custom),
        "\
         888e98a8c0e0808101c0843d8080afa2dbffad060504646f6f720d7b226f7065\
         6e223a747275657d",
    );
}

#[test]
fn tombstones_of_every_loss_are_pinned() {
    let of = |loss, at| {
        Event::Tombstone(Tombstone {
            count: 500,
            loss,
            since: at,
            until: at,
        })
    };
    pin_event(
        of(Loss::SpoolFull, Some(stamp())),
        "\
         888e98a8c0e0808101c0843d8080afa2dbffad0606f4030001888e98a8c0e080\
         8101c0843d8080afa2dbffad0601888e98a8c0e0808101c0843d8080afa2dbff\
         ad06",
    );
    pin_event(
        of(Loss::SpoolFull, None),
        "888e98a8c0e0808101c0843d8080afa2dbffad0606f403000000",
    );
    pin_event(
        of(Loss::SpoolCorrupt, None),
        "888e98a8c0e0808101c0843d8080afa2dbffad0606f403010000",
    );
    pin_event(
        of(Loss::RelayForgot, None),
        "888e98a8c0e0808101c0843d8080afa2dbffad0606f403020000",
    );
    pin_event(
        of(Loss::Thinned, None),
        "888e98a8c0e0808101c0843d8080afa2dbffad0606f403030000",
    );
}

fn robot() -> RobotId {
    RobotId::new(7).expect("not zero")
}

fn secret() -> Secret {
    let digits = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    digits.parse().expect("a secret")
}

#[test]
fn a_whole_sealed_frame_is_pinned() {
    assert_eq!(version::CURRENT, 1);
    let keys = Keys::new(&secret());
    let nonce = [0x24; 24];
    let gone = Gone {
        connection: ConnectionId(0x11),
    };
    let epoch = Epoch(0x0102_0304_0506_0708);
    let up = "\
         0108070605040302012424242424242424242424242424242424242424242424\
         242a31bfceb718ad56103e77417ebb1c262a";
    let frame = frame::seal(&keys, robot(), epoch, &nonce, &gone).expect("seals");
    assert_eq!(hex(&frame), up);
    assert_eq!(frame::open(&keys, robot(), &bytes(up)), Ok((epoch, gone)));

    let rehello = Down::Rehello(Rehello {
        session: SessionId(0x22),
    });
    let down = "\
         0108070605040302012424242424242424242424242424242424242424242424\
         24d2fd08898ce527f452bd9a0b0bb106b813b8";
    let frame = frame::seal(&keys, robot(), epoch, &nonce, &rehello).expect("seals");
    assert_eq!(hex(&frame), down);
    assert_eq!(
        frame::open(&keys, robot(), &bytes(down)),
        Ok((epoch, rehello))
    );
}

#[test]
fn every_topic_kind_is_bound_into_the_seal_by_its_number() {
    let kinds = [
        TopicKind::Hello,
        TopicKind::Up,
        TopicKind::Down,
        TopicKind::Live,
        TopicKind::Presence,
    ];
    assert_eq!(kinds.map(|kind| kind as u8), [1, 2, 3, 4, 5]);
    let sealed = kinds.map(|kind| {
        let place = Place {
            robot: robot(),
            kind,
            epoch: Epoch(1),
            version: 1,
        };
        let keys = Keys::new(&secret());
        hex(&keys.seal(place, &[0x24; 24], b"").expect("seals"))
    });
    let pinned = [
        "4175b10e40141959f9d8a00035bf94af",
        "a1d2b6a13015e1d73c32e83014dfc787",
        "82378683e0371d6c287b5c04251a9f76",
        "5c8dc1c7111771d5c3e47691d21e2e38",
        "b7eac65a02183954073ebec1b13e6110",
    ];
    assert_eq!(sealed, pinned);
}

#[test]
fn the_password_that_is_derived_from_a_secret_is_pinned() {
    let password = secret().mqtt_password();
    let pinned = "86a36a282f43a182d97207118e77e8f11d70c995c3ab54b3a750e00b75b61012";
    assert_eq!(*password.reveal(), pinned);
    assert!(password.matches(pinned.as_bytes()));
}

#[test]
fn topics_are_pinned() {
    let relay = RelayId(0xabc);
    let pinned = [
        (Topic::Hello(robot()), "brrbrr/1/hello/7"),
        (Topic::Up(relay, robot()), "brrbrr/1/up/0000000000000abc/7"),
        (Topic::Down(robot()), "brrbrr/1/down/7"),
        (
            Topic::Live(relay, robot()),
            "brrbrr/1/live/0000000000000abc/7",
        ),
        (Topic::Presence(robot()), "brrbrr/1/presence/7"),
    ];
    for (topic, text) in pinned {
        assert_eq!(topic.to_string(), text);
        assert_eq!(text.parse(), Ok(topic));
    }
    assert_eq!(topic::EVERY_HELLO, "brrbrr/1/hello/+");
    assert_eq!(topic::EVERY_PRESENCE, "brrbrr/1/presence/+");
    assert_eq!(topic::every_up(relay), "brrbrr/1/up/0000000000000abc/+");
    assert_eq!(topic::every_live(relay), "brrbrr/1/live/0000000000000abc/+");
}

const ENROLMENT: &str = r#"{"format":1,"robot":7,"name":"guide","floor":-1,"secret":"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f","mqtt":"mqtts://relay:8883","ca":"PEM"}"#;

#[test]
fn the_enrolment_file_is_pinned() {
    let enrolment: Enrolment = serde_json::from_str(ENROLMENT).expect("an enrolment");
    assert_eq!(enrolment.identity(), Ok((robot(), secret())));
    assert_eq!((enrolment.name.as_str(), enrolment.floor), ("guide", -1));
    assert_eq!(enrolment.mqtt, "mqtts://relay:8883");
    assert_eq!(serde_json::to_string(&enrolment).expect("JSON"), ENROLMENT);

    let without = ENROLMENT.replace(r#","ca":"PEM""#, "");
    let enrolment: Enrolment = serde_json::from_str(&without).expect("an enrolment");
    assert_eq!(enrolment.ca, None);
    assert_eq!(serde_json::to_string(&enrolment).expect("JSON"), without);

    let unknown = ENROLMENT.replace("floor", "storey");
    let refused = serde_json::from_str::<Enrolment>(&unknown).expect_err("unknown");
    assert!(refused.to_string().contains("storey"), "{refused}");
}
