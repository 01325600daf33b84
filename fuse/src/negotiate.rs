//! What the mirror asks of the kernel when the connection begins.

use crate::fs::{Agreed, Wanted};
use crate::ledger::mix;
use fuser::{InitFlags, KernelConfig};

/// Buffered reads are background requests: thousands of parked ones must not stop others (P11).
const MAX_BACKGROUND: u16 = u16::MAX;
/// The kernel's own limit for one request.
const MAX_WRITE: u32 = 1 << 20;

/// Asks for each capability that the kernel has.
pub(crate) fn negotiate(wanted: Wanted, config: &mut KernelConfig) -> Agreed {
    let offered = config.capabilities();
    let mut answered = 1;
    let mut ask = |flag: InitFlags| {
        let agreed = config.add_capabilities(flag).is_ok();
        if agreed {
            answered = mix(answered, flag.bits());
        }
        agreed
    };
    for flag in [
        InitFlags::FUSE_PARALLEL_DIROPS,
        InitFlags::FUSE_ATOMIC_O_TRUNC,
        InitFlags::FUSE_DONT_MASK,
        InitFlags::FUSE_POSIX_ACL,
        InitFlags::FUSE_DO_READDIRPLUS,
        InitFlags::FUSE_READDIRPLUS_AUTO,
        InitFlags::FUSE_CACHE_SYMLINKS,
        InitFlags::FUSE_ASYNC_DIO,
        InitFlags::FUSE_HAS_RESEND,
    ] {
        if !ask(flag) {
            tracing::debug!(?flag, "not known to this kernel");
        }
    }
    if wanted.kills_privileges {
        ask(InitFlags::FUSE_HANDLE_KILLPRIV_V2);
    }
    if wanted.shared {
        ask(InitFlags::FUSE_AUTO_INVAL_DATA);
        // Not FUSE_FLOCK_LOCKS: the library does not say which of the two a request is for.
        ask(InitFlags::FUSE_POSIX_LOCKS);
    } else {
        ask(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
    }
    let passthrough = wanted.passthrough && ask(InitFlags::FUSE_PASSTHROUGH);
    // With passthrough a mapping of such an open would turn the inode to cached unseen, and the next
    // passthrough open would fail (facts of the kernel's I/O modes: see `iomode`).
    let direct = !passthrough && ask(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP);
    if passthrough {
        let _ = config.set_max_stack_depth(wanted.stack_depth);
        answered = mix(answered, u64::from(wanted.stack_depth));
    }
    let _ = config.set_max_background(MAX_BACKGROUND);
    let _ = config.set_congestion_threshold(MAX_BACKGROUND);
    if let Err(nearest) = config.set_max_write(MAX_WRITE) {
        let _ = config.set_max_write(nearest);
    }
    let abi = config.kernel_abi();
    Agreed {
        abi: (abi.0, abi.1),
        passthrough,
        direct,
        offered: offered.bits(),
        answered,
    }
}
