//! How much the robots ask of this relay, as gauges for `/metrics`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::fleet::Load;

/// See [`Load`] for what each of them says.
#[derive(Debug, Default)]
pub struct LoadGauges {
    sessions: Gauge,
    live: Gauge,
    hellos_waiting: Gauge,
    hellos_peak: Gauge,
    drain_slots: Gauge,
    drain_waiting: Gauge,
    stores_peak: Gauge,
    hellos_sent_away: Counter,
}

impl LoadGauges {
    /// Has the registry show them.
    pub fn register(&self, registry: &mut Registry) {
        for (name, help, gauge) in [
            ("sessions", "Robots with a session", &self.sessions),
            (
                "live_robots",
                "Robots whose status was heard in their session",
                &self.live,
            ),
            (
                "hellos_waiting",
                "Hellos that wait for their turn",
                &self.hellos_waiting,
            ),
            (
                "hellos_in_work_peak",
                "The most hellos in work at a time",
                &self.hellos_peak,
            ),
            (
                "drain_slots_in_use",
                "Robots that drain with the full credit",
                &self.drain_slots,
            ),
            (
                "drain_waiting",
                "Robots with a backlog that wait for the full credit",
                &self.drain_waiting,
            ),
            (
                "stores_in_work_peak",
                "The most robots whose records were being stored at a time",
                &self.stores_peak,
            ),
        ] {
            registry.register(format!("brrbrr_{name}"), help, gauge.clone());
        }
        registry.register(
            "brrbrr_hellos_sent_away",
            "Hellos that were answered with a pause",
            self.hellos_sent_away.clone(),
        );
    }

    /// Shows this load.
    pub fn note(&self, load: &Load) {
        for (gauge, number) in [
            (&self.sessions, load.sessions),
            (&self.live, load.live),
            (&self.hellos_waiting, load.hellos_waiting),
            (&self.hellos_peak, load.hellos_peak),
            (&self.drain_slots, load.drain_slots),
            (&self.drain_waiting, load.drain_waiting),
            (&self.stores_peak, load.stores_peak),
        ] {
            gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
        }
        let more = load
            .hellos_sent_away
            .saturating_sub(self.hellos_sent_away.get());
        self.hellos_sent_away.inc_by(more);
    }
}
