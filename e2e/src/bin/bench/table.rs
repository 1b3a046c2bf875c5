//! The result, as text.

use std::io::Write;
use std::time::Duration;

/// Collects lines until everything is measured.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<[String; 3]>,
    notes: Vec<String>,
}

impl Table {
    /// What was measured, what it is, and what it should be or was elsewhere.
    pub fn row(&mut self, what: &str, measured: &str, reference: &str) {
        let row = [what, measured, reference].map(str::to_owned);
        self.rows.push(row);
    }

    /// A sentence below the table.
    pub fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    /// Prints everything.
    pub fn print(&self) {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or_default()
        };
        let (first, second) = (width(0), width(1));
        let mut text = String::new();
        for [what, measured, reference] in &self.rows {
            text.push_str(&format!(
                "{what:first$}  {measured:>second$}  {reference}\n"
            ));
        }
        for note in &self.notes {
            text.push_str(&format!("note: {note}\n"));
        }
        std::io::stdout().write_all(text.as_bytes()).unwrap();
    }
}

/// Sorted samples.
#[derive(Debug)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Sorts them.
    pub fn new(mut samples: Vec<Duration>) -> Self {
        assert!(!samples.is_empty(), "nothing was measured");
        samples.sort_unstable();
        Self(samples)
    }

    /// The smallest that so many percent of the samples do not exceed.
    pub fn percentile(&self, percent: usize) -> Duration {
        let index = (self.0.len() * percent).div_ceil(100).max(1) - 1;
        self.0[index]
    }

    /// Half and nearly all, in milliseconds.
    pub fn summary(&self) -> String {
        let [p50, p99] = [50, 99].map(|percent| milliseconds(self.percentile(percent)));
        format!("p50 {p50} p99 {p99} ms")
    }
}

/// With two decimals.
pub fn milliseconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1_000.0)
}

/// The middle one of some measurements.
pub fn median(mut of: Vec<f64>) -> f64 {
    of.sort_unstable_by(f64::total_cmp);
    of[of.len() / 2]
}
