//! Record locks (`fcntl`) of a shared backing: they are seen through every mount of it, and by
//! and from who works on the backing itself.

use crate::disk::Disk;
use crate::rig::{Child, Rig, TestResult, eventually, leased, need_mount};
use anyhow::Context;
use cairn_fuse::{BackingDir, Passthrough};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// A process that locks what it is told to, and tells how that went: `ok`, an errno, or the lock
/// that is in the way. It calls the kernel directly: the language's own calls begin anew when they
/// are interrupted.
const LOCKER: &str = r"
import ctypes,errno,fcntl,os,signal,struct,sys,threading
libc=ctypes.CDLL(None, use_errno=True)
signal.signal(signal.SIGINT, lambda *_: None)
signal.siginterrupt(signal.SIGINT, True)
FORM='hhqqi4x'
KINDS={'r':fcntl.F_RDLCK,'w':fcntl.F_WRLCK,'u':fcntl.F_UNLCK}
CALLS={'lock':fcntl.F_SETLK,'wait':fcntl.F_SETLKW,'get':fcntl.F_GETLK,'own':fcntl.F_OFD_SETLK}
fds=[]
def call(fd,how,kind,first,count):
    record=ctypes.create_string_buffer(struct.pack(FORM,KINDS[kind],0,first,count,0))
    if libc.fcntl(fd,ctypes.c_int(CALLS[how]),record)<0:
        return errno.errorcode.get(ctypes.get_errno(), str(ctypes.get_errno()))
    if how!='get': return 'ok'
    kind,_,first,count,pid=struct.unpack(FORM,record.raw[:struct.calcsize(FORM)])
    kind=[k for k in KINDS if KINDS[k]==kind][0]
    return 'free' if kind=='u' else f'{kind} {first} {count} {pid}'
def obey(words):
    verb=words[0]
    if verb=='open': fds.append(os.open(words[1], os.O_RDWR if words[2]=='w' else os.O_RDONLY))
    elif verb=='close': os.close(fds[int(words[1])])
    elif verb=='fork-and-close':
        if os.fork()==0:
            os.close(fds[int(words[1])]); os._exit(0)
        os.wait()
    elif verb=='block': signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    elif verb=='thread': threading.Thread(target=tell, args=(words[1:],)).start()
    else: return call(fds[int(words[1])],verb,words[2],int(words[3]),int(words[4]))
    return 'ok'
def tell(words):
    answer=obey(words)
    sys.stdout.write(answer+'\n'); sys.stdout.flush()
for line in sys.stdin: tell(line.split())
";

pub(crate) struct Locker {
    child: Child,
    orders: ChildStdin,
    pub(crate) answers: Receiver<String>,
}

impl Locker {
    /// With the file open for writing, as its descriptor 0.
    pub(crate) fn at(path: &Path) -> anyhow::Result<Self> {
        Self::with(path, "w")
    }

