//! P6: a stub that was copied or restored, with the inode it names another one, is adopted under a
//! new file id if everything about it agrees with the aggregate's own index; else it is foreign.
//!
//! Invariants:
//! - Only what root wrote is looked at (`trusted.*`; in `user.*` the seal binds a record to its
//!   inode, so a copied one is damaged and never comes here), and only for the owner whose data
//!   they were: nobody gets at another's archive by a stub.
//! - The file holds no data: adopting never hides what is on disk.
//! - It names the places where the data were found, and no other: a place that the stub names may
//!   have been repacked away, and the catalog's rows follow from the record.
//! - The record goes first, and is synced: alone it is enough, and a scan tells the catalog of it.
//! - Tiers are read on their lanes, never by who looks or opens.

use super::begin;
use super::one::{Opened, Recall};
use super::source::{Miss, first_tier, mismatch};
use super::table::{End, Post, Shared, urgency};
use super::{RecallError, Recaller};
use crate::format::aggregate::IndexEntry;
use crate::format::record::{CopyHint, Record, State as Data};
use crate::hsm::backing::{FileStat, SetHow};
use crate::hsm::version::Stamp;
use crate::id::{FileId, NodeHandle, Timestamp};
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Foreign stubs that are remembered as such, so that they are not looked into again and again.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1 << 14).unwrap();

/// A stub that was adopted: for the catalog.
#[derive(Debug, Clone)]
pub struct Adopted {
    /// The inode.
    pub node: NodeHandle,
    /// Its record as it is now.
    pub record: Record,
    /// What the file looks like now.
    pub stat: FileStat,
    /// Bytes of each copy's data as stored.
    pub stored_len: u64,
}

/// Foreign stubs by inode: its ctime when that was found, and why.
pub(super) struct Refused(Mutex<LruCache<NodeHandle, (Timestamp, &'static str)>>);

impl Default for Refused {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(REMEMBERED)))
    }
}

impl Refused {
    fn why(&self, node: &NodeHandle, ctime: Timestamp) -> Option<&'static str> {
        let mut refused = self.0.lock();
        refused
            .get(node)
            .filter(|(then, _)| *then == ctime)
            .map(|(_, why)| *why)
    }
}

