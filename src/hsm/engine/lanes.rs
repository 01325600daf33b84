//! From durable actions to workers: the window is refilled from the catalog, the dispatcher
//! ([`crate::hsm::schedule`]) decides, each lane's own threads work, and one thread writes down how
//! actions ended.
//!
//! Lock order: `scheduler`, then `held`; neither is held across a call into the catalog.

use super::work::{self, Ended};
use super::{EngineError, Shared, Slot};
use crate::catalog::{Action, ActionId, Class, Durability, Finish, Verb};
use crate::hsm::schedule::{Dispatch, Item, Lane, Limits, Outcome, Scheduler, Sealing};
use crate::id::{NodeHandle, RequestId, TierId, Timestamp};
use crate::tier::{Kind, Unwanted};
use cairn_fuse::WaitToken;
use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the dispatcher sleeps when nothing rings: what became due by time is seen then.
const PATIENCE: Duration = Duration::from_millis(250);
/// Actions taken from the catalog at once.
const TAKE: usize = 1000;
/// Ends written in one transaction.
const WRITE: usize = 2000;

/// What the lanes share.
pub(super) struct Lanes {
    scheduler: Mutex<Scheduler>,
    /// Actions that are in the window or in flight.
    held: Mutex<HashMap<ActionId, Action>>,
    ended: Sender<Ended>,
    /// Nodes that an archive, a release, a settle or a stage's beginning works on.
    claimed: Mutex<HashMap<NodeHandle, Holders>>,
    /// Waits of running stages, so that they can be given up.
    stages: Mutex<HashMap<ActionId, WaitToken>>,
}

/// The far ends, for the threads.
pub(super) struct Ends {
    ended: Receiver<Ended>,
}

/// A node is this thread's while it lives.
pub(super) struct Claim<'a> {
    lanes: &'a Lanes,
    node: NodeHandle,
    kind: Claiming,
}

/// What a claim keeps from others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claiming {
    /// Everything.
    All,
    /// All but stages: it copies, perhaps for as long as a tape takes, and readers may have the file meanwhile.
    Copying,
    /// All but other stages and who copies.
    Staging,
}

/// Who claims a node.
struct Holders {
    /// Since when the first does.
    since: Instant,
    /// One that is no stage.
    one: Option<Claiming>,
    stages: usize,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut claimed = self.lanes.claimed.lock();
        let Some(holders) = claimed.get_mut(&self.node) else {
            return;
        };
        match self.kind {
            Claiming::Staging => holders.stages = holders.stages.saturating_sub(1),
            Claiming::All | Claiming::Copying => holders.one = None,
        }
        if holders.one.is_none() && holders.stages == 0 {
            claimed.remove(&self.node);
        }
    }
}

impl Lanes {
    pub(super) fn new(limits: Limits) -> (Self, Ends) {
        let (ended, receiver) = unbounded();
        let lanes = Self {
            scheduler: Mutex::new(Scheduler::new(limits)),
            held: Mutex::new(HashMap::new()),
            ended,
            claimed: Mutex::new(HashMap::new()),
            stages: Mutex::new(HashMap::new()),
        };
        (lanes, Ends { ended: receiver })
    }

