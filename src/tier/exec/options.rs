//! What an `exec:` URL says behind the program's path.

use crate::config::units;
use crate::tier::url::encode;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Names of the options, but for those that begin with [`GIVEN`].
pub const OPTIONS: [&str; 5] = ["timeout", "wait", "concurrency", "prefix", "opt."];
/// Options that are handed on to the program begin with this.
const GIVEN: &str = "opt.";

const TIMEOUT: Duration = Duration::from_secs(600);
const TIMEOUT_MOST: Duration = Duration::from_secs(7 * 86_400);
const AT_ONCE: usize = 4;
const AT_ONCE_MOST: usize = 256;
const PREFIX_MOST: usize = 64;
const NAME_MOST: usize = 64;
const VALUE_MOST: usize = 4096;
/// What Cairn itself says to the program.
const RESERVED: [&str; 1] = ["protocol"];

/// How a program is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOptions {
    /// How long a program may go on without taking or giving a byte.
    pub timeout: Duration,
    /// The same for the first byte of a `get`, which may have to come from tape; `None`: as the others.
    pub wait: Option<Duration>,
    /// Calls at once; a put that is under way comes on top.
    pub concurrency: usize,
    /// What every name at the place begins with.
    pub prefix: String,
    /// Handed on to the program, by name.
    pub given: BTreeMap<String, String>,
}

impl Default for ExecOptions {
    fn default() -> Self {
        Self {
            timeout: TIMEOUT,
            wait: None,
            concurrency: AT_ONCE,
            prefix: String::new(),
            given: BTreeMap::new(),
        }
    }
}

impl ExecOptions {
    /// Is it an option of such a URL?
    #[must_use]
    pub fn knows(key: &str) -> bool {
        key.starts_with(GIVEN) || OPTIONS.contains(&key)
    }

    /// Sets one option.
    ///
    /// # Errors
    /// What is wrong with it, and the way out.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        if let Some(name) = key.strip_prefix(GIVEN) {
            return self.give(name, value);
        }
        match key {
            "timeout" => self.timeout = time(value)?,
            "wait" => self.wait = Some(time(value)?),
            "prefix" => self.prefix = prefix(value)?,
            _ => {
                let number = value.parse().ok();
                let bad = || format!("write a number from 1 to {AT_ONCE_MOST}");
                self.concurrency = number
                    .filter(|n| (1..=AT_ONCE_MOST).contains(n))
                    .ok_or_else(bad)?;
            }
        }
        Ok(())
    }

    fn give(&mut self, name: &str, value: &str) -> Result<(), String> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
        if !starts || !name.bytes().all(fits) || name.len() > NAME_MOST {
            return Err("a name is a letter a-z, then a-z, 0-9 and -".to_owned());
        }
        if RESERVED.contains(&name) {
            return Err("Cairn says that itself; choose another name".to_owned());
        }
        if value.len() > VALUE_MOST || value.contains('\0') {
            return Err(format!(
                "a value is at most {VALUE_MOST} bytes, none of them zero"
            ));
        }
        self.given.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// The variables that the program gets for what was given.
    pub(super) fn variables(&self) -> impl Iterator<Item = (String, &str)> {
        self.given.iter().map(|(name, value)| {
            let name = name.to_ascii_uppercase().replace('-', "_");
            (format!("CAIRN_TIER_{name}"), value.as_str())
        })
    }
}

fn time(value: &str) -> Result<Duration, String> {
    let time = units::parse_duration(value).map_err(|e| e.to_string())?;
    if time < Duration::from_millis(100) || time > TIMEOUT_MOST {
        return Err("write a time from 100ms to 7d".to_owned());
    }
    Ok(time)
}

fn prefix(value: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let good = value.starts_with(|c: char| c.is_ascii_lowercase())
        && value.ends_with('-')
        && value.len() <= PREFIX_MOST
        && value.bytes().all(fits);
    if !good {
        return Err(
            "a letter a-z, then a-z, 0-9 and -, with - at its end: prefix=near-".to_owned(),
        );
    }
    if value.contains(super::protocol::TEMPORARY) {
        return Err("tmp- marks what is being written; choose another".to_owned());
    }
    Ok(value.to_owned())
}

impl fmt::Display for ExecOptions {
    /// What parses back to this; empty for the default.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = Self::default();
        let mut said = Vec::new();
        if self.timeout != plain.timeout {
            said.push(format!("timeout={}", units::format_duration(self.timeout)));
        }
        if let Some(wait) = self.wait {
            said.push(format!("wait={}", units::format_duration(wait)));
        }
        if self.concurrency != plain.concurrency {
            said.push(format!("concurrency={}", self.concurrency));
        }
        if !self.prefix.is_empty() {
            said.push(format!("prefix={}", self.prefix));
        }
        for (name, value) in &self.given {
            let value = encode(value.as_bytes()).replace('&', "%26");
            said.push(format!("{GIVEN}{name}={value}"));
        }
        f.write_str(&said.join("&"))
    }
}
