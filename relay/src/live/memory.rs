//! Live state in memory, with what must outlive a restart written through to a SQLite file.
//!
//! Codes, bindings and guidance are on disk before a method returns. The file is the truth: a change
//! is made there, and what was committed is then taken over into memory in the order of the commits.
//! Whether robots are in contact is the other way round, since the present is true whatever the disk
//! says: it is in memory first, and on disk for the next start, which counts everybody as out of
//! contact since the file's last sign of life. What robots say of themselves is written when their
//! contact changes, and now and then. Reads are answered from memory alone. How spools are and the
//! count of guesses are in memory only.

mod contacts;
mod statuses;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use brrbrr_proto::id::{CommandId, RobotId};
use brrbrr_proto::live::{PerField, Status};
use jiff::{SignedDuration, Timestamp};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::time::Instant;

use super::guesses::Guesses;
use super::{
    AuthCode, CODES, Guess, Guidance, Heard, Live, LiveError, Phase, Presence, Result, SocketId,
    Spool,
};
use crate::sqlite::{Access, Fault, OpenError, Schema, StoreThread, open, unreadable};

const SCHEMA: Schema = Schema {
    name: "live store",
    application_id: 0x6272_6c01,
    migrations: &[
        include_str!("memory/1.sql"),
        include_str!("memory/2.sql"),
        include_str!("memory/3.sql"),
    ],
};

/// Draws before the free codes are listed. With 9 in 10 codes used, that is for one robot in 30.
const DRAWS: usize = 32;

/// How old what is written of a robot's status may be. A relay that is killed shows it of robots that
/// do not come back.
const STATUSES_EVERY: SignedDuration = SignedDuration::from_secs(60);

/// Live state of one relay. See the module's documentation.
#[derive(Debug)]
pub struct MemoryLive {
    state: Arc<Mutex<State>>,
    guesses: Mutex<Guesses>,
    writer: StoreThread,
}

#[derive(Debug, Default)]
struct State {
    robots: BTreeMap<RobotId, Known>,
    robots_by_code: BTreeMap<AuthCode, RobotId>,
    /// Robots whose status is not written.
    unwritten: BTreeSet<RobotId>,
    /// When statuses were last written.
    written: Option<Timestamp>,
}

/// What is known of one robot.
#[derive(Debug, Default)]
struct Known {
    code: Option<AuthCode>,
    face: Option<SocketId>,
    guidance: Guidance,
    heard: Option<Heard>,
    spool: Option<Spool>,
    presence: Option<Presence>,
}

impl MemoryLive {
    /// Opens the file, creates it where there is none, and takes over what it holds. Blocks.
    ///
    /// # Errors
    /// Says what is wrong with the file.
    pub fn open(path: &Path) -> std::result::Result<Self, OpenError> {
        let connection = open(path, &SCHEMA)?;
        let state = State::read(&connection).map_err(|error| OpenError::Damaged {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Self {
            state: Arc::new(Mutex::new(state)),
            guesses: Mutex::default(),
            writer: StoreThread::spawn("live-writes", path, connection, Access::Write)?,
        })
    }

    /// Makes a change on disk, and once it is committed, `publish` takes it over into memory.
    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
        publish: impl FnOnce(&mut State, &T) + Send + 'static,
    ) -> Result<T> {
        let state = Arc::clone(&self.state);
        self.writer
            .call_then(work, move |change| publish(&mut lock(&state), change))
            .await
    }

    fn look<T>(&self, robot: RobotId, what: impl FnOnce(&Known) -> T) -> Option<T> {
        lock(&self.state).robots.get(&robot).map(what)
    }
}

