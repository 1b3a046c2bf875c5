//! The machine: where things run and what they have used.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rustix::param::clock_ticks_per_second;
use rustix::thread::{CpuSet, sched_setaffinity};

/// Where the programs under test run.
pub const SERVER_CORE: usize = 0;
/// Where the load runs.
pub const LOAD_CORE: usize = 1;

/// What one write of the floor measurement holds.
const BLOCK: [u8; 4096] = [7; 4096];

/// Keeps this thread, and the processes and threads that it starts from now on, to one core.
pub fn pin_to(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).unwrap_or_else(|error| panic!("cannot run on {core}: {error}"));
}

/// Lets this thread, and what it starts from now on, run on every core.
pub fn unpin() {
    let mut set = CpuSet::new();
    // The kernel leaves out those that are not there.
    (0..CpuSet::MAX_CPU).for_each(|core| set.set(core));
    sched_setaffinity(None, &set).unwrap_or_else(|error| panic!("cannot run anywhere: {error}"));
}

/// How much processor time a process has used.
pub fn processor_time(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The name in brackets may hold spaces, so fields are counted after it.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_secs(ticks) / u32::try_from(clock_ticks_per_second()).unwrap()
}

/// How much memory a process has resident.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    now: u32,
    highest: u32,
}

impl Memory {
    /// That of a process that runs.
    pub fn of(process: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let kilobytes = |name| {
            let line = status.lines().find(|line| line.starts_with(name));
            let number = line.and_then(|line| line.split_whitespace().nth(1));
            number.unwrap().parse().unwrap()
        };
        Self {
            now: kilobytes("VmRSS:"),
            highest: kilobytes("VmHWM:"),
        }
    }

    /// The highest since the process began, for people.
    pub fn peak(self) -> String {
        megabytes(self.highest)
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&megabytes(self.now))
    }
}

fn megabytes(kilobytes: u32) -> String {
    format!("{:.1} MB", f64::from(kilobytes) / 1_024.0)
}

/// What a process has had the kernel write to disks so far, in bytes.
pub fn written(process: u32) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{process}/io")).unwrap();
    let line = io
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    line.unwrap().trim().parse().unwrap()
}

/// A file that is written and synced as a database's log is once it has its size: what is there is
/// written over.
#[derive(Debug)]
pub struct SyncedFile {
    file: File,
    next: u64,
}

impl SyncedFile {
    const BLOCKS: u64 = 1_024;

    /// A new file in this folder.
    pub fn create(folder: &Path) -> Self {
        let file = File::create(folder.join("floor")).unwrap();
        for block in 0..Self::BLOCKS {
            file.write_all_at(&BLOCK, block * 4096).unwrap();
        }
        file.sync_all().unwrap();
        Self { file, next: 0 }
    }

    /// Writes 4 KiB and waits until they are on the disk.
    pub fn write(&mut self) {
        self.file.write_all_at(&BLOCK, self.next * 4096).unwrap();
        self.next = (self.next + 1) % Self::BLOCKS;
        self.file.sync_data().unwrap();
    }
}
