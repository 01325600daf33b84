//! What `cairn repair` does to one file: a stub put back, a stub dropped, a stub made whole again.
//!
//! Invariants:
//! - Everything that the plan took for granted is looked at once more with users shut out and under a
//!   lease, before the first change; what differs by then is [`MendError::Changed`], and left alone.
//! - Nothing of what is on disk goes before `keep` has put it, or what stands against it, durably under
//!   another name.
//! - From the first punch to the last the record says *recalling*, as in a release: a crash leaves a
//!   file that [`super::recover`] makes a proper stub.

use super::recover::{Found, empty, finish};
use super::{Refusal, alone, sync};
use crate::format::record::{Record, State};
use crate::hsm::backing::{Backing, BackingError, FileStat, SetHow, belongs_to, describe};
use crate::hsm::version::Stamp;
use crate::id::{NodeHandle, Timestamp};
use cairn_fuse::Gate;
use std::os::fd::BorrowedFd;

/// A file that is mended.
#[derive(Clone, Copy)]
pub struct Patient<'a> {
    /// The backing it is on.
    pub backing: &'a Backing,
    /// What shuts users out.
    pub gate: &'a dyn Gate,
    /// The inode.
    pub node: &'a NodeHandle,
    /// A name of it, where nodes are found by name.
    pub hint: Option<&'a [u8]>,
    /// Its ctime when it was judged.
    pub judged: Timestamp,
}

/// Why it was not mended.
#[derive(Debug, thiserror::Error)]
pub enum MendError {
    /// It is not what it was judged by.
    #[error("it changed since it was looked at")]
    Changed,
    /// A step of the release.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// What was to be kept could not be kept.
    #[error("what is to be kept could not be: {0}")]
    Kept(String),
}

impl From<BackingError> for MendError {
    fn from(why: BackingError) -> Self {
        Self::Refused(why.into())
    }
}

/// Keeps something under another name before the file changes. Durable when it returns.
pub type Keep<'a> = &'a mut dyn FnMut(BorrowedFd<'_>, &FileStat, &Record) -> Result<(), String>;

/// A stub that was lost is put back: on a file that holds nothing, of the record's size and time, and
/// without a stub.
///
/// # Errors
/// [`MendError`]; the file is as it was, unless the sync failed.
pub fn put_stub(patient: Patient<'_>, record: &Record) -> Result<Stamp, MendError> {
    let Patient { backing, node, .. } = patient;
    let hold = patient.gate.hold(node).ok_or(Refusal::InUse)?;
    let quiet = alone(backing, node, patient.hint)?;
    let fd = quiet.fd();
    let turn = backing.turn(node);
    let (there, stat) = (backing.record(fd)?, backing.stat(fd)?);
    let stubless = there.is_none_or(|r| r.state == State::Resident || !belongs(backing, &r, node));
    let fits = (stat.size, stat.mtime) == (record.size, record.mtime);
    if !stubless || !fits || stat.ctime != patient.judged || backing.has_data(fd)? {
        return Err(MendError::Changed);
    }
    let stamp = Stamp::set(backing, fd, patient.hint, record, SetHow::Either)?;
    drop(turn);
    sync(fd)?;
    patient.gate.changed(node);
    drop(hold);
    Ok(stamp)
}

/// The stub is dropped: what is on disk is the file from now on.
///
/// # Errors
/// [`MendError`].
pub fn drop_stub(patient: Patient<'_>, judged: &Record, keep: Keep<'_>) -> Result<(), MendError> {
    let Patient { backing, node, .. } = patient;
    let hold = patient.gate.hold(node).ok_or(Refusal::InUse)?;
    let quiet = alone(backing, node, patient.hint)?;
    let fd = quiet.fd();
    let stat = still(&patient, fd, judged)?;
    keep(fd, &stat, judged).map_err(MendError::Kept)?;
    if !quiet.still_held() {
        return Err(Refusal::InUse.into());
    }
    let turn = backing.turn(node);
    backing.remove_record(fd)?;
    drop(turn);
    sync(fd)?;
    patient.gate.changed(node);
    drop(hold);
    Ok(())
}

/// The file becomes what its stub says again: of that size and time, and without data.
///
/// # Errors
/// [`MendError`]; behind the first change the file is the conflict that it was, of another size, or
/// half released, and `recover` finishes it.
pub fn make_stub_whole(
    patient: Patient<'_>,
    judged: &Record,
    keep: Keep<'_>,
) -> Result<Stamp, MendError> {
    let Patient { backing, node, .. } = patient;
    let hold = patient.gate.hold(node).ok_or(Refusal::InUse)?;
    let quiet = alone(backing, node, patient.hint)?;
    let fd = quiet.fd();
    let stat = still(&patient, fd, judged)?;
    keep(fd, &stat, judged).map_err(MendError::Kept)?;
    if !quiet.still_held() {
        return Err(Refusal::InUse.into());
    }
    // While the record says what it said: cut short here, it is the same conflict as before. A file that
    // says *recalling* has its size already.
    rustix::fs::ftruncate(fd, judged.size)
        .map_err(|why| BackingError::of("set the size of", || describe(fd), why))?;
    sync(fd)?;
    let turn = backing.turn(node);
    let half = Record {
        state: State::Recalling,
        ctime_floor: None,
        ..judged.clone()
    };
    backing.will_touch(node);
    backing.set_record(fd, &half, SetHow::Replace)?;
    drop(turn);
    sync(fd)?;
    #[cfg(test)]
    super::tests::half_way()?;
    if !quiet.still_held() {
        return Err(Refusal::InUse.into());
    }
    let file = Found {
        backing,
        quiet: &quiet,
        node,
        hint: patient.hint,
    };
    let stat = backing.stat(fd)?;
    let taken = empty(&file, &stat)?;
    let stamp = finish(&file, judged, State::Released, taken)?;
    backing.was_touched(node, fd);
    patient.gate.changed(node);
    drop(hold);
    Ok(stamp)
}

/// The file is what it was judged by: the same record, and no change since.
fn still(
    patient: &Patient<'_>,
    fd: BorrowedFd<'_>,
    judged: &Record,
) -> Result<FileStat, MendError> {
    let record = patient.backing.record(fd)?;
    let stat = patient.backing.stat(fd)?;
    if record.as_ref() != Some(judged) || stat.ctime != patient.judged {
        return Err(MendError::Changed);
    }
    Ok(stat)
}

fn belongs(backing: &Backing, record: &Record, node: &NodeHandle) -> bool {
    belongs_to(record, backing.fs(), node)
}
