//! Changes of the namespace, each for itself, and many in a row against a model.

use super::place::Place;
use rustix::fs::{RenameFlags, XattrFlags, renameat_with, setxattr};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// One change that a server dies in, after it was done.
pub(crate) struct Change {
    pub(crate) name: &'static str,
    /// What the server is told of then.
    pub(crate) event: &'static str,
    before: fn(&Path) -> io::Result<()>,
    change: fn(&Path) -> io::Result<()>,
    after: fn(&Path) -> bool,
}

impl Change {
    pub(crate) fn prepare(&self, place: &Place) -> io::Result<()> {
        let dir = place.b("at");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir)?;
        (self.before)(&dir)
    }
    pub(crate) fn start(&self, place: &Place) -> JoinHandle<io::Result<()>> {
        let (dir, change) = (place.m("at"), self.change);
        std::thread::spawn(move || change(&dir))
    }
    pub(crate) fn check(&self, place: &Place) -> anyhow::Result<()> {
        for dir in [place.b("at"), place.m("at")] {
            anyhow::ensure!((self.after)(&dir), "{}: not as it should be", self.name);
        }
        Ok(())
    }
}

fn nothing(_: &Path) -> io::Result<()> {
    Ok(())
}

fn a_file(dir: &Path) -> io::Result<()> {
    fs::write(dir.join("a"), b"a")
}

fn two_files(dir: &Path) -> io::Result<()> {
    fs::write(dir.join("a"), b"a")?;
    fs::write(dir.join("b"), b"b")
}

fn rename(dir: &Path, flags: RenameFlags) -> io::Result<()> {
    let dir = File::open(dir)?;
    Ok(renameat_with(&dir, "a", &dir, "b", flags)?)
}

fn has(dir: &Path, name: &str, text: &str) -> bool {
    fs::read(dir.join(name)).is_ok_and(|found| found == text.as_bytes())
}

const ATTRIBUTE: &str = "user.tested";
/// What the server keeps under another name, and that name.
pub(crate) const ELSEWHERE: &str = "user.elsewhere";
pub(crate) const KEPT: &str = "user.kept";

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 64];
    let length = rustix::fs::getxattr(path, name, value.as_mut_slice()).ok()?;
    value.truncate(length);
    Some(value)
}

pub(crate) const CHANGES: &[Change] = &[
    Change {
        name: "create",
        event: "Created",
        before: nothing,
        change: |dir| {
            use std::io::Write;
            File::create_new(dir.join("a"))?.write_all(b"new")
        },
        after: |dir| has(dir, "a", "new"),
    },
    Change {
        name: "mkdir",
        event: "Created",
        before: nothing,
        change: |dir| fs::create_dir(dir.join("a")),
        after: |dir| dir.join("a").is_dir(),
    },
    Change {
        name: "symlink",
        event: "Created",
        before: nothing,
        change: |dir| std::os::unix::fs::symlink("to", dir.join("a")),
        after: |dir| fs::read_link(dir.join("a")).is_ok_and(|to| to == Path::new("to")),
    },
    Change {
        name: "mknod",
        event: "Created",
        before: nothing,
        change: |dir| {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            let kind = rustix::fs::FileType::Fifo;
            Ok(rustix::fs::mknodat(
                rustix::fs::CWD,
                dir.join("a"),
                kind,
                mode,
                0,
            )?)
        },
        after: |dir| dir.join("a").exists(),
    },
    Change {
        name: "link",
        event: "Linked",
        before: a_file,
        change: |dir| fs::hard_link(dir.join("a"), dir.join("b")),
        after: |dir| has(dir, "a", "a") && has(dir, "b", "a"),
    },
    Change {
        name: "unlink",
        event: "Unlinked",
        before: a_file,
        change: |dir| fs::remove_file(dir.join("a")),
        after: |dir| !dir.join("a").exists(),
    },
    Change {
        name: "rmdir",
        event: "Unlinked",
        before: |dir| fs::create_dir(dir.join("a")),
        change: |dir| fs::remove_dir(dir.join("a")),
        after: |dir| !dir.join("a").exists(),
    },
    Change {
        name: "rename",
        event: "Renamed",
        before: a_file,
        change: |dir| fs::rename(dir.join("a"), dir.join("b")),
        after: |dir| has(dir, "b", "a") && !dir.join("a").exists(),
    },
    Change {
        name: "rename over",
        event: "Renamed",
        before: two_files,
        change: |dir| fs::rename(dir.join("a"), dir.join("b")),
        after: |dir| has(dir, "b", "a") && !dir.join("a").exists(),
    },
    Change {
        name: "rename without replacing",
        event: "Renamed",
        before: a_file,
        change: |dir| rename(dir, RenameFlags::NOREPLACE),
        after: |dir| has(dir, "b", "a") && !dir.join("a").exists(),
    },
    Change {
        name: "exchange",
        event: "Renamed",
        before: two_files,
        change: |dir| rename(dir, RenameFlags::EXCHANGE),
        after: |dir| has(dir, "a", "b") && has(dir, "b", "a"),
    },
    Change {
        name: "a new attribute",
        event: "Attributes",
        before: a_file,
        change: |dir| {
            let how = XattrFlags::CREATE;
            Ok(setxattr(dir.join("a"), ATTRIBUTE, b"value", how)?)
        },
        after: |dir| attribute(&dir.join("a"), ATTRIBUTE).as_deref() == Some(b"value"),
    },
    Change {
        name: "an attribute less",
        event: "Attributes",
        before: |dir| {
            a_file(dir)?;
            Ok(setxattr(
                dir.join("a"),
                ATTRIBUTE,
                b"value",
                XattrFlags::empty(),
            )?)
        },
        change: |dir| Ok(rustix::fs::removexattr(dir.join("a"), ATTRIBUTE)?),
        after: |dir| attribute(&dir.join("a"), ATTRIBUTE).is_none(),
    },
    Change {
        name: "a new attribute that the server keeps elsewhere",
        event: "Attributes",
        before: a_file,
        change: |dir| {
            Ok(setxattr(
                dir.join("a"),
                ELSEWHERE,
                b"value",
                XattrFlags::CREATE,
            )?)
        },
        after: |dir| attribute(&dir.join("a"), KEPT).as_deref() == Some(b"value"),
    },
    Change {
        name: "an attribute less that the server keeps elsewhere",
        event: "Attributes",
        before: |dir| {
            a_file(dir)?;
            Ok(setxattr(
                dir.join("a"),
                KEPT,
                b"value",
                XattrFlags::empty(),
            )?)
        },
        change: |dir| Ok(rustix::fs::removexattr(dir.join("a"), ELSEWHERE)?),
        after: |dir| attribute(&dir.join("a"), KEPT).is_none(),
    },
];

