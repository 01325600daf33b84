//! Which real files of this machine the demo uses.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Whole files and directories to copy, and what they hold.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// Absolute paths; directories are taken whole.
    pub(super) paths: Vec<PathBuf>,
    /// Regular files in all.
    pub(super) files: u64,
    /// Their bytes.
    pub(super) bytes: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Content {
    files: u64,
    bytes: u64,
}

/// Picks about `budget` bytes below `from`, or below the places that a machine with Rust has.
pub(super) fn choose(from: Option<&Path>, budget: u64) -> Sources {
    let mut chosen = Sources::default();
    match from {
        Some(dir) => take(dir, budget, &mut chosen),
        None => {
            for place in usual_places() {
                take(&place, budget, &mut chosen);
            }
        }
    }
    chosen
}

fn usual_places() -> Vec<PathBuf> {
    let toolchain = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .ok();
    let toolchain = toolchain
        .filter(|o| o.status.success())
        .map(|o| PathBuf::from(String::from_utf8_lossy(&o.stdout).trim().to_owned()));
    // Many small files first, then the toolchain's large libraries.
    [
        "/usr/share/zoneinfo",
        "/usr/share/perl",
        "/usr/share/doc",
        "/usr/include",
    ]
    .into_iter()
    .map(PathBuf::from)
    .chain(toolchain)
    .chain(["/usr/share", "/usr/lib"].into_iter().map(PathBuf::from))
    .filter_map(|p| p.canonicalize().ok())
    .collect()
}

/// Takes `at` whole if it fits into what is left of the budget, else what fits of its entries.
fn take(at: &Path, budget: u64, chosen: &mut Sources) {
    let left = budget.saturating_sub(chosen.bytes);
    let already = chosen.paths.iter().any(|p| at.starts_with(p));
    if left == 0 || already {
        return;
    }
    let overlaps = chosen.paths.iter().any(|p| p.starts_with(at));
    if !overlaps && let Some(content) = measure(at, left) {
        if content.files > 0 {
            chosen.paths.push(at.to_owned());
            chosen.files += content.files;
            chosen.bytes += content.bytes;
        }
        return;
    }
    for entry in sorted(at) {
        take(&entry, budget, chosen);
    }
}

fn sorted(dir: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(dir)
        .map(|d| d.flatten().map(|e| e.path()).collect())
        .unwrap_or_default();
    entries.sort();
    entries
}

/// What lies at and below `at`; `None` as soon as it is more than `limit` bytes or something in it
/// cannot be read.
fn measure(at: &Path, limit: u64) -> Option<Content> {
    let meta = fs::symlink_metadata(at).ok()?;
    let mut sum = Content::default();
    if meta.is_file() {
        fs::File::open(at).ok()?;
        sum = Content {
            files: 1,
            bytes: meta.size(),
        };
    } else if meta.is_dir() {
        for entry in fs::read_dir(at).ok()? {
            let below = measure(&entry.ok()?.path(), limit.checked_sub(sum.bytes)?)?;
            sum.files += below.files;
            sum.bytes += below.bytes;
        }
    } else if !meta.is_symlink() {
        return None;
    }
    (sum.bytes <= limit).then_some(sum)
}
