//! The program as a process: enrolment, the service manager, the control socket, exit codes.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Far longer than anything takes here; only a failing test waits for so long.
const PATIENCE: Duration = Duration::from_secs(30);

fn gateway() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brrbrr-gateway"));
    command.env_remove("NOTIFY_SOCKET").env("RUST_LOG", "info");
    command
}

/// A board with a simulated robot, and with a relay that does not answer.
struct Board {
    folder: tempfile::TempDir,
}

impl Board {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let board = Self { folder };
        std::fs::write(
            board.path("gateway.toml"),
            "[robot]\nadapter = \"sim\"\n\n[robot.sim]\nspeed = 1.0\n",
        )
        .unwrap();
        board
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn enrolled() -> Self {
        let board = Self::new();
        let secret = "ab".repeat(32);
        let enrolment = format!(
            r#"{{"format":1,"robot":7,"name":"guide-7","floor":7,"secret":"{secret}","mqtt":"mqtt://127.0.0.1:1"}}"#
        );
        std::fs::write(board.path("robot.enrol"), enrolment).unwrap();
        let out = gateway()
            .args(["enroll", "--file"])
            .arg(board.path("robot.enrol"))
            .arg("--data")
            .arg(board.path("data"))
            .output()
            .unwrap();
        assert!(out.status.success(), "{out:?}");
        board
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = gateway();
        command
            .arg(verb)
            .arg("--config")
            .arg(self.path("gateway.toml"))
            .arg("--data")
            .arg(self.path("data"));
        command
    }

    fn run(&self, notify: &Path) -> Daemon {
        let child = self
            .command("run")
            .env("NOTIFY_SOCKET", notify)
            .env("WATCHDOG_USEC", "200000")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Daemon(child)
    }
}

struct Daemon(Child);

impl Daemon {
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, signal).unwrap();
    }

    fn output(mut self) -> (Option<i32>, String) {
        let status = self.0.wait().unwrap();
        let mut log = String::new();
        let mut stderr = self.0.stderr.take().unwrap();
        std::io::Read::read_to_string(&mut stderr, &mut log).unwrap();
        (status.code(), log)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing is left behind when a test fails.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Waits until the service manager is told something.
fn told(manager: &UnixDatagram, wanted: &str) {
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buffer = [0; 1024];
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        let length = manager.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        if text.lines().any(|line| line.starts_with(wanted)) {
            return;
        }
    }
    panic!("{wanted} was never told");
}

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

#[test]
fn the_daemon_tells_the_service_manager_answers_on_its_socket_and_stops_in_order() {
    let board = Board::enrolled();
    let manager = UnixDatagram::bind(board.path("notify")).unwrap();
    let daemon = board.run(&board.path("notify"));
    told(&manager, "READY=1");
    told(&manager, "WATCHDOG=1");
    let out = board.command("status").arg("--json").output().unwrap();
    assert!(out.status.success(), "{}", text(&out));
    let status: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(
        (&status["robot"], &status["name"]),
        (&7.into(), &"guide-7".into())
    );
    let out = board.command("status").output().unwrap();
    assert!(text(&out).contains("guide-7"), "{}", text(&out));

    let second = board.command("run").output().unwrap();
    assert_eq!(second.status.code(), Some(1), "{}", text(&second));
    assert!(text(&second).contains("running"), "{}", text(&second));

    daemon.signal(Signal::TERM);
    told(&manager, "STOPPING=1");
    let (code, log) = daemon.output();
    assert_eq!(code, Some(0), "{log}");
    assert!(
        !log.contains("panicked") && !log.contains("abababab"),
        "{log}"
    );
}

#[test]
fn a_daemon_that_was_killed_starts_again_with_what_it_had() {
    let board = Board::enrolled();
    let manager = UnixDatagram::bind(board.path("notify")).unwrap();
    let backlog = || {
        let out = board.command("status").arg("--json").output().unwrap();
        let status: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        let spool = &status["spool"];
        (
            spool["epoch"].clone(),
            spool["backlog"].as_u64().unwrap_or_default(),
        )
    };
    let daemon = board.run(&board.path("notify"));
    told(&manager, "READY=1");
    let started = Instant::now();
    // The simulated robot's first status is a record.
    while backlog().1 == 0 {
        assert!(started.elapsed() < PATIENCE);
    }
    let before = backlog();
    daemon.signal(Signal::KILL);
    assert_eq!(daemon.output().0, None);

    let daemon = board.run(&board.path("notify"));
    told(&manager, "READY=1");
    let after = backlog();
    assert_eq!(after.0, before.0);
    assert!(after.1 >= before.1, "{before:?} {after:?}");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.output().0, Some(0));
}

#[test]
fn asking_a_gateway_that_does_not_run_says_so_with_code_3() {
    let board = Board::enrolled();
    let out = board.command("status").output().unwrap();
    assert_eq!(out.status.code(), Some(3));
    assert!(
        text(&out).contains("no gateway is running"),
        "{}",
        text(&out)
    );
}

#[test]
fn a_gateway_that_is_not_enrolled_says_how_to_enrol_with_code_2() {
    let board = Board::new();
    for verb in ["run", "check-config"] {
        let out = board.command(verb).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{}", text(&out));
        assert!(
            text(&out).contains("brrbrr-relay robot add"),
            "{}",
            text(&out)
        );
    }
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_code_2() {
    let board = Board::enrolled();
    let path = board.path("gateway.toml");
    std::fs::write(&path, "[robot]\nadapter = \"sim\"\ncolour = \"red\"\n").unwrap();
    let out = board.command("check-config").output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    let said = text(&out);
    assert!(said.contains("colour") && said.contains("line 3"), "{said}");
}

#[test]
fn a_right_configuration_is_confirmed() {
    let board = Board::enrolled();
    let out = board.command("check-config").output().unwrap();
    assert!(out.status.success(), "{}", text(&out));
    assert!(text(&out).starts_with("ok: robot 7"), "{}", text(&out));
}
