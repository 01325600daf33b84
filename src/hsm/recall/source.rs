//! Where one file's blocks come from: its copies, best first, and what is known of each.
//!
//! They are asked in the order of [`nearness`](super::nearness). The first copy whose index is sound is the *primary*: its layout and block sums are those of
//! the recall. A block that is bad there is read from the next copy and compared with the
//! primary's sum, so that a copy with another layout of holes serves just as well.
//!
//! A copy is told of once, however much of it is bad. An object that is not there is not asked for again: what should lie
//! in it is read from another copy, in runs as long.
//!
//! Invariant 2 of the design: nothing leaves here that is not [`Checked`].

use super::Asks;
use super::RecallError;
use super::error::Stowed;
use super::nearness::Paces;
use super::one::Opened;
use crate::format::aggregate::IndexEntry;
use crate::format::member::Kind;
use crate::format::record::{CopyHint, Record};
use crate::hsm::index_cache::{Found, IndexCache, IndexError, tier_is_passing};
use crate::id::{AggregateId, TierId};
use crate::tier::{Tier, TierError};
use bytes::{Bytes, BytesMut};
use cairn_mover::{Checked, Crc32c};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// One copy.
struct Source {
    copy: CopyHint,
    known: Mutex<Known>,
    /// It was told that it is bad.
    told: AtomicBool,
    /// Of its objects, those that are not there.
    gone: Mutex<BTreeSet<AggregateId>>,
    /// What reads of its tier take.
    paces: Arc<Mutex<Paces>>,
}

#[derive(Clone)]
enum Known {
    /// Not looked at yet.
    Nothing,
    /// Its index holds the member.
    Entry(Arc<dyn Tier>, Found),
    /// Does not hold what it should: reported, not tried again.
    Useless,
}

/// Why a block was not got.
pub(super) enum Miss {
    /// Every copy that answered is bad.
    Bad,
    /// A copy that did not answer may be good.
    Passing(String),
    /// So may one on a tier that is not configured: it does not come back by itself.
    Nowhere(String),
    /// Some are, and must be restored first.
    NotRestored(Stowed),
}

impl Miss {
    /// What a tier said that says nothing against the object.
    fn passing(tier: TierId, why: &TierError) -> Self {
        match why {
            TierError::NotRestored { object, .. } => Self::NotRestored(Stowed {
                objects: vec![(tier, *object)],
                beside_away: false,
                why: why.to_string(),
            }),
            why => Self::Passing(why.to_string()),
        }
    }

    /// The same of an object whose index was wanted.
    pub(super) fn of_index(tier: TierId, why: &IndexError) -> Self {
        match why {
            IndexError::Tier(why) => Self::passing(tier, why),
            why => Self::Passing(why.to_string()),
        }
    }

    /// How a recall ends by it; `tried`: so many copies are bad.
    pub(super) fn into_error(self, tried: usize) -> RecallError {
        match self {
            Self::Bad => RecallError::NoGoodCopy { tried },
            Self::Passing(why) | Self::Nowhere(why) => RecallError::Unavailable { why },
            Self::NotRestored(stowed) => RecallError::NotRestored(stowed),
        }
    }

    /// Of two that were met what is to be told: what can be restored comes before what may come back, and keeps in
    /// mind that something may.
    pub(super) fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::NotRestored(mut first), Self::NotRestored(second)) => {
                first.beside_away |= second.beside_away;
                for object in second.objects {
                    if !first.objects.contains(&object) {
                        first.objects.push(object);
                    }
                }
                Self::NotRestored(first)
            }
            (Self::NotRestored(stowed), Self::Passing(_))
            | (Self::Passing(_), Self::NotRestored(stowed)) => Self::NotRestored(Stowed {
                beside_away: true,
                ..stowed
            }),
            (Self::NotRestored(stowed), Self::Bad | Self::Nowhere(_))
            | (Self::Bad | Self::Nowhere(_), Self::NotRestored(stowed)) => {
                Self::NotRestored(stowed)
            }
            (Self::Bad, other) | (other, Self::Bad) => other,
            (Self::Nowhere(_), other) | (other, Self::Nowhere(_)) => other,
            (Self::Passing(_), other) => other,
        }
    }
}

