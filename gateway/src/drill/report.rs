//! What a drill tells in the end: a table for people, JSON for programs.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::ages::Ages;
use super::judge::Findings;
use super::number;
use super::program::Usage;

/// What was measured.
#[derive(Debug)]
pub struct Measured {
    /// The profile's name.
    pub profile: String,
    /// How many robots.
    pub robots: usize,
    /// Hours of robot life.
    pub hours: f64,
    /// The seed.
    pub seed: u64,
    /// How long the load took, and how long what was left took to arrive then.
    pub took: (Duration, Duration),
    /// How often gateways and the relay were killed.
    pub kills: (u64, u64),
    /// Bytes from the robots and to them.
    pub air: (u64, u64),
    /// What the gateways used; the largest of their peaks.
    pub gateways: Usage,
    /// What the relay used.
    pub relay: Usage,
}

/// The whole report. The field names are those of `--json`.
#[derive(Debug, Serialize)]
pub struct Report {
    profile: String,
    robots: usize,
    hours: f64,
    seed: u64,
    load_seconds: f64,
    drain_seconds: f64,
    kills_of_gateways: u64,
    kills_of_relay: u64,
    records_in: u64,
    records_out: u64,
    other_records: u64,
    lost: u64,
    lost_with_reason: u64,
    doubled: u64,
    reordered: u64,
    altered: u64,
    gaps: std::collections::BTreeMap<String, u64>,
    baseless_gaps: u64,
    holes: u64,
    live_age: Option<LiveAge>,
    air_bytes_up: u64,
    air_bytes_down: u64,
    air_bytes_per_record: f64,
    flash_bytes: u64,
    flash_bytes_per_record: f64,
    peak_memory_gateway: u64,
    peak_memory_relay: u64,
    passed: bool,
}

/// How old live statuses were, in seconds; the next bound of the relay's histogram, or nothing
/// where it was beyond the last one.
#[derive(Debug, Serialize)]
struct LiveAge {
    p50: Option<f64>,
    p99: Option<f64>,
    max: Option<f64>,
}

impl Report {
    /// Puts everything together.
    #[must_use]
    pub fn new(measured: Measured, findings: Findings, ages: &Ages) -> Self {
        let passed = findings.is_clean();
        let records = number(findings.arrived.max(1));
        let bounded = |age: Duration| Some(age.as_secs_f64()).filter(|_| age < Duration::MAX);
        let live_age = ages.quantile(0.5).map(|p50| LiveAge {
            p50: bounded(p50),
            p99: ages.quantile(0.99).and_then(bounded),
            max: ages.quantile(1.0).and_then(bounded),
        });
        let (up, down) = measured.air;
        Self {
            profile: measured.profile,
            robots: measured.robots,
            hours: measured.hours,
            seed: measured.seed,
            load_seconds: measured.took.0.as_secs_f64(),
            drain_seconds: measured.took.1.as_secs_f64(),
            kills_of_gateways: measured.kills.0,
            kills_of_relay: measured.kills.1,
            records_in: findings.acknowledged,
            records_out: findings.arrived,
            other_records: findings.others,
            lost: findings.lost,
            lost_with_reason: findings.excused,
            doubled: findings.doubled,
            reordered: findings.reordered,
            altered: findings.altered,
            gaps: findings.gaps,
            baseless_gaps: findings.baseless,
            holes: findings.holes,
            live_age,
            air_bytes_up: up,
            air_bytes_down: down,
            air_bytes_per_record: number(up + down) / records,
            flash_bytes: measured.gateways.written,
            flash_bytes_per_record: number(measured.gateways.written) / records,
            peak_memory_gateway: measured.gateways.peak,
            peak_memory_relay: measured.relay.peak,
            passed,
        }
    }

    /// What is wrong, or `None`.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        let counts = [
            (self.lost, "lost"),
            (self.doubled, "doubled"),
            (self.reordered, "reordered"),
            (self.altered, "altered"),
            (self.baseless_gaps, "gaps that nothing in a drill explains"),
            (self.holes, "positions without a reason"),
        ];
        let wrong = counts.iter().filter(|(count, _)| *count > 0);
        let wrong: Vec<_> = wrong
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        (!self.passed).then(|| wrong.join(", "))
    }

    fn told_gaps(&self) -> String {
        let gaps = self.gaps.iter();
        let gaps: Vec<_> = gaps.map(|(why, count)| format!("{count} {why}")).collect();
        if gaps.is_empty() {
            return "none".to_owned();
        }
        let (gaps, excused) = (gaps.join(", "), self.lost_with_reason);
        format!("{gaps}; {excused} acknowledged records are in them")
    }

    /// A table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let age = |age: Option<f64>| {
            age.map_or("beyond the last bound".to_owned(), |age| format!("{age} s"))
        };
        let ages = match &self.live_age {
            Some(LiveAge { p50, p99, max }) => {
                let (p50, p99, max) = (age(*p50), age(*p99), age(*max));
                format!("at most {p50} (p50), {p99} (p99), {max} (max)")
            }
            None => "not told by this relay".to_owned(),
        };
        let rows = [
            (
                "records in",
                format!("{} acknowledged to their producers", self.records_in),
            ),
            (
                "records out",
                format!(
                    "{} in the relay's journal, and {} of the robots' own",
                    self.records_out, self.other_records
                ),
            ),
            ("lost", self.lost.to_string()),
            ("doubled", self.doubled.to_string()),
            ("reordered", self.reordered.to_string()),
            ("altered", self.altered.to_string()),
            ("gaps", self.told_gaps()),
            (
                "holes",
                format!("{} positions without a reason", self.holes),
            ),
            ("live status age", ages),
            (
                "over the air",
                format!(
                    "{} up, {} down, {:.0} bytes a record",
                    size(self.air_bytes_up),
                    size(self.air_bytes_down),
                    self.air_bytes_per_record
                ),
            ),
            (
                "to flash",
                format!(
                    "{}, {:.0} bytes a record",
                    size(self.flash_bytes),
                    self.flash_bytes_per_record
                ),
            ),
            (
                "peak memory",
                format!(
                    "gateway {}, relay {}",
                    size(self.peak_memory_gateway),
                    size(self.peak_memory_relay)
                ),
            ),
        ];
        let mut text = format!(
            "drill {}: {} robots, {} h, seed {}; {:.1} s of load, {:.1} s until the last record was \
             there; {} kills of gateways, {} of the relay\n",
            self.profile,
            self.robots,
            self.hours,
            self.seed,
            self.load_seconds,
            self.drain_seconds,
            self.kills_of_gateways,
            self.kills_of_relay
        );
        for (what, value) in rows {
            // Writing to a string cannot fail.
            writeln!(text, "  {what:<16} {value}").ok();
        }
        match self.complaint() {
            None => text + "  verdict          PASSED\n",
            Some(complaint) => text + &format!("  verdict          FAILED: {complaint}\n"),
        }
    }
}

fn size(bytes: u64) -> String {
    match number(bytes) {
        small if small < 10_000.0 => format!("{small:.0} bytes"),
        middle if middle < 10_000_000.0 => format!("{:.1} kB", middle / 1e3),
        large => format!("{:.1} MB", large / 1e6),
    }
}
