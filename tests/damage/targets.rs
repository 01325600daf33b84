//! What is damaged, and how.

use crate::random::Random;

/// Where the damage lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// A member's stored data.
    Data,
    /// A member's tar headers.
    Headers,
    /// The index of an aggregate.
    Index,
    /// The trailer of an aggregate.
    Trailer,
    /// Anywhere in an aggregate, padding and directories too.
    Anywhere,
    /// The record of a released file.
    Stub,
    /// The catalog's file.
    Catalog,
    /// An index kept in the state directory.
    Kept,
}

/// One damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    pub(crate) part: Part,
    /// Cut there; else a bit is flipped.
    pub(crate) cut: bool,
}

const PARTS: [(Part, bool); 12] = [
    (Part::Data, false),
    (Part::Headers, false),
    (Part::Index, false),
    (Part::Trailer, false),
    (Part::Anywhere, false),
    (Part::Anywhere, true),
    (Part::Stub, false),
    (Part::Stub, true),
    (Part::Catalog, false),
    (Part::Catalog, true),
    (Part::Kept, false),
    (Part::Kept, true),
];

/// Each kind in turn first, then by chance.
pub(crate) fn choose(n: u64, random: &mut Random) -> Target {
    let at = if n < PARTS.len() as u64 {
        n
    } else {
        random.below(PARTS.len() as u64)
    };
    let (part, cut) = PARTS[at as usize];
    Target { part, cut }
}

impl Target {
    /// It may hit what nobody reads (padding, free pages), or what is only a cache.
    pub(crate) fn may_be_harmless(self) -> bool {
        match self.part {
            Part::Data | Part::Headers | Part::Index | Part::Trailer | Part::Stub => false,
            // A cut takes the trailer with it.
            Part::Anywhere => !self.cut,
            Part::Catalog | Part::Kept => true,
        }
    }
}
