//! Starting and stopping: what is claimed in which order, which threads run, and what a stop
//! leaves behind.

use super::policy::InForce;
use super::rebuild::EpochError;
use super::{
    Bell, Engine, EngineError, Late, Settings, Shared, Slot, asks, changelog, expand, heal, lanes,
    now, policy, room, scan, scrub, snapshots,
};
use crate::catalog::{self, Catalog, Identity, Start};
use crate::error::Failure;
use crate::hsm::backing::{Backing, Mark, MarkGuard, SealKey, life_of, this_boot};
use crate::hsm::index_cache::IndexCache;
use crate::hsm::index_store::IndexStore;
use crate::hsm::recall::Recaller;
use crate::hsm::residency::ChangelogSink;
use crate::hsm::schedule::Limits;
use crate::hsm::state_dir::{StateDir, StateError};
use crate::hsm::version::Settle;
use crate::id::TierId;
use crate::tier::retry::{Attempts, Retry};
use crate::tier::{OpenHow, TierUrl, open as open_tier};
use crossbeam_channel::Receiver;
use parking_lot::Mutex;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Memory for decoded indexes, bytes.
const INDEX_MEMORY: usize = 256 << 20;
/// Events of the mount that may wait to be applied.
const CHANGELOG: usize = 1 << 16;
/// Heartbeat of the mark on the backing.
const BEAT: Duration = Duration::from_secs(30);
/// Most files of one dispatch to the recall lane.
const BATCH: usize = 64;
/// Slots of the recall lane where there is tape: files that wait for a drive hold theirs.
const TAPE_SLOTS: usize = 256;
/// How long a stop waits for tiers that read for a recall.
const RECALL_PATIENCE: Duration = Duration::from_secs(5);
/// And for undeletes, which read from tiers.
const UNDELETE_PATIENCE: Duration = Duration::from_secs(5);
/// And for the engine's own threads, which may be inside a tier that does not answer.
const THREAD_PATIENCE: Duration = Duration::from_secs(5);
/// How often the changelog and due settle checks are looked at.
const TICK: Duration = Duration::from_millis(100);

/// What to open.
pub struct Opening {
    /// The backing directory.
    pub backing: PathBuf,
    /// The same directory as the users' mount namespace has it.
    pub outside: PathBuf,
    /// The state directory.
    pub state: PathBuf,
    /// Take the backing over from another host whose mark is fresh.
    pub force: bool,
    /// Room kept back in the state directory, and at most as much on the backing (P13), bytes.
    pub ballast: u64,
}

