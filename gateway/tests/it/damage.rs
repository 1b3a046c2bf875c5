//! What is left of a spool whose files rotted: everything that is whole, in order and at its place,
//! and tombstones for the rest.
//!
//! A spool with some of everything is copied while it is open, as a crash would leave it. Each case
//! changes one place of one file and opens the copy with the real [`Spool`]. What no reader of the
//! files can notice is counted apart: the log's last transaction rotted, or its end is missing. Both
//! look like a power cut.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use brrbrr_gateway::spool::{
    CommandChange, HandOver, Limits, SourceId, Spool, SpoolState, StoredCommand,
};
use brrbrr_proto::down::{Command, Order};
use brrbrr_proto::id::{BootId, CommandId, Cursor, Epoch, Seq};
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use brrbrr_proto::up::{Custom, Event, Loss, Progress, Record};

const NOW: WallClock = WallClock(1_795_205_700_000_000);
/// The log is folded into the file every 128 pages.
const LIMITS: Limits = Limits {
    max_bytes: 8 * 1024 * 1024,
    min_free_bytes: 0,
};
const CASES: u64 = 100;
const RECORDS: u64 = 900;
/// The position of the first record that was not released.
const FIRST: u64 = 201;
const PAGE: usize = 1024;

/// A generator that is the same everywhere: the seeds are part of the test.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x6a09_e667_f3bc_c908)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 11).unwrap() % limit
    }
}

/// A record of which each number has its own, most of them short and some over many pages.
pub(crate) fn record(number: u64) -> Record {
    let length = match number % 97 {
        0 => 30_000,
        1..=3 => 5_000,
        rest => usize::try_from(rest).unwrap(),
    };
    let wall = WallClock(NOW.0 + i64::try_from(number).unwrap());
    Record {
        stamp: Stamp {
            boot: BootId(7),
            uptime: Uptime::new(Duration::from_millis(number)),
            wall,
        },
        event: Event::Custom(Custom {
            kind: number.to_string(),
            json: "x".repeat(length),
        }),
    }
}

pub(crate) fn command(id: u128) -> StoredCommand {
    let command = Command {
        id: CommandId(id),
        time_to_live: Duration::from_secs(60),
        order: Order::Stop,
    };
    StoredCommand::received(command, BootId(7), Uptime::default())
}

const DOWN: Cursor = Cursor {
    epoch: Epoch(9),
    next: Seq(3),
};

struct Template {
    _folder: tempfile::TempDir,
    main: Vec<u8>,
    log: Vec<u8>,
    epoch: Epoch,
}

/// Where the last transaction of a log begins, and where its frames end.
fn last_transaction(log: &[u8]) -> std::ops::Range<usize> {
    let salts = &log[16..24];
    let mut ends = vec![32];
    let mut at = 32;
    while at + 24 + PAGE <= log.len() && &log[at + 8..at + 16] == salts {
        let commits = log[at + 4..at + 8] != [0; 4];
        at += 24 + PAGE;
        if commits {
            ends.push(at);
        }
    }
    ends[ends.len() - 2]..ends[ends.len() - 1]
}

async fn template() -> Template {
    let folder = crate::power_cut::folder();
    let path = folder.path().join("spool.db");
    let (spool, state) = open(&path);
    let commands = vec![(command(1), record(1)), (command(2), record(2))];
    spool.store_commands(DOWN, commands).await.unwrap();
    let mut number = 3;
    while number <= RECORDS {
        let end = (number + 5).min(RECORDS + 1);
        let records = (number..end).map(record).collect();
        let source = SourceId(format!("message-{number}"));
        let written = spool.append_from_source(Some(source), records).await;
        assert!(!written.unwrap().duplicate);
        number = end;
        if number > 400 {
            // What was released goes with the next commit.
            spool.release(state.epoch, Seq(FIRST)).await.unwrap();
        }
    }
    let change = CommandChange {
        id: CommandId(1),
        progress: Progress::Succeeded,
        hand_over: HandOver::Arrived,
    };
    spool.update_commands(vec![change], vec![]).await.unwrap();
    spool.append(vec![record(RECORDS + 1)]).await.unwrap();
    let main = fs::read(&path).unwrap();
    let log = fs::read(log_of(&path)).unwrap();
    assert!(
        main.len() > 100 * PAGE,
        "{} bytes of {}",
        main.len(),
        log.len()
    );
    assert!(last_transaction(&log).start > 20 * PAGE, "{}", log.len());
    Template {
        _folder: folder,
        main,
        log,
        epoch: state.epoch,
    }
}

