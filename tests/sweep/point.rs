//! Points: calls that change something on one of the instance's disks, named so that a report
//! tells which kinds were hit.

use crate::call::{self, Object};
use crate::seccomp::Asked;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Which disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Class {
    Backing,
    TierOne,
    TierTwo,
    State,
}

impl Class {
    pub(crate) const ALL: [Self; 4] = [Self::Backing, Self::TierOne, Self::TierTwo, Self::State];

    pub(crate) fn is_tier(self) -> bool {
        matches!(self, Self::TierOne | Self::TierTwo)
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Backing => "backing",
            Self::TierOne => "tier one",
            Self::TierTwo => "tier two",
            Self::State => "state",
        })
    }
}

/// One disk as its calls are recognised.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    pub(crate) class: Class,
    pub(crate) device: u64,
    /// Where it is mounted.
    pub(crate) path: PathBuf,
}

/// A call on one of the disks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Point {
    pub(crate) class: Class,
    pub(crate) call: &'static str,
    /// What it is made on: a kind of file, no single one.
    pub(crate) object: String,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}: {}", self.call, self.class, self.object)
    }
}

impl Point {
    /// The point that a call is; `None` if it touches none of the disks (sockets, logs, pipes).
    /// Looks at descriptors and memory of the caller only, never at a mount.
    pub(crate) fn of(asked: &Asked, grounds: &[Ground]) -> Option<Self> {
        let call = call::of(asked.number)?;
        let (path, device) = match call.object {
            Object::Descriptor(n) => descriptor(asked, n)?,
            Object::Path(n) => named(asked, None, n)?,
            Object::At(dir, n) => named(asked, Some(dir), n)?,
        };
        let by_name = |g: &&Ground| path.starts_with(&g.path);
        let ground = match device {
            Some(device) => grounds.iter().find(|g| g.device == device)?,
            None => grounds.iter().find(by_name)?,
        };
        let attribute = call.attribute.and_then(|n| text(asked, n));
        let inside = path.strip_prefix(&ground.path).unwrap_or(&path);
        let mut object = kind(ground.class, inside);
        if let Some(attribute) = attribute {
            object = format!("{object} {}", attribute.to_string_lossy());
        }
        Some(Self {
            class: ground.class,
            call: call.name,
            object,
        })
    }

    /// Can the disk be full at this call?
    pub(crate) fn takes_room(&self) -> bool {
        call::takes_room(self.call)
    }

    /// One of very many alike: frames of the catalog's log, and its index.
    pub(crate) fn is_of_the_log(&self) -> bool {
        self.object.ends_with(".sqlite-wal") || self.object.ends_with(".sqlite-shm")
    }

    pub(crate) fn is_sync(&self) -> bool {
        self.call.contains("sync")
    }
}

fn text(asked: &Asked, n: usize) -> Option<OsString> {
    let memory = File::open(format!("/proc/{}/mem", asked.thread)).ok()?;
    let mut bytes = vec![0; 4096];
    let mut have = 0;
    // A name may end just before a page that is not there.
    while have < bytes.len() {
        let at = asked.arguments[n] + have as u64;
        let piece = (256 - at % 256) as usize;
        let end = bytes.len().min(have + piece);
        let got = memory.read_at(&mut bytes[have..end], at).ok()?;
        let stop = bytes[have..have + got].iter().position(|b| *b == 0);
        if let Some(stop) = stop {
            bytes.truncate(have + stop);
            return Some(OsString::from_vec(bytes));
        }
        if got == 0 {
            return None;
        }
        have += got;
    }
    None
}

/// Path and device of an open file that has a name somewhere.
fn opened(link: &Path) -> Option<(PathBuf, Option<u64>)> {
    let path = fs::read_link(link).ok()?;
    if !path.is_absolute() || path == Path::new("/dev/fuse") {
        return None;
    }
    let device = fs::metadata(link).ok()?.dev();
    Some((path, Some(device)))
}

fn descriptor(asked: &Asked, n: usize) -> Option<(PathBuf, Option<u64>)> {
    let fd = asked.arguments[n] as i32;
    opened(Path::new(&format!("/proc/{}/fd/{fd}", asked.thread)))
}

fn named(asked: &Asked, dir: Option<usize>, n: usize) -> Option<(PathBuf, Option<u64>)> {
    let base = match dir.map(|n| asked.arguments[n] as i32) {
        None | Some(libc::AT_FDCWD) => format!("/proc/{}/cwd", asked.thread),
        Some(fd) => format!("/proc/{}/fd/{fd}", asked.thread),
    };
    // No name: the descriptor itself (futimens), or AT_EMPTY_PATH.
    if asked.arguments[n] == 0 {
        return opened(Path::new(&base));
    }
    let name = PathBuf::from(text(asked, n)?);
    if let Ok(fd) = name
        .strip_prefix("/proc/self/fd")
        .or_else(|_| name.strip_prefix("/proc/thread-self/fd"))
    {
        return opened(&Path::new(&format!("/proc/{}/fd", asked.thread)).join(fd));
    }
    if name.is_absolute() {
        return Some((name, None));
    }
    let (dir, device) = opened(Path::new(&base))?;
    // As it is in procfs: a descriptor of that directory, by number.
    if let Some(pid) = dir.strip_prefix("/proc").ok().filter(|d| d.ends_with("fd")) {
        return opened(&Path::new("/proc").join(pid).join(name));
    }
    Some((dir.join(name), device))
}

/// The kind of a file, by its place on its disk.
fn kind(class: Class, inside: &Path) -> String {
    let parts: Vec<_> = inside.iter().map(|p| p.to_string_lossy()).collect();
    let parts: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
    let name = parts.last().copied().unwrap_or("/");
    let name = name.strip_suffix(" (deleted)").unwrap_or(name);
    match class {
        Class::Backing => match parts.as_slice() {
            ["guarded", "backing"] => "its root".to_owned(),
            _ if name.contains("cairn") => name.to_owned(),
            _ => "a file".to_owned(),
        },
        Class::TierOne | Class::TierTwo => match parts.as_slice() {
            ["tier"] => "its root".to_owned(),
            [_, "incoming"] => "incoming".to_owned(),
            [_, "incoming", ..] => "an object under way".to_owned(),
            [_, "aggregates", ..] if name.contains('.') => "an object".to_owned(),
            [_, "aggregates", ..] => "a directory of objects".to_owned(),
            _ => plain(name),
        },
        Class::State => match parts.as_slice() {
            [_, "indexes"] => "indexes".to_owned(),
            [_, "indexes", ..] => "an index".to_owned(),
            [_, "run", ..] => "run".to_owned(),
            _ => plain(name),
        },
    }
}

/// A name without what differs from run to run.
fn plain(name: &str) -> String {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_hexdigit() || c == '-' || c == '.');
    if stem.is_empty() || name.len() - stem.len() < 8 {
        name.to_owned()
    } else {
        format!("{stem}*")
    }
}
