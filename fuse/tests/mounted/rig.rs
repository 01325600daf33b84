//! A mirror over a temporary directory, and a residency whose files are released and brought
//! back when the test says so.

use cairn_fuse::{
    Caller, Errno, Event, EventKind, FileRef, Gate, Mirror, MirrorConfig, NodeHandle, Presence,
    ReadDone, Residency, Shown, WaitDone, WaitToken,
};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

pub(crate) type TestResult = anyhow::Result<()>;

/// Why real mounts cannot be made here.
pub(crate) fn cannot_mount() -> Option<&'static str> {
    if !Path::new("/dev/fuse").exists() {
        return Some("there is no /dev/fuse");
    }
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    None
}

/// Leaves the test, saying so, where mounts cannot be made.
macro_rules! need_mount {
    ($name:literal) => {
        if let Some(why) = crate::rig::cannot_mount() {
            eprintln!("SKIPPED {}: {why}", $name);
            return Ok(());
        }
    };
}
pub(crate) use need_mount;

/// Waits for a condition, with a bound that only a hang reaches.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(120);
    while !condition() {
        assert!(Instant::now() < until, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// With a descriptor of the inode: it may lose its last name meanwhile, and be open all the same.
enum Waiting {
    Read(NodeHandle, OwnedFd, u64, u32, ReadDone),
    Fetch(NodeHandle, OwnedFd, WaitDone),
}

/// Opens the inode behind an `O_PATH` descriptor.
fn open(fd: BorrowedFd<'_>, flags: OFlags) -> File {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    File::from(rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap())
}

/// Files are resident unless [`Fake::release`]d; who needs a released file waits until
/// [`Fake::recall`].
#[derive(Default)]
pub(crate) struct Fake {
    released: Mutex<HashMap<NodeHandle, Vec<u8>>>,
    waiting: Mutex<HashMap<u64, Waiting>>,
    tokens: AtomicU64,
    pub(crate) given_up: AtomicU64,
    pub(crate) events: Mutex<Vec<Event>>,
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
    /// Takes a file's data away, as a release does: same size, no blocks.
    pub(crate) fn release(&self, backing_path: &Path) -> anyhow::Result<NodeHandle> {
        self.release_file(&File::options().read(true).write(true).open(backing_path)?)
    }

    /// The same of an open file: who held it by its handle must not meet another file that was
    /// renamed to its path meanwhile.
    fn release_file(&self, mut file: &File) -> anyhow::Result<NodeHandle> {
        let mut data = Vec::new();
        file.read_to_end(&mut data)?;
        let handle = NodeHandle::of(file)?;
        let blocks = (data.len() as u64).next_multiple_of(4096).max(4096);
        self.released.lock().unwrap().insert(handle.clone(), data);
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(file, how, 0, blocks)?;
        Ok(handle)
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.lock().unwrap().len()
    }

    pub(crate) fn is_released(&self, handle: &NodeHandle) -> bool {
        self.released.lock().unwrap().contains_key(handle)
    }

    /// Serves those who wait for reads, without bringing the file back.
    pub(crate) fn stream(&self) {
        let all: Vec<Waiting> = self
            .waiting
            .lock()
            .unwrap()
            .drain()
            .map(|(_, w)| w)
            .collect();
        for waiting in all {
            match waiting {
                Waiting::Read(handle, fd, offset, len, done) => {
                    done(Ok(self.bytes(&handle, fd.as_fd(), offset, len)))
                }
                Waiting::Fetch(_, _, done) if self.in_vain.load(Ordering::Relaxed) > 0 => {
                    self.in_vain.fetch_sub(1, Ordering::Relaxed);
                    done(Ok(()));
                }
                Waiting::Fetch(handle, fd, done) => {
                    self.restore_file(&handle, &open(fd.as_fd(), OFlags::WRONLY));
                    if let Some(gate) = self.gate.get() {
                        gate.changed(&handle);
                    }
                    done(Ok(()));
                }
            }
        }
    }

    fn bytes(&self, handle: &NodeHandle, fd: BorrowedFd<'_>, offset: u64, len: u32) -> Vec<u8> {
        let released = self.released.lock().unwrap();
        if let Some(data) = released.get(handle) {
            let from = (offset as usize).min(data.len());
            let to = (from + len as usize).min(data.len());
            return data[from..to].to_vec();
        }
        drop(released);
        let mut data = vec![0; len as usize];
        let file = open(fd, OFlags::RDONLY);
        let count = std::os::unix::fs::FileExt::read_at(&file, &mut data, offset).unwrap();
        data.truncate(count);
        data
    }

    /// Writes a file's data back, and only then calls it resident.
    pub(crate) fn restore(&self, handle: &NodeHandle) {
        let root = File::open(&*self.backing.lock().unwrap()).unwrap();
        self.restore_file(
            handle,
            &File::from(handle.open(root, libc::O_WRONLY).unwrap()),
        );
    }

    fn restore_file(&self, handle: &NodeHandle, file: &File) {
        let data = self.released.lock().unwrap().get(handle).cloned();
        if let Some(data) = data {
            std::os::unix::fs::FileExt::write_all_at(file, &data, 0).unwrap();
            self.released.lock().unwrap().remove(handle);
        }
    }

    pub(crate) fn events_of(&self, kind: EventKind) -> Vec<Event> {
        let events = self.events.lock().unwrap();
        events.iter().filter(|e| e.kind == kind).cloned().collect()
    }

    fn wait(&self, waiting: Waiting) -> WaitToken {
        let token = self.tokens.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().unwrap().insert(token, waiting);
        WaitToken(token)
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
    fn shown(&self, file: FileRef<'_>, _stat: &rustix::fs::Statx) -> Shown {
        let meanwhile = self.meanwhile.lock().unwrap().take();
        meanwhile.into_iter().for_each(|happens| happens());
        Shown {
            at_least_one_block: self.is_released(file.handle),
            ..Shown::default()
        }
    }
    fn shows_as_is(&self, stat: &rustix::fs::Statx) -> bool {
        // As the real one: a stub has no blocks, but so has an empty file.
        stat.stx_blocks > 0 || stat.stx_size == 0
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
            // A hold before a cut: this fake has no recall that could write behind it.
            done(Ok(()));
            return WaitToken(0);
        }
        let fd = file.fd.try_clone_to_owned().unwrap();
        self.wait(Waiting::Fetch(file.handle.clone(), fd, done))
    }
    fn give_up(&self, token: WaitToken) {
        if self.waiting.lock().unwrap().remove(&token.0).is_some() {
            self.given_up.fetch_add(1, Ordering::Relaxed);
        }
    }
    fn seek(&self, file: FileRef<'_>, offset: u64, data: bool) -> Result<u64, Errno> {
        let released = self.released.lock().unwrap();
        let size = released.get(file.handle).map_or(0, |d| d.len() as u64);
        if offset >= size {
            return Err(Errno(libc::ENXIO));
        }
        Ok(if data { offset } else { size })
    }
    fn truncated(&self, file: FileRef<'_>) {
        self.released.lock().unwrap().remove(file.handle);
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
    fn note(&self, event: Event) {
        self.events.lock().unwrap().push(event);
    }
}

/// A mounted mirror; unmounts and removes everything when dropped.
pub(crate) struct Rig {
    pub(crate) mirror: Option<Mirror>,
    pub(crate) fake: Arc<Fake>,
    dir: tempfile::TempDir,
}

impl Rig {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut MirrorConfig)) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let fake = Arc::new(Fake::default());
        *fake.backing.lock().unwrap() = dir.path().join("b");
        for name in ["b", "m"] {
            std::fs::create_dir(dir.path().join(name))?;
        }
        // Others shall be able to come in.
        for path in [dir.path().to_owned(), dir.path().join("b")] {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        }
        let mut config =
            MirrorConfig::new(dir.path().join("b"), dir.path().join("m"), fake.clone());
        change(&mut config);
        let mirror = Mirror::start(config)?;
        let _ = fake.gate.set(mirror.gate());
        let mirror = Some(mirror);
        Ok(Self { mirror, fake, dir })
    }

    /// A path through the mount.
    pub(crate) fn m(&self, name: &str) -> PathBuf {
        self.dir.path().join("m").join(name)
    }
    /// The same path in the backing.
    pub(crate) fn b(&self, name: &str) -> PathBuf {
        self.dir.path().join("b").join(name)
    }
    pub(crate) fn mirror(&self) -> &Mirror {
        self.mirror.as_ref().unwrap()
    }
    /// Releases a file unless somebody uses it.
    pub(crate) fn try_release(&self, name: &str) -> anyhow::Result<bool> {
        let Ok(file) = File::options().read(true).write(true).open(self.b(name)) else {
            return Ok(false);
        };
        let handle = NodeHandle::of(&file)?;
        if self.fake.is_released(&handle) {
            return Ok(false);
        }
        let Some(_hold) = self.mirror().gate().hold(&handle) else {
            return Ok(false);
        };
        self.fake.release_file(&file)?;
        self.mirror().gate().changed(&handle);
        Ok(true)
    }
    /// A file made through the mount, then released.
    pub(crate) fn released(&self, name: &str, data: &[u8]) -> anyhow::Result<NodeHandle> {
        std::fs::write(self.m(name), data)?;
        let handle = NodeHandle::of(File::open(self.b(name))?)?;
        let mut hold = None;
        eventually("RELEASE arrives", || {
            hold = self.mirror().gate().hold(&handle);
            hold.is_some()
        });
        self.fake.release(&self.b(name))?;
        self.mirror().gate().changed(&handle);
        Ok(handle)
    }
}

/// Bytes that differ from offset to offset.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 256 + 7) as u8).collect()
}

/// A child that is killed and reaped when the test ends.
pub(crate) struct Child(pub(crate) std::process::Child);

impl Child {
    pub(crate) fn spawn(program: &str, args: &[&OsStr]) -> anyhow::Result<Self> {
        Ok(Self(
            // Who runs the tests in the background has them ignore SIGINT, and so their children.
            std::process::Command::new("env")
                .args(["--default-signal=INT", program])
                .args(args)
                .stdin(std::process::Stdio::null())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()?,
        ))
    }
    pub(crate) fn signal(&self, signal: i32) {
        let pid = rustix::process::Pid::from_raw(self.0.id() as i32).unwrap();
        let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }
    pub(crate) fn ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
