//! `cairn rebuild`: a catalog built anew while nobody serves the backing (design, invariant 4).
//!
//! First the tiers, whose indexes say which copies there are; then one scan of the backing, which
//! says which files there are, and which copies they name. The scan is the engine's own: what it
//! takes for archived, dirty or released is decided here as at any start.
//!
//! # Invariants
//! - Nothing is written but the catalog, the mark on the backing, and what a release or recall that
//!   was cut short left undone. A catalog that is there goes aside, and is never deleted.
//! - No tier is ever made: a place without a mark is a filesystem that is not mounted.
//! - What is read is committed with the position behind it; a kill at any instant costs what was read
//!   since the last commit, and the next run goes on.
//! - Memory does not grow with the number of files: one aggregate's index at a time, and a chunk of
//!   the directories on the way down.
//! - The next epoch lies above every aggregate that was seen, by name or by a record's hint (P9).

mod epochs;
mod looks;
mod object;
mod tiers;

pub(super) use epochs::{EpochError, highest_epoch};

pub(super) use looks::{Lookalike, Read, the_only};

use super::scan::{self, Sweep};
use super::start::{Still, claim_with, fresh_tier};
use super::{EngineError, Opening, Settings, Shared, Slot, Startup, now, tree};
use crate::catalog::{self, Catalog, Condition, FileState, RebuildState, Sources, TierRead};
use crate::error::Failure;
use crate::hsm::state_dir::StateDir;
use crate::id::{NodeHandle, TierId};
use crate::tier::retry::{Attempts, Retry};
use crate::tier::{OpenHow, TierUrl, open as open_tier};
use cairn_fuse::{Gate, Hold};
use parking_lot::Mutex;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What is to be built, and from what.
pub struct Order {
    /// Backing and state directory.
    pub opening: Opening,
    /// Names and URLs of the tiers.
    pub tiers: Vec<(String, String)>,
    /// What from.
    pub sources: Sources,
    /// Also if the catalog that is there is whole: it goes aside.
    pub anew: bool,
}

/// A rebuild, ready to run.
pub struct Rebuild {
    still: Mutex<Option<Still>>,
    shared: Arc<Shared>,
    sources: Sources,
    absent: Vec<(String, String)>,
    aside: Option<PathBuf>,
    resumed: bool,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Aggregates that were read.
    pub aggregates: u64,
    /// Copies found in them.
    pub members: u64,
    /// Files and directories that were looked at.
    pub seen: u64,
}

/// What was read of one tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierReport {
    /// Its name.
    pub name: String,
    /// How far; `None`: it is not there.
    pub read: Option<TierRead>,
    /// Why not all of it.
    pub why: Option<String>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// All that was asked for was read.
    pub complete: bool,
    /// It was begun by an earlier run.
    pub resumed: bool,
    /// Where the catalog that was there lies now.
    pub aside: Option<PathBuf>,
    /// The tiers, if they were read.
    pub tiers: Vec<TierReport>,
    /// Files and directories that were looked at.
    pub seen: u64,
    /// Regular files by state.
    pub files: Vec<catalog::Usage>,
    /// Archived or released files for which no good copy was found.
    pub uncopied: u64,
    /// Files whose stub is another's; files that are not as their stubs say.
    pub foreign: u64,
    /// See above.
    pub conflict: u64,
    /// Something on the backing could not be looked at; the next run looks again.
    pub gaps: bool,
    /// The next epoch lies above this one.
    pub epoch: u32,
    /// What went wrong on the way, the first of it.
    pub problems: Vec<String>,
}

/// Nobody is there to be shut out.
struct Alone;
struct Nobody;
impl Hold for Nobody {}
impl Gate for Alone {
    fn hold(&self, _node: &NodeHandle) -> Option<Box<dyn Hold>> {
        Some(Box::new(Nobody))
    }
    fn changed(&self, _node: &NodeHandle) {}
    fn named(&self, _directory: &NodeHandle, _name: &[u8]) {}
}

