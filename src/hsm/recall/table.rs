//! The table of recalls: who joins which, who is admitted, who goes next, how each ends.

use super::finish::GiveBack;
use super::lane::{Job, Lane, Urgency};
use super::nearness::Paces;
use super::one::{Answer, Charge, Phase, Recall, State, Waiter};
use super::progress::Standing;
use super::{Asks, Done, RecallError, Settings, begin, fetch, finish};
use crate::hsm::backing::Backing;
use crate::hsm::index_cache::IndexCache;
use crate::id::{NodeHandle, TierId};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What all recalls share.
pub(super) struct Shared {
    pub(super) backing: Arc<Backing>,
    pub(super) asks: Arc<dyn Asks>,
    pub(super) indexes: Arc<IndexCache>,
    pub(super) settings: Settings,
    pub(super) table: Mutex<Table>,
    /// Reads of the backing and openings.
    pub(super) disk: Arc<Lane>,
    /// Work that waits for fsync.
    pub(super) sync: Arc<Lane>,
    /// Questions to those above that may wait for a database.
    pub(super) vouching: Arc<Lane>,
    /// Of each tier that of recalls with a seat at a drive, and that of all others: those may wait for a
    /// drive that these have.
    tiers: Mutex<HashMap<(TierId, Post), Arc<Lane>>>,
    tokens: AtomicU64,
    pub(super) refused: super::adoption::Refused,
    /// What reads of tiers took of late.
    pub(super) paces: Arc<Mutex<Paces>>,
    /// What is being restored. Locked after the table and a recall's state.
    pub(super) thaws: Mutex<super::thaw::Thaws>,
    #[cfg(test)]
    pub(super) halt_after: Mutex<Option<super::Step>>,
    #[cfg(test)]
    pub(super) fail_after: Mutex<Option<super::Step>>,
}

/// Who is recalled and who waits for a turn.
#[derive(Default)]
pub(super) struct Table {
    pub(super) recalls: HashMap<NodeHandle, Arc<Recall>>,
    tokens: HashMap<u64, NodeHandle>,
    /// Nodes on which no recall may begin: about to be truncated. With the number of holders.
    held: HashMap<NodeHandle, u32>,
    hold_tokens: HashMap<u64, NodeHandle>,
    staging: usize,
    by_user: HashMap<u32, usize>,
    stage_queue: VecDeque<NodeHandle>,
    user_queues: HashMap<u32, VecDeque<NodeHandle>>,
    later: Vec<(Instant, Job)>,
    /// Recalls that were asked for, and those of them that a reader waited for.
    pub(super) begun: (u64, u64),
}

/// How a recall ends.
pub(super) enum End {
    /// The data are on disk.
    Resident(Option<Done>),
    /// Nobody gets anything.
    Failed(RecallError),
    /// It stopped; who still waits starts over.
    Again,
}

impl Table {
    pub(super) fn may_begin(
        &mut self,
        recall: &Recall,
        state: &mut State,
        settings: &Settings,
    ) -> bool {
        if state.phase != Phase::Queued || self.held.contains_key(&recall.node) {
            return false;
        }
        if !self.has_room(state.charge, settings) {
            return false;
        }
        self.charge(state);
        true
    }

    /// May one more begin?
    fn has_room(&self, charge: Charge, settings: &Settings) -> bool {
        let (used, most) = match charge {
            Charge::Stage => (self.staging, settings.files),
            Charge::User(uid) => {
                let used = self.by_user.get(&uid).copied();
                (used.unwrap_or(0), settings.implicit_per_user)
            }
        };
        used < most.max(1)
    }

    pub(super) fn queue(&mut self, node: &NodeHandle, charge: Charge) {
        match charge {
            Charge::Stage => self.stage_queue.push_back(node.clone()),
            Charge::User(uid) => {
                let queue = self.user_queues.entry(uid).or_default();
                queue.push_back(node.clone());
            }
        }
    }

