//! What parked reads cost others (P11): reads that the server answers from the disk, and RELEASE,
//! measured idle and beside them. The numbers are printed; that nobody waits for the parked ones is
//! what is tested: they are let go only after the others are done.
//!
//! `CAIRN_PARKED` (default 500) says how many are parked; docs/benchmarks.md has the command.

use crate::rig::{Rig, TestResult, eventually, need_mount, pattern};
use cairn_fuse::{NodeHandle, Passthrough};
use std::fs::{self, File};
use std::io::Read;
use std::time::{Duration, Instant};

const SIZE: usize = 4096;
/// Files that are read, and closed, for each measurement.
const LOOKS: usize = 400;

/// Latencies: of a first read of a file, and from close until its RELEASE has been served.
#[derive(Default)]
struct Measured {
    read: Vec<Duration>,
    release: Vec<Duration>,
}

/// Reads files that nobody has read since the mount began, by opens that the server serves.
fn measure(rig: &Rig, first: usize) -> anyhow::Result<Measured> {
    let mut measured = Measured::default();
    let data = pattern(SIZE);
    for i in first..first + LOOKS {
        let name = format!("resident{i}");
        let handle = NodeHandle::of(File::open(rig.b(&name))?)?;
        let mut file = File::open(rig.m(&name))?;
        let mut seen = vec![0; SIZE];
        let begun = Instant::now();
        file.read_exact(&mut seen)?;
        measured.read.push(begun.elapsed());
        assert!(seen == data);
        let begun = Instant::now();
        drop(file);
        eventually_now("RELEASE is served", || {
            rig.mirror().gate().hold(&handle).is_some()
        });
        measured.release.push(begun.elapsed());
    }
    Ok(measured)
}

/// As `eventually`, without its steps: they would be what is measured.
fn eventually_now(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < until, "{what}");
        std::thread::yield_now();
    }
}

fn shown(name: &str, times: &mut [Duration]) -> String {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_micros();
    format!("{name} p50 {} us, p99 {} us", at(50), at(99))
}

fn print(when: &str, mut measured: Measured) {
    let read = shown("read", &mut measured.read);
    let release = shown("RELEASE", &mut measured.release);
    eprintln!("{when:<8} {read}; {release} (n = {LOOKS})");
}

#[test]
fn parked_reads_delay_neither_reads_nor_release() -> TestResult {
    need_mount!("parked_reads_delay_neither_reads_nor_release");
    let parked = std::env::var("CAIRN_PARKED").ok();
    let parked: usize = parked.and_then(|text| text.parse().ok()).unwrap_or(500);
    let rig = Rig::with(|c| c.passthrough = Passthrough::Off)?;
    let data = pattern(SIZE);
    // All made in the backing, so that the kernel above has nothing of them.
    for i in 0..parked {
        let path = rig.b(&format!("away{i}"));
        fs::write(&path, &data)?;
        rig.fake.release(&path)?;
    }
    for i in 0..3 * LOOKS {
        fs::write(rig.b(&format!("resident{i}")), &data)?;
    }
    print("idle", measure(&rig, 0)?);
    std::thread::scope(|scope| -> TestResult {
        let readers: Vec<_> = (0..parked)
            .map(|i| {
                let path = rig.m(&format!("away{i}"));
                std::thread::Builder::new()
                    .stack_size(128 << 10)
                    .spawn_scoped(scope, move || fs::read(path))
            })
            .collect::<Result<_, _>>()?;
        eventually("all are parked", || rig.fake.waiting() >= parked);
        let measured = measure(&rig, LOOKS);
        let still = rig.fake.waiting();
        eventually("all are served", || {
            rig.fake.stream();
            readers
                .iter()
                .all(std::thread::ScopedJoinHandle::is_finished)
        });
        for reader in readers {
            assert!(reader.join().unwrap()? == data);
        }
        print(&format!("{parked} parked"), measured?);
        assert_eq!(still, parked, "they waited all the while");
        Ok(())
    })?;
    print("idle", measure(&rig, 2 * LOOKS)?);
    Ok(())
}
