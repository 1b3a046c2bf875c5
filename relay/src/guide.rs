//! How a guest is guided: what a name means, what the robot is ordered, and what the trip log says.
//! Pure; the drivers in `http` and `push` carry it out.

use std::time::Duration;

use brrbrr_proto::down::{GoTo, Order};
use brrbrr_proto::live::Pose;
use jiff::Timestamp;

pub use crate::catalog::command::HOME;
use crate::catalog::{CommandState, LedgerEntry, NewCommand, Place, Robot};
use crate::journal::{TripEntry, TripStep};
use crate::live::{Guidance, Phase};

pub mod commands;
pub mod search;
pub mod view;

/// How long an order may still be started. A guest who waits longer has gone or has asked again.
pub const ORDER_LIFETIME: Duration = Duration::from_secs(60);

/// Among how many of a robot's newest commands the newest that moves or stops it is looked for.
pub const RECENT: usize = 32;

/// The actor of what a guest asks through a voice capsule or a page.
pub const VOICE: &str = "voice";
/// The actor of what somebody with the robot's code asks for by a command.
pub const GUEST: &str = "guest";
/// The actor of what an admin asks for by a command.
pub const ADMIN: &str = "admin";

/// The order that takes a guest to a place.
#[must_use]
pub fn go_to(place: &Place) -> Order {
    let place = &place.details;
    Order::GoTo(GoTo {
        pose: Pose {
            x: place.xaxis,
            y: place.yaxis,
            theta: None,
        },
        floor: Some(place.floor),
        place: place.name.clone(),
    })
}

/// The order that sends a robot home, if it has a home.
#[must_use]
pub fn go_home(robot: &Robot) -> Option<Order> {
    let pose = robot.home?;
    Some(Order::GoTo(GoTo {
        pose,
        floor: Some(robot.floor),
        place: String::new(),
    }))
}

/// What a guest sees when a trip has ended; `None` while it has not, or where it is nobody's trip.
#[must_use]
pub fn phase_after(entry: &LedgerEntry) -> Option<Phase> {
    let is_trip = matches!(entry.command.order, Order::GoTo(_)) && entry.command.actor != HOME;
    if !is_trip || !entry.state.is_final() {
        return None;
    }
    if entry.state == CommandState::Succeeded {
        Some(Phase::Arrived)
    } else {
        Some(Phase::Stopped)
    }
}

/// The newest of a robot's commands that moves or stops it, whatever became of it. They come newest
/// first as they were entered; what was ordered on the board may be entered late.
#[must_use]
pub fn newest_drive(recent: &[LedgerEntry]) -> Option<&LedgerEntry> {
    let is_drive = |entry: &&LedgerEntry| match &entry.command.order {
        Order::GoTo(_) | Order::Stop | Order::Dock => true,
        Order::Pause
        | Order::Resume
        | Order::Say(_)
        | Order::Custom(_)
        | Order::Cancel(_)
        | Order::Withdrawn => false,
    };
    // Of several at the same moment the last is taken, which must be the one that was entered last.
    let drives = recent.iter().rev().filter(is_drive);
    drives.max_by_key(|entry| entry.command.submitted)
}

/// What a guest sees of a command once it is in the ledger; `None` where it is nobody's trip.
#[must_use]
pub fn guidance_of(entry: &LedgerEntry) -> Option<Guidance> {
    let Order::GoTo(goal) = &entry.command.order else {
        return None;
    };
    if entry.command.actor == HOME {
        return None;
    }
    Some(Guidance {
        phase: phase_after(entry).unwrap_or(Phase::Moving),
        destination: Some(goal.place.clone()).filter(|place| !place.is_empty()),
        trip: Some(entry.command.id),
    })
}

/// The line of the trip log for a step of a command. It follows from the ledger alone, so whoever
/// finds it missing can write it later, and a second writing is the same line. `None` where the
/// command is nobody's trip. A goal without a name is named by its coordinates.
#[must_use]
pub fn trip_entry(
    robot_name: &str,
    command: &NewCommand,
    step: TripStep,
    at: Timestamp,
) -> Option<TripEntry> {
    let Order::GoTo(goal) = &command.order else {
        return None;
    };
    if command.actor == HOME {
        return None;
    }
    let destination = if goal.place.is_empty() {
        format!("{},{}", goal.pose.x, goal.pose.y)
    } else {
        goal.place.clone()
    };
    Some(TripEntry {
        command: command.id,
        robot_name: robot_name.to_owned(),
        destination,
        status: step,
        ordered_at: command.submitted,
        at,
    })
}

#[cfg(test)]
mod tests {
    use brrbrr_proto::id::{CommandId, RobotId, Seq};

