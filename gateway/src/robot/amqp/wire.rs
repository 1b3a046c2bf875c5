//! What robots and gateway write into AMQP messages.
//!
//! ```text
//! to the robot, text   34.6,445.6    stop
//! to the robot, JSON   {"command": {"id", "kind": "go_to", "x", "y", "theta"?, "floor"?, "place"?}}
//!                      {"command": {"id", "kind": "stop" | "pause" | "resume" | "dock"}}
//!                      {"command": {"id", "kind": "say", "text"}}
//!                      {"command": {"id", "kind": "custom", "name", "data"}}
//! from the robot       도착
//!                      {"status": {"state"?, "x"?, "y"?, "theta"?, "floor"?, "battery"?, "speed"?}}
//!                      {"event": {"kind": "arrived", "command"?, "x"?, "y"?, "theta"?}}
//!                      {"event": {"kind": "failed", "command"?, "detail"?}}
//!                      {"event": {"kind": "progress", "command"?, "percent", "text"?}}
//!                      {"event": {"kind": "started"}}
//!                      {"event": {"kind": "alarm", "code", "severity"?, "text"?}}
//!                      {"event": {"kind": anything else, …}}
//! ```
//! Everything that a robot may say is understood in either mode. `started` is for a robot whose
//! software has just begun and knows of no goal: a motion that it had ends as interrupted.

use brrbrr_proto::down::{GoTo, Order};
use brrbrr_proto::id::CommandId;
use brrbrr_proto::live::{Activity, Pose, Status};
use brrbrr_proto::up::{Alarm, Custom, Severity};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

use crate::robot::RobotMessage;

/// The largest message of a robot that is looked at. It fits into a record with room to spare.
pub const MAX_BODY_BYTES: usize = 32 * 1024;

/// The largest message that is kept although nobody here understands it.
pub const MAX_UNRECOGNISED_BYTES: usize = 4 * 1024;

/// The kind of the custom event that holds what nobody here understands, as a JSON string.
pub const UNRECOGNISED: &str = "unrecognised";

/// How commands are written to the robot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    /// As `x,y` and `stop`, which robots have always understood.
    #[default]
    Text,
    /// As JSON with the command's id.
    Json,
}

/// Why an order cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// A coordinate is infinite or not a number.
    #[error("the goal has no finite coordinates")]
    NotFinite,
    /// The text form has no word for it.
    #[error("robots that are told in text cannot {0}; set wire = \"json\" for a robot that can")]
    NoWord(&'static str),
    /// Only the gateway itself can do it.
    #[error("a cancellation is not for the robot")]
    NotForRobots,
    /// The data of an integrator's own action is not JSON.
    #[error("the action's data is no JSON document")]
    NotJson,
}

/// Why a robot's message is thrown away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// It is too large to be kept.
    #[error("message of {0} bytes is too long")]
    TooLong(usize),
    /// It is not text.
    #[error("message is not UTF-8")]
    NotText,
}

/// The body that tells the robot an order.
///
/// # Errors
/// Where the robot cannot be told.
pub fn encode(wire: Wire, id: CommandId, order: &Order) -> Result<Vec<u8>, EncodeError> {
    if let Order::GoTo(goal) = order
        && !is_finite(&goal.pose)
    {
        return Err(EncodeError::NotFinite);
    }
    match wire {
        Wire::Text => encode_text(order),
        Wire::Json => encode_json(id, order),
    }
}

fn is_finite(pose: &Pose) -> bool {
    pose.x.is_finite() && pose.y.is_finite() && pose.theta.is_none_or(f64::is_finite)
}

fn encode_text(order: &Order) -> Result<Vec<u8>, EncodeError> {
    let text = match order {
        Order::GoTo(GoTo { pose, .. }) => format!("{},{}", pose.x, pose.y),
        Order::Stop => "stop".to_owned(),
        Order::Pause => return Err(EncodeError::NoWord("pause")),
        Order::Resume => return Err(EncodeError::NoWord("resume")),
        Order::Dock => return Err(EncodeError::NoWord("dock")),
        Order::Say(_) => return Err(EncodeError::NoWord("speak")),
        Order::Custom(_) => return Err(EncodeError::NoWord("do actions of their own")),
        Order::Cancel(_) | Order::Withdrawn => return Err(EncodeError::NotForRobots),
    };
    Ok(text.into_bytes())
}

