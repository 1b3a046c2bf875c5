//! Who is served now of the robots that ask for something costly, who waits here, and who is sent
//! away for a time, so that thousands that come at once make no more work than a few. Pure.
//!
//! The line is kept by age: whoever was sent away before goes before those who were not, and the
//! youngest is sent away where there are too many. So a robot that keeps coming back is served in
//! the end, however many others come.

use std::collections::BTreeMap;
use std::time::Duration;

use brrbrr_proto::id::RobotId;
use brrbrr_proto::time::Uptime;

/// The longest that a robot should wait in the line. Gateways say hello again after a second at first,
/// and then an answer to the hello before is of no use any more.
const LONGEST_WAIT: Duration = Duration::from_millis(800);
/// The shortest pause that a gateway obeys.
const SHORTEST_PAUSE: Duration = Duration::from_secs(2);
/// No robot is sent away for longer than this. Gateways would obey ten minutes.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Up to this much is added to each pause by chance, in microseconds.
const JITTER_MICROS: u64 = 500_000;
/// After this long a slot is given to others though nobody said that its work is done. Longer than
/// any store takes to answer or to give up.
const LEASE: Duration = Duration::from_secs(30);

/// How much goes on at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Robots that are served at a time.
    pub slots: usize,
    /// Robots that wait for a slot.
    pub line: usize,
    /// How long one is served, until that has been measured.
    pub guess: Duration,
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival<T> {
    /// It is served now. [`Admission::end`] must follow.
    Serve(T),
    /// It waits for [`Admission::poll_next`].
    Waits,
    /// Somebody has to go for so long: the one who came, or a younger one who made room for it.
    Away(RobotId, T, Duration),
}

/// The slots and the line in front of them. See the module's documentation.
#[derive(Debug)]
pub struct Admission<T> {
    bounds: Bounds,
    /// Who is served, and since when.
    served: BTreeMap<RobotId, Uptime>,
    /// Who waits, by the time of the first request.
    line: BTreeMap<(Uptime, RobotId), T>,
    places: BTreeMap<RobotId, Uptime>,
    /// When those who were sent away first asked. One entry for each robot at most.
    away: BTreeMap<RobotId, Uptime>,
    /// Until then the slots are promised to those who were sent away.
    promised: Uptime,
    /// How long serving takes, smoothed as in RFC 6298.
    takes: Duration,
    sent_away: u64,
    peak: usize,
}

