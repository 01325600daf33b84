//! Cartridges of tape tiers: read whole and proven, and emptied when little on them is needed.
//!
//! One thread reads them, one cartridge after the other. They are emptied and freed by the thread that
//! frees tiers ([`super::reclaim`]), so that two never judge one aggregate at once: when somebody asks,
//! at the start where it was cut short, and after each run of the collector. That a cartridge is to be
//! emptied is kept by its library.

use super::proof::CheckError;
use super::reclaim::{gently, with_ground};
use super::{Engine, EngineError, Shared, Slot};
use crate::catalog::Copy;
use crate::error::Failure;
use crate::hsm::reclaim::{self, Left, ReclaimError, Report};
use crate::hsm::verify::{Fault, VerifyError};
use crate::id::{AggregateId, Timestamp};
use crate::tier::tape::label::Barcode;
use crate::tier::tape::library::{CartridgeStatus, Library, LibraryError};
use crate::tier::{ErrorKind, TierError};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// How often the thread looks whether something was asked when nothing rings.
const PATIENCE: Duration = Duration::from_secs(30);
/// Runs that are remembered.
const RUNS: usize = 64;
/// What a run says of single objects.
const LISTED: usize = 1000;

/// What is done with a cartridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// It is read.
    Verify,
    /// It is emptied.
    Repack,
}

/// A run over one cartridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Its number, from 1.
    pub number: u64,
    /// What is done.
    pub deed: Deed,
    /// The tier's name.
    pub tier: String,
    /// Which cartridge.
    pub barcode: Barcode,
    /// When it ended; `None`: it waits, or it runs.
    pub ended: Option<Timestamp>,
    /// Files that were read, or objects that were copied.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that are bad; objects that stay.
    pub trouble: Vec<(AggregateId, String)>,
    /// Copies that are bad by that.
    pub bad_copies: u64,
    /// Old objects that wait for their deletion.
    pub waiting: u64,
    /// Why it ended early.
    pub error: Option<String>,
}

impl Run {
    /// One that has not begun.
    fn new(number: u64, deed: Deed, tier: &str, barcode: Barcode) -> Self {
        Self {
            number,
            deed,
            tier: tier.to_owned(),
            barcode,
            ended: None,
            files: 0,
            bytes: 0,
            trouble: Vec::new(),
            bad_copies: 0,
            waiting: 0,
            error: None,
        }
    }
}

#[derive(Default)]
struct State {
    number: u64,
    /// Runs that have not begun.
    asked: Vec<u64>,
    runs: Vec<Run>,
}

/// What is asked of cartridges, and what came of it.
#[derive(Default)]
pub(super) struct Media(Mutex<State>);

impl State {
    /// Is there room for one more run? The oldest that has ended is forgotten for it.
    fn make_room(&mut self) -> bool {
        if self.runs.len() < RUNS {
            return true;
        }
        let ended = self.runs.iter().position(|run| run.ended.is_some());
        ended.map(|at| self.runs.remove(at)).is_some()
    }
}

impl Media {
    fn update(&self, number: u64, change: impl FnOnce(&mut Run)) {
        let mut state = self.0.lock();
        if let Some(run) = state.runs.iter_mut().find(|run| run.number == number) {
            change(run);
        }
    }

    /// The next run of a kind that was asked for.
    fn next(&self, deed: Deed) -> Option<Run> {
        let mut state = self.0.lock();
        let of_kind = |number: &u64| {
            let mut runs = state.runs.iter();
            runs.any(|run| run.number == *number && run.deed == deed)
        };
        let at = state.asked.iter().position(of_kind)?;
        let number = state.asked.remove(at);
        state.runs.iter().find(|r| r.number == number).cloned()
    }
}

impl Engine {
    /// Asks for a run over a cartridge; its number.
    ///
    /// # Errors
    /// No such tier, or no library of cartridges; the library does not have it; too many wait.
    pub fn tape_deed(&self, tier: &str, barcode: Barcode, deed: Deed) -> Result<u64, EngineError> {
        let shared = &self.shared;
        let slot = shared.slot_named(tier)?;
        let library = library_of(slot)?;
        if !shared.media.0.lock().make_room() {
            let why = format!("{RUNS} runs over cartridges wait already");
            return Err(EngineError::refused(Failure::Busy, why));
        }
        let there = match deed {
            Deed::Verify => library.cartridge(barcode).map(drop),
            Deed::Repack => library.set_repack(barcode, true),
        };
        there.map_err(|why| EngineError::refused(code(&why), why.to_string()))?;
        let mut state = shared.media.0.lock();
        state.number += 1;
        let number = state.number;
        state.asked.push(number);
        // There was room: those who came at once are few.
        state.make_room();
        state.runs.push(Run::new(number, deed, &slot.name, barcode));
        drop(state);
        shared.bell.ring();
        Ok(number)
    }

