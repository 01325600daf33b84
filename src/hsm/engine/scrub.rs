//! The scrub: every copy is read back once in `scrub-every`, oldest check first, a thread for each
//! tier at a bounded rate.
//!
//! Invariants:
//! - One read at a time of a tier, and never more bytes of it in a second than `scrub-bandwidth`, seen
//!   over a few seconds; of tape over a few minutes: a stretch is read as fast as a drive gives it, which
//!   others have while it is paid for.
//! - Users come first: while anything else runs, each read waits a while, unless the promise is late.
//! - Nothing is kept beside the catalog: after a restart the oldest check is the next to be made.

mod pace;
mod rests;

use super::proof::CheckError;
use super::{Engine, EngineError, Shared, Slot, shifted};
use crate::catalog::{Copy, CopyState, ProofCount};
use crate::hsm::verify::{Fault, VerifyError};
use crate::id::{AggregateId, TierId, Timestamp};
use crate::tier::{ErrorKind, TierError};
use pace::{Paced, Pacer};
use rests::{Rests, Verdict};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the thread looks for something to do.
const LOOK: Duration = Duration::from_secs(1);
/// How long it sleeps without looking whether it is to stop.
const NAP: Duration = Duration::from_millis(100);
/// Oldest copies looked at together to find one that does not rest.
const OLDEST: usize = 512;

/// How the scrub stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubFacts {
    /// Every copy is to be read once in so long; zero: not by itself.
    pub every: Duration,
    /// Bytes per second, of each tier.
    pub bandwidth: u64,
    /// Bad copies are made again.
    pub heal: bool,
    /// The tiers, in the order of configuration.
    pub tiers: Vec<ScrubTier>,
}

/// The copies on one tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubTier {
    /// Its name.
    pub tier: String,
    /// Copies that files need.
    pub copies: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of them bad, and not made again.
    pub bad: u64,
    /// When the copy was read that was not read for the longest time.
    pub oldest: Option<Timestamp>,
    /// How long it takes to read them all.
    pub takes: Duration,
}

impl ScrubFacts {
    /// Can every copy of a tier be read in time?
    #[must_use]
    pub fn is_kept(&self, tier: &ScrubTier) -> bool {
        self.every.is_zero() || tier.takes <= self.every
    }

    /// Was a copy of a tier not read for longer than was promised?
    #[must_use]
    pub fn is_late(&self, tier: &ScrubTier, now: Timestamp) -> bool {
        let by = shifted(now, self.every, false);
        !self.every.is_zero() && tier.oldest.is_some_and(|oldest| oldest < by)
    }
}

impl Engine {
    /// How the scrub stands, and what it has found.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn scrub(&self) -> Result<ScrubFacts, EngineError> {
        let (settings, counts) = (&self.shared.settings, self.shared.catalog.proof_counts()?);
        let one = |slot: &Slot| {
            let count = counts.iter().find(|c| c.tier == slot.id);
            let bytes = count.map_or(0, |c| c.bytes);
            ScrubTier {
                tier: slot.name.clone(),
                copies: count.map_or(0, |c| c.copies),
                bytes,
                bad: count.map_or(0, |c| c.bad),
                oldest: count.and_then(|c| c.oldest),
                takes: takes(bytes, settings.scrub_bandwidth),
            }
        };
        Ok(ScrubFacts {
            every: settings.scrub_every,
            bandwidth: settings.scrub_bandwidth,
            heal: settings.heal,
            tiers: self.shared.tiers.iter().map(one).collect(),
        })
    }
}

fn takes(bytes: u64, bandwidth: u64) -> Duration {
    Duration::from_secs(bytes / bandwidth.max(1))
}

/// Checks older than this are due: so early that all can be made in time, and not much earlier.
fn due_before(now: Timestamp, every: Duration, takes: Duration) -> Timestamp {
    let lead = takes.saturating_add(takes / 4).max(every / 10).min(every);
    shifted(now, every.saturating_sub(lead), false)
}

