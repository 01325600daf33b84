//! How much jobs may keep on disk by their pins: all of them, and those of one user. What is pinned is not
//! released, so without a bound the jobs of one user could take the disk from everybody.
//!
//! A job claims all that it needs before it asks for the first file. What a claim has not pinned yet counts
//! as if it were.
//!
//! Invariants:
//! - A file counts once, however many jobs pin it; for a user, once however many of their jobs do.
//! - A job that waits has claimed nothing.
//! - One user's pins take no more of what all jobs may keep than that user may keep.

use super::{Admission, EngineError, Need, Shared};
use crate::catalog::{JobPins, NodeId, PinnedBy};
use crate::error::Failure;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a tally of all pins is used at least, and how many times as long as it took.
const FRESH: (Duration, u32) = (Duration::from_secs(2), 10);
/// How long a claim waits for its pins.
const LAPSE: Duration = Duration::from_secs(3600);
/// After so long a wait nobody who came later gets what a job waits for.
const PATIENCE: Duration = Duration::from_secs(600);
/// A job that has not asked for so long waits no more.
const SILENCE: Duration = Duration::from_secs(120);

/// What a job, or a request of it, would keep on disk, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PinNeed {
    /// All of it.
    pub total: u64,
    /// Files that no job pins.
    pub all: u64,
    /// Files that none of the user's jobs pins.
    pub user: u64,
}

impl PinNeed {
    fn add(&mut self, size: u64, by: PinnedBy) {
        self.total = self.total.saturating_add(size);
        if by == PinnedBy::Nobody {
            self.all = self.all.saturating_add(size);
        }
        if by != PinnedBy::User {
            self.user = self.user.saturating_add(size);
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            total: self.total.saturating_add(other.total),
            all: self.all.saturating_add(other.all),
            user: self.user.saturating_add(other.user),
        }
    }

    /// What of it is not pinned, of a job that pins so much.
    fn outstanding(self, pinned: u64) -> Self {
        let left = self.total.saturating_sub(pinned);
        Self {
            total: left,
            all: self.all.min(left),
            user: self.user.min(left),
        }
    }
}

/// The bounds, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bounds {
    all: u64,
    user: u64,
}

/// What is taken of each bound, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Taken {
    all: u64,
    user: u64,
}

/// Why something cannot be pinned: now, or at all.
type Refusal = (Failure, String);

/// Whether so much may be pinned besides what is taken.
fn judge(need: PinNeed, taken: Taken, bounds: Bounds) -> Result<(), Refusal> {
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
    for (need_now, taken, bound, whose, setting) in sides {
        if need.total > bound {
            let why = format!(
                "{} bytes would be kept on disk, and {whose} together may keep {bound} ({setting})",
                need.total
            );
            return Err((Failure::QuotaExceeded, why));
        }
        if need_now > bound.saturating_sub(taken) {
            let why = format!(
                "{need_now} bytes more would be kept on disk, and {whose} keep {taken} of {bound} ({setting}) \
                 already: it waits until some of them end"
            );
            return Err((Failure::OverBudget, why));
        }
    }
    Ok(())
}

/// A user's job.
type Key = (u32, String);

/// What a job will pin, or has.
struct Claim {
    need: PinNeed,
    /// What its requests have drawn of it, bytes.
    drawn: u64,
    at: Instant,
}

impl Claim {
    fn new(need: PinNeed) -> Self {
        Self {
            need,
            drawn: 0,
            at: Instant::now(),
        }
    }
}

/// A job that waits.
struct Waiting {
    key: Key,
    need: PinNeed,
    /// Bytes that are to come back for it.
    bytes: u64,
    since: Instant,
    seen: Instant,
    why: String,
}

/// All pins, as they were at a moment.
struct Tally {
    at: Instant,
    took: Duration,
    pins: JobPins,
}

#[derive(Default)]
struct State {
    tally: Option<Tally>,
    claims: BTreeMap<Key, Claim>,
    /// In the order in which they came.
    waiting: Vec<Waiting>,
}

impl State {
    fn pinned(&self, key: &Key) -> u64 {
        let by_job = self.tally.as_ref().map(|tally| &tally.pins.by_job);
        by_job.and_then(|jobs| jobs.get(key).copied()).unwrap_or(0)
    }

