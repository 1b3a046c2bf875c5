//! The catalog in one SQLite file.
//!
//! Promises what `sqlite` promises. Lists of places, happenings and robots are answered from
//! memory, and are never older than the newest commit, whichever process made it: each answer asks
//! SQLite for its data version first, which costs about a microsecond.

mod building;
mod ledger;
mod seed;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use brrbrr_proto::id::{CommandId, Cursor, Epoch, RobotId, Seq};
use brrbrr_proto::live::Pose;
use brrbrr_proto::seal::Secret;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, ffi, params};

use super::{
    Aliases, Cancellation, Catalog, CatalogError, Change, DownStream, Happening, HappeningDetails,
    LedgerEntry, LedgerUpdate, NewCommand, Page, Place, PlaceDetails, Result, Robot, Submitted,
    Transition,
};
use crate::sqlite::{
    Access, Fault, OpenError, Schema, StoreThread, open, open_reader, parsed, position,
    stored_position,
};

const SCHEMA: Schema = Schema {
    name: "catalog",
    application_id: 0x6272_6301,
    migrations: &[
        include_str!("sqlite/1.sql"),
        include_str!("sqlite/2.sql"),
        include_str!("sqlite/3.sql"),
    ],
};

/// The catalog in one SQLite file. See the module's documentation.
#[derive(Debug)]
pub struct SqliteCatalog {
    // Closed in this order: the writer last, since only it can clear the write-ahead log.
    watch: Mutex<Connection>,
    cache: Mutex<Cache>,
    reader: StoreThread,
    writer: StoreThread,
}

impl SqliteCatalog {
    /// Opens the file, creates it where there is none, and brings its layout up to date. Blocks.
    ///
    /// # Errors
    /// Says what is wrong with the file.
    pub fn open(path: &Path) -> std::result::Result<Self, OpenError> {
        let writer = open(path, &SCHEMA)?;
        let reader = open_reader(path)?;
        Ok(Self {
            watch: Mutex::new(open_reader(path)?),
            cache: Mutex::default(),
            reader: StoreThread::spawn("catalog-reads", path, reader, Access::Read)?,
            writer: StoreThread::spawn("catalog-writes", path, writer, Access::Write)?,
        })
    }

    /// Gives a robot a new secret; the old one and the enrolment files that hold it are void.
    ///
    /// # Errors
    /// [`CatalogError::Missing`] where there is no such robot.
    pub async fn renew_secret(&self, id: RobotId, secret: &Secret) -> Result<()> {
        let secret = secret.clone();
        self.change(move |connection| building::update_secret(connection, id, &secret))
            .await
    }

    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.writer.call(work).await
    }

    async fn lists(&self) -> Result<Arc<Lists>> {
        // Asked before the lists are read: they may turn out newer than it says, never older.
        let version = self.data_version()?;
        let held = self.lock_cache().clone();
        if let Some(lists) = held.lists.as_ref().filter(|_| held.version == version) {
            return Ok(Arc::clone(lists));
        }
        let fresh = self
            .reader
            .call(move |connection| match held.lists {
                // Commands change the file too; only changed lists are read again.
                Some(lists) if lists.revision == revision(connection)? => Ok(lists),
                Some(_) | None => Lists::read(connection).map(Arc::new),
            })
            .await?;
        *self.lock_cache() = Cache {
            version,
            lists: Some(Arc::clone(&fresh)),
        };
        Ok(fresh)
    }

    fn data_version(&self) -> Result<i64> {
        let watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ask = watch.prepare_cached("PRAGMA data_version")?;
        Ok(ask.query_row([], |row| row.get(0))?)
    }

    fn lock_cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The newest lists and the data version they are at least as new as.
#[derive(Debug, Clone, Default)]
struct Cache {
    version: i64,
    lists: Option<Arc<Lists>>,
}

#[derive(Debug)]
struct Lists {
    revision: i64,
    places: Vec<Place>,
    happenings: Vec<Happening>,
    robots: Vec<Robot>,
}

impl Lists {
    fn read(connection: &Connection) -> Result<Self> {
        Ok(Self {
            revision: revision(connection)?,
            places: building::places(connection)?,
            happenings: building::happenings(connection)?,
            robots: building::robots(connection)?,
        })
    }
}

/// Counts every change of a list; triggers keep it, so it holds for whoever changes the file.
fn revision(connection: &Connection) -> Result<i64> {
    let mut ask = connection.prepare_cached("SELECT revision FROM lists")?;
    Ok(ask.query_row([], |row| row.get(0))?)
}

