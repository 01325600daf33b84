//! Reading a range of an image back from the medium, not from memory: what a receipt of the virtual
//! library rests on (P2). With O_DIRECT where the filesystem has it; otherwise the range's pages
//! are dropped from the cache first (they are clean: they were fsynced).

use cairn_mover::{Crc32c, Crc32cHasher};
use rustix::fs::{Advice, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What O_DIRECT wants of memory, offsets and lengths everywhere.
const ALIGN: usize = 4096;
const CHUNK: usize = 1 << 20;

/// Sum of `len` bytes from `from` of the file at `path`, whose fsynced descriptor is `written`.
pub(super) fn sum(path: &Path, written: &File, from: u64, len: u64) -> io::Result<Crc32c> {
    drop_pages(written, from, len);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::DIRECT;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(direct) => match range(&File::from(direct), from, len) {
            // Opened, but not read, or not in these units.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            other => return other,
        },
        Err(Errno::INVAL | Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    let summed = range(written, from, len);
    drop_pages(written, from, len);
    summed
}

/// An archive's pages are of no use to anybody: they would push out users' data.
fn drop_pages(file: &File, from: u64, len: u64) {
    if let Err(error) = rustix::fs::fadvise(file, from, NonZeroU64::new(len), Advice::DontNeed) {
        tracing::debug!(%error, "pages could not be dropped");
    }
}

/// Reads in whole aligned pieces; only the last may be short, at the file's end.
fn range(file: &File, from: u64, len: u64) -> io::Result<Crc32c> {
    let mut memory = vec![0_u8; CHUNK + ALIGN];
    let start = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
    let buffer = &mut memory[start..start + CHUNK];
    let mut hasher = Crc32cHasher::default();
    let mut at = from - from % ALIGN as u64;
    while hasher.len() < len {
        let count = match file.read_at(buffer, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        let wanted = from + hasher.len();
        // `at` is at most `ALIGN` below: both fit.
        let skip = usize::try_from(wanted - at).unwrap_or(usize::MAX);
        let Some(piece) = buffer.get(skip..count).filter(|p| !p.is_empty()) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        let left = usize::try_from(len - hasher.len()).unwrap_or(usize::MAX);
        hasher.update(&piece[..piece.len().min(left)]);
        // A short read in the middle begins its unit again.
        at += (count - count % ALIGN) as u64;
    }
    Ok(hasher.sum())
}
