//! Which cartridge the next file goes to: a choice among values, without I/O.

use super::Cartridge;
use crate::id::AggregateId;
use crate::tier::tape::label::Barcode;
use crate::tier::tape::state::Entry;
use crate::tier::tape::timing::Generation;
use crate::tier::tape::volume::{FIRST, room_for};
use std::fmt;

/// A cartridge as the choice sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its sticker.
    pub barcode: Barcode,
    /// Bytes that fit on it in all, as far as is known.
    pub capacity: u64,
    /// Bytes that are on it.
    pub used: u64,
    /// Why nothing can be written to it.
    pub hindrance: Option<String>,
    /// The last write to it failed: the last resort.
    pub failing: bool,
    /// It is in a drive.
    pub mounted: bool,
    /// Somebody uses the drive that it is in.
    pub busy: bool,
}

/// Why no cartridge takes a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// It would not fit an empty one.
    #[error("{len} bytes are more than a whole cartridge holds ({largest})")]
    TooLong {
        /// Length of the file.
        len: u64,
        /// What the largest cartridge holds.
        largest: u64,
    },
    /// There are too few for the parts of a file.
    #[error(
        "a file of {len} bytes goes to tape in {parts} parts, and {missing} of them find no cartridge: add \
         {missing} or more of {generation} ({capacity} bytes each), with `cairn tape label` or a larger \
         cartridges= in the tier's URL{kept}"
    )]
    Parts {
        /// Lengths of all parts.
        len: u64,
        /// How many.
        parts: usize,
        /// Those that find no room.
        missing: usize,
        /// Of which kind cartridges would be added.
        generation: Generation,
        /// How large each.
        capacity: u64,
        /// Who was promised some.
        kept: Keeping,
    },
    /// The library's directory has none.
    #[error(
        "the filesystem of the library's directory has {free} bytes free for a file in parts, and {wanted} are wanted: \
         make room there"
    )]
    Front {
        /// Wanted at the same time.
        wanted: u64,
        /// Free, without what others were promised.
        free: u64,
    },
    /// All are full.
    #[error(
        "no cartridge has room for {len} bytes: add {count} or more of {generation} ({capacity} bytes each), \
         with `cairn tape label` or a larger cartridges= in the tier's URL{kept}{others}"
    )]
    Full {
        /// Length of the file.
        len: u64,
        /// How many to add at least.
        count: u64,
        /// Of which kind.
        generation: Generation,
        /// How large each.
        capacity: u64,
        /// Who was promised some.
        kept: Keeping,
        /// Those that would have room, and why they do not count.
        others: String,
    },
}

/// How many objects of files in parts have room kept for them: what is full may be so because of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeping(pub usize);

impl fmt::Display for Keeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            objects => write!(
                f,
                "; room is kept for {objects} objects of files in parts that are being written"
            ),
        }
    }
}

/// What is added when the library is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Which generation.
    pub generation: Generation,
    /// Bytes of each.
    pub capacity: u64,
}

/// Lengths that are looked at for one file.
const TRIED: usize = 8;
/// Parts of a file.
const MOST_PARTS: usize = AggregateId::MOST_PARTS as usize;

/// The cartridge for a file of `len` bytes: one that did not fail last time before one that did, one that is not in use before one that is, one in a
/// drive before one in its slot, a begun one before an empty one.
///
/// # Errors
/// [`NoRoom`]; in it `kept`: for how many objects room was laid out in the candidates.
pub fn choose(
    candidates: &[Candidate],
    len: u64,
    (kind, kept): (Kind, usize),
) -> Result<Barcode, NoRoom> {
    let need = room_for(len);
    let left = |c: &Candidate| c.capacity.saturating_sub(c.used);
    let fits = |c: &&Candidate| left(c) >= need;
    let usable = candidates
        .iter()
        .filter(fits)
        .filter(|c| c.hindrance.is_none());
    let best = usable.min_by_key(|c| {
        let begun = c.used > FIRST.bytes;
        (c.failing, c.busy, !c.mounted, !begun, c.barcode)
    });
    if let Some(best) = best {
        return Ok(best.barcode);
    }
    let largest = candidates
        .iter()
        .map(|c| c.capacity)
        .max()
        .unwrap_or(0)
        .max(kind.capacity);
    if need > largest.saturating_sub(FIRST.bytes) {
        return Err(NoRoom::TooLong { len, largest });
    }
    let others: Vec<String> = candidates
        .iter()
        .filter(fits)
        .filter_map(|c| {
            c.hindrance
                .as_ref()
                .map(|why| format!("{} ({why})", c.barcode))
        })
        .collect();
    let others = if others.is_empty() {
        String::new()
    } else {
        format!("; not used though they have room: {}", others.join(", "))
    };
    let count = need.div_ceil(kind.capacity.saturating_sub(FIRST.bytes).max(1));
    let Kind {
        generation,
        capacity,
    } = kind;
    Err(NoRoom::Full {
        len,
        count,
        generation,
        capacity,
        kept: Keeping(kept),
        others,
    })
}

