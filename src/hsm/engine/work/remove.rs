//! Copies given up (`cairn remove`): what is left is proven first, then the record forgets the copy,
//! then the catalog.
//!
//! Invariants:
//! - The last good copy of a released file is never given up; that of a resident one only if its owner
//!   said so for this request, and then the file is not archived any more. A copy elsewhere that cannot
//!   be proven now is never given up along with it.
//! - The node is claimed: nothing is released, archived or settled on the strength of a copy that is
//!   about to go.
//! - A crash between the two steps leaves a copy that counts and that the record does not name: the
//!   action is done again. No bytes go here; what no file counts on is reclaimed later.

use super::super::ask::{Consent, Options};
use super::super::{EngineError, Shared, tree};
use super::{busy, end, failed, later, soon_or_never};
use crate::catalog::{
    Action, Copy, CopyState, Durability, FileState, Finish, Node, Proven, Rebound, Removal, Removed,
};
use crate::error::Failure;
use crate::format::record::{CopyHint, Record, State};
use crate::hsm::backing::{BackingError, How, SetHow, belongs_to};
use crate::hsm::version::{NotQuiet, Quiet, Stamp, quiescent_again, quiescent_one};
use crate::id::TierId;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub(super) fn remove(shared: &Shared, actions: &[Action]) {
    for action in actions {
        let finish = if shared.stopping() {
            Finish::PutBack
        } else {
            one(shared, action)
        };
        end(shared, action, finish);
    }
}

/// A file that loses a copy.
struct File<'a> {
    row: &'a Node,
    fd: OwnedFd,
    /// Its own; `None`: an earlier try took it away already.
    record: Option<Record>,
}

fn one(shared: &Shared, action: &Action) -> Finish {
    let Some(tier) = action.tier else {
        return super::stranger(action);
    };
    let Some(_claim) = shared.lanes.claim(&action.handle) else {
        return busy(shared, action);
    };
    if shared
        .recaller()
        .is_some_and(|r| r.is_running(&action.handle))
    {
        return soon_or_never(shared, action, Failure::Busy, "it is being recalled");
    }
    match give_up(shared, action, tier) {
        Ok(finish) => finish,
        Err(EngineError::Backing(BackingError::Gone { .. })) => Finish::Done,
        Err(EngineError::Backing(why @ BackingError::Busy { .. })) => {
            soon_or_never(shared, action, Failure::Busy, why)
        }
        Err(why) => later(shared, action, why.code(), why),
    }
}

fn give_up(shared: &Shared, action: &Action, tier: TierId) -> Result<Finish, EngineError> {
    shared.drain_changelog()?;
    shared.catalog.settle(Durability::Relaxed)?;
    let Some(row) = shared.catalog.node_by_handle(&action.handle)? else {
        return Ok(Finish::Done);
    };
    let hint = tree::hint(shared, &row.handle)?;
    let fd = shared
        .backing
        .open_node(&row.handle, hint.as_deref(), How::Path)?;
    let record = shared.backing.record(fd.as_fd())?;
    let record = record.filter(|r| belongs_to(r, shared.backing.fs(), &row.handle));
    let file = File {
        row: &row,
        fd,
        record,
    };
    let consent = consent_of(shared, action)?;
    if let Some(finish) = unfit(shared, &file, consent)? {
        return Ok(finish);
    }
    let Some(version) = row.version else {
        return Ok(Finish::Done);
    };
    let copies = shared.catalog.copies(version.file, version.version)?;
    let (going, staying): (Vec<Copy>, Vec<Copy>) = copies.into_iter().partition(|c| c.tier == tier);
    if going.is_empty() {
        return Ok(Finish::Done);
    }
    // Without a record, too (an earlier try took it away, say): what stays is proven all the same.
    let crc = file.record.as_ref().map_or(version.crc, |r| r.crc);
    let staying_same = || staying.iter().filter(|c| c.crc == crc);
    let ahead = shared.look_ahead(staying_same())?;
    let left = match shared.proven_of(staying_same(), &ahead) {
        Ok(left) => left,
        Err(why) => return Ok(later(shared, action, Failure::TierUnavailable, why)),
    };
    let asked = shared.copies_asked() as usize;
    if let Some(why) = refusal(row.state, left.len(), asked, consent) {
        return Ok(failed(Failure::NoGoodCopy, why));
    }
    let (last, kept) = (is_last(&left, &staying), left.len());
    let hints = remaining(&file, left, &staying, tier);
    if let Some(not_now) = forget(shared, action, &file, (!last).then_some(hints))? {
        return Ok(not_now);
    }
    let name = shared
        .slot(tier)
        .map_or_else(|| tier.to_string(), |s| s.name.clone());
    let removal = Removal {
        node: row.id,
        planned: row.planned(),
        copies: going,
        last,
        note: (kept < asked).then(|| note(&name, kept, asked)),
    };
    tracing::info!(node = %row.id, tier = %name, last, "a copy is given up");
    Ok(match shared.catalog.remove_copies(removal, shared.now())? {
        Removed::Done => Finish::Done,
        Removed::Changed => {
            let why = "it changed meanwhile";
            soon_or_never(shared, action, Failure::Changed, why)
        }
    })
}

