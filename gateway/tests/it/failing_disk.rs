//! A disk that fails below an open spool: what is written is refused while it does, nothing that was
//! acknowledged is lost, and the spool goes on by itself when the disk does.
//!
//! Full and read-only disks are real ones that are mounted for the test (skipped, and said so, where
//! that is not allowed). Errors of single system calls are made by `strace`, which lets them fail in
//! a child process.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::Duration;

use brrbrr_gateway::spool::{Limits, SourceId, Spool, SpoolError, SpoolState};
use brrbrr_proto::id::Seq;
use brrbrr_proto::time::WallClock;
use brrbrr_proto::up::{Disk, Event, Loss, Record};

use crate::damage::record;

const NOW: WallClock = WallClock(1_795_205_700_000_000);
const LIMITS: Limits = Limits {
    max_bytes: 64 * 1024 * 1024,
    min_free_bytes: 0,
};
/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn open(path: &Path) -> (Spool, SpoolState) {
    Spool::open(path, LIMITS, NOW).unwrap()
}

fn number(record: &[u8]) -> u64 {
    let Event::Custom(custom) = Record::decode(record).unwrap().event else {
        panic!("not a number");
    };
    custom.kind.parse().unwrap()
}

async fn numbers(spool: &Spool) -> Vec<u64> {
    let (mut numbers, mut next) = (Vec::new(), Seq(1));
    loop {
        let back = spool.read(next, 10_000, 1 << 24).await.unwrap();
        if back.items.is_empty() {
            return numbers;
        }
        numbers.extend(back.items.iter().map(|item| number(&item.record)));
        next = Seq(numbers.len() as u64 + 1);
    }
}

/// Waits until the spool says that its disk is so, and returns what it says about it.
async fn until(spool: &Spool, disk: Disk) -> String {
    let mut health = spool.health();
    let wait = health.wait_for(|health| health.disk == disk);
    match tokio::time::timeout(PATIENCE, wait).await {
        Ok(health) => health.unwrap().detail.clone(),
        Err(_) => panic!("it never came to that: {:?}", spool.health().borrow()),
    }
}

/// Appends records from `number` on until one is refused; returns that one and the reason.
async fn append_until_refused(spool: &Spool, mut number: u64) -> (u64, SpoolError) {
    loop {
        match spool.append(vec![record(number)]).await {
            Ok(_) => number += 1,
            Err(error) => return (number, error),
        }
    }
}

/// Appends a record, over and over, until it is accepted.
async fn append_until_accepted(spool: &Spool, number: u64) {
    let accepted = async {
        while spool.append(vec![record(number)]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, accepted).await.unwrap();
}

async fn assert_holds(spool: &Spool, end: u64) {
    assert_eq!(numbers(spool).await, (1..end).collect::<Vec<_>>());
}

/// A file system of its own, gone with the test.
pub(crate) struct Mount {
    pub(crate) folder: tempfile::TempDir,
    image: Option<PathBuf>,
}

impl Mount {
    fn run(program: &str, arguments: &[&str]) -> bool {
        let out = Process::new(program).args(arguments).output();
        let succeeded = out.as_ref().is_ok_and(|out| out.status.success());
        if !succeeded {
            println!("{program} {arguments:?}: {out:?}");
        }
        succeeded
    }

    /// A small disk in memory.
    pub(crate) fn memory(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().to_str().unwrap();
        let size = format!("size={size}");
        let mounted = Self::run("mount", &["-t", "tmpfs", "-o", &size, "none", at]);
        mounted.then_some(Self {
            folder,
            image: None,
        })
    }

    /// A small disk that turns read-only at its first error.
    fn file(beside: &Path) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = beside.join("image");
        fs::write(&path, vec![0; 16 << 20]).unwrap();
        let made = Self::run("mkfs.ext4", &["-q", path.to_str().unwrap()]);
        let mount = Self {
            folder,
            image: Some(path),
        };
        (made && mount.mount()).then_some(mount)
    }

    fn mount(&self) -> bool {
        let image = self.image.as_deref().unwrap().to_str().unwrap();
        let at = self.folder.path().to_str().unwrap();
        Self::run("mount", &["-o", "loop,errors=remount-ro", image, at])
    }

    fn unmount(&self) -> bool {
        let at = self.folder.path().to_str().unwrap();
        Self::run("umount", &["-l", at])
    }

    /// The kernel's own way to have the file system find an error.
    fn break_down(&self) -> bool {
        let at = self.folder.path().to_str().unwrap();
        let source = Process::new("findmnt")
            .args(["-n", "-o", "SOURCE", at])
            .output();
        let Ok(source) = source else {
            return false;
        };
        let source = String::from_utf8(source.stdout).unwrap();
        let device = source.trim().rsplit('/').next().unwrap_or_default();
        fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").is_ok()
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.folder.path().join("spool.db")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.unmount();
    }
}

