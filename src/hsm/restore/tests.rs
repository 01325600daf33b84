//! Trees, changed at random, snapshotted and restored; restores that die at every step; snapshots that
//! lie.

use super::*;
use crate::format::aggregate::AggregateWriter;
use crate::format::member::{DataIdentity, Extent, Kind, Member, MemberPath};
use crate::format::namespace::{
    Attributes, Directory, Entry, Fold, Head, Inode, InodeKind, Reader, What, Writer, part_path,
};
use crate::hsm::rig::{MemoryTier, Rig, noise};
use crate::hsm::snapshot::tests::{Series, next_tick};
use crate::hsm::version::coarse_now;
use crate::id::{DataVersion, FileId, FsUuid, NodeHandle};
use cairn_mover::Crc32cHasher;
use proptest::prelude::*;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

mod hostile;
mod series;

/// All names of a listing.
pub(in crate::hsm) fn listed(tier: &MemoryTier, snapshot: AggregateId) -> Vec<String> {
    struct Names(Vec<String>);
    impl Fold for Names {
        type Error = RestoreError;
        fn head(&mut self, _: Head) -> Result<(), RestoreError> {
            Ok(())
        }
        fn directory(&mut self, _: u64, _: u64, _: Directory) -> Result<(), RestoreError> {
            Ok(())
        }
        fn entry(&mut self, _: u64, entry: Entry) -> Result<(), RestoreError> {
            self.0.push(String::from_utf8(entry.name).unwrap());
            Ok(())
        }
    }
    let indexes = IndexCache::new(INDEXES);
    let loaded = indexes.load(tier, tier.mark().tier, snapshot).unwrap();
    let (mut reader, mut names) = (Reader::new(snapshot), Names(Vec::new()));
    for part in &loaded.index().entries {
        for n in 0..part.block_count() {
            let block = find::block(tier, snapshot, part, n).unwrap();
            reader.feed(&block, &mut names).unwrap();
        }
    }
    reader.finish().unwrap();
    names.0
}

/// What was told, by path; how often it was told to be all; how often all was in its place.
#[derive(Default)]
struct Told(BTreeMap<String, (Loss, String)>, u32, u32);

impl Report for Told {
    fn lost(&mut self, path: &[u8], loss: Loss, why: &str) -> io::Result<()> {
        let path = String::from_utf8_lossy(path).into_owned();
        self.0.insert(path, (loss, why.to_owned()));
        Ok(())
    }
    fn told(&mut self) -> io::Result<()> {
        self.1 += 1;
        Ok(())
    }
    fn placed(&mut self) -> io::Result<()> {
        self.2 += 1;
        Ok(())
    }
}

fn order<'a>(
    tier: &'a MemoryTier,
    to: &'a Path,
    reached: &'a dyn Fn(Step) -> io::Result<()>,
) -> Order<'a> {
    Order {
        tier,
        to,
        at: None,
        with_later: false,
        host: "here",
        now: coarse_now(),
        reached,
    }
}

fn restored(tier: &MemoryTier, to: &Path) -> (Outcome, Told) {
    let mut told = Told::default();
    let outcome = restore(&order(tier, to, &|_| Ok(())), &mut told).unwrap();
    (outcome, told)
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: only root restores");
    }
    root
}

