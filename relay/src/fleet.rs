//! The robots that this relay talks to: one relay half of the link each, their timers, and how much
//! work they may make together. Pure.
//!
//! ```text
//! hello  -> admission -> link -> Recall            or Wait, where too many come at once
//! batch  -> link -> stores -> Store
//! status -> link -> Status                         never waits for any of the others
//! will, silence, status -> presence -> Contact     what people are shown
//! ```
//! Every session begins with a small credit; robots with a backlog get the full one in turns (`drain`).

pub mod admission;
pub mod drain;
pub mod presence;
pub mod stores;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use admission::{Admission, Arrival, Bounds};
use brrbrr_proto::down::{Down, Wait};
use brrbrr_proto::frame::{self, FrameError};
use brrbrr_proto::id::{Epoch, RelayId, RobotId, Seq, SessionId};
use brrbrr_proto::link::Relay;
use brrbrr_proto::link::relay::{Grants, Ledger, Now, Output, Store, bytes_of};
use brrbrr_proto::seal::{Keys, Nonce};
use brrbrr_proto::time::Uptime;
use brrbrr_proto::topic::{Topic, TopicKind};
use brrbrr_proto::up::Hello;
use drain::Drain;
use jiff::Timestamp;
use presence::{Change, Tracker};
use stores::Stores;

use crate::live::{Contact, Presence};

/// Hellos in work at a time, and those that wait. A hello in work reads the stores some five times and
/// may apply a thousand records, so a few dozen keep the disk busy; each that waits holds less than
/// two kilobytes.
pub const HELLOS: Bounds = Bounds {
    slots: 32,
    line: 1024,
    guess: Duration::from_millis(20),
};
/// What a robot without a drain slot may have unacknowledged: about a hundred records, so that what
/// happens now comes through at once. For 5 000 robots that is 80 MB at the very worst.
pub const BASE_CREDIT: u32 = 16 * 1024;
/// Robots that drain with the full credit at a time. More would not be faster, since a few full windows
/// keep one journal busy; with a credit of 1 MiB they hold 32 MiB, and as much again for the moment
/// after turns have changed.
pub const DRAIN_SLOTS: usize = 32;
/// As [`DRAIN_SLOTS`], while hellos wait: first everybody's newest status, then the backlogs. Not none,
/// or hellos without end would stop the drain.
pub const DRAIN_SLOTS_IN_A_STORM: usize = 4;
/// A backlog from this many positions on wants a slot. A smaller one is gone with the base credit
/// before a slot would be of use.
pub const DRAIN_FROM: u64 = 64;
/// Robots whose records are being stored at a time: as many as share one transaction of the journal.
pub const STORES: usize = 256;

/// Every robot that has said hello since this relay started.
#[derive(Debug)]
pub struct Fleet {
    id: RelayId,
    grants: Grants,
    robots: BTreeMap<RobotId, Member>,
    timers: BTreeSet<(Uptime, RobotId)>,
    hellos: Admission<Greeting>,
    drain: Drain,
    stores: Stores<Store>,
    open: usize,
    live: usize,
    online: usize,
    degraded: usize,
    contacts: VecDeque<(RobotId, Presence)>,
    outputs: VecDeque<(RobotId, Output)>,
}

/// How much the robots ask of this relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Robots with a session.
    pub sessions: usize,
    /// Robots whose status was heard in their session.
    pub live: usize,
    /// Robots that are shown as online.
    pub online: usize,
    /// Robots that are shown as degraded.
    pub degraded: usize,
    /// Hellos that wait.
    pub hellos_waiting: usize,
    /// Hellos that were sent away so far.
    pub hellos_sent_away: u64,
    /// The most hellos in work at a time so far.
    pub hellos_peak: usize,
    /// Drain slots in use.
    pub drain_slots: usize,
    /// Robots that wait for a drain slot.
    pub drain_waiting: usize,
    /// The most robots whose records were being stored at a time so far.
    pub stores_peak: usize,
}

#[derive(Debug)]
struct Member {
    keys: Keys,
    link: Relay,
    timer: Option<Uptime>,
    is_open: bool,
    is_live: bool,
    /// Its last batch was so large that the base credit holds it back.
    is_hungry: bool,
    presence: Tracker,
}

