//! Writes an aggregate front to back.
//!
//! Invariants: what is stored of a member is exactly what its extents say, or the aggregate is
//! abandoned; every member whose entry stands in the index was written whole; memory holds the
//! index and at most one small member ([`WHOLE`]) or block.

use super::aggregate::{
    AggregateError, BLOCK, INDEX_ALIGN, Index, IndexEntry, TRAILER_LEN, Trailer,
};
use super::header::{Header, MAX7, MAX11, TAR, split};
use super::index::{self, place_of};
use super::member::{DataIdentity, Kind, Member, MemberPath, Xattr, check_extents};
use super::places::Places;
use super::sums::{self, Sums};
use super::{pax, sparse, trailer};
use crate::id::{AggregateId, FsUuid, Timestamp};
use cairn_mover::Crc32c;
use std::collections::HashSet;
use std::io::{Read, Write};

/// A member of at most this many stored bytes is read whole and summed before its header is
/// written (P2), so that the header carries the sum.
pub const WHOLE: u64 = 8 << 20;
/// Name in the header of a pax header; readers that know pax never look at it.
const PAX_NAME: &[u8] = b"PaxHeaders/cairn";
/// Name in the header of a long-name header, as GNU tar writes it.
const LONG_NAME: &[u8] = b"././@LongLink";

/// What adding a member told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Added {
    /// Offset of its first header block; 0 for a socket, which the index alone lists.
    pub header: u64,
    /// CRC32C of the logical content (regular files; [`Crc32c::EMPTY`] otherwise).
    pub crc: Crc32c,
    /// CRC32C of the encoded block list.
    pub blocks_crc: Crc32c,
    /// Extended attributes that the header could not carry: they are in the index alone, and
    /// plain tar will not restore them. 0 but for attributes above 1 MiB or malformed ACLs.
    pub xattrs_in_index: usize,
}

/// Writes an aggregate front to back into a sink; keeps only the index in memory.
#[derive(Debug)]
pub struct AggregateWriter<W> {
    sink: W,
    written: u64,
    index: Index,
    places: Places,
}

impl<W: Write> AggregateWriter<W> {
    /// Starts an aggregate. Nothing is written yet.
    pub fn new(sink: W, aggregate: AggregateId, fs: FsUuid, composed: Timestamp) -> Self {
        Self {
            sink,
            written: 0,
            index: Index {
                aggregate,
                fs,
                composed,
                entries: Vec::new(),
            },
            places: Places::default(),
        }
    }

    /// Adds a member. For a regular file `data` yields its stored bytes (the runs, packed);
    /// anything else has none. A member whose `identity.crc` is known is checked against what was
    /// read; one whose sum is not known gets it here. A hard link comes after its target.
    ///
    /// # Errors
    /// On any error the aggregate is unusable and must be abandoned.
    pub fn add(&mut self, member: &Member, data: &mut dyn Read) -> Result<Added, AggregateError> {
        let misuse = |why| misuse(&member.path, why);
        check(member).map_err(misuse)?;
        if let Kind::HardLink { target } = &member.kind
            && !self.places.can_be_linked(target)
        {
            return Err(misuse("its target is no member that came before"));
        }
        let place = place_of(&member.kind);
        self.places.take(&member.path, place).map_err(misuse)?;
        self.begin()?;
        let size = match &member.kind {
            Kind::Regular { size, .. } => *size,
            _ => 0,
        };
        let runs = member.kind.runs();
        let stored = member.kind.stored_len();
        let known = member.identity.and_then(|i| i.crc);
        let mut source = Source {
            data,
            path: &member.path,
        };
        let header = self.written;
        let mut sums = Sums::new(size, runs);
        let (headers, whole) = if stored <= WHOLE {
            let whole = source.take(stored)?;
            source.end()?;
            sums.update(&whole);
            (None, whole)
        } else {
            (
                Some(encode_headers(member, known).map_err(misuse)?),
                Vec::new(),
            )
        };
        // A large member goes straight through; a small one waits until its sum is known.
        let (finished, headers) = match headers {
            Some(headers) => {
                self.put(&headers.bytes)?;
                self.stream(&mut source, stored, &mut sums)?;
                (sums.finish(), headers)
            }
            None => {
                let finished = sums.finish();
                let headers = encode_headers(member, Some(finished.0)).map_err(misuse)?;
                self.put(&headers.bytes)?;
                self.put(&whole)?;
                (finished, headers)
            }
        };
        let (crc, blocks) = finished;
        if known.is_some_and(|known| known != crc) {
            return Err(misuse(
                "its data do not have the checksum that was announced",
            ));
        }
        self.pad(TAR)?;
        let at = if headers.bytes.is_empty() { 0 } else { header };
        let added = Added {
            header: at,
            crc,
            blocks_crc: sums::blocks_crc(&blocks),
            xattrs_in_index: headers.left_out.len(),
        };
        let identity = member.identity.map(|i| DataIdentity {
            crc: if matches!(member.kind, Kind::Regular { .. }) {
                Some(crc)
            } else {
                i.crc
            },
            ..i
        });
        self.index.entries.push(IndexEntry {
            member: Member {
                xattrs: headers.left_out,
                identity,
                ..member.clone_without_xattrs()
            },
            header: at,
            data: at + headers.bytes.len() as u64,
            blocks,
        });
        Ok(added)
    }

