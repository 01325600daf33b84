//! The record: the one extended attribute (at most 256 bytes) that ties a backing file to its
//! copies (P6). While the file is released it is the *stub*.
//!
//! ```text
//!   0 "CRNr" | version | state | flags | copies      8 fs uuid       24 file id
//!  40 data version   48 crc   52 blocks crc          56 size
//!  64 mtime (sec 8, nsec 4)   76 user's ctime        88 ctime floor
//! 100 handle kind 4, length 1, bytes (at most 40)    copies, 24 bytes each    crc32c of all before
//! ```
//! Fixed fields first, so that a look at a hex dump finds identity and size at the same place in
//! every record; what varies in length after them; the sum last, over all of it. Integers are
//! little-endian. Zero is neither magic, version nor state.

use super::wire::Cursor;
use crate::id::{AggregateId, DataVersion, FileId, FsUuid, NodeHandle, TierId, Timestamp};
use cairn_mover::Crc32c;

/// Largest encoded record, bytes.
pub const MAX_LEN: usize = 256;

/// The first bytes of every version's record; the version byte follows, the sum stands last.
const MAGIC: &[u8; 4] = b"CRNr";
const VERSION: u8 = 1;
/// Bytes of a handle that are kept.
const HANDLE_MAX: usize = 40;
/// Everything but handle and copies.
const FIXED_LEN: usize = 4 + 1 + 3 + 16 + 16 + 8 + 4 + 4 + 8 + 3 * 12 + 4 + 1 + 4;
/// Encoded length of a [`CopyHint`].
const COPY_LEN: usize = 4 + 4 + 8 + 8;

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
        let mut out = Vec::with_capacity(MAX_LEN);
        let handle = &self.handle.bytes[..self.handle.bytes.len().min(HANDLE_MAX)];
        let room = (MAX_LEN - FIXED_LEN - handle.len()) / COPY_LEN;
        let copies = &self.copies[..self.copies.len().min(room)];
        let floor = self.ctime_floor.unwrap_or_default();
        out.extend_from_slice(MAGIC);
        out.push(VERSION);
        out.push(match self.state {
            State::Resident => 1,
            State::Released => 2,
            State::Recalling => 3,
        });
        out.push(u8::from(self.ctime_floor.is_some()));
        out.push(copies.len() as u8);
        out.extend_from_slice(&self.fs.0);
        out.extend_from_slice(&self.file.0);
        out.extend_from_slice(&self.version.0.to_le_bytes());
        out.extend_from_slice(&self.crc.0.to_le_bytes());
        out.extend_from_slice(&self.blocks_crc.0.to_le_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        for time in [self.mtime, self.user_ctime, floor] {
            out.extend_from_slice(&time.sec.to_le_bytes());
            out.extend_from_slice(&time.nsec.to_le_bytes());
        }
        out.extend_from_slice(&self.handle.kind.to_le_bytes());
        out.push(handle.len() as u8);
        out.extend_from_slice(handle);
        for copy in copies {
            out.extend_from_slice(&copy.tier.0.to_le_bytes());
            out.extend_from_slice(&copy.aggregate.epoch.to_le_bytes());
            out.extend_from_slice(&copy.aggregate.seq.to_le_bytes());
            out.extend_from_slice(&copy.header.to_le_bytes());
        }
        let sum = Crc32c::of(&out);
        out.extend_from_slice(&sum.0.to_le_bytes());
        out
    }

    /// Decodes; total over all inputs.
    ///
    /// # Errors
    /// See [`RecordError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (body, sum) = bytes
            .split_last_chunk()
            .ok_or(RecordError::Damaged("too short"))?;
        if !body.starts_with(MAGIC) {
            return Err(RecordError::Damaged("no magic"));
        }
        if bytes.len() > MAX_LEN {
            return Err(RecordError::Damaged("longer than 256 bytes"));
        }
        if Crc32c::of(body).0 != u32::from_le_bytes(*sum) {
            return Err(RecordError::Damaged("checksum"));
        }
        match body.get(MAGIC.len()) {
            Some(&VERSION) => {}
            Some(&newer) if newer > VERSION => return Err(RecordError::Newer(newer)),
            _ => return Err(RecordError::Damaged("version 0")),
        }
        Self::decode_body(&body[MAGIC.len() + 1..]).map_err(RecordError::Damaged)
    }

    /// What stands between the version byte and the checksum.
    fn decode_body(body: &[u8]) -> Result<Self, &'static str> {
        let mut cursor = Cursor::new(body);
        let state = match cursor.u8()? {
            1 => State::Resident,
            2 => State::Released,
            3 => State::Recalling,
            _ => return Err("unknown state"),
        };
        let flags = cursor.u8()?;
        if flags > 1 {
            return Err("unknown flags");
        }
        let copies = cursor.u8()?;
        let fs = FsUuid(cursor.array()?);
        let file = FileId(cursor.array()?);
        let version = DataVersion(cursor.u64()?);
        let crc = Crc32c(cursor.u32()?);
        let blocks_crc = Crc32c(cursor.u32()?);
        let size = cursor.u64()?;
        let mtime = fixed_time(&mut cursor)?;
        let user_ctime = fixed_time(&mut cursor)?;
        let floor = fixed_time(&mut cursor)?;
        if flags == 0 && floor != Timestamp::default() {
            return Err("a ctime floor without its flag");
        }
        let kind = i32::from_le_bytes(cursor.array()?);
        let len = usize::from(cursor.u8()?);
        if len > HANDLE_MAX {
            return Err("handle longer than 40 bytes");
        }
        let bytes = cursor.take(len)?.to_vec();
        if cursor.remaining() != usize::from(copies) * COPY_LEN {
            return Err("length and number of copies disagree");
        }
        let copies = (0..copies).map(|_| copy_hint(&mut cursor));
        Ok(Self {
            state,
            fs,
            file,
            version,
            crc,
            handle: NodeHandle { kind, bytes },
            size,
            mtime,
            user_ctime,
            ctime_floor: (flags == 1).then_some(floor),
            blocks_crc,
            copies: copies.collect::<Result<_, _>>()?,
        })
    }

    /// Whether the record was written on the inode `handle`, as far as the record keeps handles.
    #[must_use]
    pub fn is_on(&self, handle: &NodeHandle) -> bool {
        let kept = |bytes: &[u8]| bytes[..bytes.len().min(HANDLE_MAX)].to_vec();
        self.handle.kind == handle.kind && kept(&self.handle.bytes) == kept(&handle.bytes)
    }
}

fn fixed_time(cursor: &mut Cursor<'_>) -> Result<Timestamp, &'static str> {
    let (sec, nsec) = (cursor.i64()?, cursor.u32()?);
    if nsec >= 1_000_000_000 {
        return Err("nanoseconds of a second and more");
    }
    Ok(Timestamp { sec, nsec })
}

fn copy_hint(cursor: &mut Cursor<'_>) -> Result<CopyHint, &'static str> {
    Ok(CopyHint {
        tier: TierId(cursor.u32()?),
        aggregate: AggregateId {
            epoch: cursor.u32()?,
            seq: cursor.u64()?,
        },
        header: cursor.u64()?,
    })
}

#[cfg(test)]
mod tests;
