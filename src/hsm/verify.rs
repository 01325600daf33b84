//! Reads a copy back from its tier and compares it with the checksums in its aggregate's index.
//!
//! Invariant: a verdict of "good" means that every stored byte was read just now, every block had
//! its sum and, where the index knows it, the whole content had its sum, holes as zeros.

mod ahead;
mod copies;
#[cfg(test)]
mod tests;

pub use copies::{Fault, verify_copies};

use crate::format::aggregate::{
    AggregateError, Index, IndexEntry, TRAILER_LEN, Trailer, decode_index, decode_trailer,
};
use crate::format::member::{Kind, MemberPath};
use crate::id::AggregateId;
use crate::tier::{Tier, TierError};
use cairn_mover::{Crc32c, Crc32cHasher};

/// Blocks asked for in one read of the tier.
const BLOCKS_A_READ: u64 = 8;
/// Read from an object's end at first: the trailer and, mostly, the whole index.
const TAIL: u64 = 1 << 20;

/// A block whose bytes are not what was archived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadBlock {
    /// Number of the block among the member's stored data.
    pub block: u64,
    /// Sum in the index.
    pub expected: Crc32c,
    /// Sum of what was read; `None`: the object ends before.
    pub found: Option<Crc32c>,
}

/// What reading one member told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The member.
    pub path: MemberPath,
    /// Stored bytes that were read.
    pub bytes: u64,
    /// The bad blocks, ascending.
    pub bad: Vec<BadBlock>,
    /// All blocks are good, but together they are not the content: the index contradicts itself.
    pub content_differs: bool,
}

impl Verdict {
    /// The copy is good.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.bad.is_empty() && !self.content_differs
    }
}

/// What reading a whole aggregate told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AggregateVerdict {
    /// Members with data that were read.
    pub members: u64,
    /// Stored bytes that were read.
    pub bytes: u64,
    /// The members that are not good.
    pub bad: Vec<Verdict>,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The tier does not answer, or has no such object.
    #[error(transparent)]
    Tier(#[from] TierError),
    /// The index or trailer is damaged: no member can be found by it.
    #[error("{aggregate}: {source}")]
    Index {
        /// Which.
        aggregate: AggregateId,
        /// Why.
        source: AggregateError,
    },
    /// The object is another aggregate than its name says.
    #[error("{aggregate} holds {found}")]
    Mixed {
        /// The name.
        aggregate: AggregateId,
        /// What is in it.
        found: AggregateId,
    },
    /// The caller asked to stop.
    #[error("stopped")]
    Stopped,
}

/// What was read is not what it should be: the tier's word that it came from the right place, or why that is not known.
fn confirmed(tier: &dyn Tier, why: VerifyError) -> VerifyError {
    let of_bytes = matches!(why, VerifyError::Index { .. } | VerifyError::Mixed { .. });
    match of_bytes.then(|| tier.confirm()) {
        Some(Err(away)) => away.into(),
        Some(Ok(())) | None => why,
    }
}

/// Reads trailer and index of an aggregate.
///
/// # Errors
/// [`VerifyError`].
pub fn read_index(tier: &dyn Tier, name: AggregateId) -> Result<(Trailer, Index), VerifyError> {
    index_of(tier, name).map_err(|why| confirmed(tier, why))
}

fn index_of(tier: &dyn Tier, name: AggregateId) -> Result<(Trailer, Index), VerifyError> {
    let broken = |source| VerifyError::Index {
        aggregate: name,
        source,
    };
    let total = tier.stat(name)?;
    let tail = tier.read(name, total.saturating_sub(TAIL), total.min(TAIL))?;
    let last = &tail[tail.len().saturating_sub(TRAILER_LEN as usize)..];
    let trailer = decode_trailer(last, total).map_err(broken)?;
    if trailer.aggregate != name {
        return Err(VerifyError::Mixed {
            aggregate: name,
            found: trailer.aggregate,
        });
    }
    let tail_at = total - tail.len() as u64;
    let bytes = match trailer.index_offset.checked_sub(tail_at) {
        Some(at) => tail.slice(at as usize..(at + trailer.index_len) as usize),
        None => tier.read(name, trailer.index_offset, trailer.index_len)?,
    };
    Ok((trailer, decode_index(&bytes, &trailer).map_err(broken)?))
}

/// Reads the end of an aggregate: it is there, can be read, and is what its name says.
///
/// # Errors
/// [`VerifyError`].
pub fn is_there(tier: &dyn Tier, name: AggregateId) -> Result<(), VerifyError> {
    end_of(tier, name).map_err(|why| confirmed(tier, why))
}

fn end_of(tier: &dyn Tier, name: AggregateId) -> Result<(), VerifyError> {
    let total = tier.stat(name)?;
    let len = total.min(TRAILER_LEN);
    let last = tier.read(name, total - len, len)?;
    let trailer = decode_trailer(&last, total).map_err(|source| VerifyError::Index {
        aggregate: name,
        source,
    })?;
    if trailer.aggregate == name {
        return Ok(());
    }
    Err(VerifyError::Mixed {
        aggregate: name,
        found: trailer.aggregate,
    })
}

/// Is it one for certain, or does the service know it and not give its bytes before it was restored? For the
/// question whether the tier stands.
#[must_use]
pub fn is_known_there(tier: &dyn Tier, name: AggregateId) -> bool {
    matches!(
        is_there(tier, name),
        Ok(()) | Err(VerifyError::Tier(TierError::NotRestored { .. }))
    )
}

