//! Reads the rows of a SQLite file from its pages as bytes, without SQL: it works where the schema
//! or the inner pages of a table are destroyed. Source: <https://www.sqlite.org/fileformat2.html>.
//!
//! Nothing here trusts what it reads: whatever the bytes are, it ends, stays within small bounds of
//! memory, and does not panic.

/// The size of the pages that this program's databases have. A commit of one record writes three pages
/// to the log, one after the other: small ones wear the flash less than half as much as SQLite's usual.
pub(super) const PAGE_BYTES: usize = 1024;

/// The longest row that is put together: a record with its columns, and room to spare.
const ROW_BYTES_MAX: usize = 128 * 1024;

/// The most columns that are read of one row: more than any table of the spool has.
const COLUMNS_MAX: usize = 16;

/// The file's own header, before the first page's.
const FILE_HEADER_BYTES: usize = 100;

/// The kind of page that holds rows of a table.
const TABLE_LEAF: u8 = 0x0d;

/// The kind of page that leads to the leaves of a table.
const TABLE_INNER: u8 = 0x05;

/// The number of a page, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PageNumber(pub(super) u32);

/// One column of a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    /// Nothing, or the row's own number where the column is the key.
    Null,
    /// A whole number.
    Integer(i64),
    /// Bytes, or the bytes of a text.
    Bytes(&'a [u8]),
    /// A floating-point number: no table of the spool has one.
    Real,
}

impl<'a> Value<'a> {
    /// An integer with the sign taken off, as the spool's tables mean it.
    pub(super) const fn unsigned(&self) -> Option<u64> {
        match self {
            Self::Integer(value) => Some(value.cast_unsigned()),
            Self::Null | Self::Bytes(_) | Self::Real => None,
        }
    }

    /// A blob or the bytes of a text.
    pub(super) const fn bytes(&self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Null | Self::Integer(_) | Self::Real => None,
        }
    }
}

/// One row in a leaf page: its number and where its content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell<'a> {
    /// The row's number, with the sign taken off.
    pub(super) row: u64,
    /// How long the content is, the part on other pages included.
    length: usize,
    /// The part of the content that is on the page itself.
    local: &'a [u8],
    /// Where the rest begins.
    overflow: Option<PageNumber>,
}

impl Cell<'_> {
    /// The row's whole content; `None` where a page of it cannot be had. `page` gives a page's
    /// bytes.
    pub(super) fn content(
        &self,
        mut page: impl FnMut(PageNumber) -> Option<Vec<u8>>,
    ) -> Option<Vec<u8>> {
        let mut content = self.local.to_vec();
        let mut next = self.overflow;
        // Every page adds something, so a circle of pages comes to an end as well.
        while content.len() < self.length {
            let bytes = page(next?)?;
            let (number, part) = bytes.get(..PAGE_BYTES)?.split_first_chunk::<4>()?;
            let number = u32::from_be_bytes(*number);
            next = (number != 0).then_some(PageNumber(number));
            let missing = self.length - content.len();
            content.extend_from_slice(part.get(..missing).unwrap_or(part));
        }
        Some(content)
    }
}

/// The rows of a page, where it is a leaf of a table. Rows that make no sense are left out.
pub(super) fn cells(page: &[u8], number: PageNumber) -> Vec<Cell<'_>> {
    pointers(page, number)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|at| cell(page, at))
        .collect()
}

/// Where the cells of a leaf page are said to begin; `None` where it is no such page.
fn pointers(page: &[u8], number: PageNumber) -> Option<Vec<usize>> {
    if page.len() != PAGE_BYTES {
        return None;
    }
    let header = page.get(header_offset(number)..)?;
    if *header.first()? != TABLE_LEAF {
        return None;
    }
    let count = usize::from(u16_at(header, 3)?);
    let array = header.get(8..)?;
    // A count that rotted may be far too large: what follows the array does no harm, because every
    // row is compared with its sum.
    let (chunks, _) = array.as_chunks::<2>();
    let pointers = chunks.iter().take(count);
    Some(
        pointers
            .map(|bytes| usize::from(u16::from_be_bytes(*bytes)))
            .collect(),
    )
}

/// All children of an inner page of a table; none where it is no such page.
pub(super) fn children(page: &[u8], number: PageNumber) -> Vec<PageNumber> {
    let Some((last, _)) = last_child(page, number) else {
        return Vec::new();
    };
    let header = page.get(header_offset(number)..).unwrap_or_default();
    let count = u16_at(header, 3).map_or(0, usize::from);
    let (cells, _) = header.get(12..).unwrap_or_default().as_chunks::<2>();
    let children = cells
        .iter()
        .take(count)
        .filter_map(|at| u32_at(page, usize::from(u16::from_be_bytes(*at))));
    children.map(PageNumber).chain([last]).collect()
}

/// The last child of an inner page of a table, and the highest row that lies before it.
pub(super) fn last_child(page: &[u8], number: PageNumber) -> Option<(PageNumber, Option<u64>)> {
    let header = page.get(header_offset(number)..)?;
    if *header.first()? != TABLE_INNER {
        return None;
    }
    let child = PageNumber(u32_at(header, 8)?);
    let count = usize::from(u16_at(header, 3)?);
    let before = match count.checked_sub(1) {
        Some(last) => {
            let cell = usize::from(u16_at(header, 12 + 2 * last)?);
            let (row, _) = varint(page.get(cell + 4..)?)?;
            Some(row)
        }
        None => None,
    };
    Some((child, before))
}

