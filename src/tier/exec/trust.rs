//! May this program be run? It runs with the server's rights, so nobody else may be able to change it.
//!
//! Invariants kept here:
//! - A program is run only if every entry on the way to it belongs to root or to the server's user, links and what
//!   they lead over included, and no one else may write to it or to a directory that it lies in. (An ACL that lets
//!   somebody write shows in the group's bits, which hold its mask.) In a sticky directory others can add names of
//!   their own, and neither change nor take away ours: it may be one on the way, and theirs may not.
//! - What is run is the path without links that was looked at, and not the one that is written.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

const BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;
const RUN: u32 = 0o111;
/// So many links on one way are followed, as the kernel does.
const LINKS: usize = 40;

/// What tells one program from another that was put in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Seconds and nanoseconds.
    changed: (i64, i64),
}

impl Identity {
    /// Where it lies; no link is on the way.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Says which program it is that may be run, or why none may, or can.
pub(super) fn find(program: &Path) -> Result<Identity, String> {
    let (real, meta) = walk(program)?;
    if !meta.is_file() {
        return Err(format!("{} is no file", real.display()));
    }
    if meta.mode() & RUN == 0 {
        return Err(format!(
            "{0} is not executable: chmod 0755 {0}",
            real.display()
        ));
    }
    closed(&real, &meta)?;
    Ok(Identity {
        path: real,
        device: meta.dev(),
        inode: meta.ino(),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

/// Goes the way entry by entry, looking at each before it is gone through; where it ends, and what lies there.
fn walk(program: &Path) -> Result<(PathBuf, Metadata), String> {
    let mut at = PathBuf::from("/");
    let mut meta = look(&at)?;
    let mut ahead = steps(program);
    let mut links = 0;
    while let Some(step) = ahead.pop_front() {
        if !meta.is_dir() {
            return Err(format!("{} is no directory", at.display()));
        }
        if step == ".." {
            at.pop();
            meta = look(&at)?;
            continue;
        }
        // Whoever may write here can put another entry in this one's place; not where it is sticky.
        if meta.mode() & STICKY == 0 {
            closed(&at, &meta)?;
        }
        let next = at.join(&step);
        let found = look(&next)?;
        if !found.is_symlink() {
            (at, meta) = (next, found);
            continue;
        }
        links += 1;
        if links > LINKS {
            return Err(format!("{}: too many links", program.display()));
        }
        let target =
            std::fs::read_link(&next).map_err(|error| format!("{}: {error}", next.display()))?;
        if target.is_absolute() {
            at = PathBuf::from("/");
            meta = look(&at)?;
        }
        for step in steps(&target).into_iter().rev() {
            ahead.push_front(step);
        }
    }
    Ok((at, meta))
}

fn steps(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// What lies there, links not followed; it must be root's or the server's user's.
fn look(path: &Path) -> Result<Metadata, String> {
    let shown = path.display();
    let meta = std::fs::symlink_metadata(path).map_err(|error| format!("{shown}: {error}"))?;
    let own = rustix::process::geteuid().as_raw();
    if meta.uid() != 0 && meta.uid() != own {
        let what = if meta.is_symlink() {
            "where it leads"
        } else {
            "it"
        };
        return Err(format!(
            "{shown} belongs to user {}, who could change {what}, and so what runs with this server's rights: \
             chown -h it to root",
            meta.uid()
        ));
    }
    Ok(meta)
}

/// Nobody else may write to it.
fn closed(path: &Path, meta: &Metadata) -> Result<(), String> {
    let shown = path.display();
    if meta.mode() & BY_OTHERS != 0 {
        return Err(format!(
            "{shown} may be written by others (mode {:04o}), who could change what runs with this server's \
             rights: chmod go-w {shown}",
            meta.mode() & 0o7777
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
    }

    /// A program in a directory `bin` of the place.
    fn program(place: &Path) -> PathBuf {
        let dir = place.join("bin");
        fs::create_dir(&dir).expect("directory");
        chmod(&dir, 0o755);
        let program = dir.join("program");
        fs::write(&program, "#!/bin/sh\n").expect("program");
        chmod(&program, 0o755);
        program
    }

    fn refuses(path: &Path, words: &str) {
        let why = find(path).expect_err(words);
        assert!(why.contains(words), "{words}: {why}");
    }

    #[test]
    fn a_program_that_others_can_change_is_not_run() {
        let place = tempfile::tempdir().expect("temporary directory");
        refuses(&place.path().join("none"), "No such file");
        let program = program(place.path());
        let dir = place.path().join("bin");
        chmod(&program, 0o644);
        refuses(&program, "not executable");
        let real = program.canonicalize().expect("path");
        for mode in [0o755, 0o500, 0o711] {
            chmod(&program, mode);
            assert_eq!(find(&program).expect("trusted").path(), real, "{mode:o}");
        }
        for mode in [0o775, 0o757, 0o777] {
            chmod(&program, mode);
            refuses(&program, "may be written by others");
        }
        chmod(&program, 0o755);
        for mode in [0o775, 0o757] {
            chmod(&dir, mode);
            refuses(&program, "may be written by others");
        }
        chmod(&dir, 0o1777);
        assert!(find(&program).is_ok());
        refuses(&dir, "is no file");
        refuses(&program.join("x"), "is no directory");
        if rustix::process::geteuid().is_root() {
            chmod(&dir, 0o755);
            chown(&program, Some(12345), None).expect("chown");
            refuses(&program, "belongs to user 12345");
            chown(&program, Some(0), None).expect("chown");
            chmod(&dir, 0o1777);
            chown(&dir, Some(12345), None).expect("chown");
            refuses(&program, "bin belongs to user 12345");
        }
    }

    #[test]
    fn each_link_on_the_way_is_looked_at_and_what_it_leads_over() {
        let place = tempfile::tempdir().expect("temporary directory");
        let program = program(place.path());
        let real = program.canonicalize().expect("path");
        let at = |name: &str| place.path().join(name);
        // Over a relative one, an absolute one, and a way back: it is the path behind them that counts.
        symlink("bin/../bin", at("relative")).expect("link");
        symlink(at("relative"), at("absolute")).expect("link");
        symlink("program", at("bin/other")).expect("link");
        let way = at("absolute/../absolute/other");
        assert_eq!(find(&way).expect("trusted").path(), real);
        symlink("loop", at("loop")).expect("link");
        refuses(&at("loop/program"), "too many links");
        // A link in a place that others can write to leads wherever they like, and so does one through it.
        fs::create_dir(at("open")).expect("directory");
        chmod(&at("open"), 0o777);
        symlink(&program, at("open/link")).expect("link");
        refuses(&at("open/link"), "open may be written");
        fs::create_dir(at("open/inner")).expect("directory");
        chmod(&at("open/inner"), 0o755);
        symlink(&program, at("open/inner/link")).expect("link");
        symlink(at("open/inner/link"), at("over")).expect("link");
        refuses(&at("over"), "open may be written");
        // In a sticky one, ours.
        chmod(&at("open"), 0o1777);
        assert_eq!(find(&at("over")).expect("trusted").path(), real);
        if rustix::process::geteuid().is_root() {
            // And not somebody else's, whether a link or a directory.
            lchown(at("open/link"), Some(12345), None).expect("chown");
            refuses(&at("open/link"), "open/link belongs to user 12345");
            chown(at("open/inner"), Some(12345), None).expect("chown");
            refuses(&at("over"), "open/inner belongs to user 12345");
        }
    }

    #[test]
    fn another_program_in_its_place_is_another_one() {
        let place = tempfile::tempdir().expect("temporary directory");
        let program = program(place.path());
        let first = find(&program).expect("trusted");
        assert_eq!(find(&program).expect("trusted"), first);
        let other = place.path().join("bin/next");
        fs::write(&other, "#!/bin/sh\n").expect("program");
        chmod(&other, 0o755);
        fs::rename(&other, &program).expect("replaced");
        assert_ne!(find(&program).expect("trusted"), first);
    }
}
