//! A residency whose files are released and brought back when the test says so. It keeps what a
//! real one keeps, in memory:
//! - the data of a released file and where its holes were, which come back as holes (P4);
//! - its mtime, which users see and set while punches and writes move the backing's (P3, P4);
//! - the ctime that its users gave it, shown for the backing's as long as that is the one which
//!   the last release or recall caused (P4).
//!
//! All of that is behind one lock, which a release or recall holds from its first look at the
//! file to its last: a node's turn.

use cairn_fuse::{
    Caller, Changed, Errno, Event, EventKind, FileRef, Gate, NodeHandle, Presence, ReadDone,
    Residency, Shown, WaitDone, WaitToken,
};
use rustix::fs::{
    FallocateFlags, Mode, OFlags, SeekFrom, Statx, StatxFlags, Timespec, Timestamps, UTIME_OMIT,
};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// With a descriptor of the inode: it may lose its last name meanwhile, and be open all the same.
enum Waiting {
    Read(NodeHandle, OwnedFd, u64, u32, ReadDone),
    Fetch(NodeHandle, OwnedFd, WaitDone),
}

/// Opens the inode behind an `O_PATH` descriptor.
fn open(fd: BorrowedFd<'_>, flags: OFlags) -> File {
    let flags = flags | OFlags::NOATIME | OFlags::CLOEXEC;
    File::from(rustix::fs::open(proc_path(fd), flags, Mode::empty()).unwrap())
}

fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

type Time = (i64, u32);

/// mtime and ctime of the backing.
fn times_of(stat: &Statx) -> (Time, Time) {
    let time = |t: rustix::fs::StatxTimestamp| (t.tv_sec, t.tv_nsec);
    (time(stat.stx_mtime), time(stat.stx_ctime))
}

fn stat_of(fd: BorrowedFd<'_>) -> Statx {
    rustix::fs::statx(
        fd,
        "",
        rustix::fs::AtFlags::EMPTY_PATH,
        StatxFlags::BASIC_STATS,
    )
    .unwrap()
}

/// Puts back what a punch or write moved.
fn set_mtime(file: &File, (tv_sec, nsec): Time) {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec,
            tv_nsec: nsec.into(),
        },
    };
    rustix::fs::futimens(file, &times).unwrap();
}

/// A released file.
struct Stub {
    size: u64,
    /// Its data, and where they lay: between them are holes.
    runs: Vec<(u64, Vec<u8>)>,
    mtime: Time,
}

impl Stub {
    /// What is on disk.
    fn of(file: &File) -> anyhow::Result<Self> {
        let stat = stat_of(file.as_fd());
        let mut runs = Vec::new();
        let mut at = 0;
        while let Ok(start) = rustix::fs::seek(file, SeekFrom::Data(at)) {
            at = rustix::fs::seek(file, SeekFrom::Hole(start))?;
            let mut data = vec![0; (at - start) as usize];
            file.read_exact_at(&mut data, start)?;
            runs.push((start, data));
        }
        Ok(Self {
            size: stat.stx_size,
            runs,
            mtime: times_of(&stat).0,
        })
    }

