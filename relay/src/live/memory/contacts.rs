//! Which robots were in contact, as the file keeps it for the next start.

use brrbrr_proto::id::RobotId;
use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::robot_id;
use crate::live::{Cause, Contact, Presence, Result};
use crate::sqlite::unreadable;

/// Counts robots that were in contact as out of it since the last sign of life of the relay that wrote
/// the file. On disk as well, because the next sign of life says nothing of them.
pub(super) fn cut_off(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute(
        "UPDATE contacts SET contact = ?1, cause = ?2, since = cut, last_contact = cut
         FROM (SELECT robot AS whose,
                      max(coalesce(since, 0), coalesce(last_contact, 0),
                          coalesce((SELECT at FROM alive), 0)) AS cut
               FROM contacts)
         WHERE robot = whose AND contact <> ?1",
        [Contact::Offline.name(), Cause::RelayRestarted.name()],
    )?;
    Ok(())
}

/// Every robot that ever was in contact.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<Vec<(RobotId, Presence)>> {
    let mut ask = connection.prepare("SELECT * FROM contacts")?;
    let rows = ask.query_map([], |row| Ok((robot_id(row)?, presence(row)?)))?;
    rows.collect()
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

/// When a relay last wrote that.
pub(super) fn read_alive(connection: &Connection) -> Result<Option<Timestamp>> {
    let at = connection
        .prepare_cached("SELECT at FROM alive")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(at.and_then(|at| Timestamp::from_microsecond(at).ok()))
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
