//! What happens between fork and exec, and in the process that watches: for both there is no safe way.
#![allow(
    unsafe_code,
    reason = "setsid, umask, close_range and a word to the watcher have to run in the child, before the program; \
              the watcher is a fork that calls nothing but the kernel"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Not for others to read: what a program writes here are users' files.
const UMASK: libc::mode_t = 0o077;
/// Behind stdin, stdout and stderr.
const FIRST: libc::c_uint = 3;
/// The watcher's name among processes.
const NAME: &std::ffi::CStr = c"cairn-programs";
/// Where the watcher holds its end of the socket, and the process it watches.
const SOCKET: RawFd = 0;
const WATCHED: RawFd = 1;
/// Closed one by one where the kernel cannot close all at once.
const MOST_OPEN: RawFd = 1 << 16;
/// So many programs at once are watched; further ones are not.
const MOST: usize = 4096;
/// The watcher looks so often whether those that were asked to end have, milliseconds.
const LOOK: libc::c_int = 20;
/// A word to the watcher, bytes: a token, and a group's number or 0.
pub(super) const WORD: usize = 16;

/// A word for the watcher: the program's group of that token, or that there is none any more (0).
pub(super) fn word(token: u64, group: i32) -> [u8; WORD] {
    let (token, group) = (token.to_ne_bytes(), i64::from(group).to_ne_bytes());
    let mut word = [0; WORD];
    let (first, second) = word.split_at_mut(8);
    first.copy_from_slice(&token);
    second.copy_from_slice(&group);
    word
}

fn understood(word: &[u8; WORD]) -> (u64, i32) {
    let (mut token, mut group) = ([0; 8], [0; 8]);
    token.copy_from_slice(&word[..8]);
    group.copy_from_slice(&word[8..]);
    let group = i64::from_ne_bytes(group);
    (u64::from_ne_bytes(token), i32::try_from(group).unwrap_or(0))
}

/// Has the program run in a session and group of its own, without a terminal that it could ask for a password,
/// with a umask that keeps its files private, and with no descriptor of this process but the three; the watcher
/// behind `socket` knows of its group before it runs.
pub(super) fn set_apart(command: &mut Command, socket: RawFd, token: u64) {
    let prepare = move || {
        // SAFETY: all are async-signal-safe and touch this child alone; `word` lives until it is sent.
        unsafe {
            if libc::setsid() == -1 {
                return Err(io::Error::last_os_error());
            }
            libc::umask(UMASK);
            let word = word(token, libc::getpid());
            let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
            if libc::send(socket, word.as_ptr().cast(), WORD, flags) == -1 {
                return Err(io::Error::last_os_error());
            }
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

/// Starts the process that ends programs when `watched`, a descriptor of this process, says that it is gone. It hears
/// of them through `socket`. Its number.
pub(super) fn start_watcher(
    socket: BorrowedFd<'_>,
    watched: BorrowedFd<'_>,
    grace: libc::c_int,
) -> io::Result<i32> {
    let (socket, watched) = (socket.as_raw_fd(), watched.as_raw_fd());
    // SAFETY: the child calls nothing but async-signal-safe functions, allocates nothing, takes no lock, and never
    // returns: whatever other threads of this process were doing does not matter to it.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: as above.
            unsafe { watch(socket, watched, grace) }
        }
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid),
    }
}

/// The watcher's life.
///
/// # Safety
/// In a fork, which it ends.
unsafe fn watch(socket: RawFd, watched: RawFd, grace: libc::c_int) -> ! {
    // SAFETY: kernel calls with pointers to live memory of the sizes given.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        libc::prctl(libc::PR_SET_NAME, NAME.as_ptr());
        // Neither a terminal's signals nor a directory of this process's are its.
        libc::setsid();
        libc::chdir(c"/".as_ptr());
        let socket = libc::fcntl(socket, libc::F_DUPFD, 3);
        let watched = libc::fcntl(watched, libc::F_DUPFD, 3);
        if libc::dup2(socket, SOCKET) == -1 || libc::dup2(watched, WATCHED) == -1 {
            libc::_exit(1);
        }
        if libc::syscall(libc::SYS_close_range, 2, libc::c_uint::MAX, 0) == -1 {
            for fd in 2..MOST_OPEN {
                libc::close(fd);
            }
        }
    }
    let mut groups = [(0_u64, 0_i32); MOST];
    while !is_gone(-1, &mut groups) {}
    end(&mut groups, grace);
    // SAFETY: ends this process.
    unsafe { libc::_exit(0) }
}

/// Waits so long, in milliseconds, for a word or the end of the watched process, and takes all words that are there.
fn is_gone(timeout: libc::c_int, groups: &mut [(u64, i32)]) -> bool {
    let mut fds = [SOCKET, WATCHED].map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: two descriptions of descriptors, as is said.
    unsafe { libc::poll(fds.as_mut_ptr(), 2, timeout) };
    let is_open = take_words(groups);
    !is_open || fds[1].revents != 0
}

/// Takes the words that are there; false: there will be no more.
fn take_words(groups: &mut [(u64, i32)]) -> bool {
    loop {
        let mut word = [0; WORD];
        // SAFETY: a buffer of the length given.
        let taken =
            unsafe { libc::recv(SOCKET, word.as_mut_ptr().cast(), WORD, libc::MSG_DONTWAIT) };
        match usize::try_from(taken) {
            Ok(WORD) => {}
            Ok(0) => return false,
            // None is there now.
            Ok(_) | Err(_) => return true,
        }
        let (token, group) = understood(&word);
        // A token is written down once and crossed off once: the first place that has it, or is free.
        let wanted = if group == 0 { token } else { 0 };
        if let Some(entry) = groups.iter_mut().find(|(known, _)| *known == wanted) {
            *entry = if group == 0 { (0, 0) } else { (token, group) };
        }
    }
}

/// Ends every group that is known, and those of which it is heard meanwhile: a child of the watched process may be
/// about to become a program.
fn end(groups: &mut [(u64, i32)], grace: libc::c_int) {
    let mut left = grace;
    let mut asked = [0_u64; MOST];
    loop {
        let is_open = take_words(groups);
        let mut are_there = is_open;
        for ((token, group), asked) in groups.iter_mut().zip(asked.iter_mut()) {
            if *token == 0 {
                continue;
            }
            let signal = if *asked == *token { 0 } else { libc::SIGTERM };
            *asked = *token;
            if send(*group, signal) {
                are_there = true;
            } else {
                // It is gone, and its number may be another's soon.
                *token = 0;
            }
        }
        if !are_there || left <= 0 {
            break;
        }
        // SAFETY: no descriptor is looked at: it waits.
        unsafe { libc::poll(std::ptr::null_mut(), 0, LOOK) };
        left -= LOOK;
    }
    for (token, group) in groups.iter() {
        if *token != 0 {
            send(*group, libc::SIGKILL);
        }
    }
}

/// Is there such a group to be told?
fn send(group: i32, signal: libc::c_int) -> bool {
    // No program's group is this process's own, or everybody.
    if group <= 1 {
        return false;
    }
    // SAFETY: a kernel call without pointers.
    unsafe { libc::kill(-group, signal) == 0 }
}
