//! Bytes: written, read, cut, punched, mapped, past the page cache, and where they lie.

use super::{Ground, Outcome, PAGE, Step, all_of, error};
use crate::mapping::{Mapping, Stores};
use crate::sys::truncate;
use rustix::fs::{FallocateFlags, SeekFrom, XattrFlags, fallocate, seek};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

#[derive(Debug, Clone, Copy)]
pub(super) enum DataAct {
    Overwrite,
    Create,
    Empty,
    WriteAt,
    Append,
    SetLen,
    Truncate,
    Copy,
    Read,
    ReadAt,
    Allocate,
    Punch,
    Seek,
    ReadDirect,
    WriteDirect,
    Load,
    Store,
    StorePrivate,
}

/// On a file that had room allocated and not written. Whether that counts as data, and as blocks,
/// depends on who read it since, and it does not come back from a release.
const ALLOCATED: &str = "user.allocated";
/// Of a file that is mapped: where most steps write.
pub(super) const MAPPED: usize = 64 << 10;

impl DataAct {
    pub(super) const ALL: &[Self] = &[
        Self::Overwrite,
        Self::Overwrite,
        Self::Overwrite,
        Self::Create,
        Self::Create,
        Self::Empty,
        Self::WriteAt,
        Self::WriteAt,
        Self::Append,
        Self::SetLen,
        Self::Truncate,
        Self::Copy,
        Self::Read,
        Self::Read,
        Self::ReadAt,
        Self::Allocate,
        Self::Punch,
        Self::Punch,
        Self::Seek,
        Self::Seek,
        Self::ReadDirect,
        Self::WriteDirect,
        Self::Load,
        Self::Store,
        Self::StorePrivate,
    ];

    pub(super) fn run(self, step: &Step, root: &Path, ground: Ground) -> Outcome {
        let path = root.join(&step.name);
        let both = || File::options().read(true).write(true).open(&path);
        match self {
            Self::Overwrite => fs::write(&path, &step.data)?,
            Self::Create => File::create_new(&path)?.write_all(&step.data)?,
            Self::Empty => empty(step, &path)?,
            Self::WriteAt => both()?.write_all_at(&step.data, step.offset)?,
            Self::Append => append(&path)?.write_all(&step.data)?,
            Self::SetLen => both()?.set_len(step.offset)?,
            Self::Truncate => truncate(&path, step.offset)?,
            Self::Copy => return copy(step, root),
            Self::Read => {}
            Self::ReadAt => {
                let mut bytes = vec![0; step.data.len()];
                let count = File::open(path)?.read_at(&mut bytes, step.offset)?;
                bytes.truncate(count);
                return Ok(bytes);
            }
            Self::Allocate => allocate(step, &both()?)?,
            Self::Punch => punch(step, &both()?)?,
            Self::Seek => return sought(&path, ground),
            Self::ReadDirect | Self::WriteDirect if !ground.direct => {}
            Self::ReadDirect => return read_direct(step, &path),
            Self::WriteDirect => write_direct(step, &path)?,
            Self::Load => {
                let file = File::open(&path)?;
                let size = file.metadata()?.len();
                let mapping = Mapping::new(&file, MAPPED, Stores::None)?;
                drop(file);
                return loaded(&mapping, size);
            }
            Self::Store => store(step, both()?)?,
            Self::StorePrivate => return store_private(step, &path),
        }
        all_of(&File::open(path)?)
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    File::options().append(true).open(path)
}

/// Opened with O_TRUNC, for whatever it is opened.
fn empty(step: &Step, path: &Path) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    match step.variant % 3 {
        0 => {
            options.write(true).truncate(true).open(path)?;
        }
        1 => {
            let flags = libc::O_TRUNC | libc::O_APPEND;
            let mut file = options
                .read(true)
                .write(true)
                .custom_flags(flags)
                .open(path)?;
            file.write_all(&step.data)?;
        }
        _ => {
            let file = options.read(true).write(true).truncate(true).open(path)?;
            file.write_all_at(&step.data, step.offset)?;
        }
    }
    Ok(())
}

fn copy(step: &Step, root: &Path) -> Outcome {
    let from = File::open(root.join(&step.name))?;
    let to = File::options()
        .read(true)
        .write(true)
        .open(root.join(&step.other))?;
    let mut place = (step.offset / 2, step.offset);
    let (input, output) = (Some(&mut place.0), Some(&mut place.1));
    let count = rustix::fs::copy_file_range(&from, input, &to, output, step.data.len())?;
    let mut seen = all_of(&to)?;
    seen.extend(count.to_le_bytes());
    Ok(seen)
}

fn allocate(step: &Step, file: &File) -> std::io::Result<()> {
    rustix::fs::fsetxattr(file, ALLOCATED, b"", XattrFlags::empty())?;
    let how = match step.variant % 4 {
        0 => FallocateFlags::empty(),
        1 => FallocateFlags::KEEP_SIZE,
        2 => FallocateFlags::ZERO_RANGE,
        _ => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
    };
    Ok(fallocate(file, how, step.offset, step.data.len() as u64)?)
}