impl Cartridge {
    /// Why nothing can be written to it.
    pub(super) fn hindrance(&self) -> Option<String> {
        if let Some(why) = self.trouble.as_ref().or(self.damage.as_ref()) {
            return Some(why.clone());
        }
        match &self.entry {
            entry if entry.away.is_some() => Some("away".to_owned()),
            entry if entry.retired.is_some() => Some("retired".to_owned()),
            entry if entry.repack => Some("being repacked".to_owned()),
            Entry {
                read_only: Some(why),
                ..
            } => Some(why.clone()),
            Entry {
                taken_from: Some(tier),
                ..
            } => Some(format!("tier {tier:08x} wrote it")),
            entry if entry.write_protected => Some("write-protected".to_owned()),
            entry if entry.full && !self.is_empty() => Some("met its end early".to_owned()),
            _ => None,
        }
    }
}

/// The longest file that an empty one of the cartridges takes which may be written, if its tape is as long as is thought;
/// where there is none, of those that would be added.
#[must_use]
pub(super) fn longest(candidates: &[Candidate], kind: Kind) -> u64 {
    let usable = candidates.iter().filter(|c| c.hindrance.is_none());
    let capacity = usable.map(|c| c.capacity).max().unwrap_or(kind.capacity);
    // What the labels of an empty file take.
    capacity.saturating_sub(FIRST.bytes + room_for(0))
}

/// What fits into so much room of a cartridge, if `reserve` percent of all that fits on it stay free.
fn within(left: u64, capacity: u64, reserve: u64) -> u64 {
    left.saturating_sub(capacity / 100 * reserve + room_for(0))
}

/// See [`crate::tier::Tier::lengths`]; none is more than `most`. The longest that fits anywhere if that is all of the file; else what fits on
/// so many of the empty cartridges, the longest first, that all of it has room, and on a few more; where it has
/// none, on the longest of them, or of those that would be added.
#[must_use]
pub(super) fn lengths(
    candidates: &[Candidate],
    kind: Kind,
    (reserve, most): (u64, u64),
    file: u64,
) -> Vec<u64> {
    let usable = || candidates.iter().filter(|c| c.hindrance.is_none());
    let left = |c: &Candidate| c.capacity.saturating_sub(c.used);
    let fits = |c: &Candidate| within(left(c), c.capacity, reserve);
    let anywhere = usable().map(fits).max().unwrap_or(0).min(most);
    if anywhere >= file {
        return vec![anywhere];
    }
    let empty = usable().filter(|c| c.used <= FIRST.bytes);
    let mut bounds: Vec<u64> = empty.map(fits).collect();
    if bounds.is_empty() {
        let empty = kind.capacity.saturating_sub(FIRST.bytes);
        return vec![within(empty, kind.capacity, reserve).min(most)];
    }
    bounds.sort_unstable_by_key(|bound| std::cmp::Reverse(*bound));
    let longest = bounds[0].min(most);
    let begun = usable().filter(|c| c.used > FIRST.bytes).map(left);
    let begun = begun.fold(0, u64::saturating_add);
    let mut number = 0;
    bounds.retain(|bound| {
        number += 1;
        bound.saturating_mul(number).saturating_add(begun) >= file
    });
    for bound in &mut bounds {
        *bound = most.min(*bound);
    }
    bounds.dedup();
    bounds.truncate(TRIED);
    bounds.retain(|bound| {
        let whole = usize::try_from(file / bound.max(&1)).unwrap_or(usize::MAX);
        let mut parts = vec![*bound; whole.min(MOST_PARTS)];
        parts.push(file % bound.max(&1));
        choose_all(candidates.to_vec(), &parts, (kind, 0)).is_ok()
    });
    if bounds.is_empty() {
        bounds.push(longest);
    }
    bounds
}

/// Are there cartridges for files of these lengths, all of them?
///
/// # Errors
/// [`NoRoom::Parts`].
pub(super) fn choose_all(
    mut candidates: Vec<Candidate>,
    lens: &[u64],
    (kind, kept): (Kind, usize),
) -> Result<(), NoRoom> {
    let mut longest_first = lens.to_vec();
    longest_first.sort_unstable_by_key(|len| std::cmp::Reverse(*len));
    let found = |len: &&u64| lay_out(&mut candidates, **len, |_| true);
    let found = longest_first.iter().filter(found).count();
    let missing = lens.len() - found;
    if missing == 0 {
        return Ok(());
    }
    Err(NoRoom::Parts {
        len: lens.iter().fold(0, |sum, len| sum.saturating_add(*len)),
        parts: lens.len(),
        missing,
        generation: kind.generation,
        capacity: kind.capacity,
        kept: Keeping(kept),
    })
}

