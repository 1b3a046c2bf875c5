//! What goes first when the spool has to make room, as pure functions on runs of rows.
//!
//! Telemetry is thinned to one sample in ten seconds, then to one in a minute. Then telemetry is
//! shed, then what integrators sent, and what people act on comes last: each oldest first. What is
//! on its way to the relay comes after what waits, but before anything that people act on. Whatever
//! goes leaves a row in its place that stands for exactly the same positions.
//!
//! A tombstone can take a little more room than a single record that says next to nothing. With the
//! last measure everything merges into one, so room can always be made.
//!
//! Each measure remembers how far it has worked, so a full spool is not looked through again for
//! every new record.

use std::time::Duration;

use brrbrr_proto::id::BootId;
use brrbrr_proto::live::Status;
use brrbrr_proto::time::{Stamp, Uptime};
use brrbrr_proto::up::{Event, Loss, Record, Span, Thinned, Tombstone};

use super::format::{Class, EncodedRecord};

/// About what a row costs beside its bytes.
const ROW_OVERHEAD: u64 = 12;

/// What a tombstone or thinned telemetry costs beside that: its place in the list of gaps.
const GAP_OVERHEAD: u64 = 10;

/// Something that makes room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// Keeps one sample of telemetry for each stretch of this length.
    Thin(Duration),
    /// Replaces records of this class and of lower ones by tombstones. Thinned telemetry counts as
    /// telemetry.
    Shed(Class),
}

/// Which rows a measure may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Those that were not read for the link yet.
    Waiting,
    /// Those that were: the relay may have them already.
    UnderWay,
}

/// All measures, in the order they are taken.
const MEASURES: [(Reach, Measure); 8] = [
    (Reach::Waiting, Measure::Thin(Duration::from_secs(10))),
    (Reach::Waiting, Measure::Thin(Duration::from_secs(60))),
    (Reach::Waiting, Measure::Shed(Class::Telemetry)),
    (Reach::Waiting, Measure::Shed(Class::Custom)),
    (Reach::UnderWay, Measure::Shed(Class::Telemetry)),
    (Reach::UnderWay, Measure::Shed(Class::Custom)),
    (Reach::Waiting, Measure::Shed(Class::Essential)),
    (Reach::UnderWay, Measure::Shed(Class::Essential)),
];

/// Which rows there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// The lowest row.
    pub(super) first: u64,
    /// The row after the highest that was read for the link.
    pub(super) read: u64,
    /// The row of the next record.
    pub(super) next: u64,
}

/// Rows to take a measure on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Task {
    /// The measure.
    pub(super) measure: Measure,
    /// The lowest row that may be touched.
    pub(super) begin: u64,
    /// The first row that the measure has not worked on. Those before it are only merged with.
    pub(super) from: u64,
    /// The row before which the measure ends.
    pub(super) end: u64,
    place: usize,
}

/// How far each measure has worked.
#[derive(Debug, Default)]
pub(super) struct Plan {
    worked: [u64; MEASURES.len()],
}

impl Plan {
    /// What to do next; nothing when all that can go is gone.
    pub(super) fn next(&self, extent: Extent) -> Option<Task> {
        let read = extent.read.clamp(extent.first, extent.next);
        let tasks = MEASURES.iter().zip(self.worked).enumerate();
        let mut tasks = tasks.map(|(place, ((reach, measure), worked))| {
            let (begin, end) = match reach {
                Reach::Waiting => (read, extent.next),
                Reach::UnderWay => (extent.first, read),
            };
            Task {
                measure: *measure,
                begin,
                from: worked.max(begin),
                end,
                place,
            }
        });
        tasks.find(|task| task.from < task.end)
    }

    /// A task was done up to this row.
    pub(super) fn worked(&mut self, task: &Task, until: u64) {
        if let Some(worked) = self.worked.get_mut(task.place) {
            *worked = until;
        }
    }
}

