//! What the event loop tells of the robot's status: all of it to the live lane, and changes to the
//! durable lane.

use std::time::Duration;

use brrbrr_proto::live::{Activity, PerField, RobotSide, Status};
use brrbrr_proto::time::Uptime;
use brrbrr_proto::up::Event;

use super::{Done, EventLoop};
use crate::robot::Accept;
use crate::spool::{self, Appended};

/// How long to wait before a change of status that could not be stored is stored again.
const TELL_AGAIN: Duration = Duration::from_secs(2);
/// What the durable lane has been told of the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    activity: Option<Activity>,
    robot_side: Option<RobotSide>,
    floor: Option<i32>,
}

impl Told {
    pub(super) const fn of(status: &Status) -> Self {
        Self {
            activity: status.activity,
            robot_side: status.robot_side,
            floor: status.floor,
        }
    }
}

impl EventLoop {
    pub(super) fn set_robot_side(&mut self, side: RobotSide) {
        let change = Status {
            robot_side: Some(side),
            ..Status::default()
        };
        self.absorb(&change, Accept::default());
    }

    /// Shows the newest status, and records it where it tells a change and not only a sample.
    pub(super) fn absorb(&mut self, newer: &Status, accept: Accept) {
        self.status.absorb(newer);
        let now = self.clock.stamp();
        self.said.absorb(&PerField::of(newer, now.uptime));
        self.link
            .handle_status(self.status.clone(), self.said, now.uptime);
        if let Some(sampler) = &mut self.sampler {
            sampler.handle_status(&self.status, now);
        }
        self.show_status(now.uptime);
        self.keep_status();
        if Told::of(&self.status) == self.told {
            accept.accept();
        } else {
            self.tell_change(accept);
        }
    }

    pub(super) fn show_status(&self, now: Uptime) {
        let ages = self.said.map(|said| now.since(said));
        self.board.set_status(&self.status, ages);
    }

    /// Records that the status has changed. It counts as told once that is durable, so a message that
    /// is delivered again because the disk was full is a change again.
    fn tell_change(&mut self, accept: Accept) {
        let (spool, status) = (self.spool.clone(), self.status.clone());
        let told = Told::of(&status);
        let record = self.record(Event::Changed(status));
        self.writing += 1;
        self.push(async move { Done::Told(told, accept, spool.append(vec![record]).await) });
    }

    /// Has the newest status kept for the next start; one write at a time, however many statuses.
    fn keep_status(&mut self) {
        if self.keeping {
            self.keep_again = true;
            return;
        }
        self.keeping = true;
        let (spool, status) = (self.spool.clone(), self.status.clone());
        self.push(async move { Done::Kept(spool.set_status(status).await) });
    }

    pub(super) fn handle_told(
        &mut self,
        told: Told,
        accept: Accept,
        written: spool::Result<Appended>,
        now: Uptime,
    ) {
        self.writing -= 1;
        match written {
            Ok(appended) => {
                self.told = told;
                accept.accept();
                self.appended(&appended, now);
                // It may have changed again meanwhile, even back to what was told before.
                self.handle_tell_again();
            }
            Err(error) => {
                self.refused(&error);
                // What the adapter itself noticed is nobody's message, so nobody delivers it again.
                self.push(async {
                    tokio::time::sleep(TELL_AGAIN).await;
                    Done::TellAgain
                });
            }
        }
    }

    pub(super) fn handle_kept(&mut self, outcome: spool::Result<()>) {
        self.keeping = false;
        if let Err(error) = outcome {
            self.refused(&error);
        } else if std::mem::take(&mut self.keep_again) {
            self.keep_status();
        }
    }

    pub(super) fn handle_tell_again(&mut self) {
        if Told::of(&self.status) != self.told {
            self.tell_change(Accept::default());
        }
    }
}
