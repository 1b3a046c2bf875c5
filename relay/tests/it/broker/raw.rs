//! An MQTT client that says exactly what it is told to, right or wrong.

use brrbrr_proto::topic::Topic;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{password, robot, within};

/// The fields of a CONNECT.
#[derive(Clone)]
pub(crate) struct Connect {
    pub(crate) level: u8,
    pub(crate) clean: bool,
    pub(crate) keep_alive: u16,
    pub(crate) client_id: String,
    pub(crate) username: String,
    pub(crate) password: String,
    /// Topic, payload and retain flag.
    pub(crate) will: Option<(String, Vec<u8>, bool)>,
}

impl Connect {
    /// As a gateway does it.
    pub(crate) fn robot(number: u32) -> Self {
        Self {
            level: 4,
            clean: true,
            keep_alive: 30,
            client_id: format!("brrbrr-{number}"),
            username: number.to_string(),
            password: password(number),
            will: None,
        }
    }

    pub(crate) fn with_will(self, topic: &str, payload: &[u8]) -> Self {
        Self {
            will: Some((topic.to_owned(), payload.to_vec(), true)),
            ..self
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut flags = 0b1100_0000 | u8::from(self.clean) << 1;
        let mut body = text("MQTT");
        let mut tail = text(&self.client_id);
        if let Some((topic, payload, retain)) = &self.will {
            flags |= 0b1100 | u8::from(*retain) << 5;
            tail.extend(text(topic));
            tail.extend(prefixed(payload));
        }
        tail.extend(text(&self.username));
        tail.extend(text(&self.password));
        body.extend([self.level, flags]);
        body.extend(self.keep_alive.to_be_bytes());
        body.extend(tail);
        packet(0x10, &body)
    }
}

/// A packet with this first byte and body.
pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, body.len());
    bytes.extend(body);
    bytes
}

/// The start of a packet whose body would have this length.
pub(crate) fn header(first: u8, mut length: usize) -> Vec<u8> {
    let mut bytes = vec![first];
    loop {
        let digit = u8::try_from(length % 128).unwrap();
        length /= 128;
        bytes.push(digit | if length > 0 { 128 } else { 0 });
        if length == 0 {
            return bytes;
        }
    }
}

/// A PUBLISH; the packet id makes it QoS 1.
pub(crate) fn publish(topic: &str, id: Option<u16>, retain: bool, payload: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    body.extend(id.iter().flat_map(|id| id.to_be_bytes()));
    body.extend(payload);
    packet(0x30 | u8::from(id.is_some()) << 1 | u8::from(retain), &body)
}

/// A SUBSCRIBE that asks for QoS 1.
pub(crate) fn subscribe(id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    for filter in filters {
        body.extend(text(filter));
        body.push(1);
    }
    packet(0x82, &body)
}

pub(crate) fn unsubscribe(id: u16, filter: &str) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(text(filter));
    packet(0xa2, &body)
}

fn text(text: &str) -> Vec<u8> {
    prefixed(text.as_bytes())
}

fn prefixed(bytes: &[u8]) -> Vec<u8> {
    let mut prefixed = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    prefixed.extend(bytes);
    prefixed
}

/// A connection.
pub(crate) struct Raw<S> {
    pub(crate) stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        within(self.stream.write_all(bytes)).await.unwrap();
        within(self.stream.flush()).await.unwrap();
    }

    /// Sends to somebody who may hang up meanwhile.
    pub(crate) async fn send_anyway(&mut self, bytes: &[u8]) {
        within(self.stream.write_all(bytes)).await.ok();
    }

    /// The next packet: its first byte and its body. None when the connection is closed.
    pub(crate) async fn read(&mut self) -> Option<(u8, Vec<u8>)> {
        within(async {
            let first = self.stream.read_u8().await.ok()?;
            let mut length = 0;
            for shift in [0, 7, 14, 21] {
                let digit = self.stream.read_u8().await.ok()?;
                length |= usize::from(digit & 127) << shift;
                if digit < 128 {
                    break;
                }
            }
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).await.ok()?;
            Some((first, body))
        })
        .await
    }

    /// Sends a CONNECT and gives the return code, or none where the connection is closed.
    pub(crate) async fn connect(&mut self, connect: &Connect) -> Option<u8> {
        self.send(&connect.bytes()).await;
        let (first, body) = self.read().await?;
        assert_eq!((first, body[0]), (0x20, 0), "CONNACK without a session");
        Some(body[1])
    }

    /// Connects as this robot and subscribes to what it may.
    pub(crate) async fn join(&mut self, number: u32) {
        assert_eq!(self.connect(&Connect::robot(number)).await, Some(0));
        self.listen(number).await;
    }

    pub(crate) async fn listen(&mut self, number: u32) {
        let down = Topic::Down(robot(number)).to_string();
        assert_eq!(self.subscribe(&[&down]).await, [0]);
    }

    /// Subscribes and gives the return codes.
    pub(crate) async fn subscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        self.send(&subscribe(7, filters)).await;
        let (first, body) = self.read().await.expect("a SUBACK");
        assert_eq!((first, &body[..2]), (0x90, &[0, 7][..]));
        body[2..].to_vec()
    }

    /// The next packet, which is a frame of QoS 0 that is not retained; its payload.
    pub(crate) async fn frame(&mut self) -> Vec<u8> {
        let (first, body) = self.read().await.expect("a PUBLISH");
        assert_eq!(first, 0x30);
        let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
        body[2 + topic..].to_vec()
    }

    /// A ping that is answered before anything else is said.
    pub(crate) async fn ping(&mut self) {
        self.send(&[0xc0, 0]).await;
        assert_eq!(self.read().await, Some((0xd0, Vec::new())));
    }

    /// Reads until the other side hangs up.
    pub(crate) async fn hung_up(&mut self) {
        while self.read().await.is_some() {}
    }
}