#[tokio::test]
async fn a_full_disk_refuses_and_takes_records_again_when_there_is_room() {
    let Some(mount) = Mount::memory("4m") else {
        println!("skipped: no file system can be mounted here");
        return;
    };
    let (spool, _) = open(&mount.spool());
    append_until_accepted(&spool, 1).await;
    let ballast = mount.folder.path().join("ballast");
    fs::write(&ballast, vec![1; 3 << 20]).unwrap();
    let (refused, error) = append_until_refused(&spool, 2).await;
    assert!(error.to_string().contains("full"), "{error}");
    assert!(until(&spool, Disk::Failing).await.contains("full"));
    assert_holds(&spool, refused).await;
    fs::remove_file(ballast).unwrap();
    until(&spool, Disk::Fine).await;
    append_until_accepted(&spool, refused).await;
    assert_holds(&spool, refused + 1).await;
    spool.close().await.unwrap();
    let (spool, state) = open(&mount.spool());
    assert_eq!(state.salvaged, None);
    assert_holds(&spool, refused + 1).await;
    println!("{refused} records on a disk of 4 MiB");
}

#[tokio::test]
async fn a_disk_below_the_floor_refuses_and_is_not_written_to_while_nobody_asks() {
    let Some(mount) = Mount::memory("32m") else {
        println!("skipped: no file system can be mounted here");
        return;
    };
    let limits = Limits {
        min_free_bytes: 64 << 20,
        max_bytes: 256 << 20,
    };
    let (spool, _) = Spool::open(&mount.spool(), limits, NOW).unwrap();
    let error = loop {
        let records = (0..500).map(record).collect();
        if let Err(error) = spool.append(records).await {
            break error;
        }
    };
    assert!(matches!(error, SpoolError::BelowFloor { .. }), "{error}");
    until(&spool, Disk::Failing).await;
    let commits = spool.commits().await.unwrap();
    let mut health = spool.health();
    let flips = health.wait_for(|health| health.disk != Disk::Failing);
    let flips = tokio::time::timeout(Duration::from_secs(3), flips).await;
    assert!(flips.is_err(), "it was tried out again");
    assert_eq!(spool.commits().await.unwrap(), commits);
}

#[tokio::test]
async fn a_salvage_that_finds_no_room_is_made_up_for_at_a_later_start() {
    let Some(mount) = Mount::memory("4m") else {
        println!("skipped: no file system can be mounted here");
        return;
    };
    let path = mount.spool();
    let (spool, before) = open(&path);
    for first in (1..600).step_by(100) {
        let records = (first..first + 100).map(record).collect();
        spool.append(records).await.unwrap();
    }
    spool.close().await.unwrap();
    let mut bytes = fs::read(&path).unwrap();
    // The header and the schema are gone, the rows are not.
    bytes[..4096].fill(0);
    fs::write(&path, &bytes).unwrap();
    let ballast = mount.folder.path().join("ballast");
    let room = (4 << 20) - bytes.len() - (128 << 10);
    fs::write(&ballast, vec![1; room]).unwrap();
    for _ in 0..2 {
        let error = Spool::open(&path, LIMITS, NOW).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("full") || text.contains("No space"), "{text}");
    }
    fs::remove_file(ballast).unwrap();
    let (spool, state) = open(&path);
    let salvaged = state.salvaged.unwrap();
    assert_eq!((salvaged.records, salvaged.same_epoch), (600, true));
    assert_eq!(state.epoch, before.epoch);
    assert_eq!(fs::read(salvaged.moved_to).unwrap(), bytes);
    let back = spool.read(Seq(1), 10_000, usize::MAX).await.unwrap();
    assert_eq!(number(&back.items[599].record), 600);
    let Event::Tombstone(end) = Record::decode(&back.items[600].record).unwrap().event else {
        panic!("the end is not known");
    };
    assert_eq!((end.loss, end.count), (Loss::SpoolCorrupt, 0));
    assert!(state.next > Seq(1 << 32));
}

