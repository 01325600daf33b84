//! Until a drive is ready, and what its driver is told then; and what is found in a drive that nobody loaded.

use super::device::{Access, Device, Operation, Options};
use super::{DriveError, StDrive};
use std::io;
use std::time::Duration;

/// How long a drive may take until it is ready.
pub(super) const READY: Duration = Duration::from_secs(15 * 60);
/// The same where the first load calibrates the cartridge, for up to two hours: LTO-9.
pub(super) const CALIBRATED: Duration = Duration::from_secs(150 * 60);
/// How long one with a cartridge in its mouth may say that it has none.
pub(super) const SEEN: Duration = Duration::from_secs(120);
/// How long somebody else may have the device open.
pub(super) const BUSY: Duration = Duration::from_secs(60);
/// Between two looks.
pub(super) const PAUSE: Duration = Duration::from_secs(2);
/// A drive that is not ready is spoken of each so often.
pub(super) const SPOKEN: Duration = Duration::from_secs(600);

/// One that is not ready is told to load after so long: some thread a cartridge only then.
pub(super) const TOLD: Duration = Duration::from_secs(30);

/// MT_ST_SCSI2LOGICAL: objects have the numbers of the standard, not a vendor's. MT_ST_AUTO_LOCK: nobody takes the
/// cartridge out by the drive's button while it is used.
const WANTED: Options = Options(0x840);
/// What would make errors late or lose them, or moves end before they do: MT_ST_BUFFER_WRITES, ASYNC_WRITES,
/// READ_AHEAD, TWO_FM, FAST_MTEOM (it cannot tell a blank tape from a broken one), CAN_PARTITIONS, SYSV,
/// NOWAIT, SILI, NOWAIT_EOF.
const UNWANTED: Options = Options(0xf437);
/// Of these, what nothing is loaded without: MT_ST_SCSI2LOGICAL.
const NEEDED: i32 = 0x800;
/// What nothing is loaded with, since a receipt could be false: MT_ST_NOWAIT, SILI, NOWAIT_EOF, TWO_FM, FAST_MTEOM.
const FATAL: i32 = 0xe030;

impl<D: Device> StDrive<D> {
    /// Opens the device when the drive is ready; says whether the cartridge is write-protected.
    pub(super) fn ready(&mut self, step: &'static str) -> Result<bool, DriveError> {
        let (began, mut spoken) = (self.clock.now(), Duration::ZERO);
        let mut told = false;
        loop {
            let (error, empty) = match self.open_if_ready() {
                Ok(read_only) => return Ok(read_only),
                Err((error, empty)) => (error, empty),
            };
            let waited = self.clock.now().saturating_sub(began);
            match error.raw_os_error() {
                Some(libc::ENOMEDIUM | libc::EIO | libc::EAGAIN) if empty && waited >= SEEN => {
                    let why = "the changer put a cartridge in it, and it has none: are drives= in the order of \
                               the changer's drives?";
                    return Err(self.dead(step, why));
                }
                Some(libc::ENOMEDIUM | libc::EIO | libc::EAGAIN) if waited >= self.patience => {
                    let why = format!("{} was not ready in {} s", self.number, waited.as_secs());
                    return Err(DriveError::Unloadable(why));
                }
                Some(libc::ENOMEDIUM | libc::EIO | libc::EAGAIN) => {
                    if waited >= TOLD
                        && !std::mem::replace(&mut told, true)
                        && self.device.open(Access::Look).is_ok()
                    {
                        let _ = self.operate(Operation::Load);
                        self.device.close();
                        continue;
                    }
                }
                Some(libc::EBUSY) if waited < BUSY => {}
                _ => return Err(self.failed(step, error)),
            }
            if waited >= spoken + SPOKEN {
                spoken = waited;
                let waited = waited.as_secs();
                tracing::warn!(drive = %self.number, %error, waited, "a drive is not ready yet");
            }
            self.clock.sleep(PAUSE);
        }
    }

    /// Opens the device if the drive is ready now, without waiting: for writing, else for reading. Else why not, and
    /// whether no cartridge is in it.
    fn open_if_ready(&mut self) -> Result<bool, (io::Error, bool)> {
        let is_empty = |error: &io::Error| error.raw_os_error() == Some(libc::ENOMEDIUM);
        let failed = |error: io::Error| {
            let empty = is_empty(&error);
            (error, empty)
        };
        self.timed(|device| device.open(Access::Look))
            .map_err(failed)?;
        let state = self.device.state();
        if !state.as_ref().is_ok_and(|state| state.online) {
            self.device.close();
            let empty = state.map_err(failed)?.empty;
            return Err((io::Error::from_raw_os_error(libc::EAGAIN), empty));
        }
        match self.timed(|device| device.open(Access::Write)) {
            Ok(()) => Ok(false),
            Err(error) if error.raw_os_error() == Some(libc::EROFS) => self
                .timed(|device| device.open(Access::Read))
                .map(|()| true)
                .map_err(failed),
            Err(error) => Err(failed(error)),
        }
    }

    /// Sets the driver up for what is done here; the tape stands at its beginning then.
    pub(super) fn prepare(&mut self, step: &'static str) -> Result<(), DriveError> {
        // First: after a reset nothing else is done.
        self.operate(Operation::Rewind)
            .map_err(|e| self.failed(step, e))?;
        for options in [Operation::Set(WANTED), Operation::Clear(UNWANTED)] {
            match self.operate(options) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                    self.has_good_options(step)?;
                    break;
                }
                Err(error) => return Err(self.failed(step, error)),
            }
        }
        self.operate(Operation::Variable).map_err(|e| {
            let why = format!("it takes no blocks of any length (MTSETBLK 0): {e}");
            self.dead(step, why)
        })?;
        match self.ask(step)? {
            0 => Ok(()),
            at => Err(self.dead(step, format_args!("rewound, it stands at object {at}"))),
        }
    }

    /// Options that only root may set are as they must be.
    fn has_good_options(&mut self, step: &'static str) -> Result<(), DriveError> {
        const WAY: &str = "let root set them, by /etc/stinit.def, as docs/operations.md says, or give Cairn \
                           CAP_SYS_ADMIN";
        let options = self.device.options().map_err(|e| {
            let why = format!("its driver's options can be neither set nor seen ({e}): {WAY}");
            self.dead(step, why)
        })?;
        if options & NEEDED != NEEDED || options & FATAL != 0 {
            let why = format!(
                "its driver's options are {options:#06x}: {NEEDED:#06x} must be set, and none of {FATAL:#06x}: {WAY}"
            );
            return Err(self.dead(step, why));
        }
        Ok(())
    }

    /// Gives back what is in a drive that nobody loaded here: it was left there by whoever had it before.
    pub(super) fn unload_found(&mut self, step: &'static str) -> Result<(), DriveError> {
        let empty = DriveError::Empty {
            drive: self.number,
            step,
        };
        match self.timed(|device| device.open(Access::Look)) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOMEDIUM) => return Err(empty),
            Err(error) => return Err(self.failed(step, error)),
        }
        let result = match self.device.state() {
            Ok(state) if state.empty => Err(empty),
            Ok(_) => match self.operate(Operation::Offline) {
                Err(error) if error.raw_os_error() == Some(libc::ENOMEDIUM) => Err(empty),
                done => done.map_err(|e| self.failed(step, e)),
            },
            Err(error) => Err(self.failed(step, error)),
        };
        self.device.close();
        result
    }
}
