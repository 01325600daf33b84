//! The mount itself: through the mounter, by this process, or by fusermount3.

use super::inherit::{self, options};
use super::{Holding, MirrorConfig, Passthrough};
use crate::core::Core;
use crate::fs::MirrorFs;
use crate::guard::Guarded;
use crate::mount::{
    Inheritance, MountNumber, MountSpec, Mounter, device_of, listen_at, mount_now, unmount_own,
};
use crate::{MirrorError, creds, sys};
use fuser::{BackingId, MountOption, Session, SessionACL};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::MountFlags;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// How the mount was made, and so how it goes.
pub(super) enum Mounted {
    Mounter(Mounter),
    /// By this process; which mount it is.
    Direct(Option<MountNumber>),
    Fusermount,
}

impl Mounted {
    pub(super) fn unmount(&self, target: &Path, force: bool) -> Result<(), Errno> {
        match self {
            Self::Mounter(mounter) => mounter.unmount(force),
            Self::Direct(number) => unmount_own(target, *number, force),
            Self::Fusermount => fusermount(target, force),
        }
    }
}

/// Makes the session: mounted, and agreed on with the kernel, but not yet served.
pub(super) fn connect(
    config: MirrorConfig,
    target: PathBuf,
    flags: u32,
    threads: usize,
    fs: MirrorFs,
    memory: Option<BorrowedFd<'_>>,
) -> Result<(Session<Guarded>, Mounted, Option<u64>), MirrorError> {
    let acl = if config.allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    let mut options = options(acl, threads);
    if let Some(inheritance) = config.inherit {
        let time = config.hold.map_or(Duration::ZERO, |hold| hold.time);
        return take_over(inheritance, time, acl, options, fs);
    }
    if !creds::may_mount() {
        options.mount_options = fusermount_options(&config.fs_name, flags);
        let session =
            Session::new(Guarded(fs), &target, &options).map_err(|source| MirrorError::Mount {
                path: target.clone(),
                source,
            })?;
        return Ok((session, Mounted::Fusermount, device_of(&target)));
    }
    let device = openat(
        CWD,
        "/dev/fuse",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| MirrorError::Device { source: e.into() })?;
    let spec = MountSpec {
        target,
        name: config.fs_name,
        flags,
        allow_other: config.allow_other,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
    };
    let failed = |e: Errno| MirrorError::Mount {
        path: spec.target.clone(),
        source: e.into(),
    };
    let (mounted, number) = match config.mounter {
        Some(mounter) => {
            if let (Some(memory), Some(hold)) = (memory, &config.hold) {
                prepare_hold(&mounter, hold, memory, fs.core.backing.root()).map_err(failed)?;
            }
            let number = mounter.mount(&spec, device.as_fd()).map_err(failed)?;
            Mounter::forget_own(&spec.target, number);
            (Mounted::Mounter(mounter), number)
        }
        None => {
            mount_now(&spec, device.as_fd()).map_err(failed)?;
            let number = MountNumber::at(&spec.target);
            (Mounted::Direct(number), device_of(&spec.target))
        }
    };
    match Session::from_fd(Guarded(fs), device, acl, options) {
        Ok(session) => Ok((session, mounted, number)),
        Err(source) => {
            let _ = mounted.unmount(&spec.target, true);
            Err(MirrorError::Handshake {
                path: spec.target,
                source,
            })
        }
    }
}

/// Gives the mounter what a successor will need.
fn prepare_hold(
    mounter: &Mounter,
    hold: &Holding,
    memory: BorrowedFd<'_>,
    root: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let listener = listen_at(&hold.socket)?;
    mounter.hold(hold.time, &hold.socket, [listener.as_fd(), memory, root])
}

/// The session of a live mount.
fn take_over(
    inheritance: Inheritance,
    time: Duration,
    acl: SessionACL,
    options: fuser::Config,
    fs: MirrorFs,
) -> Result<(Session<Guarded>, Mounted, Option<u64>), MirrorError> {
    let ledger = fs.core.nodes.ledger.clone();
    let agreement = ledger.map(|ledger| ledger.agreement());
    let agreement = agreement.ok_or_else(|| MirrorError::Ledger {
        why: "there is none".to_owned(),
    })?;
    let session = inherit::session(fs, &inheritance, agreement, acl, options)?;
    inheritance
        .mounter
        .hold_for(time)
        .map_err(|e| MirrorError::take_over("tell its holder for how long", e))?;
    let number = inheritance.number;
    Ok((session, Mounted::Mounter(inheritance.mounter), number))
}

fn fusermount_options(name: &str, flags: u32) -> Vec<MountOption> {
    let mut options = vec![
        MountOption::FSName(name.to_owned()),
        MountOption::Subtype("cairn".to_owned()),
        MountOption::DefaultPermissions,
    ];
    let flags = MountFlags::from_bits_retain(flags);
    for (flag, option) in [
        (MountFlags::RDONLY, MountOption::RO),
        (MountFlags::NOEXEC, MountOption::NoExec),
    ] {
        if flags.contains(flag) {
            options.push(option);
        }
    }
    options
}

/// Unmounts as a user may.
fn fusermount(target: &Path, force: bool) -> Result<(), Errno> {
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if force {
        command.arg("-z");
    }
    let output = command
        .arg("--")
        .arg(target)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::NOENT))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("busy") {
        return Err(Errno::BUSY);
    }
    tracing::warn!(?target, said, "fusermount3 could not unmount");
    Err(Errno::PERM)
}

/// Does passthrough work on this very backing? Tried with an unnamed file of it.
pub(super) fn probe_passthrough(
    core: &Core,
    session: &Session<Guarded>,
    asked: Passthrough,
    agreed: bool,
) -> Result<(), String> {
    if asked == Passthrough::Off {
        return Err("switched off by configuration".to_owned());
    }
    if !creds::may_switch_users() {
        return Err("needs to be mounted by root".to_owned());
    }
    if !agreed {
        return Err("the kernel has no FUSE passthrough (6.9 and later have)".to_owned());
    }
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let probe = match openat(core.backing.root(), ".", flags, Mode::RUSR) {
        Ok(probe) => probe,
        // A read-only backing, or one without unnamed files: each open finds out for itself.
        Err(error) => {
            tracing::debug!(%error, "passthrough could not be tried at start");
            return Ok(());
        }
    };
    match BackingId::create_raw(session.as_fd(), &probe) {
        Ok(id) => {
            if let Err(error) = sys::close_backing(session.as_fd(), id) {
                tracing::debug!(%error, id, "the probe's backing id stays open");
            }
            Ok(())
        }
        Err(error) => Err(format!("the kernel refuses this backing ({error})")),
    }
}
