//! Namespace snapshots that are no longer needed leave the tier.
//!
//! How far back a restore reaches is what they are kept for: one goes when a newer full one has been
//! on the tier for the whole window, so that for each moment within the window the newest snapshot
//! before it is there, with all that it stands on.
//!
//! Invariants, besides those of [`super`]:
//! - What is decided, or carried out, is so on the strength of a newer full one that was read, and
//!   lists no less ([`super::successor`]).
//! - Between decision and deletion the delay passes by the clock, and by one that nobody sets.
//! - What stands on a snapshot goes before it: what a stop leaves is whole chains.
//! - One that the catalog does not know is learned of, and its window begins then. One that cannot be
//!   read, or is of another backing, stays, with what it stands on.

use super::census::strange;
use super::remove::check_mark;
use super::successor::Successors;
use super::{Act, Ground, PAGE, ReclaimError, Report, Step, earlier, later};
use crate::catalog::{FoundSnapshot, NamespaceSnapshot, SnapshotGrave};
use crate::hsm::index_cache::IndexCache;
use crate::hsm::restore::{RestoreError, Seen, see, snapshot_names};
use crate::id::AggregateId;
use crate::tier::TierError;
use std::collections::BTreeMap;

/// Memory for the indexes of one pass.
pub(super) const INDEXES: usize = 4 << 20;

/// Looks at the tier's snapshots: learns of unknown ones, forgets those that are gone, and lets go of
/// what is no longer needed.
pub(super) fn pass(
    ground: &Ground<'_>,
    dry: bool,
    report: &mut Report,
) -> Result<(), ReclaimError> {
    let on_tier = snapshot_names(ground.tier)?;
    forget_missing(ground, &on_tier, dry)?;
    learn(ground, &on_tier, dry, report)?;
    undo_earlier(ground, dry, report)?;
    let rows = rows(ground)?;
    let bound = ground.bound();
    let now = bound.now;
    for at in rows.iter().filter_map(|row| row.superseded_at) {
        report.wait_until(later(at, ground.rules.keep), now);
    }
    let past = |row: &&NamespaceSnapshot| row.superseded_at.is_some_and(|at| at <= bound.before);
    let graves: BTreeMap<AggregateId, SnapshotGrave> =
        graves(ground)?.into_iter().map(|g| (g.id, g)).collect();
    let mut successors = Successors {
        ground,
        rows: &rows,
        bound,
        dry,
        looked: BTreeMap::new(),
    };
    // Newest first: a chain goes from its end.
    for row in rows.iter().rev().filter(past) {
        ground.go_on()?;
        let Some(by) = successors.of(row, report)? else {
            continue;
        };
        let done = match graves.get(&row.id) {
            None => condemn(ground, row, by, dry, report),
            Some(grave) => carry_out(ground, row, (grave, by), dry, report),
        };
        match done {
            Err(why) if why.is_of_one() => report.note(row.id, Act::Fail, 0, why),
            done => done?,
        }
    }
    Ok(())
}

fn rows(ground: &Ground<'_>) -> Result<Vec<NamespaceSnapshot>, ReclaimError> {
    let mut found: Vec<NamespaceSnapshot> = Vec::new();
    loop {
        let after = found.last().map(|row| row.id);
        let rows = ground.catalog.snapshots(ground.id, after, PAGE)?;
        let last = rows.len() < PAGE;
        found.extend(rows);
        if last {
            return Ok(found);
        }
    }
}

fn graves(ground: &Ground<'_>) -> Result<Vec<SnapshotGrave>, ReclaimError> {
    let mut found: Vec<SnapshotGrave> = Vec::new();
    loop {
        let after = found.last().map(|grave| grave.id);
        let some = ground.catalog.snapshot_graves(ground.id, after, PAGE)?;
        let last = some.len() < PAGE;
        found.extend(some);
        if last {
            return Ok(found);
        }
    }
}

/// What is gone from the tier is nothing that anything may stand on. One that is being deleted is
/// [`undo_earlier`]'s.
fn forget_missing(
    ground: &Ground<'_>,
    on_tier: &[AggregateId],
    dry: bool,
) -> Result<(), ReclaimError> {
    let doomed = graves(ground)?.into_iter().filter(|grave| grave.doomed);
    let doomed: Vec<AggregateId> = doomed.map(|grave| grave.id).collect();
    for row in rows(ground)? {
        let expected = on_tier.binary_search(&row.id).is_ok() || doomed.contains(&row.id);
        if !dry && !expected && matches!(ground.tier.stat(row.id), Err(TierError::Missing { .. })) {
            tracing::warn!(snapshot = %row.id, "a namespace snapshot is gone from its tier");
            ground.catalog.forget_snapshot(ground.id, row.id)?;
        }
    }
    Ok(())
}

