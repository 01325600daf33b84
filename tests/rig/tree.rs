//! Trees of files: a varied one to put in, and a picture of one to compare with.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Deterministic bytes that do not compress and differ at every offset.
pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// A small tree with one of everything that users have. Names of the regular files of 64 KiB and more.
pub(crate) fn varied(root: &Path) -> Result<Vec<String>> {
    let dirs = ["a", "a/b c", "a/b c/d", "empty dir", "sgid"];
    for dir in dirs {
        fs::create_dir(root.join(dir)).with_context(|| dir.to_owned())?;
    }
    let mut large = Vec::new();
    let files: [(&str, usize); 8] = [
        ("empty", 0),
        ("one byte", 1),
        ("a/small", 5000),
        ("a/64k", 65536),
        ("a/b c/300k", 300_001),
        ("a/b c/d/3m", 3_000_000),
        ("a/b c/d/9m", 9_437_185),
        ("sgid/100k", 100_000),
    ];
    for (n, (name, len)) in files.into_iter().enumerate() {
        fs::write(root.join(name), bytes(n as u64 + 1, len))?;
        if len >= 65536 {
            large.push(name.to_owned());
        }
    }
    let sparse = File::create(root.join("sparse"))?;
    sparse.set_len(20 << 20)?;
    sparse.write_all_at(&bytes(77, 150_000), 1 << 20)?;
    sparse.write_all_at(&bytes(78, 100_000), 17 << 20)?;
    large.push("sparse".into());
    fs::hard_link(root.join("a/b c/300k"), root.join("a/hard link"))?;
    symlink("b c/300k", root.join("a/symlink"))?;
    symlink("nowhere", root.join("dangling"))?;
    fs::write(
        root.join(OsStr::from_bytes(b"not \xff UTF-8 \n")),
        bytes(90, 70_000),
    )?;
    fs::write(root.join("n".repeat(255)), bytes(91, 70_000))?;
    fs::set_permissions(root.join("a/64k"), fs::Permissions::from_mode(0o4711))?;
    fs::set_permissions(root.join("sgid"), fs::Permissions::from_mode(0o2770))?;
    rustix::fs::setxattr(
        root.join("a/64k"),
        "user.note",
        b"\x00binary\xff",
        rustix::fs::XattrFlags::empty(),
    )?;
    for (n, (name, _)) in files.into_iter().enumerate() {
        let when =
            std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000 + n as u64, 123_456_789);
        File::open(root.join(name))?.set_modified(when)?;
    }
    Ok(large)
}

/// Everything about one name that must survive.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    mode: u32,
    owner: (u32, u32),
    size: u64,
    mtime: (i64, i64),
    links: u64,
    target: Option<PathBuf>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    content: Option<u64>,
}

impl Facts {
    /// The same, but for owners and what modes say beyond who may.
    pub(crate) fn is_but_for_rights(&self, other: &Self) -> bool {
        let plain = |mode: u32| mode & 0o170_777;
        let of = |f: &Self| (plain(f.mode), f.size, f.mtime, f.links, f.content);
        of(self) == of(other) && self.target == other.target
    }

    /// The same, but for the time of a directory (bsdtar leaves that of one that was there before:
    /// docs/format.md).
    pub(crate) fn is_but_for_directory_time(&self, other: &Self) -> bool {
        let directory = self.mode & 0o170_000 == 0o040_000;
        let time = if directory { other.mtime } else { self.mtime };
        (self.mode, self.owner, self.size, time, self.links)
            == (
                other.mode,
                other.owner,
                other.size,
                other.mtime,
                other.links,
            )
            && (&self.target, &self.xattrs, self.content)
                == (&other.target, &other.xattrs, other.content)
    }
}

/// A picture of a whole tree, by relative path.
pub(crate) fn picture(root: &Path) -> Result<BTreeMap<PathBuf, Facts>> {
    let mut found = BTreeMap::new();
    walk(root, root, &mut found)?;
    Ok(found)
}

fn walk(root: &Path, at: &Path, found: &mut BTreeMap<PathBuf, Facts>) -> Result<()> {
    for entry in fs::read_dir(at)? {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        let content = if meta.is_file() {
            Some(hash(&fs::read(&path)?))
        } else {
            None
        };
        let facts = Facts {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            size: if meta.is_dir() { 0 } else { meta.size() },
            mtime: (meta.mtime(), meta.mtime_nsec()),
            links: if meta.is_dir() { 0 } else { meta.nlink() },
            target: if meta.is_symlink() {
                Some(fs::read_link(&path)?)
            } else {
                None
            },
            xattrs: if meta.is_symlink() {
                Vec::new()
            } else {
                xattrs(&path)?
            },
            content,
        };
        found.insert(path.strip_prefix(root)?.to_owned(), facts);
        if meta.is_dir() {
            walk(root, &path, found)?;
        }
    }
    Ok(())
}

/// FNV-1a: another sum than the one that is under test.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn xattrs(path: &Path) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0_u8; 65536];
    let len = rustix::fs::llistxattr(path, &mut names)?;
    let mut found = Vec::new();
    for name in names[..len].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0_u8; 65536];
        let len = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value)?;
        value.truncate(len);
        found.push((name.to_owned(), value));
    }
    found.sort();
    Ok(found)
}
