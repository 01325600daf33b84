//! A real drive: the verbs on a device of Linux's `st` driver, `/dev/nst*`.
//!
//! | verb | system calls |
//! |---|---|
//! | load | open O_RDWR (EROFS: O_RDONLY, write-protected) until the drive is ready; options; MTSETBLK 0; MTREW |
//! | unload | MTOFFL, close |
//! | rewind, locate | MTREW, MTSEEK, and MTIOCPOS to see where that led |
//! | space_file | MTFSF 1; the end of the data is an error with GMT_EOD |
//! | read_block | read(2): MTIOCPOS tells a mark from the end of the data, both of which read as 0 bytes |
//! | write_block, write_mark | write(2), MTWEOFI 1 |
//! | erase | MTERASE 0, and MTEOM to see that the data end there; else a tape mark is put there |
//! | sync | MTWEOF 0, and MTIOCPOS to see that all is there that was written |
//!
//! From st.c, st(4) and st.rst; where they leave it open, the drive is asked instead of believed:
//! - Near the end of the tape every second write fails with ENOSPC and wrote nothing: it is made again.
//!   Only two in a row are the end.
//! - Whoever moves the tape after a write, or closes the device, has a tape mark written that nobody asked for,
//!   and at the very end of the tape that fails, and the move with it. MTWEOF 0 before is a way around both.
//! - A read at the end of the data is 0 or EIO, by what was done before. A bad block is EIO, too: whether the
//!   data end there, MTEOM says.
//! - After a bus was reset all fails with EIO until the tape is moved to a known place.
//!
//! Invariants kept here:
//! - Blocks are as long as they were written (variable block mode), and a longer one is never cut: without
//!   MT_ST_SILI a block longer than the buffer is an error.
//! - The drive reads what it writes with its second row of heads; so what was synchronised without an error is
//!   proven (P2). After a write that failed nothing is written or proven until the head was placed anew.
//! - One writer (P9): the driver opens a device once, whoever asks (EBUSY), and it is open while a cartridge
//!   is loaded. Other hosts on the same bus are kept away by its administrator.

pub mod device;
mod loading;
pub mod mtio;

use super::{Drive, DriveError, DriveNumber, Read, Status, Tally, Wrote};
use crate::tier::Proof;
use crate::tier::clock::Clock;
use crate::tier::tape::timing::Generation;
use device::{Device, Operation};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// What is read at once at most, bytes.
const MOST: usize = 8 << 20;
/// What every kernel passes on, bytes.
const LEAST: usize = 256 << 10;

/// A drive behind a device of the `st` driver.
pub struct StDrive<D> {
    number: DriveNumber,
    device: D,
    clock: Arc<dyn Clock>,
    loaded: Option<Loaded>,
    /// How long the cartridge that is loaded next may take until it is ready.
    patience: Duration,
    /// What is read at once at most: less than [`MOST`] if the kernel did not take that.
    most: usize,
    tally: Tally,
}

/// Where a loaded cartridge stands.
#[derive(Debug, Clone, Copy)]
struct Loaded {
    protected: bool,
    /// Number of the object before which the head stands.
    here: u64,
    /// Where the data end, once that is known.
    end: Option<u64>,
    /// The last operation was a write: the driver would write a tape mark before it moves the tape.
    writing: bool,
    /// A write failed since the head was placed: what is on the tape from there on is not known.
    unsure: bool,
    early_warning: bool,
}

impl<D: Device> StDrive<D> {
    /// A drive that nobody has loaded.
    #[must_use]
    pub fn new(number: DriveNumber, device: D, clock: Arc<dyn Clock>) -> Self {
        Self {
            number,
            device,
            clock,
            loaded: None,
            patience: loading::READY,
            most: MOST,
            tally: Tally::default(),
        }
    }

    /// A call that takes the drive's time.
    fn timed<T>(&mut self, call: impl FnOnce(&mut D) -> T) -> T {
        let began = self.clock.now();
        let result = call(&mut self.device);
        self.tally.busy += self.clock.now().saturating_sub(began);
        result
    }

    fn operate(&mut self, operation: Operation) -> io::Result<()> {
        self.timed(|device| device.operate(operation))
    }

    fn tape(&mut self, step: &'static str) -> Result<&mut Loaded, DriveError> {
        let drive = self.number;
        self.loaded
            .as_mut()
            .ok_or(DriveError::Empty { drive, step })
    }

    /// The drive does not work any more.
    fn dead(&self, step: &'static str, why: impl ToString) -> DriveError {
        DriveError::Failed {
            drive: self.number,
            step,
            why: why.to_string(),
        }
    }

