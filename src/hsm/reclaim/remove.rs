//! From condemned to gone.

use super::judge::{Verdict, judge};
use super::{Act, Ground, PAGE, ReclaimError, Report, Step, earlier, later};
use crate::catalog::{Aggregate, Life};
use crate::hsm::backing::{Backing, Mark};
use crate::hsm::parts;
use crate::tier::TierError;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Decisions of earlier epochs bind nobody, and one that could not be carried out at once is not
/// carried out later: where the object is still there it is an ordinary aggregate again, and is judged
/// anew. Where it is gone, it was being deleted, and its rows go.
pub(super) fn undo_earlier(
    ground: &Ground<'_>,
    dry: bool,
    report: &mut Report,
) -> Result<(), ReclaimError> {
    for life in [Life::Condemned, Life::Doomed] {
        for row in all_of(ground, life)? {
            let binds = life == Life::Condemned && row.decided_by == ground.epoch;
            if dry || binds {
                continue;
            }
            ground.go_on()?;
            match undo(ground, &row, life, report) {
                Err(why) if why.is_of_one() => report.note(row.id, Act::Fail, 0, why),
                done => done?,
            }
        }
    }
    Ok(())
}

fn undo(
    ground: &Ground<'_>,
    row: &Aggregate,
    life: Life,
    report: &mut Report,
) -> Result<(), ReclaimError> {
    match ground.tier.stat(row.id) {
        Err(TierError::Missing { .. }) if life == Life::Doomed => {
            ground.catalog.forget_aggregate(ground.id, row.id)?;
            ground.indexes.forget(ground.id, row.id);
            let why = "its object went before a stop";
            report.note(row.id, Act::Delete, row.len, why);
            ground.did(Step::Forgotten)
        }
        Ok(_) | Err(TierError::Missing { .. }) => {
            ground.catalog.spare(ground.id, row.id)?;
            let why = match row.decided_by == ground.epoch {
                true => "its deletion failed: it is judged anew",
                false => "an earlier epoch decided it",
            };
            report.note(row.id, Act::Spare, 0, why);
            Ok(())
        }
        Err(why) => Err(why.into()),
    }
}

/// Deletes what was condemned in this epoch and has waited, after another look.
pub(super) fn carry_out(
    ground: &Ground<'_>,
    dry: bool,
    report: &mut Report,
) -> Result<(), ReclaimError> {
    for row in all_of(ground, Life::Condemned)? {
        ground.go_on()?;
        let waits_until = row.since.map(|since| later(since, ground.rules.delay));
        let now = (ground.now)();
        let waits = waits_until.is_none_or(|until| until > now);
        if dry || waits || row.decided_by != ground.epoch {
            report.reclaimable += row.len;
            if let Some(until) = waits_until {
                report.wait_until(until, now);
            }
            report.note(row.id, Act::Wait, row.len, "it is condemned");
            continue;
        }
        match remove(ground, &row, report) {
            Err(why) if why.is_of_one() => report.note(row.id, Act::Fail, 0, why),
            done => done?,
        }
    }
    Ok(())
}

fn all_of(ground: &Ground<'_>, life: Life) -> Result<Vec<Aggregate>, ReclaimError> {
    let mut found: Vec<Aggregate> = Vec::new();
    loop {
        let after = found.last().map(|row| row.id);
        let rows = ground.catalog.of_life(ground.id, life, after, PAGE)?;
        let last = rows.len() < PAGE;
        found.extend(rows);
        if last {
            return Ok(found);
        }
    }
}

fn remove(ground: &Ground<'_>, row: &Aggregate, report: &mut Report) -> Result<(), ReclaimError> {
    let judged = judge(ground, row)?;
    if judged.verdict(100) != Verdict::Goes {
        judged.tell(report);
        ground.catalog.spare(ground.id, row.id)?;
        let why = format!("it is needed again ({:?})", judged.first_hold());
        report.note(row.id, Act::Spare, 0, why);
        return Ok(());
    }
    let decided = earlier((ground.now)(), ground.rules.delay);
    let doomed = ground
        .catalog
        .doom(ground.id, row.id, judged.keys, decided, ground.bound())?;
    if let Err(hold) = doomed {
        report.note(
            row.id,
            Act::Spare,
            0,
            format!("it is needed again ({hold:?})"),
        );
        return Ok(());
    }
    ground.did(Step::Doomed)?;
    delete(ground, row, judged.index.parts().len(), report)
}

/// Deletes a doomed aggregate's object, with its parts, then its rows.
fn delete(
    ground: &Ground<'_>,
    row: &Aggregate,
    parts: usize,
    report: &mut Report,
) -> Result<(), ReclaimError> {
    check_mark(ground)?;
    parts::delete(ground.tier, row.id, parts)?;
    ground.did(Step::Deleted)?;
    ground.catalog.forget_aggregate(ground.id, row.id)?;
    ground.indexes.forget(ground.id, row.id);
    report.reclaimable += row.len;
    report.note(row.id, Act::Delete, row.len, "it was condemned");
    ground.did(Step::Forgotten)
}

/// P9: whoever took the backing over since wrote a later epoch into its mark. One that is gone, or
/// another's, says that the directory was put in the place of ours.
pub(super) fn check_mark(ground: &Ground<'_>) -> Result<(), ReclaimError> {
    let root = format!("/proc/self/fd/{}", ground.backing.root().as_raw_fd());
    let own = |mark: &Mark| {
        let ours = ground.catalog.identity();
        mark.epoch == ground.epoch && (mark.fs, mark.instance) == (ours.fs, ours.instance)
    };
    match Backing::mark_of(Path::new(&root)) {
        Ok(Some(mark)) if own(&mark) => Ok(()),
        Ok(_) | Err(_) => Err(ReclaimError::Superseded),
    }
}
