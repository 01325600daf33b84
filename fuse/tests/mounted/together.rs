//! What several threads do to the same file and the same names at the same time. There is more
//! than one right result of each step, so what must hold of all of them is checked:
//! - appended records stay whole, each thread's in its order, none lost, none twice; and who reads
//!   sees all that were finished before the read began;
//! - bytes that one thread wrote beside those of others, in the same pages, are those that it
//!   reads back: no write takes a neighbour's away, and no store through a mapping;
//! - of those who create a name exclusively one succeeds; files neither vanish nor multiply by
//!   renames that replace nothing.

use crate::mapping::{Mapping, Stores};
use crate::rig::TestResult;
use crate::steps::Dice;
use anyhow::{Context, ensure};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Of one appended record. Pages hold whole ones.
const RECORD: usize = 64;
/// Pages in which every thread has a slot.
const PAGES: u64 = 8;
const PAGE: u64 = 4096;
const SLOT: usize = 40;

/// The files that all threads use at once, and what was done to them.
pub(crate) struct Shared {
    root: PathBuf,
    /// How many records each thread has appended.
    appended: Vec<AtomicU64>,
    /// What each thread wrote last into each of its slots; used by that thread alone.
    slots: Vec<Vec<AtomicU64>>,
    created: AtomicU64,
    removed: AtomicU64,
}

