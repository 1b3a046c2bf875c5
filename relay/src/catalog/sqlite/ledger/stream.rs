//! The down stream of a robot: what goes out together, what was sent, and the stream begun anew.

use brrbrr_proto::down::Order;
use brrbrr_proto::id::{CommandId, Epoch, RobotId, Seq};
use brrbrr_proto::link::COMMANDS_BYTES;
use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::{down_stream, entry, note_step, order};
use crate::catalog::{CommandState, DownStream, LedgerEntry, Result};
use crate::sqlite::{stored_limit, stored_position};

/// Marks what has not ended as offered, and returns all as it stands then. What ended meanwhile was
/// ended by a relay, under the same lock.
pub(in super::super) fn offer(
    connection: &Connection,
    robot: RobotId,
    from: Seq,
    limit: usize,
) -> Result<Vec<LedgerEntry>> {
    let mut entries = frame_from(connection, robot, from, limit)?;
    let mut mark = connection.prepare_cached("UPDATE commands SET offered = 1 WHERE id = ?1")?;
    for entry in &mut entries {
        if !entry.offered && !entry.state.is_final() {
            mark.execute([entry.command.id.to_string()])?;
            entry.offered = true;
        }
    }
    Ok(entries)
}

/// The commands of the down stream's present epoch from a position on that go out together, and
/// which of them must not be started any more.
pub(in super::super) fn frame_from(
    connection: &Connection,
    robot: RobotId,
    from: Seq,
    limit: usize,
) -> Result<Vec<LedgerEntry>> {
    let stream = down_stream(connection, robot)?;
    let mut ask = connection.prepare_cached(
        "SELECT * FROM ledger WHERE robot = ?1 AND epoch = ?2 AND seq >= ?3
         ORDER BY seq LIMIT ?4",
    )?;
    let mut rows = ask.query(params![
        robot.number(),
        stream.epoch.to_string(),
        stored_position(from),
        stored_limit(limit)
    ])?;
    let mut entries = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let job = row.as_ref().column_index("job")?;
        bytes += row.get_ref(job)?.as_blob().map_or(0, <[u8]>::len);
        if bytes > COMMANDS_BYTES && !entries.is_empty() {
            break;
        }
        entries.push(entry(row)?);
    }
    drop(rows);
    mark_outdone(connection, robot, stream, &mut entries)?;
    Ok(entries)
}

/// Finds the motions that something later in the stream stops, replaces or cancels. Where the board
/// gets that in the same frame and in time it knows by itself, and says how they ended. What comes in
/// another frame may come too late, and what was withdrawn it never gets.
fn mark_outdone(
    connection: &Connection,
    robot: RobotId,
    stream: DownStream,
    entries: &mut [LedgerEntry],
) -> Result<()> {
    let is_open = |entry: &LedgerEntry| !entry.state.is_final() && entry.command.order.is_motion();
    let Some(end) = entries.last().and_then(|last| last.seq) else {
        return Ok(());
    };
    if !entries.iter().any(is_open) {
        return Ok(());
    }
    let mut later = Vec::new();
    if end.plus(1) < stream.next {
        let mut ask = connection.prepare_cached(
            "SELECT job FROM commands WHERE robot = ?1 AND epoch = ?2 AND seq > ?3
               AND kind IN ('stop', 'go-to', 'dock', 'cancel')",
        )?;
        let behind = ask.query_map(
            params![
                robot.number(),
                stream.epoch.to_string(),
                stored_position(end)
            ],
            order,
        )?;
        later = behind.collect::<rusqlite::Result<_>>()?;
    }
    for entry in entries.iter_mut().rev() {
        let command = &entry.command;
        entry.outdone = is_open(entry) && later.iter().any(|order| outdoes(order, command.id));
        if entry.is_withdrawn() {
            later.push(command.order.clone());
        }
    }
    Ok(())
}

/// Whether a later order means that an earlier motion must not be started.
fn outdoes(order: &Order, motion: CommandId) -> bool {
    match order {
        Order::Stop | Order::GoTo(_) | Order::Dock => true,
        Order::Cancel(target) => *target == motion,
        Order::Pause | Order::Resume | Order::Say(_) | Order::Custom(_) | Order::Withdrawn => false,
    }
}

pub(in super::super) fn mark_sent(
    connection: &Connection,
    robot: RobotId,
    epoch: Epoch,
    from: Seq,
    to: Seq,
    at: Timestamp,
) -> Result<()> {
    if down_stream(connection, robot)?.epoch != epoch {
        // The positions have been given to others since.
        return Ok(());
    }
    let mut mark = connection.prepare_cached(
        "UPDATE commands SET state = 'sent', offered = 1
         WHERE robot = ?1 AND epoch = ?2 AND seq >= ?3 AND seq < ?4 AND state = 'queued'
         RETURNING number",
    )?;
    let marked = mark.query_map(
        params![
            robot.number(),
            epoch.to_string(),
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

pub(in super::super) fn renew_down_stream(
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
