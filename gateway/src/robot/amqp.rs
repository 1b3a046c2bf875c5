//! stub
use super::{RobotInput, RobotOrder};
use tokio::sync::{mpsc, watch};
#[derive(Debug, Clone)]
pub struct AmqpConfig {}
pub(super) async fn run(
    _config: AmqpConfig,
    _seed: u64,
    _orders: mpsc::Receiver<RobotOrder>,
    _inputs: mpsc::Sender<RobotInput>,
    _stop: watch::Receiver<bool>,
) {
}
