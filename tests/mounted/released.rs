//! P5: what programs do to a released file.

use crate::needs_mounts;
use crate::rig::{Instance, on_disk, tree};
use anyhow::{Context, Result, ensure};
use rustix::fs::{FlockOperation, SeekFrom, copy_file_range, flock, seek};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

/// Data and holes as `lseek` tells them.
fn extents(path: &Path) -> Result<Vec<(u64, u64)>> {
    let file = File::open(path)?;
    let (mut at, mut found) = (0, Vec::new());
    while let Ok(data) = seek(&file, SeekFrom::Data(at)) {
        at = seek(&file, SeekFrom::Hole(data))?;
        found.push((data, at));
    }
    Ok(found)
}

#[test]
fn p5_seek_tells_the_holes_of_the_file_and_not_of_the_stub() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let sparse = File::create(cairn.at("f"))?;
    sparse.set_len(8 << 20)?;
    sparse.write_all_at(&tree::bytes(1, 128 << 10), 1 << 20)?;
    sparse.write_all_at(&tree::bytes(2, 64 << 10), 6 << 20)?;
    drop(sparse);
    let before = extents(&cairn.at("f"))?;
    ensure!(before.len() == 2, "{before:?}");
    cairn.archive("f")?;
    cairn.release("f")?;
    ensure!(on_disk(&cairn.below("f"))? <= 8192);
    ensure!(
        extents(&cairn.at("f"))? == before,
        "{:?}",
        extents(&cairn.at("f"))?
    );
    ensure!(
        cairn.shown_state("f")? == "released",
        "asking for holes recalled it"
    );
    cairn.down()?;
    // The index is not at hand: then all may be data, and nothing of it a hole.
    fs::remove_dir_all(cairn.state.join("indexes")).ok();
    cairn.up()?;
    let known = extents(&cairn.at("f"))?;
    ensure!(known == before || known == [(0, 8 << 20)], "{known:?}");
    let end = seek(File::open(cairn.at("f"))?, SeekFrom::Data(8 << 20));
    ensure!(end == Err(rustix::io::Errno::NXIO), "{end:?}");
    cairn.down()
}

#[test]
fn p5_copies_from_and_into_released_files() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let (a, b) = (tree::bytes(1, 300_000), tree::bytes(2, 300_000));
    cairn.released("a", &a)?;
    cairn.released("b", &b)?;
    let copy = |from: &Path, to: &File, at: u64, len: usize| -> Result<()> {
        let from = File::open(from)?;
        let (mut source, mut target, mut left) = (0, at, len);
        while left > 0 {
            let n = copy_file_range(&from, Some(&mut source), to, Some(&mut target), left)?;
            ensure!(n > 0, "the copy ends {left} bytes early");
            left -= n;
        }
        Ok(())
    };
    copy(&cairn.at("a"), &File::create(cairn.at("copy"))?, 0, a.len())?;
    ensure!(fs::read(cairn.at("copy"))? == a, "a released source");
    let target = File::options().write(true).open(cairn.at("b"))?;
    copy(&cairn.at("a"), &target, 1000, 50_000)?;
    drop(target);
    let expected = [&b[..1000], &a[..50_000], &b[51_000..]].concat();
    ensure!(fs::read(cairn.at("b"))? == expected, "a released target");
    cairn.down()
}

#[test]
fn p5_mapped_and_executed() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let data = tree::bytes(1, 3 << 20);
    cairn.released("f", &data)?;
    fs::write(cairn.dir.path().join("expected"), &data)?;
    let script = "import mmap,sys\nf=open(sys.argv[1],'rb')\n\
        m=mmap.mmap(f.fileno(),0,prot=mmap.PROT_READ,flags=mmap.MAP_SHARED if sys.argv[3]=='shared' else mmap.MAP_PRIVATE)\n\
        want=open(sys.argv[2],'rb').read()\n\
        assert m[2<<20:(2<<20)+9]==want[2<<20:(2<<20)+9]\nassert m[:]==want\n";
    for how in ["shared", "private"] {
        let mapped = Command::new("python3")
            .args(["-c", script])
            .arg(cairn.at("f"))
            .arg(cairn.dir.path().join("expected"))
            .arg(how)
            .output()?;
        ensure!(
            mapped.status.success(),
            "{how}: {}",
            String::from_utf8_lossy(&mapped.stderr)
        );
        cairn.release("f")?;
        cairn.cold()?;
    }
    let program = fs::read("/bin/ls")?;
    cairn.released("ls", &program)?;
    fs::set_permissions(cairn.at("ls"), fs::Permissions::from_mode(0o755))?;
    let ran = Command::new(cairn.at("ls")).arg("--version").output()?;
    ensure!(
        ran.status.success() && !ran.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    cairn.down()
}

