//! The rules, one file each, over the text of all Rust files.

pub(crate) mod home;
pub(crate) mod length;
pub(crate) mod level;
pub(crate) mod words;

use std::fs;
use std::path::Path;

/// One Rust file: its path from the repository's root, and its text.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    /// Lines that are code, with their numbers from 1: comments and what follows `#[cfg(test)]` are left out.
    pub(crate) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .take_while(|(_, l)| l.trim() != "#[cfg(test)]")
            .map(|(n, l)| (n + 1, l))
            .filter(|(_, l)| !l.trim_start().starts_with("//"))
    }

    /// Is it a test file?
    pub(crate) fn is_test(&self) -> bool {
        self.path.starts_with("tests/")
            || self.path.contains("/tests/")
            || self.path.ends_with("/tests.rs")
            || self.path.ends_with("_tests.rs")
    }
}

pub(crate) fn collect(root: &Path, at: &Path, found: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(at) else {
        return;
    };
    for entry in entries.map(|e| e.expect("readable directory entry")) {
        let path = entry.path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let shown = path
                .strip_prefix(root)
                .expect("below the root")
                .display()
                .to_string();
            found.push(Source {
                path: shown,
                text: fs::read_to_string(&path).expect("UTF-8 source"),
            });
        }
    }
}
