//! Tier URLs: `dir:/path[?option=value&...]`, `tape:/path[?option=value&...]`,
//! `s3://bucket/prefix[?option=value&...]`, `exec:/program[?option=value&...]`, `mover:name[?option=value&...]`.
//!
//! In the path and in values `%XX` stands for one byte, so that any path can be written; `?`, `%`
//! and, in values, `&` must be. Every error names the part that is wrong and what was meant.

use super::exec::{self, ExecOptions};
use super::mover::{self, MoverOptions};
use super::s3::options::{self as s3, S3Place};
use super::tape::options::{OPTIONS as TAPE_OPTIONS, TapeOptions};
use super::throttle::Pace;
use crate::config::{hint, units};
use crate::id::TierId;
use cairn_mover::Crc32c;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

/// A parsed tier URL. It holds no secrets: printing it is safe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TierUrl {
    /// `dir:/path`.
    Dir {
        /// Absolute path of the tier's root.
        path: PathBuf,
        /// `rate=` and `delay=`.
        pace: Pace,
    },
    /// `tape:/path`: a tape library, virtual unless it names a changer.
    Tape {
        /// Absolute path of the library's root.
        path: PathBuf,
        /// How it is equipped.
        options: TapeOptions,
    },
    /// `s3://bucket/prefix`: a place in a bucket.
    S3(Box<S3Place>),
    /// `exec:/program`: a place that a program of the site keeps.
    Exec {
        /// Absolute path of the program.
        program: PathBuf,
        /// How it is used.
        options: Box<ExecOptions>,
    },
    /// `mover:name`: what the mover of that name keeps on its host.
    Mover {
        /// Its name, by its token.
        name: String,
        /// How it is used.
        options: MoverOptions,
    },
}

/// Text that is no tier URL of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tier URL {url:?}, {part}: {why}")]
pub struct UrlError {
    /// The URL as given.
    pub url: String,
    /// The part that is wrong: `kind`, `path`, or `option NAME`.
    pub part: String,
    /// What is wrong, and the way out.
    pub why: String,
}

const BUILT: [&str; 5] = ["dir", "tape", "s3", "exec", "mover"];
const DIR_OPTIONS: [&str; 2] = ["rate", "delay"];

impl FromStr for TierUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let fail = |part: &str, why: String| UrlError {
            url: match text.split_once(':') {
                Some(("s3", _)) => s3::without_secrets(text),
                _ => text.to_owned(),
            },
            part: part.to_owned(),
            why,
        };
        let Some((kind, rest)) = text.split_once(':') else {
            let why = format!("missing; write KIND:PLACE, for example dir:{text}");
            return Err(fail("kind", why));
        };
        if !BUILT.contains(&kind) {
            let why = format!("unknown kind {kind:?}{}", hint(kind, &BUILT));
            return Err(fail("kind", why));
        }
        let (path, options) = match rest.split_once('?') {
            Some((path, options)) => (path, Some(options)),
            None => (rest, None),
        };
        let place = Self::of_place(kind, path);
        let mut url = place.map_err(|why| fail("path", why))?;
        let mut seen = Vec::new();
        for option in options.into_iter().flat_map(|o| o.split('&')) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let part = format!("option {key}");
            if !url.knows(key) {
                return Err(fail(&part, url.unknown(key)));
            }
            if seen.contains(&key) {
                return Err(fail(&part, "given twice".to_owned()));
            }
            seen.push(key);
            url.set_option(key, value).map_err(|why| fail(&part, why))?;
        }
        let checked = match &url {
            Self::Tape { options, .. } => options.check(&seen),
            Self::S3(place) => place.check(),
            Self::Dir { .. } | Self::Exec { .. } | Self::Mover { .. } => Ok(()),
        };
        checked.map_err(|(key, why)| fail(&format!("option {key}"), why))?;
        Ok(url)
    }
}

impl TierUrl {
    /// The place alone, used as it is where nothing is said.
    fn of_place(kind: &str, text: &str) -> Result<Self, String> {
        if kind == "s3" {
            return Ok(Self::S3(Box::new(S3Place::parse(text)?)));
        }
        if kind == "mover" {
            mover::check_name(text)?;
            return Ok(Self::Mover {
                name: text.to_owned(),
                options: MoverOptions::default(),
            });
        }
        let path = check_path(decode(text)?)?;
        Ok(match kind {
            "tape" => Self::Tape {
                path,
                options: TapeOptions::default(),
            },
            "exec" => Self::Exec {
                program: path,
                options: Box::default(),
            },
            _ => Self::Dir {
                path,
                pace: Pace::default(),
            },
        })
    }

    /// The number of such a tier, where its URL says it: a mover's place cannot be asked for its mark before it comes,
    /// and is to have the same number if the catalog is lost.
    #[must_use]
    pub fn number(&self) -> Option<TierId> {
        match self {
            Self::Mover { name, .. } => {
                let sum = Crc32c::of(format!("mover:{name}").as_bytes()).0;
                Some(TierId(sum.max(1)))
            }
            Self::Dir { .. } | Self::Tape { .. } | Self::S3(_) | Self::Exec { .. } => None,
        }
    }