/// The copies of one file's data.
pub(super) struct Sources {
    list: Vec<Source>,
    /// Those that the catalog knows beyond the list: asked when the list is not enough.
    more: OnceLock<Vec<Source>>,
    record: Record,
    object: String,
    primary: usize,
    entry: Found,
    tier: Arc<dyn Tier>,
}

/// Copies that the catalog knows and the stub does not name.
pub(super) fn unnamed(record: &Record, asks: &dyn Asks) -> Vec<CopyHint> {
    let named = |copy: &CopyHint| {
        let same = |c: &CopyHint| (c.tier, c.aggregate) == (copy.tier, copy.aggregate);
        record.copies.iter().any(same)
    };
    let mut all = asks.copies_of(record.file, record.version);
    all.retain(|copy| !named(copy));
    all
}

/// The tier that will be asked first.
pub(super) fn first_tier(opened: &Opened, asks: &dyn Asks) -> Option<TierId> {
    let named = opened.copies.first().copied();
    let copy = named.or_else(|| unnamed(&opened.record, asks).first().copied());
    copy.map(|copy| copy.tier)
}

fn sources(copies: impl IntoIterator<Item = CopyHint>, paces: &Arc<Mutex<Paces>>) -> Vec<Source> {
    let source = |copy| Source {
        copy,
        known: Mutex::new(Known::Nothing),
        told: AtomicBool::new(false),
        gone: Mutex::default(),
        paces: Arc::clone(paces),
    };
    copies.into_iter().map(source).collect()
}

impl Sources {
    /// Finds the primary. Blocks on tiers.
    pub(super) fn find(
        opened: &Opened,
        asks: &dyn Asks,
        indexes: &IndexCache,
        paces: &Arc<Mutex<Paces>>,
    ) -> Result<Self, RecallError> {
        let (record, named) = (&opened.record, opened.copies.iter().copied());
        let (mut list, mut at, mut asked) = (sources(named, paces), 0, false);
        let mut worst = Miss::Bad;
        loop {
            let Some(source) = list.get(at) else {
                if asked {
                    break;
                }
                // Repack may have moved what the stub names.
                asked = true;
                list.extend(sources(unnamed(record, asks), paces));
                continue;
            };
            match source.look(record, asks, indexes) {
                Ok((tier, entry)) => {
                    let more = OnceLock::new();
                    if asked {
                        // Already in the list.
                        more.get_or_init(Vec::new);
                    }
                    return Ok(Self {
                        record: record.clone(),
                        object: opened.object.clone(),
                        primary: at,
                        list,
                        more,
                        entry,
                        tier,
                    });
                }
                Err(miss) => worst = worst.or(miss),
            }
            at += 1;
        }
        Err(worst.into_error(list.len()))
    }

    /// The layout: which block lies where, and its sum.
    pub(super) fn entry(&self) -> &IndexEntry {
        &self.entry
    }

    /// The tier that most will be read from.
    pub(super) fn primary_tier(&self) -> TierId {
        self.first().copy.tier
    }

    /// Does no other copy hold it?
    pub(super) fn is_alone(&self, asks: &dyn Asks) -> bool {
        self.others(asks).next().is_none()
    }

