//! What a request would cost, by the prices that the site's administrator wrote down. An estimate:
//! services bill more than these things, at least so many days of each object, say.
//!
//! Invariants:
//! - No price is built in: a tier that none are written down for costs nothing here.
//! - An object is restored once, and whole, however many of its members are wanted.
//! - Sums round up, and stay at the largest amount instead of overflowing.

use super::{EngineError, Shared, Slot};
use crate::catalog::{self, Copy, CopyState, FileState, Node};
use crate::config::{Amount, Prices};
use crate::format::record::{CopyHint, Record};
use crate::hsm::archive::SMALL;
use crate::id::{AggregateId, TierId};
use crate::tier::Kind;
use cairn_policies::{RulePlan, Verb};
use std::collections::{BTreeMap, HashSet};

/// Bytes of a GB, as services bill.
const GB: u128 = 1_000_000_000;
/// Days of the month that keeping restored copies is billed by.
const MONTH: u128 = 30;
/// What a member takes beside its data, about: headers, padding, its line in the index. Bytes.
const AROUND: u64 = 2048;

/// What a tier asks for its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rates {
    /// As written down.
    pub prices: Prices,
    /// Days that what is restored stays.
    pub restore_days: u16,
    /// Bytes of one request that writes; more than 0.
    pub part: u64,
}

impl Rates {
    /// Where the tier says nothing of its own: a week, parts of 8 MiB.
    #[must_use]
    pub fn new(prices: Prices) -> Self {
        Self {
            prices,
            restore_days: 7,
            part: 8 << 20,
        }
    }
}

/// What something would cost, in one currency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// Which.
    pub currency: String,
    /// Once.
    pub once: Amount,
    /// And each month from then on.
    pub monthly: Amount,
}

/// What is asked of one tier.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Used {
    /// Objects to be restored, and their bytes.
    restores: u64,
    restored: u64,
    /// Reads, and their bytes.
    reads: u64,
    read: u64,
    /// Files that are packed with others, and their bytes with what is around them.
    packed: u64,
    packed_bytes: u64,
    /// Requests that write those that stand alone, and their bytes.
    alone: u64,
    alone_bytes: u64,
}

fn add(sum: &mut u64, more: u64) {
    *sum = sum.saturating_add(more);
}

/// Requests that write so many objects of so many bytes: one each, or the parts of all, and one each
/// to begin and to end them.
fn writes(objects: u64, bytes: u64, part: u64) -> u64 {
    let parts = bytes.div_ceil(part.max(1));
    if parts <= objects {
        objects
    } else {
        parts.saturating_add(objects.saturating_mul(2))
    }
}

fn each(price: Amount, times: u64) -> u128 {
    u128::from(price.nanos()) * u128::from(times)
}

fn by_gb(price: Amount, bytes: u64) -> u128 {
    each(price, bytes).div_ceil(GB)
}

impl Used {
    fn restore(&mut self, len: u64) {
        add(&mut self.restores, 1);
        add(&mut self.restored, len);
    }

    /// In reads of at most so many bytes.
    fn read(&mut self, bytes: u64, at_once: u64) {
        add(&mut self.reads, bytes.div_ceil(at_once.max(1)).max(1));
        add(&mut self.read, bytes);
    }

    fn keep(&mut self, bytes: u64, part: u64) {
        let stored = bytes.saturating_add(AROUND);
        if bytes > SMALL {
            add(&mut self.alone, writes(1, stored, part));
            add(&mut self.alone_bytes, stored);
        } else {
            add(&mut self.packed, 1);
            add(&mut self.packed_bytes, stored);
        }
    }

    /// Once and monthly, in thousand-millionths. `aggregate`: bytes and members of one.
    fn cost(&self, rates: &Rates, aggregate: (u64, usize)) -> (u128, u128) {
        let prices = &rates.prices;
        let members = u64::try_from(aggregate.1).unwrap_or(u64::MAX);
        let objects = self.packed_bytes.div_ceil(aggregate.0.max(1));
        let objects = objects.max(self.packed.div_ceil(members.max(1)));
        let written = writes(objects, self.packed_bytes, rates.part).saturating_add(self.alone);
        let days = u128::from(rates.restore_days);
        let kept = each(prices.restored_gb_month, self.restored).saturating_mul(days);
        let once = [
            each(prices.restore_request, self.restores),
            by_gb(prices.restore_gb, self.restored),
            kept.div_ceil(GB * MONTH),
            each(prices.read_request, self.reads),
            by_gb(prices.read_gb, self.read),
            each(prices.write_request, written),
        ];
        let stored = self.packed_bytes.saturating_add(self.alone_bytes);
        let once = once.into_iter().fold(0, u128::saturating_add);
        (once, by_gb(prices.stored_gb_month, stored))
    }
}

