//! An operator: gives commands over the relay's REST routes or over a board's own, and watches how
//! they end.

use std::time::Duration;

use serde_json::Value;

use crate::control::Control;
use crate::http::{Answer, Client, Cut, Request};
use crate::relay::Relay;
use crate::wait::{SOON, wait_for};

/// Whom an operator speaks to.
#[derive(Debug, Clone)]
enum Desk {
    Relay(Client),
    Board(Control),
}

/// An operator of one robot.
#[derive(Debug, Clone)]
pub struct Operator {
    desk: Desk,
    robot: u64,
}

impl Operator {
    /// One who speaks to the relay about the robot of this name.
    ///
    /// # Panics
    /// Where the relay knows no such robot.
    #[must_use]
    pub fn at(relay: &Relay, robot: &str) -> Self {
        let client = relay.client();
        let robots = client.send(&Request::get("/api/v1/robots")).ok();
        let mut robots = robots.as_array().unwrap().iter();
        let found = robots.find(|known| known["name"] == robot);
        let found = found.unwrap_or_else(|| panic!("no robot {robot}"));
        Self {
            desk: Desk::Relay(client),
            robot: found["id"].as_u64().unwrap(),
        }
    }

    /// The same robot's operator at its board.
    #[must_use]
    pub const fn on_board(&self, board: Control) -> Self {
        Self {
            desk: Desk::Board(board),
            robot: self.robot,
        }
    }

    /// Sends a request that may fail.
    ///
    /// # Errors
    /// Says whether it may have been acted on.
    pub fn try_send(&self, request: &Request) -> Result<Answer, Cut> {
        match &self.desk {
            Desk::Relay(client) => client.try_send(request),
            Desk::Board(control) => control.try_send(request),
        }
    }

    fn send(&self, request: &Request) -> Answer {
        self.try_send(request)
            .unwrap_or_else(|error| panic!("{request:?}: {error:?}"))
    }

    /// A submission, to be sent.
    #[must_use]
    pub fn submission(&self, command: &Value) -> Request {
        let path = format!("/api/v1/robots/{}/commands", self.robot);
        Request::new("POST", &path).json(command)
    }

    /// Gives a command and returns its id.
    ///
    /// # Panics
    /// Where it is not accepted.
    #[must_use]
    pub fn submit(&self, command: &Value) -> String {
        let answer = self.send(&self.submission(command));
        assert_eq!(answer.status, 201, "{command}: {}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// A command with its history.
    ///
    /// # Panics
    /// Where there is no such command.
    #[must_use]
    pub fn command(&self, id: &str) -> Value {
        self.send(&Request::get(&format!("/api/v1/commands/{id}")))
            .ok()
    }

    /// Cancels a command, and returns the status of the answer: 202 while that is under way, 200
    /// where the command has ended.
    ///
    /// # Panics
    /// Where the answer is neither.
    pub fn cancel(&self, id: &str) -> u16 {
        let answer = self.send(&Request::new("DELETE", &format!("/api/v1/commands/{id}")));
        assert!([200, 202].contains(&answer.status), "{}", answer.text());
        answer.status
    }

    /// Waits with a long poll until a command has ended.
    ///
    /// # Panics
    /// Where it does not soon.
    #[must_use]
    pub fn await_end(&self, id: &str) -> Value {
        let wait = Request::get(&format!("/api/v1/commands/{id}/wait")).query("timeout", "5");
        wait_for(&format!("command {id} ends"), 3 * SOON, || {
            let command = self.send(&wait).ok();
            (command["final"] == true).then_some(command)
        })
    }

    /// Waits until a command is in a state.
    ///
    /// # Panics
    /// Where it does not come into it soon.
    pub fn await_state(&self, id: &str, state: &str) -> Value {
        wait_for(&format!("command {id} is {state}"), SOON, || {
            let command = self.command(id);
            let seen = command["state"].as_str().unwrap().to_owned();
            let is_over = command["final"] == true && seen != state;
            assert!(!is_over, "{command}");
            (seen == state).then_some(command)
        })
    }

    /// Every command, newest first.
    #[must_use]
    pub fn commands(&self) -> Vec<Value> {
        let mut all: Vec<Value> = Vec::new();
        loop {
            let path = format!("/api/v1/robots/{}/commands", self.robot);
            let mut request = Request::get(&path).query("limit", "100");
            if let Some(last) = all.last() {
                request = request.query("after", last["id"].as_str().unwrap());
            }
            let page = self.send(&request).ok();
            all.extend(page["commands"].as_array().unwrap().iter().cloned());
            if page.get("next").is_none_or(Value::is_null) {
                return all;
            }
        }
    }

    /// How the robot is.
    #[must_use]
    pub fn status(&self) -> Value {
        let path = format!("/api/v1/robots/{}/status", self.robot);
        self.send(&Request::get(&path)).ok()
    }

    /// Whether the robot is `online`, `degraded` or `offline`.
    #[must_use]
    pub fn presence(&self) -> String {
        self.status()["presence"]["state"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Waits until the robot's presence is this, and returns its status.
    ///
    /// # Panics
    /// Where that does not come within the limit.
    pub fn await_presence(&self, presence: &str, limit: Duration) -> Value {
        wait_for(&format!("the robot is {presence}"), limit, || {
            let status = self.status();
            (status["presence"]["state"] == presence).then_some(status)
        })
    }
}

/// The states that a command went through.
///
/// # Panics
/// Where it came without its history.
#[must_use]
pub fn history(command: &Value) -> Vec<String> {
    let steps = command["history"].as_array().unwrap().iter();
    steps
        .map(|step| step["state"].as_str().unwrap().to_owned())
        .collect()
}
