//! Random operations by several threads at once: on the mount and on a plain directory they give
//! the same tree, contents, attributes and errnos, while files are released and recalled under
//! them. Names come in groups, spread over the same directories. A group's operations are made
//! one after the other, by whichever thread comes, so that each has one right result; those of
//! different groups run at once, in the same directories. What several threads do to one file at
//! the same time is in `together.rs`, and runs beside it here.
//!
//! `CAIRN_MODEL_SEED` (one run of that seed) and `CAIRN_MODEL_STEPS` (of each thread) are for
//! longer runs. A seed gives each thread the same steps; how they fall together is up to the
//! machine.

use crate::model::{Dice, difference};
use crate::rig::{Rig, TestResult, eventually, need_mount};
use crate::together::Shared;
use rustix::fs::{CWD, RenameFlags, XattrFlags, renameat_with};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const THREADS: u64 = 4;
const STEPS: u64 = 400;
const GROUPS: u64 = 6;
const NAMES: u64 = 4;
const DIRS: u64 = 3;
/// Descriptors that a group keeps from step to step.
const KEPT: usize = 2;

/// A name of a group: the directories are all groups'.
fn name(group: u64, number: u64) -> String {
    format!("d{}/g{group}n{number}", (group + number) % DIRS)
}

/// What a group has open: the same file in the mount and in the plain directory.
struct Kept {
    mirror: File,
    plain: File,
}

/// One step, the same for both directories.
struct Step {
    kind: u64,
    group: u64,
    name: String,
    other: String,
    offset: u64,
    data: Vec<u8>,
}

type Outcome = std::io::Result<Vec<u8>>;

fn all_of(file: &File) -> Outcome {
    let mut data = vec![0; file.metadata()?.len() as usize];
    file.read_exact_at(&mut data, 0)?;
    Ok(data)
}

/// What is the same of a file wherever it is. A released file shows blocks, too.
fn look_of(meta: &fs::Metadata) -> String {
    let size = if meta.is_file() { meta.len() } else { 0 };
    let ids = (meta.uid(), meta.gid());
    format!("{size} {} {:o} {ids:?}", meta.nlink(), meta.mode())
}

impl Step {
    fn roll(dice: &mut Dice) -> Self {
        let group = dice.roll(GROUPS);
        Self {
            kind: dice.roll(20),
            group,
            name: name(group, dice.roll(NAMES)),
            other: name(group, dice.roll(NAMES)),
            offset: dice.roll(40_000),
            data: vec![1 + dice.roll(255) as u8; 1 + dice.roll(12_000) as usize],
        }
    }

    /// Does it by name, and says what a program would see of it.
    fn run(&self, root: &Path) -> Outcome {
        let (path, other) = (root.join(&self.name), root.join(&self.other));
        let open = || File::options().read(true).write(true).open(&path);
        let mode = 0o600 + self.offset as u32 % 0o100;
        match self.kind {
            0 => fs::write(&path, &self.data)?,
            1 => {
                let file = open()?;
                file.write_all_at(&self.data, self.offset)?;
                return all_of(&file);
            }
            2 => {
                let file = open()?;
                file.set_len(self.offset)?;
                return all_of(&file);
            }
            3 => fs::rename(&path, &other)?,
            4 => renameat_with(CWD, &path, CWD, &other, RenameFlags::NOREPLACE)?,
            5 => renameat_with(CWD, &path, CWD, &other, RenameFlags::EXCHANGE)?,
            6 => fs::remove_file(&path)?,
            7 => fs::hard_link(&path, &other)?,
            8 => fs::set_permissions(&path, PermissionsExt::from_mode(mode))?,
            9 => return self.listed(root),
            10 => File::create_new(&path)?.write_all(&self.data)?,
            11 => fs::create_dir(&path)?,
            12 => fs::remove_dir(&path)?,
            13 => {
                let mut file = File::options().append(true).read(true).open(&path)?;
                file.write_all(&self.data)?;
                return all_of(&file);
            }
            14 => {
                let value = &self.data[..self.data.len() % 200];
                rustix::fs::setxattr(&path, "user.v", value, XattrFlags::empty())?;
                let mut seen = vec![0; 256];
                let length = rustix::fs::getxattr(&other, "user.v", &mut seen[..])?;
                seen.truncate(length);
                return Ok(seen);
            }
            15 => {
                let (from, to) = (File::open(&path)?, open_for_copy(&other)?);
                let count = self.data.len();
                let mut place = (self.offset / 2, self.offset);
                let (input, output) = (Some(&mut place.0), Some(&mut place.1));
                let count = rustix::fs::copy_file_range(&from, input, &to, output, count)?;
                let mut seen = all_of(&to)?;
                seen.extend(count.to_le_bytes());
                return Ok(seen);
            }
            16 => return Ok(look_of(&fs::symlink_metadata(&path)?).into()),
            _ => {
                let mut seen = Vec::new();
                File::open(&path)?.read_to_end(&mut seen)?;
                return Ok(seen);
            }
        }
        Ok(look_of(&fs::symlink_metadata(&other)?).into())
    }

