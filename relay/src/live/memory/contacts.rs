//! Which robots were in contact, as the file keeps it for the next start.

use brrbrr_proto::id::RobotId;
use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::robot_id;
use crate::live::{Cause, Contact, Presence, Result};
use crate::sqlite::unreadable;

/// Robots as they are at the start: those that were in contact have not been since the last sign of
/// life of the relay that wrote the file.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<Vec<(RobotId, Presence)>> {
    let alive_at: Option<i64> = connection
        .query_row("SELECT at FROM alive", [], |row| row.get(0))
        .optional()?;
    let alive_at = alive_at.and_then(|at| Timestamp::from_microsecond(at).ok());
    let mut ask = connection.prepare("SELECT * FROM contacts")?;
    let rows = ask.query_map([], |row| {
        Ok((robot_id(row)?, after_restart(presence(row)?, alive_at)))
    })?;
    rows.collect()
}

fn after_restart(before: Presence, alive_at: Option<Timestamp>) -> Presence {
    match before.contact {
        Contact::Online | Contact::Degraded => {
            let last = before.last_contact.max(alive_at);
            Presence {
                contact: Contact::Offline,
                since: before.since.max(last),
                last_contact: last,
                cause: Some(Cause::RelayRestarted),
            }
        }
        Contact::Offline => before,
    }
}

/// Writes changes.
pub(super) fn write(connection: &Connection, changes: &[(RobotId, Presence)]) -> Result<()> {
    let mut put = connection.prepare_cached(
        "INSERT OR REPLACE INTO contacts (robot, contact, since, last_contact, cause)
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for (robot, presence) in changes {
        put.execute(params![
            robot.number(),
            presence.contact.name(),
            presence.since.map(Timestamp::as_microsecond),
            presence.last_contact.map(Timestamp::as_microsecond),
            presence.cause.map(Cause::name),
        ])?;
    }
    Ok(())
}

/// Writes that the relay is alive.
pub(super) fn write_alive(connection: &Connection, at: Timestamp) -> Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO alive (only, at) VALUES (1, ?1)")?
        .execute([at.as_microsecond()])?;
    Ok(())
}

fn presence(row: &Row<'_>) -> rusqlite::Result<Presence> {
    let column = |name| row.as_ref().column_index(name);
    let name: String = row.get("contact")?;
    let contact = Contact::ALL.into_iter().find(|c| c.name() == name);
    let contact = contact.ok_or(unreadable(column("contact")?, Type::Text, Unknown(name)))?;
    let cause = match row.get::<_, Option<String>>("cause")? {
        Some(name) => {
            let cause = Cause::ALL.into_iter().find(|c| c.name() == name);
            Some(cause.ok_or(unreadable(column("cause")?, Type::Text, Unknown(name)))?)
        }
        None => None,
    };
    let time = |name| -> rusqlite::Result<Option<Timestamp>> {
        let at: Option<i64> = row.get(name)?;
        Ok(at.and_then(|at| Timestamp::from_microsecond(at).ok()))
    };
    Ok(Presence {
        contact,
        since: time("since")?,
        last_contact: time("last_contact")?,
        cause,
    })
}

/// A text is none of the words that this table has.
#[derive(Debug, thiserror::Error)]
#[error("not a word of contact: {0:?}")]
struct Unknown(String);
