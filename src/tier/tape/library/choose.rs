//! Which cartridge the next file goes to: a choice among values, without I/O.

use super::Cartridge;
use crate::tier::tape::label::Barcode;
use crate::tier::tape::state::Entry;
use crate::tier::tape::timing::Generation;
use crate::tier::tape::volume::{FIRST, room_for};

/// A cartridge as the choice sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its sticker.
    pub barcode: Barcode,
    /// Bytes that fit on it in all.
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
         cartridges= in the tier's URL"
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
    },
    /// All are full.
    #[error(
        "no cartridge has room for {len} bytes: add {count} or more of {generation} ({capacity} bytes each), \
         with `cairn tape label` or a larger cartridges= in the tier's URL{others}"
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
        /// Those that would have room, and why they do not count.
        others: String,
    },
}

/// What is added when the library is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Which generation.
    pub generation: Generation,
    /// Bytes of each.
    pub capacity: u64,
}

/// The cartridge for a file of `len` bytes: one that did not fail last time before one that did, one that is not in use before one that is, one in a
/// drive before one in its slot, a begun one before an empty one.
///
/// # Errors
/// [`NoRoom`].
pub fn choose(candidates: &[Candidate], len: u64, kind: Kind) -> Result<Barcode, NoRoom> {
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
            entry if entry.full => Some("met its end early".to_owned()),
            _ => None,
        }
    }
}

/// The longest file that an empty one of the cartridges takes which may be written; where there is none,
/// of those that would be added.
#[must_use]
pub(super) fn longest(candidates: &[Candidate], kind: Kind) -> u64 {
    let usable = candidates.iter().filter(|c| c.hindrance.is_none());
    let capacity = usable.map(|c| c.capacity).max().unwrap_or(kind.capacity);
    // What the labels of an empty file take.
    capacity.saturating_sub(FIRST.bytes + room_for(0))
}

/// Are there cartridges for files of these lengths, all of them?
///
/// # Errors
/// [`NoRoom::Parts`].
pub(super) fn choose_all(
    mut candidates: Vec<Candidate>,
    lens: &[u64],
    kind: Kind,
) -> Result<(), NoRoom> {
    let mut missing = 0;
    for len in lens {
        let Ok(found) = choose(&candidates, *len, kind) else {
            missing += 1;
            continue;
        };
        for candidate in candidates.iter_mut().filter(|c| c.barcode == found) {
            candidate.used = candidate.used.saturating_add(room_for(*len));
        }
    }
    if missing == 0 {
        return Ok(());
    }
    Err(NoRoom::Parts {
        len: lens.iter().fold(0, |sum, len| sum.saturating_add(*len)),
        parts: lens.len(),
        missing,
        generation: kind.generation,
        capacity: kind.capacity,
    })
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
        choose(candidates, len, kind).map(|b| b.to_string())
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
        let most = longest(&all, kind);
        assert!(chosen(&[candidate(3, FIRST.bytes)], most).is_ok());
        assert!(chosen(&[candidate(3, FIRST.bytes)], most + 1).is_err());
        let empty = || {
            (3..6)
                .map(|n| candidate(n, FIRST.bytes))
                .collect::<Vec<_>>()
        };
        let parts = [most, most, 600_000, 300_000];
        assert_eq!(choose_all(empty(), &parts, kind), Ok(()));
        let few = choose_all(empty(), &[most, most, most, most, 600_000], kind);
        let few = few.expect_err("three cartridges").to_string();
        assert!(
            few.contains("in 5 parts, and 2 of them find no cartridge: add 2"),
            "{few}"
        );
        assert!(matches!(
            chosen(&[], 10),
            Err(NoRoom::Full { count: 1, .. })
        ));
    }
}
