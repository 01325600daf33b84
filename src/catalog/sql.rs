//! How values stand in columns: times as nanoseconds, enumerations as numbers that never change.

use super::error::At;
use super::node::{Attributes, FileKind, FileState, Node, NodeId, Proven, Trouble, Version};
use super::{
    BootSeq, CatalogError, Class, CopyState, Life, Origin, ProofKind, RequestState, TombstoneWhy,
    Verb,
};
use crate::id::{DataVersion, FileId, NodeHandle, Timestamp};
use cairn_mover::Crc32c;
use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, Params, Row, RowIndex};

/// A number that stands for a value, for good: numbers are never given to another value.
pub(super) trait Code: Copy + Sized + 'static {
    /// Values by their number.
    const ALL: &'static [Self];
    /// The number.
    fn code(self) -> i64;
}

macro_rules! codes {
    ($($name:ident: $($value:ident = $code:literal),+;)+) => {$(
        impl Code for $name {
            const ALL: &'static [Self] = &[$($name::$value),+];
            fn code(self) -> i64 {
                match self { $($name::$value => $code),+ }
            }
        }
    )+};
}

codes! {
    FileKind: Regular = 0, Directory = 1, Symlink = 2, Special = 3;
    FileState: None = 0, Archived = 1, Dirty = 2, Released = 3, Lost = 4;
    Trouble: Foreign = 1, Conflict = 2;
    CopyState: Good = 0, Suspect = 1, Bad = 2, Removed = 3;
    ProofKind: ReadBack = 0, ServiceChecksum = 1, Drive = 2, Volatile = 3, Learned = 4;
    TombstoneWhy: Unlink = 0, Overwrite = 1, Truncate = 2, Remove = 3, Unknown = 4;
    Life: Live = 0, Condemned = 1, Quarantined = 2, Doomed = 3;
    Verb: Archive = 0, Release = 1, Stage = 2, Verify = 3, Pin = 4, Unpin = 5, Set = 6, Clear = 7,
        Remove = 8, Repack = 9;
    Origin: User = 0, Policy = 1, Implicit = 2;
    Class: Read = 0, Stage = 1, Archive = 2, Release = 3, PolicyArchive = 4, Verify = 5,
        Remove = 6;
    RequestState: Queued = 0, Running = 1, Done = 2, Failed = 3, Cancelled = 4;
}

/// The value of a numbered column.
pub(super) fn coded<T: Code>(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<T> {
    let code: i64 = row.get(column)?;
    T::ALL
        .iter()
        .copied()
        .find(|value| value.code() == code)
        .ok_or_else(|| bad(row, column, code))
}

fn bad(row: &Row<'_>, column: impl RowIndex, code: i64) -> rusqlite::Error {
    let at = column.idx(row.as_ref()).unwrap_or(0);
    rusqlite::Error::FromSqlConversionFailure(
        at,
        Type::Integer,
        Box::new(FromSqlError::OutOfRange(code)),
    )
}

/// An unsigned quantity in a column. Quantities over 2^63 do not exist on the systems below.
pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// An unsigned quantity out of a column.
pub(super) fn uint(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| bad(row, column, value))
}

/// An optional quantity out of a column.
pub(super) fn maybe_uint(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<u64>> {
    match row.get::<_, Option<i64>>(column)? {
        Some(_) => uint(row, column).map(Some),
        None => Ok(None),
    }
}

/// A page's length: at least 1, at most [`super::PAGE_MAX`].
pub(super) fn page(limit: usize) -> i64 {
    int(limit.clamp(1, super::PAGE_MAX) as u64)
}

/// A time out of a column.
pub(super) fn time(nanos: i64) -> Timestamp {
    Timestamp {
        sec: nanos.div_euclid(1_000_000_000),
        nsec: u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0),
    }
}

/// An optional time out of a column.
pub(super) fn maybe_time(
    row: &Row<'_>,
    column: impl RowIndex,
) -> rusqlite::Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(time))
}

