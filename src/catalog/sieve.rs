//! Which inodes the catalog may have data of on tiers: asked at every open of a file without a
//! record, so answered from memory, without a query.
//!
//! A Bloom filter over the handles of archived, released and lost nodes. It may say "perhaps" of a
//! node that it does not hold (about one in a hundred; then the catalog is asked), never "no" of
//! one that it does: keys come in by a trigger of the writer's connection, whatever changes the
//! state, before that change is committed, and none is taken out. 1 MiB holds about 800,000
//! nodes; it is made for twice those known at the start, at least 2 MiB and at most 128 MiB,
//! beyond which "perhaps" is said more often.
//!
//! Invariant: until every row was read, the answer is "perhaps".

use super::error::At;
use super::node::FileState;
use super::sql::{Code, all, page};
use super::{Catalog, CatalogError};
use crate::id::NodeHandle;
use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// Bits set for each key.
const PROBES: u64 = 7;
/// Bits for each key that there is room for.
const BITS_PER_KEY: u64 = 10;
/// Fewest and most bits, powers of two.
const BITS: (u64, u64) = (1 << 24, 1 << 30);
/// Rows that are read before the catalog counts as open; the rest is read meanwhile.
const AT_ONCE: usize = 500_000;

/// See the module.
pub(super) struct Sieve {
    bits: Box<[AtomicU64]>,
    whole: AtomicBool,
    /// The last node whose row was read.
    read: AtomicI64,
}

impl Sieve {
    fn with_room(keys: u64) -> Self {
        let bits = keys.saturating_mul(BITS_PER_KEY);
        let bits = bits.clamp(BITS.0, BITS.1).next_power_of_two();
        Self {
            bits: (0..bits / 64).map(|_| AtomicU64::new(0)).collect(),
            whole: AtomicBool::new(false),
            read: AtomicI64::new(0),
        }
    }

    /// A sieve for the catalog behind `connection`, which will write to it.
    pub(super) fn on(connection: &Connection) -> Result<Arc<Self>, CatalogError> {
        let rows: i64 = connection
            .query_row(
                "SELECT ifnull(sum(files), 0) FROM usage WHERE uid = -1 AND state IN (1, 3, 4)",
                [],
                |row| row.get(0),
            )
            .at("count", "archived files")?;
        let sieve = Arc::new(Self::with_room(u64::try_from(rows).unwrap_or(0) * 2));
        let into = Arc::clone(&sieve);
        connection
            .create_scalar_function("cairn_keep", 1, FunctionFlags::SQLITE_UTF8, move |values| {
                into.add(values.get_raw(0).as_blob().unwrap_or_default());
                Ok(0)
            })
            .and_then(|()| {
                connection.execute_batch(
                    "CREATE TEMP TRIGGER kept_on_change AFTER UPDATE OF state ON main.nodes
                         WHEN new.state IN (1, 3, 4) BEGIN SELECT cairn_keep(new.handle); END;
                     CREATE TEMP TRIGGER kept_on_insert AFTER INSERT ON main.nodes
                         WHEN new.state IN (1, 3, 4) BEGIN SELECT cairn_keep(new.handle); END;",
                )
            })
            .at("watch", "states")?;
        Ok(sieve)
    }

    /// Where the key's bits lie: word and mask.
    fn places(&self, key: &[u8]) -> impl Iterator<Item = (usize, u64)> + use<> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let first = hasher.finish();
        0_u8.hash(&mut hasher);
        let step = hasher.finish() | 1;
        let mask = self.bits.len() as u64 * 64 - 1;
        (0..PROBES).map(move |n| {
            let at = first.wrapping_add(n.wrapping_mul(step)) & mask;
            ((at / 64) as usize, 1 << (at % 64))
        })
    }

    fn add(&self, key: &[u8]) {
        for (word, mask) in self.places(key) {
            self.bits[word].fetch_or(mask, Ordering::Relaxed);
        }
    }

    fn may_hold(&self, key: &[u8]) -> bool {
        if !self.whole.load(Ordering::Acquire) {
            return true;
        }
        let mut places = self.places(key);
        places.all(|(word, mask)| self.bits[word].load(Ordering::Relaxed) & mask != 0)
    }
}

