//! The engine: durable requests carried out, the namespace kept known, policy run.
//!
//! It joins what the rooms below do: the catalog remembers, tiers keep, the protocols of this
//! level ([`super::archive`], [`super::release`], [`super::recall`]) move. Doors (server, mount)
//! stand above and hold an [`Engine`].
//!
//! Invariants:
//! - What [`Engine::submit`] accepted is durable before it is answered, is resumed after a crash,
//!   and is done once in effect (design, invariant 6).
//! - Lanes are separate threads by class: a user's stage waits for no archive, and a cancelled
//!   request's actions are refused by the catalog at their start.
//! - Locks: `late` cells are set once; no lock is held across a call into catalog or tiers.

mod admission;
pub mod ask;
mod asks;
mod budget;
mod changelog;
mod copies;
mod cost;
mod covered;
mod desks;
mod expand;
mod facts;
mod heal;
mod jobs;
mod lanes;
mod media;
mod policy;
mod proof;
pub mod rebuild;
mod receipt;
mod reclaim;
mod refused;
pub mod repair;
mod report;
mod room;
mod scan;
mod scrub;
mod select;
mod settling;
mod slot;
mod snapshots;
mod start;
pub(in crate::hsm) mod tree;
pub mod undelete;
mod vouch;
mod work;

pub use admission::{Admission, Need};
pub use budget::PinNeed;
pub use cost::{Cost, Rates};
pub use desks::TapeWaits;
pub use facts::Counts;
pub use jobs::job_of;
pub use media::{Deed as TapeDeed, Run as TapeRun};
pub use policy::{RuleRun, RunAsk};
pub use proof::CopyNews;
pub use receipt::{CopyReceipt, Digested, MemberPlace, Receipt};
pub use reclaim::{Collection, TierCheck, TierView};
pub use report::{FileReport, RequestReport};
pub use scrub::{ScrubFacts, ScrubTier};
pub use select::{Sample, Select};
pub use slot::{Slot, Weakness};
pub use start::{Claimed, Opening, Startup, claim};