impl From<Fault> for CatalogError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Away(why) => Self::Away(why),
            Fault::Corrupt(why) => Self::Corrupt(why),
        }
    }
}

impl From<rusqlite::Error> for CatalogError {
    fn from(error: rusqlite::Error) -> Self {
        Fault::from(&error).into()
    }
}

#[async_trait]
impl Catalog for SqliteCatalog {
    async fn places(&self) -> Result<Vec<Place>> {
        Ok(self.lists().await?.places.clone())
    }

    async fn add_place(&self, details: PlaceDetails) -> Result<Place> {
        self.change(move |connection| building::insert_place(connection, details))
            .await
    }

    async fn change_place(
        &self,
        id: i64,
        details: PlaceDetails,
        aliases: Aliases,
    ) -> Result<Place> {
        self.change(move |connection| building::update_place(connection, id, details, aliases))
            .await
    }

    async fn remove_place(&self, id: i64) -> Result<()> {
        self.change(move |connection| {
            let removed = connection
                .prepare_cached("DELETE FROM places WHERE id = ?1")?
                .execute([id]);
            let removed = removed.map_err(|error| {
                if violates(&error, ffi::SQLITE_CONSTRAINT_FOREIGNKEY)
                    || violates(&error, ffi::SQLITE_CONSTRAINT_TRIGGER)
                {
                    CatalogError::Conflict(format!("an event at place {id}"))
                } else {
                    error.into()
                }
            })?;
            one(removed, || format!("place {id}"))
        })
        .await
    }

    async fn happenings(&self) -> Result<Vec<Happening>> {
        Ok(self.lists().await?.happenings.clone())
    }

    async fn add_happening(&self, details: HappeningDetails) -> Result<Happening> {
        self.change(move |connection| building::insert_happening(connection, details))
            .await
    }

    async fn remove_happening(&self, id: i64) -> Result<()> {
        self.change(move |connection| {
            let removed = connection
                .prepare_cached("DELETE FROM events WHERE id = ?1")?
                .execute([id])?;
            one(removed, || format!("event {id}"))
        })
        .await
    }

    async fn robots(&self) -> Result<Vec<Robot>> {
        Ok(self.lists().await?.robots.clone())
    }

    async fn robot(&self, id: RobotId) -> Result<Robot> {
        let lists = self.lists().await?;
        let found = lists.robots.binary_search_by_key(&id, |robot| robot.id);
        let robot = found.ok().and_then(|index| lists.robots.get(index));
        robot.cloned().ok_or_else(|| missing_robot(id))
    }

    async fn add_robot(
        &self,
        name: &str,
        floor: i32,
        home: Option<Pose>,
        secret: &Secret,
    ) -> Result<Robot> {
        let name = name.to_owned();
        let secret = secret.clone();
        self.change(move |connection| {
            building::insert_robot(connection, &name, floor, home, &secret)
        })
        .await
    }

    async fn remove_robot(&self, id: RobotId) -> Result<()> {
        self.change(move |connection| {
            let removed = connection
                .prepare_cached("DELETE FROM robots WHERE id = ?1")?
                .execute([id.number()])?;
            one(removed, || format!("robot {id}"))
        })
        .await
    }

    async fn secret(&self, id: RobotId) -> Result<Secret> {
        self.reader
            .call(move |connection| {
                connection
                    .prepare_cached("SELECT secret FROM robots WHERE id = ?1")?
                    .query_row([id.number()], |row| parsed(row, "secret"))
                    .optional()?
                    .ok_or_else(|| missing_robot(id))
            })
            .await
    }

    async fn accept(&self, command: NewCommand, offered: bool) -> Result<Submitted> {
        self.change(move |connection| ledger::submit(connection, command, offered))
            .await
    }

    async fn with_key(&self, robot: RobotId, key: &str) -> Result<Option<LedgerEntry>> {
        let key = key.to_owned();
        self.reader
            .call(move |connection| ledger::with_key(connection, robot, &key))
            .await
    }

    async fn command(&self, id: CommandId) -> Result<(LedgerEntry, Vec<Transition>)> {
        self.reader
            .call(move |connection| {
                let found = ledger::find_command(connection, id)?;
                let (number, entry) = found.ok_or_else(|| missing_command(id))?;
                Ok((entry, ledger::transitions(connection, number)?))
            })
            .await
    }

    async fn commands(&self, robot: RobotId, page: Page) -> Result<Vec<LedgerEntry>> {
        self.reader
            .call(move |connection| ledger::commands(connection, robot, &page))
            .await
    }

