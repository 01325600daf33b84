//! Which of a file's copies is asked first: the one whose bytes are likely to be here first.
//!
//! A copy's *wait* is what is known to pass before its first byte comes (a cartridge to be mounted and wound, a
//! class of storage that takes hours), and what reads from its tier took of late, for as many bytes. Waits within
//! [`CLOSE`] count as equal, longer ones as equal within a factor of two: the order in which the stub names its
//! copies then stands, and does not change with every read. A tier that did not answer of late comes behind all
//! others, and so does one that is not configured.
//!
//! Of tape only the wait counts: what its reads took was the way there, for the most part.
//!
//! What was seen of a tier is forgotten after [`LATELY`]: one that was slow is tried again.
//!
//! No I/O here, and no clock: whoever calls says what time it is.

use crate::format::record::CopyHint;
use crate::id::{AggregateId, TierId};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Waits below this are no reason to prefer one copy to another.
const CLOSE: Duration = Duration::from_millis(250);
/// What was seen longer ago says nothing.
const LATELY: Duration = Duration::from_secs(600);
/// A tier that did not answer is asked last for so long.
const AWAY: Duration = Duration::from_secs(30);
/// Reads below this tell how long a tier takes to begin, others how many bytes it gives in a second.
const SHORT: u64 = 256 << 10;
/// Reads are compared by as many bytes: what readers wait for is what comes first.
const AHEAD: u64 = 16 << 20;
/// The newest read counts for so much of what is remembered.
const NEWEST: f64 = 0.25;

/// What reads from one tier took of late.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    seen: Option<Instant>,
    away: Option<Instant>,
    /// Seconds of a short read.
    begin: Option<f64>,
    /// Seconds for each byte of a long one.
    each: Option<f64>,
}

/// What reads from all tiers took of late.
#[derive(Debug, Default, Clone)]
pub(super) struct Paces(BTreeMap<TierId, Pace>);

impl Paces {
    /// A read of `bytes` took so long.
    pub(super) fn read(&mut self, tier: TierId, bytes: u64, took: Duration, now: Instant) {
        let pace = self.0.entry(tier).or_default();
        if !pace.is_known(now) {
            *pace = Pace::default();
        }
        (pace.seen, pace.away) = (Some(now), None);
        let took = took.as_secs_f64();
        if bytes < SHORT {
            blend(&mut pace.begin, took);
        } else {
            #[allow(clippy::cast_precision_loss, reason = "an estimate")]
            blend(&mut pace.each, took / bytes as f64);
        }
    }

    /// It did not answer.
    pub(super) fn is_away(&mut self, tier: TierId, now: Instant) {
        self.0.entry(tier).or_default().away = Some(now);
    }

