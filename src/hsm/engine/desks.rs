//! The desks of the tape tiers: where those who read much of one wait for their turn.

use super::{Engine, Shared, Slot};
use crate::hsm::tape::desk::{Absent, Desk, Seat, Wish};
use crate::hsm::tape::queue::Urgency;
use crate::id::{AggregateId, RequestId, TierId};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// For whom the engine itself reads.
const NOBODY: u32 = 0;

/// What a request waits for on tape, of what is at a desk now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TapeWaits {
    /// Files by the barcodes of their cartridges.
    pub cartridges: BTreeMap<String, u64>,
    /// Until the last of them is read, as the queue stands.
    pub left: Option<Duration>,
}

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

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
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
        self.seat_at(tier, aggregate, 0..u64::MAX, stop)
    }

    /// The same for a part of it.
    pub(super) fn seat_at(
        &self,
        tier: TierId,
        aggregate: AggregateId,
        range: Range<u64>,
        stop: &dyn Fn() -> bool,
    ) -> Option<Seat> {
        let desk = self.desks.get(tier)?;
        let wish = Wish {
            stretch: desk.find(aggregate, range)?,
            user: NOBODY,
            urgency: Urgency::Work,
        };
        desk.seat(wish, stop)
    }
}

impl Shared {
    /// What a request's files wait for at desks.
    pub(super) fn tape_waits(&self, request: RequestId) -> TapeWaits {
        let mut waits = TapeWaits::default();
        let Some(recaller) = self.recaller().filter(|_| !self.desks.is_empty()) else {
            return waits;
        };
        for node in self.lanes.stages_of(request) {
            if let Some(told) = recaller.told(&node) {
                let cartridge = told.cartridge.to_string();
                *waits.cartridges.entry(cartridge).or_default() += 1;
                waits.left = waits.left.max(Some(told.left));
            }
        }
        waits
    }
}

impl Engine {
    /// Cartridges of a tier that were asked for of late and are not in their library.
    #[must_use]
    pub fn absent_cartridges(&self, tier: TierId) -> Vec<Absent> {
        let desk = self.shared.desks.get(tier);
        desk.map_or_else(Vec::new, |desk| desk.absent())
    }
}
