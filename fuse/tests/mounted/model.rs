//! Random operations on the mount and on a plain directory must do the same, while files are
//! released under them at every opportunity and brought back when they are needed. One thread
//! does them, so that any step may touch any name, and a seed gives the same steps always.
//!
//! `CAIRN_MODEL_SEED` (one run of that seed) and `CAIRN_MODEL_STEPS` are for longer runs, here and
//! in `threads.rs`.

use crate::rig::{Rig, TestResult, need_mount};
use crate::steps::{DIRS, Dice, Ground, Keeps, Kept, Names, Step, difference};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const STEPS: u64 = 600;
const NAMES: Names = Names {
    group: 0,
    count: 6,
    alone: true,
};
/// Descriptors and mappings that are kept from step to step.
const KEPT: usize = 3;

/// Both directories.
pub(crate) struct Sides {
    pub(crate) mirror: PathBuf,
    plain: tempfile::TempDir,
    ground: Ground,
    /// Held for reading by steps that no release may begin under.
    quiet: RwLock<()>,
}

impl Sides {
    pub(crate) fn new(rig: &Rig) -> anyhow::Result<Self> {
        let plain = tempfile::tempdir()?;
        for dir in 0..DIRS {
            fs::create_dir(rig.m(&format!("d{dir}")))?;
            fs::create_dir(plain.path().join(format!("d{dir}")))?;
        }
        Ok(Self {
            mirror: rig.m(""),
            ground: ground(&rig.b(""), plain.path())?,
            plain,
            quiet: RwLock::default(),
        })
    }

    pub(crate) fn plain(&self) -> &Path {
        self.plain.path()
    }

    /// Does a step in both, with what its group has open in both. `label` says which it is.
    pub(crate) fn step(
        &self,
        kept: &mut Vec<(Kept, Kept)>,
        label: &str,
        step: &Step,
    ) -> TestResult {
        let _quiet = step.wants_quiet().then(|| self.quiet.read());
        let mut used = None;
        match step.keeps() {
            Some(Keeps::Opens) if kept.len() < KEPT => {
                let (mirror, plain) = (step.open(&self.mirror), step.open(self.plain()));
                let errors = [&mirror, &plain].map(|opened| opened.as_ref().err().map(numbered));
                anyhow::ensure!(errors[0] == errors[1], "{label} ({step}): {errors:?}");
                kept.extend(mirror.ok().zip(plain.ok()));
            }
            Some(Keeps::Closes) if !kept.is_empty() => {
                kept.remove(step.which(kept.len()));
            }
            Some(Keeps::Uses) if !kept.is_empty() => used = Some(&kept[step.which(kept.len())]),
            _ => {}
        }
        let mirror = step.run(&self.mirror, self.ground, used.map(|kept| &kept.0));
        let plain = step.run(self.plain(), self.ground, used.map(|kept| &kept.1));
        match mirror.difference(&plain) {
            Some(how) => anyhow::bail!("{label} ({step}): the mirror differs: {how}"),
            None => Ok(()),
        }
    }

    /// Runs `work` while another thread serves who waits and releases what nobody uses, as long as
    /// the flag is true that `work` is given. Says how often it released a file.
    pub(crate) fn while_releasing(
        &self,
        rig: &Rig,
        mut dice: Dice,
        name: impl Fn(&mut Dice) -> String + Sync,
        work: impl FnOnce(&AtomicBool) -> TestResult,
    ) -> anyhow::Result<u64> {
        let (over, releasing) = (AtomicBool::new(false), AtomicBool::new(true));
        let releases = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let _over = Over(&over);
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    rig.fake.stream();
                    if releasing.load(Ordering::Relaxed)
                        && let Ok(_others_wait) = self.quiet.try_write()
                    {
                        let released = rig.try_release(&name(&mut dice)).unwrap();
                        releases.fetch_add(u64::from(released), Ordering::Relaxed);
                    }
                    std::thread::sleep(std::time::Duration::from_micros(100));
                }
            });
            work(&releasing)
        })?;
        Ok(releases.into_inner())
    }

    /// When all is over: tree and contents as in the plain directory, and attributes as in the
    /// backing, with nothing old remembered.
    pub(crate) fn compare_at_the_end(&self, rig: &Rig) -> TestResult {
        for name in files_below(self.plain(), Path::new(""))? {
            // Also of what was released, or came back, while nobody looked; before a listing tells
            // the kernel all anew.
            crate::rig::eventually("the mount shows the backing's attributes", || {
                remembered(&rig.m(&name)).unwrap() == to_be_shown(rig, &name).unwrap()
            });
            let times = remembered(&rig.m(&name))?;
            // Opened for writing: that brings it back for good.
            let file = File::options().read(true).write(true).open(rig.m(&name))?;
            let mirror = crate::steps::all_of(&file)?;
            drop(file);
            let plain = crate::steps::all_of(&File::open(self.plain().join(&name))?)?;
            assert!(mirror == plain, "{name}: {}", difference(&mirror, &plain));
            assert_eq!(remembered(&rig.m(&name))?, times, "{name} after its recall");
        }
        assert_eq!(tree(&rig.m(""))?, tree(self.plain())?);
        Ok(())
    }
}

