//! Tells the session driver which robots have something new in their ledger, and that the building
//! may have changed.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use brrbrr_proto::id::RobotId;
use tokio::sync::Notify;

/// A set of robots to look after. Bounded by the number of robots, so waking never waits or fails.
#[derive(Debug, Default)]
pub struct Wakeups {
    robots: Mutex<BTreeSet<RobotId>>,
    arrived: Notify,
    building: Notify,
}

impl Wakeups {
    /// Has the session driver look at the robot's ledger soon.
    pub fn wake(&self, robot: RobotId) {
        self.lock().insert(robot);
        self.arrived.notify_one();
    }

    /// Waits until there are robots to look after and takes them all. Cancel-safe.
    pub async fn next(&self) -> BTreeSet<RobotId> {
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

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<RobotId>> {
        // A set cannot be left half-changed, so a panic elsewhere does not matter.
        self.robots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
