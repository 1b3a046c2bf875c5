//! The newest status of a robot. Every field is optional, because each source knows only some of
//! them, and fields are conflated one by one: a newer value replaces an older one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::frame::Message;
use crate::id::SessionId;
use crate::time::Uptime;
use crate::topic::TopicKind;

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
    /// Without numbers that are none. They cross the wire, and nothing can be done with them.
    #[must_use]
    pub fn finite(self) -> Self {
        let is_finite = |number: &f64| number.is_finite();
        let pose = self
            .pose
            .filter(|pose| pose.x.is_finite() && pose.y.is_finite());
        Self {
            pose: pose.map(|pose| Pose {
                theta: pose.theta.filter(is_finite),
                ..pose
            }),
            battery: self.battery.filter(is_finite),
            speed: self.speed.filter(is_finite),
            ..self
        }
    }

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

/// Something about each field of a [`Status`], such as when the robot said it. `None` where there is
/// nothing to say, as of a field that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerField<T> {
    /// Of [`Status::activity`].
    pub activity: Option<T>,
    /// Of [`Status::pose`].
    pub pose: Option<T>,
    /// Of [`Status::floor`].
    pub floor: Option<T>,
    /// Of [`Status::battery`].
    pub battery: Option<T>,
    /// Of [`Status::speed`].
    pub speed: Option<T>,
    /// Of [`Status::robot_side`].
    pub robot_side: Option<T>,
}

impl<T> Default for PerField<T> {
    fn default() -> Self {
        Self {
            activity: None,
            pose: None,
            floor: None,
            battery: None,
            speed: None,
            robot_side: None,
        }
    }
}

impl<T: Copy> PerField<T> {
    /// The same of every field that the status knows.
    #[must_use]
    pub fn of(status: &Status, what: T) -> Self {
        let Status {
            activity,
            pose,
            floor,
            battery,
            speed,
            robot_side,
        } = status;
        Self {
            activity: activity.map(|_| what),
            pose: pose.map(|_| what),
            floor: floor.map(|_| what),
            battery: battery.map(|_| what),
            speed: speed.map(|_| what),
            robot_side: robot_side.map(|_| what),
        }
    }

    /// Something else of each field that has something.
    #[must_use]
    pub fn map<U>(self, mut to: impl FnMut(T) -> U) -> PerField<U> {
        PerField {
            activity: self.activity.map(&mut to),
            pose: self.pose.map(&mut to),
            floor: self.floor.map(&mut to),
            battery: self.battery.map(&mut to),
            speed: self.speed.map(&mut to),
            robot_side: self.robot_side.map(&mut to),
        }
    }

    /// Takes over everything that `newer` has.
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

/// How long ago something was, in tenths of a second. Saturates after 13 years.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Age(u32);

impl Age {
    /// This long ago, rounded up, so that nothing looks fresher than it is.
    #[must_use]
    pub fn new(age: Duration) -> Self {
        Self(u32::try_from(age.as_nanos().div_ceil(100_000_000)).unwrap_or(u32::MAX))
    }

    /// How long ago.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0 as u64 * 100)
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

/// A frame of the live lane: the message, and after it how old each field was when the status was
/// true. Gateways that know no ages end their frames after the message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dated {
    /// The message.
    pub live: Live,
    /// How long before [`Live::sampled`] the robot said each field.
    pub ages: PerField<Age>,
}

impl Message for Dated {
    const KIND: TopicKind = TopicKind::Live;

    fn read(plain: &[u8]) -> postcard::Result<Self> {
        let (live, rest) = postcard::take_from_bytes(plain)?;
        let (ages, rest) = if rest.is_empty() {
            (PerField::default(), rest)
        } else {
            postcard::take_from_bytes(rest)?
        };
        if rest.is_empty() {
            Ok(Self { live, ages })
        } else {
            Err(postcard::Error::DeserializeBadEncoding)
        }
    }
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

    #[test]
    fn ages_are_whole_tenths_and_saturate() {
        let age = |millis| Age::new(Duration::from_millis(millis)).duration();
        assert_eq!(age(0), Duration::ZERO);
        assert_eq!(age(1), Duration::from_millis(100));
        assert_eq!(age(12_300), Duration::from_millis(12_300));
        assert_eq!(age(12_301), Duration::from_millis(12_400));
        assert_eq!(Age::new(Duration::MAX), Age(u32::MAX));
        assert_eq!(Age(u32::MAX).duration().as_secs(), 429_496_729);
    }

    #[test]
    fn what_is_said_of_fields_follows_the_fields() {
        let status = Status {
            battery: Some(0.5),
            floor: Some(7),
            ..Status::default()
        };
        let mut said = PerField::of(&status, 1);
        let newer = Status {
            battery: Some(0.4),
            ..Status::default()
        };
        said.absorb(&PerField::of(&newer, 2));
        let expected = PerField {
            battery: Some(20),
            floor: Some(10),
            ..PerField::default()
        };
        assert_eq!(said.map(|moment| moment * 10), expected);
    }
}