fn log_of(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-wal", path.display()))
}

fn open(path: &Path) -> (Spool, SpoolState) {
    Spool::open(path, LIMITS, NOW).unwrap()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Harm {
    FlippedBit,
    ZeroedPage,
    RandomPage,
    Truncated,
}

/// Harms one place of a file and says where.
fn harm(bytes: &mut Vec<u8>, harm: Harm, random: &mut Random) -> std::ops::Range<usize> {
    let at = random.below(bytes.len());
    let page = at / PAGE * PAGE..(at / PAGE * PAGE + PAGE).min(bytes.len());
    match harm {
        Harm::FlippedBit => {
            bytes[at] ^= 1 << random.below(8);
            at..at + 1
        }
        Harm::ZeroedPage => {
            bytes[page.clone()].fill(0);
            page
        }
        Harm::RandomPage => {
            for byte in &mut bytes[page.clone()] {
                *byte = u8::try_from(random.next() >> 56).unwrap();
            }
            page
        }
        Harm::Truncated => {
            let end = bytes.len();
            bytes.truncate(at);
            at..end
        }
    }
}

/// What a spool gives back from its first position on.
pub(crate) async fn read_all(spool: &Spool, from: Seq) -> Vec<(Seq, u64, Vec<u8>)> {
    let mut items = Vec::new();
    let mut next = from;
    loop {
        let back = match spool.read(next, 1000, 1 << 20).await {
            Ok(back) => back,
            // The spool saves what it can and goes on.
            Err(error) => {
                assert!(error.to_string().contains("spool"), "{error}");
                spool.read(next, 1000, 1 << 20).await.unwrap()
            }
        };
        if back.items.is_empty() {
            return items;
        }
        assert_eq!(back.first, next);
        for item in back.items {
            items.push((next, item.covers, item.record));
            next = next.plus(items.last().unwrap().1);
        }
    }
}

#[derive(Debug, Default)]
struct Seen {
    salvaged: usize,
    unnoticed: usize,
    new_epochs: usize,
    whole: u64,
    missing: u64,
}

#[tokio::test]
async fn whatever_rots_every_record_is_there_or_a_tombstone_is_in_its_place() {
    let template = template().await;
    let expected: BTreeMap<u64, Vec<u8>> = (1..=RECORDS + 1)
        .map(|number| (number, record(number).encode().unwrap()))
        .collect();
    let mut seen: BTreeMap<(&str, Harm), Seen> = BTreeMap::new();
    for seed in 0..CASES {
        let mut random = Random::new(seed);
        let kind = match seed % 4 {
            0 => Harm::FlippedBit,
            1 => Harm::ZeroedPage,
            2 => Harm::RandomPage,
            _ => Harm::Truncated,
        };
        let in_log = (seed / 4) % 3 == 0;
        let (mut main, mut log) = (template.main.clone(), template.log.clone());
        let harmed = harm(if in_log { &mut log } else { &mut main }, kind, &mut random);
        let last = last_transaction(&template.log);
        let excused = in_log && (harmed.end > last.start || kind == Harm::Truncated);
        let seen = seen
            .entry((if in_log { "log" } else { "file" }, kind))
            .or_default();
        let case = Case {
            seed,
            main,
            log,
            excused,
        };
        check(&case, &template, &expected, seen).await;
    }
    let total = |count: fn(&Seen) -> usize| seen.values().map(count).sum::<usize>();
    for ((file, kind), seen) in &seen {
        println!("{file} {kind:?}: {seen:?}");
    }
    assert!(total(|seen| seen.salvaged) > usize::try_from(CASES).unwrap() / 3);
}

struct Case {
    seed: u64,
    main: Vec<u8>,
    log: Vec<u8>,
    /// Nobody can tell this from a power cut.
    excused: bool,
}

async fn check(
    case: &Case,
    template: &Template,
    expected: &BTreeMap<u64, Vec<u8>>,
    seen: &mut Seen,
) {
    let seed = case.seed;
    let folder = crate::power_cut::folder();
    let path = folder.path().join("spool.db");
    fs::write(&path, &case.main).unwrap();
    fs::write(log_of(&path), &case.log).unwrap();
    let (spool, opened) = open(&path);
    let items = read_all(&spool, opened.first).await;
    let added = spool.append(vec![record(0)]).await.unwrap();
    spool.close().await.unwrap();
    let (spool, state) = open(&path);
    assert_eq!(read_all(&spool, added.first).await.len(), 1, "seed {seed}");

    let asides = aside(folder.path());
    let is_salvaged = !asides.is_empty();
    if is_salvaged {
        seen.salvaged += 1;
    }
    if let Some(salvaged) = opened.salvaged {
        let (kept, log) = (&salvaged.moved_to, log_of(&salvaged.moved_to));
        assert!(
            fs::read(kept).unwrap() == case.main,
            "seed {seed}: {kept:?}"
        );
        assert!(fs::read(log).unwrap() == case.log, "seed {seed}: {kept:?}");
    }
    let same_epoch = state.epoch == template.epoch;
    assert!(same_epoch || is_salvaged, "seed {seed}");
    seen.new_epochs += usize::from(!same_epoch);

    // The original position that has to be accounted for next.
    let mut due = FIRST;
    let mut is_hole = false;
    for (at, covers, bytes) in &items {
        let record = Record::decode(bytes).unwrap();
        if let Event::Tombstone(tombstone) = record.event {
            assert_eq!(tombstone.loss, Loss::SpoolCorrupt, "seed {seed}");
            if same_epoch {
                assert!(at.0 <= due, "seed {seed}: {at:?} for {due}");
                let end = at.0 + covers;
                seen.missing += end.min(RECORDS + 2).saturating_sub(due);
                due = due.max(end);
            }
            is_hole = true;
            continue;
        }
        let number = number(bytes);
        assert_eq!(expected.get(&number), Some(bytes), "seed {seed}: invented");
        if same_epoch {
            assert_eq!((at.0, *covers), (number, 1), "seed {seed}");
        }
        if number < FIRST {
            // Released, and nobody could know: the relay has it.
            assert!(is_salvaged, "seed {seed}: {number} came back");
            continue;
        }
        assert!(
            number == due || (is_hole && number > due),
            "seed {seed}: {number} after {due}"
        );
        seen.missing += if same_epoch { 0 } else { number - due };
        seen.whole += 1;
        due = number + 1;
        is_hole = false;
    }
    let is_complete = due > RECORDS + 1 || (is_hole && !same_epoch);
    assert!(
        is_complete || case.excused,
        "seed {seed}: ends before {due}"
    );
    if is_complete && same_epoch {
        assert!(added.first.0 > RECORDS + 1, "seed {seed}: {added:?}");
    }
    seen.unnoticed += usize::from(!is_complete);
}

fn number(bytes: &[u8]) -> u64 {
    let Event::Custom(custom) = Record::decode(bytes).unwrap().event else {
        panic!("not a number");
    };
    custom.kind.parse().unwrap()
}

/// The damaged databases that were kept.
fn aside(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_aside = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.contains(".damaged-") && !name.ends_with("-wal")
    };
    files.filter(is_aside).collect()
}
