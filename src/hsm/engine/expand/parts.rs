//! Requests that are not sealed because something is still to be added to them, by their callers or
//! by this process itself.
//!
//! Invariant: a request is late only while nobody adds anything to it.

use crate::id::RequestId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// One request.
struct Part {
    /// When something was last added.
    at: Instant,
    /// How many threads add something now.
    adding: usize,
}

/// Requests to which something is to be added.
#[derive(Default)]
pub(in crate::hsm::engine) struct Parts(Mutex<HashMap<RequestId, Part>>);

/// While it lives, something is being added to the request.
pub(in crate::hsm::engine) struct Adding<'a> {
    parts: &'a Parts,
    request: RequestId,
}

impl Parts {
    /// Something is added from now on; afterwards the request stays here until [`Parts::done`].
    pub(in crate::hsm::engine) fn add(&self, request: RequestId) -> Adding<'_> {
        let at = Instant::now();
        let mut parts = self.0.lock();
        let part = parts.entry(request).or_insert(Part { at, adding: 0 });
        part.adding += 1;
        Adding {
            parts: self,
            request,
        }
    }

    /// It is sealed, or cancelled.
    pub(in crate::hsm::engine) fn done(&self, request: RequestId) {
        self.0.lock().remove(&request);
    }

    /// Is something still to be added?
    pub(super) fn holds(&self, request: RequestId) -> bool {
        self.0.lock().contains_key(&request)
    }

    /// Requests to which nothing was added for longer than `patience`.
    pub(super) fn late(&self, patience: Duration) -> Vec<RequestId> {
        let parts = self.0.lock();
        let late = |part: &Part| part.adding == 0 && part.at.elapsed() > patience;
        let found = parts.iter().filter(|(_, part)| late(part));
        found.map(|(id, _)| *id).collect()
    }
}

impl Drop for Adding<'_> {
    fn drop(&mut self) {
        if let Some(part) = self.parts.0.lock().get_mut(&self.request) {
            part.adding = part.adding.saturating_sub(1);
            part.at = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: RequestId = RequestId(1);

    #[test]
    fn a_request_is_not_late_while_something_is_added_to_it() {
        let parts = Parts::default();
        let adding = parts.add(ONE);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(parts.late(Duration::ZERO), []);
        let again = parts.add(ONE);
        drop(adding);
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(parts.late(Duration::ZERO), []);
        drop(again);
        assert_eq!(parts.late(Duration::from_secs(3600)), [], "from now on");
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(parts.late(Duration::ZERO), [ONE]);
        let last = parts.add(ONE);
        parts.done(ONE);
        drop(last);
        assert!(!parts.holds(ONE));
    }
}