/// What was opened and is this process' alone: state, backing, catalog.
pub struct Claimed {
    /// The state directory.
    pub state: StateDir,
    /// The backing directory.
    pub backing: Arc<Backing>,
    /// The backing was served before, and there was no catalog: this one is new.
    pub catalog_was_gone: bool,
    /// The catalog is being built anew, and that was cut short.
    pub rebuild_is_open: bool,
    catalog: Catalog,
    incarnation: catalog::Incarnation,
    mark: MarkGuard,
    reserve: room::Reserve,
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum Startup {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The engine's rooms.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A tier.
    #[error("tier {name}: {source}")]
    Tier {
        /// Its name.
        name: String,
        /// Why.
        source: crate::tier::TierError,
    },
    /// A tier's URL.
    #[error("tier {name}: {source}")]
    Url {
        /// Its name.
        name: String,
        /// What is wrong with it.
        source: crate::tier::UrlError,
    },
    /// A thread.
    #[error("starting a thread: {0}")]
    Thread(std::io::Error),
}

impl From<catalog::CatalogError> for Startup {
    fn from(why: catalog::CatalogError) -> Self {
        Self::Engine(why.into())
    }
}
impl From<crate::hsm::backing::BackingError> for Startup {
    fn from(why: crate::hsm::backing::BackingError) -> Self {
        Self::Engine(why.into())
    }
}

/// Claims state and backing for this process.
///
/// # Errors
/// [`Startup`]: another instance, a newer version, a backing that lacks what is needed. Nothing of
/// another instance was changed.
pub fn claim(opening: &Opening) -> Result<Claimed, Startup> {
    let claimed = claim_with(opening, |state| Ok(state.check_catalog_in_place()?))?;
    let cut_short = claimed.catalog.has_revivals()?;
    if !claimed.incarnation.after_clean_stop || cut_short {
        // What the mount told of and what was not yet applied went with the process. The mark
        // outlives this process, too, until a scan that began after it is at its end.
        claimed.catalog.need_rescan(vec![catalog::Rescan {
            node: catalog::NodeId::ROOT,
            since: now(),
            why: if cut_short {
                "an undelete was cut short".to_owned()
            } else {
                "the last stop was not a clean one".to_owned()
            },
        }])?;
    }
    Ok(claimed)
}

/// As [`claim`], without the mark that asks for a scan. `prepare`: before the catalog is opened, of
/// which it sees to it that it may be; backing and state are this process's by then.
pub(super) fn claim_with(
    opening: &Opening,
    prepare: impl FnOnce(&StateDir) -> Result<(), Startup>,
) -> Result<Claimed, Startup> {
    let unfinished = crate::hsm::restore::is_unfinished(&opening.backing).map_err(
        EngineError::io("looking whether a restore of the backing is unfinished"),
    )?;
    if unfinished.is_some() {
        let at = opening.backing.display();
        let why = EngineError::refused(
            Failure::Conflict,
            format!("a restore into {at} is not finished"),
        );
        let hint = format!("give the same command again: cairn restore --tier URL --to {at}");
        return Err(why.hint(hint).into());
    }
    let old = Backing::mark_of(&opening.backing)?;
    let state = StateDir::open(&opening.state, old.as_ref().map(|m| m.fs))?;
    // It is this process's now, and what follows is to be written.
    room::make_way(&state, opening.ballast).map_err(EngineError::io(
        "looking how full the state directory's disk is",
    ))?;
    let seal = SealKey(state.seal_key()?);
    let backing = Backing::open(&opening.backing, state.fs, Some(seal))?;
    let (host, boot) = this_boot().map_err(EngineError::io("reading this boot's id"))?;
    let started = now();
    let mark = Mark {
        fs: state.fs,
        instance: state.instance,
        host,
        pid: std::process::id(),
        boot: boot.clone(),
        epoch: old.as_ref().map_or(0, |m| m.epoch),
        started: started.sec,
        heartbeat: started.sec,
        state: Some(state.path().to_owned()),
    };
    // The lock first: what another instance has is not even read further.
    let guard = backing.claim(mark.clone(), started.sec, opening.force)?;
    let reserve = room::Reserve::lay(backing.root(), &state, opening.ballast)
        .map_err(EngineError::io("keeping room in reserve"))?;
    let identity = Identity {
        instance: state.instance,
        fs: state.fs,
    };
    prepare(&state)?;
    let served = old.is_some_and(|m| m.epoch > 0);
    let catalog_was_gone = served && !Catalog::is_there(&state.catalog())?;
    let catalog = Catalog::open(&state.catalog(), identity)?;
    let incarnation = catalog.begin_incarnation(Start {
        boot: life_of(&opening.outside, &boot),
        epoch_above: mark.epoch,
        now: started,
    })?;
    let rebuild = catalog.rebuild_state()?;
    let rebuild_is_open = rebuild.is_some_and(|state| state.finished_at.is_none());
    let mut guard = guard;
    guard.set_epoch(incarnation.epoch)?;
    Ok(Claimed {
        state,
        backing: Arc::new(backing),
        catalog_was_gone,
        rebuild_is_open,
        catalog,
        incarnation,
        mark: guard,
        reserve,
    })
}

impl Claimed {
    pub(super) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Opens the tiers by name and URL, in that order. What a tier holds that this state directory
    /// never saw may carry any epoch: names are given above it (P9).
    ///
    /// # Errors
    /// [`Startup::Url`], [`Startup::Tier`].
    pub fn open_tiers(&mut self, tiers: &[(String, String)]) -> Result<Vec<Slot>, Startup> {
        let known = self.catalog.tiers()?;
        let mut opened = Vec::new();
        let mut highest = 0;
        for (name, url) in tiers {
            let parsed: TierUrl = url.parse().map_err(|source| Startup::Url {
                name: name.clone(),
                source,
            })?;
            let row = known.iter().find(|t| t.name == *name);
            let how = match row {
                Some(row) => OpenHow::known(self.state.instance, row.id),
                None => OpenHow::new(self.state.instance, number_for(&parsed, &known)),
            };
            let fail = |source| Startup::Tier {
                name: name.clone(),
                source,
            };
            // In a place that is made a tier now nothing can have a name, and nobody waits for a slow one. One that the
            // catalog knows is not asked at all: whatever hangs there, users are served.
            // One behind a mover looks itself, when it is there: it takes nothing if it holds what nobody here knows.
            let looks_itself = matches!(parsed, TierUrl::Mover { .. });
            let may_hold =
                row.is_none() && !looks_itself && crate::tier::is_there(&parsed).unwrap_or(true);
            let tier = open_tier(&parsed, how).map_err(fail)?;
            if may_hold {
                let base = self.incarnation.epoch;
                let mut tell = |what: String| tracing::warn!("tier {name}: {what}");
                let fs = self.backing.fs();
                let found = super::rebuild::highest_epoch(&*tier, fs, base, &mut tell);
                highest = highest.max(found.map_err(|why| {
                    match why {
                        EpochError::Tier(why) => fail(why),
                        many @ EpochError::TooMany => {
                            EngineError::refused(Failure::Conflict, format!("tier {name}: {many}"))
                                .into()
                        }
                    }
                })?);
            }
            opened.push((name, tier));
        }
        // Before a row says that a tier was seen.
        if highest >= self.incarnation.epoch
            && let Some(raised) = self.catalog.begin_above(highest)?
        {
            self.incarnation = raised;
            self.mark.set_epoch(raised.epoch)?;
        }
        let mut slots: Vec<Slot> = Vec::new();
        for (name, tier) in opened {
            let (mark, about) = (tier.mark(), tier.describe());
            self.catalog.set_tier(catalog::TierRow {
                id: mark.tier,
                name: name.clone(),
                url: about.url.clone(),
                kind: about.kind.as_str().into(),
                owner: mark.owner,
            })?;
            let tier = Arc::new(Retry::new(tier, Attempts::default()));
            slots.push(Slot::new(name.clone(), mark.tier, about.url, tier));
        }
        Ok(slots)
    }

