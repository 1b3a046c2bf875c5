//! Which robots may drain their backlog at full speed: a fixed number at a time, first come, first
//! served, and each for a limited time while others wait. Pure.
//!
//! Whoever has no slot still has the base credit, so what happens now comes through at once.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use brrbrr_proto::id::RobotId;
use brrbrr_proto::time::Uptime;

/// How long a robot keeps its slot while others wait: long enough that a grant is worth its round
/// trip on a bad link, short enough that the last of some hundred robots waits for minutes, not hours.
const TURN: Duration = Duration::from_secs(10);
/// A slot by which nothing came for so long is given to somebody else.
const IDLE: Duration = Duration::from_secs(3);

/// A change of what a robot is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The robot got a slot.
    Full(RobotId),
    /// The robot has its slot no more.
    Base(RobotId),
}

/// The slots and who waits for one. See the module's documentation.
#[derive(Debug)]
pub struct Drain {
    slots: usize,
    holders: BTreeMap<RobotId, Holder>,
    line: BTreeMap<u64, RobotId>,
    tickets: BTreeMap<RobotId, u64>,
    next_ticket: u64,
    changes: VecDeque<Change>,
}

#[derive(Debug)]
struct Holder {
    since: Uptime,
    progress_at: Uptime,
    /// It has caught up, as far as is known.
    is_done: bool,
}

impl Holder {
    /// When the slot may be given to somebody who waits.
    fn due_at(&self) -> Uptime {
        if self.is_done {
            return self.since;
        }
        self.since.plus(TURN).min(self.progress_at.plus(IDLE))
    }
}

impl Drain {
    /// Starts with all slots free.
    #[must_use]
    pub const fn new(slots: usize) -> Self {
        Self {
            slots,
            holders: BTreeMap::new(),
            line: BTreeMap::new(),
            tickets: BTreeMap::new(),
            next_ticket: 0,
            changes: VecDeque::new(),
        }
    }

    /// How many may drain from now on. Who has a slot keeps it for the rest of its turn.
    pub fn set_slots(&mut self, slots: usize, now: Uptime) {
        if self.slots != slots {
            self.slots = slots;
            self.assign(now);
        }
    }

    /// A robot with a session has a backlog, or none any more. `has_sent` says that records of it
    /// came in just now.
    pub fn handle_news(&mut self, robot: RobotId, wants: bool, has_sent: bool, now: Uptime) {
        if let Some(holder) = self.holders.get_mut(&robot) {
            holder.is_done = !wants;
            if has_sent {
                holder.progress_at = now;
            }
        } else if wants {
            self.join(robot);
        } else {
            self.quit(robot);
        }
        self.assign(now);
    }

    /// The robot has no session any more.
    pub fn handle_closed(&mut self, robot: RobotId, now: Uptime) {
        self.quit(robot);
        self.take(robot);
        self.assign(now);
    }

    /// The moment that [`Drain::poll_timeout`] named has come, or any other.
    pub fn handle_timeout(&mut self, now: Uptime) {
        let is_over = |holder: &Holder| holder.is_done && holder.progress_at.plus(IDLE) <= now;
        let over = self.holders.iter().filter(|(_, holder)| is_over(holder));
        for robot in over.map(|(robot, _)| *robot).collect::<Vec<_>>() {
            self.take(robot);
        }
        self.assign(now);
    }

