//! What the spool promises, against real files and a process that is killed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};
use std::time::Duration;

use brrbrr_gateway::spool::{
    CommandChange, Entry, HandOver, Limits, Spool, SpoolError, SpoolState, StoredCommand,
};
use brrbrr_gateway::spool::{RELEASE_DELAY, SourceId};
use brrbrr_proto::down::{Command, GoTo, Order};
use brrbrr_proto::id::{BootId, CommandId, Cursor, Epoch, Seq};
use brrbrr_proto::live::{Activity, Pose, Status};
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use brrbrr_proto::up::{
    Alarm, Custom, Event, Loss, MAX_RECORD_BYTES, Progress, Record, Severity, Tombstone,
};

const NOW: WallClock = WallClock(1_795_205_700_000_000);

fn stamp() -> Stamp {
    Stamp {
        boot: BootId(7),
        uptime: Uptime::default(),
        wall: NOW,
    }
}

fn record(number: u64) -> Record {
    Record {
        stamp: stamp(),
        event: Event::Custom(Custom {
            kind: "number".to_owned(),
            json: number.to_string(),
        }),
    }
}

fn tombstone(count: u64) -> Record {
    Record {
        stamp: stamp(),
        event: Event::Tombstone(Tombstone {
            count,
            loss: Loss::SpoolFull,
            since: None,
            until: None,
        }),
    }
}

fn number(bytes: &[u8]) -> u64 {
    let record: Record = postcard::from_bytes(bytes).unwrap();
    let Event::Custom(custom) = record.event else {
        panic!("not a number: {record:?}");
    };
    custom.json.parse().unwrap()
}

fn go_to(id: u128) -> Command {
    Command {
        id: CommandId(id),
        time_to_live: Duration::from_secs(60),
        order: Order::GoTo(GoTo {
            pose: Pose {
                x: 34.6,
                y: 445.6,
                theta: None,
            },
            floor: Some(7),
            place: "701호".to_owned(),
        }),
    }
}

