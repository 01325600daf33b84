//! P4 (5) to (8): the file becomes resident. Or it is given back: released as it was.

use super::meanwhile::{own_record, put_back, set_id, set_mtime};
use super::one::{Opened, Phase, Recall, Writer};
use super::table::{End, Shared};
use super::{Done, RecallError, Step};
use crate::format::record::{Record, State as Data};
use crate::hsm::backing::{Backing, How, SetHow};
use crate::hsm::version::{Seen, Stamp, quiescent_one};
use rustix::fs::FallocateFlags;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// Holes are punched to whole blocks; no filesystem's is larger.
const PUNCH_TO: u64 = 1 << 20;

/// What follows when a file was given back.
pub(super) enum GiveBack {
    /// Its readers are served from memory.
    AndStream,
    /// The recall is over.
    AndEnd(End),
}

/// P4 (5) to (8). Runs on the sync lane; the only one at it for this file.
pub(super) fn finish(shared: &Arc<Shared>, recall: &Arc<Recall>) {
    let opened = recall.state.lock().opened.clone();
    let Some(opened) = opened else { return };
    match settle_down(shared, recall, &opened) {
        Ok(done) => {
            tracing::info!(file = %done.file, bytes = done.bytes, object = %opened.object, "recalled");
            shared.asks.recalled(&done);
            shared.end(recall, End::Resident(Some(done)));
        }
        Err(RecallError::Truncated) => shared.end(recall, End::Again),
        // Halted by a test: the file is left as a crash would leave it.
        Err(why @ RecallError::Cancelled) => shared.end(recall, End::Failed(why)),
        Err(why) => {
            tracing::error!(object = %opened.object, %why, "recall cannot be finished");
            give_back(shared, recall, GiveBack::AndEnd(End::Failed(why)));
        }
    }
}

fn settle_down(shared: &Shared, recall: &Recall, opened: &Opened) -> Result<Done, RecallError> {
    let backing = &shared.backing;
    let sync = || rustix::fs::fsync(&opened.reader).map_err(|why| RecallError::io("sync", why));
    sync()?;
    shared.reached(Step::DataSynced)?;
    changing(recall, opened, |fd| {
        let _turn = backing.turn(&recall.node);
        let record = own_record(backing, opened, fd)?;
        backing
            .give_back_capability(fd)
            .map_err(|why| RecallError::backing("give back the capability", why))?;
        set_mtime(fd, record.mtime).map_err(|why| RecallError::io("set the times", why))
    })?;
    shared.reached(Step::TimesSet)?;
    sync()?;
    shared.reached(Step::TimesSynced)?;
    let stamp = changing(recall, opened, |fd| {
        turn_to(shared, recall, opened, fd, Data::Resident)
    })?;
    shared.reached(Step::RecordSet)?;
    sync()?;
    shared.reached(Step::RecordSynced)?;
    // Closed before anybody is told: a file that is open for writing cannot be executed, and its
    // version cannot be proven.
    drop(recall.io.lock().take());
    backing.was_touched(&recall.node, opened.reader.as_fd());
    let proven = is_untouched(backing, opened, &stamp);
    let sources = recall.state.lock().sources.clone();
    Ok(Done {
        file: stamp.record.file,
        version: stamp.record.version,
        seen: Seen {
            node: recall.node.clone(),
            size: stamp.record.size,
            ctime: stamp.ctime,
        },
        proven,
        settle: stamp.settle,
        bytes: sources.map_or(0, |s| s.entry().stored_len()),
    })
}

/// P4 (7), or back to a stub: the capability back for good, then the record. In one turn with what
/// users may have set up to now.
fn turn_to(
    shared: &Shared,
    recall: &Recall,
    opened: &Opened,
    fd: BorrowedFd<'_>,
    state: Data,
) -> Result<Stamp, RecallError> {
    let backing = &shared.backing;
    let _turn = backing.turn(&recall.node);
    let record = own_record(backing, opened, fd)?;
    backing
        .settle_capability(fd)
        .map_err(|why| RecallError::backing("give back the capability", why))?;
    // As the filesystem keeps it, which may be coarser than what was asked for.
    let stat = backing
        .stat(fd)
        .map_err(|why| RecallError::backing("stat", why))?;
    let record = Record {
        state,
        mtime: stat.mtime,
        ..record
    };
    let hint = recall.hint.as_deref();
    Stamp::set(backing, fd, hint, &record, SetHow::Replace)
        .map_err(|why| RecallError::backing("write the record", why))
}

