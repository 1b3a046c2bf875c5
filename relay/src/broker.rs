//! The embedded MQTT broker: rumqttd's router and codec behind a front of our own.
//!
//! # What it promises
//! A robot may speak MQTT 3.1.1 under its own name only, publish to its own topics and hear its own
//! down topic. Nothing a client sends or fails to send stops the broker or holds up another client,
//! and every queue has a bound. It promises no more: PUBACK says that a frame is in this process's
//! memory, and a frame may be lost at any time, which the link's own acknowledgements make good.
//!
//! # How frames travel
//! ```text
//! robot's socket -> reader -> trunk up   -> router -> tap -> Inbound queue -> the relay
//! robot's socket <- writer <- robot's queue <- tap <- router <- trunk down <- BrokerHandle::publish
//! ```
//! rumqttd's router sees two clients, both of this process: `front` publishes what robots may say and
//! is subscribed to what is said to robots, `relay` is the other way round. The robots themselves
//! are not its clients, for these reasons, all found in version 0.20:
//! - A client costs it 33 KB when it connects and 229 KB after 300 small frames (measured), and its
//!   filters and client ids are never forgotten. This way a robot costs it the names of its topics.
//! - It can be made to panic by what clients do: a wake-up for a connection that it has dropped, or
//!   a shared subscriber that leaves. Numbers of dropped connections are given to others at once.
//! - It refuses a client without a word, has no access lists, and answers a mixed SUBSCRIBE or an
//!   unknown UNSUBSCRIBE wrongly or not at all.
//! - It skips what was acknowledged once its log is full. The front lets no more into it than the
//!   log is sure to keep, and reads no more from a robot until there is room again.
//! - It keeps no order between filters, so a will could come after the hello that followed it. Here
//!   one filter carries a whole direction, and what a robot says is heard in its order.
//!
//! # Decisions
//! - Every subscription is granted QoS 0, and a publish of QoS 2 ends the connection.
//! - A publish or a will that is not the robot's own ends the connection: no gateway does that by
//!   mistake. A robot's publish to a relay that is gone is acknowledged and thrown away.
//! - The retain flag is ignored, so nothing is stored.
//! - A second connection of a robot takes over. The first one's will is published, as MQTT wants it,
//!   before the second hears that it is connected.
//! - A will is published on every end of a connection but DISCONNECT and the broker's own shutdown.

mod access;
mod connection;
mod counters;
mod fabric;
mod listener;
mod registry;
mod wire;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use brrbrr_proto::frame::MAX_FRAME_BYTES;
use brrbrr_proto::id::{RelayId, RobotId};
use brrbrr_proto::topic::Topic;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use rumqttd::local::LinkError;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tracing::{error, info};

pub use self::counters::{Counters, End, Refusal};
use self::counters::{Tally, add};
use self::fabric::{NotSent, Tap, Trunk};
use self::registry::{NoRoom, Registry};

/// Connections in all, those that have said nothing yet included. Somewhat more than the robots one
/// relay is meant for, each of which costs a file descriptor and some 10 KB.
pub const MAX_CONNECTIONS: usize = 8192;

/// Connections from one address, loopback excepted, that have not shown yet which robot they are. A
/// building full of robots may be behind one address, so robots that are known count no more; of those
/// there is one connection each.
pub const MAX_CONNECTIONS_PER_ADDRESS: usize = 1024;

/// How long a TLS handshake may take, on a bad Wi-Fi too.
pub const TLS_HANDSHAKE: Duration = Duration::from_secs(10);

/// How long the CONNECT may take, the check of its password included.
pub const CONNECT: Duration = Duration::from_secs(10);

/// Passwords that are checked at a time. Each check reads the catalog, whose queue other work needs
/// too; a check takes well under a millisecond, so this serves thousands a second.
const PASSWORD_CHECKS: usize = 64;

/// How long a robot may be silent, whatever keep-alive it asks for.
pub const LONGEST_SILENCE: Duration = Duration::from_secs(300);

