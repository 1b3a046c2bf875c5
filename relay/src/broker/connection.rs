//! One connection, from its TLS handshake to its last will. Runs in a task of its own, so that what
//! one client does or does not do holds up nobody else.

use std::net::SocketAddr;
use std::time::Duration;

use brrbrr_proto::frame::MAX_FRAME_BYTES;
use brrbrr_proto::id::RobotId;
use brrbrr_proto::topic::Topic;
use bytes::{Bytes, BytesMut};
use rumqttd::protocol::ConnectReturnCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{debug, info};

use super::access::{self, Claim, MAX_WILL_BYTES, Verdict};
use super::counters::{End, Refusal, add};
use super::fabric::NotSent;
use super::listener::Place;
use super::registry::{Frame, Session};
use super::wire::{self, Incoming, PacketReader, ReadError, Reply, WriteError};
use super::{Refused, Shared};

/// The largest CONNECT: client id, user name, password and will are all short.
const MAX_CONNECT_BYTES: usize = MAX_WILL_BYTES + 1024;

/// The largest packet after that: a frame, its topic and its packet id.
const MAX_PACKET_BYTES: usize = MAX_FRAME_BYTES + 128;

/// Answers that can wait to be written. A client that asks for more before it reads any is itself
/// read no further until it does.
const REPLY_QUEUE: usize = 64;

/// How much is put together for one write. A frame over it is written alone.
const WRITE_BYTES: usize = 64 * 1024;

/// Serves one client until either side has had enough.
pub(super) async fn run(socket: TcpStream, peer: SocketAddr, mut place: Place, shared: &Shared) {
    let served = match &shared.tls {
        None => serve(socket, &mut place, shared).await,
        Some(acceptor) => {
            match timeout(shared.limits.tls_handshake, acceptor.accept(socket)).await {
                Ok(Ok(stream)) => serve(stream, &mut place, shared).await,
                Ok(Err(_)) | Err(_) => Err(Refusal::Tls),
            }
        }
    };
    match served {
        Ok((robot, end)) => {
            shared.tally.ended(end);
            info!(%robot, %peer, reason = end.label(), "robot disconnected");
        }
        Err(refusal) => {
            shared.tally.refused(refusal);
            debug!(%peer, reason = refusal.label(), "connection refused");
        }
    }
}

async fn serve<S>(stream: S, place: &mut Place, shared: &Shared) -> Result<(RobotId, End), Refusal>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (source, mut sink) = tokio::io::split(stream);
    let mut packets = PacketReader::new(source);
    let limit = shared.limits.connect;
    let claim = match timeout(limit, admit(&mut packets, shared)).await {
        Ok(Ok(claim)) => claim,
        Ok(Err(refusal)) => {
            if let Some(code) = return_code(refusal) {
                refuse(&mut sink, code, shared.limits.write_stall).await;
            }
            return Err(refusal);
        }
        Err(_) => return Err(Refusal::Silent),
    };
    let Claim {
        robot,
        will,
        keep_alive,
        ..
    } = claim;

    place.identify();
    let (membership, frames, older) = shared.registry.join(robot, will);
    let session = &membership.session;
    if let Some(older) = older {
        // Before the newer one hears that it is connected, so that its hello comes after this.
        publish_will(&older, shared).await;
    }
    add(&shared.tally.connected);
    info!(%robot, "robot connected");

    let (replies, answers) = mpsc::channel(REPLY_QUEUE);
    let mut writer = Writer {
        sink,
        topic: Bytes::from(Topic::Down(robot).to_string()),
        frames,
        answers,
        shared,
    };
    let mut reader = Reader {
        packets,
        session,
        replies,
        shared,
    };
    let silence = longest_silence(keep_alive, shared.limits.longest_silence);
    let end = tokio::select! {
        end = reader.run(silence) => end,
        end = writer.run() => end,
        end = session.ended() => end,
    };
    if end == End::Goodbye {
        session.take_will();
    } else {
        publish_will(session, shared).await;
    }
    Ok((robot, end))
}

