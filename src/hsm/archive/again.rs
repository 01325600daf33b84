//! A copy made from another copy: for files whose data are on tiers only.
//!
//! Invariants:
//! - Every byte that goes into the new aggregate had the sum of its block in the index of the copy
//!   that it came from, and the whole of it the sum that the file's own stub names. A copy that fails in
//!   either is told of and not used further.
//! - The order is P2's: the tier's receipt, the catalog's durable commit, and only then the stub,
//!   which names good copies alone and is synced. A crash between leaves a stub whose recall asks the
//!   catalog when the copies that it names fail.
//! - What lies on the tier already is not touched (P9).

use super::candidate::{Candidate, open_any};
use super::compose::{Composer, Fault, File};
use super::identity::Identity;
use super::{ArchiveError, Batch, CommitError, Copied, Durable, ItemError, Outcome, SMALL, Skip};
use crate::format::aggregate::{Index, IndexEntry};
use crate::format::record::{CopyHint, Record, State};
use crate::hsm::backing::{Backing, BackingError, How, SetHow, belongs_to, describe, shown_ctime};
use crate::hsm::index_cache::{Found, IndexCache, tier_is_passing};
use crate::hsm::version::{Seen, Settle, Stamp};
use crate::id::{DataVersion, FileId, NodeHandle};
use crate::tier::{Receipt, Tier, TierError};
use bytes::Bytes;
use cairn_mover::Crc32c;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;

/// Blocks read from a tier at once.
const BLOCKS: u64 = 4;

/// A copy to read from.
#[derive(Clone)]
pub struct Origin {
    /// Its tier.
    pub tier: Arc<dyn Tier>,
    /// Where it lies.
    pub copy: CopyHint,
}

/// Which data are to be copied, and from where.
#[derive(Clone)]
pub struct Wanted {
    /// The file.
    pub file: FileId,
    /// Which data.
    pub version: DataVersion,
    /// Sum of the whole content.
    pub crc: Crc32c,
    /// Good copies, the best first.
    pub origins: Vec<Origin>,
}

/// Files to copy from tier to tier.
#[derive(Clone, Copy)]
pub struct Again<'a> {
    /// Where to; of its items neither names nor what was known before say what the data are.
    pub batch: Batch<'a>,
    /// One for each item.
    pub wanted: &'a [Wanted],
    /// Where members are looked up.
    pub indexes: &'a IndexCache,
    /// Told of a copy that is bad: which item's, and why.
    pub bad: &'a dyn Fn(usize, &CopyHint, &str),
}

/// What became of the batch: the aggregate, and for each item its copy or why there is none.
pub struct Kept {
    /// The aggregate, if there is one.
    pub aggregate: Option<(Receipt, Index)>,
    /// One for each item, in order.
    pub outcomes: Vec<Result<Copied, Uncopied>>,
}

/// Why a file was not copied.
#[derive(Debug, thiserror::Error)]
pub enum Uncopied {
    /// By a rule.
    #[error(transparent)]
    Skipped(Skip),
    /// A step failed.
    #[error(transparent)]
    Failed(ItemError),
    /// None of its copies is good.
    #[error("no other copy of it is good")]
    NoOrigin,
    /// A copy that may be good cannot be read now.
    #[error("{0}")]
    Passing(String),
}

impl From<Outcome> for Uncopied {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Skipped(skip) => Self::Skipped(skip),
            Outcome::Failed(why) => Self::Failed(why),
            Outcome::Archived(_) | Outcome::Entered { .. } => Self::Skipped(Skip::Changed),
        }
    }
}

/// What stops an item, or everything.
enum Stop {
    Item(Uncopied),
    Batch(ArchiveError),
}

impl From<Fault> for Stop {
    fn from(why: Fault) -> Self {
        match why {
            Fault::Item(outcome) => Self::Item(outcome.into()),
            Fault::Batch(why) => Self::Batch(why),
        }
    }
}
impl From<Outcome> for Stop {
    fn from(outcome: Outcome) -> Self {
        Self::Item(outcome.into())
    }
}
impl From<BackingError> for Stop {
    fn from(why: BackingError) -> Self {
        Outcome::from(why).into()
    }
}

