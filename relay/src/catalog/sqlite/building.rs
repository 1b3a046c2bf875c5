//! The building's side of the catalog file: places, events and robots, within a transaction.

use brrbrr_proto::id::{Epoch, RobotId};
use brrbrr_proto::live::Pose;
use brrbrr_proto::seal::Secret;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, ffi, params};

use super::{all, one, or_conflict, robot_id, violates};
use crate::catalog::{
    Aliases, CatalogError, Happening, HappeningDetails, Place, PlaceDetails, Result, Robot,
    stored_name,
};
use crate::sqlite::{rounded, time};

pub(super) fn place(row: &Row<'_>) -> rusqlite::Result<Place> {
    Ok(Place {
        id: row.get("id")?,
        details: PlaceDetails {
            name: row.get("name")?,
            description: row.get("description")?,
            floor: row.get("floor")?,
            xaxis: row.get("xaxis")?,
            yaxis: row.get("yaxis")?,
            thumburl: row.get("thumburl")?,
            mapurl: row.get("mapurl")?,
            aliases: aliases(row)?,
        },
    })
}

/// A place's aliases: a JSON list of texts.
fn aliases(row: &Row<'_>) -> rusqlite::Result<Vec<String>> {
    let index = row.as_ref().column_index("aliases")?;
    let json: String = row.get(index)?;
    serde_json::from_str(&json).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(index, Type::Text, Box::new(error))
    })
}

fn stored_aliases(aliases: &[String]) -> String {
    serde_json::Value::from(aliases).to_string()
}

pub(super) fn happening(row: &Row<'_>) -> rusqlite::Result<Happening> {
    Ok(Happening {
        id: row.get("id")?,
        details: HappeningDetails {
            name: row.get("name")?,
            description: row.get("description")?,
            starttime: time(row, "starttime")?,
            endtime: time(row, "endtime")?,
            place_name: row.get("place_name")?,
            place_floor: row.get("place_floor")?,
            thumburl: row.get("thumburl")?,
        },
    })
}

pub(super) fn robot(row: &Row<'_>) -> rusqlite::Result<Robot> {
    let x: Option<f64> = row.get("home_x")?;
    let y: Option<f64> = row.get("home_y")?;
    let theta = row.get("home_theta")?;
    Ok(Robot {
        id: robot_id(row, "id")?,
        name: row.get("name")?,
        floor: row.get("floor")?,
        home: x.zip(y).map(|(x, y)| Pose { x, y, theta }),
    })
}

pub(super) fn insert_place(connection: &Connection, details: PlaceDetails) -> Result<Place> {
    let details = normal_place(details);
    connection
        .prepare_cached(
            "INSERT INTO places (name, description, floor, xaxis, yaxis, thumburl, mapurl, aliases)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            details.name,
            details.description,
            details.floor,
            details.xaxis,
            details.yaxis,
            details.thumburl,
            details.mapurl,
            stored_aliases(&details.aliases)
        ])
        .map_err(|error| or_conflict(error, || place_name(&details)))?;
    Ok(Place {
        id: connection.last_insert_rowid(),
        details,
    })
}

pub(super) fn update_place(
    connection: &Connection,
    id: i64,
    details: PlaceDetails,
    kept_or_not: Aliases,
) -> Result<Place> {
    let mut details = normal_place(details);
    if kept_or_not == Aliases::Kept {
        let held = connection
            .prepare_cached("SELECT aliases FROM places WHERE id = ?1")?
            .query_row([id], aliases)
            .optional()?;
        details.aliases = held.unwrap_or_default();
    }
    let changed = connection
        .prepare_cached(
            "UPDATE places SET name = ?2, description = ?3, floor = ?4, xaxis = ?5, yaxis = ?6,
             thumburl = ?7, mapurl = ?8, aliases = ?9 WHERE id = ?1",
        )?
        .execute(params![
            id,
            details.name,
            details.description,
            details.floor,
            details.xaxis,
            details.yaxis,
            details.thumburl,
            details.mapurl,
            stored_aliases(&details.aliases)
        ])
        .map_err(|error| or_conflict(error, || place_name(&details)))?;
    one(changed, || format!("place {id}"))?;
    Ok(Place { id, details })
}

fn normal_place(mut details: PlaceDetails) -> PlaceDetails {
    details.name = stored_name(&details.name);
    for alias in &mut details.aliases {
        *alias = stored_name(alias);
    }
    details
}

fn place_name(details: &PlaceDetails) -> String {
    format!("a place {:?} on floor {}", details.name, details.floor)
}

