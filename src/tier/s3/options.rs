//! What an S3 URL says: `s3://BUCKET/PREFIX?endpoint=URL&region=R&storage-class=C&...`.
//!
//! Promise: there is no place for a secret in it. Credentials come from where the AWS command line
//! takes them, too; a URL that holds any is refused, and the error does not repeat them.

use crate::config::{hint, units};
use crate::tier::url::{decode, encode};
use std::fmt;
use std::num::NonZeroU16;

/// Names of the options.
pub const OPTIONS: [&str; 8] = [
    "endpoint",
    "region",
    "storage-class",
    "restore-tier",
    "restore-days",
    "part-size",
    "connections",
    "path-style",
];

/// Amazon's storage classes (API reference, PutObject). Other services have their own.
pub const CLASSES: [&str; 10] = [
    "STANDARD",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER_IR",
    "GLACIER",
    "DEEP_ARCHIVE",
    "REDUCED_REDUNDANCY",
    "EXPRESS_ONEZONE",
    "OUTPOSTS",
];

/// A key has at most 1024 bytes; what Cairn puts behind the prefix needs some 70 of them.
const PREFIX_MOST: usize = 900;
/// The service takes no shorter part but as the last one.
pub const PART_LEAST: u64 = 5 << 20;
/// Twelve parts are in memory at once.
const PART_MOST: u64 = 256 << 20;
const CONNECTIONS: u16 = 256;
/// Longer than any project: a restored copy is paid for by the day.
const DAYS: u16 = 365;

/// How fast an archived object is to be brought back, and at what price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreTier {
    /// Cheapest, up to two days.
    Bulk,
    /// Hours.
    Standard,
    /// Minutes; not of DEEP_ARCHIVE.
    Expedited,
}

impl RestoreTier {
    const ALL: [Self; 3] = [Self::Bulk, Self::Standard, Self::Expedited];

    /// The word in a URL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bulk => "bulk",
            Self::Standard => "standard",
            Self::Expedited => "expedited",
        }
    }
}

/// A place in a bucket, and how it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Place {
    /// The bucket.
    pub bucket: String,
    /// What the keys of all objects begin with, without slashes at its ends; empty: the bucket is the tier's alone.
    pub prefix: String,
    /// `http(s)://HOST[:PORT]`; `None`: Amazon's of the region.
    pub endpoint: Option<String>,
    /// `None`: what the environment or the profile says.
    pub region: Option<String>,
    /// Class of new objects; `None`: the bucket's.
    pub storage_class: Option<String>,
    /// How archived objects are brought back; `None`: standard.
    pub restore_tier: Option<RestoreTier>,
    /// Days that a restored copy stays.
    pub restore_days: Option<NonZeroU16>,
    /// Bytes of a part of an object of usual length, 5 MiB to 256 MiB.
    pub part_size: u64,
    /// Requests at once, 1 to 256.
    pub connections: u16,
    /// The bucket stands in the path, not in the host's name; `None`: where there is an endpoint.
    pub path_style: Option<bool>,
}

impl S3Place {
    /// 8 MiB: enough to keep a connection busy, small enough to have many in memory.
    pub const PART_SIZE: u64 = 8 << 20;
    /// Long enough for a project to read what it asked for, if the URL does not say.
    pub const RESTORE_DAYS: u16 = 7;
    /// Requests at once, if the URL does not say.
    pub const CONNECTIONS: u16 = 16;

    /// The place that stands behind `s3:` and before `?`.
    ///
    /// # Errors
    /// What is wrong, and the way out.
    pub(in crate::tier) fn parse(text: &str) -> Result<Self, String> {
        let whole = text
            .strip_prefix("//")
            .ok_or("write s3://BUCKET/PREFIX, as in s3://archive/cairn")?;
        let (bucket, prefix) = whole.split_once('/').unwrap_or((whole, ""));
        if bucket.contains('@') {
            return Err(NO_SECRETS.to_owned());
        }
        check_bucket(bucket)?;
        let prefix = String::from_utf8(decode(prefix)?)
            .map_err(|_| "the prefix is not UTF-8, as keys must be".to_owned())?;
        let prefix = prefix.strip_suffix('/').unwrap_or(&prefix).to_owned();
        check_prefix(&prefix)?;
        Ok(Self {
            bucket: bucket.to_owned(),
            prefix,
            endpoint: None,
            region: None,
            storage_class: None,
            restore_tier: None,
            restore_days: None,
            part_size: Self::PART_SIZE,
            connections: Self::CONNECTIONS,
            path_style: None,
        })
    }

