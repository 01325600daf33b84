//! Files without a stub: may their bytes be believed, or are they the holes of a released file whose
//! stub is gone (removed around the mount, not restored with the file, taken by fsck), or was
//! overwritten by an older record that says *resident* (attributes restored from a backup)?
//!
//! Invariants (design, "never zeros"; P6):
//! - A file whose data the catalog has on tiers alone, and whose holes are all that is left, is
//!   *lost*: not read, not archived, not copied, until it is cut to nothing or repaired.
//! - Half of a recall counts as little: blocks that were allocated and never written read as zeros
//!   just the same. So data are measured, not blocks, and compared with what was archived.
//! - What a user made is believed: a file that the catalog does not know, or knows to have changed,
//!   may be as empty as its owner likes.
//! - A record that says *resident* outweighs a catalog that may be behind, but for one case: the file
//!   holds nothing at all, and the catalog has this version or a later one on tiers alone
//!   ([`Remembered::is_overtaken`]). Half of a recall under such a record is a fault upon a fault: it
//!   is not told from a preallocated file.

use crate::catalog::{self, FileState, Node, Version};
use crate::format::record::{Record, State};
use crate::hsm::backing::FileStat;
use crate::id::NodeHandle;
use cairn_mover::Crc32c;
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

/// Nodes that are remembered as believed: those without a record of which the sieve says
/// "perhaps". About 100 bytes each.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1 << 16).unwrap();

/// How long a node is believed that holds its data, of which the catalog could not be told: for the
/// open that asked, and not much longer, so that it is told by a later one.
const FOR_NOW: Duration = Duration::from_secs(10);

/// What the catalog knows of a file's archived data, against which it is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    /// They are only on tiers, or nowhere. If not: they were on disk, too, and nobody was seen to
    /// change them.
    pub released: bool,
    /// The file's size then, bytes.
    pub size: u64,
    /// Bytes of data then, without holes, or `size` where only a record told of the copies; `None`:
    /// not known.
    pub stored: Option<u64>,
    /// Which data.
    pub version: Version,
}

/// What the catalog remembers of the data of a node. `None`: nothing that would speak against those
/// on disk.
#[must_use]
pub fn remembered(node: &Node, copies: &[catalog::Copy]) -> Option<Remembered> {
    let released = match node.state {
        FileState::Released | FileState::Lost => true,
        FileState::Archived => false,
        FileState::None | FileState::Dirty => return None,
    };
    let version = node.version?;
    Some(Remembered {
        version,
        released,
        size: node.proven.map_or(node.attributes.size, |p| p.size),
        stored: copies.iter().map(|c| c.stored_len).max(),
    })
}

impl Remembered {
    /// Fewest bytes of data with which a file of `size` bytes without a stub is not lost; `record`: its
    /// own, which says *resident*. At most `size`.
    #[must_use]
    pub fn needs(&self, record: Option<&Record>, size: u64) -> u64 {
        if let Some(record) = record {
            // What it says outweighs a catalog that may be behind, unless there is nothing at all.
            return u64::from(self.is_overtaken(record)).min(size);
        }
        let same_size = size == self.size;
        let least = match (self.released, self.stored) {
            // Holes alone were archived.
            (_, Some(0)) => 0,
            // Neither release nor recall changes the size: of another size, with data in it, it is new.
            (true, stored) if same_size => stored.unwrap_or(size),
            (true, _) => 1,
            // The catalog may not have heard of the release: a power loss took the row back.
            (false, Some(_)) if same_size => 1,
            (false, _) => 0,
        };
        least.min(size)
    }

    /// Does a record that says *resident* speak of data that were released since? Then its file is
    /// lost if it holds nothing. Not so if zeros are what was released: they are all there.
    #[must_use]
    pub fn is_overtaken(&self, record: &Record) -> bool {
        let released = &self.version;
        let older = released.file == record.file && record.version <= released.version;
        let size = if record.version == released.version {
            record.size
        } else {
            self.size
        };
        let told = self.released && record.state == State::Resident && older;
        told && released.crc != Crc32c::of_zeros(size)
    }
}

/// Is a file of `size` bytes without a stub, `data` of them in data runs, lost? `record`: its own.
#[must_use]
pub fn is_lost(remembered: &Remembered, record: Option<&Record>, (size, data): (u64, u64)) -> bool {
    data < remembered.needs(record, size)
}

/// Smallest file that is looked at because it holds nothing: none that small is released.
const LEAST: u64 = 4096;

/// Does a file, by its size and blocks, hold nothing but, perhaps, one block
/// of attributes?
#[must_use]
pub fn is_bare(stat: &FileStat) -> bool {
    let (size, blocks) = (stat.size, stat.blocks);
    size >= LEAST && blocks <= stat.one_block() && size > blocks * 512
}

/// Nodes that were looked at and are believed, until their data are given back the next time.
///
/// Invariant: who looked before that is not believed after it, however late they say so.
pub struct Believed(Mutex<Known>);

