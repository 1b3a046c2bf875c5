//! Whether the motion that the robot has is still on: what the robot says beside the word that ends
//! it.
//!
//! A robot whose software was restarted may forget its motion. It ends as interrupted
//! - when the robot says that its software was started anew;
//! - when it says for [`REST_LIMIT`] that it stands idle, and nothing else. That counts only once
//!   it has said that it moves, or [`START_LIMIT`] after it got the order: what it said before it
//!   began, and what was on its way then, is not about this motion. An arrival that comes right
//!   behind the last status is in time;
//! - when it has said nothing of the motion for as long as [`Commands::limit_motions`] allows. While
//!   it is paused, that it stands is a word of the motion.
//!
//! None of it counts while the robot cannot be heard, because what it said then still comes.

use std::time::Duration;

use brrbrr_proto::down::Order;
use brrbrr_proto::id::CommandId;
use brrbrr_proto::live::Activity;
use brrbrr_proto::time::Uptime;
use brrbrr_proto::up::{Event, Progress, Progressed};

use super::active::{Active, Draft, State};
use super::{Commands, Heard, Output, Reach};
use crate::spool::SourceId;

/// For how long a robot must say that it stands idle.
pub const REST_LIMIT: Duration = Duration::from_secs(5);

/// For how long a robot that has got an order may still say that it stands idle.
pub const START_LIMIT: Duration = Duration::from_secs(10);

/// How often progress is told at most.
pub const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// How much of the text beside a progress is told, in bytes.
pub const PROGRESS_TEXT_BYTES: usize = 512;

/// How long nothing may be heard of a motion where nobody says otherwise.
pub const MOTION_LIMIT: Duration = Duration::from_secs(1800);

/// What is known of the motion that the robot has.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) id: CommandId,
    since: Uptime,
    heard_at: Uptime,
    has_moved: bool,
    rests_since: Option<Uptime>,
    is_paused: bool,
    /// The robot had it before this daemon began.
    was_taken_up: bool,
    told: Option<(Uptime, Said)>,
    untold: Option<Said>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    percent: u8,
    text: String,
}

impl Watch {
    pub(super) const fn new(id: CommandId, now: Uptime) -> Self {
        Self {
            id,
            since: now,
            heard_at: now,
            has_moved: false,
            rests_since: None,
            is_paused: false,
            was_taken_up: false,
            told: None,
            untold: None,
        }
    }

    /// Of a motion that the robot has had since before the daemon began.
    pub(super) const fn taken_up(id: CommandId, now: Uptime) -> Self {
        let mut watch = Self::new(id, now);
        watch.was_taken_up = true;
        watch
    }

    /// Takes note of what the robot does; `docks` where the motion is to dock.
    fn note(&mut self, activity: Activity, docks: bool, now: Uptime) {
        match activity {
            Activity::Moving => {
                self.heard_at = now;
                self.has_moved = true;
                self.rests_since = None;
            }
            // It may stand on its charger for ever, so nothing is heard of the motion in this.
            Activity::Docking if docks => {
                self.has_moved = true;
                self.rests_since = None;
            }
            // It stands as it was told to. Where it was not told, somebody may have halted it at its
            // own panel for good.
            Activity::Stopped if self.is_paused => {
                self.heard_at = now;
                self.rests_since = None;
            }
            Activity::Stopped => self.rests_since = None,
            // The word that counts comes with its arrival.
            Activity::Arrived => {}
            Activity::Idle | Activity::Docking | Activity::Faulted => {
                let counts = self.has_moved || self.since.plus(START_LIMIT) <= now;
                if counts && !self.is_paused {
                    self.rests_since.get_or_insert(now);
                }
            }
        }
    }

    /// When it ends as interrupted.
    fn due(&self, limit: Duration) -> Uptime {
        let at_rest = self.rests_since.map(|since| since.plus(REST_LIMIT));
        let silent = self.heard_at.plus(limit);
        at_rest.map_or(silent, |at| at.min(silent))
    }

    /// When progress may be told, if any is to be.
    fn progress_due(&self) -> Option<Uptime> {
        self.untold.as_ref()?;
        let told = self.told.as_ref().map(|(at, _)| at.plus(PROGRESS_EVERY));
        Some(told.unwrap_or_default())
    }
}

impl Commands {
    /// Takes note of what the robot does.
    pub(super) fn watch_activity(&mut self, activity: Activity, now: Uptime) {
        let Some(watch) = &mut self.watch else { return };
        let mut active = self.active.iter();
        let order = active.find(|active| active.id() == watch.id);
        let docks = order.is_some_and(|a| a.stored.command.order == Order::Dock);
        watch.note(activity, docks, now);
    }

