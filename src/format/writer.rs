//! Writes an aggregate front to back.
//!
//! Invariants: what is stored of a member is exactly what its extents say, or the aggregate is
//! abandoned; every member whose entry stands in the index was written whole; memory holds the
//! index and at most one small member ([`WHOLE`]) or block.

use super::aggregate::{
    AggregateError, BLOCK, INDEX_ALIGN, Index, IndexEntry, TRAILER_LEN, Trailer,
};
use super::header::TAR;
use super::index::{self, place_of};
use super::member::{DataIdentity, Kind, Member, MemberPath};
use super::parts::Span;
use super::places::Places;
use super::sums::{self, Sums};
use super::{pax, trailer};
use crate::id::{AggregateId, FsUuid, Timestamp};
use cairn_mover::Crc32c;
use std::io::{Read, Write};

mod headers;
mod parts;

use headers::{Headers, PAX_NAME, extension};
pub(super) use headers::{check, encode_headers, guarded};
pub use parts::PartsWriter;

/// A member of at most this many stored bytes is read whole and summed before its header is
/// written (P2), so that the header carries the sum.
pub const WHOLE: u64 = 8 << 20;

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

/// Writes an aggregate front to back into a sink; keeps only the index in memory. Writes are as
/// small as a header: give it a sink with a buffer.
#[derive(Debug)]
pub struct AggregateWriter<W> {
    sink: W,
    written: u64,
    index: Index,
    places: Places,
    /// The file in parts, if its last part is in it.
    in_parts: Option<MemberPath>,
    /// An addition failed: there will be no trailer.
    failed: bool,
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
            in_parts: None,
            failed: false,
        }
    }

    /// What it writes into.
    pub fn sink(&mut self) -> &mut W {
        &mut self.sink
    }

    /// Adds a member. For a regular file `data` yields its stored bytes (the runs, packed);
    /// anything else has none. A member whose `identity.crc` is known is checked against what was
    /// read; one whose sum is not known gets it here. A hard link comes after its target.
    ///
    /// # Errors
    /// On any error the aggregate is unusable and must be abandoned: every later call fails.
    pub fn add(&mut self, member: &Member, data: &mut dyn Read) -> Result<Added, AggregateError> {
        self.proceed(&member.path)?;
        self.failed = true;
        let added = self.add_member(member, data)?;
        self.failed = false;
        Ok(added)
    }

    fn proceed(&self, path: &MemberPath) -> Result<(), AggregateError> {
        if self.failed {
            return Err(misuse(path, "an earlier addition to the aggregate failed"));
        }
        Ok(())
    }

    fn add_member(
        &mut self,
        member: &Member,
        data: &mut dyn Read,
    ) -> Result<Added, AggregateError> {
        let misuse = |why| misuse(&member.path, why);
        check(member).map_err(misuse)?;
        if let Kind::HardLink { target } = &member.kind
            && !self.places.can_be_linked(target)
        {
            return Err(misuse("its target is no member that came before"));
        }
        let place = place_of(&member.kind);
        self.places.take(&member.path, place).map_err(misuse)?;
        if let Kind::HardLink { target } = &member.kind
            && self.in_parts.as_ref() == Some(target)
        {
            // In tar there is nothing that it could be a link to.
            return Ok(self.list(member));
        }
        self.begin()?;
        let header = self.written;
        let Stored {
            headers,
            crc,
            blocks,
        } = self.store(member, data)?;
        self.pad(TAR)?;
        let header = if headers.bytes.is_empty() { 0 } else { header };
        let added = Added {
            header,
            crc,
            blocks_crc: sums::blocks_crc(&blocks),
            xattrs_in_index: headers.left_out.len(),
        };
        let regular = matches!(member.kind, Kind::Regular { .. });
        let identity = member.identity.map(|i| DataIdentity {
            crc: if regular { Some(crc) } else { i.crc },
            ..i
        });
        self.index.entries.push(IndexEntry {
            data: header + headers.bytes.len() as u64,
            header_crc: Crc32c::of(&headers.bytes),
            member: Member {
                xattrs: headers.left_out,
                identity,
                ..member.clone_without_xattrs()
            },
            header,
            blocks,
            span: Span::Whole,
        });
        Ok(added)
    }

    /// Enters a member in the index alone.
    fn list(&mut self, member: &Member) -> Added {
        self.index.entries.push(IndexEntry {
            member: member.clone(),
            header: 0,
            data: 0,
            header_crc: Crc32c::EMPTY,
            blocks: Vec::new(),
            span: Span::Whole,
        });
        Added {
            header: 0,
            crc: Crc32c::EMPTY,
            blocks_crc: sums::blocks_crc(&[]),
            xattrs_in_index: member.xattrs.len(),
        }
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
        if self.in_parts.as_ref() == Some(&disowned) {
            self.in_parts = None;
        }
        entries.retain(|entry| match &entry.member.kind {
            Kind::HardLink { target } => *target != disowned,
            _ => true,
        });
    }

    /// Headers and data. A large member goes straight through; of a small one nothing is written
    /// before its sum is known.
    fn store(&mut self, member: &Member, data: &mut dyn Read) -> Result<Stored, AggregateError> {
        let misuse = |why| misuse(&member.path, why);
        let known = member.identity.and_then(|i| i.crc);
        let compare = |crc| match known {
            Some(known) if known != crc => Err(misuse(
                "its data do not have the checksum that was announced",
            )),
            _ => Ok(()),
        };
        let size = match &member.kind {
            Kind::Regular { size, .. } => *size,
            _ => 0,
        };
        let stored = member.kind.stored_len();
        let mut sums = Sums::new(size, member.kind.runs());
        let mut source = Source {
            data,
            path: &member.path,
        };
        if stored > WHOLE {
            let headers = encode_headers(member, known).map_err(misuse)?;
            self.put(&headers.bytes)?;
            let mut left = stored;
            while left > 0 {
                let block = source.take(left.min(BLOCK))?;
                sums.update(&block);
                self.put(&block)?;
                left -= block.len() as u64;
            }
            source.end()?;
            let (crc, blocks) = sums.finish();
            compare(crc)?;
            return Ok(Stored {
                headers,
                crc,
                blocks,
            });
        }
        let whole = source.take(stored)?;
        source.end()?;
        sums.update(&whole);
        let (crc, blocks) = sums.finish();
        compare(crc)?;
        let headers = encode_headers(member, Some(crc)).map_err(misuse)?;
        self.put(&headers.bytes)?;
        self.put(&whole)?;
        Ok(Stored {
            headers,
            crc,
            blocks,
        })
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
    /// [`AggregateError::Io`]; [`AggregateError::Misuse`] if an addition failed before.
    pub fn finish(mut self) -> Result<(W, Index, Trailer), AggregateError> {
        self.proceed(&MemberPath::root())?;
        self.begin()?;
        self.put(&[0; 2 * TAR as usize])?;
        self.pad(INDEX_ALIGN)?;
        self.index
            .entries
            .sort_unstable_by(|a, b| a.member.path.cmp(&b.member.path));
        let (bytes, trailer) = closing(&self.index, self.written, self.in_parts.is_some());
        self.put(&bytes)?;
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
        self.put(&opening(&self.index))
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

/// The global header.
pub(super) fn opening(index: &Index) -> Vec<u8> {
    let comment = pax::composition(index.aggregate, index.fs, index.composed);
    let body = pax::record(b"comment", comment.as_bytes());
    let mut out = Vec::new();
    extension(&mut out, b'g', PAX_NAME, &body);
    out
}

/// All that comes behind the padding: a sorted index that begins at `index_offset`, and the trailer.
pub(super) fn closing(index: &Index, index_offset: u64, in_parts: bool) -> (Vec<u8>, Trailer) {
    let mut bytes = index::encode(index);
    let (index_len, index_crc) = (bytes.len() as u64, Crc32c::of(&bytes));
    bytes.resize(bytes.len().next_multiple_of(TAR as usize), 0);
    let trailer = Trailer {
        aggregate: index.aggregate,
        fs: index.fs,
        index_offset,
        index_len,
        index_crc,
        total_len: index_offset + bytes.len() as u64 + TRAILER_LEN,
        in_parts,
    };
    bytes.extend_from_slice(&trailer::encode(&trailer));
    (bytes, trailer)
}

/// A member's headers and data, as they were written.
struct Stored {
    headers: Headers,
    crc: Crc32c,
    blocks: Vec<Crc32c>,
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

pub(super) fn misuse(path: &MemberPath, why: &'static str) -> AggregateError {
    AggregateError::Misuse {
        path: path.to_string(),
        why,
    }
}

impl Member {
    pub(super) fn clone_without_xattrs(&self) -> Self {
        Self {
            path: self.path.clone(),
            kind: self.kind.clone(),
            xattrs: Vec::new(),
            ..*self
        }
    }
}

#[cfg(test)]
mod tests;
