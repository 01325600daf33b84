//! What a batch job holds: its requests, by their keys, and its pins, by their holder.
//!
//! Invariants:
//! - A job is its user's: two users' jobs of one name know nothing of each other.
//! - When [`Engine::release_job`] has returned, no request of the job adds a pin any more: the job has a new
//!   generation first, the requests are cancelled then, and who pins looks afterwards whether it was
//!   cancelled meanwhile.
//! - Nothing is accepted for an older generation: who submits looks after the request is there.

use super::ask::Ask;
use super::{Engine, EngineError, PinNeed, Shared, shifted};
use crate::catalog::{End, Held, Request, Verb};
use crate::error::Failure;
use std::time::Duration;

/// Longest name of a job, bytes.
const LONGEST: usize = 64;
/// Longest pin of a job: what it may keep on disk need not be its user's.
const LONGEST_PIN: Duration = Duration::from_secs(30 * 24 * 3600);
/// Requests of one job that are cancelled at once.
const MOST: usize = 1000;

/// Who pins: a user, or a user's job.
pub(super) fn holder(uid: u32, job: Option<&str>) -> String {
    match job {
        Some(job) => format!("uid:{uid}/job:{job}"),
        None => format!("uid:{uid}"),
    }
}

/// The job in a request's key.
#[must_use]
pub fn job_of(request: &Request) -> Option<&str> {
    let (job, _) = request
        .key
        .as_deref()?
        .strip_prefix("job:")?
        .split_once('/')?;
    is_name(job).then_some(job)
}

fn is_name(job: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=LONGEST).contains(&job.len()) && job.bytes().all(plain)
}

/// # Errors
/// It is no name of a job.
fn named(job: &str) -> Result<(), EngineError> {
    if is_name(job) {
        return Ok(());
    }
    let why =
        format!("{job:?} is no job's name: up to {LONGEST} letters, digits, '.', '_' and '-'");
    Err(EngineError::refused(Failure::Usage, why))
}

fn pins_at_most(time: Duration) -> Result<(), EngineError> {
    if (Duration::from_secs(1)..=LONGEST_PIN).contains(&time) {
        return Ok(());
    }
    let why = "a job pins for at least a second and at most 30 days";
    Err(EngineError::refused(Failure::Usage, why))
}

/// Refuses what no request for a job may ask for.
pub(super) fn may_ask(ask: &Ask) -> Result<(), EngineError> {
    let Some(job) = &ask.job else {
        if ask.verb == Verb::Stage && ask.pin_for.is_some() {
            let why = "a stage pins for a job alone: say which";
            return Err(EngineError::refused(Failure::Usage, why));
        }
        return Ok(());
    };
    named(job)?;
    let key = ask.key.as_deref().unwrap_or_default();
    if !key.starts_with(&format!("job:{job}/")) {
        let why = format!("the key {key:?} is not one of job {job}");
        return Err(EngineError::refused(Failure::Usage, why)
            .hint(format!("a key of its begins with job:{job}/")));
    }
    if !matches!(ask.verb, Verb::Stage | Verb::Archive) {
        let why = "for a job there are stages and archives";
        return Err(EngineError::refused(Failure::Usage, why));
    }
    ask.pin_for.map_or(Ok(()), pins_at_most)
}

fn released(job: &str) -> EngineError {
    let why = format!("job {job} was released meanwhile");
    EngineError::refused(Failure::Cancelled, why)
}

impl Engine {
    /// What a user's job pins.
    ///
    /// # Errors
    /// [`Failure::Usage`] for what is no job's name, and the catalog's.
    pub fn held_by_job(&self, uid: u32, job: &str) -> Result<Held, EngineError> {
        named(job)?;
        let shared = &self.shared;
        Ok(shared.catalog.held(&holder(uid, Some(job)), shared.now())?)
    }

    /// How often a job was released, as a number that is another one after each release; 0: never.
    ///
    /// # Errors
    /// As [`Engine::held_by_job`].
    pub fn job_generation(&self, uid: u32, job: &str) -> Result<u64, EngineError> {
        named(job)?;
        Ok(self.shared.catalog.job_generation(uid, job)?)
    }

    /// All that a job pins stays pinned for so long from now on, or for as long as it was.
    ///
    /// # Errors
    /// As [`Engine::held_by_job`]; too long a time.
    pub fn pin_job(&self, uid: u32, job: &str, how_long: Duration) -> Result<u64, EngineError> {
        named(job)?;
        pins_at_most(how_long)?;
        let expires = shifted(self.shared.now(), how_long, true);
        let holder = holder(uid, Some(job));
        let (catalog, now) = (&self.shared.catalog, self.shared.now());
        Ok(catalog.change_ends(&holder, End::AtLeast(expires), now)?)
    }