    fn bytes(&self, offset: u64, len: u32) -> Vec<u8> {
        let len = u64::from(len).min(self.size.saturating_sub(offset));
        let mut bytes = vec![0; len as usize];
        for (start, data) in &self.runs {
            let from = offset.max(*start);
            let to = (offset + len).min(start + data.len() as u64);
            if from < to {
                let part = &data[(from - start) as usize..(to - start) as usize];
                bytes[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
            }
        }
        bytes
    }

    fn seek(&self, offset: u64, data: bool) -> Result<u64, Errno> {
        if offset >= self.size {
            return Err(Errno(libc::ENXIO));
        }
        let end = |(start, data): &(u64, Vec<u8>)| start + data.len() as u64;
        let next = self.runs.iter().find(|run| offset < end(run));
        match (next, data) {
            (None, true) => Err(Errno(libc::ENXIO)),
            (Some(run), true) => Ok(offset.max(run.0)),
            (Some(run), false) if run.0 <= offset => Ok(end(run)),
            (_, false) => Ok(offset),
        }
    }
}

/// What is kept of a file that was released once.
struct Known {
    stub: Option<Stub>,
    /// The ctime to show, while the backing's is the other one.
    ctime: Time,
    caused: Time,
}

impl Known {
    /// The ctime that users see of a file which has that one below.
    fn ctime_of(&self, backing: Time) -> Time {
        if backing == self.caused {
            self.ctime
        } else {
            backing
        }
    }
}

/// Files are resident unless released; who needs a released file waits until it is served.
#[derive(Default)]
pub(crate) struct Fake {
    known: Mutex<HashMap<NodeHandle, Known>>,
    /// Is or was anything known? Until then attributes are as the backing has them.
    any_known: AtomicBool,
    waiting: Mutex<HashMap<u64, Waiting>>,
    /// Files that are being cut to nothing: no recall may write behind that (P5).
    held: Mutex<HashMap<u64, NodeHandle>>,
    tokens: AtomicU64,
    pub(crate) given_up: AtomicU64,
    pub(crate) events: Mutex<Vec<Event>>,
    /// How often attributes were looked at.
    pub(crate) looked: AtomicU64,
    /// While this is held, nobody is told a file's state.
    pub(crate) silence: Mutex<()>,
    /// How many asked for one.
    pub(crate) asked: AtomicU64,
    /// What happens when attributes were looked at, before it is said how users see them.
    pub(crate) meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// As many fetches end, and the file is released again before anybody has it.
    pub(crate) in_vain: AtomicU64,
    gate: OnceLock<Arc<dyn Gate>>,
    backing: Mutex<PathBuf>,
}

impl Fake {
    pub(crate) fn lies_in(&self, backing: PathBuf) {
        *self.backing.lock().unwrap() = backing;
    }

    pub(crate) fn tells(&self, gate: Arc<dyn Gate>) {
        let _ = self.gate.set(gate);
    }

    /// Takes a file's data away, as a release does: same size, no blocks.
    pub(crate) fn release(&self, backing_path: &Path) -> anyhow::Result<NodeHandle> {
        let file = File::options().read(true).write(true).open(backing_path)?;
        let handle = NodeHandle::of(&file)?;
        self.release_file(&file, &handle)?;
        Ok(handle)
    }

    /// The same of an open file: who held it by its handle must not meet another file that was
    /// renamed to its path meanwhile. `false`: it has no data.
    pub(crate) fn release_file(&self, file: &File, handle: &NodeHandle) -> anyhow::Result<bool> {
        let mut known = self.known.lock().unwrap();
        self.any_known.store(true, Ordering::SeqCst);
        let stub = Stub::of(file)?;
        if stub.runs.is_empty() {
            return Ok(false);
        }
        let ctime = times_of(&stat_of(file.as_fd())).1;
        let ctime = known.get(handle).map_or(ctime, |k| k.ctime_of(ctime));
        let blocks = stub.size.next_multiple_of(4096);
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, how, 0, blocks)?;
        set_mtime(file, stub.mtime);
        let caused = times_of(&stat_of(file.as_fd())).1;
        let now = Known {
            stub: Some(stub),
            ctime,
            caused,
        };
        known.insert(handle.clone(), now);
        Ok(true)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.lock().unwrap().len()
    }

    pub(crate) fn is_released(&self, handle: &NodeHandle) -> bool {
        let known = self.known.lock().unwrap();
        known.get(handle).is_some_and(|known| known.stub.is_some())
    }

    /// mtime and ctime that users are to see of a file of the backing.
    pub(crate) fn times_shown(&self, path: &Path) -> anyhow::Result<(Time, Time)> {
        let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        let known = self.known.lock().unwrap();
        let (mtime, ctime) = times_of(&stat_of(file.as_fd()));
        let own = known.get(&NodeHandle::of(&file)?);
        Ok((mtime, own.map_or(ctime, |own| own.ctime_of(ctime))))
    }

