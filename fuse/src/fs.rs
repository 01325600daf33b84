//! The thin side towards FUSE: takes requests apart, calls the operation, answers. Nothing is
//! decided here.

use crate::Caller;
use crate::attr::{Entry, nothing};
use crate::core::Core;
use crate::creds::Creator;
use crate::ledger::Agreement;
use crate::locks::{Ask, Kind, Owner, Range};
use crate::node::Node;
use crate::ops::{Change, Copy, Listing, New};
use crate::park::errno;
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno as FuseErrno, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyLock, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use parking_lot::Mutex;
use rustix::io::Errno;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// What was agreed on with the kernel.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Agreed {
    pub(crate) abi: (u32, u32),
    pub(crate) passthrough: bool,
    /// Files may be opened past the kernel's cache, and mapped all the same.
    pub(crate) direct: bool,
    /// The kernel's capabilities.
    pub(crate) offered: u64,
    /// A sum over those that were asked for and granted.
    pub(crate) answered: u64,
}

impl Agreed {
    pub(crate) fn agreement(self) -> Agreement {
        Agreement {
            offered: self.offered,
            abi: self.abi,
            answered: self.answered,
        }
    }

    /// Does the kernel send unanswered requests again?
    pub(crate) fn resends(self) -> bool {
        self.offered & InitFlags::FUSE_HAS_RESEND.bits() != 0
    }
}

/// What to ask the kernel for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) passthrough: bool,
    /// 1; or 2 on a backing that is stacked itself.
    pub(crate) stack_depth: u32,
    /// Set-id bits are cleared by the server's lack of CAP_FSETID.
    pub(crate) kills_privileges: bool,
    pub(crate) shared: bool,
}

/// The session's filesystem.
pub(crate) struct MirrorFs {
    pub(crate) core: Arc<Core>,
    pub(crate) wanted: Wanted,
    pub(crate) agreed: Arc<Mutex<Agreed>>,
}

/// The kernel's number of a request.
fn number_of(req: &Request) -> u64 {
    req.unique().0
}

fn caller(req: &Request) -> Caller {
    Caller {
        uid: req.uid(),
        gid: req.gid(),
        pid: req.pid(),
    }
}

fn creator(req: &Request, umask: u32) -> Creator {
    Creator {
        uid: req.uid(),
        gid: req.gid(),
        pid: req.pid(),
        umask,
    }
}

fn owner(ino: INodeNo, lock_owner: LockOwner) -> Owner {
    Owner {
        node: ino.0,
        number: lock_owner.0,
    }
}

/// A kind of lock, or none for unlocking; `None` if it is neither.
fn lock_kind(number: i32) -> Option<Option<Kind>> {
    match number {
        libc::F_RDLCK => Some(Some(Kind::Read)),
        libc::F_WRLCK => Some(Some(Kind::Write)),
        libc::F_UNLCK => Some(None),
        _ => None,
    }
}

fn ask(
    req: &Request,
    owner: Owner,
    fh: FileHandle,
    (first, last): (u64, u64),
    kind: Option<Kind>,
    process: u32,
) -> Ask {
    Ask {
        owner,
        fh: fh.0,
        process,
        thread: req.pid(),
        range: Range { first, last },
        kind,
        waits: false,
    }
}

fn answer_entry(result: Result<(Arc<Node>, Entry), Errno>, reply: ReplyEntry) {
    match result {
        Ok((_, e)) => reply.entry_with_ttls(&e.attr_ttl, &e.ttl, &e.attr, e.generation),
        Err(error) => reply.error(errno(error)),
    }
}

