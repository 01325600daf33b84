//! One snapshot for `cairn status`, from counters alone, and the check of the file itself.

use super::request::{Class, StateCount};
use super::scan::{ChangelogState, ScanState};
use super::{Catalog, CatalogError, FileState};
use crate::id::{RequestId, Timestamp};

/// Regular files in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// The state.
    pub state: FileState,
    /// How many.
    pub files: u64,
    /// Their sizes, bytes.
    pub bytes: u64,
    /// Space on disk, 512-byte blocks.
    pub blocks: u64,
}

/// What one class has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Backlog {
    /// The class.
    pub class: Class,
    /// To be started.
    pub queued: StateCount,
    /// To be started later.
    pub waiting: StateCount,
    /// Started.
    pub running: StateCount,
    /// When the oldest request with something to start was accepted.
    pub oldest: Option<Timestamp>,
}

/// Failures of one cause since the catalog was made.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FailureCause {
    /// The stable word.
    pub code: String,
    /// How many.
    pub count: u64,
    /// The last one.
    pub last_at: Timestamp,
    /// Its text.
    pub last_text: String,
    /// Its request.
    pub last_request: Option<RequestId>,
}

/// What the catalog knows about the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Files and bytes by state.
    pub usage: Vec<Usage>,
    /// What is to be done, by class, most urgent first.
    pub backlog: Vec<Backlog>,
    /// Archived or released files with fewer good copies than asked.
    pub under_copied: u64,
    /// Failures by cause, most frequent first, at most 100.
    pub failures: Vec<FailureCause>,
    /// The scan.
    pub scan: ScanState,
    /// Subtrees to look at again.
    pub rescans: u64,
    /// The changelog.
    pub changelog: ChangelogState,
    /// Pins, expired ones that were not yet swept included.
    pub pins: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Writes that nobody waited for and that failed, since the catalog was opened.
    pub write_errors: u64,
}

impl Catalog {
    /// The whole at a glance. `wanted_copies`: as many copies as policy asks of every file.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn status(&self, wanted_copies: u32) -> Result<Snapshot, CatalogError> {
        let _ = wanted_copies;
        unimplemented!()
    }

    /// Files and bytes by state of one user.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn usage_of(&self, uid: u32) -> Result<Vec<Usage>, CatalogError> {
        let _ = uid;
        unimplemented!()
    }

    /// The last failures, newest first: (when, request, action, what).
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn last_failures(
        &self,
        limit: usize,
    ) -> Result<Vec<(Timestamp, RequestId, super::ActionId, super::Failure)>, CatalogError> {
        let _ = limit;
        unimplemented!()
    }

    /// SQLite's `quick_check`: what is wrong with the file, line by line; empty: nothing. Takes
    /// time with the size of the file.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn check(&self) -> Result<Vec<String>, CatalogError> {
        unimplemented!()
    }
}
