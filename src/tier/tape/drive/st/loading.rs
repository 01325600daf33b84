//! Until a drive is ready, and what its driver is told then; and what is found in a drive that nobody loaded.

use super::device::{Access, Device, Operation, Options};
use super::{DriveError, StDrive};
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

/// MT_ST_SCSI2LOGICAL: objects have the numbers of the standard, not a vendor's.
const WANTED: Options = Options(0x800);
/// What would make errors late or lose them, or moves end before they do: MT_ST_BUFFER_WRITES, ASYNC_WRITES,
/// READ_AHEAD, TWO_FM, FAST_MTEOM (it cannot tell a blank tape from a broken one), AUTO_LOCK, CAN_PARTITIONS, SYSV,
/// NOWAIT, SILI, NOWAIT_EOF.
const UNWANTED: Options = Options(0xf477);

impl<D: Device> StDrive<D> {
    /// Opens the device when the drive is ready; says whether the cartridge is write-protected.
    pub(super) fn ready(&mut self, step: &'static str) -> Result<bool, DriveError> {
        let (began, mut spoken) = (self.clock.now(), Duration::ZERO);
        let (mut access, mut told) = (Access::Write, false);
        loop {
            let error = match self.timed(|device| device.open(access)) {
                Ok(()) => return Ok(access == Access::Read),
                Err(error) => error,
            };
            let waited = self.clock.now().saturating_sub(began);
            match error.raw_os_error() {
                Some(libc::EROFS) if access == Access::Write => {
                    access = Access::Read;
                    continue;
                }
                Some(libc::ENOMEDIUM) if waited < SEEN => {
                    // Some drives thread a cartridge only when they are told to.
                    if !std::mem::replace(&mut told, true) && self.device.open(Access::Look).is_ok()
                    {
                        let _ = self.operate(Operation::Load);
                        self.device.close();
                        continue;
                    }
                }
                Some(libc::ENOMEDIUM) => {
                    let why = "the changer put a cartridge in it, and it has none: are drives= in the order of \
                               the changer's drives?";
                    return Err(self.dead(step, why));
                }
                Some(libc::EIO | libc::EAGAIN) if waited < self.patience => {}
                Some(libc::EIO | libc::EAGAIN) => {
                    let why = format!("{} was not ready in {} s", self.number, waited.as_secs());
                    return Err(DriveError::Unloadable(why));
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

    /// Sets the driver up for what is done here; the tape stands at its beginning then.
    pub(super) fn prepare(&mut self, step: &'static str) -> Result<(), DriveError> {
        for options in [Operation::Set(WANTED), Operation::Clear(UNWANTED)] {
            match self.operate(options) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                    tracing::warn!(
                        drive = %self.number,
                        "the driver's options can be set by root alone: docs/operations.md says which must be set"
                    );
                    break;
                }
                Err(error) => return Err(self.failed(step, error)),
            }
        }
        self.operate(Operation::Variable).map_err(|e| {
            let why = format!("it takes no blocks of any length (MTSETBLK 0): {e}");
            self.dead(step, why)
        })?;
        self.operate(Operation::Rewind)
            .map_err(|e| self.failed(step, e))?;
        match self.ask(step)? {
            0 => Ok(()),
            at => Err(self.dead(step, format_args!("rewound, it stands at object {at}"))),
        }
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
