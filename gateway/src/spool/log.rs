//! Reads a write-ahead log as bytes, to tell a log that a power cut tore from one that rotted.
//! Source: <https://www.sqlite.org/fileformat2.html#walformat>.
//!
//! SQLite reads a log up to the first frame whose checksum does not fit and silently forgets the
//! rest. That is right after a power cut and wrong after rot: a frame that rotted in the middle
//! would take every acknowledged commit behind it away. What tells the two apart:
//! - A commit is synced before anything of the next one is written. So at most the last transaction
//!   in a log can be torn, and nothing follows it.
//! - The frames of one generation of the log carry its salts, and the spool cuts off whatever a
//!   failed commit or a crash left behind the last good one before it writes again. So every frame
//!   with the current salts, but those of the last transaction, was written by a commit that was
//!   acknowledged.
//! - The log's header is synced before the first frame is written, and lies within one sector.
//!
//! So the log is damaged where a frame of the current generation follows a commit frame that lies
//! at or behind the first frame that does not fit, and where frames follow a header that does not
//! fit. What cannot be told apart: rot within the very last transaction looks like a power cut
//! during it.
//!
//! A frame's checksum goes on from that of the frame before it, which is stored there. So frames
//! behind the break can still be checked one by one.

use std::io::{self, Read};

use super::pages::{PAGE_BYTES, PageNumber, u32_at};

/// The log's own header.
const HEADER_BYTES: usize = 32;

/// What stands before each page.
const FRAME_HEADER_BYTES: usize = 24;

/// One frame with its page.
const FRAME_BYTES: usize = FRAME_HEADER_BYTES + PAGE_BYTES;

/// What a log begins with, without the last bit, which tells the order of bytes in checksums.
const MAGIC: u32 = 0x377f_0682;

/// The most frames that are looked at. The log is folded into the database long before: a larger
/// file holds no more than this of ours.
const FRAMES_MAX: usize = 1 << 20;

/// The two running sums of a log.
type Checksum = [u32; 2];

/// A frame of the current generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    /// Which page it holds.
    pub(super) page: PageNumber,
    /// Where the page begins in the log's file.
    pub(super) offset: u64,
    /// Whether it ends a transaction.
    commits: bool,
}

/// What a log turned out to hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Log {
    /// The frames of commits that were acknowledged, those behind a break included, in order.
    pub(super) frames: Vec<Frame>,
    /// Whether acknowledged commits lie where SQLite would not read them.
    pub(super) is_damaged: bool,
    /// How long the file is to be cut, where a power cut or a failed commit left frames behind the
    /// last good one.
    pub(super) cut: Option<u64>,
}

impl Log {
    /// Reads a whole log from its first byte on, a frame at a time. A file that ends in the middle
    /// of a frame is a log like any other.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub(super) fn read(file: &mut impl Read) -> io::Result<Self> {
        let mut header = [0; HEADER_BYTES];
        if fill(file, &mut header)? < HEADER_BYTES {
            return Ok(Self::default());
        }
        let mut reading = Reading::new(&header);
        let mut frame = vec![0; FRAME_BYTES];
        let mut offset = HEADER_BYTES as u64;
        for _ in 0..FRAMES_MAX {
            if fill(file, &mut frame)? < FRAME_BYTES {
                break;
            }
            reading.take(&frame, offset);
            offset += FRAME_BYTES as u64;
        }
        Ok(reading.done(&header))
    }

    /// How many bytes a log with so many frames has.
    pub(super) const fn bytes(frames: u64) -> u64 {
        if frames == 0 {
            0
        } else {
            HEADER_BYTES as u64 + frames * FRAME_BYTES as u64
        }
    }
}

/// Reads until the buffer is full or the file ends, and says how many bytes there were.
fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(reason) if reason.kind() == io::ErrorKind::Interrupted => {}
            Err(reason) => return Err(reason),
        }
    }
    Ok(filled)
}

/// A log while it is read.
#[derive(Debug)]
struct Reading {
    big_endian: bool,
    /// Those of the header, or of the first frame where the header does not fit.
    salts: Option<[u8; 8]>,
    header_fits: bool,
    /// The checksum that the frame before stored.
    before: Option<Checksum>,
    /// Whether all frames so far fit, from the header on.
    unbroken: bool,
    frames: Vec<Frame>,
    /// For each frame whether it fits behind the one before it.
    fits: Vec<bool>,
    /// How many frames belong to commits that SQLite will read.
    used: usize,
}

