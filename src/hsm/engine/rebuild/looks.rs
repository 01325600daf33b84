//! Records and files against what the tiers were found to hold.
//!
//! Invariants:
//! - Where a tier was read to its end, a record's word about it counts only if an aggregate bears it
//!   out: by the file's identity, or by place and sum (an adopted stub).
//! - A file without a record becomes known as archived only if it has the sum of a member, and as lost
//!   only if it holds nothing and a member of its size and modification time does. What fits two
//!   different files by looks alone is left alone.

use super::super::{EngineError, Shared};
use super::CompleteTiers;
use crate::catalog::{self, Node, Remembrance};
use crate::format::record::Record;
use crate::hsm::backing::FileStat;

/// Names of an inode, and files of its looks, that are considered.
const CONSIDERED: usize = 100;

/// That a rebuild read tiers.
pub(in crate::hsm::engine) struct Read {
    /// Those of which all was read.
    pub(super) complete: CompleteTiers,
    /// What records say of the others counts.
    pub(super) hints: bool,
}

impl Shared {
    /// The copies that a record names: all of them, or, in a rebuild that read tiers, those that it may
    /// be believed about.
    pub(in crate::hsm::engine) fn believable_copies(
        &self,
        record: &Record,
    ) -> Result<Vec<catalog::Copy>, EngineError> {
        let named = self.copies_of_record(record);
        let Some(read) = self.late.read.get() else {
            return Ok(named);
        };
        let mut copies = Vec::with_capacity(named.len());
        for copy in named {
            if !read.complete.contains(&copy.tier) {
                if read.hints {
                    copies.push(copy);
                }
                continue;
            }
            let place = (copy.tier, copy.aggregate, copy.header);
            let found = self.catalog.copy_at(place.0, place.1, place.2, copy.crc)?;
            match found {
                Some(found) => copies.push(catalog::Copy {
                    file: copy.file,
                    version: copy.version,
                    ..found
                }),
                // It may be there; a read tries it.
                None if self.catalog.was_damaged(place.0, place.1)? => {
                    let state = catalog::CopyState::Suspect;
                    copies.push(catalog::Copy { state, ..copy });
                }
                None => {}
            }
        }
        Ok(copies)
    }

    /// In a rebuild that read tiers: what was suspect because a record alone told of it, and an index
    /// bears out, is good.
    pub(in crate::hsm::engine) fn bear_out(
        &self,
        node: catalog::NodeId,
        record: &Record,
    ) -> Result<(), EngineError> {
        if !self.has_read_tiers() {
            return Ok(());
        }
        let mut suspect = self.catalog.copies(record.file, record.version)?;
        suspect.retain(|copy| copy.state == catalog::CopyState::Suspect);
        if suspect.is_empty() {
            return Ok(());
        }
        let mut good = self.believable_copies(record)?;
        good.retain(|copy| {
            let place = |s: &catalog::Copy| (s.tier, s.aggregate) == (copy.tier, copy.aggregate);
            copy.state == catalog::CopyState::Good && suspect.iter().any(place)
        });
        if !good.is_empty() {
            self.catalog.bear_out(node, good)?;
        }
        Ok(())
    }

    /// In a rebuild that read all tiers that a record names: is its version on none of them?
    pub(in crate::hsm::engine) fn is_on_no_tier(
        &self,
        record: &Record,
    ) -> Result<bool, EngineError> {
        let Some(read) = self.late.read.get() else {
            return Ok(false);
        };
        let all_read = record
            .copies
            .iter()
            .all(|c| read.complete.contains(&c.tier));
        if record.copies.is_empty() || !all_read {
            return Ok(false);
        }
        let known = self.catalog.copies(record.file, record.version)?;
        let mut borne_out = false;
        for copy in known {
            borne_out |= copy.crc == record.crc && !self.is_hint(&copy)?;
        }
        Ok(!borne_out && self.believable_copies(record)?.is_empty())
    }

    /// Is a copy on a tier that was read, and only a record tells of it?
    fn is_hint(&self, copy: &catalog::Copy) -> Result<bool, EngineError> {
        let read = self.late.read.get();
        Ok(copy.state == catalog::CopyState::Suspect
            && read.is_some_and(|read| read.complete.contains(&copy.tier))
            && !self.catalog.was_damaged(copy.tier, copy.aggregate)?)
    }

    /// A rebuild read tiers: files without a record are looked for in what these hold.
    pub(in crate::hsm::engine) fn has_read_tiers(&self) -> bool {
        self.late.read.get().is_some()
    }

    /// The archived files that a file without a record may be, likeliest first: of its size and
    /// modification time, under one of its names; else under any name.
    pub(in crate::hsm::engine) fn lookalikes(
        &self,
        node: &Node,
        stat: &FileStat,
    ) -> Result<Vec<Lookalike>, EngineError> {
        let mut found: Vec<Lookalike> = Vec::new();
        let mut add = |it: Remembrance, by_name| {
            let known = |other: &Lookalike| other.it.version == it.version;
            if !found.iter().any(known) {
                found.push(Lookalike { it, by_name });
            }
        };
        for name in self.catalog.all_names(node.id, CONSIDERED)? {
            let it = self.catalog.remembered_as(&name)?;
            let fits = |it: &Remembrance| (it.size, it.mtime) == (stat.size, stat.mtime);
            if let Some(it) = it.filter(fits) {
                add(it, true);
            }
        }
        for it in self
            .catalog
            .remembered_alike(stat.size, stat.mtime, CONSIDERED)?
        {
            add(it, false);
        }
        let mut free = Vec::new();
        for candidate in found {
            // Another inode is that file already.
            let holders = self.catalog.nodes_by_file(candidate.it.version.file)?;
            if holders.iter().all(|holder| holder.id == node.id) {
                free.push(candidate);
            }
        }
        Ok(free)
    }
}

/// An archived file that looks like one on the backing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm::engine) struct Lookalike {
    pub(in crate::hsm::engine) it: Remembrance,
    /// It had one of its names.
    pub(in crate::hsm::engine) by_name: bool,
}

/// The one that a file which holds nothing must be, if any: one of its name, else the only one of its
/// looks, and its owner's.
pub(in crate::hsm::engine) fn the_only(
    found: &[Lookalike],
    stat: &FileStat,
) -> Option<Remembrance> {
    let named = found.iter().find(|l| l.by_name).map(|l| l.it);
    let only = || match found {
        [one] => Some(one.it),
        _ => None,
    };
    named
        .or_else(only)
        .filter(|it| it.owner == (stat.uid, stat.gid))
}