    /// Takes a member and its hard links out of the index again, because its data turned out not to
    /// be the file's present ones. Its bytes stay in the tar part, where plain tar still finds
    /// them; nothing that goes by the index does. `header` as in [`Added::header`], not 0.
    pub fn disown(&mut self, header: u64) {
        let entries = &mut self.index.entries;
        let Some(at) = entries
            .iter()
            .position(|e| header != 0 && e.header == header)
        else {
            return;
        };
        let disowned = entries.swap_remove(at).member.path;
        entries.retain(|entry| match &entry.member.kind {
            Kind::HardLink { target } => *target != disowned,
            _ => true,
        });
    }

    /// Bytes written so far (what the tar part would be without its end).
    #[must_use]
    pub fn len(&self) -> u64 {
        self.written
    }

    /// Nothing added so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.entries.is_empty()
    }

    /// Ends tar, writes padding, index and trailer; gives the sink back with the index.
    ///
    /// # Errors
    /// [`AggregateError::Io`].
    pub fn finish(mut self) -> Result<(W, Index, Trailer), AggregateError> {
        self.begin()?;
        self.put(&[0; 2 * TAR as usize])?;
        self.pad(INDEX_ALIGN)?;
        self.index
            .entries
            .sort_unstable_by(|a, b| a.member.path.cmp(&b.member.path));
        let bytes = index::encode(&self.index);
        let index_offset = self.written;
        self.put(&bytes)?;
        self.pad(TAR)?;
        let trailer = Trailer {
            aggregate: self.index.aggregate,
            fs: self.index.fs,
            index_offset,
            index_len: bytes.len() as u64,
            index_crc: Crc32c::of(&bytes),
            total_len: self.written + TRAILER_LEN,
        };
        self.put(&trailer::encode(&trailer))?;
        self.sink.flush().map_err(|source| AggregateError::Io {
            step: "flushing the aggregate",
            source,
        })?;
        Ok((self.sink, self.index, trailer))
    }

    /// Writes the global header, once.
    fn begin(&mut self) -> Result<(), AggregateError> {
        if self.written > 0 {
            return Ok(());
        }
        let Index {
            aggregate,
            fs,
            composed,
            ..
        } = self.index;
        let comment = pax::composition(aggregate, fs, composed);
        let body = pax::record(b"comment", comment.as_bytes());
        let mut out = Vec::new();
        extension(&mut out, b'g', PAX_NAME, &body);
        self.put(&out)
    }

    /// Copies `stored` bytes through the sums to the sink, a block at a time.
    fn stream(
        &mut self,
        source: &mut Source<'_>,
        stored: u64,
        sums: &mut Sums<'_>,
    ) -> Result<(), AggregateError> {
        let mut left = stored;
        while left > 0 {
            let block = source.take(left.min(BLOCK))?;
            sums.update(&block);
            self.put(&block)?;
            left -= block.len() as u64;
        }
        source.end()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), AggregateError> {
        self.sink
            .write_all(bytes)
            .map_err(|source| AggregateError::Io {
                step: "writing the aggregate",
                source,
            })?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self, align: u64) -> Result<(), AggregateError> {
        let zeros = [0; INDEX_ALIGN as usize];
        let len = self.written.next_multiple_of(align) - self.written;
        self.put(&zeros[..len as usize])
    }
}

