//! Questions about a stretch of a robot's time: its records, its holes, and whether all is there.
//!
//! Streams are in the order of positions, and corrected times hardly ever decrease along a stream,
//! so a moment is found by halving the stream, never by reading it.

use std::fmt;
use std::str::FromStr;

use brrbrr_proto::id::{Epoch, RobotId, Seq};
use brrbrr_proto::time::Stamp;
use brrbrr_proto::up::{Disk, Record};
use jiff::Timestamp;
use serde::Serialize;
use thiserror::Error;

use super::clock::Timeline;
use super::view::{RecordView, TimeView};
use super::{Entry, Hole, Journal, Result, Stored};
use crate::live::Spool;

/// Rows that are looked at first for one that tells a time. Some holes know of none.
const PROBE: usize = 8;
/// How many records are read at a time. Of the largest size they have some megabytes.
const PAGE: usize = 100;
/// The bytes of records after which an answer ends, though it has fewer than were asked for.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// How many records one question may look through for those of a kind. The answer says where to go
/// on.
const LOOKED_THROUGH: usize = 10_000;
/// A spool that was salvaged leaps this many positions, so that none is given out twice.
const LEAP: u64 = 1 << 32;

/// A stretch of time, by the relay's calendar: from a moment up to another, not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Range {
    /// From the beginning where there is none.
    pub from: Option<Timestamp>,
    /// To the newest where there is none.
    pub to: Option<Timestamp>,
}

/// A place in a robot's history, written as `epoch.seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The incarnation of the spool.
    pub epoch: Epoch,
    /// The position in it; zero is before the first.
    pub seq: Seq,
}

/// A text is no [`Place`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a place in a robot's history")]
pub struct NotAPlace;

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.seq)
    }
}

impl FromStr for Place {
    type Err = NotAPlace;

    fn from_str(text: &str) -> std::result::Result<Self, NotAPlace> {
        let (epoch, seq) = text.split_once('.').ok_or(NotAPlace)?;
        let epoch = epoch.parse().map_err(|_| NotAPlace)?;
        let seq = seq.parse().map(Seq).map_err(|_| NotAPlace)?;
        let is_place = seq <= Seq::LAST;
        is_place.then_some(Self { epoch, seq }).ok_or(NotAPlace)
    }
}

/// A part of a list, and where it goes on.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The part.
    pub items: Vec<T>,
    /// To be given as `after` for the next part; `None` at the end.
    pub next: Option<Place>,
}

/// Records that are not there.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GapView {
    /// The incarnation of the robot's spool, 16 hexadecimal digits.
    pub epoch: String,
    /// The first position it covers.
    pub first: u64,
    /// The last position it covers.
    pub last: u64,
    /// How many records are missing, or how many samples were merged; `None` where nobody can know.
    /// The positions are no measure of it.
    pub count: Option<u64>,
    /// How many records are left of them: 1 of samples that were merged, else none.
    pub remain: u64,
    /// Why: `full`, `corrupt`, `forgotten` or `thinned`; `unreadable` where this relay is too old to
    /// say.
    pub reason: &'static str,
    /// When the oldest was made.
    pub since: Option<TimeView>,
    /// When the newest was made.
    pub until: Option<TimeView>,
    /// When the relay heard of it.
    pub received_at: Timestamp,
}

/// How a robot's spool was when it last said so.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SpoolView {
    /// `fine`, `short` or `failing`.
    pub disk: &'static str,
    /// Since when it has been so.
    pub since: Timestamp,
    /// A sentence for people.
    pub detail: String,
    /// The position that the next new record gets.
    pub next: u64,
    /// How many positions wait on the robot.
    pub waiting: u64,
    /// When the oldest that waits was made, where known.
    pub oldest: Option<TimeView>,
    /// When the robot said so.
    pub as_of: Timestamp,
}

