//! The newest status of a robot. Every field is optional, because each source knows only some of
//! them, and fields are conflated one by one: a newer value replaces an older one.

use serde::{Deserialize, Serialize};

use crate::id::SessionId;
use crate::time::Uptime;

/// Where a robot stands or should stand, on its SLAM map.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Pose {
    /// Metres along the map's x axis.
    pub x: f64,
    /// Metres along the map's y axis.
    pub y: f64,
    /// Heading in radians, counter-clockwise from the x axis, where known or asked for.
    pub theta: Option<f64>,
}

/// What a robot is doing. Append only: the position of a variant is its number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Activity {
    /// Waiting for somebody (`대기`).
    Idle,
    /// Driving to a goal (`이동중`).
    Moving,
    /// Halted on the way (`정지`).
    Stopped,
    /// At its goal (`도착`).
    Arrived,
    /// Driving to its charger or standing on it.
    Docking,
    /// Unable to drive.
    Faulted,
}

/// Whether the gateway can reach the robot's own software. Append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum RobotSide {
    /// The broker or middleware of the robot answers.
    Up,
    /// It does not.
    Down,
}

/// The newest known status of one robot.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Status {
    /// What it is doing.
    pub activity: Option<Activity>,
    /// Where it is.
    pub pose: Option<Pose>,
    /// Which floor it is on.
    pub floor: Option<i32>,
    /// Charge, from 0 to 1.
    pub battery: Option<f64>,
    /// Metres per second.
    pub speed: Option<f64>,
    /// Whether the gateway reaches the robot's own software.
    pub robot_side: Option<RobotSide>,
}

impl Status {
    /// Takes over every field that `newer` knows.
    pub fn absorb(&mut self, newer: &Self) {
        let Self {
            activity,
            pose,
            floor,
            battery,
            speed,
            robot_side,
        } = newer;
        self.activity = activity.or(self.activity);
        self.pose = pose.or(self.pose);
        self.floor = floor.or(self.floor);
        self.battery = battery.or(self.battery);
        self.speed = speed.or(self.speed);
        self.robot_side = robot_side.or(self.robot_side);
    }
}

/// What goes over the live lane (topic kind `live`, `QoS` 0). Losing one is harmless.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Live {
    /// The session it belongs to.
    pub session: SessionId,
    /// Counts up within the session, so that an older frame never overwrites a newer one.
    pub count: u64,
    /// When the status was true.
    pub sampled: Uptime,
    /// The whole newest status.
    pub status: Status,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_status_replaces_only_what_it_knows() {
        let mut status = Status {
            activity: Some(Activity::Idle),
            floor: Some(7),
            battery: Some(0.9),
            ..Status::default()
        };
        status.absorb(&Status {
            activity: Some(Activity::Moving),
            speed: Some(0.5),
            ..Status::default()
        });
        let expected = Status {
            activity: Some(Activity::Moving),
            floor: Some(7),
            battery: Some(0.9),
            speed: Some(0.5),
            ..Status::default()
        };
        assert_eq!(status, expected);
        status.absorb(&Status::default());
        assert_eq!(status, expected);
    }
}