    /// Sets one option.
    ///
    /// # Errors
    /// What is wrong with the value, and what could stand there.
    pub(in crate::tier) fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "endpoint" => self.endpoint = Some(endpoint(value)?),
            "region" => self.region = Some(region(value)?),
            "storage-class" => self.storage_class = Some(class(value)?),
            "restore-tier" => {
                let found = RestoreTier::ALL.into_iter().find(|t| t.as_str() == value);
                let known = RestoreTier::ALL.map(RestoreTier::as_str);
                let unknown = || format!("unknown {value:?}{}", hint(value, &known));
                self.restore_tier = Some(found.ok_or_else(unknown)?);
            }
            "restore-days" => {
                let days = number(value, DAYS)?;
                self.restore_days = NonZeroU16::new(days);
            }
            "part-size" => {
                let size = units::parse_size(value).map_err(|e| e.to_string())?;
                if !(PART_LEAST..=PART_MOST).contains(&size) {
                    let why = "must be from 5MiB (the service takes no shorter part) to 256MiB";
                    return Err(why.to_owned());
                }
                self.part_size = size;
            }
            "connections" => self.connections = number(value, CONNECTIONS)?,
            "path-style" => {
                self.path_style = Some(match value {
                    "true" => true,
                    "false" => false,
                    _ => return Err("write true or false".to_owned()),
                });
            }
            // The caller knows `OPTIONS`.
            _ => return Err("unknown".to_owned()),
        }
        Ok(())
    }

    /// Do these options go together?
    ///
    /// # Errors
    /// The option that does not, and why.
    pub(in crate::tier) fn check(&self) -> Result<(), (&'static str, String)> {
        if let (Some(class), None) = (self.storage_class.as_deref(), &self.endpoint)
            && !CLASSES.contains(&class)
        {
            let why = format!("unknown {class:?}{}", hint(class, &CLASSES));
            return Err(("storage-class", why));
        }
        if self.restore_tier == Some(RestoreTier::Expedited)
            && self.storage_class.as_deref() == Some("DEEP_ARCHIVE")
        {
            let why = "DEEP_ARCHIVE has no expedited retrieval: standard or bulk";
            return Err(("restore-tier", why.to_owned()));
        }
        Ok(())
    }

    /// Days that a restored copy stays.
    #[must_use]
    pub fn days(&self) -> u16 {
        self.restore_days
            .map_or(Self::RESTORE_DAYS, NonZeroU16::get)
    }

    /// The bucket is named in the path of a request, not in its host.
    #[must_use]
    pub fn has_path_style(&self) -> bool {
        self.path_style.unwrap_or(self.endpoint.is_some())
    }

    /// Which service it is.
    #[must_use]
    pub(in crate::tier) fn service(&self) -> &str {
        self.endpoint.as_deref().unwrap_or("amazon")
    }

    /// What no two tiers may share: service, bucket and prefix, and nothing of how they are used.
    #[must_use]
    pub(in crate::tier) fn key(&self) -> String {
        let service = self.service();
        format!("s3 {service} {}/{}", self.bucket, self.prefix)
    }
}

/// A prefix within another.
pub(in crate::tier) fn below(prefix: &str, name: &str) -> String {
    match prefix {
        "" => name.to_owned(),
        prefix => format!("{prefix}/{name}"),
    }
}

const NO_SECRETS: &str = "credentials do not belong into a URL, which is shown and kept. Set AWS_ACCESS_KEY_ID and \
                          AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or use the role of the machine";

/// The same text without what may be a secret: for errors.
pub(in crate::tier) fn without_secrets(url: &str) -> String {
    let (place, options) = url
        .split_once('?')
        .map_or((url, None), |(p, o)| (p, Some(o)));
    let hide = |text: &str| match text.rsplit_once('@') {
        Some((_, host)) => format!("***@{host}"),
        None => text.to_owned(),
    };
    let mut out = hide(place);
    for (n, option) in options.into_iter().flat_map(|o| o.split('&')).enumerate() {
        out.push(if n == 0 { '?' } else { '&' });
        match option.split_once('=') {
            Some(("endpoint", value)) => {
                out.push_str("endpoint=");
                out.push_str(&hide(value));
            }
            Some((key, _)) if !OPTIONS.contains(&key) => {
                out.push_str(key);
                out.push_str("=***");
            }
            _ => out.push_str(option),
        }
    }
    out
}

