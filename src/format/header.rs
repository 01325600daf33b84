//! One 512-byte ustar header block.

use super::wire::Wrong;

/// Size of a tar block, bytes.
pub(super) const TAR: u64 = 512;
const LEN: usize = TAR as usize;
/// Largest number that seven octal digits hold (mode, uid, gid, device numbers).
pub(super) const MAX7: u64 = 0o7_777_777;
/// Largest number that eleven octal digits hold (size, mtime).
pub(super) const MAX11: u64 = 0o77_777_777_777;

/// The fields that Cairn uses. Strings are raw bytes in no charset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Header {
    /// Name, with its prefix where there is one.
    pub(super) name: Vec<u8>,
    pub(super) mode: u64,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) size: u64,
    pub(super) mtime: u64,
    pub(super) kind: u8,
    pub(super) link: Vec<u8>,
    pub(super) major: u64,
    pub(super) minor: u64,
}

/// Splits a name into ustar's prefix and name fields, if it fits them.
pub(super) fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((b"", name));
    }
    // A slash that ends the name (a directory's) is no place to split at.
    let inner = name.len() - 1;
    let at = (name.len() - 101).max(1);
    let slash = name
        .get(at..inner.min(156))?
        .iter()
        .position(|b| *b == b'/')?;
    let (prefix, rest) = name.split_at(at + slash);
    Some((prefix, &rest[1..]))
}

impl Header {
    /// The block. Names and numbers that do not fit are cut: a pax or long-name header before
    /// it must carry them.
    pub(super) fn encode(&self) -> [u8; LEN] {
        let mut block = [0; LEN];
        let (prefix, name) = split(&self.name).unwrap_or((b"", &self.name));
        put(&mut block[0..100], name);
        octal(&mut block[100..107], self.mode);
        octal(&mut block[108..115], self.uid);
        octal(&mut block[116..123], self.gid);
        octal(&mut block[124..135], self.size);
        octal(&mut block[136..147], self.mtime);
        block[156] = self.kind;
        put(&mut block[157..257], &self.link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        octal(&mut block[329..336], self.major);
        octal(&mut block[337..344], self.minor);
        put(&mut block[345..500], prefix);
        let sum = sum(&block);
        octal(&mut block[148..154], sum);
        block[155] = b' ';
        block
    }

    /// Reads a block; `None` if it is all zeros.
    pub(super) fn decode(block: &[u8; LEN]) -> Result<Option<Self>, Wrong> {
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        if block[257..265] != *b"ustar\x0000" {
            return Err("not a ustar header");
        }
        if number(&block[148..156])? != sum(block) {
            return Err("the header's checksum is wrong");
        }
        let mut name = text(&block[345..500]).to_vec();
        if !name.is_empty() {
            name.push(b'/');
        }
        name.extend_from_slice(text(&block[0..100]));
        Ok(Some(Self {
            name,
            mode: number(&block[100..108])?,
            uid: number(&block[108..116])?,
            gid: number(&block[116..124])?,
            size: number(&block[124..136])?,
            mtime: number(&block[136..148])?,
            kind: block[156],
            link: text(&block[157..257]).to_vec(),
            major: number(&block[329..337])?,
            minor: number(&block[337..345])?,
        }))
    }
}

fn put(field: &mut [u8], bytes: &[u8]) {
    let len = bytes.len().min(field.len());
    field[..len].copy_from_slice(&bytes[..len]);
}

/// Writes leading zeros too; what is too large becomes the largest number of the field.
fn octal(field: &mut [u8], value: u64) {
    let largest = (1 << (3 * field.len())) - 1;
    let mut rest = value.min(largest);
    for digit in field.iter_mut().rev() {
        *digit = b'0' + (rest & 7) as u8;
        rest >>= 3;
    }
}

fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or(field)
}

/// Octal digits, then NULs or spaces up to the end.
fn number(field: &[u8]) -> Result<u64, Wrong> {
    let digits = field
        .iter()
        .take_while(|b| matches!(b, b'0'..=b'7'))
        .count();
    if digits == 0 || field[digits..].iter().any(|b| !matches!(b, 0 | b' ')) {
        return Err("a number of the header is not octal");
    }
    let digit = |n: u64, b: &u8| (n << 3) | u64::from(b - b'0');
    Ok(field[..digits].iter().fold(0, digit))
}

/// The sum of all bytes with the checksum field as spaces.
fn sum(block: &[u8; LEN]) -> u64 {
    let all: u64 = block.iter().map(|b| u64::from(*b)).sum();
    let field: u64 = block[148..156].iter().map(|b| u64::from(*b)).sum();
    all - field + 8 * u64::from(b' ')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_round_trip(
            name in "[a-zäß/]{1,200}[a-z]/?", mode in 0..=MAX7, size in 0..=MAX11, kind: u8,
            link in proptest::collection::vec(1_u8.., 0..100),
        ) {
            let header = Header {
                name: name.trim_start_matches('/').into(), mode, size, kind, link,
                uid: MAX7, mtime: MAX11, ..Header::default()
            };
            let back = Header::decode(&header.encode()).unwrap().unwrap();
            if split(&header.name).is_some() {
                prop_assert_eq!(back, header);
            } else {
                prop_assert!(header.name.starts_with(&back.name));
            }
        }

        #[test]
        fn arbitrary_blocks_never_panic(bytes in proptest::collection::vec(any::<u8>(), LEN)) {
            let mut block: [u8; LEN] = bytes.try_into().unwrap();
            let _ = Header::decode(&block);
            block[257..265].copy_from_slice(b"ustar\x0000");
            let sum = sum(&block);
            octal(&mut block[148..155], sum);
            let _ = Header::decode(&block);
        }
    }

    #[test]
    fn names_are_split_at_a_slash_that_leaves_both_parts_short_enough() {
        let long = format!("{}/{}", "p".repeat(155), "n".repeat(100));
        let parts = split(long.as_bytes()).unwrap();
        assert_eq!((parts.0.len(), parts.1.len()), (155, 100));
        assert!(split(format!("{}/{}", "p".repeat(156), "n".repeat(100)).as_bytes()).is_none());
        assert!(split(format!("{}/", "d".repeat(100)).as_bytes()).is_none());
    }
}
