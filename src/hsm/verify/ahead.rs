//! A tier read ahead: many small reads in ascending order become few large ones.
//!
//! Invariant: what is given is what one read of the tier gave, never bytes of another place; an
//! error of a longer read is the error of nobody but who asked for those very bytes.

use crate::id::AggregateId;
use crate::tier::tapes::Tapes;
use crate::tier::{Description, Mark, Promise, Put, Restoring, Space, Tier, TierError};
use bytes::Bytes;
use parking_lot::Mutex;
use std::ops::Range;
use std::sync::Arc;

/// Read at once, bytes.
const AT_ONCE: u64 = 8 << 20;
/// A gap that is read over rather than jumped over, bytes.
const GAP: u64 = 256 << 10;

/// One object of a tier, of which certain ranges will be read front to back.
pub(super) struct Ahead<'a> {
    tier: &'a dyn Tier,
    object: AggregateId,
    /// Ascending, further apart than [`GAP`].
    runs: Vec<Range<u64>>,
    /// Where the bytes at hand lie.
    held: Mutex<(u64, Bytes)>,
}

impl<'a> Ahead<'a> {
    /// `wanted`: ascending.
    pub(super) fn new(
        tier: &'a dyn Tier,
        object: AggregateId,
        wanted: impl IntoIterator<Item = Range<u64>>,
    ) -> Self {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for range in wanted.into_iter().filter(|r| r.start < r.end) {
            match runs.last_mut() {
                Some(last) if range.start <= last.end.saturating_add(GAP) => {
                    last.end = last.end.max(range.end);
                }
                _ => runs.push(range),
            }
        }
        Self {
            tier,
            object,
            runs,
            held: Mutex::default(),
        }
    }

    fn at_hand(&self, offset: u64, len: u64) -> Option<Bytes> {
        let held = self.held.lock();
        let from = usize::try_from(offset.checked_sub(held.0)?).ok()?;
        let end = from.checked_add(usize::try_from(len).ok()?)?;
        (end <= held.1.len()).then(|| held.1.slice(from..end))
    }
}

impl Tier for Ahead<'_> {
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
        if name != self.object || len == 0 {
            return self.tier.read(name, offset, len);
        }
        if let Some(bytes) = self.at_hand(offset, len) {
            return Ok(bytes);
        }
        let run = self.runs.iter().find(|run| run.contains(&offset));
        let more = run.map_or(0, |run| (run.end - offset).min(AT_ONCE));
        if more > len
            && let Ok(bytes) = self.tier.read(name, offset, more)
        {
            *self.held.lock() = (offset, bytes.clone());
            return Ok(bytes.slice(..usize::try_from(len).unwrap_or(usize::MAX)));
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
