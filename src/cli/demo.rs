//! `cairn demo`: the main job on real files of this machine, narrated, with its own verification.
//!
//! It runs the very commands that it shows, as a user would, and compares the result with the
//! originals by itself. It fails if anything differs.

mod compare;
mod opened;
mod sources;
mod stage;

use super::CliError;
use crate::config::units::parse_size;
use crate::error::Failure;
use crate::tier::{TierError, TierUrl};
use clap::Args;
use stage::{Place, Step};
use std::path::PathBuf;

/// Arguments of `demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Leave the directory in place, to look around.
    #[arg(long)]
    pub keep: bool,
    /// Take the files from DIR; else from the Rust toolchain and /usr/share.
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// About how much to take (1G, 200M).
    #[arg(long, value_name = "N", default_value = "1G", value_parser = parse_size)]
    pub size: u64,
    /// Archive to URL instead of a virtual tape library: dir:, s3:, exec: or tape:. An area of its own is made there
    /// and removed in the end.
    #[arg(long, value_name = "URL")]
    pub tier: Option<TierUrl>,
}

/// Why the demo failed.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// There is nothing to work with.
    #[error("no readable files found below {0}; name a directory with --from DIR")]
    NoFiles(String),
    /// A command that it ran failed.
    #[error("`{command}` failed ({status})\n{output}")]
    Command {
        /// As shown.
        command: String,
        /// How it ended.
        status: String,
        /// What it said.
        output: String,
    },
    /// The place to archive to.
    #[error("{0}")]
    Tier(Box<TierError>),
    /// A system call failed.
    #[error("{step}: {source}")]
    Io {
        /// What was being done.
        step: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// What came back is not what went in.
    #[error("{count} differences between the originals and what came back; the first: {first}")]
    Differs {
        /// How many.
        count: usize,
        /// The first of them.
        first: String,
    },
    /// Blocks did not go where they should have gone.
    #[error("{0}")]
    NotDone(String),
}

impl From<DemoError> for CliError {
    fn from(why: DemoError) -> Self {
        let failure = match &why {
            DemoError::NoFiles(_) => Failure::NotFound,
            DemoError::Differs { .. } | DemoError::NotDone(_) => Failure::Changed,
            DemoError::Tier(_) => Failure::TierUnavailable,
            DemoError::Command { .. } | DemoError::Io { .. } => Failure::Internal,
        };
        Self::new(failure, why)
    }
}

/// Runs the demo.
///
/// # Errors
/// [`DemoError`]; the mount is taken down and, unless `keep`, the directory removed all the same.
pub fn run(options: &DemoArgs) -> Result<(), DemoError> {
    let place = match &options.tier {
        None => "on tape (a\nvirtual library)".to_owned(),
        Some(url) => format!("at\n{url}"),
    };
    println!("Cairn demo: real files go through a real mount into plain tar archives {place},");
    println!("leave the disk, and come back when read. Choosing files ...");
    let chosen = sources::choose(options.from.as_deref(), options.size);
    if chosen.files == 0 {
        let looked = options
            .from
            .as_ref()
            .map_or("/usr".into(), |p| p.display().to_string());
        return Err(DemoError::NoFiles(looked));
    }
    if let Some(TierUrl::S3(bucket)) = &options.tier
        && let Some(class @ ("GLACIER" | "DEEP_ARCHIVE")) = bucket.storage_class.as_deref()
    {
        let why = format!(
            "objects in {class} come back in hours, and are billed for months: name another storage-class for the demo"
        );
        return Err(DemoError::NotDone(why));
    }
    let mut place = Place::make(options.keep, options.tier.as_ref())?;
    println!(
        "{} files, {} of this machine; working in {}\n",
        chosen.files,
        stage::size(chosen.bytes),
        place.root().display()
    );
    let rows = main_job(&mut place, &chosen)?;
    stage::table(&rows);
    place.end()?;
    println!(
        "\nEverything came back equal: names, modes, owners, times, links, attributes, bytes."
    );
    println!("What to try next:");
    println!("  cairn up BACKING MOUNT         the same over a directory of yours");
    println!("  cairn ls -l MOUNT              ls with state and size on disk");
    println!("  cairn archive|release|stage PATH...   by hand; --dry-run says what would happen");
    println!("  cairn why PATH                 what a file waits for, and how long still");
    if options.tier.is_none() {
        println!("  cairn tape list                cartridges and drives, and what they did");
    }
    Ok(())
}

fn main_job(place: &mut Place, chosen: &sources::Sources) -> Result<Vec<Step>, DemoError> {
    let mut rows = place.yardsticks(chosen)?;
    place.up()?;
    rows.push(place.copy_in(chosen)?);
    let before = place.disk_used()?;
    rows.push(place.archive(chosen)?);
    rows.push(place.release(chosen)?);
    let after = place.disk_used()?;
    println!(
        "   on disk: {} before, {} after (files of 64 KiB and more: {} before, {} after;\n   \
         smaller ones are archived, and stay: they free little and are missed often)\n",
        stage::size(before.all),
        stage::size(after.all),
        stage::size(before.large),
        stage::size(after.large)
    );
    if after.large.saturating_mul(20) > before.large {
        return Err(DemoError::NotDone(format!(
            "releasing left {} of {} on disk",
            stage::size(after.large),
            stage::size(before.large)
        )));
    }
    opened::one(place)?;
    place.stage_one_directory(chosen)?;
    let (row, compared) = place.read_back(chosen)?;
    rows.push(row);
    if let Some(first) = compared.differences.first() {
        for line in compared.differences.iter().take(20) {
            eprintln!("   differs: {line}");
        }
        return Err(DemoError::Differs {
            count: compared.differences.len(),
            first: first.clone(),
        });
    }
    place.tape_words()?;
    Ok(rows)
}
