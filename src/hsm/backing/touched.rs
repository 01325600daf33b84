//! Files whose times and blocks are Cairn's own doing for the moment: a release or a recall works
//! on them, or was cut short.
//!
//! A write or a punch sets a file's ctime and mtime to the same instant, which is what a user's
//! write does, too. So while there is any such file, no `stat` can be taken for what users are to
//! see before the record was read.
//!
//! Invariants:
//! - A node is noted before its record says Recalling, in the same turn, and stays noted until its
//!   record was seen, in a turn, to say something else.
//! - Until it is certain that no earlier process left such a file ([`Backing::trust_times`]), any
//!   file may be one.

use super::Backing;
use crate::format::record::State;
use crate::id::NodeHandle;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Touched {
    nodes: Mutex<HashSet<NodeHandle>>,
    /// How many there are.
    count: AtomicUsize,
    doubted: AtomicBool,
}

impl Backing {
    /// The node's record is about to say Recalling. In its turn.
    pub(in crate::hsm) fn will_touch(&self, node: &NodeHandle) {
        let mut nodes = self.touched.nodes.lock();
        nodes.insert(node.clone());
        self.touched.count.store(nodes.len(), Ordering::SeqCst);
    }

    /// Work on the node is over, or may be: looks at the record in the node's turn. `fd`: any
    /// descriptor of it.
    pub(in crate::hsm) fn was_touched(&self, node: &NodeHandle, fd: BorrowedFd<'_>) {
        let _turn = self.turn(node);
        // Of what cannot be read nothing new is known.
        let Ok(record) = self.record(fd) else { return };
        let mut nodes = self.touched.nodes.lock();
        if record.is_some_and(|r| r.state == State::Recalling) {
            nodes.insert(node.clone());
        } else {
            nodes.remove(node);
        }
        self.touched.count.store(nodes.len(), Ordering::SeqCst);
    }

    /// An earlier process may have left files half-way.
    pub(in crate::hsm) fn doubt_times(&self) {
        self.touched.doubted.store(true, Ordering::SeqCst);
    }

    /// Whatever an earlier process left half-way is in order, or noted.
    pub(in crate::hsm) fn trust_times(&self) {
        self.touched.doubted.store(false, Ordering::SeqCst);
    }

    /// Is there a file that Cairn works on, or left half-way?
    pub(in crate::hsm) fn is_any_touched(&self) -> bool {
        self.touched.count.load(Ordering::SeqCst) > 0
    }

    /// Are every file's times those that its users gave it, or behind a record that says more?
    /// No I/O.
    #[must_use]
    pub fn times_stand(&self) -> bool {
        !self.is_any_touched() && !self.touched.doubted.load(Ordering::SeqCst)
    }
}
