//! Frames: what is inside one MQTT payload.
//!
//! ```text
//! byte 0       version of the format, see `version`
//! bytes 1-8    epoch of the gateway's spool, little endian
//! bytes 9-32   nonce
//! bytes 33-    sealed message: postcard, then the cipher's tag
//! ```
//! Version and epoch are in the clear but authenticated by the seal. The message's type follows
//! from the topic: [`Hello`], [`Up`], [`Down`], [`Dated`](crate::live::Dated) or [`Gone`].

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::down::Down;
use crate::id::{Epoch, RobotId};
use crate::live::Live;
use crate::seal::{BrokenSeal, Keys, NONCE_BYTES, Nonce, Place, TAG_BYTES};
use crate::topic::TopicKind;
use crate::up::{Gone, Hello, Up};
use crate::version::{self, Versions};

/// The largest frame either side sends or accepts. Brokers must allow at least this.
pub const MAX_FRAME_BYTES: usize = 256 * 1024;

const HEADER_BYTES: usize = 1 + 8 + NONCE_BYTES;

/// Why bytes are not a frame, or a message does not fit into one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Longer than [`MAX_FRAME_BYTES`].
    #[error("frame of {0} bytes, the limit is {MAX_FRAME_BYTES}")]
    TooLong(usize),
    /// Too short to hold a header and a seal.
    #[error("frame of {0} bytes is cut short")]
    TooShort(usize),
    /// Written in a version this build does not read.
    #[error("frame of version {0}, which is not known here")]
    Version(u8),
    /// Not made with the robot's keys for this place.
    #[error(transparent)]
    Seal(#[from] BrokenSeal),
    /// Sealed correctly, but not a message of this kind.
    #[error("frame holds no {kind:?} message: {reason}")]
    Message {
        /// Which kind was expected.
        kind: TopicKind,
        /// What the decoder said.
        reason: postcard::Error,
    },
}

/// A message type, tied to the kind of topic it travels on.
pub trait Message: Serialize + DeserializeOwned {
    /// The kind of topic.
    const KIND: TopicKind;

    /// Reads the message. Nothing may follow it, unless the type says what may.
    ///
    /// # Errors
    /// Where the bytes are anything else.
    fn read(plain: &[u8]) -> postcard::Result<Self> {
        let (message, rest) = postcard::take_from_bytes(plain)?;
        if rest.is_empty() {
            Ok(message)
        } else {
            Err(postcard::Error::DeserializeBadEncoding)
        }
    }
}

impl Message for Hello {
    const KIND: TopicKind = TopicKind::Hello;
}
impl Message for Up {
    const KIND: TopicKind = TopicKind::Up;
}
impl Message for Down {
    const KIND: TopicKind = TopicKind::Down;
}
impl Message for Live {
    const KIND: TopicKind = TopicKind::Live;
}
impl Message for Gone {
    const KIND: TopicKind = TopicKind::Presence;
}

/// Makes the frame of a message. The nonce must be fresh from the operating system.
///
/// # Errors
/// [`FrameError::TooLong`] where the message does not fit; nothing else happens in practice.
pub fn seal<M: Message>(
    keys: &Keys,
    robot: RobotId,
    epoch: Epoch,
    nonce: &Nonce,
    message: &M,
) -> Result<Vec<u8>, FrameError> {
    let plain = encode(message)?;
    let length = HEADER_BYTES + plain.len() + TAG_BYTES;
    if length > MAX_FRAME_BYTES {
        return Err(FrameError::TooLong(length));
    }
    let place = Place {
        robot,
        kind: M::KIND,
        epoch,
        version: version::CURRENT,
    };
    let mut frame = Vec::with_capacity(length);
    frame.push(version::CURRENT);
    frame.extend_from_slice(&epoch.0.to_le_bytes());
    frame.extend_from_slice(nonce);
    frame.extend_from_slice(&keys.seal(place, nonce, &plain)?);
    Ok(frame)
}

/// Reads a frame that came in on a topic of `robot`.
///
/// # Errors
/// Says what was wrong with the bytes. Never panics, whatever they are.
pub fn open<M: Message>(
    keys: &Keys,
    robot: RobotId,
    frame: &[u8],
) -> Result<(Epoch, M), FrameError> {
    if frame.len() > MAX_FRAME_BYTES {
        return Err(FrameError::TooLong(frame.len()));
    }
    let short = FrameError::TooShort(frame.len());
    let (&version, rest) = frame.split_first().ok_or(short.clone())?;
    if version < Versions::SUPPORTED.oldest || version > Versions::SUPPORTED.newest {
        return Err(FrameError::Version(version));
    }
    let (epoch, rest) = rest.split_first_chunk::<8>().ok_or(short.clone())?;
    let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(short)?;
    let epoch = Epoch(u64::from_le_bytes(*epoch));
    let place = Place {
        robot,
        kind: M::KIND,
        epoch,
        version,
    };
    let plain = keys.open(place, nonce, sealed)?;
    Ok((epoch, decode(&plain)?))
}

/// The unsealed bytes of a message, as the wire tests pin them.
///
/// # Errors
/// None for the messages of this crate.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, FrameError> {
    postcard::to_stdvec(message).map_err(|reason| FrameError::Message {
        kind: M::KIND,
        reason,
    })
}

/// Reads the unsealed bytes of a message.
///
/// # Errors
/// Where they are not exactly one message of this kind.
pub fn decode<M: Message>(plain: &[u8]) -> Result<M, FrameError> {
    M::read(plain).map_err(|reason| FrameError::Message {
        kind: M::KIND,
        reason,
    })
}
