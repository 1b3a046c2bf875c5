//! Commands as programs speak of them over HTTP, in JSON: the same words on the relay and on the
//! robot's board.
//!
//! A submission is an object with `kind` and what that kind needs:
//!
//! | kind | fields |
//! | --- | --- |
//! | `go-to` | `place`: a name, or `placeId`: a number, or `x` and `y`: metres on the map, with `theta` (radians) and `floor` if wanted |
//! | `stop`, `pause`, `resume`, `dock` | none |
//! | `say` | `text` |
//! | `custom` | `name`, and `arguments`: any JSON |
//!
//! and, with each of them, `expiresIn`: for how many seconds from now it may still be started.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::down::{Action, GoTo, MAX_COMMAND_BYTES, Order};
use crate::live::Pose;

/// How long a command may still be started where its caller does not say. A person who waits longer
/// has gone or has asked again.
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// The longest time in which a command may be started.
pub const MAX_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long the cancellation of a command may wait. It names what it is for, so it does no harm late.
pub const CANCEL_LIFETIME: Duration = MAX_LIFETIME;
/// The longest idempotency key, in bytes.
pub const MAX_KEY_BYTES: usize = 128;
/// The longest name of a place or of an action, in characters.
const NAME_CHARS: usize = 255;

/// What a caller asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    /// What to do.
    pub task: Task,
    /// How long it may still be started.
    pub lifetime: Duration,
}

/// What to do, before a place has been looked up.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// Drive to the place of this name.
    Place(String),
    /// Drive to the place with this number.
    PlaceId(i64),
    /// Nothing has to be looked up.
    Order(Order),
}

/// What is wrong with a submission.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field}: {reason}")]
pub struct BadField {
    /// Which field.
    pub field: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Submission {
    /// Reads the fields of a body. A field that is not known is an error: a misspelt `expiresIn`
    /// must not be overlooked. One that is `null` is as good as absent.
    ///
    /// # Errors
    /// [`BadField`] names the field and what was expected.
    pub fn read(mut body: Map<String, Value>) -> Result<Self, BadField> {
        body.retain(|_, value| !value.is_null());
        let mut fields = Fields(body);
        let kind = fields.text("kind")?.ok_or_else(|| missing("kind"))?;
        let task = match kind.as_str() {
            "go-to" => fields.goal()?,
            "stop" => Task::Order(Order::Stop),
            "pause" => Task::Order(Order::Pause),
            "resume" => Task::Order(Order::Resume),
            "dock" => Task::Order(Order::Dock),
            "say" => Task::Order(Order::Say(fields.words("text", MAX_COMMAND_BYTES)?)),
            "custom" => Task::Order(Order::Custom(fields.action()?)),
            _ => {
                let kinds = "must be go-to, stop, pause, resume, dock, say or custom";
                return Err(bad("kind", kinds));
            }
        };
        let lifetime = fields.lifetime()?;
        if let Some(field) = fields.0.keys().next() {
            return Err(bad(field, "is not a field of this kind of command"));
        }
        if let Task::Order(order) = &task {
            fits(order)?;
        }
        Ok(Self { task, lifetime })
    }
}

/// Whether the link can carry an order.
///
/// # Errors
/// [`BadField`] where it is too long.
pub fn fits(order: &Order) -> Result<(), BadField> {
    // What goes around an order in a command takes far less than this.
    const AROUND: usize = 64;
    let bytes = postcard::experimental::serialized_size(order).unwrap_or(usize::MAX);
    if bytes.saturating_add(AROUND) > MAX_COMMAND_BYTES {
        let field = match order {
            Order::Say(_) => "text",
            Order::GoTo(_)
            | Order::Stop
            | Order::Pause
            | Order::Resume
            | Order::Dock
            | Order::Custom(_)
            | Order::Cancel(_)
            | Order::Withdrawn => "arguments",
        };
        return Err(bad(field, "is too long: a command has at most 16 KiB"));
    }
    Ok(())
}

/// The kind of an order, in one word.
#[must_use]
pub const fn kind(order: &Order) -> &'static str {
    match order {
        Order::GoTo(_) => "go-to",
        Order::Stop => "stop",
        Order::Pause => "pause",
        Order::Resume => "resume",
        Order::Dock => "dock",
        Order::Say(_) => "say",
        Order::Custom(_) => "custom",
        Order::Cancel(_) => "cancel",
        Order::Withdrawn => "withdrawn",
    }
}

