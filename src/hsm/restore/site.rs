//! The target while it is being filled.
//!
//! ```text
//! DIR/                        0700, trusted.cairn.restore: what is being restored
//!   .cairn-restore-XXXX/      the work: gone in the end
//!     listing                 the spool
//!     root/                   an empty directory with the attributes of the root
//!     new                     an inode that has no name yet
//!     probe                   a file that tries the disk, for a moment
//!     tree/                   what will lie in DIR
//! ```
//!
//! Invariants: the attribute is there before anything else, and goes last; while it is, no instance
//! starts here. What lies in `tree` moves out only once all of it is durable, and the attribute says
//! so first: a restore that finds that goes on moving.

use super::find::{self, Link, Skipped};
use super::{Loss, Order, Outcome, Report, RestoreError, Step, node};
use crate::hsm::backing::{Backing, Mark, MarkGuard, Reach, this_boot};
use crate::id::{AggregateId, FsUuid, InstanceId, TierId, Timestamp};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags, XattrFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The attribute on the target.
const ATTRIBUTE: &str = "trusted.cairn.restore";
/// Longest value of it.
const LONGEST: usize = 4096;
/// Snapshots that were passed over and are kept in it.
const PASSED_OVER: usize = 8;
/// Format of it.
const FORMAT: u32 = 1;
/// Where the tree is made.
const TREE: &str = "tree";
/// The root's attributes.
const ROOT: &str = "root";
/// The listings.
const SPOOL: &str = "listing";
/// What a filesystem makes itself.
const LOST: &[u8] = b"lost+found";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Written {
    format: u32,
    snapshot: String,
    tier: String,
    fs: String,
    work: String,
    phase: Phase,
    /// The root's times of access and modification (seconds, nanoseconds): once the work goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    times: Option<[(i64, i64); 2]>,
    /// Newer snapshots that could not be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    skipped: Vec<String>,
    /// What was made: once all of it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tally: Option<Tally>,
}

/// What an outcome counts, for a restore that goes on when all is made.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Tally {
    ended: (i64, u32),
    directories: u64,
    names: u64,
    stubs: u64,
    bytes: u64,
    gaps: u64,
    lost: BTreeMap<Loss, u64>,
}

impl Tally {
    fn of(outcome: &Outcome) -> Self {
        Self {
            ended: (outcome.ended.sec, outcome.ended.nsec),
            directories: outcome.directories,
            names: outcome.names,
            stubs: outcome.stubs,
            bytes: outcome.bytes,
            gaps: outcome.gaps,
            lost: outcome.lost.clone(),
        }
    }

    fn tell(self, outcome: &mut Outcome) {
        let (sec, nsec) = self.ended;
        outcome.ended = Timestamp { sec, nsec };
        outcome.directories = self.directories;
        outcome.names = self.names;
        outcome.stubs = self.stubs;
        outcome.bytes = self.bytes;
        outcome.gaps = self.gaps;
        outcome.lost = self.lost;
    }
}

/// How far a restore has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Phase {
    /// The tree is being made.
    Making,
    /// It is durable, and moves to its place.
    Placing,
    /// All is in its place; the work goes.
    Clearing,
}

/// See the module.
pub(super) struct Site {
    root: OwnedFd,
    path: std::path::PathBuf,
    state: Option<Written>,
    fs: FsUuid,
    // Set by `mark`.
    open: Option<Open>,
}

struct Open {
    backing: Backing,
    // Held for its lock; when it goes, the mark says that all ended well.
    _guard: MarkGuard,
    work: OwnedFd,
    tree: OwnedFd,
}

/// Is a restore of this directory not finished? Of which snapshot.
///
/// # Errors
/// It cannot be told.
pub fn is_unfinished(path: &Path) -> io::Result<Option<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty())?;
    Ok(read(root.as_fd())?.map(|written| written.snapshot))
}

fn read(root: BorrowedFd<'_>) -> io::Result<Option<Written>> {
    let mut value = vec![0; LONGEST];
    match rustix::fs::fgetxattr(root, ATTRIBUTE, &mut value[..]) {
        Ok(len) => Ok(Some(serde_json::from_slice(&value[..len])?)),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(None),
        Err(why) => Err(why.into()),
    }
}

