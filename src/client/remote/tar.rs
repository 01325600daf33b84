//! Archives there: their index, which lies at their end, and their members as parcels.
//!
//! Invariants kept here:
//! - an archive is one state of one file: what is got of another one than its index is of is refused;
//! - names of members are looked at like any that a server says, and one that cannot be keeps no other back;
//! - a member that is another name of a file is got as a name, if that file is, and else as a file.

use super::link::Link;
use super::parcel::{TRANSFERS, Unreached, changed, failed, layout, pairs, settle, tag};
use super::plan::{
    Archive, ENTRIES, Item, Parcel, Plan, Skip, TOGETHER, Tar, modified, parcel, problem,
};
use super::session::Session;
use crate::client::ClientError;
use crate::error::Failure;
use crate::format::aggregate::{AggregateError, Span, TRAILER_LEN, decode_index, decode_trailer};
use crate::format::member::{Kind as MemberKind, MemberPath};
use crate::id::bytes_of_hex;
use crate::parcel::{
    ALONE, Contents, Entry, Found, Incoming, Kind, Layout, Receiving, Tail, Tree, UnpackFault,
    Unpacking, Want,
};
use crate::server::wire::{EntryKind, EntryView, GivenPath, OpenTransfer, OpenedTransfer};
use cairn_mover::ByteRange;
use hyper::Method;
use rustix::fs::FileType;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// So much of an archive's end is asked for first: the index of some thousand members is in it.
const TAIL: u64 = 256 << 10;
/// The longest index that is taken into memory: that of some five million members.
const INDEX_MAX: u64 = 1 << 30;

/// The state of an archive that its index is of; of one that is not known yet, nothing.
pub(super) fn known(tar: &Tar) -> &[u8] {
    match tar {
        Tar::Unpacks(archive, _) => archive.contents.version(),
        Tar::Packs(_) | Tar::Reads(..) | Tar::Here => &[],
    }
}

impl Session {
    /// This end of what is got of an archive.
    pub(super) async fn of_archive(
        &self,
        parcel: &Parcel,
        tar: &Tar,
        resume: bool,
    ) -> Result<Arc<dyn Incoming>, ClientError> {
        let tree = Arc::clone(&parcel.tree);
        let placing = self.placing(parcel, resume);
        match tar {
            Tar::Reads(tail, _) => Ok(Arc::clone(tail) as Arc<dyn Incoming>),
            Tar::Unpacks(archive, wants) => {
                let (contents, wants) = (Arc::clone(&archive.contents), wants.clone());
                let (tag, settle) = (tag()?, settle(parcel)?);
                let make = move || Unpacking::new(tree, contents, &wants, placing, tag, settle);
                let made = tokio::task::spawn_blocking(make).await;
                match made.map_err(ClientError::not_understood)? {
                    Ok(made) => Ok(Arc::new(made)),
                    Err(UnpackFault::Io(error)) => Err(failed("make the file")(error)),
                    Err(UnpackFault::Layout(fault)) => Err(ClientError::not_understood(fault)),
                }
            }
            Tar::Packs(_) | Tar::Here => {
                let (layout, tag, settle) = (layout(parcel)?, tag()?, settle(parcel)?);
                let made = Receiving::new(tree, layout, placing, &[], tag, settle);
                Ok(Arc::new(made.map_err(failed("make it"))?))
            }
        }
    }

    /// Opens a get of the ranges of an archive that are not here; `None`: all are.
    pub(super) async fn ranges(
        &self,
        link: &mut Link,
        mut asked: OpenTransfer,
        tar: &Tar,
        incoming: &dyn Incoming,
    ) -> Result<Option<OpenedTransfer>, Unreached> {
        let lacking = pairs(&incoming.lacking(known(tar)));
        if lacking.is_empty() {
            return Ok(None);
        }
        asked.key = tag()?;
        asked.ranges = Some(lacking.clone());
        let opened: OpenedTransfer = link.ask(Method::POST, TRANSFERS, Some(&asked)).await?;
        let version = bytes_of_hex(&opened.version).unwrap_or_default();
        match tar {
            Tar::Unpacks(archive, _) if archive.contents.version() != version => {
                return Err(changed().into());
            }
            Tar::Reads(tail, _) => tail.is_of(&version),
            Tar::Unpacks(..) | Tar::Packs(_) | Tar::Here => {}
        }
        if opened.ranges != lacking {
            let why = "other ranges than those that were asked for";
            return Err(ClientError::not_understood(why).into());
        }
        Ok(Some(opened))
    }

