//! Checks of the ctime window ([`settle`]), made when it is past and no other step works on the node.
//!
//! A check whose node something else has waits for that: an archive that waits for a tape has it for long, and a
//! change that hid in the window must still be found.

use super::Shared;
use crate::hsm::version::{Settle, settle};
use crossbeam_channel::Receiver;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long nothing is waited for at once.
const TICK: Duration = Duration::from_millis(100);
/// How often those are looked at whose nodes something else had.
const AGAIN: Duration = Duration::from_secs(1);

/// Makes them as they fall due, until the process stops.
pub(super) fn work(shared: &Arc<Shared>, due: &Receiver<Settle>) {
    let mut held: VecDeque<Settle> = VecDeque::new();
    let mut looked = Instant::now();
    while !shared.stopping() {
        if let Ok(check) = due.recv_timeout(TICK) {
            while !check.is_due() && !shared.stopping() {
                std::thread::sleep(Duration::from_millis(2));
            }
            held.extend(make(shared, check));
        }
        if looked.elapsed() >= AGAIN {
            held = held
                .into_iter()
                .filter_map(|check| make(shared, check))
                .collect();
            looked = Instant::now();
        }
    }
}

/// Makes one; gives it back if something else has its node.
fn make(shared: &Shared, check: Settle) -> Option<Settle> {
    let recalled = shared.recaller().is_some_and(|r| r.is_running(&check.node));
    let Some(_claim) = shared.lanes.claim(&check.node).filter(|_| !recalled) else {
        return Some(check);
    };
    if let Err(why) = settle(&shared.backing, &check) {
        tracing::debug!(%why, "a ctime could not be checked");
    }
    None
}
