//! Random use of a spool with a tiny budget, compared with a naive model after each step.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use brrbrr_gateway::spool::{Limits, ReadBack, Spool};
use brrbrr_proto::id::{BootId, Epoch, Seq};
use brrbrr_proto::live::Status;
use brrbrr_proto::time::{Stamp, Uptime};
use brrbrr_proto::up::{Event, Loss, Record, Span, Thinned, Tombstone};

use super::{MIB, NOW, alarm, budget, custom, size};

const SEEDS: u64 = 20;
const STEPS: usize = 260;
/// About what a tombstone takes.
const TINY: usize = 32;
const BUDGET: Limits = budget(MIB);

/// A small random number generator, so that a seed replays.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Telemetry,
    Custom,
    Essential,
}

fn kind(event: &Event) -> Kind {
    if matches!(event, Event::Telemetry(_)) {
        Kind::Telemetry
    } else if matches!(event, Event::Custom(_)) {
        Kind::Custom
    } else {
        Kind::Essential
    }
}

fn signed(index: usize) -> i64 {
    i64::try_from(index).unwrap()
}

/// What has become of an appended record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Thinned,
    Gone,
    Released,
}

/// Records by the order in which they were appended. A position is that plus `shift`.
struct Model {
    made: Vec<Record>,
    fates: Vec<Fate>,
    /// The first that was not released.
    released: usize,
    /// The end of the highest read since the spool was opened.
    read: usize,
    /// Those that were read as they are since then: they are on their way.
    under_way: BTreeSet<usize>,
    /// How many there were when the fates were looked at.
    looked: usize,
    shift: i64,
}

impl Model {
    fn position(&self, index: usize) -> Seq {
        Seq((signed(index) + self.shift).cast_unsigned())
    }

    fn index(&self, position: Seq) -> usize {
        usize::try_from(position.0.cast_signed() - self.shift).unwrap()
    }

    /// What a row that stands for the records from `begin` to `end` must say.
    fn check_row(&self, begin: usize, end: usize, record: &Record) -> Fate {
        let made = &self.made[begin..end];
        let count = made.len() as u64;
        let (oldest, newest) = (&made[0], &made[made.len() - 1]);
        if let Event::Tombstone(gone) = &record.event {
            assert_eq!((gone.count, gone.loss), (count, Loss::SpoolFull));
            assert_eq!(record.stamp, newest.stamp);
            let whole = (Some(oldest.stamp), Some(newest.stamp));
            // The shortest form names no times, and what grew from one may not know the oldest.
            let is_short = (gone.since, gone.until) == (None, None);
            let is_partly_known = gone.since.is_some() && gone.until == whole.1;
            assert!(is_short || is_partly_known, "{gone:?}");
            Fate::Gone
        } else if let Event::Thinned(thinned) = &record.event {
            assert_eq!(*thinned, merged(made));
            assert_eq!(record.stamp, newest.stamp);
            assert_eq!(minute(oldest), minute(newest));
            Fate::Thinned
        } else {
            assert_eq!(made, std::slice::from_ref(record));
            Fate::Kept
        }
    }

    /// Compares rows that follow each other from `first` on.
    fn check_items(&mut self, back: &ReadBack) {
        let mut at = back.first;
        for item in &back.items {
            let record = Record::decode(&item.record).unwrap();
            let end = at.plus(item.covers);
            // The first may be the rest of a row that begins earlier.
            let begin = if let Event::Tombstone(Tombstone { count, .. })
            | Event::Thinned(Thinned { count, .. }) = &record.event
            {
                end.0 - count
            } else {
                at.0
            };
            assert!(begin == at.0 || at == back.first);
            let begin = self.index(Seq(begin));
            if self.check_row(begin, self.index(end), &record) == Fate::Kept {
                self.under_way.insert(begin);
            }
            at = end;
        }
    }

    /// Compares all rows, and what has gone since the last time with what is left.
    fn check_all(&mut self, rows: &[(u64, u64, Record)]) {
        let mut fates = self.fates.clone();
        let mut due = rows
            .first()
            .map_or(self.made.len(), |row| self.index(Seq(row.0)));
        assert!(due <= self.released || rows.is_empty());
        for (at, covers, record) in rows {
            assert_eq!(self.index(Seq(*at)), due, "no holes");
            let end = due + usize::try_from(*covers).unwrap();
            let fate = self.check_row(due, end, record);
            fates[due..end].fill(fate);
            due = end;
        }
        assert_eq!(due, self.made.len(), "nothing is missing at the end");
        fates[..self.released].fill(Fate::Released);
        self.check_order(&fates);
        self.fates = fates;
        self.looked = self.made.len();
        self.read = self.released;
        self.under_way.clear();
    }