    /// Reads the index of an archive. `tree` is not written to.
    ///
    /// # Errors
    /// It is none that has its index at its end (`NotAFile`), or changes meanwhile; or as of any parcel.
    pub async fn archive(
        &self,
        view: &EntryView,
        tree: &Arc<Tree>,
    ) -> Result<Archive, ClientError> {
        let size = view.size;
        let start = size.saturating_sub(TAIL);
        let (mut bytes, version) = self.read(view, tree, start..size).await?;
        let at = bytes.len().saturating_sub(TRAILER_LEN as usize);
        let trailer = decode_trailer(&bytes[at..], size).map_err(|e| no_archive(view, &e))?;
        if trailer.index_len > INDEX_MAX {
            let named = view.path.text();
            return Err(ClientError::Refused {
                failure: Failure::OverBudget,
                message: format!(
                    "{named}: its index has {} bytes, and up to {INDEX_MAX} are read",
                    trailer.index_len
                ),
                hint: Some("get it as a file, and use tar".to_owned()),
            });
        }
        let mut begin = start;
        if trailer.index_offset < start {
            let upto = start.min(trailer.index_offset + trailer.index_len);
            let (mut front, other) = self.read(view, tree, trailer.index_offset..upto).await?;
            if other != version {
                return Err(changed());
            }
            front.append(&mut bytes);
            (bytes, begin) = (front, trailer.index_offset);
        }
        let from = (trailer.index_offset - begin) as usize;
        let index = bytes.get(from..from + trailer.index_len as usize);
        let index = decode_index(index.unwrap_or_default(), &trailer);
        let index = index.map_err(|e| no_archive(view, &e))?;
        let apart = index.entries.iter().any(|entry| entry.span != Span::Whole);
        let contents = match apart {
            true => Err("its files lie in other objects, too"),
            false => Contents::new(index, version, size),
        };
        let contents = contents
            .map_err(|why| no_archive(view, &AggregateError::DamagedIndex(why.to_owned())))?;
        Ok(Archive {
            view: view.clone(),
            contents: Arc::new(contents),
        })
    }

    /// A range of a file there, and the state of the file.
    pub(super) async fn read(
        &self,
        view: &EntryView,
        tree: &Arc<Tree>,
        range: std::ops::Range<u64>,
    ) -> Result<(Vec<u8>, Vec<u8>), ClientError> {
        let Some(range) = ByteRange::between(range.start, range.end) else {
            return Ok((Vec::new(), Vec::new()));
        };
        let tail = Arc::new(Tail::new(view.size, range));
        let reads = Parcel {
            tree: Arc::clone(tree),
            items: Vec::new(),
            bytes: range.len(),
            finishes: false,
            tar: Some(Tar::Reads(Arc::clone(&tail), view.clone())),
        };
        self.persist(&mut None, &reads).await?;
        Ok(tail.take())
    }
}

/// Why a file there is no archive that members can be had of.
fn no_archive(view: &EntryView, why: &AggregateError) -> ClientError {
    let failure = match why {
        AggregateError::NoTrailer(_) => Failure::NotAFile,
        AggregateError::Newer(_) => Failure::Newer,
        AggregateError::DamagedIndex(_)
        | AggregateError::BadMember { .. }
        | AggregateError::Io { .. }
        | AggregateError::Misuse { .. } => Failure::NoGoodCopy,
    };
    let message = match why {
        AggregateError::NoTrailer(_) => {
            format!("{} has no index at its end", view.path.text())
        }
        other => format!("{}: {other}", view.path.text()),
    };
    ClientError::Refused {
        failure,
        message,
        hint: Some(
            "only an archive that `cairn put --tar` made can be got by members; get it as a file, and use tar"
                .to_owned(),
        ),
    }
}

/// What is chosen of an archive: all members, or those of these names and all below them. What is not in it becomes a problem.
fn chosen(contents: &Contents, names: &[Vec<u8>], plan: &mut Plan) -> BTreeSet<usize> {
    let members = contents.members();
    if names.is_empty() {
        return (0..members.len()).collect();
    }
    let mut chosen = BTreeSet::new();
    for name in names {
        let parts = name.split(|b| *b == b'/');
        let parts = parts.filter(|part| !part.is_empty() && *part != b".");
        let path = parts.collect::<Vec<_>>().join(&b'/');
        let before = chosen.len();
        let below = [path.as_slice(), b"/"].concat();
        // Names stand bytewise in order: those below a directory together, but not right behind it.
        let first = members.partition_point(|e| e.member.path.as_bytes() < below.as_slice());
        let is_below = |at: &usize| members[*at].member.path.as_bytes().starts_with(&below);
        match path.as_slice() {
            b"" => chosen.extend(0..members.len()),
            _ => chosen.extend((first..members.len()).take_while(is_below)),
        }
        let own = MemberPath::new(path).ok();
        chosen.extend(own.and_then(|path| contents.find(&path)));
        if chosen.len() == before {
            plan.problems
                .push(problem(name, "not-found", "the archive has no such member"));
        }
    }
    chosen
}

