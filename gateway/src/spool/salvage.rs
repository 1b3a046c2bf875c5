//! Saves what can be read of a damaged spool.
//!
//! It promises:
//! - Every record that is whole anywhere in the files, and was not released, is in the new database
//!   at the same position, byte for byte. No other record is: each has a sum over all its columns.
//! - Every position without a record is covered by a tombstone, in order.
//! - No position is given out again. Where nobody can know how many there were behind the last that
//!   can be read, a tombstone of unknown count takes [`LEAP`] positions, and new records go behind.
//! - The epoch stays, because the relay would take known records of a new epoch for others. Only
//!   where neither of its two copies is whole a new one begins; what the relay had stored but not
//!   acknowledged comes twice then.
//! - Of a command the furthest step that is whole is kept, so that no order is carried out again.
//! - The damaged files stay, beside the new one. A crash at any moment loses nothing.
//!
//! It relies on sums alone, not on the structure of the files: rows are taken from every page that
//! holds any, older versions of a page included. What is read twice is compared: of two rows for
//! one position the one that covers more is the later, because rows are only ever joined.
//!
//! Steps, each durable before the next: note what is to be done ([`Note`]), move the files aside,
//! write the new database beside, give it the name of the old one, remove the note. A start that
//! finds a note goes on with it. The records are read twice, so that only the places of pages are in
//! memory at once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use brrbrr_proto::id::{BootId, Epoch, Seq};
use brrbrr_proto::time::{Stamp, Uptime, WallClock};
use brrbrr_proto::up::{Event, Loss, Progress, Record, Tombstone};
use serde::{Deserialize, Serialize};

use super::format::{self, CommandRow, EncodedRecord, Identity, RecordRow, Stream};
use super::images::{Image, Images, is_there, suffixed};
use super::opening::{date, sync_folder};
use super::pages::{self, Cell, Value};
use super::sqlite::{Rebuild, file_error};
use super::{ENDED_COMMANDS_KEPT, HandOver, Result, SOURCES_KEPT, Salvaged, SpoolError};

/// How many positions are left out behind the last record that can be read: more than a robot can
/// have given out since.
pub const LEAP: u64 = 1 << 32;

/// How many commands are kept in memory while they are gathered: all that a spool keeps, ended or
/// not, and older versions of them.
const COMMANDS_MAX: usize = 4 * ENDED_COMMANDS_KEPT as usize;

/// What is to be salvaged. It lies beside the database until that is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    /// The name that the damaged database gets.
    aside: String,
    /// Whether there was a database and not only its log.
    has_database: bool,
    /// The row of the next record, where that is known.
    next: Option<u64>,
    /// What was wrong.
    what: String,
}

/// Moves the files of a damaged database aside and makes a new one of what can be read. `next` is
/// the row of the next record, where it is known.
pub(super) fn salvage(
    path: &Path,
    what: String,
    next: Option<u64>,
    now: WallClock,
) -> Result<Salvaged> {
    let aside = free_name(path, now)?;
    let name = aside.file_name().unwrap_or_default();
    let note = Note {
        aside: name.to_string_lossy().into_owned(),
        has_database: is_there(path)?,
        next,
        what,
    };
    write_note(path, &note)?;
    carry_out(path, &note, now)
}

/// Goes on with a salvage that a crash or a full disk stopped, if there is one.
pub(super) fn resume(path: &Path, now: WallClock) -> Result<Option<Salvaged>> {
    let Some(note) = read_note(path)? else {
        return Ok(None);
    };
    let aside = path.with_file_name(&note.aside);
    // The old database has moved and there is one again: only the note is left over.
    if is_there(path)? && (!note.has_database || is_there(&aside)?) {
        remove_note(path)?;
        return Ok(None);
    }
    carry_out(path, &note, now).map(Some)
}

/// Whether there is a note of a salvage that is not done.
pub(super) fn is_under_way(path: &Path) -> Result<bool> {
    is_there(&note_path(path))
}