    /// The group's names in a directory in which others' come and go.
    fn listed(&self, root: &Path) -> Outcome {
        let mine = format!("g{}n", self.group);
        let dir = root.join(format!("d{}", self.offset % DIRS));
        let mut seen: Vec<Vec<u8>> = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(mine.as_bytes())
            {
                let look = look_of(&entry.metadata()?);
                seen.push(format!("{:?} {look}\n", entry.file_name()).into());
            }
        }
        seen.sort();
        Ok(seen.concat())
    }

    /// Uses a file that was opened by an earlier step.
    fn use_kept(&self, file: &File) -> Outcome {
        match self.data.len() % 4 {
            0 => file.write_all_at(&self.data, self.offset)?,
            1 => file.set_len(self.offset)?,
            2 => return Ok(look_of(&file.metadata()?).into()),
            _ => {}
        }
        all_of(file)
    }
}

fn open_for_copy(path: &Path) -> std::io::Result<File> {
    File::options().read(true).write(true).open(path)
}

/// Both directories, and what the groups have open in them.
struct Places<'a> {
    seed: u64,
    mirror: PathBuf,
    plain: &'a Path,
    groups: Vec<Mutex<Vec<Kept>>>,
}

impl Places<'_> {
    fn step(&self, thread: u64, number: u64, step: &Step) -> TestResult {
        let mut kept = self.groups[step.group as usize].lock().unwrap();
        let (mirror, plain) = match step.kind {
            17 if kept.len() < KEPT => {
                let writes = step.offset.is_multiple_of(2);
                let open = |root: &Path| {
                    let path = root.join(&step.name);
                    File::options().read(true).write(writes).open(path)
                };
                match (open(&self.mirror), open(self.plain)) {
                    (Ok(mirror), Ok(plain)) => {
                        kept.push(Kept { mirror, plain });
                        (Ok(Vec::new()), Ok(Vec::new()))
                    }
                    (mirror, plain) => (mirror.map(|_| Vec::new()), plain.map(|_| Vec::new())),
                }
            }
            18 if !kept.is_empty() => {
                let file = &kept[step.offset as usize % kept.len()];
                (step.use_kept(&file.mirror), step.use_kept(&file.plain))
            }
            19 if !kept.is_empty() => {
                let number = step.offset as usize % kept.len();
                kept.remove(number);
                return Ok(());
            }
            _ => (step.run(&self.mirror), step.run(self.plain)),
        };
        let (mirror, plain) = (told(mirror), told(plain));
        anyhow::ensure!(
            mirror == plain,
            "seed {}, thread {thread}, step {number} (kind {}, {} {}): the mirror differs: {:?} \
             for {:?}",
            self.seed,
            step.kind,
            step.name,
            step.other,
            mirror
                .as_deref()
                .map(|seen| difference(seen, plain.as_deref().unwrap_or_default())),
            plain.as_deref().map(<[u8]>::len),
        );
        Ok(())
    }
}

/// An error by its number; one that is none of the system's by its kind.
fn told(outcome: Outcome) -> Result<Vec<u8>, String> {
    outcome.map_err(|e| match e.raw_os_error() {
        Some(number) => number.to_string(),
        None => format!("{:?}", e.kind()),
    })
}

/// Releases some file unless somebody uses it.
fn release_at_random(rig: &Rig, dice: &mut Dice) -> bool {
    let name = match dice.roll(8) {
        0 => Shared::LOG.to_owned(),
        1 => Shared::SLOTS.to_owned(),
        2 => Shared::token(dice.roll(Shared::TOKENS)),
        _ => name(dice.roll(GROUPS), dice.roll(NAMES)),
    };
    let path = rig.b(&name);
    let is_file = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
    is_file && rig.try_release(&name).unwrap_or(false)
}

/// All names below a directory, with what can be seen of each.
fn tree(root: &Path) -> anyhow::Result<BTreeSet<String>> {
    let mut seen = BTreeSet::new();
    for dir in 0..DIRS {
        let dir = root.join(format!("d{dir}"));
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let meta = fs::symlink_metadata(&path)?;
            let mut value = vec![0; 256];
            let xattr = rustix::fs::getxattr(&path, "user.v", &mut value[..]);
            value.truncate(xattr.unwrap_or(0));
            let name = path.strip_prefix(root)?;
            seen.insert(format!("{name:?} {} {xattr:?} {value:?}", look_of(&meta)));
        }
    }
    Ok(seen)
}

