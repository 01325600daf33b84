//! The walk: depth first, then once more over directories that changed meanwhile, until none does.
//!
//! Invariant: a directory's ctime as it was before it was listed is remembered. One that has another
//! now, or whose remembered one the clock had not passed when the listing began, is listed again.
//! In a listing the last one of a directory counts.

use super::put::Put;
use super::{Knows, Order, SnapshotError, entry};
use crate::catalog::Met;
use crate::format::namespace::{self, Directory, Head, Writer};
use crate::hsm::backing::{Backing, BackingError, FileStat, How, NodeKind};
use crate::hsm::engine::tree::{self, CHUNK, Looked};
use crate::hsm::version::coarse_now;
use crate::id::{NodeHandle, Timestamp};
use rustix::fs::{AtFlags, StatxFlags};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

/// How often directories that changed are listed again.
pub(super) const ROUNDS: usize = 8;
/// Longest rest between two directories.
const REST: Duration = Duration::from_millis(200);
/// Some ticks of the coarse clock.
const TICKS: Duration = Duration::from_millis(50);
/// It rests after so much work.
const WORK: Duration = Duration::from_millis(20);

/// A directory to be listed.
struct Place {
    node: NodeHandle,
    path: Vec<u8>,
}

/// What is known of a directory that was listed.
#[derive(Clone, Copy)]
struct Seen {
    /// `None`: it may have changed in the same tick.
    ctime: Option<Timestamp>,
    /// It is in the listing, and not only looked at.
    listed: bool,
}