    /// All objects that hold the file in the copy of which `object` is a part; none if it is in one piece.
    pub(super) fn beside(&self, (tier, object): (TierId, AggregateId)) -> Vec<AggregateId> {
        let more = self.more.get().into_iter().flatten();
        let copy = |source: &&Source| {
            source.copy.tier == tier && source.copy.aggregate.head() == object.head()
        };
        let Some(source) = self.list.iter().chain(more).find(copy) else {
            return Vec::new();
        };
        match &*source.known.lock() {
            Known::Entry(_, entry) if !entry.parts().is_empty() => {
                let parts = (0_u16..).zip(entry.parts());
                let head = source.copy.aggregate;
                std::iter::once(head)
                    .chain(parts.map(|(n, _)| head.part(n + 1)))
                    .collect()
            }
            Known::Entry(..) | Known::Nothing | Known::Useless => Vec::new(),
        }
    }

    /// The object that most will be read from.
    pub(super) fn primary(&self) -> (TierId, AggregateId) {
        let copy = self.first().copy;
        (copy.tier, copy.aggregate)
    }

    fn first(&self) -> &Source {
        &self.list[self.primary]
    }

    /// The error for bytes that no copy holds.
    pub(super) fn no_good_copy(&self) -> RecallError {
        RecallError::NoGoodCopy {
            tried: self.list.len() + self.more.get().map_or(0, Vec::len),
        }
    }

    /// Fetches adjacent blocks: one ranged read of the primary, and for each block that is bad
    /// there, or if the read failed, the other copies. `give` gets each block in order. `leave`: another
    /// cartridge will be read from; who waits for its drive must keep none.
    pub(super) fn fetch(
        &self,
        blocks: Range<u32>,
        asks: &dyn Asks,
        indexes: &IndexCache,
        leave: &dyn Fn(),
        give: &mut dyn FnMut(u32, Result<Checked, Miss>),
    ) {
        let (mut next, mut began) = (blocks.start, false);
        while next < blocks.end {
            let upto = self.upto(next..blocks.end);
            if std::mem::replace(&mut began, true) {
                // Another object, and perhaps another cartridge.
                leave();
            }
            self.fetch_run(next..upto, asks, indexes, leave, give);
            next = upto;
        }
    }

    /// Where the blocks end that lie in the object of the first of them.
    pub(super) fn upto(&self, blocks: Range<u32>) -> u32 {
        let runs = self
            .entry
            .runs_of_blocks(blocks.start.into()..blocks.end.into());
        let first = runs.first().filter(|_| runs.len() > 1);
        first.map_or(blocks.end, |run| {
            u32::try_from(run.blocks.end).unwrap_or(blocks.end)
        })
    }

    /// The object that a block of the primary lies in, if its file is in parts; with all that will be read of it.
    pub(super) fn part_of(&self, block: u32) -> Option<(AggregateId, Range<u64>)> {
        part_of(&self.entry, self.first().copy.aggregate, block.into())
    }

    /// Is its file in parts?
    pub(super) fn in_parts(&self) -> bool {
        !self.entry.parts().is_empty()
    }

    /// Adjacent blocks in one object.
    fn fetch_run(
        &self,
        blocks: Range<u32>,
        asks: &dyn Asks,
        indexes: &IndexCache,
        leave: &dyn Fn(),
        give: &mut dyn FnMut(u32, Result<Checked, Miss>),
    ) {
        let mut run = self.read_run(blocks.clone(), asks);
        if matches!(run, Err(TierError::Missing { .. })) {
            let mut other = self.run_elsewhere(blocks.clone(), (asks, indexes), leave);
            for block in blocks {
                let got = other.as_mut().and_then(|bytes| self.next_of(bytes, block));
                let got = got.ok_or(Miss::Bad);
                give(
                    block,
                    got.or_else(|miss| self.elsewhere(block, miss, (asks, indexes), leave)),
                );
            }
            return;
        }
        for block in blocks.clone() {
            let Some(place) = self.entry.block(u64::from(block)) else {
                give(block, Err(Miss::Bad));
                continue;
            };
            let len = place.len as usize;
            let got = match &mut run {
                Ok(bytes) if bytes.len() >= len => {
                    let part = bytes.split_to(len);
                    self.check(part, (block, place.crc), asks)
                }
                // As it would be of each of its blocks.
                Err(why @ TierError::NotRestored { .. }) => {
                    Err(self.blame(self.first(), asks, why))
                }
                // A longer read failed: perhaps for one of its blocks alone.
                _ if blocks.len() > 1 => match self.read_run(block..block + 1, asks) {
                    Ok(part) => self.check(part, (block, place.crc), asks),
                    Err(why) => Err(self.blame(self.first(), asks, &why)),
                },
                Ok(_) => Err(Miss::Bad),
                Err(why) => Err(self.blame(self.first(), asks, why)),
            };
            give(
                block,
                got.or_else(|miss| self.elsewhere(block, miss, (asks, indexes), leave)),
            );
        }
    }