fn carry_out(path: &Path, note: &Note, now: WallClock) -> Result<Salvaged> {
    let aside = path.with_file_name(&note.aside);
    // The database goes first: SQLite would take a database without its log for an older one.
    for part in ["", "-wal", "-shm"] {
        let (from, to) = (suffixed(path, part), suffixed(&aside, part));
        match fs::rename(&from, &to) {
            Err(reason) if reason.kind() == io::ErrorKind::NotFound => {}
            Err(reason) => return Err(file_error("move aside", &from, reason)),
            Ok(()) => sync_folder(path)?,
        }
    }
    tracing::error!(what = note.what, moved_to = %aside.display(), "the spool is damaged, saving what can be read");
    let new = suffixed(path, ".new");
    let salvaged = rebuild(&aside, &new, note.next, now)?;
    fs::rename(&new, path).map_err(|reason| file_error("replace", path, reason))?;
    sync_folder(path)?;
    remove_note(path)?;
    tracing::warn!(?salvaged, "the spool goes on with what could be read");
    Ok(salvaged)
}

/// A name with a date for the damaged files that no file has yet.
pub(super) fn free_name(path: &Path, now: WallClock) -> Result<PathBuf> {
    let mut aside = suffixed(path, &format!(".damaged-{}", date(path, now)?));
    while is_there(&aside)? || is_there(&suffixed(&aside, "-wal"))? {
        aside = suffixed(&aside, "-again");
    }
    Ok(aside)
}

fn note_path(path: &Path) -> PathBuf {
    suffixed(path, ".salvage")
}

fn write_note(path: &Path, note: &Note) -> Result<()> {
    let place = note_path(path);
    let fault = |reason| file_error("write", &place, reason);
    let text = serde_json::to_vec(note).map_err(|reason| fault(reason.into()))?;
    fs::write(&place, text)
        .and_then(|()| File::open(&place)?.sync_all())
        .map_err(fault)?;
    sync_folder(path)
}

/// A note that a crash left half is none: nothing was moved yet.
fn read_note(path: &Path) -> Result<Option<Note>> {
    let place = note_path(path);
    match fs::read(&place) {
        Ok(text) => match serde_json::from_slice(&text) {
            Ok(note) => Ok(Some(note)),
            Err(_) => remove_note(path).map(|()| None),
        },
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(reason) => Err(file_error("read", &place, reason)),
    }
}

fn remove_note(path: &Path) -> Result<()> {
    let place = note_path(path);
    fs::remove_file(&place).map_err(|reason| file_error("remove", &place, reason))?;
    sync_folder(path)
}

/// Writes a database at `new` from what can be read of the one at `aside`.
fn rebuild(aside: &Path, new: &Path, next: Option<u64>, now: WallClock) -> Result<Salvaged> {
    let images = Images::open_damaged(aside).map_err(|reason| file_error("read", aside, reason))?;
    let found = Found::gather(&images);
    let lowest = found.leaves.first().map(|leaf| leaf.first);
    let ground = Ground::of(&found, lowest)?;
    let mut database = Rebuild::begin(new, &ground.stream)?;
    for (place, command) in &found.commands {
        database.command(&command.row(*place))?;
    }
    for (place, name) in &found.sources {
        database.source(*place, name)?;
    }
    let mut laying = Laying {
        images: &images,
        database: &mut database,
        due: ground.begin,
        front_known: ground.front_known,
        since: None,
        now,
        salvaged: Salvaged {
            moved_to: aside.to_owned(),
            records: 0,
            holes: 0,
            same_epoch: ground.same_epoch,
        },
        page: None,
    };
    laying.lay_all(&found.leaves)?;
    match next {
        Some(next) => laying.fill(next, None, true)?,
        None => {
            let leap = if ground.same_epoch { LEAP } else { 1 };
            let end = laying.due.saturating_add(leap);
            laying.fill(end, None, false)?;
        }
    }
    let salvaged = laying.salvaged;
    database.finish()?;
    Ok(salvaged)
}

