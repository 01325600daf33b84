//! When tiers are freed of what nobody needs ([`crate::hsm::reclaim`]), and what is told of it.
//!
//! One thread, at low priority: at the start it learns of objects that the catalog does not know;
//! then it runs daily, after each complete scan, when a condemned object has waited, and when
//! somebody asks.

use super::{Engine, EngineError, Shared, shifted};
use crate::catalog::TierSum;
use crate::error::Failure;
use crate::hsm::reclaim::{self, Comparison, Ground, Memory, Report, Rules, Step, Unfit};
use crate::id::{TierId, Timestamp};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the thread looks whether something is due when nothing rings.
const PATIENCE: Duration = Duration::from_secs(30);
/// Runs that are remembered.
const KEPT: usize = 16;
/// Runs that may wait.
const WAITING: usize = 64;
/// Longest rest between two reads of a pass that nobody asked for.
const REST: Duration = Duration::from_millis(200);

/// What a run over all tiers did, or would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collection {
    /// Its number, from 1.
    pub number: u64,
    /// It changes nothing.
    pub dry: bool,
    /// When it began.
    pub begun: Timestamp,
    /// When it ended; `None`: it runs.
    pub ended: Option<Timestamp>,
    /// Tiers by name: what was done, or why it ended early.
    pub tiers: Vec<(String, Result<Report, String>)>,
}

/// A comparison of a tier with the catalog that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierCheck {
    /// Its number, from 1.
    pub number: u64,
    /// The tier's name.
    pub tier: String,
    /// When it began.
    pub begun: Timestamp,
    /// When it ended; `None`: it runs.
    pub ended: Option<Timestamp>,
    /// What was found, or why it ended early.
    pub found: Option<Result<Comparison, String>>,
}

/// What somebody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// A run over all tiers.
    Pass { dry: bool },
    /// A comparison of one.
    Check { tier: TierId, closely: bool },
}

/// A tier's objects, summed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierView {
    /// Its name.
    pub name: String,
    /// Its URL, without secrets.
    pub url: String,
    /// By what they are.
    pub sums: Vec<TierSum>,
    /// A run looked at it since the start.
    pub looked: bool,
    /// As of the last run over it, or of the look at the start.
    pub last: Option<Report>,
}

impl TierView {
    /// Objects that the catalog did not know.
    #[must_use]
    pub fn quarantined(&self) -> u64 {
        let of = self.sums.iter();
        of.filter(|sum| sum.life == crate::catalog::Life::Quarantined)
            .map(|sum| sum.objects)
            .sum()
    }
}

#[derive(Default)]
struct State {
    /// Number of the last run that was asked for or began.
    number: u64,
    /// What was asked for, by number.
    asked: Vec<(u64, Wish)>,
    /// The latest ones, the newest last.
    runs: Vec<Collection>,
    /// The latest ones, the newest last.
    checks: Vec<TierCheck>,
    /// What the look at the start found, by tier.
    surveys: Vec<(String, Report)>,
    /// The last run that was no dry one, by tier.
    last: Vec<(String, Report)>,
}

impl State {
    /// It waits no more.
    fn granted(&mut self, number: u64) {
        self.asked.retain(|(asked, _)| *asked != number);
    }
}

/// What is asked of the thread, and what it answered.
#[derive(Default)]
pub(super) struct Desk(Mutex<State>, Unfit, Memory);

impl Engine {
    /// Asks for a run over all tiers; its number.
    pub fn collect(&self, dry: bool) -> u64 {
        self.wish(Wish::Pass { dry })
    }

    fn wish(&self, wish: Wish) -> u64 {
        let mut state = self.shared.desk.0.lock();
        state.number += 1;
        let number = state.number;
        state.asked.push((number, wish));
        drop(state);
        self.shared.bell.ring();
        number
    }

    /// Asks for a comparison of a tier with the catalog; its number. `closely`: each object is asked for.
    ///
    /// # Errors
    /// [`Failure::Usage`]: there is no such tier; [`Failure::Busy`]: too many such wishes wait.
    pub fn check_tier(&self, name: &str, closely: bool) -> Result<u64, EngineError> {
        let tier = self.shared.slot_named(name)?.id;
        if self.shared.desk.0.lock().asked.len() >= WAITING {
            let why = format!("{WAITING} runs over tiers wait already");
            return Err(EngineError::refused(Failure::Busy, why));
        }
        Ok(self.wish(Wish::Check { tier, closely }))
    }

