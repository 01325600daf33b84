//! The blocks in front of a member's stored bytes, and what a member must be to have them.

use super::super::header::{Header, MAX7, MAX11, TAR, split};
use super::super::member::{DataIdentity, Kind, Member, Xattr, check_extents};
use super::super::{pax, sparse};
use cairn_mover::Crc32c;
use std::collections::HashSet;

/// Name in the header of a pax header; readers that know pax never look at it.
pub(super) const PAX_NAME: &[u8] = b"PaxHeaders/cairn";
/// Name in the header of a long-name header, as GNU tar writes it.
const LONG_NAME: &[u8] = b"././@LongLink";

/// What tar could not say, or what would read back as something else.
pub(in super::super) fn check(member: &Member) -> Result<(), &'static str> {
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
pub(in super::super) struct Headers {
    pub(in super::super) bytes: Vec<u8>,
    pub(in super::super) left_out: Vec<Xattr>,
}

/// Long-name headers, pax header, ustar header, sparse map; nothing at all for a socket.
pub(in super::super) fn encode_headers(
    member: &Member,
    crc: Option<Crc32c>,
) -> Result<Headers, &'static str> {
    if matches!(member.kind, Kind::Socket) {
        let left_out = member.xattrs.clone();
        let bytes = Vec::new();
        return Ok(Headers { bytes, left_out });
    }
    let comment = match (&member.kind, member.identity) {
        (Kind::Regular { .. }, Some(identity)) => {
            let crc = identity.crc.or(crc);
            Some(pax::identity(&DataIdentity { crc, ..identity }))
        }
        _ => None,
    };
    encode(member, comment.as_deref())
}

/// Those of a part: it says of itself what `comment` does.
pub(super) fn encode_part_headers(member: &Member, comment: &str) -> Result<Headers, &'static str> {
    encode(member, Some(comment))
}

fn encode(member: &Member, comment: Option<&str>) -> Result<Headers, &'static str> {
    let (mut bytes, mut map, mut body) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(comment) = comment {
        field(&mut body, "comment", comment.as_bytes());
    }
    let mut name = guarded(member.path.as_bytes());
    if member.kind == Kind::Directory {
        name.push(b'/');
    }
    let (kind, link, major, minor) = kind_fields(&member.kind);
    let link = &link[..];
    let fits = (link.len() <= 100, split(&name).is_some());
    long_name(&mut bytes, &mut body, ("linkpath", b'K'), link, fits.0);
    long_name(&mut bytes, &mut body, ("path", b'L'), &name, fits.1);
    if let Kind::Regular { size, extents } = &member.kind
        && sparse::is_sparse(*size, extents)
    {
        map = sparse::encode(*size, extents);
        field(&mut body, "GNU.sparse.major", b"1");
        field(&mut body, "GNU.sparse.minor", b"0");
        field(
            &mut body,
            "GNU.sparse.realsize",
            size.to_string().as_bytes(),
        );
    }
    let size = member.kind.stored_len().checked_add(map.len() as u64);
    let size = size.ok_or("it is larger than tar can say")?;
    if size > MAX11 {
        field(&mut body, "size", size.to_string().as_bytes());
    }
    owner_and_times(member, &mut body);
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

fn field(body: &mut Vec<u8>, key: &str, value: &[u8]) {
    body.extend_from_slice(&pax::record(key.as_bytes(), value));
}

fn owner_and_times(member: &Member, body: &mut Vec<u8>) {
    for (key, id) in [("uid", member.uid), ("gid", member.gid)] {
        if u64::from(id) > MAX7 {
            field(body, key, id.to_string().as_bytes());
        }
    }
    let Member {
        mtime,
        atime,
        ctime,
        ..
    } = *member;
    for (key, time) in [("mtime", mtime), ("atime", atime), ("ctime", ctime)] {
        field(body, key, pax::time(time).as_bytes());
    }
}

/// Says a name that does not fit the header's own field: in pax if it is ASCII, else raw in a
/// long-name header in front, because a name in pax is UTF-8 by definition.
fn long_name(
    before: &mut Vec<u8>,
    body: &mut Vec<u8>,
    (key, kind): (&str, u8),
    name: &[u8],
    fits: bool,
) {
    if fits {
        return;
    }
    if name.is_ascii() {
        body.extend_from_slice(&pax::record(key.as_bytes(), name));
    } else {
        extension(before, kind, LONG_NAME, &[name, b"\0"].concat());
    }
}

/// A path as tar shall see it. The root is `.`; what bsdtar takes for an absolute path of another
/// system (`\\x`, `c:x`) and would shorten has `./` in front.
pub(in super::super) fn guarded(path: &[u8]) -> Vec<u8> {
    match path {
        [] => b".".to_vec(),
        [b'\\', ..] | [b'a'..=b'z' | b'A'..=b'Z', b':', ..] => [b"./", path].concat(),
        _ => path.to_vec(),
    }
}

/// Type flag, link name and device numbers.
fn kind_fields(kind: &Kind) -> (u8, Vec<u8>, u32, u32) {
    let none = Vec::new();
    match kind {
        Kind::Regular { .. } | Kind::Socket => (b'0', none, 0, 0),
        Kind::HardLink { target } => (b'1', guarded(target.as_bytes()), 0, 0),
        Kind::Symlink { target } => (b'2', target.clone(), 0, 0),
        Kind::CharDevice { major, minor } => (b'3', none, *major, *minor),
        Kind::BlockDevice { major, minor } => (b'4', none, *major, *minor),
        Kind::Directory => (b'5', none, 0, 0),
        Kind::Fifo => (b'6', none, 0, 0),
    }
}

/// A header that says something about the next one: its block, its body, padding.
pub(super) fn extension(out: &mut Vec<u8>, kind: u8, name: &[u8], body: &[u8]) {
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
