//! The engine as a whole, without a mount: an instance over a temporary directory whose tiers can
//! be watched, hidden and made to fail.

mod admission;
mod bounded;
mod copies;
mod cost;
mod doubts;
mod epochs;
mod jobs;
mod lanes;
mod late;
mod names;
mod overwritten;
mod proof;
mod reclaim;
mod removal;
mod subjects;
mod waiting;

use super::ask::{Ask, Asker, Named};
use super::{Engine, Opening, RequestReport, RunAsk, Settings, Slot, claim};
use crate::catalog::{FileState, Node, Origin, RequestState, Verb};
use crate::hsm::rig::TestGate;
use crate::id::{AggregateId, NodeHandle, RequestId};
use crate::tier::{Description, Kind, Mark, Put, Restoring, Space, Tier, TierError};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Where a tier of a test lies.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// Beside the backing, and it shows.
    Beside,
    /// Taken for another machine's.
    Elsewhere,
    /// At this path.
    At(PathBuf),
    /// A library of one cartridge, in which an object waits an hour for others that are written with it.
    Tape,
}

/// What a tier does not give.
#[derive(Default)]
struct Withheld {
    /// It gives no data.
    broken: AtomicBool,
    /// All of it must be restored first.
    stowed: AtomicBool,
    /// What was asked for meanwhile.
    asked: Mutex<BTreeSet<AggregateId>>,
    /// It is a bucket whose objects can be read after so long.
    bucket: Mutex<Option<Duration>>,
}

type Hook = Box<dyn FnMut() + Send>;

/// A tier that does not say where it lies, and that may be watched.
struct Veiled {
    tier: Arc<dyn Tier>,
    on_put: Arc<Mutex<Option<Hook>>>,
    on_stat: Arc<Mutex<Option<Hook>>>,
    /// Bytes that are said to be free.
    free: Arc<Mutex<Option<u64>>>,
    withheld: Arc<Withheld>,
    longest: Arc<Mutex<Option<u64>>>,
    /// Cannot be looked at: its cartridge is away.
    unseen: Arc<Mutex<Option<AggregateId>>>,
}

/// Runs a hook, taken out meanwhile: it may panic, and others come by.
fn run(hook: &Arc<Mutex<Option<Hook>>>) {
    let taken = hook.lock().take();
    if let Some(mut taken) = taken {
        let mut again = Again(hook.clone(), None);
        taken();
        again.1 = Some(taken);
    }
}

impl Tier for Veiled {
    fn mark(&self) -> Mark {
        self.tier.mark()
    }
    fn describe(&self) -> Description {
        let bucket = self.withheld.bucket.lock().is_some();
        Description {
            kind: if bucket { Kind::S3 } else { Kind::Dir },
            url: "veiled:".into(),
            root: None,
            notes: Vec::new(),
        }
    }
    fn confirm(&self) -> Result<(), TierError> {
        self.tier.confirm()
    }
    fn longest(&self) -> Result<Option<u64>, TierError> {
        Ok(*self.longest.lock())
    }
    fn put(&self, name: AggregateId, size_hint: u64) -> Result<Box<dyn Put>, TierError> {
        run(&self.on_put);
        self.tier.put(name, size_hint)
    }
    fn read(&self, name: AggregateId, offset: u64, len: u64) -> Result<Bytes, TierError> {
        if self.withheld.stowed.load(Ordering::SeqCst) {
            self.withheld.asked.lock().insert(name);
            return Err(TierError::NotRestored {
                tier: "veiled:".into(),
                object: name,
                why: "it is in a cold class".into(),
            });
        }
        if self.withheld.broken.load(Ordering::SeqCst) {
            return Err(TierError::Transient {
                tier: "veiled:".into(),
                object: name.to_string(),
                step: "reading",
                source: std::io::Error::from_raw_os_error(libc::EIO),
            });
        }
        self.tier.read(name, offset, len)
    }
    fn wait(&self, name: AggregateId) -> std::time::Duration {
        let bucket = *self.withheld.bucket.lock();
        bucket.unwrap_or_else(|| self.tier.wait(name))
    }
    fn stat(&self, name: AggregateId) -> Result<u64, TierError> {
        run(&self.on_stat);
        if *self.unseen.lock() == Some(name) {
            return Err(TierError::Unavailable {
                tier: "veiled:".into(),
                step: "looking for an object",
                why: "its cartridge is away".into(),
            });
        }
        self.tier.stat(name)
    }
    fn restore(&self, name: AggregateId) -> Result<Restoring, TierError> {
        self.tier.restore(name)
    }
    fn delete(&self, name: AggregateId) -> Result<(), TierError> {
        self.tier.delete(name)
    }
    fn list(
        &self,
        after: Option<AggregateId>,
        limit: usize,
    ) -> Result<Vec<AggregateId>, TierError> {
        self.tier.list(after, limit)
    }
    fn space(&self) -> Result<Space, TierError> {
        let space = self.tier.space()?;
        let free = self.free.lock().or(space.free);
        Ok(Space { free, ..space })
    }
}

