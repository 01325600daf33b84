//! The place that a program keeps: its mark, what is being written there, and what a failure means.
//!
//! Invariants kept here:
//! - Nothing is called missing, listed, written or deleted unless the tier's own mark was read through the
//!   program in the same operation: a place that is not mounted, or another account's, is never taken for it.
//!   What is missing was looked for before and after the mark was read, and a listing shows the mark itself: a place
//!   that is mounted in between is not taken for an empty one.
//! - Of two objects of one name that are written at once in this process one is committed; until its put has
//!   its receipt nobody else here sees it.
//! - A temporary that is being written here is never swept.

use super::mark;
use super::options::ExecOptions;
use super::protocol::{self, Facts, Verdict};
use super::run::{Ended, Failure};
use super::verbs::{Known, Verbs};
use crate::id::AggregateId;
use crate::tier::{Mark, TierError};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

/// What was begun longer ago, seconds, and is not being written here, is nobody's. Whoever takes longer for one
/// object in another process finds it gone, and has no receipt for it.
pub(super) const LEFT: u64 = 14 * 86_400;

/// What this process knows of an object's name while somebody here writes it.
#[derive(Default)]
pub(super) struct Claim {
    /// An object of it was committed here. Locked while that is being done.
    pub(super) taken: Mutex<bool>,
    /// Between its commit and its receipt: nobody sees it yet.
    pub(super) settling: AtomicBool,
}

/// A place.
pub(super) struct Place {
    pub(super) verbs: Verbs,
    pub(super) label: String,
    pub(super) prefix: String,
    expected: Mark,
    known: Mutex<Option<Known>>,
    claims: Mutex<HashMap<AggregateId, Weak<Claim>>>,
    living: Mutex<HashSet<String>>,
    /// What dead writers left was looked for since this was opened.
    swept: AtomicBool,
}

impl Place {
    pub(super) fn new(
        program: &Path,
        options: &ExecOptions,
        label: String,
        expected: Mark,
    ) -> Self {
        Self {
            verbs: Verbs::new(program, options),
            label,
            prefix: options.prefix.clone(),
            expected,
            known: Mutex::new(None),
            claims: Mutex::default(),
            living: Mutex::default(),
            swept: AtomicBool::new(false),
        }
    }

    pub(super) fn expected(&self) -> Mark {
        self.expected
    }

    pub(super) fn expect(&mut self, mark: Mark) {
        self.expected = mark;
    }

    /// An object's name at the place.
    pub(super) fn at(&self, name: AggregateId) -> String {
        protocol::object(&self.prefix, name)
    }

    /// What the program says of itself; asked when it first answers, and when it is another one by now.
    pub(super) fn facts(&self, step: &'static str) -> Result<Facts, TierError> {
        Ok(self.known(step)?.facts)
    }

    /// The same, and of which program that is.
    pub(super) fn known(&self, step: &'static str) -> Result<Known, TierError> {
        let failed = |failure| self.fail(step, None, failure);
        let before = self.known.lock().clone();
        if let Some(known) = &before
            && known.of == self.verbs.identity().map_err(failed)?
        {
            return Ok(known.clone());
        }
        // Not under the lock: whoever only wants to know what is known does not wait for a program.
        let known = self.verbs.describe().map_err(failed)?;
        if let Some(before) = before
            && before.facts != known.facts
        {
            let (before, now) = (before.facts, &known.facts);
            tracing::info!(
                tier = self.label,
                ?before,
                ?now,
                "its program was replaced by one that can do other things"
            );
        }
        *self.known.lock() = Some(known.clone());
        Ok(known)
    }

    /// What it said, if it was ever asked.
    pub(super) fn known_facts(&self) -> Option<Facts> {
        let known = self.known.lock();
        known.as_ref().map(|known| known.facts.clone())
    }

    /// Proves that the place is there, and ours.
    pub(super) fn enter(&self, step: &'static str) -> Result<(), TierError> {
        let away = |why: String| TierError::Unavailable {
            tier: self.label.clone(),
            step,
            why,
        };
        match mark::read(self, step)? {
            Some(found) if found == self.expected => Ok(()),
            Some(found) => Err(away(format!(
                "the mark there is of tier {} of instance {}: another place, or taken over",
                found.tier, found.owner
            ))),
            None => Err(away(format!(
                "its mark {}{} is not there: is it mounted, and the right place?",
                self.prefix,
                protocol::MARK
            ))),
        }
    }

    /// A name that the program says is not there, and what that means. It counts if the place is ours, the name is
    /// still not there, and the place is still ours: one that was not mounted at first does not make all missing.
    pub(super) fn missing(&self, step: &'static str, object: AggregateId) -> TierError {
        let looked = self
            .enter(step)
            .and_then(|()| self.length(step, object, &self.at(object)))
            .and_then(|found| self.enter(step).map(|()| found));
        match looked {
            // Between its commit and its receipt nobody sees it.
            Ok(found) if found.is_none() || self.is_settling(object) => TierError::Missing {
                tier: self.label.clone(),
                object,
            },
            Ok(_) => TierError::Transient {
                tier: self.label.clone(),
                object: object.to_string(),
                step,
                source: std::io::Error::other("it was not there, and a moment later it was"),
            },
            Err(error) => error,
        }
    }

    /// The length of what has this name at the place; `None`: it is not there, and the place was not asked whether it
    /// is the right one.
    pub(super) fn length(
        &self,
        step: &'static str,
        name: AggregateId,
        at: &str,
    ) -> Result<Option<u64>, TierError> {
        match self.verbs.stat(at) {
            Ok(len) => Ok(Some(len)),
            Err(failure) if says(&failure) == Some(Verdict::Missing) => Ok(None),
            Err(failure) => Err(self.fail(step, Some(name), failure)),
        }
    }

