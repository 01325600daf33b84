//! Labels: 80 ASCII bytes each, in the shape of ANSI X3.27 (ECMA-13), so that other programs know
//! the volume and a person can read them in a dump. docs/format.md ("The cartridge") draws them.
//!
//! Invariants kept here: VOL1 comes first and says whose cartridge it is; every user label that
//! Cairn relies on (UHL1, UTL1) carries its own sum, the volume's name and the number of the object
//! at which its file begins, so that one of another volume or of another place is never believed.
//! A closing label that does not count by itself has another name (UTLP in the place of UTL1), so that whoever
//! does not know it takes its file for none.

use super::image::LONGEST;
use crate::id::{AggregateId, TierId};
use cairn_mover::Crc32c;
use std::fmt;
use std::str::FromStr;

/// Length of a label, bytes.
pub const LABEL: usize = 80;
const IMPLEMENTATION: &str = "CAIRN TAPE";
/// Version of the layout of cartridges that are labelled now.
pub const LAYOUT: u32 = 2;
const SYSTEM: &str = "CAIRN";

/// What is written on a cartridge's sticker and, its first six characters, in VOL1 as the volume's
/// name: six of `0-9A-Z` and two that tell the generation (`L8`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Barcode([u8; 8]);

/// Text that is no barcode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no barcode: eight of 0-9 and A-Z, the last two the generation (L7, L8, L9)")]
pub struct BarcodeError {
    /// What stood there.
    pub text: String,
}

impl Barcode {
    /// The volume's name: the first six characters.
    #[must_use]
    pub fn volume(&self) -> &str {
        self.text().get(..6).unwrap_or_default()
    }

    /// The medium's kind: the last two characters.
    #[must_use]
    pub fn medium(&self) -> &str {
        self.text().get(6..).unwrap_or_default()
    }

    pub(super) fn text(&self) -> &str {
        // ASCII by construction.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for Barcode {
    type Err = BarcodeError;
    fn from_str(text: &str) -> Result<Self, BarcodeError> {
        match <[u8; 8]>::try_from(text.as_bytes()) {
            Ok(bytes)
                if bytes
                    .iter()
                    .all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()) =>
            {
                Ok(Self(bytes))
            }
            _ => Err(BarcodeError {
                text: text.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Barcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text())
    }
}

impl fmt::Debug for Barcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Barcode({self})")
    }
}

/// VOL1, the first block of a cartridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Version of its layout: 1, or [`LAYOUT`].
    pub layout: u32,
    /// The volume's name, six characters.
    pub name: String,
    /// The tier that writes here.
    pub owner: TierId,
}

/// Why a first block is not VOL1 of a cartridge of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotOurs {
    /// No VOL1 label at all.
    #[error("it does not begin with a VOL1 label: no labelled tape")]
    Unlabelled,
    /// Another program's.
    #[error("it is volume {volume:?} of {implementation:?}, not of Cairn")]
    Foreign {
        /// Its volume's name.
        volume: String,
        /// What its label says of who wrote it.
        implementation: String,
    },
    /// A later version of Cairn's.
    #[error("its layout is of version {0}, this program knows {LAYOUT}: use a newer Cairn")]
    Newer(u32),
    /// Ours, but its owner cannot be read.
    #[error("its VOL1 label is damaged: owner {0:?}")]
    Damaged(String),
}

impl Volume {
    /// The label.
    #[must_use]
    pub fn encode(&self) -> [u8; LABEL] {
        let implementation = format!("{IMPLEMENTATION} {}", self.layout);
        let owner = format!("TIER {:08X}", self.owner.0);
        sized(&format!(
            "VOL1{:<6} {:13}{implementation:<13}{owner:<14}{:28}3",
            self.name, "", ""
        ))
    }

    /// Reads a cartridge's first block.
    ///
    /// # Errors
    /// [`NotOurs`].
    pub fn decode(block: &[u8]) -> Result<Self, NotOurs> {
        let field = |from: usize, to: usize| {
            let bytes = block.get(from..to).unwrap_or_default();
            String::from_utf8_lossy(bytes).trim_end().to_owned()
        };
        if block.len() != LABEL || !block.starts_with(b"VOL1") || !block.is_ascii() {
            return Err(NotOurs::Unlabelled);
        }
        let (name, implementation, owner) = (field(4, 10), field(24, 37), field(37, 51));
        let version = implementation
            .strip_prefix(IMPLEMENTATION)
            .map(|v| v.trim().parse());
        let layout = match version {
            Some(Ok(layout @ 1..=LAYOUT)) => layout,
            Some(Ok(newer)) if newer > LAYOUT => return Err(NotOurs::Newer(newer)),
            _ => {
                return Err(NotOurs::Foreign {
                    volume: name,
                    implementation,
                });
            }
        };
        let number = owner
            .strip_prefix("TIER ")
            .map(|n| u32::from_str_radix(n, 16));
        match number {
            Some(Ok(tier)) if tier != 0 => Ok(Self {
                layout,
                name,
                owner: TierId(tier),
            }),
            _ => Err(NotOurs::Damaged(owner)),
        }
    }
}

