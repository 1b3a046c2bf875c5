//! The driver around the cores on the board, which is the event loop of the gateway step by step: what
//! comes in is handed to them, and then what they want is carried out until they want no more.

use std::time::Duration;

use brrbrr_gateway::command::{self, Heard, Outcome, Output as CommandOutput, Reach, Report};
use brrbrr_gateway::robot::RobotMessage;
use brrbrr_gateway::spool::{Entry, Origin, StoredCommand};
use brrbrr_proto::down::{Command, Order};
use brrbrr_proto::id::{CommandId, Cursor, Seq};
use brrbrr_proto::link::gateway::Output as LinkOutput;
use brrbrr_proto::time::{Stamp, Uptime};
use brrbrr_proto::up::{Event, Ordered, Progress, Record};

use super::board::{Daemon, Done, Handed, Job};
use super::robot::Said;
use super::world::{UpFrame, World};

impl World {
    /// The next thing that the robot has said comes in.
    pub fn hear_robot(&mut self) {
        let Some(daemon) = self.board.daemon.as_mut() else {
            return;
        };
        if !daemon.is_at_robot || daemon.looking_up || self.board.is_asleep {
            return;
        }
        if daemon.marker == Some(0) {
            daemon.marker = None;
            self.with_daemon(|daemon, now| {
                daemon.commands.handle_reach(Reach::Ready, now.uptime);
            });
            return;
        }
        let Some(said) = self.robot.take() else {
            return;
        };
        daemon.marker = daemon.marker.map(|count| count.saturating_sub(1));
        if said.redelivered && self.robot.source(&said).is_some() {
            daemon.looking_up = true;
            daemon.jobs.push_back(Job::Known(said));
        } else {
            self.hear(said);
        }
    }

    fn hear(&mut self, said: Said) {
        let source = self.robot.source(&said);
        let Said {
            number,
            message,
            redelivered,
        } = said;
        self.note(|| format!("the robot says {message:?}"));
        let report = |command, outcome| Report {
            command,
            outcome,
            source: source.clone(),
            redelivered,
        };
        let mut is_stored = true;
        self.with_daemon(|daemon, now| {
            let (commands, now) = (&mut daemon.commands, now.uptime);
            let heard = match message {
                RobotMessage::Arrived { command, pose } => {
                    commands.handle_report(report(command, Outcome::Arrived(pose)), now)
                }
                RobotMessage::Failed { command, detail } => {
                    commands.handle_report(report(command, Outcome::Failed(detail)), now)
                }
                RobotMessage::Progress {
                    command,
                    percent,
                    text,
                } => {
                    commands.handle_progress(command, percent, text, now);
                    Heard::NoNews
                }
                RobotMessage::Started => commands.handle_started(source.clone(), redelivered, now),
                RobotMessage::Status(status) => {
                    commands.handle_status(&status, now);
                    Heard::NoNews
                }
                RobotMessage::Connected { .. }
                | RobotMessage::Drained
                | RobotMessage::Again
                | RobotMessage::Disconnected { .. }
                | RobotMessage::Alarm(_)
                | RobotMessage::Custom(_) => Heard::NoNews,
            };
            if let Heard::News(ticket) = heard {
                daemon.accepts.insert(ticket, number);
                is_stored = false;
            }
        });
        if is_stored {
            self.robot.accept(number);
        }
    }

    /// A program on the board gives a command.
    pub fn give(&mut self, order: Order, lifetime: Duration, key: Option<String>) {
        let id = CommandId(self.random.id());
        let now = self.board.stamp(self.now);
        let Some(daemon) = self.board.daemon.as_mut().filter(|_| !self.board.is_asleep) else {
            return;
        };
        let command = Command {
            id,
            time_to_live: lifetime,
            order,
        };
        let actor = "program".to_owned();
        let mut row = StoredCommand {
            origin: Origin::Board { actor, key },
            ..StoredCommand::received(command, now.boot, now.uptime)
        };
        if !matches!(row.command.order, Order::Cancel(_)) {
            row.hand_over = daemon.commands.plan(id, &row.command.order);
        }
        let job = give_job(row, now);
        daemon.jobs.push_back(job);
    }

