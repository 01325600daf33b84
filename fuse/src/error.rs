//! Errors at the crate's boundary: one variant per step that failed, with the object it was done to.

use std::io;
use std::path::PathBuf;

/// Why a mirror did not start, or could not be stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MirrorError {
    /// The backing directory cannot be opened.
    #[error("backing directory {path:?} cannot be opened")]
    Backing {
        /// As configured.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The mount point cannot be used.
    #[error("mount point {path:?} cannot be used")]
    Mountpoint {
        /// As configured.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Mount point and backing directory are one directory, or one lies inside the other.
    #[error("{mountpoint:?} and {backing:?} must not lie inside each other: {how}")]
    Nested {
        /// The mount point.
        mountpoint: PathBuf,
        /// The backing directory.
        backing: PathBuf,
        /// Which one lies in which.
        how: &'static str,
    },
    /// `/dev/fuse` cannot be opened.
    #[error("/dev/fuse cannot be opened (is the fuse module loaded, and may this user use it?)")]
    Device {
        /// What the system said.
        source: io::Error,
    },
    /// The kernel refused the mount.
    #[error("{path:?} could not be mounted")]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// What the system, or fusermount3, said.
        source: io::Error,
    },
    /// The kernel and the server did not agree on a protocol.
    #[error("the kernel's FUSE handshake for {path:?} failed")]
    Handshake {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("thread {name:?} could not be started")]
    Thread {
        /// Its name.
        name: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The mount is in use: somebody has a file open or a working directory in it.
    #[error("{path:?} is busy: somebody has a file open or a working directory in it")]
    Busy {
        /// The mount point.
        path: PathBuf,
    },
    /// Another mount lies on it, so that it cannot be reached to be unmounted.
    #[error("{path:?} is covered: something else is mounted on it")]
    Covered {
        /// The mount point.
        path: PathBuf,
    },
    /// Unmounting failed for another reason.
    #[error("{path:?} could not be unmounted")]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The session ended with an error instead of by an unmount.
    #[error("the FUSE session of {path:?} ended with an error")]
    Session {
        /// The mount point.
        path: PathBuf,
        /// What ended it.
        source: io::Error,
    },
    /// A mount could not be taken over from its holder.
    #[error("taking over the mount: could not {step}")]
    TakeOver {
        /// What was being done.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// What the predecessor left cannot be gone on with.
    #[error("taking over the mount: {why}")]
    Ledger {
        /// Why.
        why: String,
    },
    /// The process that mounts on the server's behalf could not be made or is gone.
    #[error("the mounting process failed at: {step}")]
    Mounter {
        /// What was being done.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl MirrorError {
    pub(crate) fn take_over(step: &'static str, why: rustix::io::Errno) -> Self {
        Self::TakeOver {
            step,
            source: why.into(),
        }
    }
}
