//! Everything that stands before the mount: places, backing, tables.

use super::{BackingDir, MirrorConfig, Passthrough, inherit};
use crate::backing::{Backing, Seen, stat_of};
use crate::core::Core;
use crate::fs::{Agreed, Wanted};
use crate::gate::Gates;
use crate::ledger::{self, Found, Ledger, Mapping, Shape, told};
use crate::locks::Locks;
use crate::mount::{Pins, check_places, clean_stale};
use crate::node::Nodes;
use crate::notify::{Inbox, Notices};
use crate::park::Park;
use crate::restart::Replays;
use crate::workers::Workers;
use crate::{MirrorError, NodeHandle, creds, descriptors, sys};
use lru::LruCache;
use parking_lot::Mutex;
use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags, fstatfs, fstatvfs, openat};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

/// Names and attributes that only this mount changes are believed this long.
const LONG: Duration = Duration::from_secs(86_400);
/// And those that others change too.
const SHORT: Duration = Duration::from_secs(1);
/// Backing ids kept for files that nobody has open. Each holds a `struct file` in the kernel, and
/// the blocks of a file that is removed around the mount.
const IDLE_IDS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
const SHARED_IDLE_IDS: NonZeroUsize = NonZeroUsize::new(64).unwrap();
const OVERLAYFS: rustix::fs::FsWord = 0x794c_7630;

pub(super) struct Prepared {
    pub(super) core: Arc<Core>,
    pub(super) wanted: Wanted,
    pub(super) agreed: Arc<Mutex<Agreed>>,
    pub(super) notices: Inbox,
    /// Absolute, without symbolic links.
    pub(super) mountpoint: PathBuf,
    /// `MS_*` of the backing's own mount: what is forbidden there stays forbidden here.
    pub(super) flags: u32,
    /// The ledger's memory, where there is a ledger.
    pub(super) memory: Option<OwnedFd>,
    /// Why there is none although one was asked for.
    pub(super) unheld: Option<String>,
    /// What a predecessor left.
    pub(super) found: Found,
}

impl Prepared {
    pub(super) fn new(config: &MirrorConfig, limit: u64) -> Result<Self, MirrorError> {
        let mountpoint = mountpoint(config)?;
        let (directory, path) = open_backing(&config.backing)?;
        let failed = |source: Errno| MirrorError::Backing {
            path: path.clone(),
            source: source.into(),
        };
        if config.inherit.is_none() {
            check(config, &mountpoint, &path)?;
        }
        let backing = Backing::new(&directory, config.shared).map_err(failed)?;
        let root = look_at_root(&backing).map_err(failed)?;
        let flags = mount_flags(&backing).map_err(failed)?;
        sys::grow_descriptor_table(backing.root(), descriptors::table_size(limit));
        let (notices, receiver) = Notices::new();
        let kept = Kept::new(config, &backing, &root.handle)?;
        let core = Arc::new(Core {
            residency: config.residency.clone(),
            nodes: Nodes::new(
                &backing,
                root,
                descriptors::cache_size(limit, config.shared),
                kept.ledger,
            ),
            backing,
            gates: Gates::default(),
            park: Arc::new(Park::default()),
            locks: Mutex::new(Locks::new(descriptors::for_locks(limit))),
            workers: Workers::start()?,
            buffers: Arc::default(),
            writes_at_once: AtomicBool::new(true),
            notices,
            idle_ids: Mutex::new(LruCache::new(if config.shared {
                SHARED_IDLE_IDS
            } else {
                IDLE_IDS
            })),
            opens: AtomicU64::new(1),
            passthrough: AtomicBool::new(false),
            direct: AtomicBool::new(false),
            device: Arc::default(),
            replays: Replays::of(&kept.found),
            pins: kept.pins,
            shared: config.shared,
            ttl: if config.shared { SHORT } else { LONG },
        });
        Ok(Self {
            wanted: wanted(config, core.backing.root()),
            core,
            agreed: Arc::default(),
            notices: receiver,
            mountpoint,
            flags,
            memory: kept.memory,
            unheld: kept.unheld,
            found: kept.found,
        })
    }
}

/// What to ask the kernel for.
pub(super) fn wanted(config: &MirrorConfig, backing: BorrowedFd<'_>) -> Wanted {
    let privileged = creds::may_switch_users();
    let stacked = fstatfs(backing).is_ok_and(|s| s.f_type == OVERLAYFS);
    Wanted {
        passthrough: privileged && config.passthrough == Passthrough::Auto,
        stack_depth: if stacked { 2 } else { 1 },
        kills_privileges: privileged,
        shared: config.shared,
    }
}

/// The handle of a directory.
pub(super) fn root_of(directory: &OwnedFd) -> Result<NodeHandle, Errno> {
    sys::handle_of(directory.as_fd())
}

/// What outlives this server, where that is asked for and possible.
#[derive(Default)]
struct Kept {
    ledger: Option<Arc<Ledger>>,
    memory: Option<OwnedFd>,
    pins: Option<Pins>,
    found: Found,
    unheld: Option<String>,
}

