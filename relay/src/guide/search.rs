//! What a name means in the building: a place or an event on the robot's own floor, or elsewhere.
//!
//! How alike a name must be to what was asked for is said in [`brrbrr_proto::names`]: exact names come
//! before loose ones, those before aliases, and those before what only sounds alike, wherever they
//! are and whether they are of places or events. Among names that are equally alike, what is on the
//! robot's floor comes before what is elsewhere, and there places before events. So an exact event
//! upstairs comes before a place here that sounds like it, and nothing is done by mistake that the
//! exact name did not ask for.

use brrbrr_proto::names::{Asked, Inexact, Match, Named, find};

use crate::catalog::{Happening, Place};

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

/// What was found, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer<'a> {
    /// What.
    pub found: Found<'a>,
    /// How, where it was not by its exact name.
    pub inexact: Option<Inexact>,
}

/// Looks among places only.
#[must_use]
pub fn place<'a>(places: &'a [Place], floor: i32, asked: &Asked) -> Answer<'a> {
    anything(places, &[], floor, asked)
}

/// Looks among events only.
#[must_use]
pub fn event<'a>(
    events: &'a [Happening],
    places: &'a [Place],
    floor: i32,
    asked: &Asked,
) -> Answer<'a> {
    let named: Vec<_> = events.iter().map(|e| named_event(e, floor)).collect();
    answer(asked, &named, places)
}

/// Looks among both.
#[must_use]
pub fn anything<'a>(
    places: &'a [Place],
    events: &'a [Happening],
    floor: i32,
    asked: &Asked,
) -> Answer<'a> {
    let events = events.iter().map(|event| named_event(event, floor));
    let named = places.iter().map(|place| named_place(place, floor));
    let named: Vec<_> = named.chain(events).collect();
    answer(asked, &named, places)
}

/// The place that an event is at.
#[must_use]
pub fn place_of<'a>(event: &Happening, places: &'a [Place]) -> Option<&'a Place> {
    let at = &event.details;
    places
        .iter()
        .find(|p| p.details.floor == at.place_floor && p.details.name == at.place_name)
}

/// Either.
#[derive(Debug, Clone, Copy)]
enum Thing<'a> {
    Place(&'a Place),
    Event(&'a Happening),
}

fn named_place(place: &Place, floor: i32) -> Named<'_, Thing<'_>> {
    Named {
        thing: Thing::Place(place),
        name: &place.details.name,
        aliases: &place.details.aliases,
        is_near: place.details.floor == floor,
    }
}

fn named_event(event: &Happening, floor: i32) -> Named<'_, Thing<'_>> {
    Named {
        thing: Thing::Event(event),
        name: &event.details.name,
        aliases: &[],
        is_near: event.details.place_floor == floor,
    }
}

fn answer<'a>(asked: &Asked, named: &[Named<'a, Thing<'a>>], places: &'a [Place]) -> Answer<'a> {
    let Some(found) = find(asked, named) else {
        return Answer {
            found: Found::Nothing,
            inexact: None,
        };
    };
    let inexact = found.inexact(asked);
    Answer {
        found: chosen(found, places),
        inexact,
    }
}

/// Places come before events; of what is here, the first is the goal.
fn chosen<'a>(found: Match<'a, Thing<'a>>, places: &'a [Place]) -> Found<'a> {
    let mut found_places = Vec::new();
    let mut found_events = Vec::new();
    for thing in found.things {
        match thing {
            Thing::Place(place) => found_places.push(place),
            Thing::Event(event) => found_events.push(event),
        }
    }
    if let Some(first) = found_places.first() {
        return if found.is_near {
            Found::PlaceHere(first)
        } else {
            Found::PlacesElsewhere(found_places)
        };
    }
    // An event whose place has just been removed can only be listed.
    let here = found_events.first().filter(|_| found.is_near);
    let here = here.and_then(|event| Some((*event, place_of(event, places)?)));
    match here {
        Some((event, place)) => Found::EventHere(event, place),
        None => Found::EventsElsewhere(found_events),
    }
}

