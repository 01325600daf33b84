//! What was deleted, listed; and brought back as released files (P8, the other way round).
//!
//! Invariants:
//! - The order: member and attributes are read from a tier; the catalog says once more that the
//!   version may come back, durably; the file is made whole, without a name; it gets the name; the
//!   catalog is told; the kernel forgets that there was none. A crash in between leaves nothing, or a
//!   released file; the copies that count too long then are found by the next complete scan
//!   ([`Shared::settle_revivals`]).
//! - A user gets at tombstones of their own files alone, of these has back only what was theirs when it
//!   was archived, and makes files and directories where they
//!   could have made them by themselves.
//! - Names that the caller may not know, they are not told, nor are files made under them.

mod choice;
mod member;
mod places;
#[cfg(test)]
mod tests;
mod under_way;

pub use choice::Which;
pub(super) use under_way::UnderWay;

use super::ask::Asker;
use super::{Engine, EngineError, Shared, tree};
use crate::catalog::{
    Below, CameBack, Copy, CopyState, Durability, NotRevived, Proven, Rescan, Revived, Sighting,
    Tombstone, TombstoneWhy, Version,
};
use crate::error::Failure;
use crate::format::record::{CopyHint, State};
use crate::hsm::backing::{BackingError, NodeKind, belongs_to};
use crate::hsm::release::Permit;
use crate::hsm::undelete::{Data, Named, Nameless, Owner, Unnamed};
use crate::id::{NodeHandle, Timestamp};
use choice::Latest;
use member::Source;
use places::{Dir, Dirs, Rights};
use std::os::fd::AsFd;

/// Tombstones asked for at once.
const PAGE: usize = 1000;

/// A place that may be gone: a directory that is there, and what lay below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The directory.
    pub directory: NodeHandle,
    /// Names from there on.
    pub below: Vec<Vec<u8>>,
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Looker {
    /// As whom files are made.
    pub asker: Asker,
    /// They see all users' tombstones.
    pub sees_all: bool,
}

/// May a path (relative to the root) be known to who asks? With it: they named it themselves.
pub type Knows<'a> = &'a mut dyn FnMut(&[u8], bool) -> bool;

/// A version that was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    /// Its tombstone.
    pub stone: Tombstone,
    /// Path below what was asked about; empty: that itself.
    pub below: Vec<u8>,
    /// The file's size, bytes; of its data alone where nothing else is known.
    pub size: u64,
    /// Where it lies.
    pub copies: Vec<Copy>,
}

/// What to bring back.
#[derive(Debug, Clone)]
pub struct Undelete {
    /// What was deleted.
    pub from: Place,
    /// Where to; `None`: where it was.
    pub to: Option<Place>,
    /// Which version.
    pub which: Which,
    /// All that lay below it, and the directories.
    pub recursive: bool,
}

/// A file that is back, released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Back {
    /// Where it was, below what was asked for; empty: that itself.
    pub below: Vec<u8>,
    /// Its path now, relative to the root.
    pub path: Vec<u8>,
    /// It.
    pub node: NodeHandle,
    /// Its size, bytes.
    pub size: u64,
    /// When its data were last modified.
    pub modified: Timestamp,
    /// Why it was gone, and when.
    pub stone: Tombstone,
}

/// How one file ended: back, or its path below what was asked for and why not.
pub type Outcome = Result<Back, (Vec<u8>, EngineError)>;

/// What a crash may come after; tests stop there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Revived,
    Made,
    Named,
    Noted,
}

/// Asked after each step; `false`: stop as a crash would.
pub(super) type Reached<'a> = &'a dyn Fn(Step) -> bool;

