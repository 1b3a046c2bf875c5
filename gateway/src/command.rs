//! The life of commands on the gateway, as a state machine without I/O.
//!
//! What it promises, whatever fails and whenever the daemon or the board stops:
//! - A command is handed to the robot at most once, unless its broker said that it did not take it.
//! - None is handed over after its deadline, and none of an earlier boot is ever handed over.
//! - One motion runs at a time. A newer one takes the place of an older one when the robot has it.
//! - Every command ends exactly once.
//! - What halts the robot goes out even when nothing can be stored, once. Its end is told when it can
//!   be stored at last.
//! - A motion that the robot has forgotten does not stay running: see [`watching`].
//!
//! It relies on [`Output::Persist`] being durable, and in order, before it is told so. A step is
//! written before it is taken: `Offered` before an order leaves, `Confirmed` when it has left.

mod active;
mod ending;
mod offering;
mod taking;
pub mod watching;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use brrbrr_proto::down::Order;
use brrbrr_proto::id::{BootId, CommandId};
use brrbrr_proto::live::{Activity, Pose, Status};
use brrbrr_proto::time::Uptime;
use brrbrr_proto::up::{CommandUpdate, Event, Progress};

use self::active::{Active, Last, State};
use self::taking::Unrecorded;
use self::watching::{MOTION_LIMIT, Watch};
use crate::robot::HandOverError;
use crate::spool::{CommandChange, HandOver, SourceId, StoredCommand};

/// How many commands may be unfinished at a time. One motion is enough to keep a robot busy; what
/// comes beyond this is a fault of the sender, and fails.
pub const UNFINISHED_MAX: usize = 64;

/// How long to wait before an order that nobody took is offered again.
const OFFER_AGAIN: Duration = Duration::from_secs(1);

/// How long to wait before a step that could not be stored is stored again.
const PERSIST_AGAIN: Duration = Duration::from_secs(1);

/// Names one [`Output::Persist`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// A step to be stored in one piece.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Repeat it to [`Commands::handle_persisted`] or [`Commands::handle_persist_failed`].
    pub ticket: Ticket,
    /// The robot's message that caused it, where that has a name.
    pub source: Option<SourceId>,
    /// Where commands stand now.
    pub changes: Vec<CommandChange>,
    /// What the relay is to hear.
    pub events: Vec<Event>,
}

/// What the driver has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Store a step. The next one comes only after the driver has said what became of this one.
    Persist(Step),
    /// Hand an order to the robot, and say later what became of it.
    Execute {
        /// The command it comes from.
        id: CommandId,
        /// The order. For the cancellation of a running motion it is [`Order::Stop`].
        order: Order,
        /// When it must not reach the robot any more.
        deadline: Uptime,
    },
    /// Append a record, after the steps before it. It does no harm if it gets lost.
    Tell(Event),
}

/// What the robot said about a motion.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The command, where the robot names it.
    pub command: Option<CommandId>,
    /// How it went.
    pub outcome: Outcome,
    /// The name of the robot's message, where it has one.
    pub source: Option<SourceId>,
    /// Whether it may have been reported before.
    pub redelivered: bool,
}

/// How a motion went.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The robot is at its goal.
    Arrived(Option<Pose>),
    /// The robot has given up, for this reason.
    Failed(String),
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It is stored with this step, and may be accepted then.
    News(Ticket),
    /// It says nothing that is not stored already, and may be accepted now.
    NoNews,
}

/// Whether orders reach the robot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Its broker is away.
    Away,
    /// Its broker is there, but what it kept has not all been heard. A motion must wait: an arrival
    /// among it would be taken for that motion's.
    Draining,
    /// All has been heard.
    Ready,
}

/// The commands of one robot.
#[derive(Debug)]
pub struct Commands {
    boot: BootId,
    reach: Reach,
    /// In the order of their arrival.
    active: Vec<Active>,
    last: Option<Last>,
    /// Whether the robot may report an arrival that nobody ordered.
    unordered: bool,
    outputs: VecDeque<Output>,
    /// Steps that wait for the one in flight. Bounded by [`UNFINISHED_MAX`] times a few steps each.
    steps: VecDeque<Step>,
    in_flight: Option<Step>,
    /// When a step that could not be stored is stored again.
    persist_at: Option<Uptime>,
    next_ticket: u64,
    unrecorded: Unrecorded,
    /// What is known of the running motion.
    watch: Option<Watch>,
    motion_limit: Duration,
}

