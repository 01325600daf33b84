//! Locks between processes, and through two mounts of one backing.

use crate::disk::Disk;
use crate::rig::{Child, Rig, TestResult, eventually, need_mount};
use cairn_fuse::{BackingDir, Passthrough};
use rustix::fs::{FlockOperation, fcntl_lock, flock};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

/// The file that the other process locks, how, and what it makes when it has the lock.
const FILE: &str = "CAIRN_TEST_LOCK_FILE";
const KIND: &str = "CAIRN_TEST_LOCK_KIND";
const HELD: &str = "CAIRN_TEST_LOCK_HELD";

fn open(path: &Path) -> std::io::Result<File> {
    File::options().read(true).write(true).open(path)
}

fn lock(file: &File, kind: &str, how: FlockOperation) -> rustix::io::Result<()> {
    match kind {
        "flock" => flock(file, how),
        _ => fcntl_lock(file, how),
    }
}

/// Not a test of its own: what the other process of these tests runs.
#[test]
fn the_other_process() -> TestResult {
    let Some(path) = std::env::var_os(FILE) else {
        return Ok(());
    };
    let kind = std::env::var(KIND)?;
    let file = open(path.as_ref())?;
    let Some(held) = std::env::var_os(HELD) else {
        lock(&file, &kind, FlockOperation::NonBlockingLockExclusive)?;
        return Ok(());
    };
    lock(&file, &kind, FlockOperation::LockExclusive)?;
    fs::write(held, b"")?;
    // Until it is killed, or whoever started it has gone.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

fn other(path: &Path, kind: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["--exact", "locks::the_other_process"])
        .env(FILE, path)
        .env(KIND, kind)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(command)
}

/// Can another process lock it?
fn other_gets(path: &Path, kind: &str) -> anyhow::Result<bool> {
    Ok(other(path, kind)?.status()?.success())
}

#[test]
fn locks_shut_other_processes_out_until_they_end() -> TestResult {
    need_mount!("locks_shut_other_processes_out_until_they_end");
    for passthrough in [Passthrough::Auto, Passthrough::Off] {
        let rig = Rig::with(|c| c.passthrough = passthrough)?;
        let path = rig.m("f");
        fs::write(&path, b"data")?;
        let marks = tempfile::tempdir()?;
        for kind in ["flock", "record"] {
            let file = open(&path)?;
            lock(&file, kind, FlockOperation::NonBlockingLockExclusive)?;
            assert!(!other_gets(&path, kind)?, "{kind} while it is held");
            lock(&file, kind, FlockOperation::Unlock)?;
            assert!(other_gets(&path, kind)?, "{kind} after it was given up");
            // Somebody waits, gets it when it is given up, and loses it by being killed.
            lock(&file, kind, FlockOperation::NonBlockingLockExclusive)?;
            let held = marks.path().join(kind);
            let child = other(&path, kind)?
                .env(HELD, &held)
                .stdin(Stdio::piped())
                .spawn()?;
            let child = Child(child);
            if kind == "record" {
                // Closing any descriptor of the file gives a process's record locks up.
                drop(open(&path)?);
            } else {
                drop(file);
            }
            eventually("the other has the lock", || held.exists());
            let file = open(&path)?;
            let refused = lock(&file, kind, FlockOperation::NonBlockingLockExclusive);
            assert!(refused.is_err(), "{kind} while the other holds it");
            drop(child);
            eventually("the dead process's lock is gone", || {
                lock(&file, kind, FlockOperation::NonBlockingLockExclusive).is_ok()
            });
        }
    }
    Ok(())
}

#[test]
fn locks_of_one_mount_are_its_own_as_documented() -> TestResult {
    const NAME: &str = "locks_of_one_mount_are_its_own_as_documented";
    need_mount!("locks_of_one_mount_are_its_own_as_documented");
    let Some(disk) = Disk::in_memory(NAME, "size=2m,mode=755") else {
        return Ok(());
    };
    // Record locks of a shared backing are another matter: `records`.
    for (shared, kind) in [(false, "flock"), (false, "record"), (true, "flock")] {
        let mount = || {
            Rig::with(|c| {
                c.backing = BackingDir::Path(disk.backing());
                c.shared = shared;
            })
        };
        let (one, two) = (mount()?, mount()?);
        fs::write(one.m("f"), b"data")?;
        let file = open(&one.m("f"))?;
        lock(&file, kind, FlockOperation::NonBlockingLockExclusive)?;
        assert!(
            !other_gets(&one.m("f"), kind)?,
            "{kind} through the same mount"
        );
        assert!(
            other_gets(&two.m("f"), kind)?,
            "{kind} through another mount"
        );
        assert!(
            other_gets(&disk.backing().join("f"), kind)?,
            "{kind} on the backing"
        );
    }
    Ok(())
}
