//! Whether a tree holds files whose data are not all on disk: without a mount they would read as
//! zeros (P7).
//!
//! The records on the files say so of released ones and of those that a recall works on, which have
//! blocks for all of their data before they have the data. Of a file whose stub is gone, or was
//! overwritten by an older record, only the catalog can say it.

use super::UndoHow;
use super::catalog::{FORCE, Served, WITHOUT};
use crate::cli::CliError;
use crate::error::Failure;
use crate::format::record::{MAX_LEN, Record, State};
use crate::hsm::witness::{Witness, is_bare_file};
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where a record may stand, and the bytes of the seal behind it.
const NAMES: [(&str, usize); 2] = [("trusted.cairn.record", 0), ("user.cairn.record", 32)];
/// How many are named.
const NAMED: usize = 5;

/// Refuses a tree that holds one; users know the tree as `known_as`.
pub(super) fn check(tree: &Path, known_as: &Path, how: UndoHow<'_>) -> Result<(), CliError> {
    let served = if how.without_catalog {
        None
    } else {
        Some(Served::find(tree, how)?)
    };
    let walk = Walk {
        witness: served.as_ref().and_then(|s| s.witness.as_ref().ok()),
        bare: !served.as_ref().is_some_and(Served::is_marked),
    };
    let found = walk.through(tree)?;
    if !found.elsewhere.is_empty() {
        let message = found.elsewhere.told(tree, known_as, "not wholly on disk");
        return Err(CliError::new(Failure::Busy, message).with_hint(
            "without Cairn they would read as zeros: mount the tree (cairn up), bring them back \
             (cairn stage --wait), take it down (cairn down) and undo then",
        ));
    }
    if !found.lost.is_empty() {
        let message = found
            .lost
            .told(tree, known_as, "lost: data released, stub gone");
        return Err(CliError::new(Failure::Busy, message).with_hint(format!(
            "without Cairn they would read as zeros: mount the tree (cairn up), put their data back \
             or remove them (docs/operations.md, \"Lost\"), take it down (cairn down) and undo then; \
             {WITHOUT}, and {FORCE}"
        )));
    }
    let bare = "holes alone, and no catalog says whether data were released";
    match served {
        None => {
            eprintln!(
                "warning: the catalog was not asked: a file that lost its stub reads as zeros now"
            );
            if !found.bare.is_empty() {
                eprintln!("warning: {}", found.bare.told(tree, known_as, bare));
            }
        }
        Some(served) => {
            served.check(found.recorded || how.state.is_some())?;
            if !found.bare.is_empty() {
                let message = found.bare.told(tree, known_as, bare);
                return Err(CliError::new(Failure::Busy, message).with_hint(format!(
                    "the tree does not say who served it (a copy without extended attributes?): if their \
                     owners left them so, {WITHOUT}"
                )));
            }
        }
    }
    Ok(())
}

/// What a walk through the tree found.
#[derive(Default)]
struct Found {
    /// Not wholly on disk, as their records say.
    elsewhere: Files,
    /// Not wholly on disk, as the catalog says.
    lost: Files,
    /// Holes alone, of which nobody can say more.
    bare: Files,
    /// Some file has a record.
    recorded: bool,
}

/// Some files: how many, and the first.
#[derive(Default)]
struct Files {
    count: u64,
    first: Vec<PathBuf>,
}

impl Files {
    fn add(&mut self, path: PathBuf) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(path);
        }
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many are `what`, and which, by the names that users know.
    fn told(&self, tree: &Path, known_as: &Path, what: &str) -> String {
        let name = |path: &PathBuf| {
            let below = path.strip_prefix(tree).unwrap_or(path);
            known_as.join(below).display().to_string()
        };
        let first: Vec<_> = self.first.iter().map(name).collect();
        let more = if self.count > first.len() as u64 {
            ", ..."
        } else {
            ""
        };
        let count = self.count;
        let are = if count == 1 { "file is" } else { "files are" };
        format!("{count} {are} {what}: {}{more}", first.join(", "))
    }
}

/// How to look at a tree.
struct Walk<'a> {
    witness: Option<&'a Witness>,
    /// Also for files of holes that no catalog knows.
    bare: bool,
}

impl Walk<'_> {
    fn through(&self, tree: &Path) -> Result<Found, CliError> {
        let mut directories: Vec<PathBuf> = vec![tree.to_owned()];
        let mut found = Found::default();
        while let Some(directory) = directories.pop() {
            let failed = |error| CliError::system(format!("read {}", directory.display()), &error);
            for entry in fs::read_dir(&directory).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let path = entry.path();
                let kind = entry.file_type().map_err(failed)?;
                if kind.is_dir() {
                    directories.push(path);
                } else if kind.is_file() {
                    self.look(path, &mut found)?;
                }
            }
        }
        Ok(found)
    }

    /// Looks at one regular file.
    fn look(&self, path: PathBuf, found: &mut Found) -> Result<(), CliError> {
        let failed =
            |why| CliError::new(Failure::Internal, why).with_hint(format!("{WITHOUT}; {FORCE}"));
        let record = match says(&path)? {
            Says::Elsewhere => {
                found.recorded = true;
                found.elsewhere.add(path);
                return Ok(());
            }
            Says::Here(record) => Some(record),
            Says::Nothing => None,
        };
        found.recorded |= record.is_some();
        if let Some(witness) = self.witness
            && witness.is_lost(&path, record.as_deref()).map_err(failed)?
        {
            found.lost.add(path);
            return Ok(());
        }
        let bare = self.bare && record.is_none() && is_bare_file(&path).map_err(failed)?;
        let known = match self.witness {
            Some(witness) if bare => witness.knows(&path).map_err(failed)?,
            _ => false,
        };
        if bare && !known {
            found.bare.add(path);
        }
        Ok(())
    }
}

