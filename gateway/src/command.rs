//! The life of commands on the gateway, as a state machine without I/O.
//!
//! What it promises, whatever fails and whenever the daemon or the board stops:
//! - A command is handed to the robot at most once, unless its broker said that it did not take it.
//! - None is handed over after its deadline, and none of an earlier boot is ever handed over.
//! - One motion runs at a time. A newer one takes the place of an older one when the robot has it.
//! - Every command ends exactly once.
//!
//! It relies on [`Output::Persist`] being durable, and in order, before it is told so. A step is
//! written before it is taken: `Offered` before an order leaves, `Confirmed` when it has left.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use brrbrr_proto::down::Order;
use brrbrr_proto::id::{BootId, CommandId};
use brrbrr_proto::live::{Activity, Pose, Status};
use brrbrr_proto::time::Uptime;
use brrbrr_proto::up::{Arrived, CommandUpdate, Event, Progress};

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not handed over yet. After a failure it is not offered again before this moment.
    Waiting { not_before: Option<Uptime> },
    /// To be handed over once this step is stored.
    Offering(Ticket),
    /// On its way to the robot.
    Handing,
    /// A motion that the robot has.
    Running,
}

impl State {
    /// It may be offered as soon as the robot can be reached.
    const WAITING: Self = Self::Waiting { not_before: None };
}

#[derive(Debug)]
struct Active {
    stored: StoredCommand,
    state: State,
    /// Why it still waits, for people.
    why: String,
}

impl Active {
    const fn id(&self) -> CommandId {
        self.stored.command.id
    }

    const fn is_motion(&self) -> bool {
        self.stored.command.order.is_motion()
    }

    /// Whether it halts the robot. Such a command goes ahead of all others.
    const fn halts(&self) -> bool {
        matches!(self.stored.command.order, Order::Stop | Order::Cancel(_))
    }

    /// Whether it ends every motion before it.
    const fn halts_all(&self) -> bool {
        matches!(self.stored.command.order, Order::Stop)
    }

    const fn is_handed(&self) -> bool {
        matches!(self.state, State::Handing | State::Running)
    }

    const fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }
}

/// What a step consists of while it is put together.
#[derive(Debug, Default)]
struct Draft {
    source: Option<SourceId>,
    changes: Vec<CommandChange>,
    events: Vec<Event>,
}

