//! A tier that fails when told to: for tests, driven at run time through a [`Control`].
//!
//! The fault model. Calls: the n-th call of an operation from now, or every n-th, fails with a
//! chosen error and does nothing; the whole tier can be away. Media: an object reads as if cut
//! short, or with a bit flipped (the object below stays as it is), or must be restored before it can be read; a put
//! breaks half way; what a put reads back is not what was written. What is not modelled: an operation that fails after it took
//! effect, and power loss (the crash tests do that).

mod script;

pub use script::{Control, Fault, Operation};

use super::tapes::Tapes;
use super::{
    Description, Mark, Promise, Put, Receipt, Restoring, Space, Tier, TierError, Unwanted,
};
use crate::id::AggregateId;
use bytes::Bytes;
use cairn_mover::Crc32c;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// A tier that fails when told to.
pub struct Faults {
    inner: Arc<dyn Tier>,
    control: Control,
}

impl Faults {
    /// Wraps `inner`; nothing fails until the control says so.
    #[must_use]
    pub fn new(inner: Arc<dyn Tier>) -> Self {
        let control = Control::new(inner.describe().url);
        Self { inner, control }
    }

    /// The handle to script faults with, from any thread.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    fn damaged_len(&self, name: AggregateId) -> Result<u64, TierError> {
        let len = self.inner.stat(name)?;
        Ok(self.control.cut(name).map_or(len, |cut| cut.min(len)))
    }
}

impl Tier for Faults {
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
        self.control.call(Operation::Put, Some(name))?;
        let inner = self.inner.put(name, size_hint)?;
        Ok(Box::new(FaultyPut {
            inner,
            name,
            breaks_at: self.control.take_break(),
            written: 0,
            broken: false,
            control: self.control.clone(),
        }))
    }
    fn read(&self, name: AggregateId, offset: u64, len: u64) -> Result<Bytes, TierError> {
        self.control.call(Operation::Read, Some(name))?;
        let wanted = offset.saturating_add(len);
        if self.control.cut(name).is_some() {
            let end = self.damaged_len(name)?;
            if wanted > end {
                return Err(TierError::Short {
                    tier: self.inner.describe().url,
                    object: name,
                    len: end,
                    wanted,
                });
            }
        }
        if self.control.is_stowed(name) {
            return Err(self
                .control
                .error(Fault::NotRestored, Some(name), "reading"));
        }
        if self.control.is_spoiled(name, offset..wanted) {
            return Err(TierError::Unreadable {
                tier: self.inner.describe().url,
                object: name,
                why: "injected fault".to_owned(),
            });
        }
        let bytes = self.inner.read(name, offset, len)?;
        Ok(self.control.flipped(name, offset, bytes))
    }
    fn wait(&self, name: AggregateId) -> std::time::Duration {
        self.inner.wait(name)
    }
    fn stat(&self, name: AggregateId) -> Result<u64, TierError> {
        self.control.call(Operation::Stat, Some(name))?;
        self.damaged_len(name)
    }
    fn restore(&self, name: AggregateId) -> Result<Restoring, TierError> {
        self.control.call(Operation::Restore, Some(name))?;
        if self.control.is_stowed(name) {
            return Ok(Restoring::Coming {
                takes: Some(Duration::from_secs(3600)),
            });
        }
        self.inner.restore(name)
    }
    fn delete(&self, name: AggregateId) -> Result<(), TierError> {
        self.control.call(Operation::Delete, Some(name))?;
        self.inner.delete(name)
    }
    fn list(
        &self,
        after: Option<AggregateId>,
        limit: usize,
    ) -> Result<Vec<AggregateId>, TierError> {
        self.control.call(Operation::List, None)?;
        self.inner.list(after, limit)
    }
    fn space(&self) -> Result<Space, TierError> {
        self.control.call(Operation::Space, None)?;
        self.inner.space()
    }
}

struct FaultyPut {
    inner: Box<dyn Put>,
    name: AggregateId,
    control: Control,
    breaks_at: Option<u64>,
    written: u64,
    broken: bool,
}

impl FaultyPut {
    /// How much of `bytes` may be written before the put breaks.
    fn admit(&mut self, bytes: usize) -> Result<usize, TierError> {
        if self.broken {
            return Err(self
                .control
                .error(Fault::Transient, Some(self.name), "writing"));
        }
        if let Err(error) = self.control.call(Operation::Write, Some(self.name)) {
            self.broken = true;
            return Err(error);
        }
        let Some(end) = self.breaks_at else {
            return Ok(bytes);
        };
        let left = usize::try_from(end.saturating_sub(self.written)).unwrap_or(usize::MAX);
        if left == 0 && bytes > 0 {
            self.broken = true;
            return Err(self
                .control
                .error(Fault::Transient, Some(self.name), "writing"));
        }
        Ok(bytes.min(left))
    }
}

impl io::Write for FaultyPut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let admitted = self.admit(bytes.len())?;
        let taken = self.inner.write(&bytes[..admitted])?;
        self.written += taken as u64;
        Ok(taken)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Put for FaultyPut {
    fn finish(self: Box<Self>, sum: Crc32c) -> Result<Receipt, TierError> {
        let this = *self;
        let scripted = this.control.call(Operation::Finish, Some(this.name));
        let broken = this.broken || this.breaks_at.is_some_and(|end| this.written >= end);
        if let Err(error) = scripted {
            this.inner.abandon();
            return Err(error);
        }
        if broken {
            this.inner.abandon();
            return Err(this
                .control
                .error(Fault::Transient, Some(this.name), "finishing"));
        }
        if !this.control.take_lie() {
            return this.inner.finish(sum);
        }
        // The tier below compares with a sum that cannot match, finds that the medium lies and
        // removes the object by its own way.
        match this.inner.finish(Crc32c(sum.0 ^ 1)) {
            Err(TierError::Corrupt {
                tier,
                object,
                found,
                ..
            }) => Err(TierError::Corrupt {
                tier,
                object,
                expected: sum,
                found: Crc32c(found.0 ^ 1),
            }),
            Err(other) => Err(other),
            Ok(_) => Err(this
                .control
                .error(Fault::Corrupt, Some(this.name), "finishing")),
        }
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
mod tests;
