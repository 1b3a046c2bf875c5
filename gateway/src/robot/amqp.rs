//! A robot behind `RabbitMQ`: orders go to one fanout exchange, what the robot says comes from
//! another through a durable queue of our own, so that it waits there while the gateway is away.
//!
//! Whatever breaks, the connection is given up and made anew with all exchanges, queues and
//! bindings; it does not matter who of robot, broker and gateway starts first. After each
//! connection a marker is sent through the queue: when it comes back, all that was said before has
//! been heard. The consumer is exclusive, so it begins only after the broker has noticed the end of
//! an earlier one and has put back what that one had not acknowledged.
//!
//! An order's deadline is asked for right before it is published, by the clock that goes on while the
//! board sleeps, and a motion carries the rest of its time as the broker's own time to live. Only a
//! board that falls asleep between the broker and a robot that is slow to take its orders can make one
//! late: a broker's clock need not go on in its sleep.

pub mod wire;

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use brrbrr_proto::backoff::Backoff;
use brrbrr_proto::down::Order;
use brrbrr_proto::up::{Alarm, Severity};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture};
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    BasicRecoverOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ErrorKind,
    ExchangeKind, PublisherConfirm,
};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use self::wire::Wire;
use super::{Accept, HandOverError, RobotCounters, RobotInput, RobotMessage, RobotOrder};
use crate::clock;
use crate::spool::{MAX_SOURCE_BYTES, SourceId};

/// How many messages of the robot may be on their way into the spool.
const PREFETCH: u16 = 64;

/// How many orders may wait for the broker's word.
const CONFIRMS_MAX: usize = 16;

/// How long the broker may take to confirm an order. After that nobody knows whether it has it.
const CONFIRM_LIMIT: Duration = Duration::from_secs(5);

/// How long connecting and declaring everything may take.
const SETUP_LIMIT: Duration = Duration::from_secs(10);

/// How long to wait before a message that could not be stored is asked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// How long a stopping adapter waits for the next message to become durable.
const WIND_DOWN: Duration = Duration::from_millis(500);

const RECONNECT_SHORTEST: Duration = Duration::from_millis(200);
/// The broker is near, so a short wait costs nobody much, and a person may be waiting.
const RECONNECT_LONGEST: Duration = Duration::from_secs(3);

/// Frames as small as the messages are; larger ones cost memory for every buffer.
const FRAME_MAX: u32 = 32 * 1024;

/// Seconds after which a silent broker counts as gone.
const HEARTBEAT: u16 = 10;

/// Messages that cannot be understood are logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(60);

const MARKER: &str = "brrbrr-marker-";

/// How long a marker may take before another is sent: a full queue may have pushed it out.
const MARKER_LIMIT: Duration = Duration::from_secs(5);

/// The code of the alarm that says that the gateway's queue was full.
pub const QUEUE_FULL: &str = "robot_queue_full";

/// An AMQP address. It is never shown with its password.
#[derive(Clone, PartialEq, Eq)]
pub struct AmqpUrl(AMQPUri);

impl FromStr for AmqpUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut uri: AMQPUri = text
            .parse()
            .map_err(|reason| format!("not an AMQP address like amqp://host:5672/%2f: {reason}"))?;
        uri.query.frame_max.get_or_insert(FRAME_MAX);
        uri.query.heartbeat.get_or_insert(HEARTBEAT);
        Ok(Self(uri))
    }
}

impl fmt::Display for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPUri {
            scheme,
            authority,
            vhost,
            ..
        } = &self.0;
        write!(
            f,
            "{scheme}://{}:{}/{vhost}",
            authority.host, authority.port
        )
    }
}

impl fmt::Debug for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where the robot's broker is and what is spoken there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmqpConfig {
    /// The robot's broker.
    pub url: AmqpUrl,
    /// How orders are written.
    pub wire: Wire,
    /// The exchange that the robot listens to.
    pub to_robot: String,
    /// The exchange that the robot speaks to.
    pub from_robot: String,
    /// The gateway's own queue.
    pub queue: String,
    /// How many messages that queue keeps while the gateway is away; the oldest go first.
    pub queue_length: u32,
}

/// AMQP's code for a declaration that contradicts an earlier one.
const PRECONDITION_FAILED: u16 = 406;