/// Puts a hook back where it was; one that panicked is gone.
struct Again(Arc<Mutex<Option<Hook>>>, Option<Hook>);

impl Drop for Again {
    fn drop(&mut self) {
        if let Some(hook) = self.1.take() {
            self.0.lock().get_or_insert(hook);
        }
    }
}

/// An instance.
pub(super) struct Bench {
    engine: Option<Engine>,
    pub(super) root: PathBuf,
    /// Stands in for its mount.
    pub(super) gate: Arc<TestGate>,
    hooks: Vec<Arc<Mutex<Option<Hook>>>>,
    /// What is done when a tier is asked for an aggregate's length: a release asks.
    asked: Vec<Arc<Mutex<Option<Hook>>>>,
    frees: Vec<Arc<Mutex<Option<u64>>>>,
    withheld: Vec<Arc<Withheld>>,
    /// Of each tier the longest object that it takes.
    longest: Vec<Arc<Mutex<Option<u64>>>>,
    /// Of each tier an object that cannot be looked at.
    unseen: Vec<Arc<Mutex<Option<AggregateId>>>>,
    _state: crate::hsm::state_dir::StateDir,
    _dir: tempfile::TempDir,
}

impl Bench {
    /// Objects of the first tier may be no longer from now on.
    pub(super) fn bound(&self, longest: u64) {
        *self.longest[0].lock() = Some(longest);
    }

    /// An object of the first tier cannot be looked at, or all can.
    pub(super) fn hide(&self, object: Option<AggregateId>) {
        *self.unseen[0].lock() = object;
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.take() {
            let _ = engine.stop(true);
        }
    }
}

impl Bench {
    /// On the filesystem of the temporary directory; tiers are named `t0`, `t1`, ...
    pub(super) fn new(places: &[Place], settings: Settings, policy: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("backing");
        std::fs::create_dir(&root).unwrap();
        Self::on(dir, root, places, settings, policy)
    }

    fn on(
        dir: tempfile::TempDir,
        root: PathBuf,
        places: &[Place],
        settings: Settings,
        policy: &str,
    ) -> Self {
        let bench = Self::unattached(dir, root, places, settings, policy);
        bench.attach();
        bench
    }

    /// From here on it releases and scans.
    fn attach(&self) {
        self.engine()
            .attach(Arc::clone(&self.gate) as Arc<dyn cairn_fuse::Gate>);
    }

