//! Pax extended headers: `length key=value\n` records, and the values that Cairn writes in them.
//!
//! Keys are only such that GNU tar and bsdtar both take without a word. `path` and `linkpath`
//! are used for ASCII alone: bsdtar reads them as UTF-8 and complains where the locale cannot
//! show them; other names go raw into ustar fields or long-name headers (see `writer`).

use super::acl;
use super::wire::Wrong;
use crate::id::{AggregateId, DataVersion, FileId, FsUuid, Timestamp};
use cairn_mover::Crc32c;

use super::member::{DataIdentity, Xattr};
use super::parts::PartMark;

/// Largest body of a pax header, bytes: bsdtar refuses more than 1 MiB.
pub(super) const MAX_BODY: usize = 1 << 20;
/// First word of every comment that is Cairn's: format version 1.
const COMMENT: &str = "cairn1";
/// First word of the comments of parts and their objects: format version 3.
const PARTS: &str = "cairn3";
/// First word of a namespace snapshot's global comment: format version 2.
const NAMESPACE: &str = "cairn2";
const XATTR: &[u8] = b"SCHILY.xattr.";
const ACL_ACCESS: &[u8] = b"SCHILY.acl.access";
const ACL_DEFAULT: &[u8] = b"SCHILY.acl.default";

/// One record. The length counts itself.
pub(super) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let digits = |n: usize| n.checked_ilog10().unwrap_or(0) as usize + 1;
    let mut len = rest + digits(rest);
    len = rest + digits(len);
    let mut out = Vec::with_capacity(len);
    out.extend_from_slice(format!("{len} ").as_bytes());
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
    out
}

/// Key and value of a record.
pub(super) type Pair<'a> = (&'a [u8], &'a [u8]);

/// Splits a body into its records, in order.
pub(super) fn records(mut body: &[u8]) -> Result<Vec<Pair<'_>>, Wrong> {
    let mut out = Vec::new();
    while !body.is_empty() {
        let space = body
            .iter()
            .take(8)
            .position(|b| *b == b' ')
            .ok_or("a pax record without length")?;
        let len = decimal(&body[..space]).ok_or("a pax record's length is no number")?;
        let len = usize::try_from(len).map_err(|_| "a pax record is too long")?;
        let (whole, rest) = body
            .split_at_checked(len)
            .ok_or("a pax record reaches too far")?;
        let pair = whole.get(space + 1..).and_then(|r| r.strip_suffix(b"\n"));
        let pair = pair.ok_or("a pax record without newline")?;
        let equals = pair
            .iter()
            .position(|b| *b == b'=')
            .ok_or("a pax record without value")?;
        out.push((&pair[..equals], &pair[equals + 1..]));
        body = rest;
    }
    Ok(out)
}

/// A number as Cairn writes it: decimal digits without leading zeros.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    let canonical = text == b"0" || matches!(text.first(), Some(b'1'..=b'9'));
    if !canonical || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A time as POSIX says: a decimal number of seconds. Times before 1970 count down from it:
/// half a second before is `-0.5`.
pub(super) fn time(time: Timestamp) -> String {
    let nanos = i128::from(time.sec) * 1_000_000_000 + i128::from(time.nsec);
    let (sign, nanos) = if nanos < 0 {
        ("-", -nanos)
    } else {
        ("", nanos)
    };
    let (sec, nsec) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    if nsec == 0 {
        return format!("{sign}{sec}");
    }
    let text = format!("{sign}{sec}.{nsec:09}");
    text.trim_end_matches('0').to_owned()
}

/// The inverse of [`time`].
pub(super) fn parse_time(text: &[u8]) -> Option<Timestamp> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = digits.splitn(2, |b| *b == b'.');
    let sec = i128::from(decimal(parts.next()?)?);
    let nsec = match parts.next() {
        None => 0,
        Some(digits)
            if (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) =>
        {
            let digit = |n: i128, b: &u8| n * 10 + i128::from(b - b'0');
            digits.iter().fold(0, digit) * 10_i128.pow(9 - digits.len() as u32)
        }
        Some(_) => return None,
    };
    let nanos = (sec * 1_000_000_000 + nsec) * if negative { -1 } else { 1 };
    Some(Timestamp {
        sec: i64::try_from(nanos.div_euclid(1_000_000_000)).ok()?,
        nsec: u32::try_from(nanos.rem_euclid(1_000_000_000)).ok()?,
    })
}

/// The comment of a member: whose data these are.
pub(super) fn identity(identity: &DataIdentity) -> String {
    let (id, version) = (identity.file, identity.version.0);
    match identity.crc {
        Some(crc) => format!("{COMMENT} id={id} v={version} crc={crc}"),
        None => format!("{COMMENT} id={id} v={version}"),
    }
}

/// The inverse of [`identity`].
pub(super) fn parse_identity(text: &[u8]) -> Option<DataIdentity> {
    let mut words = words(text)?;
    let file = words
        .next()?
        .strip_prefix("id=")?
        .parse()
        .ok()
        .map(|f: FileId| f)?;
    let version = DataVersion(decimal(words.next()?.strip_prefix("v=")?.as_bytes())?);
    let crc = match words.next() {
        None => None,
        Some(word) => {
            let hex = word.strip_prefix("crc=").filter(|hex| hex.len() == 8)?;
            Some(Crc32c(u32::from_str_radix(hex, 16).ok()?))
        }
    };
    let found = DataIdentity { file, version, crc };
    (identity(&found).as_bytes() == text).then_some(found)
}