/// A command, as it is shown. Times are ISO 8601 in UTC with milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandView {
    /// Its id: 32 hexadecimal digits.
    pub id: String,
    /// The robot's number.
    pub robot: u32,
    /// What it is.
    #[serde(flatten)]
    pub order: OrderView,
    /// Who asked: `voice`, `home`, `admin`, `guest`, `board`, …
    pub actor: String,
    /// The caller's own key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// `queued`, `sent`, `received`, `running`, `succeeded`, `failed`, `cancelled`, `expired`,
    /// `superseded` or `interrupted`.
    pub state: String,
    /// A sentence about the state; may be empty.
    pub detail: String,
    /// Whether nothing can follow.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// When it was accepted.
    pub submitted_at: String,
    /// When it must not be started any more.
    pub expires_at: String,
    /// How far it has got, where the robot says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressView>,
    /// A cancellation of it is under way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancelling: bool,
    /// Since when nobody has heard how it goes on. The state is the last one that was heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown_since: Option<String>,
    /// Every state it came into, oldest first. Only where one command was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<Vec<TransitionView>>,
}

/// What a command is, in the words of a submission.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct OrderView {
    /// See the module's table; a cancellation is of the kind `cancel`.
    pub kind: String,
    /// Where to, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// Metres along x.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x: Option<f64>,
    /// Metres along y.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<f64>,
    /// Heading in radians.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub theta: Option<f64>,
    /// The floor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<i32>,
    /// What to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The name of an action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What an action is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Value>,
    /// The command that a cancellation is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

impl From<&Order> for OrderView {
    fn from(order: &Order) -> Self {
        let mut view = Self {
            kind: kind(order).to_owned(),
            ..Self::default()
        };
        match order {
            Order::GoTo(goal) => {
                view.place = Some(goal.place.clone()).filter(|place| !place.is_empty());
                view.x = Some(goal.pose.x);
                view.y = Some(goal.pose.y);
                view.theta = goal.pose.theta;
                view.floor = goal.floor;
            }
            Order::Say(text) => view.text = Some(text.clone()),
            Order::Custom(action) => {
                view.name = Some(action.name.clone());
                view.arguments = serde_json::from_str(&action.json).ok();
            }
            Order::Cancel(target) => view.command = Some(target.to_string()),
            Order::Stop | Order::Pause | Order::Resume | Order::Dock | Order::Withdrawn => {}
        }
        view
    }
}

/// How far a command has got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressView {
    /// From 0 to 100.
    pub percent: u8,
    /// A sentence for people; may be empty.
    pub text: String,
    /// When the robot said so.
    pub at: String,
}

/// A state that a command came into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransitionView {
    /// Which.
    pub state: String,
    /// When.
    pub at: String,
    /// A sentence about it; may be empty.
    pub detail: String,
}

struct Fields(Map<String, Value>);

impl Fields {
    fn take(&mut self, field: &str) -> Option<Value> {
        self.0.remove(field)
    }

    fn text(&mut self, field: &str) -> Result<Option<String>, BadField> {
        match self.take(field) {
            None => Ok(None),
            // No store that may come later can hold a NUL.
            Some(Value::String(text)) if text.contains('\0') => {
                Err(bad(field, "must not contain a NUL"))
            }
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(bad(field, "must be a text")),
        }
    }

    fn words(&mut self, field: &str, longest: usize) -> Result<String, BadField> {
        let text = self.text(field)?.ok_or_else(|| missing(field))?;
        if text.trim().is_empty() {
            return Err(bad(field, "must not be empty"));
        }
        if text.chars().nth(longest).is_some() {
            return Err(bad(field, "is too long"));
        }
        Ok(text)
    }

