//! Verification of the whole archive, or of a part that is chosen by chance or by age: which copies.
//!
//! Invariant: what is chosen by chance depends on the seed and on the copies that there are, not on the
//! order in which they are met.

use super::ask::{Ask, Forecast};
use super::{EngineError, Shared, shifted};
use crate::catalog::{Durability, NewAction, RequestState, Verifiable};
use crate::id::{RequestId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BinaryHeap;
use std::time::Duration;

/// Copies asked of the catalog at once.
const PAGE: usize = 2000;

/// How many, of all that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sample {
    /// So many copies.
    Copies(u64),
    /// So many of a million.
    Millionths(u32),
}

impl Sample {
    /// Most copies that are chosen one by one: they are held in memory.
    pub const MOST: u64 = 1_000_000;
}

/// Which copies of the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Select {
    /// Those that were not read for so long, seconds.
    pub older_than_s: Option<u64>,
    /// By chance, of what is left.
    pub sample: Option<Sample>,
    /// What the chance follows from.
    pub seed: u64,
}

/// A copy with the place that chance gave it.
#[derive(PartialEq, Eq)]
struct Drawn(u64, Verifiable);

impl Drawn {
    fn key(&self) -> (u64, crate::id::AggregateId, u64) {
        (self.0, self.1.copy.aggregate, self.1.copy.header)
    }
}
impl PartialOrd for Drawn {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Drawn {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl Select {
    fn draw(&self, of: &Verifiable) -> u64 {
        let copy = &of.copy;
        let numbers = [
            copy.version.0,
            u64::from(copy.tier.0),
            u64::from(copy.aggregate.epoch),
            copy.aggregate.seq,
        ];
        let (first, second) = copy.file.0.split_at(8);
        let word = |bytes: &[u8]| bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b));
        [word(first), word(second)]
            .into_iter()
            .chain(numbers)
            .fold(mixed(self.seed), |state, n| mixed(state ^ n))
    }

    /// Is it old enough?
    fn is_due(&self, of: &Verifiable, now: Timestamp) -> bool {
        let checked = of.copy.last_verified.unwrap_or(of.copy.proven_at);
        self.older_than_s
            .is_none_or(|age| checked < shifted(now, Duration::from_secs(age), false))
    }
}

