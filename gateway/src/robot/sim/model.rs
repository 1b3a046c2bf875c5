//! How the simulated robot drives: straight to its goal at one speed, until its battery is empty. A
//! custom action called [`RESTART`] has it forget its goal, as a robot does whose software is started
//! anew.

use std::collections::VecDeque;
use std::time::Duration;

use brrbrr_proto::down::Order;
use brrbrr_proto::id::CommandId;
use brrbrr_proto::live::{Activity, Pose, Status};
use brrbrr_proto::time::Uptime;

use super::SimConfig;
use crate::robot::{HandOverError, RobotMessage};

/// The slowest that a robot may be, in metres per second, so that every trip ends.
const SLOWEST: f64 = 0.01;

/// The name of the action that has it forget its goal.
pub const RESTART: &str = "restart";

#[derive(Debug, Clone, Copy)]
struct Goal {
    command: CommandId,
    pose: Pose,
    /// How far it was at first, in metres.
    way: f64,
    is_charger: bool,
}

/// A robot on a plane.
#[derive(Debug)]
pub struct Model {
    config: SimConfig,
    pose: Pose,
    battery: f64,
    activity: Activity,
    goal: Option<Goal>,
    is_paused: bool,
    moved_at: Uptime,
    status_at: Uptime,
    random: u64,
    messages: VecDeque<RobotMessage>,
}

impl Model {
    /// A robot that stands at its start.
    #[must_use]
    pub fn new(config: SimConfig, now: Uptime) -> Self {
        Self {
            pose: config.start,
            battery: config.battery.clamp(0.0, 1.0),
            activity: Activity::Idle,
            goal: None,
            is_paused: false,
            moved_at: now,
            status_at: now,
            random: config.seed,
            messages: VecDeque::new(),
            config,
        }
    }

    /// Does as it is told, or says why it cannot.
    ///
    /// # Errors
    /// [`HandOverError::Refused`] where the goal is out of reach.
    pub fn handle_order(
        &mut self,
        command: CommandId,
        order: &Order,
        now: Uptime,
    ) -> Result<(), HandOverError> {
        self.drive(now);
        match order {
            Order::GoTo(goal) => {
                self.check(goal.pose, goal.floor)?;
                self.set_off(command, goal.pose, false);
            }
            Order::Dock => self.set_off(command, self.config.start, true),
            Order::Stop => {
                self.goal = None;
                self.activity = Activity::Stopped;
            }
            Order::Pause => {
                self.is_paused = true;
                self.activity = Activity::Stopped;
            }
            Order::Resume => {
                self.is_paused = false;
                if let Some(goal) = self.goal {
                    self.activity = activity_to(goal.is_charger);
                }
            }
            Order::Custom(action) if action.name == RESTART => {
                self.goal = None;
                self.is_paused = false;
                self.activity = Activity::Idle;
                self.messages.push_back(RobotMessage::Started);
            }
            Order::Say(_) | Order::Custom(_) => {}
            Order::Cancel(_) | Order::Withdrawn => {
                let why = "a cancellation is not for the robot".to_owned();
                return Err(HandOverError::Refused(why));
            }
        }
        self.say_status(now);
        Ok(())
    }

    /// Drives on, and says what is due.
    pub fn handle_timeout(&mut self, now: Uptime) {
        self.drive(now);
        if self.status_at <= now {
            self.say_status(now);
        }
    }

    /// What it says next, if anything.
    pub fn poll_message(&mut self) -> Option<RobotMessage> {
        self.messages.pop_front()
    }

    /// When [`Model::handle_timeout`] is due: a status, or the end of a trip.
    #[must_use]
    pub fn poll_timeout(&self) -> Uptime {
        let Some(goal) = self.goal.filter(|_| !self.is_paused) else {
            return self.status_at;
        };
        let left = Duration::try_from_secs_f64(distance(self.pose, goal.pose) / self.speed());
        let arrival = self.moved_at.plus(left.unwrap_or(Duration::MAX));
        self.status_at.min(arrival)
    }

    fn speed(&self) -> f64 {
        self.config.speed.max(SLOWEST)
    }

    fn check(&self, goal: Pose, floor: Option<i32>) -> Result<(), HandOverError> {
        let here = self.config.floor;
        let why = if let Some(floor) = floor.filter(|floor| *floor != here) {
            format!("the goal is on floor {floor} and the robot is on floor {here}")
        } else if !(goal.x.is_finite() && goal.y.is_finite()) {
            "the goal has no finite coordinates".to_owned()
        } else if self.battery <= 0.0 {
            "the battery is empty".to_owned()
        } else {
            return Ok(());
        };
        Err(HandOverError::Refused(why))
    }

    fn set_off(&mut self, command: CommandId, pose: Pose, is_charger: bool) {
        self.goal = Some(Goal {
            command,
            pose,
            way: distance(self.pose, pose),
            is_charger,
        });
        self.is_paused = false;
        self.activity = activity_to(is_charger);
    }

