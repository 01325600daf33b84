//! The state directory: what an instance keeps outside the backing directory.
//!
//! ```text
//! STATE/                0711  users pass through to the sockets, and see nothing else
//!   instance.json       0600  format, instance and filesystem identity; written once
//!   lock                0600  held (flock) while an instance lives; names it
//!   catalog.sqlite      0600
//!   seal.key            0600  32 random bytes: the MAC key of records in an unprivileged mount
//!   ballast             0600  given up when the disk is full (P13)
//!   audit.jsonl         0600
//!   catalog.aside       0600  a catalog is being put aside: under which name
//!   library/            0700  the embedded tape library, when no tier was named
//!   archive/            0700  instead of it, where an earlier version made a directory tier
//!   run/                0755  control.sock, handles.sock
//! ```
//!
//! Invariants: one process at a time has it open; a directory written by a newer version is
//! refused before anything in it is touched.

mod copied;

pub use copied::copy_identity;

use crate::hsm::ballast::Ballast;
use crate::id::{FsUuid, InstanceId};
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The mark that a catalog is being put aside.
const ASIDE: &str = "catalog.aside";
/// Version of the directory's layout.
pub const FORMAT: u32 = 1;

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process has it open.
    #[error("{} is in use by {holder}; stop it with `cairn down`, or name another --state", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Host and pid as the holder wrote them.
        holder: String,
    },
    /// Written by a newer Cairn.
    #[error("{} has format {found}, newer than {FORMAT}, the newest this program knows; nothing was touched, run the newer cairn", path.display())]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// `instance.json` does not parse.
    #[error("{} is damaged: {why}; restore it from a backup (docs/operations.md says what else)", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A catalog was being put aside when the power went, or the process.
    #[error("the catalog in {} is being put aside: `cairn rebuild` goes on with that", path.display())]
    Aside {
        /// The directory.
        path: PathBuf,
    },
    /// A backup of a state directory is not written there.
    #[error("no backup is made in {}: {why}", path.display())]
    NotABackup {
        /// Where.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// A system call failed.
    #[error("{step} {}: {source}", path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// What `instance.json` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Identity {
    schema: String,
    format: u32,
    instance: String,
    fs: String,
}

/// An open state directory. Dropping it lets the next process in.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    /// Whose state it is.
    pub instance: InstanceId,
    /// The backing filesystem it belongs to.
    pub fs: FsUuid,
    // Held for its lock.
    _lock: File,
}

fn io_at<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StateError + 'a {
    move |source| StateError::Io {
        step,
        path: path.to_owned(),
        source,
    }
}