    /// What is taken, for this job: by what is pinned, by what others have claimed, and by those that have
    /// waited long before it.
    fn taken(&self, key: &Key, bounds: Bounds) -> Taken {
        let mut taken = Taken::default();
        if let Some(Tally { pins, .. }) = &self.tally {
            let bounded = pins.by_user.values().map(|bytes| (*bytes).min(bounds.user));
            let bounded = bounded.fold(0_u64, u64::saturating_add);
            taken.all = pins.bytes.min(bounded);
            taken.user = pins.by_user.get(&key.0).copied().unwrap_or(0);
        }
        let live = self.claims.iter();
        let claims = live
            .filter(|(other, claim)| *other != key && claim.at.elapsed() < LAPSE)
            .map(|(other, claim)| (other.0, claim.need.outstanding(self.pinned(other))));
        let before = self.waiting.iter().take_while(|w| w.key != *key);
        let before = before
            .filter(|w| w.since.elapsed() > PATIENCE && w.seen.elapsed() < SILENCE)
            .map(|w| (w.key.0, w.need));
        for (uid, need) in claims.chain(before) {
            taken.all = taken.all.saturating_add(need.all);
            if uid == key.0 {
                taken.user = taken.user.saturating_add(need.user);
            }
        }
        taken
    }

    /// The job waits.
    fn wait(&mut self, key: &Key, need: PinNeed, bytes: u64, why: String) {
        self.claims.remove(key);
        let now = Instant::now();
        self.waiting.retain(|w| w.seen.elapsed() < SILENCE);
        match self.waiting.iter_mut().find(|w| w.key == *key) {
            Some(mine) => {
                (mine.need, mine.bytes, mine.seen, mine.why) = (need, bytes, now, why);
            }
            None => self.waiting.push(Waiting {
                key: key.clone(),
                need,
                bytes,
                since: now,
                seen: now,
                why,
            }),
        }
    }

    /// A request of the job pins so much: of its claim, or besides it if there is room.
    fn draw(&mut self, key: &Key, need: PinNeed, bounds: Bounds) -> Result<(), Refusal> {
        let pinned = self.pinned(key);
        if let Some(claim) = self.claims.get_mut(key) {
            // A tally may be older than the last request.
            let before = claim.drawn.max(pinned);
            if before.saturating_add(need.total) <= claim.need.total {
                claim.drawn = claim.drawn.saturating_add(need.total);
                return Ok(());
            }
        }
        let claimed = self.claims.get(key).map(|claim| claim.need);
        let own = claimed.unwrap_or_default().outstanding(pinned);
        let mut taken = self.taken(key, bounds);
        taken.all = taken.all.saturating_add(own.all);
        taken.user = taken.user.saturating_add(own.user);
        judge(need, taken, bounds)?;
        let claimed = claimed.unwrap_or(PinNeed {
            total: pinned,
            ..PinNeed::default()
        });
        let mut claim = Claim::new(claimed.and(need));
        claim.drawn = claim.need.total;
        self.claims.insert(key.clone(), claim);
        Ok(())
    }
}

/// What jobs keep on disk, and what they have claimed.
#[derive(Default)]
pub(super) struct Budgets {
    state: Mutex<State>,
    /// Who counts.
    counting: Mutex<()>,
}

