//! `brrbrr-relay records`, run as a process on a journal that was filled before.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use brrbrr_proto::id::{BootId, Epoch, RobotId, Seq};
use brrbrr_proto::link::relay::BoardClock;
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use brrbrr_proto::up::{Custom, Event, Item, Loss, Record, Tombstone};
use brrbrr_relay::journal::sqlite::SqliteJournal;
use brrbrr_relay::journal::{Entry, Journal, Run};
use jiff::Timestamp;
use serde_json::{Value, json};

/// A moment on the robot's board, in seconds.
fn at(second: u64) -> Stamp {
    Stamp {
        boot: BootId(0xb),
        uptime: Uptime::new(Duration::from_secs(second)),
        wall: WallClock(1_790_000_000_000_000),
    }
}

fn item(second: u64, event: Event) -> Item {
    let stamp = at(second);
    let record = Record { stamp, event };
    Item {
        covers: record.covers(),
        record: record.encode().unwrap(),
    }
}

fn custom(number: u64) -> Event {
    Event::Custom(Custom {
        kind: "count".to_owned(),
        json: json!({ "n": number }).to_string(),
    })
}

fn run(epoch: u64, items: Vec<Item>) -> Arc<Run> {
    Arc::new(Run {
        robot: RobotId::new(1).unwrap(),
        epoch: Epoch(epoch),
        first: Seq::FIRST,
        entries: items.into_iter().map(Entry::read).collect(),
        received: Timestamp::from_second(1_790_000_100).unwrap(),
        clock: BoardClock {
            boot: BootId(0xb),
            earliest: 1_790_000_000_000_000,
            latest: 1_790_000_000_010_000,
        },
    })
}

/// A journal with two incarnations of a robot's spool, one of them with a hole.
async fn fill(data: &Path) {
    let journal = SqliteJournal::open(&data.join("journal.sqlite")).unwrap();
    let tombstone = Tombstone {
        count: 3,
        loss: Loss::SpoolFull,
        since: Some(at(2)),
        until: Some(at(4)),
    };
    let items = vec![
        item(1, custom(1)),
        item(5, Event::Tombstone(tombstone)),
        item(6, custom(2)),
    ];
    journal.store(run(0xe1, items)).await.unwrap();
    let mut items = vec![item(7, custom(3))];
    items.push(Item {
        covers: 1,
        record: vec![255; 4],
    });
    journal.store(run(0xe2, items)).await.unwrap();
}

fn relay(data: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brrbrr-relay"));
    command.env_clear().args(arguments).arg("--data").arg(data);
    command.output().unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn records_are_printed_in_stream_order_one_a_line() {
    let data = tempfile::tempdir().unwrap();
    fill(data.path()).await;
    let printed = lines(&relay(data.path(), &["records", "--robot", "1", "--jsonl"]));
    let short = |line: &Value| {
        let field = |name: &str| line[name].clone();
        json!([field("epoch"), field("seq"), field("covers"), field("kind")])
    };
    let short: Vec<Value> = printed.iter().map(short).collect();
    let (one, two) = ("00000000000000e1", "00000000000000e2");
    assert_eq!(
        short,
        [
            json!([one, 1, 1, "custom"]),
            json!([one, 2, 3, "tombstone"]),
            json!([one, 5, 1, "custom"]),
            json!([two, 1, 1, "custom"]),
            json!([two, 2, 1, "unreadable"]),
        ]
    );
    assert_eq!(
        printed[0]["event"],
        json!({"kind": "count", "data": {"n": 1}})
    );
    assert_eq!(printed[1]["event"]["reason"], "full");
    assert_eq!(printed[0]["received"], "2026-09-21T14:15:00Z");
}

#[tokio::test]
async fn a_robot_without_records_prints_nothing_and_a_folder_without_a_journal_is_an_error() {
    let data = tempfile::tempdir().unwrap();
    let nothing = relay(data.path(), &["records", "--robot", "1"]);
    assert_eq!(nothing.status.code(), Some(1));
    let said = String::from_utf8_lossy(&nothing.stderr).into_owned();
    assert!(said.contains("there is no journal in"), "{said}");
    fill(data.path()).await;
    assert_eq!(
        lines(&relay(data.path(), &["records", "--robot", "2"])).len(),
        0
    );
    let nobody = relay(data.path(), &["records"]);
    assert_eq!(nobody.status.code(), Some(2), "a robot must be named");
}

#[tokio::test]
async fn gaps_are_printed_newest_first() {
    let data = tempfile::tempdir().unwrap();
    fill(data.path()).await;
    let printed = lines(&relay(data.path(), &["gaps", "--robot", "1"]));
    assert_eq!(printed.len(), 1);
    let gap = &printed[0];
    let positions = json!([gap["first"], gap["last"], gap["count"], gap["reason"]]);
    assert_eq!(positions, json!([2, 4, 3, "full"]));
    assert_eq!(gap["since"]["basis"], "session");
}
