//! What robots last said of themselves, as the file keeps it for the next start.

use brrbrr_proto::id::RobotId;
use brrbrr_proto::live::{PerField, Status};
use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};

use super::robot_id;
use crate::live::{Heard, LiveError, Result};
use crate::sqlite::unreadable;

/// Every robot that has said something.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<Vec<(RobotId, Heard)>> {
    let mut ask = connection.prepare("SELECT * FROM heard")?;
    let rows = ask.query_map([], |row| Ok((robot_id(row)?, heard(row)?)))?;
    rows.collect()
}

/// Writes what these robots said, and gives it back.
pub(super) fn write(
    connection: &Connection,
    heard: Vec<(RobotId, Heard)>,
) -> Result<Vec<(RobotId, Heard)>> {
    let mut put = connection
        .prepare_cached("INSERT OR REPLACE INTO heard (robot, status, said) VALUES (?1, ?2, ?3)")?;
    for (robot, Heard { status, said }) in &heard {
        put.execute(params![robot.number(), text(status)?, text(said)?])?;
    }
    Ok(heard)
}

fn text(what: &impl serde::Serialize) -> Result<String> {
    // A status that is no JSON does not exist, since numbers that are none are null.
    serde_json::to_string(what).map_err(|error| LiveError::Away(error.to_string()))
}

fn heard(row: &Row<'_>) -> rusqlite::Result<Heard> {
    let column = |name: &str| -> rusqlite::Result<(usize, String)> {
        Ok((row.as_ref().column_index(name)?, row.get(name)?))
    };
    let (at, status) = column("status")?;
    let status: Status =
        serde_json::from_str(&status).map_err(|error| unreadable(at, Type::Text, error))?;
    let (at, said) = column("said")?;
    let said: PerField<Timestamp> =
        serde_json::from_str(&said).map_err(|error| unreadable(at, Type::Text, error))?;
    Ok(Heard { status, said })
}