    /// Serves those who wait for reads, without bringing the file back; brings back what is to be
    /// changed.
    pub(crate) fn stream(&self) {
        let all: Vec<_> = self.waiting.lock().unwrap().drain().collect();
        for (token, waiting) in all {
            match waiting {
                Waiting::Read(handle, fd, offset, len, done) => {
                    done(Ok(self.bytes(&handle, fd.as_fd(), offset, len)))
                }
                Waiting::Fetch(_, _, done) if self.in_vain.load(Ordering::Relaxed) > 0 => {
                    self.in_vain.fetch_sub(1, Ordering::Relaxed);
                    done(Ok(()));
                }
                Waiting::Fetch(handle, fd, done) => {
                    if self.restore_file(&handle, &open(fd.as_fd(), OFlags::WRONLY)) {
                        done(Ok(()));
                    } else {
                        let again = Waiting::Fetch(handle, fd, done);
                        self.waiting.lock().unwrap().insert(token, again);
                    }
                }
            }
        }
    }

    fn bytes(&self, handle: &NodeHandle, fd: BorrowedFd<'_>, offset: u64, len: u32) -> Vec<u8> {
        let known = self.known.lock().unwrap();
        if let Some(stub) = known.get(handle).and_then(|known| known.stub.as_ref()) {
            return stub.bytes(offset, len);
        }
        drop(known);
        let mut data = vec![0; len as usize];
        let count = open(fd, OFlags::RDONLY).read_at(&mut data, offset).unwrap();
        data.truncate(count);
        data
    }

    /// Writes a file's data back, and only then calls it resident.
    pub(crate) fn restore(&self, handle: &NodeHandle) {
        let root = File::open(&*self.backing.lock().unwrap()).unwrap();
        let file = File::from(handle.open(root, libc::O_WRONLY).unwrap());
        assert!(self.restore_file(handle, &file), "it is being cut");
    }

    /// In P4's order, but that no crash can come in between. `false`: the file is being cut.
    fn restore_file(&self, handle: &NodeHandle, file: &File) -> bool {
        let mut known = self.known.lock().unwrap();
        if self
            .held
            .lock()
            .unwrap()
            .values()
            .any(|held| held == handle)
        {
            return false;
        }
        if let Some(known) = known.get_mut(handle)
            && let Some(stub) = known.stub.take()
        {
            let ctime = known.ctime_of(times_of(&stat_of(file.as_fd())).1);
            for (start, data) in &stub.runs {
                file.write_all_at(data, *start).unwrap();
            }
            set_mtime(file, stub.mtime);
            known.ctime = ctime;
            known.caused = times_of(&stat_of(file.as_fd())).1;
        }
        drop(known);
        if let Some(gate) = self.gate.get() {
            gate.changed(handle);
        }
        true
    }

    pub(crate) fn events_of(&self, kind: EventKind) -> Vec<Event> {
        let events = self.events.lock().unwrap();
        events.iter().filter(|e| e.kind == kind).cloned().collect()
    }

    fn token(&self) -> u64 {
        self.tokens.fetch_add(1, Ordering::Relaxed)
    }

    fn wait(&self, waiting: Waiting) -> WaitToken {
        let token = self.token();
        self.waiting.lock().unwrap().insert(token, waiting);
        WaitToken(token)
    }

    /// What users did to a file's status is what it has from now on.
    fn take_over(known: &mut HashMap<NodeHandle, Known>, file: FileRef<'_>) {
        if let Some(known) = known.get_mut(file.handle) {
            let (mtime, ctime) = times_of(&stat_of(file.fd));
            (known.ctime, known.caused) = (ctime, ctime);
            if let Some(stub) = &mut known.stub {
                stub.mtime = mtime;
            }
        }
    }
}

