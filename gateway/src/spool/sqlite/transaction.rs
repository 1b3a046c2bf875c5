//! What a transaction on the spool's database can do.

use std::path::Path;

use brrbrr_proto::id::{Cursor, Epoch, Seq};
use brrbrr_proto::live::Status;
use rusqlite::{Connection, params};

use super::super::format::{
    self, CommandRow, EncodedCommand, EncodedEntry, EncodedRecord, RecordRow,
};
use super::super::{
    Appended, CommandChange, ENDED_COMMANDS_KEPT, Result, SOURCES_KEPT, SourceId, SpoolState,
    StoredCommands, Written,
};
use super::{
    Head, Outcome, RowNumber, command_row, first_row, read_state, write_identity, write_stream,
};

/// How many positions one transaction deletes at most, so that a large release does not keep
/// appends waiting.
const RELEASE_STEP: u64 = 4096;

/// A transaction that is under way. Its head becomes the database's when it is on the disk.
#[derive(Debug)]
pub(in super::super) struct Transaction<'a> {
    pub(super) connection: &'a Connection,
    pub(super) path: &'a Path,
    pub(super) head: Head,
}

impl<'a> Transaction<'a> {
    pub(super) const fn new(connection: &'a Connection, path: &'a Path, head: Head) -> Self {
        Self {
            connection,
            path,
            head,
        }
    }

    pub(super) fn into_head(self) -> Head {
        self.head
    }

    pub(in super::super) fn write(&mut self, entry: &EncodedEntry) -> Result<Written> {
        let written = self.write_entry(entry);
        written.map_err(|fault| fault.into_error("write to", self.path))
    }

    pub(in super::super) fn write_all(&mut self, entries: &[EncodedEntry]) -> Result<Appended> {
        let first = self.head.position(self.head.next);
        for entry in entries {
            self.write(entry)?;
        }
        let next = self.head.position(self.head.next);
        let epoch = self.head.stream.epoch;
        Ok(Appended { epoch, first, next })
    }

    pub(in super::super) fn store_commands(
        &mut self,
        cursor: Cursor,
        commands: &[EncodedCommand],
    ) -> Result<StoredCommands> {
        let stored = self.store_fresh_commands(cursor, commands);
        stored.map_err(|fault| fault.into_error("write to", self.path))
    }

    /// Deletes what lies wholly before `next`, one step of it.
    pub(in super::super) fn release(&mut self, next: Seq) -> Result<()> {
        let released = self.release_step(self.head.row(next));
        released.map_err(|fault| fault.into_error("write to", self.path))
    }

    /// Deletes all that lies wholly before `next`, however much it is.
    pub(in super::super) fn release_all(&mut self, next: Seq) -> Result<()> {
        while self.head.holds_before(self.head.row(next)) {
            self.release(next)?;
        }
        Ok(())
    }

    pub(in super::super) fn store_status(&mut self, status: &Status) -> Result<()> {
        self.head.stream.status = Some(postcard::to_stdvec(status)?);
        let written = self.write_stream();
        written.map_err(|fault| fault.into_error("write to", self.path))
    }

    pub(in super::super) fn renew_epoch(&mut self, epoch: Epoch) -> Result<SpoolState> {
        self.head.stream.epoch = epoch;
        self.head.stream.shift = self.head.first.0.saturating_sub(Seq::FIRST.0);
        self.write_stream()
            .and_then(|()| {
                Ok(write_identity(
                    self.connection,
                    self.head.stream.identity(),
                )?)
            })
            .and_then(|()| read_state(self.connection, &self.head))
            .map_err(|fault| fault.into_error("write to", self.path))
    }

    fn write_entry(&mut self, entry: &EncodedEntry) -> Outcome<Written> {
        // A step of commands is taken all the same: whoever decided on it has looked the source up,
        // and what is in memory must not part from what is here.
        if let Some(source) = &entry.source
            && !self.remember(source)?
            && entry.changes.is_empty()
        {
            let appended = self.append(&[])?;
            let duplicate = true;
            return Ok(Written {
                appended,
                duplicate,
            });
        }
        for change in &entry.changes {
            self.change_command(*change)?;
        }
        let appended = self.append(&entry.records)?;
        let duplicate = false;
        Ok(Written {
            appended,
            duplicate,
        })
    }

    fn append(&mut self, records: &[EncodedRecord]) -> Outcome<Appended> {
        let begin = self.head.next;
        let sql = "INSERT INTO record (seq, class, covers, sum, bytes) VALUES (?1, ?2, ?3, ?4, ?5)";
        let mut statement = self.connection.prepare_cached(sql)?;
        for record in records {
            let row = RecordRow::sealed(self.head.next.0, record);
            statement.execute(params![
                row.row.cast_signed(),
                row.class.cast_signed(),
                row.covers.cast_signed(),
                row.sum.cast_signed(),
                row.bytes
            ])?;
            let end = RowNumber(row.end());
            if self.head.first == self.head.next {
                self.head.first_end = end;
            }
            self.head.next = end;
        }
        Ok(Appended {
            epoch: self.head.stream.epoch,
            first: self.head.position(begin),
            next: self.head.position(self.head.next),
        })
    }

