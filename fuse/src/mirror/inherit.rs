//! Taking over a live connection with a library that insists on beginning one: the handshake runs
//! over a socket, and then the connection is put onto the socket's number.
//!
//! The kernel goes on by what it agreed on with the first server. So the successor is shown the
//! same capabilities, and its answer must be the same; else it must not go on.

use super::{MirrorConfig, prepare};
use crate::fs::{Agreed, MirrorFs, Wanted};
use crate::guard::Guarded;
use crate::ledger::{Agreement, told};
use crate::mount::{Inheritance, Successor};
use crate::negotiate::negotiate;
use crate::{MirrorError, creds, sys};
use fuser::{Config, Filesystem, KernelConfig, Request, Session, SessionACL};
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

const FUSE_INIT: u32 = 26;
const IN_HEADER: usize = 40;
const INIT_BODY: usize = 64;
/// `FUSE_INIT_EXT`: there are capabilities in the second word.
const EXTENDED: u32 = 1 << 30;
/// What the kernel says it can read ahead; of no consequence once the connection runs.
const READAHEAD: u32 = 128 << 10;
/// `FUSE_NOTIFY_RESEND`.
const RESEND: i32 = 7;

impl Successor {
    /// Could a mirror with this configuration go on where the predecessor is? Changes nothing.
    ///
    /// # Errors
    /// [`MirrorError::Ledger`] if not, and why; [`MirrorError::Backing`].
    pub fn check(&self, config: &MirrorConfig) -> Result<(), MirrorError> {
        creds::start();
        let backing = prepare::open_backing(&config.backing)?;
        let root = prepare::root_of(&backing.0).map_err(|e| MirrorError::Backing {
            path: backing.1.clone(),
            source: e.into(),
        })?;
        if told(&root) != self.root() {
            return Err(other_backing());
        }
        if config.shared && !self.keeps_locks() {
            return Err(MirrorError::Ledger {
                why: "its holder is of an older version, which does not keep record locks"
                    .to_owned(),
            });
        }
        let wanted = prepare::wanted(config, backing.0.as_fd());
        let trial = Trial {
            wanted,
            agreed: Arc::default(),
        };
        let agreed = trial.agreed.clone();
        let options = options(SessionACL::All, 1);
        let (session, _far) = handshake(trial, self.agreement(), SessionACL::All, options)?;
        drop(session);
        let agreed = *agreed.lock();
        same(agreed, self.agreement())
    }
}

pub(super) fn other_backing() -> MirrorError {
    MirrorError::Ledger {
        why: "another backing directory is mounted there".to_owned(),
    }
}

/// Session options that are the same for first servers and successors.
pub(super) fn options(acl: SessionACL, threads: usize) -> Config {
    let mut options = Config::default();
    options.acl = acl;
    options.n_threads = Some(threads);
    options
}

/// A filesystem that only says what it would agree on.
struct Trial {
    wanted: Wanted,
    agreed: Arc<Mutex<Agreed>>,
}

impl Filesystem for Trial {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        *self.agreed.lock() = negotiate(self.wanted, config);
        Ok(())
    }
}

/// A session on a live connection.
pub(super) fn session(
    fs: MirrorFs,
    inheritance: &Inheritance,
    agreement: Agreement,
    acl: SessionACL,
    options: Config,
) -> Result<Session<Guarded>, MirrorError> {
    let agreed = fs.agreed.clone();
    let (session, far) = handshake(Guarded(fs), agreement, acl, options)?;
    let agreed = *agreed.lock();
    same(agreed, agreement)?;
    sys::replace(inheritance.device.as_fd(), session.as_fd())
        .map_err(|e| MirrorError::take_over("put the connection in its place", e))?;
    drop(far);
    Ok(session)
}

fn same(agreed: Agreed, agreement: Agreement) -> Result<(), MirrorError> {
    if agreed.agreement() == agreement {
        return Ok(());
    }
    Err(MirrorError::Ledger {
        why: "this program, or its configuration, would agree with the kernel on other things \
              than those that the mount runs by"
            .to_owned(),
    })
}

/// Runs the library's handshake with ourselves. The far end must stay until the number is taken.
fn handshake<F: Filesystem>(
    fs: F,
    agreement: Agreement,
    acl: SessionACL,
    options: Config,
) -> Result<(Session<F>, OwnedFd), MirrorError> {
    let failed = |e: Errno| MirrorError::take_over("begin a session", e);
    let flags = SocketFlags::CLOEXEC;
    let (near, far) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map_err(failed)?;
    rustix::io::write(&far, &init_message(agreement)).map_err(failed)?;
    let session =
        Session::from_fd(fs, near, acl, options).map_err(|source| MirrorError::TakeOver {
            step: "begin a session",
            source,
        })?;
    Ok((session, far))
}

/// FUSE_INIT as the kernel sent it to the first server.
fn init_message(agreement: Agreement) -> Vec<u8> {
    let (major, minor) = agreement.abi;
    let offered = agreement.offered;
    let mut message = Vec::with_capacity(IN_HEADER + INIT_BODY);
    let length = (IN_HEADER + INIT_BODY) as u32;
    message.extend(length.to_le_bytes());
    message.extend(FUSE_INIT.to_le_bytes());
    message.extend(1_u64.to_le_bytes());
    message.resize(IN_HEADER, 0);
    let low = offered as u32 | EXTENDED;
    for word in [major, minor, READAHEAD, low, (offered >> 32) as u32] {
        message.extend(word.to_le_bytes());
    }
    message.resize(IN_HEADER + INIT_BODY, 0);
    message
}

/// Asks the kernel to send again what the predecessor had read and not answered.
pub(super) fn resend(device: impl AsFd) -> Result<(), Errno> {
    let mut notice = [0; 16];
    notice[..4].copy_from_slice(&16_u32.to_le_bytes());
    notice[4..8].copy_from_slice(&RESEND.to_le_bytes());
    rustix::io::write(device, &notice).map(drop)
}
