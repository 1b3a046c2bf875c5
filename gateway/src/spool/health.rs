//! How the spool is, for whoever watches it: told at once when it changes for people, and about once
//! a second where only numbers do.

use std::time::{Duration, Instant};

use brrbrr_proto::id::{Epoch, Seq};
use brrbrr_proto::time::Stamp;
use brrbrr_proto::up::{Disk, Loss};
use tokio::sync::watch;

/// How often changed numbers are told at most.
const TELL: Duration = Duration::from_secs(1);

/// How the spool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The incarnation of the stream.
    pub epoch: Epoch,
    /// How the storage is.
    pub disk: Disk,
    /// A sentence for people; empty where there is nothing to add.
    pub detail: String,
    /// What the spool takes on the disk, in bytes: pages that hold something, and the log.
    pub bytes: u64,
    /// What it may take.
    pub budget: u64,
    /// Samples of telemetry that were merged into others since the spool was opened.
    pub thinned: u64,
    /// Records that were shed since the spool was opened, each sample counted.
    pub shed: u64,
    /// Writes that were refused since the spool was opened.
    pub refused: u64,
    /// When the oldest record that waits was made.
    pub oldest: Option<Stamp>,
}

/// A row that stands for records that are gone or merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The first position that it stands for.
    pub first: Seq,
    /// How many positions it stands for.
    pub covers: u64,
    /// How many records; zero where nobody can know.
    pub count: u64,
    /// Why.
    pub reason: Loss,
    /// When the oldest of them was made, where known.
    pub since: Option<Stamp>,
    /// When the newest of them was made, where known.
    pub until: Option<Stamp>,
}

/// Tells how the spool is.
#[derive(Debug)]
pub(super) struct Telling {
    sender: watch::Sender<Health>,
    told: Instant,
    /// Something may have changed since.
    is_due: bool,
}

impl Telling {
    pub(super) fn new(health: Health, now: Instant) -> (Self, watch::Receiver<Health>) {
        let (sender, receiver) = watch::channel(health);
        let telling = Self {
            sender,
            told: now,
            is_due: false,
        };
        (telling, receiver)
    }

    /// Something was done, so numbers may have changed.
    pub(super) const fn touch(&mut self) {
        self.is_due = true;
    }

    /// When to tell, if nothing else happens.
    pub(super) fn due(&self) -> Option<Instant> {
        self.is_due.then(|| self.told + TELL)
    }

    /// Whether numbers are to be told, or these words differ from those told last.
    pub(super) fn wants(&self, now: Instant, epoch: Epoch, disk: Disk, detail: &str) -> bool {
        let told = self.sender.borrow();
        let is_news = (told.epoch, told.disk, told.detail.as_str()) != (epoch, disk, detail);
        is_news || self.due().is_some_and(|due| due <= now)
    }

    /// Tells that the storage fails, while nothing else can be found out.
    pub(super) fn tell_failing(&mut self, detail: String, now: Instant) {
        self.told = now;
        self.is_due = true;
        self.sender.send_if_modified(|told| {
            let is_news = (told.disk, told.detail.as_str()) != (Disk::Failing, detail.as_str());
            told.disk = Disk::Failing;
            told.detail = detail;
            is_news
        });
    }

    pub(super) fn tell(&mut self, health: Health, now: Instant) {
        self.told = now;
        self.is_due = false;
        self.sender.send_if_modified(|told| {
            let has_changed = *told != health;
            *told = health;
            has_changed
        });
    }
}