/// What the new database stands on.
#[derive(Debug)]
struct Ground {
    stream: Stream,
    /// The row of the first position that has to be accounted for.
    begin: u64,
    /// Whether everything before `begin` was surely released.
    front_known: bool,
    same_epoch: bool,
}

impl Ground {
    /// `lowest` is the lowest row that was found.
    fn of(found: &Found, lowest: Option<u64>) -> Result<Self> {
        let known = found.stream.as_ref().map(|(_, stream)| stream);
        if let Some(identity) = found.newest_identity() {
            let Identity { epoch, shift } = identity;
            let begin = match found.released {
                Some(released) => released,
                None => shift.saturating_add(Seq::FIRST.0),
            };
            let stream = Stream {
                epoch,
                shift,
                released: begin,
                down: known.and_then(|stream| stream.down),
                status: known.and_then(|stream| stream.status.clone()),
            };
            return Ok(Self {
                stream,
                begin,
                front_known: found.released.is_some(),
                same_epoch: true,
            });
        }
        // One position before the first record stands for what may have been there.
        let begin = lowest.map_or(1, |lowest| lowest.saturating_sub(1).max(1));
        let stream = Stream {
            epoch: Epoch(getrandom::u64().map_err(SpoolError::NoRandomness)?),
            shift: begin.saturating_sub(Seq::FIRST.0),
            released: begin,
            down: None,
            status: None,
        };
        Ok(Self {
            stream,
            begin,
            front_known: false,
            same_epoch: false,
        })
    }
}

/// A page that holds records.
#[derive(Debug, Clone, Copy)]
struct Leaf {
    /// The lowest row in it.
    first: u64,
    image: Image,
}

/// A command's row, out of its page.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FoundCommand {
    id: Vec<u8>,
    motion: u64,
    ended: u64,
    key: Option<Vec<u8>>,
    content: Vec<u8>,
    step: Vec<u8>,
    sum: u64,
    /// How far it came.
    reached: (u64, HandOver, Progress, Option<Uptime>),
}

impl FoundCommand {
    fn row(&self, place: u64) -> CommandRow<'_> {
        CommandRow {
            place,
            id: &self.id,
            motion: self.motion,
            ended: self.ended,
            key: self.key.as_deref(),
            content: &self.content,
            step: &self.step,
            sum: self.sum,
        }
    }
}

/// What the first reading finds: everything but the records themselves.
#[derive(Debug, Default)]
struct Found {
    /// In the order of their rows.
    leaves: Vec<Leaf>,
    commands: BTreeMap<u64, FoundCommand>,
    sources: BTreeMap<u64, String>,
    stream: Option<(Image, Stream)>,
    identity: Option<(Image, Identity)>,
    /// The highest that any intact version of the stream's row names: it never goes back.
    released: Option<u64>,
}

impl Found {
    fn gather(images: &Images) -> Self {
        let mut found = Self::default();
        for image in images.all() {
            let Some(page) = images.load(image) else {
                continue;
            };
            let mut first = None;
            for cell in pages::cells(&page, image.page) {
                found.take(images, image, &cell, &mut first);
            }
            if let Some(first) = first {
                found.leaves.push(Leaf { first, image });
            }
        }
        let released = found.released.unwrap_or_default();
        // Only the first row counts here: the rest of the page may not be released yet.
        for leaf in &mut found.leaves {
            leaf.first = leaf.first.max(released);
        }
        found.leaves.sort_by_key(|leaf| leaf.first);
        found
    }

