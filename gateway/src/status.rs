//! How things stand, for people and programs on the board: written by the event loop, read by the
//! control socket.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use brrbrr_proto::id::{CommandId, Epoch, RelayId, RobotId, Seq, SessionId};
use brrbrr_proto::live::{PerField, Status};
use brrbrr_proto::up::{Disk, Loss};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::building::BuildingStatus;
use crate::robot::RobotCounters;
use crate::spool::{Gap, Health, SpoolError, StoredCommand};

/// How far the gateway has got towards the relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// Not connected to the broker, and why.
    Disconnected(String),
    /// Connected to the broker; no relay has welcomed the robot yet.
    Connected,
    /// A relay has welcomed the robot.
    Session(SessionId, RelayId),
}

/// Everything that is shown. The field names are those of `GET /status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The gateway's version.
    pub version: String,
    /// The robot's number in the relay's catalog.
    pub robot: u32,
    /// What people call the robot.
    pub name: String,
    /// The link to the relay.
    pub link: Link,
    /// The durable lane.
    pub spool: SpoolStatus,
    /// The motion that the robot has, if it has one.
    pub running: Option<String>,
    /// How many commands have not ended.
    pub unfinished_commands: usize,
    /// What the robot's adapter has counted.
    pub adapter: AdapterCounts,
    /// The building, as far as the board knows it.
    #[serde(default)]
    pub building: BuildingStatus,
    /// The newest status of the robot.
    pub status: Status,
    /// How many seconds ago the robot said each field. Nothing of what it said before a restart of the
    /// gateway.
    #[serde(default)]
    pub ages: PerField<f64>,
    /// When the robot said each field.
    #[serde(skip)]
    said: PerField<Instant>,
    /// Since when the robot's side is as it is.
    #[serde(skip)]
    pub(crate) robot_side_since: Option<Instant>,
    /// The newest command that has not ended.
    #[serde(skip)]
    pub(crate) newest_command: Option<CommandId>,
}

/// What the robot's adapter has counted since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AdapterCounts {
    /// Messages that came from the robot.
    pub messages: u64,
    /// Of these, messages that could not even be kept.
    pub unreadable: u64,
    /// Orders that were passed to the robot's broker.
    pub orders: u64,
    /// Attempts to reach the broker again.
    pub reconnects: u64,
}

/// The link to the relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// `disconnected`, `connected` or `session`.
    pub state: String,
    /// Why there is no connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The relay that welcomed the robot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<String>,
    /// How many sessions there have been since the start.
    pub sessions: u64,
}

/// The durable lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolStatus {
    /// The incarnation of the spool.
    pub epoch: String,
    /// The position of the next record.
    pub next: u64,
    /// The first position that the relay has not acknowledged.
    pub acked: u64,
    /// How many positions wait for the relay.
    pub backlog: u64,
    /// `fine`, `short` while it sheds to make room, or `failing` while it takes nothing.
    pub disk: String,
    /// Why it is not fine.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// For how many seconds it has been so.
    pub seconds: u64,
    /// Since when.
    #[serde(skip)]
    since: Option<Instant>,
    /// What it takes on the disk, in bytes.
    pub bytes: u64,
    /// What it may take on the disk, in bytes.
    pub budget: u64,
    /// Samples of telemetry that were merged into others since the start.
    pub thinned: u64,
    /// Records that were shed since the start.
    pub shed: u64,
    /// Writes that were refused to their sources since the start.
    pub refused: u64,
    /// The newest holes that wait for the relay.
    #[serde(default)]
    pub gaps: Vec<GapStatus>,
    /// What the spool last could not do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How often the spool could not do what it was asked.
    pub errors: u64,
}

/// A hole in the durable lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapStatus {
    /// The first position that it stands for.
    pub first: u64,
    /// How many positions it stands for.
    pub covers: u64,
    /// How many records; zero where nobody can know.
    pub count: u64,
    /// `full`, `corrupt`, `forgotten` or `thinned`.
    pub reason: String,
    /// What the board's calendar claimed when the oldest of them was made, in microseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<i64>,
    /// The same for the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<i64>,
}

/// The word for a loss, the same as the relay's.
const fn reason(loss: Loss) -> &'static str {
    match loss {
        Loss::SpoolFull => "full",
        Loss::SpoolCorrupt => "corrupt",
        Loss::RelayForgot => "forgotten",
        Loss::Thinned => "thinned",
    }
}

const fn disk_name(disk: Disk) -> &'static str {
    match disk {
        Disk::Fine => "fine",
        Disk::Short => "short",
        Disk::Failing => "failing",
    }
}