use crate::catalog::{self, Catalog, CatalogError, Incarnation};
use crate::error::Failure;
use crate::format::record::Record;
use crate::hsm::backing::{Backing, BackingError, MarkGuard};
use crate::hsm::recall::Recaller;
use crate::hsm::residency::ChangelogSink;
use crate::id::{TierId, Timestamp};
use crate::tier::TierError;
use cairn_fuse::Gate;
use parking_lot::{Condvar, Mutex};
use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What an administrator sets.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Copies of each file, on as many tiers (in their order).
    pub copies: u32,
    /// Smallest file that is released, bytes (P3).
    pub min_release: u64,
    /// What was staged stays at least this long.
    pub keep_staged: Duration,
    /// Data of one aggregate, bytes.
    pub aggregate_bytes: u64,
    /// Members of one aggregate.
    pub aggregate_members: usize,
    /// Threads that archive, and threads that release.
    pub archive_workers: usize,
    /// Threads that release.
    pub release_workers: usize,
    /// Threads that verify.
    pub verify_workers: usize,
    /// Let copies count for releases that lie on the backing's own filesystem or disk, or in memory.
    pub allow_same_fs: bool,
    /// Allow releases although users can reach the backing (P7).
    pub unsafe_open_backing: bool,
    /// Indexes kept in the state directory, bytes.
    pub index_bytes: u64,
    /// How long requests that ended are remembered; zero: for ever.
    pub keep_requests: Duration,
    /// How long after the end of a scan the next one follows; zero: never.
    pub scan_every: Duration,
    /// How long bytes outlive the name that they had (P8).
    pub keep_deleted: Duration,
    /// How often reclaiming runs by itself; zero: only when asked.
    pub collect_every: Duration,
    /// Between the decision to delete an object and its deletion (P9).
    pub delete_delay: Duration,
    /// An aggregate of which so much can go is repacked.
    pub repack_share: crate::config::Percent,
    /// A full or retired cartridge of which so much is dead is emptied.
    pub tape_repack_share: crate::config::Percent,
    /// The clock.
    pub clock: Clock,
    /// How often the whole namespace goes to every tier; zero: never.
    pub snapshot_every: Duration,
    /// And what changed of it in between; zero: never.
    pub snapshot_changes: Duration,
    /// Above this share of the backing opens for writing wait (P13).
    pub emergency_mark: crate::config::Percent,
    /// How long; zero: not at all.
    pub emergency_wait: Duration,
    /// Every copy is read back once in so long; zero: not by itself.
    pub scrub_every: Duration,
    /// Bytes per second that this reads of each tier.
    pub scrub_bandwidth: u64,
    /// Copies that are found bad are made again from good ones.
    pub heal: bool,
    /// Share of the backing that jobs may keep by pins.
    pub job_pins: crate::config::Percent,
    /// And the jobs of one user.
    pub job_pins_per_user: crate::config::Percent,
    /// Room that a stage must leave free on the backing, bytes.
    pub reserve: u64,
    /// What tiers ask for their work, by their names; none is built in.
    pub prices: std::collections::BTreeMap<String, Rates>,
    /// Recalls.
    pub recall: crate::hsm::recall::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        let config = crate::config::Config::default();
        Self {
            copies: 1,
            min_release: 64 << 10,
            keep_staged: Duration::from_secs(3600),
            aggregate_bytes: 256 << 20,
            aggregate_members: 4000,
            archive_workers: 2,
            release_workers: 8,
            verify_workers: 1,
            allow_same_fs: false,
            unsafe_open_backing: false,
            index_bytes: 1 << 30,
            keep_requests: config.keep_requests,
            scan_every: config.scan_every,
            keep_deleted: config.keep_deleted,
            collect_every: config.collect_every,
            delete_delay: config.delete_delay,
            repack_share: config.repack_share,
            tape_repack_share: config.tape_repack_share,
            clock: Clock::default(),
            snapshot_every: Duration::ZERO,
            snapshot_changes: Duration::ZERO,
            emergency_mark: config.emergency_mark,
            emergency_wait: config.emergency_wait,
            scrub_every: config.scrub_every,
            scrub_bandwidth: config.scrub_bandwidth,
            heal: config.heal,
            job_pins: config.job_pins,
            job_pins_per_user: config.job_pins_per_user,
            reserve: 64 << 20,
            prices: Default::default(),
            recall: crate::hsm::recall::Settings::default(),
        }
    }
}

