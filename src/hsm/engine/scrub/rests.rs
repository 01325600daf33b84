//! What cannot be read now is left alone for a while, so that the rest gets its turn.

use crate::id::AggregateId;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long an object that could not be read is left alone at first; twice as long each time.
const PAUSE: Duration = Duration::from_secs(60);
/// How often an object is tried that cannot be read while its tier answers.
const TRIES: u32 = 4;
/// How long a tier is left alone that does not answer.
const AWAY: Duration = Duration::from_secs(60);
/// Objects remembered.
const MOST: usize = 10_000;

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Tried again later.
    Again,
    /// It cannot be read.
    GivenUp,
}

#[derive(Debug, Clone, Copy)]
struct Rest {
    until: Instant,
    tries: u32,
}

/// Objects of one tier that rest, and the tier itself.
#[derive(Debug, Default)]
pub(super) struct Rests {
    objects: HashMap<AggregateId, Rest>,
    tier: Option<Instant>,
}

impl Rests {
    /// Does the whole tier rest?
    pub(super) fn all(&self, now: Instant) -> bool {
        self.tier.is_some_and(|until| until > now)
    }

    /// The tier does not answer.
    pub(super) fn rest_all(&mut self, now: Instant) {
        self.tier = Some(now + AWAY);
    }

    /// Does the object rest?
    pub(super) fn one(&self, object: AggregateId, now: Instant) -> bool {
        self.objects.get(&object).is_some_and(|r| r.until > now)
    }

    /// It was read, or judged.
    pub(super) fn read(&mut self, object: AggregateId) {
        self.objects.remove(&object);
    }

    /// It could not be read: it rests, longer each time.
    pub(super) fn failed(&mut self, object: AggregateId, now: Instant) -> Verdict {
        let tries = self.objects.get(&object).map_or(0, |r| r.tries);
        let tries = tries.saturating_add(1);
        if self.objects.len() >= MOST {
            self.objects.retain(|_, rest| rest.until > now);
        }
        let until = now + PAUSE * (1 << tries.min(10));
        self.objects.insert(object, Rest { until, tries });
        if tries >= TRIES {
            return Verdict::GivenUp;
        }
        Verdict::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_given_up_after_a_few_tries_and_a_tier_never() {
        let object = AggregateId { epoch: 1, seq: 1 };
        let (mut rests, mut now) = (Rests::default(), Instant::now());
        for _ in 1..TRIES {
            assert_eq!(rests.failed(object, now), Verdict::Again);
            assert!(rests.one(object, now));
            now += Duration::from_secs(3600);
            assert!(!rests.one(object, now));
        }
        assert_eq!(rests.failed(object, now), Verdict::GivenUp);
        assert!(
            rests.one(object, now),
            "what cannot be said to be bad rests"
        );
        rests.read(object);
        assert_eq!(rests.failed(object, now), Verdict::Again, "counted anew");
        for _ in 0..100 {
            rests.rest_all(now);
            assert!(rests.all(now));
            now += AWAY;
            assert!(!rests.all(now));
        }
    }
}
