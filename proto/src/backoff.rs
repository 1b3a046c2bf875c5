//! Waiting longer after each failure, by a random share so that many robots never come back at once.

use std::time::Duration;

/// Exponential backoff with full jitter: the n-th wait is drawn evenly from a range that starts at
/// half its ceiling, and the ceiling doubles up to a limit.
#[derive(Debug, Clone)]
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
    failures: u32,
    random: SplitMix,
}

impl Backoff {
    /// Waits between `shortest` and `longest`, drawn from the sequence that `seed` starts.
    #[must_use]
    pub const fn new(shortest: Duration, longest: Duration, seed: u64) -> Self {
        Self {
            shortest,
            longest,
            failures: 0,
            random: SplitMix(seed),
        }
    }

    /// How long to wait after one more failure.
    pub fn next_wait(&mut self) -> Duration {
        let doubling = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        let ceiling = self.shortest.saturating_mul(doubling).min(self.longest);
        let half = ceiling / 2;
        half + half.mul_f64(self.random.fraction())
    }

    /// Starts again from the shortest wait.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The `SplitMix64` generator (Steele, Lea and Flood, 2014). Good enough for jitter, not for secrets.
#[derive(Debug, Clone)]
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 up to but not including 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        let bits = u32::try_from(self.next() >> 32).unwrap_or(u32::MAX);
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest_and_start_again_after_a_reset() {
        let (shortest, longest) = (Duration::from_millis(100), Duration::from_secs(30));
        let mut backoff = Backoff::new(shortest, longest, 1);
        let first = backoff.next_wait();
        assert!(first >= shortest / 2 && first <= shortest);
        let last = (0..100).map(|_| backoff.next_wait()).last().unwrap();
        assert!(last >= longest / 2 && last <= longest);
        backoff.reset();
        assert!(backoff.next_wait() <= shortest);
    }

    #[test]
    fn two_robots_wait_differently() {
        let of =
            |seed| Backoff::new(Duration::from_secs(1), Duration::from_secs(30), seed).next_wait();
        assert_ne!(of(1), of(2));
    }
}
