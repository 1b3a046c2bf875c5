//! The promises of [`Commands`], against a driver that fails, stops and starts again at any step.

mod doubt;
mod model;
mod rest;
mod stops;
mod stories;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use brrbrr_proto::down::{Command, GoTo};

use super::*;
use crate::spool::Origin;

const BOOT: BootId = BootId(1);

fn at(seconds: u64) -> Uptime {
    Uptime::new(Duration::from_secs(seconds))
}

fn go_to() -> Order {
    let pose = Pose {
        x: 1.0,
        y: 2.0,
        theta: None,
    };
    Order::GoTo(GoTo {
        pose,
        floor: None,
        place: String::new(),
    })
}

fn stored(id: u128, order: Order, ttl: u64, now: Uptime) -> StoredCommand {
    let command = Command {
        id: CommandId(id),
        time_to_live: Duration::from_secs(ttl),
        order,
    };
    StoredCommand::received(command, BOOT, now)
}

fn arrival() -> Report {
    Report {
        command: None,
        outcome: Outcome::Arrived(None),
        source: None,
        redelivered: false,
    }
}

/// What may be said of a running motion that bears on whether it still runs.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Word {
    Activity(Activity),
    Progress,
    /// The robot could be heard again, or not any more.
    Reach,
    Pause(bool),
}

/// A driver with a disk that keeps what was persisted, and a robot that takes what it is given.
struct Bench {
    commands: Commands,
    disk: Vec<StoredCommand>,
    /// Commands that the disk refused, in the order of their arrival.
    unstored: Vec<StoredCommand>,
    now: Uptime,
    boot: BootId,
    reach: Reach,
    /// Whether commands are stored as offered where nothing stands in their way.
    plans: bool,
    persisting: Option<Step>,
    executing: Vec<(CommandId, Order)>,
    /// Everything in the order in which it came first.
    arrivals: Vec<CommandId>,
    /// Orders that the robot may have got.
    given: BTreeSet<CommandId>,
    /// The motions that the robot has got, the newest last.
    driven: Vec<CommandId>,
    ended: BTreeMap<CommandId, Progress>,
    /// What runs for whoever reads one record after the other.
    told_to_run: BTreeSet<CommandId>,
    arrived: Vec<Option<CommandId>>,
    progress: Vec<(Uptime, CommandId, u8, String)>,
    /// Since when which motion runs, and what was said since.
    runs: Option<(CommandId, Uptime)>,
    words: Vec<(Uptime, Word)>,
    /// Motions of which it could be said that the robot stood idle for long enough.
    rested: BTreeSet<CommandId>,
}

impl Bench {
    fn new() -> Self {
        Self {
            commands: Commands::new(BOOT, Vec::new(), None, at(1)),
            disk: Vec::new(),
            unstored: Vec::new(),
            now: at(1),
            boot: BOOT,
            reach: Reach::Away,
            plans: false,
            persisting: None,
            executing: Vec::new(),
            arrivals: Vec::new(),
            given: BTreeSet::new(),
            driven: Vec::new(),
            ended: BTreeMap::new(),
            told_to_run: BTreeSet::new(),
            arrived: Vec::new(),
            progress: Vec::new(),
            runs: None,
            words: Vec::new(),
            rested: BTreeSet::new(),
        }
    }

    fn ready() -> Self {
        let mut bench = Self::new();
        bench.reach(Reach::Ready);
        bench
    }

    fn reach(&mut self, reach: Reach) {
        if reach != self.reach {
            self.said(Word::Reach);
        }
        self.reach = reach;
        self.commands.handle_reach(reach, self.now);
        self.take();
    }

    fn command(&mut self, id: u128, order: Order, ttl: u64) {
        let mut command = stored(id, order, ttl, self.now);
        command.boot = self.boot;
        self.store(command);
    }

    /// A command is stored and passed on to the machine.
    fn store(&mut self, mut command: StoredCommand) {
        self.arrives(command.command.id);
        if self.plans || self.commands.is_unrecorded(command.command.id) {
            command.hand_over = self
                .commands
                .plan(command.command.id, &command.command.order);
        }
        self.disk.push(command.clone());
        self.commands.handle_command(command, self.now);
        self.take();
    }

    /// A command comes that the disk refuses.
    fn refused(&mut self, id: u128, order: Order, ttl: u64) -> bool {
        let mut command = stored(id, order, ttl, self.now);
        command.boot = self.boot;
        self.arrives(command.command.id);
        self.unstored.push(command.clone());
        let is_passed_on = self.commands.handle_refused(command, self.now);
        self.take();
        is_passed_on
    }

    /// The oldest command that the disk refused comes again, with what is left of its time.
    fn resend(&mut self, is_stored: bool) {
        let Some(oldest) = self.unstored.first_mut() else {
            return;
        };
        (oldest.boot, oldest.received) = (self.boot, self.now);
        let command = oldest.clone();
        if is_stored {
            self.unstored.remove(0);
            self.store(command);
        } else {
            self.arrives(command.command.id);
            self.commands.handle_refused(command, self.now);
            self.take();
        }
    }

