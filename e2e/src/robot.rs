//! The robot of the tests, `e2e/peers/robot.py`: it knows the AMQP contract and nothing of BrrBrr.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::child::{Output, Process};
use crate::root;
use crate::vhost::Vhost;
use crate::wait::{SOON, wait_until};

/// A robot that runs.
#[derive(Debug)]
pub struct Robot {
    log: PathBuf,
    arguments: Vec<OsString>,
    folder: PathBuf,
    name: String,
    process: Process,
}

impl Robot {
    /// Starts a robot on its broker. `wire` is `text` or `json`; any trip takes `travel_time`.
    ///
    /// # Panics
    /// Where it does not come up.
    #[must_use]
    pub fn start(
        folder: &Path,
        name: &str,
        broker: &Vhost,
        wire: &str,
        travel_time: Duration,
    ) -> Self {
        Self::start_with(folder, name, broker.url(), wire, travel_time, &[])
    }

    /// As [`Robot::start`], with more of `robot.py`'s options.
    ///
    /// # Panics
    /// Where it does not come up.
    #[must_use]
    pub fn start_with(
        folder: &Path,
        name: &str,
        url: &str,
        wire: &str,
        travel_time: Duration,
        options: &[&str],
    ) -> Self {
        let log = folder.join(format!("{name}.robot.jsonl"));
        let seconds = travel_time.as_secs_f64().to_string();
        let known = [
            "--url",
            url,
            "--wire",
            wire,
            "--travel-time",
            &seconds,
            "--log",
        ];
        let mut arguments: Vec<OsString> = known.map(OsString::from).to_vec();
        arguments.push(log.clone().into());
        arguments.extend(options.iter().map(OsString::from));
        let process = spawn(folder, name, &arguments);
        Self {
            log,
            arguments,
            folder: folder.to_owned(),
            name: name.to_owned(),
            process,
        }
    }

    /// Ends it with SIGKILL: it forgets where it was going.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again after [`Robot::kill`], with the same log.
    pub fn start_again(&mut self) {
        self.process = spawn(&self.folder, &self.name, &self.arguments);
    }

    /// What it has noted, a JSON object a line; `robot.py` says which.
    ///
    /// # Panics
    /// Where the log cannot be read.
    #[must_use]
    pub fn log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).unwrap();
        // The last line may be half-written.
        let whole = text
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        whole
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The commands that it got, as they came.
    #[must_use]
    pub fn commands(&self) -> Vec<String> {
        self.texts("got", "got")
    }

    /// The goals of the arrivals that its broker confirmed, in order.
    #[must_use]
    pub fn arrivals(&self) -> Vec<String> {
        self.texts("sent", "for")
    }

    /// The ids that the confirmed arrivals carried, in order; json only.
    #[must_use]
    pub fn answered(&self) -> Vec<String> {
        self.texts("sent", "command")
    }

    fn texts(&self, of: &str, field: &str) -> Vec<String> {
        let log = self.log();
        let lines = log.iter().filter(|line| line.get(of).is_some());
        lines
            .map(|line| line[field].as_str().unwrap().to_owned())
            .collect()
    }
}

fn spawn(folder: &Path, name: &str, arguments: &[OsString]) -> Process {
    let python = root().join("target/peers/venv/bin/python");
    assert!(
        python.is_file(),
        "no {}: run scripts/peers",
        python.display()
    );
    let mut command = Command::new(python);
    command
        .arg(root().join("e2e/peers/robot.py"))
        .args(arguments);
    let file = format!("{name}.robot");
    let before = ready(folder, &file);
    let process = Process::spawn(&file, folder, &mut command, Output::Logged);
    wait_until(&format!("the robot {name} is ready"), SOON, || {
        ready(folder, &file) > before
    });
    process
}

/// How many times it has begun to consume.
fn ready(folder: &Path, name: &str) -> usize {
    let log = std::fs::read_to_string(folder.join(format!("{name}.log")));
    log.map_or(0, |log| log.lines().filter(|line| *line == "ready").count())
}
