//! The robots that this relay talks to: one relay half of the link each, and their timers. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use brrbrr_proto::down::Down;
use brrbrr_proto::frame::{self, FrameError};
use brrbrr_proto::id::{Epoch, RelayId, RobotId, SessionId};
use brrbrr_proto::link::Relay;
use brrbrr_proto::link::relay::{Grants, Now, Output};
use brrbrr_proto::seal::{Keys, Nonce};
use brrbrr_proto::time::Uptime;
use brrbrr_proto::topic::{Topic, TopicKind};

/// Every robot that has said hello since this relay started.
#[derive(Debug)]
pub struct Fleet {
    id: RelayId,
    grants: Grants,
    robots: BTreeMap<RobotId, Member>,
    timers: BTreeSet<(Uptime, RobotId)>,
    outputs: VecDeque<(RobotId, Output)>,
}

#[derive(Debug)]
struct Member {
    keys: Keys,
    link: Relay,
    timer: Option<Uptime>,
}

impl Fleet {
    /// Starts empty. `id` names the running relay process.
    #[must_use]
    pub const fn new(id: RelayId, grants: Grants) -> Self {
        Self {
            id,
            grants,
            robots: BTreeMap::new(),
            timers: BTreeSet::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Whether the robot's keys are known here.
    #[must_use]
    pub fn knows(&self, robot: RobotId) -> bool {
        self.robots.contains_key(&robot)
    }

    /// How many robots have a session.
    #[must_use]
    pub fn open_sessions(&self) -> usize {
        self.robots.values().filter(|m| m.link.is_open()).count()
    }

    /// Takes a robot in, or gives it new keys.
    pub fn admit(&mut self, robot: RobotId, keys: Keys) {
        match self.robots.get_mut(&robot) {
            Some(member) => member.keys = keys,
            None => {
                let member = Member {
                    keys,
                    link: Relay::new(self.id, self.grants),
                    timer: None,
                };
                self.robots.insert(robot, member);
            }
        }
    }

    /// Forgets a robot.
    pub fn dismiss(&mut self, robot: RobotId) {
        if let Some(timer) = self.robots.remove(&robot).and_then(|m| m.timer) {
            self.timers.remove(&(timer, robot));
        }
    }

    /// The robots that are known here and are not among these.
    #[must_use]
    pub fn not_among(&self, robots: &BTreeSet<RobotId>) -> Vec<RobotId> {
        let known = self.robots.keys();
        known.filter(|r| !robots.contains(r)).copied().collect()
    }

    /// A hello came in. `session` is a fresh random number. One of a robot that was not admitted is
    /// ignored.
    ///
    /// # Errors
    /// Where the frame cannot be opened with the robot's keys or read.
    pub fn handle_hello(
        &mut self,
        robot: RobotId,
        payload: &[u8],
        session: SessionId,
        now: Now,
    ) -> Result<(), FrameError> {
        let Some(member) = self.robots.get_mut(&robot) else {
            return Ok(());
        };
        let (epoch, hello) = frame::open(&member.keys, robot, payload)?;
        member.link.handle_hello(epoch, hello, session, now);
        self.settle(robot);
        Ok(())
    }

    /// A frame came in that is no hello. One of a robot that was not admitted is ignored.
    ///
    /// # Errors
    /// Where the frame cannot be opened with the robot's keys or read.
    pub fn handle_frame(
        &mut self,
        topic: Topic,
        payload: &[u8],
        now: Now,
    ) -> Result<(), FrameError> {
        let robot = topic.robot();
        let Some(member) = self.robots.get_mut(&robot) else {
            return Ok(());
        };
        let (keys, link) = (&member.keys, &mut member.link);
        match topic.kind() {
            TopicKind::Up => {
                let (epoch, up) = frame::open(keys, robot, payload)?;
                link.handle_up(epoch, up, now);
            }
            TopicKind::Live => {
                let (_, live) = frame::open(keys, robot, payload)?;
                link.handle_live(live, now);
            }
            TopicKind::Presence => {
                let (_, gone) = frame::open(keys, robot, payload)?;
                link.handle_gone(gone);
            }
            // Hellos go their own way, and only relays write to the other, so there is nothing to hear.
            TopicKind::Hello | TopicKind::Down => {}
        }
        self.settle(robot);
        Ok(())
    }

    /// Something happened that concerns one robot's link.
    pub fn with(&mut self, robot: RobotId, act: impl FnOnce(&mut Relay)) {
        if let Some(member) = self.robots.get_mut(&robot) {
            act(&mut member.link);
            self.settle(robot);
        }
    }

    /// The moment that [`Fleet::poll_timeout`] named has come, or any other.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(&(at, robot)) = self.timers.first()
            && at <= now.uptime
        {
            self.timers.pop_first();
            if let Some(member) = self.robots.get_mut(&robot) {
                member.timer = None;
                member.link.handle_timeout(now);
            }
            self.settle(robot);
        }
    }

    /// What the driver is to do next, and for which robot.
    pub fn poll_output(&mut self) -> Option<(RobotId, Output)> {
        self.outputs.pop_front()
    }

    /// When to call [`Fleet::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Uptime> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Seals a message for a robot; `None` for a robot that is not known any more.
    ///
    /// # Errors
    /// Where the message does not fit into a frame.
    pub fn seal(
        &self,
        robot: RobotId,
        epoch: Epoch,
        nonce: &Nonce,
        down: &Down,
    ) -> Result<Option<Vec<u8>>, FrameError> {
        self.robots
            .get(&robot)
            .map(|member| frame::seal(&member.keys, robot, epoch, nonce, down))
            .transpose()
    }

    /// Takes the outputs of one robot's link and files its timer anew.
    fn settle(&mut self, robot: RobotId) {
        let Some(member) = self.robots.get_mut(&robot) else {
            return;
        };
        while let Some(output) = member.link.poll_output() {
            self.outputs.push_back((robot, output));
        }
        let timer = member.link.poll_timeout();
        if timer != member.timer {
            if let Some(old) = member.timer {
                self.timers.remove(&(old, robot));
            }
            if let Some(new) = timer {
                self.timers.insert((new, robot));
            }
            member.timer = timer;
        }
    }
}