impl Site {
    /// Opens the target; changes nothing but that it makes it, if it is not there.
    pub(super) fn open(order: &Order<'_>) -> Result<Self, RestoreError> {
        let path = order.to.to_owned();
        let bad = |why: String| RestoreError::Target {
            path: path.clone(),
            why,
        };
        match std::fs::create_dir(&path) {
            Ok(()) => {
                let private = std::fs::Permissions::from_mode(0o700);
                std::fs::set_permissions(&path, private)
                    .map_err(RestoreError::io("guard", path.display()))?;
            }
            Err(why) if why.kind() == io::ErrorKind::AlreadyExists => {}
            Err(why) => return Err(RestoreError::io("make", path.display())(why)),
        }
        let root = Backing::shut_out(&path, order.host, order.now.sec, false)?;
        let state = read(root.as_fd())
            .map_err(|why| bad(format!("what is being restored here cannot be read: {why}")))?;
        let tier = order.tier.mark().tier;
        match &state {
            Some(state) if state.format != FORMAT => {
                return Err(bad("another version's restore is unfinished".to_owned()));
            }
            Some(state) if state.tier != tier.to_string() => {
                let why = format!(
                    "a restore from tier {} is unfinished; finish that, or name an empty directory",
                    state.tier
                );
                return Err(bad(why));
            }
            Some(_) => {}
            None => check_empty(root.as_fd(), &path)?,
        }
        let fs = match &state {
            Some(state) => state.fs.parse().map_err(|why| bad(format!("{why}")))?,
            None => FsUuid::random(),
        };
        Ok(Self {
            root,
            path,
            state,
            fs,
            open: None,
        })
    }

    /// The snapshot that an unfinished restore began with.
    pub(super) fn snapshot(&self) -> Option<AggregateId> {
        self.state.as_ref().and_then(|s| s.snapshot.parse().ok())
    }

    /// The newer snapshots that could not be used when it began.
    pub(super) fn skipped(&self) -> Skipped {
        let ids = self.state.iter().flat_map(|s| &s.skipped);
        let ids = ids.filter_map(|id| id.parse().ok());
        ids.map(|id| (id, "when this restore began".to_owned()))
            .collect()
    }

    /// The tree is made and durable, and is moving out.
    pub(super) fn is_placing(&self) -> bool {
        self.state.as_ref().is_some_and(|s| s.phase > Phase::Making)
    }

    /// From here on the target is ours.
    pub(super) fn mark(
        &mut self,
        order: &Order<'_>,
        chain: &[Link],
        skipped: &Skipped,
    ) -> Result<(), RestoreError> {
        let snapshot = chain.last().map(|link| link.found.id.to_string());
        let tier: TierId = order.tier.mark().tier;
        let state = match self.state.take() {
            Some(state) => state,
            None => Written {
                format: FORMAT,
                snapshot: snapshot.unwrap_or_default(),
                tier: tier.to_string(),
                fs: self.fs.to_string(),
                work: format!(".cairn-restore-{}", FsUuid::random()),
                phase: Phase::Making,
                times: None,
                skipped: skipped
                    .iter()
                    .take(PASSED_OVER)
                    .map(|(id, _)| id.to_string())
                    .collect(),
                tally: None,
            },
        };
        let path = self.path.clone();
        let fail = |step| RestoreError::io(step, path.display());
        if state.phase == Phase::Making {
            rustix::fs::fchmod(&self.root, Mode::RWXU).map_err(|e| fail("guard")(e.into()))?;
        }
        self.write(&state)?;
        let work = directory(self.root.as_fd(), &state.work)?;
        let tree = directory(work.as_fd(), TREE)?;
        directory(work.as_fd(), ROOT)?;
        let backing = Backing::open(&self.path, self.fs, None)?;
        let (host, boot) = this_boot().map_err(fail("read the boot id for"))?;
        let (_, epoch) = find::names(order.tier)?;
        let mark = Mark {
            fs: self.fs,
            // Whoever starts here first takes its place.
            instance: InstanceId::random(),
            host,
            pid: std::process::id(),
            boot,
            epoch,
            started: order.now.sec,
            heartbeat: order.now.sec,
            state: None,
        };
        // The lock goes over to the claim.
        rustix::fs::flock(&self.root, rustix::fs::FlockOperation::Unlock)
            .map_err(|e| fail("unlock")(e.into()))?;
        let guard = backing.claim(mark, order.now.sec, false)?;
        self.state = Some(state);
        self.open = Some(Open {
            backing,
            _guard: guard,
            work,
            tree,
        });
        Ok(())
    }

    fn write(&self, state: &Written) -> Result<(), RestoreError> {
        let fail = || RestoreError::io("mark", self.path.display());
        let bytes = serde_json::to_vec(state).map_err(|e| fail()(e.into()))?;
        rustix::fs::fsetxattr(&self.root, ATTRIBUTE, &bytes, XattrFlags::empty())
            .and_then(|()| rustix::fs::fsync(&self.root))
            .map_err(|e| fail()(e.into()))
    }

    fn opened(&self) -> Result<&Open, RestoreError> {
        self.open.as_ref().ok_or_else(|| RestoreError::Target {
            path: self.path.clone(),
            why: "it was not marked".to_owned(),
        })
    }