/// Notes those that an earlier catalog made.
fn learn(
    ground: &Ground<'_>,
    on_tier: &[AggregateId],
    dry: bool,
    report: &mut Report,
) -> Result<(), ReclaimError> {
    // One of this epoch is being noted by who took it.
    let older = on_tier.iter().copied().filter(|id| id.epoch < ground.epoch);
    let older: Vec<AggregateId> = older.collect();
    for id in ground.catalog.unknown_snapshots(ground.id, &older)? {
        ground.go_on()?;
        let seen = match read(ground, id) {
            Ok(seen) => seen,
            Err(why) if why.is_of_one() => {
                strange(report, id, why.to_string());
                continue;
            }
            Err(why) => return Err(why),
        };
        if !dry {
            let found = FoundSnapshot {
                id,
                base: seen.found.base,
                depth: seen.found.depth,
                begun_at: seen.found.begun,
                len: seen.len,
            };
            ground
                .catalog
                .learn_snapshot(ground.id, found, (ground.now)())?;
        }
        report.note(
            id,
            Act::Quarantine,
            0,
            "a snapshot that the catalog did not know",
        );
        if !dry {
            ground.did(Step::Quarantined)?;
        }
    }
    Ok(())
}

/// A snapshot's own index and head, from the tier: of this backing.
pub(super) fn read(ground: &Ground<'_>, id: AggregateId) -> Result<Seen, ReclaimError> {
    let of = |source| ReclaimError::Snapshot {
        snapshot: id,
        source,
    };
    let seen = see(ground.tier, &IndexCache::new(INDEXES), id).map_err(of)?;
    if seen.fs != ground.backing.fs() {
        return Err(of(RestoreError::Snapshot {
            snapshot: id,
            why: format!("it is of another backing ({})", seen.fs),
        }));
    }
    Ok(seen)
}

/// Decisions of earlier epochs bind nobody, and a deletion that failed is decided anew.
fn undo_earlier(ground: &Ground<'_>, dry: bool, report: &mut Report) -> Result<(), ReclaimError> {
    let mut graves = graves(ground)?;
    graves.retain(|grave| grave.doomed || grave.decided_by != ground.epoch);
    for grave in graves.into_iter().filter(|_| !dry) {
        ground.go_on()?;
        let id = grave.id;
        match ground.tier.stat(id) {
            Err(TierError::Missing { .. }) if grave.doomed => {
                ground.catalog.forget_snapshot(ground.id, id)?;
                report.note(id, Act::Delete, 0, "its object went before a stop");
                ground.did(Step::Forgotten)?;
            }
            Ok(_) | Err(TierError::Missing { .. }) => {
                ground.catalog.spare_snapshot(ground.id, id)?;
                let why = match grave.decided_by == ground.epoch {
                    true => "its deletion failed: it is judged anew",
                    false => "an earlier epoch decided it",
                };
                report.note(id, Act::Spare, 0, why);
            }
            Err(why) => return Err(why.into()),
        }
    }
    Ok(())
}

fn condemn(
    ground: &Ground<'_>,
    row: &NamespaceSnapshot,
    by: AggregateId,
    dry: bool,
    report: &mut Report,
) -> Result<(), ReclaimError> {
    read(ground, row.id)?;
    let why = format!("a listing of all names that {by} took the place of");
    if dry {
        report.reclaimable += row.len;
        report.note(row.id, Act::Condemn, row.len, why);
        return Ok(());
    }
    let bound = ground.bound();
    let decided = ground
        .catalog
        .condemn_snapshot(ground.id, row.id, by, bound)?;
    if let Err(hold) = decided {
        tracing::debug!(snapshot = %row.id, ?hold, "it stays");
        return Ok(());
    }
    ground.memory.decided(ground, row.id);
    report.reclaimable += row.len;
    report.wait_until(later(bound.now, ground.rules.delay), bound.now);
    report.note(row.id, Act::Condemn, row.len, why);
    ground.did(Step::Condemned)
}

/// Deletes what was condemned in this epoch and has waited, after another look.
fn carry_out(
    ground: &Ground<'_>,
    row: &NamespaceSnapshot,
    (grave, by): (&SnapshotGrave, AggregateId),
    dry: bool,
    report: &mut Report,
) -> Result<(), ReclaimError> {
    let bound = ground.bound();
    // By both clocks: nothing but the clock keeps a snapshot, and a clock that is set ahead must not
    // take it in two passes.
    let left = later(bound.now, ground.memory.left(ground, row.id));
    let until = left.max(later(grave.since, ground.rules.delay));
    if dry || until > bound.now || grave.decided_by != ground.epoch {
        report.reclaimable += row.len;
        report.wait_until(until, bound.now);
        report.note(row.id, Act::Wait, row.len, "it is condemned");
        return Ok(());
    }
    read(ground, row.id)?;
    let decided = earlier(bound.now, ground.rules.delay);
    let doomed = ground
        .catalog
        .doom_snapshot(ground.id, row.id, by, decided, bound)?;
    if let Err(hold) = doomed {
        ground.catalog.spare_snapshot(ground.id, row.id)?;
        ground.memory.over(ground, row.id);
        let why = format!("it is needed again ({hold:?})");
        report.note(row.id, Act::Spare, 0, why);
        return Ok(());
    }
    ground.did(Step::Doomed)?;
    check_mark(ground)?;
    ground.tier.delete(row.id)?;
    ground.did(Step::Deleted)?;
    ground.catalog.forget_snapshot(ground.id, row.id)?;
    ground.memory.over(ground, row.id);
    ground.indexes.forget(ground.id, row.id);
    report.reclaimable += row.len;
    report.note(row.id, Act::Delete, row.len, "it was condemned");
    ground.did(Step::Forgotten)
}
