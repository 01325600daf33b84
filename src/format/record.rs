//! The record: the one extended attribute (at most 256 bytes) that ties a backing file to its
//! copies (P6). While the file is released it is the *stub*.

use crate::id::{AggregateId, DataVersion, FileId, FsUuid, NodeHandle, TierId, Timestamp};
use cairn_mover::Crc32c;

/// Largest encoded record, bytes.
pub const MAX_LEN: usize = 256;

/// How far after [`Record::ctime_floor`] a backing ctime may lie and still be the one that
/// Cairn's own write of the record caused: nanoseconds. See docs/semantics.md "ctime".
pub const CTIME_WINDOW_NS: i64 = 12_000_000;

/// What the record says about the file's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Data are on disk; copies exist of `version`.
    Resident,
    /// Data are only on tiers: the stub.
    Released,
    /// A recall is writing into the file; extents are expected, the data still count as released.
    Recalling,
}

/// A hint where a copy lies; repack may have moved it. Identity decides, not place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyHint {
    /// The tier.
    pub tier: TierId,
    /// The aggregate on it.
    pub aggregate: AggregateId,
    /// Offset of the member's entry in the aggregate's tar part (its first header block), bytes.
    pub header: u64,
}

/// The decoded attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Data here or not.
    pub state: State,
    /// The backing filesystem it belongs to.
    pub fs: FsUuid,
    /// The file.
    pub file: FileId,
    /// Which data.
    pub version: DataVersion,
    /// CRC32C of the whole logical content.
    pub crc: Crc32c,
    /// The inode it was written on; handles over 40 bytes are kept as their first 40.
    pub handle: NodeHandle,
    /// Size in bytes when archived.
    pub size: u64,
    /// mtime to restore and to compare with.
    pub mtime: Timestamp,
    /// The ctime the user should see while the backing's ctime is Cairn's own doing.
    pub user_ctime: Timestamp,
    /// `CLOCK_REALTIME_COARSE` just before this record was set; `None`: show the backing's ctime.
    pub ctime_floor: Option<Timestamp>,
    /// CRC32C of the encoded list of block checksums (see [`super::aggregate::IndexEntry`]).
    pub blocks_crc: Crc32c,
    /// Known copies, best first. As many as fit are encoded.
    pub copies: Vec<CopyHint>,
}

/// Why an attribute is no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Made by a newer Cairn: leave it alone.
    #[error(
        "record format version {0} is newer than this program knows (1); upgrade before touching the file"
    )]
    Newer(u8),
    /// Not a record, or damaged.
    #[error("damaged record: {0}")]
    Damaged(&'static str),
}

impl Record {
    /// Encodes; never longer than [`MAX_LEN`] (copies that do not fit are left out).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        unimplemented!()
    }
    /// Decodes; total over all inputs.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let _ = bytes;
        unimplemented!()
    }
}
