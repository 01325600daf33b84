//! The running mirror: start, facts for status, gate, unmount, wait.

use crate::mount::Mounter;
use crate::{Gate, MirrorError, Residency};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Whether the kernel may pass reads and writes of resident files straight to the backing files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Passthrough {
    /// Where kernel, rights and backing filesystem allow it.
    #[default]
    Auto,
    /// Never: all data go through the server.
    Off,
}

/// Where the mirrored directory is.
#[derive(Debug)]
pub enum BackingDir {
    /// By path.
    Path(PathBuf),
    /// Already open (any directory descriptor), with the path it is spoken of by in messages.
    Open(OwnedFd, PathBuf),
}

/// What to mirror, where, and how.
pub struct MirrorConfig {
    /// The directory to show.
    pub backing: BackingDir,
    /// An existing directory, outside the backing.
    pub mountpoint: PathBuf,
    /// Answers about data.
    pub residency: Arc<dyn Residency>,
    /// Others change the backing too (another host, or around the mount): attributes and names
    /// are then cached for a second at most, and directories never.
    pub shared: bool,
    /// Session threads; 0 chooses (at least 4, at most 16).
    pub threads: usize,
    /// Use of the kernel's passthrough.
    pub passthrough: Passthrough,
    /// Shown as the source in `/proc/mounts`.
    pub fs_name: String,
    /// May users other than the one who mounts use the mount? As root: yes, normally.
    pub allow_other: bool,
    /// The process made by [`mount::prepare`](crate::mount::prepare) that mounts in the users'
    /// mount namespace (P11). `None`: the server mounts in its own namespace.
    pub mounter: Option<Mounter>,
}

impl MirrorConfig {
    /// The usual configuration: exclusive, passthrough where possible, for all users if root mounts.
    #[must_use]
    pub fn new(backing: PathBuf, mountpoint: PathBuf, residency: Arc<dyn Residency>) -> Self {
        Self {
            backing: BackingDir::Path(backing),
            mountpoint,
            residency,
            shared: false,
            threads: 0,
            passthrough: Passthrough::Auto,
            fs_name: "cairn".to_owned(),
            allow_other: rustix::process::geteuid().is_root(),
            mounter: None,
        }
    }
}

/// How a mirror runs, for one log line and for status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `Ok`: resident files pass through the kernel. `Err`: why not.
    pub passthrough: Result<(), String>,
    /// `Ok`: inodes are held as file handles, without limit. `Err`: why each known inode costs a
    /// descriptor instead.
    pub handles: Result<(), String>,
    /// Open descriptors that the process may have.
    pub descriptor_limit: u64,
    /// The server lives in its own mount namespace and cannot walk into its own mount by path.
    pub own_namespace: bool,
    /// The backing is held as a private clone of its mount, in which nothing can be mounted.
    pub detached_backing: bool,
    /// Threads that read requests.
    pub threads: usize,
    /// FUSE protocol version of the kernel.
    pub kernel_abi: (u32, u32),
}

/// A mounted mirror. Dropping it unmounts, by force if it is busy.
pub struct Mirror {
    mountpoint: PathBuf,
}

impl Mirror {
    /// Mounts and serves. When this returns, the mount answers.
    ///
    /// # Errors
    /// See [`MirrorError`]; nothing is left mounted.
    pub fn start(config: MirrorConfig) -> Result<Self, MirrorError> {
        unimplemented!("{}", config.fs_name)
    }

    /// The owner's side of node locks.
    #[must_use]
    pub fn gate(&self) -> Arc<dyn Gate> {
        unimplemented!()
    }

    /// How it runs.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        unimplemented!()
    }

    /// Where it is mounted.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Waits until the mount is gone, whoever unmounted it.
    ///
    /// # Errors
    /// [`MirrorError::Session`] if the session failed.
    pub fn wait(&self) -> Result<(), MirrorError> {
        unimplemented!()
    }

    /// Unmounts. With `force` at once, also under users' feet: their requests end with an error.
    ///
    /// # Errors
    /// [`MirrorError::Busy`] without `force`; [`MirrorError::Unmount`].
    pub fn unmount(&self, force: bool) -> Result<(), MirrorError> {
        unimplemented!("{force}")
    }
}
