//! Decoded indexes of aggregates, kept in memory within a bound and loaded once however many ask.
//!
//! An aggregate never changes (P9), so a loaded index is good for as long as it is kept. Loading
//! takes one ranged read of the object's end, and a second one if the index is longer; or none, if
//! it is in the state directory ([`crate::hsm::index_store`]). A failure
//! is told to all who wait for that load and is not remembered.
//!
//! Invariants: at most one load of one index at a time; indexes kept sum to at most the bound, or
//! there is only one; no lock is held while a tier is read.

use crate::format::aggregate::{
    AggregateError, Index, IndexEntry, TRAILER_LEN, Trailer, decode_index, decode_trailer,
};
use crate::format::record::{CopyHint, Record};
use crate::hsm::index_store::IndexStore;
use crate::id::{AggregateId, TierId};
use crate::tier::{Tier, TierError};
use bytes::Bytes;
use lru::LruCache;
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::sync::Arc;

/// How much of an object's end the first read takes, bytes: most indexes are shorter.
const TAIL: u64 = 1 << 20;
/// Bytes of an encoded entry beside its block sums, for the bound: paths and attributes vary.
const ENTRY_GUESS: u64 = 256;
/// No index is longer; what says so is damaged. 4 million members of long paths.
const MAX_INDEX: u64 = 4 << 30;

type Key = (TierId, AggregateId);
type Outcome = Result<Arc<Loaded>, Arc<IndexError>>;

/// Why there is no index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The tier.
    #[error("reading the index: {0}")]
    Tier(#[from] TierError),
    /// The bytes.
    #[error("the index of {aggregate} on tier {tier}: {source}")]
    Bytes {
        /// Where.
        tier: TierId,
        /// Of what.
        aggregate: AggregateId,
        /// What is wrong.
        source: AggregateError,
    },
    /// Another aggregate's bytes under this name.
    #[error("the object {asked} on tier {tier} says that it is {found}")]
    Misnamed {
        /// Where.
        tier: TierId,
        /// The name.
        asked: AggregateId,
        /// What its trailer says.
        found: AggregateId,
    },
}

impl IndexError {
    /// The tier could not say now; nothing is known against the copy.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Tier(why) => tier_is_passing(why),
            // A newer program reads it.
            Self::Bytes {
                source: AggregateError::Newer(_),
                ..
            } => true,
            Self::Bytes { .. } | Self::Misnamed { .. } => false,
        }
    }
}

/// Does the error say nothing against the object itself?
#[must_use]
pub(in crate::hsm) fn tier_is_passing(why: &TierError) -> bool {
    match why {
        TierError::Unavailable { .. }
        | TierError::Full { .. }
        | TierError::Transient { .. }
        | TierError::NotRestored { .. }
        | TierError::Refused { .. } => true,
        TierError::Missing { .. }
        | TierError::Exists { .. }
        | TierError::Short { .. }
        | TierError::Unreadable { .. }
        | TierError::Corrupt { .. } => false,
    }
}

/// An index with the means to find a member by the place a record names.
#[derive(Debug)]
pub struct Loaded {
    index: Index,
    /// Positions in `index.entries` in the order of their headers.
    by_header: Vec<u32>,
    weight: usize,
}

impl Loaded {
    fn new(index: Index, encoded_len: u64) -> Self {
        let count = u32::try_from(index.entries.len()).unwrap_or(u32::MAX);
        let mut by_header: Vec<u32> = (0..count).collect();
        by_header.sort_by_key(|&at| index.entries[at as usize].header);
        let blocks: usize = index.entries.iter().map(|e| e.blocks.len() * 4).sum();
        let fixed = index.entries.len() * (size_of::<IndexEntry>() + 64);
        let weight = fixed + blocks + usize::try_from(encoded_len).unwrap_or(usize::MAX / 2);
        Self {
            index,
            by_header,
            weight,
        }
    }