/// What the record on a file says.
enum Says {
    /// There is none.
    Nothing,
    /// All data are here.
    Here(Box<Record>),
    /// They are elsewhere, or may be.
    Elsewhere,
}

/// Of a regular file.
fn says(path: &Path) -> Result<Says, CliError> {
    let failed =
        |why: io::Error| CliError::system(format!("read the record of {}", path.display()), &why);
    for (name, seal) in NAMES {
        let mut bytes = [0; 2 * MAX_LEN];
        let length = match rustix::fs::lgetxattr(path, name, &mut bytes[..]) {
            Ok(length) => length,
            Err(Errno::NODATA | Errno::OPNOTSUPP) => continue,
            // Longer than any record: who knows what it is.
            Err(Errno::RANGE) => return Ok(Says::Elsewhere),
            Err(why) => return Err(failed(why.into())),
        };
        let record = length.checked_sub(seal).and_then(|end| bytes.get(..end));
        return Ok(match record.map(Record::decode) {
            Some(Ok(record)) => match record.state {
                State::Resident => Says::Here(Box::new(record)),
                // Cut to nothing: whoever comes next drops the record.
                State::Released | State::Recalling if size(path).map_err(failed)? == 0 => {
                    Says::Here(Box::new(record))
                }
                State::Released | State::Recalling => Says::Elsewhere,
            },
            // A record that cannot be read here may well be a stub.
            Some(Err(_)) | None => Says::Elsewhere,
        });
    }
    // The kernel shows `trusted.*` to root alone: to others a stub looks like a hole.
    if !rustix::process::geteuid().is_root() && is_all_hole(path).map_err(failed)? {
        return Ok(Says::Elsewhere);
    }
    Ok(Says::Nothing)
}

fn size(path: &Path) -> io::Result<u64> {
    Ok(fs::symlink_metadata(path)?.size())
}

fn is_all_hole(path: &Path) -> io::Result<bool> {
    if size(path)? == 0 {
        return Ok(false);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    match rustix::fs::seek(&file, SeekFrom::Data(0)) {
        Err(Errno::NXIO) => Ok(true),
        done => done.map(|_| false).map_err(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{DataVersion, FileId, FsUuid, NodeHandle, Timestamp};
    use cairn_mover::Crc32c;
    use rustix::fs::{FallocateFlags, XattrFlags, fallocate, setxattr};

    const BY_RECORDS: UndoHow<'static> = UndoHow {
        force: false,
        state: None,
        without_catalog: true,
    };

    /// A file of 64 KiB with blocks for all of it.
    fn file(tree: &Path, name: &str) -> PathBuf {
        let path = tree.join(name);
        let file = fs::File::create_new(&path).unwrap();
        fallocate(&file, FallocateFlags::empty(), 0, 65536).unwrap();
        path
    }

    /// As root, and as a user with a seal behind the record.
    fn record(path: &Path, state: State, sealed: bool) -> bool {
        let record = Record {
            state,
            fs: FsUuid::random(),
            file: FileId::random(),
            version: DataVersion(1),
            crc: Crc32c::EMPTY,
            handle: NodeHandle {
                kind: 1,
                bytes: vec![1; 8],
            },
            size: 65536,
            mtime: Timestamp::default(),
            user_ctime: Timestamp::default(),
            ctime_floor: None,
            blocks_crc: Crc32c::EMPTY,
            copies: Vec::new(),
        };
        let mut bytes = record.encode();
        let (name, seal) = NAMES[usize::from(sealed)];
        bytes.resize(bytes.len() + seal, 7);
        let set = setxattr(path, name, &bytes, XattrFlags::empty());
        if let Err(why) = set {
            eprintln!("SKIPPED records in {name}: {why}");
        }
        set.is_ok()
    }

    #[test]
    fn p7_released_and_half_recalled_files_are_refused_by_their_records() {
        for sealed in [false, true] {
            let top = tempfile::tempdir().unwrap();
            let tree = top.path().join("backing");
            fs::create_dir_all(tree.join("sub")).unwrap();
            let known_as = Path::new("/srv/data");
            file(&tree, "never archived");
            if !record(&file(&tree, "resident"), State::Resident, sealed) {
                continue;
            }
            check(&tree, known_as, BY_RECORDS).unwrap();
            // It has all its blocks, and no data yet.
            record(&file(&tree, "sub/half"), State::Recalling, sealed);
            let refused = check(&tree, known_as, BY_RECORDS).unwrap_err();
            assert_eq!(
                refused.to_string(),
                "1 file is not wholly on disk: /srv/data/sub/half"
            );
            assert!(refused.hint().unwrap().contains("cairn stage --wait"));
            fs::remove_file(tree.join("sub/half")).unwrap();
            for n in 0..7 {
                record(&file(&tree, &format!("stub{n}")), State::Released, sealed);
            }
            let refused = check(&tree, known_as, BY_RECORDS).unwrap_err().to_string();
            assert!(refused.starts_with("7 files are"), "{refused}");
            assert_eq!(refused.matches("/srv/data/stub").count(), NAMED);
            assert!(refused.ends_with(", ..."), "{refused}");
        }
    }

    #[test]
    fn p7_a_record_that_cannot_be_read_counts_as_a_stub() {
        let top = tempfile::tempdir().unwrap();
        let path = file(top.path(), "f");
        for rubbish in [&b"rubbish"[..], &[1; 3 * MAX_LEN]] {
            let name = NAMES[1].0;
            if setxattr(&path, name, rubbish, XattrFlags::empty()).is_err() {
                eprintln!("SKIPPED p7_a_record_that_cannot_be_read: no user attributes here");
                return;
            }
            check(top.path(), top.path(), BY_RECORDS).unwrap_err();
        }
    }
}