impl StateDir {
    /// Opens `path`, creating it if it is not there. `known_fs` is the identity that the backing's
    /// mark carries, if it carries one: a new state directory takes it over.
    ///
    /// # Errors
    /// [`StateError`]; on `Newer` and `InUse` nothing was written.
    pub fn open(path: &Path, known_fs: Option<FsUuid>) -> Result<Self, StateError> {
        if let Some(found) = read_identity(path)?
            && found.format > FORMAT
        {
            return Err(StateError::Newer {
                path: path.to_owned(),
                found: found.format,
            });
        }
        make_dir(path, 0o711)?;
        let lock = take_lock(path)?;
        make_dir(&path.join("run"), 0o755)?;
        let identity = match read_identity(path)? {
            Some(found) => found,
            None => write_identity(path, known_fs.unwrap_or_else(FsUuid::random))?,
        };
        // Users may pass through this directory: what holds their names must not be theirs to read.
        // SQLite gives the log beside it the same mode.
        let in_place = !path.join(ASIDE).exists();
        for name in ["catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"] {
            keep_private(&path.join(name), in_place && name == "catalog.sqlite")?;
        }
        let damaged = |why: String| StateError::Damaged {
            path: path.join("instance.json"),
            why,
        };
        Ok(Self {
            instance: identity
                .instance
                .parse()
                .map_err(|e| damaged(format!("{e}")))?,
            fs: identity.fs.parse().map_err(|e| damaged(format!("{e}")))?,
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// The catalog's file.
    #[must_use]
    pub fn catalog(&self) -> PathBuf {
        catalog_in(&self.path)
    }
    /// Indexes of aggregates.
    #[must_use]
    pub fn indexes(&self) -> PathBuf {
        self.path.join("indexes")
    }
    /// Where the sockets lie.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.path.join("run")
    }
    /// The audit log.
    #[must_use]
    pub fn audit(&self) -> PathBuf {
        self.path.join("audit.jsonl")
    }

    /// The key that seals records where `trusted.*` is not to be had; made at the first call and
    /// durable when this returns.
    ///
    /// # Errors
    /// [`StateError::Io`], or `Damaged` if the key has another length than 32 bytes.
    pub fn seal_key(&self) -> Result<[u8; 32], StateError> {
        let path = self.path.join("seal.key");
        if !path.exists() {
            let (a, b) = (FsUuid::random(), FsUuid::random());
            let mut key = [0_u8; 32];
            key[..16].copy_from_slice(&a.0);
            key[16..].copy_from_slice(&b.0);
            write_durably(&self.path, "seal.key", &key)?;
        }
        let mut bytes = Vec::new();
        File::open(&path)
            .and_then(|f| f.take(33).read_to_end(&mut bytes))
            .map_err(io_at("reading", &path))?;
        bytes.try_into().map_err(|_| StateError::Damaged {
            path,
            why: "the key must be 32 bytes".into(),
        })
    }

    /// Refuses a catalog that is half put aside.
    ///
    /// # Errors
    /// [`StateError::Aside`].
    pub fn check_catalog_in_place(&self) -> Result<(), StateError> {
        if self.path.join(ASIDE).exists() {
            let path = self.path.clone();
            return Err(StateError::Aside { path });
        }
        Ok(())
    }

    /// Puts the catalog aside, with its log, under a name that ends in `stamp`; nothing is deleted. A
    /// crash in between leaves a mark, so that it is gone on with and nobody opens half of it. Durable.
    /// Its place; also of one that a crash kept from being put there.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn put_catalog_aside(&self, stamp: &str) -> Result<PathBuf, StateError> {
        let mark = self.path.join(ASIDE);
        let name = match fs::read_to_string(&mark) {
            Ok(name) => name,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut name = format!("catalog.sqlite.aside-{stamp}");
                let mut n = 1;
                while self.path.join(&name).exists() {
                    n += 1;
                    name = format!("catalog.sqlite.aside-{stamp}.{n}");
                }
                write_durably(&self.path, ASIDE, name.as_bytes())?;
                name
            }
            Err(e) => return Err(io_at("reading", &mark)(e)),
        };
        let place = self.path.join(&name);
        // The log without its database is what SQLite must not find beside a new one.
        for ending in ["", "-journal", "-wal", "-shm"] {
            let from = self.path.join(format!("catalog.sqlite{ending}"));
            let to = self.path.join(format!("{name}{ending}"));
            match fs::rename(&from, &to) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(io_at("putting aside", &from)(e));
                }
                _ => {}
            }
        }
        sync_directory(&self.path)?;
        fs::remove_file(&mark).map_err(io_at("removing", &mark))?;
        sync_directory(&self.path)?;
        // As at opening: users pass through this directory.
        keep_private(&self.catalog(), true)?;
        Ok(place)
    }

    /// The `len` bytes that are kept in reserve here (P13).
    #[must_use]
    pub fn ballast(&self, len: u64) -> Ballast {
        Ballast::named(self.path.join("ballast"), len)
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<(), StateError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(io_at("creating", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(io_at("setting the mode of", path))
}

/// Mode 0600 for a file; `make`: also if it is not there yet.
fn keep_private(path: &Path, make: bool) -> Result<(), StateError> {
    let opened = File::options()
        .append(true)
        .create(make)
        .mode(0o600)
        .open(path);
    match opened {
        Err(e) if !make && e.kind() == io::ErrorKind::NotFound => Ok(()),
        opened => opened
            .and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o600)))
            .map_err(io_at("setting the mode of", path)),
    }
}

fn take_lock(dir: &Path) -> Result<File, StateError> {
    let path = dir.join("lock");
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(io_at("opening", &path))?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        // A holder that has not yet written its name is still a holder.
        let _ = file.read_to_string(&mut holder);
        let holder = if holder.is_empty() {
            "another process".to_owned()
        } else {
            holder
        };
        return Err(StateError::InUse {
            path: dir.to_owned(),
            holder,
        });
    }
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let line = format!("host {host} pid {}", std::process::id());
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(line.as_bytes()))
        .map_err(io_at("writing", &path))?;
    Ok(file)
}

/// Whose state a directory holds, without opening it; `None`: none.
///
/// # Errors
/// [`StateError`]: it cannot be read, or a newer Cairn wrote it.
pub fn owner(path: &Path) -> Result<Option<InstanceId>, StateError> {
    let Some(found) = read_identity(path)? else {
        return Ok(None);
    };
    if found.format > FORMAT {
        return Err(StateError::Newer {
            path: path.to_owned(),
            found: found.format,
        });
    }
    let instance = found.instance.parse();
    instance.map(Some).map_err(|why| StateError::Damaged {
        path: path.join("instance.json"),
        why: format!("{why}"),
    })
}

