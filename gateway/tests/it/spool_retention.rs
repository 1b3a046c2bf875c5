//! A spool that is full, or on a disk that is: what goes, what stays, and what is told of it.

mod model;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use brrbrr_gateway::spool::{Health, Limits, Spool, SpoolError};
use brrbrr_proto::id::{BootId, Seq};
use brrbrr_proto::live::{Activity, Pose, Status};
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use brrbrr_proto::up::{Alarm, Custom, Disk, Event, Loss, Record, Severity};

const NOW: WallClock = WallClock(1_795_205_700_000_000);
const MIB: u64 = 1024 * 1024;
const LIMIT: Duration = Duration::from_secs(60);

fn stamp(seconds: u64) -> Stamp {
    Stamp {
        boot: BootId(7),
        uptime: Uptime::new(Duration::from_secs(seconds)),
        wall: NOW,
    }
}

fn record(seconds: u64, event: Event) -> Record {
    Record {
        stamp: stamp(seconds),
        event,
    }
}

fn telemetry(seconds: u64) -> Record {
    let status = Status {
        activity: Some(Activity::Moving),
        pose: Some(Pose {
            x: 1.0,
            y: 2.0,
            theta: Some(0.5),
        }),
        battery: Some(0.5),
        speed: Some(1.2),
        ..Status::default()
    };
    record(seconds, Event::Telemetry(status))
}

fn custom(seconds: u64, size: usize) -> Record {
    let (kind, json) = ("note".to_owned(), "x".repeat(size));
    record(seconds, Event::Custom(Custom { kind, json }))
}

fn alarm(seconds: u64, size: usize) -> Record {
    let alarm = Alarm {
        code: "battery_low".to_owned(),
        severity: Severity::Warning,
        text: "x".repeat(size),
    };
    record(seconds, Event::Alarm(alarm))
}

const fn budget(max_bytes: u64) -> Limits {
    Limits {
        max_bytes,
        min_free_bytes: 0,
    }
}

/// What the spool takes on the disk.
fn size(path: &Path) -> u64 {
    let log = path.with_extension("db-wal");
    let length = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    length(path) + length(&log)
}

/// Waits until the spool says this of itself.
async fn wait_for(spool: &Spool, what: impl FnMut(&Health) -> bool) -> Health {
    let mut health = spool.health();
    let waited = tokio::time::timeout(LIMIT, health.wait_for(what)).await;
    let health = spool.health().borrow().clone();
    assert!(waited.is_ok(), "it was never so: {health:?}");
    health
}

