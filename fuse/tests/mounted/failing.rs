//! A small filesystem in memory whose calls fail with whatever error a test wants of them.

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

const ROOT: u64 = 1;
/// Nothing is believed above it.
const TTL: Duration = Duration::ZERO;

#[derive(Default)]
struct Memory {
    names: BTreeMap<OsString, u64>,
    files: BTreeMap<u64, Vec<u8>>,
    last: u64,
}

impl Memory {
    fn make(&mut self, name: &OsStr) -> u64 {
        self.last += 1;
        let inode = ROOT + self.last;
        self.names.insert(name.to_owned(), inode);
        self.files.insert(inode, Vec::new());
        inode
    }

    fn attributes(&self, inode: u64) -> Result<FileAttr, Errno> {
        let size = match self.files.get(&inode) {
            Some(data) => data.len() as u64,
            None if inode == ROOT => 0,
            None => return Err(Errno::ENOENT),
        };
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30);
        let directory = inode == ROOT;
        Ok(FileAttr {
            ino: INodeNo(inode),
            size,
            blocks: size.div_ceil(512),
            atime: then,
            mtime: then,
            ctime: then,
            crtime: then,
            kind: if directory {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: if directory { 0o777 } else { 0o666 },
            nlink: 1 + u32::from(directory),
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

struct Tree {
    memory: Mutex<Memory>,
    fault: Arc<AtomicI32>,
}

impl Tree {
    /// Does it, unless it is to fail.
    fn on<T>(&self, work: impl FnOnce(&mut Memory) -> Result<T, Errno>) -> Result<T, Errno> {
        match self.fault.load(Ordering::SeqCst) {
            0 => work(&mut self.memory.lock().unwrap()),
            fault => Err(Errno::from_i32(fault)),
        }
    }
}

macro_rules! answer {
    ($reply:ident, $result:expr, $value:pat => $done:expr) => {
        match $result {
            Ok($value) => $done,
            Err(error) => $reply.error(error),
        }
    };
}

impl Filesystem for Tree {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.on(|m| {
            let inode = *m.names.get(name).ok_or(Errno::ENOENT)?;
            m.attributes(inode)
        });
        answer!(reply, found, attr => reply.entry(&TTL, &attr, Generation(0)));
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer!(reply, self.on(|m| m.attributes(inode.0)), attr => reply.attr(&TTL, &attr));
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = self.on(|m| {
            if let (Some(size), Some(data)) = (size, m.files.get_mut(&inode.0)) {
                data.resize(size as usize, 0);
            }
            m.attributes(inode.0)
        });
        answer!(reply, set, attr => reply.attr(&TTL, &attr));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        answer!(reply, self.on(|_| Ok(())), () => reply.opened(FileHandle(0), FopenFlags::empty()));
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.on(|m| {
            let data = m.files.get(&inode.0).ok_or(Errno::ENOENT)?;
            let from = data.len().min(offset as usize);
            let to = data.len().min(from + size as usize);
            Ok(data[from..to].to_vec())
        });
        answer!(reply, read, bytes => reply.data(&bytes));
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.on(|m| {
            let data = m.files.get_mut(&inode.0).ok_or(Errno::ENOENT)?;
            let (from, to) = (offset as usize, offset as usize + bytes.len());
            data.resize(data.len().max(to), 0);
            data[from..to].copy_from_slice(bytes);
            Ok(bytes.len() as u32)
        });
        answer!(reply, written, count => reply.written(count));
    }

    fn mknod(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let made = self.on(|m| {
            let inode = m.make(name);
            m.attributes(inode)
        });
        answer!(reply, made, attr => reply.entry(&TTL, &attr, Generation(0)));
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let made = self.on(|m| {
            let inode = m.make(name);
            m.attributes(inode)
        });
        let no_flags = FopenFlags::empty();
        answer!(reply, made, attr => {
            reply.created(&TTL, &attr, Generation(0), FileHandle(0), no_flags);
        });
    }

    fn unlink(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let gone = self.on(|m| m.names.remove(name).map(drop).ok_or(Errno::ENOENT));
        answer!(reply, gone, () => reply.ok());
    }

    fn rename(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: INodeNo,
        other: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let moved = self.on(|m| {
            let inode = m.names.remove(name).ok_or(Errno::ENOENT)?;
            m.names.insert(other.to_owned(), inode);
            Ok(())
        });
        answer!(reply, moved, () => reply.ok());
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        answer!(reply, self.on(|_| Ok(())), () => reply.ok());
    }

    fn readdir(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.on(|m| {
            let all: Vec<_> = m.names.iter().map(|(n, i)| (n.clone(), *i)).collect();
            Ok(all)
        });
        answer!(reply, listed, names => {
            for (at, (name, inode)) in names.iter().enumerate().skip(offset as usize) {
                if reply.add(INodeNo(*inode), at as u64 + 1, FileType::RegularFile, name) {
                    break;
                }
            }
            reply.ok();
        });
    }
}

/// It, mounted. Unmounted when dropped.
pub(crate) struct Failing {
    fault: Arc<AtomicI32>,
    dir: tempfile::TempDir,
    session: Option<BackgroundSession>,
}

impl Failing {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let fault = Arc::new(AtomicI32::new(0));
        let tree = Tree {
            memory: Mutex::default(),
            fault: fault.clone(),
        };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("failing".into())];
        let session = fuser::spawn_mount(tree, dir.path(), &config)?;
        Ok(Self {
            fault,
            dir,
            session: Some(session),
        })
    }

    /// From here on every call fails with this error; 0: none does.
    pub(crate) fn fail_with(&self, errno: i32) {
        self.fault.store(errno, Ordering::SeqCst);
    }

    pub(crate) fn root(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        self.fail_with(0);
        if let Some(session) = self.session.take() {
            let _ = session.umount_and_join();
        }
    }
}
