//! Archives, releases, stages and verifications, asked for as a user does, while files change.

use crate::random::Random;
use crate::rig::program;
use crate::tally::Tally;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// Causes for which a file may fail here: it changes, it goes, it is too small, it is in use, or
/// the stop cut in. Everything else is a finding.
const EXPECTED: &[&str] = &[
    "busy",
    "changed",
    "not-found",
    "cancelled",
    "interrupted",
    "no-instance",
    "not-a-file",
    // Smaller than what is released.
    "usage",
];

pub(crate) struct Traffic {
    pub(crate) socket: PathBuf,
    pub(crate) dirs: Vec<PathBuf>,
    pub(crate) random: Random,
    pub(crate) tally: Tally,
}

impl Traffic {
    /// Asks until told to stop.
    ///
    /// # Errors
    /// An answer that no user may get.
    pub(crate) fn work(&mut self, stop: &AtomicBool) -> Result<()> {
        while !stop.load(Ordering::SeqCst) {
            let verb = match self.random.below(100) {
                0..30 => "archive",
                30..75 => "release",
                75..90 => "stage",
                _ => "verify",
            };
            let paths = self.subjects();
            // What is to be released is archived first, or few would be.
            if verb == "release" {
                self.ask("archive", true, &paths, stop)?;
            }
            let wait = self.random.chance(75);
            self.ask(verb, wait, &paths, stop)?;
        }
        Ok(())
    }

    fn ask(&mut self, verb: &str, wait: bool, paths: &[PathBuf], stop: &AtomicBool) -> Result<()> {
        let output = Command::new(program())
            .arg(verb)
            .args(wait.then_some("--wait"))
            .args(["--json", "-q", "--"])
            .args(paths)
            .env("CAIRN_SOCKET", &self.socket)
            .stdin(Stdio::null())
            .output()?;
        if stop.load(Ordering::SeqCst) {
            return Ok(());
        }
        let code = output.status.code().context("an exit code")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            code <= 2,
            "{verb} {paths:?} ended with {code}:\n{text}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        if wait {
            *self.tally.done.entry(verb.to_owned()).or_default() += 1;
        }
        let found: Vec<_> = text.lines().map(|line| self.judge(verb, line)).collect();
        found.into_iter().collect()
    }

    fn judge(&mut self, verb: &str, line: &str) -> Result<()> {
        let value: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let listed = value["problems"].as_array().cloned().unwrap_or_default();
        for problem in listed.iter().chain([&value]) {
            let Some(code) = problem["code"].as_str() else {
                continue;
            };
            // A file that changed since it was archived has no copy of what it is now.
            let message = problem["message"].as_str().unwrap_or_default();
            let unarchived = (verb == "release" && message.starts_with("not archived yet"))
                || (verb == "verify"
                    && ["it has no copy there", "never archived"].contains(&message));
            ensure!(unarchived || EXPECTED.contains(&code), "{verb}: {line}");
            *self
                .tally
                .failures
                .entry(format!("{verb} {code}"))
                .or_default() += 1;
        }
        Ok(())
    }

    /// A directory, or some files of it.
    fn subjects(&mut self) -> Vec<PathBuf> {
        let dir = self.dirs[self.random.below(self.dirs.len() as u64) as usize].clone();
        if self.random.chance(40) {
            return vec![dir];
        }
        let mut files = files_of(&dir);
        let many = 1 + self.random.below(4) as usize;
        while files.len() > many {
            files.swap_remove(self.random.below(files.len() as u64) as usize);
        }
        if files.is_empty() { vec![dir] } else { files }
    }
}

fn files_of(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut files: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    files.sort();
    files
}
