//! A robot that does what it is told: the real gateway half of the link on MQTT that is written by hand.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use brrbrr_proto::frame::{self, Message};
use brrbrr_proto::id::{BootId, ConnectionId, Epoch, RobotId, Seq};
use brrbrr_proto::link::Gateway;
use brrbrr_proto::link::gateway::{Output, SpoolView};
use brrbrr_proto::live::{PerField, Status};
use brrbrr_proto::seal::{Keys, NONCE_BYTES, Secret};
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use brrbrr_proto::topic::Topic;
use brrbrr_proto::up::Gone;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until};

use crate::broker::raw::{self, Connect};
use crate::storm::robot::Packets;

const EPOCH: Epoch = Epoch(0x57a7);
/// How soon it tries again to connect.
const RECONNECT: Duration = Duration::from_millis(50);

/// What it is told.
enum Word {
    Say(Status),
    Cut,
    Hold,
    Blink,
    ComeBack,
}

/// A handle to the robot. It ends with it.
pub(super) struct Robot(mpsc::Sender<Word>);

impl Robot {
    pub(super) fn start(id: RobotId, secret: &Secret, relay: SocketAddr) -> Self {
        let (tell, told) = mpsc::channel(64);
        let spool = SpoolView {
            epoch: EPOCH,
            first: Seq::FIRST,
            next: Seq::FIRST,
        };
        let board = Board {
            id,
            keys: Keys::new(secret),
            password: secret.mqtt_password().reveal().to_string(),
            relay,
            told,
            gateway: Gateway::new(spool, None, "status".to_owned(), 1),
            status: Status::default(),
            said: PerField::default(),
            started: Instant::now(),
            is_wanted: true,
        };
        tokio::spawn(board.run());
        Self(tell)
    }

    /// The robot says something of itself.
    pub(super) fn say(&self, status: Status) {
        self.tell(Word::Say(status));
    }

    /// Its connection breaks and it stays away.
    pub(super) fn cut(&self) {
        self.tell(Word::Cut);
    }

    /// It does not come back when its connection breaks.
    pub(super) fn hold(&self) {
        self.tell(Word::Hold);
    }

    /// Its connection breaks and it comes straight back.
    pub(super) fn blink(&self) {
        self.tell(Word::Blink);
    }

    /// It comes back.
    pub(super) fn come_back(&self) {
        self.tell(Word::ComeBack);
    }

    fn tell(&self, word: Word) {
        assert!(self.0.try_send(word).is_ok(), "the robot has ended");
    }
}

struct Board {
    id: RobotId,
    keys: Keys,
    password: String,
    relay: SocketAddr,
    told: mpsc::Receiver<Word>,
    gateway: Gateway,
    status: Status,
    said: PerField<Uptime>,
    started: Instant,
    /// Whether it is to be connected.
    is_wanted: bool,
}

/// Why a connection ended.
enum Ended {
    Broken,
    Told,
    Over,
}

impl Board {
    async fn run(mut self) {
        loop {
            if self.is_wanted {
                let ended = self.connect_once().await;
                self.gateway.handle_disconnected();
                while self.gateway.poll_output().is_some() {}
                match ended {
                    Ok(Ended::Over) => return,
                    Ok(Ended::Told) => {}
                    Ok(Ended::Broken) | Err(_) => sleep(RECONNECT).await,
                }
                while let Ok(word) = self.told.try_recv() {
                    self.obey(word);
                }
            } else {
                let Some(word) = self.told.recv().await else {
                    return;
                };
                self.obey(word);
            }
        }
    }

    /// Whether the connection is to end.
    fn obey(&mut self, word: Word) -> bool {
        match word {
            Word::Say(status) => {
                let now = self.now().uptime;
                self.status.absorb(&status);
                self.said.absorb(&PerField::of(&status, now));
                self.gateway
                    .handle_status(self.status.clone(), self.said, now);
                false
            }
            Word::Cut => {
                self.is_wanted = false;
                true
            }
            Word::Hold => {
                self.is_wanted = false;
                false
            }
            Word::Blink => true,
            Word::ComeBack => {
                self.is_wanted = true;
                false
            }
        }
    }

    async fn connect_once(&mut self) -> io::Result<Ended> {
        let connection = ConnectionId(getrandom::u64().unwrap());
        let mut stream = TcpStream::connect(self.relay).await?;
        stream.set_nodelay(true)?;
        let will = self.seal(&Gone { connection });
        let connect = Connect {
            password: self.password.clone(),
            ..Connect::robot(self.id.number())
        };
        let connect = connect.with_will(&Topic::Presence(self.id).to_string(), &will);
        let mut reader = Packets::default();
        stream.write_all(&connect.bytes()).await?;
        assert_eq!(reader.next(&mut stream).await?, (0x20, vec![0, 0]));
        let down = Topic::Down(self.id).to_string();
        stream.write_all(&raw::subscribe(1, &[&down])).await?;
        assert_eq!(reader.next(&mut stream).await?, (0x90, vec![0, 1, 0]));
        let now = self.now();
        self.gateway.handle_connected(connection, now);
        loop {
            let (bytes, goes_on) = self.carry_out();
            stream.write_all(&bytes).await?;
            if !goes_on {
                return Ok(Ended::Broken);
            }
            let due = self
                .gateway
                .poll_timeout()
                .map(|at| self.started + at.since_boot());
            let due = async {
                match due {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                packet = reader.next(&mut stream) => {
                    let (first, body) = packet?;
                    assert_eq!(first, 0x30, "only frames are expected");
                    let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                    let (_, down) = frame::open(&self.keys, self.id, &body[2 + topic..]).unwrap();
                    let now = self.now();
                    self.gateway.handle_down(down, now);
                }
                word = self.told.recv() => {
                    let Some(word) = word else { return Ok(Ended::Over) };
                    if self.obey(word) {
                        return Ok(Ended::Told);
                    }
                }
                () = due => {
                    let now = self.now();
                    self.gateway.handle_timeout(now);
                }
            }
        }
    }

    /// What is to be written, and whether the connection is of use.
    fn carry_out(&mut self) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        while let Some(output) = self.gateway.poll_output() {
            let packet = match output {
                Output::Hello(hello) => self.packet(Topic::Hello(self.id), &hello),
                Output::Up(relay, up) => self.packet(Topic::Up(relay, self.id), &up),
                Output::Live(relay, live) => self.packet(Topic::Live(relay, self.id), &live),
                Output::Reconnect => return (bytes, false),
                Output::Opened(..) | Output::Building(_) | Output::Closed(_) => continue,
                Output::Read { .. }
                | Output::Release { .. }
                | Output::Store { .. }
                | Output::RenewEpoch => panic!("{output:?}"),
            };
            bytes.extend(packet);
        }
        (bytes, true)
    }

    fn packet<M: Message>(&self, topic: Topic, message: &M) -> Vec<u8> {
        raw::publish(&topic.to_string(), None, false, &self.seal(message))
    }

    fn seal<M: Message>(&self, message: &M) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).unwrap();
        frame::seal(&self.keys, self.id, EPOCH, &nonce, message).unwrap()
    }

    fn now(&self) -> Stamp {
        Stamp {
            boot: BootId(1),
            uptime: Uptime::new(self.started.elapsed()),
            wall: WallClock(0),
        }
    }
}
