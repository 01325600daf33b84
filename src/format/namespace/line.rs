//! One line: its JSON, and the checks on the way back.

use super::text;
use super::{
    Attributes, Base, Data, Directory, End, Entry, Head, Inode, InodeKind, Line, SCHEMA, What,
};
use crate::format::acl;
use crate::format::member::MAX_NAME;
use crate::format::pax;
use crate::format::record::CopyHint;
use crate::format::wire::Wrong;
use crate::id::{AggregateId, DataVersion, NodeHandle, TierId, Timestamp};
use cairn_mover::Crc32c;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// Longest target of a symbolic link (`PATH_MAX`).
const MAX_TARGET: usize = 4096;
/// Longest handle of an inode (`MAX_HANDLE_SZ`).
const MAX_HANDLE: usize = 128;
/// Most extended attributes of an inode, and most copies of a file: far more than there can be.
const MANY: usize = 1 << 16;

/// Every key that a line may have, in the order in which they are written.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Raw<'a> {
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    schema: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    snapshot: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    fs: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    base: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    depth: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    begun: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    horizon: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    root: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    dir: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    path: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    node: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    mode: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    target: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rdev: Option<(u32, u32)>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    mtime: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    atime: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    ctime: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Vec::is_empty", borrow)]
    xattrs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<RawData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    directories: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gaps: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    ended: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    crc32c: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawData {
    file: String,
    version: u64,
    crc32c: String,
    blocks: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    mtime: Option<String>,
    copies: Vec<RawCopy>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCopy {
    tier: String,
    aggregate: String,
    header: u64,
}

fn said(text: impl Into<String>) -> Option<Cow<'static, str>> {
    Some(Cow::Owned(text.into()))
}

/// The line, its newline included.
pub(super) fn encode(line: &Line) -> Vec<u8> {
    let mut raw = Raw::default();
    match line {
        Line::Head(head) => {
            raw.schema = said(SCHEMA);
            raw.snapshot = said(head.snapshot.to_string());
            raw.fs = said(head.fs.to_string());
            raw.base = head.base.map(|b| b.snapshot.to_string().into());
            raw.depth = head.base.map(|b| b.depth);
            raw.begun = said(pax::time(head.begun));
            raw.horizon = said(head.horizon.to_string());
            raw.root = said(node_text(&head.root));
        }
        Line::Directory(directory) => {
            raw.dir = said(node_text(&directory.node));
            raw.path = (!directory.path.is_empty()).then(|| text::encode(&directory.path).into());
            put_attributes(&mut raw, &directory.attributes);
        }
        Line::Entry(entry) => {
            raw.name = said(text::encode(&entry.name));
            match &entry.what {
                What::Directory(node) => {
                    raw.kind = said("directory");
                    raw.node = said(node_text(node));
                }
                What::Other(inode) => put_inode(&mut raw, inode),
            }
        }
        Line::End(end) => {
            raw.directories = Some(end.directories);
            raw.entries = Some(end.entries);
            raw.gaps = (end.gaps > 0).then_some(end.gaps);
            raw.ended = said(pax::time(end.ended));
            raw.crc32c = said(end.crc.to_string());
        }
    }
    // Strings and numbers always serialize.
    let mut bytes = serde_json::to_vec(&raw).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn put_attributes(raw: &mut Raw<'_>, attributes: &Attributes) {
    raw.mode = said(format!("{:04o}", attributes.mode));
    raw.uid = Some(attributes.uid);
    raw.gid = Some(attributes.gid);
    raw.mtime = said(pax::time(attributes.mtime));
    raw.atime = said(pax::time(attributes.atime));
    raw.ctime = said(pax::time(attributes.ctime));
    let pair = |(name, value): &(Vec<u8>, Vec<u8>)| {
        let value = match is_acl(name).then(|| acl::to_text(value)) {
            // People read these.
            Some(Ok(words)) => words,
            _ => text::encode(value),
        };
        (text::encode(name).into(), value.into())
    };
    raw.xattrs = attributes.xattrs.iter().map(pair).collect();
}

fn is_acl(name: &[u8]) -> bool {
    name == acl::ACCESS || name == acl::DEFAULT
}

fn put_inode(raw: &mut Raw<'_>, inode: &Inode) {
    put_attributes(raw, &inode.attributes);
    raw.node = inode.linked.as_ref().map(|n| node_text(n).into());
    raw.kind = said(match &inode.kind {
        InodeKind::File { .. } => "file",
        InodeKind::Symlink(_) => "symlink",
        InodeKind::Fifo => "fifo",
        InodeKind::Socket => "socket",
        InodeKind::CharDevice(..) => "char",
        InodeKind::BlockDevice(..) => "block",
    });
    match &inode.kind {
        InodeKind::File { size, data } => {
            raw.size = Some(*size);
            raw.data = data.as_ref().map(raw_data);
        }
        InodeKind::Symlink(target) => raw.target = said(text::encode(target)),
        InodeKind::CharDevice(major, minor) | InodeKind::BlockDevice(major, minor) => {
            raw.rdev = Some((*major, *minor));
        }
        InodeKind::Fifo | InodeKind::Socket => {}
    }
}

fn raw_data(data: &Data) -> RawData {
    let copy = |copy: &CopyHint| RawCopy {
        tier: copy.tier.to_string(),
        aggregate: copy.aggregate.to_string(),
        header: copy.header,
    };
    RawData {
        file: data.file.to_string(),
        version: data.version.0,
        crc32c: data.crc.to_string(),
        blocks: data.blocks_crc.to_string(),
        size: data.older.map(|(size, _)| size),
        mtime: data.older.map(|(_, mtime)| pax::time(mtime)),
        copies: data.copies.iter().map(copy).collect(),
    }
}

/// A node: type and bytes of its file handle.
fn node_text(node: &NodeHandle) -> String {
    let hex = node.bytes.iter().map(|b| format!("{b:02x}"));
    format!("{}:{}", node.kind, hex.collect::<String>())
}

fn node(text: &str) -> Result<NodeHandle, Wrong> {
    let wrong = "a node that is none";
    let (kind, hex) = text.split_once(':').ok_or(wrong)?;
    if hex.is_empty() || hex.len() % 2 != 0 || hex.len() > 2 * MAX_HANDLE || !hex.is_ascii() {
        return Err(wrong);
    }
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16);
    let bytes: Result<Vec<u8>, _> = (0..hex.len()).step_by(2).map(byte).collect();
    let found = NodeHandle {
        kind: kind.parse().map_err(|_| wrong)?,
        bytes: bytes.map_err(|_| wrong)?,
    };
    if node_text(&found) == text {
        Ok(found)
    } else {
        Err(wrong)
    }
}

