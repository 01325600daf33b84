//! Port ranges: those a process binds, and the same as the world dials them.
//!
//! Invariants kept here: a range is not empty and begins at 1024 or above (the far side dials
//! nothing below); the two ranges of a [`PortMap`] have the same length.

use std::fmt;
use std::str::FromStr;

/// Ports from `first` to `last`, both included; 1024 or above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Why a text is no port range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortFault {
    /// It has another shape.
    #[error("`{0}` is no port range")]
    Shape(String),
    /// It ends before it begins.
    #[error("`{0}` ends before it begins")]
    Backwards(String),
    /// Ports that movers do not dial.
    #[error("`{0}` has ports below 1024, which are never dialled")]
    Reserved(String),
    /// The ranges of host and container differ in length.
    #[error("`{0}` maps a range onto one of another length")]
    Lengths(String),
}

impl PortRange {
    /// From `first` to `last`, both included.
    ///
    /// # Errors
    /// [`PortFault`] if it is backwards or has ports below 1024.
    pub fn new(first: u16, last: u16) -> Result<Self, PortFault> {
        if last < first {
            return Err(PortFault::Backwards(format!("{first}-{last}")));
        }
        if first < 1024 {
            return Err(PortFault::Reserved(format!("{first}-{last}")));
        }
        Ok(Self { first, last })
    }

    /// The lowest port.
    #[must_use]
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    #[must_use]
    pub fn last(self) -> u16 {
        self.last
    }

    /// How many ports; at least 1.
    #[must_use]
    pub fn count(self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// All its ports, from the one at `start` (modulo the length) on and around.
    pub fn from_place(self, start: usize) -> impl Iterator<Item = u16> {
        let count = self.count();
        // The sum stays below `last`, so it fits.
        (0..count).map(move |n| self.first + ((start % count + n) % count) as u16)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = PortFault;

    /// `7000-7009`, or one port alone.
    fn from_str(text: &str) -> Result<Self, PortFault> {
        let shape = || PortFault::Shape(text.to_owned());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |t: &str| {
            let t = t.trim();
            let digits = !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| t.parse::<u16>().ok()).flatten()
        };
        let (first, last) = (
            port(first).ok_or_else(shape)?,
            port(last).ok_or_else(shape)?,
        );
        Self::new(first, last)
    }
}

/// A range that a process binds, and the range that the world dials to get there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortMap {
    host: PortRange,
    bind: PortRange,
}

impl PortMap {
    /// The world dials `host`, and gets to `bind`, port by port.
    ///
    /// # Errors
    /// [`PortFault::Lengths`] if they are not of one length.
    pub fn new(host: PortRange, bind: PortRange) -> Result<Self, PortFault> {
        if host.count() != bind.count() {
            return Err(PortFault::Lengths(format!("{host}:{bind}")));
        }
        Ok(Self { host, bind })
    }

    /// The world dials what is bound.
    #[must_use]
    pub fn same(range: PortRange) -> Self {
        Self {
            host: range,
            bind: range,
        }
    }

    /// The range to bind.
    #[must_use]
    pub fn bind(self) -> PortRange {
        self.bind
    }

    /// The range that is dialled.
    #[must_use]
    pub fn host(self) -> PortRange {
        self.host
    }

    /// What is dialled to get to `bound`; nothing if that is not in the range.
    #[must_use]
    pub fn advertised(self, bound: u16) -> Option<u16> {
        let inside = (self.bind.first..=self.bind.last).contains(&bound);
        inside.then(|| self.host.first + (bound - self.bind.first))
    }
}

impl fmt::Display for PortMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host == self.bind {
            return write!(f, "{}", self.bind);
        }
        write!(f, "{}:{}", self.host, self.bind)
    }
}

impl FromStr for PortMap {
    type Err = PortFault;

    /// `7000-7009`, or `7010-7019:7000-7009` (host:container, as container engines write it).
    fn from_str(text: &str) -> Result<Self, PortFault> {
        let text = text.trim();
        let (host, bind) = text.split_once(':').unwrap_or((text, text));
        let map = Self::new(host.parse()?, bind.parse()?);
        map.map_err(|_| PortFault::Lengths(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_port_is_advertised_as_its_host_port() {
        let map: PortMap = "7010-7019:7000-7009".parse().unwrap();
        assert_eq!(map.advertised(7003), Some(7013));
        assert_eq!(map.advertised(7010), None);
        assert_eq!(map.to_string(), "7010-7019:7000-7009");
        let same: PortMap = " 7000-7009".parse().unwrap();
        assert_eq!(same.advertised(7009), Some(7009));
        assert_eq!("7000".parse::<PortMap>().unwrap().bind().count(), 1);
    }

    #[test]
    fn what_is_no_range_is_said() {
        let fault = |t: &str| t.parse::<PortMap>().unwrap_err();
        assert!(matches!(fault("7000-"), PortFault::Shape(_)));
        assert!(matches!(fault("+7000"), PortFault::Shape(_)));
        assert!(matches!(fault("70000-70001"), PortFault::Shape(_)));
        assert!(matches!(fault("7009-7000"), PortFault::Backwards(_)));
        assert!(matches!(fault("80-90"), PortFault::Reserved(_)));
        let lengths = fault("7010-7019:7000-7008");
        assert_eq!(
            lengths.to_string(),
            "`7010-7019:7000-7008` maps a range onto one of another length"
        );
    }

    #[test]
    fn a_walk_around_the_range_has_every_port_once() {
        let range: PortRange = "65530-65535".parse().unwrap();
        let mut ports: Vec<u16> = range.from_place(4).collect();
        assert_eq!(ports[0], 65534);
        assert_eq!(ports[2], 65530);
        ports.sort_unstable();
        assert_eq!(ports, (65530..=65535).collect::<Vec<_>>());
    }
}
