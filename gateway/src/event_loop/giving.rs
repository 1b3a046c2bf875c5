//! What programs on the board ask of commands: to give one, and to withdraw one.

use brrbrr_proto::api::CANCEL_LIFETIME;
use brrbrr_proto::down::{Command, Order};
use brrbrr_proto::id::CommandId;
use brrbrr_proto::time::Uptime;
use brrbrr_proto::up::{Event, Ordered, Progress};
use tokio::sync::oneshot;
use tracing::info;

use super::{Done, EventLoop};
use crate::board_commands::{Given, REQUESTS_MAX, Refusal, Request, Wish};
use crate::command;
use crate::spool::{self, GivenCommand, KeptCommand, Origin, StoredCommand};

/// Who waits to hear of a command.
pub(super) type CommandReply = oneshot::Sender<Result<KeptCommand, Refusal>>;

/// A command on its way to the spool, and who waits for it.
#[derive(Debug)]
pub(super) struct Giving {
    command: StoredCommand,
    reply: Waiting,
}

/// Who waits for a command to be stored.
#[derive(Debug)]
enum Waiting {
    Submit(oneshot::Sender<Result<Given, Refusal>>),
    Cancel(CommandId, CommandReply),
}

impl EventLoop {
    /// Whether requests may be taken: not where too many wait for the disk already.
    pub(super) const fn takes_requests(&self) -> bool {
        self.requested < REQUESTS_MAX
    }

    pub(super) fn handle_request(&mut self, request: Request) {
        // A program that has gone away needs no answer.
        match request {
            Request::Submit { wish, reply } => match self.command_of(wish) {
                Ok(mut command) => {
                    command.hand_over = self.commands.plan(&command.command.order);
                    self.give(command, Waiting::Submit(reply));
                }
                Err(refusal) => drop(reply.send(Err(refusal))),
            },
            Request::Cancel {
                target,
                actor,
                reply,
            } => {
                let wish = Wish {
                    order: Order::Cancel(target),
                    lifetime: CANCEL_LIFETIME,
                    key: None,
                    actor,
                };
                match self.command_of(wish) {
                    Ok(command) => self.give(command, Waiting::Cancel(target, reply)),
                    Err(refusal) => drop(reply.send(Err(refusal))),
                }
            }
        }
    }

    fn command_of(&self, wish: Wish) -> Result<StoredCommand, Refusal> {
        let Wish {
            order,
            lifetime,
            key,
            actor,
        } = wish;
        let mut id = [0; 16];
        getrandom::fill(&mut id)?;
        let command = Command {
            id: CommandId(u128::from_be_bytes(id)),
            time_to_live: lifetime,
            order,
        };
        let now = self.clock.uptime();
        Ok(StoredCommand {
            origin: Origin::Board { actor, key },
            ..StoredCommand::received(command, self.clock.boot(), now)
        })
    }

    fn give(&mut self, command: StoredCommand, reply: Waiting) {
        let Origin::Board { actor, key } = command.origin.clone() else {
            return;
        };
        let id = command.command.id;
        let records = [
            Event::Ordered(Ordered {
                command: id,
                key,
                actor,
                time_to_live: command.command.time_to_live,
                order: command.command.order.clone(),
            }),
            command::update(id, Progress::Received, ""),
        ];
        let records = records.map(|event| self.record(event));
        let spool = self.spool.clone();
        self.requested += 1;
        self.push(async move {
            let given = spool.give_command(&command, &records).await;
            Done::Given(Box::new(Giving { command, reply }), Box::new(given))
        });
    }

    pub(super) fn handle_given(
        &mut self,
        giving: Giving,
        given: spool::Result<GivenCommand>,
        now: Uptime,
    ) {
        self.requested -= 1;
        let Giving { command, reply } = giving;
        let given = match given {
            Ok(given) => given,
            Err(error) => {
                self.refused(&error);
                let refusal = Err(Refusal::Spool(error));
                return match reply {
                    Waiting::Submit(reply) => drop(reply.send(refusal)),
                    Waiting::Cancel(_, reply) => {
                        drop(reply.send(refusal.map(|given: Given| given.command)))
                    }
                };
            }
        };
        self.appended(&given.appended, now);
        let order = command.command.order.clone();
        if given.is_new {
            info!(command = %given.command.id(), ?order, "command given on the board");
            self.commands.handle_command(command, now);
            self.carry_out();
        }
        match reply {
            Waiting::Submit(reply) => {
                let answer = if given.command.stored.command.order == order {
                    Ok(Given {
                        command: given.command,
                        is_new: given.is_new,
                    })
                } else {
                    Err(Refusal::KeyTaken(given.command.id()))
                };
                drop(reply.send(answer));
            }
            Waiting::Cancel(target, reply) => {
                self.requested += 1;
                let spool = self.spool.clone();
                self.push(async move {
                    let command = spool.command(target).await;
                    Done::Asked(target, reply, Box::new(command))
                });
            }
        }
    }

    pub(super) fn handle_asked(
        &mut self,
        target: CommandId,
        reply: CommandReply,
        command: spool::Result<Option<KeptCommand>>,
    ) {
        self.requested -= 1;
        let command = match command {
            Ok(Some(command)) => Ok(command),
            Ok(None) => Err(Refusal::Unknown(target)),
            Err(error) => Err(Refusal::Spool(error)),
        };
        drop(reply.send(command));
    }
}
