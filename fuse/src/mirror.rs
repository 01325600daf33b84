//! The running mirror: start, facts for status, gate, unmount, wait.

mod connect;
mod inherit;
mod prepare;

use crate::core::Core;
use crate::fs::{Agreed, MirrorFs};
use crate::gate::MirrorGate;
use crate::guard::Guarded;
use crate::ledger::Found;
use crate::mount::{COVERED, Inheritance, Mounter, Pinned, device_of_fd};
use crate::workers::spawn;
use crate::{Gate, MirrorError, NodeHandle, Residency, creds, descriptors, notify, sys, watch};
use connect::{Mounted, connect, probe_passthrough};
use fuser::Session;
use parking_lot::{Condvar, Mutex};
use prepare::Prepared;
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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
    /// are then cached for a second at most, and directories never; record locks (`fcntl`) are
    /// taken on the backing file, and every close asks the server.
    pub shared: bool,
    /// Session threads; 0 chooses (one more than there are cores, at most 16).
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
    /// Whether the mounter holds the mount for a successor when this process dies.
    pub hold: Option<Holding>,
    /// A live mount to go on with; then nothing is mounted, and `mounter` is not used.
    pub inherit: Option<Inheritance>,
}

/// How a mount outlives its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// How long it waits for a successor; zero: not at all.
    pub time: Duration,
    /// A socket of this name is made for successors
    /// ([`Successor::meet`](crate::mount::Successor::meet)).
    pub socket: PathBuf,
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
            hold: None,
            inherit: None,
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
    /// How long the mount waits for a successor when this process dies: zero if that is not asked
    /// for. `Err`: why it does not although it should.
    pub hold: Result<Duration, String>,
    /// The mount was taken over from a predecessor; how many servers it has had before.
    pub predecessors: u64,
}

/// How long after its unmount a session may go on before nobody waits for it any more: another
/// mount namespace may hold a copy of the mount, for ever.
const LINGER: Duration = Duration::from_secs(3);

/// A mounted mirror. Dropping it unmounts, by force if it is busy.
pub struct Mirror {
    core: Arc<Core>,
    mountpoint: PathBuf,
    facts: Facts,
    mounted: Mutex<Option<Mounted>>,
    /// The mount's device number, by which its files are told from others'.
    device: Option<u64>,
    session: Arc<Ended>,
    /// When this process unmounted it.
    unmounted: Mutex<Option<Instant>>,
    /// It was busy when it was unmounted.
    forced: AtomicBool,
}

/// How a session ended, once it has.
#[derive(Default)]
struct Ended {
    result: Mutex<Option<Result<(), std::io::Error>>>,
    over: Condvar,
}

