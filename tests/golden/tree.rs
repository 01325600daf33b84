//! What lies in a restored directory, in the words of [`Member`].

use cairn::format::member::{Kind, Member, MemberPath};
use cairn::id::Timestamp;
use cairn_mover::{Crc32c, Crc32cHasher};
use rustix::fs::{Mode, OFlags, SeekFrom};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// One name as found, or as expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) kind: String,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: Timestamp,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

pub(crate) type Tree = BTreeMap<Vec<u8>, Found>;

/// What restoring `members` must give; sums of contents by path.
pub(crate) fn expected(members: &[Member], sums: &BTreeMap<Vec<u8>, Crc32c>) -> Tree {
    let mut tree = Tree::new();
    for member in members.iter().filter(|m| m.kind != Kind::Socket) {
        let of = match &member.kind {
            Kind::HardLink { target } => members.iter().find(|m| m.path == *target).unwrap(),
            _ => member,
        };
        let kind = match &of.kind {
            Kind::Regular { size, .. } => {
                let links = members
                    .iter()
                    .filter(|m| matches!(&m.kind, Kind::HardLink { target } if *target == of.path));
                let sum = sums[of.path.as_bytes()];
                format!("file {size} {sum} links {}", links.count() + 1)
            }
            Kind::Symlink { target } => format!("link {}", target.escape_ascii()),
            Kind::Directory => "directory".to_owned(),
            Kind::Fifo => "fifo".to_owned(),
            Kind::CharDevice { major, minor } => format!("char {major} {minor}"),
            Kind::BlockDevice { major, minor } => format!("block {major} {minor}"),
            Kind::HardLink { .. } | Kind::Socket => unreachable!("not as a target"),
        };
        let mut xattrs = of.xattrs.clone();
        xattrs.sort();
        let found = Found {
            mode: if matches!(of.kind, Kind::Symlink { .. }) {
                0o777
            } else {
                of.mode
            },
            kind,
            owner: (of.uid, of.gid),
            mtime: of.mtime,
            xattrs,
        };
        tree.insert(member.path.as_bytes().to_vec(), found);
    }
    tree
}

/// Walks `root`; its own entry has the empty path.
pub(crate) fn walk(root: &Path) -> Tree {
    let mut tree = Tree::new();
    visit(root, root, &mut tree);
    tree
}

fn visit(root: &Path, at: &Path, tree: &mut Tree) {
    let meta = fs::symlink_metadata(at).unwrap();
    let device = |word: &str| {
        let rdev = meta.rdev();
        format!(
            "{word} {} {}",
            rustix::fs::major(rdev),
            rustix::fs::minor(rdev)
        )
    };
    let kind = match meta.file_type() {
        t if t.is_file() => {
            format!(
                "file {} {} links {}",
                meta.len(),
                sum(at, meta.len()),
                meta.nlink()
            )
        }
        t if t.is_symlink() => {
            let target = fs::read_link(at).unwrap().into_os_string().into_vec();
            format!("link {}", target.escape_ascii())
        }
        t if t.is_dir() => "directory".to_owned(),
        t if t.is_fifo() => "fifo".to_owned(),
        t if t.is_char_device() => device("char"),
        t if t.is_block_device() => device("block"),
        other => format!("{other:?}"),
    };
    let found = Found {
        kind,
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        mtime: Timestamp {
            sec: meta.mtime(),
            nsec: meta.mtime_nsec() as u32,
        },
        xattrs: xattrs(at),
    };
    let name = at
        .strip_prefix(root)
        .unwrap()
        .as_os_str()
        .as_bytes()
        .to_vec();
    assert!(MemberPath::new(name.clone()).is_ok());
    tree.insert(name, found);
    if meta.is_dir() {
        for entry in fs::read_dir(at).unwrap() {
            visit(root, &entry.unwrap().path(), tree);
        }
    }
}

fn xattrs(at: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0_u8; 65_536];
    let len = rustix::fs::llistxattr(at, &mut names[..]).unwrap();
    let mut out = Vec::new();
    for name in names[..len].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let mut value = vec![0_u8; 65_536];
        let len = rustix::fs::lgetxattr(at, name, &mut value[..]).unwrap();
        out.push((name.to_vec(), value[..len].to_vec()));
    }
    out.sort();
    out
}

/// The sum of a file's content; holes are not read.
fn sum(at: &Path, size: u64) -> Crc32c {
    let fd = rustix::fs::open(at, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let mut file = File::from(fd);
    let mut hasher = Crc32cHasher::default();
    while hasher.len() < size {
        let Ok(data) = rustix::fs::seek(&file, SeekFrom::Data(hasher.len())) else {
            hasher.zeros(size - hasher.len());
            break;
        };
        let hole = rustix::fs::seek(&file, SeekFrom::Hole(data)).unwrap();
        hasher.zeros(data - hasher.len());
        rustix::fs::seek(&file, SeekFrom::Start(data)).unwrap();
        let mut bytes = Vec::new();
        (&mut file)
            .take(hole - data)
            .read_to_end(&mut bytes)
            .unwrap();
        hasher.update(&bytes);
    }
    hasher.sum()
}
