//! Record locks that many want, and what that costs the backing.

use crate::records::Locker;
use crate::rig::{Rig, TestResult, eventually, need_mount};
use anyhow::Context;
use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

const WAITERS: usize = 6;

/// Tells of each time that somebody opens the file.
fn opens_of(path: &Path) -> anyhow::Result<OwnedFd> {
    let watch = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    add_watch(&watch, path, WatchFlags::OPEN | WatchFlags::CLOSE)?;
    Ok(watch)
}

/// How often that was, since it was asked last: opens and closes.
fn count(watch: &OwnedFd) -> anyhow::Result<usize> {
    let mut room = [MaybeUninit::uninit(); 4096];
    let mut events = Reader::new(watch, &mut room);
    let mut count = 0;
    loop {
        match events.next() {
            // Events that are the same and follow each other are one.
            Ok(_) => count += 1,
            Err(Errno::AGAIN) => return Ok(count),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Those who wait for a lock of the same mount leave the backing alone, and of those who wait for
/// the same lock of others one asks.
#[test]
fn the_backing_is_asked_for_one_of_all_who_wait() -> TestResult {
    need_mount!("the_backing_is_asked_for_one_of_all_who_wait");
    let rig = Rig::with(|c| c.shared = true)?;
    for name in ["here", "elsewhere", "alone"] {
        fs::write(rig.m(name), b"data")?;
    }
    let mut holders = Vec::new();
    for path in [rig.m("here"), rig.b("elsewhere"), rig.b("alone")] {
        let mut holder = Locker::at(&path)?;
        assert!(holder.gets("lock 0 w 0 0")?);
        holders.push(holder);
    }
    let mut waiters = Vec::new();
    for (name, number) in [("here", WAITERS), ("elsewhere", WAITERS), ("alone", 1)] {
        for _ in 0..number {
            let mut waiter = Locker::at(&rig.m(name))?;
            waiter.waits("wait 0 w 0 0")?;
            waiters.push(waiter);
        }
    }
    // The one that waits alone is the clock.
    let watches = ["here", "elsewhere", "alone"].map(|name| opens_of(&rig.b(name)));
    let [here, elsewhere, alone] = watches;
    let (here, elsewhere, alone) = (here?, elsewhere?, alone?);
    let (mut ticks, mut there) = (0, 0);
    eventually("it is tried for", || {
        ticks += count(&alone).unwrap();
        there += count(&elsewhere).unwrap();
        ticks >= 20
    });
    assert_eq!(count(&here)?, 0, "shut out by a lock that the server knows");
    assert!(there > 0, "nobody tells when it is given up");
    assert!(there < 2 * ticks, "{there} for {WAITERS}, {ticks} for one");
    drop(holders);
    // All get it, one after the other.
    while !waiters.is_empty() {
        let mut first = None;
        eventually("one has it", || {
            first = waiters.iter().position(|w| w.answers.try_recv().is_ok());
            first.is_some()
        });
        drop(waiters.swap_remove(first.context("nobody")?));
    }
    Ok(())
}
