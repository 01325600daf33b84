//! The first files of a rule's order, in bounded memory, whatever order they come in.
//!
//! Keeps: what is held is the shortest beginning of the order, over all files offered so far,
//! that reaches one of the limits (or all of them, while none is reached). Files that fall out
//! never come back: more files can only make that beginning shorter.

use super::{MOST_FILES, moved};
use crate::facts::{FileFacts, NodeKey};
use crate::policy::{Order, Rule, Verb};
use crate::quantity::ByteCount;
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A file and its place in the order: smaller comes first.
struct Entry {
    place: (i128, NodeKey),
    bytes: ByteCount,
    file: FileFacts,
}

impl Entry {
    fn key(&self) -> (i128, NodeKey, &[u8]) {
        (self.place.0, self.place.1, &self.file.path)
    }
}
impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

pub(super) struct Selection {
    verb: Verb,
    order: Order,
    most_files: usize,
    most_bytes: Option<ByteCount>,
    /// The last of the order on top.
    heap: BinaryHeap<Entry>,
    bytes: u128,
}

impl Selection {
    /// For a rule, which needs no more than `most_bytes` even if its limit would let it.
    pub(super) fn new(rule: &Rule, most_bytes: Option<ByteCount>) -> Self {
        let most = rule.limits.files.unwrap_or(MOST_FILES).min(MOST_FILES);
        let bytes = [rule.limits.bytes, most_bytes].into_iter().flatten().min();
        Self {
            verb: rule.verb,
            order: rule.order,
            most_files: usize::try_from(most).unwrap_or(usize::MAX),
            most_bytes: bytes,
            heap: BinaryHeap::new(),
            bytes: 0,
        }
    }

    pub(super) fn offer(&mut self, file: FileFacts) {
        let place = match self.order {
            Order::OldestAccess => i128::from(file.atime.0),
            Order::OldestChange => i128::from(file.ctime.0),
            Order::Largest => -i128::from(file.size.0),
        };
        let bytes = moved(self.verb, &file);
        self.bytes += u128::from(bytes.0);
        self.heap.push(Entry {
            place: (place, file.node),
            bytes,
            file,
        });
        while let Some(last) = self.heap.peek() {
            let without = self.bytes - u128::from(last.bytes.0);
            let enough_files = self.heap.len() > self.most_files;
            let enough_bytes = self
                .most_bytes
                .is_some_and(|most| without >= u128::from(most.0));
            if !enough_files && !enough_bytes {
                break;
            }
            self.bytes = without;
            self.heap.pop();
        }
    }

    /// The files in the rule's order.
    pub(super) fn in_order(self) -> impl Iterator<Item = FileFacts> {
        self.heap
            .into_sorted_vec()
            .into_iter()
            .map(|entry| entry.file)
    }
}