    fn with(path: &Path, how: &str) -> anyhow::Result<Self> {
        let mut child = Command::new("python3")
            .args(["-c", LOCKER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().context("no input")?;
        let out = child.stdout.take().context("no output")?;
        let (tell, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let child = Child(child);
        let mut locker = Self {
            child,
            orders,
            answers,
        };
        locker.open(path, how)?;
        Ok(locker)
    }

    fn open(&mut self, path: &Path, how: &str) -> TestResult {
        let done = self.does(&format!("open {} {how}", path.display()))?;
        anyhow::ensure!(done == "ok", "{done}");
        Ok(())
    }

    fn begins(&mut self, order: &str) -> TestResult {
        Ok(writeln!(self.orders, "{order}")?)
    }

    /// With a bound that only a hang reaches.
    fn answers(&mut self) -> anyhow::Result<String> {
        let bound = std::time::Duration::from_secs(120);
        self.answers.recv_timeout(bound).context("no answer")
    }

    fn does(&mut self, order: &str) -> anyhow::Result<String> {
        self.begins(order)?;
        self.answers()
    }

    pub(crate) fn gets(&mut self, order: &str) -> anyhow::Result<bool> {
        match &*self.does(order)? {
            "ok" => Ok(true),
            "EAGAIN" | "EACCES" => Ok(false),
            other => anyhow::bail!("{order}: {other}"),
        }
    }

    /// Is one of its threads in the system call that waits for a lock?
    fn is_waiting(&self) -> bool {
        self.waiting() > 0
    }

    /// How many are?
    fn waiting(&self) -> usize {
        let waits = format!(" {:#x} ", libc::F_SETLKW);
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.0.id())).ok();
        let waiting = tasks.into_iter().flatten().flatten().filter(|task| {
            // Number, descriptor, command.
            let call = fs::read_to_string(task.path().join("syscall")).unwrap_or_default();
            call.starts_with(&format!("{} ", libc::SYS_fcntl)) && call.contains(&waits)
        });
        waiting.count()
    }

    /// Begins what cannot be done yet, and is there when it waits.
    pub(crate) fn waits(&mut self, order: &str) -> TestResult {
        self.begins(order)?;
        eventually("it waits in fcntl", || self.is_waiting());
        anyhow::ensure!(self.answers.try_recv().is_err(), "{order}: it did not wait");
        Ok(())
    }
}

/// Two mounts of one backing, with a file in it.
pub(crate) struct Both {
    pub(crate) one: Rig,
    pub(crate) two: Rig,
    disk: Disk,
}

impl Both {
    pub(crate) fn new(name: &str, passthrough: Passthrough) -> anyhow::Result<Option<Self>> {
        let Some(disk) = Disk::in_memory(name, "size=2m,mode=755") else {
            return Ok(None);
        };
        let shared = || {
            Rig::with(|c| {
                c.backing = BackingDir::Path(disk.backing());
                c.shared = true;
                c.passthrough = passthrough;
            })
        };
        let (one, two) = (shared()?, shared()?);
        fs::write(one.m("f"), b"0123456789")?;
        Ok(Some(Self { one, two, disk }))
    }

