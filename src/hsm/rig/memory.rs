//! A tier in memory that tells when bytes arrive, and whose objects can be damaged.

use crate::id::{AggregateId, InstanceId, TierId};
use crate::tier::{Mark, Proof, Put, Receipt, Space, Tier, TierError};
use bytes::Bytes;
use cairn_mover::Crc32c;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

type ReadHook = Box<dyn FnMut(AggregateId) -> Option<TierError> + Send>;
type Hook = Box<dyn FnMut(usize) + Send>;

#[derive(Default)]
struct Inside {
    objects: BTreeMap<AggregateId, Bytes>,
    /// No object is longer.
    longest: Option<u64>,
    /// No more bytes in all.
    room: Option<u64>,
    /// Called with the object's length so far, after each write.
    on_write: Option<Hook>,
    /// Called before each read; what it gives is what the read says.
    on_read: Option<ReadHook>,
    /// Called before an object becomes durable.
    on_finish: Option<Box<dyn FnMut() -> io::Result<()> + Send>>,
}

#[derive(Clone, Default)]
pub(crate) struct MemoryTier(Arc<Mutex<Inside>>);

impl MemoryTier {
    pub(crate) const ID: TierId = TierId(7);

    pub(crate) fn on_write(&self, hook: impl FnMut(usize) + Send + 'static) {
        self.0.lock().on_write = Some(Box::new(hook));
    }

    pub(crate) fn on_finish(&self, hook: impl FnMut() -> io::Result<()> + Send + 'static) {
        self.0.lock().on_finish = Some(Box::new(hook));
    }

    pub(crate) fn on_read(
        &self,
        hook: impl FnMut(AggregateId) -> Option<TierError> + Send + 'static,
    ) {
        self.0.lock().on_read = Some(Box::new(hook));
    }

    /// Takes no object of more bytes from now on.
    pub(crate) fn set_longest(&self, longest: u64) {
        self.0.lock().longest = Some(longest);
    }

    pub(crate) fn set_room(&self, room: u64) {
        self.0.lock().room = Some(room);
    }

    /// Changes an object's bytes.
    pub(crate) fn damage(&self, name: AggregateId, how: impl FnOnce(&mut Vec<u8>)) {
        let mut inside = self.0.lock();
        let mut bytes = inside.objects[&name].to_vec();
        how(&mut bytes);
        inside.objects.insert(name, bytes.into());
    }

    pub(crate) fn names(&self) -> Vec<AggregateId> {
        self.0.lock().objects.keys().copied().collect()
    }
}

struct Writing {
    tier: MemoryTier,
    name: AggregateId,
    bytes: Vec<u8>,
}

impl Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        // The hook runs outside the lock: it may look at the tier.
        let hook = self.tier.0.lock().on_write.take();
        if let Some(mut hook) = hook {
            hook(self.bytes.len());
            self.tier.0.lock().on_write.get_or_insert(hook);
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Put for Writing {
    fn finish(self: Box<Self>, sum: Crc32c) -> Result<Receipt, TierError> {
        let hook = self.tier.0.lock().on_finish.take();
        if let Some(mut hook) = hook {
            let said = hook();
            self.tier.0.lock().on_finish.get_or_insert(hook);
            said.map_err(|source| TierError::Transient {
                tier: "memory".to_owned(),
                object: self.name.to_string(),
                step: "finish",
                source,
            })?;
        }
        let found = Crc32c::of(&self.bytes);
        assert_eq!(found, sum, "the caller summed other bytes than it wrote");
        let (aggregate, len) = (self.name, self.bytes.len() as u64);
        let longest = self.tier.0.lock().longest;
        assert!(
            longest.is_none_or(|longest| len <= longest),
            "{len} bytes are too many"
        );
        self.tier
            .0
            .lock()
            .objects
            .insert(aggregate, self.bytes.into());
        Ok(Receipt {
            aggregate,
            len,
            crc: found,
            proof: Proof::Volatile,
        })
    }
    fn abandon(self: Box<Self>) {}
}

impl Tier for MemoryTier {
    fn mark(&self) -> Mark {
        Mark {
            tier: Self::ID,
            owner: InstanceId([1; 16]),
        }
    }
    fn longest(&self) -> Result<Option<u64>, TierError> {
        Ok(self.0.lock().longest)
    }
    fn admit(&self, lengths: &[u64]) -> Result<(), TierError> {
        let wanted: u64 = lengths.iter().sum();
        match self.0.lock().room {
            Some(room) if wanted > room => Err(TierError::Full {
                tier: "memory".to_owned(),
                step: "looking for room",
                why: format!("{wanted} bytes"),
            }),
            _ => Ok(()),
        }
    }
    fn put(&self, name: AggregateId, _size_hint: u64) -> Result<Box<dyn Put>, TierError> {
        Ok(Box::new(Writing {
            tier: self.clone(),
            name,
            bytes: Vec::new(),
        }))
    }
    fn read(&self, name: AggregateId, offset: u64, len: u64) -> Result<Bytes, TierError> {
        let mut inside = self.0.lock();
        if let Some(why) = inside.on_read.as_mut().and_then(|hook| hook(name)) {
            return Err(why);
        }
        let missing = || TierError::Missing {
            tier: "memory".to_owned(),
            object: name,
        };
        let object = inside.objects.get(&name).ok_or_else(missing)?;
        let (start, end) = (offset as usize, (offset + len) as usize);
        if end > object.len() {
            let len = object.len() as u64;
            let wanted = end as u64;
            return Err(TierError::Short {
                tier: "memory".to_owned(),
                object: name,
                len,
                wanted,
            });
        }
        Ok(object.slice(start..end))
    }
    fn stat(&self, name: AggregateId) -> Result<u64, TierError> {
        let missing = || TierError::Missing {
            tier: "memory".to_owned(),
            object: name,
        };
        self.0
            .lock()
            .objects
            .get(&name)
            .map(|o| o.len() as u64)
            .ok_or_else(missing)
    }
    fn delete(&self, name: AggregateId) -> Result<(), TierError> {
        self.0.lock().objects.remove(&name);
        Ok(())
    }
    fn list(
        &self,
        after: Option<AggregateId>,
        limit: usize,
    ) -> Result<Vec<AggregateId>, TierError> {
        let names = self
            .names()
            .into_iter()
            .filter(|n| after.is_none_or(|a| *n > a));
        Ok(names.take(limit).collect())
    }
    fn space(&self) -> Result<Space, TierError> {
        Ok(Space::default())
    }
}
