//! The seed file: a JSON document with the places, events and robots of a building.

use std::collections::BTreeSet;
use std::fmt;

use brrbrr_proto::live::Pose;
use brrbrr_proto::names::{BadAliases, stored_aliases};
use jiff::Timestamp;
use serde::Deserialize;
use thiserror::Error;

use crate::catalog::{HappeningDetails, PlaceDetails, stored_name};

/// Why a seed file cannot be used.
#[derive(Debug, Error)]
pub enum SeedError {
    /// It is not JSON of the right shape; the source has the line and names the field.
    #[error("not a seed file")]
    Shape(#[from] serde_json::Error),
    /// Something is in it twice.
    #[error("{0} is there twice")]
    Twice(String),
    /// An empty name.
    #[error("a {0} has an empty name")]
    Nameless(&'static str),
    /// The aliases of a place.
    #[error("aliases of place {place:?} on floor {floor}: {reason}")]
    Aliases {
        /// Its name.
        place: String,
        /// Its floor.
        floor: i32,
        /// What is wrong with them.
        reason: BadAliases,
    },
}

/// A seed that holds nothing twice.
#[derive(Debug, Clone, PartialEq)]
pub struct Seed {
    /// The places.
    pub places: Vec<PlaceDetails>,
    /// The events.
    pub happenings: Vec<HappeningDetails>,
    /// The robots.
    pub robots: Vec<RobotSeed>,
}

/// A robot in a seed file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RobotSeed {
    /// What people call it.
    pub name: String,
    /// The floor it serves.
    pub floor: i32,
    /// Where it goes when a session is finished, if anywhere.
    #[serde(default)]
    pub home: Option<Pose>,
}

impl Seed {
    /// Reads a seed file.
    ///
    /// # Errors
    /// Says what is wrong and where.
    pub fn read(json: &str) -> Result<Self, SeedError> {
        let document: Document = serde_json::from_str(json)?;
        let mut seed = Self {
            places: document.places.into_iter().map(Into::into).collect(),
            happenings: document.events.into_iter().map(Into::into).collect(),
            robots: document.robots,
        };
        seed.normalise()?;
        seed.check()?;
        Ok(seed)
    }

    fn normalise(&mut self) -> Result<(), SeedError> {
        for place in &mut self.places {
            place.name = stored_name(&place.name);
            let aliases = stored_aliases(std::mem::take(&mut place.aliases));
            place.aliases = aliases.map_err(|reason| SeedError::Aliases {
                place: place.name.clone(),
                floor: place.floor,
                reason,
            })?;
        }
        for happening in &mut self.happenings {
            happening.name = stored_name(&happening.name);
            happening.place_name = stored_name(&happening.place_name);
        }
        for robot in &mut self.robots {
            robot.name = stored_name(&robot.name);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), SeedError> {
        let mut seen = BTreeSet::new();
        for place in &self.places {
            named("place", &place.name)?;
            if !seen.insert((&place.name, place.floor)) {
                let what = format!("place {:?} on floor {}", place.name, place.floor);
                return Err(SeedError::Twice(what));
            }
        }
        let mut seen = BTreeSet::new();
        for happening in &self.happenings {
            named("event", &happening.name)?;
            if !seen.insert(&happening.name) {
                return Err(SeedError::Twice(format!("event {:?}", happening.name)));
            }
        }
        let mut seen = BTreeSet::new();
        for robot in &self.robots {
            named("robot", &robot.name)?;
            if !seen.insert(&robot.name) {
                return Err(SeedError::Twice(format!("robot {:?}", robot.name)));
            }
        }
        Ok(())
    }
}

fn named(what: &'static str, name: &str) -> Result<(), SeedError> {
    if name.trim().is_empty() {
        return Err(SeedError::Nameless(what));
    }
    Ok(())
}

/// What a seed did to one kind of things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Were not there.
    pub added: usize,
    /// Were there and different.
    pub updated: usize,
    /// Were there just so.
    pub kept: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            added,
            updated,
            kept,
        } = self;
        write!(f, "{added} added, {updated} updated, {kept} kept")
    }
}

