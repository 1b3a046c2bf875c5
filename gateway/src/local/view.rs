//! Commands of the spool in the words of the API.

use std::time::Duration;

use brrbrr_proto::api::{CommandView, OrderView, ProgressView, TransitionView};
use brrbrr_proto::id::RobotId;
use brrbrr_proto::time::{Stamp, WallClock};
use brrbrr_proto::up::Progress;

use crate::calendar::iso8601;
use crate::spool::{KeptCommand, Origin};

/// Who asked, where the relay sent the command: whoever that was, only the relay knows.
const RELAY: &str = "relay";

/// A command as callers read it.
pub(super) fn command(
    robot: RobotId,
    kept: &KeptCommand,
    with_history: bool,
    now: Stamp,
) -> CommandView {
    let stored = &kept.stored;
    let (actor, key) = match &stored.origin {
        Origin::Relay => (RELAY.to_owned(), None),
        Origin::Board { actor, key } => (actor.clone(), key.clone()),
    };
    let given = given_at(kept, now);
    let history = with_history.then(|| {
        let steps = kept.history.iter().map(|step| TransitionView {
            state: name(step.state).to_owned(),
            at: iso8601(step.at.wall),
            detail: step.detail.clone(),
        });
        steps.collect()
    });
    CommandView {
        id: kept.id().to_string(),
        robot: robot.number(),
        order: OrderView::from(&stored.command.order),
        actor,
        idempotency_key: key,
        state: name(stored.progress).to_owned(),
        detail: kept.detail().to_owned(),
        is_final: stored.progress.is_final(),
        submitted_at: iso8601(given),
        expires_at: iso8601(later(given, stored.command.time_to_live)),
        progress: kept.reached.as_ref().map(|reached| ProgressView {
            percent: reached.percent,
            text: reached.text.clone(),
            at: iso8601(reached.at.wall),
        }),
        cancelling: kept.cancelling,
        unknown_since: None,
        history,
    }
}

/// When it came to the board. Where a damaged spool has lost that, its time since the boot tells, or
/// else it was before this boot.
fn given_at(kept: &KeptCommand, now: Stamp) -> WallClock {
    if let Some(given) = kept.given_at() {
        return given.wall;
    }
    let age = if kept.stored.boot == now.boot {
        now.uptime.since(kept.stored.received)
    } else {
        now.uptime.since_boot()
    };
    WallClock(now.wall.0.saturating_sub(micros(age)))
}

fn later(at: WallClock, by: Duration) -> WallClock {
    WallClock(at.0.saturating_add(micros(by)))
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// The name of a state, the same as the relay's.
pub(super) const fn name(progress: Progress) -> &'static str {
    match progress {
        Progress::Received => "received",
        Progress::Running => "running",
        Progress::Succeeded => "succeeded",
        Progress::Failed => "failed",
        Progress::Cancelled => "cancelled",
        Progress::Expired => "expired",
        Progress::Superseded => "superseded",
        Progress::Interrupted => "interrupted",
    }
}

/// The states that commands have on a board or before they come to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// Only the relay's ledger has commands in this state.
    Elsewhere,
    /// On a board too.
    Here(Progress),
}

impl Shown {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let all = [
            Progress::Received,
            Progress::Running,
            Progress::Succeeded,
            Progress::Failed,
            Progress::Cancelled,
            Progress::Expired,
            Progress::Superseded,
            Progress::Interrupted,
        ];
        if matches!(text, "queued" | "sent") {
            return Some(Self::Elsewhere);
        }
        let found = all.into_iter().find(|progress| name(*progress) == text);
        found.map(Self::Here)
    }
}
