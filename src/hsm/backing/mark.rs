//! The mark of the instance on the backing itself (P9): an attribute of the root directory, which
//! neither users nor tar see, and a lock that dies with its process.
//!
//! Invariant: a [`MarkGuard`] lives in at most one process of a host (flock on the root), and over
//! hosts and boots a mark that still beats refuses a second one.

use super::{Backing, BackingError, MAX_XATTR, record::through_proc};
use crate::id::{FsUuid, InstanceId};
use rustix::fs::{FlockOperation, Mode, OFlags, XattrFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Largest age of a heartbeat, seconds, at which its instance on another host counts as alive.
pub const FRESH_SECONDS: i64 = 90;
/// Longest mark that names its state directory, bytes: whoever reads one takes no more than
/// [`MAX_XATTR`], and its numbers may grow.
const LONGEST: usize = MAX_XATTR - 64;
/// Format of the mark that this program writes.
const FORMAT: u32 = 1;

/// Who works on the backing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Identity of the backing filesystem.
    pub fs: FsUuid,
    /// The instance.
    pub instance: InstanceId,
    /// Name of its host.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// Boot id of its host.
    pub boot: String,
    /// Its catalog's epoch.
    pub epoch: u32,
    /// When it started, seconds since 1970.
    pub started: i64,
    /// Its last heartbeat, seconds since 1970; 0 after a clean stop.
    pub heartbeat: i64,
    /// Its state directory, where that is known: a hint, directories move. Left out where the mark
    /// would become too long, or the path is no UTF-8.
    pub state: Option<PathBuf>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Written {
    format: u32,
    fs: String,
    instance: String,
    host: String,
    pid: u32,
    boot: String,
    epoch: u32,
    started: i64,
    heartbeat: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<String>,
}

/// This process' claim on the backing; given up when dropped.
#[derive(Debug)]
pub struct MarkGuard {
    lock: OwnedFd,
    attribute: &'static str,
    root: String,
    mark: Mark,
    /// On a host-local filesystem the lock says all; writing would only change the root's ctime.
    beats: bool,
}

impl Mark {
    /// What is to be done about an instance of another host than `host` that was heard of a moment
    /// before `now` (seconds since 1970). `None`: it is none, or it is not heard of any more. On the
    /// same host the lock is the proof; a mark of an earlier boot is a dead one's.
    fn beats_elsewhere(&self, host: &str, now: i64) -> Option<String> {
        let elsewhere = self.host != host && self.heartbeat != 0;
        let age = now.saturating_sub(self.heartbeat);
        (elsewhere && age < FRESH_SECONDS).then(|| {
            format!(
                "stop it there, or wait {} s if that host is dead",
                FRESH_SECONDS - age
            )
        })
    }

    /// Whose it is, in words.
    fn told(&self, now: i64) -> String {
        let age = now.saturating_sub(self.heartbeat);
        format!(
            "host {}, process {}, last heard of {age} s ago",
            self.host, self.pid
        )
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let state = self.state.as_deref().and_then(Path::to_str);
        let mut written = Written {
            format: FORMAT,
            fs: self.fs.to_string(),
            instance: self.instance.to_string(),
            host: self.host.chars().take(64).collect(),
            pid: self.pid,
            boot: self.boot.clone(),
            epoch: self.epoch,
            started: self.started,
            heartbeat: self.heartbeat,
            state: state.map(str::to_owned),
        };
        // Strings and numbers always serialize.
        let encode = |written: &Written| serde_json::to_vec(written).unwrap_or_default();
        let whole = encode(&written);
        if whole.len() <= LONGEST {
            return whole;
        }
        written.state = None;
        encode(&written)
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let value: serde_json::Value = serde_json::from_slice(bytes)
            .map_err(|why| format!("is damaged ({why}); remove it if no instance runs here"))?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format > u64::from(FORMAT) => {
                return Err(format!(
                    "is of format {format}, this program knows {FORMAT}: use the newer program"
                ));
            }
            _ => {}
        }
        let w: Written = serde_json::from_value(value)
            .map_err(|why| format!("is damaged ({why}); remove it if no instance runs here"))?;
        let id = |why: crate::id::ParseIdError| format!("is damaged ({why})");
        Ok(Self {
            fs: w.fs.parse().map_err(id)?,
            instance: w.instance.parse().map_err(id)?,
            host: w.host,
            pid: w.pid,
            boot: w.boot,
            epoch: w.epoch,
            started: w.started,
            heartbeat: w.heartbeat,
            state: w.state.map(PathBuf::from),
        })
    }
}

fn attribute_of(trusted: bool) -> &'static str {
    if trusted {
        "trusted.cairn.mark"
    } else {
        "user.cairn.mark"
    }
}

fn read(root: BorrowedFd<'_>, attribute: &str, name: &str) -> Result<Option<Mark>, BackingError> {
    let mut buffer = [0_u8; MAX_XATTR];
    match rustix::fs::getxattr(through_proc(root), attribute, &mut buffer[..]) {
        Ok(len) => Mark::decode(&buffer[..len])
            .map(Some)
            .map_err(|why| BackingError::Mark {
                root: name.to_owned(),
                why,
            }),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(None),
        Err(why) => Err(BackingError::of(
            "read the mark of",
            || name.to_owned(),
            why,
        )),
    }
}

impl Backing {
    /// The mark on a backing directory that is not open yet, so that its [`FsUuid`] can be known
    /// before [`Backing::open`].
    ///
    /// # Errors
    /// [`BackingError::Mark`] if it cannot be read.
    pub fn mark_of(root: &std::path::Path) -> Result<Option<Mark>, BackingError> {
        let name = root.display().to_string();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(root, flags, Mode::empty())
            .map_err(|why| BackingError::of("open", || name.clone(), why))?;
        match read(fd.as_fd(), attribute_of(true), &name)? {
            Some(mark) => Ok(Some(mark)),
            None => read(fd.as_fd(), attribute_of(false), &name),
        }
    }