impl State {
    fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let mut state = Self::default();
        let mut ask = connection.prepare("SELECT robot, code FROM codes")?;
        for row in ask.query_map([], |row| Ok((robot_id(row)?, code(row)?)))? {
            let (robot, code) = row?;
            state.set_code(robot, code);
        }
        let mut ask = connection.prepare("SELECT robot, socket FROM faces")?;
        for row in ask.query_map([], |row| Ok((robot_id(row)?, row.get("socket")?)))? {
            let (robot, socket) = row?;
            state.known(robot).face = Some(SocketId(socket));
        }
        let mut ask = connection.prepare("SELECT * FROM guidance")?;
        for row in ask.query_map([], |row| Ok((robot_id(row)?, guidance(row)?)))? {
            let (robot, guidance) = row?;
            state.known(robot).guidance = guidance;
        }
        contacts::cut_off(connection)?;
        for (robot, presence) in contacts::read(connection)? {
            state.known(robot).presence = Some(presence);
        }
        for (robot, heard) in statuses::read(connection)? {
            state.known(robot).heard = Some(heard);
        }
        Ok(state)
    }

    fn known(&mut self, robot: RobotId) -> &mut Known {
        self.robots.entry(robot).or_default()
    }

    fn set_code(&mut self, robot: RobotId, code: AuthCode) {
        if let Some(old) = self.known(robot).code.replace(code) {
            self.robots_by_code.remove(&old);
        }
        self.robots_by_code.insert(code, robot);
    }

    /// What the robot said of itself, if that is not written.
    fn unwritten(&self, robot: RobotId) -> Option<(RobotId, Heard)> {
        if !self.unwritten.contains(&robot) {
            return None;
        }
        let heard = self.robots.get(&robot)?.heard.clone()?;
        Some((robot, heard))
    }

    /// Statuses are on disk. One that has changed meanwhile is written with the next ones.
    fn note_written(&mut self, written: &[(RobotId, Heard)]) {
        for (robot, heard) in written {
            let known = self.robots.get(robot);
            if known.is_none_or(|known| known.heard.as_ref() == Some(heard)) {
                self.unwritten.remove(robot);
            }
        }
    }

    fn are_statuses_due(&self, now: Timestamp) -> bool {
        // A calendar that was set back does not put them off.
        self.written
            .is_none_or(|before| now.duration_since(before).abs() >= STATUSES_EVERY)
    }

    /// Forgets what robots and guests have done. Who is in contact still is.
    fn reset(&mut self) {
        self.unwritten.clear();
        self.robots_by_code.clear();
        for known in self.robots.values_mut() {
            *known = Known {
                presence: known.presence,
                ..Known::default()
            };
        }
    }

    fn forget(&mut self, robot: RobotId) {
        self.unwritten.remove(&robot);
        if let Some(code) = self.robots.remove(&robot).and_then(|known| known.code) {
            self.robots_by_code.remove(&code);
        }
    }
}

impl From<Fault> for LiveError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Away(why) | Fault::Corrupt(why) => Self::Away(why),
        }
    }
}

impl From<rusqlite::Error> for LiveError {
    fn from(error: rusqlite::Error) -> Self {
        Fault::from(&error).into()
    }
}

#[async_trait]
impl Live for MemoryLive {
    async fn code(&self, robot: RobotId) -> Result<AuthCode> {
        if let Some(code) = self.look(robot, |known| known.code).flatten() {
            return Ok(code);
        }
        self.change(
            move |connection| match stored_code(connection, robot)? {
                Some(code) => Ok(code),
                None => draw_code(connection, robot),
            },
            move |state, code| state.set_code(robot, *code),
        )
        .await
    }

    async fn renew_code(&self, robot: RobotId) -> Result<AuthCode> {
        self.change(
            // The old code is still stored, so it is not drawn again.
            move |connection| draw_code(connection, robot),
            move |state, code| state.set_code(robot, *code),
        )
        .await
    }

    async fn robot_with_code(&self, code: AuthCode) -> Result<Option<RobotId>> {
        Ok(lock(&self.state).robots_by_code.get(&code).copied())
    }

    async fn may_guess(&self, from: IpAddr) -> Result<Guess> {
        let now = Instant::now().into_std();
        Ok(lock(&self.guesses).may_guess(from, now))
    }

    async fn count_wrong_guess(&self, from: IpAddr) -> Result<()> {
        let now = Instant::now().into_std();
        lock(&self.guesses).count_wrong(from, now);
        Ok(())
    }

    async fn bind(&self, robot: RobotId, socket: &SocketId) -> Result<Option<SocketId>> {
        let new = socket.clone();
        let bound = socket.clone();
        self.change(
            move |connection| {
                let old = stored_face(connection, robot)?;
                connection
                    .prepare_cached("INSERT OR REPLACE INTO faces (robot, socket) VALUES (?1, ?2)")?
                    .execute(params![robot.number(), new.0])?;
                Ok(old.filter(|old| *old != new))
            },
            move |state, _| state.known(robot).face = Some(bound),
        )
        .await
    }

    async fn unbind(&self, robot: RobotId, socket: &SocketId) -> Result<bool> {
        let socket = socket.clone();
        self.change(
            move |connection| {
                let removed = connection
                    .prepare_cached("DELETE FROM faces WHERE robot = ?1 AND socket = ?2")?
                    .execute(params![robot.number(), socket.0])?;
                Ok(removed > 0)
            },
            move |state, was_bound| {
                if *was_bound {
                    state.known(robot).face = None;
                }
            },
        )
        .await
    }