    fn number(&mut self, field: &str) -> Result<Option<f64>, BadField> {
        let Some(value) = self.take(field) else {
            return Ok(None);
        };
        let number = value.as_f64().filter(|number| number.is_finite());
        number
            .map(Some)
            .ok_or_else(|| bad(field, "must be a number"))
    }

    fn goal(&mut self) -> Result<Task, BadField> {
        let by_name = self.0.contains_key("place");
        let by_id = self.0.contains_key("placeId");
        let by_pose = self.0.contains_key("x") || self.0.contains_key("y");
        match (by_name, by_id, by_pose) {
            (true, false, false) => self.words("place", NAME_CHARS).map(Task::Place),
            (false, true, false) => {
                let id = self.take("placeId").and_then(|id| id.as_i64());
                id.map(Task::PlaceId)
                    .ok_or_else(|| bad("placeId", "must be an integer"))
            }
            (false, false, true) => self.pose().map(Task::Order),
            (false, false, false) => {
                Err(bad("place", "is missing: give place, placeId, or x and y"))
            }
            _ => Err(bad("place", "give one of place, placeId, and x with y")),
        }
    }

    fn pose(&mut self) -> Result<Order, BadField> {
        let x = self.number("x")?.ok_or_else(|| missing("x"))?;
        let y = self.number("y")?.ok_or_else(|| missing("y"))?;
        let theta = self.number("theta")?;
        let floor = match self.take("floor") {
            None => None,
            Some(floor) => {
                let floor = floor.as_i64().and_then(|floor| floor.try_into().ok());
                Some(floor.ok_or_else(|| bad("floor", "must be an integer"))?)
            }
        };
        Ok(Order::GoTo(GoTo {
            pose: Pose { x, y, theta },
            floor,
            place: String::new(),
        }))
    }

    fn action(&mut self) -> Result<Action, BadField> {
        Ok(Action {
            name: self.words("name", NAME_CHARS)?,
            json: self.take("arguments").unwrap_or_default().to_string(),
        })
    }

    fn lifetime(&mut self) -> Result<Duration, BadField> {
        const EXPECTED: &str = "must be a number of seconds, more than 0 and at most 604800";
        let Some(seconds) = self.number("expiresIn")? else {
            return Ok(DEFAULT_LIFETIME);
        };
        let lifetime = Duration::try_from_secs_f64(seconds).ok();
        lifetime
            .filter(|lifetime| !lifetime.is_zero() && *lifetime <= MAX_LIFETIME)
            .ok_or_else(|| bad("expiresIn", EXPECTED))
    }
}

fn bad(field: &str, reason: &'static str) -> BadField {
    BadField {
        field: field.to_owned(),
        reason,
    }
}

