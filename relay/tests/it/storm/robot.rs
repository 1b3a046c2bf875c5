//! A simulated robot: the real gateway half of the link on MQTT that is written by hand.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use brrbrr_proto::backoff::Backoff;
use brrbrr_proto::frame::{self, Message};
use brrbrr_proto::id::{BootId, ConnectionId, Epoch, RobotId, Seq};
use brrbrr_proto::link::Gateway;
use brrbrr_proto::link::gateway::{Output, SpoolView};
use brrbrr_proto::live::{PerField, Status};
use brrbrr_proto::seal::{Keys, NONCE_BYTES, Secret};
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use brrbrr_proto::topic::Topic;
use brrbrr_proto::up::{Custom, Event, Gone, Item, Record};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout};

use super::{FIRST_RECORDS, backlog};
use crate::broker::raw::{self, Connect};

/// As the gateway's uplink has it.
const RECONNECT_WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
const NETWORK_LIMIT: Duration = Duration::from_secs(30);
const KEEP_ALIVE: u16 = 30;
/// How often the robot has a new status. Seldom, because what counts here is the first, and the test is not
/// optimised.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// Which robots had a session, and when the first began.
pub(crate) type Opened = Arc<Mutex<BTreeMap<RobotId, Instant>>>;

/// What the test is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// The robots have their first few records.
    Early,
    /// The relay was killed; they have a backlog as well.
    Late,
    /// They are to end.
    Over,
}

pub(crate) fn epoch(robot: RobotId) -> Epoch {
    Epoch(0x5707_0000_0000 + u64::from(robot.number()))
}

/// The robot's record at this position.
pub(crate) fn record(robot: RobotId, seq: Seq) -> Vec<u8> {
    let stamp = Stamp {
        boot: BootId(u64::from(robot.number())),
        uptime: Uptime::new(Duration::from_millis(seq.0)),
        wall: WallClock(1_700_000_000_000_000),
    };
    let custom = Custom {
        kind: "storm".to_owned(),
        json: format!(
            "{{\"robot\":{robot},\"seq\":{},\"filler\":\"0123456789012345678901234567890123456789\"}}",
            seq.0
        ),
    };
    let event = Event::Custom(custom);
    Record { stamp, event }.encode().unwrap()
}

/// One robot. See the module's documentation.
pub(crate) struct Robot {
    id: RobotId,
    keys: Keys,
    password: String,
    relay: SocketAddr,
    life: watch::Receiver<Life>,
    opened: Opened,
    gateway: Gateway,
    backoff: Backoff,
    next: Seq,
    started: Instant,
    status_at: Instant,
    is_welcomed: bool,
    nonces: u128,
}

/// What to do with the connection.
#[derive(PartialEq, Eq)]
enum Verdict {
    Stay,
    Reconnect,
}

impl Robot {
    pub(crate) fn new(
        id: RobotId,
        secret: &Secret,
        relay: SocketAddr,
        life: watch::Receiver<Life>,
        opened: Opened,
    ) -> Self {
        let seed = u64::from(id.number()).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let next = Seq::FIRST.plus(FIRST_RECORDS);
        let spool = SpoolView {
            epoch: epoch(id),
            first: Seq::FIRST,
            next,
        };
        Self {
            id,
            keys: Keys::new(secret),
            password: secret.mqtt_password().reveal().to_string(),
            relay,
            life,
            opened,
            gateway: Gateway::new(spool, None, "storm".to_owned(), seed),
            backoff: Backoff::new(RECONNECT_WAIT.0, RECONNECT_WAIT.1, seed),
            next,
            started: Instant::now(),
            status_at: Instant::now(),
            is_welcomed: false,
            nonces: 0,
        }
    }

    /// Connects again and again until the test is over.
    pub(crate) async fn run(mut self) {
        loop {
            let mut life = self.life.clone();
            tokio::select! {
                _ = life.wait_for(|life| *life == Life::Over) => return,
                // A connection that breaks is what this is about.
                _ = self.connect_once() => {}
            }
            self.gateway.handle_disconnected();
            while self.gateway.poll_output().is_some() {}
            if std::mem::take(&mut self.is_welcomed) {
                self.backoff.reset();
            }
            let wait = self.backoff.next_wait();
            tokio::select! {
                _ = life.wait_for(|life| *life == Life::Over) => return,
                () = sleep(wait) => {}
            }
        }
    }

    async fn connect_once(&mut self) -> io::Result<()> {
        let connection = ConnectionId(getrandom::u64().unwrap());
        let mut stream = timeout(NETWORK_LIMIT, TcpStream::connect(self.relay)).await??;
        stream.set_nodelay(true)?;
        let will = self.seal(&Gone { connection });
        let number = self.id.number();
        let connect = Connect {
            keep_alive: KEEP_ALIVE,
            password: self.password.clone(),
            ..Connect::robot(number)
        };
        let connect = connect.with_will(&Topic::Presence(self.id).to_string(), &will);
        let mut reader = Packets::default();
        stream.write_all(&connect.bytes()).await?;
        let answer = timeout(NETWORK_LIMIT, reader.next(&mut stream)).await??;
        assert_eq!(
            answer,
            (0x20, vec![0, 0]),
            "the broker refused robot {number}"
        );
        let down = Topic::Down(self.id).to_string();
        stream.write_all(&raw::subscribe(1, &[&down])).await?;
        let answer = timeout(NETWORK_LIMIT, reader.next(&mut stream)).await??;
        assert_eq!(answer, (0x90, vec![0, 1, 0]));
        if *self.life.borrow() == Life::Late {
            let next = Seq::FIRST.plus(FIRST_RECORDS + backlog(number));
            self.next = next;
            let now = self.now();
            self.gateway.handle_appended(next, now.uptime);
        }
        let now = self.now();
        self.show(now);
        self.gateway.handle_connected(connection, now);
        self.serve(stream, reader).await
    }