    /// What went since the last look went in the right order.
    fn check_order(&self, fates: &[Fate]) {
        let known = self.looked;
        let is_here = |index: usize| matches!(fates[index], Fate::Kept | Fate::Thinned);
        // A row of which a part was released can come back whole with a new epoch.
        let was_here = |index: usize| matches!(self.fates[index], Fate::Kept | Fate::Thinned);
        let went = |index: &usize| fates[*index] == Fate::Gone && was_here(*index);
        // Those that were there all the time and were not read.
        let waiting: Vec<usize> = (self.read.max(self.released)..known)
            .filter(|at| is_here(*at))
            .collect();
        let kind = |index: usize| kind(&self.made[index].event);
        // A tombstone for a record that says next to nothing would be no smaller.
        let is_tiny = |index: usize| self.made[index].encode().unwrap().len() <= TINY;
        for gone in (0..self.made.len()).filter(went) {
            let lower = waiting
                .iter()
                .find(|at| kind(**at) < kind(gone) && !is_tiny(**at));
            assert_eq!(lower, None, "{gone} went before what matters less");
            let older = waiting
                .iter()
                .find(|at| kind(**at) == kind(gone) && **at < gone && !is_tiny(**at));
            assert_eq!(older, None, "{gone} went before what is older");
            if self.under_way.contains(&gone) {
                let waits = |at: &&usize| kind(**at) < Kind::Essential && !is_tiny(**at);
                let waiting = waiting.iter().find(waits);
                assert_eq!(waiting, None, "{gone} was under way");
            }
        }
        // Nothing is shed while samples wait that were not thinned to one in a minute.
        if (0..known).any(|at| went(&at)) {
            for pair in waiting.windows(2) {
                let [one, other] = [pair[0], pair[1]].map(|at| (at, fates[at], kind(at)));
                let are_adjacent = one.0 + 1 == other.0;
                let are_samples = (one.2, other.2) == (Kind::Telemetry, Kind::Telemetry);
                if are_adjacent
                    && are_samples
                    && minute(&self.made[one.0]) == minute(&self.made[other.0])
                {
                    let is_alone = (one.1, other.1) == (Fate::Kept, Fate::Kept);
                    assert!(!is_alone || is_cheap_pair(&self.made[one.0], &self.made[other.0]));
                }
            }
        }
    }
}

fn minute(record: &Record) -> (BootId, u64) {
    let stamp = record.stamp;
    (stamp.boot, stamp.uptime.since_boot().as_secs() / 60)
}

/// Two samples that say little are smaller than one that says what both said.
fn is_cheap_pair(one: &Record, other: &Record) -> bool {
    let bytes = |record: &Record| record.encode().unwrap().len();
    let merged = Record {
        stamp: other.stamp,
        event: Event::Thinned(merged(&[one.clone(), other.clone()])),
    };
    bytes(&merged) >= bytes(one) + bytes(other)
}

fn merged(made: &[Record]) -> Thinned {
    let statuses: Vec<&Status> = made
        .iter()
        .map(|record| {
            let Event::Telemetry(status) = &record.event else {
                panic!("only telemetry is thinned: {record:?}");
            };
            status
        })
        .collect();
    let span = |of: fn(&Status) -> Option<f64>| {
        let values: Vec<f64> = statuses.iter().filter_map(|status| of(status)).collect();
        (!values.is_empty()).then(|| Span {
            low: values.iter().copied().fold(f64::INFINITY, f64::min),
            high: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        })
    };
    Thinned {
        count: made.len() as u64,
        since: made[0].stamp,
        battery: span(|status| status.battery),
        speed: span(|status| status.speed),
        last: statuses[statuses.len() - 1].clone(),
    }
}

/// What a seed likes to append.
struct Taste {
    telemetry: u64,
    custom: u64,
    essential: u64,
    largest: u64,
}

struct Clock {
    boot: u64,
    seconds: u64,
}

fn any_record(random: &mut Random, taste: &Taste, clock: &mut Clock) -> Record {
    clock.seconds += random.below(4);
    if random.below(400) == 0 {
        clock.boot += 1;
        clock.seconds = 0;
    }
    let (seconds, size) = (clock.seconds, random.below(taste.largest + 1));
    let size = usize::try_from(size).unwrap();
    let which = random.below(taste.telemetry + taste.custom + taste.essential);
    let record = if which < taste.telemetry {
        let value = |random: &mut Random| {
            (random.below(3) > 0)
                .then(|| f64::from(u8::try_from(random.below(100)).unwrap()) / 100.0)
        };
        let status = Status {
            battery: value(random),
            speed: value(random),
            floor: Some(7),
            ..Status::default()
        };
        super::record(seconds, Event::Telemetry(status))
    } else if which < taste.telemetry + taste.custom {
        custom(seconds, size)
    } else {
        alarm(seconds, size)
    };
    let stamp = Stamp {
        boot: BootId(clock.boot),
        uptime: Uptime::new(std::time::Duration::from_secs(seconds)),
        wall: NOW,
    };
    Record { stamp, ..record }
}