    fn unattached(
        dir: tempfile::TempDir,
        root: PathBuf,
        places: &[Place],
        settings: Settings,
        policy: &str,
    ) -> Self {
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o700)).unwrap();
        let opening = Opening {
            backing: root.clone(),
            outside: root.clone(),
            state: dir.path().join("state"),
            force: false,
            ballast: 0,
        };
        let mut claimed = claim(&opening).unwrap();
        let url = |(n, place): (usize, &Place)| {
            let path = match place {
                Place::At(path) => path.clone(),
                Place::Beside | Place::Elsewhere | Place::Tape => {
                    dir.path().join(format!("tier{n}"))
                }
            };
            let url = match place {
                Place::Tape => {
                    format!("tape:{}?cartridges=1&drives=1&batch-age=1h", path.display())
                }
                _ => format!("dir:{}", path.display()),
            };
            (format!("t{n}"), url)
        };
        let urls: Vec<_> = places.iter().enumerate().map(url).collect();
        let mut slots = claimed.open_tiers(&urls).unwrap();
        let (mut hooks, mut asked, mut frees) = (Vec::new(), Vec::new(), Vec::new());
        let (mut withheld, mut longest, mut unseen) = (Vec::new(), Vec::new(), Vec::new());
        for (slot, place) in slots.iter_mut().zip(places) {
            let (on_put, on_stat) = <(Arc<_>, Arc<_>)>::default();
            let withholds = Arc::default();
            withheld.push(Arc::clone(&withholds));
            hooks.push(Arc::clone(&on_put));
            asked.push(Arc::clone(&on_stat));
            let free = Arc::default();
            frees.push(Arc::clone(&free));
            let bound = Arc::default();
            longest.push(Arc::clone(&bound));
            let away = Arc::default();
            unseen.push(Arc::clone(&away));
            if matches!(place, Place::Elsewhere) {
                let tier = slot.tier.clone();
                let veiled = Arc::new(Veiled {
                    tier,
                    on_put,
                    on_stat,
                    free,
                    withheld: withholds,
                    longest: bound,
                    unseen: away,
                });
                *slot = Slot::new(slot.name.clone(), slot.id, slot.url.clone(), veiled);
            }
        }
        let parsed = cairn_policies::Policy::parse("test", policy).unwrap();
        let policy = ("test".to_owned(), policy.to_owned(), parsed);
        let (engine, state) = claimed.start(slots, settings, policy).unwrap();
        Self {
            engine: Some(engine),
            root,
            gate: Arc::default(),
            hooks,
            asked,
            frees,
            withheld,
            longest,
            unseen,
            _state: state,
            _dir: dir,
        }
    }

    /// Stops, lets `between` work on the state directory, and starts anew in the same places.
    pub(super) fn again(
        self,
        places: &[Place],
        settings: Settings,
        policy: &str,
        between: impl FnOnce(&Path),
    ) -> Self {
        let bench = self.again_unattached(places, settings, policy, between);
        bench.attach();
        bench
    }

    fn again_unattached(
        mut self,
        places: &[Place],
        settings: Settings,
        policy: &str,
        between: impl FnOnce(&Path),
    ) -> Self {
        if let Some(engine) = self.engine.take() {
            engine.stop(true).unwrap();
        }
        let dir = std::mem::replace(&mut self._dir, tempfile::tempdir().unwrap());
        let root = self.root.clone();
        // Its lock on the state directory goes with it.
        drop(self);
        between(&dir.path().join("state"));
        Self::unattached(dir, root, places, settings, policy)
    }

    pub(super) fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub(super) fn handle(&self, name: &str) -> NodeHandle {
        let backing = self.engine().backing();
        let fd = backing.open_beneath(name.as_bytes()).unwrap();
        backing.handle_of(std::os::fd::AsFd::as_fd(&fd)).unwrap()
    }

    pub(super) fn node(&self, name: &str) -> Node {
        let found = self.engine().catalog().node_by_handle(&self.handle(name));
        found.unwrap().unwrap()
    }

    fn named(&self, name: &str) -> Named {
        Named {
            node: self.handle(name),
            given: name.as_bytes().to_vec(),
        }
    }

    fn ask(&self, verb: Verb, subjects: Vec<Named>) -> Ask {
        Ask {
            verb,
            asker: Asker::ENGINE,
            origin: Origin::User,
            subjects,
            key: None,
            tier: None,
            pin_for: None,
            job: None,
            job_generation: None,
            flags: Vec::new(),
            consent: super::ask::Consent::default(),
            select: None,
            into: None,
            last: true,
        }
    }

    pub(super) fn submit(&self, verb: Verb, names: &[&str]) -> RequestId {
        let subjects = names.iter().map(|name| self.named(name)).collect();
        self.engine().submit(self.ask(verb, subjects)).unwrap().id
    }

    /// The request when it has ended.
    fn ended(&self, id: RequestId) -> RequestReport {
        wait_for(&format!("request {id} to end"), || {
            let report = self.engine().request(id, 100).unwrap();
            report.row.finished.is_some().then_some(report)
        })
    }

    pub(super) fn done(&self, id: RequestId) -> RequestReport {
        let report = self.ended(id);
        assert_eq!(report.row.state, RequestState::Done, "{report:?}");
        report
    }

    pub(super) fn archive(&self, names: &[&str]) -> RequestReport {
        self.done(self.submit(Verb::Archive, names))
    }

    /// Runs all rules; waits for the requests that come of it, and gives the numbers of files.
    fn run_policy(&self) -> Vec<u64> {
        let runs = self.engine().run_policy(&RunAsk::Now(None), false).unwrap();
        let mut files = Vec::new();
        for run in runs {
            files.push(run.forecast.files);
            run.request.into_iter().for_each(|id| drop(self.ended(id)));
        }
        files
    }

    /// Objects on a tier.
    fn objects(&self, tier: usize) -> usize {
        let slot = &self.engine().tiers()[tier];
        slot.tier.list(None, 10_000).unwrap().len()
    }
}

/// Looks until there is an answer. The bound is for a machine that does many other things.
pub(super) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(180);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Refusals of a request, `code: text` each.
fn failures(report: &RequestReport) -> Vec<String> {
    let failed = report.failed.iter().filter_map(|(a, _)| a.failure.as_ref());
    failed.map(|f| format!("{}: {}", f.code, f.text)).collect()
}

pub(super) fn small() -> Settings {
    Settings {
        archive_workers: 1,
        release_workers: 1,
        ..Settings::default()
    }
}

pub(super) const NOTHING: &str = "rule archive none\n  never\n";

pub(super) fn state_of(bench: &Bench, name: &str) -> FileState {
    bench.node(name).state
}