pub(super) fn insert_happening(
    connection: &Connection,
    details: HappeningDetails,
) -> Result<Happening> {
    let details = normal_happening(details);
    connection
        .prepare_cached(
            "INSERT INTO events
             (name, description, starttime, endtime, place_name, place_floor, thumburl)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            details.name,
            details.description,
            details.starttime.as_microsecond(),
            details.endtime.as_microsecond(),
            details.place_name,
            details.place_floor,
            details.thumburl
        ])
        .map_err(|error| happening_error(error, &details))?;
    Ok(Happening {
        id: connection.last_insert_rowid(),
        details,
    })
}

pub(super) fn update_happening(
    connection: &Connection,
    id: i64,
    details: HappeningDetails,
) -> Result<Happening> {
    let details = normal_happening(details);
    let changed = connection
        .prepare_cached(
            "UPDATE events SET name = ?2, description = ?3, starttime = ?4, endtime = ?5,
             place_name = ?6, place_floor = ?7, thumburl = ?8 WHERE id = ?1",
        )?
        .execute(params![
            id,
            details.name,
            details.description,
            details.starttime.as_microsecond(),
            details.endtime.as_microsecond(),
            details.place_name,
            details.place_floor,
            details.thumburl
        ])
        .map_err(|error| happening_error(error, &details))?;
    one(changed, || format!("event {id}"))?;
    Ok(Happening { id, details })
}

fn normal_happening(mut details: HappeningDetails) -> HappeningDetails {
    details.name = stored_name(&details.name);
    details.place_name = stored_name(&details.place_name);
    details.starttime = rounded(details.starttime);
    details.endtime = rounded(details.endtime);
    details
}

fn happening_error(error: rusqlite::Error, details: &HappeningDetails) -> CatalogError {
    if violates(&error, ffi::SQLITE_CONSTRAINT_FOREIGNKEY) {
        return CatalogError::UnknownPlace {
            name: details.place_name.clone(),
            floor: details.place_floor,
        };
    }
    or_conflict(error, || format!("an event {:?}", details.name))
}

pub(super) fn insert_robot(
    connection: &Connection,
    name: &str,
    floor: i32,
    home: Option<Pose>,
    secret: &Secret,
) -> Result<Robot> {
    let name = stored_name(name);
    let epoch = getrandom::u64()
        .map(Epoch)
        .map_err(|error| CatalogError::Away(format!("no randomness: {error}")))?;
    connection
        .prepare_cached(
            "INSERT INTO robots
             (name, floor, home_x, home_y, home_theta, secret, down_epoch, down_acked, down_next)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1, 1)",
        )?
        .execute(params![
            name,
            floor,
            home.map(|pose| pose.x),
            home.map(|pose| pose.y),
            home.and_then(|pose| pose.theta),
            secret.reveal().as_str(),
            epoch.to_string()
        ])
        .map_err(|error| or_conflict(error, || format!("a robot {name:?}")))?;
    let number = connection.last_insert_rowid();
    let id = u32::try_from(number).ok().and_then(RobotId::new);
    let id = id.ok_or_else(|| CatalogError::Away("every robot number is used up".to_owned()))?;
    Ok(Robot {
        id,
        name,
        floor,
        home,
    })
}

pub(super) fn update_robot(
    connection: &Connection,
    id: RobotId,
    floor: i32,
    home: Option<Pose>,
) -> Result<()> {
    let changed = connection
        .prepare_cached(
            "UPDATE robots SET floor = ?2, home_x = ?3, home_y = ?4, home_theta = ?5 WHERE id = ?1",
        )?
        .execute(params![
            id.number(),
            floor,
            home.map(|pose| pose.x),
            home.map(|pose| pose.y),
            home.and_then(|pose| pose.theta)
        ])?;
    one(changed, || format!("robot {id}"))
}

pub(super) fn update_secret(connection: &Connection, id: RobotId, secret: &Secret) -> Result<()> {
    let changed = connection
        .prepare_cached("UPDATE robots SET secret = ?2 WHERE id = ?1")?
        .execute(params![id.number(), secret.reveal().as_str()])?;
    one(changed, || format!("robot {id}"))
}

pub(super) fn robots(connection: &Connection) -> Result<Vec<Robot>> {
    all(connection, "SELECT * FROM robots ORDER BY id", robot)
}

pub(super) fn places(connection: &Connection) -> Result<Vec<Place>> {
    all(connection, "SELECT * FROM places ORDER BY id", place)
}

pub(super) fn happenings(connection: &Connection) -> Result<Vec<Happening>> {
    all(connection, "SELECT * FROM events ORDER BY id", happening)
}