/// The rows of a closed spool, by position, without marking them as read. Looks at a copy, because
/// another program that has the file open leaves traces.
pub fn rows_of(path: &Path) -> Vec<(u64, u64, Record)> {
    let copy = path.with_extension("copy");
    std::fs::copy(path, &copy).unwrap();
    let database = rusqlite::Connection::open(copy).unwrap();
    let shift: i64 = database
        .query_row("SELECT shift FROM stream", [], |row| row.get(0))
        .unwrap();
    let mut statement = database
        .prepare("SELECT seq, covers, bytes FROM record ORDER BY seq")
        .unwrap();
    let rows = statement
        .query_map([], |row| {
            let bytes: Vec<u8> = row.get(2)?;
            let (seq, covers): (i64, i64) = (row.get(0)?, row.get(1)?);
            let record = Record::decode(&bytes).unwrap();
            Ok((
                (seq - shift).cast_unsigned(),
                covers.cast_unsigned(),
                record,
            ))
        })
        .unwrap();
    rows.collect::<rusqlite::Result<_>>().unwrap()
}

struct Run {
    path: PathBuf,
    spool: Spool,
    model: Model,
    random: Random,
    clock: Clock,
}

impl Run {
    async fn append(&mut self, taste: &Taste) {
        // More than a quarter of the budget in one piece would be refused.
        let most = if taste.largest > 2_000 { 18 } else { 40 };
        let count = 1 + self.random.below(most);
        let records: Vec<Record> = (0..count)
            .map(|_| any_record(&mut self.random, taste, &mut self.clock))
            .collect();
        let appended = self.spool.append(records.clone()).await.unwrap();
        assert_eq!(appended.first, self.model.position(self.model.made.len()));
        self.model
            .fates
            .resize(self.model.made.len() + records.len(), Fate::Kept);
        self.model.made.extend(records);
        assert_eq!(appended.next, self.model.position(self.model.made.len()));
    }

    /// Reads for the link: mostly from the front, now and then anywhere.
    async fn read(&mut self, anywhere: bool) {
        let waiting = (self.model.made.len() - self.model.released) as u64;
        let ahead = if anywhere { waiting } else { waiting.min(20) };
        let ahead = usize::try_from(self.random.below(ahead + 1)).unwrap();
        let from = self.model.position(self.model.released + ahead);
        let items = 1 + usize::try_from(self.random.below(30)).unwrap();
        let back = self.spool.read(from, items, 100_000).await.unwrap();
        assert_eq!(back.first, from);
        self.model.check_items(&back);
        let covered: u64 = back.items.iter().map(|item| item.covers).sum();
        let end = self.model.index(from.plus(covered));
        self.model.read = self.model.read.max(end);
    }

    /// Releases something that was read, or just a little.
    async fn release(&mut self) {
        let model = &mut self.model;
        let end = model.read.max(model.released);
        let count = self.random.below((end - model.released) as u64 + 1);
        model.released += usize::try_from(count).unwrap();
        let next = model.position(model.released);
        let epoch = self.spool.state().await.unwrap().epoch;
        self.spool.release(epoch, next).await.unwrap();
    }

    /// Closes the spool, looks at every row, and opens it again.
    async fn look(&mut self) {
        self.spool.close().await.unwrap();
        self.model.check_all(&rows_of(&self.path));
        let (spool, state) = Spool::open(&self.path, BUDGET, NOW).unwrap();
        assert_eq!(state.salvaged, None);
        assert_eq!(state.next, self.model.position(self.model.made.len()));
        self.spool = spool;
    }

    async fn renew(&mut self) {
        self.look().await;
        let epoch = Epoch(self.random.below(u64::MAX));
        let state = self.spool.renew_epoch(epoch).await.unwrap();
        assert_eq!((state.epoch, state.first), (epoch, Seq(1)));
        // A row of which a part was released counts from its beginning again.
        self.model.shift = state.next.0.cast_signed() - signed(self.model.made.len());
        self.model.released = self.model.index(Seq(1));
    }
}

async fn run(seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    let (spool, _) = Spool::open(&path, BUDGET, NOW).unwrap();
    let mut random = Random(seed);
    let taste = Taste {
        telemetry: 1 + random.below(20),
        custom: random.below(4),
        essential: random.below(4),
        largest: [20, 200, 2_000, 9_000][usize::try_from(random.below(4)).unwrap()],
    };
    let model = Model {
        made: Vec::new(),
        fates: Vec::new(),
        released: 0,
        read: 0,
        under_way: BTreeSet::new(),
        looked: 0,
        shift: 1,
    };
    let clock = Clock {
        boot: 1,
        seconds: 0,
    };
    let mut run = Run {
        path,
        spool,
        model,
        random,
        clock,
    };
    for _ in 0..STEPS {
        match run.random.below(100) {
            0..70 => run.append(&taste).await,
            70..84 => run.read(false).await,
            84..85 => run.read(true).await,
            85..94 => run.release().await,
            94..99 => run.look().await,
            _ => run.renew().await,
        }
        let taken = size(&run.path);
        assert!(taken <= BUDGET.budget(), "{taken} bytes");
    }
    run.look().await;
}

#[tokio::test]
async fn any_use_of_a_full_spool_keeps_positions_order_and_bounds() {
    for seed in 0..SEEDS {
        println!("seed {seed}");
        run(seed).await;
    }
}