/// A row, as much of it as matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) row: u64,
    pub(super) class: Class,
    pub(super) covers: u64,
    pub(super) bytes: Vec<u8>,
}

impl Row {
    pub(super) const fn end(&self) -> u64 {
        self.row.saturating_add(self.covers)
    }

    fn cost(&self) -> u64 {
        cost(self.class, &self.bytes)
    }
}

/// Rows that one row takes the place of: all from `row` on that the record covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) row: u64,
    pub(super) record: EncodedRecord,
    /// How many samples are merged into others.
    pub(super) thinned: u64,
    /// How many records are gone, samples within thinned ones counted.
    pub(super) shed: u64,
    /// Whether it makes room.
    pub(super) gains: bool,
}

/// What is to be done to some rows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Worked {
    /// In order.
    pub(super) changes: Vec<Change>,
    /// The row up to which the measure has worked.
    pub(super) until: u64,
}

/// A row that is intact and yet no record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Undecodable {
    pub(super) row: u64,
    pub(super) reason: postcard::Error,
}

/// Takes a measure on rows that follow each other without holes. Stops when about `goal` bytes are
/// free, as far as it can be told from the rows alone.
pub(super) fn work(measure: Measure, rows: &[Row], goal: u64) -> Result<Worked, Undecodable> {
    match measure {
        Measure::Thin(stretch) => thin(rows, stretch),
        Measure::Shed(class) => shed(rows, class, goal),
    }
}

/// What telemetry of one stretch of time has in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    boot: BootId,
    number: u128,
}

impl Stretch {
    /// The stretch of all samples from `since` to `until`, where it is one.
    fn of(since: Stamp, until: Stamp, length: Duration) -> Option<Self> {
        let of = |stamp: Stamp| Self {
            boot: stamp.boot,
            number: number(stamp.uptime, length),
        };
        (of(since) == of(until)).then(|| of(since))
    }
}

fn number(uptime: Uptime, length: Duration) -> u128 {
    uptime.since_boot().as_micros() / length.as_micros().max(1)
}

/// Samples that are merged into one.
#[derive(Debug)]
struct Samples {
    stretch: Stretch,
    begin: u64,
    end: u64,
    rows: u64,
    cost: u64,
    until: Stamp,
    merged: Thinned,
}

fn thin(rows: &[Row], length: Duration) -> Result<Worked, Undecodable> {
    let mut worked = Worked::default();
    let mut open: Option<Samples> = None;
    for row in rows {
        let (stretch, samples) = match sample(row, length)? {
            Some((stretch, samples)) => (Some(stretch), Some(samples)),
            None => (None, None),
        };
        if let Some(earlier) = &mut open
            && let Some(later) = &samples
            && Some(earlier.stretch) == stretch
        {
            earlier.absorb(later);
        } else {
            close_samples(open.take(), row, &mut worked)?;
            open = samples;
        }
        worked.until = row.end();
    }
    if let Some(last) = rows.last() {
        close_samples(open, last, &mut worked)?;
    }
    Ok(worked)
}

/// The samples of a row, if it is telemetry of one stretch.
fn sample(row: &Row, length: Duration) -> Result<Option<(Stretch, Samples)>, Undecodable> {
    match row.class {
        Class::Telemetry | Class::Gap => {}
        Class::Custom | Class::Essential => return Ok(None),
    }
    let Record { stamp, event } = decode(row)?;
    let merged = match event {
        Event::Telemetry(last) => one_sample(stamp, last),
        Event::Thinned(thinned) => thinned,
        Event::Changed(_)
        | Event::Arrived(_)
        | Event::Alarm(_)
        | Event::Command(_)
        | Event::Custom(_)
        | Event::Ordered(_)
        | Event::Progressed(_)
        | Event::Tombstone(_) => return Ok(None),
    };
    let Some(stretch) = Stretch::of(merged.since, stamp, length) else {
        return Ok(None);
    };
    let samples = Samples {
        stretch,
        begin: row.row,
        end: row.end(),
        rows: 1,
        cost: row.cost(),
        until: stamp,
        merged,
    };
    Ok(Some((stretch, samples)))
}