impl Budgets {
    /// Looks at all pins, if that was not done just now. While another looks, what was there before stands.
    fn tally(
        &self,
        count: impl FnOnce() -> Result<JobPins, EngineError>,
    ) -> Result<(), EngineError> {
        let fresh = |tally: &Tally| tally.at.elapsed() < FRESH.0.max(tally.took * FRESH.1);
        let known = || self.state.lock().tally.as_ref().map(fresh);
        let _counting = match known() {
            Some(true) => return Ok(()),
            Some(false) => match self.counting.try_lock() {
                Some(turn) => turn,
                None => return Ok(()),
            },
            None => self.counting.lock(),
        };
        if known() == Some(true) {
            return Ok(());
        }
        let at = Instant::now();
        let pins = count()?;
        let took = at.elapsed();
        let mut state = self.state.lock();
        state.tally = Some(Tally { at, took, pins });
        state.claims.retain(|_, claim| claim.at.elapsed() < LAPSE);
        Ok(())
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

    /// A job claims what it needs on disk, of which `bytes` are to come back; `need` as it was last if none is
    /// given. Why it has to wait, if it has to. Without `hold` it is only told.
    ///
    /// # Errors
    /// [`Failure::QuotaExceeded`], [`Failure::NoSpace`]: waiting cannot help.
    pub(super) fn claim_pins(
        &self,
        (uid, job): (u32, &str),
        need: Option<(PinNeed, u64)>,
        hold: bool,
    ) -> Result<Option<String>, EngineError> {
        self.tally_pins()?;
        let (key, bounds) = ((uid, job.to_owned()), self.bounds()?);
        let last = |state: &State| {
            let mine = state.waiting.iter().find(|w| w.key == key)?;
            Some((mine.need, mine.bytes))
        };
        let Some((need, bytes)) = need.or_else(|| last(&self.budgets.state.lock())) else {
            return Ok(None);
        };
        let disk = Need {
            bytes,
            ..Need::default()
        };
        let room = match self.admit(&disk, true)?.0 {
            Admission::Refused(code, why) => Err((code, why)),
            Admission::Fits | Admission::InParts(_) => Ok(()),
        };
        let mut state = self.budgets.state.lock();
        let pins = judge(need, state.taken(&key, bounds), bounds);
        let now = |refused: &Result<(), Refusal>| matches!(refused, Err((Failure::OverBudget, _)));
        // What waiting cannot change comes first.
        let verdict = match now(&room) {
            true => pins.and(room),
            false => room.and(pins),
        };
        match verdict {
            Err((Failure::OverBudget, why)) => {
                if hold {
                    state.wait(&key, need, bytes, why.clone());
                }
                Ok(Some(why))
            }
            Err((code, why)) => {
                state.waiting.retain(|w| w.key != key);
                Err(EngineError::refused(code, why))
            }
            Ok(()) if hold => {
                state.waiting.retain(|w| w.key != key);
                state.claims.insert(key, Claim::new(need));
                Ok(None)
            }
            Ok(()) => Ok(None),
        }
    }

    /// Lets a job's request pin what it needs.
    pub(super) fn draw_pins(
        &self,
        (uid, job): (u32, &str),
        need: PinNeed,
    ) -> Result<Result<(), Refusal>, EngineError> {
        self.tally_pins()?;
        let bounds = self.bounds()?;
        let mut state = self.budgets.state.lock();
        Ok(state.draw(&(uid, job.to_owned()), need, bounds))
    }

    /// What the job waits for.
    pub(super) fn waits_for(&self, (uid, job): (u32, &str)) -> Option<String> {
        let state = self.budgets.state.lock();
        let mut waiting = state.waiting.iter();
        let mine = waiting.find(|w| w.key.0 == uid && w.key.1 == job)?;
        (mine.seen.elapsed() < SILENCE).then(|| mine.why.clone())
    }

    /// The job is over, or gives up what it has claimed.
    pub(super) fn give_up_claim(&self, (uid, job): (u32, &str)) {
        let key = (uid, job.to_owned());
        let mut state = self.budgets.state.lock();
        state.claims.remove(&key);
        state.waiting.retain(|w| w.key != key);
    }

    /// Disk space of archived files that is pinned, and of that what jobs alone pin, bytes.
    pub(super) fn pinned_space(&self) -> Result<(u64, u64), EngineError> {
        self.tally_pins()?;
        let state = self.budgets.state.lock();
        let pins = state.tally.as_ref().map(|tally| &tally.pins);
        Ok(pins.map_or((0, 0), |pins| (pins.archived, pins.archived_by_jobs)))
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

    fn need(total: u64, all: u64, user: u64) -> PinNeed {
        PinNeed { total, all, user }
    }

    fn key(uid: u32, job: &str) -> Key {
        (uid, job.to_owned())
    }

    fn tally(state: &mut State, jobs: &[(Key, u64)]) {
        let mut pins = JobPins::default();
        for (key, bytes) in jobs {
            pins.bytes += bytes;
            *pins.by_user.entry(key.0).or_default() += bytes;
            pins.by_job.insert(key.clone(), *bytes);
        }
        state.tally = Some(Tally {
            at: Instant::now(),
            took: Duration::ZERO,
            pins,
        });
    }

    #[test]
    fn what_is_too_much_for_ever_is_told_from_what_is_too_much_now() {
        let taken = |all, user| Taken { all, user };
        assert_eq!(judge(need(60, 60, 60), taken(40, 0), BOUNDS), Ok(()));
        let now = judge(need(60, 60, 60), taken(41, 0), BOUNDS).unwrap_err();
        assert_eq!(now.0, Failure::OverBudget);
        assert!(now.1.contains("all jobs keep 41 of 100"), "{}", now.1);
        let own = judge(need(10, 10, 10), taken(51, 51), BOUNDS).unwrap_err();
        assert_eq!(own.0, Failure::OverBudget);
        assert!(own.1.contains("your jobs keep 51 of 60"), "{}", own.1);
        // Also if most of it is pinned now: that job will end before this one.
        let never = judge(need(61, 1, 1), taken(0, 0), BOUNDS).unwrap_err();
        assert_eq!(never.0, Failure::QuotaExceeded);
        // What others' jobs pin already costs nobody but the user.
        assert_eq!(judge(need(60, 0, 60), taken(100, 0), BOUNDS), Ok(()));
    }

    #[test]
    fn what_is_claimed_counts_until_it_is_pinned_and_not_twice() {
        let mut state = State::default();
        tally(&mut state, &[]);
        let (one, two) = (key(7, "one"), key(7, "two"));
        assert_eq!(state.draw(&one, need(40, 40, 40), BOUNDS), Ok(()));
        let taken = |state: &State| state.taken(&two, BOUNDS);
        assert_eq!(taken(&state), Taken { all: 40, user: 40 });
        // Half of it is pinned, then all of it.
        for pinned in [20, 40] {
            tally(&mut state, &[(one.clone(), pinned)]);
            assert_eq!(taken(&state), Taken { all: 40, user: 40 });
        }
        assert!(state.draw(&two, need(21, 21, 21), BOUNDS).is_err());
        assert_eq!(state.draw(&two, need(20, 20, 20), BOUNDS), Ok(()));
    }

    #[test]
    fn requests_draw_from_their_jobs_claim() {
        let mut state = State::default();
        let job = key(7, "one");
        let all = Claim::new(need(50, 50, 50));
        state.claims.insert(job.clone(), all);
        // Also if no tally has seen yet what an earlier one pinned.
        for pinned in [0, 10] {
            let others = (key(8, "other"), 50);
            tally(&mut state, &[others, (job.clone(), pinned)]);
            assert_eq!(state.draw(&job, need(20, 20, 20), BOUNDS), Ok(()));
        }
        let more = state.draw(&job, need(30, 30, 30), BOUNDS).unwrap_err();
        assert_eq!(more.0, Failure::OverBudget);
    }

    #[test]
    fn one_users_pins_take_no_more_of_all_than_that_user_may_keep() {
        let mut state = State::default();
        tally(&mut state, &[(key(7, "huge"), u64::MAX / 2)]);
        assert_eq!(state.draw(&key(8, "x"), need(40, 40, 40), BOUNDS), Ok(()));
        assert!(state.draw(&key(7, "x"), need(1, 1, 1), BOUNDS).is_err());
    }

    #[test]
    fn who_has_waited_long_comes_before_who_came_later() {
        let mut state = State::default();
        tally(&mut state, &[(key(1, "runs"), 60)]);
        let large = key(2, "large");
        let before = Instant::now().checked_sub(PATIENCE * 2).unwrap();
        state.wait(&large, need(60, 60, 60), 0, "waits".to_owned());
        let later = key(3, "later");
        assert_eq!(state.draw(&later, need(10, 10, 10), BOUNDS), Ok(()));
        state.waiting[0].since = before;
        let held_back = state.draw(&later, need(30, 30, 30), BOUNDS).unwrap_err();
        assert_eq!(held_back.0, Failure::OverBudget);
        tally(&mut state, &[(later.clone(), 10)]);
        assert_eq!(state.draw(&large, need(60, 60, 60), BOUNDS), Ok(()));
        // Who does not ask any more holds nobody back.
        state.waiting[0].seen = before;
        state.claims.clear();
        assert_eq!(state.draw(&later, need(50, 50, 50), BOUNDS), Ok(()));
    }
}
