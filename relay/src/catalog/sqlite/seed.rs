//! Enters a seed into the catalog file, whole or not at all.

use brrbrr_proto::seal::Secret;
use rusqlite::Connection;

use super::{SqliteCatalog, building};
use crate::catalog::{Aliases, CatalogError, HappeningDetails, PlaceDetails, Result};
use crate::seed::{RobotSeed, Seed, Tallies, Tally};
use crate::sqlite::rounded;

impl SqliteCatalog {
    /// Enters a seed in one transaction. What is there by the same name is updated; a robot that is
    /// there keeps its secret, and a new one gets a fresh secret.
    ///
    /// # Errors
    /// [`CatalogError::UnknownPlace`] where an event names a place that is neither in the seed nor
    /// in the catalog; then nothing is changed.
    pub async fn seed(&self, seed: Seed) -> Result<Tallies> {
        self.change(move |connection| {
            Ok(Tallies {
                places: seed_places(connection, seed.places)?,
                happenings: seed_happenings(connection, seed.happenings)?,
                robots: seed_robots(connection, seed.robots)?,
            })
        })
        .await
    }
}

fn seed_places(connection: &Connection, places: Vec<PlaceDetails>) -> Result<Tally> {
    let known = building::places(connection)?;
    let mut tally = Tally::default();
    for details in places {
        let same = |name: &str, floor| name == details.name && floor == details.floor;
        let there = known
            .iter()
            .find(|place| same(&place.details.name, place.details.floor));
        match there {
            None => {
                building::insert_place(connection, details)?;
                tally.added += 1;
            }
            Some(place) if place.details == details => tally.kept += 1,
            Some(place) => {
                building::update_place(connection, place.id, details, Aliases::Replaced)?;
                tally.updated += 1;
            }
        }
    }
    Ok(tally)
}

fn seed_happenings(connection: &Connection, happenings: Vec<HappeningDetails>) -> Result<Tally> {
    let known = building::happenings(connection)?;
    let mut tally = Tally::default();
    for mut details in happenings {
        details.starttime = rounded(details.starttime);
        details.endtime = rounded(details.endtime);
        let there = known
            .iter()
            .find(|happening| happening.details.name == details.name);
        match there {
            None => {
                building::insert_happening(connection, details)?;
                tally.added += 1;
            }
            Some(happening) if happening.details == details => tally.kept += 1,
            Some(happening) => {
                building::update_happening(connection, happening.id, details)?;
                tally.updated += 1;
            }
        }
    }
    Ok(tally)
}

fn seed_robots(connection: &Connection, robots: Vec<RobotSeed>) -> Result<Tally> {
    let known = building::robots(connection)?;
    let mut tally = Tally::default();
    for RobotSeed { name, floor, home } in robots {
        match known.iter().find(|robot| robot.name == name) {
            None => {
                let secret = fresh_secret()?;
                building::insert_robot(connection, &name, floor, home, &secret)?;
                tally.added += 1;
            }
            Some(robot) if robot.floor == floor && robot.home == home => tally.kept += 1,
            Some(robot) => {
                building::update_robot(connection, robot.id, floor, home)?;
                tally.updated += 1;
            }
        }
    }
    Ok(tally)
}

fn fresh_secret() -> Result<Secret> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| CatalogError::Away(format!("no randomness: {error}")))?;
    Ok(Secret::new(bytes))
}
