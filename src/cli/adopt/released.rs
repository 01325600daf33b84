//! Whether a tree holds released files: without a mount they would read as zeros (P7).

use crate::cli::CliError;
use crate::error::Failure;
use crate::format::record::{MAX_LEN, Record, State};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Names under which a record may stand.
const NAMES: [&str; 2] = ["trusted.cairn.record", "user.cairn.record"];

/// Refuses a tree that holds one.
pub(super) fn check(tree: &Path) -> Result<(), CliError> {
    let mut directories: Vec<PathBuf> = vec![tree.to_owned()];
    while let Some(directory) = directories.pop() {
        let failed = |error| CliError::system(format!("read {}", directory.display()), &error);
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                directories.push(path);
            } else if kind.is_file() && is_released(&path, &entry.metadata().map_err(failed)?) {
                let message = format!("{} is released", path.display());
                return Err(CliError::new(Failure::Busy, message).with_hint(
                    "without Cairn it would read as zeros: mount, `cairn stage --wait` the tree, \
                     and undo then",
                ));
            }
        }
    }
    Ok(())
}

fn is_released(path: &Path, found: &Metadata) -> bool {
    // A file whose data are all there, or that is empty, is no stub.
    if found.len() == 0 || found.blocks().saturating_mul(512) >= found.len() {
        return false;
    }
    let mut bytes = [0; 2 * MAX_LEN];
    let read = |name: &str| rustix::fs::lgetxattr(path, name, &mut bytes[..]).ok();
    let Some(length) = NAMES.into_iter().find_map(read) else {
        return false;
    };
    match bytes.get(..length).map(Record::decode) {
        Some(Ok(record)) => match record.state {
            State::Resident => false,
            State::Released | State::Recalling => true,
        },
        // A record that cannot be read here may well be a stub.
        Some(Err(_)) | None => true,
    }
}
