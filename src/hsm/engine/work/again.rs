//! The archive lane for released files: a copy is made on a tier from a good one on another.

use super::super::lanes::Claim;
use super::super::proof::CheckError;
use super::super::{Shared, Slot, heal};
use super::{end, failed, later, soon_or_never};
use crate::catalog::{self, Action, CopyState, Finish, Made, Met, Version};
use crate::error::Failure;
use crate::format::record::CopyHint;
use crate::hsm::archive::{
    Again, Batch, CommitError, Copied, Durable, Item, Origin, Skip, Uncopied, Wanted, copy_again,
};
use std::sync::Arc;

/// A released file whose copy on the tier is to be made.
pub(super) struct Ready<'a> {
    action: Action,
    item: Item,
    node: catalog::NodeId,
    wanted: Wanted,
    _claim: Claim<'a>,
}

/// What is needed to copy it; or how its action ends.
pub(super) fn ready<'a>(
    shared: &Shared,
    slot: &Slot,
    action: &Action,
    met: Met,
    claim: Claim<'a>,
) -> Result<Ready<'a>, Finish> {
    let Some(version) = met.node.version else {
        return Err(failed(Failure::NoGoodCopy, "none of its data is known"));
    };
    let good = heal::good_copies(shared, &version)
        .map_err(|why| later(shared, action, why.code(), why))?;
    if good.iter().any(|copy| copy.tier == slot.id) {
        return Err(Finish::Done);
    }
    let origin = |copy: &catalog::Copy| {
        let tier = Arc::clone(&shared.slot(copy.tier)?.tier);
        let copy = CopyHint {
            tier: copy.tier,
            aggregate: copy.aggregate,
            header: copy.header,
        };
        Some(Origin { tier, copy })
    };
    let origins: Vec<_> = good.iter().filter_map(origin).collect();
    if origins.is_empty() {
        let why = format!(
            "it is released, and no other copy is good to make one on {} from",
            slot.name
        );
        return Err(failed(Failure::NoGoodCopy, why));
    }
    let Version {
        file, version, crc, ..
    } = version;
    Ok(Ready {
        action: action.clone(),
        item: Item {
            node: action.handle.clone(),
            names: met.names,
            prior: None,
        },
        node: met.node.id,
        wanted: Wanted {
            file,
            version,
            crc,
            origins,
        },
        _claim: claim,
    })
}

/// Copies them, and ends their actions.
pub(super) fn again(shared: &Arc<Shared>, slot: &Slot, ready: Vec<Ready<'_>>) {
    let Some(recaller) = shared.recaller() else {
        return ready
            .iter()
            .for_each(|one| end(shared, &one.action, Finish::PutBack));
    };
    // Held until its rows are there: a snapshot taken meanwhile counts it among the later ones.
    let composing = match shared.composing.name(&shared.catalog) {
        Ok(name) => name,
        Err(why) => {
            for one in &ready {
                let finish = later(shared, &one.action, Failure::Internal, &why);
                end(shared, &one.action, finish);
            }
            return;
        }
    };
    let items: Vec<_> = ready.iter().map(|one| one.item.clone()).collect();
    let wanted: Vec<_> = ready.iter().map(|one| one.wanted.clone()).collect();
    let bad = |at: usize, hint: &CopyHint, why: &str| note_bad(shared, &wanted[at], hint, why);
    let given = |file| {
        let last = shared.catalog.last_version(file);
        last.map_err(|why| why.to_string())
    };
    let unwanted = shared.unwanted(ready.iter().map(|one| &one.action));
    let batch = Again {
        batch: Batch {
            backing: &shared.backing,
            tier: &*slot.tier,
            aggregate: composing.id(),
            composed: shared.now(),
            items: &items,
            given: &given,
            sealed: &|| shared.sealed(ready.iter().map(|one| &one.action)),
            unwanted: Some(&unwanted),
            resumed: &|| shared.resumed(ready.iter().map(|one| &one.action)),
        },
        wanted: &wanted,
        indexes: recaller.indexes(),
        bad: &bad,
    };
    let mut commit = |durable: Durable<'_>| commit(shared, slot, &ready, durable);
    match copy_again(batch, &*unwanted, &mut commit) {
        Ok(kept) => {
            for (one, outcome) in ready.iter().zip(kept.outcomes) {
                let finish = finish(shared, &one.action, outcome);
                end(shared, &one.action, finish);
            }
        }
        Err(why) => {
            let rows: Vec<_> = ready.iter().map(|one| one.action.clone()).collect();
            super::archive::batch_failed(shared, slot, &rows, &why);
        }
    }
}

fn note_bad(shared: &Shared, wanted: &Wanted, hint: &CopyHint, why: &str) {
    let noted = shared
        .catalog
        .copies(wanted.file, wanted.version)
        .map_err(CheckError::from)
        .and_then(|copies| {
            let there = |c: &&catalog::Copy| (c.tier, c.aggregate) == (hint.tier, hint.aggregate);
            for copy in copies.iter().filter(there) {
                shared.copy_is_bad(copy, why)?;
            }
            Ok(())
        });
    if let Err(why) = noted {
        tracing::error!(%why, "a bad copy could not be noted");
    }
}

fn commit(
    shared: &Shared,
    slot: &Slot,
    ready: &[Ready<'_>],
    durable: Durable<'_>,
) -> Result<(), CommitError> {
    let (receipt, now) = (durable.receipt, shared.now());
    let aggregate = super::archive::new_aggregate(slot, receipt, durable.index);
    let copy = |c: &Copied| catalog::Copy {
        file: c.file,
        version: c.version,
        tier: slot.id,
        aggregate: receipt.aggregate,
        header: c.copy.header,
        stored_len: super::archive::stored(durable.index, c),
        crc: c.crc,
        state: CopyState::Good,
        proven_at: now,
        last_verified: None,
    };
    let made = durable.copied.iter().filter_map(|c| {
        let node = ready.get(c.item)?.node;
        Some(Made {
            node,
            copy: copy(c),
        })
    });
    shared.catalog.made_again(aggregate, made.collect(), now)?;
    if let Some(recaller) = shared.recaller() {
        recaller
            .indexes()
            .made(slot.id, receipt.aggregate, durable.index);
    }
    Ok(())
}

fn finish(shared: &Shared, action: &Action, outcome: Result<Copied, Uncopied>) -> Finish {
    let why = match outcome {
        // Its stub is written, and the bad copy retired, by who heals: also after a crash here.
        Ok(_) => return Finish::Done,
        Err(why) => why,
    };
    match &why {
        Uncopied::Skipped(Skip::Vanished) => Finish::Done,
        Uncopied::Skipped(Skip::Busy | Skip::Twice) => {
            soon_or_never(shared, action, Failure::Busy, why)
        }
        Uncopied::Skipped(_) => soon_or_never(shared, action, Failure::Changed, why),
        Uncopied::Failed(_) => soon_or_never(shared, action, Failure::Internal, why),
        Uncopied::NoOrigin => failed(Failure::NoGoodCopy, why),
        Uncopied::Passing(_) => later(shared, action, Failure::TierUnavailable, why),
    }
}
