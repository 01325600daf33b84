//! May this program be run? It runs with the server's rights, so nobody else may be able to change it.
//!
//! Invariant kept here: a program is run only if it and every directory on the way to it belong to root or to
//! the server's user, and no one else may write to them. (An ACL that lets somebody write shows in the group's
//! bits, which hold its mask.)

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;
const RUN: u32 = 0o111;

/// Says why the program must not, or cannot, be run.
pub(super) fn check(program: &Path) -> Result<(), String> {
    let shown = program.display();
    // Both ways to it: the one that is written, and the one behind its links.
    let real = program
        .canonicalize()
        .map_err(|error| format!("{shown}: {error}"))?;
    let meta = look(&real)?;
    if !meta.is_file() {
        return Err(format!("{} is no file", real.display()));
    }
    if meta.mode() & RUN == 0 {
        return Err(format!(
            "{0} is not executable: chmod 0755 {0}",
            real.display()
        ));
    }
    safe(&real, &meta)?;
    let ways = real.ancestors().skip(1).chain(program.ancestors().skip(1));
    for above in ways {
        let meta = look(above)?;
        // In a sticky directory others can add names, and neither change nor take away ours; its owner can.
        owned(above, &meta)?;
        if meta.mode() & STICKY == 0 {
            safe(above, &meta)?;
        }
    }
    Ok(())
}

fn look(path: &Path) -> Result<Metadata, String> {
    std::fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn owned(path: &Path, meta: &Metadata) -> Result<(), String> {
    let (shown, own) = (path.display(), rustix::process::geteuid().as_raw());
    if meta.uid() != 0 && meta.uid() != own {
        return Err(format!(
            "{shown} belongs to user {}, who could change what runs with this server's rights: chown it to root",
            meta.uid()
        ));
    }
    Ok(())
}

fn safe(path: &Path, meta: &Metadata) -> Result<(), String> {
    owned(path, meta)?;
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
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
    }

    #[test]
    fn a_program_that_others_can_change_is_not_run() {
        let place = tempfile::tempdir().expect("temporary directory");
        let dir = place.path().join("bin");
        fs::create_dir(&dir).expect("directory");
        chmod(&dir, 0o755);
        let program = dir.join("program");
        let says = |words: &str| {
            let why = check(&program).expect_err(words);
            assert!(why.contains(words), "{why}");
        };
        says("No such file");
        fs::write(&program, "#!/bin/sh\n").expect("program");
        chmod(&program, 0o644);
        says("not executable");
        for mode in [0o755, 0o500, 0o711] {
            chmod(&program, mode);
            assert_eq!(check(&program), Ok(()), "{mode:o}");
        }
        for mode in [0o775, 0o757, 0o777] {
            chmod(&program, mode);
            says("may be written by others");
        }
        chmod(&program, 0o755);
        for mode in [0o775, 0o757] {
            chmod(&dir, mode);
            says("may be written by others");
        }
        chmod(&dir, 0o1777);
        assert_eq!(check(&program), Ok(()));
        // A link in a place that others can write to leads wherever they like.
        let open = place.path().join("open");
        fs::create_dir(&open).expect("directory");
        chmod(&open, 0o777);
        symlink(&program, open.join("link")).expect("link");
        let why = check(&open.join("link")).expect_err("link");
        assert!(why.contains("open may be written"), "{why}");
        let why = check(&dir).expect_err("a directory");
        assert!(why.contains("is no file"), "{why}");
        if rustix::process::geteuid().is_root() {
            chmod(&dir, 0o755);
            std::os::unix::fs::chown(&program, Some(12345), None).expect("chown");
            says("belongs to user 12345");
            std::os::unix::fs::chown(&program, Some(0), None).expect("chown");
            chmod(&dir, 0o1777);
            std::os::unix::fs::chown(&dir, Some(12345), None).expect("chown");
            says("bin belongs to user 12345");
        }
    }
}
