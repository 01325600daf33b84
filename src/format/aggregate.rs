//! An aggregate: members as pax tar, two zero blocks, padding, the index, and a trailer in the
//! last 512 bytes (P14).

use super::member::{Member, MemberPath};
use crate::id::{AggregateId, DataVersion, FileId, FsUuid, Timestamp};
use cairn_mover::Crc32c;
use std::io::{self, Read, Write};

/// Bytes covered by one block checksum of a member's *stored* data (data runs packed together,
/// holes left out). The last block of a member may be shorter.
pub const BLOCK: u64 = 1 << 20;
/// Length of the trailer: the last bytes of the object.
pub const TRAILER_LEN: u64 = 512;

/// What one index entry says: enough to find, verify and restore a member's data, and to rebuild
/// a catalog from the index alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// The member as in its header, but without extended attributes (they are in the header).
    pub member: Member,
    /// Offset of the entry's first header block in the aggregate.
    pub header: u64,
    /// Offset of the first stored data byte; runs lie one behind the other from here.
    pub data: u64,
    /// CRC32C of each [`BLOCK`] of stored data, in order.
    pub blocks: Vec<Crc32c>,
}

impl IndexEntry {
    /// Stored bytes: the sum of the runs.
    #[must_use]
    pub fn stored_len(&self) -> u64 {
        unimplemented!()
    }
    /// CRC32C of the encoded block list, as the record keeps it.
    #[must_use]
    pub fn blocks_crc(&self) -> Crc32c {
        unimplemented!()
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
        let _ = path;
        unimplemented!()
    }
    /// The entry of a file's data.
    #[must_use]
    pub fn by_identity(&self, file: FileId, version: DataVersion) -> Option<&IndexEntry> {
        let _ = (file, version);
        unimplemented!()
    }
}

/// The fixed-size end of an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// The aggregate.
    pub aggregate: AggregateId,
    /// Where the index begins.
    pub index_offset: u64,
    /// How long it is, bytes.
    pub index_len: u64,
    /// CRC32C of the index bytes.
    pub index_crc: Crc32c,
    /// Total length of the object, trailer included.
    pub total_len: u64,
}

/// Why bytes are no aggregate.
#[derive(Debug, thiserror::Error)]
pub enum AggregateError {
    /// No trailer where one must be: truncated, or not an aggregate.
    #[error("no trailer at the end: the aggregate is truncated or is none ({0})")]
    NoTrailer(&'static str),
    /// Made by a newer Cairn.
    #[error("aggregate format version {0} is newer than this program knows (1)")]
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

/// Decodes the last [`TRAILER_LEN`] bytes of an object of `object_len` bytes.
///
/// # Errors
/// [`AggregateError::NoTrailer`] or [`AggregateError::Newer`].
pub fn decode_trailer(last: &[u8], object_len: u64) -> Result<Trailer, AggregateError> {
    let _ = (last, object_len);
    unimplemented!()
}

/// Decodes the index named by `trailer`.
///
/// # Errors
/// [`AggregateError::DamagedIndex`].
pub fn decode_index(bytes: &[u8], trailer: &Trailer) -> Result<Index, AggregateError> {
    let _ = (bytes, trailer);
    unimplemented!()
}

/// Writes an aggregate front to back into a sink; keeps only the index in memory.
#[derive(Debug)]
pub struct AggregateWriter<W> {
    sink: W,
}

impl<W: Write> AggregateWriter<W> {
    /// Starts an aggregate.
    pub fn new(sink: W, aggregate: AggregateId, fs: FsUuid, composed: Timestamp) -> Self {
        let _ = (aggregate, fs, composed);
        Self { sink }
    }
    /// Adds a member. For a regular file `data` yields its stored bytes (the runs, packed);
    /// anything else has none. A member whose `identity.crc` is known is checked against what was
    /// read; one whose sum is not known gets it here.
    ///
    /// # Errors
    /// On any error the aggregate is unusable and must be abandoned.
    pub fn add(&mut self, member: &Member, data: &mut dyn Read) -> Result<Added, AggregateError> {
        let _ = (member, data);
        unimplemented!()
    }
    /// Bytes written so far (what the tar part would be without its end).
    #[must_use]
    pub fn len(&self) -> u64 {
        unimplemented!()
    }
    /// Nothing added so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Ends tar, writes padding, index and trailer; gives the sink back with the index.
    ///
    /// # Errors
    /// [`AggregateError::Io`].
    pub fn finish(self) -> Result<(W, Index, Trailer), AggregateError> {
        unimplemented!()
    }
}

/// What adding a member told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added {
    /// Offset of its first header block.
    pub header: u64,
    /// CRC32C of the logical content (regular files; [`Crc32c::EMPTY`] otherwise).
    pub crc: Crc32c,
    /// CRC32C of the encoded block list.
    pub blocks_crc: Crc32c,
}
