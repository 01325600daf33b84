//! Uploads that nobody will finish: found, and aborted, since their parts are paid for and never seen.
//!
//! Invariant kept here: an upload is never aborted while it may be a living put's. Dead for certain are those
//! of an epoch before the one that this process writes under (P9: there is one writer, and a successor
//! comes only when its predecessor is gone), and those that this process begun and gave up. Of others nothing
//! is known: they go when they are older than any put lasts. So who only reads aborts nothing.

use super::place::Place;
use super::upload::{self, Unfinished};
use crate::id::AggregateId;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Looked for again after so long.
const EVERY: Duration = Duration::from_secs(6 * 3600);
/// No put lasts longer; clocks differ by less. Seconds.
const OLD: i64 = 7 * 86_400;
/// A probe lasts some seconds; clocks differ by less. Seconds.
const OLD_PROBE: i64 = 86_400;

/// The uploads of this process.
#[derive(Default)]
pub(super) struct Living {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Ids of uploads whose puts live.
    ours: HashSet<String>,
    /// The highest epoch that was written under.
    epoch: u32,
    looked: Option<Instant>,
}

impl Living {
    pub(super) fn begin(&self, upload: &str) {
        self.inner.lock().ours.insert(upload.to_owned());
    }

    pub(super) fn end(&self, upload: &str) {
        self.inner.lock().ours.remove(upload);
    }

    /// Something of `epoch` is about to be written: is it time to look for dead uploads?
    fn is_due(&self, epoch: u32) -> bool {
        let mut inner = self.inner.lock();
        let is_new = epoch > inner.epoch || inner.looked.is_none();
        let due = is_new || inner.looked.is_some_and(|at| at.elapsed() >= EVERY);
        inner.epoch = inner.epoch.max(epoch);
        if due {
            inner.looked = Some(Instant::now());
        }
        due
    }

    /// Looked for again with the next put: one could not be aborted.
    pub(super) fn look_again(&self) {
        self.inner.lock().looked = None;
    }

    fn is_dead(&self, upload: &Unfinished, name: Option<AggregateId>, now: i64) -> bool {
        let inner = self.inner.lock();
        let age = now.saturating_sub(upload.begun);
        match name {
            _ if inner.ours.contains(&upload.id) => false,
            Some(name) => name.epoch < inner.epoch || age > OLD,
            None => age > OLD_PROBE,
        }
    }
}

/// Something of `epoch` is about to be written. Whoever writes does not wait for this.
pub(super) fn notice(place: &Arc<Place>, epoch: u32) {
    if !place.living.is_due(epoch) {
        return;
    }
    let place = Arc::clone(place);
    if let Some(handle) = place.service.handle().cloned() {
        handle.spawn(async move { sweep(&place).await });
    }
}

/// Aborts what is dead.
async fn sweep(place: &Place) {
    let service = &place.service;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |t| i64::try_from(t.as_secs()).unwrap_or(0));
    for prefix in [service.keys.objects(), service.keys.tried()] {
        let found = match upload::unfinished(service, &prefix).await {
            Ok(found) => found,
            Err(failure) => {
                let why = failure.message;
                tracing::debug!(
                    tier = service.label,
                    why,
                    "unfinished uploads cannot be listed"
                );
                return;
            }
        };
        for upload in found {
            // A stranger's keys are a stranger's.
            let name = service.keys.parse(&upload.key);
            let is_ours = name.is_some() || prefix == service.keys.tried();
            if !is_ours || !place.living.is_dead(&upload, name, now) {
                continue;
            }
            let gone = service.again(|| upload::abort(service, &upload.key, &upload.id));
            match gone.await {
                Ok(()) => tracing::info!(
                    tier = service.label,
                    key = upload.key,
                    "aborted what nobody will finish"
                ),
                Err(failure) => {
                    let why = failure.message;
                    tracing::warn!(
                        tier = service.label,
                        key = upload.key,
                        why,
                        "an upload that nobody finishes remains"
                    );
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_dead_are_aborted() {
        let living = Living::default();
        assert!(living.is_due(5) && !living.is_due(5) && !living.is_due(4) && living.is_due(6));
        living.begin("ours");
        let upload = |id: &str, begun| Unfinished {
            key: String::new(),
            id: id.to_owned(),
            begun,
        };
        let name = |epoch| Some(AggregateId { epoch, seq: 1 });
        let now = 100 * 86_400;
        // Of an earlier epoch: whoever began it is gone.
        assert!(living.is_dead(&upload("x", now), name(5), now));
        // Of this one, or a later one: it may live.
        for epoch in [6, 7] {
            assert!(!living.is_dead(&upload("x", now - OLD), name(epoch), now));
            assert!(living.is_dead(&upload("x", now - OLD - 1), name(epoch), now));
        }
        assert!(!living.is_dead(&upload("ours", 0), name(5), now));
        living.end("ours");
        assert!(living.is_dead(&upload("ours", 0), name(5), now));
        assert!(!living.is_dead(&upload("x", now - OLD_PROBE), None, now));
        assert!(living.is_dead(&upload("x", now - OLD_PROBE - 1), None, now));
        // A service that says no time: never by age.
        assert!(!living.is_dead(&upload("x", i64::MAX), name(6), now));
        living.look_again();
        assert!(living.is_due(6));
    }
}