    /// Starts the engine. Its gate comes later ([`Engine::attach`]): until then nothing is
    /// released.
    ///
    /// # Errors
    /// [`Startup`].
    pub fn start(
        self,
        tiers: Vec<Slot>,
        settings: Settings,
        policy: (String, String, cairn_policies::Policy),
    ) -> Result<(Engine, StateDir), Startup> {
        let (still, (ends, due)) = self.share(tiers, settings, policy)?;
        let Still {
            shared,
            mark,
            state,
        } = still;
        let answers = Arc::new(asks::Answers(Arc::downgrade(&shared)));
        let store = IndexStore::open(&state.indexes(), shared.settings.index_bytes).map_err(
            EngineError::io("opening the indexes in the state directory"),
        )?;
        let indexes = IndexCache::with_store(INDEX_MEMORY, Some(Arc::new(store)));
        let indexes = Arc::new(indexes);
        let recall = shared.settings.recall.clone();
        let recaller = Recaller::start(shared.backing.clone(), answers, indexes, recall)
            .map_err(Startup::Thread)?;
        let _ = shared.late.recaller.set(Arc::new(recaller));
        let engine = Engine {
            shared,
            threads: Mutex::new(Vec::new()),
            mark: Mutex::new(Some(mark)),
            abandoned: AtomicBool::new(false),
        };
        engine.start_threads(ends, due)?;
        engine.shared.resume_expansion()?;
        Ok((engine, state))
    }

