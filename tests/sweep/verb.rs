//! What is swept: one verb of Cairn in one entry, with the disks that it begins from.

use crate::apart::{self, Program};
use crate::check;
use crate::deletion;
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
    /// The same with today's, and further files that were archived and deleted.
    Deleted,
    /// As released, without a catalog.
    Uncatalogued,
    /// As released, and the records of some files are gone.
    Lost,
    /// As released, and the backing is empty; its instance has not written for long.
    Gone,
}

/// When the points are counted.
pub(crate) enum During {
    /// While it works.
    Work(Act),
    /// From the first instruction until it has settled.
    Start,
    /// While it stops, with the files read before.
    Stop,
    /// While another program runs, and no instance.
    Apart(Program),
}

/// What is asked of an instance.
pub(crate) type Act = fn(&Site, &mut Reference) -> Result<()>;

pub(crate) struct Verb {
    pub(crate) name: &'static str,
    pub(crate) from: From,
    pub(crate) during: During,
    /// The same again is asked of a living instance after the fault.
    pub(crate) again: bool,
    /// Not all files can be read before it is done.
    pub(crate) mends: bool,
    /// What must hold of the verb at the end, beside what always must.
    pub(crate) after: Act,
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
    verb("change", From::Released, During::Work(change)),
    Verb {
        after: deletion::collected,
        ..work("collect", From::Deleted, deletion::collect)
    },
    Verb {
        after: deletion::undeleted,
        ..work("undelete", From::Deleted, deletion::undelete)
    },
    Verb {
        after: deletion::removed,
        ..work("remove", From::Released, deletion::remove)
    },
    verb(
        "rebuild from stubs",
        From::Uncatalogued,
        During::Apart(apart::FROM_STUBS),
    ),
    verb(
        "rebuild from tiers",
        From::Released,
        During::Apart(apart::FROM_TIERS),
    ),
    verb("restore", From::Gone, During::Apart(apart::RESTORE)),
    Verb {
        mends: true,
        ..work("repair", From::Lost, apart::repair)
    },
    verb("stop", From::Released, During::Stop),
];

impl Verb {
    /// Is a program that must end well before an instance starts.
    pub(crate) fn is_needed(&self) -> bool {
        matches!(&self.during, During::Apart(program) if program.is_needed)
    }
}

const fn verb(name: &'static str, from: From, during: During) -> Verb {
    Verb {
        name,
        from,
        during,
        again: false,
        mends: false,
        after: |_, _| Ok(()),
    }
}

const fn work(name: &'static str, from: From, act: Act) -> Verb {
    Verb {
        again: true,
        ..verb(name, from, During::Work(act))
    }
}

impl From {
    /// Disks in this state, made by Cairn itself.
    pub(crate) fn prepare(self, kind: &'static str) -> Result<Images> {
        let mut site = Site::new(kind, self.settings())?;
        let mut reference = fill(&site.cairn.backing)?;
        if self != Self::Never {
            site.up(Aim::Count, false)?;
            check::settle(&site)?;
            if self >= Self::Archived {
                site.whole("archive")?;
            }
            if self >= Self::Released {
                site.whole("release")?;
            }
            if self == Self::Deleted {
                deletion::prepare(&site, &mut reference)?;
            }
            site.down()?;
            self.spoil(&site)?;
        }
        site.sync()?;
        site.freeze(reference)
    }

    /// Tiers are not freed at other times than when they are asked to be.
    fn settings(self) -> &'static str {
        match self {
            Self::Deleted => "collect-every = \"0s\"\n",
            _ => "",
        }
    }

    /// What is done to the disks behind the instance's back.
    fn spoil(self, site: &Site) -> Result<()> {
        match self {
            Self::Never | Self::Resident | Self::Archived | Self::Released | Self::Deleted => {
                Ok(())
            }
            Self::Older => older::make(&site.cairn.state.join("catalog.sqlite")),
            Self::Uncatalogued => apart::forget_catalog(site),
            Self::Lost => apart::take_records(site),
            Self::Gone => apart::lose_backing(site),
        }
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