impl Kept {
    fn new(
        config: &MirrorConfig,
        backing: &Backing,
        root: &NodeHandle,
    ) -> Result<Self, MirrorError> {
        if let Some(inheritance) = &config.inherit {
            let failed = |e| MirrorError::take_over("read its ledger", e);
            let memory = inheritance.ledger.fd().try_clone_to_owned();
            let mapping = memory
                .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
                .and_then(Mapping::of)
                .map_err(failed)?;
            let (ledger, found) =
                Ledger::inherit(Box::new(mapping), Shape::REAL).map_err(|why| {
                    MirrorError::Ledger {
                        why: why.to_string(),
                    }
                })?;
            if ledger.root() != told(root) {
                return Err(inherit::other_backing());
            }
            return Ok(Self {
                ledger: Some(Arc::new(ledger)),
                pins: Some(inheritance.mounter.pins().map_err(failed)?),
                found,
                ..Self::default()
            });
        }
        let Some(hold) = &config.hold else {
            return Ok(Self::default());
        };
        if hold.time.is_zero() {
            return Ok(Self::default());
        }
        let unheld = |why: &str| Self {
            unheld: Some(why.to_owned()),
            ..Self::default()
        };
        let Some(mounter) = &config.mounter else {
            return Ok(unheld(
                "needs to be mounted by root, through a mounting process",
            ));
        };
        if let Err(why) = &backing.handles {
            return Ok(unheld(why));
        }
        if !ledger::fits(root) {
            return Ok(unheld("the backing filesystem's file handles are too long"));
        }
        let failed = |e| MirrorError::take_over("prepare for one", e);
        let mapping = Mapping::create().map_err(failed)?;
        let memory = mapping.fd().try_clone_to_owned();
        Ok(Self {
            memory: Some(
                memory.map_err(|e| failed(Errno::from_io_error(&e).unwrap_or(Errno::IO)))?,
            ),
            ledger: Some(Arc::new(Ledger::create(
                Box::new(mapping),
                Shape::REAL,
                told(root),
            ))),
            pins: Some(mounter.pins().map_err(failed)?),
            ..Self::default()
        })
    }
}

/// Takes a dead mount away and finds the mount point's real place.
fn mountpoint(config: &MirrorConfig) -> Result<PathBuf, MirrorError> {
    if let Some(inheritance) = &config.inherit {
        // Nothing may be asked of it before it is served.
        return Ok(inheritance.mountpoint.clone());
    }
    let path = &config.mountpoint;
    let failed = |source| MirrorError::Mountpoint {
        path: path.clone(),
        source,
    };
    let absolute = std::path::absolute(path).map_err(failed)?;
    if let Some(mounter) = &config.mounter {
        mounter
            .clean_stale(&absolute)
            .map_err(|e| failed(e.into()))?;
    }
    clean_stale(&absolute);
    let real = absolute.canonicalize().map_err(failed)?;
    if !real.is_dir() {
        return Err(failed(Errno::NOTDIR.into()));
    }
    Ok(real)
}

pub(super) fn open_backing(backing: &BackingDir) -> Result<(OwnedFd, PathBuf), MirrorError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let (opened, path) = match backing {
        BackingDir::Path(path) => (openat(CWD, path, flags, Mode::empty()), path),
        BackingDir::Open(fd, path) => (openat(fd, ".", flags, Mode::empty()), path),
    };
    match opened {
        Ok(fd) => Ok((fd, path.clone())),
        Err(error) => Err(MirrorError::Backing {
            path: path.clone(),
            source: error.into(),
        }),
    }
}

fn check(config: &MirrorConfig, mountpoint: &Path, backing: &Path) -> Result<(), MirrorError> {
    check_places(mountpoint, backing)?;
    let Some(mounter) = &config.mounter else {
        return Ok(());
    };
    let backing = std::path::absolute(backing).unwrap_or_else(|_| backing.to_owned());
    match mounter.check_places(mountpoint, &backing) {
        Ok(()) => Ok(()),
        Err(Errno::LOOP) => Err(MirrorError::Nested {
            mountpoint: mountpoint.to_owned(),
            backing,
            how: "as the users' mount namespace has them",
        }),
        Err(error) => Err(MirrorError::Mountpoint {
            path: mountpoint.to_owned(),
            source: error.into(),
        }),
    }
}

fn look_at_root(backing: &Backing) -> Result<Seen, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = openat(backing.root(), ".", flags, Mode::empty())?;
    let stat = stat_of(fd.as_fd())?;
    let handle = backing.handle_of(fd.as_fd(), &stat)?;
    Ok(Seen {
        fd: Some(Arc::new(fd)),
        handle,
        stat,
    })
}

fn mount_flags(backing: &Backing) -> Result<u32, Errno> {
    let theirs = fstatvfs(backing.root())?.f_flag;
    let mut flags = MountFlags::empty();
    for (flag, ours) in [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
    ] {
        if theirs.contains(flag) {
            flags |= ours;
        }
    }
    Ok(flags.bits())
}