    /// What the threads share, before there are any.
    pub(super) fn share(
        self,
        tiers: Vec<Slot>,
        settings: Settings,
        policy: (String, String, cairn_policies::Policy),
    ) -> Result<(Still, (lanes::Ends, Receiver<Settle>)), Startup> {
        let (settles, due) = crossbeam_channel::unbounded();
        let desks = super::desks::Desks::of(&tiers);
        let usual = Limits::default();
        let limits = Limits {
            // What is asked of tape waits at its desk, which puts in order what it sees.
            recall_slots: if desks.is_empty() {
                usual.recall_slots
            } else {
                TAPE_SLOTS
            },
            window: if desks.is_empty() {
                usual.window
            } else {
                TAPE_SLOTS * BATCH
            },
            archive_slots: settings.archive_workers.max(1),
            release_slots: settings.release_workers.max(1),
            pack_bytes: settings.aggregate_bytes,
            pack_members: settings.aggregate_members,
            batch: BATCH,
            verify_batch: settings.aggregate_members,
            sealing: lanes::sealing(&tiers),
            tiers: lanes::kept_from_all(&tiers, settings.archive_workers),
            ..usual
        };
        let (lanes, ends) = lanes::Lanes::new(limits);
        self.catalog.recover_actions(now())?;
        let opens = crate::hsm::emergency::Room::new(settings.emergency_wait);
        let shared = Arc::new(Shared {
            catalog: self.catalog,
            backing: self.backing,
            desks,
            tiers,
            settings,
            incarnation: self.incarnation,
            policy: Mutex::new(InForce::new(policy.0, policy.1, policy.2)),
            changelog: Arc::new(ChangelogSink::new(CHANGELOG)),
            late: Late::default(),
            bell: Bell::default(),
            stop: AtomicBool::new(false),
            settles,
            expander: expand::Expander::new(),
            budgets: super::budget::Budgets::default(),
            applying: AtomicU64::new(0),
            drain: Mutex::new(()),
            lanes,
            room: Arc::new(opens),
            reserve: self.reserve,
            parts: expand::Parts::default(),
            wakes: Mutex::new(Vec::new()),
            believed: crate::hsm::vouch::Believed::default(),
            covered: super::covered::Covered::default(),
            refused: Default::default(),
            undeleting: Default::default(),
            desk: Default::default(),
            media: Default::default(),
            lost_ears: Mutex::default(),
            composing: Default::default(),
            proof: Default::default(),
            started: now(),
        });
        let still = Still {
            shared,
            mark: self.mark,
            state: self.state,
        };
        Ok((still, (ends, due)))
    }
}

/// An engine without threads.
pub(super) struct Still {
    pub(super) shared: Arc<Shared>,
    pub(super) mark: MarkGuard,
    pub(super) state: StateDir,
}

/// The number of a tier that is new here.
pub(super) fn number_for(url: &TierUrl, known: &[catalog::TierRow]) -> TierId {
    let own = url.number();
    let own = own.filter(|number| known.iter().all(|t| t.id != *number));
    own.unwrap_or_else(|| fresh_tier(known))
}

pub(super) fn fresh_tier(known: &[catalog::TierRow]) -> TierId {
    loop {
        let random = crate::id::InstanceId::random().0;
        let id = u32::from_le_bytes([random[0], random[1], random[2], random[3]]);
        if id != 0 && known.iter().all(|t| t.id.0 != id) {
            return TierId(id);
        }
    }
}

impl Engine {
    fn start_threads(&self, ends: lanes::Ends, due: Receiver<Settle>) -> Result<(), Startup> {
        super::tree::note_root(&self.shared)?;
        scan::doubt_what_was_left(&self.shared)?;
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        let mut spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new()
                .name(format!("cairn-{name}"))
                .spawn(work)
                .map_err(EngineError::io("starting a thread"))?;
            threads.push(thread);
            Ok(())
        };
        lanes::start(&self.shared, ends, &mut spawn)?;
        for _ in 0..expand::THREADS {
            for queue in [expand::Queue::Stages, expand::Queue::Others] {
                let shared = self.shared.clone();
                spawn("expand", Box::new(move || expand::work(&shared, queue)))?;
            }
        }
        let shared = self.shared.clone();
        spawn("wishes", Box::new(move || expand::grant_wishes(&shared)))?;
        let shared = self.shared.clone();
        spawn("policy", Box::new(move || policy::work(&shared)))?;
        let shared = self.shared.clone();
        spawn("scan", Box::new(move || scan::work(&shared)))?;
        for slot in &self.shared.tiers {
            let (shared, tier) = (self.shared.clone(), slot.id);
            spawn("scrub", Box::new(move || scrub::work(&shared, tier)))?;
        }
        for desk in self.shared.desks.all() {
            for (name, work) in desk.work() {
                spawn(&name, work)?;
            }
        }
        let shared = self.shared.clone();
        spawn("heal", Box::new(move || heal::work(&shared)))?;
        let shared = self.shared.clone();
        spawn("reclaim", Box::new(move || super::reclaim::work(&shared)))?;
        let shared = self.shared.clone();
        spawn("media", Box::new(move || super::media::work(&shared)))?;
        let shared = self.shared.clone();
        spawn("snapshot", Box::new(move || snapshots::work(&shared)))?;
        let shared = self.shared.clone();
        spawn("room", Box::new(move || room::work(&shared)))?;
        let shared = self.shared.clone();
        spawn("sieve", Box::new(move || sieve_work(&shared)))?;
        let shared = self.shared.clone();
        spawn("changelog", Box::new(move || changelog_work(&shared)))?;
        let shared = self.shared.clone();
        spawn(
            "settle",
            Box::new(move || super::settling::work(&shared, &due)),
        )?;
        self.threads.lock().extend(threads);
        Ok(())
    }