/// Reads all blocks of one member. `stop` is asked before each read.
///
/// # Errors
/// [`VerifyError::Tier`] if the tier does not answer: that says nothing about the copy.
pub fn verify_member(
    tier: &dyn Tier,
    name: AggregateId,
    entry: &IndexEntry,
    stop: &dyn Fn() -> bool,
) -> Result<Verdict, VerifyError> {
    let mut verdict = Verdict {
        path: entry.member.path.clone(),
        bytes: 0,
        bad: Vec::new(),
        content_differs: false,
    };
    let mut content = Content::of(entry);
    let mut first = 0;
    while first < entry.block_count() {
        if stop() {
            return Err(VerifyError::Stopped);
        }
        let runs = entry.runs_of_blocks(first..first + BLOCKS_A_READ);
        let Some(run) = runs.first() else { break };
        let (end, len) = (run.blocks.end, run.len);
        let places: Vec<_> = (first..end).filter_map(|n| entry.block(n)).collect();
        match tier.read(run.object(name), run.offset_in_object, len) {
            Ok(bytes) => {
                let mut rest = &bytes[..];
                for (block, place) in (first..end).zip(&places) {
                    let (data, behind) = rest.split_at(rest.len().min(place.len as usize));
                    let found = Crc32c::of(data);
                    if found != place.crc {
                        let expected = place.crc;
                        verdict.bad.push(BadBlock {
                            block,
                            expected,
                            found: Some(found),
                        });
                    }
                    content.update(data);
                    rest = behind;
                }
                verdict.bytes += len;
            }
            Err(TierError::Short { .. } | TierError::Unreadable { .. }) if places.len() > 1 => {
                // Find out, block by block, how much of it there is.
                for (block, place) in (first..end).zip(&places) {
                    one_block(tier, name, block, place, &mut verdict)?;
                }
            }
            Err(TierError::Short { .. } | TierError::Unreadable { .. }) => {
                let expected = places.first().map_or(Crc32c::EMPTY, |p| p.crc);
                verdict.bad.push(BadBlock {
                    block: first,
                    expected,
                    found: None,
                });
            }
            Err(why) => return Err(why.into()),
        }
        first = end;
    }
    let expected = entry.member.identity.and_then(|i| i.crc);
    verdict.content_differs =
        verdict.bad.is_empty() && expected.is_some_and(|crc| crc != content.finish());
    if !verdict.is_good() {
        tier.confirm()?;
    }
    Ok(verdict)
}

fn one_block(
    tier: &dyn Tier,
    name: AggregateId,
    block: u64,
    place: &crate::format::range::BlockPlace,
    verdict: &mut Verdict,
) -> Result<(), VerifyError> {
    let found = match tier.read(place.object(name), place.offset_in_object, place.len) {
        Ok(bytes) => {
            verdict.bytes += place.len;
            Some(Crc32c::of(&bytes))
        }
        Err(TierError::Short { .. } | TierError::Unreadable { .. }) => None,
        Err(why) => return Err(why.into()),
    };
    if found != Some(place.crc) {
        verdict.bad.push(BadBlock {
            block,
            expected: place.crc,
            found,
        });
    }
    Ok(())
}

/// Reads all members of an aggregate. `stop` is asked before each read.
///
/// # Errors
/// [`VerifyError`].
pub fn verify_aggregate(
    tier: &dyn Tier,
    name: AggregateId,
    stop: &dyn Fn() -> bool,
) -> Result<AggregateVerdict, VerifyError> {
    let (_, index) = read_index(tier, name)?;
    let mut all = AggregateVerdict {
        members: 0,
        bytes: 0,
        bad: Vec::new(),
    };
    // In the order in which they lie: on tape anything else costs minutes.
    let mut entries: Vec<_> = index.entries.iter().filter(|e| is_data(e)).collect();
    entries.sort_unstable_by_key(|e| e.data);
    for entry in entries {
        let verdict = verify_member(tier, name, entry, stop)?;
        all.members += 1;
        all.bytes += verdict.bytes;
        if !verdict.is_good() {
            all.bad.push(verdict);
        }
    }
    Ok(all)
}

fn is_data(entry: &IndexEntry) -> bool {
    matches!(entry.member.kind, Kind::Regular { .. }) && !entry.is_part()
}

/// Sums the logical content from the stored bytes in order.
struct Content<'a> {
    runs: &'a [crate::format::member::Extent],
    /// Bytes of the first of `runs` already taken.
    at: u64,
    size: u64,
    sum: Crc32cHasher,
}

impl<'a> Content<'a> {
    fn of(entry: &'a IndexEntry) -> Self {
        let (runs, size) = match &entry.member.kind {
            Kind::Regular { size, extents } => (&extents[..], *size),
            _ => (&[][..], 0),
        };
        Self {
            runs,
            at: 0,
            size,
            sum: Crc32cHasher::default(),
        }
    }

    fn update(&mut self, mut data: &[u8]) {
        while let (Some(run), false) = (self.runs.first(), data.is_empty()) {
            self.sum
                .zeros((run.offset + self.at).saturating_sub(self.sum.len()));
            let take = usize::try_from(run.len - self.at)
                .unwrap_or(usize::MAX)
                .min(data.len());
            self.sum.update(&data[..take]);
            self.at += take as u64;
            data = &data[take..];
            if self.at == run.len {
                (self.runs, self.at) = (&self.runs[1..], 0);
            }
        }
    }

    fn finish(mut self) -> Crc32c {
        self.sum.zeros(self.size.saturating_sub(self.sum.len()));
        self.sum.sum()
    }
}
