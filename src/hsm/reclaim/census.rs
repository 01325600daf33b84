//! What lies on a tier, held against the catalog.
//!
//! Invariant: an object without a row is read and written down, never deleted. One of this epoch is
//! somebody's who has not told the catalog yet; one of a later epoch is another process's.

use super::{Act, Ground, PAGE, ReclaimError, Report, Step, earlier, later};
use crate::catalog::{Aggregate, Found, Life, Quarantined};
use crate::hsm::index_cache::tier_is_passing;
use crate::hsm::parts::{self, PartTrouble};
use crate::hsm::verify::{VerifyError, read_index};
use crate::id::AggregateId;
use crate::tier::TierError;

/// Objects that a report names.
const NAMED: usize = 100;

/// Compares all objects of the tier with the catalog, in the order of their names.
///
/// Gives the rows of parts that were in quarantine once.
pub(super) fn take(
    ground: &Ground<'_>,
    dry: bool,
    report: &mut Report,
) -> Result<Vec<Aggregate>, ReclaimError> {
    let (mut after, mut orphans) = (None, Vec::new());
    loop {
        ground.go_on()?;
        let mut objects = ground.tier.list(after, PAGE)?;
        report.objects += objects.len() as u64;
        let upto = objects.last().copied().filter(|_| objects.len() == PAGE);
        // Of these there is a list of their own.
        objects.retain(|id| !id.is_snapshot());
        find_missing(ground, (after, upto, &objects), dry, report, &mut orphans)?;
        let mine = |id: &AggregateId| id.epoch < ground.epoch;
        let mut older: Vec<_> = objects.iter().copied().filter(mine).collect();
        let parts: Vec<_> = older.iter().copied().filter(|id| id.is_part()).collect();
        older.retain(|id| !id.is_part());
        for id in super::orphans::among(ground, &parts)? {
            ground.go_on()?;
            match learn(ground, id, dry, report) {
                Err(ReclaimError::Tier(TierError::Unavailable { .. })) => {}
                done => done?,
            }
        }
        for id in ground.catalog.unknown(ground.id, &older)? {
            if id.is_snapshot() {
                // No file's, and large: it is kept by who makes it.
                continue;
            }
            ground.go_on()?;
            learn(ground, id, dry, report)?;
        }
        for id in objects.iter().filter(|id| id.epoch > ground.epoch) {
            strange(
                report,
                *id,
                "it is of a later epoch than this instance's".into(),
            );
        }
        match upto {
            Some(last) => after = Some(last),
            None => return Ok(orphans),
        }
    }
}

/// A range of names, and the objects in it.
type Listed<'a> = (Option<AggregateId>, Option<AggregateId>, &'a [AggregateId]);

/// Aggregates of the catalog in a range of names, without an object.
fn find_missing(
    ground: &Ground<'_>,
    (after, upto, objects): Listed<'_>,
    dry: bool,
    report: &mut Report,
    orphans: &mut Vec<Aggregate>,
) -> Result<(), ReclaimError> {
    let mut at = after;
    loop {
        let rows = ground.catalog.aggregates(ground.id, at, PAGE)?;
        for row in &rows {
            if upto.is_some_and(|upto| row.id > upto) {
                return Ok(());
            }
            at = Some(row.id);
            if row.id.is_part() {
                orphans.push(*row);
                continue;
            }
            let settled =
                row.id.epoch < ground.epoch && !matches!(row.life, Life::Condemned | Life::Doomed);
            let is_gone = objects.binary_search(&row.id).is_err()
                && matches!(ground.tier.stat(row.id), Err(TierError::Missing { .. }));
            if settled && (is_gone || lacks_a_part(ground, row)) {
                report.missing += 1;
                if !dry {
                    ground.catalog.miss_aggregate(ground.id, row.id)?;
                }
            }
        }
        if rows.len() < PAGE {
            return Ok(());
        }
    }
}