/// What to say of an option that there is not.
pub(in crate::tier) fn unknown(key: &str) -> String {
    let lower = key.to_lowercase();
    let secret = [
        "key",
        "secret",
        "token",
        "password",
        "credential",
        "profile",
    ];
    if secret.iter().any(|word| lower.contains(word)) {
        return NO_SECRETS.to_owned();
    }
    format!("unknown{}", hint(key, &OPTIONS))
}

fn number(value: &str, most: u16) -> Result<u16, String> {
    match value.parse() {
        Ok(n) if (1..=most).contains(&n) => Ok(n),
        _ => Err(format!("{value:?} is no number from 1 to {most}")),
    }
}

/// Amazon's rules since 2018, and what other services and older buckets have beyond them.
fn check_bucket(bucket: &str) -> Result<(), String> {
    if bucket.is_empty() {
        return Err("the bucket is missing; write s3://BUCKET/PREFIX".to_owned());
    }
    let good = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = bucket.as_bytes();
    if !(3..=63).contains(&bytes.len())
        || !bytes.iter().all(|b| good(*b))
        || !ends(bytes.first())
        || !ends(bytes.last())
        || bucket.contains("..")
    {
        return Err(format!(
            "{bucket:?} is no name of a bucket: 3 to 63 letters, digits, - . and _"
        ));
    }
    Ok(())
}

fn check_prefix(prefix: &str) -> Result<(), String> {
    if prefix.len() > PREFIX_MOST {
        return Err(format!("the prefix has more than {PREFIX_MOST} bytes"));
    }
    // Listings are XML, which has no way to write them.
    if prefix.chars().any(char::is_control) {
        return Err("the prefix holds a control character".to_owned());
    }
    // Clients and proxies clean such paths up, each in its own way: keys would not be found again.
    if !prefix.is_empty() && prefix.split('/').any(|p| matches!(p, "" | "." | "..")) {
        return Err("the prefix holds \"//\", \"/./\" or \"/../\"; write it without".to_owned());
    }
    Ok(())
}

fn endpoint(value: &str) -> Result<String, String> {
    const WAY: &str = "write endpoint=https://HOST or endpoint=http://HOST:PORT";
    let value = value.strip_suffix('/').unwrap_or(value);
    let (scheme, host) = value.split_once("://").ok_or(WAY)?;
    if !matches!(scheme, "http" | "https") {
        return Err(format!("unknown {scheme:?}; {WAY}"));
    }
    if host.contains('@') {
        return Err(NO_SECRETS.to_owned());
    }
    let (name, port) = match host.rsplit_once(':') {
        // The colons of an IPv6 address stand within brackets.
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-._[]:".contains(&b);
    let is_port = |p: &str| p.parse::<u16>().is_ok_and(|p| p > 0);
    if name.is_empty() || !name.bytes().all(good) || !port.is_none_or(is_port) {
        return Err(format!("{host:?} is no host; {WAY}"));
    }
    Ok(format!("{scheme}://{}", host.to_ascii_lowercase()))
}

fn region(value: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if value.is_empty() || value.len() > 64 || !value.bytes().all(good) {
        return Err(format!("{value:?} is no region; as in eu-central-1"));
    }
    Ok(value.to_owned())
}

fn class(value: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if value.is_empty() || value.len() > 64 || !value.bytes().all(good) {
        return Err(format!(
            "{value:?} is no storage class{}",
            hint(value, &CLASSES)
        ));
    }
    // Amazon's are written in capitals; another service's may be anything.
    let amazon = CLASSES.into_iter().find(|c| c.eq_ignore_ascii_case(value));
    Ok(amazon.unwrap_or(value).to_owned())
}

impl fmt::Display for S3Place {
    /// What stands behind `s3:`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "//{}", self.bucket)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", encode(self.prefix.as_bytes()))?;
        }
        let size = |s: u64| (s != Self::PART_SIZE).then(|| units::format_size(s));
        let count = |c: u16| (c != Self::CONNECTIONS).then(|| c.to_string());
        let options = [
            ("endpoint", self.endpoint.clone()),
            ("region", self.region.clone()),
            ("storage-class", self.storage_class.clone()),
            (
                "restore-tier",
                self.restore_tier.map(|t| t.as_str().to_owned()),
            ),
            ("restore-days", self.restore_days.map(|d| d.to_string())),
            ("part-size", size(self.part_size)),
            ("connections", count(self.connections)),
            ("path-style", self.path_style.map(|p| p.to_string())),
        ];
        let given = options.into_iter().filter_map(|(k, v)| Some((k, v?)));
        for (n, (key, value)) in given.enumerate() {
            write!(f, "{}{key}={value}", if n == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