    /// Keeps every instance of this host off a backing directory that is not open here, while the
    /// result lives. One of another host that was heard of at `now` (seconds since 1970) or shortly
    /// before refuses it, too, unless `force`. `host`: this one.
    ///
    /// # Errors
    /// [`BackingError::InUse`] if one works on it; [`BackingError::Mark`] without `force`, if the mark
    /// cannot be read.
    pub fn shut_out(
        root: &Path,
        host: &str,
        now: i64,
        force: bool,
    ) -> Result<OwnedFd, BackingError> {
        let name = root.display().to_string();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = rustix::fs::open(root, flags, Mode::empty())
            .map_err(|why| BackingError::of("open", || name.clone(), why))?;
        let in_use = |who: String, way_out: String| BackingError::InUse {
            root: name.clone(),
            who,
            way_out,
        };
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let who = match Self::mark_of(root) {
                    Ok(Some(mark)) => format!("host {}, process {}", mark.host, mark.pid),
                    Ok(None) | Err(_) => "an unknown process".to_owned(),
                };
                return Err(in_use(who, "stop it with `cairn down` first".to_owned()));
            }
            Err(why) => return Err(BackingError::of("lock", || name.clone(), why)),
        }
        if force {
            return Ok(lock);
        }
        if let Some(mark) = Self::mark_of(root)?
            && let Some(way_out) = mark.beats_elsewhere(host, now)
        {
            return Err(in_use(mark.told(now), way_out));
        }
        Ok(lock)
    }

    /// Claims the backing for the instance that `mark` names, at the time `now` (seconds since
    /// 1970, also the first heartbeat). `force` overrides a mark of another host.
    ///
    /// # Errors
    /// [`BackingError::InUse`] names who works here; [`BackingError::Mark`] if the mark belongs to
    /// another filesystem identity or cannot be read.
    pub fn claim(&self, mark: Mark, now: i64, force: bool) -> Result<MarkGuard, BackingError> {
        let root = self.root_path.display().to_string();
        let attribute = attribute_of(matches!(self.keeping, super::RecordKeeping::Trusted));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lock = rustix::fs::open(through_proc(self.root()), flags, Mode::empty())
            .map_err(|why| BackingError::of("open", || root.clone(), why))?;
        let found = read(self.root(), attribute, &root)?;
        let in_use = |m: Option<&Mark>, way_out: String| BackingError::InUse {
            root: root.clone(),
            who: m.map_or_else(|| "an unknown process".to_owned(), |m| m.told(now)),
            way_out,
        };
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(in_use(
                    found.as_ref(),
                    "stop it with `cairn down` first".to_owned(),
                ));
            }
            Err(why) => return Err(BackingError::of("lock", || root.clone(), why)),
        }
        if let Some(old) = &found {
            if old.fs != mark.fs {
                let why = format!(
                    "says filesystem {}, this instance expects {}: another instance owns this directory",
                    old.fs, mark.fs
                );
                return Err(BackingError::Mark { root, why });
            }
            let beats = old.beats_elsewhere(&mark.host, now);
            if let Some(way_out) = beats.filter(|_| !force) {
                return Err(in_use(Some(old), way_out));
            }
        }
        let beats = !self.capabilities.filesystem.is_host_local();
        let mut guard = MarkGuard {
            lock,
            attribute,
            root,
            mark,
            beats,
        };
        guard.mark.heartbeat = now;
        guard.write()?;
        rustix::fs::fsync(&guard.lock)
            .map_err(|why| BackingError::of("sync the mark of", || guard.root.clone(), why))?;
        Ok(guard)
    }
}

impl MarkGuard {
    /// The mark as last written.
    #[must_use]
    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Notes the epoch under which aggregates are named from now on (P9). Durable.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn set_epoch(&mut self, epoch: u32) -> Result<(), BackingError> {
        self.mark.epoch = epoch;
        self.write()?;
        rustix::fs::fsync(&self.lock)
            .map_err(|why| BackingError::of("sync the mark of", || self.root.clone(), why))
    }

    /// Writes the heartbeat (seconds since 1970), to be called every third of [`FRESH_SECONDS`].
    /// On a host-local filesystem nothing is written: the lock says all, and the root's ctime
    /// stays as it is.
    ///
    /// # Errors
    /// What the filesystem says.
    pub fn beat(&mut self, now: i64) -> Result<(), BackingError> {
        if !self.beats {
            return Ok(());
        }
        self.mark.heartbeat = now;
        self.write()
    }

    fn write(&self) -> Result<(), BackingError> {
        let fd = self.lock.as_fd();
        let flags = XattrFlags::empty();
        rustix::fs::setxattr(through_proc(fd), self.attribute, &self.mark.encode(), flags)
            .map_err(|why| BackingError::of("write the mark of", || self.root.clone(), why))
    }
}

impl Drop for MarkGuard {
    /// A clean stop leaves a mark that does not beat.
    fn drop(&mut self) {
        self.mark.heartbeat = 0;
        if let Err(why) = self.write() {
            tracing::warn!(%why, "the mark on the backing could not be ended");
        }
    }
}

/// This host's name and boot id, for a [`Mark`].
///
/// # Errors
/// The boot id cannot be read.
pub fn this_boot() -> io::Result<(String, String)> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    Ok((host.trim().to_owned(), boot.trim().to_owned()))
}
