//! A gateway: `brrbrr-gateway run` on a data folder of its own, which can be killed and started again.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::child::{Output, Process};
use crate::control::Control;
use crate::http::Request;
use crate::program;
use crate::relay::{Relay, run};
use crate::wait::{SOON, wait_until};

/// Runs the rest of its arguments where the kernel seems to name the boot as the first one's file does.
const OWN_BOOT: &str = r#"mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@""#;

/// What a gateway finds on its robot's side.
#[derive(Debug, Clone)]
pub enum Adapter {
    /// A robot behind this broker.
    Amqp {
        /// The broker's address, with user and password.
        url: String,
        /// `text` or `json`.
        wire: &'static str,
    },
    /// A simulated robot that drives this fast, in metres a second.
    Sim {
        /// Its speed.
        speed: f64,
    },
}

impl Adapter {
    fn toml(&self) -> String {
        match self {
            Self::Amqp { url, wire } => format!(
                "[robot]\nadapter = \"amqp\"\n\n[robot.amqp]\nurl = \"{url}\"\nwire = \"{wire}\"\n"
            ),
            Self::Sim { speed } => {
                format!("[robot]\nadapter = \"sim\"\n\n[robot.sim]\nspeed = {speed:?}\n")
            }
        }
    }
}

/// Where a gateway runs.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// Where it finds the relay's broker, if not where the enrolment says.
    pub mqtt: Option<SocketAddr>,
    /// The network namespace it runs in, if not the test's own.
    pub namespace: Option<String>,
    /// The boot that its board claims, if not the machine's own. [`Gateway::reboot`] changes it.
    pub boot: Option<u64>,
}

/// A gateway that runs.
#[derive(Debug)]
pub struct Gateway {
    robot: String,
    folder: PathBuf,
    data: PathBuf,
    config: PathBuf,
    site: Site,
    process: Process,
}

impl Gateway {
    /// Enrols a robot at the relay and starts its gateway below this folder.
    ///
    /// # Panics
    /// Where the gateway does not enrol or start.
    #[must_use]
    pub fn start(folder: &Path, relay: &Relay, robot: &str, adapter: &Adapter) -> Self {
        Self::start_at(&Site::default(), folder, relay, robot, adapter)
    }

    /// As [`Gateway::start`], somewhere else.
    ///
    /// # Panics
    /// Where the gateway does not enrol or start.
    #[must_use]
    pub fn start_at(
        site: &Site,
        folder: &Path,
        relay: &Relay,
        robot: &str,
        adapter: &Adapter,
    ) -> Self {
        let data = folder.join(format!("{robot}.gateway"));
        let config = folder.join(format!("{robot}.toml"));
        let mut text = format!("data = \"{}\"\n\n{}", data.display(), adapter.toml());
        if let Some(mqtt) = site.mqtt {
            text.push_str(&format!("\n[relay]\nmqtt = \"mqtt://{mqtt}\"\n"));
        }
        std::fs::write(&config, text).unwrap();
        let enrolment = relay.enrol(robot);
        run(Command::new(program("brrbrr-gateway"))
            .args([Path::new("enroll"), Path::new("--file"), &enrolment])
            .args([Path::new("--data"), &data]));
        let process = spawn(robot, folder, &config, site);
        Self {
            site: site.clone(),
            robot: robot.to_owned(),
            folder: folder.to_owned(),
            data,
            config,
            process,
        }
    }

    /// Waits until it has a session with the relay, and its robot's broker.
    ///
    /// # Panics
    /// Where it does not soon.
    pub fn await_link(&self) {
        let what = format!("the gateway of {} is connected", self.robot);
        wait_until(&what, SOON, || self.is_connected());
    }

    fn is_connected(&self) -> bool {
        let Some(status) = self.status() else {
            return false;
        };
        status["link"]["state"] == "session" && status["status"]["robot_side"] == "Up"
    }

    /// What `status --json` says; `None` where it says nothing.
    #[must_use]
    pub fn status(&self) -> Option<Value> {
        let mut ask = Command::new(program("brrbrr-gateway"));
        ask.args([Path::new("status"), Path::new("--data"), &self.data])
            .arg("--json")
            .stdin(Stdio::null());
        let answer = ask.output().unwrap();
        serde_json::from_slice(&answer.stdout).ok()
    }

    /// Its control socket.
    #[must_use]
    pub fn control(&self) -> Control {
        Control::new(&self.data)
    }

    /// What its control socket says of it; `None` where it says nothing. Unlike [`Gateway::status`]
    /// it starts no process.
    #[must_use]
    pub fn control_status(&self) -> Option<Value> {
        let answer = self.control().try_send(&Request::get("/status")).ok()?;
        serde_json::from_slice(&answer.body).ok()
    }

    /// The file of its spool.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.data.join("spool.db")
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
        assert!(status.success(), "the gateway ended with {status}");
    }

    /// Starts it again after [`Gateway::kill`] or [`Gateway::stop`].
    pub fn start_again(&mut self) {
        self.process = spawn(&self.robot, &self.folder, &self.config, &self.site);
    }

    /// Starts it again after [`Gateway::kill`], as after a restart of the whole board.
    pub fn reboot(&mut self) {
        let boots = self.site.boot.unwrap_or_default();
        self.site.boot = Some(boots + 1);
        self.start_again();
    }

    /// See [`Process::freeze`].
    pub fn freeze(&self) {
        self.process.freeze();
    }

    /// See [`Process::thaw`].
    pub fn thaw(&self) {
        self.process.thaw();
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

fn spawn(robot: &str, folder: &Path, config: &Path, site: &Site) -> Process {
    // What is put before the gateway becomes it, so the process id is the gateway's.
    let mut words: Vec<OsString> = Vec::new();
    if let Some(namespace) = &site.namespace {
        words.extend(["ip", "netns", "exec", namespace].map(OsString::from));
    }
    if let Some(boot) = site.boot {
        let file = folder.join(format!("{robot}.boot"));
        std::fs::write(&file, format!("{boot:08x}-0000-4000-8000-000000000000\n")).unwrap();
        words.extend(["unshare", "--mount", "sh", "-c", OWN_BOOT].map(OsString::from));
        words.push(file.into());
    }
    words.push(program("brrbrr-gateway").into());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command.args([Path::new("run"), Path::new("--config"), config]);
    let name = format!("{robot}.gateway");
    Process::spawn(&name, folder, &mut command, Output::Logged)
}
