//! Tiers and the collector, as doors show them.

use super::views::when;
use crate::catalog::{Hold, Life, TierSum};
use crate::hsm::engine::{Collection, TierCheck, TierView};
use crate::hsm::reclaim::{Differs, Report};
use crate::server::wire::{
    self, Collect, CollectDeed, CollectTier, ObjectCount, StrangeObject, TierDifference, TierList,
    TierObjects,
};

/// The condition that is missing, as a stable word.
const fn missing(hold: Hold) -> &'static str {
    match hold {
        Hold::NoTombstone => "no-tombstone",
        Hold::NamedByFile => "named-by-file",
        Hold::Young => "keep-deleted",
        Hold::Unscanned => "scan",
        Hold::NamedByRecord => "named-by-record",
        Hold::InodeNamesIt => "inode",
        Hold::NoHandle => "remount",
        Hold::Unclear => "unclear",
        Hold::Shared => "shared",
        Hold::Name => "name",
        Hold::OnlyNames => "only-names",
    }
}

pub(super) fn list(views: Vec<TierView>) -> TierList {
    TierList {
        tiers: views.into_iter().map(objects).collect(),
    }
}

fn objects(view: TierView) -> TierObjects {
    let count = |lives: &[Life]| {
        let of = view.sums.iter().filter(|sum| lives.contains(&sum.life));
        of.fold(ObjectCount::default(), |all, sum: &TierSum| ObjectCount {
            objects: all.objects + sum.objects,
            bytes: all.bytes + sum.len,
        })
    };
    let ordinary = view.sums.iter().find(|sum| sum.life == Life::Live);
    let live_bytes = ordinary.map_or(0, |sum| sum.live_bytes);
    let last = view.last.unwrap_or_default();
    TierObjects {
        ordinary: count(&[Life::Live]),
        live_bytes,
        dead_bytes: ordinary.map_or(0, |sum| sum.bytes.saturating_sub(live_bytes)),
        condemned: count(&[Life::Condemned, Life::Doomed]),
        quarantined: count(&[Life::Quarantined]),
        reclaimable: view.looked.then_some(last.reclaimable),
        next: last.next.map(when),
        missing: last.missing,
        strange: strange(&last),
        tier: view.name,
        url: view.url,
    }
}

fn strange(report: &Report) -> Vec<StrangeObject> {
    let one = |(id, why): &(crate::id::AggregateId, String)| StrangeObject {
        object: id.to_string(),
        why: why.clone(),
    };
    report.strange.iter().map(one).collect()
}

pub(super) fn collect(run: Collection) -> Collect {
    Collect {
        number: run.number,
        dry_run: run.dry,
        begun: Some(when(run.begun)),
        ended: run.ended.map(when),
        tiers: run.tiers.into_iter().map(tier).collect(),
    }
}

fn tier((tier, done): (String, Result<Report, String>)) -> CollectTier {
    let report = match done {
        Ok(report) => report,
        Err(why) => {
            return CollectTier {
                tier,
                error: Some(why),
                ..CollectTier::default()
            };
        }
    };
    let done = report.done.iter();
    let kept = report.holds.iter();
    CollectTier {
        tier,
        error: None,
        objects: report.objects,
        reclaimable: report.reclaimable,
        done: done.map(|(act, n)| ((*act).to_owned(), *n)).collect(),
        kept: kept
            .map(|(hold, n)| (missing(*hold).to_owned(), *n))
            .collect(),
        below_share: report.below_share,
        next: report.next.map(when),
        deeds: report
            .deeds
            .into_iter()
            .map(|deed| CollectDeed {
                object: deed.aggregate.to_string(),
                act: deed.act.as_str().to_owned(),
                bytes: deed.bytes,
                why: deed.why,
            })
            .collect(),
    }
}

pub(super) fn check(check: TierCheck) -> wire::TierCheck {
    let (found, error) = match check.found {
        Some(Ok(found)) => (found, None),
        Some(Err(why)) => (Default::default(), Some(why)),
        None => Default::default(),
    };
    let counts = Differs::ALL.iter().zip(found.counts);
    let counts = counts.filter(|(_, count)| *count > 0);
    let differences = found.differences.into_iter();
    wire::TierCheck {
        number: check.number,
        tier: check.tier,
        begun: Some(when(check.begun)),
        ended: check.ended.map(when),
        error,
        objects: found.objects,
        alike: found.alike,
        snapshots: found.snapshots,
        young: found.young,
        leaving: found.leaving,
        counts: counts
            .map(|(kind, count)| (kind.as_str().to_owned(), count))
            .collect(),
        differences: differences
            .map(|one| TierDifference {
                object: one.object.to_string(),
                differs: one.differs.as_str().to_owned(),
                why: one.why,
            })
            .collect(),
    }
}
