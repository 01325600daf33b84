//! Where a tier in a bucket lies, and how it is known that it is ours.
//!
//! Invariants kept here:
//! - Nothing is written or deleted, and nothing called missing, unless the expected mark
//!   was seen within the last [`TRUST`]; what is to be called missing, at this very moment. So a bucket that
//!   is gone, emptied, or another's by now is *unavailable* or refused, never a tier without objects.
//! - An object is called missing only if the service said so of its very key, in words, twice, and showed the
//!   mark between: a bare 404 may be anybody's.
//! - What was seen of a service is believed of that service alone, and for a time (`able.rs`).

use super::able::Able;
use super::failure::{Failure, NO_SUCH_KEY, Verdict};
use super::mark;
use super::object;
use super::probe;
use super::service::Service;
use super::sweep::Living;
use crate::id::AggregateId;
use crate::tier::{Mark, TierError};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A mark that was seen so long ago is looked at again.
const TRUST: Duration = Duration::from_secs(60);
/// A service that changes its name more often is several; what one does says nothing of the others.
const STEADY: Duration = Duration::from_secs(3600);

/// A tier's place.
pub(super) struct Place {
    pub(super) service: Arc<Service>,
    pub(super) expected: Mark,
    seen: Mutex<Option<Instant>>,
    able: Mutex<Option<Arc<Able>>>,
    /// When it was found out anew last because the service called itself otherwise.
    renamed: Mutex<Option<Instant>>,
    /// One finds out at a time.
    probing: tokio::sync::Mutex<()>,
    pub(super) living: Living,
    names: Mutex<HashMap<AggregateId, Arc<Lock>>>,
}

/// One name is given at a time.
type Lock = tokio::sync::Mutex<()>;

/// Nobody else of this process gives an object this name meanwhile.
pub(super) struct Alone<'a> {
    place: &'a Place,
    name: AggregateId,
    lock: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        let mut names = self.place.names.lock();
        drop(self.lock.take());
        // Whoever waits for it holds it, too.
        if names
            .get(&self.name)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            names.remove(&self.name);
        }
    }
}

impl Place {
    pub(super) fn new(service: Arc<Service>, expected: Mark) -> Self {
        Self {
            service,
            expected,
            seen: Mutex::new(None),
            able: Mutex::new(None),
            renamed: Mutex::new(None),
            probing: tokio::sync::Mutex::new(()),
            living: Living::default(),
            names: Mutex::default(),
        }
    }

    pub(super) fn label(&self) -> &str {
        &self.service.label
    }

