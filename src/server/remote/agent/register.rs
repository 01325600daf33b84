//! Which transfers are open, and what came of those that ended: numbers, limits, and what is forgotten when.

use super::routes::Refused;
use super::transfers::Transfer;
use crate::error::Failure;
use crate::server::wire::FinishedTransfer;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// An agent's name for a transfer.
pub(super) type Number = u64;

/// A transfer is dropped when nobody began it for so long.
const FORGOTTEN: Duration = Duration::from_secs(15 * 60);
/// Transfers of one user at one time.
pub(super) const MOST: usize = 96;
/// Answers to `finish` that are remembered, for callers who did not hear them.
const REMEMBERED: usize = 256;

/// One of the transfers that there may be.
pub(super) struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Transfers by number.
#[derive(Default)]
pub(super) struct Transfers {
    open: Mutex<HashMap<Number, Transfer>>,
    next: AtomicU64,
    count: Arc<AtomicUsize>,
    /// What `finish` answered, by the callers' keys, the oldest first.
    answers: Mutex<VecDeque<(String, FinishedTransfer)>>,
}

impl Transfers {
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    pub(super) fn place(&self) -> Option<Counted> {
        let counted = Counted(Arc::clone(&self.count));
        (self.count.fetch_add(1, Ordering::SeqCst) < MOST).then_some(counted)
    }

    pub(super) fn remember(&self, key: &str, answer: &FinishedTransfer) {
        let mut answers = self.answers.lock();
        if answers.len() == REMEMBERED {
            answers.pop_front();
        }
        answers.push_back((key.to_owned(), answer.clone()));
    }

    pub(super) fn answer(&self, key: &str) -> Option<FinishedTransfer> {
        let answers = self.answers.lock();
        let found = answers.iter().find(|(known, _)| known == key);
        found.map(|(_, answer)| answer.clone())
    }

    /// Drops those that were opened and never begun. What has begun ends by itself or with its connection: it may wait for
    /// a tape for hours.
    pub(super) async fn forget_old(&self) {
        self.drop_those(|number, transfer| {
            let forgotten = !transfer.has_begun() && transfer.opened.elapsed() >= FORGOTTEN;
            if forgotten {
                tracing::warn!(number, "a transfer that nobody began is dropped");
            }
            forgotten
        })
        .await;
    }

    /// Drops what a connection opened, which has ended.
    pub(super) async fn end_of(&self, connection: u64) {
        self.drop_those(|_, transfer| transfer.connection == connection)
            .await;
    }

    /// Taking away what was written takes its time, and is done where nobody waits for it.
    async fn drop_those(&self, mut gone: impl FnMut(&Number, &mut Transfer) -> bool) {
        let those: Vec<_> = self.open.lock().extract_if(|n, t| gone(n, t)).collect();
        if !those.is_empty() {
            // An error is the end of the process.
            let _ = tokio::task::spawn_blocking(move || drop(those)).await;
        }
    }

    pub(super) fn add(&self, transfer: Transfer) -> Number {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.lock().insert(number, transfer);
        number
    }

    pub(super) fn take(&self, number: Number) -> Result<Transfer, Refused> {
        let gone = || {
            Refused::new(Failure::NotFound, format!("no transfer {number} is open"))
                .hint("the server may have been restarted: open it again")
        };
        self.open.lock().remove(&number).ok_or_else(gone)
    }

    pub(super) fn add_back(&self, number: Number, transfer: Transfer) {
        self.open.lock().insert(number, transfer);
    }
}