impl Rebuild {
    /// Takes backing and state directory, and puts a damaged catalog aside. A rebuild from the same
    /// sources that was cut short is gone on with.
    ///
    /// # Errors
    /// [`Startup`]: somebody serves the backing; the catalog is whole, and `anew` was not said.
    pub fn begin(
        order: &Order,
        policy: (String, String, cairn_policies::Policy),
    ) -> Result<Self, Startup> {
        let (mut aside, mut resumed) = (None, false);
        let claimed = claim_with(&order.opening, |state| {
            aside = clear_the_way(state, order)?;
            let catalog = Catalog::open(&state.catalog(), identity(state))?;
            let known = catalog.rebuild_state()?;
            resumed = known.is_some_and(|s| s.finished_at.is_none());
            // Before anything else is done with it: from here on it is one that is being built.
            catalog.begin_rebuild(order.sources, now())?;
            Ok(())
        })?;
        let (tiers, absent) = open_what_is_there(&claimed, &order.tiers)?;
        let (still, _) = claimed.share(tiers, Settings::default(), policy)?;
        Ok(Self {
            shared: still.shared.clone(),
            still: Mutex::new(Some(still)),
            sources: order.sources,
            absent,
            aside,
            resumed,
        })
    }

    /// How far it is, for who watches.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let catalog = &self.shared.catalog;
        let mut progress = Progress::default();
        for slot in &self.shared.tiers {
            let read = catalog.tier_read(slot.id).unwrap_or_default();
            progress.aggregates += read.aggregates;
            progress.members += read.members;
        }
        progress.seen = catalog.scan_state().map_or(0, |state| state.seen);
        progress
    }

    /// Ends [`Self::run`] soon; the next run goes on.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
    }

    /// Reads, from where an earlier run stopped.
    ///
    /// # Errors
    /// The catalog or the backing as a whole failed; a second run goes on. What single files and
    /// tiers meet is in the report.
    pub fn run(&self) -> Result<Report, EngineError> {
        let shared = &*self.shared;
        let _ = shared.late.gate.set(Arc::new(Alone));
        tree::note_root(shared)?;
        let mut problems = Vec::new();
        // Before anything is read: who starts meanwhile names nothing that is there.
        let epochs = self.raise_epoch(&mut problems)?;
        let mut tiers = Vec::new();
        let mut read = CompleteTiers::new();
        if self.sources.tiers {
            tiers = self.read_tiers(&epochs, &mut problems)?;
            read = tiers::complete(shared)?;
            let _ = shared.late.read.set(Read {
                complete: read.clone(),
                hints: self.sources.stubs,
            });
        }
        let read: Vec<TierId> = read.into_iter().collect();
        let sweep = if shared.stopping() {
            Sweep::Stopped
        } else {
            scan::sweep(shared, &read)?
        };
        tiers::learn_lengths(shared, &mut problems)?;
        let stopped = sweep == Sweep::Stopped || shared.stopping();
        let complete = !stopped
            && sweep == Sweep::Done
            && epochs.values().all(Result::is_ok)
            && tiers.iter().all(|t| t.read.is_some_and(|r| r.complete));
        let epoch = self.hold(shared.incarnation.epoch)?;
        if complete {
            shared.catalog.finish_rebuild(now())?;
        }
        let report = self.report(complete, tiers, sweep == Sweep::Gaps, epoch, problems)?;
        self.end(stopped)?;
        Ok(report)
    }

    fn read_tiers(
        &self,
        epochs: &Epochs,
        problems: &mut Vec<String>,
    ) -> Result<Vec<TierReport>, EngineError> {
        let mut reports = Vec::new();
        for slot in &self.shared.tiers {
            let why = match epochs.get(&slot.id) {
                Some(Err(why)) => Some(why.clone()),
                found => {
                    let highest = found.and_then(|f| f.as_ref().ok()).copied();
                    let highest = highest.unwrap_or(u32::MAX);
                    match tiers::read(&self.shared, slot, highest, problems) {
                        Ok(()) => None,
                        Err(why @ EngineError::Catalog(_)) => return Err(why),
                        Err(why) => Some(why.to_string()),
                    }
                }
            };
            reports.push(TierReport {
                name: slot.name.clone(),
                read: Some(self.shared.catalog.tier_read(slot.id)?),
                why,
            });
        }
        for (name, why) in &self.absent {
            reports.push(TierReport {
                name: name.clone(),
                read: None,
                why: Some(why.clone()),
            });
        }
        Ok(reports)
    }

    /// Above all that is named on the tiers. The highest epoch of each, or why it is not known.
    fn raise_epoch(&self, problems: &mut Vec<String>) -> Result<Epochs, EngineError> {
        let shared = &*self.shared;
        let known = shared.catalog.newest_aggregate()?;
        let known = known.map_or(0, |newest| newest.epoch);
        let base = shared.incarnation.epoch.max(known);
        let (mut epochs, mut highest) = (Epochs::new(), base);
        for slot in &shared.tiers {
            let name = &slot.name;
            let mut tell = |what| tiers::tell(problems, format!("tier {name}: {what}"));
            let found = epochs::highest_epoch(&*slot.tier, shared.backing.fs(), base, &mut tell);
            match &found {
                Ok(epoch) => highest = highest.max(*epoch),
                Err(why) => tell(format!("the epoch of its aggregates is not known: {why}")),
            }
            epochs.insert(slot.id, found.map_err(|why| why.to_string()));
        }
        self.hold(highest)?;
        Ok(epochs)
    }

    /// The next epoch lies above this one, and above what the catalog has by now, by records' hints,
    /// too; and the catalog as it is now is this rebuild's.
    fn hold(&self, least: u32) -> Result<u32, EngineError> {
        let catalog = &self.shared.catalog;
        let known = catalog.newest_aggregate()?;
        catalog.raise_epoch(known.map_or(0, |newest| newest.epoch).max(least))?;
        let highest = catalog.hold_rebuild()?;
        if let Some(still) = &mut *self.still.lock() {
            still.mark.set_epoch(highest)?;
        }
        Ok(highest)
    }

    fn report(
        &self,
        complete: bool,
        tiers: Vec<TierReport>,
        gaps: bool,
        epoch: u32,
        problems: Vec<String>,
    ) -> Result<Report, EngineError> {
        let status = self.shared.catalog.status(1)?;
        Ok(Report {
            complete,
            resumed: self.resumed,
            aside: self.aside.clone(),
            tiers,
            seen: status.scan.seen,
            files: status.usage.into_iter().filter(|u| u.files > 0).collect(),
            uncopied: status.under_copied,
            foreign: status.foreign,
            conflict: status.conflict,
            gaps,
            epoch,
            problems,
        })
    }

    /// The state and the backing are given back. Nobody served: nothing is left unwritten (P1).
    fn end(&self, stopped: bool) -> Result<(), EngineError> {
        let shared = &*self.shared;
        rustix::fs::syncfs(shared.backing.root().as_fd())
            .map_err(|e| EngineError::io("syncing the backing")(e.into()))?;
        if !stopped && shared.catalog.status(1)?.write_errors == 0 {
            shared.catalog.clean_stop(now())?;
        } else {
            shared.catalog.settle(catalog::Durability::Full)?;
        }
        drop(self.still.lock().take());
        Ok(())
    }
}