    /// Moves to where it is by now.
    fn drive(&mut self, now: Uptime) {
        let span = now.since(self.moved_at).as_secs_f64();
        self.moved_at = self.moved_at.max(now);
        let Some(goal) = self.goal.filter(|_| !self.is_paused) else {
            return;
        };
        let (left, way) = (distance(self.pose, goal.pose), span * self.speed());
        let driven = way.min(left);
        self.battery = (self.battery - driven * self.config.drain).max(0.0);
        let heading = (goal.pose.y - self.pose.y).atan2(goal.pose.x - self.pose.x);
        if left <= way + self.config.tolerance {
            self.arrive(goal, heading, now);
        } else {
            self.pose.x += heading.cos() * driven;
            self.pose.y += heading.sin() * driven;
            self.pose.theta = Some(heading);
            if self.battery <= 0.0 {
                self.give_up(goal);
            }
        }
    }

    fn arrive(&mut self, goal: Goal, heading: f64, now: Uptime) {
        self.goal = None;
        // It never stands exactly where it should.
        let error = self.config.tolerance / 2.0;
        self.pose = Pose {
            x: goal.pose.x + error * self.random_share(),
            y: goal.pose.y + error * self.random_share(),
            theta: goal.pose.theta.or(Some(heading)),
        };
        self.activity = Activity::Arrived;
        if goal.is_charger {
            self.battery = 1.0;
        }
        self.say_status(now);
        self.say_progress(goal, 0.0);
        self.messages.push_back(RobotMessage::Arrived {
            command: Some(goal.command),
            pose: Some(self.pose),
        });
    }

    fn give_up(&mut self, goal: Goal) {
        self.goal = None;
        self.activity = Activity::Faulted;
        self.messages.push_back(RobotMessage::Failed {
            command: Some(goal.command),
            detail: "the battery is empty".to_owned(),
        });
    }

    fn say_status(&mut self, now: Uptime) {
        self.status_at = now.plus(self.config.status_interval);
        let is_driving = self.goal.is_some() && !self.is_paused;
        self.messages.push_back(RobotMessage::Status(Status {
            activity: Some(self.activity),
            pose: Some(self.pose),
            floor: Some(self.config.floor),
            battery: Some(self.battery),
            speed: Some(if is_driving { self.speed() } else { 0.0 }),
            robot_side: None,
        }));
        if let Some(goal) = self.goal.filter(|_| is_driving) {
            self.say_progress(goal, distance(self.pose, goal.pose));
        }
    }

    /// Says how much of the way is done, with this many metres left.
    fn say_progress(&mut self, goal: Goal, left: f64) {
        // It has done all of it only when it has arrived.
        let done = match left > 0.0 {
            true => (100.0 - left / goal.way * 100.0).round().min(99.0),
            false => 100.0,
        };
        let mut whole = (0..=100).rev();
        let percent = whole.find(|percent| f64::from(*percent) <= done);
        self.messages.push_back(RobotMessage::Progress {
            command: Some(goal.command),
            percent: percent.unwrap_or(0),
            text: format!("{left:.0} m left"),
        });
    }

    /// A number from -1 to 1, the next of a linear congruential sequence (Knuth's MMIX).
    fn random_share(&mut self) -> f64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let bits = u32::try_from(self.random >> 32).unwrap_or(u32::MAX);
        f64::from(bits) / f64::from(u32::MAX) * 2.0 - 1.0
    }
}

const fn activity_to(is_charger: bool) -> Activity {
    if is_charger {
        Activity::Docking
    } else {
        Activity::Moving
    }
}

fn distance(from: Pose, to: Pose) -> f64 {
    (to.x - from.x).hypot(to.y - from.y)
}

#[cfg(test)]
mod tests {
    use brrbrr_proto::down::GoTo;

    use super::*;

    fn config() -> SimConfig {
        SimConfig {
            start: Pose {
                x: 0.0,
                y: 0.0,
                theta: None,
            },
            floor: 7,
            speed: 2.0,
            battery: 1.0,
            drain: 0.01,
            tolerance: 0.1,
            status_interval: Duration::from_secs(1),
            seed: 5,
        }
    }

    fn go_to(x: f64, y: f64, floor: i32) -> Order {
        let pose = Pose { x, y, theta: None };
        Order::GoTo(GoTo {
            pose,
            floor: Some(floor),
            place: String::new(),
        })
    }

    /// Drives on until the robot says how its trip ended, for at most an hour.
    fn run_on(model: &mut Model) -> (Uptime, Option<RobotMessage>) {
        let mut now = Uptime::default();
        for _ in 0..3600 {
            now = model.poll_timeout();
            model.handle_timeout(now);
            while let Some(message) = model.poll_message() {
                if !matches!(
                    message,
                    RobotMessage::Status(_) | RobotMessage::Progress { .. }
                ) {
                    return (now, Some(message));
                }
            }
        }
        (now, None)
    }

