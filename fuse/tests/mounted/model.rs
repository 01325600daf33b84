//! Random operations on the mount and on a plain directory must do the same, while files are
//! released under them at every opportunity and brought back when they are needed.

use crate::rig::{Rig, TestResult, need_mount};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const NAMES: u64 = 6;
const STEPS: u32 = 600;

/// A small deterministic generator (splitmix64), so that a seed names a run.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// One step, the same for both directories.
struct Step {
    kind: u64,
    name: String,
    other: String,
    offset: u64,
    data: Vec<u8>,
}

impl Step {
    fn roll(dice: &mut Dice) -> Self {
        Self {
            kind: dice.roll(11),
            name: format!("n{}", dice.roll(NAMES)),
            other: format!("n{}", dice.roll(NAMES)),
            offset: dice.roll(60_000),
            data: vec![1 + dice.roll(255) as u8; 1 + dice.roll(20_000) as usize],
        }
    }

    /// Does it, and says what a program would see of it.
    fn run(&self, dir: &Path) -> std::io::Result<Vec<u8>> {
        let (path, other) = (dir.join(&self.name), dir.join(&self.other));
        let open = || File::options().read(true).write(true).open(&path);
        let all = |file: &File| -> std::io::Result<Vec<u8>> {
            let mut data = vec![0; file.metadata()?.len() as usize];
            file.read_exact_at(&mut data, 0)?;
            Ok(data)
        };
        match self.kind {
            0 => fs::write(&path, &self.data)?,
            1 => {
                let file = open()?;
                file.write_all_at(&self.data, self.offset)?;
                return all(&file);
            }
            2 => {
                let file = open()?;
                file.set_len(self.offset)?;
                return all(&file);
            }
            3 => fs::rename(&path, &other)?,
            4 => fs::remove_file(&path)?,
            5 => fs::hard_link(&path, &other)?,
            6 => {
                let mut file = File::options().read(true).append(true).open(&path)?;
                fs::remove_file(&path)?;
                file.write_all(&self.data)?;
                let mut seen = all(&file)?;
                seen.push(file.metadata()?.nlink() as u8);
                return Ok(seen);
            }
            7 => fs::set_permissions(
                &path,
                PermissionsExt::from_mode(0o600 + self.offset as u32 % 8),
            )?,
            8 => {
                let mut seen: Vec<_> = fs::read_dir(dir)?
                    .map(|entry| entry.map(|e| e.file_name().into_encoded_bytes()))
                    .collect::<Result<_, _>>()?;
                seen.sort();
                return Ok(seen.concat());
            }
            9 => {
                let meta = fs::metadata(&path)?;
                return Ok(format!("{} {} {:o}", meta.len(), meta.nlink(), meta.mode()).into());
            }
            _ => {
                let mut seen = Vec::new();
                File::open(&path)?.read_to_end(&mut seen)?;
                return Ok(seen);
            }
        }
        Ok(Vec::new())
    }
}

/// Where two results part, and what each has there: few enough words for a test's message.
pub(crate) fn difference(seen: &[u8], wanted: &[u8]) -> String {
    let apart = |&i: &usize| seen.get(i) != wanted.get(i);
    let length = seen.len().max(wanted.len());
    let Some(first) = (0..length).find(apart) else {
        return format!("{} bytes", seen.len());
    };
    let last = (0..length).rev().find(apart).unwrap_or(first);
    format!(
        "{} bytes, differing within {first}..={last}: {:?} for {:?}",
        seen.len(),
        seen.get(first),
        wanted.get(first)
    )
}

/// One run; says how often a file was released.
fn run(seed: u64, passthrough: bool) -> anyhow::Result<u64> {
    let rig = Rig::with(|c| {
        if !passthrough {
            c.passthrough = cairn_fuse::Passthrough::Off;
        }
    })?;
    let reference = tempfile::tempdir()?;
    let over = AtomicBool::new(false);
    let releases = AtomicU64::new(0);
    std::thread::scope(|scope| -> TestResult {
        // Serves who waits, and releases what nobody uses.
        scope.spawn(|| {
            let mut dice = Dice(!seed);
            while !over.load(Ordering::Relaxed) {
                rig.fake.stream();
                let name = format!("n{}", dice.roll(NAMES));
                if rig.try_release(&name).unwrap_or(false) {
                    releases.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::yield_now();
            }
        });
        let mut dice = Dice(seed);
        let result = (0..STEPS).try_for_each(|number| {
            let step = Step::roll(&mut dice);
            let mirror = step.run(&rig.m("")).map_err(|e| e.raw_os_error());
            let plain = step.run(reference.path()).map_err(|e| e.raw_os_error());
            anyhow::ensure!(
                mirror == plain,
                "seed {seed}, step {number} (kind {}, {} {}): the mirror differs: {:?} for {:?}",
                step.kind,
                step.name,
                step.other,
                mirror
                    .as_deref()
                    .map(|seen| difference(seen, plain.as_deref().unwrap_or_default())),
                plain.as_deref().map(<[u8]>::len),
            );
            Ok(())
        });
        over.store(true, Ordering::Relaxed);
        result
    })?;
    Ok(releases.into_inner())
}

#[test]
fn the_mirror_behaves_like_a_plain_directory() -> TestResult {
    need_mount!("the_mirror_behaves_like_a_plain_directory");
    let mut releases = 0;
    for seed in 1..=6 {
        releases += run(seed, seed % 2 == 1)?;
    }
    assert!(releases > 0, "nothing was ever released");
    Ok(())
}
