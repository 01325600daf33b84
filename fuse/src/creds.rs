//! Whose rights a thread has while it works for a caller.
//!
//! Invariants
//! 1. Everything here changes the calling thread alone, and is undone by a guard's drop.
//! 2. New inodes are made under the caller's fsuid, fsgid, umask and, where a set-group-id bit
//!    depends on them, groups: so ownership, setgid directories and quota are the backing's.
//! 3. The kernel has checked permissions already (`default_permissions`); the server's own checks
//!    must not fail where the kernel's passed, so CAP_DAC_OVERRIDE and CAP_MKNOD stay raised.
//! 4. Data are written, and passthrough is registered, without CAP_FSETID: then the backing
//!    clears set-id bits on writes, as FUSE_HANDLE_KILLPRIV_V2 promises the kernel. Where the
//!    backing reserves blocks for user 0, they are written as nobody.

use crate::sys;
use rustix::fs::Mode;
use rustix::process::umask;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use std::cell::Cell;
use std::sync::OnceLock;

/// What the process could do when it started.
static START: OnceLock<CapabilitySets> = OnceLock::new();

thread_local! {
    static OWN_UMASK: Cell<bool> = const { Cell::new(false) };
}

/// Remembers the process's rights.
pub(crate) fn start() {
    if let Ok(mut caps) = capabilities(None) {
        caps.effective.remove(CapabilitySet::SYS_RESOURCE);
        let _ = START.set(caps);
    }
}

/// Gives up CAP_SYS_RESOURCE for the calling thread and all that it will start: root's exemption
/// from quota and reserved blocks is not the users'.
pub(crate) fn work_for_users() {
    if let Some(caps) = START.get()
        && let Err(error) = set_capabilities(None, *caps)
    {
        tracing::debug!(%error, "CAP_SYS_RESOURCE stays raised");
    }
}

/// Has this process the right to act for other users?
pub(crate) fn may_switch_users() -> bool {
    START.get().is_some_and(|caps| {
        caps.effective
            .contains(CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::DAC_OVERRIDE)
    })
}