    /// How far such a run has come.
    ///
    /// # Errors
    /// There was none, or it was long ago.
    pub fn tape_run(&self, number: u64) -> Result<Run, EngineError> {
        let state = self.shared.media.0.lock();
        let found = state.runs.iter().find(|run| run.number == number).cloned();
        found.ok_or_else(|| {
            let why = format!("there is no run {number} over a cartridge");
            EngineError::refused(Failure::NotFound, why)
        })
    }
}

fn code(why: &LibraryError) -> Failure {
    match why {
        LibraryError::Absent { .. } | LibraryError::Exported { .. } => Failure::CartridgeAbsent,
        _ => Failure::TierUnavailable,
    }
}

fn library_of(slot: &Slot) -> Result<Arc<Library>, EngineError> {
    let Some(tape) = slot.tier.tape() else {
        let why = format!("tier {} is no tape library", slot.name);
        return Err(EngineError::refused(Failure::Usage, why));
    };
    let away = |why: TierError| EngineError::refused(Failure::TierUnavailable, why.to_string());
    tape.library().map_err(away)
}

/// The reading thread's work, until the engine stops.
pub(super) fn work(shared: &Arc<Shared>) {
    // Users come first.
    if let Err(why) = rustix::process::setpriority_process(None, 15) {
        tracing::debug!(%why, "cartridges are read at ordinary priority");
    }
    let mut heard = 0;
    while !shared.stopping() {
        match shared.media.next(Deed::Verify) {
            Some(run) => {
                let done = verify(shared, &run);
                ended(shared, run.number, done.err());
            }
            None => heard = shared.bell.wait(heard, PATIENCE),
        }
    }
}

fn ended(shared: &Shared, number: u64, error: Option<String>) {
    let now = shared.now();
    shared.media.update(number, |run| {
        run.ended = Some(now);
        run.error = error;
    });
}

/// Reads a cartridge, and has the copies looked at in what is bad on it, as `verify` does.
fn verify(shared: &Shared, run: &Run) -> Result<(), String> {
    let text = |why: &dyn std::fmt::Display| why.to_string();
    let slot = shared.slot_named(&run.tier).map_err(|e| text(&e))?;
    let library = library_of(slot).map_err(|e| text(&e))?;
    let stop = || shared.stopping();
    let audit = library.audit(run.barcode, &|sofar| {
        shared.media.update(run.number, |run| {
            (run.files, run.bytes) = (sofar.files, sofar.bytes);
        });
        stop()
    });
    let audit = audit.map_err(|e| text(&e))?;
    let mut bad_copies = 0;
    for (file, _) in &audit.bad {
        let copies = shared.live_members(slot.id, file.name.head());
        let copies = copies.map_err(|e| text(&e))?;
        if copies.is_empty() {
            continue;
        }
        // One by one: the others in the object may be whole.
        for copy in &copies {
            bad_copies += u64::from(is_bad(shared, slot, copy).map_err(|e| text(&e))?);
        }
    }
    shared.media.update(run.number, |run| {
        (run.files, run.bytes) = (audit.files, audit.bytes);
        run.bad_copies = bad_copies;
        let bad = audit.bad.iter().take(LISTED);
        run.trouble = bad.map(|(file, why)| (file.name, why.clone())).collect();
    });
    if audit.stopped {
        return Err("stopped".to_owned());
    }
    Ok(())
}

/// Reads a copy on a file that was just seen to be bad, and notes what that shows. What the medium
/// does not give is the copy's fault here: the whole cartridge was read, and it alone failed. Whatever
/// else goes wrong says nothing of the copy.
fn is_bad(shared: &Shared, slot: &Slot, copy: &Copy) -> Result<bool, CheckError> {
    let (begun, one) = (shared.now(), [*copy]);
    let stop = || shared.stopping();
    match shared.check_copies(slot, &*slot.tier, copy.aggregate, &one, &stop) {
        Ok(told) => Ok(told.iter().any(Option::is_some)),
        Err(CheckError::Verify(VerifyError::Tier(why))) if why.kind() == ErrorKind::Unreadable => {
            let fault = Some(Fault::Unreadable(why.to_string()));
            shared.note_faults(slot, copy.aggregate, &one, &[fault], begun)?;
            Ok(true)
        }
        Err(why) => Err(why),
    }
}

/// Empties the next cartridge of which somebody said so; `false`: there is none.
pub(super) fn empty_next(shared: &Shared, next: &mut Option<Timestamp>) -> bool {
    let Some(run) = shared.media.next(Deed::Repack) else {
        return false;
    };
    let done = match shared.slot_named(&run.tier) {
        Ok(slot) => library_of(slot)
            .map_err(|why| why.to_string())
            .and_then(|library| empty(shared, slot, &library, &run, next)),
        Err(why) => Err(why.to_string()),
    };
    ended(shared, run.number, done.err());
    true
}

