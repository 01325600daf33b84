//! Proof of copies: reading them back, and what follows when one is bad. The verify lane and the
//! scrub read; whoever finds a bad copy (a recall, too) says so here.
//!
//! Invariants:
//! - What a read showed is in the catalog before anybody is told of it; that a copy is bad, durably.
//! - What speaks against a whole tier is held against none of its copies (see `footing`).
//! - An aggregate of which nothing can be found (gone, cut, its index damaged) makes all copies in it
//!   bad at once, so that they are made again together.

mod footing;
mod stretches;

use super::{Shared, Slot};
use crate::catalog::{CatalogError, Copy, CopyState, Durability};
use crate::hsm::verify::{Fault, VerifyError, is_known_there, verify_copies};
use crate::id::{AggregateId, TierId, Timestamp};
use crate::tier::Tier;
use parking_lot::Mutex;
use std::collections::VecDeque;

/// Aggregates that wait to be looked at because one of their copies was found bad.
const SUSPECTS: usize = 4096;
/// Members of an aggregate asked of the catalog at once.
const PAGE: usize = 2000;

/// What became known of a copy, for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyNews {
    /// A path of a file that needs it, relative to the root; empty: none is known.
    pub path: Vec<u8>,
    /// The tier's name.
    pub tier: String,
    /// The aggregate.
    pub aggregate: AggregateId,
    /// What is wrong with it; `None`: it was made again, in this aggregate.
    pub fault: Option<String>,
}

/// Called with what became known of a copy.
type CopyEar = Box<dyn Fn(&CopyNews) + Send + Sync>;

/// What finders of bad copies share.
#[derive(Default)]
pub(super) struct Proof {
    suspects: Mutex<VecDeque<(TierId, AggregateId)>>,
    ears: Mutex<Vec<CopyEar>>,
    footings: Mutex<footing::Footings>,
}

/// Why nothing can be said of copies.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    /// They could not be read.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// What was found could not be noted.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The tier itself seems to be at fault.
    #[error(
        "{object} and others on tier {tier} cannot be read; is the right filesystem there, and whole?"
    )]
    Doubtful {
        /// Its name.
        tier: String,
        /// What was to be read.
        object: AggregateId,
    },
}

impl super::Engine {
    /// Registers who wants to know of copies that are found bad, and made again; must not block.
    pub fn on_copy(&self, ear: CopyEar) {
        self.shared.proof.ears.lock().push(ear);
    }
}

impl Proof {
    /// Somebody should read all of this aggregate soon.
    pub(super) fn suspect(&self, tier: TierId, aggregate: AggregateId) {
        let mut suspects = self.suspects.lock();
        if suspects.len() < SUSPECTS && !suspects.contains(&(tier, aggregate)) {
            suspects.push_back((tier, aggregate));
        }
    }

    /// The next aggregate of a tier that should be read soon, but those that rest.
    pub(super) fn next_suspect(
        &self,
        tier: TierId,
        rests: impl Fn(AggregateId) -> bool,
    ) -> Option<AggregateId> {
        let mut suspects = self.suspects.lock();
        let at = suspects
            .iter()
            .position(|(of, object)| *of == tier && !rests(*object))?;
        suspects.remove(at).map(|(_, aggregate)| aggregate)
    }
}