    pub(super) fn backing(&self) -> Result<&Backing, RestoreError> {
        Ok(&self.opened()?.backing)
    }

    /// Where inodes are made that have no name yet.
    pub(super) fn work(&self) -> Result<BorrowedFd<'_>, RestoreError> {
        Ok(self.opened()?.work.as_fd())
    }

    /// What will lie in the target.
    pub(super) fn tree(&self) -> Result<BorrowedFd<'_>, RestoreError> {
        Ok(self.opened()?.tree.as_fd())
    }

    /// The directory that carries the root's attributes until the end.
    pub(super) fn root_attributes(&self) -> Result<OwnedFd, RestoreError> {
        directory(self.opened()?.work.as_fd(), ROOT)
    }

    /// The file for the listings, empty.
    pub(super) fn spool(&self) -> Result<File, RestoreError> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::openat(self.work()?, SPOOL, flags, mode)
            .map(File::from)
            .map_err(|e| RestoreError::io("make", SPOOL)(e.into()))
    }

    /// The tree moves to its place; what is left of the work goes; the target is a backing.
    pub(super) fn place(
        &mut self,
        order: &Order<'_>,
        report: &mut dyn Report,
        outcome: &mut Outcome,
    ) -> Result<(), RestoreError> {
        let reached = |step| (order.reached)(step).map_err(RestoreError::io("reach", "a step"));
        let sync = |site: &Self| {
            rustix::fs::syncfs(&site.root)
                .map_err(|e| RestoreError::io("sync", site.path.display())(e.into()))
        };
        if self.phase() == Some(Phase::Making) {
            reached(Step::Tree)?;
            sync(self)?;
            // Nothing of it can be told again when the work is gone.
            report
                .told()
                .map_err(RestoreError::io("write", "the report"))?;
            if let Some(state) = &mut self.state {
                state.tally = Some(Tally::of(outcome));
            }
            self.go_on(Phase::Placing, None)?;
        } else if let Some(tally) = self.state.as_ref().and_then(|s| s.tally.clone()) {
            tally.tell(outcome);
        }
        reached(Step::Durable)?;
        outcome.guarded = self.is_guarded()?;
        if self.phase() == Some(Phase::Placing) {
            let open = self.opened()?;
            for name in names(open.tree.as_fd())? {
                self.move_out(open, &name)?;
                reached(Step::Placed)?;
            }
            let root = self.root_attributes()?;
            let work = open.work.as_fd();
            node::copy_attributes(root.as_fd(), self.root.as_fd(), outcome.guarded, work)?;
            let times = node::times(root.as_fd())?;
            sync(self)?;
            self.go_on(Phase::Clearing, Some(times))?;
        }
        reached(Step::AllPlaced)?;
        self.clear()?;
        if let Some(times) = self.state.as_ref().and_then(|s| s.times) {
            node::set_times(self.root.as_fd(), times)?;
        }
        report
            .placed()
            .map_err(RestoreError::io("make", "what belongs to the new backing"))?;
        reached(Step::Belongings)?;
        // Its mark says from now on that it ended well.
        self.open = None;
        rustix::fs::fremovexattr(&self.root, ATTRIBUTE)
            .or_else(|why| match why {
                rustix::io::Errno::NODATA => Ok(()),
                why => Err(why),
            })
            .map_err(|e| RestoreError::io("unmark", self.path.display())(e.into()))?;
        sync(self)
    }

    fn phase(&self) -> Option<Phase> {
        self.state.as_ref().map(|s| s.phase)
    }

    fn go_on(&mut self, phase: Phase, times: Option<[(i64, i64); 2]>) -> Result<(), RestoreError> {
        if let Some(state) = self.state.take() {
            let state = Written {
                phase,
                times,
                ..state
            };
            self.write(&state)?;
            self.state = Some(state);
        }
        Ok(())
    }

    /// Could users come in, if the target had the mode that the root had? What counts is what stands
    /// above it.
    fn is_guarded(&self) -> Result<bool, RestoreError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = rustix::fs::openat(&self.root, c"..", flags, Mode::empty())
            .map_err(|e| RestoreError::io("look above", self.path.display())(e.into()))?;
        let reach = crate::hsm::backing::guard_above(above.as_fd())?;
        Ok(reach != Reach::Open)
    }

    fn move_out(&self, open: &Open, name: &[u8]) -> Result<(), RestoreError> {
        let shown = String::from_utf8_lossy(name).into_owned();
        let name = node::os(name);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fail = |step, e: rustix::io::Errno| RestoreError::io(step, &shown)(e.into());
        let inode = rustix::fs::openat(&open.tree, name, flags, Mode::empty())
            .map_err(|e| fail("open", e))?;
        let before = rustix::fs::fstat(&inode).map_err(|e| fail("stat", e))?;
        let moved =
            rustix::fs::renameat_with(&open.tree, name, &self.root, name, RenameFlags::NOREPLACE);
        match moved {
            Ok(()) => {}
            // The filesystem made its own.
            Err(rustix::io::Errno::EXIST) if shown.as_bytes() == LOST => {
                return self.fill_lost(open, before.st_mode);
            }
            Err(why) => return Err(fail("move", why)),
        }
        if rustix::fs::FileType::from_raw_mode(before.st_mode).is_dir() {
            // Some filesystems count a new parent as a change of what lies in it.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(&self.root, name, flags, Mode::empty())
                .map_err(|e| fail("open", e))?;
            rustix::fs::futimens(&fd, &node::times_of(&before))
                .map_err(|e| fail("set the times of", e))?;
        }
        Ok(())
    }

    /// What was in `lost+found` goes into the one that the filesystem made; nothing is replaced.
    fn fill_lost(&self, open: &Open, mode: u32) -> Result<(), RestoreError> {
        let lost = node::os(LOST);
        let fail = |e: rustix::io::Errno| RestoreError::io("move", "lost+found")(e.into());
        let no = RenameFlags::NOREPLACE;
        let aside = |from: BorrowedFd<'_>, name: &[u8], to: BorrowedFd<'_>| {
            let beside = [name, b".restored"].concat();
            let (name, beside) = (node::os(name), node::os(&beside));
            rustix::fs::renameat_with(from, name, to, beside, no).map_err(fail)
        };
        if !rustix::fs::FileType::from_raw_mode(mode).is_dir() {
            return aside(open.tree.as_fd(), LOST, self.root.as_fd());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let enter = |at| rustix::fs::openat(at, lost, flags, Mode::empty()).map_err(fail);
        let (from, to) = (enter(open.tree.as_fd())?, enter(self.root.as_fd())?);
        for name in names(from.as_fd())? {
            let os = node::os(&name);
            match rustix::fs::renameat_with(&from, os, &to, os, no) {
                Ok(()) => {}
                Err(rustix::io::Errno::EXIST) => aside(from.as_fd(), &name, to.as_fd())?,
                Err(why) => return Err(fail(why)),
            }
        }
        rustix::fs::unlinkat(&open.tree, lost, AtFlags::REMOVEDIR).map_err(fail)
    }

    /// What a damaged snapshot left of a restore that had only begun.
    pub(super) fn give_up(mut self) -> Result<(), RestoreError> {
        self.clear()?;
        self.open = None;
        for attribute in [ATTRIBUTE, "trusted.cairn.mark"] {
            // It may never have been set.
            let _ = rustix::fs::fremovexattr(&self.root, attribute);
        }
        Ok(())
    }

    /// Removes the work.
    fn clear(&self) -> Result<(), RestoreError> {
        let Some(state) = &self.state else {
            return Ok(());
        };
        remove(self.root.as_fd(), state.work.as_bytes())
    }
}

