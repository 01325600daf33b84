//! The reference of one directory: what each name must hold after a stop, and what it may.
//!
//! Two promises are held apart. After a kill -9 everything that was answered stands. After a
//! power loss everything stands that was synced: the file (its content) and the directory (its
//! name). What was under way at the stop may have happened or not.

use anyhow::{Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(crate) type Content = Arc<Vec<u8>>;

/// How the instance was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Kill,
    Power,
}

/// What was answered about one name.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) content: Content,
    /// As seen after an fsync; `None` while it may still change.
    pub(crate) mtime: Option<(i64, i64)>,
    pub(crate) data_synced: bool,
    pub(crate) name_synced: bool,
}

/// What was asked and not yet answered.
#[derive(Debug, Clone)]
pub(crate) enum Pending {
    /// The content is being changed.
    Write { name: String },
    /// `from` is becoming `to`, which may exist.
    Rename { from: String, to: String },
    /// The name is going.
    Unlink { name: String },
}

/// What is found of one name after a stop.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) content: Vec<u8>,
    pub(crate) mtime: (i64, i64),
}

/// One directory, changed by one thread.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) files: BTreeMap<String, Entry>,
    pub(crate) pending: Option<Pending>,
    /// Names that went, or changed hands, and whose directory was not synced since: after a power
    /// loss they may be back.
    pub(crate) ghosts: BTreeSet<String>,
}

impl Model {
    /// The directory was synced.
    pub(crate) fn directory_synced(&mut self) {
        self.ghosts.clear();
        self.files.values_mut().for_each(|e| e.name_synced = true);
    }

    /// Compares with what is there. Number of names held to their reference, and in doubt.
    pub(crate) fn check(&self, stop: Stop, found: &BTreeMap<String, Found>) -> Result<(u64, u64)> {
        let (mut checked, mut doubtful) = (0, 0);
        let open = self.open_names();
        for (name, entry) in self
            .files
            .iter()
            .filter(|(n, _)| !open.contains(n.as_str()))
        {
            let strict = stop == Stop::Kill || (entry.data_synced && entry.name_synced);
            match found.get(name) {
                Some(there) if strict => {
                    same(name, entry, there)?;
                    checked += 1;
                }
                None if strict => bail!("{name} was synced, and is gone"),
                None if entry.name_synced && !self.ghosts.contains(name) => {
                    bail!("{name} had a durable name, and is gone")
                }
                Some(_) | None => doubtful += 1,
            }
        }
        self.check_pending(stop, found)?;
        for name in found.keys().filter(|n| !self.files.contains_key(*n)) {
            let explained =
                open.contains(name.as_str()) || (stop == Stop::Power && self.ghosts.contains(name));
            ensure!(explained, "{name} appeared, though it was gone");
        }
        Ok((checked, doubtful + open.len() as u64))
    }

    fn open_names(&self) -> BTreeSet<&str> {
        match &self.pending {
            None => BTreeSet::new(),
            Some(Pending::Write { name } | Pending::Unlink { name }) => [name.as_str()].into(),
            Some(Pending::Rename { from, to }) => [from.as_str(), to.as_str()].into(),
        }
    }

    fn check_pending(&self, stop: Stop, found: &BTreeMap<String, Found>) -> Result<()> {
        let synced = |e: &&Entry| stop == Stop::Kill || (e.data_synced && e.name_synced);
        match &self.pending {
            None => Ok(()),
            Some(Pending::Write { name }) => {
                let stands = self
                    .files
                    .get(name)
                    .is_some_and(|e| stop == Stop::Kill || e.name_synced);
                ensure!(
                    !stands || found.contains_key(name),
                    "{name} was written to, and is gone"
                );
                Ok(())
            }
            Some(Pending::Unlink { name }) => {
                match (self.files.get(name).filter(synced), found.get(name)) {
                    (Some(entry), Some(there)) => same(name, entry, there),
                    _ => Ok(()),
                }
            }
            Some(Pending::Rename { from, to }) => {
                let Some(moved) = self.files.get(from).filter(synced) else {
                    return Ok(());
                };
                match (found.get(from), found.get(to)) {
                    (Some(there), other) => {
                        same(from, moved, there)?;
                        match (self.files.get(to).filter(synced), other) {
                            (Some(old), Some(there)) => same(to, old, there),
                            (Some(_), None) => bail!("{to} is gone before {from} took its place"),
                            (None, _) => Ok(()),
                        }
                    }
                    (None, Some(there)) => same(to, moved, there),
                    (None, None) => bail!("{from} was being renamed to {to}, and neither is there"),
                }
            }
        }
    }
}

fn same(name: &str, entry: &Entry, there: &Found) -> Result<()> {
    let (want, have) = (&entry.content, &there.content);
    ensure!(
        want.len() == have.len(),
        "{name}: {} bytes, not {}",
        have.len(),
        want.len()
    );
    if let Some(at) = want.iter().zip(have.iter()).position(|(a, b)| a != b) {
        let differ = want.iter().zip(have.iter()).filter(|(a, b)| a != b).count();
        let zeros = have[at..].iter().take_while(|b| **b == 0).count();
        bail!(
            "{name}: {differ} of {} bytes differ, the first at {at}, where {zeros} zeros stand",
            want.len()
        );
    }
    if let Some(mtime) = entry.mtime {
        ensure!(
            mtime == there.mtime,
            "{name}: mtime {:?}, not {mtime:?}",
            there.mtime
        );
    }
    Ok(())
}
