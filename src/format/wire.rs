//! Integers and byte strings as Cairn's own structures hold them, and a cursor that cannot run
//! past its bytes.
//!
//! Invariant: nothing is allocated for a length that the remaining bytes could not hold.

use crate::id::Timestamp;

/// Appends `value` in LEB128: seven bits a byte, lowest first, the top bit set on all but the last.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed number as `put_varint(zigzag(value))`, so that small negatives stay short.
pub(super) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Appends a byte string behind its length.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends seconds (signed) and nanoseconds.
pub(super) fn put_time(out: &mut Vec<u8>, time: Timestamp) {
    put_signed(out, time.sec);
    put_varint(out, u64::from(time.nsec));
}

/// What every decoder here says when bytes run out or a number is out of its range.
pub(super) type Wrong = &'static str;

/// Reads from the front of a byte slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
    /// Bytes not yet read.
    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Wrong> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or("ends too early")?;
        self.rest = rest;
        Ok(head)
    }
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Wrong> {
        let (head, rest) = self.rest.split_first_chunk().ok_or("ends too early")?;
        self.rest = rest;
        Ok(*head)
    }
    pub(super) fn u8(&mut self) -> Result<u8, Wrong> {
        Ok(self.array::<1>()?[0])
    }
    pub(super) fn u32(&mut self) -> Result<u32, Wrong> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    pub(super) fn u64(&mut self) -> Result<u64, Wrong> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    pub(super) fn i64(&mut self) -> Result<i64, Wrong> {
        Ok(i64::from_le_bytes(self.array()?))
    }
    /// The inverse of [`put_varint`]; longer forms than necessary are refused, so that equal
    /// values are equal bytes.
    pub(super) fn varint(&mut self) -> Result<u64, Wrong> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err("a number is too large");
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 {
                    Err("a number is longer than needed")
                } else {
                    Ok(value)
                };
            }
        }
        Err("a number is too long")
    }
    pub(super) fn varint_u32(&mut self) -> Result<u32, Wrong> {
        u32::try_from(self.varint()?).map_err(|_| "a number is too large")
    }
    pub(super) fn signed(&mut self) -> Result<i64, Wrong> {
        let raw = self.varint()?;
        Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Wrong> {
        let len = self.count(1)?;
        self.take(len)
    }
    /// A count of things that take at least `least` bytes each: never more than can be present.
    pub(super) fn count(&mut self, least: usize) -> Result<usize, Wrong> {
        let count = self.varint()?;
        if count > (self.rest.len() / least) as u64 {
            return Err("a count exceeds what is present");
        }
        usize::try_from(count).map_err(|_| "a number is too large")
    }
    pub(super) fn time(&mut self) -> Result<Timestamp, Wrong> {
        let (sec, nsec) = (self.signed()?, self.varint_u32()?);
        if nsec >= 1_000_000_000 {
            return Err("nanoseconds of a second and more");
        }
        Ok(Timestamp { sec, nsec })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_round_trip(value: u64, signed: i64, bytes: Vec<u8>) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            put_signed(&mut out, signed);
            put_bytes(&mut out, &bytes);
            let mut cursor = Cursor::new(&out);
            prop_assert_eq!(cursor.varint(), Ok(value));
            prop_assert_eq!(cursor.signed(), Ok(signed));
            prop_assert_eq!(cursor.bytes(), Ok(&bytes[..]));
            prop_assert_eq!(cursor.remaining(), 0);
        }
    }

    #[test]
    fn padded_and_endless_numbers_are_refused() {
        assert!(Cursor::new(&[0x80, 0x00]).varint().is_err());
        assert!(Cursor::new(&[0xff; 11]).varint().is_err());
        assert!(Cursor::new(&[0x80]).varint().is_err());
        assert!(
            Cursor::new(&[0xff, 0xff, 0xff, 0xff, 0x0f, 1])
                .bytes()
                .is_err()
        );
    }
}
