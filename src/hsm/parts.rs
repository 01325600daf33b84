//! The objects of a file that is longer than its tier takes (P14): whoever composes an aggregate with one
//! writes its parts here first, and the last into the aggregate.
//!
//! Invariants:
//! - Each part is durable, by the tier's receipt, before the next is begun, and all are before the
//!   aggregate's end is written: where an aggregate is whole, its parts are. It is deleted before them, too.
//! - Parts of an aggregate that did not come to be are taken back at once: no other can ever name them. What
//!   a crash leaves is found by P8 and goes as what nobody knows.
//! - Nothing is written before the tier has room for all of them, and what it keeps for them is theirs until the last
//!   is durable, or they are given up.

use crate::format::aggregate::{AggregateError, AggregateWriter, PartsWriter};
use crate::format::member::Member;
use crate::format::parts::{self, Slice, Uncut};
use crate::id::{AggregateId, FsUuid, Timestamp};
use crate::tier::{Promise, Put, Receipt, Tier, TierError, Unwanted};
use cairn_mover::Crc32cHasher;
use std::io::{self, Read, Write};

/// Why parts could not be written; none is left then.
#[derive(Debug, thiserror::Error)]
pub(super) enum PartsError {
    /// The tier.
    #[error(transparent)]
    Tier(TierError),
    /// Composing one.
    #[error(transparent)]
    Compose(AggregateError),
    /// The receipt for one is not for what was written.
    #[error("the tier's receipt for {0} does not fit")]
    Receipt(AggregateId),
    /// The tier has no room for all of them, or had none in the middle, though perhaps for others.
    #[error(transparent)]
    NoRoom(TierError),
    /// It cannot be cut so small.
    #[error("the file is too long for the tier: {0}")]
    Uncut(#[from] Uncut),
}

impl From<TierError> for PartsError {
    fn from(why: TierError) -> Self {
        match why {
            TierError::Full { .. } => Self::NoRoom(why),
            why => Self::Tier(why),
        }
    }
}

impl From<AggregateError> for PartsError {
    /// A tier that was full said so inside.
    fn from(why: AggregateError) -> Self {
        let AggregateError::Io { step, source } = why else {
            return Self::Compose(why);
        };
        match source.downcast::<TierError>() {
            Ok(why) => why.into(),
            Err(source) => Self::Compose(AggregateError::Io { step, source }),
        }
    }
}

/// How a member goes to a tier in parts.
pub(super) struct Pieces {
    pub(super) slices: Vec<Slice>,
    /// Length of the last one's object at most, bytes.
    pub(super) last: u64,
    /// Room for all of them.
    pub(super) promise: Promise,
}

/// How a member goes to a tier: `None`: whole; else in parts, for which it keeps room. `others`: bytes of the aggregate
/// before it.
///
/// # Errors
/// The tier does not answer, or has no room for all of them; or it cannot be cut.
pub(super) fn cut(
    tier: &dyn Tier,
    aggregate: AggregateId,
    member: &Member,
    others: u64,
) -> Result<Option<Pieces>, PartsError> {
    let around = parts::around(member, others);
    let whole = parts::whole_len(&member.kind, around);
    let bounds = tier.lengths(whole)?;
    if bounds.first().is_none_or(|longest| whole <= *longest) {
        return Ok(None);
    }
    let mut first = None;
    for longest in bounds {
        match pieces(tier, aggregate, member, (around, longest)) {
            Ok(pieces) => return Ok(Some(pieces)),
            Err(why @ (PartsError::NoRoom(_) | PartsError::Uncut(_))) => {
                first.get_or_insert(why);
            }
            Err(why) => return Err(why),
        }
    }
    first.map_or(Ok(None), Err)
}

fn pieces(
    tier: &dyn Tier,
    aggregate: AggregateId,
    member: &Member,
    (around, longest): (u64, u64),
) -> Result<Pieces, PartsError> {
    let slices = parts::cut(&member.kind, longest, around)?;
    let last = slices.len() - 1;
    let objects: Vec<(AggregateId, u64)> = slices
        .iter()
        .enumerate()
        .map(|(at, slice)| {
            let len = parts::whole_len(&slice.kind(), around);
            match at == last {
                true => (
                    aggregate,
                    len.saturating_add(parts::head_len(&member.kind, slices.len())),
                ),
                false => (aggregate.part(slice.number), len),
            }
        })
        .map(|(id, len)| (id, len.min(longest)))
        .collect();
    let promise = tier.promise(&objects)?;
    Ok(Pieces {
        last: objects.last().map_or(0, |(_, len)| *len),
        slices,
        promise,
    })
}

/// An object being written, summed on its way. Its tier may be told of it later than the first bytes come: what lies in
/// front of a file, which is little, waits in memory for it.
pub(super) struct Sink {
    put: Result<Box<dyn Put>, Vec<u8>>,
    sum: Crc32cHasher,
}

impl Sink {
    pub(super) fn new(put: Box<dyn Put>) -> Self {
        let sum = Crc32cHasher::default();
        Self { put: Ok(put), sum }
    }

