//! Parts of a file whose aggregate is nowhere: what a crash left between two of them, or a deletion that
//! was cut short, or all that there is of a file whose last part was lost.
//!
//! Invariants:
//! - A part whose aggregate lies on the tier, or has a row, has none of its own, and is deleted after it alone.
//! - Any other waits as long as an aggregate that nobody knows, is condemned, waits, and is looked at again
//!   before it goes (P8). It stays while its version is needed, by its own index, and no proven copy of that lies
//!   on the tier: its aggregate may come back, from a cartridge that is away, say. Without it nothing
//!   of it can be read but with tar: the sums and places of a file in parts are in the index of its aggregate.

use super::judge::{Judged, inode_holds};
use super::{Act, Ground, ReclaimError, Report, decide_one};
use crate::catalog::{Aggregate, Departed, Hold, Life, MemberKey};
use crate::format::aggregate::Index;
use crate::hsm::verify::{VerifyError, read_index};
use crate::id::AggregateId;
use crate::tier::TierError;

/// Whose a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Its aggregate is there, or has a row.
    Its,
    /// Its aggregate is nowhere.
    Nobody,
    /// Where its aggregate would lie cannot be looked at now.
    Unseen,
}

/// Those parts of older epochs whose aggregate is nowhere, and that have no rows.
pub(super) fn among(
    ground: &Ground<'_>,
    parts: &[AggregateId],
) -> Result<Vec<AggregateId>, ReclaimError> {
    let mut orphans = Vec::new();
    for part in ground.catalog.unknown(ground.id, parts)? {
        ground.go_on()?;
        if whose(ground, part)? == Whose::Nobody {
            orphans.push(part);
        }
    }
    Ok(orphans)
}

fn whose(ground: &Ground<'_>, part: AggregateId) -> Result<Whose, ReclaimError> {
    if ground.catalog.aggregate(ground.id, part.head())?.is_some() {
        return Ok(Whose::Its);
    }
    Ok(match ground.tier.stat(part.head()) {
        Ok(_) => Whose::Its,
        Err(TierError::Missing { .. }) => Whose::Nobody,
        // One cartridge that is away keeps nobody from the others.
        Err(_) => Whose::Unseen,
    })
}

/// Judges a part: by its own index, of which version it is.
pub(super) fn judge(ground: &Ground<'_>, part: AggregateId) -> Result<Judged, ReclaimError> {
    let index = match read_index(ground.tier, part) {
        Ok((_, index)) => index,
        Err(VerifyError::Tier(TierError::Unavailable { .. } | TierError::NotRestored { .. })) => {
            let nothing = Index {
                aggregate: part,
                fs: ground.backing.fs(),
                composed: (ground.now)(),
                entries: Vec::new(),
            };
            return Ok(Judged::of_part(nothing, None, Some(Hold::Unclear)));
        }
        Err(source) => {
            return Err(ReclaimError::Index {
                aggregate: part,
                source,
            });
        }
    };
    let key = key_of_part(&index);
    let why = match key {
        _ if whose(ground, part)? != Whose::Nobody => Some(Hold::Shared),
        Some(key) => held(ground, part, key)?,
        None => Some(Hold::Unclear),
    };
    Ok(Judged::of_part(index, key, why))
}

/// The version of which this is a part.
fn key_of_part(index: &Index) -> Option<MemberKey> {
    let part = index.entries.iter().find(|entry| entry.is_part())?;
    let identity = part.member.identity?;
    Some((identity.file, identity.version))
}

/// What keeps a part of this version.
fn held(
    ground: &Ground<'_>,
    part: AggregateId,
    key: MemberKey,
) -> Result<Option<Hold>, ReclaimError> {
    let departed = ground
        .catalog
        .departed(ground.id, part, &[key], ground.bound())?;
    Ok(match departed.into_iter().next() {
        Some(Ok(Departed::Dead(grave))) => inode_holds(ground, key, &grave),
        Some(Ok(Departed::Moved | Departed::GivenUp)) => None,
        Some(Err(hold)) => Some(hold),
        None => Some(Hold::Unclear),
    })
}

/// Goes on with those that have rows.
pub(super) fn decide(
    ground: &Ground<'_>,
    rows: &[Aggregate],
    dry: bool,
    report: &mut Report,
) -> Result<(), ReclaimError> {
    for row in rows {
        ground.go_on()?;
        match one(ground, row, dry, report) {
            Err(why) if why.is_of_one() => report.note(row.id, Act::Fail, 0, why),
            done => done?,
        }
    }
    Ok(())
}

fn one(
    ground: &Ground<'_>,
    row: &Aggregate,
    dry: bool,
    report: &mut Report,
) -> Result<(), ReclaimError> {
    // What is condemned is looked at by who carries it out.
    if !matches!(row.life, Life::Live | Life::Quarantined) {
        return Ok(());
    }
    let gone = matches!(ground.tier.stat(row.id), Err(TierError::Missing { .. }));
    let whose = whose(ground, row.id)?;
    if gone || whose == Whose::Its {
        if !dry {
            ground.catalog.forget_part(ground.id, row.id)?;
        }
        return Ok(());
    }
    if row.life != Life::Live || whose == Whose::Unseen {
        return Ok(());
    }
    // By what is kept of its index: a part that a file needs may lie there for years.
    if let Ok(loaded) = ground.indexes.load(ground.tier, ground.id, row.id)
        && let Some(key) = key_of_part(loaded.index())
        && let Some(hold) = held(ground, row.id, key)?
    {
        *report.holds.entry(hold).or_default() += 1;
        return Ok(());
    }
    decide_one(ground, row, dry, report)
}
