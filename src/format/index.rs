//! The index: every member of an aggregate, by path, with block checksums.
//!
//! ```text
//!   0 "CAIRNIDX" | 8 version u32 | 12 flags u32 | 16 epoch u32 | 20 zero u32 | 24 seq u64
//!  32 fs uuid | 48 composed: sec i64, nsec u32 | 60 zero u32 | 64 count u64
//!  72 body length u64 | 80 body crc u32 | 84 crc32c of 0..84
//!  88 body: `count` entries, each behind its length (docs/format.md draws one)
//! ```
//! The head has its own sum and says how long the body is, so that an index can be found and
//! proven without the trailer. Every count is compared with the bytes that are left before
//! anything is allocated; paths are whole (no shared prefixes), so that decoding takes memory in
//! proportion to the bytes and never their square.

use super::aggregate::{
    AggregateError, BLOCK, HEAD_FLAG, Index, IndexEntry, PARTS_VERSION, Trailer, check_version,
    told,
};
use super::member::{DataIdentity, Extent, Kind, Member, MemberPath, check_extents};
use super::parts::{PartPlace, Span};
use super::places::{Place, Places};
use super::wire::{Cursor, Wrong, put_bytes, put_signed, put_time, put_varint};
use crate::id::{AggregateId, DataVersion, FileId, FsUuid, Timestamp};
use cairn_mover::Crc32c;

const MAGIC: &[u8; 8] = b"CAIRNIDX";
/// Length of the head, bytes.
pub(super) const HEAD_LEN: usize = 88;
/// An entry takes at least this many bytes; checked against the count.
const LEAST_ENTRY: usize = 8;

const HAS_IDENTITY: u8 = 1;
const HAS_XATTRS: u8 = 2;
const HAS_CRC: u8 = 4;

/// Kinds that version 3 alone has: a part of a file, and a file in parts.
const PART: u8 = 9;
const IN_PARTS: u8 = 10;

/// Encodes an index whose entries are sorted.
#[must_use]
pub fn encode(index: &Index) -> Vec<u8> {
    let mut body = Vec::new();
    let mut one = Vec::new();
    for entry in &index.entries {
        one.clear();
        encode_entry(entry, &mut one);
        put_bytes(&mut body, &one);
    }
    let mut out = Vec::with_capacity(HEAD_LEN + body.len());
    out.extend_from_slice(MAGIC);
    let (version, flags) = told(index.aggregate, !index.parts().is_empty());
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&index.aggregate.epoch.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&index.aggregate.seq.to_le_bytes());
    out.extend_from_slice(&index.fs.0);
    out.extend_from_slice(&index.composed.sec.to_le_bytes());
    out.extend_from_slice(&index.composed.nsec.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(index.entries.len() as u64).to_le_bytes());
    out.extend_from_slice(&(body.len() as u64).to_le_bytes());
    out.extend_from_slice(&Crc32c::of(&body).0.to_le_bytes());
    let sum = Crc32c::of(&out);
    out.extend_from_slice(&sum.0.to_le_bytes());
    out.extend_from_slice(&body);
    out
}

fn encode_entry(entry: &IndexEntry, out: &mut Vec<u8>) {
    let member = &entry.member;
    out.push(match &member.kind {
        Kind::Regular { .. } => match &entry.span {
            Span::Whole => 1,
            Span::Part { .. } => PART,
            Span::Parts(_) => IN_PARTS,
        },
        Kind::HardLink { .. } => 2,
        Kind::Symlink { .. } => 3,
        Kind::Directory => 4,
        Kind::Fifo => 5,
        Kind::CharDevice { .. } => 6,
        Kind::BlockDevice { .. } => 7,
        Kind::Socket => 8,
    });
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    let crc = member.identity.and_then(|i| i.crc);
    out.push(
        flag(member.identity.is_some(), HAS_IDENTITY)
            | flag(!member.xattrs.is_empty(), HAS_XATTRS)
            | flag(crc.is_some(), HAS_CRC),
    );
    put_bytes(out, member.path.as_bytes());
    put_varint(out, u64::from(member.mode));
    put_varint(out, u64::from(member.uid));
    put_varint(out, u64::from(member.gid));
    put_time(out, member.mtime);
    // The other two are mostly near.
    for time in [member.atime, member.ctime] {
        put_signed(out, time.sec.wrapping_sub(member.mtime.sec));
        put_varint(out, u64::from(time.nsec));
    }
    if let Some(identity) = member.identity {
        out.extend_from_slice(&identity.file.0);
        put_varint(out, identity.version.0);
    }
    if let Some(crc) = crc {
        out.extend_from_slice(&crc.0.to_le_bytes());
    }
    put_varint(out, entry.header);
    put_varint(out, entry.data.wrapping_sub(entry.header));
    out.extend_from_slice(&entry.header_crc.0.to_le_bytes());
    encode_kind(&member.kind, out);
    encode_span(&entry.span, out);
    for block in &entry.blocks {
        out.extend_from_slice(&block.0.to_le_bytes());
    }
    if !member.xattrs.is_empty() {
        put_varint(out, member.xattrs.len() as u64);
        for (name, value) in &member.xattrs {
            put_bytes(out, name);
            put_bytes(out, value);
        }
    }
}