    /// The mount is there: from now on files can be released.
    pub fn attach(&self, gate: Arc<dyn cairn_fuse::Gate>) {
        let _ = self.shared.late.gate.set(gate);
        self.shared.bell.ring();
    }

    /// What recalls ask, for the mount's residency.
    #[must_use]
    pub fn asks(&self) -> Arc<dyn crate::hsm::recall::Asks> {
        Arc::new(asks::Answers(Arc::downgrade(&self.shared)))
    }

    /// The recaller, for the mount's residency.
    #[must_use]
    pub fn recaller(&self) -> Option<Arc<Recaller>> {
        self.shared.late.recaller.get().cloned()
    }

    /// Where opens for writing wait, for the mount's residency.
    #[must_use]
    pub fn opens(&self) -> Arc<crate::hsm::emergency::Room> {
        self.shared.room.clone()
    }

    /// Where the mount's events go.
    #[must_use]
    pub fn changelog(&self) -> Arc<ChangelogSink> {
        self.shared.changelog.clone()
    }

    /// Keeps the mark on the backing fresh; call every half minute.
    pub fn beat(&self) {
        if let Some(mark) = &mut *self.mark.lock()
            && let Err(why) = mark.beat(now().sec)
        {
            tracing::warn!(%why, "the heartbeat could not be written");
        }
    }

    /// How often to call [`Engine::beat`].
    pub const BEAT: Duration = BEAT;

