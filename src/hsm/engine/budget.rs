//! How much jobs may keep on disk by their pins: all of them, and those of one user. What is pinned is not
//! released, so without a bound the jobs of one user could take the disk from everybody.
//!
//! Invariants:
//! - A file counts once, however many jobs pin it; for a user, once however many of their jobs do.
//! - What was let in and is being pinned counts until a tally that began after its last pin was set.

use super::{EngineError, Shared};
use crate::catalog::{JobPins, NodeId, PinnedBy};
use crate::error::Failure;
use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// How long a tally of all pins is used.
const FRESH: Duration = Duration::from_secs(2);

/// What a request would add to what jobs keep on disk, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PinNeed {
    /// Files that no job pins.
    pub all: u64,
    /// Files that none of the user's jobs pins.
    pub user: u64,
}

impl PinNeed {
    pub(super) fn add(&mut self, size: u64, by: PinnedBy) {
        if by == PinnedBy::Nobody {
            self.all = self.all.saturating_add(size);
        }
        if by != PinnedBy::User {
            self.user = self.user.saturating_add(size);
        }
    }
}

/// The bounds, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) all: u64,
    pub(super) user: u64,
}

/// What is taken of each bound, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Taken {
    all: u64,
    user: u64,
}

/// Whether a request may pin what it needs; if not, why.
pub(super) fn judge(need: PinNeed, taken: Taken, bounds: Bounds) -> Result<(), (Failure, String)> {
    let sides = [
        (
            need.user,
            taken.user,
            bounds.user,
            "your jobs",
            "job-pins-per-user",
        ),
        (need.all, taken.all, bounds.all, "all jobs", "job-pins"),
    ];
    for (need, taken, bound, whose, setting) in sides {
        if need > bound {
            let why = format!(
                "{need} bytes would be kept on disk, and {whose} together may keep {bound} ({setting})"
            );
            return Err((Failure::QuotaExceeded, why));
        }
        if need > bound.saturating_sub(taken) {
            let why = format!(
                "{need} bytes would be kept on disk, and {whose} keep {taken} of {bound} ({setting}) \
                 already: it waits until one of them ends"
            );
            return Err((Failure::OverBudget, why));
        }
    }
    Ok(())
}

/// What was let in and is being pinned.
struct Reserved {
    number: u64,
    uid: u32,
    need: PinNeed,
    done: Option<Instant>,
}

#[derive(Default)]
struct State {
    /// When it began, and what it found.
    tally: Option<(Instant, JobPins)>,
    reserved: Vec<Reserved>,
    last: u64,
}

/// What jobs keep on disk, and what they are about to.
#[derive(Default)]
pub(super) struct Budgets(Mutex<State>);

/// While it lives, what was let in is being pinned.
pub(super) struct Pinning<'a> {
    budgets: &'a Budgets,
    number: u64,
}

impl Drop for Pinning<'_> {
    fn drop(&mut self) {
        let mut state = self.budgets.0.lock();
        let mine = state.reserved.iter_mut().find(|r| r.number == self.number);
        if let Some(mine) = mine {
            mine.done = Some(Instant::now());
        }
    }
}

impl State {
    fn taken(&self, uid: u32) -> Taken {
        let mut taken = Taken::default();
        let mut began = None;
        if let Some((at, pins)) = &self.tally {
            taken.all = pins.bytes;
            taken.user = pins.by_user.get(&uid).copied().unwrap_or(0);
            began = Some(*at);
        }
        let seen = |r: &&Reserved| matches!((r.done, began), (Some(done), Some(at)) if done < at);
        for one in self.reserved.iter().filter(|r| !seen(r)) {
            taken.all = taken.all.saturating_add(one.need.all);
            if one.uid == uid {
                taken.user = taken.user.saturating_add(one.need.user);
            }
        }
        taken
    }
}

impl Budgets {
    /// Looks at all pins, if that was not done just now.
    fn tally(
        &self,
        count: impl FnOnce() -> Result<JobPins, EngineError>,
    ) -> Result<(), EngineError> {
        let mut state = self.0.lock();
        if matches!(&state.tally, Some((at, _)) if at.elapsed() < FRESH) {
            return Ok(());
        }
        let began = Instant::now();
        state.tally = Some((began, count()?));
        state
            .reserved
            .retain(|r| r.done.is_none_or(|done| done >= began));
        Ok(())
    }

    /// Lets a request in, or says why not.
    fn reserve(
        &self,
        uid: u32,
        need: PinNeed,
        bounds: Bounds,
    ) -> Result<Pinning<'_>, (Failure, String)> {
        let mut state = self.0.lock();
        judge(need, state.taken(uid), bounds)?;
        state.last += 1;
        let number = state.last;
        state.reserved.push(Reserved {
            number,
            uid,
            need,
            done: None,
        });
        Ok(Pinning {
            budgets: self,
            number,
        })
    }
}

