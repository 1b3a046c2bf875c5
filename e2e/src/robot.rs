//! The robot of the tests, `e2e/peers/robot.py`: it knows the AMQP contract and nothing of BrrBrr.

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
    /// Held for its end only.
    _process: Process,
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
        let python = root().join("target/peers/venv/bin/python");
        assert!(
            python.is_file(),
            "no {}: run scripts/peers",
            python.display()
        );
        let log = folder.join(format!("{name}.robot.jsonl"));
        let mut command = Command::new(python);
        command
            .arg(root().join("e2e/peers/robot.py"))
            .args(["--url", broker.url(), "--wire", wire])
            .args(["--travel-time", &travel_time.as_secs_f64().to_string()])
            .args([Path::new("--log"), &log]);
        let file = format!("{name}.robot");
        let process = Process::spawn(&file, folder, &mut command, Output::Logged);
        wait_until(&format!("the robot {name} is ready"), SOON, || {
            process.log_tail().contains("ready")
        });
        Self {
            log,
            _process: process,
        }
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
