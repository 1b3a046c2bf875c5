//! Commands of programs on the board: how they are given, withdrawn and looked up. The event loop
//! takes them like those of the relay; [`BoardCommands`] is the programs' end of the way to it.

use std::time::Duration;

use brrbrr_proto::down::Order;
use brrbrr_proto::id::CommandId;
use brrbrr_proto::up::Progress;
use thiserror::Error;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use crate::spool::{self, KeptCommand, Spool, SpoolError};

/// How many requests may wait for the event loop, and as many again for the disk. A board has few
/// programs, and what waits here is late.
pub const REQUESTS_MAX: usize = 64;

/// What a program wants done.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// What to do. A cancellation is not given like this, but with [`BoardCommands::cancel`].
    pub order: Order,
    /// For how long from now it may be started.
    pub lifetime: Duration,
    /// The caller's own key: the same key again is the same command. It is remembered as long as
    /// the command is, see [`spool::ENDED_COMMANDS_KEPT`].
    pub key: Option<String>,
    /// Who asks, for people.
    pub actor: String,
}

/// A command that was given, and whether this call did so.
#[derive(Debug, Clone, PartialEq)]
pub struct Given {
    /// The command.
    pub command: KeptCommand,
    /// Not so where its key was known.
    pub is_new: bool,
}

/// Why a request was not carried out, or not as a whole.
#[derive(Debug, Clone, Error)]
pub enum Refusal {
    /// The key belongs to a command with another order.
    #[error("the idempotency key belongs to the command {0}, which is another one")]
    KeyTaken(CommandId),
    /// There is no such command, or it ended long ago.
    #[error("there is no command {0} here")]
    Unknown(CommandId),
    /// The robot is being told to halt, but the spool takes nothing. It is recorded as soon as it can
    /// be.
    #[error("the robot is told to halt, but that cannot be recorded now: {reason}")]
    NotRecorded {
        /// The command that is passed on.
        id: CommandId,
        /// Why it cannot be recorded.
        reason: SpoolError,
    },
    /// Nothing was done.
    #[error("the spool did not take it: {0}")]
    Spool(#[from] SpoolError),
    /// Nothing was done: too many requests wait.
    #[error("too many commands are given at once, try again in a second")]
    Crowded,
    /// The operating system gave no random number for its id.
    #[error("no random number to be had for an id: {0}")]
    NoRandomness(#[from] getrandom::Error),
    /// The gateway is stopping.
    #[error("the gateway is stopping")]
    Stopping,
}

/// What the event loop is asked.
#[derive(Debug)]
pub(crate) enum Request {
    /// Give a command.
    Submit {
        wish: Wish,
        reply: oneshot::Sender<Result<Given, Refusal>>,
    },
    /// Withdraw a command.
    Cancel {
        target: CommandId,
        actor: String,
        reply: oneshot::Sender<Result<KeptCommand, Refusal>>,
    },
}

/// The event loop's end.
#[derive(Debug)]
pub struct Requests(pub(crate) mpsc::Receiver<Request>);

/// The programs' end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BoardCommands {
    requests: mpsc::Sender<Request>,
    spool: Spool,
}

/// Makes both ends.
#[must_use]
pub fn channel(spool: Spool) -> (BoardCommands, Requests) {
    let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
    (BoardCommands { requests, spool }, Requests(waiting))
}

impl BoardCommands {
    /// Gives a command. It is durable when this returns.
    ///
    /// # Errors
    /// [`Refusal`]. Of these only [`Refusal::NotRecorded`] has an effect on the robot.
    pub async fn submit(&self, wish: Wish) -> Result<Given, Refusal> {
        self.ask(|reply| Request::Submit { wish, reply }).await
    }

    /// Withdraws a command, whoever gave it, and returns how it stands: it has ended, or a
    /// cancellation is under way.
    ///
    /// # Errors
    /// [`Refusal`]. Of these only [`Refusal::NotRecorded`] has an effect on the robot.
    pub async fn cancel(&self, target: CommandId, actor: String) -> Result<KeptCommand, Refusal> {
        let request = |reply| Request::Cancel {
            target,
            actor,
            reply,
        };
        self.ask(request).await
    }

    /// Up to `limit` commands, newest first: those given before `after`, where one is named, and
    /// in this state, where one is given.
    ///
    /// # Errors
    /// Where the spool cannot be read.
    pub async fn list(
        &self,
        limit: usize,
        after: Option<CommandId>,
        state: Option<Progress>,
    ) -> spool::Result<Vec<KeptCommand>> {
        self.spool.commands(limit, after, state).await
    }

    /// One command, if it is known.
    ///
    /// # Errors
    /// Where the spool cannot be read.
    pub async fn find(&self, id: CommandId) -> spool::Result<Option<KeptCommand>> {
        self.spool.command(id).await
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Request,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .try_send(request(reply))
            .map_err(|error| match error {
                TrySendError::Full(_) => Refusal::Crowded,
                TrySendError::Closed(_) => Refusal::Stopping,
            })?;
        answer.await.map_err(|_| Refusal::Stopping)?
    }
}