/// Why there is no connection any more.
#[derive(Debug, Error)]
enum Broken {
    #[error("{0}")]
    Amqp(lapin::Error),
    #[error(
        "{0}; somebody has declared it differently: delete it there, or give another name here \
         (robot.amqp.queue, to_robot, from_robot)"
    )]
    Declared(lapin::Error),
    #[error("the connection was not ready within {} s", SETUP_LIMIT.as_secs())]
    Setup,
    #[error("the broker did not answer within {} s", CONFIRM_LIMIT.as_secs())]
    Silent,
    #[error("the broker ended the consumer, is the queue gone")]
    ConsumerEnded,
    #[error("no random number to be had: {0}")]
    NoRandomness(getrandom::Error),
    #[error("the name {0:?} is too long for AMQP")]
    Name(String),
}

impl From<lapin::Error> for Broken {
    fn from(error: lapin::Error) -> Self {
        if let ErrorKind::ProtocolError(said) = error.kind()
            && said.get_id() == PRECONDITION_FAILED
        {
            return Self::Declared(error);
        }
        Self::Amqp(error)
    }
}

/// Runs the adapter until `stop` becomes true, its sender is gone, or nobody listens any more.
pub(super) async fn run(
    config: AmqpConfig,
    seed: u64,
    counters: Arc<RobotCounters>,
    mut orders: mpsc::Receiver<RobotOrder>,
    inputs: mpsc::Sender<RobotInput>,
    mut stop: watch::Receiver<bool>,
) {
    let mut backoff = Backoff::new(RECONNECT_SHORTEST, RECONNECT_LONGEST, seed);
    let mut was_told = false;
    loop {
        let setup = async {
            let opened = timeout(SETUP_LIMIT, Session::open(&config));
            opened.await.unwrap_or(Err(Broken::Setup))
        };
        let Some(opened) = refusing(&mut orders, &mut stop, setup).await else {
            return;
        };
        let broken = match opened {
            Ok(mut session) => {
                was_told = false;
                let carried = session.carry(&config, &counters, &mut orders, &inputs, &mut backoff);
                let broken = tokio::select! {
                    biased;
                    () = is_stopped(&mut stop) => None,
                    broken = carried => Some(broken),
                };
                let Some(broken) = broken else {
                    return session.wind_down().await;
                };
                broken
            }
            Err(broken) => broken,
        };
        // Told once a disconnection, not once an attempt.
        if !was_told {
            let reason = format!("the robot's broker at {}: {broken}", config.url);
            let message = RobotMessage::Disconnected { reason };
            let told = inputs.send(RobotInput::own(message));
            match refusing(&mut orders, &mut stop, told).await {
                Some(Ok(())) => was_told = true,
                Some(Err(_)) | None => return,
            }
        }
        counters.reconnects.fetch_add(1, Ordering::Relaxed);
        let pause = tokio::time::sleep(backoff.next_wait());
        if refusing(&mut orders, &mut stop, pause).await.is_none() {
            return;
        }
    }
}

/// Waits until the adapter is to stop. A sender that is gone says so as well.
async fn is_stopped(stop: &mut watch::Receiver<bool>) {
    stop.wait_for(|stop| *stop).await.ok();
}

/// Waits for `work` and refuses the orders that come meanwhile. Nothing, if the adapter is to stop.
async fn refusing<T>(
    orders: &mut mpsc::Receiver<RobotOrder>,
    stop: &mut watch::Receiver<bool>,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            () = is_stopped(stop) => return None,
            done = &mut work => return Some(done),
            Some(order) = orders.recv() => {
                let why = "the robot's broker is away".to_owned();
                order.reply.send(Err(HandOverError::Away(why))).ok();
            }
        }
    }
}

/// What became of a message that the event loop has.
enum Settled {
    Accepted(u64),
    Dropped,
}

/// What became of an order, and who wants to know.
type Confirmed = (oneshot::Sender<Result<(), HandOverError>>, Verdict);

struct Verdict {
    result: Result<(), HandOverError>,
    /// Whether the connection cannot be trusted any more.
    broken: bool,
}