    use super::*;
    use crate::catalog::{NewCommand, PlaceDetails};

    fn lobby() -> Place {
        Place {
            id: 4,
            details: PlaceDetails {
                name: "로비".to_owned(),
                description: None,
                floor: -1,
                xaxis: 1.5,
                yaxis: -2.0,
                thumburl: None,
                mapurl: None,
                aliases: Vec::new(),
            },
        }
    }

    fn robot(home: Option<Pose>) -> Robot {
        Robot {
            id: RobotId::new(1).unwrap(),
            name: "r1".to_owned(),
            floor: 7,
            home,
        }
    }

    fn entry(order: Order, actor: &str) -> LedgerEntry {
        LedgerEntry {
            command: NewCommand {
                id: CommandId(9),
                robot: RobotId::new(1).unwrap(),
                order,
                deadline: Timestamp::UNIX_EPOCH,
                actor: actor.to_owned(),
                idempotency_key: None,
                submitted: Timestamp::UNIX_EPOCH,
            },
            seq: Some(Seq::FIRST),
            state: CommandState::Queued,
            detail: String::new(),
            offered: false,
            progress: None,
            cancelling: false,
            outdone: false,
        }
    }

    #[test]
    fn a_guests_trip_is_logged_by_what_the_ledger_says() {
        let at = Timestamp::from_second(60).unwrap();
        let trip = entry(go_to(&lobby()), VOICE).command;
        let line = trip_entry("r1", &trip, TripStep::Arrived, at).unwrap();
        assert_eq!(line.command, CommandId(9));
        assert_eq!(line.destination, "로비");
        assert_eq!(line.status, TripStep::Arrived);
        assert_eq!(line.ordered_at, Timestamp::UNIX_EPOCH);
        assert_eq!(line.at, at);
    }

    #[test]
    fn a_trip_has_arrived_when_its_command_succeeded_and_stands_when_it_ended_otherwise() {
        let mut trip = entry(go_to(&lobby()), VOICE);
        assert_eq!(phase_after(&trip), None);
        trip.state = CommandState::Succeeded;
        assert_eq!(phase_after(&trip), Some(Phase::Arrived));
        trip.state = CommandState::Superseded;
        assert_eq!(phase_after(&trip), Some(Phase::Stopped));
        trip.command.actor = HOME.to_owned();
        assert_eq!(phase_after(&trip), None);
    }

    #[test]
    fn the_way_home_and_a_stop_are_nobodys_trip() {
        let home = Pose {
            x: 0.0,
            y: 0.0,
            theta: Some(1.0),
        };
        let way_home = go_home(&robot(Some(home))).unwrap();
        for entry in [entry(way_home, HOME), entry(Order::Stop, VOICE)] {
            let at = Timestamp::UNIX_EPOCH;
            let command = &entry.command;
            assert_eq!(trip_entry("r1", command, TripStep::Departed, at), None);
            assert_eq!(guidance_of(&entry), None);
        }
        assert_eq!(go_home(&robot(None)), None);
    }

    #[test]
    fn the_newest_drive_is_the_one_ordered_last_not_the_one_heard_of_last() {
        let at = |order, actor, second| {
            let mut entry = entry(order, actor);
            entry.command.submitted = Timestamp::from_second(second).unwrap();
            entry
        };
        let say = at(Order::Say("x".to_owned()), ADMIN, 9);
        let late = at(go_to(&lobby()), "board", 3);
        let stop = at(Order::Stop, VOICE, 5);
        let twin = at(go_to(&lobby()), VOICE, 5);
        let recent = [say.clone(), late.clone(), stop.clone()];
        assert_eq!(newest_drive(&recent), Some(&stop));
        assert_eq!(newest_drive(&[twin.clone(), stop]), Some(&twin));
        assert_eq!(newest_drive(&[say]), None);
        let shown = guidance_of(&late).unwrap();
        assert_eq!(shown.phase, Phase::Moving);
        assert_eq!(shown.destination.as_deref(), Some("로비"));
    }

    #[test]
    fn a_goal_without_a_name_is_logged_by_its_coordinates() {
        let mut trip = entry(go_to(&lobby()), ADMIN);
        let Order::GoTo(goal) = &mut trip.command.order else {
            panic!("no trip")
        };
        goal.place = String::new();
        let at = Timestamp::UNIX_EPOCH;
        let line = trip_entry("r1", &trip.command, TripStep::Departed, at).unwrap();
        assert_eq!(line.destination, "1.5,-2");
        assert_eq!(guidance_of(&trip).unwrap().destination, None);
    }
}
