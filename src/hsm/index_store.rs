//! Indexes of aggregates in the state directory: holes and recalls of released files need no read
//! of a tier for them, also after a restart.
//!
//! A file is an index as it lies in its aggregate (docs/format.md), which carries its own sums.
//! What cannot be written is not kept, and what cannot be read, or is damaged, is dropped and
//! fetched anew: nothing here is anything's only copy.
//!
//! Invariants: a file has its name only once it is whole and synced; the files sum to at most the
//! bound; those used least recently go first; the state directory's last free space is left to
//! the catalog (P13).

use crate::format::aggregate::{Index, encode_index, find_index};
use crate::id::{AggregateId, TierId};
use lru::LruCache;
use parking_lot::Mutex;
use std::fs::{self, File, FileTimes};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// Free space of the state directory's filesystem that is not touched, bytes.
const LEFT_FREE: u64 = 128 << 20;
/// End of the name of a file that is not whole yet.
const FRESH: &str = ".new";

/// See the module.
pub struct IndexStore {
    dir: PathBuf,
    bound: u64,
    kept: Mutex<Kept>,
    fresh: AtomicU64,
}

struct Kept {
    /// Lengths by name, the least recently used first.
    files: LruCache<String, u64>,
    bytes: u64,
}

fn name_of(tier: TierId, aggregate: AggregateId) -> String {
    format!("{tier}-{aggregate}.index")
}