    /// Of which the tier does not know yet.
    pub(super) fn waiting() -> Self {
        let sum = Crc32cHasher::default();
        Self {
            put: Err(Vec::new()),
            sum,
        }
    }

    /// One that does not wait for others: they would have to come from who writes it.
    fn alone(
        tier: &dyn Tier,
        (id, len): (AggregateId, u64),
        unwanted: Option<&Unwanted>,
    ) -> Result<Self, TierError> {
        let mut put = tier.put(id, len)?;
        put.hasten();
        if let Some(unwanted) = unwanted {
            put.heed(unwanted.clone());
        }
        Ok(Self::new(put))
    }

    /// The tier is told of it, unless it was.
    pub(super) fn begin(
        &mut self,
        id: AggregateId,
        put: impl FnOnce() -> Result<Box<dyn Put>, TierError>,
    ) -> Result<(), TierError> {
        let Err(waiting) = &self.put else {
            return Ok(());
        };
        let mut put = put()?;
        let written = put.write_all(waiting);
        written.map_err(|why| TierError::from_write(why, "the tier", id))?;
        self.put = Ok(put);
        Ok(())
    }

    /// Makes it durable; its length and sum. `None`: the receipt does not fit.
    pub(super) fn seal(self, id: AggregateId, total: u64) -> Result<Option<Receipt>, TierError> {
        let (sum, len) = (self.sum.sum(), self.sum.len());
        let Ok(put) = self.put else {
            return Ok(None);
        };
        let receipt = put.finish(sum)?;
        let fits = (receipt.aggregate, receipt.len, receipt.crc) == (id, len, sum) && total == len;
        Ok(fits.then_some(receipt))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = match &mut self.put {
            Ok(put) => put.write(bytes)?,
            Err(waiting) => waiting.write(bytes)?,
        };
        self.sum.update(&bytes[..taken]);
        Ok(taken)
    }
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.put {
            Ok(put) => put.flush(),
            Err(_) => Ok(()),
        }
    }
}

/// The parts of one aggregate that are durable by now. Dropped before [`Made::keep`] they are taken back.
pub(super) struct Made<'a> {
    tier: &'a dyn Tier,
    objects: Vec<AggregateId>,
    /// Room for the others.
    _promise: Promise,
}

/// What parts have in common with the aggregate that has the last.
pub(super) struct Whole<'a, 't> {
    pub(super) tier: &'t dyn Tier,
    pub(super) aggregate: AggregateId,
    pub(super) fs: FsUuid,
    pub(super) composed: Timestamp,
    /// The directories on the way to the file.
    pub(super) directories: &'a [Member],
    /// See [`Put::heed`].
    pub(super) unwanted: Option<&'a Unwanted>,
    /// Called before a part is made durable: whoever has a drive, or a worker's slot, gives it back.
    pub(super) leave: &'a dyn Fn(),
    /// And after it.
    pub(super) back: &'a dyn Fn(),
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
        promise: Promise,
    ) -> Result<Made<'t>, PartsError> {
        let mut made = Made {
            tier: self.tier,
            objects: Vec::new(),
            _promise: promise,
        };
        while let Some(slice) = file.next() {
            let id = self.aggregate.part(slice.number);
            let sink = Sink::alone(self.tier, (id, slice.stored_len()), self.unwanted)?;
            let mut writer = AggregateWriter::new(sink, id, self.fs, self.composed);
            for directory in self.directories {
                writer.add(directory, &mut io::empty())?;
            }
            writer.add_part(file, data)?;
            let (sink, _, trailer) = writer.finish()?;
            (self.leave)();
            let receipt = sink.seal(id, trailer.total_len);
            (self.back)();
            let receipt = receipt?;
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