/// A hello that was opened.
#[derive(Debug)]
struct Greeting {
    epoch: Epoch,
    hello: Hello,
    session: SessionId,
    came: Now,
}

impl Fleet {
    /// Starts empty. `id` names the running relay process.
    #[must_use]
    pub fn new(id: RelayId, grants: Grants) -> Self {
        Self {
            id,
            grants,
            robots: BTreeMap::new(),
            timers: BTreeSet::new(),
            hellos: Admission::new(HELLOS),
            drain: Drain::new(DRAIN_SLOTS),
            stores: Stores::new(STORES),
            open: 0,
            live: 0,
            online: 0,
            degraded: 0,
            contacts: VecDeque::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Whether the robot's keys are known here.
    #[must_use]
    pub fn knows(&self, robot: RobotId) -> bool {
        self.robots.contains_key(&robot)
    }

    /// How much the robots ask of this relay.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            sessions: self.open,
            live: self.live,
            online: self.online,
            degraded: self.degraded,
            hellos_waiting: self.hellos.waiting(),
            hellos_sent_away: self.hellos.sent_away(),
            hellos_peak: self.hellos.peak(),
            drain_slots: self.drain.in_use(),
            drain_waiting: self.drain.waiting(),
            stores_peak: self.stores.peak(),
        }
    }

    /// Takes a robot in, or gives it new keys.
    pub fn admit(&mut self, robot: RobotId, keys: Keys) {
        if let Some(member) = self.robots.get_mut(&robot) {
            member.keys = keys;
            return;
        }
        let mut link = Relay::new(self.id, self.grants);
        link.grant(BASE_CREDIT);
        let member = Member {
            keys,
            link,
            timer: None,
            is_open: false,
            is_live: false,
            is_hungry: false,
            presence: Tracker::default(),
        };
        self.robots.insert(robot, member);
    }

    /// Forgets a robot.
    pub fn dismiss(&mut self, robot: RobotId, now: Now) {
        let Some(member) = self.robots.remove(&robot) else {
            return;
        };
        if let Some(timer) = member.timer {
            self.timers.remove(&(timer, robot));
        }
        self.open -= usize::from(member.is_open);
        self.live -= usize::from(member.is_live);
        self.count_contact(member.presence.contact(), Contact::Offline);
        self.hellos.forget(robot);
        self.stores.forget(robot);
        self.drain.handle_closed(robot, now.uptime);
        self.share(now);
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
        let greeting = Greeting {
            epoch,
            hello,
            session,
            came: now,
        };
        // Half of the number is chance enough, and says nothing about the session's.
        let random = session.0 >> 32;
        match self.hellos.arrive(robot, greeting, random, now.uptime) {
            Arrival::Serve(greeting) => self.greet(robot, greeting, now),
            Arrival::Waits => self.share(now),
            Arrival::Away(robot, Greeting { epoch, hello, .. }, pause) => {
                let hello = hello.hello;
                let wait = Output::Send(epoch, Down::Wait(Wait { hello, pause }));
                self.outputs.push_back((robot, wait));
            }
        }
        Ok(())
    }

    /// The answer to [`Output::Recall`] and [`Output::RenewLedger`].
    pub fn handle_recalled(
        &mut self,
        robot: RobotId,
        session: SessionId,
        up_next: Seq,
        ledger: Ledger,
        now: Now,
    ) {
        // A robot's storage work is done in order, so its stores of before are over.
        self.stores.end_all(robot);
        let mut goes_on = false;
        if let Some(member) = self.robots.get_mut(&robot) {
            member.link.handle_recalled(session, up_next, ledger, now);
            goes_on = self.settle(robot, now);
        }
        if !goes_on {
            self.hellos.end(robot, now.uptime);
        }
        self.share(now);
    }

    /// The answer to [`Output::Recall`] and [`Output::RenewLedger`] where a store is away.
    pub fn handle_recall_failed(&mut self, robot: RobotId, now: Now) {
        self.stores.end_all(robot);
        self.hellos.end(robot, now.uptime);
        self.share(now);
    }

