//! A relay's HTTP side on real stores and a free port, an HTTP client that sends exactly what it is
//! told, and a face that speaks Engine.IO 4 by hand.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use brrbrr_proto::id::{RelayId, RobotId};
use brrbrr_proto::live::Pose;
use brrbrr_proto::seal::Secret;
use brrbrr_relay::broker::{self, Authenticate, BrokerConfig, Limits, Refused};
use brrbrr_relay::catalog::sqlite::SqliteCatalog;
use brrbrr_relay::catalog::{Catalog, HappeningDetails, PlaceDetails};
use brrbrr_relay::changes::Changes;
use brrbrr_relay::endings::Endings;
use brrbrr_relay::http::turns::Turns;
use brrbrr_relay::http::{self, Services, Settings};
use brrbrr_relay::journal::sqlite::SqliteJournal;
use brrbrr_relay::live::Live;
use brrbrr_relay::live::memory::MemoryLive;
use brrbrr_relay::metrics::Metrics;
use brrbrr_relay::push::Push;
use brrbrr_relay::wake::Wakeups;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// No answer here takes so long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A relay's HTTP side.
pub struct Server {
    pub services: Arc<Services>,
    pub address: SocketAddr,
    pub removed: mpsc::Receiver<RobotId>,
    data: Arc<TempDir>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What the tests run with: writes are open.
pub fn open_settings() -> Settings {
    Settings {
        legacy_open: true,
        ..Settings::default()
    }
}

impl Server {
    /// With the sample building and open writes.
    pub async fn start() -> Self {
        let server = Self::start_empty(open_settings()).await;
        fill(&*server.services.catalog).await;
        server
    }

    /// The path of a store's file.
    pub fn file(&self, name: &str) -> std::path::PathBuf {
        self.data.path().join(name)
    }

    pub async fn start_empty(settings: Settings) -> Self {
        Self::start_on(Arc::new(TempDir::new().unwrap()), settings).await
    }

