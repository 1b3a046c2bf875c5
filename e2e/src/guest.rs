//! A guest with a voice capsule: asks a robot for places, and knows after a broken connection
//! whether what was asked for has been accepted.

use std::time::Duration;

use crate::http::{Client, Cut, Request};
use crate::relay::Relay;
use crate::stores::{Command, Stores};
use crate::wait::{SOON, wait_for, wait_until};

/// How long a trip may take, with restarts in between.
const TRIP_LIMIT: Duration = Duration::from_secs(90);

/// How many times the guest asks whether the robot has arrived before the ledger is looked at.
const LOOK_EVERY: u32 = 20;

/// How a trip went, as far as the guest can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The robot is there.
    Arrived,
    /// The ledger says that the trip has ended in another way.
    Ended,
}

/// A guest of one robot.
#[derive(Debug, Clone)]
pub struct Guest {
    relay: Client,
    stores: Stores,
    robot: String,
    code: String,
}

impl Guest {
    /// A guest who has read the code on the robot's face.
    #[must_use]
    pub fn new(relay: &Relay, robot: &str, code: &str) -> Self {
        Self {
            relay: relay.client(),
            stores: relay.stores(),
            robot: robot.to_owned(),
            code: code.to_owned(),
        }
    }

    /// Asks to be taken to a place that nobody was taken to before, until that is accepted.
    ///
    /// # Panics
    /// Where the relay refuses.
    pub fn ask(&self, place: &str) {
        let request = Request::get("/api/v1/searchs").query("name", place);
        let request = request.code(&self.code);
        loop {
            match self.relay.try_send(&request) {
                Ok(answer) if answer.status == 503 => self.await_relay(),
                Ok(answer) => {
                    assert_eq!(answer.ok()["place"][0]["name"], place, "{}", answer.text());
                    return;
                }
                Err(Cut::Refused(_)) => self.await_relay(),
                Err(Cut::Lost(_)) => {
                    self.await_relay();
                    // The process that may have accepted it is gone, so the ledger is the answer.
                    if self.ordered(place).is_some() {
                        return;
                    }
                }
            }
        }
    }

    /// Waits until the robot is at a place that was asked for, or the trip has ended otherwise.
    ///
    /// # Panics
    /// Where the trip does not end.
    pub fn await_end(&self, place: &str) -> Seen {
        let request = Request::get("/api/v1/robots/arrived").code(&self.code);
        let mut asked = 0;
        wait_for(&format!("{} is at {place}", self.robot), TRIP_LIMIT, || {
            asked += 1;
            match self.relay.try_send(&request) {
                Ok(answer) if answer.status == 503 => {}
                Ok(answer) if answer.ok()["isArrived"] == true => return Some(Seen::Arrived),
                Ok(_) => {
                    let has_ended = asked % LOOK_EVERY == 0
                        && self.ordered(place).is_some_and(|c| c.is_final());
                    // An arrival that has ended it is seen by the next question.
                    if has_ended && self.relay.send(&request).ok()["isArrived"] != true {
                        return Some(Seen::Ended);
                    }
                }
                Err(Cut::Refused(_) | Cut::Lost(_)) => self.await_relay(),
            }
            None
        })
    }

    fn ordered(&self, place: &str) -> Option<Command> {
        let trips = self.stores.trips_ordered(&self.robot);
        trips.into_iter().find(|trip| trip.place() == Some(place))
    }

    fn await_relay(&self) {
        let ready = Request::get("/readyz");
        wait_until("the relay is ready again", SOON, || {
            let answer = self.relay.try_send(&ready);
            answer.is_ok_and(|answer| answer.status == 200)
        });
    }
}