    /// The answer to [`Output::Store`]: the journal has everything before `next`.
    pub fn handle_stored(
        &mut self,
        robot: RobotId,
        session: SessionId,
        next: Seq,
        bytes: usize,
        now: Now,
    ) {
        self.stores.end(robot, bytes);
        self.with(robot, now, |link| link.handle_stored(session, next, bytes));
    }

    /// The answer to [`Output::Store`] where the run was not stored.
    pub fn handle_store_failed(
        &mut self,
        robot: RobotId,
        session: SessionId,
        bytes: usize,
        now: Now,
    ) {
        self.stores.end(robot, bytes);
        self.with(robot, now, |link| link.handle_store_failed(session, bytes));
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
        self.settle(robot, now);
        self.share(now);
        Ok(())
    }

    /// Something happened that concerns one robot's link.
    pub fn with(&mut self, robot: RobotId, now: Now, act: impl FnOnce(&mut Relay)) {
        if let Some(member) = self.robots.get_mut(&robot) {
            act(&mut member.link);
            self.settle(robot, now);
        }
        self.share(now);
    }

    /// What robots are told of the building may have changed.
    pub fn handle_building_changed(&mut self, now: Now) {
        let open = self.robots.iter().filter(|(_, member)| member.is_open);
        let open: Vec<_> = open.map(|(robot, _)| *robot).collect();
        for robot in open {
            self.with(robot, now, Relay::handle_building_changed);
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
            self.settle(robot, now);
        }
        self.drain.handle_timeout(now.uptime);
        self.share(now);
    }

    /// When each robot that has a session was last heard.
    #[must_use]
    pub fn heard(&self, now: Now) -> Vec<(RobotId, Timestamp)> {
        let heard = |(robot, member): (&RobotId, &Member)| {
            let at = member.presence.heard_at()?;
            Some((*robot, moment(at, now)))
        };
        self.robots.iter().filter_map(heard).collect()
    }

    /// What is to be told next of a robot's contact.
    pub fn poll_contact(&mut self) -> Option<(RobotId, Presence)> {
        self.contacts.pop_front()
    }

    /// What the driver is to do next, and for which robot.
    pub fn poll_output(&mut self) -> Option<(RobotId, Output)> {
        self.outputs.pop_front()
    }

    /// When to call [`Fleet::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Uptime> {
        let link = self.timers.first().map(|(at, _)| *at);
        let shared = [self.drain.poll_timeout(), self.hellos.poll_timeout()];
        link.into_iter().chain(shared.into_iter().flatten()).min()
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

    /// Gives a hello to the robot's link.
    fn greet(&mut self, robot: RobotId, greeting: Greeting, now: Now) {
        let mut is_in_work = false;
        if let Some(member) = self.robots.get_mut(&robot) {
            let Greeting {
                epoch,
                hello,
                session,
                came,
            } = greeting;
            member.link.handle_hello(epoch, hello, session, came);
            is_in_work = self.settle(robot, now);
        }
        if !is_in_work {
            self.hellos.end(robot, now.uptime);
        }
    }

    /// Gives what has become free to those who wait for it.
    fn share(&mut self, now: Now) {
        while let Some((robot, greeting)) = self.hellos.poll_next(now.uptime) {
            self.greet(robot, greeting, now);
        }
        let slots = if self.hellos.waiting() > 0 {
            DRAIN_SLOTS_IN_A_STORM
        } else {
            DRAIN_SLOTS
        };
        self.drain.set_slots(slots, now.uptime);
        while let Some(change) = self.drain.poll_change() {
            let (robot, credit) = match change {
                drain::Change::Full(robot) => (robot, self.grants.credit),
                drain::Change::Base(robot) => (robot, BASE_CREDIT),
            };
            if let Some(member) = self.robots.get_mut(&robot) {
                member.is_hungry = false;
                member.link.grant(credit);
                while let Some(output) = member.link.poll_output() {
                    self.outputs.push_back((robot, output));
                }
            }
        }
        while let Some((robot, store)) = self.stores.poll_next() {
            self.outputs.push_back((robot, Output::Store(store)));
        }
    }

