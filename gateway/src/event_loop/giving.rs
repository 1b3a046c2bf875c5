//! What programs on the board ask of commands: to give one, and to withdraw one.

use std::time::Duration;

use brrbrr_proto::api::CANCEL_LIFETIME;
use brrbrr_proto::down::{Command, Order};
use brrbrr_proto::id::CommandId;
use brrbrr_proto::time::Uptime;
use brrbrr_proto::up::{Event, Ordered, Progress, Record};
use tokio::sync::oneshot;
use tracing::info;

use super::{Done, EventLoop};
use crate::board_commands::{Given, REQUESTS_MAX, Refusal, Request, Wish};
use crate::command;
use crate::spool::{self, GivenCommand, KeptCommand, Origin, SpoolError, StoredCommand};

/// How long to wait before a command that was passed on is stored again.
const STORE_AGAIN: Duration = Duration::from_secs(2);

/// How many commands that were passed on may wait to be stored. One halts the robot; more are
/// repeats, of which the ledger need not know.
const LATE_MAX: usize = 16;

/// A command on its way to the spool, and who waits for it.
#[derive(Debug)]
pub(super) struct Giving {
    command: StoredCommand,
    records: [Record; 2],
    waiting: Waiting,
}

/// Who waits for a command to be stored.
#[derive(Debug)]
enum Waiting {
    Submit(oneshot::Sender<Result<Given, Refusal>>),
    Cancel(CommandId, oneshot::Sender<Result<KeptCommand, Refusal>>),
    /// It was passed on, and its giver knows.
    Nobody,
}

/// A command that was passed on and could not be stored yet.
#[derive(Debug)]
pub(super) struct Late {
    command: StoredCommand,
    reason: SpoolError,
}

/// Who wants to know how a command stands.
#[derive(Debug)]
pub(super) struct Asking {
    target: CommandId,
    /// Whether it is to be withdrawn, by whom, where it has not ended.
    withdrawn_by: Option<String>,
    reply: oneshot::Sender<Result<KeptCommand, Refusal>>,
}

// Answers go to programs that may have gone away, which need none.
impl EventLoop {
    /// Whether requests may be taken: not where too many wait for the disk already.
    pub(super) const fn takes_requests(&self) -> bool {
        self.requested < REQUESTS_MAX
    }

    pub(super) fn handle_request(&mut self, request: Request) {
        match request {
            Request::Submit { wish, reply } => self.submit(wish, reply),
            Request::Cancel {
                target,
                actor,
                reply,
            } => {
                let is_under_way =
                    self.commands.is_cancelling(target) || self.withdrawing.contains(&target);
                if self.commands.is_unfinished(target) && !is_under_way {
                    self.withdraw(target, actor, reply);
                } else {
                    let withdrawn_by = Some(actor).filter(|_| !is_under_way);
                    self.ask(Asking {
                        target,
                        withdrawn_by,
                        reply,
                    });
                }
            }
        }
    }

    fn submit(&mut self, wish: Wish, reply: oneshot::Sender<Result<Given, Refusal>>) {
        let late = self.late.iter().find(|late| {
            let key = late.command.key();
            key.is_some() && key == wish.key.as_deref()
        });
        if let Some(Late { command, reason }) = late {
            let id = command.command.id;
            let refusal = if command.command.order == wish.order {
                let reason = reason.clone();
                Refusal::NotRecorded { id, reason }
            } else {
                Refusal::KeyTaken(id)
            };
            reply.send(Err(refusal)).ok();
            return;
        }
        match self.command_of(wish) {
            Ok(mut command) => {
                let Command { id, order, .. } = &command.command;
                command.hand_over = self.commands.plan(*id, order);
                self.give(command, Waiting::Submit(reply));
            }
            Err(refusal) => {
                reply.send(Err(refusal)).ok();
            }
        }
    }

