//! A robot's face, `e2e/peers/face.mjs`: an unchanged socket.io-client, and the events it was sent.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::child::{Output, Process};
use crate::http::Client;
use crate::root;
use crate::wait::SOON;

/// How many events a face may be sent in one test. A drill sends it some thousands.
const EVENTS_MAX: usize = 100_000;

/// Which client a face is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The major version of socket.io-client: `2` or `4`.
    pub client: &'static str,
    /// `websocket` or `polling`, or `default` to begin with polling and upgrade.
    pub transport: &'static str,
}

/// The newest client as a web page uses it.
pub const USUAL: Kind = Kind {
    client: "4",
    transport: "default",
};

/// An event that a face was sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name. `#connect` and `#disconnect` are the client's own.
    pub name: String,
    /// Its arguments.
    pub args: Vec<Value>,
}

impl Event {
    /// The only argument, as text.
    ///
    /// # Panics
    /// Where there is not one text.
    #[must_use]
    pub fn text(&self) -> &str {
        assert_eq!(self.args.len(), 1, "{self:?}");
        self.args[0].as_str().unwrap_or_else(|| panic!("{self:?}"))
    }

    /// The JSON document that the only argument holds as text.
    ///
    /// # Panics
    /// Where there is not one such text.
    #[must_use]
    pub fn document(&self) -> Value {
        serde_json::from_str(self.text()).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Name and argument in one word, for comparing runs of events: `changePageTo:guide`.
    #[must_use]
    pub fn short(&self) -> String {
        match self.name.as_str() {
            "changePageTo" | "changoPageTo" => format!("{}:{}", self.name, self.text()),
            _ => self.name.clone(),
        }
    }
}

/// A face that runs.
#[derive(Debug)]
pub struct Face {
    stream: Arc<Stream>,
    taken: usize,
    orders: ChildStdin,
    /// Held for its end only.
    _process: Process,
}

#[derive(Debug, Default)]
struct Stream {
    events: Mutex<Vec<Event>>,
    more: Condvar,
}

impl Face {
    /// Starts a face that claims a robot as often as it connects, or none.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[must_use]
    pub fn start(folder: &Path, relay: Client, kind: Kind, robot: Option<&str>) -> Self {
        let script = root().join("e2e/peers/face.mjs");
        let modules = root().join("e2e/peers/node_modules");
        assert!(
            modules.is_dir(),
            "no {}: run scripts/peers",
            modules.display()
        );
        let mut command = Command::new("node");
        command
            .arg(script)
            .args(["--client", kind.client, "--url", &relay.url()])
            .args(["--transport", kind.transport]);
        if let Some(robot) = robot {
            command.args(["--name", robot]);
        }
        let name = format!("{}.face", robot.unwrap_or("no-robot"));
        let mut process = Process::spawn(&name, folder, &mut command, Output::Piped);
        let orders = process.take_stdin().unwrap();
        let stdout = process.take_stdout().unwrap();
        let stream = Arc::new(Stream::default());
        let fed = Arc::clone(&stream);
        // Ends with the process, which ends with the face.
        std::thread::spawn(move || feed(&fed, stdout));
        Self {
            stream,
            taken: 0,
            orders,
            _process: process,
        }
    }

    /// Starts a face and waits until it is bound. Returns the robot's code, too.
    ///
    /// # Panics
    /// Where it is not bound soon.
    #[must_use]
    pub fn bind(folder: &Path, relay: Client, kind: Kind, robot: &str) -> (Self, String) {
        let mut face = Self::start(folder, relay, kind, Some(robot));
        let code = face.await_bound();
        (face, code)
    }

    /// Waits for the welcome that follows a binding, and returns the code.
    ///
    /// # Panics
    /// Where it does not come soon.
    pub fn await_bound(&mut self) -> String {
        let code = self.skip_to("authCode").text().to_owned();
        assert_eq!(self.take().short(), "changePageTo:welcome");
        code
    }

    /// Takes the next event.
    ///
    /// # Panics
    /// Where none comes soon.
    pub fn take(&mut self) -> Event {
        self.take_within(SOON).unwrap_or_else(|| {
            let events = self.all();
            panic!("no event within {SOON:?} after {events:#?}")
        })
    }

    /// Takes the next event, if one comes within the limit.
    pub fn take_within(&mut self, limit: Duration) -> Option<Event> {
        let deadline = Instant::now() + limit;
        let stream = Arc::clone(&self.stream);
        let mut events = stream.lock();
        while events.len() <= self.taken {
            let left = deadline.checked_duration_since(Instant::now())?;
            let woken = stream.more.wait_timeout(events, left);
            events = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        self.taken += 1;
        Some(events[self.taken - 1].clone())
    }

    /// Takes events up to the next of this name, and returns it.
    ///
    /// # Panics
    /// Where none comes soon.
    pub fn skip_to(&mut self, name: &str) -> Event {
        loop {
            let event = self.take();
            if event.name == name {
                return event;
            }
        }
    }

    /// Every event so far, taken or not.
    #[must_use]
    pub fn all(&self) -> Vec<Event> {
        self.stream.lock().clone()
    }

    /// Has the face emit an event.
    ///
    /// # Panics
    /// Where the face has ended.
    pub fn emit(&mut self, name: &str, data: &Value) {
        let order = json!({"emit": [name, data]});
        writeln!(self.orders, "{order}").unwrap();
    }
}

impl Stream {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn feed(stream: &Stream, stdout: ChildStdout) {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        let line: Value = serde_json::from_str(&line).unwrap();
        let event = Event {
            name: line["event"].as_str().unwrap().to_owned(),
            args: line["args"].as_array().unwrap().clone(),
        };
        let mut events = stream.lock();
        assert!(events.len() < EVENTS_MAX, "more than {EVENTS_MAX} events");
        events.push(event);
        stream.more.notify_all();
    }
}