    /// The file, by its three ways.
    fn ways(&self) -> [PathBuf; 3] {
        [
            self.one.m("f"),
            self.two.m("f"),
            self.disk.backing().join("f"),
        ]
    }
}

#[test]
fn record_locks_are_seen_by_every_way_to_a_shared_backing() -> TestResult {
    const NAME: &str = "record_locks_are_seen_by_every_way_to_a_shared_backing";
    need_mount!("record_locks_are_seen_by_every_way_to_a_shared_backing");
    for passthrough in [Passthrough::Auto, Passthrough::Off] {
        let Some(both) = Both::new(NAME, passthrough)? else {
            return Ok(());
        };
        let ways = both.ways();
        let mut lockers = Vec::new();
        for way in ways.iter().chain(&ways) {
            lockers.push(Locker::at(way)?);
        }
        let (holders, others) = lockers.split_at_mut(3);
        for (holder, here) in holders.iter_mut().zip(&ways) {
            for (other, there) in others.iter_mut().zip(&ways) {
                let both = format!("{here:?} and {there:?}");
                shut_each_other_out(holder, other).context(both)?;
            }
        }
    }
    Ok(())
}

fn shut_each_other_out(holder: &mut Locker, other: &mut Locker) -> TestResult {
    let mut answers = Vec::new();
    // Whose order, which, and whether it is granted.
    for (own, order, granted) in [
        (true, "lock 0 w 2 3", true),
        (false, "lock 0 r 4 1", false),
        (false, "lock 0 w 0 3", false),
        (false, "lock 0 w 0 0", false),
        (false, "lock 0 w 5 0", true),
        (false, "lock 0 w 0 2", true),
        (true, "lock 0 r 1 1", false),
        (false, "lock 0 u 0 0", true),
        // A reader beside a reader, after a part of the writer's has become a reader's.
        (true, "lock 0 r 2 1", true),
        (false, "lock 0 r 2 1", true),
        (false, "lock 0 w 2 1", false),
        (false, "lock 0 r 3 1", false),
        // A part is given up.
        (true, "lock 0 u 2 1", true),
        (false, "lock 0 w 2 1", true),
        (false, "lock 0 u 0 0", true),
    ] {
        let who = if own { &mut *holder } else { &mut *other };
        let got = who.gets(order)?;
        answers.push((order, got));
        anyhow::ensure!(got == granted, "{answers:?}");
    }
    let found = other.does("get 0 r 0 0")?;
    anyhow::ensure!(found.starts_with("w 3 2 "), "{found}");
    anyhow::ensure!(other.does("get 0 w 5 0")? == "free", "behind it");
    anyhow::ensure!(holder.does("get 0 w 0 0")? == "free", "its own");
    anyhow::ensure!(holder.gets("lock 0 u 0 0")?);
    Ok(())
}

#[test]
fn a_record_locks_holder_is_named_within_a_mount() -> TestResult {
    need_mount!("a_record_locks_holder_is_named_within_a_mount");
    let rig = Rig::with(|c| c.shared = true)?;
    fs::write(rig.m("f"), b"data")?;
    let (mut holder, mut other) = (Locker::at(&rig.m("f"))?, Locker::at(&rig.m("f"))?);
    let mut below = Locker::at(&rig.b("f"))?;
    assert!(holder.gets("lock 0 w 0 1")?);
    assert!(below.gets("lock 0 r 3 1")?);
    let process = holder.child.0.id();
    assert_eq!(other.does("get 0 w 0 0")?, format!("w 0 1 {process}"));
    let process = below.child.0.id();
    assert_eq!(other.does("get 0 w 1 0")?, format!("r 3 1 {process}"));
    Ok(())
}

#[test]
fn who_waits_for_a_record_lock_gets_it_in_the_end() -> TestResult {
    const NAME: &str = "who_waits_for_a_record_lock_gets_it_in_the_end";
    need_mount!("who_waits_for_a_record_lock_gets_it_in_the_end");
    let Some(both) = Both::new(NAME, Passthrough::Auto)? else {
        return Ok(());
    };
    for here in both.ways() {
        let mut waiter = Locker::at(&both.one.m("f"))?;
        for end in ["lock 0 u 0 0", "close 0", "killed"] {
            let mut holder = Locker::at(&here)?;
            assert!(holder.gets("lock 0 w 0 0")?);
            waiter.waits("wait 0 w 0 0")?;
            if end == "killed" {
                drop(holder);
            } else {
                assert_eq!(holder.does(end)?, "ok");
            }
            assert_eq!(waiter.answers()?, "ok", "{here:?}: {end}");
            let mut late = Locker::at(&here)?;
            assert!(!late.gets("lock 0 r 9 1")?, "{here:?}: it has the lock");
            assert!(waiter.gets("lock 0 u 0 0")?);
            assert!(late.gets("lock 0 r 9 1")?, "{here:?}: it had the lock");
        }
    }
    Ok(())
}

#[test]
fn many_wait_for_one_record_lock_and_each_gets_it() -> TestResult {
    need_mount!("many_wait_for_one_record_lock_and_each_gets_it");
    const WAITERS: usize = 12;
    let rig = Rig::with(|c| c.shared = true)?;
    fs::write(rig.m("f"), b"data")?;
    let mut holder = Locker::at(&rig.m("f"))?;
    assert!(holder.gets("lock 0 w 0 0")?);
    let mut waiters = Vec::new();
    for _ in 0..WAITERS {
        let mut waiter = Locker::at(&rig.m("f"))?;
        waiter.waits("wait 0 w 0 0")?;
        waiters.push(waiter);
    }
    // Meanwhile nobody else waits.
    fs::write(rig.m("g"), b"other")?;
    assert!(holder.gets("lock 0 u 0 0")?);
    while !waiters.is_empty() {
        let mut first = None;
        eventually("one has it", || {
            first = waiters.iter().position(|w| w.answers.try_recv().is_ok());
            first.is_some()
        });
        let mut first = waiters.swap_remove(first.context("nobody")?);
        assert!(!holder.gets("lock 0 r 0 1")?, "it has the lock");
        // Only now can another one have it.
        let others = waiters.iter().any(|w| w.answers.try_recv().is_ok());
        assert!(!others, "two have it");
        assert!(first.gets("lock 0 u 0 0")?);
    }
    assert!(holder.gets("lock 0 w 0 0")?);
    Ok(())
}

#[test]
fn who_waits_for_a_record_lock_can_be_interrupted() -> TestResult {
    const NAME: &str = "who_waits_for_a_record_lock_can_be_interrupted";
    need_mount!("who_waits_for_a_record_lock_can_be_interrupted");
    let Some(both) = Both::new(NAME, Passthrough::Auto)? else {
        return Ok(());
    };
    for here in both.ways() {
        let mut holder = Locker::at(&here)?;
        assert!(holder.gets("lock 0 w 0 0")?);
        let mut waiter = Locker::at(&both.one.m("f"))?;
        waiter.waits("wait 0 w 0 0")?;
        waiter.child.signal(libc::SIGINT);
        assert_eq!(waiter.answers()?, "EINTR", "{here:?}");
        let mut killed = Locker::at(&both.one.m("f"))?;
        killed.waits("wait 0 w 0 0")?;
        killed.child.signal(libc::SIGKILL);
        eventually("it ends", || killed.child.ended());
        // Neither takes it when it is given up.
        assert!(holder.gets("lock 0 u 0 0")?);
        assert!(holder.gets("lock 0 w 0 0")?, "{here:?}");
        assert!(holder.gets("lock 0 u 0 0")?);
        // It was no end: the same process waits again, and gets it.
        assert!(waiter.gets("wait 0 w 0 0")?);
        assert!(!holder.gets("lock 0 r 0 1")?);
    }
    Ok(())
}

/// Two threads wait, and a signal comes for their process: it interrupts one of them.
#[test]
fn a_signal_interrupts_one_of_a_processs_waiting_threads() -> TestResult {
    need_mount!("a_signal_interrupts_one_of_a_processs_waiting_threads");
    let rig = Rig::with(|c| c.shared = true)?;
    fs::write(rig.m("f"), b"data")?;
    for first_blocks in [false, true] {
        let mut holder = Locker::at(&rig.b("f"))?;
        assert!(holder.gets("lock 0 w 0 0")?);
        let mut waiter = Locker::at(&rig.m("f"))?;
        assert_eq!(waiter.does("thread wait 0 w 0 0")?, "ok");
        eventually("a thread waits", || waiter.waiting() == 1);
        if first_blocks {
            assert_eq!(waiter.does("thread wait 0 w 0 0")?, "ok");
            eventually("two threads wait", || waiter.waiting() == 2);
            assert_eq!(waiter.does("block")?, "ok");
        } else {
            waiter.begins("wait 0 w 0 0")?;
        }
        eventually("two threads wait", || waiter.waiting() == 2);
        waiter.child.signal(libc::SIGINT);
        assert_eq!(waiter.answers()?, "EINTR", "{first_blocks}");
        assert_eq!(waiter.waiting(), 1, "{first_blocks}");
        assert!(holder.gets("lock 0 u 0 0")?);
        assert_eq!(waiter.answers()?, "ok", "{first_blocks}");
        assert!(!holder.gets("lock 0 r 0 1")?, "it has the lock");
    }
    Ok(())
}

#[test]
fn a_processs_record_locks_end_with_any_of_its_descriptors() -> TestResult {
    const NAME: &str = "a_processs_record_locks_end_with_any_of_its_descriptors";
    need_mount!("a_processs_record_locks_end_with_any_of_its_descriptors");
    let Some(both) = Both::new(NAME, Passthrough::Auto)? else {
        return Ok(());
    };
    let path = both.one.m("f");
    let mut other = Locker::at(&both.two.m("f"))?;
    let mut holder = Locker::at(&path)?;
    holder.open(&path, "r")?;
    assert!(holder.gets("lock 0 w 0 4")?);
    assert!(holder.gets("lock 1 r 6 1")?);
    // Another process's close of the same open is none of its own.
    assert_eq!(holder.does("fork-and-close 0")?, "ok");
    assert!(!other.gets("lock 0 r 0 1")?);
    assert!(!other.gets("lock 0 w 6 1")?);
    assert_eq!(holder.does("close 1")?, "ok");
    assert!(other.gets("lock 0 w 0 0")?);
    assert!(other.gets("lock 0 u 0 0")?);
    // What is locked afterwards stays, also when the RELEASE of the closed one comes late.
    assert!(holder.gets("lock 0 w 0 4")?);
    fs::write(both.one.m("g"), b"later")?;
    assert!(!other.gets("lock 0 r 0 1")?);
    drop(holder);
    assert!(other.gets("lock 0 w 0 0")?);
    Ok(())
}

#[test]
fn a_descriptions_record_locks_end_with_its_last_descriptor() -> TestResult {
    const NAME: &str = "a_descriptions_record_locks_end_with_its_last_descriptor";
    need_mount!("a_descriptions_record_locks_end_with_its_last_descriptor");
    let Some(both) = Both::new(NAME, Passthrough::Auto)? else {
        return Ok(());
    };
    let path = both.one.m("f");
    let mut other = Locker::at(&both.two.m("f"))?;
    let mut holder = Locker::at(&path)?;
    holder.open(&path, "w")?;
    assert!(holder.gets("own 0 w 0 4")?);
    assert!(!holder.gets("own 1 w 0 1")?, "of another description");
    assert_eq!(holder.does("close 1")?, "ok");
    assert_eq!(holder.does("fork-and-close 0")?, "ok");
    assert!(!other.gets("lock 0 r 0 1")?);
    assert_eq!(holder.does("close 0")?, "ok");
    // The kernel tells of that when it is done with it.
    eventually("the lock ends", || other.gets("lock 0 w 0 0").unwrap());
    Ok(())
}

/// One thread waits for a lock, another closes its descriptor: the lock that comes then has no
/// descriptor left by whose close it could end.
#[test]
fn a_record_lock_that_comes_after_its_close_does_not_stay() -> TestResult {
    const NAME: &str = "a_record_lock_that_comes_after_its_close_does_not_stay";
    need_mount!("a_record_lock_that_comes_after_its_close_does_not_stay");
    let Some(both) = Both::new(NAME, Passthrough::Auto)? else {
        return Ok(());
    };
    let mut holder = Locker::at(&both.two.m("f"))?;
    assert!(holder.gets("lock 0 w 0 0")?);
    let mut waiter = Locker::at(&both.one.m("f"))?;
    assert_eq!(waiter.does("thread wait 0 w 0 0")?, "ok");
    eventually("its thread waits", || waiter.is_waiting());
    assert_eq!(waiter.does("close 0")?, "ok");
    assert!(holder.gets("lock 0 u 0 0")?);
    let answer = waiter.answers()?;
    assert!(["ok", "EBADF"].contains(&&*answer), "{answer}");
    eventually("the lock goes", || holder.gets("lock 0 w 0 0").unwrap());
    Ok(())
}

/// Descriptors of the server (this process) on a file of that name such as it locks through.
fn descriptors_of(name: &str) -> usize {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten();
    let of_it = entries.flatten().filter(|entry| {
        let to = fs::read_link(entry.path()).unwrap_or_default();
        let info = Path::new("/proc/self/fdinfo").join(entry.file_name());
        let info = fs::read_to_string(info).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|f| i32::from_str_radix(f.trim(), 8).ok());
        to.file_name().is_some_and(|known| known == name)
            && flags.is_some_and(|f| f & libc::O_ACCMODE == libc::O_RDWR && f & libc::O_APPEND != 0)
    });
    of_it.count()
}