/// Goes on with the cartridges of a tier that are to be emptied, begins with those that are worth it,
/// and frees those on which everything is dead.
pub(super) fn tend(shared: &Shared, slot: &Slot, next: &mut Option<Timestamp>) {
    let Ok(library) = library_of(slot) else {
        return;
    };
    let share = u64::from(shared.settings.tape_repack_share.get());
    for barcode in library.worth_repacking(share) {
        if !library.has_room_for_parts(barcode) {
            tracing::debug!(tier = %slot.name, %barcode, "no room to empty it of files in parts");
            continue;
        }
        tracing::info!(tier = %slot.name, %barcode, "little on it is needed: it is emptied");
        if let Err(why) = library.set_repack(barcode, true) {
            tracing::warn!(tier = %slot.name, %barcode, %why, "it is not emptied");
        }
    }
    for cartridge in library.cartridges() {
        if !cartridge.entry.repack || cartridge.live == 0 || shared.stopping() {
            continue;
        }
        let run = Run::new(0, Deed::Repack, &slot.name, cartridge.entry.barcode);
        if let Err(why) = empty(shared, slot, &library, &run, next) {
            let barcode = run.barcode;
            tracing::warn!(tier = %slot.name, %barcode, %why, "a cartridge is not emptied yet");
        }
    }
    free(shared, slot, &library);
}

/// Copies what is needed of the aggregates on a cartridge, in the order in which they lie.
fn empty(
    shared: &Shared,
    slot: &Slot,
    library: &Library,
    run: &Run,
    next: &mut Option<Timestamp>,
) -> Result<(), String> {
    let (_, files) = library.cartridge(run.barcode).map_err(|e| e.to_string())?;
    let stop = gently(shared);
    let (mut report, mut full) = (Report::default(), None);
    let done = with_ground(shared, slot, &stop, |ground| {
        for file in files.iter().filter(|f| !f.dead) {
            let left = reclaim::evacuate(ground, file.file.name, &mut report)?;
            if let Left::NoRoom(why) = &left {
                full = Some(why.clone());
            }
            shared.media.update(run.number, |run| match left {
                Left::Waits { copied } => {
                    run.waiting += 1;
                    run.files += u64::from(copied > 0);
                    run.bytes += copied;
                }
                Left::Stays(why) | Left::NoRoom(why) if run.trouble.len() < LISTED => {
                    run.trouble.push((file.file.name, why));
                }
                Left::Stays(_) | Left::NoRoom(_) => {}
            });
        }
        Ok::<(), ReclaimError>(())
    });
    if let Some(why) = full {
        make_way(library, run.barcode, &why)?;
    }
    *next = [*next, report.next].into_iter().flatten().min();
    free(shared, slot, library);
    match done {
        Some(Err(why)) => Err(why.to_string()),
        Some(Ok(())) => Ok(()),
        None => Err("the instance is only starting".to_owned()),
    }
}

/// What is on a cartridge finds no room. If others are being emptied, too, nothing may go to any of them, and they
/// may wait for each other: then this one takes part no more, and may take what is on them.
fn make_way(library: &Library, barcode: Barcode, why: &str) -> Result<(), String> {
    let waits = |c: &CartridgeStatus| c.entry.repack && c.live > 0 && c.entry.barcode != barcode;
    if !library.cartridges().iter().any(waits) {
        return Ok(());
    }
    let unmarked = library.set_repack(barcode, false);
    unmarked.map_err(|e| e.to_string())?;
    Err(format!(
        "{why}; others are being emptied, and may need its room: it is emptied no more, ask again when they are"
    ))
}

fn free(shared: &Shared, slot: &Slot, library: &Library) {
    let stop = |_| shared.stopping();
    let freed = with_ground(shared, slot, &stop, |ground| {
        reclaim::free_cartridges(ground, library)
    });
    if let Some(Err(why)) = freed {
        tracing::warn!(tier = %slot.name, %why, "no cartridge is freed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn barcode() -> Barcode {
        "CRN001L8".parse().expect("barcode")
    }

    #[test]
    fn a_run_that_has_not_ended_is_never_forgotten() {
        let mut state = State::default();
        for number in 1..=RUNS as u64 {
            assert!(state.make_room());
            let run = Run::new(number, Deed::Verify, "t", barcode());
            state.runs.push(run);
        }
        assert!(!state.make_room(), "all of them wait");
        state.runs[3].ended = Some(Timestamp { sec: 1, nsec: 0 });
        assert!(state.make_room());
        assert_eq!(state.runs.len(), RUNS - 1);
        assert!(state.runs.iter().all(|run| run.number != 4));
    }
}