    /// All of it.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Where the data of `record` are, whose copy is said to lie at `header`.
    fn position(&self, header: u64, record: &Record) -> Option<usize> {
        let (file, version) = (record.file, record.version);
        let fits = |at: &usize| {
            let identity = self.index.entries[*at].member.identity;
            identity.is_some_and(|i| i.file == file && i.version == version)
        };
        let entries = &self.index.entries;
        let near = self
            .by_header
            .partition_point(|&at| entries[at as usize].header < header);
        let at_header = self.by_header[near..]
            .iter()
            .map(|&at| at as usize)
            .take_while(|&at| entries[at].header == header)
            .find(fits);
        // The place is a hint; identity decides. But an adopted stub has an identity of its own, and
        // shares the copies of the one it was made from: there place and sums do.
        at_header
            .or_else(|| (0..entries.len()).find(fits))
            .or_else(|| self.index.position_by_place(header, record.crc))
            .filter(|at| entries[*at].blocks_crc() == record.blocks_crc || fits(at))
    }
}

/// A member in a loaded index.
#[derive(Debug, Clone)]
pub struct Found {
    loaded: Arc<Loaded>,
    at: usize,
}

impl std::ops::Deref for Found {
    type Target = IndexEntry;
    fn deref(&self) -> &IndexEntry {
        &self.loaded.index.entries[self.at]
    }
}

/// A load that others may wait for.
#[derive(Default)]
struct Loading {
    outcome: Mutex<Option<Outcome>>,
    over: Condvar,
}

struct Kept {
    loaded: LruCache<Key, Arc<Loaded>>,
    weight: usize,
    loading: HashMap<Key, Arc<Loading>>,
}

/// See the module.
pub struct IndexCache {
    bound: usize,
    kept: Mutex<Kept>,
    store: Option<Arc<IndexStore>>,
}

impl IndexCache {
    /// Keeps indexes up to about `bound` bytes in memory.
    #[must_use]
    pub fn new(bound: usize) -> Self {
        Self::with_store(bound, None)
    }

    /// And in `store`, from which they come back without their tier.
    #[must_use]
    pub fn with_store(bound: usize, store: Option<Arc<IndexStore>>) -> Self {
        Self {
            bound,
            store,
            kept: Mutex::new(Kept {
                loaded: LruCache::unbounded(),
                weight: 0,
                loading: HashMap::new(),
            }),
        }
    }

    /// The member that `copy` points at, if the aggregate holds the data of `record`.
    /// Blocks on the tier unless the index is at hand.
    ///
    /// # Errors
    /// [`IndexError`]; `Ok(None)`: the aggregate is whole and does not hold these data.
    pub fn find(
        &self,
        tier: &dyn Tier,
        copy: &CopyHint,
        record: &Record,
    ) -> Result<Option<Found>, Arc<IndexError>> {
        let loaded = self.load(tier, copy.tier, copy.aggregate)?;
        let at = loaded.position(copy.header, record);
        Ok(at.map(|at| Found { loaded, at }))
    }

    /// The same, if the index is in memory or in the store: reads the disk, never a tier.
    #[must_use]
    pub fn at_hand(&self, copy: &CopyHint, record: &Record) -> Option<Found> {
        let key = (copy.tier, copy.aggregate);
        let at_hand = self.kept.lock().loaded.get(&key).cloned();
        let loaded = at_hand.or_else(|| self.stored(key))?;
        let at = loaded.position(copy.header, record)?;
        Some(Found { loaded, at })
    }

    /// Keeps the index of an aggregate that was just made durable: its first recall, and the holes
    /// of its released members, need no read of the tier.
    pub fn made(&self, id: TierId, aggregate: AggregateId, index: &Index) {
        let encoded = (index.entries.len() as u64).saturating_mul(ENTRY_GUESS);
        let loaded = Arc::new(Loaded::new(index.clone(), encoded));
        if let Some(store) = &self.store {
            store.put(id, index);
        }
        self.kept.lock().keep((id, aggregate), loaded, self.bound);
    }

    /// The aggregate is gone from its tier.
    pub fn forget(&self, tier: TierId, aggregate: AggregateId) {
        if let Some(store) = &self.store {
            store.forget(tier, aggregate);
        }
        let mut kept = self.kept.lock();
        if let Some(gone) = kept.loaded.pop(&(tier, aggregate)) {
            kept.weight -= gone.weight;
        }
    }

