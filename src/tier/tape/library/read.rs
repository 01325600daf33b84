//! Reading a part of a file.
//!
//! Invariant: that a medium does not give its bytes is said of it when it did not give them twice, loaded anew in
//! between, in another drive where one is idle: a dirty head is no damage. Then it is said for good, so that the copy is
//! called bad and another one read.

use super::{Library, LibraryError, Mounted};
use crate::tier::tape::drive::Blame;
use crate::tier::tape::label::Barcode;
use crate::tier::tape::volume::{self, TapeFile, VolumeError};

impl Library {
    /// Reads a part of a file that [`Self::find`] found, which must lie within it.
    ///
    /// # Errors
    /// [`LibraryError::Elsewhere`] if it is not there any more, [`LibraryError::Unreadable`] if the medium does not give
    /// it, [`LibraryError::Absent`], [`LibraryError::Volume`], [`LibraryError::NoDrive`], ...
    pub fn read(
        &self,
        barcode: Barcode,
        file: &TapeFile,
        offset: u64,
        into: &mut [u8],
    ) -> Result<(), LibraryError> {
        // Of a file that is known as bad one more witness is enough.
        let mut is_doubted = self.is_spoiled(barcode, file);
        let (mut instead, mut lost) = (None, false);
        loop {
            let mut mounted = self.mount_instead(barcode, instead)?;
            // While a drive was waited for it may have been deleted, and its cartridge freed.
            if self.find(file.name) != Some((barcode, *file)) {
                return Err(LibraryError::Elsewhere);
            }
            let geometry = self.geometry(barcode)?;
            let (drive, window) = mounted.parts();
            let error = match volume::read(drive, file, offset, into, (window, geometry)) {
                Ok(()) => {
                    self.succeeded(mounted.drive().number(), barcode, false);
                    return Ok(());
                }
                Err(error) => error,
            };
            if let VolumeError::Drive { source, .. } = &error
                && source.blames() == Blame::Drive
            {
                mounted.fail(source);
                continue;
            }
            if error.is_lost() && !std::mem::replace(&mut lost, true) {
                // The label is read before it is used again.
                tracing::warn!(%barcode, %error, "a drive lost its place");
                mounted.seen = None;
                continue;
            }
            let is_mediums = error.is_mediums();
            if is_mediums && !is_doubted {
                is_doubted = true;
                tracing::warn!(%barcode, file = %file.name, %error, "not read: the cartridge is loaded anew, and read once more");
                instead = self.load_anew(mounted, barcode)?;
                continue;
            }
            self.unread(mounted.drive(), barcode, file, &error);
            return Err(match error {
                source if is_mediums => LibraryError::Unreadable { barcode, source },
                error => LibraryError::volume(barcode, error),
            });
        }
    }

    /// Puts a cartridge away, so that it is loaded anew; in the drive that holds what this returns, where
    /// there is another than the one that is doubted.
    fn load_anew(
        &self,
        mut mounted: Mounted<'_>,
        barcode: Barcode,
    ) -> Result<Option<Barcode>, LibraryError> {
        let own = mounted.drive().number();
        let bays = self.mounts.status();
        let others = bays.iter().filter(|b| b.number != own);
        let mut others = others.filter(|b| b.failed.is_none() && !b.busy).peekable();
        if others.peek().is_some() {
            let instead = others.find_map(|b| b.holds);
            mounted.vacate();
            return Ok(instead);
        }
        match mounted.reload(barcode) {
            Ok(()) => Ok(None),
            Err(why) if why.blames() == Blame::Drive => {
                mounted.fail(&why);
                Ok(None)
            }
            Err(source) => {
                mounted.vacate();
                Err(LibraryError::Load { barcode, source })
            }
        }
    }

    fn is_spoiled(&self, barcode: Barcode, file: &TapeFile) -> bool {
        let stock = self.stock.lock();
        let cartridge = stock.cartridges.get(&barcode);
        cartridge.is_some_and(|c| c.entry.bad.iter().any(|bad| bad.object == file.object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::tape::drive::{DriveError, DriveNumber};
    use std::io;

    #[test]
    fn what_the_medium_does_not_give_is_told_from_what_else_goes_wrong() {
        let of = |source: DriveError| {
            let step = "reading";
            VolumeError::Drive { step, source }.is_mediums()
        };
        let medium = |errno| DriveError::Medium {
            step: "reading",
            source: io::Error::from_raw_os_error(errno),
        };
        assert!(of(DriveError::BadBlock { object: 7 }) && of(medium(libc::EIO)));
        let drive = DriveNumber(1);
        let step = "reading";
        assert!(!of(medium(libc::ENOMEM)) && !of(DriveError::Empty { drive, step }));
    }
}
