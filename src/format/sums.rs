//! The two sums of a member's data while its stored bytes pass by: the logical one (holes as
//! zeros) and one for each block of stored bytes.

use super::aggregate::BLOCK;
use super::member::Extent;
use cairn_mover::{Crc32c, Crc32cHasher};

/// CRC32C of a block list as it is encoded: four bytes each, little-endian.
pub(super) fn blocks_crc(blocks: &[Crc32c]) -> Crc32c {
    let mut hasher = Crc32cHasher::default();
    for block in blocks {
        hasher.update(&block.0.to_le_bytes());
    }
    hasher.sum()
}

/// Takes stored bytes in order.
#[derive(Debug)]
pub(super) struct Sums<'a> {
    size: u64,
    /// Runs not yet complete; of the first, `done` bytes were taken.
    runs: &'a [Extent],
    done: u64,
    logical: Crc32cHasher,
    block: Crc32cHasher,
    blocks: Vec<Crc32c>,
}

impl<'a> Sums<'a> {
    /// For a file of `size` bytes with these (checked) runs.
    pub(super) fn new(size: u64, runs: &'a [Extent]) -> Self {
        Self {
            size,
            runs,
            done: 0,
            logical: Crc32cHasher::default(),
            block: Crc32cHasher::default(),
            blocks: Vec::new(),
        }
    }

    /// The next stored bytes. What lies behind the last run does not count.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while let (Some(run), false) = (self.runs.first(), bytes.is_empty()) {
            if self.done == 0 {
                self.logical.zeros(run.offset - self.logical.len());
            }
            let len = (run.len - self.done)
                .min(BLOCK - self.block.len())
                .min(bytes.len() as u64);
            let (now, later) = bytes.split_at(len as usize);
            self.logical.update(now);
            self.block.update(now);
            bytes = later;
            self.done += len;
            if self.done == run.len {
                self.runs = &self.runs[1..];
                self.done = 0;
            }
            if self.block.len() == BLOCK {
                self.blocks.push(std::mem::take(&mut self.block).sum());
            }
        }
    }

    /// The logical sum and the block sums, after all stored bytes were taken.
    pub(super) fn finish(mut self) -> (Crc32c, Vec<Crc32c>) {
        self.logical
            .zeros(self.size.saturating_sub(self.logical.len()));
        if !self.block.is_empty() {
            self.blocks.push(self.block.sum());
        }
        (self.logical.sum(), self.blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_count_as_zeros_and_blocks_count_stored_bytes() {
        let runs = [
            Extent {
                offset: 4096,
                len: BLOCK,
            },
            Extent {
                offset: 3 * BLOCK,
                len: 1024,
            },
        ];
        let size = 3 * BLOCK + 5000;
        let stored: Vec<u8> = (0..BLOCK + 1024).map(|n| (n % 251) as u8).collect();
        let mut whole = vec![0_u8; size as usize];
        whole[4096..4096 + BLOCK as usize].copy_from_slice(&stored[..BLOCK as usize]);
        whole[3 * BLOCK as usize..][..1024].copy_from_slice(&stored[BLOCK as usize..]);
        let mut sums = Sums::new(size, &runs);
        stored.chunks(777).for_each(|chunk| sums.update(chunk));
        let (logical, blocks) = sums.finish();
        assert_eq!(logical, Crc32c::of(&whole));
        let expected: Vec<_> = stored.chunks(BLOCK as usize).map(Crc32c::of).collect();
        assert_eq!(blocks, expected);
    }
}
