//! Where an adopted tree lives, and the steps that bring it there and back.
//!
//! ```text
//! before          /srv/data                     the tree
//! after           /srv/data                     empty, mode 0: the mountpoint
//!                 /srv/.cairn-data/  (0700)     the guard
//!                 /srv/.cairn-data/backing      the tree
//! ```
//!
//! # Invariants
//! - The tree moves by one rename within its filesystem: where the kernel can exchange, path and
//!   tree are never both away; elsewhere a crash between two steps is completed by running again.
//! - Nothing but an empty placeholder is ever removed.

use super::{UndoHow, catalog, released, table};
use crate::cli::CliError;
use crate::error::Failure;
use crate::hsm::backing::{Backing, this_boot};
use rustix::fs::{CWD, RenameFlags};
use std::ffi::OsString;
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The paths of one adoption.
#[derive(Debug)]
pub(super) struct Adoption {
    dir: PathBuf,
    parent: PathBuf,
    guard: PathBuf,
    backing: PathBuf,
}

impl Adoption {
    /// Of the tree at `dir`, which need not exist (a crash may have left it so).
    pub(super) fn of(dir: &Path) -> Result<Self, CliError> {
        let whole = std::path::absolute(dir)
            .map_err(|e| CliError::system("find the working directory", &e))?;
        let (Some(parent), Some(name)) = (whole.parent(), whole.file_name()) else {
            return Err(table::no_root(&whole));
        };
        let parent = parent
            .canonicalize()
            .map_err(|e| CliError::system(format!("find {}", parent.display()), &e))?;
        let mut hidden = OsString::from(".cairn-");
        hidden.push(name);
        let guard = parent.join(hidden);
        Ok(Self {
            dir: parent.join(name),
            backing: guard.join("backing"),
            guard,
            parent,
        })
    }

    /// The path that users know.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
    /// Where the tree is once adopted.
    pub(super) fn backing(&self) -> &Path {
        &self.backing
    }

    /// Moves the tree behind the guard; completes an adoption that was cut short.
    pub(super) fn adopt(&self) -> Result<(), CliError> {
        table::check_unmounted(&self.dir)?;
        match (look(&self.dir)?, look(&self.backing)?) {
            (Some(dir), Some(backing)) if self.placeholder(&self.dir, &dir)? => {
                if self.placeholder(&self.backing, &backing)? {
                    return self.exchange();
                }
                Err(
                    CliError::new(Failure::Busy, format!("{} is adopted already", self.name()))
                        .with_hint(format!("its tree is at {}", self.backing.display())),
                )
            }
            (Some(_), Some(backing)) if !self.placeholder(&self.backing, &backing)? => {
                let message = format!("{} is not empty", self.backing.display());
                Err(CliError::new(Failure::Busy, message)
                    .with_hint("another tree was adopted under this name; move one of them"))
            }
            (Some(dir), _) => {
                self.check_tree(&dir)?;
                self.make_guard(&dir)?;
                self.exchange()
            }
            (None, Some(_)) => {
                make_placeholder(&self.dir)?;
                sync(&self.parent)
            }
            (None, None) => Err(CliError::usage(format!(
                "{}: no such directory",
                self.name()
            ))),
        }
    }

    /// Moves the tree back; completes an undoing that was cut short.
    pub(super) fn undo(&self, how: UndoHow<'_>) -> Result<(), CliError> {
        table::check_unmounted(&self.dir)?;
        let Some(backing) = look(&self.backing)? else {
            if look(&self.guard)?.is_some() && look(&self.dir)?.is_some() {
                return self.remove_guard();
            }
            return Err(CliError::usage(format!("{} was not adopted", self.name())));
        };
        let dir = look(&self.dir)?;
        let dir_is_placeholder = match &dir {
            Some(dir) => self.placeholder(&self.dir, dir)?,
            None => true,
        };
        let back_already = self.placeholder(&self.backing, &backing)? && !dir_is_placeholder;
        if !back_already {
            if !dir_is_placeholder {
                let message = format!("{} is not the empty mountpoint", self.name());
                return Err(CliError::new(Failure::Busy, message)
                    .with_hint("move what lies there away first"));
            }
            // Under another mount, say: what it serves must not go, and what is looked at here must
            // stay as it is. Holds until the tree is back.
            let _alone = self.shut_out(how)?;
            if !how.force {
                released::check(&self.backing, &self.dir, how)?;
            }
            if dir.is_none() {
                make_placeholder(&self.dir)?;
            }
            self.exchange()?;
        }
        step("remove", &self.backing, fs::remove_dir(&self.backing))?;
        self.remove_guard()
    }

