//! The building by name, and the robot itself: the relay's records in the relay's words.

use std::time::Duration;

use brrbrr_proto::building::{Building, Event, Place};
use brrbrr_proto::live::{Activity, PerField, Pose, RobotSide, Status};
use brrbrr_proto::names::{Asked, Inexact, Named, find};
use brrbrr_proto::time::WallClock;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde::{Serialize, Serializer};

use super::answer::{Answer, Refusal, invalid, json};
use super::query::parameter;
use super::routes::Services;
use crate::calendar::iso8601;
use crate::status::Snapshot;

#[derive(Serialize)]
struct PlaceView<'a> {
    id: i64,
    name: &'a str,
    description: Option<&'a str>,
    floor: i32,
    xaxis: f64,
    yaxis: f64,
    thumburl: Option<&'a str>,
    mapurl: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    aliases: &'a [String],
}

impl<'a> From<&'a Place> for PlaceView<'a> {
    fn from(place: &'a Place) -> Self {
        Self {
            id: place.id,
            name: &place.name,
            description: place.description.as_deref(),
            floor: place.floor,
            xaxis: place.x,
            yaxis: place.y,
            thumburl: place.thumburl.as_deref(),
            mapurl: place.mapurl.as_deref(),
            aliases: &place.aliases,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventView<'a> {
    id: i64,
    name: &'a str,
    description: Option<&'a str>,
    #[serde(serialize_with = "as_iso8601")]
    starttime: WallClock,
    #[serde(serialize_with = "as_iso8601")]
    endtime: WallClock,
    place_name: &'a str,
    place_floor: i32,
    thumburl: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<PlaceView<'a>>,
}

impl<'a> EventView<'a> {
    fn new(event: &'a Event, place: Option<&'a Place>) -> Self {
        Self {
            id: event.id,
            name: &event.name,
            description: event.description.as_deref(),
            starttime: event.starts,
            endtime: event.ends,
            place_name: &event.place,
            place_floor: event.floor,
            thumburl: event.thumburl.as_deref(),
            place: place.map(PlaceView::from),
        }
    }
}

/// The answer to a search: what was found, under a key that says what it is.
#[derive(Default, Serialize)]
struct SearchView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<Vec<PlaceView<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<Vec<EventView<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    places: Option<Vec<PlaceView<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<Vec<EventView<'a>>>,
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    inexact: Option<Inexact>,
}

pub(super) async fn list(services: &Services) -> Result<Answer, Refusal> {
    let listed = services.building.look(|building| {
        let places: Vec<_> = building.places.iter().map(PlaceView::from).collect();
        json(StatusCode::OK, &places)
    });
    listed.await?.ok_or(Refusal::NoBuilding)?
}

pub(super) async fn events(services: &Services) -> Result<Answer, Refusal> {
    let listed = services.building.look(|building| {
        let events = building.events.iter();
        let events: Vec<_> = events.map(|event| EventView::new(event, None)).collect();
        json(StatusCode::OK, &events)
    });
    listed.await?.ok_or(Refusal::NoBuilding)?
}

/// What a name means here. The robot stays where it is.
pub(super) async fn search(
    request: &Request<Incoming>,
    services: &Services,
) -> Result<Answer, Refusal> {
    let name = parameter(request.uri().query(), "name")?;
    let name = name.ok_or(invalid("name", "is missing"))?;
    let asked = Asked::new(&name.replace('+', " "));
    let found = services
        .building
        .look(move |building| json(StatusCode::OK, &find_anything(building, &asked)));
    found.await?.ok_or(Refusal::NoBuilding)?
}

/// Either.
#[derive(Clone, Copy)]
enum Thing<'a> {
    Place(&'a Place),
    Event(&'a Event),
}

/// Looks among both at once, so that an event of this name comes before a place that sounds like it.
fn find_anything<'a>(building: &'a Building, asked: &Asked) -> SearchView<'a> {
    let floor = building.robot.floor;
    let places = building.places.iter().map(|place| Named {
        thing: Thing::Place(place),
        name: place.name.as_str(),
        aliases: place.aliases.as_slice(),
        is_near: place.floor == floor,
    });
    let events = building.events.iter().map(|event| Named {
        thing: Thing::Event(event),
        name: event.name.as_str(),
        aliases: &[],
        is_near: event.floor == floor,
    });
    let offered: Vec<_> = places.chain(events).collect();
    let Some(found) = find(asked, &offered) else {
        return SearchView::default();
    };
    let mut view = SearchView {
        inexact: found.inexact(asked),
        ..SearchView::default()
    };
    let (mut places, mut events) = (Vec::new(), Vec::new());
    for thing in found.things {
        match thing {
            Thing::Place(place) => places.push(place),
            Thing::Event(event) => events.push(event),
        }
    }
    let here = events.first().filter(|_| found.is_near);
    let here = here.and_then(|event| Some((*event, place_of(event, building)?)));
    match (places.first(), here) {
        (Some(place), _) if found.is_near => view.place = Some(vec![PlaceView::from(*place)]),
        (Some(_), _) => view.places = Some(places.into_iter().map(PlaceView::from).collect()),
        (None, Some((event, place))) => {
            view.event = Some(vec![EventView::new(event, Some(place))]);
        }
        (None, None) => {
            let events = events.into_iter().map(|event| EventView::new(event, None));
            view.events = Some(events.collect());
        }
    }
    view
}

