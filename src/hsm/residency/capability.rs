//! `security.capability` of a file whose recall or release takes it for a while: users see and
//! change it as if it were there all the time.

use super::{FileRef, HsmResidency};
use crate::hsm::backing::{CAPABILITY, KEPT};
use cairn_fuse::{AttributeChange, Errno};
use rustix::fs::XattrFlags;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

impl HsmResidency {
    /// The kept copy is listed as what it is kept for.
    pub(super) fn listed_for(&self, file: FileRef<'_>, private: &OsStr) -> Option<&'static OsStr> {
        let kept = private.as_bytes() == KEPT.as_bytes();
        let seen = || matches!(self.backing().capability(file.fd), Ok(Some(_)));
        (kept && seen()).then_some(OsStr::from_bytes(CAPABILITY.as_bytes()))
    }

    /// The capability; `None` leaves the answer to the backing.
    pub(super) fn capability(&self, file: FileRef<'_>) -> Option<Result<Vec<u8>, Errno>> {
        let value = self.backing().capability(file.fd);
        value.ok()?.map(Ok)
    }

    /// A user sets it or takes it away.
    pub(super) fn change_capability(
        &self,
        file: FileRef<'_>,
        change: AttributeChange<'_>,
    ) -> Option<Result<(), Errno>> {
        let backing = self.backing();
        // Without a record no step of Cairn's touches it.
        backing.record(file.fd).ok()??;
        let _turn = backing.turn(file.handle);
        let done = match change {
            AttributeChange::Set { value, flags } => {
                let flags = XattrFlags::from_bits_retain(flags.cast_unsigned());
                backing.set_capability(file.fd, value, flags)
            }
            AttributeChange::Remove => backing.remove_capability(file.fd),
        };
        Some(done.map_err(|why| Errno(why.raw_os_error())))
    }
}