fn one_sample(stamp: Stamp, last: Status) -> Thinned {
    let span = |value: Option<f64>| {
        value.map(|value| Span {
            low: value,
            high: value,
        })
    };
    Thinned {
        count: 1,
        since: stamp,
        battery: span(last.battery),
        speed: span(last.speed),
        last,
    }
}

impl Samples {
    fn absorb(&mut self, later: &Self) {
        self.end = later.end;
        self.rows += later.rows;
        self.cost = self.cost.saturating_add(later.cost);
        self.until = later.until;
        let (merged, other) = (&mut self.merged, &later.merged);
        merged.count = sum_of_counts(merged.count, other.count);
        merged.battery = widest(merged.battery, other.battery);
        merged.speed = widest(merged.speed, other.speed);
        merged.last.clone_from(&other.last);
    }
}

fn widest(one: Option<Span>, other: Option<Span>) -> Option<Span> {
    match (one, other) {
        (Some(one), Some(other)) => Some(Span {
            low: one.low.min(other.low),
            high: one.high.max(other.high),
        }),
        (one, other) => one.or(other),
    }
}

/// Zero where either is zero, which says that nobody can know.
const fn sum_of_counts(one: u64, other: u64) -> u64 {
    if one == 0 || other == 0 {
        0
    } else {
        one.saturating_add(other)
    }
}

/// Merges samples, where that makes them smaller.
fn close_samples(
    samples: Option<Samples>,
    at: &Row,
    worked: &mut Worked,
) -> Result<(), Undecodable> {
    let Some(samples) = samples.filter(|samples| samples.rows > 1) else {
        return Ok(());
    };
    let covers = samples.end.saturating_sub(samples.begin);
    let record = Record {
        stamp: samples.until,
        event: Event::Thinned(samples.merged),
    };
    let record = encode(&record, covers, at)?;
    if cost(record.class, &record.bytes) < samples.cost {
        worked.changes.push(Change {
            row: samples.begin,
            record,
            thinned: samples.rows - 1,
            shed: 0,
            gains: true,
        });
    }
    Ok(())
}

/// Rows that one tombstone takes the place of.
#[derive(Debug)]
struct Losses {
    loss: Loss,
    begin: u64,
    end: u64,
    rows: u64,
    /// How many records of the rows have been records until now.
    shed: u64,
    cost: u64,
    count: u64,
    since: Option<Stamp>,
    until: Option<Stamp>,
    /// The stamp of the newest row.
    stamp: Stamp,
}

fn shed(rows: &[Row], class: Class, goal: u64) -> Result<Worked, Undecodable> {
    let mut worked = Worked::default();
    let mut open: Option<Losses> = None;
    let mut freed: u64 = 0;
    for row in rows {
        let losses = loss(row, class)?;
        let is_victim = losses.as_ref().is_some_and(|losses| losses.shed > 0);
        if freed >= goal && (is_victim || losses.is_none()) {
            break;
        }
        if is_victim {
            freed = freed.saturating_add(row.cost());
        }
        match (&mut open, losses) {
            (Some(earlier), Some(later)) if earlier.loss == later.loss => earlier.absorb(&later),
            (_, losses) => {
                close_losses(open.take(), row, &mut worked)?;
                open = losses;
            }
        }
        worked.until = row.end();
    }
    if let Some(last) = rows.last() {
        close_losses(open, last, &mut worked)?;
    }
    Ok(worked)
}

