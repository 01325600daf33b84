//! After a crash between the steps of a release or of a recall: what a stub whose file holds data
//! extents really is.
//!
//! ```text
//!  record       data                          becomes
//!  Recalling    none                          released
//!  Recalling    all, with the record's sum    resident
//!  Recalling    anything else                 released (the rest is punched; the copies are good)
//!  Released     none                          (released: nothing to do)
//!  Released     all, size, mtime and sum fit  released (the punch is finished)
//!  Released     anything else                 conflict: somebody wrote into the stub
//! ```

use super::{Refusal, alone, mark, punch, settle_stub, sync};
use crate::format::record::{Record, State};
use crate::hsm::backing::{Backing, FileStat, SetId, belongs_to};
use crate::hsm::version::{Interrupted, Quiet, Stamp, checksum};
use crate::id::NodeHandle;
use cairn_fuse::Gate;

/// What a file turned out to be, or was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered {
    /// There was nothing to do: no stub, or a proper one.
    Nothing,
    /// The file is resident again: its record as it is now.
    Resident(Stamp),
    /// The file is released: its stub as it is now.
    Released(Stamp),
    /// The stub holds no data because the file was cut to nothing: a truncate to 0 was under way,
    /// and whoever finishes it removes the record (P5).
    Truncated,
    /// Somebody wrote into the stub: reads give EIO, an administrator decides (P4).
    Conflict,
}

/// Brings one file into order. The caller sees to it that no recall of the node is running.
///
/// # Errors
/// [`Refusal`]: the file is as it was.
pub fn recover(
    backing: &Backing,
    gate: &dyn Gate,
    node: &NodeHandle,
    hint: Option<&[u8]>,
) -> Result<Recovered, Refusal> {
    let hold = gate.hold(node).ok_or(Refusal::InUse)?;
    let quiet = alone(backing, node, hint)?;
    let file = Found {
        backing,
        quiet: &quiet,
        node,
        hint,
    };
    // In one turn: a user may be setting the file's times.
    let turn = backing.turn(node);
    let (record, stat) = (backing.record(quiet.fd())?, backing.stat(quiet.fd())?);
    drop(turn);
    let Some(record) = record else {
        return Ok(Recovered::Nothing);
    };
    if !belongs_to(&record, backing.fs(), node) {
        return Err(Refusal::Foreign);
    }
    let done = match record.state {
        State::Resident => Recovered::Nothing,
        _ if stat.size == 0 && record.size > 0 => Recovered::Truncated,
        // Neither a release nor a recall changes the size.
        _ if stat.size != record.size => Recovered::Conflict,
        State::Recalling => half_way(&file, &record, &stat)?,
        State::Released if stat.mtime != record.mtime => Recovered::Conflict,
        State::Released => stub(&file, &record, &stat)?,
    };
    if done != Recovered::Nothing {
        gate.changed(node);
    }
    drop((quiet, hold));
    Ok(done)
}

/// The file, alone and quiet.
pub(super) struct Found<'a> {
    pub(super) backing: &'a Backing,
    pub(super) quiet: &'a Quiet,
    pub(super) node: &'a NodeHandle,
    pub(super) hint: Option<&'a [u8]>,
}

/// A release or a recall was under way: extents mean nothing unless they are the whole content.
fn half_way(file: &Found<'_>, record: &Record, stat: &FileStat) -> Result<Recovered, Refusal> {
    let fd = file.quiet.fd();
    let data = file.backing.has_data(fd)?;
    if data && has_content(file, record)? {
        sync(fd)?;
        return finish(file, record, State::Resident, None).map(Recovered::Resident);
    }
    let taken = empty(file, stat)?;
    finish(file, record, State::Released, taken).map(Recovered::Released)
}

/// A stub by its record: data extents belong there only if the punch before it was lost.
fn stub(file: &Found<'_>, record: &Record, stat: &FileStat) -> Result<Recovered, Refusal> {
    if !file.backing.has_data(file.quiet.fd())? {
        return Ok(Recovered::Nothing);
    }
    if !has_content(file, record)? {
        return Ok(Recovered::Conflict);
    }
    // The punch moves the modification time: cut short, a stub that says Released would be in
    // conflict for good.
    let fd = file.quiet.fd();
    mark(file.backing, fd, file.node, record)?;
    sync(fd)?;
    if !file.quiet.still_held() {
        return Err(Refusal::InUse);
    }
    let taken = empty(file, stat)?;
    finish(file, record, State::Released, taken).map(Recovered::Released)
}

/// Punches, without losing the capability; the set-id bits that this takes.
pub(super) fn empty(file: &Found<'_>, stat: &FileStat) -> Result<Option<SetId>, Refusal> {
    let (backing, fd) = (file.backing, file.quiet.fd());
    let turn = backing.turn(file.node);
    let kept = backing.keep_capability(fd)?;
    drop(turn);
    if kept {
        sync(fd)?;
    }
    Ok(punch(backing, file.quiet, file.node, stat)?)
}

fn has_content(file: &Found<'_>, record: &Record) -> Result<bool, Refusal> {
    let quiet = file.quiet;
    match checksum(file.backing, quiet.fd(), record.size, || quiet.still_held()) {
        Ok(found) if !quiet.still_held() => {
            let _ = found;
            Err(Refusal::InUse)
        }
        Ok(found) => Ok(found == record.crc),
        Err(Interrupted::Stopped) => Err(Refusal::InUse),
        Err(Interrupted::Backing(why)) => Err(why.into()),
    }
}

/// What the kernel took back, and the record last, with what users set up to now.
pub(super) fn finish(
    file: &Found<'_>,
    record: &Record,
    state: State,
    taken: Option<SetId>,
) -> Result<Stamp, Refusal> {
    let stamp = settle_stub(
        file.backing,
        file.quiet.fd(),
        (file.node, file.hint),
        (record, state),
        taken,
    )?;
    sync(file.quiet.fd())?;
    Ok(stamp)
}
