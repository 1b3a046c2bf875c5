//! How commands are taken up: new ones, those of before a restart, and what halts the robot while
//! nothing can be stored.

use std::collections::VecDeque;

use brrbrr_proto::down::Order;
use brrbrr_proto::id::CommandId;
use brrbrr_proto::time::Uptime;
use brrbrr_proto::up::Progress;

use super::active::{Active, Draft, State, change_of};
use super::watching::Watch;
use super::{Commands, Reach, UNFINISHED_MAX, update};
use crate::spool::{CommandChange, HandOver, StoredCommand};

/// How many commands that halt the robot may be under way without being stored. One halts it; more
/// at a time are repeats.
const UNRECORDED_MAX: usize = 16;

/// How many ends are remembered of commands that could not be stored. The relay sends as many at a
/// time ([`brrbrr_proto::down::MAX_COMMANDS`]); where more end, the oldest are forgotten, and end by
/// their deadline when they come again.
const ENDED_MAX: usize = 64;

/// How many motions are remembered that could not be stored: more than the relay sends until it has
/// to hear that they were.
const REFUSED_MAX: usize = 256;

/// What came and could not be stored.
#[derive(Debug, Default)]
pub(super) struct Unrecorded {
    /// What halted the robot and has ended, the newest last. A frame that came twice and was stored once
    /// must not halt it again.
    halted: VecDeque<CommandId>,
    /// The ends of commands that were passed on.
    ended: VecDeque<Ended>,
    /// Motions, and whether a stop came since. Such a motion must not be started when it
    /// comes again and can be stored.
    motions: VecDeque<(CommandId, bool)>,
}

#[derive(Debug)]
struct Ended {
    id: CommandId,
    progress: Progress,
    hand_over: HandOver,
    detail: String,
}

impl Unrecorded {
    /// Keeps how a command ended until it can be stored.
    pub(super) fn keep(&mut self, stored: &StoredCommand, detail: String) {
        if self.ended.len() >= ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(Ended {
            id: stored.command.id,
            progress: stored.progress,
            hand_over: stored.hand_over,
            detail,
        });
    }

    fn refused(&mut self, motion: CommandId) {
        if self.motions.iter().any(|(id, _)| *id == motion) {
            return;
        }
        if self.motions.len() >= REFUSED_MAX {
            self.motions.pop_front();
        }
        self.motions.push_back((motion, false));
    }

    fn stop_motions(&mut self) {
        for (_, is_stopped) in &mut self.motions {
            *is_stopped = true;
        }
    }

    /// Forgets a motion, and says whether it was stopped.
    fn take_stopped(&mut self, motion: CommandId) -> bool {
        let index = self.motions.iter().position(|(id, _)| *id == motion);
        let motion = index.and_then(|index| self.motions.remove(index));
        motion.is_some_and(|(_, is_stopped)| is_stopped)
    }

    pub(super) fn is_stopped(&self, motion: CommandId) -> bool {
        self.motions.contains(&(motion, true))
    }

    /// Remembers that a command which halts the robot has ended.
    pub(super) fn note_halted(&mut self, id: CommandId) {
        if self.halted.len() >= ENDED_MAX {
            self.halted.pop_front();
        }
        self.halted.push_back(id);
    }

    fn knows(&self, id: CommandId) -> bool {
        self.ended.iter().any(|ended| ended.id == id)
    }

    fn take(&mut self, id: CommandId) -> Option<Ended> {
        let index = self.ended.iter().position(|ended| ended.id == id)?;
        self.ended.remove(index)
    }
}

impl Commands {
    /// Decides what becomes of a command that was unfinished when the daemon stopped.
    pub(super) fn take_up(&mut self, stored: StoredCommand, now: Uptime) {
        let same_boot = stored.boot == self.boot;
        let (progress, hand_over) = (stored.progress, stored.hand_over);
        let index = self.push(stored, true);
        match (progress, hand_over) {
            (Progress::Received, HandOver::NotYet) if !same_boot => {
                let why = "the board was restarted before it was started";
                self.end_one(index, Progress::Expired, why.to_owned());
            }
            (Progress::Received, HandOver::NotYet) => self.arrange(index),
            (Progress::Running, _) if same_boot => {
                self.active[index].state = State::Running;
                self.watch = Some(Watch::taken_up(self.active[index].id(), now));
            }
            (Progress::Running, _) => {
                let why = "the board was restarted while it ran";
                self.end_one(index, Progress::Interrupted, why.to_owned());
            }
            _ => {
                let why = "the gateway stopped while handing it to the robot";
                self.end_in_doubt(index, why.to_owned());
            }
        }
    }

