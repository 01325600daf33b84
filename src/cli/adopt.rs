//! `cairn adopt`: puts an existing tree behind a mount at the same path (P7).

mod guard;
mod released;
mod table;

use super::CliError;
use clap::Args;
use std::path::PathBuf;

/// Arguments of `adopt`.
#[derive(Debug, Clone, Args)]
pub struct AdoptArgs {
    /// The tree.
    pub dir: PathBuf,
    /// Put the tree back where it was.
    #[arg(long)]
    pub undo: bool,
    /// With --undo: also if released files would be left, which read as zeros without a mount.
    #[arg(long, requires = "undo")]
    pub force: bool,
}

/// Moves the tree away or back.
///
/// # Errors
/// Why not; nothing was changed then, or what was is completed by running it again.
pub fn run(args: &AdoptArgs) -> Result<u8, CliError> {
    let adoption = guard::Adoption::of(&args.dir)?;
    if args.undo {
        adoption.undo(args.force)?;
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
