//! Released files: reads wait and stream, changes recall first, and no one sees zeros.

use crate::rig::{Rig, TestResult, eventually, need_mount, pattern};
use crate::sys::truncate;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn reads_of_a_released_file_wait_and_then_have_the_data() -> TestResult {
    need_mount!("reads_of_a_released_file_wait_and_then_have_the_data");
    let rig = Rig::new()?;
    let data = pattern(700_000);
    let handle = rig.released("f", &data)?;
    assert_eq!(fs::metadata(rig.b("f"))?.blocks(), 0);
    assert!(
        fs::metadata(rig.m("f"))?.blocks() >= 1,
        "tar -S must not take it for a hole"
    );
    let done = &AtomicBool::new(false);
    std::thread::scope(|scope| -> TestResult {
        let reader = scope.spawn(|| {
            let read = fs::read(rig.m("f"));
            done.store(true, Ordering::Relaxed);
            read
        });
        let served = scope.spawn(|| {
            eventually("the reader waits", || rig.fake.waiting() > 0);
            assert!(!done.load(Ordering::Relaxed));
            eventually("the reader is served", || {
                rig.fake.stream();
                done.load(Ordering::Relaxed)
            });
        });
        assert!(reader.join().unwrap()? == data);
        served.join().unwrap();
        Ok(())
    })?;
    assert!(
        rig.fake.is_released(&handle),
        "a read alone leaves it released here"
    );
    Ok(())
}

/// Attributes of one moment: no blocks from before its recall with "resident" from after it, which
/// `tar -S` and `cp` take for a hole.
#[test]
fn a_recall_that_ends_while_attributes_are_looked_at() -> TestResult {
    need_mount!("a_recall_that_ends_while_attributes_are_looked_at");
    let rig = Rig::new()?;
    let handle = rig.released("f", &pattern(700_000))?;
    let fake = rig.fake.clone();
    *rig.fake.meanwhile.lock().unwrap() = Some(Box::new(move || fake.restore(&handle)));
    let shown = fs::metadata(rig.m("f"))?;
    assert!(rig.fake.meanwhile.lock().unwrap().is_none(), "it happened");
    let there = fs::metadata(rig.b("f"))?;
    assert!(there.blocks() > 0);
    assert_eq!(shown.blocks(), there.blocks());
    assert_eq!(
        (shown.mtime(), shown.mtime_nsec()),
        (there.mtime(), there.mtime_nsec())
    );
    Ok(())
}

/// Runs `action` while another thread serves whoever waits.
fn while_recalling<T: Send>(rig: &Rig, action: impl FnOnce() -> T + Send) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let acting = scope.spawn(|| {
            let result = action();
            done.store(true, Ordering::Relaxed);
            result
        });
        eventually("it waits or ends", || {
            rig.fake.waiting() > 0 || done.load(Ordering::Relaxed)
        });
        eventually("it ends", || {
            rig.fake.stream();
            done.load(Ordering::Relaxed)
        });
        acting.join().unwrap()
    })
}

#[test]
fn changing_a_released_file_recalls_it_first() -> TestResult {
    need_mount!("changing_a_released_file_recalls_it_first");
    let data = pattern(100_000);
    type Action = fn(&std::path::Path) -> anyhow::Result<()>;
    let actions: [(&str, Action, usize); 4] = [
        (
            "write",
            |p| Ok(File::options().write(true).open(p)?.write_all_at(b"X", 5)?),
            100_000,
        ),
        ("cut", |p| Ok(truncate(p, 50_000)?), 50_000),
        ("grow", |p| Ok(truncate(p, 150_000)?), 150_000),
        (
            "append",
            |p| {
                use std::io::Write;
                Ok(File::options().append(true).open(p)?.write_all(b"Y")?)
            },
            100_001,
        ),
    ];
    for (name, action, size) in actions {
        let rig = Rig::new()?;
        let handle = rig.released("f", &data)?;
        while_recalling(&rig, || action(&rig.m("f")))?;
        assert!(!rig.fake.is_released(&handle), "{name}");
        let now = fs::read(rig.m("f"))?;
        assert_eq!(now.len(), size, "{name}");
        let same = size.min(100_000);
        assert!(now[10..same] == data[10..same], "{name}");
        assert!(now == fs::read(rig.b("f"))?, "{name}");
    }
    Ok(())
}

#[test]
fn cutting_to_nothing_needs_no_recall() -> TestResult {
    need_mount!("cutting_to_nothing_needs_no_recall");
    let rig = Rig::new()?;
    for by_open in [true, false] {
        let handle = rig.released("f", &pattern(50_000))?;
        if by_open {
            let file = File::create(rig.m("f"))?;
            file.write_all_at(b"new", 0)?;
        } else {
            truncate(&rig.m("f"), 0)?;
            fs::write(rig.m("f"), b"new")?;
        }
        assert_eq!(rig.fake.waiting(), 0);
        assert!(!rig.fake.is_released(&handle));
        assert_eq!(fs::read(rig.m("f"))?, b"new");
        fs::remove_file(rig.m("f"))?;
    }
    Ok(())
}

