//! One snapshot for `cairn status`, from counters alone, and the check of the file itself.

use super::request::{Class, StateCount};
use super::scan::{ChangelogState, ScanState};
use super::sql::{Code, all, coded, first, page, some_time, uint};
use super::{Catalog, CatalogError, FileState, rows, scan};
use crate::id::{RequestId, Timestamp};
use rusqlite::{Connection, params};

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
    /// When the oldest request that has not ended was accepted.
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
    /// Files whose stub is another file's.
    pub foreign: u64,
    /// Files that are not as their stubs say.
    pub conflict: u64,
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
    /// Transactions since the catalog was opened.
    pub commits: u64,
    /// Changes that wait for the writer now.
    pub writes_queued: usize,
}

impl Catalog {
    /// The whole at a glance. `wanted_copies`: as many copies as policy asks of every file.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn status(&self, wanted_copies: u32) -> Result<Snapshot, CatalogError> {
        let writer = &self.inner.writer;
        self.read(|connection| {
            Ok(Snapshot {
                usage: usage(connection, -1)?,
                backlog: backlog(connection)?,
                under_copied: under_copied(connection, wanted_copies)?,
                foreign: row_count(connection, "foreign")?,
                conflict: row_count(connection, "conflict")?,
                failures: causes(connection)?,
                scan: scan::state(connection)?,
                rescans: row_count(connection, "rescans")?,
                changelog: scan::changelog(connection)?,
                pins: row_count(connection, "pins")?,
                tombstones: row_count(connection, "tombstones")?,
                write_errors: writer.errors(),
                commits: writer.groups(),
                writes_queued: writer.queued(),
            })
        })
    }

    /// Writes that nobody waited for and that failed, since the catalog was opened.
    #[must_use]
    pub fn write_errors(&self) -> u64 {
        self.inner.writer.errors()
    }

    /// Files and bytes by state of one user.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn usage_of(&self, uid: u32) -> Result<Vec<Usage>, CatalogError> {
        self.read(|connection| usage(connection, i64::from(uid)))
    }

    /// The last failures, newest first: (when, request, action, what).
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn last_failures(
        &self,
        limit: usize,
    ) -> Result<Vec<(Timestamp, RequestId, super::ActionId, super::Failure)>, CatalogError> {
        self.read(|connection| {
            all(
                connection,
                "SELECT at, request, action, code, text FROM failures WHERE id > 0
                 ORDER BY id DESC LIMIT ?",
                [page(limit)],
                |row| {
                    Ok((
                        some_time(row, "at")?,
                        RequestId(uint(row, "request")?),
                        super::ActionId(row.get("action")?),
                        super::Failure {
                            code: row.get("code")?,
                            text: row.get("text")?,
                        },
                    ))
                },
                "list",
                "failures",
            )
        })
    }

    /// SQLite's `quick_check`: what is wrong with the file, line by line; empty: nothing. Takes
    /// time with the size of the file.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn check(&self) -> Result<Vec<String>, CatalogError> {
        self.read(|connection| {
            let mut lines = all(
                connection,
                "PRAGMA quick_check(100)",
                [],
                |row| row.get::<_, String>(0),
                "check",
                "catalog",
            )?;
            lines.retain(|line| line != "ok");
            Ok(lines)
        })
    }
}

fn usage(connection: &Connection, uid: i64) -> Result<Vec<Usage>, CatalogError> {
    all(
        connection,
        "SELECT state, files, bytes, blocks FROM usage WHERE uid = ? ORDER BY state",
        [uid],
        |row| {
            Ok(Usage {
                state: coded(row, "state")?,
                files: uint(row, "files")?,
                bytes: uint(row, "bytes")?,
                blocks: uint(row, "blocks")?,
            })
        },
        "read usage of user",
        uid,
    )
}

fn backlog(connection: &Connection) -> Result<Vec<Backlog>, CatalogError> {
    let mut classes = Vec::new();
    for class in Class::ALL {
        let counts = first(
            connection,
            "SELECT * FROM backlog WHERE class = ? AND uid = -1",
            [class.code()],
            |row| Ok((rows::queued(row)?, rows::waiting(row)?, rows::running(row)?)),
            "read the backlog of",
            format_args!("{class:?}"),
        )?;
        let oldest = first(
            connection,
            "SELECT created FROM requests WHERE class = ? AND state < 2 ORDER BY id LIMIT 1",
            [class.code()],
            |row| some_time(row, "created"),
            "find the oldest of",
            format_args!("{class:?}"),
        )?;
        let (queued, waiting, running) = counts.unwrap_or_default();
        classes.push(Backlog {
            class,
            queued,
            waiting,
            running,
            oldest,
        });
    }
    Ok(classes)
}

fn under_copied(connection: &Connection, wanted: u32) -> Result<u64, CatalogError> {
    let files = first(
        connection,
        "SELECT ifnull(sum(files), 0) AS files FROM copy_counts WHERE copies < ?",
        params![wanted],
        |row| uint(row, "files"),
        "count",
        "files with too few copies",
    )?;
    Ok(files.unwrap_or(0))
}

fn causes(connection: &Connection) -> Result<Vec<FailureCause>, CatalogError> {
    all(
        connection,
        "SELECT * FROM failure_causes WHERE count > 0 ORDER BY count DESC LIMIT 100",
        [],
        |row| {
            let request: Option<i64> = row.get("last_request")?;
            Ok(FailureCause {
                code: row.get("code")?,
                count: uint(row, "count")?,
                last_at: some_time(row, "last_at")?,
                last_text: row.get("last_text")?,
                last_request: request.and_then(|id| u64::try_from(id).ok()).map(RequestId),
            })
        },
        "list",
        "failures",
    )
}

fn row_count(connection: &Connection, what: &'static str) -> Result<u64, CatalogError> {
    let rows = first(
        connection,
        "SELECT rows FROM row_counts WHERE what = ?",
        [what],
        |row| uint(row, "rows"),
        "count",
        what,
    )?;
    Ok(rows.unwrap_or(0))
}
