//! Where the head stands: the drive is asked, and what follows if it is not where it was left.

use super::device::{self, Device, Operation};
use super::{DriveError, Loaded, Read, StDrive, Wrote};
use crate::tier::tape::drive::Blame;
use crate::tier::tape::label::LABEL;
use std::fmt;
use std::io;

impl<D: Device> StDrive<D> {
    /// The head is not where it was left.
    pub(super) fn lost(&mut self, step: &'static str, why: impl fmt::Display) -> DriveError {
        if let Some(tape) = &mut self.loaded {
            (tape.lost, tape.unsure, tape.end) = (true, true, None);
        }
        DriveError::Lost {
            drive: self.number,
            step,
            why: why.to_string(),
        }
    }

    /// It was not said to be lost.
    pub(super) fn found(&mut self, step: &'static str) -> Result<(), DriveError> {
        if self.tape(step)?.lost {
            return Err(self.lost(step, "it was not rewound since"));
        }
        Ok(())
    }

    /// Where the head stands, as the drive says.
    pub(super) fn ask(&mut self, step: &'static str) -> Result<u64, DriveError> {
        let position = match self.timed(Device::position) {
            Ok(position) => position,
            Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                return Err(self.lost(step, "it does not know where it is"));
            }
            Err(error) => return Err(self.failed(step, error)),
        };
        u64::try_from(position)
            .map_err(|_| self.dead(step, format_args!("it says that it stands at {position}")))
    }

    /// The head stands where it was left.
    pub(super) fn confirm(&mut self, step: &'static str) -> Result<(), DriveError> {
        self.found(step)?;
        let at = self.ask(step)?;
        let here = self.tape(step)?.here;
        if at != here {
            let why = format!("it is before object {at}, and should be before {here}");
            return Err(self.lost(step, why));
        }
        Ok(())
    }

    /// Before the tape is moved: what was written is proven, so that none of it is lost unseen, and the driver writes no
    /// tape mark of its own.
    pub(super) fn settle(&mut self, step: &'static str) -> Result<(), DriveError> {
        let tape = *self.tape(step)?;
        let told = tape.unsure || tape.spoiled || tape.lost;
        if tape.writing && tape.here > tape.proven && !told {
            return self.prove(step);
        }
        self.flush(step)
    }

    /// The same where nobody asks for what was written, or was told that it is lost.
    pub(super) fn flush(&mut self, step: &'static str) -> Result<(), DriveError> {
        let tape = self.tape(step)?;
        if std::mem::take(&mut tape.writing)
            && let Err(error) = self.operate(Operation::Marks(0))
        {
            tracing::warn!(drive = %self.number, %error, "what was written last may not be there");
            self.spoil();
        }
        Ok(())
    }

    /// All that was written is on the medium, and the drive said so.
    pub(super) fn prove(&mut self, step: &'static str) -> Result<(), DriveError> {
        let flushed = self.operate(Operation::Marks(0));
        self.tape(step)?.writing = false;
        let proven = flushed
            .map_err(|e| self.failed(step, e))
            .and_then(|()| self.confirm(step))
            .and_then(|()| self.reads_back(step));
        if let Err(error) = proven {
            self.spoil();
            return Err(error);
        }
        let tape = self.tape(step)?;
        (tape.proven, tape.data) = (tape.here, false);
        Ok(())
    }

    /// What was written since all was proven may not be there.
    pub(super) fn spoil(&mut self) {
        if let Some(tape) = &mut self.loaded {
            (tape.unsure, tape.spoiled) = (true, true);
        }
    }

    /// The head was placed: all before it is proven, unless it is behind something that is spoiled.
    pub(super) fn placed(&mut self, at: u64) {
        if let Some(tape) = &mut self.loaded
            && (!tape.spoiled || at <= tape.proven)
        {
            (tape.proven, tape.spoiled) = (at, false);
        }
    }

    pub(super) fn stands(&mut self, at: u64) {
        if let Some(tape) = &mut self.loaded {
            tape.here = at;
        }
    }

    /// Goes before an object, wherever the head is.
    pub(super) fn seek(&mut self, step: &'static str, object: u64) -> Result<(), DriveError> {
        self.found(step)?;
        let number = i32::try_from(object)
            .map_err(|_| self.dead(step, format_args!("it has no object {object}")))?;
        self.operate(Operation::Seek(number))
            .map_err(|e| self.failed(step, e))?;
        let at = self.ask(step)?;
        self.stands(at);
        self.placed(at);
        if at != object {
            let source = io::Error::other(format!("sought object {object}, found {at}"));
            return Err(DriveError::Medium { step, source });
        }
        Ok(())
    }

    /// Goes to the end of the data.
    pub(super) fn go_to_end(&mut self, step: &'static str) -> Result<u64, DriveError> {
        self.found(step)?;
        self.operate(Operation::EndOfData)
            .map_err(|e| self.failed(step, e))?;
        let end = self.ask(step)?;
        if let Some(tape) = &mut self.loaded {
            (tape.here, tape.end) = (end, Some(end));
        }
        Ok(end)
    }

    /// A read failed with EIO: the end of the data, or a block that cannot be read.
    pub(super) fn unreadable(
        &mut self,
        step: &'static str,
        object: u64,
        at: u64,
    ) -> Result<Read, DriveError> {
        if at != object && at != object + 1 {
            let why = format!("it was before object {object}, and is before {at}");
            return Err(self.lost(step, why));
        }
        if at == object && self.go_to_end(step)? == object {
            return Ok(Read::End);
        }
        if at != object + 1
            && let Err(error) = self.seek(step, object + 1)
        {
            if error.blames() != Blame::Cartridge {
                return Err(error);
            }
            // Wherever it is: whoever goes on from here has it placed first.
            let at = self.ask(step)?;
            self.stands(at);
            self.tape(step)?.unsure = true;
            return Err(DriveError::BadBlock { object });
        }
        self.stands(object + 1);
        Err(DriveError::BadBlock { object })
    }

    /// Where a write goes, if one may be made.
    pub(super) fn writable(&mut self, step: &'static str) -> Result<u64, DriveError> {
        self.found(step)?;
        let tape = *self.tape(step)?;
        if tape.protected {
            return Err(DriveError::Protected);
        }
        if tape.unsure || tape.spoiled {
            let source =
                io::Error::other("an earlier write failed: the tape must be located first");
            return Err(DriveError::Medium { step, source });
        }
        if !tape.writing {
            self.confirm(step)?;
        }
        Ok(tape.here)
    }

    /// An object was written at `here`, behind which the data end now.
    pub(super) fn wrote(&mut self, here: u64, len: usize) -> Wrote {
        self.tally.written += len as u64;
        let Some(tape) = &mut self.loaded else {
            return Wrote {
                early_warning: false,
            };
        };
        (tape.here, tape.end) = (here + 1, Some(here + 1));
        Wrote {
            early_warning: tape.early_warning,
        }
    }

    /// A write failed: the medium's fault only if the head is where it was, or behind what was written.
    pub(super) fn unwritten(&mut self, step: &'static str, error: io::Error) -> DriveError {
        self.spoil();
        let error = self.failed(step, error);
        if error.blames() != Blame::Cartridge {
            return error;
        }
        let Some(Loaded { here, .. }) = self.loaded else {
            return error;
        };
        match self.ask(step) {
            Ok(at) if at == here || at == here + 1 => {
                self.stands(at);
                error
            }
            Ok(at) => {
                let why = format!("{error}; it is before object {at}, and should be before {here}");
                self.lost(step, why)
            }
            Err(lost) => lost,
        }
    }

    /// The last block may have met the early warning, and an error that passed for it: not if it is one of data.
    pub(super) fn data_are_before_the_warning(
        &mut self,
        step: &'static str,
    ) -> Result<(), DriveError> {
        let state = self.device.state().map_err(|e| self.failed(step, e))?;
        let tape = self.tape(step)?;
        tape.early_warning |= state.end_of_tape;
        if state.end_of_tape && tape.data {
            return Err(DriveError::EndOfMedium);
        }
        Ok(())
    }

    /// What was written behind the early warning, which can be labels only, is read.
    pub(super) fn reads_back(&mut self, step: &'static str) -> Result<(), DriveError> {
        let tape = *self.tape(step)?;
        if !tape.early_warning || tape.data || tape.proven >= tape.here {
            return Ok(());
        }
        self.seek(step, tape.proven)?;
        let mut room = [0; LABEL];
        while self.tape(step)?.here < tape.here {
            let (object, read) = (self.tape(step)?.here, self.device.read(&mut room));
            read.map_err(|e| self.failed(step, e))?;
            self.stands(object + 1);
        }
        self.confirm(step)
    }

    /// No cartridge is in the drive.
    pub(super) fn see_vacant(&mut self) -> Result<(), DriveError> {
        const STEP: &str = "loading";
        match self.timed(|device| device.open(device::Access::Look)) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOMEDIUM) => return Ok(()),
            Err(error) => return Err(self.failed(STEP, error)),
        }
        let state = self.device.state();
        self.device.close();
        let state = state.map_err(|e| self.failed(STEP, e))?;
        if state.online {
            let why = "the changer says that it is empty, and its device has a cartridge: drives= are in another \
                       order than the changer's drives";
            return Err(self.dead(STEP, why));
        }
        Ok(())
    }

    /// Do the labels that end a file, whole, with their mark, lie behind the head?
    pub(super) fn closing_labels_behind(&mut self) -> Result<bool, DriveError> {
        use super::super::Drive;
        let mut room = [0; LABEL];
        while self.space_file()? {
            let begun = self.position()?;
            let mut seen = 0;
            for kind in [b"EOF1", b"EOF2", b"UTL1"] {
                match self.read_block(&mut room) {
                    Ok(Read::Block(LABEL)) if room.starts_with(kind) => seen += 1,
                    Ok(_) | Err(DriveError::Longer { .. }) => break,
                    Err(error) => return Err(error),
                }
            }
            if seen == 3 && self.read_block(&mut room)? == Read::Mark {
                return Ok(true);
            }
            // What was read may have been the mark itself.
            self.locate(begun)?;
        }
        Ok(false)
    }
}
