//! What robots last said of themselves, as the file keeps it for the next start.

use brrbrr_proto::id::RobotId;
use brrbrr_proto::live::{PerField, Status};
use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};
use tracing::warn;

use super::robot_id;
use crate::live::{Heard, LiveError, Result};
use crate::sqlite::unreadable;

/// Every robot that has said something. What it said only saves waiting for its next word, so a row
/// that cannot be read is left out.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<Vec<(RobotId, Heard)>> {
    let mut ask = connection.prepare("SELECT * FROM heard")?;
    let rows = ask.query_map([], |row| Ok((robot_id(row)?, heard(row))))?;
    let mut found = Vec::new();
    for row in rows {
        match row? {
            (robot, Ok(heard)) => found.push((robot, heard)),
            (robot, Err(error)) => {
                warn!(%robot, %error, "the robot's last status cannot be read");
            }
        }
    }
    Ok(found)
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
    // Only numbers that are finite come here, so all of it can be read again.
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
