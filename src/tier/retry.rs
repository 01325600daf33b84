//! A tier whose passing failures are tried again: [`TierError::Transient`] only, a bounded number
//! of times, with growing pauses and jitter.
//!
//! A put's stream is not repeated here: its bytes went by and are gone. Only its start is; when a
//! write or the finish fails, whoever composes the aggregate composes it anew (under a new name).

use super::clock::{Clock, SystemClock};
use super::tapes::Tapes;
use super::{Description, Mark, Promise, Put, Restoring, Space, Tier, TierError};
use crate::id::AggregateId;
use bytes::Bytes;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often, and how long between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempts {
    /// Tries in all, the first included; 0 counts as 1.
    pub tries: u32,
    /// Pause before the second try; doubled before each further one.
    pub first_pause: Duration,
    /// No pause is longer.
    pub longest_pause: Duration,
}

impl Default for Attempts {
    /// Five tries within about four seconds.
    fn default() -> Self {
        Self {
            tries: 5,
            first_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(10),
        }
    }
}

/// A tier whose passing failures are tried again.
pub struct Retry {
    inner: Arc<dyn Tier>,
    attempts: Attempts,
    clock: Arc<dyn Clock>,
    seed: RandomState,
    pauses: AtomicU64,
}

impl Retry {
    /// Retries in real time.
    #[must_use]
    pub fn new(inner: Arc<dyn Tier>, attempts: Attempts) -> Self {
        Self::with_clock(inner, attempts, Arc::new(SystemClock::default()))
    }

    /// The same on another clock.
    #[must_use]
    pub fn with_clock(inner: Arc<dyn Tier>, attempts: Attempts, clock: Arc<dyn Clock>) -> Self {
        Self {
            inner,
            attempts,
            clock,
            seed: RandomState::new(),
            pauses: AtomicU64::new(0),
        }
    }

    fn retrying<T>(
        &self,
        operation: &'static str,
        run: impl Fn() -> Result<T, TierError>,
    ) -> Result<T, TierError> {
        let mut tried = 1;
        loop {
            match run() {
                Err(error) if error.is_retryable() && tried < self.attempts.tries => {
                    let pause = self.pause(tried);
                    tracing::warn!(operation, tried, ?pause, %error, "tier operation failed, trying again");
                    self.clock.sleep(pause);
                    tried += 1;
                }
                other => return other,
            }
        }
    }

    /// Between half and all of the doubled pause, so that many readers do not come back at once.
    fn pause(&self, tried: u32) -> Duration {
        let doubled = self
            .attempts
            .first_pause
            .saturating_mul(1_u32.checked_shl(tried - 1).unwrap_or(u32::MAX))
            .min(self.attempts.longest_pause);
        let dice = self
            .seed
            .hash_one(self.pauses.fetch_add(1, Ordering::Relaxed))
            % 1024;
        let half = doubled / 2;
        half + half.saturating_mul(u32::try_from(dice).unwrap_or(0)) / 1024
    }
}

impl Tier for Retry {
    fn mark(&self) -> Mark {
        self.inner.mark()
    }
    fn describe(&self) -> Description {
        self.inner.describe()
    }
    fn tape(&self) -> Option<&super::tape::TapeTier> {
        self.inner.tape()
    }
    fn tapes(&self) -> Option<Arc<dyn Tapes>> {
        self.inner.tapes()
    }
    fn longest(&self) -> Result<Option<u64>, TierError> {
        self.inner.longest()
    }
    fn lengths(&self, file: u64) -> Result<Vec<u64>, TierError> {
        self.inner.lengths(file)
    }
    fn promise(&self, objects: &[(AggregateId, u64)]) -> Result<Promise, TierError> {
        self.inner.promise(objects)
    }
    fn admit(&self, lengths: &[u64]) -> Result<(), TierError> {
        self.inner.admit(lengths)
    }
    fn put(&self, name: AggregateId, size_hint: u64) -> Result<Box<dyn Put>, TierError> {
        self.retrying("put", || self.inner.put(name, size_hint))
    }
    fn read(&self, name: AggregateId, offset: u64, len: u64) -> Result<Bytes, TierError> {
        self.retrying("read", || self.inner.read(name, offset, len))
    }
    fn wait(&self, name: AggregateId) -> std::time::Duration {
        self.inner.wait(name)
    }
    fn stat(&self, name: AggregateId) -> Result<u64, TierError> {
        self.retrying("stat", || self.inner.stat(name))
    }
    fn restore(&self, name: AggregateId) -> Result<Restoring, TierError> {
        self.retrying("restore", || self.inner.restore(name))
    }
    fn delete(&self, name: AggregateId) -> Result<(), TierError> {
        self.retrying("delete", || self.inner.delete(name))
    }
    fn list(
        &self,
        after: Option<AggregateId>,
        limit: usize,
    ) -> Result<Vec<AggregateId>, TierError> {
        self.retrying("list", || self.inner.list(after, limit))
    }
    fn confirm(&self) -> Result<(), TierError> {
        self.retrying("confirm", || self.inner.confirm())
    }
    fn space(&self) -> Result<Space, TierError> {
        self.retrying("space", || self.inner.space())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{InstanceId, TierId};
    use crate::tier::ErrorKind;
    use crate::tier::clock::VirtualClock;
    use crate::tier::faults::{Control, Fault, Faults, Operation};
    use crate::tier::mem::MemTier;

    fn retried(tries: u32) -> (Retry, Control, Arc<VirtualClock>) {
        let mark = Mark {
            tier: TierId(1),
            owner: InstanceId([1; 16]),
        };
        let faulty = Faults::new(Arc::new(MemTier::new(mark)));
        let (control, clock) = (faulty.control(), Arc::new(VirtualClock::default()));
        let attempts = Attempts {
            tries,
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_millis(300),
        };
        let tier = Retry::with_clock(Arc::new(faulty), attempts, clock.clone());
        (tier, control, clock)
    }

    #[test]
    fn gives_up_after_its_tries_with_pauses_that_grow_to_a_bound() {
        let (tier, control, clock) = retried(5);
        control.fail_every(Operation::Space, 1, Fault::Transient);
        assert!(tier.space().is_err_and(|e| e.is_retryable()));
        assert_eq!(control.calls(Operation::Space), 5);
        let sleeps = clock.sleeps();
        assert_eq!(sleeps.len(), 4);
        for (pause, longest) in sleeps.iter().zip([100, 200, 300, 300]) {
            let longest = Duration::from_millis(longest);
            assert!(
                (longest / 2..=longest).contains(pause),
                "{pause:?} of {longest:?}"
            );
        }
    }

    #[test]
    fn only_passing_failures_are_tried_again() {
        let (tier, control, clock) = retried(5);
        for fault in [
            Fault::Unavailable,
            Fault::Full,
            Fault::Missing,
            Fault::Corrupt,
        ] {
            control.fail(Operation::Space, 1, fault);
            assert!(
                tier.space()
                    .is_err_and(|e| e.kind() != ErrorKind::Transient)
            );
        }
        assert_eq!(control.calls(Operation::Space), 4);
        assert!(clock.sleeps().is_empty());
    }
}
