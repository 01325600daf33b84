//! Copies: how many are asked for, on which tiers, which of them count for a release (P3), and
//! which a file still lacks.

use super::{EngineError, Shared, Slot};
use crate::catalog::{Aggregate, Copy, CopyState, FileState, Life, Node, ProofKind};
use crate::format::aggregate::Index;
use crate::format::record::{CopyHint, Record};
use crate::hsm::index_cache::{IndexCache, Loaded};
use crate::hsm::parts;
use crate::id::{AggregateId, TierId};
use std::cell::Cell;
use std::sync::Arc;

impl Shared {
    /// Copies on this tier protect what the backing loses, or the administrator takes them as if
    /// they did.
    pub(super) fn counts(&self, slot: &Slot) -> bool {
        self.settings.allow_same_fs || slot.weakness(&self.backing).is_none()
    }

    /// Copies that must be proven before blocks go.
    pub(super) fn copies_asked(&self) -> u32 {
        let held = self.policy.lock();
        held.policy.settings.copies.max(self.settings.copies)
    }

    /// Tiers that a file is archived to: as many as copies are asked, in their order, but those
    /// whose copies count for nothing only where there are no others.
    pub(super) fn archive_tiers(&self) -> Vec<TierId> {
        let (strong, weak): (Vec<_>, Vec<_>) = self.tiers.iter().partition(|t| self.counts(t));
        let in_order = strong.into_iter().chain(weak).map(|t| t.id);
        in_order.take(self.copies_asked() as usize).collect()
    }

    /// May anything be released on this backing?
    pub(super) fn release_allowed(&self) -> Result<(), String> {
        self.backing
            .capabilities()
            .release()
            .map_err(ToString::to_string)?;
        if !self.settings.unsafe_open_backing {
            match self.backing.users_can_reach() {
                Ok(crate::hsm::backing::Reach::Guarded { .. }) => {}
                Ok(crate::hsm::backing::Reach::Open) => {
                    return Err("users can reach the backing directory, where a released file reads as zeros; \
                                put it below a directory of mode 0700 (`cairn adopt` does that)"
                        .into());
                }
                Err(why) => return Err(why.to_string()),
            }
        }
        self.enough_places()
    }

    /// There are tiers for all copies that a release would have to prove.
    fn enough_places(&self) -> Result<(), String> {
        if self.tiers.is_empty() {
            return Err("no tier is configured".into());
        }
        let weak: Vec<String> = self
            .tiers
            .iter()
            .filter(|t| !self.counts(t))
            .filter_map(|t| Some(format!("tier {} {}", t.name, t.weakness(&self.backing)?)))
            .collect();
        let asked = (self.copies_asked() as usize).min(self.tiers.len());
        if self.tiers.len() - weak.len() >= asked {
            return Ok(());
        }
        Err(format!(
            "{asked} of the copies asked for must be on tiers that protect something, and {} \
             (--allow-same-fs releases all the same)",
            weak.join("; ")
        ))
    }

    /// Good copies of the file's present version that count, on different tiers; from the
    /// catalog alone.
    pub(super) fn counted(&self, node: &Node) -> Result<Vec<TierId>, EngineError> {
        let Some(version) = node.version else {
            return Ok(Vec::new());
        };
        let mut tiers: Vec<TierId> = Vec::new();
        for copy in self.catalog.copies(version.file, version.version)? {
            let good = copy.state == CopyState::Good && copy.crc == version.crc;
            let counts = || self.slot(copy.tier).is_some_and(|slot| self.counts(slot));
            if good && !tiers.contains(&copy.tier) && counts() {
                tiers.push(copy.tier);
            }
        }
        Ok(tiers)
    }

    /// How many copies of a file count; the catalog's own number where every tier's do.
    pub(super) fn copies_that_count(&self, node: &Node) -> Result<u32, EngineError> {
        if node.copies == 0 || self.all_count()? {
            return Ok(node.copies);
        }
        Ok(u32::try_from(self.counted(node)?.len()).unwrap_or(u32::MAX))
    }

    /// Every tier that the catalog knows is configured, and its copies count.
    pub(super) fn all_count(&self) -> Result<bool, EngineError> {
        Ok(self.useless_tiers()? == 0)
    }

    /// Tiers that the catalog knows and whose copies count for nothing now: weak ones, and those
    /// that are not configured any more.
    pub(super) fn useless_tiers(&self) -> Result<u32, EngineError> {
        let known = self.catalog.tiers()?;
        let useless = known
            .iter()
            .filter(|row| self.slot(row.id).is_none_or(|slot| !self.counts(slot)));
        Ok(u32::try_from(useless.count()).unwrap_or(u32::MAX))
    }

    /// Tiers that a file must still be archived to, as policy asks: all of its tiers if its data
    /// are new, else as many as it has too few copies.
    pub(super) fn lacking(&self, node: &Node) -> Result<Vec<TierId>, EngineError> {
        let mut tiers = self.archive_tiers();
        if !matches!(node.state, FileState::Archived | FileState::Released) {
            return Ok(tiers);
        }
        let have = self.counted(node)?;
        let missing = (self.copies_asked() as usize).saturating_sub(have.len());
        tiers.retain(|tier| !have.contains(tier));
        tiers.truncate(missing);
        Ok(tiers)
    }

    /// Copies of this very version that the catalog has as good, on tiers that answer now and
    /// whose copies count: one for each tier.
    pub(super) fn prove(&self, record: &Record, ahead: &Ahead) -> Result<Vec<CopyHint>, String> {
        let copies = self
            .catalog
            .copies(record.file, record.version)
            .map_err(|e| e.to_string())?;
        self.proven_of(copies.iter().filter(|c| c.crc == record.crc), ahead)
    }

