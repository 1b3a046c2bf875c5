//! What the fuzz targets run, and the property tests of the crate too.
//!
//! Run a target with `cargo +nightly fuzz run open_frame` in `proto`. The functions panic where a
//! promise is broken.

mod gateway;
mod input;
mod relay;

pub use gateway::link_gateway_down;
pub use relay::link_relay_up;

use brrbrr_proto::down::Down;
use brrbrr_proto::frame::{self, Message};
use brrbrr_proto::id::{CommandId, RobotId, SessionId};
use brrbrr_proto::live::Dated;
use brrbrr_proto::seal::{Keys, Secret};
use brrbrr_proto::topic::Topic;
use brrbrr_proto::up::{Gone, Hello, Record, Up};

/// Any bytes as a frame of each kind, as each kind of message inside one, and as text.
pub fn open_frame(data: &[u8]) {
    let keys = Keys::new(&Secret::new([1; 32]));
    let robot = RobotId::new(7).expect("not zero");
    open_as::<Hello>(&keys, robot, data);
    open_as::<Up>(&keys, robot, data);
    open_as::<Down>(&keys, robot, data);
    open_as::<Dated>(&keys, robot, data);
    open_as::<Gone>(&keys, robot, data);
    let text = String::from_utf8_lossy(data);
    if let Ok(topic) = text.parse::<Topic>() {
        assert_eq!(topic.to_string(), text);
    }
    if let Ok(id) = text.parse::<CommandId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(id) = text.parse::<SessionId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(id) = text.parse::<RobotId>() {
        assert_eq!(id.to_string(), text);
    }
}

fn open_as<M: Message>(keys: &Keys, robot: RobotId, data: &[u8]) {
    assert!(
        frame::open::<M>(keys, robot, data).is_err(),
        "a frame was forged"
    );
    if let Ok(message) = frame::decode::<M>(data) {
        let bytes = frame::encode(&message).expect("encodes again");
        let again: M = frame::decode(&bytes).expect("decodes again");
        let bytes_again = frame::encode(&again).expect("encodes again");
        assert_eq!(bytes, bytes_again);
    }
}

/// Any bytes as a record.
pub fn decode_record(data: &[u8]) {
    if let Ok(record) = Record::decode(data) {
        assert!(record.covers() > 0);
        let bytes = record.encode().expect("encodes again");
        assert!(bytes.len() <= data.len(), "grows");
    }
}