struct Known {
    /// And until when; `None`: for good.
    believed: LruCache<NodeHandle, Option<Instant>>,
    looking: HashMap<NodeHandle, Looking>,
}

/// Nodes being looked at.
#[derive(Default)]
struct Looking {
    by: usize,
    /// It was forgotten meanwhile.
    forgotten: bool,
}

impl Default for Believed {
    fn default() -> Self {
        Self(Mutex::new(Known {
            believed: LruCache::new(REMEMBERED),
            looking: HashMap::new(),
        }))
    }
}

impl Believed {
    /// Before a node is looked at.
    #[must_use]
    pub fn look<'a>(&'a self, node: &'a NodeHandle) -> Look<'a> {
        let mut known = self.0.lock();
        known.looking.entry(node.clone()).or_default().by += 1;
        Look { of: self, node }
    }

    /// Its blocks are about to be given back: from here on a missing record is a missing stub.
    pub fn forget(&self, node: &NodeHandle) {
        let mut known = self.0.lock();
        known.believed.pop(node);
        if let Some(looking) = known.looking.get_mut(node) {
            looking.forgotten = true;
        }
    }

    /// Was it looked at?
    #[must_use]
    pub fn holds(&self, node: &NodeHandle) -> bool {
        let mut known = self.0.lock();
        match known.believed.get(node) {
            Some(None) => true,
            Some(Some(until)) if Instant::now() < *until => true,
            Some(Some(_)) => {
                known.believed.pop(node);
                false
            }
            None => false,
        }
    }
}

/// A node is being looked at.
pub struct Look<'a> {
    of: &'a Believed,
    node: &'a NodeHandle,
}

impl Look<'_> {
    /// It is as it should be; no effect if it was forgotten since the look began.
    pub fn believe(&self) {
        self.put(None);
    }

    /// The same, for this time: it is to be looked at again.
    pub fn believe_for_now(&self) {
        self.put(Some(Instant::now() + FOR_NOW));
    }

    fn put(&self, until: Option<Instant>) {
        let mut known = self.of.0.lock();
        if known.looking.get(self.node).is_some_and(|l| !l.forgotten) {
            known.believed.put(self.node.clone(), until);
        }
    }
}