/// Whether all is there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Completeness {
    /// From when.
    pub from: Option<Timestamp>,
    /// Up to when.
    pub to: Option<Timestamp>,
    /// What is known ends here: with the newest record, or with the robot's last word on its spool.
    pub as_of: Option<Timestamp>,
    /// Records that the robot accepted: received, shed, waiting, and merged into others.
    pub expected: u64,
    /// Whether there may have been more, since some numbers are not known.
    pub expected_is_lower_bound: bool,
    /// Records that are in the journal. What is left of merged samples counts as one.
    pub received: u64,
    /// Records that were shed or lost, of those whose number is known.
    pub shed: u64,
    /// Whether some of those may have been made before or after the stretch.
    pub shed_is_upper_bound: bool,
    /// Samples that were merged to make room.
    pub thinned: u64,
    /// Whether some of those may have been made before or after the stretch.
    pub thinned_is_upper_bound: bool,
    /// Records that are still on the robot; `None` where it has not said.
    pub waiting: Option<u64>,
    /// Whether some of those may have been made before or after the stretch.
    pub waiting_is_upper_bound: bool,
    /// Whether every record that the robot accepted is in the journal, as it was.
    pub complete: bool,
    /// What is not known, for people.
    pub unknown: Vec<String>,
}

impl Completeness {
    /// Whether the number that a hole at an end of the stretch counts to is an upper bound.
    const fn bound_of(&mut self, hole: &Hole) -> &mut bool {
        if hole.kept {
            &mut self.thinned_is_upper_bound
        } else {
            &mut self.shed_is_upper_bound
        }
    }
}

/// How many records so many positions are at most, without those that a salvage leapt over.
#[must_use]
pub(crate) const fn without_leaps(positions: u64) -> u64 {
    positions % LEAP
}

/// One robot's history.
#[derive(Debug)]
pub struct History<'a> {
    journal: &'a dyn Journal,
    robot: RobotId,
    /// Oldest first.
    streams: Vec<Stream>,
}

#[derive(Debug)]
struct Stream {
    epoch: Epoch,
    due: Seq,
    timeline: Timeline,
}

/// From when to when something was, as far as it is known.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Span {
    /// Where it stands in the order of time.
    fn key(self) -> Option<Timestamp> {
        self.until.or(self.since)
    }

    /// Whether it may reach into a stretch.
    fn touches(self, range: &Range) -> bool {
        let begins_late = range.to.zip(self.since).is_some_and(|(to, at)| at >= to);
        let ends_early = range
            .from
            .zip(self.until)
            .is_some_and(|(from, at)| at < from);
        !begins_late && !ends_early
    }
}

impl Stream {
    fn span(&self, stored: &Stored) -> Span {
        let Ok(record) = Record::decode(&stored.item.record) else {
            return Span::default();
        };
        let at = |stamp: Stamp| {
            let repaired = self.timeline.repair(stored.seq, stamp, stored.received);
            repaired.corrected
        };
        let (since, until) = super::span(&record);
        Span {
            since: since.map(at),
            until: until.map(at),
        }
    }

    fn gap(&self, stored: Stored) -> Option<GapView> {
        let (seq, received) = (stored.seq, stored.received);
        let entry = Entry::read(stored.item);
        let hole = entry.hole()?;
        let (since, until) = entry.record.as_ref().map(super::span).unwrap_or_default();
        let view = |stamp| TimeView::from(self.timeline.repair(seq, stamp, received));
        Some(GapView {
            epoch: self.epoch.to_string(),
            first: seq.0,
            last: seq.0.saturating_add(entry.item.covers).saturating_sub(1),
            count: Some(hole.count).filter(|count| *count > 0),
            remain: u64::from(hole.kept),
            reason: hole.reason(),
            since: since.map(view),
            until: until.map(view),
            received_at: received,
        })
    }
}

impl<'a> History<'a> {
    /// Looks up what is needed for answers.
    ///
    /// # Errors
    /// Where the journal does not answer.
    pub async fn of(journal: &'a dyn Journal, robot: RobotId) -> Result<Self> {
        let mut streams = Vec::new();
        for epoch in journal.epochs(robot).await? {
            streams.push(Stream {
                epoch,
                due: journal.due(robot, epoch).await?,
                timeline: journal.timeline(robot, epoch).await?,
            });
        }
        Ok(Self {
            journal,
            robot,
            streams,
        })
    }