/// Every row from `from` on, with the position it begins at.
async fn rows(spool: &Spool, from: Seq) -> Vec<(u64, u64, Record)> {
    let mut rows = Vec::new();
    let mut from = from;
    loop {
        let back = spool.read(from, 1_000, usize::MAX).await.unwrap();
        if back.items.is_empty() {
            return rows;
        }
        let mut at = back.first;
        for item in back.items {
            let record = Record::decode(&item.record).unwrap();
            rows.push((at.0, item.covers, record));
            at = at.plus(item.covers);
        }
        from = at;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_thousand_records_in_a_small_budget_keep_what_matters() {
    const TOTAL: u64 = 200_000;
    const BATCH: u64 = 250;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let limits = budget(16 * MIB);
    let (spool, _) = Spool::open(&path, limits, NOW).unwrap();
    // Telemetry each second, a large note each minute, and an alarm each hundred seconds.
    let make = |n: u64| match n {
        n if n % 100 == 0 => alarm(n, 40),
        n if n % 60 == 1 => custom(n, 6_000),
        n => telemetry(n),
    };
    let mut largest = 0;
    for batch in 0..TOTAL / BATCH {
        let records = (batch * BATCH..(batch + 1) * BATCH).map(make).collect();
        spool.append(records).await.unwrap();
        largest = largest.max(size(&path));
    }
    assert!(largest <= limits.budget(), "{largest} bytes");
    assert!(largest > limits.budget() / 2, "{largest} bytes");

    let (mut due, mut alarms, mut notes, mut samples, mut thinned) = (1, 0, 0, 0, 0);
    for (at, covers, record) in rows(&spool, Seq(1)).await {
        assert_eq!(at, due);
        due += covers;
        if let Event::Tombstone(gone) = &record.event {
            assert_eq!((gone.count, gone.loss), (covers, Loss::SpoolFull));
            assert!(gone.since.is_some() && gone.until.is_some());
        } else if let Event::Thinned(merged) = &record.event {
            assert_eq!(merged.count, covers);
            thinned += 1;
        } else {
            assert_eq!(record, make(at - 1));
            alarms += u64::from(matches!(record.event, Event::Alarm(_)));
            notes += u64::from(matches!(record.event, Event::Custom(_)));
            samples += u64::from(matches!(record.event, Event::Telemetry(_)));
        }
    }
    assert_eq!(due, TOTAL + 1);
    assert_eq!(alarms, TOTAL / 100, "no alarm is gone");
    println!("{notes} notes, {samples} samples and {thinned} thinned ones are left");
    assert!(notes > 1_000, "{notes} notes are left");
    let health = wait_for(&spool, |health| health.shed > 0).await;
    assert!(health.thinned > 0 && health.refused == 0, "{health:?}");
}

#[tokio::test]
async fn telemetry_goes_before_notes_and_notes_before_alarms() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let (spool, _) = Spool::open(&path, budget(MIB), NOW).unwrap();
    let one_of_each = |n: u64| vec![alarm(n, 200), telemetry(n), custom(n, 1_000)];
    let count = |rows: &[(u64, u64, Record)]| {
        let of = |is: fn(&Event) -> bool| rows.iter().filter(|row| is(&row.2.event)).count();
        let telemetry = of(|event| matches!(event, Event::Telemetry(_) | Event::Thinned(_)));
        let custom = of(|event| matches!(event, Event::Custom(_)));
        (
            telemetry,
            custom,
            of(|event| matches!(event, Event::Alarm(_))),
        )
    };
    for n in 0..1_200 {
        spool.append(one_of_each(n)).await.unwrap();
    }
    // Reading for the link would protect what is read, so this looks at the file.
    spool.close().await.unwrap();
    let found = model::rows_of(&path);
    let (telemetry_left, custom_left, alarms_left) = count(&found);
    assert_eq!(alarms_left, 1_200);
    assert!(telemetry_left < 60, "{telemetry_left} samples are left");
    assert!((1..1_000).contains(&custom_left), "{custom_left} are left");
    // The oldest of the notes are gone.
    let is_note = |row: &&(u64, u64, Record)| matches!(row.2.event, Event::Custom(_));
    let first_left = found.iter().find(is_note).unwrap();
    let newer = found.iter().filter(|row| row.0 >= first_left.0);
    assert_eq!(newer.filter(is_note).count(), custom_left);
    let expected = 1_200 - (first_left.0 - 1) / 3;
    assert_eq!(custom_left as u64, expected, "all newer ones are there");

    let (spool, _) = Spool::open(&path, budget(MIB), NOW).unwrap();
    for n in 1_200..2_400 {
        spool.append(vec![alarm(n, 1_000)]).await.unwrap();
    }
    spool.close().await.unwrap();
    let found = model::rows_of(&path);
    let (telemetry_left, custom_left, alarms_left) = count(&found);
    assert_eq!((telemetry_left, custom_left), (0, 0));
    assert!((500..1_000).contains(&alarms_left), "{alarms_left}");
    let Event::Tombstone(gone) = &found[0].2.event else {
        panic!("the oldest alarms are gone: {:?}", found[0]);
    };
    assert_eq!((gone.since, gone.count), (Some(stamp(0)), found[0].1));
    let newest = found.last().unwrap();
    assert_eq!(newest.2, alarm(2_399, 1_000));
}

/// The relay may have what was read; it goes only when nothing else is left.
#[tokio::test]
async fn what_is_on_its_way_to_the_relay_outlives_what_waits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let (spool, _) = Spool::open(&path, budget(MIB), NOW).unwrap();
    let first = (0..100).map(|n| custom(n, 1_000)).collect();
    spool.append(first).await.unwrap();
    let read = spool.read(Seq(1), 100, usize::MAX).await.unwrap();
    for n in 100..2_000 {
        spool.append(vec![custom(n, 1_000)]).await.unwrap();
    }
    let again = spool.read(Seq(1), 100, usize::MAX).await.unwrap();
    assert!(again == read, "it is all there");
    let rest = rows(&spool, Seq(101)).await;
    assert!(
        matches!(rest[0].2.event, Event::Tombstone(_)),
        "{:?}",
        rest[0]
    );
}