    /// What went out before it could be stored is given to the disk again.
    pub fn record_again(&mut self) {
        if let Some(daemon) = self.board.daemon.as_mut() {
            for (row, records) in std::mem::take(&mut daemon.unrecorded) {
                daemon.jobs.push_back(Job::Give(row, records));
            }
        }
    }

    /// The daemon hears the next answer. Says whether there was one.
    pub fn answer_daemon(&mut self) -> bool {
        let daemon = self.board.daemon.as_mut().filter(|_| !self.board.is_asleep);
        let Some(done) = daemon.and_then(|daemon| daemon.answers.pop_front()) else {
            return false;
        };
        self.note(|| format!("answer: {done:?}"));
        match done {
            Done::Known(said, is_known) => {
                let daemon = self.board.daemon.as_mut().expect("it runs");
                daemon.looking_up = false;
                if is_known {
                    self.robot.accept(said.number);
                } else {
                    self.hear(said);
                }
            }
            Done::Persisted(ticket, next) => {
                let mut accepted = None;
                self.with_daemon(|daemon, now| match next {
                    Some(next) => {
                        accepted = daemon.accepts.remove(&ticket);
                        daemon.link.handle_appended(next, now.uptime);
                        daemon.commands.handle_persisted(ticket, now.uptime);
                    }
                    None => daemon.commands.handle_persist_failed(ticket, now.uptime),
                });
                accepted
                    .into_iter()
                    .for_each(|number| self.robot.accept(number));
            }
            Done::CommandsStored(cursor, commands, stored) => {
                self.commands_stored(cursor, commands, stored);
            }
            Done::Given(row, records, given) => self.command_given(*row, records, given),
            Done::Read(from, items) => {
                self.with_daemon(|daemon, now| daemon.link.handle_read(from, items, now.uptime));
            }
            Done::Appended(next) => {
                self.with_daemon(|daemon, now| daemon.link.handle_appended(next, now.uptime));
            }
            Done::Executed(id, result) => self.with_daemon(|daemon, now| {
                daemon.commands.handle_executed(id, result, now.uptime);
            }),
        }
        true
    }

    fn commands_stored(
        &mut self,
        cursor: Cursor,
        commands: Vec<StoredCommand>,
        stored: Option<(Vec<CommandId>, Seq)>,
    ) {
        self.with_daemon(|daemon, now| {
            let now = now.uptime;
            let Some((fresh, next)) = stored else {
                for command in commands {
                    daemon.commands.handle_refused(command, now);
                }
                return;
            };
            daemon.link.handle_commands_stored(cursor, now);
            daemon.link.handle_appended(next, now);
            for command in commands {
                let id = command.command.id;
                if fresh.contains(&id) || daemon.commands.is_unrecorded(id) {
                    daemon.commands.handle_command(command, now);
                }
            }
        });
    }

    fn command_given(
        &mut self,
        mut row: StoredCommand,
        records: Vec<Record>,
        given: Option<(Option<CommandId>, Seq)>,
    ) {
        self.with_daemon(|daemon, now| {
            let (commands, now) = (&mut daemon.commands, now.uptime);
            match given {
                Some((known, next)) => {
                    daemon.link.handle_appended(next, now);
                    if known.is_none() {
                        commands.handle_command(row, now);
                    }
                }
                None if commands.handle_refused(row.clone(), now) => {
                    // It must not go out again when the daemon stops right after it is stored.
                    row.hand_over = commands.plan(row.command.id, &row.command.order);
                    daemon.unrecorded.push((row, records));
                }
                None => {}
            }
        });
    }

    /// Acts on the daemon, then carries out what its cores want: first the commands, then the link.
    pub fn with_daemon(&mut self, act: impl FnOnce(&mut Daemon, Stamp)) {
        let now = self.board.stamp(self.now);
        let Some(daemon) = self.board.daemon.as_mut() else {
            return;
        };
        act(daemon, now);
        loop {
            let Some(daemon) = self.board.daemon.as_mut() else {
                return;
            };
            if let Some(output) = daemon.commands.poll_output() {
                self.note(|| format!("commands: {output:?}"));
                self.carry_out_command(output, now);
            } else if let Some(output) = daemon.link.poll_output() {
                self.carry_out_link(output, now);
            } else {
                return;
            }
        }
    }