    async fn face(&self, robot: RobotId) -> Result<Option<SocketId>> {
        Ok(self.look(robot, |known| known.face.clone()).flatten())
    }

    async fn faces(&self) -> Result<Vec<(RobotId, SocketId)>> {
        let state = lock(&self.state);
        let bound = |(robot, known): (&RobotId, &Known)| Some((*robot, known.face.clone()?));
        Ok(state.robots.iter().filter_map(bound).collect())
    }

    async fn guidance(&self, robot: RobotId) -> Result<Guidance> {
        let guidance = self.look(robot, |known| known.guidance.clone());
        Ok(guidance.unwrap_or_default())
    }

    async fn set_guidance(&self, robot: RobotId, guidance: Guidance) -> Result<()> {
        let shown = guidance.clone();
        self.change(
            move |connection| write_guidance(connection, robot, &guidance),
            move |state, ()| state.known(robot).guidance = shown,
        )
        .await
    }

    async fn stop_trip(&self, robot: RobotId) -> Result<()> {
        let work = move |connection: &Connection| {
            connection
                .prepare_cached(
                    "INSERT INTO guidance (robot, phase) VALUES (?1, ?2)
                     ON CONFLICT (robot) DO UPDATE SET phase = ?2
                     WHERE trip IS NULL OR phase = ?3",
                )?
                .execute(params![
                    robot.number(),
                    phase_name(Phase::Stopped),
                    phase_name(Phase::Moving)
                ])?;
            Ok(())
        };
        self.change(work, move |state, ()| {
            let guidance = &mut state.known(robot).guidance;
            if guidance.trip.is_none() || guidance.phase == Phase::Moving {
                guidance.phase = Phase::Stopped;
            }
        })
        .await
    }

    async fn advance(&self, robot: RobotId, trip: CommandId, phase: Phase) -> Result<bool> {
        self.change(
            move |connection| {
                let moved = connection
                    .prepare_cached(
                        "UPDATE guidance SET phase = ?3 WHERE robot = ?1 AND trip = ?2",
                    )?
                    .execute(params![robot.number(), trip.to_string(), phase_name(phase)])?;
                Ok(moved > 0)
            },
            move |state, moved| {
                if *moved {
                    state.known(robot).guidance.phase = phase;
                }
            },
        )
        .await
    }

    async fn hear(&self, robot: RobotId, status: Status, said: PerField<Timestamp>) -> Result<()> {
        let mut state = lock(&self.state);
        let heard = state.known(robot).heard.get_or_insert_default();
        heard.show(&status, &said);
        state.unwritten.insert(robot);
        Ok(())
    }

    async fn hear_late(&self, robot: RobotId, told: Vec<(Status, Timestamp)>) -> Result<()> {
        let mut state = lock(&self.state);
        let heard = state.known(robot).heard.get_or_insert_default();
        for (status, at) in told {
            heard.remember(&status, at);
        }
        state.unwritten.insert(robot);
        Ok(())
    }

    async fn heard(&self, robot: RobotId) -> Result<Option<Heard>> {
        Ok(self.look(robot, |known| known.heard.clone()).flatten())
    }

    async fn hear_spool(&self, robot: RobotId, spool: Spool) -> Result<()> {
        lock(&self.state).known(robot).spool = Some(spool);
        Ok(())
    }

    async fn spool(&self, robot: RobotId) -> Result<Option<Spool>> {
        Ok(self.look(robot, |known| known.spool.clone()).flatten())
    }

    async fn presence(&self, robot: RobotId) -> Result<Presence> {
        let presence = self.look(robot, |known| known.presence).flatten();
        Ok(presence.unwrap_or_default())
    }

    async fn presences(&self) -> Result<Vec<(RobotId, Presence)>> {
        let state = lock(&self.state);
        let seen = |(robot, known): (&RobotId, &Known)| Some((*robot, known.presence?));
        Ok(state.robots.iter().filter_map(seen).collect())
    }

    async fn note_contacts(&self, changes: Vec<(RobotId, Presence)>) -> Result<()> {
        let mut statuses = Vec::new();
        {
            let mut state = lock(&self.state);
            for (robot, presence) in &changes {
                state.known(*robot).presence = Some(*presence);
                statuses.extend(state.unwritten(*robot));
            }
        }
        let work = move |connection: &Connection| {
            contacts::write(connection, &changes)?;
            statuses::write(connection, statuses)
        };
        self.change(work, |state, written| state.note_written(written))
            .await
            .map(drop)
    }