    /// When to call [`Drain::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Uptime> {
        let others_wait = !self.line.is_empty();
        let due = |holder: &Holder| match (others_wait, holder.is_done) {
            (true, _) => Some(holder.due_at()),
            (false, true) => Some(holder.progress_at.plus(IDLE)),
            (false, false) => None,
        };
        self.holders.values().filter_map(due).min()
    }

    /// What has changed since the last call.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// How many slots are in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.holders.len()
    }

    /// How many robots wait for a slot.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.line.len()
    }

    fn assign(&mut self, now: Uptime) {
        while !self.line.is_empty() {
            if self.holders.len() >= self.slots {
                if !self.make_room(now) {
                    return;
                }
                // There may be fewer slots than there were, so one that is free may not be left.
                if self.holders.len() >= self.slots {
                    continue;
                }
            }
            let Some((_, robot)) = self.line.pop_first() else {
                return;
            };
            self.tickets.remove(&robot);
            let holder = Holder {
                since: now,
                progress_at: now,
                is_done: false,
            };
            self.holders.insert(robot, holder);
            self.changes.push_back(Change::Full(robot));
        }
    }

    /// Takes the slot of whoever is due first, if anybody is.
    fn make_room(&mut self, now: Uptime) -> bool {
        let first = self
            .holders
            .iter()
            .min_by_key(|(_, h)| (!h.is_done, h.due_at()));
        let Some((&robot, holder)) = first.filter(|(_, holder)| holder.due_at() <= now) else {
            return false;
        };
        let wants_more = !holder.is_done;
        self.take(robot);
        if wants_more {
            self.join(robot);
        }
        true
    }

    fn take(&mut self, robot: RobotId) {
        if self.holders.remove(&robot).is_some() {
            self.changes.push_back(Change::Base(robot));
        }
    }

    fn join(&mut self, robot: RobotId) {
        if !self.tickets.contains_key(&robot) {
            self.tickets.insert(robot, self.next_ticket);
            self.line.insert(self.next_ticket, robot);
            self.next_ticket += 1;
        }
    }

    fn quit(&mut self, robot: RobotId) {
        if let Some(ticket) = self.tickets.remove(&robot) {
            self.line.remove(&ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn robot(number: u32) -> RobotId {
        RobotId::new(number).unwrap()
    }

    fn at(millis: u64) -> Uptime {
        Uptime::new(Duration::from_millis(millis))
    }

    /// Takes the changes and checks that each is one.
    fn apply(drain: &mut Drain, full: &mut BTreeSet<RobotId>) {
        while let Some(change) = drain.poll_change() {
            let is_change = match change {
                Change::Full(robot) => full.insert(robot),
                Change::Base(robot) => full.remove(&robot),
            };
            assert!(is_change, "{change:?} is none");
        }
    }

    #[test]
    fn a_robot_that_is_done_keeps_its_slot_until_it_is_silent_or_wanted() {
        let mut drain = Drain::new(1);
        let mut full = BTreeSet::new();
        drain.handle_news(robot(1), true, false, at(0));
        drain.handle_news(robot(1), false, true, at(1));
        apply(&mut drain, &mut full);
        assert_eq!(full, [robot(1)].into());
        drain.handle_news(robot(2), true, false, at(2));
        apply(&mut drain, &mut full);
        assert_eq!(full, [robot(2)].into());
        drain.handle_news(robot(2), false, true, at(3));
        drain.handle_timeout(drain.poll_timeout().unwrap());
        apply(&mut drain, &mut full);
        assert_eq!(full, [].into());
        assert_eq!(drain.poll_timeout(), None);
    }

    #[test]
    fn a_long_backlog_does_not_hold_a_slot_while_others_wait() {
        let mut drain = Drain::new(1);
        drain.handle_news(robot(1), true, true, at(0));
        for millis in (0..TURN.as_secs() * 1000).step_by(1000) {
            drain.handle_news(robot(1), true, true, at(millis));
            drain.handle_news(robot(2), true, false, at(millis));
        }
        let mut full = BTreeSet::new();
        apply(&mut drain, &mut full);
        assert_eq!(full, [robot(1)].into());
        drain.handle_timeout(at(10_000));
        apply(&mut drain, &mut full);
        assert_eq!(full, [robot(2)].into());
        assert_eq!(drain.waiting(), 1);
    }

    #[test]
    fn a_silent_robot_loses_its_slot_to_the_next_and_only_then() {
        let mut drain = Drain::new(1);
        drain.handle_news(robot(1), true, false, at(0));
        drain.handle_timeout(at(60_000));
        assert_eq!((drain.in_use(), drain.poll_timeout()), (1, None));
        drain.handle_news(robot(2), true, false, at(60_001));
        let mut full = BTreeSet::new();
        apply(&mut drain, &mut full);
        assert_eq!(full, [robot(2)].into());
    }

    #[test]
    fn with_fewer_slots_nobody_gets_one_until_enough_are_given_back() {
        let mut drain = Drain::new(2);
        for number in 1..=4 {
            drain.handle_news(robot(number), true, false, at(0));
        }
        drain.set_slots(1, at(0));
        drain.handle_closed(robot(1), at(1));
        assert_eq!((drain.in_use(), drain.waiting()), (1, 2));
        drain.set_slots(2, at(2));
        assert_eq!((drain.in_use(), drain.waiting()), (2, 1));
    }

    #[test]
    fn with_fewer_slots_the_turns_that_end_are_not_given_to_others() {
        let mut drain = Drain::new(2);
        for number in 1..=4 {
            drain.handle_news(robot(number), true, false, at(0));
        }
        drain.set_slots(1, at(0));
        assert_eq!((drain.in_use(), drain.waiting()), (2, 2));
        drain.handle_timeout(drain.poll_timeout().unwrap());
        assert_eq!((drain.in_use(), drain.waiting()), (1, 3));
    }

    #[derive(Debug, Clone)]
    enum Step {
        News(u32, bool, bool),
        Closed(u32),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1_u32..20, any::<bool>(), any::<bool>())
                .prop_map(|(who, wants, sent)| Step::News(who, wants, sent)),
            1 => (1_u32..20).prop_map(Step::Closed),
            2 => (0_u64..4_000).prop_map(Step::Pass),
        ]
    }

    proptest! {
        #[test]
        fn slots_are_never_overdrawn_nor_lost_and_everybody_gets_one(
            slots in 1_usize..6,
            steps in prop::collection::vec(step(), 1..200),
        ) {
            let mut drain = Drain::new(slots);
            let mut full = BTreeSet::new();
            let mut wanting = BTreeSet::new();
            let mut now = 0;
            for step in steps {
                match step {
                    Step::News(who, wants, sent) => {
                        let who = robot(who);
                        drain.handle_news(who, wants, sent, at(now));
                        if wants { wanting.insert(who); } else { wanting.remove(&who); }
                    }
                    Step::Closed(who) => {
                        drain.handle_closed(robot(who), at(now));
                        wanting.remove(&robot(who));
                        apply(&mut drain, &mut full);
                        prop_assert!(!full.contains(&robot(who)));
                    }
                    Step::Pass(millis) => {
                        now += millis;
                        drain.handle_timeout(at(now));
                    }
                }
                apply(&mut drain, &mut full);
                prop_assert!(full.len() <= slots);
                prop_assert_eq!(full.len(), drain.in_use());
                let without = wanting.difference(&full).count();
                prop_assert_eq!(without, drain.waiting());
                prop_assert!(without == 0 || full.len() == slots, "a slot is free and somebody waits");
            }
            // From here on all of them drain without end, and the time shares decide.
            let mut served = BTreeSet::new();
            let rounds = wanting.len().div_ceil(slots) + 1;
            for _ in 0..rounds {
                for _ in 0..10 {
                    served.extend(full.iter().copied());
                    now += 1_000;
                    for who in &wanting {
                        drain.handle_news(*who, true, full.contains(who), at(now));
                        apply(&mut drain, &mut full);
                    }
                }
            }
            served.extend(full.iter().copied());
            prop_assert!(wanting.is_subset(&served), "{:?} never had a slot", wanting.difference(&served));
            for number in 1..20 {
                drain.handle_closed(robot(number), at(now));
            }
            apply(&mut drain, &mut full);
            prop_assert_eq!((full.len(), drain.in_use(), drain.waiting()), (0, 0, 0));
            prop_assert_eq!(drain.poll_timeout(), None);
        }
    }
}