/// How long a robot may take nothing of what is sent to it. Longer than roaming to another access
/// point takes.
pub const WRITE_STALL: Duration = Duration::from_secs(15);

/// Frames that wait for the relay outside the router. Few, since each may be a large one.
const INBOUND_QUEUE: usize = 64;

/// What a client says of itself.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// `brrbrr-` and the robot's id; this has been checked.
    pub client_id: String,
    /// The robot's id; this has been checked.
    pub username: String,
    /// What [`brrbrr_proto::seal::Secret::mqtt_password`] reveals, if the client is who it says.
    pub password: Vec<u8>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("client_id", &self.client_id)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Why a client may not connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refused {
    /// There is no such robot, or the password is wrong.
    #[error("unknown robot or wrong password")]
    BadCredentials,
    /// It cannot be found out now; the client should come again.
    #[error("the passwords cannot be checked now")]
    Unavailable,
}

/// Asked whether a client may connect. Answers which robot it is.
pub type Authenticate =
    Arc<dyn Fn(Credentials) -> BoxFuture<'static, Result<RobotId, Refused>> + Send + Sync>;

/// What one broker bears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// See [`MAX_CONNECTIONS`].
    pub connections: usize,
    /// See [`MAX_CONNECTIONS_PER_ADDRESS`].
    pub connections_per_address: usize,
    /// See [`TLS_HANDSHAKE`].
    pub tls_handshake: Duration,
    /// See [`CONNECT`].
    pub connect: Duration,
    /// See [`LONGEST_SILENCE`].
    pub longest_silence: Duration,
    /// See [`WRITE_STALL`].
    pub write_stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: MAX_CONNECTIONS,
            connections_per_address: MAX_CONNECTIONS_PER_ADDRESS,
            tls_handshake: TLS_HANDSHAKE,
            connect: CONNECT,
            longest_silence: LONGEST_SILENCE,
            write_stall: WRITE_STALL,
        }
    }
}

/// How to run a broker.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// The relay that the broker is part of. Robots reach no other through it.
    pub relay: RelayId,
    /// With it, every connection is TLS; without, none is.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// What the broker bears.
    pub limits: Limits,
}

/// Why a broker does not start.
#[derive(Debug, Error)]
pub enum BrokerError {
    /// The router did not take its two clients.
    #[error("cannot start the message router")]
    Router(#[from] Box<LinkError>),
    /// The listener is not usable.
    #[error("cannot listen for robots")]
    Listener(#[from] io::Error),
}

/// Why a frame was not sent to a robot. The link sends again what it does not see acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PublishError {
    /// A relay speaks on down topics only.
    #[error("{0} is not a topic that a relay publishes to")]
    NotDown(Topic),
    /// Longer than [`MAX_FRAME_BYTES`].
    #[error("frame of {0} bytes, the limit is {MAX_FRAME_BYTES}")]
    TooLong(usize),
    /// The robot is not connected here, or has not subscribed yet.
    #[error("robot {0} is not connected")]
    NotConnected(RobotId),
    /// Enough is on its way to it, or to all robots together. Try again a little later.
    #[error("too much is on its way to robot {0}")]
    Congested(RobotId),
    /// The broker has ended.
    #[error("the broker has ended")]
    Ended,
}

/// A frame from a robot, on a topic that is its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inbound {
    /// Where it was published.
    pub topic: Topic,
    /// The frame.
    pub payload: Bytes,
}

/// What every connection works with.
pub(crate) struct Shared {
    relay: RelayId,
    limits: Limits,
    tls: Option<TlsAcceptor>,
    authenticate: Authenticate,
    checks: Semaphore,
    registry: Arc<Registry>,
    tally: Tally,
    up: Trunk,
    down: Trunk,
}

/// A running broker, for those who talk to robots.
#[derive(Clone)]
pub struct BrokerHandle {
    shared: Arc<Shared>,
}

impl fmt::Debug for BrokerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerHandle")
            .field("relay", &self.shared.relay)
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}

