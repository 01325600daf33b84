//! Files without a record: may their bytes be believed, or are they the holes of a released file
//! whose stub is gone (removed around the mount, not restored with the file, taken by fsck)?
//!
//! Invariants (design, "never zeros"; P6):
//! - A file whose data the catalog has on tiers alone, and whose holes are all that is left, is
//!   *lost*: not read, not archived, not copied, until it is cut to nothing or repaired.
//! - Half of a recall counts as little: blocks that were allocated and never written read as zeros
//!   just the same. So data are measured, not blocks, and compared with what was archived.
//! - What a user made is believed: a file that the catalog does not know, or knows to have changed,
//!   may be as empty as its owner likes.

use crate::id::NodeHandle;
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;

/// Nodes that are remembered as believed: those without a record of which the sieve says
/// "perhaps". About 100 bytes each.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1 << 16).unwrap();

/// What is known of a file's archived data, when its record is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    /// They are only on tiers, or nowhere. If not: they were on disk, too, and nobody was seen to
    /// change them.
    pub released: bool,
    /// The file's size then, bytes.
    pub size: u64,
    /// Bytes of data then, without holes; `None`: not known.
    pub stored: Option<u64>,
}

/// Is a file of `size` bytes without a record, `data` of them in data runs, lost?
#[must_use]
pub fn is_lost(remembered: &Remembered, size: u64, data: u64) -> bool {
    let same_size = size == remembered.size;
    match (remembered.released, remembered.stored) {
        _ if size == 0 => false,
        // Holes alone were archived.
        (_, Some(0)) => false,
        // Neither release nor recall changes the size: of another size, with data in it, it is new.
        (true, stored) => data == 0 || same_size && stored.is_none_or(|s| data < s),
        // The catalog may not have heard of the release: a power loss took the row back.
        (false, stored) => data == 0 && same_size && stored.is_some(),
    }
}

/// Smallest file that is looked at because it holds nothing: none that small is released.
const LEAST: u64 = 4096;

/// Does a file of `size` bytes in `blocks` blocks of 512 bytes hold nothing but, perhaps, one block
/// of attributes? `block_size`: of the filesystem, bytes.
#[must_use]
pub fn is_bare(size: u64, blocks: u64, block_size: u32) -> bool {
    size >= LEAST && blocks <= u64::from(block_size.max(512)) / 512 && size > blocks * 512
}

/// Nodes without a record that were looked at and are believed, until their data are given back
/// the next time.
pub struct Believed(Mutex<LruCache<NodeHandle, ()>>);

impl Default for Believed {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED)))
    }
}

impl Believed {
    /// It was looked at.
    pub fn add(&self, node: &NodeHandle) {
        self.0.lock().put(node.clone(), ());
    }

    /// Its blocks are about to be given back: from here on a missing record is a missing stub.
    pub fn forget(&self, node: &NodeHandle) {
        self.0.lock().pop(node);
    }

    /// Was it looked at?
    #[must_use]
    pub fn holds(&self, node: &NodeHandle) -> bool {
        self.0.lock().get(node).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(released: bool, stored: Option<u64>) -> Remembered {
        Remembered {
            released,
            size: 8192,
            stored,
        }
    }

    #[test]
    fn p6_holes_where_data_were_released_are_lost() {
        let released = known(true, Some(8192));
        assert!(is_lost(&released, 8192, 0));
        assert!(is_lost(&released, 9000, 0), "whatever its size");
        assert!(is_lost(&released, 8192, 4096), "half of a recall");
        assert!(!is_lost(&released, 8192, 8192), "all of it is there");
        assert!(!is_lost(&released, 4096, 4096), "written anew");
        assert!(!is_lost(&released, 0, 0), "cut to nothing");
        assert!(is_lost(&known(true, None), 8192, 0));
        assert!(is_lost(&known(true, None), 8192, 4096), "unknown layout");
    }

    #[test]
    fn p6_a_hole_that_was_archived_as_one_is_none() {
        assert!(!is_lost(&known(true, Some(0)), 8192, 0));
        assert!(!is_lost(&known(false, Some(0)), 8192, 0));
    }

    #[test]
    fn p6_archived_data_that_became_a_hole_unseen_are_lost() {
        assert!(is_lost(&known(false, Some(8192)), 8192, 0));
        assert!(!is_lost(&known(false, Some(8192)), 8192, 4096));
        assert!(!is_lost(&known(false, Some(8192)), 4096, 0));
        assert!(!is_lost(&known(false, None), 8192, 0));
    }

    #[test]
    fn what_may_be_a_restored_hole() {
        assert!(is_bare(8192, 0, 4096) && is_bare(8192, 8, 4096));
        assert!(!is_bare(8192, 16, 4096) && !is_bare(4096, 8, 4096));
        assert!(!is_bare(0, 0, 4096) && !is_bare(60, 0, 4096));
    }

    #[test]
    fn what_is_believed_is_believed_until_it_is_forgotten() {
        let believed = Believed::default();
        let node = |n: u8| NodeHandle {
            kind: 1,
            bytes: vec![n],
        };
        believed.add(&node(1));
        assert!(believed.holds(&node(1)) && !believed.holds(&node(2)));
        believed.forget(&node(1));
        assert!(!believed.holds(&node(1)));
    }
}
