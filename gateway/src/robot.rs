//! The robot's side: adapters that turn orders into what a robot understands, and what it says into
//! our own messages. They know nothing of the relay or the spool.

pub mod amqp;
pub mod sim;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use brrbrr_proto::down::Order;
use brrbrr_proto::id::CommandId;
use brrbrr_proto::live::{Pose, Status};
use brrbrr_proto::time::Uptime;
use brrbrr_proto::up::{Alarm, Custom};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::spool::SourceId;

/// How many orders may wait for the adapter. One motion runs at a time, so more than a few waiting
/// ones mean that the adapter is stuck.
pub const ORDERS_MAX: usize = 16;

/// How many messages of the robot may wait for the event loop. When it is full the adapter stops
/// taking messages from the robot's broker, which then keeps them.
pub const INPUTS_MAX: usize = 64;

/// Which adapter to run.
#[derive(Debug, Clone)]
pub enum RobotConfig {
    /// A robot behind `RabbitMQ`.
    Amqp(amqp::AmqpConfig),
    /// A simulated robot.
    Sim(sim::SimConfig),
}

/// Why an order did not reach the robot.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HandOverError {
    /// It surely did not reach the robot, and may be tried again.
    #[error("{0}")]
    Away(String),
    /// It may have reached the robot. It must not be tried again.
    #[error("{0}")]
    Unknown(String),
    /// The robot cannot do it, now or later.
    #[error("{0}")]
    Refused(String),
}

/// An order on its way to the robot.
#[derive(Debug)]
pub struct RobotOrder {
    /// The command it comes from.
    pub id: CommandId,
    /// What to do.
    pub order: Order,
    /// When it must not reach the robot any more, by [`crate::clock::uptime`]. That clock goes on
    /// while the board sleeps, so an adapter asks it again right before it passes the order on.
    pub deadline: Uptime,
    /// Told when the robot's broker has it, or why not.
    pub reply: oneshot::Sender<Result<(), HandOverError>>,
}

/// What a robot or its adapter says.
#[derive(Debug, Clone, PartialEq)]
pub enum RobotMessage {
    /// The adapter has reached the robot's broker. What that broker kept meanwhile comes next, and
    /// then [`RobotMessage::Drained`].
    Connected {
        /// About how many messages it kept.
        backlog: u64,
    },
    /// All that was said before the connection was made has been passed on.
    Drained,
    /// What was not accepted comes again now, in its order.
    Again,
    /// The robot's broker cannot be reached.
    Disconnected {
        /// A sentence for people.
        reason: String,
    },
    /// The robot has reached its goal.
    Arrived {
        /// The command that sent it there, where the robot says so.
        command: Option<CommandId>,
        /// Where it is, where it says so.
        pose: Option<Pose>,
    },
    /// The robot has given up.
    Failed {
        /// The command it gives up, where it says so.
        command: Option<CommandId>,
        /// Its reason, a sentence for people.
        detail: String,
    },
    /// How far it has got with a motion.
    Progress {
        /// The command, where the robot says so.
        command: Option<CommandId>,
        /// From 0 to 100.
        percent: u8,
        /// A sentence for people; may be empty.
        text: String,
    },
    /// Its software was started anew, so it has forgotten its motion.
    Started,
    /// What it knows of its status. Unknown fields stay as they were.
    Status(Status),
    /// Something a person should look at.
    Alarm(Alarm),
    /// A message of an integrator's own.
    Custom(Custom),
}

/// The kind of the custom event that stands for a message that cannot be kept: `{"reason": text}`.
pub const UNREADABLE: &str = "unreadable";

/// What is kept of a message that cannot be kept: that there was one, and why it is not here.
#[must_use]
pub fn unreadable(reason: &str) -> Custom {
    Custom {
        kind: UNREADABLE.to_owned(),
        json: serde_json::json!({ "reason": reason }).to_string(),
    }
}

/// A message of the robot and how to say that it is kept.
#[derive(Debug)]
pub struct RobotInput {
    /// What it says.
    pub message: RobotMessage,
    /// The name its sender gave it, where it has one.
    pub source: Option<SourceId>,
    /// Whether it may have been passed on before.
    pub redelivered: bool,
    /// Call it when the message is durable or needs not be. Dropping it instead has the robot's
    /// broker deliver the message again after a pause.
    pub accept: Accept,
}

