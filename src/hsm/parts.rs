//! The objects of a file that is longer than its tier takes (P14): whoever composes an aggregate with one
//! writes its parts here first, and the last into the aggregate.
//!
//! Invariants:
//! - Each part is durable, by the tier's receipt, before the next is begun, and all are before the
//!   aggregate's end is written: where an aggregate is whole, its parts are. It is deleted before them, too.
//! - Parts of an aggregate that did not come to be are taken back at once: no other can ever name them. What
//!   a crash leaves is found by P8 and goes as what nobody knows.
//! - Nothing is written before the tier has room for all of them.

use crate::format::aggregate::{AggregateError, AggregateWriter, PartsWriter};
use crate::format::member::Member;
use crate::format::parts::{self, Slice, Uncut};
use crate::id::{AggregateId, FsUuid, Timestamp};
use crate::tier::{Put, Tier, TierError};
use cairn_mover::Crc32cHasher;
use std::io::{self, Read, Write};

/// Why parts could not be written; none is left then.
#[derive(Debug, thiserror::Error)]
pub(super) enum PartsError {
    /// The tier.
    #[error(transparent)]
    Tier(#[from] TierError),
    /// Composing one.
    #[error(transparent)]
    Compose(#[from] AggregateError),
    /// The receipt for one is not for what was written.
    #[error("the tier's receipt for {0} does not fit")]
    Receipt(AggregateId),
    /// The tier has no room for all of them, though perhaps for others.
    #[error(transparent)]
    NoRoom(TierError),
    /// It cannot be cut so small.
    #[error("the file is too long for the tier: {0}")]
    Uncut(#[from] Uncut),
}

/// How a member goes to a tier: `None`: whole; else in these parts. `others`: bytes of the aggregate before it.
///
/// # Errors
/// The tier does not answer, or has no room for all of them; or it cannot be cut.
pub(super) fn cut(
    tier: &dyn Tier,
    member: &Member,
    others: u64,
) -> Result<Option<Vec<Slice>>, PartsError> {
    let Some(longest) = tier.longest()? else {
        return Ok(None);
    };
    let around = parts::around(member, others);
    if parts::whole_len(&member.kind, around) <= longest {
        return Ok(None);
    }
    let slices = parts::cut(&member.kind, longest, around)?;
    let lengths = slices.iter().map(|s| parts::whole_len(&s.kind(), around));
    let lengths: Vec<u64> = lengths.map(|len| len.min(longest)).collect();
    tier.admit(&lengths).map_err(|why| match why {
        TierError::Full { .. } => PartsError::NoRoom(why),
        why => why.into(),
    })?;
    Ok(Some(slices))
}

/// An object being written, summed on its way.
pub(super) struct Sink {
    put: Box<dyn Put>,
    sum: Crc32cHasher,
}

impl Sink {
    pub(super) fn new(put: Box<dyn Put>) -> Self {
        let sum = Crc32cHasher::default();
        Self { put, sum }
    }

    /// Makes it durable; its length and sum. `None`: the receipt does not fit.
    pub(super) fn seal(
        self,
        id: AggregateId,
        total: u64,
    ) -> Result<Option<crate::tier::Receipt>, TierError> {
        let (sum, len) = (self.sum.sum(), self.sum.len());
        let receipt = self.put.finish(sum)?;
        let fits = (receipt.aggregate, receipt.len, receipt.crc) == (id, len, sum) && total == len;
        Ok(fits.then_some(receipt))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.put.write(bytes)?;
        self.sum.update(&bytes[..taken]);
        Ok(taken)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.put.flush()
    }
}

/// The parts of one aggregate that are durable by now. Dropped before [`Made::keep`] they are taken back.
pub(super) struct Made<'a> {
    tier: &'a dyn Tier,
    objects: Vec<AggregateId>,
}

/// What parts have in common with the aggregate that has the last.
pub(super) struct Whole<'a, 't> {
    pub(super) tier: &'t dyn Tier,
    pub(super) aggregate: AggregateId,
    pub(super) fs: FsUuid,
    pub(super) composed: Timestamp,
    /// The directories on the way to the file.
    pub(super) directories: &'a [Member],
    /// Called before a part is made durable: whoever has a drive gives it back.
    pub(super) leave: &'a dyn Fn(),
}

impl<'t> Whole<'_, 't> {
    /// Writes all parts of a file but the last, for which `data` goes on.
    ///
    /// # Errors
    /// [`PartsError`]; none of them is left then.
    pub(super) fn write_all_but_last(
        &self,
        file: &mut PartsWriter<'_>,
        data: &mut dyn Read,
    ) -> Result<Made<'t>, PartsError> {
        let mut made = Made {
            tier: self.tier,
            objects: Vec::new(),
        };
        while let Some(slice) = file.next() {
            let id = self.aggregate.part(slice.number);
            let sink = Sink::new(self.tier.put(id, slice.stored_len())?);
            let mut writer = AggregateWriter::new(sink, id, self.fs, self.composed);
            for directory in self.directories {
                writer.add(directory, &mut io::empty())?;
            }
            writer.add_part(file, data)?;
            let (sink, _, trailer) = writer.finish()?;
            (self.leave)();
            let receipt = sink.seal(id, trailer.total_len)?;
            made.objects.push(id);
            let receipt = receipt.ok_or(PartsError::Receipt(id))?;
            file.sealed(receipt.len);
        }
        Ok(made)
    }
}

impl Made<'_> {
    /// The aggregate is about to be durable, or may be already: from here on its parts are its own.
    pub(super) fn keep(mut self) {
        self.objects.clear();
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        for id in &self.objects {
            if let Err(why) = self.tier.delete(*id) {
                tracing::warn!(part = %id, %why, "a part that nobody needs could not be deleted");
            }
        }
    }
}

/// Deletes an aggregate and its parts, in this order: where it is, they are.
///
/// # Errors
/// The tier's; what is left is found as what nobody knows.
pub(super) fn delete(
    tier: &dyn Tier,
    aggregate: AggregateId,
    parts: usize,
) -> Result<(), TierError> {
    tier.delete(aggregate)?;
    for number in 1..=u16::try_from(parts).unwrap_or(u16::MAX) {
        tier.delete(aggregate.part(number))?;
    }
    Ok(())
}

/// Are all parts of a file where its index says?
///
/// # Errors
/// Which one is not, and why.
pub(super) fn are_there(
    tier: &dyn Tier,
    aggregate: AggregateId,
    parts: &[crate::format::aggregate::PartPlace],
) -> Result<(), (AggregateId, PartTrouble)> {
    for (number, part) in (1..).zip(parts) {
        let id = aggregate.part(number);
        match tier.stat(id) {
            Ok(len) if len == part.len => {}
            Ok(len) => return Err((id, PartTrouble::Length(len, part.len))),
            Err(why) => return Err((id, PartTrouble::Tier(why))),
        }
    }
    Ok(())
}

/// Why a part is not where it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum PartTrouble {
    /// Another length.
    #[error("it is {0} bytes long, and was {1}")]
    Length(u64, u64),
    /// It is not there, or the tier is not.
    #[error(transparent)]
    Tier(TierError),
}
