//! How commands are handed to the robot.

use brrbrr_proto::down::Order;
use brrbrr_proto::id::CommandId;
use brrbrr_proto::time::Uptime;
use brrbrr_proto::up::Progress;

use super::active::{Active, Draft, State};
use super::watching::Watch;
use super::{Commands, OFFER_AGAIN, Output, Reach, Ticket, update};
use crate::spool::HandOver;

const NOTHING_TO_RESUME: &str = "no motion is under way that could go on";

impl Commands {
    /// The command that may be offered now: first what halts the robot, then one at a time, in the
    /// order of arrival, and never past an older command that halts.
    pub(super) fn next_to_offer(&self, now: Uptime) -> Option<usize> {
        let may_go = |active: &Active| match active.state {
            State::Waiting { not_before } => not_before.is_none_or(|at| at <= now),
            State::Offering(_) | State::Handing | State::Running => false,
        };
        let may_halt = |(index, active): (usize, &Active)| {
            let target = active.withdraws();
            active.halts() && may_go(active) && target.is_none_or(|id| self.may_halt(index, id))
        };
        let mut active = self.active.iter().enumerate();
        let halting = active.find(|&candidate| may_halt(candidate));
        let halting = halting.map(|(index, _)| index);
        if halting.is_some() && self.reach >= Reach::Draining {
            return halting;
        }
        if self.reach < Reach::Ready {
            return None;
        }
        // One that waits to be offered again holds up those behind it: they came after it.
        let is_before = |active: &Active| active.halts() || active.state != State::Running;
        let first = self.active.iter().position(is_before)?;
        let is_free = !self.active.iter().any(|a| !a.halts() && a.is_under_way());
        let first_may_go = !self.active[first].halts() && may_go(&self.active[first]);
        (is_free && first_may_go).then_some(first)
    }

    /// Whether it would have the robot go on although it has no motion.
    fn has_nothing_to_resume(&self, index: usize) -> bool {
        let is_on = |active: &Active| active.is_motion() && active.is_handed();
        self.active[index].stored.command.order == Order::Resume && !self.active.iter().any(is_on)
    }

    /// Whether the cancellation at `index` may go to the robot as a stop: it is still for a motion
    /// that the robot has, no other one is under way for it, and no newer motion is about to take
    /// its place, which the stop would hit.
    fn may_halt(&self, index: usize, target: CommandId) -> bool {
        let Some(found) = self.find(target) else {
            return false;
        };
        let others = self.active.iter().enumerate();
        let mut others = others.filter(|(other, _)| *other != index);
        let is_in_the_way = |(other, active): (usize, &Active)| {
            let is_same = active.withdraws() == Some(target) && active.is_under_way();
            let is_newer = active.is_motion() && other > found && active.state == State::Handing;
            is_same || is_newer
        };
        self.active[found].is_handed() && !others.any(is_in_the_way)
    }

    pub(super) fn offer(&mut self, index: usize, now: Uptime) {
        if self.has_nothing_to_resume(index) {
            return self.end_one(index, Progress::Failed, NOTHING_TO_RESUME.to_owned());
        }
        let active = &mut self.active[index];
        active.stored.hand_over = HandOver::Offered;
        let halts = active.halts();
        let Some(change) = active.change() else {
            // Nothing can be stored, and it must go out all the same.
            return self.hand(index);
        };
        let ticket = self.persist(Draft::of(Some(change)));
        self.active[index].state = State::Offering(ticket);
        if halts && self.persist_at.is_some() {
            // The disk is full, see `handle_persist_failed`.
            self.hand_over(ticket, now);
        }
    }

    /// Hands over a command that was stored as offered, unless something has come in its way.
    pub(super) fn take_offer(&mut self, index: usize, now: Uptime) {
        if self.next_to_offer(now) == Some(index) {
            self.active[index].stored.hand_over = HandOver::Offered;
            self.hand(index);
        } else {
            let change = self.active[index].change();
            self.persist(Draft::of(change));
        }
    }

    /// Hands over the command whose offer is durable, if it is still wanted.
    pub(super) fn hand_over(&mut self, ticket: Ticket, now: Uptime) {
        let mut active = self.active.iter();
        let Some(index) = active.position(|a| a.state == State::Offering(ticket)) else {
            return;
        };
        if self.active[index].stored.deadline <= now {
            let why = "its time passed before it was started".to_owned();
            return self.end_one(index, Progress::Expired, why);
        }
        if self.has_nothing_to_resume(index) {
            return self.end_one(index, Progress::Failed, NOTHING_TO_RESUME.to_owned());
        }
        let withdraws = self.active[index].withdraws();
        let is_in_vain = withdraws.is_some_and(|target| !self.may_halt(index, target));
        let is_unheard = !self.active[index].halts() && self.reach < Reach::Ready;
        if is_in_vain || is_unheard {
            // What it was for has ended meanwhile, or something newer takes its place just now; or the
            // robot's broker has gone, and what it kept has to be heard first.
            let active = &mut self.active[index];
            active.stored.hand_over = HandOver::NotYet;
            active.state = State::WAITING;
            let change = active.change();
            self.persist(Draft::of(change));
            return;
        }
        self.hand(index);
    }