/// What goes with a row: the row itself where it is of this class, or what it says is gone already.
fn loss(row: &Row, class: Class) -> Result<Option<Losses>, Undecodable> {
    let whole = |stamp, shed, count, since| Losses {
        loss: Loss::SpoolFull,
        begin: row.row,
        end: row.end(),
        rows: 1,
        shed,
        cost: row.cost(),
        count,
        since: Some(since),
        until: Some(stamp),
        stamp,
    };
    if row.class <= class {
        // The stamp comes first in a record; the rest may be long and does not matter.
        let (stamp, _) = postcard::take_from_bytes::<Stamp>(&row.bytes)
            .map_err(|reason| undecodable(row, reason))?;
        return Ok(Some(whole(stamp, 1, 1, stamp)));
    }
    if row.class != Class::Gap {
        return Ok(None);
    }
    let Record { stamp, event } = decode(row)?;
    Ok(match event {
        Event::Thinned(thinned) => Some(whole(
            stamp,
            thinned.count.max(1),
            thinned.count,
            thinned.since,
        )),
        Event::Tombstone(tombstone) => {
            // One made here may have had no room for two more stamps: its own is that of the newest.
            let newest = (tombstone.loss == Loss::SpoolFull).then_some(stamp);
            let only = newest.filter(|_| tombstone.count == 1);
            Some(Losses {
                loss: tombstone.loss,
                since: tombstone.since.or(only),
                until: tombstone.until.or(newest),
                ..whole(stamp, 0, tombstone.count, stamp)
            })
        }
        Event::Changed(_)
        | Event::Arrived(_)
        | Event::Alarm(_)
        | Event::Command(_)
        | Event::Telemetry(_)
        | Event::Custom(_)
        | Event::Ordered(_)
        | Event::Progressed(_) => None,
    })
}

impl Losses {
    fn absorb(&mut self, later: &Self) {
        self.end = later.end;
        self.rows += later.rows;
        self.shed = self.shed.saturating_add(later.shed);
        self.cost = self.cost.saturating_add(later.cost);
        self.count = sum_of_counts(self.count, later.count);
        self.since = self.since.or(later.since);
        self.until = later.until.or(self.until);
        self.stamp = later.stamp;
    }
}

/// Puts a tombstone in the place of rows, unless it would be one in the place of one.
fn close_losses(losses: Option<Losses>, at: &Row, worked: &mut Worked) -> Result<(), Undecodable> {
    let Some(losses) = losses.filter(|losses| losses.rows > 1 || losses.shed > 0) else {
        return Ok(());
    };
    let covers = losses.end.saturating_sub(losses.begin);
    let tombstone = |since, until| Record {
        stamp: losses.stamp,
        event: Event::Tombstone(Tombstone {
            count: losses.count,
            loss: losses.loss,
            since,
            until,
        }),
    };
    let mut record = encode(&tombstone(losses.since, losses.until), covers, at)?;
    if cost(record.class, &record.bytes) > losses.cost {
        record = encode(&tombstone(None, None), covers, at)?;
    }
    worked.changes.push(Change {
        row: losses.begin,
        thinned: 0,
        shed: losses.shed,
        gains: cost(record.class, &record.bytes) < losses.cost,
        record,
    });
    Ok(())
}

fn cost(class: Class, bytes: &[u8]) -> u64 {
    let gap = if class == Class::Gap { GAP_OVERHEAD } else { 0 };
    let bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    bytes.saturating_add(ROW_OVERHEAD + gap)
}

fn decode(row: &Row) -> Result<Record, Undecodable> {
    postcard::from_bytes(&row.bytes).map_err(|reason| undecodable(row, reason))
}

fn encode(record: &Record, covers: u64, at: &Row) -> Result<EncodedRecord, Undecodable> {
    let bytes = postcard::to_stdvec(record).map_err(|reason| undecodable(at, reason))?;
    let class = Class::Gap;
    Ok(EncodedRecord {
        class,
        covers,
        bytes,
    })
}

const fn undecodable(row: &Row, reason: postcard::Error) -> Undecodable {
    let row = row.row;
    Undecodable { row, reason }
}

#[cfg(test)]
mod tests;
