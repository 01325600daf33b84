//! A file in parts is written: each part by the writer of its own object, the last by that of the head.

use super::super::aggregate::{AggregateError, BLOCK, IndexEntry};
use super::super::header::TAR;
use super::super::member::{DataIdentity, Kind, Member};
use super::super::parts::{PartMark, PartPlace, Slice, Span, part_path};
use super::super::sums::{self, Sums};
use super::super::{pax, places::Place};
use super::headers::{check, encode_part_headers};
use super::{Added, AggregateWriter, Source, misuse};
use cairn_mover::Crc32c;
use std::io::{Read, Write};

/// A file in parts that is being written; how far, and what its head will say.
#[derive(Debug)]
pub struct PartsWriter<'a> {
    member: &'a Member,
    slices: &'a [Slice],
    /// Of the file as a whole.
    sums: Sums<'a>,
    places: Vec<PartPlace>,
}

impl<'a> PartsWriter<'a> {
    /// Nothing is written yet. `slices`: all of the member's, as [`super::super::parts::cut`] gave them.
    #[must_use]
    pub fn new(member: &'a Member, slices: &'a [Slice]) -> Self {
        let size = match &member.kind {
            Kind::Regular { size, .. } => *size,
            _ => 0,
        };
        Self {
            member,
            slices,
            sums: Sums::new(size, member.kind.runs()),
            places: Vec::new(),
        }
    }

    /// The part that comes next; `None`: the next one is the last, and goes into the head.
    #[must_use]
    pub fn next(&self) -> Option<&'a Slice> {
        let next = self.slices.get(self.places.len());
        next.filter(|_| self.places.len() + 1 < self.slices.len())
    }

    /// The object of the part that was added last is sealed, and so long.
    pub fn sealed(&mut self, len: u64) {
        if let Some(last) = self.places.last_mut() {
            last.len = len;
        }
    }

    fn mark(&self, slice: &Slice) -> PartMark {
        let last = self.places.len() + 1 == self.slices.len();
        PartMark {
            number: slice.number,
            offset: slice.content.start,
            whole: last.then_some(slice.content.end),
        }
    }
}

impl<W: Write> AggregateWriter<W> {
    /// Adds the next part of a file, to the writer of its own object. `data` goes on behind it with the
    /// next one's.
    ///
    /// # Errors
    /// As [`AggregateWriter::add`].
    pub fn add_part(
        &mut self,
        file: &mut PartsWriter<'_>,
        data: &mut dyn Read,
    ) -> Result<(), AggregateError> {
        self.proceed(&file.member.path)?;
        self.failed = true;
        let wrong = |why| misuse(&file.member.path, why);
        let slice = file.next().ok_or_else(|| wrong("it has no such part"))?;
        if self.index.aggregate.part_number() != slice.number {
            return Err(wrong("the object is named for another part"));
        }
        let path = part_path(file.member, slice.number);
        self.places.take(&path, Place::Target).map_err(wrong)?;
        let stored = self.store_part(file, slice, data)?;
        let identity = file.member.identity.map(|i| DataIdentity {
            crc: Some(stored.crc),
            ..i
        });
        file.places.push(PartPlace {
            header: stored.header,
            data: stored.data,
            header_crc: stored.header_crc,
            first: slice.blocks.start,
            blocks: slice.blocks.end - slice.blocks.start,
            len: 0,
        });
        self.index.entries.push(IndexEntry {
            member: Member {
                path,
                kind: slice.kind(),
                identity,
                xattrs: stored.left_out,
                ..file.member.clone_without_xattrs()
            },
            header: stored.header,
            data: stored.data,
            header_crc: stored.header_crc,
            blocks: stored.blocks,
            span: Span::Part {
                number: slice.number,
                offset: slice.content.start,
            },
        });
        self.failed = false;
        Ok(())
    }

    /// Adds the last part, and with it the file: to the writer of the aggregate itself.
    ///
    /// # Errors
    /// As [`AggregateWriter::add`].
    pub fn add_last_part(
        &mut self,
        mut file: PartsWriter<'_>,
        data: &mut dyn Read,
    ) -> Result<Added, AggregateError> {
        self.proceed(&file.member.path)?;
        self.failed = true;
        let member = file.member;
        let wrong = |why| misuse(&member.path, why);
        let slice = file.slices.last().filter(|_| file.next().is_none());
        let slice = slice.ok_or_else(|| wrong("its other parts come first"))?;
        let sealed = file.places.iter().all(|part| part.len > 0) && !file.places.is_empty();
        if self.index.aggregate.is_part() || self.in_parts.is_some() || !sealed {
            return Err(wrong(
                "its last part belongs to one aggregate, behind the others",
            ));
        }
        self.places
            .take(&member.path, Place::Target)
            .map_err(wrong)?;
        let stored = self.store_part(&mut file, slice, data)?;
        let mut source = Source {
            data,
            path: &member.path,
        };
        source.end()?;
        let (crc, blocks) = file.sums.finish();
        let known = member.identity.and_then(|i| i.crc);
        if known.is_some_and(|known| known != crc) {
            return Err(wrong(
                "its data do not have the checksum that was announced",
            ));
        }
        let added = Added {
            header: stored.header,
            crc,
            blocks_crc: sums::blocks_crc(&blocks),
            xattrs_in_index: stored.left_out.len(),
        };
        self.index.entries.push(IndexEntry {
            member: Member {
                identity: member.identity.map(|i| DataIdentity {
                    crc: Some(crc),
                    ..i
                }),
                xattrs: stored.left_out,
                ..member.clone_without_xattrs()
            },
            header: stored.header,
            data: stored.data,
            header_crc: stored.header_crc,
            blocks,
            span: Span::Parts(file.places),
        });
        self.in_parts = Some(member.path.clone());
        self.failed = false;
        Ok(added)
    }

    fn store_part(
        &mut self,
        file: &mut PartsWriter<'_>,
        slice: &Slice,
        data: &mut dyn Read,
    ) -> Result<StoredPart, AggregateError> {
        let member = file.member;
        let wrong = |why| misuse(&member.path, why);
        check(member).map_err(wrong)?;
        let identity = member
            .identity
            .ok_or_else(|| wrong("a file without identity"))?;
        let own = Member {
            path: part_path(member, slice.number),
            kind: slice.kind(),
            ..member.clone()
        };
        check(&own).map_err(wrong)?;
        let comment = pax::part(&identity, &file.mark(slice));
        let headers = encode_part_headers(&own, &comment).map_err(wrong)?;
        self.begin()?;
        let header = self.written;
        self.put(&headers.bytes)?;
        let data_at = self.written;
        let mut sums = Sums::new(slice.content.end - slice.content.start, &slice.extents);
        let mut source = Source {
            data,
            path: &member.path,
        };
        let mut left = slice.stored_len();
        while left > 0 {
            let block = source.take(left.min(BLOCK))?;
            file.sums.update(&block);
            sums.update(&block);
            self.put(&block)?;
            left -= block.len() as u64;
        }
        self.pad(TAR)?;
        let (crc, blocks) = sums.finish();
        Ok(StoredPart {
            header,
            data: data_at,
            header_crc: Crc32c::of(&headers.bytes),
            crc,
            blocks,
            left_out: headers.left_out,
        })
    }
}

/// A part, as it was written.
struct StoredPart {
    header: u64,
    data: u64,
    header_crc: Crc32c,
    crc: Crc32c,
    blocks: Vec<Crc32c>,
    left_out: Vec<crate::format::member::Xattr>,
}