    async fn offer(&self, robot: RobotId, from: Seq, limit: usize) -> Result<Vec<LedgerEntry>> {
        let entries = self
            .reader
            .call(move |connection| ledger::frame_from(connection, robot, from, limit))
            .await?;
        // What was offered stays so, and what was ended without an offer is never offered.
        if entries
            .iter()
            .all(|entry| entry.offered || entry.state.is_final())
        {
            return Ok(entries);
        }
        self.change(move |connection| ledger::offer(connection, robot, from, limit))
            .await
    }

    async fn cancel(
        &self,
        id: CommandId,
        cancel: NewCommand,
        offered: bool,
    ) -> Result<Cancellation> {
        self.change(move |connection| ledger::cancel(connection, id, cancel, offered))
            .await
    }

    async fn expire(&self, now: Timestamp, limit: usize) -> Result<Vec<LedgerEntry>> {
        self.change(move |connection| ledger::expire(connection, now, limit))
            .await
    }

    async fn newest_submission(&self) -> Result<Option<Timestamp>> {
        self.reader.call(ledger::newest_submission).await
    }

    async fn next_expiry(&self) -> Result<Option<Timestamp>> {
        self.reader.call(ledger::next_expiry).await
    }

    async fn mark_sent(
        &self,
        robot: RobotId,
        epoch: Epoch,
        from: Seq,
        to: Seq,
        at: Timestamp,
    ) -> Result<()> {
        self.change(move |connection| ledger::mark_sent(connection, robot, epoch, from, to, at))
            .await
    }

    async fn down_stream(&self, robot: RobotId) -> Result<DownStream> {
        self.reader
            .call(move |connection| ledger::down_stream(connection, robot))
            .await
    }

    async fn mark_delivered(&self, robot: RobotId, cursor: Cursor) -> Result<()> {
        self.change(move |connection| {
            let stream = ledger::down_stream(connection, robot)?;
            // A robot that has seen more than there is knows another ledger; see
            // `renew_down_stream`.
            let is_news = cursor.next > stream.acked && cursor.next <= stream.next;
            if cursor.epoch == stream.epoch && is_news {
                connection
                    .prepare_cached("UPDATE robots SET down_acked = ?2 WHERE id = ?1")?
                    .execute(params![robot.number(), stored_position(cursor.next)])?;
            }
            Ok(())
        })
        .await
    }

    async fn renew_down_stream(&self, robot: RobotId, epoch: Epoch) -> Result<DownStream> {
        self.change(move |connection| ledger::renew_down_stream(connection, robot, epoch))
            .await
    }

    async fn applied(&self, robot: RobotId, epoch: Epoch) -> Result<Seq> {
        self.reader
            .call(move |connection| {
                ledger::down_stream(connection, robot)?;
                let applied = connection
                    .prepare_cached("SELECT next FROM applied WHERE robot = ?1 AND epoch = ?2")?
                    .query_row(params![robot.number(), epoch.to_string()], |row| {
                        position(row, "next")
                    })
                    .optional()?;
                Ok(applied.unwrap_or(Seq::FIRST))
            })
            .await
    }

    async fn apply(
        &self,
        robot: RobotId,
        applied: Cursor,
        updates: Vec<(LedgerUpdate, Timestamp)>,
    ) -> Result<Vec<(Change, LedgerEntry)>> {
        self.change(move |connection| ledger::apply(connection, robot, applied, updates))
            .await
    }
}