struct Session {
    /// Dropping it closes the connection.
    _connection: Connection,
    channel: Channel,
    consumer: Consumer,
    queue: ShortString,
    marker: String,
    /// When the next marker is due, until one has come back.
    marker_due: Option<tokio::time::Instant>,
    backlog: u32,
    confirms: FuturesUnordered<BoxFuture<'static, Confirmed>>,
    settles: FuturesUnordered<BoxFuture<'static, Settled>>,
    /// A message was not accepted: when to have the broker deliver again all that were not. Until then
    /// nothing but statuses is accepted, so what is durable keeps its order.
    again_at: Option<tokio::time::Instant>,
    /// What the event loop has not yet taken. Bounded by [`PREFETCH`] and two words of our own.
    heard: VecDeque<RobotInput>,
    logged: Option<Instant>,
}

impl Session {
    async fn open(config: &AmqpConfig) -> Result<Self, Broken> {
        let properties =
            ConnectionProperties::default().with_connection_name("brrbrr-gateway".into());
        let connection = Connection::connect_uri(config.url.0.clone(), properties).await?;
        let channel = connection.create_channel().await?;
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await?;
        channel
            .basic_qos(PREFETCH, BasicQosOptions::default())
            .await?;
        let to_robot = short(&config.to_robot)?;
        let from_robot = short(&config.from_robot)?;
        let queue = short(&config.queue)?;
        for exchange in [to_robot, from_robot.clone()] {
            let options = ExchangeDeclareOptions::default();
            let arguments = FieldTable::default();
            channel
                .exchange_declare(exchange, ExchangeKind::Fanout, options, arguments)
                .await?;
        }
        let mut arguments = FieldTable::default();
        let length = AMQPValue::LongLongInt(i64::from(config.queue_length));
        arguments.insert("x-max-length".into(), length);
        let declared = channel
            .queue_declare(queue.clone(), QueueDeclareOptions::durable(), arguments)
            .await?;
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        channel
            .queue_bind(queue.clone(), from_robot, "".into(), options, arguments)
            .await?;
        let exclusive = BasicConsumeOptions {
            exclusive: true,
            ..BasicConsumeOptions::default()
        };
        let consumer = channel
            .basic_consume(queue.clone(), "".into(), exclusive, FieldTable::default())
            .await?;
        let marker = getrandom::u64().map_err(Broken::NoRandomness)?;
        let marker = format!("{MARKER}{marker:016x}");
        Ok(Self {
            _connection: connection,
            channel,
            consumer,
            queue,
            marker,
            marker_due: Some(tokio::time::Instant::now()),
            backlog: declared.message_count(),
            confirms: FuturesUnordered::new(),
            settles: FuturesUnordered::new(),
            again_at: None,
            heard: VecDeque::new(),
            logged: None,
        })
    }

    /// Carries orders and messages until something breaks. What comes first in a turn: the
    /// broker's word on orders, acknowledgements, orders, then what the robot says.
    async fn carry(
        &mut self,
        config: &AmqpConfig,
        counters: &RobotCounters,
        orders: &mut mpsc::Receiver<RobotOrder>,
        inputs: &mpsc::Sender<RobotInput>,
        backoff: &mut Backoff,
    ) -> Broken {
        let backlog = u64::from(self.backlog);
        let connected = RobotMessage::Connected { backlog };
        self.heard.push_back(RobotInput::own(connected));
        if self.backlog >= config.queue_length {
            let alarm = Alarm {
                code: QUEUE_FULL.to_owned(),
                severity: Severity::Warning,
                text: format!(
                    "the queue {} held its {} messages while the gateway was away; older ones may \
                     have been pushed out",
                    config.queue, config.queue_length
                ),
            };
            let alarm = RobotMessage::Alarm(alarm);
            self.heard.push_back(RobotInput::own(alarm));
        }
        loop {
            let done = tokio::select! {
                biased;
                Some((reply, verdict)) = self.confirms.next() => {
                    reply.send(verdict.result).ok();
                    if verdict.broken { Err(Broken::Silent) } else { Ok(()) }
                }
                Some(settled) = self.settles.next() => self.settle(settled).await,
                () = sleep_until(self.again_at), if self.settles.is_empty() => {
                    self.deliver_again().await
                }
                Some(order) = orders.recv(), if self.confirms.len() < CONFIRMS_MAX => {
                    counters.orders.fetch_add(1, Ordering::Relaxed);
                    self.publish(config, order).await
                }
                Ok(place) = inputs.reserve(), if !self.heard.is_empty() => {
                    if let Some(input) = self.heard.pop_front() {
                        place.send(input);
                    }
                    Ok(())
                }
                () = sleep_until(self.marker_due) => self.send_marker().await,
                delivery = self.consumer.next(), if !self.is_due_again() => match delivery {
                    Some(Ok(delivery)) => self.hear(&delivery, counters, backoff).await,
                    Some(Err(error)) => Err(Broken::Amqp(error)),
                    None => Err(Broken::ConsumerEnded),
                },
            };
            if let Err(broken) = done {
                return broken;
            }
        }
    }

