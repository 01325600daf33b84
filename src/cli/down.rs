//! `cairn down`: unmounts and stops the instance of a mount.

use super::{CliError, Session};
use crate::client::{ClientError, holders};
use crate::error::Failure;
use clap::Args;
use rustix::mount::UnmountFlags;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long the instance may take to finish what it had begun, before the user is told.
const LONGEST_STOP: Duration = Duration::from_secs(60);

/// How long a mount may say nothing before `--force` takes its instance for dead: one that is held
/// waits for another.
const LONGEST_SILENCE: Duration = Duration::from_secs(3);

/// Arguments of `down`.
#[derive(Debug, Args)]
pub(crate) struct Down {
    /// Where it is mounted.
    mount: PathBuf,
    /// Also while somebody uses the mount, and also when the instance is dead.
    #[arg(long)]
    force: bool,
}

impl Down {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        let mount = absolute(&self.mount)?;
        let found = if self.force {
            session.client_within(Some(&mount), LONGEST_SILENCE)
        } else {
            session.client_near(Some(&mount))
        };
        let asked = found.and_then(|mut client| Ok(client.shutdown(self.force)?));
        match asked {
            Ok(stopped) => {
                eprintln!("unmounted {}", stopped.mount);
                wait_for_end(stopped.pid);
                Ok(0)
            }
            Err(CliError::Client(ClientError::Refused {
                failure: Failure::Busy,
                message,
                hint,
            })) => Err(busy(&mount, message, hint)),
            Err(error) if self.force && error.exit_code() == Failure::NoInstance.exit_code() => {
                clear_away(&mount, error)
            }
            Err(error) if error.exit_code() == Failure::NoInstance.exit_code() => {
                Err(dead_hint(&mount, error))
            }
            Err(error) => Err(error),
        }
    }
}

/// The mount is gone at once; the catalog is closed a little later. Who starts the instance again
/// behind this command must find nobody there.
fn wait_for_end(pid: u32) {
    let begun = Instant::now();
    while is_instance(pid) {
        if begun.elapsed() > LONGEST_STOP {
            eprintln!("cairn: process {pid} still finishes what it had begun");
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The process runs, and is none of another program that got its number. One that is dead and not
/// yet waited for by its parent has let go of everything.
fn is_instance(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .map(|(_, rest)| rest.starts_with(['Z', 'X']));
    stat.contains("(cairn)") && state == Some(false)
}

/// Without touching the mount itself: its server may be dead.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    let path = std::path::absolute(path).map_err(|e| CliError::system("working directory", &e))?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(path);
    };
    Ok(parent
        .canonicalize()
        .map_or_else(|_| path.clone(), |parent| parent.join(name)))
}

fn busy(mount: &Path, message: String, hint: Option<String>) -> CliError {
    for holder in holders::of(mount) {
        let path = super::output::harmless(&holder.path.display().to_string());
        eprintln!(
            "held by {} (pid {}): {} {path}",
            holder.command, holder.pid, holder.by
        );
    }
    let hint = hint.unwrap_or_else(|| "end these processes, or use --force".to_owned());
    CliError::new(Failure::Busy, message).with_hint(hint)
}

fn is_mounted(mount: &Path) -> bool {
    crate::client::is_mounted_at(mount).unwrap_or(false)
}

fn dead_hint(mount: &Path, error: CliError) -> CliError {
    if !is_mounted(mount) {
        return CliError::new(
            Failure::NoInstance,
            format!("{} is not mounted", mount.display()),
        );
    }
    CliError::new(Failure::NoInstance, error).with_hint(format!(
        "to clear a dead mount away: cairn down --force {}",
        mount.display()
    ))
}

/// The instance is dead; its mount is still there.
fn clear_away(mount: &Path, error: CliError) -> Result<u8, CliError> {
    if !is_mounted(mount) {
        return Err(dead_hint(mount, error));
    }
    let step = format!("unmount {}", mount.display());
    if rustix::process::geteuid().is_root() {
        // The first ends what waits for the dead instance, also where it leaves the mount.
        let unmount = |how| rustix::mount::unmount(mount, how | UnmountFlags::NOFOLLOW);
        // A holder sees the end of the connection as well, and may have unmounted in between.
        if unmount(UnmountFlags::FORCE).is_err()
            && is_mounted(mount)
            && let Err(errno) = unmount(UnmountFlags::DETACH)
            && is_mounted(mount)
        {
            return Err(CliError::system(&step, &errno.into()));
        }
    } else {
        let fuser = Command::new("fusermount3")
            .args(["-u", "-z", "--"])
            .arg(mount)
            .status();
        match fuser {
            Ok(status) if status.success() => {}
            Ok(status) => {
                return Err(CliError::new(
                    Failure::Internal,
                    format!("{step}: {status}"),
                ));
            }
            Err(error) => return Err(CliError::system("run fusermount3", &error)),
        }
    }
    eprintln!("unmounted {}, whose instance was dead", mount.display());
    Ok(0)
}
