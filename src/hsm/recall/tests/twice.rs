//! Wrong bytes are read once more before they count against a copy.

use super::rig::*;
use crate::format::aggregate::BLOCK;
use crate::id::{AggregateId, InstanceId, TierId};
use crate::tier::{Mark, Put, Space, Tier, TierError, mem};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Gives wrong bytes of an object's data so many times.
struct Elsewhere {
    inner: mem::MemTier,
    wrong: AtomicU64,
}

impl Tier for Elsewhere {
    fn mark(&self) -> Mark {
        self.inner.mark()
    }
    fn put(&self, name: AggregateId, hint: u64) -> Result<Box<dyn Put>, TierError> {
        self.inner.put(name, hint)
    }
    fn read(&self, name: AggregateId, offset: u64, len: u64) -> Result<Bytes, TierError> {
        let read = self.inner.read(name, offset, len)?;
        let is_data = offset + len < self.inner.stat(name)?;
        let left = |left: u64| left.checked_sub(1);
        if is_data
            && self
                .wrong
                .try_update(Ordering::Relaxed, Ordering::Relaxed, left)
                .is_ok()
        {
            return Ok(BytesMut::zeroed(read.len()).freeze());
        }
        Ok(read)
    }
    fn stat(&self, name: AggregateId) -> Result<u64, TierError> {
        self.inner.stat(name)
    }
    fn delete(&self, name: AggregateId) -> Result<(), TierError> {
        self.inner.delete(name)
    }
    fn list(&self, after: Option<AggregateId>, n: usize) -> Result<Vec<AggregateId>, TierError> {
        self.inner.list(after, n)
    }
    fn space(&self) -> Result<Space, TierError> {
        self.inner.space()
    }
}

#[test]
fn what_is_wrong_once_makes_no_copy_bad_and_what_is_wrong_twice_does() {
    for (wrong, bad) in [(1, 0), (u64::MAX, 1)] {
        let rig = Rig::new();
        let mark = Mark {
            tier: TierId(2),
            owner: InstanceId::random(),
        };
        let tier = Arc::new(Elsewhere {
            inner: mem::MemTier::new(mark),
            wrong: AtomicU64::new(0),
        });
        rig.watch(TierId(2), Arc::clone(&tier) as Arc<dyn Tier>);
        let stub = rig.released("file", BLOCK, &dense(BLOCK), &[TierId(2)]);
        tier.wrong.store(wrong, Ordering::Relaxed);
        assert_eq!(rig.stage(&stub).is_ok(), bad == 0);
        assert_eq!(rig.above.failed.lock().len(), bad);
        if bad == 0 {
            rig.assert_whole(&stub);
        }
    }
}