#[test]
fn record_locks_cost_a_descriptor_while_they_are_held() -> TestResult {
    const NAME: &str = "record_locks_cost_a_descriptor_while_they_are_held";
    need_mount!("record_locks_cost_a_descriptor_while_they_are_held");
    const HOLDERS: usize = 8;
    let rig = Rig::with(|c| c.shared = true)?;
    let path = rig.m(NAME);
    fs::write(&path, b"data")?;
    let count = || descriptors_of(NAME);
    assert_eq!(count(), 0, "before");
    let mut holders = Vec::new();
    for number in 0..HOLDERS {
        let mut holder = Locker::at(&path)?;
        for part in 0..20 {
            let at = number * 100 + part * 2;
            assert!(holder.gets(&format!("lock 0 w {at} 1"))?);
        }
        holders.push(holder);
        assert_eq!(count(), number + 1);
    }
    // Who does not get a lock, or only asks, has none.
    let mut other = Locker::at(&path)?;
    assert!(!other.gets("lock 0 w 0 1")?);
    assert_ne!(other.does("get 0 w 0 1")?, "free");
    other.waits("wait 0 w 0 1")?;
    other.child.signal(libc::SIGINT);
    assert_eq!(other.answers()?, "EINTR");
    eventually("it is not tried for any more", || count() == HOLDERS);
    for (number, holder) in holders.iter_mut().enumerate() {
        for part in (0..20).rev() {
            assert_eq!(count(), HOLDERS - number);
            let at = number * 100 + part * 2;
            assert!(holder.gets(&format!("lock 0 u {at} 1"))?);
        }
        assert_eq!(count(), HOLDERS - number - 1);
        assert!(holder.gets("lock 0 u 0 0")?, "of nothing");
    }
    for (end, holder) in ["close 0", "killed"].iter().zip(&mut holders) {
        assert!(holder.gets("lock 0 r 0 0")?);
        assert_eq!(count(), 1);
        match *end {
            "killed" => holder.child.signal(libc::SIGKILL),
            order => assert_eq!(holder.does(order)?, "ok"),
        }
        eventually("the descriptor goes", || count() == 0);
    }
    Ok(())
}