    /// What an error of a system call means that is none of the tape's own.
    fn failed(&self, step: &'static str, error: io::Error) -> DriveError {
        let hint = match error.raw_os_error() {
            Some(libc::EIO) => {
                return DriveError::Medium {
                    step,
                    source: error,
                };
            }
            Some(libc::ENOSPC) => return DriveError::EndOfMedium,
            Some(libc::EROFS) => return DriveError::Protected,
            Some(libc::EBUSY) => ": another program has the device open",
            Some(libc::EACCES | libc::EPERM) => ": give Cairn's user the device's group (tape)",
            Some(libc::ENXIO | libc::ENODEV | libc::ENOENT) => ": the drive is gone",
            Some(libc::ENOMEDIUM) => ": the cartridge is gone from it",
            _ => "",
        };
        self.dead(step, format_args!("{error}{hint}"))
    }

    /// Where the head stands, as the drive says.
    fn ask(&mut self, step: &'static str) -> Result<u64, DriveError> {
        let position = self.timed(Device::position);
        let position = position.map_err(|e| self.failed(step, e))?;
        u64::try_from(position)
            .map_err(|_| self.dead(step, format_args!("it says that it stands at {position}")))
    }

    /// Before the tape is moved: so that the driver writes no tape mark of its own. What was not
    /// synchronised may be lost then, as whoever moves the tape knows.
    fn settle(&mut self, step: &'static str) -> Result<(), DriveError> {
        let tape = self.tape(step)?;
        if std::mem::take(&mut tape.writing)
            && let Err(error) = self.operate(Operation::Marks(0))
        {
            tracing::warn!(drive = %self.number, %error, "what was written last may not be there");
            if let Some(tape) = &mut self.loaded {
                tape.unsure = true;
            }
        }
        Ok(())
    }

    fn stands(&mut self, at: u64) {
        if let Some(tape) = &mut self.loaded {
            tape.here = at;
        }
    }

    /// Goes before an object, wherever the head is.
    fn seek(&mut self, step: &'static str, object: u64) -> Result<(), DriveError> {
        let number = i32::try_from(object)
            .map_err(|_| self.dead(step, format_args!("it has no object {object}")))?;
        self.operate(Operation::Seek(number))
            .map_err(|e| self.failed(step, e))?;
        let at = self.ask(step)?;
        self.stands(at);
        if at != object {
            let source = io::Error::other(format!("sought object {object}, found {at}"));
            return Err(DriveError::Medium { step, source });
        }
        Ok(())
    }

    /// Goes to the end of the data.
    fn go_to_end(&mut self, step: &'static str) -> Result<u64, DriveError> {
        self.operate(Operation::EndOfData)
            .map_err(|e| self.failed(step, e))?;
        let end = self.ask(step)?;
        if let Some(tape) = &mut self.loaded {
            (tape.here, tape.end) = (end, Some(end));
        }
        Ok(end)
    }

    /// A read failed with EIO: the end of the data, or a block that cannot be read.
    fn unreadable(&mut self, step: &'static str, object: u64, at: u64) -> Result<Read, DriveError> {
        if at == object && self.go_to_end(step)? == object {
            return Ok(Read::End);
        }
        if at != object + 1
            && let Err(error) = self.seek(step, object + 1)
        {
            if error.blames() == super::Blame::Drive {
                return Err(error);
            }
            // Wherever it is: whoever goes on from here has it placed first.
            self.tape(step)?.unsure = true;
        }
        self.stands(object + 1);
        Err(DriveError::BadBlock { object })
    }
}

/// The kernel, or the way to the drive, has no room for a block of this length.
fn is_too_long(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EOVERFLOW | libc::E2BIG | libc::ENOMEM)
    )
}

impl<D: Device> Drive for StDrive<D> {
    fn number(&self) -> DriveNumber {
        self.number
    }

    fn expect(&mut self, generation: Generation) {
        self.patience = match generation {
            Generation::Lto9 => loading::CALIBRATED,
            Generation::Lto7 | Generation::Lto8 => loading::READY,
        };
    }

    fn load(&mut self) -> Result<(), DriveError> {
        const STEP: &str = "loading";
        self.loaded = None;
        let opened_for_reading = self.ready(STEP)?;
        let prepared = self.prepare(STEP).and_then(|()| {
            let state = self.device.state();
            state.map_err(|e| self.failed(STEP, e))
        });
        let state = prepared.inspect_err(|_| self.device.close())?;
        self.tally.mounts += 1;
        self.loaded = Some(Loaded {
            protected: opened_for_reading || state.protected,
            here: 0,
            end: None,
            writing: false,
            unsure: false,
            early_warning: false,
        });
        Ok(())
    }

    fn unload(&mut self) -> Result<(), DriveError> {
        const STEP: &str = "unloading";
        if self.loaded.is_none() {
            return self.unload_found(STEP);
        }
        self.settle(STEP)?;
        self.loaded = None;
        let done = self.operate(Operation::Offline);
        self.device.close();
        done.map_err(|error| self.dead(STEP, error))
    }