    /// Takes a node for release, settle and the like; `None`: another thread has it.
    pub(super) fn claim(&self, node: &NodeHandle) -> Option<Claim<'_>> {
        self.claim_for(node, Claiming::All)
    }

    /// Takes it for archive: a stage does not wait for that, however long a tape is waited for.
    pub(super) fn claim_to_copy(&self, node: &NodeHandle) -> Option<Claim<'_>> {
        self.claim_for(node, Claiming::Copying)
    }

    /// Takes it for the beginning of a stage, beside others and beside an archive.
    pub(super) fn claim_to_stage(&self, node: &NodeHandle) -> Option<Claim<'_>> {
        self.claim_for(node, Claiming::Staging)
    }

    fn claim_for(&self, node: &NodeHandle, kind: Claiming) -> Option<Claim<'_>> {
        let mut claimed = self.claimed.lock();
        let holders = claimed.get(node);
        let may = holders.is_none_or(|held| match kind {
            Claiming::Staging => held.one.is_none_or(|one| one == Claiming::Copying),
            Claiming::Copying => held.one.is_none(),
            Claiming::All => false,
        });
        if !may {
            return None;
        }
        let holders = claimed.entry(node.clone()).or_insert_with(|| Holders {
            since: Instant::now(),
            one: None,
            stages: 0,
        });
        match kind {
            Claiming::Staging => holders.stages += 1,
            Claiming::All | Claiming::Copying => holders.one = Some(kind),
        }
        Some(Claim {
            lanes: self,
            node: node.clone(),
            kind,
        })
    }

    /// For how long a node has been claimed.
    pub(super) fn claimed_for(&self, node: &NodeHandle) -> Duration {
        let claimed = self.claimed.lock();
        claimed
            .get(node)
            .map_or(Duration::ZERO, |held| held.since.elapsed())
    }

    /// The rows of a dispatch.
    pub(super) fn actions(&self, dispatch: &Dispatch) -> Vec<Action> {
        let held = self.held.lock();
        dispatch
            .items
            .iter()
            .filter_map(|i| held.get(&i.action).cloned())
            .collect()
    }

    /// A stage is under way under this token.
    pub(super) fn staging(&self, action: ActionId, token: WaitToken) {
        // It may have ended already: then its row is no longer held.
        if self.held.lock().contains_key(&action) {
            self.stages.lock().insert(action, token);
        }
    }

    /// The token of a running stage; it is forgotten.
    pub(super) fn stage_token(&self, action: ActionId) -> Option<WaitToken> {
        self.stages.lock().remove(&action)
    }

    /// The files of a request that are to be staged, of those that the lanes have.
    pub(super) fn stages_of(&self, request: RequestId) -> Vec<NodeHandle> {
        let held = self.held.lock();
        let stages = held.values().filter(|a| a.verb == Verb::Stage);
        let own = stages.filter(|action| action.request == request);
        own.map(|action| action.handle.clone()).collect()
    }

    /// Does anything but verification run? What waits for its tier does not.
    pub(super) fn is_busy(&self) -> bool {
        let scheduler = self.scheduler.lock();
        let mut others = Class::ALL.into_iter().filter(|c| *c != Class::Verify);
        others.any(|class| scheduler.is_working(class))
    }

    /// An action ended, one way or another.
    pub(super) fn end(&self, ended: Ended) {
        // The writer of ends outlives all workers; at a stop what is lost is simply done again.
        let _ = self.ended.send(ended);
    }

    /// Nothing goes to a tier until then.
    pub(super) fn pause(&self, tier: TierId, until: Timestamp) {
        self.scheduler.lock().pause_tier(tier, until);
    }

    /// Nothing of this request starts any more. What waited, and what is under way.
    pub(super) fn cancel(&self, request: RequestId) -> (Vec<ActionId>, Vec<Action>) {
        let dropped = self.scheduler.lock().cancel(request);
        let mut held = self.held.lock();
        for id in &dropped.waiting {
            held.remove(id);
        }
        let running = dropped
            .in_flight
            .iter()
            .filter_map(|id| held.get(id).cloned())
            .collect();
        (dropped.waiting, running)
    }

    /// The cancel did not take: what waited goes back to the catalog.
    pub(super) fn uncancel(&self, request: RequestId, waited: Vec<ActionId>) {
        self.scheduler.lock().uncancel(request);
        for action in waited {
            self.end(Ended {
                action,
                request,
                finish: Finish::PutBack,
            });
        }
    }

    /// Nobody wants anything of these requests any more.
    pub(super) fn are_cancelled(&self, mut requests: impl Iterator<Item = RequestId>) -> bool {
        let scheduler = self.scheduler.lock();
        requests.all(|request| scheduler.is_cancelled(request))
    }

    /// Its end is written. One that was taken anew since then, and waits again, stays.
    pub(super) fn forget(&self, id: ActionId) {
        let mut scheduler = self.scheduler.lock();
        if scheduler.done(id, Outcome::Ended) {
            self.held.lock().remove(&id);
            drop(scheduler);
            self.stages.lock().remove(&id);
        }
    }
}

/// How many aggregates may wait for each tier that writes several together.
pub(super) fn sealing(tiers: &[Slot]) -> BTreeMap<TierId, Sealing> {
    let sealing = |slot: &Slot| {
        let (dispatches, bytes) = slot.tier.tapes()?.together();
        (dispatches > 1).then_some((slot.id, Sealing { dispatches, bytes }))
    };
    tiers.iter().filter_map(sealing).collect()
}

/// Programs of the site may hang, for as long as they were given, and so may movers: others keep a worker.
pub(super) fn kept_from_all(tiers: &[Slot], workers: usize) -> BTreeMap<TierId, usize> {
    let programs = tiers.iter();
    let programs =
        programs.filter(|slot| matches!(slot.tier.describe().kind, Kind::Exec | Kind::Mover));
    let most = workers.saturating_sub(1).max(1);
    programs.map(|slot| (slot.id, most)).collect()
}