    pub(super) fn uncharge(&mut self, charge: Charge) {
        match charge {
            Charge::Stage => self.staging = self.staging.saturating_sub(1),
            Charge::User(uid) => {
                if let Some(used) = self.by_user.get_mut(&uid) {
                    *used = used.saturating_sub(1);
                    if *used == 0 && !self.user_queues.contains_key(&uid) {
                        self.by_user.remove(&uid);
                    }
                }
            }
        }
    }

    /// A recall begins whether or not there is room for it.
    pub(super) fn charge(&mut self, state: &mut State) {
        match state.charge {
            Charge::Stage => self.staging += 1,
            Charge::User(uid) => *self.by_user.entry(uid).or_default() += 1,
        }
        state.admitted = true;
        state.phase = Phase::Beginning;
    }

    /// Nothing was begun for those who waited: of ten thousand readers that are killed, or have waited
    /// for too long, while it is not their turn yet, no recall remains.
    fn end_unwanted(&mut self, recall: &Recall, state: &mut State) {
        let waits = matches!(state.phase, Phase::Queued | Phase::Parked);
        if waits && state.waiters.is_empty() {
            state.phase = Phase::Ended;
            state.leave_drive();
            self.recalls.remove(&recall.node);
        }
    }

    /// The next in the queue that `charge` made room in.
    fn next_in_line(&mut self, charge: Charge, settings: &Settings) -> Option<Arc<Recall>> {
        loop {
            // Those that were called at a desk began without asking.
            if !self.has_room(charge, settings) {
                return None;
            }
            let node = match charge {
                Charge::Stage => self.stage_queue.pop_front()?,
                Charge::User(uid) => {
                    let queue = self.user_queues.get_mut(&uid)?;
                    let Some(node) = queue.pop_front() else {
                        self.user_queues.remove(&uid);
                        return None;
                    };
                    node
                }
            };
            let Some(recall) = self.recalls.get(&node).cloned() else {
                continue;
            };
            let mut state = recall.state.lock();
            if state.charge == charge && self.may_begin(&recall, &mut state, settings) {
                drop(state);
                return Some(recall);
            }
        }
    }
}

impl Shared {
    pub(super) fn new(
        backing: Arc<Backing>,
        asks: Arc<dyn Asks>,
        indexes: Arc<IndexCache>,
        settings: Settings,
    ) -> Self {
        Self {
            backing,
            asks,
            indexes,
            disk: Lane::new("cairn-disk".into(), settings.disk_workers),
            sync: Lane::new("cairn-sync".into(), settings.disk_workers),
            vouching: Lane::new("cairn-vouch".into(), settings.disk_workers),
            settings,
            table: Mutex::default(),
            tiers: Mutex::default(),
            tokens: AtomicU64::new(1),
            refused: super::adoption::Refused::default(),
            paces: Arc::default(),
            thaws: Mutex::default(),
            #[cfg(test)]
            halt_after: Mutex::new(None),
            #[cfg(test)]
            fail_after: Mutex::new(None),
        }
    }

