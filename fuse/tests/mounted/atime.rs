//! Access times: as the mount options of the backing have it, whatever they are.

use crate::disk::Disk;
use crate::rig::{TestResult, need_mount, pattern};
use cairn_fuse::Passthrough;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const OLD: i64 = 1000;

/// Sets access and modification time, so that relatime has a reason to renew the first or not.
fn set_times(path: &Path, atime: i64, mtime: i64) -> std::io::Result<()> {
    let at = |tv_sec| Timespec { tv_sec, tv_nsec: 0 };
    let times = Timestamps {
        last_access: at(atime),
        last_modification: at(mtime),
    };
    Ok(utimensat(CWD, path, &times, AtFlags::empty())?)
}

/// Which of a file and a directory have another access time after they were read.
fn renewed(root: &Path, atime: i64, mtime: i64) -> anyhow::Result<(bool, bool)> {
    let (file, dir) = (root.join("f"), root.join("d"));
    fs::write(&file, pattern(10_000))?;
    fs::create_dir(&dir)?;
    fs::write(dir.join("entry"), b"")?;
    for path in [&file, &dir] {
        set_times(path, atime, mtime)?;
        assert_eq!(fs::metadata(path)?.atime(), atime);
    }
    assert_eq!(fs::read(&file)?.len(), 10_000);
    assert_eq!(fs::read_dir(&dir)?.count(), 1);
    let seen = [&file, &dir].map(|path| fs::metadata(path).map(|meta| meta.atime() != atime));
    let [file_seen, dir_seen] = seen;
    fs::remove_file(&file)?;
    fs::remove_dir_all(&dir)?;
    Ok((file_seen?, dir_seen?))
}

#[test]
fn access_times_follow_the_backings_mount_options() -> TestResult {
    const NAME: &str = "access_times_follow_the_backings_mount_options";
    need_mount!("access_times_follow_the_backings_mount_options");
    let now = std::time::UNIX_EPOCH.elapsed()?.as_secs() as i64;
    // relatime renews what is not younger than the modification, or older than a day.
    let cases = [("old", OLD, OLD), ("young", now + 3600, now)];
    for options in ["strictatime", "relatime", "noatime", "nodiratime"] {
        let Some(disk) = Disk::new(NAME, &["mkfs.ext4", "-q", "-F"], 16, options) else {
            return Ok(());
        };
        for (case, atime, mtime) in cases {
            let wanted = renewed(&disk.backing(), atime, mtime)?;
            for passthrough in [Passthrough::Auto, Passthrough::Off] {
                let rig = disk.rig(passthrough)?;
                let seen = renewed(&rig.m(""), atime, mtime)?;
                assert_eq!(seen, wanted, "{options} {case} {passthrough:?}");
            }
            let expected = match (options, case) {
                ("strictatime", _) | ("relatime", "old") => (true, true),
                ("nodiratime", "old") => (true, false),
                _ => (false, false),
            };
            assert_eq!(wanted, expected, "the backing itself: {options} {case}");
        }
    }
    Ok(())
}
