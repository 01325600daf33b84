//! Does a tier still stand, when one of its objects seems to be gone? A filesystem that comes back
//! empty under its mark, or a disk that gives no data, says of every object that it is lost.
//!
//! Invariants:
//! - An object that is missing or cannot be read is held against its copies only while another object
//!   of the tier answers.
//! - A few objects in a row that are at fault as a whole, with none read well between them, are the
//!   tier's fault: nothing more is held against copies, and nothing healed on it, until one is read
//!   well.

use super::{CheckError, Proof, Shared, Slot};
use crate::catalog::CatalogError;
use crate::hsm::verify::is_known_there;
use crate::id::{AggregateId, TierId};
use std::collections::HashMap;

/// Objects at fault in a row that are believed.
const IN_A_ROW: usize = 3;
/// Objects asked whether the tier stands.
const ASKED: usize = 4;

/// What is known of a tier as a whole.
#[derive(Debug, Default)]
struct Footing {
    /// Read well last.
    good: Option<AggregateId>,
    /// At fault since then.
    faults: Vec<AggregateId>,
    /// Another one was, or none answered.
    doubtful: bool,
}

impl Footing {
    fn read_well(&mut self, object: AggregateId) {
        *self = Self {
            good: Some(object),
            ..Self::default()
        };
    }

    /// `false`: it is not to be believed.
    fn fault(&mut self, object: AggregateId) -> bool {
        if self.faults.contains(&object) {
            return true;
        }
        self.doubtful |= self.faults.len() >= IN_A_ROW;
        if !self.doubtful {
            self.faults.push(object);
        }
        !self.doubtful
    }
}

/// All tiers'.
#[derive(Debug, Default)]
pub(super) struct Footings(HashMap<TierId, Footing>);

impl Proof {
    /// An object of the tier was read, and something in it was good.
    pub(super) fn read_well(&self, tier: TierId, object: AggregateId) {
        let mut footings = self.footings.lock();
        footings.0.entry(tier).or_default().read_well(object);
    }

    /// Is what reads of the tier show not believed now?
    pub(in crate::hsm::engine) fn is_doubtful(&self, tier: TierId) -> bool {
        let footings = self.footings.lock();
        footings.0.get(&tier).is_some_and(|f| f.doubtful)
    }

    fn doubt(&self, tier: TierId) {
        self.footings.lock().0.entry(tier).or_default().doubtful = true;
    }
}

impl Shared {
    /// The whole object is at fault. Is it that object? `absent`: nothing of it could be read.
    ///
    /// # Errors
    /// [`CheckError::Doubtful`]: it may be the tier; nothing is to be noted.
    pub(in crate::hsm::engine) fn is_the_object(
        &self,
        slot: &Slot,
        object: AggregateId,
        absent: bool,
    ) -> Result<(), CheckError> {
        let stands = !absent || self.another_answers(slot, object)? != Some(false);
        if !stands {
            self.proof.doubt(slot.id);
        }
        let believed = stands && {
            let mut footings = self.proof.footings.lock();
            footings.0.entry(slot.id).or_default().fault(object)
        };
        if believed {
            return Ok(());
        }
        tracing::warn!(tier = %slot.name, %object, "it cannot be read, and neither can others: the tier seems to be at fault; no copy is called bad, and none made again there, until an object is read well");
        Err(CheckError::Doubtful {
            tier: slot.name.clone(),
            object,
        })
    }

    /// Can any other object of the tier be read? `None`: no other is known.
    pub(in crate::hsm::engine) fn another_answers(
        &self,
        slot: &Slot,
        object: AggregateId,
    ) -> Result<Option<bool>, CatalogError> {
        let good = {
            let footings = self.proof.footings.lock();
            footings.0.get(&slot.id).and_then(|f| f.good)
        };
        let newest = self.catalog.newest_of(slot.id, ASKED)?;
        let mut others = good.into_iter().chain(newest).filter(|o| *o != object);
        let Some(first) = others.next() else {
            return Ok(None);
        };
        let answers = |other| is_known_there(&*slot.tier, other);
        Ok(Some(answers(first) || others.any(answers)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_objects_in_a_row_are_believed_and_a_good_one_begins_anew() {
        let object = |seq| AggregateId { epoch: 1, seq };
        let mut footing = Footing::default();
        let believed: Vec<_> = [1, 2, 1, 3, 4, 5, 2]
            .map(|seq| footing.fault(object(seq)))
            .into();
        assert_eq!(believed, [true, true, true, true, false, false, true]);
        assert!(footing.doubtful);
        footing.read_well(object(9));
        assert!(!footing.doubtful && footing.fault(object(4)));
    }
}
