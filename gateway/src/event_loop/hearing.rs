//! What the robot says, on its way to the commands, the status and the spool.

use brrbrr_proto::live::RobotSide;
use brrbrr_proto::time::Uptime;
use brrbrr_proto::up::Event;
use tracing::{info, warn};

use super::{Done, EventLoop};
use crate::command::{Heard, Outcome, Reach, Report};
use crate::robot::{self, Accept, RobotInput, RobotMessage};
use crate::spool::{self, MAX_SOURCE_BYTES, SourceId, Written};

impl EventLoop {
    pub(super) fn handle_robot(&mut self, input: RobotInput) {
        if self.is_refusing
            && input.accept.is_awaited()
            && !matches!(input.message, RobotMessage::Status(_))
        {
            // An earlier message was refused. This one comes again behind it, and not before.
            return;
        }
        if input.redelivered
            && let Some(source) = input.source.clone()
        {
            self.looking_up = true;
            let spool = self.spool.clone();
            self.push(async move { Done::Known(input, spool.knows(source).await) });
            return;
        }
        self.hear(input);
    }

    pub(super) fn hear(&mut self, input: RobotInput) {
        let RobotInput {
            message,
            source,
            redelivered,
            accept,
        } = input;
        let now = self.clock.uptime();
        match message {
            RobotMessage::Connected { backlog } => {
                info!(backlog, "the robot's broker is there");
                self.commands.handle_reach(Reach::Draining, now);
                self.set_robot_side(RobotSide::Up);
                accept.accept();
            }
            RobotMessage::Drained => {
                self.commands.handle_reach(Reach::Ready, now);
                accept.accept();
            }
            RobotMessage::Again => {
                self.is_refusing = false;
                accept.accept();
            }
            RobotMessage::Disconnected { reason } => {
                self.is_refusing = false;
                warn!(%reason, "the robot's broker is away");
                self.commands.handle_reach(Reach::Away, now);
                self.set_robot_side(RobotSide::Down);
                accept.accept();
            }
            RobotMessage::Arrived { command, pose } => {
                let outcome = Outcome::Arrived(pose);
                self.report(
                    Report {
                        command,
                        outcome,
                        source,
                        redelivered,
                    },
                    accept,
                );
            }
            RobotMessage::Failed { command, detail } => {
                let outcome = Outcome::Failed(detail);
                self.report(
                    Report {
                        command,
                        outcome,
                        source,
                        redelivered,
                    },
                    accept,
                );
            }
            RobotMessage::Progress {
                command,
                percent,
                text,
            } => {
                self.commands.handle_progress(command, percent, text, now);
                accept.accept();
            }
            RobotMessage::Started => {
                info!("the robot's software was started anew");
                let heard = self.commands.handle_started(source, redelivered, now);
                self.accept_when_stored(heard, accept);
            }
            RobotMessage::Status(status) => {
                // What it said before this was not all taken, its arrival perhaps among it.
                if !self.is_refusing {
                    self.commands.handle_status(&status, now);
                }
                self.absorb(&status, accept);
            }
            RobotMessage::Alarm(alarm) => {
                self.append(source, Event::Alarm(alarm), accept);
            }
            RobotMessage::Custom(custom) => {
                self.append(source, Event::Custom(custom), accept);
            }
        }
    }

    fn report(&mut self, report: Report, accept: Accept) {
        let heard = self.commands.handle_report(report, self.clock.uptime());
        self.accept_when_stored(heard, accept);
    }

    fn accept_when_stored(&mut self, heard: Heard, accept: Accept) {
        match heard {
            Heard::News(ticket) => {
                self.accepts.insert(ticket, accept);
            }
            Heard::NoNews => accept.accept(),
        }
    }

    /// Writes one record; its message is accepted when it is durable.
    pub(super) fn append(&mut self, source: Option<SourceId>, event: Event, accept: Accept) {
        let (spool, record) = (self.spool.clone(), self.record(event));
        self.writing += 1;
        self.push(async move {
            let written = spool.append_from_source(source.clone(), vec![record]).await;
            Done::Appended(source, accept, written)
        });
    }

    pub(super) fn handle_appended(
        &mut self,
        source: Option<SourceId>,
        accept: Accept,
        written: spool::Result<Written>,
        now: Uptime,
    ) {
        self.writing -= 1;
        match written {
            Ok(written) => {
                accept.accept();
                self.appended(&written.appended, now);
            }
            Err(error) if error.is_permanent() => {
                // It would come again for ever. That there was such a message is kept in its place.
                self.refused(&error);
                let source = source.filter(|name| name.0.len() <= MAX_SOURCE_BYTES);
                let event = Event::Custom(robot::unreadable(&error.to_string()));
                self.append(source, event, accept);
            }
            // Not accepted, so the robot's broker keeps the message and sends it again.
            Err(error) => {
                if accept.is_awaited() {
                    self.is_refusing = true;
                    self.commands.handle_unheard(now);
                }
                self.refused(&error);
            }
        }
    }
}