/// Why a stub is not adopted.
enum No {
    /// For good, as it is.
    Foreign(&'static str),
    /// For now.
    Failed(RecallError),
}

impl Recaller {
    /// Was the stub on this inode found foreign? `ctime`: the inode's now.
    #[must_use]
    pub fn is_foreign(&self, node: &NodeHandle, ctime: Timestamp) -> bool {
        self.shared.refused.why(node, ctime).is_some()
    }
}

/// Goes on with a recall that met another inode's stub. Runs on the disk lane.
pub(super) fn begin(shared: &Arc<Shared>, recall: &Arc<Recall>, opened: Arc<Opened>) {
    let known = shared.refused.why(&recall.node, opened.before.ctime);
    let tier = first_tier(&opened, &*shared.asks);
    let refusal = match (known, tier) {
        (Some(why), _) => Some(why),
        (None, None) => Some("it names no copy"),
        (None, Some(_)) => None,
    };
    let (Some(tier), None) = (tier, refusal) else {
        let why = refusal.unwrap_or_default();
        return shared.end(recall, End::Failed(RecallError::Foreign { why }));
    };
    let urgency = urgency(&recall.state.lock());
    let lane = shared.tier_lane(tier, Post::Unseated);
    let (shared, recall) = (Arc::clone(shared), Arc::clone(recall));
    lane.push(urgency, Box::new(move || adopt(&shared, &recall, &opened)));
}

/// Runs on a tier's lane.
fn adopt(shared: &Arc<Shared>, recall: &Arc<Recall>, opened: &Opened) {
    let done = judge(shared, opened).and_then(|held| write(shared, recall, opened, held));
    match done {
        Ok(adopted) => {
            tracing::info!(object = %opened.object, was = %opened.record.file, file = %adopted.record.file, "a copied stub is adopted");
            shared.asks.adopted(&adopted);
            let (again, same) = (Arc::clone(shared), Arc::clone(recall));
            let urgency = urgency(&recall.state.lock());
            let job = Box::new(move || begin::open(&again, &same));
            shared.disk.push(urgency, job);
        }
        Err(No::Foreign(why)) => {
            tracing::warn!(object = %opened.object, why, "a foreign stub");
            let known = (opened.before.ctime, why);
            let node = recall.node.clone();
            shared.refused.0.lock().put(node, known);
            shared.asks.foreign(&recall.node, why);
            shared.end(recall, End::Failed(RecallError::Foreign { why }));
        }
        Err(No::Failed(RecallError::Truncated)) => shared.end(recall, End::Again),
        Err(No::Failed(RecallError::NotRestored(stowed))) => {
            begin::wait_for_restore(shared, recall, stowed);
        }
        Err(No::Failed(why)) => shared.end(recall, End::Failed(why)),
    }
}

/// Where the data of a stub were found.
struct Held {
    /// At least one, on different tiers.
    places: Vec<CopyHint>,
    /// Bytes as stored.
    stored_len: u64,
}

/// Does all agree, and where? Blocks on tiers.
fn judge(shared: &Shared, opened: &Opened) -> Result<Held, No> {
    let (record, stat) = (&opened.record, &opened.before);
    let holds = shared.backing.has_data(opened.reader.as_fd());
    if holds.map_err(|why| failed("look for data", why))? {
        return Err(No::Foreign("it holds data"));
    }
    if stat.size != record.size {
        return Err(No::Foreign("its size is not the stub's"));
    }
    if stat.mtime != record.mtime {
        return Err(No::Foreign("its modification time is not the stub's"));
    }
    // What the catalog knows comes first: it follows a repack, the stub does not.
    let mut copies = shared.asks.copies_of(record.file, record.version);
    copies.extend(record.copies.iter().copied());
    let (mut places, mut stored_len): (Vec<CopyHint>, _) = (Vec::new(), 0);
    let (mut passing, mut differs) = (None::<Miss>, None);
    for copy in copies {
        if places.iter().any(|found| found.tier == copy.tier) {
            continue;
        }
        match look(shared, &copy, record) {
            Ok(Some(entry)) => match disagrees(&entry, record, stat) {
                None => {
                    let header = entry.header;
                    stored_len = entry.stored_len();
                    places.push(CopyHint { header, ..copy });
                }
                Some(why) => differs = Some(why),
            },
            Ok(None) => {}
            Err(miss) => {
                passing = Some(match passing {
                    Some(known) => known.or(miss),
                    None => miss,
                });
            }
        }
    }
    if !places.is_empty() {
        return Ok(Held { places, stored_len });
    }
    match (differs, passing) {
        (Some(why), _) => Err(No::Foreign(why)),
        (None, Some(miss)) => Err(No::Failed(miss.into_error(0))),
        (None, None) => Err(No::Foreign("no aggregate that it names holds these data")),
    }
}

/// The member, if the copy's index has it; `Err`: the tier cannot say now, and why it cannot.
fn look(
    shared: &Shared,
    copy: &CopyHint,
    record: &Record,
) -> Result<Option<impl std::ops::Deref<Target = IndexEntry> + use<>>, Miss> {
    let Some(tier) = shared.asks.tier(copy.tier) else {
        let why = format!("tier {} is not configured", copy.tier);
        return Err(Miss::Nowhere(why));
    };
    match shared.indexes.find(&*tier, copy, record) {
        Ok(found) => Ok(found),
        Err(why) if why.is_passing() => Err(Miss::of_index(copy.tier, &why)),
        Err(_) => Ok(None),
    }
}

/// What keeps the stub from being the member's, and the file its owner's.
fn disagrees(entry: &IndexEntry, record: &Record, stat: &FileStat) -> Option<&'static str> {
    let member = &entry.member;
    let owner = (member.uid, member.gid) == (stat.uid, stat.gid);
    mismatch(entry, record)
        .or_else(|| {
            let same = entry.blocks_crc() == record.blocks_crc;
            (!same).then_some("the member has other block checksums than the stub says")
        })
        .or_else(|| (!owner).then_some("the data were archived for another owner"))
}

fn failed(step: &'static str, why: crate::hsm::backing::BackingError) -> No {
    No::Failed(RecallError::backing(step, why))
}

/// The record becomes this inode's own. A truncation waits for it, or prevents it.
fn write(shared: &Shared, recall: &Recall, opened: &Opened, held: Held) -> Result<Adopted, No> {
    let (backing, fd) = (&shared.backing, opened.reader.as_fd());
    let _io = recall.io.lock();
    if recall.is_stopped() {
        return Err(No::Failed(RecallError::Truncated));
    }
    // A user may be setting the file's times.
    let turn = backing.turn(&recall.node);
    // Nothing has changed since it was looked at.
    let now = backing.stat(fd).map_err(|why| failed("stat", why))?;
    let found = backing
        .record(fd)
        .map_err(|why| failed("read the record", why))?;
    if now.ctime != opened.before.ctime || found.as_ref() != Some(&opened.record) {
        return Err(No::Failed(RecallError::Truncated));
    }
    let record = Record {
        state: Data::Released,
        fs: backing.fs(),
        file: FileId::random(),
        handle: recall.node.clone(),
        user_ctime: opened.before.ctime,
        copies: held.places,
        ..opened.record.clone()
    };
    let hint = recall.hint.as_deref();
    let stamp = Stamp::set(backing, fd, hint, &record, SetHow::Replace)
        .map_err(|why| failed("write the record", why))?;
    drop(turn);
    rustix::fs::fsync(fd).map_err(|why| No::Failed(RecallError::io("sync", why)))?;
    let stat = backing.stat(fd).map_err(|why| failed("stat", why))?;
    if let Some(settle) = stamp.settle {
        shared.asks.settle(settle);
    }
    Ok(Adopted {
        node: recall.node.clone(),
        record: stamp.record,
        stat,
        stored_len: held.stored_len,
    })
}
