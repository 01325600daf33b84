//! Acting as another user, as only root can.

use super::{CliError, sys};
use crate::error::Failure;
use rustix::fs::Mode;
use rustix::thread::{Gid, Uid};

/// Becomes the user, for good, while there is one thread: their groups as the system has them now, and no right that is
/// not theirs.
pub(super) fn become_user(uid: u32) -> Result<(), CliError> {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let refused = |e: rustix::io::Errno| CliError::system(format!("become user {uid}"), &e.into());
    rustix::thread::set_no_new_privs(true).map_err(refused)?;
    let own = rustix::process::geteuid().as_raw();
    if own == uid {
        return Ok(());
    }
    let account = sys::account(uid).ok_or_else(|| {
        CliError::new(
            Failure::NotPermitted,
            format!("user {uid} has no account on this host"),
        )
    })?;
    let groups: Vec<Gid> = account
        .groups
        .iter()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(account.gid));
    rustix::thread::set_thread_groups(&groups).map_err(refused)?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(refused)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(refused)?;
    // It was for good.
    if rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).is_ok() {
        return Err(CliError::new(
            Failure::Internal,
            "the user's rights are not the only ones",
        ));
    }
    Ok(())
}