/// A member as an item.
fn item(entry: &Entry) -> Item {
    let (kind, size, target) = match &entry.kind {
        Kind::File(size) | Kind::Sparse { size, .. } | Kind::Name { size, .. } => {
            (EntryKind::File, *size, None)
        }
        Kind::Directory => (EntryKind::Directory, 0, None),
        Kind::Link(to) => (EntryKind::Symlink, 0, Some(GivenPath::new(to))),
    };
    Item {
        local: entry.path.clone(),
        remote: EntryView {
            path: GivenPath::new(&entry.path),
            kind,
            size,
            mode: entry.mode,
            mtime_s: entry.modified.seconds,
            mtime_ns: entry.modified.nanos,
            target,
        },
        found: None,
        name_of: None,
    }
}

/// Members are being planned.
struct Unpack<'a> {
    archive: &'a Arc<Archive>,
    tree: &'a Arc<Tree>,
    skip: Skip,
    /// What an earlier copy finished is left out.
    resume: bool,
    together: Vec<(Item, Want)>,
    stored: u64,
    /// The size that files would have without holes.
    size: u64,
}

impl Unpack<'_> {
    /// Is it left out, by what is here in its place?
    fn is_left_out(&self, item: &Item) -> bool {
        let Ok(found) = self.tree.look(&item.local) else {
            return false;
        };
        let there = EntryView {
            mtime_s: found.modified.seconds,
            mtime_ns: found.modified.nanos,
            ..item.remote.clone()
        };
        self.skip.leaves_out(&item.remote, Some(&there)) || self.resume && is_done(item, &found)
    }

    fn add(&mut self, plan: &mut Plan, item: Item, want: Want) {
        let stored = self.archive.contents.stored(want.data);
        let full = self.stored + stored > TOGETHER
            || self.size.saturating_add(item.remote.size) > i64::MAX as u64
            || self.together.len() >= ENTRIES;
        if full || stored >= ALONE {
            self.flush(plan);
        }
        self.stored += stored;
        self.size = self.size.saturating_add(item.remote.size);
        plan.count += 1;
        plan.bytes += stored;
        self.together.push((item, want));
        if stored >= ALONE {
            self.flush(plan);
        }
    }

    fn flush(&mut self, plan: &mut Plan) {
        if self.together.is_empty() {
            return;
        }
        let (items, wants) = std::mem::take(&mut self.together).into_iter().unzip();
        plan.files.push(Parcel {
            bytes: self.stored,
            tar: Some(Tar::Unpacks(Arc::clone(self.archive), wants)),
            ..parcel(self.tree, items)
        });
        (self.stored, self.size) = (0, 0);
    }
}

/// Is what lies here what an earlier copy of this very member made?
fn is_done(item: &Item, found: &Found) -> bool {
    item.remote.kind == EntryKind::File
        && found.kind == FileType::RegularFile
        && (found.size, found.modified) == (item.remote.size, modified(&item.remote))
}

/// Plans to write members below the tree: all, or those of these names and what lies below them.
pub fn unpack(
    plan: &mut Plan,
    archive: &Arc<Archive>,
    tree: &Arc<Tree>,
    names: &[Vec<u8>],
    (skip, resume): (Skip, bool),
) {
    let contents = &archive.contents;
    let chosen = chosen(contents, names, plan);
    let mut unpack = Unpack {
        archive,
        tree,
        skip,
        resume,
        together: Vec::new(),
        stored: 0,
        size: 0,
    };
    let mut order: Vec<usize> = chosen.iter().copied().collect();
    // As they lie there; so links come behind what they are other names of.
    order.sort_by_key(|member| contents.members()[*member].header);
    let (mut directories, mut further) = (Vec::new(), Vec::new());
    // Where the data of a file are here that is not got under its own name.
    let mut instead: HashMap<usize, Vec<u8>> = HashMap::new();
    for member in order {
        let named = &contents.members()[member].member;
        let target = match &named.kind {
            MemberKind::HardLink { target } => contents.find(target),
            _ => None,
        };
        let data = target.unwrap_or(member);
        let Some(entry) = contents.entry(Want { member, data }) else {
            continue;
        };
        let mut item = item(&entry);
        if let Err(fault) = Layout::new(vec![entry]) {
            plan.problems
                .push(problem(&item.local, "usage", &fault.to_string()));
            continue;
        }
        if item.remote.kind == EntryKind::Directory {
            directories.push(item);
            continue;
        }
        if unpack.is_left_out(&item) {
            plan.skipped += 1;
            continue;
        }
        let file = item.remote.kind == EntryKind::File;
        if let Some(target) = target.filter(|_| file) {
            let first = match chosen.contains(&target) {
                true => Some(contents.members()[target].member.path.as_bytes().to_vec()),
                false => instead.get(&target).cloned(),
            };
            if first.is_some() {
                item.name_of = first;
                plan.count += 1;
                further.push(item);
                continue;
            }
            instead.insert(target, item.local.clone());
        }
        unpack.add(plan, item, Want { member, data });
    }
    unpack.flush(plan);
    plan.add(tree, directories);
    for some in further.chunks(ENTRIES) {
        plan.names.push(parcel(tree, some.to_vec()));
    }
    for here in plan.directories.iter_mut().chain(&mut plan.names) {
        here.tar = Some(Tar::Here);
    }
}
