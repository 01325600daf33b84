//! An aggregate: members as pax tar, two zero blocks, padding, the index, and a trailer in the
//! last 512 bytes (P14). The nouns of it; the parts that read and write them stand beside.
//!
//! ```text
//!  0         global header: which aggregate        (tar sees a comment)
//!  1024      member, member, ...                   (tar sees members)
//!            1024 zero bytes                       (tar stops here)
//!            zero bytes to a multiple of 4096
//!  index     88-byte head, entries by path
//!            zero bytes to a multiple of 512
//!  end-512   trailer: where the index is
//! ```

use super::member::{Member, MemberPath};
use crate::id::{AggregateId, DataVersion, FileId, FsUuid, Timestamp};
use cairn_mover::Crc32c;
use std::io;

pub use super::index::{decode_index, encode as encode_index, find_index};
pub use super::parts::{PartPlace, Span};
pub use super::range::{BlockPlace, BlockRange, BlockRun, DataMap, Piece};
pub use super::trailer::decode_trailer;
pub use super::writer::{Added, AggregateWriter, PartsWriter, WHOLE};

/// Version of trailer and index of aggregates that hold users' files.
pub const VERSION: u32 = 1;
/// Version of trailer and index of namespace snapshots (see [`AggregateId::is_snapshot`]): a program
/// that knows version 1 alone leaves them be.
pub const NAMESPACE_VERSION: u32 = 2;
/// The flag that every trailer and index of version 2 has: it lists a namespace.
pub const NAMESPACE_FLAG: u32 = 1;
/// Version of trailer and index of what a file in parts is made of (see [`super::parts`]): a program that
/// does not know it leaves them be.
pub const PARTS_VERSION: u32 = 3;
/// The flag of a part.
pub const PART_FLAG: u32 = 1;
/// The flag of the aggregate with the last part, which has the file's entry.
pub const HEAD_FLAG: u32 = 2;

/// Version and flags of an aggregate's trailer and index.
pub(super) fn told(aggregate: AggregateId, in_parts: bool) -> (u32, u32) {
    if aggregate.is_snapshot() {
        (NAMESPACE_VERSION, NAMESPACE_FLAG)
    } else if aggregate.is_part() {
        (PARTS_VERSION, PART_FLAG)
    } else if in_parts {
        (PARTS_VERSION, HEAD_FLAG)
    } else {
        (VERSION, 0)
    }
}

/// `Err`: a version that this program does not know.
pub(super) fn check_version(version: u32, flags: u32) -> Result<(), AggregateError> {
    match (version, flags) {
        // What else version 1 leaves zero is looked at behind it.
        (VERSION, _)
        | (NAMESPACE_VERSION, NAMESPACE_FLAG)
        | (PARTS_VERSION, PART_FLAG | HEAD_FLAG) => Ok(()),
        _ => Err(AggregateError::Newer(version)),
    }
}
/// The index begins at a multiple of this many bytes.
pub const INDEX_ALIGN: u64 = 4096;

/// Bytes covered by one block checksum of a member's *stored* data (data runs packed together,
/// holes left out). The last block of a member may be shorter.
pub const BLOCK: u64 = 1 << 20;
/// Length of the trailer: the last bytes of the object.
pub const TRAILER_LEN: u64 = 512;

/// What one index entry says: enough to find, verify and restore a member's data, and to rebuild
/// a catalog from the index alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// The member as in its header, but with those extended attributes alone that the header
    /// cannot carry (together above 1 MiB, or a malformed ACL): plain tar loses these, Cairn does
    /// not. All others are in the header.
    pub member: Member,
    /// Offset of the entry's first header block in the aggregate; 0 for a socket, which has none.
    pub header: u64,
    /// Offset of the first stored data byte; runs lie one behind the other from here. Where
    /// nothing is stored: the end of the headers.
    pub data: u64,
    /// CRC32C of the header blocks, `header..data`: with it the index vouches for what the header
    /// alone holds, the extended attributes. [`Crc32c::EMPTY`] for a socket.
    pub header_crc: Crc32c,
    /// CRC32C of each [`BLOCK`] of stored data, in order.
    pub blocks: Vec<Crc32c>,
    /// Whether the data lie in this object alone. Of a file in parts, the other fields but `member` and
    /// `blocks` say where the last part is, which is in this object.
    pub span: Span,
}