#[cfg(test)]
mod tests {
    use brrbrr_proto::names::{Likeness, stored_name};
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
                aliases: Vec::new(),
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
        let ask = |floor, name| {
            let answer = anything(&places, &events, floor, &Asked::new(name));
            assert_eq!(answer.inexact, None);
            answer.found
        };

        assert_eq!(ask(7, "카페"), Found::PlaceHere(&places[0]));
        assert_eq!(ask(8, "카페"), Found::PlaceHere(&places[1]));
        assert_eq!(ask(7, "전시"), Found::EventHere(&events[1], &places[0]));
        assert_eq!(ask(8, "전시"), Found::PlaceHere(&places[2]));
        let both = vec![&places[0], &places[1]];
        assert_eq!(ask(9, "카페"), Found::PlacesElsewhere(both));
        assert_eq!(ask(7, "없음"), Found::Nothing);
        let events_only = anything(&[], &events, 7, &Asked::new("전시"));
        assert_eq!(events_only.found, Found::EventsElsewhere(vec![&events[1]]));
    }

    #[test]
    fn an_exact_name_elsewhere_comes_before_a_sound_alike_here() {
        let mut places = [
            place_called(1, "싸피 7반", 7),
            place_called(2, "사피 7반", 8),
            place_called(3, "승강기", 7),
        ];
        places[2].details.aliases = vec!["엘리베이터".to_owned()];
        let events = [event_called(1, "사피 8반", &places[1])];
        let ask = |name| anything(&places, &events, 7, &Asked::new(name));

        let exact = ask("사피 7반");
        assert_eq!(exact.found, Found::PlacesElsewhere(vec![&places[1]]));
        assert_eq!(exact.inexact, None);
        let sound = ask("싸피 8반");
        assert_eq!(sound.found, Found::EventsElsewhere(vec![&events[0]]));
        let inexact = |kind, asked: &str, name: &str| {
            let (asked, name) = (asked.to_owned(), name.to_owned());
            Some(Inexact { kind, asked, name })
        };
        let expected = inexact(Likeness::Sound, "싸피 8반", "사피 8반");
        assert_eq!(sound.inexact, expected);
        let alias = ask("엘레베이터");
        assert_eq!(alias.found, Found::PlaceHere(&places[2]));
        let expected = inexact(Likeness::Sound, "엘레베이터", "승강기");
        assert_eq!(alias.inexact, expected);
        let loose = place(&places, 7, &Asked::new("싸피7반"));
        assert_eq!(loose.found, Found::PlaceHere(&places[0]));
        let loose = event(&events, &places, 8, &Asked::new("사피8반"));
        assert_eq!(loose.found, Found::EventHere(&events[0], &places[1]));
        assert_eq!(ask("싸피 9반").found, Found::Nothing);
    }

    #[test]
    fn names_are_the_same_however_their_hangul_was_typed() {
        let places = [place_called(1, "카페", 7)];
        let decomposed = "\u{110f}\u{1161}\u{1111}\u{1166}";
        let answer = place(&places, 7, &Asked::new(decomposed));
        assert_eq!(answer.found, Found::PlaceHere(&places[0]));
        assert_eq!(answer.inexact, None);
    }

    #[test]
    fn a_name_with_a_plus_is_found_though_nobody_can_ask_for_a_plus() {
        let places = [place_called(1, "A+B", 7), place_called(2, "C D", 7)];
        let ask = |name| place(&places, 7, &Asked::new(name));
        assert_eq!(ask("A B").found, Found::PlaceHere(&places[0]));
        assert_eq!(ask("A B").inexact, None);
        assert_eq!(ask("C D").found, Found::PlaceHere(&places[1]));
        assert_eq!(ask("A  B").found, Found::PlaceHere(&places[0]));
        let likeness = ask("A  B").inexact.map(|inexact| inexact.kind);
        assert_eq!(likeness, Some(Likeness::Loose));
    }
}