fn encode_span(span: &Span, out: &mut Vec<u8>) {
    match span {
        Span::Whole => {}
        Span::Part { number, offset } => {
            put_varint(out, u64::from(*number));
            put_varint(out, *offset);
        }
        Span::Parts(parts) => {
            put_varint(out, parts.len() as u64);
            for part in parts {
                put_varint(out, part.header);
                put_varint(out, part.data.wrapping_sub(part.header));
                out.extend_from_slice(&part.header_crc.0.to_le_bytes());
                put_varint(out, part.blocks);
                put_varint(out, part.len);
            }
        }
    }
}

fn encode_kind(kind: &Kind, out: &mut Vec<u8>) {
    match kind {
        Kind::Regular { size, extents } => {
            put_varint(out, *size);
            put_varint(out, extents.len() as u64);
            let mut end = 0;
            for run in extents {
                put_varint(out, run.offset - end);
                put_varint(out, run.len);
                end = run.offset + run.len;
            }
        }
        Kind::HardLink { target } => put_bytes(out, target.as_bytes()),
        Kind::Symlink { target } => put_bytes(out, target),
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            put_varint(out, u64::from(*major));
            put_varint(out, u64::from(*minor));
        }
        Kind::Directory | Kind::Fifo | Kind::Socket => {}
    }
}

/// Decodes the index named by `trailer`.
///
/// # Errors
/// [`AggregateError::DamagedIndex`].
pub fn decode_index(bytes: &[u8], trailer: &Trailer) -> Result<Index, AggregateError> {
    let damaged = |why: &str| Err(AggregateError::DamagedIndex(why.to_owned()));
    if bytes.len() as u64 != trailer.index_len {
        return damaged("its length is not what the trailer says");
    }
    if Crc32c::of(bytes) != trailer.index_crc {
        return damaged("its checksum is not what the trailer says");
    }
    let (index, len) = decode(bytes, trailer.index_offset)?;
    if len != bytes.len() {
        return damaged("bytes follow it");
    }
    if index.aggregate != trailer.aggregate || index.fs != trailer.fs {
        return damaged("it belongs to another aggregate");
    }
    if trailer.in_parts == index.parts().is_empty() {
        return damaged("it is not of the trailer's kind");
    }
    Ok(index)
}

/// Decodes an index that begins at `offset` of its object, without a trailer: `bytes` may go on
/// behind it. For objects that lost their end; see [`super::scan::Scanner::end`] for where to look.
///
/// # Errors
/// [`AggregateError::DamagedIndex`] or [`AggregateError::Newer`].
pub fn find_index(bytes: &[u8], offset: u64) -> Result<Index, AggregateError> {
    decode(bytes, offset).map(|(index, _)| index)
}