/// Copies files from other tiers into one new aggregate. `stop` is asked between files and between
/// reads of a large one.
///
/// # Errors
/// [`ArchiveError`] if the batch as a whole failed; nothing of it is visible then.
pub fn copy_again(
    again: Again<'_>,
    stop: &(dyn Fn() -> bool + Sync),
    commit: &mut dyn FnMut(Durable<'_>) -> Result<(), CommitError>,
) -> Result<Kept, ArchiveError> {
    let items = again.batch.items.len();
    let mut outcomes: Vec<Option<Uncopied>> = (0..items).map(|_| None).collect();
    let mut composer = Composer::begin(again.batch, 0)?;
    for (at, outcome) in outcomes.iter_mut().enumerate() {
        if stop() {
            return Err(ArchiveError::Stopped);
        }
        match again.one(&mut composer, at, stop) {
            Ok(()) => {}
            Err(Stop::Item(why)) => *outcome = Some(why),
            Err(Stop::Batch(why)) => return Err(why),
        }
    }
    let (mut aggregate, mut copied) = (None, Vec::new());
    if composer.is_worth_sealing() {
        let (receipt, index, made) = composer.make_durable(commit)?;
        (aggregate, copied) = (Some((receipt, index)), made);
    }
    let left = |o: Option<Uncopied>| Err(o.unwrap_or(Uncopied::Skipped(Skip::Changed)));
    let mut outcomes: Vec<_> = outcomes.into_iter().map(left).collect();
    for one in copied {
        let at = one.item;
        outcomes[at] = Ok(one);
    }
    Ok(Kept {
        aggregate,
        outcomes,
    })
}

impl Again<'_> {
    fn one(
        &self,
        composer: &mut Composer<'_>,
        at: usize,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), Stop> {
        let wanted = &self.wanted[at];
        let (candidate, record) = self.look(at)?;
        let mut last = Uncopied::NoOrigin;
        let mut candidate = Some(candidate);
        for origin in &wanted.origins {
            let entry = match self.entry(origin, &record) {
                Ok(entry) => entry,
                Err(Miss::Passing(why)) => {
                    last = Uncopied::Passing(why);
                    continue;
                }
                Err(Miss::Bad(why)) => {
                    (self.bad)(at, &origin.copy, &why);
                    continue;
                }
            };
            let large = entry.stored_len() > SMALL;
            if large && self.batch.items.len() > 1 {
                return Err(Outcome::Skipped(Skip::StandsAlone(entry.stored_len())).into());
            }
            let mut data = Verified::new(origin, &entry, stop);
            let small = match (!large).then(|| data.whole()) {
                None => None,
                Some(Ok(bytes)) => Some(bytes),
                Some(Err(miss)) => {
                    last = self.missed(at, origin, miss, last);
                    continue;
                }
            };
            let Some(candidate) = candidate.take() else {
                break;
            };
            let file = self.file(candidate, &record, &entry)?;
            if small.as_ref().is_some_and(|b| file.sum(b) != record.crc) {
                (self.bad)(at, &origin.copy, "its content has another checksum");
                // What was looked at went into the file: looked at again.
                return Err(Stop::Item(Uncopied::Skipped(Skip::Changed)));
            }
            return match small {
                Some(bytes) => add(composer, &file, wanted, (&mut &bytes[..], false)),
                None => {
                    let added = add(composer, &file, wanted, (&mut data, true));
                    if let (Err(_), Some(miss)) = (&added, data.missed.take()) {
                        // The aggregate is beyond use, and so is the batch: this was its only file.
                        let why = self.missed(at, origin, miss, last).to_string();
                        return Err(Stop::Batch(ArchiveError::Origin { why }));
                    }
                    added
                }
            };
        }
        Err(Stop::Item(last))
    }

    /// Tells of a copy that is bad; the reason to keep if nothing better comes.
    fn missed(&self, at: usize, origin: &Origin, miss: Miss, last: Uncopied) -> Uncopied {
        match miss {
            Miss::Passing(why) => Uncopied::Passing(why),
            Miss::Bad(why) => {
                (self.bad)(at, &origin.copy, &why);
                last
            }
        }
    }

    /// The file as it is now: its stub is its own, and names the data that are wanted.
    fn look(&self, at: usize) -> Result<(Candidate, Record), Stop> {
        let (backing, item, wanted) = (self.batch.backing, &self.batch.items[at], &self.wanted[at]);
        let node = open_any(backing, item, How::Path)?;
        let mut stat = backing.stat(node.as_fd())?;
        if stat.nlink == 0 {
            return Err(Outcome::Skipped(Skip::Vanished).into());
        }
        let record = backing
            .record(node.as_fd())?
            .filter(|r| belongs_to(r, backing.fs(), &item.node))
            .filter(|r| r.state != State::Resident)
            .filter(|r| (r.file, r.version, r.crc) == (wanted.file, wanted.version, wanted.crc))
            .ok_or(Outcome::Skipped(Skip::Changed))?;
        // A recall that runs moves the file's own.
        stat.mtime = record.mtime;
        let candidate = Candidate {
            item: at,
            node,
            stat,
            record: Some(record.clone()),
        };
        Ok((candidate, record))
    }

    fn entry(&self, origin: &Origin, record: &Record) -> Result<Found, Miss> {
        let found = self.indexes.find(&*origin.tier, &origin.copy, record);
        let entry = match found {
            Ok(Some(entry)) => entry,
            Ok(None) => return Err(Miss::Bad("the aggregate does not hold these data".into())),
            Err(why) if why.is_passing() => return Err(Miss::Passing(why.to_string())),
            Err(why) => return Err(Miss::Bad(why.to_string())),
        };
        match crate::hsm::recall::mismatch(&entry, record) {
            Some(why) => Err(Miss::Bad(why.into())),
            None => Ok(entry),
        }
    }

    fn file(
        &self,
        candidate: Candidate,
        record: &Record,
        entry: &IndexEntry,
    ) -> Result<File, Stop> {
        let xattrs = self.batch.backing.attributes(candidate.node.as_fd())?;
        let (stat, node) = (candidate.stat, &self.batch.items[candidate.item].node);
        Ok(File {
            seen: Seen {
                node: node.clone(),
                size: record.size,
                ctime: stat.ctime,
            },
            at: std::time::Instant::now(),
            stat,
            runs: entry.member.kind.runs().to_vec(),
            xattrs,
            candidate,
        })
    }
}

