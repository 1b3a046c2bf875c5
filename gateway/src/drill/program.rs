//! A program under drill: a child process that is killed when it is dropped, and what the kernel
//! counts about it over all its lives.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::Context;

/// How much of a log is shown when its program has ended by itself.
const SHOWN_BYTES: u64 = 2_000;

/// What the kernel counted. What it does not tell counts as nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes that were sent to a disk, in all lives.
    pub written: u64,
    /// The most memory that was resident in any life, in bytes.
    pub peak: u64,
}

/// A program that can be killed and started again.
#[derive(Debug)]
pub struct Program {
    log: PathBuf,
    child: Option<Child>,
    /// What lives that are over have written.
    before: u64,
    /// What this life had written when it was last looked at.
    written: u64,
    peak: u64,
}

impl Program {
    /// One that does not run yet. Its output is added to the file `log`.
    #[must_use]
    pub const fn new(log: PathBuf) -> Self {
        Self {
            log,
            child: None,
            before: 0,
            written: 0,
            peak: 0,
        }
    }

    /// Starts it.
    ///
    /// # Errors
    /// Where that fails.
    pub fn start(&mut self, command: &mut Command) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot write {}", self.log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Looks at what the kernel counts. The counts end with the process, so look often.
    pub fn look(&mut self) {
        let Some(child) = &self.child else { return };
        let process = PathBuf::from(format!("/proc/{}", child.id()));
        // write_bytes: proc_pid_io(5); VmHWM: proc_pid_status(5), in kB.
        if let Some(written) = number(&process.join("io"), "write_bytes:") {
            self.written = self.written.max(written);
        }
        if let Some(peak) = number(&process.join("status"), "VmHWM:") {
            self.peak = self.peak.max(peak * 1024);
        }
    }

    /// Ends it at once, as a power cut would.
    pub fn kill(&mut self) {
        self.look();
        if let Some(mut child) = self.child.take() {
            // One that has ended already is what was asked for.
            child.kill().ok();
            child.wait().ok();
        }
        self.before += std::mem::take(&mut self.written);
    }

    /// How it has ended by itself, if it has.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => child.try_wait(),
            None => Ok(None),
        }
    }

    /// What it has used so far.
    #[must_use]
    pub const fn usage(&self) -> Usage {
        Usage {
            written: self.before + self.written,
            peak: self.peak,
        }
    }

    /// The end of what it has said.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.log).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a program to its end and returns what it said.
///
/// # Errors
/// Where it cannot be started or fails; says what it complained about.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let name = command.get_program().display().to_string();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {name}"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    let arguments: Vec<_> = command.get_args().take(2).collect();
    anyhow::ensure!(
        output.status.success(),
        "{name} {arguments:?} failed: {complaint}"
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn number(file: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(SHOWN_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(SHOWN_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
