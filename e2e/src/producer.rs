//! Producers: they number what they say, wait for the answer to each before the next, repeat what was
//! not answered under the same name, and keep a log of their own of what was acknowledged.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions};
use lapin::types::FieldTable;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ExchangeKind,
};
use serde_json::json;

use crate::control::Control;
use crate::http::Request;
use crate::judge::{Acknowledged, KIND};
use crate::random::Random;

const FROM_ROBOT: &str = "robotToServer";
/// AMQP's mark for messages that a queue keeps on its disk.
const PERSISTENT: u8 = 2;
/// How long a broker may take to connect or to confirm before all is made anew.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to leave alone what did not answer.
const AGAIN: Duration = Duration::from_millis(20);
/// How many events a program posts at a time, at most.
const POSTED_MAX: u64 = 10;

/// A producer that runs until it is told to finish.
#[derive(Debug)]
pub struct Producer {
    name: String,
    log: PathBuf,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Producer {
    /// A robot that publishes events on its broker, each persistent, named and confirmed. It rests
    /// for `pause` after each.
    ///
    /// # Panics
    /// Where its log cannot be made.
    #[must_use]
    pub fn over_amqp(folder: &Path, name: &str, url: &str, pause: Duration) -> Self {
        let url = url.to_owned();
        Self::start(folder, name, move |name, log, stop| {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_all().build().unwrap();
            runtime.block_on(publish(&url, name, log, stop, pause))
        })
    }

    /// A program on the board that posts some events at a time to its gateway. It rests for `pause`
    /// after each post.
    ///
    /// # Panics
    /// Where its log cannot be made.
    #[must_use]
    pub fn over_socket(folder: &Path, name: &str, control: Control, pause: Duration) -> Self {
        Self::start(folder, name, move |name, log, stop| {
            post(&control, name, log, stop, pause)
        })
    }

    fn start(
        folder: &Path,
        name: &str,
        work: impl FnOnce(&str, &mut Log, &AtomicBool) -> u64 + Send + 'static,
    ) -> Self {
        let log = folder.join(format!("{name}.acknowledged"));
        let mut file = Log(File::create(&log).unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let (told, named) = (Arc::clone(&stop), name.to_owned());
        let thread = std::thread::spawn(move || work(&named, &mut file, &told));
        Self {
            name: name.to_owned(),
            log,
            stop,
            thread,
        }
    }

    /// Lets it end after what it is saying, and reads its log.
    ///
    /// # Panics
    /// Where it failed, or its log cannot be read.
    #[must_use]
    pub fn finish(self) -> Acknowledged {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.thread.join().unwrap();
        let text = std::fs::read_to_string(&self.log).unwrap();
        let lines: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
        let numbers: BTreeSet<u64> = lines.iter().copied().collect();
        assert_eq!(numbers.len(), lines.len(), "the log of {}", self.name);
        Acknowledged {
            producer: self.name,
            numbers,
            sent,
        }
    }
}

/// One number a line, written through at once.
struct Log(File);

impl Log {
    fn acknowledged(&mut self, number: u64) {
        writeln!(self.0, "{number}").unwrap();
    }
}

/// Returns how many it has sent.
async fn publish(url: &str, name: &str, log: &mut Log, stop: &AtomicBool, rest: Duration) -> u64 {
    let mut number = 1;
    while !stop.load(Ordering::Relaxed) {
        let connected = tokio::time::timeout(PATIENCE, connect(url)).await;
        let Ok(Ok((_connection, channel))) = connected else {
            tokio::time::sleep(AGAIN).await;
            continue;
        };
        // The same number again, until its confirm is there.
        while !stop.load(Ordering::Relaxed)
            && let Ok(confirmation) = say(&channel, name, number).await
        {
            if matches!(confirmation, Confirmation::Ack(None)) {
                log.acknowledged(number);
                number += 1;
                tokio::time::sleep(rest).await;
            } else {
                // Nobody's queue was bound: the broker has come back without the gateway.
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
    number
}

async fn connect(url: &str) -> lapin::Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    let (options, arguments) = (ExchangeDeclareOptions::default(), FieldTable::default());
    let kind = ExchangeKind::Fanout;
    channel
        .exchange_declare(FROM_ROBOT.into(), kind, options, arguments)
        .await?;
    Ok((connection, channel))
}

async fn say(channel: &Channel, name: &str, number: u64) -> Result<Confirmation, ()> {
    let body = json!({"event": {"kind": KIND, "producer": name, "number": number}}).to_string();
    let properties = BasicProperties::default()
        .with_message_id(format!("{name}-{number}").into())
        .with_delivery_mode(PERSISTENT);
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let confirmed = async {
        let publish = channel.basic_publish(
            FROM_ROBOT.into(),
            "".into(),
            options,
            body.as_bytes(),
            properties,
        );
        publish.await?.await
    };
    let confirmed = tokio::time::timeout(PATIENCE, confirmed).await;
    confirmed.map_err(|_| ())?.map_err(|_: lapin::Error| ())
}

/// Returns how many it has sent.
fn post(control: &Control, name: &str, log: &mut Log, stop: &AtomicBool, rest: Duration) -> u64 {
    let mut random = Random::new(name.bytes().map(u64::from).sum());
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        let numbers = sent + 1..=sent + 1 + random.below(POSTED_MAX);
        let events: Vec<_> = numbers
            .clone()
            .map(|number| {
                json!({
                    "kind": KIND,
                    "data": {"producer": name, "number": number},
                    "id": format!("{name}-{number}"),
                })
            })
            .collect();
        sent = *numbers.end();
        let request = Request::new("POST", "/events").json(&json!(events));
        loop {
            let status = control
                .try_send(&request)
                .map_or(503, |answer| answer.status);
            if status == 200 {
                numbers.for_each(|number| log.acknowledged(number));
                std::thread::sleep(rest);
                break;
            }
            // Away, or busy: both pass. Everything else would be a fault of this program.
            assert_eq!(status, 503, "{name}: {request:?}");
            if stop.load(Ordering::Relaxed) {
                return sent;
            }
            std::thread::sleep(AGAIN);
        }
    }
    sent
}
