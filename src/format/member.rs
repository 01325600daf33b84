//! A member: everything a filesystem knows about one name, as it goes into an aggregate.
//!
//! Invariant: a [`MemberPath`] names a place below the namespace's root and nothing else; it is
//! the only way anything decoded can name a place.

use crate::id::{DataVersion, FileId, Timestamp};
use cairn_mover::Crc32c;
use std::fmt;

/// Longest component of a path, bytes.
pub const MAX_NAME: usize = 255;
/// Data runs come in multiples of this many bytes, but for the last of a file: GNU tar begins
/// each run of a sparse member at a block of the archive, bsdtar does not; both agree only so.
pub const RUN: u64 = 512;

/// A namespace-relative path: no leading or trailing slash, no empty, `.` or `..` component, no
/// NUL, each component at most 255 bytes. The root of the namespace itself is the empty path.
/// Any other bytes are allowed; names are not text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberPath(Vec<u8>);

impl MemberPath {
    /// Checks `bytes`.
    ///
    /// # Errors
    /// [`BadPath`] says what is wrong with it.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, BadPath> {
        let bytes = bytes.into();
        match Self::fault(&bytes) {
            None => Ok(Self(bytes)),
            Some(why) => Err(BadPath {
                path: shortened(&bytes),
                why,
            }),
        }
    }

    /// The root of the namespace: the empty path.
    #[must_use]
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// The path's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The components from the root down; none for the root itself.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|c| !c.is_empty())
    }

    /// What is wrong with `bytes` as a path, if anything.
    fn fault(bytes: &[u8]) -> Option<&'static str> {
        if bytes.is_empty() {
            return None;
        }
        if bytes.contains(&0) {
            return Some("it holds a NUL");
        }
        bytes
            .split(|b| *b == b'/')
            .find_map(|component| match component {
                b"" => Some("it holds an empty component, or begins or ends with a slash"),
                b"." => Some("it holds the component `.`"),
                b".." => Some("it holds the component `..`"),
                long if long.len() > MAX_NAME => Some("a component is longer than 255 bytes"),
                _ => None,
            })
    }
}

impl fmt::Debug for MemberPath {
    /// In quotes, with whatever is not printable ASCII escaped: nothing is lost.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Display for MemberPath {
    /// Lossy where the name is not UTF-8; the root shows as `.`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(".");
        }
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

/// At most the first 200 bytes, lossily, for messages.
pub(super) fn shortened(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(200)];
    let mut text = String::from_utf8_lossy(head).into_owned();
    if head.len() < bytes.len() {
        text.push('…');
    }
    text
}

/// Why bytes are no member path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} cannot be a member: {why}")]
pub struct BadPath {
    /// The bytes, lossily, shortened.
    pub path: String,
    /// What is wrong.
    pub why: &'static str,
}

/// A run of data in a file: logical `offset` and `len`, in bytes. What lies between runs is holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Where the run starts in the file.
    pub offset: u64,
    /// How long it is; never 0.
    pub len: u64,
}

/// Widens runs of data to whole [`RUN`]s, joins those that then touch, and drops what lies behind
/// `size`. What `SEEK_DATA` tells on local filesystems is so already; a caller that has its runs
/// from elsewhere passes them through here *before* it reads the data (holes read as zeros).
#[must_use]
pub fn whole_runs(size: u64, runs: impl IntoIterator<Item = Extent>) -> Vec<Extent> {
    let mut out: Vec<Extent> = Vec::new();
    for run in runs {
        let start = run.offset - run.offset % RUN;
        let end = run.offset.saturating_add(run.len);
        let end = end.checked_next_multiple_of(RUN).unwrap_or(end).min(size);
        match out.last_mut() {
            Some(last) if start <= last.offset + last.len => {
                last.len = last.len.max(end.saturating_sub(last.offset));
            }
            _ if start < end => out.push(Extent {
                offset: start,
                len: end - start,
            }),
            _ => {}
        }
    }
    out
}

/// Whether `extents` are what [`Kind::Regular`] asks for.
pub(super) fn check_extents(size: u64, extents: &[Extent]) -> Result<(), &'static str> {
    let mut free_from = 0_u64;
    for (n, run) in extents.iter().enumerate() {
        let end = run.offset.checked_add(run.len);
        let Some(end) = end.filter(|end| *end <= size) else {
            return Err("an extent reaches behind the end of the file");
        };
        if run.len == 0 {
            return Err("an extent is empty");
        }
        if run.offset < free_from {
            return Err("extents overlap, touch or are out of order");
        }
        if run.len % RUN != 0 && n + 1 < extents.len() {
            return Err("an extent before the last is not a multiple of 512 bytes");
        }
        free_from = end.saturating_add(1);
    }
    Ok(())
}

/// What a name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file of `size` bytes whose data lie in `extents` (ascending, disjoint, not
    /// touching, inside `size`; all but the last a multiple of [`RUN`] long, see
    /// [`whole_runs`]). A file without holes has the one extent `0..size`, an empty one none.
    Regular {
        /// Logical size in bytes.
        size: u64,
        /// The data runs.
        extents: Vec<Extent>,
    },
    /// Another name of the member `target` in the same aggregate.
    HardLink {
        /// The member that carries the data and attributes.
        target: MemberPath,
    },
    /// A symbolic link, pointing at these bytes.
    Symlink {
        /// The link's text.
        target: Vec<u8>,
    },
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice {
        /// Device number.
        major: u32,
        /// Device number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Device number.
        major: u32,
        /// Device number.
        minor: u32,
    },
    /// A socket: tar has no type for it; it is listed in the index alone.
    Socket,
}

impl Kind {
    /// A regular file without holes.
    #[must_use]
    pub fn dense(size: u64) -> Self {
        let whole = Extent {
            offset: 0,
            len: size,
        };
        Self::Regular {
            size,
            extents: (size > 0).then_some(whole).into_iter().collect(),
        }
    }
    /// Bytes that an aggregate stores for it: the sum of the runs; 0 but for regular files.
    #[must_use]
    pub fn stored_len(&self) -> u64 {
        self.runs()
            .iter()
            .fold(0, |sum, run| sum.saturating_add(run.len))
    }
    /// The data runs; none but for regular files.
    #[must_use]
    pub fn runs(&self) -> &[Extent] {
        match self {
            Self::Regular { extents, .. } => extents,
            Self::HardLink { .. }
            | Self::Symlink { .. }
            | Self::Directory
            | Self::Fifo
            | Self::CharDevice { .. }
            | Self::BlockDevice { .. }
            | Self::Socket => &[],
        }
    }
}

/// Identity of a regular file's data, in the member's pax comment and in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataIdentity {
    /// The file.
    pub file: FileId,
    /// Which data of it.
    pub version: DataVersion,
    /// CRC32C of the whole logical content, holes as zeros. `None` in a header that was written
    /// before the data were read (members larger than 8 MiB); always present in the index.
    pub crc: Option<Crc32c>,
}

/// An extended attribute: name and value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// One member with all its attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Where it is in the namespace.
    pub path: MemberPath,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky (`07777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last modification.
    pub mtime: Timestamp,
    /// Last access.
    pub atime: Timestamp,
    /// Last status change as the user saw it.
    pub ctime: Timestamp,
    /// Extended attributes in the order of `listxattr`, values as the kernel gives them; includes
    /// `system.posix_acl_access` and `system.posix_acl_default` in the kernel's binary form.
    /// Cairn's own record is never among them.
    pub xattrs: Vec<Xattr>,
    /// Present for regular files.
    pub identity: Option<DataIdentity>,
}

#[cfg(test)]
mod tests;