    /// Puts a new command in its place, with what follows for older ones.
    pub(super) fn admit(&mut self, stored: StoredCommand, now: Uptime) {
        let is_late = stored.deadline <= now;
        let is_full = self.active.len() >= UNFINISHED_MAX && !self.has_room_of_its_own(&stored);
        let was_stopped = self.unrecorded.take_stopped(stored.command.id);
        let index = self.push(stored, true);
        if is_late {
            // It is not done any more, but what it was to take the place of is not wanted either.
            let id = self.active[index].id();
            self.arrange(index);
            let why = "it was received after its time had passed";
            if let Some(index) = self.find(id) {
                self.end_one(index, Progress::Expired, why.to_owned());
            }
            return;
        }
        if is_full {
            let why = format!("{UNFINISHED_MAX} commands are unfinished already");
            return self.end_one(index, Progress::Failed, why);
        }
        if was_stopped {
            let why = "stopped before it was started".to_owned();
            return self.end_one(index, Progress::Cancelled, why);
        }
        self.arrange(index);
    }

    /// Whether a command is taken however many are unfinished: a stop, of which one waits at a time,
    /// and one cancellation of each command.
    fn has_room_of_its_own(&self, stored: &StoredCommand) -> bool {
        match stored.command.order {
            Order::Stop => true,
            Order::Cancel(target) => self.find(target).is_some() && !self.is_cancelling(target),
            Order::GoTo(_)
            | Order::Pause
            | Order::Resume
            | Order::Dock
            | Order::Say(_)
            | Order::Custom(_)
            | Order::Withdrawn => false,
        }
    }

    /// Whether a command was passed on to the robot although the spool did not have it.
    pub(super) fn was_passed_on(&self, id: CommandId) -> bool {
        let mut active = self.active.iter();
        self.unrecorded.knows(id) || active.any(|a| a.id() == id && !a.is_recorded)
    }

    /// Passes on a command that could not be stored, if it halts the robot. Says whether it is passed
    /// on, now or before.
    pub(super) fn pass_on(&mut self, mut stored: StoredCommand, now: Uptime) -> bool {
        let id = stored.command.id;
        if self.was_passed_on(id) || self.unrecorded.halted.contains(&id) {
            return true;
        }
        let unrecorded = self.active.iter().filter(|active| !active.is_recorded);
        let is_wanted = match stored.command.order {
            Order::Stop => true,
            Order::Cancel(target) => self
                .find(target)
                .is_some_and(|at| self.active[at].is_motion() && self.active[at].is_handed()),
            Order::GoTo(_)
            | Order::Pause
            | Order::Resume
            | Order::Dock
            | Order::Say(_)
            | Order::Custom(_)
            | Order::Withdrawn => false,
        };
        let is_possible = stored.deadline > now
            && stored.boot == self.boot
            && unrecorded.count() < UNRECORDED_MAX
            && self.find(id).is_none();
        if !is_wanted || !is_possible {
            if stored.command.order.sets_in_motion() {
                self.unrecorded.refused(id);
            }
            return false;
        }
        stored.hand_over = HandOver::NotYet;
        let index = self.push(stored, false);
        self.arrange(index);
        true
    }

    /// Takes note that the spool has a command that was passed on before. Says whether it was.
    pub(super) fn record(&mut self, id: CommandId) -> bool {
        if let Some(ended) = self.unrecorded.take(id) {
            let Ended {
                id,
                progress,
                hand_over,
                detail,
            } = ended;
            let change = CommandChange {
                id,
                progress,
                hand_over,
            };
            self.persist(Draft {
                events: vec![update(id, progress, &detail)],
                ..Draft::of(Some(change))
            });
            return true;
        }
        let Some(index) = self.find(id) else {
            return false;
        };
        let active = &mut self.active[index];
        if !active.is_recorded {
            active.is_recorded = true;
            let change = change_of(&active.stored);
            self.persist(Draft::of(Some(change)));
        }
        true
    }