impl Reading {
    fn new(header: &[u8; HEADER_BYTES]) -> Self {
        let magic = u32_at(header, 0).unwrap_or_default();
        let big_endian = magic & 1 == 1;
        let stored = checksum_at(header, HEADER_BYTES - 8);
        let summed = header.get(..HEADER_BYTES - 8).unwrap_or_default();
        let header_fits = magic & !1 == MAGIC
            && u32_at(header, 8).is_some_and(|size| size as usize == PAGE_BYTES)
            && stored == Some(checksum([0; 2], summed, big_endian));
        Self {
            big_endian,
            salts: salts_at(header, 16).filter(|_| header_fits),
            header_fits,
            before: stored.filter(|_| header_fits),
            unbroken: header_fits,
            frames: Vec::new(),
            fits: Vec::new(),
            used: 0,
        }
    }

    fn take(&mut self, bytes: &[u8], offset: u64) {
        let (Some(page), Some(size)) = (u32_at(bytes, 0), u32_at(bytes, 4)) else {
            return;
        };
        let (Some(salts), Some(stored)) = (salts_at(bytes, 8), checksum_at(bytes, 16)) else {
            return;
        };
        let before = self.before.replace(stored);
        if page == 0 || *self.salts.get_or_insert(salts) != salts {
            self.unbroken = false;
            return;
        }
        let fits = before.is_some_and(|before| {
            let head = bytes.get(..8).unwrap_or_default();
            let data = bytes.get(FRAME_HEADER_BYTES..).unwrap_or_default();
            let sum = checksum(before, head, self.big_endian);
            checksum(sum, data, self.big_endian) == stored
        });
        self.unbroken &= fits;
        self.frames.push(Frame {
            page: PageNumber(page),
            offset: offset + FRAME_HEADER_BYTES as u64,
            commits: size != 0,
        });
        self.fits.push(fits);
        if self.unbroken && size != 0 {
            self.used = self.frames.len();
        }
    }

    fn done(mut self, header: &[u8; HEADER_BYTES]) -> Log {
        let commits = |frame: &Frame| frame.commits;
        let behind = self.frames.get(self.used..).unwrap_or_default();
        // The frame after a commit proves that it was acknowledged.
        let proven = behind
            .len()
            .checked_sub(1)
            .and_then(|last| behind.get(..last)?.iter().rposition(commits));
        let is_blank = header.iter().all(|byte| *byte == 0);
        let headless = !(self.header_fits || is_blank && self.frames.is_empty());
        let is_damaged = proven.is_some() || (headless && !self.frames.is_empty());
        let leaves_rest = !is_damaged && self.frames.len() > self.used;
        let cut = leaves_rest.then(|| Log::bytes(self.used as u64));
        if is_damaged {
            let proven = proven.map_or(0, |at| at + 1) + self.used;
            self.frames.truncate(self.last_commit(proven));
        } else {
            self.frames.truncate(self.used);
        }
        Log {
            frames: self.frames,
            is_damaged,
            cut,
        }
    }

    /// How many frames there are up to the last commit that can be relied on: a transaction at the
    /// very end counts where all of it fits.
    fn last_commit(&self, proven: usize) -> usize {
        let rest = self.frames.get(proven..).unwrap_or_default();
        let Some(end) = rest.iter().rposition(|frame| frame.commits) else {
            return proven;
        };
        let end = proven + end + 1;
        let fits = self.fits.get(proven..end).unwrap_or_default();
        // The first frame of a log without a header has nothing to be compared with.
        let fits = fits.iter().skip(usize::from(proven == 0));
        if fits.clone().all(|fits| *fits) {
            end
        } else {
            proven
        }
    }
}

fn salts_at(bytes: &[u8], at: usize) -> Option<[u8; 8]> {
    bytes.get(at..)?.first_chunk::<8>().copied()
}

fn checksum_at(bytes: &[u8], at: usize) -> Option<Checksum> {
    Some([u32_at(bytes, at)?, u32_at(bytes, at + 4)?])
}

/// Goes on with a checksum over whole pairs of words.
fn checksum(before: Checksum, bytes: &[u8], big_endian: bool) -> Checksum {
    let (words, _) = bytes.as_chunks::<4>();
    let (pairs, _) = words.as_chunks::<2>();
    let word = |bytes: [u8; 4]| {
        if big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        }
    };
    pairs.iter().fold(before, |[one, two], [first, second]| {
        let one = one.wrapping_add(word(*first)).wrapping_add(two);
        let two = two.wrapping_add(word(*second)).wrapping_add(one);
        [one, two]
    })
}

#[cfg(test)]
mod tests;
