//! Sizes and durations as people write them, parsed and printed exactly.
//!
//! Promise: whatever [`format_size`] and [`format_duration`] print parses back to the same value;
//! nothing is ever rounded. What is for eyes only, rounded and short, lies apart in [`shown`].
//!
//! Sizes follow coreutils: `K`, `KiB` are 1024 bytes, `KB` is 1000; a bare number is bytes.
//! Durations always carry a unit (`m` is minutes), and may be sums: `1h30m`.

pub mod shown;

use std::time::Duration;

/// Text that is no size or duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: {why}")]
pub struct UnitError {
    /// `size` or `duration`.
    pub what: &'static str,
    /// What stood there.
    pub text: String,
    /// What is wrong with it, and how it is written.
    pub why: String,
}

const SIZES: [(&str, u64); 23] = [
    ("", 1),
    ("b", 1),
    ("byte", 1),
    ("bytes", 1),
    ("k", 1 << 10),
    ("kib", 1 << 10),
    ("kb", 1_000),
    ("m", 1 << 20),
    ("mib", 1 << 20),
    ("mb", 1_000_000),
    ("g", 1 << 30),
    ("gib", 1 << 30),
    ("gb", 1_000_000_000),
    ("t", 1 << 40),
    ("tib", 1 << 40),
    ("tb", 1_000_000_000_000),
    ("p", 1 << 50),
    ("pib", 1 << 50),
    ("pb", 1_000_000_000_000_000),
    ("e", 1 << 60),
    ("eib", 1 << 60),
    ("eb", 1_000_000_000_000_000_000),
    ("ki", 1 << 10),
];

const BINARY: [(&str, u64); 6] = [
    ("EiB", 1 << 60),
    ("PiB", 1 << 50),
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];

const DECIMAL: [(&str, u64); 6] = [
    ("EB", 1_000_000_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
];

/// In nanoseconds; the first seven, largest first, are the ones printed.
const TIMES: [(&str, u128); 23] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
    ("w", 604_800_000_000_000),
    ("week", 604_800_000_000_000),
    ("weeks", 604_800_000_000_000),
    ("day", 86_400_000_000_000),
    ("days", 86_400_000_000_000),
    ("hour", 3_600_000_000_000),
    ("hours", 3_600_000_000_000),
    ("hr", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("mins", 60_000_000_000),
    ("minute", 60_000_000_000),
    ("minutes", 60_000_000_000),
    ("sec", 1_000_000_000),
    ("secs", 1_000_000_000),
    ("second", 1_000_000_000),
    ("seconds", 1_000_000_000),
];

const PRINTED_TIMES: usize = 7;

/// Parses a size in bytes: `4096`, `64KiB`, `1.5 GiB`, `100MB`. Letter case does not matter.
///
/// # Errors
/// [`UnitError`] for anything else, for more than 2^64-1 bytes and for fractions of a byte.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let fail = |why: String| UnitError {
        what: "size",
        text: text.to_owned(),
        why,
    };
    let trimmed = text.trim();
    let (number, rest) = take_number(trimmed).map_err(|why| fail(why.to_owned()))?;
    let unit = rest.trim().to_lowercase();
    let scale = SIZES
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, scale)| *scale)
        .ok_or_else(|| {
            fail(format!(
                "unknown unit {:?}; write 64KiB, 100MB or 10GiB",
                rest.trim()
            ))
        })?;
    let bytes = number
        .times(u128::from(scale))
        .ok_or_else(|| fail("not a whole number of bytes".to_owned()))?;
    u64::try_from(bytes).map_err(|_| fail("more than 2^64-1 bytes".to_owned()))
}

/// Prints a size exactly, in the largest unit that keeps it whole: `64KiB`, `100MB`, `1234B`.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    let whole = |units: &[(&'static str, u64)]| {
        units
            .iter()
            .find(|(_, scale)| bytes != 0 && bytes.is_multiple_of(*scale))
            .map(|(name, scale)| (bytes / scale, *name))
    };
    let best = match (whole(&BINARY), whole(&DECIMAL)) {
        (Some(binary), Some(decimal)) => Some(if decimal.0 < binary.0 {
            decimal
        } else {
            binary
        }),
        (one, other) => one.or(other),
    };
    best.map_or_else(|| format!("{bytes}B"), |(n, unit)| format!("{n}{unit}"))
}

/// Parses a duration: `10m`, `10 min`, `250ms`, `1h30m`, `1.5 h`, `30 days`, `0`.
///
/// # Errors
/// [`UnitError`] for anything else, above all for a number without a unit.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let fail = |why: String| UnitError {
        what: "duration",
        text: text.to_owned(),
        why,
    };
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = 0_u128;
    loop {
        let (number, after) = take_number(rest).map_err(|why| fail(why.to_owned()))?;
        let after = after.trim_start();
        let end = after
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(after.len());
        let unit = after[..end].to_lowercase();
        if unit.is_empty() {
            return Err(fail("it needs a unit: write 10s, 10min or 2h".to_owned()));
        }
        // Letter case is ignored, except that "M" is nobody's minute.
        let scale = TIMES
            .iter()
            .find(|(name, _)| *name == unit && &after[..end] != "M")
            .map(|(_, scale)| *scale)
            .ok_or_else(|| {
                fail(format!(
                    "unknown unit {:?}; write 10s, 10min or 2h",
                    &after[..end]
                ))
            })?;
        total = number
            .times(scale)
            .and_then(|nanos| total.checked_add(nanos))
            .ok_or_else(|| fail("not a whole number of nanoseconds".to_owned()))?;
        rest = after[end..].trim_start();
        if rest.is_empty() {
            break;
        }
    }
    let seconds = u64::try_from(total / 1_000_000_000).map_err(|_| fail("too long".to_owned()))?;
    // The remainder is below 10^9.
    let nanos = u32::try_from(total % 1_000_000_000).unwrap_or(0);
    Ok(Duration::new(seconds, nanos))
}

/// Prints a duration exactly: `1d`, `1h30m`, `250ms`, `0s`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    use std::fmt::Write as _;
    let mut rest = duration.as_nanos();
    let mut text = String::new();
    for (unit, scale) in &TIMES[..PRINTED_TIMES] {
        if rest >= *scale {
            // Writing into a String cannot fail.
            let _ = write!(text, "{}{unit}", rest / scale);
            rest %= scale;
        }
    }
    if text.is_empty() {
        "0s".to_owned()
    } else {
        text
    }
}

/// A decimal number as digits and a power of ten below one.
struct Number {
    digits: u128,
    tenths: u32,
}

impl Number {
    /// Exactly `self * scale`, if that is whole.
    fn times(&self, scale: u128) -> Option<u128> {
        let divisor = 10_u128.checked_pow(self.tenths)?;
        let product = self.digits.checked_mul(scale)?;
        (product % divisor == 0).then_some(product / divisor)
    }
}

/// The number at the head of `text`, and what follows it.
fn take_number(text: &str) -> Result<(Number, &str), &'static str> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (head, rest) = text.split_at(end);
    let (whole, part) = head.split_once('.').unwrap_or((head, ""));
    if whole.is_empty() || part.contains('.') || (part.is_empty() && head.contains('.')) {
        return Err("it must begin with a number");
    }
    if whole.len() + part.len() > 30 {
        return Err("too many digits");
    }
    let digits = format!("{whole}{part}")
        .parse()
        .map_err(|_| "it must begin with a number")?;
    let tenths = u32::try_from(part.len()).map_err(|_| "too many digits")?;
    Ok((Number { digits, tenths }, rest))
}

#[cfg(test)]
mod tests;
