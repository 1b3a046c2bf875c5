//! The ledger's side of the catalog file: commands, their transitions and the down streams, within
//! a transaction.

use brrbrr_proto::api;
use brrbrr_proto::id::{CommandId, Cursor, Epoch, RobotId, Seq};
use brrbrr_proto::up::CommandUpdate;
use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{missing_robot, or_conflict, robot_id};
use crate::catalog::{
    CatalogError, CommandState, DownStream, LedgerEntry, NewCommand, Result, Transition,
};
use crate::sqlite::{parsed, position, rounded, stored_position, time, unreadable};

/// Also how every call on a robot's ledger finds out that there is no such robot.
pub(super) fn down_stream(connection: &Connection, robot: RobotId) -> Result<DownStream> {
    connection
        .prepare_cached("SELECT down_epoch, down_acked, down_next FROM robots WHERE id = ?1")?
        .query_row([robot.number()], |row| {
            Ok(DownStream {
                epoch: parsed(row, "down_epoch")?,
                acked: position(row, "down_acked")?,
                next: position(row, "down_next")?,
            })
        })
        .optional()?
        .ok_or_else(|| missing_robot(robot))
}

pub(super) fn submit(connection: &Connection, mut command: NewCommand) -> Result<LedgerEntry> {
    command.deadline = rounded(command.deadline);
    command.submitted = rounded(command.submitted);
    let robot = command.robot;
    let stream = down_stream(connection, robot)?;
    if let Some(key) = &command.idempotency_key {
        let earlier = connection
            .prepare_cached("SELECT * FROM commands WHERE robot = ?1 AND idempotency_key = ?2")?
            .query_row(params![robot.number(), key], entry)
            .optional()?;
        if let Some(earlier) = earlier {
            return Ok(earlier);
        }
    }
    let job = postcard::to_stdvec(&command.order)
        .map_err(|error| CatalogError::Away(format!("the order cannot be encoded: {error}")))?;
    connection
        .prepare_cached(
            "INSERT INTO commands
             (id, robot, epoch, seq, kind, job, deadline, actor, idempotency_key, submitted,
              state, detail)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, 'queued', '')",
        )?
        .execute(params![
            command.id.to_string(),
            robot.number(),
            stream.epoch.to_string(),
            stored_position(stream.next),
            // What people read; `job` is what counts.
            api::kind(&command.order),
            job,
            command.deadline.as_microsecond(),
            command.actor,
            command.idempotency_key,
            command.submitted.as_microsecond()
        ])
        .map_err(|error| or_conflict(error, || format!("a command {}", command.id)))?;
    let number = connection.last_insert_rowid();
    note_step(
        connection,
        number,
        CommandState::Queued,
        command.submitted,
        "",
    )?;
    connection
        .prepare_cached("UPDATE robots SET down_next = ?2 WHERE id = ?1")?
        .execute(params![
            robot.number(),
            stored_position(stream.next.plus(1))
        ])?;
    Ok(LedgerEntry {
        command,
        seq: stream.next,
        state: CommandState::Queued,
        detail: String::new(),
    })
}

pub(super) fn find_command(
    connection: &Connection,
    id: CommandId,
) -> Result<Option<(i64, LedgerEntry)>> {
    let found = connection
        .prepare_cached("SELECT * FROM commands WHERE id = ?1")?
        .query_row([id.to_string()], |row| {
            Ok((row.get("number")?, entry(row)?))
        })
        .optional()?;
    Ok(found)
}