    async fn keep_alive(&self, at: Timestamp, heard: Vec<(RobotId, Timestamp)>) -> Result<()> {
        let mut statuses = Vec::new();
        {
            let mut state = lock(&self.state);
            if state.are_statuses_due(at) {
                state.written = Some(at);
                for robot in &state.unwritten {
                    statuses.extend(state.unwritten(*robot));
                }
            }
            for (robot, at) in heard {
                let known = state.robots.get_mut(&robot);
                if let Some(presence) = known.and_then(|known| known.presence.as_mut()) {
                    presence.last_contact = presence.last_contact.max(Some(at));
                }
            }
        }
        let work = move |connection: &Connection| {
            contacts::write_alive(connection, at)?;
            statuses::write(connection, statuses)
        };
        self.change(work, |state, written| state.note_written(written))
            .await
            .map(drop)
    }

    async fn alive(&self) -> Result<Option<Timestamp>> {
        self.change(contacts::read_alive, |_, _| {}).await
    }

    async fn forget(&self, robot: RobotId) -> Result<()> {
        self.change(
            move |connection| {
                for table in [
                    "DELETE FROM codes WHERE robot = ?1",
                    "DELETE FROM faces WHERE robot = ?1",
                    "DELETE FROM guidance WHERE robot = ?1",
                    "DELETE FROM contacts WHERE robot = ?1",
                    "DELETE FROM heard WHERE robot = ?1",
                ] {
                    connection
                        .prepare_cached(table)?
                        .execute([robot.number()])?;
                }
                Ok(())
            },
            move |state, ()| state.forget(robot),
        )
        .await
    }

    async fn reset(&self) -> Result<()> {
        self.change(
            |connection| {
                let everything = "DELETE FROM codes; DELETE FROM faces; DELETE FROM guidance;
                                  DELETE FROM heard;";
                Ok(connection.execute_batch(everything)?)
            },
            |state, ()| state.reset(),
        )
        .await
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of these locks.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn robot_id(row: &Row<'_>) -> rusqlite::Result<RobotId> {
    let number: u32 = row.get("robot")?;
    RobotId::new(number).ok_or(rusqlite::Error::IntegralValueOutOfRange(0, 0))
}

fn code(row: &Row<'_>) -> rusqlite::Result<AuthCode> {
    let code: u16 = row.get("code")?;
    if CODES.contains(&code) {
        Ok(AuthCode(code))
    } else {
        Err(rusqlite::Error::IntegralValueOutOfRange(0, code.into()))
    }
}

fn guidance(row: &Row<'_>) -> rusqlite::Result<Guidance> {
    let name: String = row.get("phase")?;
    let phases = [Phase::Idle, Phase::Moving, Phase::Stopped, Phase::Arrived];
    let phase = phases.into_iter().find(|phase| phase_name(*phase) == name);
    let trip: Option<String> = row.get("trip")?;
    let column = |name| row.as_ref().column_index(name);
    Ok(Guidance {
        phase: phase.ok_or(unreadable(column("phase")?, Type::Text, NotAPhase(name)))?,
        destination: row.get("destination")?,
        trip: match trip {
            Some(trip) => Some(
                trip.parse()
                    .map_err(|error| unreadable(column("trip").unwrap_or(0), Type::Text, error))?,
            ),
            None => None,
        },
    })
}

/// A text is not the name of a phase.
#[derive(Debug, thiserror::Error)]
#[error("not a phase: {0:?}")]
struct NotAPhase(String);

const fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Idle => "대기",
        Phase::Moving => "이동중",
        Phase::Stopped => "정지",
        Phase::Arrived => "도착",
    }
}

fn write_guidance(connection: &Connection, robot: RobotId, guidance: &Guidance) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO guidance (robot, phase, destination, trip)
             VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            robot.number(),
            phase_name(guidance.phase),
            guidance.destination,
            guidance.trip.map(|trip| trip.to_string())
        ])?;
    Ok(())
}

fn stored_code(connection: &Connection, robot: RobotId) -> Result<Option<AuthCode>> {
    let found = connection
        .prepare_cached("SELECT code FROM codes WHERE robot = ?1")?
        .query_row([robot.number()], code)
        .optional()?;
    Ok(found)
}

fn stored_face(connection: &Connection, robot: RobotId) -> Result<Option<SocketId>> {
    let found = connection
        .prepare_cached("SELECT socket FROM faces WHERE robot = ?1")?
        .query_row([robot.number()], |row| row.get(0))
        .optional()?;
    Ok(found.map(SocketId))
}

/// Gives the robot a code that no robot has.
fn draw_code(connection: &Connection, robot: RobotId) -> Result<AuthCode> {
    let code = match lucky_code(connection)? {
        Some(code) => code,
        None => any_free_code(connection)?,
    };
    connection
        .prepare_cached("INSERT OR REPLACE INTO codes (robot, code) VALUES (?1, ?2)")?
        .execute(params![robot.number(), code.0])?;
    Ok(code)
}

