//! The front area: where an object's bytes wait until a drive takes them in one stream. Small ones in
//! memory, larger ones in a file without a name in the library's directory, which is gone with its
//! writer, whatever happens to it.

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Kept in memory up to this many bytes.
const MEMORY: usize = 4 << 20;
/// Handed to the file, and to a drive, in pieces of about this many bytes.
const PIECE: usize = 1 << 20;

/// Bytes that wait for a drive.
pub struct Front {
    dir: File,
    file: Option<File>,
    /// Bytes in the file.
    spilled: u64,
    memory: Vec<u8>,
}

impl Front {
    /// Nothing yet. `dir` is where a file is made if one is needed.
    #[must_use]
    pub fn new(dir: File) -> Self {
        Self {
            dir,
            file: None,
            spilled: 0,
            memory: Vec::new(),
        }
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.spilled + self.memory.len() as u64
    }

    /// Nothing so far?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes more bytes.
    ///
    /// # Errors
    /// The file cannot be made or written: nothing that was taken is of use any more.
    pub fn add(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.memory.extend_from_slice(bytes);
        let most = if self.file.is_some() { PIECE } else { MEMORY };
        if self.memory.len() <= most {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(nameless(&self.dir)?),
        };
        file.write_all_at(&self.memory, self.spilled)?;
        self.spilled += self.memory.len() as u64;
        self.memory.clear();
        self.memory.shrink_to(2 * PIECE);
        Ok(())
    }

    /// Hands all bytes on, from the first, in pieces. May be done again.
    ///
    /// # Errors
    /// What `take` says; the outer one if the file cannot be read.
    pub fn hand_on<E>(
        &self,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> io::Result<Result<(), E>> {
        if let Some(file) = &self.file {
            let mut piece = vec![0; PIECE];
            let mut at = 0;
            while at < self.spilled {
                let count = usize::try_from(self.spilled - at)
                    .unwrap_or(PIECE)
                    .min(PIECE);
                let piece = piece.get_mut(..count).unwrap_or_default();
                file.read_exact_at(piece, at)?;
                at += count as u64;
                if let Err(error) = take(piece) {
                    return Ok(Err(error));
                }
            }
        }
        Ok(take(&self.memory))
    }
}

/// A file without a name.
fn nameless(dir: &File) -> io::Result<File> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::openat(dir.as_fd(), ".", flags | OFlags::TMPFILE, mode) {
        Ok(file) => return Ok(File::from(file)),
        // Not every filesystem has them.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!(".front-{}-{number}", std::process::id());
    let file = rustix::fs::openat(dir, &name, flags | OFlags::CREATE | OFlags::EXCL, mode)?;
    rustix::fs::unlinkat(dir, &name, AtFlags::empty())?;
    Ok(File::from(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in_twice_and_leave_nothing() {
        let place = tempfile::tempdir().expect("temporary directory");
        let content: Vec<u8> = (0..(9 << 20) + 5).map(|n: u32| (n % 251) as u8).collect();
        for len in [0, 1, MEMORY, MEMORY + 1, content.len()] {
            let mut front = Front::new(File::open(place.path()).expect("directory"));
            for piece in content[..len].chunks(300_001) {
                front.add(piece).expect("is taken");
            }
            assert_eq!(front.len(), len as u64);
            for _ in 0..2 {
                let mut out = Vec::new();
                let take = |piece: &[u8]| {
                    out.extend_from_slice(piece);
                    Ok::<_, ()>(())
                };
                front.hand_on(take).expect("is read").expect("is taken");
                assert!(out == content[..len]);
            }
            assert_eq!(
                std::fs::read_dir(place.path()).expect("directory").count(),
                0
            );
        }
    }
}