    /// What the robot says can be heard again, or cannot be heard any more.
    pub(super) const fn watch_anew(&mut self, now: Uptime) {
        if let Some(watch) = &mut self.watch {
            watch.heard_at = now;
            watch.rests_since = None;
        }
    }

    /// Takes note that the robot was told to pause, or to go on.
    pub(super) const fn watch_pause(&mut self, is_paused: bool, now: Uptime) {
        if let Some(watch) = &mut self.watch {
            watch.is_paused = is_paused;
            watch.rests_since = None;
            watch.heard_at = now;
        }
    }

    /// Takes the robot's word that its software was started anew.
    pub(super) fn end_forgotten(&mut self, source: Option<SourceId>, redelivered: bool) -> Heard {
        // Where this daemon heard it before, it ended the motion of that time. What runs now began
        // after it.
        let is_first = !redelivered || source.is_some();
        let watch = self.watch.as_ref();
        let watch = watch.filter(|watch| is_first || watch.was_taken_up);
        let Some(index) = watch.and_then(|watch| self.find(watch.id)) else {
            return Heard::NoNews;
        };
        let mut draft = Draft {
            source,
            ..Draft::default()
        };
        let why = "the robot's software was started anew".to_owned();
        self.end(index, Progress::Interrupted, why, &mut draft);
        Heard::News(self.persist(draft))
    }

    /// Ends the running motion where it is over, and tells how far it has got.
    pub(super) fn watch_over(&mut self, now: Uptime) {
        let why = match self.over_at() {
            Some(at) if at <= now => self.why_over(now),
            Some(_) | None => {
                self.tell_progress(now);
                return;
            }
        };
        let index = self.watch.as_ref().and_then(|watch| self.find(watch.id));
        if let Some(index) = index {
            self.end_one(index, Progress::Interrupted, why);
        }
    }

    /// When something is due of the running motion.
    pub(super) fn watch_due(&self) -> Option<Uptime> {
        let progress = self.watch.as_ref().and_then(Watch::progress_due);
        self.over_at().into_iter().chain(progress).min()
    }

    /// When the running motion counts as over. Not while something is under way that may end it
    /// otherwise.
    fn over_at(&self) -> Option<Uptime> {
        let watch = self.watch.as_ref()?;
        let is_quiet = !self.active.iter().any(Active::is_under_way);
        let runs = |active: &Active| active.id() == watch.id && active.state == State::Running;
        (is_quiet && self.reach == Reach::Ready && self.active.iter().any(runs))
            .then(|| watch.due(self.motion_limit))
    }

    fn why_over(&self, now: Uptime) -> String {
        let rests = self.watch.as_ref().and_then(|watch| watch.rests_since);
        if rests.is_some_and(|since| since.plus(REST_LIMIT) <= now) {
            "the robot stands idle and has not said how it ended".to_owned()
        } else {
            let seconds = self.motion_limit.as_secs();
            format!("nothing was heard of it for {seconds} s")
        }
    }

    /// Takes the robot's word on how far it has got.
    pub(super) fn note_progress(
        &mut self,
        command: Option<CommandId>,
        percent: u8,
        mut text: String,
        now: Uptime,
    ) {
        let watch = self.watch.as_mut();
        let Some(watch) = watch.filter(|watch| command.is_none_or(|id| id == watch.id)) else {
            return;
        };
        watch.heard_at = now;
        watch.rests_since = None;
        text.truncate(text.floor_char_boundary(PROGRESS_TEXT_BYTES));
        let percent = percent.min(100);
        let said = Said { percent, text };
        let is_known = watch.told.as_ref().is_some_and(|(_, told)| *told == said);
        watch.untold = Some(said).filter(|_| !is_known);
    }

    fn tell_progress(&mut self, now: Uptime) {
        let Some(watch) = &mut self.watch else { return };
        let is_whole = |said: &Said| said.percent == 100;
        let was_whole = watch.told.as_ref().is_some_and(|(_, told)| is_whole(told));
        // The last one is not held back: its motion may end before a second is over.
        let is_urgent = !was_whole && watch.untold.as_ref().is_some_and(is_whole);
        let is_due = watch.progress_due().is_some_and(|at| at <= now);
        let Some(said) = watch.untold.take_if(|_| is_urgent || is_due) else {
            return;
        };
        watch.told = Some((now, said.clone()));
        let Said { percent, text } = said;
        self.outputs
            .push_back(Output::Tell(Event::Progressed(Progressed {
                command: watch.id,
                percent,
                text,
            })));
    }
}
