//! What is measured: each row prepares a side once, and then runs as often as it is asked to.

use crate::side::Side;
use crate::{data, names};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How much each row works on.
pub(crate) struct Sizes {
    /// Small files of the rows that work on many.
    pub(crate) files: usize,
    /// Entries of the directory that is listed.
    pub(crate) entries: usize,
    /// MiB of the file that data rows work on.
    pub(crate) mib: usize,
    /// The source tree of the rows that run programs.
    pub(crate) tree: PathBuf,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            files: 5000,
            entries: 100_000,
            mib: 256,
            tree: "/usr/include".into(),
        }
    }
}

/// What one run took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
    pub(crate) operations: usize,
}

/// Work on a side that returns how many operations it did.
type Work = fn(&Side, &Sizes) -> anyhow::Result<usize>;

pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Mounted anew before each run, so that nothing is cached above the backing.
    pub(crate) cold: bool,
    pub(crate) prepare: Work,
    /// Before each run, untimed.
    before: Work,
    work: Work,
}

impl Row {
    pub(crate) fn run(&self, side: &mut Side, sizes: &Sizes) -> anyhow::Result<Run> {
        (self.before)(side, sizes)?;
        if self.cold {
            side.remount()?;
        }
        let (begun, cpu) = (Instant::now(), side.cpu());
        let operations = (self.work)(side, sizes)?;
        Ok(Run {
            wall: begun.elapsed(),
            cpu: side.cpu().saturating_sub(cpu),
            operations,
        })
    }
}

const fn row(name: &'static str, cold: bool, prepare: Work, before: Work, work: Work) -> Row {
    Row {
        name,
        cold,
        prepare,
        before,
        work,
    }
}

fn nothing(_: &Side, _: &Sizes) -> anyhow::Result<usize> {
    Ok(0)
}

pub(crate) const ROWS: &[Row] = &[
    row("stat-cold", true, names::make, nothing, names::stat),
    row("stat-warm", false, names::make, names::stat, names::stat),
    row("absent-cold", true, names::make, nothing, names::absent),
    row(
        "open-read-close-cold",
        true,
        names::make,
        nothing,
        names::read,
    ),
    row(
        "open-read-close-warm",
        false,
        names::make,
        names::read,
        names::read,
    ),
    row("list", true, names::make_entries, nothing, names::list),
    row(
        "list-warm",
        false,
        names::make_entries,
        names::list,
        names::list,
    ),
    row("create", false, nothing, names::remove_new, names::create),
    row(
        "create-write-4k",
        false,
        nothing,
        names::remove_new,
        names::create_full,
    ),
    row("rename", false, names::make, names::stat, names::rename),
    row("unlink", false, nothing, names::create, names::unlink),
    row("mkdir", false, nothing, names::remove_new, names::mkdir),
    row("untar", false, names::pack, names::remove_new, names::untar),
    row(
        "git-status-cold",
        true,
        names::repository,
        nothing,
        names::git_status,
    ),
    row(
        "git-status-warm",
        false,
        names::repository,
        names::git_status,
        names::git_status,
    ),
    row(
        "rsync-no-change",
        true,
        names::copy_tree,
        nothing,
        names::rsync,
    ),
    row(
        "find-remove",
        false,
        names::pack,
        names::untar_anew,
        names::remove_tree,
    ),
    row("write-4k", false, data::make, nothing, data::write_4k),
    row("read-1m", false, data::make, data::read_1m, data::read_1m),
    row("write-1m", false, data::make, nothing, data::write_1m),
    row(
        "read-1m-direct",
        false,
        data::make,
        nothing,
        data::read_1m_direct,
    ),
    row(
        "write-1m-direct",
        false,
        data::make,
        nothing,
        data::write_1m_direct,
    ),
    row(
        "random-read-4k",
        false,
        data::make,
        nothing,
        data::random_read,
    ),
    row(
        "random-write-4k",
        false,
        data::make,
        nothing,
        data::random_write,
    ),
    row(
        "random-read-4k-direct-16",
        false,
        data::make,
        nothing,
        data::random_read_16,
    ),
    row(
        "random-write-4k-direct-16",
        false,
        data::make,
        nothing,
        data::random_write_16,
    ),
    row(
        "mmap-read",
        false,
        data::make,
        data::read_1m,
        data::mmap_read,
    ),
];
