//! Bandwidth limits: a token bucket, without a clock.
//!
//! Invariant kept here: over any time t, no more than `rate * t + burst` bytes and one last piece pass,
//! however many streams ask.

use std::num::NonZeroU64;
use std::time::Duration;

const NANOS: u128 = 1_000_000_000;

/// A token bucket. Kept as the time at which it will be full again, so that it needs no ticks.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: NonZeroU64,
    burst: u64,
    /// Nanoseconds; everything that was let through is paid for then.
    paid: u128,
}

impl Bucket {
    /// `rate` bytes a second, and `burst` bytes at once.
    #[must_use]
    pub fn new(rate: NonZeroU64, burst: u64) -> Self {
        let paid = 0;
        Self { rate, burst, paid }
    }

    /// Takes `bytes` at `now`; wait as long as it says before they pass. `now` may stand still; an
    /// earlier one than before is the same as a longer wait.
    pub fn take(&mut self, bytes: u64, now: Duration) -> Duration {
        let now = now.as_nanos();
        let burst = self.cost(self.burst);
        // Unused time counts up to the burst.
        let from = self.paid.max(now.saturating_sub(burst));
        self.paid = from + self.cost(bytes);
        let wait = from.saturating_sub(now);
        Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    fn cost(&self, bytes: u64) -> u128 {
        u128::from(bytes) * NANOS / u128::from(self.rate.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_more_passes_than_the_rate_and_the_burst(
            rate in 1_000_u64..1_000_000,
            burst in 0_u64..50_000,
            asks in proptest::collection::vec((0_u64..5_000, 0_u64..200), 1..60),
        ) {
            let mut bucket = Bucket::new(NonZeroU64::new(rate).unwrap(), burst);
            let mut now = Duration::from_secs(1_000);
            let mut passed = Vec::new();
            for (bytes, pause) in asks {
                now += Duration::from_millis(pause);
                let at = now + bucket.take(bytes, now);
                prop_assert!(passed.last().is_none_or(|(last, _)| *last <= at));
                passed.push((at, bytes));
            }
            for from in 0..passed.len() {
                let mut sum = 0;
                for (at, bytes) in &passed[from..] {
                    let allowed = (*at - passed[from].0).as_secs_f64() * rate as f64;
                    // The piece that comes last is let in before it is paid for.
                    prop_assert!(sum as f64 <= allowed + burst as f64 + 1.0 + passed[from].1 as f64);
                    sum += bytes;
                }
            }
        }
    }

    #[test]
    fn the_rate_is_reached() {
        let mut bucket = Bucket::new(NonZeroU64::new(1_000).unwrap(), 0);
        let mut now = Duration::from_secs(5);
        for _ in 0..100 {
            now += bucket.take(100, now);
        }
        // The first of the hundred was free.
        assert_eq!(now, Duration::from_millis(5_000 + 9_900));
    }
}
