//! The embedded broker, spoken to over real sockets by rumqttc and byte by byte.

mod access;
mod attacks;
mod delivery;
mod fuzz;
pub(crate) mod raw;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use brrbrr_proto::id::{RelayId, RobotId};
use brrbrr_proto::topic::Topic;
use brrbrr_relay::broker::{
    self, Authenticate, BrokerConfig, BrokerHandle, Credentials, Inbound, Limits, Refused,
};
use bytes::Bytes;
use futures_util::FutureExt;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use raw::{Connect, Raw};

const RELAY: RelayId = RelayId(0xab);

/// Far more than anything here takes, so that a hang fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(20);

/// Robots up to this one are known.
const KNOWN: u32 = 999;
/// Nothing can be said about this robot.
const UNAVAILABLE: u32 = 1000;
/// Asking about this robot takes for ever.
const NEVER_ANSWERED: u32 = 1001;

/// A running broker and the relay's end of it.
struct World {
    address: SocketAddr,
    handle: BrokerHandle,
    inbound: mpsc::Receiver<Inbound>,
    stop: Option<oneshot::Sender<()>>,
}

impl World {
    async fn start() -> Self {
        Self::with(Limits::default(), None).await
    }

    async fn with(limits: Limits, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = BrokerConfig {
            relay: RELAY,
            tls,
            limits,
        };
        let (stop, stopped) = oneshot::channel();
        let shutdown = stopped.map(|_| ());
        let (handle, inbound) = broker::spawn(listener, config, passwords(), shutdown).unwrap();
        Self {
            address,
            handle,
            inbound,
            stop: Some(stop),
        }
    }

    async fn dial(&self) -> Raw<TcpStream> {
        Raw::new(TcpStream::connect(self.address).await.unwrap())
    }

    /// A robot that is connected and has subscribed.
    async fn robot(&self, number: u32) -> Raw<TcpStream> {
        let mut raw = self.dial().await;
        raw.join(number).await;
        raw
    }

    /// The next frame that the relay hears.
    async fn heard(&mut self) -> Inbound {
        within(self.inbound.recv()).await.expect("the broker runs")
    }

    /// Sends a frame to a robot, trying again while too much is on its way.
    async fn say(&self, number: u32, payload: &[u8]) {
        let payload = Bytes::copy_from_slice(payload);
        let topic = Topic::Down(robot(number));
        eventually(|| match self.handle.publish(topic, payload.clone()) {
            Ok(()) => true,
            Err(broker::PublishError::Congested(_)) => false,
            Err(error) => panic!("{error}"),
        })
        .await;
    }

    /// Whatever was done before: a robot can connect, be heard and hear.
    async fn assert_serves(&mut self, number: u32) {
        let (client, mut events) = client(self.address, number);
        let down = Topic::Down(robot(number));
        let hello = Topic::Hello(robot(number));
        client
            .subscribe(down.to_string(), QoS::AtLeastOnce)
            .await
            .unwrap();
        until(&mut events, |packet| matches!(packet, Packet::SubAck(_))).await;
        client
            .publish(hello.to_string(), QoS::AtLeastOnce, false, "hello")
            .await
            .unwrap();
        until(&mut events, |packet| matches!(packet, Packet::PubAck(_))).await;
        while self.heard().await.topic != hello {}
        self.say(number, b"welcome").await;
        until(
            &mut events,
            |packet| matches!(packet, Packet::Publish(frame) if frame.payload == "welcome"),
        )
        .await;
        client.disconnect().await.unwrap();
        within(async { while events.poll().await.is_ok() {} }).await;
        let there = || self.handle.publish(down, "still there?").is_ok();
        eventually(|| !there()).await;
    }
}

fn robot(number: u32) -> RobotId {
    RobotId::new(number).unwrap()
}

fn password(number: u32) -> String {
    format!("password of {number}")
}

fn passwords() -> Authenticate {
    Arc::new(|asked: Credentials| {
        async move {
            let robot: RobotId = asked.username.parse().unwrap();
            match robot.number() {
                NEVER_ANSWERED => std::future::pending().await,
                UNAVAILABLE => Err(Refused::Unavailable),
                number if number <= KNOWN && asked.password == password(number).into_bytes() => {
                    Ok(robot)
                }
                _ => Err(Refused::BadCredentials),
            }
        }
        .boxed()
    })
}

fn client(address: SocketAddr, number: u32) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(
        format!("brrbrr-{number}"),
        address.ip().to_string(),
        address.port(),
    );
    options.set_credentials(number.to_string(), password(number));
    options.set_max_packet_size(512 * 1024, 512 * 1024);
    AsyncClient::new(options, 64)
}

/// Polls a client until it has seen such a packet.
async fn until(events: &mut EventLoop, is_it: impl Fn(&Packet) -> bool) {
    within(async {
        loop {
            if let Event::Incoming(packet) = events.poll().await.unwrap()
                && is_it(&packet)
            {
                return;
            }
        }
    })
    .await;
}

async fn within<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("it hangs")
}

/// Waits for a condition.
async fn eventually(mut condition: impl FnMut() -> bool) {
    within(async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Limits that a test can wait for.
fn hasty() -> Limits {
    let soon = Duration::from_millis(300);
    Limits {
        tls_handshake: soon,
        connect: soon,
        longest_silence: soon,
        write_stall: soon,
        ..Limits::default()
    }
}

fn connect(number: u32) -> Connect {
    Connect::robot(number)
}
