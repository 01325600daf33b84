//! A process for which syncing does nothing: the negative control. The system calls are answered
//! by a seccomp filter, because no library in between could catch them: Cairn makes them itself.
//!
//! The only unsafe code of this suite: the filter must be in place between fork and exec.

#![allow(
    unsafe_code,
    reason = "a seccomp filter is installed between fork and exec, by two system calls"
)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

const SYNCS: [libc::c_long; 5] = [
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_sync,
    libc::SYS_sync_file_range,
];

const fn step(code: u32, yes: u8, no: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: yes,
        jf: no,
        k,
    }
}

/// `if number == a sync { return 0 without doing it }`, else the call goes on.
const FILTER: [libc::sock_filter; SYNCS.len() + 3] = {
    let many = SYNCS.len();
    let allow = step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW);
    let mut steps = [allow; SYNCS.len() + 3];
    // The number of the call is the first field of `seccomp_data`.
    steps[0] = step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0);
    let mut at = 0;
    while at < many {
        let to_nothing = (many - at) as u8;
        steps[1 + at] = step(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            to_nothing,
            0,
            SYNCS[at] as u32,
        );
        at += 1;
    }
    // "Fails" with error 0: success.
    steps[many + 2] = step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO);
    steps
};

fn install() -> io::Result<()> {
    let mut filter = FILTER;
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: plain numbers, and a pointer to a program that lives until the call returns.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            ) == 0
    };
    if done {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes fsync, fdatasync, syncfs, sync and sync_file_range of this command, and of what it
/// starts, succeed without doing anything.
pub(crate) fn sync_nothing(command: &mut Command) {
    // SAFETY: `install` allocates nothing and takes no lock, as code after fork must.
    unsafe {
        command.pre_exec(install);
    }
}