/// The catalog's file in a state directory.
#[must_use]
pub fn catalog_in(path: &Path) -> PathBuf {
    path.join("catalog.sqlite")
}

fn read_identity(dir: &Path) -> Result<Option<Identity>, StateError> {
    let path = dir.join("instance.json");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_at("reading", &path)(e)),
    };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|e| StateError::Damaged {
            path,
            why: e.to_string(),
        })
}

fn write_identity(dir: &Path, fs: FsUuid) -> Result<Identity, StateError> {
    let identity = Identity {
        schema: "cairn.instance.v1".into(),
        format: FORMAT,
        instance: InstanceId::random().to_string(),
        fs: fs.to_string(),
    };
    let path = dir.join("instance.json");
    let text = serde_json::to_string_pretty(&identity).map_err(|e| StateError::Damaged {
        path,
        why: e.to_string(),
    })?;
    write_durably(dir, "instance.json", text.as_bytes())?;
    Ok(identity)
}

/// Writes a whole file so that it is either absent or complete, also after power loss.
fn write_durably(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), StateError> {
    let (path, fresh) = (dir.join(name), dir.join(format!("{name}.new")));
    let mut file = File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(io_at("creating", &fresh))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(io_at("writing", &fresh))?;
    fs::rename(&fresh, &path).map_err(io_at("renaming to", &path))?;
    sync_directory(dir)
}

fn sync_directory(dir: &Path) -> Result<(), StateError> {
    let handle = rustix::fs::open(dir, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
        .map_err(|e| io_at("opening", dir)(e.into()))?;
    rustix::fs::fsync(&handle).map_err(|e| io_at("syncing", dir)(e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_opener_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path(), None).unwrap();
        let Err(StateError::InUse { holder, .. }) = StateDir::open(dir.path(), None) else {
            panic!("let in");
        };
        assert!(
            holder.contains(&format!("pid {}", std::process::id())),
            "{holder}"
        );
        let (instance, fs, key) = (first.instance, first.fs, first.seal_key().unwrap());
        drop(first);
        let again = StateDir::open(dir.path(), Some(FsUuid::random())).unwrap();
        assert_eq!(
            (again.instance, again.fs, again.seal_key().unwrap()),
            (instance, fs, key)
        );
    }

    #[test]
    fn users_cannot_read_what_holds_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("catalog.sqlite-wal");
        fs::write(&log, "").unwrap();
        fs::set_permissions(&log, fs::Permissions::from_mode(0o644)).unwrap();
        let state = StateDir::open(dir.path(), None).unwrap();
        for path in [state.catalog(), log] {
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", path.display());
        }
    }

    #[test]
    fn a_catalog_is_put_aside_whole_also_after_a_crash_in_between() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path(), None).unwrap();
        let at = |name: &str| dir.path().join(name);
        let read = |name: &str| fs::read_to_string(at(name)).unwrap();
        fs::write(at("catalog.sqlite"), "database").unwrap();
        fs::write(at("catalog.sqlite-wal"), "log").unwrap();
        let first = state.put_catalog_aside("T").unwrap();
        assert_eq!(first, at("catalog.sqlite.aside-T"));
        assert_eq!(read("catalog.sqlite.aside-T"), "database");
        assert_eq!(read("catalog.sqlite.aside-T-wal"), "log");
        assert!(!at("catalog.sqlite-wal").exists());
        assert_eq!(read("catalog.sqlite"), "");
        // A second one at the same time, cut short behind its first rename.
        fs::write(at("catalog.sqlite-wal"), "log 2").unwrap();
        fs::write(at("catalog.aside"), "catalog.sqlite.aside-T.2").unwrap();
        fs::write(at("catalog.sqlite.aside-T.2"), "database 2").unwrap();
        fs::remove_file(at("catalog.sqlite")).unwrap();
        assert!(matches!(
            state.check_catalog_in_place(),
            Err(StateError::Aside { .. })
        ));
        let again = state.put_catalog_aside("U").unwrap();
        assert_eq!(again, at("catalog.sqlite.aside-T.2"));
        assert_eq!(read("catalog.sqlite.aside-T.2"), "database 2");
        assert_eq!(read("catalog.sqlite.aside-T.2-wal"), "log 2");
        state.check_catalog_in_place().unwrap();
        assert_eq!(read("catalog.sqlite.aside-T"), "database", "kept");
    }

    #[test]
    fn a_newer_directory_is_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"schema":"cairn.instance.v2","format":2,"instance":"?","fs":"?"}"#;
        fs::write(dir.path().join("instance.json"), text).unwrap();
        assert!(matches!(
            StateDir::open(dir.path(), None),
            Err(StateError::Newer { found: 2, .. })
        ));
        let names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["instance.json"]);
    }
}
