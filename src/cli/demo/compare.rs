//! Compares two trees: every name, type, attribute and byte. What differs is listed, not counted
//! away.

use rustix::fs::{lgetxattr, llistxattr};
use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What was compared, and what was not equal.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Regular files read on both sides.
    pub(super) files: u64,
    /// Bytes read on each side.
    pub(super) bytes: u64,
    /// One line a difference.
    pub(super) differences: Vec<String>,
    /// First name seen of each inode with several: left inode to right inode.
    links: HashMap<(u64, u64), (u64, u64)>,
}

/// What to compare beyond names, types and bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Care {
    /// Owner and group; only root can copy them.
    pub(super) owners: bool,
    /// Link counts (not where a tree was copied in part).
    pub(super) contents: bool,
}

impl Comparison {
    /// Compares `right` with `left`, both whole.
    pub(super) fn trees(&mut self, left: &Path, right: &Path, care: Care) {
        if let Err(e) = self.node(left, right, care) {
            self.differences.push(format!("{}: {e}", right.display()));
        }
    }

    fn node(&mut self, left: &Path, right: &Path, care: Care) -> io::Result<()> {
        let (l, r) = (fs::symlink_metadata(left)?, fs::symlink_metadata(right)?);
        for what in attributes(&l, &r, care) {
            self.differences
                .push(format!("{}: {what}", right.display()));
        }
        if !l.is_symlink() {
            self.xattrs(left, right)?;
        }
        if l.file_type() != r.file_type() {
            return Ok(());
        }
        if l.is_symlink() {
            if fs::read_link(left)? != fs::read_link(right)? {
                self.differences
                    .push(format!("{}: points elsewhere", right.display()));
            }
        } else if l.is_dir() {
            self.directory(left, right, care)?;
        } else if l.is_file() {
            self.file(left, right, (&l, &r), care)?;
        }
        Ok(())
    }

    fn directory(&mut self, left: &Path, right: &Path, care: Care) -> io::Result<()> {
        let names = |at: &Path| -> io::Result<Vec<_>> {
            let mut names: Vec<_> = fs::read_dir(at)?
                .map(|e| e.map(|e| e.file_name()))
                .collect::<Result<_, _>>()?;
            names.sort();
            Ok(names)
        };
        let (l, r) = (names(left)?, names(right)?);
        for missing in l.iter().filter(|n| r.binary_search(n).is_err()) {
            self.differences
                .push(format!("{}: missing", right.join(missing).display()));
        }
        for extra in r.iter().filter(|n| l.binary_search(n).is_err()) {
            self.differences.push(format!(
                "{}: not in the original",
                right.join(extra).display()
            ));
        }
        for name in l.iter().filter(|n| r.binary_search(n).is_ok()) {
            self.trees(&left.join(name), &right.join(name), care);
        }
        Ok(())
    }

    fn file(
        &mut self,
        left: &Path,
        right: &Path,
        meta: (&Metadata, &Metadata),
        care: Care,
    ) -> io::Result<()> {
        let (l, r) = meta;
        if l.nlink() > 1 || r.nlink() > 1 {
            let pair = (r.dev(), r.ino());
            if *self.links.entry((l.dev(), l.ino())).or_insert(pair) != pair && r.nlink() > 1 {
                self.differences
                    .push(format!("{}: hard link to another file", right.display()));
            }
        }
        if !care.contents {
            return Ok(());
        }
        let (mut a, mut b) = (File::open(left)?, File::open(right)?);
        let (mut x, mut y) = (vec![0; 1 << 20], vec![0; 1 << 20]);
        let mut offset = 0_u64;
        loop {
            let (n, m) = (fill(&mut a, &mut x)?, fill(&mut b, &mut y)?);
            if n != m || x[..n] != y[..m] {
                self.differences
                    .push(format!("{}: bytes differ after {offset}", right.display()));
                break;
            }
            if n == 0 {
                break;
            }
            offset += n as u64;
        }
        self.files += 1;
        self.bytes += offset;
        Ok(())
    }

    fn xattrs(&mut self, left: &Path, right: &Path) -> io::Result<()> {
        let (l, r) = (xattrs(left)?, xattrs(right)?);
        if l != r {
            self.differences
                .push(format!("{}: extended attributes differ", right.display()));
        }
        Ok(())
    }
}

fn attributes(l: &Metadata, r: &Metadata, care: Care) -> Vec<String> {
    let mut found = Vec::new();
    if l.file_type() != r.file_type() {
        found.push("another type".to_owned());
    }
    if l.mode() != r.mode() {
        found.push(format!("mode {:o} instead of {:o}", r.mode(), l.mode()));
    }
    if !l.is_dir() && l.size() != r.size() {
        found.push(format!("size {} instead of {}", r.size(), l.size()));
    }
    if (l.mtime(), l.mtime_nsec()) != (r.mtime(), r.mtime_nsec()) {
        found.push(format!(
            "mtime {}.{:09} instead of {}.{:09}",
            r.mtime(),
            r.mtime_nsec(),
            l.mtime(),
            l.mtime_nsec()
        ));
    }
    if care.owners && (l.uid(), l.gid()) != (r.uid(), r.gid()) {
        found.push(format!(
            "owner {}:{} instead of {}:{}",
            r.uid(),
            r.gid(),
            l.uid(),
            l.gid()
        ));
    }
    found
}

fn fill(from: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match from.read(&mut buffer[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(have)
}

fn xattrs(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0_u8; 1 << 16];
    let len = match llistxattr(path, &mut names) {
        Ok(len) => len,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(e) => return Err(e.into()),
    };
    let mut found = Vec::new();
    for name in names[..len].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0_u8; 1 << 16];
        let len = lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut value)?;
        value.truncate(len);
        found.push((name.to_owned(), value));
    }
    found.sort();
    Ok(found)
}