    /// Acknowledges what is becoming durable and hears of orders on their way, until nothing more
    /// comes. What is left is delivered again after the next start.
    async fn wind_down(mut self) {
        // What was not passed on will not be accepted.
        self.heard.clear();
        while !(self.confirms.is_empty() && self.settles.is_empty()) {
            let done = tokio::select! {
                Some((reply, verdict)) = self.confirms.next() => {
                    reply.send(verdict.result).ok();
                    Ok(())
                }
                Some(settled) = self.settles.next() => self.settle(settled).await,
                () = tokio::time::sleep(WIND_DOWN) => return,
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// Sends the marker through the gateway's own queue. When one comes back, everything that was in
    /// the queue before has been heard.
    async fn send_marker(&mut self) -> Result<(), Broken> {
        let properties = BasicProperties::default().with_message_id(short(&self.marker)?);
        let (queue, options) = (self.queue.clone(), BasicPublishOptions::default());
        let sent = async {
            let publish = self
                .channel
                .basic_publish("".into(), queue, options, b"", properties);
            publish.await?.await
        };
        timeout(CONFIRM_LIMIT, sent)
            .await
            .map_err(|_| Broken::Silent)??;
        self.marker_due = Some(tokio::time::Instant::now() + MARKER_LIMIT);
        Ok(())
    }

    async fn settle(&mut self, settled: Settled) -> Result<(), Broken> {
        match settled {
            Settled::Accepted(tag) => acknowledge(&self.channel, tag).await,
            Settled::Dropped => {
                let at = tokio::time::Instant::now() + AGAIN;
                self.again_at.get_or_insert(at);
                Ok(())
            }
        }
    }

    /// Whether nothing more is taken until what was not accepted comes again.
    fn is_due_again(&self) -> bool {
        self.again_at
            .is_some_and(|at| at <= tokio::time::Instant::now())
    }

    /// Has everything delivered again that is not acknowledged, in its order.
    async fn deliver_again(&mut self) -> Result<(), Broken> {
        let recover = self
            .channel
            .basic_recover(BasicRecoverOptions { requeue: true });
        timeout(CONFIRM_LIMIT, recover)
            .await
            .map_err(|_| Broken::Silent)??;
        self.again_at = None;
        self.heard.push_back(RobotInput::own(RobotMessage::Again));
        Ok(())
    }

    async fn publish(&mut self, config: &AmqpConfig, order: RobotOrder) -> Result<(), Broken> {
        let RobotOrder {
            id,
            order,
            deadline,
            reply,
        } = order;
        let body = match wire::encode(config.wire, id, &order) {
            Ok(body) => body,
            Err(error) => {
                let refused = HandOverError::Refused(error.to_string());
                reply.send(Err(refused)).ok();
                return Ok(());
            }
        };
        let mandatory = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let exchange = short(&config.to_robot)?;
        // The board may have slept since the order was handed over. Whatever comes after this is
        // between the broker, which is told the rest of its time, and the robot.
        let left = deadline.since(clock::uptime());
        if left.is_zero() {
            // It waited here for too long. Nothing was published, so it may be given up in peace.
            let late = HandOverError::Away("its time passed on the way to the robot".to_owned());
            reply.send(Err(late)).ok();
            return Ok(());
        }
        let mut properties = BasicProperties::default();
        if !matches!(order, Order::Stop | Order::Pause) {
            // A robot that hangs must not find it in its queue long after it was wanted. To halt late is
            // better than not to halt.
            properties = properties.with_expiration(short(&left.as_millis().to_string())?);
        }
        let publish = self
            .channel
            .basic_publish(exchange, "".into(), mandatory, &body, properties);
        match timeout(CONFIRM_LIMIT, publish).await {
            Ok(Ok(confirm)) => {
                let exchange = config.to_robot.clone();
                let verdict = async move { (reply, verdict(confirm, &exchange).await) };
                self.confirms.push(verdict.boxed());
                Ok(())
            }
            Ok(Err(error)) => {
                let was_closed = matches!(
                    error.kind(),
                    ErrorKind::InvalidChannelState(..) | ErrorKind::InvalidConnectionState(_)
                );
                let why = error.to_string();
                let failed = match was_closed {
                    true => HandOverError::Away(why),
                    false => HandOverError::Unknown(why),
                };
                reply.send(Err(failed)).ok();
                Err(Broken::Amqp(error))
            }
            Err(_) => {
                let why = Broken::Silent.to_string();
                reply.send(Err(HandOverError::Unknown(why))).ok();
                Err(Broken::Silent)
            }
        }
    }

    async fn hear(
        &mut self,
        delivery: &Delivery,
        counters: &RobotCounters,
        backoff: &mut Backoff,
    ) -> Result<(), Broken> {
        let name = delivery.properties.message_id().as_ref();
        let name = name.map(ShortString::as_str);
        if delivery.exchange.as_str().is_empty()
            && let Some(marker) = name.filter(|name| name.starts_with(MARKER))
        {
            if marker == self.marker && self.marker_due.take().is_some() {
                backoff.reset();
                self.heard.push_back(RobotInput::own(RobotMessage::Drained));
            }
            return acknowledge(&self.channel, delivery.delivery_tag).await;
        }
        counters.messages.fetch_add(1, Ordering::Relaxed);
        let message = match wire::decode(&delivery.data) {
            Ok(message) => message,
            Err(reason) => {
                counters.unreadable.fetch_add(1, Ordering::Relaxed);
                if self.logged.is_none_or(|at| at.elapsed() > LOG_EVERY) {
                    self.logged = Some(Instant::now());
                    tracing::warn!(%reason, "a message of the robot cannot be kept");
                }
                RobotMessage::Custom(super::unreadable(&reason.to_string()))
            }
        };
        let (accept, accepted) = Accept::new();
        let tag = delivery.delivery_tag;
        let settled = async move {
            match accepted.await {
                Ok(()) => Settled::Accepted(tag),
                Err(_) => Settled::Dropped,
            }
        };
        self.settles.push(settled.boxed());
        let source = name.filter(|name| !name.is_empty() && name.len() <= MAX_SOURCE_BYTES);
        self.heard.push_back(RobotInput {
            message,
            source: source.map(|name| SourceId(name.to_owned())),
            redelivered: delivery.redelivered,
            accept,
        });
        Ok(())
    }
}

async fn acknowledge(channel: &Channel, tag: u64) -> Result<(), Broken> {
    let options = BasicAckOptions::default();
    let done = timeout(CONFIRM_LIMIT, channel.basic_ack(tag, options));
    Ok(done.await.map_err(|_| Broken::Silent)??)
}

async fn verdict(confirm: PublisherConfirm, exchange: &str) -> Verdict {
    let (result, broken) = match timeout(CONFIRM_LIMIT, confirm).await {
        Ok(Ok(Confirmation::Ack(None))) => (Ok(()), false),
        Ok(Ok(Confirmation::Ack(Some(_)))) => {
            let why = format!("no robot is listening to the exchange {exchange}");
            (Err(HandOverError::Away(why)), false)
        }
        Ok(Ok(Confirmation::Nack(_))) => {
            let why = "the robot's broker refused the order".to_owned();
            (Err(HandOverError::Away(why)), false)
        }
        Ok(Ok(Confirmation::NotRequested)) => {
            let why = "the robot's broker confirms nothing".to_owned();
            (Err(HandOverError::Unknown(why)), true)
        }
        Ok(Err(error)) => {
            let why = format!("the connection broke before the order was confirmed: {error}");
            (Err(HandOverError::Unknown(why)), true)
        }
        Err(_) => (
            Err(HandOverError::Unknown(Broken::Silent.to_string())),
            true,
        ),
    };
    Verdict { result, broken }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn short(name: &str) -> Result<ShortString, Broken> {
    ShortString::try_new(name).map_err(|_| Broken::Name(name.to_owned()))
}
