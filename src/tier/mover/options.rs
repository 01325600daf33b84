//! `mover:NAME[?streams=N&protect=none|privacy]`: how a tier on another host is used.

use super::pieces::Carrying;
use cairn_mover::Protect;
use std::fmt;

/// What a URL may say.
pub const OPTIONS: [&str; 2] = ["streams", "protect"];
/// Streams of a transfer, where nothing is said.
const STREAMS: u16 = 4;
/// And at most.
const STREAMS_MAX: u16 = 16;
/// The longest name.
const NAME_MAX: usize = 64;

/// How the bytes of such a tier travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoverOptions {
    /// Streams of one transfer, 1 to 16.
    pub streams: u16,
    /// What is protected on the way.
    pub protect: Protect,
}

impl Default for MoverOptions {
    fn default() -> Self {
        Self {
            streams: STREAMS,
            protect: Protect::Sealed,
        }
    }
}

impl MoverOptions {
    pub(in crate::tier) fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        if key == "protect" {
            self.protect = value.parse()?;
            return Ok(());
        }
        let streams = value.parse().ok().filter(|n| (1..=STREAMS_MAX).contains(n));
        self.streams = streams.ok_or_else(|| format!("{value:?} is no number from 1 to 16"))?;
        Ok(())
    }

    pub(super) fn carrying(self) -> Carrying {
        Carrying {
            streams: self.streams,
            protect: self.protect,
        }
    }
}

impl fmt::Display for MoverOptions {
    /// What differs from the defaults.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let streams = (self.streams != STREAMS).then(|| format!("streams={}", self.streams));
        let protect = match self.protect {
            Protect::None => Some("protect=none".to_owned()),
            Protect::Sealed => None,
        };
        let all: Vec<String> = streams.into_iter().chain(protect).collect();
        f.write_str(&all.join("&"))
    }
}

/// A mover's name: letters, digits, `-`, `_` and `.`, at most 64, the first a letter or digit.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let starts = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    if starts && name.len() <= NAME_MAX && name.bytes().all(good) {
        return Ok(());
    }
    Err(format!(
        "{name:?} is no mover's name: letters, digits, '-', '_' and '.', at most {NAME_MAX}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_words() {
        for good in ["tapes", "vault-2.example.org", "7"] {
            check_name(good).unwrap();
        }
        for bad in ["", "-x", "a/b", "a b", "ä", &"x".repeat(65)] {
            check_name(bad).unwrap_err();
        }
    }
}