    /// Says whether the source is new.
    fn remember(&self, source: &SourceId) -> Outcome<bool> {
        let places = source.places();
        let sql = "INSERT INTO source (place, name) VALUES (coalesce(
                       (SELECT place FROM source WHERE place >= ?2 AND place < ?3
                        ORDER BY place DESC LIMIT 1), ?2) + 1, ?1)
                   ON CONFLICT (name) DO NOTHING";
        let mut statement = self.connection.prepare_cached(sql)?;
        let new = statement.execute(params![source.0, places.start, places.end])? == 1;
        if new {
            let last = self.connection.last_insert_rowid();
            let sql = "DELETE FROM source WHERE place >= ?1 AND place <= ?2";
            let mut statement = self.connection.prepare_cached(sql)?;
            statement.execute([places.start, last - i64::from(SOURCES_KEPT)])?;
        }
        Ok(new)
    }

    fn change_command(&self, change: CommandChange) -> Outcome<()> {
        let CommandChange {
            id,
            progress,
            hand_over,
        } = change;
        let step = format::encode_step(progress, hand_over)?;
        let sql = "SELECT place, id, motion, ended, content, step, sum FROM command WHERE id = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query([id.0.to_be_bytes()])?;
        let Some(row) = rows.next()? else {
            return Ok(());
        };
        let changed = CommandRow {
            ended: u64::from(progress.is_final()),
            step: &step,
            ..command_row(row)?
        };
        let changed = changed.sealed();
        let sql = "UPDATE command SET ended = ?2, step = ?3, sum = ?4 WHERE place = ?1";
        self.connection.prepare_cached(sql)?.execute(params![
            changed.place.cast_signed(),
            changed.ended.cast_signed(),
            changed.step,
            changed.sum.cast_signed()
        ])?;
        Ok(())
    }

    fn store_fresh_commands(
        &mut self,
        cursor: Cursor,
        commands: &[EncodedCommand],
    ) -> Outcome<StoredCommands> {
        let mut appended = self.append(&[])?;
        let mut fresh = Vec::new();
        for command in commands {
            if self.insert_command(command)? {
                fresh.push(command.id);
                appended.next = self.append(std::slice::from_ref(&command.record))?.next;
            }
        }
        self.head.stream.down = Some(cursor);
        self.write_stream()?;
        Ok(StoredCommands { fresh, appended })
    }

    /// Says whether the command is new.
    fn insert_command(&self, command: &EncodedCommand) -> Outcome<bool> {
        let sql = "SELECT max(place) FROM command";
        let last: Option<i64> = self
            .connection
            .prepare_cached(sql)?
            .query_row([], |row| row.get(0))?;
        let place = last.unwrap_or(0).saturating_add(1);
        let row = CommandRow {
            place: place.cast_unsigned(),
            id: &command.id.0.to_be_bytes(),
            motion: u64::from(command.motion),
            ended: u64::from(command.ended),
            content: &command.content,
            step: &command.step,
            sum: 0,
        };
        let row = row.sealed();
        let sql = "INSERT INTO command (place, id, motion, ended, content, step, sum)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO NOTHING";
        let inserted = self.connection.prepare_cached(sql)?.execute(params![
            place,
            row.id,
            row.motion.cast_signed(),
            row.ended.cast_signed(),
            row.content,
            row.step,
            row.sum.cast_signed()
        ])?;
        if inserted == 0 {
            return Ok(false);
        }
        let sql = "DELETE FROM command WHERE place <= ?1 AND ended = 1";
        self.connection
            .prepare_cached(sql)?
            .execute([place - i64::from(ENDED_COMMANDS_KEPT)])?;
        Ok(true)
    }

    fn release_step(&mut self, next: RowNumber) -> Outcome<()> {
        if !self.head.holds_before(next) {
            return Ok(());
        }
        // A tombstone may cover more than a step; it must be reachable nevertheless.
        let step = self.head.first.plus(RELEASE_STEP);
        let until = next.min(self.head.next);
        let sql = "DELETE FROM record WHERE seq < ?1 AND seq + covers <= ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.execute([until.min(step).sql(), until.sql()])?;
        let end = (self.head.next, self.head.next);
        (self.head.first, self.head.first_end) = first_row(self.connection)?.unwrap_or(end);
        self.head.stream.released = self.head.first.0;
        self.write_stream()
    }

    fn write_stream(&self) -> Outcome<()> {
        Ok(write_stream(self.connection, &self.head.stream)?)
    }
}
