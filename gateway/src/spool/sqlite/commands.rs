//! The commands in the spool's database.

use brrbrr_proto::down::Order;
use brrbrr_proto::id::CommandId;
use brrbrr_proto::up::Progress;
use rusqlite::{Connection, OptionalExtension as _, Row, ToSql, params};

use super::super::format::{self, CommandRow, CommandStep, EncodedCommand};
use super::super::{ENDED_COMMANDS_KEPT, KeptCommand, Result, StoredCommand};
use super::{Database, Fault, Outcome, unsigned};

/// The columns of a query that [`command_row`] reads.
const SELECT: &str = "SELECT place, id, motion, ended, key, content, step, sum FROM command";

impl Database {
    /// Up to `limit` commands, newest first: those that came before `after`, and in this state.
    pub(in super::super) fn commands(
        &self,
        limit: usize,
        after: Option<CommandId>,
        state: Option<Progress>,
    ) -> Result<Vec<KeptCommand>> {
        let found = newest(&self.connection, limit, after, state);
        found.map_err(|fault| fault.into_error("read", &self.path))
    }

    /// One command, if it is known.
    pub(in super::super) fn command(&self, id: CommandId) -> Result<Option<KeptCommand>> {
        let found = by_id(&self.connection, id);
        found.map_err(|fault| fault.into_error("read", &self.path))
    }
}

/// The commands that have not ended, in the order of their arrival.
pub(super) fn unfinished(connection: &Connection) -> Outcome<Vec<StoredCommand>> {
    let rest = "WHERE ended = 0 ORDER BY place";
    let kept = select(connection, rest, &[], |_| true, usize::MAX)?;
    Ok(kept.into_iter().map(|kept| kept.stored).collect())
}

/// The newest motion, ended or not.
pub(super) fn last_motion(connection: &Connection) -> Outcome<Option<StoredCommand>> {
    let rest = "WHERE motion = 1 ORDER BY place DESC LIMIT 1";
    let kept = select(connection, rest, &[], |_| true, 1)?.pop();
    Ok(kept.map(|kept| kept.stored))
}

/// The command with this key, if one is kept.
pub(super) fn by_key(connection: &Connection, key: &str) -> Outcome<Option<KeptCommand>> {
    let key = key.as_bytes();
    let kept = select(connection, "WHERE key = ?1", &[&key], |_| true, 1)?;
    with_cancels(connection, kept).map(|mut kept| kept.pop())
}

pub(super) fn by_id(connection: &Connection, id: CommandId) -> Outcome<Option<KeptCommand>> {
    let id = id.0.to_be_bytes();
    let kept = select(connection, "WHERE id = ?1", &[&id], |_| true, 1)?;
    with_cancels(connection, kept).map(|mut kept| kept.pop())
}

fn newest(
    connection: &Connection,
    limit: usize,
    after: Option<CommandId>,
    state: Option<Progress>,
) -> Outcome<Vec<KeptCommand>> {
    let is_wanted = |kept: &KeptCommand| state.is_none_or(|state| kept.stored.progress == state);
    let kept = match after {
        None => select(connection, "ORDER BY place DESC", &[], is_wanted, limit)?,
        Some(after) => {
            let rest = "WHERE place < (SELECT place FROM command WHERE id = ?1)
                        ORDER BY place DESC";
            let after = after.0.to_be_bytes();
            select(connection, rest, &[&after], is_wanted, limit)?
        }
    };
    with_cancels(connection, kept)
}

/// Marks the commands that an unfinished cancellation is for.
fn with_cancels(connection: &Connection, mut kept: Vec<KeptCommand>) -> Outcome<Vec<KeptCommand>> {
    if kept.iter().any(|kept| !kept.stored.progress.is_final()) {
        for waiting in unfinished(connection)? {
            let Order::Cancel(target) = waiting.command.order else {
                continue;
            };
            for kept in kept.iter_mut().filter(|kept| kept.id() == target) {
                kept.cancelling = !kept.stored.progress.is_final();
            }
        }
    }
    Ok(kept)
}

