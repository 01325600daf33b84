//! What is known to pass before an object's first byte comes: nothing, or the hours of its class.
//!
//! No request is made for it. What reads and restores said of an object of late comes first, then the class that this
//! tier's objects are put into. An object that the service moved to another class by itself is found there by the first
//! read of it.

use super::super::options::{RestoreTier, S3Place};
use super::restore::{self, Cold};
use crate::id::AggregateId;
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

/// Objects that something is remembered of.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1 << 14).unwrap();
/// A restored copy is there for a day at least; it is looked at again long before.
const READY: Duration = Duration::from_secs(6 * 3600);

#[derive(Debug, Clone, Copy)]
enum Known {
    /// It was read, or said to be there.
    Ready(Instant),
    /// It must be restored.
    Archived,
    /// It is on its way.
    Coming(Instant, Duration),
}

/// See the module.
pub(super) struct Nearness {
    /// Of an object that nothing is known of.
    usual: Duration,
    /// Of one that was found archived.
    archived: Duration,
    known: Mutex<LruCache<AggregateId, Known>>,
}

impl Nearness {
    pub(super) fn of(place: &S3Place) -> Self {
        let tier = place.restore_tier.unwrap_or(RestoreTier::Standard);
        let class = place.storage_class.as_deref();
        let usual = class.and_then(Cold::of_class);
        Self {
            usual: usual.map_or(Duration::ZERO, |cold| restore::takes(cold, tier)),
            archived: restore::takes(usual.unwrap_or(Cold::Glacier), tier),
            known: Mutex::new(LruCache::new(REMEMBERED)),
        }
    }

    pub(super) fn wait(&self, name: AggregateId, now: Instant) -> Duration {
        match self.known.lock().get(&name) {
            Some(Known::Ready(at)) if now.saturating_duration_since(*at) < READY => Duration::ZERO,
            Some(Known::Archived) => self.archived,
            Some(Known::Coming(since, takes)) => {
                takes.saturating_sub(now.saturating_duration_since(*since))
            }
            // Of what is near as a rule only what was once found archived is remembered.
            Some(Known::Ready(_)) if self.usual.is_zero() => self.archived,
            Some(Known::Ready(_)) | None => self.usual,
        }
    }

    /// Bytes of it came, or could.
    pub(super) fn is_ready(&self, name: AggregateId, now: Instant) {
        // Of what is near anyhow nothing need be kept.
        let mut known = self.known.lock();
        if !self.usual.is_zero() || known.contains(&name) {
            known.put(name, Known::Ready(now));
        }
    }

    pub(super) fn is_archived(&self, name: AggregateId, now: Instant) {
        let mut known = self.known.lock();
        if !is_coming(known.get(&name), now) {
            known.put(name, Known::Archived);
        }
    }

    pub(super) fn comes(&self, name: AggregateId, takes: Duration, now: Instant) {
        let mut known = self.known.lock();
        if !is_coming(known.get(&name), now) {
            known.put(name, Known::Coming(now, takes));
        }
    }
}

/// It was asked for, and the time that it takes has not passed.
fn is_coming(known: Option<&Known>, now: Instant) -> bool {
    matches!(known, Some(Known::Coming(since, takes)) if now.saturating_duration_since(*since) < *takes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::TierUrl;

    const HOUR: Duration = Duration::from_secs(3600);

    fn of(url: &str) -> Nearness {
        match url.parse() {
            Ok(TierUrl::S3(place)) => Nearness::of(&place),
            other => panic!("{url}: {other:?}"),
        }
    }

    fn name(seq: u64) -> AggregateId {
        AggregateId { epoch: 1, seq }
    }

    #[test]
    fn what_lies_in_a_class_of_hours_is_hours_away_until_it_was_read() {
        let (near, now) = (
            of("s3://bucket/prefix?storage-class=GLACIER"),
            Instant::now(),
        );
        assert_eq!(near.wait(name(1), now), 5 * HOUR);
        near.comes(name(1), 5 * HOUR, now);
        near.comes(name(1), 5 * HOUR, now + HOUR);
        near.is_archived(name(1), now + HOUR);
        assert_eq!(near.wait(name(1), now + 2 * HOUR), 3 * HOUR);
        near.is_ready(name(1), now + 4 * HOUR);
        assert_eq!(near.wait(name(1), now + 5 * HOUR), Duration::ZERO);
        assert_eq!(near.wait(name(1), now + 4 * HOUR + READY), 5 * HOUR);
        assert_eq!(near.wait(name(2), now), 5 * HOUR);
    }

    #[test]
    fn what_was_moved_behind_our_back_is_far_from_the_first_read_on() {
        let (near, now) = (of("s3://bucket/prefix"), Instant::now());
        assert_eq!(near.wait(name(1), now), Duration::ZERO);
        near.is_ready(name(1), now);
        assert_eq!(
            near.known.lock().len(),
            0,
            "nothing is kept of what is near"
        );
        near.is_archived(name(1), now);
        assert_eq!(near.wait(name(1), now), 5 * HOUR);
        near.is_ready(name(1), now);
        assert_eq!(near.wait(name(1), now), Duration::ZERO);
        assert_eq!(near.wait(name(1), now + READY), 5 * HOUR);
    }

    #[test]
    fn a_restore_that_nobody_used_in_time_is_no_nearer_than_none() {
        let (near, now) = (of("s3://bucket/prefix"), Instant::now());
        near.comes(name(1), 5 * HOUR, now);
        let later = now + 100 * HOUR;
        near.is_archived(name(1), later);
        assert_eq!(near.wait(name(1), later), 5 * HOUR);
        near.comes(name(1), 5 * HOUR, later);
        assert_eq!(near.wait(name(1), later + HOUR), 4 * HOUR);
    }
}