/// What the kernel remembers of a file, to the nanosecond.
fn remembered(path: &Path) -> std::io::Result<String> {
    let meta = fs::symlink_metadata(path)?;
    let times = (
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    );
    Ok(format!(
        "{} {times:?} {}",
        look_of(&meta),
        meta.blocks().max(1)
    ))
}

/// When all is over: tree and contents as in the plain directory, and attributes as in the
/// backing, with nothing old remembered.
fn compare_at_the_end(rig: &Rig, plain: &Path) -> TestResult {
    for (group, number) in (0..GROUPS).flat_map(|g| (0..NAMES).map(move |n| (g, n))) {
        let name = name(group, number);
        if !plain.join(&name).is_file() {
            continue;
        }
        // Also of what was released, or came back, while nobody looked; before a listing tells
        // the kernel all anew.
        eventually("the mount shows the backing's attributes", || {
            remembered(&rig.m(&name)).unwrap() == remembered(&rig.b(&name)).unwrap()
        });
        // Opened for writing: that brings it back for good.
        let mirror = all_of(&open_for_copy(&rig.m(&name))?)?;
        let plain = fs::read(plain.join(&name))?;
        assert!(mirror == plain, "{name}: {}", difference(&mirror, &plain));
    }
    assert_eq!(tree(&rig.m(""))?, tree(plain)?);
    Ok(())
}

/// Ends the releases when the run ends, also by a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One run; says how often a file was released.
fn run(seed: u64, steps: u64, passthrough: bool) -> anyhow::Result<u64> {
    eprintln!("seed {seed}: {THREADS} threads of {steps} steps, passthrough {passthrough}");
    let rig = Rig::with(|c| {
        if !passthrough {
            c.passthrough = cairn_fuse::Passthrough::Off;
        }
    })?;
    let plain = tempfile::tempdir()?;
    for dir in 0..DIRS {
        fs::create_dir(rig.m(&format!("d{dir}")))?;
        fs::create_dir(plain.path().join(format!("d{dir}")))?;
    }
    let shared = Shared::new(&rig.m(""), THREADS)?;
    let places = Places {
        seed,
        mirror: rig.m(""),
        plain: plain.path(),
        groups: (0..GROUPS).map(|_| Mutex::default()).collect(),
    };
    let (releasing, over) = (AtomicBool::new(true), AtomicBool::new(false));
    let releases = AtomicU64::new(0);
    std::thread::scope(|scope| -> TestResult {
        let _over = Over(&over);
        scope.spawn(|| {
            let mut dice = Dice(!seed);
            while !over.load(Ordering::Relaxed) {
                rig.fake.stream();
                if releasing.load(Ordering::Relaxed) {
                    let released = release_at_random(&rig, &mut dice);
                    releases.fetch_add(u64::from(released), Ordering::Relaxed);
                }
                std::thread::sleep(std::time::Duration::from_micros(100));
            }
        });
        let work = |thread: u64| -> TestResult {
            let mut dice = Dice(seed.wrapping_mul(1000) + thread);
            for number in 0..steps {
                if dice.roll(3) == 0 {
                    shared.step(thread, &mut dice)?;
                } else {
                    places.step(thread, number, &Step::roll(&mut dice))?;
                }
            }
            Ok(())
        };
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || work(thread)))
            .collect();
        let results: Vec<_> = threads.into_iter().map(|t| t.join()).collect();
        releasing.store(false, Ordering::Relaxed);
        for group in &places.groups {
            group.lock().unwrap_or_else(|e| e.into_inner()).clear();
        }
        let mut end = results
            .into_iter()
            .try_for_each(|result| result.unwrap_or_else(|_| anyhow::bail!("a thread panicked")));
        if end.is_ok() {
            end = shared
                .at_the_end()
                .and_then(|()| compare_at_the_end(&rig, plain.path()));
        }
        end
    })
    .map_err(|error| error.context(format!("seed {seed}")))?;
    Ok(releases.into_inner())
}

#[test]
fn many_threads_see_what_a_plain_directory_shows() -> TestResult {
    need_mount!("many_threads_see_what_a_plain_directory_shows");
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let steps = number("CAIRN_MODEL_STEPS").unwrap_or(STEPS);
    let mut releases = 0;
    match number("CAIRN_MODEL_SEED") {
        Some(seed) => releases += run(seed, steps, seed % 2 == 1)?,
        None => {
            for seed in 1..=4 {
                releases += run(seed, steps, seed % 2 == 1)?;
            }
        }
    }
    eprintln!("{releases} releases");
    assert!(releases > 0, "nothing was ever released");
    Ok(())
}
