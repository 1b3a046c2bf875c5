//! The ledger's side of the catalog file: commands, their transitions and the down streams, within
//! a transaction.

mod stream;

use brrbrr_proto::api;
use brrbrr_proto::down::Order;
use brrbrr_proto::id::{CommandId, Cursor, RobotId};
use brrbrr_proto::up::{CommandUpdate, Progressed};
use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{missing_command, missing_robot, or_conflict, robot_id};
use crate::catalog::command::{NEVER_SENT, WITHDRAWN, is_same_wish};
use crate::catalog::{
    Advance, Cancellation, CatalogError, Change, CommandState, DownStream, LedgerEntry,
    LedgerUpdate, NewCommand, Page, Result, Submitted, Transition,
};
use crate::sqlite::{parsed, position, rounded, stored_limit, stored_position, time, unreadable};

pub(super) use stream::{frame_from, mark_sent, offer, renew_down_stream};

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

pub(super) fn submit(
    connection: &Connection,
    mut command: NewCommand,
    offered: bool,
) -> Result<Submitted> {
    let robot = command.robot;
    let stream = down_stream(connection, robot)?;
    if let Some(key) = &command.idempotency_key
        && let Some(earlier) = with_key(connection, robot, key)?
    {
        return if is_same_wish(&earlier.command.order, &command.order) {
            let ended = Vec::new();
            Ok(Submitted {
                entry: earlier,
                ended,
            })
        } else {
            let what = "another command with this idempotency key".to_owned();
            Err(CatalogError::Conflict(what))
        };
    }
    let ended = end_waiting(connection, &command)?;
    if let Some(room) = command.room()
        && unfinished(connection, robot, room)? >= room
    {
        return Err(CatalogError::Full(robot));
    }
    insert(connection, &mut command, Some(stream), offered)?;
    connection
        .prepare_cached("UPDATE robots SET down_next = ?2 WHERE id = ?1")?
        .execute(params![
            robot.number(),
            stored_position(stream.next.plus(1))
        ])?;
    let entry = LedgerEntry {
        command,
        seq: Some(stream.next),
        state: CommandState::Queued,
        detail: String::new(),
        offered,
        progress: None,
        cancelling: false,
        outdone: false,
    };
    Ok(Submitted { entry, ended })
}

/// Ends the motions that the command replaces or stops before any board has seen them. They could
/// outlive it, and start when it is over.
fn end_waiting(connection: &Connection, command: &NewCommand) -> Result<Vec<LedgerEntry>> {
    let Some((state, detail)) = command.ends_waiting() else {
        return Ok(Vec::new());
    };
    let mut ask = connection.prepare_cached(
        "SELECT * FROM ledger
         WHERE robot = ?1 AND state IN ('queued', 'sent', 'received', 'running')
           AND state = 'queued' AND offered = 0
         ORDER BY number",
    )?;
    let waiting = ask.query_map([command.robot.number()], |row| {
        Ok((row.get("number")?, entry(row)?))
    })?;
    let waiting: Vec<(i64, LedgerEntry)> = waiting.collect::<rusqlite::Result<_>>()?;
    let at = rounded(command.submitted);
    let mut ended = Vec::new();
    for (number, mut entry) in waiting {
        if entry.command.order.is_motion() {
            set_state(connection, number, &mut entry, state, detail, at)?;
            ended.push(entry);
        }
    }
    Ok(ended)
}