impl Engine {
    /// What was deleted at a place and below it, to `each` in the order of paths, until that says
    /// `false`.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn deleted(
        &self,
        place: &Place,
        looker: &Looker,
        knows: Knows<'_>,
        each: &mut dyn FnMut(Deleted) -> bool,
    ) -> Result<(), EngineError> {
        let shared = &self.shared;
        let base = shared.base(place)?;
        let mut go_on = true;
        for stone in shared.stones_at(&base, looker)?.into_iter().rev() {
            if go_on && knows(&base, true) {
                go_on = each(shared.deleted(stone, Vec::new())?);
            }
        }
        let mut after: Option<(Vec<u8>, u64)> = None;
        while go_on {
            let page = shared.stones_below(&base, looker, after.as_ref())?;
            let Some(last) = page.last() else { break };
            after = Some((last.path.clone(), last.id));
            for stone in page {
                if go_on && knows(&stone.path, false) {
                    let below = relative(&base, &stone.path);
                    go_on = each(shared.deleted(stone, below)?);
                }
            }
        }
        Ok(())
    }

    /// Brings deleted files back, each told to `each`, until that says `false`. Waits for tiers.
    ///
    /// # Errors
    /// Nothing was begun.
    pub fn undelete(
        &self,
        ask: &Undelete,
        looker: &Looker,
        knows: Knows<'_>,
        each: &mut dyn FnMut(Outcome) -> bool,
    ) -> Result<(), EngineError> {
        let shared = &self.shared;
        let _call = shared.undeleting.call().ok_or_else(stops)?;
        Permit::of(&shared.backing, shared.settings.unsafe_open_backing).map_err(|why| {
            EngineError::refused(
                Failure::NotPermitted,
                format!("released files are not safe here: {why}"),
            )
        })?;
        if ask.recursive {
            return shared.undelete_below(ask, looker, knows, each);
        }
        each(shared.undelete_one(ask, looker, knows, &|_| true));
        Ok(())
    }
}

impl Shared {
    /// The place's path relative to the root.
    fn base(&self, place: &Place) -> Result<Vec<u8>, EngineError> {
        self.drain_changelog()?;
        self.catalog.settle(Durability::Relaxed)?;
        let id = tree::ensure_directory(self, &place.directory)?;
        let path = self.catalog.path_of(id)?.ok_or_else(|| {
            EngineError::refused(Failure::NotFound, "the directory it is asked in is gone")
        })?;
        let parts = std::iter::once(&path).filter(|p| !p.is_empty());
        let parts: Vec<&[u8]> = parts.chain(&place.below).map(Vec::as_slice).collect();
        let path = parts.join(&b'/');
        self.notice_change(&path)?;
        Ok(path)
    }

    /// Whoever overwrote a file a moment ago may ask for what it was before the mount has told of
    /// it: a file that is there is looked at.
    fn notice_change(&self, path: &[u8]) -> Result<(), EngineError> {
        let Ok(fd) = self.backing.open_beneath(path) else {
            return Ok(());
        };
        let stat = self.backing.stat(fd.as_fd())?;
        let handle = self.backing.handle_of(fd.as_fd())?;
        let Some(row) = self.catalog.node_by_handle(&handle)? else {
            return Ok(());
        };
        if stat.kind != NodeKind::Regular || row.version.is_none() {
            return Ok(());
        }
        let own = self.backing.record(fd.as_fd())?;
        let own = own.filter(|r| belongs_to(r, self.backing.fs(), &handle));
        let changed = match own {
            Some(record) => {
                let resident = record.state == State::Resident;
                resident && (record.size, record.mtime) != (stat.size, stat.mtime)
            }
            // Cut, and written anew.
            None => row.proven.is_some_and(|p| p.size != stat.size),
        };
        if changed {
            let cut = row.proven.is_some_and(|p| stat.size < p.size);
            let why = if cut {
                TombstoneWhy::Truncate
            } else {
                TombstoneWhy::Overwrite
            };
            let now = self.now();
            self.catalog
                .differs(row.id, row.proven, why, now, Durability::Relaxed)?;
            self.catalog.settle(Durability::Relaxed)?;
        }
        Ok(())
    }