/// Reads a line, without its newline.
pub(super) fn decode(bytes: &[u8]) -> Result<Line, String> {
    let mut raw: Raw<'_> = serde_json::from_slice(bytes).map_err(|why| why.to_string())?;
    let line = interpret(&mut raw)?;
    // What was understood is all that stands there: one line for one meaning.
    let again = encode(&line);
    if again.strip_suffix(b"\n") == Some(bytes) {
        Ok(line)
    } else {
        Err("it is not written as it must be, or has keys that do not belong together".to_owned())
    }
}

fn interpret(raw: &mut Raw<'_>) -> Result<Line, Wrong> {
    if raw.schema.is_some() {
        return head(raw).map(Line::Head);
    }
    if let Some(dir) = raw.dir.take() {
        return Ok(Line::Directory(Directory {
            node: node(&dir)?,
            path: match raw.path.take() {
                Some(path) => text::decode(&path).ok_or("a path that is none")?,
                None => Vec::new(),
            },
            attributes: attributes(raw)?,
        }));
    }
    if let Some(name) = raw.name.take() {
        return Ok(Line::Entry(Entry {
            name: component(&name)?,
            what: what(raw)?,
        }));
    }
    if let (Some(directories), Some(entries)) = (raw.directories, raw.entries) {
        return Ok(Line::End(End {
            directories,
            entries,
            gaps: raw.gaps.unwrap_or(0),
            ended: time(raw.ended.as_deref())?,
            crc: crc(raw.crc32c.as_deref().unwrap_or_default())?,
        }));
    }
    Err("it is neither head, directory, name nor end")
}

fn head(raw: &Raw<'_>) -> Result<Head, Wrong> {
    if raw.schema.as_deref() != Some(SCHEMA) {
        return Err("it is of a schema that this program does not know");
    }
    let base = match (raw.base.as_deref(), raw.depth) {
        (None, None) => None,
        (Some(base), Some(depth)) if depth > 0 => Some(Base {
            snapshot: aggregate(base)?,
            depth,
        }),
        _ => return Err("a base without depth, or depth without base"),
    };
    let fs = raw.fs.as_deref().and_then(|fs| fs.parse().ok());
    Ok(Head {
        snapshot: aggregate(raw.snapshot.as_deref().unwrap_or_default())?,
        fs: fs.ok_or("a filesystem that is none")?,
        base,
        begun: time(raw.begun.as_deref())?,
        horizon: aggregate(raw.horizon.as_deref().unwrap_or_default())?,
        root: node(raw.root.as_deref().unwrap_or_default())?,
    })
}

