//! The blocks of a cartridge that were just read, so that many small reads that lie behind each other
//! cost each block once.
//!
//! Invariants kept here: never more than [`MOST`] bytes; only whole blocks as the drive gave them. Whoever
//! takes the cartridge out of its drive clears it. Blocks of complete files never change before that.

use std::collections::VecDeque;

/// Bytes that are kept at most.
const MOST: usize = 8 << 20;

/// See the module.
#[derive(Debug, Default)]
pub struct Window {
    /// Number of the object, and its bytes; in the order in which they were read.
    blocks: VecDeque<(u64, Vec<u8>)>,
    bytes: usize,
    /// Where a drive puts a block.
    pub(super) room: Vec<u8>,
}

impl Window {
    /// A block that was just read.
    pub(super) fn get(&self, object: u64) -> Option<&[u8]> {
        let found = self.blocks.iter().rev().find(|(at, _)| *at == object);
        found.map(|(_, block)| block.as_slice())
    }

    /// Keeps the first `len` bytes of [`Self::room`] as a block; the oldest go for it.
    pub(super) fn keep(&mut self, object: u64, len: usize) {
        let Some(block) = self.room.get(..len).filter(|_| len <= MOST) else {
            return;
        };
        let block = block.to_vec();
        while self.bytes + len > MOST {
            let Some((_, oldest)) = self.blocks.pop_front() else {
                break;
            };
            self.bytes -= oldest.len();
        }
        self.bytes += len;
        self.blocks.push_back((object, block));
        debug_assert!(self.bytes <= MOST);
    }

    /// Another cartridge comes.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_and_it_never_grows_over_its_bound() {
        let mut window = Window {
            room: vec![7; 3 << 20],
            ..Window::default()
        };
        for object in 0..4 {
            window.room[0] = object as u8;
            window.keep(object, 3 << 20);
            assert!(window.bytes <= MOST);
        }
        let held: Vec<bool> = (0..4).map(|n| window.get(n).is_some()).collect();
        assert_eq!(held, [false, false, true, true]);
        assert_eq!(window.get(3).map(|block| block[0]), Some(3));
        window.room = vec![0; MOST + 1];
        window.keep(9, MOST + 1);
        assert!(window.get(9).is_none(), "longer than all that is kept");
        window.clear();
        assert!(window.get(3).is_none() && window.bytes == 0);
    }
}