    fn stones_at(&self, path: &[u8], looker: &Looker) -> Result<Vec<Tombstone>, EngineError> {
        let uid = (!looker.sees_all).then_some(looker.asker.uid);
        Ok(self.catalog.deleted_at(path, uid, PAGE)?)
    }

    fn stones_below(
        &self,
        base: &[u8],
        looker: &Looker,
        after: Option<&(Vec<u8>, u64)>,
    ) -> Result<Vec<Tombstone>, EngineError> {
        let below = Below {
            directory: base.to_vec(),
            uid: (!looker.sees_all).then_some(looker.asker.uid),
        };
        let after = after.map(|(path, id)| (&path[..], *id));
        Ok(self.catalog.deleted_below(&below, after, PAGE)?)
    }

    fn deleted(&self, stone: Tombstone, below: Vec<u8>) -> Result<Deleted, EngineError> {
        let mut copies = self.catalog.copies(stone.file, stone.version)?;
        copies.retain(|c| c.state != CopyState::Bad);
        let stored = copies.iter().map(|c| c.stored_len).max().unwrap_or(0);
        Ok(Deleted {
            size: stone.size.unwrap_or(stored),
            copies,
            below,
            stone,
        })
    }

    /// One file, by its own name.
    pub(super) fn undelete_one(
        &self,
        ask: &Undelete,
        looker: &Looker,
        knows: Knows<'_>,
        reached: Reached<'_>,
    ) -> Outcome {
        let mut done = || -> Result<Back, EngineError> {
            let base = self.base(&ask.from)?;
            let stones = self.stones_at(&base, looker)?;
            let known = !stones.is_empty() && knows(&base, true);
            if !known {
                return Err(self.nothing_there(&base, looker)?);
            }
            let stone = choice::of(stones, ask.which).ok_or_else(no_such_version)?;
            let rights = Rights::new(&looker.asker);
            let (start, parents, name) = target(ask, &base)?;
            let mut dirs = Dirs::begin(self, start, rights)?;
            let dir = dirs.open(&parents)?;
            rights.may_make_in(dir)?;
            let beside = ask.to.is_none() && dir.has(&name)?;
            let name = if beside {
                choice::name_beside(&name, stone.at)
            } else {
                name
            };
            self.bring_back(stone, (dir, &name), rights, reached)
        };
        done().map_err(|why| (Vec::new(), why))
    }

    fn nothing_there(&self, base: &[u8], looker: &Looker) -> Result<EngineError, EngineError> {
        let below = self.stones_below(base, looker, None)?;
        let why = "no version of it that was archived has been deleted; what was never archived cannot be had";
        let refused = EngineError::refused(Failure::NotFound, why);
        Ok(if below.is_empty() {
            refused.hint("`cairn undelete --list` shows what can be had")
        } else {
            refused.hint("-r brings back what lay below it")
        })
    }

    /// All that lay below a place: of each path what was there last, or at that time.
    fn undelete_below(
        &self,
        ask: &Undelete,
        looker: &Looker,
        knows: Knows<'_>,
        each: &mut dyn FnMut(Outcome) -> bool,
    ) -> Result<(), EngineError> {
        let base = self.base(&ask.from)?;
        let to = ask.to.as_ref().unwrap_or(&ask.from);
        let rights = Rights::new(&looker.asker);
        let mut dirs = Dirs::begin(self, to.directory.clone(), rights)?;
        let mut after: Option<(Vec<u8>, u64)> = None;
        let mut latest = Latest::new(ask.which);
        let (mut met, mut go_on) = (0_u64, true);
        while go_on {
            let page = self.stones_below(&base, looker, after.as_ref())?;
            let end = page.is_empty();
            after = page.last().map(|last| (last.path.clone(), last.id));
            let chosen: Vec<Tombstone> = if end {
                latest.end().into_iter().collect()
            } else {
                page.into_iter().filter_map(|s| latest.push(s)).collect()
            };
            for stone in chosen {
                if self.undeleting.is_closed() {
                    dirs.end();
                    return Err(stops());
                }
                if !go_on || !knows(&stone.path, false) {
                    continue;
                }
                met += 1;
                let below = relative(&base, &stone.path);
                match self.one_below(&mut dirs, &to.below, &below, stone, rights) {
                    Ok(None) => {}
                    Ok(Some(back)) => go_on = each(Ok(back)),
                    Err(why) => go_on = each(Err((below, why))),
                }
            }
            if end {
                break;
            }
        }
        dirs.end();
        if met == 0 {
            return Err(self.nothing_below(&base, looker)?);
        }
        Ok(())
    }