/// A walk under way.
pub(super) struct Walk<'a> {
    order: &'a Order<'a>,
    backing: &'a Backing,
    knows: &'a dyn Knows,
    /// A directory counts as changed if anything in it changed since; `None`: all are listed.
    since: Option<Timestamp>,
    writer: Writer,
    put: &'a mut Put,
    seen: HashMap<NodeHandle, Seen>,
    gaps: u64,
    worked: Instant,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        order: &'a Order<'a>,
        since: Option<Timestamp>,
        head: Head,
        put: &'a mut Put,
    ) -> Self {
        Self {
            order,
            backing: order.backing,
            knows: order.knows,
            since,
            writer: Writer::new(head),
            put,
            seen: HashMap::new(),
            gaps: 0,
            worked: Instant::now(),
        }
    }

    /// The listing, without its end, and what could not be looked at.
    pub(super) fn finish(self) -> (Writer, u64) {
        (self.writer, self.gaps)
    }

    /// All of it.
    pub(super) fn whole(&mut self) -> Result<(), SnapshotError> {
        let root = self.backing.handle_of(self.backing.root())?;
        self.below(Place {
            node: root,
            path: Vec::new(),
        })?;
        for _ in 0..ROUNDS {
            self.let_the_clock_pass();
            if !self.again()? {
                return Ok(());
            }
        }
        tracing::info!("directories change faster than they can be listed for a snapshot");
        Ok(())
    }

    /// A directory and everything below it that was not met before.
    fn below(&mut self, top: Place) -> Result<(), SnapshotError> {
        let mut stack = vec![top];
        while let Some(place) = stack.pop() {
            self.pause()?;
            if self.seen.contains_key(&place.node) {
                continue;
            }
            let mut found = self.look(&place, false)?;
            found.reverse();
            stack.append(&mut found);
        }
        Ok(())
    }

    /// Directories that changed since they were listed; `false`: none did.
    fn again(&mut self) -> Result<bool, SnapshotError> {
        let mut changed = Vec::new();
        for (node, seen) in &self.seen {
            let hint = (self.order.hint)(node);
            let stat = self
                .backing
                .open_node(node, hint.as_deref(), How::Path)
                .and_then(|fd| self.backing.stat(fd.as_fd()));
            match stat {
                Ok(stat) if seen.ctime == Some(stat.ctime) => {}
                // What named it changed with it.
                Err(BackingError::Gone { .. } | BackingError::Unnamed { .. }) => {}
                Ok(_) | Err(_) => changed.push(node.clone()),
            }
            if (self.order.stop)() {
                return Err(SnapshotError::Stopped);
            }
        }
        for node in &changed {
            self.pause()?;
            let path = (self.order.hint)(node).unwrap_or_default();
            let place = Place {
                node: node.clone(),
                path,
            };
            for place in self.look(&place, true)? {
                self.below(place)?;
            }
        }
        Ok(!changed.is_empty())
    }

    /// What changes from here on has another ctime than what was seen.
    fn let_the_clock_pass(&self) {
        let step = self.backing.capabilities().granularity_ns;
        let patience = TICKS + Duration::from_nanos(step.into());
        let (begun, before) = (Instant::now(), floor(coarse_now(), step));
        while floor(coarse_now(), step) <= before
            && begun.elapsed() < patience
            && !(self.order.stop)()
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn pause(&mut self) -> Result<(), SnapshotError> {
        if (self.order.stop)() {
            return Err(SnapshotError::Stopped);
        }
        let worked = self.worked.elapsed();
        if self.order.gentle && worked >= WORK {
            // Users have half of the disk at least.
            std::thread::sleep(worked.min(REST));
            self.worked = Instant::now();
        }
        Ok(())
    }

    /// Looks at one directory, lists it where that is due, and gives the directories in it.
    /// `anew`: it was looked at before.
    fn look(&mut self, place: &Place, anew: bool) -> Result<Vec<Place>, SnapshotError> {
        let before = self.seen.get(&place.node).copied();
        match self.look_at(place, before.filter(|_| anew)) {
            Ok(below) => Ok(below),
            // It went meanwhile.
            Err(Failed::Backing(BackingError::Gone { .. } | BackingError::Unnamed { .. })) => {
                self.seen.remove(&place.node);
                Ok(Vec::new())
            }
            Err(Failed::Backing(why)) => {
                tracing::warn!(path = %String::from_utf8_lossy(&place.path), %why, "a directory is missing in the namespace snapshot");
                self.gap();
                let seen = Seen {
                    ctime: None,
                    listed: false,
                };
                self.seen.entry(place.node.clone()).or_insert(seen);
                Ok(Vec::new())
            }
            Err(Failed::All(why)) => Err(why),
        }
    }

    fn gap(&mut self) {
        self.gaps += 1;
        self.writer.gap();
    }

    fn look_at(&mut self, place: &Place, before: Option<Seen>) -> Result<Vec<Place>, Failed> {
        let begun = coarse_now();
        let hint = Some(place.path.as_slice()).filter(|p| !p.is_empty());
        let fd = if place.path.is_empty() && before.is_none() && self.seen.is_empty() {
            self.backing.open_beneath(b"")?
        } else {
            self.backing.open_node(&place.node, hint, How::Path)?
        };
        let stat = self.backing.stat(fd.as_fd())?;
        let names = tree::names(self.backing, fd.as_fd())?;
        let passed = stat.ctime.nanos() < floor(begun, self.backing.capabilities().granularity_ns);
        let due = match (self.since, before) {
            (None, _) => true,
            // It changed since the walk began, at the latest.
            (Some(_), Some(seen)) => seen.listed || seen.ctime != Some(stat.ctime),
            (Some(since), None) => stat.ctime >= since,
        };
        let glanced = if due {
            None
        } else {
            self.glance(place, fd.as_fd(), &names)?
        };
        let listed = glanced.is_none();
        let below = match glanced {
            Some(below) => below,
            None => self.list(place, &fd, &stat, &names)?,
        };
        let seen = self.seen.entry(place.node.clone()).or_insert(Seen {
            ctime: None,
            listed: false,
        });
        seen.ctime = passed.then_some(stat.ctime);
        seen.listed |= listed;
        Ok(below)
    }

    /// The directories in one that itself did not change; `None`: something in it did.
    fn glance(
        &self,
        place: &Place,
        fd: BorrowedFd<'_>,
        names: &[Vec<u8>],
    ) -> Result<Option<Vec<Place>>, Failed> {
        let (since, device) = (self.since.unwrap_or_default(), self.backing.stat(fd)?.dev);
        let mut below = Vec::new();
        for name in names {
            let how = AtFlags::SYMLINK_NOFOLLOW;
            let stat = rustix::fs::statx(fd, OsStr::from_bytes(name), how, StatxFlags::BASIC_STATS);
            // What cannot be looked at is for the listing to say.
            let Some(stat) = stat.ok().and_then(|stat| FileStat::from_statx(&stat)) else {
                return Ok(None);
            };
            if stat.kind == NodeKind::Directory {
                if let Some(looked) = tree::look_at(self.backing, fd, name, device)? {
                    below.push(place.inner(&looked));
                }
            } else if stat.ctime >= since {
                return Ok(None);
            }
        }
        Ok(Some(below))
    }

    /// Writes the directory and all names in it; gives the directories among them.
    fn list(
        &mut self,
        place: &Place,
        fd: &OwnedFd,
        stat: &FileStat,
        names: &[Vec<u8>],
    ) -> Result<Vec<Place>, Failed> {
        let put = self.writer.directory(Directory {
            node: place.node.clone(),
            path: place.path.clone(),
            attributes: entry::attributes(self.backing, fd, stat, None)?,
        });
        self.unfit(put, &place.path);
        let mut below = Vec::new();
        if put == namespace::Put::Not {
            return Ok(below);
        }
        for names in names.chunks(CHUNK) {
            let mut looked = Vec::with_capacity(names.len());
            for name in names {
                match tree::look_at(self.backing, fd.as_fd(), name, stat.dev) {
                    Ok(Some(found)) => looked.push(found),
                    Ok(None) if self.is_other_filesystem(fd.as_fd(), name, stat.dev) => {
                        let why = "another filesystem begins there";
                        self.missing(place, name, &why);
                    }
                    Ok(None) => {}
                    Err(BackingError::Gone { .. }) => {}
                    Err(why) => self.missing(place, name, &why),
                }
            }
            let met = self.met(&looked)?;
            for (looked, met) in looked.iter().zip(met) {
                match entry::entry(self.backing, looked, met.as_ref()) {
                    Ok(entry) => {
                        let put = self.writer.entry(entry);
                        self.unfit(put, &place.path_of(&looked.name));
                    }
                    Err(BackingError::Gone { .. }) => {}
                    Err(why) => {
                        self.missing(place, &looked.name, &why);
                        continue;
                    }
                }
                if looked.stat.kind == NodeKind::Directory {
                    below.push(place.inner(looked));
                }
            }
            if (self.order.stop)() {
                return Err(SnapshotError::Stopped.into());
            }
            if let Some(part) = self.writer.part() {
                self.put.part(&part)?;
            }
        }
        Ok(below)
    }

    /// What the catalog knows of the regular files among them.
    fn met(&self, looked: &[Looked]) -> Result<Vec<Option<Met>>, SnapshotError> {
        let regular = |l: &&Looked| l.stat.kind == NodeKind::Regular;
        let nodes: Vec<_> = looked.iter().filter(regular).map(|l| &l.handle).collect();
        let mut met = self.knows.meet(&nodes)?.into_iter();
        let one = |l: &Looked| {
            if regular(&l) {
                met.next().flatten()
            } else {
                None
            }
        };
        Ok(looked.iter().map(one).collect())
    }

    /// Does a mount or a subvolume begin at the name? It belongs to no backing.
    fn is_other_filesystem(&self, fd: BorrowedFd<'_>, name: &[u8], device: u64) -> bool {
        let how = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::statat(fd, OsStr::from_bytes(name), how).is_ok_and(|s| s.st_dev != device)
    }

    /// What the writer did not take whole counts there; here it is told.
    fn unfit(&mut self, put: namespace::Put, path: &[u8]) {
        let what = match put {
            namespace::Put::Whole => return,
            namespace::Put::Bare => "it stands without its extended attributes",
            namespace::Put::Not => "it is missing",
        };
        self.gaps += 1;
        tracing::warn!(path = %String::from_utf8_lossy(path), what, "too long for a line of the namespace snapshot");
    }

    fn missing(&mut self, place: &Place, name: &[u8], why: &dyn std::fmt::Display) {
        let inner = place.path_of(name);
        tracing::warn!(path = %String::from_utf8_lossy(&inner), why = %why, "a name is missing in the namespace snapshot");
        self.gap();
    }
}

impl Place {
    fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    fn inner(&self, looked: &Looked) -> Self {
        Self {
            node: looked.handle.clone(),
            path: self.path_of(&looked.name),
        }
    }
}

/// A clock's reading in steps of the filesystem's timestamps.
fn floor(time: Timestamp, granularity_ns: u32) -> i64 {
    let (now, step) = (time.nanos(), i64::from(granularity_ns.max(1)));
    now - now.rem_euclid(step)
}

/// What ends the look at one directory, or the whole walk.
enum Failed {
    Backing(BackingError),
    All(SnapshotError),
}

impl From<BackingError> for Failed {
    fn from(why: BackingError) -> Self {
        Self::Backing(why)
    }
}
impl From<SnapshotError> for Failed {
    fn from(why: SnapshotError) -> Self {
        Self::All(why)
    }
}