    fn stored(&self, key: Key) -> Option<Arc<Loaded>> {
        let (index, len) = self.store.as_ref()?.get(key.0, key.1)?;
        let loaded = Arc::new(Loaded::new(index, len));
        self.kept.lock().keep(key, Arc::clone(&loaded), self.bound);
        Some(loaded)
    }

    /// The index of an aggregate.
    ///
    /// # Errors
    /// [`IndexError`], shared by all who waited for the same load.
    pub fn load(&self, tier: &dyn Tier, id: TierId, aggregate: AggregateId) -> Outcome {
        let key = (id, aggregate);
        let (loading, mine) = {
            let mut kept = self.kept.lock();
            if let Some(loaded) = kept.loaded.get(&key) {
                return Ok(Arc::clone(loaded));
            }
            match kept.loading.get(&key) {
                Some(loading) => (Arc::clone(loading), false),
                None => {
                    let loading = Arc::new(Loading::default());
                    kept.loading.insert(key, Arc::clone(&loading));
                    (loading, true)
                }
            }
        };
        if !mine {
            let mut outcome = loading.outcome.lock();
            loop {
                if let Some(outcome) = outcome.as_ref() {
                    return outcome.clone();
                }
                loading.over.wait(&mut outcome);
            }
        }
        let stored = self.store.as_ref().and_then(|s| s.get(id, aggregate));
        let outcome = match stored {
            Some((index, len)) => Ok(Arc::new(Loaded::new(index, len))),
            None => {
                let outcome = read(tier, id, aggregate);
                if let (Ok(loaded), Some(store)) = (&outcome, &self.store) {
                    store.put(id, &loaded.index);
                }
                outcome.map(Arc::new).map_err(Arc::new)
            }
        };
        {
            let mut kept = self.kept.lock();
            kept.loading.remove(&key);
            if let Ok(loaded) = &outcome {
                kept.keep(key, Arc::clone(loaded), self.bound);
            }
        }
        *loading.outcome.lock() = Some(outcome.clone());
        loading.over.notify_all();
        outcome
    }
}

impl Kept {
    fn keep(&mut self, key: Key, loaded: Arc<Loaded>, bound: usize) {
        self.weight += loaded.weight;
        if let Some(old) = self.loaded.put(key, loaded) {
            self.weight -= old.weight;
        }
        while self.weight > bound && self.loaded.len() > 1 {
            let Some((_, oldest)) = self.loaded.pop_lru() else {
                break;
            };
            self.weight -= oldest.weight;
        }
    }
}

/// Reads and decodes; one ranged read, or two. Bytes that are no index are held against the object only if they came
/// from its tier's place.
fn read(tier: &dyn Tier, id: TierId, aggregate: AggregateId) -> Result<Loaded, IndexError> {
    let loaded = decoded(tier, id, aggregate);
    if let Err(IndexError::Bytes { .. } | IndexError::Misnamed { .. }) = &loaded {
        tier.confirm()?;
    }
    loaded
}

fn decoded(tier: &dyn Tier, id: TierId, aggregate: AggregateId) -> Result<Loaded, IndexError> {
    let bad = |source| IndexError::Bytes {
        tier: id,
        aggregate,
        source,
    };
    let total = tier.stat(aggregate)?;
    if total < TRAILER_LEN {
        return Err(bad(AggregateError::NoTrailer("shorter than a trailer")));
    }
    let tail_len = total.min(TAIL);
    let tail = tier.read(aggregate, total - tail_len, tail_len)?;
    let end = tail.len().saturating_sub(TRAILER_LEN as usize);
    let trailer = decode_trailer(&tail[end..], total).map_err(bad)?;
    if trailer.aggregate != aggregate {
        return Err(IndexError::Misnamed {
            tier: id,
            asked: aggregate,
            found: trailer.aggregate,
        });
    }
    let bytes =
        index_bytes(tier, aggregate, &trailer, &tail, total - tail_len).map_err(|e| match e {
            Ok(why) => IndexError::Tier(why),
            Err(why) => bad(why),
        })?;
    let index = decode_index(&bytes, &trailer).map_err(bad)?;
    Ok(Loaded::new(index, trailer.index_len))
}

