//! Which robots are connected, and how much may be on its way to each of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use brrbrr_proto::id::RobotId;
use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, mpsc};

use super::counters::End;
use super::fabric::weight;

/// What may be on its way to one robot: in the router, in its queue and in its writer's hands. Three
/// frames of the largest kind keep any link busy; see [`weight`] for the unit.
const ROBOT_ROOM: u32 = 1024 * 1024;

/// Frames that can wait for one robot. So many of the smallest exhaust [`ROBOT_ROOM`], so the
/// queue itself is never full.
const FRAME_QUEUE: usize = 2048;

/// Why a frame cannot be sent to a robot now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// The robot is not connected, or has not subscribed yet.
    NotConnected,
    /// Enough is on its way to it.
    Congested,
}

/// One connection of one robot.
#[derive(Debug)]
pub(super) struct Session {
    number: u64,
    pub(super) robot: RobotId,
    is_subscribed: AtomicBool,
    frames: mpsc::Sender<Frame>,
    will: Mutex<Option<Bytes>>,
    end: OnceLock<End>,
    ended: Notify,
}

impl Session {
    pub(super) fn set_subscribed(&self, is_subscribed: bool) {
        self.is_subscribed.store(is_subscribed, Ordering::Release);
    }

    /// The last will, for whoever publishes it. Given out once.
    pub(super) fn take_will(&self) -> Option<Bytes> {
        lock(&self.will).take()
    }

    /// Resolves when somebody else wants the connection closed.
    pub(super) async fn ended(&self) -> End {
        loop {
            if let Some(end) = self.end.get() {
                return *end;
            }
            self.ended.notified().await;
        }
    }

    fn end(&self, end: End) {
        self.end.get_or_init(|| end);
        self.ended.notify_one();
    }
}

/// A payload on its way to one robot. Gives its room back when it is dropped.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) payload: Bytes,
    room: Arc<Semaphore>,
    weight: u32,
}

impl Drop for Frame {
    fn drop(&mut self) {
        give_back(&self.room, self.weight);
    }
}

/// Permits are counted in bytes of at most a few frames, so they always fit.
fn give_back(room: &Semaphore, weight: u32) {
    room.add_permits(usize::try_from(weight).unwrap_or(0));
}

/// What is known of a robot. It stays when the robot goes, so that room which was taken under one
/// connection and given back under the next is not lost; there are as many as robots.
#[derive(Debug)]
struct Slot {
    room: Arc<Semaphore>,
    session: Option<Arc<Session>>,
}

/// The robots that are connected here.
#[derive(Debug, Default)]
pub(super) struct Registry {
    slots: Mutex<HashMap<RobotId, Slot>>,
    numbers: AtomicU64,
}

impl Registry {
    /// Registers a connection. The second value is its queue, the third the connection that it
    /// takes over from, which has been told to end.
    pub(super) fn join(
        self: &Arc<Self>,
        robot: RobotId,
        will: Option<Bytes>,
    ) -> (Membership, mpsc::Receiver<Frame>, Option<Arc<Session>>) {
        let (frames, queue) = mpsc::channel(FRAME_QUEUE);
        let session = Arc::new(Session {
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
            robot,
            is_subscribed: AtomicBool::new(false),
            frames,
            will: Mutex::new(will),
            end: OnceLock::new(),
            ended: Notify::new(),
        });
        let older = lock(&self.slots)
            .entry(robot)
            .or_insert_with(|| Slot {
                room: Arc::new(Semaphore::new(usize::try_from(ROBOT_ROOM).unwrap_or(0))),
                session: None,
            })
            .session
            .replace(Arc::clone(&session));
        if let Some(older) = &older {
            older.end(End::TakenOver);
        }
        let membership = Membership {
            registry: Arc::clone(self),
            session,
        };
        (membership, queue, older)
    }

