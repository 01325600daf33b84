//! Cases of names: deletion, listing, room.

use super::{Case, absent, content, ensure, holds, name, refuses, store};
use crate::id::AggregateId;
use crate::tier::{ErrorKind, Tier, TierError};
use cairn_mover::Crc32c;
use std::io::Write;
use std::sync::Arc;

pub(super) const CASES: &[Case] = &[
    ("a_fresh_tier_is_empty", fresh),
    ("deleting_twice_is_deleting_once", delete),
    ("deleting_one_leaves_the_others", neighbours),
    ("names_are_listed_in_ascending_order", order),
    ("pages_join_without_gap_or_repetition", pages),
    ("the_mark_and_the_description_stay", steady),
    ("room_is_known_or_said_to_be_unknown", room),
    ("an_object_is_as_long_as_the_bound_and_no_longer", bound),
];

/// Names around every likely border of a layout, unsorted.
fn names() -> Vec<AggregateId> {
    let seqs = [
        0x1_0000,
        1,
        0xff,
        0x100,
        2,
        0xffff,
        0x1_0001,
        0xffff_ffff,
        0x1_0000_0000,
        0xffff_ffff_ffff,
        0x1_0000_0000_0000,
        // The last part that a name has.
        9999 << 48 | 0xffff_ffff_ffff,
    ];
    let mut names = Vec::new();
    for epoch in [7, 1, u32::MAX, 0x100] {
        names.extend(seqs.map(|seq| AggregateId { epoch, seq }));
    }
    names
}

fn fill(tier: &dyn Tier) -> Result<Vec<AggregateId>, String> {
    let mut names = names();
    for name in &names {
        store(tier, *name, &name.seq.to_le_bytes())?;
    }
    names.sort_unstable();
    Ok(names)
}

fn list(
    tier: &dyn Tier,
    after: Option<AggregateId>,
    limit: usize,
) -> Result<Vec<AggregateId>, String> {
    tier.list(after, limit).map_err(|e| format!("list: {e}"))
}

fn fresh(tier: &Arc<dyn Tier>) -> Result<(), String> {
    let found = list(&**tier, None, usize::MAX)?;
    ensure(found.is_empty(), || format!("holds {found:?}"))
}

fn delete(tier: &Arc<dyn Tier>) -> Result<(), String> {
    let gone = |step: &str| tier.delete(name(1)).map_err(|e| format!("{step}: {e}"));
    gone("before it was there")?;
    store(&**tier, name(1), &content(1, 10_000))?;
    holds(&**tier, name(1), &content(1, 10_000))?;
    gone("first")?;
    absent(&**tier, name(1))?;
    gone("second")?;
    absent(&**tier, name(1))
}

fn neighbours(tier: &Arc<dyn Tier>) -> Result<(), String> {
    for seq in 1..=3 {
        store(&**tier, name(seq), &content(seq, 1000))?;
    }
    tier.delete(name(2)).map_err(|e| e.to_string())?;
    absent(&**tier, name(2))?;
    holds(&**tier, name(1), &content(1, 1000))?;
    holds(&**tier, name(3), &content(3, 1000))
}

fn order(tier: &Arc<dyn Tier>) -> Result<(), String> {
    let names = fill(&**tier)?;
    let found = list(&**tier, None, usize::MAX)?;
    ensure(found == names, || {
        format!("listed {found:?}, wanted {names:?}")
    })
}

fn pages(tier: &Arc<dyn Tier>) -> Result<(), String> {
    let names = fill(&**tier)?;
    let none = list(&**tier, None, 0)?;
    ensure(none.is_empty(), || format!("a page of none holds {none:?}"))?;
    for size in [1, 2, 5, names.len(), names.len() + 1] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = list(&**tier, after, size)?;
            ensure(page.len() <= size, || {
                format!("{} on a page of {size}", page.len())
            })?;
            let Some(last) = page.last() else { break };
            after = Some(*last);
            found.extend(page);
            ensure(found.len() <= names.len(), || "pages repeat".to_owned())?;
        }
        ensure(found == names, || {
            format!("pages of {size} join to {found:?}")
        })?;
    }
    // After a name that is not there.
    let between = AggregateId { epoch: 7, seq: 3 };
    let found = list(&**tier, Some(between), 1)?;
    let wanted = AggregateId {
        epoch: 7,
        seq: 0xff,
    };
    ensure(found == [wanted], || {
        format!("after {between} comes {found:?}")
    })
}

fn steady(tier: &Arc<dyn Tier>) -> Result<(), String> {
    let (mark, place) = (tier.mark(), tier.describe());
    store(&**tier, name(1), b"x")?;
    ensure(tier.mark() == mark, || "the mark changed".to_owned())?;
    ensure(tier.describe() == place, || {
        "the description changed".to_owned()
    })?;
    ensure(mark.tier.0 != 0, || {
        "tier 0 is no number of a tier".to_owned()
    })
}

fn bound(tier: &Arc<dyn Tier>) -> Result<(), String> {
    let text = |e: TierError| e.to_string();
    tier.admit(&[1000, 10_000]).map_err(text)?;
    let Some(longest) = tier.longest().map_err(text)? else {
        return Ok(());
    };
    // Where it is a bound that a test can reach, it is kept.
    if longest > 32 << 20 {
        return Ok(());
    }
    let len = usize::try_from(longest).map_err(|e| e.to_string())?;
    store(&**tier, name(1), &content(1, len))?;
    holds(&**tier, name(1), &content(1, len))?;
    let data = content(2, len + 1);
    let longer = tier.put(name(2), 0).and_then(|mut put| {
        put.write_all(&data)
            .map_err(|e| TierError::from_write(e, "the tier", name(2)))?;
        put.finish(Crc32c::of(&data))
    });
    refuses(longer, ErrorKind::Full, "one byte more")?;
    absent(&**tier, name(2))
}

fn room(tier: &Arc<dyn Tier>) -> Result<(), String> {
    let space = tier.space().map_err(|e| e.to_string())?;
    match (space.free, space.total) {
        (Some(free), Some(total)) if free > total => Err(format!("{free} free of {total}")),
        _ => Ok(()),
    }
}
