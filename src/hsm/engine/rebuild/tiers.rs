//! What the aggregates on a tier say: each one's index from its end; where that is damaged, its
//! members from the front.

use super::super::{EngineError, Shared, Slot};
use super::CompleteTiers;
use super::object::Object;
use crate::catalog::{LearnedAggregate, LearnedMember};
use crate::error::Failure;
use crate::format::aggregate::{AggregateError, Index, IndexEntry, TRAILER_LEN, decode_trailer};
use crate::format::member::Kind;
use crate::format::scan::Scanner;
use crate::hsm::index_cache::{IndexCache, IndexError, tier_is_passing};
use crate::hsm::parts::{self, PartTrouble};
use crate::id::{AggregateId, Timestamp};
use crate::tier::{Tier, TierError};
use std::collections::HashMap;

/// Names listed at once.
const PAGE: usize = 256;
/// Members noted in one transaction.
const BATCH: usize = 4000;
/// Problems that are told one by one.
const TOLD: usize = 100;

/// Reads a tier from where it stands to its end, but for names above the epoch `highest`, which are
/// no aggregates.
///
/// # Errors
/// The tier does not answer, or the catalog; what was read stands.
pub(super) fn read(
    shared: &Shared,
    slot: &Slot,
    highest: u32,
    problems: &mut Vec<String>,
) -> Result<(), EngineError> {
    shared.catalog.begin_tier(slot.id)?;
    let mut state = shared.catalog.tier_read(slot.id)?;
    if state.complete {
        return Ok(());
    }
    let mut unseen = None;
    loop {
        let names = slot.tier.list(state.after, PAGE)?;
        let Some(last) = names.last().copied() else {
            break;
        };
        // Snapshots of the namespace hold no file's data, and a part is learned of from its aggregate.
        let aggregates = names.into_iter();
        for name in aggregates.filter(|name| !name.is_snapshot() && !name.is_part()) {
            if shared.stopping() {
                return Ok(());
            }
            // A listing of names holds no file's data.
            if name.epoch > highest || name.is_snapshot() {
                continue;
            }
            match look(shared, slot, name, problems)? {
                // Behind the first that could not be seen the next run reads all again.
                Some(found) => learn(shared, found, unseen.is_none())?,
                None => unseen = unseen.or(Some(name)),
            }
        }
        state.after = Some(last);
    }
    if let Some(first) = unseen {
        let why = format!("{first} or parts of it, or others, could not be looked at");
        return Err(EngineError::refused(Failure::TierUnavailable, why));
    }
    shared.catalog.finish_tier(slot.id)?;
    Ok(())
}

/// Tiers of which all was read.
pub(super) fn complete(shared: &Shared) -> Result<CompleteTiers, EngineError> {
    let mut complete = CompleteTiers::new();
    for slot in &shared.tiers {
        if shared.catalog.tier_read(slot.id)?.complete {
            complete.insert(slot.id);
        }
    }
    Ok(complete)
}