/// Draws among all codes until one is free, which takes one or two draws where few are used.
fn lucky_code(connection: &Connection) -> Result<Option<AuthCode>> {
    let mut is_used = connection.prepare_cached("SELECT 1 FROM codes WHERE code = ?1")?;
    for _ in 0..DRAWS {
        let code = CODES.map(AuthCode).nth(draw_below(CODES.len())?);
        if let Some(code) = code
            && !is_used.exists([code.0])?
        {
            return Ok(Some(code));
        }
    }
    Ok(None)
}

/// Draws among the codes that are free, where most are used.
fn any_free_code(connection: &Connection) -> Result<AuthCode> {
    let mut ask = connection.prepare_cached("SELECT code FROM codes")?;
    let used: BTreeSet<AuthCode> = ask.query_map([], code)?.collect::<rusqlite::Result<_>>()?;
    let free: Vec<AuthCode> = CODES
        .map(AuthCode)
        .filter(|code| !used.contains(code))
        .collect();
    let code = free.get(draw_below(free.len())?);
    code.copied().ok_or(LiveError::NoCodeLeft)
}

/// A number below `bound` from the operating system, each as likely as the others; 0 for 0.
fn draw_below(bound: usize) -> Result<usize> {
    let Ok(bound) = u32::try_from(bound) else {
        return Ok(0);
    };
    if bound == 0 {
        return Ok(0);
    }
    // Numbers past the last whole multiple of the bound would favour the small ones.
    let whole = u32::MAX - u32::MAX % bound;
    loop {
        let drawn =
            getrandom::u32().map_err(|error| LiveError::Away(format!("no randomness: {error}")))?;
        if drawn < whole {
            return Ok(usize::try_from(drawn % bound).unwrap_or(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::conformance;

    fn fresh() -> (tempfile::TempDir, MemoryLive) {
        let folder = tempfile::tempdir().unwrap();
        let live = MemoryLive::open(&folder.path().join("live")).unwrap();
        (folder, live)
    }

    #[tokio::test]
    async fn it_does_what_every_live_store_does() {
        let (_folder, live) = fresh();
        conformance::conforms(&live).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn tasks_that_ask_together_are_given_the_same_code() {
        let (_folder, live) = fresh();
        conformance::draws_concurrently(Arc::new(live)).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn nine_thousand_robots_have_codes_and_the_next_one_has_none() {
        let (_folder, live) = fresh();
        conformance::runs_out_of_codes(Arc::new(live)).await;
    }

    #[tokio::test]
    async fn codes_faces_and_guidance_are_there_after_it_was_opened_again() {
        let (folder, live) = fresh();
        let code = conformance::prepare(&live).await;
        drop(live);
        let live = MemoryLive::open(&folder.path().join("live")).unwrap();
        conformance::remembers(&live, code).await;
        // A relay that lives on says nothing new of robots that have not come back.
        let much_later = Timestamp::now();
        live.keep_alive(much_later, Vec::new()).await.unwrap();
        drop(live);
        let live = MemoryLive::open(&folder.path().join("live")).unwrap();
        conformance::remembers(&live, code).await;
    }

    #[tokio::test]
    async fn a_status_that_cannot_be_read_keeps_nothing_else_from_being_there() {
        let (folder, live) = fresh();
        let code = conformance::prepare(&live).await;
        drop(live);
        let path = folder.path().join("live");
        let file = Connection::open(&path).unwrap();
        let pose = r#"{"pose":{"x":null,"y":1.0,"theta":null}}"#;
        file.execute("INSERT INTO heard VALUES (77, ?1, '{}')", [pose])
            .unwrap();
        drop(file);
        let live = MemoryLive::open(&path).unwrap();
        conformance::remembers(&live, code).await;
        let robot = RobotId::new(77).unwrap();
        assert_eq!(live.heard(robot).await.unwrap(), None);
    }

    #[test]
    fn drawn_numbers_are_spread_evenly_and_below_the_bound() {
        let mut counts = [0_u32; 10];
        for _ in 0..10_000 {
            counts[draw_below(10).unwrap()] += 1;
        }
        // Each is 1 000 give or take 30; ten deviations do not happen.
        assert!(
            counts.iter().all(|count| (700..1_300).contains(count)),
            "{counts:?}"
        );
        assert_eq!(draw_below(1).unwrap(), 0);
        assert_eq!(draw_below(0).unwrap(), 0);
    }
}