    /// A comparison by its number; `None`: it has not begun.
    ///
    /// # Errors
    /// There was none, or it was long ago.
    pub fn tier_check(&self, number: u64) -> Result<Option<TierCheck>, EngineError> {
        let state = self.shared.desk.0.lock();
        let found = state.checks.iter().find(|check| check.number == number);
        if found.is_none() && !waits(&state, number, |wish| matches!(wish, Wish::Check { .. })) {
            let why = format!("there is no check {number} of a tier");
            return Err(EngineError::refused(Failure::NotFound, why));
        }
        Ok(found.cloned())
    }

    /// Has a run begin soon, if none waits already.
    pub fn collect_soon(&self) {
        let pass = Wish::Pass { dry: false };
        let waits = |state: &State| state.asked.iter().any(|(_, wish)| *wish == pass);
        if !waits(&self.shared.desk.0.lock()) {
            self.collect(false);
        }
    }

    /// A run by its number; `None`: it has not begun.
    ///
    /// # Errors
    /// There was none, or it was long ago.
    pub fn collection(&self, number: u64) -> Result<Option<Collection>, EngineError> {
        let state = self.shared.desk.0.lock();
        let found = state.runs.iter().find(|run| run.number == number);
        if found.is_none() && !waits(&state, number, |wish| matches!(wish, Wish::Pass { .. })) {
            let why = format!("there is no run {number} of the collector");
            return Err(EngineError::refused(Failure::NotFound, why));
        }
        Ok(found.cloned())
    }

    /// The tiers and what lies on them.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn tier_views(&self) -> Result<Vec<TierView>, EngineError> {
        let shared = &self.shared;
        let views = shared.tiers.iter().map(|slot| {
            let state = shared.desk.0.lock();
            let of = |all: &[(String, Report)]| {
                let found = all.iter().find(|(name, _)| *name == slot.name);
                found.map(|(_, report)| report.clone())
            };
            let (last, survey) = (of(&state.last), of(&state.surveys));
            drop(state);
            Ok(TierView {
                looked: last.is_some(),
                name: slot.name.clone(),
                url: slot.url.clone(),
                sums: shared.catalog.tier_sums(slot.id)?,
                last: last.or(survey),
            })
        });
        views.collect()
    }
}

fn waits(state: &State, number: u64, is: impl Fn(&Wish) -> bool) -> bool {
    let mut asked = state.asked.iter();
    asked.any(|(asked, wish)| *asked == number && is(wish))
}

/// When what was done last.
struct Due {
    last: Instant,
    proof: u64,
    /// A condemned object will have waited.
    next: Option<Timestamp>,
}

/// The thread's work, until the engine stops.
pub(super) fn work(shared: &Arc<Shared>) {
    // This thread alone: users come first.
    if let Err(why) = rustix::process::setpriority_process(None, 15) {
        tracing::debug!(%why, "tiers are freed at ordinary priority");
    }
    // What a restored catalog does not know must be known before somebody reads it.
    for slot in &shared.tiers {
        let stop = |_: Option<Step>| shared.stopping();
        let surveyed = with_ground(shared, slot, &stop, reclaim::survey);
        match surveyed {
            Some(Ok(report)) => {
                let found = (slot.name.clone(), report);
                shared.desk.0.lock().surveys.push(found);
            }
            Some(Err(why)) => {
                tracing::warn!(tier = %slot.name, %why, "its objects could not be looked through");
            }
            None => {}
        }
    }
    let mut due = Due {
        last: Instant::now(),
        proof: 0,
        next: None,
    };
    let mut heard = 0;
    for slot in &shared.tiers {
        super::media::tend(shared, slot, &mut due.next);
    }
    while !shared.stopping() {
        // It is among what was asked for until it is among what began: who asks for it finds it.
        let asked = shared.desk.0.lock().asked.first().copied();
        if let Some((number, wish)) = asked {
            match wish {
                Wish::Pass { dry } => run(shared, number, dry, &mut due, false),
                Wish::Check { tier, closely } => check(shared, number, tier, closely),
            }
            shared.desk.0.lock().granted(number);
        } else if super::media::empty_next(shared, &mut due.next) {
        } else if is_due(shared, &due) {
            let number = {
                let mut state = shared.desk.0.lock();
                state.number += 1;
                state.number
            };
            run(shared, number, false, &mut due, true);
        } else {
            heard = shared.bell.wait(heard, PATIENCE);
        }
    }
}

fn is_due(shared: &Shared, due: &Due) -> bool {
    let every = shared.settings.collect_every;
    if every.is_zero() {
        return false;
    }
    let proof = shared
        .catalog
        .scan_state()
        .map_or(due.proof, |state| state.proof_generation);
    let waited = due.next.is_some_and(|next| next <= shared.now());
    due.last.elapsed() >= every || proof > due.proof || waited
}

