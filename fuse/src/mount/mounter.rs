//! The mounter: a tiny process in the users' mount namespace (P11).
//!
//! The server lives in a namespace of its own, in which its mount does not exist and which follows
//! the users' otherwise. The mounter
//! mounts for it with a descriptor that it closes at once, and unmounts when it is told to, or
//! when the server's end of the socket closes: so a killed server leaves no dead mount.
//!
//! With a hold time it becomes the holder of the mount ([`super::holder`]), which a dead server's
//! successor takes over.
//!
//! Messages are datagrams. To the mounter: a letter, then fields; descriptors ride along. Back: an
//! errno as four bytes, 0 for success, and the mount's device number.

use super::holder::{self, Keep, Life};
use super::table::{MountNumber, MountSpec, Place, device_of, mount_now, unmount_own};
use super::{check_places, clean_stale};
use crate::{MirrorError, sys};
use parking_lot::Mutex;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::OsStr;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A path, a name and some numbers.
const LARGEST_MESSAGE: usize = 16 * 1024;
/// Descriptors in one message.
const MOST_FDS: usize = 64;

/// The server's end. Dropping it unmounts what is mounted through it.
#[derive(Debug)]
pub struct Mounter {
    socket: Mutex<OwnedFd>,
    pid: i32,
    /// A child of this process; else that of a dead server.
    child: bool,
    /// Its end is the mount's end.
    ends_mount: AtomicBool,
    /// The users' mount namespace, for when that process is dead.
    home: Option<OwnedFd>,
    /// What is mounted through it: where, and the mount's device number.
    own: Mutex<Option<(PathBuf, u64)>>,
}

/// Splits the mounter off and moves this process into a mount namespace of its own. Must be the
/// first thing a program's `main` does that will mount: no thread may exist yet.
///
/// Mounts that are made or ended elsewhere are made or ended here too, where the users' namespace
/// shares them: this process keeps no filesystem alive that an administrator unmounts. Its own
/// mount it takes away from here at once (`forget_own`).
///
/// # Errors
/// [`MirrorError::Mounter`]: without the right to (`EPERM`), or with other threads (`EBUSY`).
/// Nothing has changed then, and a mirror can be started without a mounter.
pub fn prepare() -> Result<Mounter, MirrorError> {
    let step = |step| {
        move |e: Errno| MirrorError::Mounter {
            step,
            source: e.into(),
        }
    };
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .map_err(step("socketpair"))?;
    let server = std::process::id().cast_signed();
    let pid = match sys::fork().map_err(step("fork"))? {
        sys::Fork::Child => {
            drop(ours);
            serve(theirs, server);
            sys::exit_now(0);
        }
        sys::Fork::Parent(pid) => pid,
    };
    drop(theirs);
    let mounter = Mounter {
        socket: Mutex::new(ours),
        pid,
        child: true,
        ends_mount: AtomicBool::new(true),
        home: namespace_of("self"),
        own: Mutex::new(None),
    };
    sys::unshare_mounts().map_err(step("unshare"))?;
    let follow = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", follow).map_err(step("make mounts follow"))?;
    Ok(mounter)
}

/// A process's mount namespace.
fn namespace_of(process: &str) -> Option<OwnedFd> {
    let path = format!("/proc/{process}/ns/mnt");
    match openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(namespace) => Some(namespace),
        Err(error) => {
            tracing::debug!(%error, "without the mounter there will be no unmount");
            None
        }
    }
}

impl Mounter {
    /// Leaves this process's own mount namespace with the mounts on the way to the `needed`
    /// places and in them, with those on the way to `passed`, with the system's, and with those
    /// that follow the users' namespace. To be called once, before anything is opened that lies
    /// elsewhere. (Absolute paths free of links.)
    pub fn keep_only(&self, needed: &[&Path], passed: Option<&Path>) {
        super::keep::keep_only(needed, passed);
    }