    fn push(&mut self, stored: StoredCommand, is_recorded: bool) -> usize {
        self.active.push(Active {
            stored,
            state: State::WAITING,
            is_recorded,
            why: String::new(),
        });
        self.active.len() - 1
    }

    /// Does what the newest command means for those before it.
    pub(super) fn arrange(&mut self, index: usize) {
        match self.active[index].stored.command.order {
            Order::GoTo(_) | Order::Dock => {
                let why = format!("replaced by {}", self.active[index].id());
                self.end_waiting_before(index, Progress::Superseded, &why);
            }
            Order::Stop => {
                self.unrecorded.stop_motions();
                let why = "stopped before it was started";
                self.end_waiting_before(index, Progress::Cancelled, why);
            }
            // See `withdraw`.
            Order::Cancel(_)
            | Order::Pause
            | Order::Resume
            | Order::Say(_)
            | Order::Custom(_)
            | Order::Withdrawn => {}
        }
    }

    /// Ends what was to set the robot in motion before `index` and has not reached it. Of stops that
    /// wait, the newest is enough.
    fn end_waiting_before(&mut self, index: usize, progress: Progress, why: &str) {
        let mut draft = Draft::default();
        let stops = self.active[index].halts_all();
        for older in (0..index).rev() {
            let active = &self.active[older];
            if stops && active.halts_all() && active.is_waiting() {
                let why = "a newer stop has taken its place".to_owned();
                self.end(older, Progress::Superseded, why, &mut draft);
            } else if active.sets_in_motion() && !active.is_handed() {
                self.end(older, progress, why.to_owned(), &mut draft);
            }
        }
        self.persist(draft);
    }

    /// Carries out the cancellations that need no robot: those of commands that wait, and those that
    /// are for nothing.
    pub(super) fn withdraw(&mut self) {
        let mut index = 0;
        while let Some(active) = self.active.get(index) {
            let target = active.withdraws().filter(|_| active.is_waiting());
            let count = self.active.len();
            if let Some(target) = target {
                self.withdraw_one(index, target);
            }
            // Whatever ended may stand before or behind it, so it is begun anew.
            index = if self.active.len() < count {
                0
            } else {
                index + 1
            };
        }
    }

    /// Withdraws a command that waits. For a motion that the robot has, the cancellation waits to go
    /// to the robot like a stop.
    fn withdraw_one(&mut self, index: usize, target: CommandId) {
        let found = self.find(target).filter(|&found| found != index);
        let Some(found) = found else {
            let why =
                format!("{target} is not waiting or running here: it had ended, or never came");
            return self.end_one(index, Progress::Failed, why);
        };
        let active = &self.active[found];
        if !active.is_handed() {
            let mut draft = Draft::default();
            let why = "withdrawn before it was started".to_owned();
            self.end(found, Progress::Cancelled, why, &mut draft);
            let index = index - usize::from(found < index);
            self.end(index, Progress::Succeeded, String::new(), &mut draft);
            self.persist(draft);
        } else if !active.is_motion() {
            let why = format!("{target} is with the robot already and is no motion");
            self.end_one(index, Progress::Failed, why);
        }
    }

    /// How far to say that a command is handed over when it is stored, see [`Commands::plan`].
    pub(super) fn plan_of(&self, id: CommandId, order: &Order) -> HandOver {
        if self.is_unrecorded(id) {
            // If the daemon stops right after it is stored, it must not go out all the same.
            return HandOver::Offered;
        }
        let may_be_first = order.is_motion() || *order == Order::Stop;
        let is_idle = self.active.iter().all(|a| a.state == State::Running);
        if may_be_first && is_idle && self.reach == Reach::Ready {
            HandOver::Offered
        } else {
            HandOver::NotYet
        }
    }
}