impl Commands {
    /// Takes up what was unfinished when the daemon stopped, in the order of its arrival, and the
    /// newest motion of all.
    #[must_use]
    pub fn new(
        boot: BootId,
        unfinished: Vec<StoredCommand>,
        last_motion: Option<&StoredCommand>,
        now: Uptime,
    ) -> Self {
        let mut commands = Self {
            boot,
            reach: Reach::Away,
            active: Vec::new(),
            last: last_motion.map(|stored| Last {
                id: stored.command.id,
                progress: stored.progress,
                hand_over: stored.hand_over,
            }),
            unordered: last_motion.is_none(),
            outputs: VecDeque::new(),
            steps: VecDeque::new(),
            in_flight: None,
            persist_at: None,
            next_ticket: 0,
            unrecorded: Unrecorded::default(),
            watch: None,
            motion_limit: MOTION_LIMIT,
        };
        for stored in unfinished {
            commands.take_up(stored, now);
        }
        commands.settle(now);
        commands
    }

    /// For how long nothing may be heard of a running motion; [`MOTION_LIMIT`] where nobody says.
    pub const fn limit_motions(&mut self, limit: Duration) {
        self.motion_limit = limit;
    }

    /// How far to say that a command is handed over when it is stored. Where nothing stands in its
    /// way it is [`HandOver::Offered`] at once, which saves the robot from waiting for a second
    /// write.
    #[must_use]
    pub fn plan(&self, id: CommandId, order: &Order) -> HandOver {
        self.plan_of(id, order)
    }

    /// Takes a command that has been stored, as [`Commands::plan`] said. One that is known is left as
    /// it is.
    pub fn handle_command(&mut self, mut stored: StoredCommand, now: Uptime) {
        let id = stored.command.id;
        if !self.record(id) {
            let planned = std::mem::replace(&mut stored.hand_over, HandOver::NotYet);
            self.admit(stored, now);
            if planned == HandOver::Offered
                && let Some(index) = self.find(id)
            {
                self.take_offer(index, now);
            }
        }
        self.settle(now);
    }

    /// Takes a command that could not be stored. One that halts the robot, a stop or the
    /// cancellation of a motion that the robot has, is passed on all the same, once. Pass it to
    /// [`Commands::handle_command`] when it is stored at last. Says whether it is passed on, now or
    /// before.
    pub fn handle_refused(&mut self, stored: StoredCommand, now: Uptime) -> bool {
        let is_passed_on = self.pass_on(stored, now);
        self.settle(now);
        is_passed_on
    }

    /// Whether something was decided about a command before it could be stored: it was passed on to
    /// the robot, or stopped. Store it as [`Commands::plan`] says in any case.
    #[must_use]
    pub fn is_unrecorded(&self, id: CommandId) -> bool {
        self.was_passed_on(id) || self.unrecorded.is_stopped(id)
    }

    /// Whether a command is here and has not ended.
    #[must_use]
    pub fn is_unfinished(&self, id: CommandId) -> bool {
        self.find(id).is_some()
    }

    /// Whether a cancellation of a command is under way.
    #[must_use]
    pub fn is_cancelling(&self, target: CommandId) -> bool {
        let mut active = self.active.iter();
        active.any(|active| active.withdraws() == Some(target))
    }

    /// Takes note of whether orders reach the robot.
    pub fn handle_reach(&mut self, reach: Reach, now: Uptime) {
        if self.reach != reach {
            self.watch_anew(now);
        }
        self.reach = reach;
        self.settle(now);
    }

    /// Takes note that a part of what the robot says is not heard now, and comes again later.
    pub fn handle_unheard(&mut self, now: Uptime) {
        self.watch_anew(now);
        self.settle(now);
    }

    /// Takes note of the robot's status.
    pub fn handle_status(&mut self, status: &Status, now: Uptime) {
        if let Some(activity) = status.activity {
            if activity == Activity::Moving {
                self.unordered = true;
            }
            self.watch_activity(activity, now);
        }
        self.settle(now);
    }

    /// Takes the robot's word on how far it has got, with the running motion where it names none.
    pub fn handle_progress(
        &mut self,
        command: Option<CommandId>,
        percent: u8,
        text: String,
        now: Uptime,
    ) {
        self.note_progress(command, percent, text, now);
        self.settle(now);
    }

    /// Takes the robot's word that its software was started anew. `source` and `redelivered` are as
    /// in a [`Report`].
    pub fn handle_started(
        &mut self,
        source: Option<SourceId>,
        redelivered: bool,
        now: Uptime,
    ) -> Heard {
        let heard = self.end_forgotten(source, redelivered);
        self.settle(now);
        heard
    }

    /// Takes what the robot says about a motion.
    pub fn handle_report(&mut self, report: Report, now: Uptime) -> Heard {
        let heard = match self.reported(report.command) {
            Some(index) => self.end_motion(index, report),
            None => self.note_late(report),
        };
        self.settle(now);
        heard
    }