/// An error of the engine, as its doors see it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The backing failed.
    #[error(transparent)]
    Backing(#[from] BackingError),
    /// A tier failed.
    #[error(transparent)]
    Tier(#[from] TierError),
    /// A refusal, in words for the caller.
    #[error("{message}")]
    Refused {
        /// What kind.
        code: Failure,
        /// With the object's name.
        message: String,
        /// The way out.
        hint: Option<String>,
    },
    /// A system call failed.
    #[error("{step}: {source}")]
    Io {
        /// What was being done.
        step: &'static str,
        /// Why.
        source: std::io::Error,
    },
}

impl EngineError {
    fn refused(code: Failure, message: impl std::fmt::Display) -> Self {
        Self::Refused {
            code,
            message: message.to_string(),
            hint: None,
        }
    }

    fn hint(self, text: impl std::fmt::Display) -> Self {
        match self {
            Self::Refused { code, message, .. } => Self::Refused {
                code,
                message,
                hint: Some(text.to_string()),
            },
            other => other,
        }
    }

    fn io(step: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { step, source }
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn code(&self) -> Failure {
        match self {
            Self::Refused { code, .. } => *code,
            Self::Catalog(CatalogError::Full { .. }) => Failure::NoSpace,
            Self::Catalog(CatalogError::Missing { .. }) => Failure::NotFound,
            Self::Catalog(CatalogError::Newer { .. }) => Failure::Newer,
            Self::Backing(BackingError::Gone { .. } | BackingError::Unnamed { .. }) => {
                Failure::NotFound
            }
            Self::Backing(BackingError::InUse { .. }) => Failure::AlreadyRunning,
            Self::Backing(why) if why.is_full() => Failure::NoSpace,
            Self::Tier(
                TierError::Unavailable { .. }
                | TierError::Full { .. }
                | TierError::NotRestored { .. },
            ) => Failure::TierUnavailable,
            Self::Catalog(_) | Self::Backing(_) | Self::Tier(_) | Self::Io { .. } => {
                Failure::Internal
            }
        }
    }
}

impl From<tree::Unplaced> for EngineError {
    fn from(why: tree::Unplaced) -> Self {
        match why {
            tree::Unplaced::Backing(why) => why.into(),
            tree::Unplaced::Catalog(why) => why.into(),
            deep @ tree::Unplaced::Deep(_) => Self::refused(Failure::Internal, deep),
        }
    }
}

/// Rings when there may be something to do.
#[derive(Default)]
struct Bell {
    rung: Mutex<u64>,
    heard: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock() += 1;
        self.heard.notify_all();
    }

    /// Waits until it rang after `last`, or `patience` is over; the new count.
    fn wait(&self, last: u64, patience: Duration) -> u64 {
        let mut rung = self.rung.lock();
        if *rung == last {
            self.heard.wait_for(&mut rung, patience);
        }
        *rung
    }
}

/// Called with a request's number when something about it changed.
type Wake = Box<dyn Fn(crate::id::RequestId) + Send + Sync>;
/// Called with the path of a file that was found lost.
type LostEar = Box<dyn Fn(&str) + Send + Sync>;

/// What all threads of the engine share.
pub(super) struct Shared {
    catalog: Catalog,
    backing: Arc<Backing>,
    tiers: Vec<Slot>,
    settings: Settings,
    incarnation: Incarnation,
    policy: Mutex<policy::InForce>,
    changelog: Arc<ChangelogSink>,
    late: Late,
    bell: Bell,
    stop: AtomicBool,
    /// Versions settle checks of the ctime window, done when the window is past.
    settles: crossbeam_channel::Sender<crate::hsm::version::Settle>,
    expander: expand::Expander,
    budgets: budget::Budgets,
    /// Events of the mount that are taken but not yet applied.
    applying: AtomicU64,
    /// Whose turn it is to apply events: their order is kept.
    drain: Mutex<()>,
    lanes: lanes::Lanes,
    /// Where opens for writing wait when the backing is nearly full.
    room: Arc<crate::hsm::emergency::Room>,
    reserve: room::Reserve,
    /// Requests that are not sealed yet.
    parts: expand::Parts,
    wakes: Mutex<Vec<Wake>>,
    believed: crate::hsm::vouch::Believed,
    covered: covered::Covered,
    refused: refused::Refused,
    undeleting: undelete::UnderWay,
    desk: reclaim::Desk,
    media: media::Media,
    desks: desks::Desks,
    lost_ears: Mutex<Vec<LostEar>>,
    composing: snapshots::Composing,
    proof: proof::Proof,
    started: Timestamp,
}

/// What exists only once the engine is there: set once, in this order.
#[derive(Default)]
struct Late {
    recaller: OnceLock<Arc<Recaller>>,
    gate: OnceLock<Arc<dyn Gate>>,
    /// A rebuild read tiers.
    read: OnceLock<rebuild::Read>,
}

/// A running engine. Dropping it stops its threads.
pub struct Engine {
    shared: Arc<Shared>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    mark: Mutex<Option<MarkGuard>>,
    abandoned: AtomicBool,
}

/// `CLOCK_REALTIME` as the catalog keeps it.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp {
        sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nsec: since.subsec_nanos(),
    }
}

/// The time as the engine takes it; a test moves it. Clones are the same clock.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<Ahead>);

