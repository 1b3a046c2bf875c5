//! What people and programs read of the journal: records as JSON, with words instead of numbers.

use brrbrr_proto::api::OrderView;
use brrbrr_proto::id::Epoch;
use brrbrr_proto::live::{Activity, Pose, RobotSide, Status};
use brrbrr_proto::time::Stamp;
use brrbrr_proto::up::{Event, Loss, Progress, Severity, Span};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::clock::{Basis, Repaired, Timeline};
use super::{Entry, Stored};

/// A record of the journal.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordView {
    /// The incarnation of the robot's spool, 16 hexadecimal digits.
    pub epoch: String,
    /// Its position in that incarnation's stream.
    pub seq: u64,
    /// How many positions it stands for.
    pub covers: u64,
    /// What kind of event it is; `unreadable` where this build does not understand it.
    pub kind: &'static str,
    /// What happened.
    pub event: EventView,
    /// The board's boot at that time, 16 hexadecimal digits.
    pub boot: Option<String>,
    /// How long after that boot it was.
    pub uptime_seconds: Option<f64>,
    /// When it was made; of a hole, when the newest of its records was, where that is known.
    pub time: Option<TimeView>,
}

/// When something happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TimeView {
    /// What the board's calendar showed; `None` where that is no date.
    pub claimed: Option<Timestamp>,
    /// When it was by the relay's calendar, as far as is known.
    pub corrected: Timestamp,
    /// How far that may be off.
    pub uncertainty_seconds: f64,
    /// How it is known: by a `session` of the board's boot, by what the board did `claim`, or by its
    /// `bounds` alone.
    pub basis: &'static str,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum EventView {
    /// `changed` and `telemetry`.
    Status(StatusView),
    /// `arrived`.
    Arrived {
        /// 32 hexadecimal digits.
        command: Option<String>,
        /// Where it says it is.
        pose: Option<Pose>,
    },
    /// `alarm`.
    Alarm {
        /// A short stable name.
        code: String,
        /// How bad it is.
        severity: &'static str,
        /// A sentence for people.
        text: String,
    },
    /// `command`.
    Command {
        /// 32 hexadecimal digits.
        command: String,
        /// The step.
        progress: &'static str,
        /// A sentence for people.
        detail: String,
    },
    /// `custom`.
    Custom {
        /// The integrator's name for it.
        kind: String,
        /// The document; as a text where it is no JSON.
        data: Value,
    },
    /// `ordered`.
    Ordered {
        /// The command.
        command: String,
        /// Who gave it.
        actor: String,
        /// What it is.
        order: OrderView,
        /// For how long it could be started.
        expires_in_seconds: f64,
    },
    /// `progressed`.
    Progressed {
        /// The command.
        command: String,
        /// From 0 to 100.
        percent: u8,
        /// A sentence about it; may be empty.
        text: String,
    },
    /// `tombstone`.
    Tombstone {
        /// How many records; `None` where nobody can know.
        count: Option<u64>,
        /// Why.
        reason: &'static str,
        /// When the oldest was made.
        since: Option<TimeView>,
        /// When the newest was made.
        until: Option<TimeView>,
    },
    /// `thinned`.
    Thinned {
        /// How many samples.
        count: u64,
        /// When the first was made.
        since: TimeView,
        /// The lowest and the highest charge.
        battery: Option<Span>,
        /// The lowest and the highest speed.
        speed: Option<Span>,
        /// The last sample.
        last: StatusView,
    },
    /// `unreadable`.
    Unreadable {
        /// Why.
        error: String,
        /// How long it is.
        bytes: usize,
    },
}

/// What a status knows.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusView {
    #[serde(skip_serializing_if = "Option::is_none")]
    activity: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pose: Option<Pose>,
    #[serde(skip_serializing_if = "Option::is_none")]
    floor: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    battery: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    speed: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    robot_side: Option<&'static str>,
}

impl RecordView {
    /// A record as it is in the journal.
    #[must_use]
    pub fn new(epoch: Epoch, stored: Stored, timeline: &Timeline) -> Self {
        let Stored {
            seq,
            item,
            received,
        } = stored;
        let time = |stamp| TimeView::from(timeline.repair(seq, stamp, received));
        let (covers, entry) = (item.covers, Entry::read(item));
        let stamp = entry.moments().last();
        let (kind, event) = match entry.record {
            Ok(record) => (kind(&record.event), EventView::new(record.event, time)),
            Err(error) => (
                UNREADABLE,
                EventView::Unreadable {
                    error: error.to_string(),
                    bytes: entry.item.record.len(),
                },
            ),
        };
        Self {
            epoch: epoch.to_string(),
            seq: seq.0,
            covers,
            kind,
            event,
            boot: stamp.map(|stamp| stamp.boot.to_string()),
            uptime_seconds: stamp.map(|stamp| stamp.uptime.since_boot().as_secs_f64()),
            time: stamp.map(time),
        }
    }
}

