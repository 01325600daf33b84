//! Reads the tar part of an aggregate front to back, without index or trailer: for `rebuild`, for
//! objects that lost their end, for a tape that cannot seek.
//!
//! Accepts what Cairn writes and nothing else. Invariants: every member yielded has a
//! [`MemberPath`], a place that no other member of the aggregate takes, and no place below a
//! member that is no directory; a hard link's target came before it. The first error ends the
//! scan: what follows a damaged header could be a user's data that look like headers.
//!
//! Sockets are not found (the index alone lists them), nor are the extended attributes that only
//! the index holds.

use super::aggregate::{AggregateError, BLOCK, INDEX_ALIGN, IndexEntry};
use super::header::{Header, TAR};
use super::index::place_of;
use super::member::{DataIdentity, Kind, Member, MemberPath, Xattr};
use super::parts::{PartMark, Span};
use super::places::Places;
use super::sparse::{self, MapError};
use super::sums::Sums;
use super::wire::Wrong;
use crate::id::{AggregateId, FsUuid, Timestamp};
use cairn_mover::{Crc32c, Crc32cHasher};
use std::io::{self, Read, Seek, SeekFrom};

mod alone;
mod entry;

use entry::Said;

/// What the global header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Composition {
    /// The aggregate.
    pub aggregate: AggregateId,
    /// The backing filesystem the members came from.
    pub fs: FsUuid,
    /// When it was composed.
    pub composed: Timestamp,
}

/// A member found in the tar part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    /// The member, with its extended attributes. `identity.crc` is as in the header.
    pub member: Member,
    /// Offset of its first header block.
    pub header: u64,
    /// Offset of its first stored byte.
    pub data: u64,
    /// CRC32C of `header..data`.
    pub header_crc: Crc32c,
    /// It is a part of a file.
    pub part: Option<PartMark>,
}

/// Walks an aggregate. `R` is read in blocks of 512 bytes and more: give it a buffer.
#[derive(Debug)]
pub struct Scanner<R> {
    source: R,
    skip: fn(&mut R, u64) -> io::Result<()>,
    /// Bytes read or skipped so far.
    at: u64,
    /// Stored bytes of the current member not yet read, and the padding behind them.
    left: u64,
    padding: u64,
    current: Option<Scanned>,
    composition: Option<Composition>,
    places: Places,
    /// Sum of the current member's headers.
    headers: Crc32cHasher,
    /// A member read on its own: its links cannot be checked.
    alone: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Members,
    Ended,
    Failed,
}

impl<R: Read> Scanner<R> {
    /// Scans by reading every byte: for pipes and tapes.
    pub fn new(source: R) -> Self {
        Self::with_skip(source, |source, len| {
            let skipped = io::copy(&mut source.take(len), &mut io::sink())?;
            if skipped < len {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(())
        })
    }

    fn with_skip(source: R, skip: fn(&mut R, u64) -> io::Result<()>) -> Self {
        Self {
            source,
            skip,
            at: 0,
            left: 0,
            padding: 0,
            current: None,
            composition: None,
            places: Places::default(),
            headers: Crc32cHasher::default(),
            alone: false,
            state: State::Members,
        }
    }

    /// The next member; `None` at tar's end. Data of the one before that were not read are skipped.
    ///
    /// # Errors
    /// [`AggregateError::BadMember`] for anything that Cairn would not have written, also for an
    /// object that ends too early; [`AggregateError::Io`] if the source fails. Either ends the
    /// scan: later calls give `None`.
    pub fn next_member(&mut self) -> Result<Option<&Scanned>, AggregateError> {
        if self.state != State::Members {
            return Ok(None);
        }
        self.current = None;
        self.state = State::Failed;
        self.skip_data()?;
        let found = self.read_member()?;
        self.state = if found.is_some() {
            State::Members
        } else {
            State::Ended
        };
        self.current = found;
        Ok(self.current.as_ref())
    }

    /// What the global header says, once the first member was asked for.
    #[must_use]
    pub fn composition(&self) -> Option<Composition> {
        self.composition
    }

    /// After `next_member` gave `None` without an error: where the index begins, if the object
    /// still has one (see [`super::aggregate::find_index`]).
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        (self.state == State::Ended).then(|| self.at.next_multiple_of(INDEX_ALIGN))
    }

