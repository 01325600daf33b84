//! P4 (4): blocks are fetched, verified, and written in place, or kept in memory while streaming.

use super::error::Stowed;
use super::finish::{self, GiveBack};
use super::meanwhile::{put_back, set_id};
use super::one::{Opened, Phase, Recall, State};
use super::progress::{Progress, Run};
use super::source::{Miss, Sources};
use super::table::{End, Shared};
use super::thaw::{self, Begun};
use super::{RecallError, Step};
use crate::format::aggregate::IndexEntry;
use crate::hsm::tape::desk::Wish;
use crate::hsm::tape::queue::Urgency;
use cairn_mover::Checked;
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// A worker's turn on one file: one run, if there is one to fetch.
pub(super) fn ticket(shared: &Arc<Shared>, recall: &Arc<Recall>, slot: usize) {
    let turn = {
        let mut state = recall.state.lock();
        let running = state.phase == Phase::Running;
        let run = state
            .progress
            .as_mut()
            .filter(|_| running)
            .and_then(Progress::next);
        // Parts are read one after the other: another worker would wait for the same drive.
        let alone = state.sources.as_ref().is_some_and(|s| s.in_parts());
        if let Some(progress) = state.progress.as_mut().filter(|_| run.is_some() && !alone) {
            // Work was found: let another worker look for more beside this one.
            let slot = usize::from(!progress.is_urgent());
            if state.tickets[0] + state.tickets[1] < shared.settings.in_flight {
                shared.ticket(recall, &mut state, slot);
            }
        }
        let state = &mut *state;
        match (run, &state.opened, &state.sources) {
            (Some(mut run), Some(opened), Some(sources)) => {
                let upto = sources.upto(run.blocks());
                if let Some(progress) = &mut state.progress {
                    progress.cut_off(upto..run.blocks().end);
                }
                run.count = upto - run.first;
                Some((run, Arc::clone(opened), Arc::clone(sources)))
            }
            _ => {
                state.tickets[slot] -= 1;
                None
            }
        }
    };
    let Some((run, opened, sources)) = turn else {
        return;
    };
    if !is_seated(shared, recall, run, &sources, slot) {
        return;
    }
    let trouble = fetch(shared, recall, run, &opened, &sources);
    {
        let mut state = recall.state.lock();
        state.tickets[slot] -= 1;
        if let Some(progress) = &mut state.progress {
            progress.run_over();
        }
    }
    match trouble {
        None => shared.go_on(recall),
        // Who still waits starts over, and finds what the truncation left.
        Some(RecallError::Truncated) => {
            drop(recall.io.lock().take());
            shared.end(recall, End::Again);
        }
        // Halted by a test: the file is left as a crash would leave it.
        Some(RecallError::Cancelled) => {
            recall
                .stop
                .store(true, std::sync::atomic::Ordering::Release);
            shared.end(recall, End::Failed(RecallError::Cancelled));
        }
        // Somebody else's data may lie in the file by now: nothing is given back.
        Some(why @ RecallError::Conflict { .. }) => {
            drop(recall.io.lock().take());
            shared.end(recall, End::Failed(why));
        }
        // Who waits begins anew, and waits until it was restored.
        Some(RecallError::NotRestored(stowed)) => {
            let end = restored_first(shared, recall, stowed, &sources);
            shared.stop(recall, GiveBack::AndEnd(end));
        }
        Some(why) => shared.stop(recall, GiveBack::AndEnd(End::Failed(why))),
    }
}

/// What is to be read must be restored: it is asked for, if it is not yet.
fn restored_first(shared: &Arc<Shared>, recall: &Recall, stowed: Stowed, sources: &Sources) -> End {
    match thaw::begin(shared, &recall.node, &stowed) {
        Begun::Comes(key) => {
            thaw::begin_beside(shared, sources, key);
            End::Again
        }
        Begun::At(_) => End::Again,
        Begun::InVain => End::Failed(RecallError::NotRestored(stowed)),
    }
}

/// Of a file in parts, each has a turn of its own at a drive: whoever has the seat of another part gives
/// it back first, and waits on the lane of those that have none. `false`: the run was given back.
fn is_seated(
    shared: &Arc<Shared>,
    recall: &Arc<Recall>,
    run: Run,
    sources: &Sources,
    slot: usize,
) -> bool {
    let Some((object, range)) = sources.part_of(run.first) else {
        return true;
    };
    let Some(desk) = shared.asks.desk(sources.primary_tier()) else {
        return true;
    };
    let user = {
        let mut state = recall.state.lock();
        if state.seat_of == Some(object) {
            return true;
        }
        state.seat_of = None;
        if let Some(seat) = state.seat.take() {
            if let Some(progress) = &mut state.progress {
                progress.cut_off(run.blocks());
                progress.run_over();
            }
            state.tickets[slot] -= 1;
            if state.phase == Phase::Running {
                shared.ticket(recall, &mut state, slot);
            }
            drop(state);
            drop(seat);
            return false;
        }
        state.waiters.values().map(|w| w.user).next().unwrap_or(0)
    };
    // Whoever waited may have gone.
    let wanted = |state: &State| state.implicit || !state.waiters.is_empty();
    let stop = || {
        let state = recall.state.lock();
        state.phase != Phase::Running || !wanted(&state)
    };
    let seat = desk.find(object, range).and_then(|stretch| {
        let wish = Wish {
            stretch,
            user,
            urgency: if run.urgent {
                Urgency::Reader
            } else {
                Urgency::Work
            },
        };
        desk.seat(wish, &stop)
    });
    let mut state = recall.state.lock();
    if state.phase != Phase::Running {
        // Whoever ended it meanwhile saw to those who wait.
        state.tickets[slot] -= 1;
        return false;
    }
    if seat.is_none() && !wanted(&state) {
        // No drive turns for nobody.
        if let Some(progress) = &mut state.progress {
            progress.cut_off(run.blocks());
            progress.run_over();
        }
        state.tickets[slot] -= 1;
        return false;
    }
    // Without a seat it is read all the same: the read says what is wrong.
    (state.seat, state.seat_of) = (seat, Some(object));
    true
}

