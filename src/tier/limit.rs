//! A tier with a bound on how many operations run at once.
//!
//! A put under way holds no permit between its calls, so a thread may read while it writes, even
//! with one permit. Where there is more than one, puts leave the last to others: a read does not wait until an object
//! is written, proven and named, however many are.

use super::tapes::Tapes;
use super::{
    Description, Mark, Promise, Put, Receipt, Restoring, Space, Tier, TierError, Unwanted,
};
use crate::id::AggregateId;
use bytes::Bytes;
use cairn_mover::Crc32c;
use parking_lot::{Condvar, Mutex};
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

struct Permits {
    free: Mutex<Free>,
    freed: Condvar,
}

/// Permits that are free.
struct Free {
    all: usize,
    /// Of these so many may be a put's.
    puts: usize,
}

struct Permit<'a> {
    permits: &'a Permits,
    is_put: bool,
}

impl Permits {
    fn take(&self) -> Permit<'_> {
        self.take_for(false)
    }

    fn take_for(&self, is_put: bool) -> Permit<'_> {
        let mut free = self.free.lock();
        while free.all == 0 || (is_put && free.puts == 0) {
            self.freed.wait(&mut free);
        }
        free.all -= 1;
        free.puts -= usize::from(is_put);
        Permit {
            permits: self,
            is_put,
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut free = self.permits.free.lock();
        free.all += 1;
        free.puts += usize::from(self.is_put);
        // Not one alone: it might be a put, and have to wait on.
        self.permits.freed.notify_all();
    }
}

/// A tier with a bound on operations at once.
pub struct Limit {
    inner: Arc<dyn Tier>,
    permits: Arc<Permits>,
}

impl Limit {
    /// At most `at_once` calls into `inner` run at any time; further ones wait.
    #[must_use]
    pub fn new(inner: Arc<dyn Tier>, at_once: NonZeroUsize) -> Self {
        let free = Free {
            all: at_once.get(),
            puts: (at_once.get() - 1).max(1),
        };
        let permits = Permits {
            free: Mutex::new(free),
            freed: Condvar::new(),
        };
        Self {
            inner,
            permits: Arc::new(permits),
        }
    }
}

impl Tier for Limit {
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
        let _permit = self.permits.take_for(true);
        let inner = self.inner.put(name, size_hint)?;
        let permits = Arc::clone(&self.permits);
        Ok(Box::new(LimitedPut { inner, permits }))
    }
    fn read(&self, name: AggregateId, offset: u64, len: u64) -> Result<Bytes, TierError> {
        let _permit = self.permits.take();
        self.inner.read(name, offset, len)
    }
    fn wait(&self, name: AggregateId) -> std::time::Duration {
        self.inner.wait(name)
    }
    fn stat(&self, name: AggregateId) -> Result<u64, TierError> {
        let _permit = self.permits.take();
        self.inner.stat(name)
    }
    fn restore(&self, name: AggregateId) -> Result<Restoring, TierError> {
        let _permit = self.permits.take();
        self.inner.restore(name)
    }
    fn delete(&self, name: AggregateId) -> Result<(), TierError> {
        let _permit = self.permits.take();
        self.inner.delete(name)
    }
    fn list(
        &self,
        after: Option<AggregateId>,
        limit: usize,
    ) -> Result<Vec<AggregateId>, TierError> {
        let _permit = self.permits.take();
        self.inner.list(after, limit)
    }
    fn confirm(&self) -> Result<(), TierError> {
        let _permit = self.permits.take();
        self.inner.confirm()
    }
    fn space(&self) -> Result<Space, TierError> {
        let _permit = self.permits.take();
        self.inner.space()
    }
}

struct LimitedPut {
    inner: Box<dyn Put>,
    permits: Arc<Permits>,
}

impl io::Write for LimitedPut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _permit = self.permits.take_for(true);
        self.inner.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        let _permit = self.permits.take_for(true);
        self.inner.flush()
    }
}

