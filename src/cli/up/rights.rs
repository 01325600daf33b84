//! What of root's rights an instance keeps. All others are given up before it has threads, for
//! good, and by all that it starts.
//!
//! Invariant: nothing is gained here. What the caller did not have is not asked for; a probe finds
//! out what cannot be done without it.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set,
    set_capabilities,
};

/// Those that are kept, each with its reason.
#[rustfmt::skip]
pub const NEEDED: CapabilitySet = CapabilitySet::SYS_ADMIN // mount, passthrough, trusted.* attributes
    .union(CapabilitySet::SYS_CHROOT)      // the users' mount namespace, to unmount there
    .union(CapabilitySet::DAC_OVERRIDE)    // files of all users; the kernel has asked for them
    .union(CapabilitySet::DAC_READ_SEARCH) // files by their handles
    .union(CapabilitySet::CHOWN)           // chown, and owners in restored stubs
    .union(CapabilitySet::FOWNER)          // chmod, times and attributes of users' files
    .union(CapabilitySet::FSETID)          // set-id bits that the users' own calls may keep
    .union(CapabilitySet::SETFCAP)         // file capabilities, set by who may and put back by recalls
    .union(CapabilitySet::SETUID)          // new files are made as their makers
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::MKNOD)           // special files, by who may
    .union(CapabilitySet::LEASE)           // leases on users' files (P1, P3)
    .union(CapabilitySet::SYS_RESOURCE)    // stubs and records on a disk that is full or over quota
    .union(CapabilitySet::KILL)            // a predecessor that hangs
    .union(CapabilitySet::SYS_PTRACE); // who keeps a mount busy

/// Gives up all other rights of the calling thread, and of all that it will start.
///
/// # Errors
/// The kernel refused; some may have been given up.
pub fn keep_needed() -> Result<(), Errno> {
    let now = capabilities(None)?;
    if now.effective.contains(CapabilitySet::SETPCAP) {
        for bit in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            if NEEDED.contains(one) {
                continue;
            }
            match remove_capability_from_bounding_set(one) {
                Ok(()) => {}
                // The kernel knows no more of them.
                Err(Errno::INVAL) => break,
                Err(why) => return Err(why),
            }
        }
    }
    set_capabilities(
        None,
        CapabilitySets {
            effective: now.effective & NEEDED,
            permitted: now.permitted & NEEDED,
            inheritable: now.inheritable & NEEDED,
        },
    )
}