/// splitmix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Works in a directory of its own until told to stop; any error, and any difference from what
/// the worker knows must be there, is a failure. Returns how much it did.
pub(crate) fn work(place: &Place, seed: u64, stop: &AtomicBool) -> anyhow::Result<u64> {
    let dir = place.m(&format!("worker-{seed}"));
    fs::create_dir(&dir)?;
    let mut random = Random(seed);
    let mut files: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut steps = 0;
    while !stop.load(Ordering::Relaxed) {
        let step = step(&dir, &mut random, &mut files);
        step.map_err(|e| e.context(format!("worker {seed}, step {steps}")))?;
        steps += 1;
    }
    let mut found: Vec<_> = fs::read_dir(&dir)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    found.sort();
    let mut known: Vec<_> = files.keys().map(|name| name.to_string()).collect();
    known.sort();
    anyhow::ensure!(found == known, "{found:?} instead of {known:?}");
    for (name, data) in &files {
        anyhow::ensure!(fs::read(dir.join(name.to_string()))? == *data, "{name}");
    }
    Ok(steps)
}

fn step(dir: &Path, random: &mut Random, files: &mut BTreeMap<u64, Vec<u8>>) -> anyhow::Result<()> {
    use anyhow::Context;
    use std::io::Write;
    let (name, other) = (random.below(12), random.below(12));
    let path = dir.join(name.to_string());
    let to = dir.join(other.to_string());
    match random.below(7) {
        0 | 1 => {
            if let Entry::Vacant(free) = files.entry(name) {
                let data = vec![random.below(255) as u8; random.below(9000) as usize];
                File::create_new(&path)
                    .and_then(|mut file| file.write_all(&data))
                    .context("create")?;
                free.insert(data);
            }
        }
        2 => {
            if files.remove(&name).is_some() {
                fs::remove_file(&path).context("unlink")?;
            }
        }
        3 => {
            if let Some(data) = files.remove(&name) {
                fs::rename(&path, &to).context("rename")?;
                files.insert(other, data);
            }
        }
        4 => {
            if let Some(data) = files.get(&name) {
                let found = fs::read(&path).context("read")?;
                anyhow::ensure!(found == *data, "other bytes");
            } else {
                let error = fs::metadata(&path).err().map(|e| e.kind());
                anyhow::ensure!(error == Some(io::ErrorKind::NotFound), "{error:?}");
            }
        }
        5 => {
            let inner = dir.join("dir");
            fs::create_dir(&inner).context("mkdir")?;
            fs::write(inner.join("file"), b"1").context("write in it")?;
            if files.contains_key(&name) {
                fs::hard_link(&path, inner.join("link")).context("link")?;
                fs::remove_file(inner.join("link")).context("unlink the link")?;
            }
            fs::remove_file(inner.join("file")).context("unlink in it")?;
            fs::remove_dir(&inner).context("rmdir")?;
        }
        _ => {
            if let Some(data) = files.get_mut(&name) {
                File::options()
                    .append(true)
                    .open(&path)
                    .and_then(|mut file| file.write_all(b"more"))
                    .context("append")?;
                data.extend(b"more");
            }
        }
    }
    Ok(())
}