#[test]
fn a_program_is_recalled_before_it_runs() -> TestResult {
    need_mount!("a_program_is_recalled_before_it_runs");
    let rig = Rig::new()?;
    fs::copy("/bin/true", rig.m("prog"))?;
    let data = fs::read(rig.m("prog"))?;
    fs::remove_file(rig.m("prog"))?;
    let handle = rig.released("prog", &data)?;
    fs::set_permissions(
        rig.m("prog"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    let status = while_recalling(&rig, || std::process::Command::new(rig.m("prog")).status())?;
    assert!(status.success());
    assert!(!rig.fake.is_released(&handle));
    Ok(())
}

#[test]
fn cached_and_passthrough_opens_never_meet() -> TestResult {
    need_mount!("cached_and_passthrough_opens_never_meet");
    let rig = Rig::new()?;
    let data = pattern(200_000);
    let handle = rig.released("f", &data)?;
    let early = File::open(rig.m("f"))?;
    // It comes back while an open from before lives: later opens must be cached too.
    while_recalling(&rig, || {
        File::options().append(true).open(rig.m("f")).map(drop)
    })?;
    assert!(!rig.fake.is_released(&handle));
    let writer = File::options().read(true).write(true).open(rig.m("f"))?;
    writer.write_all_at(b"seen by both", 1000)?;
    for file in [&early, &writer, &File::open(rig.m("f"))?] {
        let mut some = [0; 12];
        file.read_exact_at(&mut some, 1000)?;
        assert_eq!(&some, b"seen by both");
    }
    let mut all = Vec::new();
    (&early).read_to_end(&mut all)?;
    assert_eq!(all.len(), data.len());
    drop((early, writer));
    // And pass through again after the last has closed.
    eventually("opens work in any mode", || File::open(rig.m("f")).is_ok());
    assert_eq!(&fs::read(rig.m("f"))?[1000..1012], b"seen by both");
    Ok(())
}

#[test]
fn sparse_tools_see_data_not_holes() -> TestResult {
    need_mount!("sparse_tools_see_data_not_holes");
    use rustix::fs::{SeekFrom, seek};
    let rig = Rig::new()?;
    let data = pattern(100_000);
    rig.released("f", &data)?;
    let file = File::open(rig.m("f"))?;
    assert_eq!(seek(&file, SeekFrom::Data(0))?, 0);
    assert_eq!(seek(&file, SeekFrom::Hole(0))?, 100_000);
    drop(file);
    let target = File::create(rig.m("g"))?;
    let copied = while_recalling(&rig, || {
        let source = File::open(rig.m("f"))?;
        rustix::fs::copy_file_range(&source, None, &target, None, 100_000)
            .map_err(std::io::Error::from)
    })?;
    assert_eq!(copied, 100_000);
    assert!(fs::read(rig.b("g"))? == data);
    Ok(())
}

/// As an open does: a release may come between a recall's end and who waited for it.
#[test]
fn a_change_of_size_or_space_waits_for_a_file_that_is_released_again() -> TestResult {
    need_mount!("a_change_of_size_or_space_waits_for_a_file_that_is_released_again");
    let rig = Rig::new()?;
    let data = pattern(300_000);
    let eio = |done: std::io::Result<()>| done.map_err(|why| why.raw_os_error());
    for (in_vain, wanted) in [(2, Ok(())), (3, Err(Some(libc::EIO)))] {
        let name = format!("size{in_vain}");
        rig.released(&name, &data)?;
        let path = rig.m(&name);
        rig.fake.in_vain.store(in_vain, Ordering::Relaxed);
        let cut = while_recalling(&rig, || truncate(&path, 200_000));
        assert_eq!(eio(cut), wanted, "{name}");
        let name = format!("space{in_vain}");
        fs::write(rig.m(&name), &data)?;
        let file = File::options().write(true).open(rig.m(&name))?;
        rig.fake.release(&rig.b(&name))?;
        let keep = rustix::fs::FallocateFlags::KEEP_SIZE;
        let room = || Ok(rustix::fs::fallocate(&file, keep, 0, 400_000)?);
        rig.fake.in_vain.store(in_vain, Ordering::Relaxed);
        let room = while_recalling(&rig, room);
        assert_eq!(eio(room), wanted, "{name}");
    }
    assert!(fs::read(rig.b("size2"))? == data[..200_000]);
    assert!(fs::read(rig.b("space2"))? == data);
    Ok(())
}