    fn take(&mut self, images: &Images, image: Image, cell: &Cell<'_>, first: &mut Option<u64>) {
        let content = cell.content(|page| images.load_beside(image, page));
        let Some(content) = content else { return };
        let Some(columns) = pages::columns(&content) else {
            return;
        };
        match columns.as_slice() {
            [Value::Null, Value::Bytes(name)] => self.take_source(cell.row, name),
            [Value::Null, ..] if record_row(cell.row, &columns).is_some() => {
                *first = Some(first.map_or(cell.row, |first: u64| first.min(cell.row)));
            }
            [Value::Null, ..] if columns.len() == 4 => self.take_identity(image, &columns),
            // Only one of the two has the right types and the right sum.
            [Value::Null, ..] if columns.len() == 8 => {
                self.take_command(cell.row, &columns);
                self.take_stream(image, &columns);
            }
            _ => {}
        }
    }

    fn take_source(&mut self, place: u64, name: &[u8]) {
        if let Ok(name) = std::str::from_utf8(name) {
            self.sources.insert(place, name.to_owned());
        }
        // As many of each kind; the database holds no more.
        if self.sources.len() > 2 * SOURCES_KEPT as usize {
            self.sources.pop_first();
        }
    }

    fn take_identity(&mut self, image: Image, columns: &[Value<'_>]) {
        let Some((identity, sum)) = format::identity_of(columns) else {
            return;
        };
        let newer = self.identity.is_none_or(|(at, _)| at.frame <= image.frame);
        if identity.sum() == sum && newer {
            self.identity = Some((image, identity));
        }
    }

    fn take_stream(&mut self, image: Image, columns: &[Value<'_>]) {
        let Some((stream, sum)) = format::stream_of(columns) else {
            return;
        };
        if stream.sum() != sum {
            return;
        }
        self.released = self.released.max(Some(stream.released));
        let before = self.stream.as_ref();
        if before.is_none_or(|(at, _)| at.frame <= image.frame) {
            self.stream = Some((image, stream));
        }
    }

    fn take_command(&mut self, place: u64, columns: &[Value<'_>]) {
        let Some(row) = format::command_of(place, columns).filter(CommandRow::is_intact) else {
            return;
        };
        let told = format::decode_told(row.step);
        let Ok(told) =
            told.and_then(|told| format::decode_command(row.content, &told).map(|_| told))
        else {
            return;
        };
        // The stamp of how far it has got tells apart what else is the same.
        let said = told.reached.map(|reached| reached.at.uptime);
        let reached = (row.ended, told.hand_over, told.progress, said);
        let before = self.commands.get(&place);
        if before.is_none_or(|before| before.reached <= reached) {
            let command = FoundCommand {
                id: row.id.to_vec(),
                motion: row.motion,
                ended: row.ended,
                key: row.key.map(<[u8]>::to_vec),
                content: row.content.to_vec(),
                step: row.step.to_vec(),
                sum: row.sum,
                reached,
            };
            self.commands.insert(place, command);
        }
        if self.commands.len() > COMMANDS_MAX {
            self.commands.pop_first();
        }
    }

    /// Which epoch it is, by the later of the two copies.
    fn newest_identity(&self) -> Option<Identity> {
        let copy = self.identity.map(|(at, identity)| (at.frame, identity));
        let stream = self.stream.as_ref();
        let stream = stream.map(|(at, stream)| (at.frame, stream.identity()));
        match (copy, stream) {
            (Some((copied, identity)), Some((at, _))) if copied > at => Some(identity),
            (_, Some((_, identity))) | (Some((_, identity)), None) => Some(identity),
            (None, None) => None,
        }
    }
}

/// A record's columns, where they are as they were written.
fn record_row<'a>(row: u64, columns: &[Value<'a>]) -> Option<RecordRow<'a>> {
    format::record_of(row, columns).filter(RecordRow::is_intact)
}

/// A record that is known to be in a page, in the order of rows.
#[derive(Debug, Clone, Copy)]
struct Place {
    covers: u64,
    image: Image,
}

/// The second reading: lays the records into the new database, in order.
#[derive(Debug)]
struct Laying<'a> {
    images: &'a Images,
    database: &'a mut Rebuild,
    /// The row that has to be accounted for next.
    due: u64,
    /// Whether it is known how many are missing before the first record.
    front_known: bool,
    /// When the record before was made.
    since: Option<Stamp>,
    now: WallClock,
    salvaged: Salvaged,
    /// The page that was read last.
    page: Option<(Image, Vec<u8>)>,
}