    #[test]
    fn it_drives_in_a_straight_line_and_arrives_when_it_should() {
        let mut model = Model::new(config(), Uptime::default());
        let order = go_to(6.0, 8.0, 7);
        let id = CommandId(1);
        model.handle_order(id, &order, Uptime::default()).unwrap();
        let half = Uptime::new(Duration::from_millis(2_500));
        model.handle_timeout(half);
        assert!((model.pose.x - 3.0).abs() < 1e-9 && (model.pose.y - 4.0).abs() < 1e-9);
        let (at, message) = run_on(&mut model);
        let Some(RobotMessage::Arrived { command, pose }) = message else {
            panic!("{message:?}");
        };
        assert_eq!(command, Some(id));
        assert!(at.since_boot() <= Duration::from_millis(5_001), "{at:?}");
        let goal = Pose {
            x: 6.0,
            y: 8.0,
            theta: None,
        };
        assert!(distance(pose.unwrap(), goal) <= 0.1);
        assert!((model.battery - 0.9).abs() < 1e-3, "{}", model.battery);
    }

    #[test]
    fn the_same_seed_makes_the_same_trip() {
        let trip = |seed| {
            let seeded = SimConfig { seed, ..config() };
            let mut model = Model::new(seeded, Uptime::default());
            let order = go_to(6.0, 8.0, 7);
            model
                .handle_order(CommandId(1), &order, Uptime::default())
                .unwrap();
            run_on(&mut model).1
        };
        assert_eq!(trip(1), trip(1));
        assert_ne!(trip(1), trip(2));
    }

    #[test]
    fn it_refuses_a_goal_on_another_floor() {
        let mut model = Model::new(config(), Uptime::default());
        let refused = model.handle_order(CommandId(1), &go_to(1.0, 1.0, 8), Uptime::default());
        let why = "the goal is on floor 8 and the robot is on floor 7".to_owned();
        assert_eq!(refused, Err(HandOverError::Refused(why)));
    }

    #[test]
    fn a_stop_ends_the_trip_where_it_is() {
        let mut model = Model::new(config(), Uptime::default());
        let order = go_to(100.0, 0.0, 7);
        model
            .handle_order(CommandId(1), &order, Uptime::default())
            .unwrap();
        let later = Uptime::new(Duration::from_secs(1));
        model
            .handle_order(CommandId(2), &Order::Stop, later)
            .unwrap();
        assert!((model.pose.x - 2.0).abs() < 1e-9);
        assert_eq!(run_on(&mut model).1, None);
        assert_eq!(model.activity, Activity::Stopped);
    }

    #[test]
    fn it_says_how_much_of_the_way_is_done() {
        let mut model = Model::new(config(), Uptime::default());
        let order = go_to(6.0, 8.0, 7);
        model
            .handle_order(CommandId(1), &order, Uptime::default())
            .unwrap();
        let mut said = Vec::new();
        for _ in 0..20 {
            let now = model.poll_timeout();
            model.handle_timeout(now);
            said.extend(std::iter::from_fn(|| model.poll_message()));
        }
        let percents = said.iter().filter_map(|message| {
            if let RobotMessage::Progress { percent, .. } = message {
                Some(*percent)
            } else {
                None
            }
        });
        let percents: Vec<u8> = percents.collect();
        assert_eq!(percents, [0, 20, 40, 60, 80, 100]);
    }

    #[test]
    fn a_restart_has_it_forget_its_goal_and_say_so() {
        let mut model = Model::new(config(), Uptime::default());
        let order = go_to(6.0, 8.0, 7);
        model
            .handle_order(CommandId(1), &order, Uptime::default())
            .unwrap();
        let restart = Order::Custom(brrbrr_proto::down::Action {
            name: RESTART.to_owned(),
            json: "null".to_owned(),
        });
        let later = Uptime::new(Duration::from_secs(1));
        model.handle_order(CommandId(2), &restart, later).unwrap();
        assert_eq!(run_on(&mut model).1, Some(RobotMessage::Started));
        assert_eq!(run_on(&mut model).1, None);
        assert_eq!(model.activity, Activity::Idle);
    }

    #[test]
    fn an_empty_battery_ends_the_trip_with_a_reason() {
        let mut model = Model::new(config(), Uptime::default());
        let order = go_to(1_000.0, 0.0, 7);
        model
            .handle_order(CommandId(1), &order, Uptime::default())
            .unwrap();
        let (_, message) = run_on(&mut model);
        assert!(matches!(message, Some(RobotMessage::Failed { .. })));
        assert_eq!(model.activity, Activity::Faulted);
    }
}
