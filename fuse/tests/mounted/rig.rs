//! A mirror over a temporary directory, whose files are released and brought back when the test
//! says so.

use crate::fake::Fake;
use crate::sys::Lease;
use cairn_fuse::{Mirror, MirrorConfig, NodeHandle};
use rustix::fs::{Mode, OFlags};
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
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
        fake.lies_in(dir.path().join("b"));
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
        fake.tells(mirror.gate());
        let mirror = Some(mirror);
        Ok(Self { mirror, fake, dir })
    }

    /// Does `work` while `count` reads of released files wait, each of the file that `name` gives
    /// and by a thread of its own; then they are served, and have to see `data`.
    pub(crate) fn while_reads_wait<T>(
        &self,
        count: usize,
        name: impl Fn(usize) -> String,
        data: &[u8],
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..count)
                .map(|i| {
                    let path = self.m(&name(i));
                    std::thread::Builder::new()
                        .stack_size(128 << 10)
                        .spawn_scoped(scope, move || std::fs::read(path))
                })
                .collect::<Result<_, _>>()?;
            eventually("all wait", || self.fake.waiting() >= count);
            let done = work();
            let waited = self.fake.waiting();
            eventually("all are served", || {
                self.fake.stream();
                readers
                    .iter()
                    .all(std::thread::ScopedJoinHandle::is_finished)
            });
            for reader in readers {
                assert!(reader.join().unwrap()? == data);
            }
            assert!(waited >= count, "they waited all the while");
            done
        })
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
    /// Releases a file in P3's order, unless somebody uses it or that would free nothing.
    pub(crate) fn try_release(&self, name: &str) -> anyhow::Result<bool> {
        let flags = OFlags::RDWR | OFlags::NOATIME | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let Ok(file) = rustix::fs::open(self.b(name), flags | OFlags::CLOEXEC, Mode::empty())
        else {
            return Ok(false);
        };
        let file = File::from(file);
        let handle = NodeHandle::of(&file)?;
        if self.fake.is_released(&handle) {
            return Ok(false);
        }
        let Some(_hold) = self.mirror().gate().hold(&handle) else {
            return Ok(false);
        };
        // A mapping outlives its RELEASE.
        let Some(_lease) = Lease::take(&file) else {
            return Ok(false);
        };
        if !self.fake.release_file(&file, &handle)? {
            return Ok(false);
        }
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

/// A child that holds a read lease on a file of the backing, and lets go and ends when it is told that
/// somebody opens it to write.
pub(crate) fn leased(rig: &Rig, name: &str) -> anyhow::Result<Child> {
    let script = "import fcntl,os,signal,sys,time\n\
        fd=os.open(sys.argv[1], os.O_RDONLY)\n\
        signal.signal(signal.SIGIO, lambda *_: None)\n\
        while True:\n    try:\n        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK); break\n\
        \x20   except OSError: time.sleep(0.01)\n\
        open(sys.argv[2], 'w').close()\n\
        signal.pause()\n\
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)\n";
    let (file, flag) = (rig.b(name), rig.b("leased"));
    let args = [
        OsStr::new("-c"),
        OsStr::new(script),
        file.as_os_str(),
        flag.as_os_str(),
    ];
    let holder = Child::spawn("python3", &args)?;
    eventually("the lease is held", || flag.exists());
    Ok(holder)
}

/// Bytes that differ from offset to offset.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 256 + 7) as u8).collect()
}

/// Runs a Python program that is given a file's path.
pub(crate) fn python(script: &str, path: &Path) -> TestResult {
    let mut command = std::process::Command::new("python3");
    let status = command.args(["-c", script]).arg(path).status()?;
    anyhow::ensure!(status.success(), "{script}");
    Ok(())
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