    /// The directory of the tier, where it lies in one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Dir { path, .. } | Self::Tape { path, .. } => Some(path),
            Self::S3(_) | Self::Exec { .. } | Self::Mover { .. } => None,
        }
    }

    /// The file or directory of this host without which the tier is of no use.
    #[must_use]
    pub fn needs(&self) -> Option<&Path> {
        match self {
            Self::Exec { program, .. } => Some(program),
            _ => self.path(),
        }
    }

    /// What no two tiers may share: the place of the tier's mark, without how it is used.
    #[must_use]
    pub fn place(&self) -> OsString {
        match self {
            Self::Dir { path, .. } => path.clone().into(),
            // Pools of one library lie apart.
            Self::Tape { path, options } => options.mark_dir(path).into(),
            Self::S3(place) => place.key().into(),
            Self::Mover { name, .. } => format!("mover:{name}").into(),
            Self::Exec { program, options } => {
                // One program may keep several places: those that it is told of, and prefixes in each.
                let place = ExecOptions {
                    prefix: options.prefix.clone(),
                    given: options.given.clone(),
                    ..ExecOptions::default()
                };
                let mut key = program.clone().into_os_string();
                key.push(format!("?{place}"));
                key
            }
        }
    }

    /// The same tier in another directory, where it lies in one.
    #[must_use]
    pub fn at(self, path: PathBuf) -> Self {
        match self {
            Self::Dir { pace, .. } => Self::Dir { path, pace },
            Self::Tape { options, .. } => Self::Tape { path, options },
            other @ (Self::S3(_) | Self::Exec { .. } | Self::Mover { .. }) => other,
        }
    }

    fn options(&self) -> &'static [&'static str] {
        match self {
            Self::Dir { .. } => &DIR_OPTIONS,
            Self::Tape { .. } => &TAPE_OPTIONS,
            Self::S3(_) => &s3::OPTIONS,
            Self::Exec { .. } => &exec::OPTIONS,
            Self::Mover { .. } => &mover::OPTIONS,
        }
    }

    fn knows(&self, key: &str) -> bool {
        match self {
            Self::Exec { .. } => ExecOptions::knows(key),
            _ => self.options().contains(&key),
        }
    }

    /// What to say of an option that this kind does not have.
    fn unknown(&self, key: &str) -> String {
        match self {
            Self::S3(_) => s3::unknown(key),
            _ => format!("unknown{}", hint(key, self.options())),
        }
    }

    fn set_option(&mut self, key: &str, value: &str) -> Result<(), String> {
        let bytes = decode(value)?;
        let value = String::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())?;
        match self {
            Self::Dir { pace, .. } => set_pace(pace, key, &value),
            Self::Tape { options, .. } => options.set(key, &value),
            Self::S3(place) => place.set(key, &value),
            Self::Exec { options, .. } => options.set(key, &value),
            Self::Mover { options, .. } => options.set(key, &value),
        }
    }
}

impl fmt::Display for TierUrl {
    /// The URL that parses back to this.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir { path, pace } => {
                f.write_str("dir:")?;
                f.write_str(&encode(path.as_os_str().as_bytes()))?;
                let rate = pace
                    .bytes_per_second
                    .map(|r| format!("rate={}/s", units::format_size(r.get())));
                let delay = (!pace.delay.is_zero())
                    .then(|| format!("delay={}", units::format_duration(pace.delay)));
                for (n, option) in rate.into_iter().chain(delay).enumerate() {
                    f.write_str(if n == 0 { "?" } else { "&" })?;
                    f.write_str(&option)?;
                }
                Ok(())
            }
            Self::Tape { path, options } => {
                write!(f, "tape:{}", encode(path.as_os_str().as_bytes()))?;
                with_options(f, &options.to_string())
            }
            Self::S3(place) => write!(f, "s3:{place}"),
            Self::Mover { name, options } => {
                write!(f, "mover:{name}")?;
                with_options(f, &options.to_string())
            }
            Self::Exec { program, options } => {
                write!(f, "exec:{}", encode(program.as_os_str().as_bytes()))?;
                with_options(f, &options.to_string())
            }
        }
    }
}

fn with_options(f: &mut fmt::Formatter<'_>, options: &str) -> fmt::Result {
    match options {
        "" => Ok(()),
        options => write!(f, "?{options}"),
    }
}

fn set_pace(pace: &mut Pace, key: &str, value: &str) -> Result<(), String> {
    if key == "delay" {
        pace.delay = units::parse_duration(value).map_err(|e| e.to_string())?;
        return Ok(());
    }
    let size = value.strip_suffix("/s").unwrap_or(value);
    let rate = units::parse_size(size).map_err(|e| format!("{e}; write rate=100MB/s"))?;
    pace.bytes_per_second = Some(
        rate.try_into()
            .map_err(|_| "a rate of 0 would never finish".to_owned())?,
    );
    Ok(())
}

fn check_path(bytes: Vec<u8>) -> Result<PathBuf, String> {
    let path = PathBuf::from(OsString::from_vec(bytes));
    if path.as_os_str().is_empty() {
        return Err("missing; write dir:/path".to_owned());
    }
    if !path.is_absolute() {
        return Err(format!(
            "must be absolute, {} is not (a daemon has no working directory to speak of)",
            path.display()
        ));
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return Err("holds a zero byte".to_owned());
    }
    if path.components().any(|c| c == Component::ParentDir) {
        return Err("holds \"..\"; write the place itself".to_owned());
    }
    // Trailing and doubled slashes go, so that equal places print equal.
    Ok(path.components().collect())
}

pub(super) fn decode(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
            return Err("% must be followed by two hex digits; write %25 for %".to_owned());
        };
        // Two hex digits fit a byte.
        out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
    }
    Ok(out)
}

pub(super) fn encode(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(bytes.len());
    // Writing into a String cannot fail.
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '%' || c == '?' || c.is_control() {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    let _ = write!(out, "%{byte:02X}");
                }
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests;
