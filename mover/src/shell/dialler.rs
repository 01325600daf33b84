//! The end that dials: addresses that the rule permits, one stream after the other.
//!
//! Invariant kept here: what is dialled is an address that the rule judged, not a name that is
//! resolved once more.

use super::error::Error;
use super::stream::{Stream, dial};
use crate::dial_rule::DialRule;
use crate::handshake::Terms;
use crate::iod::{Host, Iod};
use crate::secret::{Secret, StreamIndex};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// How many ports of one host are tried for a stream before the next host is.
const TRIES: usize = 2;

/// Dials the places of one descriptor.
#[derive(Debug, Clone)]
pub struct Dialler {
    secret: Secret,
    terms: Terms,
    /// One list of a host's ports for each address, in order of preference.
    targets: Vec<Vec<SocketAddr>>,
}

impl Dialler {
    /// Resolves the descriptor's names, and leaves out what `rule` does not permit.
    ///
    /// # Errors
    /// [`Error::Refused`] if nothing is left, [`Error::Resolve`] if no name has an address.
    pub async fn new(iod: &Iod, rule: &DialRule) -> Result<Self, Error> {
        let (mut targets, mut last) = (Vec::new(), None);
        for place in &iod.places {
            let ports: Vec<u16> = place.each_port().collect();
            let addresses = match resolve(&place.host).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            };
            for host in addresses {
                let mut permitted = Vec::new();
                for port in &ports {
                    let address = SocketAddr::new(host.ip(), *port);
                    match rule.permits(address) {
                        Ok(()) => permitted.push(address),
                        Err(why) => {
                            tracing::warn!(transfer = %iod.transfer, %address, %why, "not dialled");
                            last = Some(Error::Refused { address, why });
                        }
                    }
                }
                if !permitted.is_empty() {
                    targets.push(permitted);
                }
            }
        }
        if targets.is_empty() {
            // A descriptor has at least one place with a port, so something went wrong with it.
            return Err(last.unwrap_or(Error::Iod(crate::iod::IodFault::Field("places"))));
        }
        Ok(Self {
            secret: iod.secret.clone(),
            terms: Terms::of(iod),
            targets,
        })
    }

    /// Dials stream `index`: its port of the first host, and if that fails the next ones.
    pub(crate) async fn stream(self, index: StreamIndex, limit: Duration) -> Result<Stream, Error> {
        let mut last = None;
        for ports in &self.targets {
            for n in 0..ports.len().min(TRIES) {
                let address = ports[(usize::from(index.0) + n) % ports.len()];
                match dial(address, self.secret.clone(), self.terms, index, limit).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = Some(error),
                }
            }
        }
        Err(last.unwrap_or(Error::Iod(crate::iod::IodFault::Field("places"))))
    }
}

async fn resolve(host: &Host) -> Result<Vec<SocketAddr>, Error> {
    let name = match host {
        Host::Address(address) => return Ok(vec![SocketAddr::new(*address, 0)]),
        Host::Name(name) => name,
    };
    let failed = |source| Error::Resolve {
        host: host.clone(),
        source,
    };
    let found = tokio::net::lookup_host((name.as_str(), 0)).await;
    let found: Vec<_> = found.map_err(failed)?.collect();
    if found.is_empty() {
        return Err(failed(io::ErrorKind::NotFound.into()));
    }
    Ok(found)
}
