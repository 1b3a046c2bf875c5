//! The uplink: carries sealed frames over MQTT to whatever broker the enrolment names.
//!
//! It promises nothing about delivery, because the link does. Everything goes out with `QoS` 0: a
//! PUBACK would only say that a broker has a frame in its memory, while the link waits for the
//! relay's storage. Each connection has a client of its own, so no state of an earlier one can
//! linger (rumqttc keeps packets that a clean session never acknowledges).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use brrbrr_proto::backoff::Backoff;
use brrbrr_proto::down::Down;
use brrbrr_proto::frame::{self, FrameError, MAX_FRAME_BYTES, Message};
use brrbrr_proto::id::{ConnectionId, Epoch, RelayId, RobotId};
use brrbrr_proto::live::Dated;
use brrbrr_proto::seal::{Keys, NONCE_BYTES, Secret};
use brrbrr_proto::topic::Topic;
use brrbrr_proto::up::{Gone, Hello, Up};
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, LastWill, MqttOptions, NetworkOptions, Packet,
    QoS, SubscribeReasonCode, TlsConfiguration, Transport,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

/// Frames that wait to be sealed and sent. The link's window is about a dozen batches.
const FRAMES: usize = 64;
/// Newest statuses that wait. The link sends one at a time, well apart.
const LIVE_FRAMES: usize = 4;
/// Packets handed to the MQTT client and not yet written. Few, so that a live frame overtakes
/// everything that still waits here.
const CLIENT_PACKETS: usize = 2;
/// What came in and waits for the event loop.
const NEWS: usize = 64;
/// The first and the longest wait between attempts to connect.
const RECONNECT_WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long connecting, or writing one packet, may take. Slow links need long.
const NETWORK_LIMIT: Duration = Duration::from_secs(30);
/// How long a broker may take to answer the subscription.
const SUBSCRIBE_LIMIT: Duration = Duration::from_secs(15);
/// The MQTT keep-alive, by which a dead link is noticed when nothing is sent.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// MQTT's own header and the topic around a frame.
const PACKET_OVERHEAD: usize = 256;

/// Why the uplink cannot even try to connect.
#[derive(Debug, Error)]
pub enum UplinkError {
    /// The broker's address is not one.
    #[error("not a broker address of the form mqtt://host:port or mqtts://host:port: {0:?}")]
    Address(String),
    /// The certificates that should vouch for the broker cannot be used.
    #[error("the CA certificates cannot be used: {0}")]
    Ca(String),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Where the broker listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerAddress {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether to speak TLS.
    pub tls: bool,
}

impl std::str::FromStr for BrokerAddress {
    type Err = UplinkError;

