//! Sizes, times and counts for eyes: short and rounded down. They do not parse back; what must,
//! is printed by [`super::format_size`] and [`super::format_duration`].

use super::{BINARY, PRINTED_TIMES, TIMES};
use std::fmt;

/// Bytes with a binary unit: `0 B`, `1.5 KiB`, `12 GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((unit, scale)) = BINARY.iter().find(|(_, scale)| self.0 >= *scale) else {
            return f.pad(&format!("{} B", self.0));
        };
        let (whole, rest) = (self.0 / scale, self.0 % scale);
        // In whole numbers, so that no floating point decides how a number looks.
        f.pad(&match whole {
            0..10 => format!(
                "{whole}.{} {unit}",
                u128::from(rest) * 10 / u128::from(*scale)
            ),
            _ => format!("{whole} {unit}"),
        })
    }
}

/// Seconds as `3m 20s`, `1d 2h`: the two largest units.
#[must_use]
pub fn seconds(seconds: u64) -> String {
    let mut rest = u128::from(seconds) * 1_000_000_000;
    let mut parts = Vec::new();
    for (unit, scale) in &TIMES[..PRINTED_TIMES] {
        if rest >= *scale {
            parts.push(format!("{}{unit}", rest / scale));
            rest %= scale;
        }
    }
    parts.truncate(2);
    if parts.is_empty() {
        "0s".to_owned()
    } else {
        parts.join(" ")
    }
}

/// `1,234 files`, `1 file`.
#[must_use]
pub fn files(count: u64) -> String {
    counted(count, "file")
}

/// `2 rules`, `1 rule`: for nouns that take an s.
#[must_use]
pub fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(count))
}

/// Digits in groups of three.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