/// A name that can be made in a directory, and leads nowhere else.
fn component(name: &str) -> Result<Vec<u8>, Wrong> {
    let name = text::decode(name).ok_or("a name that is not written as it must be")?;
    match name.as_slice() {
        b"" | b"." | b".." => Err("a name that no file can have"),
        name if name.contains(&b'/') || name.contains(&0) => Err("a name with a slash or NUL"),
        name if name.len() > MAX_NAME => Err("a name that is too long"),
        _ => Ok(name),
    }
}

fn what(raw: &mut Raw<'_>) -> Result<What, Wrong> {
    let kind = raw.kind.take().unwrap_or_default();
    if kind == "directory" {
        return node(raw.node.as_deref().unwrap_or_default()).map(What::Directory);
    }
    let rdev = raw.rdev.ok_or("a device without numbers");
    let kind = match &*kind {
        "file" => InodeKind::File {
            size: raw.size.ok_or("a file without size")?,
            data: raw.data.take().map(data).transpose()?,
        },
        "symlink" => {
            let target = raw
                .target
                .as_deref()
                .and_then(text::decode)
                .filter(|t| !t.is_empty() && t.len() < MAX_TARGET && !t.contains(&0));
            InodeKind::Symlink(target.ok_or("a link without a target that can be one")?)
        }
        "fifo" => InodeKind::Fifo,
        "socket" => InodeKind::Socket,
        "char" => rdev.map(|(a, b)| InodeKind::CharDevice(a, b))?,
        "block" => rdev.map(|(a, b)| InodeKind::BlockDevice(a, b))?,
        _ => return Err("a kind that this program does not know"),
    };
    if let InodeKind::File { size, .. } = &kind
        && i64::try_from(*size).is_err()
    {
        return Err("a size that no file can have");
    }
    Ok(What::Other(Inode {
        kind,
        linked: raw.node.as_deref().map(node).transpose()?,
        attributes: attributes(raw)?,
    }))
}

fn attributes(raw: &mut Raw<'_>) -> Result<Attributes, Wrong> {
    let mode = u32::from_str_radix(raw.mode.as_deref().unwrap_or("-"), 8);
    let mode = mode.ok().filter(|m| *m <= 0o7777);
    if raw.xattrs.len() > MANY {
        return Err("more extended attributes than there can be");
    }
    let xattrs = raw.xattrs.drain(..).map(|(name, value)| {
        let name = text::decode(&name).filter(|n| !n.is_empty() && !n.contains(&0));
        let name = name.ok_or("an extended attribute's name is none")?;
        let words = is_acl(&name).then(|| acl::from_text(value.as_bytes()).ok());
        let value = words.flatten().or_else(|| text::decode(&value));
        Ok((name, value.ok_or("an extended attribute's value is none")?))
    });
    Ok(Attributes {
        xattrs: xattrs.collect::<Result<_, Wrong>>()?,
        mode: mode.ok_or("a mode that is none")?,
        uid: raw.uid.ok_or("no owner")?,
        gid: raw.gid.ok_or("no group")?,
        mtime: time(raw.mtime.as_deref())?,
        atime: time(raw.atime.as_deref())?,
        ctime: time(raw.ctime.as_deref())?,
    })
}

fn data(raw: RawData) -> Result<Data, Wrong> {
    let older = match (raw.size, raw.mtime) {
        (None, None) => None,
        (Some(size), Some(mtime)) if i64::try_from(size).is_ok() => {
            Some((size, time(Some(&mtime))?))
        }
        _ => return Err("an older version without size or time"),
    };
    if raw.copies.len() > MANY {
        return Err("more copies than there can be");
    }
    let copy = |copy: RawCopy| {
        let tier = u32::from_str_radix(&copy.tier, 16).ok().filter(|t| *t != 0);
        Ok(CopyHint {
            tier: TierId(tier.ok_or("a tier that is none")?),
            aggregate: aggregate(&copy.aggregate)?,
            header: copy.header,
        })
    };
    Ok(Data {
        file: raw.file.parse().map_err(|_| "a file that is none")?,
        version: DataVersion(raw.version),
        crc: crc(&raw.crc32c)?,
        blocks_crc: crc(&raw.blocks)?,
        older,
        copies: raw
            .copies
            .into_iter()
            .map(copy)
            .collect::<Result<_, Wrong>>()?,
    })
}

fn aggregate(text: &str) -> Result<AggregateId, Wrong> {
    text.parse()
        .map_err(|_| "a name of an aggregate that is none")
}

fn time(text: Option<&str>) -> Result<Timestamp, Wrong> {
    let time = text.and_then(|text| pax::parse_time(text.as_bytes()));
    time.ok_or("a time that is none")
}

fn crc(text: &str) -> Result<Crc32c, Wrong> {
    if text.len() != 8 {
        return Err("a sum that is none");
    }
    u32::from_str_radix(text, 16)
        .map(Crc32c)
        .map_err(|_| "a sum that is none")
}