/// Takes room for a file of `len` bytes on one of those for which `is_one` holds, where it fits most closely.
/// `false`: none has any.
pub(super) fn lay_out(
    candidates: &mut [Candidate],
    len: u64,
    is_one: impl Fn(&Barcode) -> bool,
) -> bool {
    let need = room_for(len);
    let usable = candidates.iter_mut().filter(|c| {
        c.hindrance.is_none() && is_one(&c.barcode) && c.capacity.saturating_sub(c.used) >= need
    });
    let best = usable.min_by_key(|c| (c.failing, c.capacity - c.used, c.barcode));
    best.map(|c| c.used += need).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(number: u32, used: u64) -> Candidate {
        Candidate {
            barcode: format!("CRN{number:03}L8").parse().expect("barcode"),
            capacity: 1_000_000,
            used,
            hindrance: None,
            failing: false,
            mounted: false,
            busy: false,
        }
    }

    fn chosen(candidates: &[Candidate], len: u64) -> Result<String, NoRoom> {
        let kind = Kind {
            generation: Generation::Lto8,
            capacity: 1_000_000,
        };
        choose(candidates, len, (kind, 0)).map(|b| b.to_string())
    }

    #[test]
    fn begun_cartridges_are_filled_and_mounted_ones_first() {
        let mut all = [
            candidate(1, 80),
            candidate(2, 600_000),
            candidate(3, 500_000),
        ];
        assert_eq!(chosen(&all, 1000), Ok("CRN002L8".into()));
        assert_eq!(chosen(&all, 450_000), Ok("CRN003L8".into()));
        assert_eq!(chosen(&all, 900_000), Ok("CRN001L8".into()));
        all[2].mounted = true;
        assert_eq!(chosen(&all, 1000), Ok("CRN003L8".into()));
        all[2].busy = true;
        assert_eq!(chosen(&all, 1000), Ok("CRN002L8".into()));
        all[0].busy = true;
        all[1].busy = true;
        assert_eq!(chosen(&all, 1000), Ok("CRN003L8".into()));
        all[2].failing = true;
        assert_eq!(chosen(&all, 1000), Ok("CRN002L8".into()));
        (all[0].failing, all[1].failing) = (true, true);
        assert_eq!(
            chosen(&all, 1000),
            Ok("CRN003L8".into()),
            "better than none"
        );
    }

    #[test]
    fn a_full_library_says_what_to_add_and_a_long_file_says_so() {
        let mut all = [candidate(1, 999_000), candidate(2, 500)];
        all[1].hindrance = Some("write-protected".into());
        let full = chosen(&all, 500_000).expect_err("full").to_string();
        for says in [
            "add 1 or more of LTO-8 (1000000 bytes each)",
            "CRN002L8 (write-protected)",
        ] {
            assert!(full.contains(says), "{full}");
        }
        let long = chosen(&all, 999_500).expect_err("long");
        assert!(
            matches!(
                long,
                NoRoom::TooLong {
                    largest: 1_000_000,
                    ..
                }
            ),
            "{long}"
        );
        let kind = Kind {
            generation: Generation::Lto8,
            capacity: 1_000_000,
        };
        let most = lengths(&all, kind, (0, u64::MAX), u64::MAX)[0];
        assert!(chosen(&[candidate(3, FIRST.bytes)], most).is_ok());
        assert!(chosen(&[candidate(3, FIRST.bytes)], most + 1).is_err());
        let empty = || {
            (3..6)
                .map(|n| candidate(n, FIRST.bytes))
                .collect::<Vec<_>>()
        };
        let parts = [most, most, 600_000, 300_000];
        assert_eq!(choose_all(empty(), &parts, (kind, 0)), Ok(()));
        let few = choose_all(empty(), &[most, most, most, most, 600_000], (kind, 0));
        let few = few.expect_err("three cartridges").to_string();
        assert!(
            few.contains("in 5 parts, and 2 of them find no cartridge: add 2"),
            "{few}"
        );
        // Where there are too few of the largest, it is cut for others, and never for more than there is room in front.
        let of = |capacity: u64, used: u64, number| Candidate {
            capacity,
            ..candidate(number, used)
        };
        let mut mixed = vec![of(1_000_000, 900_000, 1)];
        mixed.extend((2..5).map(|n| of(600_000, FIRST.bytes, n)));
        let cut = |all: &[Candidate], most, file| lengths(all, kind, (2, most), file);
        let small = within(600_000 - FIRST.bytes, 600_000, 2);
        assert_eq!(cut(&mixed, u64::MAX, 1_000_000), [small]);
        assert_eq!(cut(&mixed, u64::MAX, small)[0], small, "it fits whole");
        mixed.push(of(1_000_000, FIRST.bytes, 9));
        let large = within(1_000_000 - FIRST.bytes, 1_000_000, 2);
        assert_eq!(cut(&mixed, u64::MAX, 900_000), [large]);
        assert_eq!(cut(&mixed, u64::MAX, 2_000_000), [small]);
        assert_eq!(cut(&mixed, 100_000, 900_000), [100_000]);
        assert_eq!(
            cut(&mixed, u64::MAX, 20_000_000),
            [large],
            "nothing has room for that"
        );
        assert!(matches!(
            chosen(&[], 10),
            Err(NoRoom::Full { count: 1, .. })
        ));
    }
}
