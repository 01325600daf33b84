//! Notices to the kernel that cached attributes are old. One thread that holds no lock sends
//! them all (P11): only attributes are dropped, never pages, so the kernel waits for nothing
//! while it takes one.

use crate::MirrorError;
use crate::workers::spawn;
use crossbeam_channel::{Receiver, Sender, unbounded};
use fuser::{INodeNo, Notifier};

/// An offset below zero means: attributes alone.
const NO_PAGES: i64 = -1;

/// Where notices are left.
pub(crate) struct Notices(Sender<u64>);

impl Notices {
    pub(crate) fn new() -> (Self, Receiver<u64>) {
        let (sender, receiver) = unbounded();
        (Self(sender), receiver)
    }

    /// The attributes of a node changed behind the kernel's back. Never blocks.
    pub(crate) fn attributes(&self, id: u64) {
        let _ = self.0.send(id);
    }
}

/// Starts the thread; it ends with the last sender.
pub(crate) fn run(notices: Receiver<u64>, notifier: Notifier) -> Result<(), MirrorError> {
    spawn("cairn-fuse-notify", move || {
        for id in &notices {
            if let Err(error) = notifier.inval_inode(INodeNo(id), NO_PAGES, 0) {
                tracing::debug!(id, %error, "attributes could not be invalidated");
            }
        }
    })
    .map(drop)
}
