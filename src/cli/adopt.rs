//! `cairn adopt`: puts an existing tree behind a mount at the same path (P7).

mod catalog;
mod guard;
mod released;
mod table;

use super::CliError;
use clap::Args;
use std::path::{Path, PathBuf};

/// Arguments of `adopt`.
#[derive(Debug, Clone, Args)]
pub struct AdoptArgs {
    /// The tree.
    pub dir: PathBuf,
    /// Put the tree back where it was.
    #[arg(long)]
    pub undo: bool,
    /// With --undo: state directory of the instance that served the tree; else the one that it noted.
    #[arg(long, requires = "undo", value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// With --undo: also if that instance's catalog is gone, which alone knows of lost stubs.
    #[arg(long, requires = "undo", conflicts_with = "state")]
    pub without_catalog: bool,
    /// With --undo: also if released or lost files would be left, which read as zeros without a mount.
    #[arg(long, requires = "undo")]
    pub force: bool,
}

/// What an undoing takes into account.
#[derive(Debug, Clone, Copy, Default)]
struct UndoHow<'a> {
    force: bool,
    state: Option<&'a Path>,
    without_catalog: bool,
}

/// Moves the tree away or back.
///
/// # Errors
/// Why not; nothing was changed then, or what was is completed by running it again.
pub fn run(args: &AdoptArgs) -> Result<u8, CliError> {
    let adoption = guard::Adoption::of(&args.dir)?;
    if args.undo {
        adoption.undo(UndoHow {
            force: args.force,
            state: args.state.as_deref(),
            without_catalog: args.without_catalog,
        })?;
        println!("{}", adoption.dir().display());
        eprintln!("hint: the tree is back; nothing guards it any more");
    } else {
        adoption.adopt()?;
        println!("{}", adoption.backing().display());
        let (backing, dir) = (adoption.backing().display(), adoption.dir().display());
        eprintln!("hint: mount it with: cairn up {backing} {dir}");
    }
    Ok(0)
}