/// What the labels before a file's data say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// The aggregate in it.
    pub name: AggregateId,
    /// Number of the object that its HDR1 is.
    pub object: u64,
    /// Bytes of all blocks before its HDR1.
    pub bytes: u64,
    /// Length of its blocks but the last, bytes.
    pub block: u32,
}

/// What the labels behind a file's data say: it is complete. If they count, it was durable and proven
/// before they were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closing {
    /// The aggregate in it.
    pub name: AggregateId,
    /// Number of the object that its HDR1 is.
    pub object: u64,
    /// Length of the data, bytes.
    pub len: u64,
    /// CRC32C of the data.
    pub crc: Crc32c,
}

/// What closing labels are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// Everything before them was proven before they were written.
    Proof,
    /// They count if, behind them on the same tape, there are some that are a proof: what was written together
    /// is proven together.
    Provisional,
}

impl Worth {
    /// What the last of the labels is called.
    fn kind(self) -> &'static str {
        match self {
            Self::Proof => "UTL1",
            Self::Provisional => "UTLP",
        }
    }
}

/// A day as ANSI labels say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Day {
    /// Seconds since 1970.
    pub unix: u64,
}

impl fmt::Display for Day {
    /// `cyyddd`: century (blank 19, `0` 20), year, day of the year from 1.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let leap = |year: u64| {
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
        };
        let (mut year, mut days) = (1970, self.unix / 86_400);
        loop {
            let length = 365 + u64::from(leap(year));
            if days < length || year > 2899 {
                break;
            }
            days -= length;
            year += 1;
        }
        let century = match year / 100 {
            19 => ' ',
            c => char::from_digit(u32::try_from(c - 20).unwrap_or(9).min(9), 10).unwrap_or('9'),
        };
        write!(f, "{century}{:02}{:03}", year % 100, days.min(365) + 1)
    }
}

impl Opening {
    /// HDR1, HDR2 and UHL1 of the `number`-th file (from 1) of a volume.
    #[must_use]
    pub fn labels(&self, volume: &str, number: u64, day: Day) -> [[u8; LABEL]; 3] {
        let fields = [self.bytes, u64::from(self.block)];
        [
            first("HDR1", self.name, volume, number, day, 0),
            second("HDR2"),
            user("UHL1", self.name, self.object, fields, volume),
        ]
    }

    /// Reads UHL1; `None` for anything that is not this volume's.
    #[must_use]
    pub fn decode(block: &[u8], volume: &str) -> Option<Self> {
        let (name, object, [bytes, size]) = read_user("UHL1", block, volume)?;
        // A reader makes room for a block: what no image can hold is no block's length.
        let block = u32::try_from(size)
            .ok()
            .filter(|size| (1..=LONGEST).contains(size))?;
        Some(Self {
            name,
            object,
            bytes,
            block,
        })
    }
}

impl Closing {
    /// EOF1, EOF2 and UTL1 (or UTLP) of the `number`-th file (from 1) of a volume, of `blocks` blocks.
    #[must_use]
    pub fn labels(
        &self,
        worth: Worth,
        volume: &str,
        (number, day): (u64, Day),
        blocks: u64,
    ) -> [[u8; LABEL]; 3] {
        let fields = [self.len, u64::from(self.crc.0)];
        [
            first("EOF1", self.name, volume, number, day, blocks),
            second("EOF2"),
            user(worth.kind(), self.name, self.object, fields, volume),
        ]
    }

    /// Reads UTL1, or for [`Worth::Provisional`] UTLP; `None` for anything that is not this volume's.
    #[must_use]
    pub fn decode(worth: Worth, block: &[u8], volume: &str) -> Option<Self> {
        let (name, object, [len, crc]) = read_user(worth.kind(), block, volume)?;
        let crc = Crc32c(u32::try_from(crc).ok()?);
        Some(Self {
            name,
            object,
            len,
            crc,
        })
    }
}

