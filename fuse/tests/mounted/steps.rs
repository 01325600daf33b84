//! What the models do: one step, the same on the mount and in a plain directory, and all that a
//! program can see of it.
//!
//! Times of two files are never the same. So what is compared of them is:
//! - an mtime that was set: to the nanosecond, until something moves it. Steps set old ones before
//!   they begin, and so tell exactly which operations move mtime and which do not;
//! - whether a step moved ctime. It begins when the clock is past the old one, so that it is known.

#[path = "steps/attributes.rs"]
mod attributes;
#[path = "steps/data.rs"]
mod data;
#[path = "steps/kept.rs"]
mod kept;
#[path = "steps/names.rs"]
mod names;

pub(crate) use kept::{Keeps, Kept};

use attributes::AttributeAct;
use data::DataAct;
use kept::KeptAct;
use names::NameAct;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};
use std::fmt::Write;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

/// Directories, which all names are spread over.
pub(crate) const DIRS: u64 = 3;
/// Blocks and pages of the filesystems on which holes are compared.
const PAGE: u64 = 4096;
/// Files of at most this size are read whole, of larger ones both ends.
const WHOLE: u64 = 4 << 20;
const END: u64 = 128 << 10;
/// No operation of a run sets a time before this one (2001), and no step one after it.
const OLD: u64 = 1_000_000_000;

/// What a program gets.
pub(crate) type Outcome = std::io::Result<Vec<u8>>;

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

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.roll(all.len() as u64) as usize]
    }
}

/// The names of one group, spread over the directories: some may be directories themselves, with
/// names below.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names {
    pub(crate) group: u64,
    pub(crate) count: u64,
    /// There is no other group: the directories themselves may be moved, and are looked at.
    pub(crate) alone: bool,
}

impl Names {
    pub(crate) fn all(self) -> impl Iterator<Item = String> {
        (0..self.count).map(move |number| {
            let Self { group, .. } = self;
            format!("d{}/g{group}n{number}", (group + number) % DIRS)
        })
    }

    fn top(self, dice: &mut Dice) -> String {
        let number = dice.roll(self.count) as usize;
        self.all().nth(number).unwrap()
    }

    /// One of them; mostly one that is a regular file in `plain`, of several tried.
    fn for_step(self, dice: &mut Dice, plain: &Path) -> String {
        let mut tries = [1, 6, 6, 6][dice.roll(4) as usize];
        loop {
            let name = self.roll(dice);
            tries -= 1;
            if tries == 0 || plain.join(&name).is_file() {
                return name;
            }
        }
    }

    pub(crate) fn roll(self, dice: &mut Dice) -> String {
        let top = self.top(dice);
        match dice.roll(8) {
            0 => format!("{top}/x"),
            1 => format!("{top}/y"),
            _ => top,
        }
    }
}

/// Where a step is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ground {
    /// Where data and holes are is told exactly, and depends on nothing but what was written.
    pub(crate) tells_holes: bool,
    /// O_DIRECT is there.
    pub(crate) direct: bool,
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Name(NameAct),
    Data(DataAct),
    Attribute(AttributeAct),
    Kept(KeptAct),
}

/// One step, the same for both directories.
pub(crate) struct Step {
    act: Act,
    names: Names,
    name: String,
    other: String,
    offset: u64,
    data: Vec<u8>,
    /// Which kind of its act.
    variant: u64,
    /// Sets old times first.
    dated: bool,
    /// Sees whether ctime moves.
    timed: bool,
}

/// All that a step shows.
#[derive(PartialEq, Eq)]
pub(crate) struct Seen {
    result: Result<Vec<u8>, String>,
    looks: String,
}

