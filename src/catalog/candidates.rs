//! What policies ask: which files to archive, which to release, which have too few copies.
//!
//! Every question is paged by a cursor, and each page looks at a bounded number of rows, so a
//! page may be short, or empty, although more follow: only a missing cursor ends the list.

use super::node::Node;
use super::{Catalog, CatalogError};
use crate::id::Timestamp;

/// Which files to archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveFilter {
    /// Not changed since.
    pub older_than: Timestamp,
}

/// Which files to release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleaseFilter {
    /// At least this size, bytes.
    pub min_size: u64,
    /// Last accessed before.
    pub accessed_before: Timestamp,
    /// Not staged since (minimum residency).
    pub staged_before: Timestamp,
    /// At least as many good copies.
    pub min_copies: u32,
    /// Now, for pins.
    pub now: Timestamp,
}

/// Where a paged question goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CandidateCursor {
    pub(super) key: i64,
    pub(super) id: i64,
}

/// One page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    /// The files, in the question's order.
    pub nodes: Vec<Node>,
    /// Where to go on; `None`: that was all.
    pub next: Option<CandidateCursor>,
}

impl Catalog {
    /// Regular files without `noarchive`, never archived or dirty, unchanged since a time; oldest
    /// change first.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn to_archive(
        &self,
        filter: ArchiveFilter,
        after: Option<CandidateCursor>,
        limit: usize,
    ) -> Result<Candidates, CatalogError> {
        let _ = (filter, after, limit);
        unimplemented!()
    }

    /// Archived files without `norelease` or pin that the filter lets pass; oldest access first
    /// (the latest of atime, mtime and noted reads counts as access).
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn to_release(
        &self,
        filter: ReleaseFilter,
        after: Option<CandidateCursor>,
        limit: usize,
    ) -> Result<Candidates, CatalogError> {
        let _ = (filter, after, limit);
        unimplemented!()
    }

    /// Archived and released files with fewer good copies than `wanted`, fewest first.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn under_copied(
        &self,
        wanted: u32,
        after: Option<CandidateCursor>,
        limit: usize,
    ) -> Result<Candidates, CatalogError> {
        let _ = (wanted, after, limit);
        unimplemented!()
    }
}