/// Has nobody written since the record was set? From then on users may open the file for writing,
/// so its ctime alone proves nothing: a write in the same tick would share it. But it would not
/// leave the modification time, which lies before the recall.
fn is_untouched(backing: &Backing, opened: &Opened, stamp: &Stamp) -> bool {
    let Ok(file) = backing.reopen(opened.reader.as_fd(), How::Read) else {
        return false;
    };
    let Ok(quiet) = quiescent_one(backing, file) else {
        return false;
    };
    let seen = quiet.seen();
    (seen.size, seen.ctime) == (opened.record.size, stamp.ctime)
        && backing
            .stat(quiet.fd())
            .is_ok_and(|now| now.mtime == stamp.record.mtime)
        && quiet.still_held()
}

/// One change to the file, unless it was truncated.
fn changing<T>(
    recall: &Recall,
    opened: &Opened,
    change: impl FnOnce(BorrowedFd<'_>) -> Result<T, RecallError>,
) -> Result<T, RecallError> {
    let io = recall.io.lock();
    match &*io {
        Some(writer) if !recall.is_stopped() => {
            check_size(writer, opened)?;
            change(writer.fd.as_fd())
        }
        _ => Err(RecallError::Truncated),
    }
}

fn check_size(writer: &Writer, opened: &Opened) -> Result<(), RecallError> {
    let stat = rustix::fs::fstat(&writer.fd).map_err(|why| RecallError::io("stat", why))?;
    if u64::try_from(stat.st_size) == Ok(opened.record.size) {
        Ok(())
    } else {
        Err(RecallError::Truncated)
    }
}

/// Gives the room back, then does what follows.
pub(super) fn give_back(shared: &Arc<Shared>, recall: &Arc<Recall>, how: GiveBack) {
    give_room_back(shared, recall);
    match how {
        GiveBack::AndStream => {
            let mut state = recall.state.lock();
            if state.phase == Phase::Running || state.phase == Phase::Beginning {
                state.reader = None;
            }
        }
        GiveBack::AndEnd(end) => shared.end(recall, end),
    }
}

/// Punches what was brought back and makes the file released again, as it was. From here on no
/// reader is served from the disk; those that were are waited for. Whatever fails leaves a file
/// marked Recalling, which is just as good.
pub(super) fn give_room_back(shared: &Shared, recall: &Recall) {
    recall.stop_serving();
    let opened = recall.state.lock().opened.clone();
    let Some(opened) = opened else { return };
    let mut io = recall.io.lock();
    if let Some(writer) = io.take().filter(|_| !recall.is_stopped())
        && let Err(why) = punch(shared, recall, &opened, &writer)
    {
        tracing::warn!(object = %opened.object, %why, "room taken for a recall is not given back");
    }
    drop(io);
    let reader = opened.reader.as_fd();
    shared.backing.was_touched(&recall.node, reader);
    shared.asks.touched(&recall.node);
}

fn holds_data(backing: &Backing, opened: &Opened) -> Result<bool, RecallError> {
    backing
        .has_data(opened.reader.as_fd())
        .map_err(|why| RecallError::backing("look for data", why))
}

fn punch(
    shared: &Shared,
    recall: &Recall,
    opened: &Opened,
    writer: &Writer,
) -> Result<(), RecallError> {
    let backing = &shared.backing;
    let io = |step| move |why: rustix::io::Errno| RecallError::io(step, why);
    check_size(writer, opened)?;
    let fd = writer.fd.as_fd();
    // Not if it became resident, and its last sync alone failed. Only this recall could do that,
    // so no turn need be held on.
    let kept = {
        let _turn = backing.turn(&recall.node);
        own_record(backing, opened, fd)?;
        backing.keep_capability(fd)
    };
    match kept {
        // The punch would take it for good. There is nothing to punch.
        Err(why) if !holds_data(backing, opened)? => {
            tracing::debug!(object = %opened.object, %why, "no punch: the capability is not kept");
        }
        Err(why) => return Err(RecallError::backing("keep the capability", why)),
        Ok(kept) => {
            if kept {
                rustix::fs::fsync(fd).map_err(io("sync"))?;
            }
            let taken = set_id(backing, recall, fd)?;
            let len = opened.record.size.div_ceil(PUNCH_TO);
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(fd, flags, 0, len.saturating_mul(PUNCH_TO))
                .map_err(io("punch"))?;
            rustix::fs::fsync(fd).map_err(io("sync"))?;
            put_back(backing, recall, opened, fd, taken)?;
        }
    }
    let stamp = turn_to(shared, recall, opened, fd, Data::Released)?;
    rustix::fs::fsync(fd).map_err(io("sync"))?;
    if let Some(settle) = stamp.settle {
        shared.asks.settle(settle);
    }
    Ok(())
}
