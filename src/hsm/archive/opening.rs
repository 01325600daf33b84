//! The tier is told of an aggregate, and says what it has no room for.

use super::{ArchiveError, Batch, SMALL};
use crate::tier::{Put, TierError};

/// A tier that has no room for so many bytes is full.
const OTHERS: u64 = 1 << 20;

/// The tier is told of the aggregate.
pub(super) fn begin(batch: &Batch<'_>, len: u64) -> Result<Box<dyn Put>, TierError> {
    let mut put = batch.tier.put(batch.aggregate, len)?;
    if let Some(unwanted) = batch.unwanted {
        put.heed(unwanted.clone());
    }
    Ok(put)
}

impl Batch<'_> {
    pub(super) fn is_unwanted(&self) -> bool {
        self.unwanted.is_some_and(|unwanted| unwanted())
    }
}

/// A lone file for which there is no room keeps no others waiting for which there is some.
pub(super) fn full(
    batch: &Batch<'_>,
    (size, in_parts): (u64, bool),
    why: TierError,
) -> ArchiveError {
    let is_alone = batch.items.len() == 1 && size > SMALL;
    let is_full = matches!(why, TierError::Full { .. });
    let is_bounded = || batch.tier.lengths(size).is_ok_and(|l| !l.is_empty());
    let others = || is_bounded() && batch.tier.admit(&[OTHERS]).is_ok();
    if is_full && (in_parts || is_alone && others()) {
        return ArchiveError::NoRoom(why);
    }
    why.into()
}
