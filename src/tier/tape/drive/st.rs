//! A real drive: the verbs on a device of Linux's `st` driver, `/dev/nst*`.
//!
//! | verb | system calls |
//! |---|---|
//! | load | open O_NONBLOCK until MTIOCGET says that it is ready; open O_RDWR (EROFS: O_RDONLY, write-protected); MTREW; options; MTSETBLK 0 |
//! | unload | MTOFFL, close |
//! | rewind, locate | MTIOCPOS, MTREW or MTSEEK, and MTIOCPOS to see where that led |
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
//! - After a bus was reset all fails with EIO until the tape is moved to a known place; but if another program
//!   ate what the drive had to say of that, nothing fails, and the tape is at its beginning, or is another tape.
//! - A medium error at the end of the tape may pass for a write that succeeded: behind the early warning no data
//!   are written, and labels there are read back.
//!
//! Invariants kept here:
//! - Blocks are as long as they were written (variable block mode), and a longer one is never cut: without
//!   MT_ST_SILI a block longer than the buffer is an error.
//! - The drive reads what it writes with its second row of heads; so what was synchronised without an error is
//!   proven (P2). What was written is synchronised before the tape is moved, unless it is rewound or given back; if that
//!   fails, the move is not made.
//! - After a write or a synchronisation that failed nothing is written or proven before the tape was rewound, or the
//!   head was placed where all was proven.
//! - The tape is not sought on before the drive said where it stands.
//! - Nothing is written before the drive said where it stands, unless the last thing that was done was a write. If that
//!   is not where it was left, nothing but a rewind is done.
//! - One writer (P9): the driver opens a device once, whoever asks (EBUSY), and it is open while a cartridge
//!   is loaded. Other hosts on the same bus are kept away by its administrator.

pub mod device;
mod loading;
pub mod mtio;
mod standing;

use super::{Drive, DriveError, DriveNumber, Read, Status, Tally, Wrote};
use crate::tier::Proof;
use crate::tier::clock::Clock;
use crate::tier::tape::label::LABEL;
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
pub struct StDrive<D: Device> {
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
    /// A write failed, or a bad block was not passed, since the head was placed.
    unsure: bool,
    /// What was written behind `proven` may not be there, and whoever wrote it was told.
    spoiled: bool,
    /// Nobody knows where the head is, or on what tape: nothing is done before it is rewound.
    lost: bool,
    /// Something failed since it was rewound that a change of the tape would have made fail, too.
    doubted: bool,
    /// Where the head was when nothing before it was still to be proven.
    proven: u64,
    /// Data were written since, not labels alone.
    data: bool,
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
    fn failed(&mut self, step: &'static str, error: io::Error) -> DriveError {
        let hint = match error.raw_os_error() {
            Some(libc::EIO) => {
                if let Some(tape) = &mut self.loaded {
                    tape.doubted = true;
                }
                return DriveError::Medium {
                    step,
                    source: error,
                };
            }
            Some(libc::ENOSPC) => return DriveError::EndOfMedium,
            Some(libc::EROFS) => return DriveError::Protected,
            Some(libc::EBUSY) => {
                return DriveError::Busy {
                    drive: self.number,
                    step,
                };
            }
            Some(libc::EACCES | libc::EPERM) => ": give Cairn's user the device's group (tape)",
            Some(libc::ENXIO | libc::ENODEV | libc::ENOENT) => ": the drive is gone",
            Some(libc::ENOMEDIUM) => ": the cartridge is gone from it",
            _ => "",
        };
        self.dead(step, format_args!("{error}{hint}"))
    }
}