impl Step {
    /// What `plain` has by now decides, too: else most steps would meet no file.
    pub(crate) fn roll(dice: &mut Dice, names: Names, plain: &Path) -> Self {
        let whole = names.alone && dice.roll(24) == 0;
        let act = match dice.roll(12) {
            _ if whole => Act::Name(dice.one_of(&[NameAct::Rename, NameAct::Exchange])),
            0..=2 => Act::Name(dice.one_of(NameAct::ALL)),
            3..=7 => Act::Data(dice.one_of(DataAct::ALL)),
            8..=9 => Act::Attribute(dice.one_of(AttributeAct::ALL)),
            _ => Act::Kept(dice.one_of(KeptAct::ALL)),
        };
        let name = |dice: &mut Dice| match whole && dice.roll(4) > 0 {
            true => format!("d{}", dice.roll(DIRS)),
            false => names.for_step(dice, plain),
        };
        let (name, other) = (name(dice), name(dice));
        let near = dice.roll(40_000);
        Self {
            act,
            names,
            name,
            other,
            offset: match dice.roll(24) {
                0 => near + (1 << 33),
                1..=2 => near + (1 << 20),
                _ => near,
            },
            data: vec![1 + dice.roll(255) as u8; 1 + dice.roll(12_000) as usize],
            variant: dice.roll(240),
            dated: dice.roll(3) == 0,
            timed: dice.roll(5) == 0,
        }
    }

    /// Makes a directory: what a run does that has lost one.
    pub(crate) fn make_dir(names: Names, name: &str) -> Self {
        Self {
            act: Act::Name(NameAct::MakeDir),
            names,
            name: name.to_owned(),
            other: name.to_owned(),
            offset: 0,
            data: Vec::new(),
            variant: 0,
            dated: false,
            timed: false,
        }
    }

    /// Does it change names and is it seen whether ctime moves? Then no release may begin
    /// meanwhile: it is not told of that change, and takes the ctime of just then for its own.
    pub(crate) fn wants_quiet(&self) -> bool {
        self.timed && matches!(self.act, Act::Name(_))
    }

    /// Does it, and says what a program would see of it. The first of `kept` is this side's.
    pub(crate) fn run(&self, root: &Path, ground: Ground, kept: Option<&Kept>) -> Seen {
        let mut looks = String::new();
        if self.dated {
            for (number, name) in self.touched().iter().enumerate() {
                let set = set_mtime(&root.join(name), self.old_time(number as u64));
                let _ = write!(looks, "{:?} ", set.err());
            }
        }
        let before = self.timed.then(|| ctime_then(&root.join(&self.name)));
        let result = match self.act {
            Act::Name(act) => act.run(self, root),
            Act::Data(act) => act.run(self, root, ground),
            Act::Attribute(act) => act.run(self, root),
            Act::Kept(_) => kept.map_or(Ok(Vec::new()), |kept| kept.used(self)),
        };
        if let Some(before) = before {
            let moved = before.map(|(inode, ctime)| {
                let now = ctime_of(&root.join(&self.name));
                now.map(|now| (now.0 == inode, now.1 != ctime))
            });
            let _ = write!(looks, "(same file, ctime moved) {moved:?} ");
        }
        for name in self.touched() {
            let look = look_at(&root.join(&name));
            let _ = write!(looks, "\n  {name}: {look}");
        }
        Seen {
            result: told(result),
            looks,
        }
    }

    /// The names that it is about, and directories above them that nobody else uses.
    fn touched(&self) -> Vec<String> {
        let mut all = vec![self.name.clone(), self.other.clone()];
        for name in [&self.name, &self.other] {
            if let Some((above, _)) = name.rsplit_once('/')
                && (self.names.alone || above.contains('/'))
            {
                all.push(above.to_owned());
            }
        }
        all
    }

    /// A time that no operation sets.
    fn old_time(&self, number: u64) -> Timespec {
        let tv_sec = (self.data.len() as u64 * 7919 + self.variant * 31 + number) % OLD;
        Timespec {
            tv_sec: tv_sec as i64,
            tv_nsec: ((self.offset * 104_729 + number) % 1_000_000_000) as i64,
        }
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            act,
            name,
            other,
            offset,
            variant,
            ..
        } = self;
        let length = self.data.len();
        write!(
            f,
            "{act:?} {name} {other}, {length} bytes at {offset}, variant {variant}"
        )
    }
}

