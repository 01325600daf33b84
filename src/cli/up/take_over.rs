//! Whether there is a mount to go on with: its instance died, or is to be replaced.
//!
//! Invariant: what can be found wrong with this command is found before the predecessor is ended.

use super::UpPlan;
use super::supervisor::Supervisor;
use crate::cli::CliError;
use crate::error::Failure;
use cairn_fuse::mount::{Inheritance, Predecessor, Successor};
use cairn_fuse::{AlwaysResident, MirrorConfig, MirrorError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Set for a process that is to replace an instance which serves.
pub(in crate::cli) const VARIABLE: &str = "CAIRN_TAKE_OVER";

/// How long a predecessor that was just killed may take to be dead.
const LAST_MOMENTS: Duration = Duration::from_secs(3);

/// Where the holder of this state directory's mount is met.
pub(super) fn socket(plan: &UpPlan) -> PathBuf {
    holder_socket(&plan.state)
}

/// Where the holder of the mount of the instance with the state directory `state` is met.
pub(in crate::cli) fn holder_socket(state: &Path) -> PathBuf {
    state.join("holder.sock")
}

/// The live mount of this state directory, taken from its holder; its predecessor is dead then.
///
/// # Errors
/// There is one, and this process cannot or must not go on with it.
pub(super) fn inherit(
    plan: &UpPlan,
    supervisor: &Supervisor,
) -> Result<Option<Inheritance>, CliError> {
    let Some(successor) = Successor::meet(&socket(plan)).map_err(failed)? else {
        return Ok(None);
    };
    if successor.mountpoint() != plan.mount {
        return Err(CliError::usage(format!(
            "the instance of {} is mounted at {}",
            plan.state.display(),
            successor.mountpoint().display()
        )));
    }
    if std::env::var_os(VARIABLE).is_none() && serves(&successor) {
        let pid = successor.predecessor_pid().unwrap_or(0);
        let message = format!("process {pid} serves {}", plan.mount.display());
        return Err(
            CliError::new(Failure::AlreadyRunning, message).with_hint(format!(
                "to replace it: cairn upgrade {}",
                plan.mount.display()
            )),
        );
    }
    let mut config = MirrorConfig::new(
        plan.backing.clone(),
        plan.mount.clone(),
        Arc::new(AlwaysResident),
    );
    config.shared = plan.shared;
    successor.check(&config).map_err(failed)?;
    let predecessor = successor.predecessor_pid();
    // Before the predecessor's end, or its supervisor would take that for the service's.
    supervisor.main_process(std::process::id());
    successor.take().map(Some).map_err(|why| {
        if let Some(pid) = predecessor {
            supervisor.main_process(pid);
        }
        failed(why)
    })
}

/// Does the predecessor serve, and go on serving?
fn serves(successor: &Successor) -> bool {
    let begun = Instant::now();
    while successor.predecessor() == Predecessor::Serves {
        if begun.elapsed() > LAST_MOMENTS {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn failed(why: MirrorError) -> CliError {
    super::serve::mount(why)
}
