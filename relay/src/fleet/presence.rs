//! Whether a robot is in contact with this relay. Pure.
//!
//! A robot is *online* while it has a session and its gateway reaches the robot's own software,
//! *degraded* while it has a session and the gateway does not, and *offline* otherwise. So:
//!
//! - A session that replaces another is no absence, nor is one that is renewed: the older one is in
//!   use until the newer is.
//! - A last will, or a farewell, ends the session at once. But brokers publish a will also when the
//!   robot's next connection takes over from a broken one, and a gateway that is restarted or whose
//!   Wi-Fi has blinked is back within a second or two. So the robot is shown as offline when it has
//!   not come back within [`RETURN_GRACE`], and then since the moment of the will. Nobody is called
//!   out for a blink, and nobody waits longer than that for the truth.
//! - A robot that says nothing is offline when the link takes it for gone. It has been out of contact
//!   since it was last heard, and has had more than its grace by then.
//! - What a robot's own side was before it went offline says nothing of when it is back: it is online
//!   until its gateway says otherwise, which is in the first frame of a session.

use std::time::Duration;

use brrbrr_proto::link::relay::Closed;
use brrbrr_proto::live::RobotSide;
use brrbrr_proto::time::Uptime;

use crate::live::{Cause, Contact};

/// How long a robot whose connection broke may take to come back before it is shown as offline. A
/// gateway tries again after half a second, then after one; with TLS on a slow link and a relay that
/// has others to welcome, it is in session after two.
pub const RETURN_GRACE: Duration = Duration::from_secs(3);

/// A change of contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// What it is now.
    pub contact: Contact,
    /// Why it is not online.
    pub cause: Option<Cause>,
    /// Since when.
    pub since: Uptime,
    /// When the robot was last heard.
    pub last_contact: Uptime,
}

/// One robot's contact. Starts as offline, of which nothing is told.
#[derive(Debug, Default)]
pub struct Tracker {
    shown: Contact,
    session: Session,
    heard_at: Uptime,
    /// What the gateway said of the robot's own side in this session, and when that came to be.
    side: Option<(RobotSide, Uptime)>,
}

#[derive(Debug, Default, Clone, Copy)]
enum Session {
    Open {
        since: Uptime,
    },
    /// None, since then and for that reason.
    Lost(Uptime, Cause),
    #[default]
    Never,
}

impl Tracker {
    /// The robot has a session.
    pub fn handle_opened(&mut self, now: Uptime) {
        match self.session {
            Session::Open { .. } => {}
            Session::Lost(..) | Session::Never => {
                if self.shown == Contact::Offline {
                    self.side = None;
                }
                self.session = Session::Open { since: now };
            }
        }
        self.heard_at = self.heard_at.max(now);
    }

    /// The robot said something in its session.
    pub fn handle_heard(&mut self, at: Uptime) {
        self.heard_at = self.heard_at.max(at);
    }

    /// The gateway says how the robot's own side is, and for how long it has been so, if it knows.
    pub fn handle_side(&mut self, side: Option<RobotSide>, age: Option<Duration>, now: Uptime) {
        let Some(side) = side else { return };
        if self.side.is_none_or(|(known, _)| known != side) {
            let before = age.unwrap_or_default().min(now.since_boot());
            let since = Uptime::new(now.since_boot().saturating_sub(before));
            self.side = Some((side, since));
        }
    }

    /// The robot's session is over.
    pub fn handle_closed(&mut self, reason: Closed, now: Uptime) {
        self.session = match reason {
            // The one that replaces it is open.
            Closed::Replaced => return,
            Closed::Gone => Session::Lost(now, Cause::ConnectionLost),
            Closed::Silent => Session::Lost(self.heard_at, Cause::Silent),
        };
    }

    /// What has changed for those who look on, if anything.
    pub fn poll_change(&mut self, now: Uptime) -> Option<Change> {
        let (contact, cause, since) = match self.session {
            Session::Never => return None,
            Session::Lost(since, cause) => {
                if self.poll_timeout().is_some_and(|at| now < at) {
                    return None;
                }
                (Contact::Offline, Some(cause), since)
            }
            Session::Open { since } => match self.side {
                Some((RobotSide::Down, at)) => {
                    let cause = Some(Cause::RobotSideDown);
                    (Contact::Degraded, cause, since.max(at))
                }
                Some((RobotSide::Up, at)) if self.shown == Contact::Degraded => {
                    (Contact::Online, None, since.max(at))
                }
                Some((RobotSide::Up, _)) | None => (Contact::Online, None, since),
            },
        };
        if contact == self.shown {
            return None;
        }
        self.shown = contact;
        Some(Change {
            contact,
            cause,
            since,
            last_contact: self.heard_at,
        })
    }

