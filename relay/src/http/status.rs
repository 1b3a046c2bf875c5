//! `/robots/:id/status` and `/robots/status`: whether robots are in contact, and what they said of
//! themselves last, each field with its age.

use std::sync::Arc;
use std::time::Duration;

use brrbrr_proto::id::RobotId;
use brrbrr_proto::live::Pose;
use jiff::Timestamp;
use serde::Serialize;
use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, path};

use super::Services;
use super::call::{Call, call, finish};
use super::error::{HttpError, json};
use super::fields::invalid;
use super::records::limit;
use super::robots::PathId;
use crate::catalog::{CommandState, Page, Robot};
use crate::journal::history::{History, SpoolView};
use crate::journal::view::{activity_name, side_name};
use crate::live::{Cause, Contact, Guidance, Heard, Phase, Presence};

/// A field that the robot has not said for so long is stale even while it is in contact. Robots say
/// what they do every second or so, and a gateway shows it at once.
pub const FIELD_FRESH_FOR: Duration = Duration::from_secs(60);

pub(super) fn routes(services: &Arc<Services>) -> BoxedFilter<(Response,)> {
    let one = path!("robots" / PathId / "status")
        .and(warp::get())
        .and(call(services))
        .then(async |id: PathId, services: Arc<Services>, call: Call| {
            finish("GET /robots/:id/status", one(&services, &call, id.0).await)
        });
    let all = path!("robots" / "status")
        .and(warp::get())
        .and(call(services))
        .then(async |services: Arc<Services>, call: Call| {
            finish("GET /robots/status", all(&services, &call).await)
        });
    one.or(all).unify().boxed()
}

async fn one(services: &Services, call: &Call, id: RobotId) -> Result<Response, HttpError> {
    let guest = call.guest(services).await?;
    if guest.is_none_or(|guest| guest.robot.id != id) {
        call.admin(services).await?;
    }
    let robot = services.catalog.robot(id).await?;
    let status = RobotStatus::of(services, robot).await?;
    Ok(json(serde_json::to_string(&status)?))
}

/// A page of robots, in the order of their ids.
#[derive(Serialize)]
struct Robots {
    robots: Vec<RobotStatus>,
    next: Option<RobotId>,
}

async fn all(services: &Services, call: &Call) -> Result<Response, HttpError> {
    call.admin(services).await?;
    let (after, limit) = (after(call)?, limit(call)?);
    let mut robots = services.catalog.robots().await?;
    robots.retain(|robot| Some(robot.id) > after);
    robots.sort_by_key(|robot| robot.id);
    let has_more = robots.len() > limit;
    robots.truncate(limit);
    let next = robots.last().map(|robot| robot.id).filter(|_| has_more);
    let mut page = Vec::with_capacity(robots.len());
    for robot in robots {
        page.push(RobotStatus::of(services, robot).await?);
    }
    let page = Robots { robots: page, next };
    Ok(json(serde_json::to_string(&page)?))
}

fn after(call: &Call) -> Result<Option<RobotId>, HttpError> {
    let after = call.parameter("after")?;
    let robot = after.map(|after| after.parse()).transpose();
    robot.map_err(|_| invalid("after", "must be what an earlier answer called next"))
}

/// How a robot stands.
#[derive(Serialize)]
struct RobotStatus {
    robot: RobotName,
    presence: PresenceView,
    status: Fields,
    guidance: GuidanceView,
    /// The command that it carries out, or else the newest that has not ended.
    command: Option<String>,
    spool: Option<SpoolView>,
}

#[derive(Serialize)]
struct RobotName {
    id: RobotId,
    name: String,
    floor: i32,
}

impl RobotStatus {
    async fn of(services: &Services, robot: Robot) -> Result<Self, HttpError> {
        let (live, id) = (&services.live, robot.id);
        let presence = live.presence(id).await?;
        let heard = live.heard(id).await?.unwrap_or_default();
        let guidance = live.guidance(id).await?;
        let spool = match live.spool(id).await? {
            Some(spool) => Some(History::of(&*services.journal, id).await?.spool(&spool)),
            None => None,
        };
        Ok(Self {
            robot: RobotName {
                id,
                name: robot.name,
                floor: robot.floor,
            },
            presence: presence.into(),
            status: Fields::new(&heard, presence.contact, Timestamp::now()),
            guidance: guidance.into(),
            command: command(services, id).await?,
            spool,
        })
    }
}

