//! Orders that were found for an estimate, so that the next one need not find them again: from one question to
//! the next, most cartridges are asked for the same.
//!
//! Invariant: an order is given again for exactly the reads and the head that it was found for.

use crate::hsm::tape::queue::{Job, Order};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Cartridge and head.
type Place<C> = (C, Option<u64>);

/// An order, and the reads that it is of.
struct Found {
    reads: Vec<(u64, u64)>,
    order: Vec<usize>,
}

/// See the module. What was not asked for from one [`Self::turn`] to the next is forgotten at the second.
pub(super) struct KnownOrders<C> {
    now: RefCell<BTreeMap<Place<C>, Found>>,
    before: RefCell<BTreeMap<Place<C>, Found>>,
}

impl<C> Default for KnownOrders<C> {
    fn default() -> Self {
        Self {
            now: RefCell::default(),
            before: RefCell::default(),
        }
    }
}

impl<C: Clone + Ord> KnownOrders<C> {
    /// The order that `find` finds, or has found.
    pub(super) fn order(
        &self,
        cartridge: &C,
        at: Option<u64>,
        jobs: &[Job<C>],
        find: Order<'_, C>,
    ) -> Vec<usize> {
        let place = (cartridge.clone(), at);
        let is_of = |found: &&Found| {
            let reads = jobs.iter().map(|job| (job.begin, job.end));
            found.reads.iter().copied().eq(reads)
        };
        let again = self
            .now
            .borrow()
            .get(&place)
            .filter(is_of)
            .map(|found| found.order.clone());
        if let Some(order) = again {
            return order;
        }
        let before = self.before.borrow_mut().remove(&place);
        let found = before
            .filter(|found| is_of(&found))
            .unwrap_or_else(|| Found {
                reads: jobs.iter().map(|job| (job.begin, job.end)).collect(),
                order: find(cartridge, at, jobs),
            });
        let order = found.order.clone();
        self.now.borrow_mut().insert(place, found);
        order
    }

    /// Another question comes.
    pub(super) fn turn(&mut self) {
        *self.before.get_mut() = std::mem::take(self.now.get_mut());
    }
}
