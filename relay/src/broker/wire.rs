//! Packets to and from one client: rumqttd's MQTT 3.1.1 codec, fed only what it can be trusted with.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rumqttd::protocol::v4::{self, FixedHeader, V4};
use rumqttd::protocol::{
    self, ConnAck, Connect, ConnectReturnCode, LastWill, Login, Packet, PingResp, Protocol, PubAck,
    PubAckReason, Publish, SubAck, SubscribeReasonCode, UnsubAck,
};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// The least and the most that is asked of a socket at once. A connection that says little holds
/// little memory, and one that says much needs few calls.
const MIN_READ_BYTES: usize = 1024;
const MAX_READ_BYTES: usize = 32 * 1024;

/// Bits of a PUBLISH's first byte. The link delivers exactly once by itself, so QoS 2, with its two
/// round trips and its memory in the broker, is not spoken; 3 is no QoS at all.
const QOS_1: u8 = 0b0010;
const QOS_2_OR_3: u8 = 0b0100;

/// What a client sent.
#[derive(Debug)]
pub(super) enum Incoming {
    Connect(Connect, Option<Login>, Option<LastWill>),
    /// The packet id is there for QoS 1, whose sender waits for an answer.
    Publish {
        packet_id: Option<u16>,
        topic: Bytes,
        payload: Bytes,
    },
    Subscribe {
        packet_id: u16,
        filters: Vec<String>,
    },
    Unsubscribe {
        packet_id: u16,
        filters: Vec<String>,
    },
    Ping,
    Disconnect,
}

/// What is said to a client beside frames.
#[derive(Debug)]
pub(super) enum Reply {
    ConnAck(ConnectReturnCode),
    PubAck(u16),
    /// One verdict for each filter, in the order of the SUBSCRIBE.
    SubAck(u16, Vec<bool>),
    UnsubAck(u16),
    Pong,
}

/// Why nothing more can be read from a client.
#[derive(Debug, Error)]
pub(super) enum ReadError {
    #[error("the connection is gone")]
    Lost,
    #[error("nothing came for {0:?}")]
    Silent(Duration),
    #[error("protocol level {0}, not 4 which is MQTT 3.1.1")]
    Level(u8),
    #[error("not a packet of MQTT 3.1.1: {0}")]
    Malformed(protocol::Error),
    #[error("not a packet that clients of this broker send: {0:#04x}")]
    Unexpected(u8),
}

/// Why nothing more can be written to a client.
#[derive(Debug, Error)]
pub(super) enum WriteError {
    #[error("the connection is gone")]
    Lost,
    #[error("not a byte was taken for {0:?}")]
    Stalled(Duration),
}

/// Reads packets from a byte stream.
#[derive(Debug)]
pub(super) struct PacketReader<R> {
    source: R,
    buffer: BytesMut,
    chunk: usize,
    is_connected: bool,
}

impl<R: AsyncRead + Unpin> PacketReader<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source,
            buffer: BytesMut::new(),
            chunk: MIN_READ_BYTES,
            is_connected: false,
        }
    }

    /// The next packet. Fails when `silence` passes without a byte, and on a packet whose header
    /// announces more than `max` bytes or something unexpected, before it is read.
    pub(super) async fn next(
        &mut self,
        max: usize,
        silence: Duration,
    ) -> Result<Incoming, ReadError> {
        loop {
            if let Some(&first) = self.buffer.first()
                && !self.expects(first)
            {
                return Err(ReadError::Unexpected(first));
            }
            let missing = match v4::check(self.buffer.iter(), max) {
                Ok(header) => return self.take(&header, max),
                Err(protocol::Error::InsufficientBytes(missing)) => missing,
                Err(error) => return Err(ReadError::Malformed(error)),
            };
            self.read_some(missing, silence).await?;
        }
    }

    /// Whether a packet may begin like this now: a CONNECT at first, and then what clients of this
    /// broker send, with the flags that the standard demands. Nothing else reaches the codec.
    fn expects(&self, first: u8) -> bool {
        match (first >> 4, first & 0b1111) {
            (1, 0) => !self.is_connected,
            (12 | 14, 0) | (8 | 10, 0b0010) => self.is_connected,
            (3, flags) => self.is_connected && flags & QOS_2_OR_3 == 0,
            _ => false,
        }
    }

    async fn read_some(&mut self, missing: usize, silence: Duration) -> Result<(), ReadError> {
        let wanted = missing.clamp(self.chunk, MAX_READ_BYTES);
        if self.buffer.is_empty() {
            // Afresh each time, so that one large packet does not leave a large buffer behind.
            self.buffer = BytesMut::with_capacity(wanted);
        } else {
            self.buffer.reserve(wanted);
        }
        match timeout(silence, self.source.read_buf(&mut self.buffer)).await {
            Err(_) => Err(ReadError::Silent(silence)),
            Ok(Ok(0) | Err(_)) => Err(ReadError::Lost),
            Ok(Ok(read)) => {
                let double = self.chunk.saturating_mul(2).min(MAX_READ_BYTES);
                let is_busy = read >= self.chunk;
                self.chunk = if is_busy { double } else { MIN_READ_BYTES };
                Ok(())
            }
        }
    }

    fn take(&mut self, header: &FixedHeader, max: usize) -> Result<Incoming, ReadError> {
        self.is_connected = true;
        let first = header.byte1;
        let packet_id = publish_packet_id(&self.buffer, header);
        let packet = V4.read_mut(&mut self.buffer, max).map_err(|error| {
            if let protocol::Error::InvalidProtocolLevel(level) = error {
                ReadError::Level(level)
            } else {
                ReadError::Malformed(error)
            }
        })?;
        match packet {
            Packet::Connect(connect, _, will, _, login) => {
                Ok(Incoming::Connect(connect, login, will))
            }
            Packet::Publish(publish, _) => Ok(Incoming::Publish {
                packet_id,
                topic: publish.topic,
                payload: publish.payload,
            }),
            Packet::Subscribe(subscribe, _) if subscribe.pkid != 0 => Ok(Incoming::Subscribe {
                packet_id: subscribe.pkid,
                filters: subscribe.filters.into_iter().map(|f| f.path).collect(),
            }),
            Packet::Unsubscribe(unsubscribe, _)
                if unsubscribe.pkid != 0 && !unsubscribe.filters.is_empty() =>
            {
                Ok(Incoming::Unsubscribe {
                    packet_id: unsubscribe.pkid,
                    filters: unsubscribe.filters,
                })
            }
            Packet::PingReq(_) => Ok(Incoming::Ping),
            Packet::Disconnect(..) => Ok(Incoming::Disconnect),
            Packet::Subscribe(..)
            | Packet::Unsubscribe(..)
            | Packet::ConnAck(..)
            | Packet::PubAck(..)
            | Packet::PingResp(_)
            | Packet::SubAck(..)
            | Packet::PubRec(..)
            | Packet::PubRel(..)
            | Packet::PubComp(..)
            | Packet::UnsubAck(..) => Err(ReadError::Unexpected(first)),
        }
    }
}

