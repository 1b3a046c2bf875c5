//! The AMQP adapter against a real RabbitMQ and a robot that knows only the old contract.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use brrbrr_gateway::clock;
use brrbrr_gateway::robot::UNREADABLE;
use brrbrr_gateway::robot::amqp::wire::{UNRECOGNISED, Wire};
use brrbrr_gateway::robot::amqp::{AmqpConfig, QUEUE_FULL};
use brrbrr_gateway::robot::{
    self, HandOverError, RobotConfig, RobotHandle, RobotInput, RobotMessage,
};
use brrbrr_gateway::spool::SourceId;
use brrbrr_proto::down::{GoTo, Order};
use brrbrr_proto::id::CommandId;
use brrbrr_proto::live::Pose;
use brrbrr_proto::time::Uptime;
use futures_util::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ExchangeKind};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Far longer than anything takes here; only a failing test waits for so long.
const PATIENCE: Duration = Duration::from_secs(30);

fn broker_url() -> String {
    std::env::var("BRRBRR_TEST_AMQP_URL").unwrap_or_else(|_| {
        panic!(
            "BRRBRR_TEST_AMQP_URL names no RabbitMQ; start private servers with \
             `scripts/services run -- cargo nextest run -p brrbrr-gateway`"
        )
    })
}

/// Names of its own, so that tests do not meet each other in the same broker.
fn config(url: &str) -> AmqpConfig {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!(
        "test-{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    );
    AmqpConfig {
        url: url.parse().unwrap(),
        wire: Wire::Text,
        to_robot: format!("{name}-to"),
        from_robot: format!("{name}-from"),
        queue: format!("{name}-queue"),
        queue_length: 1000,
    }
}

async fn patiently<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("it takes too long")
}

/// A robot that declares what the old contract says and no more.
struct Robot {
    _connection: Connection,
    channel: Channel,
    consumer: Consumer,
    speaks_to: String,
}

impl Robot {
    async fn start(config: &AmqpConfig) -> Self {
        let connection = Connection::connect(&broker_url(), ConnectionProperties::default())
            .await
            .unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .unwrap();
        for exchange in [&config.to_robot, &config.from_robot] {
            channel
                .exchange_declare(
                    exchange.as_str().into(),
                    ExchangeKind::Fanout,
                    ExchangeDeclareOptions::default(),
                    FieldTable::default(),
                )
                .await
                .unwrap();
        }
        let queue = channel
            .queue_declare(
                "".into(),
                QueueDeclareOptions::exclusive(),
                FieldTable::default(),
            )
            .await
            .unwrap();
        channel
            .queue_bind(
                queue.name().clone(),
                config.to_robot.as_str().into(),
                "".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .unwrap();
        let no_ack = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        let consumer = channel
            .basic_consume(
                queue.name().clone(),
                "".into(),
                no_ack,
                FieldTable::default(),
            )
            .await
            .unwrap();
        Self {
            _connection: connection,
            channel,
            consumer,
            speaks_to: config.from_robot.clone(),
        }
    }

    async fn hears(&mut self) -> String {
        let delivery = patiently(self.consumer.next()).await.unwrap().unwrap();
        String::from_utf8(delivery.data).unwrap()
    }

    async fn says(&self, body: &[u8]) {
        self.says_with(body, BasicProperties::default()).await;
    }

    async fn says_with(&self, body: &[u8], properties: BasicProperties) {
        self.channel
            .basic_publish(
                self.speaks_to.as_str().into(),
                "".into(),
                BasicPublishOptions::default(),
                body,
                properties,
            )
            .await
            .unwrap()
            .await
            .unwrap();
    }

    /// How many messages wait in the gateway's queue and are with nobody.
    async fn waiting(&self, config: &AmqpConfig) -> u32 {
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::durable()
        };
        self.channel
            .queue_declare(config.queue.as_str().into(), passive, FieldTable::default())
            .await
            .unwrap()
            .message_count()
    }
}

struct Gateway {
    handle: RobotHandle,
    stop: watch::Sender<bool>,
}

impl Gateway {
    fn start(config: &AmqpConfig) -> Self {
        let (stop, stopped) = watch::channel(false);
        let handle = robot::spawn(RobotConfig::Amqp(config.clone()), 1, stopped);
        Self { handle, stop }
    }

    /// One that has heard all that was said before.
    async fn ready(config: &AmqpConfig) -> Self {
        let mut gateway = Self::start(config);
        gateway.until(&RobotMessage::Drained).await;
        gateway
    }