    pub(super) fn token(&self) -> u64 {
        self.tokens.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn tier_lane(&self, tier: TierId, post: Post) -> Arc<Lane> {
        let mut lanes = self.tiers.lock();
        let lane = lanes.entry((tier, post)).or_insert_with(|| {
            // Those with a seat share its drive with few; other drives' wait for none of them.
            let desk = self.asks.desk(tier).filter(|_| post == Post::Seated);
            let drives = desk.map_or(1, |desk| desk.drives());
            Lane::new(
                format!("cairn-t{tier}"),
                self.settings.tier_workers.saturating_mul(drives),
            )
        });
        Arc::clone(lane)
    }

    pub(super) fn lanes(&self) -> Vec<Arc<Lane>> {
        let mut all: Vec<_> = self.tiers.lock().values().cloned().collect();
        all.push(Arc::clone(&self.disk));
        all.push(Arc::clone(&self.sync));
        all.push(Arc::clone(&self.vouching));
        all
    }

    /// A waiter joins the recall of a file, or starts it.
    pub(super) fn join(
        self: &Arc<Self>,
        node: &NodeHandle,
        hint: Option<Vec<u8>>,
        charge: Charge,
        waiter: Waiter,
    ) {
        let now = Instant::now();
        let (recall, answers, begin) = {
            let mut table = self.table.lock();
            let token = waiter.token;
            table.tokens.insert(token, node.clone());
            let fresh = !table.recalls.contains_key(node);
            let recall = table
                .recalls
                .entry(node.clone())
                .or_insert_with(|| Arc::new(Recall::new(node.clone(), hint, charge, now)));
            let recall = Arc::clone(recall);
            let mut state = recall.state.lock();
            let read = waiter.wait.is_implicit() && !state.implicit;
            table.begun.0 += u64::from(fresh);
            table.begun.1 += u64::from(read);
            let comes_first = state.charge == Charge::Stage && waiter.wait.is_implicit();
            let promoted = comes_first && state.phase == Phase::Queued;
            if promoted {
                state.charge = charge;
            }
            if let Some(parked) = state.parked.as_ref().filter(|_| comes_first) {
                parked.raise();
                state.charge = charge;
            }
            state.used = now;
            state.implicit |= waiter.wait.is_implicit();
            state.waiters.insert(token, waiter);
            let mut begin = false;
            if fresh || promoted {
                begin = table.may_begin(&recall, &mut state, &self.settings);
                if !begin {
                    table.queue(node, state.charge);
                }
            }
            let answers = state.register(token);
            drop(state);
            (recall, answers, begin)
        };
        if begin {
            self.begin(&recall);
        } else {
            self.go_on(&recall);
        }
        self.deliver(&recall, answers);
    }

    /// The next that may begin where somebody made room.
    pub(super) fn next_in_line(&self, charge: Charge) -> Option<Arc<Recall>> {
        self.table.lock().next_in_line(charge, &self.settings)
    }

    pub(super) fn begin(self: &Arc<Self>, recall: &Arc<Recall>) {
        let urgency = urgency(&recall.state.lock());
        let (shared, recall) = (Arc::clone(self), Arc::clone(recall));
        self.disk
            .push(urgency, Box::new(move || begin::open(&shared, &recall)));
    }

    /// Does `job` some time after `when`.
    pub(super) fn later(&self, when: Instant, job: Job) {
        self.table.lock().later.push((when, job));
    }

    /// Somebody gave up, or a hold is given back.
    pub(super) fn give_up(self: &Arc<Self>, token: u64) {
        let mut table = self.table.lock();
        if let Some(node) = table.hold_tokens.remove(&token) {
            drop(table);
            self.unhold(&node);
            return;
        }
        let node = table.tokens.remove(&token);
        let Some(recall) = node.and_then(|n| table.recalls.get(&n).cloned()) else {
            return;
        };
        let waiter = {
            let mut state = recall.state.lock();
            if let Some(progress) = &mut state.progress {
                progress.give_up(token);
            }
            let waiter = state.waiters.remove(&token);
            table.end_unwanted(&recall, &mut state);
            waiter
        };
        drop(table);
        drop(waiter);
        self.go_on(&recall);
    }

    /// No recall of `node` runs when this returns, and none begins until [`Self::unhold`].
    pub(super) fn hold(self: &Arc<Self>, node: &NodeHandle, token: Option<u64>) {
        let recall = {
            let mut table = self.table.lock();
            *table.held.entry(node.clone()).or_default() += 1;
            if let Some(token) = token {
                table.hold_tokens.insert(token, node.clone());
            }
            table.recalls.get(node).cloned()
        };
        let Some(recall) = recall else { return };
        recall.stop.store(true, Ordering::Release);
        // Waits for a change to the file that is being made; later ones see `stop`.
        drop(recall.io.lock().take());
        self.unpark(&recall);
        if recall.state.lock().phase == Phase::Queued {
            recall.stop.store(false, Ordering::Release);
        } else {
            self.end(&recall, End::Again);
        }
    }

    /// All holds that tokens name on `node` are over with its truncation.
    pub(super) fn forget_hold_tokens(&self, node: &NodeHandle) -> u32 {
        let mut table = self.table.lock();
        let before = table.hold_tokens.len();
        table.hold_tokens.retain(|_, held| held != node);
        u32::try_from(before - table.hold_tokens.len()).unwrap_or(0)
    }

    /// Ends a hold; who came meanwhile begins.
    pub(super) fn unhold(self: &Arc<Self>, node: &NodeHandle) {
        let begin = {
            let mut table = self.table.lock();
            match table.held.get_mut(node) {
                Some(count) if *count > 1 => {
                    *count -= 1;
                    return;
                }
                _ => table.held.remove(node),
            };
            table.recalls.get(node).cloned().filter(|recall| {
                let mut state = recall.state.lock();
                let begins = table.may_begin(recall, &mut state, &self.settings);
                if !begins && state.phase == Phase::Queued {
                    table.queue(node, state.charge);
                }
                begins
            })
        };
        if let Some(recall) = begin {
            self.begin(&recall);
        }
    }

    /// Looks where the recall stands and queues what is next. Called after every change, with no
    /// lock held.
    pub(super) fn go_on(self: &Arc<Self>, recall: &Arc<Recall>) {
        let mut state = recall.state.lock();
        if state.phase != Phase::Running {
            return;
        }
        let urgency = urgency(&state);
        let Some(progress) = &mut state.progress else {
            return;
        };
        match progress.standing() {
            Standing::Idle | Standing::Damaged => state.leave_drive(),
            Standing::Working => {
                let slot = usize::from(!progress.is_urgent());
                if state.tickets[slot] == 0 {
                    self.ticket(recall, &mut state, slot);
                }
            }
            Standing::Complete => {
                state.phase = Phase::Finishing;
                state.leave_drive();
                drop(state);
                let (shared, recall) = (Arc::clone(self), Arc::clone(recall));
                self.sync
                    .push(urgency, Box::new(move || finish::finish(&shared, &recall)));
            }
            Standing::Unwanted => {
                drop(state);
                // Who joins in this instant starts over.
                self.stop(recall, GiveBack::AndEnd(End::Again));
            }
        }
    }

    /// Stops fetching, gives the room back and ends the recall.
    pub(super) fn stop(self: &Arc<Self>, recall: &Arc<Recall>, how: GiveBack) {
        {
            let mut state = recall.state.lock();
            if state.phase != Phase::Running && state.phase != Phase::Beginning {
                return;
            }
            state.phase = Phase::Finishing;
            // Who joins from here on waits for the end and then starts over.
            state.progress = None;
            state.leave_drive();
        }
        let (shared, recall) = (Arc::clone(self), Arc::clone(recall));
        let job = Box::new(move || finish::give_back(&shared, &recall, how));
        self.sync.push(Urgency::Reader, job);
    }

    /// Queues one more ticket: a worker that comes and sees what is next.
    pub(super) fn ticket(self: &Arc<Self>, recall: &Arc<Recall>, state: &mut State, slot: usize) {
        let Some(sources) = &state.sources else {
            return;
        };
        let post = match state.seat {
            Some(_) => Post::Seated,
            None if sources.in_parts() => Post::Turns,
            None => Post::Unseated,
        };
        let lane = self.tier_lane(sources.primary_tier(), post);
        state.tickets[slot] += 1;
        let urgency = [Urgency::Reader, Urgency::Background][slot];
        let (shared, recall) = (Arc::clone(self), Arc::clone(recall));
        lane.push(
            urgency,
            Box::new(move || fetch::ticket(&shared, &recall, slot)),
        );
    }

    /// Takes the recall out of the table and answers all who still wait.
    pub(super) fn end(self: &Arc<Self>, recall: &Arc<Recall>, end: End) {
        let (waiters, served, charge, next) = {
            let mut table = self.table.lock();
            let mut state = recall.state.lock();
            if state.phase == Phase::Ended {
                return;
            }
            state.phase = Phase::Ended;
            state.progress = None;
            state.leave_drive();
            state.memory.clear();
            let charge = state.charge;
            let admitted = std::mem::take(&mut state.admitted);
            let waiters: Vec<_> = std::mem::take(&mut state.waiters).into_values().collect();
            let served = state.reader.is_some();
            drop(state);
            if table
                .recalls
                .get(&recall.node)
                .is_some_and(|r| Arc::ptr_eq(r, recall))
            {
                table.recalls.remove(&recall.node);
            }
            let mut next = None;
            if admitted {
                table.uncharge(charge);
                next = table.next_in_line(charge, &self.settings);
            }
            (waiters, served, charge, next)
        };
        if let Some(next) = next {
            self.begin(&next);
        }
        let mut answers = Vec::new();
        for waiter in waiters {
            match &end {
                End::Again => self.join(&recall.node, recall.hint.clone(), charge, waiter),
                End::Failed(why) => answers.push(waiter.fail(why.clone())),
                End::Resident(done) => answers.push(waiter.resident(done.as_ref(), served)),
            }
        }
        self.deliver(recall, answers);
    }

    /// Forgets tokens of waits that are over.
    pub(super) fn forget(&self, tokens: impl Iterator<Item = u64>) {
        let mut table = self.table.lock();
        for token in tokens {
            table.tokens.remove(&token);
        }
    }

    /// Time passes: ends waits that took too long and recalls that linger, does what is due.
    pub(super) fn tick(self: &Arc<Self>, now: Instant) {
        let (due, recalls) = {
            let mut table = self.table.lock();
            let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut table.later)
                .into_iter()
                .partition(|(when, _)| *when <= now);
            table.later = later;
            let recalls: Vec<_> = table.recalls.values().cloned().collect();
            (due, recalls)
        };
        for (_, job) in due {
            self.disk.push(Urgency::Reader, job);
        }
        for recall in recalls {
            let (late, lingers) = self.overdue(&recall, now);
            self.deliver(&recall, late);
            if lingers {
                self.stop(&recall, GiveBack::AndEnd(End::Again));
            } else {
                self.go_on(&recall);
            }
        }
    }