/// The caller's data, taken to the byte.
struct Source<'a> {
    data: &'a mut dyn Read,
    path: &'a MemberPath,
}

impl Source<'_> {
    /// Exactly `len` bytes.
    fn take(&mut self, len: u64) -> Result<Vec<u8>, AggregateError> {
        let mut bytes = Vec::with_capacity(len as usize);
        let got = self.data.take(len).read_to_end(&mut bytes);
        match got.map_err(reading)? as u64 {
            got if got == len => Ok(bytes),
            _ => Err(misuse(self.path, "its data end before its size")),
        }
    }

    /// Nothing may follow.
    fn end(&mut self) -> Result<(), AggregateError> {
        let mut one = Vec::new();
        match self.data.take(1).read_to_end(&mut one).map_err(reading)? {
            0 => Ok(()),
            _ => Err(misuse(self.path, "its data go on behind its size")),
        }
    }
}

fn reading(source: std::io::Error) -> AggregateError {
    AggregateError::Io {
        step: "reading a member's data",
        source,
    }
}

fn misuse(path: &MemberPath, why: &'static str) -> AggregateError {
    AggregateError::Misuse {
        path: path.to_string(),
        why,
    }
}

impl Member {
    fn clone_without_xattrs(&self) -> Self {
        Self {
            path: self.path.clone(),
            kind: self.kind.clone(),
            xattrs: Vec::new(),
            ..*self
        }
    }
}

/// What tar could not say, or what would read back as something else.
fn check(member: &Member) -> Result<(), &'static str> {
    let times = [member.mtime, member.atime, member.ctime];
    if times.iter().any(|t| t.nsec >= 1_000_000_000) {
        return Err("a time has nanoseconds of a second and more");
    }
    if member.mode > 0o7777 {
        return Err("its mode holds more than permission bits");
    }
    let longest_link = match &member.kind {
        Kind::Regular { size, extents } => {
            if member.identity.is_none() {
                return Err("a regular file without identity");
            }
            check_extents(*size, extents)?;
            0
        }
        Kind::HardLink { target } => target.as_bytes().len(),
        Kind::Symlink { target } if target.is_empty() || target.contains(&0) => {
            return Err("a symbolic link with an impossible target");
        }
        Kind::Symlink { target } => target.len(),
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            if u64::from(*major).max(u64::from(*minor)) > MAX7 {
                return Err("its device number does not fit a tar header");
            }
            0
        }
        Kind::Directory | Kind::Fifo | Kind::Socket => 0,
    };
    if member.path.as_bytes().len().max(longest_link) > MAX_LONG {
        return Err("its path or target is longer than 256 KiB");
    }
    let mut names = HashSet::new();
    if !member.xattrs.iter().all(|(name, _)| names.insert(name)) {
        return Err("an extended attribute is there twice");
    }
    Ok(())
}

/// Longest path or link target, bytes: leaves room beside it in a pax header.
const MAX_LONG: usize = 256 << 10;

/// The blocks before a member's stored bytes, and the attributes that found no room in them.
struct Headers {
    bytes: Vec<u8>,
    left_out: Vec<Xattr>,
}

