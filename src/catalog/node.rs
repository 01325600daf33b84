//! Vocabulary of nodes: what the catalog knows about one inode.

use super::incarnation::{BootSeq, Incarnation};
use crate::id::{DataVersion, FileId, NodeHandle, Timestamp};
use cairn_mover::Crc32c;

/// The catalog's number of a node: small, stable for as long as the node is known, never reused
/// within a catalog. A rebuilt catalog numbers anew: nothing outside may keep it for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub i64);

impl NodeId {
    /// The root of the backing directory.
    pub const ROOT: Self = Self(1);
}

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "node {}", self.0)
    }
}

/// What kind of inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file: the only kind that is archived and released.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A FIFO, socket or device.
    Special,
}

/// Where a regular file's data are, as the catalog believes; the record on the file decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    /// Resident, never archived.
    None,
    /// Resident, and at least one complete copy of the present version exists.
    Archived,
    /// Archived once, changed since.
    Dirty,
    /// Archived, blocks given back.
    Released,
    /// No good copy is left, and no data.
    Lost,
}

/// What is wrong with a stub, so that reads of the file give EIO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Trouble {
    /// It was copied or restored from another inode's (P6).
    Foreign,
    /// The file is not as its stub says: somebody wrote into it behind our back (P4).
    Conflict,
}

/// What an administrator or owner forbids for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// Never archive.
    NoArchive,
    /// Never release.
    NoRelease,
}

/// What `statx` said. Times outside the years 1677 to 2262 are kept as the nearest of those.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Kind of inode.
    pub kind: FileKind,
    /// Permission bits and setuid, setgid, sticky (no file type).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size, bytes.
    pub size: u64,
    /// Space on disk, 512-byte blocks.
    pub blocks: u64,
    /// Number of names.
    pub nlink: u64,
    /// Data modification time.
    pub mtime: Timestamp,
    /// Inode change time.
    pub ctime: Timestamp,
    /// Access time, as far as the backing keeps it.
    pub atime: Timestamp,
}

/// A node as a scan or the changelog saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The inode.
    pub handle: NodeHandle,
    /// Its attributes.
    pub attributes: Attributes,
    /// The name under which it was seen, if one was: directory and name bytes.
    pub place: Option<(NodeId, Vec<u8>)>,
}

/// What a record (or an aggregate's index) says about a file, for rebuilding a catalog and for
/// repairing rows that a power loss took back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The node.
    pub node: NodeId,
    /// Data on disk or not.
    pub state: FileState,
    /// Identity and sums.
    pub version: Version,
    /// Where copies lie.
    pub copies: Vec<super::Copy>,
    /// What the row was, and the file's ctime, when the file was looked at; `None`: whatever came
    /// since, it stands.
    pub under: Option<(Planned, Timestamp)>,
}

/// One version of a file's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// The file.
    pub file: FileId,
    /// Which data.
    pub version: DataVersion,
    /// CRC32C of the whole content.
    pub crc: Crc32c,
    /// CRC32C of the encoded list of block checksums.
    pub blocks_crc: Crc32c,
}

/// The last quiescent point (P1) at which the file was known to have the recorded version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proven {
    /// Size then, bytes.
    pub size: u64,
    /// ctime then.
    pub ctime: Timestamp,
    /// The boot in which that was seen.
    pub boot: BootSeq,
}

/// A row: all that is known about one inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// The inode.
    pub handle: NodeHandle,
    /// Attributes when last seen.
    pub attributes: Attributes,
    /// Never archive.
    pub noarchive: bool,
    /// Never release.
    pub norelease: bool,
    /// Where the data are.
    pub state: FileState,
    /// Why the state is what it is, when that needs words (lost, conflict, foreign).
    pub note: Option<String>,
    /// Identity of the last archived version; `None` if never archived.
    pub version: Option<Version>,
    /// The last quiescent point; `None`: never proven under this catalog.
    pub proven: Option<Proven>,
    /// Last read that the mount told of; `None` if none was.
    pub last_access: Option<Timestamp>,
    /// When its data came back last; for the minimum residency.
    pub staged_at: Option<Timestamp>,
    /// Good copies of the present version, on different tiers.
    pub copies: u32,
    /// Generation of the scan that saw it last; 0 if that is not known.
    pub seen_scan: u64,
    /// What is wrong with its stub, as the last look found.
    pub trouble: Option<Trouble>,
}

/// What a step took for granted about a file when it was planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Where the data were.
    pub state: FileState,
    /// The last archived version, if there was one.
    pub version: Option<(FileId, DataVersion)>,
}

impl Node {
    /// What a step that begins now is planned under.
    #[must_use]
    pub fn planned(&self) -> Planned {
        Planned {
            state: self.state,
            version: self.version.map(|v| (v.file, v.version)),
        }
    }

    /// Whether the recorded version must be proven again by reading the file (P1): it was never
    /// proven under this catalog, or a boot that did not end with a clean stop lies between.
    #[must_use]
    pub fn is_suspect(&self, now: &Incarnation) -> bool {
        self.proven.is_none_or(|p| p.boot < now.trusted_from)
    }
}
