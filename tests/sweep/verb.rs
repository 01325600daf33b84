//! What is swept: one verb of Cairn in one entry, with the disks that it begins from.

use crate::check;
use crate::fault::Aim;
use crate::older;
use crate::reference::{Content, May, Reference, fill, look};
use crate::rig::truncate;
use crate::site::{Images, Site};
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// What lies on the disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum From {
    /// The users' files, and an instance that was never started.
    Never,
    /// Files that were never archived, of an instance that was started once.
    Resident,
    /// Archived, on disk.
    Archived,
    /// Archived, and those that are worth it released.
    Released,
    /// The same, with a catalog of the schema version before.
    Older,
}

/// When the points are counted.
pub(crate) enum During {
    /// While it works.
    Work(fn(&Site, &mut Reference) -> Result<()>),
    /// From the first instruction until it has settled.
    Start,
    /// While it stops, with the files read before.
    Stop,
}

pub(crate) struct Verb {
    pub(crate) name: &'static str,
    pub(crate) from: From,
    pub(crate) during: During,
    /// The same again is asked of a living instance after the fault.
    pub(crate) again: bool,
}

/// All verbs. A new one needs no more than its line, and what it does.
pub(crate) const VERBS: &[Verb] = &[
    verb("first start", From::Never, During::Start),
    verb("start", From::Released, During::Start),
    verb("migration", From::Older, During::Start),
    work("archive", From::Resident, |site, _| site.whole("archive")),
    work("release", From::Archived, |site, _| site.whole("release")),
    work("read", From::Released, |site, reference| {
        reference.compare(&look(&site.cairn.mount)?)
    }),
    work("stage", From::Released, |site, _| site.whole("stage")),
    work("verify", From::Released, |site, _| site.whole("verify")),
    Verb {
        name: "change",
        from: From::Released,
        during: During::Work(change),
        again: false,
    },
    verb("stop", From::Released, During::Stop),
];

const fn verb(name: &'static str, from: From, during: During) -> Verb {
    Verb {
        name,
        from,
        during,
        again: false,
    }
}

const fn work(
    name: &'static str,
    from: From,
    act: fn(&Site, &mut Reference) -> Result<()>,
) -> Verb {
    Verb {
        name,
        from,
        during: During::Work(act),
        again: true,
    }
}

impl From {
    /// Disks in this state, made by Cairn itself.
    pub(crate) fn prepare(self, kind: &'static str) -> Result<Images> {
        let mut site = Site::new(kind)?;
        let reference = fill(&site.cairn.backing)?;
        if self != Self::Never {
            site.up(Aim::Count, false)?;
            check::settle(&site)?;
            if self >= Self::Archived {
                site.whole("archive")?;
            }
            if self >= Self::Released {
                site.whole("release")?;
            }
            site.down()?;
            if self == Self::Older {
                older::make(&site.cairn.state.join("catalog.sqlite"))?;
            }
        }
        site.sync()?;
        site.freeze(reference)
    }
}

/// A user changes released files, each change synced.
fn change(site: &Site, reference: &mut Reference) -> Result<()> {
    let mount = site.cairn.mount.as_path();
    let results = [
        overwrite(mount, reference),
        cut(mount, reference, "100k", 0, &["small/linked"]),
        cut(mount, reference, "sparse", 2 << 20, &[]),
        patch(mount, reference),
        rename(mount, reference),
        unlink(mount, reference),
    ];
    results.into_iter().collect()
}

fn synced(mount: &Path, done: Result<()>) -> Result<()> {
    done?;
    Ok(File::open(mount)?.sync_all()?)
}

/// New content by O_TRUNC.
fn overwrite(mount: &Path, reference: &mut Reference) -> Result<()> {
    let content: Content = Arc::new(crate::rig::tree::bytes(50, 80_000));
    let write = || {
        let mut file = File::create(mount.join("70k"))?;
        file.write_all(&content)?;
        Ok(file.sync_all()?)
    };
    let done = synced(mount, write());
    let begun = vec![("70k", May::Begin(Arc::clone(&content)))];
    let end = vec![("70k", May::Be(content))];
    reference.change(done.is_ok(), end, vec![begun]);
    done.context("overwrite")
}

/// `truncate(2)`, which other names of the file show as well.
fn cut(
    mount: &Path,
    reference: &mut Reference,
    name: &'static str,
    size: usize,
    others: &[&'static str],
) -> Result<()> {
    let content = Arc::new(reference.files[name][..size].to_vec());
    let done = truncate(&mount.join(name), size as u64)
        .and_then(|()| Ok(File::open(mount.join(name))?.sync_all()?));
    let names = others.iter().copied().chain([name]);
    let end = names.map(|n| (n, May::Be(Arc::clone(&content)))).collect();
    reference.change(done.is_ok(), end, Vec::new());
    done.context("truncate")
}

/// A block in the middle.
fn patch(mount: &Path, reference: &mut Reference) -> Result<()> {
    let mut content = reference.files["large"].to_vec();
    content[1 << 20..(1 << 20) + 4096].fill(7);
    let content: Content = Arc::new(content);
    let write = || {
        let file = File::options().write(true).open(mount.join("large"))?;
        file.write_all_at(&[7; 4096], 1 << 20)?;
        Ok(file.sync_all()?)
    };
    let done: Result<()> = write();
    let end = ["large", "symlink"].map(|n| (n, May::Be(Arc::clone(&content))));
    reference.change(done.is_ok(), end.into(), Vec::new());
    done.context("write")
}

fn rename(mount: &Path, reference: &mut Reference) -> Result<()> {
    let content = Arc::clone(&reference.files["small/1"]);
    let to = mount.join("renamed");
    let done = synced(
        mount,
        fs::rename(mount.join("small/1"), to).map_err(Into::into),
    );
    let done = synced(&mount.join("small"), done);
    let end = vec![("small/1", May::Miss), ("renamed", May::Be(content))];
    reference.change(done.is_ok(), end, Vec::new());
    done.context("rename")
}

fn unlink(mount: &Path, reference: &mut Reference) -> Result<()> {
    let done = fs::remove_file(mount.join("small/2")).map_err(Into::into);
    let done = synced(&mount.join("small"), done);
    reference.change(done.is_ok(), vec![("small/2", May::Miss)], Vec::new());
    done.context("unlink")
}
