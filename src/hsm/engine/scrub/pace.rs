//! A tier read at a bounded rate, giving way to others; any wait ends at once when the engine stops.

use crate::id::AggregateId;
use crate::tier::tapes::Tapes;
use crate::tier::{Description, Mark, Promise, Put, Restoring, Space, Tier, TierError};
use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a wait goes on without looking whether it is to end.
const NAP: Duration = Duration::from_millis(20);
/// What may be saved up while nothing is read: enough to make up for sleeping too long.
const BURST: Duration = Duration::from_millis(100);
/// How long one read gives way to others at most: readers that never cease must not stop it.
const GIVES_WAY: Duration = Duration::from_secs(5);

/// Bytes per second.
pub(super) struct Pacer {
    rate: u64,
    /// When the bytes read so far are paid for.
    through: Mutex<Option<Instant>>,
}

impl Pacer {
    pub(super) fn new(rate: u64) -> Self {
        Self {
            rate: rate.max(1),
            through: Mutex::default(),
        }
    }

    /// Notes `len` bytes read at `now`; when the next may be read.
    fn pay(&self, len: u64, now: Instant) -> Instant {
        let nanos = u128::from(len) * 1_000_000_000 / u128::from(self.rate);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut through = self.through.lock();
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let start = through.map_or(earliest, |at| at.max(earliest));
        let end = start.checked_add(cost).unwrap_or(start);
        *through = Some(end);
        end
    }
}

/// A question asked while something waits.
type Ask<'a> = &'a (dyn Fn() -> bool + Sync);

/// See the module.
pub(super) struct Paced<'a> {
    tier: &'a dyn Tier,
    pacer: &'a Pacer,
    busy: Ask<'a>,
    stop: Ask<'a>,
    later: bool,
}

impl<'a> Paced<'a> {
    /// `busy`: others work, and are let by.
    pub(super) fn new(tier: &'a dyn Tier, pacer: &'a Pacer, busy: Ask<'a>, stop: Ask<'a>) -> Self {
        Self {
            tier,
            pacer,
            busy,
            stop,
            later: false,
        }
    }

    /// What is read is paid for in [`Self::settle`] alone.
    pub(super) fn later(self) -> Self {
        Self {
            later: true,
            ..self
        }
    }

    /// Waits until all that was read is paid for.
    pub(super) fn settle(&self) {
        let through = *self.pacer.through.lock();
        if let Some(through) = through {
            self.wait(through, &|| true);
        }
    }

    fn wait(&self, until: Instant, while_it: &dyn Fn() -> bool) {
        while !(self.stop)() && while_it() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(NAP));
        }
    }
}

impl Tier for Paced<'_> {
    fn mark(&self) -> Mark {
        self.tier.mark()
    }
    fn describe(&self) -> Description {
        self.tier.describe()
    }
    fn tapes(&self) -> Option<Arc<dyn Tapes>> {
        self.tier.tapes()
    }
    fn confirm(&self) -> Result<(), TierError> {
        self.tier.confirm()
    }
    fn longest(&self) -> Result<Option<u64>, TierError> {
        self.tier.longest()
    }
    fn lengths(&self, file: u64) -> Result<Vec<u64>, TierError> {
        self.tier.lengths(file)
    }
    fn promise(&self, objects: &[(AggregateId, u64)]) -> Result<Promise, TierError> {
        self.tier.promise(objects)
    }
    fn admit(&self, lengths: &[u64]) -> Result<(), TierError> {
        self.tier.admit(lengths)
    }
    fn put(&self, name: AggregateId, size_hint: u64) -> Result<Box<dyn Put>, TierError> {
        self.tier.put(name, size_hint)
    }
    fn read(&self, name: AggregateId, offset: u64, len: u64) -> Result<Bytes, TierError> {
        self.wait(Instant::now() + GIVES_WAY, self.busy);
        let bytes = self.tier.read(name, offset, len)?;
        let paid = self.pacer.pay(len, Instant::now());
        if !self.later {
            self.wait(paid, &|| true);
        }
        Ok(bytes)
    }
    fn wait(&self, name: AggregateId) -> std::time::Duration {
        self.tier.wait(name)
    }
    fn stat(&self, name: AggregateId) -> Result<u64, TierError> {
        self.tier.stat(name)
    }
    fn restore(&self, name: AggregateId) -> Result<Restoring, TierError> {
        self.tier.restore(name)
    }
    fn delete(&self, name: AggregateId) -> Result<(), TierError> {
        self.tier.delete(name)
    }
    fn list(
        &self,
        after: Option<AggregateId>,
        limit: usize,
    ) -> Result<Vec<AggregateId>, TierError> {
        self.tier.list(after, limit)
    }
    fn space(&self) -> Result<Space, TierError> {
        self.tier.space()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_paid_for_at_the_rate() {
        let pacer = Pacer::new(1 << 20);
        let begun = Instant::now();
        let mut at = begun;
        for _ in 0..10 {
            at = pacer.pay(1 << 20, at);
        }
        assert_eq!(at - begun, Duration::from_secs(10) - BURST);
        // What was not read in an idle hour is not made up for.
        let later = at + Duration::from_secs(3600);
        let next = pacer.pay(1 << 20, later);
        assert_eq!(next - later, Duration::from_secs(1) - BURST);
    }
}
