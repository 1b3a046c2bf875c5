//! What the files of a database hold of every page: what the file itself has, and what the
//! write-ahead log has on top of it. Read as bytes, so it works however damaged the two are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::Result;
use super::log::{Frame, Log};
use super::pages::{self, PAGE_BYTES, PageNumber};
use super::sqlite::file_error;

/// How deep a table can be: four levels hold more than any disk of a robot.
const LEVELS_MAX: usize = 16;

/// Where SQLite keeps the `user_version` on the first page.
const FORMAT_AT: usize = 60;

/// How many pages of the schema are looked at: it has few.
const SCHEMA_PAGES_MAX: usize = 64;

/// How SQLite begins a file: a text and the size of its pages. What follows are two bytes that tell
/// whether it has a log, how much room is reserved, and the shares of a page that rows may take.
const HEADER: &[u8] = b"SQLite format 3\0";
const PAGE_SIZE: [u8; 2] = [4, 0];
const _: () = assert!(u16::from_be_bytes(PAGE_SIZE) as usize == PAGE_BYTES);
const HEADER_REST: &[u8] = &[0, 64, 32, 32];

/// One version of one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Image {
    /// Which page.
    pub(super) page: PageNumber,
    /// Which frame of the log holds it; `None` for the database's own file. Later ones are newer.
    pub(super) frame: Option<usize>,
}

/// The files of a database, opened to read pages from.
#[derive(Debug)]
pub(super) struct Images {
    main: Option<File>,
    main_pages: u32,
    log_file: Option<File>,
    log: Log,
    /// For each page the frames that hold it, the oldest first.
    frames: BTreeMap<PageNumber, Vec<usize>>,
}