impl<T> Admission<T> {
    /// Starts with nobody.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            served: BTreeMap::new(),
            line: BTreeMap::new(),
            places: BTreeMap::new(),
            away: BTreeMap::new(),
            promised: Uptime::default(),
            takes: bounds.guess,
            sent_away: 0,
            peak: 0,
        }
    }

    /// A robot asks. What it asked before and still waits is replaced. `random` is a fresh number.
    pub fn arrive(&mut self, robot: RobotId, what: T, random: u64, now: Uptime) -> Arrival<T> {
        self.expire(now);
        if let Some(&since) = self.places.get(&robot) {
            self.line.insert((since, robot), what);
            return Arrival::Waits;
        }
        if self.line.is_empty() && self.has_slot_for(robot) {
            self.begin(robot, now);
            return Arrival::Serve(what);
        }
        let since = self.away.get(&robot).copied().unwrap_or(now);
        self.line.insert((since, robot), what);
        self.places.insert(robot, since);
        if self.line.len() <= self.room() {
            return Arrival::Waits;
        }
        let Some(((since, robot), what)) = self.line.pop_last() else {
            return Arrival::Waits;
        };
        self.places.remove(&robot);
        self.away.insert(robot, since);
        self.sent_away = self.sent_away.saturating_add(1);
        Arrival::Away(robot, what, self.pause(random, now))
    }

    /// Who is served next, where there is a slot. [`Admission::end`] must follow.
    pub fn poll_next(&mut self, now: Uptime) -> Option<(RobotId, T)> {
        self.expire(now);
        let free = |place: &&(Uptime, RobotId)| self.has_slot_for(place.1);
        let place = self.line.keys().find(free).copied()?;
        let what = self.line.remove(&place)?;
        self.places.remove(&place.1);
        self.begin(place.1, now);
        Some((place.1, what))
    }

    /// The robot is served. Others may be now.
    pub fn end(&mut self, robot: RobotId, now: Uptime) {
        if let Some(since) = self.served.remove(&robot) {
            self.takes = self.takes * 7 / 8 + now.since(since) / 8;
        }
    }

    /// Drops all that is known of a robot.
    pub fn forget(&mut self, robot: RobotId) {
        self.served.remove(&robot);
        self.away.remove(&robot);
        if let Some(since) = self.places.remove(&robot) {
            self.line.remove(&(since, robot));
        }
    }

    /// When [`Admission::poll_next`] may have somebody though nobody was ended.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Uptime> {
        let oldest = self.served.values().min().filter(|_| !self.line.is_empty());
        oldest.map(|since| since.plus(LEASE))
    }

    /// How many wait here.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.line.len()
    }

    /// How often somebody was sent away.
    #[must_use]
    pub const fn sent_away(&self) -> u64 {
        self.sent_away
    }

    /// The most that were served at a time.
    #[must_use]
    pub const fn peak(&self) -> usize {
        self.peak
    }

    fn has_slot_for(&self, robot: RobotId) -> bool {
        self.served.len() < self.bounds.slots && !self.served.contains_key(&robot)
    }

    fn begin(&mut self, robot: RobotId, now: Uptime) {
        self.away.remove(&robot);
        self.served.insert(robot, now);
        self.peak = self.peak.max(self.served.len());
    }

    fn expire(&mut self, now: Uptime) {
        self.served.retain(|_, since| since.plus(LEASE) > now);
    }

    /// How many may wait, so that the last of them does not wait too long.
    fn room(&self) -> usize {
        let rounds = LONGEST_WAIT.as_micros() / self.takes.as_micros().max(1);
        let rounds = usize::try_from(rounds).unwrap_or(usize::MAX);
        let room = rounds.saturating_mul(self.bounds.slots);
        room.clamp(self.bounds.slots.min(self.bounds.line), self.bounds.line)
    }

    /// How long to be away: until the slots have served all who were sent away before.
    fn pause(&mut self, random: u64, now: Uptime) -> Duration {
        let slots = u32::try_from(self.bounds.slots.max(1)).unwrap_or(u32::MAX);
        let earliest = now.plus(SHORTEST_PAUSE);
        let latest = now.plus(LONGEST_PAUSE);
        let back_at = self.promised.max(earliest).min(latest);
        self.promised = back_at.plus(self.takes / slots);
        back_at.since(now) + Duration::from_micros(random % JITTER_MICROS)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        slots: 2,
        line: 3,
        guess: Duration::from_millis(1),
    };

    fn robot(number: u32) -> RobotId {
        RobotId::new(number).unwrap()
    }

    fn at(millis: u64) -> Uptime {
        Uptime::new(Duration::from_millis(millis))
    }

    #[test]
    fn the_newest_request_of_a_robot_takes_the_place_of_its_older_one() {
        let mut admission = Admission::new(BOUNDS);
        for number in 1..=2 {
            let arrival = admission.arrive(robot(number), "", 0, at(0));
            assert_eq!(arrival, Arrival::Serve(""));
        }
        admission.arrive(robot(3), "old", 0, at(1));
        admission.arrive(robot(4), "other", 0, at(2));
        admission.arrive(robot(3), "new", 0, at(3));
        assert_eq!(admission.poll_next(at(4)), None);
        admission.end(robot(1), at(4));
        assert_eq!(admission.poll_next(at(4)), Some((robot(3), "new")));
        assert_eq!(admission.poll_next(at(4)), None);
    }

    #[test]
    fn a_robot_is_not_served_twice_at_a_time() {
        let mut admission = Admission::new(BOUNDS);
        admission.arrive(robot(1), 1, 0, at(0));
        assert_eq!(admission.arrive(robot(1), 2, 0, at(0)), Arrival::Waits);
        assert_eq!(admission.poll_next(at(0)), None);
        admission.end(robot(1), at(1));
        assert_eq!(admission.poll_next(at(1)), Some((robot(1), 2)));
    }

    #[test]
    fn whoever_was_sent_away_before_stays_and_a_younger_one_goes() {
        let mut admission = Admission::new(BOUNDS);
        for number in 1..=5 {
            admission.arrive(robot(number), (), 0, at(u64::from(number)));
        }
        let first = admission.arrive(robot(6), (), 0, at(6));
        assert!(matches!(first, Arrival::Away(who, (), _) if who == robot(6)));
        admission.end(robot(1), at(7));
        admission.poll_next(at(7));
        assert_eq!(admission.arrive(robot(7), (), 0, at(8)), Arrival::Waits);
        let back = admission.arrive(robot(6), (), 0, at(2000));
        assert!(matches!(back, Arrival::Away(who, (), _) if who == robot(7)));
        assert_eq!(admission.sent_away(), 2);
    }

    #[test]
    fn those_who_are_sent_away_come_back_as_fast_as_they_can_be_served() {
        let slow = Bounds {
            guess: Duration::from_millis(100),
            ..BOUNDS
        };
        let mut admission = Admission::new(slow);
        let mut pauses = Vec::new();
        for number in 1..=100 {
            if let Arrival::Away(_, (), pause) = admission.arrive(robot(number), (), 0, at(0)) {
                pauses.push(pause);
            }
        }
        assert_eq!(pauses.len(), 95);
        let expected = (0..95).map(|place| SHORTEST_PAUSE + Duration::from_millis(50) * place);
        assert!(pauses.into_iter().eq(expected));
    }

    #[test]
    fn a_slot_whose_work_never_ends_is_given_to_others_in_the_end() {
        let mut admission = Admission::new(BOUNDS);
        for number in 1..=3 {
            admission.arrive(robot(number), (), 0, at(0));
        }
        let due = admission.poll_timeout().unwrap();
        assert_eq!(admission.poll_next(at(1)), None);
        assert_eq!(admission.poll_next(due), Some((robot(3), ())));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Robots that obey come back until they are served, though others keep coming for half a
        /// minute, more than can be served.
        #[test]
        fn everybody_is_served_and_never_too_many_at_a_time(
            slots in 1_usize..5,
            line in 1_usize..10,
            takes in 1_u64..400,
            fleet in 1_u32..60,
            seed in any::<u64>(),
        ) {
            let bounds = Bounds { slots, line, guess: Duration::from_millis(takes) };
            let mut admission = Admission::new(bounds);
            let mut random = seed;
            let mut coming: BTreeSet<(u64, RobotId)> =
                (1..=fleet).map(|number| (u64::from(number % 7), robot(number))).collect();
            let mut served: BTreeMap<RobotId, u64> = BTreeMap::new();
            let mut missing: BTreeSet<RobotId> = (1..=fleet).map(robot).collect();
            let mut stranger = 1_000;
            for now in (0..700_000).step_by(5) {
                let ended: Vec<RobotId> =
                    served.iter().filter(|(_, end)| **end <= now).map(|(r, _)| *r).collect();
                for who in ended {
                    served.remove(&who);
                    admission.end(who, at(now));
                }
                while let Some((who, ())) = admission.poll_next(at(now)) {
                    served.insert(who, now + takes);
                }
                if now < 30_000 && now % 10 == 0 {
                    stranger += 1;
                    coming.insert((now, robot(stranger)));
                }
                while let Some(&(due, who)) = coming.first() && due <= now {
                    coming.pop_first();
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    match admission.arrive(who, (), random >> 8, at(now)) {
                        Arrival::Serve(()) => { served.insert(who, now + takes); }
                        Arrival::Waits => {}
                        Arrival::Away(who, (), pause) => {
                            let pause = u64::try_from(pause.as_millis()).unwrap();
                            // Strangers are not that patient, or the test would never end.
                            if who.number() < 1_000 { coming.insert((now + pause, who)); }
                        }
                    }
                }
                prop_assert!(served.len() <= slots);
                prop_assert!(admission.waiting() <= line);
                missing.retain(|who| !served.contains_key(who));
                if missing.is_empty() { break; }
            }
            prop_assert!(missing.is_empty(), "{} were never served", missing.len());
            prop_assert!(admission.peak() <= slots);
        }
    }
}