fn select(
    connection: &Connection,
    rest: &str,
    values: &[&dyn ToSql],
    is_wanted: impl Fn(&KeptCommand) -> bool,
    limit: usize,
) -> Outcome<Vec<KeptCommand>> {
    let mut statement = connection.prepare_cached(&format!("{SELECT} {rest}"))?;
    let mut rows = statement.query(values)?;
    let mut found = Vec::new();
    while found.len() < limit {
        let Some(row) = rows.next()? else { break };
        let command = kept(&command_row(row)?)?;
        if is_wanted(&command) {
            found.push(command);
        }
    }
    Ok(found)
}

fn kept(row: &CommandRow<'_>) -> Outcome<KeptCommand> {
    let damage = |reason: postcard::Error| {
        Fault::Corrupt(format!("row {} of table command: {reason}", row.place))
    };
    let told = format::decode_told(row.step).map_err(damage)?;
    Ok(KeptCommand {
        stored: format::decode_command(row.content, &told).map_err(damage)?,
        history: told.history,
        reached: told.reached,
        cancelling: false,
    })
}

/// Takes a step of a command. One that is not known takes none.
pub(super) fn change(connection: &Connection, step: &CommandStep) -> Outcome<()> {
    let mut statement = connection.prepare_cached(&format!("{SELECT} WHERE id = ?1"))?;
    let mut rows = statement.query([step.id.0.to_be_bytes()])?;
    let Some(row) = rows.next()? else {
        return Ok(());
    };
    let row = command_row(row)?;
    let mut told = format::decode_told(row.step)?;
    told.take(step);
    let encoded = told.encode()?;
    let changed = CommandRow {
        ended: u64::from(told.progress.is_final()),
        step: &encoded,
        ..row
    };
    let changed = changed.sealed();
    let sql = "UPDATE command SET ended = ?2, step = ?3, sum = ?4 WHERE place = ?1";
    connection.prepare_cached(sql)?.execute(params![
        changed.place.cast_signed(),
        changed.ended.cast_signed(),
        changed.step,
        changed.sum.cast_signed()
    ])?;
    Ok(())
}

/// Stores a command and lets go of those that ended long ago. Says whether it is new.
pub(super) fn insert(connection: &Connection, command: &EncodedCommand) -> Outcome<bool> {
    let sql = "SELECT 1 FROM command WHERE id = ?1";
    let known: Option<i64> = connection
        .prepare_cached(sql)?
        .query_row([command.id.0.to_be_bytes()], |row| row.get(0))
        .optional()?;
    if known.is_some() {
        return Ok(false);
    }
    let sql = "SELECT max(place) FROM command";
    let last: Option<i64> = connection
        .prepare_cached(sql)?
        .query_row([], |row| row.get(0))?;
    let place = last.unwrap_or(0).saturating_add(1);
    let row = CommandRow {
        place: place.cast_unsigned(),
        id: &command.id.0.to_be_bytes(),
        motion: u64::from(command.motion),
        ended: u64::from(command.ended),
        key: command.key.as_deref().map(str::as_bytes),
        content: &command.content,
        step: &command.step,
        sum: 0,
    };
    let row = row.sealed();
    let sql = "INSERT INTO command (place, id, motion, ended, key, content, step, sum)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    connection.prepare_cached(sql)?.execute(params![
        place,
        row.id,
        row.motion.cast_signed(),
        row.ended.cast_signed(),
        row.key,
        row.content,
        row.step,
        row.sum.cast_signed()
    ])?;
    let sql = "DELETE FROM command WHERE place <= ?1 AND ended = 1";
    connection
        .prepare_cached(sql)?
        .execute([place - i64::from(ENDED_COMMANDS_KEPT)])?;
    Ok(true)
}

/// The row that a query with the columns of `command` has come to, compared with its sum.
fn command_row<'a>(row: &'a Row<'_>) -> Outcome<CommandRow<'a>> {
    let damage = |_| Fault::Corrupt("a command that is no blob".to_owned());
    let blob = |column| row.get_ref(column)?.as_blob().map_err(damage);
    let command = CommandRow {
        place: unsigned(row, 0)?,
        id: blob(1)?,
        motion: unsigned(row, 2)?,
        ended: unsigned(row, 3)?,
        key: row.get_ref(4)?.as_blob_or_null().map_err(damage)?,
        content: blob(5)?,
        step: blob(6)?,
        sum: unsigned(row, 7)?,
    };
    if command.is_intact() {
        Ok(command)
    } else {
        let what = format!(
            "row {} of table command is not as it was written",
            command.place
        );
        Err(Fault::Corrupt(what))
    }
}
