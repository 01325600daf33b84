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

use super::{Refusal, alone, punch, set_times, sync};
use crate::format::record::{Record, State};
use crate::hsm::backing::{Backing, SetHow, belongs_to};
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
    let Some(record) = backing.record(quiet.fd())? else {
        return Ok(Recovered::Nothing);
    };
    if !belongs_to(&record, backing.fs(), node) {
        return Err(Refusal::Foreign);
    }
    let done = match record.state {
        State::Resident => Recovered::Nothing,
        _ if quiet.seen().size == 0 && record.size > 0 => Recovered::Truncated,
        State::Recalling => half_way(backing, &quiet, hint, &record)?,
        State::Released => stub(backing, &quiet, hint, &record)?,
    };
    if done != Recovered::Nothing {
        gate.changed(node);
    }
    drop((quiet, hold));
    Ok(done)
}

/// A release or a recall was under way: extents mean nothing unless they are the whole content.
fn half_way(
    backing: &Backing,
    quiet: &Quiet,
    hint: Option<&[u8]>,
    record: &Record,
) -> Result<Recovered, Refusal> {
    let fd = quiet.fd();
    let data = backing.has_data(fd)?;
    let stat = backing.stat(fd)?;
    if stat.size != record.size {
        // Neither a release nor a recall changes the size.
        return Ok(Recovered::Conflict);
    }
    let whole = data && has_content(backing, quiet, record)?;
    if whole {
        sync(fd)?;
    } else {
        let privileges = backing.privileges(fd)?;
        punch(fd, &stat)?;
        backing.restore_privileges(fd, &privileges)?;
    }
    set_times(fd, stat.atime, record.mtime)?;
    let state = if whole {
        State::Resident
    } else {
        State::Released
    };
    let stamp = finish(backing, quiet, hint, record, state)?;
    Ok(if whole {
        Recovered::Resident(stamp)
    } else {
        Recovered::Released(stamp)
    })
}

/// A stub by its record: data extents belong there only if the punch before it was lost.
fn stub(
    backing: &Backing,
    quiet: &Quiet,
    hint: Option<&[u8]>,
    record: &Record,
) -> Result<Recovered, Refusal> {
    let fd = quiet.fd();
    let stat = backing.stat(fd)?;
    let fits = stat.size == record.size && stat.mtime == record.mtime;
    match (fits, backing.has_data(fd)?) {
        (true, false) => return Ok(Recovered::Nothing),
        (false, _) => return Ok(Recovered::Conflict),
        (true, true) => {}
    }
    if !has_content(backing, quiet, record)? {
        return Ok(Recovered::Conflict);
    }
    let privileges = backing.privileges(fd)?;
    punch(fd, &stat)?;
    backing.restore_privileges(fd, &privileges)?;
    set_times(fd, stat.atime, record.mtime)?;
    finish(backing, quiet, hint, record, State::Released).map(Recovered::Released)
}

fn has_content(backing: &Backing, quiet: &Quiet, record: &Record) -> Result<bool, Refusal> {
    match checksum(backing, quiet.fd(), record.size, || quiet.still_held()) {
        Ok(found) if !quiet.still_held() => {
            let _ = found;
            Err(Refusal::InUse)
        }
        Ok(found) => Ok(found == record.crc),
        Err(Interrupted::Stopped) => Err(Refusal::InUse),
        Err(Interrupted::Backing(why)) => Err(why.into()),
    }
}

fn finish(
    backing: &Backing,
    quiet: &Quiet,
    hint: Option<&[u8]>,
    record: &Record,
    state: State,
) -> Result<Stamp, Refusal> {
    let record = Record {
        state,
        ..record.clone()
    };
    let stamp = Stamp::set(backing, quiet.fd(), hint, &record, SetHow::Replace)?;
    sync(quiet.fd())?;
    Ok(stamp)
}
