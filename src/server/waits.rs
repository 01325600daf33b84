//! Who waits for which request: wakes them when the engine says that it changed.

use crate::id::RequestId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;

/// Most waits of one user at once; each costs a look at the catalog a second.
const PER_USER: usize = 128;
/// And of all who are not root.
const IN_ALL: usize = 4096;
/// Root's.
const FOR_ROOT: usize = 1024;

/// The waits by request.
#[derive(Debug, Default)]
pub(super) struct Waits {
    by_request: Mutex<HashMap<RequestId, watch::Sender<()>>>,
    /// How many each user has.
    by_user: Mutex<HashMap<u32, usize>>,
}

/// One wait; gone when dropped.
#[derive(Debug)]
pub(super) struct Wait {
    waits: Arc<Waits>,
    id: RequestId,
    uid: u32,
    changed: watch::Receiver<()>,
}

impl Waits {
    /// Wakes who waits for the request. Never blocks for long.
    pub(super) fn wake(&self, id: RequestId) {
        if let Some(sender) = self.by_request.lock().get(&id) {
            sender.send_replace(());
        }
    }

    /// Begins a wait of a user; changes after this call are not missed. `None`: too many.
    pub(super) fn begin(self: &Arc<Self>, id: RequestId, uid: u32) -> Option<Wait> {
        {
            let mut users = self.by_user.lock();
            let others = users.iter().filter(|(of, _)| **of != 0);
            let in_all: usize = others.map(|(_, count)| count).sum();
            let theirs = users.entry(uid).or_default();
            let full = match uid {
                0 => *theirs >= FOR_ROOT,
                _ => *theirs >= PER_USER || in_all >= IN_ALL,
            };
            if full {
                return None;
            }
            *theirs += 1;
        }
        let mut waits = self.by_request.lock();
        let changed = waits
            .entry(id)
            .or_insert_with(|| watch::Sender::new(()))
            .subscribe();
        Some(Wait {
            waits: Arc::clone(self),
            id,
            uid,
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
        drop(waits);
        let mut users = self.waits.by_user.lock();
        if let Some(count) = users.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_before_the_wait_looks_is_not_missed_and_nothing_is_left_behind() {
        let waits = Arc::new(Waits::default());
        let mut wait = waits.begin(RequestId(1), 7).unwrap();
        waits.wake(RequestId(1));
        waits.wake(RequestId(2));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(wait.changed());
        let second = waits.begin(RequestId(1), 7).unwrap();
        drop(wait);
        assert_eq!(waits.by_request.lock().len(), 1);
        drop(second);
        assert_eq!(waits.by_request.lock().len(), 0);
        assert_eq!(waits.by_user.lock().len(), 0);
    }

    #[test]
    fn one_users_waits_leave_room_for_others() {
        let waits = Arc::new(Waits::default());
        let begin = |uid| waits.begin(RequestId(1), uid);
        let mut held: Vec<_> = (0..PER_USER).map(|_| begin(7).unwrap()).collect();
        assert!(begin(7).is_none() && begin(8).is_some());
        for uid in 100.. {
            match (0..PER_USER)
                .map(|_| begin(uid))
                .collect::<Option<Vec<_>>>()
            {
                Some(theirs) => held.extend(theirs),
                None => break,
            }
        }
        assert!(begin(0).is_some(), "the administrator always may");
        drop(held);
        assert!(begin(7).is_some());
    }
}
