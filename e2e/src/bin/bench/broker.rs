//! The robot's end of its broker, and a plain MQTT client for the floor, each on a thread of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use rumqttc::{Client, Event, Incoming, MqttOptions, QoS};

/// Far more than are on their way at a time.
const WAITING: usize = 1_024;
const LIMIT: Duration = Duration::from_secs(30);
const TO_ROBOT: &str = "serverToRobot";
const FROM_ROBOT: &str = "robotToServer";

/// A robot that notes when it is told something.
#[derive(Debug)]
pub struct Robot {
    told: Receiver<(Instant, String)>,
}

impl Robot {
    /// One that is wherever it is told to be at once.
    pub fn start(url: &str) -> Self {
        Self::start_at(url, true)
    }

    /// One that never arrives.
    pub fn start_dawdling(url: &str) -> Self {
        Self::start_at(url, false)
    }

    fn start_at(url: &str, arrives: bool) -> Self {
        let (tell, told) = sync_channel(WAITING);
        let (ready, begun) = sync_channel(1);
        let url = url.to_owned();
        std::thread::spawn(move || on_a_runtime(serve(&url, arrives, &tell, &ready)));
        begun.recv_timeout(LIMIT).expect("the robot's broker");
        Self { told }
    }

    /// When the next goal came, and what it was.
    pub fn next(&self) -> (Instant, String) {
        self.told.recv_timeout(LIMIT).expect("a goal for the robot")
    }
}

async fn serve(
    url: &str,
    arrives: bool,
    tell: &SyncSender<(Instant, String)>,
    ready: &SyncSender<()>,
) {
    let (_connection, channel) = connect(url).await;
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let queue = channel.queue_declare("".into(), options, FieldTable::default());
    let queue = queue.await.unwrap().name().clone();
    let nothing = FieldTable::default;
    let bind = channel.queue_bind(
        queue.clone(),
        TO_ROBOT.into(),
        "".into(),
        QueueBindOptions::default(),
        nothing(),
    );
    bind.await.unwrap();
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let consumer = channel.basic_consume(queue, "robot".into(), options, nothing());
    let mut consumer = consumer.await.unwrap();
    ready.send(()).unwrap();
    while let Some(delivery) = consumer.next().await {
        let now = Instant::now();
        let goal = String::from_utf8(delivery.unwrap().data).unwrap();
        if arrives {
            publish(&channel, FROM_ROBOT, "도착".as_bytes()).await;
        }
        if tell.send((now, goal)).is_err() {
            return;
        }
    }
}

/// Says something on a broker and waits until a robot there has it: what the last hop of a wish
/// takes without us.
#[derive(Debug)]
pub struct Hop {
    orders: tokio::sync::mpsc::Sender<()>,
    robot: Robot,
}

impl Hop {
    /// Connects both ends to a broker that no gateway uses.
    pub fn start(url: &str) -> Self {
        let robot = Robot::start(url);
        let (orders, mut ordered) = tokio::sync::mpsc::channel(1);
        let url = url.to_owned();
        std::thread::spawn(move || {
            on_a_runtime(async {
                let (_connection, channel) = connect(&url).await;
                while ordered.recv().await.is_some() {
                    publish(&channel, TO_ROBOT, b"34.6,445.6").await;
                }
            });
        });
        Self { orders, robot }
    }

    /// One goal, from here to there.
    pub fn turn(&self) -> Duration {
        let began = Instant::now();
        self.orders.blocking_send(()).unwrap();
        self.robot.next().0 - began
    }
}

/// A robot that says where it is, again and again, until it is dropped.
#[derive(Debug)]
pub struct MovingRobot(Arc<AtomicBool>);

impl MovingRobot {
    /// How often it says so: more often than a relay wants to hear it.
    const EVERY: Duration = Duration::from_millis(100);

    /// Connects and begins.
    pub fn start(url: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, url) = (Arc::clone(&stop), url.to_owned());
        std::thread::spawn(move || {
            on_a_runtime(async {
                let (_connection, channel) = connect(&url).await;
                let mut x = 0_u32;
                while !told.load(Ordering::Relaxed) {
                    x += 1;
                    let status =
                        format!(r#"{{"status": {{"state": "moving", "x": {x}, "y": 0}}}}"#);
                    publish(&channel, FROM_ROBOT, status.as_bytes()).await;
                    tokio::time::sleep(Self::EVERY).await;
                }
            });
        });
        Self(stop)
    }
}

impl Drop for MovingRobot {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Publishes bodies as a robot would, as fast as the broker takes them.
pub fn publish_all(url: &str, bodies: &[Vec<u8>]) {
    on_a_runtime(async {
        let (connection, channel) = connect(url).await;
        for body in bodies {
            publish(&channel, FROM_ROBOT, body).await;
        }
        // Closing waits for what is on its way.
        connection.close(200, "done".into()).await.unwrap();
    });
}

async fn connect(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default());
    let connection = connection.await.expect("the robot's broker");
    let channel = connection.create_channel().await.unwrap();
    for exchange in [TO_ROBOT, FROM_ROBOT] {
        let declare = channel.exchange_declare(
            exchange.into(),
            ExchangeKind::Fanout,
            ExchangeDeclareOptions::default(),
            FieldTable::default(),
        );
        declare.await.unwrap();
    }
    (connection, channel)
}

async fn publish(channel: &Channel, exchange: &str, body: &[u8]) {
    let publish = channel.basic_publish(
        exchange.into(),
        "".into(),
        BasicPublishOptions::default(),
        body,
        BasicProperties::default(),
    );
    // Without confirms there is nothing to wait for.
    drop(publish.await.unwrap());
}

/// Runs something to its end on this thread.
pub fn on_a_runtime<T>(work: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap().block_on(work)
}

/// A client that hears what it says, over a broker that does nothing else.
pub struct Echo {
    client: Client,
    heard: Receiver<Instant>,
}

impl Echo {
    const TOPIC: &str = "floor";

    /// Connects and subscribes.
    pub fn start(url: &str) -> Self {
        let address = url.trim_start_matches("mqtt://");
        let (host, port) = address.rsplit_once(':').expect("mqtt://HOST:PORT");
        let options = MqttOptions::new("floor", host, port.parse().unwrap());
        let (client, mut connection) = Client::new(options, 16);
        connection.eventloop.network_options.set_tcp_nodelay(true);
        let (tell, heard) = sync_channel(WAITING);
        let (ready, begun) = sync_channel(1);
        std::thread::spawn(move || {
            for event in connection.iter() {
                match event.expect("the MQTT broker of the floor") {
                    Event::Incoming(Incoming::SubAck(_)) => ready.send(()).unwrap(),
                    Event::Incoming(Incoming::Publish(_)) if tell.send(Instant::now()).is_err() => {
                        return;
                    }
                    Event::Incoming(_) | Event::Outgoing(_) => {}
                }
            }
        });
        client.subscribe(Self::TOPIC, QoS::AtLeastOnce).unwrap();
        begun.recv_timeout(LIMIT).expect("the MQTT broker");
        Self { client, heard }
    }

    /// Says something and waits until it is heard.
    pub fn turn(&self) {
        let body = *b"34.6,445.6";
        let said = self
            .client
            .publish(Self::TOPIC, QoS::AtLeastOnce, false, body);
        said.unwrap();
        self.heard.recv_timeout(LIMIT).expect("an echo");
    }
}
