//! An item looked at before any of its bytes is read: is it there, what is it, what does its record
//! say?

use super::{Batch, Item, Outcome, Skip};
use crate::format::member::{BadPath, MemberPath};
use crate::format::record::{Record, State};
use crate::hsm::backing::{
    Access, Backing, BackingError, FileStat, How, belongs_to, data_bytes, shown_ctime,
};
use crate::hsm::vouch::is_lost;
use crate::id::Timestamp;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// An item that may be archived as far as its record says.
pub(super) struct Candidate {
    pub(super) item: usize,
    /// `O_PATH`.
    pub(super) node: OwnedFd,
    pub(super) stat: FileStat,
    /// The file's own record; resident.
    pub(super) record: Option<Record>,
}

/// Opens a node under any of its names.
pub(super) fn open_any(backing: &Backing, item: &Item, how: How) -> Result<OwnedFd, BackingError> {
    if backing.access() == Access::Handles {
        let hint = item.names.first().map(Vec::as_slice);
        return backing.open_node(&item.node, hint, how);
    }
    let mut last = BackingError::Unnamed {
        object: format!("{:?}", item.node),
    };
    for name in &item.names {
        match backing.open_node(&item.node, Some(name), how) {
            Err(why @ BackingError::Gone { .. }) => last = why,
            done => return done,
        }
    }
    Err(last)
}

impl Candidate {
    /// Looks at the item.
    pub(super) fn of(batch: &Batch<'_>, at: usize) -> Result<Self, Outcome> {
        let (backing, item) = (batch.backing, &batch.items[at]);
        let node = open_any(backing, item, How::Path)?;
        let stat = backing.stat(node.as_fd())?;
        if stat.nlink == 0 {
            return Err(Outcome::Skipped(Skip::Vanished));
        }
        let mut record = backing.record(node.as_fd())?;
        if let Some(found) = &record {
            let own = belongs_to(found, backing.fs(), &item.node);
            match (found.state, own) {
                (State::Resident, true) => {}
                // Copied here with the data, by somebody who may read trusted attributes: says
                // nothing about this file.
                (State::Resident, false) => record = None,
                (State::Released | State::Recalling, true) => {
                    return Err(Outcome::Skipped(Skip::Released));
                }
                (State::Released | State::Recalling, false) => {
                    return Err(Outcome::Skipped(Skip::Foreign));
                }
            }
        }
        Ok(Self {
            item: at,
            node,
            stat,
            record,
        })
    }

    /// A file without a stub whose data the catalog has on tiers only (P6). `fd`: open for reading.
    pub(super) fn is_lost(
        &self,
        item: &Item,
        size: u64,
        fd: BorrowedFd<'_>,
    ) -> Result<bool, BackingError> {
        let remembered = item.prior.as_ref().and_then(|p| p.remembered.as_ref());
        let Some(known) = remembered else {
            return Ok(false);
        };
        let record = self.record.as_ref();
        let data = data_bytes(fd, size, known.needs(record, size))?;
        Ok(is_lost(known, record, (size, data)))
    }

    /// The ctime that users see, given the backing's.
    pub(super) fn shown_ctime(&self, ctime: Timestamp) -> Timestamp {
        shown_ctime(self.record.as_ref(), ctime)
    }
}

/// Longest path of a member, bytes: what a tar header can carry, with room to spare. One user's
/// absurdly deep tree must not keep a whole batch from being composed.
const LONGEST_PATH: usize = 200 << 10;

fn member_path(name: Vec<u8>) -> Result<MemberPath, BadPath> {
    if name.len() > LONGEST_PATH {
        let path = String::from_utf8_lossy(&name[..100]).into_owned() + "...";
        return Err(BadPath {
            path,
            why: "it is longer than 200 KiB",
        });
    }
    MemberPath::new(name)
}

/// The names that lead to the node now and that `is_free` lets pass, the best first.
pub(super) fn present_names(
    backing: &Backing,
    item: &Item,
    fd: BorrowedFd<'_>,
    is_free: impl Fn(&MemberPath) -> bool,
) -> Result<Vec<MemberPath>, Outcome> {
    let mut names: Vec<MemberPath> = Vec::new();
    let mut bad = None;
    for name in &item.names {
        let path = match member_path(name.clone()) {
            Ok(path) => path,
            Err(why) => {
                bad = Some(why);
                continue;
            }
        };
        if !names.contains(&path) && is_free(&path) && backing.is_name_of(name, &item.node)? {
            names.push(path);
        }
    }
    if names.is_empty() {
        // Renamed since the catalog heard of it: the kernel may know the present name.
        match backing.path_of(fd).map(member_path) {
            Ok(Ok(path)) if is_free(&path) => names.push(path),
            Ok(Err(why)) => bad = Some(why),
            _ => {}
        }
    }
    match (names.is_empty(), bad) {
        (false, _) => Ok(names),
        (true, Some(why)) => Err(Outcome::Failed(why.into())),
        (true, None) => Err(Outcome::Skipped(Skip::Renamed)),
    }
}
