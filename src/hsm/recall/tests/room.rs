//! P4 (3): no room. Readers are served from memory, stage says so, the file stays released.

use super::rig::*;
use crate::format::aggregate::BLOCK;
use crate::format::member::Extent;
use crate::format::record::State;
use crate::hsm::backing::{CAPABILITY, KEPT};
use crate::hsm::recall::{RecallError, Settings};
use crate::id::TierId;
use cairn_fuse::Errno;
use rustix::fs::{XattrFlags, getxattr, setxattr};
use std::path::PathBuf;
use std::process::Command;

/// A small ext4 filesystem on a loop device; unmounted when dropped.
struct Small {
    dir: tempfile::TempDir,
}

impl Small {
    fn new(mib: u64, test: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED {test}: needs root to mount a small filesystem");
            return None;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let image = dir.path().join("image");
        let file = std::fs::File::create(&image).expect("an image");
        file.set_len(mib << 20).expect("a size");
        std::fs::create_dir(dir.path().join("mnt")).expect("a mountpoint");
        let small = Self { dir };
        let ran = |program: &str, args: &[&str]| {
            let out = Command::new(program).args(args).output();
            out.is_ok_and(|o| o.status.success())
        };
        let (image, mnt) = (
            image.display().to_string(),
            small.root().display().to_string(),
        );
        let made = ran("mkfs.ext4", &["-q", "-m", "0", &image])
            && ran("mount", &["-o", "loop", &image, &mnt]);
        if !made {
            eprintln!("SKIPPED {test}: no loop mounts here");
            return None;
        }
        Some(small)
    }
    fn root(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily, because a failed test may still have files open on it.
        let done = Command::new("umount").arg("-l").arg(self.root()).status();
        if !done.is_ok_and(|s| s.success()) {
            eprintln!("{} is still mounted", self.root().display());
        }
    }
}

#[test]
fn p4_without_room_readers_are_streamed_and_the_file_stays_released() {
    let name = "p4_without_room_readers_are_streamed_and_the_file_stays_released";
    let Some(small) = Small::new(32, name) else {
        return;
    };
    let settings = Settings {
        stream_memory: 4 * BLOCK,
        ..Settings::default()
    };
    let rig = Rig::at(&small.root(), settings, None);
    // Larger than the filesystem, with a hole in it.
    let runs = [
        Extent {
            offset: 0,
            len: 20 * BLOCK + 100 * 4096,
        },
        Extent {
            offset: 24 * BLOCK,
            len: 36 * BLOCK,
        },
    ];
    let stub = rig.released("large", 60 * BLOCK, &runs, &[TierId(1)]);
    let step = 128 << 10;
    for at in (0..60 * BLOCK).step_by(step) {
        let got = rig.read(&stub, at, step as u32).wait().expect("streamed");
        assert!(got == stub.content[at as usize..][..step], "at {at}");
    }
    assert_eq!(
        rig.tier().bytes_read(),
        56 * BLOCK + 100 * 4096,
        "each block once"
    );
    let far = rig
        .read(&stub, 3 * BLOCK - 10, 20)
        .wait()
        .expect("evicted, so fetched again");
    assert!(far == stub.content[3 * BLOCK as usize - 10..][..20]);
    assert!(matches!(rig.stage(&stub), Err(RecallError::NoSpace { .. })));
    let (tell, told) = crossbeam_channel::bounded(1);
    rig.recaller.fetch(
        &stub.node,
        None,
        0,
        Box::new(move |how| tell.send(how).expect("told")),
    );
    assert_eq!(told.recv_timeout(PATIENCE), Ok(Err(Errno(libc::ENOSPC))));
    assert_eq!(rig.record(&stub).expect("a stub").state, State::Released);
    let free = rustix::fs::statvfs(small.root()).expect("statvfs");
    assert!(
        free.f_bavail * free.f_frsize > 16 << 20,
        "nothing stays allocated"
    );
}

#[test]
fn p4_a_lingering_stream_ends_and_a_later_stage_finds_room() {
    let name = "p4_a_lingering_stream_ends_and_a_later_stage_finds_room";
    let Some(small) = Small::new(32, name) else {
        return;
    };
    let rig = Rig::at(&small.root(), Settings::default(), None);
    let ballast = small.root().join("ballast");
    let stub = rig.dense("file", 14 * BLOCK);
    let file = std::fs::File::create(&ballast).expect("ballast");
    let room = |keep: u64| {
        let free = rustix::fs::statvfs(small.root()).expect("statvfs");
        free.f_bavail * free.f_frsize - keep
    };
    let flags = rustix::fs::FallocateFlags::empty();
    rustix::fs::fallocate(&file, flags, 0, room(8 << 20)).expect("filled");
    rig.read(&stub, 0, 10).wait().expect("streamed");
    assert!(matches!(rig.stage(&stub), Err(RecallError::NoSpace { .. })));
    std::fs::remove_file(&ballast).expect("room");
    drop(file);
    let later = std::time::Instant::now() + std::time::Duration::from_secs(3600);
    rig.until("the stream ends", |rig| {
        rig.recaller.tick(later);
        rig.recaller.running() == 0
    });
    rig.stage(&stub).expect("staged");
    rig.assert_whole(&stub);
}

/// Where it cannot be kept, nothing is written, and nothing punched: both would take it.
#[test]
fn p4_a_capability_that_cannot_be_kept_is_not_lost() {
    let name = "p4_a_capability_that_cannot_be_kept_is_not_lost";
    let Some(small) = Small::new(32, name) else {
        return;
    };
    let rig = Rig::at(&small.root(), Settings::default(), None);
    let stub = rig.dense("file", 3 * BLOCK);
    let value = [
        1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0_u8,
    ];
    if setxattr(&stub.path, CAPABILITY, &value, XattrFlags::empty()).is_err() {
        eprintln!("SKIPPED {name}: no right to set capabilities");
        return;
    }
    // ext4 has one block for a file's attributes: it becomes full.
    for len in [900, 100, 1] {
        let filled = (0..200).any(|n| {
            let name = format!("user.{len}.{n}");
            setxattr(&stub.path, &name, &vec![7; len], XattrFlags::CREATE).is_err()
        });
        assert!(filled, "{len}");
    }
    assert!(matches!(rig.stage(&stub), Err(RecallError::NoSpace { .. })));
    let mut found = [0; 64];
    let len = getxattr(&stub.path, CAPABILITY, &mut found[..]).expect("it is there");
    assert_eq!(found[..len], value);
    getxattr(&stub.path, KEPT, &mut found[..]).expect_err("there was no room for it");
    rig.assert_released(&stub);
    assert!(rig.read(&stub, 5, 10).wait().expect("streamed") == stub.content[5..15]);
}
