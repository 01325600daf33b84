//! Two directories and a socket; whatever is mounted and whoever runs goes with them.

use anyhow::Context;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Only a hang reaches it.
const BOUND: Duration = Duration::from_secs(120);

pub(crate) struct Place {
    dir: tempfile::TempDir,
    holders: std::sync::Mutex<Vec<i32>>,
}

impl Place {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("b"))?;
        fs::create_dir(dir.path().join("m"))?;
        Ok(Self {
            dir,
            holders: std::sync::Mutex::default(),
        })
    }
    /// A path in the backing.
    pub(crate) fn b(&self, name: &str) -> PathBuf {
        self.dir.path().join("b").join(name)
    }
    /// A path in the mount.
    pub(crate) fn m(&self, name: &str) -> PathBuf {
        self.dir.path().join("m").join(name)
    }
    pub(crate) fn socket(&self) -> PathBuf {
        // Found again by its name among all sockets of the machine.
        let own = self.dir.path().file_name().unwrap_or_default();
        let name = format!("holder{}", own.to_string_lossy());
        self.dir.path().join(name)
    }
    pub(crate) fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        mounts.contains(&*self.dir.path().join("m").to_string_lossy())
    }
    pub(crate) fn unmount(&self) -> anyhow::Result<()> {
        Ok(unmount(self.dir.path().join("m"), UnmountFlags::empty())?)
    }

    fn start(&self, words: &[&str], errors: Stdio) -> anyhow::Result<Child> {
        Ok(Command::new(std::env::current_exe()?)
            .arg("serve")
            .args([self.dir.path().join("b"), self.dir.path().join("m")])
            .arg(self.socket())
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()?)
    }

    /// A server that serves: the first, or one that took over.
    pub(crate) fn server(&self, words: &[&str]) -> anyhow::Result<Server> {
        let mut child = self.start(words, Stdio::inherit())?;
        let out = child.stdout.take().context("no output")?;
        let (tell, said) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let mut server = Server {
            child,
            said,
            predecessors: 0,
            holder: None,
        };
        let first = server.said.recv_timeout(BOUND).context("a server starts")?;
        let count = first.strip_prefix("ready ").context("not ready")?;
        server.predecessors = count.parse()?;
        server.holder = holder_of(&self.socket(), &server).ok();
        if let Ok(mut holders) = self.holders.lock() {
            holders.extend(server.holder);
        }
        Ok(server)
    }

    /// What a server says that does not start.
    pub(crate) fn refused(&self, words: &[&str]) -> anyhow::Result<String> {
        let child = self.start(words, Stdio::piped())?;
        let output = child.wait_with_output()?;
        anyhow::ensure!(!output.status.success(), "it started");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let holders = self.holders.get_mut().map(std::mem::take);
        for holder in holders.unwrap_or_default() {
            if is_mounter(holder)
                && let Some(pid) = Pid::from_raw(holder)
            {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        while unmount(self.dir.path().join("m"), UnmountFlags::DETACH).is_ok() {}
    }
}

/// The holder: the server's child, or the process that has the listening socket.
fn holder_of(socket: &Path, server: &Server) -> anyhow::Result<i32> {
    let id = server.child.id();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
    if let Some(first) = children.split_whitespace().next() {
        return Ok(first.parse()?);
    }
    let table = fs::read_to_string("/proc/net/unix")?;
    let name = socket.file_name().unwrap_or_default().to_string_lossy();
    // The address is a way through a descriptor: the socket's own number tells.
    let inodes: Vec<_> = table
        .lines()
        .filter(|line| line.ends_with(&*name))
        .filter_map(|line| line.split_whitespace().nth(6))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let has = |pid: i32| {
            let fds = fs::read_dir(format!("/proc/{pid}/fd")).ok();
            fds.into_iter().flatten().flatten().any(|fd| {
                let to = fs::read_link(fd.path()).unwrap_or_default();
                inodes.iter().any(|inode| to == Path::new(inode))
            })
        };
        if is_mounter(pid) && has(pid) {
            return Ok(pid);
        }
    }
    anyhow::bail!("no holder")
}

fn is_mounter(pid: i32) -> bool {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim() == "cairn-mounter"
}

pub(crate) struct Server {
    child: Child,
    said: Receiver<String>,
    pub(crate) predecessors: u64,
    holder: Option<i32>,
}