/// Seconds.
#[derive(Debug, Default)]
struct Ahead {
    real: AtomicU64,
    steady: AtomicU64,
}

impl Clock {
    /// So much time passes: it goes ahead of `CLOCK_REALTIME` by so much more.
    pub fn advance(&self, by: Duration) {
        self.jump(by);
        self.0.steady.fetch_add(by.as_secs(), Ordering::AcqRel);
    }

    /// It is set ahead by so much, and no time passes.
    pub fn jump(&self, by: Duration) {
        self.0.real.fetch_add(by.as_secs(), Ordering::AcqRel);
    }

    fn now(&self) -> Timestamp {
        let ahead = Duration::from_secs(self.0.real.load(Ordering::Acquire));
        shifted(now(), ahead, true)
    }

    /// Time that passed since the machine started, whatever the clock was set to.
    fn steady(&self) -> Duration {
        let up = clock_gettime(ClockId::Monotonic);
        let up = Duration::try_from(up).unwrap_or_default();
        up + Duration::from_secs(self.0.steady.load(Ordering::Acquire))
    }
}

/// A moment `by` before (or after) another.
#[must_use]
pub fn shifted(from: Timestamp, by: Duration, later: bool) -> Timestamp {
    let by = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
    let nanos = if later {
        from.nanos().saturating_add(by)
    } else {
        from.nanos().saturating_sub(by)
    };
    Timestamp {
        sec: nanos.div_euclid(1_000_000_000),
        nsec: u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0),
    }
}

impl Shared {
    fn now(&self) -> Timestamp {
        self.settings.clock.now()
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn recaller(&self) -> Option<&Arc<Recaller>> {
        self.late.recaller.get()
    }

    fn slot(&self, id: TierId) -> Option<&Slot> {
        self.tiers.iter().find(|s| s.id == id)
    }

    fn slot_named(&self, name: &str) -> Result<&Slot, EngineError> {
        self.tiers.iter().find(|s| s.name == name).ok_or_else(|| {
            let known: Vec<_> = self.tiers.iter().map(|s| s.name.as_str()).collect();
            EngineError::refused(Failure::Usage, format!("there is no tier {name:?}"))
                .hint(format!("tiers here: {}", known.join(", ")))
        })
    }

    /// Somebody may be waiting for this request.
    fn changed(&self, request: crate::id::RequestId) {
        for wake in self.wakes.lock().iter() {
            wake(request);
        }
    }

    /// Copies as the record names them, in the catalog's form.
    fn copies_of_record(&self, record: &Record) -> Vec<catalog::Copy> {
        let now = self.now();
        let copy = |hint: &crate::format::record::CopyHint| catalog::Copy {
            file: record.file,
            version: record.version,
            tier: hint.tier,
            aggregate: hint.aggregate,
            header: hint.header,
            // At most: how much of it is holes the record does not say. Nor does the file, by now.
            stored_len: record.size,
            crc: record.crc,
            state: catalog::CopyState::Good,
            proven_at: now,
            last_verified: None,
        };
        record.copies.iter().map(copy).collect()
    }
}

impl Engine {
    /// The catalog, for reading.
    #[must_use]
    pub fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    /// The backing directory.
    #[must_use]
    pub fn backing(&self) -> &Arc<Backing> {
        &self.shared.backing
    }

    /// What was configured.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// The tiers, in the order of configuration.
    #[must_use]
    pub fn tiers(&self) -> &[Slot] {
        &self.shared.tiers
    }

    /// When it started.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        self.shared.started
    }

    /// Registers who wants to know that a request changed; must not block.
    pub fn on_change(&self, wake: Wake) {
        self.shared.wakes.lock().push(wake);
    }

    /// Registers who wants to know of files that are found lost, each told once; must not block.
    pub fn on_lost(&self, ear: LostEar) {
        self.shared.lost_ears.lock().push(ear);
    }
}

#[cfg(test)]
mod tests;