pub(super) fn transitions(connection: &Connection, number: i64) -> Result<Vec<Transition>> {
    let mut ask = connection.prepare_cached(
        "SELECT state, at, detail FROM transitions WHERE command = ?1 ORDER BY number",
    )?;
    let rows = ask.query_map([number], |row| {
        Ok(Transition {
            state: parsed(row, "state")?,
            at: time(row, "at")?,
            detail: row.get("detail")?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn note_step(
    connection: &Connection,
    number: i64,
    state: CommandState,
    at: Timestamp,
    detail: &str,
) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO transitions (command, state, at, detail) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![number, state.name(), at.as_microsecond(), detail])?;
    Ok(())
}

pub(super) fn mark_sent(
    connection: &Connection,
    robot: RobotId,
    from: Seq,
    to: Seq,
    at: Timestamp,
) -> Result<()> {
    let epoch = down_stream(connection, robot)?.epoch.to_string();
    let mut mark = connection.prepare_cached(
        "UPDATE commands SET state = 'sent'
         WHERE robot = ?1 AND epoch = ?2 AND seq >= ?3 AND seq < ?4 AND state = 'queued'
         RETURNING number",
    )?;
    let marked = mark.query_map(
        params![
            robot.number(),
            epoch,
            stored_position(from),
            stored_position(to)
        ],
        |row| row.get(0),
    )?;
    let marked: Vec<i64> = marked.collect::<rusqlite::Result<_>>()?;
    for number in marked {
        note_step(connection, number, CommandState::Sent, at, "")?;
    }
    Ok(())
}

pub(super) fn renew_down_stream(
    connection: &Connection,
    robot: RobotId,
    epoch: Epoch,
) -> Result<DownStream> {
    let old = down_stream(connection, robot)?;
    if old.epoch == epoch {
        // The same call again, after an answer that was lost.
        return Ok(old);
    }
    // What the robot has reported on is on its board, whatever its cursor said.
    let mut ask = connection.prepare_cached(
        "SELECT number FROM commands
         WHERE robot = ?1 AND epoch = ?2 AND seq >= ?3 AND state IN ('queued', 'sent')
         ORDER BY seq",
    )?;
    let waiting = ask.query_map(
        params![
            robot.number(),
            old.epoch.to_string(),
            stored_position(old.acked)
        ],
        |row| row.get(0),
    )?;
    let waiting: Vec<i64> = waiting.collect::<rusqlite::Result<_>>()?;
    let mut next = Seq::FIRST;
    for number in waiting {
        connection
            .prepare_cached("UPDATE commands SET epoch = ?2, seq = ?3 WHERE number = ?1")?
            .execute(params![number, epoch.to_string(), stored_position(next)])?;
        next = next.plus(1);
    }
    connection
        .prepare_cached(
            "UPDATE robots SET down_epoch = ?2, down_acked = 1, down_next = ?3 WHERE id = ?1",
        )?
        .execute(params![
            robot.number(),
            epoch.to_string(),
            stored_position(next)
        ])?;
    Ok(DownStream {
        epoch,
        acked: Seq::FIRST,
        next,
    })
}

pub(super) fn apply(
    connection: &Connection,
    robot: RobotId,
    applied: Cursor,
    updates: Vec<(CommandUpdate, Timestamp)>,
) -> Result<Vec<LedgerEntry>> {
    down_stream(connection, robot)?;
    let mut changed = Vec::new();
    for (update, at) in updates {
        let Some((number, mut entry)) = find_command(connection, update.command)? else {
            continue;
        };
        let state = CommandState::from(update.progress);
        if entry.command.robot != robot || !entry.state.may_become(state) {
            continue;
        }
        connection
            .prepare_cached("UPDATE commands SET state = ?2, detail = ?3 WHERE number = ?1")?
            .execute(params![number, state.name(), update.detail])?;
        note_step(connection, number, state, at, &update.detail)?;
        entry.state = state;
        entry.detail = update.detail;
        changed.push(entry);
    }
    connection
        .prepare_cached(
            "INSERT INTO applied (robot, epoch, next) VALUES (?1, ?2, ?3)
             ON CONFLICT (robot, epoch) DO UPDATE SET next = max(next, excluded.next)",
        )?
        .execute(params![
            robot.number(),
            applied.epoch.to_string(),
            stored_position(applied.next)
        ])?;
    Ok(changed)
}

pub(super) fn entry(row: &Row<'_>) -> rusqlite::Result<LedgerEntry> {
    let order_column = row.as_ref().column_index("job")?;
    let order = postcard::from_bytes(row.get_ref(order_column)?.as_blob()?)
        .map_err(|error| unreadable(order_column, Type::Blob, error))?;
    Ok(LedgerEntry {
        command: NewCommand {
            id: parsed(row, "id")?,
            robot: robot_id(row, "robot")?,
            order,
            deadline: time(row, "deadline")?,
            actor: row.get("actor")?,
            idempotency_key: row.get("idempotency_key")?,
            submitted: time(row, "submitted")?,
        },
        seq: position(row, "seq")?,
        state: parsed(row, "state")?,
        detail: row.get("detail")?,
    })
}