impl Shared {
    /// Does nobody want an aggregate of these actions any more, or does the process stop?
    pub(super) fn unwanted<'a>(
        self: &Arc<Self>,
        rows: impl IntoIterator<Item = &'a Action>,
    ) -> Unwanted {
        let requests: BTreeSet<RequestId> = rows.into_iter().map(|row| row.request).collect();
        let shared = Arc::clone(self);
        Arc::new(move || shared.stopping() || shared.lanes.are_cancelled(requests.iter().copied()))
    }

    /// The aggregate of these actions is composed, and waits for its tier: its worker's slot is another's.
    pub(super) fn sealed<'a>(&self, rows: impl IntoIterator<Item = &'a Action>) {
        let mut rows = rows.into_iter();
        let mut scheduler = self.lanes.scheduler.lock();
        // Those that ended meanwhile are none of its any more.
        let told = rows.any(|action| scheduler.composed(action.id));
        drop(scheduler);
        if told {
            self.bell.ring();
        }
    }

    /// It is composed further: behind a part of its file, say.
    pub(super) fn resumed<'a>(&self, rows: impl IntoIterator<Item = &'a Action>) {
        let mut rows = rows.into_iter();
        let mut scheduler = self.lanes.scheduler.lock();
        let told = rows.any(|action| scheduler.resumed(action.id));
        drop(scheduler);
        if told {
            // Its place among those that wait is another's.
            self.bell.ring();
        }
    }
}

/// Starts a named thread.
type Spawn<'a> = dyn FnMut(&str, Box<dyn FnOnce() + Send>) -> Result<(), EngineError> + 'a;

/// Starts the dispatcher, the lanes' workers and the writer of ends.
pub(super) fn start(
    shared: &Arc<Shared>,
    ends: Ends,
    spawn: &mut Spawn<'_>,
) -> Result<(), EngineError> {
    let mut doors = HashMap::new();
    // Those that compose, and those that wait for a tier.
    let sealing = sealing(&shared.tiers).into_values();
    let sealing: usize = sealing.map(|sealing| sealing.dispatches).sum();
    let workers = [
        (Lane::Recall, 1),
        (
            Lane::Archive,
            shared.settings.archive_workers.max(1) + sealing,
        ),
        (Lane::Release, shared.settings.release_workers.max(1)),
        (Lane::Verify, shared.settings.verify_workers.max(1)),
        (Lane::Remove, 1),
    ];
    for (lane, count) in workers {
        let (door, queue) = unbounded::<Dispatch>();
        doors.insert(lane, door);
        for _ in 0..count {
            let (shared, queue) = (shared.clone(), queue.clone());
            let name = format!("{lane:?}").to_lowercase();
            spawn(&name, Box::new(move || lane_work(&shared, &queue)))?;
        }
    }
    let (writer, dispatcher) = (shared.clone(), shared.clone());
    spawn("ends", Box::new(move || write_ends(&writer, &ends.ended)))?;
    spawn("dispatch", Box::new(move || dispatch(&dispatcher, &doors)))
}

fn lane_work(shared: &Arc<Shared>, queue: &Receiver<Dispatch>) {
    while !shared.stopping() {
        if let Ok(dispatch) = queue.recv_timeout(PATIENCE) {
            let done = catch_unwind(AssertUnwindSafe(|| work::carry_out(shared, &dispatch)));
            if done.is_err() {
                tracing::error!(lane = ?dispatch.lane, "a worker panicked");
                work::panicked(shared, &dispatch);
            }
        }
    }
}

fn dispatch(shared: &Arc<Shared>, doors: &HashMap<Lane, Sender<Dispatch>>) {
    let mut heard = 0;
    while !shared.stopping() {
        let step = || refill(shared).and_then(|()| start_ready(shared, doors));
        match catch_unwind(AssertUnwindSafe(step)) {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::error!(%why, "dispatch failed; it is tried again"),
            Err(_) => tracing::error!("the dispatcher panicked; it goes on"),
        }
        heard = shared.bell.wait(heard, PATIENCE);
    }
}