/// The comment of a part: of whose data, which, where it begins, and in the last one (which says how
/// many there are by its number) how large the whole is.
pub(super) fn part(identity: &DataIdentity, part: &PartMark) -> String {
    let (id, version) = (identity.file, identity.version.0);
    let PartMark { number, offset, .. } = part;
    let text = format!("{PARTS} id={id} v={version} part={number} offset={offset}");
    match part.whole {
        Some(size) => format!("{text} of={number} size={size}"),
        None => text,
    }
}

/// The inverse of [`part`].
pub(super) fn parse_part(text: &[u8]) -> Option<(DataIdentity, PartMark)> {
    let mut words = std::str::from_utf8(text).ok()?.split(' ');
    if words.next() != Some(PARTS) {
        return None;
    }
    let file = words.next()?.strip_prefix("id=")?.parse().ok()?;
    let mut number = |key: &str| decimal(words.next()?.strip_prefix(key)?.as_bytes());
    let version = DataVersion(number("v=")?);
    let part = u16::try_from(number("part=")?).ok()?;
    let offset = number("offset=")?;
    let whole = number("of=").and_then(|_| number("size="));
    let identity = DataIdentity {
        file,
        version,
        crc: None,
    };
    let mark = PartMark {
        number: part,
        offset,
        whole,
    };
    let is_one = part > 0 && part <= AggregateId::MOST_PARTS;
    (is_one && self::part(&identity, &mark).as_bytes() == text).then_some((identity, mark))
}

/// The comment of the global header: which aggregate this is. A namespace snapshot says that it is
/// one, in a form that readers of version 1 refuse.
pub(super) fn composition(aggregate: AggregateId, fs: FsUuid, composed: Timestamp) -> String {
    let composed = time(composed);
    if aggregate.is_snapshot() {
        return format!("{NAMESPACE} namespace={aggregate} fs={fs} composed={composed}");
    }
    let word = if aggregate.is_part() { PARTS } else { COMMENT };
    format!("{word} aggregate={aggregate} fs={fs} composed={composed}")
}

/// The inverse of [`composition`].
pub(super) fn parse_composition(text: &[u8]) -> Option<(AggregateId, FsUuid, Timestamp)> {
    let text_of = std::str::from_utf8(text).ok()?;
    let (mut words, key) = match text_of.strip_prefix(NAMESPACE) {
        Some(rest) => (rest.strip_prefix(' ')?.split(' '), "namespace="),
        None => {
            let of_part = text_of.strip_prefix(PARTS);
            let rest = of_part.or_else(|| text_of.strip_prefix(COMMENT))?;
            (rest.strip_prefix(' ')?.split(' '), "aggregate=")
        }
    };
    let aggregate = words.next()?.strip_prefix(key)?.parse().ok()?;
    let fs = words.next()?.strip_prefix("fs=")?.parse().ok()?;
    let composed = parse_time(words.next()?.strip_prefix("composed=")?.as_bytes())?;
    (composition(aggregate, fs, composed).as_bytes() == text).then_some((aggregate, fs, composed))
}

fn words(text: &[u8]) -> Option<impl Iterator<Item = &str>> {
    let mut words = std::str::from_utf8(text).ok()?.split(' ');
    (words.next() == Some(COMMENT)).then_some(words)
}

/// The record of an extended attribute; `None` if pax has no form for it.
pub(super) fn xattr(name: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    if name.is_empty() || name.contains(&0) {
        return None;
    }
    let acl_key = match name {
        acl::ACCESS => Some(ACL_ACCESS),
        acl::DEFAULT => Some(ACL_DEFAULT),
        _ => None,
    };
    if let Some(key) = acl_key {
        return Some(record(key, acl::to_text(value).ok()?.as_bytes()));
    }
    let mut key = XATTR.to_vec();
    for byte in name {
        match byte {
            b'%' => key.extend_from_slice(b"%25"),
            b'=' => key.extend_from_slice(b"%3D"),
            _ => key.push(*byte),
        }
    }
    Some(record(&key, value))
}

/// The extended attribute of a record, if it is one.
pub(super) fn parse_xattr(key: &[u8], value: &[u8]) -> Result<Option<Xattr>, Wrong> {
    let acl_name = match key {
        ACL_ACCESS => Some(acl::ACCESS),
        ACL_DEFAULT => Some(acl::DEFAULT),
        _ => None,
    };
    if let Some(name) = acl_name {
        let value = acl::from_text(value).map_err(|_| "an ACL does not parse")?;
        return Ok(Some((name.to_vec(), value)));
    }
    let Some(mut rest) = key.strip_prefix(XATTR) else {
        return Ok(None);
    };
    let mut name = Vec::new();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            name.push(*byte);
        } else if let Some(after) = rest.strip_prefix(b"25") {
            name.push(b'%');
            rest = after;
        } else if let Some(after) = rest.strip_prefix(b"3D") {
            name.push(b'=');
            rest = after;
        } else {
            return Err("an extended attribute's name has a bad escape");
        }
    }
    if name.is_empty() || name.contains(&0) || name == acl::ACCESS || name == acl::DEFAULT {
        return Err("an extended attribute has an impossible name");
    }
    Ok(Some((name, value.to_vec())))
}

#[cfg(test)]
mod tests;