impl Mirror {
    /// Mounts and serves. When this returns, the mount answers.
    ///
    /// # Errors
    /// See [`MirrorError`]; nothing is left mounted.
    pub fn start(config: MirrorConfig) -> Result<Self, MirrorError> {
        creds::start();
        let limit = descriptors::raise_limit();
        let prepared = Prepared::new(&config, limit)?;
        let (core, wanted, agreed) = (prepared.core, prepared.wanted, prepared.agreed);
        let fs = MirrorFs {
            core: core.clone(),
            wanted,
            agreed: agreed.clone(),
        };
        let inherited = config.inherit.is_some();
        let own_namespace = config.mounter.is_some() || config.inherit.is_some();
        let hold = config
            .hold
            .as_ref()
            .map_or(Duration::ZERO, |hold| hold.time);
        let (memory, found) = (prepared.memory, prepared.found);
        let mut config = config;
        let pins = config.inherit.as_mut().map(|i| std::mem::take(&mut i.pins));
        let threads = session_threads(config.threads);
        let asked = config.passthrough;
        let mountpoint = prepared.mountpoint;
        let (session, mounted, device) = connect(
            config,
            mountpoint.clone(),
            prepared.flags,
            threads,
            fs,
            memory.as_ref().map(AsFd::as_fd),
        )?;
        let agreed = *agreed.lock();
        let mut unheld = prepared.unheld;
        if let Err(error) = begin(&core, &session, agreed, pins, found, &mut unheld) {
            if !inherited {
                let _ = mounted.unmount(&mountpoint, true);
            }
            return Err(error);
        }
        let passthrough = probe_passthrough(&core, &session, asked, agreed.passthrough);
        core.passthrough
            .store(passthrough.is_ok(), Ordering::Relaxed);
        core.direct.store(agreed.direct, Ordering::Relaxed);
        let facts = Facts {
            passthrough,
            handles: core.backing.handles.clone(),
            descriptor_limit: limit,
            own_namespace,
            detached_backing: core.backing.detached,
            threads,
            kernel_abi: agreed.abi,
            hold: unheld.map_or(Ok(hold), Err),
            predecessors: core.nodes.ledger.as_ref().map_or(0, |l| l.generation() - 1),
        };
        let ended = Arc::new(Ended::default());
        if let Err(error) = serve(&core, &ended, session, prepared.notices) {
            if !inherited {
                let _ = mounted.unmount(&mountpoint, true);
            }
            return Err(error);
        }
        if let Mounted::Mounter(mounter) = &mounted {
            mounter.answer_for_mount();
        }
        tracing::info!(?mountpoint, ?facts, "mirror mounted");
        Ok(Self {
            core,
            mountpoint,
            facts,
            mounted: Mutex::new(Some(mounted)),
            device,
            session: ended,
            unmounted: Mutex::new(None),
            forced: AtomicBool::new(false),
        })
    }

    /// The owner's side of node locks. Stays valid after the mount is gone; then every node can
    /// be held.
    #[must_use]
    pub fn gate(&self) -> Arc<dyn Gate> {
        Arc::new(MirrorGate(Arc::downgrade(&self.core)))
    }

    /// The backing inode that a descriptor of a file on this mount stands for (`O_PATH` will do);
    /// `None` if it is not on this mount, or the mount has gone: its device number may be another's
    /// then. Neither walks a path nor asks the mount anything.
    #[must_use]
    pub fn node_of(&self, fd: BorrowedFd<'_>) -> Option<NodeHandle> {
        if self.device.is_none() || device_of_fd(fd) != self.device || self.has_gone() {
            return None;
        }
        let outer = sys::handle_of(fd).ok()?;
        // FILEID_INO64_GEN: FUSE's own node id, high word first, and generation.
        let [a, b, c, d, e, f, g, h, ..] = outer.bytes[..] else {
            return None;
        };
        let word = |bytes| u64::from(u32::from_ne_bytes(bytes));
        let id = (word([a, b, c, d]) << 32) | word([e, f, g, h]);
        Some(self.core.node(id).ok()?.handle.clone())
    }