#[tokio::test]
async fn a_disk_that_turns_read_only_refuses_and_what_was_accepted_goes_to_the_next_one() {
    let image = tempfile::tempdir().unwrap();
    let Some(mount) = Mount::file(image.path()) else {
        println!("skipped: no file system can be mounted here");
        return;
    };
    let (spool, before) = open(&mount.spool());
    spool.append((1..100).map(record).collect()).await.unwrap();
    if !mount.break_down() {
        println!("skipped: no file system can be broken here");
        return;
    }
    let (refused, error) = append_until_refused(&spool, 100).await;
    println!("from record {refused} on: {error}");
    let detail = until(&spool, Disk::Failing).await;
    assert!(!detail.is_empty());
    assert_holds(&spool, refused).await;
    // It is taken away, and the spool goes on where its folder is now.
    assert!(mount.unmount());
    until(&spool, Disk::Fine).await;
    append_until_accepted(&spool, refused).await;
    assert_holds(&spool, refused + 1).await;
    // It comes back, mended, with what it had then.
    let image = mount.image.as_deref().unwrap().to_str().unwrap();
    let mended = Process::new("e2fsck")
        .args(["-p", "-f", image])
        .status()
        .unwrap();
    assert!(mended.code().unwrap() < 4);
    assert!(mount.mount());
    append_until_accepted(&spool, refused + 1).await;
    append_until_accepted(&spool, refused + 2).await;
    until(&spool, Disk::Fine).await;
    assert_holds(&spool, refused + 3).await;
    spool.close().await.unwrap();
    let (spool, state) = open(&mount.spool());
    assert_eq!(state.epoch, before.epoch);
    assert_holds(&spool, refused + 3).await;
}

fn log_of(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-wal", path.display()))
}

