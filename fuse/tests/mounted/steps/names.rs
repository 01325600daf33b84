//! Names come, go and move, also under files that are open.

use super::{DIRS, Outcome, Step, all_of, look_of};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

#[derive(Debug, Clone, Copy)]
pub(super) enum NameAct {
    Rename,
    RenameToNew,
    Exchange,
    RenameOverOpen,
    Unlink,
    UnlinkOpen,
    Link,
    Symlink,
    ReadLink,
    MakeDir,
    RemoveDir,
    List,
}

impl NameAct {
    pub(super) const ALL: &[Self] = &[
        Self::Rename,
        Self::RenameToNew,
        Self::Exchange,
        Self::RenameOverOpen,
        Self::Unlink,
        Self::UnlinkOpen,
        Self::Link,
        Self::Symlink,
        Self::ReadLink,
        Self::MakeDir,
        Self::RemoveDir,
        Self::List,
    ];

    pub(super) fn run(self, step: &Step, root: &Path) -> Outcome {
        let (path, other) = (root.join(&step.name), root.join(&step.other));
        match self {
            Self::Rename => fs::rename(path, other)?,
            Self::RenameToNew => renameat_with(CWD, path, CWD, other, RenameFlags::NOREPLACE)?,
            Self::Exchange => renameat_with(CWD, path, CWD, other, RenameFlags::EXCHANGE)?,
            Self::RenameOverOpen => {
                let file = File::options().read(true).write(true).open(&other)?;
                fs::rename(path, &other)?;
                return used_without_name(step, &file);
            }
            Self::Unlink => fs::remove_file(path)?,
            Self::UnlinkOpen => {
                let file = File::options().read(true).append(true).open(&path)?;
                fs::remove_file(path)?;
                return used_without_name(step, &file);
            }
            Self::Link => fs::hard_link(path, other)?,
            Self::Symlink => std::os::unix::fs::symlink(Path::new("..").join(&step.other), path)?,
            Self::ReadLink => {
                let to_itself = File::options()
                    .read(true)
                    .custom_flags(libc::O_NOFOLLOW)
                    .open(&path);
                let refused = to_itself.err().and_then(|e| e.raw_os_error());
                let target = fs::read_link(path)?;
                return Ok(format!("{target:?} {refused:?}").into());
            }
            Self::MakeDir => fs::create_dir(path)?,
            Self::RemoveDir => fs::remove_dir(path)?,
            Self::List => return listed(step, root),
        }
        Ok(Vec::new())
    }
}

/// A file that may have no name any more is a file like any other to who has it open.
fn used_without_name(step: &Step, mut file: &File) -> Outcome {
    match step.variant % 3 {
        0 => file.write_all(&step.data)?,
        1 => file.write_all_at(&step.data, step.offset)?,
        _ => file.set_len(step.offset)?,
    }
    let mut seen = all_of(file)?;
    seen.extend(file.metadata()?.nlink().to_le_bytes());
    Ok(seen)
}

/// The group's names in a directory in which others' come and go; or all below one of its own.
fn listed(step: &Step, root: &Path) -> Outcome {
    let own = root.join(&step.name);
    let whole = step.variant.is_multiple_of(2);
    let dir = match whole {
        true => own,
        false => root.join(format!("d{}", step.variant % DIRS)),
    };
    let mine = format!("g{}n", step.names.group);
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if whole || name.as_encoded_bytes().starts_with(mine.as_bytes()) {
            let kind = entry.file_type()?.is_dir();
            let look = look_of(&entry.metadata()?);
            seen.push(format!("{name:?} {kind} {look}\n").into());
        }
    }
    seen.sort();
    Ok(seen.concat())
}