    /// Up to 1 MiB of the current member's stored bytes; empty at their end. Not yet verified.
    ///
    /// # Errors
    /// [`AggregateError::BadMember`] if the object ends before; [`AggregateError::Io`]. Either ends
    /// the scan.
    pub fn read_data(&mut self) -> Result<Vec<u8>, AggregateError> {
        let want = self.left.min(BLOCK);
        let mut bytes = Vec::new();
        let before = std::mem::replace(&mut self.state, State::Failed);
        let got = (&mut self.source).take(want).read_to_end(&mut bytes);
        let got = got.map_err(|e| self.io(e))? as u64;
        self.at += got;
        self.left -= got;
        if got < want {
            return Err(self.bad(self.at, "the object ends inside a member's data"));
        }
        self.state = before;
        Ok(bytes)
    }

    /// Reads the data of the current member (from their start: call it before
    /// [`Self::read_data`]) and makes its index entry, block sums and all. A sum in the header is
    /// compared with the data.
    ///
    /// # Errors
    /// As [`Self::read_data`]; [`AggregateError::BadMember`] also if the sum differs, after which the
    /// scan can go on.
    pub fn entry(&mut self) -> Result<Option<IndexEntry>, AggregateError> {
        let Some(mut found) = self.current.take() else {
            return Ok(None);
        };
        let kind = std::mem::replace(&mut found.member.kind, Kind::Fifo);
        let size = match &kind {
            Kind::Regular { size, .. } => *size,
            _ => 0,
        };
        let mut sums = Sums::new(size, kind.runs());
        while self.left > 0 {
            let block = self.read_data()?;
            sums.update(&block);
        }
        let (crc, blocks) = sums.finish();
        if let (Kind::Regular { .. }, Some(identity)) = (&kind, &mut found.member.identity) {
            if identity.crc.is_some_and(|known| known != crc) {
                return Err(self.bad(found.header, "the data do not have the sum in their header"));
            }
            identity.crc = Some(crc);
        }
        Ok(Some(IndexEntry {
            member: Member {
                kind,
                xattrs: Vec::new(),
                ..found.member
            },
            header: found.header,
            data: found.data,
            header_crc: found.header_crc,
            blocks,
            span: found.part.map_or(Span::Whole, |part| Span::Part {
                number: part.number,
                offset: part.offset,
            }),
        }))
    }

    fn skip_data(&mut self) -> Result<(), AggregateError> {
        let len = std::mem::take(&mut self.left) + std::mem::take(&mut self.padding);
        if len > 0 {
            (self.skip)(&mut self.source, len).map_err(|e| self.io(e))?;
            self.at += len;
        }
        Ok(())
    }

    /// Headers up to and with the member's own.
    fn read_member(&mut self) -> Result<Option<Scanned>, AggregateError> {
        let mut start = self.at;
        let mut said = Said::default();
        self.headers = Crc32cHasher::default();
        loop {
            let at = self.at;
            let Some(header) = self.header()? else {
                return self.tar_end(at, start).map(|()| None);
            };
            match header.kind {
                b'g' if at == 0 => {
                    let body = self.body(&header)?;
                    let found = entry::composition(&body).map_err(|why| self.bad(at, why))?;
                    self.composition = Some(found);
                    start = self.at;
                    self.headers = Crc32cHasher::default();
                }
                b'x' | b'L' | b'K' => {
                    let body = self.body(&header)?;
                    said.hear(header.kind, &body)
                        .map_err(|why| self.bad(at, why))?;
                }
                _ => return self.member(start, &header, said).map(Some),
            }
        }
    }

    /// One zero block was read; the second must follow, and nothing half said be open.
    fn tar_end(&mut self, at: u64, start: u64) -> Result<(), AggregateError> {
        if at != start {
            return Err(self.bad(at, "tar ends behind a header that belongs to a member"));
        }
        match self.header()? {
            None => Ok(()),
            Some(_) => Err(self.bad(at, "a lone zero block")),
        }
    }

