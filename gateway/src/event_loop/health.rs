//! What the event loop makes of the spool's health: it tells people and the relay, and keeps an alarm
//! of every time in which nothing could be taken.

use brrbrr_proto::link::gateway::DiskState;
use brrbrr_proto::time::{Stamp, Uptime};
use brrbrr_proto::up::{Alarm, Disk, Event, Severity};
use tracing::{error, info, warn};

use super::{Done, EventLoop, view};
use crate::robot::Accept;
use crate::spool::{self, Appended, Gap, SpoolState};

/// The code of the alarm that says that the spool took nothing for a while.
pub const SPOOL_FAILED: &str = "spool_failed";
/// The code of the alarm that says that the spool began to shed.
pub const SPOOL_SHORT: &str = "spool_short";
/// How many holes are shown.
const GAPS_SHOWN: usize = 20;

/// What the spool's health was when it last changed for people.
#[derive(Debug)]
pub(super) struct Known {
    disk: Disk,
    detail: String,
    since: Uptime,
    /// How many records were thinned out or shed.
    gone: u64,
}

impl Known {
    pub(super) const fn at_start(now: Uptime) -> Self {
        Self {
            disk: Disk::Fine,
            detail: String::new(),
            since: now,
            gone: 0,
        }
    }
}

impl EventLoop {
    pub(super) fn handle_health(&mut self, now: Stamp) {
        let health = self.health.borrow_and_update().clone();
        let was = self.known.disk;
        let lasted = now.uptime.since(self.known.since);
        if was != health.disk {
            self.known.since = now.uptime;
            self.note_change(was, health.disk, &health.detail, lasted.as_secs());
        }
        self.known.disk = health.disk;
        self.known.detail.clone_from(&health.detail);
        let gone = health.thinned + health.shed;
        if was != health.disk || gone != self.known.gone {
            self.known.gone = gone;
            self.look_for_gaps();
        }
        // A spool that had to be made anew may have leapt ahead, or begun a new epoch.
        if was != health.disk || health.epoch != self.epoch {
            self.look_at_spool();
        }
        self.board.set_health(&health);
        let state = DiskState {
            disk: health.disk,
            since: self.known.since,
            detail: health.detail,
            oldest: health.oldest,
        };
        self.link.handle_disk(state, now.uptime);
    }

    fn note_change(&mut self, was: Disk, is: Disk, detail: &str, seconds: u64) {
        match is {
            Disk::Failing => {
                error!(
                    detail,
                    "the spool takes nothing; robot and programs keep what they say"
                );
                self.notifier
                    .status("the spool takes nothing; the live status goes on");
            }
            Disk::Short => warn!(detail, "the spool makes room by thinning and shedding"),
            Disk::Fine => info!("the spool takes everything"),
        }
        if was == Disk::Failing {
            let text = format!(
                "the spool took nothing for {seconds} s: {}",
                self.known.detail
            );
            self.keep_alarm(SPOOL_FAILED, Severity::Critical, text);
        }
        if is == Disk::Short {
            self.keep_alarm(SPOOL_SHORT, Severity::Warning, detail.to_owned());
        }
    }

    fn keep_alarm(&mut self, code: &str, severity: Severity, text: String) {
        let alarm = Alarm {
            code: code.to_owned(),
            severity,
            text,
        };
        self.append(None, Event::Alarm(alarm), Accept::default());
    }

    /// Asks which holes wait in the spool.
    pub(super) fn look_for_gaps(&self) {
        let spool = self.spool.clone();
        self.push(async move { Done::Gaps(spool.gaps(GAPS_SHOWN).await) });
    }

    pub(super) fn handle_gaps(&self, gaps: spool::Result<Vec<Gap>>) {
        match gaps {
            Ok(gaps) => self.board.set_gaps(&gaps),
            Err(error) => self.refused(&error),
        }
    }

    /// Asks where the spool stands.
    pub(super) fn look_at_spool(&self) {
        let spool = self.spool.clone();
        self.push(async move { Done::Looked(Box::new(spool.state().await)) });
    }

    pub(super) fn handle_looked(&mut self, state: spool::Result<SpoolState>, now: Stamp) {
        match state {
            Ok(state) if state.epoch == self.epoch => {
                self.board.set_next(state.next);
                self.link.handle_appended(state.next, now.uptime);
            }
            Ok(state) => self.begin_epoch(&state, now),
            // Its next word brings us here again.
            Err(error) => self.refused(&error),
        }
    }

    pub(super) fn begin_epoch(&mut self, state: &SpoolState, now: Stamp) {
        warn!(epoch = %state.epoch, "the spool has begun a new epoch");
        self.epoch = state.epoch;
        self.board.set_epoch(state.epoch, state.first, state.next);
        self.uplink.epoch.send_replace(state.epoch);
        self.link.handle_renewed(view(state), now);
    }

    /// Records are durable.
    pub(super) fn appended(&mut self, appended: &Appended, now: Uptime) {
        if appended.epoch == self.epoch {
            self.board.set_next(appended.next);
            self.link.handle_appended(appended.next, now);
        } else {
            self.look_at_spool();
        }
    }
}