fn add(
    composer: &mut Composer<'_>,
    file: &File,
    wanted: &Wanted,
    (data, alone): (&mut dyn Read, bool),
) -> Result<(), Stop> {
    let identity = Identity {
        file: wanted.file,
        version: wanted.version,
        expected: Some(wanted.crc),
        copies: Vec::new(),
    };
    let names = composer.names(&file.candidate)?;
    let member = file.member(names[0].clone(), &identity, Some(wanted.crc));
    let added = if alone {
        composer.add_alone(&member, data)
    } else {
        composer.open(file.seen.size).map_err(Stop::Batch)?;
        composer.add(&member, data)
    };
    let added = added.map_err(Stop::Batch)?;
    Ok(composer.linked(file, identity, names, added)?)
}

/// Why bytes were not got.
enum Miss {
    /// The copy is bad.
    Bad(String),
    /// It cannot be read now.
    Passing(String),
}

impl From<TierError> for Miss {
    fn from(why: TierError) -> Self {
        if tier_is_passing(&why) {
            Self::Passing(why.to_string())
        } else {
            Self::Bad(why.to_string())
        }
    }
}

/// A copy's stored bytes in order, each block compared with its sum before it is given.
pub(in crate::hsm) struct Verified<'a> {
    origin: &'a Origin,
    entry: &'a IndexEntry,
    stop: &'a (dyn Fn() -> bool + Sync),
    next: u64,
    at_hand: Bytes,
    missed: Option<Miss>,
}