/// A part of its file is surely not where it was. What cannot be looked at now is not.
pub(super) fn lacks_a_part(ground: &Ground<'_>, row: &Aggregate) -> bool {
    if row.in_parts != Some(true) {
        return false;
    }
    let Ok(loaded) = ground.indexes.load(ground.tier, ground.id, row.id) else {
        return false;
    };
    match parts::are_there(ground.tier, row.id, loaded.index().parts()) {
        Ok(()) => false,
        Err((part, why)) => {
            let gone = !matches!(&why, PartTrouble::Tier(why) if tier_is_passing(why));
            tracing::warn!(aggregate = %row.id, %part, %why, gone, "a part of a file");
            gone
        }
    }
}

fn learn(
    ground: &Ground<'_>,
    id: AggregateId,
    dry: bool,
    report: &mut Report,
) -> Result<(), ReclaimError> {
    let (trailer, index) = match read_index(ground.tier, id) {
        Ok(found) => found,
        Err(VerifyError::Tier(why @ TierError::Unavailable { .. })) => return Err(why.into()),
        Err(why) => {
            strange(report, id, why.to_string());
            return Ok(());
        }
    };
    if trailer.fs != ground.backing.fs() {
        let why = format!("it is of another backing ({})", trailer.fs);
        strange(report, id, why);
        return Ok(());
    }
    if let Err((part, why)) = parts::are_there(ground.tier, id, index.parts()) {
        strange(report, id, format!("its part {part}: {why}"));
        return Ok(());
    }
    let members: Vec<Found> = index
        .entries
        .iter()
        .filter_map(|entry| {
            Some(Found {
                key: super::judge::key_of(entry)?,
                header: entry.header,
                stored_len: entry.stored_len(),
                crc: entry.member.identity?.crc?,
            })
        })
        .collect();
    let why = match id.is_part() {
        true => "a part of an aggregate that is nowhere".to_owned(),
        false => format!("the catalog did not know it; {} members", members.len()),
    };
    if !dry {
        let len = index.len_with_parts(trailer.total_len);
        ground.catalog.quarantine(
            ground.id,
            id,
            (len, trailer.in_parts),
            members,
            (ground.now)(),
        )?;
    }
    report.note(id, Act::Quarantine, 0, why);
    if dry {
        return Ok(());
    }
    ground.did(Step::Quarantined)
}

pub(super) fn strange(report: &mut Report, id: AggregateId, why: String) {
    tracing::warn!(aggregate = %id, why, "an object that is left alone");
    if report.strange.len() < NAMED {
        report.strange.push((id, why));
    }
}

/// A file's parts are all there, as far as it has some.
fn may_be_believed(ground: &Ground<'_>, row: &Aggregate) -> bool {
    if row.in_parts == Some(false) || row.id.is_part() {
        return true;
    }
    let loaded = ground.indexes.load(ground.tier, ground.id, row.id);
    loaded.is_ok_and(|loaded| parts::are_there(ground.tier, row.id, loaded.index().parts()).is_ok())
}

/// Looks which quarantined aggregates are known by now, or have waited long enough.
pub(super) fn settle_quarantines(
    ground: &Ground<'_>,
    dry: bool,
    report: &mut Report,
) -> Result<(), ReclaimError> {
    let mut after = None;
    loop {
        let rows = ground
            .catalog
            .of_life(ground.id, Life::Quarantined, after, PAGE)?;
        for row in &rows {
            ground.go_on()?;
            after = Some(row.id);
            // Nothing in it is believed without all of it.
            if dry || !may_be_believed(ground, row) {
                continue;
            }
            let now = (ground.now)();
            let before = earlier(now, ground.rules.keep);
            let settled = ground
                .catalog
                .settle_quarantine(ground.id, row.id, before, now)?;
            match settled {
                Quarantined::Waits { .. } => {
                    if let Some(since) = row.since {
                        report.wait_until(later(since, ground.rules.keep), now);
                    }
                }
                Quarantined::Released { .. } if row.id.is_part() => {
                    report.note(row.id, Act::Release, 0, "its aggregate did not come back");
                }
                Quarantined::Released { tombstones: 0 } => {
                    report.note(row.id, Act::Release, 0, "all its members are known");
                }
                Quarantined::Released { tombstones } => {
                    let why = format!("{tombstones} members that nobody names got tombstones");
                    report.note(row.id, Act::Release, 0, why);
                }
            }
        }
        if rows.len() < PAGE {
            return Ok(());
        }
    }
}