fn decode(bytes: &[u8], offset: u64) -> Result<(Index, usize), AggregateError> {
    let damaged = |why: Wrong| AggregateError::DamagedIndex(why.to_owned());
    let (head, rest) = bytes
        .split_at_checked(HEAD_LEN)
        .ok_or_else(|| damaged("ends too early"))?;
    if !head.starts_with(MAGIC) {
        return Err(damaged("no magic"));
    }
    let (summed, sum) = head.split_at(HEAD_LEN - 4);
    if Crc32c::of(summed).0.to_le_bytes() != sum {
        return Err(damaged("the checksum of its head is wrong"));
    }
    let mut cursor = Cursor::new(&summed[MAGIC.len()..]);
    let version = cursor.u32().map_err(damaged)?;
    let flags = cursor.u32().map_err(damaged)?;
    if version == 0 {
        return Err(damaged("version 0"));
    }
    check_version(version, flags)?;
    let head = Head::decode(cursor).map_err(damaged)?;
    let in_parts = (version, flags) == (PARTS_VERSION, HEAD_FLAG);
    if told(head.aggregate, in_parts) != (version, flags) {
        return Err(damaged("its name and its flags do not belong together"));
    }
    let body = usize::try_from(head.body_len)
        .ok()
        .and_then(|len| rest.get(..len));
    let body = body.ok_or_else(|| damaged("ends too early"))?;
    if Crc32c::of(body) != head.body_crc {
        return Err(damaged("the checksum of its body is wrong"));
    }
    let entries = decode_entries(body, head.count, offset)?;
    check_spans(&entries, head.aggregate, in_parts).map_err(damaged)?;
    let index = Index {
        aggregate: head.aggregate,
        fs: head.fs,
        composed: head.composed,
        entries,
    };
    Ok((index, HEAD_LEN + body.len()))
}

struct Head {
    aggregate: AggregateId,
    fs: FsUuid,
    composed: Timestamp,
    count: u64,
    body_len: u64,
    body_crc: Crc32c,
}

impl Head {
    /// What follows the flags.
    fn decode(mut cursor: Cursor<'_>) -> Result<Self, Wrong> {
        let epoch = cursor.u32()?;
        let zero = cursor.u32()?;
        let seq = cursor.u64()?;
        let fs = FsUuid(cursor.array()?);
        let (sec, nsec) = (cursor.i64()?, cursor.u32()?);
        let zero_too = cursor.u32()?;
        if zero != 0 || zero_too != 0 || nsec >= 1_000_000_000 {
            return Err("its head holds what version 1 does not");
        }
        Ok(Self {
            aggregate: AggregateId { epoch, seq },
            fs,
            composed: Timestamp { sec, nsec },
            count: cursor.u64()?,
            body_len: cursor.u64()?,
            body_crc: Crc32c(cursor.u32()?),
        })
    }
}

fn decode_entries(body: &[u8], count: u64, limit: u64) -> Result<Vec<IndexEntry>, AggregateError> {
    if count > (body.len() / LEAST_ENTRY) as u64 {
        let why = "a count exceeds what is present".to_owned();
        return Err(AggregateError::DamagedIndex(why));
    }
    let mut cursor = Cursor::new(body);
    let mut entries: Vec<IndexEntry> = Vec::new();
    let mut places = Places::default();
    for n in 0..count {
        let wrong = |why: &str| AggregateError::DamagedIndex(format!("entry {n}: {why}"));
        let one = cursor.bytes().map_err(wrong)?;
        let entry = decode_entry(Cursor::new(one), limit).map_err(wrong)?;
        if entries
            .last()
            .is_some_and(|last| last.member.path >= entry.member.path)
        {
            return Err(wrong("not in order of paths"));
        }
        let place = place_of(&entry.member.kind);
        places.take(&entry.member.path, place).map_err(wrong)?;
        entries.push(entry);
    }
    if cursor.remaining() > 0 {
        return Err(AggregateError::DamagedIndex(
            "bytes behind the last entry".to_owned(),
        ));
    }
    for entry in &entries {
        if let Kind::HardLink { target } = &entry.member.kind
            && !places.can_be_linked(target)
        {
            let why = format!("{}: its target is no member", entry.member.path);
            return Err(AggregateError::DamagedIndex(why));
        }
    }
    Ok(entries)
}

/// What a member of this kind is to others.
pub(super) fn place_of(kind: &Kind) -> Place {
    match kind {
        Kind::Directory => Place::Directory,
        Kind::HardLink { .. } | Kind::Socket => Place::Other,
        Kind::Regular { .. }
        | Kind::Symlink { .. }
        | Kind::Fifo
        | Kind::CharDevice { .. }
        | Kind::BlockDevice { .. } => Place::Target,
    }
}