/// The kernel, or the way to the drive, has no room for a block of this length.
fn is_too_long(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EOVERFLOW | libc::E2BIG | libc::ENOMEM | libc::EBUSY)
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
            spoiled: false,
            lost: false,
            doubted: false,
            proven: 0,
            data: false,
            early_warning: false,
        });
        Ok(())
    }

    fn unload(&mut self) -> Result<(), DriveError> {
        const STEP: &str = "unloading";
        if self.loaded.is_none() {
            return self.unload_found(STEP);
        }
        self.flush(STEP)?;
        self.loaded = None;
        let done = self.operate(Operation::Offline);
        self.device.close();
        done.map_err(|error| self.dead(STEP, error))
    }

    fn rewind(&mut self) -> Result<(), DriveError> {
        const STEP: &str = "rewinding";
        self.flush(STEP)?;
        let mut rewound = self.operate(Operation::Rewind);
        if matches!(&rewound, Err(error) if error.raw_os_error() == Some(libc::EIO)) {
            // What happened to it since it was used last is told once.
            rewound = self.operate(Operation::Rewind);
        }
        rewound.map_err(|e| self.failed(STEP, e))?;
        let at = self.ask(STEP)?;
        if at != 0 {
            return Err(self.lost(STEP, format_args!("rewound, it stands at object {at}")));
        }
        let tape = self.tape(STEP)?;
        if tape.unsure || tape.lost || tape.doubted {
            tape.end = None;
        }
        (tape.unsure, tape.lost, tape.doubted) = (false, false, false);
        (tape.here, tape.proven, tape.spoiled) = (0, 0, false);
        (tape.early_warning, tape.data) = (false, false);
        Ok(())
    }

    fn locate(&mut self, object: u64) -> Result<(), DriveError> {
        const STEP: &str = "locating";
        self.settle(STEP)?;
        self.confirm(STEP)?;
        let tape = *self.tape(STEP)?;
        if !tape.unsure && tape.here == object {
            self.placed(object);
            self.tape(STEP)?.data = false;
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
        (tape.early_warning, tape.data) = (false, false);
        Ok(())
    }

    fn space_file(&mut self) -> Result<bool, DriveError> {
        const STEP: &str = "spacing";
        self.settle(STEP)?;
        self.found(STEP)?;
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
        const STEP: &str = "asking for the position";
        let tape = *self.tape(STEP)?;
        if !tape.unsure {
            self.confirm(STEP)?;
        }
        Ok(tape.here)
    }

    fn read_block(&mut self, buffer: &mut [u8]) -> Result<Read, DriveError> {
        const STEP: &str = "reading";
        self.settle(STEP)?;
        self.found(STEP)?;
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
                    return Err(self.lost(STEP, why));
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
                _ if is_too_long(&error) => {
                    self.confirm(STEP)?;
                    if room <= LEAST {
                        let (len, source) = (room, error);
                        return Err(DriveError::Unpassable { len, source });
                    }
                    self.most = (room / 2).max(LEAST);
                }
                Some(libc::EIO) => {
                    let at = self.ask(STEP)?;
                    return self.unreadable(STEP, object, at);
                }
                _ => return Err(self.failed(STEP, error)),
            }
        }
    }

    fn write_block(&mut self, block: &[u8]) -> Result<Wrote, DriveError> {
        const STEP: &str = "writing";
        let here = self.writable(STEP)?;
        let tape = self.tape(STEP)?;
        let is_data = block.len() > LABEL || tape.data;
        if is_data && tape.early_warning {
            return Err(DriveError::EndOfMedium);
        }
        let mut again = !is_data;
        loop {
            let result = self.timed(|device| device.write(block));
            let tape = self.tape(STEP)?;
            tape.writing = true;
            let error = match result {
                Ok(len) if len == block.len() => {
                    tape.data = is_data;
                    return Ok(self.wrote(here, len));
                }
                Ok(len) => {
                    self.spoil();
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
                        at if at == here + 1 && !is_data => {
                            return Ok(self.wrote(here, block.len()));
                        }
                        at if at == here && again => again = false,
                        at if at == here || at == here + 1 => {
                            // A block more than counts is no matter to who goes back behind one that does.
                            self.stands(at);
                            return Err(DriveError::EndOfMedium);
                        }
                        at => {
                            let why = format!("it was before object {here}, and is before {at}");
                            return Err(self.lost(STEP, why));
                        }
                    }
                }
                Some(libc::EACCES) => return Err(DriveError::Protected),
                _ if is_too_long(&error) => {
                    self.confirm(STEP)?;
                    let (len, source) = (block.len(), error);
                    return Err(DriveError::Unpassable { len, source });
                }
                _ => return Err(self.unwritten(STEP, error)),
            }
        }
    }

    fn write_mark(&mut self) -> Result<Wrote, DriveError> {
        const STEP: &str = "writing a tape mark";
        let here = self.writable(STEP)?;
        self.data_are_before_the_warning(STEP)?;
        match self.operate(Operation::MarkAtOnce) {
            Ok(()) => Ok(self.wrote(here, 0)),
            Err(error) => Err(self.unwritten(STEP, error)),
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
        self.found(STEP)?;
        if tape.unsure || tape.spoiled {
            let source = io::Error::other("a write since the last synchronisation failed");
            return Err(DriveError::Medium { step: STEP, source });
        }
        self.prove(STEP)?;
        Ok(Proof::Drive)
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

    fn is_sure(&self) -> bool {
        self.loaded.is_none_or(|tape| !tape.lost && !tape.doubted)
    }

    fn vacant(&mut self) -> Result<(), DriveError> {
        self.see_vacant()
    }

    fn complete_behind(&mut self) -> Result<bool, DriveError> {
        self.closing_labels_behind()
    }
}

impl<D: Device> Drop for StDrive<D> {
    fn drop(&mut self) {
        if self.loaded.is_some_and(|tape| tape.writing) {
            tracing::warn!(drive = %self.number, "given up while it was written");
            // Else the driver puts a tape mark there when the device is closed, wherever "there" is.
            let _ = self.operate(Operation::Marks(0));
        }
    }
}

#[cfg(test)]
mod tests;