    async fn next(&mut self) -> RobotInput {
        patiently(self.handle.inputs.recv()).await.unwrap()
    }

    /// Accepts everything up to a message.
    async fn until(&mut self, message: &RobotMessage) {
        loop {
            let input = self.next().await;
            let found = input.message == *message;
            input.accept.accept();
            if found {
                return;
            }
        }
    }

    async fn order(&self, order: Order) -> Result<(), HandOverError> {
        let reply = self
            .handle
            .orders
            .execute(CommandId(1), order, in_a_minute())?;
        patiently(reply).await.unwrap()
    }

    async fn stop(self) {
        self.stop.send(true).unwrap();
        patiently(self.handle.task).await.unwrap();
    }
}

fn go_to() -> Order {
    let pose = Pose {
        x: 34.6,
        y: 445.6,
        theta: None,
    };
    Order::GoTo(GoTo {
        pose,
        floor: None,
        place: String::new(),
    })
}

const ARRIVED: RobotMessage = RobotMessage::Arrived {
    command: None,
    pose: None,
};

#[tokio::test]
async fn a_goal_reaches_the_robot_as_text_and_its_arrival_comes_back() {
    let config = config(&broker_url());
    let mut gateway = Gateway::ready(&config).await;
    let mut robot = Robot::start(&config).await;
    gateway.order(go_to()).await.unwrap();
    assert_eq!(robot.hears().await, "34.6,445.6");
    gateway.order(Order::Stop).await.unwrap();
    assert_eq!(robot.hears().await, "stop");
    robot.says("도착".as_bytes()).await;
    let input = gateway.next().await;
    assert_eq!((input.message, input.redelivered), (ARRIVED, false));
}

#[tokio::test]
async fn it_does_not_matter_that_the_robot_starts_first() {
    let config = config(&broker_url());
    let mut robot = Robot::start(&config).await;
    let gateway = Gateway::ready(&config).await;
    gateway.order(go_to()).await.unwrap();
    assert_eq!(robot.hears().await, "34.6,445.6");
}