fn record(thread: u64, number: u64) -> [u8; RECORD] {
    let mut bytes = [(thread * 31 + number) as u8; RECORD];
    bytes[..8].copy_from_slice(&thread.to_le_bytes());
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// What a lost race for a name gives; anything else is a failure.
fn lost(result: std::io::Result<()>) -> anyhow::Result<bool> {
    match result {
        Ok(()) => Ok(false),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

impl Shared {
    pub(crate) const LOG: &str = "log";
    pub(crate) const SLOTS: &str = "slots";
    pub(crate) const TOKENS: u64 = 5;

    pub(crate) fn token(number: u64) -> String {
        format!("token{number}")
    }

    pub(crate) fn new(root: &Path, threads: u64) -> anyhow::Result<Self> {
        File::create_new(root.join(Self::LOG))?;
        fs::write(root.join(Self::SLOTS), vec![0; (PAGES * PAGE) as usize])?;
        Ok(Self {
            root: root.to_owned(),
            appended: (0..threads).map(|_| AtomicU64::new(0)).collect(),
            slots: (0..threads)
                .map(|_| (0..PAGES).map(|_| AtomicU64::new(0)).collect())
                .collect(),
            created: AtomicU64::new(0),
            removed: AtomicU64::new(0),
        })
    }

    pub(crate) fn step(&self, thread: u64, dice: &mut Dice) -> TestResult {
        match dice.roll(6) {
            0 => self.append(thread, dice).context("append"),
            1 => self.read_log().context("read the log"),
            2 => self.write_slots(thread, dice).context("write slots"),
            3 => {
                let file = File::open(self.root.join(Self::SLOTS))?;
                (0..PAGES).try_for_each(|page| self.check_slot(thread, page, &file))
            }
            _ => self.move_tokens(thread, dice).context("move tokens"),
        }
    }

    /// A few records through one descriptor.
    fn append(&self, thread: u64, dice: &mut Dice) -> TestResult {
        let mut file = File::options()
            .append(true)
            .open(self.root.join(Self::LOG))?;
        let count = &self.appended[thread as usize];
        for _ in 0..1 + dice.roll(4) {
            let number = count.load(Ordering::SeqCst);
            let written = file.write(&record(thread, number))?;
            ensure!(written == RECORD, "{written} bytes were appended");
            count.store(number + 1, Ordering::SeqCst);
        }
        Ok(())
    }

    fn read_log(&self) -> TestResult {
        let load = |n: &AtomicU64| n.load(Ordering::SeqCst);
        let before: Vec<u64> = self.appended.iter().map(load).collect();
        let log = fs::read(self.root.join(Self::LOG))?;
        let seen = self.records_of(&log)?;
        for (thread, (seen, before)) in seen.iter().zip(&before).enumerate() {
            ensure!(
                seen >= before,
                "{seen} of {before} records of thread {thread} are there"
            );
        }
        Ok(())
    }

    /// How many records of each thread there are, which must be in order.
    fn records_of(&self, log: &[u8]) -> anyhow::Result<Vec<u64>> {
        let mut seen = vec![0; self.appended.len()];
        let (records, rest) = log.as_chunks::<RECORD>();
        ensure!(rest.is_empty(), "a broken record of {} bytes", rest.len());
        for (place, bytes) in records.iter().enumerate() {
            let thread = u64::from_le_bytes(bytes[..8].try_into()?);
            let next = seen.get_mut(thread as usize);
            let next = next.with_context(|| format!("record {place} is nobody's: {bytes:?}"))?;
            let right = *bytes == record(thread, *next);
            ensure!(
                right,
                "record {place} is not thread {thread}'s {next}: {bytes:?}"
            );
            *next += 1;
        }
        Ok(seen)
    }

    fn write_slots(&self, thread: u64, dice: &mut Dice) -> TestResult {
        let path = self.root.join(Self::SLOTS);
        let file = File::options().read(true).write(true).open(path)?;
        let page = dice.roll(PAGES);
        let value = 1 + dice.roll(u64::MAX - 1);
        let slot = value.to_le_bytes().repeat(SLOT / 8);
        let at = slot_at(thread, page);
        if dice.roll(2) == 0 {
            file.write_all_at(&slot, at)?;
        } else {
            let mapping = Mapping::new(&file, (PAGES * PAGE) as usize, Stores::Shared)?;
            let stored = mapping.store(at as usize, &slot)?;
            ensure!(stored == SLOT, "{stored} bytes were stored");
            if dice.roll(4) == 0 {
                mapping.sync()?;
            }
            let seen = mapping.load(at as usize, SLOT)?;
            ensure!(seen == slot, "slot {page} of thread {thread} is {seen:x?}");
        }
        self.slots[thread as usize][page as usize].store(value, Ordering::Relaxed);
        self.check_slot(thread, page, &file)
    }

    fn check_slot(&self, thread: u64, page: u64, file: &File) -> TestResult {
        let value = self.slots[thread as usize][page as usize].load(Ordering::Relaxed);
        let mut seen = [0; SLOT];
        file.read_exact_at(&mut seen, slot_at(thread, page))?;
        let right = seen == *value.to_le_bytes().repeat(SLOT / 8);
        ensure!(
            right,
            "slot {page} of thread {thread} is not {value:x}: {seen:x?}"
        );
        Ok(())
    }

    /// Creates, moves, removes and reads files by names that all threads use.
    fn move_tokens(&self, thread: u64, dice: &mut Dice) -> TestResult {
        let path = self.root.join(Self::token(dice.roll(Self::TOKENS)));
        let other = self.root.join(Self::token(dice.roll(Self::TOKENS)));
        match dice.roll(4) {
            0 => {
                let number = self.created.load(Ordering::SeqCst);
                let mut file = None;
                let make = File::create_new(&path).map(|made| file = Some(made));
                if !lost(make)? {
                    self.created.fetch_add(1, Ordering::SeqCst);
                    let file = file.context("a file")?;
                    file.write_all_at(&record(thread, number), 0)?;
                    let size = file.metadata()?.len();
                    ensure!(
                        size == RECORD as u64,
                        "a file of one record has {size} bytes"
                    );
                }
            }
            1 => {
                if !lost(fs::remove_file(&path))? {
                    self.removed.fetch_add(1, Ordering::SeqCst);
                }
            }
            2 => {
                let moved = renameat_with(CWD, &path, CWD, &other, RenameFlags::NOREPLACE);
                lost(moved.map_err(Into::into))?;
            }
            _ => {
                let mut data = Vec::new();
                if !lost(fs::read(&path).map(|seen| data = seen))? && !data.is_empty() {
                    let number = u64::from_le_bytes(data[8..16].try_into()?);
                    let thread = u64::from_le_bytes(data[..8].try_into()?);
                    ensure!(data == record(thread, number), "not a record: {data:?}");
                }
            }
        }
        Ok(())
    }

    /// When nobody works on them any more.
    pub(crate) fn at_the_end(&self) -> TestResult {
        let load = |n: &AtomicU64| n.load(Ordering::SeqCst);
        let seen = self.records_of(&fs::read(self.root.join(Self::LOG))?)?;
        let appended: Vec<u64> = self.appended.iter().map(load).collect();
        ensure!(seen == appended, "{seen:?} records for {appended:?}");
        let file = File::open(self.root.join(Self::SLOTS))?;
        for thread in 0..self.slots.len() as u64 {
            (0..PAGES).try_for_each(|page| self.check_slot(thread, page, &file))?;
        }
        let tokens = (0..Self::TOKENS).filter(|n| self.root.join(Self::token(*n)).exists());
        let (left, made, gone) = (tokens.count() as u64, &self.created, &self.removed);
        ensure!(
            left == load(made) - load(gone),
            "{left} of {made:?} less {gone:?} are there"
        );
        Ok(())
    }
}

fn slot_at(thread: u64, page: u64) -> u64 {
    page * PAGE + thread * SLOT as u64
}