/// The thread of one tier, until the engine stops.
pub(super) fn work(shared: &Arc<Shared>, tier: TierId) {
    if let Err(why) = rustix::process::setpriority_process(None, 15) {
        tracing::debug!(%why, "the scrub runs at ordinary priority");
    }
    let Some(slot) = shared.slot(tier) else {
        return;
    };
    let mut scrub = Scrub {
        shared,
        slot,
        pacer: Pacer::new(shared.settings.scrub_bandwidth),
        rests: Rests::default(),
    };
    while !shared.stopping() {
        match catch_unwind(AssertUnwindSafe(|| scrub.round())) {
            Ok(Ok(true)) => continue,
            Ok(Ok(false)) => {}
            Ok(Err(why)) => {
                tracing::warn!(tier = %slot.name, %why, "copies could not be checked; tried again");
            }
            Err(_) => tracing::error!(tier = %slot.name, "the scrub panicked; it goes on"),
        }
        let until = Instant::now() + LOOK;
        while Instant::now() < until && !shared.stopping() {
            std::thread::sleep(NAP);
        }
    }
}

struct Scrub<'a> {
    shared: &'a Arc<Shared>,
    slot: &'a Slot,
    pacer: Pacer,
    rests: Rests,
}

impl Scrub<'_> {
    /// Reads one aggregate, or what of it is due; `false`: nothing is due now.
    fn round(&mut self) -> Result<bool, CheckError> {
        let (shared, tier) = (self.shared, self.slot.id);
        if self.rests.all(Instant::now()) {
            return Ok(false);
        }
        let now = Instant::now();
        let suspect = |object| self.rests.one(object, now);
        if let Some(aggregate) = shared.proof.next_suspect(tier, suspect) {
            let all = shared.live_members(tier, aggregate)?;
            let read = self.read(aggregate, unread(all), false);
            if !matches!(read, Ok(true)) {
                shared.proof.suspect(tier, aggregate);
            }
            return read;
        }
        let every = shared.settings.scrub_every;
        if every.is_zero() {
            return Ok(false);
        }
        let counts = shared.catalog.proof_counts()?;
        let Some(count) = counts.into_iter().find(|c| c.tier == tier) else {
            return Ok(false);
        };
        let before = self.due(&count);
        let Some(next) = self.oldest(before)? else {
            return Ok(false);
        };
        let all = unread(shared.live_members(tier, next.aggregate)?);
        let mut due: Vec<Copy> = all
            .iter()
            .filter(|c| checked(c) < before)
            .copied()
            .collect();
        // The next one is read whatever else is found: each round is a step forward.
        if !due.iter().any(|c| c.place() == next.place()) {
            due.push(next);
        }
        // Where most is due the whole is read in one go: a medium is brought there but once.
        let most = due.len() * 2 >= all.len() && all.iter().any(|c| c.place() == next.place());
        let late = checked(&next) < shifted(shared.now(), every, false);
        self.read(next.aggregate, if most { all } else { due }, late)
    }

    /// The copy that was not read for the longest time, but those in aggregates that rest.
    fn oldest(&self, before: Timestamp) -> Result<Option<Copy>, CheckError> {
        let (tier, now) = (self.slot.id, Instant::now());
        let mut after: Option<Copy> = None;
        while !self.shared.stopping() {
            let catalog = &self.shared.catalog;
            let page = catalog.copies_to_verify(tier, before, after.as_ref(), OLDEST)?;
            let awake = |copy: &&Copy| !self.rests.one(copy.aggregate, now);
            if let Some(found) = page.iter().find(awake) {
                return Ok(Some(*found));
            }
            if page.len() < OLDEST {
                break;
            }
            after = page.last().copied();
        }
        Ok(None)
    }

    fn due(&self, count: &ProofCount) -> Timestamp {
        let settings = &self.shared.settings;
        let takes = takes(count.bytes, settings.scrub_bandwidth);
        due_before(self.shared.now(), settings.scrub_every, takes)
    }

    fn read(
        &mut self,
        aggregate: AggregateId,
        copies: Vec<Copy>,
        late: bool,
    ) -> Result<bool, CheckError> {
        if copies.is_empty() {
            return Ok(true);
        }
        let (shared, slot) = (self.shared, self.slot);
        let stop = || shared.stopping();
        // While it has a seat at a drive, nobody is served by its standing still.
        let on_tape = slot.tier.tapes().is_some();
        let busy = || !late && !on_tape && shared.is_busy();
        let paced = Paced::new(&*slot.tier, &self.pacer, &busy, &stop);
        let paced = if on_tape { paced.later() } else { paced };
        let of = (aggregate, &copies[..]);
        let told = shared.check_paced(slot, &paced, of, &|| paced.settle(), &stop);
        match told {
            Ok(_) => {
                self.rests.read(aggregate);
                Ok(true)
            }
            Err(CheckError::Verify(VerifyError::Stopped)) => Ok(false),
            Err(CheckError::Verify(VerifyError::Tier(why))) => {
                self.unreadable(aggregate, &copies, &why)?;
                Ok(false)
            }
            Err(CheckError::Doubtful { .. }) => {
                self.doubtful(aggregate);
                Ok(false)
            }
            Err(why) => Err(why),
        }
    }

    /// The tier seems to be at fault; what was said of it is in the log.
    fn doubtful(&mut self, aggregate: AggregateId) {
        let now = Instant::now();
        self.rests.failed(aggregate, now);
        self.rests.rest_all(now);
    }

    /// The object could not be read. If only it cannot, again and again, its copies are bad.
    fn unreadable(
        &mut self,
        aggregate: AggregateId,
        copies: &[Copy],
        why: &TierError,
    ) -> Result<(), CheckError> {
        let (shared, slot, now) = (self.shared, self.slot, Instant::now());
        if why.kind() == ErrorKind::NotRestored {
            // It was not read, nothing is known against it, and the tier stands. Nothing is restored for a check alone.
            tracing::debug!(tier = %slot.name, %aggregate, %why, "copies cannot be checked");
            self.rests.failed(aggregate, now);
            return Ok(());
        }
        tracing::warn!(tier = %slot.name, %aggregate, %why, "copies could not be checked; tried again later");
        let verdict = self.rests.failed(aggregate, now);
        // That no other is known speaks for nobody: where the tier says that it is away, it is.
        let passing = why.kind() == ErrorKind::Transient;
        if !shared.another_answers(slot, aggregate)?.unwrap_or(passing) {
            self.rests.rest_all(now);
            return Ok(());
        }
        if verdict == Verdict::Again || !passing || slot.tier.stat(aggregate).is_err() {
            return Ok(());
        }
        let fault = Some(Fault::Gone(why.to_string()));
        let told: Vec<_> = copies.iter().map(|_| fault.clone()).collect();
        let noted = shared.note_faults(slot, aggregate, copies, &told, shared.now());
        match noted {
            Ok(()) => self.rests.read(aggregate),
            Err(CheckError::Doubtful { .. }) => self.doubtful(aggregate),
            Err(why) => return Err(why),
        }
        Ok(())
    }
}