impl<'a> Verified<'a> {
    pub(in crate::hsm) fn new(
        origin: &'a Origin,
        entry: &'a IndexEntry,
        stop: &'a (dyn Fn() -> bool + Sync),
    ) -> Self {
        Self {
            origin,
            entry,
            stop,
            next: 0,
            at_hand: Bytes::new(),
            missed: None,
        }
    }

    /// All of it.
    fn whole(&mut self) -> Result<Vec<u8>, Miss> {
        let mut bytes = Vec::new();
        match self.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(why) => Err(self.missed.take().unwrap_or(Miss::Passing(why.to_string()))),
        }
    }

    fn more(&mut self) -> Result<(), Miss> {
        if (self.stop)() {
            return Err(Miss::Passing("stopped".into()));
        }
        let runs = self.entry.runs_of_blocks(self.next..self.next + BLOCKS);
        let Some(run) = runs.first() else {
            return Ok(());
        };
        let end = run.blocks.end;
        let places: Vec<_> = (self.next..end)
            .filter_map(|n| self.entry.block(n))
            .collect();
        let object = run.object(self.origin.copy.aggregate);
        let tier = &self.origin.tier;
        let bytes = tier.read(object, run.offset_in_object, run.len)?;
        let mut rest = &bytes[..];
        for (block, place) in (self.next..).zip(&places) {
            let (data, behind) = rest.split_at(rest.len().min(place.len as usize));
            if Crc32c::of(data) != place.crc {
                return Err(Miss::Bad(format!("block {block} has a wrong checksum")));
            }
            rest = behind;
        }
        (self.next, self.at_hand) = (end, bytes);
        Ok(())
    }
}

impl Read for Verified<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at_hand.is_empty()
            && let Err(miss) = self.more()
        {
            let why = match &miss {
                Miss::Bad(why) | Miss::Passing(why) => why.clone(),
            };
            self.missed = Some(miss);
            return Err(io::Error::other(why));
        }
        let len = into.len().min(self.at_hand.len());
        into[..len].copy_from_slice(&self.at_hand.split_to(len));
        Ok(len)
    }
}

/// Puts other copies into the stub of a released file; durable when this returns. `None`: it is not
/// that any more, or is being recalled: the catalog's word is enough then.
///
/// # Errors
/// What the filesystem says.
pub fn restub(
    backing: &Backing,
    node: &NodeHandle,
    hint: Option<&[u8]>,
    of: (FileId, DataVersion),
    copies: &[CopyHint],
) -> Result<Option<Option<Settle>>, BackingError> {
    let fd = backing.open_node(node, hint, How::Path)?;
    let stamp = {
        let _turn = backing.turn(node);
        let stub = backing
            .record(fd.as_fd())?
            .filter(|r| belongs_to(r, backing.fs(), node))
            .filter(|r| r.state == State::Released && (r.file, r.version) == of);
        let Some(stub) = stub else {
            return Ok(None);
        };
        if stub.copies == copies {
            return Ok(Some(None));
        }
        let ctime = backing.stat(fd.as_fd())?.ctime;
        let record = Record {
            user_ctime: shown_ctime(Some(&stub), ctime),
            ctime_floor: None,
            copies: copies.to_vec(),
            ..stub
        };
        Stamp::set(backing, fd.as_fd(), hint, &record, SetHow::Replace)?
    };
    let file = backing.reopen(fd.as_fd(), How::Read)?;
    rustix::fs::fsync(&file)
        .map_err(|why| BackingError::of("fsync", || describe(file.as_fd()), why))?;
    Ok(Some(stamp.settle))
}