/// Lengths of aggregates that only records told of, where their tier is at hand and their end is whole:
/// without one no release can prove a copy.
pub(super) fn learn_lengths(
    shared: &Shared,
    problems: &mut Vec<String>,
) -> Result<(), EngineError> {
    for slot in &shared.tiers {
        let mut after = None;
        'tier: loop {
            let page = shared.catalog.aggregates(slot.id, after, PAGE)?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            for aggregate in page.iter().filter(|a| a.len == 0) {
                if shared.stopping() {
                    return Ok(());
                }
                match end_of(&*slot.tier, aggregate.id) {
                    Ok(len) => shared.catalog.learn_length(slot.id, aggregate.id, len)?,
                    Err(End::Passing(why)) => {
                        tell(problems, format!("tier {}: {why}", slot.name));
                        break 'tier;
                    }
                    Err(End::Bad(why)) => {
                        let (name, id) = (&slot.name, aggregate.id);
                        tell(problems, format!("tier {name}, aggregate {id}: {why}"));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Why the end of an aggregate could not be seen.
enum End {
    Passing(String),
    Bad(String),
}

/// Its length with its parts, and whether it has some.
fn end_of(tier: &dyn Tier, id: AggregateId) -> Result<(u64, bool), End> {
    let sort = |why: TierError| {
        // What must be restored first keeps nobody from the others.
        if tier_is_passing(&why) && !must_be_restored(&why) {
            End::Passing(why.to_string())
        } else {
            End::Bad(why.to_string())
        }
    };
    let len = tier.stat(id).map_err(sort)?;
    let from = len.checked_sub(TRAILER_LEN);
    let from = from.ok_or_else(|| End::Bad("it is shorter than a trailer".to_owned()))?;
    let last = tier.read(id, from, TRAILER_LEN).map_err(sort)?;
    let trailer = decode_trailer(&last, len).map_err(|why| match tier.confirm() {
        Ok(()) => End::Bad(why.to_string()),
        Err(away) => End::Passing(away.to_string()),
    })?;
    if !trailer.in_parts {
        return Ok((len, false));
    }
    let loaded = IndexCache::new(0).load(tier, tier.mark().tier, id);
    let loaded = loaded.map_err(|why| match &*why {
        IndexError::Tier(away) if tier_is_passing(away) => End::Passing(why.to_string()),
        _ => End::Bad(why.to_string()),
    })?;
    parts::are_there(tier, id, loaded.index().parts()).map_err(|(part, why)| match why {
        PartTrouble::Tier(why) => sort(why),
        why => End::Bad(format!("its part {part}: {why}")),
    })?;
    Ok((loaded.index().len_with_parts(len), true))
}

/// An aggregate and what lies in it.
struct Found {
    aggregate: LearnedAggregate,
    members: Vec<LearnedMember>,
}

/// `goes_on`: the reading goes on behind it if it is interrupted.
fn learn(shared: &Shared, found: Found, goes_on: bool) -> Result<(), EngineError> {
    let Found {
        aggregate,
        mut members,
    } = found;
    loop {
        let rest = members.split_off(members.len().min(BATCH));
        let done = rest.is_empty();
        shared
            .catalog
            .learn_members(aggregate, members, done && goes_on)?;
        if done {
            return Ok(());
        }
        members = rest;
    }
}

pub(super) fn tell(problems: &mut Vec<String>, problem: String) {
    tracing::warn!("{problem}");
    if problems.len() < TOLD {
        problems.push(problem);
    }
}

/// `Err`: the tier is away. `None`: it, or a part of it, is not to be read now, and nothing is known of it.
fn look(
    shared: &Shared,
    slot: &Slot,
    name: AggregateId,
    problems: &mut Vec<String>,
) -> Result<Option<Found>, EngineError> {
    let mut bad = |why: &str| {
        let tier = &slot.name;
        tell(problems, format!("tier {tier}, aggregate {name}: {why}"));
    };
    let mut aggregate = LearnedAggregate {
        tier: slot.id,
        id: name,
        len: 0,
        in_parts: None,
        composed: Timestamp::default(),
        damaged: true,
    };
    let unknown = |aggregate| {
        let members = Vec::new();
        Ok(Some(Found { aggregate, members }))
    };
    aggregate.len = match slot.tier.stat(name) {
        Ok(len) => len,
        Err(why) if is_away(&why) => return Err(why.into()),
        Err(why) => {
            bad(&format!("{why}; what it holds is not known"));
            return unknown(aggregate);
        }
    };
    // No cache: what the tier has is the question.
    let why = match IndexCache::new(0).load(&*slot.tier, slot.id, name) {
        Ok(loaded) => {
            let index = loaded.index();
            aggregate.composed = index.composed;
            aggregate.damaged = false;
            if index.fs != shared.backing.fs() {
                bad(&format!("it is of another backing, {}", index.fs));
                return unknown(aggregate);
            }
            aggregate.len = index.len_with_parts(aggregate.len);
            aggregate.in_parts = Some(!index.parts().is_empty());
            let mut members = members(index);
            if let Err((part, why)) = parts::are_there(&*slot.tier, name, index.parts()) {
                let away =
                    matches!(&why, PartTrouble::Tier(why) if is_away(why) || must_be_restored(why));
                bad(&format!(
                    "its part {part}: {why}; its file cannot be put together"
                ));
                if away {
                    return Ok(None);
                }
                members.clear();
                aggregate.damaged = true;
            }
            return Ok(Some(Found { aggregate, members }));
        }
        Err(why) => why,
    };
    match &*why {
        IndexError::Tier(away) if is_away(away) => return Err(passing(&why)),
        IndexError::Tier(away) if must_be_restored(away) => {
            bad(&format!(
                "{why}; what it holds is not known until it was restored"
            ));
            return Ok(None);
        }
        IndexError::Bytes {
            source: AggregateError::Newer(_),
            ..
        } => {
            bad(&format!("{why}; what it holds is not known"));
            return unknown(aggregate);
        }
        _ => bad(&format!("{why}; its members are read from the front")),
    }
    from_the_front(shared, slot, aggregate, &mut bad).map(Some)
}

/// The index is damaged: the members, as far as the tar part can be read from the front.
fn from_the_front(
    shared: &Shared,
    slot: &Slot,
    mut aggregate: LearnedAggregate,
    bad: &mut dyn FnMut(&str),
) -> Result<Found, EngineError> {
    let name = aggregate.id;
    let mut scanner = Scanner::seekable(Object::new(&*slot.tier, name, aggregate.len));
    let mut entries = Vec::new();
    if let Err(why) = scan(&mut scanner, &mut entries) {
        // A tier that went away shows at the next aggregate, and this one is read again then.
        slot.tier.stat(name)?;
        bad(&format!("{why}; what lies behind it is not known"));
    } else if scanner.end().is_none() {
        bad("it ends before tar does; what lies behind is not known");
    }
    if entries.iter().any(IndexEntry::is_part) {
        bad("it has a part of a file, which its index alone puts together with the others");
    }
    let composition = scanner.composition();
    let ours = composition.filter(|c| c.aggregate == name && c.fs == shared.backing.fs());
    if composition.is_some() && ours.is_none() {
        bad("it is another aggregate, or of another backing");
        entries.clear();
    }
    aggregate.composed = ours.map(|c| c.composed).unwrap_or_default();
    let index = Index {
        aggregate: name,
        fs: shared.backing.fs(),
        composed: aggregate.composed,
        entries,
    };
    Ok(Found {
        aggregate,
        members: members(&index),
    })
}

/// The tier as a whole does not answer. Anything else is about this one object, and keeps nobody from the
/// others.
fn is_away(why: &TierError) -> bool {
    matches!(why, TierError::Unavailable { .. })
}

/// The service keeps it where it must be restored from first.
fn must_be_restored(why: &TierError) -> bool {
    matches!(why, TierError::NotRestored { .. })
}

fn passing(why: &IndexError) -> EngineError {
    EngineError::refused(Failure::TierUnavailable, why)
}

/// All members, their data read and summed: the headers alone have no block sums.
fn scan(
    scanner: &mut Scanner<Object<'_>>,
    entries: &mut Vec<IndexEntry>,
) -> Result<(), AggregateError> {
    while scanner.next_member()?.is_some() {
        match scanner.entry() {
            Ok(entry) => entries.extend(entry),
            // The sum in its header is not that of its data: the next ones may be whole.
            Err(why @ AggregateError::BadMember { .. }) => tracing::warn!(%why, "a bad member"),
            Err(why) => return Err(why),
        }
    }
    Ok(())
}

/// The files' data in an index, each with its names.
fn members(index: &Index) -> Vec<LearnedMember> {
    let mut links: HashMap<&[u8], Vec<Vec<u8>>> = HashMap::new();
    for entry in &index.entries {
        if let Kind::HardLink { target } = &entry.member.kind {
            let names = links.entry(target.as_bytes()).or_default();
            names.push(entry.member.path.as_bytes().to_vec());
        }
    }
    let learned = |entry: &IndexEntry| {
        let member = &entry.member;
        let (Kind::Regular { size, .. }, Some(identity)) = (&member.kind, member.identity) else {
            return None;
        };
        // Found from the front: where the others lie nobody knows.
        if entry.is_part() {
            return None;
        }
        let path = member.path.as_bytes();
        let mut names = vec![path.to_vec()];
        names.extend(links.get(path).into_iter().flatten().cloned());
        Some(LearnedMember {
            file: identity.file,
            version: identity.version,
            header: entry.header,
            stored_len: entry.stored_len(),
            crc: identity.crc?,
            blocks_crc: entry.blocks_crc(),
            names,
            size: *size,
            mtime: member.mtime,
            uid: member.uid,
            gid: member.gid,
        })
    };
    index.entries.iter().filter_map(learned).collect()
}

#[cfg(test)]
mod tests;