impl Seen {
    /// How this differs from what is `wanted`, in few enough words for a test's message.
    pub(crate) fn difference(&self, wanted: &Self) -> Option<String> {
        if self == wanted {
            return None;
        }
        let data = match (&self.result, &wanted.result) {
            (Ok(seen), Ok(wanted)) => difference(seen, wanted),
            (seen, wanted) => {
                let length = |result: &Result<Vec<u8>, String>| result.clone().map(|d| d.len());
                format!("{:?} for {:?}", length(seen), length(wanted))
            }
        };
        Some(format!("{data}; {}\nfor {}", self.looks, wanted.looks))
    }
}

/// Where two results part, and what each has there.
pub(crate) fn difference(seen: &[u8], wanted: &[u8]) -> String {
    let apart = |&i: &usize| seen.get(i) != wanted.get(i);
    let length = seen.len().max(wanted.len());
    let Some(first) = (0..length).find(apart) else {
        return format!("{length} bytes");
    };
    let last = (0..length).rev().find(apart).unwrap_or(first);
    let text = |bytes: &[u8]| match bytes.len() {
        0..200 => format!("{:?}", String::from_utf8_lossy(bytes)),
        length => format!("{length} bytes"),
    };
    format!(
        "{} for {}, differing within {first}..={last}: {:?} for {:?}",
        text(seen),
        text(wanted),
        seen.get(first),
        wanted.get(first)
    )
}

/// An error by its number; one that is none of the system's by its kind.
fn told(outcome: Outcome) -> Result<Vec<u8>, String> {
    outcome.map_err(|e| match e.raw_os_error() {
        Some(number) => format!("errno {number}"),
        None => format!("{:?}", e.kind()),
    })
}

fn error(number: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(number)
}

/// A file's bytes, and how many they are; of a very large one those of both ends.
pub(crate) fn all_of(file: &File) -> Outcome {
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(error(libc::EISDIR));
    }
    let size = meta.len();
    let (head, tail) = match size {
        0..=WHOLE => (size, 0),
        _ => (END, END),
    };
    let mut data = vec![0; (head + tail) as usize];
    let (first, last) = data.split_at_mut(head as usize);
    file.read_exact_at(first, 0)?;
    file.read_exact_at(last, size - tail)?;
    data.extend(size.to_le_bytes());
    Ok(data)
}

/// What is the same of a file wherever it is.
pub(crate) fn look_of(meta: &fs::Metadata) -> String {
    let size = if meta.is_dir() { 0 } else { meta.len() };
    let ids = (meta.uid(), meta.gid());
    let mtime = match u64::try_from(meta.mtime()) {
        Ok(OLD..) => "now".to_owned(),
        _ => format!("{}.{:09}", meta.mtime(), meta.mtime_nsec()),
    };
    format!("{size} {} {:o} {ids:?} {mtime}", meta.nlink(), meta.mode())
}

/// All that can be seen of a file without reading it.
pub(crate) fn all_seen(path: &Path) -> std::io::Result<String> {
    let attributes = attributes::attributes_of(path)?;
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, "user.v", &mut value[..]).unwrap_or(0);
    value.truncate(length);
    let names = String::from_utf8_lossy(&attributes).into_owned();
    let look = look_of(&fs::symlink_metadata(path)?);
    Ok(format!("{look} {names} {value:?}"))
}

fn look_at(path: &Path) -> String {
    match fs::symlink_metadata(path) {
        Ok(meta) => look_of(&meta),
        Err(error) => format!("{:?}", error.raw_os_error()),
    }
}

fn set_mtime(path: &Path, last_modification: Timespec) -> rustix::io::Result<()> {
    let last_access = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_OMIT,
    };
    let times = Timestamps {
        last_access,
        last_modification,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// Inode number and ctime.
fn ctime_of(path: &Path) -> Option<(u64, (i64, i64))> {
    let meta = fs::symlink_metadata(path).ok()?;
    Some((meta.ino(), (meta.ctime(), meta.ctime_nsec())))
}

/// The same, when the clock that stamps files is past that ctime.
fn ctime_then(path: &Path) -> Option<(u64, (i64, i64))> {
    let (inode, ctime) = ctime_of(path)?;
    crate::rig::eventually("the clock goes on", || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        (now.tv_sec, now.tv_nsec) > ctime
    });
    Some((inode, ctime))
}
