//! The background scan's position, subtrees that need another look, and the changelog's.
//!
//! A scan has a generation. Whatever is noted while it runs carries it, so that afterwards what
//! does not is known to be gone.

use super::node::NodeId;
use super::{Catalog, CatalogError, Durability};
use crate::id::Timestamp;

/// Where the background scan stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScanState {
    /// Generation of the running scan, or of the last one; 0: none ever began.
    pub generation: u64,
    /// When it began.
    pub begun_at: Option<Timestamp>,
    /// Epoch under which it began.
    pub epoch: u32,
    /// It has not finished.
    pub running: bool,
    /// Where it stands, in the scanner's own words; empty at the beginning.
    pub position: Vec<u8>,
    /// Files and directories seen so far.
    pub seen: u64,
    /// Generation of the last scan that finished; 0: none did.
    pub finished_generation: u64,
    /// When that one began: P8 asks for a scan begun after a tombstone.
    pub finished_begun_at: Option<Timestamp>,
    /// Epoch under which it began.
    pub finished_epoch: u32,
    /// When it finished.
    pub finished_at: Option<Timestamp>,
}

/// A subtree that must be looked at again: changelog records about it were lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rescan {
    /// Its directory.
    pub node: NodeId,
    /// Since when.
    pub since: Timestamp,
    /// Why, for people.
    pub why: String,
}

/// The changelog's counters since the catalog was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct ChangelogState {
    /// Number of the last event that was applied.
    pub position: u64,
    /// Events applied.
    pub applied: u64,
    /// Events lost to overflow (their subtrees were marked for a rescan).
    pub lost: u64,
    /// Overflows.
    pub overflows: u64,
}

/// Answer to [`Catalog::sweep_vanished`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// Nodes forgotten by this call.
    pub forgotten: u64,
    /// Where to go on; `None`: all were looked at.
    pub next: Option<NodeId>,
}

impl Catalog {
    /// Begins a scan from the beginning and gives its generation. A scan that was running is
    /// given up. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn begin_scan(&self, now: Timestamp) -> Result<u64, CatalogError> {
        let _ = (now, Durability::Full);
        unimplemented!()
    }

    /// Keeps the running scan's position. It becomes durable no later than the nodes noted
    /// before it.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn save_scan_position(&self, position: Vec<u8>, seen: u64) -> Result<(), CatalogError> {
        let _ = (position, seen);
        unimplemented!()
    }

    /// The running scan has seen everything. Durable. Call [`Catalog::sweep_vanished`] after it.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn finish_scan(&self, now: Timestamp) -> Result<(), CatalogError> {
        let _ = now;
        unimplemented!()
    }

    /// Where the scan stands.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn scan_state(&self) -> Result<ScanState, CatalogError> {
        unimplemented!()
    }

    /// A directory was read to its end in this generation: names of it that were not seen go.
    /// Their nodes stay until the sweep, because they may have moved elsewhere. At most `limit`
    /// names at a time; call again until it gives 0.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn finish_directory(
        &self,
        directory: NodeId,
        generation: u64,
        limit: usize,
    ) -> Result<u64, CatalogError> {
        let _ = (directory, generation, limit);
        unimplemented!()
    }

    /// Looks at up to `limit` nodes from after `after` and forgets, with tombstones, those that
    /// neither the finished generation nor anything later saw. Background work: run it to its end
    /// after [`Catalog::finish_scan`].
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn sweep_vanished(
        &self,
        generation: u64,
        after: Option<NodeId>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Swept, CatalogError> {
        let _ = (generation, after, limit, now);
        unimplemented!()
    }

    /// Marks a subtree for another look. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn need_rescan(&self, rescan: Rescan) -> Result<(), CatalogError> {
        let _ = rescan;
        unimplemented!()
    }

    /// Subtrees to look at again, oldest first.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn rescans(&self, limit: usize) -> Result<Vec<Rescan>, CatalogError> {
        let _ = limit;
        unimplemented!()
    }

    /// A subtree was looked at; the mark goes if it was set before `begun`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn rescanned(&self, node: NodeId, begun: Timestamp) -> Result<(), CatalogError> {
        let _ = (node, begun);
        unimplemented!()
    }

    /// Adds to the changelog's counters and sets its position.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn advance_changelog(
        &self,
        position: u64,
        applied: u64,
        lost: u64,
        overflows: u64,
    ) -> Result<(), CatalogError> {
        let _ = (position, applied, lost, overflows);
        unimplemented!()
    }
}
