//! The quantities that policies are written in: byte counts, spans of time, percentages, and the
//! moments that files carry. Each prints in the form that the language reads back.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use std::fmt;

/// Nanoseconds in a second.
const NANOS: i64 = 1_000_000_000;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct ByteCount(pub u64);

/// A point in time: nanoseconds since 1970, negative before. Serialised as whole seconds and
/// nanoseconds within the second, because readers of JSON lose digits of larger numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub i64);

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Moment", 2)?;
        fields.serialize_field("sec", &self.0.div_euclid(NANOS))?;
        fields.serialize_field("nsec", &self.0.rem_euclid(NANOS))?;
        fields.end()
    }
}

/// A length of time in whole seconds, at most [`Span::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(transparent)]
pub struct Span(u64);

/// A share in hundredths of a percent, 0 to 10,000. Serialised as percent (`85.5`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u16);

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.0) / 100.0)
    }
}

/// Units of size with their bytes; where two divide a count evenly, the larger prints it.
pub(crate) const SIZE_UNITS: [(&str, u64); 12] = [
    ("EiB", 1 << 60),
    ("PiB", 1 << 50),
    ("PB", 1_000_000_000_000_000),
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1000),
    ("B", 1),
];

/// Units of time with their seconds; the first name of each length is the one that is printed.
pub(crate) const TIME_UNITS: [(&str, u64); 16] = [
    ("w", 604_800),
    ("week", 604_800),
    ("weeks", 604_800),
    ("d", 86_400),
    ("day", 86_400),
    ("days", 86_400),
    ("h", 3600),
    ("hour", 3600),
    ("hours", 3600),
    ("min", 60),
    ("minute", 60),
    ("minutes", 60),
    ("s", 1),
    ("sec", 1),
    ("second", 1),
    ("seconds", 1),
];

impl Span {
    /// The longest span: a hundred years of 365 days.
    pub const MAX: Self = Self(100 * 365 * 86_400);

    /// A span of whole seconds; `None` above [`Span::MAX`].
    #[must_use]
    pub const fn from_secs(secs: u64) -> Option<Self> {
        if secs <= Self::MAX.0 {
            Some(Self(secs))
        } else {
            None
        }
    }

    /// Its whole seconds.
    #[must_use]
    pub const fn secs(self) -> u64 {
        self.0
    }

    fn nanos(self) -> i64 {
        // MAX is about 3.2e18 ns, below i64::MAX: the bound is what makes this exact.
        i64::try_from(self.0)
            .unwrap_or(i64::MAX)
            .saturating_mul(NANOS)
    }
}

impl Moment {
    /// A moment of whole seconds since 1970 and the nanoseconds within that second, saturating
    /// where 64 bits end (years 1677 and 2262).
    #[must_use]
    pub const fn new(sec: i64, nsec: u32) -> Self {
        Self(sec.saturating_mul(NANOS).saturating_add(nsec as i64))
    }

    /// The moment `span` later, saturating.
    #[must_use]
    pub fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.nanos()))
    }

    /// The moment `span` earlier, saturating.
    #[must_use]
    pub fn before(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.nanos()))
    }

    /// Whole seconds from `self` to `later`, rounded down; 0 if `later` is earlier.
    #[must_use]
    pub fn until(self, later: Self) -> u64 {
        u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0) / 1_000_000_000
    }

    /// As [`Moment::until`], rounded up: what is said of a wait must not promise too early.
    #[must_use]
    pub fn wait_until(self, later: Self) -> u64 {
        u64::try_from(later.0.saturating_sub(self.0))
            .unwrap_or(0)
            .div_ceil(1_000_000_000)
    }
}

impl Percent {
    /// A share in hundredths of a percent; `None` above 10,000.
    #[must_use]
    pub const fn from_hundredths(hundredths: u16) -> Option<Self> {
        if hundredths <= 10_000 {
            Some(Self(hundredths))
        } else {
            None
        }
    }

    /// Hundredths of a percent, 0 to 10,000.
    #[must_use]
    pub const fn hundredths(self) -> u16 {
        self.0
    }

