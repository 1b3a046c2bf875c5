//! What the relay counts, as text for Prometheus. Labels come from fixed sets, so that no caller can
//! make the page grow.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::broker::{BrokerHandle, End, Refusal};
use crate::session::metrics::LinkMetrics;

/// A route and how it answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    route: &'static str,
    status: u16,
}

/// What kind of order was entered into the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ordered {
    actor: &'static str,
}

/// Everything that is counted.
#[derive(Debug)]
pub struct Metrics {
    /// Counters of the link.
    pub link: Arc<LinkMetrics>,
    /// Socket.IO sockets that are connected.
    pub faces: Gauge,
    /// Events that a face was too slow to take.
    pub face_events_dropped: Counter,
    /// Wrong auth codes.
    pub wrong_codes: Counter,
    /// Requests that were told to wait before they guess again.
    pub guesses_refused: Counter,
    /// Open TCP connections to the HTTP listener.
    pub connections: Gauge,
    /// Callers that wait for a command's end.
    pub waiters: Gauge,
    requests: Family<Answered, Counter>,
    durations: Histogram,
    orders: Family<Ordered, Counter>,
    registry: Registry,
}

impl Metrics {
    /// Counters at zero. What the broker counts is read from it when the page is.
    #[must_use]
    pub fn new(broker: BrokerHandle) -> Self {
        let mut registry = Registry::default();
        let link = Arc::new(LinkMetrics::new(&mut registry));
        registry.register_collector(Box::new(BrokerCounters(broker)));
        let metrics = Self {
            link,
            faces: Gauge::default(),
            face_events_dropped: Counter::default(),
            wrong_codes: Counter::default(),
            guesses_refused: Counter::default(),
            connections: Gauge::default(),
            waiters: Gauge::default(),
            requests: Family::default(),
            // From half a millisecond to the time limit of a request.
            durations: Histogram::new(exponential_buckets(0.0005, 2.0, 15)),
            orders: Family::default(),
            registry: Registry::default(),
        };
        registry.register(
            "brrbrr_http_requests",
            "Requests by route and status",
            metrics.requests.clone(),
        );
        registry.register(
            "brrbrr_http_request_duration_seconds",
            "From the end of a request's head to its answer",
            metrics.durations.clone(),
        );
        registry.register(
            "brrbrr_http_connections",
            "Open connections",
            metrics.connections.clone(),
        );
        registry.register(
            "brrbrr_command_waiters",
            "Callers that wait for a command's end",
            metrics.waiters.clone(),
        );
        registry.register(
            "brrbrr_orders",
            "Orders accepted into the ledger, by who asked",
            metrics.orders.clone(),
        );
        registry.register("brrbrr_faces", "Faces connected", metrics.faces.clone());
        for (name, help, counter) in [
            (
                "face_events_dropped",
                "Events that a face was too slow to take",
                &metrics.face_events_dropped,
            ),
            ("wrong_codes", "Wrong auth codes", &metrics.wrong_codes),
            (
                "guesses_refused",
                "Requests refused for too many wrong auth codes",
                &metrics.guesses_refused,
            ),
        ] {
            registry.register(format!("brrbrr_{name}"), help, counter.clone());
        }
        Self {
            registry,
            ..metrics
        }
    }

    /// Counts an answer.
    pub fn answered(&self, route: &'static str, status: u16, took: Duration) {
        self.requests
            .get_or_create(&Answered { route, status })
            .inc();
        self.durations.observe(took.as_secs_f64());
    }

    /// Counts an order in the ledger.
    pub fn ordered(&self, actor: &'static str) {
        self.orders.get_or_create(&Ordered { actor }).inc();
    }

    /// The page.
    ///
    /// # Errors
    /// Only where a counter cannot be written as text.
    pub fn page(&self) -> Result<String, std::fmt::Error> {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

/// Shows what the broker counts by itself.
#[derive(Debug)]
struct BrokerCounters(BrokerHandle);

impl Collector for BrokerCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counters = self.0.counters();
        let robots = i64::try_from(self.0.connections()).unwrap_or(i64::MAX);
        let gauge = ConstGauge::new(robots);
        let help = "Robots connected to the MQTT broker";
        gauge.encode(encoder.encode_descriptor(
            "brrbrr_mqtt_connections",
            help,
            None,
            gauge.metric_type(),
        )?)?;
        for (name, help, count) in [
            ("accepted", "TCP connections taken", counters.accepted),
            ("connected", "Robots connected so far", counters.connected),
            (
                "accept_errors",
                "Times no connection could be taken",
                counters.accept_errors,
            ),
            ("frames_in", "Frames from robots", counters.frames_in),
            ("frames_out", "Frames to robots", counters.frames_out),
            (
                "frames_lost",
                "Frames for robots that had gone",
                counters.frames_lost,
            ),
            (
                "stray_publishes",
                "Publishes to another relay",
                counters.stray_publishes,
            ),
            (
                "denied_publishes",
                "Publishes to topics of others",
                counters.denied_publishes,
            ),
            (
                "denied_subscriptions",
                "Subscriptions to topics of others",
                counters.denied_subscriptions,
            ),
        ] {
            let counter = ConstCounter::new(count);
            let name = format!("brrbrr_mqtt_{name}");
            counter.encode(encoder.encode_descriptor(
                &name,
                help,
                None,
                counter.metric_type(),
            )?)?;
        }
        let refused = Refusal::ALL.map(|why| (why.label(), counters.refused(why)));
        by_reason(
            &mut encoder,
            "brrbrr_mqtt_refused",
            "Newcomers turned away",
            &refused,
        )?;
        let ended = End::ALL.map(|why| (why.label(), counters.ended(why)));
        by_reason(
            &mut encoder,
            "brrbrr_mqtt_ended",
            "Connections that ended",
            &ended,
        )
    }
}

fn by_reason(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    counts: &[(&'static str, u64)],
) -> Result<(), std::fmt::Error> {
    let kind = ConstCounter::new(0_u64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (reason, count) in counts {
        let labels = [("reason", *reason)];
        ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
