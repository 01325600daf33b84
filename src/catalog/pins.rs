//! Pins: a holder keeps a file on disk until a time. Several holders may.

use super::node::{FileState, NodeId};
use super::sql::{all, change, coded, first, int, page, time, uint};
use super::{Catalog, CatalogError, Durability};
use crate::id::Timestamp;
use rusqlite::{Connection, params};
use std::collections::BTreeMap;

/// Pins changed in one transaction where a holder has more.
const CHUNK: i64 = 5000;

/// What one holder keeps on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Files.
    pub files: u64,
    /// Their sizes, bytes.
    pub bytes: u64,
    /// Until when, the last of them.
    pub until: Option<Timestamp>,
}

/// What batch jobs keep on disk, in all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobPins {
    /// Sizes of the files that some job pins, each once, bytes.
    pub bytes: u64,
    /// The same for the jobs of one user.
    pub by_user: BTreeMap<u32, u64>,
    /// The same for one job, by its user and its name.
    pub by_job: BTreeMap<(u32, String), u64>,
    /// Disk space of archived files that anybody pins, bytes: what no release can give back.
    pub archived: u64,
    /// Of it what jobs alone pin, bytes.
    pub archived_by_jobs: u64,
}

/// Another end of pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// They hold until then, or for longer if they did.
    AtLeast(Timestamp),
    /// They end then, or before if they did.
    AtMost(Timestamp),
}

/// Whose jobs pin a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PinnedBy {
    /// Nobody's.
    Nobody,
    /// Others'.
    Others,
    /// The user's.
    User,
}

/// User and job in the holder of a job's pin (`uid:1000/job:4711`).
fn job_of(holder: &str) -> Option<(u32, &str)> {
    let (uid, job) = holder.strip_prefix("uid:")?.split_once("/job:")?;
    Some((uid.parse().ok()?, job))
}

/// A file that is pinned, and by whom.
#[derive(Default)]
struct Pinned {
    /// What it counts, bytes: its size, and on disk no more than its space there.
    bytes: u64,
    /// Space of an archived file, bytes.
    archived: u64,
    users: Vec<u32>,
    /// Somebody pins it, who is no job.
    others: bool,
}

impl Pinned {
    fn add_to(self, sum: &mut JobPins) {
        sum.archived = sum.archived.saturating_add(self.archived);
        if !self.others {
            sum.archived_by_jobs = sum.archived_by_jobs.saturating_add(self.archived);
        }
        if !self.users.is_empty() {
            sum.bytes = sum.bytes.saturating_add(self.bytes);
        }
        for user in self.users {
            let by = sum.by_user.entry(user).or_default();
            *by = by.saturating_add(self.bytes);
        }
    }
}

/// One pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The file.
    pub node: NodeId,
    /// Who holds it (`uid:1000`, `uid:1000/job:4711`).
    pub holder: String,
    /// Until when.
    pub expires: Timestamp,
}