/// Everything that can be seen of a tree, by path. Directories' own times, too. Data by identity.
fn seen(root: &Path, backing: &crate::hsm::backing::Backing) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut inodes: BTreeMap<u64, String> = BTreeMap::new();
    let mut left = vec![String::new()];
    while let Some(path) = left.pop() {
        let at = root.join(&path);
        let meta = fs::symlink_metadata(&at).unwrap();
        let fd = backing.open_beneath(path.as_bytes()).unwrap();
        let record = if meta.is_file() {
            backing.record(fd.as_fd()).unwrap()
        } else {
            None
        };
        let first = inodes.entry(meta.ino()).or_insert_with(|| path.clone());
        let kind = meta.mode() & libc::S_IFMT;
        let size = if meta.is_dir() { 0 } else { meta.len() };
        // Looking moves the access time.
        let times = (meta.mtime(), meta.mtime_nsec());
        let data = record.filter(|_| size > 0);
        let data = data.map(|r| (r.file, r.version, r.crc, r.blocks_crc, r.size));
        let mut xattrs = backing.attributes(fd.as_fd()).unwrap();
        xattrs.sort();
        let target = fs::read_link(&at).ok();
        let mode = meta.mode() & 0o7777;
        let mode = if path.is_empty() { 0 } else { mode };
        let shown = format!(
            "{kind:o} {mode:o} {}:{} {size} {times:?} {:?} {first} {data:?} {xattrs:?} {target:?}",
            meta.uid(),
            meta.gid(),
            meta.rdev(),
        );
        if meta.is_dir() {
            for entry in fs::read_dir(&at).unwrap() {
                let name = entry.unwrap().file_name();
                let name = name.to_str().unwrap();
                left.push(if path.is_empty() {
                    name.to_owned()
                } else {
                    format!("{path}/{name}")
                });
            }
        }
        found.insert(path, shown);
    }
    found
}

/// The restored directory as a backing of its own.
fn backing_of(to: &Path) -> crate::hsm::backing::Backing {
    let mark = crate::hsm::backing::Backing::mark_of(to).unwrap().unwrap();
    crate::hsm::backing::Backing::open(to, mark.fs, None).unwrap()
}

#[track_caller]
fn same(rig: &Rig, to: &Path) {
    let (was, is) = (seen(&rig.root, &rig.backing), seen(to, &backing_of(to)));
    for (path, shown) in &was {
        assert_eq!(is.get(path), Some(shown), "{path}");
    }
    for path in is.keys() {
        assert!(was.contains_key(path), "{path} was not there");
    }
}

/// A tree with one of everything, archived.
fn everything(rig: &Rig) {
    rig.write("a/file", &noise(5000, 1));
    rig.write("a/empty", b"");
    rig.write("b/linked", &noise(3000, 2));
    fs::create_dir_all(rig.path("a/none/deep")).unwrap();
    fs::hard_link(rig.path("b/linked"), rig.path("a/link")).unwrap();
    symlink("../nowhere", rig.path("a/soft")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        rig.path("b/pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let no = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(rig.path("a/file"), "user.note", b"\xff\0x", no).unwrap();
    rustix::fs::setxattr(rig.path("b"), "user.note", b"dir", no).unwrap();
    std::os::unix::fs::chown(rig.path("a/file"), Some(1234), Some(4321)).unwrap();
    fs::set_permissions(rig.path("a/file"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::set_permissions(rig.path("b"), fs::Permissions::from_mode(0o2710)).unwrap();
    rig.archived("a/file");
    rig.archived("b/linked");
}

fn head(snapshot: AggregateId, root: NodeHandle) -> Head {
    Head {
        snapshot,
        fs: FsUuid([1; 16]),
        base: None,
        begun: coarse_now(),
        horizon: AggregateId { epoch: 9, seq: 9 },
        root,
    }
}

/// Puts a listing on a tier as a snapshot.
fn put(tier: &MemoryTier, snapshot: AggregateId, listing: &[u8]) {
    let mut bytes = Vec::new();
    let mut writer = AggregateWriter::new(&mut bytes, snapshot, FsUuid([1; 16]), coarse_now());
    let size = listing.len() as u64;
    let member = Member {
        path: MemberPath::new(part_path(snapshot, 1).into_bytes()).unwrap(),
        kind: Kind::Regular {
            size,
            extents: vec![Extent {
                offset: 0,
                len: size,
            }],
        },
        mode: 0o600,
        uid: 0,
        gid: 0,
        mtime: coarse_now(),
        atime: coarse_now(),
        ctime: coarse_now(),
        xattrs: Vec::new(),
        identity: Some(DataIdentity {
            file: FileId::random(),
            version: DataVersion(1),
            crc: None,
        }),
    };
    writer.add(&member, &mut &*listing).unwrap();
    writer.finish().unwrap();
    let mut put = tier.put(snapshot, 0).unwrap();
    std::io::Write::write_all(&mut put, &bytes).unwrap();
    let mut sum = Crc32cHasher::default();
    sum.update(&bytes);
    put.finish(sum.sum()).unwrap();
}
