//! What a submitted command means in the building, and how commands are shown. Pure.

use brrbrr_proto::api::{CommandView, OrderView, ProgressView, Task, TransitionView};
use brrbrr_proto::down::Order;
use brrbrr_proto::names::Asked;
use jiff::Timestamp;
use thiserror::Error;

use super::go_to;
use super::search::{self, Found};
use crate::catalog::{LedgerEntry, Place, Robot, Transition};
use crate::live::{Contact, Presence};

/// Why a robot cannot be sent there.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoGoal {
    /// No place has that name.
    #[error("there is no place {0:?}")]
    UnknownName(String),
    /// No place has that number.
    #[error("there is no place {0}")]
    UnknownId(i64),
    /// It is there, but not for this robot.
    #[error("{goal} is on floor {floor}, and this robot serves floor {own}")]
    OtherFloor {
        /// What was asked for.
        goal: String,
        /// Where it is.
        floor: i32,
        /// Where the robot is.
        own: i32,
    },
}

/// The order that a task means, and the place it leads to, if one was asked for.
///
/// # Errors
/// [`NoGoal`] where the robot cannot be sent there.
pub fn order_for<'a>(
    task: Task,
    places: &'a [Place],
    robot: &Robot,
) -> Result<(Order, Option<&'a Place>), NoGoal> {
    match task {
        Task::Place(name) => {
            let asked = Asked::new(&name.replace('+', " "));
            let found = search::place(places, robot.floor, &asked).found;
            if let Some(place) = found.goal() {
                return Ok((go_to(place), Some(place)));
            }
            match found {
                Found::PlacesElsewhere(elsewhere) => {
                    let floor = elsewhere.first().map(|place| place.details.floor);
                    let floor = floor.ok_or_else(|| NoGoal::UnknownName(name.clone()))?;
                    Err(other_floor(format!("place {name:?}"), floor, robot))
                }
                Found::PlaceHere(_)
                | Found::EventHere(..)
                | Found::EventsElsewhere(_)
                | Found::Nothing => Err(NoGoal::UnknownName(name)),
            }
        }
        Task::PlaceId(id) => {
            let place = places.iter().find(|place| place.id == id);
            let place = place.ok_or(NoGoal::UnknownId(id))?;
            if place.details.floor != robot.floor {
                let goal = format!("place {id}");
                return Err(other_floor(goal, place.details.floor, robot));
            }
            Ok((go_to(place), Some(place)))
        }
        Task::Order(order) => {
            if let Order::GoTo(goal) = &order
                && let Some(floor) = goal.floor.filter(|floor| *floor != robot.floor)
            {
                return Err(other_floor("the goal".to_owned(), floor, robot));
            }
            Ok((order, None))
        }
    }
}

const fn other_floor(goal: String, floor: i32, robot: &Robot) -> NoGoal {
    NoGoal::OtherFloor {
        goal,
        floor,
        own: robot.floor,
    }
}

/// A command as callers read it. `presence` is its robot's.
#[must_use]
pub fn command_view(
    entry: &LedgerEntry,
    presence: &Presence,
    history: Option<&[Transition]>,
) -> CommandView {
    let command = &entry.command;
    let progress = entry.progress.as_ref().map(|progress| ProgressView {
        percent: progress.percent,
        text: progress.text.clone(),
        at: shown(progress.at),
    });
    let history = history.map(|history| {
        let steps = history.iter().map(|step| TransitionView {
            state: step.state.name().to_owned(),
            at: shown(step.at),
            detail: step.detail.clone(),
        });
        steps.collect()
    });
    CommandView {
        id: command.id.to_string(),
        robot: command.robot.number(),
        order: OrderView::from(&command.order),
        actor: command.actor.clone(),
        idempotency_key: command.idempotency_key.clone(),
        state: entry.state.name().to_owned(),
        detail: entry.detail.clone(),
        is_final: entry.state.is_final(),
        submitted_at: shown(command.submitted),
        expires_at: shown(command.deadline),
        progress,
        cancelling: entry.cancelling,
        unknown_since: unknown_since(entry, presence).map(shown),
        history,
    }
}

