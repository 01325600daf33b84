//! Reading an object back from the medium, not from memory: what a receipt rests on (P2).
//!
//! With O_DIRECT where the filesystem has it; otherwise its pages are dropped from the cache first
//! (they are clean: it was fsynced), which a local filesystem does for all pages nobody else maps.

use cairn_mover::{Crc32c, Crc32cHasher};
use rustix::fs::{Advice, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

/// What O_DIRECT wants of memory, offsets and lengths everywhere.
const ALIGN: usize = 4096;
const CHUNK: usize = 1 << 20;

/// Length and sum of the file `name` in `dir`, whose fsynced descriptor is `written`.
pub(super) fn sum(dir: impl AsFd, name: &str, written: &File) -> io::Result<(u64, Crc32c)> {
    drop_pages(written);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(&dir, name, flags | OFlags::DIRECT, Mode::empty()) {
        Ok(direct) => match read_all(&File::from(direct)) {
            // Opened, but not read, or not in these units.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            other => return other,
        },
        Err(Errno::INVAL | Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    let plain = rustix::fs::openat(&dir, name, flags, Mode::empty())?;
    let summed = read_all(&File::from(plain));
    drop_pages(written);
    summed
}

/// An archive's pages are of no use to anybody: they would push out users' data.
fn drop_pages(file: &File) {
    if let Err(error) = rustix::fs::fadvise(file, 0, None, Advice::DontNeed) {
        tracing::debug!(%error, "pages could not be dropped");
    }
}

fn read_all(file: &File) -> io::Result<(u64, Crc32c)> {
    let mut memory = vec![0_u8; CHUNK + ALIGN];
    let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
    let buffer = &mut memory[start..start + CHUNK];
    let mut hasher = Crc32cHasher::default();
    loop {
        let count = match file.read_at(buffer, hasher.len()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if count == 0 {
            return Ok((hasher.len(), hasher.sum()));
        }
        hasher.update(&buffer[..count]);
        let end_seen = count % ALIGN != 0 && hasher.len() >= file.metadata()?.len();
        if end_seen {
            // A further O_DIRECT read at an odd offset would be refused.
            return Ok((hasher.len(), hasher.sum()));
        }
    }
}
