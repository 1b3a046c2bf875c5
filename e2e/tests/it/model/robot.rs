//! A robot and the broker between it and the board. The broker keeps what the robot says until that
//! is accepted.

use std::collections::VecDeque;

use brrbrr_gateway::robot::RobotMessage;
use brrbrr_gateway::spool::SourceId;
use brrbrr_proto::down::Order;
use brrbrr_proto::id::CommandId;
use brrbrr_proto::live::{Activity, Status};
use brrbrr_proto::time::Uptime;

use super::random::Random;

/// What the robot has said.
#[derive(Debug, Clone)]
pub struct Said {
    pub number: u64,
    pub message: RobotMessage,
    pub redelivered: bool,
}

struct Goal {
    id: CommandId,
    ends_at: Uptime,
}

pub struct Robot {
    goal: Option<Goal>,
    /// Whether it names the command that it has carried out.
    says_names: bool,
    /// Whether its messages have names of their own.
    names_messages: bool,
    queue: VecDeque<Said>,
    /// Taken by the board and not accepted.
    taken: Vec<Said>,
    count: u64,
}

impl Robot {
    pub const fn new(random: &mut Random) -> Self {
        Self {
            goal: None,
            says_names: random.one_in(2),
            names_messages: random.one_in(2),
            queue: VecDeque::new(),
            taken: Vec::new(),
            count: 0,
        }
    }

    pub fn is_driving(&self) -> bool {
        self.goal.is_some()
    }

    /// An order has reached it.
    pub fn obey(&mut self, id: CommandId, order: &Order, now: Uptime, random: &mut Random) {
        match order {
            Order::GoTo(_) | Order::Dock => {
                let longest = if random.one_in(4) { 50 } else { 30_000 };
                let ends_at = now.plus(random.pause(longest));
                self.goal = Some(Goal { id, ends_at });
                self.say_status(Activity::Moving);
                // It may stand there already.
                if random.one_in(8) {
                    self.arrive(random);
                }
            }
            // Some go on all the same.
            Order::Stop if random.one_in(6) => {}
            Order::Stop => {
                self.goal = None;
                self.say_status(Activity::Idle);
            }
            Order::Pause
            | Order::Resume
            | Order::Say(_)
            | Order::Custom(_)
            | Order::Cancel(_)
            | Order::Withdrawn => {}
        }
    }

    pub fn next_at(&self) -> Option<Uptime> {
        self.goal.as_ref().map(|goal| goal.ends_at)
    }

    pub fn handle_time(&mut self, now: Uptime, random: &mut Random) {
        if self.goal.as_ref().is_some_and(|goal| goal.ends_at <= now) {
            self.arrive(random);
        }
    }

    fn arrive(&mut self, random: &mut Random) {
        let Some(goal) = self.goal.take() else { return };
        let command = self.says_names.then_some(goal.id);
        self.say(if random.one_in(5) {
            let detail = "lost".to_owned();
            RobotMessage::Failed { command, detail }
        } else {
            RobotMessage::Arrived {
                command,
                pose: None,
            }
        });
        self.say_status(Activity::Idle);
    }

    pub fn say_progress(&mut self, random: &mut Random) {
        if let Some(goal) = &self.goal {
            let command = self.says_names.then_some(goal.id);
            self.say(RobotMessage::Progress {
                command,
                percent: u8::try_from(random.below(101)).expect("small"),
                text: String::new(),
            });
        }
    }

    /// Its software is started anew: it has forgotten its goal, and perhaps says so.
    pub fn restart(&mut self, random: &mut Random) {
        self.goal = None;
        if random.one_in(2) {
            self.say(RobotMessage::Started);
        }
    }

    pub fn show(&mut self) {
        let activity = match self.goal {
            Some(_) => Activity::Moving,
            None => Activity::Idle,
        };
        self.say_status(activity);
    }

    fn say_status(&mut self, activity: Activity) {
        self.say(RobotMessage::Status(Status {
            activity: Some(activity),
            ..Status::default()
        }));
    }

    fn say(&mut self, message: RobotMessage) {
        self.count += 1;
        self.queue.push_back(Said {
            number: self.count,
            message,
            redelivered: false,
        });
    }

    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The board takes the next message.
    pub fn take(&mut self) -> Option<Said> {
        let said = self.queue.pop_front()?;
        self.taken.push(said.clone());
        Some(said)
    }

    pub fn source(&self, said: &Said) -> Option<SourceId> {
        let is_news = !matches!(
            said.message,
            RobotMessage::Status(_) | RobotMessage::Progress { .. }
        );
        (self.names_messages && is_news).then(|| SourceId(said.number.to_string()))
    }

    pub fn accept(&mut self, number: u64) {
        self.taken.retain(|said| said.number != number);
    }

    /// The board is gone: what it did not accept comes again.
    pub fn put_back(&mut self) {
        for mut said in std::mem::take(&mut self.taken).into_iter().rev() {
            said.redelivered = true;
            self.queue.push_front(said);
        }
    }
}
