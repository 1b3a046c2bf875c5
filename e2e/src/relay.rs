//! A relay: `brrbrr-relay serve` on a data folder of its own, which can be killed and started again.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::building::Building;
use crate::child::{Output, Process};
use crate::http::{Client, Request};
use crate::program;
use crate::stores::Stores;
use crate::wait::{SOON, wait_for, wait_until};

/// A relay that serves.
#[derive(Debug)]
pub struct Relay {
    folder: PathBuf,
    data: PathBuf,
    http: SocketAddr,
    mqtt: SocketAddr,
    process: Process,
}

impl Relay {
    /// Enters the building and starts a relay below this folder.
    ///
    /// # Panics
    /// Where the relay does not come up.
    #[must_use]
    pub fn start(folder: &Path, building: &Building) -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST, folder, building)
    }

    /// As [`Relay::start`], with its broker on this address of the machine.
    ///
    /// # Panics
    /// Where the relay does not come up.
    #[must_use]
    pub fn start_on(mqtt: Ipv4Addr, folder: &Path, building: &Building) -> Self {
        let data = folder.join("relay");
        let seed = building.write(folder);
        run(Command::new(program("brrbrr-relay")).arg("seed").args([
            Path::new("--data"),
            &data,
            Path::new("--file"),
            &seed,
        ]));
        let (http, mqtt) = (free_address(Ipv4Addr::LOCALHOST), free_address(mqtt));
        let process = spawn(folder, &data, http, mqtt);
        Self {
            folder: folder.to_owned(),
            data,
            http,
            mqtt,
            process,
        }
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends it with SIGTERM.
    ///
    /// # Panics
    /// Where it does not end well and soon.
    pub fn stop(&mut self) {
        let status = self.process.terminate(SOON);
        assert!(status.success(), "the relay ended with {status}");
    }

    /// Starts it again after [`Relay::kill`] or [`Relay::stop`], on the same addresses.
    pub fn start_again(&mut self) {
        self.process = spawn(&self.folder, &self.data, self.http, self.mqtt);
    }

    /// Makes the enrolment file of a robot that is in the catalog.
    ///
    /// # Panics
    /// Where the relay's command fails.
    #[must_use]
    pub fn enrol(&self, robot: &str) -> PathBuf {
        let file = self.folder.join(format!("{robot}.enrol"));
        run(Command::new(program("brrbrr-relay"))
            .args(["robot", "enrol", robot])
            .args([Path::new("--data"), &self.data, Path::new("--out"), &file]));
        file
    }

    /// A client of its HTTP routes. It stays right when the relay is started again.
    #[must_use]
    pub const fn client(&self) -> Client {
        Client(self.http)
    }

    /// Where its MQTT broker listens.
    #[must_use]
    pub const fn mqtt(&self) -> SocketAddr {
        self.mqtt
    }

    /// What it has stored.
    #[must_use]
    pub fn stores(&self) -> Stores {
        Stores::new(self.data.clone())
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.ended().is_none()
    }
}

fn spawn(folder: &Path, data: &Path, http: SocketAddr, mqtt: SocketAddr) -> Process {
    let note = data.join("relay.json");
    // That of the process before must not be taken for this one's.
    std::fs::remove_file(&note).ok();
    let mut command = Command::new(program("brrbrr-relay"));
    command
        .args([Path::new("serve"), Path::new("--data"), data])
        .args(["--http", &http.to_string(), "--mqtt", &mqtt.to_string()])
        .arg("--legacy-open");
    let mut process = Process::spawn("relay", folder, &mut command, Output::Logged);
    let noted: Value = wait_for("relay.json says where the relay listens", SOON, || {
        let ended = process.ended();
        assert!(ended.is_none(), "the relay ended as it started: {ended:?}");
        serde_json::from_slice(&std::fs::read(&note).ok()?).ok()
    });
    assert_eq!(noted["http"], format!("http://{http}"));
    assert_eq!(noted["mqtt"], format!("mqtt://{mqtt}"));
    wait_until("the relay is ready", SOON, || {
        let answer = Client(http).try_send(&Request::get("/readyz"));
        answer.is_ok_and(|answer| answer.status == 200)
    });
    process
}

/// Runs a command to its end.
///
/// # Panics
/// Where it fails; says what it said.
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A free address below the ports that the kernel gives to clients, so that nobody takes it while
/// the relay is down.
fn free_address(on: Ipv4Addr) -> SocketAddr {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    let mut random = crate::random::Random::new(u64::from(seed) ^ u64::from(std::process::id()));
    wait_for("a free port", SOON, || {
        let port = u16::try_from(10_000 + random.below(10_000)).unwrap();
        let listener = TcpListener::bind((on, port)).ok()?;
        listener.local_addr().ok()
    })
}
