//! Record locks of a shared backing while servers die and others take over.

use crate::place::{Place, bounded, descriptors, eventually};
use anyhow::Context;
use rustix::fs::{FlockOperation, fcntl_lock};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The process that locks: with its file open it does what its input says, and tells how that
/// went. (One that holds a file of the mount cannot start a server while there is none: what it
/// starts would close the file, and wait.)
pub(crate) fn obey(args: &[String]) -> anyhow::Result<()> {
    let path = args.first().context("no file")?;
    let mut file = Some(File::options().read(true).write(true).open(path)?);
    let mut many = Vec::new();
    println!("open");
    for order in std::io::stdin().lines() {
        let how = match &*order? {
            "lock" => FlockOperation::NonBlockingLockExclusive,
            "wait" => FlockOperation::LockExclusive,
            "unlock" => FlockOperation::Unlock,
            "own" => {
                let done = lock_open_file(file.as_ref().context("closed")?, 0, 0);
                println!("{}", if done { "ok" } else { "refused" });
                continue;
            }
            "many" => {
                many = open_many(path)?;
                println!("ok");
                continue;
            }
            "look" => {
                let good = many.iter().all(|(_, nameless)| is_whole(nameless));
                println!("{}", if good { "ok" } else { "lost" });
                continue;
            }
            _ => {
                (file, many) = (None, Vec::new());
                println!("ok");
                continue;
            }
        };
        let done = fcntl_lock(file.as_ref().context("closed")?, how);
        println!("{}", if done.is_ok() { "ok" } else { "refused" });
    }
    Ok(())
}

const MANY: i64 = 100;

/// Opens of the file, each with a lock on a byte of its own; beside each a file without a name.
fn open_many(path: &str) -> anyhow::Result<Vec<(File, File)>> {
    let how = || File::options().read(true).write(true).clone();
    let one = |number| {
        let file = how().open(path)?;
        anyhow::ensure!(lock_open_file(&file, number, 1), "no lock on {number}");
        let name = format!("{path}.{number}");
        let nameless = how().create_new(true).open(&name)?;
        nameless.write_all_at(b"whole", 0)?;
        fs::remove_file(name)?;
        Ok((file, nameless))
    };
    (0..MANY).map(one).collect()
}

fn is_whole(nameless: &File) -> bool {
    let mut text = [0; 5];
    let read = nameless.read_exact_at(&mut text, 0);
    let unnamed = nameless.metadata().is_ok_and(|stat| stat.nlink() == 0);
    read.is_ok() && &text == b"whole" && unnamed && nameless.write_all_at(b"whole", 0).is_ok()
}

/// A lock of the open file, not of the process; of no bytes: to the end.
#[allow(unsafe_code, reason = "no safe wrapper has locks of open files")]
fn lock_open_file(file: &File, first: i64, count: i64) -> bool {
    use std::os::fd::AsRawFd;
    // SAFETY: a `struct flock` may be all zeros: the whole file, from its beginning.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as _;
    (lock.l_start, lock.l_len) = (first, count);
    // SAFETY: the descriptor is open, and the lock a valid one.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) == 0 }
}

struct Locker {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Locker {
    fn at(path: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("locker")
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut locker = Self {
            orders: child.stdin.take().context("no input")?,
            answers: BufReader::new(child.stdout.take().context("no output")?),
            child,
        };
        anyhow::ensure!(locker.answer()? == "open");
        Ok(locker)
    }

    fn begin(&mut self, order: &str) -> anyhow::Result<()> {
        Ok(writeln!(self.orders, "{order}")?)
    }

    fn answer(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        bounded(|| self.answers.read_line(&mut line))?;
        Ok(line.trim().to_owned())
    }

    fn does(&mut self, order: &str) -> anyhow::Result<bool> {
        self.begin(order)?;
        Ok(self.answer()? == "ok")
    }

