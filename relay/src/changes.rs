//! Tells whoever waits for a command that it has changed, and whoever ends commands that one was
//! entered. It only says where to look: the ledger is the truth, and another relay may change it
//! without a word here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use brrbrr_proto::id::CommandId;
use thiserror::Error;
use tokio::sync::{Notify, watch};

/// Waiters at a time. Each holds a connection, of which there are eight times as many.
pub const MAX_WAITERS: usize = 1024;

/// There are [`MAX_WAITERS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("too many callers wait for commands")]
pub struct TooMany;

/// Who waits for which command. See the module's documentation.
#[derive(Debug, Default)]
pub struct Changes {
    state: Mutex<State>,
    entered: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<CommandId, Waiting>,
    /// All waiters, of whatever command.
    count: usize,
    is_closed: bool,
}

#[derive(Debug)]
struct Waiting {
    count: usize,
    changed: watch::Sender<()>,
}

impl Changes {
    /// The command has changed in the ledger. To be called when that is durable.
    pub fn tell(&self, command: CommandId) {
        if let Some(waiting) = self.lock().waiting.get(&command) {
            waiting.changed.send_replace(());
        }
    }

    /// Waits for a command from now on. Look into the ledger afterwards, so that no change is missed.
    ///
    /// # Errors
    /// [`TooMany`] where too many wait.
    pub fn wait_for(self: &Arc<Self>, command: CommandId) -> Result<Waiter, TooMany> {
        let mut state = self.lock();
        if state.count >= MAX_WAITERS {
            return Err(TooMany);
        }
        state.count += 1;
        let waiting = state.waiting.entry(command).or_insert_with(|| Waiting {
            count: 0,
            changed: watch::Sender::new(()),
        });
        waiting.count += 1;
        let changed = waiting.changed.subscribe();
        Ok(Waiter {
            changes: Arc::clone(self),
            command,
            changed,
        })
    }

    /// A command was entered that nobody was offered yet.
    pub fn note_entered(&self) {
        self.entered.notify_one();
    }

    /// Waits until such a command is entered. Cancel-safe; for one task.
    pub async fn entered(&self) {
        self.entered.notified().await;
    }

    /// Nobody is to wait any more: the relay ends.
    pub fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        for waiting in state.waiting.values() {
            waiting.changed.send_replace(());
        }
    }

    /// Whether [`Changes::close`] was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No change of it can be left half-done, so a panic elsewhere does not matter.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits for a command, until it is dropped.
#[derive(Debug)]
pub struct Waiter {
    changes: Arc<Changes>,
    command: CommandId,
    changed: watch::Receiver<()>,
}

impl Waiter {
    /// Resolves when the command has changed since this was last called, or since the waiter was
    /// made. Cancel-safe.
    pub async fn changed(&mut self) {
        // The sender lives as long as this waiter.
        self.changed.changed().await.ok();
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut state = self.changes.lock();
        state.count = state.count.saturating_sub(1);
        if let Some(waiting) = state.waiting.get_mut(&self.command) {
            waiting.count = waiting.count.saturating_sub(1);
            if waiting.count == 0 {
                state.waiting.remove(&self.command);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_waiter_hears_of_its_command_only_and_misses_nothing() {
        let changes = Arc::new(Changes::default());
        let mut one = changes.wait_for(CommandId(1)).unwrap();
        let mut same = changes.wait_for(CommandId(1)).unwrap();
        let mut other = changes.wait_for(CommandId(2)).unwrap();
        changes.tell(CommandId(1));
        one.changed().await;
        same.changed().await;
        assert_eq!(one.changed().now_or_never(), None);
        assert_eq!(other.changed().now_or_never(), None);
        changes.close();
        one.changed().await;
        other.changed().await;
        assert!(changes.is_closed());
    }

    #[test]
    fn waiters_are_bounded_and_leave_nothing_behind() {
        let changes = Arc::new(Changes::default());
        let wait = |id: usize| changes.wait_for(CommandId(u128::try_from(id).unwrap() / 2));
        let waiters: Vec<_> = (0..MAX_WAITERS).map(|id| wait(id).unwrap()).collect();
        assert_eq!(wait(7).err(), Some(TooMany));
        drop(waiters);
        assert!(changes.lock().waiting.is_empty());
        assert!(wait(7).is_ok());
    }
}
