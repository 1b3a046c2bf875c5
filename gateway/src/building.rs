//! What the board keeps of its building, so that it guides people by name when no relay answers,
//! and after a restart without one.
//!
//! It promises: a power cut leaves one whole building, the old one or the new one; what cannot be
//! read is moved aside under a dated name, never deleted; on a disk that takes nothing the newest is
//! kept in memory and written later. It relies on `rename` within a folder being atomic.
//!
//! ```text
//! bytes 0-15   "BrrBrr building\n"
//! byte 16      version of the format
//! bytes 17-32  revision, big endian
//! bytes 33-40  when it came by the board's calendar, in microseconds since 1970, little endian
//! bytes 41-    the content, as the relay sent it (see `brrbrr_proto::building`)
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use brrbrr_proto::building::{Building, BuildingError, MAX_BUILDING_BYTES};
use brrbrr_proto::id::Revision;
use brrbrr_proto::time::WallClock;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::calendar;

/// The file's name in the data folder.
const FILE: &str = "building.cache";
const MAGIC: &[u8; 16] = b"BrrBrr building\n";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 41;

/// Why the building was not read or kept.
#[derive(Debug, Error)]
pub enum CacheError {
    /// The file cannot be used.
    #[error("cannot {doing} {}: {reason}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// The file cannot be read or holds no building. It was moved aside.
    #[error("the building that was kept cannot be read and is now {}: {reason}", moved_to.display())]
    Damaged {
        /// Where it is.
        moved_to: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The relay sent something that is no building.
    #[error("the relay's building cannot be used: {0}")]
    Unusable(#[from] BuildingError),
    /// Nothing more is known.
    #[error("work on the building broke off: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// A building that is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    /// What it is.
    pub revision: Revision,
    /// When it came, by the board's calendar.
    pub since: WallClock,
    /// The building.
    pub building: Arc<Building>,
}

/// How the building is, as `GET /status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BuildingStatus {
    /// Its revision; none where no relay has sent it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// When it came, by the board's calendar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// How many seconds ago a relay last said that it is the newest; none where none has since the
    /// start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<u64>,
    /// How many places it has.
    pub places: usize,
    /// How many events it has.
    pub events: usize,
    /// What is not well with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The building, for everybody on the board. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BuildingCache {
    path: Arc<Path>,
    state: Arc<Mutex<State>>,
    /// One write at a time.
    writing: Arc<Mutex<()>>,
    /// One look at a time.
    looking: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct State {
    kept: Option<Kept>,
    confirmed: Option<Instant>,
    problem: Option<String>,
    is_written: bool,
}

impl BuildingCache {
    /// Reads what was kept. Where that cannot be read, it begins without a building and says why.
    #[must_use]
    pub fn open(data: &Path, now: WallClock) -> (Self, Option<CacheError>) {
        let path = data.join(FILE);
        let (kept, problem) = match read(&path, now) {
            Ok(kept) => (kept, None),
            Err(error) => (None, Some(error)),
        };
        let state = State {
            is_written: kept.is_some(),
            kept,
            confirmed: None,
            problem: problem.as_ref().map(ToString::to_string),
        };
        let cache = Self {
            path: path.into(),
            state: Arc::new(Mutex::new(state)),
            writing: Arc::default(),
            looking: Arc::default(),
        };
        (cache, problem)
    }

    /// The newest building, if there is one.
    #[must_use]
    pub fn kept(&self) -> Option<Kept> {
        self.lock().kept.clone()
    }

    /// Looks something up in the building, where there is one. A large one takes the board's processor
    /// for long, so this is done away from the threads that pass on orders, and one at a time.
    ///
    /// # Errors
    /// [`CacheError::Task`] where looking has panicked.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Building) -> T + Send + 'static,
    ) -> Result<Option<T>, CacheError> {
        let turn = Arc::clone(&self.looking).lock_owned().await;
        let Some(kept) = self.kept() else {
            return Ok(None);
        };
        let task = tokio::task::spawn_blocking(move || {
            let found = look(&kept.building);
            // Even where nobody waits for the answer any more.
            drop(turn);
            found
        });
        Ok(Some(task.await?))
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> BuildingStatus {
        let state = self.lock();
        let kept = state.kept.as_ref();
        BuildingStatus {
            revision: kept.map(|kept| kept.revision.to_string()),
            since: kept.map(|kept| calendar::iso8601(kept.since)),
            confirmed: state.confirmed.map(|at| at.elapsed().as_secs()),
            places: kept.map_or(0, |kept| kept.building.places.len()),
            events: kept.map_or(0, |kept| kept.building.events.len()),
            problem: state.problem.clone(),
        }
    }

    /// Takes a building that the relay sent. It is in use from now on, whatever the disk does.
    ///
    /// # Errors
    /// [`CacheError::Unusable`] where it is none; else it could not be written.
    pub async fn take(
        &self,
        revision: Revision,
        content: Vec<u8>,
        now: WallClock,
    ) -> Result<(), CacheError> {
        let cache = self.clone();
        tokio::task::spawn_blocking(move || cache.take_now(revision, &content, now)).await?
    }

    /// A relay has said that the building of this revision is the newest. Where another one is kept,
    /// that says nothing about it.
    ///
    /// # Errors
    /// Where it is not on the disk yet and could not be written now.
    pub async fn confirm(&self, revision: Revision) -> Result<(), CacheError> {
        let unwritten = {
            let mut state = self.lock();
            let kept = state.kept.clone();
            let Some(kept) = kept.filter(|kept| kept.revision == revision) else {
                return Ok(());
            };
            state.confirmed = Some(Instant::now());
            if state.is_written {
                state.problem = None;
            }
            (!state.is_written).then_some(kept)
        };
        let Some(kept) = unwritten else { return Ok(()) };
        let cache = self.clone();
        tokio::task::spawn_blocking(move || {
            let content = postcard::to_stdvec(kept.building.as_ref());
            let content = content.map_err(BuildingError::from)?;
            cache.write(kept.revision, &content, kept.since)
        })
        .await?
    }

    /// The relay cannot send its building. What is kept stays good.
    pub fn refuse(&self, reason: &str) {
        self.lock().problem = Some(format!("the relay does not send the newest: {reason}"));
    }

    fn take_now(
        &self,
        revision: Revision,
        content: &[u8],
        now: WallClock,
    ) -> Result<(), CacheError> {
        let building = Building::decode(revision, content).inspect_err(|error| {
            self.lock().problem = Some(format!("the relay's building cannot be used: {error}"));
        })?;
        {
            let mut state = self.lock();
            state.kept = Some(Kept {
                revision,
                since: now,
                building: Arc::new(building),
            });
            state.confirmed = Some(Instant::now());
            state.problem = None;
            state.is_written = false;
        }
        self.write(revision, content, now)
    }

    fn write(
        &self,
        revision: Revision,
        content: &[u8],
        since: WallClock,
    ) -> Result<(), CacheError> {
        let turn = self.writing.lock();
        let is_newest = |state: &State| {
            let kept = state.kept.as_ref();
            kept.is_some_and(|kept| kept.revision == revision)
        };
        if !is_newest(&self.lock()) {
            // A newer one came while this one waited for its turn, and is written after it.
            return Ok(());
        }
        let written = replace(&self.path, revision, content, since);
        drop(turn);
        let mut state = self.lock();
        if is_newest(&state) {
            state.is_written = written.is_ok();
            let problem = |error: &CacheError| format!("it is kept in memory only: {error}");
            state.problem = written.as_ref().err().map(problem);
        }
        written
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Only whole values are written, so a panic elsewhere does not matter.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path, now: WallClock) -> Result<Option<Kept>, CacheError> {
    let reason = match bytes_of(path) {
        Ok(bytes) => match parse(&bytes) {
            Ok(kept) => return Ok(Some(kept)),
            Err(reason) => reason,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // The next building would take its place.
        Err(error) => error.to_string(),
    };
    let moved_to = move_aside(path, now)?;
    Err(CacheError::Damaged { moved_to, reason })
}

/// No more of them than a building has, and one that shows that there are more.
fn bytes_of(path: &Path) -> io::Result<Vec<u8>> {
    let limit = HEADER_BYTES + MAX_BUILDING_BYTES + 1;
    let mut bytes = Vec::new();
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> Result<Kept, String> {
    let short = || "it is cut short".to_owned();
    let (magic, rest) = bytes.split_first_chunk::<16>().ok_or_else(short)?;
    let (&[version], rest) = rest.split_first_chunk::<1>().ok_or_else(short)?;
    let (revision, rest) = rest.split_first_chunk::<16>().ok_or_else(short)?;
    let (since, content) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    if magic != MAGIC {
        return Err("it does not begin as a building does".to_owned());
    }
    if version != VERSION {
        return Err(format!(
            "it is of version {version}, which is not known here"
        ));
    }
    let revision = Revision(u128::from_be_bytes(*revision));
    let building = Building::decode(revision, content).map_err(|error| error.to_string())?;
    Ok(Kept {
        revision,
        since: WallClock(i64::from_le_bytes(*since)),
        building: Arc::new(building),
    })
}

fn move_aside(path: &Path, now: WallClock) -> Result<PathBuf, CacheError> {
    let mut name = format!("{FILE}.damaged-{}", calendar::file_stamp(now));
    while path.with_file_name(&name).exists() {
        name.push_str("-again");
    }
    let to = path.with_file_name(name);
    fs::rename(path, &to).map_err(|reason| failed("move aside", path, reason))?;
    sync_folder(path)?;
    Ok(to)
}

/// Puts a new file in place of the old one.
fn replace(
    path: &Path,
    revision: Revision,
    content: &[u8],
    since: WallClock,
) -> Result<(), CacheError> {
    let fresh = path.with_file_name(format!("{FILE}.new"));
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(MAGIC)?;
        file.write_all(&[VERSION])?;
        file.write_all(&revision.0.to_be_bytes())?;
        file.write_all(&since.0.to_le_bytes())?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|reason| failed("write", &fresh, reason))?;
    fs::rename(&fresh, path).map_err(|reason| failed("replace", path, reason))?;
    sync_folder(path)
}

fn sync_folder(path: &Path) -> Result<(), CacheError> {
    let folder = path.parent().unwrap_or(path);
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|reason| failed("sync", folder, reason))
}

fn failed(doing: &'static str, path: &Path, reason: io::Error) -> CacheError {
    CacheError::File {
        doing,
        path: path.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use brrbrr_proto::building::{Itself, Place, Shared};

    use super::*;

    const NOW: WallClock = WallClock(1_590_984_625_000_000);

    fn content(name: &str) -> (Revision, Vec<u8>) {
        let place = Place {
            id: 1,
            name: name.to_owned(),
            aliases: Vec::new(),
            floor: 7,
            x: 1.0,
            y: 2.0,
            description: None,
            thumburl: None,
            mapurl: None,
        };
        let robot = Itself {
            name: "guide-7".to_owned(),
            floor: 7,
            home: None,
        };
        let shared = Shared::new(&[place], &[]).unwrap();
        let offer = shared.of(&robot).unwrap();
        let parts = (0..offer.parts()).flat_map(|part| offer.part(part).unwrap());
        (offer.revision(), parts.collect())
    }

    fn name_of(cache: &BuildingCache) -> Option<String> {
        Some(cache.kept()?.building.places[0].name.clone())
    }

    #[tokio::test]
    async fn a_building_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, problem) = BuildingCache::open(folder.path(), NOW);
        assert!(problem.is_none() && cache.kept().is_none());
        for name in ["카페", "식당"] {
            let (revision, bytes) = content(name);
            cache.take(revision, bytes, NOW).await.unwrap();
        }
        let (again, problem) = BuildingCache::open(folder.path(), NOW);
        assert!(problem.is_none());
        assert_eq!(name_of(&again).as_deref(), Some("식당"));
        let status = again.status();
        assert_eq!(status.revision, Some(content("식당").0.to_string()));
        assert_eq!(status.since.as_deref(), Some("2020-06-01T04:10:25.000Z"));
        assert_eq!((status.confirmed, status.places), (None, 1));
    }

    #[tokio::test]
    async fn a_damaged_file_is_moved_aside_wherever_the_damage_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let (cache, _) = BuildingCache::open(folder.path(), NOW);
        let (revision, bytes) = content("카페");
        cache.take(revision, bytes, NOW).await.unwrap();
        let whole = fs::read(&path).unwrap();
        let mut damaged = vec![
            Vec::new(),
            b"{}".to_vec(),
            whole[..whole.len() - 1].to_vec(),
        ];
        for at in [0, 16, 17, 40 + 1, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            damaged.push(bytes);
        }
        for (number, bytes) in damaged.iter().enumerate() {
            fs::write(&path, bytes).unwrap();
            let (cache, problem) = BuildingCache::open(folder.path(), NOW);
            let Some(CacheError::Damaged { moved_to, .. }) = problem else {
                panic!("{number}: {problem:?}");
            };
            assert_eq!(&fs::read(&moved_to).unwrap(), bytes);
            assert!(!path.exists() && cache.kept().is_none());
            assert!(cache.status().problem.is_some());
            let name = moved_to.file_name().unwrap().to_string_lossy().into_owned();
            assert!(name.contains("damaged-20200601T041025Z"), "{name}");
        }
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, damaged.len(), "one was overwritten");
    }

