//! Robots whose face has gone and may come back. Pure: the time is passed in.

use std::collections::BTreeMap;
use std::time::Instant;

use brrbrr_proto::id::RobotId;

use crate::live::SocketId;

/// Each such robot, the socket that is still bound to it, and when the robot is free again. Bounded
/// by the number of robots.
#[derive(Debug, Default)]
pub(super) struct Absences {
    robots: BTreeMap<RobotId, (SocketId, Instant)>,
}

impl Absences {
    /// The robot's face has gone.
    pub(super) fn handle_gone(&mut self, robot: RobotId, socket: SocketId, free_at: Instant) {
        self.robots.insert(robot, (socket, free_at));
    }

    /// A face is bound to the robot.
    pub(super) fn handle_back(&mut self, robot: RobotId) {
        self.robots.remove(&robot);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.robots.values().map(|(_, free_at)| *free_at).min()
    }

    /// Which bindings have ended.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<(RobotId, SocketId)> {
        let over = self
            .robots
            .extract_if(.., |_, (_, free_at)| *free_at <= now);
        over.map(|(robot, (socket, _))| (robot, socket)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_robot_is_free_when_its_face_stays_away_and_not_when_it_comes_back() {
        let robots = [1, 2].map(|number| RobotId::new(number).unwrap());
        let socket = |name: &str| SocketId(name.to_owned());
        let now = Instant::now();
        let later = now + Duration::from_secs(30);
        let mut absences = Absences::default();
        absences.handle_gone(robots[0], socket("a"), later);
        absences.handle_gone(robots[1], socket("b"), later);
        absences.handle_back(robots[1]);
        assert_eq!(absences.poll_timeout(), Some(later));
        assert_eq!(absences.handle_timeout(now), []);
        assert_eq!(absences.handle_timeout(later), [(robots[0], socket("a"))]);
        assert_eq!(absences.poll_timeout(), None);
    }
}