/// A time that must be there.
pub(super) fn some_time(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<Timestamp> {
    row.get(column).map(time)
}

/// A handle as a key: its kind, little-endian, then its bytes.
pub(super) fn handle_key(handle: &NodeHandle) -> Vec<u8> {
    let mut key = handle.kind.to_le_bytes().to_vec();
    key.extend_from_slice(&handle.bytes);
    key
}

/// A handle out of its key.
pub(super) fn handle(row: &Row<'_>, column: impl RowIndex) -> rusqlite::Result<NodeHandle> {
    let key: Vec<u8> = row.get(column)?;
    let (kind, bytes) = key.split_first_chunk().ok_or_else(|| bad(row, column, 0))?;
    Ok(NodeHandle {
        kind: i32::from_le_bytes(*kind),
        bytes: bytes.to_vec(),
    })
}

/// A handle that may not be known.
pub(super) fn maybe_handle(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<NodeHandle>> {
    match row.get_ref(column)? {
        rusqlite::types::ValueRef::Null => Ok(None),
        _ => handle(row, column).map(Some),
    }
}

/// Columns of [`node`], for `SELECT`.
pub(super) const NODE: &str = "nodes.id, nodes.handle, nodes.kind, nodes.mode, nodes.uid, \
    nodes.gid, nodes.size, nodes.blocks, nodes.nlink, nodes.mtime, nodes.ctime, nodes.atime, \
    nodes.noarchive, nodes.norelease, nodes.state, nodes.note, nodes.file, nodes.version, \
    nodes.crc, nodes.blocks_crc, nodes.proven_size, nodes.proven_ctime, nodes.proven_boot, \
    nodes.last_access, nodes.staged_at, nodes.copies, nodes.seen, nodes.trouble";

/// Places of [`NODE`]'s columns.
mod at {
    macro_rules! places {
        ($($name:ident = $place:literal),+ $(,)?) => {$(pub(super) const $name: usize = $place;)+};
    }
    places! {
        ID = 0,
        HANDLE = 1,
        KIND = 2,
        MODE = 3,
        UID = 4,
        GID = 5,
        SIZE = 6,
        BLOCKS = 7,
        NLINK = 8,
        MTIME = 9,
        CTIME = 10,
        ATIME = 11,
        NOARCHIVE = 12,
        NORELEASE = 13,
        STATE = 14,
        NOTE = 15,
        FILE = 16,
        VERSION = 17,
        CRC = 18,
        BLOCKS_CRC = 19,
        PROVEN_SIZE = 20,
        PROVEN_CTIME = 21,
        PROVEN_BOOT = 22,
        LAST_ACCESS = 23,
        STAGED_AT = 24,
        COPIES = 25,
        SEEN = 26,
        TROUBLE = 27,
    }
}

/// A node's row: its columns stand first in the query.
pub(super) fn node(row: &Row<'_>) -> rusqlite::Result<Node> {
    let attributes = Attributes {
        kind: coded(row, at::KIND)?,
        mode: row.get(at::MODE)?,
        uid: row.get(at::UID)?,
        gid: row.get(at::GID)?,
        size: uint(row, at::SIZE)?,
        blocks: uint(row, at::BLOCKS)?,
        nlink: uint(row, at::NLINK)?,
        mtime: some_time(row, at::MTIME)?,
        ctime: some_time(row, at::CTIME)?,
        atime: some_time(row, at::ATIME)?,
    };
    let version = match row.get::<_, Option<[u8; 16]>>(at::FILE)? {
        Some(file) => Some(Version {
            file: FileId(file),
            version: DataVersion(uint(row, at::VERSION)?),
            crc: Crc32c(row.get(at::CRC)?),
            blocks_crc: Crc32c(row.get(at::BLOCKS_CRC)?),
        }),
        None => None,
    };
    let proven = match row.get::<_, Option<u32>>(at::PROVEN_BOOT)? {
        Some(boot) => Some(Proven {
            size: uint(row, at::PROVEN_SIZE)?,
            ctime: some_time(row, at::PROVEN_CTIME)?,
            boot: BootSeq(boot),
        }),
        None => None,
    };
    Ok(Node {
        id: NodeId(row.get(at::ID)?),
        handle: handle(row, at::HANDLE)?,
        attributes,
        noarchive: row.get(at::NOARCHIVE)?,
        norelease: row.get(at::NORELEASE)?,
        state: coded(row, at::STATE)?,
        note: row.get(at::NOTE)?,
        version,
        proven,
        last_access: maybe_time(row, at::LAST_ACCESS)?,
        staged_at: maybe_time(row, at::STAGED_AT)?,
        copies: row.get(at::COPIES)?,
        // Below 0: missed by that scan.
        seen_scan: u64::try_from(row.get::<_, i64>(at::SEEN)?).unwrap_or(0),
        trouble: match row.get::<_, i64>(at::TROUBLE)? {
            0 => None,
            _ => Some(coded(row, at::TROUBLE)?),
        },
    })
}

/// The one way to a statement: prepared once per connection. Under test every text is kept, so that
/// a test can ask the planner about all of them.
pub(super) fn prepared<'c>(
    connection: &'c Connection,
    sql: &str,
) -> rusqlite::Result<rusqlite::CachedStatement<'c>> {
    #[cfg(test)]
    {
        let mut seen = SEEN.lock();
        if !seen.contains(sql) {
            seen.insert(sql.to_owned());
        }
    }
    connection.prepare_cached(sql)
}

/// Statements that this test process has prepared.
#[cfg(test)]
pub(super) static SEEN: parking_lot::Mutex<std::collections::BTreeSet<String>> =
    parking_lot::Mutex::new(std::collections::BTreeSet::new());

/// Runs a prepared statement that changes rows; gives how many.
pub(super) fn change(
    connection: &Connection,
    sql: &str,
    values: impl Params,
    step: &'static str,
    object: impl ToString,
) -> Result<usize, CatalogError> {
    prepared(connection, sql)
        .and_then(|mut statement| statement.execute(values))
        .at(step, object)
}

/// The first row of a prepared query.
pub(super) fn first<T>(
    connection: &Connection,
    sql: &str,
    values: impl Params,
    row: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    step: &'static str,
    object: impl ToString,
) -> Result<Option<T>, CatalogError> {
    use rusqlite::OptionalExtension;
    prepared(connection, sql)
        .and_then(|mut statement| statement.query_row(values, row).optional())
        .at(step, object)
}

/// All rows of a prepared query; the query itself has a limit.
pub(super) fn all<T>(
    connection: &Connection,
    sql: &str,
    values: impl Params,
    row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    step: &'static str,
    object: impl ToString,
) -> Result<Vec<T>, CatalogError> {
    prepared(connection, sql)
        .and_then(|mut statement| statement.query_map(values, row)?.collect())
        .at(step, object)
}