impl Images {
    /// Opens the files of the database at `path`. One that is not there holds nothing.
    ///
    /// # Errors
    /// Where a file cannot be opened, or its log cannot be read.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Self::open_with(path, |file| Log::read(&mut BufReader::new(file)))
    }

    /// Opens the files of a database that is damaged: its log ends where it cannot be read.
    ///
    /// # Errors
    /// Where a file cannot be opened.
    pub(super) fn open_damaged(path: &Path) -> io::Result<Self> {
        Self::open_with(path, |file| {
            Log::read(&mut UntilUnreadable(BufReader::new(file)))
        })
    }

    fn open_with(path: &Path, read: impl FnOnce(&File) -> io::Result<Log>) -> io::Result<Self> {
        let main = open_if_there(path)?;
        let length = main
            .as_ref()
            .map_or(Ok(0), |file| file.metadata().map(|metadata| metadata.len()))?;
        let main_pages = length.div_ceil(PAGE_BYTES as u64);
        let log_file = open_if_there(&log_path(path))?;
        let log = match &log_file {
            Some(file) => read(file)?,
            None => Log::default(),
        };
        let mut frames: BTreeMap<PageNumber, Vec<usize>> = BTreeMap::new();
        for (at, Frame { page, .. }) in log.frames.iter().enumerate() {
            frames.entry(*page).or_default().push(at);
        }
        Ok(Self {
            main,
            main_pages: u32::try_from(main_pages).unwrap_or(u32::MAX),
            log_file,
            log,
            frames,
        })
    }

    /// What the log turned out to hold.
    pub(super) const fn log(&self) -> &Log {
        &self.log
    }

    /// Every version of every page that there is.
    pub(super) fn all(&self) -> impl Iterator<Item = Image> {
        let main = (1..=self.main_pages).map(|page| Image {
            page: PageNumber(page),
            frame: None,
        });
        let logged = self.log.frames.iter().enumerate();
        main.chain(logged.map(|(at, frame)| Image {
            page: frame.page,
            frame: Some(at),
        }))
    }

    /// The bytes of a page; `None` where they cannot be read.
    pub(super) fn load(&self, image: Image) -> Option<Vec<u8>> {
        let (file, offset) = match image.frame {
            Some(at) => (self.log_file.as_ref()?, self.log.frames.get(at)?.offset),
            None => {
                let before = u64::from(image.page.0.checked_sub(1)?);
                (self.main.as_ref()?, before * PAGE_BYTES as u64)
            }
        };
        let mut bytes = vec![0; PAGE_BYTES];
        file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }

    /// The bytes of another page as they were when `image` was written.
    pub(super) fn load_beside(&self, image: Image, page: PageNumber) -> Option<Vec<u8>> {
        let frames = self.frames.get(&page).map(Vec::as_slice);
        let frame = image.frame.and_then(|newest| {
            // A transaction writes its pages in any order, so the next version may be the right
            // one as well; rows are compared with their sums.
            let frames = frames.unwrap_or_default();
            let before = frames.iter().rev().find(|at| **at <= newest);
            before.or_else(|| frames.first()).copied()
        });
        self.load(Image { page, frame })
    }

    /// The newest version of a page.
    fn newest(&self, page: PageNumber) -> Option<Vec<u8>> {
        let frame = self.frames.get(&page).and_then(|frames| frames.last());
        let frame = frame.copied();
        self.load(Image { page, frame })
    }

    /// Whether the file begins as this program's databases do. SQLite would take a rotted header for
    /// that of a file which must not be written, or which has no log.
    pub(super) fn has_sound_header(&self) -> bool {
        let first = Image {
            page: PageNumber(1),
            frame: None,
        };
        let header = self.load(first);
        let rest = header.as_ref().and_then(|page| {
            let rest = page.strip_prefix(HEADER)?;
            rest.strip_prefix(&PAGE_SIZE)
        });
        match rest {
            Some([2, 2, rest @ ..]) => rest.starts_with(HEADER_REST),
            // A new one that was not opened yet.
            Some([1, 1, rest @ ..]) => rest.starts_with(HEADER_REST) && self.log.frames.is_empty(),
            Some(_) | None => false,
        }
    }

    /// The format that the program which made the database gave it.
    pub(super) fn format(&self) -> Option<u32> {
        pages::u32_at(&self.newest(PageNumber(1))?, FORMAT_AT)
    }

    /// Whether the end of a table is as SQLite left it. SQLite itself would not notice a last page
    /// that lost rows, and their positions would be given out twice.
    pub(super) fn has_sound_end(&self, table: &str) -> bool {
        self.root(table)
            .is_some_and(|root| self.ends_soundly(root).is_some_and(|sound| sound))
    }

    fn ends_soundly(&self, root: PageNumber) -> Option<bool> {
        let (mut number, mut after) = (root, None);
        for _ in 0..LEVELS_MAX {
            let page = self.newest(number)?;
            let Some((child, before)) = pages::last_child(&page, number) else {
                let first = pages::cells(&page, number).first().map(|cell| cell.row);
                let follows = first.is_none_or(|first| after.is_none_or(|after| first > after));
                let has_rows = first.is_some() || number == root;
                return Some(follows && has_rows && pages::is_sound_leaf(&page, number));
            };
            (number, after) = (child, before.or(after));
        }
        None
    }

    /// Where a table begins, as the schema that starts on the first page has it.
    fn root(&self, table: &str) -> Option<PageNumber> {
        let mut waiting = vec![PageNumber(1)];
        for _ in 0..SCHEMA_PAGES_MAX {
            let number = waiting.pop()?;
            let page = self.newest(number)?;
            let root = pages::cells(&page, number).iter().find_map(|cell| {
                let content = cell.content(|page| self.newest(page))?;
                root_of(&content, table)
            });
            if root.is_some() {
                return root;
            }
            waiting.extend(pages::children(&page, number));
        }
        None
    }
}

/// Takes what cannot be read for the end.
struct UntilUnreadable<R>(R);

impl<R: Read> Read for UntilUnreadable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer) {
            Err(reason) if reason.kind() != io::ErrorKind::Interrupted => {
                tracing::warn!(%reason, "the log of the damaged spool cannot be read to its end");
                Ok(0)
            }
            read => read,
        }
    }
}

/// Where the table begins that a row of the schema is about, if it is this one.
fn root_of(content: &[u8], table: &str) -> Option<PageNumber> {
    let columns = pages::columns(content)?;
    let [kind, name, _, root, ..] = columns.as_slice() else {
        return None;
    };
    let is_it = kind.bytes() == Some(b"table") && name.bytes() == Some(table.as_bytes());
    let root = u32::try_from(root.unsigned()?).ok()?;
    is_it.then_some(PageNumber(root))
}

/// Where SQLite keeps the log of a database.
pub(super) fn log_path(path: &Path) -> PathBuf {
    suffixed(path, "-wal")
}

/// A path with something put behind its last part.
pub(super) fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Whether something has this name. What cannot be looked at is not taken for missing.
pub(super) fn is_there(path: &Path) -> Result<bool> {
    path.try_exists()
        .map_err(|reason| file_error("look at", path, reason))
}

fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(reason) => Err(reason),
    }
}