/// Since when nobody has heard how the command goes on: its board may have it, and is out of contact.
fn unknown_since(entry: &LedgerEntry, presence: &Presence) -> Option<Timestamp> {
    let is_lost = match presence.contact {
        Contact::Online | Contact::Degraded => false,
        Contact::Offline => true,
    };
    if entry.state.is_final() || !entry.offered || !is_lost {
        return None;
    }
    let heard = presence.last_contact.or(presence.since);
    let submitted = entry.command.submitted;
    Some(heard.map_or(submitted, |heard| heard.max(submitted)))
}

fn shown(time: Timestamp) -> String {
    format!("{time:.3}")
}

#[cfg(test)]
mod tests {
    use brrbrr_proto::down::GoTo;
    use brrbrr_proto::id::{CommandId, RobotId};
    use brrbrr_proto::live::Pose;

    use super::*;
    use crate::catalog::{CommandState, NewCommand, PlaceDetails};

    fn place(id: i64, name: &str, floor: i32) -> Place {
        Place {
            id,
            details: PlaceDetails {
                name: name.to_owned(),
                description: None,
                floor,
                xaxis: 1.0,
                yaxis: 2.0,
                thumburl: None,
                mapurl: None,
                aliases: Vec::new(),
            },
        }
    }

    fn robot() -> Robot {
        Robot {
            id: RobotId::new(1).unwrap(),
            name: "r1".to_owned(),
            floor: 7,
            home: None,
        }
    }

    #[test]
    fn a_goal_is_on_the_robots_floor_or_refused_by_name() {
        let places = [
            place(1, "카페 A", 7),
            place(2, "카페 A", 8),
            place(3, "로비", 8),
        ];
        let ask = |task| order_for(task, &places, &robot());
        let pose = |floor| {
            Task::Order(Order::GoTo(GoTo {
                pose: Pose {
                    x: 0.0,
                    y: 0.0,
                    theta: None,
                },
                floor,
                place: String::new(),
            }))
        };
        for task in [Task::Place("카페+A".to_owned()), Task::PlaceId(1)] {
            assert_eq!(ask(task), Ok((go_to(&places[0]), Some(&places[0]))));
        }
        for floor in [None, Some(7)] {
            assert!(ask(pose(floor)).is_ok());
        }
        for (task, expected) in [
            (Task::Place("없음".to_owned()), "there is no place \"없음\""),
            (Task::PlaceId(9), "there is no place 9"),
            (
                Task::Place("로비".to_owned()),
                "place \"로비\" is on floor 8, and this robot serves floor 7",
            ),
            (
                Task::PlaceId(2),
                "place 2 is on floor 8, and this robot serves floor 7",
            ),
            (
                pose(Some(-1)),
                "the goal is on floor -1, and this robot serves floor 7",
            ),
        ] {
            assert_eq!(ask(task).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_command_is_unknown_since_the_last_contact_while_its_board_may_have_it() {
        let second = |second| Timestamp::from_second(second).unwrap();
        let mut entry = LedgerEntry {
            command: NewCommand {
                id: CommandId(1),
                robot: RobotId::new(1).unwrap(),
                order: Order::Stop,
                deadline: second(99),
                actor: "voice".to_owned(),
                idempotency_key: None,
                submitted: second(5),
            },
            seq: None,
            state: CommandState::Running,
            detail: String::new(),
            offered: true,
            progress: None,
            cancelling: false,
            outdone: false,
        };
        let mut presence = Presence {
            contact: Contact::Offline,
            since: Some(second(20)),
            last_contact: Some(second(10)),
            cause: None,
        };
        assert_eq!(unknown_since(&entry, &presence), Some(second(10)));
        presence.last_contact = Some(second(3));
        assert_eq!(unknown_since(&entry, &presence), Some(second(5)));
        for contact in [Contact::Online, Contact::Degraded] {
            let presence = Presence {
                contact,
                ..presence
            };
            assert_eq!(unknown_since(&entry, &presence), None);
        }
        entry.offered = false;
        assert_eq!(unknown_since(&entry, &presence), None);
        entry.offered = true;
        entry.state = CommandState::Failed;
        assert_eq!(unknown_since(&entry, &presence), None);
    }
}