    /// Keeps every instance off the tree while the result lives.
    fn shut_out(&self, how: UndoHow<'_>) -> Result<OwnedFd, CliError> {
        let (host, _) = this_boot().map_err(|e| CliError::system("read this boot's id", &e))?;
        let now = crate::hsm::engine::now().sec;
        let alone = Backing::shut_out(&self.backing, &host, now, how.force)
            .map_err(|why| CliError::new(Failure::Busy, why))?;
        catalog::check_held(&self.backing, how)?;
        Ok(alone)
    }

    fn remove_guard(&self) -> Result<(), CliError> {
        step("remove", &self.guard, fs::remove_dir(&self.guard))?;
        sync(&self.parent)
    }

    fn name(&self) -> std::path::Display<'_> {
        self.dir.display()
    }

    fn check_tree(&self, dir: &Metadata) -> Result<(), CliError> {
        if !dir.is_dir() {
            return Err(CliError::usage(format!("{} is no directory", self.name())));
        }
        let me = rustix::process::geteuid();
        if !me.is_root() && dir.uid() != me.as_raw() {
            let message = format!("{} belongs to another user", self.name());
            return Err(CliError::new(Failure::NotPermitted, message).with_hint("ask root"));
        }
        let above = step("look at", &self.parent, fs::metadata(&self.parent))?;
        if above.mode() & 0o022 != 0 && above.mode() & 0o1000 == 0 {
            let parent = self.parent.display();
            eprintln!("warning: others may write to {parent}: they could put another tree there");
        }
        Ok(())
    }

    /// The guard, with an empty placeholder in it, ready for the exchange.
    fn make_guard(&self, dir: &Metadata) -> Result<(), CliError> {
        match fs::DirBuilder::new().mode(0o700).create(&self.guard) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return step("make", &self.guard, Err(error));
            }
            Ok(()) | Err(_) => {}
        }
        let made = step("look at", &self.guard, fs::symlink_metadata(&self.guard))?;
        let mine = made.uid() == rustix::process::geteuid().as_raw();
        if !made.is_dir() || !mine || made.mode() & 0o077 != 0 {
            let message = format!("{} is not a directory of yours alone", self.guard.display());
            return Err(CliError::new(Failure::NotPermitted, message).with_hint("remove it first"));
        }
        if made.dev() != dir.dev() {
            return Err(table::no_root(&self.dir));
        }
        if look(&self.backing)?.is_none() {
            make_placeholder(&self.backing)?;
        }
        sync(&self.guard)?;
        sync(&self.parent)
    }

    /// Swaps the tree and the placeholder.
    fn exchange(&self) -> Result<(), CliError> {
        let swap = RenameFlags::EXCHANGE;
        match rustix::fs::renameat_with(CWD, &self.dir, CWD, &self.backing, swap) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => self.swap_by_steps()?,
            Err(errno) => step("move", &self.dir, Err(errno.into()))?,
        }
        sync(&self.guard)?;
        sync(&self.parent)
    }

    /// Where the kernel cannot exchange: a crash in between leaves the placeholder missing, which
    /// `adopt` and `undo` complete.
    fn swap_by_steps(&self) -> Result<(), CliError> {
        let dir = step("look at", &self.dir, fs::symlink_metadata(&self.dir))?;
        let (from, to) = if self.placeholder(&self.dir, &dir)? {
            (&self.backing, &self.dir)
        } else {
            (&self.dir, &self.backing)
        };
        step("move", from, fs::rename(from, to))?;
        make_placeholder(from)
    }

    /// Whether it is an empty mountpoint of ours.
    fn placeholder(&self, path: &Path, found: &Metadata) -> Result<bool, CliError> {
        if !found.is_dir() || found.mode() & 0o7777 != placeholder_mode() {
            return Ok(false);
        }
        let mut entries = step("read", path, fs::read_dir(path))?;
        Ok(entries.next().is_none())
    }
}

/// Nobody but root may enter it; a user's own must be writable for fusermount.
fn placeholder_mode() -> u32 {
    if rustix::process::geteuid().is_root() {
        0
    } else {
        0o700
    }
}

fn make_placeholder(path: &Path) -> Result<(), CliError> {
    let mode = placeholder_mode();
    step("make", path, fs::DirBuilder::new().mode(mode).create(path))?;
    // An inherited default ACL or set-group-id bit may have added to it.
    step(
        "lock",
        path,
        fs::set_permissions(path, Permissions::from_mode(mode)),
    )
}

fn look(path: &Path) -> Result<Option<Metadata>, CliError> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => step("look at", path, Err(error)),
    }
}

fn sync(directory: &Path) -> Result<(), CliError> {
    step(
        "sync",
        directory,
        File::open(directory).and_then(|d| d.sync_all()),
    )
}

fn step<T>(what: &str, path: &Path, result: io::Result<T>) -> Result<T, CliError> {
    result.map_err(|error| CliError::system(format!("{what} {}", path.display()), &error))
}

#[cfg(test)]
mod tests;
