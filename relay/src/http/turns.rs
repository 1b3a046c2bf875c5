//! One thing at a time for each robot: what a guest asks, what a face claims and what an admin does
//! to a robot happen one after the other, so that orders, guidance and face events keep one order.
//! Holds within one relay.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use brrbrr_proto::id::RobotId;
use tokio::sync::OwnedMutexGuard;

/// The turns of all robots. Bounded by the number of turns that are asked for at a time.
#[derive(Debug, Default)]
pub struct Turns {
    robots: Mutex<BTreeMap<RobotId, Arc<tokio::sync::Mutex<()>>>>,
}

/// A robot's turn, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    _guard: OwnedMutexGuard<()>,
}

impl Turns {
    /// Waits for the robot's turn. Turns come in the order in which they were asked for. Whoever
    /// takes several must take them in the order of the ids.
    pub async fn take(&self, robot: RobotId) -> Turn {
        let turn = {
            // A map cannot be left half-changed, so a panic elsewhere does not matter.
            let mut robots = self.robots.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody holds or awaits these. Few are held at a time, so few are left.
            robots.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(robots.entry(robot).or_default())
        };
        Turn {
            _guard: turn.lock_owned().await,
        }
    }
}
