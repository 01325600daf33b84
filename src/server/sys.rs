//! The two socket options that have no safe wrapper: SO_PEERCRED where the peer's process may be
//! invisible (pid 0), and SO_PEERGROUPS.
#![allow(
    unsafe_code,
    reason = "getsockopt(2) with types that no safe wrapper offers"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// Most supplementary groups the kernel allows (NGROUPS_MAX).
const MAX_GROUPS: usize = 65_536;

fn length_of(bytes: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(bytes).unwrap_or(libc::socklen_t::MAX)
}

/// Effective uid, gid and process id of who connected, or of who listens.
pub(super) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<libc::ucred> {
    let mut found = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let mut length = length_of(size_of::<libc::ucred>());
    // SAFETY: `found` is valid for writes of `length` bytes and `length` says its size; the kernel
    // writes plain integers, for which every bit pattern is valid; the descriptor is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if usize::try_from(length).ok() != Some(size_of::<libc::ucred>()) || found.uid == u32::MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(found)
}

/// Supplementary groups of who connected.
pub(super) fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut length = length_of(groups.len() * size_of::<libc::gid_t>());
        // SAFETY: the vector's memory is valid for writes of `length` bytes, which is its
        // initialised length; the kernel writes integers; the descriptor is borrowed.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = usize::try_from(length).unwrap_or(0) / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        let grows = count > groups.len() && count <= MAX_GROUPS;
        if error.raw_os_error() != Some(libc::ERANGE) || !grows {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// Lets the current runtime watch a non-blocking socket.
pub(super) fn watch(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` owns an open descriptor, names the same one for its whole life, and is
    // moved into the `AsyncFd`, which gives out only shared references.
    Ok(unsafe { AsyncFd::register(socket) }?)
}