    /// Takes room for a frame that is about to go through the router. [`Registry::deliver`] or
    /// [`Registry::release`] must follow.
    pub(super) fn reserve(&self, robot: RobotId, length: usize) -> Result<(), NoRoom> {
        let slots = lock(&self.slots);
        let slot = slots.get(&robot).ok_or(NoRoom::NotConnected)?;
        let is_here = |session: &Arc<Session>| session.is_subscribed.load(Ordering::Acquire);
        if !slot.session.as_ref().is_some_and(is_here) {
            return Err(NoRoom::NotConnected);
        }
        match slot.room.try_acquire_many(weight(length)) {
            Ok(taken) => {
                taken.forget();
                Ok(())
            }
            Err(_) => Err(NoRoom::Congested),
        }
    }

    /// Gives back room that was reserved for a frame which never went.
    pub(super) fn release(&self, robot: RobotId, length: usize) {
        if let Some(slot) = lock(&self.slots).get(&robot) {
            give_back(&slot.room, weight(length));
        }
    }

    /// Queues a frame that came through the router. False where the robot has gone meanwhile.
    pub(super) fn deliver(&self, robot: RobotId, payload: Bytes) -> bool {
        let slots = lock(&self.slots);
        let Some(slot) = slots.get(&robot) else {
            return false;
        };
        let frame = Frame {
            weight: weight(payload.len()),
            payload,
            room: Arc::clone(&slot.room),
        };
        slot.session.as_ref().is_some_and(|session| {
            session.is_subscribed.load(Ordering::Acquire) && session.frames.try_send(frame).is_ok()
        })
    }

    /// Tells a robot's connection to end.
    pub(super) fn end(&self, robot: RobotId, end: End) {
        if let Some(session) = lock(&self.slots)
            .get(&robot)
            .and_then(|s| s.session.as_ref())
        {
            session.end(end);
        }
    }

    /// How many robots are connected.
    pub(super) fn connections(&self) -> usize {
        lock(&self.slots)
            .values()
            .filter(|slot| slot.session.is_some())
            .count()
    }
}

/// A session's place in the registry, given up when it is dropped.
#[derive(Debug)]
pub(super) struct Membership {
    registry: Arc<Registry>,
    pub(super) session: Arc<Session>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(slot) = lock(&self.registry.slots).get_mut(&self.session.robot) {
            slot.session
                .take_if(|session| session.number == self.session.number);
        }
    }
}

/// Nothing that holds these locks panics; where it did, the maps would still be whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn robot() -> RobotId {
        RobotId::new(7).unwrap()
    }

    #[test]
    fn a_newer_connection_takes_over_and_the_older_one_leaves_it_alone() {
        let registry = Arc::new(Registry::default());
        let (first, _queue, _) = registry.join(robot(), Some(Bytes::from_static(b"will")));
        let (_second, _queue, older) = registry.join(robot(), None);
        let older = older.unwrap();
        assert_eq!(older.end.get(), Some(&End::TakenOver));
        assert_eq!(older.take_will(), Some(Bytes::from_static(b"will")));
        assert_eq!(first.session.take_will(), None);
        drop(first);
        assert_eq!(registry.connections(), 1);
    }

    #[test]
    fn room_taken_under_one_connection_comes_back_under_the_next() {
        let registry = Arc::new(Registry::default());
        assert_eq!(registry.reserve(robot(), 1), Err(NoRoom::NotConnected));
        let (first, queue, _) = registry.join(robot(), None);
        assert_eq!(registry.reserve(robot(), 1), Err(NoRoom::NotConnected));
        first.session.set_subscribed(true);
        let mut sent = 0;
        while registry.reserve(robot(), 1).is_ok() {
            sent += 1;
        }
        assert_eq!(registry.reserve(robot(), 1), Err(NoRoom::Congested));
        assert!(sent <= FRAME_QUEUE, "{sent} frames fit the queue");
        for _ in 0..sent / 2 {
            assert!(registry.deliver(robot(), Bytes::from_static(b"x")));
        }
        drop((first, queue));
        assert_eq!(registry.connections(), 0);
        let (second, _queue, _) = registry.join(robot(), None);
        second.session.set_subscribed(true);
        for _ in sent / 2..sent {
            assert!(registry.deliver(robot(), Bytes::from_static(b"x")));
        }
        let again = (0..).take_while(|_| registry.reserve(robot(), 1).is_ok());
        assert_eq!(again.count(), sent / 2, "half of it still waits");
    }
}
