//! Who holds a busy mount, as far as the caller may see: from /proc, reading links only, so that
//! nothing is asked of the mount itself (its server may be dead).

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Most holders that are named.
const MAX_HOLDERS: usize = 20;

/// A process with something on the mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// Its command's name.
    pub command: String,
    /// What it has there: `working directory`, `open file`, ...
    pub by: &'static str,
    /// The path.
    pub path: PathBuf,
}

/// Processes that hold something below `mount` (an absolute path without links), one entry each.
#[must_use]
pub fn of(mount: &Path) -> Vec<Holder> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = processes
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| holder(pid, mount))
        .take(MAX_HOLDERS)
        .collect()
}

fn holder(pid: u32, mount: &Path) -> Option<Holder> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let held = |link: PathBuf| fs::read_link(link).ok().filter(|to| to.starts_with(mount));
    let (by, path) = held(process.join("cwd"))
        .map(|path| ("working directory", path))
        .or_else(|| held(process.join("root")).map(|path| ("root directory", path)))
        .or_else(|| held(process.join("exe")).map(|path| ("program", path)))
        .or_else(|| Some(("open file", open_file(&process, mount)?)))
        .or_else(|| Some(("mapping", mapping(&process, mount)?)))?;
    let command = fs::read(process.join("comm")).unwrap_or_default();
    let command = String::from_utf8_lossy(command.trim_ascii()).into_owned();
    Some(Holder {
        pid,
        command,
        by,
        path,
    })
}

fn open_file(process: &Path, mount: &Path) -> Option<PathBuf> {
    let descriptors = fs::read_dir(process.join("fd")).ok()?;
    descriptors
        .filter_map(Result::ok)
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .find(|to| to.starts_with(mount))
}

fn mapping(process: &Path, mount: &Path) -> Option<PathBuf> {
    let maps = fs::read(process.join("maps")).ok()?;
    let path_of = |line: &[u8]| {
        let start = line.iter().position(|b| *b == b'/')?;
        line.get(start..)
            .map(|path| PathBuf::from(OsStr::from_bytes(path)))
    };
    maps.split(|b| *b == b'\n')
        .filter_map(path_of)
        .find(|path| path.starts_with(mount))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        assert_eq!(of(&root), []);
        let _open = fs::File::create(root.join("held")).unwrap();
        let found = of(&root);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].pid, found[0].by),
            (std::process::id(), "open file")
        );
        assert_eq!(found[0].path, root.join("held"));
    }
}