#[tokio::test]
async fn commands_go_out_as_json_where_the_configuration_says_so() {
    let config = AmqpConfig {
        wire: Wire::Json,
        ..config(&broker_url())
    };
    let gateway = Gateway::ready(&config).await;
    let mut robot = Robot::start(&config).await;
    gateway.order(Order::Stop).await.unwrap();
    let id = CommandId(1);
    let expected = format!(r#"{{"command":{{"id":"{id}","kind":"stop"}}}}"#);
    assert_eq!(robot.hears().await, expected);
}

#[tokio::test]
async fn an_order_without_a_robot_is_known_not_to_have_arrived() {
    let config = config(&broker_url());
    let gateway = Gateway::ready(&config).await;
    let Err(HandOverError::Away(why)) = gateway.order(go_to()).await else {
        panic!("somebody took it");
    };
    assert!(why.contains("no robot is listening"), "{why}");
}

#[tokio::test]
async fn an_order_whose_time_passed_while_the_board_slept_is_not_published() {
    let config = config(&broker_url());
    let gateway = Gateway::ready(&config).await;
    let mut robot = Robot::start(&config).await;
    // The deadline is a moment of the clock that goes on in the board's sleep, and the adapter asks
    // that clock itself: it may be long past by the time the order is here.
    let past = clock::uptime();
    let orders = &gateway.handle.orders;
    let reply = orders.execute(CommandId(1), go_to(), past).unwrap();
    let Err(HandOverError::Away(why)) = patiently(reply).await.unwrap() else {
        panic!("it was published");
    };
    assert!(why.contains("its time passed"), "{why}");
    gateway.order(Order::Stop).await.unwrap();
    assert_eq!(robot.hears().await, "stop");
}

#[tokio::test]
async fn an_order_that_the_robot_has_no_word_for_is_refused() {
    let config = config(&broker_url());
    let gateway = Gateway::ready(&config).await;
    let refused = gateway.order(Order::Pause).await;
    assert!(matches!(refused, Err(HandOverError::Refused(_))));
}

#[tokio::test]
async fn what_the_robot_says_while_the_gateway_is_away_waits_and_comes_first() {
    let config = config(&broker_url());
    Gateway::ready(&config).await.stop().await;
    let robot = Robot::start(&config).await;
    for number in 0..3 {
        let name = format!("message-{number}");
        let properties = BasicProperties::default().with_message_id(name.into());
        robot.says_with("도착".as_bytes(), properties).await;
    }
    let mut gateway = Gateway::start(&config);
    let first = gateway.next().await.message;
    assert_eq!(first, RobotMessage::Connected { backlog: 3 });
    for number in 0..3 {
        let input = gateway.next().await;
        assert_eq!(input.message, ARRIVED);
        assert_eq!(input.source, Some(SourceId(format!("message-{number}"))));
        input.accept.accept();
    }
    assert_eq!(gateway.next().await.message, RobotMessage::Drained);
}

#[tokio::test]
async fn a_message_that_was_not_accepted_comes_again_before_the_queue_counts_as_drained() {
    let config = config(&broker_url());
    let mut gateway = Gateway::ready(&config).await;
    let robot = Robot::start(&config).await;
    robot.says("도착".as_bytes()).await;
    let lost = gateway.next().await;
    // As a SIGKILL does: the connection is gone, and nobody said that the message is kept.
    gateway.handle.task.abort();
    let mut gateway = Gateway::start(&config);
    let mut seen = Vec::new();
    while seen.last() != Some(&RobotMessage::Drained) {
        let input = gateway.next().await;
        assert_eq!(input.redelivered, input.message == ARRIVED);
        seen.push(input.message);
        input.accept.accept();
    }
    assert_eq!(seen.iter().filter(|said| **said == ARRIVED).count(), 1);
    drop(lost);
}

#[tokio::test]
async fn a_message_is_acknowledged_only_when_it_was_accepted() {
    let config = config(&broker_url());
    let mut gateway = Gateway::ready(&config).await;
    let robot = Robot::start(&config).await;
    robot.says("도착".as_bytes()).await;
    robot.says(b"{\"status\":{}}").await;
    drop(gateway.next().await);
    gateway.next().await.accept.accept();
    assert_eq!(gateway.next().await.message, RobotMessage::Again);
    let again = gateway.next().await;
    assert_eq!((again.message, again.redelivered), (ARRIVED, true));
    again.accept.accept();
    // A stop lets what was accepted be acknowledged first.
    gateway.stop().await;
    let mut gateway = Gateway::start(&config);
    let first = gateway.next().await.message;
    assert_eq!(first, RobotMessage::Connected { backlog: 0 });
    assert_eq!(gateway.next().await.message, RobotMessage::Drained);
    assert_eq!(robot.waiting(&config).await, 0);
}

#[tokio::test]
async fn what_is_not_accepted_comes_again_in_its_order_before_what_is_said_later() {
    let config = config(&broker_url());
    let mut gateway = Gateway::ready(&config).await;
    let robot = Robot::start(&config).await;
    let named = |number: u32| BasicProperties::default().with_message_id(number.to_string().into());
    for number in 0..5 {
        robot.says_with("도착".as_bytes(), named(number)).await;
    }
    let source = |input: &RobotInput| input.source.clone().map(|source| source.0);
    let first = gateway.next().await;
    assert_eq!(source(&first).as_deref(), Some("0"));
    first.accept.accept();
    for _ in 1..5 {
        drop(gateway.next().await);
    }
    robot.says_with("도착".as_bytes(), named(5)).await;
    drop(gateway.next().await);
    assert_eq!(gateway.next().await.message, RobotMessage::Again);
    let mut seen = Vec::new();
    for _ in 1..6 {
        let input = gateway.next().await;
        seen.extend(source(&input));
        input.accept.accept();
    }
    assert_eq!(seen, ["1", "2", "3", "4", "5"]);
}

#[tokio::test]
async fn messages_that_make_no_sense_do_no_harm() {
    let config = config(&broker_url());
    let mut gateway = Gateway::ready(&config).await;
    let robot = Robot::start(&config).await;
    robot.says(&[0xff, 0xfe]).await;
    robot.says(&vec![b'x'; 1_000_000]).await;
    robot.says(b"").await;
    robot.says(&b"[".repeat(30_000)).await;
    robot.says(b"{\"event\":{\"kind\":7}}").await;
    robot.says("도착".as_bytes()).await;
    for kind in [
        UNREADABLE,
        UNREADABLE,
        UNRECOGNISED,
        UNREADABLE,
        UNRECOGNISED,
    ] {
        let RobotMessage::Custom(custom) = gateway.next().await.message else {
            panic!("it made sense");
        };
        assert_eq!(custom.kind, kind);
    }
    assert_eq!(gateway.next().await.message, ARRIVED);
    let unreadable = &gateway.handle.counters.unreadable;
    assert_eq!(unreadable.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_queue_that_overflows_while_the_gateway_is_away_is_reported_and_drained() {
    let mut config = config(&broker_url());
    config.queue_length = 5;
    Gateway::ready(&config).await.stop().await;
    let robot = Robot::start(&config).await;
    for _ in 0..8 {
        robot.says("도착".as_bytes()).await;
    }
    let mut gateway = Gateway::start(&config);
    let connected = gateway.next().await.message;
    assert_eq!(connected, RobotMessage::Connected { backlog: 5 });
    let RobotMessage::Alarm(alarm) = gateway.next().await.message else {
        panic!("it is not told");
    };
    assert_eq!(alarm.code, QUEUE_FULL);
    // The marker finds the queue full, or pushes out a message itself; it comes back all the same.
    gateway.until(&RobotMessage::Drained).await;
}

#[tokio::test]
async fn a_queue_that_somebody_deletes_is_made_again() {
    let config = config(&broker_url());
    let mut gateway = Gateway::ready(&config).await;
    let robot = Robot::start(&config).await;
    robot
        .channel
        .queue_delete(config.queue.as_str().into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    let input = gateway.next().await;
    assert!(matches!(input.message, RobotMessage::Disconnected { .. }));
    gateway.until(&RobotMessage::Drained).await;
    robot.says("도착".as_bytes()).await;
    assert_eq!(gateway.next().await.message, ARRIVED);
}

#[tokio::test]
async fn a_queue_that_was_declared_differently_is_named_with_what_to_do() {
    let config = config(&broker_url());
    Gateway::ready(&config).await.stop().await;
    let changed = AmqpConfig {
        queue_length: 5,
        ..config.clone()
    };
    let mut gateway = Gateway::start(&changed);
    let RobotMessage::Disconnected { reason } = gateway.next().await.message else {
        panic!("it was taken");
    };
    assert!(reason.contains(&config.queue), "{reason}");
    assert!(reason.contains("delete it there"), "{reason}");
}

#[tokio::test]
async fn a_second_gateway_does_not_take_messages_from_the_first() {
    let config = config(&broker_url());
    let mut first = Gateway::ready(&config).await;
    let robot = Robot::start(&config).await;
    let mut second = Gateway::start(&config);
    let refused = second.next().await.message;
    assert!(
        matches!(refused, RobotMessage::Disconnected { .. }),
        "{refused:?}"
    );
    robot.says("도착".as_bytes()).await;
    assert_eq!(first.next().await.message, ARRIVED);
}

/// A way to the broker that can be cut.
struct Road {
    port: u16,
    task: JoinHandle<()>,
}

impl Road {
    async fn open(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = broker_url();
        let broker = url.rsplit('@').next().unwrap().to_owned();
        let broker = broker.split('/').next().unwrap().to_owned();
        let task = tokio::spawn(async move {
            let mut ways = tokio::task::JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let mut far = TcpStream::connect(&broker).await.unwrap();
                ways.spawn(async move {
                    tokio::io::copy_bidirectional(&mut near, &mut far)
                        .await
                        .ok();
                });
            }
        });
        Self { port, task }
    }

    /// Ends all connections and takes no new ones.
    async fn cut(self) {
        self.task.abort();
        self.task.await.ok();
    }
}

#[tokio::test]
async fn a_connection_that_breaks_is_made_anew_and_orders_meanwhile_are_known_not_to_arrive() {
    let road = Road::open(0).await;
    let port = road.port;
    let config = config(&format!("amqp://guest:guest@127.0.0.1:{port}/%2f"));
    let mut gateway = Gateway::ready(&config).await;
    let mut robot = Robot::start(&config).await;
    road.cut().await;
    let input = gateway.next().await;
    assert!(matches!(input.message, RobotMessage::Disconnected { .. }));
    let order = gateway.order(go_to()).await;
    assert!(matches!(order, Err(HandOverError::Away(_))), "{order:?}");
    robot.says("도착".as_bytes()).await;

    let _road = Road::open(port).await;
    let input = gateway.next().await;
    assert!(matches!(input.message, RobotMessage::Connected { .. }));
    let input = gateway.next().await;
    assert_eq!(input.message, ARRIVED);
    input.accept.accept();
    assert_eq!(gateway.next().await.message, RobotMessage::Drained);
    gateway.order(go_to()).await.unwrap();
    assert_eq!(robot.hears().await, "34.6,445.6");
}

#[tokio::test]
async fn a_password_is_never_shown() {
    let config = config("amqp://guest:secret@127.0.0.1:5672/%2f");
    assert!(!format!("{config:?}").contains("secret"));
    assert!(!config.url.to_string().contains("secret"));
}

fn in_a_minute() -> Uptime {
    clock::uptime().plus(Duration::from_secs(60))
}