/// Reads the CONNECT and has its password checked.
async fn admit<R>(packets: &mut PacketReader<R>, shared: &Shared) -> Result<Claim, Refusal>
where
    R: AsyncRead + Unpin,
{
    let first = packets
        .next(MAX_CONNECT_BYTES, shared.limits.connect)
        .await
        .map_err(|error| {
            debug!(%error, "no CONNECT");
            match error {
                ReadError::Silent(_) | ReadError::Lost => Refusal::Silent,
                ReadError::Level(_) => Refusal::Level,
                ReadError::Malformed(_) | ReadError::Unexpected(_) => Refusal::Protocol,
            }
        })?;
    let Incoming::Connect(connect, login, will) = first else {
        return Err(Refusal::Protocol);
    };
    let mut claim = access::claim(connect, login, will)?;
    let credentials = std::mem::take(&mut claim.credentials);
    // Nobody closes the semaphore.
    let turn = shared.checks.acquire().await;
    let verdict = (shared.authenticate)(credentials).await;
    drop(turn);
    match verdict {
        Ok(robot) if robot == claim.robot => Ok(claim),
        Ok(_) | Err(Refused::BadCredentials) => Err(Refusal::Credentials),
        Err(Refused::Unavailable) => Err(Refusal::Unavailable),
    }
}

/// What CONNACK says, for a client that speaks MQTT at all.
fn return_code(refusal: Refusal) -> Option<ConnectReturnCode> {
    match refusal {
        Refusal::Level => Some(ConnectReturnCode::RefusedProtocolVersion),
        Refusal::ClientId => Some(ConnectReturnCode::ClientIdentifierNotValid),
        Refusal::Credentials => Some(ConnectReturnCode::BadUserNamePassword),
        Refusal::Will => Some(ConnectReturnCode::NotAuthorized),
        Refusal::Unavailable => Some(ConnectReturnCode::ServiceUnavailable),
        Refusal::TotalLimit
        | Refusal::AddressLimit
        | Refusal::Tls
        | Refusal::Silent
        | Refusal::Protocol => None,
    }
}

/// Says no. Whether it is heard makes no difference.
async fn refuse<W: AsyncWrite + Unpin>(sink: &mut W, code: ConnectReturnCode, stall: Duration) {
    let mut buffer = BytesMut::new();
    if wire::put_reply(Reply::ConnAck(code), &mut buffer).is_ok()
        && wire::write_all(sink, &buffer, stall).await.is_ok()
    {
        timeout(stall, sink.shutdown()).await.ok();
    }
}

/// One and a half times the keep-alive, as the standard says. It also lets a server set a limit of
/// its own, which catches those who ask for none.
fn longest_silence(keep_alive: u16, limit: Duration) -> Duration {
    match keep_alive {
        0 => limit,
        seconds => limit.min(Duration::from_secs(u64::from(seconds)).mul_f32(1.5)),
    }
}

/// Publishes the last will, unless that has been done.
async fn publish_will(session: &Session, shared: &Shared) {
    let Some(will) = session.take_will() else {
        return;
    };
    let topic = Topic::Presence(session.robot);
    match shared.up.publish(topic, will).await {
        Ok(()) => add(&shared.tally.frames_in),
        Err(error) => debug!(robot = %session.robot, ?error, "last will not published"),
    }
}

/// What a robot sends.
struct Reader<'a, R> {
    packets: PacketReader<R>,
    session: &'a Session,
    replies: mpsc::Sender<Reply>,
    shared: &'a Shared,
}