impl Shared {
    /// Reads copies that all lie in one aggregate, through `tier` (the slot's own, perhaps paced),
    /// and notes what that showed. `None` in the same place: good.
    pub(super) fn check_copies(
        &self,
        slot: &Slot,
        tier: &dyn Tier,
        aggregate: AggregateId,
        copies: &[Copy],
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Option<Fault>>, CheckError> {
        self.check_paced(slot, tier, (aggregate, copies), &|| (), stop)
    }

    /// As [`Self::check_copies`]; `pause` waits until more may be read, and no drive is held meanwhile.
    pub(super) fn check_paced(
        &self,
        slot: &Slot,
        tier: &dyn Tier,
        (aggregate, copies): (AggregateId, &[Copy]),
        pause: &(dyn Fn() + Sync),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Option<Fault>>, CheckError> {
        let ask = |object, stretch| self.seat_at(slot.id, object, stretch, stop);
        let tier = stretches::Stretches::new(tier, aggregate, &ask, pause, stop);
        let begun = self.now();
        let told = match verify_copies(&tier, aggregate, copies, stop) {
            // Whatever else it says then.
            Err(_) if stop() => return Err(VerifyError::Stopped.into()),
            told => told?,
        };
        // The seat is given back before anything is written.
        drop(tier);
        self.note_faults(slot, aggregate, copies, &told, begun)?;
        Ok(told)
    }

    /// Notes what reading copies of one aggregate showed, which began at `begun`.
    pub(super) fn note_faults(
        &self,
        slot: &Slot,
        aggregate: AggregateId,
        copies: &[Copy],
        told: &[Option<Fault>],
        begun: Timestamp,
    ) -> Result<(), CheckError> {
        let state = |fault: &Option<Fault>| match fault {
            None => CopyState::Good,
            Some(_) => CopyState::Bad,
        };
        let mut checks: Vec<_> = copies
            .iter()
            .zip(told)
            .map(|(copy, fault)| (*copy, state(fault)))
            .collect();
        let mut news: Vec<(Copy, String)> = copies
            .iter()
            .zip(told)
            .filter(|(copy, _)| copy.state != CopyState::Bad)
            .filter_map(|(copy, fault)| Some((*copy, fault.as_ref()?.to_string())))
            .collect();
        let whole = told.iter().flatten().find(|f| f.is_whole());
        if told.iter().any(Option::is_none) {
            self.proof.read_well(slot.id, aggregate);
        } else if let Some(fault) = whole.filter(|_| !news.is_empty()) {
            self.is_the_object(slot, aggregate, fault.is_absence())?;
        }
        if let Some(fault) = told.iter().flatten().find(|f| f.is_of_the_object()) {
            let all = self.live_members(slot.id, aggregate)?;
            let others = all.into_iter().filter(|c| {
                !copies
                    .iter()
                    .any(|k| (k.file, k.version) == (c.file, c.version))
            });
            for copy in others.filter(|c| c.state != CopyState::Bad) {
                checks.push((copy, CopyState::Bad));
                news.push((copy, fault.to_string()));
            }
        }
        let durability = if news.is_empty() {
            Durability::Relaxed
        } else {
            Durability::Full
        };
        self.catalog.note_checks(checks, begun, durability)?;
        for (copy, why) in &news {
            self.tell_bad(slot, copy, why);
        }
        Ok(())
    }

    /// All copies in an aggregate that files need.
    pub(super) fn live_members(
        &self,
        tier: TierId,
        aggregate: AggregateId,
    ) -> Result<Vec<Copy>, CatalogError> {
        let mut all: Vec<Copy> = Vec::new();
        loop {
            let after = all.last().map(Copy::place);
            let page = self.catalog.live_members(tier, aggregate, after, PAGE)?;
            let more = page.len() == PAGE;
            all.extend(page);
            if !more {
                return Ok(all);
            }
        }
    }

    /// A recall or a repair met a bad copy.
    pub(super) fn copy_is_bad(&self, copy: &Copy, why: &str) -> Result<(), CatalogError> {
        if copy.state == CopyState::Bad {
            return Ok(());
        }
        if let Some(slot) = self.slot(copy.tier)
            && !is_known_there(&*slot.tier, copy.aggregate)
        {
            match self.is_the_object(slot, copy.aggregate, true) {
                Ok(()) => {}
                Err(CheckError::Catalog(why)) => return Err(why),
                // Said in the log.
                Err(CheckError::Doubtful { .. } | CheckError::Verify(_)) => return Ok(()),
            }
        }
        let checks = vec![(*copy, CopyState::Bad)];
        self.catalog
            .note_checks(checks, self.now(), Durability::Full)?;
        // The others in its aggregate may be no better.
        self.proof.suspect(copy.tier, copy.aggregate);
        if let Some(slot) = self.slot(copy.tier) {
            self.tell_bad(slot, copy, why);
        }
        Ok(())
    }

    fn tell_bad(&self, slot: &Slot, copy: &Copy, why: &str) {
        tracing::error!(file = %copy.file, version = copy.version.0, tier = %slot.name, aggregate = %copy.aggregate, why, "a copy is bad");
        self.tell_copy(slot, copy, copy.aggregate, Some(why.to_owned()));
        self.bell.ring();
    }

    /// Tells who listens for news of copies.
    pub(super) fn tell_copy(
        &self,
        slot: &Slot,
        copy: &Copy,
        aggregate: AggregateId,
        fault: Option<String>,
    ) {
        let holders = self.catalog.nodes_by_file(copy.file).unwrap_or_default();
        let path = holders
            .iter()
            .find_map(|node| self.catalog.path_of(node.id).ok().flatten());
        let news = CopyNews {
            path: path.unwrap_or_default(),
            tier: slot.name.clone(),
            aggregate,
            fault,
        };
        for tell in self.proof.ears.lock().iter() {
            tell(&news);
        }
    }
}