/// A few bytes, some whole pages, or all there is.
pub(super) fn punch(step: &Step, file: &File) -> std::io::Result<()> {
    let (from, length) = match step.variant % 6 {
        0 => (0, 1 << 34),
        1..=3 => (step.offset / PAGE * PAGE, PAGE * (1 + step.variant % 5)),
        _ => (step.offset, step.data.len() as u64),
    };
    let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(file, how, from, length)?)
}

/// Where data are and where holes, and whether there are blocks; at the least, what is called a
/// hole reads as zeros.
fn sought(path: &Path, ground: Ground) -> Outcome {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(error(libc::EISDIR));
    }
    let allocated = rustix::fs::fgetxattr(&file, ALLOCATED, &mut [0_u8; 8][..]).is_ok();
    let (mut seen, mut at) = (String::new(), 0);
    loop {
        let start = match seek(&file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => meta.len(),
            Err(error) => return Err(error.into()),
        };
        let mut hole = vec![0; (start - at).min(1 << 20) as usize];
        file.read_exact_at(&mut hole, at)?;
        if hole.iter().any(|byte| *byte > 0) {
            return Ok(format!("data in the hole of {at}..{start}").into());
        }
        if start >= meta.len() {
            break;
        }
        at = seek(&file, SeekFrom::Hole(start))?;
        if at <= start {
            return Ok(format!("no data in {start}..{at}").into());
        }
        let _ = write!(seen, "{start}..{at} ");
    }
    if !ground.tells_holes || allocated {
        return Ok(Vec::new());
    }
    use std::os::unix::fs::MetadataExt;
    let _ = write!(seen, "blocks {}", meta.blocks() > 0);
    Ok(seen.into())
}

/// Memory that starts at a page. Only so much is asked of O_DIRECT as any filesystem grants.
fn at_page(memory: &mut [u8], length: usize) -> &mut [u8] {
    let start = memory.as_ptr().align_offset(PAGE as usize);
    &mut memory[start..start + length]
}

fn direct(path: &Path, writes: bool) -> std::io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(error(libc::EISDIR));
    }
    File::options()
        .read(true)
        .write(writes)
        .custom_flags(libc::O_DIRECT)
        .open(path)
}

fn read_direct(step: &Step, path: &Path) -> Outcome {
    let file = direct(path, false)?;
    let pages = 1 + step.variant % 8;
    let mut memory = vec![0; (PAGE * (pages + 1)) as usize];
    let bytes = at_page(&mut memory, (PAGE * pages) as usize);
    let count = file.read_at(bytes, step.offset / PAGE * PAGE)?;
    Ok(bytes[..count].to_vec())
}

fn write_direct(step: &Step, path: &Path) -> std::io::Result<()> {
    let file = direct(path, true)?;
    let length = step.data.len().next_multiple_of(PAGE as usize);
    let mut memory = vec![0; length + PAGE as usize];
    let bytes = at_page(&mut memory, length);
    bytes.fill(step.data[0]);
    file.write_all_at(bytes, step.offset / PAGE * PAGE)
}

/// All of a mapped file's bytes; and behind its last page there is nothing.
pub(super) fn loaded(mapping: &Mapping, size: u64) -> Outcome {
    let there = size.min(mapping.len() as u64) as usize;
    let mut seen = mapping.load(0, there)?;
    let behind = there.next_multiple_of(PAGE as usize);
    if behind < mapping.len() {
        let error = mapping.load(behind, 1).err().and_then(|e| e.raw_os_error());
        seen.extend(format!("{error:?}").bytes());
    }
    Ok(seen)
}

/// Stores where there is file, and has it written.
pub(super) fn store_within(step: &Step, mapping: &Mapping, size: u64) -> std::io::Result<usize> {
    let there = size.min(mapping.len() as u64);
    let from = step.offset.min(there) as usize;
    let length = step.data.len().min(there as usize - from);
    mapping.store(from, &step.data[..length])
}

fn store(step: &Step, file: File) -> std::io::Result<()> {
    let size = file.metadata()?.len();
    let mapping = Mapping::new(&file, MAPPED, Stores::Shared)?;
    if step.variant.is_multiple_of(2) {
        drop(file);
    }
    store_within(step, &mapping, size)?;
    mapping.sync()
}

/// Nobody else sees those.
fn store_private(step: &Step, path: &Path) -> Outcome {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mapping = Mapping::new(&file, MAPPED, Stores::Private)?;
    store_within(step, &mapping, size)?;
    let mut seen = loaded(&mapping, size)?;
    let mut first = vec![0; size.min(MAPPED as u64) as usize];
    file.read_exact(&mut first)?;
    seen.extend(first);
    Ok(seen)
}
