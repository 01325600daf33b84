//! The script of a faulty tier, and the handle that writes it while the tier runs.

use crate::id::AggregateId;
use crate::tier::TierError;
use bytes::Bytes;
use cairn_mover::Crc32c;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// What a tier is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Start of a put.
    Put,
    /// A write of a put.
    Write,
    /// The finish of a put.
    Finish,
    /// Read of a range.
    Read,
    /// Length of an object.
    Stat,
    /// Asking for an object to be restored.
    Restore,
    /// Deletion.
    Delete,
    /// Listing.
    List,
    /// Room left.
    Space,
}

/// Which [`TierError`] a scripted call gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// [`TierError::Unavailable`].
    Unavailable,
    /// [`TierError::Full`].
    Full,
    /// [`TierError::Transient`], an I/O error.
    Transient,
    /// [`TierError::Missing`].
    Missing,
    /// [`TierError::Exists`].
    Exists,
    /// [`TierError::Corrupt`].
    Corrupt,
    /// [`TierError::NotRestored`].
    NotRestored,
}

/// Handle to a faulty tier's script; clones share it.
#[derive(Clone)]
pub struct Control {
    tier: Arc<str>,
    script: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Script {
    calls: HashMap<Operation, u64>,
    /// By the number of the call, counted from the tier's beginning.
    once: HashMap<(Operation, u64), Fault>,
    every: HashMap<Operation, (u64, Fault)>,
    away: bool,
    cut: HashMap<AggregateId, u64>,
    flips: HashMap<AggregateId, Vec<u64>>,
    /// Bytes that the medium does not give.
    spoiled: HashMap<AggregateId, Vec<u64>>,
    /// In a class from which they must be restored.
    stowed: HashSet<AggregateId>,
    break_next_put_at: Option<u64>,
    lies: u32,
}

impl Control {
    pub(super) fn new(tier: String) -> Self {
        Self {
            tier: tier.into(),
            script: Arc::default(),
        }
    }

    /// Makes the `nth` call of `operation` from now fail; 1 is the next.
    pub fn fail(&self, operation: Operation, nth: u64, fault: Fault) {
        let mut script = self.script.lock();
        let number = script.calls.get(&operation).copied().unwrap_or(0) + nth.max(1);
        script.once.insert((operation, number), fault);
    }

    /// Makes every `nth` call of `operation` fail; 1 is each, 0 ends it.
    pub fn fail_every(&self, operation: Operation, nth: u64, fault: Fault) {
        let mut script = self.script.lock();
        if nth == 0 {
            script.every.remove(&operation);
        } else {
            script.every.insert(operation, (nth, fault));
        }
    }

    /// Takes the whole tier away, or brings it back.
    pub fn set_unavailable(&self, away: bool) {
        self.script.lock().away = away;
    }

    /// Makes an object end after `len` bytes.
    pub fn truncate(&self, object: AggregateId, len: u64) {
        self.script.lock().cut.insert(object, len);
    }

    /// Flips bit `bit` of an object, counted from the lowest bit of its first byte.
    pub fn flip(&self, object: AggregateId, bit: u64) {
        self.script
            .lock()
            .flips
            .entry(object)
            .or_default()
            .push(bit);
    }

    /// The byte at `offset` of an object cannot be read any more, nor anything together with it.
    pub fn spoil(&self, object: AggregateId, offset: u64) {
        let mut script = self.script.lock();
        script.spoiled.entry(object).or_default().push(offset);
    }

    /// The object is in a class from which it must be restored before it is read; its length is known all the same.
    pub fn stow(&self, object: AggregateId) {
        self.script.lock().stowed.insert(object);
    }

    /// It was restored.
    pub fn restore(&self, object: AggregateId) {
        self.script.lock().stowed.remove(&object);
    }

    /// Undoes truncation, flips and spoiled bytes of an object.
    pub fn mend(&self, object: AggregateId) {
        let mut script = self.script.lock();
        script.cut.remove(&object);
        script.flips.remove(&object);
        script.spoiled.remove(&object);
    }

