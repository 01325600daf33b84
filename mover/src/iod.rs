//! The I/O descriptor: where and how the far side connects for one transfer.
//!
//! It travels on the control channel, which is authenticated and, off the host, encrypted: the secret is in it.
//! Whoever listens makes it. The layout is drawn in docs/mover.md and in [`codec`].
//!
//! Invariants kept here:
//! - hosts and ports stand as the far side must dial them; what was bound is nowhere in it;
//! - every list is bounded, and so is the whole message ([`MAX_LEN`]);
//! - ranges are in order, do not touch, and lie in the object;
//! - the secret is in no printed form.

mod codec;
mod host;

pub use codec::{IodFault, MAX_LEN};
pub use host::{Host, HostFault};

use crate::range::ByteRange;
use crate::secret::{Secret, TransferId};
use std::fmt;
use std::str::FromStr;

/// The smallest and the largest block, in bytes.
pub const BLOCK_MIN: u32 = 4 << 10;
/// See [`BLOCK_MIN`].
pub const BLOCK_MAX: u32 = 4 << 20;
/// The block when nobody asks for another: both ends of 16 streams stay below 64 MiB.
pub const BLOCK_DEFAULT: u32 = 1 << 20;
/// The most streams of a transfer at one time.
pub const STREAMS_MAX: u16 = 256;
/// The most places of one descriptor.
pub(crate) const PLACES_MAX: usize = 16;
/// The most port ranges of one place.
pub(crate) const PORTS_MAX: usize = 64;
/// The most ranges of bytes.
pub const RANGES_MAX: usize = 4096;
/// The longest version, in bytes.
pub(crate) const VERSION_MAX: usize = 64;

/// Which way the bytes flow, seen from the end that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The end that dials sends.
    ToListener,
    /// The end that listens sends.
    FromListener,
}

/// Who dials whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The client listens, movers connect back.
    Parallel,
    /// The client dials out; the serving side listens.
    Firewall,
}

/// How much of a frame is protected against somebody on the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protect {
    /// Headers are authenticated, payloads only have a CRC32C: against accidents, strangers and
    /// replays, not against somebody who can alter packets in flight.
    None,
    /// Headers and payloads are authenticated and encrypted (AES-256-GCM).
    Sealed,
}

impl FromStr for Protect {
    type Err = String;

    /// `none`, `integrity` or `privacy`. The last two are one on the wire: a MAC without
    /// encryption costs more than both together (docs/mover.md has the numbers).
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "integrity" | "privacy" => Ok(Self::Sealed),
            _ => Err(format!(
                "`{text}` is no protection: write none, integrity or privacy"
            )),
        }
    }
}

/// One place to dial: a host, and its ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The host, as the far side must dial it.
    pub host: Host,
    /// Ports as the far side must dial them: first and last of each run, both included.
    pub ports: Vec<(u16, u16)>,
}

impl Place {
    /// `host` with single `ports`; runs of them are joined.
    #[must_use]
    pub fn new(host: Host, ports: &[u16]) -> Self {
        let mut sorted = ports.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let mut runs: Vec<(u16, u16)> = Vec::new();
        for port in sorted {
            match runs.last_mut() {
                Some((_, last)) if u32::from(*last) + 1 == u32::from(port) => *last = port,
                _ => runs.push((port, port)),
            }
        }
        Self { host, ports: runs }
    }

    /// Its ports, one by one.
    pub fn each_port(&self) -> impl Iterator<Item = u16> + '_ {
        self.ports.iter().flat_map(|&(first, last)| first..=last)
    }
}

/// The descriptor of one transfer.
#[derive(Clone)]
pub struct Iod {
    /// Its name.
    pub transfer: TransferId,
    /// What both ends must show that they know.
    pub secret: Secret,
    /// Which way the bytes flow.
    pub direction: Direction,
    /// Who dials.
    pub mode: Mode,
    /// What is protected.
    pub protect: Protect,
    /// Bytes of a block, [`BLOCK_MIN`] to [`BLOCK_MAX`].
    pub block: u32,
    /// The most streams at one time, 1 to [`STREAMS_MAX`].
    pub streams: u16,
    /// How many seconds the offer stands until a first stream must have come, from when it was made; at least 1.
    pub offer: u32,
    /// Bytes of the whole object.
    pub size: u64,
    /// The sender's name for the state of the object's data, at most [`VERSION_MAX`] bytes;
    /// progress of another version is not resumed.
    pub version: Vec<u8>,
    /// Where to dial, at least one, in order of preference.
    pub places: Vec<Place>,
    /// What is to be moved, in order, at most [`RANGES_MAX`]; none if nothing is missing.
    pub ranges: Vec<ByteRange>,
}

impl Iod {
    /// Bytes to be moved.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(|r| r.len()).sum()
    }

    /// Its bytes, for the control channel alone: the secret is in them.
    ///
    /// # Errors
    /// [`IodFault`] if a field is out of the bounds that a decoder holds it to.
    pub fn encode(&self) -> Result<Vec<u8>, IodFault> {
        codec::encode(self)
    }

    /// Reads one, and nothing behind it.
    ///
    /// # Errors
    /// [`IodFault`] names the field that is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, IodFault> {
        codec::decode(bytes)
    }
}

impl fmt::Debug for Iod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Iod({self})")
    }
}

impl fmt::Display for Iod {
    /// For logs: everything but the secret and the ranges themselves.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, ranges) = (self.bytes(), self.ranges.len());
        write!(
            f,
            "transfer {} {:?} {:?} {:?}: {bytes} bytes in {ranges} ranges, blocks of {}, {} streams, at",
            self.transfer, self.mode, self.direction, self.protect, self.block, self.streams
        )?;
        self.places.iter().try_for_each(|place| {
            write!(f, " {}", place.host)?;
            let runs = place.ports.iter();
            runs.map(|(a, b)| {
                if a == b {
                    format!(":{a}")
                } else {
                    format!(":{a}-{b}")
                }
            })
            .try_for_each(|run| f.write_str(&run))
        })
    }
}

#[cfg(test)]
mod tests;
