//! Who keeps a mount busy: processes with a working directory, root or open file in it.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Most processes that are named.
const MOST: usize = 8;

/// `name (pid N)` of processes that hold the mount, as far as this process may see.
#[must_use]
pub(crate) fn of(mount: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        if !name.as_bytes().iter().all(u8::is_ascii_digit) || found.len() >= MOST {
            continue;
        }
        let process = entry.path();
        let holds = ["cwd", "root", "exe"]
            .iter()
            .any(|what| points_into(&process.join(what), mount))
            || fs::read_dir(process.join("fd"))
                .into_iter()
                .flatten()
                .flatten()
                .any(|fd| points_into(&fd.path(), mount));
        if holds {
            let command = fs::read_to_string(process.join("comm")).unwrap_or_default();
            found.push(format!(
                "{} (pid {})",
                command.trim(),
                name.to_string_lossy()
            ));
        }
    }
    found
}

fn points_into(link: &Path, mount: &Path) -> bool {
    fs::read_link(link).is_ok_and(|target| target.starts_with(mount))
}
