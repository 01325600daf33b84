//! An object on a tier as a file that is read and sought in: for what must be read from the front.

use crate::id::AggregateId;
use crate::tier::Tier;
use bytes::Bytes;
use std::io::{self, Read, Seek, SeekFrom};

/// Bytes fetched at once.
const WINDOW: u64 = 256 << 10;

/// See the module.
pub(super) struct Object<'a> {
    tier: &'a dyn Tier,
    name: AggregateId,
    len: u64,
    at: u64,
    /// What was fetched last, and where it lies.
    window: (u64, Bytes),
}

impl<'a> Object<'a> {
    pub(super) fn new(tier: &'a dyn Tier, name: AggregateId, len: u64) -> Self {
        Self {
            tier,
            name,
            len,
            at: 0,
            window: (0, Bytes::new()),
        }
    }
}

impl Read for Object<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.len.saturating_sub(self.at);
        if left == 0 || into.is_empty() {
            return Ok(0);
        }
        let (from, bytes) = &self.window;
        let inside = self.at >= *from && self.at - from < bytes.len() as u64;
        if !inside {
            let fetched = self.tier.read(self.name, self.at, left.min(WINDOW))?;
            self.window = (self.at, fetched);
        }
        let (from, bytes) = &self.window;
        let skip = usize::try_from(self.at - from).unwrap_or(usize::MAX);
        let rest = bytes.get(skip..).unwrap_or_default();
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Object<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
