//! Copies of files in one aggregate, read in one pass: trailer, index, and of each member that is
//! asked for its headers and all of its data, in the order in which they lie.

use super::ahead::Ahead;
use super::{VerifyError, read_index, verify_member};
use crate::catalog::Copy;
use crate::format::aggregate::{AggregateError, Index, IndexEntry};
use crate::id::AggregateId;
use crate::tier::{ErrorKind, Tier, TierError};
use cairn_mover::Crc32c;

/// What is wrong with a copy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nothing in the object can be found by its index: every member is as bad.
    #[error("{0}")]
    Object(String),
    /// The object is missing, or too short to be one.
    #[error("{0}")]
    Absent(String),
    /// The index is sound and does not name this version.
    #[error("its index does not name this version")]
    Unnamed,
    /// The index names it with another sum than the catalog.
    #[error("its index has another checksum of its content than the catalog")]
    OtherSum,
    /// Blocks of its data.
    #[error("{count} of its blocks have wrong checksums, the first is {first}")]
    Blocks {
        /// How many.
        count: usize,
        /// The first of them.
        first: u64,
    },
    /// Every block is good, and together they are not the content.
    #[error("its content has another checksum")]
    Content,
    /// The tar headers in front of the data: Cairn could still read it, tar might not.
    #[error("its tar headers have a wrong checksum")]
    Headers,
    /// The medium does not give its bytes any more, and was asked more than once.
    #[error("{0}")]
    Unreadable(String),
    /// The object ends before, or is gone.
    #[error("{0}")]
    Gone(String),
}

impl Fault {
    /// Is all of the aggregate as bad?
    #[must_use]
    pub fn is_of_the_object(&self) -> bool {
        matches!(self, Self::Object(_) | Self::Absent(_))
    }

    /// Does it speak of the object, or of the way to it, rather than of one member?
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.is_of_the_object() || self.is_absence()
    }

    /// Was nothing read at all? The same would be seen of every object on a tier that is at fault.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Absent(_) | Self::Gone(_))
    }
}

/// The object itself is at fault, not the way to it.
fn about_the_object(why: &TierError) -> bool {
    match why.kind() {
        ErrorKind::Missing | ErrorKind::Short | ErrorKind::Corrupt | ErrorKind::Unreadable => true,
        ErrorKind::Unavailable
        | ErrorKind::Full
        | ErrorKind::Transient
        | ErrorKind::Exists
        | ErrorKind::NotRestored
        | ErrorKind::Refused => false,
    }
}

/// Reads copies that all lie in the aggregate `name`. `None` in the same place: every byte was read
/// and is right. `stop` is asked before each read.
///
/// # Errors
/// [`VerifyError::Tier`] if the tier does not answer: that says nothing about any of them;
/// [`VerifyError::Stopped`].
pub fn verify_copies(
    tier: &dyn Tier,
    name: AggregateId,
    copies: &[Copy],
    stop: &dyn Fn() -> bool,
) -> Result<Vec<Option<Fault>>, VerifyError> {
    if stop() {
        return Err(VerifyError::Stopped);
    }
    let index = match read_index(tier, name) {
        Ok((_, index)) => index,
        Err(VerifyError::Tier(why)) if !about_the_object(&why) => return Err(why.into()),
        Err(
            why @ (VerifyError::Stopped
            | VerifyError::Index {
                // Nothing is known against it.
                source: AggregateError::Newer(_),
                ..
            }),
        ) => return Err(why),
        Err(why) => {
            let fault = match why {
                VerifyError::Tier(why) if why.kind() == ErrorKind::Unreadable => {
                    Fault::Object(why.to_string())
                }
                VerifyError::Tier(why) => Fault::Absent(why.to_string()),
                why => Fault::Object(why.to_string()),
            };
            return Ok(copies.iter().map(|_| Some(fault.clone())).collect());
        }
    };
    let found = Finder::new(&index);
    let mut told: Vec<Option<Fault>> = vec![None; copies.len()];
    let mut entries: Vec<(usize, &IndexEntry)> = Vec::with_capacity(copies.len());
    for (at, copy) in copies.iter().enumerate() {
        match found.entry(copy) {
            Some(entry) if sum_of(entry) == Some(copy.crc) => entries.push((at, entry)),
            Some(_) => told[at] = Some(Fault::OtherSum),
            None => told[at] = Some(Fault::Unnamed),
        }
    }
    entries.sort_by_key(|(_, entry)| entry.header);
    let wanted = entries.iter().map(|(_, entry)| entry.header..entry.end());
    let ahead = Ahead::new(tier, name, wanted);
    for (at, entry) in entries {
        told[at] = one(&ahead, name, entry, stop)?;
    }
    if told.iter().any(Option::is_some) {
        tier.confirm()?;
    }
    Ok(told)
}

fn sum_of(entry: &IndexEntry) -> Option<Crc32c> {
    entry.member.identity.and_then(|i| i.crc)
}

fn one(
    tier: &dyn Tier,
    name: AggregateId,
    entry: &IndexEntry,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Fault>, VerifyError> {
    if stop() {
        return Err(VerifyError::Stopped);
    }
    let gone = |why: VerifyError| match why {
        VerifyError::Tier(why) if about_the_object(&why) => Ok(Some(Fault::Gone(why.to_string()))),
        why => Err(why),
    };
    let mut headers = vec![(name, entry.header..entry.data, entry.header_crc)];
    for (number, part) in (1..).zip(entry.parts()) {
        headers.push((name.part(number), part.header..part.data, part.header_crc));
    }
    let mut bad_headers = false;
    for (object, place, crc) in headers {
        if stop() {
            return Err(VerifyError::Stopped);
        }
        match tier.read(object, place.start, place.end - place.start) {
            Ok(bytes) => bad_headers |= Crc32c::of(&bytes) != crc,
            Err(why) => return gone(why.into()),
        }
    }
    let verdict = match verify_member(tier, name, entry, stop) {
        Ok(verdict) => verdict,
        Err(why) => return gone(why),
    };
    Ok(match verdict.bad.first() {
        Some(block) => Some(Fault::Blocks {
            count: verdict.bad.len(),
            first: block.block,
        }),
        None if verdict.content_differs => Some(Fault::Content),
        None if bad_headers => Some(Fault::Headers),
        None => None,
    })
}

/// Finds members by identity, or by place, without looking at all of them for each.
struct Finder<'a> {
    index: &'a Index,
    by_header: std::collections::HashMap<u64, Vec<&'a IndexEntry>>,
}

impl<'a> Finder<'a> {
    fn new(index: &'a Index) -> Self {
        let mut by_header: std::collections::HashMap<u64, Vec<_>> = Default::default();
        for entry in &index.entries {
            by_header.entry(entry.header).or_default().push(entry);
        }
        Self { index, by_header }
    }

    fn entry(&self, copy: &Copy) -> Option<&'a IndexEntry> {
        let there = self.by_header.get(&copy.header).map_or(&[][..], |v| v);
        let same = |entry: &&&IndexEntry| {
            let identity = entry.member.identity;
            identity.is_some_and(|i| (i.file, i.version) == (copy.file, copy.version))
        };
        let named = there.iter().find(same).copied();
        // The place is a hint. An adopted stub shares the copies of the one it was made from: there
        // place and sum decide.
        named
            .or_else(|| self.index.by_identity(copy.file, copy.version))
            .or_else(|| there.iter().find(|e| sum_of(e) == Some(copy.crc)).copied())
    }
}
