//! Which addresses may be dialled: an advertised address is not believed, or it is a bounce attack.
//!
//! Invariants kept here (protocol P15): only the peer of the control connection, or a network
//! that the administrator listed; port 1024 or above; loopback and link-local addresses only for a
//! peer that is there itself; never an address that is no host's.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// A network in CIDR notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no network: write 192.0.2.0/24 or 2001:db8::/32")]
pub struct NetworkFault(String);

impl Network {
    /// Does `address` lie in it? Addresses of the other family never do.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(a)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix));
                (net.to_bits() ^ a.to_bits()) & mask.unwrap_or(0) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(a)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix));
                (net.to_bits() ^ a.to_bits()) & mask.unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Network {
    type Err = NetworkFault;

    fn from_str(text: &str) -> Result<Self, NetworkFault> {
        let fault = || NetworkFault(text.to_owned());
        let (address, prefix) = text
            .split_once('/')
            .map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| fault())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(most), |p| p.parse().map_err(|_| fault()))?;
        if prefix > most {
            return Err(fault());
        }
        Ok(Self { address, prefix })
    }
}

/// Why an address is not dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Below 1024 stand services of other people.
    #[error("port {0} is below 1024")]
    Port(u16),
    /// Unspecified, multicast or broadcast.
    #[error("{0} is no host's address")]
    NoHost(IpAddr),
    /// Loopback or link-local, and the peer is not there.
    #[error("{0} is loopback or link-local, and the control connection does not come from there")]
    Near(IpAddr),
    /// Neither the peer nor in a network that was listed.
    #[error(
        "{0} is neither the other end of the control connection nor in a network that was listed"
    )]
    ThirdParty(IpAddr),
}

/// The rule of one control connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialRule {
    peer: IpAddr,
    networks: Vec<Network>,
}

impl DialRule {
    /// Only `peer`, the other end of the control connection (of a Unix socket: a loopback
    /// address), and the `networks` that the administrator listed.
    #[must_use]
    pub fn new(peer: IpAddr, networks: Vec<Network>) -> Self {
        let peer = peer.to_canonical();
        Self { peer, networks }
    }

    /// May `target` be dialled? Judge addresses, after names were resolved, and dial what was judged.
    ///
    /// # Errors
    /// [`Refused`] says why not.
    pub fn permits(&self, target: SocketAddr) -> Result<(), Refused> {
        let address = target.ip().to_canonical();
        if target.port() < 1024 {
            return Err(Refused::Port(target.port()));
        }
        let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
        if address.is_unspecified() || address.is_multicast() || broadcast {
            return Err(Refused::NoHost(address));
        }
        if is_near(address) && !(is_near(self.peer) && is_loopback_like(self.peer, address)) {
            return Err(Refused::Near(address));
        }
        let listed = self.networks.iter().any(|n| n.contains(address));
        let both_loopback = address.is_loopback() && self.peer.is_loopback();
        if address == self.peer || both_loopback || listed {
            return Ok(());
        }
        Err(Refused::ThirdParty(address))
    }
}

/// Loopback or link-local.
fn is_near(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(a) => a.is_link_local() || a.octets()[0] == 0,
        IpAddr::V6(a) => a.is_unicast_link_local(),
    };
    address.is_loopback() || link_local
}

/// Both loopback, or both link-local.
fn is_loopback_like(a: IpAddr, b: IpAddr) -> bool {
    a.is_loopback() == b.is_loopback()
}

impl fmt::Display for DialRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {} networks", self.peer, self.networks.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(peer: &str, networks: &[&str], target: &str) -> Result<(), Refused> {
        let networks = networks.iter().map(|n| n.parse().unwrap()).collect();
        DialRule::new(peer.parse().unwrap(), networks).permits(target.parse().unwrap())
    }

    #[test]
    fn the_peer_and_listed_networks_are_dialled_and_third_parties_are_not() {
        let net = ["198.51.100.0/24", "2001:db8::/32"];
        assert_eq!(verdict("192.0.2.1", &net, "192.0.2.1:7000"), Ok(()));
        assert_eq!(verdict("::ffff:192.0.2.1", &net, "192.0.2.1:7000"), Ok(()));
        assert_eq!(
            verdict("192.0.2.1", &net, "[::ffff:192.0.2.1]:7000"),
            Ok(())
        );
        assert_eq!(verdict("192.0.2.1", &net, "198.51.100.255:7000"), Ok(()));
        assert_eq!(verdict("192.0.2.1", &net, "[2001:db8:9::1]:7000"), Ok(()));
        for third in ["192.0.2.2:7000", "198.51.101.0:7000", "[2001:db9::1]:7000"] {
            let refused = verdict("192.0.2.1", &net, third);
            assert!(matches!(refused, Err(Refused::ThirdParty(_))), "{third}");
        }
    }

    #[test]
    fn services_and_addresses_of_nobody_are_never_dialled() {
        let all = ["0.0.0.0/0", "::/0"];
        let port = verdict("192.0.2.1", &all, "192.0.2.1:1023");
        assert_eq!(port, Err(Refused::Port(1023)));
        for nobody in [
            "0.0.0.0:7000",
            "224.0.0.1:7000",
            "255.255.255.255:7000",
            "[::]:7000",
        ] {
            let refused = verdict("192.0.2.1", &all, nobody);
            assert!(matches!(refused, Err(Refused::NoHost(_))), "{nobody}");
        }
    }

    #[test]
    fn near_addresses_are_for_near_peers() {
        let all = ["0.0.0.0/0", "::/0"];
        for near in [
            "127.0.0.1:7000",
            "[::1]:7000",
            "169.254.1.1:7000",
            "[fe80::1]:7000",
            "0.1.2.3:7000",
            "[::ffff:127.0.0.1]:7000",
        ] {
            let refused = verdict("192.0.2.1", &all, near);
            assert!(matches!(refused, Err(Refused::Near(_))), "{near}");
        }
        assert_eq!(verdict("127.0.0.1", &[], "127.0.0.1:7000"), Ok(()));
        assert_eq!(verdict("::1", &[], "127.0.0.1:7000"), Ok(()));
        let other = verdict("127.0.0.1", &[], "169.254.1.1:7000");
        assert!(matches!(other, Err(Refused::Near(_))));
        assert_eq!(verdict("169.254.1.1", &[], "169.254.1.1:7000"), Ok(()));
    }

    #[test]
    fn networks_are_written_in_cidr() {
        let network = |t: &str| t.parse::<Network>();
        assert!(
            network("10.0.0.0/8")
                .unwrap()
                .contains("10.255.0.1".parse().unwrap())
        );
        assert!(
            network("0.0.0.0/0")
                .unwrap()
                .contains("10.255.0.1".parse().unwrap())
        );
        assert!(
            !network("10.1.2.3")
                .unwrap()
                .contains("10.1.2.4".parse().unwrap())
        );
        for bad in ["10.0.0.0/33", "10.0.0/8", "x", "::/129", "10.0.0.0/"] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }
}