/// The finisher of splitmix64.
fn mixed(state: u64) -> u64 {
    let z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The choice, fed with one copy after the other.
struct Choice {
    select: Select,
    now: Timestamp,
    /// The lowest of those that were drawn, where a number of them is wanted.
    kept: BinaryHeap<Drawn>,
}

impl Choice {
    /// Gives back what is chosen at once; the rest is in `kept` at the end.
    fn take(&mut self, one: Verifiable) -> Option<Verifiable> {
        if !self.select.is_due(&one, self.now) {
            return None;
        }
        let drawn = self.select.draw(&one);
        match self.select.sample {
            None => Some(one),
            Some(Sample::Millionths(share)) => {
                (drawn % 1_000_000 < u64::from(share)).then_some(one)
            }
            Some(Sample::Copies(many)) => {
                self.kept.push(Drawn(drawn, one));
                if self.kept.len() as u64 > many.min(Sample::MOST) {
                    self.kept.pop();
                }
                None
            }
        }
    }
}

impl Shared {
    /// Hands over what is chosen, in the order of places; `false`: cut short.
    fn choose(
        &self,
        ask: &Ask,
        select: Select,
        mut chosen: impl FnMut(Vec<Verifiable>) -> Result<bool, EngineError>,
    ) -> Result<bool, EngineError> {
        let mut choice = Choice {
            select,
            now: self.now(),
            kept: BinaryHeap::new(),
        };
        let named = |name: &String| *name == ask.tier.clone().unwrap_or_else(|| name.clone());
        for slot in self.tiers.iter().filter(|slot| named(&slot.name)) {
            let mut after = None;
            loop {
                let (page, next) = self.catalog.verifiable(slot.id, after, PAGE)?;
                let now: Vec<_> = page.into_iter().filter_map(|c| choice.take(c)).collect();
                if self.stopping() || !chosen(now)? {
                    return Ok(false);
                }
                after = next;
                if after.is_none() {
                    break;
                }
            }
        }
        let mut kept: Vec<_> = choice.kept.into_iter().map(|drawn| drawn.1).collect();
        kept.sort_by_key(|one| (one.copy.tier, one.copy.aggregate, one.copy.header));
        while !kept.is_empty() {
            let rest = kept.split_off(kept.len().min(PAGE));
            if self.stopping() || !chosen(kept)? {
                return Ok(false);
            }
            kept = rest;
        }
        Ok(true)
    }

    /// Enters the actions of such a request; `false`: cut short, by a stop or because it was cancelled.
    pub(super) fn expand_selection(
        &self,
        request: RequestId,
        ask: &Ask,
        select: Select,
    ) -> Result<bool, EngineError> {
        self.choose(ask, select, |chosen| {
            let actions: Vec<_> = chosen.into_iter().map(action).collect();
            if !actions.is_empty() {
                let full = Durability::Full;
                self.catalog
                    .add_actions(request, actions, self.now(), full)?;
                self.bell.ring();
            }
            let row = self.catalog.request(request)?;
            Ok(row.is_some_and(|row| row.state != RequestState::Cancelled))
        })
    }

    /// What such a request would read.
    pub(super) fn forecast_selection(
        &self,
        ask: &Ask,
        select: Select,
    ) -> Result<Forecast, EngineError> {
        let mut forecast = Forecast::default();
        self.choose(ask, select, |chosen| {
            forecast.files += chosen.len() as u64;
            forecast.bytes += chosen.iter().map(|one| one.copy.stored_len).sum::<u64>();
            Ok(true)
        })?;
        Ok(forecast)
    }
}

fn action(of: Verifiable) -> NewAction {
    NewAction {
        node: of.node,
        handle: of.handle,
        tier: Some(of.copy.tier),
        bytes: of.copy.stored_len,
        place: Some(crate::catalog::Place {
            aggregate: of.copy.aggregate,
            offset: of.copy.header,
        }),
        near: of.node,
        refused: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Copy, CopyState, NodeId};
    use crate::id::{AggregateId, DataVersion, FileId, NodeHandle, TierId};
    use cairn_mover::Crc32c;

    fn copy(n: u64) -> Verifiable {
        let mut file = [0; 16];
        file[..8].copy_from_slice(&n.to_le_bytes());
        Verifiable {
            copy: Copy {
                file: FileId(file),
                version: DataVersion(1),
                tier: TierId(1),
                aggregate: AggregateId {
                    epoch: 1,
                    seq: n / 10,
                },
                header: n,
                stored_len: 1,
                crc: Crc32c(0),
                state: CopyState::Good,
                proven_at: Timestamp {
                    sec: n.cast_signed(),
                    nsec: 0,
                },
                last_verified: None,
            },
            node: NodeId(n.cast_signed()),
            handle: NodeHandle {
                kind: 1,
                bytes: vec![],
            },
        }
    }

    fn chosen(select: Select, order: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut choice = Choice {
            select,
            now: Timestamp { sec: 1000, nsec: 0 },
            kept: BinaryHeap::new(),
        };
        let mut found: Vec<_> = order.filter_map(|n| choice.take(copy(n))).collect();
        found.extend(choice.kept.into_iter().map(|drawn| drawn.1));
        let mut found: Vec<_> = found.iter().map(|one| one.copy.header).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn a_sample_follows_from_its_seed_and_not_from_the_order() {
        let of = |seed| Select {
            sample: Some(Sample::Copies(20)),
            seed,
            older_than_s: None,
        };
        let one = chosen(of(7), 0..1000);
        assert_eq!(one.len(), 20);
        assert_eq!(one, chosen(of(7), (0..1000).rev()));
        assert_ne!(one, chosen(of(8), 0..1000));
        assert_eq!(chosen(of(7), 0..5), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_share_is_about_that_share_and_age_comes_first() {
        let tenth = Select {
            sample: Some(Sample::Millionths(100_000)),
            seed: 3,
            older_than_s: None,
        };
        let many = chosen(tenth, 0..10_000).len();
        assert!((850..1150).contains(&many), "{many}");
        let old = Select {
            older_than_s: Some(990),
            ..Select::default()
        };
        assert_eq!(chosen(old, 0..1000), (0..10).collect::<Vec<_>>());
    }
}
