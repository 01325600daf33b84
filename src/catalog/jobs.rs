//! When batch jobs were released, so that what somebody still asks for one that is over is told from
//! what is asked for it anew.
//!
//! Invariant: no two releases of a job have one generation, also if the clock goes back.

use super::sql::{change, first, int, page};
use super::{Catalog, CatalogError, Durability};
use crate::id::Timestamp;
use rusqlite::{Connection, params};

/// How often a job was released, told by when it was last; zero: never.
pub type Generation = u64;

impl Catalog {
    /// The job's generation.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn job_generation(&self, uid: u32, job: &str) -> Result<Generation, CatalogError> {
        self.read(|connection| released(connection, uid, job))
    }

    /// The job is released: it has a new generation. Durable. `None`: it is not of the generation `known` any
    /// more, and nothing was done.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn end_job(
        &self,
        uid: u32,
        job: &str,
        known: Option<Generation>,
        now: Timestamp,
    ) -> Result<Option<Generation>, CatalogError> {
        let job = job.to_owned();
        self.write(Durability::Full, move |connection| {
            let last = released(connection, uid, &job)?;
            if known.is_some_and(|known| known != last) {
                return Ok(None);
            }
            let now = u64::try_from(now.nanos()).unwrap_or(0);
            let next = now.max(last.saturating_add(1));
            change(
                connection,
                "INSERT INTO jobs (uid, name, released) VALUES (?, ?, ?)
                 ON CONFLICT DO UPDATE SET released = excluded.released",
                params![uid, job, int(next)],
                "release job",
                &job,
            )?;
            Ok(Some(next))
        })
    }

    /// Forgets at most `limit` jobs that were released before `before`; gives how many.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn forget_jobs(&self, before: Timestamp, limit: usize) -> Result<u64, CatalogError> {
        self.write(Durability::Relaxed, move |connection| {
            let gone = change(
                connection,
                "DELETE FROM jobs WHERE (uid, name) IN
                     (SELECT uid, name FROM jobs WHERE released < ? ORDER BY released LIMIT ?)",
                params![before.nanos(), page(limit)],
                "forget",
                "jobs",
            )?;
            Ok(gone as u64)
        })
    }
}

fn released(connection: &Connection, uid: u32, job: &str) -> Result<Generation, CatalogError> {
    let found = first(
        connection,
        "SELECT released FROM jobs WHERE uid = ? AND name = ?",
        params![uid, job],
        |row| super::sql::uint(row, "released"),
        "find job",
        job,
    )?;
    Ok(found.unwrap_or(0))
}