impl Laying<'_> {
    /// Pages overlap only where the log has several versions of one, so few rows wait at once.
    fn lay_all(&mut self, leaves: &[Leaf]) -> Result<()> {
        let mut waiting: BTreeMap<u64, Place> = BTreeMap::new();
        for leaf in leaves {
            while let Some(entry) = waiting.first_entry() {
                if *entry.key() >= leaf.first {
                    break;
                }
                let (row, place) = entry.remove_entry();
                self.lay(row, place)?;
            }
            for (row, covers) in self.rows(leaf.image) {
                if row < self.due {
                    continue;
                }
                let place = Place {
                    covers,
                    image: leaf.image,
                };
                let kept = waiting.entry(row).or_insert(place);
                if kept.covers < covers {
                    *kept = place;
                }
            }
        }
        for (row, place) in waiting {
            self.lay(row, place)?;
        }
        Ok(())
    }

    /// The rows of the records in a page, and how much they cover.
    fn rows(&mut self, image: Image) -> Vec<(u64, u64)> {
        let images = self.images;
        let page = self.load(image);
        let cells = pages::cells(page, image.page);
        let rows = cells.iter().filter_map(|cell| {
            let content = cell.content(|page| images.load_beside(image, page))?;
            let columns = pages::columns(&content)?;
            record_row(cell.row, &columns).map(|row| (row.row, row.covers))
        });
        rows.collect()
    }

    fn lay(&mut self, row: u64, place: Place) -> Result<()> {
        // A row within another one is an older version of what that stands for.
        if row < self.due {
            return Ok(());
        }
        let images = self.images;
        let page = self.load(place.image);
        let cells = pages::cells(page, place.image.page);
        let cell = cells.iter().find(|cell| cell.row == row);
        let content =
            cell.and_then(|cell| cell.content(|page| images.load_beside(place.image, page)));
        // Where it cannot be read a second time the next one leaves a hole for it.
        let Some(content) = content else {
            return Ok(());
        };
        let Some(columns) = pages::columns(&content) else {
            return Ok(());
        };
        let Some(record) = record_row(row, &columns) else {
            return Ok(());
        };
        let stamp = Record::decode(record.bytes).ok().map(|record| record.stamp);
        self.fill(row, stamp, self.front_known || self.since.is_some())?;
        self.database.record(&record)?;
        self.salvaged.records += 1;
        self.since = stamp.or(self.since);
        self.due = record.end();
        Ok(())
    }

    /// Puts a tombstone in place of everything before `end`.
    fn fill(&mut self, end: u64, until: Option<Stamp>, counted: bool) -> Result<()> {
        let Some(covers) = end.checked_sub(self.due).filter(|covers| *covers > 0) else {
            return Ok(());
        };
        let unknown = Stamp {
            boot: BootId(0),
            uptime: Uptime::default(),
            wall: self.now,
        };
        let tombstone = Record {
            stamp: self.since.or(until).unwrap_or(unknown),
            event: Event::Tombstone(Tombstone {
                count: if counted { covers } else { 0 },
                loss: Loss::SpoolCorrupt,
                since: self.since,
                until,
            }),
        };
        let encoded = EncodedRecord {
            covers,
            ..EncodedRecord::encode(&tombstone)?
        };
        self.database
            .record(&RecordRow::sealed(self.due, &encoded))?;
        self.salvaged.holes += 1;
        self.due = end;
        Ok(())
    }

    /// The bytes of a page, from memory where it was the last that was asked for.
    fn load(&mut self, image: Image) -> &[u8] {
        if self.page.as_ref().is_none_or(|(at, _)| *at != image) {
            let bytes = self.images.load(image).unwrap_or_default();
            self.page = Some((image, bytes));
        }
        self.page.as_ref().map_or(&[], |(_, bytes)| bytes)
    }
}