    /// When to call [`Tracker::poll_change`] again at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Uptime> {
        match self.session {
            Session::Lost(since, Cause::ConnectionLost) if self.shown != Contact::Offline => {
                Some(since.plus(RETURN_GRACE))
            }
            Session::Lost(..) | Session::Open { .. } | Session::Never => None,
        }
    }

    /// What is shown.
    #[must_use]
    pub const fn contact(&self) -> Contact {
        self.shown
    }

    /// When the robot was last heard, while it has a session.
    #[must_use]
    pub const fn heard_at(&self) -> Option<Uptime> {
        match self.session {
            Session::Open { .. } => Some(self.heard_at),
            Session::Lost(..) | Session::Never => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Uptime {
        Uptime::new(Duration::from_secs(seconds))
    }

    fn online() -> Tracker {
        let mut robot = Tracker::default();
        robot.handle_opened(at(10));
        robot.handle_side(Some(RobotSide::Up), None, at(10));
        let change = robot.poll_change(at(10)).unwrap();
        assert_eq!((change.contact, change.since), (Contact::Online, at(10)));
        robot
    }

    #[test]
    fn a_robot_that_never_had_a_session_has_nothing_to_tell() {
        let mut robot = Tracker::default();
        assert_eq!(robot.poll_change(at(1)), None);
        assert_eq!(robot.contact(), Contact::Offline);
        assert_eq!(robot.heard_at(), None);
    }

    #[test]
    fn a_robot_whose_connection_broke_is_offline_since_then_when_its_grace_is_over() {
        let mut robot = online();
        robot.handle_heard(at(19));
        robot.handle_closed(Closed::Gone, at(20));
        assert_eq!(robot.poll_change(at(20)), None);
        assert_eq!(robot.heard_at(), None, "it has no session");
        assert_eq!(robot.poll_timeout(), Some(at(23)));
        let change = Change {
            contact: Contact::Offline,
            cause: Some(Cause::ConnectionLost),
            since: at(20),
            last_contact: at(19),
        };
        assert_eq!(robot.poll_change(at(23)), Some(change));
        assert_eq!(robot.poll_change(at(24)), None);
        assert_eq!(robot.poll_timeout(), None);
    }

    #[test]
    fn a_robot_that_is_straight_back_was_never_away() {
        let mut robot = online();
        robot.handle_closed(Closed::Gone, at(20));
        assert_eq!(robot.poll_change(at(20)), None);
        robot.handle_opened(at(22));
        assert_eq!(robot.poll_change(at(22)), None);
        assert_eq!(robot.poll_timeout(), None);
        assert_eq!(robot.poll_change(at(100)), None);
    }

    #[test]
    fn a_replaced_session_is_no_absence() {
        let mut robot = online();
        robot.handle_closed(Closed::Replaced, at(20));
        robot.handle_opened(at(20));
        assert_eq!(robot.poll_change(at(20)), None);
        assert_eq!(robot.heard_at(), Some(at(20)));
    }

    #[test]
    fn a_silent_robot_is_offline_at_once_and_since_it_was_last_heard() {
        let mut robot = online();
        robot.handle_heard(at(15));
        robot.handle_closed(Closed::Silent, at(45));
        let change = robot.poll_change(at(45)).unwrap();
        assert_eq!(change.contact, Contact::Offline);
        assert_eq!(change.cause, Some(Cause::Silent));
        assert_eq!((change.since, change.last_contact), (at(15), at(15)));
    }

    #[test]
    fn a_robot_whose_own_side_is_down_is_degraded_for_as_long_as_its_gateway_says() {
        let mut robot = online();
        let down = Some(RobotSide::Down);
        robot.handle_side(down, Some(Duration::from_secs(4)), at(30));
        let change = robot.poll_change(at(30)).unwrap();
        assert_eq!(change.contact, Contact::Degraded);
        assert_eq!(change.cause, Some(Cause::RobotSideDown));
        assert_eq!(change.since, at(26));
        // A status that says nothing of it changes nothing.
        robot.handle_side(None, None, at(31));
        robot.handle_side(down, Some(Duration::from_secs(1)), at(31));
        assert_eq!(robot.poll_change(at(31)), None);
        robot.handle_side(Some(RobotSide::Up), Some(Duration::from_secs(2)), at(40));
        let change = robot.poll_change(at(40)).unwrap();
        assert_eq!(change.contact, Contact::Online);
        assert_eq!((change.cause, change.since), (None, at(38)));
    }

    #[test]
    fn a_robot_that_is_back_is_degraded_no_longer_than_it_has_been_back() {
        let mut robot = online();
        robot.handle_closed(Closed::Gone, at(20));
        robot.poll_change(at(30)).unwrap();
        robot.handle_opened(at(40));
        robot.handle_side(
            Some(RobotSide::Down),
            Some(Duration::from_secs(3_600)),
            at(40),
        );
        let change = robot.poll_change(at(40)).unwrap();
        assert_eq!((change.contact, change.since), (Contact::Degraded, at(40)));
    }

    #[test]
    fn what_the_own_side_was_before_an_absence_does_not_count_after_it() {
        let mut robot = online();
        robot.handle_side(Some(RobotSide::Down), None, at(11));
        robot.poll_change(at(11)).unwrap();
        robot.handle_closed(Closed::Gone, at(20));
        robot.poll_change(at(30)).unwrap();
        robot.handle_opened(at(40));
        let change = robot.poll_change(at(40)).unwrap();
        assert_eq!(change.contact, Contact::Online);
    }
}
