//! Frames: what flows on a stream after its handshake, in both directions.
//!
//! ```text
//!  0  1  kind
//!  1  3  zero
//!  4  4  length of the payload, as bytes of the file (a sealed one is 20 longer on the wire)
//!  8  8  offset
//! 16  8  sequence number: 0, 1, 2, ... of this direction of this stream
//! 24  4  CRC32C of the payload (zero if it is sealed: the sum is inside then)
//! 28  4  zero
//! 32 16  tag over bytes 0 to 31
//! 48     payload
//! ```
//!
//! Invariants kept here:
//! - a header is believed only after its tag was checked, and its sequence number is the next one;
//!   so nothing is replayed, dropped, re-ordered or moved between streams without being noticed;
//! - a payload is given out only after it was compared with its CRC32C ([`Incoming::open`]);
//! - nothing longer than the transfer's block is ever allocated for.

use crate::checksum::Crc32c;
use crate::range::ByteRange;
use crate::seal::{StreamKey, TAG_LEN};

/// Bytes of a header with its tag.
pub const HEADER_LEN: usize = 48;
const TAGGED: usize = HEADER_LEN - TAG_LEN;
/// The longest payload of a frame that is not data, in bytes.
pub const CONTROL_MAX: u32 = 512;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A block of the file. Sender to receiver.
    Data = 1,
    /// All data frames with a sequence number up to `offset` were written. Receiver to sender.
    Ack = 2,
    /// Everything was acknowledged, and the source did not change; the payload is a
    /// [`Total`]. Sender to receiver.
    Finish = 3,
    /// The receiver has it all, durably. Receiver to sender.
    Done = 4,
    /// The stream ends, and nothing is outstanding on it. Sender to receiver.
    Bye = 5,
    /// The transfer failed; the payload is a code and a text. Both ways.
    Abort = 6,
    /// End this stream when nothing is outstanding on it. Receiver to sender.
    Retire = 7,
    /// Nothing to say, but alive. Both ways.
    Alive = 8,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Data,
            2 => Self::Ack,
            3 => Self::Finish,
            4 => Self::Done,
            5 => Self::Bye,
            6 => Self::Abort,
            7 => Self::Retire,
            8 => Self::Alive,
            _ => return None,
        })
    }
}

/// What a stream did that ends it. Its ranges go to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// The header is not what the other end sent at this place.
    #[error("a header is not authentic: altered, replayed or out of order")]
    Header,
    /// The payload was altered.
    #[error("a payload is not authentic")]
    Payload,
    /// The payload has another sum.
    #[error("checksum mismatch at offset {offset}: expected {expected}, found {found}")]
    Checksum {
        /// Where the block begins.
        offset: u64,
        /// What the sender summed.
        expected: Crc32c,
        /// What arrived.
        found: Crc32c,
    },
    /// An authentic header of no known kind or shape.
    #[error("a frame of kind {0} has a shape that it cannot have")]
    Shape(u8),
    /// Longer than a block of this transfer.
    #[error("a frame of {len} bytes, where {most} are the most")]
    Oversized {
        /// What it says.
        len: u32,
        /// What was agreed.
        most: u32,
    },
}

/// An authentic header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is for.
    pub kind: Kind,
    /// Bytes of its payload.
    pub len: u32,
    /// Where the payload lies in the object; what an [`Kind::Ack`] acknowledges.
    pub offset: u64,
    /// Its number on this direction of this stream.
    pub sequence: u64,
    crc: Crc32c,
}

impl Header {
    /// The range that a data frame fills; nothing if that would be empty or wrap.
    #[must_use]
    pub fn range(&self) -> Option<ByteRange> {
        ByteRange::new(self.offset, self.len.into())
    }

    fn encode(&self) -> [u8; TAGGED] {
        let mut out = [0; TAGGED];
        out[0] = self.kind as u8;
        out[4..8].copy_from_slice(&self.len.to_le_bytes());
        out[8..16].copy_from_slice(&self.offset.to_le_bytes());
        out[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        out[24..28].copy_from_slice(&self.crc.0.to_le_bytes());
        out
    }

    /// Reads the fields; whether they are authentic is not asked here.
    ///
    /// # Errors
    /// [`FrameFault::Shape`].
    pub fn decode(bytes: &[u8; TAGGED]) -> Result<Self, FrameFault> {
        let four = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let eight = |at: usize| u64::from(four(at)) | u64::from(four(at + 4)) << 32;
        let kind = Kind::from_byte(bytes[0]).ok_or(FrameFault::Shape(bytes[0]))?;
        let header = Self {
            kind,
            len: four(4),
            offset: eight(8),
            sequence: eight(16),
            crc: Crc32c(four(24)),
        };
        let zeros = bytes[1..4] == [0; 3] && bytes[28..] == [0; 4];
        let has_payload = match kind {
            Kind::Data | Kind::Finish | Kind::Abort => header.len > 0,
            Kind::Ack | Kind::Done | Kind::Bye | Kind::Retire | Kind::Alive => header.len == 0,
        };
        if !zeros || !has_payload {
            return Err(FrameFault::Shape(bytes[0]));
        }
        Ok(header)
    }
}

/// One direction of a stream, as its sender keeps it.
#[derive(Debug)]
pub struct Outgoing {
    key: StreamKey,
    next: u64,
}

impl Outgoing {
    /// Begins at sequence number 0.
    #[must_use]
    pub fn new(key: StreamKey) -> Self {
        Self { key, next: 0 }
    }