    /// Takes the outputs of one robot's link and files its timer anew. Whether it wants something
    /// recalled.
    fn settle(&mut self, robot: RobotId, now: Now) -> bool {
        let Some(member) = self.robots.get_mut(&robot) else {
            return false;
        };
        let (mut recalls, mut stored) = (false, None);
        while let Some(output) = member.link.poll_output() {
            match output {
                Output::Store(store) => {
                    let bytes = bytes_of(&store.items);
                    stored = stored.max(Some(bytes));
                    self.stores.push(robot, bytes, store);
                    continue;
                }
                Output::Recall { .. } | Output::RenewLedger { .. } => recalls = true,
                Output::Opened(_) => {
                    self.stores.drop_held(robot);
                    self.live -= usize::from(member.is_live);
                    member.is_live = false;
                    member.presence.handle_opened(now.uptime);
                }
                Output::Closed(reason) => {
                    self.live -= usize::from(member.is_live);
                    member.is_live = false;
                    member.presence.handle_closed(reason, now.uptime);
                }
                Output::Status(ref status, _, ages) => {
                    self.live += usize::from(!member.is_live);
                    member.is_live = true;
                    let side = status.robot_side;
                    member
                        .presence
                        .handle_side(side, ages.robot_side, now.uptime);
                }
                Output::Send(..)
                | Output::Load { .. }
                | Output::Sent { .. }
                | Output::Delivered(_)
                | Output::Report(..)
                | Output::Building { .. } => {}
            }
            self.outputs.push_back((robot, output));
        }
        self.watch(robot, now);
        self.weigh(robot, stored, now);
        recalls
    }

    /// Looks whether the robot's contact has changed, and files its timer anew.
    fn watch(&mut self, robot: RobotId, now: Now) {
        let Some(member) = self.robots.get_mut(&robot) else {
            return;
        };
        if let Some(at) = member.link.heard_at() {
            member.presence.handle_heard(at);
        }
        let was = member.presence.contact();
        let changed = member.presence.poll_change(now.uptime);
        let timers = [member.link.poll_timeout(), member.presence.poll_timeout()];
        let timer = timers.into_iter().flatten().min();
        if timer != member.timer {
            if let Some(old) = member.timer {
                self.timers.remove(&(old, robot));
            }
            if let Some(new) = timer {
                self.timers.insert((new, robot));
            }
            member.timer = timer;
        }
        if let Some(change) = changed {
            self.contacts.push_back((robot, shown(&change, now)));
            self.count_contact(was, change.contact);
        }
    }

    fn count_contact(&mut self, was: Contact, is: Contact) {
        self.online -= usize::from(was == Contact::Online);
        self.degraded -= usize::from(was == Contact::Degraded);
        self.online += usize::from(is == Contact::Online);
        self.degraded += usize::from(is == Contact::Degraded);
    }

    /// Looks whether the robot needs the full credit. `stored` is the size of its largest new batch.
    fn weigh(&mut self, robot: RobotId, stored: Option<usize>, now: Now) {
        let Some(member) = self.robots.get_mut(&robot) else {
            return;
        };
        self.open -= usize::from(member.is_open);
        member.is_open = member.link.is_open();
        self.open += usize::from(member.is_open);
        if !member.is_open {
            self.drain.handle_closed(robot, now.uptime);
            return;
        }
        if let Some(bytes) = stored {
            // A batch is a quarter of a gateway's window, so with this size the base credit is less
            // than the link would carry.
            member.is_hungry = bytes >= usize::try_from(BASE_CREDIT / 4).unwrap_or(usize::MAX);
        }
        let wants = member.is_hungry || member.link.backlog() >= DRAIN_FROM;
        self.drain
            .handle_news(robot, wants, stored.is_some(), now.uptime);
    }
}

/// A change of contact by the calendar.
fn shown(change: &Change, now: Now) -> Presence {
    Presence {
        contact: change.contact,
        since: Some(moment(change.since, now)),
        last_contact: Some(moment(change.last_contact, now)),
        cause: change.cause,
    }
}

/// A moment of the clock that only counts on, by the calendar as it is now.
fn moment(at: Uptime, now: Now) -> Timestamp {
    let ago = i64::try_from(now.uptime.since(at).as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_microsecond(now.wall.0.saturating_sub(ago)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
