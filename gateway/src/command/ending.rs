//! How commands end, and what the robot says about it.

use brrbrr_proto::id::CommandId;
use brrbrr_proto::up::{Arrived, Event, Progress};

use super::active::{Draft, Last, State, change_of};
use super::{Commands, Heard, Outcome, Report, Step, Ticket, update};
use crate::spool::{CommandChange, HandOver};

impl Commands {
    /// The motion that a report is about, if the robot has one.
    pub(super) fn reported(&self, named: Option<CommandId>) -> Option<usize> {
        let of = |state| {
            let mut active = self.active.iter();
            active.position(|a| a.state == state && a.is_motion())
        };
        match named {
            Some(id) => self
                .find(id)
                .filter(|&index| self.active[index].is_handed() && self.active[index].is_motion()),
            // Without a name it is the one that the robot had first.
            None => of(State::Running).or_else(|| of(State::Handing)),
        }
    }

    pub(super) fn end_motion(&mut self, index: usize, report: Report) -> Heard {
        let mut draft = Draft {
            source: report.source,
            ..Draft::default()
        };
        let id = self.active[index].id();
        if self.active[index].state == State::Handing {
            // The robot was faster than its broker's word that it has the order.
            self.active[index].stored.hand_over = HandOver::Confirmed;
            self.supersede_running_before(index, &mut draft);
            // The relay applies one record after the other: no two motions run, not even for a moment.
            draft.events.push(update(id, Progress::Running, ""));
        }
        let index = self.find(id).unwrap_or(index);
        match report.outcome {
            Outcome::Arrived(pose) => {
                let command = Some(id);
                draft.events.push(Event::Arrived(Arrived { command, pose }));
                self.active[index].stored.hand_over = HandOver::Arrived;
                self.end(index, Progress::Succeeded, String::new(), &mut draft);
                self.unordered = false;
            }
            Outcome::Failed(why) => self.end(index, Progress::Failed, why, &mut draft),
        }
        Heard::News(self.persist(draft))
    }

    /// Takes a report that no motion waits for.
    pub(super) fn note_late(&mut self, report: Report) -> Heard {
        let Outcome::Arrived(pose) = report.outcome else {
            return Heard::NoNews;
        };
        // Without a name it cannot be told whether a message that comes again was stored.
        let is_first = !report.redelivered || report.source.is_some();
        let mut draft = Draft {
            source: report.source,
            ..Draft::default()
        };
        let may_arrive =
            |last: &&mut Last| matches!(last.hand_over, HandOver::Offered | HandOver::Confirmed);
        let named = |last: &&mut Last| report.command.is_none_or(|id| id == last.id);
        let command = if let Some(last) = self.last.as_mut().filter(may_arrive).filter(named) {
            // It was given up here, but the robot had it and has arrived after all.
            last.hand_over = HandOver::Arrived;
            draft.changes.push(CommandChange {
                id: last.id,
                progress: last.progress,
                hand_over: HandOver::Arrived,
            });
            Some(last.id)
        } else if self.unordered && report.command.is_none() && is_first {
            None
        } else {
            return Heard::NoNews;
        };
        self.unordered = false;
        draft.events.push(Event::Arrived(Arrived { command, pose }));
        Heard::News(self.persist(draft))
    }

    pub(super) fn end_one(&mut self, index: usize, progress: Progress, why: String) {
        let mut draft = Draft::default();
        self.end(index, progress, why, &mut draft);
        self.persist(draft);
    }

    /// Ends a command of which nobody knows whether it has reached the robot. If it has, the robot has
    /// left the motion that it had for it, so nobody knows how that one ends either.
    pub(super) fn end_in_doubt(&mut self, index: usize, why: String) {
        let id = self.active[index].id();
        self.arrange(index);
        let Some(index) = self.find(id) else { return };
        let active = &self.active[index];
        let target = active.withdraws();
        let is_left = active.is_motion() || active.halts();
        let mut draft = Draft::default();
        for older in (0..index).rev().filter(|_| is_left) {
            let active = &self.active[older];
            let is_meant = target.is_none_or(|target| active.id() == target);
            if is_meant && active.state == State::Running {
                let why = format!("the robot may have left it for {id}");
                self.end(older, Progress::Interrupted, why, &mut draft);
            }
        }
        let index = self.find(id).unwrap_or(index);
        self.end(index, Progress::Interrupted, why, &mut draft);
        self.persist(draft);
    }

    /// Ends a command. What comes after it in `active` moves down by one.
    pub(super) fn end(&mut self, index: usize, progress: Progress, why: String, draft: &mut Draft) {
        let mut ended = self.active.remove(index);
        ended.stored.progress = progress;
        if matches!(ended.state, State::Offering(_)) {
            ended.stored.hand_over = HandOver::NotYet;
        }
        if let Some(last) = self.last.as_mut().filter(|last| last.id == ended.id()) {
            last.progress = progress;
            last.hand_over = ended.stored.hand_over;
        }
        if self
            .watch
            .as_ref()
            .is_some_and(|watch| watch.id == ended.id())
        {
            self.watch = None;
        }
        if ended.halts() {
            self.unrecorded.note_halted(ended.id());
        }
        if ended.is_recorded {
            draft.changes.push(change_of(&ended.stored));
            draft.events.push(update(ended.id(), progress, &why));
        } else {
            self.unrecorded.keep(&ended.stored, why);
        }
    }

    /// Keeps the motion at `index` as the newest that the robot may have.
    pub(super) fn remember(&mut self, index: usize) {
        let active = &self.active[index];
        if active.is_motion() {
            self.last = Some(Last {
                id: active.id(),
                progress: active.stored.progress,
                hand_over: active.stored.hand_over,
            });
        }
    }

    pub(super) fn persist(&mut self, draft: Draft) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        let Draft {
            source,
            changes,
            events,
        } = draft;
        if !changes.is_empty() || !events.is_empty() {
            self.next_ticket += 1;
            self.steps.push_back(Step {
                ticket,
                source,
                changes,
                events,
            });
        }
        ticket
    }
}