impl RobotInput {
    /// The adapter's own word, which nobody waits to see accepted.
    pub(crate) fn own(message: RobotMessage) -> Self {
        Self {
            message,
            source: None,
            redelivered: false,
            accept: Accept::default(),
        }
    }
}

/// Says that a message is kept, so that the robot's broker may forget it.
#[derive(Debug, Default)]
#[must_use = "a message that is not accepted is delivered again"]
pub struct Accept(Option<oneshot::Sender<()>>);

impl Accept {
    /// One whose receiver hears of it.
    pub(crate) fn new() -> (Self, oneshot::Receiver<()>) {
        let (told, heard) = oneshot::channel();
        (Self(Some(told)), heard)
    }

    /// Whether somebody delivers the message again if it is not accepted.
    #[must_use]
    pub const fn is_awaited(&self) -> bool {
        self.0.is_some()
    }

    /// The message is durable, or needs not be.
    pub fn accept(self) {
        if let Some(told) = self.0 {
            // An adapter that has lost its connection meanwhile gets the message again.
            told.send(()).ok();
        }
    }
}

/// What an adapter counts.
#[derive(Debug, Default)]
pub struct RobotCounters {
    /// Messages that came from the robot.
    pub messages: AtomicU64,
    /// Of these, messages that could not even be kept.
    pub unreadable: AtomicU64,
    /// Orders that were passed to the robot's broker.
    pub orders: AtomicU64,
    /// Attempts to reach the broker again.
    pub reconnects: AtomicU64,
}

/// The event loop's end of an adapter.
#[derive(Debug)]
pub struct RobotHandle {
    /// Orders to the robot.
    pub orders: RobotOrders,
    /// What the robot says. Ends when the adapter has stopped.
    pub inputs: mpsc::Receiver<RobotInput>,
    /// What the adapter has counted so far.
    pub counters: Arc<RobotCounters>,
    /// The adapter's task.
    pub task: JoinHandle<()>,
}

/// Hands orders to an adapter. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RobotOrders(mpsc::Sender<RobotOrder>);

impl RobotOrders {
    /// Hands an order over without waiting; the receiver says later what became of it. A receiver
    /// that ends without a word means [`HandOverError::Unknown`].
    ///
    /// # Errors
    /// [`HandOverError::Away`] where too many orders wait already or the adapter has stopped.
    pub fn execute(
        &self,
        id: CommandId,
        order: Order,
        deadline: Uptime,
    ) -> Result<oneshot::Receiver<Result<(), HandOverError>>, HandOverError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.0.try_send(RobotOrder {
            id,
            order,
            deadline,
            reply,
        });
        sent.map_err(|error| {
            HandOverError::Away(match error {
                mpsc::error::TrySendError::Full(_) => {
                    "too many orders wait for the robot".to_owned()
                }
                mpsc::error::TrySendError::Closed(_) => {
                    "the robot's adapter has stopped".to_owned()
                }
            })
        })?;
        Ok(answer)
    }
}

/// Starts the adapter that the configuration names. It stops when `stop` becomes true or its sender
/// is gone. `seed` spreads its retries, so that robots do not come back all at once.
pub fn spawn(config: RobotConfig, seed: u64, stop: watch::Receiver<bool>) -> RobotHandle {
    let (orders, waiting_orders) = mpsc::channel(ORDERS_MAX);
    let (told, inputs) = mpsc::channel(INPUTS_MAX);
    let counters = Arc::new(RobotCounters::default());
    let counted = Arc::clone(&counters);
    let task = match config {
        RobotConfig::Amqp(config) => {
            tokio::spawn(amqp::run(config, seed, counted, waiting_orders, told, stop))
        }
        RobotConfig::Sim(config) => {
            tokio::spawn(sim::run(config, counted, waiting_orders, told, stop))
        }
    };
    RobotHandle {
        orders: RobotOrders(orders),
        inputs,
        counters,
        task,
    }
}
