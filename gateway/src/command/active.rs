//! What is kept in memory of a command that has not ended.

use brrbrr_proto::down::Order;
use brrbrr_proto::id::CommandId;
use brrbrr_proto::time::Uptime;
use brrbrr_proto::up::{Event, Progress};

use super::Ticket;
use crate::spool::{CommandChange, HandOver, SourceId, StoredCommand};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Not handed over yet. After a failure it is not offered again before this moment.
    Waiting { not_before: Option<Uptime> },
    /// To be handed over once this step is stored.
    Offering(Ticket),
    /// On its way to the robot.
    Handing,
    /// A motion that the robot has.
    Running,
}

impl State {
    /// It may be offered as soon as the robot can be reached.
    pub(super) const WAITING: Self = Self::Waiting { not_before: None };
}

/// A command that has not ended.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) stored: StoredCommand,
    pub(super) state: State,
    /// Whether the spool has it. Only what halts the robot may be here before.
    pub(super) is_recorded: bool,
    /// Why it still waits, for people.
    pub(super) why: String,
}

impl Active {
    pub(super) const fn id(&self) -> CommandId {
        self.stored.command.id
    }

    pub(super) const fn is_motion(&self) -> bool {
        self.stored.command.order.is_motion()
    }

    /// Whether the robot may drive because of it.
    pub(super) const fn sets_in_motion(&self) -> bool {
        self.stored.command.order.sets_in_motion()
    }

    /// Whether it halts the robot. Such a command goes ahead of all others.
    pub(super) const fn halts(&self) -> bool {
        halts(&self.stored.command.order)
    }

    /// Whether it ends every motion before it.
    pub(super) const fn halts_all(&self) -> bool {
        matches!(self.stored.command.order, Order::Stop)
    }

    /// The command that it withdraws, if it does.
    pub(super) const fn withdraws(&self) -> Option<CommandId> {
        match self.stored.command.order {
            Order::Cancel(target) => Some(target),
            Order::GoTo(_)
            | Order::Stop
            | Order::Pause
            | Order::Resume
            | Order::Dock
            | Order::Say(_)
            | Order::Custom(_)
            | Order::Withdrawn => None,
        }
    }

    pub(super) const fn is_handed(&self) -> bool {
        matches!(self.state, State::Handing | State::Running)
    }

    pub(super) const fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    /// Whether the next word on it comes from the disk or from the robot's broker.
    pub(super) const fn is_under_way(&self) -> bool {
        matches!(self.state, State::Offering(_) | State::Handing)
    }

    /// Its row as it should be now. One that the spool does not have has none.
    pub(super) fn change(&self) -> Option<CommandChange> {
        self.is_recorded.then(|| change_of(&self.stored))
    }
}

/// Whether an order halts the robot.
pub(super) const fn halts(order: &Order) -> bool {
    matches!(order, Order::Stop | Order::Cancel(_))
}

pub(super) const fn change_of(stored: &StoredCommand) -> CommandChange {
    CommandChange {
        id: stored.command.id,
        progress: stored.progress,
        hand_over: stored.hand_over,
    }
}

/// What a step consists of while it is put together.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) source: Option<SourceId>,
    pub(super) changes: Vec<CommandChange>,
    pub(super) events: Vec<Event>,
}

impl Draft {
    /// Nothing but where a command stands.
    pub(super) fn of(change: Option<CommandChange>) -> Self {
        Self {
            changes: change.into_iter().collect(),
            ..Self::default()
        }
    }
}

/// The newest motion that may have reached the robot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Last {
    pub(super) id: CommandId,
    pub(super) progress: Progress,
    pub(super) hand_over: HandOver,
}