/// Enters a command as queued: at the end of a down stream, or outside where it was given on the
/// board.
fn insert(
    connection: &Connection,
    command: &mut NewCommand,
    stream: Option<DownStream>,
    offered: bool,
) -> Result<i64> {
    command.deadline = rounded(command.deadline);
    command.submitted = rounded(command.submitted);
    let job = postcard::to_stdvec(&command.order)
        .map_err(|error| CatalogError::Away(format!("the order cannot be encoded: {error}")))?;
    let target = match &command.order {
        Order::Cancel(target) => Some(target.to_string()),
        Order::GoTo(_)
        | Order::Stop
        | Order::Pause
        | Order::Resume
        | Order::Dock
        | Order::Say(_)
        | Order::Custom(_)
        | Order::Withdrawn => None,
    };
    connection
        .prepare_cached(
            "INSERT INTO commands
             (id, robot, epoch, seq, kind, job, target, deadline, actor, idempotency_key,
              submitted, offered, state, detail)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, 'queued', '')",
        )?
        .execute(params![
            command.id.to_string(),
            command.robot.number(),
            stream.map(|stream| stream.epoch.to_string()),
            stream.map(|stream| stored_position(stream.next)),
            // What people read; `job` is what counts.
            api::kind(&command.order),
            job,
            target,
            command.deadline.as_microsecond(),
            command.actor,
            command.idempotency_key,
            command.submitted.as_microsecond(),
            offered
        ])
        .map_err(|error| or_conflict(error, || format!("a command {}", command.id)))?;
    let number = connection.last_insert_rowid();
    let queued = CommandState::Queued;
    note_step(connection, number, queued, command.submitted, "")?;
    Ok(number)
}

pub(super) fn with_key(
    connection: &Connection,
    robot: RobotId,
    key: &str,
) -> Result<Option<LedgerEntry>> {
    Ok(connection
        .prepare_cached("SELECT * FROM ledger WHERE robot = ?1 AND idempotency_key = ?2")?
        .query_row(params![robot.number(), key], entry)
        .optional()?)
}

/// How many of the robot's commands are unfinished, counted up to `most`.
fn unfinished(connection: &Connection, robot: RobotId, most: usize) -> Result<usize> {
    let count: i64 = connection
        .prepare_cached(
            "SELECT count(*) FROM (
                 SELECT 1 FROM commands
                 WHERE robot = ?1 AND state IN ('queued', 'sent', 'received', 'running')
                 LIMIT ?2)",
        )?
        .query_row(params![robot.number(), stored_limit(most)], |row| {
            row.get(0)
        })?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

pub(super) fn find_command(
    connection: &Connection,
    id: CommandId,
) -> Result<Option<(i64, LedgerEntry)>> {
    let found = connection
        .prepare_cached("SELECT * FROM ledger WHERE id = ?1")?
        .query_row([id.to_string()], |row| {
            Ok((row.get("number")?, entry(row)?))
        })
        .optional()?;
    Ok(found)
}