    /// Records in the order of the streams, of one kind or of all, with when each was received. May
    /// be fewer than asked for where more follow.
    ///
    /// # Errors
    /// Where the journal does not answer.
    pub async fn records(
        &self,
        range: Range,
        after: Option<Place>,
        kind: Option<&str>,
        limit: usize,
    ) -> Result<Page<(RecordView, Timestamp)>> {
        let mut items = Vec::new();
        let (mut looked_through, mut bytes) = (0, 0);
        let begun = after.and_then(|after| self.index(after.epoch)).unwrap_or(0);
        for stream in self.streams.iter().skip(begun) {
            let (first, end) = self.positions(stream, &range).await?;
            let resumed = after.filter(|after| after.epoch == stream.epoch);
            let mut from = resumed.map_or(first, |after| after.seq.plus(1).max(first));
            while from < end {
                let rows = self.rows(stream, from, PAGE).await?;
                let Some(last) = rows.last() else { break };
                let next = last.seq.plus(last.item.covers);
                for stored in rows {
                    // A tombstone that was seen covers the position after its own.
                    if stored.seq < from || stored.seq >= end {
                        continue;
                    }
                    let is_full = items.len() == limit || bytes > PAGE_BYTES;
                    if is_full || looked_through == LOOKED_THROUGH {
                        let next = Some(Place {
                            epoch: stream.epoch,
                            seq: Seq(stored.seq.0.saturating_sub(1)),
                        });
                        return Ok(Page { items, next });
                    }
                    looked_through += 1;
                    let (received, length) = (stored.received, stored.item.record.len());
                    let view = RecordView::new(stream.epoch, stored, &stream.timeline);
                    if kind.is_none_or(|kind| kind == view.kind) {
                        items.push((view, received));
                        bytes += length;
                    }
                }
                from = next;
            }
        }
        Ok(Page { items, next: None })
    }