    /// Is it in the system call that waits for a lock?
    fn is_waiting(&self) -> bool {
        // Number, descriptor, command.
        let call = fs::read_to_string(format!("/proc/{}/syscall", self.child.id()));
        let call = call.unwrap_or_default();
        call.starts_with(&format!("{} ", libc::SYS_fcntl))
            && call.contains(&format!(" {:#x} ", libc::F_SETLKW))
    }
}

impl Drop for Locker {
    fn drop(&mut self) {
        // It ends when its close is heard, which may be when the mount goes.
        let _ = self.child.kill();
        let _ = self.child.try_wait();
    }
}

pub(crate) fn record_locks_go_on(place: &Place) -> anyhow::Result<()> {
    fs::write(place.b("file"), b"data")?;
    let mut server = place.server(&["shared"])?;
    let holder = server.holder()?;
    let before = descriptors(holder);
    let mut inside = Locker::at(&place.m("file"))?;
    let mut below = Locker::at(&place.b("file"))?;
    assert!(inside.does("lock")?);
    eventually("the holder has it", || descriptors(holder) == before + 1);
    for _ in 0..2 {
        server.kill()?;
        assert!(!below.does("lock")?, "without any server");
        server = place.server(&["shared"])?;
        assert!(!below.does("lock")?, "with the next one");
        assert!(inside.does("lock")?, "its own");
    }
    assert!(inside.does("unlock")?);
    eventually("the holder lets it go", || descriptors(holder) == before);
    assert!(below.does("lock")?);
    assert!(!inside.does("lock")?);
    assert!(below.does("unlock")?);
    assert!(inside.does("lock")?);
    // It closes the file while nobody is there to hear it.
    server.kill()?;
    inside.begin("close")?;
    assert!(!below.does("lock")?);
    let _server = place.server(&["shared"])?;
    assert_eq!(inside.answer()?, "ok");
    assert!(below.does("lock")?);
    eventually("the holder lets it go", || descriptors(holder) == before);
    Ok(())
}

/// The successor begins with a soft limit that does not take them.
pub(crate) fn many_locks_and_nameless_files_go_on(place: &Place) -> anyhow::Result<()> {
    fs::write(place.b("file"), b"data")?;
    let mut server = place.server(&["shared"])?;
    let holder = server.holder()?;
    let before = descriptors(holder);
    let mut inside = Locker::at(&place.m("file"))?;
    let mut below = Locker::at(&place.b("file"))?;
    assert!(inside.does("many")?);
    let kept = before + 2 * usize::try_from(MANY)?;
    eventually("the holder has them", || descriptors(holder) == kept);
    for words in [&["shared", "few-descriptors"][..], &["shared"]] {
        server.kill()?;
        server = place.server(words)?;
        assert!(inside.does("look")?, "{words:?}");
        assert!(!below.does("lock")?, "{words:?}");
    }
    assert!(inside.does("close")?);
    eventually("all locks go", || below.does("lock").is_ok_and(|got| got));
    eventually("the holder lets all go", || descriptors(holder) == before);
    Ok(())
}

/// Never one of them in silence.
pub(crate) fn locks_that_do_not_fit_are_refused_as_a_whole(place: &Place) -> anyhow::Result<()> {
    fs::write(place.b("file"), b"data")?;
    let mut server = place.server(&["shared"])?;
    let mut inside = Locker::at(&place.m("file"))?;
    let mut below = Locker::at(&place.b("file"))?;
    assert!(inside.does("many")?);
    server.kill()?;
    let why = place.refused(&["shared", "never-more-descriptors"])?;
    assert!(why.contains("take it from its holder"), "{why}");
    let _server = place.server(&["shared"])?;
    assert!(inside.does("look")?);
    assert!(!below.does("lock")?);
    Ok(())
}

pub(crate) fn who_waits_for_a_record_lock_goes_on_waiting(place: &Place) -> anyhow::Result<()> {
    fs::write(place.b("file"), b"data")?;
    let mut server = place.server(&["shared"])?;
    let mut below = Locker::at(&place.b("file"))?;
    let mut inside = Locker::at(&place.m("file"))?;
    assert!(below.does("lock")?);
    inside.begin("wait")?;
    eventually("it waits", || inside.is_waiting());
    server.kill()?;
    let _server = place.server(&["shared"])?;
    assert!(inside.is_waiting());
    assert!(below.does("unlock")?);
    assert_eq!(inside.answer()?, "ok");
    assert!(!below.does("lock")?);
    Ok(())
}

/// The server dies when it has taken note of the last close, and has not unlocked yet.
pub(crate) fn a_record_lock_of_a_closed_open_is_not_taken_over(
    place: &Place,
) -> anyhow::Result<()> {
    fs::write(place.b("file"), b"data")?;
    let mut server = place.server(&["shared", "die-at", "Written"])?;
    let holder = server.holder()?;
    let before = descriptors(holder);
    let mut inside = Locker::at(&place.m("file"))?;
    let mut below = Locker::at(&place.b("file"))?;
    assert!(inside.does("own")?);
    assert!(!below.does("lock")?);
    assert!(inside.does("close")?);
    server.dies()?;
    let _server = place.server(&["shared"])?;
    assert!(below.does("lock")?);
    eventually("the holder lets it go", || descriptors(holder) == before);
    Ok(())
}

pub(crate) fn record_locks_of_the_dead_end_with_the_next_server(
    place: &Place,
) -> anyhow::Result<()> {
    fs::write(place.b("file"), b"data")?;
    let mut server = place.server(&["shared"])?;
    let mut below = Locker::at(&place.b("file"))?;
    let mut inside = Locker::at(&place.m("file"))?;
    assert!(inside.does("lock")?);
    server.kill()?;
    inside.child.kill()?;
    assert!(!below.does("lock")?, "its end waits to be heard");
    let _server = place.server(&["shared"])?;
    bounded(|| inside.child.wait())?;
    assert!(below.does("lock")?);
    Ok(())
}