/// HDR1 and EOF1. Seventeen characters hold the lower part of an aggregate's name; the user labels
/// have it whole. Counts wrap where their fields end, as the standard lets them.
fn first(
    kind: &str,
    name: AggregateId,
    volume: &str,
    number: u64,
    day: Day,
    blocks: u64,
) -> [u8; LABEL] {
    let file = format!(
        "{:04X}-{:012X}",
        name.epoch & 0xffff,
        name.seq & 0xffff_ffff_ffff
    );
    let (sequence, blocks) = (number % 10_000, blocks % 1_000_000);
    sized(&format!(
        "{kind}{file}{volume:<6}0001{sequence:04}000100{day} 00000 {blocks:06}{SYSTEM:<13}{:7}",
        ""
    ))
}

/// HDR2 and EOF2. Blocks of 100,000 bytes and more do not fit: UHL1 has their length.
fn second(kind: &str) -> [u8; LABEL] {
    sized(&format!("{kind}F0000000000{:35}00{:28}", "", ""))
}

/// UHL1 and UTL1.
fn user(kind: &str, name: AggregateId, object: u64, fields: [u64; 2], volume: &str) -> [u8; LABEL] {
    let AggregateId { epoch, seq } = name;
    let [a, b] = fields;
    let mut label = sized(&format!(
        "{kind}{epoch:08X}{seq:016X}{object:012X}{a:016X}{b:08X}{volume:<6}"
    ));
    let sum = Crc32c::of(&label[..72]);
    label[72..].copy_from_slice(format!("{:08X}", sum.0).as_bytes());
    label
}

fn read_user(kind: &str, block: &[u8], volume: &str) -> Option<(AggregateId, u64, [u64; 2])> {
    let block: &[u8; LABEL] = block.try_into().ok()?;
    let text = std::str::from_utf8(block).ok()?;
    let hex = |from: usize, to: usize| u64::from_str_radix(text.get(from..to)?, 16).ok();
    if text.get(..4)? != kind || u64::from(Crc32c::of(&block[..72]).0) != hex(72, 80)? {
        return None;
    }
    if text.get(64..72)?.trim_end() != volume {
        return None;
    }
    let epoch = u32::try_from(hex(4, 12)?).ok()?;
    let name = AggregateId {
        epoch,
        seq: hex(12, 28)?,
    };
    if name.part_number() > AggregateId::MOST_PARTS {
        return None;
    }
    Some((name, hex(28, 40)?, [hex(40, 56)?, hex(56, 64)?]))
}