impl Catalog {
    /// Adds pins; a holder's earlier pin of the same file is replaced, but a job's is never made shorter. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn pin(&self, pins: Vec<Pin>) -> Result<(), CatalogError> {
        self.write(Durability::Full, move |connection| {
            for pin in &pins {
                change(
                    connection,
                    "INSERT INTO pins (node, holder, expires) VALUES (?, ?, ?)
                     ON CONFLICT DO UPDATE SET expires = CASE WHEN instr(holder, '/job:') = 0
                         THEN excluded.expires ELSE max(expires, excluded.expires) END",
                    params![pin.node.0, pin.holder, pin.expires.nanos()],
                    "pin",
                    pin.node,
                )?;
            }
            Ok(())
        })
    }

    /// Ends a holder's pins of these files; gives how many there were. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn unpin(&self, nodes: Vec<NodeId>, holder: &str) -> Result<u64, CatalogError> {
        let holder = holder.to_owned();
        self.write(Durability::Full, move |connection| {
            let mut ended = 0;
            for node in &nodes {
                ended += change(
                    connection,
                    "DELETE FROM pins WHERE node = ? AND holder = ?",
                    params![node.0, holder],
                    "unpin",
                    node,
                )?;
            }
            Ok(ended as u64)
        })
    }

    /// Ends all pins of a holder; gives how many there were. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn unpin_all(&self, holder: &str) -> Result<u64, CatalogError> {
        let mut ended = 0;
        loop {
            let whose = holder.to_owned();
            let some = self.write(Durability::Full, move |connection| {
                let sql = "DELETE FROM pins WHERE holder = ?1 AND node IN
                     (SELECT node FROM pins WHERE holder = ?1 ORDER BY node LIMIT ?2)";
                let step = "end the pins of";
                Ok(change(connection, sql, params![whose, CHUNK], step, &whose)? as u64)
            })?;
            ended += some;
            if int(some) < CHUNK {
                return Ok(ended);
            }
        }
    }

    /// Gives all pins that a holder has at `now` another end; gives how many there are. Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn change_ends(&self, holder: &str, end: End, now: Timestamp) -> Result<u64, CatalogError> {
        let (sql, expires) = match end {
            End::AtLeast(expires) => (
                "UPDATE pins SET expires = max(expires, ?)
                 WHERE holder = ? AND node > ? AND node <= ? AND expires > ?",
                expires,
            ),
            End::AtMost(expires) => (
                "UPDATE pins SET expires = min(expires, ?)
                 WHERE holder = ? AND node > ? AND node <= ? AND expires > ?",
                expires,
            ),
        };
        let (mut changed, mut after) = (0, i64::MIN);
        loop {
            let whose = holder.to_owned();
            let (some, last) = self.write(Durability::Full, move |connection| {
                let nodes = all(
                    connection,
                    "SELECT node FROM pins WHERE holder = ? AND node > ? ORDER BY node LIMIT ?",
                    params![whose, after, CHUNK],
                    |row| row.get::<_, i64>(0),
                    "find the pins of",
                    &whose,
                )?;
                let Some(last) = nodes.last().copied() else {
                    return Ok((0, after));
                };
                let values = params![expires.nanos(), whose, after, last, now.nanos()];
                let some = change(connection, sql, values, "change the end of pins of", &whose)?;
                Ok((some as u64, last))
            })?;
            (changed, after) = (changed + some, last);
            if int(some) < CHUNK {
                return Ok(changed);
            }
        }
    }

    /// What a holder keeps on disk at `now`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn held(&self, holder: &str, now: Timestamp) -> Result<Held, CatalogError> {
        self.read(|connection| {
            let held = first(
                connection,
                "SELECT count(*) AS files, coalesce(sum(n.size), 0) AS bytes, max(p.expires)
                 FROM pins p JOIN nodes n ON n.id = p.node WHERE p.holder = ? AND p.expires > ?",
                params![holder, now.nanos()],
                |row| {
                    Ok(Held {
                        files: uint(row, "files")?,
                        bytes: uint(row, "bytes")?,
                        until: row.get::<_, Option<i64>>(2)?.map(time),
                    })
                },
                "count the pins of",
                holder,
            )?;
            Ok(held.unwrap_or_default())
        })
    }

    /// What jobs keep on disk at `now`. Reads every pin.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn job_pins(&self, now: Timestamp) -> Result<JobPins, CatalogError> {
        self.read(|connection| {
            let mut sum = JobPins::default();
            // The node whose pins are being met.
            let (mut node, mut met) = (None, Pinned::default());
            all(
                connection,
                "SELECT p.node, p.holder, n.size, n.blocks, n.state
                 FROM pins p JOIN nodes n ON n.id = p.node
                 WHERE p.expires > ? ORDER BY p.node",
                [now.nanos()],
                |row| {
                    let (this, holder): (i64, String) = (row.get(0)?, row.get(1)?);
                    if node != Some(this) {
                        std::mem::take(&mut met).add_to(&mut sum);
                        node = Some(this);
                        let (size, space) = (uint(row, 2)?, uint(row, 3)?.saturating_mul(512));
                        let state = coded::<FileState>(row, 4)?;
                        met.bytes = match state {
                            FileState::Released | FileState::Lost => size,
                            _ => size.min(space),
                        };
                        met.archived = if state == FileState::Archived {
                            space
                        } else {
                            0
                        };
                    }
                    let Some((user, job)) = job_of(&holder) else {
                        met.others = true;
                        return Ok(());
                    };
                    let by = sum.by_job.entry((user, job.to_owned())).or_default();
                    *by = by.saturating_add(met.bytes);
                    if !met.users.contains(&user) {
                        met.users.push(user);
                    }
                    Ok(())
                },
                "count",
                "pins",
            )?;
            met.add_to(&mut sum);
            Ok(sum)
        })
    }

    /// Whose jobs pin each of these files at `now`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn pinned_by_jobs(
        &self,
        nodes: &[NodeId],
        uid: u32,
        now: Timestamp,
    ) -> Result<Vec<PinnedBy>, CatalogError> {
        self.read(|connection| {
            let by = |node: &NodeId| {
                let holders = all(
                    connection,
                    "SELECT holder FROM pins WHERE node = ? AND expires > ?",
                    params![node.0, now.nanos()],
                    |row| row.get::<_, String>(0),
                    "find pins",
                    node,
                )?;
                let jobs = holders.iter().filter_map(|holder| job_of(holder));
                let by = jobs.map(|(user, _)| match user == uid {
                    true => PinnedBy::User,
                    false => PinnedBy::Others,
                });
                Ok(by.max().unwrap_or(PinnedBy::Nobody))
            };
            nodes.iter().map(by).collect()
        })
    }

    /// Until when a file is pinned, by whom ever; `None`: not pinned at `now`.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn pinned_until(
        &self,
        node: NodeId,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, CatalogError> {
        self.read(|connection| {
            let until = first(
                connection,
                "SELECT max(expires) FROM pins WHERE node = ? AND expires > ?",
                params![node.0, now.nanos()],
                |row| row.get::<_, Option<i64>>(0),
                "find pins",
                node,
            )?;
            Ok(until.flatten().map(time))
        })
    }

    /// The pins of a file, expired ones that were not yet swept included.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn pins(&self, node: NodeId) -> Result<Vec<Pin>, CatalogError> {
        self.read(|connection| of(connection, node))
    }

    /// Sweeps away at most `limit` pins that have expired; gives how many.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn expire_pins(&self, now: Timestamp, limit: usize) -> Result<u64, CatalogError> {
        self.write(Durability::Relaxed, move |connection| {
            let swept = change(
                connection,
                "DELETE FROM pins WHERE (node, holder) IN
                     (SELECT node, holder FROM pins WHERE expires <= ? LIMIT ?)",
                params![now.nanos(), page(limit)],
                "sweep",
                "pins",
            )?;
            Ok(swept as u64)
        })
    }
}

/// The pins of a node.
pub(super) fn of(connection: &Connection, node: NodeId) -> Result<Vec<Pin>, CatalogError> {
    all(
        connection,
        "SELECT node, holder, expires FROM pins WHERE node = ? LIMIT ?",
        params![node.0, page(super::PAGE_MAX)],
        |row| {
            Ok(Pin {
                node: NodeId(row.get(0)?),
                holder: row.get(1)?,
                expires: time(row.get(2)?),
            })
        },
        "find pins",
        node,
    )
}
