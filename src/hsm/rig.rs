//! What the tests of this level share: a backing on a real filesystem, a tier in memory that can be
//! watched and damaged, a gate, mappings, and filesystem images that unmount themselves.

mod image;
mod mapping;
mod memory;

pub(crate) use image::Image;
pub(crate) use mapping::Mapping;
pub(crate) use memory::MemoryTier;

use crate::format::record::{CopyHint, Record};
use crate::hsm::archive::{self, Batch, Item, Outcome, Report};
use crate::hsm::backing::{Backing, How, SealKey};
use crate::hsm::release::{self, Order, Permit, Proof, Refusal, Released};
use crate::hsm::version::{Seen, Trust, coarse_now};
use crate::id::{AggregateId, FsUuid, NodeHandle};
use cairn_fuse::{Gate, Hold};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Stands in for a mount: nodes can be declared open.
#[derive(Default)]
pub(crate) struct TestGate {
    pub(crate) open: Mutex<HashSet<NodeHandle>>,
    pub(crate) changed: Mutex<Vec<NodeHandle>>,
    pub(crate) named: Mutex<Vec<(NodeHandle, Vec<u8>)>>,
}

struct Held;
impl Hold for Held {}

impl Gate for TestGate {
    fn hold(&self, node: &NodeHandle) -> Option<Box<dyn Hold>> {
        if self.open.lock().contains(node) {
            None
        } else {
            Some(Box::new(Held))
        }
    }
    fn changed(&self, node: &NodeHandle) {
        self.changed.lock().push(node.clone());
    }
    fn named(&self, directory: &NodeHandle, name: &[u8]) {
        self.named.lock().push((directory.clone(), name.to_vec()));
    }
}

/// Everything that archive and release need, on one directory.
pub(crate) struct Rig {
    pub(crate) root: PathBuf,
    pub(crate) backing: Backing,
    pub(crate) tier: MemoryTier,
    pub(crate) gate: TestGate,
    seq: Mutex<u64>,
    _dir: Option<tempfile::TempDir>,
}

impl Rig {
    /// On the filesystem of the temporary directory.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("backing");
        std::fs::create_dir(&root).unwrap();
        Self {
            _dir: Some(dir),
            ..Self::on(&root)
        }
    }

    /// On a directory that somebody else cleans up.
    pub(crate) fn on(root: &Path) -> Self {
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o700)).unwrap();
        let backing = Backing::open(root, FsUuid([5; 16]), Some(SealKey([3; 32]))).unwrap();
        Self {
            root: root.to_owned(),
            backing,
            tier: MemoryTier::default(),
            gate: TestGate::default(),
            seq: Mutex::new(0),
            _dir: None,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Writes a file (and the directories to it).
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub(crate) fn open(&self, name: &str, how: How) -> OwnedFd {
        let path = self.backing.open_beneath(name.as_bytes()).unwrap();
        if how == How::Path {
            path
        } else {
            self.backing.reopen(path.as_fd(), how).unwrap()
        }
    }

    pub(crate) fn node(&self, name: &str) -> NodeHandle {
        self.backing
            .handle_of(self.open(name, How::Path).as_fd())
            .unwrap()
    }

    pub(crate) fn item(&self, name: &str) -> Item {
        let names = vec![name.as_bytes().to_vec()];
        Item {
            node: self.node(name),
            names,
            prior: None,
        }
    }

    pub(crate) fn record(&self, name: &str) -> Option<Record> {
        self.backing
            .record(self.open(name, How::Path).as_fd())
            .unwrap()
    }

    pub(crate) fn blocks(&self, name: &str) -> u64 {
        self.backing
            .stat(self.open(name, How::Path).as_fd())
            .unwrap()
            .blocks
    }

    pub(crate) fn next_aggregate(&self) -> AggregateId {
        let mut seq = self.seq.lock();
        *seq += 1;
        AggregateId {
            epoch: 1,
            seq: *seq,
        }
    }

    /// Archives items with a catalog that accepts everything.
    pub(crate) fn archive_items(&self, items: &[Item]) -> Report {
        let batch = Batch {
            backing: &self.backing,
            tier: &self.tier,
            aggregate: self.next_aggregate(),
            composed: coarse_now(),
            items,
            given: &|_| Ok(crate::id::DataVersion(0)),
            sealed: &|| {},
            unwanted: None,
            resumed: &|| {},
        };
        archive::archive(batch, &|| false, &mut |_| Ok(())).unwrap()
    }

    pub(crate) fn archive(&self, names: &[&str]) -> Report {
        let items: Vec<_> = names.iter().map(|n| self.item(n)).collect();
        self.archive_items(&items)
    }

    /// Archives one file, which must succeed; what the catalog would keep for it.
    pub(crate) fn archived(&self, name: &str) -> Seen {
        let once = || match self.archive(&[name]).outcomes.pop() {
            Some(Outcome::Archived(done)) => {
                done.recorded.map(|r| r.seen).map_err(|e| e.to_string())
            }
            other => Err(format!("{other:?}")),
        };
        patiently(once, |_| true).unwrap_or_else(|other| panic!("{name}: {other}"))
    }

    /// Releases with a catalog that believes the record's copies.
    pub(crate) fn release(
        &self,
        name: &str,
        seen: Option<(&Seen, Trust)>,
    ) -> Result<Released, Refusal> {
        self.release_with(name, seen, &|record| Ok(record.copies.clone()))
    }

    pub(crate) fn release_with(
        &self,
        name: &str,
        seen: Option<(&Seen, Trust)>,
        prove: &dyn Fn(&Record) -> Result<Vec<CopyHint>, String>,
    ) -> Result<Released, Refusal> {
        // What is known is known of the version in the record.
        let proof = seen
            .zip(self.record(name))
            .map(|((seen, trust), record)| Proof {
                file: record.file,
                version: record.version,
                seen,
                trust,
            });
        self.release_proven(name, proof, prove)
    }

    pub(crate) fn release_proven(
        &self,
        name: &str,
        seen: Option<Proof<'_>>,
        prove: &dyn Fn(&Record) -> Result<Vec<CopyHint>, String>,
    ) -> Result<Released, Refusal> {
        let node = self.node(name);
        let hint = Some(name.as_bytes());
        let order = Order {
            node: &node,
            hint,
            min_size: 4096,
            copies: 1,
            seen,
            prove,
            note: &|| Ok(()),
        };
        let permit = Permit::of(&self.backing, false).unwrap();
        let in_use = |why: &Refusal| matches!(why, Refusal::InUse);
        patiently(|| release::release(permit, &self.gate, &order), in_use)
    }
}

/// Tries again a few times while a file is in use: between fork and exec a child process of some
/// other test shares every descriptor for a moment.
pub(crate) fn patiently<T, E>(
    mut step: impl FnMut() -> Result<T, E>,
    in_use: impl Fn(&E) -> bool,
) -> Result<T, E> {
    for _ in 0..10 {
        match step() {
            Err(why) if in_use(&why) => std::thread::sleep(std::time::Duration::from_millis(2)),
            done => return done,
        }
    }
    step()
}

/// Bytes that no filesystem compresses or finds twice.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(|| next().to_le_bytes())
        .take(len.div_ceil(8))
        .flatten()
        .collect();
    bytes.truncate(len);
    bytes
}