/// Whether a page is put together as SQLite leaves it: rows, gaps and free space fill it up
/// without a rest and do not overlap. A leaf that lost rows to a rotted header fails this.
pub(super) fn is_sound_leaf(page: &[u8], number: PageNumber) -> bool {
    filled(page, number).is_some_and(|filled| filled)
}

fn filled(page: &[u8], number: PageNumber) -> Option<bool> {
    let pointers = pointers(page, number)?;
    let begin = header_offset(number);
    let header = page.get(begin..)?;
    if pointers.len() != usize::from(u16_at(header, 3)?) {
        return Some(false);
    }
    let content = match u16_at(header, 5)? {
        0 => PAGE_BYTES,
        at => usize::from(at),
    };
    if content < begin + 8 + 2 * pointers.len() {
        return Some(false);
    }
    let mut taken = vec![false; PAGE_BYTES];
    let mut take = |at: usize, length: usize| -> Option<()> {
        let range = taken.get_mut(at..at.checked_add(length)?)?;
        if at < content || range.iter().any(|taken| *taken) {
            return None;
        }
        range.fill(true);
        Some(())
    };
    let mut last = None;
    for at in pointers {
        let (cell, length) = measured_cell(page, at)?;
        // The rows of a leaf are in order, by their signed numbers.
        let row = cell.row.cast_signed();
        if last.is_some_and(|last| last >= row) {
            return Some(false);
        }
        last = Some(row);
        // A cell takes at least as much room as a free block needs.
        take(at, length.max(4))?;
    }
    let mut free = usize::from(u16_at(header, 1)?);
    while free != 0 {
        let length = usize::from(u16_at(page, free + 2)?);
        take(free, length.max(4))?;
        let next = usize::from(u16_at(page, free)?);
        if next != 0 && next <= free {
            return Some(false);
        }
        free = next;
    }
    let fragments = usize::from(*header.get(7)?);
    let left = taken.get(content..)?.iter().filter(|taken| !**taken);
    Some(left.count() == fragments)
}

fn cell(page: &[u8], at: usize) -> Option<Cell<'_>> {
    measured_cell(page, at).map(|(cell, _)| cell)
}

/// A cell, and how many bytes of its page it takes.
fn measured_cell(page: &[u8], at: usize) -> Option<(Cell<'_>, usize)> {
    let rest = page.get(at..)?;
    let (length, rest) = varint(rest)?;
    let (row, rest) = varint(rest)?;
    let length = usize::try_from(length).ok()?;
    if length > ROW_BYTES_MAX {
        return None;
    }
    let kept = local_bytes(length);
    let (local, rest) = rest.split_at_checked(kept)?;
    let mut overflow = None;
    let mut after = rest;
    if kept < length {
        let (number, rest) = rest.split_first_chunk::<4>()?;
        overflow = Some(PageNumber(u32::from_be_bytes(*number)));
        after = rest;
    }
    let cell = Cell {
        row,
        length,
        local,
        overflow,
    };
    Some((cell, page.len() - at - after.len()))
}

/// How much of a row's content is kept on the leaf page itself.
const fn local_bytes(length: usize) -> usize {
    const MOST: usize = PAGE_BYTES - 35;
    const LEAST: usize = (PAGE_BYTES - 12) * 32 / 255 - 23;
    if length <= MOST {
        return length;
    }
    let kept = LEAST + (length - LEAST) % (PAGE_BYTES - 4);
    if kept <= MOST { kept } else { LEAST }
}

/// The columns of a row; `None` where its content is not a row.
pub(super) fn columns(content: &[u8]) -> Option<Vec<Value<'_>>> {
    let (header_length, rest) = varint(content)?;
    let header_length = usize::try_from(header_length).ok()?;
    let before = content.len() - rest.len();
    let mut types = content.get(before..header_length)?;
    let mut body = content.get(header_length..)?;
    let mut columns = Vec::new();
    while !types.is_empty() {
        if columns.len() == COLUMNS_MAX {
            return None;
        }
        let (kind, rest) = varint(types)?;
        types = rest;
        let (value, rest) = value(kind, body)?;
        body = rest;
        columns.push(value);
    }
    Some(columns)
}

fn value(kind: u64, body: &[u8]) -> Option<(Value<'_>, &[u8])> {
    let length = match kind {
        0 | 8 | 9 => 0,
        1..=4 => usize::try_from(kind).ok()?,
        5 => 6,
        6 | 7 => 8,
        10 | 11 => return None,
        12.. => usize::try_from((kind - 12) / 2).ok()?,
    };
    let (bytes, rest) = body.split_at_checked(length)?;
    let value = match kind {
        0 => Value::Null,
        8 => Value::Integer(0),
        9 => Value::Integer(1),
        7 => Value::Real,
        1..=6 => Value::Integer(integer(bytes)),
        _ => Value::Bytes(bytes),
    };
    Some((value, rest))
}

/// Up to eight bytes, the highest first, with a sign.
fn integer(bytes: &[u8]) -> i64 {
    let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    bytes
        .iter()
        .fold(if negative { -1 } else { 0 }, |value, byte| {
            (value << 8) | i64::from(*byte)
        })
}

/// Seven bits a byte, the highest first; a ninth byte gives eight.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate().take(9) {
        if at == 8 {
            value = (value << 8) | u64::from(*byte);
            return Some((value, bytes.get(9..)?));
        }
        value = (value << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(at + 1..)?));
        }
    }
    None
}

const fn header_offset(number: PageNumber) -> usize {
    if number.0 == 1 { FILE_HEADER_BYTES } else { 0 }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*bytes))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests;