    /// A block of the primary. Wrong bytes are read once more, between two looks whether they come from its place:
    /// another one may have been mounted there for a moment.
    fn check(
        &self,
        bytes: Bytes,
        (block, crc): (u32, Crc32c),
        asks: &dyn Asks,
    ) -> Result<Checked, Miss> {
        let why = match Checked::verify(bytes, crc) {
            Ok(checked) => return Ok(checked),
            Err(why) => why.to_string(),
        };
        let first = self.first();
        if !first.told.load(Ordering::Relaxed) {
            if let Err(away) = self.tier.confirm() {
                return Err(Miss::Passing(away.to_string()));
            }
            if let Ok(again) = self.read_run(block..block + 1, asks)
                && let Ok(checked) = Checked::verify(again, crc)
            {
                let tier = first.copy.tier;
                tracing::warn!(object = %self.object, %tier, why, "wrong bytes, and right ones when they were read again");
                return Ok(checked);
            }
        }
        Err(self.wrong(first, &*self.tier, asks, &why))
    }

    /// Bytes that are not what was written: the copy is bad, if they came from its place.
    fn wrong(&self, source: &Source, tier: &dyn Tier, asks: &dyn Asks, why: &str) -> Miss {
        if !source.told.load(Ordering::Relaxed)
            && let Err(away) = tier.confirm()
        {
            return Miss::Passing(away.to_string());
        }
        self.report(source, asks, why);
        Miss::Bad
    }

    fn read_run(&self, blocks: Range<u32>, asks: &dyn Asks) -> Result<Bytes, TierError> {
        let runs = self
            .entry
            .runs_of_blocks(blocks.start.into()..blocks.end.into());
        let Some(run) = runs.first() else {
            return Ok(Bytes::new());
        };
        let (first, at) = (self.first(), (run.offset_in_object, run.len));
        let object = run.object(first.copy.aggregate);
        let read = first.read(&*self.tier, object, at);
        if let Err(why @ TierError::Missing { .. }) = &read {
            self.report(first, asks, &why.to_string());
        }
        read
    }

    /// The next block of what another copy gave; `None`: it is not that.
    fn next_of(&self, bytes: &mut Bytes, block: u32) -> Option<Checked> {
        let place = self.entry.block(u64::from(block))?;
        let len = Some(place.len as usize).filter(|len| *len <= bytes.len())?;
        Checked::verify(bytes.split_to(len), place.crc).ok()
    }

    /// Adjacent blocks from the first other copy of the same layout that has them.
    fn run_elsewhere(
        &self,
        blocks: Range<u32>,
        (asks, indexes): (&dyn Asks, &IndexCache),
        leave: &dyn Fn(),
    ) -> Option<Bytes> {
        self.others(asks).find_map(|source| {
            if asks.desk(source.copy.tier).is_some() {
                leave();
            }
            let (tier, entry) = source.look(&self.record, asks, indexes).ok()?;
            if entry.member.kind != self.entry.member.kind {
                return None;
            }
            let mut bytes = BytesMut::new();
            for run in entry.runs_of_blocks(blocks.start.into()..blocks.end.into()) {
                let (object, at) = (
                    run.object(source.copy.aggregate),
                    (run.offset_in_object, run.len),
                );
                // Whatever it is, it is met again, and told of, by whoever asks for one block.
                bytes.extend_from_slice(&source.read(&*tier, object, at).ok()?);
            }
            Some(bytes.freeze())
        })
    }

