//! A member: everything a filesystem knows about one name, as it goes into an aggregate.

use crate::id::{DataVersion, FileId, Timestamp};
use cairn_mover::Crc32c;

/// A namespace-relative path: no leading or trailing slash, no empty, `.` or `..` component, no
/// NUL, each component at most 255 bytes. The root of the namespace itself is the empty path.
/// Any other bytes are allowed; names are not text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberPath(Vec<u8>);

impl MemberPath {
    /// Checks `bytes`.
    ///
    /// # Errors
    /// [`BadPath`] says what is wrong with it.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, BadPath> {
        let _ = bytes.into();
        unimplemented!()
    }
    /// The path's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
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

/// What a name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file of `size` bytes whose data lie in `extents` (ascending, disjoint, not
    /// touching, inside `size`). A file without holes has the one extent `0..size`, an empty one none.
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
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Present for regular files.
    pub identity: Option<DataIdentity>,
}