impl Shared {
    fn bounds(&self) -> Result<Bounds, EngineError> {
        let total = self.usage()?.total.0;
        let share = |percent: crate::config::Percent| {
            let part = u128::from(total) * u128::from(percent.get()) / 100;
            u64::try_from(part).unwrap_or(u64::MAX)
        };
        Ok(Bounds {
            all: share(self.settings.job_pins),
            user: share(self.settings.job_pins_per_user),
        })
    }

    fn tally_pins(&self) -> Result<(), EngineError> {
        self.budgets
            .tally(|| Ok(self.catalog.job_pins(self.now())?))
    }

    /// Why a job's request cannot pin what it needs now.
    pub(super) fn over_budget(
        &self,
        uid: u32,
        need: PinNeed,
    ) -> Result<Option<(Failure, String)>, EngineError> {
        self.tally_pins()?;
        let taken = self.budgets.0.lock().taken(uid);
        Ok(judge(need, taken, self.bounds()?).err())
    }

    /// Lets a job's request pin what it needs.
    pub(super) fn reserve_pins(
        &self,
        uid: u32,
        need: PinNeed,
    ) -> Result<Result<Pinning<'_>, (Failure, String)>, EngineError> {
        self.tally_pins()?;
        Ok(self.budgets.reserve(uid, need, self.bounds()?))
    }

    /// Disk space of archived files that is pinned, bytes.
    pub(super) fn pinned_space(&self) -> Result<u64, EngineError> {
        self.tally_pins()?;
        let state = self.budgets.0.lock();
        Ok(state.tally.as_ref().map_or(0, |(_, pins)| pins.archived))
    }

    /// Adds what pinning these files would add.
    pub(super) fn count_pins(
        &self,
        files: &[(NodeId, u64)],
        uid: u32,
        need: &mut PinNeed,
    ) -> Result<(), EngineError> {
        let ids: Vec<NodeId> = files.iter().map(|(id, _)| *id).collect();
        let by = self.catalog.pinned_by_jobs(&ids, uid, self.now())?;
        for ((_, size), by) in files.iter().zip(by) {
            need.add(*size, by);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { all: 100, user: 60 };

    fn need(all: u64, user: u64) -> PinNeed {
        PinNeed { all, user }
    }

    #[test]
    fn what_is_too_much_for_ever_is_told_from_what_is_too_much_now() {
        let taken = |all, user| Taken { all, user };
        assert_eq!(judge(need(60, 60), taken(40, 0), BOUNDS), Ok(()));
        let now = judge(need(60, 60), taken(41, 0), BOUNDS).unwrap_err();
        assert_eq!(now.0, Failure::OverBudget);
        assert!(now.1.contains("all jobs keep 41 of 100"), "{}", now.1);
        let own = judge(need(10, 10), taken(51, 51), BOUNDS).unwrap_err();
        assert_eq!(own.0, Failure::OverBudget);
        assert!(own.1.contains("your jobs keep 51 of 60"), "{}", own.1);
        let never = judge(need(10, 61), taken(0, 0), BOUNDS).unwrap_err();
        assert_eq!(never.0, Failure::QuotaExceeded);
        // What others' jobs pin already costs nobody but the user.
        assert_eq!(judge(need(0, 60), taken(100, 0), BOUNDS), Ok(()));
    }

    #[test]
    fn a_file_counts_once() {
        let mut sum = PinNeed::default();
        sum.add(1, PinnedBy::Nobody);
        sum.add(2, PinnedBy::Others);
        sum.add(4, PinnedBy::User);
        assert_eq!(sum, need(1, 3));
    }

    #[test]
    fn what_is_being_pinned_counts_until_a_later_tally_has_seen_it() {
        let budgets = Budgets::default();
        let pins = |bytes| {
            let by_user = [(7, bytes)].into();
            move || {
                Ok(JobPins {
                    bytes,
                    by_user,
                    archived: 0,
                })
            }
        };
        budgets.tally(pins(10)).unwrap();
        let first = budgets.reserve(7, need(40, 40), BOUNDS).ok().unwrap();
        let taken = || budgets.0.lock().taken(7);
        assert_eq!(taken(), Taken { all: 50, user: 50 });
        assert!(budgets.reserve(7, need(11, 11), BOUNDS).is_err());
        assert!(budgets.reserve(8, need(50, 50), BOUNDS).is_ok());
        drop(first);
        // The tally is from before.
        assert_eq!(taken().user, 50);
        budgets.0.lock().tally = None;
        budgets.tally(pins(50)).unwrap();
        assert_eq!(taken(), Taken { all: 50, user: 50 });
        assert!(budgets.0.lock().reserved.is_empty());
    }
}
