//! Which runs of records are being stored now and which wait, so that a fleet that drains at once
//! makes no more work at a time than a few hundred robots. Pure.
//!
//! Each robot's runs keep their order. What waits here is of each robot's last session, so what the
//! robots are granted bounds it.

use std::collections::{BTreeMap, VecDeque};

use brrbrr_proto::id::RobotId;

/// Runs in work and runs that wait. See the module's documentation.
#[derive(Debug)]
pub struct Stores<T> {
    /// Robots whose runs may be in work at a time.
    limit: usize,
    /// How many bytes of runs are in work. Bytes and not runs, since runs are joined in work.
    in_work: BTreeMap<RobotId, usize>,
    held: VecDeque<(RobotId, usize, T)>,
    peak: usize,
}

impl<T> Stores<T> {
    /// Starts without any.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self {
            limit,
            in_work: BTreeMap::new(),
            held: VecDeque::new(),
            peak: 0,
        }
    }

    /// A robot sent a run of so many bytes. [`Stores::poll_next`] says when it is to be stored.
    pub fn push(&mut self, robot: RobotId, bytes: usize, run: T) {
        self.held.push_back((robot, bytes, run));
    }

    /// The next run to store. [`Stores::end`] must follow.
    pub fn poll_next(&mut self) -> Option<(RobotId, T)> {
        let (robot, ..) = self.held.front()?;
        if !self.in_work.contains_key(robot) && self.in_work.len() >= self.limit {
            return None;
        }
        let (robot, bytes, run) = self.held.pop_front()?;
        *self.in_work.entry(robot).or_default() += bytes;
        self.peak = self.peak.max(self.in_work.len());
        Some((robot, run))
    }

    /// So many bytes of the robot's runs are stored, or could not be.
    pub fn end(&mut self, robot: RobotId, bytes: usize) {
        if let Some(in_work) = self.in_work.get_mut(&robot) {
            *in_work = in_work.saturating_sub(bytes);
            if *in_work == 0 {
                self.in_work.remove(&robot);
            }
        }
    }

    /// Nothing of the robot's is in work any more: it is done in order, and something later is done.
    pub fn end_all(&mut self, robot: RobotId) {
        self.in_work.remove(&robot);
    }

    /// Drops the robot's runs that wait: they are of a session that is over, and come again.
    pub fn drop_held(&mut self, robot: RobotId) {
        self.held.retain(|(whose, ..)| *whose != robot);
    }

    /// Drops all that is known of a robot.
    pub fn forget(&mut self, robot: RobotId) {
        self.end_all(robot);
        self.drop_held(robot);
    }

    /// The most robots whose runs were in work at a time.
    #[must_use]
    pub const fn peak(&self) -> usize {
        self.peak
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn robot(number: u32) -> RobotId {
        RobotId::new(number).unwrap()
    }

    #[test]
    fn what_is_held_of_a_robot_that_is_forgotten_makes_no_work_and_keeps_no_place() {
        let mut stores = Stores::new(1);
        stores.push(robot(1), 5, 'a');
        stores.push(robot(2), 5, 'b');
        assert_eq!(stores.poll_next(), Some((robot(1), 'a')));
        assert_eq!(stores.poll_next(), None);
        stores.forget(robot(2));
        stores.forget(robot(1));
        stores.push(robot(3), 5, 'c');
        assert_eq!(stores.poll_next(), Some((robot(3), 'c')));
        stores.end(robot(1), 5);
        assert_eq!(stores.poll_next(), None);
    }

    #[test]
    fn runs_that_were_joined_in_work_end_together() {
        let mut stores = Stores::new(1);
        stores.push(robot(1), 5, 'a');
        stores.push(robot(1), 7, 'b');
        stores.push(robot(2), 1, 'c');
        assert_eq!(stores.poll_next(), Some((robot(1), 'a')));
        assert_eq!(stores.poll_next(), Some((robot(1), 'b')));
        assert_eq!(stores.poll_next(), None);
        stores.end(robot(1), 12);
        assert_eq!(stores.poll_next(), Some((robot(2), 'c')));
    }

    proptest! {
        #[test]
        fn every_run_is_stored_in_its_robots_order_within_the_limit(
            limit in 1_usize..4,
            pushes in prop::collection::vec((1_u32..8, any::<bool>()), 1..100),
        ) {
            let mut stores = Stores::new(limit);
            let mut in_work: VecDeque<RobotId> = VecDeque::new();
            let mut seen: BTreeMap<RobotId, Vec<usize>> = BTreeMap::new();
            let count = pushes.len();
            for (number, (who, ends)) in pushes.into_iter().enumerate() {
                stores.push(robot(who), 10, number);
                if ends && let Some(first) = in_work.pop_front() {
                    stores.end(first, 10);
                }
                while let Some((who, number)) = stores.poll_next() {
                    in_work.push_back(who);
                    seen.entry(who).or_default().push(number);
                }
            }
            while let Some(first) = in_work.pop_front() {
                stores.end(first, 10);
                while let Some((who, number)) = stores.poll_next() {
                    in_work.push_back(who);
                    seen.entry(who).or_default().push(number);
                }
            }
            prop_assert_eq!(seen.values().map(Vec::len).sum::<usize>(), count);
            prop_assert!(seen.values().all(|numbers| numbers.is_sorted()));
            prop_assert!(stores.peak() <= limit);
        }
    }
}