#[derive(Serialize)]
struct Envelope<'a> {
    command: Told<'a>,
}

#[derive(Serialize)]
struct Told<'a> {
    id: String,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum What<'a> {
    GoTo {
        x: f64,
        y: f64,
        #[serde(skip_serializing_if = "Option::is_none")]
        theta: Option<f64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        floor: Option<i32>,
        #[serde(skip_serializing_if = "str::is_empty")]
        place: &'a str,
    },
    Stop,
    Pause,
    Resume,
    Dock,
    Say {
        text: &'a str,
    },
    Custom {
        name: &'a str,
        data: Value,
    },
}

fn encode_json(id: CommandId, order: &Order) -> Result<Vec<u8>, EncodeError> {
    let what = match order {
        Order::GoTo(GoTo { pose, floor, place }) => What::GoTo {
            x: pose.x,
            y: pose.y,
            theta: pose.theta,
            floor: *floor,
            place,
        },
        Order::Stop => What::Stop,
        Order::Pause => What::Pause,
        Order::Resume => What::Resume,
        Order::Dock => What::Dock,
        Order::Say(text) => What::Say { text },
        Order::Custom(action) => What::Custom {
            name: &action.name,
            data: serde_json::from_str(&action.json).map_err(|_| EncodeError::NotJson)?,
        },
        Order::Cancel(_) | Order::Withdrawn => return Err(EncodeError::NotForRobots),
    };
    let id = id.to_string();
    let command = Told { id, what };
    serde_json::to_vec(&Envelope { command }).map_err(|_| EncodeError::NotJson)
}

