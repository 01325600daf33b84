//! The verify lane: copies are read back whole and compared, each on its tier.

use super::super::{EngineError, Shared, Slot};
use super::{end, failed, later};
use crate::catalog::{Action, Copy, CopyState, Durability, Finish};
use crate::error::Failure;
use crate::hsm::verify::{VerifyError, verify_member};
use crate::tier::{ErrorKind, TierError};
use std::sync::Arc;

pub(super) fn verify(shared: &Arc<Shared>, actions: &[Action]) {
    for action in actions {
        let finish = if shared.stopping() {
            Finish::PutBack
        } else {
            one(shared, action)
        };
        end(shared, action, finish);
    }
}

fn one(shared: &Shared, action: &Action) -> Finish {
    let copies = match copies(shared, action) {
        Ok(copies) => copies,
        Err(why) => return later(shared, action, why.code(), why),
    };
    let (mut looked, mut bad) = (0, Vec::new());
    for copy in copies
        .iter()
        .filter(|c| action.tier.is_none_or(|t| t == c.tier))
    {
        let Some(slot) = shared.slot(copy.tier) else {
            return failed(
                Failure::TierUnavailable,
                format!("tier {} is not configured here", copy.tier),
            );
        };
        looked += 1;
        let found = match check(shared, slot, copy) {
            Ok(None) => CopyState::Good,
            Ok(Some(why)) => {
                tracing::error!(tier = %slot.name, aggregate = %copy.aggregate, %why, "a copy is bad");
                bad.push(format!("{} on {}: {why}", copy.aggregate, slot.name));
                CopyState::Bad
            }
            Err(VerifyError::Stopped) => return Finish::PutBack,
            Err(why) => return later(shared, action, Failure::TierUnavailable, why),
        };
        if let Err(why) = shared
            .catalog
            .set_copy_state(copy, found, shared.now(), Durability::Full)
        {
            return later(shared, action, Failure::Internal, why);
        }
    }
    match (looked, bad.is_empty()) {
        (0, _) => failed(Failure::NoGoodCopy, "it has no copy there"),
        (_, true) => Finish::Done,
        (_, false) => failed(Failure::NoGoodCopy, bad.join("; ")),
    }
}

fn copies(shared: &Shared, action: &Action) -> Result<Vec<Copy>, EngineError> {
    let Some(node) = shared.catalog.node_by_handle(&action.handle)? else {
        return Ok(Vec::new());
    };
    let Some(version) = node.version else {
        return Ok(Vec::new());
    };
    Ok(shared.catalog.copies(version.file, version.version)?)
}

/// What is wrong with a copy; `None`: every byte was read and is right.
fn check(shared: &Shared, slot: &Slot, copy: &Copy) -> Result<Option<String>, VerifyError> {
    let loaded = match crate::hsm::verify::read_index(&*slot.tier, copy.aggregate) {
        Ok((_, index)) => index,
        Err(VerifyError::Tier(why)) if !about_the_object(&why) => return Err(why.into()),
        Err(VerifyError::Stopped) => return Err(VerifyError::Stopped),
        Err(why) => return Ok(Some(why.to_string())),
    };
    // An adopted stub shares the copies of the one it was made from.
    let shared_entry = || {
        let at = loaded.position_by_place(copy.header, copy.crc)?;
        loaded.entries.get(at)
    };
    let named = loaded.by_identity(copy.file, copy.version);
    let Some(entry) = named.or_else(shared_entry) else {
        return Ok(Some("its index does not name this version".into()));
    };
    match verify_member(&*slot.tier, copy.aggregate, entry, &|| shared.stopping()) {
        Ok(verdict) if verdict.is_good() => Ok(None),
        Ok(verdict) => Ok(Some(match verdict.bad.first() {
            Some(block) => format!(
                "{} blocks have wrong checksums, the first is {}",
                verdict.bad.len(),
                block.block
            ),
            None => "its content has another checksum".into(),
        })),
        Err(VerifyError::Tier(why)) if about_the_object(&why) => Ok(Some(why.to_string())),
        Err(why) => Err(why),
    }
}

/// The object itself is at fault, not the way to it.
fn about_the_object(why: &TierError) -> bool {
    match why.kind() {
        ErrorKind::Missing | ErrorKind::Short | ErrorKind::Corrupt => true,
        ErrorKind::Unavailable
        | ErrorKind::Full
        | ErrorKind::Transient
        | ErrorKind::Exists
        | ErrorKind::Refused => false,
    }
}
