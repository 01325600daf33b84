//! What was written under a record lock of a shared backing is seen by who has the lock next, at
//! once, through whatever mount.

use crate::records::Both;
use crate::rig::{TestResult, need_mount};
use cairn_fuse::Passthrough;
use rustix::fs::{FlockOperation, Timestamps, fcntl_lock, fstat, futimens};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const ROUNDS: u64 = 300;

fn open(path: &Path) -> std::io::Result<File> {
    File::options().read(true).write(true).open(path)
}

fn locked<T>(file: &File, work: impl FnOnce() -> std::io::Result<T>) -> anyhow::Result<T> {
    under(FlockOperation::LockExclusive, file, work)
}

fn under<T>(
    how: FlockOperation,
    file: &File,
    work: impl FnOnce() -> std::io::Result<T>,
) -> anyhow::Result<T> {
    fcntl_lock(file, how)?;
    let done = work();
    fcntl_lock(file, FlockOperation::Unlock)?;
    Ok(done?)
}

fn bytes(file: &File) -> std::io::Result<[u8; 8]> {
    let mut read = [0; 8];
    file.read_exact_at(&mut read, 0)?;
    Ok(read)
}

/// Writes without a trace in the file's times.
fn write_unseen(file: &File, data: &[u8]) -> std::io::Result<()> {
    let stat = fstat(file)?;
    let time = |seconds, nanoseconds: u64| rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as _,
    };
    file.write_all_at(data, 0)?;
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    Ok(futimens(file, &times)?)
}

#[test]
fn what_was_written_under_a_record_lock_is_seen_under_the_next() -> TestResult {
    const NAME: &str = "what_was_written_under_a_record_lock_is_seen_under_the_next";
    need_mount!("what_was_written_under_a_record_lock_is_seen_under_the_next");
    for passthrough in [Passthrough::Auto, Passthrough::Off] {
        let Some(both) = Both::new(NAME, passthrough)? else {
            return Ok(());
        };
        let (here, there) = (both.one.m("f"), both.two.m("f"));
        for stays_open in [true, false] {
            let writer = open(&there)?;
            let mut reader = File::open(&here)?;
            for round in 0..ROUNDS {
                let what = format!("{passthrough:?}, open: {stays_open}, round {round}");
                // It knows the file as it was.
                bytes(&reader)?;
                reader.metadata()?;
                if !stays_open {
                    reader = File::open(&here)?;
                }
                let new = (round | 1 << 63).to_le_bytes();
                let length = 10 + round / 3;
                locked(&writer, || match round % 3 {
                    0 => write_unseen(&writer, &new),
                    1 => writer.write_all_at(&new, 0),
                    _ => {
                        writer.write_all_at(&new, 0)?;
                        writer.set_len(length)
                    }
                })?;
                // The size first: who reads is told the attributes anew.
                let (stat, read) = under(FlockOperation::LockShared, &reader, || {
                    Ok((reader.metadata()?, bytes(&reader)?))
                })?;
                assert_eq!(read, new, "{what}");
                if round % 3 == 2 {
                    assert_eq!(stat.len(), length, "{what}");
                }
            }
        }
    }
    Ok(())
}

/// Each waits for the other, from grant to grant.
#[test]
fn who_waited_for_a_record_lock_sees_what_was_written_meanwhile() -> TestResult {
    const NAME: &str = "who_waited_for_a_record_lock_sees_what_was_written_meanwhile";
    need_mount!("who_waited_for_a_record_lock_sees_what_was_written_meanwhile");
    for passthrough in [Passthrough::Auto, Passthrough::Off] {
        let Some(both) = Both::new(NAME, passthrough)? else {
            return Ok(());
        };
        let (one, two) = (open(&both.one.m("f"))?, open(&both.two.m("f"))?);
        locked(&one, || one.write_all_at(&[0; 8], 0))?;
        // Each adds to what the other left.
        let count = |file: &File| -> anyhow::Result<()> {
            for _ in 0..ROUNDS {
                locked(file, || {
                    let number = u64::from_le_bytes(bytes(file)?) + 1;
                    write_unseen(file, &number.to_le_bytes())
                })?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let first = scope.spawn(|| count(&one));
            count(&two)?;
            first.join().map_err(|_| anyhow::anyhow!("it panicked"))?
        })?;
        let number = locked(&one, || bytes(&one))?;
        assert_eq!(u64::from_le_bytes(number), 2 * ROUNDS, "{passthrough:?}");
    }
    Ok(())
}
