//! What happens between fork and exec, for which there is no safe way.
#![allow(
    unsafe_code,
    reason = "setsid, umask and close_range have to run in the child, before the program"
)]

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Not for others to read: what a program writes here are users' files.
const UMASK: libc::mode_t = 0o077;
/// Behind stdin, stdout and stderr.
const FIRST: libc::c_uint = 3;

/// Has the program run in a session and group of its own, without a terminal that it could ask for a password,
/// with a umask that keeps its files private, and with no descriptor of this process but the three.
pub(super) fn set_apart(command: &mut Command) {
    let prepare = || {
        // SAFETY: the three are async-signal-safe, take no pointer, and touch this child alone.
        unsafe {
            if libc::setsid() == -1 {
                return Err(std::io::Error::last_os_error());
            }
            libc::umask(UMASK);
            // Every descriptor here is opened close-on-exec; this is the second lock on that door. Kernels
            // before 5.11 do not have it, and then the first one has to do.
            libc::syscall(
                libc::SYS_close_range,
                FIRST,
                libc::c_uint::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            );
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing and takes no lock: an error made from errno does neither.
    unsafe { command.pre_exec(prepare) };
}