fn run(shared: &Shared, number: u64, dry: bool, due: &mut Due, gentle: bool) {
    if let Ok(state) = shared.catalog.scan_state() {
        due.proof = state.proof_generation;
    }
    let begun = Collection {
        number,
        dry,
        begun: shared.now(),
        ended: None,
        tiers: Vec::new(),
    };
    {
        let mut state = shared.desk.0.lock();
        if state.runs.len() >= KEPT {
            state.runs.remove(0);
        }
        state.runs.push(begun);
        state.granted(number);
    }
    let mut next: Option<Timestamp> = None;
    for slot in &shared.tiers {
        let rests = gently(shared);
        let stop = |step: Option<Step>| {
            if gentle {
                rests(step)
            } else {
                shared.stopping()
            }
        };
        let done = with_ground(shared, slot, &stop, |ground| reclaim::pass(ground, dry));
        let Some(done) = done else { continue };
        if let Err(why) = &done {
            tracing::warn!(tier = %slot.name, %why, "freeing the tier ended early");
        }
        if let Ok(report) = &done {
            next = [next, report.next].into_iter().flatten().min();
            if !dry {
                super::media::tend(shared, slot, &mut next);
            }
        }
        let mut state = shared.desk.0.lock();
        if let (Ok(report), false) = (&done, dry) {
            state.last.retain(|(name, _)| *name != slot.name);
            state.last.push((slot.name.clone(), report.clone()));
        }
        if let Some(run) = state.runs.last_mut() {
            let done = done.map_err(|why| why.to_string());
            run.tiers.push((slot.name.clone(), done));
        }
    }
    let now = shared.now();
    let mut state = shared.desk.0.lock();
    if let Some(run) = state.runs.last_mut() {
        run.ended = Some(now);
    }
    if !dry {
        due.last = Instant::now();
        // What is just waiting for a scan is waited for by the scan.
        due.next = next.map(|next| next.max(shifted(now, PATIENCE, true)));
    }
}

fn check(shared: &Shared, number: u64, tier: TierId, closely: bool) {
    let Some(slot) = shared.tiers.iter().find(|slot| slot.id == tier) else {
        return;
    };
    let begun = TierCheck {
        number,
        tier: slot.name.clone(),
        begun: shared.now(),
        ended: None,
        found: None,
    };
    {
        let mut state = shared.desk.0.lock();
        if state.checks.len() >= KEPT {
            state.checks.remove(0);
        }
        state.checks.push(begun);
        state.granted(number);
    }
    let stop = |_: Option<Step>| shared.stopping();
    let found = with_ground(shared, slot, &stop, |ground| {
        reclaim::check(ground, closely)
    });
    let found = match found {
        Some(Ok(found)) => Ok(found),
        Some(Err(why)) => Err(why.to_string()),
        None => Err("the instance is just starting".to_owned()),
    };
    let now = shared.now();
    if let Some(check) = shared.desk.0.lock().checks.last_mut() {
        (check.ended, check.found) = (Some(now), Some(found));
    }
}

/// Whether to stop, asked of a pass that rests before each read.
pub(super) fn gently(shared: &Shared) -> impl Fn(Option<Step>) -> bool + '_ {
    let worked = Mutex::new(Instant::now());
    move |step| {
        if matches!(step, None | Some(Step::Copying)) {
            // As long as the work took, so that users have half of the tier at least.
            let mut since = worked.lock();
            std::thread::sleep(since.elapsed().min(REST));
            *since = Instant::now();
        }
        shared.stopping()
    }
}

/// What a pass over the slot needs; `None`: the engine has no recaller yet.
pub(super) fn with_ground<T>(
    shared: &Shared,
    slot: &super::Slot,
    stop: &dyn Fn(Option<Step>) -> bool,
    work: impl FnOnce(&Ground<'_>) -> T,
) -> Option<T> {
    let recaller = shared.recaller()?;
    let settings = &shared.settings;
    let ground = Ground {
        catalog: &shared.catalog,
        backing: &shared.backing,
        tier: &*slot.tier,
        id: slot.id,
        seat: &|aggregate| shared.seat(slot.id, aggregate, &|| stop(None)),
        indexes: recaller.indexes(),
        rules: Rules {
            keep: settings.keep_deleted,
            delay: settings.delete_delay,
            dead_share: settings.repack_share,
        },
        epoch: shared.incarnation.epoch,
        unfit: &shared.desk.1,
        memory: &shared.desk.2,
        name: &|| {
            let under_way = shared.composing.name(&shared.catalog)?;
            Ok((under_way.id(), Box::new(under_way)))
        },
        now: &|| shared.now(),
        steady: &|| shared.settings.clock.steady(),
        stop,
    };
    Some(work(&ground))
}