/// The index's bytes: from the tail already read, if they lie in it.
fn index_bytes(
    tier: &dyn Tier,
    aggregate: AggregateId,
    trailer: &Trailer,
    tail: &Bytes,
    tail_at: u64,
) -> Result<Bytes, Result<TierError, AggregateError>> {
    let (from, len) = (trailer.index_offset, trailer.index_len);
    if len > MAX_INDEX
        || from
            .checked_add(len)
            .is_none_or(|end| end > trailer.total_len)
    {
        let why = format!("{len} bytes at {from}");
        return Err(Err(AggregateError::DamagedIndex(why)));
    }
    if let Some(skip) = from.checked_sub(tail_at) {
        let (skip, len) = (skip as usize, len as usize);
        if skip + len <= tail.len() {
            return Ok(tail.slice(skip..skip + len));
        }
    }
    tier.read(aggregate, from, len).map_err(Ok)
}

#[cfg(test)]
impl IndexCache {
    /// As if all of it had been thrown out.
    pub(in crate::hsm) fn forget_all(&self) {
        let mut kept = self.kept.lock();
        kept.loaded.clear();
        kept.weight = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::recall::tests::rig::Rig;
    use crate::tier::faults::Operation;

    fn total(rig: &Rig) -> u64 {
        rig.tier().control().calls(Operation::Read)
    }

    #[test]
    fn an_index_is_loaded_once_for_all_who_ask() {
        let rig = Rig::new();
        let stub = rig.dense("file", 1000);
        let (cache, tier) = (IndexCache::new(1 << 20), rig.tier());
        let copy = stub.record.copies[0];
        assert!(cache.at_hand(&copy, &stub.record).is_none());
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let found = cache.find(&*tier, &copy, &stub.record);
                    assert_eq!(found.expect("loaded").expect("there").header, copy.header);
                });
            }
        });
        assert_eq!(total(&rig), 1);
        let mut stranger = stub.record.clone();
        stranger.file = crate::id::FileId::random();
        // By its place and its sums the data are found under another identity, too.
        let found = cache.find(&*tier, &copy, &stranger);
        assert_eq!(found.expect("at hand").expect("there").header, copy.header);
        stranger.crc.0 ^= 1;
        let none = cache.find(&*tier, &copy, &stranger);
        assert!(none.expect("at hand").is_none());
        assert!(cache.at_hand(&copy, &stub.record).is_some());
    }

    #[test]
    fn the_bound_is_kept_and_failures_are_not() {
        let rig = Rig::new();
        let (one, two) = (rig.dense("one", 10), rig.dense("two", 10));
        let (cache, tier) = (IndexCache::new(1), rig.tier());
        let find = |stub: &crate::hsm::recall::tests::rig::Stub| {
            let (record, tier) = (&stub.record, &*tier);
            cache.find(tier, &record.copies[0], record)
        };
        let at_hand = |stub: &crate::hsm::recall::tests::rig::Stub| {
            let record = &stub.record;
            let found = cache.at_hand(&record.copies[0], record);
            found.is_some()
        };
        find(&one).expect("loaded");
        find(&two).expect("loaded");
        assert!(!at_hand(&one) && at_hand(&two));
        tier.control().set_unavailable(true);
        assert!(find(&one).is_err_and(|why| why.is_passing()));
        tier.control().set_unavailable(false);
        find(&one).expect("loaded");
        tier.control().flip(two.record.copies[0].aggregate, 0);
        tier.control().truncate(two.record.copies[0].aggregate, 600);
        let why = find(&two).expect_err("evicted, and damaged by now");
        assert!(!why.is_passing(), "{why}");
    }

    #[test]
    fn what_was_just_made_needs_no_read() {
        let rig = Rig::new();
        let stub = rig.dense("file", 1000);
        let (cache, tier) = (IndexCache::new(1 << 20), rig.tier());
        let copy = stub.record.copies[0];
        let read = cache.load(&*tier, copy.tier, copy.aggregate);
        let made = IndexCache::new(1 << 20);
        made.made(copy.tier, copy.aggregate, read.expect("loaded").index());
        let before = total(&rig);
        let found = made.find(&*tier, &copy, &stub.record);
        assert_eq!(found.expect("at hand").expect("there").header, copy.header);
        assert_eq!(total(&rig), before);
    }
}