    fn arrives(&mut self, id: CommandId) {
        if !self.arrivals.contains(&id) {
            self.arrivals.push(id);
        }
    }

    fn known(&self, id: CommandId) -> &StoredCommand {
        let mut known = self.disk.iter().chain(&self.unstored);
        known.find(|stored| stored.command.id == id).unwrap()
    }

    /// Takes all outputs and checks what may never be.
    fn take(&mut self) {
        while let Some(output) = self.commands.poll_output() {
            match output {
                Output::Persist(step) => {
                    assert!(self.persisting.is_none(), "one step at a time");
                    self.persisting = Some(step);
                }
                Output::Execute { id, order, .. } => self.take_order(id, order),
                Output::Tell(event) => self.take_progress(event),
            }
        }
        let running = self.commands.running().map(|stored| stored.command.id);
        if self.runs.map(|(id, _)| id) != running {
            self.runs = running.map(|id| (id, self.now));
            self.words.clear();
        }
    }

    fn take_order(&mut self, id: CommandId, order: Order) {
        assert!(self.given.insert(id), "handed over twice: {id}");
        let stored = self.known(id);
        assert!(self.now < stored.deadline, "handed over late: {id}");
        assert_eq!(stored.boot, self.boot, "of an earlier boot: {id}");
        let is_on_disk = stored.hand_over == HandOver::Offered;
        let halts = order == Order::Stop;
        assert!(
            is_on_disk || halts,
            "handed over before it was stored: {id}"
        );
        if let Order::Cancel(target) = stored.command.order {
            assert_eq!(self.driven.last(), Some(&target), "stops another: {id}");
        }
        if order.is_motion() {
            let later = self.arrivals.iter().skip_while(|&&other| other != id);
            for stop in later.filter(|other| self.given.contains(other)) {
                let is_stop = self.known(*stop).command.order == Order::Stop;
                assert!(!is_stop, "begun after {stop}: {id}");
            }
            self.driven.push(id);
        }
        self.executing.push((id, order));
    }

    fn take_progress(&mut self, event: Event) {
        let Event::Progressed(said) = event else {
            panic!("not a progress: {event:?}");
        };
        let running = self.commands.running().map(|stored| stored.command.id);
        assert_eq!(running, Some(said.command), "progress of what does not run");
        let last = self.progress.last();
        if let Some((at, id, percent, text)) = last.filter(|last| last.1 == said.command) {
            let is_new = (*percent, text) != (said.percent, &said.text);
            assert!(is_new, "nothing new of {id}");
            let is_slow = self.now.since(*at) >= watching::PROGRESS_EVERY;
            assert!(is_slow || said.percent == 100, "too often: {id}");
        }
        let (id, percent) = (said.command, said.percent);
        self.progress.push((self.now, id, percent, said.text));
    }

    fn write(&mut self, step: &Step) {
        for change in &step.changes {
            let stored = self.disk.iter_mut().find(|s| s.command.id == change.id);
            let stored = stored.expect("a step of a command that is not stored");
            if stored.progress.is_final() {
                assert_eq!(
                    stored.progress, change.progress,
                    "ended twice: {}",
                    change.id
                );
            }
            stored.progress = change.progress;
            stored.hand_over = change.hand_over;
        }
        for event in &step.events {
            match event {
                Event::Command(update) if update.progress.is_final() => {
                    let twice = self.ended.insert(update.command, update.progress);
                    assert_eq!(twice, None, "reported twice: {}", update.command);
                    self.told_to_run.remove(&update.command);
                    if update.detail.contains("stands idle") {
                        assert!(self.rested.contains(&update.command), "ended too soon");
                    }
                }
                Event::Command(update) if update.progress == Progress::Running => {
                    self.told_to_run.insert(update.command);
                    assert_eq!(self.told_to_run.len(), 1, "two run for a moment");
                }
                Event::Arrived(arrived) => self.arrived.push(arrived.command),
                Event::Command(_)
                | Event::Changed(_)
                | Event::Alarm(_)
                | Event::Telemetry(_)
                | Event::Custom(_)
                | Event::Ordered(_)
                | Event::Progressed(_)
                | Event::Thinned(_)
                | Event::Tombstone(_) => {}
            }
        }
        let running = |s: &&StoredCommand| s.progress == Progress::Running;
        assert!(self.disk.iter().filter(running).count() <= 1);
    }

    fn persist(&mut self) {
        if let Some(step) = self.persisting.take() {
            self.write(&step);
            self.commands.handle_persisted(step.ticket, self.now);
            self.take();
        }
    }

