//! A host as somebody must dial it: an address or a name.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An address, or a name that whoever dials resolves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// IPv4 or IPv6.
    Address(IpAddr),
    /// 1 to 253 characters: letters, digits, `-`, `_`, `.`.
    Name(String),
}

/// A text is no host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no host name or address")]
pub struct HostFault(pub String);

impl FromStr for Host {
    type Err = HostFault;

    /// An address, IPv6 with or without brackets, or a name.
    fn from_str(text: &str) -> Result<Self, HostFault> {
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(text).parse() {
            return Ok(Self::Address(address));
        }
        let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        let named = (1..=253).contains(&text.len()) && text.bytes().all(good);
        // All digits and dots is an address with a slip in it, and would be resolved as one.
        let slip = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if !named || slip || text.starts_with(['-', '.']) {
            return Err(HostFault(text.to_owned()));
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl fmt::Display for Host {
    /// IPv6 in brackets, so that a port can follow.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(address) => write!(f, "{address}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}
