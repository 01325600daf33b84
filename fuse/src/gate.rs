//! The gate: the owner of the data shuts users out of one node for a moment.
//!
//! Invariants
//! 1. A hold and a counted user of the same node never coexist. Both sides write first and look
//!    second (a user counts itself, then looks for a hold; a holder enters the hold, then looks
//!    at the count), so that at least one of them sees the other and steps back.
//! 2. Who waits for a hold is resumed on a worker when the hold drops, exactly once.

use crate::core::Core;
use crate::node::{InUse, Node};
use crate::park::{Reply, Ticket};
use crate::workers::Job;
use crate::{Gate, Hold, NodeHandle};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// Holds by handle: a node may be held that the kernel has not looked up yet.
#[derive(Default)]
pub(crate) struct Gates {
    count: AtomicUsize,
    held: Mutex<HashMap<NodeHandle, Vec<Job>>>,
}

impl Gates {
    /// Queues what `job` makes if the node is held.
    fn wait(&self, handle: &NodeHandle, job: impl FnOnce() -> Job) -> bool {
        if self.count.load(Ordering::SeqCst) == 0 {
            return false;
        }
        match self.held.lock().get_mut(handle) {
            Some(waiting) => {
                waiting.push(job());
                true
            }
            None => false,
        }
    }

    fn enter(&self, handle: &NodeHandle) -> bool {
        let mut held = self.held.lock();
        if held.contains_key(handle) {
            return false;
        }
        held.insert(handle.clone(), Vec::new());
        self.count.fetch_add(1, Ordering::SeqCst);
        true
    }

    fn leave(&self, handle: &NodeHandle) -> Vec<Job> {
        let mut held = self.held.lock();
        let waiting = held.remove(handle).unwrap_or_default();
        self.count.fetch_sub(1, Ordering::SeqCst);
        waiting
    }
}

/// What goes on when a request has its node.
pub(crate) type Next = Box<dyn FnOnce(&Arc<Core>, InUse, Reply) + Send>;

impl Core {
    /// Counts a request as a user of its node and goes on with it; at once unless the node is
    /// held, else when the hold drops.
    pub(crate) fn enter(self: &Arc<Self>, in_use: InUse, caller: u32, reply: Reply, next: Next) {
        let node = in_use.node().clone();
        let mut slot = Some((in_use, reply, next));
        let waits = self.gates.wait(&node.handle, || {
            // Runs under the gate map's lock; the parking lot is a leaf, the count is a node's.
            let Some((in_use, reply, next)) = slot.take() else {
                return Box::new(|| {});
            };
            drop(in_use);
            let ticket = self.park.park(caller, reply, None, false);
            self.resume(ticket, node.clone(), caller, next)
        });
        if !waits && let Some((in_use, reply, next)) = slot {
            next(self, in_use, reply);
        }
    }

    fn resume(self: &Arc<Self>, ticket: Ticket, node: Arc<Node>, caller: u32, next: Next) -> Job {
        let core = self.clone();
        Box::new(move || {
            if let Some((reply, _)) = core.park.take(ticket) {
                core.enter(InUse::new(node), caller, reply, next);
            }
        })
    }

    /// Does something quick that no open may come into. `None`: the node is in use or held.
    pub(crate) fn alone<T>(&self, node: &Node, work: impl FnOnce() -> T) -> Option<T> {
        if !self.gates.enter(&node.handle) {
            return None;
        }
        let in_use = node.state.lock().io.in_use();
        let result = (!in_use).then(work);
        for job in self.gates.leave(&node.handle) {
            self.workers.slow(job);
        }
        result
    }
}

/// The mirror's gate. Outlives the mount: then everything can be held.
pub(crate) struct MirrorGate(pub(crate) Weak<Core>);

struct Held {
    core: Weak<Core>,
    handle: NodeHandle,
}

impl Hold for Held {}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(core) = self.core.upgrade() {
            for job in core.gates.leave(&self.handle) {
                core.workers.slow(job);
            }
        }
    }
}

impl Gate for MirrorGate {
    fn hold(&self, node: &NodeHandle) -> Option<Box<dyn Hold>> {
        if let Some(core) = self.0.upgrade() {
            if !core.gates.enter(node) {
                return None;
            }
            let hold = Held {
                core: self.0.clone(),
                handle: node.clone(),
            };
            let in_use = core
                .nodes
                .by_handle(node)
                .is_some_and(|known| known.state.lock().io.in_use());
            // Dropped here if in use: whoever stepped back meanwhile is resumed.
            return (!in_use).then(|| Box::new(hold) as Box<dyn Hold>);
        }
        Some(Box::new(Held {
            core: Weak::new(),
            handle: node.clone(),
        }))
    }

    fn changed(&self, node: &NodeHandle) {
        if let Some(core) = self.0.upgrade()
            && let Some(known) = core.nodes.by_handle(node)
        {
            core.notices.attributes(known.id);
        }
    }

    fn named(&self, directory: &NodeHandle, name: &[u8]) {
        if let Some(core) = self.0.upgrade()
            && let Some(known) = core.nodes.by_handle(directory)
        {
            core.notices.name(known.id, name);
        }
    }
}
