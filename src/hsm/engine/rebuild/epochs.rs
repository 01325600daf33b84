//! Above which epoch the next one must lie: what the names of aggregates say, as far as they are
//! believed.
//!
//! Invariant: a name alone moves the epoch by little. One far above everything else counts only if its
//! object ends as an aggregate of this backing with this very name: epochs are finite, and one stray
//! name must not use them up.

use crate::format::aggregate::{TRAILER_LEN, decode_trailer};
use crate::hsm::index_cache::tier_is_passing;
use crate::id::{AggregateId, FsUuid};
use crate::tier::{Tier, TierError};

/// So many starts may have been made under a catalog that knew more.
pub(super) const FAR: u32 = 1 << 16;
/// The last number of an aggregate in an epoch.
const LAST: u64 = u64::MAX >> 1;
/// Names listed at once.
const PAGE: usize = 256;
/// Epochs that are left out one by one.
const LEFT_OUT: usize = 100;

/// Why the highest epoch is not known.
#[derive(Debug, thiserror::Error)]
pub(in crate::hsm::engine) enum EpochError {
    /// The tier cannot say.
    #[error(transparent)]
    Tier(#[from] TierError),
    /// There is no end of names that are not believed.
    #[error(
        "more than {LEFT_OUT} epochs in the names of objects that are no aggregates of this backing"
    )]
    TooMany,
}

/// The highest epoch in the names of a tier's aggregates; 0: there are none. `tell` hears of those that
/// are left out: far above `base`, and no aggregates of this backing.
pub(in crate::hsm::engine) fn highest_epoch(
    tier: &dyn Tier,
    fs: FsUuid,
    base: u32,
    tell: &mut dyn FnMut(String),
) -> Result<u32, EpochError> {
    let mut most = u32::MAX;
    for _ in 0..LEFT_OUT {
        let highest = highest_name(tier, most)?;
        if highest <= base.saturating_add(FAR) || is_vouched_for(tier, fs, highest)? {
            return Ok(highest);
        }
        tell(format!(
            "epoch {highest} is left out: nothing in it is an aggregate of this backing by its end; \
             move the objects that are named so away"
        ));
        most = highest - 1;
    }
    Err(EpochError::TooMany)
}

/// The highest epoch of a name, of those up to `most`. Asks once for each bit.
fn highest_name(tier: &dyn Tier, most: u32) -> Result<u32, TierError> {
    let is_one_from = |epoch: u32| -> Result<bool, TierError> {
        let after = AggregateId {
            epoch: epoch - 1,
            seq: LAST,
        };
        let found = tier.list(Some(after), 1)?;
        Ok(found.first().is_some_and(|name| name.epoch <= most))
    };
    let mut highest = 0;
    for bit in (0..32).rev() {
        let with = highest | 1_u32 << bit;
        // Something lies in this epoch or above.
        if with <= most && is_one_from(with)? {
            highest = with;
        }
    }
    Ok(highest)
}

fn is_vouched_for(tier: &dyn Tier, fs: FsUuid, epoch: u32) -> Result<bool, TierError> {
    let mut after = AggregateId {
        epoch: epoch - 1,
        seq: LAST,
    };
    loop {
        let names = tier.list(Some(after), PAGE)?;
        for name in names.iter().filter(|name| name.epoch == epoch) {
            if ends_as_ours(tier, fs, *name)? {
                return Ok(true);
            }
        }
        match names.last() {
            Some(last) if last.epoch == epoch => after = *last,
            _ => return Ok(false),
        }
    }
}

fn ends_as_ours(tier: &dyn Tier, fs: FsUuid, name: AggregateId) -> Result<bool, TierError> {
    let last = tier.stat(name).and_then(|len| {
        let from = len.saturating_sub(TRAILER_LEN);
        Ok((tier.read(name, from, len - from)?, len))
    });
    match last {
        Ok((last, len)) => {
            let trailer = decode_trailer(&last, len);
            let is_ours = trailer.is_ok_and(|t| t.aggregate == name && t.fs == fs);
            if !is_ours {
                tier.confirm()?;
            }
            Ok(is_ours)
        }
        Err(why) if tier_is_passing(&why) => Err(why),
        Err(_) => Ok(false),
    }
}

#[cfg(test)]
mod tests;