    /// A way to the users' mount namespace itself; good while the mounter lives.
    #[must_use]
    pub fn namespace(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/mnt", self.pid))
    }

    /// A way to what an absolute path names in the users' mount namespace: mounts made or ended
    /// after [`prepare`] show there alone. Follows symbolic links; good while the mounter lives.
    #[must_use]
    pub fn outside(&self, path: &Path) -> PathBuf {
        let mut way = std::ffi::OsString::from(format!("/proc/{}/root", self.pid));
        way.push(path);
        way.into()
    }

    pub(crate) fn clean_stale(&self, target: &Path) -> Result<(), Errno> {
        let mut message = vec![b'C'];
        message.extend(target.as_os_str().as_bytes());
        self.ask(&message, &[]).map(drop)
    }

    /// Are the two places apart, as the users' namespace has them?
    pub(crate) fn check_places(&self, target: &Path, backing: &Path) -> Result<(), Errno> {
        let mut message = vec![b'P'];
        field(&mut message, target.as_os_str().as_bytes());
        field(&mut message, backing.as_os_str().as_bytes());
        self.ask(&message, &[]).map(drop)
    }

    /// Mounts; gives the mount's device number, if it could be told.
    pub(crate) fn mount(
        &self,
        spec: &MountSpec,
        device: BorrowedFd<'_>,
    ) -> Result<Option<u64>, Errno> {
        let mut message = vec![b'M', u8::from(spec.allow_other)];
        for number in [spec.flags, spec.uid, spec.gid] {
            message.extend(number.to_le_bytes());
        }
        field(&mut message, spec.name.as_bytes());
        field(&mut message, spec.target.as_os_str().as_bytes());
        let number = self.ask(&message, &[device])?;
        let number = Some(number).filter(|n| *n != 0);
        *self.own.lock() = number.map(|number| (spec.target.clone(), number));
        Ok(number)
    }

    /// Takes the mount of that device number away from this process's own namespace, into which
    /// it was propagated: the server must not be able to walk into it, nor keep it alive.
    pub(crate) fn forget_own(target: &Path, number: Option<u64>) {
        if number.is_none() || device_of(target) != number {
            return;
        }
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        if let Err(error) = unmount(target, flags) {
            tracing::warn!(?target, %error, "the server sees its own mount");
        }
    }

    /// Also when the mounter is dead: somebody, or the system's want of memory, killed it.
    pub(crate) fn unmount(&self, force: bool) -> Result<(), Errno> {
        match self.ask(&[b'U', u8::from(force)], &[]) {
            Err(error @ (Errno::PIPE | Errno::CONNRESET)) => {
                tracing::warn!(%error, "the mounter is dead; unmounted without it");
                self.unmount_at_home(force)
            }
            other => other.map(drop),
        }
    }

