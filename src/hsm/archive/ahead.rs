//! What a batch needs of the disk, asked for by several threads at once before it is looked at in order: a
//! disk that is asked for one inode after the other mostly waits.
//!
//! Nothing that is found here counts; whatever fails is met again by who looks in order. Nodes are opened
//! without access (`O_PATH`), so no lease is broken and none is refused because of it.

use super::Batch;
use super::candidate::open_any;
use crate::hsm::backing::How;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Threads that ask.
const THREADS: usize = 8;
/// Fewer items are not worth threads.
const LEAST: usize = 32;

/// Has every node's inode and record in memory, as far as that can be had.
pub(super) fn look_ahead(batch: &Batch<'_>) {
    if batch.items.len() < LEAST {
        return;
    }
    let next = AtomicUsize::new(0);
    let look = || {
        while let Some(item) = batch.items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Ok(node) = open_any(batch.backing, item, How::Path) {
                // Of no consequence but for time.
                let _ = batch.backing.record(node.as_fd());
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..THREADS {
            let named = thread::Builder::new().name("cairn-ahead".into());
            if let Err(why) = named.spawn_scoped(scope, look) {
                tracing::debug!(%why, "no looking ahead");
                return;
            }
        }
    });
}
