//! Facts about the whole instance, for status.

use super::{Engine, EngineError};
use crate::catalog::Snapshot;

/// What only the running process knows.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    /// Files that are being recalled, or wait for it.
    pub recalls: u64,
    /// Recalls since the start: all of them, and those that a reader waited for.
    pub begun: (u64, u64),
    /// Events of the mount that are not yet applied.
    pub changelog_lag: u64,
    /// How long ago the oldest of them happened.
    pub changelog_age: Option<std::time::Duration>,
    /// Opens for writing that wait for room on the backing (P13); `None`: they need not.
    pub held_opens: Option<usize>,
}

impl Engine {
    /// The catalog's counters.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn snapshot(&self) -> Result<Snapshot, EngineError> {
        Ok(self.shared.catalog.status(self.shared.copies_asked())?)
    }

    /// What is in flight.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let shared = &self.shared;
        let applying = shared.applying.load(std::sync::atomic::Ordering::Relaxed);
        Counts {
            recalls: shared.recaller().map_or(0, |r| r.running() as u64),
            begun: shared.recaller().map_or((0, 0), |r| r.begun()),
            changelog_lag: shared.changelog.waiting() as u64 + applying,
            changelog_age: shared.changelog.lag(),
            held_opens: (!shared.room.is_open()).then(|| shared.room.waiting()),
        }
    }

    /// Bytes free and in all on the backing filesystem.
    ///
    /// # Errors
    /// [`EngineError::Io`].
    pub fn room(&self) -> Result<(u64, u64), EngineError> {
        let stat = rustix::fs::fstatvfs(self.shared.backing.root())
            .map_err(|e| EngineError::io("asking how full the backing is")(e.into()))?;
        Ok((stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize))
    }

    /// May files be released, and if not, why.
    ///
    /// # Errors
    /// In words for the administrator.
    pub fn release_allowed(&self) -> Result<(), String> {
        self.shared.release_allowed()
    }
}