    /// Unmounts from a thread that goes to the users' mount namespace, and ends there. The mount
    /// is told by its device, which is no other's while its server, this process, has it.
    fn unmount_at_home(&self, force: bool) -> Result<(), Errno> {
        let own = self.own.lock().clone();
        let ((target, device), home) = own.zip(self.home.as_ref()).ok_or(Errno::PIPE)?;
        let work = || {
            sys::unshare_fs()?;
            move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Mount))?;
            unmount_own(&target, Some(MountNumber::of_device(device)), force)
        };
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("cairn-unmount".to_owned())
                .spawn_scoped(scope, work)
                .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::AGAIN))?
                .join()
                .unwrap_or(Err(Errno::IO))
        })
    }

    /// What a successor will need, before the mount is made.
    pub(crate) fn hold(
        &self,
        time: Duration,
        socket: &Path,
        fds: [BorrowedFd<'_>; 3],
    ) -> Result<(), Errno> {
        let mut message = vec![b'H'];
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        message.extend(millis.to_le_bytes());
        field(&mut message, socket.as_os_str().as_bytes());
        self.ask(&message, &fds).map(drop)
    }

    /// From now on the mount waits that long for a successor.
    pub(crate) fn hold_for(&self, time: Duration) -> Result<(), Errno> {
        let mut message = vec![b'D'];
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        message.extend(millis.to_le_bytes());
        self.ask(&message, &[]).map(drop)
    }

    /// The holder of a mount that was taken over.
    pub(super) fn adopted(
        socket: OwnedFd,
        pid: i32,
        mountpoint: PathBuf,
        device: Option<u64>,
    ) -> Self {
        Self {
            socket: Mutex::new(socket),
            pid,
            child: false,
            ends_mount: AtomicBool::new(false),
            home: namespace_of(&pid.to_string()),
            own: Mutex::new(device.map(|device| (mountpoint, device))),
        }
    }

    /// From now on this process answers for the mount that it took over: it ends with it.
    pub(crate) fn answer_for_mount(&self) {
        self.ends_mount.store(true, Ordering::Relaxed);
    }

    /// Where inodes are handed to the holder.
    pub(crate) fn pins(&self) -> Result<super::Pins, Errno> {
        super::Pins::of(self.socket.lock().as_fd())
    }

    fn ask(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<u64, Errno> {
        let socket = self.socket.lock();
        send(&*socket, message, fds)?;
        let mut answer = [0; ANSWER];
        let mut none = RecvAncillaryBuffer::default();
        let got = recvmsg(
            &*socket,
            &mut [IoSliceMut::new(&mut answer)],
            &mut none,
            RecvFlags::empty(),
        )?;
        let mut fields = Fields(&answer[..got.bytes]);
        let code = fields.number().ok_or(Errno::PIPE)?;
        let number = fields.long();
        match code {
            0 => number.ok_or(Errno::PIPE),
            error => Err(Errno::from_raw_os_error(error.cast_signed())),
        }
    }
}

impl Drop for Mounter {
    fn drop(&mut self) {
        // The mounter sees the end of the socket; its last unmount is waited for.
        let socket = self.socket.get_mut();
        if !*self.ends_mount.get_mut() {
            return; // the holder holds on
        }
        let _ = send(&*socket, b"E", &[]);
        let _ = rustix::net::shutdown(&*socket, rustix::net::Shutdown::Both);
        if self.child {
            sys::reap(self.pid);
        } else {
            holder::wait_for(self.pid);
        }
    }
}

/// One datagram, with descriptors.
pub(super) fn send(socket: impl AsFd, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut rights = SendAncillaryBuffer::new(&mut room);
    if !fds.is_empty() {
        rights.push(SendAncillaryMessage::ScmRights(fds));
    }
    let parts = [IoSlice::new(message)];
    sendmsg(socket, &parts, &mut rights, SendFlags::NOSIGNAL).map(drop)
}

pub(super) fn field(message: &mut Vec<u8>, bytes: &[u8]) {
    message.extend((bytes.len() as u32).to_le_bytes());
    message.extend(bytes);
}

/// Length of an answer: error number (0: done) and the mount's device number (0: not known).
const ANSWER: usize = 12;

/// Takes a message apart.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }
    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }
    pub(super) fn number(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }
    pub(super) fn long(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(length as usize)
    }
    pub(super) fn path(&mut self) -> Option<PathBuf> {
        self.bytes().map(|b| PathBuf::from(OsStr::from_bytes(b)))
    }
}

/// What is mounted, with the mount's number: another's mount at the same place is left alone.
pub(super) struct Mounted {
    pub(super) target: PathBuf,
    number: Option<MountNumber>,
    pub(super) device: Option<u64>,
}

impl Mounted {
    /// Perhaps under another mount.
    pub(super) fn is_there(&self) -> bool {
        self.number
            .is_none_or(|number| number.place(&self.target) != Place::Gone)
    }

    pub(super) fn unmount(&self, force: bool) -> Result<(), Errno> {
        unmount_own(&self.target, self.number, force)
    }
}

