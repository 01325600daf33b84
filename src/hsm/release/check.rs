//! Step 3 of a release: everything that must be true before a block may go.

use super::{Order, Refusal};
use crate::format::record::{Record, State};
use crate::hsm::backing::{Backing, BackingError, FileStat, How, belongs_to, describe, sys};
use crate::hsm::version::{Interrupted, Quiet, Trust, checksum};
use std::os::fd::{AsFd, BorrowedFd};

/// What can be refused without disturbing anybody.
pub(super) fn cheap(backing: &Backing, order: &Order<'_>) -> Result<(), Refusal> {
    let node = backing.open_node(order.node, order.hint, How::Path)?;
    let stat = backing.stat(node.as_fd())?;
    if stat.nlink == 0 {
        return Err(Refusal::Vanished);
    }
    if stat.size < order.min_size.max(1) {
        return Err(Refusal::Small(order.min_size.max(1)));
    }
    own_record(backing, order, node.as_fd()).map(drop)
}

/// The file's own resident record.
fn own_record(backing: &Backing, order: &Order<'_>, fd: BorrowedFd<'_>) -> Result<Record, Refusal> {
    let record = backing.record(fd)?.ok_or(Refusal::NotArchived)?;
    if !belongs_to(&record, backing.fs(), order.node) {
        return Err(Refusal::Foreign);
    }
    match record.state {
        State::Resident => Ok(record),
        State::Released | State::Recalling => Err(Refusal::AlreadyReleased),
    }
}

/// The file, alone and quiet, is the version in its record (P1), and the catalog proves enough
/// copies of it. Gives the record with those copies.
pub(super) fn proven(
    backing: &Backing,
    order: &Order<'_>,
    quiet: &Quiet,
) -> Result<Record, Refusal> {
    let mut record = own_record(backing, order, quiet.fd())?;
    let seen = quiet.seen();
    let dirty = |found| Refusal::Dirty {
        seen: seen.clone(),
        found,
    };
    if seen.size != record.size {
        return Err(dirty(None));
    }
    let good = (order.prove)(&record).map_err(Refusal::Unproven)?;
    let wanted = order.copies.max(1);
    if good.len() < wanted {
        return Err(Refusal::Copies {
            good: good.len(),
            wanted,
        });
    }
    // Equal v proves it, unless power may have been lost, or v was proven for another version than
    // the record's (one that was archived, but whose record could not be written); everything else
    // takes reading.
    let known = order.seen.is_some_and(|proof| {
        let same = (proof.file, proof.version) == (record.file, record.version);
        same && proof.trust == Trust::Sound && proof.seen == seen
    });
    if !known {
        let found = match checksum(backing, quiet.fd(), seen.size, || quiet.still_held()) {
            Ok(found) => found,
            Err(Interrupted::Stopped) => return Err(Refusal::InUse),
            Err(Interrupted::Backing(why)) => return Err(why.into()),
        };
        if found != record.crc {
            return Err(dirty(Some(found)));
        }
    }
    if !quiet.still_held() {
        return Err(Refusal::InUse);
    }
    record.copies = good;
    Ok(record)
}

/// Blocks would come free: there are some, and not (mostly) ones that a snapshot or another file
/// shares.
pub(super) fn frees(backing: &Backing, fd: BorrowedFd<'_>, stat: &FileStat) -> Result<(), Refusal> {
    if stat.blocks == 0 || !backing.has_data(fd)? {
        return Err(Refusal::FreesNothing("it has no blocks of data"));
    }
    let shared = sys::shared_bytes(fd)
        .map_err(|why| BackingError::of("map the extents of", || describe(fd), why))?;
    if shared.is_some_and(|shared| shared > stat.blocks * 512 / 2) {
        return Err(Refusal::FreesNothing(
            "its blocks are shared with a snapshot or another file",
        ));
    }
    Ok(())
}
