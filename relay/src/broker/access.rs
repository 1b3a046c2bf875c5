//! Who may connect as what, and which topics they may touch. Pure rules, no I/O.

use brrbrr_proto::frame::MAX_FRAME_BYTES;
use brrbrr_proto::id::{RelayId, RobotId};
use brrbrr_proto::topic::Topic;
use bytes::Bytes;
use rumqttd::protocol::{Connect, LastWill, Login};

use super::Credentials;
use super::counters::Refusal;

/// The largest last will. A gateway's is about a hundred bytes.
pub(super) const MAX_WILL_BYTES: usize = 1024;

/// What a CONNECT asks for, before its password has been looked at.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) robot: RobotId,
    pub(super) credentials: Credentials,
    pub(super) will: Option<Bytes>,
    pub(super) keep_alive: u16,
}

/// Checks everything in a CONNECT but the password.
///
/// The clean-session flag is not looked at: every session here is clean, and the answer says so.
pub(super) fn claim(
    connect: Connect,
    login: Option<Login>,
    will: Option<LastWill>,
) -> Result<Claim, Refusal> {
    let robot = connect
        .client_id
        .strip_prefix("brrbrr-")
        .and_then(|id| id.parse::<RobotId>().ok())
        .ok_or(Refusal::ClientId)?;
    let login = login.ok_or(Refusal::Credentials)?;
    if login.username.parse() != Ok(robot) {
        return Err(Refusal::ClientId);
    }
    let will = match will {
        None => None,
        Some(will) if is_own_will(&will, robot) => Some(Bytes::copy_from_slice(&will.message)),
        Some(_) => return Err(Refusal::Will),
    };
    Ok(Claim {
        robot,
        credentials: Credentials {
            client_id: connect.client_id,
            username: login.username,
            password: login.password.into_bytes(),
        },
        will,
        keep_alive: connect.keep_alive,
    })
}

fn is_own_will(will: &LastWill, robot: RobotId) -> bool {
    parse(&will.topic) == Some(Topic::Presence(robot)) && will.message.len() <= MAX_WILL_BYTES
}

/// What becomes of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes to the relay.
    Pass(Topic),
    /// It was meant for a relay that is gone, as happens after a restart. No harm and no use.
    Stray,
    /// It is not the robot's to say.
    Denied,
}

/// Whether `robot` may publish so many bytes to `topic` at this relay.
pub(super) fn publish(robot: RobotId, relay: RelayId, topic: &[u8], length: usize) -> Verdict {
    let Some(topic) = parse(topic) else {
        return Verdict::Denied;
    };
    if !topic.may_publish(robot) || length > MAX_FRAME_BYTES {
        return Verdict::Denied;
    }
    match topic {
        Topic::Up(to, _) | Topic::Live(to, _) if to != relay => Verdict::Stray,
        Topic::Hello(_) | Topic::Up(..) | Topic::Down(_) | Topic::Live(..) | Topic::Presence(_) => {
            Verdict::Pass(topic)
        }
    }
}

/// Whether `robot` may subscribe to `filter`. Wildcards and shared subscriptions are not topics of
/// the link, so they are refused like any other text.
pub(super) fn subscribe(robot: RobotId, filter: &str) -> bool {
    filter
        .parse()
        .is_ok_and(|topic: Topic| topic.may_subscribe(robot))
}

fn parse(topic: &[u8]) -> Option<Topic> {
    std::str::from_utf8(topic).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELAY: RelayId = RelayId(0xab);

    fn robot(number: u32) -> RobotId {
        RobotId::new(number).unwrap()
    }

    fn connect(client_id: &str) -> Connect {
        Connect {
            keep_alive: 30,
            client_id: client_id.to_owned(),
            clean_session: false,
        }
    }

    fn login(username: &str) -> Option<Login> {
        Some(Login {
            username: username.to_owned(),
            password: "0a".to_owned(),
        })
    }

    fn will(topic: &str, length: usize) -> LastWill {
        LastWill {
            topic: Bytes::copy_from_slice(topic.as_bytes()),
            message: vec![0; length].into(),
            qos: rumqttd::protocol::QoS::AtLeastOnce,
            retain: true,
        }
    }

    #[test]
    fn a_robot_connects_under_its_own_name_only() {
        assert!(claim(connect("brrbrr-7"), login("7"), None).is_ok());
        for (client_id, username) in [
            ("", "7"),
            ("7", "7"),
            ("brrbrr-07", "7"),
            ("brrbrr-7", "8"),
            ("brrbrr-7", ""),
            ("brrbrr-+", "7"),
            ("brrbrr-$#/", "7"),
        ] {
            let refused = claim(connect(client_id), login(username), None).unwrap_err();
            assert_eq!(refused, Refusal::ClientId, "{client_id:?} {username:?}");
        }
        let refused = claim(connect("brrbrr-7"), None, None).unwrap_err();
        assert_eq!(refused, Refusal::Credentials);
    }

    #[test]
    fn a_will_is_small_and_on_the_robots_own_presence_topic() {
        let with = |will| claim(connect("brrbrr-7"), login("7"), Some(will));
        assert!(with(will("brrbrr/1/presence/7", MAX_WILL_BYTES)).is_ok());
        for bad in [
            will("brrbrr/1/presence/8", 1),
            will("brrbrr/1/hello/7", 1),
            will("brrbrr/1/presence/+", 1),
            will("brrbrr/1/presence/7", MAX_WILL_BYTES + 1),
        ] {
            assert_eq!(with(bad).unwrap_err(), Refusal::Will);
        }
    }

    #[test]
    fn a_robot_publishes_to_its_own_topics_at_this_relay() {
        let own = robot(7);
        let ask = |topic: &str| publish(own, RELAY, topic.as_bytes(), 1);
        assert_eq!(
            ask("brrbrr/1/up/00000000000000ab/7"),
            Verdict::Pass(Topic::Up(RELAY, own))
        );
        assert_eq!(ask("brrbrr/1/live/00000000000000ac/7"), Verdict::Stray);
        for topic in [
            "brrbrr/1/up/00000000000000ab/8",
            "brrbrr/1/up/00000000000000ac/8",
            "brrbrr/1/down/7",
            "brrbrr/1/hello/+",
            "$SYS/broker",
            "",
        ] {
            assert_eq!(ask(topic), Verdict::Denied, "{topic:?}");
        }
        assert_eq!(publish(own, RELAY, b"\xff", 1), Verdict::Denied);
        assert_eq!(
            publish(own, RELAY, b"brrbrr/1/hello/7", MAX_FRAME_BYTES + 1),
            Verdict::Denied
        );
    }

    #[test]
    fn a_robot_subscribes_to_its_down_topic_only() {
        assert!(subscribe(robot(7), "brrbrr/1/down/7"));
        for filter in [
            "brrbrr/1/down/8",
            "brrbrr/1/down/+",
            "brrbrr/1/#",
            "#",
            "$share/g/brrbrr/1/down/7",
            "brrbrr/1/hello/7",
            "",
        ] {
            assert!(!subscribe(robot(7), filter), "{filter:?}");
        }
    }
}