/// What both directories lie on.
fn ground(backing: &Path, plain: &Path) -> anyhow::Result<Ground> {
    /// There a read puts nothing in place of a hole, and no room is allocated unasked for.
    const EXT4: rustix::fs::FsWord = 0xef53;
    let on = |path: &Path| rustix::fs::statfs(path).map(|fs| (fs.f_type, fs.f_bsize));
    let probe = plain.join("probe");
    let direct = File::options()
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_DIRECT)
        .open(&probe)
        .is_ok();
    let _ = fs::remove_file(probe);
    let ground = Ground {
        tells_holes: on(backing)? == (EXT4, 4096) && on(plain)? == (EXT4, 4096),
        direct,
    };
    eprintln!("{ground:?}");
    Ok(ground)
}

fn numbered(error: &std::io::Error) -> String {
    format!("{:?} {:?}", error.raw_os_error(), error.kind())
}

/// Ends the releases when the run ends, also by a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Regular files below a directory, by their names relative to `root`.
fn files_below(root: &Path, dir: &Path) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(root.join(dir))? {
        let entry = entry?;
        let name = dir.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            all.extend(files_below(root, &name)?);
        } else if kind.is_file() {
            all.push(name.to_string_lossy().into_owned());
        }
    }
    Ok(all)
}

/// All names below the directories, with what can be seen of each.
fn tree(root: &Path) -> anyhow::Result<BTreeSet<String>> {
    let mut left: Vec<PathBuf> = (0..DIRS).map(|dir| root.join(format!("d{dir}"))).collect();
    let mut seen = BTreeSet::new();
    while let Some(dir) = left.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue; // it was moved, or is none
        };
        for entry in entries {
            let path = entry?.path();
            let all = crate::steps::all_seen(&path)?;
            seen.insert(format!("{:?} {all}", path.strip_prefix(root)?));
            if fs::symlink_metadata(&path)?.is_dir() {
                left.push(path);
            }
        }
    }
    Ok(seen)
}

/// Attributes to the nanosecond: what the kernel remembers of a file.
fn remembered(path: &Path) -> anyhow::Result<String> {
    let meta = fs::symlink_metadata(path)?;
    let time = |sec, nsec: i64| (sec, nsec as u32);
    let mtime = time(meta.mtime(), meta.mtime_nsec());
    let ctime = time(meta.ctime(), meta.ctime_nsec());
    Ok(shown(&meta, mtime, ctime))
}

/// What it should remember.
fn to_be_shown(rig: &Rig, name: &str) -> anyhow::Result<String> {
    let (mtime, ctime) = rig.fake.times_shown(&rig.b(name))?;
    let meta = fs::symlink_metadata(rig.b(name))?;
    Ok(shown(&meta, mtime, ctime))
}

fn shown(meta: &fs::Metadata, mtime: (i64, u32), ctime: (i64, u32)) -> String {
    let ids = (meta.uid(), meta.gid());
    let (size, links) = (meta.len(), meta.nlink());
    format!(
        "{size} {links} {:o} {ids:?} {mtime:?} {ctime:?}",
        meta.mode()
    )
}

/// What a test may be told from outside.
pub(crate) fn told_number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// One seed, as it was told, or those of the ordinary suite. Says how often files were released.
pub(crate) fn with_seeds(
    ordinary: std::ops::RangeInclusive<u64>,
    steps: u64,
    run: impl Fn(u64, u64, bool) -> anyhow::Result<u64>,
) -> TestResult {
    let steps = told_number("CAIRN_MODEL_STEPS").unwrap_or(steps);
    let seeds = told_number("CAIRN_MODEL_SEED").map_or(ordinary, |seed| seed..=seed);
    let mut releases = 0;
    for seed in seeds {
        let passthrough = seed % 2 == 1;
        eprintln!("seed {seed}: {steps} steps, passthrough {passthrough}");
        let result = run(seed, steps, passthrough);
        releases += result.map_err(|error| error.context(format!("seed {seed}")))?;
    }
    eprintln!("{releases} releases");
    assert!(releases > 0, "nothing was ever released");
    Ok(())
}

pub(crate) fn rig(passthrough: bool) -> anyhow::Result<Rig> {
    Rig::with(|c| {
        if !passthrough {
            c.passthrough = cairn_fuse::Passthrough::Off;
        }
    })
}

/// One run.
fn run(seed: u64, steps: u64, passthrough: bool) -> anyhow::Result<u64> {
    let rig = rig(passthrough)?;
    let sides = Sides::new(&rig)?;
    let name = |dice: &mut Dice| NAMES.roll(dice);
    sides.while_releasing(&rig, Dice(!seed), name, |releasing| {
        let (mut dice, mut kept) = (Dice(seed), Vec::new());
        for number in 0..steps {
            let mut step = Step::roll(&mut dice, NAMES, sides.plain());
            let mut dirs = (0..DIRS).map(|dir| format!("d{dir}"));
            // One that went into another one would take its names with it for good.
            if let Some(lost) = dirs.find(|dir| !sides.plain().join(dir).exists())
                && dice.roll(4) == 0
            {
                step = Step::make_dir(NAMES, &lost);
            }
            sides.step(&mut kept, &format!("step {number}"), &step)?;
        }
        drop(kept);
        releasing.store(false, Ordering::Relaxed);
        sides.compare_at_the_end(&rig)
    })
}

#[test]
fn the_mirror_behaves_like_a_plain_directory() -> TestResult {
    need_mount!("the_mirror_behaves_like_a_plain_directory");
    with_seeds(1..=6, STEPS, run)
}