/// Takes files away from a spool that is open, and looks that nothing is lost with them.
async fn lose(take_away: impl Fn(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let (spool, before) = open(&path);
    spool.append((1..100).map(record).collect()).await.unwrap();
    take_away(&path);
    // Nothing is accepted into a file that has no name.
    let (refused, error) = append_until_refused(&spool, 100).await;
    assert_eq!(refused, 100);
    assert!(matches!(error, SpoolError::Misplaced(_)), "{error}");
    append_until_accepted(&spool, 100).await;
    until(&spool, Disk::Fine).await;
    assert_holds(&spool, 101).await;
    // Once more, with nothing written in between, and then the end.
    take_away(&path);
    spool.close().await.unwrap();
    let (spool, state) = open(&path);
    assert_eq!((state.epoch, state.next), (before.epoch, Seq(101)));
    assert_holds(&spool, 101).await;
}

#[tokio::test]
async fn a_deleted_file_is_written_anew_with_all_that_was_in_it() {
    lose(|path| fs::remove_file(path).unwrap()).await;
    lose(|path| fs::remove_file(log_of(path)).unwrap()).await;
    lose(|path| {
        fs::remove_file(path).unwrap();
        fs::remove_file(log_of(path)).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_replaced_file_is_moved_aside_for_all_that_was_in_the_old_one() {
    lose(|path| {
        let other = path.with_extension("other");
        fs::write(&other, "somebody else's").unwrap();
        fs::rename(other, path).unwrap();
        let is_aside = |name: &str| name.contains(".damaged-") && !name.ends_with("-wal");
        let files = fs::read_dir(path.parent().unwrap()).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        for name in names.filter(|name| is_aside(name)) {
            let kept = fs::read_to_string(path.with_file_name(name)).unwrap();
            assert_eq!(kept, "somebody else's");
        }
    })
    .await;
}

#[tokio::test]
async fn a_salvage_keeps_the_names_of_messages_so_that_none_is_written_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let sources = || {
        let names = (0..300).flat_map(|n| {
            let name = format!("message-{n}");
            [SourceId::of_program(&name), SourceId(name)]
        });
        names.map(Some)
    };
    let (spool, _) = open(&path);
    for source in sources() {
        let written = spool.append_from_source(source, vec![record(1)]).await;
        assert!(!written.unwrap().duplicate);
    }
    spool.close().await.unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[..1024].fill(0);
    fs::write(&path, &bytes).unwrap();
    let (spool, state) = open(&path);
    assert!(state.salvaged.is_some());
    for source in sources() {
        let written = spool.append_from_source(source.clone(), vec![record(1)]);
        assert!(written.await.unwrap().duplicate, "{source:?}");
    }
}

#[tokio::test]
async fn a_page_that_rots_while_the_spool_is_open_leaves_a_hole_of_known_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let (spool, _) = open(&path);
    spool
        .append((1..=2000).map(record).collect())
        .await
        .unwrap();
    spool.close().await.unwrap();
    let (spool, before) = open(&path);
    // In the middle of the file and not on a page that was read to open it.
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0);
    fs::write(&path, &bytes).unwrap();
    let items = crate::damage::read_all(&spool, Seq(1)).await;
    let (mut due, mut holes) = (1, 0);
    for (at, covers, bytes) in &items {
        assert_eq!(at.0, due);
        if let Event::Tombstone(tombstone) = Record::decode(bytes).unwrap().event {
            assert_eq!(
                (tombstone.loss, tombstone.count),
                (Loss::SpoolCorrupt, *covers)
            );
            assert!(tombstone.since.unwrap().wall < tombstone.until.unwrap().wall);
            holes += 1;
        } else {
            assert_eq!(number(bytes), due);
        }
        due += covers;
    }
    assert_eq!(due, 2001, "the writer knows the end");
    assert!(holes > 0);
    let state = spool.state().await.unwrap();
    assert_eq!(state.epoch, before.epoch);
    assert_eq!(state.salvaged.unwrap().holes, holes);
    assert_eq!(
        spool.append(vec![record(2001)]).await.unwrap().first,
        Seq(2001)
    );
}

const ERRORS: &str = "BRRBRR_TEST_FAILING_CALLS";

#[test]
#[ignore = "the process that another test makes fail"]
fn child_on_a_disk_with_errors() {
    let Some(path) = std::env::var_os(ERRORS) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (spool, _) = open(Path::new(&path));
        let (mut number, mut refusals, mut since) = (1, 0, 0);
        // Every refused record is asked for again, as a source would.
        while refusals == 0 || since < 50 {
            assert!(number < 100_000, "no call ever failed");
            match spool.append(vec![record(number)]).await {
                Ok(_) => {
                    println!("\nacknowledged {number}");
                    since += 1;
                }
                Err(error) => {
                    if refusals == 0 {
                        println!("\nrefused: {error}");
                    }
                    (refusals, since) = (refusals + 1, 0);
                    println!("\ndropped {number}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            number += 1;
        }
        until(&spool, Disk::Fine).await;
        println!("\nrefusals {refusals}");
        // No farewell: what is on the disk must do.
        std::process::exit(0);
    });
}

/// Lets some calls of a child fail, and looks what is left.
fn with_failing(calls: &str, error: &str, when: &str) {
    let folder = crate::power_cut::folder();
    let path = folder.path().join("spool.db");
    let mut child = Process::new("strace")
        .args(["-f", "-o", "/dev/null", "-e", &format!("trace={calls}")])
        .args(["-e", &format!("inject={calls}:error={error}:when={when}")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "failing_disk::child_on_a_disk_with_errors"])
        .args(["--ignored", "--nocapture", "--test-threads=1"])
        .env(ERRORS, &path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("strace runs (a Debian package)");
    let (mut acknowledged, mut dropped) = (Vec::new(), BTreeSet::new());
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(number) = line.strip_prefix("acknowledged ") {
            acknowledged.push(number.parse::<u64>().unwrap());
        } else if let Some(number) = line.strip_prefix("dropped ") {
            dropped.insert(number.parse::<u64>().unwrap());
        } else if line.starts_with("refus") {
            println!("{calls} {error}: {line}");
        }
    }
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{calls} {error}: {said}");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (spool, state) = open(&path);
        assert_eq!(state.salvaged, None, "{calls} {error}");
        let found = numbers(&spool).await;
        assert_eq!(
            found, acknowledged,
            "{calls} {error}: as acknowledged, and nothing else"
        );
        assert!(!dropped.is_empty());
    });
}

#[test]
fn a_sync_that_fails_refuses_and_the_next_ones_are_good() {
    with_failing("fdatasync,fsync", "EIO", "40..44");
}

#[test]
fn a_write_that_fails_refuses_and_the_next_ones_are_good() {
    with_failing("pwrite64", "EIO", "100..115");
    with_failing("pwrite64", "ENOSPC", "101..110");
    with_failing("pwrite64", "EROFS", "102..110");
}
