//! A wire to a network namespace of its own, `e2e/peers/wire.py`, and what can go wrong with it.

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::child::{Output, Process};
use crate::root;

/// How long the wire may take to end by itself, with its namespace.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Networks of four addresses below 10.213.0.0/16.
const NETWORKS: u32 = 1 << 14;
/// As many wires of one process have networks of their own.
const WIRES: u32 = 8;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// What is wrong with the network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Condition {
    /// Nothing.
    Clear,
    /// Nothing gets through.
    Partition,
    /// What the near side sends is lost.
    NearMute,
    /// What the far side sends is lost.
    FarMute,
    /// So many packets in a hundred are lost, each way.
    Loss(u32),
    /// Each packet takes so long, each way.
    Delay(Duration),
    /// Packets of more bytes vanish, and nobody is told.
    Mtu(u32),
    /// Up for so long, down for so long, and so on.
    Flap(Duration),
}

impl Condition {
    fn order(self) -> String {
        match self {
            Self::Clear => "clear".to_owned(),
            Self::Partition => "partition".to_owned(),
            Self::NearMute => "mute near".to_owned(),
            Self::FarMute => "mute far".to_owned(),
            Self::Loss(percent) => format!("loss {percent}"),
            Self::Delay(each) => format!("delay {}", each.as_secs_f64()),
            Self::Mtu(bytes) => format!("mtu {bytes}"),
            Self::Flap(each) => format!("flap {}", each.as_secs_f64()),
        }
    }
}

/// Packets so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packets {
    /// Carried.
    pub carried: u64,
    /// Lost.
    pub lost: u64,
}

/// A wire. Its near end is in the test's own namespace, its far end in one of its own, and both are
/// removed with it.
#[derive(Debug)]
pub struct Wire {
    namespace: String,
    near: Ipv4Addr,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    process: Process,
}

impl Wire {
    /// Lays a wire. Everything about it has names that no other process of this machine uses.
    ///
    /// # Errors
    /// Says why namespaces or devices cannot be made here.
    ///
    /// # Panics
    /// Where they can be, and yet the wire does not come up.
    pub fn lay(folder: &Path) -> Result<Self, String> {
        let (own, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let namespace = format!("brrbrr-{own}-{count}");
        allowed(&format!("{namespace}-try"))?;
        let place = own.wrapping_mul(WIRES).wrapping_add(count) % NETWORKS;
        let network = u32::from(Ipv4Addr::new(10, 213, 0, 0)) + place * 4;
        let [near, far] = [1, 2].map(|host| Ipv4Addr::from(network + host));
        let mut command = Command::new("python3");
        command
            .arg(root().join("e2e/peers/wire.py"))
            .args([
                "--namespace",
                &namespace,
                "--name",
                &format!("br{own}{count}"),
            ])
            .args(["--near", &near.to_string(), "--far", &far.to_string()]);
        let mut process = Process::spawn("wire", folder, &mut command, Output::Piped);
        let orders = process.take_stdin();
        let mut answers = BufReader::new(process.take_stdout().unwrap());
        let mut ready = String::new();
        answers.read_line(&mut ready).unwrap();
        let wire = Self {
            namespace,
            near,
            orders,
            answers,
            process,
        };
        assert_eq!(ready, "ready\n", "{}", wire.process.log_tail());
        Ok(wire)
    }

    /// The namespace at its far end.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The address at its near end.
    #[must_use]
    pub const fn near(&self) -> Ipv4Addr {
        self.near
    }

    /// Sets what is wrong from now on, in place of what was wrong before. Says what it has carried.
    ///
    /// # Panics
    /// Where the wire is gone.
    pub fn set(&mut self, condition: Condition) -> Packets {
        let orders = self.orders.as_mut().unwrap();
        writeln!(orders, "{}", condition.order()).unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        let mut words = answer.split_whitespace();
        assert_eq!(words.next(), Some("ok"), "{}", self.process.log_tail());
        let mut next = || words.next().unwrap().parse().unwrap();
        Packets {
            carried: next(),
            lost: next(),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        drop(self.orders.take());
        if !self.process.await_end(END_LIMIT) {
            self.process.kill();
            // What it could not do itself.
            ip(&["netns", "delete", &self.namespace]).ok();
        }
    }
}

/// Whether this process may make namespaces and devices.
fn allowed(namespace: &str) -> Result<(), String> {
    let tun = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun");
    tun.map_err(|error| format!("/dev/net/tun cannot be opened: {error}"))?;
    ip(&["netns", "add", namespace])?;
    let used = ip(&["netns", "exec", namespace, "true"]);
    ip(&["netns", "delete", namespace])?;
    used
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let told = arguments.join(" ");
    let output = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|error| format!("ip {told}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let failed = || format!("ip {told}: {}", said.trim());
    output.status.success().then_some(()).ok_or_else(failed)
}
