//! A tier made slow: bytes per second in all, and a delay before each operation.
//!
//! Every operation of every thread draws on one bucket. A transfer pays in slices, so that a small
//! read waits for one slice of a large one, not for the whole of it.

use super::clock::{Clock, SystemClock};
use super::tapes::Tapes;
use super::{
    Description, Mark, Promise, Put, Receipt, Restoring, Space, Tier, TierError, Unwanted,
};
use crate::id::AggregateId;
use bytes::Bytes;
use cairn_mover::Crc32c;
use parking_lot::Mutex;
use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

/// What a transfer pays at once, in bytes.
const SLICE: u64 = 1 << 20;
/// What may be saved up while nobody transfers: enough to make up for sleeping too long.
const BURST: Duration = Duration::from_millis(10);

/// How fast a tier may be. The default is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pace {
    /// Bytes per second of all reads and writes together.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Before every operation (puts: before the start and before the finish).
    pub delay: Duration,
}

struct Bucket {
    pace: Pace,
    clock: Arc<dyn Clock>,
    /// When the bytes paid for so far are through.
    through: Mutex<Duration>,
}

impl Bucket {
    fn operation(&self) {
        self.clock.sleep(self.pace.delay);
    }

    fn transfer(&self, len: u64) {
        let Some(rate) = self.pace.bytes_per_second else {
            return;
        };
        let mut rest = len;
        while rest > 0 {
            let slice = rest.min(SLICE);
            rest -= slice;
            let nanos = u128::from(slice) * 1_000_000_000 / u128::from(rate.get());
            let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            let wait = {
                let now = self.clock.now();
                let mut through = self.through.lock();
                let start = (*through).max(now.saturating_sub(BURST));
                *through = start.saturating_add(cost);
                through.saturating_sub(now)
            };
            self.clock.sleep(wait);
        }
    }
}

/// A tier behind a [`Pace`].
pub struct Throttle {
    inner: Arc<dyn Tier>,
    bucket: Arc<Bucket>,
}

impl Throttle {
    /// Slows `inner` down to `pace`, in real time.
    #[must_use]
    pub fn new(inner: Arc<dyn Tier>, pace: Pace) -> Self {
        Self::with_clock(inner, pace, Arc::new(SystemClock::default()))
    }

    /// The same on another clock.
    #[must_use]
    pub fn with_clock(inner: Arc<dyn Tier>, pace: Pace, clock: Arc<dyn Clock>) -> Self {
        let through = Mutex::new(clock.now());
        let bucket = Arc::new(Bucket {
            pace,
            clock,
            through,
        });
        Self { inner, bucket }
    }
}

impl Tier for Throttle {
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
    fn confirm(&self) -> Result<(), TierError> {
        self.inner.confirm()
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
        self.bucket.operation();
        let inner = self.inner.put(name, size_hint)?;
        let bucket = Arc::clone(&self.bucket);
        Ok(Box::new(SlowPut { inner, bucket }))
    }
    fn read(&self, name: AggregateId, offset: u64, len: u64) -> Result<Bytes, TierError> {
        self.bucket.operation();
        let bytes = self.inner.read(name, offset, len)?;
        self.bucket.transfer(len);
        Ok(bytes)
    }
    fn wait(&self, name: AggregateId) -> std::time::Duration {
        self.inner.wait(name)
    }
    fn stat(&self, name: AggregateId) -> Result<u64, TierError> {
        self.bucket.operation();
        self.inner.stat(name)
    }
    fn restore(&self, name: AggregateId) -> Result<Restoring, TierError> {
        self.bucket.operation();
        self.inner.restore(name)
    }
    fn delete(&self, name: AggregateId) -> Result<(), TierError> {
        self.bucket.operation();
        self.inner.delete(name)
    }
    fn list(
        &self,
        after: Option<AggregateId>,
        limit: usize,
    ) -> Result<Vec<AggregateId>, TierError> {
        self.bucket.operation();
        self.inner.list(after, limit)
    }
    fn space(&self) -> Result<Space, TierError> {
        self.bucket.operation();
        self.inner.space()
    }
}

struct SlowPut {
    inner: Box<dyn Put>,
    bucket: Arc<Bucket>,
}

impl io::Write for SlowPut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.inner.write(bytes)?;
        self.bucket.transfer(taken as u64);
        Ok(taken)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Put for SlowPut {
    fn finish(self: Box<Self>, sum: Crc32c) -> Result<Receipt, TierError> {
        self.bucket.operation();
        self.inner.finish(sum)
    }
    fn hasten(&mut self) {
        self.inner.hasten();
    }
    fn heed(&mut self, unwanted: Unwanted) {
        self.inner.heed(unwanted);
    }
    fn abandon(self: Box<Self>) {
        self.inner.abandon();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{InstanceId, TierId};
    use crate::tier::clock::VirtualClock;
    use crate::tier::mem::MemTier;
    use std::io::Write;

    #[test]
    fn reads_and_writes_draw_on_one_bucket() {
        let mark = Mark {
            tier: TierId(1),
            owner: InstanceId([1; 16]),
        };
        let pace = Pace {
            bytes_per_second: NonZeroU64::new(10 << 20),
            delay: Duration::from_millis(5),
        };
        let clock = Arc::new(VirtualClock::default());
        let tier = Throttle::with_clock(Arc::new(MemTier::new(mark)), pace, clock.clone());
        let name = AggregateId { epoch: 1, seq: 1 };
        let data = vec![1; 10 << 20];
        let mut put = tier.put(name, 0).expect("put");
        put.write_all(&data).expect("write");
        put.finish(Crc32c::of(&data)).expect("finish");
        // One second of bytes, and two delays; the burst may save its part.
        let wrote = clock.now();
        let whole = Duration::from_millis(1010);
        assert!((whole - BURST..=whole).contains(&wrote), "{wrote:?}");
        tier.read(name, 0, 5 << 20).expect("read");
        let read = clock.now() - wrote;
        let half = Duration::from_millis(505);
        assert!((half - BURST..=half).contains(&read), "{read:?}");
        // A large transfer is paid in slices, so that others get between.
        let longest = clock.sleeps().into_iter().max();
        assert!(longest <= Some(Duration::from_millis(100)), "{longest:?}");
    }
}