    fn rewind(&mut self) -> Result<(), DriveError> {
        const STEP: &str = "rewinding";
        self.settle(STEP)?;
        self.operate(Operation::Rewind)
            .map_err(|e| self.failed(STEP, e))?;
        let tape = self.tape(STEP)?;
        if std::mem::take(&mut tape.unsure) {
            tape.end = None;
        }
        (tape.here, tape.early_warning) = (0, false);
        Ok(())
    }

    fn locate(&mut self, object: u64) -> Result<(), DriveError> {
        const STEP: &str = "locating";
        self.settle(STEP)?;
        let tape = *self.tape(STEP)?;
        if tape.here == object && !tape.unsure {
            return Ok(());
        }
        let beyond = |end| DriveError::Beyond {
            wanted: object,
            end,
        };
        let end = tape.end.filter(|_| !tape.unsure);
        let far = i32::try_from(object).is_err();
        match (end, far) {
            (Some(end), _) if end < object => return Err(beyond(end)),
            (_, true) => return Err(beyond(self.go_to_end(STEP)?)),
            _ => {}
        }
        self.tally.locates += 1;
        if let Err(error) = self.seek(STEP, object) {
            if error.blames() == super::Blame::Drive {
                return Err(error);
            }
            // The data may end before it.
            let end = self.go_to_end(STEP)?;
            return Err(if end < object { beyond(end) } else { error });
        }
        let tape = self.tape(STEP)?;
        if std::mem::take(&mut tape.unsure) {
            tape.end = None;
        }
        tape.early_warning = false;
        Ok(())
    }

    fn space_file(&mut self) -> Result<bool, DriveError> {
        const STEP: &str = "spacing";
        self.settle(STEP)?;
        let error = self.operate(Operation::ForwardFile).err();
        let state = match &error {
            Some(_) => self.device.state().map_err(|e| self.failed(STEP, e))?,
            None => device::State::default(),
        };
        let at = self.ask(STEP)?;
        self.stands(at);
        match error {
            None => Ok(true),
            Some(error) if error.raw_os_error() == Some(libc::EIO) && state.end_of_data => {
                self.tape(STEP)?.end = Some(at);
                Ok(false)
            }
            Some(error) => Err(self.failed(STEP, error)),
        }
    }

    fn position(&mut self) -> Result<u64, DriveError> {
        Ok(self.tape("asking for the position")?.here)
    }