    fn member(
        &mut self,
        start: u64,
        header: &Header,
        said: Said,
    ) -> Result<Scanned, AggregateError> {
        let mut plan = said.plan(header).map_err(|why| self.bad(start, why))?;
        let (kind, map_len) = match plan.sparse {
            None => (std::mem::replace(&mut plan.kind, Kind::Fifo), 0),
            Some(size) => {
                let mut tee = Tee {
                    source: &mut self.source,
                    sum: &mut self.headers,
                };
                let read = sparse::decode(&mut tee, size, plan.len);
                let (extents, taken) = read.map_err(|e| match e {
                    MapError::Bad(why) => self.bad(start, why),
                    MapError::Io(e) => self.io(e),
                })?;
                (Kind::Regular { size, extents }, taken)
            }
        };
        self.at += map_len;
        let stored = plan.len.checked_sub(map_len);
        if stored != Some(kind.stored_len()) {
            return Err(self.bad(start, "its length is not the sum of its runs"));
        }
        if let Kind::HardLink { target } = &kind
            && !self.alone
            && !self.places.can_be_linked(target)
        {
            return Err(self.bad(start, "a hard link to no member that came before"));
        }
        let taken = self.places.take(&plan.path, place_of(&kind));
        taken.map_err(|why| self.bad(start, why))?;
        let padded = self.at.checked_add(kind.stored_len());
        let padded = padded.and_then(|end| end.checked_next_multiple_of(TAR));
        if padded.is_none() {
            return Err(self.bad(start, "it is larger than any object"));
        }
        self.left = kind.stored_len();
        self.padding = self.left.next_multiple_of(TAR) - self.left;
        let part = plan.part;
        Ok(Scanned {
            part,
            member: Member {
                kind,
                ..plan.into_member(header)
            },
            header: start,
            data: self.at,
            header_crc: self.headers.sum(),
        })
    }

    fn header(&mut self) -> Result<Option<Header>, AggregateError> {
        let at = self.at;
        let mut block = [0; TAR as usize];
        self.fill(&mut block)?;
        Header::decode(&block).map_err(|why| self.bad(at, why))
    }

    /// The body of an extension header, at most [`super::pax::MAX_BODY`] bytes.
    fn body(&mut self, header: &Header) -> Result<Vec<u8>, AggregateError> {
        if header.size > super::pax::MAX_BODY as u64 {
            return Err(self.bad(self.at, "an extension header above 1 MiB"));
        }
        let mut body = Vec::new();
        let padded = header.size.next_multiple_of(TAR);
        let got = (&mut self.source).take(padded).read_to_end(&mut body);
        let got = got.map_err(|e| self.io(e))? as u64;
        self.at += got;
        if got < padded {
            return Err(self.bad(self.at, "the object ends inside a header"));
        }
        self.headers.update(&body);
        body.truncate(header.size as usize);
        Ok(body)
    }

    fn fill(&mut self, block: &mut [u8]) -> Result<(), AggregateError> {
        self.source.read_exact(block).map_err(|e| self.io(e))?;
        self.headers.update(block);
        self.at += block.len() as u64;
        Ok(())
    }

    fn bad(&self, offset: u64, why: Wrong) -> AggregateError {
        AggregateError::BadMember {
            offset,
            why: why.to_owned(),
        }
    }

    fn io(&self, source: io::Error) -> AggregateError {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return self.bad(self.at, "the object ends before tar does");
        }
        AggregateError::Io {
            step: "reading the aggregate",
            source,
        }
    }
}

impl<R: Read + Seek> Scanner<R> {
    /// Scans by seeking over data that nobody asks for. The source stands at the object's start.
    pub fn seekable(source: R) -> Self {
        Self::with_skip(source, |source, len| {
            // Seeking behind the end succeeds; reading the last byte shows whether it is there.
            let len = i64::try_from(len - 1).map_err(|_| io::ErrorKind::UnexpectedEof)?;
            source.seek(SeekFrom::Current(len))?;
            source.read_exact(&mut [0])
        })
    }
}

/// Sums what is read through it.
struct Tee<'a, R> {
    source: &'a mut R,
    sum: &'a mut Crc32cHasher,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let got = self.source.read(into)?;
        self.sum.update(&into[..got]);
        Ok(got)
    }
}

/// What a member's headers come to.
struct Plan {
    path: MemberPath,
    kind: Kind,
    /// Bytes behind the header, sparse map included.
    len: u64,
    /// Logical size, if a sparse map follows.
    sparse: Option<u64>,
    ids: (u32, u32),
    /// mtime, atime, ctime.
    times: [Timestamp; 3],
    xattrs: Vec<Xattr>,
    identity: Option<DataIdentity>,
    part: Option<PartMark>,
}

impl Plan {
    fn into_member(self, header: &Header) -> Member {
        let [mtime, atime, ctime] = self.times;
        Member {
            path: self.path,
            kind: self.kind,
            mode: (header.mode & 0o7777) as u32,
            uid: self.ids.0,
            gid: self.ids.1,
            mtime,
            atime,
            ctime,
            xattrs: self.xattrs,
            identity: self.identity,
        }
    }
}

#[cfg(test)]
mod tests;
