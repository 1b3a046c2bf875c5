//! The simulated robot, as the event loop meets it.

use std::time::Duration;

use brrbrr_gateway::clock;
use brrbrr_gateway::robot::sim::SimConfig;
use brrbrr_gateway::robot::{self, HandOverError, RobotConfig, RobotHandle, RobotMessage};
use brrbrr_proto::down::{GoTo, Order};
use brrbrr_proto::id::CommandId;
use brrbrr_proto::live::{Activity, Pose};
use brrbrr_proto::time::Uptime;
use tokio::sync::watch;

fn pose(x: f64, y: f64) -> Pose {
    Pose { x, y, theta: None }
}

fn go_to(x: f64, y: f64, floor: i32) -> Order {
    Order::GoTo(GoTo {
        pose: pose(x, y),
        floor: Some(floor),
        place: String::new(),
    })
}

fn start() -> (RobotHandle, watch::Sender<bool>) {
    let (stop, stopped) = watch::channel(false);
    let config = SimConfig {
        start: pose(0.0, 0.0),
        floor: 7,
        speed: 1_000.0,
        battery: 1.0,
        drain: 0.000_1,
        tolerance: 0.1,
        status_interval: Duration::from_millis(50),
        seed: 1,
    };
    let handle = robot::spawn(RobotConfig::Sim(config), 1, stopped);
    (handle, stop)
}

async fn heard(handle: &mut RobotHandle, is_meant: impl Fn(&RobotMessage) -> bool) -> RobotMessage {
    let wanted = async {
        loop {
            let input = handle.inputs.recv().await.unwrap();
            input.accept.accept();
            if is_meant(&input.message) {
                return input.message;
            }
        }
    };
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, wanted).await.unwrap()
}

#[tokio::test]
async fn it_drives_to_the_goal_says_so_and_ends_when_it_is_told() {
    let (mut handle, stop) = start();
    heard(&mut handle, |m| *m == RobotMessage::Drained).await;
    let id = CommandId(7);
    let reply = handle
        .orders
        .execute(id, go_to(30.0, 40.0, 7), in_a_minute())
        .unwrap();
    reply.await.unwrap().unwrap();
    let is_moving = |m: &RobotMessage| matches!(m, RobotMessage::Status(s) if s.activity == Some(Activity::Moving));
    heard(&mut handle, is_moving).await;
    let is_arrival = |m: &RobotMessage| matches!(m, RobotMessage::Arrived { .. });
    let arrival = heard(&mut handle, is_arrival).await;
    assert!(matches!(arrival, RobotMessage::Arrived { command, .. } if command == Some(id)));
    stop.send(true).unwrap();
    handle.task.await.unwrap();
}

#[tokio::test]
async fn it_says_why_it_cannot_go_to_another_floor() {
    let (mut handle, _stop) = start();
    heard(&mut handle, |m| *m == RobotMessage::Drained).await;
    let reply = handle
        .orders
        .execute(CommandId(1), go_to(1.0, 1.0, 8), in_a_minute());
    let refused = reply.unwrap().await.unwrap();
    let why = "the goal is on floor 8 and the robot is on floor 7".to_owned();
    assert_eq!(refused, Err(HandOverError::Refused(why)));
}

fn in_a_minute() -> Uptime {
    clock::uptime().plus(Duration::from_secs(60))
}