/// The packet id of a PUBLISH of QoS 1, which the codec reads but does not give out.
fn publish_packet_id(buffer: &[u8], header: &FixedHeader) -> Option<u16> {
    if header.byte1 >> 4 != 3 || header.byte1 & QOS_1 == 0 {
        return None;
    }
    let (length, rest) = buffer
        .get(header.fixed_header_len..)?
        .split_first_chunk::<2>()?;
    let topic = usize::from(u16::from_be_bytes(*length));
    let id = rest.get(topic..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*id))
}

/// Adds an answer to what is about to be written.
pub(super) fn put_reply(reply: Reply, buffer: &mut BytesMut) -> Result<(), protocol::Error> {
    let packet = match reply {
        Reply::ConnAck(code) => Packet::ConnAck(
            ConnAck {
                session_present: false,
                code,
            },
            None,
        ),
        Reply::PubAck(pkid) => Packet::PubAck(
            PubAck {
                pkid,
                reason: PubAckReason::Success,
            },
            None,
        ),
        Reply::SubAck(pkid, verdicts) => Packet::SubAck(
            SubAck {
                pkid,
                return_codes: verdicts
                    .into_iter()
                    .map(|granted| match granted {
                        true => SubscribeReasonCode::QoS0,
                        false => SubscribeReasonCode::Failure,
                    })
                    .collect(),
            },
            None,
        ),
        Reply::UnsubAck(pkid) => Packet::UnsubAck(
            UnsubAck {
                pkid,
                reasons: Vec::new(),
            },
            None,
        ),
        Reply::Pong => Packet::PingResp(PingResp),
    };
    V4.write(packet, buffer).map(|_| ())
}

/// Adds a frame, as a PUBLISH of QoS 0, to what is about to be written.
pub(super) fn put_frame(
    topic: &Bytes,
    payload: Bytes,
    buffer: &mut BytesMut,
) -> Result<(), protocol::Error> {
    let publish = Publish::new(topic.clone(), payload, false);
    V4.write(Packet::Publish(publish, None), buffer).map(|_| ())
}

/// Writes all of `bytes`, as long as the other side takes some of them within each `stall`.
pub(super) async fn write_all<W: AsyncWrite + Unpin>(
    sink: &mut W,
    bytes: &[u8],
    stall: Duration,
) -> Result<(), WriteError> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = match timeout(stall, sink.write(rest)).await {
            Err(_) => return Err(WriteError::Stalled(stall)),
            Ok(Ok(0) | Err(_)) => return Err(WriteError::Lost),
            Ok(Ok(written)) => written,
        };
        rest = rest.get(written..).unwrap_or_default();
    }
    match timeout(stall, sink.flush()).await {
        Err(_) => Err(WriteError::Stalled(stall)),
        Ok(Err(_)) => Err(WriteError::Lost),
        Ok(Ok(())) => Ok(()),
    }
}