    /// What a read of `bytes` is likely to take; nothing where nothing is known.
    fn expected(&self, tier: TierId, bytes: u64, now: Instant) -> Duration {
        let known = self.0.get(&tier).filter(|pace| pace.is_known(now));
        let Some(pace) = known else {
            return Duration::ZERO;
        };
        #[allow(clippy::cast_precision_loss, reason = "an estimate")]
        let seconds =
            pace.begin.unwrap_or(0.0) + pace.each.unwrap_or(0.0) * bytes.min(AHEAD) as f64;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    fn was_away(&self, tier: TierId, now: Instant) -> bool {
        let away = self.0.get(&tier).and_then(|pace| pace.away);
        away.is_some_and(|at| now.saturating_duration_since(at) < AWAY)
    }
}

impl Pace {
    fn is_known(&self, now: Instant) -> bool {
        let seen = self.seen;
        seen.is_some_and(|at| now.saturating_duration_since(at) < LATELY)
    }
}

fn blend(known: &mut Option<f64>, newest: f64) {
    *known = Some(known.map_or(newest, |old| old + (newest - old) * NEWEST));
}

/// A file's copies, the nearest first. `wait`: what is known to pass before the first byte of a copy; `None`: it
/// is not to be had now. `seat`: the object for which its turn at a drive has come, which no other overtakes.
pub(super) fn order(
    copies: &[CopyHint],
    seat: Option<AggregateId>,
    bytes: u64,
    paces: &Paces,
    now: Instant,
    wait: impl Fn(&CopyHint) -> Option<Duration>,
) -> Vec<CopyHint> {
    let mut copies = copies.to_vec();
    if copies.len() > 1 {
        copies.sort_by_cached_key(|copy| {
            let has_turn = seat == Some(copy.aggregate);
            let known = wait(copy).filter(|_| !paces.was_away(copy.tier, now));
            let class = known.map(|w| w.saturating_add(paces.expected(copy.tier, bytes, now)));
            (!has_turn, class.map_or(u32::MAX, class_of))
        });
    }
    copies
}

/// How often [`CLOSE`] must be doubled to get there.
fn class_of(wait: Duration) -> u32 {
    let times = wait.as_millis() / CLOSE.as_millis();
    times.checked_ilog2().map_or(0, |log| log + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn copy(tier: u32) -> CopyHint {
        CopyHint {
            tier: TierId(tier),
            aggregate: AggregateId {
                epoch: 1,
                seq: tier.into(),
            },
            header: 0,
        }
    }

    fn tiers(copies: &[CopyHint]) -> Vec<u32> {
        copies.iter().map(|copy| copy.tier.0).collect()
    }

    fn ordered(paces: &Paces, now: Instant, waits: &[(u32, Option<u64>)]) -> Vec<u32> {
        let copies: Vec<CopyHint> = waits.iter().map(|(tier, _)| copy(*tier)).collect();
        let wait = |copy: &CopyHint| {
            let found = waits.iter().find(|(tier, _)| copy.tier.0 == *tier);
            found.and_then(|(_, wait)| wait.map(Duration::from_millis))
        };
        tiers(&order(&copies, None, MIB, paces, now, wait))
    }

    #[test]
    fn what_is_near_comes_first_and_what_is_as_near_keeps_its_place() {
        let (none, now) = (Paces::default(), Instant::now());
        let hours = 5 * 3600 * 1000;
        assert_eq!(
            ordered(
                &none,
                now,
                &[(1, Some(hours)), (2, Some(110_000)), (3, Some(0))]
            ),
            [3, 2, 1]
        );
        assert_eq!(
            ordered(&none, now, &[(1, Some(200)), (2, Some(0)), (3, Some(249))]),
            [1, 2, 3]
        );
        assert_eq!(
            ordered(&none, now, &[(1, Some(90_000)), (2, Some(70_000))]),
            [1, 2]
        );
        assert_eq!(ordered(&none, now, &[(1, None), (2, Some(hours))]), [2, 1]);
    }

    #[test]
    fn a_slow_tier_is_avoided_until_that_is_long_ago() {
        let (mut paces, now) = (Paces::default(), Instant::now());
        let both = [(1, Some(0)), (2, Some(0))];
        paces.read(TierId(1), MIB, Duration::from_secs(4), now);
        assert_eq!(ordered(&paces, now, &both), [2, 1]);
        // Both are slow: as it was.
        paces.read(TierId(2), 1, Duration::from_secs(4), now);
        assert_eq!(ordered(&paces, now, &both), [1, 2]);
        paces.read(TierId(2), 1, Duration::from_secs(60), now);
        assert_eq!(ordered(&paces, now, &both), [1, 2]);
        let later = now + LATELY;
        assert_eq!(ordered(&paces, later, &both), [1, 2]);
        paces.read(TierId(1), MIB, Duration::from_millis(1), later);
        assert_eq!(
            ordered(&paces, later, &both),
            [1, 2],
            "what was forgotten is not blended in"
        );
    }

    #[test]
    fn a_long_file_on_a_slow_disk_is_nearer_than_what_takes_hours() {
        let (mut paces, now) = (Paces::default(), Instant::now());
        paces.read(TierId(1), 10 * MIB, Duration::from_secs(1), now);
        let copies = [copy(1), copy(2)];
        let wait =
            |copy: &CopyHint| Some(Duration::from_secs(u64::from(copy.tier.0 - 1) * 5 * 3600));
        let order = order(&copies, None, MIB << 20, &paces, now, wait);
        assert_eq!(tiers(&order), [1, 2]);
    }

    #[test]
    fn a_tier_that_does_not_answer_comes_last_until_it_does() {
        let (mut paces, now) = (Paces::default(), Instant::now());
        let both = [(1, Some(0)), (2, Some(3_600_000))];
        paces.is_away(TierId(1), now);
        assert_eq!(ordered(&paces, now, &both), [2, 1]);
        assert_eq!(ordered(&paces, now + AWAY, &both), [1, 2]);
        paces.read(TierId(1), 1, Duration::ZERO, now);
        assert_eq!(ordered(&paces, now, &both), [1, 2]);
    }

    #[test]
    fn a_copy_whose_turn_has_come_is_not_overtaken() {
        let copies = [copy(1), copy(2)];
        let wait = |copy: &CopyHint| Some(Duration::from_secs(u64::from(copy.tier.0) * 100));
        let (none, now) = (Paces::default(), Instant::now());
        let seat = Some(copies[1].aggregate);
        assert_eq!(tiers(&order(&copies, seat, MIB, &none, now, wait)), [2, 1]);
        assert_eq!(tiers(&order(&copies, None, MIB, &none, now, wait)), [1, 2]);
    }
}
