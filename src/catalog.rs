//! The catalog: what Cairn knows, in SQLite. A cache: stubs alone, or aggregates alone, rebuild it.
//!
//! Everything is keyed by node and parent links, never by stored paths, so that a rename of a
//! directory is one row. The API is typed and coarse: the questions that hsm/ asks; no SQL leaves
//! this room. Time is always an argument: there is no clock here.
//!
//! # Invariants
//! 1. One writer thread, group commit; readers stand beside it and never block it.
//! 2. A call with [`Durability::Full`] returns only after its transaction was committed with
//!    `synchronous=FULL`; transactions committed before it are then durable, too (P13).
//! 3. No query that a user waits for scans a table (tests ask SQLite's planner), and no read
//!    transaction lives longer than one page of rows.
//! 4. A catalog of a newer version is refused before anything in its directory is written.
//! 5. Counters (usage, backlog, requests' counts) change in the transaction that changes the rows
//!    they count, so they equal a count of the rows at every commit.
//! 6. Cancelling is one change of a request's row; no action of a cancelled request starts.

use std::path::Path;
use std::sync::Arc;
use writer::Size;

mod aggregates;
mod backup;
mod candidates;
mod copy;
mod damage;
mod dispatch;
mod dump;
mod error;
mod graves;
mod incarnation;
mod jobs;
mod lives;
mod names;
mod node;
mod nodes;
mod pins;
mod proof;
mod quarantine;
mod readers;
mod rebuild;
mod removals;
mod request;
mod requests;
mod revivals;
mod rows;
mod scan;
mod schema;
mod sieve;
mod snapshot_graves;
mod snapshots;
mod sql;
mod status;
mod tally;
mod tombs;
mod transitions;
mod unserved;
mod writer;

pub use backup::backup;
pub use candidates::{ArchiveFilter, CandidateCursor, Candidates, Met, ReleaseFilter};
pub use copy::{
    Aggregate, Archived, Copy, CopyPlace, CopyState, Life, Member, NewAggregate, ProofKind,
    Rebound, Recalled, Tombstone, TombstoneWhy,
};
pub use dump::{CopyKey, CopyRow};
pub use error::CatalogError;
pub use graves::{Bound, Departed, Grave, Hold, MemberKey, Naming};
pub use incarnation::{BootId, BootSeq, Identity, Incarnation, Start, TierRow};
pub use jobs::Generation;
pub use lives::TierSum;
pub use names::{Entry, NameChange, Unlinked};
pub use node::{
    Attributes, FileKind, FileState, Flag, Known, Node, NodeId, Planned, Proven, Sighting, Trouble,
    Version,
};
pub use pins::{End, Held, JobPins, Pin, PinnedBy};
pub use proof::{BadCopy, Made, ProofCount, Verifiable};
pub use quarantine::{Found, Moved, Quarantined};
pub use rebuild::{
    LearnedAggregate, LearnedMember, RebuildState, RebuildSweep, Remembrance, Sources, TierRead,
};
pub use removals::{Removal, Removed};
pub use request::{
    Action, ActionId, ActionState, Class, Counts, Failure, Finish, NewAction, NewRequest, Origin,
    Place, Request, RequestFilter, RequestState, Started, StateCount, Submitted, Verb,
};
pub use revivals::{Below, CameBack};
pub use scan::{ChangelogState, Rescan, ScanState, Settled, Unseen, UnseenPage};
pub use schema::Condition;
pub use snapshot_graves::{SnapshotGrave, SnapshotHold};
pub use snapshots::{FoundSnapshot, NamespaceSnapshot};
pub use status::{Backlog, FailureCause, Snapshot, Usage};
pub use tombs::{NotRevived, Revived};
pub use unserved::Unserved;

/// Rows that one page of any listing holds at most, whatever its caller asked for.
pub const PAGE_MAX: usize = 10_000;

/// When a write returns, and what may lose it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Returns once the transaction is committed with `synchronous=FULL`: no crash or power loss
    /// takes it back. For whatever a release, an acceptance or a deletion relies on.
    Full,
    /// A power loss (not a crash of the process) may take it back. Calls that give something back
    /// return once readers can see the change; calls that give nothing back return at once, and
    /// an error is logged and counted in [`Snapshot::write_errors`]. [`Catalog::settle`] waits
    /// for all of them.
    Relaxed,
}

/// The open catalog. Cheap to share: clones are the same catalog. The last clone's drop commits
/// what was submitted and ends the writer thread.
#[derive(Clone)]
pub struct Catalog {
    inner: Arc<Inner>,
}

