//! P4 (5) to (8): the file becomes resident. Or it is given back: released as it was.

use super::fetch::set_times;
use super::one::{Opened, Phase, Recall, Writer};
use super::table::{End, Shared};
use super::{Done, RecallError, Step};
use crate::format::record::{Record, State as Data};
use crate::hsm::backing::{Backing, How, SetHow};
use crate::hsm::version::{Seen, Stamp, quiescent_one};
use crate::id::Timestamp;
use rustix::fs::FallocateFlags;
use std::os::fd::AsFd;
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
        Err(why) => {
            tracing::error!(object = %opened.object, %why, "recall cannot be finished");
            shared.end(recall, End::Failed(why));
        }
    }
}

fn settle_down(shared: &Shared, recall: &Recall, opened: &Opened) -> Result<Done, RecallError> {
    let (backing, object) = (&shared.backing, &opened.object);
    let sync =
        || rustix::fs::fsync(&opened.reader).map_err(|why| RecallError::io("sync", object, why));
    sync()?;
    shared.reached(Step::DataSynced)?;
    let untouched = recall.state.lock().touched.is_none();
    let mtime = changing(recall, opened, |writer| {
        // A user who changed attributes meanwhile may have meant to take it away.
        if untouched {
            backing
                .restore_capability(writer.fd.as_fd(), &writer.privileges)
                .map_err(|why| RecallError::backing("restore", object, why))?;
        }
        set_times(writer, true).map_err(|why| RecallError::io("set the times of", object, why))?;
        Ok(writer.mtime)
    })?;
    shared.reached(Step::TimesSet)?;
    sync()?;
    shared.reached(Step::TimesSynced)?;
    let touched = recall.state.lock().touched;
    let resident = Record {
        state: Data::Resident,
        mtime,
        user_ctime: touched.unwrap_or(opened.record.user_ctime),
        ..opened.record.clone()
    };
    let stamp = changing(recall, opened, |writer| {
        let fd = writer.fd.as_fd();
        Stamp::set(
            backing,
            fd,
            recall.hint.as_deref(),
            &resident,
            SetHow::Replace,
        )
        .map_err(|why| RecallError::backing("write the record", object, why))
    })?;
    shared.reached(Step::RecordSet)?;
    sync()?;
    shared.reached(Step::RecordSynced)?;
    let stat = backing
        .stat(opened.reader.as_fd())
        .map_err(|why| RecallError::backing("stat", object, why))?;
    // Closed before anybody is told: a file that is open for writing cannot be executed, and its
    // version cannot be proven.
    drop(recall.io.lock().take());
    let proven = is_untouched(backing, opened, &stamp, mtime);
    let sources = recall.state.lock().sources.clone();
    Ok(Done {
        file: resident.file,
        version: resident.version,
        seen: Seen {
            node: recall.node.clone(),
            size: stat.size,
            ctime: stamp.ctime,
        },
        proven,
        settle: stamp.settle,
        bytes: sources.map_or(0, |s| s.entry().stored_len()),
    })
}

/// Has nobody written since the record was set? From then on users may open the file for writing,
/// so its ctime alone proves nothing: a write in the same tick would share it. But it would not
/// leave the modification time, which lies before the recall.
fn is_untouched(backing: &Backing, opened: &Opened, stamp: &Stamp, mtime: Timestamp) -> bool {
    let Ok(file) = backing.reopen(opened.reader.as_fd(), How::Read) else {
        return false;
    };
    let Ok(quiet) = quiescent_one(backing, file) else {
        return false;
    };
    let seen = quiet.seen();
    (seen.size, seen.ctime) == (opened.record.size, stamp.ctime)
        && backing.stat(quiet.fd()).is_ok_and(|now| now.mtime == mtime)
        && quiet.still_held()
}

/// One change to the file, unless it was truncated.
fn changing<T>(
    recall: &Recall,
    opened: &Opened,
    change: impl FnOnce(&mut Writer) -> Result<T, RecallError>,
) -> Result<T, RecallError> {
    let mut io = recall.io.lock();
    match &mut *io {
        Some(writer) if !recall.is_stopped() => {
            let size = writer.look();
            if size.map_err(|why| RecallError::io("stat", &opened.object, why))?
                != opened.record.size
            {
                return Err(RecallError::Truncated);
            }
            change(writer)
        }
        _ => Err(RecallError::Truncated),
    }
}

/// Punches what was brought back and makes the file released again, as it was. Whatever fails
/// here leaves a file marked Recalling, which is just as good.
pub(super) fn give_back(shared: &Arc<Shared>, recall: &Arc<Recall>, how: GiveBack) {
    recall.stop_serving();
    let opened = recall.state.lock().opened.clone();
    if let Some(opened) = &opened {
        let mut io = recall.io.lock();
        if let Some(mut writer) = io.take().filter(|_| !recall.is_stopped())
            && let Err(why) = punch(shared, recall, opened, &mut writer)
        {
            tracing::warn!(object = %opened.object, %why, "room taken for a recall is not given back");
        }
    }
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

fn punch(
    shared: &Shared,
    recall: &Recall,
    opened: &Opened,
    writer: &mut Writer,
) -> Result<(), RecallError> {
    let object = &opened.object;
    let io = |step| move |why: rustix::io::Errno| RecallError::io(step, object, why);
    if writer.look().map_err(io("stat"))? != opened.record.size {
        return Err(RecallError::Truncated);
    }
    let fd = &writer.fd;
    let len = opened
        .record
        .size
        .div_ceil(PUNCH_TO)
        .saturating_mul(PUNCH_TO);
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(fd, flags, 0, len).map_err(io("punch"))?;
    if recall.state.lock().touched.is_none() {
        shared
            .backing
            .restore_capability(fd.as_fd(), &writer.privileges)
            .map_err(|why| RecallError::backing("restore", object, why))?;
    }
    rustix::fs::fsync(fd).map_err(io("sync"))?;
    set_times(writer, true).map_err(io("set the times of"))?;
    rustix::fs::fsync(fd).map_err(io("sync"))?;
    let touched = recall.state.lock().touched;
    let released = Record {
        state: Data::Released,
        mtime: writer.mtime,
        user_ctime: touched.unwrap_or(opened.record.user_ctime),
        ..opened.record.clone()
    };
    let hint = recall.hint.as_deref();
    let stamp = Stamp::set(
        &shared.backing,
        fd.as_fd(),
        hint,
        &released,
        SetHow::Replace,
    )
    .map_err(|why| RecallError::backing("write the record", object, why))?;
    rustix::fs::fsync(fd).map_err(io("sync"))?;
    if let Some(settle) = stamp.settle {
        shared.asks.settle(settle);
    }
    Ok(())
}