impl Residency for Fake {
    fn presence(&self, file: FileRef<'_>) -> Presence {
        if self.is_released(file.handle) {
            Presence::Released
        } else {
            Presence::Resident
        }
    }
    fn shown(&self, file: FileRef<'_>, stat: &Statx) -> Shown {
        let meanwhile = self.meanwhile.lock().unwrap().take();
        meanwhile.into_iter().for_each(|happens| happens());
        let known = self.known.lock().unwrap();
        let Some(known) = known.get(file.handle) else {
            return Shown::default();
        };
        Shown {
            ctime: Some(known.ctime_of(times_of(stat).1)),
            mtime: known.stub.as_ref().map(|stub| stub.mtime),
            at_least_one_block: known.stub.is_some(),
            ..Shown::default()
        }
    }
    fn shows_as_is(&self, stat: &Statx) -> bool {
        self.looked.fetch_add(1, Ordering::SeqCst);
        // As the real one: a stub has no blocks, but so has an empty file.
        !self.any_known.load(Ordering::SeqCst) && (stat.stx_blocks > 0 || stat.stx_size == 0)
    }
    fn read(
        &self,
        file: FileRef<'_>,
        offset: u64,
        len: u32,
        _caller: Caller,
        done: ReadDone,
    ) -> WaitToken {
        if !self.is_released(file.handle) {
            done(Ok(self.bytes(file.handle, file.fd, offset, len)));
            return WaitToken(u64::MAX);
        }
        let fd = file.fd.try_clone_to_owned().unwrap();
        self.wait(Waiting::Read(file.handle.clone(), fd, offset, len, done))
    }
    fn fetch(
        &self,
        file: FileRef<'_>,
        keep: Option<u64>,
        _caller: Caller,
        done: WaitDone,
    ) -> WaitToken {
        if keep == Some(0) {
            // A recall that runs holds the lock, so it is over when the hold is entered.
            let turn = self.known.lock().unwrap();
            let token = self.token();
            let handle = file.handle.clone();
            self.held.lock().unwrap().insert(token, handle);
            drop(turn);
            done(Ok(()));
            return WaitToken(token);
        }
        let fd = file.fd.try_clone_to_owned().unwrap();
        self.wait(Waiting::Fetch(file.handle.clone(), fd, done))
    }
    fn give_up(&self, token: WaitToken) {
        if self.held.lock().unwrap().remove(&token.0).is_some() {
            return;
        }
        if self.waiting.lock().unwrap().remove(&token.0).is_some() {
            self.given_up.fetch_add(1, Ordering::Relaxed);
        }
    }
    fn seek(&self, file: FileRef<'_>, offset: u64, data: bool) -> Result<u64, Errno> {
        let known = self.known.lock().unwrap();
        if let Some(stub) = known.get(file.handle).and_then(|known| known.stub.as_ref()) {
            return stub.seek(offset, data);
        }
        // It came back since it was asked for.
        let to = if data {
            SeekFrom::Data(offset)
        } else {
            SeekFrom::Hole(offset)
        };
        let file = open(file.fd, OFlags::RDONLY);
        rustix::fs::seek(file, to).map_err(|e| Errno(e.raw_os_error()))
    }
    fn truncated(&self, file: FileRef<'_>) -> Result<(), Errno> {
        self.known.lock().unwrap().remove(file.handle);
        Ok(())
    }
    fn is_private(&self, name: &OsStr) -> bool {
        name.as_bytes().starts_with(b"trusted.cairn")
    }
    fn attribute(
        &self,
        _file: FileRef<'_>,
        name: &OsStr,
        _caller: Caller,
    ) -> Option<Result<Vec<u8>, Errno>> {
        (name == "user.cairn.state").then(|| {
            self.asked.fetch_add(1, Ordering::SeqCst);
            drop(self.silence.lock());
            Ok(b"exists".to_vec())
        })
    }
    fn attribute_may_wait(&self, name: &OsStr) -> bool {
        name == "user.cairn.state"
    }
    fn set_attribute(
        &self,
        _file: FileRef<'_>,
        name: &OsStr,
        _value: &[u8],
        _caller: Caller,
    ) -> Option<Result<(), Errno>> {
        (name == "user.cairn.state").then_some(Err(Errno(libc::EPERM)))
    }
    /// In the turn: a release or recall would put the old one back.
    fn set_times(&self, file: FileRef<'_>, times: &Timestamps) -> Option<Result<(), Errno>> {
        let mut known = self.known.lock().unwrap();
        let flags = rustix::fs::AtFlags::empty();
        let set = rustix::fs::utimensat(rustix::fs::CWD, proc_path(file.fd), times, flags);
        Self::take_over(&mut known, file);
        Some(set.map_err(|e| Errno(e.raw_os_error())))
    }
    fn changed(&self, file: FileRef<'_>, _what: Changed) {
        Self::take_over(&mut self.known.lock().unwrap(), file);
    }
    fn note(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }
}
