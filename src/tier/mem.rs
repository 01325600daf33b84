//! A tier in memory, for tests. Its receipts say [`Proof::Volatile`]: nothing that must outlive
//! the process may rely on them.

use super::{Description, Kind, Mark, Proof, Put, Receipt, Space, Tier, TierError};
use crate::id::AggregateId;
use bytes::Bytes;
use cairn_mover::Crc32c;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::Arc;

const LABEL: &str = "mem:";

/// A tier in memory.
pub struct MemTier {
    mark: Mark,
    longest: Option<u64>,
    store: Arc<Mutex<Store>>,
}

struct Store {
    objects: BTreeMap<AggregateId, Bytes>,
    /// Bytes of all objects and of all puts under way.
    used: u64,
    capacity: Option<u64>,
}

impl MemTier {
    /// An empty tier without a limit.
    #[must_use]
    pub fn new(mark: Mark) -> Self {
        Self::build(mark, None)
    }

    /// An empty tier that is [`TierError::Full`] beyond `capacity` bytes.
    #[must_use]
    pub fn with_capacity(mark: Mark, capacity: u64) -> Self {
        Self::build(mark, Some(capacity))
    }

    /// Takes no object of more than `longest` bytes.
    #[must_use]
    pub fn with_longest(self, longest: u64) -> Self {
        Self {
            longest: Some(longest),
            ..self
        }
    }

    fn build(mark: Mark, capacity: Option<u64>) -> Self {
        let store = Store {
            objects: BTreeMap::new(),
            used: 0,
            capacity,
        };
        Self {
            mark,
            longest: None,
            store: Arc::new(Mutex::new(store)),
        }
    }

    fn object(&self, name: AggregateId) -> Result<Bytes, TierError> {
        let found = self.store.lock().objects.get(&name).cloned();
        found.ok_or(TierError::Missing {
            tier: LABEL.to_owned(),
            object: name,
        })
    }
}

impl Store {
    fn take(&mut self, len: u64, step: &'static str) -> Result<(), TierError> {
        let used = self.used.saturating_add(len);
        match self.capacity {
            Some(capacity) if used > capacity => Err(TierError::Full {
                tier: LABEL.to_owned(),
                step,
                why: format!("{used} bytes wanted of {capacity}"),
            }),
            _ => {
                self.used = used;
                Ok(())
            }
        }
    }
}

fn exists(object: AggregateId) -> TierError {
    TierError::Exists {
        tier: LABEL.to_owned(),
        object,
    }
}

impl Tier for MemTier {
    fn mark(&self) -> Mark {
        self.mark
    }

    fn describe(&self) -> Description {
        Description {
            kind: Kind::Memory,
            url: LABEL.to_owned(),
            root: None,
            notes: Vec::new(),
        }
    }

    fn longest(&self) -> Result<Option<u64>, TierError> {
        Ok(self.longest)
    }

    fn admit(&self, lengths: &[u64]) -> Result<(), TierError> {
        let all = lengths
            .iter()
            .fold(0_u64, |sum, len| sum.saturating_add(*len));
        let mut store = self.store.lock();
        store.take(all, "looking for room")?;
        store.used -= all;
        Ok(())
    }

    fn put(&self, name: AggregateId, size_hint: u64) -> Result<Box<dyn Put>, TierError> {
        let mut store = self.store.lock();
        if store.objects.contains_key(&name) {
            return Err(exists(name));
        }
        // Refused early, like a filesystem that is asked to preallocate; charged as it is written.
        store.take(size_hint, "preallocating")?;
        store.used -= size_hint;
        Ok(Box::new(MemPut {
            name,
            longest: self.longest,
            store: Arc::clone(&self.store),
            data: Vec::new(),
            broken: false,
        }))
    }

    fn read(&self, name: AggregateId, offset: u64, len: u64) -> Result<Bytes, TierError> {
        let object = self.object(name)?;
        let wanted = offset.saturating_add(len);
        let size = object.len() as u64;
        match (usize::try_from(offset), usize::try_from(wanted)) {
            (Ok(from), Ok(to)) if wanted <= size => Ok(object.slice(from..to)),
            _ => Err(TierError::Short {
                tier: LABEL.to_owned(),
                object: name,
                len: size,
                wanted,
            }),
        }
    }

    fn stat(&self, name: AggregateId) -> Result<u64, TierError> {
        Ok(self.object(name)?.len() as u64)
    }

    fn delete(&self, name: AggregateId) -> Result<(), TierError> {
        let mut store = self.store.lock();
        if let Some(object) = store.objects.remove(&name) {
            store.used -= object.len() as u64;
        }
        Ok(())
    }

    fn list(
        &self,
        after: Option<AggregateId>,
        limit: usize,
    ) -> Result<Vec<AggregateId>, TierError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let store = self.store.lock();
        let names = store.objects.range((from, Bound::Unbounded));
        Ok(names.map(|(name, _)| *name).take(limit).collect())
    }

    fn space(&self) -> Result<Space, TierError> {
        let store = self.store.lock();
        Ok(Space {
            free: store.capacity.map(|c| c.saturating_sub(store.used)),
            total: store.capacity,
        })
    }
}

struct MemPut {
    name: AggregateId,
    longest: Option<u64>,
    store: Arc<Mutex<Store>>,
    data: Vec<u8>,
    broken: bool,
}

impl io::Write for MemPut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.broken {
            return Err(io::Error::other("an earlier write failed"));
        }
        let len = (self.data.len() + bytes.len()) as u64;
        if let Some(longest) = self.longest.filter(|longest| len > *longest) {
            self.broken = true;
            let full = TierError::Full {
                tier: LABEL.to_owned(),
                step: "writing",
                why: format!("an object has at most {longest} bytes"),
            };
            return Err(full.into());
        }
        if let Err(full) = self.store.lock().take(bytes.len() as u64, "writing") {
            self.broken = true;
            return Err(full.into());
        }
        self.data.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Put for MemPut {
    fn finish(mut self: Box<Self>, sum: Crc32c) -> Result<Receipt, TierError> {
        if self.broken {
            return Err(TierError::Full {
                tier: LABEL.to_owned(),
                step: "finishing",
                why: "an earlier write failed".to_owned(),
            });
        }
        let found = Crc32c::of(&self.data);
        if found != sum {
            return Err(TierError::Corrupt {
                tier: LABEL.to_owned(),
                object: self.name,
                expected: sum,
                found,
            });
        }
        let len = self.data.len() as u64;
        let mut store = self.store.lock();
        if store.objects.contains_key(&self.name) {
            drop(store);
            return Err(exists(self.name));
        }
        let data = Bytes::from(std::mem::take(&mut self.data));
        store.objects.insert(self.name, data);
        drop(store);
        Ok(Receipt {
            aggregate: self.name,
            len,
            crc: sum,
            proof: Proof::Volatile,
        })
    }
    fn abandon(self: Box<Self>) {}
}

impl Drop for MemPut {
    /// What was charged for bytes that became no object is given back.
    fn drop(&mut self) {
        self.store.lock().used -= self.data.len() as u64;
    }
}