/// Puts a catalog aside that is damaged, or that is to be made anew; its place then.
fn clear_the_way(state: &StateDir, order: &Order) -> Result<Option<PathBuf>, Startup> {
    let stamp = stamp();
    if state.check_catalog_in_place().is_err() {
        return Ok(Some(state.put_catalog_aside(&stamp)?));
    }
    if order.anew {
        // Whatever it is, and whoever wrote it.
        return Ok(match state.catalog().try_exists() {
            Ok(false) => None,
            _ => Some(state.put_catalog_aside(&stamp)?),
        });
    }
    let why = match Catalog::condition(&state.catalog())? {
        Condition::Absent => return Ok(None),
        Condition::Damaged(why) => why,
        Condition::Whole => {
            may_go_on(state, order)?;
            return Ok(None);
        }
    };
    tracing::warn!(%why, "the catalog is put aside");
    Ok(Some(state.put_catalog_aside(&stamp)?))
}

/// A catalog that is whole is gone on with only if this very rebuild began it.
fn may_go_on(state: &StateDir, order: &Order) -> Result<(), Startup> {
    // Opened, and closed again: it may be of an older version.
    let catalog = Catalog::open(&state.catalog(), identity(state))?;
    match catalog.rebuild_state()? {
        None if !catalog.has_served()? => Ok(()),
        Some(RebuildState {
            finished_at: None,
            sources,
            ..
        }) if sources == order.sources => Ok(()),
        Some(RebuildState {
            finished_at: None, ..
        }) => Err(refused(
            "a rebuild from other sources was begun and is not done",
            "name the same --from to go on with it, or --anew to begin again",
        )),
        found => Err(refused(
            match found {
                // That one may have been killed before it could say so.
                Some(_) => "the catalog is whole: a rebuild of it is done",
                None => "the catalog is there and whole",
            },
            "--anew puts it aside and builds another; pins, flags and requests stay behind in it",
        )),
    }
}

