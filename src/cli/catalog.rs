//! `cairn catalog`: what a catalog knows, one fact a line, so that two can be compared (`dump`); and a
//! backup of it (`backup`).

mod backup;
mod facts;

use super::output::Output;
use super::{CliError, Session};
use crate::catalog::{CatalogError, Unserved};
use crate::error::Failure;
use crate::hsm::state_dir::catalog_in;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Arguments of `catalog`.
#[derive(Debug, Args)]
pub(crate) struct Catalog {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print all that a catalog knows, one JSON object a line, in an order that two of them share.
    #[command(
        after_help = "Example: cairn catalog dump --state /var/lib/cairn/data --what files,names > before"
    )]
    Dump(Dump),
    /// Back up the catalog with the instance's identity and key, also while it runs.
    ///
    /// The backup is a state directory: put it in the place of the lost one, and start.
    #[command(
        after_help = "Example: cairn catalog backup --state /var/lib/cairn/data /backup/cairn-data"
    )]
    Backup(backup::BackupArgs),
}

/// Arguments of `catalog dump`.
#[derive(Debug, Args)]
struct Dump {
    /// The state directory; an instance may be using it.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// Only facts of these kinds.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND")]
    what: Vec<Kind>,
}

/// Kinds of facts, in the order in which they are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Kind {
    /// Tiers by number.
    Tiers,
    /// Inodes: kind, owner, state, identity and sums.
    Files,
    /// Paths, and which inode each leads to.
    Names,
    /// Copies of data that files have now.
    Copies,
    /// Aggregates, and how much of them is needed.
    Aggregates,
    /// Every copy's size as stored, also of what no file has any more.
    Members,
    /// When and how copies and aggregates were proven.
    Receipts,
    /// Flags, pins and what was seen of inodes.
    History,
    /// What was deleted or overwritten.
    Tombstones,
}

const KINDS: [Kind; 9] = [
    Kind::Tiers,
    Kind::Files,
    Kind::Names,
    Kind::Copies,
    Kind::Aggregates,
    Kind::Members,
    Kind::Receipts,
    Kind::History,
    Kind::Tombstones,
];

impl Catalog {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        match &self.what {
            What::Dump(dump) => dump.run(),
            What::Backup(backup) => backup.run(session),
        }
    }
}

impl Dump {
    fn run(&self) -> Result<u8, CliError> {
        let path = catalog_in(&self.state);
        let catalog = Unserved::open(&path).map_err(failed)?.ok_or_else(|| {
            let message = format!("{} holds no catalog", self.state.display());
            CliError::new(Failure::NotFound, message)
        })?;
        // Objects, whatever else is said.
        let mut output = Output::new(true);
        let wanted = |kind: &&Kind| self.what.is_empty() || self.what.contains(kind);
        for kind in KINDS.iter().filter(wanted) {
            match kind {
                Kind::Tiers => facts::tiers(&catalog, &mut output)?,
                Kind::Files => facts::files(&catalog, &mut output)?,
                Kind::Names => facts::names(&catalog, &mut output)?,
                Kind::Copies => facts::copies(&catalog, &mut output)?,
                Kind::Aggregates => facts::aggregates(&catalog, &mut output)?,
                Kind::Members => facts::members(&catalog, &mut output)?,
                Kind::Receipts => facts::receipts(&catalog, &mut output)?,
                Kind::History => facts::history(&catalog, &mut output)?,
                Kind::Tombstones => facts::tombstones(&catalog, &mut output)?,
            }
        }
        output.finish()?;
        Ok(0)
    }
}

fn failed(why: CatalogError) -> CliError {
    let failure = match why {
        CatalogError::Newer { .. } => Failure::Newer,
        _ => Failure::Internal,
    };
    CliError::new(failure, why)
}