/// The newest motion that may have reached the robot.
#[derive(Debug, Clone, Copy)]
struct Last {
    id: CommandId,
    progress: Progress,
    hand_over: HandOver,
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
        };
        for stored in unfinished {
            commands.take_up(stored);
        }
        commands.settle(now);
        commands
    }

    /// How far to say that a command is handed over when it is stored. Where nothing stands in its
    /// way it is [`HandOver::Offered`] at once, which saves the robot from waiting for a second write.
    #[must_use]
    pub fn plan(&self, order: &Order) -> HandOver {
        let may_be_first = order.is_motion() || *order == Order::Stop;
        let is_idle = self.active.iter().all(|a| a.state == State::Running);
        if may_be_first && is_idle && self.reach == Reach::Ready {
            HandOver::Offered
        } else {
            HandOver::NotYet
        }
    }

    /// Takes a command that has been stored, as [`Commands::plan`] said. One that is known is left as
    /// it is.
    pub fn handle_command(&mut self, mut stored: StoredCommand, now: Uptime) {
        if self.find(stored.command.id).is_some() {
            return;
        }
        let id = stored.command.id;
        let planned = std::mem::replace(&mut stored.hand_over, HandOver::NotYet);
        self.admit(stored, now);
        if planned == HandOver::Offered
            && let Some(index) = self.find(id)
        {
            self.take_offer(index, now);
        }
        self.settle(now);
    }

    /// Takes note of whether orders reach the robot.
    pub fn handle_reach(&mut self, reach: Reach, now: Uptime) {
        self.reach = reach;
        self.settle(now);
    }

    /// Takes note of the robot's status.
    pub const fn handle_status(&mut self, status: &Status) {
        if matches!(status.activity, Some(Activity::Moving)) {
            self.unordered = true;
        }
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
            Ok(()) => self.confirm(index),
            Err(HandOverError::Away(why)) => self.wait_again(index, why, now),
            Err(HandOverError::Unknown(why)) => self.end_one(index, Progress::Interrupted, why),
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

    /// When [`Commands::handle_timeout`] is due: a command expires, an order is offered again, or a
    /// step is stored again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Uptime> {
        let waiting = self.active.iter().filter_map(|active| match active.state {
            State::Waiting { not_before } => {
                let deadline = active.stored.deadline;
                Some(not_before.map_or(deadline, |at| at.min(deadline)))
            }
            State::Offering(_) | State::Handing | State::Running => None,
        });
        waiting.chain(self.persist_at).min()
    }

    /// The motion that the robot has, if it has one.
    #[must_use]
    pub fn running(&self) -> Option<&StoredCommand> {
        let mut active = self.active.iter();
        active
            .find(|active| active.state == State::Running)
            .map(|active| &active.stored)
    }

    /// How many commands have not ended.
    #[must_use]
    pub const fn unfinished(&self) -> usize {
        self.active.len()
    }

    /// Decides what becomes of a command that was unfinished when the daemon stopped.
    fn take_up(&mut self, stored: StoredCommand) {
        let same_boot = stored.boot == self.boot;
        let (progress, hand_over) = (stored.progress, stored.hand_over);
        let index = self.push(stored);
        match (progress, hand_over) {
            (Progress::Received, HandOver::NotYet) if !same_boot => {
                let why = "the board was restarted before it was started";
                self.end_one(index, Progress::Expired, why.to_owned());
            }
            (Progress::Received, HandOver::NotYet) => self.arrange(index),
            (Progress::Running, _) if same_boot => self.active[index].state = State::Running,
            (Progress::Running, _) => {
                let why = "the board was restarted while it ran";
                self.end_one(index, Progress::Interrupted, why.to_owned());
            }
            _ => {
                let why = "the gateway stopped while handing it to the robot";
                self.end_one(index, Progress::Interrupted, why.to_owned());
            }
        }
    }

    /// Puts a new command in its place, with what follows for older ones.
    fn admit(&mut self, stored: StoredCommand, now: Uptime) {
        let is_late = stored.deadline <= now;
        let is_full = self.active.len() >= UNFINISHED_MAX && stored.command.order != Order::Stop;
        let index = self.push(stored);
        if is_late {
            let why = "it was received after its time had passed";
            return self.end_one(index, Progress::Expired, why.to_owned());
        }
        if is_full {
            let why = format!("{UNFINISHED_MAX} commands are unfinished already");
            return self.end_one(index, Progress::Failed, why);
        }
        self.arrange(index);
    }

    fn push(&mut self, stored: StoredCommand) -> usize {
        self.active.push(Active {
            stored,
            state: State::WAITING,
            why: String::new(),
        });
        self.active.len() - 1
    }

    /// Does what the newest command means for those before it.
    fn arrange(&mut self, index: usize) {
        match self.active[index].stored.command.order {
            Order::GoTo(_) | Order::Dock => {
                let why = format!("replaced by {}", self.active[index].id());
                self.end_waiting_before(index, Progress::Superseded, &why);
            }
            Order::Stop => {
                let why = "stopped before it was started";
                self.end_waiting_before(index, Progress::Cancelled, why);
            }
            Order::Cancel(target) => self.cancel(index, target),
            Order::Pause | Order::Resume | Order::Say(_) | Order::Custom(_) | Order::Withdrawn => {}
        }
    }

    /// Ends the motions before `index` that the robot does not have.
    fn end_waiting_before(&mut self, index: usize, progress: Progress, why: &str) {
        let mut draft = Draft::default();
        for older in (0..index).rev() {
            if self.active[older].is_motion() && !self.active[older].is_handed() {
                self.end(older, progress, why.to_owned(), &mut draft);
            }
        }
        self.persist(draft);
    }

    /// Withdraws a command that waits. For one that the robot has, the cancellation goes to the
    /// robot like a stop.
    fn cancel(&mut self, index: usize, target: CommandId) {
        let found = self.find(target).filter(|&found| found != index);
        match found.map(|found| (found, &self.active[found])) {
            Some((_, active)) if active.is_handed() && active.is_motion() => {}
            Some((found, active)) if !active.is_handed() => {
                let mut draft = Draft::default();
                self.end(index, Progress::Succeeded, String::new(), &mut draft);
                let why = "withdrawn before it was started".to_owned();
                self.end(found, Progress::Cancelled, why, &mut draft);
                self.persist(draft);
            }
            Some(_) | None => {
                let why = format!("{target} is not waiting or running here");
                self.end_one(index, Progress::Failed, why);
            }
        }
    }

    /// The motion that a report is about, if the robot has one.
    fn reported(&self, named: Option<CommandId>) -> Option<usize> {
        let of = |state| {
            let mut active = self.active.iter();
            active.position(|a| a.state == state && a.is_motion())
        };
        match named {
            Some(id) => self
                .find(id)
                .filter(|&index| self.active[index].is_handed() && self.active[index].is_motion()),
            // Without a name it is the one that the robot had first.
            None => of(State::Running).or_else(|| of(State::Handing)),
        }
    }

    fn end_motion(&mut self, index: usize, report: Report) -> Heard {
        let mut draft = Draft {
            source: report.source,
            ..Draft::default()
        };
        let id = self.active[index].id();
        if self.active[index].state == State::Handing {
            // The robot was faster than its broker's word that it has the order.
            draft.events.push(update(id, Progress::Running, ""));
            self.active[index].stored.hand_over = HandOver::Confirmed;
            self.supersede_running_before(index, &mut draft);
        }
        let index = self.find(id).unwrap_or(index);
        match report.outcome {
            Outcome::Arrived(pose) => {
                let command = Some(id);
                draft.events.push(Event::Arrived(Arrived { command, pose }));
                self.active[index].stored.hand_over = HandOver::Arrived;
                self.end(index, Progress::Succeeded, String::new(), &mut draft);
                self.unordered = false;
            }
            Outcome::Failed(why) => self.end(index, Progress::Failed, why, &mut draft),
        }
        Heard::News(self.persist(draft))
    }

    /// Takes a report that no motion waits for.
    fn note_late(&mut self, report: Report) -> Heard {
        let Outcome::Arrived(pose) = report.outcome else {
            return Heard::NoNews;
        };
        // Without a name it cannot be told whether a message that comes again was stored.
        let is_first = !report.redelivered || report.source.is_some();
        let mut draft = Draft {
            source: report.source,
            ..Draft::default()
        };
        let may_arrive =
            |last: &&mut Last| matches!(last.hand_over, HandOver::Offered | HandOver::Confirmed);
        let named = |last: &&mut Last| report.command.is_none_or(|id| id == last.id);
        let command = if let Some(last) = self.last.as_mut().filter(may_arrive).filter(named) {
            // It was given up here, but the robot had it and has arrived after all.
            last.hand_over = HandOver::Arrived;
            draft.changes.push(CommandChange {
                id: last.id,
                progress: last.progress,
                hand_over: HandOver::Arrived,
            });
            Some(last.id)
        } else if self.unordered && report.command.is_none() && is_first {
            None
        } else {
            return Heard::NoNews;
        };
        self.unordered = false;
        draft.events.push(Event::Arrived(Arrived { command, pose }));
        Heard::News(self.persist(draft))
    }

    /// The robot has it.
    fn confirm(&mut self, index: usize) {
        let mut draft = Draft::default();
        let id = self.active[index].id();
        self.active[index].stored.hand_over = HandOver::Confirmed;
        let order = self.active[index].stored.command.order.clone();
        let target = if let Order::Cancel(target) = order {
            Some(target)
        } else {
            None
        };
        match order {
            Order::GoTo(_) | Order::Dock => {
                self.supersede_running_before(index, &mut draft);
                let index = self.find(id).unwrap_or(index);
                let active = &mut self.active[index];
                active.state = State::Running;
                active.stored.progress = Progress::Running;
                draft.changes.push(change_of(&active.stored));
                draft.events.push(update(id, Progress::Running, ""));
                self.remember(index);
            }
            Order::Stop | Order::Cancel(_) => {
                for older in (0..index).rev() {
                    let active = &self.active[older];
                    let is_meant = target.is_none_or(|target| active.id() == target);
                    if is_meant && active.is_motion() && active.is_handed() {
                        let why = "stopped on the way".to_owned();
                        self.end(older, Progress::Cancelled, why, &mut draft);
                    }
                }
                let index = self.find(id).unwrap_or(index);
                self.end(index, Progress::Succeeded, String::new(), &mut draft);
            }
            Order::Pause | Order::Resume | Order::Say(_) | Order::Custom(_) | Order::Withdrawn => {
                self.end(index, Progress::Succeeded, String::new(), &mut draft);
            }
        }
        self.persist(draft);
    }

    /// The robot surely has not got it. It waits, unless something newer has taken its place.
    fn wait_again(&mut self, index: usize, why: String, now: Uptime) {
        let active = &mut self.active[index];
        active.stored.hand_over = HandOver::NotYet;
        active.why = why;
        active.state = State::Waiting {
            not_before: Some(now.plus(OFFER_AGAIN)),
        };
        let change = change_of(&active.stored);
        self.remember(index);
        let is_newer = |active: &&Active| active.is_motion() || active.halts_all();
        let newer = self.active[index + 1..].iter().find(is_newer);
        let is_motion = self.active[index].is_motion();
        match newer.filter(|_| is_motion).map(|n| (n.id(), n.is_motion())) {
            Some((id, true)) => {
                self.end_one(index, Progress::Superseded, format!("replaced by {id}"));
            }
            Some((_, false)) => {
                let why = "stopped before it was started".to_owned();
                self.end_one(index, Progress::Cancelled, why);
            }
            None => {
                self.persist(Draft {
                    changes: vec![change],
                    ..Draft::default()
                });
            }
        }
    }

    fn supersede_running_before(&mut self, index: usize, draft: &mut Draft) {
        let why = format!("replaced by {}", self.active[index].id());
        for older in (0..index).rev() {
            if self.active[older].state == State::Running {
                self.end(older, Progress::Superseded, why.clone(), draft);
            }
        }
    }

    /// Ends what has expired, then offers what may go to the robot, then stores the next step.
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

    /// The command that may be offered now: first what halts the robot, then one at a time, in the
    /// order of arrival, and never past an older command that halts.
    fn next_to_offer(&self, now: Uptime) -> Option<usize> {
        let may_go = |active: &Active| match active.state {
            State::Waiting { not_before } => not_before.is_none_or(|at| at <= now),
            State::Offering(_) | State::Handing | State::Running => false,
        };
        let halting = self.active.iter().position(|a| a.halts() && may_go(a));
        if halting.is_some() && self.reach >= Reach::Draining {
            return halting;
        }
        let is_busy = |active: &Active| {
            active.halts() || matches!(active.state, State::Offering(_) | State::Handing)
        };
        if self.reach < Reach::Ready {
            return None;
        }
        let mut active = self.active.iter();
        let found = active.position(|active| is_busy(active) || may_go(active))?;
        let is_free = !self.active.iter().any(|a| !a.halts() && is_busy(a));
        (is_free && !is_busy(&self.active[found])).then_some(found)
    }

    fn offer(&mut self, index: usize, now: Uptime) {
        let active = &mut self.active[index];
        if let Order::Cancel(target) = active.stored.command.order {
            let is_on = self
                .find(target)
                .is_some_and(|t| self.active[t].is_handed());
            if !is_on {
                let why = format!("{target} had ended already");
                return self.end_one(index, Progress::Failed, why);
            }
        }
        let active = &mut self.active[index];
        active.stored.hand_over = HandOver::Offered;
        let (change, halts) = (change_of(&active.stored), active.halts());
        let ticket = self.persist(Draft {
            changes: vec![change],
            ..Draft::default()
        });
        self.active[index].state = State::Offering(ticket);
        if halts && self.persist_at.is_some() {
            // The disk is full, see `handle_persist_failed`.
            self.hand_over(ticket, now);
        }
    }

    /// Hands over a command that was stored as offered, unless something has come in its way.
    fn take_offer(&mut self, index: usize, now: Uptime) {
        if self.next_to_offer(now) == Some(index) {
            self.active[index].stored.hand_over = HandOver::Offered;
            self.hand(index);
        } else {
            let change = change_of(&self.active[index].stored);
            self.persist(Draft {
                changes: vec![change],
                ..Draft::default()
            });
        }
    }

    /// Hands over the command whose offer is durable, if it is still wanted.
    fn hand_over(&mut self, ticket: Ticket, now: Uptime) {
        let mut active = self.active.iter();
        let Some(index) = active.position(|a| a.state == State::Offering(ticket)) else {
            return;
        };
        if self.active[index].stored.deadline <= now {
            let why = "its time passed before it was started".to_owned();
            return self.end_one(index, Progress::Expired, why);
        }
        self.hand(index);
    }

    fn hand(&mut self, index: usize) {
        let active = &mut self.active[index];
        active.state = State::Handing;
        let id = active.id();
        let order = match active.halts() {
            true => Order::Stop,
            false => active.stored.command.order.clone(),
        };
        let deadline = active.stored.deadline;
        self.remember(index);
        self.outputs.push_back(Output::Execute {
            id,
            order,
            deadline,
        });
    }

    fn end_one(&mut self, index: usize, progress: Progress, why: String) {
        let mut draft = Draft::default();
        self.end(index, progress, why, &mut draft);
        self.persist(draft);
    }

    /// Ends a command. What comes after it in `active` moves down by one.
    fn end(&mut self, index: usize, progress: Progress, why: String, draft: &mut Draft) {
        let mut ended = self.active.remove(index);
        ended.stored.progress = progress;
        if matches!(ended.state, State::Offering(_)) {
            ended.stored.hand_over = HandOver::NotYet;
        }
        if let Some(last) = self.last.as_mut().filter(|last| last.id == ended.id()) {
            last.progress = progress;
            last.hand_over = ended.stored.hand_over;
        }
        draft.changes.push(change_of(&ended.stored));
        draft.events.push(update(ended.id(), progress, &why));
    }

    /// Keeps the motion at `index` as the newest that the robot may have.
    fn remember(&mut self, index: usize) {
        let active = &self.active[index];
        if active.is_motion() {
            self.last = Some(Last {
                id: active.id(),
                progress: active.stored.progress,
                hand_over: active.stored.hand_over,
            });
        }
    }

    fn persist(&mut self, draft: Draft) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        let Draft {
            source,
            changes,
            events,
        } = draft;
        if !changes.is_empty() || !events.is_empty() {
            self.next_ticket += 1;
            self.steps.push_back(Step {
                ticket,
                source,
                changes,
                events,
            });
        }
        ticket
    }

    fn find(&self, id: CommandId) -> Option<usize> {
        self.active.iter().position(|active| active.id() == id)
    }
}

const fn change_of(stored: &StoredCommand) -> CommandChange {
    CommandChange {
        id: stored.command.id,
        progress: stored.progress,
        hand_over: stored.hand_over,
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