fn identity(state: &StateDir) -> catalog::Identity {
    catalog::Identity {
        instance: state.instance,
        fs: state.fs,
    }
}

fn refused(message: &str, hint: &str) -> Startup {
    EngineError::refused(Failure::Busy, message)
        .hint(hint)
        .into()
}

/// Now, for a file's name.
fn stamp() -> String {
    let text = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
    text.chars().filter(|c| *c != '-' && *c != ':').collect()
}

type Absent = Vec<(String, String)>;

/// Opens the tiers that are there; makes none.
fn open_what_is_there(
    claimed: &super::Claimed,
    tiers: &[(String, String)],
) -> Result<(Vec<Slot>, Absent), Startup> {
    let (mut slots, mut absent) = (Vec::new(), Vec::new());
    for (name, url) in tiers {
        let parsed: TierUrl = url.parse().map_err(|source| Startup::Url {
            name: name.clone(),
            source,
        })?;
        let known = claimed.catalog().tiers()?;
        if let TierUrl::Mover { .. } = &parsed {
            // What lies there is known by the stubs that name it; and it is no new tier at the next start.
            claimed.catalog().set_tier(catalog::TierRow {
                id: super::start::number_for(&parsed, &known),
                name: name.clone(),
                url: url.clone(),
                kind: crate::tier::Kind::Mover.as_str().into(),
                owner: claimed.state.instance,
            })?;
        }
        match crate::tier::is_there(&parsed) {
            Ok(true) => {}
            Ok(false) => {
                absent.push((
                    name.clone(),
                    "no tier lies there: is it mounted?".to_owned(),
                ));
                continue;
            }
            Err(why) => {
                absent.push((name.clone(), why.to_string()));
                continue;
            }
        }
        let how = OpenHow::new(claimed.state.instance, fresh_tier(&known));
        match open_tier(&parsed, how) {
            Ok(tier) => {
                let (mark, about) = (tier.mark(), tier.describe());
                claimed.catalog().set_tier(catalog::TierRow {
                    id: mark.tier,
                    name: name.clone(),
                    url: about.url.clone(),
                    kind: about.kind.as_str().into(),
                    owner: mark.owner,
                })?;
                let tier = Arc::new(Retry::new(tier, Attempts::default()));
                slots.push(Slot::new(name.clone(), mark.tier, about.url, tier));
            }
            Err(why) => absent.push((name.clone(), why.to_string())),
        }
    }
    Ok((slots, absent))
}

impl Report {
    /// Files in a state.
    #[must_use]
    pub fn in_state(&self, state: FileState) -> u64 {
        let found = self.files.iter().find(|u| u.state == state);
        found.map_or(0, |u| u.files)
    }
}

/// The highest epoch on each tier, or why it is not known.
type Epochs = std::collections::BTreeMap<TierId, Result<u32, String>>;

/// Tiers of which all was read.
pub(super) type CompleteTiers = std::collections::BTreeSet<TierId>;
