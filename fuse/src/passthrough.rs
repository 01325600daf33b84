//! Backing ids: inodes of the backing that the kernel may read and write by itself.
//!
//! An id belongs to the connection, not to the server: it outlives a server that is killed, and
//! while opens use it no other id of the same inode will do. So the ledger has each one from when
//! it was registered until just before it is closed.
#![allow(
    unsafe_code,
    reason = "the library takes an id that it did not register itself only as a promise"
)]

use crate::ledger::{Ledger, NodePlace};
use crate::sys;
use fuser::{BackingId, FileHandle, FopenFlags, ReplyCreate, ReplyOpen};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use crate::attr::Entry;

/// A registered inode; closed when dropped.
pub(crate) struct Registered {
    id: u32,
    /// The connection; gone when its session has ended, and all ids with it.
    device: Weak<OwnedFd>,
    noted: Option<(Arc<Ledger>, NodePlace)>,
}

impl Registered {
    /// Registers a descriptor's inode (`O_PATH` suffices).
    pub(crate) fn new(
        device: &Arc<OwnedFd>,
        fd: BorrowedFd<'_>,
        noted: Option<(Arc<Ledger>, NodePlace)>,
    ) -> Result<Self, Errno> {
        let id = BackingId::create_raw(device.as_fd(), fd)
            .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        Ok(Self {
            id,
            device: Arc::downgrade(device),
            noted,
        })
    }

    /// One that a dead server registered.
    pub(crate) fn inherited(
        id: u32,
        device: &Arc<OwnedFd>,
        noted: (Arc<Ledger>, NodePlace),
    ) -> Self {
        Self {
            id,
            device: Arc::downgrade(device),
            noted: Some(noted),
        }
    }

    /// This is the id that opens are answered with from now on.
    pub(crate) fn note(&self) {
        if let Some((ledger, place)) = &self.noted {
            ledger.set_backing(*place, self.id);
        }
    }

    /// Answers an open with it.
    pub(crate) fn opened(&self, reply: ReplyOpen, fh: FileHandle, flags: FopenFlags) {
        // SAFETY: the id is registered with the connection that the reply goes to; it is taken out
        // of the wrapper again, which so closes nothing.
        let lent = unsafe { reply.wrap_backing(self.id) };
        reply.opened_passthrough(fh, flags, &lent);
        let _ = lent.into_raw();
    }

    /// Answers a create with it.
    pub(crate) fn created(&self, reply: ReplyCreate, e: &Entry, fh: FileHandle, flags: FopenFlags) {
        // SAFETY: as above.
        let lent = unsafe { reply.wrap_backing(self.id) };
        reply.created_passthrough(&e.ttl, &e.attr, e.generation, fh, flags, &lent);
        let _ = lent.into_raw();
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let Some(device) = self.device.upgrade() else {
            return;
        };
        if let Some((ledger, place)) = &self.noted {
            ledger.clear_backing(*place, self.id);
        }
        if let Err(error) = sys::close_backing(device.as_fd(), self.id) {
            tracing::debug!(%error, id = self.id, "a backing id stays open");
        }
    }
}
