//! Identities and small value types that every room shares. No I/O, no clock.

use std::fmt;
use std::str::FromStr;

macro_rules! uuid_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// A fresh random identity (UUID version 4).
            #[must_use]
            pub fn random() -> Self {
                Self(uuid::Uuid::new_v4().into_bytes())
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                uuid::Uuid::from_bytes(self.0).hyphenated().fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                uuid::Uuid::parse_str(text)
                    .map(|u| Self(u.into_bytes()))
                    .map_err(|_| ParseIdError { what: stringify!($name), text: text.to_owned() })
            }
        }
    };
}

uuid_newtype! {
    /// Identity of a backing filesystem as Cairn knows it: made at the first start, kept in the
    /// backing's mark, so that it survives a move to another disk.
    FsUuid
}
uuid_newtype! {
    /// Identity of a file across renames, releases and rebuilds. Never reused.
    FileId
}
uuid_newtype! {
    /// Identity of a running Cairn: the owner written into a tier's mark.
    InstanceId
}

/// Lower-case hexadecimal, two digits a byte.
#[must_use]
pub fn hex_of(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|b| [b >> 4, b & 15]);
    digits
        .map(|n| char::from_digit(n.into(), 16).unwrap_or('0'))
        .collect()
}

/// The bytes that [`hex_of`] wrote; `None`: they are none.
#[must_use]
pub fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| {
        char::from(b)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
    pairs.iter().map(byte).collect()
}

/// Text that is no identity of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}")]
pub struct ParseIdError {
    /// The kind that was expected.
    pub what: &'static str,
    /// What stood there instead.
    pub text: String,
}

/// Number of a file's data, counted per [`FileId`] from 1; grows whenever data changed between
/// two archives. 0 never names a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct DataVersion(pub u64);

/// Number of a tier, chosen at random when the tier is first used and written into its mark, so
/// that stubs can name it in four bytes. 0 is invalid.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TierId(pub u32);

impl fmt::Display for TierId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}
impl fmt::Debug for TierId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TierId({self})")
    }
}

/// Name of an aggregate: the epoch of the catalog incarnation that composed it and a sequence
/// number within it. Names are never reused and order by age within an instance (P9). Numbers from
/// [`AggregateId::NAMESPACE`] on are snapshots of the namespace: a listing of names finds those of
/// an epoch behind all its other aggregates, without looking into any. The bits above
/// [`AggregateId::PART_BITS`] number the objects that a file is cut into which is too long for one: the
/// last of them has the aggregate's own name, and those before it stand behind everything else of an epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AggregateId {
    /// Grows with every start of an instance on its catalog; a rebuilt catalog starts above all seen.
    pub epoch: u32,
    /// Grows with every aggregate of one epoch, from 1.
    pub seq: u64,
}

impl AggregateId {
    /// The first sequence number of namespace snapshots: `e0000002a-100000000000`.
    pub const NAMESPACE: u64 = 1 << 44;

    /// The name of the namespace snapshot that is taken when this name is given.
    #[must_use]
    pub const fn snapshot(self) -> Self {
        Self {
            epoch: self.epoch,
            seq: self.seq | Self::NAMESPACE,
        }
    }

    /// Does it name a namespace snapshot, and no files of users?
    #[must_use]
    pub const fn is_snapshot(self) -> bool {
        self.head().seq >= Self::NAMESPACE
    }

    /// From this bit of the sequence number on stands the number of a part.
    pub const PART_BITS: u32 = 48;
    /// So many objects a file is cut into at most.
    pub const MOST_PARTS: u16 = 9999;

    /// The name of part `number` of this aggregate; 0: the aggregate's own, which its last part has.
    #[must_use]
    pub const fn part(self, number: u16) -> Self {
        Self {
            epoch: self.epoch,
            seq: self.head().seq | (number as u64) << Self::PART_BITS,
        }
    }

    /// The number of the part that it names; 0: it names an aggregate.
    #[must_use]
    pub const fn part_number(self) -> u16 {
        (self.seq >> Self::PART_BITS) as u16
    }