/// May this process mount by itself?
pub(crate) fn may_mount() -> bool {
    START
        .get()
        .is_some_and(|caps| caps.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// The caller of a request, as the kernel named it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Creator {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: u32,
    pub(crate) umask: u32,
}

/// Undoes a switch of identity.
pub(crate) struct Acting {
    switched: bool,
    groups: Option<Vec<u32>>,
    umask: Option<Mode>,
}

/// Acts as `creator` until the guard is dropped. `with_groups`: also under its supplementary
/// groups (only where a set-group-id bit is being set: they cost a read of `/proc`).
pub(crate) fn act_as(creator: Creator, with_groups: bool) -> Acting {
    own_umask();
    let mut acting = Acting {
        switched: false,
        groups: None,
        umask: Some(umask(Mode::from_raw_mode(creator.umask & 0o777))),
    };
    if (creator.uid == 0 && creator.gid == 0) || !may_switch_users() {
        return acting;
    }
    acting.switched = true;
    if with_groups && creator.uid != 0 {
        acting.groups = sys::thread_groups().ok();
        let _ = sys::set_thread_groups(&groups_of(creator.uid, creator.pid));
    }
    sys::set_thread_fsgid(creator.gid);
    if creator.uid != 0 {
        sys::set_thread_fsuid(creator.uid);
        if let Ok(mut caps) = capabilities(None) {
            caps.effective |= CapabilitySet::DAC_OVERRIDE | CapabilitySet::MKNOD;
            let _ = set_capabilities(None, caps);
        }
    }
    acting
}

/// Makes something for a user, as them: it counts against their quota, and takes nothing of what is
/// reserved for user 0. Whether they may make it there must have been asked before. Where this process
/// may not act for others, it is made as it is.
pub fn as_user<T>(uid: u32, gid: u32, make: impl FnOnce() -> T) -> T {
    let creator = Creator {
        uid,
        gid,
        pid: 0,
        umask: 0o077,
    };
    let before = capabilities(None);
    let acting = act_as(creator, false);
    if let Ok(mut caps) = capabilities(None) {
        caps.effective.remove(CapabilitySet::SYS_RESOURCE);
        if let Err(error) = set_capabilities(None, caps) {
            tracing::debug!(%error, "CAP_SYS_RESOURCE stays raised");
        }
    }
    let made = make();
    drop(acting);
    if let Ok(before) = before
        && let Err(error) = set_capabilities(None, before)
    {
        tracing::error!(%error, "this thread lacks what was taken from it for a user");
    }
    made
}

/// Belongs to the creator's groups, and to no more, while keeping root's other rights: what the
/// kernel asks before it lets a set-group-id bit stand beside a new ACL.
pub(crate) fn act_for_group(creator: Creator) -> (Acting, WithoutFsetid) {
    let mut acting = Acting {
        switched: false,
        groups: None,
        umask: None,
    };
    if creator.uid == 0 || !may_switch_users() {
        return (acting, WithoutFsetid::NOTHING);
    }
    acting.groups = sys::thread_groups().ok();
    let _ = sys::set_thread_groups(&groups_of(creator.uid, creator.pid));
    sys::set_thread_fsgid(creator.gid);
    acting.switched = true;
    (acting, without_fsetid())
}

impl Drop for Acting {
    fn drop(&mut self) {
        if let Some(before) = self.umask {
            umask(before);
        }
        if self.switched {
            // Back to user 0 the kernel raises the filesystem capabilities again by itself.
            sys::set_thread_fsuid(0);
            sys::set_thread_fsgid(0);
        }
        if let Some(groups) = self.groups.take() {
            let _ = sys::set_thread_groups(&groups);
        }
    }
}

/// The user who owns nothing, and for whom no block is reserved.
const NOBODY: u32 = 65534;

/// Raises CAP_FSETID again when dropped, as user 0 again.
pub(crate) struct WithoutFsetid {
    before: Option<CapabilitySets>,
    nobody: bool,
}

impl WithoutFsetid {
    const NOTHING: Self = Self {
        before: None,
        nobody: false,
    };
}

/// As [`without_fsetid`]; `nobody`: and without the use of what is reserved for user 0.
pub(crate) fn writing(nobody: bool) -> WithoutFsetid {
    let nobody = nobody && may_switch_users();
    if nobody {
        // Takes the filesystem capabilities; those that are left to it are raised again below.
        sys::set_thread_fsuid(NOBODY);
    }
    let mut guard = without_fsetid();
    guard.nobody = nobody;
    if nobody
        && guard.before.is_none()
        && let Some(caps) = START.get()
    {
        let _ = set_capabilities(None, *caps);
    }
    guard
}

/// Until the guard is dropped, writes by this thread clear set-id bits.
pub(crate) fn without_fsetid() -> WithoutFsetid {
    let Some(before) = START.get().copied() else {
        return WithoutFsetid::NOTHING;
    };
    if !before.effective.contains(CapabilitySet::FSETID) {
        return WithoutFsetid::NOTHING;
    }
    let mut caps = before;
    caps.effective.remove(CapabilitySet::FSETID);
    match set_capabilities(None, caps) {
        Ok(()) => WithoutFsetid {
            before: Some(before),
            nobody: false,
        },
        Err(_) => WithoutFsetid::NOTHING,
    }
}

impl Drop for WithoutFsetid {
    fn drop(&mut self) {
        if self.nobody {
            sys::set_thread_fsuid(0);
        }
        if let Some(before) = self.before.take() {
            let _ = set_capabilities(None, before);
        }
    }
}

/// The umask belongs to all threads until one asks for its own.
fn own_umask() {
    OWN_UMASK.with(|own| {
        if !own.get() {
            if let Err(error) = sys::unshare_fs() {
                tracing::warn!(%error, "this thread shares the process's umask");
            }
            own.set(true);
        }
    });
}

/// Supplementary groups of a thread that acts as `uid`; none if it is gone (another user's may
/// have got its number) or in another pid namespace.
pub(crate) fn groups_of(uid: u32, pid: u32) -> Vec<u32> {
    if pid == 0 {
        return Vec::new();
    }
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    parse_groups(&status, uid)
}

fn parse_groups(status: &str, uid: u32) -> Vec<u32> {
    let numbers = |key: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let words = line.unwrap_or_default().split_whitespace();
        words.filter_map(|word| word.parse().ok()).collect()
    };
    // Real, effective, saved, and the one that counts for files.
    if numbers("Uid:").get(3) == Some(&uid) {
        numbers("Groups:")
    } else {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_come_from_the_status_file() {
        let status = "Name:\tx\nUid:\t7\t7\t7\t1000\nGroups:\t4 24 1000 \nNgid:\t0\n";
        assert_eq!(parse_groups(status, 1000), [4, 24, 1000]);
        assert!(
            parse_groups(status, 7).is_empty(),
            "another's thread by now"
        );
        assert!(parse_groups("Uid:\t7\t7\t7\t7\nGroups:\t\n", 7).is_empty());
        assert!(parse_groups("", 0).is_empty());
    }
}