    /// Stops all threads; what was running is queued again. After the mount is gone. `quiet`: it
    /// went in good order and nobody can be writing to the backing any more; else the stop does not
    /// count as a clean one, and after another boot every recorded version is suspect (P1).
    ///
    /// # Errors
    /// What the last writes met: the next start then takes every recorded version as suspect.
    pub fn stop(&self, quiet: bool) -> Result<(), EngineError> {
        // First: a seat for a recall that will not run would keep a drive from the last snapshot. Whoever asks from
        // here on gets none, at once.
        self.shared.desks.stop();
        // Recalls write into the backing: they end before it is synced, or the stop is no clean one.
        let idle = self
            .shared
            .recaller()
            .is_none_or(|r| r.halt(RECALL_PATIENCE));
        if !idle {
            tracing::warn!("a tier still reads for a recall; the process ends without it");
            self.abandoned.store(true, Ordering::Release);
        }
        let mut quiet = quiet && idle;
        // They make files: before what the mount told is taken down for the last time.
        if !self.shared.undeleting.halt(UNDELETE_PATIENCE) {
            tracing::warn!("a tier still reads for an undelete; the process ends without it");
            self.abandoned.store(true, Ordering::Release);
            quiet = false;
        }
        // What was lost must be marked before the stop may be called a clean one.
        let marked = self
            .shared
            .drain_changelog()
            .and_then(|()| changelog::rescan_overflows(&self.shared));
        if let Err(why) = marked {
            tracing::error!(%why, "events of the mount are not in the catalog");
            quiet = false;
        }
        if quiet && !snapshots::at_stop(&self.shared) {
            // It only reads the backing: what users wrote is as clean as without it.
            self.abandoned.store(true, Ordering::Release);
        }
        self.shared.stop.store(true, Ordering::Release);
        self.shared.bell.ring();
        let threads = std::mem::take(&mut *self.threads.lock());
        let left = join_within(threads, THREAD_PATIENCE);
        if !left.is_empty() {
            tracing::warn!(
                ?left,
                "threads do not come back from a tier; the process ends without them"
            );
            self.abandoned.store(true, Ordering::Release);
        }
        // Else nobody would look for what is left half-way. Who waits for a drive leaves nothing.
        let harmless = left.iter().all(|name| name.starts_with("cairn-tape-"));
        let quiet = quiet && idle && harmless && !self.shared.backing.is_any_touched();
        // P1: only a stop after which nothing of the backing is left unwritten is a clean one.
        rustix::fs::syncfs(self.shared.backing.root().as_fd())
            .map_err(|e| EngineError::io("syncing the backing")(e.into()))?;
        // A change that nobody waited for and that did not get in is found by the scan that follows
        // an unclean stop.
        if quiet && self.shared.catalog.status(1)?.write_errors == 0 {
            self.shared.catalog.clean_stop(now())?;
        } else {
            tracing::warn!(
                "not a clean stop: the next start scans, and after a power loss reads again what it releases"
            );
        }
        // While a thread is left that may write a record, the backing stays this process's.
        if !self.has_left_threads() {
            self.mark.lock().take();
        }
        Ok(())
    }
}

/// Waits for threads to end; the names of those that do not in that time.
fn join_within(threads: Vec<JoinHandle<()>>, patience: Duration) -> Vec<String> {
    let end = Instant::now() + patience;
    let mut left = Vec::new();
    for thread in threads {
        while !thread.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        if !thread.is_finished() {
            left.push(thread.thread().name().unwrap_or_default().to_owned());
        } else if thread.join().is_err() {
            tracing::error!("a thread of the engine panicked");
        }
    }
    left
}

impl Engine {
    /// After [`Engine::stop`]: threads are left behind that wait for a tier; only the end of the
    /// process ends them, and dropping what they use would wait for them.
    #[must_use]
    pub fn has_left_threads(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.desks.stop();
        self.shared.bell.ring();
    }
}

impl Shared {
    /// Applies what the mount told of up to now. Another thread may be at it: waits for it. What is
    /// told meanwhile is left, or users who write steadily would keep the caller here for ever.
    pub(super) fn drain_changelog(&self) -> Result<(), EngineError> {
        let _turn = self.drain.lock();
        let begun = Instant::now();
        for batch in self.changelog.up_to_now(2000) {
            self.applying.store(batch.len() as u64, Ordering::Relaxed);
            let applied = changelog::apply(self, &batch);
            self.applying.store(0, Ordering::Relaxed);
            self.changelog.applied();
            if let Err(why) = applied {
                self.changelog.missed(&batch);
                return Err(why);
            }
        }
        self.covered.forget_before(begun);
        Ok(())
    }
}

fn changelog_work(shared: &Arc<Shared>) {
    let mut noticed = 0;
    while !shared.stopping() {
        std::thread::sleep(TICK);
        if let Err(why) = shared.drain_changelog() {
            tracing::error!(%why, "events could not be applied; their directories are looked at again");
        }
        let marked = changelog::rescan_overflows(shared)
            .and_then(|()| changelog::rescan_unwritten(shared, &mut noticed));
        if let Err(why) = marked {
            tracing::warn!(%why, "what must be scanned again could not be noted; tried again");
        }
    }
}

/// What the catalog's opening did not read. Until it is read, opens of files without a record ask
/// the catalog.
fn sieve_work(shared: &Arc<Shared>) {
    while !shared.stopping() {
        match shared.catalog.fill_sieve(Some(100_000)) {
            Ok(true) => return,
            Ok(false) => {}
            Err(why) => {
                tracing::warn!(%why, "archived nodes could not be read; tried again");
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    }
}