pub(super) fn refill(shared: &Shared) -> Result<(), EngineError> {
    for class in Class::ALL {
        let room = shared.lanes.scheduler.lock().room(class).min(TAKE);
        if room < TAKE / 4 {
            continue;
        }
        let taken = shared.catalog.take_actions(class, room, shared.now())?;
        if taken.is_empty() {
            continue;
        }
        let items: Vec<Item> = taken.iter().map(Item::from).collect();
        let refused = {
            let mut scheduler = shared.lanes.scheduler.lock();
            let mut held = shared.lanes.held.lock();
            held.extend(taken.into_iter().map(|a| (a.id, a)));
            scheduler.offer(items)
        };
        // A known one was put back in the catalog, and its flight is not yet forgotten: it is
        // taken again when it is.
        let back = refused.full.iter().chain(&refused.known);
        let back = back.map(|id| (*id, Finish::PutBack));
        let gone = refused.cancelled.iter().map(|id| (*id, Finish::Cancelled));
        let ended: Vec<_> = back.chain(gone).collect();
        if !ended.is_empty() {
            let requests: HashMap<ActionId, RequestId> = {
                let mut held = shared.lanes.held.lock();
                let of = |id| held.get(id).map(|a: &Action| (a.id, a.request));
                let requests = ended.iter().filter_map(|(id, _)| of(id)).collect();
                for id in refused.full.iter().chain(&refused.cancelled) {
                    held.remove(id);
                }
                requests
            };
            let noted = shared.catalog.finish_actions(
                Vec::clone(&ended),
                shared.now(),
                Durability::Relaxed,
            );
            if let Err(why) = noted {
                // The writer of ends tries until it can.
                for (action, finish) in ended {
                    if let Some(request) = requests.get(&action).copied() {
                        shared.lanes.end(Ended {
                            action,
                            request,
                            finish,
                        });
                    }
                }
                return Err(why.into());
            }
        }
    }
    Ok(())
}

pub(super) fn start_ready(
    shared: &Shared,
    doors: &HashMap<Lane, Sender<Dispatch>>,
) -> Result<(), EngineError> {
    loop {
        let Some(next) = shared.lanes.scheduler.lock().next(shared.now()) else {
            return Ok(());
        };
        // From here on they have their slots: whatever comes, they reach a worker or are put back.
        let mut next = Departing {
            lanes: &shared.lanes,
            dispatch: Some(next),
        };
        let Some(dispatch) = next.dispatch.as_mut() else {
            continue;
        };
        let ids = dispatch.items.iter().map(|i| i.action).collect();
        let started = shared.catalog.start_actions(ids, shared.now())?;
        for id in &started.refused {
            shared.lanes.forget(*id);
        }
        dispatch
            .items
            .retain(|i| started.started.contains(&i.action));
        next.go(doors);
    }
}

/// A dispatch on its way to a worker. Dropped before, it is put back, and taken again.
struct Departing<'a> {
    lanes: &'a Lanes,
    dispatch: Option<Dispatch>,
}

impl Departing<'_> {
    fn go(mut self, doors: &HashMap<Lane, Sender<Dispatch>>) {
        let Some(dispatch) = self.dispatch.take() else {
            return;
        };
        if dispatch.items.is_empty() {
            return;
        }
        // The lane's threads hold the far end until the engine stops.
        self.dispatch = match doors.get(&dispatch.lane) {
            Some(door) => door.send(dispatch).err().map(|unsent| unsent.0),
            None => Some(dispatch),
        };
    }
}

impl Drop for Departing<'_> {
    fn drop(&mut self) {
        for item in self.dispatch.iter().flat_map(|d| &d.items) {
            self.lanes.end(Ended {
                action: item.action,
                request: item.request,
                finish: Finish::PutBack,
            });
        }
    }
}

/// Writes down how actions ended, many in one transaction.
fn write_ends(shared: &Arc<Shared>, ended: &Receiver<Ended>) {
    loop {
        let Ok(first) = ended.recv_timeout(PATIENCE) else {
            if shared.stopping() {
                return;
            }
            continue;
        };
        let mut batch = vec![first];
        batch.extend(ended.try_iter().take(WRITE));
        let rows = batch.iter().map(|e| (e.action, e.finish.clone())).collect();
        while let Err(why) =
            shared
                .catalog
                .finish_actions(Vec::clone(&rows), shared.now(), Durability::Relaxed)
        {
            tracing::error!(%why, "ends of actions could not be written; tried again");
            if shared.stopping() {
                return;
            }
            std::thread::sleep(Duration::from_secs(1));
        }
        let mut requests = HashSet::new();
        for end in batch {
            shared.lanes.forget(end.action);
            requests.insert(end.request);
        }
        for request in requests {
            shared.changed(request);
        }
        shared.bell.ring();
    }
}