    async fn start_on(data: Arc<TempDir>, settings: Settings) -> Self {
        let file = |name: &str| data.path().join(name);
        let (stop, stopped) = watch::channel(false);
        let mqtt = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nobody: Authenticate = Arc::new(|_| Box::pin(async { Err(Refused::BadCredentials) }));
        let config = BrokerConfig {
            relay: RelayId(1),
            tls: None,
            limits: Limits::default(),
        };
        let (broker, _frames) =
            broker::spawn(mqtt, config, nobody, turned(stopped.clone())).unwrap();
        let (removed_tx, removed) = mpsc::channel(64);
        let catalog: Arc<dyn Catalog> = Arc::new(SqliteCatalog::open(&file("catalog")).unwrap());
        let live: Arc<dyn Live> = Arc::new(MemoryLive::open(&file("live")).unwrap());
        let metrics = Arc::new(Metrics::new(broker));
        let changes = Arc::new(Changes::default());
        let endings = Endings::new(&catalog, &live, &changes, &metrics.link);
        let ending = tokio::spawn(endings.clone().run(turned(stopped.clone())));
        let services = Arc::new(Services {
            catalog,
            live,
            journal: Arc::new(SqliteJournal::open(&file("journal")).unwrap()),
            push: Push::default(),
            wakeups: Arc::new(Wakeups::default()),
            changes,
            endings,
            metrics,
            removed: removed_tx,
            turns: Turns::default(),
            settings,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = http::serve(listener, Arc::clone(&services), turned(stopped));
        Self {
            services,
            address,
            removed,
            data,
            stop,
            task: tokio::spawn(async move {
                serving.await;
                ending.await.unwrap();
            }),
        }
    }

    /// Ends it and starts another on the same data.
    pub async fn restart(self, settings: Settings) -> Self {
        let data = Arc::clone(&self.data);
        self.stop().await;
        Self::start_on(data, settings).await
    }

    /// Ends it, and says how much time that took.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        timeout(PATIENCE, self.task).await.unwrap().unwrap();
    }

    pub fn data(&self) -> &Path {
        self.data.path()
    }

    pub async fn code(&self, robot: RobotId) -> String {
        self.services.live.code(robot).await.unwrap().to_string()
    }

    /// Sends a request and reads the whole answer.
    pub async fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Reply {
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: relay\r\n");
        for header in headers {
            request.push_str(header);
            request.push_str("\r\n");
        }
        if !body.is_empty() {
            request.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        request.push_str("connection: close\r\n\r\n");
        request.push_str(body);
        let answer = self.ask_bytes(request.as_bytes()).await;
        Reply::read(&answer, method)
            .unwrap_or_else(|| panic!("no answer to {method} {path}: {answer:?}"))
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[], "").await
    }

    pub async fn get_with(&self, path: &str, code: &str) -> Reply {
        self.ask("GET", path, &[&format!("authCode: {code}")], "")
            .await
    }

    pub async fn send(&self, method: &str, path: &str, body: &str) -> Reply {
        self.ask(method, path, &["content-type: application/json"], body)
            .await
    }

    /// Sends a request that asks for the connection to be closed, and reads until it is.
    pub async fn ask_bytes(&self, request: &[u8]) -> Vec<u8> {
        self.exchange(request, false).await
    }

    /// Sends what may break off, says that nothing more will come, and reads until the end. The
    /// relay need not answer whoever says that.
    pub async fn ask_broken(&self, request: &[u8]) -> Vec<u8> {
        self.exchange(request, true).await
    }

    async fn exchange(&self, request: &[u8], ends: bool) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut answer = Vec::new();
        timeout(PATIENCE, async {
            let (mut read, mut write) = stream.split();
            let writing = async {
                // It may answer and close before it has read all.
                if write.write_all(request).await.is_ok() && ends {
                    write.shutdown().await.ok();
                }
            };
            let reading = async { read.read_to_end(&mut answer).await.ok() };
            tokio::join!(writing, reading)
        })
        .await
        .expect("the connection hangs");
        answer
    }
}

async fn turned(mut value: watch::Receiver<bool>) {
    value.wait_for(|value| *value).await.ok();
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    fn read(answer: &[u8], method: &str) -> Option<Self> {
        let text = std::str::from_utf8(answer).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let header = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_lowercase(), value.to_owned()))
        };
        let reply = Self {
            status,
            headers: lines.filter_map(header).collect(),
            body: body.to_owned(),
        };
        let length = reply.header("content-length").parse().unwrap_or(0);
        let expected = if method == "HEAD" { 0 } else { length };
        assert_eq!(reply.body.len(), expected, "{reply:?}");
        Some(reply)
    }

    pub fn header(&self, name: &str) -> &str {
        let mut of_name = self.headers.iter().filter(|(n, _)| n == name);
        of_name.next().map_or("", |(_, value)| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// Asserts that it is an error in the form that all share, and says which.
    pub fn error(&self) -> String {
        let document = self.json();
        let error = document["error"].as_object().unwrap();
        assert!(error["message"].is_string() && error.len() == 2, "{self:?}");
        error["code"].as_str().unwrap().to_owned()
    }
}

/// The robots of the sample building, on floors 7 and 8. The second has a home.
pub const R1: &str = "길동";
pub const R2: &str = "순이";

pub fn robot(number: u32) -> RobotId {
    RobotId::new(number).unwrap()
}

async fn fill(catalog: &dyn Catalog) {
    for (name, floor, x) in [
        ("701호", 7, 34.6),
        ("로비", 7, 1.0),
        ("로비", 8, 2.0),
        ("로비", 9, 3.0),
        ("801호", 8, 4.0),
        ("회의실 A", 7, 5.0),
    ] {
        let details = PlaceDetails {
            name: name.to_owned(),
            description: Some(format!("{floor}층")),
            floor,
            xaxis: x,
            yaxis: 445.6,
            thumburl: None,
            mapurl: Some("map.png".to_owned()),
            aliases: Vec::new(),
        };
        catalog.add_place(details).await.unwrap();
    }
    for (name, place_name, place_floor) in [
        ("전시회", "701호", 7),
        ("세미나", "801호", 8),
        ("로비", "701호", 7),
    ] {
        let details = HappeningDetails {
            name: name.to_owned(),
            description: None,
            starttime: "2020-06-01T04:10:25Z".parse().unwrap(),
            endtime: "2020-06-01T05:10:25.1239Z".parse().unwrap(),
            place_name: place_name.to_owned(),
            place_floor,
            thumburl: Some("thumb.png".to_owned()),
        };
        catalog.add_happening(details).await.unwrap();
    }
    let home = Pose {
        x: 0.5,
        y: -0.5,
        theta: Some(0.0),
    };
    for (name, floor, home) in [(R1, 7, None), (R2, 8, Some(home))] {
        let secret = Secret::new([7; 32]);
        catalog.add_robot(name, floor, home, &secret).await.unwrap();
    }
}

/// A face page, without the page.
pub struct Face {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Face {
    /// Connects and joins the default namespace. Its first event is `robots-available`.
    pub async fn connect(address: SocketAddr) -> Self {
        let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket");
        let (socket, _) = connect_async(url).await.unwrap();
        let mut face = Self { socket };
        assert!(face.text().await.unwrap().starts_with('0'));
        face.say("40").await;
        assert!(face.text().await.unwrap().starts_with("40"));
        face
    }

    /// Connects, says which robot it is, and passes over what it is told until then.
    pub async fn of(address: SocketAddr, robot: &str) -> Self {
        let mut face = Self::connect(address).await;
        face.claim(robot).await;
        face
    }

    /// Says which robot it is, and hears the answer to its end.
    pub async fn claim(&mut self, robot: &str) -> Vec<(String, String)> {
        let event = serde_json::json!(["robotName", robot]);
        self.say(&format!("42{event}")).await;
        let mut events = Vec::new();
        loop {
            let event = self.event().await.unwrap();
            let is_last = event.0 == "changePageTo" || event.0 == "error";
            events.push(event);
            if is_last {
                return events;
            }
        }
    }

    pub async fn say(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// The next event; `None` when it is disconnected.
    pub async fn event(&mut self) -> Option<(String, String)> {
        let text = self.text().await?;
        if text == "41" || text == "1" {
            return None;
        }
        let event = text.strip_prefix("42").unwrap_or_else(|| panic!("{text}"));
        let (name, data) = serde_json::from_str(event).unwrap();
        Some((name, data))
    }

    /// Every event up to now: a claim that is refused marks the end.
    pub async fn events(&mut self) -> Vec<(String, String)> {
        self.say(r#"42["robotName","no robot"]"#).await;
        let mut events = Vec::new();
        loop {
            let event = self.event().await.unwrap();
            if event.0 == "error" && event.1.contains("no robot called") {
                return events;
            }
            events.push(event);
        }
    }

    async fn text(&mut self) -> Option<String> {
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await.unwrap()?;
            match message.ok()? {
                Message::Text(text) if text == "2" => self.say("3").await,
                Message::Text(text) => return Some(text.as_str().to_owned()),
                Message::Close(_) => return None,
                Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }
}
