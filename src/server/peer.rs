//! Who is at the other end of a Unix socket, as the kernel says.

use super::control::Peer;
use super::sys;
use std::io;
use std::os::fd::BorrowedFd;

/// The peer's identity when it connected. A process that has changed its identity since is still
/// judged by the one it connected with.
pub(super) fn of(socket: BorrowedFd<'_>) -> io::Result<Peer> {
    let credentials = sys::peer_credentials(socket)?;
    Ok(Peer {
        uid: credentials.uid,
        gid: credentials.gid,
        groups: sys::peer_groups(socket)?,
        pid: u32::try_from(credentials.pid).unwrap_or(0),
    })
}

/// For clients: the user who listens at the other end.
pub(crate) fn listener_uid(socket: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(sys::peer_credentials(socket)?.uid)
}