    /// Breaks the next put that starts once it has taken `bytes` bytes.
    pub fn break_next_put_at(&self, bytes: u64) {
        self.script.lock().break_next_put_at = Some(bytes);
    }

    /// Makes the next finish find that what it reads back is not what was written.
    pub fn lie_on_readback(&self) {
        self.script.lock().lies += 1;
    }

    /// Calls of `operation` so far, failed ones included.
    #[must_use]
    pub fn calls(&self, operation: Operation) -> u64 {
        self.script
            .lock()
            .calls
            .get(&operation)
            .copied()
            .unwrap_or(0)
    }

    /// Ends every fault; the counts stay.
    pub fn clear(&self) {
        let mut script = self.script.lock();
        let calls = std::mem::take(&mut script.calls);
        *script = Script {
            calls,
            ..Script::default()
        };
    }

    pub(super) fn call(
        &self,
        operation: Operation,
        object: Option<AggregateId>,
    ) -> Result<(), TierError> {
        let mut script = self.script.lock();
        let calls = script.calls.entry(operation).or_insert(0);
        *calls += 1;
        let number = *calls;
        let once = script.once.remove(&(operation, number));
        let every = script.every.get(&operation).copied();
        let fault = match (script.away, once, every) {
            (true, _, _) => Some(Fault::Unavailable),
            (false, Some(fault), _) => Some(fault),
            (false, None, Some((n, fault))) if number.is_multiple_of(n) => Some(fault),
            (false, None, _) => None,
        };
        drop(script);
        fault.map_or(Ok(()), |f| Err(self.error(f, object, "injected fault")))
    }

    pub(super) fn cut(&self, object: AggregateId) -> Option<u64> {
        self.script.lock().cut.get(&object).copied()
    }

    pub(super) fn is_stowed(&self, object: AggregateId) -> bool {
        self.script.lock().stowed.contains(&object)
    }

    pub(super) fn is_spoiled(&self, object: AggregateId, range: Range<u64>) -> bool {
        let script = self.script.lock();
        let mut bytes = script.spoiled.get(&object).into_iter().flatten();
        bytes.any(|at| range.contains(at))
    }

    pub(super) fn flipped(&self, object: AggregateId, offset: u64, bytes: Bytes) -> Bytes {
        let script = self.script.lock();
        let Some(flips) = script.flips.get(&object) else {
            return bytes;
        };
        let mut data = bytes.to_vec();
        for bit in flips {
            let place = (bit / 8).checked_sub(offset).map(usize::try_from);
            if let Some(Ok(at)) = place
                && let Some(byte) = data.get_mut(at)
            {
                *byte ^= 1 << (bit % 8);
            }
        }
        data.into()
    }

    pub(super) fn take_break(&self) -> Option<u64> {
        self.script.lock().break_next_put_at.take()
    }

    pub(super) fn take_lie(&self) -> bool {
        let mut script = self.script.lock();
        let lie = script.lies > 0;
        script.lies = script.lies.saturating_sub(1);
        lie
    }

    pub(super) fn error(
        &self,
        fault: Fault,
        object: Option<AggregateId>,
        step: &'static str,
    ) -> TierError {
        let tier = self.tier.to_string();
        let object = object.unwrap_or(AggregateId { epoch: 0, seq: 0 });
        let why = "injected fault".to_owned();
        match fault {
            Fault::Unavailable => TierError::Unavailable { tier, step, why },
            Fault::Full => TierError::Full { tier, step, why },
            Fault::Transient => TierError::Transient {
                tier,
                object: object.to_string(),
                step,
                source: io::Error::other(why),
            },
            Fault::Missing => TierError::Missing { tier, object },
            Fault::Exists => TierError::Exists { tier, object },
            Fault::Corrupt => TierError::Corrupt {
                tier,
                object,
                expected: Crc32c::EMPTY,
                found: Crc32c(1),
            },
            Fault::NotRestored => TierError::NotRestored { tier, object, why },
        }
    }
}