    /// Waits until nobody of this process gives an object this name. There is one writer (P9), so this closes the
    /// gap of services that look first and write then, also for `If-None-Match`.
    pub(super) async fn alone(&self, name: AggregateId) -> Alone<'_> {
        let lock = Arc::clone(self.names.lock().entry(name).or_default());
        Alone {
            place: self,
            name,
            lock: Some(lock.lock_owned().await),
        }
    }

    /// The mark is there and ours, as was seen not long ago.
    pub(super) async fn enter(&self) -> Result<(), TierError> {
        let fresh = self.seen.lock().is_some_and(|at| at.elapsed() < TRUST);
        if fresh { Ok(()) } else { self.look().await }
    }

    /// The mark is there and ours.
    pub(super) async fn look(&self) -> Result<(), TierError> {
        *self.seen.lock() = None;
        let at = Instant::now();
        let (found, _) = mark::found(&self.service).await?;
        mark::check_owner(&self.service, found, self.expected.owner)?;
        if found.tier != self.expected.tier {
            let (found, wanted) = (found.tier, self.expected.tier);
            let why =
                format!("it is tier {found}, not {wanted}: another place was put under this URL");
            return Err(mark::refused(&self.service, why));
        }
        *self.seen.lock() = Some(at);
        Ok(())
    }

    /// What the service can do, if that is known here by now.
    pub(super) fn known(&self) -> Option<Arc<Able>> {
        self.able.lock().clone()
    }

    /// What was remembered in the bucket is known from now on. Nothing is tried out.
    pub(super) async fn recall(&self) -> Result<bool, TierError> {
        let found = probe::remembered(&self.service).await;
        let found = found.map_err(|f| self.fail(f, "reading what the service can do", None))?;
        let is_known = found.is_some();
        if is_known {
            *self.able.lock() = found.map(Arc::new);
        }
        Ok(is_known)
    }

    /// What is known of the service that answers now, and may be believed.
    fn believed(&self) -> Option<Arc<Able>> {
        let (able, whose) = (self.known()?, probe::whose(&self.service));
        if able.is_of(&whose) {
            return Some(able);
        }
        let steady = self.renamed.lock().is_none_or(|at| at.elapsed() >= STEADY);
        (!steady && !able.is_named(&whose)).then(|| Arc::new(able.wary()))
    }

    /// What the service can do: known, remembered, or found out now. For the owner alone.
    pub(super) async fn able(&self) -> Result<Arc<Able>, TierError> {
        if let Some(able) = self.believed() {
            return Ok(able);
        }
        let _alone = self.probing.lock().await;
        self.enter().await?;
        let whose = probe::whose(&self.service);
        let renamed = self.known().is_some_and(|able| !able.is_named(&whose));
        if self.believed().is_none() && !self.recall().await? {
            self.probe().await?;
            if renamed {
                *self.renamed.lock() = Some(Instant::now());
            }
        }
        // It may have changed its name while it was asked.
        let wary = || self.known().map(|able| Arc::new(able.wary()));
        let none = || mark::refused(&self.service, "nothing is known of the service".to_owned());
        self.believed().or_else(wary).ok_or_else(none)
    }

    /// Finds out anew what the service can do.
    pub(super) async fn probe(&self) -> Result<(), TierError> {
        let found = probe::anew(&self.service).await;
        let able = found.map_err(|f| self.fail(f, "finding out what the service can do", None))?;
        for word in able.words() {
            tracing::info!(tier = self.label(), "{word}");
        }
        *self.able.lock() = Some(Arc::new(able));
        Ok(())
    }

    /// For the caller. What is missing was looked for, and whether it is the object or all of it.
    pub(super) async fn judge(
        &self,
        failure: Failure,
        step: &'static str,
        object: AggregateId,
    ) -> TierError {
        if failure.verdict() != Verdict::Missing {
            return self.fail(failure, step, Some(object));
        }
        match self
            .is_missing(&self.service.keys.object(object), &failure)
            .await
        {
            Ok(true) => self.fail(failure, step, Some(object)),
            Ok(false) => TierError::Transient {
                tier: self.label().to_owned(),
                object: object.to_string(),
                step,
                source: io::Error::other("it was said to be missing, and is there"),
            },
            Err(error) => error,
        }
    }

    /// An answer said that there is none. Is it so?
    async fn is_missing(&self, key: &str, first: &Failure) -> Result<bool, TierError> {
        if first.code != NO_SUCH_KEY && self.is_there(key).await? {
            return Ok(false);
        }
        self.look().await?;
        Ok(!self.is_there(key).await?)
    }

    /// Asked so that the answer has words.
    async fn is_there(&self, key: &str) -> Result<bool, TierError> {
        let service = &self.service;
        match service.again(|| object::range(service, key, 0, 1)).await {
            Ok(_) => Ok(true),
            Err(failure) => match (failure.verdict(), failure.code.as_str()) {
                (Verdict::Archived, _) => Ok(true),
                (Verdict::Missing, NO_SUCH_KEY) => Ok(false),
                _ => Err(self.fail(failure, "looking whether it is there", None)),
            },
        }
    }

    pub(super) fn fail(
        &self,
        failure: Failure,
        step: &'static str,
        object: Option<AggregateId>,
    ) -> TierError {
        failure.into_error(self.label(), step, object)
    }
}
