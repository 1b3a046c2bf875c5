//! Tells the session driver which robots have something new in their ledger, and that the building
//! may have changed.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use brrbrr_proto::down::Order;
use brrbrr_proto::id::RobotId;
use tokio::sync::Notify;

/// Whether what is new in a ledger may wait until the robot has stored what is on its way to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// It may.
    Usual,
    /// It stops the robot, or what the robot does.
    Urgent,
}

impl Urgency {
    /// Of an order.
    #[must_use]
    pub const fn of(order: &Order) -> Self {
        match order {
            Order::Stop | Order::Cancel(_) => Self::Urgent,
            Order::GoTo(_)
            | Order::Pause
            | Order::Resume
            | Order::Dock
            | Order::Say(_)
            | Order::Custom(_)
            | Order::Withdrawn => Self::Usual,
        }
    }
}

/// A set of robots to look after. Bounded by the number of robots, so waking never waits or fails.
#[derive(Debug, Default)]
pub struct Wakeups {
    robots: Mutex<BTreeMap<RobotId, Urgency>>,
    arrived: Notify,
    building: Notify,
}

impl Wakeups {
    /// Has the session driver look at the robot's ledger soon.
    pub fn wake(&self, robot: RobotId, urgency: Urgency) {
        let mut robots = self.lock();
        let asked = robots.entry(robot).or_insert(urgency);
        *asked = urgency.max(*asked);
        drop(robots);
        self.arrived.notify_one();
    }

    /// Waits until there are robots to look after and takes them all. Cancel-safe.
    pub async fn next(&self) -> BTreeMap<RobotId, Urgency> {
        loop {
            let robots = std::mem::take(&mut *self.lock());
            if !robots.is_empty() {
                return robots;
            }
            self.arrived.notified().await;
        }
    }

    /// Has the building looked at soon: something in the catalog was written that robots are told.
    pub fn change_building(&self) {
        self.building.notify_one();
    }

    /// Waits until the building may have changed. Cancel-safe.
    pub async fn building_changed(&self) {
        self.building.notified().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<RobotId, Urgency>> {
        // A map cannot be left half-changed, so a panic elsewhere does not matter.
        self.robots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
