//! What is encoded is decoded again, and nothing else is. That decoders never panic is shown in
//! `tests/link/fuzzed.rs`, with the functions of the fuzz targets.

use brrbrr_proto::frame::{self, FrameError, Message};
use brrbrr_proto::id::{BootId, CommandId, ConnectionId, Epoch, RelayId, RobotId, SessionId};
use brrbrr_proto::seal::{Keys, Secret};
use brrbrr_proto::topic::Topic;
use brrbrr_proto::up::Record;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::message;

fn comes_back<M>(message: &M) -> Result<(), TestCaseError>
where
    M: Message + PartialEq + std::fmt::Debug,
{
    let bytes = frame::encode(message).expect("encodes");
    prop_assert_eq!(&frame::decode::<M>(&bytes).expect("decodes"), message);

    let mut longer = bytes.clone();
    longer.push(0);
    prop_assert!(frame::decode::<M>(&longer).is_err(), "trailing bytes");
    for length in 0..bytes.len() {
        prop_assert!(frame::decode::<M>(&bytes[..length]).is_err(), "cut short");
    }

    let (keys, robot) = (Keys::new(&Secret::new([3; 32])), robot(9));
    let sealed = frame::seal(&keys, robot, Epoch(4), &[7; 24], message).expect("seals");
    let (epoch, opened) = frame::open::<M>(&keys, robot, &sealed).expect("opens");
    prop_assert_eq!((epoch, &opened), (Epoch(4), message));
    Ok(())
}

fn robot(number: u32) -> RobotId {
    RobotId::new(number).expect("not zero")
}

proptest! {
    #[test]
    fn hellos_come_back(message in message::hello()) { comes_back(&message)?; }

    #[test]
    fn ups_come_back(message in message::up()) { comes_back(&message)?; }

    #[test]
    fn downs_come_back(message in message::down()) { comes_back(&message)?; }

    #[test]
    fn lives_come_back(message in message::live()) { comes_back(&message)?; }

    #[test]
    fn last_wills_come_back(message in message::gone()) { comes_back(&message)?; }

    #[test]
    fn records_come_back(record in message::record()) {
        let bytes = record.encode().expect("encodes");
        prop_assert_eq!(Record::decode(&bytes).expect("decodes"), record);
        for length in 0..bytes.len() {
            prop_assert!(Record::decode(&bytes[..length]).is_err(), "cut short");
        }
    }

    #[test]
    fn topics_and_ids_come_back(relay: u64, number in 1..=u32::MAX, wide: u128) {
        let (relay, robot) = (RelayId(relay), robot(number));
        for topic in [
            Topic::Hello(robot),
            Topic::Up(relay, robot),
            Topic::Down(robot),
            Topic::Live(relay, robot),
            Topic::Presence(robot),
        ] {
            prop_assert_eq!(topic.to_string().parse(), Ok(topic));
        }
        prop_assert_eq!(robot.to_string().parse(), Ok(robot));
        prop_assert_eq!(relay.to_string().parse(), Ok(relay));
        prop_assert_eq!(CommandId(wide).to_string().parse(), Ok(CommandId(wide)));
        prop_assert_eq!(BootId(relay.0).to_string().parse(), Ok(BootId(relay.0)));
        prop_assert_eq!(Epoch(relay.0).to_string().parse(), Ok(Epoch(relay.0)));
        prop_assert_eq!(SessionId(relay.0).to_string().parse(), Ok(SessionId(relay.0)));
        prop_assert_eq!(ConnectionId(relay.0).to_string().parse(), Ok(ConnectionId(relay.0)));
    }

    #[test]
    fn any_text_that_is_read_as_a_topic_is_written_the_same(
        text in "(brrbrr/1/)?(hello|up|down|live|presence|x)(/[0-9a-f+#]{0,16}){0,3}",
    ) {
        if let Ok(topic) = text.parse::<Topic>() {
            prop_assert_eq!(topic.to_string(), text);
        }
    }

    #[test]
    fn a_frame_with_any_byte_changed_is_refused(
        message in message::up(), at: prop::sample::Index, change in 1..=u8::MAX,
    ) {
        let (keys, robot) = (Keys::new(&Secret::new([3; 32])), robot(9));
        let mut sealed = frame::seal(&keys, robot, Epoch(4), &[7; 24], &message).expect("seals");
        *at.get_mut(&mut sealed) ^= change;
        let opened = frame::open::<brrbrr_proto::up::Up>(&keys, robot, &sealed);
        prop_assert!(matches!(
            opened,
            Err(FrameError::Seal(_) | FrameError::Version(_))
        ));
    }
}