    /// The copies besides the primary. The catalog is asked only when the named ones are at their end.
    fn others(&self, asks: &dyn Asks) -> impl Iterator<Item = &Source> {
        let more = move || {
            self.more
                .get_or_init(|| sources(unnamed(&self.record, asks), &self.first().paces))
        };
        let named = self.list.iter().enumerate();
        let others = named.filter(|(at, _)| *at != self.primary).map(|(_, s)| s);
        others.chain(std::iter::once_with(more).flatten())
    }

    /// The block from any other copy; `miss` is what the primary said.
    fn elsewhere(
        &self,
        block: u32,
        miss: Miss,
        (asks, indexes): (&dyn Asks, &IndexCache),
        leave: &dyn Fn(),
    ) -> Result<Checked, Miss> {
        let mut worst = miss;
        for source in self.others(asks) {
            if asks.desk(source.copy.tier).is_some() {
                leave();
            }
            let (tier, entry) = match source.look(&self.record, asks, indexes) {
                Ok(found) => found,
                Err(miss) => {
                    worst = worst.or(miss);
                    continue;
                }
            };
            match self.read_other(block, source, &*tier, &entry) {
                Ok(Some(checked)) => return Ok(checked),
                Ok(None) => {
                    worst = worst.or(self.wrong(source, &*tier, asks, "wrong checksum"));
                }
                Err(why) => worst = worst.or(self.blame(source, asks, &why)),
            }
        }
        Err(worst)
    }

    /// The bytes of the primary's `block`, put together from another copy whose data runs may be
    /// cut differently. `None`: they have the wrong sum.
    fn read_other(
        &self,
        block: u32,
        source: &Source,
        tier: &dyn Tier,
        other: &IndexEntry,
    ) -> Result<Option<Checked>, TierError> {
        let Some(place) = self.entry.block(u64::from(block)) else {
            return Ok(None);
        };
        let mut bytes = BytesMut::zeroed(place.len as usize);
        for piece in self.entry.pieces(u64::from(block)) {
            let wanted = piece.logical..piece.logical + piece.len;
            for n in other.blocks_for(wanted.clone()) {
                let Some(theirs) = other.block(n) else {
                    return Ok(None);
                };
                let object = theirs.object(source.copy.aggregate);
                let part = source.read(tier, object, (theirs.offset_in_object, theirs.len))?;
                for p in other.pieces(n) {
                    let from = p.logical.max(wanted.start);
                    let to = (p.logical + p.len).min(wanted.end);
                    if from >= to {
                        continue;
                    }
                    let at = (piece.within_block + (from - piece.logical)) as usize;
                    let src = (p.within_block + (from - p.logical)) as usize;
                    let len = (to - from) as usize;
                    let (Some(into), Some(out)) =
                        (bytes.get_mut(at..at + len), part.get(src..src + len))
                    else {
                        return Ok(None);
                    };
                    into.copy_from_slice(out);
                }
            }
        }
        Ok(Checked::verify(bytes.freeze(), place.crc).ok())
    }

    fn report(&self, source: &Source, asks: &dyn Asks, why: &str) {
        let copy = &source.copy;
        if source.told.swap(true, Ordering::Relaxed) {
            tracing::debug!(object = %self.object, tier = %copy.tier, aggregate = %copy.aggregate, why, "more of a bad copy");
            return;
        }
        tracing::warn!(object = %self.object, tier = %copy.tier, aggregate = %copy.aggregate, why, "bad copy");
        asks.copy_failed(self.record.file, self.record.version, copy, why);
    }

    fn blame(&self, source: &Source, asks: &dyn Asks, why: &TierError) -> Miss {
        if tier_is_passing(why) {
            return Miss::passing(source.copy.tier, why);
        }
        self.report(source, asks, &why.to_string());
        Miss::Bad
    }
}

