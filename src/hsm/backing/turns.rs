//! Turns at a file's record, times and capability.
//!
//! While a stub stands or a recall runs, users and Cairn change these attributes of one file: users
//! through the mount, Cairn in every step of a release or recall. Each reads what is there and
//! writes what follows from it under the node's turn, so that what a user set is what stays.
//!
//! Rules: a turn is held for a few system calls on attributes alone (a record is set again where the
//! filesystem's journal delayed it, sixteen times at most), never over a sync, a write of data, a
//! punch or a callback, because threads that serve the mount take turns. No two are held at
//! once: different nodes may share one.

use super::Backing;
use crate::id::NodeHandle;
use parking_lot::{Mutex, MutexGuard};
use std::hash::{DefaultHasher, Hash, Hasher};

/// More than threads that work on files at a time.
const SHARES: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Turns([Mutex<()>; SHARES]);

impl Default for Turns {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

/// The turn, until it is dropped.
pub type Turn<'a> = MutexGuard<'a, ()>;

impl Backing {
    /// Waits for the node's turn.
    pub fn turn(&self, node: &NodeHandle) -> Turn<'_> {
        let mut hasher = DefaultHasher::new();
        node.hash(&mut hasher);
        let share = hasher.finish() as usize % SHARES;
        self.turns.0[share].lock()
    }

    /// Does anybody have a turn?
    #[cfg(test)]
    pub(in crate::hsm) fn has_turns(&self) -> bool {
        self.turns.0.iter().any(Mutex::is_locked)
    }
}