    /// Does it name a part that is of no use without its aggregate?
    #[must_use]
    pub const fn is_part(self) -> bool {
        self.part_number() > 0
    }

    /// The aggregate that it names, or is a part of.
    #[must_use]
    pub const fn head(self) -> Self {
        Self {
            epoch: self.epoch,
            seq: self.seq & ((1 << Self::PART_BITS) - 1),
        }
    }
}

impl fmt::Display for AggregateId {
    /// `e0000002a-000000000017`: fixed width, so that plain sorting is sequence order. A part has its
    /// number behind it, in decimal: `e0000002a-000000000017-0003`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{:08x}-{:012x}", self.epoch, self.head().seq)?;
        if self.is_part() {
            write!(f, "-{:04}", self.part_number())?;
        }
        Ok(())
    }
}
impl fmt::Debug for AggregateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AggregateId({self})")
    }
}
impl FromStr for AggregateId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let bad = || ParseIdError {
            what: "AggregateId",
            text: text.to_owned(),
        };
        let (epoch, seq) = text
            .strip_prefix('e')
            .and_then(|t| t.split_once('-'))
            .ok_or_else(bad)?;
        let (seq, part) = match seq.split_once('-') {
            None => (seq, 0),
            Some((seq, part)) => (seq, part.parse().map_err(|_| bad())?),
        };
        let hex = |s: &str| s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if epoch.len() != 8 || seq.len() != 12 || !hex(epoch) || !hex(seq) {
            return Err(bad());
        }
        let head = Self {
            epoch: u32::from_str_radix(epoch, 16).map_err(|_| bad())?,
            seq: u64::from_str_radix(seq, 16).map_err(|_| bad())?,
        };
        let id = head.part(part);
        if part <= Self::MOST_PARTS && id.to_string() == text {
            Ok(id)
        } else {
            Err(bad())
        }
    }
}

/// Number of a durable request, as users see and type it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct RequestId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A point in time as filesystems keep it: seconds since 1970 (negative before) and nanoseconds
/// (0 to 999,999,999).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize)]
pub struct Timestamp {
    /// Whole seconds.
    pub sec: i64,
    /// Nanoseconds within the second.
    pub nsec: u32,
}

impl Timestamp {
    /// Nanoseconds since 1970, saturating at what `i128` to `i64` keeps (years 1677 to 2262).
    #[must_use]
    pub fn nanos(self) -> i64 {
        self.sec
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::from(self.nsec))
    }
}

pub use cairn_fuse::NodeHandle;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregate_names_round_trip_and_sort_by_age() {
        let old = AggregateId {
            epoch: 1,
            seq: 0xfff,
        };
        let new = AggregateId { epoch: 2, seq: 1 };
        assert_eq!(old.to_string().parse(), Ok(old));
        assert!(old.to_string() < new.to_string());
        for bad in [
            "",
            "e1-1",
            "e00000001-00000000000",
            "e0000000A-000000000001",
            "x00000001-000000000001",
            "e00000001-1000000000001",
            "e00000001-000000000001-",
            "e00000001-000000000001-0000",
            "e00000001-000000000001-3",
            "e00000001-000000000001-10000",
            "e00000001-000000000001-65536",
            "e00000001-000000000001-0001-0001",
        ] {
            assert!(bad.parse::<AggregateId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_have_their_aggregates_name_and_their_number() {
        let head = AggregateId {
            epoch: 0x2a,
            seq: 0x17,
        };
        for number in [1, 37, AggregateId::MOST_PARTS] {
            let part = head.part(number);
            assert_eq!((part.head(), part.part_number()), (head, number));
            assert_eq!(part.to_string(), format!("{head}-{number:04}"));
            assert_eq!(part.to_string().parse(), Ok(part));
            assert!(part.is_part() && !part.is_snapshot());
            assert!(part > head.snapshot(), "behind all else of the epoch");
            assert!(i64::try_from(part.seq).is_ok());
        }
        assert_eq!(head.part(0), head);
        assert!(!head.is_part() && head.snapshot().is_snapshot());
    }
}