fn sized(text: &str) -> [u8; LABEL] {
    let mut label = [b' '; LABEL];
    for (place, byte) in label.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
    label
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAME: AggregateId = AggregateId {
        epoch: 0x2a,
        seq: 0x17,
    };

    fn text(label: &[u8]) -> &str {
        std::str::from_utf8(label).expect("ASCII")
    }

    #[test]
    fn labels_stand_as_drawn() {
        let volume = Volume {
            layout: LAYOUT,
            name: "CRN001".into(),
            owner: TierId(0x00c0_ffee),
        };
        assert_eq!(
            text(&volume.encode()),
            "VOL1CRN001              CAIRN TAPE 2 TIER 00C0FFEE                             3"
        );
        let day = Day {
            unix: 1_700_000_000,
        };
        let opening = Opening {
            name: NAME,
            object: 1,
            bytes: 80,
            block: 262_144,
        };
        let closing = Closing {
            name: NAME,
            object: 1,
            len: 10_240,
            crc: Crc32c(0xfeed),
        };
        let labels = opening.labels("CRN001", 1, day);
        let shown: Vec<&str> = labels.iter().map(|l| text(l)).collect();
        assert_eq!(
            shown[0],
            "HDR1002A-000000000017CRN00100010001000100023318 00000 000000CAIRN               "
        );
        assert_eq!(
            shown[1],
            "HDR2F0000000000                                   00                            "
        );
        assert!(
            shown[2].starts_with("UHL10000002A000000000000001700000000000100000000000000500004"),
            "{}",
            shown[2]
        );
        let labels = closing.labels(Worth::Proof, "CRN001", (1, day), 1);
        let [_, _, last] = closing.labels(Worth::Provisional, "CRN001", (1, day), 1);
        assert_eq!(
            text(&last)[..72],
            text(&labels[2])[..72].replace("UTL1", "UTLP")
        );
        let shown: Vec<&str> = labels.iter().map(|l| text(l)).collect();
        assert_eq!(
            shown[0],
            "EOF1002A-000000000017CRN00100010001000100023318 00000 000001CAIRN               "
        );
        assert!(
            shown[2].starts_with("UTL10000002A0000000000000017000000000001000000000000280000"),
            "{}",
            shown[2]
        );
    }

    #[test]
    fn days_count_leap_years_and_centuries() {
        for (unix, shown) in [
            (0, " 70001"),
            (951_782_400, "000060"),
            (4_102_444_799, "099365"),
            (4_102_444_800, "100001"),
        ] {
            assert_eq!(Day { unix }.to_string(), shown, "{unix}");
        }
    }

    #[test]
    fn what_is_not_ours_is_told_apart() {
        let volume = Volume {
            layout: LAYOUT,
            name: "CRN001".into(),
            owner: TierId(7),
        };
        let ours = volume.encode();
        let with = |from: usize, bytes: &[u8]| {
            let mut label = ours;
            label[from..from + bytes.len()].copy_from_slice(bytes);
            Volume::decode(&label)
        };
        assert_eq!(with(0, b"").as_ref(), Ok(&volume));
        let older = Volume {
            layout: 1,
            ..volume
        };
        assert_eq!(with(35, b"1"), Ok(older));
        assert!(matches!(with(35, b"0"), Err(NotOurs::Foreign { .. })));
        assert_eq!(with(0, b"HDR1"), Err(NotOurs::Unlabelled));
        assert_eq!(Volume::decode(&ours[..79]), Err(NotOurs::Unlabelled));
        assert_eq!(with(35, b"3"), Err(NotOurs::Newer(3)));
        assert!(matches!(
            with(24, b"LTFS         "),
            Err(NotOurs::Foreign { .. })
        ));
        assert!(matches!(with(42, b"00000000"), Err(NotOurs::Damaged(_))));
    }

    #[test]
    fn a_blocks_length_that_no_image_holds_is_none() {
        let day = Day { unix: 0 };
        for (block, taken) in [
            (0, false),
            (1, true),
            (LONGEST, true),
            (LONGEST + 1, false),
            (u32::MAX, false),
        ] {
            let (name, object, bytes) = (NAME, 1, 80);
            let opening = Opening {
                name,
                object,
                bytes,
                block,
            };
            let [_, _, uhl] = opening.labels("CRN001", 1, day);
            assert_eq!(Opening::decode(&uhl, "CRN001").is_some(), taken, "{block}");
        }
    }

    proptest! {
        #[test]
        fn labels_read_back_and_any_damage_is_seen(
            epoch: u32, seq in 0..10_000_u64 << 48, object in 0..1_u64 << 48, bytes: u64, block in 1..=LONGEST,
            len: u64, crc: u32, counts: bool, at in 0..LABEL, bit in 0..8_u32,
        ) {
            let name = AggregateId { epoch, seq };
            let opening = Opening { name, object, bytes, block };
            let closing = Closing { name, object, len, crc: Crc32c(crc) };
            let day = Day { unix: 0 };
            let [_, _, mut uhl] = opening.labels("ABC123", 1, day);
            let (worth, other) = if counts {
                (Worth::Proof, Worth::Provisional)
            } else {
                (Worth::Provisional, Worth::Proof)
            };
            let [_, _, mut utl] = closing.labels(worth, "ABC123", (1, day), 3);
            prop_assert_eq!(Opening::decode(&uhl, "ABC123"), Some(opening));
            prop_assert_eq!(Closing::decode(worth, &utl, "ABC123"), Some(closing));
            prop_assert_eq!(Closing::decode(other, &utl, "ABC123"), None);
            prop_assert_eq!(Opening::decode(&uhl, "ABC124"), None);
            prop_assert_eq!(Closing::decode(worth, &uhl, "ABC123"), None);
            uhl[at] ^= 1 << bit;
            utl[at] ^= 1 << bit;
            // A digit of the sum in the other case says the same.
            let harmless = |label: &[u8; LABEL]| label[72..].iter().any(u8::is_ascii_lowercase);
            prop_assert!(harmless(&uhl) || Opening::decode(&uhl, "ABC123").is_none());
            prop_assert!(harmless(&utl) || Closing::decode(worth, &utl, "ABC123").is_none());
        }
    }
}