/// One priced tier of a bill.
struct Line<'a> {
    slot: &'a Slot,
    rates: &'a Rates,
    /// What lies there may have to be restored first.
    restores: bool,
    used: Used,
}

/// What a request would ask of tiers that have prices, gathered file by file.
pub(super) struct Bill<'a> {
    shared: &'a Shared,
    lines: BTreeMap<TierId, Line<'a>>,
    restored: HashSet<(TierId, AggregateId)>,
}

impl<'a> Bill<'a> {
    /// `None`: no tier has prices.
    pub(super) fn open(shared: &'a Shared) -> Option<Self> {
        let line = |slot: &'a Slot| {
            let line = Line {
                slot,
                rates: shared.settings.prices.get(&slot.name)?,
                restores: slot.tier.describe().kind == Kind::S3,
                used: Used::default(),
            };
            Some((slot.id, line))
        };
        let lines: BTreeMap<_, _> = shared.tiers.iter().filter_map(line).collect();
        (!lines.is_empty()).then_some(Self {
            shared,
            lines,
            restored: HashSet::new(),
        })
    }

    /// Bytes of a file are read from the copy that a recall would take. `restore`: it is restored,
    /// where it must be.
    pub(super) fn read(
        &mut self,
        copies: &[CopyHint],
        bytes: u64,
        restore: bool,
    ) -> Result<(), EngineError> {
        let shared = self.shared;
        let nearest = match shared.recaller() {
            Some(recaller) if copies.len() > 1 => recaller.nearest(copies, bytes).first().copied(),
            _ => copies.first().copied(),
        };
        let Some((copy, line)) = nearest.and_then(|c| Some((c, self.lines.get_mut(&c.tier)?)))
        else {
            return Ok(());
        };
        line.used.read(bytes, shared.settings.recall.ahead);
        let (tier, aggregate) = (copy.tier, copy.aggregate);
        let far = restore && line.restores && !line.slot.tier.wait(aggregate).is_zero();
        if far && self.restored.insert((tier, aggregate)) {
            let known = shared.catalog.aggregate(tier, aggregate)?;
            line.used.restore(known.map_or(bytes, |a| a.len.max(bytes)));
        }
        Ok(())
    }

    /// A file is written to a tier, and stays there.
    pub(super) fn keep(&mut self, tier: TierId, bytes: u64) {
        if let Some(line) = self.lines.get_mut(&tier) {
            line.used.keep(bytes, line.rates.part);
        }
    }

    /// The sum, by currency, of the tiers that something is asked of.
    pub(super) fn total(self) -> Vec<Cost> {
        let settings = &self.shared.settings;
        let aggregate = (settings.aggregate_bytes, settings.aggregate_members);
        let mut sums: BTreeMap<&str, (u128, u128)> = BTreeMap::new();
        for line in self.lines.values() {
            if line.used == Used::default() {
                continue;
            }
            let (once, monthly) = line.used.cost(line.rates, aggregate);
            let sum = sums.entry(&line.rates.prices.currency).or_default();
            sum.0 = sum.0.saturating_add(once);
            sum.1 = sum.1.saturating_add(monthly);
        }
        let cost = |(currency, (once, monthly)): (&str, (u128, u128))| Cost {
            currency: currency.to_owned(),
            once: Amount::of_nanos(once),
            monthly: Amount::of_nanos(monthly),
        };
        sums.into_iter().map(cost).collect()
    }
}

/// Where a file's data lie: its good copies, in the catalog's order; those that its own record names
/// where the catalog knows of none.
pub(super) fn places<'c>(
    good: impl Iterator<Item = &'c Copy>,
    record: Option<&Record>,
) -> Vec<CopyHint> {
    let hint = |c: &Copy| CopyHint {
        tier: c.tier,
        aggregate: c.aggregate,
        header: c.header,
    };
    let mut places: Vec<CopyHint> = good.map(hint).collect();
    if let Some(record) = record.filter(|_| places.is_empty()) {
        places.clone_from(&record.copies);
    }
    places
}