/// Which places a name means.
#[derive(Debug, PartialEq)]
pub(super) enum Found<'a> {
    /// One on the robot's own floor.
    Here(&'a Place),
    /// Only ones on other floors, at least one.
    Elsewhere(Vec<&'a Place>),
    /// None.
    Nothing,
}

/// Looks among places by what people call them.
pub(super) fn find_place<'a>(places: &'a [Place], floor: i32, asked: &Asked) -> Found<'a> {
    let offered = places.iter().map(|place| Named {
        thing: place,
        name: place.name.as_str(),
        aliases: place.aliases.as_slice(),
        is_near: place.floor == floor,
    });
    let offered: Vec<_> = offered.collect();
    let Some(found) = find(asked, &offered) else {
        return Found::Nothing;
    };
    match found.things.first() {
        Some(place) if found.is_near => Found::Here(place),
        Some(_) => Found::Elsewhere(found.things),
        None => Found::Nothing,
    }
}

fn place_of<'a>(event: &Event, building: &'a Building) -> Option<&'a Place> {
    let is_it = |place: &&Place| place.floor == event.floor && place.name == event.place;
    building.places.iter().find(is_it)
}

#[derive(Serialize)]
struct RobotView {
    id: u32,
    name: String,
    floor: i32,
}

/// The robot itself, as the catalog knows it, or else as it was enrolled.
fn itself(services: &Services) -> RobotView {
    let (name, floor) = match services.building.kept() {
        Some(kept) => (kept.building.robot.name.clone(), kept.building.robot.floor),
        None => services.enrolled.clone(),
    };
    let id = services.robot.number();
    RobotView { id, name, floor }
}

pub(super) fn robots(services: &Services) -> Result<Answer, Refusal> {
    json(StatusCode::OK, &[itself(services)])
}

#[derive(Serialize)]
struct StatusView {
    robot: RobotView,
    presence: PresenceView,
    status: Fields,
    /// The command that it carries out, or else the newest that has not ended.
    command: Option<String>,
}

/// Whether the robot's own software is in contact with the board.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PresenceView {
    state: &'static str,
    since: Option<String>,
    /// When the robot last said anything; nobody knows what was before a restart of the gateway.
    last_contact: Option<String>,
    reason: Option<&'static str>,
}

impl PresenceView {
    fn new(snapshot: &Snapshot, now: WallClock) -> Self {
        let is_up = snapshot.status.robot_side == Some(RobotSide::Up);
        let ages = &snapshot.ages;
        // That its broker is there is a sign of life too, that it is away is none.
        let side = ages.robot_side.filter(|_| is_up);
        let said = [
            ages.activity,
            ages.pose,
            ages.floor,
            ages.battery,
            ages.speed,
            side,
        ];
        let newest = said.into_iter().flatten().min_by(f64::total_cmp);
        let since = snapshot.robot_side_since;
        Self {
            state: if is_up { "online" } else { "degraded" },
            since: since.map(|since| ago(since.elapsed(), now)),
            last_contact: newest.map(|age| ago(seconds(age), now)),
            reason: (!is_up).then_some("robot_side_down"),
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
    /// When the robot said it, by the board's calendar.
    at: Option<String>,
    /// How long ago the robot said it; nobody knows where that was before a restart.
    age_seconds: Option<f64>,
    stale: bool,
}

/// How the robot stands, as the board itself sees it.
pub(super) fn status(services: &Services) -> Result<Answer, Refusal> {
    let snapshot = services.board.snapshot();
    let now = services.clock.wall();
    let newest = snapshot.newest_command.map(|id| id.to_string());
    let view = StatusView {
        robot: itself(services),
        presence: PresenceView::new(&snapshot, now),
        status: fields(&snapshot.status, &snapshot.ages, now),
        command: snapshot.running.or(newest),
    };
    json(StatusCode::OK, &view)
}

/// A field that the robot has not said for so many seconds is stale; the same as the relay's.
const FRESH_SECONDS: f64 = 60.0;

fn fields(status: &Status, ages: &PerField<f64>, now: WallClock) -> Fields {
    // The gateway says this itself and watches it all the time, so it does not age.
    let robot_side = status.robot_side.map(|side| match side {
        RobotSide::Up => "up",
        RobotSide::Down => "down",
    });
    let robot_side = field(robot_side, ages.robot_side, now);
    Fields {
        activity: field(status.activity.map(activity), ages.activity, now),
        pose: field(status.pose, ages.pose, now),
        floor: field(status.floor, ages.floor, now),
        battery: field(status.battery, ages.battery, now),
        speed: field(status.speed, ages.speed, now),
        robot_side: robot_side.map(|field| Field {
            stale: false,
            ..field
        }),
    }
}

fn field<T>(value: Option<T>, age: Option<f64>, now: WallClock) -> Option<Field<T>> {
    Some(Field {
        value: value?,
        at: age.map(|age| ago(seconds(age), now)),
        age_seconds: age,
        stale: age.is_none_or(|age| age > FRESH_SECONDS),
    })
}

fn seconds(age: f64) -> Duration {
    Duration::try_from_secs_f64(age).unwrap_or_default()
}

/// The moment so long ago, by the board's calendar.
fn ago(age: Duration, now: WallClock) -> String {
    let micros = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    iso8601(WallClock(now.0.saturating_sub(micros)))
}

const fn activity(activity: Activity) -> &'static str {
    match activity {
        Activity::Idle => "idle",
        Activity::Moving => "moving",
        Activity::Stopped => "stopped",
        Activity::Arrived => "arrived",
        Activity::Docking => "docking",
        Activity::Faulted => "faulted",
    }
}

fn as_iso8601<S: Serializer>(time: &WallClock, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&iso8601(*time))
}
