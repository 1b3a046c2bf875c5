//! The relay's `/metrics` page, as a collector reads it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::http::{Client, Request};

/// A page of samples in the text form of Prometheus.
#[derive(Debug, Clone)]
pub struct Page(String);

impl Page {
    /// Reads the page of a relay that is there.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn read(relay: Client) -> Self {
        let answer = relay.send(&Request::get("/metrics"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        Self(answer.text())
    }

    /// A counter or gauge, all its labels together; `None` where there is no such sample.
    #[must_use]
    pub fn sum(&self, name: &str) -> Option<f64> {
        let mut values = self.samples(name).map(|(_, value)| value).peekable();
        values.peek()?;
        Some(values.sum())
    }

    /// A histogram, all its labels together; an empty one where there is none.
    #[must_use]
    pub fn histogram(&self, name: &str) -> Histogram {
        let mut histogram = Histogram::default();
        for (labels, count) in self.samples(&format!("{name}_bucket")) {
            let bound = labels
                .split("le=\"")
                .nth(1)
                .and_then(|rest| rest.split('"').next());
            let bound = match bound.expect("a bucket has a bound") {
                "+Inf" => u64::MAX,
                seconds => micros(seconds.parse().expect("a bound in seconds")),
            };
            *histogram.0.entry(bound).or_default() += count;
        }
        histogram
    }

    fn samples<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
        self.0.lines().filter_map(move |line| {
            let (sample, value) = line.rsplit_once(' ')?;
            let labels = sample.strip_prefix(name)?;
            let is_it = labels.is_empty() || labels.starts_with('{');
            is_it
                .then(|| value.parse().ok())
                .flatten()
                .map(|value| (labels, value))
        })
    }
}

/// How many samples were at most so large, by upper bound in microseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram(BTreeMap<u64, f64>);

impl Histogram {
    /// What came after an earlier reading.
    #[must_use]
    pub fn minus(&self, earlier: &Self) -> Self {
        self.with(earlier, |own, other| own - other)
    }

    /// Two of them together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        if self.0.is_empty() {
            return other.clone();
        }
        self.with(other, |own, other| own + other)
    }

    fn with(&self, other: &Self, of: impl Fn(f64, f64) -> f64) -> Self {
        let count = |bound| other.0.get(bound).copied().unwrap_or_default();
        let counts = self.0.iter();
        Self(
            counts
                .map(|(bound, own)| (*bound, of(*own, count(bound))))
                .collect(),
        )
    }

    /// How many samples.
    #[must_use]
    pub fn count(&self) -> f64 {
        self.0.get(&u64::MAX).copied().unwrap_or_default()
    }

    /// The bound of the bucket that holds the sample which so many percent do not exceed. `None` for
    /// the last bucket, which has no bound, and where there are no samples.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        let due = self.count() * percent / 100.0;
        let found = self
            .0
            .iter()
            .find(|(_, count)| **count >= due && **count > 0.0);
        found
            .map(|(bound, _)| *bound)
            .filter(|bound| *bound < u64::MAX)
            .map(Duration::from_micros)
    }

    /// Half, nearly all and all, in milliseconds.
    #[must_use]
    pub fn summary(&self) -> String {
        if self.count() < 1.0 {
            return "not known".to_owned();
        }
        let [p50, p99, max] = [50.0, 99.0, 100.0].map(|percent| {
            self.percentile(percent).map_or_else(
                || "more than the last bound".to_owned(),
                |bound| format!("<= {}", bound.as_millis()),
            )
        });
        format!("p50 {p50} p99 {p99} max {max} ms of {}", self.count())
    }
}

fn micros(seconds: f64) -> u64 {
    u64::try_from(Duration::from_secs_f64(seconds).as_micros()).expect("a bound in reach")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# TYPE age histogram\nage_sum 1.5\nage_count 4\n\
        age_bucket{le=\"0.01\"} 2\nage_bucket{le=\"0.1\"} 3\nage_bucket{le=\"+Inf\"} 4\n\
        age_bucket{le=\"0.01\",robot=\"2\"} 1\nage_bucket{le=\"0.1\",robot=\"2\"} 1\n\
        age_bucket{le=\"+Inf\",robot=\"2\"} 1\nother_total{a=\"b\"} 2\nother_total 3\n";

    #[test]
    fn a_histogram_is_read_with_all_its_labels() {
        let ages = Page(PAGE.to_owned()).histogram("age");
        assert!((ages.count() - 5.0).abs() < f64::EPSILON);
        assert_eq!(ages.percentile(50.0), Some(Duration::from_millis(10)));
        assert_eq!(ages.percentile(75.0), Some(Duration::from_millis(100)));
        assert_eq!(ages.percentile(99.0), None, "in the bucket without a bound");
        assert!(ages.minus(&ages).percentile(50.0).is_none());
    }

    #[test]
    fn samples_of_one_name_are_added_up_and_other_names_are_not() {
        let page = Page(PAGE.to_owned());
        assert_eq!(page.sum("other_total"), Some(5.0));
        assert_eq!(page.sum("other"), None);
    }
}