/// A tombstone for each second record takes as much room as what it replaces.
#[tokio::test]
async fn small_records_of_two_kinds_in_turn_still_fit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let (spool, _) = Spool::open(&path, budget(MIB), NOW).unwrap();
    let arrived = |n| {
        let arrived = brrbrr_proto::up::Arrived {
            command: None,
            pose: None,
        };
        record(n, Event::Arrived(arrived))
    };
    let bare = |n| record(n, Event::Telemetry(Status::default()));
    for n in 0..200 {
        let records = (0..100).flat_map(|m| [bare(n * 100 + m), arrived(n * 100 + m)]);
        spool.append(records.collect()).await.unwrap();
        assert!(size(&path) <= MIB, "{} bytes", size(&path));
    }
    let found = rows(&spool, Seq(1)).await;
    let covered: u64 = found.iter().map(|row| row.1).sum();
    assert_eq!(covered, 40_000);
    assert_eq!(found.last().unwrap().2, arrived(19_999));
}

#[tokio::test]
async fn what_can_never_fit_is_refused_and_nothing_goes_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let (spool, _) = Spool::open(&path, budget(MIB), NOW).unwrap();
    spool.append(vec![telemetry(1)]).await.unwrap();
    let large = (0..20).map(|n| custom(n, 60_000)).collect();
    let refused = spool.append(large).await.unwrap_err();
    assert!(matches!(refused, SpoolError::Full { .. }), "{refused}");
    assert!(
        refused.to_string().contains("raise the budget"),
        "{refused}"
    );
    assert_eq!(rows(&spool, Seq(1)).await.len(), 1);
    let health = wait_for(&spool, |health| health.refused == 1).await;
    assert_eq!((health.disk, health.shed), (Disk::Fine, 0));
}

#[tokio::test]
async fn health_tells_of_the_room_that_is_made_and_gaps_list_what_went() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let (spool, state) = Spool::open(&path, budget(MIB), NOW).unwrap();
    let health = spool.health().borrow().clone();
    assert_eq!((health.epoch, health.disk), (state.epoch, Disk::Fine));
    assert_eq!((health.budget, health.oldest), (MIB, None));
    spool.append(vec![alarm(3, 10)]).await.unwrap();
    wait_for(&spool, |health| health.oldest == Some(stamp(3))).await;
    assert_eq!(spool.gaps(10).await.unwrap(), []);

    for n in 0..100 {
        spool.append(vec![custom(10 + n, 20_000)]).await.unwrap();
    }
    let health = wait_for(&spool, |health| health.shed > 0).await;
    assert_eq!(health.disk, Disk::Short, "{health:?}");
    assert!(
        health.detail.contains("1 MiB: the oldest custom events go"),
        "{health:?}"
    );
    assert!(health.bytes <= MIB, "{health:?}");
    // Some time after the last room was made it is over.
    let health = wait_for(&spool, |health| health.disk == Disk::Fine).await;
    let gaps = spool.gaps(10).await.unwrap();
    let [gap] = gaps[..] else {
        panic!("one gap: {gaps:?}")
    };
    assert_eq!((gap.first, gap.reason), (Seq(2), Loss::SpoolFull));
    assert_eq!((gap.covers, gap.since), (gap.count, Some(stamp(10))));
    assert_eq!((health.shed, health.refused), (gap.count, 0));
    assert_eq!(spool.state().await.unwrap().next, Seq(102));
}