impl Source {
    /// What lies there; an object that was not there once is not asked for again.
    fn read(
        &self,
        tier: &dyn Tier,
        object: AggregateId,
        (offset, len): (u64, u64),
    ) -> Result<Bytes, TierError> {
        if self.gone.lock().contains(&object) {
            return Err(TierError::Missing {
                tier: self.copy.tier.to_string(),
                object,
            });
        }
        let begun = Instant::now();
        let read = tier.read(object, offset, len);
        match &read {
            Ok(_) if tier.tapes().is_some() => {}
            Ok(_) => {
                let now = Instant::now();
                let took = now.saturating_duration_since(begun);
                self.paces.lock().read(self.copy.tier, len, took, now);
            }
            Err(TierError::Missing { .. }) => {
                self.gone.lock().insert(object);
            }
            // The tier is there: it is this object that takes hours.
            Err(TierError::NotRestored { .. }) => {}
            Err(why) if tier_is_passing(why) => self.is_away(),
            Err(_) => {}
        }
        read
    }

    fn is_away(&self) {
        self.paces.lock().is_away(self.copy.tier, Instant::now());
    }

    fn look(
        &self,
        record: &Record,
        asks: &dyn Asks,
        indexes: &IndexCache,
    ) -> Result<(Arc<dyn Tier>, Found), Miss> {
        let mut known = self.known.lock();
        match &*known {
            Known::Entry(tier, found) => return Ok((Arc::clone(tier), found.clone())),
            Known::Useless => return Err(Miss::Bad),
            Known::Nothing => {}
        }
        let Some(tier) = asks.tier(self.copy.tier) else {
            let why = format!("tier {} is not configured", self.copy.tier);
            return Err(Miss::Nowhere(why));
        };
        let why = match indexes.find(&*tier, &self.copy, record) {
            Ok(Some(entry)) => match mismatch(&entry, record) {
                None => {
                    *known = Known::Entry(Arc::clone(&tier), entry.clone());
                    return Ok((tier, entry));
                }
                Some(why) => why.to_owned(),
            },
            Ok(None) => "the aggregate does not hold these data".to_owned(),
            Err(why) if why.is_passing() => {
                let miss = Miss::of_index(self.copy.tier, &why);
                // Else the tier is there: it is this object that takes hours.
                if matches!(miss, Miss::Passing(_)) {
                    self.is_away();
                }
                return Err(miss);
            }
            Err(why) => why.to_string(),
        };
        if let Err(away) = tier.confirm() {
            return Err(Miss::Passing(away.to_string()));
        }
        *known = Known::Useless;
        tracing::warn!(file = %record.file, tier = %self.copy.tier, why, "unusable copy");
        asks.copy_failed(record.file, record.version, &self.copy, &why);
        Err(Miss::Bad)
    }
}

/// The object that a block lies in, if its file is in parts; with all of the file that is in it.
pub(super) fn part_of(
    entry: &IndexEntry,
    aggregate: AggregateId,
    block: u64,
) -> Option<(AggregateId, Range<u64>)> {
    let run = entry.beside(block).filter(|_| !entry.parts().is_empty())?;
    let range = run.offset_in_object..run.offset_in_object + run.len;
    Some((run.object(aggregate), range))
}

/// What keeps an index entry from being the data that the record names.
pub(in crate::hsm) fn mismatch(entry: &IndexEntry, record: &Record) -> Option<&'static str> {
    let Kind::Regular { size, .. } = &entry.member.kind else {
        return Some("the member is no regular file");
    };
    if entry.is_part() {
        return Some("the member is a part of a file");
    }
    if *size != record.size {
        return Some("the member has another size than the stub says");
    }
    if entry.member.identity.and_then(|i| i.crc) != Some(record.crc) {
        return Some("the member has another checksum than the stub says");
    }
    None
}
