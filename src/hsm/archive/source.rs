//! A file's stored bytes: the data runs, packed.

use crate::format::member::Extent;
use crate::hsm::backing::{Backing, BackingError, describe};
use crate::hsm::version::Seen;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Most runs that a member keeps apart. A file with more gets its smallest holes stored as zeros.
const MAX_RUNS: usize = 32_768;
/// Bytes of a large file after which it is looked at again.
const LOOK_EVERY: u64 = 64 << 20;

/// The data runs inside `size`, at most [`MAX_RUNS`].
pub(super) fn runs(
    backing: &Backing,
    fd: BorrowedFd<'_>,
    size: u64,
) -> Result<Vec<Extent>, BackingError> {
    let mut runs = backing.extents(fd)?;
    runs.retain(|run| run.offset < size);
    if let Some(last) = runs.last_mut() {
        last.len = last.len.min(size - last.offset);
    }
    Ok(fewer(runs, MAX_RUNS))
}

/// Joins runs over the smallest gaps until at most `most` are left.
fn fewer(runs: Vec<Extent>, most: usize) -> Vec<Extent> {
    if runs.len() <= most {
        return runs;
    }
    let gap = |pair: &[Extent]| pair[1].offset - (pair[0].offset + pair[0].len);
    let mut gaps: Vec<u64> = runs.windows(2).map(gap).collect();
    gaps.sort_unstable_by(|a, b| b.cmp(a));
    // Keep the gaps larger than the `most`-th largest: at most `most - 1` of them.
    let limit = gaps.get(most.saturating_sub(1)).copied().unwrap_or(0);
    let mut joined: Vec<Extent> = Vec::with_capacity(most);
    for run in runs {
        match joined.last_mut() {
            Some(last) if run.offset - (last.offset + last.len) <= limit => {
                last.len = run.offset + run.len - last.offset;
            }
            _ => joined.push(run),
        }
    }
    joined
}

/// Bytes in all runs.
pub(super) fn stored(runs: &[Extent]) -> u64 {
    runs.iter().map(|run| run.len).sum()
}

/// Has the kernel fetch a file from the disk while others are being looked at: small files are read one after the
/// other, and a disk does many things at once.
pub(super) fn soon_read(fd: BorrowedFd<'_>) {
    // Of no consequence but for time: not every filesystem does it.
    if let Err(why) = rustix::fs::fadvise(fd, 0, None, rustix::fs::Advice::WillNeed) {
        tracing::trace!(%why, "no reading ahead");
    }
}

/// Reads all runs into memory; `None` if the file ended before them.
pub(super) fn read_whole(
    fd: BorrowedFd<'_>,
    runs: &[Extent],
) -> Result<Option<Vec<u8>>, BackingError> {
    let mut bytes = vec![0; usize::try_from(stored(runs)).unwrap_or(usize::MAX)];
    let mut at = 0;
    for run in runs {
        let end = at + usize::try_from(run.len).unwrap_or(usize::MAX);
        let mut offset = run.offset;
        while at < end {
            let got = rustix::io::pread(fd, &mut bytes[at..end], offset)
                .map_err(|why| BackingError::of("read", || describe(fd), why))?;
            if got == 0 {
                return Ok(None);
            }
            at += got;
            offset += got as u64;
        }
    }
    Ok(Some(bytes))
}

/// Reads the runs of a large file front to back, giving up as soon as the file is seen to change.
pub(super) struct Stream<'a> {
    pub(super) backing: &'a Backing,
    pub(super) file: OwnedFd,
    pub(super) seen: Seen,
    pub(super) runs: &'a [Extent],
    pub(super) stop: &'a dyn Fn() -> bool,
    /// Position within the first of `runs`.
    pub(super) at: u64,
    pub(super) since_look: u64,
    /// Why it gave up.
    pub(super) gave_up: Option<GaveUp>,
}

/// Why a [`Stream`] ended early.
#[derive(Debug)]
pub(super) enum GaveUp {
    Changed,
    Stopped,
    Backing(BackingError),
}

impl Stream<'_> {
    fn look(&mut self) -> Result<(), GaveUp> {
        if (self.stop)() {
            return Err(GaveUp::Stopped);
        }
        let stat = self
            .backing
            .stat(self.file.as_fd())
            .map_err(GaveUp::Backing)?;
        if (stat.size, stat.ctime) != (self.seen.size, self.seen.ctime) {
            return Err(GaveUp::Changed);
        }
        self.since_look = 0;
        Ok(())
    }

    fn step(&mut self, buffer: &mut [u8]) -> Result<usize, GaveUp> {
        let Some(run) = self.runs.first() else {
            return Ok(0);
        };
        if self.since_look >= LOOK_EVERY {
            self.look()?;
        }
        let want = usize::try_from(run.len - self.at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let fd = self.file.as_fd();
        let got = rustix::io::pread(fd, &mut buffer[..want], run.offset + self.at)
            .map_err(|why| GaveUp::Backing(BackingError::of("read", || describe(fd), why)))?;
        if got == 0 && want > 0 {
            return Err(GaveUp::Changed);
        }
        self.since_look += got as u64;
        self.at += got as u64;
        if self.at == run.len {
            (self.runs, self.at) = (&self.runs[1..], 0);
        }
        Ok(got)
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.step(buffer).map_err(|why| {
            self.gave_up = Some(why);
            io::Error::other("the file cannot be read to its end")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_holes_are_stored_as_zeros() {
        let run = |offset, len| Extent { offset, len };
        let runs = vec![run(0, 1), run(2, 1), run(10, 1), run(12, 1), run(100, 1)];
        assert_eq!(fewer(runs.clone(), 5), runs);
        assert_eq!(fewer(runs.clone(), 3), [run(0, 3), run(10, 3), run(100, 1)]);
        assert_eq!(fewer(runs, 1), [run(0, 101)]);
    }
}
