//! What the headers in front of a member say together.

use super::super::header::Header;
use super::super::member::{Kind, MemberPath, Xattr};
use super::super::pax;
use super::super::wire::Wrong;
use super::super::writer::guarded;
use super::{Composition, Plan};
use crate::id::Timestamp;
use std::collections::HashMap;

/// Keys that stand for themselves in [`Said`]; extended attributes are apart.
const KEYS: [&str; 12] = [
    "comment",
    "path",
    "linkpath",
    "size",
    "uid",
    "gid",
    "mtime",
    "atime",
    "ctime",
    "GNU.sparse.major",
    "GNU.sparse.minor",
    "GNU.sparse.realsize",
];

/// Collected from extension headers, each thing at most once.
#[derive(Debug, Default)]
pub(super) struct Said {
    pax_seen: bool,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    values: HashMap<&'static str, Vec<u8>>,
    xattrs: Vec<Xattr>,
}

impl Said {
    /// Takes the body of an extension header of type `kind`.
    pub(super) fn hear(&mut self, kind: u8, body: &[u8]) -> Result<(), Wrong> {
        if kind == b'x' {
            if std::mem::replace(&mut self.pax_seen, true) {
                return Err("two pax headers for one member");
            }
            return self.hear_pax(body);
        }
        let slot = if kind == b'L' {
            &mut self.long_name
        } else {
            &mut self.long_link
        };
        let text = body
            .strip_suffix(b"\0")
            .ok_or("a long name without its end")?;
        match slot.replace(text.to_vec()) {
            None => Ok(()),
            Some(_) => Err("two long names for one member"),
        }
    }

    fn hear_pax(&mut self, body: &[u8]) -> Result<(), Wrong> {
        let mut names = std::collections::HashSet::new();
        for (key, value) in pax::records(body)? {
            if let Some((name, value)) = pax::parse_xattr(key, value)? {
                if !names.insert(name.clone()) {
                    return Err("an extended attribute is there twice");
                }
                self.xattrs.push((name, value));
                continue;
            }
            let known = KEYS.iter().find(|known| known.as_bytes() == key);
            let known = known.ok_or("an unknown pax keyword")?;
            if self.values.insert(known, value.to_vec()).is_some() {
                return Err("a pax keyword is there twice");
            }
        }
        Ok(())
    }

    fn number(&self, key: &str, otherwise: u64) -> Result<u64, Wrong> {
        match self.values.get(key) {
            None => Ok(otherwise),
            Some(text) => pax::decimal(text).ok_or("a pax number is none"),
        }
    }

    fn id(&self, key: &str, otherwise: u64) -> Result<u32, Wrong> {
        u32::try_from(self.number(key, otherwise)?).map_err(|_| "an owner above 32 bits")
    }

    fn time(&self, key: &str, otherwise: Timestamp) -> Result<Timestamp, Wrong> {
        match self.values.get(key) {
            None => Ok(otherwise),
            Some(text) => pax::parse_time(text).ok_or("a pax time is none"),
        }
    }

    /// A name: said once at most, else the ustar field's.
    fn name(&mut self, key: &str, long: Option<Vec<u8>>, field: &[u8]) -> Result<Vec<u8>, Wrong> {
        match (self.values.remove(key), long) {
            (None, None) => Ok(field.to_vec()),
            (Some(name), None) | (None, Some(name)) => Ok(name),
            (Some(_), Some(_)) => Err("two long names for one member"),
        }
    }

    /// Joins it with the member's own header.
    pub(super) fn plan(mut self, header: &Header) -> Result<Plan, Wrong> {
        let long_name = self.long_name.take();
        let name = self.name("path", long_name, &header.name)?;
        let long_link = self.long_link.take();
        let link = self.name("linkpath", long_link, &header.link)?;
        let len = self.number("size", header.size)?;
        let sparse = self.sparse()?;
        let kind = kind(header, &link, len)?;
        let regular = matches!(kind, Kind::Regular { .. });
        if !regular && (len > 0 || sparse.is_some()) {
            return Err("data where its kind has none");
        }
        let (identity, part) = match self.values.get("comment") {
            Some(text) => match (pax::parse_identity(text), pax::parse_part(text)) {
                (Some(identity), _) => (Some(identity), None),
                (None, Some((identity, part))) => (Some(identity), Some(part)),
                (None, None) => return Err("a comment that is not Cairn's"),
            },
            None => (None, None),
        };
        if regular != identity.is_some() {
            return Err("a file without identity, or an identity without a file");
        }
        let field_time = Timestamp {
            sec: header.mtime.cast_signed(),
            nsec: 0,
        };
        let mtime = self.time("mtime", field_time)?;
        Ok(Plan {
            path: path(&name, header.kind == b'5')?,
            kind,
            len,
            sparse,
            ids: (self.id("uid", header.uid)?, self.id("gid", header.gid)?),
            times: [
                mtime,
                self.time("atime", mtime)?,
                self.time("ctime", mtime)?,
            ],
            xattrs: self.xattrs,
            identity,
            part,
        })
    }

    /// The logical size of a sparse member.
    fn sparse(&self) -> Result<Option<u64>, Wrong> {
        let part = |key| self.values.get(key).map(|v: &Vec<u8>| v.as_slice());
        let version = (part("GNU.sparse.major"), part("GNU.sparse.minor"));
        match (version, part("GNU.sparse.realsize")) {
            ((None, None), None) => Ok(None),
            ((Some(b"1"), Some(b"0")), Some(size)) => {
                Ok(Some(pax::decimal(size).ok_or("a pax number is none")?))
            }
            _ => Err("a sparse format other than 1.0"),
        }
    }
}

/// Directories end in a slash, and only they; the root is `./`.
fn path(name: &[u8], directory: bool) -> Result<MemberPath, Wrong> {
    let name = match (name, directory) {
        (b"./", true) => return Ok(MemberPath::root()),
        (name, true) => name
            .strip_suffix(b"/")
            .ok_or("a directory's name without its slash")?,
        (name, false) => name,
    };
    if name.is_empty() {
        return Err("a member without name");
    }
    // The writer's guard, where it puts one and nowhere else.
    let name = match name {
        [b'.', b'/', rest @ ..] if guarded(rest) == name => rest,
        other if guarded(other) == other => other,
        _ => return Err("a name that bsdtar would shorten"),
    };
    MemberPath::new(name).map_err(|bad| bad.why)
}

fn kind(header: &Header, link: &[u8], len: u64) -> Result<Kind, Wrong> {
    let device = |n: u64| u32::try_from(n).map_err(|_| "a device number above 32 bits");
    Ok(match header.kind {
        b'0' => Kind::dense(len),
        b'1' => Kind::HardLink {
            target: path(link, false)?,
        },
        b'2' if !link.is_empty() && !link.contains(&0) => Kind::Symlink {
            target: link.to_vec(),
        },
        b'2' => return Err("a symbolic link with an impossible target"),
        b'3' => Kind::CharDevice {
            major: device(header.major)?,
            minor: device(header.minor)?,
        },
        b'4' => Kind::BlockDevice {
            major: device(header.major)?,
            minor: device(header.minor)?,
        },
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        _ => return Err("a kind of member that Cairn does not write"),
    })
}

/// The body of the global header.
pub(super) fn composition(body: &[u8]) -> Result<Composition, Wrong> {
    let [(b"comment", text)] = pax::records(body)?[..] else {
        return Err("a global header that is not Cairn's");
    };
    let found = pax::parse_composition(text).ok_or("a global header that is not Cairn's")?;
    Ok(Composition {
        aggregate: found.0,
        fs: found.1,
        composed: found.2,
    })
}
