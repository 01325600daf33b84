//! Whether a tree holds files whose data are not all on disk: without a mount they would read as
//! zeros (P7).
//!
//! The records on the files say so, and nothing else does: a catalog may be lost, and a file that a
//! recall works on has blocks for all of its data before it has the data.

use crate::cli::CliError;
use crate::error::Failure;
use crate::format::record::{MAX_LEN, Record, State};
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
pub(super) fn check(tree: &Path, known_as: &Path) -> Result<(), CliError> {
    let mut directories: Vec<PathBuf> = vec![tree.to_owned()];
    let (mut named, mut count) = (Vec::new(), 0_u64);
    while let Some(directory) = directories.pop() {
        let failed = |error| CliError::system(format!("read {}", directory.display()), &error);
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                directories.push(path);
            } else if kind.is_file() && is_elsewhere(&path)? {
                count += 1;
                if named.len() < NAMED {
                    let below = path.strip_prefix(tree).unwrap_or(&path);
                    named.push(known_as.join(below).display().to_string());
                }
            }
        }
    }
    if count == 0 {
        return Ok(());
    }
    let more = if count > named.len() as u64 {
        ", ..."
    } else {
        ""
    };
    let message = format!(
        "{count} {} not wholly on disk: {}{more}",
        if count == 1 { "file is" } else { "files are" },
        named.join(", ")
    );
    Err(CliError::new(Failure::Busy, message).with_hint(
        "without Cairn they would read as zeros: mount the tree (cairn up), bring them back \
         (cairn stage --wait), take it down (cairn down) and undo then",
    ))
}

/// Are data of this regular file elsewhere, or may they be?
fn is_elsewhere(path: &Path) -> Result<bool, CliError> {
    let failed =
        |why: io::Error| CliError::system(format!("read the record of {}", path.display()), &why);
    for (name, seal) in NAMES {
        let mut bytes = [0; 2 * MAX_LEN];
        let length = match rustix::fs::lgetxattr(path, name, &mut bytes[..]) {
            Ok(length) => length,
            Err(Errno::NODATA | Errno::OPNOTSUPP) => continue,
            // Longer than any record: who knows what it is.
            Err(Errno::RANGE) => return Ok(true),
            Err(why) => return Err(failed(why.into())),
        };
        let record = length.checked_sub(seal).and_then(|end| bytes.get(..end));
        return Ok(match record.map(Record::decode) {
            Some(Ok(record)) => match record.state {
                State::Resident => false,
                // Cut to nothing: whoever comes next drops the record.
                State::Released | State::Recalling => size(path).map_err(failed)? > 0,
            },
            // A record that cannot be read here may well be a stub.
            Some(Err(_)) | None => true,
        });
    }
    // The kernel shows `trusted.*` to root alone: to others a stub looks like a hole.
    if rustix::process::geteuid().is_root() {
        return Ok(false);
    }
    is_all_hole(path).map_err(failed)
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
            check(&tree, known_as).unwrap();
            // It has all its blocks, and no data yet.
            record(&file(&tree, "sub/half"), State::Recalling, sealed);
            let refused = check(&tree, known_as).unwrap_err();
            assert_eq!(
                refused.to_string(),
                "1 file is not wholly on disk: /srv/data/sub/half"
            );
            assert!(refused.hint().unwrap().contains("cairn stage --wait"));
            fs::remove_file(tree.join("sub/half")).unwrap();
            for n in 0..7 {
                record(&file(&tree, &format!("stub{n}")), State::Released, sealed);
            }
            let refused = check(&tree, known_as).unwrap_err().to_string();
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
            check(top.path(), top.path()).unwrap_err();
        }
    }
}