/// Without those that are known to be bad.
fn unread(mut copies: Vec<Copy>) -> Vec<Copy> {
    copies.retain(|copy| copy.state != CopyState::Bad);
    copies
}

fn checked(copy: &Copy) -> Timestamp {
    copy.last_verified.unwrap_or(copy.proven_at)
}

impl Shared {
    /// Do recalls, archives or releases run?
    fn is_busy(&self) -> bool {
        self.recaller().is_some_and(|r| r.running() > 0) || self.lanes.is_busy()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    #[test]
    fn checks_begin_early_enough_for_all_to_be_made_in_time() {
        let now = Timestamp {
            sec: 1_000 * DAY as i64,
            nsec: 0,
        };
        let every = Duration::from_secs(90 * DAY);
        let age = |days: u64| {
            let before = due_before(now, every, Duration::from_secs(days * DAY));
            (now.sec - before.sec) / DAY as i64
        };
        assert_eq!(age(0), 81, "a little is read near its end");
        assert_eq!(age(40), 40, "with a quarter in reserve");
        assert_eq!((age(72), age(500)), (0, 0), "much is read all the time");
    }

    #[test]
    fn what_cannot_be_kept_is_known() {
        let tier = |bytes| ScrubTier {
            tier: "t".into(),
            copies: 1,
            bytes,
            bad: 0,
            oldest: Some(Timestamp { sec: 0, nsec: 0 }),
            takes: takes(bytes, 1 << 20),
        };
        let facts = ScrubFacts {
            every: Duration::from_secs(DAY),
            bandwidth: 1 << 20,
            heal: true,
            tiers: vec![tier(DAY << 20), tier((DAY + 1) << 20)],
        };
        let kept: Vec<_> = facts.tiers.iter().map(|t| facts.is_kept(t)).collect();
        assert_eq!(kept, [true, false]);
        let at = |sec| Timestamp { sec, nsec: 0 };
        assert!(!facts.is_late(&facts.tiers[0], at(DAY as i64)));
        assert!(facts.is_late(&facts.tiers[0], at(DAY as i64 + 1)));
    }
}
