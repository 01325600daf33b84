//! Memory for the data of requests, kept from one to the next: the page faults of a fresh megabyte
//! cost about as much as copying it.
//!
//! Invariant: what a buffer held before is another user's, so nobody is answered more of it than
//! was read into it for them ([`Buffer::filled`]).

use parking_lot::Mutex;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Buffers kept while nobody uses them. Of at most the kernel's largest request (1 MiB) each.
const KEPT: usize = 8;

/// Below this the allocator has warm memory at hand.
const LEAST: usize = 64 << 10;

#[derive(Default)]
pub(crate) struct Buffers(Mutex<Vec<Vec<u8>>>);

/// Memory of a length that was asked for; what is in it is nobody's business.
pub(crate) struct Buffer {
    memory: Vec<u8>,
    length: usize,
    home: Arc<Buffers>,
}

impl Buffers {
    /// `length` bytes to be overwritten.
    pub(crate) fn take(self: &Arc<Self>, length: usize) -> Buffer {
        let kept = (length >= LEAST).then(|| self.0.lock().pop()).flatten();
        let mut memory = kept.unwrap_or_default();
        if memory.len() < length {
            // Not grown: there is nothing in it worth a copy.
            memory = vec![0; length];
        }
        Buffer {
            memory,
            length,
            home: self.clone(),
        }
    }

    /// A copy of `bytes`.
    pub(crate) fn copy(self: &Arc<Self>, bytes: &[u8]) -> Buffer {
        let mut buffer = self.take(bytes.len());
        buffer.copy_from_slice(bytes);
        buffer
    }
}

impl Buffer {
    /// The first `count` bytes, which somebody has just read into it.
    pub(crate) fn filled(&self, count: usize) -> &[u8] {
        &self[..count]
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.memory.len() < LEAST {
            return;
        }
        let mut kept = self.home.0.lock();
        if kept.len() < KEPT {
            kept.push(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_come_back_and_are_as_long_as_asked_for() {
        let buffers = Arc::new(Buffers::default());
        let first = buffers.copy(&[7; 1 << 20]);
        let place = first.as_ptr();
        drop(first);
        let second = buffers.take(LEAST);
        assert_eq!((second.as_ptr(), second.len()), (place, LEAST));
        // One that is too short is no use.
        drop(second);
        drop(buffers.take(2 << 20));
        assert_eq!(buffers.0.lock().len(), 1);
        assert_eq!(buffers.take(2 << 20).len(), 2 << 20);
        let many: Vec<_> = (0..3 * KEPT).map(|_| buffers.take(LEAST)).collect();
        drop(many);
        assert_eq!(buffers.0.lock().len(), KEPT);
        assert_eq!(buffers.copy(b"small").filled(3), b"sma");
        assert_eq!(buffers.0.lock().len(), KEPT);
    }
}
