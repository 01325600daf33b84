//! Opens with `O_DIRECT` where there is no passthrough: past the kernel's cache, and at one with it.

use crate::rig::{Rig, TestResult, need_mount, pattern};
use cairn_fuse::Passthrough;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const PAGE: usize = 4096;
const PAGES: usize = 256;
const WRITERS: usize = 4;

fn direct(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true);
    options.custom_flags(libc::O_DIRECT).open(path)
}

/// Calls `work` with a page that begins where `O_DIRECT` wants it.
fn with_page<T>(fill: u8, work: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut room = vec![fill; 2 * PAGE];
    let begin = room.as_ptr().align_offset(PAGE);
    work(&mut room[begin..begin + PAGE])
}

#[test]
fn direct_writes_at_once_are_seen_through_the_cache() -> TestResult {
    need_mount!("direct_writes_at_once_are_seen_through_the_cache");
    let rig = Rig::with(|c| c.passthrough = Passthrough::Off)?;
    let path = rig.m("f");
    fs::write(&path, vec![b'a'; PAGES * PAGE])?;
    // Cached, and open all the while.
    let cached = File::options().read(true).write(true).open(&path)?;
    let mut seen = vec![0; PAGES * PAGE];
    cached.read_exact_at(&mut seen, 0)?;
    std::thread::scope(|scope| {
        let write = |writer: usize| -> TestResult {
            let file = direct(&rig.m("f"))?;
            for page in (writer..PAGES).step_by(WRITERS) {
                let fill = (page % 251) as u8 + 1;
                with_page(fill, |bytes| file.write_all_at(bytes, (page * PAGE) as u64))?;
                with_page(0, |bytes| -> TestResult {
                    file.read_exact_at(bytes, (page * PAGE) as u64)?;
                    assert!(bytes.iter().all(|b| *b == fill), "page {page}");
                    Ok(())
                })?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..WRITERS)
            .map(|writer| scope.spawn(move || write(writer)))
            .collect();
        threads.into_iter().try_for_each(|t| t.join().unwrap())
    })?;
    let wanted: Vec<u8> = (0..PAGES)
        .flat_map(|page| [(page % 251) as u8 + 1; PAGE])
        .collect();
    cached.read_exact_at(&mut seen, 0)?;
    assert!(seen == wanted, "through the cache");
    assert!(fs::read(rig.b("f"))? == wanted, "in the backing");
    // And the other way round; then behind the end.
    cached.write_all_at(&[b'c'; PAGE], 0)?;
    let file = direct(&path)?;
    with_page(0, |bytes| {
        file.read_exact_at(bytes, 0)
            .map(|()| assert_eq!(bytes[7], b'c'))
    })?;
    with_page(b'e', |bytes| {
        file.write_all_at(bytes, (PAGES * PAGE) as u64)
    })?;
    assert_eq!(fs::metadata(&path)?.len(), ((PAGES + 1) * PAGE) as u64);
    assert_eq!(fs::read(&path)?[PAGES * PAGE + 9], b'e');
    Ok(())
}

#[test]
fn direct_opens_can_be_mapped() -> TestResult {
    need_mount!("direct_opens_can_be_mapped");
    for passthrough in [Passthrough::Auto, Passthrough::Off] {
        let rig = Rig::with(|c| c.passthrough = passthrough)?;
        fs::write(rig.m("f"), vec![b'a'; 8192])?;
        let script = "import mmap,os,sys\n\
                      fd=os.open(sys.argv[1],os.O_RDWR|os.O_DIRECT); m=mmap.mmap(fd,8192)\n\
                      assert m[4999:5001]==b'aa'\n\
                      m[5000:5004]=b'MMAP'; m.flush()\n\
                      assert open(sys.argv[1],'rb').read()[5000:5004]==b'MMAP'\n\
                      m.close(); os.close(fd)";
        let status = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(rig.m("f"))
            .status()?;
        assert!(status.success());
        assert_eq!(&fs::read(rig.b("f"))?[5000..5004], b"MMAP");
    }
    Ok(())
}

#[test]
fn a_released_file_is_read_directly() -> TestResult {
    need_mount!("a_released_file_is_read_directly");
    for passthrough in [Passthrough::Auto, Passthrough::Off] {
        let rig = Rig::with(|c| c.passthrough = passthrough)?;
        let data = pattern(PAGES * PAGE);
        rig.released("f", &data)?;
        let path = rig.m("f");
        let seen = std::thread::scope(|scope| -> anyhow::Result<Vec<u8>> {
            let reader = scope.spawn(|| -> anyhow::Result<Vec<u8>> {
                let mut options = File::options();
                let file = options
                    .read(true)
                    .custom_flags(libc::O_DIRECT)
                    .open(&path)?;
                let mut seen = Vec::new();
                for page in 0..PAGES {
                    with_page(0, |bytes| -> TestResult {
                        file.read_exact_at(bytes, (page * PAGE) as u64)?;
                        seen.extend_from_slice(bytes);
                        Ok(())
                    })?;
                }
                Ok(seen)
            });
            while !reader.is_finished() {
                rig.fake.stream();
                std::thread::yield_now();
            }
            reader.join().unwrap()
        })?;
        assert!(seen == data);
    }
    Ok(())
}