/// The mounter's life.
fn serve(socket: OwnedFd, server: i32) {
    sys::ignore_stop_signals();
    let _ = rustix::thread::set_name(c"cairn-mounter");
    let _ = rustix::process::chdir("/");
    sys::silence_stdio();
    holder::live(socket, server);
}

/// Does what a message asks for, and says how it went. `false`: nobody listens.
pub(super) fn obey_and_answer(
    socket: &OwnedFd,
    message: &[u8],
    fds: Vec<OwnedFd>,
    life: &mut Life,
) -> bool {
    let answer = obey(message, fds, life);
    let code = answer.map_or_else(Errno::raw_os_error, |()| 0);
    let device = life.mounted.as_ref().and_then(|m| m.device).unwrap_or(0);
    let mut bytes = [0; ANSWER];
    bytes[..4].copy_from_slice(&code.to_le_bytes());
    bytes[4..].copy_from_slice(&device.to_le_bytes());
    send(socket, &bytes, &[]).is_ok()
}

/// The next datagram and its descriptors; `None`: there will be none.
pub(super) fn receive(socket: &OwnedFd) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    let mut message = vec![0; LARGEST_MESSAGE];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut rights = RecvAncillaryBuffer::new(&mut room);
    let got = loop {
        let parts = &mut [IoSliceMut::new(&mut message)];
        match recvmsg(socket, parts, &mut rights, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(_) => return None,
            Ok(got) if got.bytes == 0 => return None,
            Ok(got) => break got,
        }
    };
    message.truncate(got.bytes);
    let mut received = Vec::new();
    for part in rights.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = part {
            received.extend(fds);
        }
    }
    Some((message, received))
}

fn obey(message: &[u8], mut fds: Vec<OwnedFd>, life: &mut Life) -> Result<(), Errno> {
    let mut fields = Fields(message);
    match fields.byte() {
        Some(b'C') => {
            clean_stale(Path::new(OsStr::from_bytes(fields.0)));
            Ok(())
        }
        Some(b'P') => {
            let (target, backing) = fields.path().zip(fields.path()).ok_or(Errno::INVAL)?;
            match check_places(&target, &backing) {
                Ok(()) => Ok(()),
                Err(MirrorError::Mountpoint { source, .. }) => {
                    Err(Errno::from_io_error(&source).unwrap_or(Errno::IO))
                }
                Err(_) => Err(Errno::LOOP),
            }
        }
        Some(b'H') => {
            life.keep = Some(Keep::of(&mut fields, fds)?);
            holder::settle_down();
            Ok(())
        }
        Some(b'D') => {
            let keep = life.keep.as_mut().ok_or(Errno::INVAL)?;
            keep.time = Duration::from_millis(fields.long().ok_or(Errno::INVAL)?);
            Ok(())
        }
        Some(b'M') => {
            let spec = mount_spec(&mut fields).ok_or(Errno::INVAL)?;
            let connection = fds.pop().ok_or(Errno::BADF)?;
            mount_now(&spec, connection.as_fd())?;
            let (number, device) = (MountNumber::at(&spec.target), device_of(&spec.target));
            life.mounted = Some(Mounted {
                target: spec.target,
                number,
                device,
            });
            if let Some(keep) = &mut life.keep {
                keep.device = Some(connection);
            }
            Ok(())
        }
        Some(b'U') => {
            let force = fields.byte() == Some(1);
            let place = life.mounted.as_ref().ok_or(Errno::INVAL)?;
            place.unmount(force)?;
            life.mounted = None;
            life.keep = None;
            Ok(())
        }
        _ => Err(Errno::NOSYS),
    }
}

fn mount_spec(fields: &mut Fields<'_>) -> Option<MountSpec> {
    Some(MountSpec {
        allow_other: fields.byte()? == 1,
        flags: fields.number()?,
        uid: fields.number()?,
        gid: fields.number()?,
        name: String::from_utf8_lossy(fields.bytes()?).into_owned(),
        target: fields.path()?,
    })
}
