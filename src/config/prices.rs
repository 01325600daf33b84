//! What a tier's service asks for its work, as the site's administrator wrote it down: no price is
//! built in.
//!
//! Promise: an amount is kept exactly as it was written, and what is printed parses back to it.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// An amount of money in some currency, never negative, exact to a thousand-millionth (10^-9) of its
/// unit; at most 18,446,744,073 units.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(into = "String", try_from = "String")]
pub struct Amount(u64);

/// Decimals of an amount.
const DECIMALS: usize = 9;
/// Of one unit of a currency.
const UNIT: u64 = 1_000_000_000;
/// A hundredth of a unit.
const HUNDREDTH: u64 = UNIT / 100;

impl Amount {
    /// So many thousand-millionths of a unit; the largest amount where that is more.
    #[must_use]
    pub fn of_nanos(nanos: u128) -> Self {
        Self(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// In thousand-millionths of a unit.
    #[must_use]
    pub fn nanos(self) -> u64 {
        self.0
    }

    /// Nothing at all.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// For eyes: hundredths of a unit, and of less than one the first two digits.
    #[must_use]
    pub fn rounded(self) -> Self {
        let step = match self.0 {
            HUNDREDTH.. => HUNDREDTH,
            0 => 1,
            small => 10_u64.pow(small.ilog10().saturating_sub(1)),
        };
        let (steps, rest) = (self.0 / step, self.0 % step);
        Self((steps + u64::from(rest >= step.div_ceil(2) && rest > 0)).saturating_mul(step))
    }
}

impl fmt::Display for Amount {
    /// Every digit that counts, and at least two decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = format!("{:09}", self.0 % UNIT);
        let (first, rest) = decimals.split_at(2);
        let rest = rest.trim_end_matches('0');
        write!(f, "{}.{first}{rest}", self.0 / UNIT)
    }
}

impl FromStr for Amount {
    type Err = String;

    /// # Errors
    /// What is wrong with it, and how it is written.
    fn from_str(text: &str) -> Result<Self, String> {
        let no = |why: &str| Err(format!("{text:?} is no price: {why}"));
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(decimals) {
            return no("write a decimal number, such as 0.02 or \"0.00005\"");
        }
        if decimals.len() > DECIMALS {
            return no("more than nine decimals");
        }
        // Padded to nine digits, so that they count thousand-millionths.
        let nanos = format!("{whole}{decimals:0<DECIMALS$}").parse();
        nanos.map_or_else(|_| no("too much"), |nanos| Ok(Self(nanos)))
    }
}

impl From<Amount> for String {
    fn from(amount: Amount) -> Self {
        amount.to_string()
    }
}

impl TryFrom<String> for Amount {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// `[tier.NAME.prices]`. A GB is 10^9 bytes, as services bill; what is not said costs nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prices {
    /// In what all of them are: `USD`, say.
    pub currency: String,
    /// Having one object restored from an archive class.
    pub restore_request: Amount,
    /// Each GB restored.
    pub restore_gb: Amount,
    /// Keeping each GB of restored copies for 30 days.
    pub restored_gb_month: Amount,
    /// One read.
    pub read_request: Amount,
    /// Each GB read, with what its way out of the service costs.
    pub read_gb: Amount,
    /// One request that writes: an object, or a part of one.
    pub write_request: Amount,
    /// Keeping each GB for a month.
    pub stored_gb_month: Amount,
}

/// A price: its key, and where it stands.
pub(super) type Entry = (&'static str, fn(&mut Prices) -> &mut Amount);

impl Prices {
    /// The key of the currency, which must be there.
    pub(super) const CURRENCY: &'static str = "currency";

    /// All others.
    pub(super) const ENTRIES: [Entry; 7] = [
        ("restore-request", |p| &mut p.restore_request),
        ("restore-gb", |p| &mut p.restore_gb),
        ("restored-gb-month", |p| &mut p.restored_gb_month),
        ("read-request", |p| &mut p.read_request),
        ("read-gb", |p| &mut p.read_gb),
        ("write-request", |p| &mut p.write_request),
        ("stored-gb-month", |p| &mut p.stored_gb_month),
    ];

    /// All keys.
    pub(super) fn keys() -> Vec<&'static str> {
        let entries = Self::ENTRIES.iter().map(|(key, _)| *key);
        std::iter::once(Self::CURRENCY).chain(entries).collect()
    }

    /// Prices that are not nothing, by key.
    pub(super) fn told(&self) -> Vec<(&'static str, Amount)> {
        let mut own = self.clone();
        let entries = Self::ENTRIES.iter();
        let all = entries.map(|(key, of)| (*key, *of(&mut own)));
        all.filter(|(_, amount)| !amount.is_zero()).collect()
    }

    /// # Errors
    /// What is wrong with a currency's name.
    pub(super) fn name(&mut self, currency: &str) -> Result<(), String> {
        let long = currency.chars().count();
        let odd = |c: char| c.is_whitespace() || c.is_control();
        if !(1..=12).contains(&long) || currency.contains(odd) {
            return Err(format!(
                "{currency:?} is no currency: write its name in 1 to 12 characters, such as \"USD\""
            ));
        }
        currency.clone_into(&mut self.currency);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(text: &str) -> Amount {
        text.parse().expect(text)
    }

    #[test]
    fn an_amount_is_kept_as_it_was_written() {
        for (text, nanos, shown) in [
            ("0", 0, "0.00"),
            ("3", 3_000_000_000, "3.00"),
            ("0.1", 100_000_000, "0.10"),
            ("0.00005", 50_000, "0.00005"),
            ("0.000000001", 1, "0.000000001"),
            ("12.340", 12_340_000_000, "12.34"),
            ("18446744073.709551615", u64::MAX, "18446744073.709551615"),
        ] {
            assert_eq!(amount(text).nanos(), nanos, "{text}");
            assert_eq!(amount(text).to_string(), shown);
        }
        for (text, why) in [
            ("", "a decimal number"),
            ("-1", "a decimal number"),
            ("+1", "a decimal number"),
            ("1e-5", "a decimal number"),
            (".5", "a decimal number"),
            ("5.", "a decimal number"),
            ("1,5", "a decimal number"),
            ("inf", "a decimal number"),
            ("0.0000000001", "more than nine decimals"),
            ("18446744073.709551616", "too much"),
        ] {
            let error = text.parse::<Amount>().expect_err(text);
            assert!(error.contains(why), "{text:?} gave {error}");
        }
    }

    #[test]
    fn small_amounts_do_not_round_to_nothing() {
        for (exact, shown) in [
            ("0", "0.00"),
            ("12.344999999", "12.34"),
            ("12.345", "12.35"),
            ("0.994", "0.99"),
            ("0.01", "0.01"),
            ("0.009999999", "0.01"),
            ("0.004321", "0.0043"),
            ("0.000000012", "0.000000012"),
            ("0.000000009", "0.000000009"),
        ] {
            assert_eq!(amount(exact).rounded().to_string(), shown, "{exact}");
        }
        // There is nothing above the largest.
        assert_eq!(Amount(u64::MAX).rounded(), Amount(u64::MAX));
    }

    proptest::proptest! {
        #[test]
        fn what_is_printed_parses_back(nanos: u64) {
            proptest::prop_assert_eq!(amount(&Amount(nanos).to_string()), Amount(nanos));
        }
    }
}