/// What a seed did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tallies {
    /// To places.
    pub places: Tally,
    /// To events.
    pub happenings: Tally,
    /// To robots.
    pub robots: Tally,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    places: Vec<PlaceSeed>,
    #[serde(default)]
    events: Vec<EventSeed>,
    #[serde(default)]
    robots: Vec<RobotSeed>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlaceSeed {
    name: String,
    description: Option<String>,
    floor: i32,
    xaxis: f64,
    yaxis: f64,
    thumburl: Option<String>,
    mapurl: Option<String>,
    #[serde(default)]
    aliases: Vec<String>,
}

impl From<PlaceSeed> for PlaceDetails {
    fn from(seed: PlaceSeed) -> Self {
        Self {
            name: seed.name,
            description: seed.description,
            floor: seed.floor,
            xaxis: seed.xaxis,
            yaxis: seed.yaxis,
            thumburl: seed.thumburl,
            mapurl: seed.mapurl,
            aliases: seed.aliases,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct EventSeed {
    name: String,
    description: Option<String>,
    starttime: Timestamp,
    endtime: Timestamp,
    place_name: String,
    place_floor: i32,
    thumburl: Option<String>,
}

impl From<EventSeed> for HappeningDetails {
    fn from(seed: EventSeed) -> Self {
        Self {
            name: seed.name,
            description: seed.description,
            starttime: seed.starttime,
            endtime: seed.endtime,
            place_name: seed.place_name,
            place_floor: seed.place_floor,
            thumburl: seed.thumburl,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_building_is_a_seed_with_two_floors_and_two_robots() {
        let seed = Seed::read(include_str!("../samples/building.json")).unwrap();
        let floors: BTreeSet<i32> = seed.places.iter().map(|place| place.floor).collect();
        assert_eq!(floors.into_iter().collect::<Vec<_>>(), [7, 8]);
        assert_eq!(seed.happenings.len(), 4);
        let robots: Vec<_> = seed
            .robots
            .iter()
            .map(|robot| robot.name.as_str())
            .collect();
        assert_eq!(robots, ["guide-7", "guide-8"]);
        assert!(seed.robots.iter().all(|robot| robot.home.is_some()));
        for happening in &seed.happenings {
            let is_there = |place: &PlaceDetails| {
                place.name == happening.place_name && place.floor == happening.place_floor
            };
            assert!(seed.places.iter().any(is_there), "{happening:?}");
        }
    }

    #[test]
    fn an_unknown_field_is_named_with_its_line() {
        let wrong = "{\n \"robots\": [{\"name\": \"a\", \"floor\": 7, \"color\": 1}]}";
        let error = anyhow::Error::from(Seed::read(wrong).unwrap_err());
        let error = format!("{error:#}");
        assert!(
            error.contains("color") && error.contains("line 2"),
            "{error}"
        );
    }

    #[test]
    fn the_same_name_in_two_unicode_forms_is_there_twice() {
        let wrong =
            r#"{"robots": [{"name": "가", "floor": 7}, {"name": "\u1100\u1161", "floor": 8}]}"#;
        let error = Seed::read(wrong).unwrap_err().to_string();
        assert_eq!(error, "robot \"가\" is there twice");
    }

    #[test]
    fn aliases_are_kept_once_in_nfc_and_wrong_ones_are_named_with_their_place() {
        let seed = |aliases: &str| {
            let place = r#"{"name": "a", "floor": 7, "xaxis": 1, "yaxis": 1, "aliases": LIST}"#;
            let document = format!(r#"{{"places": [{place}]}}"#);
            Seed::read(&document.replace("LIST", aliases))
        };
        let places = seed(r#"["\u1100\u1161", "b", "가"]"#).unwrap().places;
        assert_eq!(places[0].aliases, ["가", "b"]);
        let error = seed(r#"["b", " "]"#).unwrap_err().to_string();
        assert_eq!(
            error,
            "aliases of place \"a\" on floor 7: must not hold an empty name"
        );
    }
}
