//! The map of a sparse member: GNU's format 1.0, decimal lines in front of the stored data.
//!
//! `count\n`, then `offset\nlength\n` for each run, zeros to a multiple of 512. A run of length 0
//! at the file's size ends the map of a file that ends in a hole; GNU tar takes the size from it.

use super::header::TAR;
use super::member::{Extent, check_extents};
use std::io::{self, Read};

/// Whether a file of this shape needs a map.
pub(super) fn is_sparse(size: u64, runs: &[Extent]) -> bool {
    match runs {
        [] => size > 0,
        [only] => only.offset != 0 || only.len != size,
        _ => true,
    }
}

/// The map, padded.
pub(super) fn encode(size: u64, runs: &[Extent]) -> Vec<u8> {
    let ends_in_data = runs.last().is_some_and(|run| run.offset + run.len == size);
    let end = (!ends_in_data).then_some(Extent {
        offset: size,
        len: 0,
    });
    let mut map = format!("{}\n", runs.len() + usize::from(end.is_some())).into_bytes();
    for run in runs.iter().chain(&end) {
        map.extend_from_slice(format!("{}\n{}\n", run.offset, run.len).as_bytes());
    }
    map.resize(map.len().next_multiple_of(TAR as usize), 0);
    map
}

/// Why a map cannot be read.
#[derive(Debug)]
pub(super) enum MapError {
    /// It is not one.
    Bad(&'static str),
    /// The source failed.
    Io(io::Error),
}

/// Reads a map of a file of `size` bytes from the front of an entry of `len` bytes: the runs and
/// how long the map was. Memory grows with the lines that are really there, no faster.
pub(super) fn decode(
    source: &mut dyn Read,
    size: u64,
    len: u64,
) -> Result<(Vec<Extent>, u64), MapError> {
    let mut lines = Lines {
        source,
        left: len,
        taken: 0,
        block: [0; TAR as usize],
        at: TAR as usize,
    };
    let count = lines.number()?;
    if count > len / 4 {
        return Err(MapError::Bad(
            "the sparse map's count exceeds what is present",
        ));
    }
    let mut runs = Vec::new();
    let mut ends_in_hole = false;
    for _ in 0..count {
        let (offset, len) = (lines.number()?, lines.number()?);
        if ends_in_hole || (len == 0 && offset != size) {
            return Err(MapError::Bad("the sparse map has an empty run inside"));
        }
        if len == 0 {
            ends_in_hole = true;
        } else {
            runs.push(Extent { offset, len });
        }
    }
    if lines.block[lines.at..].iter().any(|b| *b != 0) {
        return Err(MapError::Bad("the sparse map is not padded with zeros"));
    }
    check_extents(size, &runs).map_err(MapError::Bad)?;
    let ends_in_data = runs.last().is_some_and(|run| run.offset + run.len == size);
    if ends_in_data == ends_in_hole || !is_sparse(size, &runs) {
        return Err(MapError::Bad("the sparse map is not in Cairn's form"));
    }
    Ok((runs, lines.taken))
}

struct Lines<'a> {
    source: &'a mut dyn Read,
    left: u64,
    taken: u64,
    block: [u8; TAR as usize],
    at: usize,
}

impl Lines<'_> {
    fn byte(&mut self) -> Result<u8, MapError> {
        if self.at == self.block.len() {
            if self.left < TAR {
                return Err(MapError::Bad("the sparse map ends too early"));
            }
            self.source
                .read_exact(&mut self.block)
                .map_err(MapError::Io)?;
            self.left -= TAR;
            self.taken += TAR;
            self.at = 0;
        }
        self.at += 1;
        Ok(self.block[self.at - 1])
    }

    /// A decimal number without leading zeros, up to its newline.
    fn number(&mut self) -> Result<u64, MapError> {
        let bad = MapError::Bad("the sparse map holds something that is no number");
        let mut value: Option<u64> = None;
        loop {
            value = match (self.byte()?, value) {
                (b'\n', Some(value)) => return Ok(value),
                (digit @ b'0'..=b'9', None) => Some(u64::from(digit - b'0')),
                (digit @ b'0'..=b'9', Some(before)) if before != 0 => {
                    let more = before.checked_mul(10);
                    let more = more.and_then(|v| v.checked_add(u64::from(digit - b'0')));
                    Some(more.ok_or(bad_number())?)
                }
                _ => return Err(bad),
            };
        }
    }
}

fn bad_number() -> MapError {
    MapError::Bad("the sparse map holds a number that is too large")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn maps_round_trip(runs in proptest::collection::vec((1_u64..9, 1_u64..9), 0..200), tail: bool) {
            let mut at = 0;
            let runs: Vec<_> = runs.into_iter().map(|(gap, len)| {
                let run = Extent { offset: at + gap * 512, len: len * 512 };
                at = run.offset + run.len;
                run
            }).collect();
            let size = if tail || at == 0 { at + 7 } else { at };
            let map = encode(size, &runs);
            let (back, taken) = decode(&mut &map[..], size, map.len() as u64 + 99).unwrap();
            prop_assert_eq!(back, runs);
            prop_assert_eq!(taken, map.len() as u64);
        }

        #[test]
        fn arbitrary_maps_never_panic(text in "[0-9\n]{0,600}", bytes: Vec<u8>, size: u64, len: u64) {
            let mut map = text.into_bytes();
            map.extend_from_slice(&bytes);
            map.resize(map.len().next_multiple_of(512), 0);
            let _ = decode(&mut &map[..], size, len);
        }
    }

    #[test]
    fn hostile_maps_are_refused() {
        let try_map = |text: &str, size| {
            let mut map = text.as_bytes().to_vec();
            map.resize(1024, 0);
            decode(&mut &map[..], size, 1024).is_err()
        };
        assert!(try_map("2\n512\n512\n0\n512\n", 4096), "out of order");
        assert!(
            try_map("1\n18446744073709551615\n512\n", u64::MAX),
            "overflow"
        );
        assert!(
            try_map("1\n99999999999999999999\n1\n", u64::MAX),
            "too large"
        );
        assert!(try_map("99999999\n0\n1\n", 4096), "count");
        assert!(try_map("1\n0\n8192\n", 4096), "behind the end");
        assert!(
            try_map("2\n512\n10\n1024\n10\n4096\n0\n", 4096),
            "unaligned"
        );
        assert!(!try_map("2\n512\n512\n4096\n0\n", 4096));
    }
}
