//! A simulated robot, for demonstrations and tests: a driver around a model that knows no clock.

pub mod model;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use brrbrr_proto::live::Pose;
use brrbrr_proto::time::Uptime;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::model::Model;
use super::{HandOverError, RobotCounters, RobotInput, RobotMessage, RobotOrder};
use crate::clock;

/// What the simulated robot is like.
#[derive(Debug, Clone, PartialEq)]
pub struct SimConfig {
    /// Where it stands at the start, and where its charger is.
    pub start: Pose,
    /// The floor it is on. It uses no lifts.
    pub floor: i32,
    /// Metres per second.
    pub speed: f64,
    /// Charge at the start, from 0 to 1.
    pub battery: f64,
    /// Charge that a metre costs.
    pub drain: f64,
    /// How far from its goal it may stop, in metres.
    pub tolerance: f64,
    /// The longest time between two statuses.
    pub status_interval: Duration,
    /// Makes its small errors; the same seed makes the same ones.
    pub seed: u64,
}

/// Runs the simulation until `stop` becomes true, its sender is gone, or nobody listens any more.
pub(super) async fn run(
    config: SimConfig,
    counters: Arc<RobotCounters>,
    mut orders: mpsc::Receiver<RobotOrder>,
    inputs: mpsc::Sender<RobotInput>,
    mut stop: watch::Receiver<bool>,
) {
    let start = Instant::now();
    let uptime = |instant: Instant| Uptime::new(instant.duration_since(start));
    let mut model = Model::new(config, uptime(start));
    for message in [
        RobotMessage::Connected { backlog: 0 },
        // It stands at its start again, so a trip of an earlier run has ended.
        RobotMessage::Started,
        RobotMessage::Drained,
    ] {
        if inputs.send(RobotInput::own(message)).await.is_err() {
            return;
        }
    }
    loop {
        while let Some(message) = model.poll_message() {
            counters.messages.fetch_add(1, Ordering::Relaxed);
            if inputs.send(RobotInput::own(message)).await.is_err() {
                return;
            }
        }
        let due = start + model.poll_timeout().since_boot();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            order = orders.recv() => {
                let Some(RobotOrder { id, order, deadline, reply }) = order else { return };
                counters.orders.fetch_add(1, Ordering::Relaxed);
                let answer = if deadline <= clock::uptime() {
                    Err(HandOverError::Away("its time passed on the way to the robot".to_owned()))
                } else {
                    model.handle_order(id, &order, uptime(Instant::now()))
                };
                reply.send(answer).ok();
            }
            () = tokio::time::sleep_until(due) => model.handle_timeout(uptime(Instant::now())),
        }
    }
}