/// Removes a name and all below it, without following anything.
fn remove(at: BorrowedFd<'_>, name: &[u8]) -> Result<(), RestoreError> {
    let fail =
        |e: rustix::io::Errno| RestoreError::io("remove", String::from_utf8_lossy(name))(e.into());
    match rustix::fs::unlinkat(at, node::os(name), AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {}
        Err(why) => return Err(fail(why)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = rustix::fs::openat(at, node::os(name), flags, Mode::empty()).map_err(fail)?;
    for below in names(inner.as_fd())? {
        remove(inner.as_fd(), &below)?;
    }
    drop(inner);
    rustix::fs::unlinkat(at, node::os(name), AtFlags::REMOVEDIR).map_err(fail)
}

fn names(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, RestoreError> {
    let fail = |e: rustix::io::Errno| RestoreError::io("list", "a directory")(e.into());
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn check_empty(root: BorrowedFd<'_>, path: &Path) -> Result<(), RestoreError> {
    let found = names(root)?.into_iter().find(|name| name != LOST);
    let why = match (found, Backing::mark_of(path)?) {
        (Some(name), _) => format!(
            "it is not empty (it holds {:?})",
            String::from_utf8_lossy(&name)
        ),
        (None, Some(_)) => "it is the backing of an instance".to_owned(),
        (None, None) => return Ok(()),
    };
    Err(RestoreError::Target {
        path: path.to_owned(),
        why: format!("{why}; name an empty directory, or one that is not there"),
    })
}

/// A directory of the work, made if it is not there.
fn directory(at: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, RestoreError> {
    let fail = |e: rustix::io::Errno| RestoreError::io("make", name)(e.into());
    match rustix::fs::mkdirat(at, name, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(why) => return Err(fail(why)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty()).map_err(fail)
}