    fn nothing_below(&self, base: &[u8], looker: &Looker) -> Result<EngineError, EngineError> {
        let why = "nothing that was archived has been deleted below it; what was never archived cannot be had";
        let refused = EngineError::refused(Failure::NotFound, why);
        Ok(if self.stones_at(base, looker)?.is_empty() {
            refused
        } else {
            refused.hint("it was a file: leave -r out")
        })
    }

    /// `None`: an older version of what is there.
    fn one_below(
        &self,
        dirs: &mut Dirs<'_>,
        top: &[Vec<u8>],
        below: &[u8],
        stone: Tombstone,
        rights: Rights<'_>,
    ) -> Result<Option<Back>, EngineError> {
        let mut parts = top.to_vec();
        parts.extend(below.split(|b| *b == b'/').map(<[u8]>::to_vec));
        let name = parts.pop().unwrap_or_default();
        let gone = stone.why == TombstoneWhy::Unlink;
        if let Some(dir) = dirs.look(&parts)? {
            rights.may_pass(dir)?;
            if dir.has(&name)? {
                return if gone { Err(taken()) } else { Ok(None) };
            }
            rights.may_make_in(dir)?;
        }
        let source = self.source_of(&stone)?;
        rights.may_have_back(&source.member)?;
        let dir = dirs.make(&parts, &source, &stone.path)?;
        let back = self.bring_back_from(stone, source, (dir, &name), rights, &|_| true)?;
        let below = below.to_vec();
        Ok(Some(Back { below, ..back }))
    }

    fn bring_back(
        &self,
        stone: Tombstone,
        place: (&Dir, &[u8]),
        rights: Rights<'_>,
        reached: Reached<'_>,
    ) -> Result<Back, EngineError> {
        let source = self.source_of(&stone)?;
        self.bring_back_from(stone, source, place, rights, reached)
    }

    /// The steps for one file.
    fn bring_back_from(
        &self,
        stone: Tombstone,
        source: Source,
        (dir, name): (&Dir, &[u8]),
        rights: Rights<'_>,
        reached: Reached<'_>,
    ) -> Result<Back, EngineError> {
        rights.may_have_back(&source.member)?;
        rights.may_make_in(dir)?;
        let Some(_turn) = self.undeleting.begin(stone.id) else {
            return Err(under_way());
        };
        let owner = rights.owner_of(&source.member, Some(stone.uid), dir)?;
        let (size, modified) = (source.size(), source.member.mtime);
        let node = if source.stored == 0 {
            self.make_hole(&source, (dir, name), owner)?
        } else {
            self.make_stub(&stone, &source, (dir, name), owner, reached)?
        };
        let path = dir.path_of(name);
        tracing::info!(file = %stone.file, version = stone.version.0, path = %String::from_utf8_lossy(&path), "undeleted");
        Ok(Back {
            below: Vec::new(),
            path,
            node,
            size,
            modified,
            stone,
        })
    }

    /// The kernel may remember for long that there is no such name.
    fn tell_named(&self, dir: &Dir, name: &[u8]) {
        if let Some(gate) = self.late.gate.get() {
            gate.named(&dir.handle, name);
        }
    }