struct Inner {
    writer: writer::Writer,
    readers: readers::Readers,
    sieve: Arc<sieve::Sieve>,
    incarnation: incarnation::Current,
    identity: Identity,
    /// The user served last by [`Catalog::take_actions`], per class.
    turns: parking_lot::Mutex<[i64; Class::ALL.len()]>,
    damage: Arc<damage::Damage>,
}

impl Catalog {
    /// Opens the catalog at `path`, making it (with `fresh` as its identity) if there is none, and
    /// migrating it forward, after a snapshot beside it, if an older Cairn made it.
    ///
    /// # Errors
    /// [`CatalogError::Newer`], [`CatalogError::NotACatalog`] (both leave every byte as it was),
    /// [`CatalogError::Sql`].
    pub fn open(path: &Path, fresh: Identity) -> Result<Self, CatalogError> {
        let identity = schema::prepare(path, fresh)?;
        let damage = Arc::new(damage::Damage::default());
        let (writer, sieve) = writer::Writer::start(path, damage.clone())?;
        let readers = readers::Readers::open(path)?;
        let incarnation = incarnation::Current::default();
        let inner = Inner {
            writer,
            readers,
            sieve,
            incarnation,
            identity,
            turns: parking_lot::Mutex::new([-1; Class::ALL.len()]),
            damage,
        };
        let catalog = Self {
            inner: Arc::new(inner),
        };
        catalog.fill_sieve_at_first()?;
        Ok(catalog)
    }

    /// What is at `path`, which nobody has open; reads all of it.
    ///
    /// # Errors
    /// [`CatalogError::Newer`], [`CatalogError::Io`]: it cannot be told.
    pub fn condition(path: &Path) -> Result<Condition, CatalogError> {
        schema::condition(path)
    }

    /// Is there a catalog at `path`, of whatever version? Writes no byte.
    ///
    /// # Errors
    /// [`CatalogError::Newer`], [`CatalogError::NotACatalog`], [`CatalogError::Io`].
    pub fn is_there(path: &Path) -> Result<bool, CatalogError> {
        schema::is_there(path)
    }

    /// Whose catalog it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.inner.identity
    }

    /// Waits until everything submitted before is committed, and is durable if `durability` says so.
    ///
    /// # Errors
    /// [`CatalogError::Sql`] if the commit failed.
    pub fn settle(&self, durability: Durability) -> Result<(), CatalogError> {
        self.inner.writer.run(durability, Size::Small, |_| Ok(()))
    }

    /// What was found damaged in the file since it was opened, if anything was: a later call may meet it again
    /// or not. Nothing mends it but making the catalog anew.
    #[must_use]
    pub fn damage(&self) -> Option<CatalogError> {
        self.inner.damage.found()
    }

    /// From here on every change fails, as on a full disk.
    #[cfg(test)]
    pub(crate) fn refuse_changes(&self) {
        self.inner.writer.close();
    }

    /// From here on nothing can be read.
    #[cfg(test)]
    pub(crate) fn refuse_reads(&self) {
        self.inner.readers.close();
    }

    fn read<T>(
        &self,
        query: impl FnOnce(&rusqlite::Connection) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        self.inner.damage.noted(self.inner.readers.read(query))
    }

    fn write<T: Send + 'static>(
        &self,
        durability: Durability,
        change: impl FnOnce(&rusqlite::Connection) -> Result<T, CatalogError> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let done = self.inner.writer.run(durability, Size::Small, change);
        self.inner.damage.noted(done)
    }

    /// A change of this many things.
    fn write_many<T: Send + 'static>(
        &self,
        count: usize,
        durability: Durability,
        change: impl FnOnce(&rusqlite::Connection) -> Result<T, CatalogError> + Send + 'static,
    ) -> Result<T, CatalogError> {
        let done = self.inner.writer.run(durability, Size::of(count), change);
        self.inner.damage.noted(done)
    }

    /// A change of this many things that gives nothing back.
    fn post_many(
        &self,
        count: usize,
        durability: Durability,
        change: impl FnOnce(&rusqlite::Connection) -> Result<(), CatalogError> + Send + 'static,
    ) -> Result<(), CatalogError> {
        match durability {
            Durability::Full => self.write_many(count, durability, change),
            Durability::Relaxed => self.inner.writer.post(Size::of(count), change),
        }
    }

    fn post(
        &self,
        durability: Durability,
        change: impl FnOnce(&rusqlite::Connection) -> Result<(), CatalogError> + Send + 'static,
    ) -> Result<(), CatalogError> {
        match durability {
            Durability::Full => self.write(durability, change),
            Durability::Relaxed => self.inner.writer.post(Size::Small, change),
        }
    }
}

#[cfg(test)]
mod tests;