impl IndexStore {
    /// The store in `dir`, made if absent, of at most `bound` bytes; 0 keeps nothing.
    ///
    /// # Errors
    /// The directory cannot be made or listed.
    pub fn open(dir: &Path, bound: u64) -> io::Result<Self> {
        let made = fs::DirBuilder::new().mode(0o700).create(dir);
        made.or_else(|why| match why.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(why),
        })?;
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if name.ends_with(FRESH) {
                // Of a process that ended in the middle of it.
                let _ = fs::remove_file(entry.path());
            } else if name.ends_with(".index") {
                let facts = entry.metadata()?;
                found.push((facts.modified()?, name, facts.len()));
            }
        }
        found.sort_unstable();
        let mut kept = Kept {
            files: LruCache::unbounded(),
            bytes: 0,
        };
        for (_, name, len) in found {
            kept.bytes += len;
            kept.files.put(name, len);
        }
        let store = Self {
            dir: dir.to_owned(),
            bound,
            kept: Mutex::new(kept),
            fresh: AtomicU64::new(0),
        };
        store.shrink(&mut store.kept.lock());
        Ok(store)
    }

    /// The index of an aggregate, if it is here and whole, and the length of its file. Reads the
    /// disk.
    #[must_use]
    pub fn get(&self, tier: TierId, aggregate: AggregateId) -> Option<(Index, u64)> {
        let name = name_of(tier, aggregate);
        self.kept.lock().files.get(&name)?;
        match self.read(&name, aggregate) {
            Ok(found) => Some(found),
            Err(why) => {
                tracing::warn!(%why, name, "an index in the state directory is dropped");
                let mut kept = self.kept.lock();
                if let Some(len) = kept.files.pop(&name) {
                    kept.bytes -= len;
                    let _ = fs::remove_file(self.dir.join(name));
                }
                None
            }
        }
    }

    fn read(&self, name: &str, aggregate: AggregateId) -> io::Result<(Index, u64)> {
        let path = self.dir.join(name);
        let bytes = fs::read(&path)?;
        // Where in its object it lay is not known: members' places are compared with nothing.
        let index = find_index(&bytes, u64::MAX).map_err(io::Error::other)?;
        if index.aggregate != aggregate {
            return Err(io::Error::other("it is another aggregate's"));
        }
        // The next start orders files by it.
        let used = FileTimes::new().set_modified(SystemTime::now());
        let _ = File::open(&path).and_then(|file| file.set_times(used));
        Ok((index, bytes.len() as u64))
    }

    /// Its aggregate is gone.
    pub fn forget(&self, tier: TierId, aggregate: AggregateId) {
        let name = name_of(tier, aggregate);
        let mut kept = self.kept.lock();
        if let Some(len) = kept.files.pop(&name) {
            kept.bytes -= len;
            let _ = fs::remove_file(self.dir.join(name));
        }
    }

    /// Keeps an index, if there is room for it.
    pub fn put(&self, tier: TierId, index: &Index) {
        let name = name_of(tier, index.aggregate);
        if self.bound == 0 || self.kept.lock().files.contains(&name) {
            return;
        }
        let bytes = encode_index(index);
        let len = bytes.len() as u64;
        if len > self.bound {
            return;
        }
        match self.write(&name, &bytes) {
            Ok(true) => {
                let mut kept = self.kept.lock();
                if let Some(old) = kept.files.put(name, len) {
                    kept.bytes -= old;
                }
                kept.bytes += len;
                self.shrink(&mut kept);
            }
            Ok(false) => tracing::debug!(name, "no room for an index in the state directory"),
            Err(why) => tracing::warn!(%why, name, "an index could not be kept"),
        }
    }

    /// `false`: no room.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<bool> {
        let room = rustix::fs::statvfs(&self.dir)?;
        if room.f_bavail.saturating_mul(room.f_frsize) < LEFT_FREE + bytes.len() as u64 {
            return Ok(false);
        }
        let number = self.fresh.fetch_add(1, Ordering::Relaxed);
        let fresh = self.dir.join(format!("{name}.{number}{FRESH}"));
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)?;
        let written = file
            .write_all(bytes)
            .and_then(|()| file.sync_data())
            .and_then(|()| fs::rename(&fresh, self.dir.join(name)));
        if written.is_err() {
            let _ = fs::remove_file(&fresh);
        }
        written.map(|()| true)
    }

    fn shrink(&self, kept: &mut Kept) {
        while kept.bytes > self.bound {
            let Some((name, len)) = kept.files.pop_lru() else {
                break;
            };
            kept.bytes -= len;
            if let Err(why) = fs::remove_file(self.dir.join(&name)) {
                tracing::debug!(%why, name, "an index could not be removed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::aggregate::AggregateError;
    use crate::hsm::recall::tests::rig::Rig;
    use std::sync::Arc;

    /// Indexes of as many aggregates.
    fn indexes(rig: &Rig, count: usize) -> Vec<(TierId, Index)> {
        let index = |n: usize| {
            let stub = rig.dense(&format!("file {n}"), 1000);
            let copy = stub.record.copies[0];
            let loaded = rig
                .recaller
                .indexes()
                .load(&*rig.tier(), copy.tier, copy.aggregate);
            (copy.tier, loaded.expect("loaded").index().clone())
        };
        (0..count).map(index).collect()
    }

    #[test]
    fn what_was_put_is_there_after_a_restart() {
        let (rig, dir) = (Rig::new(), tempfile::tempdir().expect("a directory"));
        let all = indexes(&rig, 2);
        let store = IndexStore::open(dir.path(), 1 << 20).expect("open");
        let (tier, one) = &all[0];
        assert!(store.get(*tier, one.aggregate).is_none());
        store.put(*tier, one);
        let again = IndexStore::open(dir.path(), 1 << 20).expect("open");
        for store in [&store, &again] {
            let (found, _) = store.get(*tier, one.aggregate).expect("there");
            assert_eq!(&found, one);
            assert!(store.get(*tier, all[1].1.aggregate).is_none());
            assert!(store.get(TierId(99), one.aggregate).is_none());
        }
    }

    #[test]
    fn damage_is_seen_and_dropped() {
        let (rig, dir) = (Rig::new(), tempfile::tempdir().expect("a directory"));
        let all = indexes(&rig, 2);
        let ((tier, one), (_, two)) = (&all[0], &all[1]);
        let path = dir.path().join(name_of(*tier, one.aggregate));
        let store = IndexStore::open(dir.path(), 1 << 20).expect("open");
        store.put(*tier, one);
        let good = fs::read(&path).expect("written");
        let check = |bytes: &[u8], what: &str| {
            fs::write(&path, bytes).expect("damaged");
            let store = IndexStore::open(dir.path(), 1 << 20).expect("open");
            assert!(store.get(*tier, one.aggregate).is_none(), "{what}");
            assert!(!path.exists(), "{what}: dropped");
            store.put(*tier, one);
            assert!(store.get(*tier, one.aggregate).is_some(), "fetched anew");
        };
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).expect("damaged");
            let found = find_index(&bad, u64::MAX);
            let damaged = matches!(
                found,
                Err(AggregateError::DamagedIndex(_) | AggregateError::Newer(_))
            );
            assert!(damaged, "bit of byte {at}");
        }
        let mut bad = good.clone();
        bad[good.len() - 1] ^= 1;
        check(&bad, "a bit");
        check(&good[..good.len() - 1], "cut short");
        check(&[], "empty");
        check(&encode_index(two), "another's");
    }

    #[test]
    fn the_bound_is_kept_and_the_least_recently_used_go() {
        let (rig, dir) = (Rig::new(), tempfile::tempdir().expect("a directory"));
        let all = indexes(&rig, 3);
        let tier = all[0].0;
        let len = |n: usize| encode_index(&all[n].1).len() as u64;
        let bound = len(0) + len(1) + len(2) - 1;
        let store = IndexStore::open(dir.path(), bound).expect("open");
        let there = |store: &IndexStore, n: usize| {
            let found = store.kept.lock();
            found.files.contains(&name_of(tier, all[n].1.aggregate))
        };
        store.put(tier, &all[0].1);
        store.put(tier, &all[1].1);
        assert!(store.get(tier, all[0].1.aggregate).is_some(), "used");
        store.put(tier, &all[2].1);
        assert!(there(&store, 0) && !there(&store, 1) && there(&store, 2));
        let files = fs::read_dir(dir.path()).expect("listed").count();
        assert_eq!(files, 2);
        // A smaller bound at the next start; and what was half written goes.
        fs::write(dir.path().join("x.index.0.new"), b"half").expect("written");
        let smaller = IndexStore::open(dir.path(), 1).expect("open");
        assert!(!there(&smaller, 0) && !there(&smaller, 2));
        smaller.put(tier, &all[0].1);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0);
    }

    #[test]
    fn a_restarted_cache_needs_no_tier() {
        let (rig, dir) = (Rig::new(), tempfile::tempdir().expect("a directory"));
        let stub = rig.dense("file", 1000);
        let copy = stub.record.copies[0];
        let cache = || {
            let store = IndexStore::open(dir.path(), 1 << 20).expect("open");
            crate::hsm::index_cache::IndexCache::with_store(1 << 20, Some(Arc::new(store)))
        };
        let tier = rig.tier();
        let found = cache().find(&*tier, &copy, &stub.record);
        assert!(found.expect("loaded").is_some());
        tier.control().set_unavailable(true);
        let found = cache().at_hand(&copy, &stub.record).expect("at hand");
        assert_eq!(found.header, copy.header);
        let found = cache().find(&*tier, &copy, &stub.record);
        assert!(found.expect("without the tier").is_some());
    }
}