fn decode_entry(mut cursor: Cursor<'_>, limit: u64) -> Result<IndexEntry, Wrong> {
    let (tag, flags) = (cursor.u8()?, cursor.u8()?);
    if flags > (HAS_IDENTITY | HAS_XATTRS | HAS_CRC) {
        return Err("unknown flags");
    }
    let path = path(cursor.bytes()?)?;
    let mode = cursor.varint_u32()?;
    let (uid, gid) = (cursor.varint_u32()?, cursor.varint_u32()?);
    let mtime = cursor.time()?;
    let mut near = || -> Result<Timestamp, Wrong> {
        let time = cursor.time()?;
        let sec = time.sec.wrapping_add(mtime.sec);
        Ok(Timestamp { sec, ..time })
    };
    let (atime, ctime) = (near()?, near()?);
    let mut identity = None;
    if flags & HAS_IDENTITY != 0 {
        let file = FileId(cursor.array()?);
        let version = DataVersion(cursor.varint()?);
        let crc = (flags & HAS_CRC != 0).then(|| cursor.u32()).transpose()?;
        let crc = crc.map(Crc32c);
        identity = Some(DataIdentity { file, version, crc });
    }
    let header = cursor.varint()?;
    let data = header
        .checked_add(cursor.varint()?)
        .ok_or("its data lie too far")?;
    let header_crc = Crc32c(cursor.u32()?);
    let kind = decode_kind(tag, &mut cursor)?;
    let span = decode_span(tag, &kind, &mut cursor)?;
    let blocks = decode_blocks(&kind, &mut cursor)?;
    let mut xattrs = Vec::new();
    if flags & HAS_XATTRS != 0 {
        for _ in 0..cursor.count(2)? {
            xattrs.push((cursor.bytes()?.to_vec(), cursor.bytes()?.to_vec()));
        }
    }
    let told = identity.is_some_and(|i| i.crc.is_some());
    let wants_xattrs = flags & HAS_XATTRS != 0;
    if cursor.remaining() > 0
        || wants_xattrs == xattrs.is_empty()
        || (flags & HAS_CRC != 0) != told
        || (matches!(kind, Kind::Regular { .. }) && !told)
        || mode > 0o7777
    {
        return Err("parts that do not fit each other");
    }
    let placed = header % 512 == 0 && data % 512 == 0 && header < data;
    // A link to a file in parts has nothing in tar to be a link to; see `check_spans`.
    let is_listed = matches!(kind, Kind::Socket | Kind::HardLink { .. });
    let nowhere = is_listed && (header, data, header_crc.0) == (0, 0, 0);
    let member = Member {
        path,
        kind,
        mode,
        uid,
        gid,
        mtime,
        atime,
        ctime,
        xattrs,
        identity,
    };
    let entry = IndexEntry {
        member,
        header,
        data,
        header_crc,
        blocks,
        span,
    };
    let end = data.checked_add(entry.own_stored_len());
    if !(placed || nowhere) || end.is_none_or(|end| end > limit) {
        return Err("its data lie where none can be");
    }
    Ok(entry)
}

/// What is in parts is told by the head of the index, too, and of each there is one.
fn check_spans(
    entries: &[IndexEntry],
    aggregate: AggregateId,
    in_parts: bool,
) -> Result<(), Wrong> {
    let mut found = None;
    for entry in entries.iter().filter(|e| e.span != Span::Whole) {
        if found.replace(entry).is_some() {
            return Err("two files in parts");
        }
    }
    let fits = match found.map(|entry| &entry.span) {
        None | Some(Span::Whole) => !in_parts && !aggregate.is_part(),
        Some(Span::Part { number, .. }) => aggregate.part_number() == *number,
        Some(Span::Parts(_)) => in_parts,
    };
    if !fits {
        return Err("its entries are not of its kind");
    }
    let of_parts = |target: &MemberPath| {
        let in_parts =
            |entry: &IndexEntry| entry.member.path == *target && !entry.parts().is_empty();
        found.is_some_and(in_parts)
    };
    let beside = |entry: &IndexEntry| entry.span == Span::Whole;
    let directory = |entry: &IndexEntry| entry.member.kind == Kind::Directory;
    if aggregate.is_part() && !entries.iter().filter(|e| beside(e)).all(directory) {
        return Err("a part has more than its directories beside it");
    }
    for entry in entries {
        if let Kind::HardLink { target } = &entry.member.kind
            && (entry.header == 0) != of_parts(target)
        {
            return Err("a link lies where none can be");
        }
    }
    Ok(())
}

