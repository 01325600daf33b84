//! Directories: large ones, and such as change while they are read.

use crate::rig::{Rig, TestResult, need_mount};
use std::collections::HashSet;
use std::fs;

#[test]
fn a_large_directory_is_listed_whole_while_it_changes() -> TestResult {
    need_mount!("a_large_directory_is_listed_whole_while_it_changes");
    const STABLE: usize = 20_000;
    for shared in [false, true] {
        let rig = Rig::with(|c| c.shared = shared)?;
        fs::create_dir(rig.b("d"))?;
        for i in 0..STABLE {
            fs::write(rig.b(&format!("d/stable-{i:05}")), b"")?;
        }
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| -> TestResult {
            scope.spawn(|| {
                let mut i = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let name = rig.m(&format!("d/changing-{}", i % 50));
                    let _ = fs::write(&name, b"");
                    let _ = fs::remove_file(rig.m(&format!("d/changing-{}", (i + 25) % 50)));
                    i += 1;
                }
            });
            let listed = (|| -> TestResult {
                for _ in 0..2 {
                    let mut seen = HashSet::new();
                    for entry in fs::read_dir(rig.m("d"))? {
                        let entry = entry?;
                        let name = entry.file_name().into_string().unwrap();
                        if name.starts_with("stable") {
                            assert!(entry.file_type()?.is_file());
                            assert!(seen.insert(name), "an entry came twice");
                        }
                    }
                    assert_eq!(seen.len(), STABLE);
                }
                Ok(())
            })();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            listed
        })?;
        assert_eq!(fs::symlink_metadata(rig.m("d/stable-19999"))?.len(), 0);
    }
    Ok(())
}

/// Descriptors of this process, which is the server too, of files with such names.
fn descriptors_of(prefix: &str) -> anyhow::Result<usize> {
    let open = fs::read_dir("/proc/self/fd")?.flatten();
    let links = open.filter_map(|fd| fs::read_link(fd.path()).ok());
    Ok(links
        .filter(|link| link.to_string_lossy().contains(prefix))
        .count())
}

#[test]
fn what_is_only_looked_at_takes_no_descriptor() -> TestResult {
    need_mount!("what_is_only_looked_at_takes_no_descriptor");
    let rig = Rig::new()?;
    let known = cairn_fuse::NodeHandle::of(fs::File::open(rig.b(""))?)?.kind;
    // Where the filesystem's handles are not known inside out, a descriptor is the way to be sure.
    if !matches!(known, 1 | 0x81 | 0x4d) {
        eprintln!("SKIPPED what_is_only_looked_at_takes_no_descriptor: handles of type {known}");
        return Ok(());
    }
    fs::create_dir(rig.b("d"))?;
    for i in 0..500 {
        fs::write(rig.b(&format!("d/only-looked-at-{i}")), b"")?;
    }
    for i in 0..250 {
        fs::metadata(rig.m(&format!("d/only-looked-at-{i}")))?;
    }
    for entry in fs::read_dir(rig.m("d"))? {
        assert!(entry?.metadata()?.is_file());
    }
    assert_eq!(descriptors_of("only-looked-at-")?, 0);
    assert_eq!(fs::read(rig.m("d/only-looked-at-7"))?, b"");
    Ok(())
}

#[test]
fn names_are_remembered_and_forgotten_rightly() -> TestResult {
    need_mount!("names_are_remembered_and_forgotten_rightly");
    let rig = Rig::new()?;
    assert!(!rig.m("later").exists());
    fs::write(rig.m("later"), b"")?;
    assert!(rig.m("later").exists());
    fs::rename(rig.m("later"), rig.m("moved"))?;
    assert!(!rig.m("later").exists() && rig.m("moved").exists());
    let odd = std::ffi::OsString::from_vec_lossless(vec![b'n', 0xff, b'\n', b'"']);
    fs::write(rig.m("").join(&odd), b"odd")?;
    let long = "x".repeat(255);
    fs::write(rig.m(&long), b"long")?;
    let names: HashSet<_> = fs::read_dir(rig.m(""))?
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(names.contains(&odd) && names.contains(std::ffi::OsStr::new(&long)));
    assert!(fs::write(rig.m(&"x".repeat(256)), b"").is_err());
    Ok(())
}

trait Lossless {
    fn from_vec_lossless(bytes: Vec<u8>) -> Self;
}
impl Lossless for std::ffi::OsString {
    fn from_vec_lossless(bytes: Vec<u8>) -> Self {
        std::os::unix::ffi::OsStringExt::from_vec(bytes)
    }
}
