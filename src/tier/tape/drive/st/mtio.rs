//! The kernel's side of [`Device`]: `/dev/nst*`, and the numbers of `linux/mtio.h`.
#![allow(
    unsafe_code,
    reason = "ioctl(2) with MTIOCTOP, MTIOCGET and MTIOCPOS, which no safe wrapper here offers"
)]

use super::device::{Access, Device, Operation, Options, State};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::mem::size_of;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

/// Major number of the `st` driver's devices.
const MAJOR: u32 = 9;
/// Minor numbers with this bit are of devices that do not rewind when they are closed.
const NO_REWIND: u32 = 0x80;

/// `struct mtop`.
#[repr(C)]
struct Op {
    op: libc::c_short,
    count: libc::c_int,
}

/// `struct mtget`.
#[repr(C)]
#[derive(Default)]
struct Get {
    kind: libc::c_long,
    resid: libc::c_long,
    dsreg: libc::c_long,
    gstat: libc::c_long,
    erreg: libc::c_long,
    fileno: libc::c_int,
    blkno: libc::c_int,
}

/// `struct mtpos`.
#[repr(C)]
#[derive(Default)]
struct Pos {
    blkno: libc::c_long,
}

/// The number of a request of kind `m`: direction (1 writes, 2 reads), size of the argument, number.
const fn request(direction: u64, size: usize, number: u64) -> u64 {
    (direction << 30) | ((size as u64) << 16) | ((b'm' as u64) << 8) | number
}

const MTIOCTOP: u64 = request(1, size_of::<Op>(), 1);
const MTIOCGET: u64 = request(2, size_of::<Get>(), 2);
const MTIOCPOS: u64 = request(2, size_of::<Pos>(), 3);

const SET_OPTIONS: i32 = 0x3000_0000;
const CLEAR_OPTIONS: i32 = 0x4000_0000;

/// A tape device of this host.
#[derive(Debug)]
pub struct Mtio {
    path: PathBuf,
    file: Option<File>,
}

impl Mtio {
    /// The device at `path`, not open yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    fn file(&mut self) -> io::Result<&mut File> {
        let closed = || io::Error::from_raw_os_error(libc::EBADF);
        self.file.as_mut().ok_or_else(closed)
    }

    fn ioctl<T>(&mut self, request: u64, argument: &mut T) -> io::Result<()> {
        let file = self.file()?;
        // SAFETY: the descriptor is open for the whole call. Each caller passes the argument whose
        // size and layout its request's number names, alive and not shared for the whole call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), request, &raw mut *argument) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// `mt_op` and `mt_count` of an operation.
fn numbers(operation: Operation) -> (libc::c_short, libc::c_int) {
    match operation {
        Operation::ForwardFile => (1, 1),
        Operation::Marks(count) => (5, count),
        Operation::Rewind => (6, 1),
        Operation::Offline => (7, 1),
        Operation::EndOfData => (12, 1),
        Operation::Erase => (13, 0),
        Operation::Variable => (20, 0),
        Operation::Seek(object) => (22, object),
        Operation::Set(Options(bits)) => (24, SET_OPTIONS | bits),
        Operation::Clear(Options(bits)) => (24, CLEAR_OPTIONS | bits),
        Operation::Load => (30, 1),
        Operation::MarkAtOnce => (35, 1),
    }
}

/// A system call that a signal broke off before it did anything is made again.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

impl Device for Mtio {
    fn open(&mut self, access: Access) -> io::Result<()> {
        self.file = None;
        let mut options = OpenOptions::new();
        options.read(true).write(access == Access::Write);
        if access == Access::Look {
            options.custom_flags(libc::O_NONBLOCK);
        }
        // Looked at before it is opened: opening another kind of device may do something.
        let meta = std::fs::metadata(&self.path)?;
        let (major, minor) = (libc::major(meta.rdev()), libc::minor(meta.rdev()));
        if !meta.file_type().is_char_device() || major != MAJOR {
            return Err(io::Error::other("it is no tape device of the st driver"));
        }
        if minor & NO_REWIND == 0 {
            let why = "it rewinds when it is closed: name the device that does not (/dev/nst0, .../by-id/...-nst)";
            return Err(io::Error::other(why));
        }
        self.file = Some(uninterrupted(|| options.open(&self.path))?);
        Ok(())
    }

    fn close(&mut self) {
        self.file = None;
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let file = self.file()?;
        uninterrupted(|| file.read(buffer))
    }

    fn write(&mut self, block: &[u8]) -> io::Result<usize> {
        let file = self.file()?;
        uninterrupted(|| file.write(block))
    }

    fn operate(&mut self, operation: Operation) -> io::Result<()> {
        let (op, count) = numbers(operation);
        self.ioctl(MTIOCTOP, &mut Op { op, count })
    }

    fn position(&mut self) -> io::Result<i64> {
        let mut pos = Pos::default();
        self.ioctl(MTIOCPOS, &mut pos)?;
        Ok(pos.blkno)
    }

    fn state(&mut self) -> io::Result<State> {
        let mut get = Get::default();
        self.ioctl(MTIOCGET, &mut get)?;
        let has = |bit| get.gstat & bit != 0;
        Ok(State {
            online: has(0x0100_0000),
            empty: has(0x0004_0000),
            protected: has(0x0400_0000),
            end_of_data: has(0x0800_0000),
            end_of_tape: has(0x2000_0000),
        })
    }

    fn options(&mut self) -> io::Result<i32> {
        let minor = libc::minor(self.file()?.metadata()?.rdev());
        options_in(&std::fs::read_to_string(format!(
            "/sys/dev/char/{MAJOR}:{minor}/options"
        ))?)
    }
}

/// What the driver says in sysfs: `0x00000d07`.
fn options_in(text: &str) -> io::Result<i32> {
    let digits = text.trim().strip_prefix("0x");
    let bits = digits.and_then(|digits| i32::from_str_radix(digits, 16).ok());
    bits.ok_or_else(|| io::Error::other(format!("it says {text:?} of its options")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_sysfs_has_them() {
        assert_eq!(options_in("0x00000d07\n").ok(), Some(0xd07));
        for text in ["", "d07", "0xg", "0xffffffffff"] {
            assert!(options_in(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn requests_have_the_numbers_of_linux_mtio_h() {
        // As a C program prints them on x86-64 and aarch64.
        assert_eq!(MTIOCTOP, 0x4008_6d01);
        assert_eq!(MTIOCGET, 0x8030_6d02);
        assert_eq!(MTIOCPOS, 0x8008_6d03);
    }

    #[test]
    fn what_is_no_tape_device_is_never_opened() {
        let place = tempfile::tempdir().expect("temporary directory");
        let file = place.path().join("file");
        std::fs::write(&file, "precious").expect("write");
        for path in [file, "/dev/null".into()] {
            let error = Mtio::new(path.clone()).open(Access::Write).err();
            let error = error.map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains("no tape device"), "{path:?}: {error}");
        }
        let gone = Mtio::new(place.path().join("nst9")).open(Access::Read);
        assert_eq!(
            gone.map_err(|e| e.kind()),
            Err(io::ErrorKind::NotFound),
            "as the system says it"
        );
        let closed = Mtio::new("/dev/null".into()).position();
        assert_eq!(
            closed.err().and_then(|e| e.raw_os_error()),
            Some(libc::EBADF)
        );
    }
}
