//! What the spool's thread is asked, and how it answers.

use brrbrr_proto::id::{CommandId, Cursor, Epoch, Seq};
use brrbrr_proto::live::Status;
use brrbrr_proto::up::Progress;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::super::format::{EncodedCommand, EncodedEntry};
use super::super::{
    Appended, Gap, GivenCommand, KeptCommand, ReadBack, Result, SourceId, SpoolError, SpoolState,
    StoredCommands, Written,
};

/// Who waits for an answer.
pub(super) type Reply<T> = oneshot::Sender<Result<T>>;

/// What the spool's thread is asked.
#[derive(Debug)]
pub(in super::super) enum Request {
    Write {
        entry: EncodedEntry,
        reply: Reply<Written>,
    },
    WriteAll {
        entries: Vec<EncodedEntry>,
        reply: Reply<Appended>,
    },
    StoreCommands {
        cursor: Cursor,
        commands: Vec<EncodedCommand>,
        reply: Reply<StoredCommands>,
    },
    GiveCommand {
        command: EncodedCommand,
        reply: Reply<GivenCommand>,
    },
    RenewEpoch {
        epoch: Epoch,
        reply: Reply<SpoolState>,
    },
    Read {
        from: Seq,
        max_items: usize,
        max_bytes: usize,
        reply: Reply<ReadBack>,
    },
    Knows {
        source: SourceId,
        reply: Reply<bool>,
    },
    Commands {
        limit: usize,
        after: Option<CommandId>,
        state: Option<Progress>,
        reply: Reply<Vec<KeptCommand>>,
    },
    Command {
        id: CommandId,
        reply: Reply<Option<KeptCommand>>,
    },
    Commits {
        reply: Reply<u64>,
    },
    State {
        reply: Reply<SpoolState>,
    },
    Gaps {
        limit: usize,
        reply: Reply<Vec<Gap>>,
    },
    Release {
        epoch: Epoch,
        next: Seq,
    },
    Status(Status),
    Close {
        reply: Reply<()>,
    },
}

impl Request {
    /// About how much room it takes; nothing where it adds nothing.
    pub(super) fn footprint(&self) -> u64 {
        match self {
            Self::Write { entry, .. } => entry.footprint(),
            Self::WriteAll { entries, .. } => {
                let entries = entries.iter().map(EncodedEntry::footprint);
                entries.fold(0, u64::saturating_add)
            }
            Self::StoreCommands { commands, .. } => {
                let commands = commands.iter().map(EncodedCommand::footprint);
                commands.fold(0, u64::saturating_add)
            }
            Self::GiveCommand { command, .. } => command.footprint(),
            Self::RenewEpoch { .. }
            | Self::Read { .. }
            | Self::Knows { .. }
            | Self::Commands { .. }
            | Self::Command { .. }
            | Self::Commits { .. }
            | Self::State { .. }
            | Self::Gaps { .. }
            | Self::Release { .. }
            | Self::Status(_)
            | Self::Close { .. } => 0,
        }
    }

    /// Tells the caller why nothing was done.
    pub(super) fn refuse(self, error: SpoolError) {
        match self {
            Self::Write { reply, .. } => answer(reply, Err(error)),
            Self::WriteAll { reply, .. } => answer(reply, Err(error)),
            Self::StoreCommands { reply, .. } => answer(reply, Err(error)),
            Self::GiveCommand { reply, .. } => answer(reply, Err(error)),
            Self::RenewEpoch { reply, .. } | Self::State { reply } => answer(reply, Err(error)),
            Self::Read { reply, .. } => answer(reply, Err(error)),
            Self::Knows { reply, .. } => answer(reply, Err(error)),
            Self::Commands { reply, .. } => answer(reply, Err(error)),
            Self::Command { reply, .. } => answer(reply, Err(error)),
            Self::Commits { reply } => answer(reply, Err(error)),
            Self::Gaps { reply, .. } => answer(reply, Err(error)),
            Self::Close { reply } => answer(reply, Err(error)),
            // Nobody waits for an answer.
            Self::Release { .. } | Self::Status(_) => {}
        }
    }
}

/// A request and its place in the queue, which is free again once the request has been taken out.
#[derive(Debug)]
pub(in super::super) struct Ticketed {
    pub(in super::super) request: Request,
    pub(in super::super) _turn: OwnedSemaphorePermit,
}

/// A caller that has gone away does not want the answer.
pub(super) fn answer<T>(reply: Reply<T>, value: Result<T>) {
    drop(reply.send(value));
}