/// Nothing of the version is left elsewhere. A copy whose tier is away, or that does not count for
/// releases, cannot be proven now, and was not asked for: it stays what it is.
fn is_last(left: &[CopyHint], staying: &[Copy]) -> bool {
    left.is_empty() && staying.iter().all(|c| c.state == CopyState::Bad)
}

fn note(tier: &str, kept: usize, asked: usize) -> String {
    format!(
        "its copy on {tier} was removed; it has {kept} of the {asked} copies that policy asks for \
         (those that could be proven then): a rule that matches it makes another, unless it is set noarchive"
    )
}

fn consent_of(shared: &Shared, action: &Action) -> Result<Consent, EngineError> {
    let request = shared.catalog.request(action.request)?;
    let options = request.and_then(|r| serde_json::from_str::<Options>(&r.options).ok());
    Ok(options.map(|o| o.consent).unwrap_or_default())
}

/// Why the copies of a file as it is are none to be given up.
fn unfit(
    shared: &Shared,
    file: &File<'_>,
    consent: Consent,
) -> Result<Option<Finish>, EngineError> {
    let changed = || {
        let why =
            "it changed since it was archived: its copies are kept as those of deleted files are";
        Ok(Some(failed(Failure::Changed, why)))
    };
    let stat = shared.backing.stat(file.fd.as_fd())?;
    let same = |r: &Record| file.row.planned().version == Some((r.file, r.version));
    match (&file.record, file.row.state) {
        (Some(record), FileState::Archived) if record.state == State::Resident && same(record) => {
            if (record.size, record.mtime) == (stat.size, stat.mtime) {
                Ok(None)
            } else {
                changed()
            }
        }
        (Some(record), FileState::Released) if record.state == State::Released && same(record) => {
            Ok(None)
        }
        // An earlier try, or a kill before the record was written.
        (None, FileState::Archived) if consent.last_copy => {
            if shared.is_lost(&file.row.handle, file.fd.as_fd())? {
                return Ok(Some(failed(Failure::Lost, crate::hsm::recall::LOST)));
            }
            Ok(None)
        }
        (None, FileState::None) => Ok(Some(Finish::Done)),
        (_, FileState::Dirty) => changed(),
        (_, FileState::Lost) => Ok(Some(failed(Failure::Lost, crate::hsm::recall::LOST))),
        _ => Ok(Some(failed(
            Failure::Changed,
            "the file and the catalog say different things of it; the next scan sets that right",
        ))),
    }
}

/// Why it stays; `left`: proven good copies elsewhere.
fn refusal(state: FileState, left: usize, asked: usize, consent: Consent) -> Option<String> {
    let released = state == FileState::Released;
    match left {
        0 if released => {
            Some("it is the last good copy of a released file: `cairn stage` first".to_owned())
        }
        0 if !consent.last_copy => Some(
            "it is the last good copy that can be proven now: --last-copy gives it up all the same"
                .to_owned(),
        ),
        0 => None,
        left if left < asked && !consent.below_policy => Some(format!(
            "{left} good copies would be left, and policy asks for {asked}: --below-policy removes it all the same"
        )),
        _ => None,
    }
}

/// What the record is to name: what was proven first, then whatever else is known.
fn remaining(
    file: &File<'_>,
    left: Vec<CopyHint>,
    staying: &[Copy],
    tier: TierId,
) -> Vec<CopyHint> {
    let mut hints = left;
    let known = staying.iter().filter(|c| c.state != CopyState::Bad);
    let known = known.map(|c| CopyHint {
        tier: c.tier,
        aggregate: c.aggregate,
        header: c.header,
    });
    let named = file.record.iter().flat_map(|r| r.copies.iter().copied());
    for hint in known.chain(named.filter(|c| c.tier != tier)) {
        let same = |h: &CopyHint| (h.tier, h.aggregate) == (hint.tier, hint.aggregate);
        if !hints.iter().any(same) {
            hints.push(hint);
        }
    }
    hints
}

