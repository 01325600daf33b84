//! P2, step 6: the record goes onto the file, under a fresh read lease and with v compared once
//! more. Only a file that is still the one that was copied gets it.

use super::candidate::open_any;
use super::{Copied, GROUP_FILES, Item};
use crate::format::record::{CopyHint, Record, State};
use crate::hsm::backing::{Backing, BackingError, How, SetHow, belongs_to, shown_ctime};
use crate::hsm::version::{NotQuiet, Quiet, Seen, Settle, Stamp, quiescent, quiescent_again};
use crate::id::{DataVersion, FileId, NodeHandle};
use cairn_mover::Crc32c;
use std::os::fd::AsFd;

/// A record to be written.
#[derive(Debug, Clone)]
pub struct NewRecord {
    /// Known names of the file.
    pub names: Vec<Vec<u8>>,
    /// The file.
    pub file: FileId,
    /// Which data.
    pub version: DataVersion,
    /// Sum of the whole logical content.
    pub crc: Crc32c,
    /// Sum of the encoded list of block checksums.
    pub blocks_crc: Crc32c,
    /// All good copies of this version, the best first.
    pub copies: Vec<CopyHint>,
    /// What the file looked like when its bytes were proven to be these.
    pub seen: Seen,
}

/// A record that is on its file. Not fsynced: a crash may lose it, the catalog has it all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The record.
    pub record: Record,
    /// What the file looks like since: a quiescent point under the same lease, to be kept for the
    /// version in place of the former one (writing the record changed the ctime).
    pub seen: Seen,
    /// A check to be made later.
    pub settle: Option<Settle>,
}

/// Why a file did not get its record. Its copy is good all the same.
#[derive(Debug, thiserror::Error)]
pub enum Unrecorded {
    /// It is no longer what was copied, as far as the times say: it may be dirty.
    #[error("it changed since it was copied")]
    Changed,
    /// It is being written to.
    #[error(transparent)]
    NotQuiet(NotQuiet),
    /// The record could not be read or written.
    #[error(transparent)]
    Backing(#[from] BackingError),
    /// The record was written, but somebody came in before its new ctime was proven: the catalog
    /// has the former v, and the next comparison will be by checksum.
    #[error("the record was written, but the file was taken before its new ctime could be proven")]
    Unproven(Box<Record>),
}

impl From<NotQuiet> for Unrecorded {
    fn from(why: NotQuiet) -> Self {
        match why {
            NotQuiet::Backing(why) => Self::Backing(why),
            why => Self::NotQuiet(why),
        }
    }
}

impl Copied {
    /// The record that the copy deserves, beside `others`: copies of the same version.
    pub(super) fn new_record(&self, others: &[CopyHint]) -> NewRecord {
        let mut copies = others.to_vec();
        copies.retain(|c| (c.tier, c.aggregate) != (self.copy.tier, self.copy.aggregate));
        copies.push(self.copy);
        NewRecord {
            names: self.names.clone(),
            file: self.file,
            version: self.version,
            crc: self.crc,
            blocks_crc: self.blocks_crc,
            copies,
            seen: self.seen.clone(),
        }
    }
}

/// Opens each node for reading and makes quiescent points on all that could be opened.
pub(super) fn points<'a>(
    backing: &Backing,
    nodes: impl Iterator<Item = (&'a NodeHandle, &'a [Vec<u8>])>,
) -> Vec<Result<Quiet, NotQuiet>> {
    let (mut files, mut order) = (Vec::new(), Vec::new());
    for (node, names) in nodes {
        let item = Item {
            node: node.clone(),
            names: names.to_vec(),
            prior: None,
        };
        order.push(match open_any(backing, &item, How::Read) {
            Ok(fd) => {
                files.push(fd);
                None
            }
            Err(BackingError::Busy { .. }) => Some(NotQuiet::Writer),
            Err(why) => Some(why.into()),
        });
    }
    let mut quiet = quiescent(backing, files).into_iter();
    let mut next = || quiet.next().unwrap_or(Err(NotQuiet::NotRegular));
    order
        .into_iter()
        .map(|failed| failed.map_or_else(&mut next, Err))
        .collect()
}

/// Writes records onto files that have not changed since. Results are in the same order.
#[must_use]
pub fn write_records(
    backing: &Backing,
    records: &[NewRecord],
) -> Vec<Result<Recorded, Unrecorded>> {
    records
        .chunks(GROUP_FILES)
        .flat_map(|group| write_group(backing, group))
        .collect()
}

fn write_group(backing: &Backing, group: &[NewRecord]) -> Vec<Result<Recorded, Unrecorded>> {
    let nodes = group.iter().map(|r| (&r.seen.node, &r.names[..]));
    let (mut leased, mut written) = (Vec::new(), Vec::new());
    for (new, quiet) in group.iter().zip(points(backing, nodes)) {
        written.push(quiet.map_err(Unrecorded::from).and_then(|quiet| {
            let stamp = write(backing, new, &quiet)?;
            leased.push(quiet);
            Ok(stamp)
        }));
    }
    // Still under the leases: a write that comes right after cannot share the new ctime.
    let mut proven = quiescent_again(backing, leased).into_iter();
    let mut finish = |stamp: Stamp| match proven.next() {
        Some(Ok(quiet)) if quiet.seen().ctime == stamp.ctime => Ok(Recorded {
            record: stamp.record,
            seen: quiet.seen().clone(),
            settle: stamp.settle,
        }),
        _ => Err(Unrecorded::Unproven(Box::new(stamp.record))),
    };
    written
        .into_iter()
        .map(|one| one.and_then(&mut finish))
        .collect()
}

fn write(backing: &Backing, new: &NewRecord, quiet: &Quiet) -> Result<Stamp, Unrecorded> {
    let fd = quiet.fd();
    if *quiet.seen() != new.seen {
        return Err(Unrecorded::Changed);
    }
    let _turn = backing.turn(&new.seen.node);
    let old = backing
        .record(fd)?
        .filter(|r| belongs_to(r, backing.fs(), &new.seen.node));
    if old.as_ref().is_some_and(|r| r.state != State::Resident) {
        return Err(Unrecorded::Changed);
    }
    let stat = backing.stat(fd)?;
    let record = Record {
        state: State::Resident,
        fs: backing.fs(),
        file: new.file,
        version: new.version,
        crc: new.crc,
        handle: new.seen.node.clone(),
        size: new.seen.size,
        mtime: stat.mtime,
        user_ctime: shown_ctime(old.as_ref(), stat.ctime),
        ctime_floor: None,
        blocks_crc: new.blocks_crc,
        copies: new.copies.clone(),
    };
    let hint = new.names.first().map(Vec::as_slice);
    Ok(Stamp::set(
        backing,
        fd.as_fd(),
        hint,
        &record,
        SetHow::Either,
    )?)
}
