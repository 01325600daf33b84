//! What the kernel's `st` driver gives, one method for each system call, and no logic. [`super::mtio`]
//! calls the kernel; tests put a recording or a model of the driver in its place.

use std::fmt;
use std::io;

/// What a drive is told by MTIOCTOP; see st(4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// MTLOAD.
    Load,
    /// MTOFFL: rewind, and give the cartridge back.
    Offline,
    /// MTREW.
    Rewind,
    /// MTSEEK: go before an object.
    Seek(i32),
    /// MTFSF: go behind the next tape mark.
    ForwardFile,
    /// MTEOM: go to the end of the data.
    EndOfData,
    /// MTWEOF: write so many tape marks; the drive's buffer is on the medium when it returns. With 0 it
    /// does only that.
    Marks(i32),
    /// MTWEOFI: write a tape mark into the drive's buffer.
    MarkAtOnce,
    /// MTERASE 0: the data end here.
    Erase,
    /// MTSETBLK 0: a block is as long as what is written at once.
    Variable,
    /// MTSETDRVBUFFER: sets these options of the driver.
    Set(Options),
    /// MTSETDRVBUFFER: clears them.
    Clear(Options),
}

impl fmt::Display for Operation {
    /// As recordings have it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load => f.write_str("load"),
            Self::Offline => f.write_str("offline"),
            Self::Rewind => f.write_str("rewind"),
            Self::Seek(object) => write!(f, "seek {object}"),
            Self::ForwardFile => f.write_str("forward-file"),
            Self::EndOfData => f.write_str("end-of-data"),
            Self::Marks(count) => write!(f, "marks {count}"),
            Self::MarkAtOnce => f.write_str("mark-at-once"),
            Self::Erase => f.write_str("erase"),
            Self::Variable => f.write_str("variable"),
            Self::Set(options) => write!(f, "set {:#06x}", options.0),
            Self::Clear(options) => write!(f, "clear {:#06x}", options.0),
        }
    }
}

/// Bits of MTSETDRVBUFFER: MT_ST_* of `linux/mtio.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options(pub i32);

/// How a device is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// O_RDWR; the driver waits until the drive is ready, two minutes and more: ask before.
    Write,
    /// O_RDONLY; it waits, too.
    Read,
    /// O_RDONLY and O_NONBLOCK: whatever is in the drive, if anything.
    Look,
}

/// What MTIOCGET says: GMT_* bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State {
    /// GMT_ONLINE: a cartridge is loaded and ready.
    pub online: bool,
    /// GMT_DR_OPEN: none is in it.
    pub empty: bool,
    /// GMT_WR_PROT.
    pub protected: bool,
    /// GMT_EOD: the last operation met the end of the data.
    pub end_of_data: bool,
    /// GMT_EOT: the last one met the end of the tape.
    pub end_of_tape: bool,
}

/// A device of the `st` driver. Errors are those of the system calls.
pub trait Device: Send {
    /// open(2); closes it before, if it is open.
    ///
    /// # Errors
    /// EBUSY: another descriptor is open. EROFS: write-protected. ENOMEDIUM. EIO: not ready. ...
    fn open(&mut self, access: Access) -> io::Result<()>;
    /// close(2).
    fn close(&mut self);
    /// read(2): a block, or 0 for a tape mark and at the end of the data.
    ///
    /// # Errors
    /// ENOMEM: the block is longer than the buffer. EBUSY, EINVAL, EOVERFLOW: no room for the buffer. EIO. ...
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    /// write(2): a block.
    ///
    /// # Errors
    /// ENOSPC: the end of the tape is near, or reached. EIO. ...
    fn write(&mut self, block: &[u8]) -> io::Result<usize>;
    /// MTIOCTOP.
    ///
    /// # Errors
    /// EIO if the drive declined it; ...
    fn operate(&mut self, operation: Operation) -> io::Result<()>;
    /// MTIOCPOS: number of the object before which the head stands.
    ///
    /// # Errors
    /// EIO if the drive does not know.
    fn position(&mut self) -> io::Result<i64>;
    /// MTIOCGET.
    ///
    /// # Errors
    /// The drive is gone.
    fn state(&mut self) -> io::Result<State>;
    /// The MT_ST_* options that are set, as the driver tells everybody.
    ///
    /// # Errors
    /// It does not tell.
    fn options(&mut self) -> io::Result<i32>;
}