    /// How it runs.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Where it is mounted.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    fn has_gone(&self) -> bool {
        self.is_over() || self.unmounted.lock().is_some()
    }

    /// Has the mount gone?
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.session.result.lock().is_some()
    }

    /// This process has unmounted it a while ago, and still it has not gone: another mount
    /// namespace has a copy, or somebody an open file. It ends with this process.
    #[must_use]
    pub fn lingers(&self) -> bool {
        let since = *self.unmounted.lock();
        !self.is_over() && since.is_some_and(|at| at.elapsed() >= LINGER)
    }

    /// Has the mount gone with nobody left who could write to the backing through it? Not after
    /// an unmount that needed force (files that were open or mapped may be written still, past the
    /// mount that was), and not while it lingers.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.is_over() && !self.forced.load(Ordering::Acquire) && !self.core.nodes.any_open()
    }

    /// After an unmount: waits for the mount to go, but not for one that lingers. `true`: it went.
    pub fn settle(&self) -> bool {
        let end = self.unmounted.lock().unwrap_or_else(Instant::now) + LINGER;
        let mut result = self.session.result.lock();
        while result.is_none() {
            if self.session.over.wait_until(&mut result, end).timed_out() {
                break;
            }
        }
        result.is_some()
    }

    /// Waits until the mount is gone, whoever unmounted it.
    ///
    /// # Errors
    /// [`MirrorError::Session`] if the session failed; told once.
    pub fn wait(&self) -> Result<(), MirrorError> {
        let mut result = self.session.result.lock();
        while result.is_none() {
            self.session.over.wait(&mut result);
        }
        match result.replace(Ok(())) {
            Some(Err(source)) => Err(MirrorError::Session {
                path: self.mountpoint.clone(),
                source,
            }),
            _ => Ok(()),
        }
    }

    /// Unmounts. With `force` at once, also under users' feet: their requests end with an error.
    /// Without effect if the mount is gone already.
    ///
    /// # Errors
    /// [`MirrorError::Busy`] without `force`; [`MirrorError::Covered`]; [`MirrorError::Unmount`].
    pub fn unmount(&self, force: bool) -> Result<(), MirrorError> {
        let mut mounted = self.mounted.lock();
        if self.is_over() {
            mounted.take();
            return Ok(());
        }
        let Some(way) = mounted.as_ref() else {
            return Ok(());
        };
        let path = self.mountpoint.clone();
        let gone = match way.unmount(&path, false) {
            Err(Errno::BUSY) if force => {
                self.forced.store(true, Ordering::Release);
                way.unmount(&path, true)
            }
            other => other,
        };
        match gone {
            Ok(()) => {
                mounted.take();
                *self.unmounted.lock() = Some(Instant::now());
                Ok(())
            }
            Err(Errno::BUSY) => Err(MirrorError::Busy { path }),
            Err(COVERED) => Err(MirrorError::Covered { path }),
            Err(error) => Err(MirrorError::Unmount {
                path,
                source: error.into(),
            }),
        }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        if self.unmount(false).is_err()
            && let Err(error) = self.unmount(true)
        {
            tracing::error!(mountpoint = ?self.mountpoint, %error, "still mounted");
            return;
        }
        self.settle();
    }
}

/// Enters what was agreed on, or goes on with what a predecessor left.
fn begin(
    core: &Arc<Core>,
    session: &Session<Guarded>,
    agreed: Agreed,
    pins: Option<Pinned>,
    found: Found,
    unheld: &mut Option<String>,
) -> Result<(), MirrorError> {
    let device = session.as_fd().try_clone_to_owned();
    let device = device.map_err(|source| MirrorError::Device { source })?;
    *core.device.lock() = Some(Arc::new(device));
    if let Some(pins) = pins {
        core.adopt(found, pins);
    } else if let Some(ledger) = &core.nodes.ledger {
        ledger.agree(agreed.agreement());
        if !agreed.resends() {
            ledger.give_up();
            *unheld = Some("the kernel does not send requests again (6.9 and later do)".to_owned());
        }
    }
    Ok(())
}

/// Starts the threads that a mounted session needs.
fn serve(
    core: &Core,
    ended: &Arc<Ended>,
    session: Session<Guarded>,
    notices: notify::Inbox,
) -> Result<(), MirrorError> {
    notify::run(notices, &session.notifier())?;
    let (park, residency) = (core.park.clone(), core.residency.clone());
    spawn("cairn-fuse-watch", move || watch::run(&park, &residency))?;
    let (park, residency) = (core.park.clone(), core.residency.clone());
    let ended = ended.clone();
    let device = core.device.clone();
    if core
        .nodes
        .ledger
        .as_ref()
        .is_some_and(|l| l.generation() > 1)
    {
        inherit::resend(&session).map_err(|e| MirrorError::take_over("have requests resent", e))?;
    }
    spawn("cairn-fuse-main", move || {
        let result = session.run();
        // The connection ends with its last descriptor.
        device.lock().take();
        park.close(residency.as_ref());
        *ended.result.lock() = Some(result);
        ended.over.notify_all();
    })
    .map(drop)
}

fn session_threads(asked: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    // One more than can run: one may be waiting for the disk. Many more only pass requests around
    // among cold threads.
    if asked == 0 {
        (cores + 1).min(16)
    } else {
        asked
    }
}