#[test]
fn p5_nonblocking_readers_get_data_and_locks_need_none() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.tier_options("delay=300ms");
    cairn.up()?;
    let data = tree::bytes(1, 200_000);
    cairn.released("f", &data)?;
    let first = File::open(cairn.at("f"))?;
    flock(&first, FlockOperation::LockExclusive)?;
    let other = File::open(cairn.at("f"))?;
    let taken = flock(&other, FlockOperation::NonBlockingLockExclusive);
    ensure!(taken == Err(rustix::io::Errno::WOULDBLOCK), "{taken:?}");
    drop(first);
    flock(&other, FlockOperation::NonBlockingLockExclusive)?;
    drop(other);
    ensure!(cairn.shown_state("f")? == "released", "a lock recalled it");
    let mut got = Vec::new();
    let mut file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(cairn.at("f"))?;
    file.read_to_end(&mut got)?;
    ensure!(got == data);
    drop(file);
    cairn.down()
}

#[test]
fn p4_readers_apart_and_a_file_that_goes_while_it_is_recalled() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.tier_options("rate=24MiB/s");
    cairn.up()?;
    let data = tree::bytes(1, 24 << 20);
    cairn.released("f", &data)?;
    let readers: Vec<_> = [0_usize, 20 << 20, 11 << 20, 23 << 20]
        .into_iter()
        .map(|at| {
            let (path, expected) = (cairn.at("f"), data[at..at + (1 << 20)].to_vec());
            std::thread::spawn(move || -> Result<()> {
                let mut got = vec![0; expected.len()];
                File::open(path)?.read_exact_at(&mut got, at as u64)?;
                ensure!(got == expected, "wrong bytes at {at}");
                Ok(())
            })
        })
        .collect();
    for reader in readers {
        reader.join().ok().context("a reader panicked")??;
    }
    cairn.released("gone", &data)?;
    let mut file = File::open(cairn.at("gone"))?;
    file.read_exact_at(&mut [0; 4096], 0)?;
    fs::remove_file(cairn.at("gone"))?;
    let mut got = Vec::new();
    file.read_to_end(&mut got)?;
    ensure!(got == data, "unlinked while it was recalled");
    drop(file);
    cairn.down()
}

#[test]
fn readers_go_on_while_the_file_is_archived() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.tier_options("rate=16MiB/s");
    cairn.up()?;
    let data = tree::bytes(1, 12 << 20);
    fs::write(cairn.at("f"), &data)?;
    let open = File::open(cairn.at("f"))?;
    let id = cairn.cairn([std::ffi::OsStr::new("archive"), cairn.at("f").as_os_str()])?;
    for at in (0..data.len()).step_by(1 << 20) {
        let mut part = vec![0; 4096];
        open.read_exact_at(&mut part, at as u64)?;
        ensure!(part == data[at..at + 4096]);
        ensure!(fs::read(cairn.at("f"))?.len() == data.len());
    }
    cairn.cairn(["wait", id.trim()])?;
    ensure!(cairn.shown_state("f")? == "archived");
    let busy = cairn.run([
        std::ffi::OsStr::new("release"),
        std::ffi::OsStr::new("--wait"),
        std::ffi::OsStr::new("--timeout"),
        std::ffi::OsStr::new("2s"),
        cairn.at("f").as_os_str(),
    ])?;
    ensure!(
        !busy.status.success() && on_disk(&cairn.below("f"))? > 8192,
        "released while open"
    );
    let mut part = vec![0; 4096];
    open.read_exact_at(&mut part, 5 << 20)?;
    ensure!(
        part == data[5 << 20..(5 << 20) + 4096],
        "an old descriptor sees zeros"
    );
    drop(open);
    cairn.down()
}
