//! A request that fails by panic fails alone. The session's threads are few, and the library ends
//! one that panics: after as many such requests as there are threads, nobody would be answered.
//!
//! What was not answered is answered by the library when its reply is dropped: EIO. Locks are not
//! poisoned; what each guards is whole between any two statements that can panic, or asserted.

use crate::fs::MirrorFs;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, INodeNo, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};
use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::SystemTime;

/// The session's filesystem, of which no panic gets out.
pub(crate) struct Guarded(pub(crate) MirrorFs);

fn alone(operation: &'static str, work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        tracing::error!(operation, "a request failed by panic");
    }
}

macro_rules! guarded {
    ($($operation:ident($($argument:ident: $kind:ty),*);)*) => {
        impl Filesystem for Guarded {
            fn init(&mut self, req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
                self.0.init(req, config)
            }

            $(
                #[allow(clippy::too_many_arguments, reason = "the library's signatures")]
                fn $operation(&self, $($argument: $kind),*) {
                    alone(stringify!($operation), || self.0.$operation($($argument),*));
                }
            )*
        }
    };
}

// All that the mirror answers. What is not here is answered by the library: ENOSYS.
guarded! {
    lookup(req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry);
    forget(req: &Request, ino: INodeNo, nlookup: u64);
    getattr(req: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr);
    setattr(req: &Request, ino: INodeNo, mode: Option<u32>, uid: Option<u32>, gid: Option<u32>,
        size: Option<u64>, atime: Option<TimeOrNow>, mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>, fh: Option<FileHandle>, crtime: Option<SystemTime>,
        chgtime: Option<SystemTime>, bkuptime: Option<SystemTime>, flags: Option<BsdFileFlags>,
        reply: ReplyAttr);
    readlink(req: &Request, ino: INodeNo, reply: ReplyData);
    mknod(req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, rdev: u32,
        reply: ReplyEntry);
    mkdir(req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry);
    symlink(req: &Request, parent: INodeNo, link_name: &OsStr, target: &Path, reply: ReplyEntry);
    link(req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry);
    unlink(req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty);
    rmdir(req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty);
    rename(req: &Request, parent: INodeNo, name: &OsStr, newparent: INodeNo, newname: &OsStr,
        flags: RenameFlags, reply: ReplyEmpty);
    create(req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, flags: i32,
        reply: ReplyCreate);
    open(req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen);
    release(req: &Request, ino: INodeNo, fh: FileHandle, flags: OpenFlags,
        lock_owner: Option<LockOwner>, flush: bool, reply: ReplyEmpty);
    flush(req: &Request, ino: INodeNo, fh: FileHandle, lock_owner: LockOwner, reply: ReplyEmpty);
    getlk(req: &Request, ino: INodeNo, fh: FileHandle, lock_owner: LockOwner, start: u64,
        end: u64, typ: i32, pid: u32, reply: ReplyLock);
    setlk(req: &Request, ino: INodeNo, fh: FileHandle, lock_owner: LockOwner, start: u64,
        end: u64, typ: i32, pid: u32, sleep: bool, reply: ReplyEmpty);
    read(req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, size: u32, flags: OpenFlags,
        lock_owner: Option<LockOwner>, reply: ReplyData);
    write(req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, data: &[u8],
        write_flags: WriteFlags, flags: OpenFlags, lock_owner: Option<LockOwner>,
        reply: ReplyWrite);
    fsync(req: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty);
    fsyncdir(req: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty);
    opendir(req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen);
    readdir(req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory);
    readdirplus(req: &Request, ino: INodeNo, fh: FileHandle, offset: u64,
        reply: ReplyDirectoryPlus);
    statfs(req: &Request, ino: INodeNo, reply: ReplyStatfs);
    setxattr(req: &Request, ino: INodeNo, name: &OsStr, value: &[u8], flags: i32, position: u32,
        reply: ReplyEmpty);
    getxattr(req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr);
    listxattr(req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr);
    removexattr(req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty);
    fallocate(req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, length: u64, mode: i32,
        reply: ReplyEmpty);
    lseek(req: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32,
        reply: ReplyLseek);
    copy_file_range(req: &Request, ino_in: INodeNo, fh_in: FileHandle, offset_in: u64,
        ino_out: INodeNo, fh_out: FileHandle, offset_out: u64, len: u64,
        flags: CopyFileRangeFlags, reply: ReplyWrite);
}