    #[tokio::test]
    async fn what_cannot_even_be_read_is_moved_aside_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        // Nobody can read a folder, not even root.
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), "precious").unwrap();
        let (cache, problem) = BuildingCache::open(folder.path(), NOW);
        let Some(CacheError::Damaged { moved_to, .. }) = problem else {
            panic!("{problem:?}");
        };
        assert_eq!(fs::read(moved_to.join("inside")).unwrap(), b"precious");
        let (revision, bytes) = content("카페");
        cache.take(revision, bytes, NOW).await.unwrap();
        let (again, _) = BuildingCache::open(folder.path(), NOW);
        assert_eq!(name_of(&again).as_deref(), Some("카페"));
    }

    #[tokio::test]
    async fn an_older_building_that_is_written_late_does_not_replace_the_newer_one() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, _) = BuildingCache::open(folder.path(), NOW);
        let (older, old_bytes) = content("카페");
        cache.take(older, old_bytes.clone(), NOW).await.unwrap();
        let (newer, bytes) = content("식당");
        cache.take(newer, bytes, NOW).await.unwrap();
        cache.write(older, &old_bytes, NOW).unwrap();
        let (again, _) = BuildingCache::open(folder.path(), NOW);
        assert_eq!(name_of(&again).as_deref(), Some("식당"));
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_kept_in_memory_and_written_later() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, _) = BuildingCache::open(folder.path(), NOW);
        // Nobody can write to a folder, not even root.
        let fresh = folder.path().join("building.cache.new");
        fs::create_dir(&fresh).unwrap();
        let (revision, bytes) = content("카페");
        let refused = cache.take(revision, bytes, NOW).await;
        assert!(
            matches!(refused, Err(CacheError::File { .. })),
            "{refused:?}"
        );
        assert_eq!(name_of(&cache).as_deref(), Some("카페"));
        let problem = cache.status().problem.unwrap();
        assert!(problem.contains("in memory only"), "{problem}");
        assert!(cache.confirm(revision).await.is_err());

        fs::remove_dir(&fresh).unwrap();
        cache.confirm(revision).await.unwrap();
        assert_eq!(cache.status().problem, None);
        let (again, _) = BuildingCache::open(folder.path(), NOW);
        assert_eq!(name_of(&again).as_deref(), Some("카페"));
        assert_eq!(again.kept().unwrap().since, NOW);
    }

    #[tokio::test]
    async fn what_is_no_building_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, _) = BuildingCache::open(folder.path(), NOW);
        let (revision, bytes) = content("카페");
        cache.take(revision, bytes.clone(), NOW).await.unwrap();
        let refused = cache.take(Revision(1), bytes, NOW).await;
        assert!(matches!(refused, Err(CacheError::Unusable(_))));
        assert_eq!(name_of(&cache).as_deref(), Some("카페"));
        assert!(cache.status().problem.is_some());
    }

    #[tokio::test]
    async fn a_long_search_holds_up_the_next_one_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, _) = BuildingCache::open(folder.path(), NOW);
        assert!(cache.look(|_| ()).await.unwrap().is_none());
        let (revision, bytes) = content("카페");
        cache.take(revision, bytes, NOW).await.unwrap();
        let (go_on, gate) = std::sync::mpsc::sync_channel::<()>(1);
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let first = tokio::spawn({
            let cache = cache.clone();
            async move {
                let look = move |building: &Building| {
                    begun.send(()).unwrap();
                    gate.recv().unwrap();
                    building.places.len()
                };
                cache.look(look).await
            }
        });
        // This test has one thread, which would stand still here if that thread searched.
        has_begun.await.unwrap();
        assert!(cache.looking.try_lock().is_err(), "another may look too");
        let second = tokio::spawn(async move { cache.look(|_| ()).await });
        go_on.send(()).unwrap();
        assert_eq!(first.await.unwrap().unwrap(), Some(1));
        assert_eq!(second.await.unwrap().unwrap(), Some(()));
    }

    #[tokio::test]
    async fn an_older_building_is_not_the_newest_because_another_one_is() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, _) = BuildingCache::open(folder.path(), NOW);
        let (revision, bytes) = content("카페");
        cache.take(revision, bytes.clone(), NOW).await.unwrap();
        let (cache, _) = BuildingCache::open(folder.path(), NOW);
        cache.take(Revision(1), bytes, NOW).await.unwrap_err();
        cache.confirm(Revision(1)).await.unwrap();
        let status = cache.status();
        assert_eq!(status.confirmed, None);
        assert!(status.problem.is_some(), "{status:?}");
        cache.confirm(revision).await.unwrap();
        assert_eq!(cache.status().problem, None);
    }
}
