//! Commands on their way: from the relay into the spool, and from the core to the robot.

use brrbrr_proto::down::{Command, Order};
use brrbrr_proto::id::Cursor;
use brrbrr_proto::time::Uptime;
use brrbrr_proto::up::Progress;
use tracing::{info, warn};

use super::{Done, EventLoop, WRITES_MAX};
use crate::command::{self, Output as CommandOutput, Ticket};
use crate::robot::{Accept, HandOverError};
use crate::spool::{self, Entry, StoredCommand, StoredCommands, Written};

impl EventLoop {
    pub(super) fn store_commands(
        &mut self,
        cursor: Cursor,
        commands: Vec<Command>,
        received: Uptime,
    ) {
        let boot = self.clock.boot();
        let mut commands: Vec<StoredCommand> = commands
            .into_iter()
            .filter(|command| command.order != Order::Withdrawn)
            .map(|command| StoredCommand::received(command, boot, received))
            .collect();
        let is_alone = commands.len() == 1;
        for stored in &mut commands {
            let Command { id, order, .. } = &stored.command;
            // Of several, only the first could go out at once.
            if is_alone || self.commands.is_unrecorded(*id) {
                stored.hand_over = self.commands.plan(*id, order);
            }
        }
        let rows = commands.iter().map(|stored| {
            let event = command::update(stored.command.id, Progress::Received, "");
            (stored.clone(), self.record(event))
        });
        let (spool, rows) = (self.spool.clone(), rows.collect());
        self.push(async move {
            let stored = spool.store_commands(cursor, rows).await;
            Done::CommandsStored(cursor, commands, stored)
        });
    }

    pub(super) fn handle_commands_stored(
        &mut self,
        cursor: Cursor,
        commands: Vec<StoredCommand>,
        stored: spool::Result<StoredCommands>,
        now: Uptime,
    ) {
        let stored = match stored {
            Ok(stored) => stored,
            // Not acknowledged, so the relay sends them again.
            Err(error) => {
                self.refused(&error);
                for command in commands {
                    self.pass_on(command, now);
                }
                return;
            }
        };
        self.link.handle_commands_stored(cursor, now);
        self.appended(&stored.appended, now);
        for command in commands {
            let id = command.command.id;
            if stored.fresh.contains(&id) || self.commands.is_unrecorded(id) {
                info!(command = %id, order = ?command.command.order, "command received");
                self.commands.handle_command(command, now);
            }
        }
    }

    /// Passes on a command that could not be stored, if it halts the robot. Says whether it is
    /// passed on, now or before.
    pub(super) fn pass_on(&mut self, command: StoredCommand, now: Uptime) -> bool {
        let id = command.command.id;
        let was_passed_on = self.commands.is_unrecorded(id);
        let is_passed_on = self.commands.handle_refused(command, now);
        if is_passed_on && !was_passed_on {
            warn!(command = %id, "the robot is told to halt before that could be stored");
        }
        is_passed_on
    }

    pub(super) fn handle_persisted(
        &mut self,
        ticket: Ticket,
        written: spool::Result<Written>,
        now: Uptime,
    ) {
        match written {
            Ok(written) => {
                if let Some(accept) = self.accepts.remove(&ticket) {
                    accept.accept();
                }
                self.appended(&written.appended, now);
                self.commands.handle_persisted(ticket, now);
            }
            Err(error) => {
                self.refused(&error);
                self.commands.handle_persist_failed(ticket, now);
            }
        }
    }

    pub(super) fn carry_out_command(&mut self, output: CommandOutput) {
        match output {
            CommandOutput::Persist(step) => {
                let records = step.events.into_iter().map(|event| self.record(event));
                let entry = Entry {
                    source: step.source,
                    changes: step.changes,
                    records: records.collect(),
                };
                let (spool, ticket) = (self.spool.clone(), step.ticket);
                self.push(async move { Done::Persisted(ticket, spool.write(entry).await) });
            }
            // Newer progress follows, so some may be left out while the disk is slow.
            CommandOutput::Tell(event) if self.writing < WRITES_MAX => {
                self.append(None, event, Accept::default());
            }
            CommandOutput::Tell(_) => {}
            CommandOutput::Execute {
                id,
                order,
                deadline,
            } => {
                info!(command = %id, ?order, "order handed to the robot");
                match self.robot.orders.execute(id, order, deadline) {
                    Ok(answer) => self.push(async move {
                        let gone =
                            || HandOverError::Unknown("the adapter gave no answer".to_owned());
                        Done::Executed(id, answer.await.unwrap_or_else(|_| Err(gone())))
                    }),
                    Err(error) => {
                        let now = self.clock.uptime();
                        self.commands.handle_executed(id, Err(error), now);
                    }
                }
            }
        }
    }
}