fn all<T>(
    connection: &Connection,
    sql: &str,
    read: fn(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>> {
    let mut ask = connection.prepare_cached(sql)?;
    let rows = ask.query_map([], read)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn one(changed: usize, what: impl FnOnce() -> String) -> Result<()> {
    if changed == 0 {
        return Err(CatalogError::Missing(what()));
    }
    Ok(())
}

fn missing_robot(id: RobotId) -> CatalogError {
    CatalogError::Missing(format!("robot {id}"))
}

fn missing_command(id: CommandId) -> CatalogError {
    CatalogError::Missing(format!("command {id}"))
}

fn violates(error: &rusqlite::Error, constraint: i32) -> bool {
    error
        .sqlite_error()
        .is_some_and(|error| error.extended_code == constraint)
}

/// Turns the violation of a unique name into a conflict that says which.
fn or_conflict(error: rusqlite::Error, what: impl FnOnce() -> String) -> CatalogError {
    if violates(&error, ffi::SQLITE_CONSTRAINT_UNIQUE) {
        CatalogError::Conflict(what())
    } else {
        error.into()
    }
}

fn robot_id(row: &Row<'_>, column: &str) -> rusqlite::Result<RobotId> {
    let index = row.as_ref().column_index(column)?;
    let number: u32 = row.get(index)?;
    RobotId::new(number).ok_or(rusqlite::Error::IntegralValueOutOfRange(index, 0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::conformance;

    fn fresh() -> (tempfile::TempDir, SqliteCatalog) {
        let folder = tempfile::tempdir().unwrap();
        let catalog = SqliteCatalog::open(&folder.path().join("catalog")).unwrap();
        (folder, catalog)
    }

    #[tokio::test]
    async fn it_does_what_every_catalog_does() {
        let (_folder, catalog) = fresh();
        conformance::conforms(&catalog).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn fifty_callers_at_once_leave_no_holes() {
        let (_folder, catalog) = fresh();
        conformance::submits_concurrently(Arc::new(catalog)).await;
    }

    #[tokio::test]
    async fn everything_is_there_after_it_was_opened_again() {
        let (folder, catalog) = fresh();
        conformance::prepare(&catalog).await;
        drop(catalog);
        let catalog = SqliteCatalog::open(&folder.path().join("catalog")).unwrap();
        conformance::remembers(&catalog).await;
    }

    #[test]
    fn its_ledger_agrees_with_a_naive_one() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        proptest!(ProptestConfig::with_cases(64), |(actions in conformance::actions())| {
            let (_folder, catalog) = fresh();
            runtime.block_on(conformance::agrees_with_the_model(&catalog, actions));
        });
    }

    #[tokio::test]
    async fn a_ledger_of_the_first_layout_is_taken_over_with_its_history() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog");
        let first = Schema {
            migrations: &SCHEMA.migrations[..1],
            ..SCHEMA
        };
        let (id, epoch) = (CommandId(9), Epoch(5));
        let old = open(&path, &first).unwrap();
        let fill = format!(
            "INSERT INTO robots VALUES (1, 'a', 7, NULL, NULL, NULL, '', '{epoch}', 1, 2);
             INSERT INTO commands VALUES
                 (3, '{id}', 1, '{epoch}', 1, 'stop', x'01', 9, 'voice', 'key', 4, 'sent', 'x');
             INSERT INTO transitions VALUES (1, 3, 'queued', 4, ''), (2, 3, 'sent', 5, 'x');"
        );
        old.execute_batch(&fill).unwrap();
        drop(old);
        let catalog = SqliteCatalog::open(&path).unwrap();
        let (entry, history) = catalog.command(id).await.unwrap();
        assert_eq!((entry.seq, entry.detail.as_str()), (Some(Seq(1)), "x"));
        assert!(entry.offered, "it may have been sent: {entry:?}");
        let history: Vec<_> = history
            .iter()
            .map(|step| step.at.as_microsecond())
            .collect();
        assert_eq!(history, [4, 5]);
        let robot = RobotId::new(1).unwrap();
        catalog.remove_robot(robot).await.unwrap();
        let gone = catalog.command(id).await;
        assert!(matches!(gone, Err(CatalogError::Missing(_))), "{gone:?}");
    }

    #[tokio::test]
    async fn a_change_by_another_process_is_seen_at_once() {
        let (folder, catalog) = fresh();
        assert_eq!(catalog.robots().await.unwrap(), []);
        let other = rusqlite::Connection::open(folder.path().join("catalog")).unwrap();
        let insert = "INSERT INTO robots VALUES (5, 'by hand', 7, NULL, NULL, NULL, '', '', 1, 1)";
        other.execute(insert, []).unwrap();
        assert_eq!(catalog.robots().await.unwrap()[0].name, "by hand");
        other.execute("UPDATE robots SET floor = 8", []).unwrap();
        assert_eq!(catalog.robots().await.unwrap()[0].floor, 8);
        other.execute("DELETE FROM robots", []).unwrap();
        assert_eq!(catalog.robots().await.unwrap(), []);
    }

    #[tokio::test]
    async fn what_this_program_did_not_write_is_called_corrupt() {
        let (folder, catalog) = fresh();
        let other = rusqlite::Connection::open(folder.path().join("catalog")).unwrap();
        let insert = "INSERT INTO robots VALUES (5, 'x', 7, NULL, NULL, NULL, 'no', 'no', 0, 1)";
        other.execute(insert, []).unwrap();
        let robot = RobotId::new(5).unwrap();
        for error in [
            catalog.secret(robot).await.err(),
            catalog.down_stream(robot).await.err(),
        ] {
            assert!(matches!(error, Some(CatalogError::Corrupt(_))), "{error:?}");
        }
        other.execute("UPDATE robots SET id = 0", []).unwrap();
        let error = catalog.robots().await.err();
        assert!(matches!(error, Some(CatalogError::Corrupt(_))), "{error:?}");
    }
}
