//! What a power cut can leave of a spool's files, and that the spool makes the best of it.
//!
//! The method: a child process works with the real [`Spool`] while `strace` writes down every write,
//! truncation, rename, removal and sync it makes, and every acknowledgement it gives. From that list
//! the files are built anew as a power cut after any of its entries could leave them: what was synced
//! is there; each write that was not is there, missing, or torn at a sector's edge, by itself; names
//! in a folder that was not synced may be the old ones. The real [`Spool`] then opens them.
//!
//! Why so: system calls are where the spool hands its data over, so the list misses nothing that
//! SQLite or the spool do, and it needs neither a special block device nor a kernel that has one. It
//! is harsher than a disk: no file system loses writes in such disorder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use brrbrr_gateway::spool::{CommandChange, HandOver, Limits, Spool, SpoolState};
use brrbrr_proto::id::{BootId, CommandId, Cursor, Epoch, Seq};
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use brrbrr_proto::up::{Custom, Event, Progress, Record};

use crate::damage::{Random, command};

const NOW: WallClock = WallClock(1_795_205_700_000_000);
/// The log is folded into the file every 128 pages.
const LIMITS: Limits = Limits {
    max_bytes: 8 * 1024 * 1024,
    min_free_bytes: 0,
};
const CUTS: usize = 500;
const SECTOR: u64 = 512;
const FOLDER: &str = "BRRBRR_TEST_POWER_CUT";
/// How often the child opens the spool, and how many steps it takes each time.
const RUNS: u64 = 4;
const STEPS: u64 = 60;

fn record(number: u64) -> Record {
    let length = if number.is_multiple_of(50) { 9_000 } else { 40 };
    Record {
        stamp: Stamp {
            boot: BootId(7),
            uptime: Uptime::default(),
            wall: NOW,
        },
        event: Event::Custom(Custom {
            kind: number.to_string(),
            json: "x".repeat(length),
        }),
    }
}

fn number(bytes: &[u8]) -> u64 {
    let Event::Custom(custom) = Record::decode(bytes).unwrap().event else {
        panic!("not a number");
    };
    custom.kind.parse().unwrap()
}

fn open(path: &Path) -> (Spool, SpoolState) {
    Spool::open(path, LIMITS, NOW).unwrap()
}

/// A folder in memory where there is one: the tests sync a lot, and what the disk does is written
/// down, not tried.
pub(crate) fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

#[test]
#[ignore = "the process that another test traces"]
fn child_that_works() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let folder = PathBuf::from(folder);
    let mut said = File::create(folder.join("said")).unwrap();
    // One write for each line, so that the trace has it in its place.
    let mut say = |line: String| said.write_all(line.as_bytes()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (mut number, mut at) = (1, BTreeMap::new());
        for run in 0..RUNS {
            let (spool, state) = open(&folder.join("spool/spool.db"));
            let mut epoch = state.epoch;
            for step in 0..STEPS {
                let end = number + 1 + step % 7;
                let records = (number..end).map(record).collect();
                let appended = spool.append(records).await.unwrap();
                for (place, number) in (appended.first.0..).zip(number..end) {
                    at.insert(number, Seq(place));
                }
                let first = appended.first.0;
                say(format!("appended {} {first} {number} {end}\n", epoch.0));
                number = end;
                let id = u128::from(run * STEPS + step);
                match step % 10 {
                    2 => {
                        let down = Cursor {
                            epoch: Epoch(1),
                            next: Seq(u64::try_from(id).unwrap()),
                        };
                        let commands = vec![(command(id), record(number))];
                        spool.store_commands(down, commands).await.unwrap();
                        say(format!("stored {id} {number}\n"));
                        number += 1;
                    }
                    5 => {
                        let id = id - 3;
                        say(format!("ending {id}\n"));
                        let change = CommandChange {
                            id: CommandId(id),
                            progress: Progress::Succeeded,
                            hand_over: HandOver::Arrived,
                        };
                        spool.update_commands(vec![change], vec![]).await.unwrap();
                        say(format!("ended {id}\n"));
                    }
                    7 if number > 100 => {
                        say(format!("releasing {}\n", number - 80));
                        let next = at[&(number - 80)];
                        spool.release(epoch, next).await.unwrap();
                    }
                    _ => {}
                }
                if step == STEPS / 2 {
                    epoch = Epoch(1000 + run);
                    say(format!("renewing {}\n", epoch.0));
                    let renewed = spool.renew_epoch(epoch).await.unwrap();
                    say(format!("renewed {}\n", epoch.0));
                    // What waits is numbered from the first position on.
                    let oldest = number - (renewed.next.0 - renewed.first.0);
                    at = (oldest..number).zip((renewed.first.0..).map(Seq)).collect();
                }
            }
            if run % 2 == 0 {
                spool.close().await.unwrap();
            } else {
                // The thread ends with its last handle; the next run waits for its lock.
                drop(spool);
            }
        }
    });
}