    async fn serve(&mut self, mut stream: TcpStream, mut reader: Packets) -> io::Result<()> {
        loop {
            let (bytes, verdict) = self.carry_out();
            stream.write_all(&bytes).await?;
            if verdict == Verdict::Reconnect {
                return Ok(());
            }
            let due = self
                .gateway
                .poll_timeout()
                .map(|at| self.started + at.since_boot());
            let due = due.map_or(self.status_at, |due| due.min(self.status_at));
            tokio::select! {
                packet = reader.next(&mut stream) => {
                    let (first, body) = packet?;
                    assert_eq!(first, 0x30, "only frames are expected");
                    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                    let (_, down) = frame::open(&self.keys, self.id, &body[2 + topic..]).unwrap();
                    let now = self.now();
                    self.gateway.handle_down(down, now);
                }
                () = sleep_until(due.into()) => {
                    let now = self.now();
                    if self.status_at <= Instant::now() {
                        self.status_at = Instant::now() + STATUS_EVERY;
                        self.show(now);
                    }
                    self.gateway.handle_timeout(now);
                }
            }
        }
    }

    fn show(&mut self, now: Stamp) {
        let said = PerField::of(&status(), now.uptime);
        self.gateway.handle_status(status(), said, now.uptime);
    }

    /// What is to be written, live frames first.
    fn carry_out(&mut self) -> (Vec<u8>, Verdict) {
        let (mut live, mut others) = (Vec::new(), Vec::new());
        let mut verdict = Verdict::Stay;
        while let Some(output) = self.gateway.poll_output() {
            match output {
                Output::Hello(hello) => {
                    others.extend(self.packet(Topic::Hello(self.id), &hello));
                }
                Output::Up(relay, up) => others.extend(self.packet(Topic::Up(relay, self.id), &up)),
                Output::Live(relay, status) => {
                    live.extend(self.packet(Topic::Live(relay, self.id), &status));
                }
                Output::Read {
                    from,
                    max_items,
                    max_bytes,
                } => {
                    let items = self.read(from, max_items, max_bytes);
                    let now = self.now();
                    self.gateway.handle_read(from, items, now.uptime);
                }
                Output::Opened(..) => {
                    self.is_welcomed = true;
                    let mut opened = self.opened.lock().unwrap();
                    opened.entry(self.id).or_insert_with(Instant::now);
                }
                Output::Reconnect => verdict = Verdict::Reconnect,
                Output::Release { .. } | Output::Building(_) | Output::Closed(_) => {}
                Output::Store { .. } | Output::RenewEpoch => panic!("{output:?}"),
            }
        }
        live.append(&mut others);
        (live, verdict)
    }

    fn read(&self, from: Seq, max_items: usize, max_bytes: usize) -> Vec<Item> {
        let mut bytes = 0;
        (from.0..self.next.0)
            .take(max_items)
            .map(|seq| record(self.id, Seq(seq)))
            .take_while(|record| {
                let is_first = bytes == 0;
                bytes += record.len();
                is_first || bytes <= max_bytes
            })
            .map(|record| Item { covers: 1, record })
            .collect()
    }

    fn packet<M: Message>(&mut self, topic: Topic, message: &M) -> Vec<u8> {
        raw::publish(&topic.to_string(), None, false, &self.seal(message))
    }

    fn seal<M: Message>(&mut self, message: &M) -> Vec<u8> {
        self.nonces += 1;
        let mut nonce = [0; NONCE_BYTES];
        nonce[..16].copy_from_slice(&self.nonces.to_le_bytes());
        frame::seal(&self.keys, self.id, epoch(self.id), &nonce, message).unwrap()
    }

    fn now(&self) -> Stamp {
        Stamp {
            boot: BootId(u64::from(self.id.number())),
            uptime: Uptime::new(self.started.elapsed()),
            wall: WallClock(1_700_000_000_000_000),
        }
    }
}

fn status() -> Status {
    Status {
        battery: Some(0.5),
        speed: Some(0.25),
        ..Status::default()
    }
}

/// Packets that come in. Nothing is lost where waiting for one is given up.
#[derive(Default)]
pub(crate) struct Packets {
    bytes: Vec<u8>,
}

impl Packets {
    pub(crate) async fn next(&mut self, stream: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
        loop {
            if let Some(packet) = self.take() {
                return Ok(packet);
            }
            if stream.read_buf(&mut self.bytes).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn take(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = *self.bytes.first()?;
        let (mut length, mut at) = (0, 1);
        loop {
            let digit = *self.bytes.get(at)?;
            length |= usize::from(digit & 127) << (7 * (at - 1));
            at += 1;
            if digit < 128 {
                break;
            }
        }
        let body = self.bytes.get(at..at + length)?.to_vec();
        self.bytes.drain(..at + length);
        Some((first, body))
    }
}
