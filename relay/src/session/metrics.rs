//! Counters of the link, for `/metrics`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use brrbrr_proto::id::RobotId;
use brrbrr_proto::up::Disk;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::fleet::Load;
use crate::journal::Hole;
use crate::live::Contact;
use crate::session::load::LoadGauges;

/// Ages of live statuses in seconds, fine enough to tell whether one in a hundred is over a second.
const LIVE_AGES: [f64; 14] = [
    0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 5.0, 10.0,
];

/// Counters of the link.
#[derive(Debug, Default)]
pub struct LinkMetrics {
    /// How much the robots ask of this relay.
    pub load: LoadGauges,
    /// Records stored in the journal.
    pub records: Counter,
    /// Records that robots shed or that were lost, as their tombstones say, by reason.
    records_shed: Family<ReasonLabel, Counter>,
    /// Samples that robots merged to make room.
    records_thinned: Counter,
    /// Holes in streams, by reason.
    gaps: Family<ReasonLabel, Counter>,
    /// How old live statuses were when they came in.
    live_age: LiveAge,
    spools: Arc<Spools>,
    /// Records that were stored but not understood.
    pub undecodable_records: Counter,
    /// Runs of records that were not acknowledged because a store was away.
    pub store_failures: Counter,
    /// Frames that could not be opened or read.
    pub frames_refused: Counter,
    /// Steps that commands took, as robots reported them.
    pub command_steps: Family<StepLabel, Counter>,
    /// Robots, by whether they are in contact.
    robots: Family<ContactLabel, Gauge>,
    /// How often robots came to be so.
    contact_changes: Family<ContactLabel, Counter>,
}

/// Whether a robot is in contact.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ContactLabel {
    contact: &'static str,
}

impl From<Contact> for ContactLabel {
    fn from(contact: Contact) -> Self {
        Self {
            contact: contact.name(),
        }
    }
}

/// Why records are missing.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Which step a command took.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StepLabel {
    /// The state it came into.
    pub state: &'static str,
}

impl LinkMetrics {
    /// Counters that `registry` shows.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        metrics.load.register(registry);
        registry.register(
            "brrbrr_command_steps",
            "Steps that commands took, by the state they came into",
            metrics.command_steps.clone(),
        );
        for (name, help, counter) in [
            ("records", "Records stored in the journal", &metrics.records),
            (
                "records_thinned",
                "Samples that robots merged to make room",
                &metrics.records_thinned,
            ),
            (
                "records_undecodable",
                "Records stored but not understood",
                &metrics.undecodable_records,
            ),
            (
                "store_failures",
                "Runs of records not acknowledged because a store was away",
                &metrics.store_failures,
            ),
            (
                "frames_refused",
                "Frames that could not be opened or read",
                &metrics.frames_refused,
            ),
        ] {
            registry.register(format!("brrbrr_{name}"), help, counter.clone());
        }
        registry.register(
            "brrbrr_robots",
            "Robots, by whether they are in contact with this relay",
            metrics.robots.clone(),
        );
        registry.register(
            "brrbrr_contact_changes",
            "How often robots came into contact, lost it or had their own side come or go",
            metrics.contact_changes.clone(),
        );
        registry.register(
            "brrbrr_records_shed",
            "Records that are missing, as tombstones say, where their number is known",
            metrics.records_shed.clone(),
        );
        registry.register(
            "brrbrr_gaps",
            "Holes in the streams of records, thinned samples among them",
            metrics.gaps.clone(),
        );
        registry.register(
            "brrbrr_live_age_seconds",
            "How old live statuses were when they came in",
            metrics.live_age.0.clone(),
        );
        registry.register_collector(Box::new(SpoolCounters(Arc::clone(&metrics.spools))));
        metrics
    }

    /// Counts records that are not there.
    pub fn count_hole(&self, hole: &Hole) {
        let reason = ReasonLabel {
            reason: hole.reason(),
        };
        self.gaps.get_or_create(&reason).inc();
        if hole.kept {
            self.records_thinned.inc_by(hole.count);
        } else {
            self.records_shed.get_or_create(&reason).inc_by(hole.count);
        }
    }

    /// Counts a change of contact.
    pub fn count_contact(&self, contact: Contact) {
        self.contact_changes.get_or_create(&contact.into()).inc();
    }

    /// Notes how many robots are in contact, of this many there are.
    pub fn note_contacts(&self, load: &Load, robots: usize) {
        let Load {
            online, degraded, ..
        } = *load;
        let offline = robots.saturating_sub(online).saturating_sub(degraded);
        for (contact, count) in [
            (Contact::Online, online),
            (Contact::Degraded, degraded),
            (Contact::Offline, offline),
        ] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.robots.get_or_create(&contact.into()).set(count);
        }
    }

    /// Notes how old a live status was when it came in.
    pub fn hear_live(&self, age: Duration) {
        self.live_age.0.observe(age.as_secs_f64());
    }

    /// Notes how a robot's spool is and how many records wait in it.
    pub fn hear_spool(&self, robot: RobotId, disk: Disk, waiting: u64) {
        self.spools.lock().insert(robot, (disk, waiting));
    }

    /// Forgets a robot's spool.
    pub fn forget_spool(&self, robot: RobotId) {
        self.spools.lock().remove(&robot);
    }
}

/// A histogram with bounds for telling 10 ms from 10 s.
#[derive(Debug)]
struct LiveAge(Histogram);

impl Default for LiveAge {
    fn default() -> Self {
        Self(Histogram::new(LIVE_AGES))
    }
}

/// How each robot's spool was when it last said so, and how many records waited in it.
#[derive(Debug, Default)]
struct Spools(Mutex<BTreeMap<RobotId, (Disk, u64)>>);

impl Spools {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<RobotId, (Disk, u64)>> {
        // Nothing panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds the spools up when the page is read.
#[derive(Debug)]
struct SpoolCounters(Arc<Spools>);

impl Collector for SpoolCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (mut short, mut failing, mut waiting) = (0_i64, 0_i64, 0_u64);
        for (disk, waits) in self.0.lock().values() {
            match disk {
                Disk::Fine => {}
                Disk::Short => short += 1,
                Disk::Failing => failing += 1,
            }
            waiting = waiting.saturating_add(*waits);
        }
        let kind = ConstGauge::new(0_i64).metric_type();
        let help = "Robots whose disk is short of room or takes nothing";
        let mut robots = encoder.encode_descriptor("brrbrr_robots_disk", help, None, kind)?;
        for (state, count) in [("short", short), ("failing", failing)] {
            let labels = [("state", state)];
            ConstGauge::new(count).encode(robots.encode_family(&labels)?)?;
        }
        let waiting = ConstGauge::new(i64::try_from(waiting).unwrap_or(i64::MAX));
        let help = "Records that wait on robots, as they last said";
        let kind = waiting.metric_type();
        waiting.encode(encoder.encode_descriptor("brrbrr_records_waiting", help, None, kind)?)
    }
}
