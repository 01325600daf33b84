//! The container's words: telling what stands at an offset, and making records.

use super::{Found, LONGEST};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A tape mark.
pub(super) const MARK: [u8; 4] = [0; 4];
const END: u32 = 0xffff_ffff;
const GAP: u32 = 0xffff_fffe;
/// In a record's lengths: its data could not be read from the tape that was imaged.
const BAD: u32 = 1 << 31;
const CHUNK: usize = 1 << 20;

/// What stands at an offset.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) found: Found,
    /// Where its data begin.
    pub(super) data: u64,
    /// Where the next object begins.
    pub(super) next: u64,
}

/// Looks at `offset` of a file of `end` bytes.
pub(super) fn frame_at(file: &File, mut offset: u64, end: u64) -> io::Result<Frame> {
    loop {
        let here = |found, next| Frame {
            found,
            data: offset,
            next,
        };
        let torn = |why| here(Found::Torn(why), offset);
        if offset >= end {
            return Ok(here(Found::End, offset));
        }
        if end - offset < 4 {
            return Ok(torn("the file ends within a length"));
        }
        let word = word_at(file, offset)?;
        match word {
            0 => return Ok(here(Found::Mark, offset + 4)),
            END => return Ok(here(Found::End, offset)),
            GAP => {
                offset += 4;
                continue;
            }
            _ if word & !BAD > LONGEST => return Ok(torn("a length that no record has")),
            _ => {}
        }
        let len = word & LONGEST;
        let data = offset + 4;
        let next = data + u64::from(len.next_multiple_of(2)) + 4;
        if next > end {
            return Ok(torn("the file ends within a record"));
        }
        if word_at(file, next - 4)? != word {
            return Ok(torn("a length is not repeated behind its data"));
        }
        let found = if word & BAD == 0 {
            Found::Block(len)
        } else {
            Found::Bad(len)
        };
        return Ok(Frame { found, data, next });
    }
}

fn word_at(file: &File, offset: u64) -> io::Result<u32> {
    let mut word = [0; 4];
    file.read_exact_at(&mut word, offset)?;
    Ok(u32::from_le_bytes(word))
}

/// A block as a record. `len` is its length.
pub(super) fn record(len: u32, block: &[u8]) -> Vec<u8> {
    let word = len.to_le_bytes();
    let mut bytes = Vec::with_capacity(block.len() + 9);
    bytes.extend_from_slice(&word);
    bytes.extend_from_slice(block);
    if len % 2 == 1 {
        bytes.push(0);
    }
    bytes.extend_from_slice(&word);
    bytes
}

/// The length word of a bad block.
pub(super) fn bad(len: u32) -> [u8; 4] {
    (len | BAD).to_le_bytes()
}

/// Are there, at or behind `from`, `len` bytes that begin with `needle` and that `is_it` takes?
pub(super) fn occurs(
    file: &File,
    mut from: u64,
    needle: &[u8],
    len: usize,
    is_it: &dyn Fn(&[u8]) -> bool,
) -> io::Result<bool> {
    let mut buffer = vec![0; CHUNK.max(2 * len)];
    let mut kept = 0;
    loop {
        let count = match file.read_at(&mut buffer[kept..], from) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if count == 0 {
            return Ok(false);
        }
        from += count as u64;
        let seen = &buffer[..kept + count];
        if seen
            .windows(len.max(1))
            .any(|w| w.starts_with(needle) && is_it(w))
        {
            return Ok(true);
        }
        // What may be the beginning of one goes in front of the next piece.
        let keep = seen.len().min(len.saturating_sub(1));
        let start = seen.len() - keep;
        buffer.copy_within(start..start + keep, 0);
        kept = keep;
    }
}