    fn overdue(&self, recall: &Recall, now: Instant) -> (Vec<Answer>, bool) {
        let mut table = self.table.lock();
        let mut state = recall.state.lock();
        let late: Vec<_> = state
            .waiters
            .values()
            .filter(|w| w.deadline.is_some_and(|d| d <= now))
            .map(|w| w.token)
            .collect();
        let mut answers = Vec::new();
        for token in &late {
            if let Some(progress) = &mut state.progress {
                progress.give_up(*token);
            }
            if let Some(waiter) = state.waiters.remove(token) {
                answers.push(waiter.fail(RecallError::TimedOut));
            }
        }
        if !late.is_empty() {
            table.end_unwanted(recall, &mut state);
        }
        drop(table);
        let idle = state.phase == Phase::Running
            && state.waiters.is_empty()
            && now.saturating_duration_since(state.used) >= self.settings.linger
            && state
                .progress
                .as_ref()
                .is_some_and(|p| matches!(p.standing(), Standing::Idle | Standing::Damaged));
        (answers, idle)
    }
}

/// Whose workers of a tier read for a recall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Post {
    /// It has no seat at a drive, and needs none.
    Unseated,
    /// It has one.
    Seated,
    /// Its file is in parts, and each waits for a turn of its own: whoever waits keeps nobody else's
    /// workers.
    Turns,
}

/// Does a user wait for this file?
pub(super) fn urgency(state: &State) -> Urgency {
    if state.waiters.values().any(|w| w.wait.is_implicit()) {
        Urgency::Reader
    } else {
        Urgency::Background
    }
}
