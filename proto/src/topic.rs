//! MQTT topics, built and parsed here only: `brrbrr/1/<kind>[/<relay>]/<robot>`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::id::{RelayId, RobotId};

/// Subscribe to this to hear every robot's hello.
pub const EVERY_HELLO: &str = "brrbrr/1/hello/+";
/// Subscribe to this to hear every robot's last will.
pub const EVERY_PRESENCE: &str = "brrbrr/1/presence/+";

/// Why a text is not one of our topics.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("not a topic of the link: {0:?}")]
pub struct TopicError(String);

/// One topic of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// A robot asks any relay for a session.
    Hello(RobotId),
    /// A robot's durable lane and beats, to the relay that welcomed it.
    Up(RelayId, RobotId),
    /// Everything a relay says to a robot.
    Down(RobotId),
    /// A robot's live lane, to the relay that welcomed it.
    Live(RelayId, RobotId),
    /// A robot's last will.
    Presence(RobotId),
}

impl Topic {
    /// The robot that the topic belongs to.
    #[must_use]
    pub const fn robot(self) -> RobotId {
        match self {
            Self::Hello(robot)
            | Self::Up(_, robot)
            | Self::Down(robot)
            | Self::Live(_, robot)
            | Self::Presence(robot) => robot,
        }
    }

    /// Which kind of topic it is.
    #[must_use]
    pub const fn kind(self) -> TopicKind {
        match self {
            Self::Hello(_) => TopicKind::Hello,
            Self::Up(..) => TopicKind::Up,
            Self::Down(_) => TopicKind::Down,
            Self::Live(..) => TopicKind::Live,
            Self::Presence(_) => TopicKind::Presence,
        }
    }

    /// Whether a robot's gateway may publish to it.
    #[must_use]
    pub fn may_publish(self, robot: RobotId) -> bool {
        self.robot() == robot && self.kind() != TopicKind::Down
    }

    /// Whether a robot's gateway may subscribe to it.
    #[must_use]
    pub fn may_subscribe(self, robot: RobotId) -> bool {
        self == Self::Down(robot)
    }
}

/// The filter by which one relay hears the durable lane of every robot it welcomed.
#[must_use]
pub fn every_up(relay: RelayId) -> String {
    format!("brrbrr/1/up/{relay}/+")
}

/// The filter by which one relay hears the live lane of every robot it welcomed.
#[must_use]
pub fn every_live(relay: RelayId) -> String {
    format!("brrbrr/1/live/{relay}/+")
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello(robot) => write!(f, "brrbrr/1/hello/{robot}"),
            Self::Up(relay, robot) => write!(f, "brrbrr/1/up/{relay}/{robot}"),
            Self::Down(robot) => write!(f, "brrbrr/1/down/{robot}"),
            Self::Live(relay, robot) => write!(f, "brrbrr/1/live/{relay}/{robot}"),
            Self::Presence(robot) => write!(f, "brrbrr/1/presence/{robot}"),
        }
    }
}

impl FromStr for Topic {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        parse(text).ok_or_else(|| TopicError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Topic> {
    let rest = text.strip_prefix("brrbrr/1/")?;
    let mut levels = rest.split('/');
    let topic = match levels.next()? {
        "hello" => Topic::Hello(levels.next()?.parse().ok()?),
        "up" => Topic::Up(levels.next()?.parse().ok()?, levels.next()?.parse().ok()?),
        "down" => Topic::Down(levels.next()?.parse().ok()?),
        "live" => Topic::Live(levels.next()?.parse().ok()?, levels.next()?.parse().ok()?),
        "presence" => Topic::Presence(levels.next()?.parse().ok()?),
        _ => return None,
    };
    levels.next().is_none().then_some(topic)
}

/// The kinds of topic. The number is bound into every sealed frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TopicKind {
    /// See [`Topic::Hello`].
    Hello = 1,
    /// See [`Topic::Up`].
    Up = 2,
    /// See [`Topic::Down`].
    Down = 3,
    /// See [`Topic::Live`].
    Live = 4,
    /// See [`Topic::Presence`].
    Presence = 5,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_read_as_they_are_written() {
        let robot = RobotId::new(7).unwrap();
        let relay = RelayId(0xab);
        for topic in [
            Topic::Hello(robot),
            Topic::Up(relay, robot),
            Topic::Down(robot),
            Topic::Live(relay, robot),
            Topic::Presence(robot),
        ] {
            assert_eq!(topic.to_string().parse(), Ok(topic));
        }
        assert_eq!(
            Topic::Up(relay, robot).to_string(),
            "brrbrr/1/up/00000000000000ab/7"
        );
    }

    #[test]
    fn a_topic_that_is_not_ours_is_refused() {
        for text in [
            "",
            "brrbrr",
            "brrbrr/1/hello",
            "brrbrr/1/hello/",
            "brrbrr/1/hello/7/",
            "brrbrr/1/hello/+",
            "brrbrr/1/hello/07",
            "brrbrr/2/hello/7",
            "brrbrr/1/up/7",
            "brrbrr/1/up/00000000000000AB/7",
            "/brrbrr/1/hello/7",
        ] {
            assert!(text.parse::<Topic>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_robot_may_touch_its_own_topics_only() {
        let (own, other) = (RobotId::new(1).unwrap(), RobotId::new(2).unwrap());
        assert!(Topic::Hello(own).may_publish(own));
        assert!(!Topic::Hello(other).may_publish(own));
        assert!(!Topic::Down(own).may_publish(own));
        assert!(Topic::Down(own).may_subscribe(own));
        assert!(!Topic::Down(other).may_subscribe(own));
        assert!(!Topic::Hello(own).may_subscribe(own));
    }
}
