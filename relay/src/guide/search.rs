//! What a name means in the building: a place or an event on the robot's own floor, or elsewhere.

use crate::catalog::{Happening, Place, stored_name};

/// What a guest asked for and the catalog holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Found<'a> {
    /// A place on the robot's floor: it goes there.
    PlaceHere(&'a Place),
    /// An event on the robot's floor: it goes to the event's place.
    EventHere(&'a Happening, &'a Place),
    /// Places of that name on other floors, at least one.
    PlacesElsewhere(Vec<&'a Place>),
    /// The event, at a place that this robot cannot reach.
    EventsElsewhere(Vec<&'a Happening>),
    /// Neither.
    Nothing,
}

impl<'a> Found<'a> {
    /// Where the robot is to go, if it is to go.
    #[must_use]
    pub fn goal(&self) -> Option<&'a Place> {
        match self {
            Self::PlaceHere(place) | Self::EventHere(_, place) => Some(place),
            Self::PlacesElsewhere(_) | Self::EventsElsewhere(_) | Self::Nothing => None,
        }
    }
}

/// A name as a guest gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked(String);

impl Asked {
    /// Takes a name in which every `+` has become a space, as the HTTP contract wants it.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(stored_name(name))
    }

    fn means(&self, name: &str) -> bool {
        // A `+` of a stored name cannot be asked for, so a space stands for it too.
        name == self.0 || (name.contains('+') && name.replace('+', " ") == self.0)
    }
}

/// Looks among places only.
#[must_use]
pub fn place<'a>(places: &'a [Place], floor: i32, asked: &Asked) -> Found<'a> {
    let named = places.iter().filter(|p| asked.means(&p.details.name));
    let (here, elsewhere): (Vec<_>, Vec<_>) = named.partition(|p| p.details.floor == floor);
    match here.first() {
        Some(place) => Found::PlaceHere(place),
        None if elsewhere.is_empty() => Found::Nothing,
        None => Found::PlacesElsewhere(elsewhere),
    }
}

/// Looks among events only.
#[must_use]
pub fn event<'a>(
    events: &'a [Happening],
    places: &'a [Place],
    floor: i32,
    asked: &Asked,
) -> Found<'a> {
    let mut elsewhere = Vec::new();
    for event in events.iter().filter(|e| asked.means(&e.details.name)) {
        match place_of(event, places) {
            Some(place) if place.details.floor == floor => return Found::EventHere(event, place),
            Some(_) | None => elsewhere.push(event),
        }
    }
    if elsewhere.is_empty() {
        return Found::Nothing;
    }
    Found::EventsElsewhere(elsewhere)
}

/// Looks among both: what is on the robot's floor comes first, and places come before events.
#[must_use]
pub fn anything<'a>(
    places: &'a [Place],
    events: &'a [Happening],
    floor: i32,
    asked: &Asked,
) -> Found<'a> {
    let place = place(places, floor, asked);
    if place.goal().is_some() {
        return place;
    }
    let event = event(events, places, floor, asked);
    if event.goal().is_some() || place == Found::Nothing {
        return event;
    }
    place
}

/// The place that an event is at.
#[must_use]
pub fn place_of<'a>(event: &Happening, places: &'a [Place]) -> Option<&'a Place> {
    let at = &event.details;
    places
        .iter()
        .find(|p| p.details.floor == at.place_floor && p.details.name == at.place_name)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::catalog::{HappeningDetails, PlaceDetails};

    fn place_called(id: i64, name: &str, floor: i32) -> Place {
        Place {
            id,
            details: PlaceDetails {
                name: stored_name(name),
                description: None,
                floor,
                xaxis: 0.0,
                yaxis: 0.0,
                thumburl: None,
                mapurl: None,
            },
        }
    }

    fn event_called(id: i64, name: &str, place: &Place) -> Happening {
        Happening {
            id,
            details: HappeningDetails {
                name: stored_name(name),
                description: None,
                starttime: Timestamp::UNIX_EPOCH,
                endtime: Timestamp::UNIX_EPOCH,
                place_name: place.details.name.clone(),
                place_floor: place.details.floor,
                thumburl: None,
            },
        }
    }

    #[test]
    fn what_is_on_the_floor_comes_before_what_is_elsewhere_and_places_before_events() {
        let places = [
            place_called(1, "카페", 7),
            place_called(2, "카페", 8),
            place_called(3, "전시", 8),
        ];
        let events = [
            event_called(1, "카페", &places[1]),
            event_called(2, "전시", &places[0]),
        ];
        let ask = |floor, name| anything(&places, &events, floor, &Asked::new(name));

        assert_eq!(ask(7, "카페"), Found::PlaceHere(&places[0]));
        assert_eq!(ask(8, "카페"), Found::PlaceHere(&places[1]));
        assert_eq!(ask(7, "전시"), Found::EventHere(&events[1], &places[0]));
        assert_eq!(ask(8, "전시"), Found::PlaceHere(&places[2]));
        let both = vec![&places[0], &places[1]];
        assert_eq!(ask(9, "카페"), Found::PlacesElsewhere(both));
        assert_eq!(ask(7, "없음"), Found::Nothing);
        let events_only = anything(&[], &events, 7, &Asked::new("전시"));
        assert_eq!(events_only, Found::EventsElsewhere(vec![&events[1]]));
    }

    #[test]
    fn names_are_the_same_however_their_hangul_was_typed() {
        let places = [place_called(1, "카페", 7)];
        let decomposed = "\u{110f}\u{1161}\u{1111}\u{1166}";
        assert_eq!(
            place(&places, 7, &Asked::new(decomposed)),
            Found::PlaceHere(&places[0])
        );
    }

    #[test]
    fn a_name_with_a_plus_is_found_though_nobody_can_ask_for_a_plus() {
        let places = [place_called(1, "A+B", 7), place_called(2, "C D", 7)];
        let ask = |name| place(&places, 7, &Asked::new(name));
        assert_eq!(ask("A B"), Found::PlaceHere(&places[0]));
        assert_eq!(ask("C D"), Found::PlaceHere(&places[1]));
        assert_eq!(ask("A  B"), Found::Nothing);
    }
}
