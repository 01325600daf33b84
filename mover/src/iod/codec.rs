//! The descriptor as bytes, little-endian, zero invalid where a value has a meaning:
//!
//! ```text
//!  0  4  "CIOD"
//!  4  1  version, 1
//!  5  1  direction: 1 to the listener, 2 from the listener
//!  6  1  mode: 1 parallel, 2 firewall
//!  7  1  protect: 1 none, 2 sealed
//!  8 16  transfer
//! 24 32  secret
//! 56  4  block
//! 60  2  streams
//! 62  2  zero
//! 64  4  offer, seconds
//! 68  8  size of the object
//! 76  1  length of the version, then the version
//!  .  1  number of places, then of each:
//!        1  kind of host: 1 name (one byte of length, then the name), 4 and 6 addresses
//!           (4 and 16 bytes in network order)
//!        1  number of port runs, then of each: 2 first, 2 last
//!  .  2  number of ranges, then of each: 8 start, 8 length
//!  .  4  CRC32C of all that stands before
//! ```
//!
//! The sum stands last, so that a message cut anywhere is refused before its fields are believed.

use super::{
    BLOCK_MAX, BLOCK_MIN, Direction, Host, Iod, Mode, PLACES_MAX, PORTS_MAX, Place, Protect,
    RANGES_MAX, STREAMS_MAX, VERSION_MAX,
};
use crate::checksum::Crc32c;
use crate::range::ByteRange;
use crate::secret::{Secret, TransferId};
use std::net::IpAddr;

const MAGIC: [u8; 4] = *b"CIOD";
const VERSION: u8 = 1;

/// No message is longer, in bytes.
pub const MAX_LEN: usize =
    77 + VERSION_MAX + 1 + PLACES_MAX * (2 + 253 + 1 + PORTS_MAX * 4) + 2 + RANGES_MAX * 16 + 4;

/// Why bytes are no descriptor, or a descriptor cannot be made into bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IodFault {
    /// Too short, too long, or the sum is wrong.
    #[error("the I/O descriptor was cut or altered")]
    Damaged,
    /// Something else, or of a later version.
    #[error("no I/O descriptor of version 1 (found version {0})")]
    Version(u8),
    /// A field has a value that it cannot have.
    #[error("I/O descriptor: {0} is out of bounds")]
    Field(&'static str),
}

pub(super) fn encode(iod: &Iod) -> Result<Vec<u8>, IodFault> {
    check(iod)?;
    let mut out = Vec::with_capacity(160 + iod.ranges.len() * 16);
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    out.push(match iod.direction {
        Direction::ToListener => 1,
        Direction::FromListener => 2,
    });
    out.push(match iod.mode {
        Mode::Parallel => 1,
        Mode::Firewall => 2,
    });
    out.push(match iod.protect {
        Protect::None => 1,
        Protect::Sealed => 2,
    });
    out.extend_from_slice(&iod.transfer.0);
    out.extend_from_slice(iod.secret.expose());
    out.extend_from_slice(&iod.block.to_le_bytes());
    out.extend_from_slice(&iod.streams.to_le_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&iod.offer.to_le_bytes());
    out.extend_from_slice(&iod.size.to_le_bytes());
    // The lengths below were bounded by `check`.
    out.push(iod.version.len() as u8);
    out.extend_from_slice(&iod.version);
    out.push(iod.places.len() as u8);
    iod.places
        .iter()
        .for_each(|place| encode_place(place, &mut out));
    out.extend_from_slice(&(iod.ranges.len() as u16).to_le_bytes());
    for range in &iod.ranges {
        out.extend_from_slice(&range.start().to_le_bytes());
        out.extend_from_slice(&range.len().to_le_bytes());
    }
    let sum = Crc32c::of(&out).0;
    out.extend_from_slice(&sum.to_le_bytes());
    Ok(out)
}

