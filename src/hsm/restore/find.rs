//! Which snapshots a tier has, and the chain that leads to the one asked for.
//!
//! Names tell: those of an epoch stand behind all its other aggregates, so finding them takes a few
//! listings for each start of the instance, and no look into any aggregate of files.

use super::{Order, RestoreError};
use crate::format::aggregate::{BLOCK, IndexEntry};
use crate::format::namespace::{
    self, Directory, End, Entry, Fold, Head, Line, ListingError, Reader,
};
use crate::hsm::index_cache::{IndexCache, Loaded};
use crate::id::{AggregateId, FsUuid, Timestamp};
use crate::tier::{Tier, TierError};
use cairn_mover::Checked;
use std::sync::Arc;

/// Names asked for at a time.
const PAGE: usize = 1000;
/// No chain is longer; what says so is damaged.
const LONGEST: u32 = 4096;

/// A snapshot on a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub id: AggregateId,
    /// When its walk began.
    pub begun: Timestamp,
    /// On which it stands; `None`: it is a full one.
    pub base: Option<AggregateId>,
    /// Steps from the full one.
    pub depth: u32,
    /// Bytes of its listing.
    pub bytes: u64,
}

/// A snapshot's name, and what it is, or why it cannot be read.
pub type Listed = (AggregateId, Result<Found, RestoreError>);
/// Snapshots that cannot be used, and why.
pub(super) type Skipped = Vec<(AggregateId, String)>;

/// A snapshot of the chain.
pub(super) struct Link {
    pub(super) found: Found,
    pub(super) head: Head,
    pub(super) loaded: Arc<Loaded>,
}

impl Link {
    /// The members that the listing is cut into, in order.
    pub(super) fn parts(&self) -> Result<Vec<&IndexEntry>, RestoreError> {
        parts(self.found.id, &self.loaded)
    }
}

/// Names of all snapshots, oldest first; and the newest epoch that the tier knows at all.
pub(super) fn names(tier: &dyn Tier) -> Result<(Vec<AggregateId>, u32), TierError> {
    let (mut found, mut newest, mut after) = (Vec::new(), 0, None);
    while let Some(next) = tier.list(after, 1)?.first().copied() {
        let epoch = next.epoch;
        newest = newest.max(epoch);
        let mut from = AggregateId {
            epoch,
            seq: AggregateId::NAMESPACE - 1,
        };
        loop {
            let page = tier.list(Some(from), PAGE)?;
            let of_epoch = page
                .iter()
                .filter(|id| id.epoch == epoch && id.is_snapshot() && !id.is_part());
            found.extend(of_epoch.copied());
            match page.last() {
                Some(last) if last.epoch == epoch && page.len() >= PAGE => from = *last,
                _ => break,
            }
        }
        after = Some(AggregateId {
            epoch,
            seq: u64::MAX,
        });
    }
    Ok((found, newest))
}

/// Names of all snapshots, oldest first.
pub(in crate::hsm) fn snapshot_names(tier: &dyn Tier) -> Result<Vec<AggregateId>, TierError> {
    Ok(names(tier)?.0)
}

/// What a snapshot says of itself, and how long its object is.
pub(in crate::hsm) struct Seen {
    pub(in crate::hsm) found: Found,
    /// Of which backing.
    pub(in crate::hsm) fs: FsUuid,
    /// Length of the object, bytes.
    pub(in crate::hsm) len: u64,
}

/// Reads a snapshot's index and its head.
pub(in crate::hsm) fn see(
    tier: &dyn Tier,
    indexes: &IndexCache,
    id: AggregateId,
) -> Result<Seen, RestoreError> {
    let len = tier.stat(id)?;
    let link = look(tier, indexes, id)?;
    Ok(Seen {
        found: link.found,
        fs: link.head.fs,
        len,
    })
}

struct Proof;

impl Fold for Proof {
    type Error = ListingError;
    fn head(&mut self, _: Head) -> Result<(), ListingError> {
        Ok(())
    }
    fn directory(&mut self, _: u64, _: u64, _: Directory) -> Result<(), ListingError> {
        Ok(())
    }
    fn entry(&mut self, _: u64, _: Entry) -> Result<(), ListingError> {
        Ok(())
    }
}

/// Reads all of a snapshot's own listing, as a restore does; its last line. `go_on` is asked before
/// each block; `None`: it said no.
///
/// # Errors
/// A restore would fail the same way.
pub(in crate::hsm) fn read_whole(
    tier: &dyn Tier,
    indexes: &IndexCache,
    id: AggregateId,
    go_on: &dyn Fn() -> bool,
) -> Result<Option<End>, RestoreError> {
    let link = look(tier, indexes, id)?;
    let mut reader = Reader::new(id);
    for part in link.parts()? {
        for n in 0..part.block_count() {
            if !go_on() {
                return Ok(None);
            }
            reader.feed(&block(tier, id, part, n)?, &mut Proof)?;
        }
    }
    Ok(Some(reader.finish()?))
}

/// All snapshots of a tier, newest first; of those that cannot be read, why.
///
/// # Errors
/// The tier cannot be listed.
pub fn all(tier: &dyn Tier) -> Result<Vec<Listed>, RestoreError> {
    let indexes = IndexCache::new(super::INDEXES);
    let (names, _) = names(tier)?;
    let one = |id: AggregateId| (id, look(tier, &indexes, id).map(|link| link.found));
    Ok(names.into_iter().rev().map(one).collect())
}