    /// What may be otherwise in a moment.
    pub(super) fn passing(
        &self,
        step: &'static str,
        object: AggregateId,
        failure: &Failure,
    ) -> TierError {
        TierError::Transient {
            tier: self.label.clone(),
            object: object.to_string(),
            step,
            source: std::io::Error::other(failure.to_string()),
        }
    }

    /// A failure in the words of tiers. `object`: what it is about, if one.
    pub(super) fn fail(
        &self,
        step: &'static str,
        object: Option<AggregateId>,
        failure: Failure,
    ) -> TierError {
        let tier = self.label.clone();
        let why = failure.to_string();
        let away = |why: String| TierError::Unavailable {
            tier: self.label.clone(),
            step,
            why,
        };
        let passing = |why: String| TierError::Transient {
            tier: self.label.clone(),
            object: object.map_or_else(|| "the place".to_owned(), |name| name.to_string()),
            step,
            source: std::io::Error::other(why),
        };
        let Some(verdict) = says(&failure) else {
            return match failure {
                Failure::Less { .. } | Failure::Pipe(_) | Failure::Replaced => passing(why),
                Failure::Start(_)
                | Failure::Stuck(_)
                | Failure::Silent { .. }
                | Failure::Breach { .. } => away(why),
                // It has a verdict.
                Failure::Ended { .. } => passing(why),
            };
        };
        match (verdict, object) {
            (Verdict::Exists, Some(object)) => TierError::Exists { tier, object },
            (Verdict::Damaged, Some(object)) => TierError::Unreadable { tier, object, why },
            (Verdict::Full, _) => TierError::Full { tier, step, why },
            (Verdict::Refused, _) => TierError::Refused { place: tier, why },
            (Verdict::Passing | Verdict::Done, _) => passing(why),
            // That something is missing is said of objects alone, and by those who asked (see `missing`).
            (Verdict::Missing, Some(_)) => passing(why),
            (Verdict::Missing | Verdict::Exists | Verdict::Damaged, None) => away(why),
            (Verdict::Unavailable | Verdict::Unknown, _) => away(why),
        }
    }

    /// Everybody's word on whether an object of this name was committed here.
    pub(super) fn claim(&self, name: AggregateId) -> Arc<Claim> {
        let mut claims = self.claims.lock();
        if let Some(claim) = claims.get(&name).and_then(Weak::upgrade) {
            return claim;
        }
        claims.retain(|_, claim| claim.strong_count() > 0);
        let claim = Arc::new(Claim::default());
        claims.insert(name, Arc::downgrade(&claim));
        claim
    }

    /// Is it between its commit and its receipt?
    pub(super) fn is_settling(&self, name: AggregateId) -> bool {
        let claim = self.claims.lock().get(&name).and_then(Weak::upgrade);
        claim.is_some_and(|claim| claim.settling.load(Ordering::SeqCst))
    }

    /// A name for a temporary of `what`, kept from sweeping until it is [`Place::release`]d.
    pub(super) fn temporary(&self, what: &str) -> String {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let own = RandomState::new()
            .hash_one((std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let name = protocol::temporary(&self.prefix, now(), own, what);
        self.living.lock().insert(name.clone());
        name
    }

    pub(super) fn release(&self, temporary: &str) {
        self.living.lock().remove(temporary);
    }

    /// Removes what dead writers left, once, when the place is there for the first time.
    pub(super) fn sweep_once(&self) {
        if self.swept.swap(true, Ordering::SeqCst) {
            return;
        }
        if let Err(error) = self.sweep() {
            self.swept.store(false, Ordering::SeqCst);
            tracing::warn!(%error, "what dead writers left stays for now");
        }
    }

    /// Removes what dead writers left; says how many there were. Only where our mark is, before and after it was
    /// looked what there is: another's place is not swept, nor a mark that waits for an owner to take over.
    fn sweep(&self) -> Result<usize, TierError> {
        const STEP: &str = "looking for what was left half-written";
        self.enter(STEP)?;
        let (mut left, now) = (Vec::new(), now());
        let which = format!("{}{}", self.prefix, protocol::TEMPORARY);
        self.verbs
            .list(&which, &mut |name| {
                let begun = protocol::parse_temporary(&self.prefix, name);
                if begun.is_some_and(|begun| begun.saturating_add(LEFT) < now) {
                    left.push(name.to_owned());
                }
            })
            .map_err(|failure| self.fail(STEP, None, failure))?;
        {
            let living = self.living.lock();
            left.retain(|name| !living.contains(name));
        }
        for name in &left {
            self.enter(STEP)?;
            self.verbs
                .delete(name)
                .map_err(|failure| self.fail(STEP, None, failure))?;
            tracing::info!(tier = self.label, name, "removed what a dead writer left");
        }
        Ok(left.len())
    }
}

/// What the program's end says; `None`: it did not end by itself.
pub(super) fn says(failure: &Failure) -> Option<Verdict> {
    match failure {
        Failure::Ended { how, .. } => Some(match how {
            Ended::Code(code) => Verdict::of(*code),
            Ended::Signal(_) => Verdict::Passing,
        }),
        Failure::Start(_)
        | Failure::Stuck(_)
        | Failure::Replaced
        | Failure::Silent { .. }
        | Failure::Breach { .. }
        | Failure::Less { .. }
        | Failure::Pipe(_) => None,
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |time| time.as_secs())
}