    /// This share of `whole`, rounded down.
    #[must_use]
    pub fn of(self, whole: ByteCount) -> ByteCount {
        let part = u128::from(whole.0) * u128::from(self.0) / 10_000;
        ByteCount(u64::try_from(part).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for ByteCount {
    /// Exact: in the largest unit that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SIZE_UNITS
            .iter()
            .find(|(_, bytes)| self.0 >= *bytes && self.0.is_multiple_of(*bytes));
        match unit {
            Some((name, bytes)) => write!(f, "{} {name}", self.0 / bytes),
            None => write!(f, "{} B", self.0),
        }
    }
}

impl fmt::Display for Span {
    /// Exact: in the largest unit that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = TIME_UNITS
            .iter()
            .find(|(_, secs)| self.0 >= *secs && self.0.is_multiple_of(*secs));
        match unit {
            Some((name, secs)) => write!(f, "{} {name}", self.0 / secs),
            None => write!(f, "{} s", self.0),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 100, self.0 % 100);
        match (part, part % 10) {
            (0, _) => write!(f, "{whole} %"),
            (_, 0) => write!(f, "{whole}.{} %", part / 10),
            _ => write!(f, "{whole}.{part:02} %"),
        }
    }
}

/// A size as people say it: three digits and a binary unit.
pub(crate) fn rough_size(bytes: ByteCount) -> String {
    const NAMES: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    while unit + 1 < NAMES.len() && bytes.0 >> (10 * (unit + 1)) != 0 {
        unit += 1;
    }
    let scale = 1u128 << (10 * unit);
    let tenths = u128::from(bytes.0) * 10 / scale;
    let name = NAMES.get(unit).copied().unwrap_or("B");
    if unit == 0 || tenths >= 1000 || tenths.is_multiple_of(10) {
        format!("{} {name}", tenths / 10)
    } else {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    }
}

/// A number of seconds as people say it: its two largest units.
pub(crate) fn rough_span(secs: u64) -> String {
    const PARTS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)];
    for (i, (name, unit)) in PARTS.iter().enumerate() {
        if secs < *unit {
            continue;
        }
        let rest = PARTS
            .get(i + 1)
            .map(|(small, per)| (small, secs % unit / per));
        return match rest {
            Some((small, count)) if count > 0 => format!("{} {name} {count} {small}", secs / unit),
            _ => format!("{} {name}", secs / unit),
        };
    }
    "0 s".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_print_in_the_largest_even_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1, "1 B"),
            (1000, "1 KB"),
            (1024, "1 KiB"),
            (65_536, "64 KiB"),
            (1 << 40, "1 TiB"),
            (1_000_000_000_000, "1 TB"),
            (1025, "1025 B"),
        ] {
            assert_eq!(ByteCount(bytes).to_string(), text);
        }
    }

    #[test]
    fn spans_and_percentages_print_exactly() {
        let spans = [(0, "0 s"), (90, "90 s"), (3600, "1 h"), (604_800, "1 w")];
        for (secs, text) in spans {
            assert_eq!(Span::from_secs(secs).unwrap().to_string(), text);
        }
        for (hundredths, text) in [(8500, "85 %"), (8550, "85.5 %"), (8505, "85.05 %")] {
            assert_eq!(
                Percent::from_hundredths(hundredths).unwrap().to_string(),
                text
            );
        }
        assert_eq!(Percent::from_hundredths(10_001), None);
        assert_eq!(Span::from_secs(u64::MAX), None);
    }

    #[test]
    fn speech_is_short_and_waits_round_up() {
        assert_eq!(rough_span(3_900), "1 h 5 min");
        assert_eq!(rough_span(0), "0 s");
        assert_eq!(rough_size(ByteCount(1536)), "1.5 KiB");
        assert_eq!(rough_size(ByteCount(u64::MAX)), "15.9 EiB");
        assert_eq!(Moment(0).wait_until(Moment(1)), 1);
        assert_eq!(Moment(0).until(Moment(1)), 0);
        assert_eq!(Moment(5).until(Moment(-5)), 0);
    }

    #[test]
    fn moments_saturate() {
        assert_eq!(Moment::new(i64::MAX, 5).after(Span::MAX), Moment(i64::MAX));
        assert_eq!(Moment::new(i64::MIN, 0).before(Span::MAX), Moment(i64::MIN));
        assert_eq!(Moment::new(0, 0).after(Span::MAX).0, 3_153_600_000 * NANOS);
    }
}
