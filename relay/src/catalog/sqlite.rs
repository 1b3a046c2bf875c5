//! The catalog in one SQLite file.
//!
//! Promises what `sqlite` promises. Lists of places, happenings and robots are answered from
//! memory, and are never older than the newest commit, whichever process made it: each answer asks
//! SQLite for its data version first, which costs about a microsecond.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use brrbrr_proto::down::Order;
use brrbrr_proto::id::{CommandId, Cursor, Epoch, RobotId, Seq};
use brrbrr_proto::live::Pose;
use brrbrr_proto::seal::Secret;
use brrbrr_proto::up::CommandUpdate;
use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, ffi, params};

use super::{
    Catalog, CatalogError, CommandState, DownStream, Happening, HappeningDetails, LedgerEntry,
    NewCommand, Place, PlaceDetails, Result, Robot, Transition, stored_name,
};
use crate::sqlite::{
    Access, Fault, OpenError, Schema, StoreThread, open, open_reader, parsed, position, rounded,
    stored_limit, stored_position, time, unreadable,
};

const SCHEMA: Schema = Schema {
    name: "catalog",
    application_id: 0x6272_6301,
    migrations: &[include_str!("sqlite/1.sql")],
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

    /// Runs several changes as one: all of them happen or none.
    pub(crate) async fn change<T: Send + 'static>(
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
            places: all(connection, "SELECT * FROM places ORDER BY id", place)?,
            happenings: all(connection, "SELECT * FROM events ORDER BY id", happening)?,
            robots: all(connection, "SELECT * FROM robots ORDER BY id", robot)?,
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
        self.change(move |connection| insert_place(connection, details))
            .await
    }

    async fn change_place(&self, id: i64, details: PlaceDetails) -> Result<Place> {
        self.change(move |connection| update_place(connection, id, details))
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
        self.change(move |connection| insert_happening(connection, details))
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
        self.change(move |connection| insert_robot(connection, &name, floor, home, &secret))
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

    async fn submit(&self, command: NewCommand) -> Result<LedgerEntry> {
        self.change(move |connection| submit(connection, command))
            .await
    }

    async fn command(&self, id: CommandId) -> Result<(LedgerEntry, Vec<Transition>)> {
        self.reader
            .call(move |connection| {
                let found = find_command(connection, id)?;
                let (number, entry) = found.ok_or_else(|| missing_command(id))?;
                Ok((entry, transitions(connection, number)?))
            })
            .await
    }

    async fn commands_from(
        &self,
        robot: RobotId,
        from: Seq,
        limit: usize,
    ) -> Result<Vec<LedgerEntry>> {
        self.reader
            .call(move |connection| {
                let stream = down_stream(connection, robot)?;
                let mut ask = connection.prepare_cached(
                    "SELECT * FROM commands WHERE robot = ?1 AND epoch = ?2 AND seq >= ?3
                     ORDER BY seq LIMIT ?4",
                )?;
                let rows = ask.query_map(
                    params![
                        robot.number(),
                        stream.epoch.to_string(),
                        stored_position(from),
                        stored_limit(limit)
                    ],
                    entry,
                )?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    async fn recent_commands(&self, robot: RobotId, limit: usize) -> Result<Vec<LedgerEntry>> {
        self.reader
            .call(move |connection| {
                down_stream(connection, robot)?;
                let mut ask = connection.prepare_cached(
                    "SELECT * FROM commands WHERE robot = ?1 ORDER BY number DESC LIMIT ?2",
                )?;
                let rows = ask.query_map(params![robot.number(), stored_limit(limit)], entry)?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await
    }

    async fn mark_sent(&self, robot: RobotId, from: Seq, to: Seq, at: Timestamp) -> Result<()> {
        self.change(move |connection| mark_sent(connection, robot, from, to, at))
            .await
    }

    async fn down_stream(&self, robot: RobotId) -> Result<DownStream> {
        self.reader
            .call(move |connection| down_stream(connection, robot))
            .await
    }

    async fn mark_delivered(&self, robot: RobotId, cursor: Cursor) -> Result<()> {
        self.change(move |connection| {
            let stream = down_stream(connection, robot)?;
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
        self.change(move |connection| renew_down_stream(connection, robot, epoch))
            .await
    }

    async fn applied(&self, robot: RobotId, epoch: Epoch) -> Result<Seq> {
        self.reader
            .call(move |connection| {
                down_stream(connection, robot)?;
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
        updates: Vec<(CommandUpdate, Timestamp)>,
    ) -> Result<Vec<LedgerEntry>> {
        self.change(move |connection| apply(connection, robot, applied, updates))
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

fn place(row: &Row<'_>) -> rusqlite::Result<Place> {
    Ok(Place {
        id: row.get("id")?,
        details: PlaceDetails {
            name: row.get("name")?,
            description: row.get("description")?,
            floor: row.get("floor")?,
            xaxis: row.get("xaxis")?,
            yaxis: row.get("yaxis")?,
            thumburl: row.get("thumburl")?,
            mapurl: row.get("mapurl")?,
        },
    })
}

fn happening(row: &Row<'_>) -> rusqlite::Result<Happening> {
    Ok(Happening {
        id: row.get("id")?,
        details: HappeningDetails {
            name: row.get("name")?,
            description: row.get("description")?,
            starttime: time(row, "starttime")?,
            endtime: time(row, "endtime")?,
            place_name: row.get("place_name")?,
            place_floor: row.get("place_floor")?,
            thumburl: row.get("thumburl")?,
        },
    })
}

fn robot(row: &Row<'_>) -> rusqlite::Result<Robot> {
    let x: Option<f64> = row.get("home_x")?;
    let y: Option<f64> = row.get("home_y")?;
    let theta = row.get("home_theta")?;
    Ok(Robot {
        id: robot_id(row, "id")?,
        name: row.get("name")?,
        floor: row.get("floor")?,
        home: x.zip(y).map(|(x, y)| Pose { x, y, theta }),
    })
}

fn robot_id(row: &Row<'_>, column: &str) -> rusqlite::Result<RobotId> {
    let index = row.as_ref().column_index(column)?;
    let number: u32 = row.get(index)?;
    RobotId::new(number).ok_or(rusqlite::Error::IntegralValueOutOfRange(index, 0))
}

fn entry(row: &Row<'_>) -> rusqlite::Result<LedgerEntry> {
    let order_column = row.as_ref().column_index("job")?;
    let order = postcard::from_bytes(row.get_ref(order_column)?.as_blob()?)
        .map_err(|error| unreadable(order_column, Type::Blob, error))?;
    Ok(LedgerEntry {
        command: NewCommand {
            id: parsed(row, "id")?,
            robot: robot_id(row, "robot")?,
            order,
            deadline: time(row, "deadline")?,
            actor: row.get("actor")?,
            idempotency_key: row.get("idempotency_key")?,
            submitted: time(row, "submitted")?,
        },
        seq: position(row, "seq")?,
        state: parsed(row, "state")?,
        detail: row.get("detail")?,
    })
}

pub(crate) fn insert_place(connection: &Connection, mut details: PlaceDetails) -> Result<Place> {
    details.name = stored_name(&details.name);
    connection
        .prepare_cached(
            "INSERT INTO places (name, description, floor, xaxis, yaxis, thumburl, mapurl)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            details.name,
            details.description,
            details.floor,
            details.xaxis,
            details.yaxis,
            details.thumburl,
            details.mapurl
        ])
        .map_err(|error| or_conflict(error, || place_name(&details)))?;
    Ok(Place {
        id: connection.last_insert_rowid(),
        details,
    })
}

pub(crate) fn update_place(
    connection: &Connection,
    id: i64,
    mut details: PlaceDetails,
) -> Result<Place> {
    details.name = stored_name(&details.name);
    let changed = connection
        .prepare_cached(
            "UPDATE places SET name = ?2, description = ?3, floor = ?4, xaxis = ?5, yaxis = ?6,
             thumburl = ?7, mapurl = ?8 WHERE id = ?1",
        )?
        .execute(params![
            id,
            details.name,
            details.description,
            details.floor,
            details.xaxis,
            details.yaxis,
            details.thumburl,
            details.mapurl
        ])
        .map_err(|error| or_conflict(error, || place_name(&details)))?;
    one(changed, || format!("place {id}"))?;
    Ok(Place { id, details })
}

fn place_name(details: &PlaceDetails) -> String {
    format!("a place {:?} on floor {}", details.name, details.floor)
}

pub(crate) fn insert_happening(
    connection: &Connection,
    details: HappeningDetails,
) -> Result<Happening> {
    let details = normal_happening(details);
    connection
        .prepare_cached(
            "INSERT INTO events
             (name, description, starttime, endtime, place_name, place_floor, thumburl)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            details.name,
            details.description,
            details.starttime.as_microsecond(),
            details.endtime.as_microsecond(),
            details.place_name,
            details.place_floor,
            details.thumburl
        ])
        .map_err(|error| happening_error(error, &details))?;
    Ok(Happening {
        id: connection.last_insert_rowid(),
        details,
    })
}

pub(crate) fn update_happening(
    connection: &Connection,
    id: i64,
    details: HappeningDetails,
) -> Result<Happening> {
    let details = normal_happening(details);
    let changed = connection
        .prepare_cached(
            "UPDATE events SET name = ?2, description = ?3, starttime = ?4, endtime = ?5,
             place_name = ?6, place_floor = ?7, thumburl = ?8 WHERE id = ?1",
        )?
        .execute(params![
            id,
            details.name,
            details.description,
            details.starttime.as_microsecond(),
            details.endtime.as_microsecond(),
            details.place_name,
            details.place_floor,
            details.thumburl
        ])
        .map_err(|error| happening_error(error, &details))?;
    one(changed, || format!("event {id}"))?;
    Ok(Happening { id, details })
}

fn normal_happening(mut details: HappeningDetails) -> HappeningDetails {
    details.name = stored_name(&details.name);
    details.place_name = stored_name(&details.place_name);
    details.starttime = rounded(details.starttime);
    details.endtime = rounded(details.endtime);
    details
}

fn happening_error(error: rusqlite::Error, details: &HappeningDetails) -> CatalogError {
    if violates(&error, ffi::SQLITE_CONSTRAINT_FOREIGNKEY) {
        return CatalogError::UnknownPlace {
            name: details.place_name.clone(),
            floor: details.place_floor,
        };
    }
    or_conflict(error, || format!("an event {:?}", details.name))
}

pub(crate) fn insert_robot(
    connection: &Connection,
    name: &str,
    floor: i32,
    home: Option<Pose>,
    secret: &Secret,
) -> Result<Robot> {
    let name = stored_name(name);
    let epoch = getrandom::u64()
        .map(Epoch)
        .map_err(|error| CatalogError::Away(format!("no randomness: {error}")))?;
    connection
        .prepare_cached(
            "INSERT INTO robots
             (name, floor, home_x, home_y, home_theta, secret, down_epoch, down_acked, down_next)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1, 1)",
        )?
        .execute(params![
            name,
            floor,
            home.map(|pose| pose.x),
            home.map(|pose| pose.y),
            home.and_then(|pose| pose.theta),
            secret.reveal().as_str(),
            epoch.to_string()
        ])
        .map_err(|error| or_conflict(error, || format!("a robot {name:?}")))?;
    let number = connection.last_insert_rowid();
    let id = u32::try_from(number).ok().and_then(RobotId::new);
    let id = id.ok_or_else(|| CatalogError::Away("every robot number is used up".to_owned()))?;
    Ok(Robot {
        id,
        name,
        floor,
        home,
    })
}

pub(crate) fn update_robot(
    connection: &Connection,
    id: RobotId,
    floor: i32,
    home: Option<Pose>,
) -> Result<()> {
    let changed = connection
        .prepare_cached(
            "UPDATE robots SET floor = ?2, home_x = ?3, home_y = ?4, home_theta = ?5 WHERE id = ?1",
        )?
        .execute(params![
            id.number(),
            floor,
            home.map(|pose| pose.x),
            home.map(|pose| pose.y),
            home.and_then(|pose| pose.theta)
        ])?;
    one(changed, || format!("robot {id}"))
}

pub(crate) fn update_secret(connection: &Connection, id: RobotId, secret: &Secret) -> Result<()> {
    let changed = connection
        .prepare_cached("UPDATE robots SET secret = ?2 WHERE id = ?1")?
        .execute(params![id.number(), secret.reveal().as_str()])?;
    one(changed, || format!("robot {id}"))
}

/// The lists as the running change sees them.
pub(crate) fn robots_within(connection: &Connection) -> Result<Vec<Robot>> {
    all(connection, "SELECT * FROM robots ORDER BY id", robot)
}

/// See [`robots_within`].
pub(crate) fn places_within(connection: &Connection) -> Result<Vec<Place>> {
    all(connection, "SELECT * FROM places ORDER BY id", place)
}

/// See [`robots_within`].
pub(crate) fn happenings_within(connection: &Connection) -> Result<Vec<Happening>> {
    all(connection, "SELECT * FROM events ORDER BY id", happening)
}

/// Also how every call on a robot's ledger finds out that there is no such robot.
fn down_stream(connection: &Connection, robot: RobotId) -> Result<DownStream> {
    connection
        .prepare_cached("SELECT down_epoch, down_acked, down_next FROM robots WHERE id = ?1")?
        .query_row([robot.number()], |row| {
            Ok(DownStream {
                epoch: parsed(row, "down_epoch")?,
                acked: position(row, "down_acked")?,
                next: position(row, "down_next")?,
            })
        })
        .optional()?
        .ok_or_else(|| missing_robot(robot))
}

fn submit(connection: &Connection, mut command: NewCommand) -> Result<LedgerEntry> {
    command.deadline = rounded(command.deadline);
    command.submitted = rounded(command.submitted);
    let robot = command.robot;
    let stream = down_stream(connection, robot)?;
    if let Some(key) = &command.idempotency_key {
        let earlier = connection
            .prepare_cached("SELECT * FROM commands WHERE robot = ?1 AND idempotency_key = ?2")?
            .query_row(params![robot.number(), key], entry)
            .optional()?;
        if let Some(earlier) = earlier {
            return Ok(earlier);
        }
    }
    let job = postcard::to_stdvec(&command.order)
        .map_err(|error| CatalogError::Away(format!("the order cannot be encoded: {error}")))?;
    connection
        .prepare_cached(
            "INSERT INTO commands
             (id, robot, epoch, seq, kind, job, deadline, actor, idempotency_key, submitted,
              state, detail)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 'queued', '')",
        )?
        .execute(params![
            command.id.to_string(),
            robot.number(),
            stream.epoch.to_string(),
            stored_position(stream.next),
            kind(&command.order),
            job,
            command.deadline.as_microsecond(),
            command.actor,
            command.idempotency_key,
            command.submitted.as_microsecond()
        ])
        .map_err(|error| or_conflict(error, || format!("a command {}", command.id)))?;
    let number = connection.last_insert_rowid();
    note_step(
        connection,
        number,
        CommandState::Queued,
        command.submitted,
        "",
    )?;
    connection
        .prepare_cached("UPDATE robots SET down_next = ?2 WHERE id = ?1")?
        .execute(params![
            robot.number(),
            stored_position(stream.next.plus(1))
        ])?;
    Ok(LedgerEntry {
        command,
        seq: stream.next,
        state: CommandState::Queued,
        detail: String::new(),
    })
}

/// What people read in the `kind` column; `job` is what counts.
fn kind(order: &Order) -> &'static str {
    match order {
        Order::GoTo(_) => "go-to",
        Order::Stop => "stop",
        Order::Pause => "pause",
        Order::Resume => "resume",
        Order::Dock => "dock",
        Order::Say(_) => "say",
        Order::Custom(_) => "custom",
        Order::Cancel(_) => "cancel",
    }
}

fn find_command(connection: &Connection, id: CommandId) -> Result<Option<(i64, LedgerEntry)>> {
    let found = connection
        .prepare_cached("SELECT * FROM commands WHERE id = ?1")?
        .query_row([id.to_string()], |row| {
            Ok((row.get("number")?, entry(row)?))
        })
        .optional()?;
    Ok(found)
}

fn transitions(connection: &Connection, number: i64) -> Result<Vec<Transition>> {
    let mut ask = connection.prepare_cached(
        "SELECT state, at, detail FROM transitions WHERE command = ?1 ORDER BY number",
    )?;
    let rows = ask.query_map([number], |row| {
        Ok(Transition {
            state: parsed(row, "state")?,
            at: time(row, "at")?,
            detail: row.get("detail")?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn note_step(
    connection: &Connection,
    number: i64,
    state: CommandState,
    at: Timestamp,
    detail: &str,
) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO transitions (command, state, at, detail) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![number, state.name(), at.as_microsecond(), detail])?;
    Ok(())
}

fn mark_sent(
    connection: &Connection,
    robot: RobotId,
    from: Seq,
    to: Seq,
    at: Timestamp,
) -> Result<()> {
    let epoch = down_stream(connection, robot)?.epoch.to_string();
    let mut mark = connection.prepare_cached(
        "UPDATE commands SET state = 'sent'
         WHERE robot = ?1 AND epoch = ?2 AND seq >= ?3 AND seq < ?4 AND state = 'queued'
         RETURNING number",
    )?;
    let marked = mark.query_map(
        params![
            robot.number(),
            epoch,
            stored_position(from),
            stored_position(to)
        ],
        |row| row.get(0),
    )?;
    let marked: Vec<i64> = marked.collect::<rusqlite::Result<_>>()?;
    for number in marked {
        note_step(connection, number, CommandState::Sent, at, "")?;
    }
    Ok(())
}

fn renew_down_stream(connection: &Connection, robot: RobotId, epoch: Epoch) -> Result<DownStream> {
    let old = down_stream(connection, robot)?;
    if old.epoch == epoch {
        // The same call again, after an answer that was lost.
        return Ok(old);
    }
    // What the robot has reported on is on its board, whatever its cursor said.
    let mut ask = connection.prepare_cached(
        "SELECT number FROM commands
         WHERE robot = ?1 AND epoch = ?2 AND seq >= ?3 AND state IN ('queued', 'sent')
         ORDER BY seq",
    )?;
    let waiting = ask.query_map(
        params![
            robot.number(),
            old.epoch.to_string(),
            stored_position(old.acked)
        ],
        |row| row.get(0),
    )?;
    let waiting: Vec<i64> = waiting.collect::<rusqlite::Result<_>>()?;
    let mut next = Seq::FIRST;
    for number in waiting {
        connection
            .prepare_cached("UPDATE commands SET epoch = ?2, seq = ?3 WHERE number = ?1")?
            .execute(params![number, epoch.to_string(), stored_position(next)])?;
        next = next.plus(1);
    }
    connection
        .prepare_cached(
            "UPDATE robots SET down_epoch = ?2, down_acked = 1, down_next = ?3 WHERE id = ?1",
        )?
        .execute(params![
            robot.number(),
            epoch.to_string(),
            stored_position(next)
        ])?;
    Ok(DownStream {
        epoch,
        acked: Seq::FIRST,
        next,
    })
}

fn apply(
    connection: &Connection,
    robot: RobotId,
    applied: Cursor,
    updates: Vec<(CommandUpdate, Timestamp)>,
) -> Result<Vec<LedgerEntry>> {
    down_stream(connection, robot)?;
    let mut changed = Vec::new();
    for (update, at) in updates {
        let Some((number, mut entry)) = find_command(connection, update.command)? else {
            continue;
        };
        let state = CommandState::from(update.progress);
        if entry.command.robot != robot || !entry.state.may_become(state) {
            continue;
        }
        connection
            .prepare_cached("UPDATE commands SET state = ?2, detail = ?3 WHERE number = ?1")?
            .execute(params![number, state.name(), update.detail])?;
        note_step(connection, number, state, at, &update.detail)?;
        entry.state = state;
        entry.detail = update.detail;
        changed.push(entry);
    }
    connection
        .prepare_cached(
            "INSERT INTO applied (robot, epoch, next) VALUES (?1, ?2, ?3)
             ON CONFLICT (robot, epoch) DO UPDATE SET next = max(next, excluded.next)",
        )?
        .execute(params![
            robot.number(),
            applied.epoch.to_string(),
            stored_position(applied.next)
        ])?;
    Ok(changed)
}