/// See [`RobotStatus::command`].
async fn command(services: &Services, robot: RobotId) -> Result<Option<String>, HttpError> {
    for states in [&[CommandState::Running][..], &CommandState::UNFINISHED] {
        let page = Page {
            states: states.to_vec(),
            limit: 1,
            after: None,
        };
        let found = services.catalog.commands(robot, page).await?;
        if let Some(entry) = found.first() {
            return Ok(Some(entry.command.id.to_string()));
        }
    }
    Ok(None)
}

/// What it is doing for its guest.
#[derive(Serialize)]
struct GuidanceView {
    status: Phase,
    destination: Option<String>,
    command: Option<String>,
}

impl From<Guidance> for GuidanceView {
    fn from(guidance: Guidance) -> Self {
        Self {
            status: guidance.phase,
            destination: guidance.destination,
            command: guidance.trip.map(|trip| trip.to_string()),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PresenceView {
    state: &'static str,
    since: Option<Timestamp>,
    last_contact: Option<Timestamp>,
    reason: Option<&'static str>,
}

impl From<Presence> for PresenceView {
    fn from(presence: Presence) -> Self {
        Self {
            state: presence.contact.name(),
            since: presence.since,
            last_contact: presence.last_contact,
            reason: presence.cause.map(Cause::name),
        }
    }
}

/// What the robot said last, field by field; `None` for what it never said.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    activity: Option<Field<&'static str>>,
    pose: Option<Field<Pose>>,
    floor: Option<Field<i32>>,
    battery: Option<Field<f64>>,
    speed: Option<Field<f64>>,
    robot_side: Option<Field<&'static str>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Field<T> {
    value: T,
    /// When the robot said it; `None` where nobody knows.
    at: Option<Timestamp>,
    age_seconds: Option<f64>,
    stale: bool,
}

impl Fields {
    fn new(heard: &Heard, contact: Contact, now: Timestamp) -> Self {
        let Heard { status, said } = heard;
        let is_cut_off = contact == Contact::Offline;
        Self {
            activity: field(
                status.activity.map(activity_name),
                said.activity,
                is_cut_off,
                now,
            ),
            pose: field(status.pose, said.pose, is_cut_off, now),
            floor: field(status.floor, said.floor, is_cut_off, now),
            battery: field(status.battery, said.battery, is_cut_off, now),
            speed: field(status.speed, said.speed, is_cut_off, now),
            // The gateway says this when it changes and watches it all the time, so it does not age.
            robot_side: field(
                status.robot_side.map(side_name),
                said.robot_side,
                is_cut_off,
                now,
            )
            .map(|field| Field {
                stale: is_cut_off,
                ..field
            }),
        }
    }
}

fn field<T>(
    value: Option<T>,
    at: Option<Timestamp>,
    is_cut_off: bool,
    now: Timestamp,
) -> Option<Field<T>> {
    let value = value?;
    let age = at.map(|at| Duration::try_from(now.duration_since(at)).unwrap_or_default());
    Some(Field {
        value,
        at,
        age_seconds: age.map(|age| (age.as_secs_f64() * 10.0).round() / 10.0),
        stale: is_cut_off || age.is_none_or(|age| age > FIELD_FRESH_FOR),
    })
}

#[cfg(test)]
mod tests {
    use brrbrr_proto::live::{PerField, RobotSide, Status};

    use super::*;

    #[test]
    fn a_field_is_stale_when_it_is_old_or_of_unknown_age_or_the_robot_is_out_of_contact() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let ago = |seconds| now.checked_sub(Duration::from_secs(seconds)).ok();
        let heard = Heard {
            status: Status {
                battery: Some(0.33),
                floor: Some(7),
                speed: Some(0.5),
                robot_side: Some(RobotSide::Up),
                ..Status::default()
            },
            said: PerField {
                battery: ago(61),
                floor: ago(60),
                robot_side: ago(3_600),
                ..PerField::default()
            },
        };
        let shown = Fields::new(&heard, Contact::Degraded, now);
        let battery = shown.battery.unwrap();
        assert!(battery.stale && battery.age_seconds == Some(61.0));
        assert!(!shown.floor.unwrap().stale);
        let speed = shown.speed.unwrap();
        assert!(speed.stale && speed.at.is_none() && speed.age_seconds.is_none());
        assert!(!shown.robot_side.unwrap().stale, "it is watched");
        assert!(shown.pose.is_none());
        let shown = Fields::new(&heard, Contact::Offline, now);
        assert!(shown.floor.unwrap().stale && shown.robot_side.unwrap().stale);
    }
}