impl Server {
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
    /// Waits until it has died by itself.
    pub(crate) fn dies(&mut self) -> anyhow::Result<()> {
        use std::os::unix::process::ExitStatusExt;
        let mut status = None;
        eventually("the server dies", || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        anyhow::ensure!(status.and_then(|s| s.signal()) == Some(libc::SIGKILL));
        Ok(())
    }
    /// Waits until it has ended in good order.
    pub(crate) fn ends(&mut self) -> anyhow::Result<()> {
        let mut status = None;
        eventually("the server ends", || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        });
        anyhow::ensure!(status.is_some_and(|s| s.success()), "{status:?}");
        Ok(())
    }
    pub(crate) fn is_dead(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }
    pub(crate) fn stop(&self) -> anyhow::Result<()> {
        let pid = Pid::from_raw(self.child.id() as i32).context("no process")?;
        kill_process(pid, Signal::STOP)?;
        eventually("the server stops", || {
            let id = self.child.id();
            let tasks = fs::read_dir(format!("/proc/{id}/task")).ok();
            tasks.into_iter().flatten().flatten().all(|task| {
                let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
                stat.rsplit_once(") ")
                    .is_some_and(|(_, s)| s.starts_with('T'))
            })
        });
        Ok(())
    }
    pub(crate) fn tell(&mut self, word: &str) -> anyhow::Result<()> {
        let mut stdin = self.child.stdin.take().context("told already")?;
        Ok(writeln!(stdin, "{word}")?)
    }
    /// Waits until it has said each of these.
    pub(crate) fn hears(&self, words: &[&str]) -> anyhow::Result<()> {
        let mut missing = words.to_vec();
        while !missing.is_empty() {
            let said = self.said.recv_timeout(BOUND);
            let said = said.with_context(|| format!("{missing:?}"))?;
            missing.retain(|word| *word != said);
        }
        Ok(())
    }
    pub(crate) fn holder(&self) -> anyhow::Result<i32> {
        self.holder.context("no holder")
    }
    pub(crate) fn holder_is_gone(&self) -> bool {
        self.holder
            .is_none_or(|pid| !is_mounter(pid) || is_zombie(pid))
    }
}

fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_none_or(|(_, s)| s.starts_with('Z'))
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + BOUND;
    while !condition() {
        assert!(Instant::now() < until, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs what would hang for ever if nobody served.
pub(crate) fn bounded<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(work);
        let until = Instant::now() + BOUND;
        while !thread.is_finished() {
            if Instant::now() > until {
                // Nobody can end that thread any more.
                eprintln!("a request was never answered");
                std::process::abort();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The same for a thread that was begun before.
pub(crate) fn join<T: Send + 'static>(thread: JoinHandle<T>) -> T {
    bounded(move || match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Another way to the same open file.
pub(crate) fn way_of(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

pub(crate) fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Aborts a connection as an administrator would. `false`: the kernel has no such files.
pub(crate) fn abort(place: &Place, number: u32) -> anyhow::Result<bool> {
    let control = place.dir.path().join("control");
    fs::create_dir(&control)?;
    let flags = rustix::mount::MountFlags::empty();
    if rustix::mount::mount("none", &control, "fusectl", flags, None).is_err() {
        return Ok(false);
    }
    let done = fs::write(control.join(number.to_string()).join("abort"), "1");
    unmount(&control, UnmountFlags::DETACH)?;
    done?;
    Ok(true)
}

/// Makes the ledger such as a server leaves it that dies a little earlier: no intent has an
/// outcome. (The layout: 64 words, then intents of 8 words, whose fifth is the outcome.)
pub(crate) fn forget_outcomes(holder: i32) -> anyhow::Result<()> {
    for entry in fs::read_dir(format!("/proc/{holder}/fd"))? {
        let path = entry?.path();
        let to = fs::read_link(&path).unwrap_or_default();
        if !to.to_string_lossy().contains("cairn-ledger") {
            continue;
        }
        let memory = File::options().read(true).write(true).open(&path)?;
        let mut forgotten = 0;
        for intent in 0..8192_u64 {
            let at = (64 + intent * 8 + 4) * 8;
            let mut word = [0; 8];
            memory.read_exact_at(&mut word, at)?;
            forgotten += usize::from(word != [0; 8]);
            memory.write_all_at(&[0; 8], at)?;
        }
        anyhow::ensure!(forgotten > 0, "there was no outcome to forget");
        return Ok(());
    }
    anyhow::bail!("the holder has no ledger")
}
