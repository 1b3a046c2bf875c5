//! Counters of the link, for `/metrics`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters of the link.
#[derive(Debug, Default)]
pub struct LinkMetrics {
    /// Robots with a session.
    pub sessions: Gauge,
    /// Records stored in the journal.
    pub records: Counter,
    /// Records that robots shed or that were lost, as their tombstones say.
    pub records_shed: Counter,
    /// Records that were stored but not understood.
    pub undecodable_records: Counter,
    /// Runs of records that were not acknowledged because a store was away.
    pub store_failures: Counter,
    /// Frames that could not be opened or read.
    pub frames_refused: Counter,
    /// Steps that commands took, as robots reported them.
    pub command_steps: Family<StepLabel, Counter>,
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
        registry.register(
            "brrbrr_command_steps",
            "Steps that commands took, by the state they came into",
            metrics.command_steps.clone(),
        );
        registry.register(
            "brrbrr_sessions",
            "Robots with a session",
            metrics.sessions.clone(),
        );
        for (name, help, counter) in [
            ("records", "Records stored in the journal", &metrics.records),
            (
                "records_shed",
                "Records that are missing, as tombstones say",
                &metrics.records_shed,
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
        metrics
    }
}
