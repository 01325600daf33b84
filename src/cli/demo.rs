//! `cairn demo`: its arguments. What it does is the starter's.

use super::CliError;
use super::units::parse_bytes;
use clap::Args;
use std::path::PathBuf;

/// Arguments of `demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Leave everything in place, mounted, to look around.
    #[arg(long)]
    pub keep: bool,
    /// Take the files from DIR; else from the Rust toolchain or /usr/share.
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// About how much to take (1G, 200M).
    #[arg(long, value_name = "N", value_parser = parse_bytes)]
    pub size: Option<u64>,
}

/// Checks the arguments and hands over.
///
/// # Errors
/// `--from` is no directory; whatever the demo finds.
pub fn run(args: &DemoArgs, starter: &dyn super::Starter) -> Result<u8, CliError> {
    if let Some(from) = &args.from
        && !from.is_dir()
    {
        return Err(CliError::usage(format!(
            "--from {}: no directory",
            from.display()
        )));
    }
    starter.demo(args)
}