impl Drop for Look<'_> {
    fn drop(&mut self) {
        let mut known = self.of.0.lock();
        let last = known.looking.get_mut(self.node).is_some_and(|looking| {
            looking.by -= 1;
            looking.by == 0
        });
        if last {
            known.looking.remove(self.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{DataVersion, FileId, FsUuid, Timestamp};

    fn known(released: bool, stored: Option<u64>) -> Remembered {
        let version = Version {
            file: FileId([1; 16]),
            version: DataVersion(4),
            crc: Crc32c(77),
            blocks_crc: Crc32c(78),
        };
        Remembered {
            released,
            size: 8192,
            stored,
            version,
        }
    }

    fn record(version: u64) -> Record {
        let zero = Timestamp { sec: 0, nsec: 0 };
        Record {
            state: State::Resident,
            fs: FsUuid([2; 16]),
            file: FileId([1; 16]),
            version: DataVersion(version),
            crc: Crc32c(77),
            handle: NodeHandle {
                kind: 1,
                bytes: vec![1],
            },
            size: 8192,
            mtime: zero,
            user_ctime: zero,
            ctime_floor: None,
            blocks_crc: Crc32c(78),
            copies: Vec::new(),
        }
    }

    #[test]
    fn p6_a_resident_record_is_overtaken_by_a_release_of_its_version_or_a_later_one() {
        let released = known(true, Some(8192));
        assert!(released.is_overtaken(&record(4)) && released.is_overtaken(&record(3)));
        assert!(known(true, None).is_overtaken(&record(4)));
        let wrong = known(true, Some(0));
        assert!(wrong.is_overtaken(&record(4)), "the sum outweighs a count");
        assert!(!released.is_overtaken(&record(5)), "the catalog is behind");
        assert!(!known(false, Some(8192)).is_overtaken(&record(4)));
        let other = Record {
            file: FileId([9; 16]),
            ..record(4)
        };
        assert!(!released.is_overtaken(&other));
        for state in [State::Released, State::Recalling] {
            let stub = Record { state, ..record(4) };
            assert!(!released.is_overtaken(&stub));
        }
    }

    #[test]
    fn p6_zeros_that_were_released_are_zeros() {
        let mut released = known(true, Some(8192));
        released.version.crc = Crc32c::of_zeros(8192);
        assert!(!released.is_overtaken(&record(4)));
        assert!(!released.is_overtaken(&record(3)));
        // The catalog may have the size of something else by now; the record has that of its version.
        released.size = 100;
        assert!(!released.is_overtaken(&record(4)));
        assert!(released.is_overtaken(&record(3)));
    }

    #[test]
    fn p6_under_an_overtaken_record_nothing_at_all_is_lost() {
        let released = known(true, Some(8192));
        let (old, later) = (record(4), record(5));
        assert!(is_lost(&released, Some(&old), (8192, 0)));
        assert!(!is_lost(&released, Some(&old), (8192, 1)), "half a recall");
        assert!(!is_lost(&released, Some(&old), (0, 0)), "cut to nothing");
        assert!(!is_lost(&released, Some(&later), (8192, 0)));
        assert!(!is_lost(&known(false, None), Some(&old), (8192, 0)));
    }

    #[test]
    fn p6_holes_where_data_were_released_are_lost() {
        let released = known(true, Some(8192));
        assert!(is_lost(&released, None, (8192, 0)));
        assert!(is_lost(&released, None, (9000, 0)), "whatever its size");
        assert!(is_lost(&released, None, (8192, 4096)), "half of a recall");
        assert!(
            !is_lost(&released, None, (8192, 8192)),
            "all of it is there"
        );
        assert!(!is_lost(&released, None, (4096, 4096)), "written anew");
        assert!(!is_lost(&released, None, (0, 0)), "cut to nothing");
        assert!(is_lost(&known(true, None), None, (8192, 0)));
        assert!(
            is_lost(&known(true, None), None, (8192, 4096)),
            "unknown layout"
        );
    }

    #[test]
    fn p6_a_hole_that_was_archived_as_one_is_none() {
        assert!(!is_lost(&known(true, Some(0)), None, (8192, 0)));
        assert!(!is_lost(&known(false, Some(0)), None, (8192, 0)));
    }

    #[test]
    fn p6_archived_data_that_became_a_hole_unseen_are_lost() {
        assert!(is_lost(&known(false, Some(8192)), None, (8192, 0)));
        assert!(!is_lost(&known(false, Some(8192)), None, (8192, 4096)));
        assert!(!is_lost(&known(false, Some(8192)), None, (4096, 0)));
        assert!(!is_lost(&known(false, None), None, (8192, 0)));
    }

    fn bare(size: u64, blocks: u64, block_size: u32) -> bool {
        let stat = rustix::fs::statx(
            rustix::fs::CWD,
            ".",
            rustix::fs::AtFlags::empty(),
            rustix::fs::StatxFlags::BASIC_STATS,
        );
        let stat = FileStat::from_statx(&stat.unwrap()).unwrap();
        is_bare(&FileStat {
            size,
            blocks,
            block_size,
            ..stat
        })
    }

    #[test]
    fn what_may_be_a_restored_hole() {
        assert!(bare(8192, 0, 4096) && bare(8192, 8, 4096));
        assert!(!bare(8192, 16, 4096) && !bare(4096, 8, 4096));
        assert!(!bare(0, 0, 4096) && !bare(60, 0, 4096));
        // A filesystem of small blocks, and of the largest.
        assert!(bare(8192, 2, 1024) && !bare(8192, 4, 1024));
        assert!(bare(1 << 20, 128, 65536) && !bare(1 << 20, 136, 65536));
    }

    #[test]
    fn p6_what_io_likes_is_no_block() {
        // ZFS, and XFS with `largeio`: half of such a file is data.
        for liked in [128 << 10, 1 << 20, u32::MAX] {
            assert!(bare(4 << 20, 1, liked) && bare(4 << 20, 128, liked));
            assert!(!bare(4 << 20, 136, liked), "{liked}");
        }
    }

    #[test]
    fn what_is_believed_is_believed_until_it_is_forgotten() {
        let believed = Believed::default();
        let node = |n: u8| NodeHandle {
            kind: 1,
            bytes: vec![n],
        };
        believed.look(&node(1)).believe();
        assert!(believed.holds(&node(1)) && !believed.holds(&node(2)));
        believed.forget(&node(1));
        assert!(!believed.holds(&node(1)));
    }

    #[test]
    fn what_is_believed_for_now_is_asked_about_again() {
        let believed = Believed::default();
        let node = NodeHandle {
            kind: 1,
            bytes: vec![1],
        };
        believed.look(&node).put(Some(Instant::now()));
        assert!(!believed.holds(&node), "its time is over");
        let look = believed.look(&node);
        look.put(Some(Instant::now() + Duration::from_secs(3600)));
        assert!(believed.holds(&node));
        believed.forget(&node);
        assert!(!believed.holds(&node));
    }

    #[test]
    fn who_looked_before_a_release_is_not_believed_behind_it() {
        let (believed, node) = (
            Believed::default(),
            NodeHandle {
                kind: 1,
                bytes: vec![1],
            },
        );
        let early = believed.look(&node);
        believed.forget(&node);
        let late = believed.look(&node);
        early.believe();
        late.believe();
        assert!(!believed.holds(&node), "an early one is still at it");
        drop((early, late));
        believed.look(&node).believe();
        assert!(believed.holds(&node));
        assert!(believed.0.lock().looking.is_empty());
    }
}