    /// All that a job pins ends after so long, if it did not end before.
    ///
    /// # Errors
    /// As [`Engine::held_by_job`]; too long a time.
    pub fn lapse_job(&self, uid: u32, job: &str, time: Duration) -> Result<u64, EngineError> {
        named(job)?;
        pins_at_most(time)?;
        let (now, holder) = (self.shared.now(), holder(uid, Some(job)));
        let expires = shifted(now, time, true);
        let catalog = &self.shared.catalog;
        Ok(catalog.change_ends(&holder, End::AtMost(expires), now)?)
    }

    /// A job claims what it needs on disk before it asks for it: `need`, of which `bytes` are to come back, or what it
    /// waited for last. Why it has to wait, if it has to: then it has claimed nothing, and asks again within two
    /// minutes. Without `hold` it is only told.
    ///
    /// # Errors
    /// As [`Engine::held_by_job`]; [`Failure::QuotaExceeded`], [`Failure::NoSpace`]: waiting cannot help.
    pub fn claim_for_job(
        &self,
        uid: u32,
        job: &str,
        need: Option<(PinNeed, u64)>,
        hold: bool,
    ) -> Result<Option<String>, EngineError> {
        named(job)?;
        self.shared.claim_pins((uid, job), need, hold)
    }

    /// The job gives up what it has claimed and not pinned.
    ///
    /// # Errors
    /// As [`Engine::held_by_job`].
    pub fn unclaim_for_job(&self, uid: u32, job: &str) -> Result<(), EngineError> {
        named(job)?;
        self.shared.give_up_claim((uid, job));
        Ok(())
    }

    /// What a job waits for, if it does.
    #[must_use]
    pub fn job_waits(&self, uid: u32, job: &str) -> Option<String> {
        self.shared.waits_for((uid, job))
    }

    /// Cancels a job's requests that are not final and drops its pins; how many of each, and its generation then.
    ///
    /// # Errors
    /// As [`Engine::held_by_job`]; [`Failure::Cancelled`]: it is not of the generation `known` any more.
    pub fn release_job(
        &self,
        uid: u32,
        job: &str,
        known: Option<u64>,
    ) -> Result<(u64, u64, u64), EngineError> {
        named(job)?;
        let shared = &self.shared;
        let generation = shared.catalog.end_job(uid, job, known, shared.now())?;
        let generation = generation.ok_or_else(|| released(job))?;
        shared.give_up_claim((uid, job));
        let mut cancelled = 0;
        // What a job wrote is archived also when the job is gone.
        loop {
            let open = shared
                .catalog
                .open_requests_of_job(uid, job, Verb::Stage, MOST)?;
            if open.is_empty() {
                break;
            }
            for request in open {
                shared.cancel(request)?;
                cancelled += 1;
            }
        }
        let dropped = shared.catalog.unpin_all(&holder(uid, Some(job)))?;
        Ok((cancelled, dropped, generation))
    }

    /// The requests of a job, newest first: one user's, or all users'.
    ///
    /// # Errors
    /// As [`Engine::held_by_job`].
    pub fn requests_of_job(
        &self,
        uid: Option<u32>,
        job: &str,
        limit: usize,
    ) -> Result<Vec<Request>, EngineError> {
        named(job)?;
        let catalog = &self.shared.catalog;
        let mut found = Vec::new();
        match uid {
            Some(uid) => found = catalog.requests_of_job(uid, job, limit)?,
            None => {
                let mut after = None;
                while let Some(uid) = catalog.next_user(after)? {
                    found.extend(catalog.requests_of_job(uid, job, limit)?);
                    after = Some(uid);
                }
                found.sort_by_key(|request| std::cmp::Reverse(request.id));
            }
        }
        found.truncate(limit);
        Ok(found)
    }
}

impl Shared {
    /// Refuses what is asked for a job as it was before it was released.
    pub(super) fn is_of_now(&self, ask: &Ask) -> Result<(), EngineError> {
        let (Some(job), Some(known)) = (&ask.job, ask.job_generation) else {
            return Ok(());
        };
        if self.catalog.job_generation(ask.asker.uid, job)? == known {
            return Ok(());
        }
        Err(released(job))
    }

    /// Whether a request was cancelled, or is gone.
    pub(super) fn was_cancelled(&self, request: crate::id::RequestId) -> Result<bool, EngineError> {
        let row = self.catalog.request(request)?;
        Ok(row.is_none_or(|r| r.state == crate::catalog::RequestState::Cancelled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_jobs_are_plain_words() {
        for good in ["4711", "4711_3", "flux-x.y", &"x".repeat(64)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "a/b", "a b", "a:b", &"x".repeat(65), "\u{e4}"] {
            assert!(!is_name(bad), "{bad}");
        }
        assert_eq!(holder(7, Some("4711")), "uid:7/job:4711");
        assert_eq!(holder(7, None), "uid:7");
    }
}