    fn carry_out_command(&mut self, output: CommandOutput, now: Stamp) {
        let Some(daemon) = self.board.daemon.as_mut() else {
            return;
        };
        let record = |event| Record { stamp: now, event };
        match output {
            CommandOutput::Persist(step) => {
                let entry = Entry {
                    source: step.source,
                    changes: step.changes,
                    records: step.events.into_iter().map(record).collect(),
                };
                daemon.jobs.push_back(Job::Persist(step.ticket, entry));
            }
            CommandOutput::Tell(event) => daemon.jobs.push_back(Job::Append(record(event))),
            CommandOutput::Execute {
                id,
                order,
                deadline,
            } => {
                self.judge.handed(id, &self.board.disk);
                daemon.orders.push_back(Handed {
                    id,
                    order,
                    deadline,
                });
            }
        }
    }

    fn carry_out_link(&mut self, output: LinkOutput, now: Stamp) {
        match output {
            LinkOutput::Hello(hello) => self.publish(UpFrame::Hello(hello)),
            LinkOutput::Up(relay, up) => self.publish(UpFrame::Up(relay, up)),
            LinkOutput::Live(relay, live) => self.publish(UpFrame::Live(relay, live)),
            LinkOutput::Read {
                from, max_items, ..
            } => self.ask_disk(Job::Read(from, max_items)),
            LinkOutput::Release { next } => self.ask_disk(Job::Release(next)),
            LinkOutput::Store {
                cursor,
                commands,
                received,
            } => self.store_commands(cursor, commands, received, now),
            LinkOutput::RenewEpoch => panic!("nothing was restored here"),
            LinkOutput::Reconnect => {
                self.disconnect();
                self.connect();
            }
            LinkOutput::Opened(..) | LinkOutput::Closed(_) | LinkOutput::Building(_) => {}
        }
    }

    fn store_commands(
        &mut self,
        cursor: Cursor,
        commands: Vec<Command>,
        received: Uptime,
        now: Stamp,
    ) {
        let Some(daemon) = self.board.daemon.as_mut() else {
            return;
        };
        let mut commands: Vec<StoredCommand> = commands
            .into_iter()
            .filter(|command| command.order != Order::Withdrawn)
            .map(|command| StoredCommand::received(command, now.boot, received))
            .collect();
        let is_alone = commands.len() == 1;
        for stored in &mut commands {
            let Command { id, order, .. } = &stored.command;
            if is_alone || daemon.commands.is_unrecorded(*id) {
                stored.hand_over = daemon.commands.plan(*id, order);
            }
        }
        let rows = commands.iter().map(|stored| {
            let event = command::update(stored.command.id, Progress::Received, "");
            (stored.clone(), Record { stamp: now, event })
        });
        let rows = rows.collect();
        daemon
            .jobs
            .push_back(Job::StoreCommands(cursor, commands, rows));
    }

    fn ask_disk(&mut self, job: Job) {
        if let Some(daemon) = self.board.daemon.as_mut() {
            daemon.jobs.push_back(job);
        }
    }

    fn publish(&mut self, frame: UpFrame) {
        if self.board.connection.is_some() {
            self.send_up(frame);
        }
    }
}

/// A command of a program on its way to the disk, with what the relay is to hear of it.
fn give_job(row: StoredCommand, now: Stamp) -> Job {
    let Origin::Board { actor, key } = row.origin.clone() else {
        panic!("not given on the board");
    };
    let events = [
        Event::Ordered(Ordered {
            command: row.command.id,
            key,
            actor,
            time_to_live: row.command.time_to_live,
            order: row.command.order.clone(),
        }),
        command::update(row.command.id, Progress::Received, ""),
    ];
    let records = events.map(|event| Record { stamp: now, event });
    Job::Give(row, records.into())
}
