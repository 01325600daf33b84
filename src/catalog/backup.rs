//! A copy of a catalog that may be in use, as of one moment.
//!
//! Invariants: the copy has its name only when it is whole, was looked through and is durable; a catalog that
//! was put back from a copy never counts as the one that its instance left: what it proves is suspect
//! (P1), and no scan of before counts for a deletion (P8).
//!
//! The source is read in one transaction, however long that takes: SQLite would begin anew at each
//! change by the instance. Its log cannot be folded meanwhile, and grows by what the instance writes.

use super::error::At;
use super::{CatalogError, schema};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Pages copied between two tellings.
const STEP: std::ffi::c_int = 2048;

/// Copies the catalog at `from`, of any schema version that this program knows, to `to`, in place of what
/// is there. `tell` hears how many bytes of how many are copied, and ends the work by `false`. Durable when
/// it returns `true`.
///
/// # Errors
/// [`CatalogError`]: there is no catalog, or what SQLite or the filesystem says; `to` is as it was then.
pub fn backup(
    from: &Path,
    to: &Path,
    tell: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<bool, CatalogError> {
    if schema::look(from)?.is_none() {
        return Err(CatalogError::NotACatalog {
            path: from.to_owned(),
            why: "there is none".to_owned(),
        });
    }
    let partial = partial(to);
    match std::fs::remove_file(&partial) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
            return Err(CatalogError::io(&partial, "remove", why));
        }
        _ => {}
    }
    // It holds users' names: made with its mode, before anything is in it.
    std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)
        .map_err(|why| CatalogError::io(&partial, "create", why))?;
    let done = copy(from, &partial, tell).and_then(|whole| {
        if whole {
            mark(&partial)?;
            settle(&partial, to)?;
        }
        Ok(whole)
    });
    if !matches!(done, Ok(true)) {
        let _ = std::fs::remove_file(&partial);
    }
    done
}

fn partial(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

fn copy(
    from: &Path,
    to: &Path,
    tell: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<bool, CatalogError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let source = Connection::open_with_flags(from, flags).at("open", from.display())?;
    source
        .busy_timeout(Duration::from_secs(30))
        .at("set up", from.display())?;
    let moment = source.unchecked_transaction().at("begin", from.display())?;
    let page: u32 = moment
        .query_row("PRAGMA page_size", [], |row| row.get(0))
        .at("read page size", from.display())?;
    // The moment is that of the first read of a table.
    moment
        .query_row("SELECT epoch FROM instance", [], |row| row.get::<_, u32>(0))
        .at("read epoch", from.display())?;
    let mut copy = Connection::open(to).at("open", to.display())?;
    let run = Backup::new(&moment, &mut copy).at("begin to copy", to.display())?;
    loop {
        let step = run.step(STEP).at("copy", to.display())?;
        let progress = run.progress();
        let pages = |count: std::ffi::c_int| u64::try_from(count).unwrap_or(0) * u64::from(page);
        let (left, all) = (pages(progress.remaining), pages(progress.pagecount));
        if !tell(all.saturating_sub(left), all) {
            return Ok(false);
        }
        match step {
            StepResult::Done => return Ok(true),
            StepResult::Busy | StepResult::Locked => std::thread::sleep(Duration::from_millis(50)),
            _ => {}
        }
    }
}

/// In the copy alone: it is no catalog that was left by a clean stop, and it is looked through.
fn mark(at: &Path) -> Result<(), CatalogError> {
    let copy = Connection::open(at).at("open", at.display())?;
    let damage: String = copy
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .at("look through", at.display())?;
    if damage != "ok" {
        return Err(CatalogError::Damaged {
            object: at.display().to_string(),
            why: damage,
        });
    }
    // A copy is one file: no log beside it.
    copy.execute_batch(
        "PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL;
         UPDATE instance SET clean = 0; UPDATE scan SET finished_epoch = 0;",
    )
    .at("mark", at.display())
}

fn settle(partial: &Path, to: &Path) -> Result<(), CatalogError> {
    let sync = |at: &Path| std::fs::File::open(at).and_then(|file| file.sync_all());
    sync(partial).map_err(|why| CatalogError::io(partial, "sync", why))?;
    std::fs::rename(partial, to).map_err(|why| CatalogError::io(to, "rename to", why))?;
    let directory = match to.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    sync(directory).map_err(|why| CatalogError::io(directory, "sync", why))
}
