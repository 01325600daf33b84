//! Vocabulary of copies: aggregates, what lies in them, and what was deleted.

use super::node::{Attributes, NodeId, Planned, Proven, Version};
use crate::id::{AggregateId, DataVersion, FileId, NodeHandle, TierId, Timestamp};
use cairn_mover::Crc32c;

/// What is known about a copy's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CopyState {
    /// Proven by the tier's receipt, or read back right since.
    Good,
    /// Something hints that it may be bad (its medium failed, a scan missed its aggregate).
    Suspect,
    /// Its bytes were read and are wrong, or it is gone.
    Bad,
    /// Given up by `cairn remove`: no file counts on it any more, whatever its bytes are.
    Removed,
}

/// How an aggregate's durability was proven (P2); mirrors `tier::Proof`, which stands beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProofKind {
    /// fsynced, then read back past the cache.
    ReadBack,
    /// The service verified the checksum.
    ServiceChecksum,
    /// The drive verified a synchronised write.
    Drive,
    /// Memory only: tests.
    Volatile,
    /// Learned from a record or an index when the catalog was rebuilt.
    Learned,
}

/// One file's bytes at one version on one tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// The file.
    pub file: FileId,
    /// Which data.
    pub version: DataVersion,
    /// The tier.
    pub tier: TierId,
    /// The aggregate on it.
    pub aggregate: AggregateId,
    /// Offset of the member's first header block, bytes.
    pub header: u64,
    /// Bytes of the member's data as stored (holes left out).
    pub stored_len: u64,
    /// CRC32C of the whole logical content.
    pub crc: Crc32c,
    /// What is known about it.
    pub state: CopyState,
    /// When it was proven durable.
    pub proven_at: Timestamp,
    /// When it was last read back and compared.
    pub last_verified: Option<Timestamp>,
}

impl Copy {
    /// Its place in listings.
    #[must_use]
    pub fn place(&self) -> CopyPlace {
        CopyPlace {
            aggregate: self.aggregate,
            header: self.header,
            file: self.file,
            version: self.version,
        }
    }
}

/// Where a listing of a tier's copies goes on: behind this one. The offset alone does not tell copies
/// apart: an adopted stub shares the member of the one it was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CopyPlace {
    /// The aggregate.
    pub aggregate: AggregateId,
    /// Offset of the member's first header block, bytes.
    pub header: u64,
    /// Whose copy.
    pub file: FileId,
    /// Of which data.
    pub version: DataVersion,
}

/// An aggregate that was just made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewAggregate {
    /// The tier.
    pub tier: TierId,
    /// Its name.
    pub id: AggregateId,
    /// Length, bytes; with its parts.
    pub len: u64,
    /// It has parts.
    pub in_parts: bool,
    /// CRC32C of its own object.
    pub crc: Crc32c,
    /// How that is known.
    pub proof: ProofKind,
}

/// An aggregate's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aggregate {
    /// The tier.
    pub tier: TierId,
    /// Its name.
    pub id: AggregateId,
    /// Length, bytes; 0 if never learned.
    pub len: u64,
    /// It has parts, and `len` is with them. `None`: its index was not read, and `len` may be without.
    pub in_parts: Option<bool>,
    /// CRC32C of its own object; 0 if never learned.
    pub crc: Crc32c,
    /// How durability is known.
    pub proof: ProofKind,
    /// When it was composed.
    pub composed_at: Timestamp,
    /// Members put into it.
    pub members: u64,
    /// Stored bytes of its members.
    pub bytes: u64,
    /// Members that some file still needs.
    pub live_members: u64,
    /// Their stored bytes.
    pub live_bytes: u64,
    /// Where it stands on the way out.
    pub life: Life,
    /// Since when, if it is not an ordinary one.
    pub since: Option<Timestamp>,
    /// The epoch that decided it.
    pub decided_by: u32,
    /// The aggregate that took its place, if it was repacked.
    pub moved_to: Option<AggregateId>,
}

/// Where an aggregate stands on the way out (P8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Life {
    /// An ordinary one.
    Live,
    /// Nobody needs it any more; it goes after a delay. Whatever names a member of it takes it back.
    Condemned,
    /// Found on its tier by a catalog that did not know it: read, never deleted.
    Quarantined,
    /// Its object is being deleted: nothing takes it back.
    Doomed,
}

/// One file of an aggregate that was just made durable: P2 step 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Archived {
    /// The file's node.
    pub node: NodeId,
    /// What was known of it when the archive began.
    pub planned: Planned,
    /// Identity and sums of what was archived.
    pub version: Version,
    /// The second quiescent point.
    pub proven: Proven,
    /// Offset of the member's first header block, bytes.
    pub header: u64,
    /// Bytes of the member's data as stored.
    pub stored_len: u64,
}

/// A version's quiescent point that takes the place of the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebound {
    /// The file's node.
    pub node: NodeId,
    /// The version that was proven.
    pub version: (FileId, DataVersion),
    /// When it was.
    pub proven: Proven,
}

/// A file whose data are back on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recalled {
    /// The version that came back.
    pub version: (FileId, DataVersion),
    /// Its attributes, seen at the recall's end or later.
    pub attributes: Attributes,
    /// What is kept as its quiescent point.
    pub proven: Proven,
    /// Its ctime at the recall's end: a change with a later one came after it.
    pub ctime: Timestamp,
}

/// A member of an aggregate, for repack and verify.
pub type Member = Copy;

/// Why a version's bytes are no longer needed by the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TombstoneWhy {
    /// The last name went.
    Unlink,
    /// Data were changed.
    Overwrite,
    /// Cut to size 0 or another size.
    Truncate,
    /// Its last copy was given up while the data are on disk.
    Remove,
    /// Nobody knows: found in an aggregate that the catalog did not know, and named by no file.
    Unknown,
}

/// A version that the namespace no longer names (P8). Bytes are never deleted on its word alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    /// Ascending number.
    pub id: u64,
    /// The file.
    pub file: FileId,
    /// Which data.
    pub version: DataVersion,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub why: TombstoneWhy,
    /// Epoch under which it was written.
    pub epoch: u32,
    /// Last known path, bytes relative to the root.
    pub path: Vec<u8>,
    /// Who owned the file.
    pub uid: u32,
    /// The file's size, bytes, where it is known.
    pub size: Option<u64>,
    /// It is being undeleted, or was when the process died.
    pub heir: Option<FileId>,
    /// The inode that had it; `None`: not known.
    pub handle: Option<NodeHandle>,
    /// The scan that was the latest when it was written.
    pub generation: u64,
}
