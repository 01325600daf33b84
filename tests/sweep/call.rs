//! The calls that can change what is on a disk: their names, and where the file stands in them.

use libc::c_long;

/// Which argument says what the call is made on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Object {
    /// A descriptor.
    Descriptor(usize),
    /// A path.
    Path(usize),
    /// A path from a directory.
    At(usize, usize),
}

/// One call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    number: c_long,
    pub(crate) name: &'static str,
    pub(crate) object: Object,
    /// The argument that names an extended attribute.
    pub(crate) attribute: Option<usize>,
}

const fn call(number: c_long, name: &'static str, object: Object) -> Call {
    Call {
        number,
        name,
        object,
        attribute: None,
    }
}

const fn attribute(number: c_long, name: &'static str, object: Object) -> Call {
    Call {
        number,
        name,
        object,
        attribute: Some(1),
    }
}

use Object::{At, Descriptor, Path};

const CALLS: &[Call] = &[
    call(libc::SYS_write, "write", Descriptor(0)),
    call(libc::SYS_writev, "writev", Descriptor(0)),
    call(libc::SYS_pwrite64, "pwrite", Descriptor(0)),
    call(libc::SYS_pwritev, "pwritev", Descriptor(0)),
    call(libc::SYS_pwritev2, "pwritev2", Descriptor(0)),
    call(libc::SYS_copy_file_range, "copy_file_range", Descriptor(2)),
    call(libc::SYS_splice, "splice", Descriptor(2)),
    call(libc::SYS_sendfile, "sendfile", Descriptor(0)),
    call(libc::SYS_fsync, "fsync", Descriptor(0)),
    call(libc::SYS_fdatasync, "fdatasync", Descriptor(0)),
    call(libc::SYS_syncfs, "syncfs", Descriptor(0)),
    call(libc::SYS_sync_file_range, "sync_file_range", Descriptor(0)),
    call(libc::SYS_fallocate, "fallocate", Descriptor(0)),
    call(libc::SYS_ftruncate, "ftruncate", Descriptor(0)),
    call(libc::SYS_truncate, "truncate", Path(0)),
    call(libc::SYS_openat, "create", At(0, 1)),
    call(libc::SYS_renameat, "rename", At(0, 1)),
    call(libc::SYS_renameat2, "rename", At(0, 1)),
    call(libc::SYS_linkat, "link", At(2, 3)),
    call(libc::SYS_symlinkat, "symlink", At(1, 2)),
    call(libc::SYS_unlinkat, "unlink", At(0, 1)),
    call(libc::SYS_mkdirat, "mkdir", At(0, 1)),
    call(libc::SYS_mknodat, "mknod", At(0, 1)),
    call(libc::SYS_fchmod, "chmod", Descriptor(0)),
    call(libc::SYS_fchmodat, "chmod", At(0, 1)),
    call(libc::SYS_fchown, "chown", Descriptor(0)),
    call(libc::SYS_fchownat, "chown", At(0, 1)),
    call(libc::SYS_utimensat, "utimens", At(0, 1)),
    attribute(libc::SYS_setxattr, "setxattr", Path(0)),
    attribute(libc::SYS_lsetxattr, "setxattr", Path(0)),
    attribute(libc::SYS_fsetxattr, "setxattr", Descriptor(0)),
    attribute(libc::SYS_removexattr, "removexattr", Path(0)),
    attribute(libc::SYS_lremovexattr, "removexattr", Path(0)),
    attribute(libc::SYS_fremovexattr, "removexattr", Descriptor(0)),
    // Not a point: only the controls answer it.
    call(libc::SYS_fcntl, LEASE, Descriptor(0)),
];

/// The older calls of this machine, which newer ones do without.
#[cfg(target_arch = "x86_64")]
const OLDER: &[Call] = &[
    call(libc::SYS_creat, "create", Path(0)),
    call(libc::SYS_rename, "rename", Path(0)),
    call(libc::SYS_link, "link", Path(1)),
    call(libc::SYS_symlink, "symlink", Path(1)),
    call(libc::SYS_unlink, "unlink", Path(0)),
    call(libc::SYS_mkdir, "mkdir", Path(0)),
    call(libc::SYS_rmdir, "unlink", Path(0)),
    call(libc::SYS_chmod, "chmod", Path(0)),
    call(libc::SYS_chown, "chown", Path(0)),
    call(libc::SYS_lchown, "chown", Path(0)),
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[Call] = &[];

/// `fcntl` that sets or asks a lease.
pub(crate) const LEASE: &str = "lease";

pub(crate) fn of(number: c_long) -> Option<&'static Call> {
    CALLS.iter().chain(OLDER).find(|c| c.number == number)
}

/// What the filter hands over without a look at the arguments.
pub(crate) fn numbers() -> Vec<c_long> {
    let looked_at = [libc::SYS_openat, libc::SYS_fcntl];
    let all = CALLS.iter().chain(OLDER).map(|c| c.number);
    all.filter(|n| !looked_at.contains(n)).collect()
}

/// Does it fail where a disk is full? What only gives back does not.
pub(crate) fn takes_room(name: &str) -> bool {
    !matches!(
        name,
        "unlink"
            | "removexattr"
            | "chmod"
            | "chown"
            | "utimens"
            | "ftruncate"
            | "truncate"
            | "sync_file_range"
    )
}
