//! The newest status of a robot, and when it said each field. Pure.

use brrbrr_proto::live::{PerField, Status};
use jiff::Timestamp;

/// The newest status of a robot.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Heard {
    /// What the robot said.
    pub status: Status,
    /// When it said each field, by the relay's clock. `None` also where nobody knows.
    pub said: PerField<Timestamp>,
}

impl Heard {
    /// Takes over what the live lane shows. That is the present, whatever was known before.
    pub fn show(&mut self, status: &Status, said: &PerField<Timestamp>) {
        let Self {
            status: known,
            said: known_said,
        } = self;
        show(
            (&mut known.activity, &mut known_said.activity),
            (status.activity, said.activity),
        );
        show(
            (&mut known.pose, &mut known_said.pose),
            (status.pose, said.pose),
        );
        show(
            (&mut known.floor, &mut known_said.floor),
            (status.floor, said.floor),
        );
        show(
            (&mut known.battery, &mut known_said.battery),
            (status.battery, said.battery),
        );
        show(
            (&mut known.speed, &mut known_said.speed),
            (status.speed, said.speed),
        );
        show(
            (&mut known.robot_side, &mut known_said.robot_side),
            (status.robot_side, said.robot_side),
        );
    }

    /// Takes over what a record tells that was made at `at`. It holds the whole status, so a field
    /// that has not changed was not said anew. After an outage records are hours old, while the live
    /// lane has long shown the present.
    pub fn remember(&mut self, status: &Status, at: Timestamp) {
        let Self {
            status: known,
            said,
        } = self;
        remember(
            (&mut known.activity, &mut said.activity),
            status.activity,
            at,
        );
        remember((&mut known.pose, &mut said.pose), status.pose, at);
        remember((&mut known.floor, &mut said.floor), status.floor, at);
        remember((&mut known.battery, &mut said.battery), status.battery, at);
        remember((&mut known.speed, &mut said.speed), status.speed, at);
        remember(
            (&mut known.robot_side, &mut said.robot_side),
            status.robot_side,
            at,
        );
    }
}

fn show<T: PartialEq>(
    (known, known_said): (&mut Option<T>, &mut Option<Timestamp>),
    (new, said): (Option<T>, Option<Timestamp>),
) {
    if new.is_none() {
        return;
    }
    // A gateway does not know when the robot said what it remembers from before a restart.
    *known_said = said.or(known_said.filter(|_| *known == new));
    *known = new;
}

fn remember<T: PartialEq>(
    (known, said): (&mut Option<T>, &mut Option<Timestamp>),
    new: Option<T>,
    at: Timestamp,
) {
    let is_news = match known {
        None => true,
        // Of unknown time is only what the live lane has shown, and that is newer.
        Some(_) => *known != new && said.is_some_and(|said| said < at),
    };
    if new.is_some() && is_news {
        *known = new;
        *said = Some(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    fn battery(charge: f64) -> Status {
        Status {
            battery: Some(charge),
            ..Status::default()
        }
    }

    fn said(heard: &Heard) -> (Option<f64>, Option<Timestamp>) {
        (heard.status.battery, heard.said.battery)
    }

    #[test]
    fn a_record_dates_what_changed_and_leaves_the_rest_as_old_as_it_was() {
        let mut heard = Heard::default();
        heard.remember(&battery(0.5), at(1));
        heard.remember(
            &Status {
                floor: Some(7),
                ..battery(0.5)
            },
            at(2),
        );
        assert_eq!(said(&heard), (Some(0.5), Some(at(1))));
        assert_eq!(heard.said.floor, Some(at(2)));
        heard.remember(&battery(0.4), at(3));
        assert_eq!(said(&heard), (Some(0.4), Some(at(3))));
        heard.remember(&Status::default(), at(4));
        assert_eq!(said(&heard), (Some(0.4), Some(at(3))));
    }

    #[test]
    fn what_an_outage_held_up_does_not_replace_the_present() {
        let mut heard = Heard::default();
        let present = battery(0.3);
        heard.show(&present, &PerField::of(&present, at(10)));
        let late = Status {
            speed: Some(0.7),
            ..battery(0.9)
        };
        heard.remember(&late, at(5));
        assert_eq!(said(&heard), (Some(0.3), Some(at(10))));
        assert_eq!(heard.status.speed, Some(0.7), "nothing newer is known");
        assert_eq!(heard.said.speed, Some(at(5)));
    }

    #[test]
    fn the_live_lane_corrects_what_records_had_dated_too_late() {
        let mut heard = Heard::default();
        heard.remember(&battery(0.5), at(9));
        heard.show(&battery(0.5), &PerField::of(&battery(0.5), at(2)));
        assert_eq!(said(&heard), (Some(0.5), Some(at(2))));
    }

    #[test]
    fn what_a_restarted_gateway_remembers_has_no_time_unless_it_is_known_here() {
        let mut heard = Heard::default();
        heard.show(&battery(0.5), &PerField::of(&battery(0.5), at(2)));
        heard.show(&battery(0.5), &PerField::default());
        assert_eq!(said(&heard), (Some(0.5), Some(at(2))));
        heard.show(&battery(0.4), &PerField::default());
        assert_eq!(said(&heard), (Some(0.4), None));
        heard.remember(&battery(0.9), at(1));
        assert_eq!(said(&heard), (Some(0.4), None), "the present stays");
    }
}
