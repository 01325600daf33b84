//! readdir and readdirplus, without state: every request opens the directory, goes to the
//! backing's own offset and reads as much as the reply takes. So a directory of any size and
//! any change meanwhile is served as the backing filesystem would serve it.

use crate::attr::{Entry, kind_of};
use crate::core::Core;
use fuser::FileType;
use rustix::fs::{RawDir, SeekFrom, seek};
use rustix::io::Errno;
use std::ffi::{CStr, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

/// Read from the backing at a time. The reply is at most a few pages, and what does not fit is
/// read again.
const BATCH: usize = 8 * 1024;

/// Takes a directory's entries. Each method says `true` when there is no room for that entry.
pub(crate) trait Listing {
    /// Does it want attributes (and count a lookup for each entry)?
    const PLUS: bool;
    /// A name with its inode number and type.
    fn name(&mut self, id: u64, offset: u64, kind: FileType, name: &OsStr) -> bool;
    /// A name with all that a lookup tells.
    fn entry(&mut self, offset: u64, name: &OsStr, entry: &Entry) -> bool;
}

impl Core {
    pub(crate) fn read_dir<L: Listing>(
        &self,
        id: u64,
        offset: u64,
        listing: &mut L,
    ) -> Result<(), Errno> {
        let node = self.node(id)?;
        if !node.is_dir() {
            return Err(Errno::NOTDIR);
        }
        let dir = self.open_data(&node, libc::O_RDONLY | libc::O_DIRECTORY)?;
        if offset != 0 {
            seek(&dir, SeekFrom::Start(offset))?;
        }
        let mut buffer = [MaybeUninit::uninit(); BATCH];
        let mut entries = RawDir::new(&dir, &mut buffer);
        let mut any = false;
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                // What was added already is an answer; the next request meets the error.
                Err(_) if any => break,
                Err(error) => return Err(error),
            };
            let cookie = entry.next_entry_cookie();
            let name = entry.file_name();
            let full = if L::PLUS && !is_dots(name) {
                self.list_plus(dir.as_fd(), cookie, name, listing)
            } else {
                let kind = kind_of(entry.file_type().as_raw_mode());
                listing.name(
                    entry.ino(),
                    cookie,
                    kind,
                    OsStr::from_bytes(name.to_bytes()),
                )
            };
            if full {
                break;
            }
            any = true;
        }
        Ok(())
    }

    fn list_plus<L: Listing>(
        &self,
        dir: std::os::fd::BorrowedFd<'_>,
        cookie: u64,
        name: &CStr,
        listing: &mut L,
    ) -> bool {
        // A name that went meanwhile is left out.
        let Ok((node, entry)) = self
            .backing
            .glance(dir, name)
            .and_then(|seen| self.entry(seen))
        else {
            return false;
        };
        let full = listing.entry(cookie, OsStr::from_bytes(name.to_bytes()), &entry);
        if full {
            self.forget(node.id, 1); // the kernel never hears of this lookup
        }
        full
    }
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}
