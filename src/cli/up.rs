//! `cairn up`: its arguments, checked and made absolute. Starting is the starter's.

pub mod detach;
mod far;
pub mod first;
mod leave;
mod offline;
mod plan;
pub mod rights;
mod serve;
mod supervisor;
mod take_over;

pub(in crate::cli) use offline::OfflineArgs;
pub(in crate::cli) use plan::default_state;
pub use plan::{TierSpec, UpPlan};
pub use serve::serve;
pub(in crate::cli) use serve::startup;
pub(super) use take_over::{VARIABLE as TAKE_OVER, holder_socket};

use super::{CliError, Starter};
use crate::config::units::parse_duration;
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `up`.
#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    /// The directory to mirror; users must not be able to enter it (see `cairn adopt`).
    #[arg(required_unless_present = "config")]
    pub backing: Option<PathBuf>,
    /// Where users see it: an empty directory.
    #[arg(required_unless_present = "config")]
    pub mount: Option<PathBuf>,
    /// Where Cairn keeps its own files, outside BACKING and MOUNT.
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// An archive target, as often as there are any: dir:/path, tape:/path. Without it an embedded
    /// tape library under the state directory.
    #[arg(long = "tier", value_name = "NAME=URL")]
    pub tiers: Vec<TierSpec>,
    /// The policy; without it the shipped one.
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// A file with these and more settings; what stands on the command line wins.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Go to the background once it is ready.
    #[arg(long)]
    pub detach: bool,
    /// If this instance dies, keep the mount for DUR; the same command again, or `cairn upgrade`,
    /// goes on with it (default: 60s; 0s: unmount at once).
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    pub hold: Option<Duration>,
    /// Give up reads of released files after DUR (default: never).
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    pub recall_timeout: Option<Duration>,
    /// Serve the mount to other hosts, too: see `cairn serve`.
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Others change BACKING as well, around this mount: what it shows is asked for again after a
    /// second, and record locks are taken on BACKING.
    #[arg(long)]
    pub shared: bool,
    /// Release also where a tier lies on the backing's own filesystem, which frees nothing.
    #[arg(long)]
    pub allow_same_fs: bool,
    /// Release also where users can enter BACKING and would read zeros there.
    #[arg(long)]
    pub unsafe_open_backing: bool,
}

/// Checks the arguments and starts.
///
/// # Errors
/// What is wrong with them (exit code 2), or why it did not start.
pub fn run(args: &UpArgs, starter: &dyn Starter) -> Result<u8, CliError> {
    let plan = UpPlan::new(args)?;
    starter.up(&plan)
}
