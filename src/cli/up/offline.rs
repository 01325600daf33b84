//! What a command works on that needs an instance's directories and no instance: as `cairn up` takes
//! them, but for the mount.

use super::plan::{TierSpec, check_tiers, default_state, embedded, named, of_file, resolved};
use crate::cli::CliError;
use crate::config::Config;
use crate::error::Failure;
use crate::hsm::backing::Backing;
use cairn_fuse::mount::Successor;
use clap::Args;
use std::path::PathBuf;

/// The instance's directories.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct OfflineArgs {
    /// The directory that is mirrored.
    #[arg(required_unless_present = "config")]
    backing: Option<PathBuf>,
    /// The state directory; else the one that BACKING says, or the default one.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// An archive target, as given to `cairn up`, as often as there are any.
    #[arg(long = "tier", value_name = "NAME=URL")]
    tiers: Vec<TierSpec>,
    /// The configuration file of the instance; what stands on the command line wins.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The same, checked: every path absolute and free of links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct OfflinePlan {
    pub(in crate::cli) backing: PathBuf,
    pub(in crate::cli) state: PathBuf,
    pub(in crate::cli) tiers: Vec<TierSpec>,
}

impl OfflineArgs {
    /// Checks and completes them.
    ///
    /// # Errors
    /// The first thing that is wrong; an instance serves, or its mount is held.
    pub(in crate::cli) fn plan(&self) -> Result<OfflinePlan, CliError> {
        let settings = match &self.config {
            Some(path) => Config::load(path).map_err(CliError::usage)?,
            None => Config::default(),
        };
        let backing = named("BACKING", &self.backing, &settings.backing)?;
        let said = || {
            let mark = Backing::mark_of(&backing).ok().flatten()?;
            mark.state.filter(|state| state.is_dir())
        };
        let state = match self.state.clone().or(settings.state.clone()).or_else(said) {
            Some(state) => resolved(&state)?,
            None => resolved(&default_state(&backing)?)?,
        };
        let mut tiers = match self.tiers.as_slice() {
            [] => of_file(&settings.tiers)?,
            named => named.to_vec(),
        };
        if tiers.is_empty() {
            tiers.push(embedded(&state));
        }
        check_tiers(&mut tiers, &backing, &state.join("run"))?;
        let plan = Self::check_held(OfflinePlan {
            backing,
            state,
            tiers,
        })?;
        Ok(plan)
    }

    /// The mount of a dead instance that is held has users who write.
    fn check_held(plan: OfflinePlan) -> Result<OfflinePlan, CliError> {
        let socket = super::holder_socket(&plan.state);
        if socket.symlink_metadata().is_err() {
            return Ok(plan);
        }
        match Successor::meet(&socket) {
            Ok(None) => Ok(plan),
            Ok(Some(held)) => {
                let mount = held.mountpoint().display();
                let message = format!("{} is mounted at {mount}", plan.backing.display());
                Err(CliError::new(Failure::Busy, message)
                    .with_hint(format!("stop it first: cairn down {mount}")))
            }
            Err(why) => Err(CliError::new(Failure::Busy, why).with_hint(format!(
                "stop the instance of {} first",
                plan.state.display()
            ))),
        }
    }
}
