//! The sum of a file's logical content, holes as zeros, holes not read.

use crate::hsm::backing::{Backing, BackingError, describe};
use cairn_mover::{Crc32c, Crc32cHasher};
use std::os::fd::BorrowedFd;

/// Bytes read at a time; between two reads the caller is asked whether to go on.
pub(in crate::hsm) const CHUNK: usize = 1 << 20;

/// Why there is no sum.
#[derive(Debug, thiserror::Error)]
pub enum Interrupted {
    /// The caller no longer wants it (a lease was broken), or the file got shorter.
    #[error("the file changed or is wanted by a writer")]
    Stopped,
    /// A step on the backing failed.
    #[error(transparent)]
    Backing(#[from] BackingError),
}

/// Sums `size` bytes of the file, asking `go_on` before each megabyte.
///
/// # Errors
/// [`Interrupted`].
pub fn checksum(
    backing: &Backing,
    fd: BorrowedFd<'_>,
    size: u64,
    go_on: impl Fn() -> bool,
) -> Result<Crc32c, Interrupted> {
    let mut sum = Crc32cHasher::default();
    let mut buffer = vec![0_u8; CHUNK];
    for run in backing.extents(fd)? {
        let (mut at, end) = (run.offset.min(size), (run.offset + run.len).min(size));
        sum.zeros(at - sum.len());
        while at < end {
            if !go_on() {
                return Err(Interrupted::Stopped);
            }
            let want = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let got = rustix::io::pread(fd, &mut buffer[..want], at)
                .map_err(|why| BackingError::of("read", || describe(fd), why))?;
            if got == 0 {
                return Err(Interrupted::Stopped);
            }
            sum.update(&buffer[..got]);
            at += got as u64;
        }
    }
    sum.zeros(size - sum.len());
    Ok(sum.sum())
}
