//! How old live statuses were when they reached the relay: read from its metrics, over all its lives.

use std::collections::BTreeMap;
use std::time::Duration;

/// The relay's histogram.
const BUCKET: &str = "brrbrr_live_age_seconds_bucket{";

/// Statuses by age: how many were at most this old. The age without a bound is `Duration::MAX`.
type Buckets = BTreeMap<Duration, u64>;

/// Ages over all lives of a relay, whose counts begin at zero again after a kill.
#[derive(Debug, Default)]
pub struct Ages {
    before: Buckets,
    now: Buckets,
}

impl Ages {
    /// Takes the newest text of `/metrics`.
    pub fn take(&mut self, metrics: &str) {
        let mut now = Buckets::new();
        for line in metrics.lines() {
            if let Some((age, count)) = bucket(line) {
                *now.entry(age).or_default() += count;
            }
        }
        if !now.is_empty() {
            self.now = now;
        }
    }

    /// The relay has been killed.
    pub fn end_life(&mut self) {
        for (age, count) in std::mem::take(&mut self.now) {
            *self.before.entry(age).or_default() += count;
        }
    }

    /// The age that this share of the statuses did not exceed, as the histogram's next bound;
    /// `Duration::MAX` where it has none. `None` without any status.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = |age: &Duration| {
            let of = |buckets: &Buckets| buckets.get(age).copied().unwrap_or(0);
            of(&self.before) + of(&self.now)
        };
        let ages: Vec<&Duration> = self.before.keys().chain(self.now.keys()).collect();
        let total = count(ages.iter().max()?);
        if total == 0 {
            return None;
        }
        let wanted = super::number(total) * share.clamp(0.0, 1.0);
        let reaches = |age: &&&Duration| {
            let count = count(age);
            count > 0 && super::number(count) >= wanted
        };
        ages.iter().filter(reaches).min().map(|age| **age)
    }
}

/// A line such as `brrbrr_live_age_seconds_bucket{le="0.25"} 17`.
fn bucket(line: &str) -> Option<(Duration, u64)> {
    let (labels, count) = line.strip_prefix(BUCKET)?.rsplit_once('}')?;
    let bound = labels
        .split(',')
        .find_map(|label| label.strip_prefix("le="))?;
    let age = match bound.trim_matches('"') {
        "+Inf" => Duration::MAX,
        seconds => Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?,
    };
    Some((age, count.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(counts: [u64; 3]) -> String {
        let [quick, slow, all] = counts;
        format!(
            "# TYPE brrbrr_live_age_seconds histogram\n\
             brrbrr_live_age_seconds_bucket{{le=\"0.1\"}} {quick}\n\
             brrbrr_live_age_seconds_bucket{{le=\"1\"}} {slow}\n\
             brrbrr_live_age_seconds_bucket{{le=\"+Inf\"}} {all}\n\
             brrbrr_live_age_seconds_count {all}\n"
        )
    }

    #[test]
    fn quantiles_are_the_bounds_of_the_buckets_over_all_lives() {
        let (tenth, second) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut ages = Ages::default();
        assert_eq!(ages.quantile(0.5), None);
        ages.take(&metrics([50, 50, 50]));
        assert_eq!(ages.quantile(1.0), Some(tenth));
        ages.end_life();
        ages.take("");
        ages.take(&metrics([30, 49, 49]));
        assert_eq!(ages.quantile(0.5), Some(tenth));
        assert_eq!(ages.quantile(0.99), Some(second));
        assert_eq!(ages.quantile(1.0), Some(second));
        ages.take(&metrics([30, 49, 50]));
        assert_eq!(ages.quantile(1.0), Some(Duration::MAX));
    }
}