impl Shared {
    /// What the archives of a rule would cost; nothing for other rules.
    pub(super) fn cost_of_rule(&self, rule: &RulePlan) -> Result<Vec<Cost>, EngineError> {
        let Some(mut bill) = Bill::open(self).filter(|_| rule.verb == Verb::Archive) else {
            return Ok(Vec::new());
        };
        for file in &rule.files {
            let number = catalog::NodeId(file.node.0.cast_signed());
            let Some(node) = self.catalog.node(number)? else {
                continue;
            };
            let size = node.attributes.size;
            let released = node.state == FileState::Released;
            let from = if released {
                self.good_places(&node)?
            } else {
                Vec::new()
            };
            for tier in self.lacking(&node)? {
                bill.read(&from, size, false)?;
                bill.keep(tier, size);
            }
        }
        Ok(bill.total())
    }

    fn good_places(&self, node: &Node) -> Result<Vec<CopyHint>, EngineError> {
        let Some(version) = node.version else {
            return Ok(Vec::new());
        };
        let copies = self.catalog.copies(version.file, version.version)?;
        let good = |c: &&Copy| c.state == CopyState::Good && c.crc == version.crc;
        Ok(places(copies.iter().filter(good), None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn rates(set: impl FnOnce(&mut Prices)) -> Rates {
        let mut prices = Prices {
            currency: "USD".into(),
            ..Prices::default()
        };
        set(&mut prices);
        Rates::new(prices)
    }

    fn price(text: &str) -> Amount {
        text.parse().unwrap()
    }

    fn cost(used: &Used, rates: &Rates) -> (String, String) {
        let (once, monthly) = used.cost(rates, (64 * MIB, 1000));
        let [once, monthly] = [once, monthly].map(|n| Amount::of_nanos(n).to_string());
        (once, monthly)
    }

    #[test]
    fn what_is_restored_is_paid_by_request_by_gb_and_by_day() {
        let mut used = Used::default();
        used.restore(1_000_000_000);
        used.restore(2_000_000_000);
        let mut rates = rates(|p| {
            p.restore_request = price("0.05");
            p.restore_gb = price("0.02");
        });
        assert_eq!(cost(&used, &rates), ("0.16".into(), "0.00".into()));
        rates.prices.restored_gb_month = price("0.10");
        rates.restore_days = 10;
        assert_eq!(cost(&used, &rates).0, "0.26", "a third of a month of 3 GB");
    }

    #[test]
    fn what_is_read_is_paid_by_request_and_by_gb() {
        let mut used = Used::default();
        used.read(17 * MIB, 8 * MIB);
        used.read(0, 8 * MIB);
        let mut rates = rates(|p| p.read_request = price("1"));
        assert_eq!(cost(&used, &rates).0, "4.00");
        rates.prices.read_gb = price("1");
        assert_eq!(cost(&used, &rates).0, "4.017825792");
    }

    #[test]
    fn what_is_written_is_paid_by_request_and_each_month() {
        let rates = rates(|p| {
            p.write_request = price("1");
            p.stored_gb_month = price("1");
        });
        let mut used = Used::default();
        for _ in 0..1500 {
            used.keep(1000, rates.part);
        }
        // 4,572,000 bytes in two aggregates of at most 1000 members: none needs parts.
        assert_eq!(cost(&used, &rates), ("2.00".into(), "0.004572".into()));
        let mut large = Used::default();
        large.keep(20 * MIB, rates.part);
        // Three parts, and their begin and end.
        assert_eq!(cost(&large, &rates).0, "5.00");
        let mut packed = Used::default();
        for _ in 0..20 {
            packed.keep(8 * MIB, rates.part);
        }
        // 160 MiB and what is around it: three aggregates, 21 parts.
        assert_eq!(cost(&packed, &rates).0, "27.00");
    }

    #[test]
    fn sums_round_up_and_do_not_overflow() {
        let mut used = Used::default();
        used.read(1, 8 * MIB);
        let least = rates(|p| p.read_gb = price("0.000000001"));
        assert_eq!(cost(&used, &least).0, "0.000000001");
        used.restore(u64::MAX);
        used.restore(u64::MAX);
        used.keep(u64::MAX, 1);
        used.keep(u64::MAX, 1);
        let most = Amount::of_nanos(u128::MAX);
        let all = rates(|p| {
            p.restore_request = most;
            p.restore_gb = most;
            p.restored_gb_month = most;
            p.write_request = most;
            p.stored_gb_month = most;
        });
        let largest = most.to_string();
        assert_eq!(cost(&used, &all), (largest.clone(), largest));
    }
}