    fn from_str(text: &str) -> Result<Self, UplinkError> {
        let bad = || UplinkError::Address(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(bad)?;
        let (tls, default_port) = match scheme {
            "mqtt" | "tcp" => (false, 1883),
            "mqtts" | "ssl" => (true, 8883),
            _ => return Err(bad()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        // The last colon parts the port, unless it is inside the brackets of an IPv6 address.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| bad())?),
            Some(_) | None => (rest, default_port),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains(['/', '@', ' ']) {
            return Err(bad());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            tls,
        })
    }
}

/// Who speaks to which broker.
#[derive(Debug, Clone)]
pub struct UplinkConfig {
    /// The robot.
    pub robot: RobotId,
    /// What it shares with the relay.
    pub secret: Secret,
    /// The broker.
    pub broker: BrokerAddress,
    /// Certificates in PEM that may sign the broker's; the public ones where absent.
    pub ca: Option<String>,
    /// A random number that spreads the attempts of many robots.
    pub seed: u64,
}

/// What the event loop wants sent.
#[derive(Debug)]
pub enum Frame {
    /// To any relay.
    Hello(Epoch, Hello),
    /// To the relay of the session.
    Up(Epoch, RelayId, Up),
}

/// What came in.
#[derive(Debug)]
pub enum News {
    /// Connected and subscribed.
    Connected(ConnectionId),
    /// Not connected any more, or not yet; a sentence says why.
    Disconnected(String),
    /// A relay said something, under this epoch of the spool.
    Down(Epoch, Down),
}

/// The event loop's end of the uplink.
#[derive(Debug)]
pub struct Uplink {
    /// The durable lane and hellos.
    pub frames: mpsc::Sender<Frame>,
    /// The live lane, which overtakes the other.
    pub live: mpsc::Sender<(Epoch, RelayId, Dated)>,
    /// Counts up when a new connection is wanted.
    pub reconnect: watch::Sender<u64>,
    /// The epoch of the spool, under which the last will is sealed.
    pub epoch: watch::Sender<Epoch>,
    /// What came in.
    pub news: mpsc::Receiver<News>,
    /// The task, which ends when `stop` is true.
    pub task: JoinHandle<()>,
}

/// Starts the uplink.
///
/// # Errors
/// Where the configuration cannot work. A broker that is away is not an error.
pub fn spawn(
    config: UplinkConfig,
    epoch: Epoch,
    stop: watch::Receiver<bool>,
) -> Result<Uplink, UplinkError> {
    let transport = transport(&config)?;
    let (frames, waiting_frames) = mpsc::channel(FRAMES);
    let (live, waiting_live) = mpsc::channel(LIVE_FRAMES);
    let (told, news) = mpsc::channel(NEWS);
    let (reconnect, reconnects) = watch::channel(0);
    let (epoch, epochs) = watch::channel(epoch);
    let carrier = Carrier {
        keys: Keys::new(&config.secret),
        backoff: Backoff::new(RECONNECT_WAIT.0, RECONNECT_WAIT.1, config.seed),
        config,
        transport,
        outgoing: Outgoing {
            frames: waiting_frames,
            live: waiting_live,
        },
        news: told,
        reconnects,
        epochs,
        stop,
    };
    Ok(Uplink {
        frames,
        live,
        reconnect,
        epoch,
        news,
        task: tokio::spawn(carrier.run()),
    })
}

struct Carrier {
    config: UplinkConfig,
    keys: Keys,
    transport: Transport,
    backoff: Backoff,
    outgoing: Outgoing,
    news: mpsc::Sender<News>,
    reconnects: watch::Receiver<u64>,
    epochs: watch::Receiver<Epoch>,
    stop: watch::Receiver<bool>,
}

struct Outgoing {
    frames: mpsc::Receiver<Frame>,
    live: mpsc::Receiver<(Epoch, RelayId, Dated)>,
}

/// Why a connection ended.
enum Ended {
    Stopped,
    Broken(String),
}

impl Carrier {
    async fn run(mut self) {
        loop {
            let welcomed = Arc::new(AtomicBool::new(false));
            let reason = match self.connect_once(&welcomed).await {
                Ended::Stopped => return,
                Ended::Broken(reason) => reason,
            };
            // A broker that only lets us in is not yet a reason to come back soon.
            if welcomed.load(Ordering::Relaxed) {
                self.backoff.reset();
            }
            let wait = self.backoff.next_wait();
            info!(%reason, ?wait, "not connected to the relay's broker");
            if self.news.send(News::Disconnected(reason)).await.is_err() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.outgoing.discard() => return,
                _ = self.stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// One connection, from TCP to its end. Notes when a relay has welcomed the robot on it.
    async fn connect_once(&mut self, welcomed: &Arc<AtomicBool>) -> Ended {
        let Some((connection, options)) = self.options() else {
            return Ended::Broken("the operating system gives no random numbers".to_owned());
        };
        let (client, mut eventloop) = AsyncClient::new(options, CLIENT_PACKETS);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(NETWORK_LIMIT.as_secs());
        eventloop.set_network_options(network);

        let (up, is_up) = watch::channel(false);
        let receiver = Receiver {
            robot: self.config.robot,
            keys: self.keys.clone(),
            connection,
            client: client.clone(),
            news: self.news.clone(),
            up,
            welcomed: Arc::clone(welcomed),
        };
        // The client must be polled without pause, so it has a task of its own.
        let mut polling = AbortOnDrop(tokio::spawn(receiver.run(eventloop)));
        self.reconnects.mark_unchanged();
        let sender = Sender {
            robot: self.config.robot,
            keys: &self.keys,
            client: &client,
            is_up,
        };
        let ended = tokio::select! {
            reason = &mut polling.0 => Ended::Broken(
                reason.unwrap_or_else(|error| format!("the MQTT client failed: {error}")),
            ),
            reason = sender.run(&mut self.outgoing) => Ended::Broken(reason),
            _ = self.reconnects.changed() => {
                Ended::Broken("no relay answers on this connection".to_owned())
            }
            _ = self.stop.wait_for(|stop| *stop) => Ended::Stopped,
        };
        if matches!(ended, Ended::Stopped) {
            self.say_gone(&client, connection);
        }
        if matches!(ended, Ended::Stopped) && client.try_disconnect().is_ok() {
            // A farewell keeps the broker from publishing the last will. The task ends with it.
            tokio::time::timeout(Duration::from_secs(1), &mut polling.0)
                .await
                .ok();
        }
        ended
    }

    /// Says itself what the last will says when a connection breaks, or the relay would take the robot
    /// for silent only after three beats.
    fn say_gone(&self, client: &AsyncClient, connection: ConnectionId) {
        if let Some(gone) = self.seal(*self.epochs.borrow(), &Gone { connection }) {
            let topic = Topic::Presence(self.config.robot).to_string();
            client.try_publish(topic, QoS::AtMostOnce, false, gone).ok();
        }
    }

    fn options(&self) -> Option<(ConnectionId, MqttOptions)> {
        let config = &self.config;
        let connection = ConnectionId(getrandom::u64().ok()?);
        let gone = Gone { connection };
        let will = self.seal(*self.epochs.borrow(), &gone)?;
        let topic = Topic::Presence(config.robot).to_string();
        let id = format!("brrbrr-{}", config.robot);
        let mut options = MqttOptions::new(id, &config.broker.host, config.broker.port);
        options
            .set_transport(self.transport.clone())
            .set_keep_alive(KEEP_ALIVE)
            .set_clean_session(true)
            .set_credentials(
                config.robot.to_string(),
                config.secret.mqtt_password().reveal().as_str(),
            )
            .set_max_packet_size(
                MAX_FRAME_BYTES + PACKET_OVERHEAD,
                MAX_FRAME_BYTES + PACKET_OVERHEAD,
            )
            .set_last_will(LastWill::new(topic, will, QoS::AtMostOnce, false));
        Some((connection, options))
    }

    fn seal(&self, epoch: Epoch, gone: &Gone) -> Option<Vec<u8>> {
        seal(&self.keys, self.config.robot, epoch, gone)
    }
}

impl Outgoing {
    /// Throws away what the link wants sent while there is no connection: the link sends it again.
    /// Ends only when the event loop has.
    async fn discard(&mut self) {
        loop {
            let is_over = tokio::select! {
                frame = self.frames.recv() => frame.is_none(),
                live = self.live.recv() => live.is_none(),
            };
            if is_over {
                return;
            }
        }
    }
}

struct Sender<'a> {
    robot: RobotId,
    keys: &'a Keys,
    client: &'a AsyncClient,
    is_up: watch::Receiver<bool>,
}

impl Sender<'_> {
    /// Seals and publishes what waits, live frames first. Ends with the reason.
    async fn run(mut self, outgoing: &mut Outgoing) -> String {
        if self.is_up.wait_for(|up| *up).await.is_err() {
            // The polling task knows better why it ended, and is heard first.
            return std::future::pending().await;
        }
        loop {
            let packet = tokio::select! {
                biased;
                live = outgoing.live.recv() => match live {
                    Some((epoch, relay, live)) => {
                        self.packet(Topic::Live(relay, self.robot), epoch, &live)
                    }
                    None => return "the event loop ended".to_owned(),
                },
                frame = outgoing.frames.recv() => match frame {
                    Some(Frame::Hello(epoch, hello)) => {
                        self.packet(Topic::Hello(self.robot), epoch, &hello)
                    }
                    Some(Frame::Up(epoch, relay, up)) => {
                        self.packet(Topic::Up(relay, self.robot), epoch, &up)
                    }
                    None => return "the event loop ended".to_owned(),
                },
            };
            let Some((topic, frame)) = packet else {
                continue;
            };
            let sent = self
                .client
                .publish(topic, QoS::AtMostOnce, false, frame)
                .await;
            if sent.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn packet<M: Message>(
        &self,
        topic: Topic,
        epoch: Epoch,
        message: &M,
    ) -> Option<(String, Vec<u8>)> {
        let frame = seal(self.keys, self.robot, epoch, message)?;
        Some((topic.to_string(), frame))
    }
}

struct Receiver {
    robot: RobotId,
    keys: Keys,
    connection: ConnectionId,
    client: AsyncClient,
    news: mpsc::Sender<News>,
    up: watch::Sender<bool>,
    welcomed: Arc<AtomicBool>,
}

impl Receiver {
    /// Polls the client until it fails. Ends with the reason.
    async fn run(self, mut eventloop: EventLoop) -> String {
        let subscribed = tokio::time::timeout(
            NETWORK_LIMIT + SUBSCRIBE_LIMIT,
            self.subscribe(&mut eventloop),
        );
        match subscribed.await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => return reason,
            Err(_) => return "the broker did not answer in time".to_owned(),
        }
        info!(connection = %self.connection, "connected to the relay's broker");
        if self
            .news
            .send(News::Connected(self.connection))
            .await
            .is_err()
        {
            return "the event loop ended".to_owned();
        }
        self.up.send_replace(true);
        loop {
            match eventloop.poll().await {
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    let Some(news) = self.open(&publish.topic, &publish.payload) else {
                        continue;
                    };
                    if matches!(news, News::Down(_, Down::Welcome(_))) {
                        self.welcomed.store(true, Ordering::Relaxed);
                    }
                    if self.news.send(news).await.is_err() {
                        return "the event loop ended".to_owned();
                    }
                }
                Ok(Event::Incoming(Packet::Disconnect)) => {
                    return "the broker closed the connection".to_owned();
                }
                Ok(_) => {}
                Err(error) => return describe(&error),
            }
        }
    }

    async fn subscribe(&self, eventloop: &mut EventLoop) -> Result<(), String> {
        loop {
            match eventloop.poll().await.map_err(|error| describe(&error))? {
                Event::Incoming(Packet::ConnAck(_)) => {
                    let filter = Topic::Down(self.robot).to_string();
                    self.client
                        .try_subscribe(filter, QoS::AtMostOnce)
                        .map_err(|error| error.to_string())?;
                }
                Event::Incoming(Packet::SubAck(ack)) => {
                    let is_granted =
                        |code: &SubscribeReasonCode| !matches!(code, SubscribeReasonCode::Failure);
                    if ack.return_codes.iter().all(is_granted) {
                        return Ok(());
                    }
                    return Err("the broker refused the subscription".to_owned());
                }
                Event::Incoming(_) | Event::Outgoing(_) => {}
            }
        }
    }

    /// A frame that cannot be opened is dropped: the broker in between is not trusted.
    fn open(&self, topic: &str, payload: &[u8]) -> Option<News> {
        if topic != Topic::Down(self.robot).to_string() {
            debug!(topic, "frame on a topic that was not subscribed");
            return None;
        }
        match frame::open(&self.keys, self.robot, payload) {
            Ok((epoch, down)) => Some(News::Down(epoch, down)),
            Err(error) => {
                warn!(%error, "frame from the relay refused");
                None
            }
        }
    }
}

/// A task that ends with its owner.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn seal<M: Message>(keys: &Keys, robot: RobotId, epoch: Epoch, message: &M) -> Option<Vec<u8>> {
    let mut nonce = [0; NONCE_BYTES];
    getrandom::fill(&mut nonce)
        .inspect_err(|error| warn!(%error, "the operating system gives no random numbers"))
        .ok()?;
    frame::seal(keys, robot, epoch, &nonce, message)
        .inspect_err(|error: &FrameError| warn!(%error, "message does not fit into a frame"))
        .ok()
}

fn describe(error: &ConnectionError) -> String {
    if let ConnectionError::ConnectionRefused(code) = error {
        return format!("the broker refused the robot ({code:?}); is it enrolled there?");
    }
    error.to_string()
}

fn transport(config: &UplinkConfig) -> Result<Transport, UplinkError> {
    if !config.broker.tls {
        return Ok(Transport::tcp());
    }
    let mut roots = rustls::RootCertStore::empty();
    match &config.ca {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate =
                    certificate.map_err(|error| UplinkError::Ca(error.to_string()))?;
                roots.add(certificate)?;
            }
            if roots.is_empty() {
                return Err(UplinkError::Ca("no certificate in it".to_owned()));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Transport::tls_with_config(TlsConfiguration::Rustls(
        Arc::new(tls),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broker_addresses_are_urls_with_a_host() {
        let of = |host: &str, port, tls| BrokerAddress {
            host: host.to_owned(),
            port,
            tls,
        };
        for (text, address) in [
            ("mqtt://relay.example", of("relay.example", 1883, false)),
            ("mqtts://relay.example/", of("relay.example", 8883, true)),
            ("mqtt://127.0.0.1:1999", of("127.0.0.1", 1999, false)),
            ("mqtts://[::1]:8884", of("::1", 8884, true)),
            ("mqtts://[::1]", of("::1", 8883, true)),
        ] {
            assert_eq!(text.parse::<BrokerAddress>().unwrap(), address, "{text}");
        }
        for text in [
            "",
            "relay",
            "http://relay",
            "mqtt://",
            "mqtt://:1",
            "mqtt://a:x",
            "mqtt://u@a",
        ] {
            assert!(text.parse::<BrokerAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn certificates_that_are_none_are_refused() {
        let config = UplinkConfig {
            robot: RobotId::new(1).unwrap(),
            secret: Secret::new([1; 32]),
            broker: "mqtts://relay".parse().unwrap(),
            ca: Some("nothing".to_owned()),
            seed: 1,
        };
        assert!(matches!(transport(&config), Err(UplinkError::Ca(_))));
    }
}