/// The record names these copies alone; `None`: it goes. Synced. Gives how the action ends if that
/// cannot be done now.
fn forget(
    shared: &Shared,
    action: &Action,
    file: &File<'_>,
    hints: Option<Vec<CopyHint>>,
) -> Result<Option<Finish>, EngineError> {
    let Some(record) = &file.record else {
        return Ok(None);
    };
    let open = shared.backing.reopen(file.fd.as_fd(), How::Read)?;
    let written = if record.state == State::Resident {
        let quiet = match quiescent_one(&shared.backing, open) {
            Ok(quiet) => quiet,
            Err(NotQuiet::Backing(why)) => return Err(why.into()),
            Err(why) => return Ok(Some(soon_or_never(shared, action, Failure::Busy, why))),
        };
        let written = write(shared, file, record, quiet.fd(), hints)?;
        if let Some(Some(ctime)) = written {
            rebind(shared, file, quiet, ctime)?;
        }
        written
    } else {
        let written = write(shared, file, record, open.as_fd(), hints)?;
        if let Some(Some(ctime)) = written {
            let size = record.size;
            proven(shared, file, size, ctime)?;
        }
        written
    };
    if let Some(gate) = shared.late.gate.get() {
        gate.changed(&file.row.handle);
    }
    Ok(match written {
        Some(_) => None,
        None => Some(soon_or_never(
            shared,
            action,
            Failure::Changed,
            "it changed meanwhile",
        )),
    })
}

/// `None`: somebody changed the record meanwhile. Else the ctime that this left, if there is a record
/// still.
fn write(
    shared: &Shared,
    file: &File<'_>,
    record: &Record,
    fd: BorrowedFd<'_>,
    hints: Option<Vec<CopyHint>>,
) -> Result<Option<Option<crate::id::Timestamp>>, EngineError> {
    let backing = &shared.backing;
    let turn = backing.turn(&file.row.handle);
    if backing.record(fd)?.as_ref() != Some(record) {
        return Ok(None);
    }
    let ctime = match hints {
        None => {
            backing.remove_record(fd)?;
            None
        }
        Some(copies) => {
            let stat = backing.stat(fd)?;
            let record = Record {
                copies,
                user_ctime: crate::hsm::backing::shown_ctime(Some(record), stat.ctime),
                ..record.clone()
            };
            let hint = tree::hint(shared, &file.row.handle)?;
            let stamp = Stamp::set(backing, fd, hint.as_deref(), &record, SetHow::Replace)?;
            if let Some(settle) = stamp.settle {
                let _ = shared.settles.send(settle);
            }
            Some(stamp.ctime)
        }
    };
    drop(turn);
    rustix::fs::fsync(fd).map_err(|e| EngineError::io("syncing a record")(e.into()))?;
    Ok(Some(ctime))
}

/// The file was the version, by its last quiescent point, and nobody wrote since: it is so by the
/// ctime that Cairn's own write of the record left.
fn rebind(
    shared: &Shared,
    file: &File<'_>,
    quiet: Quiet,
    ctime: crate::id::Timestamp,
) -> Result<(), EngineError> {
    let seen = (quiet.seen().size, quiet.seen().ctime);
    let proved = file.row.proven.is_some_and(|p| (p.size, p.ctime) == seen);
    if !proved || file.row.is_suspect(&shared.incarnation) {
        return Ok(());
    }
    match quiescent_again(&shared.backing, vec![quiet]).pop() {
        Some(Ok(quiet)) if quiet.seen().ctime == ctime => proven(shared, file, seen.0, ctime),
        // The next comparison is by the sum.
        _ => Ok(()),
    }
}

fn proven(
    shared: &Shared,
    file: &File<'_>,
    size: u64,
    ctime: crate::id::Timestamp,
) -> Result<(), EngineError> {
    let Some(version) = file.row.planned().version else {
        return Ok(());
    };
    let point = Rebound {
        node: file.row.id,
        version,
        proven: Proven {
            size,
            ctime,
            boot: shared.incarnation.boot,
        },
    };
    Ok(shared.catalog.rebound(vec![point], Durability::Relaxed)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_good_copy_stays_unless_the_data_are_on_disk_and_it_was_said() {
        let no = Consent::default();
        let last = Consent {
            last_copy: true,
            below_policy: false,
        };
        let below = Consent {
            last_copy: false,
            below_policy: true,
        };
        let stays = |state, left, asked, consent| refusal(state, left, asked, consent).is_some();
        use FileState::{Archived, Released};
        for consent in [no, last, below] {
            assert!(stays(Released, 0, 1, consent), "never of a released file");
        }
        assert!(stays(Archived, 0, 1, no) && stays(Archived, 0, 1, below));
        assert!(!stays(Archived, 0, 1, last));
        for state in [Archived, Released] {
            assert!(!stays(state, 1, 1, no), "enough are left");
            assert!(stays(state, 1, 2, no) && stays(state, 1, 2, last));
            assert!(!stays(state, 1, 2, below));
        }
    }
}