pub(super) fn commands(
    connection: &Connection,
    robot: RobotId,
    page: &Page,
) -> Result<Vec<LedgerEntry>> {
    down_stream(connection, robot)?;
    let before = match page.after {
        None => i64::MAX,
        Some(id) => {
            let found = find_command(connection, id)?;
            let own = found.filter(|(_, entry)| entry.command.robot == robot);
            let (number, _) = own.ok_or_else(|| missing_command(id))?;
            number
        }
    };
    let names: Vec<_> = page.states.iter().map(|state| state.name()).collect();
    let mut is_final = page.states.iter().map(|state| state.is_final());
    let ask = if names.is_empty() || is_final.any(|is_final| is_final) {
        "SELECT * FROM ledger
         WHERE robot = ?1 AND number < ?2 AND (?3 = '' OR instr(' ' || ?3 || ' ', ' ' || state || ' '))
         ORDER BY number DESC LIMIT ?4"
    } else {
        // An index knows the few that are unfinished.
        "SELECT * FROM ledger
         WHERE robot = ?1 AND number < ?2 AND instr(' ' || ?3 || ' ', ' ' || state || ' ')
           AND state IN ('queued', 'sent', 'received', 'running')
         ORDER BY number DESC LIMIT ?4"
    };
    let mut ask = connection.prepare_cached(ask)?;
    let limit = stored_limit(page.limit);
    let rows = ask.query_map(
        params![robot.number(), before, names.join(" "), limit],
        entry,
    )?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn cancel(
    connection: &Connection,
    id: CommandId,
    cancel: NewCommand,
    offered: bool,
) -> Result<Cancellation> {
    let found = find_command(connection, id)?;
    let (number, mut entry) = found.ok_or_else(|| missing_command(id))?;
    if entry.state.is_final() {
        return Ok(Cancellation::Over(entry));
    }
    if !entry.offered {
        let at = rounded(cancel.submitted);
        end(connection, number, &mut entry, CommandState::Cancelled, at)?;
        return Ok(Cancellation::Ended(entry));
    }
    if entry.cancelling {
        return Ok(Cancellation::UnderWay(entry));
    }
    let cancel = NewCommand {
        robot: entry.command.robot,
        order: Order::Cancel(id),
        ..cancel
    };
    let entered = submit(connection, cancel, offered)?.entry;
    entry.cancelling = true;
    Ok(Cancellation::Entered(entry, entered.command.id))
}

pub(super) fn expire(
    connection: &Connection,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<LedgerEntry>> {
    let mut ask = connection.prepare_cached(
        "SELECT * FROM ledger WHERE offered = 0 AND state = 'queued' AND deadline <= ?1
         ORDER BY deadline LIMIT ?2",
    )?;
    let due = ask.query_map(params![now.as_microsecond(), stored_limit(limit)], |row| {
        Ok((row.get("number")?, entry(row)?))
    })?;
    let due: Vec<(i64, LedgerEntry)> = due.collect::<rusqlite::Result<_>>()?;
    let mut ended = Vec::with_capacity(due.len());
    for (number, mut entry) in due {
        end(
            connection,
            number,
            &mut entry,
            CommandState::Expired,
            rounded(now),
        )?;
        ended.push(entry);
    }
    Ok(ended)
}

/// What was given on a board has no position, and its time is what the board says.
pub(super) fn newest_submission(connection: &Connection) -> Result<Option<Timestamp>> {
    Ok(connection
        .prepare_cached(
            "SELECT submitted FROM commands WHERE seq IS NOT NULL ORDER BY number DESC LIMIT 1",
        )?
        .query_row([], |row| time(row, "submitted"))
        .optional()?)
}

pub(super) fn next_expiry(connection: &Connection) -> Result<Option<Timestamp>> {
    Ok(connection
        .prepare_cached(
            "SELECT deadline FROM commands WHERE offered = 0 AND state = 'queued'
             ORDER BY deadline LIMIT 1",
        )?
        .query_row([], |row| time(row, "deadline"))
        .optional()?)
}

/// Ends a command that was never offered. The transaction has the write lock, so it still was not.
fn end(
    connection: &Connection,
    number: i64,
    entry: &mut LedgerEntry,
    state: CommandState,
    at: Timestamp,
) -> Result<()> {
    let detail = if state == CommandState::Expired {
        NEVER_SENT
    } else {
        WITHDRAWN
    };
    set_state(connection, number, entry, state, detail, at)
}

fn set_state(
    connection: &Connection,
    number: i64,
    entry: &mut LedgerEntry,
    state: CommandState,
    detail: &str,
    at: Timestamp,
) -> Result<()> {
    connection
        .prepare_cached(
            "UPDATE commands SET state = ?2, detail = ?3, offered = ?4 WHERE number = ?1",
        )?
        .execute(params![number, state.name(), detail, entry.offered])?;
    note_step(connection, number, state, at, detail)?;
    entry.state = state;
    detail.clone_into(&mut entry.detail);
    entry.cancelling &= !state.is_final();
    Ok(())
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

pub(super) fn apply(
    connection: &Connection,
    robot: RobotId,
    applied: Cursor,
    updates: Vec<(LedgerUpdate, Timestamp)>,
) -> Result<Vec<(Change, LedgerEntry)>> {
    down_stream(connection, robot)?;
    let mut changed = Vec::new();
    for (update, at) in updates {
        let at = rounded(at);
        let change = match update {
            LedgerUpdate::Ordered(command) => enter(connection, robot, command)?,
            LedgerUpdate::Step(update) => step(connection, robot, &update, at)?,
            LedgerUpdate::Progressed(progressed) => advance(connection, robot, progressed, at)?,
        };
        changed.extend(change);
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

/// Enters a command that was given on the board.
fn enter(
    connection: &Connection,
    robot: RobotId,
    mut command: NewCommand,
) -> Result<Option<(Change, LedgerEntry)>> {
    if command.robot != robot || find_command(connection, command.id)?.is_some() {
        return Ok(None);
    }
    if let Some(key) = &command.idempotency_key
        && with_key(connection, robot, key)?.is_some()
    {
        // The board did not know the relay's command, so both are there.
        command.idempotency_key = None;
    }
    insert(connection, &mut command, None, true)?;
    let entry = LedgerEntry {
        command,
        seq: None,
        state: CommandState::Queued,
        detail: String::new(),
        offered: true,
        progress: None,
        cancelling: false,
        outdone: false,
    };
    Ok(Some((Change::Entered, entry)))
}

fn step(
    connection: &Connection,
    robot: RobotId,
    update: &CommandUpdate,
    at: Timestamp,
) -> Result<Option<(Change, LedgerEntry)>> {
    let Some((number, mut entry)) = own_command(connection, robot, update.command)? else {
        return Ok(None);
    };
    let state = CommandState::from(update.progress);
    if !entry.state.may_become(state) {
        return Ok(None);
    }
    entry.offered = true;
    set_state(connection, number, &mut entry, state, &update.detail, at)?;
    Ok(Some((Change::Step, entry)))
}

fn advance(
    connection: &Connection,
    robot: RobotId,
    progressed: Progressed,
    at: Timestamp,
) -> Result<Option<(Change, LedgerEntry)>> {
    let Some((number, mut entry)) = own_command(connection, robot, progressed.command)? else {
        return Ok(None);
    };
    if entry.state.is_final() {
        return Ok(None);
    }
    let advance = Advance {
        percent: progressed.percent.min(100),
        text: progressed.text,
        at,
    };
    connection
        .prepare_cached(
            "UPDATE commands SET percent = ?2, progress = ?3, progressed = ?4 WHERE number = ?1",
        )?
        .execute(params![
            number,
            advance.percent,
            advance.text,
            at.as_microsecond()
        ])?;
    entry.progress = Some(advance);
    Ok(Some((Change::Progress, entry)))
}

fn own_command(
    connection: &Connection,
    robot: RobotId,
    id: CommandId,
) -> Result<Option<(i64, LedgerEntry)>> {
    let found = find_command(connection, id)?;
    Ok(found.filter(|(_, entry)| entry.command.robot == robot))
}

fn order(row: &Row<'_>) -> rusqlite::Result<Order> {
    let column = row.as_ref().column_index("job")?;
    postcard::from_bytes(row.get_ref(column)?.as_blob()?)
        .map_err(|error| unreadable(column, Type::Blob, error))
}

/// Reads a row of the view `ledger`.
fn entry(row: &Row<'_>) -> rusqlite::Result<LedgerEntry> {
    let order = order(row)?;
    let state: CommandState = parsed(row, "state")?;
    let cancelling: bool = row.get("cancelling")?;
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
        seq: match row.get("seq")? {
            None::<i64> => None,
            Some(_) => Some(position(row, "seq")?),
        },
        state,
        detail: row.get("detail")?,
        offered: row.get("offered")?,
        progress: match row.get("percent")? {
            None => None,
            Some(percent) => Some(Advance {
                percent,
                text: row.get("progress")?,
                at: time(row, "progressed")?,
            }),
        },
        cancelling: cancelling && !state.is_final(),
        outdone: false,
    })
}
