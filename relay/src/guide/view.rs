//! What callers and faces read: the JSON of the HTTP contract's records.

use brrbrr_proto::id::RobotId;
use brrbrr_proto::names::Inexact;
use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::search::{Found, place_of};
use crate::catalog::{Happening, Place, Robot};
use crate::live::{Contact, Guidance, Phase, SocketId};

/// A happening, with its place where that was asked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventView<'a> {
    id: i64,
    name: &'a str,
    description: Option<&'a str>,
    #[serde(serialize_with = "with_milliseconds")]
    starttime: Timestamp,
    #[serde(serialize_with = "with_milliseconds")]
    endtime: Timestamp,
    place_name: &'a str,
    place_floor: i32,
    thumburl: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<&'a Place>,
}

impl<'a> EventView<'a> {
    /// Without its place.
    #[must_use]
    pub fn plain(event: &'a Happening) -> Self {
        let details = &event.details;
        Self {
            id: event.id,
            name: &details.name,
            description: details.description.as_deref(),
            starttime: details.starttime,
            endtime: details.endtime,
            place_name: &details.place_name,
            place_floor: details.place_floor,
            thumburl: details.thumburl.as_deref(),
            place: None,
        }
    }

    /// With its place.
    #[must_use]
    pub fn placed(event: &'a Happening, place: Option<&'a Place>) -> Self {
        Self {
            place,
            ..Self::plain(event)
        }
    }
}

/// Every event with its place.
#[must_use]
pub fn events_with_places<'a>(events: &'a [Happening], places: &'a [Place]) -> Vec<EventView<'a>> {
    let placed = |event| EventView::placed(event, place_of(event, places));
    events.iter().map(placed).collect()
}

/// The places of a floor.
#[must_use]
pub fn places_on(places: &[Place], floor: i32) -> Vec<&Place> {
    let here = |place: &&Place| place.details.floor == floor;
    places.iter().filter(here).collect()
}

/// What a face shows as destinations: places or events.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Destinations<'a> {
    /// Places.
    Places(Vec<&'a Place>),
    /// Events.
    Events(Vec<EventView<'a>>),
}

impl<'a> From<&Found<'a>> for Destinations<'a> {
    fn from(found: &Found<'a>) -> Self {
        match found {
            Found::PlaceHere(place) => Self::Places(vec![place]),
            Found::PlacesElsewhere(places) => Self::Places(places.clone()),
            Found::EventHere(event, place) => {
                Self::Events(vec![EventView::placed(event, Some(place))])
            }
            Found::EventsElsewhere(events) => {
                Self::Events(events.iter().map(|event| EventView::plain(event)).collect())
            }
            Found::Nothing => Self::Places(Vec::new()),
        }
    }
}

/// The answer to a search: the destinations, under a key that says what they are, and how they were
/// found where that was not by the exact name.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct SearchView<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<&'a Destinations<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a Destinations<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    places: Option<&'a Destinations<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<&'a Destinations<'a>>,
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    inexact: Option<&'a Inexact>,
}

impl<'a> SearchView<'a> {
    /// The answer where this was found.
    #[must_use]
    pub fn new(
        found: &Found<'_>,
        destinations: &'a Destinations<'a>,
        inexact: Option<&'a Inexact>,
    ) -> Self {
        let mut view = Self {
            inexact,
            ..Self::default()
        };
        match found {
            Found::PlaceHere(_) => view.place = Some(destinations),
            Found::EventHere(..) => view.event = Some(destinations),
            Found::PlacesElsewhere(_) => view.places = Some(destinations),
            Found::EventsElsewhere(_) => view.events = Some(destinations),
            Found::Nothing => {}
        }
        view
    }
}

/// A robot and what it is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LiveRobot {
    id: RobotId,
    name: String,
    floor: i32,
    available: bool,
    status: Phase,
    on_service: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket_id: Option<SocketId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
}

impl LiveRobot {
    /// A robot is on service while a face is bound to it. It is available to the next guest while it
    /// is not, and can be sent somewhere at all.
    #[must_use]
    pub fn new(robot: Robot, face: Option<SocketId>, guidance: Guidance, contact: Contact) -> Self {
        Self {
            id: robot.id,
            name: robot.name,
            floor: robot.floor,
            available: face.is_none() && contact == Contact::Online,
            status: guidance.phase,
            on_service: face.is_some(),
            socket_id: face,
            destination: guidance.destination,
        }
    }
}

fn with_milliseconds<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{time:.3}"))
}
