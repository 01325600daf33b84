//! An aggregate that is laid out before any of its data are read: every byte of it has its place from the start, so that it
//! can be read anywhere, in any order and more than once, as if it were a file.
//!
//! Invariants: the bytes are those that [`super::aggregate::AggregateWriter`] writes for the same members and sums; a draft
//! keeps no headers and no data, headers are made when they are read. Headers have the sums alone that were known when
//! it was made; the index has them all, so its bytes, and nothing before them, wait for the data.

use super::aggregate::{AggregateError, BLOCK, INDEX_ALIGN, Index, IndexEntry, TRAILER_LEN};
use super::header::TAR;
use super::index::{self, place_of};
use super::member::{DataIdentity, Kind, Member};
use super::parts::Span;
use super::places::Places;
use super::sums::Sums;
use super::writer::{check, closing, encode_headers, misuse, opening};
use crate::id::{AggregateId, FsUuid, Timestamp};
use cairn_mover::Crc32c;
use std::io::{self, Read};

/// What the data of a member sum to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summed {
    /// Of the whole content, holes as zeros.
    pub crc: Crc32c,
    /// Of each [`BLOCK`] of what is stored.
    pub blocks: Vec<Crc32c>,
}

impl Summed {
    /// Reads what is stored of a file of that kind.
    ///
    /// # Errors
    /// `stored` fails, or ends too early (`UnexpectedEof`).
    pub fn of(kind: &Kind, stored: &mut dyn Read) -> io::Result<Self> {
        let size = match kind {
            Kind::Regular { size, .. } => *size,
            _ => 0,
        };
        let mut sums = Sums::new(size, kind.runs());
        let mut left = kind.stored_len();
        let mut block = vec![0; BLOCK.min(left) as usize];
        while left > 0 {
            let len = left.min(BLOCK) as usize;
            stored.read_exact(&mut block[..len])?;
            sums.update(&block[..len]);
            left -= len as u64;
        }
        let (crc, blocks) = sums.finish();
        Ok(Self { crc, blocks })
    }

    /// Puts the sums of all blocks of a file of `size` bytes without holes together.
    #[must_use]
    pub fn dense(size: u64, blocks: Vec<Crc32c>) -> Self {
        let (mut crc, mut left) = (Crc32c::EMPTY, size);
        for block in &blocks {
            let len = left.min(BLOCK);
            crc = crc.then(*block, len);
            left -= len;
        }
        Self { crc, blocks }
    }
}

/// What some bytes of a draft are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stretch {
    /// These: headers, padding.
    Known(Vec<u8>),
    /// Stored bytes of a member.
    Data {
        /// Its number.
        member: usize,
        /// From which of them on.
        at: u64,
        /// How many.
        len: usize,
    },
    /// Bytes of [`Draft::end`].
    End {
        /// From which of them on.
        at: usize,
        /// How many.
        len: usize,
    },
}