struct Folder {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

fn folder() -> Folder {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    Folder {
        _folder: folder,
        path,
    }
}

fn open(path: &Path) -> (Spool, SpoolState) {
    Spool::open(path, Limits::default(), NOW).unwrap()
}

/// Lets go of what the epoch that is now has before `next`.
async fn release(spool: &Spool, next: Seq) {
    let epoch = spool.state().await.unwrap().epoch;
    spool.release(epoch, next).await.unwrap();
}

async fn numbers(spool: &Spool, from: u64) -> Vec<u64> {
    let back = spool.read(Seq(from), 10_000, usize::MAX).await.unwrap();
    back.items.iter().map(|item| number(&item.record)).collect()
}

#[tokio::test]
async fn records_get_positions_from_one_and_are_read_back_in_order() {
    let folder = folder();
    let (spool, state) = open(&folder.path);
    assert_eq!((state.first, state.next), (Seq(1), Seq(1)));
    let appended = spool.append(vec![record(1), record(2)]).await.unwrap();
    assert_eq!((appended.first, appended.next), (Seq(1), Seq(3)));
    let appended = spool.append(vec![record(3)]).await.unwrap();
    assert_eq!((appended.first, appended.next), (Seq(3), Seq(4)));

    let back = spool.read(Seq(2), 10, usize::MAX).await.unwrap();
    assert_eq!((back.epoch, back.first), (state.epoch, Seq(2)));
    assert_eq!(numbers(&spool, 2).await, [2, 3]);
    let none = spool.read(Seq(4), 10, usize::MAX).await.unwrap();
    assert_eq!((none.first, none.items.len()), (Seq(4), 0));
}

#[tokio::test]
async fn a_read_keeps_to_its_limits_and_still_makes_progress() {
    let folder = folder();
    let (spool, _) = open(&folder.path);
    spool.append((1..=9).map(record).collect()).await.unwrap();
    let of = |items, bytes| {
        let spool = spool.clone();
        async move { spool.read(Seq(1), items, bytes).await.unwrap().items.len() }
    };
    assert_eq!(of(4, usize::MAX).await, 4);
    assert_eq!(of(100, 0).await, 1);
    let row = postcard::to_stdvec(&record(1)).unwrap().len();
    assert_eq!(of(100, row * 3 + 1).await, 3);
}

#[tokio::test]
async fn a_restart_goes_on_where_the_last_run_stopped() {
    let folder = folder();
    let (spool, first) = open(&folder.path);
    spool.append((1..=3).map(record).collect()).await.unwrap();
    let status = Status {
        activity: Some(Activity::Moving),
        battery: Some(0.5),
        ..Status::default()
    };
    spool.set_status(status.clone()).await.unwrap();
    spool.close().await.unwrap();
    assert!(matches!(
        spool.append(vec![record(4)]).await,
        Err(SpoolError::Closed)
    ));

    let (spool, again) = open(&folder.path);
    assert_eq!(again.epoch, first.epoch);
    assert_eq!((again.first, again.next), (Seq(1), Seq(4)));
    assert_eq!(again.status, status);
    assert_eq!(numbers(&spool, 1).await, [1, 2, 3]);
}

#[tokio::test]
async fn positions_are_not_used_again_after_everything_was_released() {
    let folder = folder();
    let (spool, _) = open(&folder.path);
    spool
        .append((1..=10_000).map(record).collect())
        .await
        .unwrap();
    release(&spool, Seq(10_001)).await;
    spool.close().await.unwrap();
    // Closing deletes one step of a release; the rest goes after the next start.
    let (spool, state) = open(&folder.path);
    assert_eq!(state.next, Seq(10_001));
    release(&spool, Seq(10_001)).await;
    let appended = spool.append(vec![record(1)]).await.unwrap();
    assert_eq!(appended.first, Seq(10_001));
    release(&spool, Seq(10_002)).await;
    wait_until_empty(&spool).await;
    spool.close().await.unwrap();
    let (_, state) = open(&folder.path);
    assert_eq!((state.first, state.next), (Seq(10_002), Seq(10_002)));
}

/// An idle spool deletes what was released by itself; this waits for it.
async fn wait_until_empty(spool: &Spool) {
    let emptied = async {
        while !spool
            .read(Seq(1), 1, usize::MAX)
            .await
            .unwrap()
            .items
            .is_empty()
        {
            tokio::task::yield_now().await;
        }
    };
    let limit = RELEASE_DELAY + Duration::from_secs(20);
    tokio::time::timeout(limit, emptied).await.unwrap();
}

#[tokio::test]
async fn what_was_released_goes_with_the_next_append() {
    let folder = folder();
    let (spool, _) = open(&folder.path);
    spool.append((1..=3).map(record).collect()).await.unwrap();
    release(&spool, Seq(3)).await;
    spool.append(vec![record(4)]).await.unwrap();
    assert_eq!(spool.commits().await.unwrap(), 2);
    assert_eq!(numbers(&spool, 1).await, [3, 4]);
}

#[tokio::test]
async fn a_tombstone_stands_for_all_its_positions_until_they_are_all_released() {
    let folder = folder();
    let (spool, _) = open(&folder.path);
    let appended = spool
        .append(vec![tombstone(10_000), record(1)])
        .await
        .unwrap();
    assert_eq!(appended.next, Seq(10_002));
    release(&spool, Seq(5_000)).await;
    spool.append(vec![record(2)]).await.unwrap();
    let back = spool.read(Seq(1), 10, usize::MAX).await.unwrap();
    let covers: Vec<u64> = back.items.iter().map(|item| item.covers).collect();
    assert_eq!((back.first, covers), (Seq(1), vec![10_000, 1, 1]));
    release(&spool, Seq(10_001)).await;
    spool.append(vec![record(3)]).await.unwrap();
    let back = spool.read(Seq(10_001), 10, usize::MAX).await.unwrap();
    assert_eq!((back.first, back.items.len()), (Seq(10_001), 3));
}

#[tokio::test]
async fn a_read_from_the_middle_of_a_tombstone_gives_the_rest_of_it() {
    let folder = folder();
    let (spool, _) = open(&folder.path);
    spool
        .append(vec![record(1), tombstone(100), record(2)])
        .await
        .unwrap();
    let back = spool.read(Seq(60), 10, usize::MAX).await.unwrap();
    let covers: Vec<u64> = back.items.iter().map(|item| item.covers).collect();
    assert_eq!((back.first, covers), (Seq(60), vec![42, 1]));
    let whole = spool.read(Seq(2), 1, usize::MAX).await.unwrap();
    assert_eq!(back.items[0].record, whole.items[0].record);
    let back = spool.read(Seq(102), 10, usize::MAX).await.unwrap();
    assert_eq!((back.first, back.items.len()), (Seq(102), 1));
}

/// What is left of a release that ends inside a row must not come due again and again.
#[tokio::test]
async fn a_release_into_a_tombstone_costs_one_commit_and_then_rests() {
    let folder = folder();
    let (spool, _) = open(&folder.path);
    spool.append(vec![record(1), tombstone(100)]).await.unwrap();
    release(&spool, Seq(50)).await;
    let released = async {
        while spool.commits().await.unwrap() < 2 {
            tokio::task::yield_now().await;
        }
    };
    let limit = RELEASE_DELAY + Duration::from_secs(20);
    tokio::time::timeout(limit, released).await.unwrap();
    for _ in 0..1_000 {
        assert_eq!(spool.read(Seq(1), 10, 1).await.unwrap().first, Seq(2));
    }
    assert_eq!(spool.commits().await.unwrap(), 2);
}

#[tokio::test]
async fn a_row_that_rotted_is_an_error_that_names_it_and_what_is_before_it_is_read() {
    let folder = folder();
    let (spool, _) = open(&folder.path);
    spool.append((1..=9).map(record).collect()).await.unwrap();
    spool.close().await.unwrap();
    let database = rusqlite::Connection::open(&folder.path).unwrap();
    let rot = "UPDATE record SET bytes = zeroblob(length(bytes)) WHERE seq = 5";
    assert_eq!(database.execute(rot, []).unwrap(), 1);
    drop(database);

    let (spool, state) = open(&folder.path);
    assert_eq!(state.salvaged, None);
    assert_eq!(numbers(&spool, 1).await, [1, 2, 3, 4]);
    let rotten = spool.read(Seq(5), 10, usize::MAX).await.unwrap_err();
    assert!(
        rotten.to_string().contains("row 5 of table record"),
        "{rotten}"
    );
    assert_eq!(numbers(&spool, 6).await, [6, 7, 8, 9]);
}

#[tokio::test]
async fn a_row_that_is_missing_is_an_error_and_not_skipped() {
    let folder = folder();
    let (spool, _) = open(&folder.path);
    spool.append((1..=9).map(record).collect()).await.unwrap();
    spool.close().await.unwrap();
    let database = rusqlite::Connection::open(&folder.path).unwrap();
    database
        .execute("DELETE FROM record WHERE seq = 5", [])
        .unwrap();
    drop(database);

    let (spool, _) = open(&folder.path);
    assert_eq!(numbers(&spool, 1).await, [1, 2, 3, 4]);
    let missing = spool.read(Seq(5), 10, usize::MAX).await.unwrap_err();
    assert!(matches!(missing, SpoolError::Corrupt { .. }), "{missing}");
}

#[tokio::test]
async fn a_spool_whose_ends_or_state_rotted_is_moved_aside() {
    for rot in [
        "UPDATE record SET covers = 7 WHERE seq = 9",
        "UPDATE record SET class = 0 WHERE seq = 1",
        "UPDATE stream SET released = 3",
        "UPDATE stream SET status = x'00'",
        "UPDATE identity SET shift = 3",
    ] {
        let folder = folder();
        let (spool, _) = open(&folder.path);
        spool.append((1..=9).map(record).collect()).await.unwrap();
        spool.close().await.unwrap();
        let database = rusqlite::Connection::open(&folder.path).unwrap();
        assert_eq!(database.execute(rot, []).unwrap(), 1);
        drop(database);
        let (_, state) = open(&folder.path);
        assert!(state.salvaged.is_some(), "{rot}");
    }
}

#[tokio::test]
async fn a_spool_of_another_format_is_moved_aside_or_left_alone() {
    let folder = folder();
    let set = |format: i64| {
        let database = rusqlite::Connection::open(&folder.path).unwrap();
        database
            .pragma_update(None, "user_version", format)
            .unwrap();
    };
    let (spool, before) = open(&folder.path);
    spool.close().await.unwrap();
    set(1);
    let (spool, state) = open(&folder.path);
    assert!(state.salvaged.unwrap().moved_to.exists());
    assert_eq!(state.epoch, before.epoch);
    spool.close().await.unwrap();
    set(1_000);
    let newer = Spool::open(&folder.path, Limits::default(), NOW);
    assert!(matches!(newer, Err(SpoolError::Newer { .. })), "{newer:?}");
}

#[tokio::test]
async fn a_new_epoch_numbers_what_waits_from_one() {
    let folder = folder();
    let (spool, _) = open(&folder.path);
    spool
        .append((1..=9_000).map(record).collect())
        .await
        .unwrap();
    release(&spool, Seq(8_998)).await;
    let renewed = spool.renew_epoch(Epoch(42)).await.unwrap();
    assert_eq!(renewed.epoch, Epoch(42));
    assert_eq!((renewed.first, renewed.next), (Seq(1), Seq(4)));
    assert_eq!(numbers(&spool, 1).await, [8_998, 8_999, 9_000]);
    spool.append(vec![record(9_001)]).await.unwrap();
    release(&spool, Seq(3)).await;
    spool.close().await.unwrap();

    let (spool, again) = open(&folder.path);
    assert_eq!(again.epoch, Epoch(42));
    assert_eq!((again.first, again.next), (Seq(3), Seq(5)));
    assert_eq!(numbers(&spool, 1).await, [9_000, 9_001]);
}

#[tokio::test]
async fn a_release_of_another_epoch_lets_go_of_nothing() {
    let folder = folder();
    let (spool, state) = open(&folder.path);
    spool.append((1..=9).map(record).collect()).await.unwrap();
    release(&spool, Seq(4)).await;
    spool.renew_epoch(Epoch(42)).await.unwrap();
    // An acknowledgement that was on its way: these positions mean other records now.
    spool.release(state.epoch, Seq(10)).await.unwrap();
    spool.append(vec![record(10)]).await.unwrap();
    assert_eq!(numbers(&spool, 1).await, [4, 5, 6, 7, 8, 9, 10]);
}

#[tokio::test]
async fn a_record_that_the_link_cannot_carry_is_refused_and_writes_nothing() {
    let folder = folder();
    let (spool, _) = open(&folder.path);
    let long = Record {
        stamp: stamp(),
        event: Event::Alarm(Alarm {
            code: "long".to_owned(),
            severity: Severity::Notice,
            text: "x".repeat(MAX_RECORD_BYTES),
        }),
    };
    let refused = spool.append(vec![record(1), long]).await;
    assert!(matches!(refused, Err(SpoolError::RecordTooLong(_))));
    assert_eq!(spool.append(vec![]).await.unwrap().next, Seq(1));
}

#[tokio::test]
async fn a_message_of_a_known_source_is_written_once() {
    let folder = folder();
    let (spool, _) = open(&folder.path);
    let source = SourceId("message-1".to_owned());
    assert!(!spool.knows(source.clone()).await.unwrap());
    let write = || spool.append_from_source(Some(source.clone()), vec![record(1)]);
    assert!(!write().await.unwrap().duplicate);
    assert!(write().await.unwrap().duplicate);
    spool.close().await.unwrap();
    let (spool, state) = open(&folder.path);
    assert_eq!(state.next, Seq(2));
    assert!(spool.knows(source).await.unwrap());
}

#[tokio::test]
async fn commands_are_kept_with_their_cursor_and_known_when_they_come_again() {
    let folder = folder();
    let (spool, state) = open(&folder.path);
    assert_eq!(state.down, None);
    let (boot, now) = (BootId(7), Uptime::new(Duration::from_secs(5)));
    let cursor = |next| Cursor {
        epoch: Epoch(9),
        next: Seq(next),
    };
    let stored = |id| StoredCommand::received(go_to(id), boot, now);
    let first = vec![(stored(1), record(1)), (stored(2), record(2))];
    let fresh = spool.store_commands(cursor(3), first).await.unwrap().fresh;
    assert_eq!(fresh, [CommandId(1), CommandId(2)]);
    let again = vec![(stored(2), record(3)), (stored(3), record(4))];
    let fresh = spool.store_commands(cursor(4), again).await.unwrap().fresh;
    assert_eq!(fresh, [CommandId(3)]);
    assert_eq!(numbers(&spool, 1).await, [1, 2, 4]);

    let change = |id, progress, hand_over| CommandChange {
        id: CommandId(id),
        progress,
        hand_over,
    };
    let changes = vec![
        change(1, Progress::Succeeded, HandOver::Arrived),
        change(2, Progress::Running, HandOver::Confirmed),
        change(3, Progress::Superseded, HandOver::NotYet),
    ];
    spool
        .update_commands(changes, vec![record(5)])
        .await
        .unwrap();
    spool.close().await.unwrap();

    let (_, state) = open(&folder.path);
    assert_eq!(state.down, Some(cursor(4)));
    let running = StoredCommand {
        progress: Progress::Running,
        hand_over: HandOver::Confirmed,
        ..stored(2)
    };
    assert_eq!(state.commands, [running]);
    let last = state.last_motion.unwrap();
    assert_eq!(last.command.id, CommandId(3));
    assert_eq!(last.progress, Progress::Superseded);
}

#[tokio::test]
async fn many_callers_share_few_commits() {
    const CALLERS: u64 = 64;
    const EACH: u64 = 20;
    let folder = folder();
    let (spool, _) = open(&folder.path);
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let spool = spool.clone();
            tokio::spawn(async move {
                for n in 0..EACH {
                    let appended = spool.append(vec![record(caller * EACH + n)]).await;
                    appended.unwrap();
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let commits = spool.commits().await.unwrap();
    assert!(commits * 4 <= CALLERS * EACH, "{commits} commits");
    let mut all = numbers(&spool, 1).await;
    all.sort_unstable();
    assert_eq!(all, (0..CALLERS * EACH).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_second_process_is_told_that_the_spool_is_in_use() {
    let folder = folder();
    let (_spool, _) = open(&folder.path);
    let second = Spool::open(&folder.path, Limits::default(), NOW);
    assert!(matches!(second, Err(SpoolError::Locked(_))), "{second:?}");
}

#[tokio::test]
async fn a_damaged_spool_is_moved_aside_and_a_new_one_is_begun() {
    let folder = folder();
    let (spool, before) = open(&folder.path);
    spool.append((1..=500).map(record).collect()).await.unwrap();
    spool.close().await.unwrap();
    let damaged = b"this is no database, whatever its name says ".repeat(100);
    std::fs::write(&folder.path, &damaged).unwrap();

    let (spool, state) = open(&folder.path);
    let aside = state.salvaged.unwrap().moved_to;
    assert!(
        aside
            .to_string_lossy()
            .ends_with(".damaged-20261120T201500Z"),
        "{aside:?}"
    );
    assert_eq!(std::fs::read(aside).unwrap(), damaged);
    assert_ne!(state.epoch, before.epoch);
    // The first position says that nobody knows what is missing.
    assert_eq!(spool.append(vec![record(1)]).await.unwrap().first, Seq(2));
}

#[tokio::test]
async fn a_new_file_can_give_room_back_to_the_disk() {
    const INCREMENTAL: i64 = 2;
    let folder = folder();
    let (spool, _) = open(&folder.path);
    spool.close().await.unwrap();
    let database = rusqlite::Connection::open(&folder.path).unwrap();
    let mode = database.pragma_query_value(None, "auto_vacuum", |row| row.get::<_, i64>(0));
    assert_eq!(mode.unwrap(), INCREMENTAL);
}

#[tokio::test]
async fn an_empty_entry_costs_nothing_but_a_commit() {
    let folder = folder();
    let (spool, _) = open(&folder.path);
    let written = spool.write(Entry::default()).await.unwrap();
    assert_eq!(written.appended.first, written.appended.next);
}

const CHILD_SPOOL: &str = "BRRBRR_TEST_CHILD_SPOOL";

#[test]
fn what_was_acknowledged_outlives_a_sigkill() {
    let folder = folder();
    let mut next_number = 0;
    for round in 0..5 {
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args(["--exact", "spool::child_that_appends", "--ignored"])
            .args(["--nocapture", "--test-threads=1"])
            .env(CHILD_SPOOL, &folder.path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = Vec::new();
        for line in lines {
            let line = line.unwrap();
            if let Some((_, rest)) = line.split_once("acknowledged ") {
                acknowledged.push(rest.parse::<u64>().unwrap());
            }
            if acknowledged.len() == 200 + round * 37 {
                // What the pipe still holds was acknowledged as well.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();

        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let (spool, state) = open(&folder.path);
            let back = spool.read(Seq(1), 100_000, usize::MAX).await.unwrap();
            assert_eq!(back.first, Seq(1));
            assert_eq!(state.next, Seq(1).plus(back.items.len() as u64));
            let numbers: std::collections::BTreeSet<u64> =
                back.items.iter().map(|item| number(&item.record)).collect();
            assert_eq!(numbers.len(), back.items.len(), "none is there twice");
            for number in &acknowledged {
                assert!(numbers.contains(number), "{number} was acknowledged");
            }
            assert!(back.items.len() as u64 > next_number);
            next_number = back.items.len() as u64;
            spool.close().await.unwrap();
        });
    }
}

#[test]
#[ignore = "the process that another test kills"]
fn child_that_appends() {
    let Some(path) = std::env::var_os(CHILD_SPOOL) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (spool, state) = open(Path::new(&path));
        let tasks: Vec<_> = (0..8)
            .map(|task: u64| {
                let spool = spool.clone();
                tokio::spawn(async move {
                    for n in 0..1_000_000 {
                        let number = state.next.0 * 100_000_000 + task * 1_000_000 + n;
                        spool.append(vec![record(number)]).await.unwrap();
                        let mut out = std::io::stdout().lock();
                        writeln!(out, "acknowledged {number}").unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
}

const SMALL_DISK: &str = "BRRBRR_TEST_SMALL_DISK";

/// The child's files may not grow beyond half a megabyte, as on a disk that is full.
#[test]
fn a_disk_that_takes_no_more_is_an_error_and_loses_nothing_that_was_acknowledged() {
    let folder = folder();
    let test = std::env::current_exe().unwrap();
    let out = Process::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 1024; exec \"$@\"", "sh"])
        .arg(test)
        .args(["--exact", "spool::child_on_a_small_disk", "--ignored"])
        .args(["--nocapture", "--test-threads=1"])
        .env(SMALL_DISK, &folder.path)
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    let out = String::from_utf8(out.stdout).unwrap();
    // The test harness begins the first line.
    let acknowledged = out.lines().filter(|line| line.ends_with("acknowledged"));
    let (acknowledged, runtime) = (acknowledged.count(), tokio::runtime::Runtime::new());
    assert!(acknowledged > 0);
    runtime.unwrap().block_on(async {
        let (spool, state) = open(&folder.path);
        assert_eq!(state.salvaged, None);
        assert_eq!(numbers(&spool, 1).await.len(), acknowledged);
        let appended = spool.append(vec![record(0)]).await.unwrap();
        assert_eq!(appended.first, Seq(1).plus(acknowledged as u64));
    });
}

#[test]
#[ignore = "the process that another test starts"]
fn child_on_a_small_disk() {
    let Some(path) = std::env::var_os(SMALL_DISK) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (spool, _) = open(Path::new(&path));
        let mut refusals = 0;
        while refusals < 3 {
            match spool.append(vec![record(1)]).await {
                Ok(_) => println!("acknowledged"),
                Err(error) => {
                    assert!(
                        matches!(error, SpoolError::DiskFull(_) | SpoolError::Database { .. }),
                        "{error}"
                    );
                    refusals += 1;
                }
            }
        }
        spool.read(Seq(1), 10, usize::MAX).await.unwrap();
    });
}