fn missing(field: &str) -> BadField {
    bad(field, "is missing")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: Value) -> Result<Submission, String> {
        let Value::Object(body) = body else {
            panic!("not an object")
        };
        Submission::read(body).map_err(|error| error.to_string())
    }

    #[test]
    fn every_kind_is_read() {
        let order = |body| match read(body).unwrap().task {
            Task::Order(order) => order,
            task @ (Task::Place(_) | Task::PlaceId(_)) => panic!("{task:?}"),
        };
        let place = read(json!({"kind": "go-to", "place": "카페"})).unwrap();
        assert_eq!(place.task, Task::Place("카페".to_owned()));
        assert_eq!(place.lifetime, DEFAULT_LIFETIME);
        let place = read(json!({"kind": "go-to", "placeId": 7, "expiresIn": 0.5})).unwrap();
        assert_eq!(place.task, Task::PlaceId(7));
        assert_eq!(place.lifetime, Duration::from_millis(500));
        let pose = order(json!({"kind": "go-to", "x": 1, "y": -2.5, "theta": 0.5, "floor": -1}));
        let expected = GoTo {
            pose: Pose {
                x: 1.0,
                y: -2.5,
                theta: Some(0.5),
            },
            floor: Some(-1),
            place: String::new(),
        };
        assert_eq!(pose, Order::GoTo(expected));
        for (kind, expected) in [
            ("stop", Order::Stop),
            ("pause", Order::Pause),
            ("resume", Order::Resume),
            ("dock", Order::Dock),
        ] {
            assert_eq!(order(json!({ "kind": kind })), expected);
        }
        let say = order(json!({"kind": "say", "text": "안녕"}));
        assert_eq!(say, Order::Say("안녕".to_owned()));
        let custom = order(json!({"kind": "custom", "name": "lid", "arguments": {"open": true}}));
        let action = Action {
            name: "lid".to_owned(),
            json: r#"{"open":true}"#.to_owned(),
        };
        assert_eq!(custom, Order::Custom(action));
    }

    #[test]
    fn a_field_that_is_null_is_as_good_as_absent() {
        for (given, plain) in [
            (
                json!({"kind": "go-to", "place": null, "placeId": null, "x": 1, "y": 2}),
                json!({"kind": "go-to", "x": 1, "y": 2}),
            ),
            (
                json!({"kind": "go-to", "place": "카페", "x": null, "y": null, "floor": null}),
                json!({"kind": "go-to", "place": "카페"}),
            ),
            (
                json!({"kind": "go-to", "placeId": null}),
                json!({"kind": "go-to"}),
            ),
            (
                json!({"kind": "custom", "name": "lid", "arguments": null, "expiresIn": null}),
                json!({"kind": "custom", "name": "lid"}),
            ),
            (json!({"kind": null}), json!({})),
        ] {
            assert_eq!(read(given.clone()), read(plain), "{given}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, expected) in [
            (json!({}), "kind: is missing"),
            (
                json!({"kind": "fly"}),
                "kind: must be go-to, stop, pause, resume, dock, say or custom",
            ),
            (
                json!({"kind": "go-to"}),
                "place: is missing: give place, placeId, or x and y",
            ),
            (json!({"kind": "go-to", "x": 1}), "y: is missing"),
            (
                json!({"kind": "go-to", "x": "1", "y": 2}),
                "x: must be a number",
            ),
            (
                json!({"kind": "go-to", "place": "a", "x": 1, "y": 2}),
                "place: give one of place, placeId, and x with y",
            ),
            (
                json!({"kind": "go-to", "place": " "}),
                "place: must not be empty",
            ),
            (
                json!({"kind": "go-to", "placeId": 1.5}),
                "placeId: must be an integer",
            ),
            (json!({"kind": "say"}), "text: is missing"),
            (json!({"kind": "say", "text": 1}), "text: must be a text"),
            (
                json!({"kind": "stop", "expiresin": 1}),
                "expiresin: is not a field of this kind of command",
            ),
            (
                json!({"kind": "stop", "expiresIn": 0}),
                "expiresIn: must be a number of seconds, more than 0 and at most 604800",
            ),
            (
                json!({"kind": "say", "text": "x".repeat(17_000)}),
                "text: is too long",
            ),
            (
                json!({"kind": "say", "text": "한".repeat(6_000)}),
                "text: is too long: a command has at most 16 KiB",
            ),
        ] {
            assert_eq!(read(body.clone()), Err(expected.to_owned()), "{body}");
        }
    }

    #[test]
    fn an_order_is_shown_in_the_words_it_was_given_in() {
        for body in [
            json!({"kind": "go-to", "x": 1.0, "y": -2.5, "theta": 0.5, "floor": -1}),
            json!({"kind": "dock"}),
            json!({"kind": "say", "text": "안녕"}),
            json!({"kind": "custom", "name": "lid", "arguments": {"open": [1, null]}}),
        ] {
            let Task::Order(order) = read(body.clone()).unwrap().task else {
                panic!("{body}")
            };
            assert_eq!(serde_json::to_value(OrderView::from(&order)).unwrap(), body);
        }
    }
}