    /// The next frame: its header, its sequence number, and `payload` made what goes on the wire behind it.
    /// `crc` is the sum of the payload.
    pub fn seal(
        &mut self,
        kind: Kind,
        offset: u64,
        payload: &mut Vec<u8>,
        crc: Crc32c,
    ) -> ([u8; HEADER_LEN], u64) {
        let sequence = self.next;
        self.next += 1;
        // Payloads are at most a block.
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        if len > 0 {
            self.key.close(sequence, payload, crc);
        }
        let plain = self.key.wire_len(0) == 0;
        let header = Header {
            kind,
            len,
            offset,
            sequence,
            crc: if plain { crc } else { Crc32c(0) },
        };
        let fields = header.encode();
        let mut out = [0; HEADER_LEN];
        out[..TAGGED].copy_from_slice(&fields);
        out[TAGGED..].copy_from_slice(&self.key.tag(sequence, &fields));
        (out, sequence)
    }

    /// A frame without payload.
    pub fn bare(&mut self, kind: Kind, offset: u64) -> [u8; HEADER_LEN] {
        self.seal(kind, offset, &mut Vec::new(), Crc32c::EMPTY).0
    }
}

/// One direction of a stream, as its receiver keeps it.
#[derive(Debug)]
pub struct Incoming {
    key: StreamKey,
    next: u64,
    block: u32,
}

impl Incoming {
    /// Begins at sequence number 0; `block` is the longest payload, in bytes.
    #[must_use]
    pub fn new(key: StreamKey, block: u32) -> Self {
        Self {
            key,
            next: 0,
            block,
        }
    }

    /// Judges the next header.
    ///
    /// # Errors
    /// [`FrameFault`]: the stream is to be closed.
    pub fn header(&mut self, bytes: &[u8; HEADER_LEN]) -> Result<Header, FrameFault> {
        let (mut fields, mut tag) = ([0; TAGGED], [0; TAG_LEN]);
        fields.copy_from_slice(&bytes[..TAGGED]);
        tag.copy_from_slice(&bytes[TAGGED..]);
        let authentic = self.key.check(self.next, &fields, &tag);
        authentic.map_err(|_| FrameFault::Header)?;
        let header = Header::decode(&fields)?;
        if header.sequence != self.next {
            return Err(FrameFault::Header);
        }
        let most = match header.kind {
            Kind::Data => self.block,
            _ => CONTROL_MAX,
        };
        if header.len > most {
            let len = header.len;
            return Err(FrameFault::Oversized { len, most });
        }
        self.next += 1;
        Ok(header)
    }

    /// How many bytes follow the header on the wire; bounded by the block.
    #[must_use]
    pub fn wire_len(&self, header: &Header) -> usize {
        match header.len {
            0 => 0,
            len => self.key.wire_len(len),
        }
    }

    /// What opens the payload of `header`, apart from the stream, so that another thread can do it.
    pub fn open(&self, header: &Header, payload: &mut Vec<u8>) -> Result<Crc32c, FrameFault> {
        let stated = self.key.open(header.sequence, payload, header.crc);
        let expected = stated.map_err(|_| FrameFault::Payload)?;
        if payload.len() != header.len as usize {
            return Err(FrameFault::Payload);
        }
        let found = Crc32c::of(payload);
        if found != expected {
            let offset = header.offset;
            return Err(FrameFault::Checksum {
                offset,
                expected,
                found,
            });
        }
        Ok(found)
    }
}

/// What the sender says at the end: how many bytes it sent, and their sum in the order of the ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Total {
    /// Bytes of all ranges of the transfer.
    pub bytes: u64,
    /// CRC32C of all ranges, one behind the other.
    pub crc: Crc32c,
}

impl Total {
    /// Twelve bytes: bytes, then sum, little-endian.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.bytes.to_le_bytes().to_vec();
        out.extend_from_slice(&self.crc.0.to_le_bytes());
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`FrameFault::Shape`] if it has not twelve bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameFault> {
        let shape = FrameFault::Shape(Kind::Finish as u8);
        let (count, crc) = bytes.split_first_chunk::<8>().ok_or(shape)?;
        let crc: [u8; 4] = crc.try_into().map_err(|_| shape)?;
        Ok(Self {
            bytes: u64::from_le_bytes(*count),
            crc: Crc32c(u32::from_le_bytes(crc)),
        })
    }
}

#[cfg(test)]
mod tests;
