//! Mappings, which no safe wrapper has.
#![allow(unsafe_code, reason = "mmap and msync, in a process of their own")]

use rustix::fs::MemfdFlags;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

/// Whose a mapping's stores are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stores {
    /// There are none: it is mapped for reading.
    None,
    /// The file's.
    Shared,
    /// The mapping's alone.
    Private,
}

/// What a mapping's process is asked for.
#[derive(Clone, Copy)]
#[repr(u64)]
enum Ask {
    Load,
    Store,
    Sync,
}

/// A file in the memory of a process of its own: while a page of it waits for the server, no
/// thread of that process can change its memory, and here those of the server could not either.
/// The kernel loads and stores in the program's place, through a file in memory: where a program
/// would get SIGBUS this gets EFAULT, and a failed test can still say its seed.
pub(crate) struct Mapping {
    len: usize,
    process: libc::pid_t,
    socket: UnixStream,
    through: File,
}

impl Mapping {
    /// The first `len` bytes, also of a file that is shorter. The other process has no descriptor
    /// of the file.
    pub(crate) fn new(file: &File, len: usize, stores: Stores) -> io::Result<Self> {
        let through = File::from(rustix::fs::memfd_create("mapped", MemfdFlags::CLOEXEC)?);
        through.set_len(len as u64)?;
        let (socket, other) = UnixStream::pair()?;
        // SAFETY: what runs in the child makes system calls alone, and never returns.
        let process = unsafe { libc::fork() };
        if process < 0 {
            return Err(io::Error::last_os_error());
        }
        if process == 0 {
            // SAFETY: this is the only thread of this process.
            unsafe { serve(file, len, stores, &other, &through) }
        }
        drop(other);
        let mapping = Self {
            len,
            process,
            socket,
            through,
        };
        mapping.answer()?;
        Ok(mapping)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn answer(&self) -> io::Result<usize> {
        let mut answer = [0; 8];
        (&self.socket).read_exact(&mut answer)?;
        let answer = i64::from_ne_bytes(answer);
        let failed = |_| io::Error::from_raw_os_error(-answer as i32);
        usize::try_from(answer).map_err(failed)
    }

    fn ask(&self, what: Ask, offset: usize, len: usize) -> io::Result<usize> {
        assert!(offset + len <= self.len);
        let question = [what as u64, offset as u64, len as u64].map(u64::to_ne_bytes);
        (&self.socket).write_all(question.as_flattened())?;
        self.answer()
    }

    /// What a program loads from there, up to the first page that cannot be had.
    pub(crate) fn load(&self, offset: usize, len: usize) -> io::Result<Vec<u8>> {
        let mut data = vec![0; self.ask(Ask::Load, offset, len)?];
        self.through.read_exact_at(&mut data, 0)?;
        Ok(data)
    }

    /// Stores as a program does, up to the first page that cannot be had.
    pub(crate) fn store(&self, offset: usize, data: &[u8]) -> io::Result<usize> {
        self.through.write_all_at(data, 0)?;
        self.ask(Ask::Store, offset, data.len())
    }

    /// msync(MS_SYNC) of all of it.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.ask(Ask::Sync, 0, self.len).map(drop)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
        // SAFETY: a child of this process, which nobody else waits for; no status is asked for.
        unsafe { libc::waitpid(self.process, std::ptr::null_mut(), 0) };
    }
}

/// Maps the file and answers until nobody asks any more.
///
/// # Safety
/// For the child of a process with threads: no memory is allocated, no lock is taken.
unsafe fn serve(file: &File, len: usize, stores: Stores, ask: &UnixStream, through: &File) -> ! {
    /// After the two that it needs.
    const REST: libc::c_uint = 2;
    let (access, flags) = match stores {
        Stores::None => (libc::PROT_READ, libc::MAP_SHARED),
        Stores::Shared => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED),
        Stores::Private => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE),
    };
    // SAFETY: the range is new and looked into by system calls alone, within its bounds; the
    // descriptors that are replaced and closed are this process's copies.
    unsafe {
        let said = |result: i64| match result {
            0.. => result,
            _ => -i64::from(*libc::__errno_location()),
        };
        let null = std::ptr::null_mut();
        let at = libc::mmap(null, len, access, flags, file.as_raw_fd(), 0);
        let mut answer = said(if at == libc::MAP_FAILED { -1 } else { 0 });
        libc::dup2(ask.as_raw_fd(), 0);
        libc::dup2(through.as_raw_fd(), 1);
        libc::syscall(libc::SYS_close_range, REST, libc::c_uint::MAX, 0);
        loop {
            let mut question = [0_u64; 3];
            if libc::write(0, (&raw const answer).cast(), 8) != 8
                || libc::read(0, (&raw mut question).cast(), 24) != 24
            {
                libc::_exit(0);
            }
            let [what, offset, len] = question;
            let (at, len) = (at.byte_add(offset as usize), len as usize);
            answer = said(match what {
                what if what == Ask::Load as u64 => libc::pwrite(1, at, len, 0) as i64,
                what if what == Ask::Store as u64 => libc::pread(1, at, len, 0) as i64,
                _ => i64::from(libc::msync(at, len, libc::MS_SYNC)),
            });
        }
    }
}