    fn withdraw(
        &mut self,
        target: CommandId,
        actor: String,
        reply: oneshot::Sender<Result<KeptCommand, Refusal>>,
    ) {
        let wish = Wish {
            order: Order::Cancel(target),
            lifetime: CANCEL_LIFETIME,
            key: None,
            actor,
        };
        match self.command_of(wish) {
            Ok(command) => {
                self.withdrawing.insert(target);
                self.give(command, Waiting::Cancel(target, reply));
            }
            Err(refusal) => {
                reply.send(Err(refusal)).ok();
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

    fn give(&mut self, command: StoredCommand, waiting: Waiting) {
        let Command {
            id,
            time_to_live,
            ref order,
        } = command.command;
        let (actor, key) = match &command.origin {
            Origin::Board { actor, key } => (actor.clone(), key.clone()),
            Origin::Relay => (String::new(), None),
        };
        let ordered = Event::Ordered(Ordered {
            command: id,
            key,
            actor,
            time_to_live,
            order: order.clone(),
        });
        let received = command::update(id, Progress::Received, "");
        let records = [self.record(ordered), self.record(received)];
        self.requested += 1;
        let giving = Giving {
            command,
            records,
            waiting,
        };
        self.store_given(giving, Duration::ZERO);
    }

    fn store_given(&self, giving: Giving, pause: Duration) {
        let spool = self.spool.clone();
        self.push(async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
            let given = spool.give_command(&giving.command, &giving.records).await;
            Done::Given(Box::new(giving), Box::new(given))
        });
    }

    pub(super) fn handle_given(
        &mut self,
        giving: Giving,
        given: spool::Result<GivenCommand>,
        now: Uptime,
    ) {
        match &giving.waiting {
            Waiting::Submit(_) => self.requested -= 1,
            Waiting::Cancel(target, _) => {
                self.requested -= 1;
                self.withdrawing.remove(target);
            }
            Waiting::Nobody => {}
        }
        match given {
            Ok(given) => self.handle_stored(giving, given, now),
            Err(error) => self.handle_not_stored(giving, error, now),
        }
    }

    fn handle_stored(&mut self, giving: Giving, given: GivenCommand, now: Uptime) {
        let Giving {
            command, waiting, ..
        } = giving;
        let GivenCommand {
            command: kept,
            is_new,
            appended,
        } = given;
        self.appended(&appended, now);
        let (id, order) = (command.command.id, command.command.order.clone());
        self.late.retain(|late| late.command.command.id != id);
        if is_new {
            info!(command = %id, ?order, "command given on the board");
            self.commands.handle_command(command, now);
            // What is asked for below must see what follows from it.
            self.carry_out();
        }
        match waiting {
            Waiting::Submit(reply) => {
                let answer = if kept.stored.command.order == order {
                    let command = kept;
                    Ok(Given { command, is_new })
                } else {
                    Err(Refusal::KeyTaken(kept.id()))
                };
                reply.send(answer).ok();
            }
            Waiting::Cancel(target, reply) => self.ask(Asking {
                target,
                withdrawn_by: None,
                reply,
            }),
            Waiting::Nobody => {}
        }
    }

    /// Passes on what halts the robot, and stores it later.
    fn handle_not_stored(&mut self, giving: Giving, error: SpoolError, now: Uptime) {
        self.refused(&error);
        let id = giving.command.command.id;
        let is_passed_on = self.pass_on(giving.command.clone(), now);
        let refusal = match is_passed_on {
            true => Refusal::NotRecorded {
                id,
                reason: error.clone(),
            },
            false => Refusal::Spool(error.clone()),
        };
        match giving.waiting {
            Waiting::Submit(reply) => {
                reply.send(Err(refusal)).ok();
            }
            Waiting::Cancel(_, reply) => {
                reply.send(Err(refusal)).ok();
            }
            Waiting::Nobody => {}
        }
        self.late.retain(|late| late.command.command.id != id);
        if is_passed_on && !error.is_permanent() && !self.is_stopping && self.late.len() < LATE_MAX
        {
            self.late.push(Late {
                command: giving.command.clone(),
                reason: error,
            });
            let mut command = giving.command;
            let Command { id, order, .. } = &command.command;
            // It went out, so a daemon that begins with what is stored must not send it again.
            command.hand_over = self.commands.plan(*id, order);
            let later = Giving {
                waiting: Waiting::Nobody,
                command,
                records: giving.records,
            };
            self.store_given(later, STORE_AGAIN);
        }
    }

    fn ask(&mut self, asking: Asking) {
        self.requested += 1;
        let (spool, target) = (self.spool.clone(), asking.target);
        self.push(async move {
            let command = spool.command(target).await;
            Done::Asked(Box::new(asking), Box::new(command))
        });
    }

    pub(super) fn handle_asked(
        &mut self,
        asking: Asking,
        command: spool::Result<Option<KeptCommand>>,
    ) {
        self.requested -= 1;
        let Asking {
            target,
            withdrawn_by,
            reply,
        } = asking;
        let answer = match command {
            Ok(Some(command)) => match withdrawn_by {
                // It was on its way to this task when it was asked for.
                Some(actor) if !(command.stored.progress.is_final() || command.cancelling) => {
                    return self.withdraw(target, actor, reply);
                }
                Some(_) | None => Ok(command),
            },
            Ok(None) => Err(Refusal::Unknown(target)),
            Err(error) => Err(Refusal::Spool(error)),
        };
        reply.send(answer).ok();
    }
}