fn parts(id: AggregateId, loaded: &Loaded) -> Result<Vec<&IndexEntry>, RestoreError> {
    let entries = &loaded.index().entries;
    for (at, entry) in (1..).zip(entries) {
        if entry.member.path.as_bytes() != namespace::part_path(id, at).as_bytes() {
            return Err(RestoreError::Snapshot {
                snapshot: id,
                why: format!("{} is not its part {at}", entry.member.path),
            });
        }
    }
    if entries.is_empty() {
        return Err(RestoreError::Snapshot {
            snapshot: id,
            why: "it lists nothing".to_owned(),
        });
    }
    Ok(entries.iter().collect())
}

/// A block of a member, proven.
pub(super) fn block(
    tier: &dyn Tier,
    id: AggregateId,
    entry: &IndexEntry,
    n: u64,
) -> Result<bytes::Bytes, RestoreError> {
    let bad = |why: String| RestoreError::Snapshot { snapshot: id, why };
    let place = entry
        .block(n)
        .ok_or_else(|| bad(format!("{} has no block {n}", entry.member.path)))?;
    let bytes = tier.read(place.object(id), place.offset_in_object, place.len)?;
    let checked = Checked::verify(bytes, place.crc);
    checked
        .map(Checked::into_bytes)
        .map_err(|why| bad(format!("block {n} of {}: {why}", entry.member.path)))
}

pub(super) fn look(
    tier: &dyn Tier,
    indexes: &IndexCache,
    id: AggregateId,
) -> Result<Link, RestoreError> {
    let loaded = indexes.load(tier, tier.mark().tier, id)?;
    let bad = |why: String| RestoreError::Snapshot { snapshot: id, why };
    let parts = parts(id, &loaded)?;
    let first = block(tier, id, parts[0], 0)?;
    let end = first.iter().position(|b| *b == b'\n');
    let line = first.get(..end.unwrap_or(BLOCK as usize)).unwrap_or(&first);
    let head = match namespace::decode_line(line) {
        Ok(Line::Head(head)) if head.snapshot == id => head,
        Ok(_) => return Err(bad("its first line is not its head".to_owned())),
        Err(why) => return Err(bad(format!("its head: {why}"))),
    };
    let found = Found {
        id,
        begun: head.begun,
        base: head.base.map(|b| b.snapshot),
        depth: head.base.map_or(0, |b| b.depth),
        bytes: parts.iter().map(|p| p.stored_len()).sum(),
    };
    Ok(Link {
        found,
        head,
        loaded,
    })
}

/// The chain that leads to the newest usable snapshot at or before the time asked for, the full one
/// first; and the newer ones that could not be used. `only`: the one that a restore began with.
pub(super) fn chain(
    order: &Order<'_>,
    indexes: &IndexCache,
    only: Option<AggregateId>,
) -> Result<(Vec<Link>, Skipped), RestoreError> {
    let (names, _) = names(order.tier)?;
    let mut skipped = Vec::new();
    let mut reach: Option<Timestamp> = None;
    // Of those that were skipped, so many are newer than one of a later time than was asked for.
    let mut too_new = 0;
    for id in names.iter().rev() {
        if only.is_some_and(|only| only != *id) {
            continue;
        }
        let link = match look(order.tier, indexes, *id) {
            Ok(link) => link,
            Err(why) if why.is_damage() => {
                skipped.push((*id, why.to_string()));
                continue;
            }
            // An older one would pass for the newest.
            Err(why) => return Err(why),
        };
        if order.at.is_some_and(|at| link.found.begun > at) {
            too_new = skipped.len();
            // As far back as a full one, which alone is enough.
            if link.found.base.is_none() {
                let begun = link.found.begun;
                reach = Some(reach.map_or(begun, |reach| reach.min(begun)));
            }
            continue;
        }
        match below(order.tier, indexes, link) {
            Ok(chain) => return Ok((chain, skipped)),
            Err(why) if why.is_damage() => skipped.push((*id, why.to_string())),
            Err(why) => return Err(why),
        }
    }
    let of_then = reach.map_or("", |_| " of that time or before");
    let of_any = || skipped.first().filter(|_| reach.is_none());
    let why = match skipped.get(too_new).or_else(of_any) {
        Some((id, why)) => Some(format!("{of_then} that can be used: {id}: {why}")),
        None => reach.map(|_| of_then.to_owned()),
    };
    Err(RestoreError::None { why, reach })
}

/// A snapshot and what it stands on.
fn below(tier: &dyn Tier, indexes: &IndexCache, top: Link) -> Result<Vec<Link>, RestoreError> {
    let mut chain = vec![top];
    while let Some(Link { found, head, .. }) = chain.last() {
        let bad = |why: &str| RestoreError::Snapshot {
            snapshot: found.id,
            why: why.to_owned(),
        };
        let Some(base) = head.base else {
            break;
        };
        if base.depth > LONGEST || base.snapshot >= found.id {
            return Err(bad("what it stands on cannot be so"));
        }
        let next = look(tier, indexes, base.snapshot)?;
        if next.found.depth + 1 != base.depth || next.head.fs != head.fs {
            return Err(bad("what it stands on is not what it says"));
        }
        chain.push(next);
    }
    chain.reverse();
    Ok(chain)
}
