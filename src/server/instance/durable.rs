//! Making all that was written durable, on everybody's behalf.
//!
//! Invariant: a write that was lost is told to everybody who may have made it. The kernel tells it once for each open
//! description, so there is one for this, and each time it does is counted: who finds another count than when they began to
//! write must take what they wrote for lost. The count begins anywhere, so that another instance's is another one.

use crate::id::InstanceId;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// See the module.
pub(super) struct Durable {
    root: io::Result<OwnedFd>,
    faults: Mutex<u64>,
}

impl Durable {
    /// Of the filesystem of that directory, from now on.
    pub(super) fn of(root: BorrowedFd<'_>) -> Self {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let [a, b, c, d, e, f, g, h, ..] = InstanceId::random().0;
        Self {
            root: rustix::fs::openat(root, ".", flags, Mode::empty()).map_err(Into::into),
            faults: Mutex::new(u64::from_le_bytes([a, b, c, d, e, f, g, h])),
        }
    }

    /// How often a write was lost, from an arbitrary start on.
    pub(super) fn faults(&self) -> u64 {
        *self.faults.lock()
    }

    /// Makes durable all that was written and named before; and as [`Self::faults`].
    pub(super) fn settle(&self) -> io::Result<u64> {
        let root = self
            .root
            .as_ref()
            .map_err(|e| io::Error::new(e.kind(), e.to_string()))?;
        // Not under the lock: several may wait for the disk at one time.
        let done = rustix::fs::syncfs(root);
        let mut faults = self.faults.lock();
        if let Err(error) = done {
            *faults = faults.wrapping_add(1);
            return Err(error.into());
        }
        Ok(*faults)
    }
}
