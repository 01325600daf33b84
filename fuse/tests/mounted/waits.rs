//! Who waits can be interrupted, delays nobody else, and is let in when the gate opens.

use crate::rig::{Child, Rig, TestResult, eventually, leased, need_mount, pattern};
use cairn_fuse::NodeHandle;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

/// Installs a handler, so that the signal interrupts and does not kill; reads; tells how it ended
/// by its exit code.
const HANDLES_SIGNALS: &str = "import os,signal,sys\n\
    class Hit(Exception): pass\n\
    def hit(*_): raise Hit\n\
    signal.signal(signal.SIGINT, hit)\n\
    fd=os.open(sys.argv[1], os.O_RDONLY)\n\
    try:\n    os.read(fd, 4096)\n\
    except Hit:\n    os._exit(42)\n\
    os._exit(0)";

#[test]
fn a_waiting_reader_can_be_interrupted() -> TestResult {
    need_mount!("a_waiting_reader_can_be_interrupted");
    let rig = Rig::new()?;
    rig.released("f", &pattern(300_000))?;
    let path = rig.m("f");
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGKILL] {
        let mut cat = Child::spawn("cat", &[path.as_os_str()])?;
        eventually("cat waits", || rig.fake.waiting() > 0);
        cat.signal(signal);
        eventually("cat ends", || cat.ended());
        eventually("its waits are given up", || rig.fake.waiting() == 0);
    }
    let mut python = Child::spawn(
        "python3",
        &[
            OsStr::new("-c"),
            OsStr::new(HANDLES_SIGNALS),
            path.as_os_str(),
        ],
    )?;
    eventually("python waits", || rig.fake.waiting() > 0);
    python.signal(libc::SIGINT);
    eventually("python ends", || python.ended());
    assert_eq!(python.0.wait()?.code(), Some(42), "its handler ran");
    eventually("its waits are given up", || rig.fake.waiting() == 0);
    assert!(rig.fake.given_up.load(Ordering::Relaxed) >= 4);
    Ok(())
}

#[test]
fn a_waiting_open_can_be_interrupted() -> TestResult {
    need_mount!("a_waiting_open_can_be_interrupted");
    let rig = Rig::new()?;
    let handle = rig.released("f", &pattern(10_000))?;
    for signal in [libc::SIGINT, libc::SIGKILL] {
        let of = format!("of={}", rig.m("f").display());
        let args = ["if=/dev/zero", &of, "count=1", "conv=notrunc"].map(OsStr::new);
        let mut dd = Child::spawn("dd", &args)?;
        eventually("dd waits in open", || rig.fake.waiting() > 0);
        dd.signal(signal);
        eventually("dd ends", || dd.ended());
        eventually("its wait is given up", || rig.fake.waiting() == 0);
        // Nothing is left counted: the owner can shut users out again.
        assert!(rig.mirror().gate().hold(&handle).is_some());
    }
    Ok(())
}

#[test]
fn thousands_of_waiting_reads_delay_nobody() -> TestResult {
    need_mount!("thousands_of_waiting_reads_delay_nobody");
    const READERS: usize = 2000;
    let rig = Rig::new()?;
    let data = pattern(4096);
    for i in 0..READERS {
        rig.released(&format!("f{i}"), &data)?;
    }
    fs::write(rig.m("resident"), &data)?;
    rig.while_reads_wait(
        READERS,
        |i| format!("f{i}"),
        &data,
        || {
            for i in 0..200 {
                let name = rig.m(&format!("new{i}"));
                fs::write(&name, b"x")?;
                assert_eq!(fs::metadata(&name)?.len(), 1);
                assert!(fs::read(rig.m("resident"))? == data);
            }
            Ok(())
        },
    )
}