    fn read_block(&mut self, buffer: &mut [u8]) -> Result<Read, DriveError> {
        const STEP: &str = "reading";
        self.settle(STEP)?;
        let mut sought = false;
        loop {
            let object = self.tape(STEP)?.here;
            let room = buffer.len().min(self.most);
            let into = buffer.get_mut(..room).unwrap_or_default();
            let error = match self.timed(|device| device.read(into)) {
                Ok(0) => {
                    let at = self.ask(STEP)?;
                    self.stands(at);
                    if at == object {
                        self.tape(STEP)?.end = Some(at);
                        return Ok(Read::End);
                    }
                    if at == object + 1 {
                        return Ok(Read::Mark);
                    }
                    let why = format!("it was before object {object}, and is before {at}");
                    return Err(self.dead(STEP, why));
                }
                Ok(len) => {
                    self.stands(object + 1);
                    self.tally.read += len as u64;
                    return Ok(Read::Block(len));
                }
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::ENOMEM) if self.ask(STEP)? == object + 1 => {
                    self.stands(object + 1);
                    return Err(DriveError::Longer { room });
                }
                _ if is_too_long(&error) && room > LEAST => self.most = (room / 2).max(LEAST),
                _ if is_too_long(&error) => {
                    let (len, source) = (room, error);
                    return Err(DriveError::Unpassable { len, source });
                }
                Some(libc::EIO) => match self.ask(STEP) {
                    Ok(at) => return self.unreadable(STEP, object, at),
                    // It does not know where it is, as after a reset of the bus: it is told once.
                    Err(_) if !std::mem::replace(&mut sought, true) => {
                        let told = self.seek(STEP, object);
                        told.map_err(|e| self.dead(STEP, e))?;
                    }
                    Err(error) => return Err(self.dead(STEP, error)),
                },
                _ => return Err(self.failed(STEP, error)),
            }
        }
    }

    fn write_block(&mut self, block: &[u8]) -> Result<Wrote, DriveError> {
        const STEP: &str = "writing";
        let here = self.writable(STEP)?;
        let mut again = true;
        loop {
            let result = self.timed(|device| device.write(block));
            let tape = self.tape(STEP)?;
            tape.writing = true;
            let error = match result {
                Ok(len) if len == block.len() => return Ok(self.wrote(here, len)),
                Ok(len) => {
                    tape.unsure = true;
                    let why = format!("{len} of {} bytes were written", block.len());
                    let source = io::Error::other(why);
                    return Err(DriveError::Medium { step: STEP, source });
                }
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::ENOSPC) => {
                    tape.early_warning = true;
                    match self.ask(STEP)? {
                        at if at == here + 1 => return Ok(self.wrote(here, block.len())),
                        at if at == here && again => again = false,
                        _ => return Err(DriveError::EndOfMedium),
                    }
                }
                Some(libc::EACCES) => return Err(DriveError::Protected),
                _ if is_too_long(&error) => {
                    let (len, source) = (block.len(), error);
                    return Err(DriveError::Unpassable { len, source });
                }
                _ => {
                    tape.unsure = true;
                    return Err(self.failed(STEP, error));
                }
            }
        }
    }

    fn write_mark(&mut self) -> Result<Wrote, DriveError> {
        const STEP: &str = "writing a tape mark";
        let here = self.writable(STEP)?;
        match self.operate(Operation::MarkAtOnce) {
            Ok(()) => Ok(self.wrote(here, 0)),
            Err(error) => {
                self.tape(STEP)?.unsure = true;
                Err(self.failed(STEP, error))
            }
        }
    }

    fn erase(&mut self) -> Result<(), DriveError> {
        const STEP: &str = "erasing";
        self.settle(STEP)?;
        let at = self.writable(STEP)?;
        let known = self.tape(STEP)?.end;
        let end = match known {
            Some(end) => end,
            None => self.go_to_end(STEP)?,
        };
        if end == at {
            return Ok(());
        }
        self.seek(STEP, at)?;
        let erased = self.operate(Operation::Erase).is_ok() && self.go_to_end(STEP)? == at;
        if !erased {
            // The drive has no such erasing: what is written ends the data, too.
            self.seek(STEP, at)?;
            self.operate(Operation::Marks(1))
                .map_err(|e| self.failed(STEP, e))?;
            let end = self.go_to_end(STEP)?;
            if end != at + 1 {
                let why = format!("the data end at object {end}, and should at {}", at + 1);
                let source = io::Error::other(why);
                return Err(DriveError::Medium { step: STEP, source });
            }
        }
        self.seek(STEP, at)
    }

    fn sync(&mut self) -> Result<Proof, DriveError> {
        const STEP: &str = "synchronising";
        let tape = *self.tape(STEP)?;
        if tape.protected {
            return Ok(Proof::Drive);
        }
        if tape.unsure {
            let source = io::Error::other("a write since the last synchronisation failed");
            return Err(DriveError::Medium { step: STEP, source });
        }
        let synced = self.operate(Operation::Marks(0));
        self.tape(STEP)?.writing = false;
        let at = synced
            .map_err(|e| self.failed(STEP, e))
            .and_then(|()| self.ask(STEP));
        match at {
            Ok(at) if at == tape.here => Ok(Proof::Drive),
            Ok(at) => {
                self.tape(STEP)?.unsure = true;
                let why = format!(
                    "it is before object {at}, and should be before {}",
                    tape.here
                );
                Err(self.dead(STEP, why))
            }
            Err(error) => {
                self.tape(STEP)?.unsure = true;
                Err(error)
            }
        }
    }

    fn status(&mut self) -> Result<Status, DriveError> {
        const STEP: &str = "asking for the status";
        let Some(tape) = self.loaded else {
            return Ok(Status {
                ready: false,
                protected: false,
                early_warning: false,
                remaining: None,
            });
        };
        let state = self.device.state().map_err(|e| self.failed(STEP, e))?;
        Ok(Status {
            ready: state.online,
            protected: tape.protected,
            early_warning: tape.early_warning || state.end_of_tape,
            remaining: None,
        })
    }

    fn tally(&self) -> Tally {
        self.tally
    }
}

impl<D: Device> StDrive<D> {
    /// Where a write goes, if one may be made.
    fn writable(&mut self, step: &'static str) -> Result<u64, DriveError> {
        let tape = self.tape(step)?;
        if tape.protected {
            return Err(DriveError::Protected);
        }
        if tape.unsure {
            let source =
                io::Error::other("an earlier write failed: the tape must be located first");
            return Err(DriveError::Medium { step, source });
        }
        Ok(tape.here)
    }

    /// An object was written at `here`, behind which the data end now.
    fn wrote(&mut self, here: u64, len: usize) -> Wrote {
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
}

impl<D> Drop for StDrive<D> {
    fn drop(&mut self) {
        if self.loaded.is_some_and(|tape| tape.writing) {
            tracing::warn!(drive = %self.number, "given up while it was written: a tape mark is put behind that");
        }
    }
}

#[cfg(test)]
mod tests;
