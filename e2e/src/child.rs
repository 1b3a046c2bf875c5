//! Child processes that end with the test: killed when dropped, and their output shown when the
//! test has failed.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::wait_for;

/// How many lines of a log are shown when a test fails.
const SHOWN_LINES: usize = 60;

/// What becomes of a child's standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// It goes to the log, with the errors.
    Logged,
    /// It can be taken with [`Process::take_stdout`].
    Piped,
}

/// A child process with a log.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts a program. Its errors are appended to the file `NAME.log` in `folder`.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[must_use]
    pub fn spawn(name: &str, folder: &Path, command: &mut Command, output: Output) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log);
        let file = file.unwrap_or_else(|error| panic!("cannot open {}: {error}", log.display()));
        let stdout = match output {
            Output::Logged => Stdio::from(file.try_clone().unwrap()),
            Output::Piped => Stdio::piped(),
        };
        // In the test's own process group, so that what ends the test ends them too.
        let child = command
            .stdin(Stdio::piped())
            .stdout(stdout)
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self {
            name: name.to_owned(),
            log,
            child,
        }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input, once.
    #[must_use]
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Its standard output, once, if it is piped.
    #[must_use]
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// How it has ended, if it has.
    ///
    /// # Panics
    /// Where the system does not say.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Ends it at once, as a power cut would.
    pub fn kill(&mut self) {
        // One that has ended already is what was asked for.
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Stops it in its tracks, as a board that hangs would; its connections stay open.
    ///
    /// # Panics
    /// Where it has ended.
    pub fn freeze(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }

    /// Lets it go on after [`Process::freeze`].
    ///
    /// # Panics
    /// Where it has ended.
    pub fn thaw(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    /// Waits until it has ended by itself, and says whether it has.
    pub fn await_end(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// Asks it to end with SIGTERM, and waits for that.
    ///
    /// # Panics
    /// Where it does not end within the limit.
    pub fn terminate(&mut self, limit: Duration) -> ExitStatus {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).ok();
        let what = format!("{} ends after SIGTERM", self.name);
        wait_for(&what, limit, || self.child.try_wait().unwrap())
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (name, tail) = (&self.name, self.log_tail());
            // Where nobody reads it, the test has failed all the same.
            writeln!(
                std::io::stderr(),
                "---- the log of {name} ends:\n{tail}\n----"
            )
            .ok();
        }
        self.kill();
    }
}
