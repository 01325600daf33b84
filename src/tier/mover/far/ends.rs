//! How puts ended, for whoever asks again: the connection on which one was to be finished may be gone when it is.
//!
//! Invariant: an end is what the tier itself said, or that it said nothing; never what can be seen of the object.

use super::super::wire::{Answer, Fault};
use crate::id::AggregateId;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::sync::watch;

/// A put: its number, and its object.
pub(super) type Which = (u64, AggregateId);

/// Ends that are remembered: of more puts than can be on their way at one time.
const KEPT: usize = 4096;

type End = Option<Result<Answer, Fault>>;

#[derive(Default)]
struct Known {
    by_put: HashMap<Which, watch::Receiver<End>>,
    in_order: VecDeque<Which>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Ends(Mutex<Known>);

/// One that is being finished.
pub(super) struct Begun(watch::Sender<End>);

impl Begun {
    pub(super) fn end(self, end: Result<Answer, Fault>) {
        self.0.send_replace(Some(end));
    }
}

impl Ends {
    pub(super) fn begin(self: &Arc<Self>, put: Which) -> Begun {
        let (tell, told) = watch::channel(None);
        let mut known = self.0.lock();
        if known.by_put.insert(put, told).is_none() {
            known.in_order.push_back(put);
        }
        while known.in_order.len() > KEPT {
            if let Some(oldest) = known.in_order.pop_front() {
                known.by_put.remove(&oldest);
            }
        }
        Begun(tell)
    }

    /// The end of that put, when it has one.
    pub(super) async fn of(&self, put: Which) -> Result<Answer, Fault> {
        let known = self.0.lock().by_put.get(&put).cloned();
        let unknown = || Fault::passing("nothing is known here of the end of that put");
        let mut told = known.ok_or_else(unknown)?;
        match told.wait_for(Option::is_some).await {
            Ok(end) => end.clone().ok_or_else(unknown)?,
            Err(_) => Err(Fault::passing("the put's end was not reported")),
        }
    }
}
