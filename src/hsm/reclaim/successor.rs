//! For which newer full snapshot another may go.
//!
//! Invariants:
//! - It has been on the tier for the whole window, proven by the tier's receipt; its index and head
//!   were read in this pass, and all of it once since the start.
//! - It has no more gaps than the full one on which the other stands: names that only the older ones
//!   list stay. How many an old one has that no row says, it is asked itself; what cannot be known
//!   counts as none.

use super::census::strange;
use super::listings::read;
use super::{Ground, ReclaimError, Report};
use crate::catalog::{Bound, NamespaceSnapshot, ProofKind};
use crate::id::{AggregateId, Timestamp};
use std::collections::BTreeMap;

/// Those of a pass.
pub(super) struct Successors<'a> {
    pub(super) ground: &'a Ground<'a>,
    /// All snapshots of the tier, oldest first.
    pub(super) rows: &'a [NamespaceSnapshot],
    pub(super) bound: Bound,
    /// Nothing is to be noted.
    pub(super) dry: bool,
    /// Full ones that were looked at: their gaps; `None`: nothing may go for them.
    pub(super) looked: BTreeMap<AggregateId, Option<u64>>,
}

impl Successors<'_> {
    /// The newest one for which `row` may go. `None`: it stays, and the report says why, unless there
    /// is none at all.
    pub(super) fn of(
        &mut self,
        row: &NamespaceSnapshot,
        report: &mut Report,
    ) -> Result<Option<AggregateId>, ReclaimError> {
        let mut poorer = None;
        let newer = self.rows.iter().rev().take_while(|by| by.id > row.id);
        let before = self.bound.before;
        for by in newer.filter(|by| is_old_and_proven(by, before)) {
            let gaps = match by.gaps {
                Some(gaps) => Some(gaps),
                None => self.look(by, report)?,
            };
            let Some(gaps) = gaps else { continue };
            if gaps > 0 {
                match self.gaps_below(row)? {
                    Ok(own) if gaps <= own => {}
                    Ok(own) => {
                        let why = format!("{} has {gaps} gaps, and it has {own}", by.id);
                        poorer.get_or_insert(why);
                        continue;
                    }
                    Err(unknown) => {
                        let why = format!("{} has {gaps} gaps, and of it {unknown}", by.id);
                        poorer.get_or_insert(why);
                        continue;
                    }
                }
            }
            if self.look(by, report)?.is_some() {
                return Ok(Some(by.id));
            }
        }
        if let Some(why) = poorer {
            strange(
                report,
                row.id,
                format!("it may list more than newer ones: {why}"),
            );
        }
        Ok(None)
    }

    /// Reads a full one: its gaps, if all of it is there and proven.
    fn look(
        &mut self,
        row: &NamespaceSnapshot,
        report: &mut Report,
    ) -> Result<Option<u64>, ReclaimError> {
        if let Some(known) = self.looked.get(&row.id) {
            return Ok(*known);
        }
        self.ground.go_on()?;
        let found = match read(self.ground, row.id) {
            Ok(seen) if seen.len == row.len => self.ground.memory.whole(self.ground, row.id)?,
            Ok(seen) => Err(format!(
                "it is {} bytes long, and was {}",
                seen.len, row.len
            )),
            Err(why) if why.is_of_one() => Err(why.to_string()),
            Err(why) => return Err(why),
        };
        let found = match found {
            Ok(gaps) => Some(gaps),
            Err(why) => {
                strange(report, row.id, why);
                None
            }
        };
        if let Some(gaps) = found {
            self.note(row, gaps)?;
        }
        self.looked.insert(row.id, found);
        Ok(found)
    }

    /// The gaps of the full one on which a snapshot stands (itself, if it is one), or why they are
    /// not known. Those of incremental ones say nothing: they list what changed.
    fn gaps_below(&self, row: &NamespaceSnapshot) -> Result<Result<u64, String>, ReclaimError> {
        let mut full = row;
        while let Some(base) = full.base {
            let found = self.rows.binary_search_by_key(&base, |row| row.id);
            match found.ok().filter(|_| base < full.id) {
                Some(at) => full = &self.rows[at],
                None => return Ok(Err(format!("it is not known: {base} is not there"))),
            }
        }
        if let Some(gaps) = full.gaps {
            return Ok(Ok(gaps));
        }
        let found = self.ground.memory.whole(self.ground, full.id)?;
        if let Ok(gaps) = found {
            self.note(full, gaps)?;
        }
        Ok(found.map_err(|why| format!("it is not known: {why}")))
    }

    fn note(&self, row: &NamespaceSnapshot, gaps: u64) -> Result<(), ReclaimError> {
        if !self.dry && row.gaps != Some(gaps) {
            let ground = self.ground;
            ground.catalog.note_snapshot_gaps(ground.id, row.id, gaps)?;
        }
        Ok(())
    }
}

fn is_old_and_proven(row: &NamespaceSnapshot, before: Timestamp) -> bool {
    let proven = !matches!(row.proof, ProofKind::Learned | ProofKind::Volatile);
    row.base.is_none() && proven && row.ended_at <= before
}