    /// Takes note of what became of an [`Output::Execute`].
    pub fn handle_executed(
        &mut self,
        id: CommandId,
        result: Result<(), HandOverError>,
        now: Uptime,
    ) {
        let index = self.find(id);
        // One that has ended meanwhile needs no answer any more.
        let Some(index) = index.filter(|&index| self.active[index].state == State::Handing) else {
            return;
        };
        match result {
            Ok(()) => self.confirm(index, now),
            Err(HandOverError::Away(why)) => self.wait_again(index, why, now),
            Err(HandOverError::Unknown(why)) => self.end_in_doubt(index, why),
            Err(HandOverError::Refused(why)) => {
                self.active[index].stored.hand_over = HandOver::NotYet;
                self.end_one(index, Progress::Failed, why);
            }
        }
        self.settle(now);
    }

    /// Takes note that a step is durable.
    pub fn handle_persisted(&mut self, ticket: Ticket, now: Uptime) {
        if self.in_flight.as_ref().map(|step| step.ticket) == Some(ticket) {
            self.in_flight = None;
        }
        self.hand_over(ticket, now);
        self.settle(now);
    }

    /// Takes note that a step could not be stored. It is tried again after a pause.
    pub fn handle_persist_failed(&mut self, ticket: Ticket, now: Uptime) {
        if let Some(step) = self.in_flight.take_if(|step| step.ticket == ticket) {
            self.steps.push_front(step);
            self.persist_at = Some(now.plus(PERSIST_AGAIN));
        }
        // A robot must halt even when the disk is full.
        let offered = self.active.iter().filter(|active| active.halts());
        let offered: Vec<Ticket> = offered
            .filter_map(|active| match active.state {
                State::Offering(ticket) => Some(ticket),
                State::Waiting { .. } | State::Handing | State::Running => None,
            })
            .collect();
        for ticket in offered {
            self.hand_over(ticket, now);
        }
        self.settle(now);
    }

    /// Does what is due. Call it when the moment of [`Commands::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Uptime) {
        self.settle(now);
    }

    /// What to do next, if anything.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Commands::handle_timeout`] is due: a command expires, an order is offered again, a step
    /// is stored again, or something is due of the running motion.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Uptime> {
        let waiting = self.active.iter().filter_map(|active| match active.state {
            State::Waiting { not_before } => {
                let deadline = active.stored.deadline;
                Some(not_before.map_or(deadline, |at| at.min(deadline)))
            }
            State::Offering(_) | State::Handing | State::Running => None,
        });
        let waiting = waiting.chain(self.persist_at);
        waiting.chain(self.watch_due()).min()
    }

    /// The motion that the robot has, if it has one.
    #[must_use]
    pub fn running(&self) -> Option<&StoredCommand> {
        let mut active = self.active.iter();
        active
            .find(|active| active.state == State::Running)
            .map(|active| &active.stored)
    }

    /// The commands that have not ended, in the order of their arrival.
    pub fn ids(&self) -> impl Iterator<Item = CommandId> + Clone {
        self.active.iter().map(Active::id)
    }

    /// How many commands have not ended.
    #[must_use]
    pub const fn unfinished(&self) -> usize {
        self.active.len()
    }

    /// Ends what has expired, was withdrawn or is over, then offers what may go to the robot, then
    /// stores the next step.
    fn settle(&mut self, now: Uptime) {
        self.persist_at = self.persist_at.filter(|&at| at > now);
        for index in (0..self.active.len()).rev() {
            let active = &mut self.active[index];
            if matches!(active.state, State::Waiting { not_before: Some(at) } if at <= now) {
                active.state = State::WAITING;
            }
            let active = &self.active[index];
            if active.is_waiting() && active.stored.deadline <= now {
                let why = self.why_expired(active);
                self.end_one(index, Progress::Expired, why);
            }
        }
        self.watch_over(now);
        self.withdraw();
        while let Some(index) = self.next_to_offer(now) {
            self.offer(index, now);
        }
        if self.in_flight.is_none() && self.persist_at.is_none() {
            self.in_flight = self.steps.pop_front();
            let step = self.in_flight.iter().cloned();
            self.outputs.extend(step.map(Output::Persist));
        }
    }

    fn why_expired(&self, active: &Active) -> String {
        match self.reach {
            _ if !active.why.is_empty() => active.why.clone(),
            Reach::Away => "the robot's broker was away until its time had passed".to_owned(),
            Reach::Draining | Reach::Ready => "its time passed before it was started".to_owned(),
        }
    }

    fn find(&self, id: CommandId) -> Option<usize> {
        self.active.iter().position(|active| active.id() == id)
    }
}

/// The event that says that a command took a step.
#[must_use]
pub fn update(command: CommandId, progress: Progress, detail: &str) -> Event {
    Event::Command(CommandUpdate {
        command,
        progress,
        detail: detail.to_owned(),
    })
}
