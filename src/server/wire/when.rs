//! A moment on the wire: RFC 3339 in UTC, milliseconds.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment; before 1970 it is shown as 1970. For events of Cairn's own, not for file times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct When(pub SystemTime);

/// The last second that RFC 3339 can write: 9999-12-31T23:59:59Z.
const LAST_SECOND: u64 = 253_402_300_799;

impl When {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self(SystemTime::now())
    }
    /// From whole seconds since 1970.
    #[must_use]
    pub fn from_unix(seconds: u64) -> Self {
        Self(UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECOND)))
    }
    /// As a person writes it: RFC 3339, or date and time with a space between, in UTC.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        humantime::parse_rfc3339_weak(text)
            .map(Self)
            .map_err(|why| format!("{why}; write 2026-01-31 12:00:00"))
    }
    /// For people: whole seconds.
    #[must_use]
    pub fn to_seconds(self) -> String {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = Duration::from_secs(since.as_secs().min(LAST_SECOND));
        humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
    }
    /// How long before `now` it was; zero if it lies ahead.
    #[must_use]
    pub fn age(self, now: SystemTime) -> Duration {
        now.duration_since(self.0).unwrap_or_default()
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = since.min(Duration::from_secs(LAST_SECOND));
        humantime::format_rfc3339_millis(UNIX_EPOCH + since).fmt(f)
    }
}

impl Serialize for When {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_rfc3339(&text)
            .map(Self)
            .map_err(de::Error::custom)
    }
}
