//! A backup of a state directory: a small one of its own, beside which its instance goes on.
//!
//! Invariants:
//! - Nothing is written into a directory that holds anything else than an earlier backup of the same
//!   instance.
//! - Identity and key come before the catalog: what has a catalog can be started from.

use super::{StateError, catalog_in, io_at, owner, sync_directory, write_durably};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// What a backup consists of.
const PARTS: [&str; 3] = ["instance.json", "seal.key", "catalog.sqlite"];
/// What a backup that was cut short may have left beside them.
const HALVES: [&str; 5] = [
    "instance.json.new",
    "seal.key.new",
    "catalog.sqlite.partial",
    "catalog.sqlite.partial-journal",
    "catalog.sqlite.partial-wal",
];

/// Makes `to` a state directory of the instance whose state `from` is, but for the catalog: where that
/// is to be. Durable.
///
/// # Errors
/// [`StateError::NotABackup`] if `to` may not be written into; nothing was then.
pub fn copy_identity(from: &Path, to: &Path) -> Result<PathBuf, StateError> {
    let whose = owner(from)?.ok_or_else(|| {
        let why = io::Error::from(io::ErrorKind::NotFound);
        io_at("looking for an instance in", from)(why)
    })?;
    let refused = |why: &str| StateError::NotABackup {
        path: to.to_owned(),
        why: why.to_owned(),
    };
    let mut made = false;
    match DirBuilder::new().mode(0o700).create(to) {
        Ok(()) => made = true,
        Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {}
        Err(why) => return Err(io_at("making", to)(why)),
    }
    let real = |path: &Path| fs::canonicalize(path).map_err(io_at("finding", path));
    if real(to)?.starts_with(real(from)?) {
        if made {
            let _ = fs::remove_dir(to);
        }
        return Err(refused("it lies in the state directory itself"));
    }
    let mut holds_parts = false;
    for entry in fs::read_dir(to).map_err(io_at("reading", to))? {
        let name = entry.map_err(io_at("reading", to))?.file_name();
        holds_parts |= PARTS.iter().any(|part| name == *part);
        if !PARTS.iter().chain(&HALVES).any(|part| name == *part) {
            let what = name.to_string_lossy();
            return Err(refused(&format!("it holds {what:?}, which no backup has")));
        }
    }
    if holds_parts && owner(to)? != Some(whose) {
        return Err(refused("it is a backup of another instance"));
    }
    if made && let Some(above) = to.parent() {
        let above = if above.as_os_str().is_empty() {
            Path::new(".")
        } else {
            above
        };
        sync_directory(above)?;
    }
    for name in ["instance.json", "seal.key"] {
        let path = from.join(name);
        match fs::read(&path) {
            Ok(bytes) => write_durably(to, name, &bytes)?,
            // Instances of root may have none.
            Err(why) if why.kind() == io::ErrorKind::NotFound && name == "seal.key" => {}
            Err(why) => return Err(io_at("reading", &path)(why)),
        }
    }
    Ok(catalog_in(to))
}

#[cfg(test)]
mod tests {
    use super::super::StateDir;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_backup_is_written_only_over_one_of_the_same_instance() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["state", "other"] {
            let state = StateDir::open(&at(name), None).unwrap();
            state.seal_key().unwrap();
        }
        let refused = |from: &str, to: &str| {
            let done = copy_identity(&at(from), &at(to));
            assert!(
                matches!(done, Err(StateError::NotABackup { .. })),
                "{from} {to} {done:?}"
            );
        };
        assert!(copy_identity(&at("nothing"), &at("backup")).is_err());
        for _ in 0..2 {
            let catalog = copy_identity(&at("state"), &at("backup")).unwrap();
            assert_eq!(catalog, at("backup/catalog.sqlite"));
        }
        for name in ["instance.json", "seal.key"] {
            let path = at("backup").join(name);
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600
            );
            assert_eq!(
                fs::read(&path).unwrap(),
                fs::read(at("state").join(name)).unwrap()
            );
        }
        refused("other", "backup");
        refused("state", "state");
        refused("state", "state/within");
        assert!(!at("state/within").exists());
        refused("state", "other");
        fs::write(at("backup/notes"), "mine").unwrap();
        refused("state", "backup");
    }
}
