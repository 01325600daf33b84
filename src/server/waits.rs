//! Who waits for which request: wakes them when the engine says that it changed.

use crate::id::RequestId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;

/// Most waits at once; each costs a look at the catalog a second.
const MAX_WAITS: usize = 4096;

/// The waits by request.
#[derive(Debug, Default)]
pub(super) struct Waits {
    by_request: Mutex<HashMap<RequestId, watch::Sender<()>>>,
}

/// One wait; gone when dropped.
#[derive(Debug)]
pub(super) struct Wait {
    waits: Arc<Waits>,
    id: RequestId,
    changed: watch::Receiver<()>,
}

impl Waits {
    /// Wakes who waits for the request. Never blocks for long.
    pub(super) fn wake(&self, id: RequestId) {
        if let Some(sender) = self.by_request.lock().get(&id) {
            sender.send_replace(());
        }
    }

    /// Begins a wait; changes after this call are not missed. `None`: too many.
    pub(super) fn begin(self: &Arc<Self>, id: RequestId) -> Option<Wait> {
        let mut waits = self.by_request.lock();
        let in_all: usize = waits.values().map(watch::Sender::receiver_count).sum();
        if in_all >= MAX_WAITS {
            return None;
        }
        let changed = waits
            .entry(id)
            .or_insert_with(|| watch::Sender::new(()))
            .subscribe();
        Some(Wait {
            waits: Arc::clone(self),
            id,
            changed,
        })
    }
}

impl Wait {
    /// Returns when the request changed since the last call.
    pub(super) async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut waits = self.waits.by_request.lock();
        // This wait's own receiver still counts.
        if waits.get(&self.id).is_some_and(|s| s.receiver_count() <= 1) {
            waits.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_before_the_wait_looks_is_not_missed_and_nothing_is_left_behind() {
        let waits = Arc::new(Waits::default());
        let mut wait = waits.begin(RequestId(1)).unwrap();
        waits.wake(RequestId(1));
        waits.wake(RequestId(2));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(wait.changed());
        let second = waits.begin(RequestId(1)).unwrap();
        drop(wait);
        assert_eq!(waits.by_request.lock().len(), 1);
        drop(second);
        assert_eq!(waits.by_request.lock().len(), 0);
    }
}
