//! The verify lane: copies are read back whole and compared, those of one aggregate in one pass.

use super::super::proof::CheckError;
use super::super::{EngineError, Shared};
use super::{end, failed, later};
use crate::catalog::{Action, Copy, Finish};
use crate::error::Failure;
use crate::hsm::verify::{Fault, VerifyError};
use crate::id::{AggregateId, TierId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is known so far of what an action asked for.
#[derive(Default)]
struct Sofar {
    looked: usize,
    bad: Vec<String>,
    /// It ends like this, whatever else is found.
    ended: Option<Finish>,
}

pub(super) fn verify(shared: &Arc<Shared>, actions: &[Action]) {
    let mut sofar: Vec<Sofar> = actions.iter().map(|_| Sofar::default()).collect();
    let mut places: BTreeMap<(TierId, AggregateId), Vec<(usize, Copy)>> = BTreeMap::new();
    for (at, action) in actions.iter().enumerate() {
        match copies(shared, action) {
            Ok(copies) => {
                for copy in copies
                    .into_iter()
                    .filter(|c| action.tier.is_none_or(|t| t == c.tier))
                {
                    let place = (copy.tier, copy.aggregate);
                    places.entry(place).or_default().push((at, copy));
                }
            }
            Err(why) => sofar[at].ended = Some(later(shared, action, why.code(), why)),
        }
    }
    let requests: BTreeSet<_> = actions.iter().map(|a| a.request).collect();
    let stop = || shared.stopping() || shared.lanes.are_cancelled(requests.iter().copied());
    for ((tier, aggregate), wanted) in places {
        one(
            shared,
            (tier, aggregate),
            &wanted,
            actions,
            &mut sofar,
            &stop,
        );
    }
    for (action, sofar) in actions.iter().zip(sofar) {
        end(shared, action, finish(sofar));
    }
}

/// One aggregate.
fn one(
    shared: &Shared,
    (tier, aggregate): (TierId, AggregateId),
    wanted: &[(usize, Copy)],
    actions: &[Action],
    sofar: &mut [Sofar],
    stop: &(dyn Fn() -> bool + Sync),
) {
    let Some(slot) = shared.slot(tier) else {
        for (at, _) in wanted {
            let why = format!("tier {tier} is not configured here");
            sofar[*at].ended = Some(failed(Failure::TierUnavailable, why));
        }
        return;
    };
    let copies: Vec<Copy> = wanted.iter().map(|(_, copy)| *copy).collect();
    let told = shared.check_copies(slot, &*slot.tier, aggregate, &copies, stop);
    for (n, (at, _)) in wanted.iter().enumerate() {
        let (of, action) = (&mut sofar[*at], &actions[*at]);
        match &told {
            Ok(told) => {
                of.looked += 1;
                if let Some(why) = &told[n] {
                    of.bad.push(in_words(&slot.name, aggregate, why));
                }
            }
            Err(CheckError::Verify(VerifyError::Stopped)) => of.ended = Some(Finish::PutBack),
            Err(why @ (CheckError::Verify(_) | CheckError::Doubtful { .. })) => {
                of.ended = Some(later(shared, action, Failure::TierUnavailable, why));
            }
            Err(CheckError::Catalog(why)) => {
                of.ended = Some(later(shared, action, Failure::Internal, why));
            }
        }
    }
}

fn in_words(tier: &str, aggregate: AggregateId, why: &Fault) -> String {
    format!("{aggregate} on {tier}: {why}")
}

fn finish(sofar: Sofar) -> Finish {
    match (sofar.ended, sofar.looked, sofar.bad.is_empty()) {
        (Some(ended), ..) => ended,
        (None, 0, _) => failed(Failure::NoGoodCopy, "it has no copy there"),
        (None, _, true) => Finish::Done,
        (None, _, false) => failed(Failure::NoGoodCopy, sofar.bad.join("; ")),
    }
}

/// Copies of the file's present version; not those in whose place others were made.
fn copies(shared: &Shared, action: &Action) -> Result<Vec<Copy>, EngineError> {
    let Some(node) = shared.catalog.node_by_handle(&action.handle)? else {
        return Ok(Vec::new());
    };
    let Some(version) = node.version else {
        return Ok(Vec::new());
    };
    Ok(shared.catalog.live_copies(version.file, version.version)?)
}