impl From<Repaired> for TimeView {
    fn from(repaired: Repaired) -> Self {
        Self {
            claimed: Timestamp::from_microsecond(repaired.claimed.0).ok(),
            corrected: repaired.corrected,
            uncertainty_seconds: repaired.uncertainty.as_secs_f64(),
            basis: match repaired.basis {
                Basis::Session => "session",
                Basis::Claim => "claim",
                Basis::Bounds => "bounds",
            },
        }
    }
}

impl EventView {
    fn new(event: Event, time: impl Fn(Stamp) -> TimeView) -> Self {
        match event {
            Event::Changed(status) | Event::Telemetry(status) => Self::Status((&status).into()),
            Event::Arrived(arrived) => Self::Arrived {
                command: arrived.command.map(|command| command.to_string()),
                pose: arrived.pose,
            },
            Event::Alarm(alarm) => Self::Alarm {
                code: alarm.code,
                severity: severity_name(alarm.severity),
                text: alarm.text,
            },
            Event::Command(update) => Self::Command {
                command: update.command.to_string(),
                progress: progress_name(update.progress),
                detail: update.detail,
            },
            Event::Custom(custom) => Self::Custom {
                kind: custom.kind,
                data: serde_json::from_str(&custom.json).unwrap_or(Value::String(custom.json)),
            },
            Event::Ordered(ordered) => Self::Ordered {
                command: ordered.command.to_string(),
                actor: ordered.actor,
                order: (&ordered.order).into(),
                expires_in_seconds: ordered.time_to_live.as_secs_f64(),
            },
            Event::Progressed(progressed) => Self::Progressed {
                command: progressed.command.to_string(),
                percent: progressed.percent,
                text: progressed.text,
            },
            Event::Tombstone(tombstone) => Self::Tombstone {
                count: Some(tombstone.count).filter(|count| *count > 0),
                reason: loss_name(tombstone.loss),
                since: tombstone.since.map(&time),
                until: tombstone.until.map(&time),
            },
            Event::Thinned(thinned) => Self::Thinned {
                count: thinned.count,
                since: time(thinned.since),
                battery: thinned.battery,
                speed: thinned.speed,
                last: (&thinned.last).into(),
            },
        }
    }
}

impl From<&Status> for StatusView {
    fn from(status: &Status) -> Self {
        Self {
            activity: status.activity.map(activity_name),
            pose: status.pose,
            floor: status.floor,
            battery: status.battery,
            speed: status.speed,
            robot_side: status.robot_side.map(side_name),
        }
    }
}

/// Every kind of record.
pub const KINDS: [&str; 11] = [
    "changed",
    "arrived",
    "alarm",
    "command",
    "telemetry",
    "custom",
    "ordered",
    "progressed",
    "tombstone",
    "thinned",
    UNREADABLE,
];

/// The kind of what this build does not understand.
const UNREADABLE: &str = "unreadable";

/// What kind of event it is, in one word.
#[must_use]
pub const fn kind(event: &Event) -> &'static str {
    match event {
        Event::Changed(_) => "changed",
        Event::Arrived(_) => "arrived",
        Event::Alarm(_) => "alarm",
        Event::Command(_) => "command",
        Event::Telemetry(_) => "telemetry",
        Event::Custom(_) => "custom",
        Event::Ordered(_) => "ordered",
        Event::Progressed(_) => "progressed",
        Event::Tombstone(_) => "tombstone",
        Event::Thinned(_) => "thinned",
    }
}

/// Why records are missing, in one word.
#[must_use]
pub const fn loss_name(loss: Loss) -> &'static str {
    match loss {
        Loss::SpoolFull => "full",
        Loss::SpoolCorrupt => "corrupt",
        Loss::RelayForgot => "forgotten",
        Loss::Thinned => "thinned",
    }
}

const fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Notice => "notice",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    }
}

const fn progress_name(progress: Progress) -> &'static str {
    match progress {
        Progress::Received => "received",
        Progress::Running => "running",
        Progress::Succeeded => "succeeded",
        Progress::Failed => "failed",
        Progress::Cancelled => "cancelled",
        Progress::Expired => "expired",
        Progress::Superseded => "superseded",
        Progress::Interrupted => "interrupted",
    }
}

/// The word for whether a gateway reaches the robot's own software.
pub(crate) const fn side_name(side: RobotSide) -> &'static str {
    match side {
        RobotSide::Up => "up",
        RobotSide::Down => "down",
    }
}

/// The word for what a robot is doing.
pub(crate) const fn activity_name(activity: Activity) -> &'static str {
    match activity {
        Activity::Idle => "idle",
        Activity::Moving => "moving",
        Activity::Stopped => "stopped",
        Activity::Arrived => "arrived",
        Activity::Docking => "docking",
        Activity::Faulted => "faulted",
    }
}