impl Catalog {
    /// May the catalog have archived, released or lost data of this inode? `false` is certain.
    /// Never blocks.
    #[must_use]
    pub fn may_be_archived(&self, handle: &NodeHandle) -> bool {
        self.inner.sieve.may_hold(&super::sql::handle_key(handle))
    }

    /// Reads rows into the sieve, page by page, until all are read (`true`) or some `most` were.
    ///
    /// # Errors
    /// [`CatalogError`]; call it again.
    pub fn fill_sieve(&self, most: Option<usize>) -> Result<bool, CatalogError> {
        let sieve = &self.inner.sieve;
        let mut left = most.unwrap_or(usize::MAX);
        while !sieve.whole.load(Ordering::Acquire) {
            if left == 0 {
                return Ok(false);
            }
            let after = sieve.read.load(Ordering::Acquire);
            let rows = self.read(|connection| {
                all(
                    connection,
                    "SELECT id, handle, state FROM nodes WHERE id > ? ORDER BY id LIMIT ?",
                    [after, page(super::PAGE_MAX)],
                    |row| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?, row.get(2)?)),
                    "look for archived nodes after",
                    after,
                )
            })?;
            let states = [FileState::Archived, FileState::Released, FileState::Lost];
            for (_, handle, state) in &rows {
                let state: i64 = *state;
                if states.iter().any(|s| s.code() == state) {
                    sieve.add(handle);
                }
            }
            match rows.last() {
                Some((last, ..)) => sieve.read.store(*last, Ordering::Release),
                None => sieve.whole.store(true, Ordering::Release),
            }
            left = left.saturating_sub(rows.len());
        }
        Ok(true)
    }

    /// What is read before the catalog counts as open.
    pub(super) fn fill_sieve_at_first(&self) -> Result<(), CatalogError> {
        self.fill_sieve(Some(AT_ONCE)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Attributes, Durability, FileKind, Identity, NodeId, Sighting};
    use crate::id::{FsUuid, InstanceId, Timestamp};

    fn handle(n: u32) -> NodeHandle {
        NodeHandle {
            kind: 1,
            bytes: n.to_le_bytes().to_vec(),
        }
    }

    fn noted(catalog: &Catalog, n: u32) -> NodeId {
        let (time, kind) = (Timestamp::default(), FileKind::Regular);
        let seen = Sighting {
            handle: handle(n),
            attributes: Attributes {
                kind,
                mode: 0,
                uid: 0,
                gid: 0,
                size: 1,
                blocks: 0,
                nlink: 1,
                mtime: time,
                ctime: time,
                atime: time,
            },
            place: None,
        };
        let ids = catalog.note(vec![seen], Durability::Full).unwrap();
        ids[0]
    }

    #[test]
    fn whatever_changes_a_state_it_is_kept_at_once_and_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog");
        let identity = Identity {
            instance: InstanceId([1; 16]),
            fs: FsUuid([2; 16]),
        };
        let open = || Catalog::open(&path, identity).unwrap();
        let states = [
            (FileState::None, false),
            (FileState::Archived, true),
            (FileState::Dirty, false),
            (FileState::Released, true),
            (FileState::Lost, true),
        ];
        let catalog = open();
        for (n, (state, _)) in (0..).zip(states) {
            let node = noted(&catalog, n);
            assert!(!catalog.may_be_archived(&handle(n)), "new: {state:?}");
            catalog
                .set_state(node, state, None, Durability::Full)
                .unwrap();
        }
        let check = |catalog: &Catalog| {
            for (n, (state, kept)) in (0..).zip(states) {
                assert_eq!(catalog.may_be_archived(&handle(n)), kept, "{state:?}");
            }
        };
        check(&catalog);
        drop(catalog);
        check(&open());
    }

    #[test]
    fn what_was_put_in_is_never_denied_and_little_else_is_held() {
        let sieve = Sieve::with_room(0);
        let key = |n: u32| n.to_le_bytes();
        assert!(sieve.may_hold(&key(1)), "not whole yet");
        (0..100_000).for_each(|n| sieve.add(&key(n)));
        sieve.whole.store(true, Ordering::Release);
        assert!((0..100_000).all(|n| sieve.may_hold(&key(n))));
        let wrong = (100_000..200_000).filter(|n| sieve.may_hold(&key(*n)));
        let wrong = wrong.count();
        assert!(wrong < 1000, "{wrong} of 100,000");
    }
}