/// What the child did, in order.
#[derive(Debug, Clone)]
enum Act {
    Create(PathBuf),
    Write(PathBuf, u64, Vec<u8>),
    Truncate(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    Sync(PathBuf),
    Said(String),
}

/// Runs the child and reads its trace.
fn acts(folder: &Path) -> Vec<Act> {
    fs::create_dir(folder.join("spool")).unwrap();
    let trace = folder.join("trace");
    let traced = "trace=open,openat,creat,write,pwrite64,writev,pwritev,truncate,ftruncate,\
                  fallocate,rename,renameat,renameat2,unlink,unlinkat,link,linkat,fsync,fdatasync,\
                  sync_file_range,mmap";
    let out = Process::new("strace")
        .args(["-f", "-y", "-xx", "-s", "10000000", "-e", traced, "-o"])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "power_cut::child_that_works", "--ignored"])
        .args(["--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .output()
        .expect("strace runs (a Debian package)");
    assert!(out.status.success(), "{out:?}");
    let text = fs::read_to_string(trace).unwrap();
    let spool = folder.join("spool");
    let mut unfinished: BTreeMap<&str, &str> = BTreeMap::new();
    let mut acts = Vec::new();
    for line in text.lines() {
        let Some((process, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        let whole;
        let call = if let Some((begun, _)) = call.split_once(" <unfinished ...>") {
            unfinished.insert(process, begun);
            // Something is said when it begins to be; everything else is done when it has ended.
            if let Some(said) = said(begun, folder) {
                acts.push(said);
            }
            continue;
        } else if let Some(rest) = call.strip_prefix("<... ") {
            let begun = unfinished.remove(process).unwrap();
            if said(begun, folder).is_some() {
                continue;
            }
            let (_, ended) = rest.split_once(" resumed>").unwrap();
            whole = format!("{begun}{ended}");
            &whole
        } else {
            call
        };
        acts.extend(said(call, folder).or_else(|| act(call, &spool)));
    }
    acts
}

/// A line that the child said.
fn said(call: &str, folder: &Path) -> Option<Act> {
    let (name, rest) = call.split_once('(')?;
    let (_, path, rest) = descriptor(rest)?;
    if name != "write" || path != folder.join("said") {
        return None;
    }
    let (bytes, _) = string(rest.strip_prefix(", ")?)?;
    Some(Act::Said(String::from_utf8(bytes).unwrap()))
}

/// A call that changes something in the spool's folder.
fn act(call: &str, spool: &Path) -> Option<Act> {
    let (name, rest) = call.split_once('(')?;
    let (arguments, result) = rest.rsplit_once(" = ")?;
    if result.starts_with('-') || result.starts_with('?') {
        return None;
    }
    let arguments = arguments.trim_end().strip_suffix(')')?;
    let is_here = |path: &Path| path.starts_with(spool);
    let strings = || {
        let mut found = Vec::new();
        let mut rest = arguments;
        while let Some(at) = rest.find('"') {
            let (bytes, after) = string(&rest[at..]).unwrap();
            found.push(PathBuf::from(String::from_utf8(bytes).unwrap()));
            rest = after;
        }
        found
    };
    match name {
        "open" | "openat" | "creat" => {
            let path = strings().pop()?;
            let makes = is_here(&path) && arguments.contains("O_CREAT");
            makes.then_some(Act::Create(path))
        }
        "rename" | "renameat" | "renameat2" => {
            let paths = strings();
            let [from, to] = paths.as_slice() else {
                panic!("{call}")
            };
            is_here(to).then(|| Act::Rename(from.clone(), to.clone()))
        }
        "unlink" | "unlinkat" => {
            let path = strings().pop()?;
            is_here(&path).then_some(Act::Remove(path))
        }
        "link" | "linkat" | "truncate" => panic!("not foreseen: {call}"),
        _ => {
            let (_, path, rest) = descriptor(arguments)?;
            if !is_here(&path) {
                return None;
            }
            let rest = rest.strip_prefix(", ").unwrap_or(rest);
            match name {
                "fsync" | "fdatasync" => Some(Act::Sync(path)),
                "ftruncate" => Some(Act::Truncate(path, rest.parse().unwrap())),
                "pwrite64" => {
                    let (bytes, rest) = string(rest).unwrap();
                    let (_, offset) = rest.rsplit_once(", ").unwrap();
                    assert_eq!(result.parse(), Ok(bytes.len()), "written in part");
                    Some(Act::Write(path, offset.parse().unwrap(), bytes))
                }
                _ => panic!("not foreseen: {name} {path:?}"),
            }
        }
    }
}

/// A descriptor with its path, as in `3</tmp/file>`, and what follows.
fn descriptor(text: &str) -> Option<(u32, PathBuf, &str)> {
    let (number, rest) = text.split_once('<')?;
    let number = number.parse().ok()?;
    let (path, rest) = rest.split_once('>')?;
    Some((number, PathBuf::from(unescaped(path)), rest))
}

/// With `-xx` paths of descriptors are in hexadecimal as well.
fn unescaped(text: &str) -> String {
    let Some(hex) = text.strip_prefix("\\x") else {
        return text.to_owned();
    };
    let bytes = hex
        .split("\\x")
        .map(|hex| u8::from_str_radix(hex, 16).unwrap());
    String::from_utf8(bytes.collect()).unwrap()
}

/// A string of `\x00` bytes in quotes, and what follows.
fn string(text: &str) -> Option<(Vec<u8>, &str)> {
    let (hex, rest) = text.strip_prefix('"')?.split_once('"')?;
    assert!(!rest.starts_with("..."), "cut short");
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap()).unwrap();
    let bytes = hex.as_bytes().chunks(4);
    let bytes = bytes.map(|escape| digit(escape[2]) * 16 + digit(escape[3]));
    Some((bytes.collect(), rest))
}

/// A file, whatever its name is.
type Inode = usize;

/// Where a file was written and with what, or where it was cut.
type Change = (u64, Option<Vec<u8>>);

/// A folder of files as far as it was synced, and what was done since.
#[derive(Debug, Default)]
struct Disk {
    files: Vec<Vec<u8>>,
    unsynced: BTreeMap<Inode, Vec<Change>>,
    /// The names now, and those that a power cut surely leaves.
    names: BTreeMap<PathBuf, Inode>,
    durable_names: BTreeMap<PathBuf, Inode>,
    unsynced_names: Vec<Naming>,
}

#[derive(Debug, Clone)]
enum Naming {
    Made(PathBuf, Inode),
    Renamed(PathBuf, PathBuf),
    Removed(PathBuf),
}

impl Naming {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Inode>) {
        match self {
            Self::Made(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Self::Renamed(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Self::Removed(path) => {
                names.remove(path);
            }
        }
    }
}

impl Disk {
    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.unsynced_names.push(naming);
    }

    fn take(&mut self, act: &Act) {
        match act {
            Act::Create(path) if self.names.contains_key(path) => {}
            Act::Create(path) => {
                self.files.push(Vec::new());
                self.name(Naming::Made(path.clone(), self.files.len() - 1));
            }
            Act::Rename(from, to) => self.name(Naming::Renamed(from.clone(), to.clone())),
            Act::Remove(path) => self.name(Naming::Removed(path.clone())),
            Act::Write(path, offset, bytes) => {
                let write = (*offset, Some(bytes.clone()));
                self.unsynced
                    .entry(self.names[path])
                    .or_default()
                    .push(write);
            }
            Act::Truncate(path, length) => {
                let cut = (*length, None);
                self.unsynced.entry(self.names[path]).or_default().push(cut);
            }
            Act::Sync(path) => {
                if let Some(inode) = self.names.get(path) {
                    for change in self.unsynced.remove(inode).unwrap_or_default() {
                        put(&mut self.files[*inode], &change, None);
                    }
                } else {
                    for naming in self.unsynced_names.drain(..) {
                        naming.apply(&mut self.durable_names);
                    }
                }
            }
            Act::Said(_) => {}
        }
    }

    /// Writes into `to` what a power cut now could leave.
    fn cut(&self, random: &mut Random, from: &Path, to: &Path) -> usize {
        let mut names = self.durable_names.clone();
        for naming in &self.unsynced_names {
            if random.below(2) == 0 {
                naming.apply(&mut names);
            }
        }
        let mut lost = 0;
        for (path, inode) in names {
            let mut content = self.files[inode].clone();
            for change in self.unsynced.get(&inode).into_iter().flatten() {
                match random.below(3) {
                    0 => put(&mut content, change, None),
                    1 => lost += 1,
                    _ => {
                        let length = change.1.as_ref().map_or(0, Vec::len);
                        put(&mut content, change, Some(random.below(length + 1)));
                        lost += 1;
                    }
                }
            }
            fs::write(to.join(path.strip_prefix(from).unwrap()), content).unwrap();
        }
        lost
    }
}

/// Changes a file; a torn write ends at the last sector's edge before `torn`.
fn put(content: &mut Vec<u8>, change: &Change, torn: Option<usize>) {
    let (offset, bytes) = change;
    let begin = usize::try_from(*offset).unwrap();
    let Some(bytes) = bytes else {
        if torn.is_none() {
            content.resize(begin, 0);
        }
        return;
    };
    let length = torn.map_or(bytes.len(), |torn| {
        let end = (offset + torn as u64) / SECTOR * SECTOR;
        usize::try_from(end.saturating_sub(*offset)).unwrap()
    });
    if length == 0 {
        return;
    }
    let end = begin + length;
    if content.len() < end {
        content.resize(end, 0);
    }
    content[begin..end].copy_from_slice(&bytes[..length]);
}

/// What was said before a cut.
#[derive(Debug, Default)]
struct Promises {
    /// Records that were acknowledged, with their epoch and position; of those that a new epoch has
    /// numbered anew only the order counts.
    records: BTreeMap<u64, Option<(Epoch, Seq)>>,
    /// Records before this one may be gone.
    released: u64,
    stored: BTreeSet<u128>,
    ending: BTreeSet<u128>,
    ended: BTreeSet<u128>,
    epochs: BTreeSet<u64>,
    /// The epoch that was acknowledged last, while no other is being begun.
    epoch: Option<u64>,
}

impl Promises {
    fn hear(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap();
        let numbers: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
        match (verb, numbers.as_slice()) {
            ("appended", &[epoch, first, number, end]) => {
                for (number, place) in (number..end).zip(first..) {
                    self.records
                        .insert(number, Some((Epoch(epoch), Seq(place))));
                }
                self.epochs.insert(epoch);
                self.epoch = Some(epoch);
            }
            ("stored", &[id, number]) => {
                self.stored.insert(id.into());
                self.records.insert(number, None);
            }
            ("ending", &[id]) => drop(self.ending.insert(id.into())),
            ("ended", &[id]) => drop(self.ended.insert(id.into())),
            ("releasing", &[number]) => self.released = number,
            ("renewing", &[epoch]) => {
                self.epochs.insert(epoch);
                self.epoch = None;
                for place in self.records.values_mut() {
                    *place = None;
                }
            }
            ("renewed", &[epoch]) => self.epoch = Some(epoch),
            _ => panic!("{line}"),
        }
    }

    async fn check(&self, path: &Path, cut: usize) {
        let (spool, state) = open(path);
        assert_eq!(state.salvaged, None, "cut {cut}: a power cut is no damage");
        if let Some(epoch) = self.epoch {
            assert_eq!(state.epoch.0, epoch, "cut {cut}");
        }
        let known = self.epochs.contains(&state.epoch.0) || self.epochs.is_empty();
        assert!(known, "cut {cut}: {state:?}");
        let back = spool.read(state.first, 100_000, usize::MAX).await.unwrap();
        let numbers: Vec<u64> = back.items.iter().map(|item| number(&item.record)).collect();
        assert!(
            numbers.is_sorted_by(|one, next| one < next),
            "cut {cut}: {numbers:?}"
        );
        assert_eq!(
            state.first.plus(numbers.len() as u64),
            state.next,
            "cut {cut}"
        );
        let places: BTreeMap<u64, Seq> = numbers
            .into_iter()
            .zip((state.first.0..).map(Seq))
            .collect();
        for (number, place) in self.records.range(self.released..) {
            let found = places.get(number);
            assert!(
                found.is_some(),
                "cut {cut}: record {number} was acknowledged"
            );
            if let Some((epoch, place)) = place
                && *epoch == state.epoch
            {
                assert_eq!(found, Some(place), "cut {cut}: record {number}");
            }
        }
        // A position that was given out is never given out again.
        let highest = self
            .records
            .values()
            .flatten()
            .map(|(_, place)| *place)
            .max();
        let added = spool.append(vec![record(u64::MAX)]).await.unwrap();
        assert_eq!(added.first, state.next, "cut {cut}");
        assert!(
            highest.is_none_or(|highest| added.first > highest),
            "cut {cut}"
        );
        let open: BTreeSet<u128> = state.commands.iter().map(|c| c.command.id.0).collect();
        for id in &self.stored {
            assert!(
                open.contains(id) || self.ending.contains(id),
                "cut {cut}: command {id}"
            );
        }
        assert!(open.is_disjoint(&self.ended), "cut {cut}: {open:?}");
        spool.close().await.unwrap();
    }
}

#[tokio::test]
async fn after_a_power_cut_everything_acknowledged_is_there() {
    let folder = folder();
    let acts = acts(folder.path());
    let from = folder.path().join("spool");
    let mut random = Random::new(1);
    let mut cuts = BTreeSet::new();
    while cuts.len() < CUTS.min(acts.len()) {
        cuts.insert(random.below(acts.len()));
    }
    let (mut disk, mut promises) = (Disk::default(), Promises::default());
    let (mut lost, mut records) = (0, 0);
    for (at, act) in acts.iter().enumerate() {
        disk.take(act);
        if let Act::Said(line) = act {
            promises.hear(line);
        }
        if cuts.contains(&at) {
            let left = self::folder();
            lost += disk.cut(&mut random, &from, left.path());
            promises.check(&left.path().join("spool.db"), at).await;
            records += promises.records.range(promises.released..).count();
        }
    }
    let count = |which: fn(&Act) -> bool| acts.iter().filter(|act| which(act)).count();
    println!(
        "{} cuts; {} writes, {} truncations, {} renames, {} removals, {} syncs, {} said; \
         {lost} writes lost or torn, {records} records looked for",
        cuts.len(),
        count(|act| matches!(act, Act::Write(..))),
        count(|act| matches!(act, Act::Truncate(..))),
        count(|act| matches!(act, Act::Rename(..))),
        count(|act| matches!(act, Act::Remove(..))),
        count(|act| matches!(act, Act::Sync(..))),
        count(|act| matches!(act, Act::Said(..))),
    );
    assert_eq!(cuts.len(), CUTS);
    assert!(lost > CUTS && records > CUTS);
}
