//! What was learned of namespace snapshots since the start.
//!
//! Invariants: one counts as whole only after all blocks of its listing were read and proven, down to
//! the sum in its last line; a read that was stopped, or that the tier did not answer, leaves nothing.
//! How long ago something was decided is measured by a clock that nobody sets.

use super::listings::INDEXES;
use super::{Ground, ReclaimError};
use crate::hsm::index_cache::IndexCache;
use crate::hsm::restore::read_whole;
use crate::id::{AggregateId, TierId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;

/// How many of its names and directories a snapshot does not list, or why it cannot be read.
pub(super) type Whole = Result<u64, String>;

/// See the module. Good until the next start: each is read once, since that takes as long as it is.
#[derive(Debug, Default)]
pub struct Memory {
    whole: Mutex<BTreeMap<(TierId, AggregateId), Whole>>,
    /// When it was decided that they go ([`Ground::steady`]).
    decided: Mutex<BTreeMap<(TierId, AggregateId), Duration>>,
}

impl Memory {
    /// It was decided now that a snapshot goes.
    pub(super) fn decided(&self, ground: &Ground<'_>, id: AggregateId) {
        let now = (ground.steady)();
        self.decided.lock().insert((ground.id, id), now);
    }

    /// How much of the delay is left to a condemned snapshot. Of one whose decision is not known the
    /// delay begins now.
    pub(super) fn left(&self, ground: &Ground<'_>, id: AggregateId) -> Duration {
        let now = (ground.steady)();
        let since = *self.decided.lock().entry((ground.id, id)).or_insert(now);
        ground.rules.delay.saturating_sub(now.saturating_sub(since))
    }

    /// A snapshot went, or stays.
    pub(super) fn over(&self, ground: &Ground<'_>, id: AggregateId) {
        self.decided.lock().remove(&(ground.id, id));
    }

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