impl<R: AsyncRead + Unpin> Reader<'_, R> {
    async fn run(&mut self, silence: Duration) -> End {
        loop {
            match self.packets.next(MAX_PACKET_BYTES, silence).await {
                Ok(packet) => {
                    if let Err(end) = self.handle(packet).await {
                        return end;
                    }
                }
                Err(ReadError::Lost) => return End::Lost,
                Err(ReadError::Silent(_)) => return End::Silent,
                Err(
                    error @ (ReadError::Level(_)
                    | ReadError::Malformed(_)
                    | ReadError::Unexpected(_)),
                ) => {
                    debug!(robot = %self.session.robot, %error, "closing the connection");
                    return End::Protocol;
                }
            }
        }
    }

    async fn handle(&mut self, packet: Incoming) -> Result<(), End> {
        match packet {
            Incoming::Publish {
                packet_id,
                topic,
                payload,
            } => {
                self.publish(&topic, &payload).await?;
                match packet_id {
                    Some(id) => self.reply(Reply::PubAck(id)).await,
                    None => Ok(()),
                }
            }
            Incoming::Subscribe { packet_id, filters } => {
                let verdicts = filters.iter().map(|f| self.subscribe(f)).collect();
                self.reply(Reply::SubAck(packet_id, verdicts)).await
            }
            Incoming::Unsubscribe { packet_id, filters } => {
                if filters
                    .iter()
                    .any(|f| access::subscribe(self.session.robot, f))
                {
                    self.session.set_subscribed(false);
                }
                self.reply(Reply::UnsubAck(packet_id)).await
            }
            Incoming::Ping => self.reply(Reply::Pong).await,
            Incoming::Disconnect => Err(End::Goodbye),
            Incoming::Connect(..) => Err(End::Protocol),
        }
    }

    async fn publish(&self, topic: &[u8], payload: &[u8]) -> Result<(), End> {
        let robot = self.session.robot;
        let tally = &self.shared.tally;
        match access::publish(robot, self.shared.relay, topic, payload.len()) {
            Verdict::Pass(topic) => {
                // A copy, because the router keeps it for long and must not keep the read buffer.
                let payload = Bytes::copy_from_slice(payload);
                let sent = self.shared.up.publish(topic, payload).await;
                sent.map_err(|error| match error {
                    NotSent::Full => End::Congested,
                    NotSent::RouterGone => End::Lost,
                })?;
                add(&tally.frames_in);
                Ok(())
            }
            Verdict::Stray => {
                add(&tally.stray_publishes);
                Ok(())
            }
            Verdict::Denied => {
                add(&tally.denied_publishes);
                Err(End::Denied)
            }
        }
    }

    fn subscribe(&self, filter: &str) -> bool {
        let is_granted = access::subscribe(self.session.robot, filter);
        if is_granted {
            self.session.set_subscribed(true);
        } else {
            add(&self.shared.tally.denied_subscriptions);
        }
        is_granted
    }

    async fn reply(&self, reply: Reply) -> Result<(), End> {
        self.replies.send(reply).await.map_err(|_| End::Lost)
    }
}

/// What a robot is sent.
struct Writer<'a, W> {
    sink: W,
    topic: Bytes,
    frames: mpsc::Receiver<Frame>,
    answers: mpsc::Receiver<Reply>,
    shared: &'a Shared,
}

impl<W: AsyncWrite + Unpin> Writer<'_, W> {
    async fn run(&mut self) -> End {
        match self.write_on().await {
            Ok(never) => match never {},
            Err(WriteError::Stalled(_)) => End::SlowReader,
            Err(WriteError::Lost) => End::Lost,
        }
    }

    async fn write_on(&mut self) -> Result<std::convert::Infallible, WriteError> {
        let mut buffer = BytesMut::new();
        // What is in the buffer; these keep their room until it is written.
        let mut frames = Vec::new();
        put_reply(Reply::ConnAck(ConnectReturnCode::Success), &mut buffer)?;
        loop {
            while buffer.len() < WRITE_BYTES {
                if let Ok(reply) = self.answers.try_recv() {
                    put_reply(reply, &mut buffer)?;
                } else if let Ok(frame) = self.frames.try_recv() {
                    frames.push(put_frame(&self.topic, frame, &mut buffer)?);
                } else {
                    break;
                }
            }
            if buffer.is_empty() {
                // Nothing to do, so hold no memory while waiting.
                buffer = BytesMut::new();
                frames = Vec::new();
                tokio::select! {
                    biased;
                    Some(reply) = self.answers.recv() => put_reply(reply, &mut buffer)?,
                    Some(frame) = self.frames.recv() => {
                        frames.push(put_frame(&self.topic, frame, &mut buffer)?);
                    }
                    else => return Err(WriteError::Lost),
                }
                continue;
            }
            wire::write_all(&mut self.sink, &buffer, self.shared.limits.write_stall).await?;
            for frame in frames.drain(..) {
                drop(frame);
                add(&self.shared.tally.frames_out);
            }
            buffer.clear();
        }
    }
}

/// Nothing that is put here is malformed; where the codec thought so, the connection ends.
fn put_reply(reply: Reply, buffer: &mut BytesMut) -> Result<(), WriteError> {
    wire::put_reply(reply, buffer).map_err(|_| WriteError::Lost)
}

fn put_frame(topic: &Bytes, frame: Frame, buffer: &mut BytesMut) -> Result<Frame, WriteError> {
    wire::put_frame(topic, frame.payload.clone(), buffer).map_err(|_| WriteError::Lost)?;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_allowed_for_one_and_a_half_keep_alives_up_to_the_limit() {
        let limit = Duration::from_secs(60);
        assert_eq!(longest_silence(10, limit), Duration::from_secs(15));
        assert_eq!(longest_silence(0, limit), limit);
        assert_eq!(longest_silence(u16::MAX, limit), limit);
    }
}
