//! The desks of the tape tiers: where those who read much of one wait for their turn.

use super::{Shared, Slot};
use crate::hsm::tape::desk::{Desk, Seat, Wish};
use crate::hsm::tape::queue::Urgency;
use crate::id::{AggregateId, TierId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// For whom the engine itself reads.
const NOBODY: u32 = 0;

/// See the module.
pub(super) struct Desks(BTreeMap<TierId, Arc<Desk>>);

impl Desks {
    pub(super) fn of(tiers: &[Slot]) -> Self {
        let desk = |slot: &Slot| Some((slot.id, Arc::new(Desk::new(slot.tier.tapes()?))));
        Self(tiers.iter().filter_map(desk).collect())
    }

    pub(super) fn get(&self, tier: TierId) -> Option<&Arc<Desk>> {
        self.0.get(&tier)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Desk>> {
        self.0.values()
    }

    /// Nobody gets a seat any more.
    pub(super) fn stop(&self) {
        self.all().for_each(|desk| desk.stop());
    }
}

impl Shared {
    /// Waits for the turn of an aggregate that is to be read from front to back, if it lies on tape.
    /// Without a seat it is read all the same; `stop` ends the wait. Who has one writes nothing to the
    /// same tier.
    pub(super) fn seat(
        &self,
        tier: TierId,
        aggregate: AggregateId,
        stop: &dyn Fn() -> bool,
    ) -> Option<Seat> {
        let desk = self.desks.get(tier)?;
        let wish = Wish {
            stretch: desk.find(aggregate, 0..u64::MAX)?,
            user: NOBODY,
            urgency: Urgency::Work,
        };
        desk.seat(wish, stop)
    }
}