/// What a robot's message says. Text that nobody here understands becomes a custom event of the
/// kind [`UNRECOGNISED`].
///
/// # Errors
/// Where it cannot be kept at all.
pub fn decode(body: &[u8]) -> Result<RobotMessage, DecodeError> {
    if body.len() > MAX_BODY_BYTES {
        return Err(DecodeError::TooLong(body.len()));
    }
    let text = std::str::from_utf8(body).map_err(|_| DecodeError::NotText)?;
    let known = match text.trim() {
        "도착" => Some(RobotMessage::Arrived {
            command: None,
            pose: None,
        }),
        json => serde_json::from_str(json).ok().and_then(understand),
    };
    match known {
        Some(message) => Ok(message),
        None if body.len() > MAX_UNRECOGNISED_BYTES => Err(DecodeError::TooLong(body.len())),
        None => Ok(RobotMessage::Custom(Custom {
            kind: UNRECOGNISED.to_owned(),
            json: Value::String(text.to_owned()).to_string(),
        })),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Said {
    Status(SaidStatus),
    Event(Value),
}

#[derive(Deserialize)]
struct SaidStatus {
    state: Option<String>,
    #[serde(flatten)]
    place: SaidPose,
    floor: Option<i32>,
    battery: Option<f64>,
    speed: Option<f64>,
}

#[derive(Deserialize)]
struct SaidPose {
    x: Option<f64>,
    y: Option<f64>,
    theta: Option<f64>,
}

impl SaidPose {
    /// A pose needs both coordinates.
    fn pose(&self) -> Option<Pose> {
        let (x, y) = self.x.zip(self.y)?;
        let theta = self.theta;
        Some(Pose { x, y, theta })
    }
}

#[derive(Deserialize)]
struct SaidEvent {
    kind: String,
    command: Option<String>,
    #[serde(flatten)]
    place: SaidPose,
    detail: Option<String>,
    code: Option<String>,
    severity: Option<SaidSeverity>,
    text: Option<String>,
    percent: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum SaidSeverity {
    Notice,
    Warning,
    Critical,
}

fn understand(said: Said) -> Option<RobotMessage> {
    match said {
        Said::Status(status) => Some(RobotMessage::Status(understand_status(&status))),
        Said::Event(event) => understand_event(event),
    }
}

fn understand_status(said: &SaidStatus) -> Status {
    let activity = said.state.as_deref().and_then(|state| match state {
        "idle" | "대기" => Some(Activity::Idle),
        "moving" | "이동중" => Some(Activity::Moving),
        "stopped" | "정지" => Some(Activity::Stopped),
        "arrived" | "도착" => Some(Activity::Arrived),
        "docking" | "docked" | "charging" | "충전" => Some(Activity::Docking),
        "faulted" => Some(Activity::Faulted),
        _ => None,
    });
    Status {
        activity,
        pose: said.place.pose(),
        floor: said.floor,
        battery: said.battery.and_then(charge),
        speed: said.speed,
        robot_side: None,
    }
}

/// Some robots say their charge from 0 to 1 and some in percent.
fn charge(said: f64) -> Option<f64> {
    match said {
        share if (0.0..=1.0).contains(&share) => Some(share),
        percent if (1.0..=100.0).contains(&percent) => Some(percent / 100.0),
        _ => None,
    }
}

/// The whole percents that are done.
fn percent(said: f64) -> u8 {
    let mut whole = (0..=100).rev();
    whole
        .find(|percent| f64::from(*percent) <= said)
        .unwrap_or(0)
}

fn understand_event(event: Value) -> Option<RobotMessage> {
    let said = SaidEvent::deserialize(&event).ok()?;
    let command = match &said.command {
        Some(id) => Some(id.parse().ok()?),
        None => None,
    };
    Some(match said.kind.as_str() {
        "arrived" => RobotMessage::Arrived {
            command,
            pose: said.place.pose(),
        },
        "failed" => RobotMessage::Failed {
            command,
            detail: said
                .detail
                .unwrap_or_else(|| "the robot gave up".to_owned()),
        },
        "progress" => RobotMessage::Progress {
            command,
            percent: percent(said.percent?),
            text: said.text.unwrap_or_default(),
        },
        "started" => RobotMessage::Started,
        "alarm" => RobotMessage::Alarm(Alarm {
            code: said.code?,
            severity: match said.severity {
                Some(SaidSeverity::Critical) => Severity::Critical,
                Some(SaidSeverity::Warning) | None => Severity::Warning,
                Some(SaidSeverity::Notice) => Severity::Notice,
            },
            text: said.text.unwrap_or_default(),
        }),
        _ => RobotMessage::Custom(Custom {
            kind: said.kind,
            json: event.to_string(),
        }),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn go_to(x: f64, y: f64) -> Order {
        let pose = Pose { x, y, theta: None };
        Order::GoTo(GoTo {
            pose,
            floor: Some(7),
            place: "701호".to_owned(),
        })
    }

    fn text(order: &Order) -> String {
        let body = encode(Wire::Text, CommandId(1), order).unwrap();
        String::from_utf8(body).unwrap()
    }

    fn json(order: &Order) -> String {
        let body = encode(Wire::Json, CommandId(0xfeed), order).unwrap();
        String::from_utf8(body).unwrap()
    }

    #[test]
    fn orders_in_text_are_what_robots_have_always_been_sent() {
        assert_eq!(text(&go_to(34.6, 445.6)), "34.6,445.6");
        assert_eq!(text(&go_to(-1.0, 0.1)), "-1,0.1");
        assert_eq!(text(&Order::Stop), "stop");
        let refused = encode(Wire::Text, CommandId(1), &Order::Pause);
        assert_eq!(refused, Err(EncodeError::NoWord("pause")));
        let refused = encode(Wire::Text, CommandId(1), &go_to(f64::NAN, 1.0));
        assert_eq!(refused, Err(EncodeError::NotFinite));
    }

    #[test]
    fn orders_in_json_carry_the_id() {
        let id = r#""id":"0000000000000000000000000000feed""#;
        let goal = r#""kind":"go_to","x":34.6,"y":445.6,"floor":7,"place":"701호""#;
        let expected = format!(r#"{{"command":{{{id},{goal}}}}}"#);
        assert_eq!(json(&go_to(34.6, 445.6)), expected);
        let expected = format!(r#"{{"command":{{{id},"kind":"stop"}}}}"#);
        assert_eq!(json(&Order::Stop), expected);
    }

    #[test]
    fn arrivals_are_understood_in_text_and_in_json() {
        let bare = RobotMessage::Arrived {
            command: None,
            pose: None,
        };
        assert_eq!(decode("도착".as_bytes()), Ok(bare.clone()));
        assert_eq!(decode("도착\n".as_bytes()), Ok(bare));
        let said = br#"{"event":{"kind":"arrived","command":"0000000000000000000000000000feed","x":1,"y":2.5}}"#;
        let named = RobotMessage::Arrived {
            command: Some(CommandId(0xfeed)),
            pose: Some(Pose {
                x: 1.0,
                y: 2.5,
                theta: None,
            }),
        };
        assert_eq!(decode(said), Ok(named));
    }

    #[test]
    fn a_status_says_as_much_as_it_knows() {
        let said =
            r#"{"status":{"state":"이동중","x":1.5,"y":2,"floor":7,"battery":80,"mood":"good"}}"#;
        let status = Status {
            activity: Some(Activity::Moving),
            pose: Some(Pose {
                x: 1.5,
                y: 2.0,
                theta: None,
            }),
            floor: Some(7),
            battery: Some(0.8),
            ..Status::default()
        };
        assert_eq!(decode(said.as_bytes()), Ok(RobotMessage::Status(status)));
        let empty = decode(br#"{"status":{}}"#);
        assert_eq!(empty, Ok(RobotMessage::Status(Status::default())));
    }

    #[test]
    fn progress_is_understood_in_whole_percents() {
        let progress = |command, percent, text: &str| RobotMessage::Progress {
            command,
            percent,
            text: text.to_owned(),
        };
        for (said, expected) in [
            (r#""percent":40,"text":"복도""#, progress(None, 40, "복도")),
            (r#""percent":99.9"#, progress(None, 99, "")),
            (r#""percent":250"#, progress(None, 100, "")),
            (r#""percent":-1"#, progress(None, 0, "")),
            (
                r#""percent":1,"command":"0000000000000000000000000000feed""#,
                progress(Some(CommandId(0xfeed)), 1, ""),
            ),
        ] {
            let body = format!(r#"{{"event":{{"kind":"progress",{said}}}}}"#);
            assert_eq!(decode(body.as_bytes()), Ok(expected), "{body}");
        }
        let nothing = decode(br#"{"event":{"kind":"progress"}}"#);
        assert!(matches!(nothing, Ok(RobotMessage::Custom(_))));
    }

    #[test]
    fn a_robot_says_that_its_software_was_started_anew() {
        let said = br#"{"event":{"kind":"started","version":"2.1"}}"#;
        assert_eq!(decode(said), Ok(RobotMessage::Started));
    }

    #[test]
    fn events_of_an_integrators_own_are_passed_on_as_they_are() {
        let said = br#"{"event":{"kind":"door","open":true}}"#;
        let Ok(RobotMessage::Custom(custom)) = decode(said) else {
            panic!("not understood");
        };
        assert_eq!(custom.kind, "door");
        assert_eq!(custom.json, r#"{"kind":"door","open":true}"#);
    }

    #[test]
    fn what_is_not_understood_is_kept_while_it_is_small_text() {
        for body in [
            "",
            "hello",
            "{",
            "[1]",
            r#"{"event":{}}"#,
            r#"{"status":{"x":"a"}}"#,
        ] {
            let Ok(RobotMessage::Custom(custom)) = decode(body.as_bytes()) else {
                panic!("{body}");
            };
            assert_eq!(custom.kind, UNRECOGNISED);
            assert_eq!(custom.json, Value::String(body.to_owned()).to_string());
        }
        assert_eq!(decode(&[0xff]), Err(DecodeError::NotText));
        let long = vec![b'x'; MAX_UNRECOGNISED_BYTES + 1];
        assert_eq!(decode(&long), Err(DecodeError::TooLong(long.len())));
        let nested = "[".repeat(MAX_BODY_BYTES);
        assert!(decode(nested.as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(decode(&body));
        }
    }
}