/// Long-name headers, pax header, ustar header, sparse map; nothing at all for a socket.
fn encode_headers(member: &Member, crc: Option<Crc32c>) -> Result<Headers, &'static str> {
    let mut bytes = Vec::new();
    if matches!(member.kind, Kind::Socket) {
        let left_out = member.xattrs.clone();
        return Ok(Headers { bytes, left_out });
    }
    let mut map = Vec::new();
    let mut body = Vec::new();
    let mut field = |key: &str, value: &[u8]| {
        body.extend_from_slice(&pax::record(key.as_bytes(), value));
    };
    if let (Kind::Regular { .. }, Some(identity)) = (&member.kind, member.identity) {
        let crc = identity.crc.or(crc);
        let comment = pax::identity(&DataIdentity { crc, ..identity });
        field("comment", comment.as_bytes());
    }
    let mut name = member.path.as_bytes().to_vec();
    if name.is_empty() {
        name.push(b'.');
    }
    if member.kind == Kind::Directory {
        name.push(b'/');
    }
    let (kind, link, major, minor) = kind_fields(&member.kind);
    if link.len() > 100 {
        if link.is_ascii() {
            field("linkpath", link);
        } else {
            extension(&mut bytes, b'K', LONG_NAME, &[link, b"\0"].concat());
        }
    }
    if split(&name).is_none() {
        if name.is_ascii() {
            field("path", &name);
        } else {
            extension(&mut bytes, b'L', LONG_NAME, &[&name[..], b"\0"].concat());
        }
    }
    if let Kind::Regular { size, extents } = &member.kind
        && sparse::is_sparse(*size, extents)
    {
        map = sparse::encode(*size, extents);
        field("GNU.sparse.major", b"1");
        field("GNU.sparse.minor", b"0");
        field("GNU.sparse.realsize", size.to_string().as_bytes());
    }
    let size = member.kind.stored_len().checked_add(map.len() as u64);
    let size = size.ok_or("it is larger than tar can say")?;
    if size > MAX11 {
        field("size", size.to_string().as_bytes());
    }
    for (key, id) in [("uid", member.uid), ("gid", member.gid)] {
        if u64::from(id) > MAX7 {
            field(key, id.to_string().as_bytes());
        }
    }
    for (key, time) in [
        ("mtime", member.mtime),
        ("atime", member.atime),
        ("ctime", member.ctime),
    ] {
        field(key, pax::time(time).as_bytes());
    }
    let mut left_out = Vec::new();
    for (name, value) in &member.xattrs {
        match pax::xattr(name, value) {
            Some(record) if body.len() + record.len() <= pax::MAX_BODY => body.extend(record),
            _ => left_out.push((name.clone(), value.clone())),
        }
    }
    extension(&mut bytes, b'x', PAX_NAME, &body);
    let header = Header {
        name,
        mode: u64::from(member.mode),
        uid: u64::from(member.uid),
        gid: u64::from(member.gid),
        size,
        mtime: u64::try_from(member.mtime.sec).unwrap_or(0),
        kind,
        link: link.to_vec(),
        major: u64::from(major),
        minor: u64::from(minor),
    };
    bytes.extend_from_slice(&header.encode());
    bytes.extend_from_slice(&map);
    Ok(Headers { bytes, left_out })
}

/// Type flag, link name and device numbers.
fn kind_fields(kind: &Kind) -> (u8, &[u8], u32, u32) {
    match kind {
        Kind::Regular { .. } | Kind::Socket => (b'0', b"", 0, 0),
        Kind::HardLink { target } => (b'1', target.as_bytes(), 0, 0),
        Kind::Symlink { target } => (b'2', target, 0, 0),
        Kind::CharDevice { major, minor } => (b'3', b"", *major, *minor),
        Kind::BlockDevice { major, minor } => (b'4', b"", *major, *minor),
        Kind::Directory => (b'5', b"", 0, 0),
        Kind::Fifo => (b'6', b"", 0, 0),
    }
}

/// A header that says something about the next one: its block, its body, padding.
fn extension(out: &mut Vec<u8>, kind: u8, name: &[u8], body: &[u8]) {
    let header = Header {
        name: name.to_vec(),
        mode: 0o644,
        size: body.len() as u64,
        kind,
        ..Header::default()
    };
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(TAR as usize), 0);
}

#[cfg(test)]
mod tests;