/// Fetches a run; what it returns ends the recall.
fn fetch(
    shared: &Arc<Shared>,
    recall: &Arc<Recall>,
    run: Run,
    opened: &Opened,
    sources: &Sources,
) -> Option<RecallError> {
    let mut trouble = None;
    let mut give = |block: u32, got: Result<Checked, Miss>| {
        let stored = match got {
            _ if trouble.is_some() => Ok(false),
            Ok(checked) => match store(shared, recall, block, &checked, opened, sources.entry()) {
                Ok(()) => {
                    arrived(shared, recall, block, checked);
                    Ok(true)
                }
                Err(why @ (RecallError::NoSpace { .. } | RecallError::Quota { .. })) => {
                    stream(shared, recall, why);
                    arrived(shared, recall, block, checked);
                    Ok(true)
                }
                Err(why) => Err(why),
            },
            Err(Miss::Bad) => {
                bad(shared, recall, block);
                Ok(true)
            }
            Err(passing) => Err(passing.into_error(0)),
        };
        let stored = stored.and_then(|done| shared.reached(Step::BlockWritten).map(|()| done));
        match stored {
            Ok(true) => {}
            Ok(false) => returned(recall, block),
            Err(why) => {
                returned(recall, block);
                trouble = Some(why);
            }
        }
    };
    let leave = || drop(recall.state.lock().seat.take());
    sources.fetch(
        run.blocks(),
        &*shared.asks,
        &shared.indexes,
        &leave,
        &mut give,
    );
    trouble
}

fn arrived(shared: &Arc<Shared>, recall: &Arc<Recall>, block: u32, checked: Checked) {
    let answers = {
        let mut state = recall.state.lock();
        let Some(progress) = &mut state.progress else {
            return;
        };
        let streaming = progress.is_streaming();
        if streaming {
            state.memory.insert(block, checked);
        }
        let Some(progress) = &mut state.progress else {
            return;
        };
        let effects = progress.arrived(block);
        state.take(effects)
    };
    shared.deliver(recall, answers);
}

fn bad(shared: &Arc<Shared>, recall: &Arc<Recall>, block: u32) {
    let answers = {
        let mut state = recall.state.lock();
        let Some(progress) = &mut state.progress else {
            return;
        };
        let effects = progress.failed(block);
        state.take(effects)
    };
    shared.deliver(recall, answers);
}

fn returned(recall: &Recall, block: u32) {
    if let Some(progress) = &mut recall.state.lock().progress {
        progress.returned(block);
    }
}

/// The room that there was is gone: from here on from memory. What is on disk is given back, in
/// this order: no reader is sent to the disk any more, those that were are served, then punched.
fn stream(shared: &Arc<Shared>, recall: &Arc<Recall>, why: RecallError) {
    let answers = {
        let mut state = recall.state.lock();
        state.no_room = Some(why);
        let Some(progress) = &mut state.progress else {
            return;
        };
        let effects = progress.stream();
        state.take(effects)
    };
    finish::give_back(shared, recall, GiveBack::AndStream);
    shared.deliver(recall, answers);
}

/// Writes a block where it belongs. While streaming there is no writer, and nothing to do.
fn store(
    shared: &Shared,
    recall: &Recall,
    block: u32,
    checked: &Checked,
    opened: &Opened,
    entry: &IndexEntry,
) -> Result<(), RecallError> {
    let mut io = recall.io.lock();
    if recall.is_stopped() {
        return Err(RecallError::Truncated);
    }
    let Some(writer) = &mut *io else {
        return Ok(());
    };
    let bytes = entry.stored_len();
    let fail = |step, why: Errno| match why {
        Errno::NOSPC => RecallError::NoSpace { bytes },
        Errno::DQUOT => RecallError::Quota { bytes },
        why => RecallError::io(step, why),
    };
    let fd = writer.fd.as_fd();
    let stat = rustix::fs::fstat(fd).map_err(|why| fail("stat", why))?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size == 0 {
        return Err(RecallError::Truncated);
    }
    if size != opened.record.size {
        // Cut or grown through another way than the mirror's.
        let why = "its size changed during the recall";
        return Err(RecallError::Conflict { why });
    }
    let taken = set_id(&shared.backing, recall, fd)?;
    let written = entry.pieces(u64::from(block)).try_for_each(|piece| {
        let (from, len) = (piece.within_block as usize, piece.len as usize);
        let bytes = checked.as_slice().get(from..from + len).unwrap_or_default();
        write_at(fd, bytes, piece.logical).map_err(|why| fail("write", why))
    });
    put_back(&shared.backing, recall, opened, fd, taken)?;
    written
}

fn write_at(fd: BorrowedFd<'_>, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, at) {
            Ok(0) => return Err(Errno::IO),
            Ok(n) => {
                bytes = &bytes[n..];
                at += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(why) => return Err(why),
        }
    }
    Ok(())
}