impl IndexEntry {
    /// Stored bytes: the sum of the runs.
    #[must_use]
    pub fn stored_len(&self) -> u64 {
        self.member.kind.stored_len()
    }
    /// Its name as tar shows it.
    #[must_use]
    pub fn tar_name(&self) -> Vec<u8> {
        super::writer::guarded(self.in_tar().0.as_bytes())
    }
    /// Behind its last byte in this object.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.data.saturating_add(self.own_stored_len())
    }
    /// Its stored bytes are its content: a regular file without holes.
    #[must_use]
    pub fn is_dense(&self) -> bool {
        match &self.member.kind {
            super::member::Kind::Regular { size, .. } => self.stored_len() == *size,
            _ => false,
        }
    }
    /// CRC32C of the encoded block list (four bytes each, little-endian), as the record keeps it.
    #[must_use]
    pub fn blocks_crc(&self) -> Crc32c {
        super::sums::blocks_crc(&self.blocks)
    }
}

/// A whole index. Entries are sorted by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The aggregate it belongs to.
    pub aggregate: AggregateId,
    /// The backing filesystem the members came from.
    pub fs: FsUuid,
    /// When the aggregate was composed.
    pub composed: Timestamp,
    /// The members.
    pub entries: Vec<IndexEntry>,
}

impl Index {
    /// The entry of a path, by binary search.
    #[must_use]
    pub fn by_path(&self, path: &MemberPath) -> Option<&IndexEntry> {
        let at = self.entries.binary_search_by(|e| e.member.path.cmp(path));
        at.ok().and_then(|at| self.entries.get(at))
    }
    /// Position of the entry whose header lies at `header`, if its data have this sum: copies that
    /// an adopted stub shares with the file it was copied from. Looks at every entry.
    #[must_use]
    pub fn position_by_place(&self, header: u64, crc: Crc32c) -> Option<usize> {
        self.entries.iter().position(|entry| {
            let sum = entry.member.identity.and_then(|i| i.crc);
            entry.header == header && sum == Some(crc) && !entry.is_part()
        })
    }
    /// The entry of a file's data. Looks at every entry.
    #[must_use]
    pub fn by_identity(&self, file: FileId, version: DataVersion) -> Option<&IndexEntry> {
        self.entries.iter().find(|entry| {
            let data = matches!(entry.member.kind, super::member::Kind::Regular { .. });
            let identity = entry.member.identity;
            let whole = data && !entry.is_part();
            whole && identity.is_some_and(|i| i.file == file && i.version == version)
        })
    }
}

/// The fixed-size end of an aggregate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// The aggregate.
    pub aggregate: AggregateId,
    /// The backing filesystem the members came from.
    pub fs: FsUuid,
    /// Where the index begins.
    pub index_offset: u64,
    /// How long it is, bytes.
    pub index_len: u64,
    /// CRC32C of the index bytes.
    pub index_crc: Crc32c,
    /// Total length of the object, trailer included.
    pub total_len: u64,
    /// Its file lies in other objects, too.
    pub in_parts: bool,
}

impl std::fmt::Debug for Trailer {
    /// As ever, where nothing is in parts.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Trailer");
        shown
            .field("aggregate", &self.aggregate)
            .field("fs", &self.fs)
            .field("index_offset", &self.index_offset)
            .field("index_len", &self.index_len)
            .field("index_crc", &self.index_crc)
            .field("total_len", &self.total_len);
        if self.in_parts {
            shown.field("in_parts", &self.in_parts);
        }
        shown.finish()
    }
}

/// Why bytes are no aggregate.
#[derive(Debug, thiserror::Error)]
pub enum AggregateError {
    /// No trailer where one must be: truncated, or not an aggregate.
    #[error("no trailer at the end: the aggregate is truncated or is none ({0})")]
    NoTrailer(&'static str),
    /// Made by a newer Cairn.
    #[error("aggregate format version {0} is newer than this program knows ({PARTS_VERSION})")]
    Newer(u32),
    /// The index fails its checksum or its structure.
    #[error("damaged index: {0}")]
    DamagedIndex(String),
    /// A tar header that does not parse or names a place outside the tree.
    #[error("damaged or hostile member at offset {offset}: {why}")]
    BadMember {
        /// Where in the object.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// The sink or source failed.
    #[error("{step}: {source}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The caller's data did not match the member it announced.
    #[error("member {path}: {why}")]
    Misuse {
        /// The member.
        path: String,
        /// What went wrong.
        why: &'static str,
    },
}
