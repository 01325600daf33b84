//! Rows about one large resident file.

use crate::rows::Sizes;
use crate::side::Side;
use anyhow::ensure;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;
/// Random accesses a run.
const ACCESSES: usize = 20_000;
/// Requests at a time in the deep rows.
const DEPTH: usize = 16;

fn options(direct: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(if direct { libc::O_DIRECT } else { 0 });
    options
}

fn open(side: &Side, write: bool, direct: bool) -> anyhow::Result<File> {
    Ok(options(direct).write(write).open(side.path("large"))?)
}

/// A part of `room` that begins on a page, as O_DIRECT wants it.
fn aligned(room: &mut [u8], length: usize) -> &mut [u8] {
    let begin = room.as_ptr().align_offset(PAGE);
    &mut room[begin..begin + length]
}

pub(crate) fn make(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    let block: Vec<u8> = (0..MIB).map(|i| (i * 31 + i / 256) as u8).collect();
    let mut file = File::create_new(side.path("large"))?;
    for _ in 0..sizes.mib {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    Ok(sizes.mib)
}

fn read_whole(side: &Side, sizes: &Sizes, direct: bool) -> anyhow::Result<usize> {
    let mut room = vec![0; MIB + PAGE];
    let buffer = aligned(&mut room, MIB);
    let mut file = open(side, false, direct)?;
    for _ in 0..sizes.mib {
        ensure!(file.read(buffer)? == MIB, "a whole block");
        ensure!(buffer[1] == 31, "a block's data");
    }
    Ok(sizes.mib)
}

fn write_whole(side: &Side, sizes: &Sizes, direct: bool) -> anyhow::Result<usize> {
    let mut room: Vec<u8> = (0..MIB + PAGE).map(|i| i as u8).collect();
    let buffer = aligned(&mut room, MIB);
    buffer[1] = 31;
    let mut file = open(side, true, direct)?;
    for _ in 0..sizes.mib {
        ensure!(file.write(buffer)? == MIB, "a whole block");
    }
    Ok(sizes.mib)
}

pub(crate) fn read_1m(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    read_whole(side, sizes, false)
}

pub(crate) fn read_1m_direct(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    read_whole(side, sizes, true)
}

pub(crate) fn write_1m(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    write_whole(side, sizes, false)
}

pub(crate) fn write_1m_direct(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    write_whole(side, sizes, true)
}

pub(crate) fn write_4k(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    let mut file = open(side, true, false)?;
    let count = ACCESSES.min(sizes.mib * (MIB / PAGE));
    for _ in 0..count {
        ensure!(file.write(&[31; PAGE])? == PAGE, "a whole page");
    }
    Ok(count)
}

/// Page numbers in an order that no readahead guesses; the same for all sides.
fn pages(sizes: &Sizes, seed: u64) -> impl Iterator<Item = u64> {
    let pages = (sizes.mib * (MIB / PAGE)) as u64;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::from_fn(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Some(state % pages)
    })
}

fn random(file: &File, sizes: &Sizes, seed: u64, count: usize, write: bool) -> anyhow::Result<()> {
    let mut room = vec![31; 2 * PAGE];
    let buffer = aligned(&mut room, PAGE);
    for page in pages(sizes, seed).take(count) {
        let offset = page * PAGE as u64;
        let done = if write {
            file.write_at(buffer, offset)?
        } else {
            file.read_at(buffer, offset)?
        };
        ensure!(done == PAGE, "a whole page");
    }
    Ok(())
}

pub(crate) fn random_read(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    random(&open(side, false, false)?, sizes, 1, ACCESSES, false)?;
    Ok(ACCESSES)
}

pub(crate) fn random_write(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    random(&open(side, true, false)?, sizes, 2, ACCESSES, true)?;
    Ok(ACCESSES)
}

fn deep(side: &Side, sizes: &Sizes, write: bool) -> anyhow::Result<usize> {
    let file = open(side, write, true)?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..DEPTH)
            .map(|i| {
                let file = &file;
                scope.spawn(move || random(file, sizes, 3 + i as u64, ACCESSES / DEPTH, write))
            })
            .collect();
        for thread in threads {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(ACCESSES / DEPTH * DEPTH)
    })
}

pub(crate) fn random_read_16(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    deep(side, sizes, false)
}

pub(crate) fn random_write_16(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    deep(side, sizes, true)
}

/// One byte of each page, in order, through a mapping of the whole file.
#[allow(unsafe_code, reason = "a mapping is what is measured")]
pub(crate) fn mmap_read(side: &Side, sizes: &Sizes) -> anyhow::Result<usize> {
    use std::os::fd::AsRawFd;
    let file = open(side, false, false)?;
    let length = sizes.mib * MIB;
    // SAFETY: a new mapping of a file that nobody cuts meanwhile; it is not used after munmap.
    let sum = unsafe {
        let map = libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        );
        ensure!(
            map != libc::MAP_FAILED,
            "mmap: {}",
            std::io::Error::last_os_error()
        );
        let bytes = std::slice::from_raw_parts(map.cast::<u8>(), length);
        let sum: u64 = bytes
            .iter()
            .step_by(PAGE)
            .map(|byte| u64::from(*byte))
            .sum();
        libc::munmap(map, length);
        sum
    };
    ensure!(sum != u64::MAX, "unused");
    Ok(length / PAGE)
}