fn path(bytes: &[u8]) -> Result<MemberPath, Wrong> {
    MemberPath::new(bytes).map_err(|bad| bad.why)
}

fn decode_kind(tag: u8, cursor: &mut Cursor<'_>) -> Result<Kind, Wrong> {
    Ok(match tag {
        1 | PART | IN_PARTS => {
            let size = cursor.varint()?;
            let count = cursor.count(2)?;
            let mut extents = Vec::with_capacity(count);
            let mut end = 0_u64;
            for _ in 0..count {
                let offset = end
                    .checked_add(cursor.varint()?)
                    .ok_or("an extent lies too far")?;
                let len = cursor.varint()?;
                end = offset.checked_add(len).ok_or("an extent lies too far")?;
                extents.push(Extent { offset, len });
            }
            check_extents(size, &extents)?;
            Kind::Regular { size, extents }
        }
        2 => Kind::HardLink {
            target: path(cursor.bytes()?)?,
        },
        3 => Kind::Symlink {
            target: cursor.bytes()?.to_vec(),
        },
        4 => Kind::Directory,
        5 => Kind::Fifo,
        6 => Kind::CharDevice {
            major: cursor.varint_u32()?,
            minor: cursor.varint_u32()?,
        },
        7 => Kind::BlockDevice {
            major: cursor.varint_u32()?,
            minor: cursor.varint_u32()?,
        },
        8 => Kind::Socket,
        _ => return Err("unknown kind"),
    })
}

fn decode_span(tag: u8, kind: &Kind, cursor: &mut Cursor<'_>) -> Result<Span, Wrong> {
    match tag {
        PART => {
            let number = u16::try_from(cursor.varint()?).unwrap_or(u16::MAX);
            if number == 0 || number > AggregateId::MOST_PARTS {
                return Err("a part without a number");
            }
            let offset = cursor.varint()?;
            Ok(Span::Part { number, offset })
        }
        IN_PARTS => {
            let blocks = kind.stored_len().div_ceil(BLOCK);
            let count = cursor.count(8)?;
            if count == 0 || count >= usize::from(AggregateId::MOST_PARTS) {
                return Err("a file in one part, or in too many");
            }
            let mut parts = Vec::with_capacity(count);
            let mut first = 0_u64;
            for _ in 0..count {
                let part = decode_part(first, cursor)?;
                first = first
                    .checked_add(part.blocks)
                    .ok_or("a part lies too far")?;
                parts.push(part);
            }
            // The last one holds something, and it alone what is no whole block.
            if first >= blocks {
                return Err("its parts hold more than it has");
            }
            Ok(Span::Parts(parts))
        }
        _ => Ok(Span::Whole),
    }
}

fn decode_part(first: u64, cursor: &mut Cursor<'_>) -> Result<PartPlace, Wrong> {
    let header = cursor.varint()?;
    let data = header.checked_add(cursor.varint()?);
    let part = PartPlace {
        header,
        data: data.ok_or("a part lies too far")?,
        header_crc: Crc32c(cursor.u32()?),
        first,
        blocks: cursor.varint()?,
        len: cursor.varint()?,
    };
    let end = part
        .blocks
        .checked_mul(BLOCK)
        .and_then(|len| part.data.checked_add(len));
    let placed = header.is_multiple_of(512)
        && part.data.is_multiple_of(512)
        && 0 < header
        && header < part.data;
    if !placed || part.blocks == 0 || end.is_none_or(|end| end > part.len) {
        return Err("a part lies where none can be");
    }
    Ok(part)
}

fn decode_blocks(kind: &Kind, cursor: &mut Cursor<'_>) -> Result<Vec<Crc32c>, Wrong> {
    let count = kind.stored_len().div_ceil(BLOCK);
    if count > (cursor.remaining() / 4) as u64 {
        return Err("fewer block checksums than blocks");
    }
    (0..count).map(|_| Ok(Crc32c(cursor.u32()?))).collect()
}

#[cfg(test)]
mod tests;