    /// Of these copies of one version those that are good, on tiers that answer now and whose copies
    /// count: one for each tier.
    pub(super) fn proven_of<'a>(
        &self,
        copies: impl Iterator<Item = &'a Copy>,
        ahead: &Ahead,
    ) -> Result<Vec<CopyHint>, String> {
        let mut proven: Vec<CopyHint> = Vec::new();
        for copy in copies.filter(|c| c.state == CopyState::Good) {
            if proven.iter().all(|p| p.tier != copy.tier) && self.is_proof(copy, ahead)? {
                proven.push(CopyHint {
                    tier: copy.tier,
                    aggregate: copy.aggregate,
                    header: copy.header,
                });
            }
        }
        Ok(proven)
    }

    fn is_proof(&self, copy: &Copy, ahead: &Ahead) -> Result<bool, String> {
        let Some(slot) = self.slot(copy.tier) else {
            return Ok(false);
        };
        let known = self
            .catalog
            .aggregate(copy.tier, copy.aggregate)
            .map_err(|e| e.to_string())?;
        // Its object is being deleted.
        if known.is_some_and(|a| a.life == Life::Doomed) {
            return Ok(false);
        }
        let Some(known) = known else {
            return Ok(false);
        };
        let lasting = known.proof != ProofKind::Volatile;
        // In this order: what a tier is worth is known once it was seen.
        Ok((lasting || self.settings.allow_same_fs)
            && self.aggregate_is_live(slot, &known, ahead)
            && self.counts(slot))
    }

    /// The tier answers, and the aggregate is there at its full length, and so are its parts. No index
    /// is read for it.
    fn aggregate_is_live(&self, slot: &Slot, row: &Aggregate, ahead: &Ahead) -> bool {
        let tier = &*slot.tier;
        let told = tier.stat(row.id).map_err(|why| why.to_string());
        let live = told.and_then(|own| match row.in_parts {
            Some(false) => Ok(row.len == own),
            _ => match ahead.index(slot.id, row.id) {
                Some(loaded) => parts::are_there(tier, row.id, loaded.index().parts())
                    .map(|()| fits(row, own, loaded.index()))
                    .map_err(|(part, why)| format!("part {part}: {why}")),
                None => Ok(false),
            },
        });
        live.unwrap_or_else(|why| {
            tracing::warn!(tier = %slot.name, aggregate = %row.id, why, "a copy cannot be proven now");
            false
        })
    }

    /// Reads what [`Self::proven_of`] must know of these copies and the catalog does not: where the parts of
    /// files lie, and which aggregates are in parts. Of an ordinary one nothing is read.
    pub(super) fn look_ahead<'a>(
        &self,
        copies: impl Iterator<Item = &'a Copy>,
    ) -> Result<Ahead, EngineError> {
        let mut ahead = Ahead::default();
        for copy in copies.filter(|c| c.state == CopyState::Good) {
            let Some(slot) = self.slot(copy.tier) else {
                continue;
            };
            let row = self.catalog.aggregate(copy.tier, copy.aggregate)?;
            let Some(row) = row.filter(|row| row.in_parts != Some(false)) else {
                continue;
            };
            let loaded = match row.in_parts {
                Some(_) => self
                    .recaller()
                    .and_then(|r| self.told(slot, row.id, r.indexes())),
                // What is kept of it may not be what lies there.
                None => self.told(slot, row.id, &IndexCache::new(0)),
            };
            if let (None, Some(loaded)) = (row.in_parts, &loaded) {
                self.learn_parts(slot, &row, loaded.index())?;
            }
            ahead.tried.push((slot.id, row.id, loaded));
        }
        Ok(ahead)
    }

    fn told(&self, slot: &Slot, id: AggregateId, from: &IndexCache) -> Option<Arc<Loaded>> {
        let loaded = from.load(&*slot.tier, slot.id, id);
        loaded
            .inspect_err(|why| {
                tracing::warn!(tier = %slot.name, aggregate = %id, %why, "a copy cannot be proven now");
            })
            .ok()
    }

    /// Notes what the index said, if all of it is there.
    fn learn_parts(&self, slot: &Slot, row: &Aggregate, index: &Index) -> Result<(), EngineError> {
        let there = parts::are_there(&*slot.tier, row.id, index.parts()).is_ok();
        if let Ok(own) = slot.tier.stat(row.id)
            && there
            && fits(row, own, index)
        {
            let known = (index.len_with_parts(own), !index.parts().is_empty());
            self.catalog.learn_length(slot.id, row.id, known)?;
        }
        Ok(())
    }
}

/// The length in the catalog is the sum of all; or is that of the object itself, where its index was not read.
fn fits(row: &Aggregate, own: u64, index: &Index) -> bool {
    let unread = row.in_parts.is_none() && (row.len == 0 || row.len == own);
    unread || row.len == index.len_with_parts(own)
}

/// Indexes that were read before a file's users are shut out: while they are, no tier is read, which may take
/// minutes.
#[derive(Default)]
pub(super) struct Ahead {
    /// `None`: it could not be read.
    tried: Vec<(TierId, AggregateId, Option<Arc<Loaded>>)>,
    missed: Cell<bool>,
}

impl Ahead {
    fn index(&self, tier: TierId, id: AggregateId) -> Option<&Loaded> {
        let found = self.tried.iter().find(|one| (one.0, one.1) == (tier, id));
        self.missed.set(self.missed.get() || found.is_none());
        found?.2.as_deref()
    }

    /// Something that was not looked at was asked for: the copies changed meanwhile.
    pub(super) fn missed(&self) -> bool {
        self.missed.get()
    }
}