    fn fail_to_persist(&mut self) {
        if let Some(step) = self.persisting.take() {
            self.commands.handle_persist_failed(step.ticket, self.now);
            self.take();
        }
    }

    fn executed(&mut self, result: Result<(), HandOverError>) {
        if self.executing.is_empty() {
            return;
        }
        let (id, order) = self.executing.remove(0);
        if matches!(result, Err(HandOverError::Away(_))) {
            self.given.remove(&id);
        }
        if result.is_err() {
            self.driven.retain(|&driven| driven != id);
        } else if matches!(order, Order::Pause | Order::Resume) {
            self.said(Word::Pause(order == Order::Pause));
        }
        self.commands.handle_executed(id, result, self.now);
        self.take();
    }

    fn report(&mut self, report: Report) -> Heard {
        let heard = self.commands.handle_report(report, self.now);
        self.take();
        heard
    }

    fn status(&mut self, activity: Activity) {
        self.said(Word::Activity(activity));
        let status = Status {
            activity: Some(activity),
            ..Status::default()
        };
        self.commands.handle_status(&status, self.now);
        self.take();
    }

    fn progress(&mut self, percent: u8) {
        self.said(Word::Progress);
        let text = "on the way".to_owned();
        let now = self.now;
        self.commands.handle_progress(None, percent, text, now);
        self.take();
    }

    fn started(&mut self, redelivered: bool) -> Heard {
        let heard = self.commands.handle_started(None, redelivered, self.now);
        self.take();
        heard
    }

    /// Takes note of a word before the machine hears it.
    fn said(&mut self, word: Word) {
        self.words.push((self.now, word));
        self.judge_rest();
    }

    /// Whether it may be said now that the robot has stood idle for long enough, by what was said
    /// since the motion began. Written to be plain, not to be fast.
    fn judge_rest(&mut self) {
        let Some((id, since)) = self.runs else { return };
        let is = |word: &Word, of: &[Activity]| of.iter().any(|a| *word == Word::Activity(*a));
        let stirs = |word: &Word| {
            let is_other = !matches!(word, Word::Activity(_));
            is_other || is(word, &[Activity::Moving, Activity::Stopped])
        };
        let pauses = self.words.iter().rev().find_map(|(_, word)| match word {
            Word::Pause(is_paused) => Some(*is_paused),
            Word::Activity(_) | Word::Progress | Word::Reach => None,
        });
        let last_stir = self.words.iter().rposition(|(_, word)| stirs(word));
        let rests = self.words.iter().enumerate().filter(|(at, (when, word))| {
            let before = &self.words[..*at];
            let has_moved = before.iter().any(|(_, w)| is(w, &[Activity::Moving]));
            let is_idle = is(
                word,
                &[Activity::Idle, Activity::Faulted, Activity::Docking],
            );
            is_idle && (has_moved || when.since(since) >= watching::START_LIMIT)
        });
        let enough = rests
            .filter(|(at, _)| last_stir.is_none_or(|stir| stir < *at))
            .any(|(_, (when, _))| self.now.since(*when) >= watching::REST_LIMIT);
        if enough && pauses != Some(true) {
            self.rested.insert(id);
        }
    }

    fn advance(&mut self, seconds: u64) {
        self.now = self.now.plus(Duration::from_secs(seconds));
        self.judge_rest();
        self.commands.handle_timeout(self.now);
        if let Some(due) = self.commands.poll_timeout() {
            assert!(due > self.now, "a timeout that never ends");
        }
        self.take();
    }

    fn restart(&mut self, written: bool, reboot: bool) {
        if let Some(step) = self.persisting.take()
            && written
        {
            self.write(&step);
        }
        for (id, _) in std::mem::take(&mut self.executing) {
            self.driven.retain(|&driven| driven != id);
        }
        if reboot {
            self.boot = BootId(self.boot.0 + 1);
        }
        // Whoever gave a command on the board gives it again, or not.
        self.unstored
            .retain(|stored| stored.origin == Origin::Relay);
        // A motion that was refused before has only its deadline that bounds it.
        for refused in &self.unstored {
            let is_it = |id: &CommandId| *id == refused.command.id;
            let is_motion = refused.command.order.is_motion();
            self.arrivals.retain(|id| !(is_motion && is_it(id)));
        }
        let unfinished = self.disk.iter().filter(|s| !s.progress.is_final());
        let unfinished = unfinished.cloned().collect();
        let mut motions = self.disk.iter().filter(|s| s.command.order.is_motion());
        self.commands = Commands::new(self.boot, unfinished, motions.next_back(), self.now);
        self.reach = Reach::Away;
        self.runs = None;
        // What was told before is not remembered, and telling it again does no harm.
        self.progress.clear();
        self.take();
    }

    /// Does everything that can be done without time passing.
    fn work(&mut self) {
        while self.persisting.is_some() || !self.executing.is_empty() {
            self.persist();
            self.executed(Ok(()));
        }
    }
}