impl BrokerHandle {
    /// Sends a frame to a robot. Returns at once. Any frame may be lost, and the others arrive in
    /// the order in which they were sent.
    ///
    /// # Errors
    /// Says why nothing was sent.
    pub fn publish(&self, topic: Topic, payload: impl Into<Bytes>) -> Result<(), PublishError> {
        let payload = payload.into();
        let Topic::Down(robot) = topic else {
            return Err(PublishError::NotDown(topic));
        };
        let length = payload.len();
        if length > MAX_FRAME_BYTES {
            return Err(PublishError::TooLong(length));
        }
        let registry = &self.shared.registry;
        registry
            .reserve(robot, length)
            .map_err(|reason| match reason {
                NoRoom::NotConnected => PublishError::NotConnected(robot),
                NoRoom::Congested => PublishError::Congested(robot),
            })?;
        self.shared
            .down
            .try_publish(topic, payload)
            .map_err(|reason| {
                registry.release(robot, length);
                match reason {
                    NotSent::Full => PublishError::Congested(robot),
                    NotSent::RouterGone => PublishError::Ended,
                }
            })
    }

    /// Closes a robot's connection, if there is one. Whether it may come again is for
    /// [`Authenticate`] to say.
    pub fn disconnect(&self, robot: RobotId) {
        self.shared.registry.end(robot, End::Removed);
    }

    /// How many robots are connected.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.registry.connections()
    }

    /// What has been counted since the broker started.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.tally.read()
    }
}

/// Starts a broker on a listener. Call it inside a Tokio runtime.
///
/// The receiver gives what robots publish, of each robot in its order. When it is not read, robots
/// are read no further, and sent away in the end. When it closes, the broker has ended: because
/// `shutdown` resolved, or else because its router failed, which is an error to report.
///
/// # Errors
/// Where the router does not start.
pub fn spawn<S>(
    listener: TcpListener,
    config: BrokerConfig,
    authenticate: Authenticate,
    shutdown: S,
) -> Result<(BrokerHandle, mpsc::Receiver<Inbound>), BrokerError>
where
    S: Future<Output = ()> + Send + 'static,
{
    let address = listener.local_addr()?;
    let fabric = fabric::start()?;
    let shared = Arc::new(Shared {
        relay: config.relay,
        limits: config.limits,
        tls: config.tls.map(TlsAcceptor::from),
        authenticate,
        checks: Semaphore::new(PASSWORD_CHECKS),
        registry: Arc::default(),
        tally: Tally::default(),
        up: fabric.up,
        down: fabric.down,
    });
    let (inbound, frames) = mpsc::channel(INBOUND_QUEUE);

    let mut parts = JoinSet::new();
    parts.spawn(listener::run(listener, Arc::clone(&shared)));
    parts.spawn(carry_up(fabric.from_robots, inbound, Arc::clone(&shared)));
    parts.spawn(carry_down(fabric.to_robots, Arc::clone(&shared)));
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = shutdown => info!(%address, "broker stopped"),
            // Each of them goes on for ever, so whichever ends takes the others along.
            _ = parts.join_next() => error!(%address, "broker failed"),
        }
        parts.shutdown().await;
    });
    info!(%address, tls = shared.tls.is_some(), "broker started");
    Ok((BrokerHandle { shared }, frames))
}

/// Gives the relay what robots published. Ends when the router does, or the relay does not care.
async fn carry_up(mut tap: Tap, inbound: mpsc::Sender<Inbound>, shared: Arc<Shared>) {
    while let Ok((topic, payload)) = tap.next().await {
        let length = payload.len();
        if inbound.send(Inbound { topic, payload }).await.is_err() {
            return;
        }
        shared.up.has_left(length);
    }
}

/// Gives robots what the relay published. Ends when the router does.
async fn carry_down(mut tap: Tap, shared: Arc<Shared>) {
    while let Ok((topic, payload)) = tap.next().await {
        shared.down.has_left(payload.len());
        if !shared.registry.deliver(topic.robot(), payload) {
            add(&shared.tally.frames_lost);
        }
    }
}
