//! What was learned of namespace snapshots since the start.
//!
//! Invariants: one counts as whole only after all blocks of its listing were read and proven, down to
//! the sum in its last line; a read that was stopped, or that the tier did not answer, leaves nothing.

use super::listings::INDEXES;
use super::{Ground, ReclaimError};
use crate::hsm::index_cache::IndexCache;
use crate::hsm::restore::read_whole;
use crate::id::{AggregateId, TierId};
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// How many of its names and directories a snapshot does not list, or why it cannot be read.
pub(super) type Whole = Result<u64, String>;

/// See the module. Good until the next start: each is read once, since that takes as long as it is.
#[derive(Debug, Default)]
pub struct Memory {
    whole: Mutex<BTreeMap<(TierId, AggregateId), Whole>>,
}

impl Memory {
    /// Whether all of a snapshot can be read.
    pub(super) fn whole(
        &self,
        ground: &Ground<'_>,
        id: AggregateId,
    ) -> Result<Whole, ReclaimError> {
        let key = (ground.id, id);
        if let Some(known) = self.whole.lock().get(&key) {
            return Ok(known.clone());
        }
        let go_on = || ground.go_on().is_ok();
        let read = read_whole(ground.tier, &IndexCache::new(INDEXES), id, &go_on);
        let found = match read {
            Ok(Some(end)) => Ok(end.gaps),
            Ok(None) => return Err(ReclaimError::Stopped),
            Err(why) if why.is_damage() => Err(why.to_string()),
            Err(source) => {
                return Err(ReclaimError::Snapshot {
                    snapshot: id,
                    source,
                });
            }
        };
        self.whole.lock().insert(key, found.clone());
        Ok(found)
    }
}