    /// Holes, the newest first.
    ///
    /// # Errors
    /// Where the journal does not answer.
    pub async fn gaps(
        &self,
        range: Range,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Page<GapView>> {
        let mut items = Vec::new();
        let begun = after.and_then(|after| self.index(after.epoch));
        let end = begun.map_or(self.streams.len(), |index| index.saturating_add(1));
        for stream in self.streams.iter().take(end).rev() {
            let (first, end) = self.positions(stream, &range).await?;
            // The hole at the end may begin within.
            let mut to = end.plus(1);
            if let Some(after) = after.filter(|after| after.epoch == stream.epoch) {
                to = to.min(after.seq);
            }
            loop {
                let holes = self
                    .journal
                    .holes(self.robot, stream.epoch, first, to, PAGE);
                let holes = holes.await?;
                let Some(last) = holes.last() else { break };
                to = last.seq;
                for stored in holes {
                    if !stream.span(&stored).touches(&range) {
                        continue;
                    }
                    let place = Place {
                        epoch: stream.epoch,
                        seq: stored.seq.plus(1),
                    };
                    if items.len() == limit {
                        let next = Some(place);
                        return Ok(Page { items, next });
                    }
                    items.extend(stream.gap(stored));
                }
            }
        }
        Ok(Page { items, next: None })
    }

    /// Whether all is there that the robot accepted in a stretch of time.
    ///
    /// # Errors
    /// Where the journal does not answer.
    pub async fn completeness(&self, range: Range, spool: Option<&Spool>) -> Result<Completeness> {
        let mut answer = Completeness {
            from: range.from,
            to: range.to,
            ..Completeness::default()
        };
        let mut unknown_holes = 0;
        for stream in &self.streams {
            unknown_holes += self.add_up(stream, &range, &mut answer).await?;
        }
        if unknown_holes > 0 {
            let what = format!("the number of records in {unknown_holes} of the holes");
            answer.unknown.push(what);
        }
        self.add_waiting(&range, spool, &mut answer).await?;
        let waiting = answer.waiting.unwrap_or(0);
        // What is received and merged is in `expected` already.
        answer.expected = answer
            .expected
            .saturating_add(answer.shed)
            .saturating_add(waiting);
        answer.expected_is_lower_bound = !answer.unknown.is_empty();
        answer.complete = answer.shed == 0
            && answer.thinned == 0
            && answer.waiting == Some(0)
            && answer.unknown.is_empty();
        Ok(answer)
    }

    /// How the robot's spool was when it last said so.
    #[must_use]
    pub fn spool(&self, spool: &Spool) -> SpoolView {
        let report = &spool.report;
        let stream = self.stream(spool.epoch);
        let been_so = report.sent.since(report.since);
        let due = stream.map_or(Seq::FIRST, |stream| stream.due);
        let oldest = report.oldest.map(|stamp| {
            let unknown = Timeline::default();
            let timeline = stream.map_or(&unknown, |stream| &stream.timeline);
            timeline.repair(due, stamp, spool.at).into()
        });
        SpoolView {
            disk: match report.disk {
                Disk::Fine => "fine",
                Disk::Short => "short",
                Disk::Failing => "failing",
            },
            since: spool.at.checked_sub(been_so).unwrap_or(spool.at),
            detail: report.detail.clone(),
            next: report.next.0,
            waiting: report.next.since(due),
            oldest,
            as_of: spool.at,
        }
    }

    /// Adds up a stream's part of a stretch, and returns for how many of its holes the number of
    /// records is not known.
    async fn add_up(
        &self,
        stream: &Stream,
        range: &Range,
        answer: &mut Completeness,
    ) -> Result<u64> {
        let (first, end) = self.positions(stream, range).await?;
        let (robot, epoch) = (self.robot, stream.epoch);
        let missing = self.journal.missing(robot, epoch, first, end).await?;
        let whole = end.since(first).saturating_sub(missing.shed_positions);
        let whole = whole.saturating_sub(missing.thinned_positions);
        let whole = whole.saturating_add(missing.kept);
        // A robot may claim anything, so nothing is added up without bounds.
        answer.received = answer.received.saturating_add(whole);
        answer.shed = answer.shed.saturating_add(missing.shed);
        answer.thinned = answer.thinned.saturating_add(missing.thinned);
        // What is left of merged samples is one of them.
        let merged_away = missing.thinned.saturating_sub(missing.kept);
        let accepted = whole.saturating_add(merged_away);
        answer.expected = answer.expected.saturating_add(accepted);
        let mut unknown = missing.unknown;
        // Holes at the ends may reach out of the stretch.
        if let Some((hole, span)) = self.hole_at(stream, first, end).await? {
            let reaches_out = |from| span.since.is_none_or(|since| since < from);
            let reaches_out = range.from.is_some_and(reaches_out);
            *answer.bound_of(&hole) |= reaches_out;
        }
        if let Some((hole, span)) = self.hole_at(stream, end, stream.due).await?
            && span.touches(range)
        {
            *answer.bound_of(&hole) = true;
            if hole.kept {
                answer.thinned = answer.thinned.saturating_add(hole.count);
                answer.expected = answer.expected.saturating_add(hole.count);
            } else {
                answer.shed = answer.shed.saturating_add(hole.count);
            }
            unknown += u64::from(hole.count == 0);
        }
        Ok(unknown)
    }

    /// The hole that begins at a position.
    async fn hole_at(&self, stream: &Stream, at: Seq, end: Seq) -> Result<Option<(Hole, Span)>> {
        if at >= end {
            return Ok(None);
        }
        let rows = self.rows(stream, at, 1).await?;
        let Some(stored) = rows.into_iter().next() else {
            return Ok(None);
        };
        let span = stream.span(&stored);
        let hole = Entry::read(stored.item).hole();
        Ok(hole.map(|hole| (hole, span)))
    }

    async fn add_waiting(
        &self,
        range: &Range,
        spool: Option<&Spool>,
        answer: &mut Completeness,
    ) -> Result<()> {
        let stream = match spool {
            Some(spool) => self.stream(spool.epoch),
            None => self.streams.last(),
        };
        let newest = match stream {
            Some(stream) => self.newest(stream).await?,
            None => None,
        };
        answer.as_of = newest.max(spool.map(|spool| spool.at));
        // What is older than something that was received is not on the robot any more.
        if range
            .to
            .zip(newest)
            .is_some_and(|(to, newest)| to <= newest)
        {
            answer.waiting = Some(0);
            return Ok(());
        }
        let Some(spool) = spool else {
            let what = "how many records wait on the robot: it has not said so to this relay yet";
            answer.unknown.push(what.to_owned());
            return Ok(());
        };
        let view = self.spool(spool);
        let oldest = view.oldest.map(|time| time.corrected).or(newest);
        let is_later = range.to.zip(oldest).is_some_and(|(to, at)| to <= at);
        let positions = if is_later { 0 } else { view.waiting };
        let waiting = without_leaps(positions);
        answer.waiting = Some(waiting);
        if positions >= LEAP {
            let what = "how many records were lost when the robot's spool was salvaged";
            answer.unknown.push(what.to_owned());
        }
        let cuts_end = range.to.is_some_and(|to| to <= spool.at);
        let cuts_begin = range
            .from
            .is_some_and(|from| oldest.is_none_or(|at| from > at));
        answer.waiting_is_upper_bound =
            waiting > 0 && (cuts_end || cuts_begin || positions >= LEAP);
        if range
            .to
            .zip(answer.as_of)
            .is_some_and(|(to, known)| to > known)
        {
            let what = format!(
                "what the robot recorded after {}, when it was last heard of",
                answer.as_of.unwrap_or(spool.at)
            );
            answer.unknown.push(what);
        }
        Ok(())
    }

    /// When the newest record was made that is in a stream.
    async fn newest(&self, stream: &Stream) -> Result<Option<Timestamp>> {
        let mut end = stream.due;
        let mut length = PROBE;
        while end > Seq::FIRST {
            // The first of them covers the position that is asked for.
            let begin = Seq(end.0.saturating_sub(length.try_into().unwrap_or(u64::MAX)));
            let rows = self.rows(stream, begin.max(Seq::FIRST), length).await?;
            let mut from_end = rows.iter().rev().filter(|row| row.seq < end);
            if let Some(key) = from_end.find_map(|row| stream.span(row).key()) {
                return Ok(Some(key));
            }
            let Some(row) = rows.first().filter(|row| row.seq < end) else {
                break;
            };
            end = row.seq;
            length = PAGE;
        }
        Ok(None)
    }

    /// The positions whose records were made in a stretch of time: the first, and the one after the
    /// last.
    async fn positions(&self, stream: &Stream, range: &Range) -> Result<(Seq, Seq)> {
        let first = match range.from {
            Some(from) => self.first_since(stream, from).await?,
            None => Seq::FIRST,
        };
        let end = match range.to {
            Some(to) => self.first_since(stream, to).await?,
            None => stream.due,
        };
        Ok((first, end.max(first)))
    }

    /// The position of the first record that was not made before a moment.
    async fn first_since(&self, stream: &Stream, moment: Timestamp) -> Result<Seq> {
        let (mut low, mut high) = (Seq::FIRST, stream.due);
        while low < high {
            let middle = low.plus(high.since(low) / 2);
            let Some((row, key)) = self.key_from(stream, middle, high).await? else {
                break;
            };
            // What knows no time is as old as what comes after it.
            if key.is_none_or(|key| key >= moment) {
                high = row.seq;
            } else {
                low = row.seq.plus(row.item.covers);
            }
        }
        Ok(high)
    }

    /// The row that covers a position, and the first time that it or one of those after it tells, up
    /// to an end.
    async fn key_from(
        &self,
        stream: &Stream,
        at: Seq,
        end: Seq,
    ) -> Result<Option<(Stored, Option<Timestamp>)>> {
        // The first of them covers the position, since a stream has no holes in its positions.
        let mut rows = self.rows(stream, at, PROBE).await?;
        let Some(first) = rows.first().cloned() else {
            return Ok(None);
        };
        loop {
            let mut before_end = rows.iter().take_while(|row| row.seq < end);
            let key = before_end.find_map(|row| stream.span(row).key());
            let next = rows.last().map(|row| row.seq.plus(row.item.covers));
            let next = next.filter(|next| *next < end && key.is_none());
            let Some(next) = next else {
                return Ok(Some((first, key)));
            };
            rows = self.rows(stream, next, PAGE).await?;
        }
    }

    async fn rows(&self, stream: &Stream, from: Seq, limit: usize) -> Result<Vec<Stored>> {
        let rows = self.journal.records(self.robot, stream.epoch, from, limit);
        rows.await
    }

    fn index(&self, epoch: Epoch) -> Option<usize> {
        self.streams.iter().position(|stream| stream.epoch == epoch)
    }

    fn stream(&self, epoch: Epoch) -> Option<&Stream> {
        self.streams.iter().find(|stream| stream.epoch == epoch)
    }
}

#[cfg(test)]
mod tests;
