//! The checksum type: CRC32C (Castagnoli, reflected, as in RFC 3720 and S3's `x-amz-checksum-crc32c`).
//!
//! The only place that knows how it is computed. A sum of pieces is combined without reading them
//! again, and a run of zeros (a hole) costs O(log length).
//!
//! Combining multiplies polynomials over GF(2), by a table of x^(8 * 2^k): the `crc32c` package
//! squares matrices for it, which takes longer than summing the 512 KiB that are combined.

use std::fmt;

/// The CRC32C of a byte string.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Crc32c(pub u32);

impl Crc32c {
    /// The sum of no bytes.
    pub const EMPTY: Self = Self(0);

    /// Sums `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(crc32c::crc32c(bytes))
    }

    /// The sum of this string followed by another of `len` bytes with sum `next`.
    #[must_use]
    pub fn then(self, next: Self, len: u64) -> Self {
        Self(multiply(shift_by(len), self.0) ^ next.0)
    }

    /// The sum of `len` zero bytes, without touching them: doubling by [`Self::then`].
    #[must_use]
    pub fn of_zeros(len: u64) -> Self {
        let (mut sum, mut done) = (Self::EMPTY, 0_u64);
        let (mut power, mut power_len) = (Self::of(&[0]), 1_u64);
        let mut rest = len;
        while rest > 0 {
            if rest & 1 == 1 {
                sum = if done == 0 {
                    power
                } else {
                    sum.then(power, power_len)
                };
                done += power_len;
            }
            rest >>= 1;
            if rest > 0 {
                power = power.then(power, power_len);
                power_len <<= 1;
            }
        }
        sum
    }
}

/// The polynomial without its x^32, reflected: bit 31 stands for x^0.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x^0, reflected.
const ONE: u32 = 1 << 31;

/// x^(8 * 2^k) modulo the polynomial, for every k that a 64-bit length has.
const POWERS: [u32; 64] = {
    let mut powers = [0; 64];
    // x^8, by shifting.
    let mut power = ONE >> 8;
    let mut k = 0;
    while k < 64 {
        powers[k] = power;
        power = multiply(power, power);
        k += 1;
    }
    powers
};

/// a * b modulo the polynomial, both reflected.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = ONE;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        // b times x.
        b = (b >> 1) ^ (POLYNOMIAL & (b & 1).wrapping_neg());
        bit >>= 1;
    }
    product
}

/// x^(8 * len) modulo the polynomial: what moves a sum past `len` bytes.
fn shift_by(mut len: u64) -> u32 {
    let mut shift = ONE;
    while len != 0 {
        shift = multiply(POWERS[len.trailing_zeros() as usize], shift);
        len &= len - 1;
    }
    shift
}

impl fmt::Display for Crc32c {
    /// Eight lower-case hex digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}
impl fmt::Debug for Crc32c {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crc32c({self})")
    }
}

/// Sums a byte string that arrives in pieces.
#[derive(Debug, Clone)]
pub struct Crc32cHasher {
    sum: u32,
    len: u64,
}

impl Default for Crc32cHasher {
    fn default() -> Self {
        Self {
            sum: Crc32c::EMPTY.0,
            len: 0,
        }
    }
}

impl Crc32cHasher {
    /// Takes the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sum = crc32c::crc32c_append(self.sum, bytes);
        self.len += bytes.len() as u64;
    }

    /// Takes `len` zero bytes (a hole), without touching them.
    pub fn zeros(&mut self, len: u64) {
        self.sum = Crc32c(self.sum).then(Crc32c::of_zeros(len), len).0;
        self.len += len;
    }

    /// Bytes taken so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Nothing taken so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The sum of all taken so far.
    #[must_use]
    pub fn sum(&self) -> Crc32c {
        Crc32c(self.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn check_value_of_the_polynomial() {
        assert_eq!(Crc32c::of(b"123456789").0, 0xe306_9283);
    }

    proptest! {
        #[test]
        fn combining_agrees_with_the_package(a: u32, b: u32, len in 0_u64..1 << 48) {
            let theirs = crc32c::crc32c_combine(a, b, len as usize);
            prop_assert_eq!(Crc32c(a).then(Crc32c(b), len).0, theirs);
        }

        #[test]
        fn pieces_and_holes_sum_like_the_whole(a: Vec<u8>, hole in 0_u64..5000, b: Vec<u8>) {
            let mut whole = a.clone();
            whole.resize(a.len() + hole as usize, 0);
            whole.extend_from_slice(&b);
            let mut hasher = Crc32cHasher::default();
            hasher.update(&a);
            hasher.zeros(hole);
            hasher.update(&b);
            prop_assert_eq!(hasher.sum(), Crc32c::of(&whole));
            prop_assert_eq!(hasher.len(), whole.len() as u64);
        }
    }
}