impl Put for LimitedPut {
    fn finish(self: Box<Self>, sum: Crc32c) -> Result<Receipt, TierError> {
        let this = *self;
        let _permit = this.permits.take_for(true);
        this.inner.finish(sum)
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
    use std::io::Write;
    use std::time::Duration;

    /// Puts whose writes wait until they are let go.
    #[derive(Default)]
    struct Slow {
        inside: Mutex<usize>,
        let_go: Mutex<bool>,
        changed: Condvar,
    }

    struct SlowPut(Arc<Slow>);

    impl Write for SlowPut {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            *self.0.inside.lock() += 1;
            let mut let_go = self.0.let_go.lock();
            while !*let_go {
                self.0.changed.wait(&mut let_go);
            }
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Put for SlowPut {
        fn finish(self: Box<Self>, _: Crc32c) -> Result<Receipt, TierError> {
            unreachable!("not asked")
        }
        fn abandon(self: Box<Self>) {}
    }

    impl Tier for Arc<Slow> {
        fn mark(&self) -> Mark {
            unreachable!("not asked")
        }
        fn put(&self, _: AggregateId, _: u64) -> Result<Box<dyn Put>, TierError> {
            Ok(Box::new(SlowPut(Arc::clone(self))))
        }
        fn read(&self, _: AggregateId, _: u64, _: u64) -> Result<Bytes, TierError> {
            Ok(Bytes::from_static(b"read"))
        }
        fn stat(&self, _: AggregateId) -> Result<u64, TierError> {
            unreachable!("not asked")
        }
        fn delete(&self, _: AggregateId) -> Result<(), TierError> {
            unreachable!("not asked")
        }
        fn list(&self, _: Option<AggregateId>, _: usize) -> Result<Vec<AggregateId>, TierError> {
            unreachable!("not asked")
        }
        fn space(&self) -> Result<Space, TierError> {
            unreachable!("not asked")
        }
    }

    #[test]
    fn a_read_does_not_wait_for_puts_however_many_are_under_way() {
        let slow = Arc::new(Slow::default());
        let three = NonZeroUsize::new(3).expect("three");
        let tier = Limit::new(Arc::new(slow.clone()), three);
        let name = AggregateId { epoch: 1, seq: 1 };
        std::thread::scope(|scope| {
            let puts: Vec<_> = (0..8).map(|_| tier.put(name, 1).expect("starts")).collect();
            for mut put in puts {
                scope.spawn(move || put.write(b"x").expect("taken"));
            }
            while *slow.inside.lock() < 2 {
                std::thread::yield_now();
            }
            let (tell, told) = std::sync::mpsc::channel();
            let tier = &tier;
            scope.spawn(move || tell.send(tier.read(name, 0, 4)));
            let read = told.recv_timeout(Duration::from_secs(60));
            let inside = *slow.inside.lock();
            *slow.let_go.lock() = true;
            slow.changed.notify_all();
            assert!(read.is_ok(), "the read waits for a put");
            assert_eq!(inside, 2, "puts leave one of three permits");
        });
        assert_eq!(*slow.inside.lock(), 8);
    }

    /// Counts who is inside `space`; each waits until `wanted` are (or a bound has passed).
    #[derive(Default)]
    struct Probe {
        state: Mutex<(usize, usize)>,
        changed: Condvar,
        wanted: usize,
    }

    impl Tier for Probe {
        fn mark(&self) -> Mark {
            Mark {
                tier: TierId(1),
                owner: InstanceId([1; 16]),
            }
        }
        fn put(&self, _: AggregateId, _: u64) -> Result<Box<dyn Put>, TierError> {
            unreachable!("not asked")
        }
        fn read(&self, _: AggregateId, _: u64, _: u64) -> Result<Bytes, TierError> {
            unreachable!("not asked")
        }
        fn stat(&self, _: AggregateId) -> Result<u64, TierError> {
            unreachable!("not asked")
        }
        fn delete(&self, _: AggregateId) -> Result<(), TierError> {
            unreachable!("not asked")
        }
        fn list(&self, _: Option<AggregateId>, _: usize) -> Result<Vec<AggregateId>, TierError> {
            unreachable!("not asked")
        }
        fn space(&self) -> Result<Space, TierError> {
            let mut state = self.state.lock();
            state.0 += 1;
            state.1 = state.1.max(state.0);
            self.changed.notify_all();
            while state.1 < self.wanted {
                let bound = Duration::from_secs(10);
                assert!(!self.changed.wait_for(&mut state, bound).timed_out());
            }
            state.0 -= 1;
            Ok(Space::default())
        }
    }

    #[test]
    fn as_many_as_allowed_run_at_once_and_no_more() {
        let probe = Arc::new(Probe {
            wanted: 3,
            ..Probe::default()
        });
        let tier = Limit::new(probe.clone(), NonZeroUsize::new(3).expect("three"));
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| tier.space().expect("space"));
            }
        });
        assert_eq!(probe.state.lock().1, 3);
    }
}
