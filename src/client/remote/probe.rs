//! Probes of the ways that streams can go, for `cairn doctor`: bytes of no file, received and forgotten.

use super::link::Link;
use super::session::Listening;
use crate::client::ClientError;
use crate::id::{bytes_of_hex, hex_of};
use crate::server::wire::{ProbeQuery, Probed};
use cairn_mover::{
    BLOCK_DEFAULT, ByteRange, DialRule, Dialler, Direction, Door, Host, Iod, Meter, Mode, Network,
    Options, Place, Progress, Protect, Secret, Sink, Streams, TransferId,
};
use hyper::Method;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

const ROUTE: &str = "/v1/remote/probe";
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(45);

/// How a way was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// The most streams at one time.
    pub streams: u64,
    /// Bytes per second.
    pub bytes_per_second: f64,
}

/// What is probed.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// Bytes.
    pub bytes: u64,
    /// Streams.
    pub streams: u16,
    /// How they are protected.
    pub protect: Protect,
}

struct Nowhere;

impl Sink for Nowhere {
    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

fn protect_word(protect: Protect) -> &'static str {
    match protect {
        Protect::None => "none",
        Protect::Sealed => "privacy",
    }
}

async fn receive(door: Door, iod: &Iod) -> Result<Rate, String> {
    let meter = Arc::<Meter>::default();
    let options = Options {
        streams: Streams::All,
        meter: Arc::clone(&meter),
        handshake: Duration::from_secs(5),
        patience: Duration::from_secs(10),
        ..Options::default()
    };
    let begun = Instant::now();
    let progress = Progress::new(&iod.version, iod.size);
    let received = cairn_mover::receive(door, iod, Arc::new(Nowhere), progress, &options);
    let received = timeout(PATIENCE, received).await;
    let received = received.map_err(|_| "it took too long".to_owned())?;
    received.map_err(|failed| failed.error.to_string())?;
    Ok(Rate {
        streams: meter.most() as u64,
        bytes_per_second: iod.size as f64 / begun.elapsed().as_secs_f64().max(1e-6),
    })
}

/// The server dials this end. The error says why not.
///
/// # Errors
/// The server was not to be asked.
pub async fn dialled(
    link: &mut Link,
    listening: &Listening,
    probe: Probe,
) -> Result<Result<Rate, String>, ClientError> {
    let transfer = TransferId::generate().map_err(ClientError::not_understood)?;
    let iod = Iod {
        transfer,
        secret: Secret::generate().map_err(ClientError::not_understood)?,
        direction: Direction::ToListener,
        mode: Mode::Parallel,
        protect: probe.protect,
        block: BLOCK_DEFAULT,
        streams: probe.streams.min(listening.listener.streams()).max(1),
        offer: 20,
        size: probe.bytes,
        version: transfer.0.to_vec(),
        places: listening.listener.places(&listening.hosts),
        ranges: ByteRange::new(0, probe.bytes).into_iter().collect(),
    };
    let expected = listening.listener.expect(&iod);
    let door = expected.map_err(ClientError::not_understood)?;
    let query = ProbeQuery {
        iod: Some(hex_of(&iod.encode().map_err(ClientError::not_understood)?)),
        bytes: probe.bytes,
        streams: probe.streams,
        protect: protect_word(probe.protect).to_owned(),
    };
    let mut asked = std::pin::pin!(link.ask::<Probed>(Method::POST, ROUTE, Some(&query)));
    let mut received = std::pin::pin!(receive(door, &iod));
    tokio::select! {
        answered = &mut asked => match answered {
            Ok(_) => Ok(received.await),
            Err(ClientError::Refused { message, .. }) => Ok(Err(message)),
            Err(error) => Err(error),
        },
        received = &mut received => match asked.await {
            Err(ClientError::Refused { message, .. }) => Ok(Err(message)),
            Err(error) => Err(error),
            Ok(_) => Ok(received),
        },
    }
}

/// This end dials.
///
/// # Errors
/// As [`dialled`].
pub async fn dialling(
    link: &mut Link,
    dial: &[Network],
    probe: Probe,
) -> Result<Result<Rate, String>, ClientError> {
    let query = ProbeQuery {
        iod: None,
        bytes: probe.bytes,
        streams: probe.streams,
        protect: protect_word(probe.protect).to_owned(),
    };
    let probed: Probed = link.ask(Method::POST, ROUTE, Some(&query)).await?;
    let text = probed.iod.unwrap_or_default();
    let bytes = bytes_of_hex(&text).ok_or_else(|| ClientError::not_understood("a descriptor"))?;
    let mut iod = Iod::decode(&bytes).map_err(ClientError::not_understood)?;
    if probed.here {
        let to = link.peer();
        iod.places = vec![Place::new(Host::Address(to.ip()), &[to.port()])];
    }
    let rule = DialRule::new(link.peer().ip(), dial.to_vec());
    match Dialler::new(&iod, &rule).await {
        Ok(dialler) => Ok(receive(Door::Dialling(dialler), &iod).await),
        Err(error) => Ok(Err(error.to_string())),
    }
}