#[test]
fn a_hold_shuts_users_out_and_lets_them_in_again() -> TestResult {
    need_mount!("a_hold_shuts_users_out_and_lets_them_in_again");
    let rig = Rig::new()?;
    fs::write(rig.m("f"), b"data")?;
    let handle = NodeHandle::of(File::open(rig.b("f"))?)?;
    let gate = rig.mirror().gate();
    let open = File::open(rig.m("f"))?;
    eventually("the writer's RELEASE is in", || {
        rig.fake.events.lock().unwrap().len() > 2
    });
    assert!(gate.hold(&handle).is_none(), "somebody has it open");
    drop(open);
    let mut hold = None;
    eventually("RELEASE arrives", || {
        hold = gate.hold(&handle);
        hold.is_some()
    });
    assert!(gate.hold(&handle).is_none(), "it is held already");
    let entered = &AtomicBool::new(false);
    std::thread::scope(|scope| -> TestResult {
        let reader = scope.spawn(|| {
            let read = fs::read(rig.m("f"));
            entered.store(true, Ordering::SeqCst);
            read
        });
        let cutter = scope.spawn(|| File::options().write(true).open(rig.m("f"))?.set_len(3));
        // Others are not in the way, and a stat of the same file is not either.
        for i in 0..50 {
            fs::write(rig.m(&format!("other{i}")), b"x")?;
            assert_eq!(fs::metadata(rig.m("f"))?.len(), 4);
        }
        assert!(!entered.load(Ordering::SeqCst));
        drop(hold);
        assert!(reader.join().unwrap()?.starts_with(b"dat"));
        cutter.join().unwrap()?;
        Ok(())
    })?;
    assert_eq!(fs::read(rig.m("f"))?, b"dat");
    // One who is killed while it waits for the hold leaves nothing behind.
    eventually("RELEASE arrives", || {
        hold_then_kill(&rig, &handle).is_some_and(|result| result.is_ok())
    });
    assert_eq!(fs::read(rig.m("f"))?, b"dat");
    Ok(())
}

fn hold_then_kill(rig: &Rig, handle: &NodeHandle) -> Option<TestResult> {
    let hold = rig.mirror().gate().hold(handle)?;
    Some((|| {
        let mut cat = Child::spawn("cat", &[rig.m("f").as_os_str()])?;
        // Killed at once or while it waits: it must end either way.
        cat.signal(libc::SIGKILL);
        eventually("cat ends", || cat.ended());
        drop(hold);
        Ok(())
    })())
}

#[test]
fn what_the_owner_changed_is_seen() -> TestResult {
    need_mount!("what_the_owner_changed_is_seen");
    let rig = Rig::new()?;
    fs::write(rig.m("f"), b"data")?;
    assert_eq!(fs::metadata(rig.m("f"))?.len(), 4);
    File::options()
        .write(true)
        .open(rig.b("f"))?
        .write_all_at(b"longer data", 0)?;
    let handle = NodeHandle::of(File::open(rig.b("f"))?)?;
    rig.mirror().gate().changed(&handle);
    eventually("the new size is shown", || {
        fs::metadata(rig.m("f")).is_ok_and(|m| m.len() == 11)
    });
    Ok(())
}

#[test]
fn a_lease_on_the_backing_delays_only_who_breaks_it() -> TestResult {
    need_mount!("a_lease_on_the_backing_delays_only_who_breaks_it");
    let rig = Rig::new()?;
    fs::write(rig.m("f"), b"data")?;
    fs::write(rig.m("g"), b"other")?;
    let _holder = leased(&rig, "f")?;
    assert_eq!(
        fs::read(rig.m("f"))?,
        b"data",
        "readers do not break a read lease"
    );
    fs::write(rig.m("f"), b"new data")?;
    assert_eq!(fs::read(rig.m("f"))?, b"new data");
    assert_eq!(fs::read(rig.m("g"))?, b"other");
    Ok(())
}

/// P11: an answer that waits for a database keeps no session thread from its work.
#[test]
fn attributes_that_are_waited_for_delay_nobody_else() -> TestResult {
    need_mount!("attributes_that_are_waited_for_delay_nobody_else");
    let rig = Rig::with(|config| config.threads = 1)?;
    fs::write(rig.m("f"), b"data")?;
    let silence = rig.fake.silence.lock().unwrap();
    let path = rig.m("f");
    let asks = std::thread::spawn(move || {
        let mut value = [0; 16];
        rustix::fs::getxattr(path, "user.cairn.state", value.as_mut_slice())
    });
    eventually("it is asked", || rig.fake.asked.load(Ordering::SeqCst) > 0);
    let path = rig.m("g");
    let others = std::thread::spawn(move || {
        fs::create_dir(&path)?;
        fs::metadata(&path)
    });
    eventually("others are served", || others.is_finished());
    drop(silence);
    assert!(others.join().unwrap()?.is_dir());
    assert_eq!(asks.join().unwrap()?, 6);
    Ok(())
}
