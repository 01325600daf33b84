//! An aggregate, with the parts that it has, read stretch by stretch: where it lies on tape, each has a turn of its own at a drive.
//!
//! Invariants:
//! - A seat is out for no more than [`STRETCH`] of the aggregate, and while something is paced for none.
//! - Once the reader is to stop, nothing more is read.

use crate::hsm::tape::desk::Seat;
use crate::id::AggregateId;
use crate::tier::tapes::Tapes;
use crate::tier::{Description, Mark, Promise, Put, Restoring, Space, Tier, TierError};
use bytes::Bytes;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;

/// Bytes: a quarter of a minute of a drive, so that whoever waits for it does not wait for long.
pub(super) const STRETCH: u64 = 4 << 30;

/// Asks for a turn at a stretch.
type Ask<'a> = &'a (dyn Fn(AggregateId, Range<u64>) -> Option<Seat> + Sync);

/// Where a reader is.
#[derive(Default)]
struct At {
    object: Option<AggregateId>,
    stretch: Range<u64>,
    _seat: Option<Seat>,
}

/// One aggregate of a tier. See the module.
pub(super) struct Stretches<'a> {
    tier: &'a dyn Tier,
    aggregate: AggregateId,
    ask: Ask<'a>,
    /// Waits until more may be read.
    pause: &'a (dyn Fn() + Sync),
    stop: &'a (dyn Fn() -> bool + Sync),
    at: Mutex<At>,
}

impl<'a> Stretches<'a> {
    pub(super) fn new(
        tier: &'a dyn Tier,
        aggregate: AggregateId,
        ask: Ask<'a>,
        pause: &'a (dyn Fn() + Sync),
        stop: &'a (dyn Fn() -> bool + Sync),
    ) -> Self {
        Self {
            tier,
            aggregate,
            ask,
            pause,
            stop,
            at: Mutex::default(),
        }
    }
}

impl Tier for Stretches<'_> {
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
        let mut at = self.at.lock();
        let is_there = at.object == Some(name) && at.stretch.contains(&offset);
        if name.head() == self.aggregate && !is_there {
            // Before it is waited for: who has a seat keeps others from the drive.
            *at = At::default();
            (self.pause)();
            let stretch = offset..offset.saturating_add(STRETCH.max(len));
            let seat = (self.ask)(name, stretch.clone());
            *at = At {
                object: Some(name),
                stretch,
                _seat: seat,
            };
        }
        if (self.stop)() {
            return Err(TierError::Unavailable {
                tier: self.tier.describe().url,
                step: "reading a stretch",
                why: "it is to stop".into(),
            });
        }
        self.tier.read(name, offset, len)
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
    use crate::id::{InstanceId, TierId};
    use crate::tier::OpenHow;
    use crate::tier::tape::{TapeOptions, TapeTier};
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn each_stretch_is_paid_for_and_then_asked_for_and_none_after_the_stop() {
        let place = tempfile::tempdir().expect("a directory");
        let how = OpenHow::new(InstanceId([1; 16]), TierId(3));
        let tier = TapeTier::open(&place.path().join("tape"), &TapeOptions::default(), how);
        let tier = tier.expect("a library");
        let (told, stop) = (Mutex::new(Vec::new()), AtomicBool::new(false));
        let ask = |object: AggregateId, stretch: Range<u64>| {
            told.lock().push(Some((object, stretch)));
            None
        };
        let pause = || told.lock().push(None);
        let stopped = || stop.load(Ordering::Acquire);
        let aggregate = AggregateId { epoch: 1, seq: 1 };
        let read = Stretches::new(&tier, aggregate, &ask, &pause, &stopped);
        // There is no such object: what matters here is what is asked for it.
        let missing = |object, offset| {
            let got = read.read(object, offset, 1 << 20);
            assert!(matches!(got, Err(TierError::Missing { .. })), "{got:?}");
        };
        let tail = 3 * STRETCH;
        for offset in [tail, 0, 8 << 20, STRETCH - 1, STRETCH + 5, STRETCH + 6] {
            missing(aggregate, offset);
        }
        // Each part is another object, perhaps on another cartridge.
        missing(aggregate.part(1), STRETCH + 7);
        let stretch = |(of, from): (AggregateId, u64)| [None, Some((of, from..from + STRETCH))];
        let places = [tail, 0, STRETCH + 5].map(|from| (aggregate, from));
        let mut all = places.map(stretch).concat();
        all.extend(stretch((aggregate.part(1), STRETCH + 7)));
        assert_eq!(*told.lock(), all);
        stop.store(true, Ordering::Release);
        let got = read.read(aggregate, 0, 1);
        assert!(matches!(got, Err(TierError::Unavailable { .. })), "{got:?}");
    }
}
