//! Cases of opening: whose tier it is, and that it keeps what was put.
//!
//! A tier that is known may be opened without being asked whose it is, where that could take long; then it is the
//! first use that is refused.

use super::{Outcome, content, ensure, holds, name, store};
use crate::id::{InstanceId, TierId};
use crate::tier::{OpenHow, Tier, TierError};
use std::sync::Arc;

/// Opens the one place under test.
type Open<'a> = &'a dyn Fn(OpenHow) -> Result<Arc<dyn Tier>, TierError>;
type Case = (&'static str, fn(Open<'_>) -> Result<(), String>);

const CASES: &[Case] = &[
    ("a_first_use_takes_the_number_given", first),
    ("objects_stay_when_the_tier_is_opened_again", again),
    ("the_number_in_the_mark_counts_not_the_one_given", number),
    ("a_foreign_owner_is_refused_and_told_the_way_out", foreign),
    ("another_number_than_known_is_refused", other),
];

/// Runs the cases of tiers that outlive their object, in order, all on one place: `open` opens it
/// each time; it is unused before.
pub fn run_opening(open: Open<'_>) -> Vec<Outcome> {
    CASES
        .iter()
        .map(|(case, test)| Outcome {
            case,
            result: test(open),
        })
        .collect()
}

const OWNER: InstanceId = InstanceId([1; 16]);
const TIER: TierId = TierId(0x0102_0304);

fn reopen(open: Open<'_>, how: OpenHow) -> Result<Arc<dyn Tier>, String> {
    open(how).map_err(|e| format!("opening: {e}"))
}

fn first(open: Open<'_>) -> Result<(), String> {
    let mark = reopen(open, OpenHow::new(OWNER, TIER))?.mark();
    ensure(mark.tier == TIER && mark.owner == OWNER, || {
        format!("{mark:?}")
    })
}

fn again(open: Open<'_>) -> Result<(), String> {
    let data = content(1, 10_000);
    let before = reopen(open, OpenHow::known(OWNER, TIER))?;
    store(&*before, name(1), &data)?;
    drop(before);
    holds(&*reopen(open, OpenHow::known(OWNER, TIER))?, name(1), &data)
}

fn number(open: Open<'_>) -> Result<(), String> {
    let mark = reopen(open, OpenHow::new(OWNER, TierId(99)))?.mark();
    ensure(mark.tier == TIER, || format!("{mark:?}"))
}

fn foreign(open: Open<'_>) -> Result<(), String> {
    let stranger = InstanceId([2; 16]);
    match open(OpenHow::new(stranger, TIER)) {
        Err(TierError::Refused { why, .. }) => names_owner(&why)?,
        Err(error) => return Err(format!("wanted refused, got {error:?}")),
        Ok(_) => return Err("a foreign owner was let in".to_owned()),
    }
    kept_out(open, OpenHow::known(stranger, TIER), &names_owner)?;
    holds(
        &*reopen(open, OpenHow::known(OWNER, TIER))?,
        name(1),
        &content(1, 10_000),
    )
}

fn names_owner(why: &str) -> Result<(), String> {
    ensure(why.contains(&OWNER.to_string()), || {
        format!("does not name the owner: {why}")
    })
}

fn other(open: Open<'_>) -> Result<(), String> {
    kept_out(open, OpenHow::known(OWNER, TierId(99)), &|_| Ok(()))?;
    holds(
        &*reopen(open, OpenHow::known(OWNER, TIER))?,
        name(1),
        &content(1, 10_000),
    )
}

/// Refused when it is opened; or nothing is written, deleted, listed or called missing by whoever opened it.
fn kept_out(
    open: Open<'_>,
    how: OpenHow,
    right: &dyn Fn(&str) -> Result<(), String>,
) -> Result<(), String> {
    let tier = match open(how) {
        Err(TierError::Refused { why, .. }) => return right(&why),
        Err(error) => return Err(format!("wanted refused, got {error:?}")),
        Ok(tier) => tier,
    };
    for (what, done) in [
        ("put", tier.put(name(2), 0).map(drop)),
        ("delete", tier.delete(name(1))),
        ("list", tier.list(None, usize::MAX).map(drop)),
        ("stat of nothing", tier.stat(name(2)).map(drop)),
        ("space", tier.space().map(drop)),
    ] {
        match done {
            Err(error @ (TierError::Refused { .. } | TierError::Unavailable { .. })) => {
                right(&error.to_string())?;
            }
            Err(error) => return Err(format!("{what}: wanted refused, got {error:?}")),
            Ok(()) => return Err(format!("{what} by one who is not its owner")),
        }
    }
    Ok(())
}