    /// Nothing of it was stored: its holes are all there is to it.
    fn make_hole(
        &self,
        source: &Source,
        (dir, name): (&Dir, &[u8]),
        owner: Owner,
    ) -> Result<NodeHandle, EngineError> {
        let made = Nameless::make(&self.backing, dir.fd.as_fd(), &source.member, owner, None)?;
        let named = made
            .name(&self.backing, dir.fd.as_fd(), name, &|| {
                self.tell_named(dir, name);
            })
            .map_err(unnamed)?;
        let seen = sighting(&named, dir, name);
        self.catalog.note(vec![seen], Durability::Relaxed)?;
        Ok(named.handle)
    }

    fn make_stub(
        &self,
        stone: &Tombstone,
        source: &Source,
        (dir, name): (&Dir, &[u8]),
        owner: Owner,
        reached: Reached<'_>,
    ) -> Result<NodeHandle, EngineError> {
        let revived = self
            .catalog
            .revive(stone.id, self.now())?
            .map_err(not_revived)?;
        crash(reached, Step::Revived)?;
        let given_up = |why: EngineError| {
            if let Err(why) = self.catalog.rest_again(&revived) {
                tracing::warn!(%why, "an undelete that came to nothing stays noted; the next scan finds it");
            }
            why
        };
        let data = data(&revived, source);
        let directory = dir.fd.as_fd();
        let made = Nameless::make(&self.backing, directory, &source.member, owner, Some(data))
            .map_err(|why| given_up(why.into()))?;
        crash(reached, Step::Made)?;
        // From here on a missing record is a missing stub.
        self.believed.forget(made.handle());
        let told = || self.tell_named(dir, name);
        let named = match made.name(&self.backing, directory, name, &told) {
            Ok(named) => named,
            // A sync that failed leaves the name: then there is a file, and the scan says so.
            Err(why) if dir.has(name).unwrap_or(true) && !matches!(why, Unnamed::Taken) => {
                return Err(unnamed(why));
            }
            Err(why) => return Err(given_up(unnamed(why))),
        };
        crash(reached, Step::Named)?;
        let back = CameBack {
            version: Version {
                file: revived.file,
                version: revived.version,
                crc: source.crc,
                blocks_crc: source.blocks_crc,
            },
            seen: sighting(&named, dir, name),
            proven: Proven {
                size: named.stat.size,
                ctime: named.stat.ctime,
                boot: self.incarnation.boot,
            },
            revived,
        };
        match self.catalog.came_back(back, self.now()) {
            Ok(Some(_)) => {}
            Ok(None) => {
                tracing::error!(path = %String::from_utf8_lossy(&dir.path_of(name)), "an undelete was settled while it was under way")
            }
            Err(why) => {
                tracing::warn!(%why, "an undeleted file could not be noted; the next scan finds it");
            }
        }
        crash(reached, Step::Noted)?;
        self.look_behind(&named, dir)?;
        Ok(named.handle)
    }

    /// It had its name before the catalog heard of it: somebody may have done something to it that was
    /// told of a file that was not known, or was told before this.
    fn look_behind(&self, named: &Named, dir: &Dir) -> Result<(), EngineError> {
        let path = crate::hsm::backing::How::Path;
        let same = || -> Result<bool, BackingError> {
            let fd = self.backing.open_node(&named.handle, None, path)?;
            let record = self.backing.record(fd.as_fd())?;
            let released = record.is_some_and(|r| r.state == State::Released);
            Ok(released && self.backing.stat(fd.as_fd())?.ctime == named.stat.ctime)
        };
        if same().unwrap_or(false) {
            return Ok(());
        }
        Ok(self.catalog.need_rescan(vec![Rescan {
            node: dir.id,
            since: self.now(),
            why: "an undeleted file changed at once".to_owned(),
        }])?)
    }

    /// After a scan that looked everywhere: what undeletes left that were cut short.
    pub(super) fn settle_revivals(&self, begun: Option<Timestamp>) -> Result<(), EngineError> {
        let Some(begun) = begun else { return Ok(()) };
        let under_way = self.undeleting.all();
        let buried = self.catalog.settle_revivals(begun, under_way, self.now())?;
        if buried > 0 {
            tracing::info!(buried, "undeletes that were cut short are undone");
        }
        Ok(())
    }
}

