//! What policies ask: which files to archive, which to release, which have too few copies.
//!
//! Every question is paged by a cursor, and each page looks at a bounded number of rows, so a
//! page may be short, or empty, although more follow: only a missing cursor ends the list.

use super::error::At;
use super::node::{Node, NodeId};
use super::sql::{self, NODE, int};
use super::{Catalog, CatalogError, Copy, aggregates, names, nodes};
use crate::id::{NodeHandle, Timestamp};
use rusqlite::{Connection, Params, params};
use std::collections::HashMap;

/// Rows that one page looks at, at most.
const EXAMINED: i64 = 4096;

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

impl CandidateCursor {
    /// Before everything.
    const START: Self = Self {
        key: i64::MIN,
        id: 0,
    };
}

/// One page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    /// The files, in the question's order.
    pub nodes: Vec<Node>,
    /// Where to go on; `None`: that was all.
    pub next: Option<CandidateCursor>,
}

/// A node as an archive or a walk meets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Met {
    /// Its row.
    pub node: Node,
    /// All known paths, where they were asked for.
    pub names: Vec<Vec<u8>>,
    /// Copies of its present version, where they were asked for, good ones first.
    pub copies: Vec<Copy>,
}

/// Nodes looked up in one read transaction, which is to be short.
const AT_ONCE: usize = 256;

impl Catalog {
    /// Rows, names (at most `names` of each) and copies of many nodes at the price of few reads; in
    /// the same order, `None` for what is not known.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn meet(
        &self,
        handles: &[&NodeHandle],
        names: usize,
    ) -> Result<Vec<Option<Met>>, CatalogError> {
        let mut met = Vec::with_capacity(handles.len());
        for some in handles.chunks(AT_ONCE) {
            met.extend(self.read(|connection| {
                let mut directories = HashMap::new();
                let mut one = |handle: &&NodeHandle| {
                    let Some(node) = nodes::by_handle(connection, handle)? else {
                        return Ok(None);
                    };
                    let names = names::names(connection, node.id, names, &mut directories)?;
                    let copies = copies_of(connection, &node)?;
                    Ok(Some(Met {
                        node,
                        names,
                        copies,
                    }))
                };
                some.iter().map(&mut one).collect::<Result<Vec<_>, _>>()
            })?);
        }
        Ok(met)
    }

    /// Rows of many nodes, and copies of them if `copies` says so, without names; in the same
    /// order, `None` for what is not known.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn meet_by_number(
        &self,
        numbers: &[NodeId],
        copies: bool,
    ) -> Result<Vec<Option<Met>>, CatalogError> {
        let mut met = Vec::with_capacity(numbers.len());
        for some in numbers.chunks(AT_ONCE) {
            met.extend(self.read(|connection| {
                let one = |number: &NodeId| {
                    let Some(node) = nodes::get(connection, *number)? else {
                        return Ok(None);
                    };
                    let copies = if copies {
                        copies_of(connection, &node)?
                    } else {
                        Vec::new()
                    };
                    Ok(Some(Met {
                        node,
                        names: Vec::new(),
                        copies,
                    }))
                };
                some.iter().map(one).collect::<Result<Vec<_>, _>>()
            })?);
        }
        Ok(met)
    }

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
        let after = after.unwrap_or(CandidateCursor::START);
        self.read(|connection| {
            pages(
                connection,
                &format!(
                    "SELECT {NODE}, mtime AS cursor, 1 AS good FROM nodes
                     WHERE kind = 0 AND noarchive = 0 AND state IN (0, 2) AND mtime < ?1
                         AND (mtime, id) > (?2, ?3)
                     ORDER BY mtime, id LIMIT ?4"
                ),
                params![filter.older_than.nanos(), after.key, after.id, EXAMINED],
                limit,
            )
        })
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
        let after = after.unwrap_or(CandidateCursor::START);
        self.read(|connection| {
            pages(
                connection,
                &format!(
                    "SELECT {NODE}, accessed AS cursor,
                         size >= ?5 AND copies >= ?6
                         AND (staged_at IS NULL OR staged_at < ?7)
                         AND NOT EXISTS (SELECT 1 FROM pins
                             WHERE pins.node = nodes.id AND pins.expires > ?8) AS good
                     FROM nodes
                     WHERE kind = 0 AND norelease = 0 AND state = 1 AND accessed < ?1
                         AND (accessed, id) > (?2, ?3)
                     ORDER BY accessed, id LIMIT ?4"
                ),
                params![
                    filter.accessed_before.nanos(),
                    after.key,
                    after.id,
                    EXAMINED,
                    int(filter.min_size),
                    filter.min_copies,
                    filter.staged_before.nanos(),
                    filter.now.nanos()
                ],
                limit,
            )
        })
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
        let after = after.unwrap_or(CandidateCursor::START);
        self.read(|connection| {
            pages(
                connection,
                &format!(
                    "SELECT {NODE}, copies AS cursor, 1 AS good FROM nodes
                     WHERE kind = 0 AND state IN (1, 3) AND copies < ?1
                         AND (copies, id) > (?2, ?3)
                     ORDER BY copies, id LIMIT ?4"
                ),
                params![wanted, after.key, after.id, EXAMINED],
                limit,
            )
        })
    }
}

fn copies_of(connection: &Connection, node: &Node) -> Result<Vec<Copy>, CatalogError> {
    match node.version {
        Some(v) => aggregates::copies(connection, v.file, v.version),
        None => Ok(Vec::new()),
    }
}

/// Looks at rows until `limit` good ones are found or [`EXAMINED`] were looked at.
fn pages(
    connection: &Connection,
    query: &str,
    values: impl Params,
    limit: usize,
) -> Result<Candidates, CatalogError> {
    let limit = limit.clamp(1, super::PAGE_MAX);
    let look = || -> rusqlite::Result<Candidates> {
        let mut statement = sql::prepared(connection, query)?;
        let mut rows = statement.query(values)?;
        let (mut nodes, mut last, mut examined) = (Vec::new(), None, 0);
        while let Some(row) = rows.next()? {
            examined += 1;
            last = Some(CandidateCursor {
                key: row.get("cursor")?,
                id: row.get("id")?,
            });
            if row.get("good")? {
                nodes.push(sql::node(row)?);
                if nodes.len() == limit {
                    return Ok(Candidates { nodes, next: last });
                }
            }
        }
        let next = last.filter(|_| examined == EXAMINED);
        Ok(Candidates { nodes, next })
    };
    look().at("look for candidates", "nodes")
}