fn encode_place(place: &Place, out: &mut Vec<u8>) {
    match &place.host {
        Host::Name(name) => {
            out.extend_from_slice(&[1, name.len() as u8]);
            out.extend_from_slice(name.as_bytes());
        }
        Host::Address(IpAddr::V4(address)) => {
            out.push(4);
            out.extend_from_slice(&address.octets());
        }
        Host::Address(IpAddr::V6(address)) => {
            out.push(6);
            out.extend_from_slice(&address.octets());
        }
    }
    out.push(place.ports.len() as u8);
    for (first, last) in &place.ports {
        out.extend_from_slice(&first.to_le_bytes());
        out.extend_from_slice(&last.to_le_bytes());
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Iod, IodFault> {
    if bytes.len() > MAX_LEN || bytes.len() < 9 {
        return Err(IodFault::Damaged);
    }
    let (body, sum) = bytes.split_at(bytes.len() - 4);
    if Crc32c::of(body).0.to_le_bytes() != sum || body[..4] != MAGIC {
        return Err(IodFault::Damaged);
    }
    if body[4] != VERSION {
        return Err(IodFault::Version(body[4]));
    }
    let mut rest = Rest(&body[5..]);
    let iod = Iod {
        direction: match rest.byte()? {
            1 => Direction::ToListener,
            2 => Direction::FromListener,
            _ => return Err(IodFault::Field("direction")),
        },
        mode: match rest.byte()? {
            1 => Mode::Parallel,
            2 => Mode::Firewall,
            _ => return Err(IodFault::Field("mode")),
        },
        protect: match rest.byte()? {
            1 => Protect::None,
            2 => Protect::Sealed,
            _ => return Err(IodFault::Field("protect")),
        },
        transfer: TransferId(rest.array()?),
        secret: Secret::from_bytes(rest.array()?),
        block: u32::from_le_bytes(rest.array()?),
        streams: {
            let streams = u16::from_le_bytes(rest.array()?);
            if rest.array()? != [0, 0] {
                return Err(IodFault::Field("reserved"));
            }
            streams
        },
        offer: u32::from_le_bytes(rest.array()?),
        size: u64::from_le_bytes(rest.array()?),
        version: {
            let len = rest.byte()?;
            rest.take(len.into())?.to_vec()
        },
        places: {
            let count = rest.byte()?;
            (0..count)
                .map(|_| decode_place(&mut rest))
                .collect::<Result<_, _>>()?
        },
        ranges: {
            let count = u16::from_le_bytes(rest.array()?);
            (0..count).map(|_| rest.range()).collect::<Result<_, _>>()?
        },
    };
    if !rest.0.is_empty() {
        return Err(IodFault::Damaged);
    }
    check(&iod)?;
    Ok(iod)
}

fn decode_place(rest: &mut Rest<'_>) -> Result<Place, IodFault> {
    let host = match rest.byte()? {
        1 => {
            let len = rest.byte()?;
            let name = std::str::from_utf8(rest.take(len.into())?);
            Host::Name(name.map_err(|_| IodFault::Field("host"))?.to_owned())
        }
        4 => Host::Address(IpAddr::from(rest.array::<4>()?)),
        6 => Host::Address(IpAddr::from(rest.array::<16>()?)),
        _ => return Err(IodFault::Field("host")),
    };
    let count = rest.byte()?;
    let run = |rest: &mut Rest<'_>| {
        let first = u16::from_le_bytes(rest.array()?);
        Ok((first, u16::from_le_bytes(rest.array()?)))
    };
    let ports = (0..count).map(|_| run(rest)).collect::<Result<_, _>>()?;
    Ok(Place { host, ports })
}

/// The bounds of every field, for both ways.
fn check(iod: &Iod) -> Result<(), IodFault> {
    let must = |good: bool, field| good.then_some(()).ok_or(IodFault::Field(field));
    must((BLOCK_MIN..=BLOCK_MAX).contains(&iod.block), "block")?;
    must((1..=STREAMS_MAX).contains(&iod.streams), "streams")?;
    must(iod.offer > 0, "offer")?;
    must(iod.version.len() <= VERSION_MAX, "version")?;
    must((1..=PLACES_MAX).contains(&iod.places.len()), "places")?;
    for place in &iod.places {
        must((1..=PORTS_MAX).contains(&place.ports.len()), "ports")?;
        let good = |(first, last): &(u16, u16)| *first > 0 && first <= last;
        must(place.ports.iter().all(good), "ports")?;
        if let Host::Name(name) = &place.host {
            let same = name.parse::<Host>().is_ok_and(|host| host == place.host);
            must(same, "host")?;
        }
    }
    must(iod.ranges.len() <= RANGES_MAX, "ranges")?;
    let apart = iod.ranges.windows(2).all(|w| w[0].end() < w[1].start());
    let inside = iod.ranges.last().is_none_or(|r| r.end() <= iod.size);
    must(apart && inside, "ranges")
}

/// What is left to read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], IodFault> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(IodFault::Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], IodFault> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(IodFault::Damaged)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn byte(&mut self) -> Result<u8, IodFault> {
        self.array::<1>().map(|[b]| b)
    }

    fn range(&mut self) -> Result<ByteRange, IodFault> {
        let start = u64::from_le_bytes(self.array()?);
        let len = u64::from_le_bytes(self.array()?);
        ByteRange::new(start, len).ok_or(IodFault::Field("ranges"))
    }
}