/// Directory to begin at, directories from there on, and name.
type Target = (NodeHandle, Vec<Vec<u8>>, Vec<u8>);

fn target(ask: &Undelete, base: &[u8]) -> Result<Target, EngineError> {
    let place = ask.to.as_ref().unwrap_or(&ask.from);
    let (mut below, start) = (place.below.clone(), place.directory.clone());
    let (name, missing) = match (below.pop(), &ask.to) {
        (Some(name), _) => (name, !below.is_empty()),
        // An existing directory: into it, under its old name.
        (None, Some(_)) => {
            let old = base.rsplit(|b| *b == b'/').next().unwrap_or_default();
            (old.to_vec(), false)
        }
        (None, None) => {
            let why = "a directory has that name now";
            return Err(EngineError::refused(Failure::Exists, why)
                .hint("--to names another place for the file"));
        }
    };
    if missing {
        let why = "the directory that it would lie in is gone, too";
        return Err(EngineError::refused(Failure::NotFound, why)
            .hint("-r on the directory brings it back; --to names another place"));
    }
    Ok((start, below, name))
}

fn relative(base: &[u8], path: &[u8]) -> Vec<u8> {
    let below = path.strip_prefix(base).unwrap_or(path);
    below.strip_prefix(b"/").unwrap_or(below).to_vec()
}

fn data(revived: &Revived, source: &Source) -> Data {
    let hint = |c: &Copy| CopyHint {
        tier: c.tier,
        aggregate: c.aggregate,
        header: c.header,
    };
    let mut copies: Vec<CopyHint> = revived.copies.iter().map(hint).collect();
    // The one that was just read first.
    copies.sort_by_key(|c| (c.tier, c.aggregate) != source.place);
    Data {
        file: revived.file,
        version: revived.version,
        crc: source.crc,
        blocks_crc: source.blocks_crc,
        copies,
    }
}

fn sighting(named: &Named, dir: &Dir, name: &[u8]) -> Sighting {
    Sighting {
        handle: named.handle.clone(),
        attributes: tree::attributes(&named.stat),
        place: Some((dir.id, name.to_vec())),
    }
}

fn crash(reached: Reached<'_>, step: Step) -> Result<(), EngineError> {
    if reached(step) {
        return Ok(());
    }
    Err(EngineError::refused(Failure::Internal, "halted"))
}

fn taken() -> EngineError {
    EngineError::refused(Failure::Exists, "something has that name now")
        .hint("--to names another place")
}

fn under_way() -> EngineError {
    let why = "an undelete of it is under way, or was cut short by a crash";
    EngineError::refused(Failure::Busy, why)
        .hint("the scan after a crash sets it in order: `cairn status` shows it")
}

fn stops() -> EngineError {
    EngineError::refused(Failure::NoInstance, "the instance stops")
        .hint("give the command again: what is back already is left alone")
}

fn no_such_version() -> EngineError {
    EngineError::refused(Failure::NotFound, "no such version of it was deleted")
        .hint("`cairn undelete --list` shows them")
}

fn unnamed(why: Unnamed) -> EngineError {
    match why {
        Unnamed::Taken => taken(),
        Unnamed::Backing(why) => why.into(),
    }
}

fn not_revived(why: NotRevived) -> EngineError {
    match why {
        NotRevived::Gone => EngineError::refused(Failure::NotFound, "it is no longer kept"),
        NotRevived::NoCopy => {
            EngineError::refused(Failure::NoGoodCopy, "no copy of it can be read any more")
        }
        NotRevived::UnderWay => under_way(),
    }
}

impl From<Unnamed> for EngineError {
    fn from(why: Unnamed) -> Self {
        unnamed(why)
    }
}

/// Is it that the name is not there?
fn is_absent(why: &BackingError) -> bool {
    matches!(why, BackingError::Gone { .. })
}
