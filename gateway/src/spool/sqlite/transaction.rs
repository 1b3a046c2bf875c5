//! What a transaction on the spool's database can do.

use std::path::Path;

use brrbrr_proto::id::{Cursor, Epoch, Seq};
use brrbrr_proto::live::Status;
use rusqlite::{Connection, params};

use super::super::format::{EncodedCommand, EncodedEntry, EncodedRecord, RecordRow};
use super::super::{
    Appended, GivenCommand, Result, SOURCES_KEPT, SourceId, SpoolState, StoredCommands, Written,
};
use super::{
    Fault, Head, Outcome, RowNumber, commands, first_row, read_state, write_identity, write_stream,
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

    pub(in super::super) fn give_command(
        &mut self,
        command: &EncodedCommand,
    ) -> Result<GivenCommand> {
        let given = self.store_given_command(command);
        given.map_err(|fault| fault.into_error("write to", self.path))
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
            && !entry.decides
        {
            let appended = self.append(&[])?;
            let duplicate = true;
            return Ok(Written {
                appended,
                duplicate,
            });
        }
        for step in &entry.steps {
            commands::change(self.connection, step)?;
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

    fn store_fresh_commands(
        &mut self,
        cursor: Cursor,
        commands: &[EncodedCommand],
    ) -> Outcome<StoredCommands> {
        let mut appended = self.append(&[])?;
        let mut fresh = Vec::new();
        for command in commands {
            if commands::insert(self.connection, command)? {
                fresh.push(command.id);
                appended.next = self.append(&command.records)?.next;
            }
        }
        self.head.stream.down = Some(cursor);
        self.write_stream()?;
        Ok(StoredCommands { fresh, appended })
    }

    fn store_given_command(&mut self, command: &EncodedCommand) -> Outcome<GivenCommand> {
        let mut appended = self.append(&[])?;
        let mut known = commands::by_id(self.connection, command.id)?;
        if let Some(key) = command.key.as_ref().filter(|_| known.is_none()) {
            known = commands::by_key(self.connection, key)?;
        }
        if let Some(command) = known {
            let is_new = false;
            return Ok(GivenCommand {
                command,
                is_new,
                appended,
            });
        }
        commands::insert(self.connection, command)?;
        appended.next = self.append(&command.records)?.next;
        let missing = || Fault::Corrupt("a command that was just written is missing".to_owned());
        Ok(GivenCommand {
            command: commands::by_id(self.connection, command.id)?.ok_or_else(missing)?,
            is_new: true,
            appended,
        })
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