    fn hand(&mut self, index: usize) {
        let active = &mut self.active[index];
        active.state = State::Handing;
        let id = active.id();
        let order = match active.halts() {
            true => Order::Stop,
            false => active.stored.command.order.clone(),
        };
        let deadline = active.stored.deadline;
        // While nothing can be stored an order to halt goes out all the same. What waits to be stored
        // must not say then that the robot has not seen it: a daemon that begins with that would hand
        // it over again.
        for change in self.steps.iter_mut().flat_map(|step| &mut step.changes) {
            if change.id == id && change.hand_over == HandOver::NotYet {
                change.hand_over = HandOver::Offered;
            }
        }
        self.remember(index);
        self.outputs.push_back(Output::Execute {
            id,
            order,
            deadline,
        });
    }

    /// The robot has it.
    pub(super) fn confirm(&mut self, index: usize, now: Uptime) {
        let mut draft = Draft::default();
        let id = self.active[index].id();
        self.active[index].stored.hand_over = HandOver::Confirmed;
        let order = self.active[index].stored.command.order.clone();
        let target = self.active[index].withdraws();
        match order {
            Order::GoTo(_) | Order::Dock => {
                self.supersede_running_before(index, &mut draft);
                let index = self.find(id).unwrap_or(index);
                let active = &mut self.active[index];
                active.state = State::Running;
                active.stored.progress = Progress::Running;
                draft.changes.extend(active.change());
                draft.events.push(update(id, Progress::Running, ""));
                self.watch = Some(Watch::new(id, now));
                self.remember(index);
            }
            Order::Stop | Order::Cancel(_) => {
                let is_late = target.is_some_and(|target| self.find(target).is_none());
                for older in (0..index).rev() {
                    let active = &self.active[older];
                    let is_meant = target.is_none_or(|target| active.id() == target);
                    if is_meant && active.is_motion() && active.is_handed() {
                        let why = "stopped on the way".to_owned();
                        self.end(older, Progress::Cancelled, why, &mut draft);
                    }
                }
                let index = self.find(id).unwrap_or(index);
                let (progress, why) = match is_late {
                    true => (Progress::Failed, "what it is for had ended by itself"),
                    false => (Progress::Succeeded, ""),
                };
                self.end(index, progress, why.to_owned(), &mut draft);
            }
            Order::Pause | Order::Resume => {
                self.watch_pause(order == Order::Pause, now);
                self.end(index, Progress::Succeeded, String::new(), &mut draft);
            }
            Order::Say(_) | Order::Custom(_) | Order::Withdrawn => {
                self.end(index, Progress::Succeeded, String::new(), &mut draft);
            }
        }
        self.persist(draft);
    }

    /// The robot surely has not got it. It waits, unless something newer has taken its place.
    pub(super) fn wait_again(&mut self, index: usize, why: String, now: Uptime) {
        let active = &mut self.active[index];
        active.stored.hand_over = HandOver::NotYet;
        active.why = why;
        active.state = State::Waiting {
            not_before: Some(now.plus(OFFER_AGAIN)),
        };
        let change = active.change();
        self.remember(index);
        let own = self.active[index].id();
        let is_newer = |active: &&Active| {
            // A cancellation that is on its way to the robot does not come again.
            let withdraws = active.withdraws() == Some(own) && active.is_under_way();
            active.is_motion() || active.halts_all() || withdraws
        };
        let newer = self.active[index + 1..].iter().find(is_newer);
        let drives = self.active[index].sets_in_motion();
        match newer.filter(|_| drives).map(|n| (n.id(), n.is_motion())) {
            Some((id, true)) => {
                self.end_one(index, Progress::Superseded, format!("replaced by {id}"));
            }
            Some((_, false)) => {
                let why = "stopped before it was started".to_owned();
                self.end_one(index, Progress::Cancelled, why);
            }
            None => {
                self.persist(Draft::of(change));
            }
        }
    }

    pub(super) fn supersede_running_before(&mut self, index: usize, draft: &mut Draft) {
        let why = format!("replaced by {}", self.active[index].id());
        for older in (0..index).rev() {
            if self.active[older].state == State::Running {
                self.end(older, Progress::Superseded, why.clone(), draft);
            }
        }
    }
}
