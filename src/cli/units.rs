//! Bytes and times as people read and type them.

use std::fmt;
use std::time::Duration;

/// Bytes with a binary unit: `0 B`, `1.5 KiB`, `12 GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut unit = 0;
        let mut whole = self.0;
        let mut rest = 0;
        while whole >= 1024 {
            rest = whole % 1024;
            whole /= 1024;
            unit += 1;
        }
        let name = UNITS.get(unit).copied().unwrap_or("EiB");
        let text = if unit == 0 || whole >= 10 {
            format!("{whole} {name}")
        } else {
            format!("{whole}.{} {name}", rest * 10 / 1024)
        };
        f.pad(&text)
    }
}

/// Seconds as `3m 20s`; the two largest units.
pub(crate) fn seconds(seconds: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// `1,234 files`, `1 file`.
pub(crate) fn files(count: u64) -> String {
    counted(count, "file")
}

/// `2 rules`, `1 rule`: for nouns that take an s.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    format!(
        "{} {noun}{}",
        grouped(count),
        if count == 1 { "" } else { "s" }
    )
}

/// Digits in groups of three.
pub(crate) fn grouped(number: u64) -> String {
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

/// A size as typed: `4096`, `100M`, `1GiB`, `2t`; units are powers of 1024.
///
/// # Errors
/// What is wrong with it, for clap.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} does not begin with a number"))?;
    let unit = text
        .get(digits.len()..)
        .unwrap_or_default()
        .to_ascii_lowercase();
    let unit = unit
        .strip_suffix("ib")
        .or_else(|| unit.strip_suffix('b'))
        .unwrap_or(&unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(format!("{text:?}: units are K, M, G, T, P")),
    };
    number
        .checked_mul(1 << (10 * power))
        .ok_or_else(|| format!("{text:?} is too large"))
}

/// A duration as typed: `90s`, `2h 30m`, `7d`; a bare number is seconds.
///
/// # Errors
/// What is wrong with it, for clap.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; write 90s, 2h or 7d"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short_and_round_down() {
        let shown = |n| Bytes(n).to_string();
        assert_eq!(shown(0), "0 B");
        assert_eq!(shown(1023), "1023 B");
        assert_eq!(shown(1536), "1.5 KiB");
        assert_eq!(shown(10 << 20), "10 MiB");
        assert_eq!(shown(u64::MAX), "15 EiB");
        assert_eq!(format!("{:>8}|", Bytes(1024)), " 1.0 KiB|");
    }

    #[test]
    fn what_is_typed_is_understood_or_refused() {
        assert_eq!(parse_bytes("100M"), Ok(100 << 20));
        assert_eq!(parse_bytes("1GiB"), Ok(1 << 30));
        assert_eq!(parse_bytes("2kb"), Ok(2048));
        assert!(
            ["", "M", "1x", "99999999999P", "-1"]
                .iter()
                .all(|t| parse_bytes(t).is_err())
        );
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("2h 30m"), Ok(Duration::from_secs(9000)));
        assert!(parse_duration("soon").is_err());
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(files(1), "1 file");
        assert_eq!(seconds(3725), "1h 2m");
    }
}
