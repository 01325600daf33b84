//! Paths that may be gone: the nearest directory above that is there, opened with the user's own
//! rights, and the rest of the path.

use super::problem;
use crate::error::Failure;
use crate::server::wire::Problem;
use rustix::fs::{CWD, Mode, OFlags};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// A directory, its path as the user typed it, and what follows.
pub(super) struct Nearest {
    pub(super) fd: OwnedFd,
    pub(super) path: Vec<u8>,
    pub(super) below: Vec<u8>,
}

/// Finds it.
pub(super) fn nearest(path: &[u8]) -> Result<Nearest, Problem> {
    let trimmed = trim(path);
    let mut end = trimmed.len();
    loop {
        let head = match &trimmed[..end] {
            b"" if path.first() == Some(&b'/') => b"/".as_slice(),
            b"" => b".",
            head => head,
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(CWD, OsStr::from_bytes(head), flags, Mode::empty()) {
            Ok(fd) => {
                return Ok(Nearest {
                    fd,
                    path: head.to_vec(),
                    below: below(path, &trimmed[end..])?,
                });
            }
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) if end > 0 => {
                let slash = trimmed[..end].iter().rposition(|b| *b == b'/');
                end = trim(&trimmed[..slash.unwrap_or(0)]).len();
            }
            Err(why) => {
                let failure = match why {
                    rustix::io::Errno::ACCESS | rustix::io::Errno::PERM => Failure::NotPermitted,
                    _ => Failure::NotFound,
                };
                let text = io::Error::from(why).to_string();
                let text = text.split(" (os error").next().unwrap_or_default();
                return Err(problem(path, failure, text.to_owned()));
            }
        }
    }
}

/// Without slashes at its end.
fn trim(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|b| *b != b'/').map_or(0, |at| at + 1);
    &path[..end]
}

fn below(path: &[u8], rest: &[u8]) -> Result<Vec<u8>, Problem> {
    let parts = rest.split(|b| *b == b'/');
    let parts: Vec<&[u8]> = parts.filter(|p| !p.is_empty() && *p != b".").collect();
    if parts.contains(&&b".."[..]) {
        let why = "the part of the path that is gone has `..` in it; write it without";
        return Err(problem(path, Failure::Usage, why.to_owned()));
    }
    Ok(parts.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_directory_that_is_there_is_found() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/file"), "x").unwrap();
        let top = dir.path().as_os_str().as_bytes();
        let found = |below: &str| {
            let nearest = nearest(&[top, below.as_bytes()].concat());
            nearest.map(|n| {
                let head = n.path.strip_prefix(top).unwrap().to_vec();
                let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
                (text(head), text(n.below))
            })
        };
        let is = |head: &str, below: &str| Ok((head.to_owned(), below.to_owned()));
        assert_eq!(found("/d"), is("/d", ""));
        assert_eq!(found("/d/"), is("/d", ""));
        assert_eq!(found("/d/file"), is("/d", "file"));
        assert_eq!(found("/d/gone/./x//y/"), is("/d", "gone/x/y"));
        assert_eq!(found("/d/../d/gone"), is("/d/../d", "gone"));
        assert_eq!(found("/d/file/x"), is("/d", "file/x"));
        assert_eq!(found("/gone/../x").unwrap_err().code, "usage");
        assert_eq!(nearest(b"/nothing-here/x").unwrap().path, b"/");
        let here = nearest(b"nothing-here").unwrap();
        assert_eq!(
            (&here.path[..], &here.below[..]),
            (&b"."[..], &b"nothing-here"[..])
        );
    }
}
