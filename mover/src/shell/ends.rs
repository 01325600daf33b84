//! Where bytes come from and where they go: the two traits that a caller fills.

use crate::progress::Progress;
use std::io;

/// What is sent. Its calls block; they run on threads for that, several at a time.
pub trait Source: Send + Sync + 'static {
    /// Fills `buffer` from `offset`, wholly. It may take as long as it must (a tape).
    ///
    /// # Errors
    /// Any; a source that became shorter gives `UnexpectedEof`.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Are the data still what they were when the transfer began? Asked when all was
    /// read and acknowledged, and after an error of [`Self::read_at`]. Only "yes" completes the transfer.
    ///
    /// # Errors
    /// If that cannot be told; then the transfer fails.
    fn unchanged(&self) -> io::Result<bool>;
}

/// Where it goes. Its calls block; they run on threads for that, several at a time.
pub trait Sink: Send + Sync + 'static {
    /// Writes all of `bytes` at `offset`. Never twice for the same bytes within one transfer; not in order.
    ///
    /// # Errors
    /// Any; the transfer fails with it, and the other end is told (`StorageFull` and `QuotaExceeded`
    /// by a code of their own).
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes durable all that was written by calls that have returned.
    ///
    /// # Errors
    /// Any; the transfer fails with it.
    fn sync(&self) -> io::Result<()>;

    /// Keeps `progress` for a later resume. Called only after [`Self::sync`] covered all that is in it, and with
    /// nothing in it when what was written may not be used (the source changed).
    ///
    /// # Errors
    /// Any; the transfer fails with it.
    fn keep(&self, progress: &Progress) -> io::Result<()> {
        let _ = progress;
        Ok(())
    }
}
