//! Which instance is meant: the one named by `CAIRN_SOCKET`, else the one whose mount the path
//! lies in (the mount itself answers), else that of the working directory, else the only one
//! mounted here.

use super::error::ClientError;
use crate::server::socket::ATTRIBUTE;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

/// What leads to an instance.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place<'a> {
    /// Its socket, named by the user: goes before everything else, and whoever runs it is trusted.
    pub socket: Option<&'a Path>,
    /// A path on its mount. If given, no other instance is meant.
    pub path: Option<&'a Path>,
}

/// A socket, and whether its listener is taken on the user's word.
pub(super) struct Found {
    pub(super) socket: PathBuf,
    pub(super) trusted: bool,
}

/// Longest answer of the mount that is looked at, bytes.
const MAX_ANSWER: usize = 4096;

pub(super) fn socket(place: &Place<'_>) -> Result<Found, ClientError> {
    if let Some(socket) = place.socket {
        return Ok(Found {
            socket: socket.to_owned(),
            trusted: true,
        });
    }
    let found = match place.path {
        Some(path) => ask_upwards(path),
        None => ask(Path::new(".")).or_else(|| match mounts().as_slice() {
            [only] => ask(only),
            _ => None,
        }),
    };
    found
        .map(|socket| Found {
            socket,
            trusted: false,
        })
        .ok_or_else(|| none_found(place))
}

/// The same, where the mount may wait for a server of its own: if it says nothing within `limit`,
/// there is no instance.
pub(super) fn socket_within(place: &Place<'_>, limit: Duration) -> Result<Found, ClientError> {
    let (named, path) = (
        place.socket.map(Path::to_owned),
        place.path.map(Path::to_owned),
    );
    let (tell, told) = channel();
    let ask = move || {
        let place = Place {
            socket: named.as_deref(),
            path: path.as_deref(),
        };
        // Perhaps nobody waits any more.
        let _ = tell.send(socket(&place));
    };
    let asked = std::thread::Builder::new()
        .name("cairn-ask".to_owned())
        .spawn(ask);
    match asked {
        Ok(_) => told.recv_timeout(limit).unwrap_or(Err(ClientError::Silent)),
        Err(_) => socket(place),
    }
}

/// The mount's answer at the path, or at the nearest thing above it that can answer (symbolic
/// links, special files, unreadable and absent files cannot).
fn ask_upwards(path: &Path) -> Option<PathBuf> {
    let whole = std::path::absolute(path).ok()?;
    whole.ancestors().find_map(ask)
}

fn ask(path: &Path) -> Option<PathBuf> {
    let mut answer = vec![0; MAX_ANSWER];
    let length = rustix::fs::lgetxattr(path, ATTRIBUTE, answer.as_mut_slice()).ok()?;
    answer.truncate(length);
    let socket = PathBuf::from(OsString::from_vec(answer));
    socket.is_absolute().then_some(socket)
}

/// Where Cairn is mounted, as this process sees it.
pub(crate) fn mounts() -> Vec<PathBuf> {
    let Ok(table) = std::fs::read("/proc/self/mountinfo") else {
        return Vec::new();
    };
    mounts_in(&table)
}

fn mounts_in(table: &[u8]) -> Vec<PathBuf> {
    let is_ours = |line: &&[u8]| {
        let mut fields = line
            .split(|b| *b == b' ')
            .skip_while(|f| *f != b"-")
            .skip(1);
        fields.next() == Some(b"fuse.cairn")
    };
    let point = |line: &[u8]| {
        let field = line.split(|b| *b == b' ').nth(4)?;
        Some(PathBuf::from(OsStr::from_bytes(&unescape(field))))
    };
    table
        .split(|b| *b == b'\n')
        .filter(is_ours)
        .filter_map(point)
        .collect()
}

/// `\040` and the like.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = |digits: &[u8; 3]| {
            std::str::from_utf8(digits)
                .ok()
                .and_then(|d| u8::from_str_radix(d, 8).ok())
        };
        match tail.split_first_chunk::<3>() {
            Some((digits, after)) if byte == b'\\' && octal(digits).is_some() => {
                out.extend(octal(digits));
                rest = after;
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

fn none_found(place: &Place<'_>) -> ClientError {
    let mounted = mounts();
    let listed: Vec<String> = mounted.iter().map(|m| m.display().to_string()).collect();
    match (place.path, listed.as_slice()) {
        (Some(path), []) => ClientError::NoInstance {
            why: format!("{} lies on no Cairn mount", path.display()),
            hint: "nothing is mounted here; start with `cairn up BACKING MOUNT`".to_owned(),
        },
        (Some(path), some) => ClientError::NoInstance {
            why: format!("{} lies on no Cairn mount", path.display()),
            hint: format!("mounted here: {}", some.join(", ")),
        },
        (None, []) => ClientError::NoInstance {
            why: "nothing is mounted here".to_owned(),
            hint: "start with `cairn up BACKING MOUNT`, or set CAIRN_SOCKET".to_owned(),
        },
        (None, some) => ClientError::NoInstance {
            why: "it is not clear which one is meant".to_owned(),
            hint: format!("go into one of {}, or set CAIRN_SOCKET", some.join(", ")),
        },
    }
}

/// Whether a Cairn mount is at exactly this path.
///
/// # Errors
/// The mount table cannot be read.
pub(crate) fn is_mounted_at(path: &Path) -> io::Result<bool> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(mounts_in(&table).iter().any(|mount| mount == path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_mounts_are_told_from_others_and_unescaped() {
        let table = b"36 35 98:0 / /plain rw shared:1 - ext4 /dev/x rw\n\
            40 35 0:51 / /a\\040b rw,nosuid shared:9 master:1 - fuse.cairn cairn rw\n\
            41 35 0:52 / /c rw - fuse.sshfs x rw\n";
        assert_eq!(mounts_in(table), [PathBuf::from("/a b")]);
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescape(b"a\\04"), b"a\\04");
        assert_eq!(unescape(b"\\999x"), b"\\999x");
        assert_eq!(unescape(b"\\134"), b"\\");
    }

    #[test]
    fn a_named_socket_goes_first() {
        let place = Place {
            socket: Some(Path::new("/s")),
            path: Some(Path::new("/")),
        };
        assert!(socket(&place).is_ok_and(|f| f.trusted && f.socket == Path::new("/s")));
    }
}