impl Stretch {
    fn len(&self) -> usize {
        match self {
            Self::Known(bytes) => bytes.len(),
            Self::Data { len, .. } | Self::End { len, .. } => *len,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Draft {
    /// Its members as they were given, in their order; sums are not known.
    index: Index,
    /// Where the bytes of each begin.
    begins: Vec<u64>,
    /// Where tar ends.
    tar_end: u64,
    index_offset: u64,
    len: u64,
}

impl Draft {
    /// Lays the members out in their order. A hard link comes after its target.
    ///
    /// # Errors
    /// [`AggregateError::Misuse`]: a member that cannot be, or not beside the others.
    pub fn new(
        members: Vec<Member>,
        aggregate: AggregateId,
        fs: FsUuid,
        composed: Timestamp,
    ) -> Result<Self, AggregateError> {
        let mut draft = Self {
            index: Index {
                aggregate,
                fs,
                composed,
                entries: Vec::with_capacity(members.len()),
            },
            begins: Vec::with_capacity(members.len()),
            tar_end: 0,
            index_offset: 0,
            len: 0,
        };
        draft.tar_end = opening(&draft.index).len() as u64;
        let mut places = Places::default();
        for member in members {
            draft.place(member, &mut places)?;
        }
        draft.index_offset = (draft.tar_end + 2 * TAR).next_multiple_of(INDEX_ALIGN);
        let index_len = index::encode(&draft.closed(None)).len() as u64;
        draft.len = draft.index_offset + index_len.next_multiple_of(TAR) + TRAILER_LEN;
        Ok(draft)
    }

    fn place(&mut self, member: Member, places: &mut Places) -> Result<(), AggregateError> {
        let wrong = |why| misuse(&member.path, why);
        check(&member).map_err(wrong)?;
        if let Kind::HardLink { target } = &member.kind
            && !places.can_be_linked(target)
        {
            return Err(wrong("its target is no member that came before"));
        }
        let place = place_of(&member.kind);
        places.take(&member.path, place).map_err(wrong)?;
        let headers = encode_headers(&member, None).map_err(wrong)?.bytes;
        let begin = self.tar_end;
        let header = if headers.is_empty() { 0 } else { begin };
        let data = header + headers.len() as u64;
        // Far below where the index must still have room.
        let end = (begin + headers.len() as u64).checked_add(member.kind.stored_len());
        let end = end.filter(|end| *end < 1 << 62);
        let end = end.ok_or_else(|| wrong("it is larger than tar can say"))?;
        self.tar_end = end.next_multiple_of(TAR);
        self.begins.push(begin);
        self.index.entries.push(IndexEntry {
            blocks: Vec::new(),
            header,
            data,
            header_crc: Crc32c::of(&headers),
            span: Span::Whole,
            member,
        });
        Ok(())
    }

    /// Its bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.len
    }

    /// Its members, in their order, with their places; the sums are not in them.
    #[must_use]
    pub fn members(&self) -> &[IndexEntry] {
        &self.index.entries
    }

    /// What the bytes from `offset` on are, `len` of them or up to the end.
    pub fn stretches(&self, offset: u64, len: usize) -> impl Iterator<Item = Stretch> + '_ {
        let (mut offset, mut left) = (offset, len);
        std::iter::from_fn(move || {
            if left == 0 || offset >= self.len {
                return None;
            }
            let stretch = self.stretch(offset, left);
            offset += stretch.len() as u64;
            left -= stretch.len();
            Some(stretch)
        })
    }

    /// At most `most` bytes from `offset`, which lies in it; not empty.
    fn stretch(&self, offset: u64, most: usize) -> Stretch {
        let upto = |end: u64| {
            usize::try_from(end - offset)
                .unwrap_or(usize::MAX)
                .min(most)
        };
        let cut = |bytes: &[u8], at: u64| {
            let rest = &bytes[at as usize..];
            Stretch::Known(rest[..rest.len().min(most)].to_vec())
        };
        if offset >= self.index_offset {
            return Stretch::End {
                at: (offset - self.index_offset) as usize,
                len: upto(self.len),
            };
        }
        if offset >= self.tar_end {
            return Stretch::Known(vec![0; upto(self.index_offset)]);
        }
        let behind = self.begins.partition_point(|begin| *begin <= offset);
        let Some(member) = behind.checked_sub(1) else {
            return cut(&opening(&self.index), offset);
        };
        let entry = &self.index.entries[member];
        if offset < entry.data {
            // It was encoded before.
            let headers = encode_headers(&entry.member, None).map(|headers| headers.bytes);
            return cut(&headers.unwrap_or_default(), offset - entry.header);
        }
        if offset < entry.end() {
            return Stretch::Data {
                member,
                at: offset - entry.data,
                len: upto(entry.end()),
            };
        }
        let next = self.begins.get(behind).copied().unwrap_or(self.tar_end);
        Stretch::Known(vec![0; upto(next)])
    }

    /// Index and trailer: the bytes from the last multiple of 4096 behind tar's end on. `sums` are of all members in their
    /// order; of one without data they are not looked at.
    ///
    /// # Errors
    /// [`AggregateError::Misuse`]: they are not of these members.
    pub fn end(&self, sums: &[Summed]) -> Result<Vec<u8>, AggregateError> {
        for (entry, sum) in self.index.entries.iter().zip(sums) {
            let known = entry.member.identity.and_then(|i| i.crc);
            if known.is_some_and(|known| known != sum.crc)
                || sum.blocks.len() as u64 != entry.stored_len().div_ceil(BLOCK)
            {
                let why = "its data do not have the checksum that was announced";
                return Err(misuse(&entry.member.path, why));
            }
        }
        if sums.len() != self.index.entries.len() {
            let root = super::member::MemberPath::root();
            return Err(misuse(&root, "sums of other members"));
        }
        let (bytes, _) = closing(&self.closed(Some(sums)), self.index_offset, false);
        Ok(bytes)
    }

    /// The index, sorted, with these sums or as many zeros.
    fn closed(&self, sums: Option<&[Summed]>) -> Index {
        let close = |(n, entry): (usize, &IndexEntry)| {
            let regular = matches!(entry.member.kind, Kind::Regular { .. });
            let none = || vec![Crc32c::EMPTY; entry.stored_len().div_ceil(BLOCK) as usize];
            let sum = sums.and_then(|sums| sums.get(n));
            let crc = sum.map_or(Crc32c::EMPTY, |sum| sum.crc);
            // Those that found room in the headers are not in the index.
            let left_out = match entry.member.xattrs.is_empty() {
                true => Vec::new(),
                false => encode_headers(&entry.member, None)
                    .map(|headers| headers.left_out)
                    .unwrap_or_default(),
            };
            IndexEntry {
                member: Member {
                    xattrs: left_out,
                    identity: entry.member.identity.map(|i| DataIdentity {
                        crc: if regular { Some(crc) } else { i.crc },
                        ..i
                    }),
                    ..entry.member.clone_without_xattrs()
                },
                header: entry.header,
                data: entry.data,
                header_crc: entry.header_crc,
                blocks: sum.map_or_else(none, |sum| sum.blocks.clone()),
                span: Span::Whole,
            }
        };
        let mut entries: Vec<_> = self.index.entries.iter().enumerate().map(close).collect();
        entries.sort_unstable_by(|a, b| a.member.path.cmp(&b.member.path));
        Index {
            entries,
            ..self.index
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::aggregate::{decode_index, decode_trailer};
    use super::super::arbitrary::{AGGREGATE, COMPOSED, FS, compose, members, stored};
    use super::super::scan::Scanner;
    use super::*;
    use proptest::prelude::*;

    fn sums(members: &[Member]) -> Vec<Summed> {
        let one = |(n, member): (usize, &Member)| {
            let data = stored(n, member);
            Summed::of(&member.kind, &mut &data[..]).unwrap()
        };
        members.iter().enumerate().map(one).collect()
    }

    /// All of it, read in pieces of `step` bytes.
    fn whole(draft: &Draft, members: &[Member], step: usize) -> Vec<u8> {
        let end = draft.end(&sums(members)).unwrap();
        let mut out = Vec::new();
        while (out.len() as u64) < draft.size() {
            for stretch in draft.stretches(out.len() as u64, step) {
                match stretch {
                    Stretch::Known(bytes) => out.extend(bytes),
                    Stretch::Data { member, at, len } => {
                        let data = stored(member, &members[member]);
                        out.extend_from_slice(&data[at as usize..][..len]);
                    }
                    Stretch::End { at, len } => out.extend_from_slice(&end[at..][..len]),
                }
            }
        }
        out
    }

    proptest! {
        #[test]
        fn a_draft_is_what_the_writer_writes(mut members in members(), step in 1_usize..3000) {
            let sums = sums(&members);
            for (member, sum) in members.iter_mut().zip(sums) {
                if let Some(identity) = &mut member.identity {
                    identity.crc = Some(sum.crc);
                }
            }
            let (written, ..) = compose(&members);
            let draft = Draft::new(members.clone(), AGGREGATE, FS, COMPOSED).unwrap();
            prop_assert_eq!(draft.size(), written.len() as u64);
            prop_assert!(whole(&draft, &members, step) == written);
        }

        #[test]
        fn without_sums_in_its_headers_it_is_an_aggregate_too(members in members()) {
            let draft = Draft::new(members.clone(), AGGREGATE, FS, COMPOSED).unwrap();
            let bytes = whole(&draft, &members, 1 << 20);
            let last = &bytes[bytes.len() - TRAILER_LEN as usize..];
            let trailer = decode_trailer(last, bytes.len() as u64).unwrap();
            let index = &bytes[trailer.index_offset as usize..][..trailer.index_len as usize];
            let index = decode_index(index, &trailer).unwrap();
            prop_assert_eq!(index.entries.len(), members.len());
            let mut scanner = Scanner::new(&bytes[..]);
            while scanner.next_member().unwrap().is_some() {
                let found = scanner.entry().unwrap().unwrap();
                let known = index.by_path(&found.member.path).unwrap();
                prop_assert_eq!((&found.blocks, found.header, found.data, found.header_crc),
                    (&known.blocks, known.header, known.data, known.header_crc));
                prop_assert_eq!(found.member.identity, known.member.identity);
            }
            prop_assert_eq!(scanner.end(), Some(trailer.index_offset));
        }

    }

    #[test]
    fn sums_of_blocks_are_put_together() {
        let block = BLOCK as usize;
        for len in [0, 1, block - 1, block, block + 1, 2 * block + 777] {
            let data: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            let read = Summed::of(&Kind::dense(len as u64), &mut &data[..]).unwrap();
            assert_eq!(read.crc, Crc32c::of(&data));
            assert_eq!(Summed::dense(len as u64, read.blocks.clone()), read);
        }
    }

    #[test]
    fn sums_of_other_data_and_members_that_cannot_be_are_refused() {
        let root = Member {
            path: super::super::member::MemberPath::root(),
            kind: Kind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: COMPOSED,
            atime: COMPOSED,
            ctime: COMPOSED,
            xattrs: Vec::new(),
            identity: None,
        };
        let draft = Draft::new(vec![root.clone()], AGGREGATE, FS, COMPOSED).unwrap();
        assert!(draft.end(&[]).is_err());
        assert!(Draft::new(vec![root.clone(), root], AGGREGATE, FS, COMPOSED).is_err());
    }
}