/// A small disk of its own, which only root may make.
struct SmallDisk {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl SmallDisk {
    fn mount(megabytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={megabytes}m"))
            .arg("tmpfs")
            .arg(&path)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self {
                _folder: folder,
                path,
            }),
            other => {
                println!("skipped: a small disk cannot be mounted here: {other:?}");
                None
            }
        }
    }

    fn free(&self) -> u64 {
        let disk = rustix::fs::statvfs(&self.path).unwrap();
        disk.f_bavail * disk.f_frsize
    }

    /// Another program writes until only this much is free.
    fn leave(&self, free: u64) {
        let mut options = fs::File::options();
        let filler = options
            .create(true)
            .append(true)
            .open(self.path.join("filler"));
        let filler = filler.unwrap();
        let length = filler.metadata().unwrap().len();
        if let Some(more) = self.free().checked_sub(free).filter(|more| *more > 0) {
            let plain = rustix::fs::FallocateFlags::empty();
            // The spool may have been faster; then less is free than was meant.
            rustix::fs::fallocate(&filler, plain, length, more).ok();
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let path = &self.path;
        let unmounted = Command::new("umount").arg("-l").arg(path).status();
        assert!(unmounted.unwrap().success());
    }
}

#[tokio::test]
async fn a_disk_that_another_program_fills_shrinks_the_spool_to_its_share_and_no_further() {
    const FLOOR: u64 = 8 * MIB;
    let Some(disk) = SmallDisk::mount(64) else {
        return;
    };
    let limits = Limits {
        max_bytes: 32 * MIB,
        min_free_bytes: FLOOR,
    };
    let share = limits.budget() / Limits::SHARE;
    let path = disk.path.join("spool.db");
    let (spool, _) = Spool::open(&path, limits, NOW).unwrap();
    let mut n = 0;
    let mut more = || {
        n += 40;
        (n - 40..n).map(|n| custom(n, 2_000)).collect::<Vec<_>>()
    };
    while fs::metadata(&path).unwrap().len() < 20 * MIB {
        spool.append(more()).await.unwrap();
    }
    assert_eq!(spool.health().borrow().disk, Disk::Fine);

    // The other program takes six megabytes of the floor: the spool gives as much back.
    disk.leave(FLOOR - 6 * MIB);
    let given_back = async {
        while disk.free() < FLOOR {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, given_back).await.unwrap();
    let health = wait_for(&spool, |health| health.shed > 0).await;
    assert_eq!(health.disk, Disk::Short, "{health:?}");
    assert!(health.bytes > 10 * MIB, "no more than that: {health:?}");
    for _ in 0..20 {
        spool.append(more()).await.unwrap();
    }

    // It takes all there is, again and again: the spool keeps its share and refuses the rest.
    let mut refused = 0;
    let filled = async {
        while refused < 5 {
            disk.leave(MIB);
            let r = spool.append(more()).await;
            eprintln!(
                "R {:?} free {} health {:?}",
                r.as_ref().map(|_| ()),
                disk.free(),
                spool.health().borrow().clone()
            );
            refused = match r {
                Ok(_) => 0,
                // Where the other program was faster than the look at the free space, it is full.
                Err(SpoolError::BelowFloor { .. } | SpoolError::DiskFull(_)) => refused + 1,
                Err(other) => panic!("{other}"),
            };
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, filled).await.unwrap();
    let health = wait_for(&spool, |health| health.disk == Disk::Failing).await;
    let says_why = ["8 MiB free", "disk is full"];
    let says_why = says_why.iter().any(|why| health.detail.contains(why));
    assert!(says_why, "{health:?}");
    assert!(health.bytes >= share, "{health:?}");

    // There is room again: the spool notices, takes more, and has every position.
    fs::remove_file(disk.path.join("filler")).unwrap();
    wait_for(&spool, |health| health.disk == Disk::Fine).await;
    let last = more();
    let appended = spool.append(last.clone()).await.unwrap();
    let found = rows(&spool, Seq(1)).await;
    let mut due = 1;
    for (at, covers, _) in &found {
        assert_eq!(*at, due);
        due += covers;
    }
    assert_eq!(Seq(due), appended.next);
    assert_eq!(Some(&found.last().unwrap().2), last.last());
}