#[test]
fn a_record_lock_of_a_reader_is_a_readers() -> TestResult {
    need_mount!("a_record_lock_of_a_reader_is_a_readers");
    let rig = Rig::with(|c| c.shared = true)?;
    fs::write(rig.m("f"), b"data")?;
    let mut reader = Locker::with(&rig.m("f"), "r")?;
    assert_eq!(reader.does("lock 0 w 0 1")?, "EBADF");
    assert!(reader.gets("lock 0 r 0 1")?);
    // The same process may write through another descriptor.
    reader.open(&rig.m("f"), "w")?;
    assert!(reader.gets("lock 1 w 0 1")?);
    assert!(!Locker::at(&rig.b("f"))?.gets("lock 0 r 0 1")?);
    Ok(())
}

#[test]
fn a_record_lock_does_not_bring_a_released_file_back() -> TestResult {
    need_mount!("a_record_lock_does_not_bring_a_released_file_back");
    let rig = Rig::with(|c| c.shared = true)?;
    let handle = rig.released("f", b"0123456789")?;
    let mut reader = Locker::with(&rig.m("f"), "r")?;
    let mut other = Locker::with(&rig.m("f"), "r")?;
    assert!(reader.gets("lock 0 r 0 0")?);
    assert!(other.gets("lock 0 r 5 1")?);
    let mut below = Locker::at(&rig.b("f"))?;
    assert!(!below.gets("lock 0 w 5 1")?);
    assert!(rig.fake.is_released(&handle));
    assert_eq!(rig.fake.waiting(), 0, "nobody asked for the data");
    assert!(rig.mirror().gate().hold(&handle).is_none(), "it is open");
    // It can be released again when all is closed.
    drop((reader, other));
    let mut hold = None;
    eventually("it is not in use any more", || {
        hold = rig.mirror().gate().hold(&handle);
        hold.is_some()
    });
    assert!(below.gets("lock 0 w 0 0")?);
    Ok(())
}

#[test]
fn a_lease_on_the_backing_delays_a_record_lock() -> TestResult {
    need_mount!("a_lease_on_the_backing_delays_a_record_lock");
    let rig = Rig::with(|c| c.shared = true)?;
    fs::write(rig.m("f"), b"data")?;
    let mut leaser = leased(&rig, "f")?;
    let mut reader = Locker::with(&rig.m("f"), "r")?;
    assert!(reader.gets("lock 0 r 0 0")?);
    eventually("the lease was broken", || leaser.ended());
    assert!(!Locker::at(&rig.b("f"))?.gets("lock 0 w 0 0")?);
    Ok(())
}