fn answer_empty(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

/// An attribute's value or list: its size if asked with no room, else the bytes or ERANGE.
fn answer_xattr(result: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match result {
        Err(error) => reply.error(errno(error)),
        Ok(bytes) if size == 0 => reply.size(u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
        Ok(bytes) if bytes.len() > size as usize => reply.error(errno(Errno::RANGE)),
        Ok(bytes) => reply.data(&bytes),
    }
}

impl Filesystem for MirrorFs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let agreed = crate::negotiate::negotiate(self.wanted, config);
        *self.agreed.lock() = agreed;
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.core.lookup(parent.0, name) {
            Err(Errno::NOENT) if !self.core.shared => {
                reply.entry(&self.core.ttl, &nothing(), Generation(0));
            }
            result => answer_entry(result, reply),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.core.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.core.getattr(ino.0) {
            Ok((attr, ttl)) => reply.attr(&ttl, &attr),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        };
        self.core.setattr(caller(req), ino.0, change, reply);
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.core.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let new = New::Node(mode, rdev);
        answer_entry(
            self.core
                .make(number_of(req), creator(req, umask), parent.0, name, new),
            reply,
        );
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let new = New::Dir(mode);
        answer_entry(
            self.core
                .make(number_of(req), creator(req, umask), parent.0, name, new),
            reply,
        );
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let new = New::Symlink(target);
        answer_entry(
            self.core
                .make(number_of(req), creator(req, 0), parent.0, link_name, new),
            reply,
        );
    }

    fn link(
        &self,
        req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        answer_entry(
            self.core.link(number_of(req), ino.0, newparent.0, newname),
            reply,
        );
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer_empty(
            self.core.unlink(number_of(req), parent.0, name, false),
            reply,
        );
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer_empty(
            self.core.unlink(number_of(req), parent.0, name, true),
            reply,
        );
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let result = self.core.rename(
            number_of(req),
            (parent.0, name),
            (newparent.0, newname),
            flags,
        );
        answer_empty(result, reply);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.core.create(
            number_of(req),
            creator(req, umask),
            (parent.0, name),
            mode,
            flags,
            reply,
        );
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.core
            .open(number_of(req), caller(req), ino.0, flags.0, reply);
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.core.release(ino.0, fh.0);
        reply.ok();
    }

    /// Nothing is written late: without locks the kernel need not ask again.
    fn flush(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        if self.core.shared {
            self.core.close_owner(owner(ino, lock_owner), reply);
        } else {
            reply.error(FuseErrno::ENOSYS);
        }
    }

    fn getlk(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        match lock_kind(typ) {
            Some(kind) => {
                let owner = owner(ino, lock_owner);
                let ask = ask(req, owner, fh, (start, end), kind, pid);
                self.core.get_lock(ask, reply);
            }
            None => reply.error(FuseErrno::EINVAL),
        }
    }

    fn setlk(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        match lock_kind(typ) {
            Some(kind) => {
                let owner = owner(ino, lock_owner);
                let mut ask = ask(req, owner, fh, (start, end), kind, pid);
                ask.waits = sleep;
                self.core.set_lock(ask, reply);
            }
            None => reply.error(FuseErrno::EINVAL),
        }
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.core.read(caller(req), ino.0, offset, size, reply);
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.core.write(ino.0, offset, data, reply);
    }

    fn fsync(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.core.fsync(ino.0, datasync, reply);
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.core.fsync(ino.0, datasync, reply);
    }

    /// Directories need no handle. Where others change them too, an answer keeps the kernel
    /// from caching their entries.
    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.core.shared {
            reply.opened(FileHandle(0), FopenFlags::empty());
        } else {
            reply.error(FuseErrno::ENOSYS);
        }
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let mut names = Names(reply);
        match self.core.read_dir(ino.0, offset, &mut names) {
            Ok(()) => names.0.ok(),
            Err(error) => names.0.error(errno(error)),
        }
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let mut entries = Entries(reply);
        match self.core.read_dir(ino.0, offset, &mut entries) {
            Ok(()) => entries.0.ok(),
            Err(error) => entries.0.error(errno(error)),
        }
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.core.statfs() {
            Ok(s) => reply.statfs(
                s.f_blocks,
                s.f_bfree,
                s.f_bavail,
                s.f_files,
                s.f_ffree,
                u32::try_from(s.f_bsize).unwrap_or(4096),
                u32::try_from(s.f_namemax).unwrap_or(255),
                u32::try_from(s.f_frsize).unwrap_or(4096),
            ),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        answer_empty(
            self.core
                .setxattr(number_of(req), caller(req), ino.0, name, value, flags),
            reply,
        );
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let caller = caller(req);
        if !self.core.residency.attribute_may_wait(name) {
            return answer_xattr(self.core.getxattr(caller, ino.0, name), size, reply);
        }
        let (core, name) = (self.core.clone(), name.to_owned());
        self.core.workers.asking(move || {
            answer_xattr(core.getxattr(caller, ino.0, &name), size, reply);
        });
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        answer_xattr(self.core.listxattr(caller(req), ino.0), size, reply);
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer_empty(
            self.core
                .removexattr(number_of(req), caller(req), ino.0, name),
            reply,
        );
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.core
            .fallocate(caller(req), ino.0, (offset, length), mode, reply);
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.core.lseek(ino.0, offset, whence, reply);
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let copy = Copy {
            from: (ino_in.0, offset_in),
            to: (ino_out.0, offset_out),
            len,
        };
        self.core.copy(caller(req), copy, reply);
    }
}

/// Plain directory entries.
struct Names(ReplyDirectory);

impl Listing for Names {
    const PLUS: bool = false;
    fn name(&mut self, id: u64, offset: u64, kind: FileType, name: &OsStr) -> bool {
        self.0.add(INodeNo(id), offset, kind, name)
    }
    fn entry(&mut self, offset: u64, name: &OsStr, entry: &Entry) -> bool {
        self.name(entry.attr.ino.0, offset, entry.attr.kind, name)
    }
}

/// Directory entries with attributes.
struct Entries(ReplyDirectoryPlus);

impl Listing for Entries {
    const PLUS: bool = true;
    /// `.` and `..`: the kernel takes no attributes of them.
    fn name(&mut self, id: u64, offset: u64, kind: FileType, name: &OsStr) -> bool {
        let mut attr = nothing();
        attr.ino = INodeNo(id);
        attr.kind = kind;
        let ttl = std::time::Duration::ZERO;
        self.0
            .add(attr.ino, offset, name, &ttl, &attr, Generation(0))
    }
    fn entry(&mut self, offset: u64, name: &OsStr, entry: &Entry) -> bool {
        let ino = entry.attr.ino;
        // The library has one time for both here.
        let ttl = entry.ttl.min(entry.attr_ttl);
        self.0
            .add(ino, offset, name, &ttl, &entry.attr, entry.generation)
    }
}
