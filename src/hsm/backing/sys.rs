//! The system calls on backing files that no safe binding offers: file handles and FIEMAP.
//!
//! Everything here takes borrowed descriptors and owned buffers; no pointer leaves a function.
#![allow(
    unsafe_code,
    reason = "file handles and FIEMAP exist only as raw system calls"
)]

use crate::id::NodeHandle;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `MAX_HANDLE_SZ` of the kernel: no filesystem's handle is longer.
const MAX_HANDLE: usize = 128;
/// Extents asked for in one FIEMAP call.
const FIEMAP_BATCH: usize = 64;
/// `FS_IOC_FIEMAP`: `_IOWR('f', 11, struct fiemap)`, whose head is 32 bytes.
const FS_IOC_FIEMAP: u64 = 0xC020_660B;
const FIEMAP_FLAG_SYNC: u32 = 1;
/// An error number of the kernel's own that some filesystems let out.
const ENOTSUPP: i32 = 524;
const FIEMAP_EXTENT_LAST: u32 = 1;
/// Allocated, and reads as zeros.
const FIEMAP_EXTENT_UNWRITTEN: u32 = 0x800;
const FIEMAP_EXTENT_SHARED: u32 = 0x2000;

/// `struct file_handle` with room for the longest handle.
#[repr(C)]
struct RawHandle {
    handle_bytes: u32,
    handle_type: i32,
    f_handle: [u8; MAX_HANDLE],
}

/// The handle of the inode behind `fd` (any descriptor, `O_PATH` too).
pub(super) fn name_to_handle(fd: BorrowedFd<'_>) -> io::Result<NodeHandle> {
    let mut raw = RawHandle {
        handle_bytes: MAX_HANDLE as u32,
        handle_type: 0,
        f_handle: [0; MAX_HANDLE],
    };
    let mut mount_id: libc::c_int = 0;
    // SAFETY: `raw` has the layout of struct file_handle and announces the room it has; the
    // empty name is NUL-terminated; both pointers live across the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd.as_raw_fd(),
            c"".as_ptr(),
            &raw mut raw,
            &raw mut mount_id,
            libc::AT_EMPTY_PATH,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let len = (raw.handle_bytes as usize).min(MAX_HANDLE);
    Ok(NodeHandle {
        kind: raw.handle_type,
        bytes: raw.f_handle[..len].to_vec(),
    })
}

/// Opens the inode that `node` names on the filesystem of `mount`. Needs CAP_DAC_READ_SEARCH.
pub(super) fn open_by_handle(
    mount: BorrowedFd<'_>,
    node: &NodeHandle,
    flags: rustix::fs::OFlags,
) -> io::Result<OwnedFd> {
    if node.bytes.len() > MAX_HANDLE {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut raw = RawHandle {
        handle_bytes: node.bytes.len() as u32,
        handle_type: node.kind,
        f_handle: [0; MAX_HANDLE],
    };
    raw.f_handle[..node.bytes.len()].copy_from_slice(&node.bytes);
    // SAFETY: `raw` has the layout of struct file_handle, with `handle_bytes` valid bytes.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw mut raw,
            flags.bits() as libc::c_int,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = libc::c_int::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FiemapExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [FiemapExtent; FIEMAP_BATCH],
}

/// Bytes of `fd` that lie in extents shared with another file or a snapshot. `Ok(None)` where
/// the filesystem has no FIEMAP.
pub(in crate::hsm) fn shared_bytes(fd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let mut shared = 0_u64;
    let known = each_extent(fd, FIEMAP_FLAG_SYNC, |extent| {
        if extent.flags & FIEMAP_EXTENT_SHARED != 0 {
            shared = shared.saturating_add(extent.length);
        }
        ControlFlow::Continue(())
    })?;
    Ok(known.then_some(shared))
}

/// Bytes of `fd` before `size` that were written, as many as there are or at least `enough`: SEEK_DATA
/// calls room that was allocated and never written data, once somebody has read it [m]. What was
/// written and has no place on disk yet counts; the file is synced only if there is too little without
/// what waits to be written into allocated room. `Ok(None)` where the filesystem has no FIEMAP.
pub(in crate::hsm) fn written_bytes(
    fd: BorrowedFd<'_>,
    size: u64,
    enough: u64,
) -> io::Result<Option<u64>> {
    let enough = enough.min(size);
    for flags in [0, FIEMAP_FLAG_SYNC] {
        let mut written = 0_u64;
        let known = each_extent(fd, flags, |extent| {
            if extent.flags & FIEMAP_EXTENT_UNWRITTEN == 0 {
                let end = extent.logical.saturating_add(extent.length).min(size);
                written = written.saturating_add(end.saturating_sub(extent.logical));
            }
            if written < enough && extent.logical < size {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        if !known {
            return Ok(None);
        }
        if written >= enough || flags != 0 {
            return Ok(Some(written));
        }
    }
    Ok(None)
}

/// The file's extents, in order, as long as `see` goes on; `flags` count for the first call. `false`:
/// the filesystem has no FIEMAP, or none for this file.
fn each_extent(
    fd: BorrowedFd<'_>,
    mut flags: u32,
    mut see: impl FnMut(&FiemapExtent) -> ControlFlow<()>,
) -> io::Result<bool> {
    let mut start = 0_u64;
    loop {
        let mut map = Fiemap {
            start,
            length: u64::MAX - start,
            flags,
            mapped_extents: 0,
            extent_count: FIEMAP_BATCH as u32,
            reserved: 0,
            extents: [FiemapExtent::default(); FIEMAP_BATCH],
        };
        // SAFETY: `map` has the layout of struct fiemap followed by `extent_count` extents.
        let done =
            unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_FIEMAP as libc::Ioctl, &raw mut map) };
        if done != 0 {
            let why = io::Error::last_os_error();
            return match why.raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS | libc::EBADR | ENOTSUPP) => {
                    Ok(false)
                }
                _ => Err(why),
            };
        }
        flags = 0;
        let count = (map.mapped_extents as usize).min(FIEMAP_BATCH);
        for extent in &map.extents[..count] {
            if see(extent).is_break() {
                return Ok(true);
            }
        }
        let Some(last) = map.extents[..count].last() else {
            return Ok(true);
        };
        let next = last.logical.saturating_add(last.length);
        if last.flags & FIEMAP_EXTENT_LAST != 0 || next <= start {
            return Ok(true);
        }
        start = next;
    }
}