/// Seconds, as far as anybody wants to read them.
fn tenths(age: Duration) -> f64 {
    (age.as_secs_f64() * 10.0).round() / 10.0
}

/// The board that the event loop writes on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StatusBoard {
    snapshot: Arc<Mutex<Snapshot>>,
    counters: Arc<RobotCounters>,
    /// Changes with every record that is durable.
    records: Arc<watch::Sender<(Epoch, Seq)>>,
    /// The commands that have not ended, in the order of their arrival.
    unfinished: Arc<watch::Sender<Vec<CommandId>>>,
}

impl StatusBoard {
    /// A board for this robot, before anything has happened.
    #[must_use]
    pub fn new(
        robot: RobotId,
        name: &str,
        (epoch, first, next): (Epoch, Seq, Seq),
        counters: Arc<RobotCounters>,
    ) -> Self {
        let snapshot = Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            robot: robot.number(),
            name: name.to_owned(),
            link: Link {
                state: "disconnected".to_owned(),
                reason: Some("not tried yet".to_owned()),
                session: None,
                relay: None,
                sessions: 0,
            },
            spool: SpoolStatus {
                epoch: epoch.to_string(),
                next: next.0,
                acked: first.0,
                backlog: next.since(first),
                disk: disk_name(Disk::Fine).to_owned(),
                detail: String::new(),
                seconds: 0,
                since: Some(Instant::now()),
                bytes: 0,
                budget: 0,
                thinned: 0,
                shed: 0,
                refused: 0,
                gaps: Vec::new(),
                error: None,
                errors: 0,
            },
            running: None,
            unfinished_commands: 0,
            adapter: AdapterCounts::default(),
            building: BuildingStatus::default(),
            status: Status::default(),
            ages: PerField::default(),
            said: PerField::default(),
            robot_side_since: None,
            newest_command: None,
        };
        Self {
            snapshot: Arc::new(Mutex::new(snapshot)),
            counters,
            records: Arc::new(watch::Sender::new((epoch, next))),
            unfinished: Arc::default(),
        }
    }

    /// Tells of every record that becomes durable, and so of every step of a command.
    #[must_use]
    pub fn records(&self) -> watch::Receiver<(Epoch, Seq)> {
        self.records.subscribe()
    }

    /// The commands that have not ended, as the event loop knows them: it lets go of one a little
    /// before its end is durable. They are told whenever they change.
    #[must_use]
    pub fn unfinished(&self) -> watch::Receiver<Vec<CommandId>> {
        self.unfinished.subscribe()
    }

    /// What is on the board.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut snapshot = self.lock().clone();
        let since = snapshot.spool.since;
        snapshot.spool.seconds = since.map_or(0, |since| since.elapsed().as_secs());
        snapshot.ages = snapshot.said.map(|said| tenths(said.elapsed()));
        Snapshot {
            adapter: AdapterCounts {
                messages: count(&self.counters.messages),
                unreadable: count(&self.counters.unreadable),
                orders: count(&self.counters.orders),
                reconnects: count(&self.counters.reconnects),
            },
            ..snapshot
        }
    }

    /// The link has got so far.
    pub fn set_link(&self, state: LinkState) {
        let mut board = self.lock();
        let sessions = board.link.sessions;
        let plain = |state: &str| Link {
            state: state.to_owned(),
            reason: None,
            session: None,
            relay: None,
            sessions,
        };
        board.link = match state {
            LinkState::Disconnected(reason) => Link {
                reason: Some(reason),
                ..plain("disconnected")
            },
            LinkState::Connected => plain("connected"),
            LinkState::Session(session, relay) => Link {
                session: Some(session.to_string()),
                relay: Some(relay.to_string()),
                sessions: sessions + 1,
                ..plain("session")
            },
        };
    }

    /// The spool has begun a new epoch.
    pub fn set_epoch(&self, epoch: Epoch, first: Seq, next: Seq) {
        self.records.send_replace((epoch, next));
        let mut board = self.lock();
        board.spool.epoch = epoch.to_string();
        board.spool.acked = first.0;
        board.spool.next = next.0;
        board.spool.backlog = next.since(first);
    }

    /// The next record will be at this position.
    pub fn set_next(&self, next: Seq) {
        self.records
            .send_modify(|(_, known)| *known = next.max(*known));
        let mut board = self.lock();
        board.spool.next = board.spool.next.max(next.0);
        board.spool.backlog = board.spool.next.saturating_sub(board.spool.acked);
    }

    /// The relay has everything before this position.
    pub fn set_acked(&self, acked: Seq) {
        let mut board = self.lock();
        board.spool.acked = acked.0;
        board.spool.backlog = board.spool.next.saturating_sub(acked.0);
        let waits = |gap: &GapStatus| gap.first.saturating_add(gap.covers) > acked.0;
        board.spool.gaps.retain(waits);
    }

    /// How the spool is.
    pub fn set_health(&self, health: &Health) {
        let mut board = self.lock();
        let spool = &mut board.spool;
        let disk = disk_name(health.disk);
        if spool.disk != disk {
            spool.since = Some(Instant::now());
        }
        disk.clone_into(&mut spool.disk);
        spool.detail.clone_from(&health.detail);
        spool.bytes = health.bytes;
        spool.budget = health.budget;
        spool.thinned = health.thinned;
        spool.shed = health.shed;
        spool.refused = health.refused;
    }

    /// The newest holes in the spool.
    pub fn set_gaps(&self, gaps: &[Gap]) {
        let show = |gap: &Gap| GapStatus {
            first: gap.first.0,
            covers: gap.covers,
            count: gap.count,
            reason: reason(gap.reason).to_owned(),
            since: gap.since.map(|stamp| stamp.wall.0),
            until: gap.until.map(|stamp| stamp.wall.0),
        };
        self.lock().spool.gaps = gaps.iter().map(show).collect();
    }

    /// The spool could not do what it was asked.
    pub fn set_spool_error(&self, error: &SpoolError) {
        let mut board = self.lock();
        board.spool.error = Some(error.to_string());
        board.spool.errors += 1;
    }

    /// The commands have got so far.
    pub fn set_commands(
        &self,
        running: Option<&StoredCommand>,
        unfinished: impl Iterator<Item = CommandId> + Clone,
    ) {
        let mut board = self.lock();
        board.newest_command = unfinished.clone().last();
        board.running = running.map(|stored| stored.command.id.to_string());
        board.unfinished_commands = unfinished.clone().count();
        drop(board);
        self.unfinished.send_if_modified(|known| {
            let has_changed = !known.iter().copied().eq(unfinished.clone());
            if has_changed {
                *known = unfinished.collect();
            }
            has_changed
        });
    }

    /// The robot's newest status, and how long ago it said each field.
    pub fn set_status(&self, status: &Status, ages: PerField<Duration>) {
        let now = Instant::now();
        let mut board = self.lock();
        let said = ages.map(|age| now.checked_sub(age).unwrap_or(now));
        // It may be said again and again that the robot is away.
        if board.status.robot_side != status.robot_side {
            board.robot_side_since = said.robot_side;
        }
        board.status.clone_from(status);
        board.said = said;
    }

    fn lock(&self) -> MutexGuard<'_, Snapshot> {
        // Only whole values are written, so a panic elsewhere does not matter.
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use brrbrr_proto::live::RobotSide;

    use super::*;

    #[test]
    fn the_robots_side_is_as_it_is_since_it_changed_however_often_that_is_said() {
        let stands = (Epoch(1), Seq::FIRST, Seq::FIRST);
        let robot = RobotId::new(7).unwrap();
        let board = StatusBoard::new(robot, "guide-7", stands, Arc::default());
        let hear = |side, age| {
            let status = Status {
                robot_side: Some(side),
                ..Status::default()
            };
            let ages = PerField {
                robot_side: Some(Duration::from_secs(age)),
                ..PerField::default()
            };
            board.set_status(&status, ages);
            let since = board.snapshot().robot_side_since.unwrap();
            since.elapsed().as_secs() / 10
        };
        assert_eq!(hear(RobotSide::Down, 30), 3);
        assert_eq!(hear(RobotSide::Down, 10), 3);
        assert_eq!(hear(RobotSide::Up, 20), 2);
        assert_eq!(hear(RobotSide::Up, 0), 2);
        assert_eq!(hear(RobotSide::Down, 0), 0);
    }

    #[test]
    fn the_board_shows_how_long_ago_the_robot_said_each_field() {
        let stands = (Epoch(1), Seq::FIRST, Seq::FIRST);
        let robot = RobotId::new(7).unwrap();
        let board = StatusBoard::new(robot, "guide-7", stands, Arc::default());
        let status = Status {
            battery: Some(0.33),
            floor: Some(7),
            ..Status::default()
        };
        let ages = PerField {
            battery: Some(Duration::from_millis(12_300)),
            ..PerField::default()
        };
        board.set_status(&status, ages);
        let shown = serde_json::to_value(board.snapshot()).unwrap();
        assert_eq!(shown["status"]["battery"], 0.33);
        assert!(shown["ages"]["battery"].as_f64().unwrap() >= 12.3);
        // It remembers the floor from before a restart.
        assert_eq!(shown["status"]["floor"], 7);
        assert_eq!(shown["ages"]["floor"], serde_json::Value::Null);
    }
}
